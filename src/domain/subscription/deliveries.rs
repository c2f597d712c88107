//! What a subscription owes, and how that is carried from period to period.

use std::collections::HashMap;

use serde::{Deserialize, Serialize};

use super::sorted::Sorted;
use crate::domain::circuit::Circuit;
use crate::domain::event::{
    AttemptFailed, CarriedDelivery, DeliveriesCarried, DeliveriesPeriodOpened, DeliveryBackfilled, DeliveryCancelled,
    DeliveryEvent, DeliveryExhausted, DeliveryExpired, DeliveryRescheduled, DeliveryScheduled, DeliverySucceeded,
    ExpiryReason, LastFailure,
};
use crate::domain::id::{DeliveryId, MessageId};
use crate::domain::job::Job;
use crate::domain::time::Timestamp;

/// One event carries at most so many open deliveries: about 50 KB.
const CARRIED_PER_EVENT: usize = 256;

/// Everything owed.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(from = "Listed", into = "Listed")]
pub struct Deliveries {
    /// Boxed: the smallest table has room for four.
    pub(super) open: HashMap<DeliveryId, Box<Open>>,
    /// The open ones by the time of their next attempt.
    pub(super) agenda: Sorted<(Timestamp, DeliveryId)>,
    /// The open ones by the number of their message: whose turn it is where order counts.
    pub(super) line: Sorted<(u64, DeliveryId)>,
    pub(super) matched_through: u64,
    /// The highest place that a matched message has got.
    pub(super) sequence: u64,
}

/// A delivery that has not ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Open {
    /// The message.
    pub message: MessageId,
    /// The message's number in the shard's log.
    pub message_seq: u64,
    /// When it was scheduled.
    pub scheduled_at: Timestamp,
    /// When its next attempt is due.
    pub due_at: Timestamp,
    /// Attempts that failed and that the schedule counts.
    pub failures: u32,
    /// Attempts that failed for a local reason and that it does not count.
    pub uncounted: u32,
    /// The message's place among all that were matched; `None` if it has none.
    pub sequence: Option<u64>,
    /// The settings' revision when it was scheduled; `None` if it was carried by a period that did not tell.
    pub revision: Option<u64>,
    /// How its newest attempt failed; `None` before the first.
    pub last_failure: Option<LastFailure>,
    /// The version of its last event in the deliveries stream: not to be acted on before that is durable.
    pub version: u64,
}

/// The same with one text for one state: whoever compares or hashes it needs that.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Listed {
    matched_through: u64,
    sequence: u64,
    /// In the order of the agenda.
    open: Vec<(DeliveryId, Open)>,
}

impl From<Deliveries> for Listed {
    fn from(deliveries: Deliveries) -> Self {
        let open = deliveries.agenda.iter().map(|(_, delivery)| (*delivery, *deliveries.open[delivery])).collect();
        Self { matched_through: deliveries.matched_through, sequence: deliveries.sequence, open }
    }
}

impl From<Listed> for Deliveries {
    fn from(listed: Listed) -> Self {
        let agenda = listed.open.iter().map(|(delivery, open)| (open.due_at, *delivery)).collect();
        let line = listed.open.iter().map(|(delivery, open)| (open.message_seq, *delivery)).collect();
        let Listed { matched_through, sequence, open } = listed;
        let open = open.into_iter().map(|(delivery, open)| (delivery, Box::new(open))).collect();
        Self { open, agenda, line, matched_through, sequence }
    }
}

impl Deliveries {
    /// These, with everything matched up to that number, and so many in all.
    pub fn of(open: impl IntoIterator<Item = (DeliveryId, Open)>, matched_through: u64, sequence: u64) -> Self {
        Listed { matched_through, sequence, open: open.into_iter().collect() }.into()
    }

    /// The events that begin a period: what is owed, and then the end of each delivery whose message has a number up to
    /// `gone_through`.
    pub(super) fn open_period(&self, gone_through: u64, circuit: &Circuit, job: Option<&Job>) -> Vec<DeliveryEvent> {
        let carried = |(_, delivery): &(Timestamp, DeliveryId)| CarriedDelivery::of(*delivery, &self.open[delivery]);
        let (expired, kept): (Vec<_>, Vec<_>) =
            self.agenda.iter().map(carried).partition(|delivery| delivery.message_seq <= gone_through);
        let mut kept = kept.into_iter();
        let first = kept.by_ref().take(CARRIED_PER_EVENT).collect();
        let mut events = vec![DeliveryEvent::PeriodOpened(DeliveriesPeriodOpened {
            matched_through: self.matched_through,
            sequence: self.sequence,
            circuit: Some(circuit.clone()).filter(|circuit| *circuit != Circuit::default()),
            job: job.map(|job| job.progress),
            carried: first,
        })];
        while kept.len() > 0 {
            let carried = kept.by_ref().take(CARRIED_PER_EVENT).collect();
            events.push(DeliveryEvent::Carried(DeliveriesCarried { carried }));
        }
        let reason = ExpiryReason::MessageDropped;
        let expiry = |CarriedDelivery { delivery, .. }| DeliveryEvent::Expired(DeliveryExpired { delivery, reason });
        events.extend(expired.into_iter().map(expiry));
        events
    }

