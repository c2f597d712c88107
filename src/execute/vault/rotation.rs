//! Another operator's key in the place of one: every row is sealed anew under the current key.
//!
//! A row is replaced only if it is still what was read, so nobody waits and nobody is overwritten; after a crash at any
//! point each row is under one of the two keys, and whoever begins again passes over those that are done. Rows that are
//! added meanwhile are under the current key.
//!
//! A process that still runs with the old key may seal under it behind all that. What is [`Purpose::is_dispensable`]
//! hinders no start then: what cannot be opened of it is destroyed.

use std::collections::HashMap;

use serde::{Serialize, Serializer};

use super::sealed::HEAD_BYTES;
use super::{Binding, KeyId, OperatorKeys, Purpose, Vault, VaultError, key_bytes};
use crate::clock::Clock;
use crate::key_store::KeyStore;

/// Rows that are read and sealed anew at a time.
pub const PIECE: usize = 200;

/// How many rows are under which key.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Census {
    /// By key, in no order that means anything.
    pub keys: Vec<(KeyId, u64)>,
    /// Rows that do not even name a key.
    pub damaged: u64,
}

impl Census {
    /// Counts.
    pub async fn of(store: &dyn KeyStore) -> Result<Self, VaultError> {
        let mut census = Self::default();
        for (head, rows) in store.census(HEAD_BYTES).await? {
            match KeyId::of_sealed(&head) {
                Some(id) => census.keys.push((id, rows)),
                None => census.damaged += rows,
            }
        }
        Ok(census)
    }

    /// The keys that are needed.
    pub fn ids(&self) -> Vec<KeyId> {
        self.keys.iter().map(|(id, _)| *id).collect()
    }

    /// Those that are not this one, and their rows.
    pub fn beside(&self, current: KeyId) -> (Vec<KeyId>, u64) {
        let others = self.keys.iter().filter(|(id, _)| *id != current);
        (others.clone().map(|(id, _)| *id).collect(), others.map(|(_, rows)| rows).sum())
    }
}

/// What became of some rows.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Piece {
    /// How many are under the current key that were not.
    pub sealed: u64,
    /// Those that could not be opened, and stay as they are.
    pub damaged: Vec<String>,
    /// Behind which name it goes on; `None` if that was all.
    pub next: Option<String>,
}

/// What was found by opening every row.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Verified {
    /// Rows that were looked at.
    pub rows: u64,
    /// Names of those that do not open, or hold what they may not hold.
    pub damaged: Vec<String>,
}

impl OperatorKeys {
    /// Seals rows behind the name `after` under the current key, of at most `limit` that are looked at.
    pub async fn rewrap(
        &self,
        store: &dyn KeyStore,
        after: &str,
        limit: usize,
        clock: &dyn Clock,
    ) -> Result<Piece, VaultError> {
        let rows = store.rows("", after, limit).await?;
        let mut piece = Piece { next: rows.last().map(|row| row.name.clone()), ..Piece::default() };
        for row in rows.into_iter().filter(|row| KeyId::of_sealed(&row.value) != Some(self.current())) {
            let binding = Binding::named(&row.name);
            match self.open(&binding, &row.value) {
                Ok(plain) => {
                    let value = self.current.seal(&binding, &plain, clock);
                    piece.sealed += u64::from(store.replace(&row.name, &row.value, &value).await?);
                }
                Err(error @ (VaultError::Damaged(_) | VaultError::UnknownKey { .. })) if is_dispensable(&row.name) => {
                    tracing::warn!("a row that nobody misses is destroyed, since it cannot be opened: {error}");
                    store.destroy(&[row.name]).await?;
                }
                Err(VaultError::Damaged(_) | VaultError::UnknownKey { .. }) => piece.damaged.push(row.name),
                Err(error) => return Err(error),
            }
        }
        Ok(piece)
    }

    /// Opens every row.
    pub async fn verify(&self, store: &dyn KeyStore) -> Result<Verified, VaultError> {
        let (mut verified, mut after) = (Verified::default(), String::new());
        loop {
            let rows = store.rows("", &after, PIECE).await?;
            let Some(last) = rows.last() else { return Ok(verified) };
            after.clone_from(&last.name);
            for row in rows {
                verified.rows += 1;
                let opened = self.open(&Binding::named(&row.name), &row.value);
                if !opened.is_ok_and(|plain| fits(&row.name, &plain)) {
                    verified.damaged.push(row.name);
                }
            }
        }
    }
}

/// What a row of that name is for.
fn purpose_of(name: &str) -> Option<Purpose> {
    Purpose::STORED.into_iter().find(|purpose| name.split('/').next() == Some(purpose.as_str()))
}

fn is_dispensable(name: &str) -> bool {
    purpose_of(name).is_some_and(Purpose::is_dispensable)
}

/// How many rows that nobody misses are under which key.
pub(super) async fn dispensable(store: &dyn KeyStore) -> Result<HashMap<KeyId, u64>, VaultError> {
    let mut counts = HashMap::new();
    for purpose in Purpose::STORED.into_iter().filter(|purpose| purpose.is_dispensable()) {
        let (prefix, mut after) = (format!("{}/", purpose.as_str()), String::new());
        loop {
            let rows = store.rows(&prefix, &after, PIECE).await?;
            let Some(last) = rows.last() else { break };
            after.clone_from(&last.name);
            for id in rows.iter().filter_map(|row| KeyId::of_sealed(&row.value)) {
                *counts.entry(id).or_default() += 1;
            }
        }
    }
    Ok(counts)
}

/// Whether a row of that name may hold this.
fn fits(name: &str, plain: &[u8]) -> bool {
    match purpose_of(name) {
        Some(Purpose::DataKey | Purpose::Pepper) => key_bytes(plain).is_some(),
        Some(
            Purpose::SigningSecret
            | Purpose::CustomHeaders
            | Purpose::Recipients
            | Purpose::Password
            | Purpose::OneTimeCodes
            | Purpose::Session
            | Purpose::UsedCode
            | Purpose::ErasureSelector
            | Purpose::Installation
            | Purpose::MessageData,
        ) => std::str::from_utf8(plain).is_ok(),
        None => false,
    }
}

impl Vault {
    /// The key that seals.
    pub fn current_key(&self) -> KeyId {
        self.keys.current()
    }

    /// How many rows are under which key.
    pub async fn census(&self) -> Result<Census, VaultError> {
        Census::of(&*self.store).await
    }

    /// As [`OperatorKeys::rewrap`], by pieces of [`PIECE`].
    pub async fn rewrap(&self, after: &str, clock: &dyn Clock) -> Result<Piece, VaultError> {
        self.keys.rewrap(&*self.store, after, PIECE, clock).await
    }

    /// Takes what was destroyed, or sealed under an older key, out of the database's files. `false`: somebody may still
    /// read it, to be tried again.
    pub async fn scrub(&self) -> Result<bool, VaultError> {
        Ok(self.store.scrub().await?)
    }
}

impl Serialize for KeyId {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}
