//! Time travel over a log that the test writes itself: what holds at which position, time and version.

use std::sync::Arc;

use serde_json::{Value, json};
use tidings::clock::{Clock, SeededClock};
use tidings::domain::circuit::{CircuitState, TripCause};
use tidings::domain::event::{
    ApiKeyIssued, ApiKeyRevoked, AttemptFailed, Change, CircuitClosed, CircuitProbing, CircuitTripped, DeliveryEvent,
    DeliveryScheduled, DeliverySucceeded, Event, EventTypeRegistered, MessageEvent, MessagePublished, SecretRotated,
    SubscriptionCreated, SubscriptionDeleted, SubscriptionEvent, SubscriptionUpdated, TenantCreated, TenantEvent,
    TestSent,
};
use tidings::domain::filter::{EventType, Filter};
use tidings::domain::id::{ApiKeyId, DeliveryId, MessageId, SecretId, SubscriptionId, TenantId};
use tidings::domain::outcome::{FailureClass, FailureCode, Response};
use tidings::domain::scope::Scope;
use tidings::domain::time::Timestamp;
use tidings::event_store::{self, Append, Bucket, Lifetime, Log, MemoryStore, Position, StreamWrite};
use tidings::execute::history::{self, AsOf, Budget, HistoryError, Range, RecordedVersion};
use tidings::execute::{self, Meta};

const START: Timestamp = Timestamp::from_ms(1_763_894_415_000);
const TENANT: TenantId = TenantId::from_parts(1, 1);
const OTHER: TenantId = TenantId::from_parts(1, 2);
const ID: SubscriptionId = SubscriptionId::from_parts(1, 3);
const SHARD: u16 = 1;

/// A log of two shards whose second is the tenant's.
struct Past {
    log: Log,
    clock: Arc<dyn Clock>,
}

impl Past {
    async fn new() -> Self {
        let log = Log::start(Arc::new(MemoryStore::new(2)), event_store::Config::default()).await.unwrap();
        Self { log, clock: Arc::new(SeededClock::new(START, 1)) }
    }

    /// Records the event that many seconds after the start.
    async fn at(&self, second: u64, event: Event) -> Position {
        let lifetime = match &event {
            Event::Tenant(_) | Event::Subscription(_) => Lifetime::Kept,
            Event::Message(_) | Event::Delivery(_) => Lifetime::Bucket(Bucket(1)),
        };
        self.in_lifetime(lifetime, second, event).await
    }

    async fn in_lifetime(&self, lifetime: Lifetime, second: u64, event: Event) -> Position {
        let stream = match &event {
            Event::Tenant(_) => execute::tenant_stream(TENANT),
            Event::Message(_) => execute::messages_stream(TENANT),
            Event::Subscription(_) => execute::subscription_stream(ID),
            Event::Delivery(_) => execute::deliveries_stream(ID),
        };
        let first_version = self.log.stream_version(&stream).await.unwrap() + 1;
        let meta = Meta::system();
        let event = execute::new_event(&event, second_after_start(second), Some(&meta), None, &*self.clock);
        let write = StreamWrite { stream, first_version, lifetime, events: vec![event] };
        self.log.append(SHARD, Append { writes: vec![write], ..Append::default() }).await.unwrap().last
    }

    async fn ask(&self, as_of: AsOf) -> Result<Option<(RecordedVersion, Option<usize>)>, HistoryError> {
        let budget = Budget::default();
        let found = history::snapshot(self.log.reader(), TENANT, ID, as_of, &budget).await?;
        let Some((version, cut)) = found else { return Ok(None) };
        let open = history::open_deliveries(self.log.reader(), &version.version, cut, &budget).await?;
        Ok(Some((version, open)))
    }

    /// Number of the version, and how many deliveries were open.
    async fn as_of(&self, as_of: AsOf) -> (u64, usize) {
        let (version, open) = self.ask(as_of).await.unwrap().unwrap();
        (version.version.number, open.unwrap())
    }

    async fn versions(&self, range: Range) -> (Vec<(u64, Option<Timestamp>)>, bool) {
        let found = history::versions(self.log.reader(), TENANT, ID, range, &Budget::default()).await.unwrap();
        let (versions, has_more) = found.unwrap();
        (versions.into_iter().map(|found| (found.version.number, found.until)).collect(), has_more)
    }

    async fn state(&self, stream: &str, as_of: Option<AsOf>) -> Value {
        execute::state_as_of(self.log.reader(), stream, as_of).await.unwrap().unwrap()
    }
}

fn second_after_start(second: u64) -> Timestamp {
    START.plus_ms(second * 1_000)
}

