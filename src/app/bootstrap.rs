//! The first start: a tenant and a key that may do everything, so that there is a way in.

use crate::actors::Engine;
use crate::clock::Clock;
use crate::domain::api_key::ApiKey;
use crate::domain::event::{ApiKeyIssued, TenantCreated};
use crate::domain::id::TenantId;
use crate::domain::profile;
use crate::domain::scope::Scope;
use crate::domain::tenant::Command;
use crate::event_store::Log;
use crate::execute::{self, Meta};

/// The slug of the first tenant.
const SLUG: &str = "default";

/// Makes the first tenant and its key in a store that has none, and returns the key. A start that was interrupted
/// between the two is completed by the next.
pub(super) async fn key(engine: &Engine, log: &Log, clock: &dyn Clock) -> anyhow::Result<Option<String>> {
    let claim = format!("tenant-slug/{SLUG}");
    let tenant: TenantId = match log.claims(0, std::slice::from_ref(&claim)).await?.remove(&claim) {
        Some(id) => id.parse()?,
        None if log.head(0) > 0 => return Ok(None),
        None => {
            let tenant = clock.tenant_id();
            let created =
                TenantCreated { tenant, name: "Default".into(), slug: SLUG.into(), profile: profile::DEFAULT.into() };
            engine.tenant(tenant, Command::Create(created), Meta::system()).await?;
            tenant
        }
    };
    // Only ever once: a store whose keys were all revoked stays closed.
    if log.stream_version(&execute::tenant_stream(tenant)).await? > 1 {
        return Ok(None);
    }
    let key = ApiKey::generate(clock.api_key_id(), &clock.random_bytes());
    let issued = ApiKeyIssued {
        key: key.id(),
        name: "bootstrap".into(),
        hash: key.hash(),
        scopes: Scope::ALL.to_vec(),
        expires_at: None,
    };
    engine.tenant(tenant, Command::IssueApiKey(issued), Meta::system()).await?;
    Ok(Some(key.expose().to_owned()))
}
