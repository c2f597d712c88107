//! One batch of appends as one transaction: in one statement and one round trip where everything is as the writers
//! expect, which is nearly always, else under the shard's lock.
//!
//! The one statement tries its luck, and must therefore be unable to do harm:
//!
//! - It changes something only if the shard has had exactly the appends that this owner knows of (its turn) under this
//!   owner's epoch. So what the statement saw of the shard is the newest there is, although it looked before it had
//!   the lock; and a copy of it that reaches the database late, behind its own repetition, changes nothing.
//! - Streams and claims that are not as expected, a bucket that is being dropped, and a unique constraint that is hit (another shard has the stream),
//!   end it without a trace; then the lock is taken, everything is looked up, and the answers are exact.

use std::collections::{BTreeSet, HashMap};

use sqlx::{PgConnection, Row};

use super::rows::Rows;
use super::{Failure, partition, read};
use crate::domain::id::EventId;
use crate::event_store::plan::{self, Known, Place, Plan, Verdict};
use crate::event_store::row::{event_id, integer, number};
use crate::event_store::{Append, AppendError, Appended, Bucket, Position, StreamWrite};

/// Fence, allocator and all rows at once; answers with the head as it was, or with no row if nothing was written.
///
/// The head of a bucketed stream is looked for from its open period on, that of a new one in every bucket, and that of
/// a kept stream in none (with no bucket to begin at, no partition is opened).
pub(super) const WRITE: &str = "WITH unexpected AS ( \
         SELECT FROM unnest($5::TEXT[], $6::BIGINT[], $7::BIGINT[]) AS wanted (stream, version, bucket) \
         LEFT JOIN period ON period.stream = wanted.stream \
         WHERE period.bucket > wanted.bucket OR wanted.version <> 1 + COALESCE(GREATEST( \
             (SELECT MAX(version) FROM event WHERE event.stream = wanted.stream), \
             (SELECT MAX(version) FROM bucketed_event AS event WHERE event.stream = wanted.stream AND event.bucket >= \
                 COALESCE(period.bucket, CASE WHEN wanted.bucket IS NOT NULL THEN 0 END)) \
         ), 0) \
         UNION ALL SELECT FROM claim WHERE shard = $1 AND key = ANY($31::TEXT[]) \
         UNION ALL SELECT FROM dropping WHERE bucket = ANY($8::BIGINT[]) \
     ), raised AS ( \
         UPDATE shard SET head = head + $4, turn = turn + 1 \
         WHERE shard = $1 AND epoch = $2 AND turn = $3 AND NOT EXISTS (SELECT FROM unexpected) \
         RETURNING head - $4 AS head \
     ), kept_events AS ( \
         INSERT INTO event (shard, seq, stream, version, kind, schema, event_id, at_ms, data, meta) \
         SELECT $1, raised.head + new.place, new.stream, new.version, new.kind, new.schema, new.event_id, new.at_ms, \
             new.data, new.meta \
         FROM raised, unnest($9::BIGINT[], $10::TEXT[], $11::BIGINT[], $12::TEXT[], $13::INTEGER[], $14::BYTEA[], \
             $15::BIGINT[], $16::TEXT[], $17::TEXT[]) \
             AS new (place, stream, version, kind, schema, event_id, at_ms, data, meta) \
     ), bucketed_events AS ( \
         INSERT INTO bucketed_event \
             (bucket, shard, seq, stream, version, kind, schema, event_id, at_ms, data, meta) \
         SELECT new.bucket, $1, raised.head + new.place, new.stream, new.version, new.kind, new.schema, new.event_id, \
             new.at_ms, new.data, new.meta \
         FROM raised, unnest($18::BIGINT[], $19::TEXT[], $20::BIGINT[], $21::TEXT[], $22::INTEGER[], $23::BYTEA[], \
             $24::BIGINT[], $25::TEXT[], $26::TEXT[], $27::BIGINT[]) \
             AS new (place, stream, version, kind, schema, event_id, at_ms, data, meta, bucket) \
     ), contents AS ( \
         INSERT INTO content (shard, seq, value, bucket) SELECT $1, raised.head + new.place, new.value, new.bucket \
         FROM raised, unnest($28::BIGINT[], $29::BYTEA[], $30::BIGINT[]) AS new (place, value, bucket) \
     ), claims AS ( \
         INSERT INTO claim (shard, key, value, at_ms, bucket) SELECT $1, new.key, new.value, new.at_ms, new.bucket \
         FROM raised, unnest($31::TEXT[], $32::TEXT[], $33::BIGINT[], $34::BIGINT[]) \
             AS new (key, value, at_ms, bucket) \
     ), set_wakeups AS ( \
         INSERT INTO wakeup (shard, key, due_at_ms) SELECT $1, new.key, new.due_at_ms \
         FROM raised, unnest($35::TEXT[], $36::BIGINT[]) AS new (key, due_at_ms) \
         ON CONFLICT (shard, key) DO UPDATE SET due_at_ms = excluded.due_at_ms \
         WHERE wakeup.due_at_ms <> excluded.due_at_ms \
     ), removed_wakeups AS ( \
         DELETE FROM wakeup USING raised WHERE wakeup.shard = $1 AND wakeup.key = ANY($37::TEXT[]) \
     ), buckets AS ( \
         INSERT INTO bucket (shard, bucket, last_seq, events) SELECT $1, new.bucket, raised.head + new.place, new.events \
         FROM raised, unnest($38::BIGINT[], $39::BIGINT[], $40::BIGINT[]) AS new (bucket, place, events) \
         ON CONFLICT (shard, bucket) DO UPDATE \
         SET last_seq = excluded.last_seq, events = bucket.events + excluded.events \
     ), first_periods AS ( \
         INSERT INTO period (stream, shard, bucket, first_version) SELECT new.stream, $1, new.bucket, new.first_version \
         FROM raised, unnest($41::TEXT[], $42::BIGINT[], $43::BIGINT[], $44::BOOLEAN[]) \
             AS new (stream, bucket, first_version, first) WHERE new.first \
     ), later_periods AS ( \
         INSERT INTO period (stream, shard, bucket, first_version) SELECT new.stream, $1, new.bucket, new.first_version \
         FROM raised, unnest($41::TEXT[], $42::BIGINT[], $43::BIGINT[], $44::BOOLEAN[]) \
             AS new (stream, bucket, first_version, first) WHERE NOT new.first \
         ON CONFLICT (stream) DO UPDATE SET bucket = excluded.bucket, first_version = excluded.first_version \
     ), ended_periods AS ( \
         DELETE FROM period USING raised WHERE period.shard = $1 AND period.stream = ANY($45::TEXT[]) \
     ), snapshots AS ( \
         INSERT INTO snapshot (shard, key, seq, fingerprint, data) \
         SELECT $1, new.key, raised.head + new.place, new.fingerprint, new.data \
         FROM raised, unnest($46::TEXT[], $47::BIGINT[], $48::TEXT[], $49::TEXT[]) AS new (key, place, fingerprint, data) \
         ON CONFLICT (shard, key) DO UPDATE \
         SET seq = excluded.seq, fingerprint = excluded.fingerprint, data = excluded.data \
     ), erased AS ( \
         DELETE FROM content USING raised WHERE content.shard = $1 AND content.seq = ANY($50::BIGINT[]) \
     ) SELECT head FROM raised";

