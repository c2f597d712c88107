//! The append-only log.
//!
//! - An append is all or nothing, and only at the expected version of each stream it writes to.
//! - Positions are gapless inside a shard and become visible in order: a reader that has seen `n` never later finds
//!   a smaller one.
//! - An acknowledged append is committed and synced to disk.
//! - Appending the same events again (same ids at the same versions) succeeds and writes nothing.
//! - Every append carries the owner's epoch; after a takeover the old owner writes nothing.
//!
//! - Events live for ever or as long as their [`Bucket`]. A bucket is dropped whole, and only when no stream that is
//!   still written rests on it and every reader has passed it. Up to the floor, the last position that a dropped bucket
//!   held, numbers may be missing; behind it a missing number is damage.
//!
//! Knows nothing of webhooks: a payload is bytes with a type name and a schema version. Beside the events stand small
//! tables that must commit with them or live as long as them: erasable content of an event, claims (uniqueness and
//! idempotency), wake-ups (streams with work to do), periods (from where on a stream is to be read), snapshots and
//! readers' checkpoints. Sealed keys and secrets have a store of their own (`key_store`).
//!
//! [`EventReader`] and [`EventStore`] are what a database must do; [`Log`] is what the rest of the program holds: it
//! groups appends into few commits, keeps the newest events in memory for the readers that follow, and wakes them.

mod ahead;
mod lane;
mod latency;
mod log;
mod memory;
mod place;
mod plan;
pub mod postgres;
mod row;
pub(crate) mod sqlite;
mod tail;
mod tails;

pub use latency::{BOUNDS_US, Latency};
pub use log::{Ack, Config, Log, without_holes};
pub use memory::MemoryStore;
pub use place::Place;
pub use postgres::{PostgresReader, PostgresStore};
pub use sqlite::{OpenError, Options, SqliteReader, SqliteStore};

use std::borrow::Cow;
use std::collections::HashMap;
use std::fmt;
use std::str::FromStr;
use std::time::Duration;

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

/// The text is not a position as this program writes them.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("'{0}' is not a position of the form 0-17")]
pub struct InvalidPosition(String);

impl FromStr for Position {
    type Err = InvalidPosition;

    fn from_str(text: &str) -> Result<Self, InvalidPosition> {
        let parts = text.split_once('-').and_then(|(shard, seq)| Some((shard.parse().ok()?, seq.parse().ok()?)));
        parts
            .map(|(shard, seq)| Self { shard, seq })
            .filter(|position| position.to_string() == text)
            .ok_or_else(|| InvalidPosition(text.chars().take(64).collect()))
    }
}

/// The name of a stream: a category, a hyphen and an id, as `deliveries-01J9…`.
pub type StreamName = String;

/// A span of time whose events are dropped together, numbered so that later spans have higher numbers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Bucket(pub u32);

impl fmt::Display for Bucket {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// How long a stream's events are kept. A stream is either kept or bucketed for its whole life, and goes from bucket to
/// bucket only forward.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Lifetime {
    /// For ever.
    Kept,
    /// As long as the bucket. What the events mean may rest on earlier ones, back to the first of the period.
    Bucket(Bucket),
    /// As long as the bucket, and the first event begins a period: it carries all that earlier ones mean. The first
    /// append to a bucketed stream does so in any case.
    Period(Bucket),
}

impl Lifetime {
    /// The bucket, if there is one.
    pub fn bucket(self) -> Option<Bucket> {
        match self {
            Self::Kept => None,
            Self::Bucket(bucket) | Self::Period(bucket) => Some(bucket),
        }
    }
}

/// The part of a bucketed stream that has to be read: it begins with an event that carries everything before it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Period {
    /// The bucket of its first event.
    pub bucket: Bucket,
    /// The version of its first event.
    pub first_version: u64,
}

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
    /// How long they are kept.
    pub lifetime: Lifetime,
    /// In order; not empty.
    pub events: Vec<NewEvent>,
}

impl StreamWrite {
    /// The period that begins with the first of the events, if one does.
    pub(crate) fn period(&self) -> Option<Period> {
        let begins = match self.lifetime {
            Lifetime::Kept => None,
            Lifetime::Bucket(bucket) => Some(bucket).filter(|_| self.first_version == 1),
            Lifetime::Period(bucket) => Some(bucket),
        };
        begins.map(|bucket| Period { bucket, first_version: self.first_version })
    }
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
    /// With which bucket the name becomes free again; `None` for never.
    pub bucket: Option<Bucket>,
}

/// A state folded from the log, kept so that it need not be folded again. Can be thrown away at any time.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Snapshot {
    /// Whose state, in the words of the one who made it.
    pub key: String,
    /// In which form; one that the reader does not know is as good as none.
    pub fingerprint: String,
    /// The state.
    pub data: String,
}

