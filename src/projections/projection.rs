//! What a projection is: it says which events concern it, and folds them into rows.

use std::sync::Arc;

use async_trait::async_trait;
use sqlx::SqliteConnection;

use super::{audit, deliveries, messages, tenants, webhooks};
use crate::codec::{self, DecodeError};
use crate::domain::event::Event;
use crate::event_store::{EventReader, Position, ReadError, Recorded};

/// The projections, by the names under which their checkpoints are saved.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Name {
    /// Tenants, their API keys and event types.
    Tenants,
    /// Subscriptions that are not deleted.
    Webhooks,
    /// Messages.
    Messages,
    /// Deliveries and their attempts.
    Deliveries,
    /// The audit log.
    Audit,
}

impl Name {
    /// Every projection.
    pub const ALL: [Self; 5] = [Self::Tenants, Self::Webhooks, Self::Messages, Self::Deliveries, Self::Audit];

    /// The name as logs and metrics show it.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Tenants => "tenants",
            Self::Webhooks => "webhooks",
            Self::Messages => "messages",
            Self::Deliveries => "deliveries",
            Self::Audit => "audit",
        }
    }

    pub(super) fn projection(self) -> Box<dyn Projection> {
        match self {
            Self::Tenants => Box::new(tenants::Tenants),
            Self::Webhooks => Box::new(webhooks::Webhooks),
            Self::Messages => Box::new(messages::Messages),
            Self::Deliveries => Box::new(deliveries::Deliveries::new()),
            Self::Audit => Box::new(audit::Audit::new()),
        }
    }
}

/// The log, as a projection may ask it while it folds a shard.
#[derive(Clone, Copy)]
pub(super) struct Source<'a> {
    pub(super) reader: &'a dyn EventReader,
    /// Events up to here may be gone, and nothing that they made has a row.
    pub(super) floor: u64,
}

/// What folds events into rows.
#[async_trait]
pub(super) trait Projection: Send + Sync {
    /// Whether events of this type concern it. Asks for families of types rather than for types, so that a type which
    /// this program does not know stops the projection instead of being passed over.
    fn concerns(&self, kind: &str) -> bool;

    /// Writes what the events change, which all concern it and stand in one shard. The caller begins and ends the
    /// transaction. May keep nothing in memory but what the log says and no later event changes: the transaction may
    /// be rolled back.
    async fn apply(
        &mut self,
        connection: &mut SqliteConnection,
        source: Source<'_>,
        events: &[Arc<Recorded>],
    ) -> Result<(), ApplyError>;

    /// Those of the events that concern it.
    fn concerning(&self, events: &[Arc<Recorded>]) -> Vec<Arc<Recorded>> {
        events.iter().filter(|event| self.concerns(&event.kind)).map(Arc::clone).collect()
    }
}

/// Why events were not applied.
#[derive(Debug, thiserror::Error)]
pub(super) enum ApplyError {
    /// This event cannot be; it will fail again.
    #[error("the event '{kind}' at {position} cannot be applied: {reason}")]
    Event { position: Position, kind: String, reason: String },
    /// The log cannot be read.
    #[error(transparent)]
    Log(#[from] ReadError),
    /// SQLite failed.
    #[error("the read models cannot be written")]
    Database(#[from] sqlx::Error),
    /// Somebody else moved the checkpoint.
    #[error("the checkpoint was moved by somebody else")]
    Overtaken,
}

impl ApplyError {
    pub(super) fn event(recorded: &Recorded, reason: impl ToString) -> Self {
        Self::Event { position: recorded.position, kind: recorded.kind.to_string(), reason: reason.to_string() }
    }

    /// Whether rows that this program may write are refused by the tables: some event of the batch is to blame.
    pub(super) fn is_refused_row(&self) -> bool {
        match self {
            Self::Database(sqlx::Error::Database(error)) => !matches!(error.kind(), sqlx::error::ErrorKind::Other),
            Self::Database(_) | Self::Event { .. } | Self::Log(_) | Self::Overtaken => false,
        }
    }

    /// With its cause, for those who see nothing but a text.
    pub(super) fn describe(&self) -> String {
        match std::error::Error::source(self) {
            Some(source) => format!("{self}: {source}"),
            None => self.to_string(),
        }
    }
}

/// Reads an event, or says which one cannot be read.
pub(super) fn decode(recorded: &Recorded) -> Result<Event, ApplyError> {
    codec::decode(recorded).map_err(|error| match error {
        DecodeError::Damaged { reason, .. } => ApplyError::event(recorded, reason),
        DecodeError::UnknownType { schema, .. } => ApplyError::event(recorded, format!("version {schema} is unknown")),
    })
}
