//! Where every message stands that a subscription matched: in exactly one state.
//!
//! An [`Account`] is fed the events of one subscription and the messages of its tenant, in the order of the log. It works
//! out by itself what was matched, by the filters as of each message's place, and asks of each event whether it may be:
//! a message that is passed by without a recorded reason is unaccounted for, one that is owed again is accounted for twice.
//!
//! - Only first deliveries take part. A repetition is no further match, and does not change how the first one ended; a
//!   delivery without a number is none of those that were matched (it was asked for, or is from before there were numbers).
//! - It knows nothing of the code that decides: what it asks is what the events promise.
//! - Its size is bounded by `listed` and by what is open: behind so many waiting matches the others are counted only.
//! - Begun in the middle of a log whose older events were dropped, it takes the first period for granted.

mod waiting;

use std::collections::{BTreeSet, HashMap};

use serde::Serialize;

use super::event::{
    CarriedDelivery, DeliveriesPeriodOpened, DeliveryBackfilled, DeliveryEvent, DeliveryScheduled, SubscriptionDeleted,
    SubscriptionEvent,
};
use super::filter::{self, EventType, Filter};
use super::id::{DeliveryId, MessageId, TenantId};
use waiting::Waiting;

/// How many matched messages are in each state. Their sum is all that matched.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Counts {
    /// Scheduled, and not ended.
    pub pending: u64,
    /// Waiting in the log for the circuit breaker to be left.
    pub held: u64,
    /// Waiting in the log for the matcher, which has not come so far.
    pub unmatched: u64,
    /// Delivered.
    pub succeeded: u64,
    /// The last attempt failed.
    pub failed: u64,
    /// The message, or its data, went before an attempt succeeded.
    pub expired: u64,
    /// Ended by somebody, or with the subscription.
    pub cancelled: u64,
    /// Passed over when somebody enabled the subscription again.
    pub skipped: u64,
    /// Gone with its bucket while it waited for the circuit breaker.
    pub lost: u64,
    /// Ended, and how is not known any more: its events are gone with their bucket.
    pub gone: u64,
    /// In no state at all.
    pub unaccounted: u64,
    /// Not one of the above: how often a message was owed, or ended, once more than it may be.
    pub twice: u64,
}

impl Counts {
    /// All that matched.
    pub fn matched(&self) -> u64 {
        let waiting = self.held + self.unmatched;
        let ended = self.succeeded + self.failed + self.expired + self.cancelled;
        self.pending + waiting + ended + self.skipped + self.lost + self.gone + self.unaccounted
    }

    /// Adds those of another subscription.
    pub fn add(&mut self, other: &Self) {
        let Self { pending, held, unmatched, succeeded, failed, expired, .. } = *other;
        let Self { cancelled, skipped, lost, gone, unaccounted, twice, .. } = *other;
        self.pending += pending;
        self.held += held;
        self.unmatched += unmatched;
        self.succeeded += succeeded;
        self.failed += failed;
        self.expired += expired;
        self.cancelled += cancelled;
        self.skipped += skipped;
        self.lost += lost;
        self.gone += gone;
        self.unaccounted += unaccounted;
        self.twice += twice;
    }
}

/// A message that is not in exactly one state.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Finding {
    /// It matched, and nothing says what became of it.
    Unaccounted {
        /// Its number in the shard's log.
        message_seq: u64,
        /// Its id.
        message: MessageId,
    },
    /// So many matched, that were counted only, and nothing says what became of them.
    UnaccountedMany {
        /// The last of them has this number or a smaller one.
        through: u64,
        /// How many.
        count: u64,
    },
    /// The delivery was owed, and is no more, without an end.
    Dropped {
        /// The number of its message.
        message_seq: u64,
        /// The delivery.
        delivery: DeliveryId,
    },
    /// So many places of the subscription's sequence were never given.
    Places {
        /// How many.
        count: u64,
        /// The delivery behind them.
        delivery: DeliveryId,
    },
    /// So many places of the sequence were never given that a period says were.
    PlacesOfPeriod {
        /// How many.
        count: u64,
    },
    /// A delivery of a message that did not match, or that had one already.
    Twice {
        /// The number of its message.
        message_seq: u64,
        /// The delivery.
        delivery: DeliveryId,
    },
    /// With the subscription another number of deliveries was cancelled than were open.
    Cancelled {
        /// So many were open.
        expected: u64,
        /// So many were cancelled.
        found: u64,
    },
    /// Something happened to a delivery that had ended, or never was.
    NotOpen {
        /// The delivery.
        delivery: DeliveryId,
    },
}

