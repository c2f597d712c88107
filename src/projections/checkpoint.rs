//! How far each projection has come in each shard, as the file says it.
//!
//! A checkpoint moves in the transaction of the rows, and only from where its mover found it. So whoever else moves
//! it, a second server on the same file or a rebuild that put new rows in place, makes that transaction roll back, and
//! the mover goes on from where the other one stands.

use std::collections::{BTreeMap, HashMap};

use sqlx::SqliteConnection;
use tracing::warn;

use super::columns::{Columns, bytes, integer};
use super::database::Database;
use super::entry::Entry;
use super::projection::{ApplyError, Name};
use super::{CompareError, clear};
use crate::domain::id::EventId;
use crate::event_store::{EventReader, Position, ReadError};

/// Where one stands: the number of the last event applied, 0 before the first, and that event's id, if it could be read.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Checkpoint {
    pub(super) seq: u64,
    pub(super) event: Option<EventId>,
    /// Up to this number the projection has forgotten what the log dropped.
    pub(super) floor: u64,
}

/// Those of a projection, by shard.
pub(super) async fn of(
    connection: &mut SqliteConnection,
    name: Name,
) -> Result<BTreeMap<u16, Checkpoint>, sqlx::Error> {
    let query = sqlx::query("SELECT shard, seq, event_id, floor FROM checkpoint WHERE projection = $1");
    let mut found = BTreeMap::new();
    for row in query.bind(name.as_str()).fetch_all(connection).await? {
        let mut columns = Columns::of(&row);
        let shard = columns.number()?;
        let (seq, event, floor) = (columns.number()?, columns.optional_id()?, columns.number()?);
        found.insert(shard, Checkpoint { seq, event, floor });
    }
    Ok(found)
}

/// Makes those that are not there yet, so that each can be moved.
pub(super) async fn make(connection: &mut SqliteConnection, name: Name, shards: u16) -> Result<(), sqlx::Error> {
    let missing = "INSERT OR IGNORE INTO checkpoint (projection, shard, seq) VALUES ($1, $2, 0)";
    for shard in 0..shards {
        sqlx::query(missing).bind(name.as_str()).bind(i64::from(shard)).execute(&mut *connection).await?;
    }
    Ok(())
}

/// Moves one to the event, in the transaction of the rows; [`ApplyError::Overtaken`] unless it stands at `from`.
pub(super) async fn advance(
    connection: &mut SqliteConnection,
    name: Name,
    from: u64,
    to: &Entry,
) -> Result<(), ApplyError> {
    let query =
        sqlx::query("UPDATE checkpoint SET seq = $4, event_id = $5 WHERE projection = $1 AND shard = $2 AND seq = $3");
    let query = query
        .bind(name.as_str())
        .bind(i64::from(to.position().shard))
        .bind(integer(from))
        .bind(integer(to.position().seq))
        .bind(to.id().map(bytes));
    match query.execute(connection).await?.rows_affected() {
        0 => Err(ApplyError::Overtaken),
        _ => Ok(()),
    }
}

/// Puts one where it belongs, in the transaction of the rows, whoever moved it.
pub(super) async fn set(
    connection: &mut SqliteConnection,
    name: Name,
    shard: u16,
    to: Checkpoint,
) -> Result<(), sqlx::Error> {
    let query = sqlx::query("UPDATE checkpoint SET seq = $3, event_id = $4 WHERE projection = $1 AND shard = $2");
    let query = query.bind(name.as_str()).bind(i64::from(shard)).bind(integer(to.seq)).bind(to.event.map(bytes));
    query.execute(connection).await?;
    Ok(())
}

/// Says up to where the projection has forgotten, in the transaction that ends it.
pub(super) async fn raise_floor(
    connection: &mut SqliteConnection,
    name: Name,
    floor: Position,
) -> Result<(), sqlx::Error> {
    let raise = "UPDATE checkpoint SET floor = max(floor, $3) WHERE projection = $1 AND shard = $2";
    let query = sqlx::query(raise).bind(name.as_str()).bind(i64::from(floor.shard)).bind(integer(floor.seq));
    query.execute(connection).await?;
    Ok(())
}

