//! Dropping buckets and erasing contents: what goes with them, who holds them back, and what readers see of it.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use bytes::Bytes;
use tidings::event_store::{
    Append, AppendError, Bucket, BucketEnd, Claim, Config, DropError, EventStore, Log, ReadError, Recorded,
};
use tokio::task::JoinSet;

use super::faulty::Faulty;
use super::{
    Database, append, append_one, at, bucketed, drop_bucket, drop_contents, ended, on_every_store, period, recorded,
    whole_log,
};

fn claim(key: &str, bucket: Option<u32>) -> Claim {
    Claim { key: key.to_owned(), value: "1".to_owned(), bucket: bucket.map(Bucket) }
}

/// The same append, with a content beside each event.
fn filled(mut append: Append) -> Append {
    for event in append.writes.iter_mut().flat_map(|write| &mut write.events) {
        event.content = Some(Bytes::from_static(b"content"));
    }
    append
}

async fn contents(store: &dyn EventStore, through: u64) -> Vec<u64> {
    let mut found = Vec::new();
    for seq in 1..=through {
        found.extend(store.reader().content(at(seq)).await.unwrap().map(|_| seq));
    }
    found
}

async fn a_bucket_goes_whole_with_its_claims_and_contents<D: Database>() {
    for step in [1, 2, 3, 100] {
        let database = D::fresh().await;
        let store = database.store();
        let kept = filled(append("subscription-1", 1, 1));
        let claiming = Append {
            claims: vec![claim("a", Some(1)), claim("b", Some(2)), claim("c", None), claim("d", Some(1))],
            ..filled(bucketed("messages-1", 1, 1, 4))
        };
        let newer = filled(period("messages-1", 5, 2, 2));
        // Not all that lies between the first and the last of a bucket is its own.
        let late = filled(bucketed("messages-2", 1, 1, 2));
        let batch = vec![kept.clone(), claiming, newer.clone(), late, ended("messages-2")];
        assert!(store.append(0, batch).await.iter().all(Result::is_ok));

        assert_eq!(drop_bucket(&*store, 1, step).await, Ok(6));

        assert_eq!(whole_log(&*store).await, [recorded(&kept, 1), recorded(&newer, 6)].concat());
        assert_eq!(store.reader().read_stream("messages-1", 1, 9).await.unwrap(), recorded(&newer, 6));
        assert_eq!(store.reader().stream_version("messages-1").await, Ok(6));
        assert_eq!(store.reader().stream_version("messages-2").await, Ok(0));
        assert_eq!(contents(&*store, 9).await, [1, 6, 7]);
        assert_eq!(store.reader().buckets(0).await.unwrap(), [BucketEnd { bucket: Bucket(2), last: at(7) }]);
        assert_eq!(store.reader().claims_after(0, None, 9).await.unwrap(), [claim("b", Some(2)), claim("c", None)]);
        assert_eq!((store.reader().floor(0).await, store.reader().head(0).await), (Ok(9), Ok(9)));
        assert_eq!(drop_bucket(&*store, 1, step).await, Ok(0));
        let store = database.reopened().await;
        assert_eq!(store.reader().floor(0).await, Ok(9));
        let again = Append { claims: vec![claim("a", None)], ..bucketed("messages-1", 7, 2, 1) };
        assert_eq!(append_one(&*store, again).await, Ok(10));
    }
}

async fn where_there_is_nothing_to_drop_nothing_happens<D: Database>() {
    let database = D::fresh().await;
    let store = database.store();
    append_one(&*store, append("subscription-1", 1, 2)).await.unwrap();
    store.save_checkpoint("matcher", at(0)).await.unwrap();
    let claiming = Append { claims: vec![claim("a", Some(3)), claim("b", Some(4))], ..Append::default() };
    append_one(&*store, claiming).await.unwrap();
    assert_eq!(drop_bucket(&*store, 3, 1).await, Ok(0));
    assert_eq!(drop_contents(&*store, u32::MAX, 1).await, 0);
    assert_eq!(store.reader().floor(0).await, Ok(0));
    assert_eq!(whole_log(&*store).await.len(), 2);
    assert_eq!(
        store.reader().claims_after(0, None, 9).await.unwrap(),
        [claim("b", Some(4))],
        "claims go without events too"
    );
}

