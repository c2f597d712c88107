//! What the end-to-end benchmarks share: the server as a process of its own, publishers, and receivers over TLS.

use std::convert::Infallible;
use std::fs;
use std::io::{BufRead, BufReader};
use std::net::SocketAddr;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper::{Request, Response, StatusCode};
use hyper_util::rt::TokioIo;
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair};
use rustls::pki_types::PrivateKeyDer;
use serde_json::{Value, json};
use sqlx::Connection;
use tokio::net::TcpListener;
use tokio::time::Instant;
use tokio_rustls::TlsAcceptor;

const CREATE: &str =
    "mutation($input: CreateWebhookInput!) { createWebhook(input: $input) { webhook { id } userErrors { message } } }";
const REGISTER: &str =
    "mutation($input: RegisterEventTypeInput!) { registerEventType(input: $input) { userErrors { message } } }";
const PUBLISH: &str = "mutation($input: PublishMessagesInput!) { publishMessages(input: $input) { results { message { id } userErrors { message } } } }";

/// A number from the environment.
pub(crate) fn setting(name: &str, default: u64) -> u64 {
    std::env::var(name).ok().and_then(|value| value.parse().ok()).unwrap_or(default)
}

/// What a quantile of sorted microseconds is, in milliseconds.
pub(crate) fn quantile_ms(sorted_us: &[u64], q: f64) -> f64 {
    sorted_us.get(((sorted_us.len().max(1) - 1) as f64 * q) as usize).map_or(f64::NAN, |us| *us as f64 / 1_000.0)
}

/// The server, and the folder that it keeps its log in.
pub(crate) struct Server {
    process: Child,
    config: std::path::PathBuf,
    _folder: tempfile::TempDir,
    /// How to speak to it.
    pub(crate) publisher: Publisher,
}

impl Server {
    /// Starts one that trusts the authority of these receivers. `more` are further lines of its configuration.
    pub(crate) async fn start(receivers: &Receivers, more: &str) -> Self {
        let folder = tempfile::tempdir().unwrap();
        fs::write(folder.path().join("ca.pem"), &receivers.authority).unwrap();
        let config = folder.path().join("tidings.toml");
        let database = database(&folder.path().display().to_string()).await;
        let text = format!(
            "[database]\nurl = \"{database}\"\n[secrets]\nkey_file = \"{0}/key\"\n[projections]\npath = \"{0}/read-models\"\n[server]\nlisten = \"127.0.0.1:0\"\n[egress]\nallow_cidrs = [\"127.0.0.0/8\"]\nextra_ca = [\"{0}/ca.pem\"]\n{more}",
            folder.path().display()
        );
        fs::write(&config, text).unwrap();
        let (process, url, key) = serve(&config);
        let client = reqwest::Client::builder().no_proxy().build().unwrap();
        let publisher = Publisher { client, url, key, epoch: receivers.epoch };
        Self { process, config, _folder: folder, publisher }
    }

    /// Ends the process without a warning, and starts another on the same log. Answers once that one serves.
    pub(crate) fn kill_and_restart(&mut self) {
        self.kill();
        let (process, url, _) = serve(&self.config);
        self.process = process;
        self.publisher.url = url;
    }

    /// Ends the process without a warning.
    pub(crate) fn kill(&mut self) {
        self.process.kill().unwrap();
        self.process.wait().unwrap();
    }

    /// The processor time that the process has used, in microseconds.
    pub(crate) fn cpu_us(&self) -> u64 {
        cpu_us(self.process.id())
    }

    /// The memory of the process that is resident, in MiB.
    pub(crate) fn resident_mib(&self) -> f64 {
        let status = fs::read_to_string(format!("/proc/{}/status", self.process.id())).unwrap();
        let line = status.lines().find(|line| line.starts_with("VmRSS:")).unwrap();
        line.split_whitespace().nth(1).unwrap().parse::<f64>().unwrap() / 1024.0
    }

    /// The file descriptors that the process holds open.
    pub(crate) fn open_files(&self) -> usize {
        fs::read_dir(format!("/proc/{}/fd", self.process.id())).unwrap().count()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        drop(self.process.kill());
        drop(self.process.wait());
    }
}

