//! Two lifetimes in one log: buckets, periods, and the snapshots beside them.

use tidings::event_store::{
    Append, AppendError, Bucket, BucketEnd, Claim, Lifetime, Period, Position, Snapshot, StoredSnapshot,
};

use super::{
    Database, append, append_one, at, bucketed, ended, event, events, living, on_every_store, period, recorded,
    whole_log, write,
};

fn begins(bucket: u32, first_version: u64) -> Option<Period> {
    Some(Period { bucket: Bucket(bucket), first_version })
}

fn snapshot(key: &str, data: &str) -> Snapshot {
    Snapshot { key: key.to_owned(), fingerprint: "subscription/1".to_owned(), data: data.to_owned() }
}

fn stored(seq: u64, snapshot: &Snapshot) -> StoredSnapshot {
    StoredSnapshot { position: at(seq), snapshot: snapshot.clone() }
}

async fn streams_of_both_lifetimes_are_one_log<D: Database>() {
    let database = D::fresh().await;
    let store = database.store();
    let mut first = bucketed("deliveries-1", 1, 7, 2);
    first.writes.insert(0, write("subscription-1", 1, events(1)));
    first.writes.push(write("subscription-2", 1, events(1)));
    let second = bucketed("deliveries-1", 3, 8, 1);
    assert_eq!(append_one(&*store, first.clone()).await, Ok(4));
    assert_eq!(append_one(&*store, second.clone()).await, Ok(5));
    let log = [recorded(&first, 1), recorded(&second, 5)].concat();

    assert_eq!(whole_log(&*store).await, log);
    for after in 0..5 {
        assert_eq!(
            store.reader().read_log(at(after), 1).await.unwrap(),
            [log[usize::try_from(after).unwrap()].clone()]
        );
    }
    assert_eq!(store.reader().read_log(at(1), 3).await.unwrap(), log[1..4]);
    assert_eq!(store.reader().read_stream("deliveries-1", 2, 9).await.unwrap(), [log[2].clone(), log[4].clone()]);
    assert_eq!(store.reader().read_stream("deliveries-1", 1, 1).await.unwrap(), log[1..2]);
    assert_eq!(store.reader().stream_version("deliveries-1").await, Ok(3));
    assert_eq!(store.reader().read_category("deliveries", at(9), None, 9).await.unwrap(), []);
    assert_eq!(
        store.reader().read_category("subscription", at(9), None, 9).await.unwrap(),
        [log[0].clone(), log[3].clone()]
    );
    assert_eq!(store.reader().head(0).await, Ok(5));
    assert_eq!(store.reader().floor(0).await, Ok(0));
}

async fn versions_of_a_bucketed_stream_are_checked_across_its_buckets<D: Database>() {
    let database = D::fresh().await;
    let store = database.store();
    let first = bucketed("deliveries-1", 1, 7, 2);
    let conflict = |expected| Err(AppendError::Conflict { stream: "deliveries-1".to_owned(), expected });
    assert_eq!(append_one(&*store, first.clone()).await, Ok(2));
    assert_eq!(append_one(&*store, bucketed("deliveries-1", 3, 8, 1)).await, Ok(3));

    assert_eq!(append_one(&*store, first.clone()).await, Ok(2));
    assert_eq!(append_one(&*database.reopened().await, living(Lifetime::Period(Bucket(9)), first)).await, Ok(2));
    let store = database.reopened().await;
    assert_eq!(append_one(&*store, bucketed("deliveries-1", 3, 9, 1)).await, conflict(3));
    assert_eq!(append_one(&*store, period("deliveries-1", 5, 9, 1)).await, conflict(5));
    assert_eq!(append_one(&*store, append("deliveries-1", 2, 1)).await, conflict(2));
    assert_eq!(store.reader().period("deliveries-1").await, Ok(begins(7, 1)));
    assert_eq!(store.reader().buckets(0).await.unwrap().len(), 2);
    assert_eq!(store.reader().head(0).await, Ok(3));
}

