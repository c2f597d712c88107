//! One bad thing stays alone, and what can be tried again is.

use std::borrow::Cow;

use tidings::actors::{Config, Sealable};
use tidings::domain::event::DeliveryEvent;
use tidings::domain::outcome::{FailureClass, FailureCode};
use tidings::domain::subscription::{Command, Update};
use tidings::event_store::{Append, EventReader, Lifetime, NewEvent, StreamWrite};
use tidings::execute::{Meta, deliveries_stream};

use crate::support::simulation::{Answer, OTHER_URL, START, URL, World, life};

#[tokio::test(start_paused = true)]
async fn an_attempt_that_panics_is_made_again_and_is_no_fault_of_the_endpoint() {
    let world = World::new().await;
    let subscription = world.subscribe().await;
    world.endpoint.answers([Answer::Panic]);
    world.publish().await;
    world.succeeded(subscription, 1).await;
    assert_eq!(world.endpoint.times(), [0, 1_000]);
    let events = world.deliveries(subscription).await;
    let DeliveryEvent::AttemptFailed(failed) = &events[1] else { panic!("{events:?}") };
    assert_eq!((failed.code, failed.class, failed.failures), (FailureCode::Aborted, FailureClass::Local, 0));
}

#[tokio::test(start_paused = true)]
async fn a_publisher_is_told_when_the_log_cannot_be_written_and_can_try_again() {
    let world = World::new().await;
    let subscription = world.subscribe().await;
    world.store.fail_next_commit();
    assert!(world.try_publish("{}", None).await.is_err());
    world.publish().await;
    world.succeeded(subscription, 1).await;
}

#[tokio::test(start_paused = true)]
async fn a_caller_is_told_when_a_change_could_not_be_written_and_the_change_is_not_there() {
    let world = World::new().await;
    let subscription = world.subscribe().await;
    world.store.fail_next_commit();
    let disabled =
        world.engine.subscription(world.tenant, subscription, Command::Disable { reason: None }, Meta::system());
    assert!(disabled.await.is_err());
    world.let_pass(5_000).await;
    assert!(world.engine.settings(world.tenant, subscription).await.unwrap().enabled);
    world.publish().await;
    world.succeeded(subscription, 1).await;
}

#[tokio::test(start_paused = true)]
async fn a_match_that_could_not_be_written_is_found_again() {
    let world = World::new().await;
    let subscription = world.subscribe().await;
    // The first is the message's, the second the delivery's.
    world.store.fail_commit_after(1);
    let published = world.publish().await;
    world.succeeded(subscription, 1).await;
    let calls = world.endpoint.calls();
    assert_eq!(calls.len(), 1);
    assert_eq!(calls[0].header("webhook-id"), published.message.to_string());
    assert!(calls[0].at_ms > 0);
}

#[tokio::test(start_paused = true)]
async fn an_outcome_that_could_not_be_written_costs_an_attempt_and_no_delivery() {
    let world = World::new().await;
    let subscription = world.subscribe().await;
    world.endpoint.answers([Answer::Held]);
    world.publish().await;
    world.endpoint.called(1).await;
    world.store.fail_next_commit();
    world.endpoint.release(1);
    world.succeeded(subscription, 1).await;
    let calls = world.endpoint.calls();
    assert_eq!(calls.len(), 2);
    assert_eq!(calls[0].header("webhook-id"), calls[1].header("webhook-id"));
}

