//! The log in one SQLite file: one shard, one process, one connection that writes.
//!
//! - A lock beside the file keeps a second process out; the epoch keeps an older handle of this process out.
//! - An append returns after its commit is on disk. Numbers are handed out inside `BEGIN IMMEDIATE`, so they become
//!   visible in order and a failed batch leaves no hole.
//! - After any failure the writing connection is closed, which rolls back what it left open, and the next write opens
//!   another: no state of a failed transaction is ever reasoned about. The same happens to a write whose caller goes
//!   away halfway.

mod open;
#[cfg(test)]
mod plans;
mod read;
mod statement;
mod write;

use std::collections::HashMap;
use std::fs::File;
use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;
use sqlx::{Connection, Row, SqliteConnection, SqlitePool};
use tokio::sync::Mutex;
use tracing::warn;

pub use self::open::{OpenError, Options};
use self::write::Failure;
use super::{
    Append, AppendError, Appended, Bucket, BucketEnd, Claim, DropError, Dropped, EventReader, EventStore, Period,
    Position, ReadError, Recorded, StoredSnapshot, StreamName, Wakeup,
};
use crate::domain::id::EventId;

/// The log in one SQLite file. The database stays locked until every handle on it is gone.
#[derive(Debug)]
pub struct SqliteStore {
    options: Options,
    lock: Arc<File>,
    epoch: u64,
    /// Absent after a failure, until the next write opens it again.
    writer: Mutex<Option<SqliteConnection>>,
    readers: SqlitePool,
}

impl SqliteStore {
    /// Opens the database, making it if there is none, brings its tables up to date and takes over its shard.
    pub async fn open(options: Options) -> Result<Self, OpenError> {
        let lock = open::lock(&options.path)?;
        open::make(&options.path)?;
        Self::take_over(options, lock).await
    }

    /// A new handle on the open database, as if the process had been started again: this one is fenced from now on.
    pub async fn reopen(&self) -> Result<Self, OpenError> {
        Self::take_over(self.options.clone(), Arc::clone(&self.lock)).await
    }

    async fn take_over(options: Options, lock: Arc<File>) -> Result<Self, OpenError> {
        let mut writer = open::connect_writer(&options).await?;
        // `run` does the same, but its future cannot be proven `Send`.
        sqlx::migrate!("migrations/sqlite").run_direct(None, &mut writer, false).await?;
        let epoch = raise_epoch(&mut writer).await?;
        let readers = open::connect_readers(&options).await?;
        Ok(Self { options, lock, epoch, writer: Mutex::new(Some(writer)), readers })
    }

    /// Gives the file back: ends all connections, which empties the write-ahead log into the main file.
    pub async fn close(self) {
        self.readers.close().await;
        if let Some(writer) = self.writer.into_inner()
            && let Err(error) = writer.close().await
        {
            warn!("the database was closed with an error: {error}");
        }
    }

    /// Empties the write-ahead log into the main file, so that a copy of that file alone is a copy of the log.
    pub async fn write_back(&self) {
        let emptied = async {
            let mut kept = self.writer.lock().await;
            let mut connection = self.writer(&mut kept).await?;
            let emptied = empty_write_ahead_log(&mut connection).await?;
            *kept = Some(connection);
            Ok::<_, AppendError>(emptied)
        };
        match emptied.await {
            Ok(true) => {}
            Ok(false) => warn!("a long read keeps the write-ahead log; the database is whole with it only"),
            Err(error) => warn!("the write-ahead log was not emptied: {error}"),
        }
    }

    /// Takes the writing connection out of its place; it goes back only after a success, so that neither a failure
    /// nor a caller that went away leaves a half-done transaction behind.
    async fn writer(&self, kept: &mut Option<SqliteConnection>) -> Result<SqliteConnection, AppendError> {
        match kept.take() {
            Some(connection) => Ok(connection),
            None => open::connect_writer(&self.options).await.map_err(|error| {
                let cause = std::error::Error::source(&error).map(|source| format!(": {source}")).unwrap_or_default();
                AppendError::Unavailable(format!("{error}{cause}"))
            }),
        }
    }

    async fn append_batch(&self, batch: Vec<Append>) -> Result<Vec<Result<Appended, AppendError>>, AppendError> {
        let mut kept = self.writer.lock().await;
        let mut connection = self.writer(&mut kept).await?;
        match write::commit(&mut connection, self.epoch, batch).await {
            Ok(answers) => {
                *kept = Some(connection);
                Ok(answers)
            }
            Err(failure) => {
                // Waits until SQLite is done with it: what the next batch finds is then settled.
                if let Err(error) = connection.close().await {
                    warn!("the writing connection was closed with an error: {error}");
                }
                Err(match failure {
                    Failure::Fenced => self.fenced(),
                    Failure::Database(error) => unavailable(&error),
                })
            }
        }
    }

    fn fenced(&self) -> AppendError {
        AppendError::Fenced { shard: 0, epoch: self.epoch }
    }
}

#[async_trait]
impl EventReader for SqliteStore {
    fn shards(&self) -> u16 {
        1
    }

