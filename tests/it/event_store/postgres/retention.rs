//! Partitions: made when they are met missing, and dropped beside those who append and read, through every crash.

use std::sync::Arc;

use futures_util::future::join_all;
use sqlx::PgConnection;
use tidings::event_store::{
    Append, AppendError, Bucket, BucketEnd, Claim, DropError, Dropped, EventStore, PostgresStore,
};

use super::faults::{held_up, hold_up, let_go, terminate};
use super::{Postgres, append_on, on};
use crate::event_store::{Database, append, append_one, at, bucketed, drop_bucket, ended, period, recorded, whole_log};

const LATER: Result<Dropped, DropError> = Ok(Dropped { rows: 0, more: true });

/// Events of a stream that needs its bucket no longer.
fn over(stream: &str, bucket: u32, count: usize) -> Append {
    Append { ended: vec![stream.to_owned()], ..bucketed(stream, 1, bucket, count) }
}

async fn partitions(stranger: &mut PgConnection) -> Vec<String> {
    let sql = "SELECT relname::TEXT FROM pg_class WHERE relname ~ '^bucketed_event_[0-9]+$' ORDER BY relname";
    sqlx::query_scalar(sql).fetch_all(stranger).await.unwrap()
}

fn dropped_bucket(answer: &Result<u64, AppendError>) -> bool {
    matches!(answer, Err(AppendError::Unavailable(reason)) if reason == "bucket 1 is being dropped")
}

#[tokio::test]
async fn a_partition_is_made_once_however_many_meet_it_missing() {
    let database = Postgres::fresh().await;
    let mut options = database.options();
    options.write_connections = 16;
    let store = PostgresStore::open(options).await.unwrap();

    let appends = (0..32).map(|shard| {
        let mut append = bucketed(&format!("d-{shard}"), 1, 7, 1);
        append.writes.extend(bucketed(&format!("e-{shard}"), 1, 8, 2).writes);
        append_on(&store, shard, append)
    });
    let answers = join_all(appends).await;

    for (shard, answer) in (0..).zip(answers) {
        assert_eq!(answer, Ok(on(shard, 3)));
        let ends = [(7, 1), (8, 3)].map(|(bucket, seq)| BucketEnd { bucket: Bucket(bucket), last: on(shard, seq) });
        assert_eq!(store.reader().buckets(shard).await.unwrap(), ends);
    }
    assert_eq!(partitions(&mut database.stranger().await).await, ["bucketed_event_7", "bucketed_event_8"]);
}

#[tokio::test]
async fn in_one_batch_with_what_is_refused_a_missing_partition_is_made_too() {
    let database = Postgres::fresh().await;
    let store = &*database.store;
    append_one(store, append("subscription-1", 1, 1)).await.unwrap();
    let batch = vec![append("subscription-1", 1, 1), bucketed("d-1", 1, 7, 1)];
    let answers = store.append(0, batch).await;
    assert_eq!((answers[0].is_ok(), answers[1].is_ok()), (false, true));
    assert_eq!(store.reader().stream_version("d-1").await, Ok(1));
}

#[tokio::test]
async fn a_bucketed_stream_that_begins_in_two_shards_at_once_stands_in_one() {
    let database = Postgres::fresh().await;
    let store = &*database.store;
    append_on(store, 1, bucketed("d-0", 1, 7, 1)).await.unwrap();
    for round in 1..=20 {
        let stream = format!("d-{round}");
        let both = [1, 2].map(|shard| append_on(store, shard, bucketed(&stream, 1, 7, 1)));
        let answers = join_all(both).await;
        assert_eq!(answers.iter().filter(|answer| answer.is_ok()).count(), 1, "{answers:?}");
        assert_eq!(store.reader().read_stream(&stream, 1, 9).await.unwrap().len(), 1);
    }
}

