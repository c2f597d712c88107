//! Reading beside the servers.

use std::time::Duration;

use tidings::event_store::postgres::{OpenError, Options};
use tidings::event_store::{EventReader, PostgresReader};
use tokio::time::timeout;

use super::{Postgres, append_on, on};
use crate::event_store::{Database, append, append_one, at, bucketed, whole_log};

/// Never reached by a test that passes.
const PATIENCE: Duration = Duration::from_secs(60);

async fn refused(options: Options) -> String {
    let refused = PostgresReader::open(options).await.unwrap_err();
    let OpenError::Tables(reason) = refused else { panic!("{refused}") };
    reason
}

#[tokio::test]
async fn a_reader_sees_each_commit_and_takes_nothing_over() {
    let database = Postgres::fresh().await;
    let store = &*database.store;
    append_one(store, append("subscription-1", 1, 1)).await.unwrap();

    let reader = PostgresReader::open(database.options()).await.unwrap();

    assert_eq!(reader.shards(), 64);
    assert_eq!(append_one(store, bucketed("d-1", 1, 7, 2)).await, Ok(3));
    assert_eq!(append_on(store, 9, append("subscription-2", 1, 1)).await, Ok(on(9, 1)));
    assert_eq!(reader.read_log(at(0), 9).await.unwrap(), whole_log(store).await);
    assert_eq!((reader.head(0).await, reader.head(9).await), (Ok(3), Ok(1)));
    assert!(reader.head(64).await.is_err());
    reader.close().await;
    assert_eq!(append_one(store, append("subscription-1", 2, 1)).await, Ok(4));
}

#[tokio::test]
async fn a_reader_elsewhere_is_woken_by_what_is_appended() {
    let database = Postgres::fresh().await;
    let reader = PostgresReader::open(database.options()).await.unwrap();
    // It would have to wait for the end of the world; the first time it only begins to listen.
    let never = Duration::from_secs(1_000_000);
    timeout(PATIENCE, reader.wait_for_news(never)).await.unwrap();
    for version in 1..=3 {
        append_on(&*database.store, 9, append("subscription-2", version, 1)).await.unwrap();
        timeout(PATIENCE, reader.wait_for_news(never)).await.unwrap();
        assert_eq!(reader.head(9).await, Ok(version));
    }
    // Cut off, it asks when its time has come, and listens again.
    sqlx::query("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE query LIKE 'LISTEN%'")
        .execute(&mut database.stranger().await)
        .await
        .unwrap();
    reader.wait_for_news(Duration::from_millis(1)).await;
    reader.close().await;
}

#[tokio::test]
async fn tables_of_another_form_are_refused_and_left_as_they_are() {
    let database = Postgres::fresh().await;
    let mut stranger = database.stranger().await;
    for (sql, expected) in [
        ("INSERT INTO _sqlx_migrations SELECT 9999, '', now(), TRUE, '', 0", "migration 9999 is of a newer program"),
        (
            "DELETE FROM _sqlx_migrations WHERE version = 9999; UPDATE _sqlx_migrations SET checksum = ''",
            "migration 1 is another one, or was not finished",
        ),
        ("DELETE FROM _sqlx_migrations", "migration 1 is missing; a server applies it"),
        ("DROP TABLE _sqlx_migrations", "it holds no log"),
    ] {
        sqlx::raw_sql(sql).execute(&mut stranger).await.unwrap();
        assert_eq!(refused(database.options()).await, expected);
    }
    let made = "SELECT to_regclass('_sqlx_migrations') IS NOT NULL";
    assert!(!sqlx::query_scalar::<_, bool>(made).fetch_one(&mut stranger).await.unwrap());
}

#[tokio::test]
async fn another_number_of_shards_is_refused() {
    let database = Postgres::fresh().await;
    let mut options = database.options();
    options.shards = 3;
    let refused = PostgresReader::open(options).await.unwrap_err();
    assert!(matches!(refused, OpenError::Shards { wanted: 3, found: 64 }), "{refused}");
}
