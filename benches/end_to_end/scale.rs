//! What grows with the number of subscriptions: memory, the time to start, the neighbourhood of dead endpoints.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use tokio::net::TcpListener;
use tokio::time::{Instant, interval, sleep};

use crate::support::{Receivers, Server, quantile_ms, setting};

/// An idle server; what a subscription takes that is only known, that is resident, and that has left memory with a retry
/// due. The first and the last are told by servers that have just started, whose memory holds nothing else. Half of the
/// subscriptions become resident, and then the other half: what the first half adds has the databases' caches in it,
/// which fill meanwhile, and what the second adds has not.
pub(crate) async fn memory() {
    let half = setting("BENCH_SUBSCRIPTIONS", 40_000) / 2;
    let receivers = Receivers::start(1).await;
    let refused = format!("https://{}/fail", receivers.addresses[0]);
    let mut server = Server::start(&receivers, "[actors]\nidle_after_ms = 60000\n").await;
    let idle = settled(&server).await;
    println!("memory: idle {idle:.0} MiB");
    let types = ["half.first", "half.second"];
    server.publisher.register(types.map(str::to_owned)).await;
    server.publisher.create_many((0..2 * half).map(|n| (refused.clone(), types[n as usize % 2].to_owned()))).await;
    server.kill_and_restart();
    let known = settled(&server).await;
    println!(
        "memory: {} subscriptions that are only known: {known:.0} MiB, {:.2} KiB each",
        2 * half,
        each(idle, known, 2 * half)
    );
    let mut before = known;
    for (event_type, which) in types.into_iter().zip(["half of them", "the other half too"]) {
        server.publisher.publish([(event_type.to_owned(), 0)]).await;
        sleep(Duration::from_millis(half / 2)).await;
        let resident = settled(&server).await;
        println!(
            "memory: {which} resident, with a delivery each: {resident:.0} MiB, {:.2} KiB each more",
            each(before, resident, half)
        );
        before = resident;
    }
    // Two attempts have failed then, and the third is due in five minutes.
    sleep(Duration::from_millis(60_000 + half)).await;
    server.kill_and_restart();
    // A wake-up may be early after a restart: each is loaded once, and leaves again.
    sleep(Duration::from_secs(130)).await;
    let due = settled(&server).await;
    println!(
        "memory: out of memory, with a retry due: {due:.0} MiB, {:.0} bytes each more than only known",
        each(known, due, 2 * half) * 1024.0
    );
}

/// The resident memory once nothing has happened for a while.
pub(crate) async fn settled(server: &Server) -> f64 {
    sleep(Duration::from_secs(5)).await;
    server.resident_mib()
}

fn each(before_mib: f64, after_mib: f64, count: u64) -> f64 {
    (after_mib - before_mib) * 1024.0 / count as f64
}

/// `kill -9` under load: how long until the last acknowledged message has arrived.
pub(crate) async fn restart() {
    let messages = setting("BENCH_MESSAGES", 20_000);
    let receivers = Receivers::start(1).await;
    let mut server = Server::start(&receivers, "").await;
    server.publisher.create(&receivers.url(0), "**").await;
    let mut publishing = tokio::task::JoinSet::new();
    for first in (0..messages).step_by(50) {
        let publisher = server.publisher.clone();
        if publishing.len() >= 8 {
            publishing.join_next().await.unwrap().unwrap();
        }
        publishing.spawn(async move {
            publisher.publish((first..first + 50).map(|n| ("user.created".to_owned(), n))).await;
        });
    }
    publishing.join_all().await;
    server.kill();
    let received = receivers.latencies_us.lock().unwrap().len() as u64;
    let killed = Instant::now();
    server.kill_and_restart();
    let serving = killed.elapsed();
    receivers.wait_for(messages, "restart").await;
    println!(
        "restart: killed with {received} of {messages} acknowledged messages delivered; serving after {:.2} s, all delivered after {:.2} s",
        serving.as_secs_f64(),
        killed.elapsed().as_secs_f64()
    );
}

