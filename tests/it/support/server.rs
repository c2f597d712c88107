//! The program itself, as a process of its own, so that it can be killed.

use std::io::{BufRead, BufReader, Read};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Mutex;

use serde_json::{Value, json};

use crate::event_store::postgres::database::Fresh;

/// Where a server keeps its log.
#[derive(Clone, Copy)]
pub(crate) enum Kind {
    Sqlite,
    Postgres,
}

/// Runs each of the named tests over a log of either kind.
macro_rules! on_both {
    ($($test:ident),+ $(,)?) => {
        mod on_sqlite {
            $(#[tokio::test(flavor = "multi_thread")]
            async fn $test() {
                super::$test(crate::support::server::Kind::Sqlite).await;
            })+
        }
        mod on_postgres {
            $(#[tokio::test(flavor = "multi_thread")]
            async fn $test() {
                super::$test(crate::support::server::Kind::Postgres).await;
            })+
        }
    };
}
pub(crate) use on_both;

/// A store on disk and, while it runs, the process that serves it.
pub(crate) struct Server {
    folder: tempfile::TempDir,
    database: Option<Fresh>,
    config: PathBuf,
    environment: Vec<(&'static str, String)>,
    process: Option<Child>,
    address: SocketAddr,
    /// The bootstrap key, which the first start printed.
    pub(crate) key: String,
    /// Where the metrics are, if the configuration says that they are told.
    pub(crate) metrics: String,
    /// Where operators are served, if the configuration says that it is apart.
    pub(crate) operators: String,
    client: reqwest::Client,
    /// What it answered by GraphQL, if somebody wants to keep it.
    heard: Mutex<Option<Vec<String>>>,
}

impl Server {
    /// Starts the program on a new store. It may reach loopback and trusts the given authority.
    pub(crate) fn start(ca_file: &Path) -> Self {
        Self::start_with(ca_file, "")
    }

    /// The same with more configuration: keys of `egress`, then TOML sections that are not `database` or `server`.
    pub(crate) fn start_with(ca_file: &Path, more: &str) -> Self {
        Self::start_over(None, ca_file, more, vec![])
    }

