//! The log in one SQLite file: one shard, one process, one connection that writes.
//!
//! - A lock beside the file keeps a second process out; the epoch keeps an older handle of this process out.
//! - An append returns after its commit is on disk. Numbers are handed out inside `BEGIN IMMEDIATE`, so they become
//!   visible in order and a failed batch leaves no hole.
//! - After any failure the writing connection is closed, which rolls back what it left open, and the next write opens
//!   another: no state of a failed transaction is ever reasoned about. The same happens to a write whose caller goes
//!   away halfway.
//! - Who only asks needs none of this: [`SqliteReader`] reads beside whoever writes.

pub(crate) mod background;
mod drop;
mod open;
#[cfg(test)]
mod plans;
mod read;
mod reader;
pub(crate) mod statement;
mod write;
mod write_back;

use std::fs::File;
use std::sync::Arc;

use async_trait::async_trait;
use sqlx::migrate::Migrator;
use sqlx::{Connection, Row, SqliteConnection};
use tokio::sync::Mutex;
use tracing::warn;

pub use self::open::{OpenError, Options};
pub use self::reader::SqliteReader;
use self::write::Failure;
use self::write_back::WriteBack;
use super::row::{integer, number};
use super::{Append, AppendError, Appended, Bucket, DropError, Dropped, EventReader, EventStore, Position, Purged};

static MIGRATOR: Migrator = sqlx::migrate!("migrations/sqlite");

/// The log in one SQLite file. The database stays locked until every handle on it is gone.
#[derive(Debug)]
pub struct SqliteStore {
    options: Options,
    lock: Arc<File>,
    epoch: u64,
    /// Absent after a failure, until the next write opens it again.
    writer: Mutex<Option<SqliteConnection>>,
    write_back: WriteBack,
    reader: SqliteReader,
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
        MIGRATOR.run_direct(None, &mut writer, false).await?;
        let epoch = raise_epoch(&mut writer).await?;
        let reader = SqliteReader::beside_writer(&options).await?;
        let write_back = WriteBack::start(options.clone());
        Ok(Self { options, lock, epoch, writer: Mutex::new(Some(writer)), write_back, reader })
    }

    /// Gives the file back: ends all connections, which empties the write-ahead log into the main file.
    pub async fn close(self) {
        self.reader.close().await;
        self.write_back.close().await;
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
            let emptied = self.empty_write_ahead_log(&mut connection).await?;
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
                if let OpenError::Database(source) = &error
                    && is_full(source)
                {
                    return self.failed(source);
                }
                let cause = std::error::Error::source(&error).map(|source| format!(": {source}")).unwrap_or_default();
                AppendError::Unavailable(format!("{error}{cause}"))
            }),
        }
    }

    async fn append_batch(&self, batch: Vec<Append>) -> Result<Vec<Result<Appended, AppendError>>, AppendError> {
        let mut kept = self.writer.lock().await;
        let mut connection = self.writer(&mut kept).await?;
        let answers = write::commit(&mut connection, self.epoch, batch).await;
        self.write_back.committed();
        self.settle(&mut kept, connection, answers).await
    }

    /// `false` if a long read keeps it.
    async fn empty_write_ahead_log(&self, connection: &mut SqliteConnection) -> Result<bool, AppendError> {
        let _paused = self.write_back.pause().await;
        let rows = sqlx::query("PRAGMA wal_checkpoint(TRUNCATE)").fetch_all(connection).await;
        let rows = rows.map_err(|error| self.failed(&error))?;
        Ok(rows.first().is_some_and(|row| row.try_get(0).unwrap_or(1) == 0_i64))
    }

    /// Puts the connection back after a success, and ends it after a failure.
    async fn settle<T>(
        &self,
        kept: &mut Option<SqliteConnection>,
        connection: SqliteConnection,
        done: Result<T, Failure>,
    ) -> Result<T, AppendError> {
        match done {
            Ok(done) => {
                *kept = Some(connection);
                Ok(done)
            }
            Err(failure) => {
                // Waits until SQLite is done with it: what the next batch finds is then settled.
                if let Err(error) = connection.close().await {
                    warn!("the writing connection was closed with an error: {error}");
                }
                Err(match failure {
                    Failure::Fenced => self.fenced(),
                    Failure::Database(error) => self.failed(&error),
                })
            }
        }
    }

    fn failed(&self, error: &sqlx::Error) -> AppendError {
        match is_full(error) {
            true => {
                AppendError::Full(format!("there is no room for '{}' to grow: {error}", self.options.path.display()))
            }
            false => AppendError::Unavailable(error.to_string()),
        }
    }

    fn fenced(&self) -> AppendError {
        AppendError::Fenced { shard: 0, epoch: self.epoch }
    }
}

#[async_trait]
impl EventStore for SqliteStore {
    fn reader(&self) -> &dyn EventReader {
        &self.reader
    }

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
        .map_err(|error| self.failed(&error))?;
        *kept = Some(connection);
        if saved.rows_affected() == 0 { Err(self.fenced()) } else { Ok(()) }
    }

    async fn purge(&self) -> Result<Purged, AppendError> {
        let mut kept = self.writer.lock().await;
        let mut connection = self.writer(&mut kept).await?;
        open::set_busy_timeout(&mut connection, open::PURGE_WAIT_MS).await.map_err(|error| self.failed(&error))?;
        // In the main file `secure_delete` has overwritten what was erased: nothing of it is left once this is empty.
        let purged = self.empty_write_ahead_log(&mut connection).await?;
        open::set_busy_timeout(&mut connection, open::BUSY_TIMEOUT_MS).await.map_err(|error| self.failed(&error))?;
        *kept = Some(connection);
        Ok(if purged { Purged::Gone } else { Purged::Kept })
    }

    async fn forget_reader(&self, reader: &str) -> Result<(), AppendError> {
        let mut kept = self.writer.lock().await;
        let mut connection = self.writer(&mut kept).await?;
        let forgotten = drop::reader(&mut connection, self.epoch, reader).await;
        self.settle(&mut kept, connection, forgotten).await
    }

    async fn drop_bucket(&self, bucket: Bucket, limit: u32) -> Result<Dropped, DropError> {
        let mut kept = self.writer.lock().await;
        let mut connection = self.writer(&mut kept).await?;
        let dropped = drop::bucket(&mut connection, self.epoch, bucket, limit).await;
        self.settle(&mut kept, connection, dropped).await?
    }

    async fn drop_contents(&self, through: Bucket, limit: u32) -> Result<Dropped, AppendError> {
        let mut kept = self.writer.lock().await;
        let mut connection = self.writer(&mut kept).await?;
        let dropped = drop::contents(&mut connection, self.epoch, through, limit).await;
        self.settle(&mut kept, connection, dropped).await
    }
}

/// Makes older handles unable to write.
async fn raise_epoch(writer: &mut SqliteConnection) -> Result<u64, OpenError> {
    let query = sqlx::query("UPDATE shard SET epoch = epoch + 1 WHERE shard = 0 RETURNING epoch");
    let rows = query.fetch_all(writer).await?;
    let row = rows.first().ok_or(sqlx::Error::RowNotFound)?;
    Ok(number(row.try_get(0)?))
}

/// Whether the disk has no room, or the file may not grow: SQLITE_FULL, and SQLITE_IOERR_SHMSIZE for the index of the
/// write-ahead log.
fn is_full(error: &sqlx::Error) -> bool {
    let code = error.as_database_error().and_then(|error| error.code());
    code.is_some_and(|code| code == "13" || code == "4874")
}