pub(super) const LOCK: &str = "SELECT head, turn FROM shard WHERE shard = $1 AND epoch = $2 FOR NO KEY UPDATE";

/// As the one statement looks for them; with the bucket of the open period.
pub(super) const HEADS: &str = "SELECT wanted.stream, COALESCE(GREATEST( \
         (SELECT MAX(version) FROM event WHERE event.stream = wanted.stream), \
         (SELECT MAX(version) FROM bucketed_event AS event WHERE event.stream = wanted.stream AND event.bucket >= \
             COALESCE(period.bucket, CASE WHEN wanted.bucket IS NOT NULL THEN 0 END)) \
     ), 0), period.bucket \
     FROM unnest($1::TEXT[], $2::BIGINT[]) AS wanted (stream, bucket) \
     LEFT JOIN period ON period.stream = wanted.stream";

/// The shard is asked for, not filtered by: the planner would take it for the best way to the events, and read it all.
pub(super) const RECORDED: &str = "SELECT wanted.place, event.event_id, event.seq, event.shard \
     FROM unnest($1::TEXT[], $2::BIGINT[]) WITH ORDINALITY AS wanted (stream, version, place) \
     JOIN event ON event.stream = wanted.stream AND event.version = wanted.version \
     UNION ALL \
     SELECT wanted.place, event.event_id, event.seq, event.shard \
     FROM unnest($1::TEXT[], $2::BIGINT[]) WITH ORDINALITY AS wanted (stream, version, place) \
     JOIN bucketed_event AS event ON event.stream = wanted.stream AND event.version = wanted.version";

