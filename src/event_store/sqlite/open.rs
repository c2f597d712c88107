//! Opening the database: the lock on the file, and settings that are read back before they are relied on.

use std::fs::{File, TryLockError};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use sqlx::sqlite::{SqliteConnectOptions, SqliteJournalMode, SqlitePool, SqlitePoolOptions, SqliteSynchronous};
use sqlx::{AssertSqlSafe, ConnectOptions, Connection, Row, SqliteConnection};

use super::background;
use super::statement::STATEMENTS;

/// How long a statement waits for another program that holds the file, such as a backup.
pub(super) const BUSY_TIMEOUT_MS: u32 = 5_000;
/// How long a purge waits for those who read: meanwhile nothing is appended.
pub(super) const PURGE_WAIT_MS: u32 = 100;
/// Pages in the write-ahead log before a commit moves to the main file what [`super::write_back`] has left: 64 MiB.
pub(super) const WAL_CHECKPOINT_PAGES: u32 = 16_384;
/// To how many bytes the write-ahead log shrinks after a long read let it grow.
const WAL_KEPT_BYTES: u32 = 64 * 1024 * 1024;
/// Page cache of the writing connection, in KiB; filled as it is needed.
const WRITER_CACHE_KIB: u32 = 32 * 1024;
/// Page cache of each reading connection, in KiB.
const READER_CACHE_KIB: u32 = 4 * 1024;
/// Who may read and write a new file: it holds what tenants send.
pub(super) const OWNER_ONLY: u32 = 0o600;
/// Rows on the way from SQLite's thread to the reader.
const ROW_BUFFER: usize = 512;

/// Where the database is and how much it may take.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Options {
    /// The database file; made with its first opening, the folder is not.
    pub path: PathBuf,
    /// How many reads run at once, from 1; each is a thread with a page cache of 4 MiB.
    pub read_connections: u32,
    /// To how many 4 KiB pages the file may grow; `None` for as many as the disk holds. Once full, the log answers
    /// that it is unavailable and loses nothing.
    pub max_pages: Option<u32>,
}

impl Options {
    /// A database in this file, read by four connections.
    pub fn at(path: impl Into<PathBuf>) -> Self {
        Self { path: path.into(), read_connections: 4, max_pages: None }
    }
}

