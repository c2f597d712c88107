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
//! which succeeds costs two rows. The rows follow one shard, the only one that a log in SQLite has.

mod audit;
mod columns;
mod database;
mod deliveries;
mod delivery_queries;
mod messages;
mod page;
#[cfg(test)]
mod plans;
mod rebuild;
pub mod rows;
mod runner;
mod statement;
mod tenants;
mod webhooks;

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::timeout;
use tracing::warn;

use crate::domain::id::TenantId;
use crate::event_store::{Log, Position, ReadError};
use database::Database;
use runner::Progress;

pub use audit::AuditFilter;
pub use database::OpenError;
pub use delivery_queries::DeliveryFilter;
pub use messages::MessageFilter;
pub use page::{Key, Page, Slice};
pub use rebuild::RebuildError;
pub use runner::{Followers, Name, Stopped};
pub use webhooks::{WebhookCounts, WebhookFilter};

/// The shard that is followed.
const SHARD: u16 = 0;

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
    /// By the order of [`Name::ALL`].
    progress: [watch::Sender<Progress>; 5],
}

/// Why the read models could not be compared with the log.
#[derive(Debug, thiserror::Error)]
enum CompareError {
    #[error(transparent)]
    Log(#[from] ReadError),
    #[error("the checkpoints of the read models cannot be read or reset")]
    Database(#[from] sqlx::Error),
}

impl ReadModels {
    /// Opens the file, making it if there is none; the folder is not made. One that cannot be used is replaced by an
    /// empty one.
    pub async fn open(path: &Path) -> Result<Self, OpenError> {
        let database = Database::open(path).await?;
        let progress = Name::ALL.map(|_| watch::Sender::new(Progress::default()));
        Ok(Self { inner: Arc::new(Inner { database, progress }) })
    }

    /// Begins to follow the log: one runner for each projection, until the answer is dropped.
    pub fn follow(&self, log: Log) -> Followers {
        Followers::start(Arc::clone(&self.inner), log)
    }

    /// Waits until every read model has applied the position; `false` if that takes longer than `limit`, or if one of
    /// them cannot apply an event before it.
    pub async fn wait_for(&self, position: Position, limit: Duration) -> bool {
        let settled = |progress: &Progress| progress.applied >= position.seq || progress.stuck;
        let everywhere = async {
            let mut all = true;
            for progress in &self.inner.progress {
                // The sender is `self.inner`'s own.
                all &= progress.subscribe().wait_for(settled).await.is_ok_and(|found| found.applied >= position.seq);
            }
            all
        };
        position.shard == SHARD && timeout(limit, everywhere).await.unwrap_or(false)
    }

    /// How far every read model has come: the number of the last event that the slowest has applied. 0 before the log
    /// is followed.
    pub fn applied(&self, shard: u16) -> u64 {
        let slowest = self.inner.progress.iter().map(|progress| progress.borrow().applied).min();
        slowest.filter(|_| shard == SHARD).unwrap_or(0)
    }

    /// How far one of them has come.
    pub fn applied_by(&self, projection: Name) -> u64 {
        self.inner.progress(projection).borrow().applied
    }

    /// The projections that stopped at a failure. Each tries again by itself.
    pub fn stopped(&self) -> Vec<Stopped> {
        self.inner.progress.iter().filter_map(|progress| progress.borrow().stopped.clone()).collect()
    }

    /// Folds the log up to its head into a new file, which then takes the place of the one at `path`. Nobody may have
    /// that one open. `progress` is told now and then how many events are done, of how many. Answers with the number
    /// of the last event.
    pub async fn rebuild(path: &Path, log: &Log, progress: impl FnMut(u64, u64)) -> Result<u64, RebuildError> {
        rebuild::rebuild(path, log, progress).await
    }
}

impl Inner {
    fn progress(&self, name: Name) -> &watch::Sender<Progress> {
        &self.progress[name as usize]
    }

    /// Throws the rows away if they were folded from another log than this one, or from more than it holds. Tells
    /// those who wait where the checkpoints stand.
    async fn forget_another_log(&self, log: &Log) -> Result<(), CompareError> {
        let mut checkpoints = Vec::new();
        for name in Name::ALL {
            let (seq, event) = runner::checkpoint(self, name).await?;
            if seq > 0 {
                let there = log.read_log(Position { shard: SHARD, seq: seq - 1 }, 1).await?;
                if there.first().map(|recorded| recorded.id) != event {
                    warn!(projection = name.as_str(), "read models are not of this log and are built again");
                    self.clear().await?;
                    checkpoints.clear();
                    break;
                }
            }
            checkpoints.push(seq);
        }
        for (index, progress) in self.progress.iter().enumerate() {
            let applied = checkpoints.get(index).copied().unwrap_or(0);
            progress.send_replace(Progress { applied, stopped: None, stuck: false });
        }
        Ok(())
    }

    async fn clear(&self) -> Result<(), sqlx::Error> {
        let mut write = self.database.begin().await?;
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
            "UPDATE checkpoint SET seq = 0, event_id = NULL",
        ] {
            sqlx::query(statement).execute(write.connection()).await?;
        }
        write.commit().await
    }
}
