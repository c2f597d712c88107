//! Data that somebody wants gone is gone: for readers, for endpoints, and over restarts.

use serde_json::json;
use tidings::actors::{Config, EngineError, SubjectErasure};
use tidings::codec;
use tidings::domain::erasure::{Refusal, Selector};
use tidings::domain::event::{
    DeliveryEvent, Event, ExpiryReason, MessageEvent, PayloadErased, SubscriptionEvent, TenantEvent,
};
use tidings::domain::id::MessageId;
use tidings::domain::message;
use tidings::error_code::ErrorCode;
use tidings::event_store::{EventReader, Position};
use tidings::execute::vault::VaultError;
use tidings::execute::{Meta, messages_stream, subscription_stream, tenant_stream};
use tidings::key_store::KeyStore;

use crate::support::simulation::{Answer, World, life};

async fn decoded(world: &World, stream: &str) -> Vec<Event> {
    let events = world.store.memory.read_stream(stream, 1, usize::MAX).await.unwrap();
    events.iter().map(|recorded| codec::decode(recorded).unwrap()).collect()
}

async fn payloads_erased(world: &World) -> Vec<PayloadErased> {
    let events = decoded(world, &messages_stream(world.tenant)).await;
    let erased = events.into_iter().filter_map(|event| {
        let Event::Message(MessageEvent::PayloadErased(erased)) = event else { return None };
        Some(erased)
    });
    erased.collect()
}

/// Waits until that many erasures are complete.
async fn completed(world: &World, count: usize) -> Vec<TenantEvent> {
    for _ in 0..10_000 {
        let events = decoded(world, &tenant_stream(world.tenant)).await;
        let completed = events.into_iter().filter_map(|event| {
            let Event::Tenant(event @ TenantEvent::ErasureCompleted(_)) = event else { return None };
            Some(event)
        });
        let completed: Vec<_> = completed.collect();
        if completed.len() >= count {
            return completed;
        }
        world.let_pass(10).await;
    }
    panic!("no erasure is ever complete");
}

/// The names of what is sealed in the key store.
async fn sealed(world: &World) -> Vec<String> {
    let rows = world.store.memory.keys().rows("", "", 99).await.unwrap();
    rows.into_iter().map(|row| row.name).collect()
}

fn subject(user: &str) -> SubjectErasure {
    let selector = Selector::new("/userId".into(), json!(user)).unwrap();
    SubjectErasure { selector, event_types: vec![], from: None, to: None, reason: Some("asked for".into()) }
}

async fn publish_for(world: &World, user: &str) -> Position {
    let data = json!({ "userId": user }).to_string();
    world.try_publish(&data, None).await.unwrap().position.unwrap()
}

#[test]
fn what_was_erased_is_sent_no_more_and_what_is_owed_of_it_has_failed() {
    life(async || {
        let world = World::new().await;
        let id = world.subscribe().await;
        world.endpoint.answers([Answer::Status(500)]);
        let published = world.publish().await;
        world.endpoint.called(1).await;
        let place = (published.message, published.position.unwrap());

        let done = world.engine.erase_messages(world.tenant, &[place, place], None, Meta::system()).await.unwrap();

        assert_eq!((done.messages, done.done.changed), (vec![published.message], true));
        assert_eq!(world.engine.message_data(place.1).await, Ok(None));
        let erased = PayloadErased { messages: vec![place.0], erasure: done.erasure.unwrap(), reason: None };
        assert_eq!(payloads_erased(&world).await, [erased]);
        let gave_up = |events: &[DeliveryEvent]| {
            events.iter().any(
                |event| matches!(event, DeliveryEvent::Expired(expired) if expired.reason == ExpiryReason::DataErased),
            )
        };
        world.recorded(id, gave_up).await;
        world.let_pass(86_400_000).await;
        assert_eq!(world.endpoint.calls().len(), 1);
        assert_eq!(completed(&world, 1).await.len(), 1);
        assert_eq!(world.log.wakeups(world.shard(), None, 9).await, Ok(vec![]));

        // Once is enough, and others are delivered as ever.
        let again = world.engine.erase_messages(world.tenant, &[place], None, Meta::system()).await.unwrap();
        assert_eq!((again.erasure, again.messages, again.done.changed), (None, vec![], false));
        world.publish().await;
        world.succeeded(id, 1).await;
    });
}

