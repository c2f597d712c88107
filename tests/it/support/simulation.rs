//! The running system over the log in memory, in paused time, with one scripted endpoint in place of the network.
//!
//! Time moves only when nothing else can, so what happens, and at which millisecond, follows from the test alone.

use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use tidings::actors::{
    self, Candidates, Done, Engine, EngineError, NewSubscription, Ports, Published, Retention, Running, Sealable,
};
use tidings::clock::{Clock, SeededClock};
use tidings::codec;
use tidings::domain::event::{DeliveriesCarried, DeliveriesPeriodOpened, DeliveryEvent, Event, TenantCreated};
use tidings::domain::filter::Filter;
use tidings::domain::header::GivenHeaders;
use tidings::domain::id::{SubscriptionId, TenantId};
use tidings::domain::message::{self, Publish};
use tidings::domain::notice::GivenRecipients;
use tidings::domain::outcome::{Exchange, Failure, FailureCode, Response};
use tidings::domain::subscription::{Command, Update};
use tidings::domain::time::Timestamp;
use tidings::event_store::{self, EventReader, EventStore, Log, MemoryStore, Recorded};
use tidings::execute::vault::{KeyBytes, OperatorKeys, Vault};
use tidings::execute::{self, Meta};
use tidings::outbound::{self, HttpClient, Request, Transport};
use tokio::sync::{Semaphore, watch};

use super::candidates::FromLog;
use super::watched_store::WatchedStore;

/// Shards of the log; a log with one is the special case.
const SHARDS: u16 = 4;
/// Everything begins here.
pub(crate) const START: Timestamp = Timestamp::from_ms(1_763_894_415_000);
/// The endpoint that [`World::subscribe`] names.
pub(crate) const URL: &str = "https://127.0.0.1:9443/first";
/// Another one.
pub(crate) const OTHER_URL: &str = "https://127.0.0.1:9443/second";
/// Far more than any schedule here: whoever waits so long waits for ever.
const PATIENCE: Duration = Duration::from_secs(3_600);

/// One attempt as the endpoint met it.
#[derive(Clone)]
pub(crate) struct Call {
    /// When it began, in milliseconds after [`START`].
    pub(crate) at_ms: u64,
    pub(crate) url: String,
    pub(crate) body: String,
    /// The status that it was answered with; `None` if there was no answer, or none yet.
    pub(crate) answered: Option<u16>,
    pub(crate) headers: Vec<(String, String)>,
    /// How long the endpoint might have taken.
    pub(crate) timeout_ms: u64,
}

impl Call {
    pub(crate) fn header(&self, name: &str) -> &str {
        let found = self.headers.iter().find(|(known, _)| known.eq_ignore_ascii_case(name));
        found.map(|(_, value)| value.as_str()).unwrap_or_else(|| panic!("no header '{name}'"))
    }
}

/// How the endpoint meets one attempt.
#[derive(Clone, Copy)]
pub(crate) enum Answer {
    /// At once, with this status.
    Status(u16),
    /// At once, with 503 and the wish to be left alone for so many seconds.
    Busy(u64),
    /// With this status, after so many milliseconds.
    Late(u16, u64),
    /// Not at all: the attempt fails after so many milliseconds.
    Silence(u64),
    /// With 200, once the test lets it.
    Held,
    /// With 200, and all headers of the request.
    Echo,
    /// The code that sends falls over.
    Panic,
}

/// Endpoints at every URL, as one script: each attempt takes the next answer, and 200 when there are no more.
pub(crate) struct Endpoint {
    clock: Arc<dyn Clock>,
    script: Mutex<VecDeque<Answer>>,
    by_url: Mutex<HashMap<String, Answer>>,
    calls: Mutex<Vec<Call>>,
    began: watch::Sender<usize>,
    held: Semaphore,
}

impl Endpoint {
    fn new(clock: Arc<dyn Clock>) -> Self {
        Self {
            clock,
            script: Mutex::default(),
            by_url: Mutex::default(),
            calls: Mutex::default(),
            began: watch::Sender::new(0),
            held: Semaphore::new(0),
        }
    }

    pub(crate) fn answers(&self, answers: impl IntoIterator<Item = Answer>) {
        self.script.lock().unwrap().extend(answers);
    }