    async fn read_stream(&self, stream: &str, from_version: u64, limit: usize) -> Result<Vec<Recorded>, ReadError> {
        read::stream(&self.readers, stream, from_version, limit).await
    }

    async fn read_log(&self, after: Position, limit: usize) -> Result<Vec<Recorded>, ReadError> {
        only_shard(after.shard)?;
        read::log(&self.readers, after.seq, limit).await
    }

    async fn read_category(
        &self,
        category: &str,
        up_to: Position,
        after: Option<(&str, u64)>,
        limit: usize,
    ) -> Result<Vec<Recorded>, ReadError> {
        only_shard(up_to.shard)?;
        read::category(&self.readers, category, up_to.seq, after, limit).await
    }

    async fn stream_version(&self, stream: &str) -> Result<u64, ReadError> {
        let query = sqlx::query_scalar(read::STREAM_VERSION).bind(stream);
        query.fetch_one(&self.readers).await.map(number).map_err(read::unavailable)
    }

    async fn head(&self, shard: u16) -> Result<u64, ReadError> {
        only_shard(shard)?;
        let query = sqlx::query_scalar("SELECT head FROM shard WHERE shard = $1").bind(i64::from(shard));
        query.fetch_one(&self.readers).await.map(number).map_err(read::unavailable)
    }

    async fn content(&self, position: Position) -> Result<Option<Bytes>, ReadError> {
        only_shard(position.shard)?;
        let query = sqlx::query_scalar("SELECT value FROM content WHERE seq = $1").bind(integer(position.seq));
        let value: Option<Vec<u8>> = query.fetch_optional(&self.readers).await.map_err(read::unavailable)?;
        Ok(value.map(Bytes::from))
    }

    async fn claims(&self, shard: u16, keys: &[String]) -> Result<HashMap<String, String>, ReadError> {
        only_shard(shard)?;
        let keys: Vec<&str> = keys.iter().map(String::as_str).collect();
        let mut connection = self.readers.acquire().await.map_err(read::unavailable)?;
        write::claims(&mut connection, &keys).await.map_err(read::unavailable)
    }

    async fn wakeups(&self, shard: u16, after: Option<&Wakeup>, limit: usize) -> Result<Vec<Wakeup>, ReadError> {
        only_shard(shard)?;
        read::wakeups(&self.readers, after, limit).await
    }

    async fn checkpoint(&self, reader: &str, shard: u16) -> Result<Option<u64>, ReadError> {
        only_shard(shard)?;
        let query = sqlx::query_scalar("SELECT seq FROM checkpoint WHERE reader = $1 AND shard = $2");
        let seq: Option<i64> =
            query.bind(reader).bind(i64::from(shard)).fetch_optional(&self.readers).await.map_err(read::unavailable)?;
        Ok(seq.map(number))
    }

    async fn secret(&self, key: &str) -> Result<Option<Vec<u8>>, ReadError> {
        let query = sqlx::query_scalar("SELECT sealed FROM secret WHERE key = $1").bind(key);
        query.fetch_optional(&self.readers).await.map_err(read::unavailable)
    }

    async fn has_secrets(&self) -> Result<bool, ReadError> {
        let query = sqlx::query_scalar("SELECT EXISTS (SELECT 1 FROM secret)");
        query.fetch_one(&self.readers).await.map_err(read::unavailable)
    }

    async fn floor(&self, _shard: u16) -> Result<u64, ReadError> {
        Ok(0)
    }

    async fn claims_after(&self, _shard: u16, _after: Option<&str>, _limit: usize) -> Result<Vec<Claim>, ReadError> {
        Ok(vec![])
    }

    async fn period(&self, _stream: &str) -> Result<Option<Period>, ReadError> {
        Ok(None)
    }

    async fn periods(
        &self,
        _shard: u16,
        _after: Option<&str>,
        _limit: usize,
    ) -> Result<Vec<(StreamName, Period)>, ReadError> {
        Ok(vec![])
    }

    async fn live_through(&self, _shard: u16, _bucket: Bucket, _limit: usize) -> Result<Vec<StreamName>, ReadError> {
        Ok(vec![])
    }

    async fn buckets(&self, _shard: u16) -> Result<Vec<BucketEnd>, ReadError> {
        Ok(vec![])
    }

    async fn snapshot(&self, _shard: u16, _key: &str) -> Result<Option<StoredSnapshot>, ReadError> {
        Ok(None)
    }

    async fn snapshots(
        &self,
        _shard: u16,
        _after: Option<&str>,
        _limit: usize,
    ) -> Result<Vec<StoredSnapshot>, ReadError> {
        Ok(vec![])
    }

    async fn checkpoints(&self, _shard: u16) -> Result<Vec<(String, u64)>, ReadError> {
        Ok(vec![])
    }

    async fn secrets(&self, _after: Option<&str>, _limit: usize) -> Result<Vec<(String, Vec<u8>)>, ReadError> {
        Ok(vec![])
    }
}

