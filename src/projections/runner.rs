//! One runner for each projection: it follows all shards of the log and folds what concerns its projection.
//!
//! - Rows and checkpoints are one transaction, and a checkpoint is moved only from where this runner left it: of two
//!   runners one rolls back, and goes on from where the other one stands.
//! - Shards that have something new are folded together, in one transaction, however many they are; a shard without
//!   anything new costs a comparison of two numbers.
//! - A failure stops one projection in one shard, in front of the event that it fails at; its other shards and the
//!   other projections go on. It tries again, less and less often. What may pass by itself, such as a log that cannot be
//!   read, is tried again at once a few times before it counts as that.
//! - An event that cannot be read is no failure: its stream is left out, and tried again from time to time (`held`).
//! - When the log's floor rises, what was made below it goes, once the runner is past it.
//! - Events that concern nobody are passed without a write, so a checkpoint may stand before events that are applied.

use std::sync::Arc;
use std::time::Duration;

use futures_util::future::{BoxFuture, join_all};
use futures_util::stream::FuturesUnordered;
use futures_util::{FutureExt, StreamExt};
use sqlx::SqliteConnection;
use tokio::sync::watch;
use tokio::task::{JoinHandle, JoinSet};
use tokio::time::{Instant, sleep_until, timeout, timeout_at};
use tracing::{error, info, warn};

use super::checkpoint::Checkpoint;
use super::database::Write;
use super::entry::{self, Entry};
use super::held::{self, Held};
use super::progress::Stopped;
use super::projection::{ApplyError, Name, Projection, Source};
use super::{Inner, catch_up, checkpoint, fold, retention, stops};
use crate::event_store::{Log, Position, ReadError, StreamName};

/// Events read at a time: the most that one transaction holds.
const BATCH: usize = 512;
/// A runner that keeps up begins a transaction at most this often: events that come meanwhile are folded together,
/// and most deliveries begin and end within one.
const PACE: Duration = Duration::from_millis(10);
/// The same where much comes: a transaction writes every page that it touches, however many rows are on it.
const BUSY_PACE: Duration = Duration::from_millis(40);
/// Much are so many events in a transaction.
const BUSY_EVENTS: usize = 32;
/// A checkpoint is saved at the latest after so many events that concern nobody.
const SAVE_EVERY: u64 = 16_384;
/// Failures that may pass by themselves count from the next one on.
const QUICK_RETRIES: u32 = 3;
/// Events behind the head from which on a runner says so.
const LAG_EVENTS: u64 = 50_000;
/// How often an idle runner looks whether the floor has risen: dropping a bucket moves no head.
const LOOK_AT_FLOOR_EVERY: Duration = Duration::from_secs(10);
/// How often streams that are left out are tried again.
const TRY_HELD_EVERY: Duration = Duration::from_secs(30);
/// After the first failure.
const FIRST_RETRY_AFTER: Duration = Duration::from_millis(100);
/// After many failures.
const LAST_RETRY_AFTER: Duration = Duration::from_secs(30);

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
    let mut failures = 0;
    while let Err(error) = inner.adopt(&log).await {
        error!(error = &error as &dyn std::error::Error, "the read models cannot be compared with the log");
        failures += 1;
        if pause(failures, &mut stopping).await {
            return;
        }
    }
    let runners = Name::ALL.map(|name| keep_running(name, Arc::clone(&inner), log.clone(), stopping.clone()));
    join_all(runners).await;
}

/// A runner that panics is started again.
async fn keep_running(name: Name, inner: Arc<Inner>, log: Log, mut stopping: watch::Receiver<bool>) {
    let mut failures = 0;
    loop {
        // Ends its task when this future is dropped.
        let mut task = JoinSet::new();
        task.spawn(Runner::new(name, Arc::clone(&inner), log.clone()).run(stopping.clone()));
        let Some(Err(panic)) = task.join_next().await else { return };
        error!(projection = name.as_str(), "a runner ended with a panic and is started again: {panic}");
        failures += 1;
        if pause(failures, &mut stopping).await {
            return;
        }
    }
}

/// Longer and longer after each failure.
fn retry_after(failures: u32) -> Duration {
    FIRST_RETRY_AFTER.saturating_mul(1 << failures.saturating_sub(1).min(16)).min(LAST_RETRY_AFTER)
}

