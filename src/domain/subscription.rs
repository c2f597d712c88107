//! A subscription and the deliveries it owes: the one aggregate of delivery.
//!
//! Its state is a fold over two streams, `subscription-…` (what people do to it) and `deliveries-…` (what it owes and
//! how each attempt went). Both have this one writer, so one decision may extend both.
//!
//! - A message is scheduled at most once: positions at or below the highest matched one are ignored.
//! - While it is disabled nothing is due; what it owes is held, and due again once it is enabled.
//! - Deleting it ends everything it owes; a result that comes later finds nothing pending. While its profile lets it be
//!   restored, its settings and the sequence of its messages are kept.
//! - While its circuit is open nothing is due and no further match is scheduled: those wait in the log, behind the number
//!   up to which everything was matched, and are told again when the way is open.
//! - It has one job at a time, whose cursor moves with what the job schedules ([`job`]).
//! - An ordered one attempts one delivery at a time, the open one whose message is the oldest; everybody else waits for
//!   the end of that, however long they are due.
//! - What it owes is carried from period to period: folded from the first event of any period, the state is the same.

mod backlog;
mod command;
mod deletion;
mod deliveries;
mod health;
mod history;
mod job;
mod refusal;
mod settings;
mod sorted;
mod timers;
mod trial;

pub use backlog::{Backlog, Passage};
pub use command::{Command, Finished, Match, Matches, Redeliver, Reschedule, Update};
pub use deletion::{Deleted, NotRestorable, Restore};
pub use deliveries::{Deliveries, Open};
pub use history::{Field, FieldChange, History, KnownSecret, Version};
pub use job::{Candidate, StartJob, Step};
pub use refusal::Refusal;
pub use settings::{SecretVersion, Settings};
pub use timers::{MAX_RESCHEDULE_MS, Timer, Timers, Wait};
pub use trial::{Trial, Untested};

use serde::{Deserialize, Serialize};

use super::circuit::{Circuit, Opened};
use super::event::{
    Change, CircuitTripped, DeliveriesPeriodOpened, DeliveryEvent, DeliveryExpired, DeliveryScheduled,
    DeliverySucceeded, Event, HoldChanged, RedeliveryRequested, SecretRotated, SubscriptionCreated,
    SubscriptionDisabled, SubscriptionEnabled, SubscriptionEvent, SubscriptionUpdated,
};
use super::header::SealedHeaders;
use super::id::{DeliveryId, SecretId, TenantId};
use super::job::Job;
use super::notice::SealedRecipients;
use super::profile::{self, Redelivery};
use super::retry_policy::RetryPolicy;
use super::time::Timestamp;

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
    /// How well its endpoint is.
    pub circuit: Circuit,
    /// The job that runs.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub job: Option<Box<Job>>,
    /// When it was last recorded that the operator's rules kept an attempt from being made.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub blocked_at: Option<Timestamp>,
    /// How its URL has stood the tests that were sent to it.
    #[serde(default)]
    pub trial: Trial,
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
    /// Deleted, with what is left of it.
    Deleted(Deleted),
}

impl Life {
    /// Whose it is or was; nobody's before it was created.
    pub fn tenant(&self) -> Option<TenantId> {
        match self {
            Self::Absent => None,
            Self::Live(settings) => Some(settings.tenant),
            Self::Deleted(deleted) => Some(deleted.tenant),
        }
    }
}

