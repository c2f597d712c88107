//! A region: which of its subscriptions are in memory, and who is to be woken when.
//!
//! A slot goes `Starting → Live → Leaving → (gone)`; a subscription whose start or handler fails goes to `Resting` and is
//! tried again after a delay that doubles. Only the region keeps references to subscriptions; everybody else names them.
//!
//! - A subscription leaves only from `Live`: draining an actor that has not begun loses what it was sent.
//! - Whatever is sent to one that is leaving waits in the slot and wakes it again.
//! - A child's end never ends the region: the framework's default would take every sibling along.

use std::collections::{BTreeMap, HashMap, HashSet, VecDeque};
use std::sync::{Arc, RwLock};
use std::time::Duration;

use ractor::{Actor, ActorId, ActorProcessingErr, ActorRef, ActorRuntime, SpawnErr, SupervisionEvent};
use tokio::sync::{mpsc, watch};

use super::Context;
use super::quarantine::Holder;
use super::subscription::{Arguments as SubscriptionArguments, SubscriptionActor, SubscriptionMessage};
use super::timers::{Generation, Timers};
use crate::domain::id::SubscriptionId;
use crate::domain::time::Timestamp;
use crate::execute::Unreadable;

/// Timers that one tick may take, so that a backlog after a restart does not block the mailbox.
const WAKES_PER_TICK: usize = 256;
/// Subscriptions whose state is loaded at a time because something of theirs is due: those behind them find the machine
/// as free as the first ones did, and whoever else asks the log need not wait behind all of them.
const WOKEN_AT_A_TIME: usize = 8;
/// The ticker looks at the wall clock at least this often, so that a step of the clock delays nothing for long.
const MAX_SLEEP_MS: u64 = 1_000;
/// First delay before a failed subscription is tried again; doubles up to the longest.
const FIRST_REST_MS: u64 = 1_000;
/// The longest for one that fell while it worked: mostly because the log could not be written, which all have in common.
const LONGEST_REST_MS: u64 = 30_000;
/// The longest for one that cannot be loaded: every try may read much.
const LONGEST_REST_UNLOADED_MS: u64 = 300_000;
/// One that has lived so long without a fault begins again with the first delay.
const HEALTHY_AFTER_MS: u64 = LONGEST_REST_UNLOADED_MS;

/// What a region is told.
pub(super) enum RegionMessage {
    /// Hand this to the subscription; wake it if need be.
    To(SubscriptionId, SubscriptionMessage),
    /// Wake the subscription at that time.
    Arm { id: SubscriptionId, due_at: Timestamp, generation: Generation },
    /// Wake-ups found in the log.
    Recovered(Vec<(SubscriptionId, Timestamp)>),
    /// Something may be due.
    Tick,
    /// Ask idle subscriptions to leave.
    Sweep,
    /// The subscription has nothing to do.
    MayLeave { id: SubscriptionId, actor: ActorId },
    /// The subscription could not be loaded.
    StartFailed { id: SubscriptionId, actor: ActorId, error: String, unreadable: Option<Unreadable> },
    /// Let go of this once everything that came before is durable.
    Flush(mpsc::Sender<()>),
}

/// The way to every subscription: finds its region. Cheap to clone.
#[derive(Clone)]
pub(super) struct Regions(Arc<RwLock<Vec<Option<ActorRef<RegionMessage>>>>>);

impl Regions {
    pub(super) fn new(count: u16) -> Self {
        Self(Arc::new(RwLock::new(vec![None; usize::from(count)])))
    }

    /// Sends to the subscription's region. While that is being restarted the message is dropped, and whatever credit
    /// or answer it carries tells its sender.
    pub(super) fn send(&self, id: SubscriptionId, message: SubscriptionMessage) {
        self.cast(self.index(id), RegionMessage::To(id, message));
    }

    pub(super) fn index(&self, id: SubscriptionId) -> usize {
        let count = self.read().len() as u128;
        ((id.to_bits() ^ (id.to_bits() >> 64)) % count) as usize
    }

    pub(super) fn cast(&self, index: usize, message: RegionMessage) {
        if let Some(region) = &self.read()[index] {
            drop(region.cast(message));
        }
    }

    /// Waits until everything that was sent to the subscriptions in memory is durable.
    pub(super) async fn flush(&self) {
        let (waiter, mut all) = mpsc::channel(1);
        for index in 0..self.count() {
            self.cast(index, RegionMessage::Flush(waiter.clone()));
        }
        drop(waiter);
        // Nothing is ever sent: this ends when the last one has let go.
        all.recv().await;
    }

