//! What failures make of a subscription: classes, pauses, the circuit breaker, and the way back.

use super::*;
use crate::domain::circuit::{Opened, Phase, TripCause};
use crate::domain::event::{
    CircuitClosed, CircuitProbing, CircuitReenabled, DeliveryCancelled, DisableCause, MatchesLost, ReenableMode,
};

const MINUTE: u64 = 60 * SECOND;
const END: Timestamp = START.plus_ms(70);

fn synapse() -> Event {
    subscription().under("axissynapse-v1").created()
}

fn standard() -> Event {
    subscription().under("standard-v1").created()
}

fn delivery(number: u64) -> DeliveryId {
    DeliveryId::from_parts(1, number.into())
}

fn asking(status: u16, retry_after_s: u64) -> Result<Response, Failure> {
    Ok(Response { retry_after_s: Some(retry_after_s), ..response(status) })
}

#[track_caller]
fn failure(then: Then) -> AttemptFailed {
    let events = then.decision.unwrap();
    let found = events.into_iter().find_map(|event| match event {
        Event::Delivery(DeliveryEvent::AttemptFailed(failed)) => Some(failed),
        Event::Delivery(_) | Event::Subscription(_) | Event::Tenant(_) | Event::Message(_) => None,
    });
    found.expect("an attempt that failed")
}

/// Its circuit tripped with these messages scheduled, and nothing behind `matched_through`.
pub(super) fn tripped(matched_through: u64, probe_at: Option<Timestamp>) -> Event {
    Event::Subscription(SubscriptionEvent::CircuitTripped(CircuitTripped {
        cause: TripCause::HardFailures,
        failures: 10,
        delivery: D1,
        code: FailureCode::Status,
        detail: "the endpoint answered with status 500".into(),
        matched_through,
        probe_at,
        failed_probes: 0,
    }))
}

fn reenabled(mode: ReenableMode, skipped_through: Option<u64>, cancelled: u64, lost_through: Option<u64>) -> Event {
    let reenabled = CircuitReenabled { mode, skipped_through, cancelled, lost_through };
    Event::Subscription(SubscriptionEvent::CircuitReenabled(reenabled))
}

fn reenable(mode: ReenableMode, skip_through: Option<u64>) -> Command {
    Command::Reenable { mode, skip_through, gone_through: 0 }
}

fn cancelled(delivery: DeliveryId) -> Event {
    Event::Delivery(DeliveryEvent::Cancelled(DeliveryCancelled { delivery }))
}

/// Two deliveries fail in turn, each attempt a minute behind the last: nine failures in a row.
fn nine_failures() -> Vec<Event> {
    let mut past = vec![synapse(), scheduled(D1, 7), scheduled(D2, 8)];
    for n in 0..9_u64 {
        let Event::Delivery(DeliveryEvent::AttemptFailed(mut failure)) =
            failed([D1, D2][n as usize % 2], n as u32 / 2 + 1, Some(START))
        else {
            unreachable!("it is a failed attempt")
        };
        failure.started_at = START.plus_ms(n * MINUTE);
        past.push(Event::Delivery(DeliveryEvent::AttemptFailed(failure)));
    }
    past
}

fn answered_at(delivery: DeliveryId, number: u32, status: u16, started_at: Timestamp) -> Command {
    let Command::FinishAttempt(finished) = answered(delivery, number, status) else { unreachable!("it finishes one") };
    Command::FinishAttempt(Finished { started_at, ended_at: started_at.plus_ms(70), ..finished })
}

mod classes {
    use super::*;

    #[test]
    fn each_profile_judges_as_its_document_says() {
        // A30, S19, S23, C18
        use FailureClass::{Gone, Hard, Soft};
        for (status, axie, synapse, standard) in [
            (301, Hard, Hard, Hard),
            (400, Hard, Hard, Hard),
            (404, Hard, Hard, Hard),
            (410, Hard, Gone, Gone),
            (429, Hard, Soft, Soft),
            (500, Hard, Hard, Hard),
            (502, Hard, Hard, Soft),
            (503, Hard, Soft, Soft),
            (504, Hard, Hard, Soft),
        ] {
            for (profile, expected) in [("axie-v1", axie), ("axissynapse-v1", synapse), ("standard-v1", standard)] {
                let past = [subscription().under(profile).created(), scheduled(D1, 7)];
                let class = failure(given(past).when(answered(D1, 1, status))).class;
                assert_eq!(class, expected, "{status} under {profile}");
            }
        }
    }

