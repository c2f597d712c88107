//! The samples of recorded events: each is readable for ever, and none is ever edited.
//!
//! `schema/events/<type>.v<n>.json` is the first sample of a version; one that came with an optional field added later is
//! `<type>.v<n>.<field>.json`, and with one inside a field `<type>.v<n>.<field>.<inner>.json`. `schema/events/MANIFEST.sha256` holds the hash of every sample and of every recorded
//! stream. Each of them adds a line; `sha256sum -c` reads the file too.

use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

use proptest::prelude::*;
use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use tidings::codec::{self, DecodeError};
use tidings::domain::event::{
    AttemptFailed, DeliveryEvent, DeliveryScheduled, Event, MessageEvent, MessagePublished, SecretRotated,
    SubscriptionCreated, SubscriptionEvent,
};
use tidings::domain::filter::{EventType, Filter};
use tidings::domain::header::SealedHeaders;
use tidings::domain::id::{DeliveryId, EventId, MessageId, SecretId, SubscriptionId, TenantId};
use tidings::domain::notice::SealedRecipients;
use tidings::domain::outcome::{FailureClass, FailureCode, Response};
use tidings::domain::retry_policy::{RetryPolicy, SuccessRule};
use tidings::domain::time::Timestamp;
use tidings::event_store::{Position, Recorded};

const MANIFEST: &str = "MANIFEST.sha256";

fn folder() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("schema/events")
}

/// Every sample's text by the name of its file.
fn samples() -> BTreeMap<String, String> {
    files(&folder()).into_iter().filter(|(name, _)| name != MANIFEST).collect()
}

/// The text of every file in a folder, those below it aside, by its name.
fn files(folder: &Path) -> BTreeMap<String, String> {
    let paths = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()).filter(|path| path.is_file());
    let named = |path: PathBuf| {
        let text = fs::read_to_string(&path).unwrap();
        (path.file_name().unwrap().to_str().unwrap().to_owned(), text)
    };
    paths.map(named).collect()
}

/// What the manifest keeps: samples and recorded streams, by their paths below its folder.
fn kept() -> BTreeMap<String, String> {
    let streams = files(&folder().join("streams")).into_iter().map(|(name, text)| (format!("streams/{name}"), text));
    samples().into_iter().chain(streams).collect()
}

fn recorded(kind: &str, schema: u16, data: &str) -> Recorded {
    Recorded {
        position: Position { shard: 0, seq: 7 },
        stream: "deliveries-01KAR4SKMR8JE11RP4D1JYK1T6".into(),
        version: 1,
        id: EventId::from_parts(1, 1),
        kind: Cow::Owned(kind.to_owned()),
        schema,
        at: Timestamp::from_ms(1),
        data: data.to_owned(),
        meta: None,
    }
}

/// Kind, schema and data of a sample.
fn parts(text: &str) -> (String, u16, Value) {
    let sample: Value = serde_json::from_str(text).unwrap();
    let schema = u16::try_from(sample["schema"].as_u64().unwrap()).unwrap();
    (sample["kind"].as_str().unwrap().to_owned(), schema, sample["data"].clone())
}

/// The samples of one version.
fn samples_of(kind: &str, schema: u16) -> Vec<(String, String)> {
    samples().into_iter().filter(|(_, text)| parts(text).0 == kind && parts(text).1 == schema).collect()
}

#[test]
fn every_version_that_can_be_read_has_a_sample() {
    let samples = samples();
    for (kind, schema) in codec::VERSIONS {
        assert!(samples.contains_key(&format!("{kind}.v{schema}.json")), "'{kind}' version {schema} has no sample");
    }
}

