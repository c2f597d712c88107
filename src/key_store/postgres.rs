//! Sealed rows in a PostgreSQL schema of their own, `tidings_keys`: in the log's database or another, under the log's role
//! or one that alone may read it.

use std::str::FromStr;
use std::time::Duration;

use async_trait::async_trait;
use sqlx::migrate::Migrator;
use sqlx::postgres::{PgConnectOptions, PgPool, PgPoolOptions};
use sqlx::{ConnectOptions, Connection};
use tokio::time::timeout;

use super::{KeyStore, KeyStoreError, OpenError, SealedRow, counted, end_of, horizon, limit_of};

static MIGRATOR: Migrator = sqlx::migrate!("migrations/postgres_keys");

/// Where the table is.
const SCHEMA: &str = "tidings_keys";
/// Connections: secrets are read when they are not in memory, which is seldom.
const CONNECTIONS: u32 = 2;
/// How long one waits for a connection.
const ACQUIRE_TIMEOUT: Duration = Duration::from_secs(5);
/// For how long cleaning up may take.
const SCRUB_TIMEOUT: Duration = Duration::from_secs(60);
/// What holds for every connection: a commit is on disk when it is answered, and names are looked for here alone.
const SETTINGS: [(&str, &str); 4] =
    [("search_path", SCHEMA), ("synchronous_commit", "on"), ("statement_timeout", "10s"), ("lock_timeout", "5s")];

/// Sealed rows in a schema of their own.
#[derive(Debug)]
pub struct PostgresKeys {
    connect: PgConnectOptions,
    pool: PgPool,
}

impl PostgresKeys {
    /// Opens the schema in the database at `postgres://user:password@host:port/database`, making it if there is none.
    pub async fn open(url: &str) -> Result<Self, OpenError> {
        let connect = options(url)?;
        let mut connection = connect.connect().await?;
        if !has_schema(&mut connection).await? {
            sqlx::query("CREATE SCHEMA IF NOT EXISTS tidings_keys").execute(&mut connection).await?;
        }
        for (name, wanted) in [("synchronous_commit", "on"), ("fsync", "on")] {
            let setting = sqlx::query_scalar("SELECT current_setting($1)").bind(name);
            let found: String = setting.fetch_one(&mut connection).await?;
            if found != wanted {
                return Err(OpenError::Setting { name, wanted, found });
            }
        }
        // `run` does the same, but its future cannot be proven `Send`.
        MIGRATOR.run_direct(None, &mut connection, false).await?;
        connection.close().await?;
        Ok(Self { pool: pool(&connect), connect })
    }

    /// Opens a key store that is there, to be asked only.
    pub async fn read(url: &str) -> Result<Self, OpenError> {
        let connect = options(url)?.options([("default_transaction_read_only", "on")]);
        let mut connection = connect.connect().await?;
        // A first start that was killed may have made the schema and not yet what stands in it.
        let table =
            sqlx::query_scalar("SELECT EXISTS (SELECT FROM pg_tables WHERE schemaname = $1 AND tablename = 'sealed')");
        let is_there: bool = table.bind(SCHEMA).fetch_one(&mut connection).await?;
        connection.close().await?;
        if is_there {
            Ok(Self { pool: pool(&connect), connect })
        } else {
            Err(OpenError::Missing(format!("table {SCHEMA}.sealed of the database")))
        }
    }
}

fn options(url: &str) -> Result<PgConnectOptions, OpenError> {
    let connect = PgConnectOptions::from_str(url)?.application_name("tidings keys").disable_statement_logging();
    Ok(connect.options(SETTINGS))
}

fn pool(connect: &PgConnectOptions) -> PgPool {
    PgPoolOptions::new()
        .max_connections(CONNECTIONS)
        .acquire_timeout(ACQUIRE_TIMEOUT)
        .idle_timeout(None)
        .max_lifetime(None)
        .connect_lazy_with(connect.clone())
}