    /// At this URL every attempt from now on is met so, whatever the script says.
    pub(crate) fn always(&self, url: &str, answer: Answer) {
        self.by_url.lock().unwrap().insert(url.into(), answer);
    }

    /// When the attempts at this URL began, in milliseconds after [`START`].
    pub(crate) fn times_at(&self, url: &str) -> Vec<u64> {
        self.calls().iter().filter(|call| call.url == url).map(|call| call.at_ms).collect()
    }

    /// Answers with 200 from now on.
    pub(crate) fn forget_script(&self) {
        self.script.lock().unwrap().clear();
    }

    /// Remembers that an attempt began, and returns its number from 0.
    fn record(&self, call: Call) -> usize {
        let mut calls = self.calls.lock().unwrap();
        calls.push(call);
        calls.len() - 1
    }

    /// Lets this many held answers go.
    pub(crate) fn release(&self, count: usize) {
        self.held.add_permits(count);
    }

    /// Every attempt so far.
    pub(crate) fn calls(&self) -> Vec<Call> {
        self.calls.lock().unwrap().clone()
    }

    /// When the attempts so far began, in milliseconds after [`START`].
    pub(crate) fn times(&self) -> Vec<u64> {
        self.calls().iter().map(|call| call.at_ms).collect()
    }

    /// Waits until so many attempts have begun in all, and returns them.
    pub(crate) async fn called(&self, count: usize) -> Vec<Call> {
        let mut began = self.began.subscribe();
        let waited = tokio::time::timeout(PATIENCE, began.wait_for(|seen| *seen >= count)).await;
        assert!(waited.is_ok(), "only {} of {count} attempts came", self.calls().len());
        self.calls()
    }
}

#[async_trait]
impl Transport for Endpoint {
    async fn post(&self, request: Request) -> Exchange {
        let at = self.clock.now();
        let always = self.by_url.lock().unwrap().get(&request.url).copied();
        let scripted = || self.script.lock().unwrap().pop_front();
        let answer = always.or_else(scripted).unwrap_or(Answer::Status(200));
        let number = self.record(Call {
            at_ms: at.ms_since(START),
            url: request.url,
            body: String::from_utf8(request.body.to_vec()).unwrap(),
            answered: None,
            headers: request.headers.clone(),
            timeout_ms: request.timeout_ms,
        });
        self.began.send_modify(|began| *began += 1);
        let respond = |status| Ok(Response { status, ..Response::default() });
        let result = match answer {
            Answer::Status(status) => respond(status),
            Answer::Busy(seconds) => Ok(Response { status: 503, retry_after_s: Some(seconds), ..Response::default() }),
            Answer::Late(status, after_ms) => {
                tokio::time::sleep(Duration::from_millis(after_ms)).await;
                respond(status)
            }
            Answer::Silence(after_ms) => {
                tokio::time::sleep(Duration::from_millis(after_ms)).await;
                Err(Failure { code: FailureCode::Timeout, detail: "no complete answer came in time".into() })
            }
            Answer::Held => {
                self.held.acquire().await.unwrap().forget();
                respond(200)
            }
            Answer::Echo => {
                let lines = request.headers.iter().map(|(name, value)| format!("{name}: {value}\n"));
                Ok(Response { status: 200, preview: lines.collect(), ..Response::default() })
            }
            // Without a word: a script of many says it too often.
            Answer::Panic => std::panic::resume_unwind(Box::new("as the script says")),
        };
        self.calls.lock().unwrap()[number].answered = result.as_ref().ok().map(|response: &Response| response.status);
        Exchange { latency_ms: self.clock.now().ms_since(at), result }
    }
}

/// One life of the process. Everything in it ends with it at whatever point it is, as by `kill -9`.
pub(crate) fn life<T>(work: impl AsyncFnOnce() -> T) -> T {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().start_paused(true).build().unwrap();
    runtime.block_on(work())
}

/// The running system, and the tenant that the test is at.
pub(crate) struct World {
    pub(crate) store: Arc<WatchedStore>,
    pub(crate) log: Log,
    pub(crate) clock: Arc<dyn Clock>,
    pub(crate) endpoint: Arc<Endpoint>,
    pub(crate) candidates: Arc<FromLog>,
    pub(crate) engine: Engine,
    pub(crate) running: Running,
    pub(crate) tenant: TenantId,
}

