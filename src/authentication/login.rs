//! Login with password and one-time code, and the further code before an act that asks for one.
//!
//! What slows guessing must not keep out whose login it is, since everybody may know a name:
//!
//! - Tries that fail are counted for the name *and* the network they come from ([`Backoff`]). Whoever guesses waits; the
//!   user gets in from anywhere else.
//! - Only codes behind the right password are counted for the user alone: who has the password could guess codes from
//!   many networks. That refusal is worded as any other, so that it does not say that the password was right.
//! - Each network has a budget for all names together.
//!
//! Tries are in memory: nobody who guesses can bring a restart about, and keeping them would let strangers write to disk.
//! Codes that counted are kept ([`Vault::use_code`]).

use std::num::NonZeroUsize;
use std::sync::{Arc, Mutex, MutexGuard};

use lru::LruCache;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::throttle::{Backoff, Throttle, Wait, network};
use super::{password, totp};
use crate::actors::Engine;
use crate::clock::Clock;
use crate::domain::event::{Occasion, UserAuthenticationFailed};
use crate::domain::id::{RequestId, SecretId};
use crate::domain::secret::Secret;
use crate::domain::tenant::{self, Command};
use crate::domain::time::Timestamp;
use crate::error_code::ErrorCode;
use crate::execute::vault::{Binding, Vault, VaultError};
use crate::execute::{Actor, ActorKind, Meta};
use crate::projections::ReadModels;
use crate::projections::rows::UserRow;

/// Tries in 15 minutes for one user to prove themself again.
const TRIES: usize = 5;
/// Failures of one user that are recorded in 15 minutes: they come from as many networks as somebody has.
const RECORDED: usize = 20;
/// Passwords that are hashed at one time: each takes 19 MiB and a core.
const HASHING: usize = 2;
/// Users whose last code is remembered, should there be no room to keep it.
const REMEMBERED_CODES: NonZeroUsize = NonZeroUsize::new(16_384).expect("not zero");

/// Somebody who wants to begin a session.
pub struct Attempt {
    /// Who they say they are.
    pub username: String,
    /// Their password.
    pub password: Secret,
    /// Their one-time code.
    pub totp: String,
    /// In which request.
    pub request: RequestId,
    /// From which address.
    pub ip: Option<String>,
}

/// Why somebody was not let in. What exactly was wrong, or whether there is such a user, is not told.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum LoginRefused {
    /// Name, password or code is wrong, the code was used before, or there were too many codes.
    #[error("name, password or code is wrong, or there were too many codes: then wait 15 minutes")]
    Wrong,
    /// Too many tries failed, for this name from this network or for all names from it. Nothing was looked at.
    #[error("too many tries failed: try again in {retry_after_s} seconds")]
    Throttled {
        /// When there will be another try, in seconds from now.
        retry_after_s: u64,
    },
    /// The key store cannot be asked for now.
    #[error("what proves users cannot be read for now: {0}")]
    Unavailable(String),
    /// Users or their secrets cannot be read.
    #[error("users cannot be looked up: {0}")]
    Failed(String),
}

impl From<VaultError> for LoginRefused {
    fn from(error: VaultError) -> Self {
        match error.code() == ErrorCode::StorageUnavailable {
            true => Self::Unavailable(error.to_string()),
            false => Self::Failed(error.to_string()),
        }
    }
}

/// What is counted apart: names that anybody may invent take no room from those of users who are logged in.
struct Tries {
    /// Logins, by name and network.
    names: Backoff,
    /// Codes behind the right password, by user.
    codes: Backoff,
    /// Logins, by network.
    addresses: Throttle,
    /// Further proofs, by name.
    proofs: Throttle,
    /// Failures that were recorded, by user.
    recorded: Throttle,
}

impl Tries {
    fn new() -> Self {
        let (names, codes) = (Backoff::new(), Backoff::new());
        Self { names, codes, addresses: Throttle::new(), proofs: Throttle::new(), recorded: Throttle::new() }
    }

    /// Takes a try of both. The address first: one that has none left invents no names.
    fn take(&mut self, name: &str, address: &str, per_address: usize, now: Timestamp) -> Result<(), Wait> {
        self.addresses.take(address, per_address, now)?;
        // A refused try made no work, and takes nothing from others behind the same address.
        self.names.take(name, now).inspect_err(|_| self.addresses.give_back(address))
    }
}

