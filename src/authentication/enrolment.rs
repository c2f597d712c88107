//! What people are given to log in with: a password and one-time codes, sealed in the vault before anybody refers to them.

use super::login::Logins;
use super::{password, totp};
use crate::actors::{Done, EngineError};
use crate::clock::Clock;
use crate::domain::event::{UserAdded, UserCredentialsReset};
use crate::domain::id::{SecretId, TenantId, UserId};
use crate::domain::scope::Scope;
use crate::domain::secret::Secret;
use crate::domain::tenant::Command;
use crate::execute::Meta;
use crate::execute::vault::{Binding, Vault, VaultError};
use crate::projections::rows::UserRow;

/// The password cannot be taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a password has at least {} characters, and {} bytes at most", password::MIN_CHARS, password::MAX_BYTES)]
pub struct UnfitPassword;

/// Why nobody was given credentials.
#[derive(Clone, Debug, thiserror::Error)]
pub enum EnrolmentError {
    /// The password cannot be taken.
    #[error(transparent)]
    Password(#[from] UnfitPassword),
    /// The user cannot be made or changed.
    #[error(transparent)]
    Engine(#[from] EngineError),
}

/// Somebody who was given credentials.
#[derive(Debug)]
pub struct Enrolled {
    /// Who.
    pub user: UserId,
    /// What an authenticator app reads: the secret of their one-time codes. Shown once.
    pub authenticator: Secret,
    /// What was recorded.
    pub done: Done,
}

/// Where what proves a user is sealed.
pub struct Sealed {
    /// The hash of the password.
    pub password: SecretId,
    /// The secret of the one-time codes.
    pub totp: SecretId,
}

/// Whether it can be a password.
pub fn check_password(password: &Secret) -> Result<(), UnfitPassword> {
    let (chars, bytes) = (password.expose().chars().count(), password.expose().len());
    if chars < password::MIN_CHARS || bytes > password::MAX_BYTES { Err(UnfitPassword) } else { Ok(()) }
}

/// Seals the hash of a password, which was checked, and a new secret of one-time codes; what an authenticator app reads
/// of that.
pub async fn seal(
    vault: &Vault,
    clock: &dyn Clock,
    (tenant, user): (TenantId, UserId),
    name: &str,
    password: Secret,
) -> Result<(Secret, Sealed), VaultError> {
    let codes = totp::secret(&clock.random_bytes());
    let salt = clock.random_bytes();
    let hash = tokio::task::spawn_blocking(move || password::hash(password.expose(), &salt)).await;
    let hash = hash.expect("hashing does not panic, and nobody cancels it");
    let sealed = Sealed { password: clock.secret_id(), totp: clock.secret_id() };
    vault.store(&Binding::password(tenant, user, sealed.password), &hash, clock).await?;
    vault.store(&Binding::one_time_codes(tenant, user, sealed.totp), &codes, clock).await?;
    Ok((Secret::stored(totp::uri(name, &codes)), sealed))
}

/// Destroys what proves a user no more.
pub async fn destroy(vault: &Vault, (tenant, user): (TenantId, UserId), sealed: Sealed) -> Result<(), VaultError> {
    vault.destroy(&Binding::password(tenant, user, sealed.password)).await?;
    vault.destroy(&Binding::one_time_codes(tenant, user, sealed.totp)).await?;
    vault.destroy(&Binding::used_code(tenant, user, sealed.totp)).await
}

impl Logins {
    /// Lets somebody of the tenant log in from now on.
    pub(super) async fn add(
        &self,
        tenant: TenantId,
        name: &str,
        scopes: Vec<Scope>,
        password: Secret,
        meta: Meta,
    ) -> Result<Enrolled, EnrolmentError> {
        check_password(&password)?;
        let known = self.engine().user_of_name(tenant, name, &scopes).await?;
        let user = known.unwrap_or_else(|| self.clock().user_id());
        let (authenticator, sealed) = self.seal((tenant, user), name, password).await?;
        // Behind all that can fail for long, since a claim is for ever.
        if let Err(error) = self.engine().claim_user_name(tenant, name, user).await {
            self.discard((tenant, user), sealed, &error).await;
            return Err(error.into());
        }
        let added = UserAdded { user, name: name.to_owned(), scopes, password: sealed.password, totp: sealed.totp };
        let done = self.record((tenant, user), Command::AddUser(added), sealed, meta).await?;
        Ok(Enrolled { user, authenticator, done })
    }

    /// Gives a user another password and other one-time codes, and lets them log in again if they were disabled.
    ///
    /// The new ones are sealed before the log refers to them, and the old ones destroyed behind that: at every moment what
    /// the log refers to is there. Until the read models show the new ones, neither lets anybody in.
    pub(super) async fn reset(
        &self,
        before: &UserRow,
        password: Secret,
        meta: Meta,
    ) -> Result<Enrolled, EnrolmentError> {
        check_password(&password)?;
        let (tenant, user) = (before.tenant, before.id);
        let (authenticator, sealed) = self.seal((tenant, user), &before.name, password).await?;
        let reset = UserCredentialsReset { user, password: sealed.password, totp: sealed.totp };
        let done = self.record((tenant, user), Command::ResetUser(reset), sealed, meta).await?;
        self.forgive(before);
        let replaced = Sealed { password: before.password, totp: before.totp };
        if let Err(error) = destroy(self.vault(), (tenant, user), replaced).await {
            // The janitor finds what nobody refers to any more.
            tracing::warn!("credentials that were replaced cannot be destroyed for now: {error}");
        }
        Ok(Enrolled { user, authenticator, done })
    }

    async fn seal(
        &self,
        whose: (TenantId, UserId),
        name: &str,
        password: Secret,
    ) -> Result<(Secret, Sealed), EngineError> {
        let _one_of_few = self.turn().await;
        Ok(seal(self.vault(), self.clock(), whose, name, password).await?)
    }

    async fn record(
        &self,
        whose: (TenantId, UserId),
        command: Command,
        sealed: Sealed,
        meta: Meta,
    ) -> Result<Done, EngineError> {
        let done = self.engine().tenant(whose.0, command, meta).await;
        if let Err(error) = &done {
            self.discard(whose, sealed, error).await;
        }
        done
    }

    /// What was sealed for a refused command is nobody's. Of one whose outcome is unknown it may be somebody's.
    async fn discard(&self, whose: (TenantId, UserId), sealed: Sealed, error: &EngineError) {
        if !matches!(error, EngineError::Tenant(_) | EngineError::Overloaded) {
            return;
        }
        // The janitor finds it too.
        if let Err(error) = destroy(self.vault(), whose, sealed).await {
            tracing::warn!("what was sealed for a refused command cannot be destroyed for now: {error}");
        }
    }
}
