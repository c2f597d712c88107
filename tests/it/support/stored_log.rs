//! What a log holds, read past the program that wrote it.

use std::collections::BTreeMap;
use std::path::Path;

use serde_json::Value;
use sqlx::{AssertSqlSafe, ConnectOptions, Connection, PgConnection};

/// Shard, number, stream, version, type, payload.
type Event = (i32, i64, String, i64, String, String);

const SQLITE_TABLES: &str =
    "SELECT name FROM sqlite_schema WHERE type = 'table' AND name IN ('event', 'bucketed_event')";
const POSTGRES_TABLES: &str = "SELECT tablename::text FROM pg_tables WHERE schemaname = current_schema() AND tablename IN ('event', 'bucketed_event')";

/// The ids of all messages in the file, shard by shard in the order of the log. Fails unless the file is sound, and the
/// numbers up to the head and the versions of every stream are there, each once.
pub(crate) async fn messages_in_file(log: &Path) -> Vec<String> {
    let mut log = sqlx::sqlite::SqliteConnectOptions::new().filename(log).connect().await.unwrap();
    let sound: String = sqlx::query_scalar("PRAGMA integrity_check").fetch_one(&mut log).await.unwrap();
    assert_eq!(sound, "ok");
    let mut events: Vec<Event> = vec![];
    for table in sqlx::query_scalar::<_, String>(SQLITE_TABLES).fetch_all(&mut log).await.unwrap() {
        let rows = AssertSqlSafe(format!("SELECT 0, seq, stream, version, kind, data FROM {table}"));
        events.extend(sqlx::query_as::<_, Event>(rows).fetch_all(&mut log).await.unwrap());
    }
    let heads = sqlx::query_as("SELECT shard, head FROM shard").fetch_all(&mut log).await.unwrap();
    log.close().await.unwrap();
    messages(events, heads)
}

/// The same of a database of PostgreSQL, which checks its own files.
pub(crate) async fn messages_in_postgres(url: &str) -> Vec<String> {
    let mut log = PgConnection::connect(url).await.unwrap();
    let mut events: Vec<Event> = vec![];
    for table in sqlx::query_scalar::<_, String>(POSTGRES_TABLES).fetch_all(&mut log).await.unwrap() {
        let rows = AssertSqlSafe(format!("SELECT shard, seq, stream, version, kind, data FROM {table}"));
        events.extend(sqlx::query_as::<_, Event>(rows).fetch_all(&mut log).await.unwrap());
    }
    let heads = sqlx::query_as("SELECT shard, head FROM shard").fetch_all(&mut log).await.unwrap();
    log.close().await.unwrap();
    messages(events, heads)
}

fn messages(mut events: Vec<Event>, mut heads: Vec<(i32, i64)>) -> Vec<String> {
    events.sort_unstable_by_key(|event| (event.0, event.1));
    let (mut lasts, mut versions): (BTreeMap<i32, i64>, BTreeMap<String, i64>) = Default::default();
    let mut messages = vec![];
    for (shard, seq, stream, version, kind, data) in events {
        let last = lasts.entry(shard).or_default();
        assert_eq!(seq, *last + 1, "the numbers of shard {shard}");
        *last = seq;
        let last = versions.entry(stream.clone()).or_default();
        assert_eq!(version, *last + 1, "the versions of {stream}");
        *last = version;
        if kind == "message.published" {
            let data: Value = serde_json::from_str(&data).unwrap();
            messages.push(data["message"].as_str().unwrap().to_owned());
        }
    }
    heads.retain(|(_, head)| *head > 0);
    heads.sort_unstable();
    assert_eq!(lasts.into_iter().collect::<Vec<_>>(), heads);
    messages
}
