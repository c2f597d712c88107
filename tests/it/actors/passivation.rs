//! Subscriptions leave memory when idle, and come back without anybody noticing.

use tidings::actors::Config;
use tidings::domain::event::DeliveryEvent;
use tidings::domain::subscription::Command;
use tidings::event_store::EventReader;
use tidings::execute::deliveries_stream;

use crate::support::simulation::{Answer, World};

fn hasty() -> Config {
    Config { idle_after_ms: 100, ..Config::default() }
}

#[tokio::test(start_paused = true)]
async fn a_subscription_that_leaves_memory_between_retries_keeps_its_schedule() {
    // A29
    let world = World::with(hasty()).await;
    let subscription = world.subscribe().await;
    world.endpoint.answers([Answer::Status(500); 5]);
    world.publish().await;
    let exhausted = |events: &[DeliveryEvent]| matches!(events.last(), Some(DeliveryEvent::Exhausted(_)));
    world.recorded(subscription, exhausted).await;
    assert_eq!(world.endpoint.times(), [0, 2_000, 6_000, 14_000, 30_000]);
    let loads = world.store.reads_of(&deliveries_stream(subscription));
    assert!(loads >= 4, "loaded {loads} times");
}

#[tokio::test(start_paused = true)]
async fn a_subscription_that_owes_nothing_leaves_no_wake_up_behind() {
    let world = World::with(hasty()).await;
    let subscription = world.subscribe().await;
    world.publish().await;
    world.succeeded(subscription, 1).await;
    assert_eq!(world.store.wakeups(world.shard(), None, 10).await.unwrap().len(), 1);
    world.let_pass(1_000).await;
    assert_eq!(world.store.wakeups(world.shard(), None, 10).await.unwrap(), []);
}

#[tokio::test(start_paused = true)]
async fn an_attempt_under_way_keeps_its_subscription_in_memory() {
    let world = World::with(hasty()).await;
    let subscription = world.subscribe().await;
    world.endpoint.answers([Answer::Late(200, 30_000)]);
    world.publish().await;
    world.succeeded(subscription, 1).await;
    assert_eq!(world.endpoint.times(), [0]);
    // When it was made there was nothing to be read.
    assert_eq!(world.store.reads_of(&deliveries_stream(subscription)), 0);
}

#[tokio::test(start_paused = true)]
async fn whatever_comes_while_it_leaves_is_done_once() {
    let world = World::with(Config { idle_after_ms: 40, ..Config::default() }).await;
    let subscription = world.subscribe().await;
    let mut count = 0;
    for pause_ms in (30..80).cycle().take(400) {
        world.let_pass(pause_ms).await;
        let (done, _) = tokio::join!(world.command(subscription, Command::Enable), world.publish());
        assert!(!done.changed);
        count += 1;
    }
    world.succeeded(subscription, count).await;
    assert_eq!(world.endpoint.calls().len(), count);
    assert!(world.store.reads_of(&deliveries_stream(subscription)) > 10);
}

#[tokio::test(start_paused = true)]
async fn a_retry_that_falls_due_at_the_moment_of_leaving_is_made_once() {
    let world = World::with(Config { idle_after_ms: 1_600, regions: 1, ..Config::default() }).await;
    let subscription = world.subscribe().await;
    let other = world.subscribe_to(&["user.updated"]).await;
    world.endpoint.answers([Answer::Status(500), Answer::Late(200, 5_000)]);
    world.publish().await;
    // Makes the region set its alarm anew, so that at 2000 ms the one for idleness goes off first.
    world.let_pass(1_700).await;
    world.enable(other).await;
    world.succeeded(subscription, 1).await;
    world.let_pass(60_000).await;
    assert_eq!(world.endpoint.times(), [0, 2_000]);
}
