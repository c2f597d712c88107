//! Messages: what was published, without its data.

use std::sync::LazyLock;

use async_trait::async_trait;
use sqlx::SqliteConnection;
use sqlx::sqlite::SqliteRow;

use super::columns::{Columns, bytes, id_list};
use super::page::{List, Order, Range, list};
use super::projection::{ApplyError, Projection, Readable, Source};
use super::rows::MessageRow;
use super::statement::ManyRows;
use super::{Page, QueryError, ReadModels, Slice, TenantScope};
use crate::domain::event::{Event, MessageEvent, MessagePublished};
use crate::domain::filter::EventType;
use crate::domain::id::MessageId;
use crate::domain::time::Timestamp;
use crate::event_store::Position;
use crate::execute::MESSAGES_CATEGORY;

static INSERT: LazyLock<ManyRows> = LazyLock::new(|| {
    ManyRows::new(
        "INSERT INTO message \
         (position, id, tenant, event_type, occurred_at_ms, created_at_ms, size_bytes, unstable, idempotency_key) VALUES ",
        "(?, ?, ?, ?, ?, ?, ?, ?, ?)",
        "",
    )
});

static ERASED: &str = "UPDATE message SET erased_at_ms = $2 WHERE id IN (SELECT unhex(value) FROM json_each($1))";

/// The projection: a row for each message, which changes once at most: when its data is erased.
pub(super) struct Messages;

#[async_trait]
impl Projection for Messages {
    fn concerns(&self, kind: &str) -> bool {
        kind.starts_with("message.") || kind.starts_with("messages.")
    }

    fn concerns_category(&self, category: &str) -> bool {
        category == MESSAGES_CATEGORY
    }

    async fn apply(
        &mut self,
        connection: &mut SqliteConnection,
        _source: Source<'_>,
        events: Vec<Readable>,
    ) -> Result<(), ApplyError> {
        let mut published: Vec<(Position, Timestamp, MessagePublished)> = vec![];
        let mut erased: Vec<(Timestamp, Vec<MessageId>)> = vec![];
        for Readable { recorded, event } in events {
            match event {
                Event::Message(MessageEvent::Published(message)) => {
                    published.push((recorded.position, recorded.at, message));
                }
                Event::Message(MessageEvent::PayloadErased(payload)) => erased.push((recorded.at, payload.messages)),
                Event::Message(MessageEvent::PeriodOpened(_)) => {}
                Event::Tenant(_) | Event::Subscription(_) | Event::Delivery(_) => {
                    return Err(ApplyError::event(&recorded, "it is no message's event"));
                }
            }
        }
        INSERT
            .write(&mut *connection, published.into_iter(), |values, (position, at, message)| {
                values.position(position)?;
                values.id(message.message)?;
                values.id(message.tenant)?;
                values.add(message.event_type.as_str())?;
                values.add(message.occurred_at.as_ms())?;
                values.add(at.as_ms())?;
                values.add(i64::from(message.size_bytes))?;
                values.add(message.unstable)?;
                values.add(message.idempotency_key)
            })
            .await?;
        for (at, messages) in erased {
            sqlx::query(ERASED).bind(id_list(messages)).bind(at.as_ms()).execute(&mut *connection).await?;
        }
        Ok(())
    }
}

/// Which messages are wanted.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct MessageFilter {
    /// Only those of this type.
    pub event_type: Option<EventType>,
    /// Only those recorded behind the first position, up to the second one.
    pub recorded: Option<(Position, Position)>,
}

macro_rules! select {
    () => {
        "SELECT position, id, tenant, event_type, occurred_at_ms, created_at_ms, size_bytes, unstable, idempotency_key, \
         erased_at_ms FROM message"
    };
}

// A plus sign keeps a condition from choosing the index.
pub(super) const BY_IDS: &str =
    concat!(select!(), " WHERE id IN (SELECT unhex(value) FROM json_each($1)) AND +tenant = $2");

pub(super) const ALL: List = list!(select!(), "tenant = $4", "position");

pub(super) const OF_TYPE: List =
    list!(concat!(select!(), " INDEXED BY message_by_event_type"), "tenant = $4 AND event_type = $5", "position");

impl ReadModels {
    /// A message.
    pub async fn message(&self, scope: TenantScope, id: MessageId) -> Result<Option<MessageRow>, QueryError> {
        Ok(self.messages_by_ids(scope, &[id]).await?.pop())
    }

    /// Those of the messages that there are, in no order.
    pub async fn messages_by_ids(&self, scope: TenantScope, ids: &[MessageId]) -> Result<Vec<MessageRow>, QueryError> {
        let query = sqlx::query(BY_IDS).bind(id_list(ids.iter().copied())).bind(bytes(scope.0));
        let found = query.fetch_all(&self.inner.database.readers).await?;
        Ok(found.iter().map(|row| message_row(row).map(|(_, row)| row)).collect::<Result<_, _>>()?)
    }

    /// Messages, the newest first.
    pub async fn messages(
        &self,
        scope: TenantScope,
        filter: &MessageFilter,
        page: &Page,
    ) -> Result<Slice<MessageRow>, QueryError> {
        let range = Range::of(page, Order::Descending);
        let range = match filter.recorded {
            Some(positions) => range.within(positions),
            None => range,
        };
        let query = match &filter.event_type {
            None => range.query(&ALL).bind(bytes(scope.0)),
            Some(event_type) => range.query(&OF_TYPE).bind(bytes(scope.0)).bind(event_type.as_str().to_owned()),
        };
        Ok(range.fetch(&self.inner.database.readers, query, message_row).await?)
    }
}

fn message_row(row: &SqliteRow) -> Result<(Position, MessageRow), sqlx::Error> {
    let mut columns = Columns::of(row);
    let position = columns.position()?;
    let row = MessageRow {
        id: columns.id()?,
        tenant: columns.id()?,
        position,
        event_type: columns.parsed()?,
        occurred_at: columns.time()?,
        created_at: columns.time()?,
        size_bytes: columns.number()?,
        unstable: columns.get()?,
        idempotency_key: columns.get()?,
        erased_at: columns.optional_time()?,
    };
    Ok((position, row))
}
