//! Erasing contents: with an append, from memory, and from the database's files.

use std::collections::BTreeSet;
use std::path::Path;
use std::sync::Arc;

use bytes::Bytes;
use sqlx::Connection;
use tidings::event_store::{
    Append, AppendError, Bucket, Config, EventStore, Log, MemoryStore, NewEvent, Options, Purged, SqliteStore,
};

use super::sqlite::stranger;
use super::{Database, append, append_one, at, bucketed, event, on_every_store, whole_log, write};

/// Messages of the stream from a version on, each with a content.
fn messages(stream: &str, first_version: u64, contents: impl IntoIterator<Item = Bytes>) -> Append {
    let events = contents.into_iter().map(|content| NewEvent { content: Some(content), ..event() }).collect();
    Append { writes: vec![write(stream, first_version, events)], ..Append::default() }
}

fn bodies(count: usize) -> Vec<Bytes> {
    vec![Bytes::from_static(b"body"); count]
}

fn erasing(append: Append, erased: impl IntoIterator<Item = u64>) -> Append {
    Append { erased: erased.into_iter().collect(), ..append }
}

/// The numbers of those that have a content.
async fn filled(store: &dyn EventStore) -> Vec<u64> {
    store.reader().contents(at(0), u64::MAX >> 1).await.unwrap().into_iter().map(|(seq, _)| seq).collect()
}

async fn contents_go_with_the_append_that_says_so_and_events_stay<D: Database>() {
    let database = D::fresh().await;
    let store = database.store();
    append_one(&*store, messages("messages-1", 1, bodies(4))).await.unwrap();
    let mut in_bucket = bucketed("messages-2", 1, 7, 2);
    in_bucket.writes[0].events.iter_mut().for_each(|event| event.content = Some(Bytes::from_static(b"body")));
    append_one(&*store, in_bucket).await.unwrap();
    let before = whole_log(&*store).await;

    let together = vec![
        erasing(append("tenant-1", 1, 1), [2, 5]),
        erasing(Append::default(), [3]),
        messages("messages-1", 5, bodies(1)),
    ];
    assert!(store.append(0, together).await.iter().all(Result::is_ok));

    assert_eq!(filled(&*store).await, [1, 4, 6, 8]);
    assert_eq!(store.reader().content(at(2)).await, Ok(None));
    assert_eq!(whole_log(&*store).await[..6], before);
    // What has no content, or none any more, is none the worse for it.
    append_one(&*store, erasing(append("tenant-1", 2, 1), [2, 7, 1, 1])).await.unwrap();
    assert_eq!(filled(&*store).await, [4, 6, 8]);
    assert_eq!(store.purge().await, Ok(Purged::Gone));
    assert_eq!(filled(&*database.reopened().await).await, [4, 6, 8]);
}

async fn a_refused_append_and_a_replaced_owner_erase_nothing<D: Database>() {
    let database = D::fresh().await;
    let store = database.store();
    append_one(&*store, messages("messages-1", 1, bodies(3))).await.unwrap();

    let conflict = store.append(0, vec![erasing(append("messages-1", 2, 1), [1])]).await.remove(0);
    assert!(matches!(conflict, Err(AppendError::Conflict { .. })));
    let new = database.reopened().await;
    let fenced = store.append(0, vec![erasing(append("tenant-1", 1, 1), [1])]).await.remove(0);
    assert!(matches!(fenced, Err(AppendError::Fenced { .. })));

    assert_eq!(filled(&*new).await, [1, 2, 3]);
    append_one(&*new, erasing(append("tenant-1", 1, 1), [1])).await.unwrap();
    assert_eq!(filled(&*new).await, [2, 3]);
}

async fn what_is_acknowledged_as_erased_has_left_memory<D: Database>() {
    for tail_events in [0, 2, 100] {
        let database = D::fresh().await;
        let log = Log::start(database.store(), Config { tail_events, ..Config::default() }).await.unwrap();
        log.append(0, messages("messages-1", 1, bodies(6))).await.unwrap();
        let contents = async || {
            let mut found = Vec::new();
            for seq in 1..=6 {
                let (_, content) = log.event(at(seq)).await.unwrap().unwrap();
                assert_eq!(log.content(at(seq)).await.unwrap(), content);
                found.push(content.is_some());
            }
            found
        };
        assert_eq!(contents().await, [true; 6]);
        let before = log.erasures();

        let refused = log.append(0, erasing(append("messages-1", 3, 1), [1])).await;
        assert!(matches!(refused, Err(AppendError::Conflict { .. })));
        assert_eq!(contents().await, [true; 6]);
        log.append(0, erasing(append("tenant-1", 1, 1), [1, 5, 6])).await.unwrap();

        assert_eq!(contents().await, [false, true, true, true, false, false]);
        assert!(log.erasures() > before);
    }
}

on_every_store! {
    contents_go_with_the_append_that_says_so_and_events_stay,
    a_refused_append_and_a_replaced_owner_erase_nothing,
    what_is_acknowledged_as_erased_has_left_memory,
}

/// A content that says throughout whose it is, of between a hundred bytes and several pages.
fn marked(number: u64) -> Bytes {
    let times = 5 + usize::try_from(number.wrapping_mul(0x9E37_79B9_7F4A_7C15) >> 33).unwrap() % 900;
    format!("<canary {number:06}>").repeat(times).into()
}

