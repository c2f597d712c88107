//! What ractor does where it could surprise, and what we rely on. A new version must pass before it is taken.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use ractor::{Actor, ActorProcessingErr, ActorRef, ActorRuntime, ActorStatus, SupervisionEvent};
use tokio::sync::mpsc;

/// A child that counts what it handles.
struct Counter;

enum Count {
    One,
    Fail,
    /// Tells that it is being handled, and waits to go on.
    Wait(Arc<tokio::sync::Notify>),
}

impl Actor for Counter {
    type Msg = Count;
    type State = Arc<AtomicUsize>;
    /// `None` makes the start fail.
    type Arguments = Option<Arc<AtomicUsize>>;

    async fn pre_start(&self, _: ActorRef<Count>, counted: Self::Arguments) -> Result<Self::State, ActorProcessingErr> {
        Ok(counted.ok_or("the start fails")?)
    }

    async fn handle(
        &self,
        _: ActorRef<Count>,
        message: Count,
        counted: &mut Self::State,
    ) -> Result<(), ActorProcessingErr> {
        match message {
            Count::One => drop(counted.fetch_add(1, Ordering::SeqCst)),
            Count::Fail => return Err("as told".into()),
            Count::Wait(gate) => gate.notified().await,
        }
        Ok(())
    }
}

/// A supervisor that leaves supervision to the framework.
struct DefaultSupervisor;

impl Actor for DefaultSupervisor {
    type Msg = ();
    type State = ();
    type Arguments = ();

    async fn pre_start(&self, _: ActorRef<()>, (): ()) -> Result<(), ActorProcessingErr> {
        Ok(())
    }
}

/// A supervisor that tells of each event and does nothing else, as ours do.
struct TellingSupervisor;

impl Actor for TellingSupervisor {
    type Msg = ();
    type State = mpsc::UnboundedSender<&'static str>;
    type Arguments = mpsc::UnboundedSender<&'static str>;

    async fn pre_start(&self, _: ActorRef<()>, told: Self::Arguments) -> Result<Self::State, ActorProcessingErr> {
        Ok(told)
    }

    async fn handle_supervisor_evt(
        &self,
        _: ActorRef<()>,
        event: SupervisionEvent,
        told: &mut Self::State,
    ) -> Result<(), ActorProcessingErr> {
        let name = match event {
            SupervisionEvent::ActorStarted(_) => "started",
            SupervisionEvent::ActorTerminated(..) => "terminated",
            SupervisionEvent::ActorFailed(..) => "failed",
            SupervisionEvent::ProcessGroupChanged(_) => "group changed",
        };
        Ok(told.send(name)?)
    }
}

async fn telling_supervisor() -> (ActorRef<()>, mpsc::UnboundedReceiver<&'static str>) {
    let (told, events) = mpsc::unbounded_channel();
    let (supervisor, _) = TellingSupervisor::spawn(None, TellingSupervisor, told).await.unwrap();
    (supervisor, events)
}

async fn child_of(supervisor: &ActorRef<()>) -> (ActorRef<Count>, Arc<AtomicUsize>, tokio::task::JoinHandle<()>) {
    let counted = Arc::new(AtomicUsize::new(0));
    let arguments = Some(Arc::clone(&counted));
    let (child, ended) = Counter::spawn_linked(None, Counter, arguments, supervisor.get_cell()).await.unwrap();
    (child, counted, ended)
}

/// In paused time this passes once nothing else can happen.
async fn everything_settles() {
    tokio::time::sleep(Duration::from_secs(60)).await;
}

#[tokio::test(start_paused = true)]
async fn by_default_one_child_that_ends_takes_its_supervisor_and_siblings_along() {
    let (supervisor, _) = DefaultSupervisor::spawn(None, DefaultSupervisor, ()).await.unwrap();
    let (child, _, _) = child_of(&supervisor).await;
    let (sibling, _, _) = child_of(&supervisor).await;
    child.stop(None);
    everything_settles().await;
    assert_eq!([supervisor.get_status(), sibling.get_status()], [ActorStatus::Stopped; 2]);
}

#[tokio::test(start_paused = true)]
async fn a_handler_of_our_own_keeps_supervisor_and_siblings_alive() {
    let (supervisor, mut events) = telling_supervisor().await;
    let (leaving, _, _) = child_of(&supervisor).await;
    let (failing, _, _) = child_of(&supervisor).await;
    let (sibling, counted, _) = child_of(&supervisor).await;
    leaving.drain().unwrap();
    failing.cast(Count::Fail).unwrap();
    everything_settles().await;
    sibling.cast(Count::One).unwrap();
    everything_settles().await;
    assert_eq!(counted.load(Ordering::SeqCst), 1);
    let mut told = [(); 5].map(|()| events.try_recv().unwrap());
    told.sort_unstable();
    assert_eq!(told, ["failed", "started", "started", "started", "terminated"]);
}

