//! The operator's keys, and the key store that they open.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use serde::Serialize;

use super::store::Store;
use super::{audited, operator_keys};
use crate::clock::Clock;
use crate::config::{Config, KeyPlace};
use crate::event_store::{EventReader, Log};
use crate::execute::vault::{Census, KeyId, OperatorKeys, Vault, VaultError, Verified, holds_events};
use crate::key_store::{KeyStore, OpenError, PostgresKeys, SqliteKeys};

/// How long sealing anew rests between two pieces: deliveries go on meanwhile.
const REST: Duration = Duration::from_millis(20);
/// How long it rests after a failure.
const REST_AFTER_FAILURE: Duration = Duration::from_secs(30);
/// After how many rows it says how far it is.
const TELL_EVERY: u64 = 10_000;

/// Opens what seals and opens secrets; a new log gets a key and a pepper, and is bound to them.
pub(super) async fn open_vault(config: &Config, log: &Log, clock: &dyn Clock) -> anyhow::Result<Vault> {
    let store = open(config).await?;
    let is_empty = must_not_be_empty_beside_events(config, &*store, log.reader()).await?;
    let sealed_under = Census::of(&*store).await?.ids();
    let keys = operator_keys::load(config, &sealed_under, is_empty.then_some(clock)).await?;
    let vault = Vault::open(store, keys, clock).await.with_context(|| cannot(config, "use"))?;
    vault.bind(log, clock).await.with_context(|| cannot(config, "use"))?;
    Ok(vault)
}

/// Whether the key store is empty. A new pepper would make every key and fingerprint of the log another.
async fn must_not_be_empty_beside_events(
    config: &Config,
    store: &dyn KeyStore,
    log: &dyn EventReader,
) -> anyhow::Result<bool> {
    let is_empty = store.rows("", "", 1).await?.is_empty();
    if is_empty && holds_events(log).await? {
        return Err(VaultError::Empty).context(cannot(config, "use"));
    }
    Ok(is_empty)
}

/// Opens what opens data of messages, beside a running server; `None` if there is no key store. Changes nothing.
pub(super) async fn read_vault(config: &Config, clock: &dyn Clock) -> anyhow::Result<Option<Vault>> {
    let Some(store) = read(config).await? else { return Ok(None) };
    let sealed_under = Census::of(&*store).await?.ids();
    let keys = operator_keys::load(config, &sealed_under, None).await?;
    Ok(Some(Vault::open(store, keys, clock).await.with_context(|| cannot(config, "use"))?))
}

/// Refuses keys and a key store that do not fit each other, or the log: to be asked before the log is taken from whoever has
/// it. Changes nothing, and refuses all that [`open_vault`] would but for what only a writer can find.
pub(super) async fn must_fit(config: &Config, log: &dyn EventReader, clock: &dyn Clock) -> anyhow::Result<()> {
    let Some(store) = read(config).await? else {
        anyhow::ensure!(!holds_events(log).await?, "{}: {}", cannot(config, "use"), VaultError::Empty);
        return Ok(());
    };
    if must_not_be_empty_beside_events(config, &*store, log).await? {
        store.close().await;
        return Ok(());
    }
    let sealed_under = Census::of(&*store).await?.ids();
    let keys = operator_keys::load(config, &sealed_under, None).await?;
    let vault = Vault::open(store, keys, clock).await.with_context(|| cannot(config, "use"))?;
    vault.must_fit(log).await.with_context(|| cannot(config, "use"))?;
    vault.close().await;
    Ok(())
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
        Ok(KeyPlace::Sqlite(path)) => format!("secrets: cannot {what} the key store '{}'", path.display()),
        Ok(KeyPlace::Postgres(_)) | Err(_) => format!("secrets: cannot {what} the key store"),
    }
}

/// Seals what is still under an older key under the current one, beside everything else. Ends when all is done.
pub(super) async fn keep_rewrapping(vault: Arc<Vault>, clock: Arc<dyn Clock>) {
    while let Err(error) = rewrap(&vault, &*clock).await {
        tracing::warn!(error = &error as &dyn std::error::Error, "sealing under the current key rests: {error}");
        tokio::time::sleep(REST_AFTER_FAILURE).await;
    }
}

