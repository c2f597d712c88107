//! What people do to a subscription takes effect at once, also on what it owes already.

use tidings::actors::Config;
use tidings::domain::event::DeliveryEvent;
use tidings::domain::profile::{self, Profile, UrlAsOf};
use tidings::domain::secret::Secret;
use tidings::domain::signing;
use tidings::execute::{Meta, subscription_stream};

use crate::support::simulation::{Answer, Call, OTHER_URL, URL, World};

#[tokio::test(start_paused = true)]
async fn a_waiting_retry_stops_when_its_subscription_is_disabled_and_goes_on_when_it_is_enabled() {
    // A13
    let world = World::new().await;
    let subscription = world.subscribe().await;
    world.endpoint.answers([Answer::Status(500)]);
    world.publish().await;
    world.let_pass(1_000).await;
    world.disable(subscription).await;
    world.let_pass(3_600_000).await;
    assert_eq!(world.endpoint.times(), [0]);
    world.enable(subscription).await;
    world.succeeded(subscription, 1).await;
    assert_eq!(world.endpoint.times(), [0, 3_601_000]);
}

#[tokio::test(start_paused = true)]
async fn a_retry_that_is_not_due_yet_keeps_its_time_through_a_short_pause() {
    // A13
    let world = World::new().await;
    let subscription = world.subscribe().await;
    world.endpoint.answers([Answer::Status(500)]);
    world.publish().await;
    world.let_pass(500).await;
    world.disable(subscription).await;
    world.let_pass(500).await;
    world.enable(subscription).await;
    world.succeeded(subscription, 1).await;
    assert_eq!(world.endpoint.times(), [0, 2_000]);
}

#[tokio::test(start_paused = true)]
async fn what_is_published_while_disabled_is_never_sent() {
    // A11, S7
    let world = World::new().await;
    let subscription = world.subscribe().await;
    world.disable(subscription).await;
    let missed = world.publish().await;
    world.let_pass(10_000).await;
    world.enable(subscription).await;
    let sent = world.publish().await;
    world.succeeded(subscription, 1).await;
    world.let_pass(3_600_000).await;
    let calls = world.endpoint.calls();
    assert_eq!(calls.len(), 1);
    assert_eq!(calls[0].header("webhook-id"), sent.message.to_string());
    assert_ne!(missed.message, sent.message);
}

#[tokio::test(start_paused = true)]
async fn a_waiting_retry_follows_the_new_url() {
    // A13
    let world = World::new().await;
    let subscription = world.subscribe().await;
    world.endpoint.answers([Answer::Status(500)]);
    world.publish().await;
    world.let_pass(1_000).await;
    world.move_to(subscription, OTHER_URL).await;
    world.succeeded(subscription, 1).await;
    let sent: Vec<_> = world.endpoint.calls().into_iter().map(|call| (call.at_ms, call.url)).collect();
    assert_eq!(sent, [(0, URL.to_owned()), (2_000, OTHER_URL.to_owned())]);
}

#[tokio::test(start_paused = true)]
async fn a_waiting_retry_is_signed_with_the_new_secret_alone() {
    // A14, A26
    let world = World::new().await;
    let subscription = world.subscribe().await;
    world.endpoint.answers([Answer::Status(500)]);
    world.publish().await;
    world.let_pass(1_000).await;
    let rotated = world.engine.rotate_secret(world.tenant, subscription, None, None, Meta::system()).await;
    let (secret, _) = rotated.unwrap();
    world.succeeded(subscription, 1).await;
    let calls = world.endpoint.calls();
    assert!(!verifies(&calls[0], &secret));
    assert!(verifies(&calls[1], &secret));
    assert!(!calls[1].header("webhook-signature").contains(' '));
}

#[tokio::test(start_paused = true)]
async fn deleting_stops_everything_at_once() {
    // A15
    let world = World::new().await;
    let subscription = world.subscribe().await;
    world.endpoint.answers([Answer::Status(500), Answer::Held]);
    world.publish().await;
    world.let_pass(500).await;
    world.publish().await;
    world.endpoint.called(2).await;
    let before = world.deliveries(subscription).await;
    world.engine.delete_subscription(world.tenant, subscription, None, Meta::system()).await.unwrap();
    world.endpoint.release(1);
    world.publish().await;
    world.let_pass(3_600_000).await;
    assert_eq!(world.endpoint.calls().len(), 2);
    assert_eq!(world.deliveries(subscription).await, before);
}

#[tokio::test(start_paused = true)]
async fn an_attempt_under_way_when_its_subscription_is_disabled_still_counts() {
    let world = World::new().await;
    let subscription = world.subscribe().await;
    world.endpoint.answers([Answer::Held]);
    world.publish().await;
    world.endpoint.called(1).await;
    world.disable(subscription).await;
    world.endpoint.release(1);
    world.succeeded(subscription, 1).await;
}

/// A system that makes one attempt at a time, and is making one that does not end.
async fn busy_world() -> World {
    let world = World::with(Config { max_attempts: 1, ..Config::default() }).await;
    world.subscribe().await;
    world.endpoint.answers([Answer::Held]);
    world.publish().await;
    world.endpoint.called(1).await;
    world
}

