//! A subscription and the deliveries it owes: the one aggregate of delivery.
//!
//! Its state is a fold over two streams, `subscription-…` (what people do to it) and `deliveries-…` (what it owes and
//! how each attempt went). Both have this one writer, so one decision may extend both.
//!
//! - A message is scheduled at most once: positions at or below the highest matched one are ignored.
//! - While it is disabled nothing is due; what it owes is held, and due again once it is enabled.
//! - Deleting it ends everything it owes; a result that comes later finds nothing pending.
//! - What it owes is carried from period to period: folded from the first event of any period, the state is the same.

mod deliveries;
mod history;
mod settings;

pub use deliveries::{Deliveries, Open};
pub use history::{Field, FieldChange, History, KnownSecret, Version};
pub use settings::{SecretVersion, Settings};

use serde::{Deserialize, Serialize};

use super::event::{
    AttemptFailed, Change, DeliveryEvent, DeliveryExhausted, DeliveryExpired, DeliveryScheduled, DeliverySucceeded,
    Event, ExpiryReason, RedeliveryRequested, SecretRotated, SubscriptionCreated, SubscriptionDeleted,
    SubscriptionDisabled, SubscriptionEnabled, SubscriptionEvent, SubscriptionUpdated, TestSent,
};
use super::filter::Filter;
use super::id::{DeliveryId, MessageId, SecretId, TenantId};
use super::outcome::{Exchange, FailureCode};
use super::profile::{self, FiltersRefused, Redelivery, UnknownProfile};
use super::time::Timestamp;
use crate::error_code::ErrorCode;

/// The most characters of a description (S6).
pub const MAX_DESCRIPTION_CHARS: usize = 200;
/// The most attempts a second that a rate limit can allow.
pub const MAX_RATE_LIMIT_PER_S: u32 = 10_000;

/// A subscription with what it owes.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Subscription {
    /// Whether there is one, and how it is set.
    pub life: Life,
    /// What it owes.
    pub deliveries: Deliveries,
}

/// From nothing to gone.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Life {
    /// Never created.
    #[default]
    Absent,
    /// There, with its settings.
    Live(Settings),
    /// Deleted; it was this tenant's.
    Deleted(TenantId),
}

impl Life {
    /// Whose it is or was; nobody's before it was created.
    pub fn tenant(&self) -> Option<TenantId> {
        match self {
            Self::Absent => None,
            Self::Live(settings) => Some(settings.tenant),
            Self::Deleted(tenant) => Some(*tenant),
        }
    }
}

/// What a subscription can be asked to do. Brings all that the decision needs.
#[derive(Clone, Debug, PartialEq)]
pub enum Command {
    /// Come into being.
    Create(SubscriptionCreated),
    /// Change settings; what is `None` stays.
    Update(Update),
    /// Begin to send.
    Enable,
    /// Stop sending.
    Disable {
        /// Why, for the audit log.
        reason: Option<String>,
    },
    /// Take a new secret, which the caller has sealed already.
    RotateSecret {
        /// Under which it is sealed.
        secret: SecretId,
        /// Its keyed fingerprint.
        fingerprint: String,
        /// For how long the old one goes on signing; the profile's default if `None`.
        overlap_s: Option<u64>,
        /// Now.
        at: Timestamp,
    },
    /// Remember a test delivery.
    RecordTest(TestSent),
    /// Owe these messages.
    Match(Matches),
    /// Remember how an attempt went.
    FinishAttempt(Finished),
    /// Owe a message again.
    Redeliver(Redeliver),
    /// Give up a delivery whose message is gone.
    Expire {
        /// The delivery.
        delivery: DeliveryId,
        /// What is gone.
        reason: ExpiryReason,
    },
    /// Begin a new period, which carries what is owed.
    OpenPeriod {
        /// Messages up to this number are gone, or about to be: what is owed of them is given up.
        gone_through: u64,
    },
    /// Cease to be.
    Delete {
        /// The revision that the caller has seen.
        expected_revision: Option<u64>,
    },
}

