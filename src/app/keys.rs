//! The operator's keys, and the key store that they open.

use std::sync::Arc;

use anyhow::Context;

use super::key_file;
use crate::clock::Clock;
use crate::config::{Config, KeyPlace};
use crate::event_store::Log;
use crate::execute::vault::{OperatorKeys, Vault, VaultError};
use crate::key_store::{KeyStore, OpenError, PostgresKeys, SqliteKeys};

/// Opens what seals and opens secrets; a new log gets a key and a pepper.
pub(super) async fn open_vault(config: &Config, log: &Log, clock: &dyn Clock) -> anyhow::Result<Vault> {
    let store = open(config).await?;
    let is_new = store.rows("", "", 1).await?.is_empty();
    // A new pepper would make every key and fingerprint of the log another.
    if is_new && (0..log.shards()).any(|shard| log.head(shard) > 0) {
        return Err(VaultError::Empty).context(cannot(config, "open"));
    }
    let key = key_file::open(&config.key_path()?, !is_new, clock)?;
    let keys = OperatorKeys::new(key, []);
    Vault::open(store, keys, clock).await.context("secrets: the keys do not fit the key store")
}

/// The key store, made if there is none.
pub(super) async fn open(config: &Config) -> anyhow::Result<Arc<dyn KeyStore>> {
    let opened: Result<Arc<dyn KeyStore>, OpenError> = match config.key_place()? {
        KeyPlace::Sqlite(path) => SqliteKeys::open(path).await.map(|store| Arc::new(store) as _),
        KeyPlace::Postgres(url) => PostgresKeys::open(&url).await.map(|store| Arc::new(store) as _),
    };
    opened.with_context(|| cannot(config, "open"))
}

/// The key store, to be asked only, beside a running server; `None` if there is none.
pub(super) async fn read(config: &Config) -> anyhow::Result<Option<Arc<dyn KeyStore>>> {
    let opened: Result<Arc<dyn KeyStore>, OpenError> = match config.key_place()? {
        KeyPlace::Sqlite(path) => SqliteKeys::read(path).await.map(|store| Arc::new(store) as _),
        KeyPlace::Postgres(url) => PostgresKeys::read(&url).await.map(|store| Arc::new(store) as _),
    };
    match opened {
        Ok(store) => Ok(Some(store)),
        Err(OpenError::Missing(_)) => Ok(None),
        Err(error) => Err(error).with_context(|| cannot(config, "read")),
    }
}

fn cannot(config: &Config, what: &str) -> String {
    match config.key_place() {
        Ok(KeyPlace::Sqlite(path)) => format!("secrets.store_url: cannot {what} the key store '{}'", path.display()),
        Ok(KeyPlace::Postgres(_)) | Err(_) => format!("secrets.store_url: cannot {what} the key store"),
    }
}
