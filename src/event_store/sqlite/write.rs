//! One batch of appends as one transaction.

use std::collections::HashMap;
use std::sync::{Arc, LazyLock};

use sqlx::{Row, SqliteConnection};

use super::statement::{ManyRows, Values};
use crate::domain::time::Timestamp;
use crate::event_store::plan::{self, Known, Place, Verdict};
use crate::event_store::row::{event_id, integer, number};
use crate::event_store::{Append, AppendError, Appended, Bucket, Claim, NewEvent, Period, Position, Snapshot};

pub(super) const RAISE_HEAD: &str = "UPDATE shard SET head = head + $1 WHERE shard = 0 AND epoch = $2 RETURNING head";

/// Streams whose last version is not the one before the wanted one; none where everything goes well. Both tables are
/// asked, whatever the lifetime that is written: nothing else would tell that a stream has another one already.
pub(super) static UNEXPECTED_HEADS: LazyLock<ManyRows> = LazyLock::new(|| {
    ManyRows::new(
        "WITH wanted (stream, first_version) AS (VALUES ",
        "(?, ?)",
        "), found AS (SELECT stream, first_version, \
         max((SELECT coalesce(max(version), 0) FROM event WHERE event.stream = wanted.stream), \
             (SELECT coalesce(max(version), 0) FROM bucketed_event WHERE bucketed_event.stream = wanted.stream)) \
         AS head FROM wanted) \
         SELECT stream, head FROM found WHERE first_version <> head + 1",
    )
});

/// The transaction begins with it: one call to SQLite's thread fewer.
static BEGIN_WITH_UNEXPECTED_HEADS: LazyLock<ManyRows> =
    LazyLock::new(|| ManyRows::behind("BEGIN IMMEDIATE", &UNEXPECTED_HEADS));

pub(super) const EVENT_IDS: &str = "SELECT version, event_id, seq FROM event WHERE stream = $1 AND version >= $2 \
     UNION ALL SELECT version, event_id, seq FROM bucketed_event WHERE stream = $1 AND version >= $2 \
     ORDER BY version LIMIT $3";

pub(super) static CLAIMS: LazyLock<ManyRows> =
    LazyLock::new(|| ManyRows::new("SELECT key, value FROM claim WHERE key IN (", "?", ")"));

static INSERT_EVENTS: LazyLock<ManyRows> = LazyLock::new(|| {
    ManyRows::new(
        "INSERT INTO event (seq, stream, version, kind, schema, event_id, at_ms, data, meta) VALUES ",
        "(?, ?, ?, ?, ?, ?, ?, ?, ?)",
        "",
    )
});

static INSERT_BUCKETED_EVENTS: LazyLock<ManyRows> = LazyLock::new(|| {
    ManyRows::new(
        "INSERT INTO bucketed_event (bucket, seq, stream, version, kind, schema, event_id, at_ms, data, meta) VALUES ",
        "(?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
        "",
    )
});

/// What is appended to a bucket that is being dropped is not among what may go: the next step asks again.
static EXTEND_BUCKETS: LazyLock<ManyRows> = LazyLock::new(|| {
    ManyRows::new(
        "INSERT INTO bucket (bucket, first_seq, last_seq, dropping) VALUES ",
        "(?, ?, ?, 0)",
        " ON CONFLICT (bucket) DO UPDATE SET last_seq = excluded.last_seq, dropping = 0",
    )
});

/// The transaction ends with it: one call to SQLite's thread fewer.
static EXTEND_BUCKETS_AND_COMMIT: LazyLock<ManyRows> = LazyLock::new(|| ManyRows::before(&EXTEND_BUCKETS, "COMMIT"));

static INSERT_CONTENTS: LazyLock<ManyRows> =
    LazyLock::new(|| ManyRows::new("INSERT INTO content (seq, bucket, value) VALUES ", "(?, ?, ?)", ""));

pub(super) static ERASE_CONTENTS: LazyLock<ManyRows> =
    LazyLock::new(|| ManyRows::new("DELETE FROM content WHERE seq IN (", "?", ")"));

static INSERT_CLAIMS: LazyLock<ManyRows> =
    LazyLock::new(|| ManyRows::new("INSERT INTO claim (key, value, at_ms, bucket) VALUES ", "(?, ?, ?, ?)", ""));

static OPEN_PERIODS: LazyLock<ManyRows> = LazyLock::new(|| {
    ManyRows::new(
        "INSERT INTO period (stream, bucket, first_version) VALUES ",
        "(?, ?, ?)",
        " ON CONFLICT (stream) DO UPDATE SET bucket = excluded.bucket, first_version = excluded.first_version",
    )
});