    #[test]
    fn any_failure_that_asks_for_patience_is_soft_where_that_is_heeded() {
        // S23
        for (profile, class) in [
            ("axie-v1", FailureClass::Hard),
            ("axissynapse-v1", FailureClass::Soft),
            ("standard-v1", FailureClass::Soft),
        ] {
            let past = [subscription().under(profile).created(), scheduled(D1, 7)];
            assert_eq!(failure(given(past).when(finished(D1, 1, asking(500, 60)))).class, class, "{profile}");
        }
    }

    #[test]
    fn what_we_caused_ourselves_is_tried_again_three_times_and_counts_from_then_on() {
        let blocked = |number| {
            let failure = Failure { code: FailureCode::Blocked, detail: "forbidden".into() };
            finished(D1, number, Err(failure))
        };
        let mut state = given([synapse(), scheduled(D1, 7)]);
        for (number, failures) in [(1, 0), (2, 0), (3, 0), (4, 1), (5, 2)] {
            let then = state.when(blocked(number));
            let failed = failure(Then { decision: then.decision.clone(), state: then.state.clone() });
            assert_eq!((failed.number, failed.failures, failed.class), (number, failures, FailureClass::Local));
            if failures == 0 {
                assert_eq!(failed.due_at, Some(END.plus_ms(SECOND)));
            }
            assert_eq!(then.state.circuit, Default::default());
            state = Given { state: then.state, versions: [2, 1 + u64::from(number)] };
        }
    }

    #[test]
    fn an_attempt_that_the_operators_rules_forbid_is_local_and_told_once_an_hour() {
        // A blocked attempt says nothing about the endpoint, whatever the profile.
        let blocked = |delivery, at: Timestamp| {
            let failure = Failure { code: FailureCode::Blocked, detail: "forbidden".into() };
            let Command::FinishAttempt(finished) = finished(delivery, 1, Err(failure)) else { panic!("it ends") };
            Command::FinishAttempt(Finished { started_at: at, ended_at: at, ..finished })
        };
        for profile in ["axie-v1", "axissynapse-v1", "standard-v1"] {
            let created = subscription().under(profile).created();
            let state = given([created, scheduled(D1, 7), scheduled(D2, 8), scheduled(delivery(9), 9)]);
            let then = state.when(blocked(D1, START));
            let told = |then: &Then| {
                let events = then.decision.as_ref().unwrap();
                let told = |event: &&Event| matches!(event, Event::Subscription(SubscriptionEvent::EgressBlocked(_)));
                (events.iter().filter(told).count(), events.len())
            };
            assert_eq!(told(&then), (1, 2), "{profile}");
            let failed = failure(Then { decision: then.decision.clone(), state: then.state.clone() });
            assert_eq!((failed.class, failed.failures), (FailureClass::Local, 0), "{profile}");
            assert_eq!(then.state.circuit, Default::default(), "{profile}: not charged to the breaker");
            assert_eq!(then.state.settings().unwrap().revision, 1, "{profile}: nobody changed it");

            let told_at = then.state.blocked_at.unwrap();
            let mut state = then.state;
            for (id, after_ms, again) in [(D2, 3_599_999, 0), (delivery(9), 3_600_000, 1)] {
                let then = Given { state, versions: [9, 9] }.when(blocked(id, told_at.plus_ms(after_ms)));
                assert_eq!(told(&then).0, again, "{profile} {after_ms}");
                state = then.state;
            }
        }
    }

