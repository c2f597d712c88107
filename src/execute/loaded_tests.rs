//! However a subscription is loaded, it is the same one.

use std::sync::Arc;

use proptest::prelude::*;

use super::*;
use crate::domain::subscription::Command;
use crate::domain::subscription::tests::properties::{History, Step, step};
use crate::event_store::{self, Append, Bucket, DropError, MemoryStore, Position};

const ID: SubscriptionId = SubscriptionId::from_parts(1, 1);
const SHARD: u16 = 1;

#[test]
fn the_fingerprint_is_known() {
    // With another one every snapshot is left alone until it is written anew: harmless, but not to happen by accident.
    // If `evolve` comes to mean something else and the form stays, raise STATE_VERSION.
    assert_eq!(fingerprint(), "subscription-8-9de5acce7274dfef");
}

/// A history in a log, with buckets of a minute and short periods.
struct Recording {
    log: Log,
    config: Config,
    history: History,
    loaded: Loaded,
    events: u128,
}

impl Recording {
    async fn new() -> Self {
        let log = Log::start(Arc::new(MemoryStore::new(2)), event_store::Config::default()).await.unwrap();
        let config = Config { bucket_minutes: 1, period_events: 12, ..Config::default() };
        Self { log, config, history: History::default(), loaded: Loaded::default(), events: 0 }
    }

    async fn take(&mut self, step: Step, save: bool) {
        let times = if let Step::Fail { times, .. } = step { times } else { 0 };
        for _ in 0..times {
            let Some(one) = self.history.one_failure(&step) else { return };
            self.take_one(one, save).await;
        }
        if times == 0 {
            self.take_one(step, save).await;
        }
    }

    async fn take_one(&mut self, step: Step, save: bool) {
        let lifetime = self.loaded.lifetime(&self.config, self.history.now());
        if let (Lifetime::Period(_), Life::Live(_)) = (lifetime, &self.history.state.life) {
            self.record(Step::OpenPeriod { gone: 0 }, false).await;
        }
        self.record(step, save).await;
    }

    async fn record(&mut self, step: Step, save: bool) {
        let mut opens = matches!(step, Step::OpenPeriod { .. });
        let restores = matches!(step, Step::Restore);
        let before = self.history.events.len();
        self.history.take(step);
        // As the actor does: the period before ended with the deletion.
        if restores && self.loaded.deliveries_version > 0 && self.history.events.len() > before {
            self.history.take(Step::OpenPeriod { gone: 0 });
            opens = true;
        }
        let (mut life, mut deliveries) = (vec![], vec![]);
        let lifetime = match self.loaded.lifetime(&self.config, self.history.now()) {
            Lifetime::Bucket(bucket) if opens => Lifetime::Period(bucket),
            lifetime @ (Lifetime::Kept | Lifetime::Bucket(_) | Lifetime::Period(_)) => lifetime,
        };
        for (event, at, _) in &self.history.events[before..] {
            self.loaded.evolve(event, *at);
            self.events += 1;
            let encoded = codec::encode(event);
            let new = NewEvent {
                id: EventId::from_parts(1, self.events),
                kind: encoded.kind.into(),
                schema: encoded.schema,
                at: *at,
                data: encoded.data,
                meta: None,
                content: None,
            };
            match event {
                Event::Delivery(_) => deliveries.push(new),
                Event::Subscription(_) | Event::Tenant(_) | Event::Message(_) => life.push(new),
            }
        }
        let writes = self.loaded.writes(ID, lifetime, life, deliveries);
        let mut append = Append { writes, ..Append::default() };
        if let Life::Deleted(_) = self.loaded.state.life {
            append.ended.push(deliveries_stream(ID));
            self.loaded.period = None;
        }
        append.snapshots.extend(self.loaded.snapshot(ID).filter(|_| save));
        self.log.append(SHARD, append).await.unwrap();
    }

    async fn store(&self, snapshot: Snapshot) {
        self.log.append(SHARD, Append { snapshots: vec![snapshot], ..Append::default() }).await.unwrap();
    }

    /// Loads it in every way.
    async fn check(&self, how: &str) {
        for loaded in
            [load_subscription(&self.log, ID).await.unwrap(), fold_subscription(self.log.reader(), ID).await.unwrap()]
        {
            assert_eq!(loaded.state, self.history.state, "{how}");
            assert_eq!(loaded.life_version, self.loaded.life_version, "{how}");
            if !matches!(loaded.state.life, Life::Deleted(_)) {
                assert_eq!(loaded.deliveries_version, self.loaded.deliveries_version, "{how}");
                assert_eq!(loaded.snapshot(ID), self.loaded.snapshot(ID), "{how}");
                assert_eq!(loaded.period, self.loaded.period, "{how}");
            }
        }
    }

