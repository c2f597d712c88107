//! What one subscription costs the others.

use std::borrow::Cow;
use std::sync::Arc;

use tidings::actors::{Config, Held};
use tidings::domain::event::DeliveryEvent;
use tidings::domain::subscription::Command;
use tidings::error_code::ErrorCode;
use tidings::event_store::{Append, EventReader, EventStore, Lifetime, NewEvent, Position, StreamWrite};
use tidings::execute::{deliveries_stream, subscription_stream};

use crate::support::simulation::{START, World, life};

/// An event that this program cannot read, at the version behind so many.
async fn poison(world: &World, stream: String, after: u64, kind: &'static str) {
    let event = NewEvent {
        id: world.clock.event_id(),
        kind: Cow::Borrowed(kind),
        schema: 1,
        at: START,
        data: "{}".into(),
        meta: None,
        content: None,
    };
    let write = StreamWrite { stream, first_version: after + 1, lifetime: Lifetime::Kept, events: vec![event] };
    world.log.append(world.shard(), Append { writes: vec![write], ..Append::default() }).await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn one_that_takes_long_to_load_does_not_use_up_what_may_be_under_way() {
    let world = World::with(Config { match_credits: 10, ..Config::default() }).await;
    let slow = world.subscribe_to(&["user.updated"]).await;
    let quick = world.subscribe().await;
    // Leaves memory first, so that it has to be loaded.
    world.let_pass(600_000).await;
    world.store.hold_reads_of(Some(deliveries_stream(slow)));
    for _ in 0..30 {
        world.publish_as("user.updated").await;
    }
    world.publish().await;
    let calls = world.endpoint.called(1).await;
    world.succeeded(quick, 1).await;
    assert!(calls[0].at_ms <= 601_000, "{}", calls[0].at_ms);
    world.store.hold_reads_of(None);
    world.succeeded(slow, 30).await;
    assert_eq!(world.endpoint.calls().len(), 31);
}

#[tokio::test(start_paused = true)]
async fn what_one_missed_is_not_read_from_the_log_as_a_whole_again_and_again() {
    let world = World::without_tail(Config::default()).await;
    let poisoned = world.subscribe().await;
    world.let_pass(600_000).await;
    poison(&world, deliveries_stream(poisoned), 0, "delivery.unheard_of").await;
    for _ in 0..2_000 {
        world.publish().await;
    }
    world.let_pass(10_000).await;
    let before = world.store.log_events_read();
    world.let_pass(600_000).await;
    let read = world.store.log_events_read() - before;
    // It is tried every two seconds at the most.
    assert!(read <= 300 * 500, "{read} events");
}

#[tokio::test(start_paused = true)]
async fn what_one_missed_while_it_rested_comes_in_order_and_once() {
    let world = World::with(Config { match_credits: 8, ..Config::default() }).await;
    let subscription = world.subscribe().await;
    world.publish().await;
    world.succeeded(subscription, 1).await;
    // The first commit is the message's, the second the delivery's.
    world.store.fail_commit_after(1);
    let mut published = vec![];
    for _ in 0..1_200 {
        published.push(world.publish().await.message.to_string());
    }
    world.succeeded(subscription, 1_201).await;
    world.let_pass(60_000).await;
    let mut delivered = world.messages_delivered(subscription).await.split_off(1);
    delivered.sort();
    published.sort();
    assert_eq!(delivered, published);
}

#[test]
fn one_whose_settings_cannot_be_read_stops_alone_and_loses_nothing_that_could_be_read_again() {
    let (left, [poisoned, healthy]) = life(async || {
        let world = World::new().await;
        let [poisoned, healthy] = [world.subscribe().await, world.subscribe().await];
        world.let_pass(600_000).await;
        poison(&world, subscription_stream(poisoned), 1, "subscription.unheard_of").await;
        let unreadable = world.store.head(world.shard()).await.unwrap();
        for _ in 0..10 {
            world.publish().await;
        }
        world.succeeded(healthy, 10).await;
        world.let_pass(60_000).await;
        assert_eq!(world.endpoint.calls().len(), 10);
        // Whatever it may have matched is kept for a program that can read it.
        let checkpoint = world.store.checkpoint("matcher", world.shard()).await.unwrap().unwrap();
        assert!(checkpoint < unreadable, "{checkpoint} of {unreadable}");
        (Arc::clone(&world.store), [poisoned, healthy])
    });
    life(async || {
        let world = World::again(&left, 700_000).await;
        world.publish().await;
        world.succeeded(healthy, 11).await;
        assert_eq!(world.endpoint.calls().len(), 1);
        assert!(world.engine.settings(world.tenant, poisoned).await.is_err());
    });
}

#[test]
fn one_whose_settings_were_damaged_long_ago_stops_alone_after_a_restart() {
    let (left, [poisoned, healthy]) = life(async || {
        let world = World::new().await;
        let [poisoned, healthy] = [world.subscribe().await, world.subscribe().await];
        world.publish().await;
        world.succeeded(poisoned, 1).await;
        world.let_pass(60_000).await;
        poison(&world, subscription_stream(poisoned), 1, "subscription.unheard_of").await;
        // As if it had become unreadable behind the checkpoint.
        let head = Position { shard: world.shard(), seq: world.store.head(world.shard()).await.unwrap() };
        world.store.save_checkpoint("matcher", head).await.unwrap();
        (Arc::clone(&world.store), [poisoned, healthy])
    });
    life(async || {
        let world = World::again(&left, 700_000).await;
        world.publish().await;
        world.succeeded(healthy, 2).await;
        world.let_pass(60_000).await;
        assert_eq!(world.endpoint.calls().len(), 1);
        let head = world.store.head(world.shard()).await.unwrap();
        assert!(world.store.checkpoint("matcher", world.shard()).await.unwrap().unwrap() < head);
        assert!(world.engine.settings(world.tenant, poisoned).await.is_err());
    });
}

#[tokio::test(start_paused = true)]
async fn an_outcome_costs_no_read_of_the_log_at_its_head() {
    let world = World::new().await;
    let subscription = world.subscribe().await;
    let before = world.store.log_reads();
    for _ in 0..100 {
        world.publish().await;
        world.let_pass(10).await;
    }
    world.succeeded(subscription, 100).await;
    let reads = world.store.log_reads() - before;
    assert!(reads <= 10, "{reads} reads");
}

#[tokio::test(start_paused = true)]
async fn ids_that_somebody_made_up_take_no_memory() {
    let world = World::new().await;
    for _ in 0..100 {
        let id = world.clock.subscription_id();
        let refusal = world.engine.settings(world.tenant, id).await.unwrap_err();
        assert_eq!(refusal.code(), ErrorCode::NotFound);
        // Not even loaded.
        assert_eq!(world.store.reads_of(&subscription_stream(id)), 0);
    }
}

#[tokio::test(start_paused = true)]
async fn a_message_that_cannot_be_read_is_waited_for_and_then_owed_in_its_place() {
    let world = World::without_tail(Config::default()).await;
    let ids = [world.subscribe().await, world.subscribe().await];
    let early = world.publish().await;
    for id in ids {
        world.succeeded(id, 1).await;
    }
    world.store.damage(Some(world.engine.head(world.tenant).seq + 1));
    let (first, second) = (world.publish().await, world.publish().await);
    world.let_pass(10_000).await;
    assert_eq!(world.endpoint.calls().len(), 2);
    let quarantine = world.engine.quarantine();
    assert_eq!(quarantine.len(), 1, "{quarantine:?}");
    assert_eq!((quarantine[0].held, Some(quarantine[0].event.position)), (Held::Matching, first.position));
    let retry_at = quarantine[0].retry_at.unwrap();

    world.let_pass(600_000).await;
    let later = world.engine.quarantine();
    assert_eq!(later[0].since, quarantine[0].since);
    assert!(later[0].retry_at.unwrap() > retry_at.plus_ms(300_000), "{later:?}");
    world.store.damage(None);

    let published = [early, first, second].map(|published| published.message);
    for id in ids {
        world.succeeded(id, 3).await;
        let events = world.deliveries(id).await;
        let owed: Vec<_> = events
            .iter()
            .filter_map(
                |event| if let DeliveryEvent::Scheduled(scheduled) = event { Some(scheduled.message) } else { None },
            )
            .collect();
        assert_eq!(owed, published);
    }
    world.let_pass(1).await;
    assert_eq!(world.engine.quarantine(), []);
}

#[tokio::test(start_paused = true)]
async fn a_message_that_cannot_be_read_is_tried_once_for_all_who_wait_for_it() {
    let world = World::without_tail(Config::default()).await;
    let mut ids = Vec::new();
    for _ in 0..40 {
        ids.push(world.subscribe().await);
    }
    world.store.damage(Some(world.engine.head(world.tenant).seq + 1));
    world.publish().await;
    world.let_pass(10_000).await;
    let reads = || ids.iter().map(|id| world.store.reads_of(&subscription_stream(*id))).collect::<Vec<_>>();
    let before = reads();
    world.let_pass(310_000).await;
    let led = reads().iter().zip(&before).filter(|(now, before)| now > before).count();
    assert_eq!(led, 1, "one of them is led to it");
}

#[tokio::test(start_paused = true)]
async fn nothing_is_waited_for_on_behalf_of_one_that_was_deleted() {
    let world = World::without_tail(Config::default()).await;
    let id = world.subscribe().await;
    world.store.damage(Some(world.engine.head(world.tenant).seq + 1));
    world.publish().await;
    world.let_pass(10_000).await;
    assert_eq!(world.engine.quarantine().len(), 1);
    world.command(id, Command::Delete { expected_revision: None }).await;
    world.let_pass(310_000).await;
    assert_eq!(world.engine.quarantine(), []);
}
