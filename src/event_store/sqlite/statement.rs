//! Statements over many rows, written out for fixed numbers of rows.
//!
//! A row by a statement of its own costs three times the CPU, most of it on the way to SQLite's thread and back. So few
//! rows go in one statement, whatever their number; of many rows each statement takes as many as the largest size. Each
//! text is prepared once for a connection, which is to remember [`STATEMENTS`] of them.

use std::sync::Arc;

use sqlx::sqlite::{SqliteArguments, SqliteRow};
use sqlx::{Arguments as _, AssertSqlSafe, Encode, Sqlite, SqliteConnection, Type};

/// Up to so many rows go in one statement; more are taken so many at a time first.
const EXACT: usize = 32;
/// As many as fit of these come first.
const LARGE: [usize; 3] = [256, 128, 64];
/// So many prepared statements a connection is to keep: all sizes of the statements that a busy process runs.
pub(crate) const STATEMENTS: usize = 512;

/// One statement in its sizes.
pub(crate) struct ManyRows {
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
    pub(crate) fn new(before: &'static str, row: &'static str, after: &'static str) -> Self {
        let text = |size: usize| Arc::from(format!("{before}{}{after}", vec![row; size].join(", ")));
        Self { large: LARGE.map(|size| (size, text(size))), exact: std::array::from_fn(|index| text(index + 1)) }
    }

    /// The same, with another statement before it in one call. For few rows: see [`ManyRows::at_once`].
    pub(super) fn behind(statement: &'static str, same: &Self) -> Self {
        let text = |sql: &Arc<str>| Arc::from(format!("{statement}; {sql}"));
        Self {
            large: same.large.each_ref().map(|(size, sql)| (*size, text(sql))),
            exact: same.exact.each_ref().map(text),
        }
    }

    /// The same, with another statement behind it in one call. For few rows: see [`ManyRows::at_once`].
    pub(super) fn before(same: &Self, statement: &'static str) -> Self {
        let text = |sql: &Arc<str>| Arc::from(format!("{sql}; {statement}"));
        Self {
            large: same.large.each_ref().map(|(size, sql)| (*size, text(sql))),
            exact: same.exact.each_ref().map(text),
        }
    }

    /// Whether so many rows are one call to SQLite, no more and no fewer.
    pub(super) fn at_once(rows: usize) -> bool {
        (1..=EXACT).contains(&rows)
    }

    /// The text for one row, as query plans are asked about it.
    #[cfg(test)]
    pub(super) fn for_one_row(&self) -> Arc<str> {
        Arc::clone(&self.exact[0])
    }

    /// Runs the statement for all rows, in order; `bind` adds the values of one. Answers with what the statements
    /// return, if they return anything.
    pub(super) async fn run<T>(
        &self,
        connection: &mut SqliteConnection,
        rows: impl ExactSizeIterator<Item = T> + Send,
        mut bind: impl FnMut(&mut Values, T) -> Result<(), sqlx::Error> + Send,
    ) -> Result<Vec<SqliteRow>, sqlx::Error> {
        let mut rows = rows;
        let mut returned = Vec::new();
        while let Some((size, sql)) = self.next(rows.len()) {
            let mut values = Values(SqliteArguments::default());
            for row in rows.by_ref().take(size) {
                bind(&mut values, row)?;
            }
            let query = sqlx::query_with(AssertSqlSafe(Arc::clone(sql)), values.0);
            returned.extend(query.fetch_all(&mut *connection).await?);
        }
        Ok(returned)
    }

    /// The same, for a statement that returns nothing.
    pub(crate) async fn write<T>(
        &self,
        connection: &mut SqliteConnection,
        rows: impl ExactSizeIterator<Item = T> + Send,
        bind: impl FnMut(&mut Values, T) -> Result<(), sqlx::Error> + Send,
    ) -> Result<(), sqlx::Error> {
        self.run(connection, rows, bind).await.map(drop)
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
pub(crate) struct Values(SqliteArguments);

impl Values {
    /// The next value; an owned one is moved, not copied.
    pub(crate) fn add<'t, T: Encode<'t, Sqlite> + Type<Sqlite>>(&mut self, value: T) -> Result<(), sqlx::Error> {
        self.0.add(value).map_err(sqlx::Error::Encode)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn few_rows_are_one_statement_and_many_are_as_few_as_the_sizes_allow() {
        let many = ManyRows::new("VALUES ", "(?)", "");
        let sizes = |mut rows: usize| {
            std::iter::from_fn(|| {
                let (size, sql) = many.next(rows)?;
                assert_eq!(sql.matches('?').count(), size);
                rows -= size;
                Some(size)
            })
            .collect::<Vec<_>>()
        };
        assert_eq!(sizes(0), [0; 0]);
        (1..=EXACT).for_each(|rows| assert_eq!(sizes(rows), [rows]));
        assert_eq!(sizes(33), [32, 1]);
        assert_eq!(sizes(700), [256, 256, 128, 32, 28]);
    }

    #[tokio::test]
    async fn what_stands_before_and_behind_goes_along_and_is_undone_with_it() {
        use sqlx::{Connection, Row};
        let mut connection = SqliteConnection::connect("sqlite::memory:").await.unwrap();
        sqlx::query("CREATE TABLE number (value INTEGER PRIMARY KEY)").execute(&mut connection).await.unwrap();
        let insert = ManyRows::new("INSERT INTO number (value) VALUES ", "(?)", "");
        let at_once = ManyRows::before(&ManyRows::behind("BEGIN IMMEDIATE", &insert), "COMMIT");
        let add = |values: &mut Values, value: i64| values.add(value);
        at_once.run(&mut connection, [1, 2].into_iter(), add).await.unwrap();
        at_once.run(&mut connection, [3, 1].into_iter(), add).await.unwrap_err();
        // The transaction that failed is still open: nothing was committed of it.
        sqlx::query("ROLLBACK").execute(&mut connection).await.unwrap();
        at_once.run(&mut connection, [4].into_iter(), add).await.unwrap();
        let rows = sqlx::query("SELECT value FROM number ORDER BY value").fetch_all(&mut connection).await.unwrap();
        assert_eq!(rows.iter().map(|row| row.get(0)).collect::<Vec<i64>>(), [1, 2, 4]);
        assert!(!ManyRows::at_once(0) && ManyRows::at_once(1) && ManyRows::at_once(EXACT) && !ManyRows::at_once(33));
    }
}
