//! What is told while it happens: the root `Subscription`.
//!
//! - Every item carries a cursor, its place in the log; `after` goes on behind it, also after a restart of the server,
//!   over another transport, or from the `auditLog` query's own cursors. An item may come twice, never too few: the
//!   place is passed on only with the item.
//! - Items come from the watchers of the read models ([`crate::projections::AuditWatch`]), which say why positions of
//!   the log are what a cursor holds. What an item shows can be asked for at once.
//! - A cursor names its tenant and its filter like that of any list, and one of another list is refused. One that is
//!   older than what is kept is refused too, by a code of its own: going on silently would be a loss.
//! - Each item is resolved like an answer of its own: nothing is remembered from the item before.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;

use async_graphql::{ComplexObject, Context, Error, ID, Result, SimpleObject, Subscription};
use futures_util::TryStreamExt;
use futures_util::future::BoxFuture;
use futures_util::stream::{self, BoxStream, StreamExt};

use super::audit::{AuditCode, AuditEntry, AuditFilter};
use super::caller::own_tenant;
use super::delivery::{Delivery, DeliveryAttempt, DeliveryFilter};
use super::failure::{fault, internal, nullable};
use super::item::ItemClock;
use super::page::{Edge, List};
use super::scalar::DateTime;
use super::state;
use super::webhook::Webhook;
use crate::audit::Code;
use crate::domain::id::SubscriptionId;
use crate::domain::scope::Scope;
use crate::error_code::ErrorCode;
use crate::execute::history::Budget;
use crate::projections::rows::{AuditRow, WebhookRow};
use crate::projections::{self, AuditWatch, DeliveryWatch, Key, Name, QueryError, ReadModels, TenantScope, WatchError};

/// What follows a live stream's `next`.
type Items<T> = BoxStream<'static, Result<T>>;

/// A delivery that has changed.
#[derive(SimpleObject)]
#[graphql(complex)]
pub(super) struct DeliveryUpdate {
    /// The change's place; for `after` of the same subscription with the same filter. Kept as long as deliveries are.
    cursor: String,
    /// The delivery as it stands now. Changes that follow each other quickly may be told as one.
    delivery: Delivery,
}

#[ComplexObject]
impl DeliveryUpdate {
    /// The delivery's newest attempt; null before the first.
    #[graphql(complexity = "2 + child_complexity")]
    async fn attempt(&self, ctx: &Context<'_>) -> Option<Result<DeliveryAttempt>> {
        nullable(DeliveryAttempt::newest(ctx, &self.delivery)).await
    }
}

/// Something that was done to a webhook, or that its circuit breaker did.
#[derive(SimpleObject)]
pub(super) struct WebhookUpdate {
    /// The update's place; for `after` of the same subscription with the same filter. Never expires.
    cursor: String,
    /// What happened; null for a code that this version does not know.
    code: Option<AuditCode>,
    /// When.
    at: DateTime,
    /// Id of the webhook; stays when it is deleted.
    webhook_id: ID,
    /// The webhook as it stands now; null once it is deleted.
    webhook: Option<Webhook>,
}

/// What can be watched while it happens, over SSE or `graphql-transport-ws` on the same URL.
pub(super) struct Live;

/// What can be watched while it happens, over SSE or `graphql-transport-ws` on the same URL. Items come at least once and in the order of the log; without `after` from now on. A stream ends when its API key is withdrawn or expires, and when the server stops: go on with `after`.
#[Subscription(name = "Subscription")]
impl Live {
    /// Deliveries, each time that they change: scheduled, attempted, moved, ended. Needs the scope `DELIVERIES_READ`.
    async fn delivery_updates(
        &self,
        ctx: &Context<'_>,
        #[graphql(
            desc = "Which deliveries: as they stand after the change. `createdAt` is refused; `eventFilters` pick of the types that are known at the beginning."
        )]
        filter: Option<DeliveryFilter>,
        #[graphql(
            desc = "Only what follows this cursor. One that is older than deliveries are kept is refused with `CURSOR_EXPIRED`."
        )]
        after: Option<String>,
    ) -> Result<Items<DeliveryUpdate>> {
        let scope = own_tenant(ctx, Scope::DeliveriesRead)?;
        let filter = filter.unwrap_or_default();
        without_time(filter.created_at.is_some(), "createdAt")?;
        let list = List::new(Some(scope.0), "deliveryUpdates", &filter.conditions());
        let key = key(&list, after)?;
        // An id that cannot be one is that of nothing.
        let Some(filter) = filter.rows(ctx, scope).await? else { return Ok(stream::pending().boxed()) };
        let watch = state(ctx).read_models.watch_deliveries(scope, filter, key.as_ref()).map_err(failed)?;
        let item = move |(key, row)| DeliveryUpdate { cursor: list.cursor(&key), delivery: Delivery(row) };
        Ok(items(ctx, watch).map_ok(item).boxed())
    }

    /// Webhooks, each time that somebody or their circuit breaker does something to them. Needs the scope
    /// `WEBHOOKS_READ`.
    async fn webhook_updates(
        &self,
        ctx: &Context<'_>,
        #[graphql(desc = "Only this one; absent: all.")] webhook_id: Option<ID>,
        #[graphql(desc = "Only what follows this cursor.")] after: Option<String>,
    ) -> Result<Items<WebhookUpdate>> {
        let scope = own_tenant(ctx, Scope::WebhooksRead)?;
        let target = webhook_id.map(|id| id.0);
        let list = List::new(Some(scope.0), "webhookUpdates", &[("webhook", target.clone())]);
        let key = key(&list, after)?;
        if target.as_ref().is_some_and(|id| id.parse::<SubscriptionId>().is_err()) {
            return Ok(stream::pending().boxed());
        }
        let read_models = state(ctx).read_models.clone();
        let filter = projections::AuditFilter { target, ..projections::AuditFilter::default() };
        let watch = read_models.watch_audit(scope, filter, key.as_ref(), &[Name::Audit, Name::Webhooks]);
        let watch = WebhookWatch { watch: watch.map_err(failed)?, read_models, scope };
        let item = move |(key, (row, webhook)): (Key, (AuditRow, Option<WebhookRow>))| WebhookUpdate {
            cursor: list.cursor(&key),
            code: Code::parse(row.code).map(AuditCode::from),
            at: row.at.into(),
            webhook_id: ID(row.target),
            webhook: webhook.map(Webhook),
        };
        Ok(items(ctx, watch).map_ok(item).boxed())
    }

    /// What was done to the tenant and to what it owns, as it happens: the entries of the query `auditLog`, whose cursors
    /// are these. Needs the scope `AUDIT_READ`.
    async fn audit_log(
        &self,
        ctx: &Context<'_>,
        #[graphql(desc = "Which entries; `at` is refused.")] filter: Option<AuditFilter>,
        #[graphql(desc = "Only what follows this cursor, also one of the query `auditLog` with the same filter.")]
        after: Option<String>,
    ) -> Result<Items<Edge<AuditEntry>>> {
        let scope = own_tenant(ctx, Scope::AuditRead)?;
        let filter = filter.unwrap_or_default();
        without_time(filter.at.is_some(), "at")?;
        let (list, filter) = filter.list(scope);
        let key = key(&list, after)?;
        let watch = state(ctx).read_models.watch_audit(scope, filter, key.as_ref(), &[Name::Audit]).map_err(failed)?;
        Ok(items(ctx, watch).map_ok(move |(key, row)| Edge::new(&list, &key, AuditEntry(row))).boxed())
    }
}

