//! API keys as their holders have them: `tdk_<id>_<secret>_<checksum>`.
//!
//! The id finds the key, the secret proves it, and the checksum lets a scanner know a leaked key, and this program a
//! mistyped one, without asking anybody. What is stored is an HMAC of the secret under a key that is not in the
//! database, so that whoever can write there alone cannot make keys; 256 random bits cannot be guessed, so that a slow
//! hash would only slow us.

use hmac::{Hmac, KeyInit, Mac};
use sha2::{Digest, Sha256};
use subtle::ConstantTimeEq;
use zeroize::Zeroizing;

use super::id::ApiKeyId;
use super::scope::Scope;
use super::secret::Secret;
use super::time::Timestamp;

/// What every key begins with.
pub const PREFIX: &str = "tdk_";
/// Bytes of a key's secret.
pub const SECRET_BYTES: usize = 32;
/// How long a key may live that can make others or rotate secrets.
pub const MAX_ADMIN_DAYS: u64 = 90;
/// What a keyed hash begins with.
const KEYED: &str = "hmac-sha256:";
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
pub struct ApiKey {
    id: ApiKeyId,
    text: Secret,
    secret: Zeroizing<[u8; SECRET_BYTES]>,
}

impl ApiKey {
    /// The key of that id with that secret, which must be random.
    pub fn generate(id: ApiKeyId, secret: &[u8; SECRET_BYTES]) -> Self {
        let text = Zeroizing::new(format!("{PREFIX}{}_{}", id.suffix(), hex::encode(secret)));
        let token = format!("{}_{}", *text, checksum(&text));
        Self { id, text: Secret::stored(token), secret: Zeroizing::new(*secret) }
    }

    /// Its id.
    pub fn id(&self) -> ApiKeyId {
        self.id
    }

    /// What is stored of it: an HMAC of its secret, after the name of the method.
    pub fn keyed_hash(&self, pepper: &[u8]) -> String {
        keyed(&self.secret, pepper)
    }

    /// Its text, for the one answer that shows it.
    pub fn expose(&self) -> &str {
        self.text.expose()
    }
}

impl std::fmt::Debug for ApiKey {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.debug_struct("ApiKey").field("id", &self.id).finish_non_exhaustive()
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
    pub fn matches(&self, stored_hash: &str, pepper: &[u8]) -> bool {
        keyed(&self.secret, pepper).as_bytes().ct_eq(stored_hash.as_bytes()).into()
    }
}

fn keyed(secret: &[u8; SECRET_BYTES], pepper: &[u8]) -> String {
    let mut mac = Hmac::<Sha256>::new_from_slice(pepper).expect("HMAC takes a key of any length");
    mac.update(secret);
    format!("{KEYED}{}", hex::encode(mac.finalize().into_bytes()))
}

/// A key that can make keys, rotate secrets or erase data would live for longer than [`MAX_ADMIN_DAYS`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "a key with SECRETS_ROTATE, MESSAGES_ERASE, KEYS_ADMIN or TENANTS_ADMIN lives for {MAX_ADMIN_DAYS} days at most"
)]
pub struct LivesTooLong;

/// What could make other keys, take over what is signed, or destroy.
const POWERFUL: [Scope; 4] = [Scope::SecretsRotate, Scope::MessagesErase, Scope::KeysAdmin, Scope::TenantsAdmin];

/// When a new key ends: those that could make others, take over what is signed, or destroy, always do.
pub fn expiry(scopes: &[Scope], wanted: Option<Timestamp>, now: Timestamp) -> Result<Option<Timestamp>, LivesTooLong> {
    let powerful = POWERFUL.iter().any(|one| scopes.contains(one));
    let latest = now.plus_ms(MAX_ADMIN_DAYS * 24 * 60 * 60 * 1_000);
    match wanted {
        Some(at) if powerful && at > latest => Err(LivesTooLong),
        None if powerful => Ok(Some(latest)),
        wanted => Ok(wanted),
    }
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
        assert!(presented.matches(&key(7).keyed_hash(b"pepper"), b"pepper"));
        assert!(!presented.matches(&key(8).keyed_hash(b"pepper"), b"pepper"));
        // Whoever can write to the database knows no pepper, and so can make no key.
        let made_there = hex::encode(Sha256::digest([7; SECRET_BYTES]));
        for stored in ["", &made_there, &format!("{KEYED}{made_there}")] {
            assert!(!presented.matches(stored, b"pepper"), "{stored}");
        }
    }

    #[test]
    fn a_keyed_hash_counts_under_its_own_pepper_alone() {
        let presented = parse(key(7).expose()).unwrap();
        let stored = key(7).keyed_hash(b"pepper");
        assert!(presented.matches(&stored, b"pepper") && !presented.matches(&stored, b"salt"));
        assert!(!parse(key(8).expose()).unwrap().matches(&stored, b"pepper"));
    }

    #[test]
    fn a_key_that_could_make_others_ends_within_ninety_days() {
        let now = Timestamp::from_ms(0);
        let day = |day: u64| now.plus_ms(day * 86_400_000);
        assert_eq!(expiry(&[Scope::WebhooksRead], None, now), Ok(None));
        assert_eq!(expiry(&[Scope::WebhooksRead], Some(day(900)), now), Ok(Some(day(900))));
        for scope in POWERFUL {
            assert_eq!(expiry(&[Scope::WebhooksRead, scope], None, now), Ok(Some(day(90))));
            assert_eq!(expiry(&[scope], Some(day(90)), now), Ok(Some(day(90))));
            assert_eq!(expiry(&[scope], Some(day(91)), now), Err(LivesTooLong));
        }
    }

    #[test]
    fn a_key_has_the_form_that_scanners_look_for() {
        let key = key(7);
        let parts: Vec<_> = key.expose().split('_').map(str::len).collect();
        assert_eq!(parts, [3, 26, 64, 8]);
        assert!(key.expose().starts_with("tdk_01"));
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
