//! The file: how it is opened, written to and thrown away.
//!
//! Whatever makes a file unusable (damage, tables of another program version) is answered by a new, empty file: the
//! log holds everything that it held.

use std::ffi::OsString;
use std::fs::File;
use std::io::ErrorKind;
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::time::Duration;

use sqlx::sqlite::{SqliteConnectOptions, SqliteJournalMode, SqlitePool, SqlitePoolOptions, SqliteSynchronous};
use sqlx::{AssertSqlSafe, ConnectOptions, Connection, Row, SqliteConnection};
use tokio::sync::{Mutex, MutexGuard};
use tracing::warn;

use super::statement::STATEMENTS;
use crate::event_store::sqlite::background;

/// Raised when the tables or the way they are folded change: rows of another version are thrown away.
const VERSION: i64 = 10;
/// How long a statement waits for another program that holds the file, such as a backup.
const BUSY_TIMEOUT: Duration = Duration::from_secs(5);
/// Queries that run at once; each is a thread with a page cache.
const READ_CONNECTIONS: u32 = 4;
/// Pages in the write-ahead log before a commit moves them to the main file: 1 MiB. The disk gets them at once, and the
/// commits of the log stand in line behind them.
const WAL_CHECKPOINT_PAGES: &str = "256";
/// To how many bytes the write-ahead log shrinks after a long read let it grow.
const WAL_KEPT_BYTES: &str = "67108864";
/// Page cache of the writing connection, in KiB, negative as SQLite wants it.
const WRITER_CACHE: &str = "-16384";
/// Page cache of each reading connection.
const READER_CACHE: &str = "-4096";

/// Why the read models were not opened.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// An unusable file could not be put away.
    #[error("the file '{path}' cannot be removed")]
    Remove {
        /// The file.
        path: PathBuf,
        /// What the operating system says.
        #[source]
        source: std::io::Error,
    },
    /// The tables could not be made.
    #[error("the tables of the read models cannot be made")]
    Migrate(#[from] sqlx::migrate::MigrateError),
    /// The file is of another version, which a new one cannot be.
    #[error("the read models have version {found} and must have {VERSION}")]
    Version {
        /// What it is.
        found: i64,
    },
    /// SQLite failed.
    #[error("the read models cannot be opened")]
    Database(#[from] sqlx::Error),
}

impl OpenError {
    /// Whether a new file would do better.
    fn is_of_the_file(&self) -> bool {
        match self {
            Self::Migrate(_) | Self::Version { .. } => true,
            // SQLITE_CORRUPT and SQLITE_NOTADB.
            Self::Database(error) => {
                let code = error.as_database_error().and_then(|error| error.code());
                code.is_some_and(|code| code == "11" || code == "26")
            }
            Self::Remove { .. } => false,
        }
    }
}

/// One connection that writes, a few that read.
#[derive(Debug)]
pub(super) struct Database {
    path: PathBuf,
    /// Absent after a failure, until the next write opens it again.
    writer: Mutex<Option<SqliteConnection>>,
    pub(super) readers: SqlitePool,
}

impl Database {
    /// Opens the file; one that cannot be used is thrown away first.
    pub(super) async fn open(path: &Path) -> Result<Self, OpenError> {
        match Self::try_open(path).await {
            Err(error) if error.is_of_the_file() => {
                warn!(error = &error as &dyn std::error::Error, "read models are thrown away, to be built again");
                remove(path)?;
                Self::try_open(path).await
            }
            opened => opened,
        }
    }

    async fn try_open(path: &Path) -> Result<Self, OpenError> {
        let mut writer = connect_writer(path).await?;
        if let Err(error) = prepare(&mut writer).await {
            writer.close().await?;
            return Err(error);
        }
        let readers = connect_readers(path).await?;
        Ok(Self { path: path.to_owned(), writer: Mutex::new(Some(writer)), readers })
    }

    /// Opens a file that is there and of this version, or fails.
    pub(super) async fn open_existing(path: &Path) -> Result<Self, OpenError> {
        Self::try_open(path).await
    }

    /// Waits for its turn and begins to write.
    pub(super) async fn begin(&self) -> Result<Write<'_>, sqlx::Error> {
        let mut place = self.writer.lock().await;
        let mut connection = match place.take() {
            Some(connection) => connection,
            None => connect_writer(&self.path).await?,
        };
        sqlx::query("BEGIN IMMEDIATE").execute(&mut connection).await?;
        Ok(Write { place, connection })
    }

    /// Ends all connections, which empties the write-ahead log into the file.
    pub(super) async fn close(self) -> Result<(), sqlx::Error> {
        self.readers.close().await;
        match self.writer.into_inner() {
            Some(writer) => writer.close().await,
            None => Ok(()),
        }
    }
}

