//! Starts the system, restarts what dies, and ends it in order.

use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use futures_util::FutureExt;
use ractor::{Actor, ActorId, ActorProcessingErr, ActorRef, SpawnErr, SupervisionEvent};
use tokio::sync::{Notify, Semaphore, mpsc, watch};
use tokio::task::JoinHandle;

use super::dispatcher::Dispatcher;
use super::engine::Engine;
use super::janitor::{self, Retention};
use super::jobs::{self, Candidates};
use super::quarantine::Quarantine;
use super::region::{self, RegionActor, RegionMessage, Regions};
use super::{Config, Context, eraser, intake, matcher};
use crate::clock::Clock;
use crate::domain::id::SubscriptionId;
use crate::event_store::Log;
use crate::event_store::ReadError;
use crate::execute;
use crate::execute::vault::Vault;
use crate::outbound::{Gate, Transport};

/// Subscriptions whose state is read at a time: more keep no more connections busy, and would keep others waiting who
/// ask the log.
const LOADS_AT_A_TIME: usize = 64;
/// Wake-ups read at a time.
const PAGE: usize = 1_000;
/// How long attempts under way may go on after shutdown began, in milliseconds.
const GRACE_MS: u64 = 30_000;

/// The running system.
pub struct Running {
    /// The way to ask it.
    pub engine: Engine,
    context: Arc<Context>,
    regions: Regions,
    root: ActorRef<RootMessage>,
    intake: JoinHandle<()>,
    matchers: Vec<JoinHandle<()>>,
    janitor: JoinHandle<()>,
    eraser: JoinHandle<()>,
    /// Of the janitor and the eraser.
    stop_tasks: watch::Sender<bool>,
}

/// What the system asks beside its log.
pub struct Ports {
    /// Sends attempts.
    pub transport: Arc<dyn Transport>,
    /// Judges URLs.
    pub gate: Gate,
    /// Knows what jobs can be made of; without it no job goes on.
    pub candidates: Option<Arc<dyn Candidates>>,
}

/// Starts everything over an opened log. Returns once requests can be taken; work left from before is found and taken
/// up meanwhile.
pub async fn start(
    log: Log,
    clock: Arc<dyn Clock>,
    vault: Arc<Vault>,
    ports: Ports,
    config: Config,
    retention: Retention,
) -> Result<Running, SpawnErr> {
    let Ports { transport, gate, candidates } = ports;
    let (requests, queue) = mpsc::channel(config.intake_queue);
    let regions = Regions::new(config.regions);
    let dispatcher = Dispatcher::start(&config);
    let stopping = AtomicBool::new(false);
    let idempotency_key = vault.derived_key("tidings idempotency keys");
    let match_credits = Arc::new(Semaphore::new(config.match_credits as usize));
    let context = Arc::new(Context {
        log,
        clock,
        vault,
        transport,
        dispatcher,
        match_credits,
        candidates,
        loads: Semaphore::new(LOADS_AT_A_TIME),
        job_looks: Semaphore::new(jobs::LOOKS_AT_A_TIME),
        stopping,
        erasures: Notify::new(),
        idempotency_key,
        quarantine: Quarantine::default(),
        retention,
        config,
    });
    let arguments = region::Arguments { context: Arc::clone(&context), regions: regions.clone() };
    let (root, _) = RootActor::spawn(None, RootActor, arguments).await?;
    let intake = tokio::spawn(keep_taking_in(Arc::clone(&context), queue));
    let matcher = |shard| tokio::spawn(keep_matching(Arc::clone(&context), regions.clone(), shard));
    let matchers = (0..context.log.shards()).map(matcher).collect();
    let (stop_tasks, stop) = watch::channel(false);
    let janitor = tokio::spawn(keep_tidying(Arc::clone(&context), regions.clone(), requests.clone(), stop.clone()));
    let engine = Engine::new(Arc::clone(&context), regions.clone(), requests, gate);
    let eraser = tokio::spawn(keep_erasing(Arc::clone(&context), engine.clone(), stop));
    Ok(Running { engine, context, regions, root, intake, matchers, janitor, eraser, stop_tasks })
}

/// The intake's state is in the log as well: after a panic it begins again with what is queued. Who had no answer yet is
/// told that the outcome is unknown.
async fn keep_taking_in(context: Arc<Context>, mut queue: mpsc::Receiver<intake::Request>) {
    while AssertUnwindSafe(intake::run(Arc::clone(&context), &mut queue)).catch_unwind().await.is_err() {
        tracing::error!("intake panicked and begins again");
    }
}

/// The matcher has no state that its checkpoint does not have: after a panic it begins again.
async fn keep_matching(context: Arc<Context>, regions: Regions, shard: u16) {
    while AssertUnwindSafe(matcher::run(Arc::clone(&context), regions.clone(), shard)).catch_unwind().await.is_err() {
        tracing::error!(shard, "matcher panicked and begins again");
        tokio::time::sleep(Duration::from_secs(1)).await;
    }
}

/// The janitor remembers nothing that the log does not say: after a panic it begins again.
async fn keep_tidying(
    context: Arc<Context>,
    regions: Regions,
    intake: mpsc::Sender<intake::Request>,
    mut stop: watch::Receiver<bool>,
) {
    while AssertUnwindSafe(janitor::run(&context, &regions, &intake, &mut stop)).catch_unwind().await.is_err() {
        tracing::error!("the janitor panicked and begins again");
    }
}

