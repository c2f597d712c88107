//! A first start, and the making of a first user, that are killed anywhere: done again, they give what they should have.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use serde_json::{Value, json};
use sqlx::{ConnectOptions, Connection, PgConnection};

use crate::event_store::postgres::database::Fresh;
use crate::support::receiver::Receiver;
use crate::support::server::{Kind, configure, on_both};
use crate::users::code;

/// What a new store is made of, as the steps of the program change it.
struct Store {
    folder: tempfile::TempDir,
    database: Option<Fresh>,
    watching: Option<PgConnection>,
    config: PathBuf,
}

impl Store {
    async fn new(kind: Kind, ca_file: &Path) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let database = match kind {
            Kind::Sqlite => None,
            Kind::Postgres => Some(Fresh::empty().await),
        };
        let watching = match &database {
            None => None,
            Some(database) => {
                let options: sqlx::postgres::PgConnectOptions = database.url.as_str().parse().unwrap();
                Some(options.disable_statement_logging().connect().await.unwrap())
            }
        };
        let config = configure(folder.path(), database.as_ref(), ca_file, "");
        Self { folder, database, watching, config }
    }

    /// How far it has come: whatever is written changes it.
    async fn state(&mut self) -> String {
        let mut files: Vec<_> = std::fs::read_dir(self.folder.path())
            .unwrap()
            .filter_map(|entry| {
                let entry = entry.unwrap();
                // Logs and output are no step, and a file may go while it is looked at.
                let name = entry.file_name().into_string().unwrap();
                Some((name, entry.metadata().ok()?.len())).filter(|(name, _)| !name.ends_with(".out"))
            })
            .collect();
        files.sort();
        let mut state = format!("{files:?}");
        if let Some(watching) = &mut self.watching {
            for count in [
                "SELECT count(*) FROM pg_class",
                "SELECT sum(head)::bigint FROM shard",
                "SELECT count(*) FROM claim",
                "SELECT count(*) FROM tidings_keys.sealed",
            ] {
                // What is not there yet cannot be counted.
                let count: Result<Option<i64>, _> = sqlx::query_scalar(count).fetch_one(&mut *watching).await;
                state += &format!(" {:?}", count.ok());
            }
        }
        state
    }

    fn run(&self, number: usize, arguments: &[&str]) -> Running {
        let out = self.folder.path().join(format!("{number}.out"));
        let errors = File::create(self.folder.path().join(format!("{number}.err.out"))).unwrap();
        let mut command = Command::new(env!("CARGO_BIN_EXE_tidings"));
        command.args(arguments).arg("--config").arg(&self.config).env_remove("TIDINGS_SERVER__LISTEN");
        let process = command.stdout(File::create(&out).unwrap()).stderr(errors).stdin(Stdio::null()).spawn().unwrap();
        Running { process, out }
    }

    /// Runs a command, and kills it at the change of that number; whether it had come to its end before.
    async fn kill_at(
        &mut self,
        change: usize,
        arguments: &[&str],
        is_done: impl Fn(&mut Running) -> bool,
    ) -> (String, bool) {
        let mut before = self.state().await;
        let mut running = self.run(1, arguments);
        let mut changes = 0;
        let done = loop {
            if is_done(&mut running) {
                break true;
            }
            let now = self.state().await;
            if now != before {
                (before, changes) = (now, changes + 1);
                if changes >= change {
                    break is_done(&mut running);
                }
            }
            tokio::task::yield_now().await;
        };
        (running.kill(), done)
    }

    async fn close(mut self) {
        if let Some(watching) = self.watching.take() {
            watching.close().await.unwrap();
        }
        drop(self.database);
    }
}

struct Running {
    process: Child,
    out: PathBuf,
}

impl Running {
    fn said(&self) -> String {
        std::fs::read_to_string(&self.out).unwrap()
    }

    fn line(&self, start: &str) -> Option<String> {
        self.said().lines().find_map(|line| line.strip_prefix(start)).map(str::to_owned)
    }

    fn has_ended(&mut self) -> bool {
        self.process.try_wait().unwrap().is_some()
    }

    /// Until it says a line that begins so; what follows in it.
    async fn until(&mut self, start: &str) -> String {
        loop {
            let ended = self.has_ended();
            if let Some(rest) = self.line(start) {
                return rest;
            }
            assert!(!ended, "it ended: {}", std::fs::read_to_string(self.out.with_extension("err.out")).unwrap());
            tokio::task::yield_now().await;
        }
    }