pub(super) const DROPPING: &str = "SELECT bucket FROM dropping WHERE bucket = ANY($1)";

/// Which shard is written, and as whom.
#[derive(Clone, Copy, Debug)]
pub(super) struct Target {
    pub(super) shard: u16,
    pub(super) epoch: u64,
    /// How many appends the shard has had, as far as its owner knows.
    pub(super) turn: u64,
}

/// What a commit tells.
pub(super) struct Committed {
    /// In the order of the appends.
    pub(super) answers: Vec<Result<Appended, AppendError>>,
    /// How many appends the shard has had now.
    pub(super) turn: u64,
}

/// Commits what of the batch can be written, and makes the partitions that it meets missing. On a failure the
/// connection must not be used again; whether anything was written is then unknown.
pub(super) async fn commit(
    connection: &mut PgConnection,
    target: Target,
    batch: &[Append],
) -> Result<Committed, Failure> {
    match try_to_commit(connection, target, batch).await {
        Err(Failure::NoPartition) => {
            // Outside the transaction of the append, which has failed: other appends need not wait for it.
            let writes = batch.iter().flat_map(|append| &append.writes);
            let buckets: BTreeSet<Bucket> = writes.filter_map(|write| write.lifetime.bucket()).collect();
            for bucket in buckets {
                partition::make(connection, bucket).await?;
            }
            try_to_commit(connection, target, batch).await
        }
        committed => committed,
    }
}

async fn try_to_commit(connection: &mut PgConnection, target: Target, batch: &[Append]) -> Result<Committed, Failure> {
    if let Some(plan) = as_expected(batch)
        && let Some(head_before) = write(connection, target, &Rows::collect(batch, &plan)).await?
    {
        return Ok(Committed { answers: answers(target.shard, plan, head_before), turn: target.turn + 1 });
    }
    look_and_write(connection, target, batch).await
}

/// The plan if everything is as the writers expect; `None` if some of it is refused even then, or would be written
/// without a row that vouches for the expectation.
fn as_expected(batch: &[Append]) -> Option<Plan> {
    let heads = first_writes(batch).into_iter().map(|(stream, write)| (stream, write.first_version.saturating_sub(1)));
    let known = Known { heads: heads.collect(), recorded: HashMap::new(), claims: HashMap::new() };
    let plan = plan::plan(batch, known);
    let accepted = plan.verdicts.iter().all(|verdict| match verdict {
        Verdict::Write(_) | Verdict::Repeated(_) => true,
        Verdict::Refuse(_) => false,
    });
    let vouched = batch.iter().flat_map(|append| &append.writes).all(|write| !write.events.is_empty());
    (accepted && vouched).then_some(plan)
}

/// The first write of the batch to each stream.
fn first_writes(batch: &[Append]) -> HashMap<&str, &StreamWrite> {
    let mut first = HashMap::new();
    for write in batch.iter().flat_map(|append| &append.writes) {
        first.entry(write.stream.as_str()).or_insert(write);
    }
    first
}