#[tokio::test(start_paused = true)]
async fn a_stream_that_cannot_be_read_stops_its_own_subscription_only() {
    let world = World::new().await;
    let poisoned = world.subscribe().await;
    let healthy = world.subscribe().await;
    let event = NewEvent {
        id: world.clock.event_id(),
        kind: Cow::Borrowed("delivery.unheard_of"),
        schema: 1,
        at: START,
        data: "{}".into(),
        meta: None,
        content: None,
    };
    let write = StreamWrite {
        stream: deliveries_stream(poisoned),
        first_version: 1,
        lifetime: Lifetime::Kept,
        events: vec![event],
    };
    // Leaves memory first, so that it has to be loaded.
    world.let_pass(600_000).await;
    world.log.append(world.shard(), Append { writes: vec![write], ..Append::default() }).await.unwrap();
    for _ in 0..10 {
        world.publish().await;
        world.let_pass(1_000).await;
    }
    world.succeeded(healthy, 10).await;
    assert_eq!(world.endpoint.calls().len(), 10);
    assert!(world.engine.settings(world.tenant, poisoned).await.is_err());
    // Tried again, ever more seldom.
    let loads = world.store.reads_of(&deliveries_stream(poisoned));
    assert!((2..10).contains(&loads), "loaded {loads} times");
    // What it missed is kept: the matcher's checkpoint stays before the first match.
    world.let_pass(60_000).await;
    let head = world.store.head(world.shard()).await.unwrap();
    assert!(world.store.checkpoint("matcher", world.shard()).await.unwrap().unwrap() < head);
}

#[tokio::test(start_paused = true)]
async fn an_outcome_that_comes_twice_starts_nothing_of_its_own() {
    let world = World::new().await;
    let subscription = world.subscribe().await;
    // The actor falls with the first attempt under way, comes back, and makes it again; then both outcomes come.
    world.endpoint.answers([Answer::Late(500, 60_000), Answer::Late(500, 62_000), Answer::Late(200, 30_000)]);
    world.publish().await;
    world.endpoint.called(1).await;
    world.store.fail_next_commit();
    let lost = world.engine.subscription(world.tenant, subscription, Command::Disable { reason: None }, Meta::system());
    assert!(lost.await.is_err());
    world.succeeded(subscription, 1).await;
    world.let_pass(120_000).await;
    assert_eq!(world.endpoint.times(), [0, 1_000, 62_000]);
}

#[tokio::test(start_paused = true)]
async fn failures_far_apart_do_not_lengthen_the_rest() {
    let world = World::new().await;
    let subscription = world.subscribe().await;
    for _ in 0..8 {
        // Never idle for long enough to leave memory.
        for _ in 0..10 {
            world.publish().await;
            world.let_pass(60_000).await;
        }
        let sent = world.endpoint.calls().len();
        world.store.fail_commit_after(1);
        let published_ms = world.now_ms();
        world.publish().await;
        let calls = world.endpoint.called(sent + 1).await;
        let delay_ms = calls[sent].at_ms - published_ms;
        assert!(delay_ms <= 5_000, "{delay_ms}");
    }
    world.succeeded(subscription, 88).await;
}

#[tokio::test(start_paused = true)]
async fn an_attempt_that_waited_through_its_subscriptions_fall_is_made_once() {
    let world = World::with(Config { max_attempts: 1, ..Config::default() }).await;
    let other = world.subscribe_to(&["user.updated"]).await;
    let subscription = world.subscribe().await;
    world.endpoint.answers([Answer::Held]);
    world.publish_as("user.updated").await;
    world.endpoint.called(1).await;
    world.publish().await;
    world.let_pass(1_000).await;
    world.store.fail_next_commit();
    let disable = Command::Disable { reason: None };
    let lost = world.engine.subscription(world.tenant, subscription, disable, Meta::system()).await;
    assert!(lost.is_err());
    // It is back, and waits for its turn anew.
    world.let_pass(10_000).await;
    world.endpoint.release(1);
    world.succeeded(other, 1).await;
    world.succeeded(subscription, 1).await;
    world.let_pass(60_000).await;
    assert_eq!(world.endpoint.calls().len(), 2);
}

