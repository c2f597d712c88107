//! The log by itself: what an append costs, whether it costs the same as the log grows, how fast a long stream is
//! folded, and how fast the read models are built again.
//!
//! Prints what it measured and asserts nothing. Writers, lanes and store share the machine and, but for PostgreSQL, the
//! process; CPU is this process's own, from the operating system, and without what PostgreSQL's processes take.

#![expect(clippy::print_stdout, reason = "a benchmark's output is its result")]
#![expect(clippy::unwrap_used, reason = "a benchmark that cannot run has nothing to report")]

use std::borrow::Cow;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use tidings::actors;
use tidings::clock::{Clock, SystemClock};
use tidings::domain::event::{
    DeliveryEvent, DeliveryScheduled, DeliverySucceeded, Event, MessageEvent, MessagePublished, MessagesPeriodOpened,
    SubscriptionCreated, SubscriptionEvent, TenantCreated, TenantEvent,
};
use tidings::domain::filter::{EventType, Filter};
use tidings::domain::id::{DeliveryId, MessageId, SubscriptionId, TenantId};
use tidings::domain::outcome::Response;
use tidings::domain::subscription;
use tidings::event_store::{
    self, Append, Bucket, EventStore, Lifetime, Log, NewEvent, Options, Position, PostgresStore, SqliteStore,
    StreamWrite, postgres,
};
use tidings::execute::{self, Loaded, Messages, Meta, retention};
use tidings::projections::{Name, ReadModels};
use tokio::task::JoinSet;
use tokio::time::Instant;

/// Payload and meta data of an event, as deliveries have them.
const EVENT_BYTES: usize = 600;
/// Events of one append while a log is filled.
const FILL_EVENTS: usize = 10;
/// Streams that a filled log has.
const STREAMS: usize = 20_000;
const BUCKET: Bucket = Bucket(1);
/// Deliveries that stay open all along.
const OPEN: u64 = 100;
/// Attempts recorded in one append.
const AT_A_TIME: u64 = 250;
/// Read models are built again from the first so many attempts at most.
const REBUILT: u64 = 200_000;

#[tokio::main]
async fn main() {
    // Those that are named as arguments; all if none is.
    let named: Vec<_> = std::env::args().skip(1).filter(|argument| argument != "--bench").collect();
    let wanted = |part: &str| named.is_empty() || named.iter().any(|name| name == part);
    if wanted("appends") {
        appends(Duration::from_secs(setting("BENCH_SECONDS", 4))).await;
    }
    if wanted("growth") {
        growth(setting("BENCH_LOG_EVENTS", 1_000_000)).await;
    }
    if wanted("history") {
        history(setting("BENCH_ATTEMPTS", 200_000)).await;
    }
}

fn setting(name: &str, default: u64) -> u64 {
    std::env::var(name).ok().and_then(|value| value.parse().ok()).unwrap_or(default)
}

/// Closed loop: each writer appends to a stream of its own as soon as its last append is durable.
async fn appends(duration: Duration) {
    println!("append, {EVENT_BYTES}-byte events, {} s each, every acknowledged commit on disk\n", duration.as_secs());
    println!(
        "{:<12} {:>8} {:>14} {:>10} {:>9} {:>9} {:>14}",
        "store", "writers", "events/append", "events/s", "p50 ms", "p99 ms", "CPU µs/event"
    );
    let postgres = std::env::var("POSTGRES_TEST_URL").ok();
    for (writers, events) in [(1, 1), (1, 64), (100, 1), (400, 1), (2_000, 1)] {
        let folder = tempfile::tempdir().unwrap();
        let log = sqlite(&folder.path().join("log.db")).await;
        report_appends("SQLite FULL", &log, writers, events, duration).await;
        if let Some(url) = &postgres {
            let store = PostgresStore::open(postgres::Options::at(url).unwrap()).await.unwrap();
            let log = Log::start(Arc::new(store), event_store::Config::default()).await.unwrap();
            report_appends("PostgreSQL", &log, writers, events, duration).await;
        }
    }
    if postgres.is_none() {
        println!("(without POSTGRES_TEST_URL nothing is measured on PostgreSQL)");
    }
}

