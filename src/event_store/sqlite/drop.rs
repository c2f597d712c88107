//! What may be dropped: buckets, contents and readers.
//!
//! Buckets and contents go in steps, each a transaction of its own, so that appends go on between.
//!
//! The first step asks who still needs the bucket, raises the floor and notes in the bucket's row that it is being
//! dropped; the row goes with the last event. A step that is lost with the process is repeated by whoever goes on. If
//! events are appended to a bucket that is being dropped, the note is taken back, and the next step asks again.
//!
//! Freed pages are used again, so a file in which buckets come and go stays as large as it was at its fullest. As
//! `secure_delete` overwrites what is dropped, dropping writes about as many bytes as appending did.

use sqlx::{Row, SqliteConnection};

use super::write::Failure;
use crate::event_store::row::{integer, number};
use crate::event_store::{Bucket, DropError, Dropped, Position};

pub(super) const NOTE_BUCKET: &str = "SELECT first_seq, last_seq, dropping FROM bucket WHERE bucket = $1";

pub(super) const LIVE: &str = "SELECT stream FROM period WHERE bucket <= $1 ORDER BY bucket, stream LIMIT 1";

pub(super) const FREE_CLAIMS: &str =
    "DELETE FROM claim WHERE key IN (SELECT key FROM claim WHERE bucket = $1 LIMIT $2)";

/// The first number behind so many rows.
pub(super) const END_OF_STEP: &str =
    "SELECT seq FROM bucketed_event WHERE seq >= $1 AND seq <= $2 ORDER BY seq LIMIT 1 OFFSET $3";

pub(super) const DELETE_CONTENTS: &str = "DELETE FROM content WHERE seq >= $1 AND seq < $2 AND bucket = $3";

pub(super) const DELETE_EVENTS: &str = "DELETE FROM bucketed_event WHERE seq >= $1 AND seq < $2 AND bucket = $3";

pub(super) const DROP_CONTENTS: &str = "DELETE FROM content WHERE seq IN ( \
         SELECT seq FROM content \
         WHERE seq >= (SELECT min(first_seq) FROM bucket WHERE bucket <= $1) \
             AND seq <= (SELECT max(last_seq) FROM bucket WHERE bucket <= $1) AND bucket <= $1 \
         ORDER BY seq LIMIT $2)";

/// What a bucket's row says.
struct Noted {
    first: u64,
    last: u64,
    dropping: bool,
}

/// One step of dropping the bucket. On a failure nothing is done, and the connection must not be used again.
pub(super) async fn bucket(
    connection: &mut SqliteConnection,
    epoch: u64,
    bucket: Bucket,
    limit: u32,
) -> Result<Result<Dropped, DropError>, Failure> {
    begin(connection, epoch).await?;
    let noted = noted(connection, bucket).await?;
    let begun = noted.as_ref().is_some_and(|noted| noted.dropping);
    if !begun && let Some(refusal) = still_needed(connection, bucket, noted.as_ref()).await? {
        sqlx::query("ROLLBACK").execute(connection).await?;
        return Ok(Err(refusal));
    }
    if !begun && let Some(noted) = &noted {
        note_dropping(connection, bucket, noted.last).await?;
    }
    let dropped = drop_rows(connection, bucket, noted, limit.max(1)).await?;
    sqlx::query("COMMIT").execute(connection).await?;
    Ok(Ok(dropped))
}

/// One step of erasing the contents of the bucket and all older ones; as [`bucket`].
pub(super) async fn contents(
    connection: &mut SqliteConnection,
    epoch: u64,
    through: Bucket,
    limit: u32,
) -> Result<Dropped, Failure> {
    begin(connection, epoch).await?;
    let query = sqlx::query(DROP_CONTENTS).bind(i64::from(through.0)).bind(i64::from(limit.max(1)));
    let rows = query.execute(&mut *connection).await?.rows_affected();
    sqlx::query("COMMIT").execute(connection).await?;
    Ok(Dropped { rows, more: rows >= u64::from(limit.max(1)) })
}

/// Forgets how far the reader has come.
pub(super) async fn reader(connection: &mut SqliteConnection, epoch: u64, reader: &str) -> Result<(), Failure> {
    begin(connection, epoch).await?;
    sqlx::query("DELETE FROM checkpoint WHERE reader = $1").bind(reader).execute(&mut *connection).await?;
    sqlx::query("COMMIT").execute(connection).await?;
    Ok(())
}