/// Waits after a failure; whether that was ended by a wish to stop.
async fn pause(failures: u32, stopping: &mut watch::Receiver<bool>) -> bool {
    timeout(retry_after(failures), stopped(stopping)).await.is_ok()
}

/// Returns when the runners are to stop.
async fn stopped(stopping: &mut watch::Receiver<bool>) {
    // An error means that nobody is left who could wish it.
    drop(stopping.wait_for(|stop| *stop).await);
}

/// Where a runner is in one shard.
#[derive(Default)]
struct Place {
    /// Everything up to here is applied.
    applied: u64,
    /// What the checkpoint says.
    saved: u64,
    /// Failures since something was applied.
    failures: u32,
    /// After a failure: not before.
    rests_until: Option<Instant>,
    /// Up to here the projection has forgotten what the log dropped.
    floor: u64,
    /// Whether it was said that it is far behind.
    lags: bool,
}

/// What stands at the next places of one shard.
struct Part {
    entries: Vec<Entry>,
    /// Whether any of it concerns the projection.
    concerns: bool,
}

impl Part {
    fn last(&self) -> Position {
        self.entries.last().expect("parts are made of at least one entry").position()
    }

    fn shard(&self) -> u16 {
        self.last().shard
    }
}

/// A failure, and in which shard; `None` if it hinders all.
type Failure = (Option<u16>, ApplyError);

struct Runner {
    name: Name,
    inner: Arc<Inner>,
    log: Log,
    projection: Box<dyn Projection>,
    /// By shard.
    places: Vec<Place>,
    /// Where the next round begins to look: a round that is full of one shard's events begins with another's.
    first: usize,
    /// The stream that is left out and was tried last, since all were.
    tried: Option<(u16, StreamName)>,
    /// Streams that are left out are not tried before.
    try_at: Instant,
}

impl Runner {
    fn new(name: Name, inner: Arc<Inner>, log: Log) -> Self {
        let places = (0..log.shards()).map(|_| Place::default()).collect();
        Self { name, inner, log, projection: name.projection(), places, first: 0, tried: None, try_at: Instant::now() }
    }

    /// Follows the log until it is to stop, or until the log is gone.
    async fn run(mut self, mut stopping: watch::Receiver<bool>) {
        let mut heads = Heads::of(&self.log);
        self.reload(&mut stopping).await;
        while !*stopping.borrow() {
            let began = Instant::now();
            let round = self.next_round().await;
            let forgets = self.forget_some().await;
            let tries = self.catch_up_some(&mut stopping).await;
            if round.is_empty() {
                if forgets || tries {
                    continue;
                }
                let rested = self.places.iter().filter_map(|place| place.rests_until).min();
                let look = began + LOOK_AT_FLOOR_EVERY;
                tokio::select! {
                    biased;
                    () = stopped(&mut stopping) => return,
                    moved = heads.moved() => if !moved { return },
                    () = sleep_until(rested.map_or(look, |rested| rested.min(look))) => {}
                }
                continue;
            }
            let size: usize = round.iter().map(|part| part.entries.len()).sum();
            if let Err((shard, failure)) = self.apply(&round).await {
                self.fail(shard, failure, round, &mut stopping).await;
            }
            if size < BATCH {
                let pace = if size < BUSY_EVENTS { PACE } else { BUSY_PACE };
                // Either way the loop goes on, and sees a wish to stop first.
                let _ = timeout_at(began + pace, stopped(&mut stopping)).await;
            }
        }
    }

    /// Goes on from the checkpoints, wherever they stand.
    async fn reload(&mut self, stopping: &mut watch::Receiver<bool>) {
        let mut failures = 0;
        loop {
            match checkpoints(&self.inner, self.name, self.log.shards()).await {
                Ok(checkpoints) => {
                    let mut moved = Vec::new();
                    for ((shard, place), saved) in (0..).zip(&mut self.places).zip(checkpoints) {
                        place.floor = saved.floor;
                        if place.saved != saved.seq {
                            let floor = saved.floor;
                            *place = Place { applied: saved.seq, saved: saved.seq, floor, ..Place::default() };
                            moved.push(Position { shard, seq: saved.seq });
                        }
                    }
                    self.inner.progress.advance(self.name, moved.into_iter());
                    return;
                }
                Err(error) => {
                    failures += 1;
                    let failure = ApplyError::Database(error);
                    (0..self.log.shards()).for_each(|shard| drop(self.report(shard, &failure)));
                    if pause(failures, stopping).await {
                        return;
                    }
                }
            }
        }
    }

