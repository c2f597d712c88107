//! One batch of appends as one transaction.

use std::collections::HashMap;
use std::sync::{Arc, LazyLock};

use sqlx::{Row, SqliteConnection};

use super::statement::ManyRows;
use super::{event_id, integer, number};
use crate::domain::time::Timestamp;
use crate::event_store::plan::{self, Known, Place, Verdict};
use crate::event_store::{Append, AppendError, Appended, NewEvent, Position};

pub(super) const RAISE_HEAD: &str = "UPDATE shard SET head = head + $1 WHERE shard = 0 AND epoch = $2 RETURNING head";

/// Streams whose last version is not the one before the wanted one; none where everything goes well.
pub(super) static UNEXPECTED_HEADS: LazyLock<ManyRows> = LazyLock::new(|| {
    ManyRows::new(
        "WITH wanted (stream, first_version) AS (VALUES ",
        "(?, ?)",
        "), found AS (SELECT stream, first_version, \
         (SELECT max(version) FROM event WHERE event.stream = wanted.stream) AS head FROM wanted) \
         SELECT stream, coalesce(head, 0) FROM found WHERE first_version <> coalesce(head, 0) + 1",
    )
});

pub(super) const EVENT_IDS: &str =
    "SELECT version, event_id, seq FROM event WHERE stream = $1 AND version >= $2 ORDER BY version LIMIT $3";

pub(super) static CLAIMS: LazyLock<ManyRows> =
    LazyLock::new(|| ManyRows::new("SELECT key, value FROM claim WHERE key IN (", "?", ")"));

static INSERT_EVENTS: LazyLock<ManyRows> = LazyLock::new(|| {
    ManyRows::new(
        "INSERT INTO event (seq, stream, version, kind, schema, event_id, at_ms, data, meta) VALUES ",
        "(?, ?, ?, ?, ?, ?, ?, ?, ?)",
        "",
    )
});

static INSERT_CONTENTS: LazyLock<ManyRows> =
    LazyLock::new(|| ManyRows::new("INSERT INTO content (seq, value) VALUES ", "(?, ?)", ""));

static INSERT_CLAIMS: LazyLock<ManyRows> =
    LazyLock::new(|| ManyRows::new("INSERT INTO claim (key, value, at_ms) VALUES ", "(?, ?, ?)", ""));

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
    sqlx::query("BEGIN IMMEDIATE").execute(&mut *connection).await?;
    let plan = plan::plan(&batch, look_up(connection, &batch).await?);
    let head_before = raise_head(connection, epoch, plan.new_events).await?;
    let rows = Rows::collect(batch, &plan.verdicts, head_before);
    rows.insert(connection).await?;
    sqlx::query("COMMIT").execute(connection).await?;
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

async fn look_up<'a>(connection: &mut SqliteConnection, batch: &'a [Append]) -> Result<Known<'a>, Failure> {
    let heads = heads(connection, batch).await?;
    let recorded = recorded(connection, batch, &heads).await?;
    let keys: Vec<&str> = batch.iter().flat_map(|append| &append.claims).map(|claim| claim.key.as_str()).collect();
    let claims = claims(connection, &keys).await?;
    Ok(Known { heads, recorded, claims })
}

/// The last version of each stream: one less than the first append expects, unless the database says otherwise.
async fn heads<'a>(connection: &mut SqliteConnection, batch: &'a [Append]) -> Result<HashMap<&'a str, u64>, Failure> {
    let mut wanted = HashMap::new();
    for write in batch.iter().flat_map(|append| &append.writes) {
        wanted.entry(write.stream.as_str()).or_insert(write.first_version);
    }
    let rows = UNEXPECTED_HEADS.run(connection, wanted.iter(), |values, (stream, first_version)| {
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
    contents: Vec<(u64, Vec<u8>)>,
    claims: Vec<(String, String, Option<i64>)>,
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
            let stream: Arc<str> = Arc::from(write.stream);
            for (version, mut event) in (write.first_version..).zip(write.events) {
                *seq += 1;
                if let Some(content) = event.content.take() {
                    self.contents.push((*seq, content.into()));
                }
                self.events.push(EventRow { seq: *seq, stream: Arc::clone(&stream), version, event });
            }
        }
        self.claims.extend(append.claims.into_iter().map(|claim| (claim.key, claim.value, at)));
        self.wakeups.extend(append.wakeups);
    }

    async fn insert(self, connection: &mut SqliteConnection) -> Result<(), sqlx::Error> {
        let events = self.events.into_iter();
        INSERT_EVENTS
            .run(connection, events, |values, row| {
                values.add(integer(row.seq))?;
                values.add(row.stream)?;
                values.add(integer(row.version))?;
                values.add(row.event.kind)?;
                values.add(i64::from(row.event.schema))?;
                values.add(row.event.id.to_bits().to_be_bytes().to_vec())?;
                values.add(row.event.at.as_ms())?;
                values.add(row.event.data)?;
                values.add(row.event.meta)
            })
            .await?;
        INSERT_CONTENTS
            .run(connection, self.contents.into_iter(), |values, (seq, value)| {
                values.add(integer(seq))?;
                values.add(value)
            })
            .await?;
        INSERT_CLAIMS
            .run(connection, self.claims.into_iter(), |values, (key, value, at)| {
                values.add(key)?;
                values.add(value)?;
                values.add(at)
            })
            .await?;
        write_wakeups(connection, self.wakeups).await
    }
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
