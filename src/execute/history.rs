//! How a subscription was set at an earlier moment, and what it owed then.
//!
//! Read straight from the log, not from a projection. A table that could answer for every past moment would be a second
//! copy of the log; the stream of a subscription's own life is short, is never dropped, knows what was deleted, and
//! shows an acknowledged change at once. Two tenants never meet here: a subscription of somebody else is found as little
//! as one that never was.
//!
//! - Streams are read page by page, and nothing is kept of a page but what was asked for.
//! - What one caller may read has a bound, [`MAX_EVENTS_READ`], which all its questions share.
//! - A time means the state behind the last event that was recorded at or before it. Clocks are set back now and then:
//!   what stands before that event in the log belongs to it, whatever time it carries.

use std::collections::VecDeque;
use std::ops::ControlFlow;
use std::str::FromStr;
use std::sync::atomic::{AtomicUsize, Ordering};

use super::{LoadError, Meta, PAGE, deliveries_stream, subscription_stream};
use crate::codec::{self, DecodeError};
use crate::domain::circuit::CircuitState;
use crate::domain::event::{DeliveryEvent, Event, SubscriptionEvent};
use crate::domain::id::{SubscriptionId, TenantId};
use crate::domain::subscription::{self, Backlog, History, Subscription, Version};
use crate::domain::time::Timestamp;
use crate::error_code::ErrorCode;
use crate::event_store::{EventReader, Position, ReadError, Recorded, StreamName};

/// The most events that one request may have read for it: about a second's work.
pub const MAX_EVENTS_READ: usize = 100_000;

/// Which moment is meant.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AsOf {
    /// Behind the event at this position, which need not be one of the subscription's own.
    Position(Position),
    /// Behind the last event that was recorded at or before this time. A time to come is answered as things stand.
    Time(Timestamp),
    /// Behind this version: of the settings where those are asked for, of the stream where a stream is.
    Version(u64),
}

/// The text names no moment.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("'{0}' is neither a position (0-17) nor a version (17) nor a time (2026-06-02T14:32:11Z)")]
pub struct InvalidAsOf(String);

impl FromStr for AsOf {
    type Err = InvalidAsOf;

    fn from_str(text: &str) -> Result<Self, InvalidAsOf> {
        let position = text.parse().map(Self::Position).ok();
        let version = || text.parse().map(Self::Version).ok();
        let time = || Timestamp::parse(text).map(Self::Time).ok();
        position.or_else(version).or_else(time).ok_or_else(|| InvalidAsOf(text.chars().take(64).collect()))
    }
}

/// Why the past cannot be told.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum HistoryError {
    /// The log cannot be read.
    #[error(transparent)]
    Load(#[from] LoadError),
    /// [`MAX_EVENTS_READ`] would be passed.
    #[error("more than {MAX_EVENTS_READ} events would have to be read")]
    TooManyEvents,
    /// A position of another shard has no place in the order of this one.
    #[error("position {position} is in another shard than what is asked for, which is in shard {shard}")]
    OtherShard {
        /// The position.
        position: Position,
        /// Where the stream is.
        shard: u16,
    },
    /// Nothing is recorded there yet.
    #[error("position {position} lies ahead of the log, whose newest is {head}")]
    Ahead {
        /// The position.
        position: Position,
        /// The newest of its shard.
        head: Position,
    },
    /// No such version yet.
    #[error("there is no version {version}; the newest is {newest}")]
    NoSuchVersion {
        /// The version.
        version: u64,
        /// What there is.
        newest: u64,
    },
    /// The events of that time are older than retention.
    #[error("what '{stream}' held then has been dropped; its oldest event is {oldest}")]
    Dropped {
        /// The stream.
        stream: StreamName,
        /// The oldest that is left.
        oldest: Position,
    },
    /// No stream of ours is called so.
    #[error("'{0}' is no stream of a tenant, its messages, a subscription or its deliveries")]
    UnknownStream(StreamName),
}

