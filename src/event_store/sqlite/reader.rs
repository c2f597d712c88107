//! Asking the log, beside whoever writes it.

use std::collections::HashMap;
use std::fs::File;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use async_trait::async_trait;
use bytes::Bytes;
use sqlx::{Row, SqlitePool};

use super::open::{self, OWNER_ONLY, OpenError, Options};
use super::{MIGRATOR, read, write};
use crate::event_store::row::{integer, number, unavailable};
use crate::event_store::{
    Bucket, BucketEnd, Claim, EventReader, Period, Position, ReadError, Recorded, StoredSnapshot, StreamName, Wakeup,
};

/// The log in one SQLite file, to be asked only.
///
/// Opened beside a running server it takes no lock, changes no table and hinders nobody: each question is a short
/// transaction of its own and sees what was committed before it. While no server runs, SQLite makes the files that it
/// shares among connections (`-wal`, `-shm`) and leaves them there.
#[derive(Debug)]
pub struct SqliteReader {
    pub(super) pool: SqlitePool,
}

impl SqliteReader {
    /// Opens a log that a server made; the server may run meanwhile. Refuses a file that is not there, and one whose
    /// tables this program does not know.
    pub async fn open(path: impl Into<PathBuf>) -> Result<Self, OpenError> {
        let path = path.into();
        // Asked, not opened: closing a file takes away the locks that this process holds on it through SQLite.
        std::fs::metadata(&path).map_err(|source| OpenError::Missing { path: path.clone(), source })?;
        let options = Options::at(&path);
        let reader = match Self::beside_writer(&options).await {
            Err(OpenError::Database(error)) if cannot_open(&error) => return Err(OpenError::Unshared(path)),
            opened => opened?,
        };
        match reader.unknown_tables().await? {
            Some(reason) => Err(OpenError::Tables { path, reason }),
            None => Ok(reader),
        }
    }

    /// Opens a log whose tables are known to be up to date.
    pub(super) async fn beside_writer(options: &Options) -> Result<Self, OpenError> {
        Ok(Self { pool: open::connect_readers(options).await? })
    }

    /// Copies a log as it is at one moment into a new file, and returns when the disk has it. Whoever writes meanwhile
    /// goes on; the write-ahead log keeps what they write until the copy is made.
    ///
    /// # Errors
    /// As [`SqliteReader::open`]; and if the file exists, or the copy fails: then no file is left.
    pub async fn copy(from: &Path, to: &Path) -> Result<(), OpenError> {
        Self::open(from).await?.close().await;
        let made = |source| OpenError::Make { path: to.to_owned(), source };
        let text = to.to_str().ok_or_else(|| made(std::io::ErrorKind::InvalidFilename.into()))?;
        // Made here, since SQLite would let everybody read it; an empty file is as good as none to it.
        let file = File::options().write(true).create_new(true).mode(OWNER_ONLY).open(to).map_err(made)?;
        let folder = to.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
        let copied = match open::copy(&Options::at(from), text).await {
            Ok(()) => file.sync_all().and_then(|()| File::open(folder)?.sync_all()).map_err(made),
            Err(error) => Err(error),
        };
        if copied.is_err() {
            // Half a copy must not be taken for one; whoever could not write it may not be able to remove it.
            drop(std::fs::remove_file(to));
        }
        copied
    }

    /// Ends all connections.
    pub async fn close(&self) {
        self.pool.close().await;
    }

    /// In what the tables differ from those that this program makes, if they do.
    async fn unknown_tables(&self) -> Result<Option<String>, sqlx::Error> {
        let made = "SELECT EXISTS (SELECT 1 FROM sqlite_schema WHERE type = 'table' AND name = '_sqlx_migrations')";
        if !sqlx::query_scalar::<_, bool>(made).fetch_one(&self.pool).await? {
            return Ok(Some("it holds no log".to_owned()));
        }
        let applied = sqlx::query("SELECT version, checksum, success FROM _sqlx_migrations ORDER BY version");
        let mut known = MIGRATOR.iter();
        for row in applied.fetch_all(&self.pool).await? {
            let version: i64 = row.try_get(0)?;
            match known.next() {
                Some(migration) if migration.version == version => {
                    if *migration.checksum != *row.try_get::<&[u8], _>(1)? || !row.try_get::<bool, _>(2)? {
                        return Ok(Some(format!("migration {version} is another one, or was not finished")));
                    }
                }
                Some(_) | None => return Ok(Some(format!("migration {version} is of a newer program"))),
            }
        }
        Ok(known.next().map(|missing| format!("migration {} is missing; a server applies it", missing.version)))
    }
}

fn cannot_open(error: &sqlx::Error) -> bool {
    const SQLITE_CANTOPEN: u32 = 14;
    let code = error.as_database_error().and_then(|error| error.code());
    // The lower byte is the error, the rest tells it more exactly.
    code.and_then(|code| code.parse::<u32>().ok()).is_some_and(|code| code & 0xff == SQLITE_CANTOPEN)
}

#[async_trait]
impl EventReader for SqliteReader {
    fn shards(&self) -> u16 {
        1
    }

