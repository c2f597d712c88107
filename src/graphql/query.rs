//! The root of queries.

use async_graphql::{Context, ID, Object, Result};

use super::access::{ApiKey, Tenant, Viewer};
use super::alert::{self, Alert};
use super::audit::{self, AuditEntry, AuditFilter};
use super::caller::{authorise, own_tenant};
use super::charge::RateLimit;
use super::deleted_webhook::{self, DeletedWebhook};
use super::delivery::{self, Delivery, DeliveryFilter};
use super::erasure::Erasure;
use super::event_type::{self, EventType, EventTypeFilter};
use super::explanation::DeliveryExplanation;
use super::failure::{fault, nullable};
use super::job::{BackfillFrom, BackfillPreview, COUNT_COST, RedeliveryPreview, RedeliverySelection};
use super::ledger::{LEDGER_COST, Ledger};
use super::message::{self, Message, MessageFilter};
use super::node::Node;
use super::page::{Connection, MAX_PAGE, PageArgs, cost, items};
use super::preview::{DEFAULT_MESSAGES, FilterPreview, PREVIEW_COST};
use super::profile::{self, DeliveryProfile};
use super::projection::{self, Projection};
use super::quarantine::{self, QuarantineEntry};
use super::scalar::{DateTime, Long};
use super::sequence::{REPORT_COST, SequenceReport};
use super::snapshot::{self, FOLD_COST, WebhookSnapshot, WebhookSnapshotAsOf};
use super::statistics::{self, DeliveryStats, STATS_COST, StatsWindow};
use super::user::User;
use super::webhook::{self, Webhook, WebhookFilter, WebhookOrder, WebhookSummary};
use crate::domain::id::{SubscriptionId, TenantId};
use crate::domain::scope::Scope;
use crate::error_code::ErrorCode;
use crate::projections::TenantScope;

pub(super) struct Query;

/// What can be asked. A field that fails is null and has its reason under `errors`.
#[Object]
impl Query {
    /// Who asks.
    async fn viewer(&self) -> Option<Viewer> {
        Some(Viewer)
    }

    /// How many points the caller may still spend, and what this operation costs.
    async fn rate_limit(&self, ctx: &Context<'_>) -> Option<RateLimit> {
        RateLimit::of(ctx)
    }

    /// Anything by its id; null if there is no such thing. Needs the scope of its kind.
    async fn node(&self, ctx: &Context<'_>, #[graphql(desc = "The id.")] id: ID) -> Option<Result<Node>> {
        nullable(Node::find(ctx, &id)).await
    }

    /// Things by their ids, in the same order, null where there is no such thing. Needs the scopes of their kinds.
    #[graphql(complexity = "items(ids.len(), child_complexity)")]
    async fn nodes(
        &self,
        ctx: &Context<'_>,
        #[graphql(desc = "The ids, at most 100.")] ids: Vec<ID>,
    ) -> Option<Result<Vec<Option<Result<Node>>>>> {
        nullable(async {
            if ids.len() > MAX_PAGE {
                return Err(fault(ErrorCode::InvalidInput, "at most 100 ids are allowed"));
            }
            let mut nodes = Vec::with_capacity(ids.len());
            for id in &ids {
                nodes.push(Node::find(ctx, id).await.transpose());
            }
            Ok(Some(nodes))
        })
        .await
    }

    /// The receipt of an erasure. Needs the scope `MESSAGES_ERASE`; one of another tenant needs `TENANTS_ADMIN` as well.
    async fn erasure(&self, ctx: &Context<'_>, #[graphql(desc = "Its id.")] id: ID) -> Option<Result<Erasure>> {
        nullable(Erasure::find(ctx, &id)).await
    }

    /// A webhook. Needs the scope `WEBHOOKS_READ`.
    async fn webhook(&self, ctx: &Context<'_>, #[graphql(desc = "Its id.")] id: ID) -> Option<Result<Webhook>> {
        nullable(Webhook::find(ctx, &id)).await
    }