impl From<ReadError> for HistoryError {
    fn from(error: ReadError) -> Self {
        Self::Load(error.into())
    }
}

impl From<DecodeError> for HistoryError {
    fn from(error: DecodeError) -> Self {
        Self::Load(error.into())
    }
}

impl HistoryError {
    /// The code that clients match on.
    pub fn code(&self) -> ErrorCode {
        match self {
            Self::Load(_) => ErrorCode::Internal,
            Self::TooManyEvents => ErrorCode::LimitExceeded,
            Self::OtherShard { .. }
            | Self::Ahead { .. }
            | Self::NoSuchVersion { .. }
            | Self::Dropped { .. }
            | Self::UnknownStream(_) => ErrorCode::InvalidInput,
        }
    }
}

/// How many more events may be read. One for each request, shared by all that it asks.
#[derive(Debug)]
pub struct Budget(AtomicUsize);

impl Default for Budget {
    fn default() -> Self {
        Self::of(MAX_EVENTS_READ)
    }
}

impl Budget {
    /// So many.
    pub const fn of(events: usize) -> Self {
        Self(AtomicUsize::new(events))
    }

    /// Allows as many as a request may read, however many were read before: for what answers again and again.
    pub fn renew(&self) {
        self.0.store(MAX_EVENTS_READ, Ordering::Relaxed);
    }

    /// How many may be read at once; none if the budget is spent.
    fn page(&self) -> Result<usize, HistoryError> {
        match self.0.load(Ordering::Relaxed) {
            0 => Err(HistoryError::TooManyEvents),
            left => Ok(left.min(PAGE)),
        }
    }

    fn spend(&self, events: usize) {
        // Fields that read at the same time may pass the bound by a page each.
        self.0.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |left| Some(left.saturating_sub(events))).ok();
    }
}

/// A version of a subscription's settings, with what the log knows of it.
#[derive(Clone, Debug, PartialEq)]
pub struct RecordedVersion {
    /// The version.
    pub version: Version,
    /// Where the event stands that made it.
    pub position: Position,
    /// Who made it, and in which request.
    pub meta: Meta,
    /// Until when it held; `None` if it still does.
    pub until: Option<Timestamp>,
    /// How far the circuit breaker let the subscription send: at the moment that was asked for, or when the version
    /// began where versions are listed. Closed once it was deleted.
    pub circuit: CircuitState,
    /// The moment that was asked for: a time as it was given, a position as the time of the subscription's last own event
    /// up to there. When the version began where a version was asked for, or versions are listed.
    pub as_of: Timestamp,
}

/// A moment in a subscription's two streams.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Cut {
    /// Everything up to here is before it.
    through: Position,
    /// And what was recorded up to this time.
    until: Option<Timestamp>,
}

impl Cut {
    /// Right behind the event at the position.
    pub fn at(position: Position) -> Self {
        Self { through: position, until: None }
    }

    fn holds(&self, recorded: &Recorded) -> bool {
        recorded.position <= self.through || self.until.is_some_and(|until| recorded.at <= until)
    }
}

/// Which versions are wanted; they come newest first.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Range {
    /// Only those older than this one.
    pub after: Option<u64>,
    /// Only those newer than this one.
    pub before: Option<u64>,
    /// How many at most.
    pub limit: usize,
    /// Whether the oldest of the range are wanted instead of the newest.
    pub from_end: bool,
}

/// How the tenant's subscription was set then, and the moment itself, for [`open_deliveries`]. `None` if the tenant has
/// and had no such subscription, or had it not yet.
pub async fn snapshot(
    reader: &dyn EventReader,
    owner: TenantId,
    id: SubscriptionId,
    as_of: AsOf,
    budget: &Budget,
) -> Result<Option<(RecordedVersion, Cut)>, HistoryError> {
    find(reader, Some(owner), id, as_of, budget).await
}

