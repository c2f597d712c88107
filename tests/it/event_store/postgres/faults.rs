//! What a lost connection, a held-up append and a database that is gone do to those who append and read.

use std::sync::Arc;

use sqlx::{AssertSqlSafe, PgConnection};
use tidings::event_store::postgres::Options;
use tidings::event_store::{
    Append, AppendError, Appended, EventStore, NewEvent, Position, PostgresStore, ReadError, Wakeup,
};
use tokio::task::JoinHandle;

use super::proxy::Proxy;
use super::{Postgres, append_on, on};
use crate::event_store::{Database, append, append_one, at, event, ms, recorded, whole_log, write};

/// Makes inserts of a stream's events into the table wait for the advisory lock 1: at the row, or at the commit.
pub(super) async fn hold_up(stranger: &mut PgConnection, table: &str, stream: &str, at_commit: bool) {
    let timing = if at_commit {
        ("CREATE CONSTRAINT TRIGGER", "AFTER INSERT", "DEFERRABLE INITIALLY DEFERRED")
    } else {
        ("CREATE TRIGGER", "BEFORE INSERT", "")
    };
    let (create, when, deferred) = timing;
    let function = "CREATE FUNCTION wait_for_test() RETURNS trigger LANGUAGE plpgsql AS \
         $$ BEGIN PERFORM pg_advisory_xact_lock(1); RETURN NEW; END $$";
    let trigger = format!(
        "{create} held_up {when} ON {table} {deferred} FOR EACH ROW WHEN (NEW.stream = '{stream}') \
         EXECUTE FUNCTION wait_for_test()"
    );
    sqlx::query(function).execute(&mut *stranger).await.unwrap();
    sqlx::query(AssertSqlSafe(trigger)).execute(&mut *stranger).await.unwrap();
    sqlx::query("SELECT pg_advisory_lock(1)").execute(stranger).await.unwrap();
}

pub(super) async fn let_go(stranger: &mut PgConnection) {
    sqlx::query("SELECT pg_advisory_unlock(1)").execute(stranger).await.unwrap();
}

/// The process of the server that waits for the advisory lock, once there is one.
pub(super) async fn held_up(stranger: &mut PgConnection) -> i32 {
    let waiting = "SELECT pid FROM pg_stat_activity \
         WHERE datname = current_database() AND wait_event_type = 'Lock' AND wait_event = 'advisory'";
    loop {
        if let Some(pid) = sqlx::query_scalar(waiting).fetch_optional(&mut *stranger).await.unwrap() {
            return pid;
        }
    }
}

/// Ends a process of the server and waits until it is gone.
pub(super) async fn terminate(stranger: &mut PgConnection, pid: i32) {
    sqlx::query("SELECT pg_terminate_backend($1, 60000)").bind(pid).execute(stranger).await.unwrap();
}

/// Ends all others who use the database, as its restart would.
async fn terminate_all(stranger: &mut PgConnection) {
    let all = "SELECT pg_terminate_backend(pid, 60000) FROM pg_stat_activity \
         WHERE datname = current_database() AND pid <> pg_backend_pid()";
    sqlx::query(all).execute(stranger).await.unwrap();
}

fn appending(store: &Arc<PostgresStore>, append: &Append) -> JoinHandle<Result<u64, AppendError>> {
    let (store, append) = (Arc::clone(store), append.clone());
    tokio::spawn(async move { append_one(&*store, append).await })
}

fn unavailable<T>(answer: &Result<T, AppendError>) -> bool {
    matches!(answer, Err(AppendError::Unavailable(_)))
}

#[tokio::test]
async fn an_append_whose_connection_dies_before_the_answer_is_settled_by_its_repetition() {
    for at_commit in [false, true] {
        let database = Postgres::fresh().await;
        let mut stranger = database.stranger().await;
        append_one(&*database.store, append("subscription-0", 1, 1)).await.unwrap();
        hold_up(&mut stranger, "event", "subscription-1", at_commit).await;
        let lost = append("subscription-1", 1, 3);

        let answer = appending(&database.store, &lost);
        let pid = held_up(&mut stranger).await;
        terminate(&mut stranger, pid).await;
        assert!(unavailable(&answer.await.unwrap()));
        let_go(&mut stranger).await;

        assert_eq!(database.store.reader().head(0).await, Ok(1));
        assert_eq!(append_one(&*database.store, append("subscription-0", 2, 1)).await, Ok(2));
        assert_eq!(append_one(&*database.store, lost.clone()).await, Ok(5));
        assert_eq!(append_one(&*database.store, lost.clone()).await, Ok(5));
        assert_eq!(whole_log(&*database.store).await[2..], recorded(&lost, 3));
    }
}