async fn look_and_write(connection: &mut PgConnection, target: Target, batch: &[Append]) -> Result<Committed, Failure> {
    sqlx::query("BEGIN").execute(&mut *connection).await?;
    let committed = write_locked(connection, target, batch).await;
    let end = match &committed {
        Ok(_) => "COMMIT",
        Err(Failure::NoPartition) => "ROLLBACK",
        // The connection is not used again.
        Err(_) => return committed,
    };
    sqlx::query(end).execute(connection).await?;
    committed
}

async fn write_locked(connection: &mut PgConnection, target: Target, batch: &[Append]) -> Result<Committed, Failure> {
    let rows =
        sqlx::query(LOCK).bind(i32::from(target.shard)).bind(integer(target.epoch)).fetch_all(&mut *connection).await?;
    let row = rows.first().ok_or(Failure::Fenced)?;
    let (head, turn) = (number(row.try_get(0)?), number(row.try_get(1)?));
    let plan = plan::plan(batch, look_up(connection, target.shard, batch).await?);
    let rows = Rows::collect(batch, &plan);
    must_stay(connection, &rows).await?;
    let found = Target { turn, ..target };
    let turn = if rows.is_empty() {
        turn
    } else {
        write(connection, found, &rows).await?.ok_or(Failure::Raced)?;
        turn + 1
    };
    Ok(Committed { answers: answers(target.shard, plan, head), turn })
}

async fn look_up<'a>(connection: &mut PgConnection, shard: u16, batch: &'a [Append]) -> Result<Known<'a>, Failure> {
    let heads = heads(connection, batch).await?;
    let recorded = recorded(connection, shard, batch, &heads).await?;
    let keys: Vec<&str> = batch.iter().flat_map(|append| &append.claims).map(|claim| claim.key.as_str()).collect();
    let rows = sqlx::query(read::CLAIMS).bind(i32::from(shard)).bind(keys).fetch_all(connection).await?;
    let claims = rows.iter().map(|row| Ok((row.try_get(0)?, row.try_get(1)?))).collect::<Result<_, sqlx::Error>>()?;
    Ok(Known { heads, recorded, claims })
}

async fn heads<'a>(connection: &mut PgConnection, batch: &'a [Append]) -> Result<HashMap<&'a str, u64>, Failure> {
    let writes = first_writes(batch);
    let bucket = |write: &StreamWrite| write.lifetime.bucket().map(|bucket| i64::from(bucket.0));
    let (streams, buckets): (Vec<&str>, Vec<Option<i64>>) =
        writes.iter().map(|(stream, write)| (*stream, bucket(write))).unzip();
    let mut heads = HashMap::new();
    for row in sqlx::query(HEADS).bind(streams).bind(buckets).fetch_all(connection).await? {
        let stream: &str = row.try_get(0)?;
        let Some((stream, write)) = writes.get_key_value(stream) else { continue };
        let head = number(row.try_get(1)?);
        let opened_in: Option<i64> = row.try_get(2)?;
        let is_next = write.first_version == head + 1;
        if is_next && bucket(write).is_some() && bucket(write) < opened_in {
            return Err(Failure::Backwards((*stream).to_owned()));
        }
        heads.insert(*stream, head);
    }
    Ok(heads)
}

/// What goes to a bucket that is being dropped would be lost with it.
async fn must_stay(connection: &mut PgConnection, rows: &Rows<'_>) -> Result<(), Failure> {
    if rows.named_buckets.is_empty() {
        return Ok(());
    }
    let dropping: Vec<i64> = sqlx::query_scalar(DROPPING).bind(&rows.named_buckets).fetch_all(connection).await?;
    dropping.first().map_or(Ok(()), |bucket| Err(Failure::Dropping(*bucket)))
}

