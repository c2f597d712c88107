//! Signing secrets: their form, their rules, and a type that does not leak them.

use std::fmt;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use hmac::{Hmac, KeyInit, Mac};
use ring::signature::{ED25519, Ed25519KeyPair, KeyPair, UnparsedPublicKey};
use sha2::Sha256;
use zeroize::Zeroizing;

use super::profile::{Algorithm, KeyForm};

/// A signing secret as its owner knows it. Prints as `***`, cannot be serialised, and is wiped when dropped.
///
/// ```compile_fail
/// serde_json::to_string(&tidings::domain::secret::Secret::generate(&[7; 32]));
/// ```
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(Zeroizing<String>);

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("***")
    }
}

/// Why a supplied secret is refused. Says nothing of its content.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum InvalidSecret {
    /// Fewer characters than [`MIN_CHARS`].
    #[error("the secret has {0} characters; at least {MIN_CHARS} are needed")]
    TooShort(usize),
    /// More characters than [`MAX_CHARS`].
    #[error("the secret has {0} characters; at most {MAX_CHARS} are allowed")]
    TooLong(usize),
    /// A character outside visible ASCII, or a space at either end.
    #[error("the secret may hold visible ASCII characters only, and no space at its ends")]
    Characters,
    /// One character over and over.
    #[error("the secret is one character repeated")]
    Repeated,
    /// No private key of Ed25519 where one is needed.
    #[error(
        "the secret is no Ed25519 key: whsk_ and base64 of the 32 bytes of its seed, with or without the public key behind them"
    )]
    NoPrivateKey,
}

/// The fewest characters of a supplied secret (A9).
pub const MIN_CHARS: usize = 32;
/// The most.
pub const MAX_CHARS: usize = 256;

const WHSEC: &str = "whsec_";
const WHSK: &str = "whsk_";
const WHPK: &str = "whpk_";
const SEED_BYTES: usize = 32;

impl Secret {
    /// A generated secret: 32 random bytes in the form that Standard Webhooks libraries take.
    pub fn generate(random: &[u8; 32]) -> Self {
        Self(Zeroizing::new(format!("{WHSEC}{}", STANDARD.encode(random))))
    }

    /// A generated secret of the kind that an algorithm needs.
    pub fn generate_for(algorithm: Algorithm, random: &[u8; 32]) -> Self {
        match algorithm {
            Algorithm::HmacSha256 => Self::generate(random),
            Algorithm::Ed25519 => {
                let pair = Ed25519KeyPair::from_seed_unchecked(random).expect("every 32 bytes are a seed");
                let key = Zeroizing::new([random, pair.public_key().as_ref()].concat());
                Self(Zeroizing::new(format!("{WHSK}{}", STANDARD.encode(&*key))))
            }
        }
    }

    /// A secret of the kind that an algorithm needs, from its owner.
    pub fn supplied_for(algorithm: Algorithm, text: &str) -> Result<Self, InvalidSecret> {
        let secret = Self::supplied(text)?;
        match algorithm {
            Algorithm::Ed25519 if secret.key_pair().is_none() => Err(InvalidSecret::NoPrivateKey),
            Algorithm::Ed25519 | Algorithm::HmacSha256 => Ok(secret),
        }
    }

    /// A secret that the subscription's owner brings (A9).
    pub fn supplied(text: &str) -> Result<Self, InvalidSecret> {
        let count = text.chars().count();
        if count < MIN_CHARS {
            return Err(InvalidSecret::TooShort(count));
        }
        if count > MAX_CHARS {
            return Err(InvalidSecret::TooLong(count));
        }
        let visible = text.bytes().all(|byte| (b' '..=b'~').contains(&byte));
        if !visible || text.starts_with(' ') || text.ends_with(' ') {
            return Err(InvalidSecret::Characters);
        }
        if text.bytes().all(|byte| byte == text.as_bytes()[0]) {
            return Err(InvalidSecret::Repeated);
        }
        Ok(Self(Zeroizing::new(text.to_owned())))
    }

    /// A secret that was stored by this program.
    pub fn stored(text: String) -> Self {
        Self(Zeroizing::new(text))
    }

    /// The text itself: for the one answer that shows it, for sealing, and for receivers.
    pub fn expose(&self) -> &str {
        &self.0
    }

    /// The key for signatures: the same text makes two keys, since Standard Webhooks decodes what others take as it is.
    pub fn key(&self, form: KeyForm) -> Zeroizing<Vec<u8>> {
        let text = || self.0.as_bytes().to_vec();
        Zeroizing::new(match form {
            KeyForm::Text | KeyForm::Whsk => text(),
            KeyForm::Whsec => {
                self.0.strip_prefix(WHSEC).and_then(|rest| STANDARD.decode(rest).ok()).unwrap_or_else(text)
            }
        })
    }

    /// The public key, `whpk_…`, if this is a private or a public one.
    pub fn public_key(&self) -> Option<String> {
        match self.key_pair() {
            Some(pair) => Some(format!("{WHPK}{}", STANDARD.encode(pair.public_key()))),
            None => self.0.starts_with(WHPK).then(|| self.0.to_string()),
        }
    }

    /// The Ed25519 signature of the text; `None` if this is no private key.
    pub fn sign(&self, text: &[u8]) -> Option<Vec<u8>> {
        Some(self.key_pair()?.sign(text).as_ref().to_vec())
    }

    /// Whether that is the Ed25519 signature of the text.
    pub fn verifies(&self, text: &[u8], signature: &[u8]) -> bool {
        let key = self.public_key().and_then(|key| STANDARD.decode(key.strip_prefix(WHPK)?).ok());
        key.is_some_and(|key| UnparsedPublicKey::new(&ED25519, key).verify(text, signature).is_ok())
    }

