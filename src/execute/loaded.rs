//! A subscription from the log: from its snapshot if there is one that can be believed, else from the first event of
//! its open period, and from there on event by event.
//!
//! A snapshot is a cache. It names the event that it was folded up to in each of the two streams. Streams have one
//! writer and fixed versions, so if those events are in the log, the snapshot was folded from this log and nothing else;
//! if they are not, it is left alone, and so is one of another [`fingerprint`] or from before the open period.

use std::sync::LazyLock;

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use super::retention::{self, Config};
use super::{LoadError, PAGE, deliveries_stream, shard_of, subscription_stream};
use crate::codec;
use crate::domain::circuit::{Circuit, Opened, Phase, Recovery, Run, TripCause};
use crate::domain::event::{Event, LastFailure, SubscriptionEvent};
use crate::domain::filter::Filter;
use crate::domain::header::SealedHeaders;
use crate::domain::id::{DeliveryId, EventId, JobId, MessageId, SecretId, SubscriptionId, TenantId};
use crate::domain::job::{Ended, Job, JobStarted, Selection, Source};
use crate::domain::notice::SealedRecipients;
use crate::domain::outcome::FailureCode;
use crate::domain::retry_policy::{RetryPolicy, SuccessRule};
use crate::domain::subscription::{self, Deleted, Deliveries, Life, SecretVersion, Settings, Subscription, Trial};
use crate::domain::time::Timestamp;
use crate::event_store::{EventReader, Lifetime, Log, NewEvent, Period, ReadError, Recorded, Snapshot, StreamWrite};

/// Raised by hand whenever `evolve` makes another state of the same events, and the form of the state stays the same.
const STATE_VERSION: u32 = 8;

/// A subscription as the log tells it, with the versions of its two streams.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Loaded {
    /// The state.
    pub state: Subscription,
    /// Version of `subscription-…`.
    pub life_version: u64,
    /// Version of `deliveries-…`.
    pub deliveries_version: u64,
    /// The open period of `deliveries-…`; `None` if there is none, or none was recorded.
    pub period: Option<Period>,
    /// How many events were folded since the last snapshot, or since the first that had to be read.
    pub unsaved_events: u64,
    life_event: Option<EventId>,
    deliveries_event: Option<EventId>,
}

/// Where a snapshot stands in a stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Place {
    version: u64,
    event: EventId,
}

/// What a snapshot holds.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Saved {
    life: Place,
    /// `None` before the first delivery.
    deliveries: Option<Place>,
    state: Subscription,
}

/// Why a snapshot is not used.
#[derive(Debug, thiserror::Error)]
enum Unusable {
    #[error("it has another form")]
    Form,
    #[error("it is older than what has to be read")]
    Old,
    #[error("it cannot be read: {0}")]
    Unreadable(#[from] serde_json::Error),
    #[error("it rests on an event that is not in '{0}'")]
    OtherPast(String),
    #[error(transparent)]
    Load(LoadError),
}

impl Loaded {
    /// Folds one event in, and gives it its version.
    pub fn evolve(&mut self, event: &Event, at: Timestamp) {
        let version = match event {
            Event::Delivery(_) => &mut self.deliveries_version,
            Event::Subscription(_) | Event::Tenant(_) | Event::Message(_) => &mut self.life_version,
        };
        *version += 1;
        self.unsaved_events += 1;
        subscription::evolve(&mut self.state, event, at, *version);
    }

    /// The shard of both streams, in a log of so many: its tenant's. `None` while it was never created.
    pub fn shard(&self, shards: u16) -> Option<u16> {
        self.state.life.tenant().map(|tenant| shard_of(tenant, shards))
    }

    /// How long deliveries' events live that happen at that time.
    pub fn lifetime(&self, config: &Config, at: Timestamp) -> Lifetime {
        config.next_lifetime(self.deliveries_version, self.period, at)
    }

