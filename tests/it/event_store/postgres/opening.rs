//! What becomes of opening a database that is not there yet, not to be trusted, or not this program's.

use std::error::Error;
use std::time::Duration;

use sqlx::Executor;
use tidings::event_store::postgres::{OpenError, Options};
use tidings::event_store::{EventStore, PostgresStore};

use super::Postgres;
use super::database::Fresh;
use super::proxy::Proxy;
use crate::event_store::{Database, append, append_one};

#[tokio::test]
async fn tls_that_is_asked_for_and_not_offered_is_refused() {
    let database = Fresh::empty().await;
    for mode in ["require", "verify-ca", "verify-full"] {
        let mut url = database.url.clone();
        url.set_query(Some(&format!("sslmode={mode}")));
        let refused = PostgresStore::open(Options::at(url.as_str()).unwrap()).await.unwrap_err();
        assert!(matches!(refused, OpenError::Tls(_)), "{refused:?}");
        let said = format!("{refused}: {}", refused.source().unwrap());
        assert!(said.contains("sslmode") && said.contains("server does not support TLS"), "{said}");
    }
}

#[tokio::test]
async fn a_database_that_is_only_starting_is_waited_for() {
    let database = Fresh::empty().await;
    let proxy = Proxy::before(&database.url).await;
    proxy.bar();
    let options = Options::at(proxy.instead_of(&database.url).as_str()).unwrap();
    let opening = tokio::spawn(PostgresStore::open(options));
    while proxy.calls() < 2 {
        assert!(!opening.is_finished(), "gave up at once");
        tokio::task::yield_now().await;
    }
    proxy.unbar();
    assert_eq!(opening.await.unwrap().unwrap().reader().shards(), 64);
}

#[tokio::test]
async fn patience_with_a_database_ends() {
    let database = Fresh::empty().await;
    let proxy = Proxy::before(&database.url).await;
    proxy.bar();
    let mut options = Options::at(proxy.instead_of(&database.url).as_str()).unwrap();
    options.patience = Duration::ZERO;
    let refused = PostgresStore::open(options).await.unwrap_err();
    assert!(matches!(refused, OpenError::Database(_)), "{refused:?}");
    assert_eq!(proxy.calls(), 1);
}

#[tokio::test]
async fn a_database_of_a_newer_program_is_not_taken_over() {
    let database = Postgres::fresh().await;
    let newer = "INSERT INTO _sqlx_migrations (version, description, success, checksum, execution_time) \
         VALUES (9999, 'from tomorrow', true, ''::bytea, 0)";
    database.stranger().await.execute(newer).await.unwrap();
    let refused = PostgresStore::open(database.options()).await.unwrap_err();
    let said = format!("{refused}: {}", refused.source().unwrap());
    assert!(matches!(refused, OpenError::Migrate(_)) && said.contains("9999"), "{said}");
    assert_eq!(append_one(&*database.store, append("subscription-1", 1, 1)).await, Ok(1));
}

#[tokio::test]
async fn tables_of_somebody_else_are_left_alone() {
    let database = Fresh::empty().await;
    let mut stranger = <sqlx::PgConnection as sqlx::Connection>::connect(database.url.as_str()).await.unwrap();
    stranger.execute("CREATE TABLE event (theirs TEXT)").await.unwrap();
    let refused = PostgresStore::open(Options::at(database.url.as_str()).unwrap()).await.unwrap_err();
    let said = format!("{refused}: {}", refused.source().unwrap());
    assert!(matches!(refused, OpenError::Migrate(_)) && said.contains("\"event\" already exists"), "{said}");
    stranger.execute("SELECT theirs FROM event").await.unwrap();
}
