//! Building anew beside who follows and who asks, and finding out whether that is needed.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use tidings::event_store::Log;
use tidings::projections::{Difference, MessageFilter, Name, Page, ReadModels, TenantScope, Verified, Wrong};

use super::history::History;
use super::{Folder, caught_up, dump, execute_sql, following, rebuilt};

async fn verify(path: &Path, log: &Log) -> Verified {
    ReadModels::verify(path, log.reader(), |_, _| {}).await.unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn rows_are_replaced_under_writers_and_readers_who_notice_nothing() {
    for (seed, shards) in [(51, 1), (52, 3)] {
        println!("seed {seed}");
        let (folder, mut history) = (Folder::new(), History::over(shards, seed).await);
        let (models, followers) = following(&folder, &history).await;
        let tenant = history.tenant().await;
        for _ in 0..300 {
            history.anything().await;
        }
        caught_up(&models, &history).await;
        let (log, done) = (history.log.clone(), Arc::new(AtomicBool::new(false)));
        // Reads all the while: messages of a tenant only ever become more.
        let reading = tokio::spawn({
            let (models, done) = (models.clone(), Arc::clone(&done));
            async move {
                let (mut seen, mut reads) = (0, 0_u64);
                let (scope, all, page) = (TenantScope(tenant), MessageFilter::default(), Page::first(100_000));
                while !done.load(Ordering::Relaxed) {
                    let found = models.messages(scope, &all, &page).await.unwrap().rows.len();
                    assert!(found >= seen, "{found} messages after {seen}");
                    (seen, reads) = (found, reads + 1);
                    tokio::task::yield_now().await;
                }
                (seen, reads)
            }
        });
        // Writes all the while.
        let writing = tokio::spawn({
            let done = Arc::clone(&done);
            async move {
                while !done.load(Ordering::Relaxed) {
                    history.publish(tenant, "order.created").await;
                    history.anything().await;
                    tokio::task::yield_now().await;
                }
                history
            }
        });
        for names in [&Name::ALL[..], &[Name::Messages], &[Name::Deliveries, Name::Webhooks], &Name::ALL[..]] {
            ReadModels::rebuild(&folder.path(), log.reader(), names, |_, _| {}).await.unwrap();
        }
        done.store(true, Ordering::Relaxed);
        let (seen, reads) = reading.await.unwrap();
        let history = writing.await.unwrap();
        println!("{reads} reads, {seen} messages");
        caught_up(&models, &history).await;
        assert_eq!(models.stopped(), []);
        followers.stop().await;
        assert_eq!(dump(&folder.path()).await, rebuilt(&history.log).await, "seed {seed}");
        assert_eq!(verify(&folder.path(), &history.log).await.difference, None);
    }
}

#[tokio::test]
async fn a_rebuild_that_was_broken_off_goes_on_where_it_was() {
    let (folder, mut history) = (Folder::new(), History::new(53).await);
    let (models, followers) = following(&folder, &history).await;
    while history.head().seq < 9_000 {
        history.anything().await;
    }
    caught_up(&models, &history).await;
    followers.stop().await;
    drop(models);
    let before = dump(&folder.path()).await;
    let path = folder.path();
    let log = history.log.clone();
    // Ends in the middle, as by `kill -9`: nothing after the first part is done.
    let broken = tokio::spawn(async move {
        let stop = |_, _| panic!("as the test wants it");
        ReadModels::rebuild(&path, log.reader(), &Name::ALL, stop).await
    });
    assert!(broken.await.unwrap_err().is_panic());
    assert_eq!(dump(&folder.path()).await, before);
    let read = ReadModels::rebuild(&folder.path(), history.log.reader(), &Name::ALL, |_, _| {}).await.unwrap();
    assert!(read > 0 && read < history.head().seq, "{read} of {} events were read", history.head().seq);
    assert_eq!(dump(&folder.path()).await, before);
}

#[tokio::test]
async fn what_another_log_left_half_built_is_not_used() {
    let (folder, mut other, mut history) = (Folder::new(), History::new(54).await, History::new(55).await);
    for _ in 0..100 {
        other.anything().await;
        history.anything().await;
    }
    let path = folder.path();
    let log = other.log.clone();
    let broken = tokio::spawn(async move {
        ReadModels::rebuild(&path, log.reader(), &Name::ALL, |_, _| panic!("as the test wants it")).await
    });
    assert!(broken.await.unwrap_err().is_panic());
    ReadModels::rebuild(&folder.path(), history.log.reader(), &Name::ALL, |_, _| {}).await.unwrap();
    assert_eq!(dump(&folder.path()).await, rebuilt(&history.log).await);
}

#[tokio::test]
async fn a_projection_that_lost_rows_is_found_and_put_right_alone() {
    let (folder, mut history) = (Folder::new(), History::new(56).await);
    let (models, followers) = following(&folder, &history).await;
    for _ in 0..200 {
        history.anything().await;
    }
    caught_up(&models, &history).await;
    let right = verify(&folder.path(), &history.log).await;
    assert_eq!(right.difference, None);
    assert_eq!(right.rows, dump(&folder.path()).await.len() as u64);

    execute_sql(&folder.path(), "UPDATE webhook SET url = 'https://evil.example/'").await;
    let found = verify(&folder.path(), &history.log).await.difference;
    let Some(Difference::Row { projection: Name::Webhooks, table: "webhook", wrong: Wrong::Column(column), .. }) =
        found
    else {
        panic!("{found:?}")
    };
    assert_eq!(column, "url");
    execute_sql(&folder.path(), "DELETE FROM attempt WHERE number = 1").await;
    ReadModels::rebuild(&folder.path(), history.log.reader(), &[Name::Webhooks], |_, _| {}).await.unwrap();
    let found = verify(&folder.path(), &history.log).await.difference.unwrap();
    assert!(matches!(&found, Difference::Row { table: "attempt", wrong: Wrong::Missing, .. }), "{found:?}");
    assert!(found.to_string().starts_with("projection 'deliveries', table 'attempt', row 0-"), "{found}");
    ReadModels::rebuild(&folder.path(), history.log.reader(), &[Name::Deliveries], |_, _| {}).await.unwrap();
    execute_sql(&folder.path(), "INSERT INTO last_delivery VALUES (X'FF', 1, 2)").await;
    let found = verify(&folder.path(), &history.log).await.difference.unwrap();
    assert!(matches!(&found, Difference::Row { table: "last_delivery", wrong: Wrong::Unfounded, .. }), "{found:?}");
    execute_sql(&folder.path(), "DELETE FROM last_delivery WHERE subscription = X'FF'").await;
    assert_eq!(verify(&folder.path(), &history.log).await, right);

    // The server went on all the while.
    for _ in 0..20 {
        history.anything().await;
    }
    caught_up(&models, &history).await;
    followers.stop().await;
    assert_eq!(dump(&folder.path()).await, rebuilt(&history.log).await);
    let other = History::new(57).await;
    assert_eq!(verify(&folder.path(), &other.log).await.difference, Some(Difference::AnotherLog));
}

#[tokio::test]
async fn two_that_build_at_once_are_kept_apart() {
    let (folder, mut history) = (Folder::new(), History::new(58).await);
    history.tenant().await;
    let held = |name| {
        let lock = std::fs::File::create(folder.0.path().join(name)).unwrap();
        lock.lock().unwrap();
        lock
    };
    let lock = held("read-models.db.rebuild.lock");
    // A server's own, for as long as it runs.
    let _of_server = held("read-models.db.lock");
    let refused = ReadModels::rebuild(&folder.path(), history.log.reader(), &Name::ALL, |_, _| {}).await.unwrap_err();
    assert!(refused.to_string().contains("is locked"), "{refused}");
    drop(lock);
    ReadModels::rebuild(&folder.path(), history.log.reader(), &Name::ALL, |_, _| {}).await.unwrap();
}