    /// What is new, as much as one transaction holds.
    async fn next_round(&mut self) -> Vec<Part> {
        let (shards, now) = (self.places.len(), Instant::now());
        let (mut room, mut round) = (BATCH, Vec::new());
        for index in (self.first..shards).chain(0..self.first) {
            let Ok(shard) = u16::try_from(index) else { break };
            let place = &mut self.places[index];
            if place.rests_until.is_some_and(|rested| rested > now) {
                continue;
            }
            place.rests_until = None;
            if self.log.head(shard) <= place.applied {
                continue;
            }
            match next_entries(&self.log, Position { shard, seq: place.applied }, room).await {
                // Whatever was up to the floor is gone.
                Ok(entries) if entries.is_empty() => {
                    place.applied = place.applied.max(self.log.floor(shard).min(self.log.head(shard)));
                    let reached = Position { shard, seq: place.applied };
                    self.inner.progress.advance(self.name, std::iter::once(reached));
                }
                Ok(entries) => {
                    room -= entries.len();
                    round.push(self.part(entries));
                }
                Err(error) => self.rest(shard, &ApplyError::Log(error)).await,
            }
            if room == 0 {
                self.first = (index + 1) % shards;
                break;
            }
        }
        round
    }

    /// All of the round or nothing of it.
    async fn apply(&mut self, round: &[Part]) -> Result<(), Failure> {
        let due = |part: &&Part| {
            let unsaved = part.last().seq - self.places[usize::from(part.shard())].saved;
            part.concerns || unsaved >= SAVE_EVERY
        };
        let due: Vec<&Part> = round.iter().filter(due).collect();
        if !due.is_empty() {
            self.commit(&due).await?.iter().for_each(Held::report);
        }
        for part in &due {
            self.places[usize::from(part.shard())].saved = part.last().seq;
        }
        for part in round {
            let place = &mut self.places[usize::from(part.shard())];
            place.applied = part.last().seq;
            let lag = self.log.head(part.shard()).saturating_sub(place.applied);
            if (lag > LAG_EVENTS) != place.lags {
                place.lags = lag > LAG_EVENTS;
                let (projection, shard) = (self.name.as_str(), part.shard());
                match place.lags {
                    true => warn!(projection, shard, lag.events = lag, "projection '{projection}' is far behind"),
                    false => info!(projection, shard, lag.events = lag, "projection '{projection}' has caught up"),
                }
            }
        }
        for part in round {
            self.go_on(part.shard()).await;
        }
        self.inner.progress.advance(self.name, round.iter().map(Part::last));
        Ok(())
    }

    /// Answers with what is left out from here on.
    async fn commit(&mut self, parts: &[&Part]) -> Result<Vec<Held>, Failure> {
        let inner = Arc::clone(&self.inner);
        let mut write = inner.database.begin().await.map_err(|error| (None, error.into()))?;
        let mut held = Vec::new();
        for part in parts {
            match self.write(&mut write, part).await {
                Ok(more) => held.extend(more),
                Err(failure) => {
                    write.abandon().await;
                    return Err((Some(part.shard()), failure));
                }
            }
        }
        write.commit().await.map_err(|error| (None, error.into()))?;
        Ok(held)
    }

    async fn write(&mut self, write: &mut Write<'_>, part: &Part) -> Result<Vec<Held>, ApplyError> {
        let saved = self.places[usize::from(part.shard())].saved;
        let source = Source { reader: self.log.reader(), floor: self.log.floor(part.shard()) };
        fold::apply_part(write.connection(), source, self.name, saved, &mut *self.projection, &part.entries).await
    }

    fn part(&self, entries: Vec<Entry>) -> Part {
        let concerns = entries.iter().any(|entry| self.projection.is_concerned(entry));
        Part { entries, concerns }
    }

