//! How attempts end deliveries or lead to the next attempt, and how ended deliveries are sent again.

use super::*;

/// When each test's attempt ended.
const END: Timestamp = START.plus_ms(70);

#[test]
fn a_200_ends_the_delivery_well() {
    // A30
    let state = given([created(), scheduled(D1, 7)]).when(answered(D1, 1, 200)).then([succeeded(D1, 1, 200)]);
    assert_eq!((state.open_count(), state.next_due()), (0, None));
}

#[test]
fn axie_takes_nothing_but_200_for_success() {
    // A30, C1
    for status in [100, 199, 201, 202, 204, 301, 302, 400, 401, 404, 410, 429, 500, 503] {
        let then = given([created(), scheduled(D1, 7)]).when(answered(D1, 1, status));
        let Ok(events) = then.decision else { panic!("{status} was refused") };
        let [Event::Delivery(DeliveryEvent::AttemptFailed(failed))] = events.as_slice() else { panic!("{events:?}") };
        assert_eq!(failed.due_at, Some(END.plus_ms(2 * SECOND)), "{status}");
        assert_eq!((failed.code, failed.response.as_ref()), (FailureCode::Status, Some(&response(status))));
        assert_eq!(failed.detail, format!("the endpoint answered with status {status}"));
    }
}

#[test]
fn the_others_take_any_2xx_for_success() {
    // S19, C1
    for profile in ["axissynapse-v1", "standard-v1"] {
        for status in [200, 202, 204, 299] {
            given([subscription().under(profile).created(), scheduled(D1, 7)])
                .when(answered(D1, 1, status))
                .then([succeeded(D1, 1, status)]);
        }
    }
}

#[test]
fn axie_waits_2_4_8_and_16_seconds_from_the_end_of_each_failure() {
    // A29
    let mut past = vec![created(), scheduled(D1, 7)];
    for (number, wait_s) in [(1, 2), (2, 4), (3, 8), (4, 16)] {
        let due_at = END.plus_ms(wait_s * SECOND);
        let state = given(past.clone()).when(answered(D1, number, 500)).then([failed(D1, number, Some(due_at))]);
        assert_eq!(state.next_due(), Some(due_at));
        assert_eq!(due(&state, Timestamp::from_ms(due_at.as_ms() - 1)), []);
        assert_eq!(due(&state, due_at), [D1]);
        past.push(failed(D1, number, Some(due_at)));
    }
}

#[test]
fn the_fifth_failure_exhausts_the_delivery_and_leaves_the_subscription_active() {
    // A31
    let past = [created(), scheduled(D1, 7), failed(D1, 4, Some(START))];
    let state = given(past).when(answered(D1, 5, 500)).then([failed(D1, 5, None), exhausted(D1, 5)]);
    assert_eq!((state.open_count(), state.next_due()), (0, None));
    assert!(state.may_send());
}

#[test]
fn an_attempt_without_an_answer_is_retried_like_any_other() {
    // A30
    for code in [FailureCode::Timeout, FailureCode::Dns, FailureCode::Connect, FailureCode::Tls, FailureCode::Body] {
        let failure = Failure { code, detail: "why".into() };
        let events = given([created(), scheduled(D1, 7)]).when(finished(D1, 1, Err(failure))).decision.unwrap();
        let [Event::Delivery(DeliveryEvent::AttemptFailed(failed))] = events.as_slice() else { panic!("{events:?}") };
        assert_eq!((failed.code, failed.detail.as_str(), &failed.response), (code, "why", &None));
        assert_eq!(failed.due_at, Some(END.plus_ms(2 * SECOND)));
    }
}

#[test]
fn a_retry_outside_the_window_is_not_made() {
    // S21
    let synapse = subscription().under("axissynapse-v1").created();
    let late = Command::FinishAttempt(Finished {
        delivery: D1,
        number: 1,
        revision: 1,
        started_at: START,
        ended_at: START.plus_ms(HOUR),
        exchange: Exchange { latency_ms: 70, result: Ok(response(500)) },
        random: 0,
    });
    given([synapse, scheduled(D1, 7)]).when(late).then([failed(D1, 1, None), exhausted(D1, 1)]);
}

