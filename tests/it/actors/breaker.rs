//! The circuit breaker at work: nothing is sent while it is open, nothing is lost, and the way back is slow.

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};

use tidings::actors::{Backlog, Config, EngineError, Retention, Sealable};
use tidings::clock::{Clock, SeededClock};
use tidings::codec;
use tidings::domain::event::{DeliveryEvent, DeliveryScheduled, Event, SubscriptionEvent};
use tidings::domain::filter::Filter;
use tidings::domain::id::SubscriptionId;
use tidings::domain::subscription::{Command, Redeliver, Refusal, Update};
use tidings::domain::time::Timestamp;
use tidings::event_store::{EventReader, MemoryStore};
use tidings::execute::{Meta, retention, subscription_stream};

use crate::support::simulation::{Answer, START, World, life, new_subscription};

const MINUTE_MS: u64 = 60_000;

/// What happened to the subscription's circuit, by the words of the log.
async fn circuit(world: &World, id: SubscriptionId) -> Vec<&'static str> {
    let recorded = world.store.memory.read_stream(&subscription_stream(id), 1, usize::MAX).await.unwrap();
    let word = |event: Event| match event {
        Event::Subscription(SubscriptionEvent::CircuitTripped(_)) => Some("tripped"),
        Event::Subscription(SubscriptionEvent::CircuitReenabled(_)) => Some("reenabled"),
        Event::Subscription(SubscriptionEvent::CircuitProbing(_)) => Some("probing"),
        Event::Subscription(SubscriptionEvent::CircuitClosed(_)) => Some("closed"),
        Event::Subscription(_) | Event::Tenant(_) | Event::Message(_) | Event::Delivery(_) => None,
    };
    recorded.iter().filter_map(|recorded| word(codec::decode(recorded).unwrap())).collect()
}

/// Waits until the subscription's circuit has gone this way.
async fn until_circuit(world: &World, id: SubscriptionId, way: &[&str]) {
    for _ in 0..100_000 {
        if circuit(world, id).await == way {
            return;
        }
        world.let_pass(100).await;
    }
    panic!("the circuit went {:?}", circuit(world, id).await);
}

/// A subscription whose endpoint has failed ten times, and the messages that it was sent.
async fn tripped(world: &World) -> (SubscriptionId, Vec<String>) {
    let id = world.subscribe().await;
    world.endpoint.answers([Answer::Status(500); 10]);
    let mut messages = vec![];
    for _ in 0..10 {
        messages.push(world.publish().await.message.to_string());
        world.endpoint.called(messages.len()).await;
        world.let_pass(10).await;
    }
    until_circuit(world, id, &["tripped"]).await;
    (id, messages)
}

async fn reenable(world: &World, id: SubscriptionId, backlog: Backlog) {
    world.engine.reenable(world.tenant, id, backlog, Meta::system()).await.unwrap();
}

async fn publish_many(world: &World, count: usize) -> Vec<String> {
    let mut messages = vec![];
    for _ in 0..count {
        messages.push(world.publish().await.message.to_string());
    }
    messages
}

fn sorted(mut messages: Vec<String>) -> Vec<String> {
    messages.sort();
    messages
}

#[tokio::test(start_paused = true)]
async fn while_it_is_open_nothing_is_sent_and_what_matches_costs_no_event() {
    // S22, S25
    let world = World::under("axissynapse-v1", Config::default()).await;
    let (id, mut messages) = tripped(&world).await;
    let events = world.deliveries(id).await.len();
    messages.extend(publish_many(&world, 2_000).await);
    world.let_pass(120 * MINUTE_MS).await;
    assert_eq!(world.endpoint.calls().len(), 10, "an open circuit was called");
    assert_eq!(world.deliveries(id).await.len(), events, "what waits stands in the log already");

    reenable(&world, id, Backlog::Drain).await;
    world.succeeded(id, messages.len()).await;
    assert_eq!(sorted(world.messages_delivered(id).await), sorted(messages), "each once, and none is lost");
    assert_eq!(circuit(&world, id).await, ["tripped", "reenabled", "closed"]);
}

