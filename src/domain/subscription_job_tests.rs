//! Jobs: one at a time, no step twice, and nothing while the endpoint is not to be called.

use super::health::tripped;
use super::*;
use crate::domain::event::{CircuitClosed, CircuitProbing, CircuitReenabled, DeliveryBackfilled, ReenableMode};
use crate::domain::id::JobId;
use crate::domain::job::{Ended, JobEnded, JobOutcome, JobProgress, JobStarted, Selection, Source, Waiting};

const JOB: JobId = JobId::from_parts(1, 1);
const OTHER_JOB: JobId = JobId::from_parts(1, 2);

fn beginning() -> JobStarted {
    let source = Source::Redelivery(vec![Ended::Failed]);
    let selection = Selection { source, after: 10, through: 90, filters: vec![] };
    JobStarted { job: JOB, selection, rate_per_s: 50, total: Some(3) }
}

fn of(ended: &[Ended]) -> JobStarted {
    let selection = Selection { source: Source::Redelivery(ended.to_vec()), ..beginning().selection };
    JobStarted { selection, ..beginning() }
}

fn start(started: JobStarted) -> Command {
    Command::StartJob(StartJob { started, queue: false, max_rate_per_s: 500 })
}

fn queue(started: JobStarted) -> Command {
    Command::StartJob(StartJob { started, queue: true, max_rate_per_s: 500 })
}

fn started() -> Event {
    Event::Subscription(SubscriptionEvent::JobStarted(beginning()))
}

fn ended(outcome: JobOutcome, scheduled: u64, passed_over: u64) -> Event {
    Event::Subscription(SubscriptionEvent::JobEnded(JobEnded { job: JOB, outcome, scheduled, passed_over }))
}

fn advanced(cursor: u64, scheduled: u64, passed_over: u64, after_ms: u64) -> Event {
    let next_at = START.plus_ms(after_ms);
    Event::Delivery(DeliveryEvent::JobAdvanced(JobProgress { job: JOB, cursor, scheduled, passed_over, next_at }))
}

fn step(from: u64, to: u64, found: &[(DeliveryId, DeliveryId)]) -> Step {
    let candidate = |&(original, delivery): &(DeliveryId, DeliveryId)| Candidate {
        original: Some(original),
        delivery,
        message: message(7),
        message_seq: 7,
        sequence: None,
    };
    let found = found.iter().map(candidate).collect();
    Step { job: JOB, from, to, found, passed_over: 0, last: false, at: START }
}

fn again(original: DeliveryId, delivery: DeliveryId) -> Event {
    Event::Delivery(DeliveryEvent::Scheduled(DeliveryScheduled {
        delivery,
        message: message(7),
        message_seq: 7,
        revision: 1,
        sequence: None,
        redelivery_of: Some(original),
    }))
}

fn held(until: Timestamp) -> Event {
    Event::Subscription(SubscriptionEvent::HoldChanged(HoldChanged { until: Some(until), reason: None }))
}

fn reenabled() -> Event {
    let reenabled =
        CircuitReenabled { mode: ReenableMode::Drain, skipped_through: None, cancelled: 0, lost_through: None };
    Event::Subscription(SubscriptionEvent::CircuitReenabled(reenabled))
}

fn closed() -> Event {
    Event::Subscription(SubscriptionEvent::CircuitClosed(CircuitClosed {}))
}

/// A subscription with a delivery that failed.
fn past() -> Vec<Event> {
    vec![created(), scheduled(D1, 7), failed(D1, 5, None), exhausted(D1, 5)]
}

fn running() -> Vec<Event> {
    past().into_iter().chain([started()]).collect()
}

#[test]
fn a_job_begins_at_its_beginning_and_is_due_at_once() {
    let state = given(past()).when(start(beginning())).then([started()]);
    let job = state.job.as_ref().unwrap();
    assert_eq!((job.progress.cursor, job.progress.scheduled, job.started_at), (10, 0, START));
    assert_eq!((state.job_due(), state.next_due()), (Some(START), Some(START)));
}