/// A delivery that has not ended.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Owed {
    message_seq: u64,
    /// Whether it is the first of its message.
    first: bool,
}

/// Whether it is known what there was before the next event.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Begun {
    /// Its period began in a bucket that is gone.
    NotYet,
    /// The first period that is left is being read, and taken for granted.
    Granting,
    Whole,
}

/// One subscription, as of the last event that was entered.
#[derive(Clone, Debug, PartialEq)]
pub struct Account {
    /// Whose it is.
    pub tenant: TenantId,
    filters: Vec<Filter>,
    enabled: bool,
    deleted: bool,
    /// Behind which message those wait for whom the circuit is open.
    tripped_through: Option<u64>,
    /// The number of the event that left the circuit last: from there on the matcher looks for what waited.
    freed_at: u64,
    waiting: Waiting,
    open: HashMap<DeliveryId, Owed>,
    /// Those that a period which is being read has not carried yet.
    uncarried: BTreeSet<DeliveryId>,
    /// The place of the newest match that was scheduled.
    sequence: u64,
    begun: Begun,
    ended: Counts,
}

/// Where an event stands, and up to where older ones may be gone.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Place {
    /// Its number in the shard's log.
    pub seq: u64,
    /// Its version in its stream.
    pub version: u64,
    /// Events up to this number may be gone.
    pub floor: u64,
}

impl Account {
    /// Of a subscription that came into being.
    pub fn new(tenant: TenantId, filters: Vec<Filter>, enabled: bool) -> Self {
        Self {
            tenant,
            filters,
            enabled,
            deleted: false,
            tripped_through: None,
            freed_at: 0,
            waiting: Waiting::default(),
            open: HashMap::new(),
            uncarried: BTreeSet::new(),
            sequence: 0,
            begun: Begun::NotYet,
            ended: Counts::default(),
        }
    }

    /// Whether it matches messages of that type.
    pub fn wants(&self, event_type: &EventType) -> bool {
        self.enabled && !self.deleted && filter::matches_any(&self.filters, event_type)
    }

    /// A message of the tenant; `listed` matches are kept one by one, the others are counted.
    pub fn publish(&mut self, message: MessageId, event_type: &EventType, seq: u64, listed: usize) {
        if self.wants(event_type) {
            self.waiting.push(seq, message, listed);
        }
    }