/// A database of its own: with POSTGRES_TEST_URL at that server, else in a file of the folder.
async fn database(folder: &str) -> String {
    static MADE: AtomicU32 = AtomicU32::new(0);
    let Ok(server) = std::env::var("POSTGRES_TEST_URL") else { return format!("sqlite://{folder}/log.db") };
    let name = format!("bench_{}_{}", std::process::id(), MADE.fetch_add(1, Ordering::Relaxed));
    let mut connection = sqlx::PgConnection::connect(&server).await.unwrap();
    let create = sqlx::AssertSqlSafe(format!("CREATE DATABASE {name}"));
    sqlx::query(create).execute(&mut connection).await.unwrap();
    let mut url = url::Url::parse(&server).unwrap();
    url.set_path(&name);
    url.into()
}

/// Starts the server and waits until it serves: its process, address and bootstrap key.
fn serve(config: &Path) -> (Child, String, String) {
    let mut process = Command::new(env!("CARGO_BIN_EXE_tidings"))
        .args(["serve", "--config"])
        .arg(config)
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let (mut key, mut url) = (String::new(), String::new());
    for line in BufReader::new(process.stdout.take().unwrap()).lines().map_while(Result::ok) {
        if let Some(value) = line.strip_prefix("bootstrap key (shown once): ") {
            value.clone_into(&mut key);
        }
        if let Some(value) = line.strip_prefix("serving on ") {
            url = format!("{value}/graphql");
            break;
        }
    }
    (process, url, key)
}

/// The processor time that a process has used, in microseconds.
pub(crate) fn cpu_us(pid: u32) -> u64 {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap();
    let fields: Vec<_> = stat.rsplit_once(')').unwrap().1.split_whitespace().collect();
    let ticks: u64 = fields[11].parse::<u64>().unwrap() + fields[12].parse::<u64>().unwrap();
    ticks * 10_000 // Linux counts in hundredths of a second
}

/// A client of the server's API.
#[derive(Clone)]
pub(crate) struct Publisher {
    client: reqwest::Client,
    url: String,
    key: String,
    epoch: Instant,
}

impl Publisher {
    /// Asks, and fails on any error.
    pub(crate) async fn graphql(&self, query: &str, variables: Value) -> Value {
        let body = json!({ "query": query, "variables": variables }).to_string();
        let request = self.client.post(&self.url).bearer_auth(&self.key).header("content-type", "application/json");
        let answer = request.body(body).send().await.unwrap().bytes().await.unwrap();
        let answer: Value = serde_json::from_slice(&answer).unwrap();
        assert!(answer.get("errors").is_none(), "{answer}");
        answer
    }

    /// A webhook that is enabled.
    pub(crate) async fn create(&self, url: &str, filter: &str) {
        let input = json!({ "url": url, "eventFilters": [filter], "enabled": true });
        let answer = self.graphql(CREATE, json!({ "input": input })).await;
        assert_eq!(answer["data"]["createWebhook"]["userErrors"], json!([]));
    }

    /// Many webhooks, several at a time.
    pub(crate) async fn create_many(&self, webhooks: impl IntoIterator<Item = (String, String)>) {
        let mut creating = tokio::task::JoinSet::new();
        for (url, filter) in webhooks {
            if creating.len() >= 64 {
                creating.join_next().await.unwrap().unwrap();
            }
            let publisher = self.clone();
            creating.spawn(async move { publisher.create(&url, &filter).await });
        }
        creating.join_all().await;
    }

    /// Event types whose messages may hold anything.
    pub(crate) async fn register(&self, names: impl IntoIterator<Item = String>) {
        for name in names {
            let input =
                json!({ "name": name, "description": "A bench.", "category": "bench", "schema": {}, "example": {} });
            let answer = self.graphql(REGISTER, json!({ "input": input })).await;
            assert_eq!(answer["data"]["registerEventType"]["userErrors"], json!([]));
        }
    }

    /// Publishes and says how that ended: taken, or refused, and then whether it was said when to try again.
    pub(crate) async fn try_publish(&self, messages: impl IntoIterator<Item = (String, u64)>) -> Result<(), bool> {
        let padding = "x".repeat(850);
        let message = |(kind, n): (String, u64)| json!({ "type": kind, "data": { "at_us": 0, "padding": padding }, "idempotencyKey": format!("over-{n}") });
        let messages: Vec<_> = messages.into_iter().map(message).collect();
        let body = json!({ "query": PUBLISH, "variables": { "input": { "messages": messages } } }).to_string();
        let request = self.client.post(&self.url).bearer_auth(&self.key).header("content-type", "application/json");
        let answer = request.body(body).send().await.unwrap();
        let later = answer.headers().contains_key("retry-after");
        match answer.status() == 503 || answer.status() == 429 {
            true => Err(later),
            false => {
                let answer: Value = serde_json::from_slice(&answer.bytes().await.unwrap()).unwrap();
                assert!(answer.get("errors").is_none(), "{answer}");
                Ok(())
            }
        }
    }

