//! What the log is asked, and how a row becomes an event again.

use bytes::Bytes;
use sqlx::sqlite::SqliteRow;
use sqlx::{Row, SqlitePool};

use crate::domain::time::Timestamp;
use crate::event_store::row::{Columns, bucket, column, integer, number, unavailable};
use crate::event_store::{
    Bucket, BucketEnd, Claim, Period, Position, ReadError, Recorded, Snapshot, StoredSnapshot, StreamName, Wakeup,
};

/// A stream and the log are read from both tables at once: each is read in order, and the rows are merged.
pub(super) const STREAM: &str = "SELECT seq, stream, version, kind, schema, event_id, at_ms, data, meta \
     FROM event WHERE stream = $1 AND version >= $2 \
     UNION ALL SELECT seq, stream, version, kind, schema, event_id, at_ms, data, meta \
     FROM bucketed_event WHERE stream = $1 AND version >= $2 ORDER BY version LIMIT $3";

pub(super) const STREAM_VERSION: &str = "SELECT max((SELECT coalesce(max(version), 0) FROM event WHERE stream = $1), \
     (SELECT coalesce(max(version), 0) FROM bucketed_event WHERE stream = $1))";

pub(super) const LOG: &str = "SELECT seq, stream, version, kind, schema, event_id, at_ms, data, meta \
     FROM event WHERE seq > $1 \
     UNION ALL SELECT seq, stream, version, kind, schema, event_id, at_ms, data, meta \
     FROM bucketed_event WHERE seq > $1 ORDER BY seq LIMIT $2";

pub(super) const CATEGORY: &str = "SELECT seq, stream, version, kind, schema, event_id, at_ms, data, meta \
     FROM event WHERE (stream, version) > ($1, $2) AND stream < $3 AND seq <= $4 ORDER BY stream, version LIMIT $5";

pub(super) const CONTENTS: &str = "SELECT seq, value FROM content WHERE seq > $1 AND seq <= $2 ORDER BY seq";

pub(super) const WAKEUPS: &str =
    "SELECT key, due_at_ms FROM wakeup WHERE (due_at_ms, key) > ($1, $2) ORDER BY due_at_ms, key LIMIT $3";

// A name may be empty, hence "from the first on" is a question of its own, and not "behind the empty one".
pub(super) const CLAIMS_AFTER: &str = "SELECT key, value, bucket FROM claim \
     WHERE key >= $1 AND key IS NOT $2 ORDER BY key LIMIT $3";

pub(super) const PERIODS: &str = "SELECT stream, bucket, first_version FROM period \
     WHERE stream >= $1 AND stream IS NOT $2 ORDER BY stream LIMIT $3";

pub(super) const PERIOD: &str = "SELECT bucket, first_version FROM period WHERE stream = $1";

pub(super) const LIVE_THROUGH: &str = "SELECT stream FROM period WHERE bucket <= $1 ORDER BY bucket, stream LIMIT $2";

pub(super) const BUCKETS: &str = "SELECT bucket, last_seq FROM bucket ORDER BY bucket";

pub(super) const SNAPSHOT: &str = "SELECT key, seq, fingerprint, data FROM snapshot WHERE key = $1";

pub(super) const SNAPSHOTS: &str = "SELECT key, seq, fingerprint, data FROM snapshot \
     WHERE key >= $1 AND key IS NOT $2 ORDER BY key LIMIT $3";

pub(super) const CHECKPOINTS: &str = "SELECT reader, seq FROM checkpoint WHERE shard = $1 ORDER BY reader";

pub(super) async fn stream(
    pool: &SqlitePool,
    stream: &str,
    from_version: u64,
    limit: usize,
) -> Result<Vec<Recorded>, ReadError> {
    let query = sqlx::query(STREAM).bind(stream).bind(integer(from_version)).bind(integer(limit as u64));
    events(&query.fetch_all(pool).await.map_err(unavailable)?)
}

