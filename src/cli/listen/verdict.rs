//! Whether a request is a delivery that its receiver should believe.

use std::collections::BTreeMap;

use bytes::Bytes;

use super::keyring::{Entry, Unreadable};
use crate::domain::profile::{FieldValue, HeaderValue, Place, Profile, Signature};
use crate::domain::signing;
use crate::domain::time::Timestamp;

/// How far a delivery's timestamps may be from now, as Standard Webhooks libraries have it.
const TOLERANCE_S: u64 = 5 * 60;

/// A request that was read to its end.
#[derive(Debug)]
pub(super) struct Delivery {
    pub(super) path: String,
    /// By lower-case name; the values of a name that came twice are joined by a bare comma, so that no signature among them
    /// fits.
    pub(super) headers: BTreeMap<String, String>,
    pub(super) body: Bytes,
}

/// What the receiver thinks of a request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    /// Every signature fits, and the timestamps are of now.
    Verified,
    /// Somebody else made it, or changed it, or kept it.
    Refused(String),
    /// No secret is known for the path.
    UnknownPath,
    /// It could not be judged; the status says why, and the text says it better.
    NotJudged(u16, String),
}

impl Verdict {
    /// The status of the answer that the request deserves. A delivery that fails verification gets 401 (S18).
    pub(super) fn status(&self) -> u16 {
        match self {
            Self::Verified => 200,
            Self::Refused(_) => 401,
            Self::UnknownPath => 404,
            Self::NotJudged(status, _) => *status,
        }
    }

    /// Why it is not verified.
    pub(super) fn refusal(&self) -> Option<&str> {
        match self {
            Self::Verified => None,
            Self::Refused(reason) | Self::NotJudged(_, reason) => Some(reason),
            Self::UnknownPath => Some("no secret is known for this path"),
        }
    }
}

impl Delivery {
    /// Judges the delivery by the entry of its path. `now` is compared with its timestamps; `None` skips that.
    pub(super) fn judge(&self, entry: &Result<Option<Entry>, Unreadable>, now: Option<Timestamp>) -> Verdict {
        let Entry { profile, secret } = match entry {
            Ok(Some(entry)) => entry,
            Ok(None) => return Verdict::UnknownPath,
            Err(error) => return Verdict::NotJudged(500, format!("the file of secrets {error}")),
        };
        if let Err(error) = signing::verify(profile, |name| self.header(name).cloned(), &self.body, secret) {
            return Verdict::Refused(error.to_string());
        }
        match now.and_then(|now| self.stale_header(profile, now)) {
            Some(name) => Verdict::Refused(format!("'{name}' is not within {TOLERANCE_S} seconds of now")),
            None => Verdict::Verified,
        }
    }

    /// The event type that the body claims, or a header if the profile puts none into the body.
    pub(super) fn event_type(&self, profile: &Profile) -> Option<String> {
        let Some(name) = profile.envelope.name_of(&FieldValue::Type) else {
            let header = profile.headers.iter().find(|header| header.value == HeaderValue::Type)?;
            return self.header(&header.name).cloned();
        };
        let body: serde_json::Value = serde_json::from_slice(&self.body).ok()?;
        body.get(name)?.as_str().map(str::to_owned)
    }

    pub(super) fn message_id(&self) -> Option<&String> {
        self.header("webhook-id")
    }

    fn header(&self, name: &str) -> Option<&String> {
        self.headers.get(&name.to_ascii_lowercase())
    }

