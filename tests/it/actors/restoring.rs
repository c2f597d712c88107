//! A deleted subscription comes back within its profile's window, and not behind it.

use std::sync::Arc;

use tidings::actors::{Config, EngineError, NewSubscription, Retention};
use tidings::clock::{Clock, SeededClock};
use tidings::domain::event::DeliveryEvent;
use tidings::domain::id::SubscriptionId;
use tidings::domain::profile;
use tidings::domain::secret::Secret;
use tidings::domain::signing;
use tidings::domain::subscription::{NotRestorable, Refusal};
use tidings::event_store::{EventReader, MemoryStore};
use tidings::execute::transfer::{export, import};
use tidings::execute::vault::Binding;
use tidings::execute::verify::verify;
use tidings::execute::{Meta, deliveries_stream, retention, subscription_stream};
use tidings::key_store::KeyStore;

use crate::support::simulation::{Answer, Call, START, URL, World, life, new_subscription};

const HOUR: u64 = 3_600_000;
/// The window of `standard-v1`.
const WINDOW: u64 = 72 * HOUR;

/// One region: days go by in these tests, and regions look at the clock every second of them.
fn bounds() -> Config {
    Config { regions: 1, ..Config::default() }
}

async fn delete(world: &World, id: SubscriptionId) {
    world.engine.delete_subscription(world.tenant, id, None, Meta::system()).await.unwrap();
}

async fn restore(world: &World, id: SubscriptionId) -> Result<bool, EngineError> {
    world.engine.restore_subscription(world.tenant, id, Meta::system()).await.map(|done| done.changed)
}

fn reason(answer: Result<bool, EngineError>) -> NotRestorable {
    match answer {
        Err(EngineError::Subscription(Refusal::NotRestorable(reason))) => reason,
        other => panic!("{other:?} is no refusal to restore"),
    }
}

async fn secret(world: &World, id: SubscriptionId) -> Binding {
    let secret = world.engine.settings(world.tenant, id).await.unwrap().secrets[0].id;
    Binding::signing_secret(world.tenant, id, secret)
}

async fn is_kept(world: &World, secret: &Binding) -> bool {
    world.store.memory.keys().get(secret.name()).await.unwrap().is_some()
}

/// The types of what happened to the subscription itself.
async fn life_of(world: &World, id: SubscriptionId) -> Vec<String> {
    let recorded = world.store.memory.read_stream(&subscription_stream(id), 1, usize::MAX).await.unwrap();
    recorded.iter().map(|recorded| recorded.kind.trim_start_matches("subscription.").to_owned()).collect()
}

/// The places that the messages got which were scheduled.
async fn sequences(world: &World, id: SubscriptionId) -> Vec<u64> {
    let scheduled = world.deliveries(id).await.into_iter().filter_map(|event| match event {
        DeliveryEvent::Scheduled(scheduled) => scheduled.sequence,
        DeliveryEvent::Backfilled(_)
        | DeliveryEvent::JobAdvanced(_)
        | DeliveryEvent::AttemptFailed(_)
        | DeliveryEvent::Succeeded(_)
        | DeliveryEvent::Exhausted(_)
        | DeliveryEvent::Expired(_)
        | DeliveryEvent::Rescheduled(_)
        | DeliveryEvent::Cancelled(_)
        | DeliveryEvent::PeriodOpened(_)
        | DeliveryEvent::Carried(_) => None,
    });
    scheduled.collect()
}

async fn is_whole(world: &World) {
    let report = verify(&world.store.memory, Some(&*world.store.memory.keys()), |_, _| {}).await.unwrap();
    assert_eq!(report.differences, 0, "{:?}", report.first);
}

fn is_signed(call: &Call, secret: &Secret) -> bool {
    let header = |name: &str| Some(call.header(name).to_owned());
    signing::verify(profile::find("standard-v1").unwrap(), header, call.body.as_bytes(), secret).is_ok()
}