async fn report_appends(name: &str, log: &Log, writers: usize, events: usize, duration: Duration) {
    let Load { appends, mut latencies_us, elapsed, cpu_us } = load(log, writers, events, duration).await;
    latencies_us.sort_unstable();
    let quantile = |q: f64| quantile_ms(&latencies_us, q);
    let count = (appends * events) as f64;
    println!(
        "{:<12} {:>8} {:>14} {:>10.0} {:>9.2} {:>9.2} {:>14.1}",
        name,
        writers,
        events,
        count / elapsed.as_secs_f64(),
        quantile(0.5),
        quantile(0.99),
        cpu_us as f64 / count
    );
    log.close().await;
}

/// Of latencies in order.
fn quantile_ms(latencies_us: &[u32], q: f64) -> f64 {
    f64::from(latencies_us[((latencies_us.len() - 1) as f64 * q) as usize]) / 1_000.0
}

/// What a load was and cost.
struct Load {
    appends: usize,
    latencies_us: Vec<u32>,
    elapsed: Duration,
    cpu_us: u64,
}

async fn load(log: &Log, writers: usize, events: usize, duration: Duration) -> Load {
    let clock = clock();
    let streams: Vec<_> = (0..writers).map(|_| execute::deliveries_stream(clock.subscription_id())).collect();
    let (cpu_before_us, started) = (cpu_us(), Instant::now());
    let mut tasks = JoinSet::new();
    for (index, stream) in streams.into_iter().enumerate() {
        let (log, clock) = (log.clone(), Arc::clone(&clock));
        let shard = (index % usize::from(log.shards())) as u16;
        tasks.spawn(async move {
            let (mut next, mut latencies_us) = (1, vec![]);
            while started.elapsed() < duration {
                let append = append(&stream, next, (0..events).map(|_| event(&*clock)).collect());
                let began = Instant::now();
                log.append(shard, append).await.unwrap();
                latencies_us.push(began.elapsed().as_micros() as u32);
                next += events as u64;
            }
            latencies_us
        });
    }
    let latencies_us: Vec<u32> = tasks.join_all().await.concat();
    let elapsed = started.elapsed();
    Load { appends: latencies_us.len(), latencies_us, elapsed, cpu_us: cpu_us() - cpu_before_us }
}

/// The same work on logs of very different length.
async fn growth(most: u64) {
    println!("\nas the log grows, SQLite FULL, {STREAMS} streams, 100 writers, reads of 10 and of 500 events\n");
    println!(
        "{:>12} {:>14} {:>14} {:>16} {:>16} {:>16} {:>12}",
        "events", "file MiB", "append µs", "append CPU µs", "stream read µs", "log read µs/ev", "filled ev/s"
    );
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("log.db");
    let log = sqlite(&path).await;
    let clock = clock();
    let mut filled = Filled { streams: (0..STREAMS).map(|_| (clock.subscription_id(), 0)).collect(), events: 0 };
    for size in (4..).map(|power| 10_u64.pow(power)).take_while(|size| *size <= most) {
        let began = Instant::now();
        let before = filled.events;
        filled.fill(&log, &clock, size).await;
        let filled_per_s = (filled.events - before) as f64 / began.elapsed().as_secs_f64();
        let Load { appends, elapsed, cpu_us, .. } = load(&log, 100, 1, Duration::from_secs(3)).await;
        let (stream_us, log_us) = filled.read(&log, &clock).await;
        println!(
            "{:>12} {:>14.0} {:>14.1} {:>16.1} {:>16.1} {:>16.2} {:>12.0}",
            size,
            std::fs::metadata(&path).unwrap().len() as f64 / 1_048_576.0,
            elapsed.as_micros() as f64 / appends as f64,
            cpu_us as f64 / appends as f64,
            stream_us,
            log_us,
            filled_per_s
        );
    }
    log.close().await;
}

/// A log with many streams, and how long each is.
struct Filled {
    streams: Vec<(SubscriptionId, u64)>,
    events: u64,
}