/// New settings; what is `None` stays.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Update {
    /// The revision that the caller has seen.
    pub expected_revision: Option<u64>,
    /// Where to send.
    pub url: Option<String>,
    /// What it is for; `Some(None)` clears it.
    pub description: Option<Option<String>>,
    /// What to send.
    pub filters: Option<Vec<Filter>>,
    /// Attempts a second at most; `Some(None)` lifts the limit.
    pub rate_limit_per_s: Option<Option<u32>>,
}

/// Messages that the filters matched, in log order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Matches {
    /// Number of the match before the first of these; `None` if everything before them is known to be durable.
    pub after: Option<u64>,
    /// The messages.
    pub found: Vec<Match>,
}

/// A message that the filters matched as of its position.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Match {
    /// Id for the delivery, if there is to be one.
    pub delivery: DeliveryId,
    /// The message.
    pub message: MessageId,
    /// Its number in the shard's log.
    pub message_seq: u64,
}

/// An attempt that ended.
#[derive(Clone, Debug, PartialEq)]
pub struct Finished {
    /// Of this delivery.
    pub delivery: DeliveryId,
    /// The attempt's number, from 1.
    pub number: u32,
    /// The revision that it was sent under.
    pub revision: u64,
    /// When it began.
    pub started_at: Timestamp,
    /// When it ended.
    pub ended_at: Timestamp,
    /// How it went.
    pub exchange: Exchange,
    /// Spreads the delay until the next one.
    pub random: u64,
}

/// A request to send an ended delivery again, with what the caller has read of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Redeliver {
    /// The ended one.
    pub original: DeliveryId,
    /// Whether it failed.
    pub original_failed: bool,
    /// Id of the new one.
    pub delivery: DeliveryId,
    /// The message.
    pub message: MessageId,
    /// Its number in the shard's log.
    pub message_seq: u64,
}