    /// Drops what may be dropped. Answers with how many buckets are left.
    async fn drop_all(&self) -> usize {
        let ends = self.log.reader().buckets(SHARD).await.unwrap();
        let mut left = 0;
        for Bucket(bucket) in ends.iter().map(|end| end.bucket) {
            match self.log.drop_bucket(Bucket(bucket), 10).await {
                Ok(dropped) => assert!(!dropped.more),
                Err(DropError::StillLive { .. }) => left += 1,
                Err(error) => panic!("{error}"),
            }
        }
        left
    }
}

fn run(future: impl Future<Output = ()>) {
    tokio::runtime::Builder::new_current_thread().build().unwrap().block_on(future);
}

fn created() -> Step {
    Step::Create { profile: 0, enabled: true, patterns: vec![0], description_chars: None }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, ..ProptestConfig::default() })]

    #[test]
    fn every_way_to_load_it_finds_the_same(
        steps in prop::collection::vec((step(), prop::bool::weighted(0.1)), 1..120), other in 0..1_000_usize
    ) {
        run(async {
            let mut recording = Recording::new().await;
            recording.take(created(), false).await;
            let mut stored = vec![];
            for (step, save) in steps {
                recording.take(step, save).await;
                stored.extend(recording.loaded.snapshot(ID));
            }
            recording.check("with the snapshots that were made").await;
            let left = recording.drop_all().await;
            assert!(left <= 1, "a period rests on one bucket, not on {left}");
            recording.check("without the buckets that nobody needs").await;
            // Whichever snapshot is the last one.
            let snapshot = stored[other % stored.len()].clone();
            recording.store(snapshot.clone()).await;
            recording.check("with any snapshot").await;
            recording.store(Snapshot { fingerprint: "another".into(), data: "{".into(), ..snapshot.clone() }).await;
            recording.check("with a snapshot of another form").await;
            recording.store(Snapshot { data: snapshot.data[1..].to_owned(), ..snapshot }).await;
            recording.check("with a damaged snapshot").await;
        });
    }
}

#[test]
fn a_snapshot_that_lies_about_its_versions_is_not_believed() {
    run(async {
        let mut recording = Recording::new().await;
        recording.take(created(), false).await;
        recording.take(Step::Match { gap: None, steps: vec![0; 5] }, false).await;
        let truth = recording.loaded.clone();
        for (life, deliveries) in [(1, 0), (0, 1), (3, 3)] {
            let mut lie = truth.clone();
            lie.life_version += life;
            lie.deliveries_version += deliveries;
            lie.state = Subscription::default();
            recording.store(lie.snapshot(ID).unwrap()).await;
            recording.check("with versions beyond the streams'").await;
        }
        // Versions that there are, of events that never were: those of an append that failed.
        let lie = Loaded {
            deliveries_event: Some(EventId::from_parts(9, 9)),
            state: Subscription::default(),
            ..truth.clone()
        };
        recording.store(lie.snapshot(ID).unwrap()).await;
        recording.check("with events that are not in the log").await;
        let lie = Loaded { life_event: Some(EventId::from_parts(9, 9)), state: Subscription::default(), ..truth };
        recording.store(lie.snapshot(ID).unwrap()).await;
        recording.check("with events that are not in the log").await;
    });
}

#[test]
fn a_missing_version_is_an_error_and_no_state() {
    run(async {
        let mut recording = Recording::new().await;
        recording.take(created(), false).await;
        recording.take(Step::Match { gap: None, steps: vec![0; 5] }, false).await;
        // As if the period had begun somewhere else.
        let pages = Pages::new(recording.log.reader(), deliveries_stream(ID), 0).all().await;
        let before = Position { shard: SHARD, seq: 2 };
        assert_eq!(pages, Err(LoadError::Missing { stream: deliveries_stream(ID), version: 0, before }));
    });
}

#[test]
fn a_subscription_that_never_was_has_no_state_and_no_snapshot() {
    run(async {
        let recording = Recording::new().await;
        let loaded = load_subscription(&recording.log, ID).await.unwrap();
        assert_eq!((loaded.snapshot(ID), loaded.life_version), (None, 0));
        assert!(subscription::decide(&loaded.state, Command::Enable).is_err());
    });
}
