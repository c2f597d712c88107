//! A key store in memory that fails when a test wants it to.

use std::sync::atomic::{AtomicBool, Ordering};

use async_trait::async_trait;
use tidings::key_store::{KeyStore, KeyStoreError, MemoryKeys, SealedRow};

/// What fails, and works again once it is said to.
#[derive(Default)]
pub(crate) struct FailingKeys {
    memory: MemoryKeys,
    pub(crate) reads: Switch,
    pub(crate) adds: Switch,
    pub(crate) destroys: Switch,
}

#[derive(Default)]
pub(crate) struct Switch(AtomicBool);

impl Switch {
    pub(crate) fn fail(&self) {
        self.0.store(true, Ordering::Relaxed);
    }

    pub(crate) fn work(&self) {
        self.0.store(false, Ordering::Relaxed);
    }

    fn check(&self) -> Result<(), KeyStoreError> {
        match self.0.load(Ordering::Relaxed) {
            true => Err(KeyStoreError::Unavailable("the test says so".into())),
            false => Ok(()),
        }
    }
}

#[async_trait]
impl KeyStore for FailingKeys {
    async fn get(&self, name: &str) -> Result<Option<Vec<u8>>, KeyStoreError> {
        self.reads.check()?;
        self.memory.get(name).await
    }

    async fn rows(&self, prefix: &str, after: &str, limit: usize) -> Result<Vec<SealedRow>, KeyStoreError> {
        self.reads.check()?;
        self.memory.rows(prefix, after, limit).await
    }

    async fn add(&self, name: &str, value: &[u8]) -> Result<bool, KeyStoreError> {
        self.adds.check()?;
        self.memory.add(name, value).await
    }

    async fn replace(&self, name: &str, before: &[u8], value: &[u8]) -> Result<bool, KeyStoreError> {
        self.memory.replace(name, before, value).await
    }

    async fn destroy(&self, names: &[String]) -> Result<u64, KeyStoreError> {
        self.destroys.check()?;
        self.memory.destroy(names).await
    }

    async fn census(&self, length: u8) -> Result<Vec<(Vec<u8>, u64)>, KeyStoreError> {
        self.memory.census(length).await
    }

    async fn scrub(&self) -> Result<bool, KeyStoreError> {
        self.memory.scrub().await
    }

    async fn close(&self) {}
}