async fn a_period_begins_with_the_stream_and_with_each_event_that_carries_all_before_it<D: Database>() {
    let database = D::fresh().await;
    let store = database.store();
    append_one(&*store, bucketed("deliveries-1", 1, 5, 2)).await.unwrap();
    assert_eq!(store.reader().period("deliveries-1").await, Ok(begins(5, 1)));
    append_one(&*store, bucketed("deliveries-1", 3, 6, 1)).await.unwrap();
    assert_eq!(store.reader().period("deliveries-1").await, Ok(begins(5, 1)));
    append_one(&*store, period("deliveries-1", 4, 7, 2)).await.unwrap();
    assert_eq!(store.reader().period("deliveries-1").await, Ok(begins(7, 4)));
    append_one(&*store, append("subscription-1", 1, 1)).await.unwrap();
    assert_eq!(store.reader().period("subscription-1").await, Ok(None));
    assert_eq!(store.reader().period("nobody-1").await, Ok(None));

    append_one(&*store, ended("deliveries-1")).await.unwrap();

    assert_eq!(store.reader().period("deliveries-1").await, Ok(None));
    assert_eq!(store.reader().read_stream("deliveries-1", 1, 9).await.unwrap().len(), 5);
    append_one(&*store, ended("nobody-1")).await.unwrap();
}

async fn the_last_word_of_a_batch_on_a_period_counts<D: Database>() {
    let database = D::fresh().await;
    let store = database.store();
    let over = Append { ended: vec!["deliveries-3".to_owned()], ..bucketed("deliveries-3", 1, 5, 1) };
    let batch = vec![
        bucketed("deliveries-1", 1, 5, 1),
        bucketed("deliveries-2", 1, 5, 1),
        period("deliveries-1", 2, 6, 1),
        ended("deliveries-2"),
        period("deliveries-2", 2, 6, 1),
        period("deliveries-1", 3, 7, 1),
        bucketed("deliveries-1", 9, 8, 1),
        over,
    ];

    let answers = store.append(0, batch).await;

    assert_eq!(answers.iter().filter(|answer| answer.is_ok()).count(), 7);
    let open = [("deliveries-1", begins(7, 3)), ("deliveries-2", begins(6, 2))];
    let open = open.map(|(stream, period)| (stream.to_owned(), period.unwrap()));
    assert_eq!(store.reader().periods(0, None, 9).await.unwrap(), open);
    assert_eq!(store.reader().periods(0, None, 1).await.unwrap(), open[..1]);
    assert_eq!(store.reader().periods(0, Some("deliveries-1"), 9).await.unwrap(), open[1..]);
    assert_eq!(store.reader().periods(0, Some("deliveries-2"), 9).await.unwrap(), []);
}

async fn streams_that_rest_on_old_buckets_come_oldest_first<D: Database>() {
    let database = D::fresh().await;
    let store = database.store();
    for (stream, bucket) in [("d-3", 5), ("d-1", 6), ("d-2", 5), ("d-4", 7)] {
        append_one(&*store, bucketed(stream, 1, bucket, 1)).await.unwrap();
    }
    append_one(&*store, append("subscription-1", 1, 1)).await.unwrap();
    assert_eq!(store.reader().live_through(0, Bucket(4), 9).await.unwrap(), [""; 0]);
    assert_eq!(store.reader().live_through(0, Bucket(6), 9).await.unwrap(), ["d-2", "d-3", "d-1"]);
    assert_eq!(store.reader().live_through(0, Bucket(u32::MAX), 2).await.unwrap(), ["d-2", "d-3"]);
    append_one(&*store, period("d-2", 2, 7, 1)).await.unwrap();
    append_one(&*store, ended("d-3")).await.unwrap();
    assert_eq!(store.reader().live_through(0, Bucket(7), 9).await.unwrap(), ["d-1", "d-2", "d-4"]);
}