    pub(super) fn set(&self, index: usize, region: ActorRef<RegionMessage>) {
        self.0.write().expect("no holder of this lock can panic")[index] = Some(region);
    }

    pub(super) fn count(&self) -> usize {
        self.read().len()
    }

    fn read(&self) -> std::sync::RwLockReadGuard<'_, Vec<Option<ActorRef<RegionMessage>>>> {
        self.0.read().expect("no holder of this lock can panic")
    }
}

pub(super) struct RegionActor;

pub(super) struct Arguments {
    pub(super) context: Arc<Context>,
    pub(super) regions: Regions,
}

pub(super) struct State {
    arguments: Arguments,
    slots: BTreeMap<SubscriptionId, Slot>,
    children: HashMap<ActorId, SubscriptionId>,
    timers: Timers,
    /// Those not in memory for whom something is due, the longest waiting first.
    to_wake: VecDeque<(SubscriptionId, Generation)>,
    /// Those of them who are being loaded.
    waking: HashSet<SubscriptionId>,
    /// Failures in a row of those that are resting, or have just been tried again.
    failures: HashMap<SubscriptionId, u32>,
    next_tick: watch::Sender<Option<Timestamp>>,
}

enum Slot {
    /// Its state is being loaded; it takes messages already.
    Starting(ActorRef<SubscriptionMessage>),
    Live {
        actor: ActorRef<SubscriptionMessage>,
        started_at: Timestamp,
        used_at: Timestamp,
    },
    /// It handles what it has; the rest waits here.
    Leaving(Vec<SubscriptionMessage>),
    /// It failed, and is left alone until then.
    Resting(Timestamp),
}

impl Actor for RegionActor {
    type Msg = RegionMessage;
    type State = State;
    type Arguments = Arguments;

    async fn pre_start(&self, me: ActorRef<RegionMessage>, arguments: Arguments) -> Result<State, ActorProcessingErr> {
        let (next_tick, ticks) = watch::channel(None);
        tokio::spawn(tick(Arc::clone(&arguments.context), me.clone(), ticks));
        me.send_interval(Duration::from_millis((arguments.context.config.idle_after_ms / 4).max(10)), || {
            RegionMessage::Sweep
        });
        Ok(State {
            arguments,
            slots: BTreeMap::new(),
            children: HashMap::new(),
            timers: Timers::default(),
            to_wake: VecDeque::new(),
            waking: HashSet::new(),
            failures: HashMap::new(),
            next_tick,
        })
    }

    async fn handle(
        &self,
        me: ActorRef<RegionMessage>,
        message: RegionMessage,
        state: &mut State,
    ) -> Result<(), ActorProcessingErr> {
        let answers_ticker = matches!(message, RegionMessage::Tick);
        match message {
            RegionMessage::To(id, message) => state.deliver(&me, id, message),
            RegionMessage::Arm { id, due_at, generation } => state.timers.arm(due_at, id, generation),
            RegionMessage::Recovered(wakeups) => {
                for (id, due_at) in wakeups {
                    state.timers.arm(due_at, id, 0);
                }
            }
            RegionMessage::Tick => state.wake_due(&me),
            RegionMessage::Sweep => state.sweep(),
            RegionMessage::MayLeave { id, actor } => state.leave(id, actor),
            RegionMessage::StartFailed { id, actor, error, unreadable } => {
                state.children.remove(&actor);
                state.failed(id, LONGEST_REST_UNLOADED_MS, &error, unreadable);
                state.wake_waiting(&me);
            }
            RegionMessage::Flush(waiter) => state.flush(&waiter),
        }
        state.tell_ticker(answers_ticker);
        Ok(())
    }

    async fn handle_supervisor_evt(
        &self,
        me: ActorRef<RegionMessage>,
        event: SupervisionEvent,
        state: &mut State,
    ) -> Result<(), ActorProcessingErr> {
        match event {
            SupervisionEvent::ActorStarted(actor) => {
                state.started(actor.get_id());
                state.wake_waiting(&me);
            }
            SupervisionEvent::ActorTerminated(actor, _, _) => {
                if let Some(id) = state.children.remove(&actor.get_id()) {
                    state.left(&me, id);
                }
            }
            SupervisionEvent::ActorFailed(actor, error) => {
                if let Some(id) = state.children.remove(&actor.get_id()) {
                    state.failed(id, LONGEST_REST_MS, &error.to_string(), None);
                }
            }
            SupervisionEvent::ProcessGroupChanged(_) => {}
        }
        state.tell_ticker(false);
        Ok(())
    }
}