    /// The same with more in its environment.
    pub(crate) fn start_among(ca_file: &Path, environment: Vec<(&'static str, String)>) -> Self {
        Self::start_over(None, ca_file, "", environment)
    }

    /// The same started once more, with these lines in the section `server`.
    pub(crate) fn restart_serving(&mut self, lines: &str) {
        self.terminate();
        let text = std::fs::read_to_string(&self.config).unwrap();
        std::fs::write(&self.config, text.replace("[server]\n", &format!("[server]\n{lines}\n"))).unwrap();
        self.restart();
    }

    /// The same over a log in a database of that kind.
    pub(crate) async fn start_on(kind: Kind, ca_file: &Path) -> Self {
        Self::start_on_with(kind, ca_file, "").await
    }

    /// The same with more configuration, as [`Self::start_with`].
    pub(crate) async fn start_on_with(kind: Kind, ca_file: &Path, more: &str) -> Self {
        let database = match kind {
            Kind::Sqlite => None,
            Kind::Postgres => Some(Fresh::empty().await),
        };
        Self::start_over(database, ca_file, more, vec![])
    }

    /// The same over that database.
    pub(crate) fn start_in(database: Fresh, ca_file: &Path) -> Self {
        Self::start_over(Some(database), ca_file, "", vec![])
    }

    fn start_over(
        database: Option<Fresh>,
        ca_file: &Path,
        more: &str,
        environment: Vec<(&'static str, String)>,
    ) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let config = configure(folder.path(), database.as_ref(), ca_file, more);
        // The client insists on a provider, although this one speaks plain http; another test may have been first.
        let _ = rustls::crypto::ring::default_provider().install_default();
        let client = reqwest::Client::builder().no_proxy().build().unwrap();
        let address = SocketAddr::from(([127, 0, 0, 1], 0));
        let mut server = Self {
            folder,
            database,
            config,
            environment,
            process: None,
            address,
            key: String::new(),
            metrics: String::new(),
            operators: String::new(),
            client,
            heard: Mutex::default(),
        };
        server.restart();
        server
    }

    /// Makes another database the log's place, for the commands and for the next start. Key and read models stay where
    /// they are.
    pub(crate) fn move_to(&mut self, url: &str) {
        let log = self.folder.path().join("log.db").display().to_string();
        let text = std::fs::read_to_string(&self.config).unwrap();
        let (_, rest) = text.split_once("[server]").unwrap();
        let place = format!(
            "[database]\nurl = \"{url}\"\n[projections]\npath = \"{log}.read-models\"\n[secrets]\nkey_file = \"{log}.key\"\n"
        );
        std::fs::write(&self.config, format!("{place}[server]{rest}")).unwrap();
    }

    /// Starts the program again on the same store, after `kill` or `terminate`.
    pub(crate) fn restart(&mut self) {
        let mut process = Command::new(env!("CARGO_BIN_EXE_tidings"))
            .args(["serve", "--config"])
            .arg(&self.config)
            .env_remove("TIDINGS_SERVER__LISTEN")
            .envs(self.environment.iter().map(|(name, value)| (name, value)))
            .stdout(Stdio::piped())
            .stderr(std::fs::File::options().create(true).append(true).open(self.stderr_path()).unwrap())
            .spawn()
            .unwrap();
        let mut lines = BufReader::new(process.stdout.take().unwrap()).lines();
        self.process = Some(process);
        loop {
            let Some(line) = lines.next() else { panic!("the server did not start:\n{}", self.stderr()) };
            let line = line.unwrap();
            if let Some(key) = line.strip_prefix("bootstrap key (shown once): ") {
                key.clone_into(&mut self.key);
            }
            if let Some(url) = line.strip_prefix("metrics on ") {
                url.clone_into(&mut self.metrics);
            }
            if let Some(url) = line.strip_prefix("operators on ") {
                url.clone_into(&mut self.operators);
            }
            if let Some(address) = line.strip_prefix("serving on http://") {
                self.address = address.parse().unwrap();
                return;
            }
        }
    }

    /// `kill -9`.
    pub(crate) fn kill(&mut self) {
        let mut process = self.process.take().unwrap();
        process.kill().unwrap();
        process.wait().unwrap();
    }

    /// SIGTERM, and the exit code.
    pub(crate) fn terminate(&mut self) -> Option<i32> {
        let mut process = self.process.take().unwrap();
        let sent = Command::new("kill").args(["-TERM", &process.id().to_string()]).status().unwrap();
        assert!(sent.success());
        process.wait().unwrap().code()
    }

    /// Waits until the program ends by itself; its exit code.
    pub(crate) fn ended(&mut self) -> Option<i32> {
        self.process.take().unwrap().wait().unwrap().code()
    }

    /// The memory that the program holds, in KiB.
    pub(crate) fn resident_kib(&self) -> u64 {
        let id = self.process.as_ref().unwrap().id();
        let status = std::fs::read_to_string(format!("/proc/{id}/status")).unwrap();
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
        line.trim().trim_end_matches(" kB").parse().unwrap()
    }

    /// What the program logged so far.
    pub(crate) fn stderr(&self) -> String {
        let mut text = String::new();
        std::fs::File::open(self.stderr_path()).unwrap().read_to_string(&mut text).unwrap();
        text
    }

    fn stderr_path(&self) -> PathBuf {
        self.folder.path().join("stderr.log")
    }

    /// Where the log's database is; only over PostgreSQL.
    pub(crate) fn database_url(&self) -> &str {
        self.database.as_ref().expect("the log is in PostgreSQL").url.as_str()
    }

    /// Where the store's files are.
    pub(crate) fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// The configuration file.
    pub(crate) fn config(&self) -> &Path {
        &self.config
    }

    pub(crate) fn url(&self, path: &str) -> String {
        format!("http://{}{path}", self.address)
    }

    /// Where it listens.
    pub(crate) fn address(&self) -> SocketAddr {
        self.address
    }

    pub(crate) fn client(&self) -> &reqwest::Client {
        &self.client
    }

    /// The whole GraphQL answer, under the bootstrap key.
    pub(crate) async fn graphql(&self, query: &str, variables: Value) -> Value {
        self.try_graphql(&self.key, query, &variables).await.unwrap()
    }

    /// The whole GraphQL answer, or why there is none.
    pub(crate) async fn try_graphql(&self, key: &str, query: &str, variables: &Value) -> reqwest::Result<Value> {
        let request = self.client.post(self.url("/graphql")).bearer_auth(key);
        let body = json!({ "query": query, "variables": variables }).to_string();
        let answer = request.header("content-type", "application/json").body(body).send().await?;
        let headers = format!("{:?}", answer.headers());
        let bytes = answer.bytes().await?;
        if let Some(heard) = &mut *self.heard.lock().unwrap() {
            heard.push(headers + &String::from_utf8_lossy(&bytes));
        }
        Ok(serde_json::from_slice(&bytes).unwrap_or(Value::Null))
    }

    /// Keeps every answer by GraphQL from now on, headers and body.
    pub(crate) fn listen_closely(&self) {
        *self.heard.lock().unwrap() = Some(vec![]);
    }

    /// What was kept.
    pub(crate) fn heard(&self) -> Vec<String> {
        self.heard.lock().unwrap().clone().unwrap_or_default()
    }

    /// The `data` of an answer that must be without errors.
    pub(crate) async fn data(&self, query: &str, variables: Value) -> Value {
        let mut answer = self.graphql(query, variables).await;
        assert!(answer.get("errors").is_none(), "{answer}\n{}", self.stderr());
        answer["data"].take()
    }

    /// Asks until the answer fits; fails when patience ends.
    pub(crate) async fn until(&self, query: &str, variables: Value, fits: impl Fn(&Value) -> bool) -> Value {
        let deadline = tokio::time::Instant::now() + std::time::Duration::from_secs(60);
        loop {
            let data = self.data(query, variables.clone()).await;
            if fits(&data) {
                return data;
            }
            assert!(tokio::time::Instant::now() < deadline, "never came true: {data}\n{}", self.stderr());
            tokio::time::sleep(std::time::Duration::from_millis(20)).await;
        }
    }
}

/// Writes the configuration of a new store: one in that folder, or in the database, with its other files in the folder.
/// The files have the same names over either.
pub(crate) fn configure(folder: &Path, database: Option<&Fresh>, ca_file: &Path, more: &str) -> PathBuf {
    let config = folder.join("tidings.toml");
    let log = folder.join("log.db").display().to_string();
    let place = match database {
        None => format!("[database]\nurl = \"sqlite://{log}\"\n"),
        Some(database) => format!(
            "[database]\nurl = \"{}\"\n[projections]\npath = \"{log}.read-models\"\n[secrets]\nkey_file = \"{log}.key\"\n",
            database.url
        ),
    };
    let text = format!(
        "{place}[server]\nlisten = \"127.0.0.1:0\"\n[egress]\nallow_cidrs = [\"127.0.0.0/8\"]\nextra_ca = [\"{}\"]\n{more}",
        ca_file.display(),
    );
    std::fs::write(&config, text).unwrap();
    config
}

impl Drop for Server {
    fn drop(&mut self) {
        if let Some(mut process) = self.process.take() {
            drop(process.kill());
            drop(process.wait());
        }
    }
}