    #[test]
    fn an_endpoint_that_is_gone_disables_the_subscription_and_ends_the_delivery() {
        // C18: 410
        let gone = Event::Subscription(SubscriptionEvent::Disabled(SubscriptionDisabled {
            reason: None,
            cause: Some(DisableCause::EndpointGone),
        }));
        let then = given([standard(), scheduled(D1, 7), scheduled(D2, 8)]).when(answered(D1, 1, 410));
        let events = then.decision.unwrap();
        assert_eq!(events[0], gone);
        assert_eq!(events.last(), Some(&exhausted(D1, 1)));
        assert!(!then.state.may_send());
        assert_eq!(then.state.open_count(), 1, "the other one waits");
        // A second attempt that was under way finds it disabled already.
        let past = [standard(), scheduled(D1, 7), disabled()];
        let events = given(past).when(answered(D1, 1, 410)).decision.unwrap();
        assert!(events.iter().all(|event| matches!(event, Event::Delivery(_))), "{events:?}");
    }
}

mod retry_after {
    use super::*;

    #[test]
    fn nobody_calls_an_endpoint_before_it_wants_to_be_called() {
        // S23
        let past = [synapse(), scheduled(D1, 7), scheduled(D2, 8)];
        let then = given(past).when(finished(D1, 1, asking(503, 300)));
        let until = END.plus_ms(300 * SECOND);
        assert_eq!(due(&then.state, Timestamp::from_ms(until.as_ms() - 1)), []);
        assert_eq!(due(&then.state, until), [D2]);
        assert_eq!(then.state.next_due(), Some(until));
        let failed = failure(then);
        assert_eq!(failed.hold_until, Some(until));
        let due_at = failed.due_at.unwrap();
        assert!(until <= due_at && due_at <= until.plus_ms(30 * SECOND), "spread over a tenth more: {due_at:?}");
    }

    #[test]
    fn it_is_heeded_up_to_the_profiles_limit() {
        for (profile, cap_s) in [("axissynapse-v1", 900), ("standard-v1", 86_400)] {
            let past = [subscription().under(profile).created(), scheduled(D1, 7)];
            let failed = failure(given(past).when(finished(D1, 1, asking(503, u64::MAX))));
            assert_eq!(failed.hold_until, Some(END.plus_ms(cap_s * SECOND)), "{profile}");
        }
        let failed = failure(given([created(), scheduled(D1, 7)]).when(finished(D1, 1, asking(503, 3_600))));
        assert_eq!((failed.hold_until, failed.due_at), (None, Some(END.plus_ms(2 * SECOND))), "axie-v1 heeds none");
    }

    #[test]
    fn a_short_one_makes_no_retry_earlier() {
        let failed = failure(given([standard(), scheduled(D1, 7)]).when(finished(D1, 1, asking(503, 1))));
        assert!(failed.due_at >= Some(END.plus_ms(5 * SECOND)));
    }

    #[test]
    fn one_that_leads_out_of_the_window_ends_the_delivery() {
        // S21
        let last = Command::FinishAttempt(Finished {
            delivery: D1,
            number: 1,
            revision: 1,
            started_at: START,
            ended_at: START.plus_ms(50 * MINUTE),
            exchange: Exchange { latency_ms: 70, result: asking(503, 900) },
            random: 0,
        });
        let events = given([synapse(), scheduled(D1, 7)]).when(last).decision.unwrap();
        assert_eq!(events.last(), Some(&exhausted(D1, 1)));
    }

    #[test]
    fn standard_webhooks_slows_down_where_the_endpoint_says_nothing() {
        for status in [429, 502, 504] {
            let then = given([standard(), scheduled(D1, 7), scheduled(D2, 8)]).when(answered(D1, 1, status));
            assert_eq!(then.state.next_due(), Some(END.plus_ms(5 * SECOND)), "{status}");
        }
    }
}

mod tripping {
    use super::*;

