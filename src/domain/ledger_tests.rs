//! Each test tells an account what happened and asks how everything stands. Message `n` has the number `10 * n` in the
//! log and the delivery `n`; what a test does not name is as it should be.

use super::*;
use crate::domain::circuit::TripCause;
use crate::domain::event::{
    CircuitProbing, CircuitReenabled, CircuitTripped, DeliveriesCarried, DeliveryCancelled, DeliveryExhausted,
    DeliveryExpired, ExpiryReason, ReenableMode, SubscriptionDeleted, SubscriptionEnabled, SubscriptionRestored,
};
use crate::domain::outcome::FailureCode;
use crate::domain::time::Timestamp;

struct Told {
    account: Account,
    findings: Vec<Finding>,
    seq: u64,
    version: u64,
    listed: usize,
    floor: u64,
}

fn account() -> Told {
    let filters = vec![Filter::parse("user.created").unwrap()];
    let account = Account::new(TenantId::from_parts(1, 1), filters, true);
    Told { account, findings: vec![], seq: 0, version: 0, listed: 100, floor: 0 }
}

fn delivery(n: u64) -> DeliveryId {
    DeliveryId::from_parts(n, 1)
}

fn message(n: u64) -> MessageId {
    MessageId::from_parts(n, 2)
}

fn seq(n: u64) -> u64 {
    10 * n
}

fn scheduled(n: u64, sequence: u64) -> DeliveryScheduled {
    DeliveryScheduled {
        delivery: delivery(n),
        message: message(n),
        message_seq: seq(n),
        revision: 1,
        sequence: Some(sequence),
        redelivery_of: None,
    }
}

fn carried(n: u64) -> CarriedDelivery {
    let at = Timestamp::from_ms(0);
    CarriedDelivery {
        delivery: delivery(n),
        message: message(n),
        message_seq: seq(n),
        scheduled_at: at,
        due_at: at,
        failures: 0,
        uncounted: 0,
        sequence: Some(n),
        last_failure: Default::default(),
        revision: Default::default(),
    }
}

fn reenabled(skipped: Option<u64>, lost: Option<u64>) -> SubscriptionEvent {
    let (skipped_through, lost_through) = (skipped.map(seq), lost.map(seq));
    let mode = ReenableMode::SkipBefore;
    SubscriptionEvent::CircuitReenabled(CircuitReenabled { mode, skipped_through, cancelled: 0, lost_through })
}

impl Told {
    fn listing(mut self, listed: usize) -> Self {
        self.listed = listed;
        self
    }

    fn published(mut self, messages: impl IntoIterator<Item = u64>) -> Self {
        for n in messages {
            self.seq = seq(n);
            self.account.publish(message(n), &EventType::parse("user.created").unwrap(), self.seq, self.listed);
        }
        self
    }

    fn event(mut self, event: &DeliveryEvent) -> Self {
        self.version += 1;
        self.seq += 1;
        let place = Place { seq: self.seq, version: self.version, floor: self.floor };
        self.account.deliver(event, place, &mut self.findings);
        self
    }

    fn life(mut self, event: &SubscriptionEvent) -> Self {
        self.seq += 1;
        let place = Place { seq: self.seq, version: 1, floor: self.floor };
        self.account.live(event, place, &mut self.findings);
        self
    }

    /// With the next places of the sequence.
    fn owed(self, messages: impl IntoIterator<Item = u64>) -> Self {
        messages.into_iter().fold(self, |told, n| {
            let sequence = told.account.sequence + 1;
            told.event(&DeliveryEvent::Scheduled(scheduled(n, sequence)))
        })
    }

    fn failed(self, n: u64) -> Self {
        self.event(&DeliveryEvent::Exhausted(DeliveryExhausted { delivery: delivery(n), attempts: 1 }))
    }

    fn tripped(self, matched_through: u64) -> Self {
        self.life(&SubscriptionEvent::CircuitTripped(CircuitTripped {
            cause: TripCause::HardFailures,
            failures: 10,
            delivery: delivery(1),
            code: FailureCode::Status,
            detail: String::new(),
            matched_through: seq(matched_through),
            probe_at: None,
            failed_probes: 0,
        }))
    }

    fn period(self, sequence: u64, matched_through: u64, open: &[u64]) -> Self {
        let carried = open.iter().map(|n| carried(*n)).collect();
        let matched_through = seq(matched_through);
        let opened = DeliveriesPeriodOpened { matched_through, sequence, circuit: None, job: None, carried };
        self.event(&DeliveryEvent::PeriodOpened(opened))
    }

    /// With a matcher that has passed everything.
    fn stands(self) -> (Counts, Vec<Finding>) {
        self.stands_before(u64::MAX)
    }

    fn stands_before(mut self, matcher: u64) -> (Counts, Vec<Finding>) {
        self.account.close(&mut self.findings);
        let counts = self.account.assess(matcher, &mut self.findings);
        (counts, self.findings)
    }

