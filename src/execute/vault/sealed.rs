//! The form of sealed bytes, and to what they are bound.
//!
//! ```text
//! version 1 | id of the key, 8 bytes | nonce, 24 bytes | XChaCha20-Poly1305 ciphertext with its tag, 16 bytes
//! ```
//!
//! Authenticated beside it: version and key id, and the [`Binding`], so that bytes moved to another purpose, tenant, object
//! or version do not open.

use std::fmt;
use std::ops::{Deref, DerefMut};
use std::str::FromStr;

use chacha20poly1305::aead::{Aead, KeyInit, Payload};
use chacha20poly1305::{Key, XChaCha20Poly1305, XNonce};
use hmac::{Hmac, Mac};
use sha2::Sha256;
use zeroize::Zeroizing;

use crate::clock::Clock;
use crate::domain::id::{ErasureId, MessageId, SecretId, SubscriptionId, TenantId, UserId};
use crate::domain::subscription::Settings;
use crate::domain::time::Timestamp;

/// 32 bytes of key. Prints as `***`, cannot be serialised, and is wiped when dropped.
///
/// ```compile_fail
/// serde_json::to_string(&tidings::execute::vault::KeyBytes::new([7; 32]));
/// ```
#[derive(Clone, Default, PartialEq, Eq)]
pub struct KeyBytes(Zeroizing<[u8; 32]>);

impl KeyBytes {
    /// A key of these bytes.
    pub fn new(bytes: [u8; 32]) -> Self {
        Self(Zeroizing::new(bytes))
    }
}

impl fmt::Debug for KeyBytes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("***")
    }
}

impl Deref for KeyBytes {
    type Target = [u8; 32];

    fn deref(&self) -> &[u8; 32] {
        &self.0
    }
}

impl DerefMut for KeyBytes {
    fn deref_mut(&mut self) -> &mut [u8; 32] {
        &mut self.0
    }
}

const VERSION: u8 = 1;
const ID_BYTES: usize = 8;
/// Version and key id: enough to know who can open it.
pub(super) const HEAD_BYTES: u8 = 1 + ID_BYTES as u8;
const NONCE_BYTES: usize = 24;
/// What an id is derived by.
const ID_LABEL: &[u8] = b"tidings key id 1";

/// By what a key is known: derived from the key itself, so that a damaged key, or another, has another id. It tells
/// nothing of the key.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct KeyId([u8; ID_BYTES]);

impl KeyId {
    /// The id of the key that sealed these bytes; `None` if their form is unknown.
    pub fn of_sealed(sealed: &[u8]) -> Option<Self> {
        let (version, rest) = sealed.split_first()?;
        let (id, _) = rest.split_first_chunk()?;
        (*version == VERSION).then_some(Self(*id))
    }
}

impl fmt::Display for KeyId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&hex::encode(self.0))
    }
}

impl fmt::Debug for KeyId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// The text is no id of a key.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the id of a key is 16 hexadecimal digits")]
pub struct InvalidKeyId;

impl FromStr for KeyId {
    type Err = InvalidKeyId;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let mut id = [0; ID_BYTES];
        hex::decode_to_slice(text, &mut id).map(|()| Self(id)).map_err(|_| InvalidKeyId)
    }
}

/// What is sealed, for whom. Its text is the name of the row that holds it.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Binding(String);

/// For what sealed bytes are.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Purpose {
    /// Signs for a webhook.
    SigningSecret,
    /// Headers of a webhook, one sealed text for each version of them.
    CustomHeaders,
    /// Whom notices of a webhook go to, one sealed text for each version of them.
    Recipients,
    /// A user's hashed password.
    Password,
    /// What a user's one-time codes are made of.
    OneTimeCodes,
    /// A session of a user, while it is open.
    Session,
    /// Which of a user's one-time codes counted last.
    UsedCode,
    /// Whom an erasure is about, while it looks for their messages.
    ErasureSelector,
    /// Seals the data of a tenant's messages of one month.
    DataKey,
    /// What fingerprints and hashes are keyed by.
    Pepper,
    /// Whose log the key store belongs to.
    Installation,
    /// Data of a message, under a data key; stands in the log, not in the key store.
    MessageData,
}