async fn a_bucket_on_which_a_live_stream_rests_stays<D: Database>() {
    let database = D::fresh().await;
    let store = database.store();
    append_one(&*store, bucketed("deliveries-1", 1, 4, 2)).await.unwrap();
    append_one(&*store, bucketed("deliveries-1", 3, 5, 2)).await.unwrap();
    let live = |bucket| Err(DropError::StillLive { bucket: Bucket(bucket), stream: "deliveries-1".to_owned() });

    assert_eq!(drop_bucket(&*store, 4, 9).await, live(4));
    assert_eq!(drop_bucket(&*store, 5, 9).await, live(5));
    assert_eq!(drop_bucket(&*store, 3, 9).await, Ok(0));
    assert_eq!((whole_log(&*store).await.len(), store.reader().floor(0).await), (4, Ok(0)));

    append_one(&*store, period("deliveries-1", 5, 5, 1)).await.unwrap();
    assert_eq!(drop_bucket(&*store, 4, 9).await, Ok(2));
    assert_eq!(drop_bucket(&*store, 5, 9).await, live(5));
    append_one(&*store, ended("deliveries-1")).await.unwrap();
    assert_eq!(drop_bucket(&*store, 5, 9).await, Ok(3));
    assert_eq!((whole_log(&*store).await, store.reader().floor(0).await), (vec![], Ok(5)));
}

async fn a_bucket_that_a_reader_has_not_passed_stays<D: Database>() {
    let database = D::fresh().await;
    let store = database.store();
    let over = Append { ended: vec!["deliveries-1".to_owned()], ..bucketed("deliveries-1", 1, 4, 3) };
    append_one(&*store, over).await.unwrap();
    append_one(&*store, append("subscription-1", 1, 1)).await.unwrap();
    let unread = |seq| {
        let (bucket, reader) = (Bucket(4), "matcher".to_owned());
        Err(DropError::StillRead { bucket, reader, at: at(seq), last: at(3) })
    };
    store.save_checkpoint("audit", at(4)).await.unwrap();
    for seq in [0, 2] {
        store.save_checkpoint("matcher", at(seq)).await.unwrap();
        assert_eq!(drop_bucket(&*store, 4, 9).await, unread(seq));
    }
    assert_eq!((whole_log(&*store).await.len(), store.reader().floor(0).await), (4, Ok(0)));

    store.save_checkpoint("matcher", at(3)).await.unwrap();
    assert_eq!(drop_bucket(&*store, 4, 9).await, Ok(3));

    let over = Append { ended: vec!["deliveries-2".to_owned()], ..bucketed("deliveries-2", 1, 5, 3) };
    append_one(&*store, over).await.unwrap();
    assert!(matches!(drop_bucket(&*store, 5, 9).await, Err(DropError::StillRead { .. })));
    store.forget_reader("matcher").await.unwrap();
    store.forget_reader("audit").await.unwrap();
    assert_eq!(drop_bucket(&*store, 5, 9).await, Ok(3));
}

async fn contents_may_go_before_their_events<D: Database>() {
    for step in [1, 2, 100] {
        let database = D::fresh().await;
        let store = database.store();
        let batch = vec![
            filled(append("subscription-1", 1, 1)),
            filled(bucketed("messages-1", 1, 1, 2)),
            filled(bucketed("messages-1", 3, 3, 1)),
            filled(bucketed("messages-2", 1, 2, 2)),
            filled(append("subscription-1", 2, 1)),
        ];
        assert!(store.append(0, batch).await.iter().all(Result::is_ok));
        let before = whole_log(&*store).await;

        assert_eq!(drop_contents(&*store, 0, step).await, 0);
        assert_eq!(drop_contents(&*store, 2, step).await, 4);

        assert_eq!(contents(&*store, 7).await, [1, 4, 7]);
        assert_eq!(drop_contents(&*store, 2, step).await, 0);
        assert_eq!(whole_log(&*store).await, before);
        assert_eq!((store.reader().floor(0).await, store.reader().buckets(0).await.unwrap().len()), (Ok(0), 3));
    }
}

async fn an_owner_that_was_replaced_drops_and_forgets_nothing<D: Database>() {
    let database = D::fresh().await;
    let old = database.store();
    let over = Append { ended: vec!["messages-1".to_owned()], ..filled(bucketed("messages-1", 1, 4, 3)) };
    append_one(&*old, over).await.unwrap();
    old.save_checkpoint("matcher", at(3)).await.unwrap();
    let new = database.reopened().await;

    let fenced = |error: AppendError| matches!(error, AppendError::Fenced { shard: 0, .. });
    for bucket in [4, 5] {
        // PostgreSQL may take a moment to see that the step before has ended, and says then that there is more to do.
        let refused = drop_bucket(&*old, bucket, 9).await.unwrap_err();
        assert!(matches!(refused, DropError::Append(AppendError::Fenced { shard: 0, .. })), "{refused}");
    }
    assert!(fenced(old.drop_contents(Bucket(4), 9).await.unwrap_err()));
    assert!(fenced(old.forget_reader("matcher").await.unwrap_err()));

    assert_eq!((contents(&*new, 3).await, new.reader().checkpoint("matcher", 0).await), (vec![1, 2, 3], Ok(Some(3))));
    assert_eq!(drop_bucket(&*new, 4, 9).await, Ok(3));
}

