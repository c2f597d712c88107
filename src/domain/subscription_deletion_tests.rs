//! A deleted subscription, and its way back.

use super::*;
use crate::domain::event::{SecretsDestroyed, SubscriptionRestored};

/// The window of `standard-v1`, in seconds.
const WINDOW_S: u64 = 72 * 3_600;
const AT_ITS_END: Timestamp = Timestamp::from_ms(START.as_ms() + 72 * 3_600_000);
const JUST_BEFORE: Timestamp = Timestamp::from_ms(AT_ITS_END.as_ms() - 1);

fn lasting() -> Creation {
    subscription().under("standard-v1")
}

fn deleted_at_sequence(cancelled: u64, sequence: u64) -> Event {
    let deleted = SubscriptionDeleted { cancelled, restore_window_s: Some(WINDOW_S), sequence };
    Event::Subscription(SubscriptionEvent::Deleted(deleted))
}

/// The first message that matched.
fn first(delivery: DeliveryId, message_seq: u64) -> Event {
    let Event::Delivery(DeliveryEvent::Scheduled(event)) = scheduled(delivery, message_seq) else {
        unreachable!("it schedules one")
    };
    Event::Delivery(DeliveryEvent::Scheduled(DeliveryScheduled { sequence: Some(1), ..event }))
}

fn restored(matched_through: u64) -> Event {
    Event::Subscription(SubscriptionEvent::Restored(SubscriptionRestored { matched_through }))
}

fn destroyed() -> Event {
    Event::Subscription(SubscriptionEvent::SecretsDestroyed(SecretsDestroyed {}))
}

fn restore(matched_through: u64, at: Timestamp) -> Command {
    Command::Restore(Restore { matched_through, too_late: false, at })
}

fn gone_for_good() -> Refusal {
    Refusal::NotRestorable(NotRestorable::ForGood)
}

fn too_late() -> Refusal {
    Refusal::NotRestorable(NotRestorable::TooLate(AT_ITS_END))
}

#[test]
fn a_deleted_one_comes_back_as_it_was_but_disabled_and_owing_nothing() {
    let past = || [lasting().about("a shop").limited_to(7).created(), rotated(2, Some(AT_ITS_END)), first(D1, 7)];
    let before = given(past()).state.settings().unwrap().clone();
    let deleted = || deleted_at_sequence(1, 1);
    given(past()).when(Command::Delete { expected_revision: None }).then([deleted()]);
    let past = || past().into_iter().chain([deleted()]);
    let state = given(past()).when(restore(20, JUST_BEFORE)).then([restored(20)]);
    let after = state.settings().unwrap();
    // The deletion was a version too.
    assert_eq!(*after, Settings { enabled: false, revision: before.revision + 2, ..before });
    assert_eq!((state.open_count(), state.next_due(), &state.circuit), (0, None, &Circuit::default()));
}

#[test]
fn messages_up_to_the_restoration_are_not_owed_and_numbers_go_on_behind_those_given() {
    let past = || [lasting().created(), first(D1, 7), deleted_at_sequence(1, 1), restored(20), enabled()];
    given(past()).when(matched(&[(D2, 8), (D2, 20)])).then([]);
    let decision = given(past()).when(matched(&[(D2, 20), (D3, 21)])).decision.unwrap();
    let [Event::Delivery(DeliveryEvent::Scheduled(scheduled))] = decision.as_slice() else { panic!("{decision:?}") };
    assert_eq!((scheduled.delivery, scheduled.message_seq, scheduled.sequence), (D3, 21, Some(2)));
}

#[test]
fn what_was_cancelled_stays_cancelled() {
    let past = [lasting().created(), first(D1, 7), deleted_at_sequence(1, 1), restored(20), enabled()];
    given(past).when(answered(D1, 1, 200)).refused(Refusal::NotPending(D1), ErrorCode::NotFound);
}

#[test]
fn a_window_ends_on_time() {
    let past = || [lasting().created(), deleted_at_sequence(0, 0)];
    assert_eq!(given(past()).state.next_due(), Some(AT_ITS_END));
    given(past()).when(restore(9, AT_ITS_END)).refused(too_late(), ErrorCode::WebhookNotRestorable);
    let racing = Restore { matched_through: 9, too_late: true, at: START };
    given(past()).when(Command::Restore(racing)).refused(too_late(), ErrorCode::WebhookNotRestorable);
    given(past()).when(Command::Forget { at: JUST_BEFORE }).then([]);
    let state = given(past()).when(Command::Forget { at: AT_ITS_END }).then([destroyed()]);
    let left = Deleted { tenant: TENANT, restorable_until: Some(AT_ITS_END), settings: None };
    assert_eq!((&state.life, state.next_due()), (&Life::Deleted(left), None));
    let past = || past().into_iter().chain([destroyed()]);
    // Whatever the clock says.
    given(past()).when(restore(9, START)).refused(too_late(), ErrorCode::WebhookNotRestorable);
    given(past()).when(Command::Forget { at: AT_ITS_END }).then([]);
}

#[test]
fn a_profile_without_a_window_deletes_for_good() {
    let past = || [subscription().created(), scheduled(D1, 7)];
    let state = given(past()).when(Command::Delete { expected_revision: None }).then([deleted(1)]);
    let left = Deleted { tenant: TENANT, restorable_until: None, settings: None };
    assert_eq!((&state.life, state.next_due()), (&Life::Deleted(left), None));
    let past = past().into_iter().chain([deleted(1)]);
    given(past).when(restore(9, START)).refused(gone_for_good(), ErrorCode::WebhookNotRestorable);
}

#[test]
fn whoever_asks_twice_is_answered_as_once_and_nobody_restores_what_never_was() {
    let past = [lasting().created(), deleted_at_sequence(0, 0), restored(20)];
    given(past).when(restore(30, START)).then([]);
    given([]).when(restore(9, START)).refused(Refusal::NotFound, ErrorCode::NotFound);
    given([lasting().created(), deleted_at_sequence(0, 0)])
        .when(lasting().create())
        .refused(Refusal::Exists, ErrorCode::VersionConflict);
}

#[test]
fn one_whose_profile_is_gone_waits_for_the_operator() {
    let past = [subscription().under("gone-v1").created(), deleted_at_sequence(0, 0)];
    let unknown = UnknownProfile("gone-v1".into());
    given(past).when(restore(9, START)).refused(Refusal::Profile(unknown), ErrorCode::InvalidInput);
}
