//! Appends that wait for room in the log's queue.
//!
//! A crowd of subscriptions with something to record is no fault: whoever finds the queue full waits for a place in it, and
//! begins no attempt meanwhile. What can wait here is bounded by what may reach the subscription: matches and requests hold
//! credits, and of each open delivery there is one outcome at most.

use std::collections::VecDeque;

use ractor::{ActorProcessingErr, ActorRef};

use super::{State, SubscriptionMessage};
use crate::event_store::{Append, Place};

/// What is still to be queued, in the order in which it was decided.
#[derive(Default)]
pub(super) struct Outbox {
    /// With their numbers.
    waiting: VecDeque<(u64, Append)>,
    /// Whether a place was asked for that has not come.
    asked: bool,
}

impl Outbox {
    pub(super) fn is_empty(&self) -> bool {
        self.waiting.is_empty()
    }
}

impl State {
    /// Appends behind everything that was decided before. The answer comes as a message.
    pub(super) fn send(
        &mut self,
        me: &ActorRef<SubscriptionMessage>,
        append: Append,
    ) -> Result<(), ActorProcessingErr> {
        let number = self.gate.next(&self.loaded);
        self.outbox.waiting.push_back((number, append));
        match self.outbox.asked {
            true => Ok(()),
            false => self.queue_appends(me, None),
        }
    }

    /// A place has come that was asked for.
    pub(super) fn take_place(
        &mut self,
        me: &ActorRef<SubscriptionMessage>,
        place: Place,
    ) -> Result<(), ActorProcessingErr> {
        self.outbox.asked = false;
        self.queue_appends(me, Some(place))
    }

    /// Queues as much as there are places for, and asks for one for the rest.
    fn queue_appends(
        &mut self,
        me: &ActorRef<SubscriptionMessage>,
        mut place: Option<Place>,
    ) -> Result<(), ActorProcessingErr> {
        let shard = self.shard()?;
        while !self.outbox.is_empty() {
            let free = match place.take() {
                Some(place) => Some(place),
                None => self.arguments.context.log.try_place(shard)?,
            };
            let Some(free) = free else {
                self.outbox.asked = true;
                self.ask_for_place(me.clone(), shard);
                return Ok(());
            };
            let Some((number, append)) = self.outbox.waiting.pop_front() else { return Ok(()) };
            let me = me.clone();
            // A dead actor has nothing to let out.
            free.put(append, Box::new(move |result| drop(me.cast(SubscriptionMessage::Appended { number, result }))));
        }
        Ok(())
    }

    fn ask_for_place(&self, me: ActorRef<SubscriptionMessage>, shard: u16) {
        let log = self.arguments.context.log.clone();
        tokio::spawn(async move {
            // An actor that has died meanwhile gives the place back.
            drop(me.cast(SubscriptionMessage::Place(log.place(shard).await)));
        });
    }
}
