//! What stands in the headers: fixed texts, what the delivery tells, and signatures.

use serde::Deserialize;

/// One header.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Header {
    /// Its name, as written on the wire.
    pub name: String,
    /// What stands in it.
    pub value: HeaderValue,
}

/// What may stand in a header.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum HeaderValue {
    /// The message's id, the same on every attempt.
    MessageId,
    /// The event type.
    Type,
    /// When this attempt began, in Unix seconds (A27).
    AttemptedAt,
    /// A fixed text.
    Text(String),
}

/// One signature header.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Signature {
    /// The header's name.
    pub header: String,
    /// What stands before the encoded signature.
    pub prefix: String,
    /// How the 32 bytes are written.
    pub encoding: Encoding,
    /// Which bytes are signed.
    pub content: SignedContent,
    /// How the secret's text becomes the key.
    pub key: KeyForm,
    /// Whether secrets in their overlap sign too, separated by a space. Receivers that compare the whole header must
    /// not see a second signature (A26, S17).
    pub overlap: bool,
}

/// How a signature's bytes are written.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Encoding {
    /// Lower-case hexadecimal.
    Hex,
    /// Standard base64 with padding.
    Base64,
}

/// Which bytes a signature covers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum SignedContent {
    /// The body alone.
    Body,
    /// `timestamp.body`, the timestamp in Unix seconds.
    TimestampBody,
    /// `id.timestamp.body`, as Standard Webhooks has it.
    IdTimestampBody,
}

/// How the secret's text becomes the key.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum KeyForm {
    /// The UTF-8 bytes of the whole text.
    Text,
    /// What base64 decodes to behind `whsec_`; of any other text its UTF-8 bytes.
    Whsec,
}