    #[track_caller]
    fn balances(self, expected: Counts) {
        assert_eq!(self.stands(), (expected, vec![]));
    }
}

fn counts() -> Counts {
    Counts::default()
}

#[test]
fn every_match_is_in_one_state() {
    let told = account().published(1..=6).owed(1..=5).failed(1);
    let told = told.event(&DeliveryEvent::Cancelled(DeliveryCancelled { delivery: delivery(2) }));
    let reason = ExpiryReason::DataErased;
    let told = told.event(&DeliveryEvent::Expired(DeliveryExpired { delivery: delivery(3), reason }));
    let (stands, findings) = told.stands_before(seq(6) - 1);
    let expected = Counts { failed: 1, cancelled: 1, expired: 1, pending: 2, unmatched: 1, ..counts() };
    assert_eq!((stands, findings, expected.matched()), (expected, vec![], 6));
}

#[test]
fn what_the_matcher_has_passed_and_nobody_owes_is_unaccounted_for() {
    let told = account().published(1..=2).owed([1]);
    let expected = Counts { pending: 1, unaccounted: 1, ..counts() };
    let unaccounted = Finding::Unaccounted { message_seq: seq(2), message: message(2) };
    assert_eq!(told.stands(), (expected, vec![unaccounted]));
}

#[test]
fn a_message_that_is_passed_by_is_named() {
    let told = account().published(1..=3).owed([1, 3]).failed(3);
    let expected = Counts { pending: 1, failed: 1, unaccounted: 1, ..counts() };
    let unaccounted = Finding::Unaccounted { message_seq: seq(2), message: message(2) };
    assert_eq!(told.stands(), (expected, vec![unaccounted]));
}

#[test]
fn a_message_that_is_owed_twice_is_named() {
    let mut again = scheduled(1, 1);
    again.delivery = delivery(7);
    let told = account().published([1]).owed([1]).event(&DeliveryEvent::Scheduled(again));
    let twice = Finding::Twice { message_seq: seq(1), delivery: delivery(7) };
    assert_eq!(told.stands(), (Counts { pending: 1, twice: 1, ..counts() }, vec![twice]));
    // The same row once more.
    let told = account().published([1]).owed([1]).event(&DeliveryEvent::Scheduled(scheduled(1, 1)));
    let twice = Finding::Twice { message_seq: seq(1), delivery: delivery(1) };
    assert_eq!(told.stands(), (Counts { pending: 1, twice: 1, ..counts() }, vec![twice]));
}

#[test]
fn a_delivery_that_ends_twice_or_was_never_owed_is_named() {
    let told = account().published([1]).owed([1]).failed(1).failed(1);
    let again = Finding::NotOpen { delivery: delivery(1) };
    assert_eq!(told.stands(), (Counts { failed: 1, twice: 1, ..counts() }, vec![again]));
}

#[test]
fn a_place_that_nobody_got_is_a_message_that_is_missing() {
    let told = account().published(1..=2).owed([1]).event(&DeliveryEvent::Scheduled(scheduled(2, 4)));
    let places = Finding::Places { count: 2, delivery: delivery(2) };
    assert_eq!(told.stands(), (Counts { pending: 2, unaccounted: 2, ..counts() }, vec![places]));
}

#[test]
fn a_repetition_is_no_further_match_and_changes_no_state() {
    let again = DeliveryScheduled { delivery: delivery(9), redelivery_of: Some(delivery(1)), ..scheduled(1, 1) };
    // Asked for without having matched.
    let asked_for = DeliveryScheduled { sequence: None, ..scheduled(8, 0) };
    let told = account().published(1..=2).owed([1]).failed(1);
    let told = told.event(&DeliveryEvent::Scheduled(again)).event(&DeliveryEvent::Scheduled(asked_for));
    told.owed([2]).failed(9).failed(8).balances(Counts { failed: 1, pending: 1, ..counts() });
}

#[test]
fn what_waits_for_the_circuit_is_held_until_the_matcher_had_time_to_come_back() {
    for listed in [100, 1, 0] {
        let open = || account().listing(listed).published(1..=2).owed(1..=2).tripped(2).published(3..=6);
        open().balances(Counts { pending: 2, held: 4, ..counts() });
        let probing = SubscriptionEvent::CircuitProbing(CircuitProbing { lost_through: None });
        let free = || open().life(&probing);
        let probed_at = free().seq;
        assert_eq!(free().stands_before(probed_at - 1), (Counts { pending: 2, unmatched: 4, ..counts() }, vec![]));
        free().owed(3..=6).balances(Counts { pending: 6, ..counts() });
        // Lost on the way.
        let (stands, findings) = free().owed([3, 4, 6]).stands();
        assert_eq!((stands, findings.len()), (Counts { pending: 5, unaccounted: 1, ..counts() }, 1), "{listed}");
        let (stands, _) = free().stands();
        assert_eq!(stands, Counts { pending: 2, unaccounted: 4, ..counts() });
    }
}

