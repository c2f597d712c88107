//! How readers follow the log, over every store.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use bytes::Bytes;
use tidings::event_store::{
    Append, AppendError, Bucket, Config, EventStore, Log, MemoryStore, Position, ReadError, Recorded,
};
use tokio::task::JoinSet;
use tokio::time::Instant;

use super::faulty::Faulty;
use super::{Database, append, at, bucketed, ended, on_every_store, recorded, with_content};
use crate::support::watched_store::{Tear, WatchedStore};

/// Reads on, woken by the head, until so many events are seen.
async fn follow(log: Log, limit: usize, until: usize) -> Vec<Recorded> {
    let mut head = log.watch(0);
    let mut seen: Vec<Recorded> = Vec::new();
    while seen.len() < until {
        head.wait_for(|head| *head > seen.len() as u64).await.unwrap();
        let events = log.read_log(at(seen.len() as u64), limit).await.unwrap();
        assert!(!events.is_empty(), "the head was told before its events could be read");
        seen.extend(events.iter().map(|event| (**event).clone()));
    }
    seen
}

async fn every_follower_sees_every_acknowledged_event_once_and_in_order<D: Database>() {
    // A tail shorter than a batch, so that readers go back and forth between memory and database.
    for config in [
        Config { tail_events: 3, batch_events: 8, ..Config::default() },
        Config { tail_bytes: 0, ..Config::default() },
        Config::default(),
    ] {
        let database = D::fresh().await;
        let log = Log::start(database.store(), config).await.unwrap();
        let followers: JoinSet<_> =
            [1, 3, 10, 1_000].map(|limit| follow(log.clone(), limit, 400)).into_iter().collect();
        let mut writers = JoinSet::new();
        for writer in 0..8 {
            let log = log.clone();
            writers.spawn(async move {
                let mut acknowledged = Vec::new();
                for version in (1..=50).step_by(2) {
                    let append = append(&format!("subscription-{writer}"), version, 2);
                    let appended = log.append(0, append.clone()).await.unwrap();
                    assert!(log.head(0) >= appended.last.seq, "acknowledged before the head was told");
                    acknowledged.extend(recorded(&append, appended.last.seq - 1));
                    // Refused and repeated appends must not disturb anybody.
                    assert!(matches!(
                        log.append(0, super::append("subscription-0", 99, 1)).await,
                        Err(AppendError::Conflict { .. })
                    ));
                    assert_eq!(log.append(0, append).await, Ok(appended));
                }
                acknowledged
            });
        }

        let mut acknowledged = writers.join_all().await.concat();

        acknowledged.sort_by_key(|event| event.position);
        assert_eq!(acknowledged.len(), 400);
        assert!(followers.join_all().await.iter().all(|seen| *seen == acknowledged));
    }
}

async fn followers_skip_nothing_through_failures_and_unknown_outcomes<D: Database>() {
    let database = D::fresh().await;
    let store = Faulty::open(database.store());
    let log = Log::start(store.clone(), Config::default()).await.unwrap();
    let follower = tokio::spawn(follow(log.clone(), 4, 61));
    for version in 1..=60 {
        match version % 4 {
            0 => store.fail_next.store(true, Ordering::Relaxed),
            1 => store.lose_next_answer.store(true, Ordering::Relaxed),
            _ => {}
        }
        store.head_unknown.store(version % 3 == 0, Ordering::Relaxed);
        let append = append("subscription-1", version, 1);
        while let Err(error) = log.append(0, append.clone()).await {
            assert!(matches!(error, AppendError::Unavailable(_)), "{error}");
        }
    }
    store.head_unknown.store(false, Ordering::Relaxed);
    log.append(0, append("subscription-1", 61, 1)).await.unwrap();
    let seen = follower.await.unwrap();
    assert!(seen.iter().zip(1..).all(|(event, seq)| event.position.seq == seq && event.version == seq));
}

async fn new_events_and_their_contents_are_read_from_memory<D: Database>() {
    let database = D::fresh().await;
    let store = Faulty::open(database.store());
    let log = Log::start(store.clone(), Config { tail_events: 2, ..Config::default() }).await.unwrap();
    let message = with_content(b"body");
    log.append(0, message.clone()).await.unwrap();
    log.append(0, append("subscription-1", 1, 1)).await.unwrap();

    let read = log.read_log(at(0), 9).await.unwrap();
    assert_eq!((read.len(), &*read[0]), (2, &recorded(&message, 1)[0]));
    assert_eq!(log.content(at(1)).await, Ok(Some(Bytes::from_static(b"body"))));
    assert_eq!(log.content(at(2)).await, Ok(None));
    assert_eq!(store.reads(), 0);

    log.append(0, append("subscription-1", 2, 1)).await.unwrap();
    assert_eq!(log.content(at(1)).await, Ok(Some(Bytes::from_static(b"body"))));
    assert_eq!(log.read_log(at(0), 9).await.unwrap().len(), 3);
    assert_eq!(store.reads(), 2);
}

