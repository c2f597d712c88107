//! `tidings verify`.

use serde_json::{Value, json};
use sqlx::{ConnectOptions, Connection};

use super::{Lived, publish};

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
    ("DELETE FROM secret WHERE key LIKE 'sec_%'", "secret sec_"),
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
        let mut log =
            sqlx::sqlite::SqliteConnectOptions::new().filename(&path).foreign_keys(false).connect().await.unwrap();
        let triggers: Vec<String> = sqlx::query_scalar("SELECT name FROM sqlite_schema WHERE type = 'trigger'")
            .fetch_all(&mut log)
            .await
            .unwrap();
        for trigger in triggers {
            sqlx::raw_sql(sqlx::AssertSqlSafe(format!("DROP TRIGGER {trigger}"))).execute(&mut log).await.unwrap();
        }
        let done = sqlx::query(*damage).execute(&mut log).await.unwrap();
        assert!(done.rows_affected() > 0, "{damage}");
        log.close().await.unwrap();
        let output = lived.tidings(&["verify", "--log-only"]);
        let said = String::from_utf8(output.stdout).unwrap();
        assert_eq!(output.status.code(), Some(1), "{damage}: {said}");
        assert!(said.lines().next().unwrap().contains(named), "{damage}: {said}");
    }
    std::fs::write(&path, "no database").unwrap();
    assert_eq!(lived.tidings(&["verify"]).status.code(), Some(2));
}