fn time(second: u64) -> AsOf {
    AsOf::Time(second_after_start(second))
}

fn created(tenant: TenantId) -> Event {
    Event::Subscription(SubscriptionEvent::Created(SubscriptionCreated {
        subscription: ID,
        tenant,
        profile: "standard-v1".into(),
        url: "https://example.com/hook?token=hunter2".into(),
        description: None,
        filters: vec![Filter::parse("**").unwrap()],
        enabled: true,
        secret: SecretId::from_parts(1, 4),
        fingerprint: "aa".into(),
        public_key: None,
        rate_limit_per_s: None,
        ordered: false,
        headers: None,
        retry_policy: None,
        recipients: None,
    }))
}

fn described(from: Option<&str>, to: &str) -> Event {
    let description = Some(Change { from: from.map(str::to_owned), to: Some(to.to_owned()) });
    Event::Subscription(SubscriptionEvent::Updated(SubscriptionUpdated {
        description,
        ..SubscriptionUpdated::default()
    }))
}

fn tested() -> Event {
    let event_type = EventType::parse("webhook.test").unwrap();
    Event::Subscription(SubscriptionEvent::TestSent(TestSent {
        event_type,
        verified: true,
        status: Some(200),
        failure: None,
        latency_ms: 7,
        revision: None,
    }))
}

fn deleted() -> Event {
    Event::Subscription(SubscriptionEvent::Deleted(SubscriptionDeleted::default()))
}

fn delivery(number: u128) -> DeliveryId {
    DeliveryId::from_parts(1, number)
}

fn scheduled(number: u128) -> Event {
    Event::Delivery(DeliveryEvent::Scheduled(DeliveryScheduled {
        delivery: delivery(number),
        message: MessageId::from_parts(1, number),
        message_seq: 1,
        revision: 1,
        sequence: None,
        redelivery_of: None,
    }))
}

fn failed(number: u128, due_second: u64) -> Event {
    Event::Delivery(DeliveryEvent::AttemptFailed(AttemptFailed {
        delivery: delivery(number),
        number: 1,
        started_at: START,
        latency_ms: 7,
        code: FailureCode::Timeout,
        detail: "no answer".into(),
        response: None,
        revision: 1,
        class: FailureClass::Hard,
        failures: 1,
        hold_until: None,
        due_at: Some(second_after_start(due_second)),
    }))
}

fn succeeded(number: u128) -> Event {
    Event::Delivery(DeliveryEvent::Succeeded(DeliverySucceeded {
        delivery: delivery(number),
        number: 1,
        started_at: START,
        latency_ms: 7,
        response: Response { status: 200, ..Response::default() },
        revision: 1,
    }))
}

#[tokio::test]
async fn settings_and_open_deliveries_are_those_of_the_moment() {
    let past = Past::new().await;
    let first = past.at(10, created(TENANT)).await;
    let owed = past.at(20, scheduled(1)).await;
    past.at(30, scheduled(2)).await;
    let second = past.at(40, described(None, "one")).await;
    past.at(50, succeeded(1)).await;
    past.at(60, tested()).await;
    past.at(70, described(Some("one"), "two")).await;
    let gone = past.at(80, deleted()).await;
    for (as_of, expected) in [
        (AsOf::Position(first), (1, 0)),
        (AsOf::Position(owed), (1, 1)),
        (AsOf::Position(second), (2, 2)),
        (AsOf::Position(gone), (4, 0)),
        (time(10), (1, 0)),
        (time(39), (1, 2)),
        (time(40), (2, 2)),
        (time(55), (2, 1)),
        (time(69), (2, 1)),
        (time(75), (3, 1)),
        (time(80), (4, 0)),
        (time(1_000_000), (4, 0)),
        (AsOf::Version(1), (1, 0)),
        (AsOf::Version(2), (2, 2)),
        (AsOf::Version(3), (3, 1)),
        (AsOf::Version(4), (4, 0)),
    ] {
        assert_eq!(past.as_of(as_of).await, expected, "{as_of:?}");
    }
    let (found, _) = past.ask(time(65)).await.unwrap().unwrap();
    assert_eq!((found.position, found.version.since), (second, second_after_start(40)));
    assert_eq!(found.until, Some(second_after_start(70)));
    let (last, _) = past.ask(AsOf::Version(4)).await.unwrap().unwrap();
    assert!(last.version.deleted && last.until.is_none());
    assert_eq!(last.version.settings.description.as_deref(), Some("two"));
}

