//! What SQLite does for each question, pinned: an index is used, nothing is scanned and nothing is sorted.

use std::sync::Arc;

use sqlx::{AssertSqlSafe, Row};

use super::{Options, SqliteStore, drop, read, write};

async fn plan(sql: &str) -> Vec<String> {
    let folder = tempfile::tempdir().unwrap();
    let store = SqliteStore::open(Options::at(folder.path().join("log.db"))).await.unwrap();
    let query = sqlx::query(AssertSqlSafe(format!("EXPLAIN QUERY PLAN {sql}")));
    query.fetch_all(&store.reader.pool).await.unwrap().iter().map(|row| row.get("detail")).collect()
}

/// Both tables by an index each, merged in their order: nothing is sorted.
fn merged(kept: &str, bucketed: &str) -> [String; 5] {
    ["MERGE (UNION ALL)", "LEFT", kept, "RIGHT", bucketed].map(str::to_owned)
}

#[tokio::test]
async fn a_stream_is_read_by_the_index_of_each_table() {
    let by_index =
        |table: &str| format!("SEARCH {table} USING INDEX sqlite_autoindex_{table}_1 (stream=? AND version>?)");
    let both = merged(&by_index("event"), &by_index("bucketed_event"));
    assert_eq!(plan(read::STREAM).await, both);
    assert_eq!(plan(write::EVENT_IDS).await, both);
}

#[tokio::test]
async fn the_log_is_read_in_the_order_of_its_rows() {
    let by_number = |table: &str| format!("SEARCH {table} USING INTEGER PRIMARY KEY (rowid>?)");
    assert_eq!(plan(read::LOG).await, merged(&by_number("event"), &by_number("bucketed_event")));
}

#[tokio::test]
async fn a_category_is_a_range_of_the_stream_index() {
    let details = plan(read::CATEGORY).await;
    assert_eq!(details, ["SEARCH event USING INDEX sqlite_autoindex_event_1 ((stream,version)>(?,?) AND stream<?)"]);
}

#[tokio::test]
async fn wakeups_are_a_range_of_their_index() {
    let details = plan(read::WAKEUPS).await;
    assert_eq!(details, ["SEARCH wakeup USING COVERING INDEX wakeup_by_due_time ((due_at_ms,key)>(?,?))"]);
}

#[tokio::test]
async fn claims_are_found_by_key() {
    let sql: Arc<str> = write::CLAIMS.for_one_row();
    assert_eq!(plan(&sql).await, ["SEARCH claim USING PRIMARY KEY (key=?)"]);
}

#[tokio::test]
async fn the_last_version_of_a_stream_is_one_search_in_each_table() {
    let of_streams = write::UNEXPECTED_HEADS.for_one_row();
    for sql in [read::STREAM_VERSION, &of_streams] {
        let details = plan(sql).await;
        for table in ["event", "bucketed_event"] {
            let searches: Vec<&String> =
                details.iter().filter(|detail| detail.contains(&format!(" {table} "))).collect();
            let expected = format!("SEARCH {table} USING COVERING INDEX sqlite_autoindex_{table}_1 (stream=?)");
            assert!(!searches.is_empty() && searches.iter().all(|search| **search == expected), "{details:?}");
        }
    }
}

#[tokio::test]
async fn names_are_read_on_in_their_order() {
    for (sql, search) in [
        (read::CLAIMS_AFTER, "SEARCH claim USING PRIMARY KEY (key>?)"),
        (read::PERIODS, "SEARCH period USING PRIMARY KEY (stream>?)"),
        (read::SNAPSHOTS, "SEARCH snapshot USING INDEX sqlite_autoindex_snapshot_1 (key>?)"),
        (read::PERIOD, "SEARCH period USING PRIMARY KEY (stream=?)"),
        (read::SNAPSHOT, "SEARCH snapshot USING INDEX sqlite_autoindex_snapshot_1 (key=?)"),
    ] {
        assert_eq!(plan(sql).await, [search]);
    }
}

#[tokio::test]
async fn live_streams_are_a_range_of_their_index() {
    let search = "SEARCH period USING COVERING INDEX period_by_bucket (bucket<?)";
    assert_eq!(plan(read::LIVE_THROUGH).await, [search]);
    assert_eq!(plan(drop::LIVE).await, [search]);
}

#[tokio::test]
async fn what_is_dropped_is_a_range_of_numbers() {
    let range = |table: &str| format!("SEARCH {table} USING INTEGER PRIMARY KEY (rowid>? AND rowid<?)");
    assert_eq!(plan(drop::END_OF_STEP).await, [range("bucketed_event")]);
    assert_eq!(plan(drop::DELETE_EVENTS).await, [range("bucketed_event")]);
    assert_eq!(plan(drop::DELETE_CONTENTS).await, [range("content")]);
    let contents = plan(drop::DROP_CONTENTS).await;
    assert_eq!(contents[0], "SEARCH content USING INTEGER PRIMARY KEY (rowid=?)");
    assert!(contents.contains(&range("content")) && !contents.iter().any(|detail| detail.contains("SCAN")));
    let claims = plan(drop::FREE_CLAIMS).await;
    assert_eq!(claims[0], "SEARCH claim USING PRIMARY KEY (key=?)");
    assert!(claims.contains(&"SEARCH claim USING COVERING INDEX claim_by_bucket (bucket=?)".to_owned()), "{claims:?}");
}

#[tokio::test]
async fn the_head_is_raised_by_primary_key() {
    assert_eq!(plan(write::RAISE_HEAD).await, ["SEARCH shard USING INTEGER PRIMARY KEY (rowid=?)"]);
}