impl Purpose {
    /// Those of rows in the key store.
    pub const STORED: [Self; 11] = [
        Self::SigningSecret,
        Self::CustomHeaders,
        Self::Recipients,
        Self::Password,
        Self::OneTimeCodes,
        Self::Session,
        Self::UsedCode,
        Self::ErasureSelector,
        Self::DataKey,
        Self::Pepper,
        Self::Installation,
    ];

    /// Its name.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::SigningSecret => "signing-secret",
            Self::CustomHeaders => "custom-headers",
            Self::Recipients => "recipients",
            Self::Password => "password",
            Self::OneTimeCodes => "one-time-codes",
            Self::Session => "session",
            Self::UsedCode => "used-code",
            Self::ErasureSelector => "erasure-selector",
            Self::DataKey => "data-key",
            Self::Pepper => "pepper",
            Self::Installation => "installation",
            Self::MessageData => "message-data",
        }
    }
}

impl Purpose {
    /// Whether nothing is lost with a row that cannot be opened: somebody logs in once more.
    pub const fn is_dispensable(self) -> bool {
        matches!(self, Self::Session | Self::UsedCode)
    }
}

impl Binding {
    /// A signing secret of a webhook; its id is its version.
    pub fn signing_secret(tenant: TenantId, subscription: SubscriptionId, secret: SecretId) -> Self {
        Self::of(Purpose::SigningSecret, &tenant, &subscription, &secret)
    }

    /// The headers of a webhook; the id under which they are sealed is their version.
    pub fn custom_headers(tenant: TenantId, subscription: SubscriptionId, version: SecretId) -> Self {
        Self::of(Purpose::CustomHeaders, &tenant, &subscription, &version)
    }

    /// Whom notices of a webhook go to; the id under which they are sealed is their version.
    pub fn recipients(tenant: TenantId, subscription: SubscriptionId, version: SecretId) -> Self {
        Self::of(Purpose::Recipients, &tenant, &subscription, &version)
    }

    /// Everything of a webhook that is sealed.
    pub fn all_of(settings: &Settings) -> Vec<Self> {
        let Settings { tenant, id, .. } = *settings;
        let secrets = settings.secrets.iter().map(|secret| Self::signing_secret(tenant, id, secret.id));
        let headers = settings.headers.iter().map(|headers| Self::custom_headers(tenant, id, headers.secret));
        let recipients = settings.recipients.iter().map(|sealed| Self::recipients(tenant, id, sealed.secret));
        secrets.chain(headers).chain(recipients).collect()
    }

    /// What of all that a webhook needs as it is set, by the ids under which it is sealed: its current signing secret, and
    /// what goes along.
    pub fn in_use(settings: &Settings) -> Vec<(SecretId, Self)> {
        let Settings { tenant, id, .. } = *settings;
        let current = settings.secrets.first().map(|current| current.id);
        let headers = settings.headers.as_ref().map(|headers| headers.secret);
        let recipients = settings.recipients.as_ref().map(|recipients| recipients.secret);
        [
            current.map(|secret| (secret, Self::signing_secret(tenant, id, secret))),
            headers.map(|secret| (secret, Self::custom_headers(tenant, id, secret))),
            recipients.map(|secret| (secret, Self::recipients(tenant, id, secret))),
        ]
        .into_iter()
        .flatten()
        .collect()
    }

    /// A user's hashed password.
    pub fn password(tenant: TenantId, user: UserId, secret: SecretId) -> Self {
        Self::of(Purpose::Password, &tenant, &user, &secret)
    }

    /// What a user's one-time codes are made of.
    pub fn one_time_codes(tenant: TenantId, user: UserId, secret: SecretId) -> Self {
        Self::of(Purpose::OneTimeCodes, &tenant, &user, &secret)
    }

    /// Which of the codes that are made of that secret counted last.
    pub fn used_code(tenant: TenantId, user: UserId, secret: SecretId) -> Self {
        Self::of(Purpose::UsedCode, &tenant, &user, &secret)
    }

