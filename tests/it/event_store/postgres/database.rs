//! A PostgreSQL database for each test, copied from one whose tables are up to date, and dropped after it.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use async_trait::async_trait;
use sqlx::{AssertSqlSafe, Connection, PgConnection};
use tidings::event_store::postgres::Options;
use tidings::event_store::{EventStore, PostgresStore};
use tokio::sync::OnceCell;
use url::Url;

use crate::event_store::Database;

pub(crate) struct Postgres {
    pub(crate) store: Arc<PostgresStore>,
    pub(crate) url: Url,
    _database: Fresh,
}

/// A database of its own, dropped with this.
pub(crate) struct Fresh {
    pub(crate) url: Url,
    name: String,
    tablespace: Option<String>,
}

impl Fresh {
    /// One without any tables.
    pub(crate) async fn empty() -> Self {
        Self::copy_of("template1").await
    }

    /// One whose tables and indexes are in the folder, which is empty and the database server's own. The write-ahead
    /// log is where it always is.
    pub(crate) async fn in_folder(folder: &Path) -> Self {
        let tablespace = unique("folder");
        run_at_server(format!("CREATE TABLESPACE {tablespace} LOCATION '{}'", folder.display())).await;
        let mut database = Self::copy_of(&format!("template1 TABLESPACE {tablespace}")).await;
        database.tablespace = Some(tablespace);
        database
    }

    async fn copy_of(template: &str) -> Self {
        let name = unique("test");
        run_at_server(format!("CREATE DATABASE {name} TEMPLATE {template}")).await;
        Self { url: at_database(&name), name, tablespace: None }
    }
}

/// Where the database server keeps its files.
pub(crate) async fn data_directory() -> PathBuf {
    let mut connection = PgConnection::connect(server().as_str()).await.unwrap();
    let directory: String = sqlx::query_scalar("SHOW data_directory").fetch_one(&mut connection).await.unwrap();
    directory.into()
}

impl Postgres {
    /// A connection of somebody else's, past the store.
    pub(crate) async fn stranger(&self) -> PgConnection {
        PgConnection::connect(self.url.as_str()).await.unwrap()
    }

    pub(crate) fn options(&self) -> Options {
        Options::at(self.url.as_str()).unwrap()
    }
}

#[async_trait]
impl Database for Postgres {
    async fn fresh() -> Self {
        static TEMPLATE: OnceCell<String> = OnceCell::const_new();
        let template = TEMPLATE.get_or_init(template).await;
        let database = Fresh::copy_of(template).await;
        let url = database.url.clone();
        let store = PostgresStore::open(Options::at(url.as_str()).unwrap()).await.unwrap();
        Self { store: Arc::new(store), url, _database: database }
    }

    fn store(&self) -> Arc<dyn EventStore> {
        self.store.clone()
    }

    async fn reopened(&self) -> Arc<dyn EventStore> {
        Arc::new(self.store.reopen().await.unwrap())
    }
}

impl Drop for Fresh {
    fn drop(&mut self) {
        let database = format!("DROP DATABASE {} WITH (FORCE)", self.name);
        let tablespace = self.tablespace.take().map(|name| format!("DROP TABLESPACE {name}"));
        // In a thread of its own: a runtime cannot wait for another from inside.
        let dropping = std::thread::spawn(|| {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            runtime.block_on(async {
                run_at_server(database).await;
                if let Some(tablespace) = tablespace {
                    run_at_server(tablespace).await;
                }
            });
        });
        // A test that failed says why by itself.
        drop(dropping.join());
    }
}

async fn template() -> String {
    let name = unique("template");
    run_at_server(format!("CREATE DATABASE {name}")).await;
    let options = Options::at(at_database(&name).as_str()).unwrap();
    PostgresStore::open(options).await.unwrap().close().await;
    name
}

fn unique(purpose: &str) -> String {
    use std::sync::atomic::{AtomicU64, Ordering};
    static NEXT: AtomicU64 = AtomicU64::new(1);
    format!("tidings_{purpose}_{}_{}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed))
}

fn server() -> Url {
    let url = std::env::var("POSTGRES_TEST_URL").expect(
        "POSTGRES_TEST_URL names no PostgreSQL server to test on; \
         `scripts/postgres-test-cluster cargo test` starts one and names it",
    );
    url.parse().unwrap()
}

fn at_database(name: &str) -> Url {
    let mut url = server();
    url.set_path(name);
    url
}

/// The statement holds no value but names made above.
async fn run_at_server(sql: String) {
    let mut connection = PgConnection::connect(server().as_str()).await.unwrap();
    sqlx::query(AssertSqlSafe(sql)).execute(&mut connection).await.unwrap();
    connection.close().await.unwrap();
}