    /// The writes that append these events, which were folded in already; `lifetime` is for those of deliveries.
    pub fn writes(
        &mut self,
        id: SubscriptionId,
        lifetime: Lifetime,
        life: Vec<NewEvent>,
        deliveries: Vec<NewEvent>,
    ) -> Vec<StreamWrite> {
        let write = |stream, version: u64, lifetime, events: Vec<NewEvent>| StreamWrite {
            stream,
            first_version: version + 1 - events.len() as u64,
            lifetime,
            events,
        };
        let mut writes = Vec::new();
        if let Some(last) = life.last() {
            self.life_event = Some(last.id);
            writes.push(write(subscription_stream(id), self.life_version, Lifetime::Kept, life));
        }
        if let Some(last) = deliveries.last() {
            self.deliveries_event = Some(last.id);
            let write = write(deliveries_stream(id), self.deliveries_version, lifetime, deliveries);
            self.period = retention::period_behind(self.period, lifetime, write.first_version);
            if let Lifetime::Period(_) = lifetime {
                self.unsaved_events = write.events.len() as u64;
            }
            writes.push(write);
        }
        writes
    }

    /// The state to be stored; `None` for one that was never created. Equal states of the same log are equal texts.
    pub fn snapshot(&self, id: SubscriptionId) -> Option<Snapshot> {
        let place = |version, event: Option<EventId>| Some(Place { version, event: event? });
        let saved = Saved {
            life: place(self.life_version, self.life_event)?,
            // Of one that was deleted they may be gone, and nobody asks for them.
            deliveries: match self.state.life {
                Life::Deleted(_) => None,
                Life::Absent | Life::Live(_) => place(self.deliveries_version, self.deliveries_event),
            },
            state: self.state.clone(),
        };
        let data = serde_json::to_string(&saved).expect("a state has string keys");
        Some(Snapshot { key: id.to_string(), fingerprint: fingerprint().to_owned(), data })
    }

    fn restored(saved: Saved, period: Option<Period>) -> Self {
        Self {
            state: saved.state,
            life_version: saved.life.version,
            deliveries_version: saved.deliveries.map_or(0, |place| place.version),
            period,
            unsaved_events: 0,
            life_event: Some(saved.life.event),
            deliveries_event: saved.deliveries.map(|place| place.event),
        }
    }

    fn recall(&mut self, recorded: &Recorded) -> Result<(), LoadError> {
        self.recall_event(&codec::decode(recorded)?, recorded);
        Ok(())
    }

