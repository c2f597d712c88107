//! What changes in one tenant, told in the order of the log to whoever watches.
//!
//! - A tenant lives in one shard, also of 64: one number says how far a watcher has come, before and after a restart.
//!   The log's positions are taken for it and no number of the read models' own, since rows are folded anew now and then
//!   and would be counted otherwise; who resumes reads on in the same log.
//! - Told is only what the rows show already: a watcher waits for the projections, not for the log. So whatever is told
//!   can be asked for.
//! - At least once, and never out of order. What several events make of one row is told once where they are read
//!   together, at the place of the last of them, as the row then stands.
//! - A watcher looks at most ten times a second and keeps one page in memory: whoever takes slowly is read for slowly.
//!
//! What cannot be read and is left out ([`super::Held`]) is passed over; once it is repaired it stands in the lists, and
//! is not told here.

mod audit;
mod deliveries;

use std::time::Duration;

use tokio::time::{Instant, sleep_until};

use super::columns::{packed, unpacked};
use super::{Key, Name, QueryError, ReadModels, TenantScope};
use crate::event_store::{Log, Position, ReadError};
use crate::execute::shard_of;

pub use audit::AuditWatch;
pub use deliveries::DeliveryWatch;

/// A watcher looks for something new at most this often.
const PACE: Duration = Duration::from_millis(100);

/// Why a watcher cannot go on.
#[derive(Debug, thiserror::Error)]
pub enum WatchError {
    /// The place is no place of this tenant in this log.
    #[error("the place is not in this log")]
    Foreign,
    /// What happened behind the place has been dropped, or some of it.
    #[error("what happened behind the place is kept no more")]
    Dropped,
    /// The log is not followed, so that nothing will ever be told.
    #[error("the log is not followed")]
    NotFollowed,
    /// The log cannot be read.
    #[error(transparent)]
    Log(#[from] ReadError),
    /// The rows cannot be read.
    #[error(transparent)]
    Rows(#[from] QueryError),
}

/// The place up to which some projections have come in a tenant's shard.
struct Front {
    read_models: ReadModels,
    log: Log,
    projections: &'static [Name],
    shard: u16,
    /// When somebody looked last.
    looked_at: Option<Instant>,
}

impl Front {
    fn of(read_models: &ReadModels, scope: TenantScope, projections: &'static [Name]) -> Result<Self, WatchError> {
        let log = read_models.inner.log.get().ok_or(WatchError::NotFollowed)?.clone();
        let shard = shard_of(scope.0, log.shards());
        Ok(Self { read_models: read_models.clone(), log, projections, shard, looked_at: None })
    }

    /// Everything up to here can be told.
    fn applied(&self) -> u64 {
        let applied = self.projections.iter().map(|name| self.read_models.applied_by(*name, self.shard));
        applied.min().unwrap_or(0)
    }

    /// Waits until something behind the number can be told, and says up to where.
    async fn beyond(&mut self, seq: u64) -> u64 {
        if let Some(looked_at) = self.looked_at {
            sleep_until(looked_at + PACE).await;
        }
        for name in self.projections {
            self.read_models.inner.progress.pass(*name, Position { shard: self.shard, seq }).await;
        }
        self.looked_at = Some(Instant::now());
        self.applied()
    }

    /// The number that a key names, if it can be one of this shard.
    fn number(&self, key: &Key) -> Result<u64, WatchError> {
        let position = u64::try_from(key.0).map(unpacked).map_err(|_| WatchError::Foreign)?;
        let here = position.shard == self.shard && position.seq <= self.log.head(self.shard);
        if here { Ok(position.seq) } else { Err(WatchError::Foreign) }
    }

    fn key(&self, seq: u64) -> Key {
        Key::from(Position { shard: self.shard, seq })
    }

    fn packed(&self, seq: u64) -> u64 {
        packed(Position { shard: self.shard, seq })
    }
}