/// Why the database was not opened.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// Another process, or another handle of this one, has the database.
    #[error("the database is already open: '{0}' is locked")]
    Locked(PathBuf),
    /// The lock file could not be made or asked.
    #[error("the lock file '{path}' cannot be used")]
    LockFile {
        /// The lock file.
        path: PathBuf,
        /// What the operating system says.
        #[source]
        source: std::io::Error,
    },
    /// The database file could not be made or opened.
    #[error("the file '{path}' cannot be made or written")]
    Make {
        /// The file.
        path: PathBuf,
        /// What the operating system says.
        #[source]
        source: std::io::Error,
    },
    /// A setting that the log relies on did not take.
    #[error("the database setting '{name}' is {found} and must be {wanted}")]
    Setting {
        /// The name of the pragma.
        name: &'static str,
        /// What it must be.
        wanted: String,
        /// What it is.
        found: String,
    },
    /// The tables could not be brought up to date, or belong to a newer program.
    #[error("the tables of the database cannot be brought up to date")]
    Migrate(#[from] sqlx::migrate::MigrateError),
    /// There is no such file, or its folder may not be looked into.
    #[error("the file '{path}' cannot be read")]
    Missing {
        /// The file.
        path: PathBuf,
        /// What the operating system says.
        #[source]
        source: std::io::Error,
    },
    /// The file was not made by this program, or by another version of it.
    #[error("the tables of '{path}' are not those that this program reads: {reason}")]
    Tables {
        /// The file.
        path: PathBuf,
        /// In what they differ.
        reason: String,
    },
    /// Those who read and write share a small file beside the database, which is there while a server runs. It is
    /// neither there nor can it be made.
    #[error("'{0}' can be read only while a server runs or by whoever may write to its folder")]
    Unshared(PathBuf),
    /// SQLite failed.
    #[error("the database cannot be opened")]
    Database(#[from] sqlx::Error),
}

/// Takes `<path>.lock` for as long as the file lives. The operating system gives it back when the process ends,
/// however it ends.
pub(super) fn lock(database: &Path) -> Result<Arc<File>, OpenError> {
    let mut path = database.as_os_str().to_owned();
    path.push(".lock");
    let path = PathBuf::from(path);
    let file = File::options().create(true).append(true).mode(OWNER_ONLY).open(&path);
    let file = file.map_err(|source| OpenError::LockFile { path: path.clone(), source })?;
    match file.try_lock() {
        Ok(()) => Ok(Arc::new(file)),
        Err(TryLockError::WouldBlock) => Err(OpenError::Locked(path)),
        Err(TryLockError::Error(source)) => Err(OpenError::LockFile { path, source }),
    }
}

/// Makes the file if there is none. SQLite would let everybody read it; the files it puts beside it are as open as it is.
pub(super) fn make(database: &Path) -> Result<(), OpenError> {
    match File::options().create(true).append(true).mode(OWNER_ONLY).open(database) {
        Ok(_) => Ok(()),
        Err(source) => Err(OpenError::Make { path: database.to_owned(), source }),
    }
}

/// The connection that writes.
///
/// - `synchronous=FULL`: a commit returns when the disk has it; `fullfsync` asks the same of macOS.
/// - `secure_delete`: what is destroyed is overwritten, not only unlinked.
/// - `temp_store`: what is kept to undo a statement stays in memory. Else each statement over several rows makes a file.
pub(super) async fn connect_writer(options: &Options) -> Result<SqliteConnection, OpenError> {
    let mut connect = shared(options)
        .create_if_missing(true)
        .journal_mode(SqliteJournalMode::Wal)
        .synchronous(SqliteSynchronous::Full)
        .pragma("fullfsync", "ON")
        .pragma("secure_delete", "ON")
        .pragma("temp_store", "MEMORY")
        .statement_cache_capacity(STATEMENTS)
        .pragma("wal_autocheckpoint", WAL_CHECKPOINT_PAGES.to_string())
        .pragma("journal_size_limit", WAL_KEPT_BYTES.to_string())
        .pragma("cache_size", format!("-{WRITER_CACHE_KIB}"));
    if let Some(pages) = options.max_pages {
        connect = connect.pragma("max_page_count", pages.to_string());
    }
    let mut connection = connect.connect().await?;
    for (name, wanted) in [
        ("journal_mode", "wal".to_owned()),
        ("synchronous", "2".to_owned()),
        ("fullfsync", "1".to_owned()),
        ("secure_delete", "1".to_owned()),
        ("temp_store", "2".to_owned()),
        ("busy_timeout", BUSY_TIMEOUT_MS.to_string()),
        ("wal_autocheckpoint", WAL_CHECKPOINT_PAGES.to_string()),
        ("journal_size_limit", WAL_KEPT_BYTES.to_string()),
        ("cache_size", format!("-{WRITER_CACHE_KIB}")),
    ] {
        must_be(&mut connection, name, wanted).await?;
    }
    Ok(connection)
}

/// A connection that moves what is committed to the main file, and writes nothing of its own.
pub(super) async fn connect_beside_writer(options: &Options) -> Result<SqliteConnection, sqlx::Error> {
    let connect = shared(options).create_if_missing(false).synchronous(SqliteSynchronous::Full);
    background::connect(connect.pragma("fullfsync", "ON").pragma("checkpoint_fullfsync", "ON")).await
}

/// The connections that read; they cannot write.
pub(super) async fn connect_readers(options: &Options) -> Result<SqlitePool, OpenError> {
    let connect = shared(options)
        .read_only(true)
        .row_buffer_size(ROW_BUFFER)
        .pragma("query_only", "ON")
        .pragma("cache_size", format!("-{READER_CACHE_KIB}"));
    let pool = SqlitePoolOptions::new()
        .max_connections(options.read_connections.max(1))
        .test_before_acquire(false)
        .idle_timeout(None)
        .max_lifetime(None)
        .connect_with(connect)
        .await?;
    let mut connection = pool.acquire().await?;
    must_be(&mut connection, "journal_mode", "wal".to_owned()).await?;
    must_be(&mut connection, "query_only", "1".to_owned()).await?;
    drop(connection);
    Ok(pool)
}

/// Copies the database into an empty file. By a connection that may write, although it does not: what SQLite attaches
/// for the copy may do no more than the connection.
pub(super) async fn copy(options: &Options, to: &str) -> Result<(), OpenError> {
    let mut connection = shared(options).create_if_missing(false).connect().await?;
    sqlx::query("VACUUM INTO $1").bind(to).execute(&mut connection).await?;
    connection.close().await?;
    // A copy is in the mode of a new database; those who read beside a server insist on a log that is written ahead.
    let made = SqliteConnectOptions::new().filename(to).journal_mode(SqliteJournalMode::Wal).connect().await?;
    Ok(made.close().await?)
}

/// Changes how long statements of a connection wait.
pub(super) async fn set_busy_timeout(connection: &mut SqliteConnection, limit_ms: u32) -> Result<(), sqlx::Error> {
    // A number of ours: a pragma takes no placeholder.
    sqlx::query(AssertSqlSafe(format!("PRAGMA busy_timeout = {limit_ms}"))).fetch_all(connection).await.map(drop)
}

fn shared(options: &Options) -> SqliteConnectOptions {
    SqliteConnectOptions::new()
        .filename(&options.path)
        .busy_timeout(Duration::from_millis(u64::from(BUSY_TIMEOUT_MS)))
        .disable_statement_logging()
}

/// SQLite ignores a pragma that it does not know and keeps the old value where it cannot set a new one, both in
/// silence; so each is read back.
async fn must_be(connection: &mut SqliteConnection, name: &'static str, wanted: String) -> Result<(), OpenError> {
    // The name is one of the literals above: a pragma takes no placeholder.
    let row = sqlx::query(AssertSqlSafe(format!("PRAGMA {name}"))).persistent(false).fetch_optional(connection).await?;
    // Unchecked: some settings are answered as text, most as numbers, all can be read as text.
    let found = row.map(|row| row.try_get_unchecked::<String, _>(0)).transpose()?;
    let found = found.unwrap_or_else(|| "unknown".to_owned());
    if found == wanted { Ok(()) } else { Err(OpenError::Setting { name, wanted, found }) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_setting_that_did_not_take_is_named() {
        // A database in memory has no write-ahead log, and says nothing when it is asked for one.
        let connect = SqliteConnectOptions::new().filename(":memory:").journal_mode(SqliteJournalMode::Wal);
        let mut connection = connect.connect().await.unwrap();
        let refused = must_be(&mut connection, "journal_mode", "wal".to_owned()).await.unwrap_err();
        assert_eq!(refused.to_string(), "the database setting 'journal_mode' is memory and must be wal");
        let unknown = must_be(&mut connection, "no_such_setting", "1".to_owned()).await.unwrap_err();
        assert_eq!(unknown.to_string(), "the database setting 'no_such_setting' is unknown and must be 1");
    }

    #[tokio::test]
    async fn the_writer_syncs_each_commit_and_a_reader_cannot_write() {
        let folder = tempfile::tempdir().unwrap();
        let options = Options::at(folder.path().join("log.db"));
        let mut writer = connect_writer(&options).await.unwrap();
        for (name, value) in [("journal_mode", "wal"), ("synchronous", "2"), ("secure_delete", "1")] {
            must_be(&mut writer, name, value.to_owned()).await.unwrap();
        }
        let readers = connect_readers(&options).await.unwrap();
        let error = sqlx::query("CREATE TABLE mine (id INTEGER)").execute(&readers).await.unwrap_err().to_string();
        assert!(error.contains("readonly database"), "{error}");
    }
}