    /// A session of a user, by the keyed hash of what its holder has.
    pub fn session(tenant: TenantId, user: UserId, hash: &[u8; 32]) -> Self {
        Self::of(Purpose::Session, &tenant, &user, &hex::encode(hash))
    }

    /// Whose session it is, and the hash; `None` if it is none.
    pub fn of_session(&self) -> Option<(TenantId, UserId, [u8; 32])> {
        let [purpose, tenant, user, hash] = self.0.split('/').collect::<Vec<_>>()[..] else { return None };
        let mut bytes = [0; 32];
        hex::decode_to_slice(hash, &mut bytes).ok()?;
        let is_one = purpose == Purpose::Session.as_str();
        is_one.then_some((tenant.parse().ok()?, user.parse().ok()?, bytes))
    }

    /// Whether the row of that name is kept of a session.
    pub fn names_session(name: &str) -> bool {
        Self::named(name).of_session().is_some()
    }

    /// Whom an erasure is about.
    pub fn erasure_selector(tenant: TenantId, erasure: ErasureId, secret: SecretId) -> Self {
        Self::of(Purpose::ErasureSelector, &tenant, &erasure, &secret)
    }

    /// The data of a message, for sealing under a data key.
    pub fn message_data(tenant: TenantId, message: MessageId) -> Self {
        Self::of(Purpose::MessageData, &tenant, &message, &1)
    }

    pub(super) fn data_key(tenant: TenantId, at: Timestamp) -> Self {
        let moment = at.to_rfc3339_seconds();
        let month = moment.get(..7).unwrap_or_default();
        Self::of(Purpose::DataKey, &tenant, &"messages", &month)
    }

    pub(super) fn pepper() -> Self {
        Self::of(Purpose::Pepper, &"-", &"root", &1)
    }

    pub(super) fn installation() -> Self {
        Self::of(Purpose::Installation, &"-", &"root", &1)
    }

    /// Ids and literals only, which have no `/`: so the parts cannot run into each other.
    fn of(purpose: Purpose, tenant: &dyn fmt::Display, object: &dyn fmt::Display, version: &dyn fmt::Display) -> Self {
        Self(format!("{}/{tenant}/{object}/{version}", purpose.as_str()))
    }

    /// That of a row.
    pub(super) fn named(name: &str) -> Self {
        Self(name.to_owned())
    }

    /// The name of the row.
    pub fn name(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for Binding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for Binding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// A key that seals: the operator's, or one that is sealed itself.
pub struct SealingKey {
    id: KeyId,
    bytes: KeyBytes,
}

/// The id only.
impl fmt::Debug for SealingKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "SealingKey({})", self.id)
    }
}

impl SealingKey {
    /// A key of these bytes.
    pub fn new(bytes: KeyBytes) -> Self {
        let digest = derive(&bytes, ID_LABEL);
        let mut id = [0; ID_BYTES];
        id.copy_from_slice(&digest[..ID_BYTES]);
        Self { id: KeyId(id), bytes }
    }

    /// By what it is known.
    pub fn id(&self) -> KeyId {
        self.id
    }

    /// Seals a text for that purpose.
    pub fn seal(&self, binding: &Binding, plain: &[u8], clock: &dyn Clock) -> Vec<u8> {
        let nonce: [u8; NONCE_BYTES] = clock.random_bytes();
        let head = [&[VERSION], &self.id.0[..]].concat();
        let aad = [&head, binding.0.as_bytes()].concat();
        let payload = Payload { msg: plain, aad: &aad };
        let cipher = XChaCha20Poly1305::new(&Key::from(*self.bytes));
        let sealed = cipher.encrypt(&XNonce::from(nonce), payload).expect("far below the cipher's limit of 256 GiB");
        [&head, &nonce[..], &sealed].concat()
    }