#[test]
fn an_outcome_that_nobody_waits_for_is_refused() {
    let refused = |past: Vec<Event>, number| {
        let past = [created(), scheduled(D1, 7)].into_iter().chain(past);
        given(past).when(answered(D1, number, 200)).refused(Refusal::NotPending(D1), ErrorCode::NotFound);
    };
    // The same attempt again, one from the future, one of a delivery that has ended.
    refused(vec![failed(D1, 1, Some(START))], 1);
    refused(vec![], 2);
    refused(vec![], 0);
    refused(vec![succeeded(D1, 1, 200)], 1);
    refused(vec![failed(D1, 5, None), exhausted(D1, 5)], 6);
    given([created()]).when(answered(D2, 1, 200)).refused(Refusal::NotPending(D2), ErrorCode::NotFound);
}

#[test]
fn an_outcome_counts_although_the_subscription_was_disabled_meanwhile() {
    let past = || [created(), scheduled(D1, 7), disabled()];
    given(past()).when(answered(D1, 1, 200)).then([succeeded(D1, 1, 200)]);
    let due_at = END.plus_ms(2 * SECOND);
    let state = given(past()).when(answered(D1, 1, 500)).then([failed(D1, 1, Some(due_at))]);
    assert_eq!(due(&state, due_at), []);
}

fn requested(original: DeliveryId) -> [Event; 2] {
    let request = RedeliveryRequested { original, delivery: D3, message: message(7) };
    let scheduled = DeliveryScheduled {
        delivery: D3,
        message: message(7),
        message_seq: 7,
        revision: 1,
        sequence: None,
        redelivery_of: Some(original),
    };
    [
        Event::Subscription(SubscriptionEvent::RedeliveryRequested(request)),
        Event::Delivery(DeliveryEvent::Scheduled(scheduled)),
    ]
}

#[test]
fn a_failed_delivery_is_sent_again_as_a_new_run_of_the_same_message() {
    // A35
    let past = || vec![created(), scheduled(D1, 7), failed(D1, 5, None), exhausted(D1, 5)];
    let state = given(past()).when(again(D1, true)).then(requested(D1));
    assert_eq!(due(&state, START), [D3]);
    // Its budget is whole, and what it repeats does not count as matched once more.
    let past = past().into_iter().chain(requested(D1));
    given(past.clone()).when(answered(D3, 1, 500)).then([failed(D3, 1, Some(END.plus_ms(2 * SECOND)))]);
    given(past).when(matched(&[(D2, 7)])).then([]);
}

#[test]
fn axie_sends_only_failed_deliveries_again_and_the_others_any() {
    // A35, S26, C17
    let refusal = || Refusal::Succeeded(D1, "axie-v1".into());
    let past = [created(), scheduled(D1, 7), succeeded(D1, 1, 200)];
    given(past).when(again(D1, false)).refused(refusal(), ErrorCode::NotRedeliverable);
    for profile in ["axissynapse-v1", "standard-v1"] {
        let past = [subscription().under(profile).created(), scheduled(D1, 7), succeeded(D1, 1, 200)];
        given(past).when(again(D1, false)).then(requested(D1));
    }
}

#[test]
fn a_delivery_under_way_is_not_sent_again() {
    // A35
    given([created(), scheduled(D1, 7), failed(D1, 1, Some(START))])
        .when(again(D1, true))
        .refused(Refusal::StillOpen(D1), ErrorCode::NotRedeliverable);
}

#[test]
fn nothing_is_sent_again_while_disabled() {
    // A11, A35
    given([created(), scheduled(D1, 7), failed(D1, 5, None), exhausted(D1, 5), disabled()])
        .when(again(D1, true))
        .refused(Refusal::Disabled, ErrorCode::NotRedeliverable);
}

#[test]
fn an_older_message_sent_again_hides_no_newer_match() {
    // A redelivery of message 7 says nothing about what was matched.
    let past = [created()].into_iter().chain(requested(D1));
    given(past).when(matched(&[(D2, 5)])).then([scheduled(D2, 5)]);
}