    /// Publishes messages of about 1 KB by one of the two ways, in one request.
    pub(crate) async fn publish_by(&self, by_graphql: bool, one: &str, many: &str, numbers: std::ops::Range<u64>) {
        let padding = "x".repeat(850);
        let message = |n: u64| json!({ "type": "user.created", "data": { "padding": padding }, "idempotencyKey": format!("cost-{n}") });
        let mut messages: Vec<_> = numbers.map(message).collect();
        let single = messages.len() == 1;
        let (path, body) = match (by_graphql, single) {
            (true, true) => ("/graphql", json!({ "query": one, "variables": { "input": messages.pop() } })),
            (true, false) => ("/graphql", json!({ "query": many, "variables": { "input": { "messages": messages } } })),
            (false, true) => ("/v1/messages", messages.pop().unwrap()),
            (false, false) => ("/v1/messages", Value::Array(messages)),
        };
        let request = self.client.post(self.url.replace("/graphql", path)).bearer_auth(&self.key);
        let answer = request.header("content-type", "application/json").body(body.to_string()).send().await.unwrap();
        assert!(answer.status().is_success(), "{}", answer.status());
        let answer: Value = serde_json::from_slice(&answer.bytes().await.unwrap()).unwrap();
        assert!(answer.get("errors").is_none() && answer.get("error").is_none(), "{answer}");
    }

    /// Sends a body of GraphQL that is to be refused by that code; by none, if it is empty.
    pub(crate) async fn refused(&self, body: &str, code: &str) {
        let request = self.client.post(&self.url).bearer_auth(&self.key).header("content-type", "application/json");
        // The server may hang up before all of it is written.
        let Ok(answer) = request.body(body.to_owned()).send().await else { return };
        let Ok(bytes) = answer.bytes().await else { return };
        let answer: Value = serde_json::from_slice(&bytes).unwrap();
        assert_eq!(answer["errors"][0]["extensions"]["code"].as_str().unwrap_or_default(), code, "{answer}");
    }

    /// Publishes messages of about 1 KB, by event type and number, in one request.
    pub(crate) async fn publish(&self, messages: impl IntoIterator<Item = (String, u64)>) {
        let padding = "x".repeat(850);
        let at_us = || self.epoch.elapsed().as_micros() as u64;
        let message = |(kind, n): (String, u64)| json!({ "type": kind, "data": { "at_us": at_us(), "padding": padding }, "idempotencyKey": format!("bench-{kind}-{n}") });
        let messages: Vec<_> = messages.into_iter().map(message).collect();
        let answer = self.graphql(PUBLISH, json!({ "input": { "messages": messages } })).await;
        for result in answer["data"]["publishMessages"]["results"].as_array().unwrap() {
            assert_eq!(result["userErrors"], json!([]));
        }
    }
}

/// Receivers over TLS, each on a port of its own, under one private authority; and what they have received.
pub(crate) struct Receivers {
    /// The authority's certificate.
    pub(crate) authority: String,
    /// Where they listen.
    pub(crate) addresses: Vec<SocketAddr>,
    /// How long each message was under way, in microseconds.
    pub(crate) latencies_us: Arc<Mutex<Vec<u64>>>,
    epoch: Instant,
}

impl Receivers {
    /// So many. An endpoint has a host of its own, as different receivers have: connections are pooled by host.
    pub(crate) async fn start(count: u64) -> Self {
        let mut ca = CertificateParams::default();
        ca.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let ca = CertifiedIssuer::self_signed(ca, KeyPair::generate().unwrap()).unwrap();
        let key = KeyPair::generate().unwrap();
        let certificate = CertificateParams::new(vec!["127.0.0.1".into()]).unwrap().signed_by(&key, &ca).unwrap();
        let tls = rustls::ServerConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_no_client_auth()
            .with_single_cert(vec![certificate.der().clone()], PrivateKeyDer::Pkcs8(key.serialize_der().into()))
            .unwrap();
        let acceptor = TlsAcceptor::from(Arc::new(tls));
        let (epoch, latencies_us) = (Instant::now(), Arc::default());
        let mut addresses = Vec::new();
        for _ in 0..count {
            let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
            addresses.push(listener.local_addr().unwrap());
            tokio::spawn(accept(listener, acceptor.clone(), Arc::clone(&latencies_us), epoch));
        }
        Self { authority: ca.pem(), addresses, latencies_us, epoch }
    }

