//! The whole engine under chance: one seed decides what is published and asked for, how endpoints answer, when commits
//! fail, when the process dies and for how long, and everything must add up.
//!
//! `SIMULATION_SEED=n` repeats one seed, `SIMULATION_SEEDS=n` runs the seeds from 1 to n; `scripts/simulate` does.

mod books;
mod ledger;

use std::collections::{BTreeMap, BTreeSet};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tidings::actors::{Backlog, Config, Engine, EngineError, NewJob, Retention, Sealable};
use tidings::clock::{Clock, SeededClock};
use tidings::domain::event::TenantCreated;
use tidings::domain::filter::Filter;
use tidings::domain::id::{MessageId, SubscriptionId, TenantId};
use tidings::domain::job::{Ended, Selection, Source};
use tidings::domain::message::{self, Publish};
use tidings::domain::subscription::{Command, Redeliver, Refusal, Restore, Update};
use tidings::domain::time::Timestamp;
use tidings::event_store::{self, EventReader, EventStore, Log, MemoryStore, Position, Recorded};
use tidings::execute::{Meta, fold_subscription, load_subscription, retention};

use self::ledger::{End, Ledger};
use crate::support::simulation::{Answer, Call, START, World, life, new_subscription};
use crate::support::watched_store::{Archive, WatchedStore};

/// Seeds of the short form.
const SEEDS: u64 = 20;
const SHARDS: u16 = 4;
const HOUR_MS: u64 = 3_600_000;
/// A commit takes no longer, waiting for the one before it included.
const DURABLE_AFTER_MS: u64 = 100;
/// Longer than any schedule, pause and probe together.
const LONG_MS: u64 = 48 * HOUR_MS;
const PROFILES: [&str; 3] = ["axie-v1", "axissynapse-v1", "standard-v1"];
const TYPES: [&str; 3] = ["user.created", "user.updated", "user.deleted"];

/// SplitMix64.
struct Chance(u64);