    /// The text; `None` if this key did not seal it, or not for that, or the bytes are damaged.
    pub fn open(&self, binding: &Binding, sealed: &[u8]) -> Option<Zeroizing<Vec<u8>>> {
        let (head, rest) = sealed.split_at_checked(usize::from(HEAD_BYTES))?;
        let (nonce, ciphertext) = rest.split_first_chunk::<NONCE_BYTES>()?;
        let aad = [head, binding.0.as_bytes()].concat();
        let payload = Payload { msg: ciphertext, aad: &aad };
        let cipher = XChaCha20Poly1305::new(&Key::from(*self.bytes));
        let is_ours = KeyId::of_sealed(sealed) == Some(self.id);
        is_ours.then(|| cipher.decrypt(&XNonce::from(*nonce), payload).ok().map(Zeroizing::new))?
    }

    pub(super) fn bytes(&self) -> &KeyBytes {
        &self.bytes
    }
}

/// A key for another use, which tells nothing of the one it is derived from.
pub(super) fn derive(key: &KeyBytes, purpose: &[u8]) -> KeyBytes {
    let mut mac = Hmac::<Sha256>::new_from_slice(&**key).expect("HMAC takes a key of any length");
    mac.update(purpose);
    KeyBytes::new(mac.finalize().into_bytes().into())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::SeededClock;

    fn clock() -> SeededClock {
        SeededClock::new(Timestamp::from_ms(1_763_894_415_000), 1)
    }

    fn key(byte: u8) -> SealingKey {
        SealingKey::new(KeyBytes::new([byte; 32]))
    }

    #[test]
    fn sealed_bytes_open_only_where_they_belong() {
        let (tenants, objects, versions) = ([1, 2], [3, 4], [5, 6]);
        let tenant = |n| TenantId::from_parts(tenants[n], 1);
        let object = |n| SubscriptionId::from_parts(objects[n], 1);
        let version = |n| SecretId::from_parts(versions[n], 1);
        let here = Binding::signing_secret(tenant(0), object(0), version(0));
        let sealed = key(7).seal(&here, b"secret", &clock());
        assert_eq!(**key(7).open(&here, &sealed).unwrap(), *b"secret");
        for (elsewhere, moved) in [
            ("tenant", Binding::signing_secret(tenant(1), object(0), version(0))),
            ("object", Binding::signing_secret(tenant(0), object(1), version(0))),
            ("version", Binding::signing_secret(tenant(0), object(0), version(1))),
            ("purpose", Binding::custom_headers(tenant(0), object(0), version(0))),
        ] {
            assert!(key(7).open(&moved, &sealed).is_none(), "moved to another {elsewhere}");
        }
        assert!(key(8).open(&here, &sealed).is_none());
    }

    #[test]
    fn no_byte_can_be_changed() {
        let here = Binding::pepper();
        let sealed = key(7).seal(&here, b"secret", &clock());
        for place in 0..sealed.len() {
            let mut changed = sealed.clone();
            changed[place] ^= 1;
            assert!(key(7).open(&here, &changed).is_none(), "byte {place}");
        }
        for length in 0..sealed.len() {
            assert!(key(7).open(&here, &sealed[..length]).is_none(), "cut to {length}");
        }
    }

    #[test]
    fn sealed_bytes_name_their_key() {
        let sealed = key(7).seal(&Binding::pepper(), b"secret", &clock());
        assert_eq!(KeyId::of_sealed(&sealed), Some(key(7).id()));
        assert_eq!(key(7).id().to_string().parse(), Ok(key(7).id()));
        assert_ne!(key(7).id(), key(8).id());
        assert_eq!(KeyId::of_sealed(&[9; 60]), None);
        assert!("xyz".parse::<KeyId>().is_err());
    }

    #[test]
    fn the_name_of_each_purpose_is_its_own() {
        let mut names = Purpose::STORED.map(Purpose::as_str).to_vec();
        names.dedup();
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), Purpose::STORED.len());
    }

    #[test]
    fn printing_a_key_shows_its_id() {
        assert_eq!(format!("{:?}", KeyBytes::new([7; 32])), "***");
        assert_eq!(format!("{:?}", key(7)), format!("SealingKey({})", key(7).id()));
    }
}
