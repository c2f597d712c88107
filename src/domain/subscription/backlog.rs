//! What the circuit breaker made of one message, told from the subscription's own events.

use crate::domain::event::{ReenableMode, SubscriptionEvent};
use crate::domain::time::Timestamp;

/// Whether a message that matched waited for the circuit, and what became of it then.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Passage {
    /// Nothing keeps it from being scheduled.
    Free,
    /// It waits in the log for the circuit to be left.
    Waiting {
        /// Since when the circuit is open.
        since: Timestamp,
    },
    /// It was passed over when somebody let the subscription try again.
    Skipped {
        /// When that was.
        at: Timestamp,
        /// What had been asked for.
        mode: ReenableMode,
    },
    /// It ended with the subscription's deletion, and did not come back with it.
    Deleted {
        /// When that was.
        at: Timestamp,
    },
    /// It waited longer than messages are kept.
    Lost {
        /// When that was found.
        at: Timestamp,
    },
}

/// The events of a subscription's own life, folded for the message with one number.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Backlog {
    message_seq: u64,
    /// What became of the message.
    pub passage: Passage,
    /// Since when the circuit is open; `None` if it is not.
    pub open_since: Option<Timestamp>,
    /// Whether the subscription sends now.
    pub enabled: bool,
    /// Nothing is sent before this; `None` if it does not pause.
    pub hold_until: Option<Timestamp>,
    /// Whether each delivery waits now for the end of the one before.
    pub ordered: bool,
    /// When the subscription was deleted; `None` if it is there (again).
    pub deleted_at: Option<Timestamp>,
    /// Whether it waited for the circuit, and was to be scheduled when that was left.
    was_freed: bool,
}

impl Backlog {
    /// Before the first event, for the message with this number in the shard's log.
    pub fn of(message_seq: u64) -> Self {
        Self {
            message_seq,
            passage: Passage::Free,
            open_since: None,
            enabled: false,
            hold_until: None,
            ordered: false,
            deleted_at: None,
            was_freed: false,
        }
    }

    /// Remembers what happened.
    pub fn evolve(&mut self, event: &SubscriptionEvent, at: Timestamp) {
        match event {
            SubscriptionEvent::Created(created) => {
                self.enabled = created.enabled;
                self.ordered = created.ordered;
            }
            SubscriptionEvent::Enabled(_) => self.enabled = true,
            SubscriptionEvent::Disabled(_) => self.enabled = false,
            SubscriptionEvent::HoldChanged(changed) => self.hold_until = changed.until,
            SubscriptionEvent::CircuitTripped(tripped) => {
                self.open_since = Some(at);
                if self.message_seq > tripped.matched_through {
                    self.passage = Passage::Waiting { since: at };
                }
            }
            SubscriptionEvent::CircuitReenabled(reenabled) => {
                let skipped = Passage::Skipped { at, mode: reenabled.mode };
                self.leave(at, reenabled.skipped_through.map(|through| (through, skipped)), reenabled.lost_through);
            }
            SubscriptionEvent::CircuitProbing(probing) => self.leave(at, None, probing.lost_through),
            SubscriptionEvent::MatchesLost(lost) if self.message_seq <= lost.through && self.was_freed => {
                self.passage = Passage::Lost { at };
            }
            SubscriptionEvent::CircuitClosed(_) => self.open_since = None,
            SubscriptionEvent::Deleted(_) => {
                self.open_since = None;
                self.deleted_at = Some(at);
            }
            SubscriptionEvent::Restored(restored) => {
                self.enabled = false;
                if let Some(at) = self.deleted_at.take().filter(|_| self.message_seq <= restored.matched_through)
                    && !matches!(self.passage, Passage::Deleted { .. })
                {
                    self.passage = Passage::Deleted { at };
                }
            }
            SubscriptionEvent::Updated(updated) => {
                self.ordered = updated.ordered.as_ref().map_or(self.ordered, |change| change.to);
            }
            SubscriptionEvent::MatchesLost(_)
            | SubscriptionEvent::SecretsDestroyed(_)
            | SubscriptionEvent::SecretRotated(_)
            | SubscriptionEvent::TestSent(_)
            | SubscriptionEvent::EgressBlocked(_)
            | SubscriptionEvent::RedeliveryRequested(_)
            | SubscriptionEvent::RescheduleRequested(_)
            | SubscriptionEvent::CancellationRequested(_)
            | SubscriptionEvent::JobStarted(_)
            | SubscriptionEvent::JobEnded(_) => {}
        }
    }

    /// When a deletion ended whatever was owed of the message; `None` if none has.
    pub fn ended_by_deletion_at(&self) -> Option<Timestamp> {
        match self.passage {
            Passage::Deleted { at } => Some(at),
            Passage::Free | Passage::Waiting { .. } | Passage::Skipped { .. } | Passage::Lost { .. } => self.deleted_at,
        }
    }

