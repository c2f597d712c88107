//! What is owed of matched messages, and when.

use super::*;

#[test]
fn matched_messages_are_owed_from_now_on_in_log_order() {
    // S13
    let state = given([created()]).when(matched(&[(D1, 7), (D2, 9)])).then([scheduled(D1, 7), scheduled(D2, 9)]);
    assert_eq!(due(&state, START), [D1, D2]);
}

#[test]
fn a_message_is_owed_once_however_often_it_is_matched() {
    // S13
    given([created(), scheduled(D1, 7)]).when(matched(&[(D2, 7)])).then([]);
    given([created(), scheduled(D1, 7), succeeded(D1, 1, 200)]).when(matched(&[(D2, 6), (D2, 7)])).then([]);
    given([created(), scheduled(D1, 7)]).when(matched(&[(D2, 7), (D3, 8)])).then([scheduled(D3, 8)]);
}

#[test]
fn a_match_behind_a_lost_one_is_refused_since_it_would_hide_it() {
    let past = || [created(), scheduled(D1, 7)];
    given(past())
        .when(matched_after(Some(8), &[(D3, 9)]))
        .refused(Refusal::MatchMissing { after: 7 }, ErrorCode::NotFound);
    given(past()).when(matched_after(Some(7), &[(D3, 9)])).then([scheduled(D3, 9)]);
    given(past()).when(matched_after(None, &[(D3, 9)])).then([scheduled(D3, 9)]);
}

#[test]
fn a_match_that_comes_while_disabled_is_held() {
    // The filters matched as of the message's position, when it was still enabled.
    let state = given([created(), disabled()]).when(matched(&[(D1, 7)])).then([Event::Delivery(
        DeliveryEvent::Scheduled(DeliveryScheduled {
            delivery: D1,
            message: message(7),
            message_seq: 7,
            revision: 2,
            sequence: None,
            redelivery_of: None,
        }),
    )]);
    assert_eq!(due(&state, START.plus_ms(HOUR)), []);
    assert_eq!(state.open_count(), 1);
}

#[test]
fn a_pause_holds_everything_until_its_moment_or_until_it_is_taken_back() {
    let until = START.plus_ms(HOUR);
    let hold = |until| Event::Subscription(SubscriptionEvent::HoldChanged(HoldChanged { until, reason: None }));
    let pause = |until| Command::Hold { until, reason: None };
    let state = given([created(), scheduled(D1, 7)]).when(pause(Some(until))).then([hold(Some(until))]);
    assert_eq!(due(&state, Timestamp::from_ms(until.as_ms() - 1)), []);
    assert_eq!((due(&state, until), state.next_due()), (vec![D1], Some(until)));
    assert_eq!(state.settings().unwrap().revision, 2);
    let past = || [created(), scheduled(D1, 7), hold(Some(until))];
    given(past()).when(pause(Some(until))).then([]);
    // What matches meanwhile is owed, and waits too.
    let state = given(past()).when(matched(&[(D2, 8)])).decision.unwrap();
    assert_eq!(state.len(), 1);
    let state = given(past()).when(pause(None)).then([hold(None)]);
    assert_eq!(due(&state, START), [D1]);
}

#[test]
fn what_is_due_comes_oldest_first_and_not_before_its_time() {
    let later = START.plus_ms(4 * SECOND);
    let state = given([created(), scheduled(D1, 7), scheduled(D2, 8), scheduled(D3, 9), failed(D1, 1, Some(later))])
        .when(Command::Enable)
        .then([]);
    assert_eq!(due(&state, START), [D2, D3]);
    assert_eq!(due(&state, later), [D2, D3, D1]);
    assert_eq!(due(&state, Timestamp::from_ms(START.as_ms() - 1)), []);
    assert_eq!(state.next_due(), Some(START));
    assert_eq!(state.next_due_after(START), Some(later));
    assert_eq!(state.next_due_after(later), None);
}
