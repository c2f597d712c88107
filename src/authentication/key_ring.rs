//! Every way to be known, in one place.

use std::num::NonZeroUsize;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use lru::LruCache;
use tokio::sync::Notify;

use super::enrolment::{Enrolled, EnrolmentError};
use super::login::{Attempt, LoginRefused, Logins};
use super::oidc::Issuers;
use super::session::{SessionId, SessionToken, Sessions};
use super::{Config, Credential, Principal, step_up};
use crate::actors::Engine;
use crate::clock::Clock;
use crate::domain::api_key::{self, ApiKey};
use crate::domain::id::{ApiKeyId, RequestId, TenantId, UserId};
use crate::domain::scope::Scope;
use crate::domain::secret::Secret;
use crate::domain::time::Timestamp;
use crate::error_code::ErrorCode;
use crate::execute::Meta;
use crate::execute::vault::{KeyBytes, Vault, VaultError};
use crate::outbound::Fetch;
use crate::projections::rows::{ApiKeyRow, UserRow};
use crate::projections::{QueryError, ReadModels};

/// Keys kept in memory, and withdrawn keys remembered.
const CACHED_KEYS: NonZeroUsize = NonZeroUsize::new(4_096).expect("not zero");
/// A key is looked up anew when what is known of it is older than this, in milliseconds.
const FRESH_MS: u64 = 1_000;
/// The use of a key is remembered anew when the last that was remembered is older than this, in milliseconds.
const USE_MS: u64 = 60 * 60 * 1_000;
/// How often a principal whose end is awaited is looked at, should the end have come from elsewhere.
const LOOK_AGAIN: Duration = Duration::from_secs(1);
/// What a session's proof is called: both factors, as RFC 8176 names them.
const SESSION_ACR: &str = "pwd+otp";

