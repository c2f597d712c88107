//! One runner for each projection: it follows the log and folds what concerns its projection.
//!
//! - Rows and checkpoint are one transaction, and the checkpoint is moved only from where this runner left it: of two
//!   runners one rolls back and stops.
//! - A failure stops one projection, in front of the event that it fails at; the others go on. It tries again, less
//!   and less often.
//! - Events that concern nobody are passed without a write, so a checkpoint may stand before events that are applied.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use futures_util::future::join_all;
use sqlx::SqliteConnection;
use tokio::sync::watch;
use tokio::task::{JoinHandle, JoinSet};
use tokio::time::{Instant, timeout, timeout_at};
use tracing::error;

use super::columns::{Columns, bytes, integer};
use super::database::Write;
use super::{Inner, SHARD, audit, deliveries, messages, tenants, webhooks};
use crate::codec::{self, DecodeError};
use crate::domain::event::Event;
use crate::domain::id::EventId;
use crate::event_store::{Log, Position, ReadError, Recorded};

/// Events read at a time: the most that one transaction holds.
const BATCH: usize = 512;
/// A runner that keeps up begins a transaction at most this often: events that come meanwhile are folded together,
/// and most deliveries begin and end within one.
const PACE: Duration = Duration::from_millis(10);
/// The checkpoint is saved at the latest after so many events that concern nobody.
const SAVE_EVERY: u64 = 16_384;
/// After the first failure.
const FIRST_RETRY_AFTER: Duration = Duration::from_millis(100);
/// After many failures.
const LAST_RETRY_AFTER: Duration = Duration::from_secs(30);

/// The projections, by the names under which their checkpoints are saved.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Name {
    /// Tenants, their API keys and event types.
    Tenants,
    /// Subscriptions that are not deleted.
    Webhooks,
    /// Messages.
    Messages,
    /// Deliveries and their attempts.
    Deliveries,
    /// The audit log.
    Audit,
}

impl Name {
    /// Every projection.
    pub const ALL: [Self; 5] = [Self::Tenants, Self::Webhooks, Self::Messages, Self::Deliveries, Self::Audit];

    /// The name as logs and metrics show it.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Tenants => "tenants",
            Self::Webhooks => "webhooks",
            Self::Messages => "messages",
            Self::Deliveries => "deliveries",
            Self::Audit => "audit",
        }
    }

    pub(super) fn projection(self) -> Box<dyn Projection> {
        match self {
            Self::Tenants => Box::new(tenants::Tenants),
            Self::Webhooks => Box::new(webhooks::Webhooks),
            Self::Messages => Box::new(messages::Messages),
            Self::Deliveries => Box::new(deliveries::Deliveries::new()),
            Self::Audit => Box::new(audit::Audit::new()),
        }
    }
}

/// What folds events into rows.
#[async_trait]
pub(super) trait Projection: Send {
    /// Whether events of this type concern it. Asks for families of types rather than for types, so that a type which
    /// this program does not know stops the projection instead of being passed over.
    fn concerns(&self, kind: &str) -> bool;

    /// Writes what the events, which all concern it, change. The caller begins and ends the transaction. May keep
    /// nothing in memory but what the log says and no later event changes: the transaction may be rolled back.
    async fn apply(
        &mut self,
        connection: &mut SqliteConnection,
        log: &Log,
        events: &[Arc<Recorded>],
    ) -> Result<(), ApplyError>;

    /// Those of the events that concern it.
    fn concerning(&self, events: &[Arc<Recorded>]) -> Vec<Arc<Recorded>> {
        events.iter().filter(|event| self.concerns(&event.kind)).map(Arc::clone).collect()
    }
}