#[test]
fn a_step_makes_its_deliveries_again_and_moves_the_cursor_in_one_decision() {
    let state = given(running()).when(Command::AdvanceJob(step(10, 40, &[(D1, D2)]))).then([
        again(D1, D2),
        // 50 a second: the next step may follow after 20 ms.
        advanced(40, 1, 0, 20),
    ]);
    assert_eq!(due(&state, START), [D2]);
    assert_eq!(state.deliveries.matched_through, 7, "a repetition is no match");
    assert_eq!(state.job_due(), Some(START.plus_ms(20)));
}

#[test]
fn no_step_is_taken_twice() {
    // §5.2 fault 21
    let past = || running().into_iter().chain([again(D1, D2), advanced(40, 1, 0, 20)]);
    let refusal = Refusal::JobMoved { cursor: 40 };
    given(past())
        .when(Command::AdvanceJob(step(10, 40, &[(D1, D3)])))
        .refused(refusal.clone(), ErrorCode::VersionConflict);
    given(past()).when(Command::AdvanceJob(step(41, 50, &[(D1, D3)]))).refused(refusal, ErrorCode::VersionConflict);
    let later = Step { job: OTHER_JOB, ..step(40, 50, &[]) };
    given(past()).when(Command::AdvanceJob(later)).refused(Refusal::NoSuchJob(OTHER_JOB), ErrorCode::NotFound);
}

#[test]
fn the_last_step_ends_the_job_with_its_counts() {
    let past = running().into_iter().chain([advanced(40, 4, 1, 20)]);
    let last = Step { passed_over: 2, last: true, ..step(40, 90, &[(D1, D2)]) };
    let state = given(past).when(Command::AdvanceJob(last)).then([again(D1, D2), ended(JobOutcome::Done, 5, 3)]);
    assert_eq!((state.job, state.deliveries.open.len()), (None, 1));
}

#[test]
fn what_is_under_way_meanwhile_is_passed_over() {
    let past = [created(), scheduled(D1, 7), started()];
    given(past).when(Command::AdvanceJob(step(10, 40, &[(D1, D2)]))).then([advanced(40, 0, 1, 0)]);
}

#[test]
fn a_subscription_has_one_job_at_a_time() {
    let other = JobStarted { job: OTHER_JOB, ..beginning() };
    given(running()).when(start(other.clone())).refused(Refusal::JobRunning(JOB), ErrorCode::LimitExceeded);
    let over = running().into_iter().chain([ended(JobOutcome::Done, 0, 0)]);
    given(over).when(start(other.clone())).then([Event::Subscription(SubscriptionEvent::JobStarted(other))]);
}

#[test]
fn a_job_is_cancelled_once_and_by_its_name() {
    let state = given(running().into_iter().chain([advanced(40, 4, 1, 20)]))
        .when(Command::CancelJob(JOB))
        .then([ended(JobOutcome::Cancelled, 4, 1)]);
    assert_eq!(state.job, None);
    given(running()).when(Command::CancelJob(OTHER_JOB)).refused(Refusal::NoSuchJob(OTHER_JOB), ErrorCode::NotFound);
    given(past()).when(Command::CancelJob(JOB)).refused(Refusal::NoSuchJob(JOB), ErrorCode::NotFound);
    // A step that was looked for before.
    let over = running().into_iter().chain([ended(JobOutcome::Cancelled, 0, 0)]);
    given(over)
        .when(Command::AdvanceJob(step(10, 40, &[(D1, D2)])))
        .refused(Refusal::NoSuchJob(JOB), ErrorCode::NotFound);
}

#[test]
fn a_deletion_ends_the_job_first() {
    given(running())
        .when(Command::Delete { expected_revision: None })
        .then([ended(JobOutcome::Cancelled, 0, 0), deleted(0)]);
}

