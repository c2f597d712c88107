//! The first start: a tenant and a key that may do everything, so that there is a way in.

use std::io;

use anyhow::Context;

use crate::actors::Engine;
use crate::clock::Clock;
use crate::domain::api_key::ApiKey;
use crate::domain::event::{ApiKeyIssued, TenantCreated};
use crate::domain::id::TenantId;
use crate::domain::profile;
use crate::domain::scope::Scope;
use crate::domain::tenant::Command;
use crate::event_store::Log;
use crate::execute::vault::Vault;
use crate::execute::{self, Meta};

/// The slug of the first tenant.
const SLUG: &str = "default";

/// Makes the first tenant and its key in a store that has none, and says whether it did. A start that was interrupted
/// on the way is completed by the next.
///
/// The key is shown before it works: a crash between the two costs a key that never does, and the next start shows
/// another; the other way round it would cost the only one that ever will.
pub(super) async fn key(
    engine: &Engine,
    log: &Log,
    vault: &Vault,
    clock: &dyn Clock,
    show: impl FnOnce(&str) -> io::Result<()>,
) -> anyhow::Result<bool> {
    let claim = execute::slug_claim(SLUG);
    let claimed = log.claims(execute::SLUG_SHARD, std::slice::from_ref(&claim)).await?.remove(&claim);
    let version = match &claimed {
        Some(id) => log.stream_version(&execute::tenant_stream(id.parse()?)).await?,
        None => 0,
    };
    let tenant: TenantId = match (claimed, version) {
        (Some(id), 1) => id.parse()?,
        // Begun, and without a key: the key is what is made last.
        (Some(id), 2) if engine.load_tenant(id.parse()?).await?.unattended_keys => id.parse()?,
        // Only ever once: a store whose keys were all revoked stays closed.
        (Some(_), 2..) => return Ok(false),
        (None, _) if holds_more_than_its_configuration(log).await? => return Ok(false),
        (_, _) => {
            let tenant = clock.tenant_id();
            let created =
                TenantCreated { tenant, name: "Default".into(), slug: SLUG.into(), profile: profile::DEFAULT.into() };
            engine.create_tenant(created, Meta::system()).await?.0
        }
    };
    // Nobody can log in yet: the first tenant's keys act for themselves until somebody says otherwise.
    engine.tenant(tenant, Command::SetUnattendedKeys(true), Meta::system()).await?;
    let key = ApiKey::generate(clock.api_key_id(), &clock.random_bytes());
    let issued = ApiKeyIssued {
        key: key.id(),
        name: "bootstrap".into(),
        hash: key.keyed_hash(&*vault.api_key_pepper()),
        scopes: Scope::ALL.to_vec(),
        expires_at: None,
    };
    show(key.expose()).context("the bootstrap key cannot be shown")?;
    engine.tenant(tenant, Command::IssueApiKey(issued), Meta::system()).await?;
    Ok(true)
}

/// How the installation is configured is recorded before anything else.
async fn holds_more_than_its_configuration(log: &Log) -> anyhow::Result<bool> {
    let events: u64 = (0..log.shards()).map(|shard| log.head(shard)).sum();
    Ok(events > log.stream_version(&execute::tenant_stream(TenantId::INSTALLATION)).await?)
}