    /// Something happened to the subscription itself.
    pub fn live(&mut self, event: &SubscriptionEvent, place: Place, findings: &mut Vec<Finding>) {
        match event {
            SubscriptionEvent::Created(_) => {}
            SubscriptionEvent::Updated(updated) => {
                if let Some(change) = &updated.filters {
                    self.filters.clone_from(&change.to);
                }
            }
            SubscriptionEvent::Enabled(_) => self.enabled = true,
            SubscriptionEvent::Disabled(_) => self.enabled = false,
            SubscriptionEvent::CircuitTripped(tripped) => {
                self.tripped_through = Some(tripped.matched_through);
                self.expect_scheduled(tripped.matched_through, findings);
            }
            SubscriptionEvent::CircuitReenabled(reenabled) => {
                self.leave_circuit(place.seq);
                self.ended.skipped += self.waiting.pass_over(reenabled.skipped_through, waiting::Over::Skipped);
                self.ended.lost += self.waiting.pass_over(reenabled.lost_through, waiting::Over::Lost);
            }
            SubscriptionEvent::CircuitProbing(probing) => {
                self.leave_circuit(place.seq);
                self.ended.lost += self.waiting.pass_over(probing.lost_through, waiting::Over::Lost);
            }
            SubscriptionEvent::MatchesLost(lost) => {
                self.ended.lost += self.waiting.pass_over(Some(lost.through), waiting::Over::Lost);
            }
            SubscriptionEvent::Deleted(deleted) => self.delete(deleted, place.floor, findings),
            SubscriptionEvent::Restored(_) => (self.deleted, self.enabled) = (false, false),
            SubscriptionEvent::SecretsDestroyed(_)
            | SubscriptionEvent::SecretRotated(_)
            | SubscriptionEvent::HoldChanged(_)
            | SubscriptionEvent::TestSent(_)
            | SubscriptionEvent::EgressBlocked(_)
            | SubscriptionEvent::RedeliveryRequested(_)
            | SubscriptionEvent::RescheduleRequested(_)
            | SubscriptionEvent::CancellationRequested(_)
            | SubscriptionEvent::JobStarted(_)
            | SubscriptionEvent::JobEnded(_)
            | SubscriptionEvent::CircuitClosed(_) => {}
        }
    }

    fn delete(&mut self, deleted: &SubscriptionDeleted, floor: u64, findings: &mut Vec<Finding>) {
        let &SubscriptionDeleted { cancelled, sequence, restore_window_s: _ } = deleted;
        self.close(findings);
        self.deleted = true;
        self.tripped_through = None;
        if self.begun == Begun::NotYet && floor > 0 {
            // Its deliveries are gone with their buckets: what waits may have been among them.
            self.ended.gone += self.waiting.clear() + cancelled.max(sequence);
            // One that is restored goes on behind it.
            self.sequence = sequence;
            return;
        }
        let open = self.open.len() as u64;
        let (missing, surplus) = (cancelled.saturating_sub(open), open.saturating_sub(cancelled));
        if missing + surplus > 0 {
            findings.push(Finding::Cancelled { expected: open, found: cancelled });
        }
        let first = self.open.values().filter(|owed| owed.first).count() as u64;
        self.ended.cancelled += (first + self.waiting.clear()).saturating_sub(missing);
        self.ended.unaccounted += missing;
        self.ended.twice += surplus;
        self.open.clear();
    }

    fn leave_circuit(&mut self, seq: u64) {
        self.tripped_through = None;
        self.freed_at = seq;
    }