#[test]
fn a_trip_holds_with_whichever_event_a_new_period_begins() {
    // S22, S25
    for period_events in 1..=20 {
        life(async || {
            let clock: Arc<dyn Clock> = Arc::new(SeededClock::new(START, 1));
            let config = retention::Config { period_events, ..retention::Config::default() };
            let retention = Retention { config, ..Retention::default() };
            let world = World::keeping(MemoryStore::new(4), clock, Config::default(), retention).await;
            world.found_tenant("axissynapse-v1").await;
            let (id, _) = tripped(&world).await;
            world.publish().await;
            world.let_pass(120 * MINUTE_MS).await;
            assert_eq!(world.endpoint.calls().len(), 10, "an open circuit was called, periods of {period_events}");
            reenable(&world, id, Backlog::Drain).await;
            world.succeeded(id, 11).await;
        });
    }
}

#[tokio::test(start_paused = true)]
async fn what_waits_survives_restarts_before_and_after_it_is_enabled_again() {
    // S25
    let world = World::under("axissynapse-v1", Config::default()).await;
    let (id, mut messages) = tripped(&world).await;
    messages.extend(publish_many(&world, 300).await);
    world.let_pass(MINUTE_MS).await;

    let world = World::again(&world.store, 10 * MINUTE_MS).await;
    messages.extend(publish_many(&world, 300).await);
    world.let_pass(MINUTE_MS).await;
    assert!(world.endpoint.calls().is_empty(), "a restart closed it");
    reenable(&world, id, Backlog::Drain).await;
    world.succeeded(id, 5).await;

    let world = World::again(&world.store, 20 * MINUTE_MS).await;
    world.succeeded(id, messages.len()).await;
    assert_eq!(sorted(world.messages_delivered(id).await), sorted(messages));
}

#[tokio::test(start_paused = true)]
async fn the_way_back_is_a_probe_and_then_ever_more() {
    let world = World::under("axissynapse-v1", Config::default()).await;
    let (id, _) = tripped(&world).await;
    publish_many(&world, 200).await;
    world.let_pass(120 * MINUTE_MS).await;
    world.endpoint.answers([Answer::Late(200, 5_000)]);
    let enabled_ms = world.now_ms();
    reenable(&world, id, Backlog::Drain).await;
    world.succeeded(id, 210).await;

    let times: Vec<_> = world.endpoint.times().into_iter().skip(10).map(|at| at - enabled_ms).collect();
    assert!(times[1] >= 5_000, "a second attempt began before the probe had ended: {times:?}");
    // Ten on each level, 1, 2, 4 and 8 a second.
    for (level, per_second) in [(0, 1), (1, 2), (2, 4), (3, 8)] {
        let of_level = &times[1 + 10 * level..=10 + 10 * level];
        for pair in of_level.windows(2) {
            assert!(pair[1] - pair[0] >= 1_000 / per_second, "level {level}: {of_level:?}");
        }
    }
    assert!(times[60] - times[45] < 1_000, "and then as fast as ever: {times:?}");
}

#[tokio::test(start_paused = true)]
async fn a_probe_in_vain_opens_it_again_and_nothing_is_lost() {
    // S22
    let world = World::under("axissynapse-v1", Config::default()).await;
    let (id, mut messages) = tripped(&world).await;
    messages.extend(publish_many(&world, 50).await);
    for round in 1..=3 {
        world.let_pass(MINUTE_MS).await;
        world.endpoint.answers([Answer::Status(500)]);
        reenable(&world, id, Backlog::Drain).await;
        let way: Vec<_> = std::iter::once("tripped").chain(["reenabled", "tripped"].repeat(round)).collect();
        until_circuit(&world, id, &way).await;
        world.let_pass(MINUTE_MS).await;
        assert_eq!(world.endpoint.calls().len(), 10 + round, "more than a probe was sent");
    }
    messages.extend(publish_many(&world, 50).await);
    reenable(&world, id, Backlog::Drain).await;
    world.succeeded(id, messages.len()).await;
    assert_eq!(sorted(world.messages_delivered(id).await), sorted(messages));
}