/// Takes those of a projection over from the attached file `built`, with what it leaves out; where it stopped is
/// forgotten.
pub(super) async fn copy(connection: &mut SqliteConnection, name: Name) -> Result<(), sqlx::Error> {
    for statement in [
        "DELETE FROM main.stop WHERE projection = $1",
        "DELETE FROM main.checkpoint WHERE projection = $1",
        "DELETE FROM main.held WHERE projection = $1",
        "INSERT INTO main.held (projection, shard, unit, seq, stream, reason, since_ms) \
         SELECT projection, shard, unit, seq, stream, reason, since_ms FROM built.held WHERE projection = $1",
        "INSERT INTO main.checkpoint (projection, shard, seq, event_id, floor) \
         SELECT projection, shard, seq, event_id, floor FROM built.checkpoint WHERE projection = $1",
    ] {
        sqlx::query(statement).bind(name.as_str()).execute(&mut *connection).await?;
    }
    Ok(())
}

/// Makes every checkpoint that the log needs, and throws the rows away if they were folded from another log than this
/// one, or from more than it holds. Answers with where each projection stands, by shard.
pub(super) async fn adopt(database: &Database, log: &dyn EventReader) -> Result<Vec<(Name, Vec<u64>)>, CompareError> {
    let mut write = database.begin().await?;
    let adopted = match compare(write.connection(), log).await {
        Ok(true) => Ok(()),
        Ok(false) => clear(write.connection()).await.map_err(CompareError::Database),
        Err(error) => Err(error),
    };
    if let Err(error) = adopted {
        write.abandon().await;
        return Err(error);
    }
    let mut places = Vec::new();
    for name in Name::ALL {
        make(write.connection(), name, log.shards()).await?;
        places.push((name, of(write.connection(), name).await?.values().map(|checkpoint| checkpoint.seq).collect()));
    }
    write.commit().await?;
    Ok(places)
}

/// Whether the event at each checkpoint is the one that was applied.
pub(super) async fn compare(connection: &mut SqliteConnection, log: &dyn EventReader) -> Result<bool, CompareError> {
    let mut seen: HashMap<Position, There> = HashMap::new();
    for name in Name::ALL {
        for (shard, checkpoint) in of(connection, name).await? {
            let position = Position { shard, seq: checkpoint.seq };
            if position.seq == 0 {
                continue;
            }
            let there = match seen.get(&position) {
                Some(there) => *there,
                None => *seen.entry(position).or_insert(event_at(log, position).await?),
            };
            let same = match there {
                There::Event(id) => checkpoint.event.is_none_or(|applied| applied == id),
                There::Dropped | There::Unreadable => true,
                There::Nothing => false,
            };
            if !same {
                warn!(projection = name.as_str(), %position, "read models are not of this log and are built again");
                return Ok(false);
            }
        }
    }
    Ok(true)
}

/// What the log has at a position.
#[derive(Clone, Copy)]
enum There {
    Event(EventId),
    /// It was there: its bucket was dropped.
    Dropped,
    /// A row that does not say which event it is.
    Unreadable,
    Nothing,
}

async fn event_at(log: &dyn EventReader, position: Position) -> Result<There, CompareError> {
    if position.shard >= log.shards() || position.seq > log.head(position.shard).await? {
        return Ok(There::Nothing);
    }
    let found = match log.read_log(Position { seq: position.seq - 1, ..position }, 1).await {
        Ok(found) => found,
        Err(ReadError::Damaged { position: damaged, .. }) if damaged == position => return Ok(There::Unreadable),
        Err(error) => return Err(error.into()),
    };
    match found.first().filter(|recorded| recorded.position == position) {
        Some(recorded) => Ok(There::Event(recorded.id)),
        None if position.seq <= log.floor(position.shard).await? => Ok(There::Dropped),
        None => Ok(There::Nothing),
    }
}
