//! Sealed secrets that nobody refers to any more.
//!
//! A crash between storing and recording, or between recording and destroying, leaves one; so does the end of an overlap,
//! for which nothing is recorded: the event of the rotation said when the older secret retires. What is kept is asked of the
//! log, row by row, and everything else that is old enough goes.

use crate::domain::id::{ErasureId, SecretId, SubscriptionId, TenantId, UserId};
use crate::domain::time::Timestamp;
use crate::event_store::Log;
use crate::execute::{load_subscription, load_tenant};

use super::rotation::PIECE;
use super::{Binding, Purpose, Vault, VaultError};

/// How old a secret must be, and for how long it must not have been used: longer than any request or attempt takes.
pub const GRACE_MS: u64 = 3_600_000;

impl Vault {
    /// Destroys the secrets that nobody refers to, of at most [`PIECE`] that stand behind the name `after`. Answers with how
    /// many there were, and the name behind which it goes on. What the log cannot tell of stays.
    pub async fn prune(&self, log: &Log, after: &str, now: Timestamp) -> Result<(u64, Option<String>), VaultError> {
        let rows = self.store.rows("", after, PIECE).await?;
        let next = rows.last().map(|row| row.name.clone());
        let mut orphans = Vec::new();
        for row in rows {
            if is_orphan(log, &row.name, now).await {
                orphans.push(Binding::named(&row.name));
            }
        }
        for orphan in &orphans {
            self.destroy(orphan).await?;
        }
        Ok((orphans.len() as u64, next))
    }
}

async fn is_orphan(log: &Log, name: &str, now: Timestamp) -> bool {
    let parts: Vec<&str> = name.split('/').collect();
    let [purpose, tenant, object, secret] = parts[..] else { return false };
    let (Ok(tenant), Ok(secret)) = (tenant.parse::<TenantId>(), secret.parse::<SecretId>()) else { return false };
    if now.ms_since(secret.made_at()) < GRACE_MS {
        return false;
    }
    let purpose = Purpose::STORED.into_iter().find(|known| known.as_str() == purpose);
    match (purpose, object.parse::<SubscriptionId>(), object.parse::<UserId>()) {
        (Some(Purpose::SigningSecret), Ok(id), _) => {
            let loaded = load_subscription(log, id).await;
            loaded.is_ok_and(|loaded| !loaded.state.keeps_secret(secret, now, GRACE_MS))
        }
        (Some(Purpose::CustomHeaders), Ok(id), _) => {
            load_subscription(log, id).await.is_ok_and(|loaded| !loaded.state.keeps_headers(secret))
        }
        (Some(Purpose::Password | Purpose::OneTimeCodes), _, Ok(id)) => {
            let loaded = load_tenant(log, tenant).await;
            loaded.is_ok_and(|(state, _)| {
                state.users.get(&id).is_none_or(|user| user.password != secret && user.totp != secret)
            })
        }
        (Some(Purpose::ErasureSelector), _, _) => {
            let Ok(erasure) = object.parse::<ErasureId>() else { return false };
            let loaded = load_tenant(log, tenant).await;
            loaded.is_ok_and(|(state, _)| !state.erasures.under_way.contains_key(&erasure))
        }
        // Whoever stores those destroys them; a data key goes with what it sealed.
        (_, _, _) => false,
    }
}
