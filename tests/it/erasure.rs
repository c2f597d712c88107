//! What was erased is in no file any more, is sent to nobody, and every tool is content with what is left: the whole
//! program, on both databases.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use serde_json::{Value, json};
use sqlx::{Connection, PgConnection};
use tidings::clock::{Clock, SystemClock};

use crate::support::receiver::Receiver;
use crate::support::server::{Kind, Server, on_both};

const CREATE: &str =
    "mutation($input: CreateWebhookInput!) { createWebhook(input: $input) { webhook { id } userErrors { code } } }";
const HOLD: &str = "mutation($input: HoldWebhookInput!) { holdWebhook(input: $input) { userErrors { code } } }";
const PUBLISH: &str = "mutation($input: PublishMessageInput!) { publishMessage(input: $input) {
    message { id } userErrors { code } } }";
const ERASE: &str = "mutation($input: EraseMessagesInput!) { eraseMessages(input: $input) {
    erasure { id } userErrors { code } } }";
const ERASE_SUBJECT: &str = "mutation($input: EraseMessagesOfSubjectInput!) { eraseMessagesOfSubject(input: $input) {
    erasure { id } userErrors { code } } }";
const RECEIPT: &str = "query($id: ID!) { erasure(id: $id) { state messages remains { kind } } }";
const MESSAGE: &str = "query($id: ID!) { message(id: $id) { data } }";
const FAILED: &str = "query($id: ID!) { message(id: $id) { deliveries { nodes { status } } } }";

const MESSAGES: u64 = 60;

/// What stands throughout a message's data, and nowhere else. Numbers that no compression shortens to nothing.
fn canary(number: u64) -> String {
    let scrambled = (number + 1).wrapping_mul(0x9E37_79B9_7F4A_7C15);
    format!("canary-{number:03}-{scrambled:016x}")
}

fn data(number: u64) -> Value {
    let user = if number.is_multiple_of(4) { "ada" } else { "bob" };
    let size = if number.is_multiple_of(5) { 700 } else { 3 };
    let parts: Vec<_> = (0..size).map(|part| format!("{}-{part}", canary(number))).collect();
    json!({ "user": { "name": user }, "text": parts })
}

fn holds(bytes: &[u8], needle: &[u8]) -> bool {
    let Some(first) = needle.first() else { return true };
    let mut rest = bytes;
    while let Some(at) = rest.iter().position(|byte| byte == first) {
        rest = &rest[at..];
        if rest.starts_with(needle) {
            return true;
        }
        rest = &rest[1..];
    }
    false
}

/// Every file in the folders, but the exports that the test makes itself.
fn files(folders: &[PathBuf]) -> Vec<(PathBuf, Vec<u8>)> {
    let mut files = vec![];
    let mut waiting = folders.to_vec();
    while let Some(folder) = waiting.pop() {
        for entry in std::fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                waiting.push(path);
            } else if let Ok(bytes) = std::fs::read(&path) {
                files.push((path, bytes));
            }
        }
    }
    files
}

struct Erasing {
    server: Server,
    kind: Kind,
    receiver: Receiver,
    /// A webhook that pauses.
    held: Value,
}

impl Erasing {
    async fn start(kind: Kind) -> Self {
        let receiver = Receiver::start().await;
        // Receipts are waited for.
        let server = Server::start_on_with(kind, &receiver.ca_file(), "[actors]\npurge_every_ms = 0\n").await;
        let mut held = Value::Null;
        for path in ["/takes", "/pauses"] {
            let input = json!({ "url": receiver.url(path), "eventFilters": ["**"], "enabled": true });
            let mut made = server.data(CREATE, json!({ "input": input })).await;
            assert_eq!(made["createWebhook"]["userErrors"], json!([]));
            held = made["createWebhook"]["webhook"]["id"].take();
        }
        let erasing = Self { server, kind, receiver, held };
        let until = SystemClock.now().plus_ms(3_600_000).to_rfc3339_ms();
        erasing.hold(json!({ "webhookId": erasing.held, "until": until })).await;
        erasing
    }

    async fn hold(&self, input: Value) {
        let held = self.server.data(HOLD, json!({ "input": input })).await;
        assert_eq!(held["holdWebhook"]["userErrors"], json!([]));
    }