/// A transaction. Dropped before its end it takes the connection with it, so that neither a failure nor a task that
/// was stopped leaves a half-done transaction behind.
pub(super) struct Write<'a> {
    place: MutexGuard<'a, Option<SqliteConnection>>,
    connection: SqliteConnection,
}

impl Write<'_> {
    pub(super) fn connection(&mut self) -> &mut SqliteConnection {
        &mut self.connection
    }

    pub(super) async fn commit(mut self) -> Result<(), sqlx::Error> {
        sqlx::query("COMMIT").execute(&mut self.connection).await?;
        *self.place = Some(self.connection);
        Ok(())
    }

    /// Leaves everything as it was, and returns when SQLite has.
    pub(super) async fn abandon(self) {
        if let Err(error) = self.connection.close().await {
            warn!("the writing connection of the read models was closed with an error: {error}");
        }
    }
}

/// Makes the tables, or makes sure that they are this program's.
async fn prepare(writer: &mut SqliteConnection) -> Result<(), OpenError> {
    let found: i64 = first(writer, "PRAGMA user_version").await?;
    let tables: i64 = first(writer, "SELECT count(*) FROM sqlite_schema").await?;
    if found != VERSION && tables > 0 {
        return Err(OpenError::Version { found });
    }
    // `run` does the same, but its future cannot be proven `Send`.
    sqlx::migrate!("migrations/sqlite_read_models").run_direct(None, writer, false).await?;
    // The number is the literal above: a pragma takes no placeholder.
    sqlx::query(AssertSqlSafe(format!("PRAGMA user_version = {VERSION}"))).execute(writer).await?;
    Ok(())
}

async fn first(writer: &mut SqliteConnection, sql: &'static str) -> Result<i64, sqlx::Error> {
    let rows = sqlx::query(sql).persistent(false).fetch_all(writer).await?;
    rows.first().ok_or(sqlx::Error::RowNotFound)?.try_get(0)
}

/// - `synchronous=NORMAL`: a commit does not wait for the disk. What the disk loses, the log has.
/// - `temp_store`: what is kept to undo a statement stays in memory. Else each statement over several rows makes a file.
///
/// A new file is its owner's alone: it holds what tenants send. SQLite gives the files beside it the same mode.
pub(super) async fn connect_writer(path: &Path) -> Result<SqliteConnection, sqlx::Error> {
    File::options().create(true).append(true).mode(0o600).open(path)?;
    let connect = shared(path)
        .create_if_missing(true)
        .journal_mode(SqliteJournalMode::Wal)
        .synchronous(SqliteSynchronous::Normal)
        .pragma("temp_store", "MEMORY")
        .statement_cache_capacity(STATEMENTS)
        .pragma("wal_autocheckpoint", WAL_CHECKPOINT_PAGES)
        .pragma("journal_size_limit", WAL_KEPT_BYTES)
        .pragma("cache_size", WRITER_CACHE);
    background::connect(connect).await
}

/// One connection that cannot write to the file.
pub(super) async fn connect_reader(path: &Path) -> Result<SqliteConnection, sqlx::Error> {
    shared(path).read_only(true).connect().await
}

/// Makes a file its owner's alone.
pub(super) fn protect(path: &Path) -> std::io::Result<()> {
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o600))
}

/// The connections that answer queries; they cannot write.
async fn connect_readers(path: &Path) -> Result<SqlitePool, sqlx::Error> {
    let connect = shared(path).read_only(true).pragma("query_only", "ON").pragma("cache_size", READER_CACHE);
    SqlitePoolOptions::new()
        .max_connections(READ_CONNECTIONS)
        .test_before_acquire(false)
        .idle_timeout(None)
        .max_lifetime(None)
        .connect_with(connect)
        .await
}

fn shared(path: &Path) -> SqliteConnectOptions {
    SqliteConnectOptions::new().filename(path).busy_timeout(BUSY_TIMEOUT).disable_statement_logging()
}

/// Removes the file and what SQLite keeps beside it: the main file first, for SQLite drops a write-ahead log that it
/// finds beside an empty file.
pub(super) fn remove(path: &Path) -> Result<(), OpenError> {
    for suffix in ["", "-wal", "-shm"] {
        let path = beside(path, suffix);
        match std::fs::remove_file(&path) {
            Err(source) if source.kind() != ErrorKind::NotFound => return Err(OpenError::Remove { path, source }),
            Ok(()) | Err(_) => {}
        }
    }
    Ok(())
}

/// The path with something added to its last name.
pub(super) fn beside(path: &Path, suffix: &str) -> PathBuf {
    let mut name = OsString::from(path.as_os_str());
    name.push(suffix);
    PathBuf::from(name)
}