    #[test]
    fn the_tenth_failure_trips_it_in_the_same_decision() {
        // S22
        let then = given(nine_failures()).when(answered_at(D2, 5, 500, START.plus_ms(9 * MINUTE)));
        let events = then.decision.unwrap();
        let [Event::Subscription(SubscriptionEvent::CircuitTripped(trip)), Event::Delivery(_)] = events.as_slice()
        else {
            panic!("{events:?}")
        };
        assert_eq!((trip.cause, trip.failures, trip.delivery), (TripCause::HardFailures, 10, D2));
        assert_eq!((trip.matched_through, trip.probe_at), (8, None), "by hand alone");
        assert_eq!((due(&then.state, START.plus_ms(HOUR)), then.state.next_due()), (vec![], None));
        assert_eq!(then.state.open_count(), 2, "nothing is lost");
    }

    #[test]
    fn one_message_that_cannot_be_taken_trips_nothing() {
        // S24: eight attempts are all that a delivery has.
        let mut given = given([synapse(), scheduled(D1, 7)]);
        for number in 1..=8 {
            let then = given.when(answered_at(D1, number, 500, START.plus_ms(u64::from(number) * MINUTE)));
            given = Given { state: then.state, versions: [1, 1 + u64::from(number)] };
        }
        assert_eq!((given.state.open_count(), given.state.may_send()), (0, true));
    }

    #[test]
    fn axie_has_no_breaker() {
        // A31
        let past = nine_failures().into_iter().skip(1);
        let then = given([created()].into_iter().chain(past)).when(answered_at(D2, 5, 500, START.plus_ms(9 * MINUTE)));
        assert!(then.state.may_send());
    }

    #[test]
    fn an_automatic_one_says_when_it_will_try_by_itself() {
        let past = nine_failures().into_iter().skip(1);
        let then = given([standard()].into_iter().chain(past)).when(answered_at(D2, 5, 500, START.plus_ms(9 * MINUTE)));
        let probe_at = then.state.circuit.probe_at().unwrap();
        let latest = START.plus_ms(10 * MINUTE + 70);
        assert!(START.plus_ms(9 * MINUTE) <= probe_at && probe_at <= latest, "{probe_at:?}");
        assert_eq!(then.state.next_due(), Some(probe_at));
    }

    #[test]
    fn what_matches_from_then_on_waits_in_the_log() {
        // S25
        given([synapse(), scheduled(D1, 7), tripped(7, None)])
            .when(matched(&[(D2, 9)]))
            .refused(Refusal::CircuitOpen, ErrorCode::WebhookCircuitOpen);
    }

    #[test]
    fn a_late_outcome_is_recorded_and_changes_nothing_else() {
        let past = || [synapse(), scheduled(D1, 7), scheduled(D2, 8), tripped(8, None)];
        let state = given(past()).when(answered(D1, 1, 200)).then([succeeded(D1, 1, 200)]);
        assert!(!state.may_send());
        let events = given(past()).when(answered(D2, 1, 500)).decision.unwrap();
        assert!(matches!(events.as_slice(), [Event::Delivery(DeliveryEvent::AttemptFailed(_))]), "{events:?}");
    }

    #[test]
    fn nothing_is_sent_again_meanwhile_unless_it_may_wait() {
        // S22, S26
        let past = || [synapse(), scheduled(D1, 7), succeeded(D1, 1, 200), tripped(7, None)];
        given(past()).when(again(D1, false)).refused(Refusal::CircuitOpen, ErrorCode::WebhookCircuitOpen);
        let Command::Redeliver(request) = again(D1, false) else { unreachable!("it asks for a redelivery") };
        let then = given(past()).when(Command::Redeliver(Redeliver { queue: true, ..request }));
        assert_eq!((then.state.open_count(), then.state.next_due()), (1, None));
        let crowded = Command::Redeliver(Redeliver { queue: true, room: false, ..request });
        given(past()).when(crowded).refused(Refusal::NoRoom(0), ErrorCode::LimitExceeded);
    }

    #[test]
    fn another_url_does_not_close_it_and_disabling_and_enabling_neither() {
        let url = Change { from: "https://example.com/first".into(), to: "https://example.com/second".into() };
        let updated = updated(SubscriptionUpdated { url: Some(url), ..SubscriptionUpdated::default() });
        let state = given([synapse(), tripped(7, None), updated, disabled()]).when(Command::Enable).then([enabled()]);
        assert!(state.circuit.is_open());
    }
}

