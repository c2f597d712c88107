//! What only SQLite promises: about its file, its locks and its disk.

use std::path::Path;

use futures_util::FutureExt;
use sqlx::{ConnectOptions, SqliteConnection};
use tidings::event_store::{
    AppendError, Bucket, DropError, Dropped, EventStore, OpenError, Options, Position, ReadError, SqliteStore,
};

use super::{append, append_one, at, bucketed, drop_bucket, ended, recorded, whole_log, with_content};

async fn open(path: &Path) -> SqliteStore {
    SqliteStore::open(Options::at(path)).await.unwrap()
}

/// A connection of somebody else's, past the store.
pub(super) async fn stranger(path: &Path) -> SqliteConnection {
    sqlx::sqlite::SqliteConnectOptions::new().filename(path).connect().await.unwrap()
}

#[tokio::test]
async fn a_second_opener_is_refused_and_told_why() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("log.db");
    let first = open(&path).await;

    let refused = SqliteStore::open(Options::at(&path)).await.unwrap_err();

    let lock = folder.path().join("log.db.lock");
    assert_eq!(refused.to_string(), format!("the database is already open: '{}' is locked", lock.display()));
    assert!(matches!(refused, OpenError::Locked(path) if path == lock));
    let second = first.reopen().await.unwrap();
    drop(first);
    assert!(SqliteStore::open(Options::at(&path)).await.is_err(), "a handle is still there");
    second.close().await;
    open(&path).await;
}

#[tokio::test]
async fn a_folder_that_is_not_there_is_named() {
    let refused = SqliteStore::open(Options::at("nowhere/log.db")).await.unwrap_err();
    assert_eq!(refused.to_string(), "the lock file 'nowhere/log.db.lock' cannot be used");
}

#[tokio::test]
async fn reopening_finds_everything() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("log.db");
    let written = with_content(b"body");
    let store = open(&path).await;
    append_one(&store, written.clone()).await.unwrap();
    store.close().await;

    let store = open(&path).await;

    assert_eq!(whole_log(&store).await, recorded(&written, 1));
    assert_eq!(append_one(&store, written).await, Ok(1));
    assert_eq!(append_one(&store, append("messages-1", 2, 1)).await, Ok(2));
}

#[tokio::test]
async fn what_is_acknowledged_stands_in_the_files_before_the_database_is_closed() {
    let folder = tempfile::tempdir().unwrap();
    let store = open(&folder.path().join("log.db")).await;
    let written = append("subscription-1", 1, 100);
    append_one(&store, written.clone()).await.unwrap();

    let copy = tempfile::tempdir().unwrap();
    for name in ["log.db", "log.db-wal"] {
        std::fs::copy(folder.path().join(name), copy.path().join(name)).unwrap();
    }

    assert_eq!(whole_log(&open(&copy.path().join("log.db")).await).await, recorded(&written, 1));
}

#[tokio::test]
async fn an_event_can_be_neither_updated_nor_deleted() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("log.db");
    append_one(&open(&path).await, append("subscription-1", 1, 1)).await.unwrap();
    let mut stranger = stranger(&path).await;
    for (sql, refusal) in [
        ("UPDATE event SET data = '{}'", "an event is never updated"),
        ("DELETE FROM event", "an event is never deleted"),
    ] {
        let error = sqlx::query(sql).execute(&mut stranger).await.unwrap_err().to_string();
        assert!(error.ends_with(refusal), "{error}");
    }
}

#[tokio::test]
async fn a_bucketed_event_goes_only_with_its_bucket() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("log.db");
    let store = open(&path).await;
    append_one(&store, bucketed("deliveries-1", 1, 7, 2)).await.unwrap();
    let mut stranger = stranger(&path).await;
    for (sql, refusal) in [
        ("UPDATE bucketed_event SET data = '{}'", "an event is never updated"),
        ("UPDATE bucketed_event SET bucket = 8", "an event is never updated"),
        ("DELETE FROM bucketed_event", "an event is deleted only with its bucket"),
        ("DELETE FROM bucketed_event WHERE seq = 2", "an event is deleted only with its bucket"),
    ] {
        let error = sqlx::query(sql).execute(&mut stranger).await.unwrap_err().to_string();
        assert!(error.ends_with(refusal), "{error}");
    }
    assert_eq!(whole_log(&store).await.len(), 2);
}