/// Why events were not applied.
#[derive(Debug, thiserror::Error)]
pub(super) enum ApplyError {
    /// This event cannot be; it will fail again.
    #[error("the event '{kind}' at {position} cannot be applied: {reason}")]
    Event { position: Position, kind: String, reason: String },
    /// The log cannot be read.
    #[error(transparent)]
    Log(#[from] ReadError),
    /// SQLite failed.
    #[error("the read models cannot be written")]
    Database(#[from] sqlx::Error),
    /// Another runner moved the checkpoint.
    #[error("another runner follows the log for the same projection")]
    Overtaken,
}

impl ApplyError {
    pub(super) fn event(recorded: &Recorded, reason: impl ToString) -> Self {
        Self::Event { position: recorded.position, kind: recorded.kind.to_string(), reason: reason.to_string() }
    }

    /// With its cause, for those who see nothing but a text.
    pub(super) fn describe(&self) -> String {
        match std::error::Error::source(self) {
            Some(source) => format!("{self}: {source}"),
            None => self.to_string(),
        }
    }
}

/// Reads an event, or says which one cannot be read.
pub(super) fn decode(recorded: &Recorded) -> Result<Event, ApplyError> {
    codec::decode(recorded).map_err(|error| match error {
        DecodeError::Damaged { reason, .. } => ApplyError::event(recorded, reason),
        DecodeError::UnknownType { schema, .. } => ApplyError::event(recorded, format!("version {schema} is unknown")),
    })
}

/// A projection that stopped; it tries again by itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Stopped {
    /// Which.
    pub projection: Name,
    /// What it was about to apply.
    pub position: Position,
    /// Why it stopped; names the event's type where an event is the cause.
    pub reason: String,
}

/// How far a projection is, for those who wait.
#[derive(Clone, Debug, Default)]
pub(super) struct Progress {
    pub(super) applied: u64,
    pub(super) stopped: Option<Stopped>,
    /// It stopped at an event, at which it will stop again: waiting for it is in vain.
    pub(super) stuck: bool,
}

/// Tasks that keep the read models up to date, until this is dropped.
#[derive(Debug)]
pub struct Followers {
    stop: watch::Sender<bool>,
    task: JoinHandle<()>,
}

impl Followers {
    pub(super) fn start(inner: Arc<Inner>, log: Log) -> Self {
        let (stop, stopping) = watch::channel(false);
        Self { stop, task: tokio::spawn(follow(inner, log, stopping)) }
    }

    /// Lets each runner finish its transaction, and returns when all have ended.
    pub async fn stop(mut self) {
        self.stop.send_replace(true);
        if let Err(error) = (&mut self.task).await {
            error!("the followers of the log ended with a panic: {error}");
        }
    }
}

impl Drop for Followers {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// Runs all projections; their tasks end with this one.
async fn follow(inner: Arc<Inner>, log: Log, mut stopping: watch::Receiver<bool>) {
    let mut pause = Pause::default();
    while let Err(error) = inner.forget_another_log(&log).await {
        error!(error = &error as &dyn std::error::Error, "the read models cannot be compared with the log");
        if pause.wait(&mut stopping).await {
            return;
        }
    }
    let runners = Name::ALL.map(|name| keep_running(name, Arc::clone(&inner), log.clone(), stopping.clone()));
    join_all(runners).await;
}

/// A runner that panics is started again.
async fn keep_running(name: Name, inner: Arc<Inner>, log: Log, mut stopping: watch::Receiver<bool>) {
    let mut pause = Pause::default();
    loop {
        // Ends its task when this future is dropped.
        let mut task = JoinSet::new();
        task.spawn(Runner::new(name, Arc::clone(&inner), log.clone()).run(stopping.clone()));
        let Some(Err(panic)) = task.join_next().await else { return };
        error!(projection = name.as_str(), "a runner ended with a panic and is started again: {panic}");
        if pause.wait(&mut stopping).await {
            return;
        }
    }
}

/// Longer and longer between tries that fail.
struct Pause(Duration);

impl Default for Pause {
    fn default() -> Self {
        Self(FIRST_RETRY_AFTER)
    }
}

impl Pause {
    /// Whether it was ended by a wish to stop.
    async fn wait(&mut self, stopping: &mut watch::Receiver<bool>) -> bool {
        let pause = self.0;
        self.0 = (pause * 2).min(LAST_RETRY_AFTER);
        timeout(pause, stopped(stopping)).await.is_ok()
    }
}

/// Returns when the runners are to stop.
async fn stopped(stopping: &mut watch::Receiver<bool>) {
    // An error means that nobody is left who could wish it.
    drop(stopping.wait_for(|stop| *stop).await);
}

struct Runner {
    name: Name,
    inner: Arc<Inner>,
    log: Log,
    projection: Box<dyn Projection>,
    /// Everything up to here is applied.
    applied: u64,
    /// What the checkpoint says.
    saved: u64,
}

impl Runner {
    fn new(name: Name, inner: Arc<Inner>, log: Log) -> Self {
        Self { name, inner, log, projection: name.projection(), applied: 0, saved: 0 }
    }

    async fn run(mut self, mut stopping: watch::Receiver<bool>) {
        let mut pause = Pause::default();
        while let Err(failure) = self.follow(&mut stopping, &mut pause).await {
            self.report(&failure);
            if matches!(failure, ApplyError::Overtaken) || pause.wait(&mut stopping).await {
                return;
            }
        }
    }