async fn begin(connection: &mut SqliteConnection, epoch: u64) -> Result<(), Failure> {
    sqlx::query("BEGIN IMMEDIATE").execute(&mut *connection).await?;
    let query = sqlx::query("SELECT 1 FROM shard WHERE shard = 0 AND epoch = $1").bind(integer(epoch));
    if query.fetch_all(connection).await?.is_empty() { Err(Failure::Fenced) } else { Ok(()) }
}

async fn noted(connection: &mut SqliteConnection, bucket: Bucket) -> Result<Option<Noted>, Failure> {
    let rows = sqlx::query(NOTE_BUCKET).bind(i64::from(bucket.0)).fetch_all(connection).await?;
    let Some(row) = rows.first() else { return Ok(None) };
    Ok(Some(Noted { first: number(row.try_get(0)?), last: number(row.try_get(1)?), dropping: row.try_get(2)? }))
}

async fn still_needed(
    connection: &mut SqliteConnection,
    bucket: Bucket,
    noted: Option<&Noted>,
) -> Result<Option<DropError>, Failure> {
    let live = sqlx::query(LIVE).bind(i64::from(bucket.0)).fetch_all(&mut *connection).await?;
    if let Some(row) = live.first() {
        return Ok(Some(DropError::StillLive { bucket, stream: row.try_get(0)? }));
    }
    let Some(noted) = noted else { return Ok(None) };
    let query = sqlx::query("SELECT reader, seq FROM checkpoint WHERE shard = 0 AND seq < $1 ORDER BY reader");
    let behind = query.bind(integer(noted.last)).fetch_all(connection).await?;
    let Some(row) = behind.first() else { return Ok(None) };
    let at = |seq| Position { shard: 0, seq };
    let (reader, seq) = (row.try_get(0)?, number(row.try_get(1)?));
    Ok(Some(DropError::StillRead { bucket, reader, at: at(seq), last: at(noted.last) }))
}

/// From here on the events may be missing, and may be deleted.
async fn note_dropping(connection: &mut SqliteConnection, bucket: Bucket, last: u64) -> Result<(), Failure> {
    let query = sqlx::query("UPDATE bucket SET dropping = 1 WHERE bucket = $1");
    query.bind(i64::from(bucket.0)).execute(&mut *connection).await?;
    let query = sqlx::query("UPDATE shard SET floor = max(floor, $1) WHERE shard = 0");
    query.bind(integer(last)).execute(connection).await?;
    Ok(())
}

/// Claims first: once the bucket's row is gone, nobody asks for it again.
async fn drop_rows(
    connection: &mut SqliteConnection,
    bucket: Bucket,
    noted: Option<Noted>,
    limit: u32,
) -> Result<Dropped, Failure> {
    let query = sqlx::query(FREE_CLAIMS).bind(i64::from(bucket.0)).bind(i64::from(limit));
    let freed = query.execute(&mut *connection).await?.rows_affected();
    let left = u64::from(limit).saturating_sub(freed);
    match noted {
        _ if left == 0 => Ok(Dropped { rows: 0, more: true }),
        Some(noted) => drop_events(connection, bucket, &noted, left).await,
        None => Ok(Dropped { rows: 0, more: false }),
    }
}

async fn drop_events(
    connection: &mut SqliteConnection,
    bucket: Bucket,
    noted: &Noted,
    limit: u64,
) -> Result<Dropped, Failure> {
    let number_of_bucket = i64::from(bucket.0);
    let query = sqlx::query(END_OF_STEP).bind(integer(noted.first)).bind(integer(noted.last)).bind(integer(limit));
    let rest = query.fetch_all(&mut *connection).await?;
    let rest: Option<i64> = rest.first().map(|row| row.try_get(0)).transpose()?;
    let end = rest.unwrap_or(integer(noted.last.saturating_add(1)));
    let query = sqlx::query(DELETE_CONTENTS).bind(integer(noted.first)).bind(end).bind(number_of_bucket);
    query.execute(&mut *connection).await?;
    let query = sqlx::query(DELETE_EVENTS).bind(integer(noted.first)).bind(end).bind(number_of_bucket);
    let rows = query.execute(&mut *connection).await?.rows_affected();
    let query = match rest {
        Some(_) => sqlx::query("UPDATE bucket SET first_seq = $2 WHERE bucket = $1").bind(number_of_bucket).bind(end),
        None => sqlx::query("DELETE FROM bucket WHERE bucket = $1").bind(number_of_bucket),
    };
    query.execute(connection).await?;
    Ok(Dropped { rows, more: rest.is_some() })
}