    /// Something happened to a delivery.
    pub fn deliver(&mut self, event: &DeliveryEvent, place: Place, findings: &mut Vec<Finding>) {
        let carries = match event {
            DeliveryEvent::PeriodOpened(_) | DeliveryEvent::Carried(_) | DeliveryEvent::Expired(_) => true,
            DeliveryEvent::Scheduled(_)
            | DeliveryEvent::Backfilled(_)
            | DeliveryEvent::JobAdvanced(_)
            | DeliveryEvent::AttemptFailed(_)
            | DeliveryEvent::Rescheduled(_)
            | DeliveryEvent::Succeeded(_)
            | DeliveryEvent::Exhausted(_)
            | DeliveryEvent::Cancelled(_) => false,
        };
        self.begun = match (self.begun, event) {
            (Begun::NotYet, _) if place.version == 1 || place.floor == 0 => Begun::Whole,
            (Begun::NotYet, DeliveryEvent::PeriodOpened(opened)) => return self.begin(opened),
            (Begun::NotYet, _) => return,
            (Begun::Granting, DeliveryEvent::Carried(carried)) => return self.take_for_granted(&carried.carried),
            (Begun::Granting, DeliveryEvent::Expired(expired)) if !self.open.contains_key(&expired.delivery) => {
                self.ended.gone = self.ended.gone.saturating_sub(1);
                self.ended.expired += 1;
                return;
            }
            (Begun::Granting | Begun::Whole, _) => Begun::Whole,
        };
        if !carries {
            self.close(findings);
        }
        match event {
            DeliveryEvent::Scheduled(scheduled) => self.owe(scheduled, place, findings),
            DeliveryEvent::Backfilled(backfilled) => self.owe_unmatched(backfilled, findings),
            DeliveryEvent::JobAdvanced(_) => {}
            DeliveryEvent::AttemptFailed(failed) => {
                if !self.open.contains_key(&failed.delivery) {
                    self.twice(Finding::NotOpen { delivery: failed.delivery }, findings);
                }
            }
            DeliveryEvent::Rescheduled(rescheduled) => {
                if !self.open.contains_key(&rescheduled.delivery) {
                    self.twice(Finding::NotOpen { delivery: rescheduled.delivery }, findings);
                }
            }
            DeliveryEvent::Succeeded(event) => {
                self.ended.succeeded += self.end(event.delivery, findings);
            }
            DeliveryEvent::Exhausted(event) => {
                self.ended.failed += self.end(event.delivery, findings);
            }
            DeliveryEvent::Expired(event) => {
                self.ended.expired += self.end(event.delivery, findings);
            }
            DeliveryEvent::Cancelled(event) => {
                self.ended.cancelled += self.end(event.delivery, findings);
            }
            DeliveryEvent::PeriodOpened(opened) => self.open_period(opened, findings),
            DeliveryEvent::Carried(carried) => self.carry(&carried.carried, findings),
        }
    }

    fn owe(&mut self, scheduled: &DeliveryScheduled, place: Place, findings: &mut Vec<Finding>) {
        let &DeliveryScheduled { delivery, message_seq, sequence, redelivery_of, .. } = scheduled;
        // Asked for, and not matched.
        let asked_for = redelivery_of.is_some() || sequence.is_none() && !self.waiting.begins_with(message_seq);
        let owed = Owed { message_seq, first: !asked_for };
        if self.open.insert(delivery, owed).is_some() {
            return self.twice(Finding::Twice { message_seq, delivery }, findings);
        }
        if asked_for {
            return;
        }
        let mut passed_by = 0;
        let taken = self.waiting.take(message_seq, &mut self.ended, &mut |finding, count| {
            passed_by += count;
            findings.push(finding);
        });
        self.ended.unaccounted += passed_by;
        if !taken && message_seq > place.floor {
            self.open.insert(delivery, Owed { message_seq, first: false });
            self.twice(Finding::Twice { message_seq, delivery }, findings);
        }
        let Some(sequence) = sequence else { return };
        // Whoever was passed by is named already.
        let missing = sequence.saturating_sub(self.sequence + 1).saturating_sub(passed_by);
        if missing > 0 {
            self.ended.unaccounted += missing;
            findings.push(Finding::Places { count: missing, delivery });
        }
        self.sequence = self.sequence.max(sequence);
    }

    fn owe_unmatched(&mut self, backfilled: &DeliveryBackfilled, findings: &mut Vec<Finding>) {
        let &DeliveryBackfilled { delivery, message_seq, .. } = backfilled;
        if self.open.insert(delivery, Owed { message_seq, first: false }).is_some() {
            self.twice(Finding::Twice { message_seq, delivery }, findings);
        }
    }

    /// How many matches that ends.
    fn end(&mut self, delivery: DeliveryId, findings: &mut Vec<Finding>) -> u64 {
        self.uncarried.remove(&delivery);
        let removed = self.open.remove(&delivery);
        if self.open.is_empty() {
            self.open = HashMap::new();
        }
        match removed {
            Some(owed) => u64::from(owed.first),
            None => {
                self.twice(Finding::NotOpen { delivery }, findings);
                0
            }
        }
    }

