//! Keys for the data of messages: one for each tenant and month of publishing.
//!
//! - A key is made when the first message of its month is sealed; of two that are made at once, the one that the store took
//!   counts for both.
//! - All keys of a tenant are read together and stay in memory, for as many tenants as fit; sealing and opening then ask
//!   nobody.
//! - A destroyed key leaves memory before its rows go, and no reading that began before can bring it back: whoever reads,
//!   makes or destroys waits for its turn: that of the tenant, or of all where keys of all may go.
//! - What was sealed names its key. If that is not there any more, it was destroyed with the tenant, or lost: whoever asks
//!   looks which (`execute::contents`).
//! - A row that does not open stays alone: only who asks for that key is told.

use std::num::NonZeroUsize;
use std::sync::{Arc, Mutex};

use lru::LruCache;
use tokio::sync::{Mutex as Turn, MutexGuard, RwLock, RwLockReadGuard};

use super::sealed::{Binding, KeyBytes, KeyId, Purpose, SealingKey};
use super::{Vault, VaultError, key_bytes};
use crate::clock::Clock;
use crate::domain::id::TenantId;
use crate::domain::time::Timestamp;

/// Tenants whose keys are in memory: some hundred bytes for each month that is kept.
const CACHED_TENANTS: NonZeroUsize = NonZeroUsize::new(4_096).expect("not zero");
/// Turns that tenants share: one whose keys are slow to be had keeps few others waiting.
const TURNS: usize = 64;
/// Rows that are read at a time.
const PAGE: usize = 500;

/// The keys of one tenant, by the rows they stand in.
type TenantKeys = Arc<Vec<(Binding, Result<Arc<SealingKey>, VaultError>)>>;

pub(super) struct DataKeys {
    known: Mutex<LruCache<TenantId, TenantKeys>>,
    turns: [Turn<()>; TURNS],
    /// Written by whoever takes the turns of all.
    all: RwLock<()>,
}

impl Default for DataKeys {
    fn default() -> Self {
        Self {
            known: Mutex::new(LruCache::new(CACHED_TENANTS)),
            turns: [const { Turn::const_new(()) }; TURNS],
            all: RwLock::new(()),
        }
    }
}

impl DataKeys {
    async fn turn(&self, tenant: TenantId) -> (RwLockReadGuard<'_, ()>, MutexGuard<'_, ()>) {
        let all = self.all.read().await;
        // The low bits of an id are random.
        (all, self.turns[(tenant.to_bits() % TURNS as u128) as usize].lock().await)
    }

    fn known(&self, tenant: TenantId) -> Option<TenantKeys> {
        self.known.lock().expect("no holder of this lock can panic").get(&tenant).cloned()
    }

    fn remember(&self, tenant: TenantId, keys: TenantKeys) {
        self.known.lock().expect("no holder of this lock can panic").put(tenant, keys);
    }

    fn forget(&self, tenant: TenantId) {
        self.known.lock().expect("no holder of this lock can panic").pop(&tenant);
    }

    fn forget_all(&self) {
        self.known.lock().expect("no holder of this lock can panic").clear();
    }
}

impl Vault {
    /// The key that seals what the tenant publishes at that moment.
    pub async fn data_key(
        &self,
        tenant: TenantId,
        at: Timestamp,
        clock: &dyn Clock,
    ) -> Result<Arc<SealingKey>, VaultError> {
        let binding = Binding::data_key(tenant, at);
        let of_month = |keys: &TenantKeys| keys.iter().find(|(known, _)| *known == binding).map(|(_, key)| key.clone());
        if let Some(Ok(key)) = self.data_keys.known(tenant).as_ref().and_then(of_month) {
            return Ok(key);
        }
        let _turn = self.data_keys.turn(tenant).await;
        if let Some(key) = of_month(&self.read_data_keys(tenant).await?) {
            return key;
        }
        let made = SealingKey::new(KeyBytes::new(clock.random_bytes()));
        self.store.add(binding.name(), &self.keys.current.seal(&binding, &**made.bytes(), clock)).await?;
        // Read back: another process may have been quicker.
        of_month(&self.read_data_keys(tenant).await?).unwrap_or_else(|| Err(VaultError::Missing(binding.to_string())))
    }