impl Filled {
    /// Up to so many events, each append to a stream picked at random.
    async fn fill(&mut self, log: &Log, clock: &Arc<dyn Clock>, events: u64) {
        let mut appending = JoinSet::new();
        while self.events < events {
            let index = clock.random_u64() as usize % STREAMS;
            let (stream, version) = &mut self.streams[index];
            let written = (0..FILL_EVENTS).map(|_| event(&**clock)).collect();
            let append = append(&execute::deliveries_stream(*stream), *version + 1, written);
            *version += FILL_EVENTS as u64;
            self.events += FILL_EVENTS as u64;
            // Queued here and now, so that appends to one stream keep their order.
            let (sender, answer) = tokio::sync::oneshot::channel();
            log.try_append(0, append, Box::new(move |result| drop(sender.send(result)))).unwrap();
            appending.spawn(async move { answer.await.unwrap().unwrap() });
            if appending.len() >= 1_000 {
                while appending.len() > 200 {
                    appending.join_next().await.unwrap().unwrap();
                }
            }
        }
        appending.join_all().await;
    }

    /// Microseconds for ten events of a stream, and for an event of the log.
    async fn read(&self, log: &Log, clock: &Arc<dyn Clock>) -> (f64, f64) {
        const READS: u32 = 1_000;
        const PAGE: usize = 500;
        let written: Vec<_> = self.streams.iter().filter(|(_, version)| *version > 0).collect();
        let began = Instant::now();
        for _ in 0..READS {
            let (stream, version) = written[clock.random_u64() as usize % written.len()];
            let name = execute::deliveries_stream(*stream);
            let events = log.read_stream(&name, version - FILL_EVENTS as u64 + 1, FILL_EVENTS).await.unwrap();
            assert_eq!(events.len(), FILL_EVENTS);
        }
        let stream_us = began.elapsed().as_micros() as f64 / f64::from(READS);
        let began = Instant::now();
        let mut read = 0;
        for _ in 0..READS / 5 {
            let after = clock.random_u64() % (self.events - PAGE as u64);
            // Past the log's own memory, which holds the newest.
            read += log.store().reader().read_log(Position { shard: 0, seq: after }, PAGE).await.unwrap().len();
        }
        (stream_us, began.elapsed().as_micros() as f64 / read as f64)
    }
}

/// One subscription with many attempts behind it: how long it takes to have its state, and to build all read models.
async fn history(attempts: u64) {
    println!(
        "\none subscription with {attempts} attempts, three events each with its message, {OPEN} deliveries open, SQLite\n"
    );
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("log.db");
    let log = sqlite(&path).await;
    let mut told = Told::begin(&log).await;
    told.attempts(attempts.min(REBUILT)).await;
    rebuild(&log, &folder.path().join("read-models")).await;
    let (began, before) = (Instant::now(), told.loaded.deliveries_version);
    told.attempts(attempts.saturating_sub(REBUILT)).await;
    let events = told.loaded.deliveries_version - before;
    println!("{:<60} {:>10.1} s", format!("telling {events} more events of it"), began.elapsed().as_secs_f64());
    println!("{:<60} {:>10.0} MiB", "the log's file", std::fs::metadata(&path).unwrap().len() as f64 / 1_048_576.0);
    let read = told.loaded.deliveries_version + 1 - told.loaded.period.unwrap().first_version;
    activations(&log, &told, &format!("without snapshot, {read} events of its period"), 100).await;
    told.store_snapshot().await;
    activations(&log, &told, "with a snapshot just stored", 1_000).await;
    let behind = actors::Config::default().snapshot_every_events - 2;
    told.attempts(behind / 2).await;
    activations(&log, &told, &format!("with a snapshot and {behind} events behind it"), 1_000).await;
    log.close().await;
}

async fn rebuild(log: &Log, path: &Path) {
    let (cpu_before_us, began) = (cpu_us(), Instant::now());
    let events = ReadModels::rebuild(path, log.reader(), &Name::ALL, |_, _| {}).await.unwrap();
    let (elapsed, cpu_us) = (began.elapsed(), cpu_us() - cpu_before_us);
    println!(
        "{:<60} {:>10.0} events/s {:>8.0} events/s of a core",
        format!("all read models from {events} events"),
        events as f64 / elapsed.as_secs_f64(),
        events as f64 / (cpu_us as f64 / 1e6)
    );
}

