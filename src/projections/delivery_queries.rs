//! Deliveries and their attempts, asked for.
//!
//! A list of several states is merged from one range of the index for each state: however many deliveries there are,
//! and however few of them are in the wanted states, a page costs the same. Event types and HTTP statuses are looked for
//! on a walk along such a range, as are the states of one message's deliveries.

use std::collections::{HashMap, HashSet};
use std::ops::RangeInclusive;

use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::Value;
use sqlx::sqlite::SqliteRow;

use super::columns::{Columns, bytes, damaged, id_list, integer, json_text, packed};
use super::page::{List, Order, Query, Range, WALK, list};
use super::rows::{AttemptRow, DeliveryRow, DeliveryStatus};
use super::{Page, QueryError, ReadModels, Slice, TenantScope};
use crate::domain::filter::EventType;
use crate::domain::id::{DeliveryId, MessageId, SubscriptionId};
use crate::domain::outcome::Response;
use crate::event_store::Position;

/// Which deliveries are wanted.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct DeliveryFilter {
    /// Only those to this subscription.
    pub subscription: Option<SubscriptionId>,
    /// Only those of this message.
    pub message: Option<MessageId>,
    /// Only those that stand so; all if it is empty.
    pub statuses: Vec<DeliveryStatus>,
    /// Only those of these event types; `None`: of any.
    pub event_types: Option<Vec<EventType>>,
    /// Only those whose last answer had an HTTP status in this range.
    pub status_codes: Option<RangeInclusive<u16>>,
    /// Only those recorded behind the first position, up to the second one.
    pub recorded: Option<(Position, Position)>,
}

/// How the deliveries of a range of numbers stand.
#[derive(Clone, Debug, PartialEq)]
pub struct Sequence {
    /// How many numbers have a delivery that succeeded, be it a repetition.
    pub delivered: usize,
    /// The other numbers, the smallest first, each with its newest delivery; `None`: there is none (any more).
    pub undelivered: Vec<(u64, Option<DeliveryRow>)>,
}

const ALL_STATUSES: [DeliveryStatus; 4] =
    [DeliveryStatus::Pending, DeliveryStatus::Succeeded, DeliveryStatus::Failed, DeliveryStatus::Cancelled];

impl DeliveryFilter {
    fn statuses(&self) -> HashSet<DeliveryStatus> {
        if self.statuses.is_empty() { ALL_STATUSES.into() } else { self.statuses.iter().copied().collect() }
    }

    /// Whether it has conditions that no index answers.
    fn walks(&self) -> bool {
        let of_message = self.message.is_some() && (self.subscription.is_some() || !self.statuses.is_empty());
        self.event_types.is_some() || self.status_codes.is_some() || of_message
    }
}

/// How the column holds a status.
pub(super) fn status_number(status: DeliveryStatus) -> i64 {
    match status {
        DeliveryStatus::Pending => 0,
        DeliveryStatus::Succeeded => 1,
        DeliveryStatus::Failed => 2,
        DeliveryStatus::Cancelled => 3,
    }
}

/// How a column holds a code: by the word that events use.
pub(super) fn word_text(code: impl Serialize) -> String {
    match serde_json::to_value(code) {
        Ok(Value::String(text)) => text,
        Ok(_) | Err(_) => unreachable!("a code is written as a text"),
    }
}

macro_rules! select {
    () => {
        "SELECT position, id, tenant, subscription, message, message_position, event_type, status, attempts, created_at_ms, \
         completed_at_ms, next_attempt_at_ms, last_status, last_latency_ms, redelivery_of, sequence, expiry \
         FROM delivery"
    };
}

/// Whosever they are: for folding alone.
pub(super) const TO_FOLD: &str = concat!(select!(), " WHERE id IN (SELECT unhex(value) FROM json_each($1))");

pub(super) const BY_IDS: &str =
    concat!(select!(), " WHERE id IN (SELECT unhex(value) FROM json_each($1)) AND +tenant = $2");

pub(super) const POSITION: &str = "SELECT position FROM delivery WHERE id = $1 AND +tenant = $2";

/// What is looked for on a walk.
macro_rules! looked_for {
    () => {
        " AND ($6 IS NULL OR event_type IN (SELECT value FROM json_each($6))) \
         AND ($7 IS NULL OR last_status BETWEEN $7 AND $8)"
    };
}

pub(super) const OF_TENANT: List = list!(select!(), "tenant = $4 AND status = $5", looked_for!(), "position");

