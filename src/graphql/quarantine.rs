//! Events that cannot be read, for operators.

use async_graphql::{Enum, SimpleObject};

use super::scalar::DateTime;
use crate::actors::{Held, Quarantined};

/// What is held back because of an event that cannot be read.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Enum)]
#[graphql(remote = "Held")]
pub(super) enum QuarantineHolds {
    /// A webhook: it sends nothing and cannot be changed.
    #[graphql(name = "WEBHOOK")]
    Subscription,
    /// Messages: they are not matched to a webhook, or to any of a tenant's that were enabled there.
    Matching,
    /// A tenant: it publishes nothing and is not changed.
    Tenant,
}

/// An event that cannot be read. Only what it concerns is held back, and goes on by itself once it can be read.
#[derive(SimpleObject)]
pub(super) struct QuarantineEntry {
    /// What is held back.
    holds: QuarantineHolds,
    /// The event's stream.
    stream: String,
    /// The event's place in the log, as `shard-number`.
    position: String,
    /// Why it cannot be read.
    reason: String,
    /// Since when it is held back, in this life of the server.
    since: DateTime,
    /// When it is tried again; null: with the next request.
    retry_at: Option<DateTime>,
}

impl From<Quarantined> for QuarantineEntry {
    fn from(Quarantined { held, event, since, retry_at }: Quarantined) -> Self {
        Self {
            holds: held.into(),
            stream: event.stream,
            position: event.position.to_string(),
            reason: event.reason,
            since: since.into(),
            retry_at: retry_at.map(DateTime::from),
        }
    }
}