impl World {
    /// A new system, with a tenant under the `axie-v1` profile.
    pub(crate) async fn new() -> Self {
        Self::with(actors::Config::default()).await
    }

    pub(crate) async fn with(config: actors::Config) -> Self {
        Self::under("axie-v1", config).await
    }

    pub(crate) async fn under(profile: &str, config: actors::Config) -> Self {
        let clock: Arc<dyn Clock> = Arc::new(SeededClock::new(START, 1));
        let world = Self::over(MemoryStore::new(SHARDS), clock, config).await;
        world.found_tenant(profile).await;
        world
    }

    pub(crate) async fn found_tenant(&self, profile: &str) {
        self.found("ent_abc123", profile).await.unwrap();
    }

    /// Makes [`World::tenant`], under that public id.
    pub(crate) async fn found(&self, slug: &str, profile: &str) -> Result<TenantId, EngineError> {
        let created =
            TenantCreated { tenant: self.tenant, name: "Acme".into(), slug: slug.into(), profile: profile.into() };
        self.engine.create_tenant(created, Meta::system()).await.map(|(tenant, _)| tenant)
    }

    /// Where everything of the tenant stands.
    pub(crate) fn shard(&self) -> u16 {
        execute::shard_of(self.tenant, self.log.shards())
    }

    /// The system over what an earlier life left, started again so many milliseconds after [`START`].
    pub(crate) async fn again(left: &WatchedStore, at_ms: u64) -> Self {
        let clock: Arc<dyn Clock> = Arc::new(SeededClock::new(START.plus_ms(at_ms), 2 + at_ms));
        Self::over(left.memory.reopen(), clock, actors::Config::default()).await
    }

    /// A new system that keeps no event in memory: whoever follows the log reads the store.
    pub(crate) async fn without_tail(config: actors::Config) -> Self {
        let clock: Arc<dyn Clock> = Arc::new(SeededClock::new(START, 1));
        let bounds = event_store::Config { tail_events: 0, linger_ms: 0, ..event_store::Config::default() };
        let world = Self::within(MemoryStore::new(SHARDS), clock, config, Retention::default(), bounds).await;
        world.found_tenant("axie-v1").await;
        world
    }

    /// A new system whose log has room for so many appends of subscriptions, and of others, at a time; with several
    /// shards one alone has half of that.
    pub(crate) async fn with_room_for(queue_appends: usize) -> Self {
        let clock: Arc<dyn Clock> = Arc::new(SeededClock::new(START, 1));
        let bounds = event_store::Config { queue_appends, linger_ms: 0, ..event_store::Config::default() };
        let config = actors::Config::default();
        let world = Self::within(MemoryStore::new(SHARDS), clock, config, Retention::default(), bounds).await;
        world.found_tenant("axie-v1").await;
        world
    }

    pub(crate) async fn over(store: MemoryStore, clock: Arc<dyn Clock>, config: actors::Config) -> Self {
        // What was recorded when is told to the millisecond.
        let bounds = event_store::Config { linger_ms: 0, ..event_store::Config::default() };
        Self::within(store, clock, config, Retention::default(), bounds).await
    }

    /// A system that lets go of what is older than that.
    pub(crate) async fn keeping(
        store: MemoryStore,
        clock: Arc<dyn Clock>,
        config: actors::Config,
        retention: Retention,
    ) -> Self {
        Self::within(store, clock, config, retention, event_store::Config::default()).await
    }

