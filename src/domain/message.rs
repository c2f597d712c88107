//! Messages: what a publisher may send, and when two of them are the same.

use hmac::{Hmac, KeyInit, Mac};
use sha2::{Digest, Sha256};

use super::filter::{EventType, InvalidEventType};
use super::id::TenantId;
use super::json;
use super::time::Timestamp;
use crate::error_code::ErrorCode;

/// The most bytes of a message's canonical data.
pub const MAX_DATA_BYTES: usize = 256 * 1024;
/// The most characters of an idempotency key.
pub const MAX_IDEMPOTENCY_KEY_CHARS: usize = 256;

/// What a publisher sends.
#[derive(Clone, Debug, PartialEq)]
pub struct Publish {
    /// The event type's name.
    pub event_type: String,
    /// The data as JSON text.
    pub data: String,
    /// When the event happened; the time of publishing if `None`.
    pub occurred_at: Option<Timestamp>,
    /// A second message with this key is the first one again.
    pub idempotency_key: Option<String>,
}

/// A message that is fit to be published.
#[derive(Clone, Debug, PartialEq)]
pub struct Draft {
    /// The event type.
    pub event_type: EventType,
    /// The data as canonical JSON: these bytes are sent on every attempt.
    pub data: String,
    /// Whether a JavaScript parser would write the data differently (A25).
    pub unstable: bool,
    /// When the event happened; the time of publishing if `None`.
    pub occurred_at: Option<Timestamp>,
    /// The key, and a digest of all that the publisher sent.
    pub idempotency: Option<Idempotency>,
}

/// A publisher's key against publishing twice.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Idempotency {
    /// In the publisher's words.
    pub key: String,
    /// Tells the same message from another one under the same key.
    pub digest: String,
}

/// Why a message is refused.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
pub enum Refusal {
    /// The type's name is not a name.
    #[error(transparent)]
    InvalidType(#[from] InvalidEventType),
    /// Nobody announced the type.
    #[error("the event type '{0}' is neither in the catalogue nor registered")]
    UnknownType(EventType),
    /// `webhook.test` and its like are ours.
    #[error("the event type '{0}' is reserved")]
    ReservedType(EventType),
    /// The data is not JSON.
    #[error("the data is not valid JSON: {0}")]
    InvalidData(String),
    /// The data is no object.
    #[error("the data must be a JSON object")]
    NotAnObject,
    /// The data is too large.
    #[error("the data has {0} bytes; at most {MAX_DATA_BYTES} are allowed")]
    TooLarge(usize),
    /// The key is empty or too long.
    #[error("an idempotency key has 1 to {MAX_IDEMPOTENCY_KEY_CHARS} characters")]
    InvalidIdempotencyKey,
    /// The key stands for another message.
    #[error("the idempotency key '{0}' was used for another message")]
    IdempotencyKeyReused(String),
    /// There is no such tenant.
    #[error("there is no such tenant")]
    NoTenant,
    /// The tenant was erased.
    #[error("the tenant was erased: nothing is published for it any more")]
    TenantErased,
}

impl Refusal {
    /// The code that clients match on.
    pub fn code(&self) -> ErrorCode {
        match self {
            Self::InvalidType(_)
            | Self::ReservedType(_)
            | Self::InvalidData(_)
            | Self::NotAnObject
            | Self::InvalidIdempotencyKey => ErrorCode::InvalidInput,
            Self::UnknownType(_) => ErrorCode::EventTypeUnknown,
            Self::TooLarge(_) => ErrorCode::MessageTooLarge,
            Self::IdempotencyKeyReused(_) => ErrorCode::IdempotencyKeyReused,
            Self::NoTenant => ErrorCode::NotFound,
            Self::TenantErased => ErrorCode::TenantErased,
        }
    }

    /// Which field of the message is to blame, or the parameter that names the tenant.
    pub fn field(&self) -> &'static str {
        match self {
            Self::InvalidType(_) | Self::UnknownType(_) | Self::ReservedType(_) => "type",
            Self::InvalidData(_) | Self::NotAnObject | Self::TooLarge(_) => "data",
            Self::InvalidIdempotencyKey | Self::IdempotencyKeyReused(_) => "idempotencyKey",
            Self::NoTenant | Self::TenantErased => "tenantId",
        }
    }
}