#[test]
fn every_sample_is_named_after_its_version_and_can_be_read() {
    for (name, text) in samples() {
        let (kind, schema, data) = parts(&text);
        assert!(codec::VERSIONS.contains(&(kind.as_str(), schema)), "'{name}' cannot be read any more");
        let stem = format!("{kind}.v{schema}.");
        let added = name.strip_prefix(&stem).unwrap_or_else(|| panic!("'{name}' holds a {stem}json"));
        if let Some(field) = added.strip_suffix(".json") {
            let (outer, inner) = field.split_once('.').unwrap_or((field, field));
            let found = data.get(outer).unwrap_or_else(|| panic!("'{name}' has no field '{outer}'"));
            assert!(
                inner == outer || found.to_string().contains(&format!("\"{inner}\":")),
                "'{name}' has no '{inner}'"
            );
        }
    }
}

#[test]
fn every_sample_is_read_as_the_newest_version_and_what_is_newest_is_written_the_same() {
    for (name, text) in samples() {
        let (kind, schema, data) = parts(&text);
        let event = codec::decode(&recorded(&kind, schema, &data.to_string())).unwrap();
        let encoded = codec::encode(&event);
        assert!(codec::TYPES.contains(&(encoded.kind, encoded.schema)), "'{name}' is not read as the newest version");
        if codec::TYPES.contains(&(kind.as_str(), schema)) {
            assert_eq!((encoded.kind, encoded.schema), (kind.as_str(), schema));
            assert_eq!(serde_json::from_str::<Value>(&encoded.data).unwrap(), data, "'{name}'");
        }
    }
}

#[test]
fn every_field_stands_in_a_sample() {
    for (kind, schema) in codec::TYPES {
        let whole = |(_, text): &(String, String)| {
            let (_, _, data) = parts(text);
            !format!("{:?}", codec::decode(&recorded(kind, *schema, &data.to_string())).unwrap()).contains("None")
        };
        let samples = samples_of(kind, *schema);
        assert!(samples.iter().any(whole), "every sample of '{kind}' version {schema} leaves a field out");
    }
}

#[test]
fn no_sample_and_no_recorded_stream_was_edited() {
    let manifest = fs::read_to_string(folder().join(MANIFEST)).unwrap();
    let kept = kept();
    let mut listed = BTreeSet::new();
    for line in manifest.lines() {
        let (hash, name) = line.split_once("  ").unwrap();
        let text = kept.get(name).unwrap_or_else(|| panic!("'{name}' is gone"));
        assert_eq!(hex::encode(Sha256::digest(text)), hash, "'{name}' was edited; a change is a new version");
        assert!(listed.insert(name), "'{name}' is listed twice");
    }
    for (name, text) in &kept {
        let line = format!("{}  {name}", hex::encode(Sha256::digest(text)));
        assert!(listed.contains(name.as_str()), "'{name}' is new; add to {MANIFEST}:\n{line}");
    }
}

#[test]
fn an_unknown_type_or_version_is_an_error_that_names_it() {
    for (kind, schema) in [("delivery.unheard_of", 1), ("delivery.scheduled", 2), ("delivery.scheduled", 0), ("", 1)] {
        let error = codec::decode(&recorded(kind, schema, "{}")).unwrap_err();
        let position = Position { shard: 0, seq: 7 };
        let stream = "deliveries-01KAR4SKMR8JE11RP4D1JYK1T6".into();
        assert_eq!(error, DecodeError::UnknownType { position, stream, kind: kind.into(), schema });
        assert_eq!(error.to_string(), format!("the event at 0-7 has the unknown type '{kind}' version {schema}"));
    }
}

#[test]
fn a_payload_that_does_not_fit_its_type_is_an_error_that_names_it() {
    for data in ["{}", "[]", "", "{\"delivery\":7}", "null"] {
        let error = codec::decode(&recorded("delivery.scheduled", 1, data)).unwrap_err();
        assert!(matches!(&error, DecodeError::Damaged { kind, .. } if kind == "delivery.scheduled"), "{data}: {error}");
    }
}

#[test]
fn a_field_that_a_newer_program_added_is_passed_over() {
    for (name, text) in samples() {
        let (kind, schema, mut data) = parts(&text);
        let read = |data: &Value| codec::decode(&recorded(&kind, schema, &data.to_string()));
        let before = read(&data).unwrap();
        data["added_later"] = json!({ "of": ["any", 1, null] });
        assert_eq!(read(&data), Ok(before), "'{name}'");
    }
}

