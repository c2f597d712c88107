//! Statements over many rows, written out for fixed numbers of rows.
//!
//! A row by a statement of its own costs three times the CPU, most of it on the way to SQLite's thread and back. So few
//! rows go in one statement, whatever their number; of many rows each statement takes as many as the largest size. Each
//! text is prepared once for a connection, which is to remember [`STATEMENTS`] of them. The log has the same for itself.

use std::sync::Arc;

use sqlx::sqlite::SqliteArguments;
use sqlx::{Arguments as _, AssertSqlSafe, Encode, Sqlite, SqliteConnection, Type};

use super::columns::{self, Id};
use crate::event_store::Position;

/// Up to so many rows go in one statement; more are taken so many at a time first.
const EXACT: usize = 32;
/// As many as fit of these come first.
const LARGE: [usize; 3] = [256, 128, 64];
/// So many prepared statements a connection is to keep: all sizes of the statements that a busy process runs.
pub(super) const STATEMENTS: usize = 512;

/// One statement in its sizes.
pub(super) struct ManyRows {
    /// The large sizes.
    large: [(usize, Arc<str>); 3],
    /// For one row, for two, and so on.
    exact: [Arc<str>; EXACT],
}

impl ManyRows {
    /// `before`, the placeholders of a row repeated with commas, `after`.
    ///
    /// The texts hold nothing but these literals, hence no value can reach them: what asserts the statements safe.
    /// The placeholders are plain `?`, not `$1`: SQLite would look each numbered one up by its name.
    pub(super) fn new(before: &'static str, row: &'static str, after: &'static str) -> Self {
        let text = |size: usize| Arc::from(format!("{before}{}{after}", vec![row; size].join(", ")));
        Self { large: LARGE.map(|size| (size, text(size))), exact: std::array::from_fn(|index| text(index + 1)) }
    }

    /// Runs the statement for all rows, in order; `bind` adds the values of one.
    pub(super) async fn run<T>(
        &self,
        connection: &mut SqliteConnection,
        rows: impl ExactSizeIterator<Item = T> + Send,
        mut bind: impl FnMut(&mut Values, T) -> Result<(), sqlx::Error> + Send,
    ) -> Result<(), sqlx::Error> {
        let mut rows = rows;
        while let Some((size, sql)) = self.next(rows.len()) {
            let mut values = Values(SqliteArguments::default());
            for row in rows.by_ref().take(size) {
                bind(&mut values, row)?;
            }
            sqlx::query_with(AssertSqlSafe(Arc::clone(sql)), values.0).execute(&mut *connection).await?;
        }
        Ok(())
    }

    /// How many of so many rows the next statement takes, and its text.
    fn next(&self, rows: usize) -> Option<(usize, &Arc<str>)> {
        if rows > EXACT
            && let Some((size, sql)) = self.large.iter().find(|(size, _)| *size <= rows)
        {
            return Some((*size, sql));
        }
        let size = rows.min(EXACT);
        Some((size, self.exact.get(size.checked_sub(1)?)?))
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
