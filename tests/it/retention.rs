//! The whole program lets go of what is old, on real databases, while messages are published and delivered. Only the
//! clock is the test's: it goes with the system's, and on by a minute when the test says so.

use std::collections::HashSet;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use futures_util::future::join_all;
use serde_json::{Value, json};
use sqlx::{ConnectOptions, Connection, PgConnection};
use tidings::app::{self, App};
use tidings::clock::{Clock, SystemClock};
use tidings::config::Config;
use tidings::domain::time::Timestamp;
use tokio::sync::{Mutex, oneshot};
use tokio::task::JoinHandle;

use crate::event_store::postgres::database::Fresh;
use crate::support::receiver::Receiver;
use crate::support::server::{Kind, configure, on_both};

const CREATE: &str = "mutation($input: CreateWebhookInput!) { createWebhook(input: $input) { userErrors { code } } }";
const PUBLISH: &str = "mutation($input: PublishMessagesInput!) { publishMessages(input: $input) { results { message { id } userErrors { code } } } }";

const MINUTE_MS: u64 = 60_000;
const RETENTION: &str =
    "[retention]\nbucket_minutes = 1\nevents_minutes = 2\nbodies_minutes = 1\ncheck_every_ms = 20\n";
const MINUTES: usize = 10;
/// Messages of a minute: requests, and messages in each.
const REQUESTS: usize = 12;
const IN_EACH: usize = 5;
const MESSAGES: usize = REQUESTS * IN_EACH;

/// The system's clock, put ahead.
#[derive(Default)]
struct Ahead {
    by_ms: AtomicU64,
}

impl Clock for Ahead {
    fn now(&self) -> Timestamp {
        SystemClock.now().plus_ms(self.by_ms.load(Ordering::SeqCst))
    }

    fn fill(&self, buffer: &mut [u8]) {
        SystemClock.fill(buffer);
    }
}

/// The program in this process, over a database of its own.
struct Served {
    config: Config,
    clock: Arc<Ahead>,
    address: SocketAddr,
    key: String,
    client: reqwest::Client,
    stop: oneshot::Sender<()>,
    running: JoinHandle<()>,
}

impl Served {
    async fn start(config: &Path, clock: Arc<Ahead>, key: Option<String>) -> Self {
        // Another test of this process may have been first.
        drop(rustls::crypto::ring::default_provider().install_default());
        let client = reqwest::Client::builder().no_proxy().build().unwrap();
        let config = Config::load(Some(config)).unwrap();
        let mut shown = key;
        let show = |key: &str| {
            shown = Some(key.to_owned());
            Ok(())
        };
        let app = App::start(&config, Arc::clone(&clock) as Arc<dyn Clock>, show).await.unwrap();
        let key = shown.unwrap();
        let (address, (stop, stopped)) = (app.address(), oneshot::channel());
        let running = tokio::spawn(async move { app.run_until(async { drop(stopped.await) }).await.unwrap() });
        Self { config, clock, address, key, client, stop, running }
    }

    async fn stop(self) -> (Arc<Ahead>, String) {
        drop(self.stop);
        self.running.await.unwrap();
        (self.clock, self.key)
    }

    async fn data(&self, query: &str, input: Value) -> Value {
        let request = self.client.post(format!("http://{}/graphql", self.address)).bearer_auth(&self.key);
        let body = json!({ "query": query, "variables": { "input": input } }).to_string();
        let answer = request.header("content-type", "application/json").body(body).send().await.unwrap();
        let mut answer: Value = serde_json::from_slice(&answer.bytes().await.unwrap()).unwrap();
        assert!(answer.get("errors").is_none(), "{answer}");
        answer["data"].take()
    }

    /// Publishes a minute's messages, and returns their ids when all are acknowledged.
    async fn publish(&self) -> Vec<String> {
        let message = json!({ "type": "user.created", "data": { "text": "x".repeat(500) } });
        let input = json!({ "messages": vec![message; IN_EACH] });
        let answers = join_all((0..REQUESTS).map(|_| self.data(PUBLISH, input.clone()))).await;
        let results = answers.iter().flat_map(|answer| answer["publishMessages"]["results"].as_array().unwrap());
        results.map(|result| result["message"]["id"].as_str().unwrap().to_owned()).collect()
    }

