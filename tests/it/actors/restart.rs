//! The process ends without notice and is started anew over the same log.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

use tidings::domain::subscription::Command;
use tidings::execute::deliveries_stream;

use crate::support::simulation::{Answer, Call, World, life};
use crate::support::watched_store::WatchedStore;

/// A life that ends at the end of `work`, and what it left.
fn crash<T>(work: impl AsyncFnOnce(&World) -> T) -> (Arc<WatchedStore>, T) {
    life(async || {
        let world = World::new().await;
        let result = work(&world).await;
        (Arc::clone(&world.store), result)
    })
}

fn same_message(one: &Call, other: &Call) -> bool {
    (one.header("webhook-id"), &one.body) == (other.header("webhook-id"), &other.body)
}

#[test]
fn a_retry_that_was_waited_for_is_made_at_its_time_with_the_same_id_and_bytes() {
    let (left, (subscription, first)) = crash(async |world| {
        let subscription = world.subscribe().await;
        world.endpoint.answers([Answer::Status(500)]);
        world.publish().await;
        world.let_pass(1_000).await;
        (subscription, world.endpoint.calls().remove(0))
    });
    life(async || {
        let world = World::again(&left, 1_500).await;
        world.succeeded(subscription, 1).await;
        assert_eq!(world.endpoint.times(), [2_000]);
        assert!(same_message(&first, &world.endpoint.calls()[0]));
    });
}

#[test]
fn a_retry_that_fell_due_meanwhile_is_made_at_once_and_counts_on() {
    let (left, subscription) = crash(async |world| {
        let subscription = world.subscribe().await;
        world.endpoint.answers([Answer::Status(500)]);
        world.publish().await;
        world.let_pass(1_000).await;
        subscription
    });
    life(async || {
        let world = World::again(&left, 60_000).await;
        world.endpoint.answers([Answer::Status(500)]);
        world.succeeded(subscription, 1).await;
        assert_eq!(world.endpoint.times(), [60_000, 64_000]);
    });
}

#[test]
fn an_attempt_whose_outcome_was_lost_is_made_again_with_the_same_id_and_bytes() {
    let (left, (subscription, first)) = crash(async |world| {
        let subscription = world.subscribe().await;
        world.endpoint.answers([Answer::Held]);
        world.publish().await;
        (subscription, world.endpoint.called(1).await.remove(0))
    });
    life(async || {
        let world = World::again(&left, 5_000).await;
        world.succeeded(subscription, 1).await;
        assert_eq!(world.endpoint.times(), [5_000]);
        assert!(same_message(&first, &world.endpoint.calls()[0]));
    });
}

#[test]
fn what_was_recorded_as_delivered_is_not_sent_again() {
    let (left, subscription) = crash(async |world| {
        let subscription = world.subscribe().await;
        world.publish().await;
        world.succeeded(subscription, 1).await;
        subscription
    });
    life(async || {
        let world = World::again(&left, 5_000).await;
        world.let_pass(3_600_000).await;
        assert_eq!(world.endpoint.times(), [0; 0]);
        assert_eq!(world.deliveries(subscription).await.len(), 2);
    });
}

#[test]
fn a_subscription_that_owes_nothing_is_not_loaded() {
    let (left, [idle, owing]) = crash(async |world| {
        let idle = world.subscribe_to(&["user.updated"]).await;
        let owing = world.subscribe().await;
        world.publish_as("user.updated").await;
        world.succeeded(idle, 1).await;
        // Long enough to leave memory, and with it the note that it was to be woken.
        world.let_pass(600_000).await;
        world.endpoint.answers([Answer::Status(500)]);
        world.publish().await;
        world.endpoint.called(2).await;
        world.let_pass(1_000).await;
        [idle, owing]
    });
    life(async || {
        let world = World::again(&left, 700_000).await;
        world.succeeded(owing, 1).await;
        world.let_pass(10_000).await;
        assert_eq!(world.store.reads_of(&deliveries_stream(idle)), 0);
    });
}

#[test]
fn what_was_held_while_disabled_is_sent_after_a_restart_once_enabled() {
    // A13
    let (left, subscription) = crash(async |world| {
        let subscription = world.subscribe().await;
        world.endpoint.answers([Answer::Status(500)]);
        world.publish().await;
        world.let_pass(1_000).await;
        world.disable(subscription).await;
        subscription
    });
    life(async || {
        let world = World::again(&left, 60_000).await;
        world.let_pass(60_000).await;
        assert_eq!(world.endpoint.times(), [0; 0]);
        world.command(subscription, Command::Enable).await;
        world.succeeded(subscription, 1).await;
        assert_eq!(world.endpoint.times(), [120_000]);
    });
}

/// Two messages to two subscriptions, one attempt of which fails: in all of it, some commit is the last one.
async fn work(world: &World) -> Vec<String> {
    world.endpoint.answers([Answer::Status(500)]);
    let mut accepted = Vec::new();
    for _ in 0..2 {
        let publishing = tokio::time::timeout(Duration::from_secs(1), world.publish());
        accepted.extend(publishing.await.ok().map(|published| published.message.to_string()));
    }
    world.let_pass(60_000).await;
    accepted
}

#[test]
fn no_accepted_message_is_lost_whichever_commit_was_the_last_one() {
    let commits = life(async || {
        let world = World::new().await;
        world.subscribe().await;
        world.subscribe().await;
        let before = world.store.commits();
        assert_eq!(work(&world).await.len(), 2);
        world.store.commits() - before
    });
    assert!(commits >= 6, "{commits} commits");
    for (last, written) in (0..commits).flat_map(|last| [(last, false), (last, true)]) {
        let (left, (subscriptions, accepted)) = crash(async |world| {
            let subscriptions = [world.subscribe().await, world.subscribe().await];
            world.store.hang_after(last, written);
            (subscriptions, work(world).await)
        });
        life(async || {
            let world = World::again(&left, 100_000).await;
            world.let_pass(60_000).await;
            for subscription in subscriptions {
                let delivered = world.messages_delivered(subscription).await;
                let lost: Vec<_> = accepted.iter().filter(|message| !delivered.contains(message)).collect();
                assert!(lost.is_empty(), "lost {lost:?} when commit {last} was the last one, written: {written}");
                let distinct: HashSet<_> = delivered.iter().collect();
                assert_eq!(distinct.len(), delivered.len(), "two deliveries of one message after commit {last}");
            }
        });
    }
}

#[test]
fn many_crashes_in_a_row_lose_nothing() {
    let (mut left, (subscription, mut published)) = crash(async |world| {
        let subscription = world.subscribe().await;
        (subscription, vec![world.publish().await.message.to_string()])
    });
    for round in 1..=20 {
        left = life(async || {
            let world = World::again(&left, round * 1_000).await;
            // Ends at another point in each round: in an attempt, during a wait, between two commits.
            world.endpoint.answers([Answer::Late(500, 7), Answer::Held, Answer::Status(500)]);
            world.store.hang_after(1 + round as usize % 4, round % 2 == 0);
            let publishing = tokio::time::timeout(Duration::from_secs(1), world.publish());
            published.extend(publishing.await.ok().map(|published| published.message.to_string()));
            world.let_pass(round % 9).await;
            Arc::clone(&world.store)
        });
    }
    life(async || {
        let world = World::again(&left, 60_000).await;
        world.let_pass(120_000).await;
        let delivered = world.messages_delivered(subscription).await;
        assert!(published.len() > 10);
        assert!(published.iter().all(|message| delivered.contains(message)));
        assert_eq!(delivered.iter().collect::<HashSet<_>>().len(), delivered.len());
    });
}
