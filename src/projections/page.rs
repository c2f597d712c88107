//! Pages of lists.
//!
//! A page is asked for by the keys around it, not by a number of rows to skip: rows that are added meanwhile neither
//! repeat a row nor hide one, and the last page costs what the first one does.

use std::str::FromStr;

use sqlx::sqlite::SqliteRow;
use sqlx::{Executor, Sqlite};

use super::columns::{Id, bytes, integer, packed};
use crate::event_store::Position;

/// Where a row stands in its list. Means something only to the list that it comes from.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Key(pub i64, pub String);

impl From<Position> for Key {
    fn from(position: Position) -> Self {
        Self(integer(packed(position)), String::new())
    }
}

impl From<u32> for Key {
    fn from(number: u32) -> Self {
        Self(i64::from(number), String::new())
    }
}

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
    above: Option<Key>,
    below: Option<Key>,
    limit: usize,
    from_end: bool,
}

pub(super) type Query = sqlx::query::Query<'static, Sqlite, sqlx::sqlite::SqliteArguments>;

impl Range {
    pub(super) fn of(page: &Page, order: Order) -> Self {
        let (above, below) = match order {
            Order::Ascending => (&page.after, &page.before),
            Order::Descending => (&page.before, &page.after),
        };
        Self {
            ascending: (order == Order::Ascending) != page.from_end,
            above: above.clone(),
            below: below.clone(),
            limit: page.limit,
            from_end: page.from_end,
        }
    }

    /// The statement in the page's direction, with its first three values; asks for one row more than wanted.
    pub(super) fn query(&self, list: &List) -> Query {
        let number = |key: &Option<Key>| key.as_ref().map(|key| key.0);
        // Every number is at least 1.
        let (above, below) = (number(&self.above).unwrap_or(0), number(&self.below).unwrap_or(i64::MAX));
        sqlx::query(self.sql(list)).bind(above).bind(below).bind(self.one_more())
    }

    /// The same for a list that is ordered by an id, which stands in the text of its keys.
    pub(super) fn query_by_id<T: Id + FromStr>(&self, list: &List) -> Query {
        let id = |key: &Option<Key>| key.as_ref().and_then(|key| key.1.parse::<T>().ok()).map(bytes);
        // No id is all zeros or all ones, and every key that such a list gave out holds an id.
        let above = id(&self.above).unwrap_or_else(|| vec![0; 16]);
        let below = id(&self.below).unwrap_or_else(|| vec![0xFF; 16]);
        sqlx::query(self.sql(list)).bind(above).bind(below).bind(self.one_more())
    }

    fn sql(&self, list: &List) -> &'static str {
        if self.ascending { list.ascending } else { list.descending }
    }

    fn one_more(&self) -> i64 {
        integer(self.limit as u64).saturating_add(1)
    }

    /// Runs a statement made by [`Range::query`].
    pub(super) async fn fetch<'c, K: Into<Key>, T>(
        &self,
        executor: impl Executor<'c, Database = Sqlite>,
        query: Query,
        read: impl Fn(&SqliteRow) -> Result<(K, T), sqlx::Error>,
    ) -> Result<Slice<T>, sqlx::Error> {
        let found = query.fetch_all(executor).await?;
        let rows = found.iter().map(|row| read(row).map(|(key, row)| (key.into(), row)));
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