async fn who_asks_in_order_is_given_pages<D: Database>() {
    let database = D::fresh().await;
    let store = Faulty::open(database.store());
    let log = Log::start(store.clone(), Config { tail_events: 0, ..Config::default() }).await.unwrap();
    for stream in 1..=200 {
        let mut message = append(&format!("messages-{stream}"), 1, 1);
        message.writes[0].events[0].content = Some(format!("body {stream}").into());
        log.append(0, message).await.unwrap();
    }
    log.append(0, append("subscription-1", 1, 1)).await.unwrap();
    let content = async |seq| log.event(at(seq)).await.unwrap().and_then(|(_, content)| content);

    for seq in 1..=200 {
        assert_eq!(content(seq).await.unwrap(), format!("body {seq}"));
    }
    let (event, none) = log.event(at(201)).await.unwrap().unwrap();
    assert_eq!((event.stream.as_str(), none), ("subscription-1", None));
    assert!(store.reads() <= 8, "{} readings of the database for 200 events", store.reads());

    let before = store.reads();
    assert_eq!(content(7).await.unwrap(), "body 7");
    assert_eq!(store.reads(), before);
    for nowhere in [0, 202, 1 << 60] {
        assert!(log.event(at(nowhere)).await.unwrap().is_none());
    }
}

#[tokio::test]
async fn a_damaged_event_hides_none_of_its_neighbours_from_who_asks_in_order() {
    let store = Arc::new(WatchedStore::over(MemoryStore::new(1)));
    let log = Log::start(store.clone(), Config { tail_events: 0, ..Config::default() }).await.unwrap();
    for stream in 1..=20 {
        let mut message = append(&format!("messages-{stream}"), 1, 1);
        message.writes[0].events[0].content = Some(format!("body {stream}").into());
        log.append(0, message).await.unwrap();
    }
    store.tear(at(15), Tear::Row);

    for seq in (1..=20).filter(|seq| *seq != 15) {
        let (event, content) = log.event(at(seq)).await.unwrap().unwrap();
        assert_eq!((event.position, content), (at(seq), Some(format!("body {seq}").into())));
    }
    let damaged = log.event(at(15)).await.unwrap_err();
    assert!(matches!(damaged, ReadError::Damaged { position, .. } if position == at(15)), "{damaged}");
}

async fn what_was_dropped_is_not_read_ahead<D: Database>() {
    let database = D::fresh().await;
    let log = Log::start(database.store(), Config { tail_events: 0, ..Config::default() }).await.unwrap();
    for version in 1..=4 {
        let mut written = bucketed("messages-1", version, version as u32, 1);
        written.writes[0].events[0].content = Some(Bytes::from_static(b"body"));
        log.append(0, written).await.unwrap();
    }
    let contents = async || {
        let mut found = Vec::new();
        for seq in 1..=4 {
            found.push(log.event(at(seq)).await.unwrap().map(|(_, content)| content.is_some()));
        }
        found
    };
    assert_eq!(contents().await, [Some(true); 4]);

    while log.drop_contents(Bucket(2), 9).await.unwrap().more {}
    assert_eq!(contents().await, [Some(false), Some(false), Some(true), Some(true)]);
    log.append(0, ended("messages-1")).await.unwrap();
    while log.drop_bucket(Bucket(3), 9).await.unwrap().more {}
    assert_eq!(contents().await[2..], [None, Some(true)]);
}

#[tokio::test(start_paused = true)]
async fn who_is_waited_for_takes_the_patient_along() {
    let store = Arc::new(MemoryStore::new(1));
    let log = Log::start(store, Config { linger_ms: 1_000, ..Config::default() }).await.unwrap();
    let patient = |stream| Append { patient: true, ..append(stream, 1, 1) };
    let began = Instant::now();

    let (first, second, waited_for) = tokio::join!(
        log.append(0, patient("subscription-1")),
        log.append(0, patient("subscription-2")),
        log.append(0, append("subscription-3", 1, 1)),
    );
    assert!(first.is_ok() && second.is_ok() && waited_for.is_ok());
    assert_eq!(began.elapsed().as_millis(), 0);

    log.append(0, patient("subscription-4")).await.unwrap();
    assert_eq!(began.elapsed().as_millis(), 1_000, "alone it waits as long as it may");

    let (closed, last) = tokio::join!(log.close(), log.append(0, patient("subscription-5")));
    assert!(last.is_ok() || matches!(last, Err(AppendError::Unavailable(_))));
    let () = closed;
    assert_eq!(began.elapsed().as_millis(), 1_000, "a log that closes waits for nothing");
}

