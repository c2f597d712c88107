//! The actor of one subscription: decides on its newest state, appends, and opens the gate when the append is durable.
//!
//! - The handler never waits. Decisions rest on events that may not be durable yet; that is sound because there is one
//!   writer and nothing leaves before its events are durable ([`Gate`]).
//! - If an append fails, what was decided on it is worthless: the actor ends, and the region loads it anew. It then
//!   writes its wake-up before it sends anything: while the log cannot be written, nobody gets what cannot be recorded.
//! - It keeps no timer: it tells the region when something is due, with a generation, and asks its state then.

mod deletion;
mod gate;
mod job;
mod outbox;
mod rest;
mod sending;
mod timers;

use std::collections::HashMap;
use std::sync::Arc;

use ractor::{Actor, ActorProcessingErr, ActorRef};
use tokio::sync::{mpsc, oneshot};

use self::gate::{Effect, Gate};
use self::job::Looking;
use self::outbox::Outbox;
use self::rest::Wakeup;
pub(super) use self::timers::TimersQuestion;
use super::Context;
use super::dispatcher::{self, Permit};
use super::engine::{Done, EngineError};
use super::matcher::{MatchAck, Room};
use super::region::{RegionMessage, Regions};
use super::target::TargetSource;
use super::timers::Generation;
use crate::domain::circuit::Allowance;
use crate::domain::event::{DeliveryEvent, Event, ExpiryReason, SubscriptionEvent};
use crate::domain::id::{DeliveryId, SubscriptionId, TenantId};
use crate::domain::subscription::{self, Command, Finished, Life, Matches, Open, Refusal, Step};
use crate::domain::time::Timestamp;
use crate::event_store::{Append, AppendError, Appended, Bucket, Lifetime, Place};
use crate::execute::vault::VaultError;
use crate::execute::{self, Loaded, Meta};

/// An endpoint that is unwell may have this part of the open deliveries.
const UNWELL: usize = 8;

/// What the actor is told.
pub(super) enum SubscriptionMessage {
    /// Somebody wants something of it.
    Command(Box<Request>),
    /// Somebody wants to know what waits. No reason to stay in memory.
    Timers(Box<TimersQuestion>),
    /// It matched messages, in log order.
    Matched { matches: Matches, ack: MatchAck },
    /// What it matched up to there is gone, since it waited for longer than messages are kept.
    MatchesGone { through: u64, ack: MatchAck },
    /// Something is due.
    Due(Generation),
    /// It may begin one of the attempts that it wants.
    Granted(Permit),
    /// An attempt ended.
    AttemptDone(Box<Finished>),
    /// An attempt was not made, since what it waited for changed meanwhile.
    AttemptWithdrawn { delivery: DeliveryId, number: u32 },
    /// The secrets of one that cannot be restored any more are destroyed, or could not be.
    SecretsDestroyed { at: Timestamp, result: Result<(), VaultError> },
    /// An attempt cannot be made, nor any later one: what was to be sent is gone.
    MessageGone { delivery: DeliveryId, number: u32, reason: ExpiryReason },
    /// What was looked for as the next step of its job; `None`: the look failed.
    JobStep(Option<Box<Step>>),
    /// Begin a new period, if the open one begins in this bucket or an older one: it is about to be dropped, with all
    /// messages up to this number.
    OpenPeriod { through: Bucket, gone_through: u64 },
    /// There is room in the log's queue, which it asked for.
    Place(Result<Place, AppendError>),
    /// Its `number`th append is durable, or failed.
    Appended { number: u64, result: Result<Appended, AppendError> },
    /// Leave memory, if there is nothing to do.
    Rest,
    /// Let go of this once everything that came before is durable.
    Flush(mpsc::Sender<()>),
}

