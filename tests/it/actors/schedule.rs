//! When attempts are made.

use tidings::domain::event::DeliveryEvent;

use crate::support::simulation::{Answer, World};

#[tokio::test(start_paused = true)]
async fn a_published_message_is_delivered_at_once() {
    let world = World::new().await;
    let subscription = world.subscribe().await;
    let published = world.publish().await;
    world.succeeded(subscription, 1).await;
    let calls = world.endpoint.calls();
    assert_eq!(world.endpoint.times(), [0]);
    assert_eq!(calls[0].header("webhook-id"), published.message.to_string());
    assert_eq!(calls[0].header("X-Webhook-Event"), "user.created");
}

#[tokio::test(start_paused = true)]
async fn axie_tries_five_times_2_4_8_and_16_seconds_after_each_failure_and_then_gives_up() {
    // A29, A31
    let world = World::new().await;
    let subscription = world.subscribe().await;
    world.endpoint.answers([Answer::Status(500); 6]);
    world.publish().await;
    let exhausted = |events: &[DeliveryEvent]| matches!(events.last(), Some(DeliveryEvent::Exhausted(_)));
    world.recorded(subscription, exhausted).await;
    world.let_pass(3_600_000).await;
    assert_eq!(world.endpoint.times(), [0, 2_000, 6_000, 14_000, 30_000]);
}
