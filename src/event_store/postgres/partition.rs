//! Buckets as partitions of the table of events: made for their first event, dropped whole.
//!
//! - An append that meets no partition fails as a whole; then the partition is made and the append is tried again. So
//!   making one is part of no append, and hinders none: it is attached with a lock that conflicts only with its like.
//! - A bucket is dropped in several transactions, since a partition that others may be reading can only be taken out
//!   of the table without one (`DETACH … CONCURRENTLY`): taking it out in one would queue all appends behind the
//!   longest read. The first transaction looks for whoever still needs the bucket while no shard is written, raises the
//!   floors and bars the bucket. What comes then may stop anywhere, and the next call goes on from there.
//! - Each shard's turn is raised with the barring: an append that looked before writes nothing (see `write.rs`), and
//!   looks again.
//! - One drops at a time, whoever owns the shards.

use sqlx::error::DatabaseError;
use sqlx::postgres::{PgDatabaseError, PgRow};
use sqlx::{AssertSqlSafe, PgConnection, Row};

use super::Failure;
use crate::event_store::row::{integer, number};
use crate::event_store::{AppendError, Bucket, DropError, Dropped, Position};

/// How long the first transaction, which holds up appends, waits for a shard.
const SHORT_WAIT: &str = "SET LOCAL lock_timeout = '250ms'";

/// Any number that no other program in the database uses: "tidings".
const ONE_AT_A_TIME: &str = "SELECT pg_try_advisory_lock(32766977284925299)";

/// Conflicts with itself, and with nothing that appends or reads.
const LOCK_PARTITIONS: &str = "LOCK TABLE bucketed_event IN SHARE UPDATE EXCLUSIVE MODE";

/// Whether a table is a partition (a row), and already half taken out.
const ATTACHED: &str = "SELECT inhdetachpending FROM pg_inherits \
     WHERE inhrelid = to_regclass($1) AND inhparent = 'bucketed_event'::REGCLASS";

const HALF_DETACHED: &str = "SELECT dropping.bucket FROM dropping \
     JOIN pg_inherits ON inhrelid = to_regclass('bucketed_event_' || dropping.bucket) \
     WHERE inhparent = 'bucketed_event'::REGCLASS AND inhdetachpending";

const IS_OWNER: &str = "SELECT EXISTS (SELECT FROM shard WHERE shard = 0 AND epoch = $1)";

const IS_DROPPING: &str = "SELECT EXISTS (SELECT FROM dropping WHERE bucket = $1)";

/// In their order, as those do who take over.
const LOCK_SHARDS: &str = "SELECT epoch FROM shard ORDER BY shard FOR NO KEY UPDATE";

pub(super) const STILL_LIVE: &str = "SELECT live.stream FROM shard CROSS JOIN LATERAL ( \
         SELECT stream FROM period WHERE period.shard = shard.shard AND period.bucket <= $1 \
         ORDER BY period.bucket, period.stream LIMIT 1 \
     ) AS live ORDER BY shard.shard LIMIT 1";

const STILL_READ: &str = "SELECT checkpoint.reader, checkpoint.shard, checkpoint.seq, bucket.last_seq \
     FROM shard JOIN bucket ON bucket.shard = shard.shard AND bucket.bucket = $1 \
     JOIN checkpoint ON checkpoint.shard = shard.shard AND checkpoint.seq < bucket.last_seq \
     ORDER BY shard.shard LIMIT 1";

const RAISE_FLOORS: &str = "UPDATE shard SET turn = turn + 1, floor = GREATEST(floor, \
         (SELECT last_seq FROM bucket WHERE bucket.shard = shard.shard AND bucket.bucket = $1))";

pub(super) const FREE_CLAIMS: &str = "DELETE FROM claim \
     USING (SELECT shard, key FROM claim WHERE bucket = $1 LIMIT $2) AS freed \
     WHERE claim.shard = freed.shard AND claim.key = freed.key";

pub(super) const ERASE_CONTENTS: &str = "DELETE FROM content \
     USING (SELECT shard, seq FROM content WHERE bucket = $1 LIMIT $2) AS erased \
     WHERE content.shard = erased.shard AND content.seq = erased.seq";