// A plus sign keeps a condition from choosing the index.
pub(super) const OF_SUBSCRIPTION: List =
    list!(select!(), "+tenant = $4 AND status = $5 AND subscription = $9", looked_for!(), "position");

pub(super) const OF_MESSAGE: List = list!(
    select!(),
    "+tenant = $4 AND message = $9",
    concat!(looked_for!(), " AND status IN (SELECT value FROM json_each($5)) AND ($10 IS NULL OR +subscription = $10)"),
    "position"
);

/// For each number the newest delivery, and whether any of its deliveries succeeded.
pub(super) const NUMBERS: &str = "SELECT sequence, max(position), max(status = 1) FROM delivery \
     WHERE +tenant = $1 AND subscription = $2 AND sequence >= $3 AND sequence <= $4 GROUP BY sequence";

pub(super) const FIRST_NUMBER: &str = "SELECT sequence FROM delivery \
     WHERE +tenant = $1 AND subscription = $2 AND sequence > 0 ORDER BY sequence LIMIT 1";

pub(super) const LAST_NUMBER: &str = "SELECT sequence FROM delivery \
     WHERE +tenant = $1 AND subscription = $2 AND sequence > 0 ORDER BY sequence DESC LIMIT 1";

/// Which of these have a later delivery of the same message to the same subscription that succeeded.
pub(super) const DELIVERED_SINCE: &str = "SELECT earlier.id FROM delivery AS earlier \
     WHERE earlier.id IN (SELECT unhex(value) FROM json_each($1)) AND +earlier.tenant = $2 AND EXISTS ( \
     SELECT 1 FROM delivery AS later WHERE later.message = earlier.message \
     AND +later.subscription = earlier.subscription AND +later.status = 1 AND +later.position > earlier.position)";

pub(super) const BY_POSITIONS: &str =
    concat!(select!(), " WHERE position IN (SELECT value FROM json_each($1)) AND +tenant = $2");

macro_rules! select_attempts {
    () => {
        "SELECT number, started_at_ms, latency_ms, failure, detail, status, preview, truncated, \
         retry_after_s, body_bytes, headers, class, revision FROM attempt"
    };
}

pub(super) const ATTEMPT: &str = concat!(
    select_attempts!(),
    " WHERE delivery = (SELECT position FROM delivery WHERE id = $1 AND +tenant = $2) AND number = $3"
);

pub(super) const ATTEMPTS: List =
    list!(select_attempts!(), "delivery = (SELECT position FROM delivery WHERE id = $4 AND +tenant = $5)", "number");

impl ReadModels {
    /// A delivery; also of a subscription that was deleted.
    pub async fn delivery(&self, scope: TenantScope, id: DeliveryId) -> Result<Option<DeliveryRow>, QueryError> {
        Ok(self.deliveries_by_ids(scope, &[id]).await?.pop())
    }

    /// Where the event stands that scheduled the delivery.
    pub async fn delivery_position(&self, scope: TenantScope, id: DeliveryId) -> Result<Option<Position>, QueryError> {
        let query = sqlx::query(POSITION).bind(bytes(id)).bind(bytes(scope.0));
        let found = query.fetch_optional(&self.inner.database.readers).await?;
        Ok(found.map(|row| Columns::of(&row).position()).transpose()?)
    }

    /// Those of the deliveries that there are, in no order.
    pub async fn deliveries_by_ids(
        &self,
        scope: TenantScope,
        ids: &[DeliveryId],
    ) -> Result<Vec<DeliveryRow>, QueryError> {
        let query = sqlx::query(BY_IDS).bind(id_list(ids.iter().copied())).bind(bytes(scope.0));
        let found = query.fetch_all(&self.inner.database.readers).await?;
        Ok(found.iter().map(|row| delivery_row(row).map(|(_, row)| row)).collect::<Result<_, _>>()?)
    }

    /// Deliveries, the newest first. With conditions that no index answers a page may end before it is full: see
    /// [`Slice::edge`].
    pub async fn deliveries(
        &self,
        scope: TenantScope,
        filter: &DeliveryFilter,
        page: &Page,
    ) -> Result<Slice<DeliveryRow>, QueryError> {
        let range = Range::of(page, Order::Descending);
        let mut range = match filter.recorded {
            Some(positions) => range.within(positions),
            None => range,
        };
        let parts = parts(filter);
        // One snapshot for all: a delivery that goes from one status to another is in one of them.
        let mut snapshot = self.inner.database.readers.begin().await?;
        if filter.walks() {
            let rows = WALK / parts.len();
            let walks: Vec<Query> =
                parts.iter().map(|part| part.bind(range.end_of_walk(part.list, rows), scope, filter)).collect();
            range.walk(&mut snapshot, walks).await?;
        }
        let mut slices = Vec::new();
        for part in &parts {
            let query = part.bind(range.query(part.list), scope, filter);
            slices.push(range.fetch(&mut *snapshot, query, delivery_row).await?);
        }
        snapshot.rollback().await?;
        Ok(range.merge(slices))
    }