async fn a_hole_up_to_the_floor_is_lawful_and_one_above_it_is_damage<D: Database>() {
    let database = D::fresh().await;
    let batch = vec![
        append("subscription-1", 1, 1),
        Append { ended: vec!["messages-1".to_owned()], ..bucketed("messages-1", 1, 4, 3) },
        append("subscription-1", 2, 2),
        bucketed("messages-2", 1, 5, 2),
    ];
    assert!(database.store().append(0, batch).await.iter().all(Result::is_ok));
    let store = Faulty::open(database.store());
    let log = Log::start(store.clone(), Config::default()).await.unwrap();
    let whole = log.read_log(at(0), 99).await.unwrap();
    let seqs = async |after: u64, limit: usize| -> Result<Vec<u64>, ReadError> {
        let events = log.read_log(at(after), limit).await?;
        Ok(events.iter().map(|event| event.position.seq).collect())
    };

    assert!(!log.drop_bucket(Bucket(4), 99).await.unwrap().more);

    assert_eq!((whole.len(), log.floor(0)), (8, 4));
    assert_eq!(seqs(0, 99).await, Ok(vec![1, 5, 6, 7, 8]));
    assert_eq!(seqs(0, 1).await, Ok(vec![1]));
    assert_eq!(seqs(1, 1).await, Ok(vec![5]));
    assert_eq!(seqs(2, 9).await, Ok(vec![5, 6, 7, 8]));
    let log = Log::start(database.reopened().await, Config::default()).await.unwrap();
    assert_eq!((log.floor(0), log.read_log(at(1), 99).await.unwrap().len()), (4, 4));
    for (hidden, before) in [(5, 6), (7, 8)] {
        store.hidden.store(hidden, Ordering::Relaxed);
        let hidden = hidden as u64;
        let reason = format!("it is missing before 0-{before}");
        assert_eq!(seqs(0, 99).await, Err(ReadError::Damaged { position: at(hidden), stream: None, reason }));
    }
}

async fn what_was_dropped_past_a_log_is_no_damage_to_its_readers<D: Database>() {
    let database = D::fresh().await;
    let store = database.store();
    let batch = vec![
        append("subscription-1", 1, 1),
        Append { ended: vec!["messages-1".to_owned()], ..bucketed("messages-1", 1, 4, 3) },
        append("subscription-1", 2, 1),
    ];
    assert!(store.append(0, batch).await.iter().all(Result::is_ok));
    let log = Log::start(store.clone(), Config::default()).await.unwrap();

    drop_bucket(&*store, 4, 99).await.unwrap();

    assert_eq!(log.floor(0), 0);
    assert_eq!(log.read_log(at(1), 9).await.unwrap().len(), 1);
    assert_eq!(log.floor(0), 4);
}

/// Reads on from its checkpoint, which it saves after each page, until it has come so far.
async fn follow(log: Log, reader: String, until: u64) -> Vec<Recorded> {
    let mut head = log.watch(0);
    let mut seen: Vec<Recorded> = Vec::new();
    let mut checkpoint = 0;
    while checkpoint < until {
        head.wait_for(|head| *head > checkpoint).await.unwrap();
        let events = log.read_log(at(checkpoint), 7).await.unwrap();
        seen.extend(events.iter().map(|event| (**event).clone()));
        checkpoint = seen.last().map_or(checkpoint, |event| event.position.seq);
        log.save_checkpoint(&reader, at(checkpoint)).await.unwrap();
    }
    seen
}

/// Drops one bucket after the other, each as soon as nobody needs it any more. A bucket is tried from its first event
/// on, which is the one behind so many times `events`.
async fn retire(log: Log, buckets: u32, events: u64) {
    let mut head = log.watch(0);
    for bucket in 1..=buckets {
        head.wait_for(|head| *head > u64::from(bucket - 1) * events).await.unwrap();
        loop {
            match log.drop_bucket(Bucket(bucket), 3).await {
                Ok(dropped) if !dropped.more => break,
                Ok(_) => {}
                Err(DropError::StillLive { .. } | DropError::StillRead { .. }) => tokio::task::yield_now().await,
                Err(error) => panic!("{error}"),
            }
        }
    }
}

