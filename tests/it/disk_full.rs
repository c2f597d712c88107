//! The whole program on a disk that fills up: what is refused is told, what was accepted stays, and when there is room
//! again it goes on by itself.
//!
//! The disk is a small tmpfs, which only root may mount. Where that is refused, SQLite's own limit on the size of its
//! file stands in for the disk, with the API in this process. PostgreSQL's tables are put on such a disk; a full disk
//! under its write-ahead log ends the whole database, which is another story (`scripts/disk-full`).

use std::collections::HashSet;
use std::io::Write;
use std::path::PathBuf;
use std::process::Command;

use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use sqlx::{ConnectOptions, Connection};

use crate::api::full::full_log_refuses_and_takes_again;
use crate::event_store::postgres::database::{Fresh, data_directory};
use crate::support::receiver::{Receiver, Script};
use crate::support::server::Server;
use crate::support::stored_log::{messages_in_file, messages_in_postgres};

const CREATE: &str = "mutation($input: CreateWebhookInput!) { createWebhook(input: $input) { webhook { id } userErrors { code message } } }";
const PUBLISH: &str = "mutation($input: PublishMessageInput!) { publishMessage(input: $input) { message { id } userErrors { code message } } }";
const WEBHOOKS: &str = "{ webhooks(first: 10) { nodes { id } } }";
const NEWEST: &str = "{ messages(first: 1) { nodes { id } } }";

const MIB: usize = 1024 * 1024;
/// What may be under way for a subscription when it cannot record any more (`actors.max_attempts_per_subscription`).
const UNDER_WAY: usize = 16;

/// A file system of its own, gone when this is dropped.
struct SmallDisk {
    folder: tempfile::TempDir,
}

impl SmallDisk {
    /// `None` if this user may not mount.
    fn mount(mib: usize) -> Option<Self> {
        let folder = tempfile::tempdir().unwrap();
        let options = format!("size={mib}m,mode=0700");
        let mut mount = Command::new("mount");
        mount.args(["-t", "tmpfs", "-o", &options, "tidings-test"]).arg(folder.path());
        let mounted = mount.output().is_ok_and(|done| done.status.success());
        mounted.then_some(Self { folder })
    }

    /// Makes it the database server's own, as a folder for tables has to be.
    async fn give_to_postgres(&self) {
        let mut chown = Command::new("chown");
        chown.arg("--reference").arg(data_directory().await).arg(self.folder.path());
        assert!(chown.status().unwrap().success());
    }

    /// Takes what is left of it, but for `left` bytes.
    fn fill(&self, left: usize) {
        let mut ballast = std::fs::File::create(self.ballast()).unwrap();
        let chunk = vec![1; 4096];
        let (mut size, mut refusals) = (0, 0);
        // A file system that counts its blocks by processor may refuse one while another has some left.
        while refusals < 64 {
            match ballast.write_all(&chunk) {
                Ok(()) => (size, refusals) = (size + chunk.len(), 0),
                Err(_) => refusals += 1,
            }
        }
        ballast.set_len(size.saturating_sub(left) as u64).unwrap();
    }

    fn make_room(&self) {
        std::fs::remove_file(self.ballast()).unwrap();
    }

    fn ballast(&self) -> PathBuf {
        self.folder.path().join("ballast")
    }

    /// Moves a file of the stopped server here; the server finds it where it was.
    fn take(&self, server: &Server, name: &str) -> PathBuf {
        let (from, to) = (server.folder().join(name), self.folder.path().join(name));
        std::fs::copy(&from, &to).unwrap();
        std::fs::remove_file(&from).unwrap();
        std::os::unix::fs::symlink(&to, &from).unwrap();
        to
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        // Lazily: the server that has files there ends after this, or just before.
        drop(Command::new("umount").arg("--lazy").arg(self.folder.path()).status());
    }
}

/// Publishes a message of about that size; the error's code if it was refused.
async fn publish(server: &Server, n: usize, size: usize) -> Result<String, Value> {
    let input = json!({ "type": "user.created", "data": { "n": n, "text": text(n, size) }, "idempotencyKey": format!("full-{n}") });
    let answer = server.graphql(PUBLISH, json!({ "input": input })).await;
    match answer.pointer("/data/publishMessage/message/id") {
        Some(id) => Ok(id.as_str().unwrap().to_owned()),
        None => Err(answer["errors"][0]["extensions"].clone()),
    }
}

/// So many characters that PostgreSQL finds nothing to compress in.
fn text(n: usize, size: usize) -> String {
    let blocks = (0..size.div_ceil(64)).map(|block| hex::encode(Sha256::digest(format!("{n} {block}"))));
    let mut text: String = blocks.collect();
    text.truncate(size);
    text
}

