//! What SQLite does for each question, pinned: an index is used, nothing is scanned and nothing is sorted.

use std::sync::Arc;

use sqlx::{AssertSqlSafe, Row};

use super::{Options, SqliteStore, read, write};

async fn plan(sql: &str) -> Vec<String> {
    let folder = tempfile::tempdir().unwrap();
    let store = SqliteStore::open(Options::at(folder.path().join("log.db"))).await.unwrap();
    let query = sqlx::query(AssertSqlSafe(format!("EXPLAIN QUERY PLAN {sql}")));
    query.fetch_all(&store.reader.pool).await.unwrap().iter().map(|row| row.get("detail")).collect()
}

#[tokio::test]
async fn a_stream_is_read_by_its_index() {
    let by_index = "SEARCH event USING INDEX sqlite_autoindex_event_1 (stream=? AND version>?)";
    assert_eq!(plan(read::STREAM).await, [by_index]);
    assert_eq!(plan(write::EVENT_IDS).await, [by_index]);
}

#[tokio::test]
async fn the_log_is_read_in_the_order_of_its_rows() {
    assert_eq!(plan(read::LOG).await, ["SEARCH event USING INTEGER PRIMARY KEY (rowid>?)"]);
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
async fn the_last_version_of_a_stream_is_one_search() {
    let details = plan(&write::UNEXPECTED_HEADS.for_one_row()).await;
    let searches: Vec<&String> = details.iter().filter(|detail| detail.contains(" event ")).collect();
    assert!(!searches.is_empty());
    for search in searches {
        assert_eq!(search, "SEARCH event USING COVERING INDEX sqlite_autoindex_event_1 (stream=?)", "{details:?}");
    }
}

#[tokio::test]
async fn the_head_is_raised_by_primary_key() {
    assert_eq!(plan(write::RAISE_HEAD).await, ["SEARCH shard USING INTEGER PRIMARY KEY (rowid=?)"]);
}
