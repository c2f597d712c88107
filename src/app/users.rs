//! People who log in, as the operator makes them at the command line, while no server runs on the store.

use std::sync::Arc;

use anyhow::{Context, ensure};

use super::keys;
use super::store::Store;
use crate::authentication::enrolment::{self, Sealed};
use crate::clock::Clock;
use crate::config::Config;
use crate::domain::event::{Event, UserAdded, UserCredentialsReset};
use crate::domain::id::{TenantId, UserId};
use crate::domain::scope::Scope;
use crate::domain::secret::Secret;
use crate::domain::tenant::{self, Command, Refusal};
use crate::event_store::{Append, AppendError, Claim, Lifetime, Log, StreamWrite};
use crate::execute::vault::Vault;
use crate::execute::{self, Meta};

/// Random bytes of a password that nobody chose.
const PASSWORD_BYTES: usize = 20;

/// What a user proves themself with; shown once.
pub struct Credentials {
    /// The password.
    pub password: Secret,
    /// What an authenticator app reads.
    pub uri: String,
}

/// Lets somebody of the tenant with that public id log in. Without a password, one is made.
pub async fn add(
    config: &Config,
    clock: Arc<dyn Clock>,
    slug: &str,
    name: &str,
    scopes: Vec<Scope>,
    chosen: Option<Secret>,
) -> anyhow::Result<Credentials> {
    let store = Opened::open(config, clock).await?;
    let added = store.add(slug, name, scopes, chosen).await;
    store.close().await;
    added
}

/// Gives a user another password and other one-time codes, and lets them log in again if they were disabled.
pub async fn reset(
    config: &Config,
    clock: Arc<dyn Clock>,
    name: &str,
    chosen: Option<Secret>,
) -> anyhow::Result<Credentials> {
    let store = Opened::open(config, clock).await?;
    let reset = store.reset(name, chosen).await;
    store.close().await;
    reset
}

/// Lets a user log in no more.
pub async fn disable(config: &Config, clock: Arc<dyn Clock>, name: &str) -> anyhow::Result<()> {
    let store = Opened::open(config, clock).await?;
    let disabled = match store.owner(name).await {
        Ok((tenant, user)) => store.decide(tenant, Command::DisableUser(user)).await,
        Err(error) => Err(error),
    };
    store.close().await;
    disabled
}

struct Opened {
    store: Store,
    log: Log,
    vault: Vault,
    clock: Arc<dyn Clock>,
}

impl Opened {
    async fn open(config: &Config, clock: Arc<dyn Clock>) -> anyhow::Result<Self> {
        let store = Store::open(config).await?;
        let log = store.log(config).await?;
        let vault = keys::open_vault(config, &log, &*clock).await?;
        Ok(Self { store, log, vault, clock })
    }

    async fn close(self) {
        self.log.close().await;
        self.vault.close().await;
        self.store.close().await;
    }

    async fn add(
        &self,
        slug: &str,
        name: &str,
        scopes: Vec<Scope>,
        chosen: Option<Secret>,
    ) -> anyhow::Result<Credentials> {
        tenant::check_user_name(name)?;
        let owner = self.claimed(&execute::slug_claim(slug)).await?;
        let owner =
            owner.with_context(|| format!("there is no tenant '{slug}'; the first start of the server makes one"))?;
        let tenant: TenantId = owner.parse()?;
        let user = self.user_of_name(name, tenant).await?;
        let (credentials, Sealed { password, totp }) = self.credentials(tenant, user, name, chosen).await?;
        // A claim is for ever. What was sealed for a name that is refused now is left to the janitor.
        self.claim_name(name, tenant, user).await?;
        let added = UserAdded { user, name: name.to_owned(), scopes, password, totp };
        let decided = self.decide(tenant, Command::AddUser(added)).await;
        // What was refused is nobody's; of what failed in another way it may be somebody's.
        if decided.as_ref().is_err_and(|error| error.is::<Refusal>()) {
            enrolment::destroy(&self.vault, (tenant, user), Sealed { password, totp }).await?;
        }
        decided.map(|()| credentials)
    }

