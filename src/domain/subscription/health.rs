//! How attempts end, and what that makes of the endpoint: retries, the circuit breaker, and the way back.

use super::{Finished, Refusal, Settings, Subscription};
use crate::domain::circuit::{Failed, SOFT_PROBE_PAUSE_MS, TripCause};
use crate::domain::event::{
    AttemptFailed, CircuitClosed, CircuitProbing, CircuitReenabled, CircuitTripped, DeliveryCancelled, DeliveryEvent,
    DeliveryExhausted, DeliverySucceeded, DisableCause, EgressBlocked, Event, MatchesLost, ReenableMode,
    SubscriptionDisabled, SubscriptionEvent,
};
use crate::domain::outcome::{FailureClass, FailureCode, Response};
use crate::domain::profile::{Profile, Tried};
use crate::domain::subscription::Open;
use crate::domain::time::Timestamp;

/// So many local failures of a delivery are tried again without being counted by its schedule.
const UNCOUNTED_FAILURES: u32 = 3;
/// After a local failure that is not counted, in milliseconds.
const LOCAL_RETRY_MS: u64 = 1_000;
/// Between two records of attempts that the operator's rules kept from being made, in milliseconds.
const BLOCKED_PAUSE_MS: u64 = 3_600_000;

pub(super) fn finish(state: &Subscription, finished: Finished) -> Result<Vec<Event>, Refusal> {
    let settings = state.settings()?;
    let rules = settings.rules()?;
    let open = state
        .deliveries
        .open
        .get(&finished.delivery)
        .filter(|open| open.attempts() + 1 == finished.number)
        .ok_or(Refusal::NotPending(finished.delivery))?;
    match rules.judge(&finished.exchange.result) {
        Ok(()) => Ok(succeed(state, finished)),
        Err(class) => Ok(fail(state, settings, &rules, open, finished, class)),
    }
}

fn succeed(state: &Subscription, finished: Finished) -> Vec<Event> {
    let Finished { delivery, number, revision, started_at, exchange, .. } = finished;
    let latency_ms = exchange.latency_ms;
    // A profile counts nothing but an answer as success.
    let response = exchange.result.unwrap_or_else(|_| Response::default()).of_success();
    let mut circuit = state.circuit.clone();
    circuit.succeed(started_at);
    let closed = circuit.has_recovered().then(|| life(SubscriptionEvent::CircuitClosed(CircuitClosed {})));
    let succeeded = DeliverySucceeded { delivery, number, started_at, latency_ms, response, revision };
    closed.into_iter().chain([Event::Delivery(DeliveryEvent::Succeeded(succeeded))]).collect()
}

fn fail(
    state: &Subscription,
    settings: &Settings,
    profile: &Profile,
    open: &Open,
    finished: Finished,
    class: FailureClass,
) -> Vec<Event> {
    let Finished { delivery, number, revision, started_at, ended_at, exchange, random } = finished;
    let (code, detail, response) = match exchange.result {
        Ok(response) => {
            let detail = format!("the endpoint answered with status {}", response.status);
            (FailureCode::Status, detail, Some(response.of_failure()))
        }
        Err(failure) => (failure.code, failure.detail, None),
    };
    let asked_ms = profile.asked_ms(response.as_ref());
    let uncounted = class == FailureClass::Local && open.uncounted < UNCOUNTED_FAILURES;
    let failures = open.failures + u32::from(!uncounted);
    let due_at = match class {
        FailureClass::Gone => None,
        _ if uncounted => Some(ended_at.plus_ms(LOCAL_RETRY_MS)),
        FailureClass::Hard | FailureClass::Soft | FailureClass::Local => {
            let delay_ms = open.last_failure.map(|last| last.delay_ms);
            let tried = Tried { failures, scheduled_at: open.scheduled_at, delay_ms };
            profile.retry_at(tried, ended_at, asked_ms, random)
        }
    };
    let failed = AttemptFailed {
        delivery,
        number,
        started_at,
        latency_ms: exchange.latency_ms,
        code,
        detail,
        response,
        revision,
        class,
        failures,
        due_at,
        hold_until: hold_until(state, profile, class, asked_ms, ended_at, due_at),
    };
    let mut events = Vec::new();
    events.extend(blocked(state, &failed, ended_at));
    events.extend(tripped(state, profile, &failed, ended_at, random));
    if class == FailureClass::Gone && settings.enabled {
        let disabled = SubscriptionDisabled { reason: None, cause: Some(DisableCause::EndpointGone) };
        events.push(life(SubscriptionEvent::Disabled(disabled)));
    }
    events.push(Event::Delivery(DeliveryEvent::AttemptFailed(failed)));
    if due_at.is_none() {
        events.push(Event::Delivery(DeliveryEvent::Exhausted(DeliveryExhausted { delivery, attempts: number })));
    }
    events
}

