//! Folding what was left out, once it can be read.
//!
//! A stream is folded by itself, from where it was left out up to the checkpoint, in steps of one transaction each: a
//! process that ends in between goes on from there. What else the projection follows goes on meanwhile; new events of
//! the stream are left out until the end.

use std::collections::HashSet;

use sqlx::SqliteConnection;

use super::checkpoint;
use super::database::Database;
use super::entry::{self, Entry};
use super::held::{self, Held};
use super::projection::{ApplyError, Name, Projection, Source};
use crate::event_store::{EventReader, Position, ReadError, StreamName};
use crate::execute::{Unreadable, is_bucketed};

/// Events that one step reads of each stream.
const STEP: usize = 512;

/// What became of a stream that was left out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Step {
    /// It still cannot be read.
    Held,
    /// Some of it was folded.
    More,
    /// It is left out no more.
    Released,
}

/// Takes one step with a stream that is left out, up to `through`; the checkpoint stands at `saved`, and between the two
/// stands nothing that concerns the projection.
pub(super) async fn step(
    database: &Database,
    reader: &dyn EventReader,
    projection: &mut dyn Projection,
    held: &Held,
    (saved, through): (u64, u64),
) -> Result<Step, ApplyError> {
    let (entries, more) = match next_entries(reader, projection, held, through).await? {
        Some(found) => found,
        None => return Ok(Step::Held),
    };
    let floor = reader.floor(held.event.position.shard).await?;
    let mut write = database.begin().await?;
    match fold(write.connection(), Source { reader, floor }, projection, held, &entries, (saved, more)).await {
        Ok(step) => {
            write.commit().await?;
            tell(held, step);
            Ok(step)
        }
        Err(failure) => {
            write.abandon().await;
            match failure {
                // Our own mistake, but of this stream alone: that is said in the place of the reason before.
                ApplyError::Event { .. } => keep(database, held, failure.describe()).await,
                ApplyError::Unreadable(_) | ApplyError::Log(_) | ApplyError::Database(_) | ApplyError::Overtaken => {
                    Err(failure)
                }
            }
        }
    }
}

async fn keep(database: &Database, held: &Held, reason: String) -> Result<Step, ApplyError> {
    let held = Held { event: Unreadable { reason, ..held.event.clone() }, ..held.clone() };
    let mut write = database.begin().await?;
    let kept = held::put(write.connection(), &held).await;
    match kept {
        Ok(()) => write.commit().await?,
        Err(error) => {
            write.abandon().await;
            return Err(error.into());
        }
    }
    held.report();
    Ok(Step::Held)
}

fn tell(held: &Held, step: Step) {
    let (projection, Unreadable { stream, position, .. }) = (held.projection.as_str(), &held.event);
    if step == Step::Released {
        tracing::info!(projection, stream.id = stream, %position, "projection '{projection}' has caught up with a stream");
    }
}

/// Folds all that was left out and can be read, up to the checkpoints in the file.
pub(super) async fn all(
    database: &Database,
    reader: &dyn EventReader,
    name: Name,
    projection: &mut dyn Projection,
) -> Result<(), ApplyError> {
    let mut behind = None;
    loop {
        let mut connection = database.readers.acquire().await?;
        let Some(held) = held::next(&mut connection, name, behind.as_ref()).await? else { return Ok(()) };
        let shard = held.event.position.shard;
        let at = checkpoint::of(&mut connection, name).await?.get(&shard).map_or(0, |checkpoint| checkpoint.seq);
        drop(connection);
        if step(database, reader, projection, &held, (at, at)).await? != Step::More {
            behind = Some((shard, held.unit));
        }
    }
}

/// What is next in the streams that are left out, as far as it concerns the projection, and whether there is more;
/// `None` if the first of it still cannot be read.
async fn next_entries(
    reader: &dyn EventReader,
    projection: &dyn Projection,
    held: &Held,
    through: u64,
) -> Result<Option<(Vec<Entry>, Option<u64>)>, ReadError> {
    let Position { shard, seq } = held.event.position;
    let before = Position { shard, seq: seq.saturating_sub(1) };
    let first = entry::page(1, |count| reader.read_log(before, count)).await?;
    let unread = |entry: &Entry| entry.position().seq == seq && held::readable(entry).is_err();
    if first.first().is_some_and(unread) {
        return Ok(None);
    }
    let (mut entries, mut known_through) = (Vec::new(), None::<u64>);
    for stream in held.streams() {
        let from = version_at(reader, &stream, seq).await?;
        let page = entry::page(STEP, |count| reader.read_stream(&stream, from, count)).await?;
        if let Some(last) = page.last().map(|entry| entry.position().seq).filter(|last| *last < through) {
            // Unless this was the end of the stream, the other one is to be folded no farther.
            if version_at(reader, &stream, last + 1).await? <= reader.stream_version(&stream).await? {
                known_through = Some(known_through.map_or(last, |known| known.min(last)));
            }
        }
        entries.extend(page);
    }
    let end = known_through.unwrap_or(through);
    entries.retain(|entry| entry.position().seq <= end && projection.is_concerned(entry));
    entries.sort_unstable_by_key(|entry| entry.position());
    Ok(Some((entries, known_through)))
}

/// The version of a stream's first event that does not stand before the number.
async fn version_at(reader: &dyn EventReader, stream: &str, seq: u64) -> Result<u64, ReadError> {
    let (mut low, mut high) = (1, reader.stream_version(stream).await? + 1);
    while low < high {
        let middle = low + (high - low) / 2;
        let found = entry::page(1, |count| reader.read_stream(stream, middle, count)).await?;
        match found.first() {
            Some(entry) if entry.position().seq < seq => low = middle + 1,
            Some(_) | None => high = middle,
        }
    }
    Ok(low)
}

/// `more` says up to where the entries reach if they do not reach to the checkpoint.
async fn fold(
    connection: &mut SqliteConnection,
    source: Source<'_>,
    projection: &mut dyn Projection,
    held: &Held,
    entries: &[Entry],
    (saved, more): (u64, Option<u64>),
) -> Result<Step, ApplyError> {
    let Position { shard, .. } = held.event.position;
    let at = checkpoint::of(connection, held.projection).await?.get(&shard).map(|checkpoint| checkpoint.seq);
    if at != Some(saved) || !held::remove(connection, held).await? {
        return Err(ApplyError::Overtaken);
    }
    // What the log keeps for a while makes no row once the floor is past it.
    let kept = |entry: &&Entry| entry.position().seq > source.floor || !is_bucketed(entry.stream());
    let entries: Vec<Entry> = entries.iter().filter(kept).cloned().collect();
    let nobody = HashSet::<StreamName>::new();
    let stuck = held::apply_but(connection, source, held.projection, projection, &entries, &nobody).await?;
    let since = held.since;
    if let Some(stuck) = stuck.into_iter().next() {
        held::put(connection, &Held { since, ..stuck }).await?;
        return Ok(Step::Held);
    }
    let Some(reached) = more else { return Ok(Step::Released) };
    let position = Position { shard, seq: reached + 1 };
    held::put(connection, &Held { event: Unreadable { position, ..held.event.clone() }, ..held.clone() }).await?;
    Ok(Step::More)
}