#[tokio::test]
async fn the_circuit_is_that_of_the_moment() {
    let past = Past::new().await;
    past.at(10, created(TENANT)).await;
    past.at(20, scheduled(1)).await;
    let tripped = CircuitTripped {
        cause: TripCause::HardFailures,
        failures: 10,
        delivery: delivery(1),
        code: FailureCode::Timeout,
        detail: "no answer".into(),
        matched_through: 2,
        probe_at: None,
        failed_probes: 0,
    };
    past.at(30, Event::Subscription(SubscriptionEvent::CircuitTripped(tripped))).await;
    let second = past.at(40, described(None, "one")).await;
    let probing = CircuitProbing { lost_through: None };
    let third = past.at(50, Event::Subscription(SubscriptionEvent::CircuitProbing(probing))).await;
    past.at(60, Event::Subscription(SubscriptionEvent::CircuitClosed(CircuitClosed {}))).await;
    past.at(70, deleted()).await;
    for (as_of, expected) in [
        (time(29), CircuitState::Closed),
        (time(30), CircuitState::Open),
        (AsOf::Position(second), CircuitState::Open),
        (AsOf::Position(third), CircuitState::HalfOpen),
        (time(59), CircuitState::HalfOpen),
        (time(60), CircuitState::Closed),
        (time(99), CircuitState::Closed),
        // As it stood when the version began.
        (AsOf::Version(1), CircuitState::Closed),
        (AsOf::Version(2), CircuitState::Open),
        (AsOf::Version(3), CircuitState::Closed),
    ] {
        assert_eq!(past.ask(as_of).await.unwrap().unwrap().0.circuit, expected, "{as_of:?}");
    }
    let all = Range { after: None, before: None, limit: 9, from_end: false };
    let listed = history::versions(past.log.reader(), TENANT, ID, all, &Budget::default()).await.unwrap().unwrap().0;
    let listed: Vec<_> = listed.iter().map(|found| found.circuit).collect();
    assert_eq!(listed, [CircuitState::Closed, CircuitState::Open, CircuitState::Closed]);
}

#[tokio::test]
async fn before_its_creation_and_for_others_there_is_nothing() {
    let past = Past::new().await;
    assert_eq!(past.ask(time(5)).await, Ok(None));
    let before = past.at(0, Event::Tenant(tenant_created())).await;
    past.at(10, created(TENANT)).await;
    assert_eq!(past.ask(time(9)).await, Ok(None));
    assert_eq!(past.ask(AsOf::Position(before)).await, Ok(None));
    let (reader, budget) = (past.log.reader(), Budget::default());
    assert_eq!(history::snapshot(reader, OTHER, ID, time(99), &budget).await, Ok(None));
    assert_eq!(history::versions(reader, OTHER, ID, FIRST_TWO, &budget).await, Ok(None));
    // Not even what is wrong with the question tells others that there is something.
    assert_eq!(history::snapshot(reader, OTHER, ID, AsOf::Version(9), &budget).await, Ok(None));
}

#[tokio::test]
async fn a_clock_that_was_set_back_leaves_the_order_of_the_log() {
    let past = Past::new().await;
    past.at(10, created(TENANT)).await;
    past.at(100, scheduled(1)).await;
    past.at(100, described(None, "by a clock that is ahead")).await;
    past.at(20, tested()).await;
    past.at(21, scheduled(2)).await;
    // What stands before the last event of that time is before it, whatever its own time says.
    assert_eq!(past.as_of(time(19)).await, (1, 0));
    assert_eq!(past.as_of(time(20)).await, (2, 1));
    assert_eq!(past.as_of(time(21)).await, (2, 2));
    let (found, _) = past.ask(time(20)).await.unwrap().unwrap();
    assert_eq!((found.version.since, found.position.seq), (second_after_start(100), 3));
}

#[tokio::test]
async fn what_was_owed_is_unknown_where_its_events_were_dropped() {
    let past = Past::new().await;
    past.at(10, created(TENANT)).await;
    past.at(20, scheduled(1)).await;
    past.at(30, succeeded(1)).await;
    // The first event of a period carries what came before: here that nothing was open.
    past.in_lifetime(Lifetime::Period(Bucket(2)), 40, scheduled(2)).await;
    past.in_lifetime(Lifetime::Bucket(Bucket(2)), 50, scheduled(3)).await;
    let open = async |second| past.ask(time(second)).await.unwrap().unwrap().1;
    assert_eq!((open(25).await, open(35).await, open(55).await), (Some(1), Some(0), Some(2)));
    while past.log.drop_bucket(Bucket(1), 100).await.unwrap().more {}
    assert_eq!((open(15).await, open(25).await, open(35).await), (None, None, None));
    assert_eq!((open(40).await, open(55).await), (Some(1), Some(2)));
    // The settings are known for ever.
    assert_eq!(past.ask(time(15)).await.unwrap().unwrap().0.version.number, 1);
}