    /// The tenant's webhooks, the newest first. Needs the scope `WEBHOOKS_READ`.
    #[graphql(complexity = "cost(first, last, child_complexity)")]
    async fn webhooks(
        &self,
        ctx: &Context<'_>,
        #[graphql(desc = "Which of them.")] filter: Option<WebhookFilter>,
        #[graphql(desc = "In which order; absent: the newest first.")] order_by: Option<WebhookOrder>,
        #[graphql(desc = "How many from the beginning, 1 to 100; 20 if neither `first` nor `last` is given.")]
        first: Option<i32>,
        #[graphql(desc = "Only what follows this cursor.")] after: Option<String>,
        #[graphql(desc = "How many from the end, 1 to 100.")] last: Option<i32>,
        #[graphql(desc = "Only what precedes this cursor.")] before: Option<String>,
    ) -> Option<Result<Connection<Webhook>>> {
        nullable(async {
            let scope = own_tenant(ctx, Scope::WebhooksRead)?;
            let page = PageArgs { first, after, last, before };
            webhook::list(ctx, scope, filter.unwrap_or_default(), order_by.unwrap_or_default(), page).await.map(Some)
        })
        .await
    }

    /// The tenant's webhooks that were deleted and can still be restored, the last deleted first. Needs the scope
    /// `WEBHOOKS_READ`.
    #[graphql(complexity = "cost(first, last, child_complexity)")]
    async fn deleted_webhooks(
        &self,
        ctx: &Context<'_>,
        #[graphql(desc = "How many from the beginning, 1 to 100; 20 if neither `first` nor `last` is given.")]
        first: Option<i32>,
        #[graphql(desc = "Only what follows this cursor.")] after: Option<String>,
        #[graphql(desc = "How many from the end, 1 to 100.")] last: Option<i32>,
        #[graphql(desc = "Only what precedes this cursor.")] before: Option<String>,
    ) -> Option<Result<Connection<DeletedWebhook>>> {
        nullable(async {
            let scope = own_tenant(ctx, Scope::WebhooksRead)?;
            deleted_webhook::list(ctx, scope, PageArgs { first, after, last, before }).await.map(Some)
        })
        .await
    }

    /// A webhook as it was at an earlier moment; null before its creation. Knows deleted webhooks too. Needs the scope
    /// `WEBHOOKS_READ`.
    #[graphql(complexity = "FOLD_COST + child_complexity")]
    async fn webhook_snapshot(
        &self,
        ctx: &Context<'_>,
        #[graphql(desc = "Its id.")] id: ID,
        #[graphql(desc = "Which moment.")] as_of: WebhookSnapshotAsOf,
    ) -> Option<Result<WebhookSnapshot>> {
        nullable(async {
            let scope = own_tenant(ctx, Scope::WebhooksRead)?;
            WebhookSnapshot::find(ctx, scope, &id, as_of).await
        })
        .await
    }

    /// The versions of a webhook, the newest first; of a deleted one too. Null if there never was such a webhook. Needs the
    /// scope `WEBHOOKS_READ`.
    #[graphql(complexity = "cost(first, last, child_complexity)")]
    async fn webhook_history(
        &self,
        ctx: &Context<'_>,
        #[graphql(desc = "Its id.")] id: ID,
        #[graphql(desc = "How many from the beginning, 1 to 100; 20 if neither `first` nor `last` is given.")]
        first: Option<i32>,
        #[graphql(desc = "Only what follows this cursor.")] after: Option<String>,
        #[graphql(desc = "How many from the end, 1 to 100.")] last: Option<i32>,
        #[graphql(desc = "Only what precedes this cursor.")] before: Option<String>,
    ) -> Option<Result<Connection<WebhookSnapshot>>> {
        nullable(async {
            let scope = own_tenant(ctx, Scope::WebhooksRead)?;
            let Ok(id) = id.parse::<SubscriptionId>() else { return Ok(None) };
            snapshot::list(ctx, scope, id, PageArgs { first, after, last, before }).await
        })
        .await
    }

    /// What `startRedelivery` would do: how many deliveries it would make again, and how many it would not. Null if there is
    /// no such webhook. Needs the scope `DELIVERIES_READ`.
    #[graphql(complexity = "COUNT_COST + child_complexity")]
    async fn redelivery_preview(
        &self,
        ctx: &Context<'_>,
        #[graphql(desc = "The webhook's id.")] webhook_id: ID,
        #[graphql(desc = "Which of its deliveries.")] selection: RedeliverySelection,
    ) -> Option<Result<RedeliveryPreview>> {
        nullable(async {
            let scope = own_tenant(ctx, Scope::DeliveriesRead)?;
            RedeliveryPreview::of(ctx, scope, &webhook_id, selection).await
        })
        .await
    }