/// Answers with the number of events that the bucket held.
const FORGET_BUCKET: &str = "WITH gone AS ( \
         DELETE FROM bucket USING shard WHERE bucket.shard = shard.shard AND bucket.bucket = $1 RETURNING events \
     ), done AS (DELETE FROM dropping WHERE bucket = $1) SELECT COALESCE(SUM(events), 0)::BIGINT FROM gone";

/// Why a bucket was not dropped.
pub(super) enum Hindrance {
    /// It is still needed.
    Needed(DropError),
    /// Somebody is in the way, for a while: a long read, an append that is held up, another who drops.
    Busy,
    Failed(Failure),
}

impl From<sqlx::Error> for Hindrance {
    fn from(error: sqlx::Error) -> Self {
        // lock_not_available, query_canceled
        let waited = |error: &dyn DatabaseError| matches!(error.code().as_deref(), Some("55P03" | "57014"));
        if error.as_database_error().is_some_and(waited) { Self::Busy } else { Self::Failed(Failure::Database(error)) }
    }
}

/// A number is all that goes into the name.
fn name(bucket: Bucket) -> String {
    format!("bucketed_event_{}", bucket.0)
}

/// Whether an insert failed for want of a partition.
pub(super) fn is_missing(error: &dyn DatabaseError) -> bool {
    let error = error.try_downcast_ref::<PgDatabaseError>();
    error.is_some_and(|error| {
        error.code() == "23514" && error.table() == Some("bucketed_event") && error.constraint().is_none()
    })
}

/// Makes the bucket's partition, unless somebody else has.
pub(super) async fn make(connection: &mut PgConnection, bucket: Bucket) -> Result<(), sqlx::Error> {
    sqlx::query("BEGIN").execute(&mut *connection).await?;
    sqlx::query(LOCK_PARTITIONS).execute(&mut *connection).await?;
    let name = name(bucket);
    if sqlx::query(ATTACHED).bind(&name).fetch_all(&mut *connection).await?.is_empty() {
        let number = bucket.0;
        // No statement of this kind takes values, but the name and the value are made of one number.
        let sql = format!(
            "CREATE TABLE {name} (LIKE bucketed_event INCLUDING CONSTRAINTS); \
             CREATE TRIGGER event_is_never_updated BEFORE UPDATE ON {name} \
             FOR EACH STATEMENT EXECUTE FUNCTION refuse_to_change_an_event(); \
             CREATE TRIGGER event_is_never_deleted BEFORE DELETE OR TRUNCATE ON {name} \
             FOR EACH STATEMENT EXECUTE FUNCTION refuse_to_change_an_event(); \
             ALTER TABLE bucketed_event ATTACH PARTITION {name} FOR VALUES IN ({number})"
        );
        sqlx::raw_sql(AssertSqlSafe(sql)).execute(&mut *connection).await?;
    }
    sqlx::query("COMMIT").execute(connection).await?;
    Ok(())
}

/// Goes as far with dropping the bucket as `limit` rows, and those in the way, let it. The connection is used for
/// nothing else.
pub(super) async fn drop_by_step(
    connection: &mut PgConnection,
    bucket: Bucket,
    epoch: u64,
    limit: u32,
) -> Result<Dropped, Hindrance> {
    if !sqlx::query_scalar(ONE_AT_A_TIME).fetch_one(&mut *connection).await? {
        return Err(Hindrance::Busy);
    }
    if !sqlx::query_scalar(IS_OWNER).bind(integer(epoch)).fetch_one(&mut *connection).await? {
        return Err(Hindrance::Failed(Failure::Fenced));
    }
    let number = i64::from(bucket.0);
    if !sqlx::query_scalar(IS_DROPPING).bind(number).fetch_one(&mut *connection).await? {
        bar(connection, bucket, epoch).await?;
    }
    for sql in [FREE_CLAIMS, ERASE_CONTENTS] {
        let done = sqlx::query(sql).bind(number).bind(i64::from(limit)).execute(&mut *connection).await?;
        if done.rows_affected() >= u64::from(limit) {
            return Ok(Dropped { rows: 0, more: true });
        }
    }
    detach(connection, bucket).await?;
    Ok(Dropped { rows: forget(connection, bucket).await?, more: false })
}