/// As [`snapshot`], whosever the subscription is if no owner is named.
pub(super) async fn find(
    reader: &dyn EventReader,
    owner: Option<TenantId>,
    id: SubscriptionId,
    as_of: AsOf,
    budget: &Budget,
) -> Result<Option<(RecordedVersion, Cut)>, HistoryError> {
    let (mut newest, mut found): (Option<RecordedVersion>, Option<RecordedVersion>) = (None, None);
    let mut through = None;
    walk(reader, owner, id, budget, |Visit { recorded, version, made, circuit, .. }| {
        if made {
            if let Some(earlier) = found.as_mut().filter(|found| found.version.number + 1 == version.number) {
                earlier.until = Some(version.since);
            }
            newest = Some(recorded_version(recorded, version, circuit)?);
        }
        let (within, passed) = match as_of {
            AsOf::Position(position) => (recorded.position <= position, recorded.position > position),
            // One that was recorded later may carry an earlier time.
            AsOf::Time(time) => (recorded.at <= time, false),
            AsOf::Version(wanted) => (version.number <= wanted, version.number > wanted),
        };
        if within {
            if found.as_ref().is_none_or(|found| found.version.number != version.number) {
                found.clone_from(&newest);
            }
            let moment = match as_of {
                AsOf::Position(_) => Some(recorded.at),
                AsOf::Time(time) => Some(time),
                AsOf::Version(_) => None,
            };
            if let (Some(moment), Some(found)) = (moment, &mut found) {
                (found.circuit, found.as_of) = (circuit, moment);
            }
            through = Some(recorded.position);
        }
        let known = found.as_ref().is_none_or(|found| found.until.is_some());
        Ok(if passed && known { ControlFlow::Break(()) } else { ControlFlow::Continue(()) })
    })
    .await?;
    let Some(newest) = newest else { return Ok(None) };
    match as_of {
        AsOf::Position(position) => check(reader, position, newest.position.shard).await?,
        AsOf::Version(version) if version > newest.version.number => {
            return Err(HistoryError::NoSuchVersion { version, newest: newest.version.number });
        }
        AsOf::Version(_) | AsOf::Time(_) => {}
    }
    let cut = |found: &RecordedVersion| match as_of {
        AsOf::Position(position) => Cut::at(position),
        AsOf::Time(time) => Cut { through: through.unwrap_or(found.position), until: Some(time) },
        AsOf::Version(_) => Cut::at(found.position),
    };
    Ok(found.map(|found| {
        let cut = cut(&found);
        (found, cut)
    }))
}

/// The versions of the tenant's subscription in the range, and whether the range has more of them. `None` if the tenant
/// has and had no such subscription.
pub async fn versions(
    reader: &dyn EventReader,
    owner: TenantId,
    id: SubscriptionId,
    range: Range,
    budget: &Budget,
) -> Result<Option<(Vec<RecordedVersion>, bool)>, HistoryError> {
    let (mut found, mut has_more, mut exists) = (VecDeque::<RecordedVersion>::new(), false, false);
    walk(reader, Some(owner), id, budget, |Visit { recorded, version, made, circuit, .. }| {
        exists = true;
        if !made {
            return Ok(ControlFlow::Continue(()));
        }
        if let Some(earlier) = found.back_mut().filter(|earlier| earlier.version.number + 1 == version.number) {
            earlier.until = Some(version.since);
        }
        if range.after.is_some_and(|after| version.number >= after) {
            return Ok(ControlFlow::Break(()));
        }
        if range.before.is_none_or(|before| version.number > before) {
            match found.len() < range.limit {
                true => {}
                false if range.from_end => {
                    has_more = true;
                    return Ok(ControlFlow::Break(()));
                }
                false => {
                    has_more = true;
                    found.pop_front();
                }
            }
            found.push_back(recorded_version(recorded, version, circuit)?);
        }
        Ok(ControlFlow::Continue(()))
    })
    .await?;
    Ok(exists.then(|| (found.into_iter().rev().collect(), has_more)))
}