pub(super) async fn log(pool: &SqlitePool, after: u64, limit: usize) -> Result<Vec<Recorded>, ReadError> {
    let query = sqlx::query(LOG).bind(integer(after)).bind(integer(limit as u64));
    events(&query.fetch_all(pool).await.map_err(unavailable)?)
}

pub(super) async fn contents(pool: &SqlitePool, after: u64, through: u64) -> Result<Vec<(u64, Bytes)>, ReadError> {
    let query = sqlx::query(CONTENTS).bind(integer(after)).bind(integer(through));
    let rows = query.fetch_all(pool).await.map_err(unavailable)?;
    let content = |row: &SqliteRow| Ok((number(row.try_get(0)?), Bytes::from(row.try_get::<Vec<u8>, _>(1)?)));
    rows.iter().map(content).collect::<Result<_, sqlx::Error>>().map_err(unavailable)
}

pub(super) async fn category(
    pool: &SqlitePool,
    category: &str,
    up_to: u64,
    after: Option<(&str, u64)>,
    limit: usize,
) -> Result<Vec<Recorded>, ReadError> {
    let first = format!("{category}-");
    // '.' is the character after '-': every stream of the category lies between the two, and no other.
    let end = format!("{category}.");
    let (stream, version) = after.filter(|(stream, _)| *stream >= first.as_str()).unwrap_or((&first, 0));
    let query = sqlx::query(CATEGORY).bind(stream).bind(integer(version)).bind(end).bind(integer(up_to));
    events(&query.bind(integer(limit as u64)).fetch_all(pool).await.map_err(unavailable)?)
}

pub(super) async fn wakeups(pool: &SqlitePool, after: Option<&Wakeup>, limit: usize) -> Result<Vec<Wakeup>, ReadError> {
    // Every due time is at or after 0.
    let (due_at_ms, key) = after.map_or((-1, ""), |wakeup| (wakeup.due_at.as_ms(), &wakeup.key));
    let query = sqlx::query(WAKEUPS).bind(due_at_ms).bind(key).bind(integer(limit as u64));
    let rows = query.fetch_all(pool).await.map_err(unavailable)?;
    rows.iter().map(wakeup).collect::<Result<_, sqlx::Error>>().map_err(unavailable)
}

/// The rows behind the name `after`, or from the first on.
async fn page(
    pool: &SqlitePool,
    sql: &'static str,
    after: Option<&str>,
    limit: usize,
) -> Result<Vec<SqliteRow>, ReadError> {
    let query = sqlx::query(sql).bind(after.unwrap_or_default()).bind(after).bind(integer(limit as u64));
    query.fetch_all(pool).await.map_err(unavailable)
}

pub(super) async fn claims_after(
    pool: &SqlitePool,
    after: Option<&str>,
    limit: usize,
) -> Result<Vec<Claim>, ReadError> {
    let rows = page(pool, CLAIMS_AFTER, after, limit).await?;
    let claim = |row: &SqliteRow| {
        let claimed_for: Option<i64> = row.try_get(2)?;
        Ok(Claim { key: row.try_get(0)?, value: row.try_get(1)?, bucket: claimed_for.map(bucket).transpose()? })
    };
    rows.iter().map(claim).collect::<Result<_, _>>().map_err(unavailable)
}

pub(super) async fn period(pool: &SqlitePool, stream: &str) -> Result<Option<Period>, ReadError> {
    let row = sqlx::query(PERIOD).bind(stream).fetch_optional(pool).await.map_err(unavailable)?;
    row.map(|row| period_at(&row, 0)).transpose().map_err(unavailable)
}

pub(super) async fn periods(
    pool: &SqlitePool,
    after: Option<&str>,
    limit: usize,
) -> Result<Vec<(StreamName, Period)>, ReadError> {
    let rows = page(pool, PERIODS, after, limit).await?;
    let period = |row: &SqliteRow| Ok((row.try_get(0)?, period_at(row, 1)?));
    rows.iter().map(period).collect::<Result<_, _>>().map_err(unavailable)
}

