//! What a projection is: it says which events concern it, and folds them into rows.

use std::sync::Arc;

use async_trait::async_trait;
use sqlx::SqliteConnection;

use super::entry::Entry;
use super::{audit, deliveries, messages, tenants, webhooks};
use crate::codec;
use crate::domain::event::Event;
use crate::event_store::{EventReader, Position, ReadError, Recorded};
use crate::execute::Unreadable;

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

    /// As it was saved; `None` for what this program does not write.
    pub(super) fn parse(text: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|name| name.as_str() == text)
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

/// An event that was read.
pub(super) struct Readable {
    pub(super) recorded: Arc<Recorded>,
    pub(super) event: Event,
}

/// What folds events into rows.
#[async_trait]
pub(super) trait Projection: Send + Sync {
    /// Whether events of this type, which this program knows, concern it.
    fn concerns(&self, kind: &str) -> bool;

    /// Whether events of such types may stand in streams of this category (`deliveries`): of what this program does not
    /// know or cannot read, nothing is passed over.
    fn concerns_category(&self, category: &str) -> bool;

    /// Writes what the events change, which all concern it and stand in one shard. The caller begins and ends the
    /// transaction. Rows that an event makes or changes depend on no other stream than those that are left out with its
    /// own (see [`held`](super::held)), and on events that are asked for from `source`. May keep nothing in memory but what the log says and no later event changes: the transaction may
    /// be rolled back.
    async fn apply(
        &mut self,
        connection: &mut SqliteConnection,
        source: Source<'_>,
        events: Vec<Readable>,
    ) -> Result<(), ApplyError>;

    /// Whether it is, or may be, an event that concerns it.
    fn is_concerned(&self, entry: &Entry) -> bool {
        match entry {
            Entry::Event(recorded) if codec::knows(&recorded.kind) => self.concerns(&recorded.kind),
            Entry::Event(_) | Entry::Unreadable(_) => {
                entry.stream().split_once('-').is_none_or(|(category, _)| self.concerns_category(category))
            }
        }
    }

    /// Those of the entries that concern it.
    fn concerning(&self, entries: &[Entry]) -> Vec<Entry> {
        entries.iter().filter(|entry| self.is_concerned(entry)).cloned().collect()
    }
}

/// Why events were not applied.
#[derive(Debug, thiserror::Error)]
pub(super) enum ApplyError {
    /// This event cannot be; it will fail again.
    #[error("the event '{kind}' at {position} cannot be applied: {reason}")]
    Event { position: Position, kind: String, reason: String },
    /// It rests on another event, which cannot be read.
    #[error("{}", .0.reason)]
    Unreadable(Unreadable),
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
            Self::Database(_) | Self::Event { .. } | Self::Unreadable(_) | Self::Log(_) | Self::Overtaken => false,
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
