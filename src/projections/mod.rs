//! The read models: rows folded from the log, for lists, lookups and authentication.
//!
//! - They stand in a SQLite file of their own beside the log, with one writing connection of their own that does not
//!   wait for the disk: since they can be built again from the log, they never cost an append an fsync or a lock.
//! - Rows and checkpoint are one transaction. Rows after following the log are the rows after building anew, byte for
//!   byte: folding asks nothing but the events.
//! - The file is thrown away and built again at start if it is damaged, of another version, or not of this log: the
//!   event at each checkpoint must be the one that was applied (a log restored from a backup is behind it or went
//!   another way). Building anew sends nothing.
//! - Five projections, each with a runner that may fail alone: see [`Name`]. A table has one of them for its owner.
//! - Every query but those of operators and of authentication takes a [`TenantScope`] and finds nothing outside it.
//!
//! An event that cannot be read is passed, and its stream left out until it can be: see [`Held`].
//!
//! A row is written as seldom as can be: what begins and ends within one batch is written once, so that a delivery
//! which succeeds costs two rows. The rows follow all shards of the log; those of one tenant come from one shard.

mod audit;
mod catch_up;
mod backfill;
mod candidates;
mod checkpoint;
mod columns;
mod database;
mod deleted_webhooks;
mod deliveries;
mod delivery_queries;
mod entry;
mod erasures;
mod fold;
mod held;
mod latency;
mod messages;
mod page;
#[cfg(test)]
mod plans;
mod progress;
mod projection;
mod rebuild;
mod retention;
pub mod rows;
mod runner;
mod statement;
mod statistics;
mod statistic_queries;
mod stops;
mod tables;
mod tenants;
mod users;
mod verify;
mod watch;
mod webhook_queries;
mod webhooks;

use std::collections::HashMap;
use std::path::Path;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use sqlx::SqliteConnection;
use tokio::time::timeout;

use crate::domain::id::TenantId;
use crate::domain::time::Timestamp;
use crate::event_store::{EventReader, Log, Position, ReadError, Recorded};
use database::Database;
use progress::Progress;

pub use audit::AuditFilter;
pub use candidates::JobCount;
pub use database::OpenError;
pub use delivery_queries::{DeliveryFilter, Sequence};
pub use held::Held;
pub use latency::Latencies;
pub use messages::MessageFilter;
pub use page::{Key, Page, Slice};
pub use progress::{Standing, StopClass, Stopped};
pub use projection::Name;
pub use rebuild::RebuildError;
pub use runner::Followers;
pub use statistic_queries::{DeliveryCounts, Series, Step, Tally, Window};
pub use verify::{Difference, Verified, Wrong};
pub use watch::{AuditWatch, DeliveryWatch, WatchError};
pub use webhook_queries::{WebhookCounts, WebhookFilter, WebhookOrder, WebhookOrderField};

/// Whose rows a query may see.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct TenantScope(pub TenantId);