/// The subscription's version when the delivery was scheduled that the event there tells of; `None` if it tells of none.
pub async fn scheduled_under(
    reader: &dyn EventReader,
    position: Position,
    budget: &Budget,
) -> Result<Option<u64>, HistoryError> {
    budget.page()?;
    let before = Position { seq: position.seq.saturating_sub(1), ..position };
    let events = reader.read_log(before, 1).await?;
    budget.spend(events.len());
    let Some(recorded) = events.first().filter(|recorded| recorded.position == position) else { return Ok(None) };
    Ok(match codec::decode(recorded)? {
        Event::Delivery(DeliveryEvent::Scheduled(scheduled)) => Some(scheduled.revision),
        Event::Delivery(DeliveryEvent::Backfilled(backfilled)) => Some(backfilled.revision),
        Event::Delivery(_) | Event::Message(_) | Event::Subscription(_) | Event::Tenant(_) => None,
    })
}

/// How the tenant's subscription was set where a message stands in the log, and what its circuit breaker made of that
/// message since. No settings: it was created later. `None` if the tenant has and had no such subscription.
pub async fn backlog(
    reader: &dyn EventReader,
    owner: TenantId,
    id: SubscriptionId,
    message: Position,
    budget: &Budget,
) -> Result<Option<(Option<Version>, Backlog)>, HistoryError> {
    let (mut then, mut backlog, mut exists) = (None, Backlog::of(message.seq), false);
    walk(reader, Some(owner), id, budget, |Visit { recorded, event, version, .. }| {
        exists = true;
        if recorded.position <= message {
            then = Some(version.clone());
        }
        backlog.evolve(event, recorded.at);
        Ok(ControlFlow::Continue(()))
    })
    .await?;
    Ok(exists.then_some((then, backlog)))
}

/// How many deliveries of the subscription had not ended at that moment; `None` if retention has dropped the events
/// that would tell.
pub async fn open_deliveries(
    reader: &dyn EventReader,
    of: &Version,
    cut: Cut,
    budget: &Budget,
) -> Result<Option<usize>, HistoryError> {
    Ok(owed(reader, of, cut, budget).await?.map(|state| state.open_count()))
}

/// What the subscription owed; `None` if retention has dropped the events that would tell.
pub(super) async fn owed(
    reader: &dyn EventReader,
    of: &Version,
    cut: Cut,
    budget: &Budget,
) -> Result<Option<Subscription>, HistoryError> {
    let mut state = Subscription::default();
    if of.deleted || of.restored {
        return Ok(Some(state));
    }
    let stream = deliveries_stream(of.settings.id);
    let begin = beginning(reader, &stream, cut).await?;
    let mut pages = Pages::from(reader, stream, begin, budget);
    'pages: while let Some(page) = pages.next().await? {
        for recorded in &page {
            if !cut.holds(recorded) {
                break 'pages;
            }
            subscription::evolve(&mut state, &codec::decode(recorded)?, recorded.at, recorded.version);
        }
    }
    Ok(Some(state).filter(|_| pages.whole))
}

/// From which version on the deliveries are to be read: the open period's first if the moment is not before it, since
/// that carries all that came earlier.
async fn beginning(reader: &dyn EventReader, stream: &str, cut: Cut) -> Result<u64, HistoryError> {
    let Some(period) = reader.period(stream).await? else { return Ok(1) };
    let first = reader.read_stream(stream, period.first_version, 1).await?;
    Ok(if first.first().is_some_and(|first| cut.holds(first)) { period.first_version } else { 1 })
}

/// An event of a subscription's own stream, and how things stand behind it.
struct Visit<'a> {
    recorded: &'a Recorded,
    event: &'a SubscriptionEvent,
    /// The version that holds.
    version: &'a Version,
    /// Whether the event made it.
    made: bool,
    circuit: CircuitState,
}