#[tokio::test]
async fn an_append_whose_answer_is_lost_is_found_by_its_repetition() {
    let database = Postgres::fresh().await;
    let proxy = Proxy::before(&database.url).await;
    let options = Options::at(proxy.instead_of(&database.url).as_str()).unwrap();
    let store = Arc::new(PostgresStore::open(options).await.unwrap());
    append_one(&*store, append("subscription-0", 1, 1)).await.unwrap();
    let lost = append("subscription-1", 1, 3);

    proxy.hold_replies();
    let answer = appending(&store, &lost);
    while database.store.reader().head(0).await.unwrap() < 4 {}
    proxy.cut();

    assert!(unavailable(&answer.await.unwrap()));
    assert_eq!(append_one(&*store, lost.clone()).await, Ok(4));
    assert_eq!(append_one(&*store, append("subscription-1", 4, 1)).await, Ok(5));
    assert_eq!(whole_log(&*store).await[1..4], recorded(&lost, 2));
    assert_eq!(store.reader().head(0).await, Ok(5));
}

// The late copy of an append must not undo what came after its repetition.
#[tokio::test]
async fn an_append_that_arrives_behind_its_repetition_changes_nothing() {
    let database = Postgres::fresh().await;
    let proxy = Proxy::before(&database.url).await;
    let options = Options::at(proxy.instead_of(&database.url).as_str()).unwrap();
    let store = Arc::new(PostgresStore::open(options).await.unwrap());
    append_one(&*store, append("subscription-0", 1, 1)).await.unwrap();
    let waking = |due_at| Append { wakeups: vec![("a".to_owned(), due_at)], ..Append::default() };

    proxy.hold_requests();
    let abandoned = appending(&store, &waking(Some(ms(300))));
    proxy.request_is_held().await;
    abandoned.abort();
    assert!(abandoned.await.unwrap_err().is_cancelled());
    assert_eq!(append_one(&*store, waking(Some(ms(300)))).await, Ok(1));
    assert_eq!(append_one(&*store, waking(Some(ms(100)))).await, Ok(1));
    proxy.release_and_see_the_end().await;

    let expected = Wakeup { key: "a".to_owned(), due_at: ms(100) };
    assert_eq!(store.reader().wakeups(0, None, 9).await, Ok(vec![expected]));
    assert_eq!(append_one(&*store, append("subscription-0", 2, 1)).await, Ok(2));
}

#[tokio::test]
async fn a_held_up_append_is_not_passed_by_readers_and_stalls_no_other_shard() {
    let database = Postgres::fresh().await;
    let store = &database.store;
    let mut stranger = database.stranger().await;
    let before = append("subscription-0", 1, 1);
    append_one(&**store, before.clone()).await.unwrap();
    hold_up(&mut stranger, "event", "subscription-1", false).await;

    let held = append("subscription-1", 1, 2);
    let behind = append("subscription-0", 2, 1);
    let answer = appending(store, &held);
    held_up(&mut stranger).await;
    let queued = appending(store, &behind);
    for shard in 1..9 {
        let stream = format!("deliveries-{shard}");
        assert_eq!(append_on(&**store, shard, append(&stream, 1, 1)).await, Ok(on(shard, 1)));
        assert_eq!(store.reader().read_log(on(shard, 0), 9).await.unwrap().len(), 1);
    }
    assert_eq!(whole_log(&**store).await, recorded(&before, 1));
    assert_eq!(store.reader().head(0).await, Ok(1));
    assert!(!answer.is_finished() && !queued.is_finished());
    let_go(&mut stranger).await;

    assert_eq!((answer.await.unwrap(), queued.await.unwrap()), (Ok(3), Ok(4)));
    let log = [recorded(&before, 1), recorded(&held, 2), recorded(&behind, 4)].concat();
    assert_eq!(whole_log(&**store).await, log);
}

#[tokio::test]
async fn a_batch_that_is_rolled_back_leaves_no_hole() {
    let database = Postgres::fresh().await;
    let store = &*database.store;
    let refuse = "ALTER TABLE event ADD CHECK (kind <> 'thing.refused')";
    sqlx::query(refuse).execute(&mut database.stranger().await).await.unwrap();
    let refused = NewEvent { kind: "thing.refused".into(), ..event() };
    let poison = Append { writes: vec![write("subscription-2", 1, vec![event(), refused])], ..Append::default() };
    let good = append("subscription-1", 1, 2);

    let answers = store.append(0, vec![good.clone(), poison]).await;
    assert!(answers.iter().all(unavailable), "{answers:?}");
    assert_eq!(store.append(0, vec![good.clone()]).await, [Ok(Appended { last: at(2) })]);
    assert_eq!(append_one(store, append("subscription-2", 1, 1)).await, Ok(3));
    assert_eq!(whole_log(store).await[..2], recorded(&good, 1));
}

