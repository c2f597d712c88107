//! What only PostgreSQL promises: about its shards, its constraints and what it keeps out.

pub(crate) mod database;
mod faults;
mod opening;
pub(crate) mod proxy;
mod reader;
mod retention;

use futures_util::FutureExt;
use tidings::event_store::postgres::OpenError;
use tidings::event_store::{AppendError, Claim, EventStore, NewEvent, Position, PostgresStore, ReadError};

pub(super) use self::database::Postgres;
use super::{Append, Database, append, append_one, at, event, recorded, whole_log, write};

fn on(shard: u16, seq: u64) -> Position {
    Position { shard, seq }
}

async fn append_on(store: &dyn EventStore, shard: u16, append: Append) -> Result<Position, AppendError> {
    store.append(shard, vec![append]).await.remove(0).map(|appended| appended.last)
}

#[tokio::test]
async fn each_shard_counts_for_itself() {
    let database = Postgres::fresh().await;
    let store = &*database.store;
    assert_eq!(store.reader().shards(), 64);
    for shard in [0, 1, 63] {
        let stream = format!("subscription-{shard}");
        assert_eq!(append_on(store, shard, append(&stream, 1, 2)).await, Ok(on(shard, 2)));
        assert_eq!(append_on(store, shard, append(&stream, 3, 1)).await, Ok(on(shard, 3)));
        assert_eq!(store.reader().head(shard).await, Ok(3));
    }
    assert_eq!(store.reader().head(2).await, Ok(0));
    let log = store.reader().read_log(on(63, 1), 9).await.unwrap();
    assert_eq!(log.iter().map(|event| event.position).collect::<Vec<_>>(), [on(63, 2), on(63, 3)]);
}

#[tokio::test]
async fn a_stream_is_found_wherever_it_is_and_can_be_in_one_shard_only() {
    let database = Postgres::fresh().await;
    let store = &*database.store;
    let first = append("subscription-1", 1, 1);
    assert_eq!(append_on(store, 7, first.clone()).await, Ok(on(7, 1)));
    assert_eq!(store.reader().stream_version("subscription-1").await, Ok(1));
    assert_eq!(store.reader().read_stream("subscription-1", 1, 9).await.unwrap()[0].position, on(7, 1));
    for refused in [first, append("subscription-1", 1, 1)] {
        let conflict = AppendError::Conflict { stream: "subscription-1".to_owned(), expected: 1 };
        assert_eq!(append_on(store, 8, refused).await, Err(conflict));
    }
    assert_eq!(store.reader().head(8).await, Ok(0));
}

#[tokio::test]
async fn claims_wakeups_contents_and_categories_are_a_shards_own() {
    let database = Postgres::fresh().await;
    let store = &*database.store;
    for shard in [0_u16, 1] {
        let taken = Append {
            writes: vec![write(
                &format!("subscription-{shard}"),
                1,
                vec![NewEvent { content: Some(shard.to_string().into()), ..event() }, event()],
            )],
            claims: vec![Claim { key: "name".to_owned(), value: shard.to_string(), bucket: None }],
            wakeups: vec![("a".to_owned(), Some(super::ms(i64::from(shard))))],
            ..Append::default()
        };
        assert_eq!(append_on(store, shard, taken).await, Ok(on(shard, 2)));
    }
    for shard in [0_u16, 1] {
        assert_eq!(store.reader().claims(shard, &["name".to_owned()]).await.unwrap()["name"], shard.to_string());
        assert_eq!(store.reader().wakeups(shard, None, 9).await.unwrap()[0].due_at, super::ms(i64::from(shard)));
        assert_eq!(store.reader().content(on(shard, 1)).await, Ok(Some(shard.to_string().into())));
        let category = store.reader().read_category("subscription", on(shard, u64::MAX), None, 9).await.unwrap();
        assert_eq!(category.iter().map(|event| event.position).collect::<Vec<_>>(), [on(shard, 1), on(shard, 2)]);
    }
}