async fn rewrap(vault: &Vault, clock: &dyn Clock) -> Result<(), VaultError> {
    let current = vault.current_key();
    let (_, rows) = vault.census().await?.beside(current);
    if rows == 0 {
        return Ok(());
    }
    tracing::info!(rows, "rows of the key store are sealed under older keys and are being sealed under {current}");
    let (mut sealed, mut told, mut after) = (0, 0, String::new());
    let mut damaged = Vec::new();
    loop {
        let piece = vault.rewrap(&after, clock).await?;
        sealed += piece.sealed;
        damaged.extend(piece.damaged);
        if sealed - told >= TELL_EVERY {
            told = sealed;
            tracing::info!(sealed, rows, "sealing the key store under {current}");
        }
        let Some(next) = piece.next else { break };
        after = next;
        tokio::time::sleep(REST).await;
    }
    vault.scrub().await?;
    match damaged.len() {
        0 => tracing::info!(sealed, "every row of the key store is sealed under {current}; older keys may go"),
        count => tracing::error!("{count} rows of the key store are damaged: 'tidings keys verify' names them"),
    }
    Ok(())
}

/// A key, as `tidings keys status` tells of it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct KeyStatus {
    /// Its id.
    pub id: KeyId,
    /// How many rows are sealed under it.
    pub rows: u64,
    /// Whether new rows are.
    pub current: bool,
    /// Whether the configuration has it.
    pub configured: bool,
}

/// What `tidings keys status` tells.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Status {
    /// Those that are configured, the current one first, and those that rows need.
    pub keys: Vec<KeyStatus>,
    /// Rows that do not even name a key.
    pub damaged: u64,
}

impl Status {
    fn of(census: &Census, keys: &OperatorKeys) -> Self {
        let configured = keys.ids();
        let mut ids = configured.clone();
        ids.extend(census.ids());
        let mut told = Vec::new();
        for id in ids {
            if told.iter().all(|key: &KeyStatus| key.id != id) {
                let rows = census.keys.iter().find(|(other, _)| *other == id).map_or(0, |(_, rows)| *rows);
                told.push(KeyStatus { id, rows, current: id == keys.current(), configured: configured.contains(&id) });
            }
        }
        Self { keys: told, damaged: census.damaged }
    }
}

/// How many rows are under which key. The server may be running.
pub async fn status(config: &Config) -> anyhow::Result<Status> {
    let (store, keys) = existing(config).await?;
    Ok(Status::of(&Census::of(&*store).await?, &keys))
}

/// Opens every row. The server may be running.
pub async fn verify(config: &Config) -> anyhow::Result<Verified> {
    let (store, keys) = existing(config).await?;
    Ok(keys.verify(&*store).await?)
}

/// Seals every row under the current key, while no server runs; `progress` is told how many are done, of how many.
pub async fn rotate(config: &Config, clock: &dyn Clock, mut progress: impl FnMut(u64, u64)) -> anyhow::Result<Status> {
    // Takes the log, so that nobody else has it.
    let events = Store::open(config).await?;
    let log = events.log(config).await?;
    let vault = open_vault(config, &log, clock).await?;
    audited::key(&log, &vault, clock).await?;
    let (_, rows) = vault.census().await?.beside(vault.current_key());
    let (mut sealed, mut after) = (0, String::new());
    loop {
        let piece = vault.rewrap(&after, clock).await?;
        sealed += piece.sealed;
        progress(sealed, rows);
        let Some(next) = piece.next else { break };
        after = next;
    }
    vault.scrub().await?;
    vault.close().await;
    log.close().await;
    events.close().await;
    status(config).await
}

/// Copies a SQLite key store to a new file, as it is at one moment.
pub async fn backup(config: &Config, to: &Path) -> anyhow::Result<()> {
    let KeyPlace::Sqlite(path) = config.key_place()? else {
        anyhow::bail!("this copies SQLite alone: PostgreSQL has pg_dump --schema=tidings_keys for it");
    };
    SqliteKeys::copy(&path, to).await.with_context(|| cannot(config, "copy"))
}

async fn existing(config: &Config) -> anyhow::Result<(Arc<dyn KeyStore>, OperatorKeys)> {
    let store = read(config).await?.context("there is no key store: the first start of the server makes one")?;
    let sealed_under = Census::of(&*store).await?.ids();
    let keys = operator_keys::load(config, &sealed_under, None).await?;
    Ok((store, keys))
}