    /// Folds a recorded event in that was decoded already, and remembers which one it was.
    pub(super) fn recall_event(&mut self, event: &Event, recorded: &Recorded) {
        match event {
            Event::Delivery(_) => self.deliveries_event = Some(recorded.id),
            Event::Subscription(_) | Event::Tenant(_) | Event::Message(_) => self.life_event = Some(recorded.id),
        }
        self.evolve(event, recorded.at);
    }
}

/// A life that has fewer events is read at one go.
const SHORT_LIFE: usize = 32;

/// Loads a subscription, the quickest way that there is.
pub async fn load_subscription(log: &Log, id: SubscriptionId) -> Result<Loaded, LoadError> {
    let reader = log.reader();
    let begin = Begin::read(reader, id).await?;
    let Some(first) = begin.events.first() else { return Ok(Loaded::default()) };
    let stored = match reader.snapshot(first.position.shard, &id.to_string()).await {
        Ok(Some(stored)) => stored.snapshot,
        Ok(None) => return fold_from(reader, id, Pages::begun(reader, subscription_stream(id), begin)).await,
        Err(error) => {
            tracing::warn!(subscription.id = %id, "its snapshot cannot be read, everything else is: {error}");
            return fold_subscription(reader, id).await;
        }
    };
    match continue_from(reader, id, begin, &stored).await {
        Ok(loaded) => Ok(loaded),
        Err(Unusable::Load(error)) => Err(error),
        Err(reason @ (Unusable::Form | Unusable::Old)) => {
            tracing::debug!(subscription.id = %id, "its snapshot is not used: {reason}");
            fold_subscription(reader, id).await
        }
        Err(reason @ (Unusable::Unreadable(_) | Unusable::OtherPast(_))) => {
            tracing::warn!(subscription.id = %id, "its snapshot is not used: {reason}");
            fold_subscription(reader, id).await
        }
    }
}

/// Folds a subscription from its two streams, in the order of the log, and believes no snapshot.
pub async fn fold_subscription(reader: &dyn EventReader, id: SubscriptionId) -> Result<Loaded, LoadError> {
    fold_from(reader, id, Pages::new(reader, subscription_stream(id), 1)).await
}

async fn fold_from(reader: &dyn EventReader, id: SubscriptionId, mut life: Pages<'_>) -> Result<Loaded, LoadError> {
    let period = reader.period(&deliveries_stream(id)).await?;
    let mut life = life.all().await?;
    let mut loaded = Loaded { period, ..Loaded::default() };
    // One that was deleted owes nothing, and parts of what it owed may be gone.
    if let Some(last) = life.pop() {
        let deleted = ends_deleted(&codec::decode(&last)?);
        life.push(last);
        if deleted {
            life.iter().try_for_each(|recorded| loaded.recall(recorded))?;
            loaded.deliveries_version = reader.stream_version(&deliveries_stream(id)).await?;
            return Ok(loaded);
        }
    }
    let first_version = period.map_or(1, |period| period.first_version);
    loaded.deliveries_version = first_version - 1;
    fold(&mut loaded, life, Pages::new(reader, deliveries_stream(id), first_version)).await?;
    Ok(loaded)
}

async fn continue_from(
    reader: &dyn EventReader,
    id: SubscriptionId,
    begin: Begin,
    stored: &Snapshot,
) -> Result<Loaded, Unusable> {
    if stored.fingerprint != fingerprint() {
        return Err(Unusable::Form);
    }
    let saved: Saved = serde_json::from_str(&stored.data)?;
    let (life_stream, deliveries_stream) = (subscription_stream(id), deliveries_stream(id));
    let period = reader.period(&deliveries_stream).await.map_err(LoadError::from)?;
    let first_version = period.map_or(1, |period| period.first_version);
    let read_through = saved.deliveries.map_or(0, |place| place.version);
    if read_through < first_version && first_version > 1 {
        return Err(Unusable::Old);
    }
    let life = match begin.whole {
        true => behind(Pages::begun(reader, life_stream.clone(), begin).all().await?, saved.life)
            .ok_or(Unusable::OtherPast(life_stream))?,
        false => Pages::behind(reader, life_stream, Some(saved.life)).await?.all().await?,
    };
    if let Life::Deleted(_) = saved.state.life {
        if life.last().map(codec::decode).transpose().map_err(LoadError::from)?.is_some_and(|last| !ends_deleted(&last))
        {
            return Err(Unusable::Old);
        }
        let mut loaded = Loaded::restored(saved, period);
        life.iter().try_for_each(|recorded| loaded.recall(recorded))?;
        loaded.deliveries_version = reader.stream_version(&deliveries_stream).await.map_err(LoadError::from)?;
        return Ok(loaded);
    }
    let deliveries = Pages::behind(reader, deliveries_stream, saved.deliveries).await?;
    let mut loaded = Loaded::restored(saved, period);
    fold(&mut loaded, life, deliveries).await?;
    Ok(loaded)
}

/// How the life of a subscription began. It says in which shard that is, and is mostly all of it: a life has few events
/// where deliveries have many.
struct Begin {
    events: Vec<Recorded>,
    /// Whether there are no more.
    whole: bool,
}

impl Begin {
    async fn read(reader: &dyn EventReader, id: SubscriptionId) -> Result<Self, ReadError> {
        let stream = subscription_stream(id);
        match reader.read_stream(&stream, 1, SHORT_LIFE).await {
            Ok(events) => Ok(Self { whole: events.len() < SHORT_LIFE, events }),
            // A snapshot may stand behind the one that is damaged.
            Err(ReadError::Damaged { .. }) => {
                Ok(Self { events: reader.read_stream(&stream, 1, 1).await?, whole: false })
            }
            Err(error) => Err(error),
        }
    }
}

/// The events behind a snapshot's, if that is among them.
fn behind(mut events: Vec<Recorded>, place: Place) -> Option<Vec<Recorded>> {
    let found = events.iter().position(|event| (event.version, event.id) == (place.version, place.event))?;
    Some(events.split_off(found + 1))
}

/// Whether a life whose last event this is has ended: nothing else happens to a deleted subscription but its return.
fn ends_deleted(last: &Event) -> bool {
    matches!(last, Event::Subscription(SubscriptionEvent::Deleted(_) | SubscriptionEvent::SecretsDestroyed(_)))
}

async fn fold(loaded: &mut Loaded, life: Vec<Recorded>, mut deliveries: Pages<'_>) -> Result<(), LoadError> {
    let mut life = life.into_iter().peekable();
    while let Some(page) = deliveries.next().await? {
        for recorded in &page {
            while let Some(earlier) = life.next_if(|earlier| earlier.position < recorded.position) {
                loaded.recall(&earlier)?;
            }
            loaded.recall(recorded)?;
        }
    }
    life.try_for_each(|recorded| loaded.recall(&recorded))
}

impl From<LoadError> for Unusable {
    fn from(error: LoadError) -> Self {
        Self::Load(error)
    }
}

/// A stream, page by page, with no version left out.
struct Pages<'a> {
    reader: &'a dyn EventReader,
    stream: String,
    next_version: u64,
    ended: bool,
    /// What was read of it already.
    begin: Option<Begin>,
}