    /// The smallest and the largest number that a delivery of the subscription has; `None` if none has one.
    pub async fn numbers(
        &self,
        scope: TenantScope,
        subscription: SubscriptionId,
    ) -> Result<Option<(u64, u64)>, QueryError> {
        let mut snapshot = self.inner.database.readers.begin().await?;
        let mut ends = [None, None];
        for (end, sql) in ends.iter_mut().zip([FIRST_NUMBER, LAST_NUMBER]) {
            let query = sqlx::query(sql).bind(bytes(scope.0)).bind(bytes(subscription));
            let row = query.fetch_optional(&mut *snapshot).await?;
            *end = row.map(|row| Columns::of(&row).number::<u64>()).transpose()?;
        }
        snapshot.rollback().await?;
        let [first, last] = ends;
        Ok(first.zip(last))
    }

    /// How the deliveries stand that have one of these numbers.
    pub async fn sequence(
        &self,
        scope: TenantScope,
        subscription: SubscriptionId,
        numbers: RangeInclusive<u64>,
    ) -> Result<Sequence, QueryError> {
        let mut snapshot = self.inner.database.readers.begin().await?;
        let query = sqlx::query(NUMBERS).bind(bytes(scope.0)).bind(bytes(subscription));
        let query = query.bind(integer(*numbers.start())).bind(integer(*numbers.end()));
        let mut found = HashMap::new();
        for row in &query.fetch_all(&mut *snapshot).await? {
            let mut columns = Columns::of(row);
            let number: u64 = columns.number()?;
            found.insert(number, (columns.get::<i64>()?, columns.get::<bool>()?));
        }
        let delivered = found.values().filter(|(_, delivered)| *delivered).count();
        let open = numbers.filter(|number| found.get(number).is_none_or(|(_, delivered)| !delivered));
        let open: Vec<(u64, Option<i64>)> =
            open.map(|number| (number, found.get(&number).map(|(position, _)| *position))).collect();
        let positions: Vec<i64> = open.iter().filter_map(|(_, position)| *position).collect();
        let query = sqlx::query(BY_POSITIONS).bind(json_text(&positions)).bind(bytes(scope.0));
        let rows = query.fetch_all(&mut *snapshot).await?;
        let rows = rows.iter().map(|row| delivery_row(row).map(|(at, row)| (integer(packed(at)), row)));
        let mut rows: HashMap<i64, DeliveryRow> = rows.collect::<Result<_, _>>()?;
        snapshot.rollback().await?;
        let mut row = |position: Option<i64>| position.and_then(|position| rows.remove(&position));
        let undelivered = open.into_iter().map(|(number, position)| (number, row(position))).collect();
        Ok(Sequence { delivered, undelivered })
    }

    /// Which of these deliveries were made good: the message went to the same subscription by a later one.
    pub async fn delivered_since(
        &self,
        scope: TenantScope,
        ids: &[DeliveryId],
    ) -> Result<HashSet<DeliveryId>, QueryError> {
        let query = sqlx::query(DELIVERED_SINCE).bind(id_list(ids.iter().copied())).bind(bytes(scope.0));
        let rows = query.fetch_all(&self.inner.database.readers).await?;
        Ok(rows.iter().map(|row| Columns::of(row).id()).collect::<Result<_, _>>()?)
    }

    /// One attempt of a delivery.
    pub async fn attempt(
        &self,
        scope: TenantScope,
        delivery: DeliveryId,
        number: u32,
    ) -> Result<Option<AttemptRow>, QueryError> {
        let query = sqlx::query(ATTEMPT).bind(bytes(delivery)).bind(bytes(scope.0)).bind(i64::from(number));
        let found = query.fetch_optional(&self.inner.database.readers).await?;
        Ok(found.map(|row| attempt_row(delivery, &row)).transpose()?.map(|(_, row)| row))
    }

