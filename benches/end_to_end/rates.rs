//! Rates, latencies, processor time and memory. Beside each rate stands which part it is of the raw limit: the same
//! requests sent by a bare client, in the same run.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use tokio::time::Instant;

use crate::support::{Receivers, Server, quantile_ms, setting};

/// Requests of the bare client that are under way at a time: as many as the server allows one subscription.
const RAW_AT_A_TIME: u64 = 16;

/// Prints a table of them.
pub(crate) async fn measure() {
    let messages = setting("BENCH_MESSAGES", 20_000);
    let store = if std::env::var("POSTGRES_TEST_URL").is_ok() { "PostgreSQL" } else { "SQLite synchronous=FULL" };
    println!("end to end on loopback, TLS, {store}, ~1 KB bodies; {messages} messages\n");
    let raw = Receivers::start(1).await.raw_limit(messages, RAW_AT_A_TIME).await;
    println!("raw limit: {raw:.0} requests/s by a bare client, {RAW_AT_A_TIME} at a time\n");
    println!(
        "{:<34} {:>9} {:>12} {:>9} {:>9} {:>9} {:>14} {:>9}",
        "scenario", "msg/s", "deliveries/s", "of raw", "p50 ms", "p99 ms", "CPU µs/deliv.", "RSS MiB"
    );
    saturated("saturated, one endpoint", messages, 1, false, raw).await;
    saturated("saturated, fan-out 10", messages / 5, 10, false, raw).await;
    saturated("saturated, beside one that hangs", messages, 1, true, raw).await;
    paced("200 messages a second", 200, setting("BENCH_SECONDS", 10), raw).await;
}

/// As fast as publishers can, in requests of 50 messages.
async fn saturated(name: &str, messages: u64, fan_out: u64, hanging: bool, raw: f64) {
    let bench = Bench::start(fan_out, hanging).await;
    let started = Instant::now();
    let next = Arc::new(AtomicU64::new(0));
    let mut publishers = tokio::task::JoinSet::new();
    for _ in 0..8 {
        let (publisher, next) = (bench.server.publisher.clone(), Arc::clone(&next));
        publishers.spawn(async move {
            loop {
                let first = next.fetch_add(50, Ordering::Relaxed);
                if first >= messages {
                    return;
                }
                publisher.publish((first..(first + 50).min(messages)).map(created)).await;
            }
        });
    }
    publishers.join_all().await;
    let published = started.elapsed();
    bench.report(name, messages, messages * fan_out, published, started, raw).await;
}

/// One message at a time, at a fixed rate.
async fn paced(name: &str, rate: u64, seconds: u64, raw: f64) {
    let bench = Bench::start(1, false).await;
    let started = Instant::now();
    let mut ticks = tokio::time::interval(Duration::from_micros(1_000_000 / rate));
    let mut publishing = tokio::task::JoinSet::new();
    for n in 0..rate * seconds {
        ticks.tick().await;
        let publisher = bench.server.publisher.clone();
        publishing.spawn(async move { publisher.publish([created(n)]).await });
    }
    publishing.join_all().await;
    let published = started.elapsed();
    bench.report(name, rate * seconds, rate * seconds, published, started, raw).await;
}

fn created(n: u64) -> (String, u64) {
    ("user.created".to_owned(), n)
}

struct Bench {
    server: Server,
    receivers: Receivers,
}

impl Bench {
    async fn start(endpoints: u64, hanging: bool) -> Self {
        let receivers = Receivers::start(endpoints).await;
        let server = Server::start(&receivers, "").await;
        for index in 0..receivers.addresses.len() {
            server.publisher.create(&receivers.url(index), "**").await;
        }
        if hanging {
            server.publisher.create(&format!("https://{}/hang", receivers.addresses[0]), "**").await;
        }
        Self { server, receivers }
    }

    async fn report(self, name: &str, messages: u64, deliveries: u64, published: Duration, started: Instant, raw: f64) {
        self.receivers.wait_for(deliveries, name).await;
        let elapsed = started.elapsed().as_secs_f64();
        // What is still to be recorded belongs to the deliveries.
        tokio::time::sleep(Duration::from_millis(500)).await;
        let latencies = self.receivers.take();
        let rate = deliveries as f64 / elapsed;
        println!(
            "{:<34} {:>9.0} {:>12.0} {:>8.0}% {:>9.2} {:>9.2} {:>14.0} {:>9.0}",
            name,
            messages as f64 / published.as_secs_f64(),
            rate,
            100.0 * rate / raw,
            quantile_ms(&latencies, 0.5),
            quantile_ms(&latencies, 0.99),
            self.server.cpu_us() as f64 / deliveries as f64,
            self.server.resident_mib()
        );
    }
}
