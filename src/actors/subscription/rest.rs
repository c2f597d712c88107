//! What lets the actor leave memory and find its work again: snapshots of its state, and its durable wake-up.

use ractor::{ActorProcessingErr, ActorRef};

use super::{State, SubscriptionMessage};
use crate::actors::region::RegionMessage;
use crate::domain::time::Timestamp;
use crate::event_store::{Append, Snapshot};

/// The least number of events for which one that leaves memory saves its state.
const SNAPSHOT_AT_REST: u64 = 21;

/// What is known of the durable wake-up.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Wakeup {
    /// Set by an earlier life of this actor, or not at all.
    Unknown,
    /// At this time; `None`: there is none.
    At(Option<Timestamp>),
}

impl State {
    /// The state, if so many events need not be read again once it is stored. One that owes much is stored less often:
    /// what is written of states stays a small part of what is written of events.
    pub(super) fn snapshot(&mut self, at_least: u64) -> Option<Snapshot> {
        let worth = at_least.max(4 * self.loaded.state.open_count() as u64);
        if self.arguments.context.config.snapshot_every_events == 0 || self.loaded.unsaved_events < worth {
            return None;
        }
        self.loaded.unsaved_events = 0;
        self.loaded.snapshot(self.arguments.id)
    }

    /// A durable wake-up may be earlier than the work, never later. One that is early enough is left alone, so that a
    /// busy subscription writes none.
    pub(super) fn wakeup_before_work(&mut self) -> Option<(String, Option<Timestamp>)> {
        let next = self.loaded.state.next_due()?;
        match self.wakeup {
            Wakeup::At(Some(known)) if known <= next => None,
            Wakeup::At(_) | Wakeup::Unknown => Some(self.set_wakeup(Some(next))),
        }
    }

    fn set_wakeup(&mut self, due_at: Option<Timestamp>) -> (String, Option<Timestamp>) {
        self.wakeup = Wakeup::At(due_at);
        (self.arguments.id.to_string(), due_at)
    }

    pub(super) fn write_wakeup(&mut self, me: &ActorRef<SubscriptionMessage>) -> Result<(), ActorProcessingErr> {
        let wakeup = self.set_wakeup(self.loaded.state.next_due());
        self.send(me, Append { wakeups: vec![wakeup], ..Append::default() })
    }

    /// Leaves only with nothing under way and with a durable wake-up for whatever is due later.
    pub(super) fn rest(&mut self, me: &ActorRef<SubscriptionMessage>) -> Result<(), ActorProcessingErr> {
        let under_way = !self.in_flight.is_empty() || self.looking.under_way || self.destroying;
        if under_way || self.place.is_waiting() || !self.gate.is_idle() {
            return Ok(());
        }
        let snapshot = self.snapshot(SNAPSHOT_AT_REST);
        if snapshot.is_some() || self.wakeup != Wakeup::At(self.loaded.state.next_due()) {
            // The next request to rest finds both durable.
            let wakeups = vec![self.set_wakeup(self.loaded.state.next_due())];
            return self.send(me, Append { wakeups, snapshots: snapshot.into_iter().collect(), ..Append::default() });
        }
        let message = RegionMessage::MayLeave { id: self.arguments.id, actor: me.get_id() };
        drop(self.arguments.region.cast(message));
        Ok(())
    }
}
