//! Publish → received, on loopback: the server as a process of its own, a TLS receiver and publishers in this one.
//!
//! Prints what it measured and asserts nothing but completeness. All three share the machine, so the figures are those
//! of the whole, and CPU per delivery is the server process's own, from the operating system.

#![expect(clippy::print_stdout, reason = "a benchmark's output is its result")]
#![expect(clippy::unwrap_used, reason = "a benchmark that cannot run has nothing to report")]

use std::convert::Infallible;
use std::fs;
use std::io::{BufRead, BufReader};
use std::net::SocketAddr;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use hyper::body::{Body, Incoming};
use hyper::service::service_fn;
use hyper::{Request, Response, StatusCode};
use hyper_util::rt::TokioIo;
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair};
use rustls::pki_types::PrivateKeyDer;
use serde_json::{Value, json};
use tokio::net::TcpListener;
use tokio::time::Instant;
use tokio_rustls::TlsAcceptor;

const CREATE: &str =
    "mutation($input: CreateWebhookInput!) { createWebhook(input: $input) { webhook { id } userErrors { message } } }";
const PUBLISH: &str = "mutation($input: PublishMessagesInput!) { publishMessages(input: $input) { results { message { id } userErrors { message } } } }";

#[tokio::main]
async fn main() {
    // The publishers' client insists on a provider, although it speaks plain http.
    rustls::crypto::ring::default_provider().install_default().unwrap();
    let messages = setting("BENCH_MESSAGES", 20_000);
    println!("end to end on loopback, TLS, SQLite synchronous=FULL, ~1 KB bodies; {messages} messages\n");
    println!(
        "{:<34} {:>9} {:>12} {:>9} {:>9} {:>14} {:>9}",
        "scenario", "msg/s", "deliveries/s", "p50 ms", "p99 ms", "CPU µs/deliv.", "RSS MiB"
    );
    saturated("saturated, one endpoint", messages, 1, false).await;
    saturated("saturated, fan-out 10", messages / 5, 10, false).await;
    saturated("saturated, beside one that hangs", messages / 2, 1, true).await;
    paced("200 messages a second", 200, setting("BENCH_SECONDS", 10)).await;
}

fn setting(name: &str, default: u64) -> u64 {
    std::env::var(name).ok().and_then(|value| value.parse().ok()).unwrap_or(default)
}

/// As fast as publishers can, in requests of 50 messages.
async fn saturated(name: &str, messages: u64, fan_out: u64, hanging: bool) {
    let bench = Bench::start(fan_out, hanging).await;
    let started = Instant::now();
    let next = Arc::new(AtomicU64::new(0));
    let mut publishers = tokio::task::JoinSet::new();
    for _ in 0..8 {
        let (bench, next) = (bench.publisher(), Arc::clone(&next));
        publishers.spawn(async move {
            loop {
                let first = next.fetch_add(50, Ordering::Relaxed);
                if first >= messages {
                    return;
                }
                bench.publish(first..(first + 50).min(messages)).await;
            }
        });
    }
    while let Some(ended) = publishers.join_next().await {
        ended.unwrap();
    }
    let published = started.elapsed();
    bench.report(name, messages, messages * fan_out, published, started).await;
}

/// One message at a time, at a fixed rate.
async fn paced(name: &str, rate: u64, seconds: u64) {
    let bench = Bench::start(1, false).await;
    let started = Instant::now();
    let mut ticks = tokio::time::interval(Duration::from_micros(1_000_000 / rate));
    let mut publishing = tokio::task::JoinSet::new();
    for n in 0..rate * seconds {
        ticks.tick().await;
        let bench = bench.publisher();
        publishing.spawn(async move { bench.publish(n..n + 1).await });
    }
    while let Some(ended) = publishing.join_next().await {
        ended.unwrap();
    }
    let published = started.elapsed();
    bench.report(name, rate * seconds, rate * seconds, published, started).await;
}

struct Bench {
    server: Child,
    _folder: tempfile::TempDir,
    publisher: Publisher,
    receiver: Arc<Received>,
}