async fn a_bucket_tells_where_it_ends<D: Database>() {
    let database = D::fresh().await;
    let store = database.store();
    assert_eq!(store.reader().buckets(0).await, Ok(vec![]));
    let batch = vec![
        bucketed("d-1", 1, 6, 2),
        append("subscription-1", 1, 1),
        bucketed("d-2", 1, 5, 2),
        bucketed("d-1", 3, 6, 1),
        append("subscription-1", 2, 1),
    ];
    store.append(0, batch).await;
    let end = |bucket, seq| BucketEnd { bucket: Bucket(bucket), last: at(seq) };
    assert_eq!(store.reader().buckets(0).await.unwrap(), [end(5, 5), end(6, 6)]);
    append_one(&*store, bucketed("d-2", 3, 5, 1)).await.unwrap();
    append_one(&*store, bucketed("d-2", 4, u32::MAX, 1)).await.unwrap();
    assert_eq!(store.reader().buckets(0).await.unwrap(), [end(5, 8), end(6, 6), end(u32::MAX, 9)]);
}

async fn a_snapshot_rests_on_the_append_that_carries_it_and_replaces_an_older_one<D: Database>() {
    let database = D::fresh().await;
    let store = database.store();
    let carrying = |append: Append, snapshots: &[&Snapshot]| Append {
        snapshots: snapshots.iter().map(|snapshot| (*snapshot).clone()).collect(),
        ..append
    };
    let [first, second, other] = [snapshot("b", "1"), snapshot("b", "2"), snapshot("a", "3")];
    let second = Snapshot { fingerprint: "subscription/2".to_owned(), ..second };
    let batch = vec![
        carrying(append("subscription-1", 1, 2), &[&first]),
        append("subscription-2", 1, 1),
        carrying(Append::default(), &[&other]),
        append("subscription-3", 1, 1),
    ];

    assert!(store.append(0, batch).await.iter().all(Result::is_ok));

    assert_eq!(store.reader().snapshot(0, "b").await, Ok(Some(stored(2, &first))));
    assert_eq!(store.reader().snapshot(0, "a").await, Ok(Some(stored(3, &other))));
    assert_eq!(store.reader().snapshot(0, "c").await, Ok(None));
    let batch = vec![
        carrying(bucketed("deliveries-1", 1, 4, 1), &[&first]),
        carrying(bucketed("deliveries-1", 2, 4, 1), &[&second]),
    ];
    assert!(store.append(0, batch).await.iter().all(Result::is_ok));
    let all = [stored(3, &other), stored(6, &second)];
    assert_eq!(store.reader().snapshots(0, None, 9).await.unwrap(), all);
    assert_eq!(store.reader().snapshots(0, None, 1).await.unwrap(), all[..1]);
    assert_eq!(store.reader().snapshots(0, Some("a"), 9).await.unwrap(), all[1..]);
    assert_eq!(store.reader().snapshots(0, Some("b"), 9).await.unwrap(), []);
}

async fn what_is_refused_or_repeated_leaves_no_snapshot_and_moves_no_period<D: Database>() {
    let database = D::fresh().await;
    let store = database.store();
    let claim = Claim { key: "name".to_owned(), value: "1".to_owned(), bucket: None };
    let written = Append { claims: vec![claim.clone()], ..bucketed("deliveries-1", 1, 4, 2) };
    append_one(&*store, written.clone()).await.unwrap();
    let snapshots = vec![snapshot("a", "1")];
    let ends = vec!["deliveries-1".to_owned()];

    let repeated = Append { snapshots: snapshots.clone(), ended: ends.clone(), ..written };
    let conflicting = Append { snapshots: snapshots.clone(), ..period("deliveries-1", 2, 9, 1) };
    let taken = Append { snapshots, claims: vec![claim], ended: ends, ..period("deliveries-1", 3, 9, 1) };

    assert_eq!(append_one(&*store, repeated).await, Ok(2));
    assert!(matches!(append_one(&*store, conflicting).await, Err(AppendError::Conflict { .. })));
    assert!(matches!(append_one(&*store, taken).await, Err(AppendError::ClaimTaken { .. })));
    assert_eq!(store.reader().snapshots(0, None, 9).await.unwrap(), []);
    assert_eq!(store.reader().period("deliveries-1").await, Ok(begins(4, 1)));
    assert_eq!(store.reader().buckets(0).await.unwrap().len(), 1);
}