mod coming_back {
    use super::*;

    #[test]
    fn one_probe_goes_first_with_the_oldest_delivery_whenever_it_was_due() {
        let far = START.plus_ms(HOUR);
        let past = [synapse(), scheduled(D1, 7), scheduled(D2, 8)];
        let past = past.into_iter().chain([failed(D1, 1, Some(far)), failed(D2, 1, Some(far)), tripped(8, None)]);
        let state =
            given(past).when(reenable(ReenableMode::Drain, None)).then([reenabled(ReenableMode::Drain, None, 0, None)]);
        assert_eq!(due(&state, START), [D1]);
        assert_eq!(state.circuit.allowance().concurrent, Some(1));
    }

    #[test]
    fn what_is_skipped_is_cancelled_and_what_waited_in_the_log_is_passed_over() {
        let past = || [synapse(), scheduled(D1, 7), scheduled(D2, 9), tripped(9, None)];
        let state = given(past())
            .when(reenable(ReenableMode::SkipBefore, Some(8)))
            .then([reenabled(ReenableMode::SkipBefore, None, 1, None), cancelled(D1)]);
        assert_eq!(due(&state, START), [D2]);
        let state = given(past()).when(reenable(ReenableMode::Discard, Some(20))).then([
            reenabled(ReenableMode::Discard, Some(20), 2, None),
            cancelled(D1),
            cancelled(D2),
        ]);
        assert_eq!((state.open_count(), state.deliveries.matched_through), (0, 20));
    }

    #[test]
    fn messages_that_waited_too_long_are_told_of() {
        let past = || [synapse(), scheduled(D1, 7), tripped(7, None)];
        let late = |skip_through| Command::Reenable { mode: ReenableMode::SkipBefore, skip_through, gone_through: 12 };
        let lost = reenabled(ReenableMode::SkipBefore, None, 0, Some(12));
        let state = given(past()).when(late(None)).then([lost]);
        assert_eq!(state.deliveries.matched_through, 12);
        // Nobody wanted them.
        let then = given(past()).when(late(Some(30)));
        assert_eq!(then.decision.unwrap()[0], reenabled(ReenableMode::SkipBefore, Some(30), 1, None));
    }

    #[test]
    fn a_circuit_that_is_not_open_cannot_be_enabled_again() {
        given([synapse()]).when(reenable(ReenableMode::Drain, None)).then([]);
        let past = [synapse(), tripped(0, None), reenabled(ReenableMode::Drain, None, 0, None)];
        given(past).when(reenable(ReenableMode::Discard, Some(9))).then([]);
    }

    #[test]
    fn it_tries_by_itself_when_it_is_time_and_not_before() {
        let probe_at = START.plus_ms(MINUTE);
        let past = || [standard(), scheduled(D1, 7), tripped(7, Some(probe_at))];
        let probe = |at| Command::Probe { gone_through: 0, at };
        given(past()).when(probe(Timestamp::from_ms(probe_at.as_ms() - 1))).then([]);
        let probing = Event::Subscription(SubscriptionEvent::CircuitProbing(CircuitProbing { lost_through: None }));
        let state = given(past()).when(probe(probe_at)).then([probing]);
        assert_eq!(due(&state, probe_at), [D1]);
    }

    #[test]
    fn what_goes_between_the_leaving_and_the_scheduling_is_told_once_as_lost() {
        let past = || [synapse(), tripped(7, None), reenabled(ReenableMode::Drain, None, 0, None)];
        let lost = Event::Subscription(SubscriptionEvent::MatchesLost(MatchesLost { through: 9 }));
        let gone = || Command::LoseMatches { gone_through: 9 };
        let state = given(past()).when(gone()).then([lost.clone()]);
        assert_eq!(state.deliveries.matched_through, 9);
        given(past().into_iter().chain([lost])).when(gone()).then([]);
        // Whoever leaves the circuit says so.
        given([synapse(), tripped(7, None)]).when(gone()).then([]);
    }

