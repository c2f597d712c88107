//! From a message and a profile to the bytes on the wire: body, headers, signatures; and back, for receivers.
//!
//! The body depends on the profile and the recorded message alone, so every attempt sends the same bytes. The data in
//! it was made canonical when the message was published; nothing here changes it.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use hmac::{Hmac, KeyInit, Mac};
use sha2::Sha256;

use super::filter::EventType;
use super::id::MessageId;
use super::outcome::MASK;
use super::profile::{
    Algorithm, Encoding, Envelope, Field, FieldValue, HeaderValue, Place, Profile, Signature, SignedContent,
};
use super::secret::Secret;
use super::time::Timestamp;

/// A message as its receivers see it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Content<'a> {
    /// The message's id.
    pub message: MessageId,
    /// What kind of event it tells of.
    pub event_type: &'a EventType,
    /// When the event happened.
    pub occurred_at: Timestamp,
    /// The tenant's public id.
    pub tenant: &'a str,
    /// The publisher's data as canonical JSON.
    pub data: &'a str,
    /// The message's place among all that the subscription has matched; `None` for a test.
    pub sequence: Option<u64>,
}

/// The body: the profile's envelope around the data.
pub fn body(profile: &Profile, content: &Content<'_>) -> String {
    match &profile.envelope {
        Envelope::Data => content.data.to_owned(),
        Envelope::Fields(fields) => {
            let mut body = String::with_capacity(content.data.len() + 256);
            push_object(&mut body, fields, content);
            body
        }
    }
}

fn push_object(body: &mut String, fields: &[Field], content: &Content<'_>) {
    body.push('{');
    for (index, field) in fields.iter().enumerate() {
        if index > 0 {
            body.push(',');
        }
        push_string(body, &field.name);
        body.push(':');
        match &field.value {
            FieldValue::MessageId => push_string(body, &content.message.to_string()),
            FieldValue::Type => push_string(body, content.event_type.as_str()),
            FieldValue::OccurredAtSeconds => push_string(body, &content.occurred_at.to_rfc3339_seconds()),
            FieldValue::OccurredAtMs => push_string(body, &content.occurred_at.to_rfc3339_ms()),
            FieldValue::Tenant => push_string(body, content.tenant),
            FieldValue::Data => body.push_str(content.data),
            FieldValue::OccurredAtUnix => body.push_str(&content.occurred_at.as_seconds().to_string()),
            FieldValue::OccurredAtUnixMs => body.push_str(&content.occurred_at.as_ms().to_string()),
            FieldValue::Text(text) => push_string(body, text),
            FieldValue::Json(literal) => body.push_str(literal.as_str()),
            FieldValue::Object(fields) => push_object(body, fields, content),
        }
    }
    body.push('}');
}

fn push_string(body: &mut String, text: &str) {
    body.push_str(&serde_json::Value::from(text).to_string());
}

/// All headers of one attempt, in the profile's order, signatures last. `secrets` begins with the current one;
/// those behind it are in their overlap after a rotation.
pub fn headers(
    profile: &Profile,
    content: &Content<'_>,
    body: &str,
    secrets: &[Secret],
    attempted_at: Timestamp,
) -> Vec<(String, String)> {
    let timestamp = attempted_at.as_seconds().to_string();
    let id = content.message.to_string();
    headers_with(profile, content, attempted_at, |scheme| {
        let signers = if scheme.overlap { secrets } else { &secrets[..secrets.len().min(1)] };
        let signature = |secret: &Secret| {
            let bytes = match scheme.algorithm {
                Algorithm::HmacSha256 => {
                    let mac = mac(scheme.content, &secret.key(scheme.key), &id, &timestamp, body);
                    mac.finalize().into_bytes().to_vec()
                }
                Algorithm::Ed25519 => secret
                    .sign(&[before_body(scheme.content, &id, &timestamp).as_bytes(), body.as_bytes()].concat())
                    .expect("a webhook whose profile signs by Ed25519 gets no other secret"),
            };
            match scheme.encoding {
                Encoding::Hex => hex::encode(bytes),
                Encoding::Base64 => STANDARD.encode(bytes),
            }
        };
        signers.iter().map(signature).collect()
    })
}

/// The headers as [`headers`] makes them for so many secrets, with [`MASK`] in place of what was signed: to show an earlier
/// attempt.
pub fn masked_headers(
    profile: &Profile,
    content: &Content<'_>,
    secrets: usize,
    attempted_at: Timestamp,
) -> Vec<(String, String)> {
    headers_with(profile, content, attempted_at, |scheme| {
        let signatures = if scheme.overlap { secrets } else { secrets.min(1) };
        vec![MASK.to_owned(); signatures]
    })
}

