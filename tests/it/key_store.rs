//! What every key store promises, tested alike on each of them.

use std::sync::Arc;

use sqlx::{AssertSqlSafe, Connection, PgConnection};
use tidings::key_store::{KeyStore, MemoryKeys, OpenError, PostgresKeys, SqliteKeys};

use crate::event_store::postgres::database::Fresh;

/// A store, and what has to live as long as it.
async fn stores() -> Vec<(&'static str, Arc<dyn KeyStore>, Box<dyn std::any::Any>)> {
    let folder = tempfile::tempdir().unwrap();
    let database = Fresh::empty().await;
    let sqlite = SqliteKeys::open(folder.path().join("log.db.keys")).await.unwrap();
    let postgres = PostgresKeys::open(database.url.as_str()).await.unwrap();
    vec![
        ("memory", Arc::new(MemoryKeys::default()), Box::new(())),
        ("sqlite", Arc::new(sqlite), Box::new(folder)),
        ("postgres", Arc::new(postgres), Box::new(database)),
    ]
}

async fn names(store: &dyn KeyStore, prefix: &str, after: &str, limit: usize) -> Vec<String> {
    store.rows(prefix, after, limit).await.unwrap().into_iter().map(|row| row.name).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_row_is_added_once_replaced_if_it_is_the_same_and_destroyed() {
    for (kind, store, _kept) in stores().await {
        assert_eq!(store.get("a/1").await, Ok(None), "{kind}");
        assert_eq!(store.add("a/1", b"one").await, Ok(true), "{kind}");
        assert_eq!(store.add("a/1", b"two").await, Ok(false), "{kind}");
        assert_eq!(store.get("a/1").await, Ok(Some(b"one".to_vec())), "{kind}");
        assert_eq!(store.replace("a/1", b"two", b"three").await, Ok(false), "{kind}");
        assert_eq!(store.replace("a/1", b"one", b"three").await, Ok(true), "{kind}");
        assert_eq!(store.replace("a/2", b"", b"three").await, Ok(false), "{kind}");
        assert_eq!(store.get("a/1").await, Ok(Some(b"three".to_vec())), "{kind}");
        assert_eq!(store.destroy(&["a/1".into(), "a/2".into()]).await, Ok(1), "{kind}");
        assert_eq!(store.get("a/1").await, Ok(None), "{kind}");
        store.scrub().await.unwrap();
        store.close().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn rows_are_listed_by_the_beginnings_of_their_names_and_counted_by_those_of_their_bytes() {
    for (kind, store, _kept) in stores().await {
        for (name, value) in [("b/1", "xy1"), ("a/2", "xy2"), ("a/1", "xx3"), ("a_1", "x")] {
            store.add(name, value.as_bytes()).await.unwrap();
        }
        assert_eq!(names(&*store, "", "", 9).await, ["a/1", "a/2", "a_1", "b/1"], "{kind}");
        assert_eq!(names(&*store, "a/", "", 9).await, ["a/1", "a/2"], "{kind}");
        assert_eq!(names(&*store, "a/", "a/1", 9).await, ["a/2"], "{kind}");
        assert_eq!(names(&*store, "", "a/1", 2).await, ["a/2", "a_1"], "{kind}");
        let counted = [("x", 1), ("xx", 1), ("xy", 2)].map(|(head, rows)| (head.as_bytes().to_vec(), rows));
        assert_eq!(store.census(2).await.unwrap(), counted, "{kind}");
        store.close().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn rows_are_there_after_the_store_was_opened_again() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("log.db.keys");
    assert!(matches!(SqliteKeys::read(&path).await.unwrap_err(), OpenError::Missing(_)));
    let database = Fresh::empty().await;
    assert!(matches!(PostgresKeys::read(database.url.as_str()).await.unwrap_err(), OpenError::Missing(_)));
    // As a first start leaves them that is killed before it has made the table.
    std::fs::write(&path, b"").unwrap();
    let mut connection = PgConnection::connect(database.url.as_str()).await.unwrap();
    sqlx::query("CREATE SCHEMA tidings_keys").execute(&mut connection).await.unwrap();
    assert!(matches!(SqliteKeys::read(&path).await.unwrap_err(), OpenError::Missing(_)));
    assert!(matches!(PostgresKeys::read(database.url.as_str()).await.unwrap_err(), OpenError::Missing(_)));
    let written: [Box<dyn KeyStore>; 2] = [
        Box::new(SqliteKeys::open(&path).await.unwrap()),
        Box::new(PostgresKeys::open(database.url.as_str()).await.unwrap()),
    ];
    for store in &written {
        store.add("a", b"sealed").await.unwrap();
    }
    let again: [Box<dyn KeyStore>; 4] = [
        Box::new(SqliteKeys::read(&path).await.unwrap()),
        Box::new(PostgresKeys::read(database.url.as_str()).await.unwrap()),
        Box::new(SqliteKeys::open(&path).await.unwrap()),
        Box::new(PostgresKeys::open(database.url.as_str()).await.unwrap()),
    ];
    for store in &again {
        assert_eq!(store.get("a").await, Ok(Some(b"sealed".to_vec())));
    }
    for reader in &again[..2] {
        assert!(reader.add("b", b"sealed").await.is_err());
    }
    for store in written.iter().chain(&again) {
        store.close().await;
    }
}

#[tokio::test]
async fn what_was_destroyed_or_replaced_is_no_longer_in_the_files() {
    let folder = tempfile::tempdir().unwrap();
    let store = SqliteKeys::open(folder.path().join("log.db.keys")).await.unwrap();
    let (one, other) = (b"a sealed secret that nobody must find".repeat(300), b"what came in its place".repeat(300));
    let found = |sealed: &[u8]| {
        ["log.db.keys", "log.db.keys-wal"].iter().any(|name| {
            let bytes = std::fs::read(folder.path().join(name)).unwrap();
            bytes.windows(20).any(|window| window == &sealed[..20])
        })
    };
    store.add("sec_1", &one).await.unwrap();
    assert!(found(&one));
    assert_eq!(store.replace("sec_1", &one, &other).await, Ok(true));
    store.scrub().await.unwrap();
    assert!(!found(&one) && found(&other));
    store.destroy(&["sec_1".to_owned()]).await.unwrap();
    assert!(!found(&other));
}

#[tokio::test]
async fn the_file_is_nobody_elses_business_and_a_copy_is_whole() {
    use std::os::unix::fs::PermissionsExt;

    let folder = tempfile::tempdir().unwrap();
    let (path, copy) = (folder.path().join("log.db.keys"), folder.path().join("copy"));
    let store = SqliteKeys::open(&path).await.unwrap();
    store.add("a", b"sealed").await.unwrap();
    SqliteKeys::copy(&path, &copy).await.unwrap();
    assert!(SqliteKeys::copy(&path, &copy).await.is_err(), "an existing file was overwritten");
    for file in [&path, &copy] {
        assert_eq!(std::fs::metadata(file).unwrap().permissions().mode() & 0o777, 0o600);
    }
    assert_eq!(SqliteKeys::open(&copy).await.unwrap().get("a").await, Ok(Some(b"sealed".to_vec())));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_role_of_its_own_keeps_the_keys_and_the_logs_role_does_not_see_them() {
    let database = Fresh::empty().await;
    let name = database.url.path().trim_start_matches('/').to_owned();
    let (keeper, other) = (format!("keeper_{name}"), format!("other_{name}"));
    let mut operator = PgConnection::connect(database.url.as_str()).await.unwrap();
    for sql in [
        format!("CREATE ROLE {keeper} LOGIN"),
        format!("CREATE ROLE {other} LOGIN"),
        format!("CREATE SCHEMA tidings_keys AUTHORIZATION {keeper}"),
    ] {
        sqlx::query(AssertSqlSafe(sql)).execute(&mut operator).await.unwrap();
    }
    let as_role = |role: &str| {
        let mut url = database.url.clone();
        url.set_username(role).unwrap();
        url
    };
    let store = PostgresKeys::open(as_role(&keeper).as_str()).await.unwrap();
    assert_eq!(store.add("a", b"sealed").await, Ok(true));
    store.scrub().await.unwrap();
    let mut stranger = PgConnection::connect(as_role(&other).as_str()).await.unwrap();
    let refused = sqlx::query("SELECT name FROM tidings_keys.sealed").execute(&mut stranger).await.unwrap_err();
    assert!(refused.to_string().contains("permission denied"), "{refused}");
    stranger.close().await.unwrap();
    store.close().await;
    for sql in [format!("DROP OWNED BY {keeper}"), format!("DROP ROLE {keeper}"), format!("DROP ROLE {other}")] {
        sqlx::query(AssertSqlSafe(sql)).execute(&mut operator).await.unwrap();
    }
}
