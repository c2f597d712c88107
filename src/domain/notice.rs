//! Notices: what a subscription's owner is told of by e-mail, and at which addresses (A12, C19).
//!
//! - Addresses are personal data. They are sealed together as one record, which can be destroyed, and never stand in an
//!   event, a read model or a log line. What events know of them is a [`SealedRecipients`].
//! - An address is made of ASCII letters, digits and a few signs: nothing in it can end a line, so that a mail's headers
//!   and the dialogue with a mail server stay ours.
//! - What is told of is a rule of the profile ([`Occurrence`](super::profile::Occurrence)); how it is put into words,
//!   `domain::mail` says.

use std::fmt;
use std::hash::{Hash, Hasher};

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use zeroize::Zeroizing;

use super::id::SecretId;
use super::secret::Secret;

/// The most addresses of a subscription.
pub const MAX_RECIPIENTS: usize = 5;
/// The most characters of an address (RFC 5321, 4.5.3.1.3).
const MAX_ADDRESS_CHARS: usize = 254;
/// The most characters of what stands before the `@` (RFC 5321, 4.5.3.1.1).
const MAX_LOCAL_CHARS: usize = 64;
/// The most characters of a part of a domain's name (RFC 1035, 2.3.4).
const MAX_LABEL_CHARS: usize = 63;

/// An e-mail address. Prints nothing of itself; wiped when dropped.
#[derive(Clone, PartialEq, Eq)]
pub struct Address(Zeroizing<String>);

impl Hash for Address {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.0.as_str().hash(state);
    }
}

impl fmt::Debug for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("***")
    }
}

/// The text is no address that mails can be sent to. Does not repeat it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "an e-mail address is a name, an @ and a domain's name with a dot in it, in ASCII, of at most {MAX_ADDRESS_CHARS} \
     characters"
)]
pub struct InvalidAddress;

impl Address {
    /// The address that is written so.
    pub fn parse(text: &str) -> Result<Self, InvalidAddress> {
        let (local, domain) = text.rsplit_once('@').ok_or(InvalidAddress)?;
        let holds = text.len() <= MAX_ADDRESS_CHARS && is_local(local) && is_domain(domain);
        holds.then(|| Self(Zeroizing::new(text.to_owned()))).ok_or(InvalidAddress)
    }

    /// The address, for the mail.
    pub fn expose(&self) -> &str {
        &self.0
    }

    /// The name of its domain.
    pub fn domain(&self) -> &str {
        self.0.rsplit_once('@').map_or("", |(_, domain)| domain)
    }
}

/// What stands before the `@`: atoms with dots between them (RFC 5322, 3.2.3); nothing is quoted.
fn is_local(text: &str) -> bool {
    let is_sign = |c: u8| c.is_ascii_alphanumeric() || b"!#$%&'*+-/=?^_`{|}~".contains(&c);
    text.len() <= MAX_LOCAL_CHARS && text.split('.').all(|atom| !atom.is_empty() && atom.bytes().all(is_sign))
}

/// A name with a dot, as the domain name system has them; no address of a host, and no name that is a number.
fn is_domain(text: &str) -> bool {
    let is_label = |label: &str| {
        let inside = label.bytes().all(|c| c.is_ascii_alphanumeric() || c == b'-');
        !label.is_empty()
            && label.len() <= MAX_LABEL_CHARS
            && inside
            && !label.starts_with('-')
            && !label.ends_with('-')
    };
    let last = text.rsplit_once('.').map(|(_, last)| last);
    last.is_some_and(|last| !last.bytes().all(|c| c.is_ascii_digit())) && text.split('.').all(is_label)
}

/// Addresses as their owner gives them, not checked yet. Prints nothing of them.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct GivenRecipients(Vec<Zeroizing<String>>);

impl fmt::Debug for GivenRecipients {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("***")
    }
}

impl GivenRecipients {
    /// These, in order.
    pub fn of(addresses: impl IntoIterator<Item = String>) -> Self {
        Self(addresses.into_iter().map(Zeroizing::new).collect())
    }
}

/// Who is told. At most [`MAX_RECIPIENTS`], no two alike.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Recipients(Vec<Address>);

/// Everything that is wrong with addresses; at least one thing.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the addresses for notices are refused")]
pub struct InvalidRecipients(pub Vec<InvalidRecipient>);

/// Something that is wrong with an address. Never repeats it.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{reason}")]
pub struct InvalidRecipient {
    /// Which one, counted from 0; `None`: all together.
    pub index: Option<usize>,
    /// What is wrong, and what is allowed.
    pub reason: String,
}

impl Recipients {
    /// Addresses for a subscription, from its owner.
    pub fn check(given: &GivenRecipients) -> Result<Self, InvalidRecipients> {
        let count = given.0.len();
        if count > MAX_RECIPIENTS {
            let reason = format!("there are {count} addresses; at most {MAX_RECIPIENTS} are allowed");
            return Err(InvalidRecipients(vec![InvalidRecipient { index: None, reason }]));
        }
        let (mut addresses, mut problems) = (Vec::<Address>::new(), vec![]);
        for (index, text) in given.0.iter().enumerate() {
            let is_known = |known: &Address| known.expose().eq_ignore_ascii_case(text);
            match Address::parse(text) {
                Ok(_) if addresses.iter().any(is_known) => {
                    problems.push((index, "the address stands there twice".into()))
                }
                Ok(address) => addresses.push(address),
                Err(error) => problems.push((index, error.to_string())),
            }
        }
        if problems.is_empty() {
            return Ok(Self(addresses));
        }
        let problem = |(index, reason)| InvalidRecipient { index: Some(index), reason };
        Err(InvalidRecipients(problems.into_iter().map(problem).collect()))
    }