    /// The key that opens data of the tenant's messages.
    ///
    /// # Errors
    /// [`VaultError::Missing`] if it was destroyed, or lost. If the store fails, what was sealed does not name a key, or
    /// the row that may hold it does not open.
    pub async fn data_key_of(&self, tenant: TenantId, sealed: &[u8]) -> Result<Arc<SealingKey>, VaultError> {
        let damaged = || VaultError::Damaged(format!("data of a message of {tenant}"));
        let id: KeyId = KeyId::of_sealed(sealed).ok_or_else(damaged)?;
        let of_id = |keys: &TenantKeys| keys.iter().flat_map(|(_, key)| key).find(|key| key.id() == id).map(Arc::clone);
        if let Some(key) = self.data_keys.known(tenant).as_ref().and_then(of_id) {
            return Ok(key);
        }
        let _turn = self.data_keys.turn(tenant).await;
        let keys = self.read_data_keys(tenant).await?;
        let unopened = || keys.iter().find_map(|(_, key)| key.as_ref().err().cloned());
        of_id(&keys)
            .ok_or_else(|| unopened().unwrap_or_else(|| VaultError::Missing(format!("data key {id} of {tenant}"))))
    }

    /// Destroys all data keys of a tenant: whatever was sealed under them can be opened by nobody any more. Returns how
    /// many there were. What is sealed afterwards is sealed under new ones. They leave the database's files by
    /// [`Vault::scrub`].
    pub async fn destroy_data_keys(&self, tenant: TenantId) -> Result<u64, VaultError> {
        let _turn = self.data_keys.turn(tenant).await;
        self.data_keys.forget(tenant);
        let names = self.names_below(&prefix(tenant)).await?;
        Ok(self.store.destroy(&names).await?)
    }

    /// Destroys the data keys of all months that ended before that moment, of all tenants: for whoever knows that nothing
    /// is left of what they sealed.
    pub async fn destroy_data_keys_before(&self, moment: Timestamp) -> Result<u64, VaultError> {
        let kept = Binding::data_key(TenantId::from_parts(0, 0), moment);
        let first_kept = month(kept.name()).unwrap_or_default().to_owned();
        let turn = self.data_keys.all.write().await;
        let mut names = self.names_below(&format!("{}/", Purpose::DataKey.as_str())).await?;
        names.retain(|name| month(name).is_some_and(|month| *month < *first_kept));
        if names.is_empty() {
            return Ok(0);
        }
        self.data_keys.forget_all();
        let destroyed = self.store.destroy(&names).await?;
        // Nobody waits for the files.
        drop(turn);
        self.store.scrub().await?;
        Ok(destroyed)
    }

    /// To be called in turn.
    async fn read_data_keys(&self, tenant: TenantId) -> Result<TenantKeys, VaultError> {
        let mut keys = Vec::new();
        let (prefix, mut after) = (prefix(tenant), String::new());
        loop {
            let page = self.store.rows(&prefix, &after, PAGE).await?;
            let Some(last) = page.last() else { break };
            after.clone_from(&last.name);
            for row in page {
                let binding = Binding::named(&row.name);
                let bytes = self
                    .keys
                    .open(&binding, &row.value)
                    .and_then(|plain| key_bytes(&plain).ok_or_else(|| VaultError::Damaged(binding.to_string())));
                keys.push((binding, bytes.map(|bytes| Arc::new(SealingKey::new(bytes)))));
            }
        }
        let keys = Arc::new(keys);
        self.data_keys.remember(tenant, Arc::clone(&keys));
        Ok(keys)
    }

    /// The names of all rows that begin so.
    pub(super) async fn names_below(&self, prefix: &str) -> Result<Vec<String>, VaultError> {
        let (mut names, mut after) = (Vec::new(), String::new());
        loop {
            let page = self.store.rows(prefix, &after, PAGE).await?;
            let Some(last) = page.last() else { return Ok(names) };
            after.clone_from(&last.name);
            names.extend(page.into_iter().map(|row| row.name));
        }
    }
}

fn prefix(tenant: TenantId) -> String {
    format!("{}/{tenant}/", Purpose::DataKey.as_str())
}

/// The month in the name of a data key.
fn month(name: &str) -> Option<&str> {
    name.rsplit('/').next()
}
