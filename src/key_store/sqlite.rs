//! Sealed rows in a SQLite file of their own. One process writes it: the one that has the log's lock.

use std::fs::File;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use async_trait::async_trait;
use sqlx::migrate::Migrator;
use sqlx::sqlite::{SqliteConnectOptions, SqliteJournalMode, SqlitePool, SqlitePoolOptions, SqliteSynchronous};
use sqlx::{AssertSqlSafe, ConnectOptions, Connection, Row, SqliteConnection};
use tokio::sync::Mutex;

use super::{KeyStore, KeyStoreError, OpenError, SealedRow, counted, end_of, limit_of};

static MIGRATOR: Migrator = sqlx::migrate!("migrations/sqlite_keys");

/// How long a statement waits for another program that holds the file.
const BUSY_TIMEOUT: Duration = Duration::from_secs(5);
/// Connections: secrets are read when they are not in memory, which is seldom.
const CONNECTIONS: u32 = 2;
/// Who may read and write a new file.
const OWNER_ONLY: u32 = 0o600;

/// Sealed rows in one SQLite file.
#[derive(Debug)]
pub struct SqliteKeys {
    path: PathBuf,
    pool: SqlitePool,
    /// Held while something is written: SQLite makes others wait by asking again and again.
    writing: Mutex<()>,
}

impl SqliteKeys {
    /// Opens the file, making it if there is none, and brings its table up to date.
    pub async fn open(path: impl Into<PathBuf>) -> Result<Self, OpenError> {
        let path = path.into();
        let made = File::options().create(true).append(true).mode(OWNER_ONLY).open(&path);
        made.map_err(|source| OpenError::Make { path: path.clone(), source })?;
        // `synchronous=FULL`: what was sealed is on the disk before an event names it. `secure_delete`: what is
        // destroyed is overwritten.
        let connect = shared(&path)
            .journal_mode(SqliteJournalMode::Wal)
            .synchronous(SqliteSynchronous::Full)
            .pragma("fullfsync", "ON")
            .pragma("secure_delete", "ON");
        let mut connection = connect.connect().await?;
        for (name, wanted) in [("journal_mode", "wal"), ("synchronous", "2"), ("secure_delete", "1")] {
            must_be(&mut connection, name, wanted).await?;
        }
        // `run` does the same, but its future cannot be proven `Send`.
        MIGRATOR.run_direct(None, &mut connection, false).await?;
        connection.close().await?;
        Self::pooled(path, connect).await
    }

    /// Opens a file that is there, to be asked only; a server may have it open.
    pub async fn read(path: impl Into<PathBuf>) -> Result<Self, OpenError> {
        let path = path.into();
        if !path.exists() {
            return Err(OpenError::Missing(format!("'{}'", path.display())));
        }
        let connect = shared(&path).read_only(true).pragma("query_only", "ON");
        let opened = Self::pooled(path, connect).await?;
        // A first start that was killed may have made the file and not yet what stands in it.
        let tables = sqlx::query_scalar("SELECT count(*) FROM sqlite_schema WHERE type = 'table' AND name = 'sealed'");
        match tables.fetch_one(&opened.pool).await? {
            0_i64 => Err(OpenError::Missing(format!("the table of '{}'", opened.path.display()))),
            _ => Ok(opened),
        }
    }

    async fn pooled(path: PathBuf, connect: SqliteConnectOptions) -> Result<Self, OpenError> {
        let pool = SqlitePoolOptions::new()
            .max_connections(CONNECTIONS)
            .test_before_acquire(false)
            .idle_timeout(None)
            .max_lifetime(None)
            .connect_with(connect)
            .await?;
        Ok(Self { path, pool, writing: Mutex::new(()) })
    }

    /// Copies the file as it is at one moment into a new one.
    ///
    /// # Errors
    /// If the new file exists, or the copy fails: then no file is left.
    pub async fn copy(from: &Path, to: &Path) -> Result<(), OpenError> {
        if !from.exists() {
            return Err(OpenError::Missing(format!("'{}'", from.display())));
        }
        let made = |source| OpenError::Make { path: to.to_owned(), source };
        let text = to.to_str().ok_or_else(|| made(std::io::ErrorKind::InvalidFilename.into()))?;
        let file = File::options().write(true).create_new(true).mode(OWNER_ONLY).open(to).map_err(made)?;
        let copied = async {
            let mut connection = shared(from).connect().await?;
            sqlx::query("VACUUM INTO $1").bind(text).execute(&mut connection).await?;
            connection.close().await?;
            file.sync_all().map_err(made)
        };
        let copied = copied.await;
        if copied.is_err() {
            drop(std::fs::remove_file(to));
        }
        copied
    }

    fn failed(&self, error: &sqlx::Error) -> KeyStoreError {
        // SQLITE_FULL, and SQLITE_IOERR_SHMSIZE for the index of the write-ahead log.
        let code = error.as_database_error().and_then(|error| error.code());
        match code.is_some_and(|code| code == "13" || code == "4874") {
            true => KeyStoreError::Full(format!("'{}' cannot grow: {error}", self.path.display())),
            false => KeyStoreError::Unavailable(error.to_string()),
        }
    }