    /// The addresses, in order.
    pub fn addresses(&self) -> &[Address] {
        &self.0
    }

    /// All of them as one text, for sealing.
    pub fn to_secret(&self) -> Secret {
        let texts: Vec<&str> = self.0.iter().map(Address::expose).collect();
        Secret::stored(serde_json::to_string(&texts).expect("texts are JSON"))
    }

    /// What [`Self::to_secret`] made; `None` of any other text.
    pub fn of_secret(secret: &Secret) -> Option<Self> {
        let given: Vec<String> = serde_json::from_str(secret.expose()).ok()?;
        Self::check(&GivenRecipients::of(given)).ok()
    }
}

/// What events know of a subscription's addresses for notices: everything but the addresses.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SealedRecipients {
    /// Under which they are sealed.
    pub secret: SecretId,
    /// How many they are.
    pub count: u32,
    /// Keyed fingerprint of all of them.
    pub fingerprint: String,
}

impl SealedRecipients {
    /// Whether these are the same addresses, sealed once more.
    pub fn says_the_same(&self, other: &Self) -> bool {
        self.count == other.count && self.fingerprint == other.fingerprint
    }

    /// What may be told of them: how many, and a mark by which a change can be seen.
    pub fn told(&self) -> Value {
        json!({ "count": self.count, "fingerprint": self.fingerprint })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refused(texts: &[&str]) -> Vec<Option<usize>> {
        match Recipients::check(&GivenRecipients::of(texts.iter().map(|text| (*text).to_owned()))) {
            Ok(_) => vec![],
            Err(InvalidRecipients(problems)) => problems.iter().map(|problem| problem.index).collect(),
        }
    }

    #[test]
    fn an_address_is_what_mails_can_be_sent_to_and_can_end_no_line() {
        // A12
        let (long_local, long_label) = ("l".repeat(64), "d".repeat(63));
        for good in [
            "ops@example.com",
            "first.last+webhooks@mail.example.co.uk",
            "o'brien_{x}~=?@x-1.example",
            "UPPER@EXAMPLE.COM",
            &format!("{long_local}@{long_label}.example"),
            "ops@xn--bcher-kva.example",
        ] {
            assert!(Address::parse(good).is_ok(), "{good}");
        }
        let long_domain = format!("{}.com", ["d".repeat(62).as_str(); 4].join("."));
        for bad in [
            "",
            "@",
            "ops",
            "ops@",
            "@example.com",
            "ops@localhost",
            "ops@127.0.0.1",
            "ops@[127.0.0.1]",
            "ops@example.com.",
            "ops@.example.com",
            "ops@-x.example",
            "ops@x-.example",
            "ops@exa_mple.com",
            ".ops@example.com",
            "ops.@example.com",
            "o..ps@example.com",
            "two@at@example.com",
            "\"quoted\"@example.com",
            "Name <ops@example.com>",
            "ops@example.com, other@example.com",
            "ops@example.com\r\nBcc: other@example.com",
            "ops\n@example.com",
            "ops\r@example.com",
            "ops\0@example.com",
            "ops @example.com",
            " ops@example.com",
            "ops@example.com ",
            "ops@example.com\t",
            "öps@example.com",
            "ops@exämple.com",
            "ops@example.com>",
            "<ops@example.com",
            "ops;@example.com",
            "ops(x)@example.com",
            &format!("{}@example.com", "l".repeat(65)),
            &format!("ops@{}.com", "d".repeat(64)),
            &format!("ops@{long_domain}"),
        ] {
            assert_eq!(Address::parse(bad), Err(InvalidAddress), "{bad:?}");
        }
    }

    #[test]
    fn at_most_five_are_told_and_nobody_twice() {
        assert_eq!(refused(&[]), []);
        let five = ["a@x.example", "b@x.example", "c@x.example", "d@x.example", "e@x.example"];
        assert_eq!(refused(&five), []);
        assert_eq!(refused(&[&five[..], &["f@x.example"]].concat()), [None]);
        assert_eq!(refused(&["a@x.example", "", "A@X.example", "b"]), [Some(1), Some(2), Some(3)]);
    }

    #[test]
    fn what_is_sealed_is_what_was_given_and_nothing_prints_it() {
        let given = GivenRecipients::of(["ops@example.com".to_owned(), "dev@example.com".to_owned()]);
        let recipients = Recipients::check(&given).unwrap();
        let sealed = recipients.to_secret();
        assert_eq!(Recipients::of_secret(&sealed).unwrap(), recipients);
        let shown = format!("{given:?} {recipients:?} {sealed:?} {InvalidAddress}");
        assert!(!shown.contains("example"), "{shown}");
        assert_eq!(Recipients::of_secret(&Secret::stored("whsec_abc".into())), None);
        assert_eq!(recipients.addresses()[0].domain(), "example.com");
    }
}