/// Why a command is refused.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
pub enum Refusal {
    /// There is no such subscription.
    #[error("there is no such webhook")]
    NotFound,
    /// The id is in use.
    #[error("the webhook exists already")]
    Exists,
    /// The settings changed meanwhile.
    #[error("the webhook is at version {actual}, not {expected}")]
    RevisionConflict {
        /// What the caller has seen.
        expected: u64,
        /// What it is.
        actual: u64,
    },
    /// The profile refuses the filters.
    #[error(transparent)]
    Filters(#[from] FiltersRefused),
    /// The profile does not exist.
    #[error(transparent)]
    Profile(#[from] UnknownProfile),
    /// Too long a description.
    #[error("the description has {0} characters; at most {MAX_DESCRIPTION_CHARS} are allowed")]
    DescriptionTooLong(usize),
    /// No rate at all, or a higher one than there can be.
    #[error("a rate limit is 1 to {MAX_RATE_LIMIT_PER_S} attempts a second")]
    RateLimitOutOfRange,
    /// The profile does not let the old secret live so long.
    #[error("the old secret may go on for {max_s} seconds at most under profile '{profile}'")]
    OverlapTooLong {
        /// The profile.
        profile: String,
        /// What it allows.
        max_s: u64,
    },
    /// The delivery has not ended.
    #[error("delivery {0} is still under way")]
    StillOpen(DeliveryId),
    /// The profile sends only failed ones again.
    #[error("delivery {0} succeeded, and profile '{1}' sends only failed deliveries again")]
    Succeeded(DeliveryId, String),
    /// Nothing is sent while disabled.
    #[error("the webhook is disabled")]
    Disabled,
    /// A match between the last one seen and these was lost on the way: they would hide it.
    #[error("a match after message {after} is missing")]
    MatchMissing {
        /// The last one seen.
        after: u64,
    },
    /// The attempt's delivery has ended, or another attempt has counted in its place.
    #[error("delivery {0} awaits no such attempt")]
    NotPending(DeliveryId),
}

impl Refusal {
    /// The code that clients match on.
    pub fn code(&self) -> ErrorCode {
        match self {
            Self::NotFound | Self::NotPending(_) | Self::MatchMissing { .. } => ErrorCode::NotFound,
            Self::Exists | Self::RevisionConflict { .. } => ErrorCode::VersionConflict,
            Self::Filters(_) => ErrorCode::WebhookFilterInvalid,
            Self::Profile(_)
            | Self::DescriptionTooLong(_)
            | Self::RateLimitOutOfRange
            | Self::OverlapTooLong { .. } => ErrorCode::InvalidInput,
            Self::StillOpen(_) | Self::Succeeded(..) | Self::Disabled => ErrorCode::NotRedeliverable,
        }
    }
}

/// Says what happens. Reads nothing but its arguments. No events: nothing is to change.
pub fn decide(state: &Subscription, command: Command) -> Result<Vec<Event>, Refusal> {
    match command {
        Command::Create(created) => create(state, created),
        Command::Update(update) => change(state.settings()?, update),
        Command::Enable => Ok(match state.settings()?.enabled {
            true => vec![],
            false => vec![subscription(SubscriptionEvent::Enabled(SubscriptionEnabled {}))],
        }),
        Command::Disable { reason } => Ok(match state.settings()?.enabled {
            true => vec![subscription(SubscriptionEvent::Disabled(SubscriptionDisabled { reason }))],
            false => vec![],
        }),
        Command::RotateSecret { secret, fingerprint, overlap_s, at } => {
            rotate(state.settings()?, secret, fingerprint, overlap_s, at)
        }
        Command::RecordTest(sent) => state.settings().map(|_| vec![subscription(SubscriptionEvent::TestSent(sent))]),
        Command::Match(matches) => schedule(state, &matches),
        Command::FinishAttempt(finished) => finish(state, finished),
        Command::Redeliver(request) => redeliver(state, request),
        Command::Expire { delivery, reason } => {
            state.settings()?;
            state.deliveries.open.get(&delivery).ok_or(Refusal::NotPending(delivery))?;
            Ok(vec![Event::Delivery(DeliveryEvent::Expired(DeliveryExpired { delivery, reason }))])
        }
        Command::OpenPeriod { gone_through } => {
            state.settings()?;
            Ok(state.deliveries.open_period(gone_through).into_iter().map(Event::Delivery).collect())
        }
        Command::Delete { expected_revision } => {
            check_revision(state.settings()?, expected_revision)?;
            let cancelled = state.deliveries.open.len() as u64;
            Ok(vec![subscription(SubscriptionEvent::Deleted(SubscriptionDeleted { cancelled }))])
        }
    }
}

fn subscription(event: SubscriptionEvent) -> Event {
    Event::Subscription(event)
}

fn create(state: &Subscription, created: SubscriptionCreated) -> Result<Vec<Event>, Refusal> {
    match state.life {
        Life::Absent => {}
        Life::Live(_) | Life::Deleted(_) => return Err(Refusal::Exists),
    }
    profile::find(&created.profile)?.check_filters(&created.filters)?;
    check_description(created.description.as_deref())?;
    check_rate_limit(created.rate_limit_per_s)?;
    Ok(vec![subscription(SubscriptionEvent::Created(created))])
}

fn change(settings: &Settings, update: Update) -> Result<Vec<Event>, Refusal> {
    check_revision(settings, update.expected_revision)?;
    if let Some(filters) = &update.filters {
        profile::find(&settings.profile)?.check_filters(filters)?;
    }
    check_description(update.description.as_ref().and_then(|description| description.as_deref()))?;
    check_rate_limit(update.rate_limit_per_s.flatten())?;
    let event = SubscriptionUpdated {
        url: difference(&settings.url, update.url),
        description: difference(&settings.description, update.description),
        filters: difference(&settings.filters, update.filters),
        rate_limit_per_s: difference(&settings.rate_limit_per_s, update.rate_limit_per_s),
    };
    Ok(if event == SubscriptionUpdated::default() {
        vec![]
    } else {
        vec![subscription(SubscriptionEvent::Updated(event))]
    })
}

fn difference<T: Clone + PartialEq>(from: &T, to: Option<T>) -> Option<Change<T>> {
    to.filter(|to| to != from).map(|to| Change { from: from.clone(), to })
}

fn check_revision(settings: &Settings, expected: Option<u64>) -> Result<(), Refusal> {
    match expected {
        Some(expected) if expected != settings.revision => {
            Err(Refusal::RevisionConflict { expected, actual: settings.revision })
        }
        Some(_) | None => Ok(()),
    }
}

fn check_description(description: Option<&str>) -> Result<(), Refusal> {
    match description.map_or(0, |text| text.chars().count()) {
        count if count > MAX_DESCRIPTION_CHARS => Err(Refusal::DescriptionTooLong(count)),
        _ => Ok(()),
    }
}

fn check_rate_limit(per_s: Option<u32>) -> Result<(), Refusal> {
    match per_s {
        Some(per_s) if !(1..=MAX_RATE_LIMIT_PER_S).contains(&per_s) => Err(Refusal::RateLimitOutOfRange),
        Some(_) | None => Ok(()),
    }
}

fn rotate(
    settings: &Settings,
    secret: SecretId,
    fingerprint: String,
    overlap_s: Option<u64>,
    at: Timestamp,
) -> Result<Vec<Event>, Refusal> {
    let profile = profile::find(&settings.profile)?;
    let overlap_s = overlap_s.unwrap_or(profile.rotation_overlap_default_s);
    if overlap_s > profile.rotation_overlap_max_s {
        return Err(Refusal::OverlapTooLong { profile: profile.name.clone(), max_s: profile.rotation_overlap_max_s });
    }
    let previous_retires_at = (overlap_s > 0).then(|| at.plus_ms(overlap_s * 1_000));
    let version = settings.next_secret_version();
    let rotated = SecretRotated { secret, version, fingerprint, previous_retires_at };
    Ok(vec![subscription(SubscriptionEvent::SecretRotated(rotated))])
}

fn schedule(state: &Subscription, matches: &Matches) -> Result<Vec<Event>, Refusal> {
    let Life::Live(settings) = &state.life else { return Ok(vec![]) };
    let seen = state.deliveries.matched_through;
    if matches.after.is_some_and(|after| after > seen) {
        return Err(Refusal::MatchMissing { after: seen });
    }
    let owe = |matched: &Match| {
        Event::Delivery(DeliveryEvent::Scheduled(DeliveryScheduled {
            delivery: matched.delivery,
            message: matched.message,
            message_seq: matched.message_seq,
            revision: settings.revision,
            redelivery_of: None,
        }))
    };
    Ok(matches.found.iter().filter(|matched| matched.message_seq > seen).map(owe).collect())
}

fn finish(state: &Subscription, finished: Finished) -> Result<Vec<Event>, Refusal> {
    let Finished { delivery, number, revision, started_at, ended_at, exchange, random } = finished;
    let settings = state.settings()?;
    let open = state
        .deliveries
        .open
        .get(&delivery)
        .filter(|open| open.failures + 1 == number)
        .ok_or(Refusal::NotPending(delivery))?;
    let profile = profile::find(&settings.profile)?;
    let latency_ms = exchange.latency_ms;
    let (code, detail, response) = match exchange.result {
        Ok(response) if profile.accepts(&response) => {
            let succeeded = DeliverySucceeded { delivery, number, started_at, latency_ms, response, revision };
            return Ok(vec![Event::Delivery(DeliveryEvent::Succeeded(succeeded))]);
        }
        Ok(response) => {
            (FailureCode::Status, format!("the endpoint answered with status {}", response.status), Some(response))
        }
        Err(failure) => (failure.code, failure.detail, None),
    };
    let due_at = profile.retry_at(number, open.scheduled_at, ended_at, random);
    let failed = AttemptFailed { delivery, number, started_at, latency_ms, code, detail, response, revision, due_at };
    let mut events = vec![Event::Delivery(DeliveryEvent::AttemptFailed(failed))];
    if due_at.is_none() {
        events.push(Event::Delivery(DeliveryEvent::Exhausted(DeliveryExhausted { delivery, attempts: number })));
    }
    Ok(events)
}

fn redeliver(state: &Subscription, request: Redeliver) -> Result<Vec<Event>, Refusal> {
    let Redeliver { original, original_failed, delivery, message, message_seq } = request;
    let settings = state.settings()?;
    let profile = profile::find(&settings.profile)?;
    if state.deliveries.open.contains_key(&original) {
        return Err(Refusal::StillOpen(original));
    }
    if !settings.enabled {
        return Err(Refusal::Disabled);
    }
    match profile.redelivery {
        Redelivery::Failed if !original_failed => return Err(Refusal::Succeeded(original, profile.name.clone())),
        Redelivery::Failed | Redelivery::Any => {}
    }
    let revision = settings.revision;
    Ok(vec![
        subscription(SubscriptionEvent::RedeliveryRequested(RedeliveryRequested { original, delivery, message })),
        Event::Delivery(DeliveryEvent::Scheduled(DeliveryScheduled {
            delivery,
            message,
            message_seq,
            revision,
            redelivery_of: Some(original),
        })),
    ])
}

/// Remembers what happened. Never fails, never judges: a recorded event is a fact.
///
/// `version` is the event's version in its stream.
pub fn evolve(state: &mut Subscription, event: &Event, at: Timestamp, version: u64) {
    match event {
        Event::Subscription(event) => state.evolve_life(event),
        Event::Delivery(event) => state.deliveries.evolve(event, at, version),
        Event::Tenant(_) | Event::Message(_) => {}
    }
}

impl Subscription {
    /// The settings of a living subscription.
    pub fn settings(&self) -> Result<&Settings, Refusal> {
        match &self.life {
            Life::Live(settings) => Ok(settings),
            Life::Absent | Life::Deleted(_) => Err(Refusal::NotFound),
        }
    }

    /// Whether anything may be sent now.
    pub fn may_send(&self) -> bool {
        self.settings().is_ok_and(|settings| settings.enabled)
    }

    /// What is due at `now`, the oldest first. The same question after a restart has the same answer.
    pub fn due(&self, now: Timestamp) -> impl Iterator<Item = (DeliveryId, &Open)> {
        let agenda = if self.may_send() { Some(self.deliveries.agenda.iter()) } else { None };
        agenda
            .into_iter()
            .flatten()
            .take_while(move |(due_at, _)| *due_at <= now)
            .map(|(_, delivery)| (*delivery, &self.deliveries.open[delivery]))
    }

    /// When something is due next; `None` if nothing is owed or nothing may be sent.
    pub fn next_due(&self) -> Option<Timestamp> {
        self.deliveries.agenda.first().map(|(due_at, _)| *due_at).filter(|_| self.may_send())
    }

    /// The next due time that lies after `now`.
    pub fn next_due_after(&self, now: Timestamp) -> Option<Timestamp> {
        let after = (now.plus_ms(1), DeliveryId::from_parts(0, 0));
        self.deliveries.agenda.range(after..).next().map(|(due_at, _)| *due_at).filter(|_| self.may_send())
    }

    /// The deliveries that have not ended, by the time of their next attempt, whether anything may be sent or not.
    pub fn open(&self) -> impl Iterator<Item = (DeliveryId, &Open)> {
        self.deliveries.agenda.iter().map(|(_, delivery)| (*delivery, &self.deliveries.open[delivery]))
    }

    /// How many deliveries have not ended.
    pub fn open_count(&self) -> usize {
        self.deliveries.open.len()
    }

    fn evolve_life(&mut self, event: &SubscriptionEvent) {
        if let SubscriptionEvent::Created(created) = event {
            self.life = Life::Live(Settings::created(created));
            return;
        }
        if let SubscriptionEvent::Deleted(_) = event {
            self.deliveries = Deliveries::default();
            if let Life::Live(settings) = &self.life {
                self.life = Life::Deleted(settings.tenant);
            }
            return;
        }
        if let Life::Live(settings) = &mut self.life {
            settings.evolve(event);
        }
    }
}

#[cfg(test)]
#[path = "subscription_tests.rs"]
pub(crate) mod tests;