#[tokio::test]
async fn a_stream_does_not_go_back_to_an_older_bucket() {
    let database = Postgres::fresh().await;
    let store = &*database.store;
    let first = bucketed("d-1", 1, 7, 1);
    append_one(store, first.clone()).await.unwrap();
    append_one(store, period("d-1", 2, 8, 1)).await.unwrap();
    let reason = "stream 'd-1' would go back to an older bucket".to_owned();
    assert_eq!(append_one(store, bucketed("d-1", 3, 7, 1)).await, Err(AppendError::Unavailable(reason)));
    assert_eq!(append_one(store, first).await, Ok(1));
    assert_eq!(append_one(store, bucketed("d-1", 3, 8, 1)).await, Ok(3));
}

#[tokio::test]
async fn a_bucketed_event_can_be_neither_updated_nor_deleted() {
    let database = Postgres::fresh().await;
    append_one(&*database.store, bucketed("d-1", 1, 7, 1)).await.unwrap();
    let mut stranger = database.stranger().await;
    for (sql, refusal) in [
        ("UPDATE bucketed_event SET data = '{}'", "an event is never updated"),
        ("DELETE FROM bucketed_event", "an event is never deleted"),
        ("TRUNCATE bucketed_event", "an event is never deleted"),
        ("UPDATE bucketed_event_7 SET data = '{}'", "an event is never updated"),
        ("DELETE FROM bucketed_event_7", "an event is never deleted"),
        ("TRUNCATE bucketed_event_7", "an event is never deleted"),
    ] {
        let error = sqlx::query(sql).execute(&mut stranger).await.unwrap_err().to_string();
        assert!(error.contains(refusal), "{error}");
    }
}

#[tokio::test]
async fn a_long_read_delays_a_drop_and_nothing_else() {
    let database = Postgres::fresh().await;
    let store = &*database.store;
    append_one(store, over("d-1", 1, 3)).await.unwrap();
    append_one(store, bucketed("d-2", 1, 2, 1)).await.unwrap();
    let mut stranger = database.stranger().await;
    sqlx::raw_sql("BEGIN; SELECT * FROM bucketed_event").execute(&mut stranger).await.unwrap();

    assert_eq!(store.drop_bucket(Bucket(1), 9).await, LATER);

    // Into a partition that is there, and into one that has to be made.
    let next = bucketed("d-2", 2, 2, 1);
    let new = period("d-2", 3, 3, 1);
    assert_eq!(append_one(store, next.clone()).await, Ok(5));
    assert_eq!(append_one(store, new.clone()).await, Ok(6));
    assert_eq!(store.reader().floor(0).await, Ok(3));
    assert_eq!(store.reader().read_log(at(4), 9).await.unwrap(), [recorded(&next, 5), recorded(&new, 6)].concat());
    assert_eq!(store.drop_bucket(Bucket(1), 9).await, LATER);
    sqlx::query("COMMIT").execute(&mut stranger).await.unwrap();
    assert_eq!(drop_bucket(store, 1, 9).await, Ok(3));
    assert_eq!(partitions(&mut stranger).await, ["bucketed_event_2", "bucketed_event_3"]);
    assert_eq!(append_one(store, bucketed("d-1", 1, 1, 1)).await, Ok(7));
    assert_eq!(store.reader().floor(0).await, Ok(3));
}

#[tokio::test]
async fn two_buckets_may_be_half_dropped() {
    let database = Postgres::fresh().await;
    let store = &*database.store;
    append_one(store, over("d-1", 1, 3)).await.unwrap();
    append_one(store, over("d-2", 2, 2)).await.unwrap();
    let mut stranger = database.stranger().await;
    sqlx::raw_sql("BEGIN; SELECT * FROM bucketed_event").execute(&mut stranger).await.unwrap();
    assert_eq!(store.drop_bucket(Bucket(1), 9).await, LATER);
    assert_eq!(store.drop_bucket(Bucket(2), 9).await, LATER);
    sqlx::query("COMMIT").execute(&mut stranger).await.unwrap();
    assert_eq!(drop_bucket(store, 2, 9).await, Ok(2));
    assert_eq!(drop_bucket(store, 1, 9).await, Ok(3));
    assert_eq!(partitions(&mut stranger).await, [""; 0]);
}