    async fn within(
        store: MemoryStore,
        clock: Arc<dyn Clock>,
        config: actors::Config,
        retention: Retention,
        bounds: event_store::Config,
    ) -> Self {
        let sealed = store.keys();
        let store = Arc::new(WatchedStore::over(store));
        let shared: Arc<dyn EventStore> = Arc::clone(&store) as Arc<dyn EventStore>;
        let log = Log::start(shared, bounds).await.unwrap();
        let vault = {
            let keys = OperatorKeys::new(KeyBytes::new([7; 32]), []);
            Arc::new(Vault::open(sealed, keys, &*clock).await.unwrap())
        };
        let egress = outbound::Config { allow_cidrs: vec!["127.0.0.0/8".parse().unwrap()], ..Default::default() };
        let gate = HttpClient::new(&egress).unwrap().gate().clone();
        let endpoint = Arc::new(Endpoint::new(Arc::clone(&clock)));
        let transport: Arc<dyn Transport> = Arc::clone(&endpoint) as Arc<dyn Transport>;
        let candidates = Arc::new(FromLog::new(Arc::clone(&store)));
        let shared: Arc<dyn Candidates> = Arc::clone(&candidates) as Arc<dyn Candidates>;
        let ports = Ports { transport, gate, candidates: Some(shared) };
        let running = actors::start(log.clone(), Arc::clone(&clock), vault, ports, config, retention).await.unwrap();
        let engine = running.engine.clone();
        Self { store, log, clock, endpoint, candidates, engine, running, tenant: TenantId::from_parts(1, 1) }
    }

    /// Milliseconds since [`START`].
    pub(crate) fn now_ms(&self) -> u64 {
        self.clock.now().ms_since(START)
    }

    /// Lets time go by, and everything happen that is due in it.
    pub(crate) async fn let_pass(&self, ms: u64) {
        tokio::time::sleep(Duration::from_millis(ms)).await;
    }

    /// The same system, at another tenant.
    pub(crate) async fn beside(&self, number: u64) -> Neighbour<'_> {
        let tenant = TenantId::from_parts(number, 1);
        let slug = format!("ent_neighbour{number}");
        let created = TenantCreated { tenant, name: "Beside".into(), slug, profile: "axie-v1".into() };
        self.engine.create_tenant(created, Meta::system()).await.unwrap();
        Neighbour { world: self, tenant }
    }

    /// A subscription to `user.created`.
    pub(crate) async fn subscribe(&self) -> SubscriptionId {
        self.subscribe_to(&["user.created"]).await
    }

    pub(crate) async fn subscribe_to(&self, filters: &[&str]) -> SubscriptionId {
        self.subscribe_as(new_subscription(URL, filters)).await
    }

    pub(crate) async fn subscribe_as(&self, new: NewSubscription) -> SubscriptionId {
        self.engine.create_subscription(self.tenant, new, Meta::system()).await.unwrap().0
    }

    /// Publishes a `user.created`.
    pub(crate) async fn publish(&self) -> Published {
        self.try_publish(r#"{"userId":"user_1"}"#, None).await.unwrap()
    }

    pub(crate) async fn publish_as(&self, event_type: &str) -> Published {
        self.offer(event_type, r#"{"userId":"user_1"}"#, None).await.unwrap()
    }

    pub(crate) async fn try_publish(&self, data: &str, key: Option<&str>) -> Result<Published, EngineError> {
        self.offer("user.created", data, key).await
    }

    async fn offer(&self, event_type: &str, data: &str, key: Option<&str>) -> Result<Published, EngineError> {
        self.offer_of(self.tenant, event_type, data, key).await
    }

    async fn offer_of(
        &self,
        tenant: TenantId,
        event_type: &str,
        data: &str,
        key: Option<&str>,
    ) -> Result<Published, EngineError> {
        let publish = Publish {
            event_type: event_type.into(),
            data: data.into(),
            occurred_at: None,
            idempotency_key: key.map(Into::into),
        };
        let draft = message::prepare(publish).unwrap();
        self.engine.publish(tenant, draft, Meta::system()).await
    }

    pub(crate) async fn command(&self, id: SubscriptionId, command: Command) -> Done {
        self.engine.subscription(self.tenant, id, command, Meta::system()).await.unwrap()
    }

    pub(crate) async fn disable(&self, id: SubscriptionId) {
        self.command(id, Command::Disable { reason: None }).await;
    }

    pub(crate) async fn enable(&self, id: SubscriptionId) {
        self.command(id, Command::Enable).await;
    }

    pub(crate) async fn move_to(&self, id: SubscriptionId, url: &str) {
        let update = Update { url: Some(url.into()), ..Update::default() };
        self.engine.update_subscription(self.tenant, id, update, Sealable::default(), Meta::system()).await.unwrap();
    }

    /// What the log says of the subscription's deliveries.
    pub(crate) async fn deliveries(&self, id: SubscriptionId) -> Vec<DeliveryEvent> {
        let stream = execute::deliveries_stream(id);
        let recorded = self.store.memory.read_stream(&stream, 1, usize::MAX).await.unwrap();
        recorded.iter().filter_map(delivery_event).collect()
    }

    /// Waits until the log says that of the subscription's deliveries.
    pub(crate) async fn recorded(
        &self,
        id: SubscriptionId,
        enough: impl Fn(&[DeliveryEvent]) -> bool,
    ) -> Vec<DeliveryEvent> {
        let mut head = self.log.watch(self.shard());
        let waiting = async {
            loop {
                head.borrow_and_update();
                let events = self.deliveries(id).await;
                if enough(&events) {
                    return events;
                }
                head.changed().await.unwrap();
            }
        };
        match tokio::time::timeout(PATIENCE, waiting).await {
            Ok(events) => events,
            Err(_) => panic!("the log only says {:?}", self.deliveries(id).await),
        }
    }

    /// Waits until so many deliveries have ended well.
    pub(crate) async fn succeeded(&self, id: SubscriptionId, count: usize) {
        self.recorded(id, |events| messages_delivered(events).len() >= count).await;
    }

    /// The messages whose deliveries to the subscription have ended well, in the order of their ends.
    pub(crate) async fn messages_delivered(&self, id: SubscriptionId) -> Vec<String> {
        messages_delivered(&self.deliveries(id).await)
    }
}

/// Another tenant of the same system.
pub(crate) struct Neighbour<'a> {
    world: &'a World,
    tenant: TenantId,
}