/// A snapshot in the log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StoredSnapshot {
    /// The last event of the append that it came with, or the head of the shard if that had none: of whatever it was
    /// folded from, it holds all up to here and nothing behind.
    pub position: Position,
    /// As appended.
    pub snapshot: Snapshot,
}

/// One atomic change of one shard. May hold no event at all (a wake-up moved or removed).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Append {
    /// Streams to extend; each at most once.
    pub writes: Vec<StreamWrite>,
    /// Bucketed streams that will never be written or folded again: their periods hold no bucket back any more.
    pub ended: Vec<StreamName>,
    /// Snapshots stored, each replacing an older one of its key.
    pub snapshots: Vec<Snapshot>,
    /// Names taken; the whole append fails if one is taken already by a different append. Without events, nothing but
    /// the values tells a repeated append from a different one.
    pub claims: Vec<Claim>,
    /// Wake-ups set (`Some`, replacing any other time) or removed (`None`), by key.
    pub wakeups: Vec<(String, Option<Timestamp>)>,
    /// Numbers of earlier events of the shard, in the log already, whose contents are erased. The events stay; one that
    /// has no content, or none any more, changes nothing. What was erased may stand in the database's files until
    /// [`EventStore::purge`].
    pub erased: Vec<u64>,
    /// Nobody waits for it: it may wait a moment for company ([`Config::linger_ms`]).
    pub patient: bool,
}

/// What a successful append tells its writer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Appended {
    /// Position of its last event; the head of the shard if it had none.
    pub last: Position,
}

/// Why an append was refused. Nothing of it was written; only after [`AppendError::Unavailable`] and
/// [`AppendError::Full`] is that uncertain, and the same append, repeated, settles it.
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
    /// The database failed; whether it is locked or gone stands in the text.
    #[error("the log cannot be written: {0}")]
    Unavailable(String),
    /// The disk is full, or what the log may take of it; which file stands in the text. Reading goes on, and writing
    /// as soon as there is room.
    #[error("the log cannot be written: {0}")]
    Full(String),
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
        /// In which stream; `None` if the row is missing or does not say.
        stream: Option<StreamName>,
        /// What is wrong with it.
        reason: String,
    },
}

impl ReadError {
    /// The same of a row that says in which stream it stands.
    fn in_stream(self, stream: Option<StreamName>) -> Self {
        match self {
            Self::Unavailable(_) => self,
            Self::Damaged { position, reason, .. } => Self::Damaged { position, stream, reason },
        }
    }
}

/// What is known of a bucket in one shard.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BucketEnd {
    /// Which bucket.
    pub bucket: Bucket,
    /// The last number that it holds in the shard.
    pub last: Position,
}

/// What one step of dropping did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Dropped {
    /// How many rows went (events or contents).
    pub rows: u64,
    /// Whether there is more to drop by another step.
    pub more: bool,
}

/// What became of erased contents in the database's files.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Purged {
    /// Nothing of them is left.
    Gone,
    /// The rows are gone. Parts of them may stand in free space until the database writes something else there.
    Freed,
    /// Somebody reads what was there before: to be asked again.
    Kept,
}

/// Why a bucket was not dropped.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum DropError {
    /// A stream that is still written is to be read from this bucket, or an older one, on.
    #[error("bucket {bucket} is still needed: the open period of stream '{stream}' begins in it or before it")]
    StillLive {
        /// The bucket.
        bucket: Bucket,
        /// The stream.
        stream: StreamName,
    },
    /// A reader has not come so far.
    #[error("bucket {bucket} is still needed: reader '{reader}' is at {at} and the bucket ends at {last}")]
    StillRead {
        /// The bucket.
        bucket: Bucket,
        /// The reader.
        reader: String,
        /// How far it has come.
        at: Position,
        /// The bucket's last event in that shard.
        last: Position,
    },
    /// The database could not be written, or is another's.
    #[error(transparent)]
    Append(#[from] AppendError),
}

