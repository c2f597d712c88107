//! Jobs: many deliveries made again, a few at a time, and none of them twice.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use tidings::actors::{Backlog, Config, EngineError, NewJob};
use tidings::codec;
use tidings::domain::event::{DeliveryEvent, Event, SubscriptionEvent};
use tidings::domain::id::{DeliveryId, JobId, SubscriptionId};
use tidings::domain::job::{Ended, JobEnded, JobOutcome, Selection, Source, Waiting};
use tidings::domain::profile::{self, Profile, Retry};
use tidings::domain::subscription::{Command, Refusal};
use tidings::event_store::EventReader;
use tidings::execute::{Meta, subscription_stream};

use crate::support::simulation::{Answer, Call, START, URL, World, life};
use crate::support::watched_store::WatchedStore;

/// Like `standard-v1`, but a failed attempt is the last one, and no circuit trips.
const ONE_TRY: &str = "one-try-v1";

async fn world(profile: &str) -> World {
    let standard = profile::find("standard-v1").unwrap().clone();
    let retry = Retry::List { delays_ms: vec![] };
    profile::add(Profile { name: ONE_TRY.into(), breaker: None, retry, ..standard }).unwrap();
    World::under(profile, Config::default()).await
}

/// A subscription that so many messages were sent to, all of which ended so; and those calls.
async fn ended(world: &World, count: usize, status: u16) -> (SubscriptionId, Vec<Call>) {
    let id = world.subscribe().await;
    world.endpoint.always(URL, Answer::Status(status));
    for _ in 0..count {
        world.publish().await;
    }
    let ends = |events: &[DeliveryEvent]| {
        let ended = |event: &&DeliveryEvent| matches!(event, DeliveryEvent::Exhausted(_) | DeliveryEvent::Succeeded(_));
        events.iter().filter(ended).count()
    };
    world.recorded(id, |events| ends(events) == count).await;
    world.endpoint.always(URL, Answer::Status(200));
    (id, world.endpoint.calls())
}

fn all(world: &World, status: Ended) -> NewJob {
    let source = Source::Redelivery(vec![status]);
    let through = world.engine.head(world.tenant).seq;
    let selection = Selection { source, after: 0, through, filters: vec![] };
    NewJob { selection, rate_per_s: 50, total: None, queue: false }
}

async fn start(world: &World, id: SubscriptionId, job: NewJob) -> JobId {
    world.engine.start_job(world.tenant, id, job, Meta::system()).await.unwrap().0
}

/// How the subscription's jobs ended.
async fn ends(world: &World, id: SubscriptionId) -> Vec<JobEnded> {
    let recorded = world.store.memory.read_stream(&subscription_stream(id), 1, usize::MAX).await.unwrap();
    let end = |event: Event| match event {
        Event::Subscription(SubscriptionEvent::JobEnded(ended)) => Some(ended),
        Event::Subscription(_) | Event::Tenant(_) | Event::Message(_) | Event::Delivery(_) => None,
    };
    recorded.iter().filter_map(|recorded| end(codec::decode(recorded).unwrap())).collect()
}

/// How often each delivery was made again.
async fn repeated(world: &World, id: SubscriptionId) -> HashMap<DeliveryId, usize> {
    let mut repeated = HashMap::new();
    for event in world.deliveries(id).await {
        if let DeliveryEvent::Scheduled(scheduled) = event
            && let Some(original) = scheduled.redelivery_of
        {
            *repeated.entry(original).or_default() += 1;
        }
    }
    repeated
}

async fn waiting(world: &World, id: SubscriptionId) -> Option<Waiting> {
    world.engine.running_job(world.tenant, id).await.unwrap().unwrap().waiting
}

fn sent(calls: &[Call]) -> Vec<(String, String)> {
    let mut sent: Vec<_> = calls.iter().map(|call| (call.header("webhook-id").to_owned(), call.body.clone())).collect();
    sent.sort();
    sent
}

#[test]
fn failed_deliveries_are_made_again_at_the_jobs_pace_with_the_same_ids_and_bytes() {
    // §5.2 fault 21
    life(async || {
        let world = world(ONE_TRY).await;
        let (id, first) = ended(&world, 120, 500).await;
        let began = world.now_ms();
        let job = start(&world, id, all(&world, Ended::Failed)).await;
        world.endpoint.called(240).await;
        world.let_pass(1).await;
        let again = &world.endpoint.calls()[120..];
        // 50 a second: steps of 13, which take 260 ms each.
        let expected: Vec<u64> = (0..120).map(|nth| began + nth / 13 * 260).collect();
        assert_eq!(again.iter().map(|call| call.at_ms).collect::<Vec<_>>(), expected);
        assert_eq!(sent(again), sent(&first));
        let done = JobEnded { job, outcome: JobOutcome::Done, scheduled: 120, passed_over: 0 };
        assert_eq!(ends(&world, id).await, [done]);
        assert_eq!(world.engine.running_job(world.tenant, id).await, Ok(None));
        world.let_pass(60_000).await;
        assert_eq!(world.endpoint.calls().len(), 240);
    });
}