/// `signatures` makes those of one header, encoded and without their prefix.
fn headers_with(
    profile: &Profile,
    content: &Content<'_>,
    attempted_at: Timestamp,
    signatures: impl Fn(&Signature) -> Vec<String>,
) -> Vec<(String, String)> {
    let timestamp = attempted_at.as_seconds().to_string();
    let id = content.message.to_string();
    let mut headers = vec![("Content-Type".to_owned(), "application/json".to_owned())];
    headers.extend(profile.headers.iter().filter_map(|header| {
        let value = match &header.value {
            HeaderValue::MessageId => id.clone(),
            HeaderValue::Type => content.event_type.to_string(),
            HeaderValue::AttemptedAt => timestamp.clone(),
            HeaderValue::Sequence => content.sequence?.to_string(),
            HeaderValue::Text(text) => text.clone(),
        };
        Some((header.name.clone(), value))
    }));
    headers.extend(profile.signatures.iter().map(|scheme| {
        let value = scheme.value.fill(|place| match place {
            Place::Signatures => {
                let prefixed = signatures(scheme).into_iter().map(|signature| scheme.prefix.clone() + &signature);
                prefixed.collect::<Vec<_>>().join(&scheme.separator)
            }
            Place::AttemptedAt => timestamp.clone(),
            Place::MessageId => id.clone(),
        });
        (scheme.header.clone(), value)
    }));
    headers
}

fn mac(content: SignedContent, key: &[u8], id: &str, timestamp: &str, body: &str) -> Hmac<Sha256> {
    let mut mac = Hmac::<Sha256>::new_from_slice(key).expect("HMAC takes a key of any length");
    mac.update(before_body(content, id, timestamp).as_bytes());
    mac.update(body.as_bytes());
    mac
}

/// What is signed with the body, before it.
fn before_body(content: SignedContent, id: &str, timestamp: &str) -> String {
    match content {
        SignedContent::Body => String::new(),
        SignedContent::TimestampBody => format!("{timestamp}."),
        SignedContent::IdTimestampBody => format!("{id}.{timestamp}."),
    }
}

/// Why a receiver should refuse a delivery.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Unverified {
    /// A header that the profile sends is not there.
    #[error("the header '{0}' is missing")]
    Missing(String),
    /// No signature in the header fits.
    #[error("no signature in '{0}' fits the body")]
    Mismatch(String),
    /// The body is not UTF-8.
    #[error("the body is not UTF-8 text")]
    Body,
}