/// A command from a tenant, and where its answer goes.
pub(super) struct Request {
    /// Whose subscription it has to be.
    pub(super) tenant: TenantId,
    /// `None` asks for the settings alone.
    pub(super) command: Option<Command>,
    /// Who asks.
    pub(super) meta: Meta,
    /// Where the answer goes.
    pub(super) reply: oneshot::Sender<Result<Done, EngineError>>,
}

impl SubscriptionMessage {
    /// Whether it is a reason to keep the subscription in memory.
    pub(super) fn is_use(&self) -> bool {
        !matches!(self, Self::Timers(_))
    }
}

pub(super) struct SubscriptionActor;

pub(super) struct Arguments {
    pub(super) context: Arc<Context>,
    pub(super) regions: Regions,
    pub(super) region: ActorRef<RegionMessage>,
    pub(super) id: SubscriptionId,
    /// Whether its last life ended with a failure.
    pub(super) after_failure: bool,
}

pub(super) struct State {
    arguments: Arguments,
    loaded: Loaded,
    gate: Gate,
    outbox: Outbox,
    /// Whether the log could be written, as far as this actor has reason to ask.
    may_record: bool,
    /// Numbers of the attempts under way.
    in_flight: HashMap<DeliveryId, u32>,
    /// Version of the newest event with which a delivery ended.
    ended_version: u64,
    /// Where it asks for permits.
    place: dispatcher::Place,
    /// Permits that have come for the attempts that begin next.
    permits: Vec<Permit>,
    /// The revision whose terms the dispatcher has.
    terms_of: Option<u64>,
    target: TargetSource,
    generation: Generation,
    armed: Option<Timestamp>,
    /// No attempt begins before this while the endpoint recovers.
    begin_at: Timestamp,
    /// Held while further matches have to wait in the log; letting go of it tells the matcher that there is room.
    room: Option<Room>,
    looking: Looking,
    /// The durable wake-up, as far as this actor knows it.
    wakeup: Wakeup,
    /// Whether its secrets are being destroyed: it was deleted, and cannot be restored any more.
    destroying: bool,
}

/// It would have to write, and belongs to no tenant whose shard that could be. Its rules forbid that.
#[derive(Debug, thiserror::Error)]
#[error("a subscription that was never created has nothing to append")]
struct NeverCreated;

impl Actor for SubscriptionActor {
    type Msg = SubscriptionMessage;
    type State = State;
    type Arguments = Arguments;

    async fn pre_start(&self, me: ActorRef<Self::Msg>, arguments: Arguments) -> Result<State, ActorProcessingErr> {
        let loaded = {
            // Nobody closes it.
            let _load = arguments.context.loads.acquire().await;
            execute::load_subscription(&arguments.context.log, arguments.id).await?
        };
        let gate = Gate::of(&loaded);
        let never_created = loaded.life_version == 0;
        let place = arguments.context.dispatcher.place(arguments.id, me.clone());
        let mut state = State {
            // What was never created has nothing to send, and no shard to write to.
            may_record: never_created || !arguments.after_failure,
            arguments,
            loaded,
            gate,
            outbox: Outbox::default(),
            in_flight: HashMap::new(),
            ended_version: 0,
            place,
            permits: vec![],
            terms_of: None,
            target: TargetSource::new(),
            generation: 0,
            armed: None,
            begin_at: Timestamp::from_ms(0),
            room: None,
            looking: Looking::default(),
            // What was never created has no wake-up to be removed.
            wakeup: if never_created { Wakeup::At(None) } else { Wakeup::Unknown },
            destroying: false,
        };
        if !state.may_record {
            state.write_wakeup(&me)?;
        }
        state.proceed(&me)?;
        Ok(state)
    }

    /// No block: what a handler that never waits would keep while it waits, each subscription would have room for.
    fn handle(
        &self,
        me: ActorRef<Self::Msg>,
        message: Self::Msg,
        state: &mut State,
    ) -> impl Future<Output = Result<(), ActorProcessingErr>> + Send {
        std::future::ready(state.handle(&me, message))
    }
}