#[tokio::test]
async fn a_bucket_whose_dropping_was_cut_short_is_listed_and_dropped_to_its_end() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("log.db");
    let store = open(&path).await;
    append_one(&store, bucketed("deliveries-1", 1, 7, 5)).await.unwrap();
    append_one(&store, ended("deliveries-1")).await.unwrap();
    assert_eq!(store.drop_bucket(Bucket(7), 2).await, Ok(Dropped { rows: 2, more: true }));
    store.close().await;

    let store = open(&path).await;

    assert_eq!((store.reader().floor(0).await, store.reader().buckets(0).await.unwrap().len()), (Ok(5), 1));
    assert_eq!(whole_log(&store).await.len(), 3);
    // Who comes only now has nothing to wait for: what it would have read is gone in part.
    store.save_checkpoint("matcher", at(0)).await.unwrap();
    assert_eq!(drop_bucket(&store, 7, 2).await, Ok(3));
    assert_eq!((whole_log(&store).await, store.reader().buckets(0).await), (vec![], Ok(vec![])));
}

#[tokio::test]
async fn what_is_appended_to_a_bucket_that_is_being_dropped_is_asked_about_again() {
    let folder = tempfile::tempdir().unwrap();
    let store = open(&folder.path().join("log.db")).await;
    append_one(&store, bucketed("deliveries-1", 1, 7, 5)).await.unwrap();
    append_one(&store, ended("deliveries-1")).await.unwrap();
    store.save_checkpoint("matcher", at(5)).await.unwrap();
    assert!(store.drop_bucket(Bucket(7), 2).await.unwrap().more);

    let late = bucketed("deliveries-2", 1, 7, 1);
    append_one(&store, late.clone()).await.unwrap();

    let refused = store.drop_bucket(Bucket(7), 2).await;
    assert_eq!(refused, Err(DropError::StillLive { bucket: Bucket(7), stream: "deliveries-2".to_owned() }));
    append_one(&store, ended("deliveries-2")).await.unwrap();
    assert!(matches!(store.drop_bucket(Bucket(7), 2).await, Err(DropError::StillRead { last, .. }) if last == at(6)));
    assert_eq!((store.reader().floor(0).await, store.reader().stream_version("deliveries-2").await), (Ok(5), Ok(1)));
    store.save_checkpoint("matcher", at(6)).await.unwrap();
    assert_eq!(drop_bucket(&store, 7, 2).await, Ok(4));
    assert_eq!(store.reader().floor(0).await, Ok(6));
}

#[tokio::test]
async fn a_dropper_that_goes_away_halfway_leaves_a_whole_step_or_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let store = open(&folder.path().join("log.db")).await;
    append_one(&store, bucketed("deliveries-1", 1, 7, 40)).await.unwrap();
    append_one(&store, ended("deliveries-1")).await.unwrap();
    for polls in 1..=30 {
        let mut abandoned = Box::pin(store.drop_bucket(Bucket(7), 1));
        for _ in 0..polls {
            if (&mut abandoned).now_or_never().is_some() {
                break;
            }
            tokio::task::yield_now().await;
        }
        drop(abandoned);
        let events = whole_log(&store).await;
        let first = events[0].position.seq;
        assert!(events.iter().zip(first..).all(|(event, seq)| event.position.seq == seq));
        assert_eq!(append_one(&store, append("subscription-1", polls, 1)).await, Ok(40 + polls));
    }
    drop_bucket(&store, 7, 9).await.unwrap();
    assert_eq!(whole_log(&store).await.len(), 30);
}