/// Checks every signature that the profile promises, in constant time. `header` looks a header up, case ignored.
pub fn verify(
    profile: &Profile,
    header: impl Fn(&str) -> Option<String>,
    body: &[u8],
    secret: &Secret,
) -> Result<(), Unverified> {
    let body = std::str::from_utf8(body).map_err(|_| Unverified::Body)?;
    let needed = |name: &str| header(name).ok_or_else(|| Unverified::Missing(name.to_owned()));
    for scheme in &profile.signatures {
        let value = needed(&scheme.header)?;
        let mismatch = || Unverified::Mismatch(scheme.header.clone());
        let told = scheme.value.read(&value).ok_or_else(mismatch)?;
        // What the header itself tells counts before what others tell.
        let covered = |place: Place| match told.iter().find(|(filled, _)| *filled == place) {
            Some((_, text)) => Ok((*text).to_owned()),
            None => needed(profile.header_of(place).unwrap_or(&scheme.header)),
        };
        let (id, timestamp) = match scheme.content {
            SignedContent::Body => (String::new(), String::new()),
            SignedContent::TimestampBody => (String::new(), covered(Place::AttemptedAt)?),
            SignedContent::IdTimestampBody => (covered(Place::MessageId)?, covered(Place::AttemptedAt)?),
        };
        let signatures = covered(Place::Signatures)?;
        let parts = if scheme.overlap { signatures.split(&scheme.separator).collect() } else { vec![&*signatures] };
        let fits = |part: &str| {
            let encoded = part.strip_prefix(scheme.prefix.as_str())?;
            let claimed = match scheme.encoding {
                Encoding::Hex => hex::decode(encoded).ok()?,
                Encoding::Base64 => STANDARD.decode(encoded).ok()?,
            };
            match scheme.algorithm {
                Algorithm::HmacSha256 => {
                    mac(scheme.content, &secret.key(scheme.key), &id, &timestamp, body).verify_slice(&claimed).ok()
                }
                Algorithm::Ed25519 => {
                    let signed = [before_body(scheme.content, &id, &timestamp).as_bytes(), body.as_bytes()].concat();
                    secret.verifies(&signed, &claimed).then_some(())
                }
            }
        };
        if !parts.into_iter().any(|part| fits(part).is_some()) {
            return Err(mismatch());
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use super::super::profile::{self, built_in};
    use super::*;

    const AT: Timestamp = Timestamp::from_ms(1_763_894_415_483);

    fn content<'a>(event_type: &'a EventType, tenant: &'a str, data: &'a str) -> Content<'a> {
        Content { message: MessageId::from_parts(1, 1), event_type, occurred_at: AT, tenant, data, sequence: Some(7) }
    }

    fn secret() -> Secret {
        Secret::stored("whsec_MDEyMzQ1Njc4OWFiY2RlZjAxMjM0NTY3ODlhYmNkZWY=".into())
    }

    #[test]
    fn the_axie_body_is_its_documents_test_payload_in_compact_form() {
        // A16, A18, A19
        let event_type = EventType::parse("webhook.test").unwrap();
        let content = content(&event_type, "ent_abc123", r#"{"message":"This is a test webhook"}"#);
        assert_eq!(
            body(profile::find("axie-v1").unwrap(), &content),
            r#"{"event":"webhook.test","timestamp":"2025-11-23T10:40:15Z","version":"v1","enterpriseId":"ent_abc123","data":{"message":"This is a test webhook"}}"#
        );
    }

    #[test]
    fn the_axissynapse_body_has_id_type_created_at_tenant_and_data() {
        // S14, S15
        let event_type = EventType::parse("platform.saml.provider.enabled").unwrap();
        let content = content(&event_type, "ws_a8", "{}");
        assert_eq!(
            body(profile::find("axissynapse-v1").unwrap(), &content),
            format!(
                r#"{{"id":"{}","type":"platform.saml.provider.enabled","created_at":"2025-11-23T10:40:15.483Z","tenant_id":"ws_a8","data":{{}}}}"#,
                content.message
            )
        );
    }

    #[test]
    fn signatures_equal_the_known_answers() {
        // A24, S16; the vector was computed with independent tools
        let body = r#"{"a":1}"#;
        let key = |form| secret().key(form);
        let hex_of = |mac: Hmac<Sha256>| hex::encode(mac.finalize().into_bytes());
        assert_eq!(
            hex_of(mac(SignedContent::Body, &key(profile::KeyForm::Text), "evt_1", "1700000000", body)),
            "0644de49523cf2c6c385a72deab74a857df1aa5a4539f5b8fceeab5813730bc7"
        );
        assert_eq!(
            hex_of(mac(SignedContent::TimestampBody, &key(profile::KeyForm::Text), "evt_1", "1700000000", body)),
            "9d11143238390e896343bee27af85e468c8d1cb0a6821f60322f5b45a2f76170"
        );
        assert_eq!(
            STANDARD.encode(
                mac(SignedContent::IdTimestampBody, &key(profile::KeyForm::Whsec), "evt_1", "1700000000", body)
                    .finalize()
                    .into_bytes()
            ),
            "E91RjL3XwKNvhbIjLEB4Oo053Uu727CszikrY+6s9HE="
        );
    }

    #[test]
    fn every_profile_sends_its_documents_headers_and_the_standard_webhooks_three() {
        // A23, A28, C7, C8
        let event_type = EventType::parse("user.created").unwrap();
        let content = content(&event_type, "ent_abc123", "{}");
        for (name, own) in [
            ("axie-v1", vec!["X-Webhook-Event", "X-Webhook-Signature", "X-Webhook-Timestamp"]),
            ("axissynapse-v1", vec!["X-Axissynapse-Signature"]),
            ("standard-v1", vec![]),
        ] {
            let profile = profile::find(name).unwrap();
            let body = body(profile, &content);
            let headers: HashMap<_, _> = headers(profile, &content, &body, &[secret()], AT).into_iter().collect();
            for header in own.into_iter().chain([
                "Content-Type",
                "User-Agent",
                "webhook-id",
                "webhook-timestamp",
                "webhook-signature",
            ]) {
                assert!(headers.contains_key(header), "{name} lacks {header}");
            }
            assert_eq!(headers["webhook-timestamp"], "1763894415");
        }
    }

    #[test]
    fn during_an_overlap_only_the_standard_header_carries_two_signatures() {
        // A26, S17, C11
        let event_type = EventType::parse("user.created").unwrap();
        let content = content(&event_type, "ws_a8", "{}");
        let secrets = [secret(), Secret::generate(&[9; 32])];
        for profile in built_in() {
            let body = body(profile, &content);
            for (name, value) in headers(profile, &content, &body, &secrets, AT) {
                if name == "webhook-signature" {
                    assert_eq!(value.split(' ').count(), 2, "{}", profile.name);
                } else if name.ends_with("Signature") {
                    assert_eq!(value.split(' ').count(), 1, "{}", profile.name);
                }
            }
        }
    }

    #[test]
    fn masked_headers_are_those_that_were_sent_but_for_what_was_signed() {
        let event_type = EventType::parse("user.created").unwrap();
        let content = content(&event_type, "ws_a8", "{}");
        let secrets = [secret(), Secret::generate(&[9; 32])];
        for profile in built_in() {
            let body = body(profile, &content);
            for count in [1, 2] {
                let sent = headers(profile, &content, &body, &secrets[..count], AT);
                let shown = masked_headers(profile, &content, count, AT);
                assert_eq!(sent.len(), shown.len());
                for ((name, sent), (shown_name, shown)) in sent.into_iter().zip(shown) {
                    assert_eq!(name, shown_name);
                    match profile.signatures.iter().find(|scheme| scheme.header == name) {
                        Some(scheme) => {
                            let signatures = sent.split(' ').count();
                            assert_eq!(shown, vec![format!("{}***", scheme.prefix); signatures].join(" "));
                        }
                        None => assert_eq!(shown, sent, "{name}"),
                    }
                }
            }
        }
    }

    #[test]
    fn a_receiver_accepts_what_was_signed_and_nothing_else() {
        let event_type = EventType::parse("user.created").unwrap();
        let content = content(&event_type, "ws_a8", r#"{"n":1}"#);
        for profile in built_in() {
            let body = body(profile, &content);
            let sent: HashMap<_, _> = headers(profile, &content, &body, &[secret()], AT)
                .into_iter()
                .map(|(name, value)| (name.to_lowercase(), value))
                .collect();
            let header = |name: &str| sent.get(&name.to_lowercase()).cloned();
            assert_eq!(verify(profile, header, body.as_bytes(), &secret()), Ok(()));
            let flipped = body.replace("\"n\":1", "\"n\":2");
            assert!(verify(profile, header, flipped.as_bytes(), &secret()).is_err(), "{}", profile.name);
            assert!(verify(profile, header, body.as_bytes(), &Secret::generate(&[1; 32])).is_err());
            let other_id = |name: &str| if name == "webhook-id" { Some("evt_x".into()) } else { header(name) };
            assert!(verify(profile, other_id, body.as_bytes(), &secret()).is_err(), "{}", profile.name);
            let cut = |name: &str| header(name).map(|value| value.chars().take(3).collect());
            assert!(verify(profile, cut, body.as_bytes(), &secret()).is_err(), "{}", profile.name);
            assert!(verify(profile, |_: &str| None, body.as_bytes(), &secret()).is_err());
        }
    }

    #[test]
    fn a_receiver_of_an_operators_profile_accepts_what_was_signed_and_nothing_else() {
        let event_type = EventType::parse("user.created").unwrap();
        let content = content(&event_type, "ws_a8", r#"{"n":1}"#);
        for text in [
            include_str!("../../examples/profiles/ed25519-style-v1.json"),
            include_str!("../../examples/profiles/github-style-v1.json"),
            include_str!("../../examples/profiles/stripe-style-v1.json"),
        ] {
            let profile = &profile::Definition::parse(text.as_bytes()).unwrap().profile;
            let secrets = [1, 2].map(|byte| Secret::generate_for(profile.algorithm(), &[byte; 32]));
            let body = body(profile, &content);
            let sent: HashMap<_, _> = headers(profile, &content, &body, &secrets, AT)
                .into_iter()
                .map(|(name, value)| (name.to_lowercase(), value))
                .collect();
            let header = |name: &str| sent.get(&name.to_lowercase()).cloned();
            let name = &profile.name;
            let [current, old] = &secrets;
            assert_eq!(verify(profile, header, body.as_bytes(), current), Ok(()), "{name}");
            let overlap = profile.signatures[0].overlap;
            assert_eq!(verify(profile, header, body.as_bytes(), old).is_ok(), overlap, "{name}");
            if let Some(public) = current.public_key().map(Secret::stored) {
                assert_eq!(verify(profile, header, body.as_bytes(), &public), Ok(()), "{name}");
            }
            let another = Secret::generate_for(profile.algorithm(), &[3; 32]);
            assert!(verify(profile, header, body.as_bytes(), &another).is_err(), "{name}");
            let flipped = body.replace("\"n\":1", "\"n\":2");
            assert!(verify(profile, header, flipped.as_bytes(), current).is_err(), "{name}");
            // Stripe's has its time in the header itself, Standard Webhooks in another one.
            let later = |name: &str| header(name).map(|value| value.replace("1763894415", "1763894416"));
            let covers_time = profile.signatures[0].content != SignedContent::Body;
            assert_eq!(verify(profile, later, body.as_bytes(), current).is_err(), covers_time, "{name}");
            assert!(verify(profile, |_: &str| None, body.as_bytes(), current).is_err(), "{name}");
        }
    }
}
