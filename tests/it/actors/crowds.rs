//! Many subscriptions with something to do at once: they wait for one another, and nothing falls over.

use std::sync::Arc;

use crate::support::simulation::{Answer, World, life};

/// More than there is room for in the log's queue, many times over.
const MANY: usize = 100;

async fn subscribe_many(world: &World) {
    for _ in 0..MANY {
        world.subscribe().await;
    }
}

#[tokio::test(start_paused = true)]
async fn a_message_for_more_than_the_append_queue_takes_is_sent_to_all_without_a_rest() {
    let world = World::with_room_for(4).await;
    subscribe_many(&world).await;
    world.publish().await;
    world.endpoint.called(MANY).await;
    world.let_pass(60_000).await;
    // Whoever fell for want of room would have rested for a second, or sent again.
    assert_eq!(world.endpoint.times(), [0; MANY]);
}

#[tokio::test(start_paused = true)]
async fn a_publication_does_not_wait_behind_the_crowd_that_the_one_before_it_woke() {
    let world = World::with_room_for(4).await;
    subscribe_many(&world).await;
    let before_ms = world.now_ms();
    world.store.take_for_a_commit(10);
    world.publish().await;
    world.let_pass(15).await;
    world.publish().await;
    let (published_ms, calls) = (world.now_ms() - before_ms, world.endpoint.calls().len());
    assert!(published_ms <= 60, "{published_ms} ms, with {calls} of {MANY} begun");
    assert!(calls < MANY, "{calls}");
    world.endpoint.called(2 * MANY).await;
}

#[test]
fn all_that_is_due_after_a_restart_is_sent_at_once_however_many_owe_it() {
    let left = life(async || {
        let world = World::new().await;
        subscribe_many(&world).await;
        world.endpoint.answers([Answer::Status(500); MANY]);
        world.publish().await;
        world.endpoint.called(MANY).await;
        world.let_pass(1_000).await;
        Arc::clone(&world.store)
    });
    life(async || {
        let world = World::again(&left, 5_000).await;
        world.endpoint.called(MANY).await;
        world.let_pass(60_000).await;
        assert_eq!(world.endpoint.times(), [5_000; MANY]);
    });
}