impl From<Wait> for LoginRefused {
    fn from(wait: Wait) -> Self {
        Self::Throttled { retry_after_s: wait.seconds() }
    }
}

/// Checks passwords and codes.
pub(super) struct Logins {
    read_models: ReadModels,
    engine: Engine,
    vault: Arc<Vault>,
    clock: Arc<dyn Clock>,
    tries_per_address: usize,
    hashing: Arc<Semaphore>,
    tries: Mutex<Tries>,
    /// The last step whose code counted, by the secret of the codes: for when there is no room to keep it.
    used: Mutex<LruCache<SecretId, u64>>,
}

impl Logins {
    pub(super) fn new(
        read_models: ReadModels,
        engine: Engine,
        vault: Arc<Vault>,
        clock: Arc<dyn Clock>,
        tries_per_address: usize,
    ) -> Self {
        let used = Mutex::new(LruCache::new(REMEMBERED_CODES));
        let (hashing, tries) = (Arc::new(Semaphore::new(HASHING)), Mutex::new(Tries::new()));
        Self { read_models, engine, vault, clock, tries_per_address, hashing, tries, used }
    }

    /// The user, if password and code are theirs.
    pub(super) async fn login(&self, attempt: Attempt) -> Result<UserRow, LoginRefused> {
        let known_form = tenant::check_user_name(&attempt.username).is_ok();
        let by_address = network(attempt.ip.as_deref());
        let by_name = format!("{by_address} {}", if known_form { attempt.username.as_str() } else { "" });
        let now = self.clock.now();
        self.tries().take(&by_name, &by_address, self.tries_per_address, now)?;
        let user = if known_form { self.user(&attempt.username).await? } else { None };
        let stored = match &user {
            Some(user) => self.password(user).await?.zip(self.codes(user).await?),
            None => None,
        };
        let (hash, codes) = stored.unzip();
        let right_password = self.password_matches(attempt.password, hash).await;
        let nobodys = totp::secret(&[0; totp::SECRET_BYTES]);
        let step = totp::matching_step(codes.as_ref().unwrap_or(&nobodys), &attempt.totp, seconds(now));
        let Some(user) = user else { return Err(LoginRefused::Wrong) };
        if right_password && user.disabled_at.is_none() && self.code_counts(&user, step, now).await? {
            let mut tries = self.tries();
            tries.names.forget(&by_name);
            tries.addresses.give_back(&by_address);
            return Ok(user);
        }
        self.remember_failure(&user, Occasion::Login, attempt.request, attempt.ip);
        Err(LoginRefused::Wrong)
    }

    /// Whether the code is the user's, and counts now for the first time.
    pub(super) async fn prove(
        &self,
        name: &str,
        code: &str,
        request: RequestId,
        ip: Option<String>,
    ) -> Result<(), LoginRefused> {
        let now = self.clock.now();
        let user = self.user(name).await?.ok_or(LoginRefused::Wrong)?;
        self.tries().proofs.take(name, TRIES, now).map_err(|_| LoginRefused::Wrong)?;
        let codes = self.codes(&user).await?;
        let step = codes.and_then(|codes| totp::matching_step(&codes, code, seconds(now)));
        if self.use_step(&user, step).await? {
            self.tries().proofs.forget(name);
            return Ok(());
        }
        self.remember_failure(&user, Occasion::StepUp, request, ip);
        Err(LoginRefused::Wrong)
    }

    async fn password_matches(&self, password: Secret, stored: Option<Secret>) -> bool {
        let one_of_few = self.turn().await;
        let matches = move || {
            // Until it is done, also if nobody waits for it any more.
            let _one_of_few = one_of_few;
            password::matches(password.expose(), stored.as_ref())
        };
        tokio::task::spawn_blocking(matches).await.unwrap_or(false)
    }