#[test]
fn a_restart_between_deletion_and_restoration_loses_nothing_and_owes_nothing() {
    let (left, id, key) = life(async || {
        let world = World::under("standard-v1", Config::default()).await;
        let new = new_subscription(URL, &["user.created"]);
        let (id, key, _) = world.engine.create_subscription(world.tenant, new, Meta::system()).await.unwrap();
        world.publish().await;
        world.publish().await;
        world.succeeded(id, 2).await;
        delete(&world, id).await;
        world.publish().await;
        is_whole(&world).await;
        (Arc::clone(&world.store), id, key)
    });
    let left = life(async || {
        let world = World::again(&left, HOUR).await;
        world.publish().await;
        assert!(restore(&world, id).await.unwrap());
        assert!(!restore(&world, id).await.unwrap(), "it was there already");
        world.publish().await;
        is_whole(&world).await;
        Arc::clone(&world.store)
    });
    life(async || {
        let world = World::again(&left, 2 * HOUR).await;
        world.enable(id).await;
        let published = world.publish().await;
        world.succeeded(id, 3).await;
        assert_eq!(world.messages_delivered(id).await[2], published.message.to_string());
        assert_eq!(sequences(&world, id).await, [1, 2, 3]);
        let calls = world.endpoint.calls();
        assert_eq!(calls.len(), 1);
        assert!(is_signed(&calls[0], &key), "it has another secret");
        assert_eq!(life_of(&world, id).await, ["created", "deleted", "restored", "enabled"]);
        is_whole(&world).await;
    });
}

#[tokio::test(start_paused = true)]
async fn what_a_deletion_cancelled_is_not_attempted_again() {
    let world = World::under("standard-v1", Config::default()).await;
    let id = world.subscribe().await;
    world.endpoint.answers([Answer::Status(500)]);
    world.publish().await;
    world.recorded(id, |events| matches!(events.last(), Some(DeliveryEvent::AttemptFailed(_)))).await;
    delete(&world, id).await;
    assert!(restore(&world, id).await.unwrap());
    world.enable(id).await;
    world.let_pass(HOUR).await;
    assert_eq!(world.endpoint.calls().len(), 1);
    world.publish().await;
    world.succeeded(id, 1).await;
    assert_eq!(sequences(&world, id).await, [1, 2]);
    // And once more.
    delete(&world, id).await;
    assert!(restore(&world, id).await.unwrap());
    world.enable(id).await;
    world.publish().await;
    world.succeeded(id, 2).await;
    assert_eq!(sequences(&world, id).await, [1, 2, 3]);
    is_whole(&world).await;
}

#[tokio::test(start_paused = true)]
async fn an_ordered_one_comes_back_ordered_and_waits_for_nothing_that_was_cancelled() {
    let world = World::under("standard-v1", Config::default()).await;
    let new = NewSubscription { ordered: true, ..new_subscription(URL, &["user.created"]) };
    let id = world.subscribe_as(new).await;
    // Deleted with an attempt under way, which holds up the two behind it.
    world.endpoint.answers([Answer::Late(200, 60_000)]);
    for _ in 0..3 {
        world.publish().await;
    }
    world.endpoint.called(1).await;
    delete(&world, id).await;
    assert!(restore(&world, id).await.unwrap());
    world.enable(id).await;
    world.endpoint.always(URL, Answer::Late(200, 20));
    for _ in 0..3 {
        world.publish().await;
    }
    world.succeeded(id, 3).await;
    // What was under way still keeps the endpoint busy, whatever it is worth.
    assert_eq!(world.endpoint.times(), [0, 60_000, 60_020, 60_040]);
    assert_eq!(sequences(&world, id).await, [1, 2, 3, 4, 5, 6]);
    is_whole(&world).await;
}

#[tokio::test(start_paused = true)]
async fn behind_the_window_the_secret_is_destroyed_and_nobody_restores_it() {
    let world = World::under("standard-v1", bounds()).await;
    let id = world.subscribe().await;
    let secret = secret(&world, id).await;
    delete(&world, id).await;
    world.let_pass(WINDOW - HOUR).await;
    assert!(is_kept(&world, &secret).await);
    assert_eq!(life_of(&world, id).await, ["created", "deleted"]);
    world.let_pass(2 * HOUR).await;
    assert!(!is_kept(&world, &secret).await);
    assert_eq!(life_of(&world, id).await, ["created", "deleted", "secrets_destroyed"]);
    let until = START.plus_ms(WINDOW);
    let NotRestorable::TooLate(told) = reason(restore(&world, id).await) else { panic!("it is not too late") };
    assert!(told.ms_since(until) < 1_000, "{told:?}");
    world.let_pass(HOUR).await;
    let wakeups = world.store.wakeups(world.shard(), None, 10).await.unwrap();
    assert!(wakeups.is_empty(), "{wakeups:?}");
    is_whole(&world).await;
}

