//! What waits, and what people do to it.

use super::*;
use crate::domain::circuit::TripCause;
use crate::domain::event::{
    CancellationRequested, CircuitTripped, DeliveryCancelled, DeliveryRescheduled, RescheduleRequested,
};

const NOBODY: fn(DeliveryId) -> bool = |_| false;

fn rescheduled(delivery: DeliveryId, from: Timestamp, to: Timestamp) -> [Event; 2] {
    let requested = RescheduleRequested { delivery, from, to, reason: None };
    [
        Event::Subscription(SubscriptionEvent::RescheduleRequested(requested)),
        Event::Delivery(DeliveryEvent::Rescheduled(DeliveryRescheduled { delivery, due_at: to })),
    ]
}

fn reschedule(delivery: DeliveryId, due_at: Timestamp) -> Command {
    Command::Reschedule(Reschedule { delivery, due_at, reason: None, under_way: false, at: START })
}

fn waits(state: &Subscription, now: Timestamp) -> Vec<(DeliveryId, Wait, Option<Timestamp>)> {
    let timers = state.timers(now, None, 100, NOBODY).unwrap();
    timers.waiting.into_iter().map(|timer| (timer.delivery, timer.wait, timer.not_before)).collect()
}

#[test]
fn a_retry_moves_to_an_earlier_or_a_later_time_and_keeps_its_failures() {
    let later = START.plus_ms(HOUR);
    let past = || [created(), scheduled(D1, 7), failed(D1, 1, Some(later))];
    let state = given(past()).when(reschedule(D1, START)).then(rescheduled(D1, later, START));
    assert_eq!(due(&state, START), [D1]);
    assert_eq!(state.open().next().unwrap().1.failures, 1);
    let much_later = START.plus_ms(20 * HOUR);
    let state = given(past()).when(reschedule(D1, much_later)).then(rescheduled(D1, later, much_later));
    assert_eq!((due(&state, later).len(), state.next_due()), (0, Some(much_later)));
    // What has passed means now, and what is due keeps its place.
    let passed = Timestamp::from_ms(5);
    given(past()).when(reschedule(D1, passed)).then(rescheduled(D1, later, START));
    given([created(), scheduled(D1, 7)]).when(reschedule(D1, passed)).then([]);
}

#[test]
fn no_attempt_moves_behind_the_window_or_30_days() {
    let past = |profile: &str| [subscription().under(profile).created(), scheduled(D1, 7)];
    let latest = START.plus_ms(MAX_RESCHEDULE_MS);
    given(past("axie-v1")).when(reschedule(D1, latest)).then(rescheduled(D1, START, latest));
    given(past("axie-v1"))
        .when(reschedule(D1, latest.plus_ms(1)))
        .refused(Refusal::TooLate(latest), ErrorCode::InvalidInput);
    let window = START.plus_ms(HOUR);
    given(past("axissynapse-v1")).when(reschedule(D1, window)).then(rescheduled(D1, START, window));
    given(past("axissynapse-v1"))
        .when(reschedule(D1, window.plus_ms(1)))
        .refused(Refusal::TooLate(window), ErrorCode::InvalidInput);
}

#[test]
fn what_has_ended_or_is_under_way_does_not_move() {
    let past = [created(), scheduled(D1, 7), succeeded(D1, 1, 200)];
    given(past.clone()).when(reschedule(D1, START)).refused(Refusal::Ended(D1), ErrorCode::DeliveryNotWaiting);
    let cancel = Command::Cancel { delivery: D1, reason: None };
    given(past).when(cancel).refused(Refusal::Ended(D1), ErrorCode::DeliveryNotWaiting);
    let under_way =
        Command::Reschedule(Reschedule { delivery: D1, due_at: START, reason: None, under_way: true, at: START });
    given([created(), scheduled(D1, 7)]).when(under_way).refused(Refusal::UnderWay(D1), ErrorCode::DeliveryNotWaiting);
    given([created(), deleted(0)]).when(reschedule(D1, START)).refused(Refusal::NotFound, ErrorCode::NotFound);
}