    fn key_pair(&self) -> Option<Ed25519KeyPair> {
        let bytes = Zeroizing::new(STANDARD.decode(self.0.strip_prefix(WHSK)?).ok()?);
        let (seed, public) = bytes.split_at_checked(SEED_BYTES)?;
        match public {
            [] => Ed25519KeyPair::from_seed_unchecked(seed).ok(),
            public => Ed25519KeyPair::from_seed_and_public_key(seed, public).ok(),
        }
    }

    /// A short name by which people compare secrets without seeing them. Keyed, since a plain hash of a secret that
    /// a person chose could be guessed.
    pub fn fingerprint(&self, pepper: &[u8]) -> String {
        let mut mac = Hmac::<Sha256>::new_from_slice(pepper).expect("HMAC takes a key of any length");
        mac.update(self.0.as_bytes());
        hex::encode(&mac.finalize().into_bytes()[..6])
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_supplied_secret_needs_32_visible_characters() {
        // A9
        assert!(Secret::supplied("0123456789abcdef0123456789abcdef").is_ok());
        assert_eq!(
            Secret::supplied("short").unwrap_err().to_string(),
            "the secret has 5 characters; at least 32 are needed"
        );
        assert_eq!(Secret::supplied(&"a1".repeat(129)), Err(InvalidSecret::TooLong(258)));
        assert_eq!(Secret::supplied(&"x".repeat(40)), Err(InvalidSecret::Repeated));
        assert_eq!(Secret::supplied(&format!("{}\n", "ab".repeat(20))), Err(InvalidSecret::Characters));
        assert_eq!(Secret::supplied(&format!(" {}", "ab".repeat(20))), Err(InvalidSecret::Characters));
        for (count, is_taken) in [(31, false), (32, true), (256, true), (257, false)] {
            assert_eq!(Secret::supplied(&"ab".repeat(200)[..count]).is_ok(), is_taken, "{count}");
        }
        for odd in ["\t", "\0", "\u{7f}", "é", "\u{a0}", "\u{200b}"] {
            let text = format!("{}{odd}{}", "ab".repeat(20), "cd");
            assert_eq!(Secret::supplied(&text), Err(InvalidSecret::Characters), "{odd:?}");
        }
        assert_eq!(Secret::supplied(&format!("{} ", "ab".repeat(20))), Err(InvalidSecret::Characters));
        assert!(Secret::supplied("a pass phrase of several words, with a comma").is_ok());
    }

    #[test]
    fn a_generated_secret_is_one_text_and_two_keys() {
        let secret = Secret::generate(&[7; 32]);
        assert!(secret.expose().starts_with("whsec_"));
        assert_eq!(*secret.key(KeyForm::Whsec), vec![7; 32]);
        assert_eq!(*secret.key(KeyForm::Text), secret.expose().as_bytes());
        let own = Secret::supplied("not base64, but long enough to be used!").unwrap();
        assert_eq!(own.key(KeyForm::Whsec), own.key(KeyForm::Text));
    }

    #[test]
    fn a_private_key_has_a_public_one_that_alone_verifies() {
        let secret = Secret::generate_for(Algorithm::Ed25519, &[7; 32]);
        let public = Secret::stored(secret.public_key().unwrap());
        let signature = secret.sign(b"text").unwrap();
        assert!(public.verifies(b"text", &signature) && secret.verifies(b"text", &signature));
        assert!(!public.verifies(b"test", &signature));
        assert_eq!((public.sign(b"text"), public.public_key()), (None, secret.public_key()));
        assert_eq!(Secret::generate(&[7; 32]).public_key(), None);
    }

    #[test]
    fn a_supplied_private_key_may_lack_its_public_one_but_not_have_anothers() {
        // RFC 8032, 7.1, test 1
        let seed = hex::decode("9d61b19deffd5a60ba844af492ec2cc44449c5697b326919703bac031cae7f60").unwrap();
        let public = hex::decode("d75a980182b10ab7d54bfed3c964073a0ee172f3daa62325af021a68f707511a").unwrap();
        let supplied = |key: &[u8]| Secret::supplied_for(Algorithm::Ed25519, &format!("whsk_{}", STANDARD.encode(key)));
        let expected = Some(format!("whpk_{}", STANDARD.encode(&public)));
        for key in [seed.clone(), [seed.clone(), public.clone()].concat()] {
            let secret = supplied(&key).unwrap();
            assert_eq!(secret.public_key(), expected);
            assert!(hex::encode(secret.sign(b"").unwrap()).starts_with("e5564300c360ac729086e2cc806e828a"));
        }
        for key in [vec![], seed[1..].to_vec(), [public, seed].concat()] {
            assert!(supplied(&key).is_err(), "{key:?}");
        }
        let shared = Secret::generate(&[7; 32]);
        assert_eq!(Secret::supplied_for(Algorithm::Ed25519, shared.expose()), Err(InvalidSecret::NoPrivateKey));
    }

    #[test]
    fn printing_a_secret_shows_nothing() {
        // A10
        assert_eq!(format!("{:?}", Secret::generate(&[7; 32])), "***");
    }

    #[test]
    fn a_fingerprint_depends_on_the_pepper() {
        let secret = Secret::generate(&[7; 32]);
        assert_eq!(secret.fingerprint(b"a").len(), 12);
        assert_ne!(secret.fingerprint(b"a"), secret.fingerprint(b"b"));
    }
}