    /// A delivery's attempts, by number.
    pub async fn attempts(
        &self,
        scope: TenantScope,
        delivery: DeliveryId,
        page: &Page,
    ) -> Result<Slice<AttemptRow>, QueryError> {
        let range = Range::of(page, Order::Ascending);
        let query = range.query(&ATTEMPTS).bind(bytes(delivery)).bind(bytes(scope.0));
        Ok(range.fetch(&self.inner.database.readers, query, |row| attempt_row(delivery, row)).await?)
    }
}

/// One of the ranges that a list is merged from.
struct Part {
    list: &'static List,
    statuses: Vec<i64>,
}

/// One range for each status, or the one of a message.
fn parts(filter: &DeliveryFilter) -> Vec<Part> {
    let statuses = filter.statuses().into_iter().map(status_number);
    if filter.message.is_some() {
        return vec![Part { list: &OF_MESSAGE, statuses: statuses.collect() }];
    }
    let list = if filter.subscription.is_some() { &OF_SUBSCRIPTION } else { &OF_TENANT };
    statuses.map(|status| Part { list, statuses: vec![status] }).collect()
}

impl Part {
    /// Adds the values from `$4` on.
    fn bind(&self, query: Query, scope: TenantScope, filter: &DeliveryFilter) -> Query {
        let query = query.bind(bytes(scope.0));
        let query = match (filter.message, self.statuses.first()) {
            (None, Some(status)) => query.bind(*status),
            (Some(_), _) | (None, None) => query.bind(json_text(&self.statuses)),
        };
        let types = filter.event_types.as_ref().map(|types| types.iter().map(EventType::as_str).collect::<Vec<_>>());
        let query = query.bind(types.map(|types| json_text(&types)));
        let codes = filter.status_codes.as_ref();
        let query = query.bind(codes.map(|codes| *codes.start())).bind(codes.map(|codes| *codes.end()));
        match filter.message {
            Some(message) => query.bind(bytes(message)).bind(filter.subscription.map(bytes)),
            None => query.bind(filter.subscription.map(bytes)),
        }
    }
}

pub(super) fn delivery_row(row: &SqliteRow) -> Result<(Position, DeliveryRow), sqlx::Error> {
    let mut columns = Columns::of(row);
    let position = columns.position()?;
    let row = DeliveryRow {
        id: columns.id()?,
        tenant: columns.id()?,
        subscription: columns.id()?,
        message: columns.id()?,
        message_seq: columns.position()?.seq,
        event_type: columns.parsed()?,
        status: status(columns.get()?)?,
        attempts: columns.number()?,
        created_at: columns.time()?,
        completed_at: columns.optional_time()?,
        next_attempt_at: columns.optional_time()?,
        last_status: columns.optional_number()?,
        last_latency_ms: columns.optional_number()?,
        redelivery_of: columns.optional_id()?,
        sequence: columns.optional_number()?,
        expiry: word(columns.get()?)?,
    };
    Ok((position, row))
}

fn status(number: i64) -> Result<DeliveryStatus, sqlx::Error> {
    let found = ALL_STATUSES.into_iter().find(|status| status_number(*status) == number);
    found.ok_or_else(|| damaged(format!("{number} is no status of a delivery")))
}

fn attempt_row(delivery: DeliveryId, row: &SqliteRow) -> Result<(u32, AttemptRow), sqlx::Error> {
    let mut columns = Columns::of(row);
    let number: u32 = columns.number()?;
    let row = AttemptRow {
        delivery,
        number,
        started_at: columns.time()?,
        latency_ms: columns.number()?,
        failure: word(columns.get()?)?,
        detail: columns.get()?,
        response: response(&mut columns)?,
        class: word(columns.get()?)?,
        revision: columns.number()?,
    };
    Ok((number, row))
}

fn word<T: DeserializeOwned>(text: Option<String>) -> Result<Option<T>, sqlx::Error> {
    text.map(|text| serde_json::from_value(Value::String(text))).transpose().map_err(damaged)
}

fn response(columns: &mut Columns<'_>) -> Result<Option<Response>, sqlx::Error> {
    let status: Option<u16> = columns.optional_number()?;
    let preview: Option<String> = columns.get()?;
    let truncated: Option<bool> = columns.get()?;
    let retry_after_s = columns.optional_number()?;
    let body_bytes = columns.optional_number()?;
    let headers: Option<String> = columns.get()?;
    let headers = headers.map(|text| serde_json::from_str(&text)).transpose().map_err(damaged)?;
    Ok(status.map(|status| Response {
        status,
        preview: preview.unwrap_or_default(),
        truncated: truncated.unwrap_or_default(),
        retry_after_s,
        body_bytes,
        headers: headers.unwrap_or_default(),
    }))
}
