//! Building projections anew, beside a server that goes on.
//!
//! 1. The log is folded into a file beside the read models, with checkpoints of its own: what was begun and not ended
//!    is gone on with. A file that another version of the program began, or that is of another log, is thrown away.
//! 2. In one transaction on the read models, the rows of each projection are replaced by those that were built, and the
//!    checkpoint by theirs; what a runner applied meanwhile is applied to them in the same transaction. So whoever reads
//!    sees the old rows or the new ones, never fewer and never older ones.
//! 3. The runner of a server finds its checkpoint moved at its next transaction, rolls back, and goes on from there.
//!
//! While rows are put in place nobody else can write to the read models, for a few µs of CPU for each row: a runner
//! that waits too long tries again. Queries go on.
//!
//! Nothing is sent: folding asks the log and writes rows.

use std::collections::BTreeMap;
use std::fs::{File, TryLockError};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use sqlx::{Connection, SqliteConnection};

use super::checkpoint::{self, Checkpoint};
use super::database::{self, Database, OpenError};
use super::fold::{self, Goals};
use super::projection::{ApplyError, Name, Source};
use super::tables::TABLES;
use super::{CompareError, retention};
use crate::event_store::{EventReader, Position, ReadError};

/// What is left when it is time to put the new rows in place: the rest is applied while nobody else can write.
const NEARLY_DONE: u64 = 2_000;
/// How often the log is followed before that, however much is left.
const ROUNDS: usize = 20;
/// Events that are applied at a time while nobody else can write.
const BATCH: usize = 1_024;

/// Page cache while rows are put in place, 256 MiB: nobody else can write meanwhile, and indexes are filled out of order.
const COPY_CACHE: &str = "PRAGMA cache_size = -262144";