/// Asked first: whoever may use the schema need not be allowed to make one.
async fn has_schema(connection: &mut sqlx::PgConnection) -> Result<bool, sqlx::Error> {
    let query = sqlx::query_scalar("SELECT EXISTS (SELECT FROM pg_namespace WHERE nspname = $1)");
    query.bind(SCHEMA).fetch_one(connection).await
}

fn failed(error: &sqlx::Error) -> KeyStoreError {
    // PostgreSQL's `disk_full`.
    match error.as_database_error().and_then(|error| error.code()).is_some_and(|code| code == "53100") {
        true => KeyStoreError::Full(error.to_string()),
        false => KeyStoreError::Unavailable(error.to_string()),
    }
}

#[async_trait]
impl KeyStore for PostgresKeys {
    async fn get(&self, name: &str) -> Result<Option<Vec<u8>>, KeyStoreError> {
        let query = sqlx::query_scalar("SELECT value FROM sealed WHERE name = $1").bind(name);
        query.fetch_optional(&self.pool).await.map_err(|error| failed(&error))
    }

    async fn rows(&self, prefix: &str, after: &str, limit: usize) -> Result<Vec<SealedRow>, KeyStoreError> {
        let query = sqlx::query_as(
            "SELECT name, value FROM sealed WHERE name >= $1 AND name < $2 AND name > $3 ORDER BY name LIMIT $4",
        );
        let query = query.bind(prefix).bind(end_of(prefix)).bind(after).bind(limit_of(limit));
        let rows: Vec<(String, Vec<u8>)> = query.fetch_all(&self.pool).await.map_err(|error| failed(&error))?;
        Ok(rows.into_iter().map(|(name, value)| SealedRow { name, value }).collect())
    }

    async fn add(&self, name: &str, value: &[u8]) -> Result<bool, KeyStoreError> {
        let query = sqlx::query("INSERT INTO sealed (name, value) VALUES ($1, $2) ON CONFLICT (name) DO NOTHING");
        let done = query.bind(name).bind(value).execute(&self.pool).await.map_err(|error| failed(&error))?;
        Ok(done.rows_affected() == 1)
    }

    async fn replace(&self, name: &str, before: &[u8], value: &[u8]) -> Result<bool, KeyStoreError> {
        let query = sqlx::query("UPDATE sealed SET value = $3 WHERE name = $1 AND value = $2");
        let query = query.bind(name).bind(before).bind(value);
        Ok(query.execute(&self.pool).await.map_err(|error| failed(&error))?.rows_affected() == 1)
    }

    async fn destroy(&self, names: &[String]) -> Result<u64, KeyStoreError> {
        let query = sqlx::query("DELETE FROM sealed WHERE name = ANY($1)").bind(names);
        Ok(query.execute(&self.pool).await.map_err(|error| failed(&error))?.rows_affected())
    }

    async fn census(&self, length: u8) -> Result<Vec<(Vec<u8>, u64)>, KeyStoreError> {
        let query =
            sqlx::query_as("SELECT substr(value, 1, $1) AS head, COUNT(*) FROM sealed GROUP BY head ORDER BY head");
        let rows: Vec<(Vec<u8>, i64)> =
            query.bind(i32::from(length)).fetch_all(&self.pool).await.map_err(|error| failed(&error))?;
        Ok(rows.into_iter().map(|(head, rows)| (head, counted(rows))).collect())
    }

    async fn scrub(&self) -> Result<bool, KeyStoreError> {
        let cleaned = async {
            let mut connection = self.connect.clone().options([("statement_timeout", "0")]).connect().await?;
            let has_passed = horizon::has_passed(&mut connection).await?;
            if has_passed {
                // The table is small, and only a vacuum that rewrites it leaves no bytes in free space.
                sqlx::query("VACUUM FULL sealed").execute(&mut connection).await?;
            }
            connection.close().await.map(|()| has_passed)
        };
        let cleaned = timeout(SCRUB_TIMEOUT, cleaned).await;
        cleaned
            .map_err(|_| KeyStoreError::Unavailable("cleaning up took too long".into()))?
            .map_err(|error| failed(&error))
    }

    async fn close(&self) {
        self.pool.close().await;
    }
}