impl Chance {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut bits = self.0;
        bits = (bits ^ (bits >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        bits = (bits ^ (bits >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        bits ^ (bits >> 31)
    }

    fn below(&mut self, bound: u64) -> u64 {
        self.next() % bound
    }

    fn one_in(&mut self, bound: u64) -> bool {
        self.below(bound) == 0
    }

    fn of<T: Copy>(&mut self, values: &[T]) -> T {
        values[self.below(values.len() as u64) as usize]
    }
}

/// A subscription that the simulation made; its number stands in its URLs.
#[derive(Clone)]
struct Subject {
    id: SubscriptionId,
    tenant: TenantId,
    profile: &'static str,
    number: usize,
}

impl Subject {
    fn url(&self, version: u64) -> String {
        url(self.number, version)
    }
}

fn url(number: usize, version: u64) -> String {
    format!("https://127.0.0.1:9443/{number}/{version}")
}

/// Whose URL that is.
fn number_of(url: &str) -> usize {
    url.split('/').nth(3).unwrap().parse().unwrap()
}

/// What outlives a crash, and what the simulation remembers to compare with the log.
struct Simulation {
    chance: Chance,
    config: Config,
    retention: Retention,
    memory: MemoryStore,
    /// What retention has dropped.
    archive: Archive,
    /// What the clock says.
    at_ms: u64,
    /// By how much that is more than the time that has passed: the clock was set forward.
    ahead_ms: i64,
    /// Where the log of each shard ended with each life, and how far the clock was ahead in it.
    lives: Vec<(Vec<u64>, i64)>,
    tenants: Vec<TenantId>,
    subjects: Vec<Subject>,
    acknowledged: Arc<Mutex<BTreeSet<MessageId>>>,
    calls: Vec<Call>,
}

impl Simulation {
    fn new(seed: u64) -> Self {
        let mut chance = Chance(seed);
        let config = Config {
            regions: chance.of(&[1, 2, 16]),
            max_attempts: chance.of(&[1, 2, 8, 512]),
            max_attempts_per_subscription: chance.of(&[1, 2, 16]),
            max_open_deliveries: chance.of(&[4, 8, 16, 64]),
            idle_after_ms: chance.of(&[1_000, 5_000, 60_000]),
            match_credits: chance.of(&[1, 8, 16, 100]),
            snapshot_every_events: chance.of(&[0, 1, 5, 50]),
            ..Config::default()
        };
        let bounds = retention::Config {
            events_minutes: chance.of(&[0, 60, 600, 2_880]),
            check_every_ms: chance.of(&[60_000, 600_000]),
            bucket_minutes: chance.of(&[10, 60, 1_440]),
            period_events: chance.of(&[10, 50, 100_000]),
            ..retention::Config::default()
        };
        let retention = Retention { config: bounds, ..Retention::default() };
        Self {
            chance,
            config,
            retention,
            memory: MemoryStore::new(SHARDS),
            archive: Archive::default(),
            at_ms: 0,
            ahead_ms: 0,
            lives: vec![],
            tenants: vec![],
            subjects: vec![],
            acknowledged: Arc::default(),
            calls: vec![],
        }
    }

    /// From the first tenant to the last delivery; returns the whole log.
    fn run(mut self) -> Vec<Recorded> {
        self.one_life(async |simulation, world| simulation.found(world).await);
        for _ in 0..2 + self.chance.below(4) {
            self.one_life(async |simulation, world| {
                for _ in 0..5 + simulation.chance.below(30) {
                    simulation.step(world).await;
                }
                simulation.come_to_a_crash(world).await;
            });
            self.check();
            self.at_ms += self.chance.of(&[0, 1, 500, 5_000, 60_000, HOUR_MS, 20 * HOUR_MS]);
            self.set_the_clock();
        }
        // Hours in which hardly anything happens need not be swept four times a second.
        self.config.idle_after_ms = 30_000;
        self.one_life(async |simulation, world| simulation.settle(world).await);
        let ledger = self.check();
        ledger.assert_settled();
        let acknowledged = self.acknowledged.lock().unwrap();
        let lost: Vec<_> = acknowledged.difference(&ledger.messages).collect();
        assert!(lost.is_empty(), "acknowledged and not in the log: {lost:?}");
        drop(acknowledged);
        self.events()
    }

    /// Forward or back, while nobody looks; not to before the beginning.
    fn set_the_clock(&mut self) {
        let hour_ms = HOUR_MS as i64;
        let by_ms = self.chance.of(&[0, 0, 0, 5_000, 60_000, hour_ms, 20 * hour_ms, -5_000, -60_000, -hour_ms]);
        let by_ms = by_ms.max(-(self.at_ms as i64));
        self.at_ms = self.at_ms.saturating_add_signed(by_ms);
        self.ahead_ms += by_ms;
    }

    /// The time that had passed when the clock said that, in the life that wrote what stands there.
    fn passed_ms(&self, clock_ms: u64, position: Position) -> u64 {
        let shard = usize::from(position.shard);
        let life = self.lives.iter().find(|(heads, _)| position.seq <= heads[shard]);
        (clock_ms as i64 - life.map_or(self.ahead_ms, |(_, ahead_ms)| *ahead_ms)) as u64
    }

    fn ledger(&self) -> Ledger {
        Ledger::of(&self.events(), |clock_ms, position| self.passed_ms(clock_ms, position))
    }

    fn one_life(&mut self, work: impl AsyncFnOnce(&mut Self, &World)) {
        life(async || {
            let clock: Arc<dyn Clock> = Arc::new(SeededClock::new(START.plus_ms(self.at_ms), self.chance.next()));
            let (config, retention) = (self.config.clone(), self.retention.clone());
            let world = World::keeping(self.memory.reopen(), clock, config, retention).await;
            world.store.keep_what_is_dropped(Arc::clone(&self.archive));
            work(self, &world).await;
            self.at_ms = world.now_ms();
            let ahead_ms = self.ahead_ms;
            self.calls.extend(world.endpoint.calls().into_iter().map(|mut call| {
                call.at_ms = (call.at_ms as i64 - ahead_ms) as u64;
                call
            }));
        });
        let head = |shard| futures_util::FutureExt::now_or_never(self.memory.head(shard)).unwrap().unwrap();
        self.lives.push(((0..SHARDS).map(head).collect(), self.ahead_ms));
    }

    async fn found(&mut self, world: &World) {
        for number in 0..1 + self.chance.below(3) {
            let profile = self.chance.of(&PROFILES);
            let tenant = world.clock.tenant_id();
            let slug = format!("ent_{number}");
            let created = TenantCreated { tenant, name: "Acme".into(), slug, profile: profile.into() };
            world.engine.create_tenant(created, Meta::system()).await.unwrap();
            self.tenants.push(tenant);
            for _ in 0..1 + self.chance.below(4) {
                let number = self.subjects.len();
                let mut new = new_subscription(&url(number, 0), &[]);
                new.filters = self.filters(profile);
                new.enabled = Some(!self.chance.one_in(6));
                let (id, ..) = world.engine.create_subscription(tenant, new, Meta::system()).await.unwrap();
                self.subjects.push(Subject { id, tenant, profile, number });
            }
        }
    }

    fn filters(&mut self, profile: &str) -> Vec<Filter> {
        let sets: &[&[&str]] = match profile {
            "axie-v1" => &[&["user.created"], &["user.created", "user.updated"], &["user.deleted"]],
            _ => &[&["user.created"], &["user.**"], &["**"], &["user.updated", "user.deleted"], &[]],
        };
        self.chance.of(sets).iter().map(|filter| Filter::parse(filter).unwrap()).collect()
    }

    async fn step(&mut self, world: &World) {
        match self.chance.below(20) {
            0..9 => self.publish(world),
            9..12 => self.change_an_endpoint(world),
            12..16 => self.ask_for_something(world).await,
            16 => self.ask_for_a_job(world).await,
            17 => world.store.shake(self.chance.of(&[3, 5, 20]), self.chance.next()),
            18 => world.store.fill(self.chance.one_in(3)),
            _ => world.store.take_for_a_commit(self.chance.of(&[0, 0, 1, 20])),
        }
        match self.chance.of(&[0, 0, 0, 1, 10, 100, 1_000, 5_000, 60_000, 600_000]) {
            0 => self.yield_some().await,
            600_000 if self.chance.one_in(8) => world.let_pass(HOUR_MS).await,
            ms => world.let_pass(ms).await,
        }
        if self.chance.one_in(3) {
            world.store.fill(false);
        }
    }

    /// Stops at any await of anybody.
    async fn yield_some(&mut self) {
        for _ in 0..self.chance.below(40) {
            tokio::task::yield_now().await;
        }
    }

    /// A burst, whose answers nobody waits for.
    fn publish(&mut self, world: &World) {
        let tenant = self.chance.of(&self.tenants);
        for _ in 0..1 + self.chance.below(12) {
            let event_type = self.chance.of(&TYPES);
            let key = self.chance.one_in(4).then(|| self.chance.below(50).to_string());
            let (engine, acknowledged) = (world.engine.clone(), Arc::clone(&self.acknowledged));
            tokio::spawn(async move {
                if let Ok(message) = publish(&engine, tenant, event_type, key).await {
                    acknowledged.lock().unwrap().insert(message);
                }
            });
        }
    }

    fn change_an_endpoint(&mut self, world: &World) {
        let subject = self.any();
        let answers = [
            Answer::Status(200),
            Answer::Status(200),
            Answer::Status(200),
            Answer::Status(500),
            Answer::Status(500),
            Answer::Status(503),
            Answer::Busy(30),
            Answer::Busy(5_000),
            Answer::Late(200, 700),
            Answer::Late(200, 9_000),
            Answer::Late(500, 3_000),
            Answer::Silence(15_000),
            Answer::Panic,
        ];
        let answer = if self.chance.one_in(40) { Answer::Status(410) } else { self.chance.of(&answers) };
        for version in 0..3 {
            world.endpoint.always(&subject.url(version), answer);
        }
    }

    /// Of whatever failed, of everything, or of what was missed, from anywhere on.
    fn job(&mut self, world: &World, tenant: TenantId) -> NewJob {
        let all = vec![Ended::Failed, Ended::Succeeded, Ended::Cancelled];
        let source = match self.chance.below(3) {
            0 => Source::Redelivery(vec![Ended::Failed]),
            1 => Source::Redelivery(all),
            _ => Source::Backfill,
        };
        let through = world.engine.head(tenant).seq;
        let after = self.chance.below(through + 1);
        let selection = Selection { source, after, through, filters: vec![] };
        NewJob { selection, rate_per_s: self.chance.of(&[1, 20, 50]), total: None, queue: self.chance.one_in(2) }
    }

    fn any(&mut self) -> Subject {
        let number = self.chance.below(self.subjects.len() as u64);
        self.subjects[number as usize].clone()
    }

    /// Starts a job, and perhaps ends it; whoever asked may not hear of it.
    async fn ask_for_a_job(&mut self, world: &World) {
        let Subject { id, tenant, .. } = self.any();
        let (engine, job, cancelled) = (world.engine.clone(), self.job(world, tenant), self.chance.one_in(4));
        let cancel_after = Duration::from_millis(self.chance.of(&[0, 100, 5_000]));
        let asked = tokio::spawn(async move {
            let Ok((job, _)) = engine.start_job(tenant, id, job, Meta::system()).await else { return };
            if cancelled {
                tokio::time::sleep(cancel_after).await;
                drop(engine.cancel_job(tenant, id, job, Meta::system()).await);
            }
        });
        if self.chance.one_in(2) {
            drop(tokio::time::timeout(Duration::from_secs(20), asked).await);
        }
    }

    /// A command, whose answer may be anything, and may not come before the crash.
    async fn ask_for_something(&mut self, world: &World) {
        let Subject { id, tenant, profile, number } = self.any();
        let engine = world.engine.clone();
        let update = |update| (Some(update), None);
        let (update, command) = match self.chance.below(24) {
            0..3 => update(Update { url: Some(url(number, self.chance.below(3))), ..Update::default() }),
            3..6 => update(Update { filters: Some(self.filters(profile)), ..Update::default() }),
            6 => update(Update {
                rate_limit_per_s: Some(self.chance.of(&[None, Some(1), Some(10)])),
                ordered: Some(self.chance.one_in(2)),
                ..Update::default()
            }),
            7..10 => (None, Some(Command::Disable { reason: None })),
            10..14 => (None, Some(Command::Enable)),
            14..17 => (None, self.redelivery(world, id)),
            17 if self.chance.one_in(4) => (None, Some(Command::Delete { expected_revision: None })),
            18 | 19 => (None, Some(Command::Restore(Restore { matched_through: 0, too_late: false, at: START }))),
            _ => (None, None),
        };
        let back_ms = self.chance.below(2 * HOUR_MS);
        let moment = Timestamp::from_ms(world.clock.now().as_ms() - back_ms as i64);
        let backlog = self.chance.of(&[Backlog::Drain, Backlog::SkipBefore(moment), Backlog::Discard]);
        let asked = tokio::spawn(async move {
            let meta = Meta::system();
            match (update, command) {
                (Some(update), _) => {
                    drop(engine.update_subscription(tenant, id, update, Sealable::default(), meta).await)
                }
                (None, Some(Command::Delete { .. })) => drop(engine.delete_subscription(tenant, id, None, meta).await),
                (None, Some(Command::Restore(_))) => drop(engine.restore_subscription(tenant, id, meta).await),
                (None, Some(command)) => drop(engine.subscription(tenant, id, command, meta).await),
                (None, None) => drop(engine.reenable(tenant, id, backlog, meta).await),
            }
        });
        if self.chance.one_in(2) {
            drop(tokio::time::timeout(Duration::from_secs(20), asked).await);
        }
    }

    /// Of any delivery that has ended, as far as the log says.
    fn redelivery(&mut self, world: &World, id: SubscriptionId) -> Option<Command> {
        let ledger = self.ledger();
        let ended: Vec<_> = ledger.accounts[&id].deliveries.iter().filter(|(_, owed)| owed.end.is_some()).collect();
        if ended.is_empty() {
            return None;
        }
        let (original, owed) = ended[self.chance.below(ended.len() as u64) as usize];
        Some(Command::Redeliver(Redeliver {
            original: *original,
            original_failed: matches!(owed.end, Some(End::Exhausted | End::Expired)),
            delivery: world.clock.delivery_id(),
            message: owed.message,
            message_seq: owed.message_seq,
            sequence: owed.sequence,
            queue: self.chance.one_in(2),
            room: true,
        }))
    }

    /// The life ends behind this, wherever everybody is.
    async fn come_to_a_crash(&mut self, world: &World) {
        world.store.fill(false);
        if self.chance.one_in(2) {
            world.store.hang_after(self.chance.below(6) as usize, self.chance.one_in(2));
        }
        self.publish(world);
        if self.chance.one_in(2) {
            self.ask_for_something(world).await;
        }
        world.let_pass(self.chance.of(&[0, 0, 1, 20, 2_000])).await;
        self.yield_some().await;
    }

    /// All endpoints are well, and everybody wants everything.
    async fn settle(&mut self, world: &World) {
        for ms in [60_000, 600_000, HOUR_MS, LONG_MS, LONG_MS, LONG_MS] {
            for Subject { id, tenant, .. } in &self.subjects {
                for command in [Some(Command::Enable), None] {
                    let done = match command {
                        Some(command) => world.engine.subscription(*tenant, *id, command, Meta::system()).await,
                        None => world.engine.reenable(*tenant, *id, Backlog::Drain, Meta::system()).await,
                    };
                    let deleted = matches!(done, Err(EngineError::Subscription(Refusal::NotFound)));
                    assert!(done.is_ok() || deleted, "{done:?}");
                }
            }
            world.let_pass(ms).await;
            if self.ledger().is_settled() {
                return;
            }
        }
    }

    /// The log of all shards, with what was dropped of it.
    fn events(&self) -> Vec<Recorded> {
        let read = async |shard| self.memory.read_log(Position { shard, seq: 0 }, usize::MAX).await.unwrap();
        let mut events = self.archive.lock().unwrap().clone();
        for shard in 0..SHARDS {
            let left = futures_util::FutureExt::now_or_never(read(shard)).unwrap();
            events.extend(left.into_iter().map(|recorded| (recorded.position, recorded)));
        }
        events.into_values().collect()
    }

    /// What must hold at every moment.
    fn check(&self) -> Ledger {
        let ledger = self.ledger();
        ledger.assert_jobs_told();
        self.check_calls(&ledger);
        self.check_states();
        books::check(&self.memory, &self.events());
        ledger
    }

    fn check_calls(&self, ledger: &Ledger) {
        let mut bodies = BTreeMap::new();
        let mut succeeded = BTreeSet::new();
        for call in &self.calls {
            let subject = &self.subjects[number_of(&call.url)];
            let message = call.header("webhook-id");
            let body = bodies.entry((subject.profile, message)).or_insert(&call.body);
            assert_eq!(*body, &call.body, "{message} was sent with other bytes");
            if call.answered == Some(200) {
                succeeded.insert((subject.id, message.to_owned(), call.at_ms));
            }
            let silences = &ledger.accounts[&subject.id].silences;
            let broken = silences.iter().find(|silence| {
                call.at_ms > silence.from + DURABLE_AFTER_MS && silence.until.is_none_or(|until| call.at_ms < until)
            });
            if let Some(silence) = broken {
                let (why, from, until) = (silence.why, silence.from, silence.until);
                panic!("{} was sent at {} while {why:?} from {from} until {until:?}", call.url, call.at_ms);
            }
        }
        for (id, account) in &ledger.accounts {
            for (message, at_ms) in &account.successes {
                let (first, call) = ((*id, message.to_string(), 0), (*id, message.to_string(), *at_ms));
                // At that time, or before it: where the clock was set back attempts are dated later.
                let known = succeeded.range(first..=call.clone()).next().is_some();
                assert!(known, "a success that no endpoint knows of: {call:?}");
            }
        }
    }

    /// Snapshots say what the events say.
    fn check_states(&self) {
        life(async || {
            let store: Arc<dyn EventStore> = Arc::new(WatchedStore::over(self.memory.reopen()));
            let log = Log::start(store, event_store::Config::default()).await.unwrap();
            for Subject { id, .. } in &self.subjects {
                let folded = fold_subscription(log.reader(), *id).await.unwrap();
                let loaded = load_subscription(&log, *id).await.unwrap();
                assert_eq!(folded.state, loaded.state, "the snapshot of {id} says something else");
                // What a deleted one had owed is not read any more, nor how many events there were of it.
                if folded.state.settings().is_ok() {
                    assert_eq!(folded.snapshot(*id), loaded.snapshot(*id));
                }
                assert_eq!(folded.period, loaded.period);
            }
        });
    }
}

async fn publish(
    engine: &Engine,
    tenant: TenantId,
    event_type: &str,
    idempotency_key: Option<String>,
) -> Result<MessageId, EngineError> {
    let data = r#"{"userId":"user_1"}"#.into();
    let draft = message::prepare(Publish { event_type: event_type.into(), data, occurred_at: None, idempotency_key });
    engine.publish(tenant, draft.unwrap(), Meta::system()).await.map(|published| published.message)
}

/// Runs one seed, whose number stands in what it complains of.
fn simulate(seed: u64) -> Vec<Recorded> {
    catch_unwind(AssertUnwindSafe(|| Simulation::new(seed).run())).unwrap_or_else(|panic| {
        let text = panic.downcast_ref::<String>().map(String::as_str);
        let text = text.or_else(|| panic.downcast_ref::<&str>().copied()).unwrap_or("a panic");
        panic!("seed {seed} (SIMULATION_SEED={seed} repeats it): {text}")
    })
}

fn variable(name: &str) -> Option<u64> {
    std::env::var(name).ok().map(|value| value.parse().unwrap())
}

#[test]
fn whatever_happens_every_message_is_accounted_for() {
    if let Some(seed) = variable("SIMULATION_SEED") {
        simulate(seed);
        return;
    }
    let (mut failed, mut trips, mut skipped, mut ends) = (vec![], 0, 0, BTreeSet::new());
    let (mut remade, mut backfilled) = (0, 0);
    for seed in 1..=variable("SIMULATION_SEEDS").unwrap_or(SEEDS) {
        match catch_unwind(|| simulate(seed)) {
            Ok(events) => {
                for account in Ledger::of(&events, |clock_ms, _| clock_ms).accounts.values() {
                    trips += account.trips;
                    skipped += account.skipped;
                    remade += account.remade.len();
                    backfilled += account.backfilled.len();
                    ends.extend(account.deliveries.values().filter_map(|owed| owed.end));
                }
            }
            Err(panic) => failed.push(panic.downcast_ref::<String>().cloned().unwrap_or_default()),
        }
    }
    assert!(failed.is_empty(), "{} seeds failed:\n{}", failed.len(), failed.join("\n"));
    // Chance must have brought about what it is to be proof against.
    let expired = ends.contains(&End::Expired);
    assert!(trips > 0 && skipped > 0 && expired && ends.len() >= 4, "{trips} trips, {skipped} skipped, ends: {ends:?}");
    assert!(remade > 0 && backfilled > 0, "jobs made {remade} again and backfilled {backfilled}");
    println!("{trips} trips, {skipped} skipped, {remade} made again, {backfilled} backfilled, ends: {ends:?}");
}

#[test]
fn whatever_happens_a_delivery_that_is_lost_or_doubled_is_found() {
    for seed in 1..=5 {
        books::tamper(&simulate(seed), seed);
    }
}

#[test]
fn a_seed_repeats_itself_to_the_last_event() {
    for seed in [3, 7, 11] {
        let (first, second) = (simulate(seed), simulate(seed));
        let differs = first.iter().zip(&second).find(|(one, other)| one != other);
        assert!(differs.is_none() && first.len() == second.len(), "seed {seed} goes another way: {differs:?}");
    }
}