    /// Goes on from the checkpoint until it is to stop.
    async fn follow(&mut self, stopping: &mut watch::Receiver<bool>, pause: &mut Pause) -> Result<(), ApplyError> {
        self.saved = checkpoint(&self.inner, self.name).await?.0;
        self.applied = self.saved;
        let mut head = self.log.watch(SHARD);
        loop {
            let applied = self.applied;
            let moved = async { head.wait_for(|head| *head > applied).await.is_ok() };
            tokio::select! {
                biased;
                () = stopped(stopping) => return Ok(()),
                alive = moved => if !alive { return Ok(()) },
            }
            let began = Instant::now();
            let events = self.log.read_log(Position { shard: SHARD, seq: self.applied }, BATCH).await?;
            self.apply_up_to_failure(&events).await?;
            *pause = Pause::default();
            if events.len() < BATCH {
                // Either way the loop goes on, and sees a wish to stop first.
                let _ = timeout_at(began + PACE, stopped(stopping)).await;
            }
        }
    }

    /// Whatever stands before an event that cannot be applied is applied: the checkpoint then stands in front of it.
    async fn apply_up_to_failure(&mut self, events: &[Arc<Recorded>]) -> Result<(), ApplyError> {
        match self.apply(events).await {
            Err(ApplyError::Event { position, .. }) if position.seq > self.applied + 1 => {
                let before = events.iter().take_while(|event| event.position < position).count();
                self.apply(&events[..before]).await
            }
            result => result,
        }
    }

    async fn apply(&mut self, events: &[Arc<Recorded>]) -> Result<(), ApplyError> {
        let Some(last) = events.last() else { return Ok(()) };
        let concerning = self.projection.concerning(events);
        if !concerning.is_empty() || last.position.seq - self.saved >= SAVE_EVERY {
            self.commit(&concerning, last).await?;
            self.saved = last.position.seq;
        }
        self.applied = last.position.seq;
        self.inner.progress(self.name).send_modify(|progress| {
            progress.applied = progress.applied.max(self.applied);
            progress.stopped = None;
            progress.stuck = false;
        });
        Ok(())
    }

    async fn commit(&mut self, concerning: &[Arc<Recorded>], last: &Recorded) -> Result<(), ApplyError> {
        let inner = Arc::clone(&self.inner);
        let mut write = inner.database.begin().await?;
        match self.write(&mut write, concerning, last).await {
            Ok(()) => Ok(write.commit().await?),
            Err(failure) => {
                write.abandon().await;
                Err(failure)
            }
        }
    }

    async fn write(
        &mut self,
        write: &mut Write<'_>,
        concerning: &[Arc<Recorded>],
        last: &Recorded,
    ) -> Result<(), ApplyError> {
        // First, so that a runner that was overtaken fails for that reason, not at rows that are there already.
        move_checkpoint(write.connection(), self.name, self.saved, last).await?;
        if !concerning.is_empty() {
            self.projection.apply(write.connection(), &self.log, concerning).await?;
        }
        Ok(())
    }

    fn report(&self, failure: &ApplyError) {
        let projection = self.name.as_str();
        let position = match failure {
            ApplyError::Event { position, .. } => *position,
            ApplyError::Log(_) | ApplyError::Database(_) | ApplyError::Overtaken => {
                Position { shard: SHARD, seq: self.applied + 1 }
            }
        };
        let error = failure as &dyn std::error::Error;
        error!(projection, %position, error, "projection '{projection}' stopped: {failure}");
        let stopped = Stopped { projection: self.name, position, reason: failure.describe() };
        self.inner.progress(self.name).send_modify(|progress| {
            progress.stopped = Some(stopped);
            progress.stuck = matches!(failure, ApplyError::Event { .. });
        });
    }
}

/// Where the projection's checkpoint stands, and the event there.
pub(super) async fn checkpoint(inner: &Inner, name: Name) -> Result<(u64, Option<EventId>), sqlx::Error> {
    let query = sqlx::query("SELECT seq, event_id FROM checkpoint WHERE projection = $1").bind(name.as_str());
    let row = query.fetch_one(&inner.database.readers).await?;
    let mut columns = Columns::of(&row);
    Ok((columns.number()?, columns.optional_id()?))
}

/// Moves the checkpoint, in the transaction of the rows.
pub(super) async fn move_checkpoint(
    connection: &mut SqliteConnection,
    name: Name,
    from: u64,
    to: &Recorded,
) -> Result<(), ApplyError> {
    let query = sqlx::query("UPDATE checkpoint SET seq = $3, event_id = $4 WHERE projection = $1 AND seq = $2");
    let query = query.bind(name.as_str()).bind(integer(from)).bind(integer(to.position.seq)).bind(bytes(to.id));
    match query.execute(connection).await?.rows_affected() {
        0 => Err(ApplyError::Overtaken),
        _ => Ok(()),
    }
}
