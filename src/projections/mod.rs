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
//! A row is written as seldom as can be: what begins and ends within one batch is written once, so that a delivery
//! which succeeds costs two rows. The rows follow all shards of the log; those of one tenant come from one shard.

mod audit;
mod checkpoint;
mod columns;
mod database;
mod deliveries;
mod delivery_queries;
mod messages;
mod page;
#[cfg(test)]
mod plans;
mod progress;
mod projection;
mod rebuild;
pub mod rows;
mod runner;
mod statement;
mod tenants;
mod webhooks;

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use sqlx::SqliteConnection;
use tokio::time::timeout;

use crate::domain::id::TenantId;
use crate::event_store::{Log, Position, ReadError};
use database::Database;
use progress::Progress;

pub use audit::AuditFilter;
pub use database::OpenError;
pub use delivery_queries::DeliveryFilter;
pub use messages::MessageFilter;
pub use page::{Key, Page, Slice};
pub use progress::Stopped;
pub use projection::Name;
pub use rebuild::RebuildError;
pub use runner::Followers;
pub use webhooks::{WebhookCounts, WebhookFilter};

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
        Ok(Self { inner: Arc::new(Inner { database, progress: Progress::new() }) })
    }

    /// Begins to follow the log: one runner for each projection, until the answer is dropped.
    pub fn follow(&self, log: Log) -> Followers {
        Followers::start(Arc::clone(&self.inner), log)
    }

    /// Waits until every read model has applied the position; `false` if that takes longer than `limit`, or if one of
    /// them cannot apply an event before it.
    pub async fn wait_for(&self, position: Position, limit: Duration) -> bool {
        timeout(limit, self.inner.progress.reach(position)).await.unwrap_or(false)
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

    /// Folds the log up to its head into a new file, which then takes the place of the one at `path`. Nobody may have
    /// that one open. `progress` is told now and then how many events are done, of how many. Answers with how many
    /// there were.
    pub async fn rebuild(path: &Path, log: &Log, progress: impl FnMut(u64, u64)) -> Result<u64, RebuildError> {
        rebuild::rebuild(path, log, progress).await
    }
}

impl Inner {
    /// Makes the rows those of this log, and tells those who wait where the checkpoints stand.
    async fn adopt(&self, log: &Log) -> Result<(), CompareError> {
        for (name, applied) in checkpoint::adopt(&self.database, log).await? {
            self.progress.restart(name, &applied);
        }
        Ok(())
    }
}

async fn clear(connection: &mut SqliteConnection) -> Result<(), sqlx::Error> {
    for statement in [
        "DELETE FROM tenant",
        "DELETE FROM api_key",
        "DELETE FROM event_type",
        "DELETE FROM webhook",
        "DELETE FROM message",
        "DELETE FROM delivery",
        "DELETE FROM attempt",
        "DELETE FROM last_delivery",
        "DELETE FROM audit",
        "DELETE FROM audit_subscription",
        "DELETE FROM checkpoint",
    ] {
        sqlx::query(statement).execute(&mut *connection).await?;
    }
    Ok(())
}
