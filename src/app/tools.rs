//! What an operator asks of a store beside, or instead of, a running server.

use std::io::{BufRead, Write};
use std::path::Path;

use anyhow::{Context, ensure};

use super::keys;
use super::store::{self, Store};
use crate::clock::SystemClock;
use crate::config::{Config, LogPlace};
use crate::event_store::SqliteReader;
use crate::execute::history::AsOf;
use crate::execute::state_as_of;
use crate::execute::transfer::{self, Exported, Imported, UNFINISHED};
use crate::execute::vault::Vault;
use crate::execute::verify;
use crate::projections::{Name, ReadModels};

/// Checks the log, and the read models if they are wanted; `progress` is told how many events are read, of how many.
pub async fn verify(
    config: &Config,
    with_read_models: bool,
    mut progress: impl FnMut(u64, u64) + Send,
) -> anyhow::Result<verify::Report> {
    let reader = store::reader(config).await?;
    let keys = keys::read(config).await?;
    ensure!(
        reader.checkpoint(UNFINISHED, 0).await?.is_none(),
        "the store is from an import that did not come to its end"
    );
    let mut report = verify::verify(&*reader, keys.as_deref(), &mut progress).await?;
    let read_models = config.read_models_path()?;
    // They are this node's own, and come again from the log: a restored log has none.
    if with_read_models && read_models.exists() {
        let verified = ReadModels::verify(&read_models, &*reader, progress).await?;
        report.read_models = Name::ALL.len() as u64;
        for held in verified.held {
            let what = format!("read model '{}'", held.projection.as_str());
            report.differs(what, format!("all of stream '{}'", held.event.stream), held.event.reason);
        }
        if let Some(difference) = verified.difference {
            report.differs("read models", "the rows that the log makes", difference.to_string());
        }
    }
    Ok(report)
}

/// The state of a stream, as JSON that a person can read; `None` if it had no event then.
pub async fn state(config: &Config, stream: &str, as_of: Option<AsOf>) -> anyhow::Result<Option<serde_json::Value>> {
    let reader = store::reader(config).await?;
    Ok(state_as_of(&*reader, stream, as_of).await?)
}

/// What opens data of messages; `None` if there is no key store beside the log.
pub async fn vault(config: &Config) -> anyhow::Result<Option<Vault>> {
    keys::read_vault(config, &SystemClock).await
}

/// Writes the whole store as text.
pub async fn export(config: &Config, to: impl Write, progress: impl FnMut(u64, u64)) -> anyhow::Result<Exported> {
    let reader = store::reader(config).await?;
    let keys = keys::read(config).await?.context("there is no key store beside the log")?;
    Ok(transfer::export(&*reader, &*keys, to, progress).await?)
}

/// Fills an empty store from such a text.
pub async fn import(config: &Config, from: impl BufRead, progress: impl FnMut(u64, u64)) -> anyhow::Result<Imported> {
    let store = Store::open(config).await?;
    let keys = keys::open(config).await?;
    let imported = transfer::import(&*store.events(), &*keys, &config.retention, from, progress).await?;
    keys.close().await;
    store.close().await;
    Ok(imported)
}

/// Copies a SQLite log to a new file, as it is at one moment.
pub async fn backup(config: &Config, to: &Path) -> anyhow::Result<()> {
    let LogPlace::Sqlite(path) = config.log_place()? else {
        anyhow::bail!("this copies SQLite alone: PostgreSQL has pg_dump and pg_basebackup for it");
    };
    SqliteReader::copy(&path, to)
        .await
        .with_context(|| format!("cannot copy the log '{}' to '{}'", path.display(), to.display()))
}
