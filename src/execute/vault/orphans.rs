//! Sealed secrets that nobody refers to any more.
//!
//! A crash between storing and recording, or between recording and destroying, leaves one; so does the end of an overlap,
//! for which nothing is recorded: the event of the rotation said when the older secret retires. What is kept is asked of the
//! log, row by row, and everything else that is old enough goes.
//!
//! A log that lacks what it should hold must not cost secrets. So nothing goes that is as new as the newest event: a log
//! that was put back to an earlier time cannot tell of it. And where the log does not know the owner, only a second look
//! counts, long enough behind the first for somebody to notice.

use std::collections::HashMap;

use crate::domain::id::{ErasureId, SecretId, SubscriptionId, TenantId, UserId};
use crate::domain::time::Timestamp;
use crate::event_store::{Log, Position};
use crate::execute::{LoadError, load_subscription, load_tenant};

use super::rotation::PIECE;
use super::{Binding, Purpose, Vault, VaultError};

/// How old a secret must be, and for how long it must not have been used: longer than any request or attempt takes. So much
/// older than the newest event it must be, too.
pub const GRACE_MS: u64 = 3_600_000;
/// How long a secret whose owner the log does not know is looked at before it goes: a day.
pub const OWNERLESS_MS: u64 = 24 * 3_600_000;
/// Secrets without owners that are remembered from one look to the next; further ones wait until these are gone.
const MAX_OWNERLESS: usize = 10_000;

/// What looks for secrets that nobody refers to remember. In memory: a restart begins anew, and destroys later.
#[derive(Debug, Default)]
pub struct Orphans {
    /// Secrets made since then stay.
    made_before: Option<Timestamp>,
    /// Those whose owner the last look did not find, and when that was first so.
    known: HashMap<String, Timestamp>,
    /// The same of the look that is under way.
    seen: HashMap<String, Timestamp>,
}

/// Who refers to a secret.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Standing {
    /// Its owner does, or that cannot be told.
    Kept,
    /// Its owner does not.
    Left,
    /// The log does not know its owner.
    Ownerless,
}

impl Orphans {
    /// Begins a look through all rows.
    pub async fn begin(&mut self, log: &Log) {
        self.made_before = newest_event(log).await.map(|at| at.minus_ms(GRACE_MS));
        self.known = std::mem::take(&mut self.seen);
    }

    /// Whether the row may go.
    async fn has(&mut self, log: &Log, name: &str, now: Timestamp) -> bool {
        let Some(made_at) = made_at(name) else { return false };
        if now.ms_since(made_at) < GRACE_MS || self.made_before.is_none_or(|before| made_at >= before) {
            return false;
        }
        match standing(log, name, now).await {
            Standing::Kept => false,
            Standing::Left => true,
            Standing::Ownerless => self.is_ownerless_still(name, now),
        }
    }

    fn is_ownerless_still(&mut self, name: &str, now: Timestamp) -> bool {
        let first = self.known.get(name).copied().unwrap_or(now);
        let is_old = now.ms_since(first) >= OWNERLESS_MS;
        if !is_old && self.seen.len() < MAX_OWNERLESS {
            self.seen.insert(name.to_owned(), first);
        }
        is_old
    }
}

impl Vault {
    /// Destroys the secrets that nobody refers to, of at most [`PIECE`] that stand behind the name `after`. Answers with how
    /// many there were, and the name behind which it goes on. What the log cannot tell of stays.
    pub async fn prune(
        &self,
        log: &Log,
        known: &mut Orphans,
        after: &str,
        now: Timestamp,
    ) -> Result<(u64, Option<String>), VaultError> {
        let rows = self.store.rows("", after, PIECE).await?;
        let next = rows.last().map(|row| row.name.clone());
        let mut orphans = Vec::new();
        for row in rows {
            if known.has(log, &row.name, now).await {
                orphans.push(Binding::named(&row.name));
            }
        }
        for orphan in &orphans {
            self.destroy(orphan).await?;
        }
        Ok((orphans.len() as u64, next))
    }
}

/// When the newest event of the log happened; `None` if there is none, or a shard cannot tell.
async fn newest_event(log: &Log) -> Option<Timestamp> {
    let mut newest = None;
    for shard in 0..log.shards() {
        let Some(before) = log.head(shard).checked_sub(1) else { continue };
        let last = log.reader().read_log(Position { shard, seq: before }, 1).await.ok()?;
        newest = newest.max(last.first().map(|recorded| recorded.at));
    }
    newest
}

/// When the secret of that row was made; `None` if the row holds none that has an owner.
fn made_at(name: &str) -> Option<Timestamp> {
    name.rsplit('/').next()?.parse().ok().map(|secret: SecretId| secret.made_at())
}

async fn standing(log: &Log, name: &str, now: Timestamp) -> Standing {
    let parts: Vec<&str> = name.split('/').collect();
    let [purpose, tenant, object, secret] = parts[..] else { return Standing::Kept };
    let (Ok(tenant), Ok(secret)) = (tenant.parse::<TenantId>(), secret.parse::<SecretId>()) else {
        return Standing::Kept;
    };
    let purpose = Purpose::STORED.into_iter().find(|known| known.as_str() == purpose);
    let asked = match (purpose, object.parse::<SubscriptionId>(), object.parse::<UserId>()) {
        (Some(purpose @ (Purpose::SigningSecret | Purpose::CustomHeaders | Purpose::Recipients)), Ok(id), _) => {
            of_subscription(log, purpose, id, secret, now).await
        }
        (Some(Purpose::Password | Purpose::OneTimeCodes | Purpose::UsedCode), _, Ok(id)) => {
            of_user(log, tenant, id, secret).await
        }
        (Some(Purpose::ErasureSelector), _, _) => of_erasure(log, tenant, object).await,
        // Whoever stores those destroys them; a data key goes with what it sealed, and a session has no secret's id.
        (_, _, _) => Ok(Standing::Kept),
    };
    asked.unwrap_or(Standing::Kept)
}

async fn of_subscription(
    log: &Log,
    purpose: Purpose,
    id: SubscriptionId,
    secret: SecretId,
    now: Timestamp,
) -> Result<Standing, LoadError> {
    let state = load_subscription(log, id).await?.state;
    let is_kept = if purpose == Purpose::CustomHeaders {
        state.keeps_headers(secret)
    } else if purpose == Purpose::Recipients {
        state.keeps_recipients(secret)
    } else {
        state.keeps_secret(secret, now, GRACE_MS)
    };
    Ok(standing_of(state.life.tenant().is_some(), is_kept))
}

async fn of_user(log: &Log, tenant: TenantId, id: UserId, secret: SecretId) -> Result<Standing, LoadError> {
    let (state, version) = load_tenant(log, tenant).await?;
    let is_kept = state.users.get(&id).is_some_and(|user| user.password == secret || user.totp == secret);
    Ok(standing_of(version > 0, is_kept))
}

async fn of_erasure(log: &Log, tenant: TenantId, erasure: &str) -> Result<Standing, LoadError> {
    let Ok(erasure) = erasure.parse::<ErasureId>() else { return Ok(Standing::Kept) };
    let (state, version) = load_tenant(log, tenant).await?;
    Ok(standing_of(version > 0, state.erasures.under_way.contains_key(&erasure)))
}

fn standing_of(has_owner: bool, is_kept: bool) -> Standing {
    match (has_owner, is_kept) {
        (_, true) => Standing::Kept,
        (true, false) => Standing::Left,
        (false, false) => Standing::Ownerless,
    }
}