async fn readers_see_no_damage_while_buckets_are_dropped_and_events_appended<D: Database>() {
    const BUCKETS: u32 = 12;
    let database = D::fresh().await;
    let config = Config { tail_events: 5, ..Config::default() };
    let log = Log::start(database.store(), config).await.unwrap();
    let mut followers = JoinSet::new();
    let last = u64::from(BUCKETS) * 11;
    for number in 0..3 {
        let reader = format!("reader-{number}");
        log.save_checkpoint(&reader, at(0)).await.unwrap();
        followers.spawn(follow(log.clone(), reader, last));
    }
    let janitor = tokio::spawn(retire(log.clone(), BUCKETS - 1, 11));
    // Comes late to all there is, again and again, and is waited for by nobody.
    let late = tokio::spawn({
        let log = log.clone();
        async move {
            while log.floor(0) < last - 12 {
                let mut after = 0;
                while after < log.head(0) {
                    let events = log.read_log(at(after), 4).await.unwrap();
                    after = events.last().map_or(u64::MAX, |event| event.position.seq);
                }
                tokio::task::yield_now().await;
            }
        }
    });
    let mut acknowledged = Vec::new();
    for bucket in 1..=BUCKETS {
        let version = u64::from(bucket - 1) * 10 + 1;
        let mut batch: Vec<Append> = vec![period("deliveries-1", version, bucket, 1)];
        batch.extend((1..10).map(|more| bucketed("deliveries-1", version + more, bucket, 1)));
        batch.push(append("subscription-1", u64::from(bucket), 1));
        for append in batch {
            let appended = log.append(0, append.clone()).await.unwrap();
            acknowledged.extend(recorded(&append, appended.last.seq));
        }
    }

    assert!(followers.join_all().await.iter().all(|seen| *seen == acknowledged));
    janitor.await.unwrap();
    late.await.unwrap();

    let store: &Arc<dyn EventStore> = log.store();
    assert_eq!(store.reader().buckets(0).await.unwrap(), [BucketEnd { bucket: Bucket(BUCKETS), last: at(last - 1) }]);
    let period = store.reader().period("deliveries-1").await.unwrap().unwrap();
    let rest = store.reader().read_stream("deliveries-1", period.first_version, 99).await.unwrap();
    assert_eq!(rest, acknowledged[acknowledged.len() - 11..acknowledged.len() - 1]);
    assert_eq!(store.reader().read_stream("subscription-1", 1, 99).await.unwrap().len(), 12);
}

async fn a_drop_that_is_under_way_or_refused_raises_no_floor<D: Database>() {
    let database = D::fresh().await;
    let store = Faulty::open(database.store());
    let log = Log::start(Arc::clone(&store) as Arc<dyn EventStore>, Config::default()).await.unwrap();
    log.append(0, bucketed("deliveries-1", 1, 1, 1)).await.unwrap();
    store.holds_drops.send_replace(true);
    let dropping = tokio::spawn({
        let log = log.clone();
        async move { log.drop_bucket(Bucket(1), 9).await }
    });
    store.drops_begun.subscribe().wait_for(|begun| *begun == 1).await.unwrap();
    // Whoever acts on it would forget what stays.
    assert_eq!(log.floor(0), 0);
    store.holds_drops.send_replace(false);
    assert!(matches!(dropping.await.unwrap(), Err(DropError::StillLive { .. })));
    assert_eq!((log.floor(0), log.read_log(at(0), 9).await.unwrap().len()), (0, 1));
}

async fn a_stream_whose_events_are_gone_begins_again<D: Database>() {
    let database = D::fresh().await;
    let store = database.store();
    let one = |bucket| bucketed("messages-1", 1, bucket, 1);
    append_one(&*store, Append { ended: vec!["messages-1".to_owned()], ..one(1) }).await.unwrap();
    assert!(matches!(append_one(&*store, one(2)).await, Err(AppendError::Conflict { .. })));
    drop_bucket(&*store, 1, 9).await.unwrap();
    assert_eq!(append_one(&*store, one(2)).await, Ok(2));
    assert_eq!(store.reader().period("messages-1").await.unwrap().map(|period| period.bucket), Some(Bucket(2)));
}

on_every_store! {
    a_bucket_goes_whole_with_its_claims_and_contents,
    where_there_is_nothing_to_drop_nothing_happens,
    a_bucket_on_which_a_live_stream_rests_stays,
    a_bucket_that_a_reader_has_not_passed_stays,
    contents_may_go_before_their_events,
    an_owner_that_was_replaced_drops_and_forgets_nothing,
    a_hole_up_to_the_floor_is_lawful_and_one_above_it_is_damage,
    what_was_dropped_past_a_log_is_no_damage_to_its_readers,
    readers_see_no_damage_while_buckets_are_dropped_and_events_appended,
    a_drop_that_is_under_way_or_refused_raises_no_floor,
    a_stream_whose_events_are_gone_begins_again,
}
