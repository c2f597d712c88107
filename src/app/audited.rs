//! Parts of the configuration whose changes auditors want to know of: what is in force is compared with what was last
//! recorded, and a change becomes an event before anything is sent, or sealed anew, under it.
//!
//! It concerns all tenants and is shown to none, so it stands in the stream of an id that no tenant has.

use anyhow::Context;
use serde_json::{Map, Value, json};

use crate::clock::Clock;
use crate::codec;
use crate::config::Config;
use crate::domain::event::{ConfigChanged, Event, KekRotated, TenantEvent};
use crate::domain::id::TenantId;
use crate::event_store::{Append, Lifetime, Log, StreamWrite};
use crate::execute::vault::{KeyId, Vault};
use crate::execute::{self, Meta};

/// Events read at a time.
const PAGE: usize = 100;
const EGRESS: &str = "egress";

/// Records what may be reached from now on, if that is not what was recorded last.
pub(super) async fn egress(log: &Log, config: &Config, clock: &dyn Clock) -> anyhow::Result<()> {
    let to = keys(config);
    let of_egress = |event| match event {
        Event::Tenant(TenantEvent::ConfigChanged(changed)) if changed.section == EGRESS => Some(changed.to),
        Event::Tenant(_) | Event::Message(_) | Event::Subscription(_) | Event::Delivery(_) => None,
    };
    let (last, version) = last(log, of_egress).await?;
    let from = last.unwrap_or_else(|| keys(&Config::default()));
    if from == to {
        return Ok(());
    }
    tracing::info!(
        "other addresses may be reached than at the last start or by default: see the audit log of the system"
    );
    let changed = TenantEvent::ConfigChanged(ConfigChanged { section: EGRESS.into(), from, to });
    append(log, version, changed, clock).await
}

/// Records that another of the operator's keys seals from now on, if rows are under others and it is not recorded yet.
pub(super) async fn key(log: &Log, vault: &Vault, clock: &dyn Clock) -> anyhow::Result<()> {
    let (from, rows) = vault.census().await?.beside(vault.current_key());
    let to = vault.current_key().to_string();
    let of_key = |event| match event {
        Event::Tenant(TenantEvent::KekRotated(rotated)) => Some(rotated.to),
        Event::Tenant(_) | Event::Message(_) | Event::Subscription(_) | Event::Delivery(_) => None,
    };
    let (last, version) = last(log, of_key).await?;
    // One that was interrupted goes on.
    if rows == 0 || last.as_ref() == Some(&to) {
        return Ok(());
    }
    let from = from.iter().map(KeyId::to_string).collect();
    append(log, version, TenantEvent::KekRotated(KekRotated { from, to }), clock).await
}

async fn append(log: &Log, version: u64, event: TenantEvent, clock: &dyn Clock) -> anyhow::Result<()> {
    let event = execute::new_event(&Event::Tenant(event), clock.now(), Some(&Meta::system()), None, clock);
    let write = StreamWrite {
        stream: execute::tenant_stream(TenantId::INSTALLATION),
        first_version: version + 1,
        lifetime: Lifetime::Kept,
        events: vec![event],
    };
    let shard = execute::shard_of(TenantId::INSTALLATION, log.shards());
    log.append(shard, Append { writes: vec![write], ..Append::default() }).await?;
    Ok(())
}

/// Every key that says what may be reached. None is a secret.
fn keys(config: &Config) -> Map<String, Value> {
    let mut keys = match json!(config.egress) {
        Value::Object(keys) => keys,
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) | Value::Array(_) => Map::new(),
    };
    keys.insert("auth.issuer_allow_cidrs".into(), json!(config.auth.issuer_allow_cidrs));
    keys
}

/// What was last recorded of that, and the version of the stream.
async fn last<T>(log: &Log, pick: impl Fn(Event) -> Option<T>) -> anyhow::Result<(Option<T>, u64)> {
    let stream = execute::tenant_stream(TenantId::INSTALLATION);
    let cannot = "what was recorded of the installation cannot be read";
    let (mut last, mut version) = (None, 0);
    loop {
        let page = log.read_stream(&stream, version + 1, PAGE).await.context(cannot)?;
        for recorded in &page {
            version = recorded.version;
            last = pick(codec::decode(recorded).context(cannot)?).or(last);
        }
        if page.len() < PAGE {
            return Ok((last, version));
        }
    }
}
