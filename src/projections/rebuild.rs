//! Building everything anew, while nobody reads.
//!
//! The log is read once, and all projections fold each part of it in one transaction, into a file beside the one that
//! it replaces at the end. A failure leaves the old file as it was.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::database::{self, Database, OpenError, Write};
use super::projection::{ApplyError, Name, Projection};
use super::{CompareError, checkpoint};
use crate::event_store::{Log, Position, ReadError, Recorded};

/// Events read at a time.
const BATCH: usize = 4_096;

/// Why nothing was built.
#[derive(Debug, thiserror::Error)]
pub enum RebuildError {
    /// The new file could not be made.
    #[error(transparent)]
    Open(#[from] OpenError),
    /// The log could not be read.
    #[error(transparent)]
    Read(#[from] ReadError),
    /// A projection cannot apply an event, or cannot write.
    #[error("projection '{}' cannot be built: {reason}", projection.as_str())]
    Projection {
        /// Which.
        projection: Name,
        /// Why; names the event's position and type where an event is the cause.
        reason: String,
    },
    /// The checkpoints could not be made.
    #[error("the new read models cannot be begun")]
    Begin(#[from] CompareError),
    /// SQLite failed.
    #[error("the new read models cannot be written")]
    Database(#[from] sqlx::Error),
    /// The new file could not take the place of the old one.
    #[error("the new read models cannot be put at '{path}'")]
    Replace {
        /// Where they belong.
        path: PathBuf,
        /// What the operating system says.
        #[source]
        source: std::io::Error,
    },
}

pub(super) async fn rebuild(path: &Path, log: &Log, progress: impl FnMut(u64, u64)) -> Result<u64, RebuildError> {
    let fresh = database::beside(path, ".rebuild");
    database::remove(&fresh)?;
    let database = Database::open(&fresh).await?;
    let done = fold(&database, log, progress).await?;
    database.close().await?;
    let replace = |source| RebuildError::Replace { path: path.to_owned(), source };
    // A renamed file whose content the disk does not have yet would be a damaged one after a power failure.
    File::open(&fresh).and_then(|file| file.sync_all()).map_err(replace)?;
    database::remove(path)?;
    std::fs::rename(&fresh, path).map_err(replace)?;
    Ok(done)
}

async fn fold(database: &Database, log: &Log, mut progress: impl FnMut(u64, u64)) -> Result<u64, RebuildError> {
    let mut projections = Name::ALL.map(|name| (name, name.projection()));
    checkpoint::adopt(database, log).await?;
    let mut done = 0;
    for shard in 0..log.shards() {
        let mut seq = 0;
        while seq < log.head(shard) {
            let events = log.read_log(Position { shard, seq }, BATCH).await?;
            let Some(last) = events.last() else { break };
            let mut write = database.begin().await?;
            for (name, projection) in &mut projections {
                apply(&mut write, log, *name, &mut **projection, seq, &events)
                    .await
                    .map_err(|error| RebuildError::Projection { projection: *name, reason: error.describe() })?;
            }
            write.commit().await?;
            seq = last.position.seq;
            done += events.len() as u64;
            progress(done, (0..log.shards()).map(|shard| log.head(shard)).sum());
        }
    }
    Ok(done)
}

async fn apply(
    write: &mut Write<'_>,
    log: &Log,
    name: Name,
    projection: &mut dyn Projection,
    from: u64,
    events: &[Arc<Recorded>],
) -> Result<(), ApplyError> {
    let Some(last) = events.last() else { return Ok(()) };
    checkpoint::advance(write.connection(), name, from, last).await?;
    let concerning = projection.concerning(events);
    if !concerning.is_empty() {
        projection.apply(write.connection(), log, &concerning).await?;
    }
    Ok(())
}
