//! Rules of a subscription's own of when attempts are made again, in paused time.

use std::sync::Arc;

use tidings::actors::NewSubscription;
use tidings::domain::event::DeliveryEvent;
use tidings::domain::id::SubscriptionId;
use tidings::domain::retry_policy::{RetryPolicy, SuccessRule};
use tidings::domain::subscription::{Command, Update};

use crate::support::simulation::{Answer, URL, World, life, new_subscription};

fn policy(max_attempts: Option<u32>, delays_s: Option<&[u32]>) -> RetryPolicy {
    RetryPolicy { max_attempts, delays_s: delays_s.map(<[_]>::to_vec), ..RetryPolicy::default() }
}

async fn subscribe(world: &World, policy: RetryPolicy) -> SubscriptionId {
    let new = new_subscription(URL, &["user.created"]);
    world.subscribe_as(NewSubscription { retry_policy: Some(policy), ..new }).await
}

async fn set(world: &World, subscription: SubscriptionId, policy: Option<RetryPolicy>) {
    let update = Update { retry_policy: Some(policy), ..Update::default() };
    world.command(subscription, Command::Update(update)).await;
}

/// Lets the one delivery come to its end, and says when it was attempted.
async fn attempts(world: &World, subscription: SubscriptionId) -> Vec<u64> {
    let failed = |events: &[DeliveryEvent]| matches!(events.last(), Some(DeliveryEvent::Exhausted(_)));
    world.recorded(subscription, failed).await;
    world.let_pass(3_600_000).await;
    world.endpoint.times()
}

#[tokio::test(start_paused = true)]
async fn an_endpoint_that_fails_is_called_as_often_and_when_the_policy_says() {
    // A29, C2
    for (own, times) in [
        (policy(Some(1), None), vec![0]),
        (policy(Some(3), None), vec![0, 2_000, 6_000]),
        (policy(None, Some(&[10, 0])), vec![0, 10_000, 10_000]),
        (policy(Some(4), Some(&[600])), vec![0, 600_000, 1_200_000, 1_800_000]),
    ] {
        let world = World::new().await;
        world.endpoint.answers([Answer::Status(500); 9]);
        let subscription = subscribe(&world, own).await;
        world.publish().await;
        assert_eq!(attempts(&world, subscription).await, times);
    }
}

#[tokio::test(start_paused = true)]
async fn a_policy_that_changes_holds_for_the_retry_that_waits() {
    // A13
    let world = World::new().await;
    world.endpoint.answers([Answer::Status(500); 9]);
    let subscription = subscribe(&world, policy(None, Some(&[60, 60, 60, 60]))).await;
    world.publish().await;
    world.let_pass(1_000).await;
    set(&world, subscription, Some(policy(Some(3), Some(&[5])))).await;
    // What is due is made when it is due; then the new delays count.
    assert_eq!(attempts(&world, subscription).await, [0, 60_000, 65_000]);
}

#[tokio::test(start_paused = true)]
async fn without_its_policy_the_profiles_schedule_goes_on() {
    let world = World::new().await;
    world.endpoint.answers([Answer::Status(500); 9]);
    let subscription = subscribe(&world, policy(None, Some(&[60, 60]))).await;
    world.publish().await;
    world.let_pass(1_000).await;
    set(&world, subscription, None).await;
    assert_eq!(attempts(&world, subscription).await, [0, 60_000, 64_000, 72_000, 88_000]);
}

#[test]
fn a_policy_outlives_a_restart() {
    let (left, subscription) = life(async || {
        let world = World::new().await;
        world.endpoint.answers([Answer::Status(500)]);
        let subscription = subscribe(&world, policy(Some(3), Some(&[60]))).await;
        world.publish().await;
        world.let_pass(1_000).await;
        (Arc::clone(&world.store), subscription)
    });
    life(async || {
        let world = World::again(&left, 1_500).await;
        world.endpoint.answers([Answer::Status(500); 9]);
        assert_eq!(attempts(&world, subscription).await, [60_000, 120_000]);
    });
}

#[tokio::test(start_paused = true)]
async fn an_attempt_takes_as_long_and_ends_as_well_as_the_policy_says() {
    // A30, S19
    let world = World::new().await;
    let own = RetryPolicy { timeout_s: Some(7), success: Some(SuccessRule::Any2xx), ..policy(None, Some(&[1])) };
    world.endpoint.answers([Answer::Silence(7_000), Answer::Status(204)]);
    let subscription = subscribe(&world, own).await;
    world.publish().await;
    world.succeeded(subscription, 1).await;
    assert_eq!(world.endpoint.times(), [0, 8_000]);
    let limits: Vec<_> = world.endpoint.calls().iter().map(|call| call.timeout_ms).collect();
    assert_eq!(limits, [7_000, 7_000]);
}
