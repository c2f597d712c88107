//! How the read models stand, for operators: what is behind, and what stopped and why.

use async_graphql::{Context, Enum, Object, Result};

use super::failure::internal;
use super::scalar::Long;
use super::state;
use crate::domain::time::Timestamp;
use crate::projections::{Standing, StopClass, Stopped};

/// One projection in one shard, at the time of asking.
pub(super) struct Projection {
    standing: Standing,
    held_streams: u64,
    now: Timestamp,
}

/// What kind of failure stops a projection.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Enum)]
#[graphql(remote = "StopClass")]
pub(super) enum ProjectionFailure {
    /// An event cannot be applied; it takes another program, or a repaired log.
    Event,
    /// The log cannot be read.
    Log,
    /// The read models cannot be written.
    Database,
}

/// A read model in one shard of the log: it follows the log, and lists show what it has applied.
#[Object]
impl Projection {
    /// Its name: tenants, webhooks, messages, deliveries or audit.
    async fn name(&self) -> &str {
        self.standing.projection.as_str()
    }

    /// The shard of the log that it follows.
    async fn shard(&self) -> u16 {
        self.standing.applied.shard
    }

    /// The number of the last event that it has applied.
    async fn position(&self) -> Long {
        Long(self.standing.applied.seq)
    }

    /// The number of the last event of the shard.
    async fn head(&self) -> Long {
        Long(self.standing.head)
    }

    /// How many events it is behind.
    async fn lag_events(&self) -> Long {
        Long(self.standing.head.saturating_sub(self.standing.applied.seq))
    }

    /// How many seconds ago the oldest event was recorded that it has not applied; 0 if it has applied all.
    async fn lag_seconds(&self) -> Long {
        Long(self.standing.oldest_unapplied_at.map_or(0, |at| self.now.ms_since(at) / 1_000))
    }

    /// How many streams it leaves out, since an event of theirs cannot be read; `quarantine` lists them.
    async fn held_streams(&self) -> Long {
        Long(self.held_streams)
    }

    /// Why it does not go on; null if it does. It tries again by itself.
    async fn stopped(&self) -> Option<ProjectionStop> {
        self.standing.stopped.clone().map(ProjectionStop)
    }
}

pub(super) struct ProjectionStop(Stopped);

/// Why a projection does not go on.
#[Object]
impl ProjectionStop {
    /// What kind of failure it is.
    async fn class(&self) -> ProjectionFailure {
        self.0.class.into()
    }

    /// The number of the event in front of which it stands.
    async fn position(&self) -> Long {
        Long(self.0.position.seq)
    }

    /// The type of the event that is the cause, if one is.
    async fn event_type(&self) -> Option<&str> {
        self.0.event_type.as_deref()
    }

    /// The failure in words.
    async fn error(&self) -> &str {
        &self.0.reason
    }
}

/// All of them. The caller has checked the scope.
pub(super) async fn all(ctx: &Context<'_>) -> Result<Vec<Projection>> {
    let now = state(ctx).clock.now();
    let standings = state(ctx).read_models.standings().await.map_err(|error| internal(&error))?;
    let held = state(ctx).read_models.held_counts().await.map_err(|error| internal(&error))?;
    let projection = |standing: Standing| {
        let held_streams = held.get(&(standing.projection, standing.applied.shard)).copied().unwrap_or(0);
        Projection { standing, held_streams, now }
    };
    Ok(standings.into_iter().map(projection).collect())
}