#[test]
fn a_job_is_refused_that_would_have_to_wait_unless_it_may() {
    let tripped = || past().into_iter().chain([tripped(7, None)]);
    given(tripped()).when(start(beginning())).refused(Refusal::CircuitOpen, ErrorCode::WebhookCircuitOpen);
    let state = given(tripped()).when(queue(beginning())).then([started()]);
    assert_eq!((state.job_waits(START), state.job_due()), (Some(Waiting::Circuit), None));
    let disabled = || past().into_iter().chain([disabled()]);
    given(disabled()).when(start(beginning())).refused(Refusal::Disabled, ErrorCode::NotRedeliverable);
    let state = given(disabled()).when(queue(beginning())).then([started()]);
    assert_eq!((state.job_waits(START), state.job_due()), (Some(Waiting::Disabled), None));
}

#[test]
fn a_rate_has_bounds_and_a_profile_its_own_mind() {
    for rate_per_s in [0, 501] {
        let started = JobStarted { rate_per_s, ..beginning() };
        let refusal = Refusal::JobRateOutOfRange { max_per_s: 500 };
        given(past()).when(start(started)).refused(refusal, ErrorCode::InvalidInput);
    }
    // A35
    for word in [Ended::Succeeded, Ended::Cancelled] {
        let refusal = Refusal::OnlyFailed("axie-v1".into());
        given(past()).when(start(of(&[Ended::Failed, word]))).refused(refusal, ErrorCode::NotRedeliverable);
        let standard = [subscription().under("standard-v1").created()];
        let all = of(&[Ended::Failed, word]);
        given(standard).when(start(all.clone())).then([Event::Subscription(SubscriptionEvent::JobStarted(all))]);
    }
}

#[test]
fn a_job_waits_while_nothing_may_be_sent_and_goes_on_from_where_it_was() {
    let refused = |more: Vec<Event>| {
        let past = running().into_iter().chain(more);
        let step = Command::AdvanceJob(step(10, 40, &[(D1, D2)]));
        given(past).when(step).refused(Refusal::JobWaits, ErrorCode::VersionConflict);
    };
    refused(vec![disabled()]);
    refused(vec![held(START.plus_ms(1))]);
    refused(vec![tripped(7, None)]);
    for way_back in [vec![disabled(), enabled()], vec![tripped(7, None), reenabled(), closed()], vec![held(START)]] {
        let past = running().into_iter().chain(way_back);
        given(past).when(Command::AdvanceJob(step(10, 40, &[]))).then([advanced(40, 0, 0, 0)]);
    }
    let state = given(running().into_iter().chain([held(START.plus_ms(HOUR))])).state;
    assert_eq!(
        (state.job_waits(START), state.job_due()),
        (Some(Waiting::Held(START.plus_ms(HOUR))), Some(START.plus_ms(HOUR)))
    );
}

#[test]
fn what_is_owed_anyhow_goes_before_a_job() {
    let room = |more: Vec<Event>, most_due, most_open| {
        let state = given(running().into_iter().chain(more)).state;
        state.job_room(START, most_due, most_open)
    };
    // 50 a second are four steps of 13.
    assert_eq!(room(vec![], 16, 100), 13);
    assert_eq!(room(vec![scheduled(D2, 8), scheduled(D3, 9)], 16, 100), 13);
    assert_eq!(room(vec![scheduled(D2, 8), scheduled(D3, 9)], 4, 100), 2);
    assert_eq!(room(vec![scheduled(D2, 8), scheduled(D3, 9)], 2, 100), 0);
    assert_eq!(room(vec![scheduled(D2, 8), scheduled(D3, 9)], 16, 3), 1);
    // What waits for its retry needs no room but that of what is open.
    assert_eq!(room(vec![scheduled(D2, 8), failed(D2, 1, Some(START.plus_ms(HOUR)))], 1, 100), 1);
    assert_eq!(room(vec![advanced(40, 1, 0, 20)], 16, 100), 0, "before its time");
    assert_eq!(room(vec![disabled()], 16, 100), 0);
}