    async fn reset(&self, name: &str, chosen: Option<Secret>) -> anyhow::Result<Credentials> {
        let (tenant, user) = self.owner(name).await?;
        let (state, _) = execute::load_tenant(&self.log, tenant).await?;
        let before = state.users.get(&user).cloned().with_context(|| no_user(name))?;
        let (credentials, Sealed { password, totp }) = self.credentials(tenant, user, name, chosen).await?;
        self.decide(tenant, Command::ResetUser(UserCredentialsReset { user, password, totp })).await?;
        enrolment::destroy(&self.vault, (tenant, user), Sealed { password: before.password, totp: before.totp })
            .await?;
        Ok(credentials)
    }

    /// Who is to have the name: somebody new, or for whom it was claimed when a crash came between.
    async fn user_of_name(&self, name: &str, tenant: TenantId) -> anyhow::Result<UserId> {
        if self.claimed(&execute::user_claim(name)).await?.is_none() {
            return Ok(self.clock.user_id());
        }
        let (owner, user) = self.owner(name).await?;
        let (state, _) = execute::load_tenant(&self.log, tenant).await?;
        ensure!(owner == tenant && !state.users.contains_key(&user), "there is a user '{name}' already");
        Ok(user)
    }

    /// Names are unique in the whole log, so that one is claimed before it is used. A crash between the two leaves a claim
    /// that the same command completes.
    async fn claim_name(&self, name: &str, tenant: TenantId, user: UserId) -> anyhow::Result<()> {
        let claim = Claim { key: execute::user_claim(name), value: format!("{tenant}/{user}"), bucket: None };
        let append = Append { claims: vec![claim], ..Append::default() };
        match self.log.append(execute::SLUG_SHARD, append).await {
            Err(AppendError::ClaimTaken { .. }) => {
                ensure!(self.owner(name).await? == (tenant, user), "there is a user '{name}' already");
                Ok(())
            }
            appended => Ok(appended.map(drop)?),
        }
    }

    async fn owner(&self, name: &str) -> anyhow::Result<(TenantId, UserId)> {
        let claimed = self.claimed(&execute::user_claim(name)).await?.with_context(|| no_user(name))?;
        let (tenant, user) = claimed.split_once('/').context("the claim to the user's name is damaged")?;
        Ok((tenant.parse()?, user.parse()?))
    }

    async fn claimed(&self, key: &str) -> anyhow::Result<Option<String>> {
        let key = key.to_owned();
        Ok(self.log.claims(execute::SLUG_SHARD, std::slice::from_ref(&key)).await?.remove(&key))
    }

    async fn credentials(
        &self,
        tenant: TenantId,
        user: UserId,
        name: &str,
        chosen: Option<Secret>,
    ) -> anyhow::Result<(Credentials, Sealed)> {
        let made = || Secret::stored(hex::encode(self.clock.random_bytes::<PASSWORD_BYTES>()));
        let password = chosen.unwrap_or_else(made);
        enrolment::check_password(&password)?;
        let whose = (tenant, user);
        let (uri, sealed) = enrolment::seal(&self.vault, &*self.clock, whose, name, password.clone()).await?;
        Ok((Credentials { password, uri: uri.expose().to_owned() }, sealed))
    }

    async fn decide(&self, id: TenantId, command: Command) -> anyhow::Result<()> {
        let (state, version) = execute::load_tenant(&self.log, id).await?;
        let (now, meta) = (self.clock.now(), Meta::system());
        let events: Vec<_> = tenant::decide(&state, command)?
            .into_iter()
            .map(|event| execute::new_event(&Event::Tenant(event), now, Some(&meta), None, &*self.clock))
            .collect();
        if events.is_empty() {
            return Ok(());
        }
        let stream = execute::tenant_stream(id);
        let write = StreamWrite { stream, first_version: version + 1, lifetime: Lifetime::Kept, events };
        let shard = execute::shard_of(id, self.log.shards());
        self.log.append(shard, Append { writes: vec![write], ..Append::default() }).await?;
        Ok(())
    }
}

fn no_user(name: &str) -> String {
    format!("there is no user '{name}'")
}