#[async_trait]
impl EventStore for SqliteStore {
    async fn append(&self, shard: u16, batch: Vec<Append>) -> Vec<Result<Appended, AppendError>> {
        let requests = batch.len();
        if shard != 0 {
            return vec![Err(AppendError::Unavailable(format!("there is no shard {shard}"))); requests];
        }
        if requests == 0 {
            return Vec::new();
        }
        self.append_batch(batch).await.unwrap_or_else(|error| vec![Err(error); requests])
    }

    async fn save_checkpoint(&self, reader: &str, at: Position) -> Result<(), AppendError> {
        let mut kept = self.writer.lock().await;
        let mut connection = self.writer(&mut kept).await?;
        let saved = sqlx::query(
            "INSERT INTO checkpoint (reader, shard, seq) \
             SELECT $1, shard, $3 FROM shard WHERE shard = $2 AND epoch = $4 \
             ON CONFLICT (reader, shard) DO UPDATE SET seq = excluded.seq",
        )
        .bind(reader)
        .bind(i64::from(at.shard))
        .bind(integer(at.seq))
        .bind(integer(self.epoch))
        .execute(&mut connection)
        .await
        .map_err(|error| unavailable(&error))?;
        *kept = Some(connection);
        if saved.rows_affected() == 0 { Err(self.fenced()) } else { Ok(()) }
    }

    async fn put_secret(&self, key: &str, sealed: &[u8]) -> Result<(), AppendError> {
        let mut kept = self.writer.lock().await;
        let mut connection = self.writer(&mut kept).await?;
        sqlx::query(
            "INSERT INTO secret (key, sealed) VALUES ($1, $2) ON CONFLICT (key) DO UPDATE SET sealed = excluded.sealed",
        )
        .bind(key)
        .bind(sealed)
        .execute(&mut connection)
        .await
        .map_err(|error| unavailable(&error))?;
        *kept = Some(connection);
        Ok(())
    }

    async fn destroy_secret(&self, key: &str) -> Result<(), AppendError> {
        let mut kept = self.writer.lock().await;
        let mut connection = self.writer(&mut kept).await?;
        let query = sqlx::query("DELETE FROM secret WHERE key = $1").bind(key);
        query.execute(&mut connection).await.map_err(|error| unavailable(&error))?;
        // What was deleted stands in the write-ahead log too, until it is started over.
        if !empty_write_ahead_log(&mut connection).await? {
            warn!("a long read keeps the write-ahead log; what was destroyed leaves it when it is next started over");
        }
        *kept = Some(connection);
        Ok(())
    }

    async fn forget_reader(&self, _reader: &str) -> Result<(), AppendError> {
        Ok(())
    }

    async fn drop_bucket(&self, _bucket: Bucket, _limit: u32) -> Result<Dropped, DropError> {
        Ok(Dropped { rows: 0, more: false })
    }

    async fn drop_contents(&self, _through: Bucket, _limit: u32) -> Result<Dropped, AppendError> {
        Ok(Dropped { rows: 0, more: false })
    }

    async fn forget_snapshots(&self) -> Result<(), AppendError> {
        Ok(())
    }
}

/// Makes older handles unable to write.
async fn raise_epoch(writer: &mut SqliteConnection) -> Result<u64, OpenError> {
    let query = sqlx::query("UPDATE shard SET epoch = epoch + 1 WHERE shard = 0 RETURNING epoch");
    let rows = query.fetch_all(writer).await?;
    let row = rows.first().ok_or(sqlx::Error::RowNotFound)?;
    Ok(number(row.try_get(0)?))
}

/// `false` if a long read keeps it.
async fn empty_write_ahead_log(connection: &mut SqliteConnection) -> Result<bool, AppendError> {
    let rows = sqlx::query("PRAGMA wal_checkpoint(TRUNCATE)").fetch_all(connection).await;
    let rows = rows.map_err(|error| unavailable(&error))?;
    Ok(rows.first().is_some_and(|row| row.try_get(0).unwrap_or(1) == 0_i64))
}

fn only_shard(shard: u16) -> Result<(), ReadError> {
    if shard == 0 { Ok(()) } else { Err(ReadError::Unavailable(format!("there is no shard {shard}"))) }
}

fn unavailable(error: &sqlx::Error) -> AppendError {
    AppendError::Unavailable(error.to_string())
}

/// A number as SQLite holds it; what is larger than it can hold is larger than anything it holds.
fn integer(number: u64) -> i64 {
    i64::try_from(number).unwrap_or(i64::MAX)
}

/// A number that this program wrote.
fn number(integer: i64) -> u64 {
    u64::try_from(integer).unwrap_or(0)
}

/// An event's id from its 16 bytes.
fn event_id(bytes: &[u8]) -> Result<EventId, &'static str> {
    let bits = u128::from_be_bytes(bytes.try_into().map_err(|_| "its id is not 16 bytes long")?);
    let at_ms = (bits >> 80) as u64; // the upper 48 bits
    Ok(EventId::from_parts(at_ms, bits & ((1 << 80) - 1)))
}
