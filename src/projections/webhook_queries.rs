//! Subscriptions, asked for.
//!
//! By the time of their creation they come from a range of an index. Other orders are made in memory, of all that a tenant
//! has, and only for tenants that have at most [`MOST_SORTED`].

use std::collections::HashMap;

use sqlx::sqlite::SqliteRow;

use super::columns::{Columns, bytes, integer, json_text, packed};
use super::page::{List, Order, Query, Range, WALK, list};
use super::rows::WebhookRow;
use super::webhooks::{select_webhooks, state_number, webhook_row};
use super::{Key, Page, QueryError, ReadModels, Slice, TenantScope};
use crate::domain::circuit::CircuitState;
use crate::domain::filter::{EventType, Filter, matches_any};

/// The most subscriptions that are sorted for a list.
const MOST_SORTED: u64 = 2_000;
/// How many subscriptions a page looks at whose filters are compared with an event type.
const COMPARED: usize = 1_000;

/// Which subscriptions are wanted.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct WebhookFilter {
    /// Only those whose URL or description contains this text; ASCII letters count in either case.
    pub search: Option<String>,
    /// Only those that send, or only those that do not.
    pub enabled: Option<bool>,
    /// Only those whose circuit breaker stands so; all if it is empty.
    pub circuit_states: Vec<CircuitState>,
    /// Only those whose filters pick this event type.
    pub matches: Option<EventType>,
}

/// What a list of subscriptions is ordered by.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum WebhookOrderField {
    /// When they were created.
    #[default]
    CreatedAt,
    /// Their URL, as text.
    Url,
    /// When something last became of one of their deliveries; those without any are the oldest.
    LastDeliveryAt,
}

/// How a list of subscriptions is ordered; by default the newest comes first.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct WebhookOrder {
    /// By what.
    pub field: WebhookOrderField,
    /// Whether from the smallest, or from the oldest.
    pub ascending: bool,
}

/// How many subscriptions a tenant has.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct WebhookCounts {
    /// All.
    pub total: u64,
    /// Those that send.
    pub active: u64,
    /// Those that do not.
    pub inactive: u64,
    /// Those whose circuit breaker is open, whether they send or not.
    pub circuit_open: u64,
}

macro_rules! looked_for {
    () => {
        " AND ($5 IS NULL OR instr(lower(url), lower($5)) OR instr(lower(description), lower($5))) \
         AND ($7 IS NULL OR circuit_state IN (SELECT value FROM json_each($7)))"
    };
}

pub(super) const ALL: List = list!(select_webhooks!(), "tenant = $4", looked_for!(), "position");

pub(super) const BY_ENABLED: List = list!(
    concat!(select_webhooks!(), " INDEXED BY webhook_by_enabled"),
    "tenant = $4 AND enabled = $6",
    looked_for!(),
    "position"
);

pub(super) const BY_CIRCUIT: List = list!(
    concat!(select_webhooks!(), " INDEXED BY webhook_by_circuit"),
    "tenant = $4 AND circuit_state = $6",
    looked_for!(),
    "position"
);

/// What is needed for sorting, and for the conditions.
pub(super) const SORTABLE: &str = concat!(
    "SELECT position, url, filters, (SELECT at_ms FROM last_delivery WHERE subscription = webhook.id) \
     FROM webhook INDEXED BY webhook_by_tenant WHERE tenant = $4 AND ($6 IS NULL OR +enabled = $6)",
    looked_for!()
);

pub(super) const BY_POSITIONS: &str =
    concat!(select_webhooks!(), " WHERE position IN (SELECT value FROM json_each($1)) AND +tenant = $2");

pub(super) const COUNTS: &str = "SELECT enabled, count(*) FROM webhook WHERE tenant = $1 GROUP BY enabled";

pub(super) const TRIPPED: &str = "SELECT count(*) FROM webhook WHERE tenant = $1 AND circuit_state = $2";