/// What is told while it happens has no time but now.
fn without_time(named: bool, field: &str) -> Result<()> {
    let message = || format!("'filter.{field}' cannot be watched: go on from a cursor instead");
    if named { Err(fault(ErrorCode::InvalidInput, message())) } else { Ok(()) }
}

fn key(list: &List, after: Option<String>) -> Result<Option<Key>> {
    after.map(|cursor| list.key_of(&cursor)).transpose()
}

fn failed(error: WatchError) -> Error {
    match error {
        WatchError::Foreign => fault(ErrorCode::InvalidCursor, "the cursor is not of this log"),
        WatchError::Dropped => {
            let message = "what follows the cursor is kept no more: read the list, then watch without 'after'";
            fault(ErrorCode::CursorExpired, message)
        }
        WatchError::NotFollowed => internal(&error),
        WatchError::Log(error) => internal(&error),
        WatchError::Rows(error) => internal(&error),
    }
}

/// What is told at a time, each with its place.
type Told<T> = Result<Vec<(Key, T)>, WatchError>;

/// What has something to tell again and again.
trait Watch: Send + 'static {
    type Row: Send + 'static;

    fn next(&mut self) -> BoxFuture<'_, Told<Self::Row>>;
}

impl Watch for DeliveryWatch {
    type Row = projections::rows::DeliveryRow;

    fn next(&mut self) -> BoxFuture<'_, Told<Self::Row>> {
        Box::pin(self.next())
    }
}

impl Watch for AuditWatch {
    type Row = AuditRow;

    fn next(&mut self) -> BoxFuture<'_, Told<Self::Row>> {
        Box::pin(self.next())
    }
}

/// The audit log's entries of webhooks, each with its webhook.
struct WebhookWatch {
    watch: AuditWatch,
    read_models: ReadModels,
    scope: TenantScope,
}

impl WebhookWatch {
    async fn webhooks(&self, rows: &[(Key, AuditRow)]) -> Result<HashMap<SubscriptionId, WebhookRow>, QueryError> {
        let mut ids: Vec<SubscriptionId> = rows.iter().filter_map(|(_, row)| row.target.parse().ok()).collect();
        ids.sort_unstable();
        ids.dedup();
        let found = self.read_models.webhooks_by_ids(self.scope, &ids).await?;
        Ok(found.into_iter().map(|row| (row.id, row)).collect())
    }
}

impl Watch for WebhookWatch {
    type Row = (AuditRow, Option<WebhookRow>);

    fn next(&mut self) -> BoxFuture<'_, Told<Self::Row>> {
        Box::pin(async {
            let mut rows = self.watch.next().await?;
            rows.retain(|(_, row)| row.target.parse::<SubscriptionId>().is_ok());
            let webhooks = self.webhooks(&rows).await?;
            let with_webhook = |(key, row): (Key, AuditRow)| {
                let webhook = row.target.parse().ok().and_then(|id: SubscriptionId| webhooks.get(&id).cloned());
                (key, (row, webhook))
            };
            Ok(rows.into_iter().map(with_webhook).collect())
        })
    }
}

/// What the watcher tells, one by one. Ends at the first error.
fn items<W: Watch>(ctx: &Context<'_>, watch: W) -> impl stream::Stream<Item = Result<(Key, W::Row)>> + Send + use<W> {
    let budget = Arc::clone(ctx.data_unchecked::<Arc<Budget>>());
    let clock = Arc::clone(ctx.data_unchecked::<Arc<ItemClock>>());
    stream::try_unfold((watch, VecDeque::new(), budget, clock), |(mut watch, mut waiting, budget, clock)| async move {
        loop {
            if let Some(item) = waiting.pop_front() {
                budget.renew();
                clock.begin();
                return Ok(Some((item, (watch, waiting, budget, clock))));
            }
            waiting = watch.next().await.map_err(failed)?.into();
        }
    })
}