#[derive(Clone)]
struct Publisher {
    client: reqwest::Client,
    url: String,
    key: String,
    epoch: Instant,
}

#[derive(Default)]
struct Received {
    latencies_us: Mutex<Vec<u64>>,
}

impl Bench {
    async fn start(endpoints: u64, hanging: bool) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let epoch = Instant::now();
        let receiver = Arc::new(Received::default());
        // An endpoint has a host of its own, as different receivers have: connections are pooled by host.
        let addresses = receive(folder.path(), Arc::clone(&receiver), epoch, endpoints).await;
        let config = folder.path().join("tidings.toml");
        let text = format!(
            "[database]\nurl = \"sqlite://{0}/log.db\"\n[server]\nlisten = \"127.0.0.1:0\"\n[egress]\nallow_cidrs = [\"127.0.0.0/8\"]\nextra_ca = [\"{0}/ca.pem\"]\n",
            folder.path().display()
        );
        fs::write(&config, text).unwrap();
        let mut server = Command::new(env!("CARGO_BIN_EXE_tidings"))
            .args(["serve", "--config"])
            .arg(&config)
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut key = String::new();
        let mut url = String::new();
        for line in BufReader::new(server.stdout.take().unwrap()).lines().map_while(Result::ok) {
            if let Some(value) = line.strip_prefix("bootstrap key (shown once): ") {
                value.clone_into(&mut key);
            }
            if let Some(value) = line.strip_prefix("serving on ") {
                url = format!("{value}/graphql");
                break;
            }
        }
        let client = reqwest::Client::builder().no_proxy().build().unwrap();
        let publisher = Publisher { client, url, key, epoch };
        for address in &addresses {
            publisher.create(&format!("https://{address}/hook")).await;
        }
        if hanging {
            publisher.create(&format!("https://{}/hang", addresses[0])).await;
        }
        Self { server, _folder: folder, publisher, receiver }
    }

    fn publisher(&self) -> Publisher {
        self.publisher.clone()
    }

    async fn report(mut self, name: &str, messages: u64, deliveries: u64, published: Duration, started: Instant) {
        let mut last = (0, Instant::now());
        loop {
            let count = self.receiver.latencies_us.lock().unwrap().len() as u64;
            if count >= deliveries {
                break;
            }
            if count > last.0 {
                last = (count, Instant::now());
            }
            assert!(last.1.elapsed() < Duration::from_secs(30), "{name}: stuck at {count} of {deliveries}");
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        let elapsed = started.elapsed().as_secs_f64();
        // What is still to be recorded belongs to the deliveries.
        tokio::time::sleep(Duration::from_millis(500)).await;
        let cpu_us = cpu_us(self.server.id());
        let rss = resident_mib(self.server.id());
        let mut latencies = std::mem::take(&mut *self.receiver.latencies_us.lock().unwrap());
        latencies.sort_unstable();
        let quantile = |q: f64| latencies[((latencies.len() - 1) as f64 * q) as usize] as f64 / 1_000.0;
        println!(
            "{:<34} {:>9.0} {:>12.0} {:>9.2} {:>9.2} {:>14.0} {:>9.0}",
            name,
            messages as f64 / published.as_secs_f64(),
            deliveries as f64 / elapsed,
            quantile(0.5),
            quantile(0.99),
            cpu_us as f64 / deliveries as f64,
            rss
        );
        self.server.kill().unwrap();
        self.server.wait().unwrap();
    }
}

impl Publisher {
    async fn graphql(&self, query: &str, variables: Value) -> Value {
        let body = json!({ "query": query, "variables": variables }).to_string();
        let request = self.client.post(&self.url).bearer_auth(&self.key).header("content-type", "application/json");
        let answer = request.body(body).send().await.unwrap().bytes().await.unwrap();
        let answer: Value = serde_json::from_slice(&answer).unwrap();
        assert!(answer.get("errors").is_none(), "{answer}");
        answer
    }

    async fn create(&self, url: &str) {
        let input = json!({ "url": url, "eventFilters": ["**"], "enabled": true });
        let answer = self.graphql(CREATE, json!({ "input": input })).await;
        assert_eq!(answer["data"]["createWebhook"]["userErrors"], json!([]));
    }

