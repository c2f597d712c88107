//! Where order counts, one delivery after another: through failures, restarts and changes of mind.

use std::sync::Arc;

use tidings::actors::{Backlog, Config, NewSubscription, Sealable};
use tidings::domain::event::DeliveryEvent;
use tidings::domain::id::SubscriptionId;
use tidings::domain::subscription::{Update, Wait};
use tidings::execute::Meta;

use crate::support::simulation::{Answer, OTHER_URL, URL, World, life, new_subscription};
use crate::support::watched_store::WatchedStore;

fn ordered(url: &str) -> NewSubscription {
    NewSubscription { ordered: true, ..new_subscription(url, &["user.created"]) }
}

async fn publish(world: &World, count: usize) {
    for _ in 0..count {
        world.publish().await;
    }
}

/// The numbers of the messages in the order in which they were attempted.
fn sequences(world: &World) -> Vec<u64> {
    world.endpoint.calls().iter().map(|call| call.header("webhook-sequence").parse().unwrap()).collect()
}

async fn switch(world: &World, id: SubscriptionId, ordered: bool) {
    let update = Update { ordered: Some(ordered), ..Update::default() };
    world.engine.update_subscription(world.tenant, id, update, Sealable::default(), Meta::system()).await.unwrap();
}

async fn exhausted(world: &World, id: SubscriptionId) {
    let gone = |events: &[DeliveryEvent]| events.iter().any(|event| matches!(event, DeliveryEvent::Exhausted(_)));
    world.recorded(id, gone).await;
}

#[tokio::test(start_paused = true)]
async fn messages_come_one_at_a_time_and_in_their_order_through_failures_and_retries() {
    let world = World::new().await;
    let id = world.subscribe_as(ordered(URL)).await;
    world.endpoint.answers([
        Answer::Late(200, 300),
        Answer::Late(500, 300),
        Answer::Late(200, 300),
        Answer::Silence(1_000),
        Answer::Late(500, 100),
    ]);
    publish(&world, 6).await;
    world.succeeded(id, 6).await;
    assert_eq!(sequences(&world), [1, 2, 2, 3, 3, 3, 4, 5, 6]);
    // Retries come after 2 and 4 seconds; each other attempt as soon as the one before has ended.
    assert_eq!(world.endpoint.times(), [0, 300, 2_600, 2_900, 5_900, 10_000, 10_000, 10_000, 10_000]);
}

#[tokio::test(start_paused = true)]
async fn one_attempt_is_under_way_however_many_messages_come() {
    let world = World::new().await;
    let id = world.subscribe_as(ordered(URL)).await;
    world.endpoint.always(URL, Answer::Late(200, 20));
    for _ in 0..40 {
        publish(&world, 5).await;
        world.let_pass(7).await;
    }
    world.succeeded(id, 200).await;
    assert_eq!(sequences(&world), (1..=200).collect::<Vec<_>>());
    let times = world.endpoint.times();
    assert!(times.windows(2).all(|two| two[1] - two[0] >= 20), "two were under way at once: {times:?}");
}

#[tokio::test(start_paused = true)]
async fn order_holds_for_what_waits_in_the_log() {
    let world = World::with(Config { max_open_deliveries: 4, ..Config::default() }).await;
    let id = world.subscribe_as(ordered(URL)).await;
    world.endpoint.answers([Answer::Status(500), Answer::Status(500)]);
    publish(&world, 50).await;
    world.succeeded(id, 50).await;
    assert_eq!(sequences(&world), [1, 1].into_iter().chain(1..=50).collect::<Vec<_>>());
}

#[tokio::test(start_paused = true)]
async fn one_whose_schedule_ends_lets_the_next_one_go() {
    let world = World::new().await;
    let id = world.subscribe_as(ordered(URL)).await;
    world.endpoint.answers([Answer::Status(500); 5]);
    publish(&world, 2).await;
    exhausted(&world, id).await;
    world.succeeded(id, 1).await;
    assert_eq!(sequences(&world), [1, 1, 1, 1, 1, 2]);
}

#[tokio::test(start_paused = true)]
async fn nothing_begins_before_the_end_of_the_one_before_is_durable() {
    let world = World::new().await;
    let id = world.subscribe_as(ordered(URL)).await;
    world.endpoint.answers([Answer::Late(200, 5_000), Answer::Late(200, 5_000)]);
    publish(&world, 3).await;
    world.endpoint.called(1).await;
    world.store.take_for_a_commit(700);
    world.succeeded(id, 3).await;
    let times = world.endpoint.times();
    assert_eq!(sequences(&world), [1, 2, 3]);
    assert!(times.windows(2).all(|two| two[1] - two[0] >= 5_700), "{times:?}");
}

