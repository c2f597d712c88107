//! API keys as their holders have them: `tdk_<id>_<secret>_<checksum>`.
//!
//! The id finds the key, the secret proves it, and the checksum lets a scanner know a leaked key, and this program a
//! mistyped one, without asking anybody. What is stored is a plain SHA-256 of the secret: 256 random bits cannot be
//! guessed, so that a slow hash would only slow us.

use sha2::{Digest, Sha256};
use subtle::ConstantTimeEq;
use zeroize::Zeroizing;

use super::id::ApiKeyId;
use super::secret::Secret;

/// What every key begins with.
pub const PREFIX: &str = "tdk_";
/// Bytes of a key's secret.
pub const SECRET_BYTES: usize = 32;
/// Hexadecimal digits of the checksum.
const CHECKSUM_CHARS: usize = 8;

/// The text is not a key that this program made.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the API key is malformed")]
pub struct MalformedApiKey;

/// A key as a caller presented it: well formed, and still to be compared.
pub struct Presented {
    /// Which key it claims to be.
    pub id: ApiKeyId,
    secret: Zeroizing<[u8; SECRET_BYTES]>,
}

/// A new key: its text, to be shown once, and the hash to be stored. Prints as `***`.
#[derive(Debug)]
pub struct ApiKey {
    id: ApiKeyId,
    text: Secret,
    hash: String,
}

impl ApiKey {
    /// The key of that id with that secret, which must be random.
    pub fn generate(id: ApiKeyId, secret: &[u8; SECRET_BYTES]) -> Self {
        let text = Zeroizing::new(format!("{PREFIX}{}_{}", id.suffix(), hex::encode(secret)));
        let token = format!("{}_{}", *text, checksum(&text));
        Self { id, text: Secret::stored(token), hash: hash(secret) }
    }

    /// Its id.
    pub fn id(&self) -> ApiKeyId {
        self.id
    }

    /// What is stored of it: SHA-256 of its secret, in hex.
    pub fn hash(&self) -> String {
        self.hash.clone()
    }

    /// Its text, for the one answer that shows it.
    pub fn expose(&self) -> &str {
        self.text.expose()
    }
}

/// Reads a key's text.
pub fn parse(token: &str) -> Result<Presented, MalformedApiKey> {
    let (text, sum) = token.rsplit_once('_').ok_or(MalformedApiKey)?;
    let (id, secret) = text.strip_prefix(PREFIX).and_then(|rest| rest.split_once('_')).ok_or(MalformedApiKey)?;
    let id = format!("{}{id}", ApiKeyId::PREFIX).parse().map_err(|_| MalformedApiKey)?;
    let mut bytes = Zeroizing::new([0; SECRET_BYTES]);
    hex::decode_to_slice(secret, &mut *bytes).map_err(|_| MalformedApiKey)?;
    let written_by_us = secret.bytes().all(|byte| !byte.is_ascii_uppercase()) && sum == checksum(text);
    written_by_us.then_some(Presented { id, secret: bytes }).ok_or(MalformedApiKey)
}

impl Presented {
    /// Whether the secret is the one that was stored as `stored_hash`. Takes the same time for every secret.
    pub fn matches(&self, stored_hash: &str) -> bool {
        hash(&self.secret).as_bytes().ct_eq(stored_hash.as_bytes()).into()
    }
}

fn hash(secret: &[u8; SECRET_BYTES]) -> String {
    hex::encode(Sha256::digest(secret))
}

fn checksum(text: &str) -> String {
    hex::encode(Sha256::digest(text))[..CHECKSUM_CHARS].to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(secret: u8) -> ApiKey {
        ApiKey::generate(ApiKeyId::from_parts(1_763_894_415_000, 42), &[secret; SECRET_BYTES])
    }

    #[test]
    fn an_issued_key_is_read_and_matches_its_own_hash_alone() {
        let presented = parse(key(7).expose()).unwrap();
        assert_eq!(presented.id, key(7).id());
        assert!(presented.matches(&key(7).hash()));
        assert!(!presented.matches(&key(8).hash()));
        assert!(!presented.matches(""));
    }

    #[test]
    fn a_key_has_the_form_that_scanners_look_for() {
        let key = key(7);
        let parts: Vec<_> = key.expose().split('_').map(str::len).collect();
        assert_eq!(parts, [3, 26, 64, 8]);
        assert!(key.expose().starts_with("tdk_01"));
        assert_eq!(key.hash().len(), 64);
        assert!(!key.expose().contains(&key.hash()));
        assert!(!format!("{key:?}").contains(&key.expose()[32..]));
    }

    #[test]
    fn a_key_with_any_character_changed_is_malformed() {
        let key = key(7);
        let text = key.expose();
        for at in 0..text.len() {
            let other = if text.as_bytes()[at] == b'0' { "1" } else { "0" };
            let changed = format!("{}{other}{}", &text[..at], &text[at + 1..]);
            assert!(parse(&changed).is_err(), "{changed}");
        }
        for noise in ["", "tdk_", "tdk___", "Bearer", &text[..text.len() - 1], &text.to_uppercase()] {
            assert!(parse(noise).is_err(), "{noise}");
        }
    }
}