static END_PERIODS: LazyLock<ManyRows> =
    LazyLock::new(|| ManyRows::new("DELETE FROM period WHERE stream IN (", "?", ")"));

static STORE_SNAPSHOTS: LazyLock<ManyRows> = LazyLock::new(|| {
    ManyRows::new(
        "INSERT INTO snapshot (key, seq, fingerprint, data) VALUES ",
        "(?, ?, ?, ?)",
        " ON CONFLICT (key) DO UPDATE \
         SET seq = excluded.seq, fingerprint = excluded.fingerprint, data = excluded.data",
    )
});

static SET_WAKEUPS: LazyLock<ManyRows> = LazyLock::new(|| {
    ManyRows::new(
        "INSERT INTO wakeup (key, due_at_ms) VALUES ",
        "(?, ?)",
        " ON CONFLICT (key) DO UPDATE SET due_at_ms = excluded.due_at_ms WHERE due_at_ms <> excluded.due_at_ms",
    )
});

static REMOVE_WAKEUPS: LazyLock<ManyRows> =
    LazyLock::new(|| ManyRows::new("DELETE FROM wakeup WHERE key IN (", "?", ")"));

/// Why a whole transaction failed.
#[derive(Debug)]
pub(super) enum Failure {
    /// The epoch is no longer this handle's.
    Fenced,
    /// SQLite failed; what it left open ends with the connection.
    Database(sqlx::Error),
}

impl From<sqlx::Error> for Failure {
    fn from(error: sqlx::Error) -> Self {
        Self::Database(error)
    }
}

/// Commits what of the batch can be written. On a failure nothing is, and the connection must not be used again.
pub(super) async fn commit(
    connection: &mut SqliteConnection,
    epoch: u64,
    batch: Vec<Append>,
) -> Result<Vec<Result<Appended, AppendError>>, Failure> {
    let plan = plan::plan(&batch, begin_and_look_up(connection, &batch).await?);
    let head_before = raise_head(connection, epoch, plan.new_events).await?;
    let rows = Rows::collect(batch, &plan.verdicts, head_before);
    rows.insert_and_commit(connection).await?;
    Ok(plan.verdicts.into_iter().map(|verdict| answer(verdict, head_before)).collect())
}

fn answer(verdict: Verdict, head_before: u64) -> Result<Appended, AppendError> {
    let appended = |place: Place| Appended { last: Position { shard: 0, seq: place.seq(head_before) } };
    match verdict {
        Verdict::Write(place) | Verdict::Repeated(place) => Ok(appended(place)),
        Verdict::Refuse(error) => Err(error),
    }
}

/// Fence, lock and allocator in one; answers with the head as it was.
///
/// All rows are fetched, here as everywhere: to stop at the first would reset the statement and swallow its error.
async fn raise_head(connection: &mut SqliteConnection, epoch: u64, by: u64) -> Result<u64, Failure> {
    let query = sqlx::query(RAISE_HEAD).bind(integer(by)).bind(integer(epoch));
    let rows = query.fetch_all(connection).await?;
    let row = rows.first().ok_or(Failure::Fenced)?;
    Ok(number(row.try_get(0)?) - by)
}

async fn begin_and_look_up<'a>(connection: &mut SqliteConnection, batch: &'a [Append]) -> Result<Known<'a>, Failure> {
    let heads = begin_and_find_heads(connection, batch).await?;
    let recorded = recorded(connection, batch, &heads).await?;
    let keys: Vec<&str> = batch.iter().flat_map(|append| &append.claims).map(|claim| claim.key.as_str()).collect();
    let claims = claims(connection, &keys).await?;
    Ok(Known { heads, recorded, claims })
}

/// The last version of each stream: one less than the first append expects, unless the database says otherwise.
async fn begin_and_find_heads<'a>(
    connection: &mut SqliteConnection,
    batch: &'a [Append],
) -> Result<HashMap<&'a str, u64>, Failure> {
    let mut wanted = HashMap::new();
    for write in batch.iter().flat_map(|append| &append.writes) {
        wanted.entry(write.stream.as_str()).or_insert(write.first_version);
    }
    let unexpected_heads = if ManyRows::at_once(wanted.len()) {
        &BEGIN_WITH_UNEXPECTED_HEADS
    } else {
        sqlx::query("BEGIN IMMEDIATE").execute(&mut *connection).await?;
        &UNEXPECTED_HEADS
    };
    let rows = unexpected_heads.run(connection, wanted.iter(), |values, (stream, first_version)| {
        values.add(*stream)?;
        values.add(integer(*first_version))
    });
    let unexpected = rows.await?;
    let mut heads = wanted;
    // Version 0 never fits, so its stream is among the unexpected.
    heads.values_mut().for_each(|version| *version = version.saturating_sub(1));
    for row in unexpected {
        let stream: &str = row.try_get(0)?;
        if let Some(head) = heads.get_mut(stream) {
            *head = number(row.try_get(1)?);
        }
    }
    Ok(heads)
}