// Whoever takes over waits for what is in flight, so the head that it finds is final.
#[tokio::test]
async fn taking_over_waits_for_an_append_in_flight_and_fences_the_next() {
    let database = Postgres::fresh().await;
    let mut stranger = database.stranger().await;
    hold_up(&mut stranger, "event", "subscription-1", true).await;
    let in_flight = append("subscription-1", 1, 2);

    let answer = appending(&database.store, &in_flight);
    held_up(&mut stranger).await;
    let taking_over = tokio::spawn(PostgresStore::open(database.options()));
    let blocked = "SELECT count(*) FROM pg_locks WHERE NOT granted AND locktype = 'transactionid'";
    while sqlx::query_scalar::<_, i64>(blocked).fetch_one(&mut stranger).await.unwrap() == 0 {}
    let_go(&mut stranger).await;

    assert_eq!(answer.await.unwrap(), Ok(2));
    let new = taking_over.await.unwrap().unwrap();
    assert_eq!(new.reader().head(0).await, Ok(2));
    let refused = append_one(&*database.store, append("subscription-1", 3, 1)).await;
    assert!(matches!(refused, Err(AppendError::Fenced { .. })), "{refused:?}");
    assert_eq!(append_one(&new, append("subscription-1", 3, 1)).await, Ok(3));
}

#[tokio::test]
async fn a_restart_of_the_database_costs_one_append_and_no_more() {
    let database = Postgres::fresh().await;
    let store = &database.store;
    let mut stranger = database.stranger().await;
    let shards: Vec<_> = (0..4).map(|shard| append_on(&**store, shard, append(&format!("a-{shard}"), 1, 1))).collect();
    assert!(futures_util::future::join_all(shards).await.iter().all(Result::is_ok));

    terminate_all(&mut stranger).await;

    let lost = append("subscription-1", 1, 1);
    assert!(unavailable(&append_one(&**store, lost.clone()).await));
    assert_eq!(append_one(&**store, lost).await, Ok(2));
    for shard in 1..4 {
        let next = append(&format!("a-{shard}"), 2, 1);
        assert_eq!(append_on(&**store, shard, next).await, Ok(Position { shard, seq: 2 }));
    }
}

#[tokio::test]
async fn reading_goes_on_after_a_restart_of_the_database() {
    let database = Postgres::fresh().await;
    let store = &*database.store;
    append_one(store, append("subscription-1", 1, 1)).await.unwrap();
    assert_eq!(store.reader().head(0).await, Ok(1));

    terminate_all(&mut database.stranger().await).await;

    // Each connection that was at rest may cost one read.
    let mut failures = 0;
    while let Err(ReadError::Unavailable(_)) = store.reader().head(0).await {
        failures += 1;
        assert!(failures <= 8);
    }
}

#[tokio::test]
async fn an_append_waits_out_a_short_absence_of_the_database() {
    let database = Postgres::fresh().await;
    let proxy = Proxy::before(&database.url).await;
    let options = Options::at(proxy.instead_of(&database.url).as_str()).unwrap();
    let store = Arc::new(PostgresStore::open(options).await.unwrap());
    proxy.bar();
    let before = proxy.calls();
    let answer = appending(&store, &append("subscription-1", 1, 1));
    while proxy.calls() < before + 3 {
        tokio::task::yield_now().await;
    }
    proxy.unbar();
    assert_eq!(answer.await.unwrap(), Ok(1));
}

#[tokio::test]
async fn while_there_is_no_database_an_append_is_refused_after_a_few_tries() {
    let database = Postgres::fresh().await;
    let proxy = Proxy::before(&database.url).await;
    let options = Options::at(proxy.instead_of(&database.url).as_str()).unwrap();
    let store = PostgresStore::open(options).await.unwrap();
    proxy.bar();
    let before = proxy.calls();

    let answer = append_one(&store, append("subscription-1", 1, 1)).await;

    assert!(unavailable(&answer), "{answer:?}");
    // The pauses double up to a second within five.
    assert!((2..=10).contains(&(proxy.calls() - before)), "{}", proxy.calls() - before);
    proxy.unbar();
    assert_eq!(append_one(&store, append("subscription-1", 1, 1)).await, Ok(1));
}
