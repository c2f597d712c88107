//! Asking the log: what its owner does, and what others may do beside the owner.

use std::collections::HashMap;
use std::fmt;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use sqlx::postgres::{PgArguments, PgPool, PgRow};
use sqlx::query::{Query, QueryScalar};
use sqlx::{Connection, PgConnection, Postgres, Row};
use tokio::sync::Mutex;
use tokio::time::{Instant, sleep_until, timeout_at};

use super::herald::Listener;
use super::open::{self, OpenError, Options};
use super::{MIGRATOR, no_shard, read};
use crate::event_store::row::{integer, number, unavailable};
use crate::event_store::{
    Bucket, BucketEnd, Claim, EventReader, Period, Position, ReadError, Recorded, StoredSnapshot, StreamName, Wakeup,
};

/// The log in PostgreSQL, to be read only: it takes nothing over and changes nothing, so servers may run meanwhile.
pub struct PostgresReader {
    shards: u16,
    pool: PgPool,
    options: Options,
    /// Absent until somebody waits for news, and after a failure.
    listener: Mutex<Option<Listener>>,
}

impl fmt::Debug for PostgresReader {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PostgresReader").field("shards", &self.shards).finish_non_exhaustive()
    }
}

impl PostgresReader {
    /// Connects to a database that a server made; servers may run meanwhile. Refuses one whose tables this program does
    /// not know, and one with another number of shards than the options name.
    pub async fn open(options: Options) -> Result<Self, OpenError> {
        let mut connection = open::connect_reader(&options).await?;
        if let Some(reason) = unknown_tables(&mut connection).await? {
            return Err(OpenError::Tables(reason));
        }
        let found: i64 = sqlx::query_scalar("SELECT COUNT(*) FROM shard").fetch_one(&mut connection).await?;
        connection.close().await?;
        if found != i64::from(options.shards) {
            return Err(OpenError::Shards { wanted: options.shards, found: usize::try_from(found).unwrap_or(0) });
        }
        Ok(Self::beside(&options, options.shards))
    }

    /// For one who knows how many shards there are.
    pub(super) fn beside(options: &Options, shards: u16) -> Self {
        Self { shards, pool: open::readers(options), options: options.clone(), listener: Mutex::default() }
    }

    /// Ends all connections.
    pub async fn close(&self) {
        self.pool.close().await;
    }

    /// Returns with the next hint, or at once if it has only now begun to listen: what was appended before gave none.
    async fn next_hint(&self) -> Result<(), sqlx::Error> {
        let mut place = self.listener.lock().await;
        match place.take() {
            None => *place = Some(Listener::open(&self.options).await?),
            Some(mut listener) => {
                let hint = listener.next().await;
                *place = hint.is_ok().then_some(listener);
                hint?;
            }
        }
        Ok(())
    }

    fn readable(&self, shard: u16) -> Result<i32, ReadError> {
        if shard < self.shards { Ok(i32::from(shard)) } else { Err(ReadError::Unavailable(no_shard(shard))) }
    }

    async fn events(&self, query: Query<'_, Postgres, PgArguments>) -> Result<Vec<Recorded>, ReadError> {
        read::events(&query.fetch_all(&self.pool).await.map_err(unavailable)?)
    }

    async fn all<T, C: FromIterator<T>>(
        &self,
        query: Query<'_, Postgres, PgArguments>,
        from_row: impl Fn(&PgRow) -> Result<T, sqlx::Error>,
    ) -> Result<C, ReadError> {
        let rows = query.fetch_all(&self.pool).await.map_err(unavailable)?;
        rows.iter().map(from_row).collect::<Result<C, sqlx::Error>>().map_err(unavailable)
    }

    async fn at_most_one<T>(
        &self,
        query: Query<'_, Postgres, PgArguments>,
        from_row: impl Fn(&PgRow) -> Result<T, sqlx::Error>,
    ) -> Result<Option<T>, ReadError> {
        let row = query.fetch_optional(&self.pool).await.map_err(unavailable)?;
        row.as_ref().map(from_row).transpose().map_err(unavailable)
    }

