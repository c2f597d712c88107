//! The log in PostgreSQL: many shards, many nodes, one owner for each shard.
//!
//! - Opening takes over every shard by raising its epoch; whoever had it before writes nothing from then on.
//! - One statement is fence, lock, allocator and insert (`write.rs`): an append is one round trip and one commit, and
//!   a failed one leaves no hole. It returns after the commit is on disk (`synchronous_commit`, read back).
//! - A lost connection leaves an append's outcome unknown, and that is what the caller is told; the same append,
//!   repeated, is settled by its event ids.
//! - Shards do not wait for each other, as long as fewer of them are held up than there are connections that write.
//! - Events that go with their bucket stand in a table of their own, a partition for each bucket (`partition.rs`).
//! - Others may read beside the owner ([`PostgresReader`]).
//!
//! No notification is sent with an append: that would put every commit of the database in one line. Others are told
//! afterwards, now and then (`herald.rs`).

mod herald;
mod open;
mod partition;
#[cfg(test)]
mod plans;
mod purge;
mod read;
mod reader;
mod rows;
mod write;
mod writers;

use std::time::Duration;

use async_trait::async_trait;
use sqlx::migrate::Migrator;
use sqlx::postgres::{PgArguments, PgRow};
use sqlx::query::Query;
use sqlx::{Connection, Postgres, Row};
use tokio::sync::Mutex;
use tokio::time::error::Elapsed;
use tokio::time::timeout;
use tracing::warn;

use self::herald::Herald;
pub use self::open::{OpenError, Options};
pub use self::reader::PostgresReader;
use self::write::Target;
use self::writers::{Writer, Writers};
use super::row::{integer, number};
use super::{
    Append, AppendError, Appended, Bucket, DropError, Dropped, EventReader, EventStore, Position, Purged, StreamName,
};

static MIGRATOR: Migrator = sqlx::migrate!("migrations/postgres");

/// How long a writer waits for an answer: longer than the database lets a statement run, so that this ends only what
/// waits for a machine that is gone.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(30);

/// The log in PostgreSQL, and the ownership of its shards.
#[derive(Debug)]
pub struct PostgresStore {
    shards: Vec<Shard>,
    writers: Writers,
    reader: PostgresReader,
    herald: Herald,
}

/// A shard as its owner knows it.
#[derive(Debug)]
struct Shard {
    epoch: u64,
    /// How many appends it has had. Locked during an append: a second one would only find that its turn is not come.
    turn: Mutex<u64>,
}

/// Why a write failed as a whole.
#[derive(Debug)]
enum Failure {
    /// The epoch is no longer this handle's.
    Fenced,
    /// Another shard wrote a stream of the batch at the same time.
    Raced,
    /// A bucket of the batch has no partition, even after one was made.
    NoPartition,
    /// A bucket of the batch is being dropped.
    Dropping(i64),
    /// The batch names for this stream an older bucket than that of its open period.
    Backwards(StreamName),
    /// No answer came.
    Silent,
    /// The store was closed.
    Closed,
    /// There was no connection to write by.
    Unreachable(OpenError),
    /// PostgreSQL failed; what it left open ends with the connection.
    Database(sqlx::Error),
}

impl From<sqlx::Error> for Failure {
    fn from(error: sqlx::Error) -> Self {
        Self::Database(error)
    }
}

impl PostgresStore {
    /// Connects to the database, brings its tables up to date and takes over its shards. Waits up to half a minute for
    /// appends of older owners that are in flight.
    pub async fn open(options: Options) -> Result<Self, OpenError> {
        let owned = open::take_over(&options).await?;
        let shards = owned.into_iter().map(|shard| Shard { epoch: shard.epoch, turn: Mutex::new(shard.turn) });
        let reader = PostgresReader::beside(&options, options.shards.max(1));
        let herald = Herald::start(options.clone());
        Ok(Self { shards: shards.collect(), reader, herald, writers: Writers::new(options) })
    }

    /// A new handle on the same database, as if the process had been started again: this one is fenced from now on.
    pub async fn reopen(&self) -> Result<Self, OpenError> {
        Self::open(self.writers.options().clone()).await
    }

    /// Ends all connections.
    pub async fn close(&self) {
        self.herald.close();
        self.reader.close().await;
        for connection in self.writers.close() {
            if let Err(error) = connection.close().await {
                warn!("a connection to the database was closed with an error: {error}");
            }
        }
    }

