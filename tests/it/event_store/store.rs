//! The contract of a store, for one owner.

use std::collections::HashMap;
use std::sync::Arc;

use bytes::Bytes;
use tidings::event_store::{Append, AppendError, Claim, NewEvent, Position, ReadError, Wakeup};
use tokio::task::JoinSet;

use super::{
    Database, append, append_one, at, event, events, ms, on_every_store, recorded, whole_log, with_content, write,
};

async fn events_come_back_as_they_were_appended<D: Database>() {
    let database = D::fresh().await;
    let store = database.store();
    let first = NewEvent { meta: Some(r#"{"actor":"key_1"}"#.to_owned()), schema: u16::MAX, ..event() };
    let append = Append {
        writes: vec![write("subscription-ü", 1, vec![first, event()]), write("deliveries-1", 1, vec![event()])],
        ..Append::default()
    };

    assert_eq!(append_one(&*store, append.clone()).await, Ok(3));

    let log = recorded(&append, 1);
    assert_eq!(whole_log(&*store).await, log);
    assert_eq!(store.reader().head(0).await, Ok(3));
    assert_eq!(store.reader().read_stream("subscription-ü", 1, 10).await.unwrap(), log[..2]);
    assert_eq!(store.reader().read_stream("subscription-ü", 2, 10).await.unwrap(), log[1..2]);
    assert_eq!(store.reader().read_stream("subscription-ü", 0, 1).await.unwrap(), log[..1]);
    assert_eq!(store.reader().read_stream("subscription-ü", 3, 10).await.unwrap(), []);
    assert_eq!(store.reader().read_stream("subscription", 1, 10).await.unwrap(), []);
    assert_eq!(store.reader().read_log(at(1), 1).await.unwrap(), log[1..2]);
    assert_eq!(store.reader().read_log(at(3), 1).await.unwrap(), []);
}

async fn of_many_writers_at_one_version_exactly_one_wins<D: Database>() {
    let database = D::fresh().await;
    let mut writers = JoinSet::new();
    for _ in 0..20 {
        let store = database.store();
        writers.spawn(async move { append_one(&*store, append("subscription-1", 1, 2)).await });
    }

    let answers = writers.join_all().await;

    let conflict = AppendError::Conflict { stream: "subscription-1".to_owned(), expected: 1 };
    assert_eq!(answers.iter().filter(|answer| **answer == Ok(2)).count(), 1);
    assert_eq!(answers.iter().filter(|answer| **answer == Err(conflict.clone())).count(), 19);
    assert_eq!(whole_log(&*database.store()).await.len(), 2);
}

async fn in_one_batch_too_the_first_at_a_version_wins_and_the_rest_is_written<D: Database>() {
    let database = D::fresh().await;
    let store = database.store();
    let [won, lost, next, other] = [
        append("subscription-1", 1, 1),
        append("subscription-1", 1, 1),
        append("subscription-1", 2, 2),
        append("subscription-2", 1, 1),
    ];

    let answers = store.append(0, vec![won.clone(), lost, next.clone(), won.clone(), other.clone()]).await;

    let seqs: Vec<Option<u64>> = answers.iter().map(|answer| answer.as_ref().ok().map(|done| done.last.seq)).collect();
    assert_eq!(seqs, [Some(1), None, Some(3), Some(1), Some(4)]);
    assert_eq!(whole_log(&*store).await, [recorded(&won, 1), recorded(&next, 2), recorded(&other, 4)].concat());
}

async fn a_repeated_append_succeeds_at_the_old_position_and_writes_nothing<D: Database>() {
    let database = D::fresh().await;
    let store = database.store();
    let mut repeated = append("subscription-1", 1, 2);
    repeated.writes.push(write("deliveries-1", 1, events(1)));
    repeated.claims.push(Claim { key: "idempotency/1".to_owned(), value: "evt_1".to_owned(), bucket: None });
    repeated.wakeups.push(("deliveries-1".to_owned(), Some(ms(5))));
    append_one(&*store, repeated.clone()).await.unwrap();
    let later = Append { wakeups: vec![("deliveries-1".to_owned(), Some(ms(9)))], ..append("subscription-1", 3, 1) };
    append_one(&*store, later).await.unwrap();

    assert_eq!(append_one(&*store, repeated.clone()).await, Ok(3));
    assert_eq!(append_one(&*database.reopened().await, repeated).await, Ok(3));

    assert_eq!(store.reader().head(0).await, Ok(4));
    assert_eq!(
        store.reader().wakeups(0, None, 9).await.unwrap(),
        [Wakeup { key: "deliveries-1".to_owned(), due_at: ms(9) }]
    );
}

async fn other_events_at_a_taken_version_are_a_conflict<D: Database>() {
    let database = D::fresh().await;
    let store = database.store();
    let first = append("subscription-1", 1, 3);
    append_one(&*store, first.clone()).await.unwrap();
    let conflict = |expected| Err(AppendError::Conflict { stream: "subscription-1".to_owned(), expected });

    let mut longer = first.clone();
    longer.writes[0].events.push(event());
    let mut changed = first.clone();
    changed.writes[0].events[2] = event();
    let mut beside = first.clone();
    beside.writes.push(write("deliveries-1", 1, events(1)));
    let mut shifted = first.clone();
    shifted.writes[0].first_version = 2;

    assert_eq!(append_one(&*store, append("subscription-1", 2, 1)).await, conflict(2));
    assert_eq!(append_one(&*store, longer).await, conflict(1));
    assert_eq!(append_one(&*store, changed).await, conflict(1));
    assert_eq!(append_one(&*store, beside).await, conflict(1));
    assert_eq!(append_one(&*store, shifted).await, conflict(2));
    assert_eq!(whole_log(&*store).await, recorded(&first, 1));
}

async fn a_version_that_would_leave_a_gap_is_a_conflict<D: Database>() {
    let database = D::fresh().await;
    let store = database.store();
    append_one(&*store, append("subscription-1", 1, 3)).await.unwrap();

    for (stream, expected) in
        [("subscription-1", 7), ("subscription-1", 5), ("subscription-1", 0), ("subscription-2", 2)]
    {
        let conflict = AppendError::Conflict { stream: stream.to_owned(), expected };
        assert_eq!(append_one(&*store, append(stream, expected, 1)).await, Err(conflict));
    }
    assert_eq!(store.reader().head(0).await, Ok(3));
}

async fn a_stream_named_twice_in_one_append_is_a_conflict<D: Database>() {
    let database = D::fresh().await;
    let store = database.store();
    for second in [1, 2] {
        let mut twice = append("subscription-1", 1, 1);
        twice.writes.push(write("subscription-1", second, events(1)));
        let conflict = AppendError::Conflict { stream: "subscription-1".to_owned(), expected: second };
        assert_eq!(append_one(&*store, twice).await, Err(conflict));
    }
    assert_eq!(store.reader().head(0).await, Ok(0));
}

async fn what_is_refused_leaves_no_hole<D: Database>() {
    let database = D::fresh().await;
    let store = database.store();
    let batch: Vec<Append> =
        (0..300).map(|n| append("subscription-1", if n % 3 == 0 { n / 3 + 1 } else { 1_000 }, 1)).collect();

    let answers = store.append(0, batch).await;

    assert_eq!(answers.iter().filter(|answer| answer.is_ok()).count(), 100);
    let log = whole_log(&*store).await;
    assert!(log.iter().zip(1..).all(|(event, seq)| event.position.seq == seq && event.version == seq));
    assert_eq!(log.len(), 100);
}

async fn a_batch_of_any_size_is_written_whole<D: Database>() {
    let database = D::fresh().await;
    let store = database.store();
    let mut written = Vec::new();
    for (stream, size) in [1, 3, 5, 63, 64, 65, 341, 1_100].into_iter().enumerate() {
        let batch: Vec<Append> =
            (1..=size).map(|version| append(&format!("subscription-{stream}"), version, 1)).collect();
        assert!(store.append(0, batch.clone()).await.iter().all(Result::is_ok));
        for append in batch {
            written.extend(recorded(&append, written.len() as u64 + 1));
        }
    }
    assert!(whole_log(&*store).await == written);
    assert_eq!(store.append(0, Vec::new()).await, []);
}

async fn a_claim_is_taken_once_and_tells_who_has_it<D: Database>() {
    let database = D::fresh().await;
    let store = database.store();
    let claim = |key: &str, value: &str| Claim { key: key.to_owned(), value: value.to_owned(), bucket: None };
    let claiming = |stream: &str, claims: Vec<Claim>| Append { claims, ..append(stream, 1, 1) };
    let taken = |key: &str| Err(AppendError::ClaimTaken { key: key.to_owned() });

    assert_eq!(append_one(&*store, claiming("messages-1", vec![claim("a", "1"), claim("b", "1")])).await, Ok(1));
    assert_eq!(append_one(&*store, claiming("messages-2", vec![claim("c", "2"), claim("b", "2")])).await, taken("b"));
    assert_eq!(append_one(&*store, claiming("messages-2", vec![claim("d", "2"), claim("d", "2")])).await, taken("d"));
    let batch = vec![claiming("messages-2", vec![claim("e", "2")]), claiming("messages-3", vec![claim("e", "3")])];
    let answers = store.append(0, batch).await;
    assert_eq!((answers[0].is_ok(), answers[1].clone().map(|_| 0)), (true, taken("e").map(|_: u64| 0)));

    let keys: Vec<String> = ["a", "b", "c", "d", "e"].map(str::to_owned).to_vec();
    let claims = store.reader().claims(0, &keys).await.unwrap();
    assert_eq!(claims, HashMap::from([("a", "1"), ("b", "1"), ("e", "2")].map(|(k, v)| (k.to_owned(), v.to_owned()))));
    assert_eq!(store.reader().head(0).await, Ok(2));
}

async fn a_claim_without_events_can_be_repeated_with_the_same_value<D: Database>() {
    let database = D::fresh().await;
    let store = database.store();
    let claiming = |value: &str| Append {
        claims: vec![Claim { key: "name".to_owned(), value: value.to_owned(), bucket: None }],
        ..Append::default()
    };
    assert_eq!(append_one(&*store, claiming("1")).await, Ok(0));
    assert_eq!(append_one(&*store, claiming("1")).await, Ok(0));
    assert_eq!(append_one(&*store, claiming("2")).await, Err(AppendError::ClaimTaken { key: "name".to_owned() }));
}

async fn wakeups_come_in_the_order_of_their_times_and_the_last_word_counts<D: Database>() {
    let database = D::fresh().await;
    let store = database.store();
    let waking = |wakeups: &[(&str, Option<i64>)]| Append {
        wakeups: wakeups.iter().map(|(key, due_at)| ((*key).to_owned(), due_at.map(ms))).collect(),
        ..Append::default()
    };
    let wakeup = |key: &str, due_at| Wakeup { key: key.to_owned(), due_at: ms(due_at) };
    let batch = vec![
        waking(&[("c", Some(20)), ("a", Some(20)), ("gone", Some(1))]),
        waking(&[("b", Some(20)), ("moved", Some(1)), ("moved", Some(30))]),
        waking(&[("gone", None), ("never", None), ("first", Some(0))]),
    ];

    assert!(store.append(0, batch).await.iter().all(|answer| answer.as_ref().is_ok_and(|done| done.last == at(0))));

    let all = [wakeup("first", 0), wakeup("a", 20), wakeup("b", 20), wakeup("c", 20), wakeup("moved", 30)];
    assert_eq!(store.reader().wakeups(0, None, 9).await.unwrap(), all);
    assert_eq!(store.reader().wakeups(0, None, 2).await.unwrap(), all[..2]);
    assert_eq!(store.reader().wakeups(0, Some(&all[1]), 2).await.unwrap(), all[2..4]);
    append_one(&*store, waking(&[("moved", Some(10)), ("a", None)])).await.unwrap();
    assert_eq!(
        store.reader().wakeups(0, None, 9).await.unwrap(),
        [wakeup("first", 0), wakeup("moved", 10), wakeup("b", 20), wakeup("c", 20)]
    );
}

async fn an_append_without_events_answers_with_the_head<D: Database>() {
    let database = D::fresh().await;
    let store = database.store();
    let nothing = Append { wakeups: vec![("a".to_owned(), Some(ms(1)))], ..Append::default() };
    let answers =
        store.append(0, vec![append("subscription-1", 1, 2), nothing.clone(), append("subscription-2", 1, 1)]).await;
    assert_eq!(answers.into_iter().map(|answer| answer.unwrap().last.seq).collect::<Vec<_>>(), [2, 2, 3]);
    assert_eq!(append_one(&*store, nothing).await, Ok(3));
}

async fn a_category_is_read_by_stream_and_version_up_to_a_position<D: Database>() {
    let database = D::fresh().await;
    let store = database.store();
    for (stream, version) in [("b", 1), ("a", 1), ("b", 2), ("ü", 1), ("a", 2)] {
        append_one(&*store, append(&format!("subscription-{stream}"), version, 1)).await.unwrap();
        for other in ["subscription", "subscription.x", "subscriptions-x", "deliveries-x", "subscriptio-n"] {
            let version = store.reader().read_stream(other, 1, 99).await.unwrap().len() as u64 + 1;
            append_one(&*store, append(other, version, 1)).await.unwrap();
        }
    }
    let read = async |up_to: u64, after: Option<(&str, u64)>, limit: usize| -> Vec<(String, u64)> {
        let events = store.reader().read_category("subscription", at(up_to), after, limit).await.unwrap();
        events.into_iter().map(|event| (event.stream, event.version)).collect()
    };
    let all = [("a", 1), ("a", 2), ("b", 1), ("b", 2), ("ü", 1)]
        .map(|(stream, version)| (format!("subscription-{stream}"), version));

    assert_eq!(read(u64::MAX, None, 99).await, all);
    assert_eq!(read(u64::MAX, None, 2).await, all[..2]);
    assert_eq!(read(u64::MAX, Some(("subscription-a", 2)), 2).await, all[2..4]);
    assert_eq!(read(u64::MAX, Some(("a", 1)), 99).await, all);
    assert_eq!(read(u64::MAX, Some(("subscription-ü", 1)), 99).await, []);
    assert_eq!(read(13, None, 99).await, [all[0].clone(), all[2].clone(), all[3].clone()]);
    assert_eq!(read(0, None, 99).await, []);
}

async fn content_stands_beside_its_event<D: Database>() {
    let database = D::fresh().await;
    let store = database.store();
    append_one(&*store, with_content(b"{\"body\":1}")).await.unwrap();
    append_one(&*store, append("messages-1", 2, 1)).await.unwrap();
    assert_eq!(store.reader().content(at(1)).await, Ok(Some(Bytes::from_static(b"{\"body\":1}"))));
    assert_eq!(store.reader().content(at(2)).await, Ok(None));
    assert_eq!(store.reader().content(at(3)).await, Ok(None));
}

async fn a_checkpoint_is_kept_for_each_reader<D: Database>() {
    let database = D::fresh().await;
    let store = database.store();
    assert_eq!(store.reader().checkpoint("matcher", 0).await, Ok(None));
    store.save_checkpoint("matcher", at(7)).await.unwrap();
    store.save_checkpoint("audit", at(3)).await.unwrap();
    store.save_checkpoint("matcher", at(9)).await.unwrap();
    let store = database.reopened().await;
    assert_eq!(store.reader().checkpoint("matcher", 0).await, Ok(Some(9)));
    assert_eq!(store.reader().checkpoint("audit", 0).await, Ok(Some(3)));
}

async fn an_owner_that_was_replaced_writes_nothing<D: Database>() {
    let database = D::fresh().await;
    let old = database.store();
    append_one(&*old, append("subscription-1", 1, 1)).await.unwrap();
    let new = database.reopened().await;

    for _ in 0..2 {
        let answers = old.append(0, vec![append("subscription-1", 2, 1), append("subscription-2", 1, 1)]).await;
        assert_eq!(answers.len(), 2);
        assert!(
            answers.iter().all(|answer| matches!(answer, Err(AppendError::Fenced { shard: 0, .. }))),
            "{answers:?}"
        );
    }
    let waking = Append { wakeups: vec![("a".to_owned(), Some(ms(1)))], ..Append::default() };
    assert!(matches!(append_one(&*old, waking).await, Err(AppendError::Fenced { .. })));
    assert!(matches!(old.save_checkpoint("matcher", at(1)).await, Err(AppendError::Fenced { .. })));

    assert_eq!(append_one(&*new, append("subscription-1", 2, 1)).await, Ok(2));
    assert_eq!(new.reader().wakeups(0, None, 9).await, Ok(vec![]));
    assert_eq!(new.reader().checkpoint("matcher", 0).await, Ok(None));
    assert_eq!(old.reader().head(0).await, Ok(2));
}

async fn every_acknowledged_event_is_in_the_log_once_and_in_order_for_concurrent_writers<D: Database>() {
    let database = D::fresh().await;
    let mut writers = JoinSet::new();
    for writer in 0..8 {
        let store = database.store();
        writers.spawn(async move {
            let mut acknowledged = Vec::new();
            for version in 1..=25 {
                let append = append(&format!("subscription-{writer}"), version, 1);
                let seq = append_one(&*store, append.clone()).await.unwrap();
                acknowledged.extend(recorded(&append, seq));
            }
            acknowledged
        });
    }
    let mut readers = JoinSet::new();
    for _ in 0..4 {
        let store = database.store();
        readers.spawn(async move {
            let mut seen = Vec::new();
            while seen.len() < 200 {
                seen.extend(store.reader().read_log(at(seen.len() as u64), 7).await.unwrap());
            }
            seen
        });
    }

    let mut acknowledged = writers.join_all().await.concat();

    acknowledged.sort_by_key(|event| event.position);
    assert!(readers.join_all().await.iter().all(|seen| *seen == acknowledged));
}

async fn a_shard_that_does_not_exist_is_refused_by_its_number<D: Database>() {
    let database = D::fresh().await;
    let store: Arc<_> = database.store();
    let shard = store.reader().shards();
    let reason = format!("there is no shard {shard}");
    assert_eq!(store.append(shard, vec![append("a-1", 1, 1)]).await, [Err(AppendError::Unavailable(reason.clone()))]);
    assert_eq!(store.reader().head(shard).await, Err(ReadError::Unavailable(reason.clone())));
    assert_eq!(store.reader().read_log(Position { shard, seq: 0 }, 1).await, Err(ReadError::Unavailable(reason)));
}

on_every_store! {
    events_come_back_as_they_were_appended,
    of_many_writers_at_one_version_exactly_one_wins,
    in_one_batch_too_the_first_at_a_version_wins_and_the_rest_is_written,
    a_repeated_append_succeeds_at_the_old_position_and_writes_nothing,
    other_events_at_a_taken_version_are_a_conflict,
    a_version_that_would_leave_a_gap_is_a_conflict,
    a_stream_named_twice_in_one_append_is_a_conflict,
    what_is_refused_leaves_no_hole,
    a_batch_of_any_size_is_written_whole,
    a_claim_is_taken_once_and_tells_who_has_it,
    a_claim_without_events_can_be_repeated_with_the_same_value,
    wakeups_come_in_the_order_of_their_times_and_the_last_word_counts,
    an_append_without_events_answers_with_the_head,
    a_category_is_read_by_stream_and_version_up_to_a_position,
    content_stands_beside_its_event,
    a_checkpoint_is_kept_for_each_reader,
    an_owner_that_was_replaced_writes_nothing,
    every_acknowledged_event_is_in_the_log_once_and_in_order_for_concurrent_writers,
    a_shard_that_does_not_exist_is_refused_by_its_number,
}