#[tokio::test]
async fn a_moment_that_cannot_be_is_refused_by_name() {
    let past = Past::new().await;
    past.at(10, created(TENANT)).await;
    let elsewhere = Position { shard: 0, seq: 1 };
    let ahead = Position { shard: SHARD, seq: 2 };
    for (as_of, message) in [
        (AsOf::Position(elsewhere), "position 0-1 is in another shard than what is asked for, which is in shard 1"),
        (AsOf::Position(ahead), "position 1-2 lies ahead of the log, whose newest is 1-1"),
        (AsOf::Version(2), "there is no version 2; the newest is 1"),
    ] {
        let refused = past.ask(as_of).await.unwrap_err();
        assert_eq!((refused.code().as_str(), refused.to_string().as_str()), ("INVALID_INPUT", message));
    }
}

const FIRST_TWO: Range = Range { after: None, before: None, limit: 2, from_end: false };

#[tokio::test]
async fn versions_come_in_pages_from_either_end() {
    let past = Past::new().await;
    past.at(1, created(TENANT)).await;
    for second in 2..=5 {
        past.at(second, described(None, &second.to_string())).await;
        past.at(second, tested()).await;
    }
    let until = |second| Some(second_after_start(second));
    assert_eq!(past.versions(FIRST_TWO).await, (vec![(5, None), (4, until(5))], true));
    let next = Range { after: Some(4), ..FIRST_TWO };
    assert_eq!(past.versions(next).await, (vec![(3, until(4)), (2, until(3))], true));
    let last = Range { after: Some(2), ..FIRST_TWO };
    assert_eq!(past.versions(last).await, (vec![(1, until(2))], false));
    let oldest = Range { from_end: true, ..FIRST_TWO };
    assert_eq!(past.versions(oldest).await, (vec![(2, until(3)), (1, until(2))], true));
    let between = Range { after: Some(5), before: Some(2), limit: 9, from_end: true };
    assert_eq!(past.versions(between).await, (vec![(4, until(5)), (3, until(4))], false));
    let none = Range { before: Some(5), ..FIRST_TWO };
    assert_eq!(past.versions(none).await, (vec![], false));
}

#[tokio::test]
async fn a_request_reads_so_many_events_and_no_more() {
    let past = Past::new().await;
    past.at(1, created(TENANT)).await;
    for number in 0..600 {
        past.at(2, scheduled(number)).await;
    }
    let ask = async |budget: &Budget| {
        let (found, cut) = history::snapshot(past.log.reader(), TENANT, ID, time(9), budget).await?.unwrap();
        history::open_deliveries(past.log.reader(), &found.version, cut, budget).await
    };
    assert_eq!(ask(&Budget::of(602)).await, Ok(Some(600)));
    let shared = Budget::of(1_202);
    assert_eq!(ask(&shared).await, Ok(Some(600)));
    let refused = ask(&shared).await.unwrap_err();
    assert_eq!((&refused, refused.code().as_str()), (&HistoryError::TooManyEvents, "LIMIT_EXCEEDED"));
}

fn tenant_created() -> TenantEvent {
    TenantEvent::Created(TenantCreated {
        tenant: TENANT,
        name: "Acme".into(),
        slug: "acme".into(),
        profile: "standard-v1".into(),
    })
}

