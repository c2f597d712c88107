//! Sealed rows in memory: the same contract, nothing durable. For simulations.

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

use async_trait::async_trait;

use super::{KeyStore, KeyStoreError, SealedRow, end_of};

/// Sealed rows in memory.
#[derive(Debug, Default)]
pub struct MemoryKeys {
    rows: Mutex<BTreeMap<String, Vec<u8>>>,
}

impl MemoryKeys {
    fn locked(&self) -> MutexGuard<'_, BTreeMap<String, Vec<u8>>> {
        // Nothing panics between two changes that belong together.
        self.rows.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[async_trait]
impl KeyStore for MemoryKeys {
    async fn get(&self, name: &str) -> Result<Option<Vec<u8>>, KeyStoreError> {
        Ok(self.locked().get(name).cloned())
    }

    async fn rows(&self, prefix: &str, after: &str, limit: usize) -> Result<Vec<SealedRow>, KeyStoreError> {
        let end = end_of(prefix);
        let rows = self.locked();
        let found = rows.iter().filter(|(name, _)| {
            let name = name.as_str();
            name >= prefix && name < end.as_str() && name > after
        });
        Ok(found.take(limit).map(|(name, value)| SealedRow { name: name.clone(), value: value.clone() }).collect())
    }

    async fn add(&self, name: &str, value: &[u8]) -> Result<bool, KeyStoreError> {
        let mut rows = self.locked();
        let is_new = !rows.contains_key(name);
        if is_new {
            rows.insert(name.to_owned(), value.to_vec());
        }
        Ok(is_new)
    }

    async fn replace(&self, name: &str, before: &[u8], value: &[u8]) -> Result<bool, KeyStoreError> {
        let mut rows = self.locked();
        let row = rows.get_mut(name).filter(|found| *found == before);
        Ok(row.map(|row| *row = value.to_vec()).is_some())
    }

    async fn destroy(&self, names: &[String]) -> Result<u64, KeyStoreError> {
        let mut rows = self.locked();
        Ok(names.iter().filter_map(|name| rows.remove(name)).count() as u64)
    }

    async fn census(&self, length: u8) -> Result<Vec<(Vec<u8>, u64)>, KeyStoreError> {
        let mut counts = BTreeMap::new();
        for value in self.locked().values() {
            *counts.entry(value.iter().copied().take(usize::from(length)).collect()).or_default() += 1;
        }
        Ok(counts.into_iter().collect())
    }

    async fn scrub(&self) -> Result<bool, KeyStoreError> {
        Ok(true)
    }

    async fn close(&self) {}
}