#[tokio::test(start_paused = true)]
async fn who_is_waited_for_leaves_a_patient_crowd_behind_but_nothing_of_its_own() {
    let store = Arc::new(MemoryStore::new(1));
    let log = Log::start(store, Config { linger_ms: 1_000, ..Config::default() }).await.unwrap();
    let began = Instant::now();
    let done = |stream: &'static str, version, patient| {
        let append = log.append(0, Append { patient, ..append(stream, version, 1) });
        async move { (append.await.unwrap().last.seq, began.elapsed().as_millis()) }
    };

    let [crowd @ .., waited_for] = <[_; 6]>::from(tokio::join!(
        done("deliveries-1", 1, true),
        done("deliveries-2", 1, true),
        done("deliveries-3", 1, true),
        done("deliveries-4", 1, true),
        done("deliveries-5", 1, true),
        done("deliveries-6", 1, false),
    ));
    assert_eq!(waited_for, (1, 0));
    assert_eq!(crowd, [2, 3, 4, 5, 6].map(|seq| (seq, 1_000)), "none is left behind for longer than it may wait");

    let [crowd @ .., waited_for] = <[_; 6]>::from(tokio::join!(
        done("deliveries-1", 2, true),
        done("deliveries-2", 2, true),
        done("deliveries-3", 2, true),
        done("deliveries-4", 2, true),
        done("deliveries-5", 2, true),
        done("subscription-5", 1, false),
    ));
    assert_eq!(crowd, [7, 8, 9, 10, 11].map(|seq| (seq, 1_000)));
    assert_eq!(waited_for, (12, 1_000), "a writer's own appends stay in their order");
}

#[tokio::test]
async fn a_busy_shard_uses_the_memory_that_the_others_leave() {
    let store = Faulty::open(Arc::new(MemoryStore::new(4)));
    let log = Log::start(store.clone(), Config { tail_events: 16, ..Config::default() }).await.unwrap();
    let seqs = async |shard, after| {
        let events = log.read_log(Position { shard, seq: after }, 99).await.unwrap();
        events.iter().map(|event| event.position.seq).collect::<Vec<_>>()
    };
    // Each takes all the memory, and the next one takes it back.
    for shard in [0, 1, 2, 3, 1] {
        for _ in 0..16 {
            let stream = format!("subscription-{shard}");
            let version = log.head(shard) + 1;
            log.append(shard, append(&stream, version, 1)).await.unwrap();
        }
        let before = store.reads();
        let newest = log.head(shard) - 16;
        assert_eq!(seqs(shard, newest).await.len(), 16);
        assert_eq!(store.reads(), before, "shard {shard} is not in memory");
    }
    for shard in [0, 2, 3] {
        assert_eq!(seqs(shard, 0).await, (1..=16).collect::<Vec<u64>>());
    }
    assert_eq!(store.reads(), 3);
}

async fn an_append_repeated_in_another_order_disturbs_no_follower<D: Database>() {
    let database = D::fresh().await;
    let log = Log::start(database.store(), Config::default()).await.unwrap();
    let first = append("subscription-1", 1, 1);
    let second = append("deliveries-1", 1, 2);
    log.append(0, first.clone()).await.unwrap();
    log.append(0, second.clone()).await.unwrap();
    let turned = Append { writes: [second.writes.clone(), first.writes.clone()].concat(), ..Append::default() };

    assert_eq!(log.append(0, turned).await.unwrap().last, at(1));

    let read = log.read_log(at(0), 9).await.unwrap();
    let expected = [recorded(&first, 1), recorded(&second, 2)].concat();
    assert_eq!(read.iter().map(|event| (**event).clone()).collect::<Vec<_>>(), expected);
    assert_eq!(log.read_log(at(u64::MAX), 9).await.unwrap(), []);
}

async fn an_append_whose_answer_was_lost_still_wakes_its_followers<D: Database>() {
    let database = D::fresh().await;
    let store = Faulty::open(database.store());
    let log = Log::start(store.clone(), Config::default()).await.unwrap();
    let mut head = log.watch(0);
    let lost = append("subscription-1", 1, 2);

    store.lose_next_answer.store(true, Ordering::Relaxed);
    assert!(matches!(log.append(0, lost.clone()).await, Err(AppendError::Unavailable(_))));

    assert_eq!(*head.wait_for(|head| *head > 0).await.unwrap(), 2);
    assert_eq!(*log.read_log(at(1), 9).await.unwrap()[0], recorded(&lost, 1)[1]);
}