/// Loads the state again and again, one time after the other; it is always what was told.
async fn activations(log: &Log, told: &Told<'_>, how: &str, times: usize) {
    let cpu_before_us = cpu_us();
    let mut latencies_us = Vec::with_capacity(times);
    for _ in 0..times {
        let began = Instant::now();
        let loaded = execute::load_subscription(log, told.subscription).await.unwrap();
        latencies_us.push(began.elapsed().as_micros() as u32);
        assert_eq!(loaded.state, told.loaded.state);
    }
    let cpu_ms = (cpu_us() - cpu_before_us) as f64 / 1_000.0 / times as f64;
    latencies_us.sort_unstable();
    let quantile = |q: f64| quantile_ms(&latencies_us, q);
    println!(
        "{:<60} p50 {:>8.2} ms, p99 {:>8.2} ms, {cpu_ms:.2} ms CPU, {times} times",
        format!("activation {how}"),
        quantile(0.5),
        quantile(0.99),
    );
}

/// The life of a subscription whose deliveries succeed, but for the first ones, recorded as the running system does: in
/// periods, each of which carries what is open.
struct Told<'a> {
    log: &'a Log,
    clock: Arc<dyn Clock>,
    retention: retention::Config,
    tenant: TenantId,
    subscription: SubscriptionId,
    messages: Messages,
    loaded: Loaded,
}

impl<'a> Told<'a> {
    async fn begin(log: &'a Log) -> Self {
        let clock = clock();
        let (tenant, subscription) = (clock.tenant_id(), clock.subscription_id());
        let retention = retention::Config::default();
        let (messages, loaded) = (Messages::default(), Loaded::default());
        let mut told = Self { log, clock, retention, tenant, subscription, messages, loaded };
        told.create().await;
        let published = told.publish(OPEN).await;
        told.append(published.iter().map(|published| told.scheduled(published)).collect()).await;
        told
    }

    async fn create(&mut self) {
        let created = TenantCreated {
            tenant: self.tenant,
            name: "bench".into(),
            slug: "bench".into(),
            profile: "standard-v1".into(),
        };
        let tenant = StreamWrite {
            stream: execute::tenant_stream(self.tenant),
            first_version: 1,
            lifetime: Lifetime::Kept,
            events: vec![self.recorded(&Event::Tenant(TenantEvent::Created(created)), None)],
        };
        self.log.append(0, Append { writes: vec![tenant], ..Append::default() }).await.unwrap();
        let subscribed = SubscriptionCreated {
            subscription: self.subscription,
            tenant: self.tenant,
            profile: "standard-v1".into(),
            url: "https://receiver.example.com/hook".into(),
            description: None,
            filters: vec![Filter::parse("**").unwrap()],
            enabled: true,
            secret: self.clock.secret_id(),
            fingerprint: "0".repeat(16),
            public_key: None,
            rate_limit_per_s: None,
            ordered: false,
            headers: None,
            retry_policy: None,
            recipients: None,
        };
        self.append(vec![Event::Subscription(SubscriptionEvent::Created(subscribed))]).await;
    }

    async fn attempts(&mut self, mut count: u64) {
        while count > 0 {
            let published = self.publish(count.min(AT_A_TIME)).await;
            let mut events: Vec<_> = published.iter().map(|published| self.scheduled(published)).collect();
            events.extend(published.iter().map(|published| self.succeeded(published)));
            self.append(events).await;
            count -= published.len() as u64;
        }
    }

    /// Messages that have been recorded, and the delivery that each is to have.
    async fn publish(&mut self, count: u64) -> Vec<Published> {
        let lifetime = self.retention.next_lifetime(self.messages.version, self.messages.period, self.clock.now());
        let mut events = vec![];
        if let Lifetime::Period(_) = lifetime {
            events.push(self.recorded(&Event::Message(MessageEvent::PeriodOpened(MessagesPeriodOpened {})), None));
        }
        let ids: Vec<_> = (0..count).map(|_| (self.clock.message_id(), self.clock.delivery_id())).collect();
        events.extend(ids.iter().map(|(message, _)| {
            let content = Bytes::from(vec![b'x'; EVENT_BYTES]);
            self.recorded(&Event::Message(MessageEvent::Published(self.message(*message))), Some(content))
        }));
        let write = self.messages.write(self.tenant, lifetime, events);
        let last = self.log.append(0, Append { writes: vec![write], ..Append::default() }).await.unwrap().last;
        let published = |((message, delivery), message_seq)| Published { message, delivery, message_seq };
        ids.into_iter().zip(last.seq + 1 - count..).map(published).collect()
    }