/// The events that stand where the batch wants to write: none, unless an append is repeated or in conflict.
async fn recorded<'a>(
    connection: &mut PgConnection,
    shard: u16,
    batch: &'a [Append],
    heads: &HashMap<&'a str, u64>,
) -> Result<HashMap<(&'a str, u64), (EventId, u64)>, Failure> {
    let mut wanted: Vec<(&str, u64)> = Vec::new();
    for write in batch.iter().flat_map(|append| &append.writes) {
        let head = heads.get(write.stream.as_str()).copied().unwrap_or(0);
        let versions = (write.first_version..=head).take(write.events.len());
        wanted.extend(versions.map(|version| (write.stream.as_str(), version)));
    }
    let mut recorded = HashMap::new();
    if wanted.is_empty() {
        return Ok(recorded);
    }
    let (streams, versions): (Vec<&str>, Vec<i64>) =
        wanted.iter().map(|(stream, version)| (*stream, integer(*version))).unzip();
    let query = sqlx::query(RECORDED).bind(streams).bind(versions);
    for row in query.fetch_all(connection).await? {
        let id = event_id(row.try_get(1)?).map_err(|reason| sqlx::Error::Decode(reason.into()))?;
        let place = number(row.try_get(0)?).checked_sub(1).and_then(|index| wanted.get(usize::try_from(index).ok()?));
        let (seq, stands_in): (i64, i32) = (row.try_get(2)?, row.try_get(3)?);
        // A stream of another shard has a version, but no event that could be repeated here.
        let place = place.filter(|_| stands_in == i32::from(shard));
        recorded.extend(place.map(|place| (*place, (id, number(seq)))));
    }
    Ok(recorded)
}

/// Answers with the head as it was; `None` if something is not as expected, and nothing was written.
///
/// All rows are fetched, here as everywhere: an autocommitted statement has succeeded only when the database says that
/// it is ready for the next, and what comes before that may still be followed by an error.
async fn write(connection: &mut PgConnection, target: Target, rows: &Rows<'_>) -> Result<Option<u64>, Failure> {
    let query = sqlx::query(WRITE)
        .bind(i32::from(target.shard))
        .bind(integer(target.epoch))
        .bind(integer(target.turn))
        .bind(integer(rows.events))
        .bind(&rows.wanted_streams)
        .bind(&rows.wanted_versions)
        .bind(&rows.wanted_buckets)
        .bind(&rows.named_buckets);
    let query = rows.kept.bind(query);
    let query = rows.bucketed.bind(query).bind(&rows.event_buckets);
    let query = query
        .bind(&rows.content_places)
        .bind(&rows.contents)
        .bind(&rows.content_buckets)
        .bind(&rows.claim_keys)
        .bind(&rows.claim_values)
        .bind(&rows.claim_times)
        .bind(&rows.claim_buckets)
        .bind(&rows.wakeup_keys)
        .bind(&rows.wakeup_times)
        .bind(&rows.removed_wakeups)
        .bind(&rows.buckets)
        .bind(&rows.bucket_places)
        .bind(&rows.bucket_events)
        .bind(&rows.period_streams)
        .bind(&rows.period_buckets)
        .bind(&rows.period_versions)
        .bind(&rows.period_is_first)
        .bind(&rows.ended)
        .bind(&rows.snapshot_keys)
        .bind(&rows.snapshot_places)
        .bind(&rows.snapshot_fingerprints)
        .bind(&rows.snapshots)
        .bind(&rows.erased);
    match query.fetch_all(connection).await {
        Ok(found) => Ok(found.first().map(|row| row.try_get(0)).transpose()?.map(number)),
        Err(sqlx::Error::Database(error)) if error.is_unique_violation() => Ok(None),
        Err(sqlx::Error::Database(error)) if partition::is_missing(&*error) => Err(Failure::NoPartition),
        Err(error) => Err(error.into()),
    }
}

fn answers(shard: u16, plan: Plan, head_before: u64) -> Vec<Result<Appended, AppendError>> {
    let appended = |place: Place| Appended { last: Position { shard, seq: place.seq(head_before) } };
    let answer = |verdict| match verdict {
        Verdict::Write(place) | Verdict::Repeated(place) => Ok(appended(place)),
        Verdict::Refuse(error) => Err(error),
    };
    plan.verdicts.into_iter().map(answer).collect()
}
