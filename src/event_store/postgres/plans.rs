//! What PostgreSQL does for each question, pinned: an index is used, and nothing is scanned. The plans are those of an
//! empty database without statistics, which are the ones that it would get wrong if it were left to choose.

use sqlx::{AssertSqlSafe, Connection, PgConnection, Row};
use url::Url;

use super::{Options, PostgresStore, open, read, write};

/// The ways to the tables in the plan that is used for every execution.
async fn plan(connection: &mut PgConnection, sql: &str) -> Vec<String> {
    let values = (1..).take_while(|number| sql.contains(&format!("${number}"))).count();
    let values = vec!["NULL"; values].join(", ");
    sqlx::raw_sql("DEALLOCATE ALL").execute(&mut *connection).await.unwrap();
    sqlx::raw_sql(AssertSqlSafe(format!("PREPARE asked AS {sql}"))).execute(&mut *connection).await.unwrap();
    let explain = sqlx::raw_sql(AssertSqlSafe(format!("EXPLAIN (COSTS OFF) EXECUTE asked({values})")));
    let rows = explain.fetch_all(&mut *connection).await.unwrap();
    let lines = rows.iter().map(|row| row.try_get::<String, _>(0).unwrap());
    let told = |line: String| {
        let line = line.trim_start_matches([' ', '-', '>']).to_owned();
        ["Seq Scan", "Index", "Bitmap", "Sort", "Presorted", "Materialize", "Hash", "Merge"]
            .iter()
            .any(|start| line.starts_with(start))
            .then_some(line)
    };
    lines.filter_map(told).collect()
}

const HEAD_OF_A_WANTED_STREAM: [&str; 2] = [
    "Index Only Scan Backward using event_stream_version_key on event",
    "Index Cond: ((stream = wanted.stream) AND (version IS NOT NULL))",
];

#[tokio::test]
async fn every_question_goes_by_an_index() {
    let server = std::env::var("POSTGRES_TEST_URL").expect(
        "POSTGRES_TEST_URL names no PostgreSQL server to test on; \
         `scripts/postgres-test-cluster cargo test` starts one and names it",
    );
    let name = format!("tidings_plans_{}", std::process::id());
    let mut at_server = PgConnection::connect(&server).await.unwrap();
    sqlx::query(AssertSqlSafe(format!("CREATE DATABASE {name}"))).execute(&mut at_server).await.unwrap();
    let mut url: Url = server.parse().unwrap();
    url.set_path(&name);
    let options = Options::at(url.as_str()).unwrap();
    PostgresStore::open(options.clone()).await.unwrap().close().await;
    let mut connection = open::connect_writer(&options).await.unwrap();

    let one_search: [(&str, &str, &str); 8] = [
        (
            read::STREAM,
            "Index Scan using event_stream_version_key on event",
            "Index Cond: ((stream = $1) AND (version >= $2))",
        ),
        (
            read::STREAM_VERSION,
            "Index Only Scan Backward using event_stream_version_key on event",
            "Index Cond: ((stream = $1) AND (version IS NOT NULL))",
        ),
        (read::LOG, "Index Scan using event_pkey on event", "Index Cond: ((shard = $1) AND (seq > $2))"),
        (read::HEAD, "Index Scan using shard_pkey on shard", "Index Cond: (shard = $1)"),
        (read::CONTENT, "Index Scan using content_pkey on content", "Index Cond: ((shard = $1) AND (seq = $2))"),
        (read::CLAIMS, "Index Scan using claim_pkey on claim", "Index Cond: ((shard = $1) AND (key = ANY ($2)))"),
        (
            read::WAKEUPS,
            "Index Only Scan using wakeup_by_due_time on wakeup",
            "Index Cond: ((shard = $1) AND (ROW(due_at_ms, key) > ROW($2, $3)))",
        ),
        (
            read::CHECKPOINT,
            "Index Scan using checkpoint_pkey on checkpoint",
            "Index Cond: ((reader = $1) AND (shard = $2))",
        ),
    ];
    for (sql, scan, condition) in one_search {
        assert_eq!(plan(&mut connection, sql).await, [scan, condition], "{sql}");
    }

    let category = [
        "Sort Key: event.stream COLLATE \"C\", event.version",
        "Presorted Key: event.stream",
        "Index Only Scan using event_first_of_stream on event first",
        "Index Cond: ((shard = $1) AND (stream >= $2) AND (stream < $4))",
        "Index Scan using event_stream_version_key on event",
        "Index Cond: ((stream = first.stream) AND (ROW(stream, version) > ROW($2, $3)))",
    ];
    assert_eq!(plan(&mut connection, read::CATEGORY).await, category);

    assert_eq!(
        plan(&mut connection, write::LOCK).await,
        ["Index Scan using shard_pkey on shard", "Index Cond: (shard = $1)"]
    );
    assert_eq!(plan(&mut connection, write::HEADS).await, HEAD_OF_A_WANTED_STREAM);
    assert_eq!(
        plan(&mut connection, write::RECORDED).await,
        [
            "Index Scan using event_stream_version_key on event",
            "Index Cond: ((stream = (wanted.stream)::text) AND (version = wanted.version))"
        ]
    );
    let write = plan(&mut connection, write::WRITE).await;
    assert_eq!(write[..2], HEAD_OF_A_WANTED_STREAM);
    assert_eq!(
        write[2..],
        [
            "Index Only Scan using claim_pkey on claim",
            "Index Cond: ((shard = $1) AND (key = ANY ($17)))",
            "Index Scan using shard_pkey on shard",
            "Index Cond: (shard = $1)",
            "Index Scan using wakeup_pkey on wakeup wakeup_1",
            "Index Cond: ((shard = $1) AND (key = ANY ($22)))",
        ]
    );

    drop(connection);
    sqlx::query(AssertSqlSafe(format!("DROP DATABASE {name} WITH (FORCE)"))).execute(&mut at_server).await.unwrap();
}