    /// Rows of what happened before that time and goes with its bucket: events and data of messages, counted past the
    /// program.
    async fn rows(&self, database: Option<&Fresh>, before: Timestamp) -> [i64; 2] {
        const EVENTS: &str = "SELECT COUNT(*) FROM bucketed_event WHERE at_ms < $1";
        // A bucket has the number of the minute at which it ends.
        const CONTENTS: &str = "SELECT COUNT(*) FROM content WHERE bucket * 60000 <= $1";
        let mut counts = [0; 2];
        for (sql, count) in [EVENTS, CONTENTS].into_iter().zip(&mut counts) {
            *count = match database {
                Some(database) => {
                    let mut log = PgConnection::connect(database.url.as_str()).await.unwrap();
                    sqlx::query_scalar(sql).bind(before.as_ms()).fetch_one(&mut log).await.unwrap()
                }
                None => {
                    let path: PathBuf = self.config.key_path().unwrap().with_extension("");
                    let mut log = sqlx::sqlite::SqliteConnectOptions::new().filename(path).connect().await.unwrap();
                    sqlx::query_scalar(sql).bind(before.as_ms()).fetch_one(&mut log).await.unwrap()
                }
            };
        }
        counts
    }
}

/// Waits until every one of these messages has come.
async fn all_came(receiver: &Receiver, wanted: &[String]) {
    until("every message", async || {
        let requests = receiver.requests();
        let came: HashSet<_> = requests.iter().filter_map(|request| request.header("webhook-id")).collect();
        wanted.iter().all(|id| came.contains(id.as_str()))
    })
    .await;
}

async fn until(what: &str, condition: impl AsyncFn() -> bool) {
    let deadline = tokio::time::Instant::now() + Duration::from_secs(60);
    while !condition().await {
        assert!(tokio::time::Instant::now() < deadline, "in vain waited for {what}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

async fn what_is_old_goes_while_everything_published_is_delivered(kind: Kind) {
    let receiver = Receiver::start().await;
    let folder = tempfile::tempdir().unwrap();
    let database = match kind {
        Kind::Sqlite => None,
        Kind::Postgres => Some(Fresh::empty().await),
    };
    let config = configure(folder.path(), database.as_ref(), &receiver.ca_file(), RETENTION);
    let served = Served::start(&config, Arc::default(), None).await;
    let webhook = json!({ "url": receiver.url("/hook"), "eventFilters": ["**"], "enabled": true });
    assert_eq!(served.data(CREATE, webhook).await["createWebhook"]["userErrors"], json!([]));

    let mut acknowledged = vec![];
    let mut ends_of_minutes = vec![];
    for _ in 0..MINUTES {
        // What is old by now goes beside this.
        let published = served.publish().await;
        all_came(&receiver, &published).await;
        acknowledged.extend(published);
        served.clock.by_ms.fetch_add(MINUTE_MS, Ordering::SeqCst);
        ends_of_minutes.push(served.clock.now());
    }

    assert_eq!(acknowledged.len(), MINUTES * MESSAGES);
    // Two minutes are kept, and a bucket's length more.
    let old = ends_of_minutes[MINUTES - 4];
    let meanwhile = Mutex::new(vec![]);
    until("old rows to go", async || {
        let published = served.publish().await;
        all_came(&receiver, &published).await;
        meanwhile.lock().await.extend(published);
        served.rows(database.as_ref(), old).await == [0, 0]
    })
    .await;
    let meanwhile = meanwhile.into_inner();
    acknowledged.extend(meanwhile.iter().cloned());
    let left = served.rows(database.as_ref(), served.clock.now()).await;
    // A message is three events: itself, its delivery, the outcome.
    let half = MINUTES * MESSAGES / 2 + meanwhile.len();
    assert!(left[0] < 3 * half as i64 && left[1] < half as i64, "{left:?} of {} messages", acknowledged.len());
    // Nothing younger went: the outcomes of the last ones may be on their way.
    assert!(left[0] >= 2 * MESSAGES as i64, "{left:?}");
    let report = app::verify(&served.config, true, |_, _| {}).await.unwrap();
    assert_eq!(report.first, []);

    // A start finds its way without what went.
    let (clock, key) = served.stop().await;
    let served = Served::start(&config, clock, Some(key)).await;
    let published = served.publish().await;
    all_came(&receiver, &published).await;
    served.stop().await;
    assert_eq!(receiver.requests().len(), acknowledged.len() + published.len(), "something was sent twice");
}

on_both!(what_is_old_goes_while_everything_published_is_delivered);