    /// Where one of them answers.
    pub(crate) fn url(&self, index: usize) -> String {
        format!("https://{}/hook", self.addresses[index])
    }

    /// Waits until so many messages have come; fails if none comes for half a minute.
    pub(crate) async fn wait_for(&self, count: u64, what: &str) {
        let mut last = (0, Instant::now());
        loop {
            let received = self.latencies_us.lock().unwrap().len() as u64;
            if received >= count {
                return;
            }
            if received > last.0 {
                last = (received, Instant::now());
            }
            assert!(last.1.elapsed() < Duration::from_secs(30), "{what}: stuck at {received} of {count}");
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }

    /// What was received since this was asked last, sorted.
    pub(crate) fn take(&self) -> Vec<u64> {
        let mut latencies = std::mem::take(&mut *self.latencies_us.lock().unwrap());
        latencies.sort_unstable();
        latencies
    }

    /// The same requests as the server sends, by the same kind of client, with nothing before or behind: how many a
    /// second this machine can do at all with so many at a time.
    pub(crate) async fn raw_limit(&self, requests: u64, at_a_time: u64) -> f64 {
        let authority = reqwest::Certificate::from_pem(self.authority.as_bytes()).unwrap();
        let client = reqwest::Client::builder().no_proxy().tls_certs_only([authority]).build().unwrap();
        let body = json!({ "type": "user.created", "data": { "at_us": 0, "padding": "x".repeat(850) } }).to_string();
        let started = Instant::now();
        let mut senders = tokio::task::JoinSet::new();
        for sender in 0..at_a_time {
            let (client, body, url) = (client.clone(), body.clone(), self.url(sender as usize % self.addresses.len()));
            senders.spawn(async move {
                for _ in 0..requests / at_a_time {
                    let answer = client.post(&url).body(body.clone()).send().await.unwrap();
                    assert_eq!(answer.bytes().await.unwrap(), "ok");
                }
            });
        }
        senders.join_all().await;
        let rate = (requests / at_a_time * at_a_time) as f64 / started.elapsed().as_secs_f64();
        self.take();
        rate
    }
}

async fn accept(listener: TcpListener, acceptor: TlsAcceptor, latencies_us: Arc<Mutex<Vec<u64>>>, epoch: Instant) {
    while let Ok((stream, _)) = listener.accept().await {
        let (acceptor, latencies_us) = (acceptor.clone(), Arc::clone(&latencies_us));
        tokio::spawn(async move {
            stream.set_nodelay(true).unwrap();
            let Ok(stream) = acceptor.accept(stream).await else { return };
            let service = service_fn(move |request| answer(request, Arc::clone(&latencies_us), epoch));
            drop(hyper::server::conn::http1::Builder::new().serve_connection(TokioIo::new(stream), service).await);
        });
    }
}

async fn answer(
    request: Request<Incoming>,
    latencies_us: Arc<Mutex<Vec<u64>>>,
    epoch: Instant,
) -> Result<Response<Full<Bytes>>, Infallible> {
    match request.uri().path() {
        "/hang" => return std::future::pending().await,
        "/again" => {
            drop(request.into_body().collect().await);
            return Ok(Response::new(Full::new(Bytes::from_static(b"ok"))));
        }
        "/slow" => tokio::time::sleep(Duration::from_millis(200)).await,
        "/fail" => {
            let mut refusal = Response::new(Full::new(Bytes::from_static(b"no")));
            *refusal.status_mut() = StatusCode::INTERNAL_SERVER_ERROR;
            return Ok(refusal);
        }
        _ => {}
    }
    let body = request.into_body().collect().await.map(|body| body.to_bytes()).unwrap_or_default();
    let text = std::str::from_utf8(&body).unwrap();
    let after = text.split_once("\"at_us\":").unwrap().1;
    let at_us: u64 = after[..after.find(|c: char| !c.is_ascii_digit()).unwrap()].parse().unwrap();
    latencies_us.lock().unwrap().push((epoch.elapsed().as_micros() as u64).saturating_sub(at_us));
    Ok(Response::new(Full::new(Bytes::from_static(b"ok"))))
}