#[tokio::test(start_paused = true)]
async fn an_attempt_that_waits_for_its_turn_follows_the_new_url() {
    // A13
    let world = busy_world().await;
    let subscription = world.subscribe_to(&["user.updated"]).await;
    world.publish_as("user.updated").await;
    world.recorded(subscription, |events| events.len() == 1).await;
    world.let_pass(1_000).await;
    world.move_to(subscription, OTHER_URL).await;
    world.endpoint.release(1);
    world.succeeded(subscription, 1).await;
    let urls: Vec<_> = world.endpoint.calls().into_iter().map(|call| call.url).collect();
    assert_eq!(urls, [URL, OTHER_URL]);
}

#[tokio::test(start_paused = true)]
async fn an_attempt_that_waits_for_its_turn_is_signed_with_the_new_secret() {
    // A14
    let world = busy_world().await;
    let subscription = world.subscribe_to(&["user.updated"]).await;
    world.publish_as("user.updated").await;
    world.let_pass(1_000).await;
    let rotated = world.engine.rotate_secret(world.tenant, subscription, None, None, Meta::system()).await;
    world.endpoint.release(1);
    let events = world.recorded(subscription, |events| events.len() == 2).await;
    assert!(matches!(events[1], DeliveryEvent::Succeeded(_)), "{events:?}");
    assert!(verifies(&world.endpoint.calls()[1], &rotated.unwrap().0));
}

#[tokio::test(start_paused = true)]
async fn an_attempt_that_waits_for_its_turn_is_not_made_once_disabled_or_deleted() {
    // A13, A15
    let world = busy_world().await;
    let [disabled, deleted] =
        [world.subscribe_to(&["user.updated"]).await, world.subscribe_to(&["user.updated"]).await];
    world.publish_as("user.updated").await;
    world.let_pass(1_000).await;
    world.disable(disabled).await;
    world.engine.delete_subscription(world.tenant, deleted, None, Meta::system()).await.unwrap();
    world.endpoint.release(1);
    world.let_pass(3_600_000).await;
    assert_eq!(world.endpoint.calls().len(), 1);
    world.enable(disabled).await;
    world.succeeded(disabled, 1).await;
}

/// A system whose profile keeps the URL as of the trigger.
async fn world_that_keeps_urls() -> World {
    let known = profile::find("axie-v1").unwrap().clone();
    profile::add(Profile { name: "url-of-trigger-v1".into(), url_as_of: UrlAsOf::Trigger, ..known }).unwrap();
    World::under("url-of-trigger-v1", Config::default()).await
}

#[tokio::test(start_paused = true)]
async fn under_a_profile_that_says_so_a_waiting_retry_keeps_the_url_of_its_trigger_and_has_the_new_secret() {
    // A14
    let world = world_that_keeps_urls().await;
    let subscription = world.subscribe().await;
    world.endpoint.answers([Answer::Status(500)]);
    world.publish().await;
    world.let_pass(500).await;
    world.move_to(subscription, OTHER_URL).await;
    let rotated = world.engine.rotate_secret(world.tenant, subscription, None, None, Meta::system()).await;
    world.endpoint.answers([Answer::Status(500)]);
    world.publish().await;
    world.succeeded(subscription, 2).await;
    let calls = world.endpoint.calls();
    let sent: Vec<_> = calls.iter().map(|call| (call.at_ms, call.url.as_str())).collect();
    assert_eq!(sent, [(0, URL), (500, OTHER_URL), (2_000, URL), (2_500, OTHER_URL)]);
    assert!(verifies(&calls[2], &rotated.unwrap().0));
}

#[tokio::test(start_paused = true)]
async fn nothing_is_sent_that_was_being_prepared_when_its_subscription_was_deleted_or_disabled() {
    // A13, A15
    for deletes in [true, false] {
        let world = world_that_keeps_urls().await;
        let subscription = world.subscribe().await;
        world.endpoint.answers([Answer::Status(500)]);
        world.publish().await;
        world.let_pass(500).await;
        world.move_to(subscription, OTHER_URL).await;
        // The second attempt has its permit, and reads where to go.
        world.store.hold_reads_of(Some(subscription_stream(subscription)));
        world.let_pass(2_000).await;
        assert_eq!(world.endpoint.times(), [0]);
        match deletes {
            true => {
                drop(world.engine.delete_subscription(world.tenant, subscription, None, Meta::system()).await.unwrap())
            }
            false => world.disable(subscription).await,
        }
        world.store.hold_reads_of(None);
        world.let_pass(3_600_000).await;
        assert_eq!(world.endpoint.times(), [0], "it was sent behind the answer");
        if !deletes {
            world.enable(subscription).await;
            world.succeeded(subscription, 1).await;
        }
    }
}

fn verifies(call: &Call, secret: &Secret) -> bool {
    let header = |name: &str| Some(call.header(name).to_owned());
    signing::verify(profile::find("axie-v1").unwrap(), header, call.body.as_bytes(), secret).is_ok()
}