async fn subscribe(server: &Server, receiver: &Receiver) {
    let input = json!({ "url": receiver.url("/hook"), "eventFilters": ["**"], "enabled": true });
    let created = server.data(CREATE, json!({ "input": input })).await;
    assert_eq!(created["createWebhook"]["userErrors"], json!([]));
}

fn newest(data: &Value) -> &str {
    data["messages"]["nodes"][0]["id"].as_str().unwrap_or_default()
}

/// Waits until every one of these messages has come, and returns the ids of all requests.
async fn delivered(receiver: &Receiver, server: &Server, accepted: &[String]) -> Vec<String> {
    let deadline = tokio::time::Instant::now() + std::time::Duration::from_secs(90);
    loop {
        let ids: Vec<_> =
            receiver.requests().iter().map(|request| request.header("webhook-id").unwrap().to_owned()).collect();
        let came: HashSet<_> = ids.iter().collect();
        let missing = accepted.iter().filter(|id| !came.contains(id)).count();
        if missing == 0 {
            return ids;
        }
        assert!(tokio::time::Instant::now() < deadline, "{missing} did not come\n{}", server.stderr());
        tokio::time::sleep(std::time::Duration::from_millis(20)).await;
    }
}

fn lines_with(server: &Server, text: &str) -> usize {
    server.stderr().lines().filter(|line| line.contains(text)).count()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_disk_refuses_what_is_new_serves_what_is_there_and_loses_nothing() {
    let Some(disk) = SmallDisk::mount(8) else { return full_log_refuses_and_takes_again().await };
    let receiver = Receiver::start().await;
    // Slow enough for attempts to be under way when the disk fills.
    receiver.on("/hook", Script::status(200).after(std::time::Duration::from_millis(20)));
    let mut server = Server::start(&receiver.ca_file());
    subscribe(&server, &receiver).await;
    assert_eq!(server.terminate(), Some(0));
    let log = disk.take(&server, "log.db");
    server.restart();

    let mut accepted = vec![];
    for n in 0..20 {
        accepted.push(publish(&server, n, 1_000).await.unwrap());
    }
    disk.fill(MIB);
    let refusal = loop {
        match publish(&server, accepted.len(), 8_000).await {
            Ok(id) => accepted.push(id),
            Err(refusal) => break refusal,
        }
    };
    assert_eq!(refusal, json!({ "code": "STORAGE_FULL", "retryAfterSeconds": 30 }));

    for _ in 0..300 {
        let refused = publish(&server, accepted.len(), 8_000).await;
        assert_eq!(refused, Err(refusal.clone()));
        assert_eq!(server.data(WEBHOOKS, Value::Null).await["webhooks"]["nodes"].as_array().unwrap().len(), 1);
    }
    let (log_lines, all_lines) = (lines_with(&server, "there is no room for"), server.stderr().lines().count());
    assert!(server.stderr().contains("log.db"), "{}", server.stderr());
    assert!(log_lines <= 10 && all_lines <= 40, "{log_lines} of {all_lines} lines\n{}", server.stderr());

    disk.make_room();

    let next = accepted.len();
    accepted.push(publish(&server, next, 8_000).await.unwrap());
    let came = delivered(&receiver, &server, &accepted).await;
    let once: HashSet<_> = came.iter().collect();
    let sent_again = came.len() - once.len();
    println!("{} accepted, {sent_again} sent again, {all_lines} lines logged", accepted.len());
    assert_eq!(once.len(), accepted.len(), "something came that nobody was told of");
    // What was under way when the disk filled could not be recorded; nothing was sent again before it could be.
    assert!(sent_again <= 2 * UNDER_WAY, "{sent_again} were sent again\n{}", server.stderr());
    server.until(NEWEST, Value::Null, |data| newest(data) == accepted[next]).await;
    assert_eq!(server.terminate(), Some(0));
    assert_eq!(messages_in_file(&log).await, accepted);
}

#[tokio::test(flavor = "multi_thread")]
async fn read_models_without_room_fall_behind_and_take_nobody_along() {
    let Some(disk) = SmallDisk::mount(8) else { return full_log_refuses_and_takes_again().await };
    let receiver = Receiver::start().await;
    let mut server = Server::start(&receiver.ca_file());
    subscribe(&server, &receiver).await;
    let mut accepted = vec![publish(&server, 0, 10).await.unwrap()];
    server.until(NEWEST, Value::Null, |data| newest(data) == accepted[0]).await;
    assert_eq!(server.terminate(), Some(0));
    disk.take(&server, "log.db.read-models");
    server.restart();
    disk.fill(0);

    for n in 1..300 {
        accepted.push(publish(&server, n, 10).await.unwrap());
    }
    delivered(&receiver, &server, &accepted).await;
    assert_ne!(newest(&server.data(NEWEST, Value::Null).await), accepted[299], "the read models had room");
    let lines = server.stderr().lines().count();
    assert!(lines <= 60, "{lines} lines\n{}", server.stderr());
    assert!(server.stderr().contains("read models"), "{}", server.stderr());

    disk.make_room();

    server.until(NEWEST, Value::Null, |data| newest(data) == accepted[299]).await;
    assert_eq!(server.terminate(), Some(0));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_write_ahead_log_that_a_long_read_keeps_fills_the_disk_and_costs_nothing_but_room() {
    // What the log has grown to has to fit into the main file beside it, once nobody reads any more.
    let Some(disk) = SmallDisk::mount(96) else { return full_log_refuses_and_takes_again().await };
    let receiver = Receiver::start().await;
    let mut server = Server::start(&receiver.ca_file());
    assert_eq!(server.terminate(), Some(0));
    let log = disk.take(&server, "log.db");
    server.restart();
    let mut reader = sqlx::sqlite::SqliteConnectOptions::new().filename(&log).connect().await.unwrap();
    let mut reading = reader.begin().await.unwrap();
    let before: i64 = sqlx::query_scalar("SELECT head FROM shard").fetch_one(&mut *reading).await.unwrap();
    disk.fill(36 * MIB);

    let mut accepted = vec![];
    let refusal = loop {
        match publish(&server, accepted.len(), 200_000).await {
            Ok(id) => accepted.push(id),
            Err(refusal) => break refusal,
        }
    };
    assert_eq!(refusal["code"], "STORAGE_FULL");
    // Much more than what a commit moves to the main file when nobody reads.
    let grown = std::fs::metadata(log.with_file_name("log.db-wal")).unwrap().len() as usize;
    assert!(grown > 24 * MIB, "{grown}");
    let seen: i64 = sqlx::query_scalar("SELECT head FROM shard").fetch_one(&mut *reading).await.unwrap();
    assert_eq!(seen, before, "the read is of one moment");
    reading.rollback().await.unwrap();
    reader.close().await.unwrap();
    disk.make_room();

    for _ in 0..40 {
        let next = accepted.len();
        accepted.push(
            publish(&server, next, 200_000).await.unwrap_or_else(|refusal| panic!("{refusal}\n{}", server.stderr())),
        );
        if accepted.len() > 150 {
            break;
        }
    }
    assert_eq!(server.terminate(), Some(0));
    assert_eq!(messages_in_file(&log).await, accepted);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_disk_under_the_tables_of_postgresql_refuses_what_is_new_and_loses_nothing() {
    let Some(disk) = SmallDisk::mount(64) else { return full_log_refuses_and_takes_again().await };
    disk.give_to_postgres().await;
    let receiver = Receiver::start().await;
    receiver.on("/hook", Script::status(200).after(std::time::Duration::from_millis(20)));
    let mut server = Server::start_in(Fresh::in_folder(disk.folder.path()).await, &receiver.ca_file());
    subscribe(&server, &receiver).await;
    let mut accepted = vec![];
    for n in 0..20 {
        accepted.push(publish(&server, n, 20_000).await.unwrap());
    }
    disk.fill(MIB);
    let refusal = loop {
        match publish(&server, accepted.len(), 20_000).await {
            Ok(id) => accepted.push(id),
            Err(refusal) => break refusal,
        }
    };
    assert_eq!(refusal, json!({ "code": "STORAGE_FULL", "retryAfterSeconds": 30 }));

    let mut refused = 0;
    for _ in 0..200 {
        match publish(&server, accepted.len(), 20_000).await {
            Err(again) => {
                assert_eq!(again, refusal);
                refused += 1;
            }
            // The database found room by itself, in what the refused ones had left behind.
            Ok(id) => accepted.push(id),
        }
        assert_eq!(server.data(WEBHOOKS, Value::Null).await["webhooks"]["nodes"].as_array().unwrap().len(), 1);
    }
    assert!(refused > 100, "{refused}");
    let (log_lines, all_lines) = (lines_with(&server, "the database has no room"), server.stderr().lines().count());
    assert!((1..=10).contains(&log_lines) && all_lines <= 40, "{log_lines} of {all_lines} lines\n{}", server.stderr());

    disk.make_room();

    let next = accepted.len();
    accepted.push(publish(&server, next, 20_000).await.unwrap());
    let came = delivered(&receiver, &server, &accepted).await;
    let once: HashSet<_> = came.iter().collect();
    let sent_again = came.len() - once.len();
    println!("{} accepted, {refused} refused, {sent_again} sent again, {all_lines} lines logged", accepted.len());
    assert_eq!(once.len(), accepted.len(), "something came that nobody was told of");
    assert!(sent_again <= 2 * UNDER_WAY, "{sent_again} were sent again\n{}", server.stderr());
    server.until(NEWEST, Value::Null, |data| newest(data) == accepted[next]).await;
    assert_eq!(server.terminate(), Some(0));
    assert_eq!(messages_in_postgres(server.database_url()).await, accepted);
}