#[tokio::test]
async fn any_stream_tells_its_state_without_secrets_and_hashes() {
    let past = Past::new().await;
    let key = |number| ApiKeyId::from_parts(1, number);
    let issued = |number| {
        TenantEvent::ApiKeyIssued(ApiKeyIssued {
            key: key(number),
            name: "ci".into(),
            hash: "c0ffee".into(),
            scopes: vec![Scope::AuditRead],
            expires_at: None,
        })
    };
    let registered = TenantEvent::EventTypeRegistered(EventTypeRegistered {
        name: EventType::parse("order.paid").unwrap(),
        category: "orders".into(),
        description: "paid".into(),
        version: "1".into(),
        schema: json!({}),
        example: None,
    });
    past.at(1, Event::Tenant(tenant_created())).await;
    past.at(2, Event::Tenant(issued(1))).await;
    past.at(3, Event::Tenant(issued(2))).await;
    past.at(4, Event::Tenant(registered)).await;
    past.at(5, Event::Tenant(TenantEvent::ApiKeyRevoked(ApiKeyRevoked { key: key(1) }))).await;
    let tenant = execute::tenant_stream(TENANT);
    let now = past.state(&tenant, None).await;
    assert_eq!((&now["slug"], &now["event_types"][0]["name"]), (&json!("acme"), &json!("order.paid")));
    assert_eq!(now["api_keys"].as_array().unwrap().len(), 1);
    let earlier = past.state(&tenant, Some(AsOf::Version(3))).await;
    assert_eq!((earlier["api_keys"].as_array().unwrap().len(), &earlier["event_types"]), (2, &json!([])));

    past.at(6, created(TENANT)).await;
    past.at(7, scheduled(1)).await;
    past.at(7, scheduled(2)).await;
    let retry = past.at(8, failed(1, 20)).await;
    let rotated = SecretRotated {
        secret: SecretId::from_parts(1, 5),
        version: 2,
        fingerprint: "bb".into(),
        public_key: None,
        previous_retires_at: None,
    };
    past.at(9, Event::Subscription(SubscriptionEvent::SecretRotated(rotated))).await;
    past.at(10, succeeded(2)).await;
    let (life, deliveries) = (execute::subscription_stream(ID), execute::deliveries_stream(ID));
    let now = past.state(&life, None).await;
    assert_eq!(now, past.state(&deliveries, None).await);
    assert_eq!(now["settings"]["url"], json!("https://example.com/hook?***"));
    assert_eq!((&now["settings"]["secrets"][0]["version"], &now["open_deliveries"]["count"]), (&json!(2), &json!(1)));
    // The third event of the deliveries: the same moment by its place.
    let earlier = past.state(&deliveries, Some(AsOf::Version(3))).await;
    assert_eq!(earlier, past.state(&life, Some(AsOf::Position(retry))).await);
    assert_eq!((&earlier["version"], &earlier["open_deliveries"]["count"]), (&json!(1), &json!(2)));
    let waiting = &earlier["open_deliveries"]["next"][1];
    assert_eq!((&waiting["failures"], &waiting["due_at"]), (&json!(1), &json!("2025-11-23T10:40:35.000Z")));

    let published = |number| {
        Event::Message(MessageEvent::Published(MessagePublished {
            message: MessageId::from_parts(1, number),
            tenant: TENANT,
            tenant_slug: "acme".into(),
            event_type: EventType::parse("order.paid").unwrap(),
            occurred_at: START,
            size_bytes: 2,
            digest: "d1ge57".into(),
            unstable: false,
            idempotency_key: Some("once".into()),
        }))
    };
    past.at(11, published(1)).await;
    past.at(12, published(2)).await;
    let messages = execute::messages_stream(TENANT);
    let now = past.state(&messages, None).await;
    assert_eq!((&now["count"], &now["last"]["message"]), (&json!(2), &json!(MessageId::from_parts(1, 2))));
    assert_eq!(past.state(&messages, Some(time(11))).await["count"], json!(1));

    let all = [past.state(&tenant, None).await, past.state(&life, None).await, now];
    let text = Value::from(all.to_vec()).to_string();
    for secret in ["c0ffee", "hunter2", "d1ge57", "sec_"] {
        assert!(!text.contains(secret), "{secret}: {text}");
    }
}

#[tokio::test]
async fn a_stream_that_is_not_there_has_no_state() {
    let past = Past::new().await;
    past.at(10, created(TENANT)).await;
    let ask = async |stream: &str, as_of| execute::state_as_of(past.log.reader(), stream, as_of).await;
    let life = execute::subscription_stream(ID);
    assert_eq!(ask(&life, Some(time(9))).await, Ok(None));
    assert_eq!(ask(&execute::tenant_stream(TENANT), None).await, Ok(None));
    assert_eq!(ask(&execute::messages_stream(OTHER), None).await, Ok(None));
    let missing = HistoryError::NoSuchVersion { version: 2, newest: 1 };
    assert_eq!(ask(&life, Some(AsOf::Version(2))).await, Err(missing));
    for noise in ["", "subscription", "subscription-x", "wakeup-01ARZ3NDEKTSV4RRFFQ69G5FAV"] {
        assert!(matches!(ask(noise, None).await, Err(HistoryError::UnknownStream(_))), "{noise}");
    }
}

#[test]
fn a_moment_is_read_from_its_text() {
    assert_eq!("0-17".parse(), Ok(AsOf::Position(Position { shard: 0, seq: 17 })));
    assert_eq!("17".parse(), Ok(AsOf::Version(17)));
    assert_eq!("2025-11-23T10:40:15Z".parse(), Ok(time(0)));
    for noise in ["", "0-", "-1", "00-17", "0-017", "1.5", "yesterday"] {
        assert!(noise.parse::<AsOf>().is_err(), "{noise}");
    }
}
