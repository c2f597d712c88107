//! The operator's keys: another in the place of one, and starts that are refused.

use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::sync::Arc;

use serde_json::{Value, json};
use standardwebhooks::Webhook;
use tidings::clock::{Clock, SystemClock};
use tidings::domain::secret::Secret;
use tidings::execute::vault::{Binding, KeyBytes, OperatorKeys, SealingKey, Vault};
use tidings::key_store::{KeyStore, PostgresKeys, SqliteKeys};

use crate::support::receiver::Receiver;
use crate::support::server::{Kind, Server, on_both};

const CREATE: &str =
    "mutation($input: CreateWebhookInput!) { createWebhook(input: $input) { secret userErrors { code message } } }";
const PUBLISH: &str =
    "mutation($input: PublishMessageInput!) { publishMessage(input: $input) { userErrors { code message } } }";
const SYSTEM: &str = "{ systemAuditLog(first: 100) { nodes { code changes } } }";
/// Rows that stand beside those of the server.
const MORE: usize = 1_500;

struct Setting {
    receiver: Receiver,
    server: Server,
    kind: Kind,
    secret: String,
    published: usize,
}

impl Setting {
    async fn start(kind: Kind) -> Self {
        let receiver = Receiver::start().await;
        let server = Server::start_on(kind, &receiver.ca_file()).await;
        let input = json!({ "url": receiver.url("/hook"), "eventFilters": ["**"], "enabled": true });
        let created = server.data(CREATE, json!({ "input": input })).await;
        let secret = created["createWebhook"]["secret"].as_str().unwrap().to_owned();
        let mut setting = Self { receiver, server, kind, secret, published: 0 };
        setting.delivers().await;
        setting
    }

    /// What is published now arrives, signed by the secret that was shown once.
    async fn delivers(&mut self) {
        self.published += 1;
        let input = json!({ "type": "user.created", "data": { "n": self.published } });
        let answer = self.server.data(PUBLISH, json!({ "input": input })).await;
        assert_eq!(answer["publishMessage"]["userErrors"], json!([]));
        let requests = self.receiver.wait_for(self.published).await;
        let newest = requests.last().unwrap();
        let mut headers = http::HeaderMap::new();
        for name in ["webhook-id", "webhook-timestamp", "webhook-signature"] {
            headers.insert(http::HeaderName::from_static(name), newest.header(name).unwrap().parse().unwrap());
        }
        Webhook::new(&self.secret).unwrap().verify(&newest.body, &headers).unwrap();
    }

    async fn key_store(&self) -> Arc<dyn KeyStore> {
        match self.kind {
            Kind::Sqlite => Arc::new(SqliteKeys::open(self.server.folder().join("log.db.keys")).await.unwrap()),
            Kind::Postgres => Arc::new(PostgresKeys::open(self.server.database_url()).await.unwrap()),
        }
    }

    /// Says which keys there are.
    fn configure(&self, current: &Path, old: &[&Path]) {
        let text = std::fs::read_to_string(self.server.config()).unwrap();
        let kept: Vec<&str> =
            text.lines().filter(|line| !line.contains("[secrets]") && !line.contains("key_file")).collect();
        let keys = format!("[secrets]\nkey_file = {current:?}\nold_key_files = {old:?}\n");
        std::fs::write(self.server.config(), format!("{}\n{keys}", kept.join("\n"))).unwrap();
    }

    fn file(&self, name: &str) -> PathBuf {
        self.server.folder().join(name)
    }

    fn keys(&self, command: &str) -> Output {
        let mut keys = Command::new(env!("CARGO_BIN_EXE_tidings"));
        keys.args(["keys", command, "--output", "json", "--config"]).arg(self.server.config()).output().unwrap()
    }

    /// How many rows are under that key, as the program tells it.
    fn rows_under(&self, key: &SealingKey) -> u64 {
        let output = self.keys("status");
        assert!(output.status.success(), "{output:?}");
        let status: Value = serde_json::from_slice(&output.stdout).unwrap();
        let keys = status["keys"].as_array().unwrap();
        let found = keys.iter().find(|told| told["id"] == json!(key.id().to_string()));
        found.map_or(0, |told| told["rows"].as_u64().unwrap())
    }

    /// What a start says that must come to nothing.
    fn refuses_to_start(&self) -> String {
        let mut serve = Command::new(env!("CARGO_BIN_EXE_tidings"));
        let serve = serve.args(["serve", "--config"]).arg(self.server.config());
        let mut process = serve.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        // A server that starts says so in a line; one that does not ends without any.
        let lines = BufReader::new(process.stdout.take().unwrap()).lines().map_while(Result::ok);
        let started = lines.into_iter().any(|line| line.starts_with("serving on"));
        if started {
            process.kill().unwrap();
        }
        let output = process.wait_with_output().unwrap();
        let said = String::from_utf8(output.stderr).unwrap();
        assert!(!started && !output.status.success(), "it started: {said}");
        said
    }
}