    pub(super) fn evolve(&mut self, event: &DeliveryEvent, at: Timestamp, version: u64) {
        match event {
            DeliveryEvent::Scheduled(scheduled) => {
                if scheduled.redelivery_of.is_none() {
                    self.matched_through = self.matched_through.max(scheduled.message_seq);
                    self.sequence = self.sequence.max(scheduled.sequence.unwrap_or(0));
                }
                let &DeliveryScheduled { message, message_seq, sequence, revision, .. } = scheduled;
                self.insert(scheduled.delivery, Open::new(message, message_seq, sequence, revision, at, version));
            }
            // It was no match: messages before it may still be matched.
            DeliveryEvent::Backfilled(backfilled) => {
                let &DeliveryBackfilled { delivery, message, message_seq, revision, .. } = backfilled;
                self.insert(delivery, Open::new(message, message_seq, None, revision, at, version));
            }
            DeliveryEvent::AttemptFailed(failed) => {
                let Some(mut open) = self.remove(failed.delivery) else { return };
                open.failures = failed.failures;
                open.uncounted = failed.number.saturating_sub(failed.failures);
                open.version = version;
                if let Some(due_at) = failed.due_at {
                    open.due_at = due_at;
                    open.last_failure = Some(LastFailure::of(failed, due_at));
                    self.insert(failed.delivery, open);
                }
            }
            DeliveryEvent::Rescheduled(DeliveryRescheduled { delivery, due_at }) => {
                let Some(open) = self.remove(*delivery) else { return };
                self.insert(*delivery, Open { due_at: *due_at, version, ..open });
            }
            DeliveryEvent::Succeeded(DeliverySucceeded { delivery, .. })
            | DeliveryEvent::Exhausted(DeliveryExhausted { delivery, .. })
            | DeliveryEvent::Expired(DeliveryExpired { delivery, .. })
            | DeliveryEvent::Cancelled(DeliveryCancelled { delivery }) => {
                self.remove(*delivery);
            }
            DeliveryEvent::PeriodOpened(DeliveriesPeriodOpened {
                matched_through,
                sequence,
                carried,
                circuit: _,
                job: _,
            }) => {
                *self = Self { matched_through: *matched_through, sequence: *sequence, ..Self::default() };
                self.take_over(carried, version);
            }
            DeliveryEvent::Carried(DeliveriesCarried { carried }) => self.take_over(carried, version),
            DeliveryEvent::JobAdvanced(_) => {}
        }
    }

    /// The place in the agenda of the one whose message is the oldest.
    pub(super) fn head(&self) -> Option<(Timestamp, DeliveryId)> {
        let (_, delivery) = self.line.first()?;
        Some((self.open[delivery].due_at, *delivery))
    }

    /// Messages up to that number will not be matched any more.
    pub(super) fn pass_over(&mut self, through: Option<u64>) {
        self.matched_through = self.matched_through.max(through.unwrap_or(0));
    }

    fn take_over(&mut self, carried: &[CarriedDelivery], version: u64) {
        for carried in carried {
            let &CarriedDelivery { delivery, message, message_seq, scheduled_at, due_at, failures, .. } = carried;
            let &CarriedDelivery { uncounted, sequence, revision, last_failure, .. } = carried;
            let open = Open {
                message,
                message_seq,
                scheduled_at,
                due_at,
                failures,
                uncounted,
                sequence,
                revision,
                last_failure,
                version,
            };
            self.insert(delivery, open);
        }
    }

    fn insert(&mut self, delivery: DeliveryId, open: Open) {
        self.agenda.insert((open.due_at, delivery));
        self.line.insert((open.message_seq, delivery));
        self.open.insert(delivery, Box::new(open));
    }

    fn remove(&mut self, delivery: DeliveryId) -> Option<Open> {
        let open = self.open.remove(&delivery)?;
        self.agenda.remove(&(open.due_at, delivery));
        self.line.remove(&(open.message_seq, delivery));
        if self.open.is_empty() {
            self.open = HashMap::new();
        }
        Some(*open)
    }
}

impl Open {
    fn new(
        message: MessageId,
        message_seq: u64,
        sequence: Option<u64>,
        revision: u64,
        at: Timestamp,
        version: u64,
    ) -> Self {
        Self {
            message,
            message_seq,
            scheduled_at: at,
            due_at: at,
            failures: 0,
            uncounted: 0,
            sequence,
            revision: Some(revision),
            last_failure: None,
            version,
        }
    }

    /// Attempts that were made.
    pub fn attempts(&self) -> u32 {
        self.failures + self.uncounted
    }
}

impl CarriedDelivery {
    fn of(delivery: DeliveryId, open: &Open) -> Self {
        let &Open { message, message_seq, scheduled_at, due_at, failures, uncounted, .. } = open;
        let &Open { sequence, revision, last_failure, version: _, .. } = open;
        Self {
            delivery,
            message,
            message_seq,
            scheduled_at,
            due_at,
            failures,
            uncounted,
            sequence,
            revision,
            last_failure,
        }
    }
}

impl LastFailure {
    fn of(failed: &AttemptFailed, due_at: Timestamp) -> Self {
        let ended_at = failed.started_at.plus_ms(failed.latency_ms);
        let status = failed.response.as_ref().map(|response| response.status);
        Self { code: failed.code, status, delay_ms: due_at.ms_since(ended_at) }
    }
}