async fn after_lost_answers_memory_does_not_guess_at_numbers<D: Database>() {
    let database = D::fresh().await;
    let store = Faulty::open(database.store());
    let log = Log::start(store.clone(), Config::default()).await.unwrap();
    let lost = ["a", "b"].map(|id| {
        let writes =
            ["subscription", "deliveries", "messages"].map(|category| append(&format!("{category}-{id}"), 1, 1).writes);
        Append { writes: writes.concat(), ..Append::default() }
    });
    store.head_unknown.store(true, Ordering::Relaxed);
    for append in &lost {
        store.lose_next_answer.store(true, Ordering::Relaxed);
        assert!(matches!(log.append(0, append.clone()).await, Err(AppendError::Unavailable(_))));
    }

    for (mut turned, last) in lost.clone().into_iter().zip([3, 6]) {
        turned.writes.swap(0, 1);
        assert_eq!(log.append(0, turned).await.unwrap().last, at(last));
        assert_eq!(log.head(0), last);
    }

    for (after, append) in [0, 3].into_iter().zip(&lost) {
        let read = log.read_log(at(after), 3).await.unwrap();
        assert_eq!(read.iter().map(|event| (**event).clone()).collect::<Vec<_>>(), recorded(append, after + 1));
    }
}

async fn a_hole_in_the_log_is_an_error_that_names_it<D: Database>() {
    let database = D::fresh().await;
    let store = Faulty::open(database.store());
    database.store().append(0, vec![append("subscription-1", 1, 3)]).await;
    let log = Log::start(store.clone(), Config::default()).await.unwrap();
    store.hidden.store(2, Ordering::Relaxed);

    let damaged = ReadError::Damaged { position: at(2), stream: None, reason: "it is missing before 0-3".to_owned() };

    assert_eq!(log.read_log(at(0), 9).await, Err(damaged.clone()));
    assert_eq!(log.read_log(at(1), 9).await, Err(damaged));
    assert_eq!(log.read_log(at(2), 9).await.unwrap().len(), 1);
}

async fn a_log_goes_on_where_the_last_owner_stopped<D: Database>() {
    let database = D::fresh().await;
    let old = Log::start(database.store(), Config::default()).await.unwrap();
    old.append(0, append("subscription-1", 1, 2)).await.unwrap();

    let new = Log::start(database.reopened().await, Config::default()).await.unwrap();

    assert_eq!(new.head(0), 2);
    assert!(matches!(old.append(0, append("subscription-1", 3, 1)).await, Err(AppendError::Fenced { .. })));
    assert_eq!(new.append(0, append("subscription-1", 3, 1)).await.unwrap().last, at(3));
    let versions: Vec<u64> = new.read_log(at(0), 9).await.unwrap().iter().map(|event| event.version).collect();
    assert_eq!(versions, [1, 2, 3]);
}

async fn the_log_passes_on_what_only_the_store_knows<D: Database>() {
    let database = D::fresh().await;
    let store: Arc<dyn EventStore> = database.store();
    let log = Log::start(store.clone(), Config::default()).await.unwrap();
    log.append(0, append("subscription-1", 1, 2)).await.unwrap();
    log.save_checkpoint("matcher", at(2)).await.unwrap();
    assert_eq!(log.read_stream("subscription-1", 1, 9).await, store.reader().read_stream("subscription-1", 1, 9).await);
    assert_eq!(log.read_category("subscription", at(9), None, 9).await.unwrap().len(), 2);
    assert_eq!(log.checkpoint("matcher", 0).await, Ok(Some(2)));
    assert_eq!(log.claims(0, &["a".to_owned()]).await.unwrap().len(), 0);
    assert_eq!(log.wakeups(0, None, 9).await, Ok(vec![]));
}

on_every_store! {
    every_follower_sees_every_acknowledged_event_once_and_in_order,
    followers_skip_nothing_through_failures_and_unknown_outcomes,
    new_events_and_their_contents_are_read_from_memory,
    who_asks_in_order_is_given_pages,
    what_was_dropped_is_not_read_ahead,
    an_append_repeated_in_another_order_disturbs_no_follower,
    an_append_whose_answer_was_lost_still_wakes_its_followers,
    after_lost_answers_memory_does_not_guess_at_numbers,
    a_hole_in_the_log_is_an_error_that_names_it,
    a_log_goes_on_where_the_last_owner_stopped,
    the_log_passes_on_what_only_the_store_knows,
}