fn nodes(system: &Value) -> &Vec<Value> {
    system["systemAuditLog"]["nodes"].as_array().unwrap()
}

fn read_key(path: &Path) -> KeyBytes {
    let mut key = KeyBytes::default();
    hex::decode_to_slice(std::fs::read_to_string(path).unwrap().trim(), &mut *key).unwrap();
    key
}

fn write_key(path: &Path, text: &str) {
    use std::os::unix::fs::PermissionsExt;

    std::fs::write(path, text).unwrap();
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o600)).unwrap();
}

async fn a_key_is_replaced_through_kill_9_and_every_delivery_signs_as_before(kind: Kind) {
    let mut setting = Setting::start(kind).await;
    assert_eq!(setting.server.terminate(), Some(0));
    let (first, second) = (setting.file("log.db.key"), setting.file("second.key"));
    let clock: &dyn Clock = &SystemClock;
    write_key(&second, &hex::encode(clock.random_bytes::<32>()));
    let keys = [&first, &second].map(|path| SealingKey::new(read_key(path)));

    // Half of it is done when the process ends, and the next one ends as it begins.
    let store = setting.key_store().await;
    let vault = Vault::open(Arc::clone(&store), OperatorKeys::new(read_key(&first), []), clock).await.unwrap();
    for _ in 0..MORE {
        let binding = Binding::signing_secret(clock.tenant_id(), clock.subscription_id(), clock.secret_id());
        vault.store(&binding, &Secret::generate(&clock.random_bytes()), clock).await.unwrap();
    }
    let both = OperatorKeys::new(read_key(&second), [read_key(&first)]);
    both.rewrap(&*store, "", MORE / 2, clock).await.unwrap();
    store.close().await;
    setting.configure(&second, &[&first]);
    assert!(setting.rows_under(&keys[0]) > 0 && setting.rows_under(&keys[1]) > 0);
    setting.server.restart();
    setting.server.kill();
    setting.server.restart();
    setting.delivers().await;
    while setting.rows_under(&keys[0]) > 0 {
        tokio::time::sleep(std::time::Duration::from_millis(50)).await;
    }
    setting.delivers().await;
    let rotated = |node: &&Value| node["code"] == json!("SYSTEM_KEK_ROTATED");
    let system = setting.server.until(SYSTEM, json!({}), |data| nodes(data).iter().any(|node| rotated(&node))).await;
    let told: Vec<_> = nodes(&system).iter().filter(rotated).collect();
    assert_eq!(told.len(), 1, "{system}");
    let ids = keys.each_ref().map(|key| key.id().to_string());
    assert_eq!(told[0]["changes"]["key"]["to"], json!(ids[1]));
    assert!(told[0]["changes"]["key"]["from"].as_array().unwrap().contains(&json!(ids[0])));
    let verified: Value = serde_json::from_slice(&setting.keys("verify").stdout).unwrap();
    assert!(verified["rows"].as_u64().unwrap() > MORE as u64 && verified["damaged"] == json!([]), "{verified}");
    assert_eq!(setting.server.terminate(), Some(0));

    // The old key goes, and nothing misses it.
    std::fs::remove_file(&first).unwrap();
    setting.configure(&second, &[]);
    setting.server.restart();
    setting.delivers().await;
    assert_eq!(setting.server.terminate(), Some(0));
}