#[test]
fn a_second_job_finds_nothing_left_of_what_the_first_made_again() {
    life(async || {
        let world = world(ONE_TRY).await;
        let (id, _) = ended(&world, 20, 500).await;
        let (first, second) = (all(&world, Ended::Failed), all(&world, Ended::Failed));
        start(&world, id, first).await;
        world.endpoint.called(40).await;
        world.let_pass(1_000).await;
        let job = start(&world, id, second).await;
        world.let_pass(1_000).await;
        let nothing = JobEnded { job, outcome: JobOutcome::Done, scheduled: 0, passed_over: 20 };
        assert_eq!(ends(&world, id).await[1], nothing);
        assert_eq!(world.endpoint.calls().len(), 40);
    });
}

#[test]
fn a_job_goes_on_where_it_was_after_a_restart_at_any_moment() {
    // §5.2 fault 21
    for crash_after_ms in [0, 1, 259, 260, 261, 700] {
        let (left, (id, first)) = life(async || {
            let world = world(ONE_TRY).await;
            let (id, first) = ended(&world, 60, 500).await;
            start(&world, id, all(&world, Ended::Failed)).await;
            world.let_pass(crash_after_ms).await;
            let left: Arc<WatchedStore> = Arc::clone(&world.store);
            (left, (id, (first, world.now_ms())))
        });
        let (first, ended_ms) = first;
        life(async || {
            let world = World::again(&left, ended_ms + 100).await;
            world.let_pass(5_000).await;
            let repeated = repeated(&world, id).await;
            assert_eq!((repeated.len(), repeated.values().max()), (60, Some(&1)), "after {crash_after_ms} ms");
            let [done] = &ends(&world, id).await[..] else { panic!("one end after {crash_after_ms} ms") };
            assert_eq!((done.outcome, done.scheduled), (JobOutcome::Done, 60));
            let mut delivered = world.messages_delivered(id).await;
            delivered.sort();
            let mut published: Vec<_> = sent(&first).into_iter().map(|(message, _)| message).collect();
            published.sort();
            assert_eq!(delivered, published);
        });
    }
}

#[test]
fn a_cancelled_job_begins_nothing_more_and_what_it_began_goes_on() {
    life(async || {
        let world = world(ONE_TRY).await;
        let (id, _) = ended(&world, 60, 500).await;
        world.endpoint.always(URL, Answer::Late(200, 400));
        let job = start(&world, id, all(&world, Ended::Failed)).await;
        world.let_pass(300).await;
        world.engine.cancel_job(world.tenant, id, job, Meta::system()).await.unwrap();
        let [cancelled] = &ends(&world, id).await[..] else { panic!("it has ended once") };
        assert_eq!(cancelled.outcome, JobOutcome::Cancelled);
        world.let_pass(60_000).await;
        assert_eq!(world.messages_delivered(id).await.len() as u64, cancelled.scheduled);
        assert_eq!(repeated(&world, id).await.len() as u64, cancelled.scheduled);
        assert!((1..60).contains(&cancelled.scheduled), "{}", cancelled.scheduled);
        let again = world.engine.cancel_job(world.tenant, id, job, Meta::system()).await;
        assert_eq!(again, Err(EngineError::Subscription(Refusal::NoSuchJob(job))));
    });
}

#[test]
fn a_job_waits_while_the_circuit_is_open_and_goes_on_when_the_endpoint_is_well() {
    life(async || {
        let world = world("standard-v1").await;
        let (id, _) = ended(&world, 300, 200).await;
        start(&world, id, all(&world, Ended::Succeeded)).await;
        world.let_pass(300).await;
        // Two steps so far. From now on the endpoint fails: of each step one failure counts, and ten trip the circuit.
        assert_eq!(world.endpoint.calls().len(), 300 + 26);
        world.endpoint.always(URL, Answer::Late(500, 10));
        for _ in 0..100 {
            world.let_pass(100).await;
            if waiting(&world, id).await == Some(Waiting::Circuit) {
                break;
            }
        }
        assert_eq!(waiting(&world, id).await, Some(Waiting::Circuit));
        let begun = repeated(&world, id).await.len();
        assert!(begun < 200, "{begun}");
        world.let_pass(10_000).await;
        assert_eq!(repeated(&world, id).await.len(), begun, "something was begun while the circuit was open");
        let other = world.engine.start_job(world.tenant, id, all(&world, Ended::Succeeded), Meta::system()).await;
        assert!(matches!(other, Err(EngineError::Subscription(Refusal::JobRunning(_)))));
        world.endpoint.always(URL, Answer::Status(200));
        world.engine.reenable(world.tenant, id, Backlog::Drain, Meta::system()).await.unwrap();
        world.let_pass(600_000).await;
        let repeated = repeated(&world, id).await;
        assert_eq!((repeated.len(), repeated.values().max()), (300, Some(&1)));
        assert_eq!(ends(&world, id).await[0].outcome, JobOutcome::Done);
    });
}

