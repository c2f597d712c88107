//! Secrets and keys at rest.
//!
//! ```text
//! operator's keys ──seal──▶ root pepper ──derives──▶ fingerprints, hashes of API keys and sessions, keyed digests
//!                 ├─seal──▶ signing secrets, custom headers, addresses for notices, what proves users, their sessions
//!                 │         and the codes they used
//!                 └─seal──▶ data keys, one for each tenant and month ──seal──▶ data of messages, in the log
//! ```
//!
//! - Each row is sealed under one of the operator's keys, whose id it names, and bound to its purpose, tenant, object and
//!   version ([`Binding`], `sealed.rs`), so that rows cannot be exchanged.
//! - Nothing but sealing rests on the operator's keys: what has to stay is derived from the pepper, so they can be
//!   replaced (`rotation.rs`).
//! - A secret is sealed and stored before the event that refers to it; a crash between the two leaves a sealed secret that
//!   nobody refers to, never an event without its secret.
//! - Who seals data of messages asks for [`Vault::data_key`] and keeps what [`SealingKey::seal`] makes; who opens it asks
//!   for [`Vault::data_key_of`]. Neither asks the database while the tenant's keys are in memory (`data_keys.rs`).
//! - A key store belongs to one log, and both say so (`installation.rs`).

mod codes;
mod data_keys;
mod erasure;
mod installation;
mod orphans;
mod rotation;
mod sealed;
mod sessions;

use std::num::NonZeroUsize;
use std::sync::{Arc, Mutex, MutexGuard};

use lru::LruCache;
use zeroize::Zeroizing;

use crate::clock::Clock;
use crate::domain::secret::Secret;
use crate::error_code::ErrorCode;
use crate::key_store::{KeyStore, KeyStoreError};
use data_keys::DataKeys;
pub use installation::{BindError, holds_events};
pub use orphans::{GRACE_MS, OWNERLESS_MS, Orphans};
pub use rotation::{Census, PIECE, Piece, Verified};
use sealed::derive;
pub use sealed::{Binding, InvalidKeyId, KeyBytes, KeyId, Purpose, SealingKey};

/// Opened secrets that are kept in memory, so that an attempt reads and opens none.
const CACHED_SECRETS: NonZeroUsize = NonZeroUsize::new(4_096).expect("not zero");

/// Why a secret cannot be had.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum VaultError {
    /// Rows are sealed under a key that is not there.
    #[error(
        "{rows} rows of the key store are sealed under the key {id}, which is not configured; there is {configured:?}"
    )]
    UnknownKey {
        /// The key that is missing.
        id: KeyId,
        /// How many rows need it.
        rows: u64,
        /// The keys that are there, the current one first.
        configured: Vec<KeyId>,
    },
    /// One row cannot be opened although its key is there.
    #[error("the row '{0}' of the key store is damaged")]
    Damaged(String),
    /// It was destroyed, or never was.
    #[error("the row '{0}' of the key store is gone")]
    Missing(String),
    /// There is one of that name already.
    #[error("the key store has a row '{0}' already")]
    Taken(String),
    /// The log holds events, and the key store nothing: it is not the log's.
    #[error("the log holds events, and its key store is empty: it belongs to another log, or was not restored with it")]
    Empty,
    /// The log holds no events, and the key store what an earlier log referred to.
    #[error(
        "the log holds no events, and its key store {rows} rows or more: it belongs to another log, or the log is missing"
    )]
    Used {
        /// Rows beside what a first start makes, as many as were looked at.
        rows: usize,
    },
    /// The log and the key store are not of one installation.
    #[error("the log is of the installation {log}, and the key store of {keys}: they do not belong together")]
    Foreign {
        /// What the log says; `none` if it says nothing.
        log: String,
        /// What the key store says, or how it begins.
        keys: String,
    },
    /// The key store failed.
    #[error(transparent)]
    Store(#[from] KeyStoreError),
}