/// The eraser finds what is under way in the log: after a panic it begins again.
async fn keep_erasing(context: Arc<Context>, engine: Engine, mut stop: watch::Receiver<bool>) {
    while AssertUnwindSafe(eraser::run(&context, &engine, &mut stop)).catch_unwind().await.is_err() {
        tracing::error!("the eraser panicked and begins again");
        tokio::time::sleep(Duration::from_secs(1)).await;
    }
}

impl Running {
    /// Ends the system: takes nothing new, lets attempts under way come to their end and be recorded, then stops. What
    /// is owed stays in the log.
    pub async fn stop(self) {
        let Self { engine, context, regions, root, intake, matchers, mut janitor, eraser, stop_tasks } = self;
        drop(engine);
        matchers.iter().for_each(JoinHandle::abort);
        context.stopping.store(true, Ordering::SeqCst);
        // The janitor ends behind its step, the eraser at once: it begins the step anew.
        stop_tasks.send_replace(true);
        let idle = context.dispatcher.stop();
        if tokio::time::timeout(Duration::from_millis(GRACE_MS), idle).await.is_err() {
            tracing::warn!("attempts were still under way after {GRACE_MS} ms; they will be sent again");
        }
        // Their outcomes are on their way through mailboxes: an actor that ends takes its own along.
        if tokio::time::timeout(Duration::from_millis(GRACE_MS), regions.flush()).await.is_err() {
            tracing::warn!("outcomes were still unrecorded after {GRACE_MS} ms; their attempts will be made again");
        }
        if tokio::time::timeout(Duration::from_millis(GRACE_MS), &mut janitor).await.is_err() {
            janitor.abort();
        }
        eraser.abort();
        intake.abort();
        root.stop(None);
        context.log.close().await;
    }
}

struct RootActor;

enum RootMessage {}

struct State {
    arguments: region::Arguments,
    children: Vec<(ActorId, usize)>,
}

impl Actor for RootActor {
    type Msg = RootMessage;
    type State = State;
    type Arguments = region::Arguments;

    async fn pre_start(
        &self,
        me: ActorRef<RootMessage>,
        arguments: region::Arguments,
    ) -> Result<State, ActorProcessingErr> {
        let mut state = State { arguments, children: vec![] };
        for index in 0..state.arguments.regions.count() {
            state.start_region(&me, index).await?;
        }
        state.recover(None);
        Ok(state)
    }

    async fn handle_supervisor_evt(
        &self,
        me: ActorRef<RootMessage>,
        event: SupervisionEvent,
        state: &mut State,
    ) -> Result<(), ActorProcessingErr> {
        if let SupervisionEvent::ActorFailed(actor, error) = &event {
            let id = actor.get_id();
            if let Some(found) = state.children.iter().position(|(child, _)| *child == id) {
                let (_, index) = state.children.swap_remove(found);
                tracing::error!(region = index, "region failed and is started anew: {error}");
                state.start_region(&me, index).await?;
                state.recover(Some(index));
            }
        }
        Ok(())
    }
}

impl State {
    async fn start_region(&mut self, me: &ActorRef<RootMessage>, index: usize) -> Result<(), SpawnErr> {
        let arguments =
            region::Arguments { context: Arc::clone(&self.arguments.context), regions: self.arguments.regions.clone() };
        let (actor, _) = RegionActor::spawn_linked(None, RegionActor, arguments, me.get_cell()).await?;
        self.children.push((actor.get_id(), index));
        self.arguments.regions.set(index, actor);
        Ok(())
    }

    /// Hands the wake-ups in the log to their regions, or to one of them.
    fn recover(&self, only: Option<usize>) {
        let region::Arguments { context, regions } = &self.arguments;
        let (context, regions) = (Arc::clone(context), regions.clone());
        tokio::spawn(async move {
            while let Err(error) = recover(&context, &regions, only).await {
                tracing::error!("wake-ups cannot be read: {error}");
                tokio::time::sleep(Duration::from_secs(1)).await;
            }
        });
    }
}

async fn recover(context: &Context, regions: &Regions, only: Option<usize>) -> Result<(), ReadError> {
    for shard in 0..context.log.shards() {
        recover_shard(context, regions, shard, only).await?;
    }
    Ok(())
}

async fn recover_shard(context: &Context, regions: &Regions, shard: u16, only: Option<usize>) -> Result<(), ReadError> {
    let mut after = None;
    loop {
        let page = context.log.wakeups(shard, after.as_ref(), PAGE).await?;
        let Some(last) = page.last() else { return Ok(()) };
        after = Some(last.clone());
        let mut by_region = vec![vec![]; regions.count()];
        for wakeup in page {
            match wakeup.key.parse::<SubscriptionId>() {
                Err(_) if execute::erasing_tenant(&wakeup.key).is_some() => {}
                Ok(id) => by_region[regions.index(id)].push((id, wakeup.due_at)),
                Err(error) => tracing::error!("a wake-up is ignored: {error}"),
            }
        }
        for (index, wakeups) in by_region.into_iter().enumerate() {
            if !wakeups.is_empty() && only.is_none_or(|only| only == index) {
                regions.cast(index, RegionMessage::Recovered(wakeups));
            }
        }
    }
}
