//! Where sealed keys and secrets are kept, apart from the log.
//!
//! The log is for ever, and its copies are many; what must be destroyed one day, and what opens everything else, has a
//! store of its own: a file beside the log (SQLite), a schema of its own (PostgreSQL). A row is a name and sealed bytes.
//! This module knows neither what they mean nor the keys that open them; `execute::vault` does.
//!
//! - Each call is one statement, durable when it returns.
//! - A destroyed or replaced row is overwritten in SQLite's files. In PostgreSQL it stays in dead rows until
//!   [`KeyStore::scrub`], and in the write-ahead log until that is reused; it is sealed.

pub mod horizon;
mod memory;
mod postgres;
mod sqlite;

use async_trait::async_trait;

pub use memory::MemoryKeys;
pub use postgres::PostgresKeys;
pub use sqlite::SqliteKeys;

/// A sealed row.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SealedRow {
    /// Under what it is found. Visible ASCII.
    pub name: String,
    /// The sealed bytes.
    pub value: Vec<u8>,
}

/// The store cannot do what it was asked.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum KeyStoreError {
    /// It cannot be asked now.
    #[error("the key store is unavailable: {0}")]
    Unavailable(String),
    /// It has no room to grow.
    #[error("the key store is full: {0}")]
    Full(String),
}

/// Why the store was not opened.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// There is none, and whoever only asks makes none.
    #[error("there is no key store at {0}")]
    Missing(String),
    /// A file could not be made.
    #[error("the key store '{path}' cannot be made or written")]
    Make {
        /// The file.
        path: std::path::PathBuf,
        /// What the operating system says.
        #[source]
        source: std::io::Error,
    },
    /// A setting that it relies on did not take.
    #[error("the setting '{name}' of the key store is {found} and must be {wanted}")]
    Setting {
        /// Its name.
        name: &'static str,
        /// What it must be.
        wanted: &'static str,
        /// What it is.
        found: String,
    },
    /// Its tables could not be brought up to date, or belong to a newer program.
    #[error("the tables of the key store cannot be brought up to date")]
    Migrate(#[from] sqlx::migrate::MigrateError),
    /// The database failed, or could not be reached.
    #[error("the key store cannot be opened")]
    Database(#[from] sqlx::Error),
}

/// What a database must do to hold sealed rows.
#[async_trait]
pub trait KeyStore: Send + Sync + 'static {
    /// The sealed bytes of that name.
    async fn get(&self, name: &str) -> Result<Option<Vec<u8>>, KeyStoreError>;

    /// Rows whose names begin with `prefix`, in the order of the names, behind the name `after`, at most `limit`.
    async fn rows(&self, prefix: &str, after: &str, limit: usize) -> Result<Vec<SealedRow>, KeyStoreError>;

    /// Adds a row; `false`, and nothing changes, if there is one of that name.
    async fn add(&self, name: &str, value: &[u8]) -> Result<bool, KeyStoreError>;

    /// Replaces the bytes of a row if they are still `before`; `false` if not.
    async fn replace(&self, name: &str, before: &[u8], value: &[u8]) -> Result<bool, KeyStoreError>;

    /// Destroys rows, all or none; those that are not there do not hinder. Returns how many were.
    async fn destroy(&self, names: &[String]) -> Result<u64, KeyStoreError>;

    /// How many rows begin with the same `length` bytes, by these bytes.
    async fn census(&self, length: u8) -> Result<Vec<(Vec<u8>, u64)>, KeyStoreError>;

    /// Takes what was destroyed or replaced out of the database's files. `false`: somebody may still read it, to be tried
    /// again.
    async fn scrub(&self) -> Result<bool, KeyStoreError>;

    /// Ends all connections.
    async fn close(&self);
}

/// The end of all names that begin with the prefix: names are visible ASCII, and this stands behind them.
fn end_of(prefix: &str) -> String {
    format!("{prefix}\u{7f}")
}

fn limit_of(limit: usize) -> i64 {
    i64::try_from(limit).unwrap_or(i64::MAX)
}

fn counted(rows: i64) -> u64 {
    u64::try_from(rows).unwrap_or(0)
}