    /// What `startBackfill` would do: how many messages it would deliver. Null if there is no such webhook. Needs the scope
    /// `DELIVERIES_READ`.
    #[graphql(complexity = "COUNT_COST + child_complexity")]
    async fn backfill_preview(
        &self,
        ctx: &Context<'_>,
        #[graphql(desc = "The webhook's id.")] webhook_id: ID,
        #[graphql(desc = "From where on.")] from: BackfillFrom,
        #[graphql(desc = "Only messages published before this time; absent: up to now.")] to: Option<DateTime>,
    ) -> Option<Result<BackfillPreview>> {
        nullable(async {
            let scope = own_tenant(ctx, Scope::DeliveriesRead)?;
            BackfillPreview::of(ctx, scope, &webhook_id, &from, to).await
        })
        .await
    }

    /// Numbers of the tenant's webhooks and event types. Needs the scope `WEBHOOKS_READ`.
    async fn webhook_summary(&self, ctx: &Context<'_>) -> Option<Result<WebhookSummary>> {
        nullable(async {
            let scope = own_tenant(ctx, Scope::WebhooksRead)?;
            webhook::summary(ctx, scope).await.map(Some)
        })
        .await
    }

    /// What needs somebody's attention in the tenant, the newest first: at most one entry for a webhook and a reason, and
    /// the newest 100 of all. Empty if all is well. Needs the scope `WEBHOOKS_READ`.
    #[graphql(complexity = "STATS_COST + items(20, child_complexity)")]
    async fn alerts(&self, ctx: &Context<'_>) -> Option<Result<Vec<Alert>>> {
        nullable(async {
            let scope = own_tenant(ctx, Scope::WebhooksRead)?;
            alert::all(ctx, scope).await.map(Some)
        })
        .await
    }

    /// What became of all the tenant's deliveries in a window of time, those of deleted webhooks among them, with latencies.
    /// Needs the scope `WEBHOOKS_READ`.
    #[graphql(complexity = "STATS_COST + child_complexity")]
    async fn delivery_stats(
        &self,
        ctx: &Context<'_>,
        #[graphql(default_with = "StatsWindow::Last24Hours", desc = "How far back.")] window: StatsWindow,
    ) -> Option<Result<DeliveryStats>> {
        nullable(async {
            let scope = own_tenant(ctx, Scope::WebhooksRead)?;
            statistics::statistics(ctx, scope, None, window).await.map(Some)
        })
        .await
    }

