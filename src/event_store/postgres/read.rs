//! What the log is asked, and how a row becomes an event again.

use sqlx::Row;
use sqlx::postgres::PgRow;

use crate::domain::time::Timestamp;
use crate::event_store::row::{Columns, bucket, column, number, unavailable};
use crate::event_store::{BucketEnd, Claim, Period, Position, ReadError, Recorded, Snapshot, StoredSnapshot, Wakeup};

/// From either table, in the order of the versions. Of the buckets only those from the open period on are looked into,
/// if that is where the reading begins. The limits inside let the planner merge the tables, where it would sort them.
pub(super) const STREAM: &str = "(SELECT shard, seq, stream, version, kind, schema, event_id, at_ms, data, meta \
         FROM event WHERE stream = $1 AND version >= $2 ORDER BY version LIMIT $3) \
     UNION ALL \
     (SELECT shard, seq, stream, version, kind, schema, event_id, at_ms, data, meta \
         FROM bucketed_event WHERE stream = $1 AND version >= $2 AND bucket >= \
             (SELECT COALESCE(MAX(bucket), 0) FROM period WHERE stream = $1 AND first_version <= $2) \
         ORDER BY version LIMIT $3) \
     ORDER BY version LIMIT $3";

pub(super) const STREAM_VERSION: &str = "SELECT COALESCE(GREATEST( \
         (SELECT MAX(version) FROM event WHERE stream = $1), \
         (SELECT MAX(version) FROM bucketed_event WHERE stream = $1 AND bucket >= \
             (SELECT COALESCE(MAX(bucket), 0) FROM period WHERE stream = $1)) \
     ), 0)";

/// From both tables, in the order of the numbers. Buckets that end before are not looked into.
pub(super) const LOG: &str = "(SELECT shard, seq, stream, version, kind, schema, event_id, at_ms, data, meta \
         FROM event WHERE shard = $1 AND seq > $2 ORDER BY seq LIMIT $3) \
     UNION ALL \
     (SELECT shard, seq, stream, version, kind, schema, event_id, at_ms, data, meta \
         FROM bucketed_event WHERE shard = $1 AND seq > $2 AND bucket >= \
             (SELECT MIN(bucket) FROM bucket WHERE shard = $1 AND last_seq > $2) \
         ORDER BY seq LIMIT $3) \
     ORDER BY seq LIMIT $3";

/// The streams of the shard first, then the events of each: by the events alone, every shard's streams would be read.
pub(super) const CATEGORY: &str = "SELECT event.shard, event.seq, event.stream, event.version, event.kind, \
         event.schema, event.event_id, event.at_ms, event.data, event.meta \
     FROM event AS first JOIN event ON event.stream = first.stream \
     WHERE first.version = 1 AND first.shard = $1 AND first.stream >= $2 AND first.stream < $4 \
         AND (event.stream, event.version) > ($2, $3) AND event.seq <= $5 \
     ORDER BY first.stream, event.version LIMIT $6";

pub(super) const HEAD: &str = "SELECT head FROM shard WHERE shard = $1";

pub(super) const CONTENT: &str = "SELECT value FROM content WHERE shard = $1 AND seq = $2";

pub(super) const CONTENTS: &str =
    "SELECT seq, value FROM content WHERE shard = $1 AND seq > $2 AND seq <= $3 ORDER BY seq";

pub(super) const CLAIMS: &str = "SELECT key, value FROM claim WHERE shard = $1 AND key = ANY($2)";

pub(super) const WAKEUPS: &str = "SELECT key, due_at_ms FROM wakeup \
     WHERE shard = $1 AND (due_at_ms, key) > ($2, $3) ORDER BY due_at_ms, key LIMIT $4";

pub(super) const CHECKPOINT: &str = "SELECT seq FROM checkpoint WHERE shard = $1 AND reader = $2";

pub(super) const CHECKPOINTS: &str = "SELECT reader, seq FROM checkpoint WHERE shard = $1 ORDER BY reader";