/// Far more than an endpoint can take, by more publishers than may wait: memory must not grow with what waits.
pub(crate) async fn overload() {
    let seconds = setting("BENCH_SECONDS", 60);
    let receivers = Receivers::start(1).await;
    let server = Server::start(&receivers, "").await;
    server.publisher.create(&format!("https://{}/slow", receivers.addresses[0]), "**").await;
    let (next, taken, refused, told) = (AtomicU64::new(0), AtomicU64::new(0), AtomicU64::new(0), AtomicU64::new(0));
    let counts = Arc::new([next, taken, refused, told]);
    let until = Instant::now() + Duration::from_secs(seconds);
    let mut publishing = tokio::task::JoinSet::new();
    for _ in 0..160 {
        let (publisher, counts) = (server.publisher.clone(), Arc::clone(&counts));
        publishing.spawn(async move {
            let [next, taken, refused, told] = &*counts;
            while Instant::now() < until {
                let first = next.fetch_add(50, Ordering::Relaxed);
                match publisher.try_publish((first..first + 50).map(|n| ("user.created".to_owned(), n))).await {
                    Ok(()) => drop(taken.fetch_add(50, Ordering::Relaxed)),
                    Err(later) => {
                        refused.fetch_add(1, Ordering::Relaxed);
                        told.fetch_add(later.into(), Ordering::Relaxed);
                        sleep(Duration::from_millis(50)).await;
                    }
                }
            }
        });
    }
    let mut resident = Vec::new();
    while Instant::now() < until {
        sleep(Duration::from_secs(1)).await;
        resident.push(server.resident_mib());
    }
    publishing.join_all().await;
    let (half, last) = (resident[resident.len() / 2], resident[resident.len() - 1]);
    let most = resident[resident.len() / 2..].iter().copied().fold(0.0, f64::max);
    let [_, taken, refused, told] = counts.each_ref().map(|count| count.load(Ordering::Relaxed));
    println!(
        "overload: {taken} messages taken in {seconds} s, {} delivered; {refused} requests refused, {told} with Retry-After; {half:.0} MiB at half time, {last:.0} at the end, {most:.0} at most between",
        receivers.take().len()
    );
}

/// Healthy subscriptions at a steady rate, alone and then beside many whose endpoints accept connections and never say
/// anything; each tick then has a message for twenty of these too. Either way what is measured follows five seconds of
/// the same, in which each of the many gets its first message and is loaded; those are told apart.
pub(crate) async fn black_holes() {
    let holes = setting("BENCH_HOLES", 10_000);
    let (healthy, rate, seconds) = (100, 100, setting("BENCH_SECONDS", 30));
    let receivers = Receivers::start(8).await;
    let server = Server::start(&receivers, "").await;
    let types = holes.div_ceil(20);
    server.publisher.register((0..healthy).map(|n| format!("healthy.n{n}"))).await;
    server.publisher.register((0..types).map(|n| format!("hole.n{n}"))).await;
    let urls = (0..healthy).map(|n| (receivers.url(n as usize % 8), format!("healthy.n{n}")));
    server.publisher.create_many(urls).await;
    steady(&server, rate * 5, rate, |n| vec![(format!("healthy.n{}", n % healthy), n)]).await;
    receivers.wait_for(rate * 5, "warming up").await;
    receivers.take();
    let first = rate * 5;
    let alone = steady_latencies(&server, &receivers, rate * seconds, rate, |n| {
        vec![(format!("healthy.n{}", n % healthy), first + n)]
    })
    .await;

    let hole = TcpListener::bind("0.0.0.0:0").await.unwrap();
    let port = hole.local_addr().unwrap().port();
    let open = Arc::new(AtomicU64::new(0));
    tokio::spawn(swallow(hole, Arc::clone(&open)));
    // Each at an address of its own: all of 127.0.0.0/8 is this machine.
    let address = |n: u64| format!("https://127.{}.{}.{}:{port}/hook", 1 + n / 65_536, n / 256 % 256, n % 256);
    // A message for twenty of them at a time.
    server.publisher.create_many((0..holes).map(|n| (address(n), format!("hole.n{}", n % types)))).await;
    let first = first + rate * seconds;
    let (mut most_mib, mut most_files) = (0.0_f64, 0);
    let (loading, beside) = {
        let watch = async {
            loop {
                sleep(Duration::from_millis(500)).await;
                most_mib = most_mib.max(server.resident_mib());
                most_files = most_files.max(server.open_files());
            }
        };
        let of_both = |n: u64| {
            vec![(format!("healthy.n{}", n % healthy), first + n), (format!("hole.n{}", n % types), first + n)]
        };
        let measured = async {
            let loading = steady_latencies(&server, &receivers, rate * 5, rate, of_both).await;
            let later = |n| of_both(rate * 5 + n);
            (loading, steady_latencies(&server, &receivers, rate * seconds, rate, later).await)
        };
        tokio::select! {
            () = watch => unreachable!("it watches for ever"),
            measured = measured => measured,
        }
    };
    println!(
        "black holes: {healthy} healthy subscriptions at {rate} messages/s for {seconds} s, alone and beside {holes} that never answer"
    );
    for (what, latencies) in [("alone", &alone), ("loading", &loading), ("beside", &beside)] {
        println!(
            "black holes: {what:<7} p50 {:.2} ms, p99 {:.2} ms, longest {:.2} ms",
            quantile_ms(latencies, 0.5),
            quantile_ms(latencies, 0.99),
            quantile_ms(latencies, 1.0)
        );
    }
    println!(
        "black holes: at most {most_mib:.0} MiB, {most_files} open files; {} connections were swallowed",
        open.load(Ordering::Relaxed)
    );
}