impl State {
    fn handle(
        &mut self,
        me: &ActorRef<SubscriptionMessage>,
        message: SubscriptionMessage,
    ) -> Result<(), ActorProcessingErr> {
        match message {
            SubscriptionMessage::Command(request) => self.request(me, *request)?,
            SubscriptionMessage::Timers(question) => {
                self.tell_timers(*question);
                return Ok(());
            }
            SubscriptionMessage::Matched { matches, ack } => self.matched(me, matches, ack)?,
            SubscriptionMessage::MatchesGone { through, ack } => {
                self.carry_out(me, Command::LoseMatches { gone_through: through })?;
                self.gate.push(&self.loaded, Effect::Ack(ack));
            }
            SubscriptionMessage::Due(generation) if generation == self.generation => self.armed = None,
            SubscriptionMessage::Due(_) => return Ok(()),
            SubscriptionMessage::Granted(permit) => {
                self.place.received();
                self.permits.push(permit);
            }
            SubscriptionMessage::AttemptDone(finished) => self.attempt_done(me, *finished)?,
            SubscriptionMessage::AttemptWithdrawn { delivery, number } => self.attempt_ended(delivery, number),
            SubscriptionMessage::MessageGone { delivery, number, reason } => {
                self.attempt_ended(delivery, number);
                self.carry_out(me, Command::Expire { delivery, reason })?;
            }
            SubscriptionMessage::JobStep(step) => self.take_step(me, step.map(|step| *step))?,
            SubscriptionMessage::SecretsDestroyed { at, result } => self.secrets_destroyed(me, at, result)?,
            SubscriptionMessage::OpenPeriod { through, gone_through } => {
                self.open_period(me, through, gone_through)?;
            }
            SubscriptionMessage::Place(place) => self.take_place(me, place?)?,
            SubscriptionMessage::Appended { number, result } => self.appended(number, result)?,
            SubscriptionMessage::Rest => return self.rest(me),
            SubscriptionMessage::Flush(waiter) => self.gate.push(&self.loaded, Effect::Flushed(waiter)),
        }
        self.proceed(me)
    }

    /// Does what is due.
    fn proceed(&mut self, me: &ActorRef<SubscriptionMessage>) -> Result<(), ActorProcessingErr> {
        self.probe(me)?;
        self.look_for_step();
        self.start_due();
        self.destroy_secrets(me);
        Ok(())
    }

    /// Lets an endpoint be tried again whose circuit is open, if it is time.
    fn probe(&mut self, me: &ActorRef<SubscriptionMessage>) -> Result<(), ActorProcessingErr> {
        let context = &self.arguments.context;
        let at = context.clock.now();
        if !self.may_record || self.loaded.state.circuit.probe_at().is_none_or(|probe_at| at < probe_at) {
            return Ok(());
        }
        let gone_through = context.log.floor(self.shard()?);
        self.carry_out(me, Command::Probe { gone_through, at })
    }

    fn request(&mut self, me: &ActorRef<SubscriptionMessage>, request: Request) -> Result<(), ActorProcessingErr> {
        let Request { tenant, command, meta, reply } = request;
        let foreign = self.loaded.state.life.tenant().is_some_and(|owner| owner != tenant);
        let command = command.map(|command| self.with_destruction(self.with_attempts(command)));
        let decision = match command {
            _ if foreign => Err(Refusal::NotFound),
            Some(command) => subscription::decide(&self.loaded.state, command),
            None => Ok(vec![]),
        };
        match decision {
            Ok(events) => {
                let (changed, sealed) = (!events.is_empty(), self.sealed());
                self.append(me, &events, Some(&meta))?;
                let (settings, job) = (self.loaded.state.settings().ok().cloned(), self.running_job());
                let done = Box::new(Done { position: None, changed, settings, job });
                let effect = match self.replaced(sealed) {
                    None => Effect::Reply(reply, done),
                    Some(replaced) => Effect::ReplyBehind(replaced, reply, done),
                };
                self.gate.push(&self.loaded, effect);
            }
            Err(refusal) => self.gate.push(&self.loaded, Effect::Refuse(reply, refusal)),
        }
        Ok(())
    }