#[tokio::test(start_paused = true)]
async fn stopping_discards_the_backlog_and_draining_handles_it() {
    for (drain, handled) in [(false, 0), (true, 100)] {
        let (supervisor, _events) = telling_supervisor().await;
        let (child, counted, ended) = child_of(&supervisor).await;
        let gate = Arc::new(tokio::sync::Notify::new());
        child.cast(Count::Wait(Arc::clone(&gate))).unwrap();
        (0..100).for_each(|_| child.cast(Count::One).unwrap());
        if drain {
            child.drain().unwrap();
            assert!(child.cast(Count::One).is_err(), "one that drains takes nothing more");
        } else {
            child.stop(None);
        }
        gate.notify_one();
        ended.await.unwrap();
        assert_eq!(counted.load(Ordering::SeqCst), handled);
    }
}

#[tokio::test(start_paused = true)]
async fn a_failing_handler_drops_what_waits_and_is_told_to_the_supervisor() {
    let (supervisor, mut events) = telling_supervisor().await;
    let (child, counted, ended) = child_of(&supervisor).await;
    child.cast(Count::Fail).unwrap();
    child.cast(Count::One).unwrap();
    ended.await.unwrap();
    everything_settles().await;
    assert_eq!(counted.load(Ordering::SeqCst), 0);
    assert_eq!([events.recv().await, events.recv().await], [Some("started"), Some("failed")]);
}

#[tokio::test(start_paused = true)]
async fn a_failing_instant_start_accepts_messages_and_only_its_handle_tells() {
    let (supervisor, mut events) = telling_supervisor().await;
    let spawned = ActorRuntime::spawn_linked_instant(None, Counter, None, supervisor.get_cell());
    let (child, started) = spawned.unwrap();
    assert!((0..10).all(|_| child.cast(Count::One).is_ok()));
    assert!(started.await.unwrap().is_err());
    everything_settles().await;
    assert!(events.try_recv().is_err());
    assert_eq!(supervisor.get_status(), ActorStatus::Running);
}

#[tokio::test(start_paused = true)]
async fn draining_one_that_has_not_begun_loses_what_it_was_sent_without_a_word() {
    let (supervisor, mut events) = telling_supervisor().await;
    let counted = Arc::new(AtomicUsize::new(0));
    let arguments = Some(Arc::clone(&counted));
    let spawned = ActorRuntime::spawn_linked_instant(None, Counter, arguments, supervisor.get_cell());
    let (child, _started) = spawned.unwrap();
    assert!((0..10).all(|_| child.cast(Count::One).is_ok()));
    child.drain().unwrap();
    everything_settles().await;
    assert_eq!(counted.load(Ordering::SeqCst), 0);
    assert!(events.try_recv().is_err());
}

#[tokio::test(start_paused = true)]
async fn an_instant_start_is_told_to_the_supervisor_and_keeps_what_came_before_it() {
    let (supervisor, mut events) = telling_supervisor().await;
    let counted = Arc::new(AtomicUsize::new(0));
    let arguments = Some(Arc::clone(&counted));
    let spawned = ActorRuntime::spawn_linked_instant(None, Counter, arguments, supervisor.get_cell());
    let (child, started) = spawned.unwrap();
    (0..10).for_each(|_| child.cast(Count::One).unwrap());
    started.await.unwrap().unwrap();
    everything_settles().await;
    assert_eq!(counted.load(Ordering::SeqCst), 10);
    assert_eq!(events.recv().await, Some("started"));
}

#[tokio::test(start_paused = true)]
async fn a_supervisor_that_ends_takes_its_children_and_their_backlog_along() {
    let (supervisor, _events) = telling_supervisor().await;
    let (child, counted, ended) = child_of(&supervisor).await;
    child.cast(Count::Wait(Arc::new(tokio::sync::Notify::new()))).unwrap();
    child.cast(Count::One).unwrap();
    everything_settles().await;
    supervisor.drain().unwrap();
    ended.await.unwrap();
    assert_eq!((child.get_status(), counted.load(Ordering::SeqCst)), (ActorStatus::Stopped, 0));
}