#[tokio::test]
async fn payloads_keep_their_bytes() {
    let database = Postgres::fresh().await;
    let data = r#"{ "b" : 1.0e+3,"a":[ ],"a" : "\u0000\u00e9é" }"#.to_owned();
    let meta = Some(r#"{"z":1, "a" :2}"#.to_owned());
    let written = Append {
        writes: vec![write("subscription-1", 1, vec![NewEvent { data, meta, ..event() }])],
        ..Append::default()
    };
    append_one(&*database.store, written.clone()).await.unwrap();
    assert_eq!(whole_log(&*database.store).await, recorded(&written, 1));
}

#[tokio::test]
async fn whoever_opens_takes_over_every_shard() {
    let database = Postgres::fresh().await;
    let old = &*database.store;
    append_on(old, 5, append("subscription-1", 1, 1)).await.unwrap();

    let new = PostgresStore::open(database.options()).await.unwrap();

    for shard in 0..64 {
        let refused = append_on(old, shard, append(&format!("deliveries-{shard}"), 1, 1)).await;
        assert!(matches!(refused, Err(AppendError::Fenced { shard: of, .. }) if of == shard), "{refused:?}");
    }
    assert_eq!(append_on(&new, 5, append("subscription-1", 2, 1)).await, Ok(on(5, 2)));
    assert_eq!(append_on(&new, 6, append("subscription-2", 1, 1)).await, Ok(on(6, 1)));
}

#[tokio::test]
async fn the_number_of_shards_is_fixed_and_asking_for_another_takes_nothing_over() {
    let database = Postgres::fresh().await;
    for shards in [1, 65] {
        let mut options = database.options();
        options.shards = shards;
        let refused = PostgresStore::open(options).await.unwrap_err();
        assert_eq!(refused.to_string(), format!("the database has 64 shards, and database.shards asks for {shards}"));
        assert!(matches!(refused, OpenError::Shards { found: 64, .. }));
    }
    assert_eq!(append_one(&*database.store, append("subscription-1", 1, 1)).await, Ok(1));
}

#[tokio::test]
async fn an_event_can_be_neither_updated_nor_deleted() {
    let database = Postgres::fresh().await;
    append_one(&*database.store, append("subscription-1", 1, 1)).await.unwrap();
    let mut stranger = database.stranger().await;
    for (sql, refusal) in [
        ("UPDATE event SET data = '{}'", "an event is never updated"),
        ("DELETE FROM event", "an event is never deleted"),
        ("TRUNCATE event", "an event is never deleted"),
        (
            "INSERT INTO event SELECT * FROM event ON CONFLICT (shard, seq) DO UPDATE SET data = ''",
            "an event is never updated",
        ),
    ] {
        let error = sqlx::query(sql).execute(&mut stranger).await.unwrap_err().to_string();
        assert!(error.contains(refusal), "{error}");
    }
}

#[tokio::test]
async fn a_damaged_event_is_named_by_its_position() {
    let database = Postgres::fresh().await;
    let store = &*database.store;
    append_one(store, append("subscription-1", 1, 1)).await.unwrap();
    let sql = "INSERT INTO event SELECT 0, 2, stream, 2, kind, 70000, event_id, at_ms, data, meta FROM event";
    sqlx::query(sql).execute(&mut database.stranger().await).await.unwrap();
    let (stream, reason) = (Some("subscription-1".to_owned()), "70000 is no schema version".to_owned());
    assert_eq!(store.reader().read_log(at(0), 9).await, Err(ReadError::Damaged { position: at(2), stream, reason }));
    assert_eq!(store.reader().read_log(at(0), 1).await.unwrap().len(), 1);
}

#[tokio::test]
async fn an_earlier_owner_does_not_set_back_a_checkpoint() {
    let database = Postgres::fresh().await;
    let new = database.store.reopen().await.unwrap();
    new.save_checkpoint("matcher", at(9)).await.unwrap();
    // As if the old owner had looked at the shard before it was taken over, and wrote only now.
    let sql = "UPDATE shard SET epoch = epoch - 1 WHERE shard = 0";
    sqlx::query(sql).execute(&mut database.stranger().await).await.unwrap();
    let refused = database.store.save_checkpoint("matcher", at(3)).await;
    assert!(matches!(refused, Err(AppendError::Fenced { .. })), "{refused:?}");
    assert_eq!(new.reader().checkpoint("matcher", 0).await, Ok(Some(9)));
}

#[tokio::test]
async fn a_caller_that_goes_away_halfway_leaves_a_whole_append_or_nothing() {
    let database = Postgres::fresh().await;
    let store = &*database.store;
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
        assert_eq!(append_one(store, written).await, Ok(version));
    }
    assert!(whole_log(store).await.iter().zip(1..).all(|(event, seq)| event.position.seq == seq));
}

#[tokio::test]
async fn after_closing_nothing_is_written() {
    let database = Postgres::fresh().await;
    let store = database.store.reopen().await.unwrap();
    append_one(&store, append("subscription-1", 1, 1)).await.unwrap();
    store.close().await;
    let connections = "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND state = 'idle'";
    let mut stranger = database.stranger().await;
    while sqlx::query_scalar::<_, i64>(connections).fetch_one(&mut stranger).await.unwrap() > 0 {
        tokio::task::yield_now().await;
    }
}

#[tokio::test]
async fn tables_that_a_newer_program_has_changed_are_left_alone() {
    let database = Postgres::fresh().await;
    let newer = "INSERT INTO _sqlx_migrations (version, description, success, checksum, execution_time)
         VALUES (9999, 'of a newer program', TRUE, '', 0)";
    sqlx::query(newer).execute(&mut database.stranger().await).await.unwrap();

    let refused = PostgresStore::open(database.options()).await.unwrap_err();

    assert!(matches!(refused, OpenError::Migrate(_)), "{refused}");
    assert!(std::error::Error::source(&refused).unwrap().to_string().contains("9999"), "{refused:?}");
    let written = append_one(&*database.store, append("subscription-1", 1, 1)).await;
    assert_eq!(written, Ok(1), "the older program took over");
}
