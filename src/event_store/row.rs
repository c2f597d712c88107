//! What both databases hold alike: numbers, ids, and the columns of an event.

use std::borrow::Cow;

use sqlx::{ColumnIndex, Decode, Row, Type};

use super::{Bucket, Position, ReadError, Recorded};
use crate::domain::id::EventId;
use crate::domain::time::Timestamp;

/// A number as a database holds it; what is larger than it can hold is larger than anything it holds.
pub(super) fn integer(number: u64) -> i64 {
    i64::try_from(number).unwrap_or(i64::MAX)
}

/// A number that this program wrote.
pub(super) fn number(integer: i64) -> u64 {
    u64::try_from(integer).unwrap_or(0)
}

/// An event's id from its 16 bytes.
pub(super) fn event_id(bytes: &[u8]) -> Result<EventId, &'static str> {
    let bits = u128::from_be_bytes(bytes.try_into().map_err(|_| "its id is not 16 bytes long")?);
    let at_ms = (bits >> 80) as u64; // the upper 48 bits
    Ok(EventId::from_parts(at_ms, bits & ((1 << 80) - 1)))
}

/// A bucket from its number.
pub(super) fn bucket(number: i64) -> Result<Bucket, sqlx::Error> {
    u32::try_from(number).map(Bucket).map_err(|_| sqlx::Error::Decode(format!("{number} is no bucket").into()))
}

/// The columns of an event behind its position, as they are stored.
pub(super) struct Columns<'r> {
    pub(super) stream: String,
    pub(super) version: i64,
    pub(super) kind: String,
    pub(super) schema: i64,
    pub(super) id: &'r [u8],
    pub(super) at_ms: i64,
    pub(super) data: String,
    pub(super) meta: Option<String>,
}

impl Columns<'_> {
    /// The event, if this program can have written it.
    pub(super) fn event(self, position: Position) -> Result<Recorded, ReadError> {
        let damaged = |reason: String| ReadError::Damaged { position, stream: None, reason };
        let Self { stream, version, kind, schema, id, at_ms, data, meta } = self;
        Ok(Recorded {
            position,
            stream,
            version: number(version),
            kind: Cow::Owned(kind),
            schema: u16::try_from(schema).map_err(|_| damaged(format!("{schema} is no schema version")))?,
            id: event_id(id).map_err(|reason| damaged(reason.to_owned()))?,
            at: Timestamp::from_ms(at_ms),
            data,
            meta,
        })
    }
}

/// A column of the event at that position.
pub(super) fn column<'r, R: Row, T: Decode<'r, R::Database> + Type<R::Database>>(
    row: &'r R,
    position: Position,
    index: usize,
) -> Result<T, ReadError>
where
    usize: ColumnIndex<R>,
{
    row.try_get(index).map_err(|error| ReadError::Damaged { position, stream: None, reason: error.to_string() })
}

pub(super) fn unavailable(error: sqlx::Error) -> ReadError {
    ReadError::Unavailable(error.to_string())
}