impl<'a> Pages<'a> {
    fn new(reader: &'a dyn EventReader, stream: String, next_version: u64) -> Self {
        Self { reader, stream, next_version, ended: false, begin: None }
    }

    /// One whose first events are known.
    fn begun(reader: &'a dyn EventReader, stream: String, begin: Begin) -> Self {
        Self { begin: Some(begin), ..Self::new(reader, stream, 1) }
    }

    /// Those behind a snapshot's event, which has to be there.
    async fn behind(reader: &'a dyn EventReader, stream: String, place: Option<Place>) -> Result<Self, Unusable> {
        let Some(place) = place else { return Ok(Self::new(reader, stream, 1)) };
        let found = reader.read_stream(&stream, place.version, 1).await.map_err(LoadError::from)?;
        match found.first() {
            Some(found) if (found.version, found.id) == (place.version, place.event) => {
                Ok(Self::new(reader, stream, place.version + 1))
            }
            Some(_) | None => Err(Unusable::OtherPast(stream)),
        }
    }

    async fn next(&mut self) -> Result<Option<Vec<Recorded>>, LoadError> {
        if self.ended {
            return Ok(None);
        }
        let page = match self.begin.take() {
            Some(Begin { events, whole }) => {
                self.ended = whole;
                events
            }
            None => {
                let page = self.reader.read_stream(&self.stream, self.next_version, PAGE).await?;
                self.ended = page.len() < PAGE;
                page
            }
        };
        for recorded in &page {
            if recorded.version != self.next_version {
                let (stream, before) = (self.stream.clone(), recorded.position);
                return Err(LoadError::Missing { stream, version: self.next_version, before });
            }
            self.next_version += 1;
        }
        Ok(Some(page))
    }

    async fn all(&mut self) -> Result<Vec<Recorded>, LoadError> {
        let mut events = Vec::new();
        while let Some(page) = self.next().await? {
            events.extend(page);
        }
        Ok(events)
    }
}

/// The form of the states that this program saves: what they consist of, and [`STATE_VERSION`].
fn fingerprint() -> &'static str {
    static FINGERPRINT: LazyLock<String> = LazyLock::new(|| {
        let mut form = String::new();
        for sample in samples() {
            describe(&serde_json::to_value(sample).expect("a state has string keys"), &mut form);
        }
        format!("subscription-{STATE_VERSION}-{}", hex::encode(&Sha256::digest(form)[..8]))
    });
    &FINGERPRINT
}

