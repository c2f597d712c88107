//! Custom headers: static ones that a subscription's owner adds to those of its profile (S8).
//!
//! - They are often credentials of the receiver, so their values are secrets: sealed together as one record, and never in
//!   an event, a read model, a log line or an answer. What events know of them is a [`SealedHeaders`].
//! - None may speak for this program, for the connection, or to a metadata service of a cloud ([`RESERVED`]).

use std::collections::HashSet;
use std::fmt;

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use zeroize::Zeroizing;

use super::id::SecretId;
use super::outcome::MASK;
use super::profile::Profile;
use super::secret::Secret;

/// The most bytes of a name.
pub const MAX_NAME_BYTES: usize = 100;
/// The most bytes of a value.
pub const MAX_VALUE_BYTES: usize = 1_024;
/// The most bytes of all names and values together.
pub const MAX_TOTAL_BYTES: usize = 8 * 1_024;

/// Names that nobody may choose, in lower case; one that ends in `*` stands for all that begin so.
const RESERVED: [&str; 44] = [
    "accept-encoding",
    "authorization",
    "ce-*",
    "cf-connecting-ip",
    "connection",
    "content-*",
    "cookie",
    "expect",
    "forwarded",
    "host",
    "http2-settings",
    "keep-alive",
    "metadata*",
    "proxy",
    "proxy-*",
    "set-cookie",
    "signature*",
    "stripe-signature",
    "te",
    "trailer",
    "transfer-encoding",
    "true-client-ip",
    "upgrade",
    "user-agent",
    "via",
    "webhook-*",
    "x-aliyun-ecs-metadata-*",
    "x-aws-ec2-metadata-*",
    "x-axissynapse-*",
    "x-client-ip",
    "x-cluster-client-ip",
    "x-forwarded*",
    "x-google-metadata-*",
    "x-http-method",
    "x-http-method-override",
    "x-hub-*",
    "x-method-override",
    "x-original-host",
    "x-original-url",
    "x-real-ip",
    "x-rewrite-url",
    "x-tidings-*",
    "x-vault-request",
    "x-webhook-*",
];

/// The shortest value that is looked for in answers: shorter ones stand in every text.
const MIN_REDACTED_BYTES: usize = 6;

/// Checked headers, in the order in which they are sent. Prints its names alone; values are wiped when dropped.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct CustomHeaders(Vec<(String, Zeroizing<String>)>);

impl fmt::Debug for CustomHeaders {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.0.iter().map(|(name, _)| name)).finish()
    }
}

/// Headers as their owner gives them, not checked yet. Prints nothing of them.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct GivenHeaders(Vec<(String, Zeroizing<String>)>);

impl fmt::Debug for GivenHeaders {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(MASK)
    }
}

impl GivenHeaders {
    /// Names and values, in order.
    pub fn of(pairs: impl IntoIterator<Item = (String, String)>) -> Self {
        Self(pairs.into_iter().map(|(name, value)| (name, Zeroizing::new(value))).collect())
    }
}

/// What events know of custom headers: everything but their values.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SealedHeaders {
    /// Under which names and values are sealed.
    pub secret: SecretId,
    /// The names, as they were written, in order.
    pub names: Vec<String>,
    /// Keyed fingerprint of names and values.
    pub fingerprint: String,
}

impl SealedHeaders {
    /// Whether these are the same headers, sealed once more.
    pub fn says_the_same(&self, other: &Self) -> bool {
        self.names == other.names && self.fingerprint == other.fingerprint
    }

    /// What may be told of them: the names, and a mark by which a change of a value can be seen.
    pub fn told(&self) -> Value {
        json!({ "names": self.names, "fingerprint": self.fingerprint })
    }

    /// Hides the values of these among all that was sent.
    pub fn mask(&self, sent: &mut [(String, String)]) {
        for (name, value) in sent {
            if self.names.iter().any(|custom| custom.eq_ignore_ascii_case(name)) {
                MASK.clone_into(value);
            }
        }
    }
}

/// Everything that is wrong with headers; at least one thing.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the custom headers are refused")]
pub struct InvalidHeaders(pub Vec<InvalidHeader>);

/// Something that is wrong with a header. Never says what stands in its value.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{reason}")]
pub struct InvalidHeader {
    /// Where.
    pub place: Place,
    /// What is wrong, and what is allowed.
    pub reason: String,
}

/// Which part of the headers is meant.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Place {
    /// All together.
    All,
    /// The name of that one, counted from 0.
    Name(usize),
    /// The value of that one, counted from 0.
    Value(usize),
}

impl CustomHeaders {
    /// Headers for a subscription under that profile, from its owner. None at all are always allowed.
    pub fn check(profile: &Profile, given: GivenHeaders) -> Result<Self, InvalidHeaders> {
        let headers = Self(given.0);
        let problems = headers.problems(profile);
        if problems.is_empty() { Ok(headers) } else { Err(InvalidHeaders(problems)) }
    }

