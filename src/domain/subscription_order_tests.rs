//! Whose turn it is where order counts.

use super::properties::{History, Step, step};
use super::*;
use crate::domain::circuit::TripCause;
use crate::domain::event::{
    CircuitReenabled, CircuitTripped, DeliveriesPeriodOpened, DeliveryCancelled, DeliveryRescheduled, ReenableMode,
};
use proptest::prelude::*;

const LATER: Timestamp = START.plus_ms(HOUR);
const MUCH_LATER: Timestamp = START.plus_ms(30 * HOUR);

fn ordered() -> Event {
    subscription().ordered().created()
}

fn switched(to: bool) -> Event {
    updated(SubscriptionUpdated { ordered: Some(Change { from: !to, to }), ..SubscriptionUpdated::default() })
}

/// Message 7 sent again, as delivery 3.
fn again_scheduled() -> Event {
    Event::Delivery(DeliveryEvent::Scheduled(DeliveryScheduled {
        delivery: D3,
        message: message(7),
        message_seq: 7,
        revision: 1,
        sequence: None,
        redelivery_of: Some(D1),
    }))
}

fn rescheduled(delivery: DeliveryId, due_at: Timestamp) -> Event {
    Event::Delivery(DeliveryEvent::Rescheduled(DeliveryRescheduled { delivery, due_at }))
}

fn tripped() -> Event {
    Event::Subscription(SubscriptionEvent::CircuitTripped(CircuitTripped {
        cause: TripCause::HardFailures,
        failures: 10,
        delivery: D1,
        code: FailureCode::Status,
        detail: String::new(),
        matched_through: 8,
        probe_at: None,
        failed_probes: 0,
    }))
}

fn reenabled() -> Event {
    Event::Subscription(SubscriptionEvent::CircuitReenabled(CircuitReenabled {
        mode: ReenableMode::Drain,
        cancelled: 0,
        skipped_through: None,
        lost_through: None,
    }))
}

#[test]
fn it_is_set_at_the_creation_and_changed_like_any_setting() {
    let state = given([]).when(subscription().ordered().create()).then([ordered()]);
    assert!(state.settings().unwrap().ordered);
    let to = |to| Command::Update(Update { ordered: Some(to), ..Update::default() });
    given([ordered()]).when(to(true)).then([]);
    let state = given([ordered()]).when(to(false)).then([switched(false)]);
    assert_eq!((state.is_ordered(), state.settings().unwrap().revision), (false, 2));
}

#[test]
fn only_the_oldest_message_has_its_turn_and_a_retry_holds_up_all_behind_it() {
    let past = || vec![ordered(), scheduled(D1, 7), scheduled(D2, 8)];
    let state = given(past()).state;
    assert_eq!((due(&state, START), state.next_due()), (vec![D1], Some(START)));
    let failed = || past().into_iter().chain([failed(D1, 1, Some(LATER))]);
    let state = given(failed()).state;
    assert_eq!((due(&state, START), due(&state, LATER)), (vec![], vec![D1]));
    assert_eq!(
        (state.next_due(), state.next_due_after(START), state.next_due_after(LATER)),
        (Some(LATER), Some(LATER), None)
    );
    for end in [
        succeeded(D1, 2, 200),
        exhausted(D1, 5),
        Event::Delivery(DeliveryEvent::Cancelled(DeliveryCancelled { delivery: D1 })),
        Event::Delivery(DeliveryEvent::Expired(DeliveryExpired { delivery: D1, reason: ExpiryReason::DataErased })),
    ] {
        let state = given(failed().chain([end])).state;
        assert_eq!((due(&state, START), state.next_due()), (vec![D2], Some(START)));
    }
}

#[test]
fn an_older_message_that_is_sent_again_comes_first() {
    let past = [ordered(), scheduled(D1, 7), scheduled(D2, 8), succeeded(D1, 1, 200), again_scheduled()];
    assert_eq!(due(&given(past).state, START), [D3]);
}

#[test]
fn the_head_waits_for_its_own_time_when_somebody_moves_it() {
    let past = [ordered(), scheduled(D1, 7), scheduled(D2, 8), rescheduled(D1, LATER)];
    let state = given(past).state;
    assert_eq!((due(&state, START), state.next_due(), due(&state, LATER)), (vec![], Some(LATER), vec![D1]));
}

