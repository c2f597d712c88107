//! When attempts are made.

use std::sync::Arc;

use tidings::actors::Config;
use tidings::clock::{Clock, SeededClock};
use tidings::domain::event::DeliveryEvent;
use tidings::domain::id::SubscriptionId;
use tidings::domain::profile::{self, Jitter, Profile, Retry};
use tidings::domain::time::Timestamp;
use tidings::event_store::MemoryStore;

use crate::support::simulation::{Answer, START, World};

#[tokio::test(start_paused = true)]
async fn a_published_message_is_delivered_at_once() {
    // A11, A29
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
    world.recorded(subscription, ended_in_failure).await;
    world.let_pass(3_600_000).await;
    assert_eq!(world.endpoint.times(), [0, 2_000, 6_000, 14_000, 30_000]);
}

#[tokio::test(start_paused = true)]
async fn a_wait_begins_when_the_failed_attempt_has_ended() {
    // A29, A30
    let world = World::new().await;
    let subscription = world.subscribe().await;
    world.endpoint.answers([
        Answer::Late(503, 700),
        Answer::Silence(30_000),
        Answer::Late(202, 1),
        Answer::Late(301, 9_999),
        Answer::Status(404),
    ]);
    world.publish().await;
    world.recorded(subscription, ended_in_failure).await;
    assert_eq!(world.endpoint.times(), [0, 2_700, 36_700, 44_701, 70_700]);
}

#[tokio::test(start_paused = true)]
async fn the_second_attempt_sends_the_same_message_and_its_success_is_the_end() {
    // A27, S15
    let world = World::new().await;
    let subscription = world.subscribe().await;
    world.endpoint.answers([Answer::Status(500)]);
    world.publish().await;
    world.succeeded(subscription, 1).await;
    world.let_pass(3_600_000).await;
    let calls = world.endpoint.calls();
    let [first, second] = calls.as_slice() else { panic!("{} attempts", calls.len()) };
    assert_eq!([first.at_ms, second.at_ms], [0, 2_000]);
    assert_eq!(first.body, second.body);
    assert_eq!(first.header("webhook-id"), second.header("webhook-id"));
    assert_eq!(first.header("X-Webhook-Signature"), second.header("X-Webhook-Signature"));
    assert_eq!(first.header("X-Webhook-Timestamp"), "1763894415");
    assert_eq!(second.header("X-Webhook-Timestamp"), "1763894417");
}

#[tokio::test(start_paused = true)]
async fn each_message_keeps_its_own_schedule() {
    let world = World::new().await;
    let subscription = world.subscribe().await;
    world.endpoint.answers([Answer::Status(500), Answer::Status(500)]);
    world.publish().await;
    world.let_pass(1_500).await;
    world.publish().await;
    world.succeeded(subscription, 2).await;
    assert_eq!(world.endpoint.times(), [0, 1_500, 2_000, 3_500]);
}

#[tokio::test(start_paused = true)]
async fn one_subscription_sends_no_more_at_a_time_than_its_share() {
    let world = World::with(Config { max_attempts_per_subscription: 3, ..Config::default() }).await;
    let subscription = world.subscribe().await;
    world.endpoint.answers([Answer::Held; 7]);
    for _ in 0..7 {
        world.publish().await;
    }
    for sent in 3..=7 {
        world.let_pass(1_000).await;
        assert_eq!(world.endpoint.calls().len(), sent);
        world.endpoint.release(1);
    }
    world.endpoint.release(2);
    world.succeeded(subscription, 7).await;
}

#[tokio::test(start_paused = true)]
async fn an_endpoint_that_hangs_delays_no_other_subscription() {
    let world = World::new().await;
    let hanging = world.subscribe().await;
    world.endpoint.answers([Answer::Held; 50]);
    for _ in 0..50 {
        world.publish().await;
    }
    world.endpoint.called(16).await;
    world.endpoint.forget_script();
    let other = world.subscribe().await;
    world.publish().await;
    world.succeeded(other, 1).await;
    assert_eq!(world.now_ms(), 0);
    assert_eq!(world.deliveries(hanging).await.len(), 51);
}

/// A clock that some readings find a millisecond behind, as the wall clock is behind the timers now and then.
struct UnsteadyClock {
    steady: SeededClock,
    chance: SeededClock,
}

impl Clock for UnsteadyClock {
    fn now(&self) -> Timestamp {
        let chance: &dyn Clock = &self.chance;
        let behind_ms = chance.random_u64() % 2;
        Timestamp::from_ms(self.steady.now().as_ms() - behind_ms as i64)
    }

