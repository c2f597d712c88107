//! What grows old is let go of, and nobody notices who does not need it.

use std::sync::Arc;

use tidings::actors::{Config, Retention};
use tidings::clock::{Clock, SeededClock};
use tidings::domain::event::{DeliveryEvent, ExpiryReason};
use tidings::domain::id::SubscriptionId;
use tidings::domain::subscription::Command;
use tidings::error_code::ErrorCode;
use tidings::event_store::{Bucket, EventReader, EventStore, MemoryStore};
use tidings::execute::{deliveries_stream, fold_subscription, messages_stream, retention};

use crate::support::simulation::{Answer, START, World, life};

const MINUTE: u64 = 60_000;
/// What is kept, in minutes.
const KEPT: u64 = 60;

/// Buckets of ten minutes, kept for an hour.
fn config() -> retention::Config {
    retention::Config {
        events_minutes: KEPT as u32,
        bucket_minutes: 10,
        check_every_ms: 10_000,
        ..retention::Config::default()
    }
}

fn hour() -> Retention {
    Retention { config: config(), applied: None }
}

/// One region: days go by in these tests, and regions look at the clock every second of them.
fn bounds() -> Config {
    Config { regions: 1, ..Config::default() }
}

async fn world(retention: Retention) -> World {
    let clock: Arc<dyn Clock> = Arc::new(SeededClock::new(START, 1));
    let world = World::keeping(MemoryStore::new(4), clock, bounds(), retention).await;
    world.found_tenant("axie-v1").await;
    world
}

async fn oldest(world: &World) -> Option<Bucket> {
    world.store.buckets(world.shard()).await.unwrap().first().map(|end| end.bucket)
}

/// How many rows there are: events, claims and contents of messages.
async fn rows(world: &World) -> [usize; 3] {
    let store = &world.store.memory;
    let (mut events, mut claims, mut contents) = (0, 0, 0);
    for shard in 0..store.shards() {
        let all = store.read_log(tidings::event_store::Position { shard, seq: 0 }, usize::MAX).await.unwrap();
        for event in &all {
            contents += usize::from(store.content(event.position).await.unwrap().is_some());
        }
        events += all.len();
        claims += store.claims_after(shard, None, usize::MAX).await.unwrap().len();
    }
    [events, claims, contents]
}

async fn periods_of(world: &World, stream: &str) -> usize {
    let events = world.store.memory.read_stream(stream, 1, usize::MAX).await.unwrap();
    events.iter().filter(|event| event.kind.ends_with(".period_opened")).count()
}

/// What was given up, and why.
fn expired(events: &[DeliveryEvent]) -> Vec<ExpiryReason> {
    let expired = events.iter().filter_map(|event| match event {
        DeliveryEvent::Expired(expired) => Some(expired.reason),
        DeliveryEvent::Scheduled(_)
        | DeliveryEvent::AttemptFailed(_)
        | DeliveryEvent::Succeeded(_)
        | DeliveryEvent::Exhausted(_)
        | DeliveryEvent::Rescheduled(_)
        | DeliveryEvent::Cancelled(_)
        | DeliveryEvent::PeriodOpened(_)
        | DeliveryEvent::Backfilled(_)
        | DeliveryEvent::JobAdvanced(_)
        | DeliveryEvent::Carried(_) => None,
    });
    expired.collect()
}

