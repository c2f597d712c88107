//! `tidings verify`.

use serde_json::{Value, json};
use sqlx::sqlite::SqliteConnectOptions;
use sqlx::{ConnectOptions, Connection, PgConnection, SqliteConnection};
use tidings::key_store::{KeyStore, SqliteKeys};

use super::{Lived, MESSAGES, publish};
use crate::support::server::{Kind, Server, on_both};

#[tokio::test(flavor = "multi_thread")]
async fn a_store_is_whole_while_it_is_served_and_after() {
    let mut lived = Lived::start().await;
    let busy = async {
        for n in 1_000..1_200 {
            publish(&lived.server, n).await;
        }
    };
    let looking = async {
        for _ in 0..3 {
            let said = lived.says(&["verify"]);
            assert!(said.contains("no difference"), "{said}");
        }
    };
    tokio::join!(busy, looking);
    assert_eq!(lived.server.terminate(), Some(0));
    let report: Value = serde_json::from_str(&lived.says(&["verify", "--json"])).unwrap();
    assert_eq!(report["differences"], json!(0));
    assert!(report["open_deliveries"].as_u64().unwrap() >= 8 && report["streams"].as_u64().unwrap() >= 6, "{report}");
}

/// Each of these is done by hand to a log that is whole, and named.
const DAMAGES: &[(&str, &str)] = &[
    ("UPDATE event SET data = '{' WHERE seq = 3", "event at 0-3 in stream"),
    (
        "UPDATE bucketed_event SET version = version + 1000 WHERE seq = (SELECT max(seq) FROM bucketed_event)",
        "version 1",
    ),
    (
        "UPDATE event SET kind = 'subscription.beamed_up' WHERE kind = 'subscription.deleted'",
        "unknown type 'subscription.beamed_up'",
    ),
    ("DELETE FROM event WHERE seq = 2", "none before 0-3"),
    ("DELETE FROM wakeup", "wake-up of subscription"),
    ("UPDATE shard SET head = head + 1", "its end"),
    ("UPDATE checkpoint SET seq = seq + 1000000 WHERE reader = 'matcher'", "checkpoint of reader 'matcher'"),
    ("DELETE FROM period", "period of stream"),
];

#[tokio::test(flavor = "multi_thread")]
async fn every_damage_is_named() {
    let mut lived = Lived::start().await;
    assert_eq!(lived.server.terminate(), Some(0));
    let path = lived.server.folder().join("log.db");
    let whole = std::fs::read(&path).unwrap();
    for (damage, named) in DAMAGES {
        std::fs::write(&path, &whole).unwrap();
        let mut log = SqliteConnectOptions::new().filename(&path).foreign_keys(false).connect().await.unwrap();
        drop_triggers(&mut log).await;
        let done = sqlx::query(*damage).execute(&mut log).await.unwrap();
        assert!(done.rows_affected() > 0, "{damage}");
        log.close().await.unwrap();
        let output = lived.tidings(&["verify", "--log-only"]);
        let said = String::from_utf8(output.stdout).unwrap();
        assert_eq!(output.status.code(), Some(1), "{damage}: {said}");
        assert!(said.lines().next().unwrap().contains(named), "{damage}: {said}");
    }
    std::fs::write(&path, &whole).unwrap();
    let keys = SqliteKeys::open(lived.server.folder().join("log.db.keys")).await.unwrap();
    let rows = keys.rows("signing-secret/", "", 99).await.unwrap();
    keys.destroy(&rows.into_iter().map(|row| row.name).collect::<Vec<_>>()).await.unwrap();
    let output = lived.tidings(&["verify", "--log-only"]);
    let said = String::from_utf8(output.stdout).unwrap();
    assert!(output.status.code() == Some(1) && said.lines().next().unwrap().contains("secret sec_"), "{said}");
    std::fs::write(&path, "no database").unwrap();
    assert_eq!(lived.tidings(&["verify"]).status.code(), Some(2));
}

