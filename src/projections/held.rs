//! Streams that a projection leaves out, from an event on that cannot be read, until it can.
//!
//! - What is left out is saved in the transaction that moves the checkpoint past it: a restart knows it.
//! - Only the stream of the event is left out, for the rows of one stream do not depend on others: those of a tenant, of
//!   a subscription and of a tenant's messages are made by one stream each, and so is each row of the audit log. What a
//!   subscription owes ends with its deletion, which stands in another stream: the two are left out together. Whose a
//!   delivery is stands in the event of its message; where that cannot be read, the delivery's stream is left out.
//! - An event that can be read and cannot be applied is our own mistake, and stops the projection.

use std::collections::{BTreeMap, HashMap, HashSet};

use sqlx::SqliteConnection;

use super::columns::{Columns, integer};
use super::entry::Entry;
use super::projection::{ApplyError, Name, Projection, Readable, Source};
use crate::clock::{Clock, SystemClock};
use crate::codec;
use crate::domain::time::Timestamp;
use crate::event_store::{Position, StreamName};
use crate::execute::{DELIVERIES_CATEGORY, SUBSCRIPTION_CATEGORY, Unreadable};

/// A stream that a projection leaves out.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Held {
    /// Which projection.
    pub projection: Name,
    /// The event that cannot be read; it and what follows in its stream is left out.
    pub event: Unreadable,
    /// Since when.
    pub since: Timestamp,
    /// What is left out together, by the name of one of its streams.
    pub(super) unit: StreamName,
}

impl Held {
    pub(super) fn new(projection: Name, event: Unreadable) -> Self {
        let unit = unit(projection, &event.stream);
        Self { projection, event, since: SystemClock.now(), unit }
    }

    /// The streams that are left out.
    pub(super) fn streams(&self) -> Vec<StreamName> {
        match (self.projection, self.unit.split_once('-')) {
            (Name::Deliveries, Some((DELIVERIES_CATEGORY, suffix))) => {
                vec![format!("{SUBSCRIPTION_CATEGORY}-{suffix}"), self.unit.clone()]
            }
            _ => vec![self.unit.clone()],
        }
    }

    /// Tells operators.
    pub(super) fn report(&self) {
        let (projection, Unreadable { position, stream, reason }) = (self.projection.as_str(), &self.event);
        tracing::error!(projection, stream.id = stream, %position, "projection '{projection}' leaves a stream out: {reason}");
    }
}

/// What is left out together with the stream.
fn unit(name: Name, stream: &str) -> StreamName {
    match (name, stream.split_once('-')) {
        (Name::Deliveries, Some((SUBSCRIPTION_CATEGORY, suffix))) => format!("{DELIVERIES_CATEGORY}-{suffix}"),
        _ => stream.to_owned(),
    }
}

/// Applies the next entries of one shard, which all concern the projection, but for the streams that are left out
/// already. What cannot be read is left out from here on, and answered.
pub(super) async fn apply(
    connection: &mut SqliteConnection,
    source: Source<'_>,
    name: Name,
    projection: &mut dyn Projection,
    entries: &[Entry],
) -> Result<Vec<Held>, ApplyError> {
    let Some(shard) = entries.first().map(|entry| entry.position().shard) else { return Ok(vec![]) };
    let left_out = left_out(connection, name, shard, entries).await?;
    let held = apply_but(connection, source, name, projection, entries, &left_out).await?;
    for held in &held {
        put(connection, held).await?;
    }
    Ok(held)
}

/// Applies the entries but those of some units. Answers with what it could not read, in each unit the first.
pub(super) async fn apply_but(
    connection: &mut SqliteConnection,
    source: Source<'_>,
    name: Name,
    projection: &mut dyn Projection,
    entries: &[Entry],
    left_out: &HashSet<StreamName>,
) -> Result<Vec<Held>, ApplyError> {
    // Those that turned out to rest on an event that cannot be read; each round knows one more.
    let mut resting = BTreeMap::new();
    loop {
        let (events, held) = sift(name, entries, left_out, &resting);
        sqlx::query("SAVEPOINT apply").execute(&mut *connection).await?;
        match projection.apply(connection, source, events).await {
            Ok(()) => {
                sqlx::query("RELEASE apply").execute(&mut *connection).await?;
                return Ok(held);
            }
            Err(ApplyError::Unreadable(event)) => {
                for statement in ["ROLLBACK TO apply", "RELEASE apply"] {
                    sqlx::query(statement).execute(&mut *connection).await?;
                }
                resting.insert(event.position, event);
            }
            Err(error) => return Err(error),
        }
    }
}

/// The events that are to be applied, and what is left out from here on.
fn sift(
    name: Name,
    entries: &[Entry],
    left_out: &HashSet<StreamName>,
    resting: &BTreeMap<Position, Unreadable>,
) -> (Vec<Readable>, Vec<Held>) {
    let (mut events, mut held) = (Vec::with_capacity(entries.len()), Vec::<Held>::new());
    for entry in entries {
        if !left_out.is_empty() || !held.is_empty() {
            let unit = unit(name, entry.stream());
            if left_out.contains(&unit) || held.iter().any(|held| held.unit == unit) {
                continue;
            }
        }
        match (readable(entry), resting.get(&entry.position())) {
            (Ok(event), None) => events.push(event),
            (Err(event), _) => held.push(Held::new(name, event)),
            (Ok(_), Some(event)) => held.push(Held::new(name, event.clone())),
        }
    }
    (events, held)
}

