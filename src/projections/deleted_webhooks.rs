//! Deleted subscriptions that can still be restored: what `webhooks` puts aside, and takes back.

use std::sync::LazyLock;

use sqlx::SqliteConnection;
use sqlx::sqlite::SqliteRow;

use super::columns::{Columns, bytes, id_list, json_text};
use super::page::{List, Order, Range, list};
use super::rows::{CircuitRow, DeletedWebhookRow, WebhookRow};
use super::statement::ManyRows;
use super::{Page, QueryError, ReadModels, Slice, TenantScope};
use crate::domain::event::SubscriptionDeleted;
use crate::domain::id::SubscriptionId;
use crate::event_store::{Position, Recorded};

static PUT: LazyLock<ManyRows> = LazyLock::new(|| {
    ManyRows::new(
        "INSERT INTO deleted_webhook (position, id, tenant, created_position, webhook, deleted_at_ms, \
         restorable_until_ms) VALUES ",
        "(?, ?, ?, ?, ?, ?, ?)",
        " ON CONFLICT (position) DO NOTHING",
    )
});

static DELETE: LazyLock<ManyRows> =
    LazyLock::new(|| ManyRows::new("DELETE FROM deleted_webhook WHERE id IN (", "?", ")"));

macro_rules! select {
    () => {
        "SELECT position, created_position, webhook, deleted_at_ms, restorable_until_ms FROM deleted_webhook"
    };
}

const TO_FOLD: &str = concat!(select!(), " WHERE id IN (SELECT unhex(value) FROM json_each($1))");

pub(super) const ALL: List = list!(select!(), "tenant = $4", "position");

/// One that was put aside, with where its creation and its deletion stand.
#[derive(Clone)]
pub(super) struct Aside {
    position: Position,
    created: Position,
    row: DeletedWebhookRow,
}

impl Aside {
    /// `None` if it is gone for good.
    pub(super) fn of(
        (created, webhook): (Position, WebhookRow),
        deleted: &SubscriptionDeleted,
        recorded: &Recorded,
    ) -> Option<Self> {
        let restorable_until = recorded.at.plus_ms(deleted.restore_window_s?.saturating_mul(1_000));
        // What another projection knows is not kept here.
        let webhook = WebhookRow { last_delivery_at: None, ..webhook };
        let row = DeletedWebhookRow { webhook, deleted_at: recorded.at, restorable_until };
        Some(Self { position: recorded.position, created, row })
    }

    /// As it comes back: disabled, with nothing known of its endpoint.
    pub(super) fn restored(self, recorded: &Recorded) -> (Position, WebhookRow) {
        let webhook = self.row.webhook;
        // The deletion had a number too.
        let revision = webhook.revision + 2;
        let row =
            WebhookRow { enabled: false, revision, circuit: CircuitRow::Closed, updated_at: recorded.at, ..webhook };
        (self.created, row)
    }
}

/// Those of the subscriptions that were put aside.
pub(super) async fn load(
    connection: &mut SqliteConnection,
    ids: impl IntoIterator<Item = SubscriptionId>,
) -> Result<Vec<(SubscriptionId, Aside)>, sqlx::Error> {
    let found = sqlx::query(TO_FOLD).bind(id_list(ids)).fetch_all(connection).await?;
    found.iter().map(|row| aside(row).map(|aside| (aside.row.webhook.id, aside))).collect()
}

/// Writes what is aside now; of those that are `touched` nothing else is.
pub(super) async fn write(
    connection: &mut SqliteConnection,
    touched: Vec<SubscriptionId>,
    aside: Vec<Aside>,
) -> Result<(), sqlx::Error> {
    DELETE.write(connection, touched.into_iter(), |values, id| values.id(id)).await?;
    PUT.write(connection, aside.into_iter(), |values, Aside { position, created, row }| {
        values.position(position)?;
        values.id(row.webhook.id)?;
        values.id(row.webhook.tenant)?;
        values.position(created)?;
        values.add(json_text(&row.webhook))?;
        values.add(row.deleted_at.as_ms())?;
        values.add(row.restorable_until.as_ms())
    })
    .await
}

impl ReadModels {
    /// Deleted subscriptions that can be restored, the last deleted first.
    pub async fn deleted_webhooks(
        &self,
        scope: TenantScope,
        page: &Page,
    ) -> Result<Slice<DeletedWebhookRow>, QueryError> {
        let range = Range::of(page, Order::Descending);
        let query = range.query(&ALL).bind(bytes(scope.0));
        let read = |row: &SqliteRow| aside(row).map(|aside| (aside.position, aside.row));
        Ok(range.fetch(&self.inner.database.readers, query, read).await?)
    }
}

fn aside(row: &SqliteRow) -> Result<Aside, sqlx::Error> {
    let mut columns = Columns::of(row);
    Ok(Aside {
        position: columns.position()?,
        created: columns.position()?,
        row: DeletedWebhookRow {
            webhook: columns.json()?,
            deleted_at: columns.time()?,
            restorable_until: columns.time()?,
        },
    })
}
