//! What needs somebody's attention.

use std::collections::HashMap;

use async_graphql::{Context, Enum, ID, Object, Result};

use super::failure::{internal, nullable};
use super::loader::{load, load_all};
use super::scalar::DateTime;
use super::state;
use super::webhook::Webhook;
use crate::actors::{self, Quarantined};
use crate::domain::circuit::CircuitState;
use crate::domain::id::SubscriptionId;
use crate::domain::time::Timestamp;
use crate::execute;
use crate::projections::rows::{CircuitRow, DeliveryStatus};
use crate::projections::{self, Page, TenantScope};

/// The most alerts, and open circuits among them, that are shown.
pub(super) const MOST: usize = 100;
/// The newest failed deliveries that are looked at.
const FAILURES: usize = 500;
/// So many times that are looked at where those of before were all made good since.
const PAGES_OF_FAILURES: usize = 8;
/// How long a failed delivery is worth an alert, in milliseconds.
const RECENT_MS: u64 = 24 * 3_600_000;

/// What an alert is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Enum)]
pub(super) enum AlertKind {
    /// A webhook's circuit breaker is open: its endpoint is down, and what matches waits.
    CircuitOpen,
    /// Deliveries of a webhook failed for good in the last 24 hours and were not made good by a redelivery, and its
    /// circuit breaker is not open.
    DeliveriesFailed,
    /// A webhook sends nothing and cannot be changed, since an event of it cannot be read; the operator can see which.
    WebhookHeld,
    /// Messages are not delivered, to a webhook or to any, since an event cannot be read; the operator can see which.
    MessagesHeld,
    /// Nothing can be published or changed, since an event of the tenant cannot be read; the operator can see which.
    TenantHeld,
    /// Lists and statistics show how things were: a read model does not go on. Deliveries are made all the same.
    ListsBehind,
}

pub(super) struct Alert {
    kind: AlertKind,
    since: Option<Timestamp>,
    message: String,
    subscription: Option<SubscriptionId>,
    scope: TenantScope,
}

/// Something that needs somebody's attention. It goes by itself once its cause has gone.
#[Object]
impl Alert {
    /// What it is about.
    async fn kind(&self) -> AlertKind {
        self.kind
    }

    /// Since when; null if that is not known.
    async fn since(&self) -> Option<DateTime> {
        self.since.map(DateTime)
    }

    /// What is the matter, for people. One sentence, which may change.
    async fn message(&self) -> &str {
        &self.message
    }

    /// Id of the webhook that it is about; null if it is about no one webhook.
    async fn webhook_id(&self) -> Option<ID> {
        self.subscription.map(ID::from)
    }

    /// The webhook that it is about; null if it is about no one webhook.
    async fn webhook(&self, ctx: &Context<'_>) -> Option<Result<Webhook>> {
        nullable(async {
            let Some(id) = self.subscription else { return Ok(None) };
            Ok(load(ctx, (self.scope.0, id)).await?.map(Webhook))
        })
        .await
    }
}

/// What needs attention in the tenant, the newest first. The caller has checked the scope.
pub(super) async fn all(ctx: &Context<'_>, scope: TenantScope) -> Result<Vec<Alert>> {
    let mut alerts = open_circuits(ctx, scope).await?;
    let open: Vec<_> = alerts.iter().filter_map(|alert| alert.subscription).collect();
    alerts.extend(failures(ctx, scope, &open).await?);
    for held in state(ctx).engine.quarantine() {
        alerts.extend(quarantined(ctx, scope, held).await?);
    }
    let shard = execute::shard_of(scope.0, state(ctx).log.shards());
    let stopped = state(ctx).read_models.stopped().into_iter().filter(|stopped| stopped.position.shard == shard);
    alerts.extend(stopped.map(|stopped| Alert {
        kind: AlertKind::ListsBehind,
        since: None,
        message: format!("the read model '{}' does not go on: what it lists is old", stopped.projection.as_str()),
        subscription: None,
        scope,
    }));
    alerts.sort_by_key(|alert| std::cmp::Reverse(alert.since));
    alerts.truncate(MOST);
    Ok(alerts)
}