async fn claims_and_readers_are_listed_in_order<D: Database>() {
    let database = D::fresh().await;
    let store = database.store();
    let claim = |key: &str, bucket: Option<u32>| Claim {
        key: key.to_owned(),
        value: format!("of {key}"),
        bucket: bucket.map(Bucket),
    };
    let claims = [claim("", None), claim("a", Some(7)), claim("b", None)];
    let claiming = Append { claims: [2, 0, 1].map(|index: usize| claims[index].clone()).to_vec(), ..Append::default() };
    append_one(&*store, claiming).await.unwrap();
    assert_eq!(store.reader().claims_after(0, None, 9).await.unwrap(), claims);
    assert_eq!(store.reader().claims_after(0, None, 1).await.unwrap(), claims[..1]);
    assert_eq!(store.reader().claims_after(0, Some(""), 1).await.unwrap(), claims[1..2]);
    assert_eq!(store.reader().claims_after(0, Some("aa"), 9).await.unwrap(), claims[2..]);

    for (reader, seq) in [("matcher", 7), ("audit", 3)] {
        store.save_checkpoint(reader, at(seq)).await.unwrap();
    }
    let readers = [("audit".to_owned(), 3), ("matcher".to_owned(), 7)];
    assert_eq!(store.reader().checkpoints(0).await.unwrap(), readers);
    store.forget_reader("matcher").await.unwrap();
    store.forget_reader("nobody").await.unwrap();
    assert_eq!(store.reader().checkpoints(0).await.unwrap(), readers[..1]);
    assert_eq!(store.reader().checkpoint("matcher", 0).await, Ok(None));
}

async fn what_is_asked_of_a_shard_that_does_not_exist_is_refused<D: Database>() {
    let database = D::fresh().await;
    let store = database.store();
    let shard = store.reader().shards();
    append_one(&*store, Append { writes: vec![write("a-1", 1, vec![event()])], ..Append::default() }).await.unwrap();
    assert!(store.reader().floor(shard).await.is_err());
    assert!(store.reader().buckets(shard).await.is_err());
    assert!(store.reader().periods(shard, None, 1).await.is_err());
    assert!(store.reader().live_through(shard, Bucket(1), 1).await.is_err());
    assert!(store.reader().snapshot(shard, "a").await.is_err());
    assert!(store.reader().snapshots(shard, None, 1).await.is_err());
    assert!(store.reader().claims_after(shard, None, 1).await.is_err());
    assert!(store.reader().checkpoints(shard).await.is_err());
    assert!(store.reader().content(Position { shard, seq: 1 }).await.is_err());
}

on_every_store! {
    streams_of_both_lifetimes_are_one_log,
    versions_of_a_bucketed_stream_are_checked_across_its_buckets,
    a_period_begins_with_the_stream_and_with_each_event_that_carries_all_before_it,
    the_last_word_of_a_batch_on_a_period_counts,
    streams_that_rest_on_old_buckets_come_oldest_first,
    a_bucket_tells_where_it_ends,
    a_snapshot_rests_on_the_append_that_carries_it_and_replaces_an_older_one,
    what_is_refused_or_repeated_leaves_no_snapshot_and_moves_no_period,
    claims_and_readers_are_listed_in_order,
    what_is_asked_of_a_shard_that_does_not_exist_is_refused,
}
