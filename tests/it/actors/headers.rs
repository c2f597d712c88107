//! Custom headers (S8): of which attempt they are part, and how long their values are kept.

use tidings::actors::{Config, NewSubscription, Sealable};
use tidings::domain::event::DeliveryEvent;
use tidings::domain::filter::EventType;
use tidings::domain::header::GivenHeaders;
use tidings::domain::id::SubscriptionId;
use tidings::domain::outcome::{FailureClass, FailureCode};
use tidings::domain::profile;
use tidings::domain::subscription::Update;
use tidings::event_store::{EventReader, Position};
use tidings::execute::Meta;
use tidings::execute::vault::Binding;
use tidings::key_store::KeyStore;

use crate::support::simulation::{Answer, Call, URL, World, life, new_subscription};

const PROFILE: &str = "axissynapse-v1";

fn given(pairs: &[(&str, &str)]) -> GivenHeaders {
    GivenHeaders::of(pairs.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())))
}

fn names(call: &Call) -> Vec<&str> {
    call.headers.iter().map(|(name, _)| name.as_str()).collect()
}

async fn world() -> World {
    World::under(PROFILE, Config::default()).await
}

async fn subscribe(world: &World, pairs: &[(&str, &str)]) -> SubscriptionId {
    world.subscribe_as(NewSubscription { headers: given(pairs), ..new_subscription(URL, &["**"]) }).await
}

async fn set(world: &World, id: SubscriptionId, pairs: &[(&str, &str)]) -> bool {
    let given = Sealable { headers: Some(given(pairs)), ..Sealable::default() };
    let done = world.engine.update_subscription(world.tenant, id, Update::default(), given, Meta::system()).await;
    done.unwrap().changed
}

/// Under which the headers are sealed.
async fn sealed(world: &World, id: SubscriptionId) -> Option<Binding> {
    let headers = world.engine.settings(world.tenant, id).await.unwrap().headers;
    headers.map(|headers| Binding::custom_headers(world.tenant, id, headers.secret))
}

async fn is_kept(world: &World, sealed: &Binding) -> bool {
    world.store.memory.keys().get(sealed.name()).await.unwrap().is_some()
}

#[tokio::test(start_paused = true)]
async fn a_waiting_retry_goes_with_the_new_headers_alone() {
    // S8
    let world = world().await;
    let id = subscribe(&world, &[("X-Key", "first"), ("X-Region", "eu")]).await;
    world.endpoint.answers([Answer::Status(500)]);
    world.publish().await;
    world.let_pass(1_000).await;
    assert!(set(&world, id, &[("X-Key", "second")]).await);
    world.succeeded(id, 1).await;
    let calls = world.endpoint.calls();
    assert_eq!((calls[0].header("x-key"), calls[0].header("x-region")), ("first", "eu"));
    assert_eq!((calls[1].header("x-key"), names(&calls[1]).contains(&"X-Region")), ("second", false));
    // Those of the profile come first, and are what they are.
    assert_eq!(calls[0].header("user-agent"), "AxisSynapse-Webhook/1.0");
    assert_eq!(names(&calls[0])[names(&calls[0]).len() - 2..], ["X-Key", "X-Region"]);
}

#[tokio::test(start_paused = true)]
async fn what_was_replaced_is_destroyed_and_the_same_once_more_changes_nothing() {
    // S8
    let world = world().await;
    let id = subscribe(&world, &[("X-Key", "first")]).await;
    let first = sealed(&world, id).await.unwrap();
    let secrets = async || world.store.memory.keys().rows("", "", 99).await.unwrap().len();
    let all = secrets().await;
    assert!(!set(&world, id, &[("X-Key", "first")]).await, "it is the same");
    assert_eq!((sealed(&world, id).await.as_ref(), secrets().await), (Some(&first), all));
    assert!(set(&world, id, &[("X-Key", "second")]).await);
    let second = sealed(&world, id).await.unwrap();
    assert_eq!((is_kept(&world, &first).await, is_kept(&world, &second).await), (false, true));
    assert!(set(&world, id, &[]).await);
    assert_eq!((sealed(&world, id).await, is_kept(&world, &second).await), (None, false));
    assert!(!set(&world, id, &[]).await);
    // What is refused leaves nothing behind, whoever refuses it.
    let stale = Update { expected_revision: Some(1), ..Update::default() };
    let third = Sealable { headers: Some(given(&[("X-Key", "third")])), ..Sealable::default() };
    let refused = world.engine.update_subscription(world.tenant, id, stale, third, Meta::system());
    assert!(refused.await.is_err());
    let long = NewSubscription {
        headers: given(&[("X-Key", "third")]),
        description: Some("x".repeat(201)),
        ..new_subscription(URL, &["**"])
    };
    assert!(world.engine.create_subscription(world.tenant, long, Meta::system()).await.is_err());
    assert_eq!(secrets().await, all - 1);
}

