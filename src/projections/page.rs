//! Pages of lists.
//!
//! A page is asked for by the keys around it, not by a number of rows to skip: rows that are added meanwhile neither
//! repeat a row nor hide one, and the last page costs what the first one does.
//!
//! A page whose conditions are answered by an index reads the rows that it shows. One with other conditions walks along
//! an index and looks at [`WALK`] rows at most: it may come back with fewer rows than were asked for, or none, and says
//! where it ended. So no page costs more than that, whatever is looked for and however little of it there is.

use std::str::FromStr;

use sqlx::sqlite::SqliteRow;
use sqlx::{Executor, Row, Sqlite, SqliteConnection};

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
    /// Where reading ended before the page was full, since it had looked at enough rows: the next page begins there.
    pub edge: Option<Key>,
}

impl<T> Slice<T> {
    /// A part that was read as far as it was asked for.
    pub fn new(rows: Vec<(Key, T)>, has_more: bool) -> Self {
        Self { rows, has_more, edge: None }
    }

    /// Of a list without rows.
    pub fn empty() -> Self {
        Self::new(Vec::new(), false)
    }
}

/// How many rows a page looks at whose conditions no index answers; what it has not found there is looked for by the
/// next page.
pub(super) const WALK: usize = 5_000;

/// A list's statements in both directions. Placeholders: `$1` the first number outside below, `$2` the first outside
/// above, `$3` the most rows; from `$4` on the list's own. `nth` finds the row behind `$3` others, without those of the
/// conditions that no index answers.
pub(super) struct List {
    pub(super) ascending: &'static str,
    pub(super) descending: &'static str,
    pub(super) nth_ascending: &'static str,
    pub(super) nth_descending: &'static str,
}

/// A list ordered by a number: columns, conditions that an index answers, the others, the column with the number.
macro_rules! list {
    ($select:expr, $condition:literal, $key:literal) => {
        $crate::projections::page::list!($select, $condition, "", $key)
    };
    ($select:expr, $condition:literal, $others:expr, $key:literal) => {
        $crate::projections::page::List {
            ascending: $crate::projections::page::range!($select, $condition, $others, $key, "", " LIMIT $3"),
            descending: $crate::projections::page::range!($select, $condition, $others, $key, " DESC", " LIMIT $3"),
            nth_ascending: $crate::projections::page::range!($select, $condition, "", $key, "", " LIMIT 1 OFFSET $3"),
            nth_descending: $crate::projections::page::range!(
                $select,
                $condition,
                "",
                $key,
                " DESC",
                " LIMIT 1 OFFSET $3"
            ),
        }
    };
}
pub(super) use list;

macro_rules! range {
    ($select:expr, $condition:literal, $others:expr, $key:literal, $direction:literal, $limit:literal) => {
        concat!(
            $select,
            " WHERE ",
            $condition,
            $others,
            " AND ",
            $key,
            " > $1 AND ",
            $key,
            " < $2 ORDER BY ",
            $key,
            $direction,
            $limit
        )
    };
}
pub(super) use range;

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
    edge: Option<Key>,
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
            edge: None,
        }
    }

    /// The same without what is not behind the first position or behind the second one.
    pub(super) fn within(self, (behind, through): (Position, Position)) -> Self {
        let (behind, through) = (Key::from(behind), Key::from(through));
        let above = self.above.map_or(behind.clone(), |above| above.max(behind));
        let outside = Key(through.0.saturating_add(1), String::new());
        let below = self.below.map_or(outside.clone(), |below| below.min(outside));
        Self { above: Some(above), below: Some(below), ..self }
    }

    /// So many rows instead of a page of them.
    pub(super) fn with_limit(&self, limit: usize) -> Self {
        Self { limit, above: self.above.clone(), below: self.below.clone(), edge: None, ..*self }
    }

    pub(super) fn limit(&self) -> usize {
        self.limit
    }

    /// The statement that finds where a walk over so many rows of the list ends.
    pub(super) fn end_of_walk(&self, list: &List, rows: usize) -> Query {
        let (above, below) = self.numbers();
        let sql = if self.ascending { list.nth_ascending } else { list.nth_descending };
        sqlx::query(sql).bind(above).bind(below).bind(integer(rows as u64).saturating_sub(1))
    }

    /// Ends the range where the first of the walks ends.
    pub(super) async fn walk(
        &mut self,
        connection: &mut SqliteConnection,
        walks: impl IntoIterator<Item = Query>,
    ) -> Result<(), sqlx::Error> {
        let mut ends: Vec<i64> = Vec::new();
        for walk in walks {
            if let Some(row) = walk.fetch_optional(&mut *connection).await? {
                ends.push(row.try_get(0)?);
            }
        }
        let end = if self.ascending { ends.into_iter().min() } else { ends.into_iter().max() };
        let Some(end) = end else { return Ok(()) };
        self.edge = Some(Key(end, String::new()));
        if self.ascending {
            self.below = Some(Key(end.saturating_add(1), String::new()));
        } else {
            self.above = Some(Key(end.saturating_sub(1), String::new()));
        }
        Ok(())
    }

    /// The first numbers outside, below and above.
    fn numbers(&self) -> (i64, i64) {
        let number = |key: &Option<Key>| key.as_ref().map(|key| key.0);
        // Every number is at least 1.
        (number(&self.above).unwrap_or(0), number(&self.below).unwrap_or(i64::MAX))
    }

    /// The statement in the page's direction, with its first three values; asks for one row more than wanted.
    pub(super) fn query(&self, list: &List) -> Query {
        let (above, below) = self.numbers();
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
        Ok(self.slice(rows.collect::<Result<_, _>>()?, false))
    }

    /// One page out of the pages of lists that have no row in common.
    pub(super) fn merge<T>(&self, slices: Vec<Slice<T>>) -> Slice<T> {
        // What has an edge was read to it.
        let cut = slices.iter().any(|slice| slice.has_more && slice.edge.is_none());
        let mut rows: Vec<(Key, T)> = slices.into_iter().flat_map(|slice| slice.rows).collect();
        rows.sort_by(|(one, _), (other, _)| if self.ascending { one.cmp(other) } else { other.cmp(one) });
        self.slice(rows, cut)
    }

    /// Cuts off what is too much and puts the rest into the order of the list; `cut`: something was cut off before.
    pub(super) fn slice<T>(&self, mut rows: Vec<(Key, T)>, cut: bool) -> Slice<T> {
        let cut = cut || rows.len() > self.limit;
        rows.truncate(self.limit);
        if self.from_end {
            rows.reverse();
        }
        let edge = self.edge.clone().filter(|_| !cut);
        Slice { rows, has_more: cut || edge.is_some(), edge }
    }
}