    async fn publish(&self, number: u64) -> String {
        let key = format!("key-{number}");
        let input = json!({ "type": "user.created", "data": data(number), "idempotencyKey": key });
        let done = self.server.data(PUBLISH, json!({ "input": input })).await;
        done["publishMessage"]["message"]["id"].as_str().unwrap().to_owned()
    }

    async fn complete(&self, erasure: &Value) -> Value {
        let variables = json!({ "id": erasure["id"] });
        self.server.until(RECEIPT, variables, |data| data["erasure"]["state"] == "COMPLETE").await["erasure"].take()
    }

    /// What is stored beside the events: salt and data, in whatever form, by the event's number.
    async fn stored(&self) -> Vec<Vec<u8>> {
        match self.kind {
            Kind::Sqlite => {
                use sqlx::ConnectOptions;
                let path = self.server.folder().join("log.db");
                let options = sqlx::sqlite::SqliteConnectOptions::new().filename(path).read_only(true);
                let mut log = options.connect().await.unwrap();
                let stored = sqlx::query_scalar("SELECT value FROM content ORDER BY seq").fetch_all(&mut log).await;
                log.close().await.unwrap();
                stored.unwrap()
            }
            Kind::Postgres => {
                let mut log = PgConnection::connect(self.server.database_url()).await.unwrap();
                sqlx::query_scalar("SELECT value FROM content ORDER BY shard, seq").fetch_all(&mut log).await.unwrap()
            }
        }
    }

    /// Where the program and its database keep everything.
    async fn folders(&self) -> Vec<PathBuf> {
        let mut folders = vec![self.server.folder().to_owned()];
        if let Kind::Postgres = self.kind {
            let mut log = PgConnection::connect(self.server.database_url()).await.unwrap();
            // So that what only memory holds is in the files; the archive of the write-ahead log is the operator's.
            sqlx::query("CHECKPOINT").execute(&mut log).await.unwrap();
            let tables = "SELECT current_setting('data_directory') || '/' || \
                 regexp_replace(pg_relation_filepath('content'), '/[^/]*$', '')";
            let folder: String = sqlx::query_scalar(tables).fetch_one(&mut log).await.unwrap();
            folders.push(folder.into());
        }
        folders
    }

    /// In which files any of them stands.
    async fn found(&self, needles: &[Vec<u8>]) -> BTreeSet<PathBuf> {
        let files = files(&self.folders().await);
        let found = files.into_iter().filter(|(_, bytes)| needles.iter().any(|needle| holds(bytes, needle)));
        found.map(|(path, _)| path).collect()
    }

    fn sent(&self, number: u64) -> usize {
        let canary = canary(number);
        self.receiver.requests().iter().filter(|request| holds(&request.body, canary.as_bytes())).count()
    }

    fn tidings(&self, arguments: &[&str]) -> Output {
        let mut command = Command::new(env!("CARGO_BIN_EXE_tidings"));
        let (name, rest) = arguments.split_first().unwrap();
        command.arg(name).arg("--config").arg(self.server.config()).args(rest).current_dir(self.server.folder());
        command.env_remove("TIDINGS_SERVER__LISTEN").output().unwrap()
    }

    fn says(&self, arguments: &[&str]) -> String {
        let output = self.tidings(arguments);
        let text = format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
        assert!(output.status.success(), "{arguments:?}: {text}");
        text
    }
}

/// What says whose a stored content is, at its beginning: the salt, or what sealed it.
fn beginnings(stored: &[Vec<u8>]) -> BTreeSet<Vec<u8>> {
    stored.iter().map(|value| value[..32.min(value.len())].to_vec()).collect()
}

fn is_erased(number: u64) -> bool {
    number.is_multiple_of(4) || number < 9
}