    async fn number(&self, query: QueryScalar<'_, Postgres, i64, PgArguments>) -> Result<u64, ReadError> {
        query.fetch_one(&self.pool).await.map(number).map_err(unavailable)
    }
}

/// In what the tables differ from those that this program makes, if they do.
async fn unknown_tables(connection: &mut PgConnection) -> Result<Option<String>, sqlx::Error> {
    let made = "SELECT to_regclass('_sqlx_migrations') IS NOT NULL";
    if !sqlx::query_scalar::<_, bool>(made).fetch_one(&mut *connection).await? {
        return Ok(Some("it holds no log".to_owned()));
    }
    let applied = sqlx::query("SELECT version, checksum, success FROM _sqlx_migrations ORDER BY version");
    let mut known = MIGRATOR.iter();
    for row in applied.fetch_all(&mut *connection).await? {
        let version: i64 = row.try_get(0)?;
        match known.next() {
            Some(migration) if migration.version == version => {
                if *migration.checksum != *row.try_get::<&[u8], _>(1)? || !row.try_get::<bool, _>(2)? {
                    return Ok(Some(format!("migration {version} is another one, or was not finished")));
                }
            }
            Some(_) | None => return Ok(Some(format!("migration {version} is of a newer program"))),
        }
    }
    Ok(known.next().map(|missing| format!("migration {} is missing; a server applies it", missing.version)))
}

#[async_trait]
impl EventReader for PostgresReader {
    fn shards(&self) -> u16 {
        self.shards
    }

    async fn wait_for_news(&self, limit: Duration) {
        let end = Instant::now() + limit;
        // Without hints there is still the time.
        if !matches!(timeout_at(end, self.next_hint()).await, Ok(Ok(()))) {
            sleep_until(end).await;
        }
    }

    async fn read_stream(&self, stream: &str, from_version: u64, limit: usize) -> Result<Vec<Recorded>, ReadError> {
        self.events(sqlx::query(read::STREAM).bind(stream).bind(integer(from_version)).bind(integer(limit as u64)))
            .await
    }

    async fn stream_version(&self, stream: &str) -> Result<u64, ReadError> {
        self.number(sqlx::query_scalar(read::STREAM_VERSION).bind(stream)).await
    }

    async fn read_log(&self, after: Position, limit: usize) -> Result<Vec<Recorded>, ReadError> {
        let query = sqlx::query(read::LOG).bind(self.readable(after.shard)?).bind(integer(after.seq));
        self.events(query.bind(integer(limit as u64))).await
    }

    async fn read_category(
        &self,
        category: &str,
        up_to: Position,
        after: Option<(&str, u64)>,
        limit: usize,
    ) -> Result<Vec<Recorded>, ReadError> {
        let first = format!("{category}-");
        // '.' is the character after '-': every stream of the category lies between the two, and no other.
        let end = format!("{category}.");
        let (stream, version) = after.filter(|(stream, _)| *stream >= first.as_str()).unwrap_or((&first, 0));
        let query = sqlx::query(read::CATEGORY).bind(self.readable(up_to.shard)?).bind(stream);
        let query = query.bind(integer(version)).bind(end).bind(integer(up_to.seq));
        self.events(query.bind(integer(limit as u64))).await
    }

    async fn head(&self, shard: u16) -> Result<u64, ReadError> {
        self.number(sqlx::query_scalar(read::HEAD).bind(self.readable(shard)?)).await
    }

    async fn floor(&self, shard: u16) -> Result<u64, ReadError> {
        self.number(sqlx::query_scalar(read::FLOOR).bind(self.readable(shard)?)).await
    }

    async fn content(&self, position: Position) -> Result<Option<Bytes>, ReadError> {
        let query = sqlx::query(read::CONTENT).bind(self.readable(position.shard)?).bind(integer(position.seq));
        self.at_most_one(query, |row| Ok(Bytes::from(row.try_get::<Vec<u8>, _>(0)?))).await
    }

