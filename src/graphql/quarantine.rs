//! Events that cannot be read, for operators.

use async_graphql::{Context, Enum, Result, SimpleObject};

use super::failure::internal;
use super::scalar::DateTime;
use super::state;
use crate::actors::{self, Quarantined};
use crate::projections;

/// What is held back because of an event that cannot be read.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Enum)]
pub(super) enum QuarantineHolds {
    /// A webhook: it sends nothing and cannot be changed.
    #[graphql(name = "WEBHOOK")]
    Subscription,
    /// Messages: they are not matched to a webhook, or to any of a tenant's that were enabled there.
    Matching,
    /// A tenant: it publishes nothing and is not changed.
    Tenant,
    /// Rows of a read model: lists show what the stream held before.
    ReadModel,
}

impl From<actors::Held> for QuarantineHolds {
    fn from(held: actors::Held) -> Self {
        match held {
            actors::Held::Subscription => Self::Subscription,
            actors::Held::Matching => Self::Matching,
            actors::Held::Tenant => Self::Tenant,
        }
    }
}

/// An event that cannot be read. Only what it concerns is held back, and goes on by itself once it can be read.
#[derive(SimpleObject)]
pub(super) struct QuarantineEntry {
    /// What is held back.
    holds: QuarantineHolds,
    /// Which read model, by its name in `projections`; null unless it is one that holds back.
    projection: Option<String>,
    /// The event's stream.
    stream: String,
    /// The event's place in the log, as `shard-number`.
    position: String,
    /// Why it cannot be read.
    reason: String,
    /// Since when it is held back; of what is no read model, in this life of the server.
    since: DateTime,
    /// When it is tried again; null: with the next request, and in a read model twice a minute.
    retry_at: Option<DateTime>,
}

impl From<Quarantined> for QuarantineEntry {
    fn from(Quarantined { held, event, since, retry_at }: Quarantined) -> Self {
        Self {
            holds: held.into(),
            projection: None,
            stream: event.stream,
            position: event.position.to_string(),
            reason: event.reason,
            since: since.into(),
            retry_at: retry_at.map(DateTime::from),
        }
    }
}

impl From<projections::Held> for QuarantineEntry {
    fn from(projections::Held { projection, event, since, .. }: projections::Held) -> Self {
        Self {
            holds: QuarantineHolds::ReadModel,
            projection: Some(projection.as_str().to_owned()),
            stream: event.stream,
            position: event.position.to_string(),
            reason: event.reason,
            since: since.into(),
            retry_at: None,
        }
    }
}

/// The most that are shown at a time.
const MOST_SHOWN: usize = 1_000;

/// What is held back. The caller has checked the scope.
pub(super) async fn all(ctx: &Context<'_>) -> Result<Vec<QuarantineEntry>> {
    let mut entries: Vec<_> = state(ctx).engine.quarantine().into_iter().map(QuarantineEntry::from).collect();
    let room = MOST_SHOWN.saturating_sub(entries.len());
    let held = state(ctx).read_models.held(room).await.map_err(|error| internal(&error))?;
    entries.extend(held.into_iter().map(QuarantineEntry::from));
    Ok(entries)
}