impl WebhookFilter {
    fn states(&self) -> Option<String> {
        let states: Vec<i64> = self.circuit_states.iter().copied().map(state_number).collect();
        (!states.is_empty()).then(|| json_text(&states))
    }

    /// Whether it has conditions that no index answers.
    fn walks(&self) -> bool {
        let both = self.enabled.is_some() && !self.circuit_states.is_empty();
        self.search.is_some() || self.matches.is_some() || both
    }

    fn picks(&self, filters: &[Filter]) -> bool {
        self.matches.as_ref().is_none_or(|event_type| matches_any(filters, event_type))
    }

    /// The ranges that a list is merged from, each with what its index is asked for.
    fn parts(&self) -> Vec<(&'static List, Option<i64>)> {
        if let Some(enabled) = self.enabled {
            return vec![(&BY_ENABLED, Some(enabled.into()))];
        }
        let mut states: Vec<i64> = self.circuit_states.iter().copied().map(state_number).collect();
        states.sort_unstable();
        states.dedup();
        match states.is_empty() {
            true => vec![(&ALL, None)],
            false => states.into_iter().map(|state| (&BY_CIRCUIT, Some(state))).collect(),
        }
    }

    /// Adds the values from `$4` on.
    fn bind(&self, query: Query, scope: TenantScope, indexed: Option<i64>) -> Query {
        query.bind(bytes(scope.0)).bind(self.search.clone()).bind(indexed).bind(self.states())
    }
}

impl ReadModels {
    /// Subscriptions in that order; `None`: there are too many to be ordered so, which only orders other than by time of
    /// creation say. With conditions that no index answers a page may end before it is full: see [`Slice::edge`].
    pub async fn webhooks(
        &self,
        scope: TenantScope,
        filter: &WebhookFilter,
        order: WebhookOrder,
        page: &Page,
    ) -> Result<Option<Slice<WebhookRow>>, QueryError> {
        match order.field {
            WebhookOrderField::CreatedAt => self.webhooks_by_creation(scope, filter, order, page).await.map(Some),
            WebhookOrderField::Url | WebhookOrderField::LastDeliveryAt => {
                self.webhooks_sorted(scope, filter, order, page).await
            }
        }
    }

