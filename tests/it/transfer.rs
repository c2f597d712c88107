//! An export beside a server that goes on.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex};

use async_trait::async_trait;
use futures_util::future::BoxFuture;

use tidings::clock::{Clock, SeededClock};
use tidings::domain::event::{
    Event, SecretRotated, SubscriptionCreated, SubscriptionEvent, TenantCreated, TenantEvent,
};
use tidings::domain::filter::Filter;
use tidings::domain::id::{SecretId, SubscriptionId, TenantId};
use tidings::domain::time::Timestamp;
use tidings::event_store::{Append, EventStore, Lifetime, MemoryStore, StreamWrite};
use tidings::execute::transfer::{export, import};
use tidings::execute::vault::Binding;
use tidings::execute::verify::verify;
use tidings::execute::{self, retention};
use tidings::key_store::{KeyStore, KeyStoreError, MemoryKeys, SealedRow};

struct World {
    store: Arc<MemoryStore>,
    keys: Arc<WatchedKeys>,
    clock: Arc<dyn Clock>,
}

/// Keys that something happens to while they are read.
#[derive(Default)]
struct WatchedKeys {
    memory: MemoryKeys,
    /// Run one by one, each before rows are read from the first on.
    before_rows: Mutex<VecDeque<BoxFuture<'static, ()>>>,
}

impl WatchedKeys {
    fn before_rows(&self, step: impl Future<Output = ()> + Send + 'static) {
        self.before_rows.lock().unwrap().push_back(Box::pin(step));
    }
}

#[async_trait]
impl KeyStore for WatchedKeys {
    async fn get(&self, name: &str) -> Result<Option<Vec<u8>>, KeyStoreError> {
        self.memory.get(name).await
    }

    async fn rows(&self, prefix: &str, after: &str, limit: usize) -> Result<Vec<SealedRow>, KeyStoreError> {
        let step = if after.is_empty() { self.before_rows.lock().unwrap().pop_front() } else { None };
        if let Some(step) = step {
            step.await;
        }
        self.memory.rows(prefix, after, limit).await
    }

    async fn add(&self, name: &str, value: &[u8]) -> Result<bool, KeyStoreError> {
        self.memory.add(name, value).await
    }

    async fn replace(&self, name: &str, before: &[u8], value: &[u8]) -> Result<bool, KeyStoreError> {
        self.memory.replace(name, before, value).await
    }

    async fn destroy(&self, names: &[String]) -> Result<u64, KeyStoreError> {
        self.memory.destroy(names).await
    }

    async fn census(&self, length: u8) -> Result<Vec<(Vec<u8>, u64)>, KeyStoreError> {
        self.memory.census(length).await
    }

    async fn scrub(&self) -> Result<bool, KeyStoreError> {
        self.memory.scrub().await
    }

    async fn close(&self) {}
}

impl World {
    fn new() -> Self {
        let clock = SeededClock::new(Timestamp::from_ms(1_763_894_415_000), 1);
        Self { store: Arc::new(MemoryStore::new(1)), keys: Arc::default(), clock: Arc::new(clock) }
    }

    async fn append(&self, stream: String, first_version: u64, event: Event) {
        append(&self.store, &*self.clock, stream, first_version, event).await;
    }

    async fn subscription(&self) -> (TenantId, SubscriptionId, SecretId) {
        let tenant = self.clock.tenant_id();
        let created = TenantCreated { tenant, name: "Axie".into(), slug: "axie".into(), profile: "standard-v1".into() };
        self.append(execute::tenant_stream(tenant), 1, Event::Tenant(TenantEvent::Created(created))).await;
        let (subscription, secret) = (self.clock.subscription_id(), self.clock.secret_id());
        let binding = Binding::signing_secret(tenant, subscription, secret);
        self.keys.add(binding.name(), b"sealed").await.unwrap();
        let created = SubscriptionCreated {
            subscription,
            tenant,
            profile: "standard-v1".into(),
            url: "https://shop.example/hook".into(),
            description: None,
            filters: vec![Filter::parse("**").unwrap()],
            enabled: true,
            secret,
            fingerprint: "f1".into(),
            public_key: None,
            rate_limit_per_s: None,
            ordered: false,
            headers: None,
            retry_policy: None,
            recipients: None,
        };
        let event = Event::Subscription(SubscriptionEvent::Created(created));
        self.append(execute::subscription_stream(subscription), 1, event).await;
        (tenant, subscription, secret)
    }
}

async fn append(store: &MemoryStore, clock: &dyn Clock, stream: String, first_version: u64, event: Event) {
    let events = vec![execute::new_event(&event, clock.now(), None, None, clock)];
    let write = StreamWrite { stream, first_version, lifetime: Lifetime::Kept, events };
    store.append(0, vec![Append { writes: vec![write], ..Append::default() }]).await.remove(0).unwrap();
}

/// As the server does it: stored, then recorded; the old one is destroyed after that.
async fn rotate(
    world: (Arc<MemoryStore>, Arc<WatchedKeys>, Arc<dyn Clock>),
    (tenant, id): (TenantId, SubscriptionId),
    version: u32,
    from: SecretId,
    to: SecretId,
) {
    let (store, keys, clock) = world;
    keys.add(Binding::signing_secret(tenant, id, to).name(), b"sealed").await.unwrap();
    let rotated = SecretRotated {
        secret: to,
        version,
        fingerprint: format!("f{version}"),
        public_key: None,
        previous_retires_at: None,
    };
    let event = Event::Subscription(SubscriptionEvent::SecretRotated(rotated));
    append(&store, &*clock, execute::subscription_stream(id), u64::from(version), event).await;
    keys.destroy(&[Binding::signing_secret(tenant, id, from).name().to_owned()]).await.unwrap();
}

#[tokio::test]
async fn a_secret_that_is_replaced_twice_meanwhile_is_not_missed() {
    let world = World::new();
    let (tenant, subscription, first) = world.subscription().await;
    let id = (tenant, subscription);
    let [second, third, fourth, fifth] = [(); 4].map(|()| world.clock.secret_id());
    let both = || (Arc::clone(&world.store), Arc::clone(&world.keys), Arc::clone(&world.clock));
    // Before the first reading, behind the heads each, and never again.
    world.keys.before_rows(rotate(both(), id, 2, first, second));
    world.keys.before_rows({
        let (one, other) = (rotate(both(), id, 3, second, third), rotate(both(), id, 4, third, fourth));
        async move {
            one.await;
            other.await;
        }
    });
    world.keys.before_rows(rotate(both(), id, 5, fourth, fifth));
    let mut text = Vec::new();
    export(&*world.store, &*world.keys, &mut text, |_, _| {}).await.unwrap();
    let copy = MemoryStore::new(1);
    import(&copy, &*copy.keys(), &retention::Config::default(), &text[..], |_, _| {}).await.unwrap();
    let report = verify(&copy, Some(&*copy.keys()), |_, _| {}).await.unwrap();
    assert_eq!(report.differences, 0, "{:?}", report.first);
}