#[test]
fn a_cancelled_delivery_has_ended_and_the_outcome_of_its_attempt_counts_no_more() {
    let reason = Some("the order was withdrawn".to_owned());
    let requested = CancellationRequested { delivery: D1, reason: reason.clone() };
    let events = [
        Event::Subscription(SubscriptionEvent::CancellationRequested(requested)),
        Event::Delivery(DeliveryEvent::Cancelled(DeliveryCancelled { delivery: D1 })),
    ];
    let past = [created(), scheduled(D1, 7), scheduled(D2, 8)];
    let state = given(past.clone()).when(Command::Cancel { delivery: D1, reason }).then(events.clone());
    assert_eq!(due(&state, START), [D2]);
    let past = past.into_iter().chain(events);
    given(past).when(answered(D1, 1, 200)).refused(Refusal::NotPending(D1), ErrorCode::NotFound);
}

#[test]
fn every_delivery_says_for_what_it_waits() {
    let later = START.plus_ms(HOUR);
    let retrying = || [created(), scheduled(D1, 7), scheduled(D2, 8), failed(D2, 1, Some(later))];
    let now = |past: Vec<Event>| waits(&given(past).state, START);
    assert_eq!(now(retrying().into()), [(D1, Wait::Permit, None), (D2, Wait::Retry, Some(later))]);
    let past = [created(), scheduled(D1, 7)].into_iter().chain(rescheduled(D1, START, later)).collect();
    assert_eq!(now(past), [(D1, Wait::FirstAttempt, Some(later))]);
    let hold = |until| Event::Subscription(SubscriptionEvent::HoldChanged(HoldChanged { until, reason: None }));
    let half = START.plus_ms(HOUR / 2);
    let past = retrying().into_iter().chain([hold(Some(half))]).collect();
    assert_eq!(now(past), [(D1, Wait::Held, Some(half)), (D2, Wait::Retry, Some(later))]);
    let past = retrying().into_iter().chain([disabled()]).collect();
    assert_eq!(now(past), [(D1, Wait::Disabled, None), (D2, Wait::Disabled, None)]);
    let state = given(retrying()).state;
    let timers = state.timers(START, None, 1, |delivery| delivery == D1).unwrap();
    assert_eq!((timers.pending, timers.more, timers.waiting[0].wait), (2, true, Wait::UnderWay));
    let rest = state.timers(START, Some((START, D1)), 1, NOBODY).unwrap();
    assert_eq!((rest.more, rest.waiting.len(), rest.waiting[0].delivery), (false, 1, D2));
}

#[test]
fn a_circuit_says_when_it_probes_and_who_the_probe_is() {
    let probe_at = Some(START.plus_ms(HOUR));
    let tripped = Event::Subscription(SubscriptionEvent::CircuitTripped(CircuitTripped {
        cause: TripCause::HardFailures,
        failures: 10,
        delivery: D1,
        code: FailureCode::Status,
        detail: String::new(),
        matched_through: 8,
        probe_at,
        failed_probes: 0,
    }));
    let mut given = given([subscription().under("standard-v1").created(), scheduled(D1, 7), scheduled(D2, 8), tripped]);
    assert_eq!(waits(&given.state, START), [(D1, Wait::CircuitOpen, probe_at), (D2, Wait::CircuitOpen, probe_at)]);
    assert_eq!(given.state.timers(START, None, 1, NOBODY).unwrap().probe_at, probe_at);
    let probing = crate::domain::event::CircuitProbing { lost_through: None };
    given.evolve([Event::Subscription(SubscriptionEvent::CircuitProbing(probing))]);
    assert_eq!(waits(&given.state, START), [(D1, Wait::Probe, Some(START)), (D2, Wait::Ramp, None)]);
}