    fn matched(
        &mut self,
        me: &ActorRef<SubscriptionMessage>,
        matches: Matches,
        ack: MatchAck,
    ) -> Result<(), ActorProcessingErr> {
        if self.loaded.state.open_count() >= self.most_open() {
            self.room.get_or_insert_with(|| ack.room());
            ack.full();
            return Ok(());
        }
        let events = match subscription::decide(&self.loaded.state, Command::Match(matches)) {
            Ok(events) => events,
            // They are told again when the matcher has read that the circuit is not open any more.
            Err(Refusal::CircuitOpen) => return Ok(()),
            // Dropping the proof makes the matcher read again from the first one that was lost.
            Err(refusal) => {
                tracing::warn!(subscription.id = %self.arguments.id, "matches put back: {refusal}");
                return Ok(());
            }
        };
        self.append(me, &events, None)?;
        self.gate.push(&self.loaded, Effect::Ack(ack));
        Ok(())
    }

    fn attempt_done(
        &mut self,
        me: &ActorRef<SubscriptionMessage>,
        finished: Finished,
    ) -> Result<(), ActorProcessingErr> {
        self.attempt_ended(finished.delivery, finished.number);
        self.carry_out(me, Command::FinishAttempt(finished))
    }

    /// How many deliveries may be open before further matches have to wait in the log: few if the endpoint is unwell.
    fn most_open(&self) -> usize {
        let most = self.arguments.context.config.max_open_deliveries;
        if self.loaded.state.circuit.is_well() { most } else { most.div_ceil(UNWELL) }
    }

    /// A command of our own, which nobody waits for.
    fn carry_out(&mut self, me: &ActorRef<SubscriptionMessage>, command: Command) -> Result<(), ActorProcessingErr> {
        match subscription::decide(&self.loaded.state, command) {
            Ok(events) => self.append(me, &events, None),
            // Deleted meanwhile, or the second report of an attempt that was made before and after a restart.
            Err(refusal) => {
                tracing::debug!(subscription.id = %self.arguments.id, "outcome not recorded: {refusal}");
                Ok(())
            }
        }
    }

    /// Lets go of the bucket that the open period begins in, and gives up what is owed of messages that go with it.
    fn open_period(
        &mut self,
        me: &ActorRef<SubscriptionMessage>,
        through: Bucket,
        gone_through: u64,
    ) -> Result<(), ActorProcessingErr> {
        let Some(open) = self.loaded.period.filter(|open| open.bucket <= through) else { return Ok(()) };
        let Ok(events) = subscription::decide(&self.loaded.state, Command::OpenPeriod { gone_through }) else {
            // Deleted ones are ended with their deletion; this one was not, whatever the reason.
            self.loaded.period = None;
            let ended = vec![execute::deliveries_stream(self.arguments.id)];
            return self.send(me, Append { ended, ..Append::default() });
        };
        let context = &self.arguments.context;
        let now = context.clock.now();
        let lifetime = Lifetime::Period(context.retention.config.bucket_of(now).max(open.bucket));
        self.append_at(me, now, lifetime, &events, None)
    }

    /// After a fault an attempt may have been made twice; the report of the first must not hide the next one.
    fn attempt_ended(&mut self, delivery: DeliveryId, number: u32) {
        if self.in_flight.get(&delivery) == Some(&number) {
            self.in_flight.remove(&delivery);
        }
        if self.in_flight.is_empty() {
            self.in_flight = HashMap::new();
            self.target.set(None);
        }
    }

    /// Lets the matcher go on once half of the room is free.
    fn tell_of_room(&mut self) {
        if self.room.is_some() && self.loaded.state.open_count() <= self.most_open() / 2 {
            self.room = None;
        }
    }

