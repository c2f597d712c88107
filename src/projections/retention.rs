//! What was made by events that the log has dropped goes too, so that the rows stay those of a rebuild.
//!
//! The rule asks nothing but the floor: up to it, a message has no row, a delivery of such a message has none, and a
//! last delivery recorded there is forgotten. Statistics count what has rows. Some of those events may still be in the log, since buckets overlap; what
//! they made goes with the others. Rows go in small steps, between which other transactions find their turn.

use sqlx::SqliteConnection;

use super::checkpoint;
use super::columns::{integer, packed};
use super::projection::Name;
use super::statistics::Changes;
use crate::event_store::Position;

/// Rows that go in one transaction.
const STEP: i64 = 1_000;

pub(super) const FORGET_MESSAGES: &str = "DELETE FROM message WHERE position IN \
     (SELECT position FROM message WHERE position > $1 AND position <= $2 ORDER BY position LIMIT $3)";

pub(super) const FORGET_ATTEMPTS: &str = "DELETE FROM attempt WHERE delivery IN (SELECT position FROM delivery \
     WHERE message_position > $1 AND message_position <= $2 ORDER BY message_position, position LIMIT $3)";

pub(super) const FORGET_DELIVERIES: &str = "DELETE FROM delivery WHERE position IN (SELECT position FROM delivery \
     WHERE message_position > $1 AND message_position <= $2 ORDER BY message_position, position LIMIT $3)";

/// Reads all: there is a row for each subscription, and the floor seldom rises.
const FORGET_LAST: &str = "DELETE FROM last_delivery WHERE position > $1 AND position <= $2";

impl Name {
    /// Whether any of its rows are kept for a while only.
    pub(super) fn forgets(self) -> bool {
        match self {
            Self::Messages | Self::Deliveries => true,
            Self::Tenants | Self::Webhooks | Self::Audit => false,
        }
    }
}

/// One step towards the floor, in the caller's transaction; whether that was the last one.
pub(super) async fn forget(
    connection: &mut SqliteConnection,
    name: Name,
    floor: Position,
) -> Result<bool, sqlx::Error> {
    let range = (integer(packed(Position { seq: 0, ..floor })), integer(packed(floor)));
    let gone = match name {
        Name::Messages => delete(connection, FORGET_MESSAGES, range).await?,
        Name::Deliveries => {
            Changes::forget(connection, range, STEP).await?.write(connection).await?;
            delete(connection, FORGET_ATTEMPTS, range).await?;
            delete(connection, FORGET_DELIVERIES, range).await?
        }
        Name::Tenants | Name::Webhooks | Name::Audit => 0,
    };
    if gone >= STEP.unsigned_abs() {
        return Ok(false);
    }
    if name == Name::Deliveries {
        sqlx::query(FORGET_LAST).bind(range.0).bind(range.1).execute(&mut *connection).await?;
    }
    checkpoint::raise_floor(connection, name, floor).await?;
    Ok(true)
}

async fn delete(
    connection: &mut SqliteConnection,
    statement: &'static str,
    (above, through): (i64, i64),
) -> Result<u64, sqlx::Error> {
    let query = sqlx::query(statement).bind(above).bind(through).bind(STEP);
    Ok(query.execute(connection).await?.rows_affected())
}