/// Leads through the events of a subscription's own stream. Visits nothing if the subscription is another's.
async fn walk(
    reader: &dyn EventReader,
    owner: Option<TenantId>,
    id: SubscriptionId,
    budget: &Budget,
    mut visit: impl FnMut(Visit<'_>) -> Result<ControlFlow<()>, HistoryError>,
) -> Result<(), HistoryError> {
    let (mut history, mut state) = (History::default(), Subscription::default());
    let mut pages = Pages::of(reader, subscription_stream(id), budget);
    while let Some(page) = pages.next().await? {
        for recorded in &page {
            let event = codec::decode(recorded)?;
            subscription::evolve(&mut state, &event, recorded.at, recorded.version);
            let Event::Subscription(event) = &event else { continue };
            if let SubscriptionEvent::Created(created) = event
                && owner.is_some_and(|owner| owner != created.tenant)
            {
                return Ok(());
            }
            let made = history.evolve(event, recorded.at);
            let Some(version) = history.newest() else { continue };
            if visit(Visit { recorded, event, version, made, circuit: state.circuit.state() })?.is_break() {
                return Ok(());
            }
        }
    }
    Ok(())
}

fn recorded_version(
    recorded: &Recorded,
    version: &Version,
    circuit: CircuitState,
) -> Result<RecordedVersion, HistoryError> {
    let (version, position, meta) = (version.clone(), recorded.position, meta(recorded)?);
    let as_of = version.since;
    Ok(RecordedVersion { version, position, meta, until: None, circuit, as_of })
}

fn meta(recorded: &Recorded) -> Result<Meta, DecodeError> {
    let Some(text) = &recorded.meta else { return Ok(Meta::system()) };
    serde_json::from_str(text).map_err(|error| DecodeError::Damaged {
        position: recorded.position,
        stream: recorded.stream.clone(),
        kind: recorded.kind.to_string(),
        reason: error.to_string(),
    })
}

/// Whether the position can be meant in this shard at all.
pub(super) async fn check(reader: &dyn EventReader, position: Position, shard: u16) -> Result<(), HistoryError> {
    if position.shard != shard {
        return Err(HistoryError::OtherShard { position, shard });
    }
    let head = Position { shard, seq: reader.head(shard).await? };
    if position > head { Err(HistoryError::Ahead { position, head }) } else { Ok(()) }
}

/// A stream, page by page.
pub(super) struct Pages<'a> {
    reader: &'a dyn EventReader,
    stream: StreamName,
    budget: &'a Budget,
    next: u64,
    ended: bool,
    /// Whether the first event that was read is the one that was to be the first; also if there is none at all.
    whole: bool,
}

impl<'a> Pages<'a> {
    pub(super) fn of(reader: &'a dyn EventReader, stream: StreamName, budget: &'a Budget) -> Self {
        Self::from(reader, stream, 1, budget)
    }

    fn from(reader: &'a dyn EventReader, stream: StreamName, first_version: u64, budget: &'a Budget) -> Self {
        Self { reader, stream, budget, next: first_version, ended: false, whole: true }
    }

    /// The next events, at least one; `None` behind the last.
    pub(super) async fn next(&mut self) -> Result<Option<Vec<Recorded>>, HistoryError> {
        if self.ended {
            return Ok(None);
        }
        let limit = self.budget.page()?;
        let page = self.reader.read_stream(&self.stream, self.next, limit).await?;
        self.budget.spend(page.len());
        self.ended = page.len() < limit;
        let Some((first, last)) = page.first().zip(page.last()) else { return Ok(None) };
        // Later pages always begin where the one before ended: the log has no holes behind what retention dropped.
        self.whole &= first.version == self.next;
        self.next = last.version + 1;
        Ok(Some(page))
    }
}
