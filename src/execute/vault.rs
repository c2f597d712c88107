//! Signing secrets at rest.
//!
//! Each is sealed with XChaCha20-Poly1305 under the operator's key and bound to its id, so that rows cannot be
//! exchanged. A secret is sealed and stored before the event that refers to it; a crash between the two leaves a
//! sealed secret that nobody refers to, never an event without its secret.

use std::num::NonZeroUsize;
use std::sync::Mutex;

use chacha20poly1305::aead::{Aead, KeyInit, Payload};
use chacha20poly1305::{Key, XChaCha20Poly1305, XNonce};
use hmac::{Hmac, Mac};
use lru::LruCache;
use sha2::Sha256;
use zeroize::Zeroizing;

use crate::clock::Clock;
use crate::domain::id::SecretId;
use crate::domain::secret::Secret;
use crate::event_store::Log;
use crate::event_store::{AppendError, ReadError};

/// Opened secrets that are kept in memory, so that an attempt reads and opens none.
const CACHED_SECRETS: NonZeroUsize = NonZeroUsize::new(4_096).expect("not zero");
/// Form of the sealed bytes: this byte, 24 bytes of nonce, the ciphertext with its tag.
const FORMAT: u8 = 1;
const NONCE_BYTES: usize = 24;
/// Sealed when the store is new, opened at every start: shows whether the key is the right one.
const CHECK: &str = "vault-check";

/// The operator's key.
pub type MasterKey = Zeroizing<[u8; 32]>;

/// Why a secret cannot be had.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum VaultError {
    /// The key is not the one that sealed the store's secrets.
    #[error("the secret key does not open this store's secrets: it is another store's key, or damaged")]
    WrongKey,
    /// One sealed secret cannot be opened.
    #[error("the secret {0} is damaged")]
    Damaged(String),
    /// It was destroyed.
    #[error("the secret {0} is gone")]
    Missing(SecretId),
    /// The store cannot be read.
    #[error(transparent)]
    Read(#[from] ReadError),
    /// The store cannot be written.
    #[error(transparent)]
    Write(#[from] AppendError),
}

/// Seals, keeps and opens signing secrets.
pub struct Vault {
    log: Log,
    cipher: XChaCha20Poly1305,
    pepper: MasterKey,
    opened: Mutex<LruCache<SecretId, Secret>>,
}

impl Vault {
    /// Opens the vault, and refuses a key that did not seal what is in it.
    pub async fn open(log: Log, key: MasterKey, clock: &dyn Clock) -> Result<Self, VaultError> {
        let cipher = XChaCha20Poly1305::new(&Key::from(*key));
        let vault = Self { log, cipher, pepper: key, opened: Mutex::new(LruCache::new(CACHED_SECRETS)) };
        match vault.log.secret(CHECK).await? {
            Some(sealed) => vault.unseal(CHECK, &sealed).map(drop).ok_or(VaultError::WrongKey)?,
            None if vault.log.has_secrets().await? => return Err(VaultError::WrongKey),
            None => vault.log.put_secret(CHECK, &vault.seal(CHECK, CHECK.as_bytes(), clock)).await?,
        }
        Ok(vault)
    }

    /// Seals and stores a secret under a new id.
    pub async fn store(&self, secret: &Secret, clock: &dyn Clock) -> Result<SecretId, VaultError> {
        let id = clock.secret_id();
        let name = id.to_string();
        self.log.put_secret(&name, &self.seal(&name, secret.expose().as_bytes(), clock)).await?;
        self.cache().put(id, secret.clone());
        Ok(id)
    }

    /// The secret of that id.
    pub async fn secret(&self, id: SecretId) -> Result<Secret, VaultError> {
        if let Some(secret) = self.cache().get(&id) {
            return Ok(secret.clone());
        }
        let name = id.to_string();
        let sealed = self.log.secret(&name).await?.ok_or(VaultError::Missing(id))?;
        let secret = self.unseal(&name, &sealed).ok_or(VaultError::Damaged(name))?;
        self.cache().put(id, secret.clone());
        Ok(secret)
    }

    /// Destroys a secret that signs no more.
    pub async fn destroy(&self, id: SecretId) -> Result<(), VaultError> {
        self.cache().pop(&id);
        Ok(self.log.destroy_secret(&id.to_string()).await?)
    }

    /// The name by which people tell secrets apart.
    pub fn fingerprint(&self, secret: &Secret) -> String {
        secret.fingerprint(&*self.pepper)
    }

    /// A key for another use, which tells nothing of the operator's.
    pub fn derived_key(&self, purpose: &str) -> MasterKey {
        let mut mac = Hmac::<Sha256>::new_from_slice(&*self.pepper).expect("HMAC takes a key of any length");
        mac.update(purpose.as_bytes());
        Zeroizing::new(mac.finalize().into_bytes().into())
    }

    /// Under what hashes of API keys are made.
    pub fn api_key_pepper(&self) -> MasterKey {
        self.derived_key("tidings api keys")
    }

    fn seal(&self, name: &str, plain: &[u8], clock: &dyn Clock) -> Vec<u8> {
        let nonce: [u8; NONCE_BYTES] = clock.random_bytes();
        let payload = Payload { msg: plain, aad: name.as_bytes() };
        let sealed =
            self.cipher.encrypt(&XNonce::from(nonce), payload).expect("a secret is far below the cipher's limit");
        [&[FORMAT], &nonce[..], &sealed].concat()
    }

    fn unseal(&self, name: &str, sealed: &[u8]) -> Option<Secret> {
        let (format, rest) = sealed.split_first()?;
        let (nonce, ciphertext) = rest.split_first_chunk::<NONCE_BYTES>()?;
        let payload = Payload { msg: ciphertext, aad: name.as_bytes() };
        let plain = (*format == FORMAT).then(|| self.cipher.decrypt(&XNonce::from(*nonce), payload).ok())??;
        String::from_utf8(plain).ok().map(Secret::stored)
    }

    fn cache(&self) -> std::sync::MutexGuard<'_, LruCache<SecretId, Secret>> {
        self.opened.lock().expect("no holder of this lock can panic")
    }
}
