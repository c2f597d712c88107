//! The samples of recorded events: each is readable for ever, and none is ever edited.
//!
//! `schema/events/MANIFEST.sha256` holds the hash of every sample. A new event type or version adds a sample and a
//! line; `sha256sum -c` reads the file too.

use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::PathBuf;

use proptest::prelude::*;
use serde_json::Value;
use sha2::{Digest, Sha256};
use tidings::codec::{self, DecodeError};
use tidings::domain::event::{
    AttemptFailed, DeliveryEvent, DeliveryScheduled, Event, MessageEvent, MessagePublished, SecretRotated,
    SubscriptionCreated, SubscriptionEvent,
};
use tidings::domain::filter::{EventType, Filter};
use tidings::domain::id::{DeliveryId, EventId, MessageId, SecretId, SubscriptionId, TenantId};
use tidings::domain::outcome::{FailureCode, Response};
use tidings::domain::time::Timestamp;
use tidings::event_store::{Position, Recorded};

const MANIFEST: &str = "MANIFEST.sha256";

fn folder() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("schema/events")
}

/// Every sample's text by the name of its file.
fn samples() -> BTreeMap<String, String> {
    let entries = fs::read_dir(folder()).unwrap().map(|entry| entry.unwrap().path());
    entries
        .filter(|path| path.file_name().is_some_and(|name| name != MANIFEST))
        .map(|path| (path.file_name().unwrap().to_str().unwrap().to_owned(), fs::read_to_string(&path).unwrap()))
        .collect()
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

#[test]
fn every_event_type_has_a_sample_named_after_it() {
    let samples = samples();
    for (kind, schema) in codec::TYPES {
        assert!(samples.contains_key(&format!("{kind}.v{schema}.json")), "'{kind}' version {schema} has no sample");
    }
    for (name, text) in samples {
        let (kind, schema, _) = parts(&text);
        assert_eq!(name, format!("{kind}.v{schema}.json"));
    }
}

#[test]
fn every_sample_is_read_and_the_newest_are_written_the_same() {
    for (name, text) in samples() {
        let (kind, schema, data) = parts(&text);
        let event = codec::decode(&recorded(&kind, schema, &data.to_string())).unwrap();
        let shown = format!("{event:?}");
        assert!(!shown.contains("None"), "'{name}' leaves an optional field out: {shown}");
        if codec::TYPES.contains(&(kind.as_str(), schema)) {
            let encoded = codec::encode(&event);
            assert_eq!((encoded.kind, encoded.schema), (kind.as_str(), schema));
            assert_eq!(serde_json::from_str::<Value>(&encoded.data).unwrap(), data, "'{name}'");
        }
    }
}

#[test]
fn no_sample_was_edited() {
    let manifest = fs::read_to_string(folder().join(MANIFEST)).unwrap();
    let samples = samples();
    let mut listed = BTreeSet::new();
    for line in manifest.lines() {
        let (hash, name) = line.split_once("  ").unwrap();
        let text = samples.get(name).unwrap_or_else(|| panic!("the sample '{name}' is gone"));
        assert_eq!(
            hex::encode(Sha256::digest(text)),
            hash,
            "the sample '{name}' was edited; a change is a new version"
        );
        assert!(listed.insert(name), "'{name}' is listed twice");
    }
    for (name, text) in &samples {
        let line = format!("{}  {name}", hex::encode(Sha256::digest(text)));
        assert!(listed.contains(name.as_str()), "'{name}' is new; add to {MANIFEST}:\n{line}");
    }
}

#[test]
fn an_unknown_type_or_version_is_an_error_that_names_it() {
    for (kind, schema) in [("delivery.unheard_of", 1), ("delivery.scheduled", 2), ("delivery.scheduled", 0), ("", 1)] {
        let error = codec::decode(&recorded(kind, schema, "{}")).unwrap_err();
        let position = Position { shard: 0, seq: 7 };
        assert_eq!(error, DecodeError::UnknownType { position, kind: kind.into(), schema });
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
    let (kind, schema, mut data) = parts(&samples()["subscription.deleted.v1.json"]);
    data["added_later"] = Value::from(1);
    assert!(codec::decode(&recorded(&kind, schema, &data.to_string())).is_ok());
}

fn timestamp() -> impl Strategy<Value = Timestamp> {
    any::<i64>().prop_map(Timestamp::from_ms)
}

/// 48 bits of time and 80 of chance.
fn id_parts() -> impl Strategy<Value = (u64, u128)> {
    (0..1_u64 << 48, 0..1_u128 << 80)
}

fn response() -> impl Strategy<Value = Response> {
    (any::<u16>(), any::<String>(), any::<bool>()).prop_map(|(status, preview, truncated)| Response {
        status,
        preview,
        truncated,
    })
}

fn failed() -> impl Strategy<Value = Event> {
    let code = prop::sample::select(vec![
        FailureCode::Status,
        FailureCode::Timeout,
        FailureCode::Dns,
        FailureCode::Connect,
        FailureCode::Tls,
        FailureCode::Blocked,
        FailureCode::Body,
        FailureCode::Aborted,
    ]);
    let times = (timestamp(), any::<u64>(), prop::option::of(timestamp()));
    (id_parts(), any::<u32>(), times, code, any::<String>(), prop::option::of(response()), any::<u64>()).prop_map(
        |((at, random), number, (started_at, latency_ms, due_at), code, detail, response, revision)| {
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
                due_at,
            }))
        },
    )
}

fn scheduled() -> impl Strategy<Value = Event> {
    (id_parts(), id_parts(), any::<u64>(), any::<u64>(), prop::option::of(id_parts())).prop_map(
        |(delivery, message, message_seq, revision, original)| {
            Event::Delivery(DeliveryEvent::Scheduled(DeliveryScheduled {
                delivery: DeliveryId::from_parts(delivery.0, delivery.1),
                message: MessageId::from_parts(message.0, message.1),
                message_seq,
                revision,
                redelivery_of: original.map(|(at, random)| DeliveryId::from_parts(at, random)),
            }))
        },
    )
}

fn created() -> impl Strategy<Value = Event> {
    let filters = prop::sample::subsequence(vec!["user.created", "platform.*", "**", "a.**.b", "*"], 0..=5);
    (id_parts(), any::<[String; 3]>(), prop::option::of(any::<String>()), filters, any::<bool>()).prop_map(
        |((at, random), [profile, url, fingerprint], description, filters, enabled)| {
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
            }))
        },
    )
}

fn rotated() -> impl Strategy<Value = Event> {
    (id_parts(), any::<u32>(), any::<String>(), prop::option::of(timestamp())).prop_map(
        |((at, random), version, fingerprint, previous_retires_at)| {
            let secret = SecretId::from_parts(at, random);
            let rotated = SecretRotated { secret, version, fingerprint, previous_retires_at };
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
