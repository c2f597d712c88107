//! One batch of appends as one transaction: in one statement and one round trip where everything is as the writers
//! expect, which is nearly always, else under the shard's lock.
//!
//! The one statement tries its luck, and must therefore be unable to do harm:
//!
//! - It changes something only if the shard has had exactly the appends that this owner knows of (its turn) under this
//!   owner's epoch. So what the statement saw of the shard is the newest there is, although it looked before it had
//!   the lock; and a copy of it that reaches the database late, behind its own repetition, changes nothing.
//! - Streams and claims that are not as expected, and a unique constraint that is hit (another shard has the stream),
//!   end it without a trace; then the lock is taken, everything is looked up, and the answers are exact.

use std::collections::{HashMap, HashSet};

use sqlx::{PgConnection, Row};

use super::{Failure, event_id, integer, number, read};
use crate::domain::id::EventId;
use crate::domain::time::Timestamp;
use crate::event_store::plan::{self, Known, Place, Plan, Verdict};
use crate::event_store::{Append, AppendError, Appended, Position, StreamWrite};

/// Fence, allocator and all rows at once; answers with the head as it was, or with no row if nothing was written.
pub(super) const WRITE: &str = "WITH unexpected AS ( \
         SELECT FROM unnest($5::TEXT[], $6::BIGINT[]) AS wanted (stream, version) \
         WHERE wanted.version <> 1 + COALESCE((SELECT MAX(version) FROM event WHERE event.stream = wanted.stream), 0) \
         UNION ALL SELECT FROM claim WHERE shard = $1 AND key = ANY($17::TEXT[]) \
     ), raised AS ( \
         UPDATE shard SET head = head + $4, turn = turn + 1 \
         WHERE shard = $1 AND epoch = $2 AND turn = $3 AND NOT EXISTS (SELECT FROM unexpected) \
         RETURNING head - $4 AS head \
     ), events AS ( \
         INSERT INTO event (shard, seq, stream, version, kind, schema, event_id, at_ms, data, meta) \
         SELECT $1, raised.head + new.place, new.stream, new.version, new.kind, new.schema, new.event_id, new.at_ms, \
             new.data, new.meta \
         FROM raised, unnest($7::TEXT[], $8::BIGINT[], $9::TEXT[], $10::INTEGER[], $11::BYTEA[], $12::BIGINT[], \
             $13::TEXT[], $14::TEXT[]) WITH ORDINALITY \
             AS new (stream, version, kind, schema, event_id, at_ms, data, meta, place) \
     ), contents AS ( \
         INSERT INTO content (shard, seq, value) SELECT $1, raised.head + new.place, new.value \
         FROM raised, unnest($15::BIGINT[], $16::BYTEA[]) AS new (place, value) \
     ), claims AS ( \
         INSERT INTO claim (shard, key, value, at_ms) SELECT $1, new.key, new.value, new.at_ms \
         FROM raised, unnest($17::TEXT[], $18::TEXT[], $19::BIGINT[]) AS new (key, value, at_ms) \
     ), set_wakeups AS ( \
         INSERT INTO wakeup (shard, key, due_at_ms) SELECT $1, new.key, new.due_at_ms \
         FROM raised, unnest($20::TEXT[], $21::BIGINT[]) AS new (key, due_at_ms) \
         ON CONFLICT (shard, key) DO UPDATE SET due_at_ms = excluded.due_at_ms \
         WHERE wakeup.due_at_ms <> excluded.due_at_ms \
     ), removed_wakeups AS ( \
         DELETE FROM wakeup USING raised WHERE wakeup.shard = $1 AND wakeup.key = ANY($22::TEXT[]) \
     ) SELECT head FROM raised";

pub(super) const LOCK: &str = "SELECT head, turn FROM shard WHERE shard = $1 AND epoch = $2 FOR NO KEY UPDATE";

pub(super) const HEADS: &str = "SELECT wanted.stream, \
         COALESCE((SELECT MAX(version) FROM event WHERE event.stream = wanted.stream), 0) \
     FROM unnest($1::TEXT[]) AS wanted (stream)";

/// The shard is asked for, not filtered by: the planner would take it for the best way to the events, and read it all.
pub(super) const RECORDED: &str = "SELECT wanted.place, event.event_id, event.seq, event.shard \
     FROM unnest($1::TEXT[], $2::BIGINT[]) WITH ORDINALITY AS wanted (stream, version, place) \
     JOIN event ON event.stream = wanted.stream AND event.version = wanted.version";

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

/// Commits what of the batch can be written. On a failure the connection must not be used again; whether anything was
/// written is then unknown.
pub(super) async fn commit(
    connection: &mut PgConnection,
    target: Target,
    batch: &[Append],
) -> Result<Committed, Failure> {
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
    let heads = first_writes(batch).into_iter().map(|(stream, version)| (stream, version.saturating_sub(1)));
    let known = Known { heads: heads.collect(), recorded: HashMap::new(), claims: HashMap::new() };
    let plan = plan::plan(batch, known);
    let accepted = plan.verdicts.iter().all(|verdict| match verdict {
        Verdict::Write(_) | Verdict::Repeated(_) => true,
        Verdict::Refuse(_) => false,
    });
    let vouched = batch.iter().flat_map(|append| &append.writes).all(|write| !write.events.is_empty());
    (accepted && vouched).then_some(plan)
}

/// The first version that the batch wants to write of each stream.
fn first_writes(batch: &[Append]) -> HashMap<&str, u64> {
    let mut first = HashMap::new();
    for write in batch.iter().flat_map(|append| &append.writes) {
        first.entry(write.stream.as_str()).or_insert(write.first_version);
    }
    first
}