    #[test]
    fn a_probe_in_vain_opens_it_again_for_longer_and_the_tenth_for_good() {
        let mut state = given([standard(), scheduled(D1, 7)]).state;
        let mut waits_ms = vec![];
        for failed_probes in 0..10 {
            state.circuit.phase = Phase::Open(Opened {
                since: START,
                cause: TripCause::ProbeFailed,
                probe_at: Some(START),
                failed_probes,
            });
            state.circuit.recover(true, START);
            let given = Given { state: state.clone(), versions: [1, 1] };
            // The largest of random numbers gives about the longest wait.
            let Command::FinishAttempt(finished) = answered(D1, 1, 500) else { unreachable!("it finishes one") };
            let then = given.when(Command::FinishAttempt(Finished { random: 3_600_000, ..finished }));
            let circuit = then.state.circuit;
            assert!(circuit.is_open());
            waits_ms.push(circuit.probe_at().map(|probe_at| probe_at.ms_since(END)));
        }
        assert_eq!(waits_ms[9], None, "from now on by hand");
        assert!(
            waits_ms[..9].iter().all(|wait_ms| wait_ms.is_some_and(|wait_ms| wait_ms <= 3_600_000)),
            "{waits_ms:?}"
        );
    }

    #[test]
    fn a_probe_that_meets_a_busy_endpoint_waits_and_probes_again() {
        // S23
        let past = [synapse(), scheduled(D1, 7), tripped(7, None), reenabled(ReenableMode::Drain, None, 0, None)];
        let then = given(past).when(answered(D1, 1, 503));
        assert!(then.state.circuit.is_probing());
        assert_eq!(then.state.next_due(), Some(END.plus_ms(30 * SECOND)));
        assert_eq!(due(&then.state, END), []);
        assert_eq!(due(&then.state, END.plus_ms(30 * SECOND)), [D1]);
    }

    #[test]
    fn the_last_success_closes_it() {
        let messages = 42;
        let mut past = vec![synapse(), tripped(0, None), reenabled(ReenableMode::Drain, None, 0, None)];
        past.extend((1..=messages).map(|n| scheduled(delivery(n), n)));
        past.extend((1..=40).map(|n| succeeded(delivery(n), 1, 200)));
        let closed = Event::Subscription(SubscriptionEvent::CircuitClosed(CircuitClosed {}));
        let state = given(past).when(answered(delivery(41), 1, 200)).then([closed, succeeded(delivery(41), 1, 200)]);
        assert_eq!(state.circuit, Default::default());
    }
}

mod numbers {
    use super::*;

    fn sequences(events: &[Event]) -> Vec<Option<u64>> {
        let sequence = |event: &Event| match event {
            Event::Delivery(DeliveryEvent::Scheduled(scheduled)) => Some(scheduled.sequence),
            Event::Delivery(_) | Event::Subscription(_) | Event::Tenant(_) | Event::Message(_) => None,
        };
        events.iter().filter_map(sequence).collect()
    }

    #[test]
    fn every_matched_message_has_the_next_number_and_a_repetition_that_of_the_first() {
        // S33
        let given = given([synapse()]);
        let then = given.when(matched(&[(D1, 7), (D2, 9)]));
        assert_eq!(sequences(&then.decision.unwrap()), [Some(1), Some(2)]);
        let then = Given { state: then.state, versions: [1, 2] }.when(answered(D1, 1, 200));
        let Command::Redeliver(request) = again(D1, false) else { unreachable!("it asks for a redelivery") };
        let again = Command::Redeliver(Redeliver { sequence: Some(1), ..request });
        let then = Given { state: then.state, versions: [1, 3] }.when(again);
        assert_eq!(sequences(&then.decision.unwrap()), [Some(1)]);
        let then = Given { state: then.state, versions: [2, 4] }.when(matched(&[(delivery(9), 12)]));
        assert_eq!(sequences(&then.decision.unwrap()), [Some(3)]);
    }
}