/// What is told of an attempt that the operator's rules forbid, unless it was told a short while ago.
fn blocked(state: &Subscription, failed: &AttemptFailed, ended_at: Timestamp) -> Option<Event> {
    let told_lately = state.blocked_at.is_some_and(|at| ended_at < at.plus_ms(BLOCKED_PAUSE_MS));
    (failed.code == FailureCode::Blocked && !told_lately).then(|| {
        let (delivery, detail) = (failed.delivery, failed.detail.clone());
        life(SubscriptionEvent::EgressBlocked(EgressBlocked { delivery, detail }))
    })
}

/// Until when nothing else is sent to the endpoint; `None`: it goes on.
fn hold_until(
    state: &Subscription,
    profile: &Profile,
    class: FailureClass,
    asked_ms: Option<u64>,
    ended_at: Timestamp,
    due_at: Option<Timestamp>,
) -> Option<Timestamp> {
    let is_probing = state.circuit.is_probing();
    match class {
        FailureClass::Soft => {
            let pause_ms = asked_ms.unwrap_or(profile.classes.soft_pause_ms);
            let least_ms = if is_probing { SOFT_PROBE_PAUSE_MS } else { 0 };
            Some(pause_ms.max(least_ms)).filter(|ms| *ms > 0).map(|ms| ended_at.plus_ms(ms))
        }
        // It says nothing, so the probe is still to be made: when this delivery is due again, and not at once.
        FailureClass::Local if is_probing => Some(due_at.unwrap_or(ended_at.plus_ms(LOCAL_RETRY_MS))),
        FailureClass::Local | FailureClass::Hard | FailureClass::Gone => None,
    }
}

fn tripped(
    state: &Subscription,
    profile: &Profile,
    failed: &AttemptFailed,
    ended_at: Timestamp,
    random: u64,
) -> Option<Event> {
    let breaker = profile.breaker.as_ref()?;
    let mut circuit = state.circuit.clone();
    circuit.fail(&failed.into());
    let cause = circuit.trips(breaker, ended_at)?;
    let failed_probes = if cause == TripCause::HardFailures { 0 } else { circuit.failed_probes() };
    Some(life(SubscriptionEvent::CircuitTripped(CircuitTripped {
        cause,
        failures: circuit.run_length(),
        delivery: failed.delivery,
        code: failed.code,
        detail: failed.detail.clone(),
        matched_through: state.deliveries.matched_through,
        probe_at: breaker.probe.and_then(|probe| probe.next_at(failed_probes, ended_at, random)),
        failed_probes,
    })))
}

/// The way back by hand. Nothing happens where no circuit is open.
pub(super) fn reenable(
    state: &Subscription,
    mode: ReenableMode,
    skip_through: Option<u64>,
    gone_through: u64,
) -> Result<Vec<Event>, Refusal> {
    state.settings()?;
    if !state.circuit.is_open() {
        return Ok(vec![]);
    }
    let skipped = |open: &Open| skip_through.is_some_and(|through| open.message_seq <= through);
    let cancelled: Vec<_> =
        state.open().filter(|(_, open)| skipped(open)).map(|(delivery, _)| DeliveryCancelled { delivery }).collect();
    let skipped_through = skip_through.filter(|through| *through > state.deliveries.matched_through);
    let reenabled = CircuitReenabled {
        mode,
        skipped_through,
        cancelled: cancelled.len() as u64,
        lost_through: lost_through(state, gone_through)
            .filter(|lost| skipped_through.is_none_or(|through| through < *lost)),
    };
    let cancelled = cancelled.into_iter().map(|cancelled| Event::Delivery(DeliveryEvent::Cancelled(cancelled)));
    Ok([life(SubscriptionEvent::CircuitReenabled(reenabled))].into_iter().chain(cancelled).collect())
}

/// The way back without anybody's doing. Nothing happens before its time.
pub(super) fn probe(state: &Subscription, gone_through: u64, now: Timestamp) -> Result<Vec<Event>, Refusal> {
    state.settings()?;
    let is_time = state.circuit.probe_at().is_some_and(|probe_at| probe_at <= now);
    let probing =
        || life(SubscriptionEvent::CircuitProbing(CircuitProbing { lost_through: lost_through(state, gone_through) }));
    Ok(is_time.then(probing).into_iter().collect())
}

/// What waited went before it was scheduled. While the circuit is open nobody asks for it: leaving it says what is lost.
pub(super) fn lose(state: &Subscription, gone_through: u64) -> Result<Vec<Event>, Refusal> {
    state.settings()?;
    let lost = lost_through(state, gone_through).filter(|_| !state.circuit.is_open());
    Ok(lost.map(|through| life(SubscriptionEvent::MatchesLost(MatchesLost { through }))).into_iter().collect())
}

/// Up to where messages that waited in the log are gone; `None` if none is.
fn lost_through(state: &Subscription, gone_through: u64) -> Option<u64> {
    Some(gone_through).filter(|gone| *gone > state.deliveries.matched_through)
}

impl From<&AttemptFailed> for Failed {
    fn from(failed: &AttemptFailed) -> Self {
        let AttemptFailed { delivery, class, started_at, latency_ms, hold_until, .. } = *failed;
        Self { delivery, class, started_at, ended_at: started_at.plus_ms(latency_ms), hold_until }
    }
}

fn life(event: SubscriptionEvent) -> Event {
    Event::Subscription(event)
}