    /// Whether the code behind the right password is good. Each is a try, however it ends.
    async fn code_counts(&self, user: &UserRow, step: Option<u64>, now: Timestamp) -> Result<bool, LoginRefused> {
        let by_user = user.id.to_string();
        if self.tries().codes.take(&by_user, now).is_err() {
            return Ok(false);
        }
        let counts = self.use_step(user, step).await?;
        if counts {
            self.tries().codes.forget(&by_user);
        }
        Ok(counts)
    }

    /// Behind the answer, which takes the same time for somebody whom nobody knows.
    fn remember_failure(&self, user: &UserRow, occasion: Occasion, request: RequestId, ip: Option<String>) {
        if self.tries().recorded.take(&user.id.to_string(), RECORDED, self.clock.now()).is_err() {
            return;
        }
        let (engine, tenant, user) = (self.engine.clone(), user.tenant, user.id);
        let actor = Actor { kind: ActorKind::User, id: user.to_string() };
        let meta = Meta { request: Some(request), ip, ..Meta::by(actor) };
        let failed = UserAuthenticationFailed { user, occasion };
        tokio::spawn(async move {
            if let Err(error) = engine.tenant(tenant, Command::FailAuthentication(failed), meta).await {
                tracing::warn!("a failed login of {user} could not be recorded: {error}");
            }
        });
    }

    /// A turn to hash a password.
    pub(super) async fn turn(&self) -> OwnedSemaphorePermit {
        Arc::clone(&self.hashing).acquire_owned().await.expect("nobody closes the semaphore")
    }

    pub(super) fn engine(&self) -> &Engine {
        &self.engine
    }

    pub(super) fn vault(&self) -> &Vault {
        &self.vault
    }

    pub(super) fn clock(&self) -> &dyn Clock {
        &*self.clock
    }

    async fn user(&self, name: &str) -> Result<Option<UserRow>, LoginRefused> {
        self.read_models.user(name).await.map_err(|error| LoginRefused::Failed(error.to_string()))
    }

    async fn password(&self, user: &UserRow) -> Result<Option<Secret>, LoginRefused> {
        self.secret(&Binding::password(user.tenant, user.id, user.password)).await
    }

    async fn codes(&self, user: &UserRow) -> Result<Option<Secret>, LoginRefused> {
        self.secret(&Binding::one_time_codes(user.tenant, user.id, user.totp)).await
    }

    /// `None` if it is gone: what replaced it is not known to the read models for a moment.
    async fn secret(&self, binding: &Binding) -> Result<Option<Secret>, LoginRefused> {
        match self.vault.secret(binding).await {
            Ok(secret) => Ok(Some(secret)),
            Err(error @ VaultError::Missing(_)) => {
                tracing::warn!("a login was refused, since what proves the user was replaced or is lost: {error}");
                Ok(None)
            }
            Err(error) => Err(error.into()),
        }
    }

    /// A code counts once, and none before it any more.
    async fn use_step(&self, user: &UserRow, step: Option<u64>) -> Result<bool, LoginRefused> {
        let Some(step) = step else { return Ok(false) };
        let binding = Binding::used_code(user.tenant, user.id, user.totp);
        let counts = match self.vault.use_code(&binding, step, &*self.clock).await {
            Err(error) if error.code() == ErrorCode::StorageFull => {
                // Whoever is to make room may have to log in for it.
                tracing::warn!("a code that was used cannot be kept, and could be used again after a restart: {error}");
                true
            }
            counts => counts?,
        };
        Ok(counts && self.take_step(user.totp, step))
    }

    /// Whether nothing here has taken the step, or a later one, before.
    fn take_step(&self, codes: SecretId, step: u64) -> bool {
        let mut used = self.used.lock().expect("no holder of this lock can panic");
        let is_new = used.get(&codes).is_none_or(|last| *last < step);
        if is_new {
            used.put(codes, step);
        }
        is_new
    }

    /// Somebody has other credentials now: what was tried with those before counts no more.
    pub(super) fn forgive(&self, user: &UserRow) {
        let mut tries = self.tries();
        tries.codes.forget(&user.id.to_string());
        tries.proofs.forget(&user.name);
    }

    fn tries(&self) -> MutexGuard<'_, Tries> {
        self.tries.lock().expect("no holder of this lock can panic")
    }
}

fn seconds(at: Timestamp) -> u64 {
    u64::try_from(at.as_seconds()).unwrap_or_default()
}