/// Says what happens. Reads nothing but its arguments. No events: nothing is to change.
pub fn decide(state: &Subscription, command: Command) -> Result<Vec<Event>, Refusal> {
    match command {
        Command::Create(created) => create(state, created),
        Command::Update(update) => change(state.settings()?, update),
        Command::Enable => enable(state),
        Command::Disable { reason } => Ok(match state.settings()?.enabled {
            true => vec![subscription(SubscriptionEvent::Disabled(SubscriptionDisabled { reason, cause: None }))],
            false => vec![],
        }),
        Command::Hold { until, reason } => Ok(match state.settings()?.hold_until == until {
            true => vec![],
            false => vec![subscription(SubscriptionEvent::HoldChanged(HoldChanged { until, reason }))],
        }),
        Command::RotateSecret { secret, fingerprint, public_key, overlap_s, at } => {
            let rotated = rotate(state.settings()?, secret, fingerprint, overlap_s, at)?;
            Ok(vec![subscription(SubscriptionEvent::SecretRotated(SecretRotated { public_key, ..rotated }))])
        }
        Command::RecordTest(sent) => state.settings().map(|_| vec![subscription(SubscriptionEvent::TestSent(sent))]),
        Command::Match(matches) => schedule(state, &matches),
        Command::FinishAttempt(finished) => health::finish(state, finished),
        Command::Reenable { mode, skip_through, gone_through } => {
            health::reenable(state, mode, skip_through, gone_through)
        }
        Command::Probe { gone_through, at } => health::probe(state, gone_through, at),
        Command::LoseMatches { gone_through } => health::lose(state, gone_through),
        Command::Redeliver(request) => redeliver(state, request),
        Command::Reschedule(reschedule) => timers::reschedule(state, reschedule),
        Command::Cancel { delivery, reason } => timers::cancel(state, delivery, reason),
        Command::StartJob(request) => job::start(state, request),
        Command::CancelJob(job) => job::cancel(state, job),
        Command::AdvanceJob(step) => job::advance(state, step),
        Command::Expire { delivery, reason } => {
            state.settings()?;
            state.deliveries.open.get(&delivery).ok_or(Refusal::NotPending(delivery))?;
            Ok(vec![Event::Delivery(DeliveryEvent::Expired(DeliveryExpired { delivery, reason }))])
        }
        Command::OpenPeriod { gone_through } => {
            state.settings()?;
            let events = state.deliveries.open_period(gone_through, &state.circuit, state.job.as_deref());
            Ok(events.into_iter().map(Event::Delivery).collect())
        }
        Command::Delete { expected_revision } => {
            check_revision(state.settings()?, expected_revision)?;
            let deleted = deletion::delete(state, state.settings()?);
            Ok(job::end_with_subscription(state).into_iter().chain([deleted]).collect())
        }
        Command::DeleteForGood => deletion::delete_for_good(state),
        Command::Restore(restore) => deletion::restore(state, restore),
        Command::Forget { at } => Ok(deletion::forget(state, at)),
    }
}

fn subscription(event: SubscriptionEvent) -> Event {
    Event::Subscription(event)
}

fn create(state: &Subscription, mut created: SubscriptionCreated) -> Result<Vec<Event>, Refusal> {
    match state.life {
        Life::Absent => {}
        Life::Live(_) | Life::Deleted(_) => return Err(Refusal::Exists),
    }
    let profile = profile::find(&created.profile)?;
    created.filters = profile.recorded_filters(created.filters)?;
    if created.enabled {
        trial::require(profile, Untested::Creation)?;
    }
    check_description(created.description.as_deref())?;
    check_rate_limit(created.rate_limit_per_s)?;
    created.retry_policy.as_ref().map_or(Ok(()), RetryPolicy::check)?;
    Ok(vec![subscription(SubscriptionEvent::Created(created))])
}

fn enable(state: &Subscription) -> Result<Vec<Event>, Refusal> {
    let settings = state.settings()?;
    if settings.enabled {
        return Ok(vec![]);
    }
    if !state.trial.succeeded() {
        trial::require(settings.profile()?, Untested::Enabling)?;
    }
    Ok(vec![subscription(SubscriptionEvent::Enabled(SubscriptionEnabled {}))])
}