#[test]
fn on_the_way_back_a_job_begins_what_may_be_sent_at_a_time_and_may_be_the_probe() {
    let probing = || Event::Subscription(SubscriptionEvent::CircuitProbing(CircuitProbing { lost_through: None }));
    let back = |more: Vec<Event>| {
        let past = running().into_iter().chain([tripped(7, Some(START)), probing()]).chain(more);
        given(past).state
    };
    assert_eq!((back(vec![]).job_waits(START), back(vec![]).job_room(START, 16, 100)), (None, 1));
    assert_eq!(back(vec![scheduled(D2, 8)]).job_room(START, 16, 100), 0, "the probe is another's");
    let well = || vec![scheduled(D2, 8), succeeded(D2, 1, 200)];
    assert_eq!(back(well()).job_room(START, 16, 100), 1, "one at a time at first");
    let past = running().into_iter().chain([tripped(7, Some(START)), probing()]);
    given(past).when(Command::AdvanceJob(step(10, 40, &[]))).then([advanced(40, 0, 0, 0)]);
}

fn backfill() -> JobStarted {
    let selection = Selection { source: Source::Backfill, filters: filters(&["user.*"]), ..beginning().selection };
    JobStarted { selection, ..beginning() }
}

fn backfilled(delivery: DeliveryId, message_seq: u64) -> Event {
    let message = message(message_seq);
    let backfilled = DeliveryBackfilled { delivery, message, message_seq, revision: 1, job: JOB };
    Event::Delivery(DeliveryEvent::Backfilled(backfilled))
}

/// A step that owes this message for the first time.
fn first_time(from: u64, delivery: DeliveryId, message_seq: u64) -> Command {
    let message = message(message_seq);
    let found = vec![Candidate { original: None, delivery, message, message_seq, sequence: None }];
    Command::AdvanceJob(Step { found, ..step(from, message_seq, &[]) })
}

#[test]
fn a_backfill_goes_by_the_filters_of_its_start() {
    let past = || [subscription().to(&["role.changed"]).created()];
    let mut started = backfill();
    started.selection.filters = filters(&["role.changed"]);
    given(past()).when(start(backfill())).then([Event::Subscription(SubscriptionEvent::JobStarted(started.clone()))]);
    let wants = |name: &str| started.selection.wants(&EventType::parse(name).unwrap());
    assert!(wants("role.changed") && !wants("user.created"));
    started.selection.filters.clear();
    assert!(!started.selection.wants(&EventType::parse("user.created").unwrap()), "no filter picks nothing");
}

#[test]
fn a_backfilled_message_hides_no_match_and_has_no_place_among_them() {
    let running = || [created(), Event::Subscription(SubscriptionEvent::JobStarted(backfill()))];
    let state = given(running()).when(first_time(10, D1, 40)).then([backfilled(D1, 40), advanced(40, 1, 0, 20)]);
    assert_eq!((state.deliveries.matched_through, state.deliveries.sequence), (0, 0));
    assert_eq!((due(&state, START), state.deliveries.open[&D1].sequence), (vec![D1], None));
    // What was published before it and matches is still to come.
    let past = running().into_iter().chain([backfilled(D1, 40), advanced(40, 1, 0, 20)]);
    let state = given(past).when(matched(&[(D2, 7)])).then([scheduled(D2, 7)]);
    assert_eq!((state.deliveries.matched_through, state.deliveries.sequence), (7, 1));
}

#[test]
fn a_message_that_is_under_way_is_not_backfilled() {
    let past = [created(), scheduled(D1, 40), Event::Subscription(SubscriptionEvent::JobStarted(backfill()))];
    given(past).when(first_time(10, D2, 40)).then([advanced(40, 0, 1, 0)]);
}

#[test]
fn a_period_carries_how_far_the_job_has_come() {
    let past: Vec<_> = running().into_iter().chain([again(D1, D2), advanced(40, 1, 0, 20)]).collect();
    let whole = given(past).state;
    let opened = decide(&whole, Command::OpenPeriod { gone_through: 0 }).unwrap();
    let carried = given([created(), started()].into_iter().chain(opened)).state;
    assert_eq!(carried.job, whole.job);
}