impl State {
    /// Wakes the ticker if the deadline changed, or if it waits for an answer.
    fn tell_ticker(&self, answers: bool) {
        let next = self.timers.next();
        self.next_tick.send_if_modified(|told| std::mem::replace(told, next) != next || answers);
    }

    fn now(&self) -> Timestamp {
        self.arguments.context.clock.now()
    }

    fn deliver(&mut self, me: &ActorRef<RegionMessage>, id: SubscriptionId, message: SubscriptionMessage) {
        let now = self.now();
        match self.slots.get_mut(&id) {
            Some(Slot::Starting(actor)) => drop(actor.cast(message)),
            Some(Slot::Live { actor, used_at, .. }) => {
                if message.is_use() {
                    *used_at = now;
                }
                // An actor that has just died drops the message; its end is on its way to this region.
                drop(actor.cast(message));
            }
            Some(Slot::Leaving(waiting)) => waiting.push(message),
            // Dropping it tells the sender: a caller gets an error, the matcher casts it again later.
            Some(Slot::Resting(until)) if *until > now => {}
            Some(Slot::Resting(_)) | None => {
                if let Some(actor) = self.activate(me, id) {
                    drop(actor.cast(message));
                }
            }
        }
    }

    fn activate(&mut self, me: &ActorRef<RegionMessage>, id: SubscriptionId) -> Option<ActorRef<SubscriptionMessage>> {
        let arguments = SubscriptionArguments {
            context: Arc::clone(&self.arguments.context),
            regions: self.arguments.regions.clone(),
            region: me.clone(),
            id,
            after_failure: self.failures.contains_key(&id),
        };
        match ActorRuntime::spawn_linked_instant(None, SubscriptionActor, arguments, me.get_cell()) {
            Ok((actor, started)) => {
                let (region, actor_id) = (me.clone(), actor.get_id());
                self.children.insert(actor_id, id);
                self.slots.insert(id, Slot::Starting(actor.clone()));
                // A failing start sends no supervision event: only this handle knows.
                tokio::spawn(async move {
                    let (error, unreadable) = match started.await {
                        Ok(Ok(_)) => return,
                        Ok(Err(error)) => (error.to_string(), unreadable(&error)),
                        Err(error) => (error.to_string(), None),
                    };
                    drop(region.cast(RegionMessage::StartFailed { id, actor: actor_id, error, unreadable }));
                });
                Some(actor)
            }
            Err(error) => {
                self.failed(id, LONGEST_REST_UNLOADED_MS, &error.to_string(), None);
                None
            }
        }
    }

    fn started(&mut self, actor: ActorId) {
        let now = self.now();
        let Some(id) = self.children.get(&actor) else { return };
        self.waking.remove(id);
        if let Some(slot) = self.slots.get_mut(id)
            && let Slot::Starting(actor) = slot
        {
            *slot = Slot::Live { actor: actor.clone(), started_at: now, used_at: now };
            self.arguments.context.quarantine.release(Holder::Subscription(*id));
        }
    }

    fn failed(&mut self, id: SubscriptionId, longest_rest_ms: u64, error: &str, unreadable: Option<Unreadable>) {
        let now = self.now();
        self.waking.remove(&id);
        let failures = self.failures.entry(id).or_default();
        *failures += 1;
        let rest_ms = FIRST_REST_MS.saturating_mul(1 << (*failures - 1).min(16)).min(longest_rest_ms);
        let until = now.plus_ms(rest_ms);
        match unreadable {
            Some(event) => {
                self.arguments.context.quarantine.hold(Holder::Subscription(id), &event, now, Some(until));
            }
            None => {
                tracing::error!(subscription.id = %id, failures, rest_ms, "subscription failed and rests: {error}");
            }
        }
        self.slots.insert(id, Slot::Resting(until));
        // What it owed is due again after the rest, without anybody having to ask.
        self.timers.arm(until, id, 0);
    }

