//! The opened log's database, for what only its kind can do.

use std::fs::{File, TryLockError};
use std::path::Path;
use std::sync::Arc;

use anyhow::Context;

use crate::config::{Config, LogPlace};
use crate::event_store::{
    EventReader, EventStore, Log, Options, PostgresReader, PostgresStore, SqliteReader, SqliteStore,
};
use crate::execute::transfer::UNFINISHED;

/// A log's database, with everything of it opened.
pub(super) enum Store {
    Sqlite(Arc<SqliteStore>),
    Postgres {
        store: Arc<PostgresStore>,
        /// Keeps other processes of this machine off the read models; with SQLite the log's own lock does.
        _lock: File,
    },
}

impl Store {
    pub(super) async fn open(config: &Config) -> anyhow::Result<Self> {
        match config.log_place()? {
            LogPlace::Sqlite(path) => {
                let cannot = || format!("cannot open the log '{}'", path.display());
                Ok(Self::Sqlite(Arc::new(SqliteStore::open(Options::at(&path)).await.with_context(cannot)?)))
            }
            LogPlace::Postgres(options) => {
                // Before the log is taken from whoever has it.
                let lock = lock(&config.read_models_path()?)?;
                let cannot = format!("database.url: cannot open the log in the database {}", options.place());
                let store = Arc::new(PostgresStore::open(*options).await.context(cannot)?);
                Ok(Self::Postgres { store, _lock: lock })
            }
        }
    }

    pub(super) async fn log(&self, config: &Config) -> anyhow::Result<Log> {
        let store = self.events();
        let unfinished = store.reader().checkpoint(UNFINISHED, 0).await?.is_some();
        anyhow::ensure!(
            !unfinished,
            "the import into this store did not come to its end: make it anew, and import again"
        );
        Ok(Log::start(store, config.event_store.clone()).await?)
    }

    /// The store, for whoever appends without a [`Log`].
    pub(super) fn events(&self) -> Arc<dyn EventStore> {
        match self {
            Self::Sqlite(store) => Arc::clone(store) as _,
            Self::Postgres { store, .. } => Arc::clone(store) as _,
        }
    }

    /// Ends what the database has open; to be called when nobody writes any more.
    pub(super) async fn close(&self) {
        match self {
            Self::Sqlite(store) => store.write_back().await,
            Self::Postgres { store, .. } => store.close().await,
        }
    }
}

/// The log, to be asked only; a server may run on it meanwhile.
pub async fn reader(config: &Config) -> anyhow::Result<Box<dyn EventReader>> {
    match config.log_place()? {
        LogPlace::Sqlite(path) => {
            let cannot = || format!("cannot read the log '{}'", path.display());
            Ok(Box::new(SqliteReader::open(&path).await.with_context(cannot)?))
        }
        LogPlace::Postgres(options) => {
            let cannot = format!("database.url: cannot read the log in the database {}", options.place());
            Ok(Box::new(PostgresReader::open(*options).await.context(cannot)?))
        }
    }
}

/// Takes `<path>.lock` for as long as the file lives; the operating system gives it back when the process ends.
fn lock(read_models: &Path) -> anyhow::Result<File> {
    let mut path = read_models.as_os_str().to_owned();
    path.push(".lock");
    let path = Path::new(&path);
    let file = File::options().create(true).truncate(false).write(true).open(path);
    let file = file.with_context(|| format!("projections.path: the lock file '{}' cannot be used", path.display()))?;
    match file.try_lock() {
        Ok(()) => Ok(file),
        Err(TryLockError::WouldBlock) => {
            anyhow::bail!("projections.path: another process has '{}' open", read_models.display())
        }
        Err(TryLockError::Error(error)) => {
            Err(error).with_context(|| format!("projections.path: the lock file '{}' cannot be used", path.display()))
        }
    }
}