impl VaultError {
    /// Clients match on it.
    pub fn code(&self) -> ErrorCode {
        match self {
            Self::Store(KeyStoreError::Full(_)) => ErrorCode::StorageFull,
            Self::Store(KeyStoreError::Unavailable(_)) => ErrorCode::StorageUnavailable,
            Self::UnknownKey { .. }
            | Self::Damaged(_)
            | Self::Missing(_)
            | Self::Taken(_)
            | Self::Empty
            | Self::Used { .. }
            | Self::Foreign { .. } => ErrorCode::Internal,
        }
    }
}

/// The operator's keys: one seals, all open.
#[derive(Debug)]
pub struct OperatorKeys {
    current: SealingKey,
    old: Vec<SealingKey>,
}

impl OperatorKeys {
    /// A key that seals, and those that sealed before it.
    pub fn new(current: KeyBytes, old: impl IntoIterator<Item = KeyBytes>) -> Self {
        Self { current: SealingKey::new(current), old: old.into_iter().map(SealingKey::new).collect() }
    }

    /// The id of the one that seals.
    pub fn current(&self) -> KeyId {
        self.current.id()
    }

    /// The ids of all, the current one first.
    pub fn ids(&self) -> Vec<KeyId> {
        self.all().map(SealingKey::id).collect()
    }

    fn all(&self) -> impl Iterator<Item = &SealingKey> {
        std::iter::once(&self.current).chain(&self.old)
    }

    fn find(&self, id: KeyId) -> Option<&SealingKey> {
        self.all().find(|key| key.id() == id)
    }

    fn open(&self, binding: &Binding, sealed: &[u8]) -> Result<Zeroizing<Vec<u8>>, VaultError> {
        let damaged = || VaultError::Damaged(binding.to_string());
        let id = KeyId::of_sealed(sealed).ok_or_else(damaged)?;
        let key = self.find(id).ok_or_else(|| VaultError::UnknownKey { id, rows: 1, configured: self.ids() })?;
        key.open(binding, sealed).ok_or_else(damaged)
    }

    /// Fails if a row is sealed under a key that is not among these, unless nobody misses it.
    pub async fn must_open_all(&self, store: &dyn KeyStore) -> Result<(), VaultError> {
        let census = Census::of(store).await?;
        if census.damaged > 0 {
            let rows = census.damaged;
            tracing::error!(rows, "rows of the key store are damaged: 'tidings keys verify' names them");
        }
        let unknown: Vec<_> = census.keys.into_iter().filter(|(id, _)| self.find(*id).is_none()).collect();
        if unknown.is_empty() {
            return Ok(());
        }
        let dispensable = rotation::dispensable(store).await?;
        let missed =
            |(id, rows): (KeyId, u64)| (id, rows - dispensable.get(&id).copied().unwrap_or_default().min(rows));
        match unknown.into_iter().map(missed).find(|(_, rows)| *rows > 0) {
            Some((id, rows)) => Err(VaultError::UnknownKey { id, rows, configured: self.ids() }),
            None => Ok(()),
        }
    }
}

/// Seals, keeps and opens secrets.
pub struct Vault {
    store: Arc<dyn KeyStore>,
    keys: OperatorKeys,
    pepper: KeyBytes,
    opened: Mutex<Opened>,
    data_keys: DataKeys,
}

/// Opened secrets.
struct Opened {
    secrets: LruCache<Binding, Secret>,
    /// How often something was destroyed: what was read before may be gone.
    destroyed: u64,
}

impl Opened {
    fn forget(&mut self, binding: &Binding) {
        self.secrets.pop(binding);
        self.destroyed += 1;
    }

    /// All whose names begin so.
    fn forget_below(&mut self, prefix: &str) {
        let below = self.secrets.iter().map(|(binding, _)| binding).filter(|one| one.name().starts_with(prefix));
        for binding in below.cloned().collect::<Vec<_>>() {
            self.secrets.pop(&binding);
        }
        self.destroyed += 1;
    }
}

impl Vault {
    /// Opens the vault, and refuses keys that do not open what is in it. In an empty store it makes the pepper.
    pub async fn open(store: Arc<dyn KeyStore>, keys: OperatorKeys, clock: &dyn Clock) -> Result<Self, VaultError> {
        keys.must_open_all(&*store).await?;
        let pepper = pepper(&*store, &keys, clock).await?;
        let opened = Mutex::new(Opened { secrets: LruCache::new(CACHED_SECRETS), destroyed: 0 });
        Ok(Self { store, keys, pepper, opened, data_keys: DataKeys::default() })
    }

