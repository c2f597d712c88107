//! The output gate: what was decided leaves the actor when it is durable, and not before.

use std::collections::VecDeque;

use tokio::sync::{mpsc, oneshot};

use super::deletion::Replaced;
use crate::actors::engine::{Done, EngineError};
use crate::actors::matcher::MatchAck;
use crate::domain::subscription::{Refusal, Timers};
use crate::event_store::{Appended, Position};
use crate::execute::Loaded;

/// Effects wait here until the appends before them are durable.
#[derive(Default)]
pub(super) struct Gate {
    appended: u64,
    waiting: VecDeque<Waiting>,
    /// Versions of the two streams up to which everything is durable.
    pub(super) life_version: u64,
    pub(super) deliveries_version: u64,
}

struct Waiting {
    append: u64,
    life_version: u64,
    deliveries_version: u64,
    effect: Effect,
}

/// What may leave the actor.
pub(super) enum Effect {
    Reply(oneshot::Sender<Result<Done, EngineError>>, Box<Done>),
    /// The same, behind the destruction of what was replaced.
    ReplyBehind(Replaced, oneshot::Sender<Result<Done, EngineError>>, Box<Done>),
    Refuse(oneshot::Sender<Result<Done, EngineError>>, Refusal),
    Timers(oneshot::Sender<Result<Timers, EngineError>>, Result<Timers, Refusal>),
    Ack(MatchAck),
    Flushed(mpsc::Sender<()>),
    Nothing,
}

impl Effect {
    fn release(self, position: Option<Position>) {
        match self {
            // A caller that has gone needs no answer.
            Self::Reply(reply, done) => drop(reply.send(Ok(at(position, *done)))),
            Self::ReplyBehind(replaced, reply, done) => {
                // Also for a caller that has gone.
                drop(tokio::spawn(async move {
                    replaced.destroy().await;
                    drop(reply.send(Ok(at(position, *done))));
                }));
            }
            Self::Refuse(reply, refusal) => drop(reply.send(Err(refusal.into()))),
            Self::Timers(reply, answer) => drop(reply.send(answer.map_err(EngineError::from))),
            Self::Ack(ack) => ack.durable(),
            Self::Flushed(waiter) => drop(waiter),
            Self::Nothing => {}
        }
    }
}

/// What changed nothing may have waited for what others had recorded: that is no place of its own.
fn at(position: Option<Position>, done: Done) -> Done {
    Done { position: position.filter(|_| done.changed), ..done }
}

impl Gate {
    /// One in which nothing waits: everything that was loaded is durable.
    pub(super) fn of(loaded: &Loaded) -> Self {
        Self { life_version: loaded.life_version, deliveries_version: loaded.deliveries_version, ..Self::default() }
    }

    /// Counts an append that is about to be sent, and remembers which versions its success makes durable.
    pub(super) fn next(&mut self, loaded: &Loaded) -> u64 {
        self.appended += 1;
        self.wait(loaded, Effect::Nothing);
        self.appended
    }

    /// Lets the effect out when everything decided before it is durable: now, if it is.
    pub(super) fn push(&mut self, loaded: &Loaded, effect: Effect) {
        if self.is_idle() { effect.release(None) } else { self.wait(loaded, effect) }
    }

    fn wait(&mut self, loaded: &Loaded, effect: Effect) {
        self.waiting.push_back(Waiting {
            append: self.appended,
            life_version: loaded.life_version,
            deliveries_version: loaded.deliveries_version,
            effect,
        });
    }

    pub(super) fn is_idle(&self) -> bool {
        self.waiting.is_empty()
    }

    pub(super) fn open(&mut self, number: u64, appended: Appended) {
        while let Some(waiting) = self.waiting.pop_front_if(|waiting| waiting.append <= number) {
            self.life_version = waiting.life_version;
            self.deliveries_version = waiting.deliveries_version;
            waiting.effect.release((waiting.append == number).then_some(appended.last));
        }
        // Subscriptions mostly wait, and are many: none keeps room for what may come.
        if self.is_idle() {
            self.waiting = VecDeque::new();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn reply(gate: &mut Gate, loaded: &Loaded, changed: bool) -> oneshot::Receiver<Result<Done, EngineError>> {
        let (reply, answer) = oneshot::channel();
        let done = Done { position: None, changed, settings: None, job: None };
        gate.push(loaded, Effect::Reply(reply, Box::new(done)));
        answer
    }

    fn position(answer: &mut oneshot::Receiver<Result<Done, EngineError>>) -> Option<Position> {
        answer.try_recv().expect("the gate is open").expect("nothing failed").position
    }

    #[test]
    fn what_changes_nothing_waits_for_what_is_recorded_and_has_no_place_of_its_own() {
        let (mut gate, loaded) = (Gate::default(), Loaded::default());
        let number = gate.next(&loaded);
        let (mut changed, mut same) = (reply(&mut gate, &loaded, true), reply(&mut gate, &loaded, false));
        assert!(changed.try_recv().is_err() && same.try_recv().is_err());
        let last = Position { shard: 0, seq: 7 };
        gate.open(number, Appended { last });
        assert_eq!((position(&mut changed), position(&mut same)), (Some(last), None));
        assert!(gate.is_idle());
        assert_eq!(position(&mut reply(&mut gate, &loaded, false)), None);
    }
}