/// A life that ends after a second: the first message was delivered, the second was met so, and two more wait.
fn crash(second: Answer) -> (Arc<WatchedStore>, SubscriptionId) {
    life(async || {
        let world = World::new().await;
        let id = world.subscribe_as(ordered(URL)).await;
        world.endpoint.answers([Answer::Status(200), second]);
        publish(&world, 4).await;
        world.let_pass(1_000).await;
        assert_eq!(sequences(&world), [1, 2]);
        (Arc::clone(&world.store), id)
    })
}

#[test]
fn a_restart_in_the_middle_keeps_the_order() {
    // In the midst of an attempt, and while a retry is waited for.
    for (second, times) in [(Answer::Held, [1_500; 3]), (Answer::Status(500), [2_000; 3])] {
        let (left, id) = crash(second);
        life(async || {
            let world = World::again(&left, 1_500).await;
            world.succeeded(id, 4).await;
            assert_eq!((sequences(&world), world.endpoint.times()), (vec![2, 3, 4], times.to_vec()));
        });
    }
}

#[tokio::test(start_paused = true)]
async fn switched_on_it_waits_for_all_that_is_under_way() {
    let world = World::new().await;
    let id = world.subscribe().await;
    world.endpoint.answers([Answer::Held; 3]);
    publish(&world, 3).await;
    world.endpoint.called(3).await;
    switch(&world, id, true).await;
    publish(&world, 3).await;
    world.let_pass(1_000).await;
    world.endpoint.release(2);
    world.let_pass(1_000).await;
    assert_eq!(world.endpoint.calls().len(), 3, "one of the first is still under way");
    world.endpoint.release(1);
    world.succeeded(id, 6).await;
    assert_eq!(sequences(&world)[3..], [4, 5, 6]);
}

#[tokio::test(start_paused = true)]
async fn switched_on_it_holds_back_what_is_due_behind_a_retry_and_switched_off_lets_it_go() {
    let world = World::new().await;
    let id = world.subscribe_as(ordered(URL)).await;
    world.endpoint.answers([Answer::Status(500)]);
    publish(&world, 4).await;
    world.let_pass(500).await;
    assert_eq!(sequences(&world), [1]);
    let timers = world.engine.timers(world.tenant, id, None, 100).await.unwrap();
    let mut waits: Vec<_> = timers.waiting.iter().map(|timer| (timer.open.sequence, timer.wait)).collect();
    waits.sort_by_key(|(sequence, _)| *sequence);
    let behind = [2, 3, 4].map(|sequence| (Some(sequence), Wait::Ordered));
    assert_eq!(waits, [&[(Some(1), Wait::Retry)], &behind[..]].concat());
    switch(&world, id, false).await;
    world.let_pass(10).await;
    let mut at_once = sequences(&world)[1..].to_vec();
    at_once.sort_unstable();
    assert_eq!((at_once, &world.endpoint.times()[1..]), (vec![2, 3, 4], &[500; 3][..]));
    world.succeeded(id, 4).await;
    assert_eq!(world.endpoint.times()[4..], [2_000]);
}

#[tokio::test(start_paused = true)]
async fn the_breaker_trips_probes_with_the_head_and_keeps_the_order() {
    let world = World::under("axissynapse-v1", Config::default()).await;
    let id = world.subscribe_as(ordered(URL)).await;
    world.endpoint.always(URL, Answer::Status(500));
    publish(&world, 4).await;
    // Eight failures of the first message end it, two of the second trip the breaker.
    world.endpoint.called(10).await;
    world.let_pass(86_400_000).await;
    let failed = sequences(&world);
    assert_eq!(failed, [1, 1, 1, 1, 1, 1, 1, 1, 2, 2]);
    publish(&world, 40).await;
    world.endpoint.always(URL, Answer::Late(200, 50));
    world.engine.reenable(world.tenant, id, Backlog::Drain, Meta::system()).await.unwrap();
    world.succeeded(id, 43).await;
    assert_eq!(sequences(&world)[10..], (2..=44).collect::<Vec<_>>());
    let times = world.endpoint.times();
    assert!(times[10..].windows(2).all(|two| two[1] - two[0] >= 50), "two were under way at once: {times:?}");
}

#[tokio::test(start_paused = true)]
async fn a_head_that_hangs_does_not_hinder_another_subscription() {
    let world = World::new().await;
    world.endpoint.always(URL, Answer::Silence(30_000));
    let hung = world.subscribe_as(ordered(URL)).await;
    let other = world.subscribe_as(ordered(OTHER_URL)).await;
    publish(&world, 10).await;
    world.succeeded(other, 10).await;
    assert_eq!((world.endpoint.times_at(OTHER_URL), world.endpoint.times_at(URL)), (vec![0; 10], vec![0]));
    let calls = world.endpoint.calls();
    let other = calls.iter().filter(|call| call.url == OTHER_URL).map(|call| call.header("webhook-sequence"));
    assert!(other.eq((1..=10).map(|number| number.to_string())));
    world.let_pass(20_000).await;
    assert_eq!(world.engine.timers(world.tenant, hung, None, 1).await.unwrap().pending, 10);
}
