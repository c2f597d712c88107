//! What waits can be seen, moved and called off.

use tidings::actors::{Config, EngineError};
use tidings::domain::event::DeliveryEvent;
use tidings::domain::id::{DeliveryId, SubscriptionId, TenantId};
use tidings::domain::subscription::{Command, Refusal, Reschedule, Timers, Wait};
use tidings::event_store::EventReader;
use tidings::execute::{Meta, deliveries_stream};

use crate::support::simulation::{Answer, START, World, life};

async fn timers(world: &World, subscription: SubscriptionId) -> Timers {
    world.engine.timers(world.tenant, subscription, None, 100).await.unwrap()
}

async fn reschedule(
    world: &World,
    subscription: SubscriptionId,
    delivery: DeliveryId,
    at_ms: u64,
) -> Result<bool, EngineError> {
    let (due_at, at) = (START.plus_ms(at_ms), world.clock.now());
    let command = Command::Reschedule(Reschedule { delivery, due_at, reason: None, under_way: false, at });
    world.engine.subscription(world.tenant, subscription, command, Meta::system()).await.map(|done| done.changed)
}

fn refusal(answer: Result<bool, EngineError>) -> Refusal {
    let Err(EngineError::Subscription(refusal)) = answer else { panic!("{answer:?} is no refusal") };
    refusal
}

/// A subscription with one delivery, whose first attempt has failed at 0 and whose second is due at 2000.
async fn waiting(world: &World) -> (SubscriptionId, DeliveryId) {
    let subscription = world.subscribe().await;
    world.endpoint.answers([Answer::Status(500)]);
    world.publish().await;
    let failed = |events: &[DeliveryEvent]| matches!(events.last(), Some(DeliveryEvent::AttemptFailed(_)));
    world.recorded(subscription, failed).await;
    let timers = timers(world, subscription).await;
    assert_eq!((timers.pending, timers.waiting[0].wait), (1, Wait::Retry));
    assert_eq!(timers.waiting[0].not_before, Some(START.plus_ms(2_000)));
    (subscription, timers.waiting[0].delivery)
}

#[tokio::test(start_paused = true)]
async fn a_waiting_retry_is_made_earlier_or_later_when_somebody_says_so() {
    let world = World::new().await;
    let (subscription, delivery) = waiting(&world).await;
    world.endpoint.answers([Answer::Status(500)]);
    world.let_pass(500).await;
    assert!(reschedule(&world, subscription, delivery, 500).await.unwrap());
    // The second failure is followed as the schedule says; then it is moved a day.
    world.let_pass(100).await;
    assert_eq!(timers(&world, subscription).await.waiting[0].not_before, Some(START.plus_ms(4_500)));
    assert!(reschedule(&world, subscription, delivery, 86_400_000).await.unwrap());
    world.let_pass(2 * 86_400_000).await;
    world.succeeded(subscription, 1).await;
    assert_eq!(world.endpoint.times(), [0, 500, 86_400_000]);
    let late = reschedule(&world, subscription, delivery, 0).await;
    assert_eq!(refusal(late), Refusal::Ended(delivery));
}

#[test]
fn a_moved_attempt_keeps_its_new_time_through_a_restart() {
    let (left, subscription) = life(async || {
        let world = World::new().await;
        let (subscription, delivery) = waiting(&world).await;
        assert!(reschedule(&world, subscription, delivery, 60_000).await.unwrap());
        assert!(reschedule(&world, subscription, delivery, 1_000).await.unwrap());
        (world.store, subscription)
    });
    life(async || {
        let world = World::again(&left, 100).await;
        world.succeeded(subscription, 1).await;
        assert_eq!(world.endpoint.times(), [1_000]);
    });
}

#[tokio::test(start_paused = true)]
async fn an_attempt_under_way_is_not_moved_and_counts_no_more_once_called_off() {
    let world = World::new().await;
    let subscription = world.subscribe().await;
    world.endpoint.answers([Answer::Held]);
    world.publish().await;
    world.endpoint.called(1).await;
    let waiting = timers(&world, subscription).await.waiting;
    let delivery = waiting[0].delivery;
    assert_eq!((waiting[0].wait, waiting[0].not_before), (Wait::UnderWay, None));
    assert_eq!(refusal(reschedule(&world, subscription, delivery, 9_000).await), Refusal::UnderWay(delivery));
    world.command(subscription, Command::Cancel { delivery, reason: None }).await;
    world.endpoint.release(1);
    world.let_pass(3_600_000).await;
    assert_eq!(world.endpoint.times(), [0]);
    let events = world.deliveries(subscription).await;
    assert!(matches!(events.as_slice(), [DeliveryEvent::Scheduled(_), DeliveryEvent::Cancelled(_)]), "{events:?}");
    assert_eq!(timers(&world, subscription).await.pending, 0);
}

#[tokio::test(start_paused = true)]
async fn what_waits_for_a_pause_or_to_be_enabled_says_so() {
    let world = World::new().await;
    let (subscription, _) = waiting(&world).await;
    let until = START.plus_ms(60_000);
    world.command(subscription, Command::Hold { until: Some(until), reason: None }).await;
    let held = timers(&world, subscription).await;
    assert_eq!(
        (held.waiting[0].wait, held.waiting[0].not_before, held.hold_until),
        (Wait::Held, Some(until), Some(until))
    );
    world.disable(subscription).await;
    let disabled = timers(&world, subscription).await;
    assert_eq!(
        (disabled.enabled, disabled.waiting[0].wait, disabled.waiting[0].not_before),
        (false, Wait::Disabled, None)
    );
    let other = TenantId::from_parts(7, 1);
    let answer = world.engine.timers(other, subscription, None, 1).await;
    assert_eq!(answer, Err(EngineError::Subscription(Refusal::NotFound)));
}

#[tokio::test(start_paused = true)]
async fn asking_what_waits_keeps_nobody_in_memory() {
    let world = World::with(Config { idle_after_ms: 400, ..Config::default() }).await;
    let (subscription, delivery) = waiting(&world).await;
    assert!(reschedule(&world, subscription, delivery, 86_400_000).await.unwrap());
    let loads = || world.store.reads_of(&deliveries_stream(subscription));
    let before = loads();
    for _ in 0..60 {
        world.let_pass(50).await;
        assert_eq!(timers(&world, subscription).await.pending, 1);
    }
    assert!(loads() > before, "it stayed in memory for being asked");
    let wakeups = world.store.wakeups(world.shard(), None, 10).await.unwrap();
    assert!(wakeups.iter().all(|wakeup| format!("{wakeup:?}").contains(&subscription.to_string())), "{wakeups:?}");
}