#[tokio::test(start_paused = true)]
async fn they_are_kept_as_long_as_the_deleted_subscription_can_be_restored() {
    // S8
    let world = world().await;
    let id = subscribe(&world, &[("X-Key", "first")]).await;
    let headers = sealed(&world, id).await.unwrap();
    let delete = || world.engine.delete_subscription(world.tenant, id, None, Meta::system());
    delete().await.unwrap();
    assert!(is_kept(&world, &headers).await);
    world.engine.restore_subscription(world.tenant, id, Meta::system()).await.unwrap();
    world.enable(id).await;
    world.publish().await;
    world.succeeded(id, 1).await;
    assert_eq!(world.endpoint.calls()[0].header("x-key"), "first");
    delete().await.unwrap();
    world.let_pass(profile::find(PROFILE).unwrap().restore_window_s * 1_000 + 1_000).await;
    assert!(!is_kept(&world, &headers).await);
    // Where nothing can be restored they go at once.
    let standard = |name: &str| NewSubscription {
        profile: Some(name.into()),
        headers: given(&[("X-Key", "first")]),
        ..new_subscription(URL, &["**"])
    };
    let id = world.subscribe_as(standard("standard-v1")).await;
    let headers = sealed(&world, id).await.unwrap();
    let restorable = profile::find("standard-v1").unwrap().restore_window_s > 0;
    world.engine.delete_subscription(world.tenant, id, None, Meta::system()).await.unwrap();
    assert_eq!(is_kept(&world, &headers).await, restorable);
}

#[test]
fn headers_that_cannot_be_opened_fail_the_attempt_and_say_so() {
    // S8
    let (left, id, at_ms) = life(async || {
        let world = world().await;
        let id = subscribe(&world, &[("X-Key", "first")]).await;
        world.endpoint.answers([Answer::Status(500)]);
        world.publish().await;
        world.let_pass(1_000).await;
        let headers = sealed(&world, id).await.unwrap();
        world.store.memory.keys().destroy(&[headers.name().to_owned()]).await.unwrap();
        (world.store.clone(), id, world.now_ms())
    });
    life(async || {
        let world = World::again(&left, at_ms).await;
        world.let_pass(60_000).await;
        assert!(world.endpoint.calls().is_empty(), "it was sent without its headers");
        let failures: Vec<_> = world
            .deliveries(id)
            .await
            .into_iter()
            .filter_map(|event| {
                let DeliveryEvent::AttemptFailed(failed) = event else { return None };
                Some((failed.code, failed.class, failed.detail))
            })
            .collect();
        let detail = "the custom headers cannot be opened: set them again".to_owned();
        assert_eq!(failures[1], (FailureCode::Aborted, FailureClass::Local, detail));
        // Setting them again mends it.
        assert!(set(&world, id, &[("X-Key", "second")]).await);
        world.succeeded(id, 1).await;
        assert_eq!(world.endpoint.calls()[0].header("x-key"), "second");
    });
}

#[tokio::test(start_paused = true)]
async fn a_test_sends_them_too_and_no_event_holds_a_value() {
    // S8
    let world = world().await;
    let id = subscribe(&world, &[("X-Key", "kept from view")]).await;
    world.endpoint.always(URL, Answer::Echo);
    world.publish().await;
    world.succeeded(id, 1).await;
    let event_type = EventType::parse("webhook.test").unwrap();
    let test = world.engine.test_subscription(world.tenant, id, event_type, "{}".into(), Meta::system()).await.unwrap();
    assert!(test.headers.contains(&("X-Key".into(), "***".into())), "{test:?}");
    assert!(world.endpoint.calls().iter().all(|call| call.header("x-key") == "kept from view"));
    // Nor does an endpoint that sends them back bring them in.
    let events = world.store.memory.read_log(Position { shard: world.shard(), seq: 0 }, 1_000).await.unwrap();
    let recorded = format!("{events:?} {test:?}");
    assert!(recorded.contains("X-Key: ***") && !recorded.contains("kept from view"), "{recorded}");
}