/// A word is what decides: an old program must not take it for another.
#[test]
fn a_word_that_a_newer_program_added_is_refused() {
    let (kind, schema, mut data) = parts(&samples()["delivery.attempt_failed.v1.json"]);
    data["code"] = Value::from("struck_by_lightning");
    let error = codec::decode(&recorded(&kind, schema, &data.to_string())).unwrap_err();
    assert!(error.to_string().contains("struck_by_lightning"), "{error}");
}

fn timestamp() -> impl Strategy<Value = Timestamp> {
    any::<i64>().prop_map(Timestamp::from_ms)
}

/// 48 bits of time and 80 of chance.
fn id_parts() -> impl Strategy<Value = (u64, u128)> {
    (0..1_u64 << 48, 0..1_u128 << 80)
}

fn response() -> impl Strategy<Value = Response> {
    let numbers = (prop::option::of(any::<u64>()), prop::option::of(any::<u64>()));
    let headers = prop::collection::vec(any::<(String, String)>(), 0..=16);
    (any::<u16>(), any::<String>(), any::<bool>(), numbers, headers).prop_map(
        |(status, preview, truncated, (retry_after_s, body_bytes), headers)| Response {
            status,
            preview,
            truncated,
            retry_after_s,
            body_bytes,
            headers,
        },
    )
}

fn failed() -> impl Strategy<Value = Event> {
    let code = prop::sample::select(vec![
        FailureCode::Status,
        FailureCode::Timeout,
        FailureCode::Dns,
        FailureCode::Connect,
        FailureCode::TlsExpired,
        FailureCode::TlsNotYetValid,
        FailureCode::TlsWrongName,
        FailureCode::TlsUntrusted,
        FailureCode::TlsVersion,
        FailureCode::TlsTimeout,
        FailureCode::TlsReset,
        FailureCode::Tls,
        FailureCode::Blocked,
        FailureCode::Headers,
        FailureCode::Body,
        FailureCode::Aborted,
    ]);
    let class =
        prop::sample::select(vec![FailureClass::Soft, FailureClass::Hard, FailureClass::Gone, FailureClass::Local]);
    let later = || prop::option::of(timestamp());
    let times = (timestamp(), any::<u64>(), later(), later());
    let counts = (any::<u32>(), any::<u32>(), class);
    (id_parts(), counts, times, code, any::<String>(), prop::option::of(response()), any::<u64>()).prop_map(
        |((at, random), counts, (started_at, latency_ms, due_at, hold_until), code, detail, response, revision)| {
            let (number, failures, class) = counts;
            let delivery = DeliveryId::from_parts(at, random);
            Event::Delivery(DeliveryEvent::AttemptFailed(AttemptFailed {
                delivery,
                number,
                started_at,
                latency_ms,
                code,
                detail,
                response,
                revision,
                class,
                failures,
                due_at,
                hold_until,
            }))
        },
    )
}

fn scheduled() -> impl Strategy<Value = Event> {
    let sequence = prop::option::of(any::<u64>());
    (id_parts(), id_parts(), any::<u64>(), any::<u64>(), sequence, prop::option::of(id_parts())).prop_map(
        |(delivery, message, message_seq, revision, sequence, original)| {
            Event::Delivery(DeliveryEvent::Scheduled(DeliveryScheduled {
                delivery: DeliveryId::from_parts(delivery.0, delivery.1),
                message: MessageId::from_parts(message.0, message.1),
                message_seq,
                revision,
                sequence,
                redelivery_of: original.map(|(at, random)| DeliveryId::from_parts(at, random)),
            }))
        },
    )
}

fn headers() -> impl Strategy<Value = Option<SealedHeaders>> {
    prop::option::of((id_parts(), prop::collection::vec(any::<String>(), 0..=5), any::<String>()).prop_map(
        |((at, random), names, fingerprint)| {
            let secret = SecretId::from_parts(at, random);
            SealedHeaders { secret, names, fingerprint }
        },
    ))
}