#[test]
fn nothing_is_erased_where_one_of_the_messages_is_not_there() {
    life(async || {
        let world = World::new().await;
        let published = world.publish().await;
        let position = published.position.unwrap();
        let unknown = MessageId::from_parts(7, 7);
        let refused = |error: EngineError| (error.code(), matches!(error, EngineError::Erasure(_)));
        for places in [
            vec![(published.message, position), (unknown, position)],
            vec![(published.message, Position { seq: position.seq + 99, ..position })],
            vec![(published.message, Position { seq: 1, ..position })],
        ] {
            let error = world.engine.erase_messages(world.tenant, &places, None, Meta::system()).await.unwrap_err();
            assert_eq!(refused(error), (ErrorCode::NotFound, true));
        }
        let none = world.engine.erase_messages(world.tenant, &[], None, Meta::system()).await.unwrap_err();
        assert_eq!(none, EngineError::Erasure(Refusal::Count));
        let reason = Some("x".repeat(501));
        let place = [(published.message, position)];
        let long = world.engine.erase_messages(world.tenant, &place, reason, Meta::system()).await.unwrap_err();
        assert_eq!(long, EngineError::Erasure(Refusal::ReasonTooLong));
        assert!(world.engine.message_data(position).await.unwrap().is_some());
    });
}

