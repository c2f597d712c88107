//! Signing secrets: their form, their rules, and a type that does not leak them.

use std::fmt;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use hmac::{Hmac, KeyInit, Mac};
use sha2::Sha256;
use zeroize::Zeroizing;

use super::profile::KeyForm;

/// A signing secret as its owner knows it. Prints as `***`, cannot be serialised, and is wiped when dropped.
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
}

/// The fewest characters of a supplied secret (A9).
pub const MIN_CHARS: usize = 32;
/// The most.
pub const MAX_CHARS: usize = 256;

const WHSEC: &str = "whsec_";

impl Secret {
    /// A generated secret: 32 random bytes in the form that Standard Webhooks libraries take.
    pub fn generate(random: &[u8; 32]) -> Self {
        Self(Zeroizing::new(format!("{WHSEC}{}", STANDARD.encode(random))))
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
            KeyForm::Text => text(),
            KeyForm::Whsec => {
                self.0.strip_prefix(WHSEC).and_then(|rest| STANDARD.decode(rest).ok()).unwrap_or_else(text)
            }
        })
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