fn retry_policy() -> impl Strategy<Value = Option<RetryPolicy>> {
    let delays_s = prop::option::of(prop::collection::vec(any::<u32>(), 0..3));
    let success = prop::option::of(prop::sample::select(vec![SuccessRule::Only200, SuccessRule::Any2xx]));
    let policy = (any::<Option<u32>>(), delays_s, any::<Option<u32>>(), success).prop_map(
        |(max_attempts, delays_s, timeout_s, success)| RetryPolicy { max_attempts, delays_s, timeout_s, success },
    );
    prop::option::of(policy)
}

fn recipients() -> impl Strategy<Value = Option<SealedRecipients>> {
    prop::option::of((id_parts(), any::<u32>(), any::<String>()).prop_map(|((at, random), count, fingerprint)| {
        let secret = SecretId::from_parts(at, random);
        SealedRecipients { secret, count, fingerprint }
    }))
}

fn created() -> impl Strategy<Value = Event> {
    let filters = prop::sample::subsequence(vec!["user.created", "platform.*", "**", "a.**.b", "*"], 0..=5);
    let texts = (prop::option::of(any::<String>()), prop::option::of(any::<String>()));
    let rate_limit = prop::option::of(any::<u32>());
    let rules = (rate_limit, headers(), retry_policy(), recipients());
    (id_parts(), any::<[String; 3]>(), texts, filters, any::<[bool; 2]>(), rules).prop_map(
        |((at, random), [profile, url, fingerprint], texts, filters, [enabled, ordered], rules)| {
            let (rate_limit_per_s, headers, retry_policy, recipients) = rules;
            let (description, public_key) = texts;
            Event::Subscription(SubscriptionEvent::Created(SubscriptionCreated {
                subscription: SubscriptionId::from_parts(at, random),
                tenant: TenantId::from_parts(at, random),
                profile,
                url,
                description,
                filters: filters.into_iter().map(|filter| Filter::parse(filter).unwrap()).collect(),
                enabled,
                secret: SecretId::from_parts(at, random),
                fingerprint,
                public_key,
                rate_limit_per_s,
                ordered,
                headers,
                retry_policy,
                recipients,
            }))
        },
    )
}

fn rotated() -> impl Strategy<Value = Event> {
    let public_key = prop::option::of(any::<String>());
    (id_parts(), any::<u32>(), any::<String>(), public_key, prop::option::of(timestamp())).prop_map(
        |((at, random), version, fingerprint, public_key, previous_retires_at)| {
            let secret = SecretId::from_parts(at, random);
            let rotated = SecretRotated { secret, version, fingerprint, public_key, previous_retires_at };
            Event::Subscription(SubscriptionEvent::SecretRotated(rotated))
        },
    )
}

fn published() -> impl Strategy<Value = Event> {
    let texts = (any::<[String; 2]>(), prop::option::of(any::<String>()));
    (id_parts(), texts, "[a-z]{1,8}(\\.[a-z_]{1,8}){0,3}", timestamp(), any::<u32>(), any::<bool>()).prop_map(
        |((at, random), ([tenant_slug, digest], idempotency_key), event_type, occurred_at, size_bytes, unstable)| {
            Event::Message(MessageEvent::Published(MessagePublished {
                message: MessageId::from_parts(at, random),
                tenant: TenantId::from_parts(at, random),
                tenant_slug,
                event_type: EventType::parse(&event_type).unwrap(),
                occurred_at,
                size_bytes,
                digest,
                unstable,
                idempotency_key,
            }))
        },
    )
}

proptest! {
    #[test]
    fn whatever_is_written_is_read_as_it_was(event in prop_oneof![failed(), scheduled(), created(), rotated(), published()]) {
        let encoded = codec::encode(&event);
        prop_assert_eq!(codec::decode(&recorded(encoded.kind, encoded.schema, &encoded.data)), Ok(event));
    }
}
