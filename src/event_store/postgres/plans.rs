//! What PostgreSQL does for each question, pinned: an index is used, and nothing is scanned. The plans are those of an
//! empty database without statistics, which are the ones that it would get wrong if it were left to choose.

use sqlx::{AssertSqlSafe, Connection, PgConnection, Row};
use url::Url;

use super::{Options, PostgresStore, open, partition, read, write};
use crate::event_store::Bucket;

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

/// Of the kept events one entry is read, and of the bucketed ones the last of each partition from the period on.
const HEAD_OF_A_WANTED_STREAM: [&str; 10] = [
    "Index Scan using period_pkey on period",
    "Index Cond: (stream = wanted.stream)",
    "Index Only Scan Backward using event_stream_version_key on event",
    "Index Cond: ((stream = wanted.stream) AND (version IS NOT NULL))",
    "Merge Append",
    "Sort Key: event_1.version DESC",
    "Index Only Scan Backward using bucketed_event_7_stream_version_bucket_key on bucketed_event_7 event_2",
    HEAD_IN_A_PARTITION,
    "Index Only Scan Backward using bucketed_event_8_stream_version_bucket_key on bucketed_event_8 event_3",
    HEAD_IN_A_PARTITION,
];

const HEAD_IN_A_PARTITION: &str = "Index Cond: ((stream = wanted.stream) AND (version IS NOT NULL) AND (bucket >= \
     COALESCE(period.bucket, (CASE WHEN (wanted.bucket IS NOT NULL) THEN 0 ELSE NULL::integer END)::bigint)))";

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

    for bucket in [7, 8] {
        partition::make(&mut connection, Bucket(bucket)).await.unwrap();
    }

    let one_search: [(&str, &str, &str); 15] = [
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
            "Index Cond: ((shard = $1) AND (reader = $2))",
        ),
        (read::CHECKPOINTS, "Index Scan using checkpoint_pkey on checkpoint", "Index Cond: (shard = $1)"),
        (read::FLOOR, "Index Scan using shard_pkey on shard", "Index Cond: (shard = $1)"),
        (read::CLAIMS_AFTER, "Index Scan using claim_pkey on claim", "Index Cond: ((shard = $1) AND (key >= $2))"),
        (read::PERIOD, "Index Scan using period_pkey on period", "Index Cond: (stream = $1)"),
        (read::PERIODS, "Index Scan using period_by_stream on period", "Index Cond: ((shard = $1) AND (stream > $2))"),
        (
            read::LIVE_THROUGH,
            "Index Only Scan using period_by_bucket on period",
            "Index Cond: ((shard = $1) AND (bucket <= $2))",
        ),
        (read::BUCKETS, "Index Scan using bucket_pkey on bucket", "Index Cond: (shard = $1)"),
        (read::SNAPSHOT, "Index Scan using snapshot_pkey on snapshot", "Index Cond: ((shard = $1) AND (key = $2))"),
        (read::SNAPSHOTS, "Index Scan using snapshot_pkey on snapshot", "Index Cond: ((shard = $1) AND (key > $2))"),
        (write::DROPPING, "Index Only Scan using dropping_pkey on dropping", "Index Cond: (bucket = ANY ($1))"),
    ];
    for (sql, scan, condition) in one_search {
        assert_eq!(plan(&mut connection, sql).await, [scan, condition], "{sql}");
    }

    let stream = [
        "Merge Append",
        "Sort Key: event.version",
        "Index Scan using event_stream_version_key on event",
        "Index Cond: ((stream = $1) AND (version >= $2))",
        "Index Scan using period_pkey on period",
        "Index Cond: (stream = $1)",
        "Merge Append",
        "Sort Key: bucketed_event.version",
        "Index Scan using bucketed_event_7_stream_version_bucket_key on bucketed_event_7 bucketed_event_1",
        "Index Cond: ((stream = $1) AND (version >= $2) AND (bucket >= $0))",
        "Index Scan using bucketed_event_8_stream_version_bucket_key on bucketed_event_8 bucketed_event_2",
        "Index Cond: ((stream = $1) AND (version >= $2) AND (bucket >= $0))",
    ];
    assert_eq!(plan(&mut connection, read::STREAM).await, stream);

    let stream_version = [
        "Index Only Scan Backward using event_stream_version_key on event",
        "Index Cond: ((stream = $1) AND (version IS NOT NULL))",
        "Index Scan using period_pkey on period",
        "Index Cond: (stream = $1)",
        "Merge Append",
        "Sort Key: bucketed_event.version DESC",
        "Index Only Scan Backward using bucketed_event_7_stream_version_bucket_key on bucketed_event_7 bucketed_event_1",
        "Index Cond: ((stream = $1) AND (version IS NOT NULL) AND (bucket >= $2))",
        "Index Only Scan Backward using bucketed_event_8_stream_version_bucket_key on bucketed_event_8 bucketed_event_2",
        "Index Cond: ((stream = $1) AND (version IS NOT NULL) AND (bucket >= $2))",
    ];
    assert_eq!(plan(&mut connection, read::STREAM_VERSION).await, stream_version);

    let log = [
        "Merge Append",
        "Sort Key: event.seq",
        "Index Scan using event_pkey on event",
        "Index Cond: ((shard = $1) AND (seq > $2))",
        "Index Scan using bucket_pkey on bucket",
        "Index Cond: ((shard = $1) AND (bucket IS NOT NULL))",
        "Merge Append",
        "Sort Key: bucketed_event.seq",
        "Index Scan using bucketed_event_7_pkey on bucketed_event_7 bucketed_event_1",
        "Index Cond: ((shard = $1) AND (seq > $2) AND (bucket >= $1))",
        "Index Scan using bucketed_event_8_pkey on bucketed_event_8 bucketed_event_2",
        "Index Cond: ((shard = $1) AND (seq > $2) AND (bucket >= $1))",
    ];
    assert_eq!(plan(&mut connection, read::LOG).await, log);

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
            "Index Cond: ((stream = (wanted.stream)::text) AND (version = wanted.version))",
            "Index Scan using bucketed_event_7_stream_version_bucket_key on bucketed_event_7 event_2",
            "Index Cond: ((stream = (wanted_1.stream)::text) AND (version = wanted_1.version))",
            "Index Scan using bucketed_event_8_stream_version_bucket_key on bucketed_event_8 event_3",
            "Index Cond: ((stream = (wanted_1.stream)::text) AND (version = wanted_1.version))",
        ]
    );
    let write = plan(&mut connection, write::WRITE).await;
    assert_eq!(write[..10], HEAD_OF_A_WANTED_STREAM);
    assert_eq!(
        write[10..],
        [
            "Index Only Scan using claim_pkey on claim",
            "Index Cond: ((shard = $1) AND (key = ANY ($31)))",
            "Index Only Scan using dropping_pkey on dropping",
            "Index Cond: (bucket = ANY ($8))",
            "Index Scan using shard_pkey on shard",
            "Index Cond: (shard = $1)",
            "Index Scan using wakeup_pkey on wakeup wakeup_1",
            "Index Cond: ((shard = $1) AND (key = ANY ($37)))",
            "Index Scan using period_by_stream on period period_3",
            "Index Cond: ((shard = $1) AND (stream = ANY ($45)))",
            "Index Scan using content_pkey on content content_1",
            "Index Cond: ((shard = $1) AND (seq = ANY ($50)))",
        ]
    );

    for (sql, index) in [
        (partition::FREE_CLAIMS, "claim_by_bucket"),
        (partition::ERASE_CONTENTS, "content_by_bucket"),
        (partition::STILL_LIVE, "period_by_bucket"),
        (super::DROP_CONTENTS, "content_by_bucket"),
    ] {
        let plan = plan(&mut connection, sql).await;
        assert!(plan.iter().any(|line| line.contains(index)), "{plan:?}");
        assert!(plan.iter().all(|line| !line.starts_with("Seq Scan") && !line.starts_with("Sort")), "{plan:?}");
    }

    drop(connection);
    sqlx::query(AssertSqlSafe(format!("DROP DATABASE {name} WITH (FORCE)"))).execute(&mut at_server).await.unwrap();
}