#[tokio::test(start_paused = true)]
async fn a_probe_that_fails_through_our_own_fault_is_made_again_when_its_delivery_is_due() {
    // S22: what waited is not used up by attempts that say nothing.
    let world = World::under("axissynapse-v1", Config::default()).await;
    let (id, mut messages) = tripped(&world).await;
    messages.extend(publish_many(&world, 20).await);
    world.let_pass(60 * MINUTE_MS).await;
    world.endpoint.answers([Answer::Panic; 5]);
    reenable(&world, id, Backlog::Drain).await;
    world.succeeded(id, messages.len()).await;
    let times = &world.endpoint.times()[10..];
    let pauses: Vec<_> = times[..6].windows(2).map(|pair| pair[1] - pair[0]).collect();
    assert!(pauses.iter().all(|pause| *pause >= 1_000), "{pauses:?}");
    assert_eq!(sorted(world.messages_delivered(id).await), sorted(messages));
}

#[tokio::test(start_paused = true)]
async fn a_probe_in_vain_opens_it_again_also_when_the_clock_was_set_back() {
    let world = World::under("axissynapse-v1", Config::default()).await;
    let (id, _) = tripped(&world).await;
    world.let_pass(120 * MINUTE_MS).await;
    world.endpoint.answers([Answer::Late(500, 10 * MINUTE_MS)]);
    reenable(&world, id, Backlog::Drain).await;
    world.endpoint.called(11).await;

    let world = World::again(&world.store, world.now_ms() - 60 * MINUTE_MS).await;
    world.endpoint.answers([Answer::Status(500); 100]);
    until_circuit(&world, id, &["tripped", "reenabled", "tripped"]).await;
    world.let_pass(MINUTE_MS).await;
    assert_eq!(world.endpoint.calls().len(), 1, "more than a probe was sent");
}

/// A clock that is set while it is looked at.
struct SetClock {
    steady: SeededClock,
    ahead_ms: AtomicI64,
}

impl Clock for SetClock {
    fn now(&self) -> Timestamp {
        Timestamp::from_ms(self.steady.now().as_ms() + self.ahead_ms.load(Ordering::Relaxed))
    }

    fn fill(&self, buffer: &mut [u8]) {
        self.steady.fill(buffer);
    }
}

#[tokio::test(start_paused = true)]
async fn a_clock_that_is_set_back_while_it_runs_hides_no_failures() {
    // S22
    let clock = Arc::new(SetClock { steady: SeededClock::new(START, 1), ahead_ms: AtomicI64::new(0) });
    let world = World::over(MemoryStore::new(1), Arc::clone(&clock) as Arc<dyn Clock>, Config::default()).await;
    world.found_tenant("axissynapse-v1").await;
    let id = world.subscribe().await;
    world.endpoint.answers([Answer::Status(500); 100]);
    for n in 0..10 {
        if n == 3 {
            clock.ahead_ms.store(-60 * MINUTE_MS as i64, Ordering::Relaxed);
        }
        world.publish().await;
        world.let_pass(1_000).await;
    }
    assert_eq!(circuit(&world, id).await, ["tripped"]);
}

#[tokio::test(start_paused = true)]
async fn a_burst_of_failures_trips_nothing_and_many_at_once_trip_it_once() {
    // S24, S29
    let world = World::under("axissynapse-v1", Config::default()).await;
    let id = world.subscribe().await;
    world.endpoint.answers([Answer::Late(500, 1_000); 16]);
    publish_many(&world, 16).await;
    world.succeeded(id, 16).await;
    assert!(circuit(&world, id).await.is_empty(), "one short outage tripped it");

    world.endpoint.answers([Answer::Late(500, 1_000); 400]);
    publish_many(&world, 400).await;
    until_circuit(&world, id, &["tripped"]).await;
    world.let_pass(MINUTE_MS).await;
    assert_eq!(circuit(&world, id).await, ["tripped"]);
}

#[tokio::test(start_paused = true)]
async fn endpoints_that_are_silent_trip_once_each_beside_healthy_ones_that_get_everything() {
    // Fault 12, S22
    let world = World::under("axissynapse-v1", Config::default()).await;
    let (mut silent, mut healthy) = (vec![], vec![]);
    for n in 0..110 {
        let url = format!("https://127.0.1.{n}:9443/hook");
        let id = world.subscribe_as(new_subscription(&url, &["user.created"])).await;
        match n % 11 {
            0 => healthy.push(id),
            _ => {
                world.endpoint.always(&url, Answer::Silence(30_000));
                silent.push(id);
            }
        }
    }
    let mut messages = vec![];
    for _ in 0..20 {
        messages.push(world.publish().await.message.to_string());
        world.let_pass(MINUTE_MS).await;
    }
    for id in silent {
        assert_eq!(circuit(&world, id).await, ["tripped"]);
    }
    let calls = world.endpoint.calls().len();
    world.let_pass(60 * MINUTE_MS).await;
    assert_eq!(world.endpoint.calls().len(), calls, "an open circuit was called");
    for id in healthy {
        assert_eq!(sorted(world.messages_delivered(id).await), sorted(messages.clone()));
    }
}