#[test]
fn without_order_everything_that_is_due_goes_at_once() {
    let past = || vec![created(), scheduled(D1, 7), scheduled(D2, 8), scheduled(D3, 9), failed(D1, 1, Some(LATER))];
    assert_eq!(due(&given(past()).state, START), [D2, D3]);
    let on = || past().into_iter().chain([switched(true)]);
    let state = given(on()).state;
    assert_eq!((due(&state, START), state.next_due()), (vec![], Some(LATER)));
    let state = given(on().chain([switched(false)])).state;
    assert_eq!((due(&state, START), state.next_due()), (vec![D2, D3], Some(START)));
}

#[test]
fn the_probe_is_the_head_and_waits_for_nothing_but_its_turn() {
    let past = [
        subscription().under("axissynapse-v1").ordered().created(),
        scheduled(D1, 7),
        scheduled(D2, 8),
        failed(D1, 1, Some(LATER)),
        tripped(),
        reenabled(),
    ];
    let state = given(past).state;
    assert_eq!(due(&state, START), [D1]);
    let waits: Vec<_> =
        state.timers(START, None, 9, |_| false).unwrap().waiting.into_iter().map(|timer| timer.wait).collect();
    assert_eq!(waits, [Wait::Ordered, Wait::Probe]);
}

#[test]
fn beside_a_probe_no_other_time_counts() {
    for start in [subscription(), subscription().ordered()] {
        let start = start.under("axissynapse-v1").created();
        let past = [start, scheduled(D1, 7), scheduled(D2, 8), failed(D1, 1, Some(LATER)), failed(D2, 1, Some(LATER))];
        let state = given(past.into_iter().chain([tripped(), reenabled()])).state;
        assert_eq!((state.next_due_after(START), state.next_due_after(LATER)), (None, None));
    }
}

#[test]
fn who_waits_for_the_one_before_says_so() {
    let past = || vec![ordered(), scheduled(D1, 7), scheduled(D2, 8), failed(D1, 1, Some(LATER))];
    let waits = |past: Vec<Event>| -> Vec<_> {
        let timers = given(past).state.timers(START, None, 9, |_| false).unwrap();
        timers.waiting.into_iter().map(|timer| (timer.delivery, timer.wait, timer.not_before)).collect()
    };
    // By the times at which they are due.
    assert_eq!(waits(past()), [(D2, Wait::Ordered, None), (D1, Wait::Retry, Some(LATER))]);
    let disabled = past().into_iter().chain([disabled()]).collect();
    assert_eq!(waits(disabled), [(D2, Wait::Disabled, None), (D1, Wait::Disabled, None)]);
}

#[test]
fn a_period_carries_the_order() {
    let mut given = given([ordered(), scheduled(D2, 8), scheduled(D1, 7), failed(D1, 1, Some(LATER))]);
    let events = given.state.deliveries.open_period(0, &given.state.circuit, None);
    assert!(matches!(events[..], [DeliveryEvent::PeriodOpened(DeliveriesPeriodOpened { .. })]));
    given.evolve(events.into_iter().map(Event::Delivery));
    assert_eq!((due(&given.state, START), due(&given.state, MUCH_LATER)), (vec![], vec![D1]));
}

/// Lets everything that is owed come to its end, one due delivery after another.
fn bring_to_an_end(history: &mut History, chance: u64) {
    for round in 0..10_000_u32 {
        if history.state.open_count() == 0 {
            return;
        }
        history.take(Step::CancelJob);
        history.take(Step::Enable);
        history.take(Step::Reenable { skip: None, gone: 0 });
        history.wait_until_due();
        let due = due(&history.state, history.now());
        assert_eq!(due.len(), 1, "one has its turn");
        let status = if chance.rotate_left(round) & 1 == 0 { 200 } else { 500 };
        history.answer(due[0], status, chance.rotate_left(round));
        history.check();
    }
    panic!("{} deliveries never end", history.state.open_count());
}

proptest! {
    #[test]
    fn in_every_history_only_the_head_has_its_turn_and_at_last_everything_has_ended(
        steps in prop::collection::vec(step(), 1..60), chance in any::<u64>()
    ) {
        let mut history = History::default();
        history.take(Step::Create { profile: steps.len() % 3, enabled: true, patterns: vec![0], description_chars: None });
        history.take(Step::Order(true));
        for step in steps {
            history.take(step);
            history.check();
        }
        history.take(Step::Order(true));
        bring_to_an_end(&mut history, chance);
    }
}
