//! Folding as far as wanted, from whatever reads the log, while nobody follows: for rebuilding and for verifying.
//!
//! The log is read once for all projections that are folded. Each part of it is one transaction with its checkpoints,
//! so a process that ends in the middle goes on from there.

use std::collections::BTreeMap;

use futures_util::FutureExt;
use sqlx::SqliteConnection;

use super::database::Database;
use super::entry::{self, Entry};
use super::held::Held;
use super::projection::{ApplyError, Name, Projection, Source};
use super::rebuild::RebuildError;
use super::{catch_up, checkpoint, held, retention};
use crate::event_store::{self, EventReader, Position, ReadError, Recorded};

/// Events read at a time.
const BATCH: usize = 4_096;

/// Up to which number each projection is to be folded, by shard.
pub(super) type Goals = BTreeMap<Name, Vec<u64>>;

/// One projection in one shard.
struct Folding {
    name: Name,
    at: u64,
    goal: u64,
}

impl Folding {
    fn is_due(&self) -> bool {
        self.at < self.goal
    }
}

/// Folds from the checkpoints in the file up to the goals, and forgets what the log has dropped. `progress` is told how
/// many numbers are passed, of how many. Answers with how many events were read.
pub(super) async fn fold(
    database: &Database,
    reader: &dyn EventReader,
    goals: &Goals,
    progress: &mut (dyn FnMut(u64, u64) + Send),
) -> Result<u64, RebuildError> {
    let mut projections: BTreeMap<Name, Box<dyn Projection>> =
        goals.keys().map(|name| (*name, name.projection())).collect();
    for (name, projection) in &mut projections {
        let caught_up = catch_up::all(database, reader, *name, &mut **projection).await;
        caught_up.map_err(|error| RebuildError::of(*name, error))?;
    }
    let mut shards = Vec::new();
    for shard in 0..reader.shards() {
        shards.push((shard, foldings(database, goals, shard).await?));
    }
    let left = |foldings: &[Folding]| foldings.iter().map(|due| due.goal.saturating_sub(due.at)).max().unwrap_or(0);
    let total: u64 = shards.iter().map(|(_, foldings)| left(foldings)).sum();
    let (mut passed, mut folded) = (0, 0);
    for (shard, mut foldings) in shards {
        let before = left(&foldings);
        while let Some(at) = foldings.iter().filter(|folding| folding.is_due()).map(|folding| folding.at).min() {
            let (entries, floor) = read(reader, Position { shard, seq: at }, BATCH).await?;
            // What is behind the last event, up to the goal, was dropped.
            let Some(last) = entries.last().map(|entry| entry.position().seq) else { break };
            let mut write = database.begin().await?;
            for folding in &mut foldings {
                let Some(projection) = projections.get_mut(&folding.name) else { continue };
                let source = Source { reader, floor };
                apply(write.connection(), source, folding, &mut **projection, &entries).await?;
                folding.at = folding.at.max(last.min(folding.goal));
            }
            write.commit().await?;
            folded += entries.len() as u64;
            progress(passed + before - left(&foldings), total);
        }
        passed += before;
        forget(database, reader, shard, goals).await?;
    }
    Ok(folded)
}

async fn foldings(database: &Database, goals: &Goals, shard: u16) -> Result<Vec<Folding>, RebuildError> {
    let mut connection = database.readers.acquire().await?;
    let mut foldings = Vec::new();
    for (name, goals) in goals {
        let at = checkpoint::of(&mut connection, *name).await?.get(&shard).map_or(0, |checkpoint| checkpoint.seq);
        let goal = goals.get(usize::from(shard)).copied().unwrap_or(0);
        foldings.push(Folding { name: *name, at, goal });
    }
    Ok(foldings)
}

/// The next places of the log, and a floor that was asked for after they were read.
pub(super) async fn read(
    reader: &dyn EventReader,
    after: Position,
    limit: usize,
) -> Result<(Vec<Entry>, u64), ReadError> {
    let entries = entry::page(limit, |count| whole(reader, after, count).boxed()).await?;
    let floor = reader.floor(after.shard).await?;
    entry::without_hole(after, floor, &entries)?;
    Ok((entries, floor))
}

async fn whole(reader: &dyn EventReader, after: Position, limit: usize) -> Result<Vec<Recorded>, ReadError> {
    let events = reader.read_log(after, limit).await?;
    event_store::without_holes(after, reader.floor(after.shard).await?, &events)?;
    Ok(events)
}

async fn apply(
    connection: &mut SqliteConnection,
    source: Source<'_>,
    folding: &Folding,
    projection: &mut dyn Projection,
    entries: &[Entry],
) -> Result<(), RebuildError> {
    let wanted = |entry: &&Entry| (folding.at + 1..=folding.goal).contains(&entry.position().seq);
    let entries: Vec<Entry> = entries.iter().filter(wanted).cloned().collect();
    let applied = apply_part(connection, source, folding.name, folding.at, projection, &entries).await;
    applied.map(drop).map_err(|error| RebuildError::of(folding.name, error))
}

/// Applies the next entries of one shard, and moves the checkpoint from where it stands. Answers with what is left out
/// from here on.
pub(super) async fn apply_part(
    connection: &mut SqliteConnection,
    source: Source<'_>,
    name: Name,
    from: u64,
    projection: &mut dyn Projection,
    entries: &[Entry],
) -> Result<Vec<Held>, ApplyError> {
    let Some(last) = entries.last() else { return Ok(vec![]) };
    // First, so that one who was overtaken fails for that reason, not at rows that are there already.
    checkpoint::advance(connection, name, from, last).await?;
    let concerning = projection.concerning(entries);
    held::apply(connection, source, name, projection, &concerning).await
}

async fn forget(database: &Database, reader: &dyn EventReader, shard: u16, goals: &Goals) -> Result<(), RebuildError> {
    let floor = Position { shard, seq: reader.floor(shard).await? };
    for name in goals.keys().filter(|name| name.forgets() && floor.seq > 0) {
        loop {
            let mut write = database.begin().await?;
            let done = retention::forget(write.connection(), *name, floor).await?;
            write.commit().await?;
            if done {
                break;
            }
        }
    }
    Ok(())
}