pub(super) const FLOOR: &str = "SELECT floor FROM shard WHERE shard = $1";

/// From a key on, without one: from the empty key on, without none, they are all.
pub(super) const CLAIMS_AFTER: &str = "SELECT key, value, bucket FROM claim \
     WHERE shard = $1 AND key >= $2 AND key IS DISTINCT FROM $3 ORDER BY key LIMIT $4";

pub(super) const PERIOD: &str = "SELECT bucket, first_version FROM period WHERE stream = $1";

/// No name is empty, so all are behind the empty one; so it is with the keys of snapshots.
pub(super) const PERIODS: &str =
    "SELECT stream, bucket, first_version FROM period WHERE shard = $1 AND stream > $2 ORDER BY stream LIMIT $3";

pub(super) const LIVE_THROUGH: &str =
    "SELECT stream FROM period WHERE shard = $1 AND bucket <= $2 ORDER BY bucket, stream LIMIT $3";

pub(super) const BUCKETS: &str = "SELECT bucket, last_seq FROM bucket WHERE shard = $1 ORDER BY bucket";

pub(super) const SNAPSHOT: &str = "SELECT key, seq, fingerprint, data FROM snapshot WHERE shard = $1 AND key = $2";

pub(super) const SNAPSHOTS: &str =
    "SELECT key, seq, fingerprint, data FROM snapshot WHERE shard = $1 AND key > $2 ORDER BY key LIMIT $3";

pub(super) fn wakeup(row: &PgRow) -> Result<Wakeup, sqlx::Error> {
    Ok(Wakeup { key: row.try_get(0)?, due_at: Timestamp::from_ms(row.try_get(1)?) })
}

pub(super) fn claim(row: &PgRow) -> Result<Claim, sqlx::Error> {
    let claimed_for: Option<i64> = row.try_get(2)?;
    Ok(Claim { key: row.try_get(0)?, value: row.try_get(1)?, bucket: claimed_for.map(bucket).transpose()? })
}

pub(super) fn period(row: &PgRow, first_column: usize) -> Result<Period, sqlx::Error> {
    let first_version = number(row.try_get(first_column + 1)?);
    Ok(Period { bucket: bucket(row.try_get(first_column)?)?, first_version })
}

pub(super) fn bucket_end(row: &PgRow, shard: u16) -> Result<BucketEnd, sqlx::Error> {
    Ok(BucketEnd { bucket: bucket(row.try_get(0)?)?, last: Position { shard, seq: number(row.try_get(1)?) } })
}

pub(super) fn snapshot(row: &PgRow, shard: u16) -> Result<StoredSnapshot, sqlx::Error> {
    Ok(StoredSnapshot {
        position: Position { shard, seq: number(row.try_get(1)?) },
        snapshot: Snapshot { key: row.try_get(0)?, fingerprint: row.try_get(2)?, data: row.try_get(3)? },
    })
}

pub(super) fn events(rows: &[PgRow]) -> Result<Vec<Recorded>, ReadError> {
    rows.iter().map(|row| event(row).map_err(|error| error.in_stream(row.try_get(2).ok()))).collect()
}

fn event(row: &PgRow) -> Result<Recorded, ReadError> {
    let shard: i32 = row.try_get(0).map_err(unavailable)?;
    let seq = number(row.try_get(1).map_err(unavailable)?);
    let shard = u16::try_from(shard).map_err(|_| ReadError::Unavailable(format!("{shard} is no shard")))?;
    let position = Position { shard, seq };
    let columns = Columns {
        stream: column(row, position, 2)?,
        version: column(row, position, 3)?,
        kind: column(row, position, 4)?,
        schema: column::<_, i32>(row, position, 5)?.into(),
        id: column(row, position, 6)?,
        at_ms: column(row, position, 7)?,
        data: column(row, position, 8)?,
        meta: column(row, position, 9)?,
    };
    columns.event(position)
}