    fn shard(&self, shard: u16) -> Option<&Shard> {
        self.shards.get(usize::from(shard))
    }

    async fn commit(
        &self,
        number: u16,
        shard: &Shard,
        batch: &[Append],
    ) -> Result<Vec<Result<Appended, AppendError>>, Failure> {
        let mut turn = shard.turn.lock().await;
        let mut writer = self.writers.take().await?;
        let target = Target { shard: number, epoch: shard.epoch, turn: *turn };
        let committing = write::commit(&mut writer.connection, target, batch);
        match timeout(ANSWER_TIMEOUT, committing).await.unwrap_or(Err(Failure::Silent)) {
            Ok(committed) => {
                *turn = committed.turn;
                self.writers.give_back(writer);
                Ok(committed.answers)
            }
            Err(failure) => {
                self.writers.lose(writer);
                Err(failure)
            }
        }
    }

    /// Runs one statement by itself; answers with the number of rows that it changed.
    async fn execute(&self, query: Query<'_, Postgres, PgArguments>) -> Result<u64, Failure> {
        let mut writer = self.writers.take().await?;
        let answer = timeout(ANSWER_TIMEOUT, query.execute(&mut writer.connection)).await;
        self.settle(writer, answer).map(|done| done.rows_affected())
    }

    /// Runs one statement by itself, fenced by shard 0: its first column says whether it still belongs to this owner,
    /// and its second how many rows went.
    async fn as_owner(&self, query: Query<'_, Postgres, PgArguments>) -> Result<u64, AppendError> {
        let epoch = self.shards.first().map_or(0, |shard| shard.epoch);
        let answer = async {
            let mut writer = self.writers.take().await?;
            let query = query.bind(integer(epoch));
            let answer = timeout(ANSWER_TIMEOUT, query.fetch_one(&mut writer.connection)).await;
            let row: PgRow = self.settle(writer, answer)?;
            if row.try_get(0)? { Ok(number(row.try_get(1)?)) } else { Err(Failure::Fenced) }
        };
        answer.await.map_err(|failure| refusal(failure, 0, epoch))
    }

    fn settle<T>(&self, writer: Writer<'_>, answer: Result<Result<T, sqlx::Error>, Elapsed>) -> Result<T, Failure> {
        match answer {
            Ok(Ok(answer)) => {
                self.writers.give_back(writer);
                Ok(answer)
            }
            Ok(Err(error)) => {
                self.writers.lose(writer);
                Err(error.into())
            }
            Err(_) => {
                self.writers.lose(writer);
                Err(Failure::Silent)
            }
        }
    }
}

#[async_trait]
impl EventStore for PostgresStore {
    fn reader(&self) -> &dyn EventReader {
        &self.reader
    }

    async fn append(&self, shard: u16, batch: Vec<Append>) -> Vec<Result<Appended, AppendError>> {
        let requests = batch.len();
        let Some(owned) = self.shard(shard) else {
            return vec![Err(AppendError::Unavailable(no_shard(shard))); requests];
        };
        if requests == 0 {
            return Vec::new();
        }
        let committed = self.commit(shard, owned, &batch).await;
        if let Some(head) = committed.iter().flatten().flatten().map(|appended| appended.last.seq).max() {
            self.herald.tell(shard, head);
        }
        committed.unwrap_or_else(|failure| vec![Err(refusal(failure, shard, owned.epoch)); requests])
    }

    async fn save_checkpoint(&self, reader: &str, at: Position) -> Result<(), AppendError> {
        let owned = self.shard(at.shard).ok_or_else(|| AppendError::Unavailable(no_shard(at.shard)))?;
        // Without locking the shard, which is for appends: instead the row itself knows whose it is.
        let query = sqlx::query(
            "INSERT INTO checkpoint (reader, shard, seq, epoch) \
             SELECT $1, shard, $3, epoch FROM shard WHERE shard = $2 AND epoch = $4 \
             ON CONFLICT (reader, shard) DO UPDATE SET seq = excluded.seq, epoch = excluded.epoch \
             WHERE checkpoint.epoch <= excluded.epoch",
        )
        .bind(reader)
        .bind(i32::from(at.shard))
        .bind(integer(at.seq))
        .bind(integer(owned.epoch));
        match self.execute(query).await {
            Ok(0) => Err(refusal(Failure::Fenced, at.shard, owned.epoch)),
            Ok(_) => Ok(()),
            Err(failure) => Err(refusal(failure, at.shard, owned.epoch)),
        }
    }