    async fn contents(&self, after: Position, through: u64) -> Result<Vec<(u64, Bytes)>, ReadError> {
        let query = sqlx::query(read::CONTENTS).bind(self.readable(after.shard)?).bind(integer(after.seq));
        let content = |row: &PgRow| Ok((number(row.try_get(0)?), Bytes::from(row.try_get::<Vec<u8>, _>(1)?)));
        self.all(query.bind(integer(through)), content).await
    }

    async fn claims(&self, shard: u16, keys: &[String]) -> Result<HashMap<String, String>, ReadError> {
        let query = sqlx::query(read::CLAIMS).bind(self.readable(shard)?).bind(keys);
        self.all(query, |row| Ok((row.try_get(0)?, row.try_get(1)?))).await
    }

    async fn claims_after(&self, shard: u16, after: Option<&str>, limit: usize) -> Result<Vec<Claim>, ReadError> {
        let query = sqlx::query(read::CLAIMS_AFTER).bind(self.readable(shard)?).bind(after.unwrap_or_default());
        self.all(query.bind(after).bind(integer(limit as u64)), read::claim).await
    }

    async fn wakeups(&self, shard: u16, after: Option<&Wakeup>, limit: usize) -> Result<Vec<Wakeup>, ReadError> {
        // Every due time is at or after 0.
        let (due_at_ms, key) = after.map_or((-1, ""), |wakeup| (wakeup.due_at.as_ms(), &wakeup.key));
        let query = sqlx::query(read::WAKEUPS).bind(self.readable(shard)?).bind(due_at_ms).bind(key);
        self.all(query.bind(integer(limit as u64)), read::wakeup).await
    }

    async fn period(&self, stream: &str) -> Result<Option<Period>, ReadError> {
        self.at_most_one(sqlx::query(read::PERIOD).bind(stream), |row| read::period(row, 0)).await
    }

    async fn periods(
        &self,
        shard: u16,
        after: Option<&str>,
        limit: usize,
    ) -> Result<Vec<(StreamName, Period)>, ReadError> {
        let query = sqlx::query(read::PERIODS).bind(self.readable(shard)?).bind(after.unwrap_or_default());
        self.all(query.bind(integer(limit as u64)), |row| Ok((row.try_get(0)?, read::period(row, 1)?))).await
    }

    async fn live_through(&self, shard: u16, bucket: Bucket, limit: usize) -> Result<Vec<StreamName>, ReadError> {
        let query = sqlx::query(read::LIVE_THROUGH).bind(self.readable(shard)?).bind(i64::from(bucket.0));
        self.all(query.bind(integer(limit as u64)), |row| row.try_get(0)).await
    }

    async fn buckets(&self, shard: u16) -> Result<Vec<BucketEnd>, ReadError> {
        let query = sqlx::query(read::BUCKETS).bind(self.readable(shard)?);
        self.all(query, |row| read::bucket_end(row, shard)).await
    }

    async fn snapshot(&self, shard: u16, key: &str) -> Result<Option<StoredSnapshot>, ReadError> {
        let query = sqlx::query(read::SNAPSHOT).bind(self.readable(shard)?).bind(key);
        self.at_most_one(query, |row| read::snapshot(row, shard)).await
    }

    async fn snapshots(&self, shard: u16, after: Option<&str>, limit: usize) -> Result<Vec<StoredSnapshot>, ReadError> {
        let query = sqlx::query(read::SNAPSHOTS).bind(self.readable(shard)?).bind(after.unwrap_or_default());
        self.all(query.bind(integer(limit as u64)), |row| read::snapshot(row, shard)).await
    }

    async fn checkpoint(&self, reader: &str, shard: u16) -> Result<Option<u64>, ReadError> {
        let query = sqlx::query(read::CHECKPOINT).bind(self.readable(shard)?).bind(reader);
        self.at_most_one(query, |row| row.try_get(0).map(number)).await
    }

    async fn checkpoints(&self, shard: u16) -> Result<Vec<(String, u64)>, ReadError> {
        let query = sqlx::query(read::CHECKPOINTS).bind(self.readable(shard)?);
        self.all(query, |row| Ok((row.try_get(0)?, number(row.try_get(1)?)))).await
    }
}
