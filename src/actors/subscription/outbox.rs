//! Appends that wait for room in the log's queue.
//!
//! A crowd of subscriptions with something to record is no fault: whoever finds the queue full waits for a place in it, and
//! begins no attempt meanwhile. What can wait here is bounded by what may reach the subscription: matches and requests hold
//! credits, and of each open delivery there is one outcome at most.

use std::collections::VecDeque;

use ractor::{ActorProcessingErr, ActorRef};

use super::{State, SubscriptionMessage};
use crate::event_store::{Append, Place};

/// What is still to be queued, in the order in which it was decided, with its numbers. A place is asked for as long as
/// there is something. Mostly there is nothing: then it takes no memory.
#[derive(Default)]
pub(super) struct Outbox(VecDeque<(u64, Append)>);

impl Outbox {
    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
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
        if !self.outbox.is_empty() {
            self.outbox.0.push_back((number, append));
            return Ok(());
        }
        let shard = self.shard()?;
        match self.arguments.context.log.try_place(shard)? {
            Some(free) => put(me, free, number, append),
            None => {
                self.outbox.0.push_back((number, append));
                self.ask_for_place(me.clone(), shard);
            }
        }
        Ok(())
    }

    /// A place has come that was asked for: queues as much as there are places for, and asks for one for the rest.
    pub(super) fn take_place(
        &mut self,
        me: &ActorRef<SubscriptionMessage>,
        place: Place,
    ) -> Result<(), ActorProcessingErr> {
        let shard = self.shard()?;
        let mut next = Some(place);
        while let Some(free) = next
            && let Some((number, append)) = self.outbox.0.pop_front()
        {
            put(me, free, number, append);
            next = match self.outbox.is_empty() {
                true => None,
                false => self.arguments.context.log.try_place(shard)?,
            };
        }
        match self.outbox.is_empty() {
            true => self.outbox = Outbox::default(),
            false => self.ask_for_place(me.clone(), shard),
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

fn put(me: &ActorRef<SubscriptionMessage>, place: Place, number: u64, append: Append) {
    let me = me.clone();
    // A dead actor has nothing to let out.
    place.put(append, Box::new(move |result| drop(me.cast(SubscriptionMessage::Appended { number, result }))));
}