async fn look_and_write(connection: &mut PgConnection, target: Target, batch: &[Append]) -> Result<Committed, Failure> {
    sqlx::query("BEGIN").execute(&mut *connection).await?;
    let rows =
        sqlx::query(LOCK).bind(i32::from(target.shard)).bind(integer(target.epoch)).fetch_all(&mut *connection).await?;
    let row = rows.first().ok_or(Failure::Fenced)?;
    let (head, turn) = (number(row.try_get(0)?), number(row.try_get(1)?));
    let plan = plan::plan(batch, look_up(connection, target.shard, batch).await?);
    let rows = Rows::collect(batch, &plan);
    let found = Target { turn, ..target };
    let turn = if rows.is_empty() {
        turn
    } else {
        write(connection, found, &rows).await?.ok_or(Failure::Raced)?;
        turn + 1
    };
    sqlx::query("COMMIT").execute(connection).await?;
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
    let mut heads = first_writes(batch);
    let streams: Vec<&str> = heads.keys().copied().collect();
    for row in sqlx::query(HEADS).bind(streams).fetch_all(connection).await? {
        let stream: &str = row.try_get(0)?;
        if let Some(head) = heads.get_mut(stream) {
            *head = number(row.try_get(1)?);
        }
    }
    Ok(heads)
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
        .bind(integer(rows.kinds.len() as u64))
        .bind(&rows.wanted_streams)
        .bind(&rows.wanted_versions)
        .bind(&rows.streams)
        .bind(&rows.versions)
        .bind(&rows.kinds)
        .bind(&rows.schemas)
        .bind(&rows.ids)
        .bind(&rows.times)
        .bind(&rows.data)
        .bind(&rows.meta)
        .bind(&rows.content_places)
        .bind(&rows.contents)
        .bind(&rows.claim_keys)
        .bind(&rows.claim_values)
        .bind(&rows.claim_times)
        .bind(&rows.wakeup_keys)
        .bind(&rows.wakeup_times)
        .bind(&rows.removed_wakeups);
    match query.fetch_all(connection).await {
        Ok(found) => Ok(found.first().map(|row| row.try_get(0)).transpose()?.map(number)),
        Err(sqlx::Error::Database(error)) if error.is_unique_violation() => Ok(None),
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

/// What a batch adds, column by column, and what it expects of the streams.
#[derive(Default)]
struct Rows<'a> {
    accepted: usize,
    wanted_streams: Vec<&'a str>,
    wanted_versions: Vec<i64>,
    streams: Vec<&'a str>,
    versions: Vec<i64>,
    kinds: Vec<&'a str>,
    schemas: Vec<i32>,
    ids: Vec<[u8; 16]>,
    times: Vec<i64>,
    data: Vec<&'a str>,
    meta: Vec<Option<&'a str>>,
    content_places: Vec<i64>,
    contents: Vec<&'a [u8]>,
    claim_keys: Vec<&'a str>,
    claim_values: Vec<&'a str>,
    claim_times: Vec<Option<i64>>,
    wakeup_keys: Vec<&'a str>,
    wakeup_times: Vec<i64>,
    removed_wakeups: Vec<&'a str>,
}

impl<'a> Rows<'a> {
    fn collect(batch: &'a [Append], plan: &Plan) -> Self {
        let mut rows = Self::default();
        let mut streams = HashSet::new();
        // The last word on each key: what was set and moved within the batch is written once.
        let mut wakeups: HashMap<&str, Option<Timestamp>> = HashMap::new();
        for (append, verdict) in batch.iter().zip(&plan.verdicts) {
            match verdict {
                Verdict::Write(_) => {
                    rows.add(append, &mut streams);
                    wakeups.extend(append.wakeups.iter().map(|(key, due_at)| (key.as_str(), *due_at)));
                }
                Verdict::Repeated(_) | Verdict::Refuse(_) => {}
            }
        }
        for (key, due_at) in wakeups {
            match due_at {
                Some(due_at) => {
                    rows.wakeup_keys.push(key);
                    rows.wakeup_times.push(due_at.as_ms());
                }
                None => rows.removed_wakeups.push(key),
            }
        }
        rows
    }

    /// Whether no append is written at all.
    fn is_empty(&self) -> bool {
        self.accepted == 0
    }

    fn add(&mut self, append: &'a Append, streams: &mut HashSet<&'a str>) {
        self.accepted += 1;
        for write in &append.writes {
            if streams.insert(&write.stream) {
                self.wanted_streams.push(&write.stream);
                self.wanted_versions.push(integer(write.first_version));
            }
            self.add_events(write);
        }
        let at = append.writes.iter().flat_map(|write| &write.events).map(|event| event.at.as_ms()).max();
        for claim in &append.claims {
            self.claim_keys.push(&claim.key);
            self.claim_values.push(&claim.value);
            self.claim_times.push(at);
        }
    }

    fn add_events(&mut self, write: &'a StreamWrite) {
        for (version, event) in (write.first_version..).zip(&write.events) {
            self.streams.push(&write.stream);
            self.versions.push(integer(version));
            self.kinds.push(&event.kind);
            self.schemas.push(i32::from(event.schema));
            self.ids.push(event.id.to_bits().to_be_bytes());
            self.times.push(event.at.as_ms());
            self.data.push(&event.data);
            self.meta.push(event.meta.as_deref());
            if let Some(content) = &event.content {
                self.content_places.push(integer(self.kinds.len() as u64));
                self.contents.push(content);
            }
        }
    }
}