/// Many subscriptions, each with a delivery whose retry is due, in a server that starts.
pub(crate) async fn many() {
    let count = setting("BENCH_MANY", 100_000);
    let receivers = Receivers::start(8).await;
    let mut server = Server::start(&receivers, "").await;
    let started = Instant::now();
    server.publisher.create_many((0..count).map(|n| (receivers.url(n as usize % 8), "**".to_owned()))).await;
    println!("many: {count} subscriptions created in {:.0} s", started.elapsed().as_secs_f64());
    server.publisher.publish([("user.created".to_owned(), 0)]).await;
    // Some are delivered meanwhile: the others are what is pending.
    sleep(Duration::from_millis(500)).await;
    server.kill();
    sleep(Duration::from_millis(500)).await;
    let delivered = receivers.take().len() as u64;
    let killed = Instant::now();
    server.kill_and_restart();
    let serving = killed.elapsed();
    receivers.wait_for(1, "many").await;
    let first = killed.elapsed();
    receivers.wait_for(count - delivered, "many").await;
    println!(
        "many: {} of {count} pending at the start: serving after {:.2} s, first attempt after {:.2} s, all delivered after {:.1} s; {:.0} MiB",
        count - delivered,
        serving.as_secs_f64(),
        first.as_secs_f64(),
        killed.elapsed().as_secs_f64(),
        server.resident_mib()
    );
}

/// Publishes at a fixed rate, what is to be published at each tick in one request.
async fn steady(server: &Server, ticks: u64, rate: u64, messages: impl Fn(u64) -> Vec<(String, u64)>) {
    let mut timer = interval(Duration::from_micros(1_000_000 / rate));
    let mut publishing = tokio::task::JoinSet::new();
    for n in 0..ticks {
        timer.tick().await;
        let (publisher, messages) = (server.publisher.clone(), messages(n));
        publishing.spawn(async move { publisher.publish(messages).await });
    }
    publishing.join_all().await;
}

pub(crate) async fn steady_latencies(
    server: &Server,
    receivers: &Receivers,
    ticks: u64,
    rate: u64,
    messages: impl Fn(u64) -> Vec<(String, u64)>,
) -> Vec<u64> {
    steady(server, ticks, rate, messages).await;
    receivers.wait_for(ticks, "steady").await;
    receivers.take()
}

/// Accepts connections and holds them, silent.
async fn swallow(listener: TcpListener, open: Arc<AtomicU64>) {
    let mut held = Vec::new();
    while let Ok((stream, _)) = listener.accept().await {
        open.fetch_add(1, Ordering::Relaxed);
        held.push(stream);
        // The other side gives up long before; this keeps the bench's own files bounded.
        if held.len() > 4_096 {
            held.drain(..2_048);
        }
    }
}