    /// Takes one step with a stream that is left out, when it is time to. Whether there may be another.
    async fn catch_up_some(&mut self, stopping: &mut watch::Receiver<bool>) -> bool {
        if self.try_at > Instant::now() {
            return false;
        }
        let held = match self.next_held().await {
            Ok(Some(held)) => held,
            Ok(None) => {
                (self.tried, self.try_at) = (None, Instant::now() + TRY_HELD_EVERY);
                return false;
            }
            Err(error) => {
                self.try_at = Instant::now() + TRY_HELD_EVERY;
                let (projection, error) = (self.name.as_str(), &error as &dyn std::error::Error);
                warn!(projection, error, "what projection '{projection}' leaves out cannot be asked for");
                return false;
            }
        };
        let shard = held.event.position.shard;
        let behind = Some((shard, held.unit.clone()));
        let Some(place) = self.places.get(usize::from(shard)) else {
            self.tried = behind;
            return true;
        };
        let (inner, log, place) = (Arc::clone(&self.inner), self.log.clone(), (place.saved, place.applied));
        match catch_up::step(&inner.database, log.reader(), &mut *self.projection, &held, place).await {
            Ok(catch_up::Step::More) => {}
            Ok(catch_up::Step::Held | catch_up::Step::Released) => self.tried = behind,
            Err(ApplyError::Overtaken) => self.reload(stopping).await,
            Err(failure) => {
                let (projection, error) = (self.name.as_str(), &failure as &dyn std::error::Error);
                warn!(projection, stream.id = held.event.stream, error, "a stream that is left out cannot be tried");
                self.tried = behind;
            }
        }
        true
    }

    async fn next_held(&self) -> Result<Option<Held>, sqlx::Error> {
        let mut connection = self.inner.database.readers.acquire().await?;
        held::next(&mut connection, self.name, self.tried.as_ref()).await
    }

    /// Lets the shards rest that the failure concerns. What else the round held is read again by the next one.
    async fn fail(
        &mut self,
        shard: Option<u16>,
        failure: ApplyError,
        round: Vec<Part>,
        stopping: &mut watch::Receiver<bool>,
    ) {
        let shards: Vec<u16> = round.iter().map(Part::shard).collect();
        match (shard, failure) {
            (_, ApplyError::Overtaken) => self.reload(stopping).await,
            (Some(shard), failure) if matches!(failure, ApplyError::Event { .. }) || failure.is_refused_row() => {
                let part = round.into_iter().find(|part| part.shard() == shard);
                let failure = match part {
                    Some(part) => self.apply_up_to_failure(part, failure).await,
                    None => failure,
                };
                self.rest(shard, &failure).await;
            }
            (Some(shard), failure @ (ApplyError::Log(_) | ApplyError::Event { .. } | ApplyError::Unreadable(_))) => {
                self.rest(shard, &failure).await;
            }
            (_, failure) => {
                for shard in shards {
                    self.rest(shard, &failure).await;
                }
            }
        }
    }

    /// Whatever stands before an event that cannot be applied is applied: the checkpoint then stands in front of it.
    /// Answers with why it stopped there.
    async fn apply_up_to_failure(&mut self, part: Part, failure: ApplyError) -> ApplyError {
        if let ApplyError::Event { position, .. } = failure {
            let before: Vec<_> = part.entries.into_iter().take_while(|entry| entry.position() < position).collect();
            if before.is_empty() {
                return failure;
            }
            let part = self.part(before);
            return match self.apply(&[part]).await {
                Ok(()) => failure,
                Err((_, earlier)) => earlier,
            };
        }
        // The tables do not say which event made the row that they refuse: the one that fails alone.
        for entry in part.entries {
            let part = self.part(vec![entry.clone()]);
            match (self.apply(&[part]).await, entry) {
                (Ok(()), _) => {}
                (Err((_, failure)), Entry::Event(event)) if failure.is_refused_row() => {
                    return ApplyError::event(&event, failure.describe());
                }
                (Err((_, failure)), _) => return failure,
            }
        }
        failure
    }

    /// Takes one step towards the floor of a shard where it has risen, once the runner is past it. Whether there may be
    /// another.
    async fn forget_some(&mut self) -> bool {
        if !self.name.forgets() {
            return false;
        }
        let now = Instant::now();
        let behind = (0..self.log.shards()).zip(&self.places).find_map(|(shard, place)| {
            let floor = self.log.floor(shard);
            let rests = place.rests_until.is_some_and(|rested| rested > now);
            (floor > place.floor && floor <= place.applied && !rests).then_some(Position { shard, seq: floor })
        });
        let Some(floor) = behind else { return false };
        match self.forget(floor).await {
            Ok(true) => self.places[usize::from(floor.shard)].floor = floor.seq,
            Ok(false) => {}
            Err(failure) => self.rest(floor.shard, &ApplyError::Database(failure)).await,
        }
        true
    }

