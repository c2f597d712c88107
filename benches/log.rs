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
use tidings::clock::{Clock, SystemClock};
use tidings::domain::event::{
    DeliveryEvent, DeliveryScheduled, DeliverySucceeded, Event, MessageEvent, MessagePublished, SubscriptionCreated,
    SubscriptionEvent, TenantCreated, TenantEvent,
};
use tidings::domain::filter::{EventType, Filter};
use tidings::domain::id::{MessageId, SubscriptionId, TenantId};
use tidings::domain::outcome::Response;
use tidings::event_store::{
    self, Append, Bucket, EventStore, Lifetime, Log, NewEvent, Options, Position, PostgresStore, SqliteStore,
    StreamWrite, postgres,
};
use tidings::execute::{self, Meta};
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

#[tokio::main]
async fn main() {
    let seconds = setting("BENCH_SECONDS", 4);
    appends(Duration::from_secs(seconds)).await;
    growth(setting("BENCH_LOG_EVENTS", 1_000_000)).await;
    history(setting("BENCH_ATTEMPTS", 200_000)).await;
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
    let quantile = |q: f64| f64::from(latencies_us[((latencies_us.len() - 1) as f64 * q) as usize]) / 1_000.0;
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
            read += log.store().read_log(Position { shard: 0, seq: after }, PAGE).await.unwrap().len();
        }
        (stream_us, began.elapsed().as_micros() as f64 / read as f64)
    }
}

/// One subscription with many attempts behind it: how long it takes to have its state, and to build all read models.
async fn history(attempts: u64) {
    println!("\none subscription with {attempts} attempts, three events each with its message, SQLite\n");
    let folder = tempfile::tempdir().unwrap();
    let log = sqlite(&folder.path().join("log.db")).await;
    let clock = clock();
    let began = Instant::now();
    let subscription = Told::tell(&log, &clock, attempts).await;
    println!("{:<44} {:>10.1} s", "telling it to the log", began.elapsed().as_secs_f64());
    for number in 1..=3 {
        let (cpu_before_us, began) = (cpu_us(), Instant::now());
        let loaded = execute::load_subscription(&log, subscription).await.unwrap();
        let elapsed = began.elapsed();
        assert!(loaded.deliveries_version >= attempts);
        println!(
            "{:<44} {:>10.1} ms {:>8.2} µs CPU an event",
            format!("activation {number}, version {}", loaded.deliveries_version),
            elapsed.as_secs_f64() * 1_000.0,
            (cpu_us() - cpu_before_us) as f64 / loaded.deliveries_version as f64
        );
    }
    let (cpu_before_us, began) = (cpu_us(), Instant::now());
    let events =
        ReadModels::rebuild(&folder.path().join("read-models"), log.reader(), &Name::ALL, |_, _| {}).await.unwrap();
    let (elapsed, cpu_us) = (began.elapsed(), cpu_us() - cpu_before_us);
    println!(
        "{:<44} {:>10.0} events/s {:>10.0} events/s of a core",
        format!("all read models from {events} events"),
        events as f64 / elapsed.as_secs_f64(),
        events as f64 / (cpu_us as f64 / 1e6)
    );
    log.close().await;
}

/// The life of a subscription whose deliveries all succeed, as the running system would have recorded it.
struct Told<'a> {
    log: &'a Log,
    clock: &'a Arc<dyn Clock>,
    tenant: TenantId,
    subscription: SubscriptionId,
}

impl<'a> Told<'a> {
    async fn tell(log: &'a Log, clock: &'a Arc<dyn Clock>, attempts: u64) -> SubscriptionId {
        let told = Self { log, clock, tenant: clock.tenant_id(), subscription: clock.subscription_id() };
        told.beginning().await;
        let mut first = 0;
        while first < attempts {
            let count = (attempts - first).min(250);
            told.deliveries(first, count).await;
            first += count;
        }
        told.subscription
    }

    async fn beginning(&self) {
        let created = TenantCreated {
            tenant: self.tenant,
            name: "bench".into(),
            slug: "bench".into(),
            profile: "standard-v1".into(),
        };
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
            rate_limit_per_s: None,
        };
        let kept = |stream, event| StreamWrite {
            stream,
            first_version: 1,
            lifetime: Lifetime::Kept,
            events: vec![self.recorded(&event, None)],
        };
        let writes = vec![
            kept(execute::tenant_stream(self.tenant), Event::Tenant(TenantEvent::Created(created))),
            kept(
                execute::subscription_stream(self.subscription),
                Event::Subscription(SubscriptionEvent::Created(subscribed)),
            ),
        ];
        self.log.append(0, Append { writes, ..Append::default() }).await.unwrap();
    }

    /// Messages, then a delivery of each, then their outcomes.
    async fn deliveries(&self, first: u64, count: u64) {
        let ids: Vec<_> = (0..count).map(|_| (self.clock.message_id(), self.clock.delivery_id())).collect();
        let published = ids.iter().map(|(message, _)| {
            let content = Bytes::from(vec![b'x'; EVENT_BYTES]);
            self.recorded(&Event::Message(MessageEvent::Published(self.message(*message))), Some(content))
        });
        let appended = append(&execute::messages_stream(self.tenant), first + 1, published.collect());
        let last = self.log.append(0, appended).await.unwrap().last;
        let scheduled = ids.iter().zip(last.seq + 1 - count..).map(|((message, delivery), message_seq)| {
            let (delivery, message) = (*delivery, *message);
            let scheduled = DeliveryScheduled { delivery, message, message_seq, revision: 1, redelivery_of: None };
            self.recorded(&Event::Delivery(DeliveryEvent::Scheduled(scheduled)), None)
        });
        let succeeded = ids.iter().map(|(_, delivery)| {
            let succeeded = DeliverySucceeded {
                delivery: *delivery,
                number: 1,
                started_at: self.clock.now(),
                latency_ms: 7,
                response: Response { status: 200, preview: "ok".into(), truncated: false },
                revision: 1,
            };
            self.recorded(&Event::Delivery(DeliveryEvent::Succeeded(succeeded)), None)
        });
        let events = scheduled.chain(succeeded).collect();
        let appended = append(&execute::deliveries_stream(self.subscription), 2 * first + 1, events);
        self.log.append(0, appended).await.unwrap();
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
        execute::new_event(event, self.clock.now(), Some(&Meta::system()), content, &**self.clock)
    }
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