    fn twice(&mut self, finding: Finding, findings: &mut Vec<Finding>) {
        self.ended.twice += 1;
        findings.push(finding);
    }

    fn open_period(&mut self, opened: &DeliveriesPeriodOpened, findings: &mut Vec<Finding>) {
        self.close(findings);
        self.expect_scheduled(opened.matched_through, findings);
        let missing = opened.sequence.saturating_sub(self.sequence);
        if missing > 0 {
            self.ended.unaccounted += missing;
            findings.push(Finding::PlacesOfPeriod { count: missing });
            self.sequence = opened.sequence;
        }
        self.uncarried = self.open.keys().copied().collect();
        self.carry(&opened.carried, findings);
    }

    fn begin(&mut self, opened: &DeliveriesPeriodOpened) {
        self.begun = Begun::Granting;
        self.waiting.forget(opened.matched_through);
        self.sequence = opened.sequence;
        // Less those that are carried, here and by the next events.
        self.ended.gone = opened.sequence;
        self.take_for_granted(&opened.carried);
    }

    /// What the first period that is left carries: repetitions cannot be told from first deliveries.
    fn take_for_granted(&mut self, carried: &[CarriedDelivery]) {
        for delivery in carried {
            let first = self.ended.gone > 0;
            self.ended.gone -= u64::from(first);
            self.open.insert(delivery.delivery, Owed { message_seq: delivery.message_seq, first });
        }
    }

    fn carry(&mut self, carried: &[CarriedDelivery], findings: &mut Vec<Finding>) {
        for CarriedDelivery { delivery, .. } in carried {
            self.uncarried.remove(delivery);
            if !self.open.contains_key(delivery) {
                self.twice(Finding::NotOpen { delivery: *delivery }, findings);
            }
        }
    }

    /// No more of an append comes: what its period neither carried nor ended is owed no more.
    pub fn close(&mut self, findings: &mut Vec<Finding>) {
        for delivery in std::mem::take(&mut self.uncarried) {
            let Some(owed) = self.open.remove(&delivery) else { continue };
            self.ended.unaccounted += u64::from(owed.first);
            findings.push(Finding::Dropped { message_seq: owed.message_seq, delivery });
        }
    }

    /// The subscription has said that everything up to there was scheduled or passed over.
    fn expect_scheduled(&mut self, through: u64, findings: &mut Vec<Finding>) {
        let unaccounted = &mut self.ended.unaccounted;
        self.waiting.drop_through(through, &mut |finding, count| {
            *unaccounted += count;
            findings.push(finding);
        });
    }

    /// How everything stands, once all events were entered up to some place at which, or before which, the matcher's
    /// checkpoint was `matcher`: what waits in front of that and for no circuit was lost.
    pub fn assess(&self, matcher: u64, findings: &mut Vec<Finding>) -> Counts {
        let mut counts = self.ended;
        counts.pending = self.open.values().filter(|owed| owed.first).count() as u64;
        let waiting = self.waiting.count();
        // Once the way is open the matcher looks again at all that waited.
        let overdue_through = match self.tripped_through {
            Some(_) => None,
            None => Some(matcher).filter(|matcher| *matcher >= self.freed_at),
        };
        let mut overdue = 0;
        let mut rest = self.waiting.clone();
        if let Some(through) = overdue_through {
            rest.drop_through(through, &mut |finding, count| {
                overdue += count;
                findings.push(finding);
            });
        }
        counts.unaccounted += overdue;
        match self.tripped_through {
            Some(_) => counts.held = waiting,
            None => counts.unmatched = waiting - overdue,
        }
        counts
    }

    /// Whether its circuit is open.
    pub fn is_held(&self) -> bool {
        self.tripped_through.is_some()
    }

    /// Whether the subscription is gone.
    pub fn is_deleted(&self) -> bool {
        self.deleted
    }
}

#[cfg(test)]
#[path = "ledger_tests.rs"]
mod tests;