fn change(settings: &Settings, update: Update) -> Result<Vec<Event>, Refusal> {
    check_revision(settings, update.expected_revision)?;
    let filters = match update.filters {
        Some(filters) => Some(settings.profile()?.recorded_filters(filters)?),
        None => None,
    };
    let url = difference(&settings.url, update.url);
    if settings.enabled && url.is_some() {
        trial::require(settings.profile()?, Untested::UrlChange)?;
    }
    check_description(update.description.as_ref().and_then(|description| description.as_deref()))?;
    check_rate_limit(update.rate_limit_per_s.flatten())?;
    update.retry_policy.iter().flatten().try_for_each(RetryPolicy::check)?;
    let event = SubscriptionUpdated {
        url,
        description: difference(&settings.description, update.description),
        filters: difference(&settings.filters, filters),
        rate_limit_per_s: difference(&settings.rate_limit_per_s, update.rate_limit_per_s),
        ordered: difference(&settings.ordered, update.ordered),
        retry_policy: difference(&settings.retry_policy.as_deref().cloned(), update.retry_policy),
        headers: resealed(settings.headers.as_deref(), update.headers, SealedHeaders::says_the_same),
        recipients: resealed(settings.recipients.as_deref(), update.recipients, SealedRecipients::says_the_same),
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

/// The same under another seal is no change.
fn resealed<T: Clone>(
    from: Option<&T>,
    to: Option<Option<T>>,
    says_the_same: impl Fn(&T, &T) -> bool,
) -> Option<Change<Option<T>>> {
    let same = |to: &Option<T>| match (from, to) {
        (Some(from), Some(to)) => says_the_same(from, to),
        (None, None) => true,
        (Some(_), None) | (None, Some(_)) => false,
    };
    to.filter(|to| !same(to)).map(|to| Change { from: from.cloned(), to })
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
) -> Result<SecretRotated, Refusal> {
    let profile = profile::find(&settings.profile)?;
    let overlap_s = overlap_s.unwrap_or(profile.rotation_overlap_default_s);
    if overlap_s > profile.rotation_overlap_max_s {
        return Err(Refusal::OverlapTooLong { profile: profile.name.clone(), max_s: profile.rotation_overlap_max_s });
    }
    let previous_retires_at = (overlap_s > 0).then(|| at.plus_ms(overlap_s * 1_000));
    let version = settings.next_secret_version();
    Ok(SecretRotated { secret, version, fingerprint, previous_retires_at, public_key: None })
}

fn schedule(state: &Subscription, matches: &Matches) -> Result<Vec<Event>, Refusal> {
    let Life::Live(settings) = &state.life else { return Ok(vec![]) };
    let seen = state.deliveries.matched_through;
    if matches.after.is_some_and(|after| after > seen) {
        return Err(Refusal::MatchMissing { after: seen });
    }
    // They wait in the log, from where on the event says that tells of the trip.
    if state.circuit.is_open() {
        return Err(Refusal::CircuitOpen);
    }
    let owe = |(matched, sequence): (&Match, u64)| {
        Event::Delivery(DeliveryEvent::Scheduled(DeliveryScheduled {
            delivery: matched.delivery,
            message: matched.message,
            message_seq: matched.message_seq,
            revision: settings.revision,
            sequence: Some(sequence),
            redelivery_of: None,
        }))
    };
    let new = matches.found.iter().filter(|matched| matched.message_seq > seen);
    Ok(new.zip(state.deliveries.sequence + 1..).map(owe).collect())
}

fn redeliver(state: &Subscription, request: Redeliver) -> Result<Vec<Event>, Refusal> {
    let Redeliver { original, original_failed, delivery, message, message_seq, sequence, queue, room } = request;
    let settings = state.settings()?;
    let profile = profile::find(&settings.profile)?;
    if state.deliveries.open.contains_key(&original) {
        return Err(Refusal::StillOpen(original));
    }
    if !settings.enabled {
        return Err(Refusal::Disabled);
    }
    if state.circuit.is_open() && !queue {
        return Err(Refusal::CircuitOpen);
    }
    if !room {
        return Err(Refusal::NoRoom(state.open_count()));
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
            sequence,
            redelivery_of: Some(original),
        })),
    ])
}

