//! Statements over many rows, as the log has them, with the values that read models write.

pub(super) use crate::event_store::sqlite::statement::{ManyRows, STATEMENTS};

use super::columns::{self, Id};
use crate::event_store::Position;
use crate::event_store::sqlite::statement::Values;

/// The columns of read models.
impl Values {
    pub(super) fn id(&mut self, id: impl Id) -> Result<(), sqlx::Error> {
        self.add(columns::bytes(id))
    }

    pub(super) fn number(&mut self, number: u64) -> Result<(), sqlx::Error> {
        self.add(columns::integer(number))
    }

    pub(super) fn position(&mut self, position: Position) -> Result<(), sqlx::Error> {
        self.number(columns::packed(position))
    }

    pub(super) fn optional_number(&mut self, number: Option<u64>) -> Result<(), sqlx::Error> {
        self.add(number.map(columns::integer))
    }
}
