//! How the log groups appends and answers for them, over every store.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use tidings::event_store::{Ack, Append, AppendError, Appended, Config, EventReader, EventStore, Log, MemoryStore};
use tokio::sync::mpsc;
use tokio::task::JoinSet;

use super::faulty::Faulty;
use super::{Database, append, at, on_every_store, recorded, whole_log};

type Answer = (u64, Result<Appended, AppendError>);

/// Acknowledgements as they come, each with the number of its append.
struct Acks {
    sender: mpsc::UnboundedSender<Answer>,
    receiver: mpsc::UnboundedReceiver<Answer>,
}

impl Acks {
    fn new() -> Self {
        let (sender, receiver) = mpsc::unbounded_channel();
        Self { sender, receiver }
    }

    fn of(&self, number: u64) -> Ack {
        let sender = self.sender.clone();
        Box::new(move |answer| sender.send((number, answer)).unwrap())
    }

    async fn next(&mut self, count: usize) -> Vec<Answer> {
        let mut answers = Vec::new();
        self.receiver.recv_many(&mut answers, count).await;
        while answers.len() < count {
            answers.push(self.receiver.recv().await.unwrap());
        }
        answers
    }
}

/// Waits until the lane has handed over so many batches.
async fn handed_over(store: &Faulty, batches: usize) {
    while store.batches.lock().unwrap().len() < batches {
        tokio::task::yield_now().await;
    }
}

async fn what_is_queued_during_a_commit_is_committed_together<D: Database>() {
    let database = D::fresh().await;
    let store = Faulty::held(database.store());
    let log = Log::start(store.clone(), Config::default()).await.unwrap();
    let mut acks = Acks::new();

    log.try_append(0, append("subscription-1", 1, 1), acks.of(1)).unwrap();
    handed_over(&store, 1).await;
    for version in 2..=100 {
        log.try_append(0, append("subscription-1", version, 1), acks.of(version)).unwrap();
    }
    store.commits.add_permits(2);

    let acknowledged = acks.next(100).await;
    let expected: Vec<Answer> = (1..=100).map(|seq| (seq, Ok(Appended { last: at(seq) }))).collect();
    assert_eq!(acknowledged, expected);
    assert_eq!(*store.batches.lock().unwrap(), [1, 99]);
}

async fn a_commit_ends_with_the_append_that_reaches_a_bound<D: Database>() {
    for (config, sizes) in [
        (Config { batch_events: 4, ..Config::default() }, vec![1, 2, 2, 1]),
        (Config { batch_bytes: 1, ..Config::default() }, vec![1, 1, 1, 1, 1, 1]),
    ] {
        let database = D::fresh().await;
        let store = Faulty::held(database.store());
        let log = Log::start(store.clone(), config).await.unwrap();
        let mut acks = Acks::new();
        log.try_append(0, append("subscription-0", 1, 2), acks.of(0)).unwrap();
        handed_over(&store, 1).await;
        for number in 1..=5 {
            log.try_append(0, append(&format!("subscription-{number}"), 1, 2), acks.of(number)).unwrap();
        }
        store.commits.add_permits(6);
        acks.next(6).await;
        assert_eq!(*store.batches.lock().unwrap(), sizes);
    }
}

async fn past_its_bound_the_queue_refuses_at_once_and_says_so<D: Database>() {
    let database = D::fresh().await;
    let store = Faulty::held(database.store());
    // One shard of several may fill half of the queue.
    let queue_appends = if store.shards() == 1 { 2 } else { 4 };
    let log = Log::start(store.clone(), Config { queue_appends, ..Config::default() }).await.unwrap();
    let mut acks = Acks::new();
    log.try_append(0, append("subscription-1", 1, 1), acks.of(1)).unwrap();
    handed_over(&store, 1).await;
    log.try_append(0, append("subscription-1", 2, 1), acks.of(2)).unwrap();
    log.try_append(0, append("subscription-1", 3, 1), acks.of(3)).unwrap();

    let refused = log.try_append(0, append("subscription-1", 4, 1), acks.of(4));

    assert_eq!(refused, Err(AppendError::Overloaded));
    assert_eq!(acks.next(1).await, [(4, Err(AppendError::Overloaded))]);
    let waiting = tokio::spawn({
        let log = log.clone();
        async move { log.append(0, append("subscription-1", 4, 1)).await }
    });
    store.commits.add_permits(9);
    assert_eq!(waiting.await.unwrap(), Ok(Appended { last: at(4) }));
    assert!(acks.next(3).await.iter().all(|(_, answer)| answer.is_ok()));
}

