//! The append-only log.
//!
//! - An append is all or nothing, and only at the expected version of each stream it writes to.
//! - Positions are gapless inside a shard and become visible in order: a reader that has seen `n` never later finds
//!   a smaller one.
//! - An acknowledged append is committed and synced to disk.
//! - Appending the same events again (same ids at the same versions) succeeds and writes nothing.
//! - Every append carries the owner's epoch; after a takeover the old owner writes nothing.
//!
//! Knows nothing of webhooks: a payload is bytes with a type name and a schema version. Beside the events stand four
//! small tables that must commit with them or live as long as them: erasable content of an event, claims (uniqueness
//! and idempotency), wake-ups (streams with work to do) and readers' checkpoints; and sealed secrets.
//!
//! [`EventStore`] is what a database must do; [`Log`] is what the rest of the program holds: it groups appends into
//! few commits, keeps the newest events in memory for the readers that follow, and wakes them.

mod lane;
mod log;
mod memory;
mod plan;
pub mod postgres;
mod sqlite;
mod tail;

pub use log::{Ack, Config, Log};
pub use memory::MemoryStore;
pub use postgres::PostgresStore;
pub use sqlite::{OpenError, Options, SqliteStore};

use std::borrow::Cow;
use std::collections::HashMap;
use std::fmt;

use async_trait::async_trait;
use bytes::Bytes;
use serde::{Deserialize, Serialize};

use crate::domain::id::EventId;
use crate::domain::time::Timestamp;

/// A place in the whole log: order is total inside a shard.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Position {
    /// The shard, from 0; SQLite has one.
    pub shard: u16,
    /// The number inside the shard, from 1, without gaps.
    pub seq: u64,
}

impl fmt::Display for Position {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}-{}", self.shard, self.seq)
    }
}

/// The name of a stream: a category, a hyphen and an id, as `deliveries-01J9…`.
pub type StreamName = String;

/// An event on its way into the log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NewEvent {
    /// Tells a repeated append from a conflicting one.
    pub id: EventId,
    /// What the payload is, for ever: `message.published`.
    pub kind: Cow<'static, str>,
    /// Version of the payload's schema, from 1.
    pub schema: u16,
    /// When it happened.
    pub at: Timestamp,
    /// The payload: a JSON object as text.
    pub data: String,
    /// Who caused it and in which request, as JSON text; absent when the system acted on its own.
    pub meta: Option<String>,
    /// Content that may later be erased without touching the event; stored beside it.
    pub content: Option<Bytes>,
}

/// An event in the log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Recorded {
    /// Where in the log.
    pub position: Position,
    /// In which stream.
    pub stream: StreamName,
    /// Place in the stream, from 1, without gaps.
    pub version: u64,
    /// As appended.
    pub id: EventId,
    /// As appended.
    pub kind: Cow<'static, str>,
    /// As appended.
    pub schema: u16,
    /// As appended.
    pub at: Timestamp,
    /// As appended.
    pub data: String,
    /// As appended.
    pub meta: Option<String>,
}

/// Events for one stream, at the version its writer expects.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StreamWrite {
    /// The stream; it comes into being with its first event.
    pub stream: StreamName,
    /// Version of the first of the events: one more than the stream has, 1 for a new stream.
    pub first_version: u64,
    /// In order; not empty.
    pub events: Vec<NewEvent>,
}

/// A durable note that a stream has work to do: never later than the work, possibly earlier.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Wakeup {
    /// Who is to be woken, in the words of the one who set it.
    pub key: String,
    /// When.
    pub due_at: Timestamp,
}

/// A name that can be taken once, and what its taker left behind it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Claim {
    /// The name.
    pub key: String,
    /// What a later claimant is told.
    pub value: String,
}

/// One atomic change of one shard. May hold no event at all (a wake-up moved or removed).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Append {
    /// Streams to extend; each at most once.
    pub writes: Vec<StreamWrite>,
    /// Names taken; the whole append fails if one is taken already by a different append. Without events, nothing but
    /// the values tells a repeated append from a different one.
    pub claims: Vec<Claim>,
    /// Wake-ups set (`Some`, replacing any other time) or removed (`None`), by key.
    pub wakeups: Vec<(String, Option<Timestamp>)>,
}

/// What a successful append tells its writer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Appended {
    /// Position of its last event; the head of the shard if it had none.
    pub last: Position,
}