async fn a_start_with_a_missing_or_wrong_key_is_refused_and_names_it(kind: Kind) {
    let mut setting = Setting::start(kind).await;
    assert_eq!(setting.server.terminate(), Some(0));
    let (right, wrong) = (setting.file("log.db.key"), setting.file("wrong.key"));
    let text = std::fs::read_to_string(&right).unwrap();
    let id = SealingKey::new(read_key(&right)).id().to_string();
    setting.configure(&wrong, &[]);
    let said = setting.refuses_to_start();
    assert!(said.contains("wrong.key' does not exist") && said.contains(&id), "{said}");
    let digit = if text.starts_with('0') { '1' } else { '0' };
    // Another, one with a damaged digit, one without a row's old key.
    for other in [hex::encode([7; 32]), format!("{digit}{}", &text[1..])] {
        write_key(&wrong, &other);
        let said = setting.refuses_to_start();
        assert!(said.contains(&format!("sealed under the key {id}")), "{said}");
    }
    for (malformed, named) in [(&text[..40], "64 hexadecimal digits"), ("", "64 hexadecimal digits")] {
        write_key(&wrong, malformed);
        let said = setting.refuses_to_start();
        assert!(said.contains(named) && said.contains("wrong.key"), "{said}");
    }
    setting.configure(&right, &[]);
    // Nothing was sent meanwhile, and what was refused changed nothing.
    assert_eq!(setting.receiver.requests().len(), setting.published);
    let store = setting.key_store().await;
    let rows = store.rows("signing-secret/", "", 9).await.unwrap();
    let mut damaged = rows[0].value.clone();
    *damaged.last_mut().unwrap() ^= 1;
    assert!(store.replace(&rows[0].name, &rows[0].value, &damaged).await.unwrap());
    let output = setting.keys("verify");
    assert_eq!(output.status.code(), Some(1));
    assert!(String::from_utf8(output.stdout).unwrap().contains(&rows[0].name));
    assert!(store.replace(&rows[0].name, &damaged, &rows[0].value).await.unwrap());
    assert_eq!(setting.keys("verify").status.code(), Some(0));
    // A log whose key store is not there gets no new one.
    let all = store.rows("", "", 99).await.unwrap();
    store.destroy(&all.iter().map(|row| row.name.clone()).collect::<Vec<_>>()).await.unwrap();
    let said = setting.refuses_to_start();
    assert!(said.contains("its key store is empty"), "{said}");
    for row in &all {
        store.add(&row.name, &row.value).await.unwrap();
    }
    store.close().await;
    setting.server.restart();
    setting.delivers().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_key_is_replaced_at_the_command_line_too() {
    let mut setting = Setting::start(Kind::Sqlite).await;
    let (first, second) = (setting.file("log.db.key"), setting.file("second.key"));
    let clock: &dyn Clock = &SystemClock;
    write_key(&second, &hex::encode(clock.random_bytes::<32>()));
    let beside = setting.keys("rotate");
    assert!(!beside.status.success(), "a server has the store: {beside:?}");
    assert_eq!(setting.server.terminate(), Some(0));
    setting.configure(&second, &[&first]);
    let rotated = setting.keys("rotate");
    assert!(rotated.status.success(), "{rotated:?}");
    assert_eq!(setting.rows_under(&SealingKey::new(read_key(&first))), 0);
    setting.configure(&second, &[]);
    setting.server.restart();
    setting.delivers().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_log_that_is_missing_does_not_cost_the_secrets() {
    let mut setting = Setting::start(Kind::Sqlite).await;
    assert_eq!(setting.server.terminate(), Some(0));
    let files = ["log.db", "log.db-wal", "log.db-shm"];
    let aside = |name: &str| setting.file(&format!("aside.{name}"));
    for name in files.iter().filter(|name| setting.file(name).exists()) {
        std::fs::rename(setting.file(name), aside(name)).unwrap();
    }
    // As where a volume was not mounted: a new log is made, and belongs to nobody.
    for _ in 0..2 {
        let said = setting.refuses_to_start();
        assert!(said.contains("the log is of the installation none"), "{said}");
    }
    let store = setting.key_store().await;
    assert_eq!(store.rows("signing-secret/", "", 9).await.unwrap().len(), 1);
    // A crash between the log's word and the key store's.
    store.destroy(&[store.rows("installation/", "", 9).await.unwrap()[0].name.clone()]).await.unwrap();
    let said = setting.refuses_to_start();
    assert!(said.contains("the log holds no events, and its key store"), "{said}");
    store.close().await;
    for name in files {
        drop(std::fs::remove_file(setting.file(name)));
        if aside(name).exists() {
            std::fs::rename(aside(name), setting.file(name)).unwrap();
        }
    }
    setting.server.restart();
    setting.delivers().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_program_may_hold_the_key() {
    let mut setting = Setting::start(Kind::Sqlite).await;
    assert_eq!(setting.server.terminate(), Some(0));
    let key = setting.file("elsewhere");
    std::fs::rename(setting.file("log.db.key"), &key).unwrap();
    let text = std::fs::read_to_string(setting.server.config()).unwrap();
    let by_program = format!("{text}\n[secrets]\nkey_command = [\"/bin/cat\", {key:?}]\n");
    std::fs::write(setting.server.config(), by_program).unwrap();
    setting.server.restart();
    setting.delivers().await;
}

on_both! {
    a_key_is_replaced_through_kill_9_and_every_delivery_signs_as_before,
    a_start_with_a_missing_or_wrong_key_is_refused_and_names_it,
}