/// From here on nothing is written to the bucket, and numbers up to its last may be missing.
async fn bar(connection: &mut PgConnection, bucket: Bucket, epoch: u64) -> Result<(), Hindrance> {
    sqlx::query("BEGIN").execute(&mut *connection).await?;
    sqlx::query(SHORT_WAIT).execute(&mut *connection).await?;
    let epochs: Vec<i64> = sqlx::query_scalar(LOCK_SHARDS).fetch_all(&mut *connection).await?;
    if epochs.first() != Some(&integer(epoch)) {
        return Err(Hindrance::Failed(Failure::Fenced));
    }
    let number = i64::from(bucket.0);
    if let Some(stream) = sqlx::query_scalar(STILL_LIVE).bind(number).fetch_optional(&mut *connection).await? {
        return Err(Hindrance::Needed(DropError::StillLive { bucket, stream }));
    }
    if let Some(row) = sqlx::query(STILL_READ).bind(number).fetch_optional(&mut *connection).await? {
        return Err(Hindrance::Needed(still_read(bucket, &row)?));
    }
    sqlx::query(RAISE_FLOORS).bind(number).execute(&mut *connection).await?;
    sqlx::query("INSERT INTO dropping (bucket) VALUES ($1)").bind(number).execute(&mut *connection).await?;
    sqlx::query("COMMIT").execute(connection).await?;
    Ok(())
}

fn still_read(bucket: Bucket, row: &PgRow) -> Result<DropError, sqlx::Error> {
    let shard: i32 = row.try_get(1)?;
    let shard = u16::try_from(shard).map_err(|_| sqlx::Error::Decode(format!("{shard} is no shard").into()))?;
    let at = Position { shard, seq: number(row.try_get(2)?) };
    let last = Position { shard, seq: number(row.try_get(3)?) };
    Ok(DropError::StillRead { bucket, reader: row.try_get(0)?, at, last })
}

/// Takes the partition out of the table, from wherever an earlier try stopped. Only one may be half taken out, so
/// another bucket's comes first.
async fn detach(connection: &mut PgConnection, bucket: Bucket) -> Result<(), sqlx::Error> {
    let half: Vec<i64> = sqlx::query_scalar(HALF_DETACHED).fetch_all(&mut *connection).await?;
    for number in half {
        let sql = format!("ALTER TABLE bucketed_event DETACH PARTITION bucketed_event_{number} FINALIZE");
        sqlx::raw_sql(AssertSqlSafe(sql)).execute(&mut *connection).await?;
    }
    let name = name(bucket);
    if !sqlx::query(ATTACHED).bind(&name).fetch_all(&mut *connection).await?.is_empty() {
        let sql = format!("ALTER TABLE bucketed_event DETACH PARTITION {name} CONCURRENTLY");
        sqlx::raw_sql(AssertSqlSafe(sql)).execute(connection).await?;
    }
    Ok(())
}

/// Drops what was taken out, and with it what is known of the bucket.
async fn forget(connection: &mut PgConnection, bucket: Bucket) -> Result<u64, sqlx::Error> {
    sqlx::query("BEGIN").execute(&mut *connection).await?;
    let sql = format!("DROP TABLE IF EXISTS {}", name(bucket));
    sqlx::raw_sql(AssertSqlSafe(sql)).execute(&mut *connection).await?;
    let rows = sqlx::query_scalar(FORGET_BUCKET).bind(i64::from(bucket.0)).fetch_one(&mut *connection).await?;
    sqlx::query("COMMIT").execute(connection).await?;
    Ok(number(rows))
}

impl Hindrance {
    /// What the caller is told: to try again, or why not.
    pub(super) fn answer(self, refusal: impl FnOnce(Failure) -> AppendError) -> Result<Dropped, DropError> {
        match self {
            Self::Busy => Ok(Dropped { rows: 0, more: true }),
            Self::Needed(error) => Err(error),
            Self::Failed(failure) => Err(refusal(failure).into()),
        }
    }
}