    /// `kill -9`; what it had said.
    fn kill(mut self) -> String {
        drop(self.process.kill());
        self.process.wait().unwrap();
        self.said()
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        drop(self.process.kill());
        drop(self.process.wait());
    }
}

async fn ask(address: &str, key: &str, query: &str) -> Value {
    let client = reqwest::Client::builder().no_proxy().build().unwrap();
    let request = client.post(format!("{address}/graphql")).bearer_auth(key).header("content-type", "application/json");
    let answer = request.body(json!({ "query": query }).to_string()).send().await.unwrap();
    serde_json::from_slice(&answer.bytes().await.unwrap()).unwrap()
}

const KEY: &str = "bootstrap key (shown once): ";
const SERVING: &str = "serving on ";

/// Each change at first, then further and further ones: the first steps are the ones of the installation.
fn next(change: usize) -> usize {
    change + 1 + change / 8
}

async fn a_first_start_that_is_killed_anywhere_is_completed_by_the_next(kind: Kind) {
    drop(rustls::crypto::ring::default_provider().install_default());
    let receiver = Receiver::start().await;
    let (mut change, mut done) = (1, false);
    while !done {
        let mut store = Store::new(kind, &receiver.ca_file()).await;
        let (said, ended) = store.kill_at(change, &["serve"], |running| running.line(SERVING).is_some()).await;
        let mut second = store.run(2, &["serve"]);
        let address = second.until(SERVING).await;
        // The last key that was shown, whichever start did.
        let keys = said + &second.said();
        let shown = keys.lines().filter_map(|line| line.strip_prefix(KEY)).next_back();
        let key = shown.unwrap_or_else(|| panic!("nobody can get in after change {change}: {keys}"));
        let viewer = ask(&address, key, "{ viewer { name tenant { slug } } }").await;
        let expected = json!({ "viewer": { "name": "bootstrap", "tenant": { "slug": "default" } } });
        assert_eq!(viewer["data"], expected, "after change {change}: {viewer}");
        let publish = "mutation { publishMessage(input: { type: \"user.created\", data: {} }) { message { id } } }";
        let published = ask(&address, key, publish).await;
        assert!(published["data"]["publishMessage"]["message"]["id"].is_string(), "after change {change}: {published}");
        let keys = ask(&address, key, "{ apiKeys { nodes { name } } }").await;
        assert_eq!(keys["data"]["apiKeys"]["nodes"], json!([{ "name": "bootstrap" }]), "after change {change}: {keys}");
        drop(second);
        store.close().await;
        (change, done) = (next(change), ended);
    }
    assert!(change > 8, "it was done after {change} changes: are they seen at all?");
}

async fn a_user_whose_making_is_killed_anywhere_is_made_by_the_next_try(kind: Kind) {
    drop(rustls::crypto::ring::default_provider().install_default());
    let receiver = Receiver::start().await;
    let (mut change, mut done) = (1, false);
    while !done {
        let mut store = Store::new(kind, &receiver.ca_file()).await;
        let mut first = store.run(0, &["serve"]);
        first.until(SERVING).await;
        drop(first);
        let (_, ended) = store.kill_at(change, &["user", "add", "ada"], Running::has_ended).await;
        let mut again = store.run(2, &["user", "add", "ada"]);
        while !again.has_ended() {
            tokio::task::yield_now().await;
        }
        // Made already, and nobody was told the password: then it is given anew.
        if again.said().is_empty() {
            again = store.run(3, &["user", "reset", "ada"]);
        }
        let password = again.until("password (shown once): ").await;
        let uri = again.until("authenticator (shown once): ").await;
        while !again.has_ended() {
            tokio::task::yield_now().await;
        }
        let mut server = store.run(4, &["serve"]);
        let address = server.until(SERVING).await;
        let body = json!({ "username": "ada", "password": password, "totp": code(&uri) }).to_string();
        let client = reqwest::Client::builder().no_proxy().build().unwrap();
        let request = client.post(format!("{address}/session")).header("content-type", "application/json");
        let status = request.body(body).send().await.unwrap().status().as_u16();
        assert_eq!(status, 200, "after change {change}");
        drop(server);
        store.close().await;
        (change, done) = (next(change), ended);
    }
    assert!(change > 2, "it was done after {change} changes: are they seen at all?");
}

on_both! {
    a_first_start_that_is_killed_anywhere_is_completed_by_the_next,
    a_user_whose_making_is_killed_anywhere_is_made_by_the_next_try,
}