    fn fill(&self, buffer: &mut [u8]) {
        self.steady.fill(buffer);
    }
}

#[tokio::test(start_paused = true)]
async fn a_retry_is_not_missed_when_the_clock_reaches_its_time_between_two_looks() {
    let clock = UnsteadyClock { steady: SeededClock::new(START, 1), chance: SeededClock::new(START, 2) };
    let world = World::over(MemoryStore::new(1), Arc::new(clock), Config::default()).await;
    world.found_tenant("axie-v1").await;
    let subscription = world.subscribe().await;
    for round in 0..20 {
        world.endpoint.answers([Answer::Status(500)]);
        world.publish().await;
        world.succeeded(subscription, round + 1).await;
        let times = world.endpoint.times();
        let waited_ms = times[2 * round + 1] - times[2 * round];
        assert!((1_998..=2_010).contains(&waited_ms), "{waited_ms}");
    }
}

fn ended_in_failure(events: &[DeliveryEvent]) -> bool {
    matches!(events.last(), Some(DeliveryEvent::Exhausted(_)))
}

/// Whether each attempt of the one delivery began at the millisecond that was recorded for it, and so many were made;
/// answers with the delays behind each failure.
async fn recorded_delays(world: &World, subscription: SubscriptionId, attempts: usize, hours: u64) -> Vec<u64> {
    world.endpoint.answers(vec![Answer::Late(500, 70); attempts + 1]);
    world.publish().await;
    // Longer than the schedule can last.
    world.let_pass(hours * 3_600_000).await;
    let events = world.recorded(subscription, ended_in_failure).await;
    let failed = events
        .iter()
        .filter_map(|event| if let DeliveryEvent::AttemptFailed(failed) = event { Some(failed) } else { None });
    let due: Vec<u64> = failed.filter_map(|failed| failed.due_at).map(|due_at| due_at.ms_since(START)).collect();
    let times = world.endpoint.times();
    assert_eq!(times.len(), attempts);
    assert_eq!(times[1..], due);
    times.windows(2).map(|pair| pair[1] - pair[0] - 70).collect()
}

fn within(delays: &[u64], bounds: impl IntoIterator<Item = (u64, u64)>) {
    let bounds: Vec<_> = bounds.into_iter().collect();
    assert_eq!(delays.len(), bounds.len(), "{delays:?}");
    for (delay, (least, most)) in delays.iter().zip(bounds) {
        assert!((least..=most).contains(delay), "{delay} is not within {least} and {most}");
    }
}

#[tokio::test(start_paused = true)]
async fn axissynapse_tries_eight_times_each_at_the_recorded_millisecond() {
    // S21
    let world = World::under("axissynapse-v1", Config::default()).await;
    let subscription = world.subscribe().await;
    let delays = recorded_delays(&world, subscription, 8, 2).await;
    let longest = [5_000, 15_000, 45_000, 135_000, 405_000, 600_000, 600_000];
    within(&delays, longest.map(|longest| (longest / 2, longest)));
}

#[tokio::test(start_paused = true)]
async fn standard_webhooks_tries_eight_times_each_at_the_recorded_millisecond() {
    let world = World::under("standard-v1", Config::default()).await;
    let subscription = world.subscribe().await;
    let delays = recorded_delays(&world, subscription, 8, 40).await;
    let published = [5_000, 300_000, 1_800_000, 7_200_000, 18_000_000, 36_000_000, 36_000_000];
    within(&delays, published.map(|published| (published, published + published / 10)));
}

#[tokio::test(start_paused = true)]
async fn decorrelated_delays_rest_on_the_recorded_one_before_also_behind_a_restart() {
    let retry = Retry::Exponential { base_ms: 2_000, factor: 3, cap_ms: 60_000, attempts: 12, window_ms: 3_600_000 };
    let known = profile::find("axissynapse-v1").unwrap().clone();
    let name = "decorrelated-v1".to_owned();
    profile::add(Profile { name, retry, jitter: Jitter::Decorrelated, ..known }).unwrap();
    // Leaves memory between any two attempts, so the delay before is known from the log alone.
    let config = Config { idle_after_ms: 500, ..Config::default() };
    let world = World::under("decorrelated-v1", config).await;
    let subscription = world.subscribe().await;
    let delays = recorded_delays(&world, subscription, 12, 1).await;
    let before = [2_000].into_iter().chain(delays.iter().copied());
    within(&delays, before.take(delays.len()).map(|before| (2_000, (before * 3).min(60_000))));
}