    async fn webhooks_by_creation(
        &self,
        scope: TenantScope,
        filter: &WebhookFilter,
        order: WebhookOrder,
        page: &Page,
    ) -> Result<Slice<WebhookRow>, QueryError> {
        let mut range = Range::of(page, if order.ascending { Order::Ascending } else { Order::Descending });
        let parts = filter.parts();
        let mut snapshot = self.inner.database.readers.begin().await?;
        let most = if filter.matches.is_some() { COMPARED } else { WALK } / parts.len();
        if filter.walks() {
            let walk =
                |(list, indexed): &(&'static List, _)| filter.bind(range.end_of_walk(list, most), scope, *indexed);
            let walks: Vec<Query> = parts.iter().map(walk).collect();
            range.walk(&mut snapshot, walks).await?;
        }
        // Where filters are compared, all that the walk goes past is read.
        let reading = if filter.matches.is_some() { range.with_limit(most) } else { range.with_limit(range.limit()) };
        let mut rows = Vec::new();
        let mut cut = false;
        for (list, indexed) in parts {
            let query = filter.bind(reading.query(list), scope, indexed);
            let slice = reading.fetch(&mut *snapshot, query, webhook_row).await?;
            cut |= slice.has_more;
            rows.extend(slice.rows);
        }
        snapshot.rollback().await?;
        rows.retain(|(_, row)| filter.picks(&row.filters));
        Ok(range.merge(vec![Slice::new(rows, cut)]))
    }

    async fn webhooks_sorted(
        &self,
        scope: TenantScope,
        filter: &WebhookFilter,
        order: WebhookOrder,
        page: &Page,
    ) -> Result<Option<Slice<WebhookRow>>, QueryError> {
        if self.webhook_counts(scope).await?.total > MOST_SORTED {
            return Ok(None);
        }
        // Like a list's statement, without a range.
        let query = sqlx::query(SORTABLE).bind(None::<i64>).bind(None::<i64>).bind(None::<i64>);
        let query = filter.bind(query, scope, filter.enabled.map(i64::from));
        let mut snapshot = self.inner.database.readers.begin().await?;
        let mut found = Vec::new();
        for row in &query.fetch_all(&mut *snapshot).await? {
            let (key, position, filters) = sortable(row, order.field)?;
            if filter.picks(&filters) {
                found.push((key, position));
            }
        }
        let Slice { rows: places, has_more, .. } = part(found, order.ascending, page);
        let positions: Vec<i64> = places.iter().map(|(_, position)| *position).collect();
        let query = sqlx::query(BY_POSITIONS).bind(json_text(&positions)).bind(bytes(scope.0));
        let mut rows = HashMap::new();
        for row in &query.fetch_all(&mut *snapshot).await? {
            let (position, row) = webhook_row(row)?;
            rows.insert(integer(packed(position)), row);
        }
        snapshot.rollback().await?;
        let placed = |(key, position)| rows.remove(&position).map(|row| (key, row));
        Ok(Some(Slice::new(places.into_iter().filter_map(placed).collect(), has_more)))
    }

    /// How many there are (A2).
    pub async fn webhook_counts(&self, scope: TenantScope) -> Result<WebhookCounts, QueryError> {
        let mut snapshot = self.inner.database.readers.begin().await?;
        let found = sqlx::query(COUNTS).bind(bytes(scope.0)).fetch_all(&mut *snapshot).await?;
        let mut counts = WebhookCounts::default();
        for row in &found {
            let mut columns = Columns::of(row);
            let (enabled, count): (bool, u64) = (columns.get()?, columns.number()?);
            *(if enabled { &mut counts.active } else { &mut counts.inactive }) += count;
            counts.total += count;
        }
        let open = sqlx::query(TRIPPED).bind(bytes(scope.0)).bind(state_number(CircuitState::Open));
        counts.circuit_open = Columns::of(&open.fetch_one(&mut *snapshot).await?).number()?;
        snapshot.rollback().await?;
        Ok(counts)
    }
}

/// What a row is ordered by, where it stands, and what it sends. The position comes last in every key, so that no two
/// are alike.
fn sortable(row: &SqliteRow, field: WebhookOrderField) -> Result<(Key, i64, Vec<Filter>), sqlx::Error> {
    let mut columns = Columns::of(row);
    let position: i64 = columns.get()?;
    let (url, filters): (&str, _) = (columns.get()?, columns.json()?);
    let last: Option<i64> = columns.get()?;
    let key = match field {
        WebhookOrderField::CreatedAt => Key(position, String::new()),
        // A URL has no blank.
        WebhookOrderField::Url => Key(0, format!("{url} {position:020}")),
        WebhookOrderField::LastDeliveryAt => Key(last.unwrap_or(0), format!("{position:020}")),
    };
    Ok((key, position, filters))
}

/// The page of rows that are in memory.
fn part<T>(mut rows: Vec<(Key, T)>, ascending: bool, page: &Page) -> Slice<T> {
    rows.sort_unstable_by(|(one, _), (other, _)| if ascending { one.cmp(other) } else { other.cmp(one) });
    let behind = |one: &Key, other: &Key| if ascending { one > other } else { one < other };
    rows.retain(|(key, _)| {
        page.after.as_ref().is_none_or(|after| behind(key, after))
            && page.before.as_ref().is_none_or(|before| behind(before, key))
    });
    let too_many = rows.len().saturating_sub(page.limit);
    if page.from_end {
        rows.drain(..too_many);
    } else {
        rows.truncate(page.limit);
    }
    Slice::new(rows, too_many > 0)
}