fn period_at(row: &SqliteRow, index: usize) -> Result<Period, sqlx::Error> {
    Ok(Period { bucket: bucket(row.try_get(index)?)?, first_version: number(row.try_get(index + 1)?) })
}

pub(super) async fn live_through(
    pool: &SqlitePool,
    bucket: Bucket,
    limit: usize,
) -> Result<Vec<StreamName>, ReadError> {
    let query = sqlx::query_scalar(LIVE_THROUGH).bind(i64::from(bucket.0)).bind(integer(limit as u64));
    query.fetch_all(pool).await.map_err(unavailable)
}

pub(super) async fn buckets(pool: &SqlitePool) -> Result<Vec<BucketEnd>, ReadError> {
    let rows = sqlx::query(BUCKETS).fetch_all(pool).await.map_err(unavailable)?;
    let end = |row: &SqliteRow| {
        let last = Position { shard: 0, seq: number(row.try_get(1)?) };
        Ok(BucketEnd { bucket: bucket(row.try_get(0)?)?, last })
    };
    rows.iter().map(end).collect::<Result<_, _>>().map_err(unavailable)
}

pub(super) async fn snapshot_of(pool: &SqlitePool, key: &str) -> Result<Option<StoredSnapshot>, ReadError> {
    let row = sqlx::query(SNAPSHOT).bind(key).fetch_optional(pool).await.map_err(unavailable)?;
    row.as_ref().map(snapshot).transpose().map_err(unavailable)
}

pub(super) async fn snapshots(
    pool: &SqlitePool,
    after: Option<&str>,
    limit: usize,
) -> Result<Vec<StoredSnapshot>, ReadError> {
    let rows = page(pool, SNAPSHOTS, after, limit).await?;
    rows.iter().map(snapshot).collect::<Result<_, _>>().map_err(unavailable)
}

fn snapshot(row: &SqliteRow) -> Result<StoredSnapshot, sqlx::Error> {
    let position = Position { shard: 0, seq: number(row.try_get(1)?) };
    let snapshot = Snapshot { key: row.try_get(0)?, fingerprint: row.try_get(2)?, data: row.try_get(3)? };
    Ok(StoredSnapshot { position, snapshot })
}

pub(super) async fn checkpoints(pool: &SqlitePool, shard: u16) -> Result<Vec<(String, u64)>, ReadError> {
    let rows = sqlx::query(CHECKPOINTS).bind(i64::from(shard)).fetch_all(pool).await.map_err(unavailable)?;
    let reader = |row: &SqliteRow| Ok((row.try_get(0)?, number(row.try_get(1)?)));
    rows.iter().map(reader).collect::<Result<_, _>>().map_err(unavailable)
}

fn wakeup(row: &SqliteRow) -> Result<Wakeup, sqlx::Error> {
    Ok(Wakeup { key: row.try_get(0)?, due_at: Timestamp::from_ms(row.try_get(1)?) })
}

fn events(rows: &[SqliteRow]) -> Result<Vec<Recorded>, ReadError> {
    rows.iter().map(|row| event(row).map_err(|error| error.in_stream(row.try_get(1).ok()))).collect()
}

fn event(row: &SqliteRow) -> Result<Recorded, ReadError> {
    let position = Position { shard: 0, seq: number(row.try_get(0).map_err(unavailable)?) };
    let columns = Columns {
        stream: column(row, position, 1)?,
        version: column(row, position, 2)?,
        kind: column(row, position, 3)?,
        schema: column(row, position, 4)?,
        id: column(row, position, 5)?,
        at_ms: column(row, position, 6)?,
        data: column(row, position, 7)?,
        meta: column(row, position, 8)?,
    };
    columns.event(position)
}