/// Whose contents, or parts of them, stand anywhere in the files of the folder.
fn found(folder: &Path) -> BTreeSet<u64> {
    let mut found = BTreeSet::new();
    for entry in std::fs::read_dir(folder).unwrap() {
        let bytes = std::fs::read(entry.unwrap().path()).unwrap();
        let marks = bytes.windows(15).filter(|window| window.starts_with(b"<canary ") && window[14] == b'>');
        found.extend(marks.filter_map(|mark| std::str::from_utf8(&mark[8..14]).ok()?.parse::<u64>().ok()));
    }
    found
}

#[tokio::test]
async fn nothing_of_what_was_erased_is_left_in_the_files() {
    const MESSAGES: u64 = 1_500;
    let folder = tempfile::tempdir().unwrap();
    let store = SqliteStore::open(Options::at(folder.path().join("log.db"))).await.unwrap();
    for first in (1..=MESSAGES).step_by(50) {
        append_one(&store, messages("messages-1", first, (first..first + 50).map(marked))).await.unwrap();
    }
    assert_eq!(found(folder.path()).len() as u64, MESSAGES);

    // Here and there, one by one and many at once, so that pages are emptied, merged and filled again.
    let mut left: BTreeSet<u64> = (1..=MESSAGES).collect();
    for round in 0..6_u64 {
        let picked = |seq: &u64| (seq.wrapping_mul(0x9E37_79B9_7F4A_7C15) >> 40) % 7 == round;
        let erased: Vec<u64> = left.iter().copied().filter(picked).collect();
        for few in erased.chunks(if round % 2 == 0 { 1 } else { 60 }) {
            append_one(&store, erasing(Append::default(), few.iter().copied())).await.unwrap();
        }
        left.retain(|seq| !erased.contains(seq));
        assert_eq!(store.purge().await, Ok(Purged::Gone));
        let found = found(folder.path());
        let leaked: Vec<_> = found.difference(&left).collect();
        assert_eq!((leaked, found.len()), (vec![], left.len()), "in round {round}");
    }
}

#[tokio::test]
async fn while_somebody_reads_on_a_purge_says_that_it_is_not_done() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("log.db");
    let store = SqliteStore::open(Options::at(&path)).await.unwrap();
    append_one(&store, messages("messages-1", 1, [marked(1), marked(2)])).await.unwrap();
    let mut reader = stranger(&path).await;
    let mut reading = reader.begin().await.unwrap();
    sqlx::query("SELECT seq FROM content").fetch_all(&mut *reading).await.unwrap();

    append_one(&store, erasing(Append::default(), [1])).await.unwrap();

    assert_eq!(store.purge().await, Ok(Purged::Kept));
    append_one(&store, messages("messages-1", 3, [marked(3)])).await.unwrap();
    reading.rollback().await.unwrap();
    assert_eq!(store.purge().await, Ok(Purged::Gone));
    assert_eq!(found(folder.path()), BTreeSet::from([2, 3]));
}

#[tokio::test]
async fn retention_erases_as_well_as_anybody() {
    let folder = tempfile::tempdir().unwrap();
    let store = SqliteStore::open(Options::at(folder.path().join("log.db"))).await.unwrap();
    for bucket in 1..=4_u32 {
        let first = u64::from(bucket - 1) * 100 + 1;
        let mut append = bucketed("messages-1", first, bucket, 100);
        for (event, seq) in append.writes[0].events.iter_mut().zip(first..) {
            event.content = Some(marked(seq));
        }
        append_one(&store, append).await.unwrap();
    }
    while store.drop_contents(Bucket(2), 30).await.unwrap().more {}
    assert_eq!(store.purge().await, Ok(Purged::Gone));
    assert_eq!(found(folder.path()), (201..=400).collect());
}

#[tokio::test]
async fn an_append_whose_answer_was_lost_leaves_nothing_in_memory() {
    let store = super::faulty::Faulty::open(Arc::new(MemoryStore::new(1)));
    let log = Log::start(store.clone(), Config::default()).await.unwrap();
    log.append(0, messages("messages-1", 1, bodies(2))).await.unwrap();
    store.lose_next_answer.store(true, std::sync::atomic::Ordering::Relaxed);
    assert!(log.append(0, erasing(append("tenant-1", 1, 1), [1])).await.is_err());
    assert_eq!(log.content(at(1)).await, Ok(None));
    assert_eq!(log.event(at(1)).await.unwrap().map(|(_, content)| content), Some(None));
}

#[tokio::test]
async fn nothing_of_what_was_erased_is_left_in_the_tables_of_postgres() {
    let database = super::Postgres::fresh().await;
    let store = database.store();
    for first in (1..=400).step_by(50) {
        append_one(&*store, messages("messages-1", first, (first..first + 50).map(marked))).await.unwrap();
    }
    let erased: Vec<u64> = (1..=400).filter(|seq| seq % 3 == 0).collect();
    let mut server = database.stranger().await;
    // As the server does by itself sooner or later: its statistics hold samples of what tables hold.
    sqlx::query("ANALYZE").execute(&mut server).await.unwrap();
    append_one(&*store, erasing(Append::default(), erased)).await.unwrap();

    assert_eq!(store.purge().await, Ok(Purged::Gone));

    sqlx::query("CHECKPOINT").execute(&mut server).await.unwrap();
    let files = "SELECT current_setting('data_directory') || '/' || \
         regexp_replace(pg_relation_filepath('content'), '/[^/]*$', '')";
    let folder: String = sqlx::query_scalar(files).fetch_one(&mut server).await.unwrap();
    let found = found(Path::new(&folder));
    assert_eq!(found.iter().filter(|seq| *seq % 3 == 0).count(), 0);
    // Long values are compressed.
    assert!(found.len() > 5, "{found:?}");
}