#[test]
fn a_secret_is_destroyed_also_if_nothing_runs_when_its_window_ends() {
    for destroyed_before_the_crash in [false, true] {
        let (left, id, secret) = life(async || {
            let world = World::under("standard-v1", Config::default()).await;
            let id = world.subscribe().await;
            let secret = secret(&world, id).await;
            delete(&world, id).await;
            if destroyed_before_the_crash {
                world.store.memory.keys().destroy(&[secret.name().to_owned()]).await.unwrap();
            }
            (Arc::clone(&world.store), id, secret)
        });
        life(async || {
            let world = World::again(&left, WINDOW + HOUR).await;
            // Nobody asks for it.
            world.let_pass(10_000).await;
            assert!(!is_kept(&world, &secret).await);
            assert_eq!(life_of(&world, id).await, ["created", "deleted", "secrets_destroyed"]);
            assert!(matches!(reason(restore(&world, id).await), NotRestorable::TooLate(_)));
            is_whole(&world).await;
        });
    }
}

#[tokio::test(start_paused = true)]
async fn under_axie_a_deletion_is_for_ever_and_its_secret_is_destroyed_at_once() {
    let world = World::new().await;
    let id = world.subscribe().await;
    let secret = secret(&world, id).await;
    delete(&world, id).await;
    assert!(!is_kept(&world, &secret).await);
    assert_eq!(reason(restore(&world, id).await), NotRestorable::ForGood);
    assert_eq!(life_of(&world, id).await, ["created", "deleted"]);
}

#[test]
fn it_comes_back_when_all_that_it_was_owed_is_dropped() {
    let hour = || Retention {
        config: retention::Config {
            events_minutes: 60,
            bucket_minutes: 10,
            check_every_ms: 10_000,
            ..retention::Config::default()
        },
        applied: None,
    };
    let keeping = async |store: MemoryStore, at_ms: u64| {
        let clock: Arc<dyn Clock> = Arc::new(SeededClock::new(START.plus_ms(at_ms), 1 + at_ms));
        World::keeping(store, clock, bounds(), hour()).await
    };
    let (left, id) = life(async || {
        let world = keeping(MemoryStore::new(4), 0).await;
        world.found_tenant("standard-v1").await;
        let id = world.subscribe().await;
        world.publish().await;
        world.succeeded(id, 1).await;
        delete(&world, id).await;
        world.let_pass(3 * HOUR).await;
        assert_eq!(world.store.stream_version(&deliveries_stream(id)).await.unwrap(), 0);
        (Arc::clone(&world.store), id)
    });
    life(async || {
        let world = keeping(left.memory.reopen(), 4 * HOUR).await;
        is_whole(&world).await;
        assert!(restore(&world, id).await.unwrap());
        world.enable(id).await;
        world.publish().await;
        world.succeeded(id, 1).await;
        assert_eq!(sequences(&world, id).await, [2]);
        is_whole(&world).await;
    });
}

#[test]
fn an_imported_copy_can_restore_it_too_and_forgets_it_on_time() {
    let (left, id, secret) = life(async || {
        let world = World::under("standard-v1", Config::default()).await;
        let id = world.subscribe().await;
        let secret = secret(&world, id).await;
        for _ in 0..3 {
            world.publish().await;
        }
        world.succeeded(id, 3).await;
        delete(&world, id).await;
        assert!(restore(&world, id).await.unwrap());
        delete(&world, id).await;
        world.publish().await;
        (Arc::clone(&world.store), id, secret)
    });
    let copy = |at_ms: u64| {
        let left = &left;
        async move {
            let mut text = Vec::new();
            export(&left.memory, &*left.memory.keys(), &mut text, |_, _| {}).await.unwrap();
            let copy = MemoryStore::new(2);
            import(&copy, &*copy.keys(), &retention::Config::default(), &text[..], |_, _| {}).await.unwrap();
            let clock: Arc<dyn Clock> = Arc::new(SeededClock::new(START.plus_ms(at_ms), 1 + at_ms));
            World::over(copy, clock, Config::default()).await
        }
    };
    life(async || {
        let world = copy(HOUR).await;
        is_whole(&world).await;
        assert!(restore(&world, id).await.unwrap());
        world.enable(id).await;
        world.publish().await;
        world.succeeded(id, 4).await;
        assert_eq!(sequences(&world, id).await, [1, 2, 3, 4]);
        assert_eq!(world.endpoint.calls().len(), 1);
        is_whole(&world).await;
    });
    life(async || {
        let world = copy(WINDOW + HOUR).await;
        world.let_pass(10_000).await;
        assert!(!is_kept(&world, &secret).await);
    });
}