async fn nothing_of_what_was_erased_is_found_sent_or_missed(kind: Kind) {
    let mut world = Erasing::start(kind).await;
    let mut ids = vec![];
    for number in 0..MESSAGES {
        ids.push(world.publish(number).await);
    }
    // One endpoint has had all of them, to the other they are owed.
    world.receiver.wait_for(MESSAGES as usize).await;
    let before = beginnings(&world.stored().await);
    let canaries = |of: fn(u64) -> bool| -> Vec<Vec<u8>> {
        (0..MESSAGES).filter(|number| of(*number)).map(|number| canary(number).into_bytes()).collect()
    };

    // Sealed from the beginning: what was published stands in no file.
    assert_eq!(world.found(&canaries(|_| true)).await, BTreeSet::new());

    let named = json!({ "input": { "messageIds": &ids[..9] } });
    let erased = world.server.data(ERASE, named).await["eraseMessages"].take();
    let subject = json!({ "input": { "pointer": "/user/name", "equals": "ada" } });
    let looked_for = world.server.data(ERASE_SUBJECT, subject).await["eraseMessagesOfSubject"].take();
    let receipts = [world.complete(&erased["erasure"]).await, world.complete(&looked_for["erasure"]).await];

    let count = (0..MESSAGES).filter(|number| is_erased(*number)).count() as u64;
    assert_eq!((receipts[0]["messages"].as_u64(), receipts[1]["messages"].as_u64()), (Some(9), Some(count - 9)));
    assert!(receipts.iter().all(|receipt| !receipt["remains"].to_string().contains("FREE_SPACE")), "{receipts:?}");
    for (number, id) in (0..).zip(&ids) {
        let message = world.server.data(MESSAGE, json!({ "id": id })).await;
        assert_eq!(message["message"]["data"].is_null(), is_erased(number), "{number}");
    }
    let after = beginnings(&world.stored().await);
    let salts: Vec<_> = before.difference(&after).cloned().collect();
    assert_eq!((salts.len() as u64, after.len() as u64), (count, MESSAGES - count));
    assert_eq!(world.found(&canaries(is_erased)).await, BTreeSet::new());
    assert_eq!(world.found(&salts).await, BTreeSet::new());

    // What is still owed of them has failed, and is sent to nobody; what is left is.
    world.server.kill();
    world.server.restart();
    world.hold(json!({ "webhookId": world.held })).await;
    for (number, id) in (0..MESSAGES).zip(&ids) {
        let ended = |data: &Value| {
            let nodes = data["message"]["deliveries"]["nodes"].as_array().unwrap();
            let statuses: BTreeSet<_> = nodes.iter().map(|node| node["status"].as_str().unwrap()).collect();
            let expected: &[&str] = if is_erased(number) { &["FAILED", "SUCCEEDED"] } else { &["SUCCEEDED"] };
            nodes.len() == 2 && statuses == expected.iter().copied().collect()
        };
        world.server.until(FAILED, json!({ "id": id }), ended).await;
    }
    for number in 0..MESSAGES {
        assert_eq!(world.sent(number), if is_erased(number) { 1 } else { 2 }, "{number}");
    }

    // A publisher that repeats itself brings nothing back.
    assert_eq!(world.publish(0).await, ids[0]);
    assert_eq!(world.server.terminate(), Some(0));
    assert_eq!(world.found(&canaries(is_erased)).await, BTreeSet::new());
    assert_eq!(world.found(&salts).await, BTreeSet::new());

    every_tool_is_content(&mut world).await;
}

async fn every_tool_is_content(world: &mut Erasing) {
    assert!(world.says(&["verify"]).contains("no difference"));
    assert!(world.says(&["rebuild"]).len() < 100_000);
    assert!(world.says(&["verify"]).contains("no difference"));
    let listed = world.says(&["events", "--type", "message.published", "--with-content"]);
    for number in 0..MESSAGES {
        assert_eq!(listed.contains(&canary(number)), !is_erased(number), "{number}");
    }
    if let Kind::Sqlite = world.kind {
        world.says(&["backup", "copy.db"]);
    }
    world.says(&["export", "export.jsonl"]);
    let text = std::fs::read(world.server.folder().join("export.jsonl")).unwrap();
    assert!(!(0..MESSAGES).any(|number| holds(&text, canary(number).as_bytes())), "an export is sealed as well");
    let url = format!("sqlite://{}", Path::new(world.server.folder()).join("elsewhere.db").display());
    world.server.move_to(&url);
    world.says(&["import", "export.jsonl"]);
    assert!(world.says(&["verify", "--log-only"]).contains("no difference"));
}

on_both!(nothing_of_what_was_erased_is_found_sent_or_missed);