    fn wake_due(&mut self, me: &ActorRef<RegionMessage>) {
        let now = self.now();
        for _ in 0..WAKES_PER_TICK {
            let Some((id, generation)) = self.timers.pop_due(now) else { break };
            match self.slots.get(&id) {
                // Counts as use: one that has just said that it may leave must not go with an attempt under way.
                Some(Slot::Starting(_) | Slot::Live { .. } | Slot::Leaving(_)) => {
                    self.deliver(me, id, SubscriptionMessage::Due(generation));
                }
                Some(Slot::Resting(until)) if *until > now => {}
                Some(Slot::Resting(_)) | None => self.to_wake.push_back((id, generation)),
            }
        }
        self.wake_waiting(me);
    }

    /// Loads some of those for whom something is due.
    fn wake_waiting(&mut self, me: &ActorRef<RegionMessage>) {
        let now = self.now();
        while self.waking.len() < WOKEN_AT_A_TIME
            && let Some((id, generation)) = self.to_wake.pop_front()
        {
            match self.slots.get(&id) {
                // Woken by something else meanwhile.
                Some(Slot::Starting(_) | Slot::Live { .. } | Slot::Leaving(_)) => {
                    self.deliver(me, id, SubscriptionMessage::Due(generation));
                }
                Some(Slot::Resting(until)) if *until > now => {}
                // A start finds by itself what is due.
                Some(Slot::Resting(_)) | None => {
                    if self.activate(me, id).is_some() {
                        self.waking.insert(id);
                    }
                }
            }
        }
    }

    fn flush(&self, waiter: &mpsc::Sender<()>) {
        for slot in self.slots.values() {
            match slot {
                Slot::Starting(actor) | Slot::Live { actor, .. } => {
                    drop(actor.cast(SubscriptionMessage::Flush(waiter.clone())));
                }
                // One that leaves has nothing under way, and one that rests has lost it already.
                Slot::Leaving(_) | Slot::Resting(_) => {}
            }
        }
    }

    fn sweep(&mut self) {
        let now = self.now();
        let idle_after_ms = self.arguments.context.config.idle_after_ms;
        for (id, slot) in &self.slots {
            let Slot::Live { actor, started_at, used_at } = slot else { continue };
            if now.ms_since(*started_at) >= HEALTHY_AFTER_MS {
                self.failures.remove(id);
            }
            if now.ms_since(*used_at) >= idle_after_ms {
                drop(actor.cast(SubscriptionMessage::Rest));
            }
        }
    }

    fn leave(&mut self, id: SubscriptionId, leaving: ActorId) {
        let now = self.now();
        let idle_after_ms = self.arguments.context.config.idle_after_ms;
        if let Some(slot) = self.slots.get_mut(&id)
            && let Slot::Live { actor, used_at, .. } = slot
            && actor.get_id() == leaving
            && now.ms_since(*used_at) >= idle_after_ms
            && actor.drain().is_ok()
        {
            *slot = Slot::Leaving(Vec::new());
        }
    }

    fn left(&mut self, me: &ActorRef<RegionMessage>, id: SubscriptionId) {
        if let Some(Slot::Leaving(waiting)) = self.slots.remove(&id) {
            self.failures.remove(&id);
            for message in waiting {
                self.deliver(me, id, message);
            }
        }
    }
}

/// The event that kept a subscription from being loaded, if it was that.
fn unreadable(error: &SpawnErr) -> Option<Unreadable> {
    std::error::Error::source(error)?.downcast_ref().and_then(Unreadable::of_load)
}

/// Casts a tick whenever the earliest timer is due. Ends with the region.
async fn tick(context: Arc<Context>, region: ActorRef<RegionMessage>, mut next: watch::Receiver<Option<Timestamp>>) {
    loop {
        let due_at = *next.borrow_and_update();
        // One reading for a turn: the clock may come to the time between two.
        let now = context.clock.now();
        let sleep_ms = due_at.map_or(MAX_SLEEP_MS, |due_at| due_at.ms_since(now).min(MAX_SLEEP_MS));
        if sleep_ms == 0 {
            // The region answers a tick with a new deadline; without waiting for it the loop would spin.
            if region.cast(RegionMessage::Tick).is_err() || next.changed().await.is_err() {
                return;
            }
            continue;
        }
        tokio::select! {
            biased;
            changed = next.changed() => {
                if changed.is_err() {
                    return;
                }
            }
            () = tokio::time::sleep(Duration::from_millis(sleep_ms)) => {}
        }
    }
}