/// One state of each form, with nothing left out.
fn samples() -> [Saved; 3] {
    let place = Place { version: 1, event: EventId::from_parts(1, 1) };
    let at = Timestamp::from_ms(1);
    let settings = Settings {
        id: SubscriptionId::from_parts(1, 1),
        tenant: TenantId::from_parts(1, 1),
        profile: "axie-v1".into(),
        url: "https://example.com/".into(),
        description: Some("sample".into()),
        filters: vec![Filter::parse("**").expect("it is a filter")],
        enabled: true,
        secrets: vec![SecretVersion { id: SecretId::from_parts(1, 1), version: 1, retires_at: Some(at) }],
        revision: 1,
        rate_limit_per_s: Some(1),
        ordered: true,
        hold_until: Some(at),
        headers: Some(Box::new(SealedHeaders {
            secret: SecretId::from_parts(1, 1),
            names: vec!["X-Sample".into()],
            fingerprint: "00".into(),
        })),
        retry_policy: Some(Box::new(RetryPolicy {
            max_attempts: Some(1),
            delays_s: Some(vec![1]),
            timeout_s: Some(1),
            success: Some(SuccessRule::Only200),
        })),
        recipients: Some(Box::new(SealedRecipients {
            secret: SecretId::from_parts(1, 1),
            count: 1,
            fingerprint: "00".into(),
        })),
    };
    let owed = subscription::Open {
        message: MessageId::from_parts(1, 1),
        message_seq: 1,
        scheduled_at: at,
        due_at: at,
        failures: 0,
        uncounted: 0,
        sequence: Some(1),
        revision: Some(1),
        last_failure: Some(LastFailure { code: FailureCode::Status, status: Some(500), delay_ms: 1 }),
        version: 1,
    };
    let deliveries = || Deliveries::of([(DeliveryId::from_parts(1, 1), owed)], 1, 1);
    let deleted = Deleted { tenant: settings.tenant, restorable_until: Some(at), settings: Some(settings.clone()) };
    let run = Run {
        failures: 1,
        deliveries: vec![DeliveryId::from_parts(1, 1)],
        last_ended_at: Some(at),
        soft: 1,
        soft_since: Some(at),
    };
    let opened = Opened { since: at, cause: TripCause::HardFailures, probe_at: Some(at), failed_probes: 1 };
    let recovery = Recovery {
        since: at,
        level: Some(1),
        successes: 1,
        failures: 1,
        last_ended_at: Some(at),
        automatic: true,
        failed_probes: 1,
    };
    let source = Source::Redelivery(vec![Ended::Failed]);
    let filters = vec![Filter::parse("**").expect("it is a filter")];
    let selection = Selection { source, after: 1, through: 1, filters };
    let started = JobStarted { job: JobId::from_parts(1, 1), selection, rate_per_s: 1, total: Some(1) };
    let job = Job::new(started, at);
    let phases = [Phase::Closed(run), Phase::Open(opened), Phase::HalfOpen(recovery)];
    let lives = [Life::Absent, Life::Live(settings), Life::Deleted(deleted)];
    std::array::from_fn(|index| Saved {
        life: place,
        deliveries: Some(place),
        state: Subscription {
            life: lives[index].clone(),
            deliveries: deliveries(),
            circuit: Circuit { phase: phases[index].clone(), hold_until: Some(at) },
            job: Some(Box::new(job.clone())),
            blocked_at: Some(at),
            trial: Trial { url_since: 1, stood: Some(1) },
        },
    })
}

/// Names and kinds of everything in the value, in its order.
fn describe(value: &serde_json::Value, form: &mut String) {
    use serde_json::Value;
    match value {
        Value::Null => form.push('0'),
        Value::Bool(_) => form.push('b'),
        Value::Number(_) => form.push('n'),
        Value::String(_) => form.push('s'),
        Value::Array(values) => {
            form.push('[');
            values.iter().for_each(|value| describe(value, form));
            form.push(']');
        }
        Value::Object(values) => {
            form.push('{');
            for (name, value) in values {
                form.push_str(name);
                form.push(':');
                describe(value, form);
            }
            form.push('}');
        }
    }
}

#[cfg(test)]
#[path = "loaded_tests.rs"]
mod tests;