/// Checks what a publisher sends and makes its data canonical, as far as that needs no look at the tenant.
pub fn prepare(publish: Publish) -> Result<Draft, Refusal> {
    let Publish { event_type, data, occurred_at, idempotency_key } = publish;
    let event_type = EventType::parse(&event_type)?;
    if event_type.is_reserved() {
        return Err(Refusal::ReservedType(event_type));
    }
    if data.len() > MAX_DATA_BYTES * 2 {
        return Err(Refusal::TooLarge(data.len()));
    }
    let canonical = json::canonicalise(data.as_bytes()).map_err(|error| Refusal::InvalidData(error.to_string()))?;
    if canonical.text().len() > MAX_DATA_BYTES {
        return Err(Refusal::TooLarge(canonical.text().len()));
    }
    if !canonical.text().starts_with('{') {
        return Err(Refusal::NotAnObject);
    }
    let idempotency = idempotency_key
        .map(|key| match key.chars().count() {
            1..=MAX_IDEMPOTENCY_KEY_CHARS => {
                let digest = request_digest(&event_type, occurred_at, canonical.text());
                Ok(Idempotency { key, digest })
            }
            _ => Err(Refusal::InvalidIdempotencyKey),
        })
        .transpose()?;
    Ok(Draft { event_type, unstable: !canonical.is_stable(), data: canonical.into_text(), occurred_at, idempotency })
}

fn request_digest(event_type: &EventType, occurred_at: Option<Timestamp>, data: &str) -> String {
    let mut hash = Sha256::new();
    hash.update(event_type.as_str());
    hash.update([0]);
    hash.update(occurred_at.map_or(-1, Timestamp::as_ms).to_be_bytes());
    hash.update(data);
    hex::encode(hash.finalize())
}

/// The name under which a tenant's idempotency key is claimed. Hashed, so that its length is bounded.
pub fn idempotency_claim(tenant: TenantId, key: &str) -> String {
    format!("message/{tenant}/{}", hex::encode(&Sha256::digest(key.as_bytes())[..16]))
}

/// The commitment to data that the event keeps: once salt and data are erased it says nothing about them.
pub fn salted_digest(salt: &[u8; SALT_BYTES], data: &str) -> String {
    let mut hash = Sha256::new();
    hash.update(salt);
    hash.update(data);
    hex::encode(hash.finalize())
}

/// Bytes of salt before the data in a message's erasable content.
pub const SALT_BYTES: usize = 16;

/// The data in a message's erasable content; `None` if that is damaged.
pub fn data_of(content: &[u8]) -> Option<&str> {
    content.get(SALT_BYTES..).and_then(|data| std::str::from_utf8(data).ok())
}

/// What an idempotency key's claim remembers of the digest of a request. A digest alone could be guessed by whoever reads
/// the store after the data was erased: the claim outlives the data, or a repeated publication would bring it back.
pub fn keyed_digest(key: &[u8; 32], claim: &str, digest: &str) -> String {
    let mut mac = Hmac::<Sha256>::new_from_slice(key).expect("HMAC takes a key of any length");
    mac.update(claim.as_bytes());
    mac.update(&[0]);
    mac.update(digest.as_bytes());
    hex::encode(mac.finalize().into_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn publish(event_type: &str, data: &str) -> Publish {
        Publish {
            event_type: event_type.into(),
            data: data.into(),
            occurred_at: None,
            idempotency_key: Some("order-1".into()),
        }
    }

    #[test]
    fn data_is_made_canonical_once() {
        // A25
        let draft = prepare(publish("user.created", "{ \"b\": 1.0, \"2\": [ ] }")).unwrap();
        assert_eq!(draft.data, r#"{"2":[],"b":1}"#);
        assert!(!draft.unstable);
        assert!(prepare(publish("user.created", r#"{"n":9007199254740993}"#)).unwrap().unstable);
    }

    #[test]
    fn the_same_message_has_the_same_digest_however_it_is_spaced() {
        let digest = |data| prepare(publish("user.created", data)).unwrap().idempotency.unwrap().digest;
        assert_eq!(digest("{\"a\":1}"), digest("{ \"a\" : 1 }"));
        assert_ne!(digest("{\"a\":1}"), digest("{\"a\":2}"));
    }

    #[test]
    fn what_cannot_be_published_is_refused_with_its_code() {
        let code = |event_type: &str, data: &str| prepare(publish(event_type, data)).unwrap_err().code();
        assert_eq!(code("user..created", "{}"), ErrorCode::InvalidInput);
        assert_eq!(code("webhook.test", "{}"), ErrorCode::InvalidInput); // A17
        assert_eq!(code("user.created", "{"), ErrorCode::InvalidInput);
        assert_eq!(code("user.created", "[]"), ErrorCode::InvalidInput);
        let large = format!("{{\"a\":\"{}\"}}", "x".repeat(MAX_DATA_BYTES));
        assert_eq!(code("user.created", &large), ErrorCode::MessageTooLarge);
        let empty_key = Publish { idempotency_key: Some(String::new()), ..publish("user.created", "{}") };
        assert_eq!(prepare(empty_key), Err(Refusal::InvalidIdempotencyKey));
    }
}