    fn append(
        &mut self,
        me: &ActorRef<SubscriptionMessage>,
        events: &[Event],
        meta: Option<&Meta>,
    ) -> Result<(), ActorProcessingErr> {
        if events.is_empty() {
            return Ok(());
        }
        let context = &self.arguments.context;
        let now = context.clock.now();
        let lifetime = self.loaded.lifetime(&context.retention.config, now);
        // One that is restored begins a period, since the one before ended with its deletion.
        let restored = |event: &Event| matches!(event, Event::Subscription(SubscriptionEvent::Restored(_)));
        let owes = events.iter().any(|event| matches!(event, Event::Delivery(_)) || restored(event));
        match lifetime {
            Lifetime::Period(_) if owes => {
                // The period stands behind the life's events, and must say what they made of the circuit.
                let mut state = self.loaded.state.clone();
                for event in events.iter().filter(|event| matches!(event, Event::Subscription(_))) {
                    subscription::evolve(&mut state, event, now, 0);
                }
                let mut all = subscription::decide(&state, Command::OpenPeriod { gone_through: 0 })?;
                all.extend_from_slice(events);
                self.append_at(me, now, lifetime, &all, meta)
            }
            Lifetime::Kept | Lifetime::Bucket(_) | Lifetime::Period(_) => {
                self.append_at(me, now, lifetime, events, meta)
            }
        }
    }

    fn append_at(
        &mut self,
        me: &ActorRef<SubscriptionMessage>,
        now: Timestamp,
        lifetime: Lifetime,
        events: &[Event],
        meta: Option<&Meta>,
    ) -> Result<(), ActorProcessingErr> {
        // In the order in which the log will have them, so that whoever folds it has the same state.
        let (deliveries, life): (Vec<_>, Vec<_>) = events.iter().partition(|event| matches!(event, Event::Delivery(_)));
        for event in life.iter().chain(&deliveries) {
            self.loaded.evolve(event, now);
        }
        if deliveries.iter().any(|event| is_end(event)) {
            self.ended_version = self.loaded.deliveries_version;
        }
        let clock = &*self.arguments.context.clock;
        let new = |events: Vec<&Event>| -> Vec<_> {
            events.into_iter().map(|event| execute::new_event(event, now, meta, None, clock)).collect()
        };
        let (life, deliveries) = (new(life), new(deliveries));
        self.withdraw_old_target(now);
        self.tell_of_room();
        let writes = self.loaded.writes(self.arguments.id, lifetime, life, deliveries);
        let wakeups = self.wakeup_before_work().into_iter().collect();
        let every = self.arguments.context.config.snapshot_every_events;
        // Where order counts, the next delivery waits for the outcome of this one.
        let patient = !self.loaded.state.is_ordered() && events.iter().all(|event| self.may_wait(event));
        let mut append = Append { writes, wakeups, patient, ..Append::default() };
        if let Life::Deleted(_) = self.loaded.state.life {
            append.ended.push(execute::deliveries_stream(self.arguments.id));
            self.loaded.period = None;
            // In place of a larger one, which rests on what may now be dropped.
            append.snapshots.extend(self.snapshot(1));
        } else {
            append.snapshots.extend(self.snapshot(every));
        }
        self.send(me, append)
    }

    /// Whether nobody waits for the event: it is an outcome, or a delivery behind others that wait for a permit.
    fn may_wait(&self, event: &Event) -> bool {
        match event {
            Event::Delivery(DeliveryEvent::Scheduled(_)) => self.place.is_waiting(),
            Event::Delivery(_) | Event::Subscription(_) | Event::Tenant(_) | Event::Message(_) => is_outcome(event),
        }
    }

    /// Where everything of it stands.
    fn shard(&self) -> Result<u16, NeverCreated> {
        self.loaded.shard(self.arguments.context.log.shards()).ok_or(NeverCreated)
    }