/// A query failed: the database did, or holds what this program does not write.
#[derive(Debug, thiserror::Error)]
#[error("the read models cannot be read")]
pub struct QueryError(#[from] sqlx::Error);

/// The read models. A clone is another handle on the same ones.
#[derive(Clone, Debug)]
pub struct ReadModels {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    database: Database,
    progress: Progress,
    /// The log that was followed last.
    log: OnceLock<Log>,
}

/// Why the read models could not be compared with the log.
#[derive(Debug, thiserror::Error)]
pub enum CompareError {
    /// The log cannot be read.
    #[error(transparent)]
    Log(#[from] ReadError),
    /// SQLite failed.
    #[error("the checkpoints of the read models cannot be read or reset")]
    Database(#[from] sqlx::Error),
}

impl ReadModels {
    /// Opens the file, making it if there is none; the folder is not made. One that cannot be used is replaced by an
    /// empty one.
    pub async fn open(path: &Path) -> Result<Self, OpenError> {
        let database = Database::open(path).await?;
        Ok(Self { inner: Arc::new(Inner { database, progress: Progress::new(), log: OnceLock::new() }) })
    }

    /// Begins to follow the log: one runner for each projection, until the answer is dropped.
    pub fn follow(&self, log: Log) -> Followers {
        // A second log would be one more handle on the same one: rows of another are thrown away.
        self.inner.log.get_or_init(|| log.clone());
        Followers::start(Arc::clone(&self.inner), log)
    }

    /// Waits until every read model has applied the position; `false` if that takes longer than `limit`, or if one of
    /// them cannot apply an event before it.
    pub async fn wait_for(&self, position: Position, limit: Duration) -> bool {
        timeout(limit, self.inner.progress.reach(&Name::ALL, position)).await.unwrap_or(false)
    }

    /// The same of one of them.
    pub async fn wait_for_one(&self, projection: Name, position: Position, limit: Duration) -> bool {
        timeout(limit, self.inner.progress.reach(&[projection], position)).await.unwrap_or(false)
    }

    /// How far every read model has come in a shard: the number of the last event that the slowest has applied. 0
    /// before the log is followed.
    pub fn applied(&self, shard: u16) -> u64 {
        Name::ALL.map(|name| self.applied_by(name, shard)).into_iter().min().unwrap_or(0)
    }

    /// How far one of them has come in a shard.
    pub fn applied_by(&self, projection: Name, shard: u16) -> u64 {
        self.inner.progress.applied_by(projection, shard)
    }

    /// The projections that stopped at a failure, each with the shard in which it did. Each tries again by itself.
    pub fn stopped(&self) -> Vec<Stopped> {
        self.inner.progress.stopped()
    }

    /// How each projection stands in each shard that holds events. Reads an event for each that is behind. Empty before
    /// the log is followed.
    pub async fn standings(&self) -> Result<Vec<Standing>, ReadError> {
        let Some(log) = self.inner.log.get() else { return Ok(Vec::new()) };
        let mut standings = Vec::new();
        for projection in Name::ALL {
            for shard in 0..log.shards() {
                let applied = Position { shard, seq: self.applied_by(projection, shard) };
                let stopped = self.inner.progress.stopped_at(projection, shard);
                let head = log.head(shard);
                let oldest_unapplied_at = match applied.seq < head {
                    true => oldest(log.read_log(applied, 1).await)?,
                    false => None,
                };
                if head > 0 {
                    standings.push(Standing { projection, applied, head, oldest_unapplied_at, stopped });
                }
            }
        }
        Ok(standings)
    }

    /// The streams that projections leave out because of an event that cannot be read, in a steady order, so many at
    /// most.
    pub async fn held(&self, limit: usize) -> Result<Vec<Held>, QueryError> {
        let mut connection = self.inner.database.readers.acquire().await?;
        Ok(held::all(&mut connection, limit).await?)
    }

    /// How many streams are left out, by projection and shard.
    pub async fn held_counts(&self) -> Result<HashMap<(Name, u16), u64>, QueryError> {
        let mut connection = self.inner.database.readers.acquire().await?;
        Ok(held::counts(&mut connection).await?)
    }

    /// Folds these projections from the log anew, beside the file at `path`, and then puts their rows in its place, also
    /// while a server reads and writes it. `progress` is told now and then how many events are done, of how many.
    /// Answers with how many events were read. A rebuild that is broken off is gone on with by the next one.
    pub async fn rebuild(
        path: &Path,
        log: &dyn EventReader,
        projections: &[Name],
        mut progress: impl FnMut(u64, u64) + Send,
    ) -> Result<u64, RebuildError> {
        rebuild::rebuild(path, log, projections, &mut progress).await
    }

    /// Whether the rows at `path` are those that the log makes, also while a server reads and writes them. Takes a copy,
    /// folds the log up to the copy's checkpoints beside it, and compares; needs room on the disk for both.
    pub async fn verify(
        path: &Path,
        log: &dyn EventReader,
        mut progress: impl FnMut(u64, u64) + Send,
    ) -> Result<Verified, RebuildError> {
        verify::verify(path, log, &mut progress).await
    }
}

/// When the first of them was recorded, if that can be read.
fn oldest(events: Result<Vec<Arc<Recorded>>, ReadError>) -> Result<Option<Timestamp>, ReadError> {
    match events {
        Ok(events) => Ok(events.first().map(|recorded| recorded.at)),
        Err(ReadError::Damaged { .. }) => Ok(None),
        Err(error @ ReadError::Unavailable(_)) => Err(error),
    }
}

impl Inner {
    /// Makes the rows those of this log, and tells those who wait where the checkpoints stand.
    async fn adopt(&self, log: &Log) -> Result<(), CompareError> {
        for (name, applied) in checkpoint::adopt(&self.database, log.reader()).await? {
            self.progress.restart(name, &applied);
        }
        let mut connection = self.database.readers.acquire().await?;
        for stopped in stops::all(&mut connection).await? {
            // Whoever waits waits for the next try.
            self.progress.stop(stopped, false);
        }
        Ok(())
    }
}

async fn clear(connection: &mut SqliteConnection) -> Result<(), sqlx::Error> {
    for table in &tables::TABLES {
        sqlx::query(table.clear).execute(&mut *connection).await?;
    }
    for statement in ["DELETE FROM checkpoint", "DELETE FROM stop", "DELETE FROM held"] {
        sqlx::query(statement).execute(&mut *connection).await?;
    }
    Ok(())
}