#[tokio::test(start_paused = true)]
async fn what_is_to_wait_for_an_open_circuit_is_bounded() {
    // S22, S26
    let max_open_deliveries = 88;
    let world = World::under("axissynapse-v1", Config { max_open_deliveries, ..Config::default() }).await;
    let (id, _) = tripped(&world).await;
    let open = world.deliveries(id).await;
    let DeliveryEvent::Scheduled(first) = open[0].clone() else { panic!("{:?}", open[0]) };
    let DeliveryScheduled { message, message_seq, sequence, .. } = first;
    let again = || {
        let (original, delivery) = (world.clock.delivery_id(), world.clock.delivery_id());
        let (original_failed, queue, room) = (true, true, true);
        Command::Redeliver(Redeliver {
            original,
            original_failed,
            delivery,
            message,
            message_seq,
            sequence,
            queue,
            room,
        })
    };
    let mut taken = 0;
    let refusal = loop {
        match world.engine.subscription(world.tenant, id, again(), Meta::system()).await {
            Ok(_) => taken += 1,
            Err(EngineError::Subscription(refusal)) => break refusal,
            Err(error) => panic!("{error}"),
        }
    };
    assert_eq!(refusal, Refusal::NoRoom(max_open_deliveries));
    assert_eq!(taken, max_open_deliveries - 10);
}

#[tokio::test(start_paused = true)]
async fn what_is_skipped_is_never_sent_and_everything_else_is() {
    let world = World::under("axissynapse-v1", Config::default()).await;
    let (id, early) = tripped(&world).await;
    let waiting = publish_many(&world, 20).await;
    world.let_pass(MINUTE_MS).await;
    let moment = world.clock.now();
    let late = publish_many(&world, 20).await;
    world.let_pass(MINUTE_MS).await;
    reenable(&world, id, Backlog::SkipBefore(moment)).await;
    world.succeeded(id, late.len()).await;
    world.let_pass(60 * MINUTE_MS).await;
    assert_eq!(sorted(world.messages_delivered(id).await), sorted(late));
    let cancelled = world.deliveries(id).await;
    let cancelled = cancelled.iter().filter(|event| matches!(event, DeliveryEvent::Cancelled(_))).count();
    assert_eq!(cancelled, early.len(), "those that waited in the log were never scheduled: {waiting:?}");
}

#[tokio::test(start_paused = true)]
async fn what_is_discarded_is_never_sent_and_what_comes_later_is() {
    let world = World::under("axissynapse-v1", Config::default()).await;
    let (id, _) = tripped(&world).await;
    publish_many(&world, 20).await;
    reenable(&world, id, Backlog::Discard).await;
    let late = publish_many(&world, 20).await;
    world.succeeded(id, late.len()).await;
    world.let_pass(60 * MINUTE_MS).await;
    assert_eq!(sorted(world.messages_delivered(id).await), sorted(late));
}

#[tokio::test(start_paused = true)]
async fn an_automatic_one_probes_by_itself_also_after_a_restart() {
    let world = World::under("standard-v1", Config::default()).await;
    let (id, mut messages) = tripped(&world).await;
    messages.extend(publish_many(&world, 30).await);
    let world = World::again(&world.store, world.now_ms()).await;
    world.succeeded(id, messages.len()).await;
    assert_eq!(sorted(world.messages_delivered(id).await), sorted(messages));
    assert_eq!(circuit(&world, id).await[..2], ["tripped", "probing"]);
}

#[tokio::test(start_paused = true)]
async fn filters_of_the_time_decide_what_waited() {
    // S13, S25
    let world = World::under("axissynapse-v1", Config::default()).await;
    let (id, mut messages) = tripped(&world).await;
    messages.extend(publish_many(&world, 5).await);
    let update = Update { filters: Some(vec![Filter::parse("role.changed").unwrap()]), ..Update::default() };
    world.engine.update_subscription(world.tenant, id, update, Sealable::default(), Meta::system()).await.unwrap();
    publish_many(&world, 5).await;
    messages.push(world.publish_as("role.changed").await.message.to_string());
    reenable(&world, id, Backlog::Drain).await;
    world.succeeded(id, messages.len()).await;
    world.let_pass(60 * MINUTE_MS).await;
    assert_eq!(sorted(world.messages_delivered(id).await), sorted(messages));
}