/// Why an append was refused. Nothing of it was written; only after [`AppendError::Unavailable`] is that uncertain,
/// and the same append, repeated, settles it.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum AppendError {
    /// Another event stands at that version, or the one before it is missing: the writer is not, or no longer, the
    /// only one.
    #[error("stream '{stream}' is not at the expected version: {expected} is not its next")]
    Conflict {
        /// The stream.
        stream: StreamName,
        /// The version that the writer wanted to write.
        expected: u64,
    },
    /// The claim's name is taken.
    #[error("the claim '{key}' is already taken")]
    ClaimTaken {
        /// The name.
        key: String,
    },
    /// A later owner took the shard.
    #[error("shard {shard} has a newer owner than epoch {epoch}")]
    Fenced {
        /// The shard.
        shard: u16,
        /// The epoch that this process holds.
        epoch: u64,
    },
    /// The queue of appends is full; try again shortly.
    #[error("the append queue is full")]
    Overloaded,
    /// The database failed; whether it is full, locked or gone stands in the text.
    #[error("the log cannot be written: {0}")]
    Unavailable(String),
}

/// Why a read failed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ReadError {
    /// The database failed.
    #[error("the log cannot be read: {0}")]
    Unavailable(String),
    /// A row does not have the form that this program writes.
    #[error("the event at {position} is damaged: {reason}")]
    Damaged {
        /// Where.
        position: Position,
        /// What is wrong with it.
        reason: String,
    },
}

/// What a database must do to hold the log. Each method is one transaction.
///
/// Opening a store takes ownership of its shards: it raises their epoch, and older owners can write no more.
#[async_trait]
pub trait EventStore: Send + Sync + 'static {
    /// How many shards there are; fixed when the store is made.
    fn shards(&self) -> u16;

    /// Commits the appends together; the answers stand in the order of the requests. One that cannot be written (a
    /// conflict, a taken claim) does not hinder the others. An append is checked against those before it in the batch.
    async fn append(&self, shard: u16, batch: Vec<Append>) -> Vec<Result<Appended, AppendError>>;

    /// The stream's events from `from_version` on, at most `limit`, in order.
    async fn read_stream(&self, stream: &str, from_version: u64, limit: usize) -> Result<Vec<Recorded>, ReadError>;

    /// The version of the stream's newest event; 0 if it has none.
    async fn stream_version(&self, stream: &str) -> Result<u64, ReadError>;

    /// The shard's events after `after`, at most `limit`, in order.
    async fn read_log(&self, after: Position, limit: usize) -> Result<Vec<Recorded>, ReadError>;

    /// Events of all streams of a category (`subscription-…`), at or before `up_to`, ordered by stream name and
    /// version, at most `limit`, continuing behind (stream, version) `after`.
    async fn read_category(
        &self,
        category: &str,
        up_to: Position,
        after: Option<(&str, u64)>,
        limit: usize,
    ) -> Result<Vec<Recorded>, ReadError>;

    /// The newest position's number; 0 in an empty shard.
    async fn head(&self, shard: u16) -> Result<u64, ReadError>;

    /// The erasable content of the event at the position; `None` if it has none or it was erased.
    async fn content(&self, position: Position) -> Result<Option<Bytes>, ReadError>;

    /// The values of those keys that are claimed.
    async fn claims(&self, shard: u16, keys: &[String]) -> Result<HashMap<String, String>, ReadError>;

    /// Wake-ups in the order of (due time, key), at most `limit`, continuing behind `after`.
    async fn wakeups(&self, shard: u16, after: Option<&Wakeup>, limit: usize) -> Result<Vec<Wakeup>, ReadError>;

    /// How far a reader has come, as it last saved it; `None` if it never did.
    async fn checkpoint(&self, reader: &str, shard: u16) -> Result<Option<u64>, ReadError>;

    /// Saves how far a reader has come. Fails with [`AppendError::Fenced`] once the shard has a newer owner.
    async fn save_checkpoint(&self, reader: &str, at: Position) -> Result<(), AppendError>;

    /// Stores a sealed secret under a key, replacing an older one.
    async fn put_secret(&self, key: &str, sealed: &[u8]) -> Result<(), AppendError>;

    /// The sealed secret under the key.
    async fn secret(&self, key: &str) -> Result<Option<Vec<u8>>, ReadError>;

    /// Destroys a sealed secret; nothing happens if there is none.
    async fn destroy_secret(&self, key: &str) -> Result<(), AppendError>;

    /// Whether any secret is stored: a store that holds some must not be opened with a new key.
    async fn has_secrets(&self) -> Result<bool, ReadError>;
}