#[tokio::test]
async fn the_bound_of_the_queue_holds_for_all_shards_together() {
    let store = Faulty::held(Arc::new(MemoryStore::new(3)));
    let log = Log::start(store.clone(), Config { queue_appends: 4, ..Config::default() }).await.unwrap();
    let mut acks = Acks::new();
    for shard in 0..3 {
        log.try_append(shard, append(&format!("subscription-{shard}"), 1, 1), acks.of(1)).unwrap();
    }
    handed_over(&store, 3).await;
    for shard in [0, 1] {
        for version in [2, 3] {
            let append = append(&format!("subscription-{shard}"), version, 1);
            log.try_append(shard, append, acks.of(version)).unwrap();
        }
    }

    let refused = log.try_append(2, append("subscription-2", 2, 1), acks.of(4));

    assert_eq!(refused, Err(AppendError::Overloaded));
    store.commits.add_permits(9);
    assert_eq!(acks.next(8).await.iter().filter(|(_, answer)| answer.is_ok()).count(), 7);
    assert!(log.append(2, append("subscription-2", 2, 1)).await.is_ok());
}

#[tokio::test]
async fn who_may_wait_gets_a_place_when_there_is_room_and_none_once_the_log_is_closed() {
    let store = Faulty::held(Arc::new(MemoryStore::new(1)));
    let log = Log::start(store.clone(), Config { queue_appends: 2, ..Config::default() }).await.unwrap();
    let mut acks = Acks::new();
    log.try_append(0, append("subscription-1", 1, 1), acks.of(1)).unwrap();
    handed_over(&store, 1).await;
    for version in [1, 2] {
        log.try_place(0).unwrap().unwrap().put(append("subscription-2", version, 1), acks.of(1 + version));
    }

    assert!(log.try_place(0).unwrap().is_none());
    let waiting = tokio::spawn({
        let log = log.clone();
        async move { log.place(0).await }
    });
    store.commits.add_permits(9);
    waiting.await.unwrap().unwrap().put(append("subscription-2", 3, 1), acks.of(4));

    let answers = acks.next(4).await;
    assert_eq!(answers, (1..=4).map(|number| (number, Ok(Appended { last: at(number) }))).collect::<Vec<_>>());
    log.close().await;
    assert!(matches!(log.try_place(0), Err(AppendError::Unavailable(_))));
    assert!(matches!(log.place(0).await, Err(AppendError::Unavailable(_))));
}

#[tokio::test]
async fn a_crowd_with_places_keeps_nobody_else_waiting_nor_the_other_way_round() {
    // Also where each append is a batch by itself.
    let ones = [0, 1, 11, 2, 12, 3, 13, 4, 14, 5, 6, 7, 8];
    let twos = [0, 11, 1, 12, 2, 13, 3, 14, 4, 5, 6, 7, 8];
    for (batch_events, expected) in [(1, ones), (2, twos)] {
        let store = Faulty::held(Arc::new(MemoryStore::new(1)));
        let config = Config { queue_appends: 8, batch_events, ..Config::default() };
        let log = Log::start(store.clone(), config).await.unwrap();
        let mut acks = Acks::new();
        log.try_append(0, append("subscription-1", 1, 1), acks.of(0)).unwrap();
        handed_over(&store, 1).await;
        for number in 1..=8 {
            let stream = format!("deliveries-{number}");
            log.try_place(0).unwrap().unwrap().put(append(&stream, 1, 1), acks.of(number));
        }
        for number in 11..=14 {
            log.try_append(0, append(&format!("messages-{number}"), 1, 1), acks.of(number)).unwrap();
        }

        store.commits.add_permits(13);

        let order: Vec<_> = acks.next(13).await.into_iter().map(|(number, _)| number).collect();
        assert_eq!(order, expected);
    }
}

async fn a_refused_append_does_not_touch_those_beside_it<D: Database>() {
    let database = D::fresh().await;
    let store = Faulty::held(database.store());
    let log = Log::start(store.clone(), Config::default()).await.unwrap();
    let mut acks = Acks::new();
    let appends = [("subscription-1", 1), ("subscription-1", 1), ("subscription-2", 5), ("subscription-2", 1)];
    for (number, (stream, version)) in (1..).zip(appends) {
        log.try_append(0, append(stream, version, 1), acks.of(number)).unwrap();
    }
    store.commits.add_permits(9);

    let answers = acks.next(4).await;

    assert_eq!(answers.iter().map(|(number, _)| *number).collect::<Vec<_>>(), [1, 2, 3, 4]);
    assert_eq!(answers.iter().map(|(_, answer)| answer.is_ok()).collect::<Vec<_>>(), [true, false, false, true]);
    assert_eq!(log.head(0), 2);
    assert_eq!(log.read_log(at(0), 9).await.unwrap().len(), 2);
}