    async fn purge(&self) -> Result<Purged, AppendError> {
        // A connection of its own: a vacuum takes longer than a writer may.
        let failed = |failure| refusal(failure, 0, 0);
        let connecting = open::connect_purger(self.writers.options()).await;
        let mut connection = connecting.map_err(|error| failed(Failure::Unreachable(error)))?;
        let purged = purge::purge(&mut connection).await.map_err(|error| failed(error.into()))?;
        if let Err(error) = connection.close().await {
            warn!("a connection to the database was closed with an error: {error}");
        }
        Ok(purged)
    }

    async fn forget_reader(&self, reader: &str) -> Result<(), AppendError> {
        self.as_owner(sqlx::query(FORGET_READER).bind(reader)).await.map(drop)
    }

    async fn drop_bucket(&self, bucket: Bucket, limit: u32) -> Result<Dropped, DropError> {
        let epoch = self.shards.first().map_or(0, |shard| shard.epoch);
        let refusal = |failure| refusal(failure, 0, epoch);
        // A connection of its own: it waits longer than a writer may, and what it leaves half done ends with it.
        let mut connection = open::connect_dropper(self.writers.options())
            .await
            .map_err(|error| refusal(Failure::Unreachable(error)))?;
        match partition::drop_by_step(&mut connection, bucket, epoch, limit.max(1)).await {
            Ok(dropped) => {
                if let Err(error) = connection.close().await {
                    warn!("a connection to the database was closed with an error: {error}");
                }
                Ok(dropped)
            }
            Err(hindrance) => hindrance.answer(refusal),
        }
    }

    async fn drop_contents(&self, through: Bucket, limit: u32) -> Result<Dropped, AppendError> {
        let limit = limit.max(1);
        let query = sqlx::query(DROP_CONTENTS).bind(i64::from(through.0)).bind(i64::from(limit));
        let rows = self.as_owner(query).await?;
        Ok(Dropped { rows, more: rows >= u64::from(limit) })
    }
}

const FORGET_READER: &str = "WITH owner AS (SELECT shard FROM shard WHERE shard = 0 AND epoch = $2), gone AS ( \
         DELETE FROM checkpoint USING owner, shard \
         WHERE checkpoint.shard = shard.shard AND checkpoint.reader = $1 RETURNING seq \
     ) SELECT EXISTS (SELECT FROM owner), (SELECT COUNT(*) FROM gone)";

const DROP_CONTENTS: &str = "WITH owner AS (SELECT shard FROM shard WHERE shard = 0 AND epoch = $3), gone AS ( \
         DELETE FROM content USING owner, ( \
             SELECT shard, seq FROM content WHERE bucket <= $1 ORDER BY bucket LIMIT $2 \
         ) AS erased WHERE content.shard = erased.shard AND content.seq = erased.seq RETURNING content.seq \
     ) SELECT EXISTS (SELECT FROM owner), (SELECT COUNT(*) FROM gone)";

fn no_shard(shard: u16) -> String {
    format!("there is no shard {shard}")
}

fn refusal(failure: Failure, shard: u16, epoch: u64) -> AppendError {
    let cause = match failure {
        Failure::Fenced => return AppendError::Fenced { shard, epoch },
        Failure::Raced => "another shard wrote the same stream at the same time".to_owned(),
        Failure::NoPartition => "a bucket has no partition".to_owned(),
        Failure::Dropping(bucket) => format!("bucket {bucket} is being dropped"),
        Failure::Backwards(stream) => format!("stream '{stream}' would go back to an older bucket"),
        Failure::Silent => format!("the database did not answer within {} s", ANSWER_TIMEOUT.as_secs()),
        Failure::Closed => "the store is closed".to_owned(),
        Failure::Unreachable(error) => {
            let source = std::error::Error::source(&error).map(|source| format!(": {source}")).unwrap_or_default();
            format!("{error}{source}")
        }
        Failure::Database(error) if is_full(&error) => {
            return AppendError::Full(format!("the database has no room: {error}"));
        }
        Failure::Database(error) => error.to_string(),
    };
    AppendError::Unavailable(cause)
}

/// PostgreSQL's `disk_full`; its message names the file.
fn is_full(error: &sqlx::Error) -> bool {
    error.as_database_error().and_then(|error| error.code()).is_some_and(|code| code == "53100")
}