/// The events that stand where the batch wants to write: none, unless an append is repeated or in conflict.
async fn recorded<'a>(
    connection: &mut SqliteConnection,
    batch: &'a [Append],
    heads: &HashMap<&str, u64>,
) -> Result<HashMap<(&'a str, u64), (crate::domain::id::EventId, u64)>, Failure> {
    let mut recorded = HashMap::new();
    for write in batch.iter().flat_map(|append| &append.writes) {
        if heads.get(write.stream.as_str()).is_none_or(|head| *head < write.first_version) {
            continue;
        }
        let query = sqlx::query(EVENT_IDS).bind(write.stream.as_str()).bind(integer(write.first_version));
        for row in query.bind(integer(write.events.len() as u64)).fetch_all(&mut *connection).await? {
            let id = event_id(row.try_get(1)?).map_err(|reason| sqlx::Error::Decode(reason.into()))?;
            recorded.insert((write.stream.as_str(), number(row.try_get(0)?)), (id, number(row.try_get(2)?)));
        }
    }
    Ok(recorded)
}

/// The values of those keys that are claimed.
pub(super) async fn claims(
    connection: &mut SqliteConnection,
    keys: &[&str],
) -> Result<HashMap<String, String>, sqlx::Error> {
    let rows = CLAIMS.run(connection, keys.iter(), |values, key| values.add(*key)).await?;
    rows.iter().map(|row| Ok((row.try_get(0)?, row.try_get(1)?))).collect()
}

/// What a batch adds, table by table, numbered.
#[derive(Default)]
struct Rows {
    events: Vec<EventRow>,
    bucketed_events: Vec<(Bucket, EventRow)>,
    /// The first and the last number of the batch in each bucket.
    buckets: HashMap<Bucket, (u64, u64)>,
    contents: Vec<(u64, Option<Bucket>, Vec<u8>)>,
    erased: Vec<u64>,
    /// With the time of the events that each came with.
    claims: Vec<(Claim, Option<i64>)>,
    /// The last word on each stream.
    periods: HashMap<Arc<str>, Option<Period>>,
    /// The last of each key, with the number that it rests on.
    snapshots: HashMap<String, (u64, Snapshot)>,
    /// The last word on each key: what was set and moved within the batch is written once.
    wakeups: HashMap<String, Option<Timestamp>>,
}

struct EventRow {
    seq: u64,
    stream: Arc<str>,
    version: u64,
    event: NewEvent,
}

impl Rows {
    fn collect(batch: Vec<Append>, verdicts: &[Verdict], head_before: u64) -> Self {
        let mut rows = Self::default();
        let mut seq = head_before;
        for (append, verdict) in batch.into_iter().zip(verdicts) {
            match verdict {
                Verdict::Write(_) => rows.add(append, &mut seq),
                Verdict::Repeated(_) | Verdict::Refuse(_) => {}
            }
        }
        rows
    }

    fn add(&mut self, append: Append, seq: &mut u64) {
        let at = append.writes.iter().flat_map(|write| &write.events).map(|event| event.at.as_ms()).max();
        for write in append.writes {
            let (bucket, period) = (write.lifetime.bucket(), write.period());
            let stream: Arc<str> = Arc::from(write.stream);
            self.periods.extend(period.map(|period| (Arc::clone(&stream), Some(period))));
            for (version, mut event) in (write.first_version..).zip(write.events) {
                *seq += 1;
                if let Some(content) = event.content.take() {
                    self.contents.push((*seq, bucket, content.into()));
                }
                let row = EventRow { seq: *seq, stream: Arc::clone(&stream), version, event };
                match bucket {
                    None => self.events.push(row),
                    Some(bucket) => self.add_bucketed(bucket, row),
                }
            }
        }
        self.periods.extend(append.ended.into_iter().map(|stream| (Arc::from(stream), None)));
        self.snapshots.extend(append.snapshots.into_iter().map(|snapshot| (snapshot.key.clone(), (*seq, snapshot))));
        self.claims.extend(append.claims.into_iter().map(|claim| (claim, at)));
        self.wakeups.extend(append.wakeups);
        self.erased.extend(append.erased);
    }

