//! A log that is written for many times its retention stays as large as it was after the first.

use std::path::Path;
use std::sync::Arc;

use bytes::Bytes;
use tidings::event_store::{Append, Bucket, Claim, Config, Lifetime, Log, Options, SqliteStore, StreamWrite};

use super::events;
use super::sqlite::stranger;

const STREAMS: usize = 8;
const EVENTS: usize = 40;
/// How many buckets are kept beside the one that is written.
const RETENTION: u32 = 3;
const ROUND: u32 = 10;
const ROUNDS: u32 = 4;

/// A bucket's worth of events with contents and claims, beginning with a period in each stream.
fn written_in(bucket: u32) -> Append {
    let first_version = u64::from(bucket) * EVENTS as u64 + 1;
    let write = |stream: usize| {
        let mut events = events(EVENTS);
        for event in &mut events {
            event.data = format!(r#"{{"bucket":{bucket},"filling":"{}"}}"#, "x".repeat(400));
            event.content = Some(Bytes::from(vec![b'c'; 700]));
        }
        let (stream, lifetime) = (format!("messages-{stream}"), Lifetime::Period(Bucket(bucket)));
        StreamWrite { stream, first_version, lifetime, events }
    };
    let claim = |number| Claim {
        key: format!("idempotency/{bucket}/{number}"),
        value: "1".to_owned(),
        bucket: Some(Bucket(bucket)),
    };
    Append {
        writes: (0..STREAMS).map(write).collect(),
        claims: (0..STREAMS * EVENTS).map(claim).collect(),
        ..Append::default()
    }
}

/// Drops the bucket that has become older than the retention.
async fn retire(log: &Log, now: u32) {
    let Some(bucket) = now.checked_sub(RETENTION + 1) else { return };
    while log.drop_bucket(Bucket(bucket), 50).await.unwrap().more {}
}

/// Pages of the file, and rows of events, contents, claims and buckets.
async fn size(path: &Path) -> [i64; 5] {
    let mut stranger = stranger(path).await;
    let mut sizes = [0; 5];
    for (size, sql) in sizes.iter_mut().zip([
        "PRAGMA page_count",
        "SELECT count(*) FROM bucketed_event",
        "SELECT count(*) FROM content",
        "SELECT count(*) FROM claim",
        "SELECT count(*) FROM bucket",
    ]) {
        *size = sqlx::query_scalar(sql).fetch_one(&mut stranger).await.unwrap();
    }
    sizes
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_log_stays_level_through_many_times_its_retention() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("log.db");
    let store = Arc::new(SqliteStore::open(Options::at(&path)).await.unwrap());
    let log = Log::start(store.clone(), Config::default()).await.unwrap();
    let mut sizes = Vec::new();
    for bucket in 0..ROUND * ROUNDS {
        log.append(0, written_in(bucket)).await.unwrap();
        // Dropped beside appends that begin the next bucket's claims and wake-ups.
        let beside = Append { wakeups: vec![("messages-1".to_owned(), None)], ..Append::default() };
        let ((), appended) = tokio::join!(retire(&log, bucket), log.append(0, beside));
        appended.unwrap();
        if (bucket + 1) % ROUND == 0 {
            sizes.push(size(&path).await);
        }
    }

    let rows = (STREAMS * EVENTS) as i64 * i64::from(RETENTION + 1);
    for [_, events, contents, claims, buckets] in &sizes {
        assert_eq!([*events, *contents, *claims, *buckets], [rows, rows, rows, i64::from(RETENTION + 1)]);
    }
    let (first, last) = (sizes[0][0], sizes[sizes.len() - 1][0]);
    assert!(last <= first + first / 20, "{sizes:?}");
    let mut stranger = stranger(&path).await;
    let healthy: String = sqlx::query_scalar("PRAGMA integrity_check").fetch_one(&mut stranger).await.unwrap();
    assert_eq!(healthy, "ok");
}