    fn appended(&mut self, number: u64, result: Result<Appended, AppendError>) -> Result<(), ActorProcessingErr> {
        self.gate.open(number, result?);
        self.may_record = true;
        Ok(())
    }

    /// Starts what is due and durable as far as permits have come, asks for as many as the rest needs, and arms the
    /// timer for what is due later.
    fn start_due(&mut self) {
        let mut permits = std::mem::take(&mut self.permits);
        // What cannot be recorded now is not begun, and a change of the settings that is not durable is not acted on.
        if !self.may_record || !self.outbox.is_empty() || self.gate.life_version < self.loaded.life_version {
            return self.place.want(0);
        }
        let now = self.arguments.context.clock.now();
        let mut due = self.due(now);
        if !due.is_empty() && !self.set_target(now) {
            due.clear();
        }
        let later = due.split_off(due.len().min(permits.len()));
        // Those that are not used come back when all is said: before, they would only be granted again.
        let _unused = permits.split_off(due.len());
        if !due.is_empty() {
            self.pace(now);
        }
        self.start_attempts(due.into_iter().zip(permits));
        self.ask_for_permits(&later);
        self.arm(now);
    }

    /// What may be begun now, as many as the subscription may have under way.
    fn due(&self, now: Timestamp) -> Vec<(DeliveryId, Open)> {
        let durable = |open: &Open| open.version <= self.gate.deliveries_version;
        let due = self.loaded.state.due(now);
        let due = due.filter(|(delivery, open)| durable(open) && !self.in_flight.contains_key(delivery));
        due.take(self.may_begin(now)).map(|(delivery, open)| (delivery, *open)).collect()
    }

    /// How many more attempts may begin now. While the endpoint recovers they are few, and follow one another slowly.
    fn may_begin(&self, now: Timestamp) -> usize {
        let Allowance { concurrent, per_second } = self.loaded.state.circuit.allowance();
        let most = self.arguments.context.config.max_attempts_per_subscription;
        let most = self.in_order(concurrent.map_or(most, |concurrent| most.min(concurrent as usize)));
        let free = most.saturating_sub(self.in_flight.len());
        match per_second {
            None => free,
            Some(_) if self.begin_at > now => 0,
            Some(_) => free.min(1),
        }
    }

    /// When the next attempt may begin, now that one does.
    fn pace(&mut self, now: Timestamp) {
        if let Some(per_second @ 1..) = self.loaded.state.circuit.allowance().per_second {
            self.begin_at = now.plus_ms((1_000 / per_second).into());
        }
    }

    fn arm(&mut self, now: Timestamp) {
        // What is due already waits for its turn alone while the endpoint recovers.
        let paced = (self.begin_at > now && self.in_flight.is_empty()).then_some(self.begin_at);
        let again = self.look_again_at(now);
        let Some(due_at) = self.loaded.state.next_due_after(now).into_iter().chain(paced).chain(again).min() else {
            return;
        };
        if self.armed == Some(due_at) {
            return;
        }
        self.armed = Some(due_at);
        self.generation += 1;
        let message = RegionMessage::Arm { id: self.arguments.id, due_at, generation: self.generation };
        // A region that is gone takes its actors along.
        drop(self.arguments.region.cast(message));
    }
}

/// Whether it says how an attempt went, which nobody waits for.
fn is_outcome(event: &Event) -> bool {
    matches!(
        event,
        Event::Delivery(DeliveryEvent::Succeeded(_) | DeliveryEvent::AttemptFailed(_) | DeliveryEvent::Exhausted(_))
    )
}

/// Whether it ends a delivery.
fn is_end(event: &Event) -> bool {
    matches!(
        event,
        Event::Delivery(
            DeliveryEvent::Succeeded(_)
                | DeliveryEvent::Exhausted(_)
                | DeliveryEvent::Expired(_)
                | DeliveryEvent::Cancelled(_)
        )
    )
}
