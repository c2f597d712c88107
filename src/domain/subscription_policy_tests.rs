//! A retry policy among the settings, and what it makes of attempts.

use super::*;
use crate::domain::retry_policy::{InvalidPolicy, PolicyProblem, RetryPolicy, SuccessRule};

/// When each attempt ends.
const END: Timestamp = START.plus_ms(70);

/// One attempt and no other.
pub(super) fn once() -> RetryPolicy {
    attempts(1)
}

fn attempts(max_attempts: u32) -> RetryPolicy {
    RetryPolicy { max_attempts: Some(max_attempts), ..RetryPolicy::default() }
}

fn delays(delays_s: &[u32]) -> RetryPolicy {
    RetryPolicy { delays_s: Some(delays_s.to_vec()), ..RetryPolicy::default() }
}

fn set(to: Option<RetryPolicy>) -> Command {
    Command::Update(Update { retry_policy: Some(to), ..Update::default() })
}

fn changed(from: Option<RetryPolicy>, to: Option<RetryPolicy>) -> Event {
    updated(SubscriptionUpdated { retry_policy: Some(Change { from, to }), ..SubscriptionUpdated::default() })
}

fn created_with(policy: RetryPolicy) -> Event {
    let Creation(created) = subscription();
    Event::Subscription(SubscriptionEvent::Created(SubscriptionCreated { retry_policy: Some(policy), ..created }))
}

/// When the next attempt is due behind the one that was just refused; `None`: the delivery has ended.
fn due_behind(past: impl IntoIterator<Item = Event>, number: u32) -> Option<Timestamp> {
    let events = given(past).when(answered(D1, number, 500)).decision.unwrap();
    events.into_iter().find_map(|event| match event {
        Event::Delivery(DeliveryEvent::AttemptFailed(failed)) => failed.due_at,
        Event::Delivery(_) | Event::Subscription(_) | Event::Tenant(_) | Event::Message(_) => None,
    })
}

#[test]
fn it_is_a_setting_that_is_taken_back_with_nothing() {
    let state = given([created()]).when(set(Some(once()))).then([changed(None, Some(once()))]);
    assert_eq!((state.settings().unwrap().revision, state.settings().unwrap().rules().unwrap().max_attempts()), (2, 1));
    given([created_with(once())]).when(set(Some(once()))).then([]);
    let state = given([created_with(once())]).when(set(None)).then([changed(Some(once()), None)]);
    assert_eq!(state.settings().unwrap().rules().unwrap().max_attempts(), 5);
}

#[test]
fn one_out_of_bounds_is_refused_at_creation_and_later() {
    let refusal = || Refusal::RetryPolicy(InvalidPolicy(vec![PolicyProblem::Attempts]));
    given([created()]).when(set(Some(attempts(21)))).refused(refusal(), ErrorCode::InvalidInput);
    let Creation(new) = subscription();
    let new = SubscriptionCreated { retry_policy: Some(attempts(0)), ..new };
    given([]).when(Command::Create(new)).refused(refusal(), ErrorCode::InvalidInput);
}

#[test]
fn the_schedule_is_that_of_the_policy_and_ends_with_it() {
    // A29, C2
    let past = |through| {
        let failures = (1..through).map(|number| failed(D1, number, Some(START)));
        [created_with(delays(&[0, 60])), scheduled(D1, 7)].into_iter().chain(failures)
    };
    let waits: Vec<_> = (1..=3).map(|number| due_behind(past(number), number)).collect();
    assert_eq!(waits, [Some(END), Some(END.plus_ms(60 * SECOND)), None]);
}

#[test]
fn a_change_holds_for_what_is_under_way() {
    // A13
    let past = || [created(), scheduled(D1, 7), failed(D1, 1, Some(START)), failed(D1, 2, Some(START))];
    assert!(due_behind(past(), 3).is_some());
    let fewer = past().into_iter().chain([changed(None, Some(attempts(2)))]);
    assert_eq!(due_behind(fewer.clone(), 3), None);
    // What is due already is made when it is due.
    assert_eq!(given(fewer).state.next_due(), Some(START));
    let more = past().into_iter().chain([failed(D1, 3, Some(START)), failed(D1, 4, Some(START))]);
    assert_eq!(due_behind(more.clone(), 5), None);
    assert!(due_behind(more.chain([changed(None, Some(attempts(6)))]), 5).is_some());
}

#[test]
fn what_counts_as_success_is_the_policys_too() {
    // A30, S19
    let any = RetryPolicy { success: Some(SuccessRule::Any2xx), ..RetryPolicy::default() };
    for (past, succeeds) in [(created(), false), (created_with(any), true)] {
        let events = given([past, scheduled(D1, 7)]).when(answered(D1, 1, 204)).decision.unwrap();
        let succeeded = matches!(events[..], [Event::Delivery(DeliveryEvent::Succeeded(_))]);
        assert_eq!(succeeded, succeeds);
    }
}

#[test]
fn a_deleted_one_comes_back_with_its_policy() {
    let Creation(new) = subscription().under("standard-v1");
    let new = SubscriptionCreated { retry_policy: Some(once()), ..new };
    let created = Event::Subscription(SubscriptionEvent::Created(new));
    let gone = SubscriptionDeleted { restore_window_s: Some(60), ..SubscriptionDeleted::default() };
    let gone = Event::Subscription(SubscriptionEvent::Deleted(gone));
    let restore = Restore { matched_through: 7, too_late: false, at: START };
    let state = given([created, gone]).when(Command::Restore(restore)).state;
    assert_eq!(state.settings().unwrap().retry_policy.as_deref(), Some(&once()));
}