/// Why nothing was built.
#[derive(Debug, thiserror::Error)]
pub enum RebuildError {
    /// A file could not be opened.
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
    /// What is there could not be compared with the log.
    #[error(transparent)]
    Compare(#[from] CompareError),
    /// SQLite failed.
    #[error("the read models cannot be built")]
    Database(#[from] sqlx::Error),
    /// Another process is at the same work.
    #[error("'{path}' is locked: somebody else builds or verifies these read models")]
    Busy {
        /// The lock.
        path: PathBuf,
    },
    /// The lock could not be taken.
    #[error("'{path}' cannot be locked")]
    Lock {
        /// The lock.
        path: PathBuf,
        /// What the operating system says.
        #[source]
        source: std::io::Error,
    },
    /// There is nothing to verify.
    #[error("there are no read models '{path}', or they are of another version of this program")]
    Missing {
        /// Where they should be.
        path: PathBuf,
    },
}

impl RebuildError {
    pub(super) fn of(projection: Name, error: ApplyError) -> Self {
        Self::Projection { projection, reason: error.describe() }
    }
}

/// One process at a time builds or verifies; the lock ends with the value. The empty file stays. It is not the lock that
/// a server holds on its read models for as long as it runs (`….lock`).
pub(super) fn lock(path: &Path) -> Result<File, RebuildError> {
    let path = database::beside(path, ".rebuild.lock");
    let opened = File::options().create(true).append(true).mode(0o600).open(&path);
    let file = opened.map_err(|source| RebuildError::Lock { path: path.clone(), source })?;
    match file.try_lock() {
        Ok(()) => Ok(file),
        Err(TryLockError::WouldBlock) => Err(RebuildError::Busy { path }),
        Err(TryLockError::Error(source)) => Err(RebuildError::Lock { path, source }),
    }
}

pub(super) async fn rebuild(
    path: &Path,
    reader: &dyn EventReader,
    names: &[Name],
    progress: &mut (dyn FnMut(u64, u64) + Send),
) -> Result<u64, RebuildError> {
    let _lock = lock(path)?;
    let building = database::beside(path, ".rebuild");
    let built = Database::open(&building).await?;
    checkpoint::adopt(&built, reader).await?;
    let mut folded = 0;
    for _ in 0..ROUNDS {
        let more = fold::fold(&built, reader, &goals(reader, names).await?, progress).await?;
        folded += more;
        if more < NEARLY_DONE {
            break;
        }
    }
    built.close().await?;
    // Makes the tables if there are none, and throws away what cannot be read.
    let live = Database::open(path).await?;
    checkpoint::adopt(&live, reader).await?;
    live.close().await?;
    put_in_place(path, &building, reader, names).await?;
    database::remove(&building)?;
    Ok(folded)
}

/// Up to the heads.
async fn goals(reader: &dyn EventReader, names: &[Name]) -> Result<Goals, ReadError> {
    let mut heads = Vec::new();
    for shard in 0..reader.shards() {
        heads.push(reader.head(shard).await?);
    }
    Ok(names.iter().map(|name| (*name, heads.clone())).collect())
}

async fn put_in_place(
    path: &Path,
    building: &Path,
    reader: &dyn EventReader,
    names: &[Name],
) -> Result<(), RebuildError> {
    let mut connection = database::connect_writer(path).await?;
    sqlx::query(COPY_CACHE).execute(&mut connection).await?;
    let file = building.to_string_lossy().into_owned();
    sqlx::query("ATTACH DATABASE $1 AS built").bind(file).execute(&mut connection).await?;
    sqlx::query("BEGIN IMMEDIATE").execute(&mut connection).await?;
    let mut placed = Ok(());
    for name in names {
        placed = replace(&mut connection, reader, *name).await;
        if placed.is_err() {
            break;
        }
    }
    if placed.is_ok() {
        sqlx::query("COMMIT").execute(&mut connection).await?;
    }
    // Without a commit, everything stays as it was.
    connection.close().await?;
    placed
}

async fn replace(connection: &mut SqliteConnection, reader: &dyn EventReader, name: Name) -> Result<(), RebuildError> {
    let passed = checkpoint::of(connection, name).await?;
    for table in TABLES.iter().filter(|table| table.owner == name) {
        sqlx::query(table.clear).execute(&mut *connection).await?;
        sqlx::query(table.copy).execute(&mut *connection).await?;
    }
    checkpoint::copy(connection, name).await?;
    let built = checkpoint::of(connection, name).await?;
    for (shard, passed) in passed {
        let from = built.get(&shard).copied().unwrap_or_default();
        catch_up(connection, reader, name, shard, from, passed).await?;
    }
    Ok(())
}

/// Applies what a runner has applied since the rows were built.
async fn catch_up(
    connection: &mut SqliteConnection,
    reader: &dyn EventReader,
    name: Name,
    shard: u16,
    from: Checkpoint,
    to: Checkpoint,
) -> Result<(), RebuildError> {
    let mut projection = name.projection();
    let mut at = from.seq;
    while at < to.seq {
        let (mut entries, floor) = fold::read(reader, Position { shard, seq: at }, BATCH).await?;
        entries.retain(|entry| entry.position().seq <= to.seq);
        let Some(last) = entries.last().map(|entry| entry.position().seq) else {
            // What the runner applied there was dropped since.
            checkpoint::set(connection, name, shard, to).await?;
            break;
        };
        let source = Source { reader, floor };
        fold::apply_part(connection, source, name, at, &mut *projection, &entries)
            .await
            .map_err(|error| RebuildError::of(name, error))?;
        at = last;
    }
    if name.forgets() && from.floor < to.floor {
        while !retention::forget(connection, name, Position { shard, seq: to.floor }).await? {}
    }
    Ok(())
}

/// Where each projection stands in that file, by shard.
pub(super) async fn places(
    connection: &mut SqliteConnection,
    shards: u16,
) -> Result<BTreeMap<Name, Vec<u64>>, sqlx::Error> {
    let mut places = BTreeMap::new();
    for name in Name::ALL {
        let found = checkpoint::of(connection, name).await?;
        let by_shard = (0..shards).map(|shard| found.get(&shard).map_or(0, |checkpoint| checkpoint.seq)).collect();
        places.insert(name, by_shard);
    }
    Ok(places)
}