    async fn publish(&self, numbers: std::ops::Range<u64>) {
        let padding = "x".repeat(850);
        let messages: Vec<_> = numbers
            .map(|n| {
                let at_us = self.epoch.elapsed().as_micros() as u64;
                json!({ "type": "user.created", "data": { "at_us": at_us, "padding": padding }, "idempotencyKey": format!("bench-{n}") })
            })
            .collect();
        let answer = self.graphql(PUBLISH, json!({ "input": { "messages": messages } })).await;
        for result in answer["data"]["publishMessages"]["results"].as_array().unwrap() {
            assert_eq!(result["userErrors"], json!([]));
        }
    }
}

/// Serves TLS on so many ports, under a private authority whose certificate it leaves in the folder.
async fn receive(folder: &Path, received: Arc<Received>, epoch: Instant, ports: u64) -> Vec<SocketAddr> {
    let mut ca = CertificateParams::default();
    ca.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let ca = CertifiedIssuer::self_signed(ca, KeyPair::generate().unwrap()).unwrap();
    fs::write(folder.join("ca.pem"), ca.pem()).unwrap();
    let key = KeyPair::generate().unwrap();
    let certificate = CertificateParams::new(vec!["127.0.0.1".into()]).unwrap().signed_by(&key, &ca).unwrap();
    let tls = rustls::ServerConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![certificate.der().clone()], PrivateKeyDer::Pkcs8(key.serialize_der().into()))
        .unwrap();
    let acceptor = TlsAcceptor::from(Arc::new(tls));
    let mut addresses = Vec::new();
    for _ in 0..ports {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        addresses.push(listener.local_addr().unwrap());
        tokio::spawn(accept(listener, acceptor.clone(), Arc::clone(&received), epoch));
    }
    addresses
}

async fn accept(listener: TcpListener, acceptor: TlsAcceptor, received: Arc<Received>, epoch: Instant) {
    while let Ok((stream, _)) = listener.accept().await {
        let (acceptor, received) = (acceptor.clone(), Arc::clone(&received));
        tokio::spawn(async move {
            stream.set_nodelay(true).unwrap();
            let Ok(stream) = acceptor.accept(stream).await else { return };
            let service = service_fn(move |request| answer(request, Arc::clone(&received), epoch));
            drop(hyper::server::conn::http1::Builder::new().serve_connection(TokioIo::new(stream), service).await);
        });
    }
}

async fn answer(
    request: Request<Incoming>,
    received: Arc<Received>,
    epoch: Instant,
) -> Result<Response<http_body_util::Full<Bytes>>, Infallible> {
    if request.uri().path() == "/hang" {
        return std::future::pending().await;
    }
    let size = request.body().size_hint().upper().unwrap_or(0);
    let body =
        http_body_util::BodyExt::collect(request.into_body()).await.map(|body| body.to_bytes()).unwrap_or_default();
    assert_eq!(body.len() as u64, size);
    let text = std::str::from_utf8(&body).unwrap();
    let after = text.split_once("\"at_us\":").unwrap().1;
    let at_us: u64 = after[..after.find(|c: char| !c.is_ascii_digit()).unwrap()].parse().unwrap();
    let now_us = epoch.elapsed().as_micros() as u64;
    received.latencies_us.lock().unwrap().push(now_us - at_us);
    let mut response = Response::new(http_body_util::Full::new(Bytes::from_static(b"ok")));
    *response.status_mut() = StatusCode::OK;
    Ok(response)
}

fn cpu_us(pid: u32) -> u64 {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap();
    let fields: Vec<_> = stat.rsplit_once(')').unwrap().1.split_whitespace().collect();
    let ticks: u64 = fields[11].parse::<u64>().unwrap() + fields[12].parse::<u64>().unwrap();
    ticks * 10_000 // Linux counts in hundredths of a second
}

fn resident_mib(pid: u32) -> f64 {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let line = status.lines().find(|line| line.starts_with("VmRSS:")).unwrap();
    line.split_whitespace().nth(1).unwrap().parse::<f64>().unwrap() / 1024.0
}
