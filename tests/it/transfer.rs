//! An export beside a server that goes on.

use std::sync::Arc;

use tidings::clock::{Clock, SeededClock};
use tidings::domain::event::{
    Event, SecretRotated, SubscriptionCreated, SubscriptionEvent, TenantCreated, TenantEvent,
};
use tidings::domain::filter::Filter;
use tidings::domain::id::{SecretId, SubscriptionId};
use tidings::domain::time::Timestamp;
use tidings::event_store::{Append, EventStore, Lifetime, MemoryStore, StreamWrite};
use tidings::execute::transfer::{export, import};
use tidings::execute::verify::verify;
use tidings::execute::{self, retention};

use crate::support::watched_store::WatchedStore;

struct World {
    store: Arc<WatchedStore>,
    clock: Arc<dyn Clock>,
}

impl World {
    fn new() -> Self {
        let clock = SeededClock::new(Timestamp::from_ms(1_763_894_415_000), 1);
        Self { store: Arc::new(WatchedStore::over(MemoryStore::new(1))), clock: Arc::new(clock) }
    }

    async fn append(&self, stream: String, first_version: u64, event: Event) {
        append(&self.store, &*self.clock, stream, first_version, event).await;
    }

    async fn subscription(&self) -> (SubscriptionId, SecretId) {
        let tenant = self.clock.tenant_id();
        let created = TenantCreated { tenant, name: "Axie".into(), slug: "axie".into(), profile: "standard-v1".into() };
        self.append(execute::tenant_stream(tenant), 1, Event::Tenant(TenantEvent::Created(created))).await;
        let (subscription, secret) = (self.clock.subscription_id(), self.clock.secret_id());
        self.store.put_secret(&secret.to_string(), b"sealed").await.unwrap();
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
        };
        let event = Event::Subscription(SubscriptionEvent::Created(created));
        self.append(execute::subscription_stream(subscription), 1, event).await;
        (subscription, secret)
    }
}

async fn append(store: &WatchedStore, clock: &dyn Clock, stream: String, first_version: u64, event: Event) {
    let events = vec![execute::new_event(&event, clock.now(), None, None, clock)];
    let write = StreamWrite { stream, first_version, lifetime: Lifetime::Kept, events };
    store.append(0, vec![Append { writes: vec![write], ..Append::default() }]).await.remove(0).unwrap();
}

/// As the server does it: stored, then recorded; the old one is destroyed after that.
async fn rotate(
    world: (Arc<WatchedStore>, Arc<dyn Clock>),
    id: SubscriptionId,
    version: u32,
    from: SecretId,
    to: SecretId,
) {
    let (store, clock) = world;
    store.put_secret(&to.to_string(), b"sealed").await.unwrap();
    let rotated = SecretRotated {
        secret: to,
        version,
        fingerprint: format!("f{version}"),
        public_key: None,
        previous_retires_at: None,
    };
    let event = Event::Subscription(SubscriptionEvent::SecretRotated(rotated));
    append(&store, &*clock, execute::subscription_stream(id), u64::from(version), event).await;
    store.destroy_secret(&from.to_string()).await.unwrap();
}

#[tokio::test]
async fn a_secret_that_is_replaced_twice_meanwhile_is_not_missed() {
    let world = World::new();
    let (id, first) = world.subscription().await;
    let [second, third, fourth, fifth] = [(); 4].map(|()| world.clock.secret_id());
    let both = || (Arc::clone(&world.store), Arc::clone(&world.clock));
    // Before the first reading, behind the heads each, and never again.
    world.store.before_secrets(rotate(both(), id, 2, first, second));
    world.store.before_secrets({
        let (one, other) = (rotate(both(), id, 3, second, third), rotate(both(), id, 4, third, fourth));
        async move {
            one.await;
            other.await;
        }
    });
    world.store.before_secrets(rotate(both(), id, 5, fourth, fifth));
    let mut text = Vec::new();
    export(&*world.store, &mut text, |_, _| {}).await.unwrap();
    let copy = MemoryStore::new(1);
    import(&copy, &retention::Config::default(), &text[..], |_, _| {}).await.unwrap();
    let report = verify(&copy, |_, _| {}).await.unwrap();
    assert_eq!(report.differences, 0, "{:?}", report.first);
}