/// The event, or why it cannot be read.
pub(super) fn readable(entry: &Entry) -> Result<Readable, Unreadable> {
    match entry {
        Entry::Event(recorded) => match codec::decode(recorded) {
            Ok(event) => Ok(Readable { recorded: recorded.clone(), event }),
            Err(error) => Err(Unreadable::of_decode(&error)),
        },
        Entry::Unreadable(event) => Err(event.clone()),
    }
}

/// Those units of the entries that are left out.
async fn left_out(
    connection: &mut SqliteConnection,
    name: Name,
    shard: u16,
    entries: &[Entry],
) -> Result<HashSet<StreamName>, sqlx::Error> {
    // Hardly ever is there one.
    let any = sqlx::query("SELECT 1 FROM held WHERE projection = $1 AND shard = $2 LIMIT 1");
    if any.bind(name.as_str()).bind(i64::from(shard)).fetch_optional(&mut *connection).await?.is_none() {
        return Ok(HashSet::new());
    }
    let units: HashSet<StreamName> = entries.iter().map(|entry| unit(name, entry.stream())).collect();
    let units = serde_json::to_string(&units).expect("names are text");
    let found = sqlx::query_scalar(
        "SELECT unit FROM held WHERE projection = $1 AND shard = $2 AND unit IN (SELECT value FROM json_each($3))",
    );
    let found: Vec<StreamName> =
        found.bind(name.as_str()).bind(i64::from(shard)).bind(units).fetch_all(connection).await?;
    Ok(found.into_iter().collect())
}

/// Leaves it out, in the transaction that moves the checkpoint past it, or from another event on.
pub(super) async fn put(connection: &mut SqliteConnection, held: &Held) -> Result<(), sqlx::Error> {
    let query = sqlx::query(
        "INSERT OR REPLACE INTO held (projection, shard, unit, seq, stream, reason, since_ms) \
         VALUES ($1, $2, $3, $4, $5, $6, $7)",
    );
    query
        .bind(held.projection.as_str())
        .bind(i64::from(held.event.position.shard))
        .bind(&held.unit)
        .bind(integer(held.event.position.seq))
        .bind(&held.event.stream)
        .bind(&held.event.reason)
        .bind(held.since.as_ms())
        .execute(connection)
        .await?;
    Ok(())
}

/// Leaves it out no more; whether it was left out, and from the same event on.
pub(super) async fn remove(connection: &mut SqliteConnection, held: &Held) -> Result<bool, sqlx::Error> {
    let query = sqlx::query("DELETE FROM held WHERE projection = $1 AND shard = $2 AND unit = $3 AND seq = $4");
    let query = query
        .bind(held.projection.as_str())
        .bind(i64::from(held.event.position.shard))
        .bind(&held.unit)
        .bind(integer(held.event.position.seq));
    Ok(query.execute(connection).await?.rows_affected() > 0)
}

/// The next that a projection leaves out, in the order of shards and units.
pub(super) async fn next(
    connection: &mut SqliteConnection,
    name: Name,
    behind: Option<&(u16, StreamName)>,
) -> Result<Option<Held>, sqlx::Error> {
    let query = sqlx::query(
        "SELECT projection, shard, unit, seq, stream, reason, since_ms FROM held \
         WHERE projection = $1 AND (shard, unit) > ($2, $3) ORDER BY shard, unit LIMIT 1",
    );
    let (shard, unit) = behind.map_or((-1, ""), |(shard, unit)| (i64::from(*shard), unit.as_str()));
    let row = query.bind(name.as_str()).bind(shard).bind(unit).fetch_optional(connection).await?;
    Ok(row.as_ref().map(held).transpose()?.flatten())
}

/// What is left out, in a steady order, so many at most.
pub(super) async fn all(connection: &mut SqliteConnection, limit: usize) -> Result<Vec<Held>, sqlx::Error> {
    let query = sqlx::query(
        "SELECT projection, shard, unit, seq, stream, reason, since_ms FROM held \
         ORDER BY projection, shard, unit LIMIT $1",
    );
    let rows = query.bind(integer(limit as u64)).fetch_all(connection).await?;
    rows.iter().filter_map(|row| held(row).transpose()).collect()
}

/// How many streams are left out, by projection and shard.
pub(super) async fn counts(connection: &mut SqliteConnection) -> Result<HashMap<(Name, u16), u64>, sqlx::Error> {
    let rows = sqlx::query("SELECT projection, shard, count(*) FROM held GROUP BY projection, shard");
    let mut counts = HashMap::new();
    for row in rows.fetch_all(connection).await? {
        let mut columns = Columns::of(&row);
        let name = Name::parse(columns.get()?);
        let (shard, count) = (columns.number()?, columns.number()?);
        counts.extend(name.map(|name| ((name, shard), count)));
    }
    Ok(counts)
}

/// `None` for what another program wrote: it says nothing of this one.
fn held(row: &sqlx::sqlite::SqliteRow) -> Result<Option<Held>, sqlx::Error> {
    let mut columns = Columns::of(row);
    let name = Name::parse(columns.get()?);
    let (shard, unit, seq) = (columns.number()?, columns.get()?, columns.number()?);
    let event = Unreadable { position: Position { shard, seq }, stream: columns.get()?, reason: columns.get()? };
    let since = columns.time()?;
    Ok(name.map(|projection| Held { projection, event, since, unit }))
}