    /// Seals and stores a secret.
    pub async fn store(&self, binding: &Binding, secret: &Secret, clock: &dyn Clock) -> Result<(), VaultError> {
        let sealed = self.keys.current.seal(binding, secret.expose().as_bytes(), clock);
        if !self.store.add(binding.name(), &sealed).await? {
            return Err(VaultError::Taken(binding.to_string()));
        }
        self.cache().secrets.put(binding.clone(), secret.clone());
        Ok(())
    }

    /// The secret that is sealed there.
    pub async fn secret(&self, binding: &Binding) -> Result<Secret, VaultError> {
        let destroyed = {
            let mut opened = self.cache();
            if let Some(secret) = opened.secrets.get(binding) {
                return Ok(secret.clone());
            }
            opened.destroyed
        };
        let sealed = self.store.get(binding.name()).await?;
        let sealed = sealed.ok_or_else(|| VaultError::Missing(binding.to_string()))?;
        let mut plain = self.keys.open(binding, &sealed)?;
        let text = String::from_utf8(std::mem::take(&mut *plain));
        let secret = Secret::stored(text.map_err(|_| VaultError::Damaged(binding.to_string()))?);
        let mut opened = self.cache();
        // What was destroyed since it was read does not come back.
        if opened.destroyed == destroyed {
            opened.secrets.put(binding.clone(), secret.clone());
        }
        drop(opened);
        Ok(secret)
    }

    /// Destroys a secret that is not used any more; nothing happens if there is none.
    pub async fn destroy(&self, binding: &Binding) -> Result<(), VaultError> {
        self.cache().forget(binding);
        let destroyed = self.store.destroy(&[binding.name().to_owned()]).await;
        // Again: whoever read it meanwhile remembers nothing.
        self.cache().forget(binding);
        destroyed?;
        Ok(())
    }

    /// The name by which people tell secrets apart.
    pub fn fingerprint(&self, secret: &Secret) -> String {
        secret.fingerprint(&*self.derived_key("tidings fingerprints"))
    }

    /// A key for another use. It stays when the operator's key is replaced.
    pub fn derived_key(&self, purpose: &str) -> KeyBytes {
        derive(&self.pepper, purpose.as_bytes())
    }

    /// Under what hashes of API keys are made.
    pub fn api_key_pepper(&self) -> KeyBytes {
        self.derived_key("tidings api keys")
    }

    /// Ends what the key store has open; to be called when nobody seals any more.
    pub async fn close(&self) {
        self.store.close().await;
    }

    fn cache(&self) -> MutexGuard<'_, Opened> {
        self.opened.lock().expect("no holder of this lock can panic")
    }
}

/// The root of all that has to stay the same for as long as the store lives.
async fn pepper(store: &dyn KeyStore, keys: &OperatorKeys, clock: &dyn Clock) -> Result<KeyBytes, VaultError> {
    let binding = Binding::pepper();
    if store.get(binding.name()).await?.is_none() {
        if !store.rows("", "", 1).await?.is_empty() {
            return Err(VaultError::Missing(binding.to_string()));
        }
        let made = KeyBytes::new(clock.random_bytes());
        // Whoever made one at the same time made the one that counts.
        store.add(binding.name(), &keys.current.seal(&binding, &*made, clock)).await?;
    }
    let sealed = store.get(binding.name()).await?.ok_or_else(|| VaultError::Missing(binding.to_string()))?;
    let plain = keys.open(&binding, &sealed)?;
    key_bytes(&plain).ok_or_else(|| VaultError::Damaged(binding.to_string()))
}

fn key_bytes(plain: &[u8]) -> Option<KeyBytes> {
    let mut bytes = KeyBytes::default();
    (plain.len() == bytes.len()).then(|| bytes.copy_from_slice(plain))?;
    Some(bytes)
}

#[cfg(test)]
mod tests;