#[tokio::test(start_paused = true)]
async fn a_full_disk_loses_nothing_sends_nothing_that_cannot_be_recorded_and_is_soon_forgotten() {
    let world = World::new().await;
    let subscriptions = [world.subscribe().await, world.subscribe().await];
    world.endpoint.answers([Answer::Late(200, 20); 100]);
    for _ in 0..50 {
        world.publish().await;
    }
    world.let_pass(10).await;
    world.store.fill(true);
    world.let_pass(1_000).await;
    let sent = world.endpoint.calls().len();
    world.let_pass(600_000).await;
    assert_eq!(world.endpoint.calls().len(), sent);
    assert!(world.try_publish("{}", None).await.is_err());
    world.store.fill(false);
    let full_until_ms = world.now_ms();
    for subscription in subscriptions {
        world.succeeded(subscription, 50).await;
    }
    let recovery_ms = world.now_ms() - full_until_ms;
    assert!(recovery_ms < 35_000, "{recovery_ms}");
}

#[test]
fn a_shaky_disk_loses_nothing_and_doubles_nothing() {
    for seed in 1..=12 {
        println!("seed {seed}");
        life(async || shaky_life(seed).await);
    }
}

async fn shaky_life(seed: u64) {
    let config = Config { idle_after_ms: 100, match_credits: 16, max_attempts: 4, regions: 2, ..Config::default() };
    let world = World::with(config).await;
    let mut subscriptions = vec![];
    for _ in 0..4 {
        subscriptions.push(world.subscribe().await);
    }
    let random = || world.clock.random_u64();
    for _ in 0..seed {
        random();
    }
    world.endpoint.answers((0..200).map(|_| match random() % 8 {
        0 => Answer::Status(500),
        1 => Answer::Panic,
        2 => Answer::Silence(3_000),
        _ => Answer::Late(200, random() % 300),
    }));
    world.store.take_for_a_commit(seed % 4);
    world.store.shake(12, seed);
    let publisher = async |n: u64| {
        let mut accepted = vec![];
        for part in 0..15 {
            world.let_pass(random() % 400).await;
            let (data, key) = (format!(r#"{{"part":{part}}}"#), format!("{n}-{part}"));
            let published = loop {
                match world.try_publish(&data, Some(&key)).await {
                    Ok(published) => break published.message,
                    Err(_) => world.let_pass(random() % 50).await,
                }
            };
            accepted.push(published.to_string());
        }
        accepted
    };
    let meddler = async {
        for _ in 0..60 {
            world.let_pass(random() % 150).await;
            let id = subscriptions[random() as usize % subscriptions.len()];
            let change = if random() % 2 == 0 { URL } else { OTHER_URL };
            let update = Update { url: Some(change.into()), ..Update::default() };
            // May fail with the disk.
            drop(world.engine.update_subscription(world.tenant, id, update, Sealable::default(), Meta::system()).await);
        }
    };
    let (mut accepted, ()) =
        tokio::join!(async { futures_util::future::join_all((0..4).map(publisher)).await.concat() }, meddler);
    world.let_pass(2_000).await;
    world.store.fill(false);
    world.let_pass(600_000).await;
    accepted.sort();
    for subscription in subscriptions {
        let events = world.deliveries(subscription).await;
        let mut owed: Vec<_> = events
            .iter()
            .filter_map(|event| match event {
                DeliveryEvent::Scheduled(scheduled) => Some(scheduled.message.to_string()),
                DeliveryEvent::AttemptFailed(_)
                | DeliveryEvent::Succeeded(_)
                | DeliveryEvent::Exhausted(_)
                | DeliveryEvent::Expired(_)
                | DeliveryEvent::Rescheduled(_)
                | DeliveryEvent::Cancelled(_)
                | DeliveryEvent::PeriodOpened(_)
                | DeliveryEvent::Backfilled(_)
                | DeliveryEvent::JobAdvanced(_)
                | DeliveryEvent::Carried(_) => None,
            })
            .collect();
        owed.sort();
        assert_eq!(owed, accepted);
        let ended =
            events.iter().filter(|event| matches!(event, DeliveryEvent::Succeeded(_) | DeliveryEvent::Exhausted(_)));
        assert_eq!(ended.count(), accepted.len());
    }
    let head = world.store.head(world.shard()).await.unwrap();
    assert_eq!(world.store.checkpoint("matcher", world.shard()).await.unwrap(), Some(head));
    assert_eq!(world.store.wakeups(world.shard(), None, 10).await.unwrap(), []);
}
