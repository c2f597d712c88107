//! Where in the log a moment is.

use crate::domain::time::Timestamp;
use crate::event_store::{EventReader, Position, ReadError};

/// The last position of a shard whose event was recorded before the moment, and with it everything before it. Clocks that
/// step back make the answer one of several that could be given; each separates an older part of the log from a newer.
pub async fn end_before(reader: &dyn EventReader, shard: u16, moment: Timestamp) -> Result<Position, ReadError> {
    // Everything up to `before` is older; what stands behind `through` is not, or is not there.
    let (mut before, mut through) = (reader.floor(shard).await?, reader.head(shard).await?);
    while before < through {
        let middle = before + (through - before) / 2;
        let found = reader.read_log(Position { shard, seq: middle }, 1).await?;
        match found.first() {
            Some(next) if next.position.seq <= through && next.at < moment => before = next.position.seq,
            Some(_) | None => through = middle,
        }
    }
    Ok(Position { shard, seq: before })
}

#[cfg(test)]
#[path = "moment_tests.rs"]
mod tests;
