//! Recorded subscriptions, event by event: whatever the program becomes, yesterday's history folds to the same state.
//!
//! `schema/events/streams/<name>.jsonl` holds both streams of a subscription in the order of the log, and
//! `<name>.state.json` what they come to, in words that do not follow how the program keeps it.

use std::borrow::Cow;
use std::fs;
use std::path::PathBuf;

use serde_json::{Value, json};
use tidings::codec;
use tidings::domain::id::TenantId;
use tidings::domain::subscription::{self, Command, Life, Matches, Refusal, Settings, Subscription};
use tidings::domain::time::Timestamp;
use tidings::event_store::{Append, EventStore, Lifetime, Log, MemoryStore, NewEvent, Position, Recorded, StreamWrite};
use tidings::execute::{self, Loaded, Meta};

fn read(name: &str) -> String {
    let folder = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("schema/events/streams");
    fs::read_to_string(folder.join(name)).unwrap()
}

fn recording(name: &str) -> Vec<Recorded> {
    read(&format!("{name}.jsonl")).lines().map(|line| recorded(&serde_json::from_str(line).unwrap())).collect()
}

fn recorded(line: &Value) -> Recorded {
    let text = |field: &str| line[field].as_str().unwrap().to_owned();
    let number = |value: &Value| value.as_u64().unwrap();
    let position = &line["position"];
    Recorded {
        position: Position { shard: number(&position["shard"]) as u16, seq: number(&position["seq"]) },
        stream: text("stream"),
        version: number(&line["version"]),
        id: text("id").parse().unwrap(),
        kind: Cow::Owned(text("kind")),
        schema: number(&line["schema"]) as u16,
        at: Timestamp::from_ms(line["at"].as_i64().unwrap()),
        data: line["data"].to_string(),
        meta: line.get("meta").map(Value::to_string),
    }
}

fn fold(recording: &[Recorded]) -> Loaded {
    let mut loaded = Loaded::default();
    for recorded in recording {
        loaded.evolve(&codec::decode(recorded).unwrap(), recorded.at);
    }
    loaded
}

/// What is so, whatever the structs look like that hold it.
fn facts(loaded: &Loaded) -> Value {
    let (life, settings, tenant) = match &loaded.state.life {
        Life::Absent => ("absent", Value::Null, None),
        Life::Live(live) => ("live", settings(live), Some(live.tenant)),
        Life::Deleted(deleted) => ("deleted", Value::Null, Some(deleted.tenant)),
    };
    json!({
        "life": life,
        "tenant": tenant.map(|tenant: TenantId| tenant.to_string()),
        "settings": settings,
        "open": open(&loaded.state),
        "open_count": loaded.state.open_count(),
        "matched_through": matched_through(&loaded.state),
        "life_version": loaded.life_version,
        "deliveries_version": loaded.deliveries_version,
    })
}

fn settings(settings: &Settings) -> Value {
    let secret = |secret: &subscription::SecretVersion| {
        json!({
            "id": secret.id.to_string(),
            "version": secret.version,
            "retires_at": secret.retires_at.map(Timestamp::as_ms),
        })
    };
    json!({
        "id": settings.id.to_string(),
        "profile": settings.profile,
        "url": settings.url,
        "description": settings.description,
        "filters": settings.filters.iter().map(ToString::to_string).collect::<Vec<_>>(),
        "enabled": settings.enabled,
        "secrets": settings.secrets.iter().map(secret).collect::<Vec<_>>(),
        "revision": settings.revision,
    })
}

/// What is owed, in the order in which it is due.
fn open(state: &Subscription) -> Vec<Value> {
    let open = state.due(Timestamp::from_ms(i64::MAX)).map(|(delivery, open)| {
        json!({
            "delivery": delivery.to_string(),
            "message": open.message.to_string(),
            "message_seq": open.message_seq,
            "scheduled_at": open.scheduled_at.as_ms(),
            "due_at": open.due_at.as_ms(),
            "failures": open.failures,
            "version": open.version,
        })
    });
    open.collect()
}

/// A match that leaves out all others is refused with the last one that was seen.
fn matched_through(state: &Subscription) -> Option<u64> {
    let matches = Matches { after: Some(u64::MAX), found: vec![] };
    match subscription::decide(state, Command::Match(matches)) {
        Err(Refusal::MatchMissing { after }) => Some(after),
        Ok(_) | Err(_) => None,
    }
}

fn folds_to_what_was_written_down(name: &str) {
    let facts = facts(&fold(&recording(name)));
    let expected: Value = serde_json::from_str(&read(&format!("{name}.state.json"))).unwrap();
    assert_eq!(facts, expected, "'{name}' folds to another state:\n{facts:#}");
}

#[test]
fn a_recorded_subscription_folds_to_the_state_it_had() {
    folds_to_what_was_written_down("subscription");
}

#[test]
fn a_recorded_subscription_that_was_deleted_folds_to_the_state_it_had() {
    folds_to_what_was_written_down("deleted_subscription");
}

#[test]
fn who_caused_a_recorded_event_is_still_readable() {
    let metas: Vec<Meta> = ["subscription", "deleted_subscription"]
        .into_iter()
        .flat_map(recording)
        .filter_map(|recorded| recorded.meta.map(|meta| serde_json::from_str(&meta).unwrap()))
        .collect();
    assert!(metas.iter().all(|meta| meta.actor.kind == execute::ActorKind::ApiKey && meta.request.is_some()));
    assert_eq!(metas.len(), 10);
}

#[tokio::test]
async fn a_recorded_subscription_is_loaded_from_a_log_as_it_is_folded_by_hand() {
    let recording = recording("subscription");
    let store: std::sync::Arc<dyn EventStore> = std::sync::Arc::new(MemoryStore::new(1));
    let log = Log::start(store, tidings::event_store::Config::default()).await.unwrap();
    for recorded in &recording {
        let event = NewEvent {
            id: recorded.id,
            kind: recorded.kind.clone(),
            schema: recorded.schema,
            at: recorded.at,
            data: recorded.data.clone(),
            meta: recorded.meta.clone(),
            content: None,
        };
        let write = StreamWrite {
            stream: recorded.stream.clone(),
            first_version: recorded.version,
            lifetime: Lifetime::Kept,
            events: vec![event],
        };
        log.append(0, Append { writes: vec![write], ..Append::default() }).await.unwrap();
    }
    let id = execute::subscription_of(&recording[0].stream).unwrap();
    let loaded = execute::load_subscription(&log, id).await.unwrap();
    assert_eq!(facts(&loaded), facts(&fold(&recording)));
}