    fn leave(&mut self, at: Timestamp, skipped: Option<(u64, Passage)>, lost_through: Option<u64>) {
        self.open_since = None;
        if !matches!(self.passage, Passage::Waiting { .. }) {
            return;
        }
        let lost = lost_through.map(|through| (through, Passage::Lost { at }));
        let over = skipped.into_iter().chain(lost).find(|(through, _)| self.message_seq <= *through);
        self.was_freed = over.is_none();
        self.passage = over.map_or(Passage::Free, |(_, passage)| passage);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::circuit::TripCause;
    use crate::domain::event::{
        CircuitClosed, CircuitProbing, CircuitReenabled, CircuitTripped, MatchesLost, SubscriptionDeleted,
        SubscriptionRestored,
    };
    use crate::domain::id::DeliveryId;
    use crate::domain::outcome::FailureCode;

    fn at(second: u64) -> Timestamp {
        Timestamp::from_ms(0).plus_ms(second * 1_000)
    }

    fn tripped(matched_through: u64) -> SubscriptionEvent {
        SubscriptionEvent::CircuitTripped(CircuitTripped {
            cause: TripCause::HardFailures,
            failures: 10,
            delivery: DeliveryId::from_parts(1, 1),
            code: FailureCode::Status,
            detail: String::new(),
            matched_through,
            probe_at: None,
            failed_probes: 0,
        })
    }

    fn reenabled(mode: ReenableMode, skipped_through: Option<u64>, lost_through: Option<u64>) -> SubscriptionEvent {
        SubscriptionEvent::CircuitReenabled(CircuitReenabled { mode, skipped_through, cancelled: 0, lost_through })
    }

    /// What became of the message, with one event a second.
    fn passage(message_seq: u64, events: &[SubscriptionEvent]) -> Passage {
        let mut backlog = Backlog::of(message_seq);
        for (second, event) in (1..).zip(events) {
            backlog.evolve(event, at(second));
        }
        backlog.passage
    }

    #[test]
    fn a_message_behind_the_trip_waits_until_the_circuit_is_left() {
        assert_eq!(passage(8, &[tripped(7)]), Passage::Waiting { since: at(1) });
        assert_eq!(passage(7, &[tripped(7)]), Passage::Free);
        assert_eq!(passage(8, &[tripped(7), reenabled(ReenableMode::Drain, None, None)]), Passage::Free);
        let probing = SubscriptionEvent::CircuitProbing(CircuitProbing { lost_through: None });
        assert_eq!(passage(8, &[tripped(7), probing.clone()]), Passage::Free);
        assert_eq!(passage(8, &[tripped(7), probing.clone(), tripped(7)]), Passage::Waiting { since: at(3) });
        assert_eq!(passage(8, &[tripped(7), probing, tripped(8)]), Passage::Free);
    }

    #[test]
    fn what_a_deletion_ended_does_not_come_back_with_the_subscription() {
        let deleted = SubscriptionEvent::Deleted(SubscriptionDeleted::default());
        let restored = SubscriptionEvent::Restored(SubscriptionRestored { matched_through: 8 });
        let ended = Passage::Deleted { at: at(2) };
        assert_eq!(passage(8, &[tripped(7), deleted.clone(), restored.clone()]), ended);
        assert_eq!(
            passage(8, &[tripped(7), deleted.clone(), restored.clone(), deleted.clone(), restored.clone()]),
            ended
        );
        assert_eq!(passage(9, &[deleted, restored]), Passage::Free);
    }

    #[test]
    fn what_was_passed_over_or_lost_stays_so() {
        let discard = reenabled(ReenableMode::Discard, Some(9), None);
        let skipped = Passage::Skipped { at: at(2), mode: ReenableMode::Discard };
        let closed = SubscriptionEvent::CircuitClosed(CircuitClosed {});
        assert_eq!(passage(9, &[tripped(7), discard.clone(), closed, tripped(9)]), skipped);
        assert_eq!(passage(7, &[tripped(7), discard.clone()]), Passage::Free);
        assert_eq!(passage(10, &[tripped(7), discard]), Passage::Free);
        let late = reenabled(ReenableMode::SkipBefore, Some(8), Some(9));
        assert_eq!(
            passage(8, &[tripped(7), late.clone()]),
            Passage::Skipped { at: at(2), mode: ReenableMode::SkipBefore }
        );
        assert_eq!(passage(9, &[tripped(7), late]), Passage::Lost { at: at(2) });
        let probing = SubscriptionEvent::CircuitProbing(CircuitProbing { lost_through: Some(8) });
        assert_eq!(passage(8, &[tripped(7), probing]), Passage::Lost { at: at(2) });
        // Gone between the leaving and the scheduling.
        let (drain, gone) = (reenabled(ReenableMode::Drain, None, None), || lost(9));
        assert_eq!(passage(9, &[tripped(7), drain.clone(), gone()]), Passage::Lost { at: at(3) });
        assert_eq!(passage(10, &[tripped(7), drain.clone(), gone()]), Passage::Free);
        assert_eq!(passage(7, &[tripped(7), drain, gone()]), Passage::Free, "it never waited");
    }

    fn lost(through: u64) -> SubscriptionEvent {
        SubscriptionEvent::MatchesLost(MatchesLost { through })
    }
}