/// What can be asked of a database that holds the log. Asking changes nothing, and needs no ownership.
#[async_trait]
pub trait EventReader: Send + Sync + 'static {
    /// How many shards there are; fixed when the store is made.
    fn shards(&self) -> u16;

    /// Waits until something may have been appended by another process, so long at most. A hint where there is one, and
    /// lossy; whoever follows asks again after either.
    async fn wait_for_news(&self, limit: Duration) {
        tokio::time::sleep(limit).await;
    }

    /// The stream's events from `from_version` on, at most `limit`, in order. Those before its open period may be gone.
    async fn read_stream(&self, stream: &str, from_version: u64, limit: usize) -> Result<Vec<Recorded>, ReadError>;

    /// The version of the stream's newest event; 0 if it has none.
    async fn stream_version(&self, stream: &str) -> Result<u64, ReadError>;

    /// The shard's events after `after`, at most `limit`, in order.
    async fn read_log(&self, after: Position, limit: usize) -> Result<Vec<Recorded>, ReadError>;

    /// Events of all kept streams of a category (`subscription-…`), at or before `up_to`, ordered by stream name and
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

    /// The number up to which events may be missing, since their buckets were dropped; 0 if none was.
    async fn floor(&self, shard: u16) -> Result<u64, ReadError>;

    /// The erasable content of the event at the position; `None` if it has none or it was erased.
    async fn content(&self, position: Position) -> Result<Option<Bytes>, ReadError>;

    /// The erasable contents of the shard's events behind `after` up to the number `through`, with the events' numbers,
    /// in order. Those that have none or were erased are not among them.
    async fn contents(&self, after: Position, through: u64) -> Result<Vec<(u64, Bytes)>, ReadError>;

    /// The values of those keys that are claimed.
    async fn claims(&self, shard: u16, keys: &[String]) -> Result<HashMap<String, String>, ReadError>;

    /// All claims in the order of their keys, at most `limit`, continuing behind the key `after`.
    async fn claims_after(&self, shard: u16, after: Option<&str>, limit: usize) -> Result<Vec<Claim>, ReadError>;

    /// Wake-ups in the order of (due time, key), at most `limit`, continuing behind `after`.
    async fn wakeups(&self, shard: u16, after: Option<&Wakeup>, limit: usize) -> Result<Vec<Wakeup>, ReadError>;

    /// From where on the stream is to be read; `None` for one that is kept, has ended or never was.
    async fn period(&self, stream: &str) -> Result<Option<Period>, ReadError>;

    /// The open periods in the order of their streams' names, at most `limit`, continuing behind the stream `after`.
    async fn periods(
        &self,
        shard: u16,
        after: Option<&str>,
        limit: usize,
    ) -> Result<Vec<(StreamName, Period)>, ReadError>;

    /// Streams whose open period begins in the bucket or an older one, the oldest first, at most `limit`.
    async fn live_through(&self, shard: u16, bucket: Bucket, limit: usize) -> Result<Vec<StreamName>, ReadError>;

    /// The buckets that hold events of the shard, the oldest first.
    async fn buckets(&self, shard: u16) -> Result<Vec<BucketEnd>, ReadError>;

    /// The snapshot of that key.
    async fn snapshot(&self, shard: u16, key: &str) -> Result<Option<StoredSnapshot>, ReadError>;

    /// The snapshots in the order of their keys, at most `limit`, continuing behind the key `after`.
    async fn snapshots(&self, shard: u16, after: Option<&str>, limit: usize) -> Result<Vec<StoredSnapshot>, ReadError>;

    /// How far a reader has come, as it last saved it; `None` if it never did.
    async fn checkpoint(&self, reader: &str, shard: u16) -> Result<Option<u64>, ReadError>;

    /// How far every reader has come, by name.
    async fn checkpoints(&self, shard: u16) -> Result<Vec<(String, u64)>, ReadError>;
}

/// What a database must do to hold the log. Each method is one transaction.
///
/// Opening a store takes ownership of its shards: it raises their epoch, and older owners can write no more.
#[async_trait]
pub trait EventStore: Send + Sync + 'static {
    /// The same database, for whoever asks. It sees what was committed before.
    fn reader(&self) -> &dyn EventReader;

    /// Commits the appends together; the answers stand in the order of the requests. One that cannot be written (a
    /// conflict, a taken claim) does not hinder the others. An append is checked against those before it in the batch.
    async fn append(&self, shard: u16, batch: Vec<Append>) -> Vec<Result<Appended, AppendError>>;

    /// Saves how far a reader has come. Fails with [`AppendError::Fenced`] once the shard has a newer owner.
    async fn save_checkpoint(&self, reader: &str, at: Position) -> Result<(), AppendError>;

    /// Forgets a reader, in every shard: it holds no bucket back any more.
    async fn forget_reader(&self, reader: &str) -> Result<(), AppendError>;

    /// Drops the bucket, in all shards, with its claims and contents, and raises the floor past it. Claims go also where
    /// the bucket holds no event. By steps: one takes
    /// about `limit` rows at most where rows have to be taken one by one, so that appends need not wait long; the floor
    /// is raised with the first. Refused while a live stream or a reader still needs it; dropping one that does not
    /// exist succeeds. Fenced by shard 0.
    async fn drop_bucket(&self, bucket: Bucket, limit: u32) -> Result<Dropped, DropError>;

    /// Erases the contents of events of the bucket and all older ones, in all shards, by steps as above. The events
    /// stay.
    async fn drop_contents(&self, through: Bucket, limit: u32) -> Result<Dropped, AppendError>;

    /// Sees to it that nothing stands in the database's own files any more of contents that were erased before. Takes a
    /// while. What the database archived or replicated elsewhere is not touched.
    async fn purge(&self) -> Result<Purged, AppendError>;
}
