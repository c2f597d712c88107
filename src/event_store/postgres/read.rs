//! What the log is asked, and how a row becomes an event again.

use std::borrow::Cow;

use sqlx::postgres::{PgPool, PgRow};
use sqlx::{Decode, Postgres, Row, Type};

use super::{event_id, integer, number};
use crate::domain::time::Timestamp;
use crate::event_store::{Position, ReadError, Recorded, Wakeup};

pub(super) const STREAM: &str = "SELECT shard, seq, stream, version, kind, schema, event_id, at_ms, data, meta \
     FROM event WHERE stream = $1 AND version >= $2 ORDER BY version LIMIT $3";

pub(super) const STREAM_VERSION: &str = "SELECT COALESCE(MAX(version), 0) FROM event WHERE stream = $1";

pub(super) const LOG: &str = "SELECT shard, seq, stream, version, kind, schema, event_id, at_ms, data, meta \
     FROM event WHERE shard = $1 AND seq > $2 ORDER BY seq LIMIT $3";

/// The streams of the shard first, then the events of each: by the events alone, every shard's streams would be read.
pub(super) const CATEGORY: &str = "SELECT event.shard, event.seq, event.stream, event.version, event.kind, \
         event.schema, event.event_id, event.at_ms, event.data, event.meta \
     FROM event AS first JOIN event ON event.stream = first.stream \
     WHERE first.version = 1 AND first.shard = $1 AND first.stream >= $2 AND first.stream < $4 \
         AND (event.stream, event.version) > ($2, $3) AND event.seq <= $5 \
     ORDER BY first.stream, event.version LIMIT $6";

pub(super) const HEAD: &str = "SELECT head FROM shard WHERE shard = $1";

pub(super) const CONTENT: &str = "SELECT value FROM content WHERE shard = $1 AND seq = $2";

pub(super) const CLAIMS: &str = "SELECT key, value FROM claim WHERE shard = $1 AND key = ANY($2)";

pub(super) const WAKEUPS: &str = "SELECT key, due_at_ms FROM wakeup \
     WHERE shard = $1 AND (due_at_ms, key) > ($2, $3) ORDER BY due_at_ms, key LIMIT $4";

pub(super) const CHECKPOINT: &str = "SELECT seq FROM checkpoint WHERE reader = $1 AND shard = $2";

pub(super) async fn stream(
    pool: &PgPool,
    stream: &str,
    from_version: u64,
    limit: usize,
) -> Result<Vec<Recorded>, ReadError> {
    let query = sqlx::query(STREAM).bind(stream).bind(integer(from_version)).bind(integer(limit as u64));
    events(&query.fetch_all(pool).await.map_err(unavailable)?)
}

pub(super) async fn log(pool: &PgPool, after: Position, limit: usize) -> Result<Vec<Recorded>, ReadError> {
    let query = sqlx::query(LOG).bind(i32::from(after.shard)).bind(integer(after.seq)).bind(integer(limit as u64));
    events(&query.fetch_all(pool).await.map_err(unavailable)?)
}

pub(super) async fn category(
    pool: &PgPool,
    category: &str,
    up_to: Position,
    after: Option<(&str, u64)>,
    limit: usize,
) -> Result<Vec<Recorded>, ReadError> {
    let first = format!("{category}-");
    // '.' is the character after '-': every stream of the category lies between the two, and no other.
    let end = format!("{category}.");
    let (stream, version) = after.filter(|(stream, _)| *stream >= first.as_str()).unwrap_or((&first, 0));
    let query = sqlx::query(CATEGORY).bind(i32::from(up_to.shard)).bind(stream).bind(integer(version)).bind(end);
    let query = query.bind(integer(up_to.seq)).bind(integer(limit as u64));
    events(&query.fetch_all(pool).await.map_err(unavailable)?)
}

pub(super) async fn wakeups(
    pool: &PgPool,
    shard: u16,
    after: Option<&Wakeup>,
    limit: usize,
) -> Result<Vec<Wakeup>, ReadError> {
    // Every due time is at or after 0.
    let (due_at_ms, key) = after.map_or((-1, ""), |wakeup| (wakeup.due_at.as_ms(), &wakeup.key));
    let query = sqlx::query(WAKEUPS).bind(i32::from(shard)).bind(due_at_ms).bind(key).bind(integer(limit as u64));
    let rows = query.fetch_all(pool).await.map_err(unavailable)?;
    rows.iter().map(wakeup).collect::<Result<_, sqlx::Error>>().map_err(unavailable)
}

fn wakeup(row: &PgRow) -> Result<Wakeup, sqlx::Error> {
    Ok(Wakeup { key: row.try_get(0)?, due_at: Timestamp::from_ms(row.try_get(1)?) })
}

fn events(rows: &[PgRow]) -> Result<Vec<Recorded>, ReadError> {
    rows.iter().map(|row| event(row).map_err(|error| error.in_stream(row.try_get(2).ok()))).collect()
}

fn event(row: &PgRow) -> Result<Recorded, ReadError> {
    let shard: i32 = row.try_get(0).map_err(unavailable)?;
    let seq = number(row.try_get(1).map_err(unavailable)?);
    let shard = u16::try_from(shard).map_err(|_| ReadError::Unavailable(format!("{shard} is no shard")))?;
    let position = Position { shard, seq };
    let damaged = |reason: String| ReadError::Damaged { position, stream: None, reason };
    let schema: i32 = column(row, position, 5)?;
    Ok(Recorded {
        position,
        stream: column(row, position, 2)?,
        version: number(column(row, position, 3)?),
        kind: Cow::Owned(column(row, position, 4)?),
        schema: u16::try_from(schema).map_err(|_| damaged(format!("{schema} is no schema version")))?,
        id: event_id(column(row, position, 6)?).map_err(|reason| damaged(reason.to_owned()))?,
        at: Timestamp::from_ms(column(row, position, 7)?),
        data: column(row, position, 8)?,
        meta: column(row, position, 9)?,
    })
}

fn column<'r, T: Decode<'r, Postgres> + Type<Postgres>>(
    row: &'r PgRow,
    position: Position,
    index: usize,
) -> Result<T, ReadError> {
    row.try_get(index).map_err(|error| ReadError::Damaged { position, stream: None, reason: error.to_string() })
}

pub(super) fn unavailable(error: sqlx::Error) -> ReadError {
    ReadError::Unavailable(error.to_string())
}