async fn of_many_writers_at_one_version_exactly_one_wins<D: Database>() {
    let database = D::fresh().await;
    let log = Log::start(database.store(), Config::default()).await.unwrap();
    let mut writers = JoinSet::new();
    for _ in 0..20 {
        let log = log.clone();
        writers.spawn(async move { log.append(0, append("subscription-1", 1, 1)).await });
    }
    let answers = writers.join_all().await;
    assert_eq!(answers.iter().filter(|answer| answer.is_ok()).count(), 1);
    assert_eq!(whole_log(&**log.store()).await.len(), 1);
}

async fn after_an_unknown_outcome_the_same_append_settles_it<D: Database>() {
    let database = D::fresh().await;
    let store = Faulty::open(database.store());
    let log = Log::start(store.clone(), Config::default()).await.unwrap();
    let first = append("subscription-1", 1, 2);
    let second = append("subscription-1", 3, 1);
    log.append(0, append("subscription-0", 1, 1)).await.unwrap();

    store.lose_next_answer.store(true, Ordering::Relaxed);
    assert!(matches!(log.append(0, first.clone()).await, Err(AppendError::Unavailable(_))));
    assert_eq!(log.append(0, first.clone()).await, Ok(Appended { last: at(3) }));
    store.fail_next.store(true, Ordering::Relaxed);
    assert!(matches!(log.append(0, second.clone()).await, Err(AppendError::Unavailable(_))));
    assert_eq!(log.append(0, second.clone()).await, Ok(Appended { last: at(4) }));

    let read = log.read_log(at(1), 9).await.unwrap();
    let expected = [recorded(&first, 2), recorded(&second, 4)].concat();
    assert_eq!(read.iter().map(|event| (**event).clone()).collect::<Vec<_>>(), expected);
}

async fn a_writer_that_panics_when_told_harms_nobody<D: Database>() {
    let database = D::fresh().await;
    let log = Log::start(database.store(), Config::default()).await.unwrap();
    log.try_append(0, append("subscription-1", 1, 1), Box::new(|_| panic!("a writer that panics on purpose"))).unwrap();
    assert_eq!(log.append(0, append("subscription-1", 2, 1)).await, Ok(Appended { last: at(2) }));
}

async fn closing_writes_what_is_queued_and_accepts_no_more<D: Database>() {
    let database = D::fresh().await;
    let store = Faulty::held(database.store());
    let log = Log::start(store.clone(), Config { batch_events: 2, ..Config::default() }).await.unwrap();
    let mut acks = Acks::new();
    for version in 1..=9 {
        log.try_append(0, append("subscription-1", version, 1), acks.of(version)).unwrap();
    }
    store.commits.add_permits(99);

    tokio::join!(log.close(), log.close());

    assert!(acks.next(9).await.iter().all(|(_, answer)| answer.is_ok()));
    let closed = AppendError::Unavailable("the log is closed".to_owned());
    assert_eq!(log.try_append(0, append("subscription-1", 10, 1), acks.of(10)), Err(closed.clone()));
    assert_eq!(acks.next(1).await, [(10, Err(closed.clone()))]);
    assert_eq!(log.append(0, append("subscription-1", 10, 1)).await, Err(closed));
    assert_eq!(log.read_log(at(0), 99).await.unwrap().len(), 9);
}

async fn the_lanes_end_when_the_last_handle_is_gone<D: Database>() {
    let database = D::fresh().await;
    let store: Arc<dyn EventStore> = Faulty::open(database.store());
    let log = Log::start(store.clone(), Config::default()).await.unwrap();
    log.append(0, Append::default()).await.unwrap();
    drop(log);
    while Arc::strong_count(&store) > 1 {
        tokio::task::yield_now().await;
    }
}

async fn a_shard_that_does_not_exist_is_refused<D: Database>() {
    let database = D::fresh().await;
    let log = Log::start(database.store(), Config::default()).await.unwrap();
    let mut acks = Acks::new();
    let shard = log.shards();
    let refused = AppendError::Unavailable(format!("there is no shard {shard}"));
    assert_eq!(log.try_append(shard, append("a-1", 1, 1), acks.of(1)), Err(refused.clone()));
    assert_eq!(acks.next(1).await, [(1, Err(refused.clone()))]);
    assert_eq!(log.append(shard, append("a-1", 1, 1)).await, Err(refused));
}

on_every_store! {
    what_is_queued_during_a_commit_is_committed_together,
    a_commit_ends_with_the_append_that_reaches_a_bound,
    past_its_bound_the_queue_refuses_at_once_and_says_so,
    a_refused_append_does_not_touch_those_beside_it,
    of_many_writers_at_one_version_exactly_one_wins,
    after_an_unknown_outcome_the_same_append_settles_it,
    a_writer_that_panics_when_told_harms_nobody,
    closing_writes_what_is_queued_and_accepts_no_more,
    the_lanes_end_when_the_last_handle_is_gone,
    a_shard_that_does_not_exist_is_refused,
}