#[test]
fn what_is_passed_over_for_a_reason_is_accounted_for() {
    for listed in [100, 3, 1] {
        let open = || account().listing(listed).published([1]).owed([1]).tripped(1).published(2..=6);
        let over = open().life(&reenabled(Some(3), Some(4))).owed(5..=6);
        let (stands, findings) = over.stands();
        assert_eq!((stands.pending, stands.skipped + stands.lost, findings), (3, 3, vec![]), "{listed}");
        open().life(&reenabled(Some(9), None)).balances(Counts { pending: 1, skipped: 5, ..counts() });
    }
    let exact = account().published([1]).owed([1]).tripped(1).published(2..=6).life(&reenabled(Some(3), Some(4)));
    exact.owed(5..=6).balances(Counts { pending: 3, skipped: 2, lost: 1, ..counts() });
}

#[test]
fn a_trip_that_says_it_scheduled_what_it_did_not_is_found() {
    let (stands, findings) = account().published(1..=2).owed([1]).tripped(2).stands();
    let unaccounted = Finding::Unaccounted { message_seq: seq(2), message: message(2) };
    assert_eq!((stands.unaccounted, findings), (1, vec![unaccounted]));
}

#[test]
fn what_a_deleted_subscription_owed_is_cancelled() {
    let told = account().published(1..=3).owed(1..=2).failed(1);
    let told = told
        .life(&SubscriptionEvent::Deleted(SubscriptionDeleted { cancelled: 1, ..SubscriptionDeleted::default() }))
        .published(4..=5);
    told.balances(Counts { failed: 1, cancelled: 2, ..counts() });
    let told = account()
        .published([1])
        .life(&SubscriptionEvent::Deleted(SubscriptionDeleted { cancelled: 1, ..SubscriptionDeleted::default() }));
    let cancelled = Finding::Cancelled { expected: 0, found: 1 };
    assert_eq!(told.stands(), (Counts { unaccounted: 1, ..counts() }, vec![cancelled]));
}

fn deleted(cancelled: u64, sequence: u64) -> SubscriptionEvent {
    SubscriptionEvent::Deleted(SubscriptionDeleted { cancelled, restore_window_s: Some(60), sequence })
}

fn restored(matched_through: u64) -> SubscriptionEvent {
    SubscriptionEvent::Restored(SubscriptionRestored { matched_through })
}

#[test]
fn what_was_published_before_a_restored_subscription_was_enabled_matched_nobody() {
    let told = account().published(1..=3).owed(1..=2).failed(1).life(&deleted(1, 2)).published(4..=5);
    let told = told.life(&restored(seq(5))).period(2, 5, &[]).published([6]);
    let told = told.life(&SubscriptionEvent::Enabled(SubscriptionEnabled {})).published([7]).owed([7]);
    told.balances(Counts { failed: 1, cancelled: 2, pending: 1, ..counts() });
}

#[test]
fn a_period_carries_or_ends_everything() {
    let reason = ExpiryReason::MessageDropped;
    let expired = |n| DeliveryEvent::Expired(DeliveryExpired { delivery: delivery(n), reason });
    let more = DeliveryEvent::Carried(DeliveriesCarried { carried: vec![carried(3)] });
    let owed = || account().published(1..=4).owed(1..=3);
    owed().period(3, 3, &[2]).event(&more).event(&expired(1)).owed([4]).balances(Counts {
        pending: 3,
        expired: 1,
        ..counts()
    });
    let (stands, findings) = owed().period(3, 3, &[2]).event(&more).owed([4]).stands();
    let dropped = Finding::Dropped { message_seq: seq(1), delivery: delivery(1) };
    assert_eq!((stands, findings), (Counts { pending: 3, unaccounted: 1, ..counts() }, vec![dropped]));
    let (stands, findings) = owed().failed(1).period(3, 3, &[1, 2, 3]).owed([4]).stands();
    let not_open = Finding::NotOpen { delivery: delivery(1) };
    assert_eq!((stands.twice, findings), (1, vec![not_open]));
}

#[test]
fn an_account_that_begins_with_a_later_period_takes_it_for_granted() {
    let mut told = account().published(3..=5);
    (told.version, told.floor) = (70, 15);
    let reason = ExpiryReason::MessageDropped;
    let gone = DeliveryEvent::Expired(DeliveryExpired { delivery: delivery(1), reason });
    // The end of a delivery of the period before, whose beginning is gone.
    let told = told.failed(2).period(40, 3, &[2]).event(&gone).owed(4..=5).failed(2);
    told.balances(Counts { gone: 38, expired: 1, failed: 1, pending: 2, ..counts() });
}

#[test]
fn what_a_subscription_owed_whose_deliveries_are_all_gone_is_gone() {
    let mut told = account().published(3..=4);
    told.floor = 25;
    let told =
        told.life(&SubscriptionEvent::Deleted(SubscriptionDeleted { cancelled: 2, ..SubscriptionDeleted::default() }));
    told.balances(Counts { gone: 4, ..counts() });
}