/// Nothing in the forms of the rows tells of these: the numbers and versions are whole.
const FORGERIES: &[(&str, &str)] = &[
    // A delivery is removed: another event stands in its place.
    (
        "UPDATE bucketed_event SET kind = 'deliveries.carried', data = '{\"carried\":[]}' WHERE seq = \
         (SELECT min(seq) FROM bucketed_event WHERE kind = 'delivery.scheduled')",
        "unaccounted for",
    ),
    // A delivery is doubled: it stands in the place of an attempt.
    (
        "UPDATE bucketed_event SET kind = 'delivery.scheduled', schema = 1, data = (SELECT first.data FROM bucketed_event first \
         WHERE first.kind = 'delivery.scheduled' AND first.stream = bucketed_event.stream ORDER BY first.seq LIMIT 1) \
         WHERE seq = (SELECT max(seq) FROM bucketed_event WHERE kind = 'delivery.attempt_failed')",
        "accounted for twice",
    ),
    // One is removed and another doubled in its place.
    (
        "UPDATE bucketed_event SET data = (SELECT first.data FROM bucketed_event first \
         WHERE first.kind = 'delivery.scheduled' AND first.stream = bucketed_event.stream ORDER BY first.seq LIMIT 1) \
         WHERE seq = (SELECT max(seq) FROM bucketed_event WHERE kind = 'delivery.scheduled' AND data LIKE '%\"sequence\":4%')",
        "unaccounted for",
    ),
    // An end is forged.
    (
        "UPDATE bucketed_event SET kind = 'delivery.cancelled', data = (SELECT first.data FROM bucketed_event first \
         WHERE first.kind = 'delivery.succeeded' AND first.stream = bucketed_event.stream ORDER BY first.seq LIMIT 1) \
         WHERE seq = (SELECT max(seq) FROM bucketed_event WHERE kind = 'delivery.succeeded')",
        "accounted for twice",
    ),
    // The message itself is another's.
    (
        "UPDATE bucketed_event SET kind = 'messages.period_opened', data = '{}' WHERE seq = \
         (SELECT min(seq) FROM bucketed_event WHERE kind = 'message.published')",
        "accounted for twice",
    ),
    // The row is gone altogether.
    (
        "DELETE FROM bucketed_event WHERE seq = (SELECT min(seq) FROM bucketed_event WHERE kind = 'delivery.scheduled')",
        "unaccounted for",
    ),
];

/// A log whose rows somebody changes.
enum Tampered {
    Sqlite(SqliteConnection),
    Postgres(PgConnection),
}

impl Tampered {
    /// With everything out of the way that refuses to change events, and a copy of them.
    async fn of(kind: Kind, server: &Server) -> Self {
        let mut log = match kind {
            Kind::Sqlite => {
                let path = server.folder().join("log.db");
                let log = SqliteConnectOptions::new().filename(path).foreign_keys(false).connect().await.unwrap();
                Self::Sqlite(log)
            }
            Kind::Postgres => Self::Postgres(PgConnection::connect(server.database_url()).await.unwrap()),
        };
        match &mut log {
            Self::Sqlite(log) => drop_triggers(log).await,
            Self::Postgres(_) => log.run("SET session_replication_role = replica").await,
        }
        log.run("CREATE TABLE whole AS SELECT * FROM bucketed_event").await;
        log
    }

    async fn run(&mut self, sql: &'static str) {
        match self {
            Self::Sqlite(log) => drop(sqlx::raw_sql(sql).execute(log).await.unwrap()),
            Self::Postgres(log) => drop(sqlx::raw_sql(sql).execute(log).await.unwrap()),
        }
    }

    /// The events are as they were.
    async fn undo(mut self) {
        self.run("DELETE FROM bucketed_event").await;
        self.run("INSERT INTO bucketed_event SELECT * FROM whole").await;
        self.run("DROP TABLE whole").await;
        match self {
            Self::Sqlite(log) => log.close().await.unwrap(),
            Self::Postgres(log) => log.close().await.unwrap(),
        }
    }
}

async fn drop_triggers(log: &mut SqliteConnection) {
    let triggers: Vec<String> =
        sqlx::query_scalar("SELECT name FROM sqlite_schema WHERE type = 'trigger'").fetch_all(&mut *log).await.unwrap();
    for trigger in triggers {
        sqlx::raw_sql(sqlx::AssertSqlSafe(format!("DROP TRIGGER {trigger}"))).execute(&mut *log).await.unwrap();
    }
}

async fn a_delivery_that_is_removed_or_doubled_is_named(kind: Kind) {
    // S33
    let mut lived = Lived::start_on(kind).await;
    assert_eq!(lived.server.terminate(), Some(0));
    let whole: Value = serde_json::from_str(&lived.says(&["verify", "--json"])).unwrap();
    let ledger = &whole["ledger"];
    assert_eq!((&ledger["unaccounted"], &ledger["twice"]), (&json!(0), &json!(0)), "{whole}");
    // One webhook took everything, one waits, one was deleted when it had taken everything.
    assert_eq!((&ledger["succeeded"], &ledger["pending"]), (&json!(2 * MESSAGES), &json!(MESSAGES)), "{whole}");
    assert!(lived.says(&["verify", "--log-only"]).contains(" 0 unaccounted, 0 twice"));
    for (forgery, named) in FORGERIES {
        let mut log = Tampered::of(kind, &lived.server).await;
        log.run(forgery).await;
        let output = lived.tidings(&["verify", "--log-only"]);
        let said = String::from_utf8(output.stdout).unwrap();
        assert_eq!(output.status.code(), Some(1), "{forgery}: {said}");
        assert!(said.lines().any(|line| line.contains(named)), "{forgery}: {said}");
        log.undo().await;
        let said = lived.says(&["verify", "--log-only"]);
        assert!(said.contains("no difference"), "after {forgery}: {said}");
    }
}

on_both! { a_delivery_that_is_removed_or_doubled_is_named }