    /// As the subscription's actor does it; it would store a snapshot now and then.
    async fn append(&mut self, mut events: Vec<Event>) {
        let now = self.clock.now();
        let lifetime = self.loaded.lifetime(&self.retention, now);
        if let (Lifetime::Period(_), Some(Event::Delivery(_))) = (lifetime, events.first()) {
            let open = subscription::Command::OpenPeriod { gone_through: 0 };
            events.splice(..0, subscription::decide(&self.loaded.state, open).unwrap());
        }
        let (mut life, mut deliveries) = (vec![], vec![]);
        for event in &events {
            self.loaded.evolve(event, now);
            let recorded = execute::new_event(event, now, Some(&Meta::system()), None, &*self.clock);
            match event {
                Event::Delivery(_) => deliveries.push(recorded),
                Event::Subscription(_) | Event::Tenant(_) | Event::Message(_) => life.push(recorded),
            }
        }
        let writes = self.loaded.writes(self.subscription, lifetime, life, deliveries);
        self.log.append(0, Append { writes, ..Append::default() }).await.unwrap();
    }

    async fn store_snapshot(&self) {
        let snapshots = self.loaded.snapshot(self.subscription).into_iter().collect();
        self.log.append(0, Append { snapshots, ..Append::default() }).await.unwrap();
    }

    fn scheduled(&self, published: &Published) -> Event {
        let Published { message, delivery, message_seq } = *published;
        let scheduled =
            DeliveryScheduled { delivery, message, message_seq, revision: 1, sequence: None, redelivery_of: None };
        Event::Delivery(DeliveryEvent::Scheduled(scheduled))
    }

    fn succeeded(&self, published: &Published) -> Event {
        Event::Delivery(DeliveryEvent::Succeeded(DeliverySucceeded {
            delivery: published.delivery,
            number: 1,
            started_at: self.clock.now(),
            latency_ms: 7,
            response: Response { status: 200, preview: "ok".into(), ..Response::default() },
            revision: 1,
        }))
    }

    fn message(&self, message: MessageId) -> MessagePublished {
        MessagePublished {
            message,
            tenant: self.tenant,
            tenant_slug: "bench".into(),
            event_type: EventType::parse("user.created").unwrap(),
            occurred_at: self.clock.now(),
            size_bytes: EVENT_BYTES as u32,
            digest: "0".repeat(64),
            unstable: false,
            idempotency_key: None,
        }
    }

    fn recorded(&self, event: &Event, content: Option<Bytes>) -> NewEvent {
        execute::new_event(event, self.clock.now(), Some(&Meta::system()), content, &*self.clock)
    }
}

/// A message, where it stands in the log, and its delivery.
struct Published {
    message: MessageId,
    delivery: DeliveryId,
    message_seq: u64,
}

async fn sqlite(path: &Path) -> Log {
    let store: Arc<dyn EventStore> = Arc::new(SqliteStore::open(Options::at(path)).await.unwrap());
    Log::start(store, event_store::Config::default()).await.unwrap()
}

fn clock() -> Arc<dyn Clock> {
    // Ids must not come again: a PostgreSQL database is there before and after.
    Arc::new(SystemClock)
}

/// An append to a bucketed stream; its first begins the stream's first period.
fn append(stream: &str, first_version: u64, events: Vec<NewEvent>) -> Append {
    let lifetime = if first_version == 1 { Lifetime::Period(BUCKET) } else { Lifetime::Bucket(BUCKET) };
    let write = StreamWrite { stream: stream.to_owned(), first_version, lifetime, events };
    Append { writes: vec![write], ..Append::default() }
}

/// Of the size that outcomes with an answer have; nobody decodes it.
fn event(clock: &dyn Clock) -> NewEvent {
    NewEvent {
        id: clock.event_id(),
        kind: Cow::Borrowed("delivery.succeeded"),
        schema: 1,
        at: clock.now(),
        data: format!(r#"{{"preview":"{}"}}"#, "x".repeat(EVENT_BYTES - 14)),
        meta: None,
        content: None,
    }
}

/// What this process has taken of the machine, all threads together.
fn cpu_us() -> u64 {
    let stat = std::fs::read_to_string("/proc/self/stat").unwrap();
    let fields: Vec<_> = stat.rsplit_once(')').unwrap().1.split_whitespace().collect();
    let ticks: u64 = fields[11].parse::<u64>().unwrap() + fields[12].parse::<u64>().unwrap();
    ticks * 10_000 // Linux counts in hundredths of a second
}