// Stops between all steps, one after the other, and goes on as another owner each time.
#[tokio::test]
async fn a_drop_that_was_killed_anywhere_is_finished_by_the_next_owner() {
    let database = Postgres::fresh().await;
    let store = Arc::clone(&database.store);
    let claim = |key: &str| Claim { key: key.to_owned(), value: "1".to_owned(), bucket: Some(Bucket(1)) };
    let claiming = Append { claims: vec![claim("a"), claim("b")], ..over("d-1", 1, 3) };
    append_one(&*store, claiming).await.unwrap();
    let kept = append("subscription-1", 1, 1);
    append_one(&*store, kept.clone()).await.unwrap();
    let mut stranger = database.stranger().await;

    // Before it began: somebody holds a shard.
    sqlx::raw_sql("BEGIN; SELECT * FROM shard WHERE shard = 9 FOR UPDATE").execute(&mut stranger).await.unwrap();
    assert_eq!(store.drop_bucket(Bucket(1), 1).await, LATER);
    sqlx::query("ROLLBACK").execute(&mut stranger).await.unwrap();
    assert_eq!((store.reader().floor(0).await, whole_log(&*store).await.len()), (Ok(0), 4));

    // The bucket is barred, and one claim of two is free.
    assert_eq!(store.drop_bucket(Bucket(1), 1).await, LATER);
    assert_eq!(
        (store.reader().floor(0).await, store.reader().claims_after(0, None, 9).await.unwrap().len()),
        (Ok(3), 1)
    );
    let store = Arc::new(store.reopen().await.unwrap());
    assert!(dropped_bucket(&append_one(&*store, bucketed("d-2", 1, 1, 1)).await));

    // The partition is half taken out.
    sqlx::raw_sql("BEGIN; SELECT * FROM bucketed_event").execute(&mut stranger).await.unwrap();
    let dropping = tokio::spawn({
        let store = Arc::clone(&store);
        async move { drop_bucket(&*store, 1, 9).await }
    });
    let mut other = database.stranger().await;
    let waiting = "SELECT pid FROM pg_stat_activity WHERE datname = current_database() \
         AND query LIKE 'ALTER TABLE%CONCURRENTLY' AND wait_event_type = 'Lock'";
    let pid = loop {
        if let Some(pid) = sqlx::query_scalar(waiting).fetch_optional(&mut other).await.unwrap() {
            break pid;
        }
    };
    terminate(&mut other, pid).await;
    let killed = dropping.await.unwrap();
    assert!(matches!(killed, Err(DropError::Append(AppendError::Unavailable(_)))), "{killed:?}");
    sqlx::query("COMMIT").execute(&mut stranger).await.unwrap();
    let store = Arc::new(store.reopen().await.unwrap());
    assert!(dropped_bucket(&append_one(&*store, bucketed("d-2", 1, 1, 1)).await));

    // It is taken out, and stands by itself.
    let sql = "ALTER TABLE bucketed_event DETACH PARTITION bucketed_event_1 FINALIZE";
    sqlx::query(sql).execute(&mut stranger).await.unwrap();
    let store = store.reopen().await.unwrap();
    assert_eq!(store.reader().buckets(0).await.unwrap(), [BucketEnd { bucket: Bucket(1), last: at(3) }]);
    assert!(dropped_bucket(&append_one(&store, bucketed("d-2", 1, 1, 1)).await));

    assert_eq!(drop_bucket(&store, 1, 9).await, Ok(3));

    assert_eq!(whole_log(&store).await, recorded(&kept, 4));
    assert_eq!(
        (store.reader().buckets(0).await, store.reader().claims_after(0, None, 9).await),
        (Ok(vec![]), Ok(vec![]))
    );
    assert_eq!(append_one(&store, bucketed("d-2", 1, 1, 1)).await, Ok(5));
}