impl Neighbour<'_> {
    /// A subscription to `user.created`.
    pub(crate) async fn subscribe(&self, url: &str) -> SubscriptionId {
        let new = new_subscription(url, &["user.created"]);
        self.world.engine.create_subscription(self.tenant, new, Meta::system()).await.unwrap().0
    }

    /// Publishes a `user.created`.
    pub(crate) async fn publish(&self) {
        self.world.offer_of(self.tenant, "user.created", r#"{"userId":"user_1"}"#, None).await.unwrap();
    }
}

/// A subscription that sends at once, with nothing special.
pub(crate) fn new_subscription(url: &str, filters: &[&str]) -> NewSubscription {
    NewSubscription {
        url: url.into(),
        filters: filters.iter().map(|filter| Filter::parse(filter).unwrap()).collect(),
        description: None,
        enabled: Some(true),
        secret: None,
        profile: None,
        rate_limit_per_s: None,
        ordered: false,
        headers: GivenHeaders::default(),
        retry_policy: None,
        recipients: GivenRecipients::default(),
    }
}

fn messages_delivered(events: &[DeliveryEvent]) -> Vec<String> {
    let mut scheduled = HashMap::new();
    let mut delivered = Vec::new();
    for event in events {
        match event {
            DeliveryEvent::Scheduled(event) => drop(scheduled.insert(event.delivery, event.message.to_string())),
            DeliveryEvent::PeriodOpened(DeliveriesPeriodOpened { carried, .. })
            | DeliveryEvent::Carried(DeliveriesCarried { carried }) => {
                scheduled.extend(carried.iter().map(|open| (open.delivery, open.message.to_string())));
            }
            DeliveryEvent::Succeeded(event) => delivered.push(scheduled[&event.delivery].clone()),
            DeliveryEvent::Backfilled(_)
            | DeliveryEvent::AttemptFailed(_)
            | DeliveryEvent::Exhausted(_)
            | DeliveryEvent::Expired(_)
            | DeliveryEvent::Rescheduled(_)
            | DeliveryEvent::Cancelled(_)
            | DeliveryEvent::JobAdvanced(_) => {}
        }
    }
    delivered
}

fn delivery_event(recorded: &Recorded) -> Option<DeliveryEvent> {
    match codec::decode(recorded).unwrap() {
        Event::Delivery(event) => Some(event),
        Event::Tenant(_) | Event::Message(_) | Event::Subscription(_) => None,
    }
}
