//! What happens to the people of a tenant, and to the tenant's settings.

use serde::{Deserialize, Serialize};

use super::Change;
use crate::domain::id::{SecretId, UserId};
use crate::domain::scope::Scope;

/// Somebody may log in from now on. What proves them stands sealed in the vault, where it can be destroyed.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct UserAdded {
    /// Their id.
    pub user: UserId,
    /// By which they log in.
    pub name: String,
    /// What they may do.
    pub scopes: Vec<Scope>,
    /// The hash of their password.
    pub password: SecretId,
    /// The secret of their one-time codes.
    pub totp: SecretId,
}

/// Somebody has a new password and new one-time codes; the ones before work no more. A disabled user may log in again.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct UserCredentialsReset {
    /// Whose.
    pub user: UserId,
    /// The hash of the new password.
    pub password: SecretId,
    /// The secret of the new one-time codes.
    pub totp: SecretId,
}

/// Somebody may not log in any more.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct UserDisabled {
    /// Who.
    pub user: UserId,
}

/// Somebody could not prove that they are this user.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct UserAuthenticationFailed {
    /// Who they claimed to be.
    pub user: UserId,
    /// On which occasion.
    pub occasion: Occasion,
}

/// When a person proves who they are. The words are stored in events.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Occasion {
    /// To begin a session.
    Login,
    /// Within a session, before an act that asks for it.
    StepUp,
}

/// A tenant's settings changed; what is absent stayed.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct TenantSettingsChanged {
    /// Whether API keys may do what otherwise takes a person who has just proved themself.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub unattended_keys: Option<Change<bool>>,
}
