//! Statements over many rows, written out for a few fixed numbers of rows.
//!
//! A row by a statement of its own costs three times the CPU, most of it on the way to SQLite's thread and back. With
//! fixed sizes only a handful of texts exist, each prepared once for a connection. The log has the same for itself.

use std::sync::Arc;

use sqlx::sqlite::SqliteArguments;
use sqlx::{Arguments as _, AssertSqlSafe, Encode, Sqlite, SqliteConnection, Type};

use super::columns::{self, Id};
use crate::event_store::Position;

/// How many rows one statement takes; each amount is made of these.
const SIZES: [usize; 4] = [128, 32, 8, 1];

/// One statement in its sizes.
pub(super) struct ManyRows {
    sizes: [(usize, Arc<str>); 4],
}

impl ManyRows {
    /// `before`, the placeholders of a row repeated with commas, `after`.
    ///
    /// The texts hold nothing but these literals, hence no value can reach them: what asserts the statements safe.
    /// The placeholders are plain `?`, not `$1`: SQLite would look each numbered one up by its name.
    pub(super) fn new(before: &'static str, row: &'static str, after: &'static str) -> Self {
        let text = |size: usize| Arc::from(format!("{before}{}{after}", vec![row; size].join(", ")));
        Self { sizes: SIZES.map(|size| (size, text(size))) }
    }

    /// Runs the statement for all rows, in order; `bind` adds the values of one.
    pub(super) async fn run<T>(
        &self,
        connection: &mut SqliteConnection,
        rows: impl ExactSizeIterator<Item = T> + Send,
        mut bind: impl FnMut(&mut Values, T) -> Result<(), sqlx::Error> + Send,
    ) -> Result<(), sqlx::Error> {
        let mut rows = rows;
        for (size, sql) in &self.sizes {
            while rows.len() >= *size {
                let mut values = Values(SqliteArguments::default());
                for row in rows.by_ref().take(*size) {
                    bind(&mut values, row)?;
                }
                sqlx::query_with(AssertSqlSafe(Arc::clone(sql)), values.0).execute(&mut *connection).await?;
            }
        }
        Ok(())
    }
}

/// The values of a statement's placeholders, in order.
pub(super) struct Values(SqliteArguments);

impl Values {
    /// The next value; an owned one is moved, not copied.
    pub(super) fn add<'t, T: Encode<'t, Sqlite> + Type<Sqlite>>(&mut self, value: T) -> Result<(), sqlx::Error> {
        self.0.add(value).map_err(sqlx::Error::Encode)
    }

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