    /// What was replaced stands in the write-ahead log too, until that is started over.
    async fn empty_write_ahead_log(&self) -> Result<bool, KeyStoreError> {
        let rows = sqlx::query("PRAGMA wal_checkpoint(TRUNCATE)").fetch_all(&self.pool).await;
        let rows = rows.map_err(|error| self.failed(&error))?;
        let is_read = rows.first().is_none_or(|row| row.try_get(0).unwrap_or(1) != 0_i64);
        if is_read {
            tracing::warn!("a read keeps the key store's write-ahead log; what was destroyed leaves it with the next");
        }
        Ok(!is_read)
    }
}

fn shared(path: &Path) -> SqliteConnectOptions {
    SqliteConnectOptions::new()
        .filename(path)
        .create_if_missing(false)
        .busy_timeout(BUSY_TIMEOUT)
        .disable_statement_logging()
}

/// SQLite keeps the old value in silence where it cannot set a new one.
async fn must_be(connection: &mut SqliteConnection, name: &'static str, wanted: &'static str) -> Result<(), OpenError> {
    // The name is one of the literals above: a pragma takes no placeholder.
    let row = sqlx::query(AssertSqlSafe(format!("PRAGMA {name}"))).persistent(false).fetch_optional(connection).await?;
    let found = row.map(|row| row.try_get_unchecked::<String, _>(0)).transpose()?.unwrap_or_default();
    if found == wanted { Ok(()) } else { Err(OpenError::Setting { name, wanted, found }) }
}

#[async_trait]
impl KeyStore for SqliteKeys {
    async fn get(&self, name: &str) -> Result<Option<Vec<u8>>, KeyStoreError> {
        let query = sqlx::query_scalar("SELECT value FROM sealed WHERE name = $1").bind(name);
        query.fetch_optional(&self.pool).await.map_err(|error| self.failed(&error))
    }

    async fn rows(&self, prefix: &str, after: &str, limit: usize) -> Result<Vec<SealedRow>, KeyStoreError> {
        let query = sqlx::query_as(
            "SELECT name, value FROM sealed WHERE name >= $1 AND name < $2 AND name > $3 ORDER BY name LIMIT $4",
        );
        let query = query.bind(prefix).bind(end_of(prefix)).bind(after).bind(limit_of(limit));
        let rows: Vec<(String, Vec<u8>)> = query.fetch_all(&self.pool).await.map_err(|error| self.failed(&error))?;
        Ok(rows.into_iter().map(|(name, value)| SealedRow { name, value }).collect())
    }

    async fn add(&self, name: &str, value: &[u8]) -> Result<bool, KeyStoreError> {
        let _writing = self.writing.lock().await;
        let query = sqlx::query("INSERT INTO sealed (name, value) VALUES ($1, $2) ON CONFLICT (name) DO NOTHING");
        let done = query.bind(name).bind(value).execute(&self.pool).await.map_err(|error| self.failed(&error))?;
        Ok(done.rows_affected() == 1)
    }

    async fn replace(&self, name: &str, before: &[u8], value: &[u8]) -> Result<bool, KeyStoreError> {
        let _writing = self.writing.lock().await;
        let query = sqlx::query("UPDATE sealed SET value = $3 WHERE name = $1 AND value = $2");
        let query = query.bind(name).bind(before).bind(value);
        Ok(query.execute(&self.pool).await.map_err(|error| self.failed(&error))?.rows_affected() == 1)
    }

    async fn destroy(&self, names: &[String]) -> Result<u64, KeyStoreError> {
        let _writing = self.writing.lock().await;
        let names = serde_json::json!(names).to_string();
        let query = sqlx::query("DELETE FROM sealed WHERE name IN (SELECT value FROM json_each($1))").bind(names);
        let done = query.execute(&self.pool).await.map_err(|error| self.failed(&error))?;
        self.empty_write_ahead_log().await?;
        Ok(done.rows_affected())
    }

    async fn census(&self, length: u8) -> Result<Vec<(Vec<u8>, u64)>, KeyStoreError> {
        let query =
            sqlx::query_as("SELECT substr(value, 1, $1) AS head, COUNT(*) FROM sealed GROUP BY head ORDER BY head");
        let rows: Vec<(Vec<u8>, i64)> =
            query.bind(i64::from(length)).fetch_all(&self.pool).await.map_err(|error| self.failed(&error))?;
        Ok(rows.into_iter().map(|(head, rows)| (head, counted(rows))).collect())
    }

    async fn scrub(&self) -> Result<bool, KeyStoreError> {
        let _writing = self.writing.lock().await;
        self.empty_write_ahead_log().await
    }

    async fn close(&self) {
        self.pool.close().await;
    }
}
