//! Who calls: API keys, people with a session, and people with a token of an identity provider.
//!
//! | credential | checked against | ends |
//! | --- | --- | --- |
//! | API key, `Authorization: Bearer tdk_…` | the read models, remembered for a second | revoked, or expired |
//! | token, `Authorization: Bearer eyJ…` | the issuer's keys, which are fetched and kept for minutes | expired |
//! | session, a cookie | memory, which the vault outlives, and the user's row | logout, idle or too old, user disabled or reset |
//!
//! - Whoever is not known is refused in the same words and after the same work, whatever was wrong.
//! - Nothing here judges what a caller may do: resolvers compare scopes. [`step_up`] says whether somebody has proved
//!   themself lately enough for the few acts that ask for it.
//! - Tries that failed and one-time codes that were used live in memory alone. A restart forgives the tries, and would take
//!   a code again that was used less than a minute before.

pub mod enrolment;
mod key_ring;
mod login;
mod oidc;
pub mod password;
mod session;
pub mod step_up;
mod throttle;
pub mod totp;

use ipnet::IpNet;
use serde::{Deserialize, Serialize};

pub use enrolment::{Enrolled, EnrolmentError};
pub use key_ring::{KeyRing, NotAuthenticated, Ports};
pub use login::{Attempt, LoginRefused};
pub use oidc::{Algorithm, Issuer};
pub use session::{SessionId, SessionToken};

use crate::domain::id::{ApiKeyId, TenantId, UserId};
use crate::domain::scope::Scope;
use crate::domain::time::Timestamp;

/// What the operator decides about callers.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// Whether an API key with `TENANTS_ADMIN` counts as a person who has just proved themself. Default: true, since the
    /// first key is all that a new store has.
    pub operator_keys_step_up: bool,
    /// How long a proof counts for acts that ask for one, in seconds, at least 1. Default: 300.
    pub step_up_max_age_s: u64,
    /// After how long without a request a session ends, in minutes, at least 1. Default: 30.
    pub session_idle_minutes: u64,
    /// After how long a session ends in any case, in minutes, at least 1. Default: 720.
    pub session_max_minutes: u64,
    /// Logins that one address may fail in 15 minutes, at least 1; clients behind a proxy that is not trusted are
    /// one. Default: 100.
    pub login_tries_per_address: usize,
    /// Origins of pages that may use a session beside those of this server itself. Default: none.
    pub origins: Vec<String>,
    /// Address ranges in which the key sets of issuers may be although they are private. Default: none.
    pub issuer_allow_cidrs: Vec<IpNet>,
    /// Identity providers whose access tokens are taken. Default: none.
    pub oidc: Vec<Issuer>,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            operator_keys_step_up: true,
            step_up_max_age_s: 300,
            session_idle_minutes: 30,
            session_max_minutes: 720,
            login_tries_per_address: 100,
            origins: vec![],
            issuer_allow_cidrs: vec![],
            oidc: vec![],
        }
    }
}

impl Config {
    /// What is wrong with it, after the name of the key.
    pub fn check(&self) -> Result<(), String> {
        let at_least_one = [
            ("step_up_max_age_s", self.step_up_max_age_s),
            ("session_idle_minutes", self.session_idle_minutes),
            ("session_max_minutes", self.session_max_minutes),
            ("login_tries_per_address", self.login_tries_per_address as u64),
        ];
        if let Some((key, _)) = at_least_one.iter().find(|(_, value)| *value == 0) {
            return Err(format!("auth.{key}: must be at least 1"));
        }
        let twice =
            |(index, issuer): (usize, &Issuer)| self.oidc[..index].iter().any(|one| one.issuer == issuer.issuer);
        if let Some((_, issuer)) = self.oidc.iter().enumerate().find(|entry| twice(*entry)) {
            return Err(format!("auth.oidc: the issuer '{}' is named twice", issuer.issuer));
        }
        self.oidc.iter().try_for_each(|issuer| issuer.check().map_err(|error| format!("auth.oidc: {error}")))
    }
}

/// A caller who is known.
#[derive(Clone, Debug, PartialEq)]
pub struct Principal {
    /// By what they are known.
    pub credential: Credential,
    /// What they are called.
    pub name: String,
    /// Whose they are.
    pub tenant: TenantId,
    /// What they may do.
    pub scopes: Vec<Scope>,
    /// When the person behind it last proved themself; `None` for keys, and where the issuer does not say.
    pub authenticated_at: Option<Timestamp>,
    /// How they did, in the issuer's words; `pwd+otp` for a session.
    pub acr: Option<String>,
    /// When the credential ends by itself; `None`: never.
    pub expires_at: Option<Timestamp>,
}

/// By what a caller is known.
#[derive(Clone, Debug, PartialEq)]
pub enum Credential {
    /// An API key.
    ApiKey(ApiKeyId),
    /// A session of somebody who logged in here.
    Session {
        /// Who.
        user: UserId,
        /// Which of their sessions.
        session: SessionId,
    },
    /// A token of an identity provider.
    Token {
        /// Whom it is about: issuer, `#`, subject.
        subject: String,
        /// The authentication context classes that its issuer has for a fresh proof; empty: any.
        acr_values: Vec<String>,
    },
}

impl Credential {
    /// Whom it stands for, however often they come.
    pub fn subject(&self) -> String {
        match self {
            Self::ApiKey(key) => key.to_string(),
            Self::Session { user, .. } => user.to_string(),
            Self::Token { subject, .. } => subject.clone(),
        }
    }
}