    /// The first header that should tell the time of the attempt and does not.
    fn stale_header<'a>(&self, profile: &'a Profile, now: Timestamp) -> Option<&'a str> {
        let is_fresh = |at: &str| at.parse().is_ok_and(|at: i64| at.abs_diff(now.as_seconds()) <= TOLERANCE_S);
        let plain = |name: &str| self.header(name).is_some_and(|value| is_fresh(value));
        let signed = |signature: &Signature| {
            let told = self.header(&signature.header).and_then(|value| signature.value.read(value));
            told.is_some_and(|told| told.iter().any(|(place, at)| *place == Place::AttemptedAt && is_fresh(at)))
        };
        let mut headers = profile.headers.iter().filter(|header| header.value == HeaderValue::AttemptedAt);
        let mut signatures = profile.signatures.iter().filter(|signature| signature.value.has(Place::AttemptedAt));
        let stale = headers.find(|header| !plain(&header.name)).map(|header| header.name.as_str());
        stale.or_else(|| signatures.find(|signature| !signed(signature)).map(|signature| signature.header.as_str()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::filter::EventType;
    use crate::domain::id::MessageId;
    use crate::domain::profile;
    use crate::domain::secret::Secret;

    const NOW: Timestamp = Timestamp::from_ms(1_763_894_415_483);

    fn entry(secret: u8) -> Result<Option<Entry>, Unreadable> {
        let profile = profile::find("axie-v1").expect("it is built in");
        Ok(Some(Entry { profile, secret: Secret::generate(&[secret; 32]) }))
    }

    /// A delivery signed at that time with the secret of `entry(1)`.
    fn delivery(attempted_at: Timestamp) -> Delivery {
        let event_type = EventType::parse("user.created").unwrap();
        let content = signing::Content {
            message: MessageId::from_parts(1, 1),
            event_type: &event_type,
            occurred_at: NOW,
            tenant: "ent_abc123",
            data: "{}",
            sequence: None,
        };
        let profile = profile::find("axie-v1").unwrap();
        let body = signing::body(profile, &content);
        let headers = signing::headers(profile, &content, &body, &[Secret::generate(&[1; 32])], attempted_at);
        let headers = headers.into_iter().map(|(name, value)| (name.to_ascii_lowercase(), value)).collect();
        Delivery { path: "/axie".into(), headers, body: body.into() }
    }

    #[test]
    fn a_delivery_with_its_own_secret_and_of_now_is_verified() {
        let delivery = delivery(NOW);
        assert_eq!(delivery.judge(&entry(1), Some(NOW)), Verdict::Verified);
        assert_eq!(delivery.judge(&entry(1), Some(NOW.plus_ms(300_000))), Verdict::Verified);
        assert_eq!(delivery.event_type(profile::find("axie-v1").unwrap()).as_deref(), Some("user.created"));
    }

    #[test]
    fn another_secret_or_path_and_an_unreadable_file_have_their_own_answers() {
        // S18
        let delivery = delivery(NOW);
        let refused = delivery.judge(&entry(2), Some(NOW));
        assert_eq!(
            (refused.status(), refused.refusal()),
            (401, Some("no signature in 'X-Webhook-Signature' fits the body"))
        );
        assert_eq!(delivery.judge(&Ok(None), Some(NOW)).status(), 404);
        assert_eq!(delivery.judge(&Err(Unreadable::Json { line: 1, column: 2 }), Some(NOW)).status(), 500);
    }

    #[test]
    fn a_kept_delivery_is_refused_unless_the_time_is_not_compared() {
        let delivery = delivery(NOW);
        let late = delivery.judge(&entry(1), Some(NOW.plus_ms(301_000)));
        assert_eq!(late.refusal(), Some("'X-Webhook-Timestamp' is not within 300 seconds of now"));
        assert_eq!(delivery.judge(&entry(1), None), Verdict::Verified);
    }

    #[test]
    fn a_timestamp_that_no_signature_covers_must_be_of_now_too() {
        let mut delivery = delivery(NOW);
        delivery.headers.insert("x-webhook-timestamp".into(), "soon".into());
        assert_eq!(delivery.judge(&entry(1), Some(NOW)).status(), 401);
    }

    #[test]
    fn what_the_body_claims_may_be_missing() {
        let mut delivery = delivery(NOW);
        delivery.body = Bytes::from_static(b"not JSON");
        assert_eq!(delivery.event_type(profile::find("axie-v1").unwrap()), None);
    }

    #[test]
    fn a_timestamp_inside_a_signatures_header_must_be_of_now_too() {
        let text = include_str!("../../../examples/profiles/stripe-style-v1.json").replace("stripe-style", "verdict");
        profile::add(profile::Definition::parse(text.as_bytes()).unwrap().profile).unwrap();
        let profile = profile::find("verdict-v1").unwrap();
        let with = |value: &str| {
            let headers = [("stripe-signature".to_owned(), value.to_owned())].into();
            Delivery { path: "/stripe".into(), headers, body: Bytes::from_static(b"{}") }
        };
        assert_eq!(with("t=1763894415,v1=aa").stale_header(profile, NOW), None);
        for stale in ["t=1763890000,v1=aa", "t=,v1=aa", "v1=aa"] {
            assert_eq!(with(stale).stale_header(profile, NOW), Some("Stripe-Signature"), "{stale}");
        }
    }
}