#[test]
fn what_is_stored_stays_level_and_every_restart_finds_the_same() {
    let work = async |world: &World, subscriptions: &[SubscriptionId], hours: u64, key: &mut u64| {
        let mut most = [0; 3];
        for _ in 0..hours * 6 {
            for _ in 0..5 {
                *key += 1;
                world.try_publish(r#"{"userId":"user_1"}"#, Some(&key.to_string())).await.unwrap();
            }
            world.let_pass(10 * MINUTE).await;
            let now = rows(world).await;
            most = [0, 1, 2].map(|n| most[n].max(now[n]));
        }
        for id in subscriptions {
            let folded = fold_subscription(world.log.reader(), *id).await.unwrap();
            assert_eq!(folded.state.open_count(), 0);
        }
        most
    };
    let mut key = 0;
    let (mut left, subscriptions, first) = life(async || {
        let world = world(hour()).await;
        let subscriptions = [world.subscribe().await, world.subscribe().await];
        let most = work(&world, &subscriptions, 3, &mut key).await;
        (Arc::clone(&world.store), subscriptions, most)
    });
    assert!(first[0] > 100, "{first:?}");
    for round in 0..6 {
        left = life(async || {
            let clock: Arc<dyn Clock> =
                Arc::new(SeededClock::new(START.plus_ms((round + 1) * 180 * MINUTE), round + 2));
            let world = World::keeping(left.memory.reopen(), clock, bounds(), hour()).await;
            let before = world.endpoint.calls().len();
            let most = work(&world, &subscriptions, 3, &mut key).await;
            assert_eq!(world.endpoint.calls().len() - before, 3 * 6 * 5 * 2);
            for (now, first) in most.iter().zip(first) {
                assert!(*now <= first + 40, "{most:?} rows in round {round}, {first:?} at first");
            }
            Arc::clone(&world.store)
        });
    }
}

#[test]
fn an_idle_subscription_is_asked_once_in_the_time_that_things_are_kept() {
    life(async || {
        let world = world(hour()).await;
        let idle = world.subscribe().await;
        world.publish().await;
        world.succeeded(idle, 1).await;
        world.let_pass(10 * KEPT * MINUTE).await;
        // The periods that were dropped are counted by what is left of them: versions go on.
        let version = world.store.stream_version(&deliveries_stream(idle)).await.unwrap();
        let periods = version - 2;
        assert!((8..=10).contains(&periods), "{periods} periods in ten times as long as things are kept");
        let messages = world.store.stream_version(&messages_stream(world.tenant)).await.unwrap() - 1;
        assert!((8..=10).contains(&messages), "{messages} periods of messages");
        let folded = fold_subscription(world.log.reader(), idle).await.unwrap();
        assert_eq!(folded.deliveries_version, version);
        world.publish().await;
        world.succeeded(idle, 1).await;
    });
}

#[test]
fn what_a_disabled_subscription_owes_has_failed_once_the_message_goes() {
    life(async || {
        let world = world(hour()).await;
        let id = world.subscribe().await;
        world.endpoint.answers([Answer::Status(500)]);
        world.publish().await;
        world.let_pass(1_000).await;
        world.disable(id).await;
        world.let_pass(KEPT * MINUTE - 2_000).await;
        assert_eq!(expired(&world.deliveries(id).await), []);
        world.let_pass(11 * MINUTE).await;
        assert_eq!(expired(&world.deliveries(id).await), [ExpiryReason::MessageDropped]);
        world.command(id, Command::Enable).await;
        world.let_pass(10 * MINUTE).await;
        assert_eq!(world.endpoint.calls().len(), 1);
    });
}

#[test]
fn a_delivery_whose_data_was_erased_has_failed_at_its_next_attempt() {
    life(async || {
        let erasing = retention::Config { bodies_minutes: 20, ..config() };
        let world = world(Retention { config: erasing, applied: None }).await;
        let id = world.subscribe().await;
        world.endpoint.answers([Answer::Status(500)]);
        let published = world.publish().await;
        world.let_pass(1_000).await;
        world.disable(id).await;
        world.let_pass(35 * MINUTE).await;
        assert_eq!(world.log.content(published.position.unwrap()).await.unwrap(), None);
        assert!(!world.store.read_log(published.position.unwrap(), 1).await.unwrap().is_empty());
        world.enable(id).await;
        let events = world.recorded(id, |events| !expired(events).is_empty()).await;
        assert_eq!(expired(&events), [ExpiryReason::DataErased]);
        world.let_pass(10 * MINUTE).await;
        assert_eq!(expired(&world.deliveries(id).await).len(), 1);
        assert_eq!(world.endpoint.calls().len(), 1);
        // Others are delivered as ever.
        world.publish().await;
        world.succeeded(id, 1).await;
    });
}

#[test]
fn a_delivery_whose_message_was_dropped_unseen_has_failed_at_its_next_attempt() {
    life(async || {
        let world = world(hour()).await;
        let id = world.subscribe().await;
        world.endpoint.answers([Answer::Status(500)]);
        world.publish().await;
        world.let_pass(1_000).await;
        world.disable(id).await;
        // Enabled for a moment and disabled again in another bucket: its period is younger than what it owes.
        world.let_pass(30 * MINUTE).await;
        world.endpoint.answers([Answer::Status(500)]);
        world.enable(id).await;
        world.endpoint.called(2).await;
        world.disable(id).await;
        world.let_pass(45 * MINUTE).await;
        assert_eq!(expired(&world.deliveries(id).await), []);
        world.enable(id).await;
        let events = world.recorded(id, |events| !expired(events).is_empty()).await;
        assert_eq!(expired(&events), [ExpiryReason::MessageDropped]);
        assert_eq!(world.endpoint.calls().len(), 2);
    });
}

#[test]
fn nothing_is_dropped_that_a_reader_has_not_read() {
    life(async || {
        let world = world(hour()).await;
        let id = world.subscribe().await;
        world.publish().await;
        world.succeeded(id, 1).await;
        let first = oldest(&world).await;
        let slow = tidings::event_store::Position { shard: world.shard(), seq: 1 };
        world.store.save_checkpoint("slow", slow).await.unwrap();
        world.let_pass(3 * KEPT * MINUTE).await;
        assert_eq!(oldest(&world).await, first);
        // It still rests on nothing: only the reader holds it.
        assert_eq!(world.store.live_through(world.shard(), first.unwrap(), 10).await.unwrap(), [""; 0]);
        world.store.forget_reader("slow").await.unwrap();
        world.let_pass(MINUTE).await;
        assert!(oldest(&world).await > first);
    });
}

#[test]
fn read_models_that_lag_keep_what_they_have_not_read() {
    life(async || {
        let (applied, told) = tokio::sync::watch::channel(0_u64);
        let retention = Retention { config: config(), applied: Some(Arc::new(move |_| *told.borrow())) };
        let world = world(retention).await;
        let id = world.subscribe().await;
        world.publish().await;
        world.succeeded(id, 1).await;
        let first = oldest(&world).await;
        world.let_pass(2 * KEPT * MINUTE).await;
        assert_eq!(oldest(&world).await, first);
        let last = world.store.buckets(world.shard()).await.unwrap()[0].last.seq;
        applied.send_replace(last - 1);
        world.let_pass(MINUTE).await;
        assert_eq!(oldest(&world).await, first);
        applied.send_replace(last);
        world.let_pass(MINUTE).await;
        assert!(oldest(&world).await > first);
    });
}

#[test]
fn a_deleted_subscription_holds_nothing_back_and_is_still_gone_after_a_restart() {
    let (left, [deleted, kept]) = life(async || {
        let world = world(hour()).await;
        let [deleted, kept] = [world.subscribe().await, world.subscribe().await];
        world.publish().await;
        world.succeeded(deleted, 1).await;
        world.engine.delete_subscription(world.tenant, deleted, None, tidings::execute::Meta::system()).await.unwrap();
        assert_eq!(world.store.period(&deliveries_stream(deleted)).await.unwrap(), None);
        world.let_pass(2 * KEPT * MINUTE).await;
        assert_eq!(world.store.stream_version(&deliveries_stream(deleted)).await.unwrap(), 0);
        (Arc::clone(&world.store), [deleted, kept])
    });
    life(async || {
        let clock: Arc<dyn Clock> = Arc::new(SeededClock::new(START.plus_ms(3 * KEPT * MINUTE), 2));
        let world = World::keeping(left.memory.reopen(), clock, bounds(), hour()).await;
        world.publish().await;
        world.succeeded(kept, 1).await;
        let refused = world.engine.settings(world.tenant, deleted).await.unwrap_err();
        assert_eq!(refused.code(), ErrorCode::NotFound);
        assert_eq!(world.endpoint.calls().len(), 1);
    });
}

#[test]
fn a_key_is_remembered_as_long_as_its_message() {
    life(async || {
        let world = world(hour()).await;
        let first = world.try_publish("{}", Some("order-1")).await.unwrap();
        world.let_pass((KEPT - 1) * MINUTE).await;
        let again = world.try_publish("{}", Some("order-1")).await.unwrap();
        assert_eq!((again.message, again.duplicate), (first.message, true));
        world.let_pass(20 * MINUTE).await;
        let other = world.try_publish("{}", Some("order-1")).await.unwrap();
        assert!(!other.duplicate && other.message != first.message);
    });
}

#[test]
fn a_hot_subscription_begins_a_new_period_after_so_many_events() {
    life(async || {
        let short = retention::Config { period_events: 10, ..config() };
        let world = world(Retention { config: short, applied: None }).await;
        let id = world.subscribe().await;
        for _ in 0..40 {
            world.publish().await;
        }
        world.succeeded(id, 40).await;
        let periods = periods_of(&world, &deliveries_stream(id)).await;
        assert!(periods >= 3, "{periods} periods");
        assert!(periods_of(&world, &messages_stream(world.tenant)).await >= 3);
        let loaded = fold_subscription(world.log.reader(), id).await.unwrap();
        assert_eq!(loaded.state.open_count(), 0);
        assert_eq!(world.messages_delivered(id).await.len(), 40);
    });
}

#[test]
fn what_is_kept_for_ever_stays() {
    life(async || {
        let for_ever = retention::Config { events_minutes: 0, ..config() };
        let world = world(Retention { config: for_ever, applied: None }).await;
        let id = world.subscribe().await;
        world.publish().await;
        world.succeeded(id, 1).await;
        let before = rows(&world).await;
        world.let_pass(3 * KEPT * MINUTE).await;
        assert_eq!(rows(&world).await, before);
    });
}

#[test]
fn the_janitor_ends_with_the_system() {
    life(async || {
        let world = world(hour()).await;
        world.publish().await;
        world.running.stop().await;
        let before = world.store.buckets(0).await.unwrap();
        tokio::time::sleep(std::time::Duration::from_millis(3 * KEPT * MINUTE)).await;
        assert_eq!(world.store.buckets(0).await.unwrap(), before);
    });
}