#[test]
fn messages_about_somebody_are_found_and_nobody_elses() {
    life(async || {
        let world = World::new().await;
        let (mut hers, mut others) = (vec![], vec![]);
        for _ in 0..300 {
            hers.push(publish_for(&world, "zoe").await);
            others.push(publish_for(&world, "bob").await);
        }

        let (erasure, _) = world.engine.erase_subject(world.tenant, subject("zoe"), Meta::system()).await.unwrap();
        let later = publish_for(&world, "zoe").await;
        let completed = completed(&world, 1).await;

        let TenantEvent::ErasureCompleted(completed) = &completed[0] else { panic!("{completed:?}") };
        assert_eq!((completed.erasure, completed.messages), (erasure, 300));
        assert_eq!(completed.size_bytes, 300 * r#"{"userId":"zoe"}"#.len() as u64);
        for position in hers {
            assert_eq!(world.engine.message_data(position).await, Ok(None));
        }
        for position in others.into_iter().chain([later]) {
            assert!(world.engine.message_data(position).await.unwrap().is_some());
        }
        let erased = payloads_erased(&world).await;
        assert_eq!(erased.iter().map(|erased| erased.messages.len()).sum::<usize>(), 300);
        assert!(erased.iter().all(|erased| erased.messages.len() <= 250 && erased.reason.is_some()));
        // Whom it was about stands nowhere: not in the log, and no more in the key store.
        for stream in [messages_stream(world.tenant), tenant_stream(world.tenant)] {
            let events = world.store.memory.read_stream(&stream, 1, usize::MAX).await.unwrap();
            assert!(!events.iter().any(|event| event.data.contains("zoe")));
        }
        assert!(!sealed(&world).await.iter().any(|name| name.starts_with("erasure-selector/")));
    });
}

#[test]
fn an_erasure_goes_on_after_a_restart_wherever_it_was() {
    let mut left = life(async || {
        let world = World::new().await;
        for _ in 0..1_200 {
            publish_for(&world, "zoe").await;
        }
        world.engine.erase_subject(world.tenant, subject("zoe"), Meta::system()).await.unwrap();
        (world.store, world.tenant)
    });
    let mut lives = 0;
    loop {
        lives += 1;
        let done = life(async || {
            let mut world = World::again(&left.0, lives * 1_000).await;
            world.tenant = left.1;
            // Ends in the middle of it, several times.
            for _ in 0..lives {
                tokio::task::yield_now().await;
            }
            if lives > 40 {
                completed(&world, 1).await;
            }
            let events = decoded(&world, &tenant_stream(world.tenant)).await;
            let complete = events.iter().any(|event| matches!(event, Event::Tenant(TenantEvent::ErasureCompleted(_))));
            left.0 = world.store.clone();
            (complete, world)
        });
        if done.0 {
            break;
        }
    }
    assert!(lives > 1);
    life(async || {
        let mut world = World::again(&left.0, 1_000_000).await;
        world.tenant = left.1;
        let mut seen: Vec<MessageId> = vec![];
        payloads_erased(&world).await.into_iter().for_each(|erased| seen.extend(erased.messages));
        let all = seen.len();
        seen.sort_unstable();
        seen.dedup();
        assert_eq!((seen.len(), all), (1_200, 1_200), "each once");
        assert_eq!(world.log.wakeups(world.shard(), None, 9).await, Ok(vec![]));
    });
}

#[test]
fn an_erased_tenant_has_no_webhooks_no_secrets_and_publishes_nothing() {
    life(async || {
        let world = World::new().await;
        let id = world.subscribe().await;
        world.endpoint.answers([Answer::Status(500)]);
        let position = publish_for(&world, "zoe").await;
        world.endpoint.called(1).await;

        let (erasure, done) = world.engine.erase_tenant(world.tenant, None, Meta::system()).await.unwrap();

        assert!(done.changed);
        let refused = world.try_publish("{}", None).await.unwrap_err();
        assert_eq!((refused.code(), refused.to_string().contains("erased")), (ErrorCode::TenantErased, true));
        let completed = completed(&world, 1).await;
        let TenantEvent::ErasureCompleted(completed) = &completed[0] else { panic!("{completed:?}") };
        assert_eq!((completed.messages, completed.webhooks, completed.secrets), (1, 1, 1));
        assert_eq!(world.engine.message_data(position).await, Ok(None));
        assert_eq!(sealed(&world).await, ["pepper/-/root/1"]);
        assert_eq!(world.engine.settings(world.tenant, id).await.unwrap_err().code(), ErrorCode::NotFound);
        world.let_pass(86_400_000).await;
        assert_eq!(world.endpoint.calls().len(), 1);
        let again = world.engine.erase_tenant(world.tenant, None, Meta::system()).await.unwrap();
        assert_eq!((again.0, again.1.changed), (erasure, false));
    });
}

#[test]
fn what_was_being_looked_for_goes_with_its_tenant() {
    life(async || {
        let world = World::new().await;
        let position = publish_for(&world, "zoe").await;
        let meta = Meta::system;
        world.engine.erase_subject(world.tenant, subject("bob"), meta()).await.unwrap();
        world.engine.erase_tenant(world.tenant, None, meta()).await.unwrap();

        assert_eq!(completed(&world, 2).await.len(), 2);

        assert_eq!(world.engine.message_data(position).await, Ok(None));
        assert_eq!(sealed(&world).await, ["pepper/-/root/1"]);
        let late = world.engine.erase_subject(world.tenant, subject("bob"), meta()).await.unwrap_err();
        assert_eq!(late.code(), ErrorCode::TenantErased);
        assert_eq!(sealed(&world).await.len(), 1);
        assert_eq!(world.log.wakeups(world.shard(), None, 9).await, Ok(vec![]));
    });
}

#[test]
fn data_is_sealed_at_rest_and_bound_to_its_message() {
    life(async || {
        let world = World::new().await;
        let id = world.subscribe().await;
        let (one, other) = (publish_for(&world, "zoe").await, publish_for(&world, "zoe").await);
        world.succeeded(id, 2).await;
        let stored = async |at| world.log.content(at).await.unwrap().unwrap();
        let (first, second) = (stored(one).await, stored(other).await);
        assert_ne!(first, second);
        for content in [&first, &second] {
            assert!(!content.windows(3).any(|window| window == b"zoe"));
            // Its form, the id of its key, nonce, salt and data, tag.
            assert_eq!(content.len(), 1 + 8 + 24 + 16 + r#"{"userId":"zoe"}"#.len() + 16);
        }
        assert_eq!(first[..9], second[..9], "both are sealed under the key of this month");
        let bodies = world.endpoint.calls();
        assert!(bodies.iter().all(|call| call.body.contains("zoe")));

        // Without its key nobody opens it, and nothing is sent.
        world.disable(id).await;
        let third = publish_for(&world, "zoe").await;
        let keys = sealed(&world).await;
        assert_eq!(keys.iter().filter(|name| name.starts_with("data-key/")).count(), 1);
        world.store.memory.keys().destroy(&keys).await.unwrap();
        let again = World::again(&world.store, 1_000).await;
        let refused = again.engine.message_data(third).await.unwrap_err();
        let is_missing = matches!(refused, EngineError::Vault(VaultError::Missing(_)));
        assert!(is_missing, "nobody erased its tenant, so the key may come back: {refused}");
    });
}

#[test]
fn a_publication_repeated_after_the_erasure_brings_nothing_back() {
    life(async || {
        let world = World::new().await;
        let data = r#"{"userId":"zoe"}"#;
        let published = world.try_publish(data, Some("order-1")).await.unwrap();
        let place = (published.message, published.position.unwrap());
        world.engine.erase_messages(world.tenant, &[place], None, Meta::system()).await.unwrap();

        let again = world.try_publish(data, Some("order-1")).await.unwrap();

        assert_eq!((again.message, again.duplicate), (published.message, true));
        assert_eq!(world.engine.message_data(place.1).await, Ok(None));
        let other = world.try_publish("{}", Some("order-1")).await.unwrap_err();
        assert_eq!(other.code(), ErrorCode::IdempotencyKeyReused);
        // What the claim remembers cannot be guessed: it is no hash that anybody could make.
        let claims = world.store.memory.claims_after(world.shard(), None, 99).await.unwrap();
        let draft = message::prepare(message::Publish {
            event_type: "user.created".into(),
            data: data.into(),
            occurred_at: None,
            idempotency_key: Some("order-1".into()),
        });
        let guessed = draft.unwrap().idempotency.unwrap().digest;
        assert!(claims.iter().any(|claim| claim.value.contains("digest")));
        assert!(!claims.iter().any(|claim| claim.value.contains(&guessed)));
    });
}

#[test]
fn the_keys_go_first_whatever_cannot_be_read() {
    life(async || {
        let world = World::new().await;
        world.subscribe().await;
        let created = world.engine.head(world.tenant).seq;
        publish_for(&world, "zoe").await;
        world.store.damage(Some(created));

        world.engine.erase_tenant(world.tenant, None, Meta::system()).await.unwrap();
        world.let_pass(60_000).await;

        assert_eq!(sealed(&world).await, ["pepper/-/root/1"]);
        let events = decoded(&world, &tenant_stream(world.tenant)).await;
        assert!(!events.iter().any(|event| matches!(event, Event::Tenant(TenantEvent::ErasureCompleted(_)))));
        world.store.damage(None);
        assert_eq!(completed(&world, 1).await.len(), 1);
    });
}

#[test]
fn an_erased_tenants_webhooks_come_back_for_nobody_and_it_gets_no_others() {
    life(async || {
        let world = World::under("axissynapse-v1", Config::default()).await;
        let (live, deleted) = (world.subscribe().await, world.subscribe().await);
        let meta = Meta::system;
        world.engine.delete_subscription(world.tenant, deleted, None, meta()).await.unwrap();
        world.engine.erase_tenant(world.tenant, None, meta()).await.unwrap();
        assert_eq!(completed(&world, 1).await.len(), 1);

        for id in [live, deleted] {
            let restored = world.engine.restore_subscription(world.tenant, id, meta()).await.unwrap_err();
            let rotated = world.engine.rotate_secret(world.tenant, id, None, None, meta()).await.unwrap_err();
            assert_eq!((restored.code(), rotated.code()), (ErrorCode::TenantErased, ErrorCode::TenantErased));
            let events = decoded(&world, &subscription_stream(id)).await;
            let window = events.iter().find_map(|event| {
                let Event::Subscription(SubscriptionEvent::Deleted(deleted)) = event else { return None };
                deleted.restore_window_s
            });
            let forgotten =
                events.iter().any(|event| matches!(event, Event::Subscription(SubscriptionEvent::SecretsDestroyed(_))));
            assert!(window.is_none() || forgotten, "{id} can be restored");
        }
        assert_eq!(sealed(&world).await, ["pepper/-/root/1"]);
    });
}

#[test]
fn one_purge_ends_all_that_wait_and_the_next_comes_later() {
    life(async || {
        let world = World::with(Config { purge_every_ms: 30_000, ..Config::default() }).await;
        let erase = async || {
            let published = world.publish().await;
            let place = [(published.message, published.position.unwrap())];
            world.engine.erase_messages(world.tenant, &place, None, Meta::system()).await.unwrap();
        };
        erase().await;
        assert_eq!(completed(&world, 1).await.len(), 1);
        // More than may look for messages at a time.
        for _ in 0..20 {
            erase().await;
        }
        world.let_pass(20_000).await;
        assert_eq!(completed(&world, 1).await.len(), 1);
        world.let_pass(20_000).await;
        assert_eq!(completed(&world, 21).await.len(), 21);
    });
}