    fn problems(&self, profile: &Profile) -> Vec<InvalidHeader> {
        let all = |reason| vec![InvalidHeader { place: Place::All, reason }];
        let (count, max) = (self.0.len(), profile.custom_headers.max);
        if count > max as usize {
            return all(match max {
                0 => format!("profile '{}' allows no custom headers", profile.name),
                max => format!("there are {count} custom headers; profile '{}' allows {max}", profile.name),
            });
        }
        let bytes: usize = self.0.iter().map(|(name, value)| name.len() + value.len()).sum();
        if bytes > MAX_TOTAL_BYTES {
            return all(format!("the custom headers have {bytes} bytes; at most {MAX_TOTAL_BYTES} are allowed"));
        }
        let mut seen = HashSet::new();
        let mut problems = Vec::new();
        for (index, (name, value)) in self.0.iter().enumerate() {
            let name = check_name(name, profile).and_then(|()| match seen.insert(name.to_ascii_lowercase()) {
                true => Ok(()),
                false => Err("the name stands there twice; case does not count".to_owned()),
            });
            let of_name = name.err().map(|reason| InvalidHeader { place: Place::Name(index), reason });
            let of_value = check_value(value).err().map(|reason| InvalidHeader { place: Place::Value(index), reason });
            problems.extend(of_name.into_iter().chain(of_value));
        }
        problems
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The names, in order.
    pub fn names(&self) -> Vec<String> {
        self.0.iter().map(|(name, _)| name.clone()).collect()
    }

    /// Names and values, in order: for the request.
    pub fn expose(&self) -> impl Iterator<Item = (&str, &str)> {
        self.0.iter().map(|(name, value)| (name.as_str(), value.as_str()))
    }

    /// All of them as one text, for sealing.
    pub fn to_secret(&self) -> Secret {
        let pairs: Vec<_> = self.expose().collect();
        Secret::stored(serde_json::to_string(&pairs).expect("pairs of texts are JSON"))
    }

    /// What [`Self::to_secret`] made; `None` of any other text.
    pub fn of_secret(secret: &Secret) -> Option<Self> {
        serde_json::from_str(secret.expose()).ok().map(|pairs: Vec<_>| Self(GivenHeaders::of(pairs).0))
    }

    /// Hides values that an endpoint sends back, and the words of them, as they are or in JSON, also one that is cut off
    /// at the text's end. Tabs are escaped in such a text.
    pub fn redact(&self, text: &mut String) {
        for (_, value) in &self.0 {
            let words = value.split([' ', '\t']).filter(|word| word.len() < value.len());
            for secret in std::iter::once(value.as_str()).chain(words) {
                redact_forms(text, secret);
            }
        }
    }
}

fn redact_forms(text: &mut String, secret: &str) {
    if secret.len() < MIN_REDACTED_BYTES {
        return;
    }
    let json = Zeroizing::new(Value::from(secret).to_string());
    let json = &json[1..json.len() - 1];
    // As PHP writes JSON, and as Go does.
    let slashes = Zeroizing::new(json.replace('/', "\\/"));
    let html = Zeroizing::new(json.replace('<', "\\u003c").replace('>', "\\u003e").replace('&', "\\u0026"));
    for form in [secret, &secret.replace('\t', "\\t"), json, &slashes, &html] {
        redact(text, form);
    }
}

fn redact(text: &mut String, value: &str) {
    if text.contains(value) {
        *text = text.replace(value, MASK);
    }
    let is_cut = |kept: &usize| text.ends_with(&value[..*kept]);
    if let Some(kept) = (MIN_REDACTED_BYTES..value.len()).rev().find(is_cut) {
        text.truncate(text.len() - kept);
        text.push_str(MASK);
    }
}

fn check_name(name: &str, profile: &Profile) -> Result<(), String> {
    let is_token = |c: u8| c.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&c);
    if name.is_empty() || name.len() > MAX_NAME_BYTES || !name.bytes().all(is_token) {
        let allowed = "ASCII letters, digits and !#$%&'*+-.^_`|~";
        return Err(format!("a header's name has 1 to {MAX_NAME_BYTES} characters: {allowed}"));
    }
    let folded = folded(name);
    if is_reserved(&folded) || profile.header_names().any(|sent| self::folded(sent) == folded) {
        return Err(format!("the header '{name}' is reserved"));
    }
    Ok(())
}

/// Many receivers take `_` and `-` for the same, so a name may not hide behind it.
fn folded(name: &str) -> String {
    name.to_ascii_lowercase().replace('_', "-")
}

fn is_reserved(name: &str) -> bool {
    RESERVED.iter().any(|reserved| match reserved.strip_suffix('*') {
        Some(beginning) => name.starts_with(beginning),
        None => name == *reserved,
    })
}

fn check_value(value: &str) -> Result<(), String> {
    if value.is_empty() || value.len() > MAX_VALUE_BYTES {
        return Err(format!("a header's value has 1 to {MAX_VALUE_BYTES} characters"));
    }
    if !value.bytes().all(|c| c == b'\t' || (b' '..=b'~').contains(&c)) {
        return Err("a header's value is made of visible ASCII characters, spaces and tabs".to_owned());
    }
    if value.trim_matches([' ', '\t']) != value {
        return Err("a header's value neither begins nor ends with a space".to_owned());
    }
    Ok(())
}

#[cfg(test)]
#[path = "header_tests.rs"]
mod tests;
