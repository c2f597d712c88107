//! The transitions, row by row.

use super::*;

const START: Timestamp = Timestamp::from_ms(1_763_894_415_000);
const SECOND: u64 = 1_000;
const BREAKER: Breaker =
    Breaker { failures: 10, deliveries: 2, soft_failures: 100, soft_over_ms: 24 * 3_600 * SECOND, probe: None };

fn delivery(number: u128) -> DeliveryId {
    DeliveryId::from_parts(1, number)
}

/// An attempt of the delivery that failed so, and took a second, the given number of seconds after the start.
fn failed(class: FailureClass, of: u128, at_s: u64) -> Failed {
    let started_at = START.plus_ms(at_s * SECOND);
    Failed { delivery: delivery(of), class, started_at, ended_at: started_at.plus_ms(SECOND), hold_until: None }
}

fn after(failures: impl IntoIterator<Item = Failed>) -> Circuit {
    let mut circuit = Circuit::default();
    for failure in failures {
        circuit.fail(&failure);
    }
    circuit
}

fn trips(circuit: &Circuit, at_s: u64) -> Option<TripCause> {
    circuit.trips(&BREAKER, START.plus_ms(at_s * SECOND))
}

fn open() -> Circuit {
    let mut circuit = Circuit::default();
    circuit.trip(Opened { since: START, cause: TripCause::HardFailures, probe_at: None, failed_probes: 0 });
    circuit
}

fn recovering(automatic: bool) -> Circuit {
    let mut circuit = open();
    circuit.recover(automatic, START);
    circuit
}

/// On the way back, behind so many successes.
fn after_successes(count: usize) -> Circuit {
    let mut circuit = recovering(false);
    (0..count).for_each(|_| circuit.succeed(START));
    circuit
}

#[test]
fn ten_hard_failures_of_two_deliveries_trip_it_and_nine_or_one_delivery_do_not() {
    // S22, S24
    let run = |count: u64, deliveries: u64| {
        after((0..count).map(|n| failed(FailureClass::Hard, u128::from(n % deliveries), 2 * n)))
    };
    for (count, deliveries, expected) in [
        (9, 9, None),
        (10, 1, None),
        (500, 1, None),
        (10, 2, Some(TripCause::HardFailures)),
        (10, 10, Some(TripCause::HardFailures)),
        (11, 2, Some(TripCause::HardFailures)),
    ] {
        assert_eq!(trips(&run(count, deliveries), 1_000), expected, "{count} failures of {deliveries} deliveries");
    }
}

#[test]
fn a_burst_counts_once() {
    // S24: ten attempts at a time meet one short outage.
    let burst = |at_s| (0..10).map(move |n| failed(FailureClass::Hard, n, at_s));
    let circuit = after(burst(0).chain(burst(5)).chain(burst(10)));
    assert_eq!(circuit.run_length(), 3);
    assert_eq!(trips(&circuit, 20), None);
}

#[test]
fn an_attempt_that_begins_when_the_last_one_ends_counts() {
    assert_eq!(after((0..4).map(|n| failed(FailureClass::Hard, 1, n))).run_length(), 4);
}

#[test]
fn any_success_ends_a_run() {
    let mut circuit = after((0..9).map(|n| failed(FailureClass::Hard, n.into(), 2 * n)));
    assert_eq!(circuit.consecutive_failures(), 9);
    circuit.succeed(START);
    assert_eq!((&circuit, circuit.consecutive_failures()), (&Circuit::default(), 0));
}

#[test]
fn soft_failures_trip_it_only_if_they_are_many_over_a_day() {
    // S23
    let run = |count: u64, every_s: u64| after((0..count).map(|n| failed(FailureClass::Soft, n.into(), n * every_s)));
    assert_eq!(trips(&run(5_000, 2), 10_000), None);
    assert_eq!(trips(&run(99, 1_000), 99_000), None);
    assert_eq!(trips(&run(100, 1_000), 100_000), Some(TripCause::SoftFailures));
}

#[test]
fn soft_failures_neither_count_nor_end_a_run_of_hard_ones() {
    // S23
    let hard = |n: u64| failed(FailureClass::Hard, n.into(), 4 * n);
    let soft = |n: u64| failed(FailureClass::Soft, n.into(), 4 * n + 2);
    let circuit = after((0..9).flat_map(|n| [hard(n), soft(n)]));
    assert_eq!(trips(&circuit, 100), None);
    let circuit = after((0..9).flat_map(|n| [hard(n), soft(n)]).chain([hard(9)]));
    assert_eq!(trips(&circuit, 100), Some(TripCause::HardFailures));
    assert_eq!((circuit.consecutive_failures(), open().consecutive_failures()), (10, 0));
}

#[test]
fn what_we_caused_ourselves_and_an_endpoint_that_is_gone_count_for_nothing() {
    for class in [FailureClass::Local, FailureClass::Gone] {
        assert_eq!(after((0..500).map(|n| failed(class, n.into(), 2 * n))), Circuit::default());
    }
}

#[test]
fn while_it_is_open_nothing_counts_and_nothing_closes_it() {
    // S22
    let mut circuit = open();
    circuit.fail(&failed(FailureClass::Hard, 1, 1));
    circuit.fail(&Failed { hold_until: Some(START), ..failed(FailureClass::Soft, 1, 1) });
    circuit.succeed(START.plus_ms(SECOND));
    circuit.forget_run();
    assert_eq!(circuit, open());
    assert_eq!(circuit.allowance(), Allowance { concurrent: Some(0), per_second: Some(0) });
}