    async fn forget(&self, floor: Position) -> Result<bool, sqlx::Error> {
        let mut write = self.inner.database.begin().await?;
        let done = retention::forget(write.connection(), self.name, floor).await;
        match done {
            Ok(done) => write.commit().await.map(|()| done),
            Err(error) => {
                write.abandon().await;
                Err(error)
            }
        }
    }

    /// Tries again later, less and less soon.
    async fn rest(&mut self, shard: u16, failure: &ApplyError) {
        let place = &mut self.places[usize::from(shard)];
        place.failures += 1;
        let failures = place.failures;
        let may_pass = !matches!(failure, ApplyError::Event { .. });
        let retry = if may_pass { failures.saturating_sub(QUICK_RETRIES) } else { failures };
        place.rests_until = Some(Instant::now() + retry_after(retry));
        if may_pass && failures <= QUICK_RETRIES {
            let (projection, error) = (self.name.as_str(), failure as &dyn std::error::Error);
            warn!(projection, shard, error, "projection '{projection}' failed and tries again at once: {failure}");
            return;
        }
        let stopped = self.report(shard, failure);
        self.note(async |connection| stops::remember(connection, &stopped).await).await;
    }

    /// Forgets that the shard had stopped, if it had.
    async fn go_on(&mut self, shard: u16) {
        let place = &mut self.places[usize::from(shard)];
        // Also one that stopped in an earlier life.
        let had_stopped = self.inner.progress.stopped_at(self.name, shard).is_some();
        if std::mem::take(&mut place.failures) > 0 || had_stopped {
            let (projection, name) = (self.name.as_str(), self.name);
            info!(projection, shard, "projection '{projection}' goes on");
            self.note(async |connection| stops::forget(connection, name, shard).await).await;
        }
    }

    /// Writes a note beside the rows. It is for people alone: where it cannot be written, the log line has it.
    async fn note(&self, write_note: impl AsyncFnOnce(&mut SqliteConnection) -> Result<(), sqlx::Error>) {
        let written = async {
            let mut write = self.inner.database.begin().await?;
            match write_note(write.connection()).await {
                Ok(()) => write.commit().await,
                Err(error) => {
                    write.abandon().await;
                    Err(error)
                }
            }
        };
        if let Err(error) = written.await {
            warn!(projection = self.name.as_str(), "where a projection stands cannot be noted: {error}");
        }
    }

    /// Tells operators, and those who wait.
    fn report(&self, shard: u16, failure: &ApplyError) -> Stopped {
        let next = Position { shard, seq: self.places[usize::from(shard)].applied + 1 };
        let stopped = Stopped::at(self.name, next, failure);
        let (projection, position, error) = (self.name.as_str(), stopped.position, failure as &dyn std::error::Error);
        error!(projection, %position, error, "projection '{projection}' stopped: {failure}");
        self.inner.progress.stop(stopped.clone(), matches!(failure, ApplyError::Event { .. }));
        stopped
    }
}

/// What is next in a shard; whatever was up to the floor may be gone.
async fn next_entries(log: &Log, after: Position, limit: usize) -> Result<Vec<Entry>, ReadError> {
    let entries = entry::page(limit, |count| log.read_log(after, count).boxed()).await?;
    entry::without_hole(after, log.floor(after.shard), &entries)?;
    Ok(entries)
}

async fn checkpoints(inner: &Inner, name: Name, shards: u16) -> Result<Vec<Checkpoint>, sqlx::Error> {
    let mut connection = inner.database.readers.acquire().await?;
    let found = checkpoint::of(&mut connection, name).await?;
    Ok((0..shards).map(|shard| found.get(&shard).copied().unwrap_or_default()).collect())
}

/// Wakes when the head of any shard moves, however many shards there are.
struct Heads {
    moves: FuturesUnordered<BoxFuture<'static, Option<watch::Receiver<u64>>>>,
}

impl Heads {
    fn of(log: &Log) -> Self {
        Self { moves: (0..log.shards()).map(|shard| Self::next(log.watch(shard))).collect() }
    }

    fn next(mut head: watch::Receiver<u64>) -> BoxFuture<'static, Option<watch::Receiver<u64>>> {
        Box::pin(async move { head.changed().await.ok().map(|()| head) })
    }

    /// `false` when the log is gone. Loses no move when it is dropped while it waits.
    async fn moved(&mut self) -> bool {
        match self.moves.next().await {
            Some(Some(head)) => {
                self.moves.push(Self::next(head));
                true
            }
            Some(None) | None => false,
        }
    }
}