async fn open_circuits(ctx: &Context<'_>, scope: TenantScope) -> Result<Vec<Alert>> {
    let filter = projections::WebhookFilter {
        circuit_states: vec![CircuitState::Open],
        ..projections::WebhookFilter::default()
    };
    let order = projections::WebhookOrder::default();
    let found = state(ctx).read_models.webhooks(scope, &filter, order, &Page::first(MOST)).await;
    let rows = found.map_err(|error| internal(&error))?.map_or_else(Vec::new, |slice| slice.rows);
    let alert = |(_, row): (_, projections::rows::WebhookRow)| match row.circuit {
        CircuitRow::Open(trip) => Some(Alert {
            kind: AlertKind::CircuitOpen,
            since: Some(trip.at),
            message: format!("the circuit breaker is open, last for: {}", trip.detail),
            subscription: Some(row.id),
            scope,
        }),
        CircuitRow::Closed | CircuitRow::HalfOpen { .. } => None,
    };
    Ok(rows.into_iter().filter_map(alert).collect())
}

/// One for each webhook with failures among the newest; those in `but` have one already, and deleted ones need none.
async fn failures(ctx: &Context<'_>, scope: TenantScope, but: &[SubscriptionId]) -> Result<Vec<Alert>> {
    let filter = projections::DeliveryFilter {
        statuses: vec![DeliveryStatus::Failed],
        ..projections::DeliveryFilter::default()
    };
    let now = state(ctx).clock.now();
    let recent = |at: Timestamp| now.ms_since(at) < RECENT_MS;
    let mut failed: HashMap<SubscriptionId, (u64, Timestamp)> = HashMap::new();
    let mut page = Page::first(FAILURES);
    // Those that were made good since are none, and hide no others behind them.
    for _ in 0..PAGES_OF_FAILURES {
        let found = state(ctx).read_models.deliveries(scope, &filter, &page).await.map_err(|error| internal(&error))?;
        let ids: Vec<_> = found.rows.iter().map(|(_, row)| row.id).collect();
        let made_good = state(ctx).read_models.delivered_since(scope, &ids).await.map_err(|error| internal(&error))?;
        for (_, row) in found.rows.iter().filter(|(_, row)| !made_good.contains(&row.id)) {
            let Some(at) = row.completed_at.filter(|at| recent(*at)) else { continue };
            let (count, since) = failed.entry(row.subscription).or_insert((0, at));
            *count += 1;
            *since = at.min(*since);
        }
        let Some((last, row)) = found.rows.into_iter().next_back() else { break };
        if !failed.is_empty() || !found.has_more || !row.completed_at.is_some_and(recent) {
            break;
        }
        page.after = Some(last);
    }
    let there = load_all(ctx, failed.keys().map(|id| (scope.0, *id))).await?;
    failed.retain(|id, _| there.contains_key(&(scope.0, *id)) && !but.contains(id));
    let alert = |(id, (count, since))| Alert {
        kind: AlertKind::DeliveriesFailed,
        since: Some(since),
        message: format!("{count} of the deliveries that failed last were to this webhook"),
        subscription: Some(id),
        scope,
    };
    Ok(failed.into_iter().map(alert).collect())
}

/// `None` if it is of somebody else.
async fn quarantined(ctx: &Context<'_>, scope: TenantScope, held: Quarantined) -> Result<Option<Alert>> {
    let stream = &held.event.stream;
    // Ids of both kinds have one form: the name of the stream's category tells them apart.
    let of_subscription = [execute::SUBSCRIPTION_CATEGORY, execute::DELIVERIES_CATEGORY]
        .iter()
        .any(|category| stream.split('-').next() == Some(category));
    let subscription = execute::subscription_of(stream).filter(|_| of_subscription);
    let ours = match subscription {
        Some(id) => load(ctx, (scope.0, id)).await?.is_some(),
        None => execute::tenant_of(stream) == Some(scope.0),
    };
    let (kind, message) = match held.held {
        actors::Held::Subscription => (AlertKind::WebhookHeld, "an event of this webhook cannot be read"),
        actors::Held::Matching => (AlertKind::MessagesHeld, "an event cannot be read, and messages wait for it"),
        actors::Held::Tenant => (AlertKind::TenantHeld, "an event of the tenant cannot be read"),
    };
    let message = message.to_owned();
    Ok(ours.then_some(Alert { kind, since: Some(held.since), message, subscription, scope }))
}