#[tokio::test]
async fn a_damaged_event_is_named_by_its_position() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("log.db");
    let store = open(&path).await;
    append_one(&store, append("subscription-1", 1, 1)).await.unwrap();
    sqlx::query("INSERT INTO event SELECT 2, stream, 2, kind, 70000, event_id, at_ms, data, meta FROM event")
        .execute(&mut stranger(&path).await)
        .await
        .unwrap();
    let (stream, reason) = (Some("subscription-1".to_owned()), "70000 is no schema version".to_owned());
    assert_eq!(store.reader().read_log(at(0), 9).await, Err(ReadError::Damaged { position: at(2), stream, reason }));
    assert_eq!(store.reader().read_log(at(0), 1).await.unwrap().len(), 1);
}

#[tokio::test]
async fn a_full_disk_refuses_whole_batches_and_loses_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("log.db");
    let small = Options { max_pages: Some(120), ..Options::at(&path) };
    let store = SqliteStore::open(small).await.unwrap();
    let mut acknowledged = Vec::new();
    let refused = loop {
        let batch = vec![append(&format!("subscription-{}", acknowledged.len()), 1, 100), append("audit-1", 99, 1)];
        let answers = store.append(0, batch.clone()).await;
        match &answers[0] {
            Ok(appended) => acknowledged.extend(recorded(&batch[0], appended.last.seq - 99)),
            Err(AppendError::Full(reason)) => {
                assert!(reason.contains("log.db") && reason.contains("full"), "{reason}");
                assert!(matches!(&answers[1], Err(AppendError::Full(_))));
                break batch[0].clone();
            }
            Err(other) => panic!("{other}"),
        }
    };
    assert!(!acknowledged.is_empty());
    assert!(matches!(append_one(&store, refused.clone()).await, Err(AppendError::Full(_))));
    assert!(whole_log(&store).await == acknowledged);
    store.close().await;

    let store = open(&path).await;
    let next = acknowledged.len() as u64;
    assert_eq!(append_one(&store, refused.clone()).await, Ok(next + 100));
    assert!(whole_log(&store).await == [acknowledged, recorded(&refused, next + 1)].concat());
}

#[tokio::test]
async fn a_caller_that_goes_away_halfway_leaves_a_whole_append_or_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let store = open(&folder.path().join("log.db")).await;
    for version in 1..=40 {
        let written = append("subscription-1", version, 1);
        let mut abandoned = Box::pin(store.append(0, vec![written.clone()]));
        for _ in 0..version {
            if (&mut abandoned).now_or_never().is_some() {
                break;
            }
            tokio::task::yield_now().await;
        }
        drop(abandoned);
        assert_eq!(append_one(&store, written).await, Ok(version));
    }
    assert!(whole_log(&store).await.iter().zip(1..).all(|(event, seq)| event.position.seq == seq));
}

#[tokio::test]
async fn there_is_one_shard() {
    let folder = tempfile::tempdir().unwrap();
    let store = open(&folder.path().join("log.db")).await;
    assert_eq!(store.reader().shards(), 1);
    assert!(store.reader().content(Position { shard: 1, seq: 1 }).await.is_err());
}

#[tokio::test]
async fn tables_that_a_newer_program_has_changed_are_left_alone() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("log.db");
    open(&path).await.close().await;
    let newer = "INSERT INTO _sqlx_migrations (version, description, success, checksum, execution_time)
         VALUES (9999, 'of a newer program', TRUE, x'00', 0)";
    sqlx::query(newer).execute(&mut stranger(&path).await).await.unwrap();
    let epoch = async || {
        let mut stranger = stranger(&path).await;
        sqlx::query_scalar::<_, i64>("SELECT epoch FROM shard").fetch_one(&mut stranger).await.unwrap()
    };
    let before = epoch().await;

    let refused = SqliteStore::open(Options::at(&path)).await.unwrap_err();

    assert!(matches!(refused, OpenError::Migrate(_)), "{refused}");
    assert!(std::error::Error::source(&refused).unwrap().to_string().contains("9999"), "{refused:?}");
    assert_eq!(epoch().await, before, "the older program took over");
}