/// Why a credential is not accepted.
#[derive(Clone, Debug, thiserror::Error)]
pub enum NotAuthenticated {
    /// No such key, another secret, expired or withdrawn; no good token; no open session. Which one is nobody's business.
    #[error("the credential is not valid")]
    Invalid,
    /// Keys cannot be looked up.
    #[error("credentials cannot be looked up")]
    Unavailable(#[source] Arc<QueryError>),
    /// Whether a session is still kept cannot be told.
    #[error("sessions cannot be looked up")]
    Sessions(#[from] VaultError),
}

impl NotAuthenticated {
    /// Clients match on it.
    pub fn code(&self) -> ErrorCode {
        match self {
            Self::Invalid => ErrorCode::Unauthenticated,
            Self::Unavailable(_) => ErrorCode::Internal,
            Self::Sessions(error) => error.code(),
        }
    }
}

impl From<QueryError> for NotAuthenticated {
    fn from(error: QueryError) -> Self {
        Self::Unavailable(Arc::new(error))
    }
}

/// What a key ring works with.
pub struct Ports {
    /// The operator's rules.
    pub config: Config,
    /// Know keys, users and tenants.
    pub read_models: ReadModels,
    /// Records logins that failed.
    pub engine: Engine,
    /// Holds what proves users.
    pub vault: Arc<Vault>,
    /// Fetches issuers' keys.
    pub fetch: Arc<dyn Fetch>,
    /// The time.
    pub clock: Arc<dyn Clock>,
}

/// Checks credentials. Remembers a key for a second, so that a withdrawal elsewhere takes effect within it; a withdrawal
/// by this process takes effect at once.
pub struct KeyRing {
    config: Config,
    read_models: ReadModels,
    clock: Arc<dyn Clock>,
    known: Mutex<Known>,
    sessions: Sessions,
    logins: Logins,
    issuers: Issuers,
    /// Under which keys are hashed.
    pepper: KeyBytes,
    /// Somebody's credential has ended.
    ended: Notify,
}

struct Known {
    keys: LruCache<ApiKeyId, (Timestamp, Arc<ApiKeyRow>)>,
    revoked: LruCache<ApiKeyId, ()>,
    used: LruCache<ApiKeyId, Timestamp>,
}

impl KeyRing {
    /// A ring that knows no key yet.
    pub fn new(ports: Ports) -> Self {
        let Ports { config, read_models, engine, vault, fetch, clock } = ports;
        let known = Known {
            keys: LruCache::new(CACHED_KEYS),
            revoked: LruCache::new(CACHED_KEYS),
            used: LruCache::new(CACHED_KEYS),
        };
        let tries = config.login_tries_per_address;
        Self {
            pepper: vault.api_key_pepper(),
            sessions: Sessions::new(
                config.session_idle_minutes,
                config.session_max_minutes,
                Arc::clone(&vault),
                Arc::clone(&clock),
            ),
            logins: Logins::new(read_models.clone(), engine, vault, Arc::clone(&clock), tries),
            issuers: Issuers::new(&config.oidc, fetch, Arc::clone(&clock)),
            known: Mutex::new(known),
            ended: Notify::new(),
            config,
            read_models,
            clock,
        }
    }

    /// Takes up the sessions of before the start.
    ///
    /// # Errors
    /// The vault cannot be read.
    pub async fn recall_sessions(&self) -> Result<(), VaultError> {
        self.sessions.recall().await
    }

    /// The operator's rules.
    pub fn config(&self) -> &Config {
        &self.config
    }

    /// What is to be stored of a new key.
    pub fn hash(&self, key: &ApiKey) -> String {
        key.keyed_hash(&*self.pepper)
    }

    /// Whose API key or token this is.
    ///
    /// # Errors
    /// [`NotAuthenticated::Invalid`] for anything but one that works now.
    pub async fn authenticate(&self, token: &str) -> Result<Arc<Principal>, NotAuthenticated> {
        if !token.starts_with(api_key::PREFIX) {
            return self.bearer(token).await;
        }
        let presented = api_key::parse(token).map_err(|_| NotAuthenticated::Invalid)?;
        let row = self.row(presented.id).await?.ok_or(NotAuthenticated::Invalid)?;
        if !presented.matches(&row.hash, &*self.pepper) || !self.works(&row) {
            return Err(NotAuthenticated::Invalid);
        }
        self.remember_use(row.id);
        let ApiKeyRow { id, tenant, name, scopes, expires_at, .. } = &*row;
        Ok(Arc::new(Principal {
            credential: Credential::ApiKey(*id),
            name: name.clone(),
            tenant: *tenant,
            scopes: scopes.clone(),
            authenticated_at: None,
            acr: None,
            expires_at: *expires_at,
        }))
    }

    /// Beside the request, which does not wait for it.
    fn remember_use(&self, id: ApiKeyId) {
        let now = self.clock.now();
        let mut known = self.lock();
        if known.used.get(&id).is_some_and(|at| now.ms_since(*at) < USE_MS) {
            return;
        }
        known.used.put(id, now);
        let read_models = self.read_models.clone();
        tokio::spawn(async move {
            if let Err(error) = read_models.api_key_used(id, now).await {
                tracing::debug!("the use of an API key could not be remembered: {error}");
            }
        });
    }

    async fn bearer(&self, token: &str) -> Result<Arc<Principal>, NotAuthenticated> {
        let principal = self.issuers.verify(token).await.ok_or(NotAuthenticated::Invalid)?;
        // An issuer may name what was never here.
        let tenant = self.read_models.tenant(principal.tenant).await?;
        let tenant = tenant.filter(|tenant| tenant.erased_at.is_none());
        tenant.map(|_| Arc::new(principal)).ok_or(NotAuthenticated::Invalid)
    }

    /// Whose tenant was erased is known no more.
    async fn is_erased(&self, tenant: TenantId) -> Result<bool, QueryError> {
        Ok(self.read_models.tenant(tenant).await?.is_some_and(|tenant| tenant.erased_at.is_some()))
    }

    /// Whose session this is. A request keeps it from being idle.
    ///
    /// # Errors
    /// As [`Self::authenticate`].
    pub async fn session(&self, token: &SessionToken) -> Result<Arc<Principal>, NotAuthenticated> {
        let id = self.sessions.id_of(token);
        let session = self.sessions.touch(id, self.clock.now()).await?.ok_or(NotAuthenticated::Invalid)?;
        // One that is not known yet, since the read models are behind, may be soon.
        let user = self.read_models.user(&session.kept.name).await?.ok_or(NotAuthenticated::Invalid)?;
        // Disabled or given other credentials meanwhile, here or elsewhere.
        if user.disabled_at.is_some() || user.password != session.kept.password {
            self.end_quietly(id).await;
            self.ended.notify_waiters();
            return Err(NotAuthenticated::Invalid);
        }
        if self.is_erased(user.tenant).await? {
            return Err(NotAuthenticated::Invalid);
        }
        Ok(Arc::new(Principal {
            credential: Credential::Session { user: user.id, session: id },
            name: user.name,
            tenant: user.tenant,
            scopes: user.scopes,
            authenticated_at: Some(session.kept.authenticated_at),
            acr: Some(SESSION_ACR.into()),
            expires_at: Some(session.kept.ends_at),
        }))
    }

    /// Begins a session.
    ///
    /// # Errors
    /// In the same words whatever was wrong.
    pub async fn login(&self, attempt: Attempt) -> Result<(SessionToken, Timestamp), LoginRefused> {
        let user = self.logins.login(attempt).await?;
        let token = SessionToken::generate(&self.clock.random_bytes());
        let ends_at = self.sessions.begin(&token, (user.tenant, user.id), &user.name, user.password).await;
        Ok((token, ends_at))
    }

    /// Ends a session, here and wherever else it is known; whether there was one does not matter.
    ///
    /// # Errors
    /// It goes on.
    pub async fn logout(&self, token: &SessionToken) -> Result<(), VaultError> {
        self.sessions.end(self.sessions.id_of(token)).await?;
        self.ended.notify_waiters();
        Ok(())
    }

    /// Ends the session of somebody who may log in no more; what a restart brings back ends in the same way.
    async fn end_quietly(&self, id: SessionId) {
        if let Err(error) = self.sessions.end(id).await {
            tracing::warn!("what is kept of a session that has ended stays: {error}");
        }
    }

    /// Takes a further one-time code of somebody with a session. Answers until when the proof counts.
    ///
    /// # Errors
    /// For every other credential as for a wrong code.
    pub async fn step_up(
        &self,
        principal: &Principal,
        code: &str,
        request: RequestId,
        ip: Option<String>,
    ) -> Result<Timestamp, LoginRefused> {
        let Credential::Session { session, .. } = &principal.credential else { return Err(LoginRefused::Wrong) };
        self.logins.prove(&principal.name, code, request, ip).await?;
        let now = self.clock.now();
        self.sessions.proved(*session, now).await;
        let proved = Principal { authenticated_at: Some(now), ..principal.clone() };
        Ok(step_up::valid_until(&proved, &self.config).unwrap_or(now))
    }

    /// Accepts a key no more, whatever the read model still says.
    pub fn revoke(&self, id: ApiKeyId) {
        self.lock().revoked.put(id, ());
        self.ended.notify_waiters();
    }

    /// Lets somebody of the tenant log in from now on.
    pub async fn add_user(
        &self,
        tenant: TenantId,
        name: &str,
        scopes: Vec<Scope>,
        password: Secret,
        meta: Meta,
    ) -> Result<Enrolled, EnrolmentError> {
        self.logins.add(tenant, name, scopes, password, meta).await
    }

    /// Gives a user another password and other one-time codes, and ends their sessions.
    pub async fn reset_user(&self, user: &UserRow, password: Secret, meta: Meta) -> Result<Enrolled, EnrolmentError> {
        let enrolled = self.logins.reset(user, password, meta).await?;
        self.end_sessions(user.id).await;
        Ok(enrolled)
    }

    /// Ends every session of a user.
    pub async fn end_sessions(&self, user: UserId) {
        self.sessions.end_all_of(user).await;
        self.ended.notify_waiters();
    }

    /// Resolves when the principal's credential counts no more: withdrawn, expired, logged out or disabled. At once if that
    /// happens here, within a second if elsewhere. Waiting does not keep a session from being idle.
    pub async fn ended(&self, principal: &Principal) {
        loop {
            let ended = self.ended.notified();
            tokio::pin!(ended);
            // Before it is looked: what ends from here on is not missed.
            ended.as_mut().enable();
            if !self.counts(principal).await {
                return;
            }
            drop(tokio::time::timeout(LOOK_AGAIN, ended).await);
        }
    }

    async fn counts(&self, principal: &Principal) -> bool {
        let now = self.clock.now();
        if principal.expires_at.is_some_and(|at| at <= now) {
            return false;
        }
        match &principal.credential {
            // Without waiting: whoever asks may have no patience.
            Credential::ApiKey(id) if self.lock().revoked.contains(id) => false,
            // What cannot be looked up has not ended.
            Credential::ApiKey(id) => match self.row(*id).await {
                Ok(row) => row.is_some_and(|row| self.works(&row)),
                Err(_) => true,
            },
            Credential::Session { session, .. } => match self.sessions.find(*session, now).await {
                Ok(Some(session)) => match self.read_models.user(&session.kept.name).await {
                    Ok(user) => user.is_some_and(|user: UserRow| {
                        user.disabled_at.is_none() && user.password == session.kept.password
                    }),
                    Err(_) => true,
                },
                Ok(None) => false,
                Err(_) => true,
            },
            Credential::Token { .. } => !matches!(self.is_erased(principal.tenant).await, Ok(true)),
        }
    }

    fn works(&self, row: &ApiKeyRow) -> bool {
        let expired = row.expires_at.is_some_and(|at| at <= self.clock.now());
        !expired && row.revoked_at.is_none() && !self.lock().revoked.contains(&row.id)
    }

    async fn row(&self, id: ApiKeyId) -> Result<Option<Arc<ApiKeyRow>>, NotAuthenticated> {
        let now = self.clock.now();
        if let Some((read_at, row)) = self.lock().keys.get(&id)
            && *read_at <= now
            && now.ms_since(*read_at) < FRESH_MS
        {
            return Ok(Some(Arc::clone(row)));
        }
        let Some(row) = self.read_models.api_key(id).await? else { return Ok(None) };
        let row = match self.is_erased(row.tenant).await? {
            true => None,
            false => Some(Arc::new(row)),
        };
        if let Some(row) = &row {
            self.lock().keys.put(id, (now, Arc::clone(row)));
        }
        Ok(row)
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Known> {
        self.known.lock().expect("no holder of this lock can panic")
    }
}
