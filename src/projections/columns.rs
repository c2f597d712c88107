//! Between domain values and the columns that hold them.

use std::error::Error;
use std::fmt::Write as _;
use std::str::FromStr;

use serde::Serialize;
use serde::de::DeserializeOwned;
use sqlx::sqlite::SqliteRow;
use sqlx::{Decode, Row, Sqlite, Type};

use crate::domain::id::{
    ApiKeyId, DeliveryId, ErasureId, EventId, MessageId, SecretId, SubscriptionId, TenantId, UserId,
};
use crate::domain::time::Timestamp;
use crate::event_store::Position;

/// An id as its 128 bits.
pub(super) trait Id: Copy {
    fn bits(self) -> u128;
    fn from_bits(bits: u128) -> Self;
}

macro_rules! ids {
    ($($id:ident),*) => {$(
        impl Id for $id {
            fn bits(self) -> u128 {
                self.to_bits()
            }

            fn from_bits(bits: u128) -> Self {
                Self::from_parts((bits >> 80) as u64, bits & ((1 << 80) - 1)) // 48 bits of time, 80 random ones
            }
        }
    )*};
}

ids!(ApiKeyId, DeliveryId, ErasureId, EventId, MessageId, SecretId, SubscriptionId, TenantId, UserId);

/// An id as its column has it.
pub(super) fn bytes(id: impl Id) -> Vec<u8> {
    id.bits().to_be_bytes().to_vec()
}

/// Ids as one value: a JSON array of hexadecimal texts, for `SELECT unhex(value) FROM json_each(…)`.
pub(super) fn id_list<T: Id>(ids: impl IntoIterator<Item = T>) -> String {
    let mut list = String::from("[");
    for id in ids {
        let separator = if list.len() > 1 { "," } else { "" };
        // Writing to a string cannot fail.
        let _ = write!(list, "{separator}\"{:032X}\"", id.bits());
    }
    list.push(']');
    list
}

/// A number as SQLite holds it; what is larger than it can hold is larger than anything it holds.
pub(super) fn integer(number: u64) -> i64 {
    i64::try_from(number).unwrap_or(i64::MAX)
}

/// How many bits of a packed position are the number in the shard; those above them are the shard.
const SEQ_BITS: u32 = 48;

/// A position as one number: rows of one shard are ordered by it as the log is, and no two shards share one.
pub(super) fn packed(position: Position) -> u64 {
    u64::from(position.shard) << SEQ_BITS | position.seq.min(MAX_SEQ)
}

/// The position that was [`packed`].
pub(super) fn unpacked(packed: u64) -> Position {
    // 64 bits less those of the number are the 16 of a shard.
    Position { shard: (packed >> SEQ_BITS) as u16, seq: packed & MAX_SEQ }
}

/// More events than a shard ever holds.
const MAX_SEQ: u64 = (1 << SEQ_BITS) - 1;

/// A value as JSON text.
pub(super) fn json_text(value: &impl Serialize) -> String {
    serde_json::to_string(value).expect("the values of these columns have string keys and finite numbers")
}

/// The columns of a row, from left to right.
pub(super) struct Columns<'r> {
    row: &'r SqliteRow,
    next: usize,
}

impl<'r> Columns<'r> {
    pub(super) fn of(row: &'r SqliteRow) -> Self {
        Self { row, next: 0 }
    }

    pub(super) fn get<T: Decode<'r, Sqlite> + Type<Sqlite>>(&mut self) -> Result<T, sqlx::Error> {
        self.next += 1;
        self.row.try_get(self.next - 1)
    }

    pub(super) fn number<T: TryFrom<i64, Error: Error + Send + Sync + 'static>>(&mut self) -> Result<T, sqlx::Error> {
        let number: i64 = self.get()?;
        number.try_into().map_err(damaged)
    }

    /// Of a packed one.
    pub(super) fn position(&mut self) -> Result<Position, sqlx::Error> {
        self.number().map(unpacked)
    }

    pub(super) fn optional_number<T>(&mut self) -> Result<Option<T>, sqlx::Error>
    where
        T: TryFrom<i64, Error: Error + Send + Sync + 'static>,
    {
        let number: Option<i64> = self.get()?;
        number.map(T::try_from).transpose().map_err(damaged)
    }

    pub(super) fn id<T: Id>(&mut self) -> Result<T, sqlx::Error> {
        let bytes: &[u8] = self.get()?;
        id(bytes)
    }

    pub(super) fn optional_id<T: Id>(&mut self) -> Result<Option<T>, sqlx::Error> {
        let bytes: Option<&[u8]> = self.get()?;
        bytes.map(id).transpose()
    }

    pub(super) fn time(&mut self) -> Result<Timestamp, sqlx::Error> {
        self.get().map(Timestamp::from_ms)
    }

    pub(super) fn optional_time(&mut self) -> Result<Option<Timestamp>, sqlx::Error> {
        Ok(self.get::<Option<i64>>()?.map(Timestamp::from_ms))
    }

    pub(super) fn parsed<T: FromStr<Err: Error + Send + Sync + 'static>>(&mut self) -> Result<T, sqlx::Error> {
        let text: &str = self.get()?;
        text.parse().map_err(damaged)
    }

    pub(super) fn json<T: DeserializeOwned>(&mut self) -> Result<T, sqlx::Error> {
        let text: &str = self.get()?;
        serde_json::from_str(text).map_err(damaged)
    }

    pub(super) fn optional_json<T: DeserializeOwned>(&mut self) -> Result<Option<T>, sqlx::Error> {
        let text: Option<&str> = self.get()?;
        text.map(serde_json::from_str).transpose().map_err(damaged)
    }
}

fn id<T: Id>(bytes: &[u8]) -> Result<T, sqlx::Error> {
    let bytes = bytes.try_into().map_err(damaged)?;
    Ok(T::from_bits(u128::from_be_bytes(bytes)))
}

pub(super) fn damaged(error: impl Into<Box<dyn Error + Send + Sync>>) -> sqlx::Error {
    sqlx::Error::Decode(error.into())
}