#[test]
fn a_probe_goes_alone_and_decides() {
    let circuit = recovering(false);
    assert!(circuit.is_probing());
    assert_eq!(circuit.allowance().concurrent, Some(1));
    assert!(!after_successes(1).is_probing());
    let mut circuit = recovering(false);
    circuit.fail(&failed(FailureClass::Hard, 1, 1));
    assert_eq!(trips(&circuit, 2), Some(TripCause::ProbeFailed));
    // Not well, not broken: it probes again.
    let mut circuit = recovering(false);
    circuit.fail(&failed(FailureClass::Soft, 1, 1));
    assert_eq!(trips(&circuit, 2), None);
    assert!(circuit.is_probing());
}

#[test]
fn the_way_back_goes_by_1_2_4_and_8_and_then_it_is_closed() {
    for (successes, expected) in [(1, 1), (10, 1), (11, 2), (20, 2), (21, 4), (30, 4), (31, 8), (40, 8)] {
        let allowance = Allowance { concurrent: Some(expected), per_second: Some(expected) };
        assert_eq!(after_successes(successes).allowance(), allowance, "{successes}");
        assert!(!after_successes(successes).has_recovered(), "{successes}");
    }
    assert!(after_successes(41).has_recovered());
}

#[test]
fn two_hard_failures_in_a_row_end_the_way_back_and_one_between_successes_does_not() {
    let mut circuit = after_successes(15);
    circuit.fail(&failed(FailureClass::Hard, 1, 1));
    assert_eq!(trips(&circuit, 2), None);
    circuit.succeed(START);
    circuit.fail(&failed(FailureClass::Hard, 1, 3));
    assert_eq!(trips(&circuit, 4), None);
    circuit.fail(&failed(FailureClass::Hard, 2, 5));
    assert_eq!(trips(&circuit, 6), Some(TripCause::RecoveryFailed));
}

#[test]
fn a_burst_counts_once_on_the_way_back_too() {
    // S24: four attempts at a time meet one short outage.
    let mut circuit = after_successes(25);
    (0..4).for_each(|n| circuit.fail(&failed(FailureClass::Hard, n, 1)));
    assert_eq!((circuit.consecutive_failures(), trips(&circuit, 2)), (1, None));
    circuit.fail(&failed(FailureClass::Hard, 5, 3));
    assert_eq!(trips(&circuit, 4), Some(TripCause::RecoveryFailed));
}

#[test]
fn only_successes_in_a_row_lead_to_the_next_level() {
    let mut circuit = after_successes(1 + 9);
    circuit.fail(&failed(FailureClass::Hard, 1, 1));
    (0..9).for_each(|_| circuit.succeed(START));
    assert_eq!(circuit.allowance().concurrent, Some(1));
    circuit.succeed(START);
    assert_eq!(circuit.allowance().concurrent, Some(2));
}

#[test]
fn an_attempt_that_is_dated_as_the_circuit_asks_counts_whatever_the_clock_says() {
    let behind = |circuit: &Circuit| {
        let started_at = circuit.known_through().expect("it compares with something");
        Failed { started_at, ended_at: started_at.plus_ms(1), ..failed(FailureClass::Hard, 2, 0) }
    };
    let mut circuit = after([failed(FailureClass::Hard, 1, 3_600)]);
    circuit.fail(&behind(&circuit));
    assert_eq!(circuit.consecutive_failures(), 2);
    let mut circuit = open();
    circuit.recover(false, START.plus_ms(3_600 * SECOND));
    circuit.fail(&behind(&circuit));
    assert_eq!(trips(&circuit, 1), Some(TripCause::ProbeFailed));
}

#[test]
fn a_soft_failure_takes_the_way_back_a_level_down() {
    // S23
    let mut circuit = after_successes(25);
    for expected in [2, 1, 1] {
        circuit.fail(&failed(FailureClass::Soft, 1, 1));
        assert_eq!(circuit.allowance().concurrent, Some(expected));
    }
}

#[test]
fn attempts_from_before_say_nothing_about_the_endpoint_of_now() {
    let mut circuit = open();
    circuit.recover(false, START.plus_ms(60 * SECOND));
    let before = circuit.clone();
    circuit.fail(&failed(FailureClass::Hard, 1, 59));
    circuit.fail(&failed(FailureClass::Soft, 1, 59));
    circuit.succeed(START);
    assert_eq!(circuit, before);
}

#[test]
fn tries_in_vain_are_counted_while_nobody_steps_in() {
    let mut circuit = open();
    for failed_probes in 0..4 {
        assert_eq!(circuit.failed_probes(), failed_probes);
        circuit.recover(true, START);
        circuit.fail(&failed(FailureClass::Hard, 1, 1));
        let opened = Opened {
            since: START,
            cause: TripCause::ProbeFailed,
            probe_at: Some(START),
            failed_probes: circuit.failed_probes(),
        };
        circuit.trip(opened);
    }
    circuit.recover(false, START);
    assert_eq!(circuit.failed_probes(), 0);
}

#[test]
fn another_url_forgets_a_run_and_a_pause() {
    // A13
    let mut circuit = after((0..9).map(|n| failed(FailureClass::Hard, n.into(), 2 * n)));
    circuit.fail(&Failed { hold_until: Some(START.plus_ms(SECOND)), ..failed(FailureClass::Soft, 1, 40) });
    circuit.forget_run();
    assert_eq!(circuit, Circuit::default());
}

#[test]
fn a_pause_is_never_cut_short_by_a_shorter_one() {
    let pause = |s: u64| Failed { hold_until: Some(START.plus_ms(s * SECOND)), ..failed(FailureClass::Soft, 1, 0) };
    assert_eq!(after([pause(60), pause(5)]).hold_until, Some(START.plus_ms(60 * SECOND)));
}
