//! Many tenants in many shards.

use std::borrow::Cow;
use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;
use std::time::Duration;

use tidings::actors::Config;
use tidings::clock::SeededClock;
use tidings::domain::id::{SubscriptionId, TenantId};
use tidings::error_code::ErrorCode;
use tidings::event_store::{Append, EventReader, Lifetime, MemoryStore, NewEvent, StreamWrite};
use tidings::execute::{messages_stream, shard_of};

use crate::support::simulation::{Answer, START, World, life};

const SHARDS: u16 = 64;

fn tenant(number: u64) -> TenantId {
    TenantId::from_parts(number, 1)
}

async fn sharded() -> World {
    World::over(MemoryStore::new(SHARDS), Arc::new(SeededClock::new(START, 1)), Config::default()).await
}

/// So many tenants with a subscription each; leaves the world at the last one.
async fn inhabited(tenants: u64) -> (World, HashMap<TenantId, SubscriptionId>) {
    let mut world = sharded().await;
    let mut subscriptions = HashMap::new();
    for number in 1..=tenants {
        world.tenant = tenant(number);
        world.found(&format!("tenant-{number}"), "axie-v1").await.unwrap();
        subscriptions.insert(world.tenant, world.subscribe().await);
    }
    (world, subscriptions)
}

#[tokio::test(start_paused = true)]
async fn every_tenant_is_served_in_its_own_shard() {
    let (mut world, subscriptions) = inhabited(40).await;
    for _ in 0..3 {
        for tenant in subscriptions.keys() {
            world.tenant = *tenant;
            let position = world.publish().await.position.unwrap();
            assert_eq!(position.shard, world.shard());
            assert!(world.engine.head(*tenant) >= position);
        }
    }
    for (tenant, subscription) in &subscriptions {
        world.tenant = *tenant;
        world.succeeded(*subscription, 3).await;
    }
    assert_eq!(world.endpoint.calls().len(), 120);
    let inhabited: BTreeSet<_> = subscriptions.keys().map(|tenant| shard_of(*tenant, SHARDS)).collect();
    assert!(inhabited.len() > 20, "{inhabited:?}");
    for shard in 0..SHARDS {
        assert_eq!(world.store.head(shard).await.unwrap() > 0, inhabited.contains(&shard), "shard {shard}");
    }
}

#[test]
fn after_a_restart_what_is_owed_in_every_shard_is_sent() {
    let (left, subscriptions) = life(async || {
        let (mut world, subscriptions) = inhabited(20).await;
        world.endpoint.answers(vec![Answer::Status(500); 20]);
        for tenant in subscriptions.keys() {
            world.tenant = *tenant;
            world.publish().await;
        }
        world.let_pass(1_000).await;
        assert_eq!(world.endpoint.calls().len(), 20);
        (Arc::clone(&world.store), subscriptions)
    });
    life(async || {
        let mut world = World::again(&left, 1_500).await;
        for (tenant, subscription) in subscriptions {
            world.tenant = tenant;
            world.succeeded(subscription, 1).await;
        }
        world.let_pass(600_000).await;
        assert_eq!(world.endpoint.times(), [2_000; 20]);
    });
}

#[tokio::test(start_paused = true)]
async fn shards_that_rest_cost_nothing() {
    let (mut world, _) = inhabited(20).await;
    for number in 1..=20 {
        world.tenant = tenant(number);
        world.publish().await;
    }
    // Checkpoints are saved, and the subscriptions leave memory.
    world.let_pass(600_000).await;
    let before = (world.store.commits(), world.store.log_reads());
    world.let_pass(3_600_000).await;
    assert_eq!((world.store.commits(), world.store.log_reads()), before);
}

#[tokio::test(start_paused = true)]
async fn a_message_that_nobody_can_read_stops_matching_in_its_shard_alone() {
    let (mut world, subscriptions) = inhabited(2).await;
    let [poisoned, healthy] = [tenant(1), tenant(2)];
    assert_ne!(shard_of(poisoned, SHARDS), shard_of(healthy, SHARDS));
    let event = NewEvent {
        id: world.clock.event_id(),
        kind: Cow::Borrowed("message.published"),
        schema: 1,
        at: START,
        data: "{}".into(),
        meta: None,
        content: None,
    };
    let write = StreamWrite {
        stream: messages_stream(poisoned),
        first_version: 1,
        lifetime: Lifetime::Kept,
        events: vec![event],
    };
    let append = Append { writes: vec![write], ..Append::default() };
    world.log.append(shard_of(poisoned, SHARDS), append).await.unwrap();
    world.tenant = poisoned;
    // The intake meets the event that somebody else wrote, and reads the stream again.
    world.try_publish("{}", None).await.unwrap_err();
    world.publish().await;
    world.tenant = healthy;
    world.publish().await;
    world.succeeded(subscriptions[&healthy], 1).await;
    world.let_pass(60_000).await;
    assert_eq!(world.endpoint.calls().len(), 1);
}

#[tokio::test(start_paused = true)]
async fn a_public_id_is_one_tenants_in_the_whole_log() {
    let mut world = sharded().await;
    world.tenant = tenant(1);
    world.found("acme", "axie-v1").await.unwrap();
    world.tenant = tenant(2);
    assert_ne!(shard_of(tenant(1), SHARDS), shard_of(tenant(2), SHARDS));
    let refusal = world.found("acme", "axie-v1").await.unwrap_err();
    assert_eq!((refusal.code(), refusal.to_string().contains("acme")), (ErrorCode::InvalidInput, true), "{refusal}");
    assert!(world.found("beta", "axie-v1").await.is_ok());
}

#[tokio::test(start_paused = true)]
async fn of_two_who_ask_for_a_public_id_at_one_moment_one_gets_it() {
    let mut one = sharded().await;
    let mut answers = Vec::new();
    for round in 0..20 {
        let slug = format!("slug-{round}");
        let [first, second] = [tenant(2 * round), tenant(2 * round + 1)];
        one.tenant = first;
        let found = |tenant| {
            let created = tidings::domain::event::TenantCreated {
                tenant,
                name: "Acme".into(),
                slug: slug.clone(),
                profile: "axie-v1".into(),
            };
            one.engine.create_tenant(created, tidings::execute::Meta::system())
        };
        let (first, second) = tokio::join!(found(first), found(second));
        answers.push((first.is_ok(), second.is_ok()));
    }
    assert!(answers.iter().all(|(first, second)| first != second), "{answers:?}");
}

#[test]
fn a_public_id_that_was_claimed_before_a_crash_makes_the_tenant_that_it_was_claimed_for() {
    let left = life(async || {
        let mut world = sharded().await;
        world.tenant = tenant(1);
        // The claim is written, the tenant is not.
        world.store.hang_after(1, false);
        assert!(tokio::time::timeout(Duration::from_secs(1), world.found("acme", "axie-v1")).await.is_err());
        Arc::clone(&world.store)
    });
    life(async || {
        let mut world = World::again(&left, 1_000).await;
        world.tenant = tenant(2);
        assert_eq!(world.found("acme", "axie-v1").await.unwrap(), tenant(1));
        world.tenant = tenant(1);
        let subscription = world.subscribe().await;
        world.publish().await;
        world.succeeded(subscription, 1).await;
        world.tenant = tenant(3);
        assert!(world.found("acme", "axie-v1").await.is_err());
    });
}