/// The endpoint fails, and what comes meanwhile trips the circuit.
async fn trip(world: &World) {
    world.endpoint.always(URL, Answer::Late(500, 10));
    for _ in 0..12 {
        world.publish().await;
        world.let_pass(100).await;
    }
}

#[test]
fn a_job_is_the_probe_where_nothing_else_is_owed() {
    life(async || {
        let world = world("standard-v1").await;
        let (id, _) = ended(&world, 20, 200).await;
        trip(&world).await;
        world.endpoint.always(URL, Answer::Status(200));
        for timer in world.engine.timers(world.tenant, id, None, 100).await.unwrap().waiting {
            world.command(id, Command::Cancel { delivery: timer.delivery, reason: None }).await;
        }
        start(&world, id, NewJob { queue: true, ..all(&world, Ended::Succeeded) }).await;
        world.engine.reenable(world.tenant, id, Backlog::Discard, Meta::system()).await.unwrap();
        world.let_pass(60_000).await;
        assert_eq!(repeated(&world, id).await.len(), 20);
        assert_eq!(ends(&world, id).await[0].outcome, JobOutcome::Done);
    });
}

#[test]
fn a_job_is_refused_while_the_circuit_is_open_unless_it_may_wait() {
    life(async || {
        let world = world("standard-v1").await;
        let (id, _) = ended(&world, 20, 200).await;
        trip(&world).await;
        let refused = world.engine.start_job(world.tenant, id, all(&world, Ended::Succeeded), Meta::system()).await;
        assert_eq!(refused, Err(EngineError::Subscription(Refusal::CircuitOpen)));
        start(&world, id, NewJob { queue: true, ..all(&world, Ended::Succeeded) }).await;
        assert_eq!(waiting(&world, id).await, Some(Waiting::Circuit));
        assert_eq!(repeated(&world, id).await.len(), 0);
    });
}

#[test]
fn a_job_waits_while_the_subscription_is_disabled_or_held() {
    life(async || {
        let world = world(ONE_TRY).await;
        let (id, _) = ended(&world, 60, 500).await;
        start(&world, id, all(&world, Ended::Failed)).await;
        world.let_pass(300).await;
        assert_eq!(repeated(&world, id).await.len(), 26);
        world.disable(id).await;
        world.let_pass(60_000).await;
        assert_eq!((repeated(&world, id).await.len(), waiting(&world, id).await), (26, Some(Waiting::Disabled)));
        let until = START.plus_ms(world.now_ms() + 10_000);
        world.command(id, Command::Hold { until: Some(until), reason: None }).await;
        world.enable(id).await;
        world.let_pass(9_999).await;
        assert_eq!((repeated(&world, id).await.len(), waiting(&world, id).await), (26, Some(Waiting::Held(until))));
        world.let_pass(2).await;
        assert_eq!(repeated(&world, id).await.len(), 39);
        world.let_pass(5_000).await;
        assert_eq!(ends(&world, id).await[0].scheduled, 60);
    });
}

#[test]
fn a_job_begins_no_more_than_is_sent_at_a_time_and_lets_others_pass() {
    life(async || {
        let world = world(ONE_TRY).await;
        let (id, _) = ended(&world, 100, 500).await;
        // Each answer takes ten seconds, so 16 attempts at a time are 1.6 in a second, however fast the job may be.
        world.endpoint.always(URL, Answer::Late(200, 10_000));
        start(&world, id, NewJob { rate_per_s: 500, ..all(&world, Ended::Failed) }).await;
        world.let_pass(5_000).await;
        assert_eq!(repeated(&world, id).await.len(), 16);
        let live = world.publish().await.message.to_string();
        world.let_pass(6_000).await;
        let calls = world.endpoint.calls();
        let place = calls.iter().position(|call| call.header("webhook-id") == live).unwrap();
        assert!(place <= 100 + 16 + 1, "it waited behind {place} calls");
    });
}

#[test]
fn a_look_that_fails_is_made_again_a_second_later() {
    life(async || {
        let world = world(ONE_TRY).await;
        let (id, _) = ended(&world, 5, 500).await;
        world.candidates.failing.store(2, Ordering::SeqCst);
        let began = world.now_ms();
        start(&world, id, all(&world, Ended::Failed)).await;
        let calls = world.endpoint.called(10).await;
        assert_eq!(calls[5..].iter().map(|call| call.at_ms).collect::<Vec<_>>(), [began + 2_000; 5]);
    });
}
