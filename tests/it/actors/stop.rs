//! Ending in order.

use std::sync::Arc;

use tidings::actors::Config;
use tidings::event_store::EventStore;

use crate::support::simulation::{Answer, World, life};

#[test]
fn attempts_under_way_come_to_their_end_and_are_recorded() {
    let (left, subscription) = life(async || {
        let world = World::new().await;
        let subscription = world.subscribe().await;
        world.endpoint.answers([Answer::Late(200, 5_000), Answer::Late(200, 20_000)]);
        world.publish().await;
        world.publish().await;
        world.endpoint.called(2).await;
        world.running.stop().await;
        (Arc::clone(&world.store), subscription)
    });
    life(async || {
        let world = World::again(&left, 60_000).await;
        world.let_pass(3_600_000).await;
        assert_eq!(world.endpoint.times(), [0; 0]);
        world.succeeded(subscription, 2).await;
    });
}

#[test]
fn attempts_that_wait_for_their_turn_are_not_begun_and_not_lost() {
    let (left, subscription) = life(async || {
        let world = World::with(Config { max_attempts: 1, ..Config::default() }).await;
        let subscription = world.subscribe().await;
        world.endpoint.answers([Answer::Late(200, 5_000); 4]);
        for _ in 0..4 {
            world.publish().await;
        }
        world.endpoint.called(1).await;
        world.let_pass(1_000).await;
        world.running.stop().await;
        assert_eq!(world.endpoint.times(), [0]);
        (Arc::clone(&world.store), subscription)
    });
    life(async || {
        let world = World::again(&left, 60_000).await;
        world.succeeded(subscription, 4).await;
        assert_eq!(world.endpoint.times(), [60_000; 3]);
    });
}

#[tokio::test(start_paused = true)]
async fn an_attempt_that_does_not_end_is_not_waited_for_for_ever() {
    let world = World::new().await;
    world.subscribe().await;
    world.endpoint.answers([Answer::Held]);
    world.publish().await;
    world.endpoint.called(1).await;
    let clock = Arc::clone(&world.clock);
    let began = clock.now();
    world.running.stop().await;
    assert_eq!(clock.now().ms_since(began), 30_000);
}

#[tokio::test(start_paused = true)]
async fn nothing_of_the_system_is_left_behind() {
    let world = World::new().await;
    let subscription = world.subscribe().await;
    world.publish().await;
    world.succeeded(subscription, 1).await;
    let World { store, log, endpoint, candidates, engine, running, .. } = world;
    running.stop().await;
    drop((log, endpoint, candidates, engine));
    let store: Arc<dyn EventStore> = store;
    let left = Arc::downgrade(&store);
    drop(store);
    // Tasks that were told to end do so at their next turn.
    tokio::time::sleep(std::time::Duration::from_secs(60)).await;
    assert_eq!(left.strong_count(), 0);
}