    fn add_bucketed(&mut self, bucket: Bucket, row: EventRow) {
        self.buckets.entry(bucket).or_insert((row.seq, row.seq)).1 = row.seq;
        self.bucketed_events.push((bucket, row));
    }

    async fn insert_and_commit(self, connection: &mut SqliteConnection) -> Result<(), sqlx::Error> {
        INSERT_EVENTS.run(connection, self.events.into_iter(), add_event).await?;
        INSERT_BUCKETED_EVENTS
            .run(connection, self.bucketed_events.into_iter(), |values, (bucket, row)| {
                values.add(i64::from(bucket.0))?;
                add_event(values, row)
            })
            .await?;
        INSERT_CONTENTS
            .run(connection, self.contents.into_iter(), |values, (seq, bucket, value)| {
                values.add(integer(seq))?;
                values.add(bucket.map(|bucket| i64::from(bucket.0)))?;
                values.add(value)
            })
            .await?;
        ERASE_CONTENTS.run(connection, self.erased.into_iter(), |values, seq| values.add(integer(seq))).await?;
        INSERT_CLAIMS
            .run(connection, self.claims.into_iter(), |values, (claim, at)| {
                values.add(claim.key)?;
                values.add(claim.value)?;
                values.add(at)?;
                values.add(claim.bucket.map(|bucket| i64::from(bucket.0)))
            })
            .await?;
        STORE_SNAPSHOTS
            .run(connection, self.snapshots.into_values(), |values, (seq, snapshot)| {
                values.add(snapshot.key)?;
                values.add(integer(seq))?;
                values.add(snapshot.fingerprint)?;
                values.add(snapshot.data)
            })
            .await?;
        write_periods(connection, self.periods).await?;
        write_wakeups(connection, self.wakeups).await?;
        extend_buckets_and_commit(connection, self.buckets).await
    }
}

fn add_event(values: &mut Values, row: EventRow) -> Result<(), sqlx::Error> {
    values.add(integer(row.seq))?;
    values.add(row.stream)?;
    values.add(integer(row.version))?;
    values.add(row.event.kind)?;
    values.add(i64::from(row.event.schema))?;
    values.add(row.event.id.to_bits().to_be_bytes().to_vec())?;
    values.add(row.event.at.as_ms())?;
    values.add(row.event.data)?;
    values.add(row.event.meta)
}

async fn extend_buckets_and_commit(
    connection: &mut SqliteConnection,
    buckets: HashMap<Bucket, (u64, u64)>,
) -> Result<(), sqlx::Error> {
    let at_once = ManyRows::at_once(buckets.len());
    let extend = if at_once { &EXTEND_BUCKETS_AND_COMMIT } else { &EXTEND_BUCKETS };
    extend
        .run(connection, buckets.into_iter(), |values, (bucket, (first, last))| {
            values.add(i64::from(bucket.0))?;
            values.add(integer(first))?;
            values.add(integer(last))
        })
        .await?;
    if !at_once {
        sqlx::query("COMMIT").execute(connection).await?;
    }
    Ok(())
}

async fn write_periods(
    connection: &mut SqliteConnection,
    periods: HashMap<Arc<str>, Option<Period>>,
) -> Result<(), sqlx::Error> {
    let mut opened = Vec::new();
    let mut ended = Vec::new();
    for (stream, period) in periods {
        match period {
            Some(period) => opened.push((stream, period)),
            None => ended.push(stream),
        }
    }
    OPEN_PERIODS
        .run(connection, opened.into_iter(), |values, (stream, period)| {
            values.add(stream)?;
            values.add(i64::from(period.bucket.0))?;
            values.add(integer(period.first_version))
        })
        .await?;
    END_PERIODS.run(connection, ended.into_iter(), |values, stream| values.add(stream)).await?;
    Ok(())
}

async fn write_wakeups(
    connection: &mut SqliteConnection,
    wakeups: HashMap<String, Option<Timestamp>>,
) -> Result<(), sqlx::Error> {
    let mut set = Vec::new();
    let mut removed = Vec::new();
    for (key, due_at) in wakeups {
        match due_at {
            Some(due_at) => set.push((key, due_at.as_ms())),
            None => removed.push(key),
        }
    }
    SET_WAKEUPS
        .run(connection, set.into_iter(), |values, (key, due_at_ms)| {
            values.add(key)?;
            values.add(due_at_ms)
        })
        .await?;
    REMOVE_WAKEUPS.run(connection, removed.into_iter(), |values, key| values.add(key)).await?;
    Ok(())
}