#[tokio::test]
async fn an_append_in_flight_is_waited_for_and_holds_its_bucket_back() {
    let database = Postgres::fresh().await;
    let mut stranger = database.stranger().await;
    append_one(&*database.store, over("d-1", 1, 1)).await.unwrap();
    hold_up(&mut stranger, "bucketed_event", "d-2", true).await;
    let answer = tokio::spawn({
        let store = Arc::clone(&database.store);
        async move { append_one(&*store, bucketed("d-2", 1, 1, 1)).await }
    });
    held_up(&mut stranger).await;

    assert_eq!(database.store.drop_bucket(Bucket(1), 9).await, LATER);

    let_go(&mut stranger).await;
    assert_eq!(answer.await.unwrap(), Ok(2));
    let live = Err(DropError::StillLive { bucket: Bucket(1), stream: "d-2".to_owned() });
    assert_eq!(drop_bucket(&*database.store, 1, 9).await, live);
    append_one(&*database.store, ended("d-2")).await.unwrap();
    assert_eq!(drop_bucket(&*database.store, 1, 9).await, Ok(2));
}

#[tokio::test]
async fn an_append_that_looked_before_its_bucket_was_barred_writes_nothing() {
    let database = Postgres::fresh().await;
    let mut stranger = database.stranger().await;
    append_one(&*database.store, over("d-1", 1, 1)).await.unwrap();
    // What the first transaction of a drop does, stopped before its end.
    let bar = "BEGIN; UPDATE shard SET turn = turn + 1; INSERT INTO dropping (bucket) VALUES (1)";
    sqlx::raw_sql(bar).execute(&mut stranger).await.unwrap();
    let answer = tokio::spawn({
        let store = Arc::clone(&database.store);
        async move { append_one(&*store, bucketed("d-2", 1, 1, 1)).await }
    });
    let blocked = "SELECT COUNT(*) FROM pg_locks WHERE NOT granted AND locktype = 'transactionid'";
    let mut other = database.stranger().await;
    while sqlx::query_scalar::<_, i64>(blocked).fetch_one(&mut other).await.unwrap() == 0 {}
    sqlx::query("COMMIT").execute(&mut stranger).await.unwrap();

    assert!(dropped_bucket(&answer.await.unwrap()));

    assert_eq!(drop_bucket(&*database.store, 1, 9).await, Ok(1));
    assert_eq!(database.store.reader().head(0).await, Ok(1));
}

#[tokio::test]
async fn buckets_go_from_all_shards_and_whoever_needs_one_in_any_is_named() {
    let database = Postgres::fresh().await;
    let store = &*database.store;
    for shard in [0, 5, 63] {
        append_on(store, shard, over(&format!("d-{shard}"), 1, 2)).await.unwrap();
    }
    append_on(store, 5, append("subscription-1", 1, 1)).await.unwrap();
    append_on(store, 63, bucketed("e-1", 1, 1, 1)).await.unwrap();
    let live = Err(DropError::StillLive { bucket: Bucket(1), stream: "e-1".to_owned() });
    assert_eq!(drop_bucket(store, 1, 9).await, live);
    append_on(store, 63, period("e-1", 2, 2, 1)).await.unwrap();
    for (shard, seq) in [(0, 2), (5, 1), (63, 9)] {
        store.save_checkpoint("matcher", on(shard, seq)).await.unwrap();
    }
    let (bucket, reader) = (Bucket(1), "matcher".to_owned());
    let unread = Err(DropError::StillRead { bucket, reader, at: on(5, 1), last: on(5, 2) });
    assert_eq!(drop_bucket(store, 1, 9).await, unread);
    store.save_checkpoint("matcher", on(5, 2)).await.unwrap();

    assert_eq!(drop_bucket(store, 1, 9).await, Ok(7));

    for (shard, floor) in [(0, 2), (1, 0), (5, 2), (63, 3)] {
        assert_eq!(store.reader().floor(shard).await, Ok(floor));
    }
    assert_eq!(store.reader().read_log(on(63, 0), 9).await.unwrap().len(), 1);
}
