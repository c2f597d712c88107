//! Pages of lists.
//!
//! A page is asked for by the keys around it, not by a number of rows to skip: rows that are added meanwhile neither
//! repeat a row nor hide one, and the last page costs what the first one does.

use sqlx::sqlite::SqliteRow;
use sqlx::{Executor, Sqlite};

use super::columns::integer;

/// Where a row stands in its list. Means something only to the list that it comes from.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Key(pub i64, pub String);

/// Which part of a list is wanted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Page {
    /// Only rows behind this one.
    pub after: Option<Key>,
    /// Only rows before this one.
    pub before: Option<Key>,
    /// How many rows at most.
    pub limit: usize,
    /// Whether the last rows of the range are wanted instead of its first; they too come in the order of the list.
    pub from_end: bool,
}

impl Page {
    /// The first rows of a list.
    pub fn first(limit: usize) -> Self {
        Self { after: None, before: None, limit, from_end: false }
    }
}

/// A part of a list, in its order.
#[derive(Clone, Debug, PartialEq)]
pub struct Slice<T> {
    /// The rows with their keys.
    pub rows: Vec<(Key, T)>,
    /// Whether the range has more of them: behind these, or before them if the page was counted from the end.
    pub has_more: bool,
}

/// A list's statement in both directions. Placeholders: `$1` the first number outside below, `$2` the first outside
/// above, `$3` the most rows; from `$4` on the list's own.
pub(super) struct List {
    pub(super) ascending: &'static str,
    pub(super) descending: &'static str,
}

/// A list ordered by a number: columns, condition, the column with the number.
macro_rules! list {
    ($select:expr, $condition:literal, $key:literal) => {
        $crate::projections::page::List {
            ascending: concat!(
                $select,
                " WHERE ",
                $condition,
                " AND ",
                $key,
                " > $1 AND ",
                $key,
                " < $2 ORDER BY ",
                $key,
                " LIMIT $3"
            ),
            descending: concat!(
                $select,
                " WHERE ",
                $condition,
                " AND ",
                $key,
                " > $1 AND ",
                $key,
                " < $2 ORDER BY ",
                $key,
                " DESC LIMIT $3"
            ),
        }
    };
}
pub(super) use list;

/// Which way a list is ordered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Order {
    /// By the number, from the smallest.
    Ascending,
    /// By the number, from the largest.
    Descending,
}

/// A page translated into what the statements of a [`List`] take.
pub(super) struct Range {
    ascending: bool,
    above: i64,
    below: i64,
    limit: usize,
    from_end: bool,
}

pub(super) type Query = sqlx::query::Query<'static, Sqlite, sqlx::sqlite::SqliteArguments>;

impl Range {
    pub(super) fn of(page: &Page, order: Order) -> Self {
        let number = |key: &Option<Key>| key.as_ref().map(|key| key.0);
        let (above, below) = match order {
            Order::Ascending => (number(&page.after), number(&page.before)),
            Order::Descending => (number(&page.before), number(&page.after)),
        };
        Self {
            ascending: (order == Order::Ascending) != page.from_end,
            // Every number is at least 1.
            above: above.unwrap_or(0),
            below: below.unwrap_or(i64::MAX),
            limit: page.limit,
            from_end: page.from_end,
        }
    }

    /// The statement in the page's direction, with its first three values; asks for one row more than wanted.
    pub(super) fn query(&self, list: &List) -> Query {
        let sql = if self.ascending { list.ascending } else { list.descending };
        sqlx::query(sql).bind(self.above).bind(self.below).bind(integer(self.limit as u64).saturating_add(1))
    }

    /// Runs a statement made by [`Range::query`].
    pub(super) async fn fetch<'c, T>(
        &self,
        executor: impl Executor<'c, Database = Sqlite>,
        query: Query,
        read: impl Fn(&SqliteRow) -> Result<(u64, T), sqlx::Error>,
    ) -> Result<Slice<T>, sqlx::Error> {
        let found = query.fetch_all(executor).await?;
        let rows = found.iter().map(|row| read(row).map(|(number, row)| (Key(integer(number), String::new()), row)));
        Ok(self.slice(rows.collect::<Result<_, _>>()?))
    }

    /// One page out of the pages of lists that have no row in common.
    pub(super) fn merge<T>(&self, slices: Vec<Slice<T>>) -> Slice<T> {
        let has_more = slices.iter().any(|slice| slice.has_more);
        let mut rows: Vec<(Key, T)> = slices.into_iter().flat_map(|slice| slice.rows).collect();
        rows.sort_by(|(one, _), (other, _)| if self.ascending { one.cmp(other) } else { other.cmp(one) });
        let merged = self.slice(rows);
        Slice { has_more: has_more || merged.has_more, ..merged }
    }

    /// Cuts off what is too much and puts the rest into the order of the list.
    fn slice<T>(&self, mut rows: Vec<(Key, T)>) -> Slice<T> {
        let has_more = rows.len() > self.limit;
        rows.truncate(self.limit);
        if self.from_end {
            rows.reverse();
        }
        Slice { rows, has_more }
    }
}