/// Remembers what happened. Never fails, never judges: a recorded event is a fact.
///
/// `version` is the event's version in its stream.
pub fn evolve(state: &mut Subscription, event: &Event, at: Timestamp, version: u64) {
    match event {
        Event::Subscription(event) => state.evolve_life(event, at),
        Event::Delivery(event) => {
            state.evolve_health(event);
            state.deliveries.evolve(event, at, version);
        }
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

    /// Whether anything may be sent now, as far as people and the circuit breaker say.
    pub fn may_send(&self) -> bool {
        self.settings().is_ok_and(|settings| settings.enabled) && !self.circuit.is_open()
    }

    /// Nothing is sent before this: somebody wants a pause, or the endpoint does.
    pub fn held_until(&self) -> Option<Timestamp> {
        self.circuit.hold_until.max(self.settings().ok().and_then(|settings| settings.hold_until))
    }

    /// Whether each delivery waits for the end of the one before.
    pub fn is_ordered(&self) -> bool {
        self.settings().is_ok_and(|settings| settings.ordered)
    }

    /// What is due at `now`, the oldest first. The same question after a restart has the same answer.
    pub fn due(&self, now: Timestamp) -> impl Iterator<Item = (DeliveryId, &Open)> {
        let held = self.held_until().is_some_and(|until| now < until);
        let agenda = if self.may_send() && !held { Some(self.agenda()) } else { None };
        let probing = self.circuit.is_probing();
        agenda
            .into_iter()
            .flatten()
            .take(if probing { 1 } else { usize::MAX })
            .take_while(move |(due_at, _)| probing || *due_at <= now)
            .map(|(_, delivery)| (delivery, &*self.deliveries.open[&delivery]))
    }

    /// When something is to be done next; `None` if nothing is owed or nothing may be sent. Of one that was deleted its
    /// secrets are to be destroyed.
    pub fn next_due(&self) -> Option<Timestamp> {
        let first = self.first_due(self.agenda().next());
        first.into_iter().chain(self.job_due()).chain(self.destroy_at()).min()
    }

    /// The next such time that lies after `now`.
    pub fn next_due_after(&self, now: Timestamp) -> Option<Timestamp> {
        let after = (now.plus_ms(1), DeliveryId::from_parts(0, 0));
        let waits = |at: &Timestamp| *at > now;
        let later = || match self.is_ordered() {
            true => self.deliveries.head().filter(|head| *head >= after),
            false => self.deliveries.agenda.not_before(&after).next().copied(),
        };
        // Beside a probe no other delivery has its turn, whenever it is due.
        let first = self.first_due(self.agenda().next()).filter(waits);
        let first = first.or_else(|| self.first_due(later()).filter(waits));
        first.into_iter().chain(self.job_due().filter(waits)).chain(self.destroy_at().filter(waits)).min()
    }

    /// The deliveries whose turn may come, by the time of their next attempt.
    fn agenda(&self) -> impl Iterator<Item = (Timestamp, DeliveryId)> {
        let ordered = self.is_ordered();
        let head = ordered.then(|| self.deliveries.head()).flatten();
        let all = (!ordered).then(|| self.deliveries.agenda.iter().copied());
        head.into_iter().chain(all.into_iter().flatten())
    }

    fn first_due(&self, first: Option<(Timestamp, DeliveryId)>) -> Option<Timestamp> {
        if !self.settings().is_ok_and(|settings| settings.enabled) {
            return None;
        }
        if self.circuit.is_open() {
            return self.circuit.probe_at();
        }
        let (due_at, _) = first?;
        // A probe waits for nothing else, and one that waited for years is no later for it.
        let due_at = if self.circuit.is_probing() { Timestamp::from_ms(0) } else { due_at };
        Some(self.held_until().map_or(due_at, |until| until.max(due_at)))
    }

    /// The deliveries that have not ended, by the time of their next attempt, whether anything may be sent or not.
    pub fn open(&self) -> impl Iterator<Item = (DeliveryId, &Open)> {
        self.deliveries.agenda.iter().map(|(_, delivery)| (*delivery, &*self.deliveries.open[delivery]))
    }

    /// How many deliveries have not ended.
    pub fn open_count(&self) -> usize {
        self.deliveries.open.len()
    }

    fn evolve_life(&mut self, event: &SubscriptionEvent, at: Timestamp) {
        match event {
            SubscriptionEvent::Created(created) => {
                self.life = Life::Live(Settings::created(created));
                return;
            }
            SubscriptionEvent::Deleted(deleted) => return self.evolve_deleted(deleted, at),
            SubscriptionEvent::Restored(restored) => return self.evolve_restored(restored),
            SubscriptionEvent::SecretsDestroyed(_) => return self.evolve_destroyed(),
            SubscriptionEvent::CircuitTripped(tripped) => {
                let &CircuitTripped { cause, probe_at, failed_probes, .. } = tripped;
                self.circuit.trip(Opened { since: at, cause, probe_at, failed_probes });
            }
            SubscriptionEvent::CircuitReenabled(reenabled) => {
                self.circuit.recover(false, at);
                self.deliveries.pass_over(reenabled.skipped_through.max(reenabled.lost_through));
            }
            SubscriptionEvent::CircuitProbing(probing) => {
                self.circuit.recover(true, at);
                self.deliveries.pass_over(probing.lost_through);
            }
            SubscriptionEvent::MatchesLost(lost) => self.deliveries.pass_over(Some(lost.through)),
            SubscriptionEvent::CircuitClosed(_) => self.circuit.close(),
            SubscriptionEvent::EgressBlocked(_) => self.blocked_at = Some(at),
            SubscriptionEvent::JobStarted(started) => self.start_job(started, at),
            SubscriptionEvent::JobEnded(_) => self.job = None,
            SubscriptionEvent::Updated(updated) if updated.url.is_some() => {
                self.circuit.forget_run();
                self.trial.begin_anew(self.settings().map_or(0, |before| before.revision + 1));
            }
            SubscriptionEvent::TestSent(sent) => self.trial.remember(sent),
            SubscriptionEvent::Enabled(_) => self.circuit.forget_run(),
            SubscriptionEvent::Updated(_)
            | SubscriptionEvent::Disabled(_)
            | SubscriptionEvent::SecretRotated(_)
            | SubscriptionEvent::HoldChanged(_)
            | SubscriptionEvent::RedeliveryRequested(_)
            | SubscriptionEvent::RescheduleRequested(_)
            | SubscriptionEvent::CancellationRequested(_) => {}
        }
        if let Life::Live(settings) = &mut self.life {
            settings.evolve(event);
        }
    }

    fn evolve_health(&mut self, event: &DeliveryEvent) {
        match event {
            DeliveryEvent::AttemptFailed(failed) => self.circuit.fail(&failed.into()),
            DeliveryEvent::Succeeded(DeliverySucceeded { started_at, .. }) => self.circuit.succeed(*started_at),
            DeliveryEvent::PeriodOpened(DeliveriesPeriodOpened { circuit, job, .. }) => {
                self.circuit = circuit.clone().unwrap_or_default();
                self.evolve_job(*job);
            }
            DeliveryEvent::JobAdvanced(progress) => self.evolve_job(Some(*progress)),
            DeliveryEvent::Scheduled(_)
            | DeliveryEvent::Backfilled(_)
            | DeliveryEvent::Exhausted(_)
            | DeliveryEvent::Expired(_)
            | DeliveryEvent::Rescheduled(_)
            | DeliveryEvent::Cancelled(_)
            | DeliveryEvent::Carried(_) => {}
        }
    }
}

#[cfg(test)]
#[path = "subscription_tests.rs"]
pub(crate) mod tests;