#[tokio::test(start_paused = true)]
async fn an_endpoint_that_asks_for_patience_gets_it() {
    // S23
    let world = World::under("axissynapse-v1", Config::default()).await;
    let id = world.subscribe().await;
    world.endpoint.answers([Answer::Busy(120)]);
    publish_many(&world, 3).await;
    world.endpoint.called(1).await;
    world.succeeded(id, 3).await;
    let times = world.endpoint.times();
    assert!(times[1..].iter().all(|at| *at >= times[0] + 120_000), "{times:?}");
}

#[tokio::test(start_paused = true)]
async fn a_maintenance_window_holds_everything_also_over_a_restart() {
    let world = World::under("axissynapse-v1", Config::default()).await;
    let id = world.subscribe().await;
    let until = world.clock.now().plus_ms(30 * MINUTE_MS);
    world.command(id, Command::Hold { until: Some(until), reason: None }).await;
    let messages = publish_many(&world, 20).await;
    world.let_pass(10 * MINUTE_MS).await;
    let world = World::again(&world.store, world.now_ms()).await;
    world.succeeded(id, messages.len()).await;
    assert!(world.endpoint.times().iter().all(|at| *at >= 30 * MINUTE_MS), "{:?}", world.endpoint.times());

    world.command(id, Command::Hold { until: Some(until.plus_ms(600 * MINUTE_MS)), reason: None }).await;
    world.publish().await;
    world.let_pass(MINUTE_MS).await;
    assert_eq!(world.endpoint.calls().len(), messages.len());
    world.command(id, Command::Hold { until: None, reason: None }).await;
    world.succeeded(id, messages.len() + 1).await;
}

#[tokio::test(start_paused = true)]
async fn attempts_that_have_not_begun_are_withdrawn_when_it_trips() {
    // One attempt at a time: all others wait for the permit.
    let config = Config { max_attempts: 1, ..Config::default() };
    let world = World::under("axissynapse-v1", config).await;
    let id = world.subscribe().await;
    world.endpoint.answers([Answer::Late(500, 100); 60]);
    publish_many(&world, 60).await;
    until_circuit(&world, id, &["tripped"]).await;
    world.let_pass(60 * MINUTE_MS).await;
    // One more may have begun when the tenth had ended and its end was not yet told.
    assert!(world.endpoint.calls().len() <= 11, "it was called after it had tripped");
}

#[tokio::test(start_paused = true)]
async fn few_deliveries_are_open_at_a_time_and_the_others_wait_in_the_log() {
    // S13
    let config = Config { max_open_deliveries: 8, ..Config::default() };
    let world = World::under("axissynapse-v1", config).await;
    let id = world.subscribe().await;
    world.endpoint.answers(std::iter::repeat_n(Answer::Held, 500));
    let messages = publish_many(&world, 500).await;
    world.let_pass(5 * MINUTE_MS).await;
    let events = world.deliveries(id).await;
    let open = events.iter().filter(|event| matches!(event, DeliveryEvent::Scheduled(_))).count();
    // What was on its way when the last place was taken comes together.
    assert!((8..500).contains(&open), "{open} deliveries are open");
    world.endpoint.release(500);
    world.succeeded(id, messages.len()).await;
    assert_eq!(world.messages_delivered(id).await.len(), messages.len());
    assert_eq!(sorted(world.messages_delivered(id).await), sorted(messages));
}

#[tokio::test(start_paused = true)]
async fn every_message_has_its_number_in_a_header() {
    // S33
    let world = World::under("axissynapse-v1", Config::default()).await;
    let id = world.subscribe().await;
    publish_many(&world, 5).await;
    world.succeeded(id, 5).await;
    let mut numbers: Vec<u64> =
        world.endpoint.calls().iter().map(|call| call.header("webhook-sequence").parse().unwrap()).collect();
    numbers.sort_unstable();
    assert_eq!(numbers, [1, 2, 3, 4, 5]);
}