    async fn read_stream(&self, stream: &str, from_version: u64, limit: usize) -> Result<Vec<Recorded>, ReadError> {
        read::stream(&self.pool, stream, from_version, limit).await
    }

    async fn stream_version(&self, stream: &str) -> Result<u64, ReadError> {
        let query = sqlx::query_scalar(read::STREAM_VERSION).bind(stream);
        query.fetch_one(&self.pool).await.map(number).map_err(unavailable)
    }

    async fn read_log(&self, after: Position, limit: usize) -> Result<Vec<Recorded>, ReadError> {
        only_shard(after.shard)?;
        read::log(&self.pool, after.seq, limit).await
    }

    async fn read_category(
        &self,
        category: &str,
        up_to: Position,
        after: Option<(&str, u64)>,
        limit: usize,
    ) -> Result<Vec<Recorded>, ReadError> {
        only_shard(up_to.shard)?;
        read::category(&self.pool, category, up_to.seq, after, limit).await
    }

    async fn head(&self, shard: u16) -> Result<u64, ReadError> {
        only_shard(shard)?;
        let query = sqlx::query_scalar("SELECT head FROM shard WHERE shard = $1").bind(i64::from(shard));
        query.fetch_one(&self.pool).await.map(number).map_err(unavailable)
    }

    async fn floor(&self, shard: u16) -> Result<u64, ReadError> {
        only_shard(shard)?;
        let query = sqlx::query_scalar("SELECT floor FROM shard WHERE shard = $1").bind(i64::from(shard));
        query.fetch_one(&self.pool).await.map(number).map_err(unavailable)
    }

    async fn content(&self, position: Position) -> Result<Option<Bytes>, ReadError> {
        only_shard(position.shard)?;
        let query = sqlx::query_scalar("SELECT value FROM content WHERE seq = $1").bind(integer(position.seq));
        let value: Option<Vec<u8>> = query.fetch_optional(&self.pool).await.map_err(unavailable)?;
        Ok(value.map(Bytes::from))
    }

    async fn contents(&self, after: Position, through: u64) -> Result<Vec<(u64, Bytes)>, ReadError> {
        only_shard(after.shard)?;
        read::contents(&self.pool, after.seq, through).await
    }

    async fn claims(&self, shard: u16, keys: &[String]) -> Result<HashMap<String, String>, ReadError> {
        only_shard(shard)?;
        let keys: Vec<&str> = keys.iter().map(String::as_str).collect();
        let mut connection = self.pool.acquire().await.map_err(unavailable)?;
        write::claims(&mut connection, &keys).await.map_err(unavailable)
    }

    async fn claims_after(&self, shard: u16, after: Option<&str>, limit: usize) -> Result<Vec<Claim>, ReadError> {
        only_shard(shard)?;
        read::claims_after(&self.pool, after, limit).await
    }

    async fn wakeups(&self, shard: u16, after: Option<&Wakeup>, limit: usize) -> Result<Vec<Wakeup>, ReadError> {
        only_shard(shard)?;
        read::wakeups(&self.pool, after, limit).await
    }

    async fn period(&self, stream: &str) -> Result<Option<Period>, ReadError> {
        read::period(&self.pool, stream).await
    }

    async fn periods(
        &self,
        shard: u16,
        after: Option<&str>,
        limit: usize,
    ) -> Result<Vec<(StreamName, Period)>, ReadError> {
        only_shard(shard)?;
        read::periods(&self.pool, after, limit).await
    }

    async fn live_through(&self, shard: u16, bucket: Bucket, limit: usize) -> Result<Vec<StreamName>, ReadError> {
        only_shard(shard)?;
        read::live_through(&self.pool, bucket, limit).await
    }

    async fn buckets(&self, shard: u16) -> Result<Vec<BucketEnd>, ReadError> {
        only_shard(shard)?;
        read::buckets(&self.pool).await
    }

    async fn snapshot(&self, shard: u16, key: &str) -> Result<Option<StoredSnapshot>, ReadError> {
        only_shard(shard)?;
        read::snapshot_of(&self.pool, key).await
    }

    async fn snapshots(&self, shard: u16, after: Option<&str>, limit: usize) -> Result<Vec<StoredSnapshot>, ReadError> {
        only_shard(shard)?;
        read::snapshots(&self.pool, after, limit).await
    }

    async fn checkpoint(&self, reader: &str, shard: u16) -> Result<Option<u64>, ReadError> {
        only_shard(shard)?;
        let query = sqlx::query_scalar("SELECT seq FROM checkpoint WHERE reader = $1 AND shard = $2");
        let seq: Option<i64> =
            query.bind(reader).bind(i64::from(shard)).fetch_optional(&self.pool).await.map_err(unavailable)?;
        Ok(seq.map(number))
    }

    async fn checkpoints(&self, shard: u16) -> Result<Vec<(String, u64)>, ReadError> {
        only_shard(shard)?;
        read::checkpoints(&self.pool, shard).await
    }
}

fn only_shard(shard: u16) -> Result<(), ReadError> {
    if shard == 0 { Ok(()) } else { Err(ReadError::Unavailable(format!("there is no shard {shard}"))) }
}
