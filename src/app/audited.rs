//! Parts of the configuration whose changes auditors want to know of: what is in force is compared with what was last
//! recorded, and a change becomes an event before anything is sent under it.
//!
//! It concerns all tenants and is shown to none, so it stands in the stream of an id that no tenant has.

use anyhow::Context;
use serde_json::{Map, Value, json};

use crate::clock::Clock;
use crate::codec;
use crate::config::Config;
use crate::domain::event::{ConfigChanged, Event, TenantEvent};
use crate::domain::id::TenantId;
use crate::event_store::{Append, Lifetime, Log, StreamWrite};
use crate::execute::{self, Meta};

/// Events read at a time.
const PAGE: usize = 100;
const EGRESS: &str = "egress";

/// Records what may be reached from now on, if that is not what was recorded last.
pub(super) async fn egress(log: &Log, config: &Config, clock: &dyn Clock) -> anyhow::Result<()> {
    let to = keys(config);
    let (last, version) = last(log, EGRESS).await.context("what was recorded of the configuration cannot be read")?;
    let from = last.unwrap_or_else(|| keys(&Config::default()));
    if from == to {
        return Ok(());
    }
    tracing::info!("the rules about what may be reached are others than before; see the audit log of the system");
    let changed = Event::Tenant(TenantEvent::ConfigChanged(ConfigChanged { section: EGRESS.into(), from, to }));
    let event = execute::new_event(&changed, clock.now(), Some(&Meta::system()), None, clock);
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

/// What was last recorded of the section, and the version of its stream.
async fn last(log: &Log, section: &str) -> anyhow::Result<(Option<Map<String, Value>>, u64)> {
    let stream = execute::tenant_stream(TenantId::INSTALLATION);
    let (mut last, mut version) = (None, 0);
    loop {
        let page = log.read_stream(&stream, version + 1, PAGE).await?;
        for recorded in &page {
            version = recorded.version;
            if let Event::Tenant(TenantEvent::ConfigChanged(changed)) = codec::decode(recorded)?
                && changed.section == section
            {
                last = Some(changed.to);
            }
        }
        if page.len() < PAGE {
            return Ok((last, version));
        }
    }
}
