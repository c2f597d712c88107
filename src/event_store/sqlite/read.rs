//! What the log is asked, and how a row becomes an event again.

use std::borrow::Cow;

use sqlx::sqlite::SqliteRow;
use sqlx::{Decode, Row, Sqlite, SqlitePool, Type};

use super::{event_id, integer, number};
use crate::domain::time::Timestamp;
use crate::event_store::{Position, ReadError, Recorded, Wakeup};

pub(super) const STREAM: &str = "SELECT seq, stream, version, kind, schema, event_id, at_ms, data, meta \
     FROM event WHERE stream = $1 AND version >= $2 ORDER BY version LIMIT $3";

pub(super) const STREAM_VERSION: &str = "SELECT COALESCE(MAX(version), 0) FROM event WHERE stream = $1";

pub(super) const LOG: &str = "SELECT seq, stream, version, kind, schema, event_id, at_ms, data, meta \
     FROM event WHERE seq > $1 ORDER BY seq LIMIT $2";

pub(super) const CATEGORY: &str = "SELECT seq, stream, version, kind, schema, event_id, at_ms, data, meta \
     FROM event WHERE (stream, version) > ($1, $2) AND stream < $3 AND seq <= $4 ORDER BY stream, version LIMIT $5";

pub(super) const WAKEUPS: &str =
    "SELECT key, due_at_ms FROM wakeup WHERE (due_at_ms, key) > ($1, $2) ORDER BY due_at_ms, key LIMIT $3";

/// No key is empty, so all stand behind the empty one.
pub(super) const SECRETS: &str = "SELECT key, sealed FROM secret WHERE key > $1 ORDER BY key LIMIT $2";

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

pub(super) async fn secrets(
    pool: &SqlitePool,
    after: Option<&str>,
    limit: usize,
) -> Result<Vec<(String, Vec<u8>)>, ReadError> {
    let query = sqlx::query(SECRETS).bind(after.unwrap_or_default()).bind(integer(limit as u64));
    let rows = query.fetch_all(pool).await.map_err(unavailable)?;
    rows.iter().map(|row| Ok((row.try_get(0)?, row.try_get(1)?))).collect::<Result<_, _>>().map_err(unavailable)
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
    let damaged = |reason: String| ReadError::Damaged { position, stream: None, reason };
    let schema: i64 = column(row, position, 4)?;
    Ok(Recorded {
        position,
        stream: column(row, position, 1)?,
        version: number(column(row, position, 2)?),
        kind: Cow::Owned(column(row, position, 3)?),
        schema: u16::try_from(schema).map_err(|_| damaged(format!("{schema} is no schema version")))?,
        id: event_id(column(row, position, 5)?).map_err(|reason| damaged(reason.to_owned()))?,
        at: Timestamp::from_ms(column(row, position, 6)?),
        data: column(row, position, 7)?,
        meta: column(row, position, 8)?,
    })
}

fn column<'r, T: Decode<'r, Sqlite> + Type<Sqlite>>(
    row: &'r SqliteRow,
    position: Position,
    index: usize,
) -> Result<T, ReadError> {
    row.try_get(index).map_err(|error| ReadError::Damaged { position, stream: None, reason: error.to_string() })
}

pub(super) fn unavailable(error: sqlx::Error) -> ReadError {
    ReadError::Unavailable(error.to_string())
}