    /// What filters would pick, of the catalogue and of the tenant's last messages, without saving them. A filter that is
    /// not valid ends it with `WEBHOOK_FILTER_INVALID`, and the message names that filter; whether a webhook's profile
    /// allows such filters is not asked. Needs the scope `WEBHOOKS_READ`.
    #[graphql(complexity = "PREVIEW_COST + child_complexity")]
    async fn filter_preview(
        &self,
        ctx: &Context<'_>,
        #[graphql(desc = "Event filters such as `user.*` or `account.**`, at most 50; none picks nothing.")]
        filters: Vec<String>,
        #[graphql(desc = "Name of the delivery profile that says what `*` at the end means; absent: the tenant's.")]
        profile: Option<String>,
        #[graphql(
            default_with = "Some(DEFAULT_MESSAGES)",
            desc = "How many of the messages that were published last are looked at, 1 to 1000."
        )]
        last_messages: Option<i32>,
    ) -> Option<Result<FilterPreview>> {
        nullable(async {
            let last_messages = last_messages.unwrap_or(DEFAULT_MESSAGES);
            FilterPreview::of(ctx, &filters, profile, last_messages).await.map(Some)
        })
        .await
    }

    /// A delivery. Needs the scope `DELIVERIES_READ`.
    async fn delivery(&self, ctx: &Context<'_>, #[graphql(desc = "Its id.")] id: ID) -> Option<Result<Delivery>> {
        nullable(Delivery::find(ctx, &id)).await
    }

    /// The tenant's deliveries, the newest first. Needs the scope `DELIVERIES_READ`.
    #[graphql(complexity = "cost(first, last, child_complexity)")]
    async fn deliveries(
        &self,
        ctx: &Context<'_>,
        #[graphql(desc = "Which of them.")] filter: Option<DeliveryFilter>,
        #[graphql(desc = "How many from the beginning, 1 to 100; 20 if neither `first` nor `last` is given.")]
        first: Option<i32>,
        #[graphql(desc = "Only what follows this cursor.")] after: Option<String>,
        #[graphql(desc = "How many from the end, 1 to 100.")] last: Option<i32>,
        #[graphql(desc = "Only what precedes this cursor.")] before: Option<String>,
    ) -> Option<Result<Connection<Delivery>>> {
        nullable(async {
            let scope = own_tenant(ctx, Scope::DeliveriesRead)?;
            let page = PageArgs { first, after, last, before };
            delivery::list(ctx, scope, filter.unwrap_or_default(), page).await.map(Some)
        })
        .await
    }

    /// Why a message was delivered to a webhook, or was not; of a deleted webhook too. Null if there is no such message,
    /// any more or at all, or never was such a webhook. Fails with `LIMIT_EXCEEDED` if more than 100000 events would have
    /// to be read for one request. Needs the scope `DELIVERIES_READ`.
    #[graphql(complexity = "FOLD_COST + child_complexity")]
    async fn explain_delivery(
        &self,
        ctx: &Context<'_>,
        #[graphql(desc = "Id of the message.")] message_id: ID,
        #[graphql(desc = "Id of the webhook.")] webhook_id: ID,
    ) -> Option<Result<DeliveryExplanation>> {
        nullable(DeliveryExplanation::of(ctx, &message_id, &webhook_id)).await
    }

    /// Which of a webhook's sequence numbers (`Delivery.sequence`) were delivered, in a range of at most 10000; of a
    /// deleted webhook too. Null if there never was such a webhook. Needs the scope `DELIVERIES_READ`.
    #[graphql(complexity = "REPORT_COST + child_complexity")]
    async fn sequence_report(
        &self,
        ctx: &Context<'_>,
        #[graphql(desc = "Id of the webhook.")] webhook_id: ID,
        #[graphql(desc = "The first number, from 1. Absent: so that the range is as long as it may be up to `to`, \
                          without what is older than deliveries are kept.")]
        from: Option<Long>,
        #[graphql(
            desc = "The last number. Absent: 9999 behind `from`, or the largest that was given so far if `from` \
                          is absent too."
        )]
        to: Option<Long>,
    ) -> Option<Result<SequenceReport>> {
        nullable(SequenceReport::of(ctx, &webhook_id, from, to)).await
    }

    /// Where every message stands that the tenant's webhooks matched, or one of them; a deleted webhook too. Null if there
    /// never was such a webhook. Needs the scope `DELIVERIES_READ`.
    #[graphql(complexity = "LEDGER_COST + child_complexity")]
    async fn ledger(
        &self,
        ctx: &Context<'_>,
        #[graphql(desc = "Id of the webhook; absent: all of them together.")] webhook_id: Option<ID>,
    ) -> Option<Result<Ledger>> {
        nullable(async { Ledger::of(ctx, webhook_id.as_deref().map(String::as_str)) }).await
    }

    /// A message. Needs the scope `DELIVERIES_READ`.
    async fn message(&self, ctx: &Context<'_>, #[graphql(desc = "Its id.")] id: ID) -> Option<Result<Message>> {
        nullable(Message::find(ctx, &id)).await
    }

    /// The tenant's messages, the newest first. Needs the scope `DELIVERIES_READ`.
    #[graphql(complexity = "cost(first, last, child_complexity)")]
    async fn messages(
        &self,
        ctx: &Context<'_>,
        #[graphql(desc = "Which of them.")] filter: Option<MessageFilter>,
        #[graphql(desc = "How many from the beginning, 1 to 100; 20 if neither `first` nor `last` is given.")]
        first: Option<i32>,
        #[graphql(desc = "Only what follows this cursor.")] after: Option<String>,
        #[graphql(desc = "How many from the end, 1 to 100.")] last: Option<i32>,
        #[graphql(desc = "Only what precedes this cursor.")] before: Option<String>,
    ) -> Option<Result<Connection<Message>>> {
        nullable(async {
            let scope = own_tenant(ctx, Scope::DeliveriesRead)?;
            let page = PageArgs { first, after, last, before };
            message::list(ctx, scope, filter.unwrap_or_default(), page).await.map(Some)
        })
        .await
    }

    /// An event type of the catalogue. Needs the scope `WEBHOOKS_READ`.
    async fn event_type(
        &self,
        ctx: &Context<'_>,
        #[graphql(desc = "Its name, as in messages: `user.created`.")] name: String,
    ) -> Option<Result<EventType>> {
        nullable(EventType::find(ctx, &name)).await
    }

    /// The catalogue by name: event types that every tenant has, and this tenant's own. Needs the scope
    /// `WEBHOOKS_READ`.
    #[graphql(complexity = "cost(first, last, child_complexity)")]
    async fn event_types(
        &self,
        ctx: &Context<'_>,
        #[graphql(desc = "Which of them.")] filter: Option<EventTypeFilter>,
        #[graphql(desc = "How many from the beginning, 1 to 100; 20 if neither `first` nor `last` is given.")]
        first: Option<i32>,
        #[graphql(desc = "Only what follows this cursor.")] after: Option<String>,
        #[graphql(desc = "How many from the end, 1 to 100.")] last: Option<i32>,
        #[graphql(desc = "Only what precedes this cursor.")] before: Option<String>,
    ) -> Option<Result<Connection<EventType>>> {
        nullable(async {
            let tenant = authorise(ctx, Scope::WebhooksRead)?.tenant;
            let page = PageArgs { first, after, last, before };
            event_type::list(ctx, tenant, filter.unwrap_or_default(), page).await.map(Some)
        })
        .await
    }

    /// What was done to the tenant and to what it owns, the newest first. Needs the scope `AUDIT_READ`.
    #[graphql(complexity = "cost(first, last, child_complexity)")]
    async fn audit_log(
        &self,
        ctx: &Context<'_>,
        #[graphql(desc = "Which entries.")] filter: Option<AuditFilter>,
        #[graphql(desc = "How many from the beginning, 1 to 100; 20 if neither `first` nor `last` is given.")]
        first: Option<i32>,
        #[graphql(desc = "Only what follows this cursor.")] after: Option<String>,
        #[graphql(desc = "How many from the end, 1 to 100.")] last: Option<i32>,
        #[graphql(desc = "Only what precedes this cursor.")] before: Option<String>,
    ) -> Option<Result<Connection<AuditEntry>>> {
        nullable(async {
            let scope = own_tenant(ctx, Scope::AuditRead)?;
            let page = PageArgs { first, after, last, before };
            audit::list(ctx, scope, filter.unwrap_or_default(), page).await.map(Some)
        })
        .await
    }

    /// What was done to the installation itself, the newest first: how it was configured when it was started. Needs the
    /// scope `TENANTS_ADMIN`.
    #[graphql(complexity = "cost(first, last, child_complexity)")]
    async fn system_audit_log(
        &self,
        ctx: &Context<'_>,
        #[graphql(desc = "Which entries.")] filter: Option<AuditFilter>,
        #[graphql(desc = "How many from the beginning, 1 to 100; 20 if neither `first` nor `last` is given.")]
        first: Option<i32>,
        #[graphql(desc = "Only what follows this cursor.")] after: Option<String>,
        #[graphql(desc = "How many from the end, 1 to 100.")] last: Option<i32>,
        #[graphql(desc = "Only what precedes this cursor.")] before: Option<String>,
    ) -> Option<Result<Connection<AuditEntry>>> {
        nullable(async {
            authorise(ctx, Scope::TenantsAdmin)?;
            let page = PageArgs { first, after, last, before };
            let scope = TenantScope(TenantId::INSTALLATION);
            audit::list(ctx, scope, filter.unwrap_or_default(), page).await.map(Some)
        })
        .await
    }

    /// The tenant's API keys, the newest first. Needs the scope `KEYS_ADMIN`.
    #[graphql(complexity = "cost(first, last, child_complexity)")]
    async fn api_keys(
        &self,
        ctx: &Context<'_>,
        #[graphql(desc = "How many from the beginning, 1 to 100; 20 if neither `first` nor `last` is given.")]
        first: Option<i32>,
        #[graphql(desc = "Only what follows this cursor.")] after: Option<String>,
        #[graphql(desc = "How many from the end, 1 to 100.")] last: Option<i32>,
        #[graphql(desc = "Only what precedes this cursor.")] before: Option<String>,
    ) -> Option<Result<Connection<ApiKey>>> {
        nullable(async {
            let scope = own_tenant(ctx, Scope::KeysAdmin)?;
            ApiKey::list(ctx, scope, PageArgs { first, after, last, before }).await.map(Some)
        })
        .await
    }

    /// The tenant's users, the newest first: people who log in here. Needs the scope `KEYS_ADMIN`.
    #[graphql(complexity = "cost(first, last, child_complexity)")]
    async fn users(
        &self,
        ctx: &Context<'_>,
        #[graphql(desc = "How many from the beginning, 1 to 100; 20 if neither `first` nor `last` is given.")]
        first: Option<i32>,
        #[graphql(desc = "Only what follows this cursor.")] after: Option<String>,
        #[graphql(desc = "How many from the end, 1 to 100.")] last: Option<i32>,
        #[graphql(desc = "Only what precedes this cursor.")] before: Option<String>,
    ) -> Option<Result<Connection<User>>> {
        nullable(async {
            let scope = own_tenant(ctx, Scope::KeysAdmin)?;
            User::list(ctx, scope, PageArgs { first, after, last, before }).await.map(Some)
        })
        .await
    }

    /// A tenant: the caller's own, or with the scope `TENANTS_ADMIN` any.
    async fn tenant(&self, ctx: &Context<'_>, #[graphql(desc = "Its id.")] id: ID) -> Option<Result<Tenant>> {
        nullable(Tenant::find(ctx, &id)).await
    }

    /// All tenants, the newest first. Needs the scope `TENANTS_ADMIN`.
    #[graphql(complexity = "cost(first, last, child_complexity)")]
    async fn tenants(
        &self,
        ctx: &Context<'_>,
        #[graphql(desc = "How many from the beginning, 1 to 100; 20 if neither `first` nor `last` is given.")]
        first: Option<i32>,
        #[graphql(desc = "Only what follows this cursor.")] after: Option<String>,
        #[graphql(desc = "How many from the end, 1 to 100.")] last: Option<i32>,
        #[graphql(desc = "Only what precedes this cursor.")] before: Option<String>,
    ) -> Option<Result<Connection<Tenant>>> {
        nullable(async {
            authorise(ctx, Scope::TenantsAdmin)?;
            Tenant::list(ctx, PageArgs { first, after, last, before }).await.map(Some)
        })
        .await
    }

    /// Events that cannot be read, and what is held back because of them, at most 1000. Needs the scope `TENANTS_ADMIN`.
    #[graphql(complexity = "items(100, child_complexity)")]
    async fn quarantine(&self, ctx: &Context<'_>) -> Option<Result<Vec<QuarantineEntry>>> {
        nullable(async {
            authorise(ctx, Scope::TenantsAdmin)?;
            quarantine::all(ctx).await.map(Some)
        })
        .await
    }

    /// How the read models stand: one entry for each in each shard that holds events. Needs the scope `TENANTS_ADMIN`.
    #[graphql(complexity = "items(100, child_complexity)")]
    async fn projections(&self, ctx: &Context<'_>) -> Option<Result<Vec<Projection>>> {
        nullable(async {
            authorise(ctx, Scope::TenantsAdmin)?;
            projection::all(ctx).await.map(Some)
        })
        .await
    }

    /// The delivery profiles that a webhook may have. Needs the scope `WEBHOOKS_READ`.
    #[graphql(complexity = "items(10, child_complexity)")]
    async fn profiles(&self, ctx: &Context<'_>) -> Option<Result<Vec<DeliveryProfile>>> {
        nullable(async {
            authorise(ctx, Scope::WebhooksRead)?;
            Ok(Some(profile::all()))
        })
        .await
    }
}
