//! Webhooks: what everything but the API calls subscriptions.

use async_graphql::{Context, Enum, ID, InputObject, Object, Result, SimpleObject};

use super::access::Tenant;
use super::caller::{authorise, own_tenant};
use super::circuit::{Circuit, CircuitState};
use super::delivery::{self, Delivery, DeliveryFilter, DeliveryStatusFilter};
use super::event_type::{self, EventType, EventTypeFilter};
use super::failure::{fault, internal, nullable};
use super::header::{self, WebhookHeader};
use super::job::{self, WebhookJob};
use super::loader::{CatalogueOf, load};
use super::page::{Connection, List, PageArgs, cost, items};
use super::profile::DeliveryProfile;
use super::retry_policy::RetryPolicy;
use super::scalar::{DateTime, int};
use super::snapshot::{self, FOLD_COST, WebhookSnapshot};
use super::state;
use super::statistics::{self, DeliveryCounts, DeliveryStats, STATS_COST, StatsWindow, WebhookHealth};
use super::timers::{self, WebhookTimers};
use crate::domain::circuit;
use crate::domain::filter::{self, narrow_star_hint};
use crate::domain::id::SubscriptionId;
use crate::domain::scope::Scope;
use crate::domain::subscription::KnownSecret;
use crate::domain::suggestion;
use crate::error_code::ErrorCode;
use crate::projections::rows::{SecretRow, WebhookRow};
use crate::projections::{self, TenantScope};

/// Picks webhooks; all conditions must hold. With `search`, `matchesEvent`, or `enabled` beside `circuitStates`, a page may
/// end early: see `PageInfo`.
#[derive(Clone, Debug, Default, InputObject)]
pub(super) struct WebhookFilter {
    /// Part of the URL or the description.
    pub(super) search: Option<String>,
    /// Whether it sends.
    pub(super) enabled: Option<bool>,
    /// Whose circuit breaker stands so; empty or absent: however it stands.
    pub(super) circuit_states: Option<Vec<CircuitState>>,
    /// Whose filters pick this event type.
    pub(super) matches_event: Option<String>,
}

/// What webhooks are ordered by.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Enum)]
#[graphql(remote = "projections::WebhookOrderField")]
pub(super) enum WebhookOrderField {
    /// When they were created.
    CreatedAt,
    /// Their URL, letter by letter.
    Url,
    /// When a delivery last succeeded or an attempt last failed; those without any come before all others.
    LastDeliveryAt,
}

/// Which way a list goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Enum)]
pub(super) enum OrderDirection {
    /// From the smallest or the oldest.
    Asc,
    /// From the largest or the newest.
    Desc,
}

/// How webhooks are ordered. By anything but `CREATED_AT` only for tenants with at most 2,000 webhooks; otherwise the list
/// fails with `LIMIT_EXCEEDED`.
#[derive(Clone, Copy, Debug, InputObject)]
pub(super) struct WebhookOrder {
    /// By what.
    field: WebhookOrderField,
    /// Which way.
    direction: OrderDirection,
}

impl Default for WebhookOrder {
    fn default() -> Self {
        Self { field: WebhookOrderField::CreatedAt, direction: OrderDirection::Desc }
    }
}

/// Numbers for a tenant's overview.
#[derive(SimpleObject)]
pub(super) struct WebhookSummary {
    /// Webhooks in all.
    pub(super) total: i32,
    /// Webhooks that send.
    pub(super) active: i32,
    /// Webhooks that do not.
    pub(super) inactive: i32,
    /// Webhooks whose circuit breaker is open, active ones and others: nothing is sent to them.
    pub(super) circuit_open: i32,
    /// Event types that can be published: those that every tenant has, and its own.
    pub(super) event_types: i32,
}

/// What may be known of a signing secret: never the secret.
#[derive(SimpleObject)]
pub(super) struct WebhookSecret {
    /// From 1; grows with every rotation.
    version: u32,
    /// A short name by which secrets can be told apart.
    fingerprint: String,
    /// The Ed25519 key, `whpk_…`, by which receivers verify; null where they share the secret.
    public_key: Option<String>,
    /// Since when it signs.
    created_at: DateTime,
    /// Until when it signs beside its successor; null for the current one.
    valid_until: Option<DateTime>,
}

impl From<&KnownSecret> for WebhookSecret {
    fn from(known: &KnownSecret) -> Self {
        Self {
            version: known.version,
            fingerprint: known.fingerprint.clone(),
            public_key: known.public_key.clone(),
            created_at: known.created_at.into(),
            valid_until: known.retires_at.map(DateTime),
        }
    }
}

/// A filter that may be narrower than it was meant.
#[derive(SimpleObject)]
pub(super) struct FilterHint {
    /// The filter, which ends in `*`: exactly one more segment.
    filter: String,
    /// The same with `**`, which takes in any number of further segments and so picks more event types.
    suggestion: String,
    /// The event types that it misses.
    missed_event_types: Vec<String>,
}

/// A filter that picks no event type of the catalogue.
#[derive(SimpleObject)]
pub(super) struct UnmatchedFilter {
    /// The filter: misspelt, or for event types that are not registered yet.
    filter: String,
    /// Filters next to it that do pick some, the nearest first, at most 3.
    did_you_mean: Vec<String>,
}

pub(super) struct Webhook(pub(super) WebhookRow);

/// Where messages are sent, and which.
#[Object]
impl Webhook {
    /// `wh_…`
    pub(super) async fn id(&self) -> ID {
        self.0.id.into()
    }

    /// Where it sends.
    async fn url(&self) -> &str {
        &self.0.url
    }

    /// What it is for, at most 200 characters.
    async fn description(&self) -> Option<&str> {
        self.0.description.as_deref()
    }

    /// Which messages it sends: event types, or patterns in which `*` is one segment and `**` any number. One match is
    /// enough; none at all sends nothing.
    async fn event_filters(&self) -> Vec<&str> {
        self.0.filters.iter().map(filter::Filter::as_str).collect()
    }

    /// Whether it sends.
    async fn enabled(&self) -> bool {
        self.0.enabled
    }

    /// Its circuit breaker: whether the endpoint is called at all.
    async fn circuit(&self) -> Circuit<'_> {
        Circuit(&self.0)
    }

    /// How many attempts it makes in a second at most, retries included, evenly spread; null: without a limit of its own.
    /// What is over it is sent later, never dropped.
    async fn rate_limit_per_second(&self) -> Option<i32> {
        self.0.rate_limit_per_s.map(|per_s| int(per_s.into()))
    }

    /// Whether each delivery waits for the end of the one before, in the order of the messages: one attempt at a time.
    async fn ordered(&self) -> bool {
        self.0.ordered
    }

    /// Headers that it sends beside those of its profile, without their values.
    async fn headers(&self) -> Vec<WebhookHeader> {
        header::shown(self.0.headers.as_ref())
    }

    /// By which rules it judges its attempts and makes them again: its profile's, or its own in their place. Null only where
    /// `deliveryProfile` is.
    async fn retry_policy(&self) -> Option<RetryPolicy> {
        RetryPolicy::of(&self.0.profile, self.0.retry_policy.as_ref()).ok()
    }

    /// Who is told by e-mail of what its profile says (`notices`), if the server sends any; null, with an error, if
    /// they cannot be opened. Needs the scope `WEBHOOKS_READ`.
    #[graphql(complexity = "2")]
    async fn notification_emails(&self, ctx: &Context<'_>) -> Option<Result<Vec<String>>> {
        nullable(async {
            authorise(ctx, Scope::WebhooksRead)?;
            let Some(sealed) = &self.0.recipients else { return Ok(Some(vec![])) };
            let found = state(ctx).engine.recipients(self.0.tenant, self.0.id, sealed).await;
            let recipients = found.map_err(|error| internal(&error))?;
            Ok(Some(recipients.addresses().iter().map(|address| address.expose().to_owned()).collect()))
        })
        .await
    }

    /// Nothing is sent before this (`holdWebhook`); null: it does not pause.
    async fn hold_until(&self) -> Option<DateTime> {
        self.0.hold_until.map(DateTime)
    }

    /// Name of its delivery profile.
    async fn profile(&self) -> &str {
        &self.0.profile
    }

    /// Grows with every change, from 1; for `expectedVersion`.
    async fn version(&self) -> i32 {
        int(self.0.revision)
    }

    /// When it was created.
    async fn created_at(&self) -> DateTime {
        self.0.created_at.into()
    }

    /// When it last changed.
    async fn updated_at(&self) -> DateTime {
        self.0.updated_at.into()
    }

    /// When a delivery last succeeded or an attempt last failed; null before the first. Tests do not count.
    async fn last_delivery_at(&self) -> Option<DateTime> {
        self.0.last_delivery_at.map(DateTime)
    }

    /// How well its deliveries go, in a word.
    #[graphql(complexity = "2")]
    async fn health(&self, ctx: &Context<'_>) -> Option<Result<WebhookHealth>> {
        nullable(async { statistics::health(ctx, &self.0).await.map(Some) }).await
    }

    /// How many of its deliveries stand how.
    #[graphql(complexity = "2 + child_complexity")]
    async fn delivery_counts(&self, ctx: &Context<'_>) -> Option<Result<DeliveryCounts>> {
        nullable(async { statistics::counts(ctx, self.0.id).await.map(Some) }).await
    }

    /// What became of its deliveries in a window of time, with latencies.
    #[graphql(complexity = "STATS_COST + child_complexity")]
    async fn stats(
        &self,
        ctx: &Context<'_>,
        #[graphql(default_with = "StatsWindow::Last24Hours", desc = "How far back.")] window: StatsWindow,
    ) -> Option<Result<DeliveryStats>> {
        nullable(async {
            statistics::statistics(ctx, TenantScope(self.0.tenant), Some(self.0.id), window).await.map(Some)
        })
        .await
    }

    /// Whose it is.
    async fn tenant(&self, ctx: &Context<'_>) -> Option<Result<Tenant>> {
        nullable(async { Ok(load(ctx, self.0.tenant).await?.map(Tenant)) }).await
    }

    /// Its delivery profile: body, signatures, retries and rules.
    async fn delivery_profile(&self) -> Option<DeliveryProfile> {
        DeliveryProfile::find(&self.0.profile)
    }

    /// Its signing secrets, the current one first, without their text.
    async fn secrets(&self) -> Vec<WebhookSecret> {
        let secret = |row: &SecretRow| WebhookSecret {
            version: row.version,
            fingerprint: row.fingerprint.clone(),
            public_key: row.public_key.clone(),
            created_at: row.created_at.into(),
            valid_until: row.retires_at.map(DateTime),
        };
        self.0.secrets.iter().map(secret).collect()
    }

    /// Filters that pick fewer event types of the catalogue than they would with `**` at the end.
    #[graphql(complexity = "items(10, child_complexity)")]
    async fn filter_hints(&self, ctx: &Context<'_>) -> Option<Result<Vec<FilterHint>>> {
        nullable(async {
            let catalogue = load(ctx, CatalogueOf(self.0.tenant)).await?.unwrap_or_default();
            Ok(Some(hints(&self.0.filters, &catalogue)))
        })
        .await
    }

    /// Filters that pick no event type of the catalogue.
    #[graphql(complexity = "items(10, child_complexity)")]
    async fn unmatched_filters(&self, ctx: &Context<'_>) -> Option<Result<Vec<UnmatchedFilter>>> {
        nullable(async {
            let catalogue = load(ctx, CatalogueOf(self.0.tenant)).await?.unwrap_or_default();
            Ok(Some(unmatched(&self.0.filters, &catalogue)))
        })
        .await
    }

    /// Event types of the catalogue that its filters pick, by name.
    #[graphql(complexity = "cost(first, last, child_complexity)")]
    async fn matching_event_types(
        &self,
        ctx: &Context<'_>,
        #[graphql(desc = "How many from the beginning, 1 to 100; 20 if neither `first` nor `last` is given.")]
        first: Option<i32>,
        #[graphql(desc = "Only what follows this cursor.")] after: Option<String>,
        #[graphql(desc = "How many from the end, 1 to 100.")] last: Option<i32>,
        #[graphql(desc = "Only what precedes this cursor.")] before: Option<String>,
    ) -> Option<Result<Connection<EventType>>> {
        nullable(async {
            let filter = EventTypeFilter::matching(&self.0.filters);
            let page = PageArgs { first, after, last, before };
            event_type::list(ctx, self.0.tenant, filter, page).await.map(Some)
        })
        .await
    }

    /// Its deliveries, the newest first. Needs the scope `DELIVERIES_READ`.
    #[graphql(complexity = "cost(first, last, child_complexity)")]
    async fn deliveries(
        &self,
        ctx: &Context<'_>,
        #[graphql(desc = "Which of them.")] filter: Option<DeliveryStatusFilter>,
        #[graphql(desc = "How many from the beginning, 1 to 100; 20 if neither `first` nor `last` is given.")]
        first: Option<i32>,
        #[graphql(desc = "Only what follows this cursor.")] after: Option<String>,
        #[graphql(desc = "How many from the end, 1 to 100.")] last: Option<i32>,
        #[graphql(desc = "Only what precedes this cursor.")] before: Option<String>,
    ) -> Option<Result<Connection<Delivery>>> {
        nullable(async {
            authorise(ctx, Scope::DeliveriesRead)?;
            let filter = DeliveryFilter { webhook_id: Some(self.0.id.into()), ..filter.unwrap_or_default().into() };
            let page = PageArgs { first, after, last, before };
            delivery::list(ctx, TenantScope(self.0.tenant), filter, page).await.map(Some)
        })
        .await
    }

    /// What waits, until when and why, as of now. Needs the scope `DELIVERIES_READ`.
    #[graphql(complexity = "FOLD_COST + child_complexity")]
    async fn timers(&self, ctx: &Context<'_>) -> Option<Result<WebhookTimers>> {
        nullable(timers::find(ctx, &self.0)).await
    }

    /// The job that it has now; null if it has none. Needs the scope `DELIVERIES_READ`.
    #[graphql(complexity = "FOLD_COST + child_complexity")]
    async fn current_job(&self, ctx: &Context<'_>) -> Option<Result<WebhookJob>> {
        nullable(async {
            authorise(ctx, Scope::DeliveriesRead)?;
            job::current(ctx, self.0.tenant, self.0.id).await
        })
        .await
    }

    /// Its jobs, the newest first. Needs the scope `DELIVERIES_READ`.
    #[graphql(complexity = "FOLD_COST + cost(Some(first), None, child_complexity)")]
    async fn jobs(
        &self,
        ctx: &Context<'_>,
        #[graphql(default = 20, desc = "How many of them at most, 1 to 100.")] first: i32,
    ) -> Option<Result<Vec<WebhookJob>>> {
        nullable(async {
            authorise(ctx, Scope::DeliveriesRead)?;
            job::list(ctx, self.0.tenant, self.0.id, first).await.map(Some)
        })
        .await
    }

    /// Its versions, the newest first. Needs the scope `WEBHOOKS_READ`.
    #[graphql(complexity = "cost(first, last, child_complexity)")]
    async fn history(
        &self,
        ctx: &Context<'_>,
        #[graphql(desc = "How many from the beginning, 1 to 100; 20 if neither `first` nor `last` is given.")]
        first: Option<i32>,
        #[graphql(desc = "Only what follows this cursor.")] after: Option<String>,
        #[graphql(desc = "How many from the end, 1 to 100.")] last: Option<i32>,
        #[graphql(desc = "Only what precedes this cursor.")] before: Option<String>,
    ) -> Option<Result<Connection<WebhookSnapshot>>> {
        nullable(async {
            authorise(ctx, Scope::WebhooksRead)?;
            let page = PageArgs { first, after, last, before };
            snapshot::list(ctx, TenantScope(self.0.tenant), self.0.id, page).await
        })
        .await
    }
}

/// Those of the filters that may be narrower than they were meant.
pub(super) fn hints(filters: &[filter::Filter], catalogue: &[EventType]) -> Vec<FilterHint> {
    filters.iter().filter_map(|filter| hint(filter, catalogue)).collect()
}

/// Those of the filters that pick nothing of the catalogue.
pub(super) fn unmatched(filters: &[filter::Filter], catalogue: &[EventType]) -> Vec<UnmatchedFilter> {
    let names = || catalogue.iter().map(|event_type| &event_type.name);
    let nothing = filters.iter().filter(|filter| suggestion::picks_nothing(filter, names()));
    let told = |filter: &filter::Filter| UnmatchedFilter {
        filter: filter.to_string(),
        did_you_mean: suggestion::nearest(filter, names()).iter().map(ToString::to_string).collect(),
    };
    nothing.map(told).collect()
}

fn hint(filter: &filter::Filter, catalogue: &[EventType]) -> Option<FilterHint> {
    let wider = narrow_star_hint(filter, catalogue.iter().map(|event_type| &event_type.name))?;
    let missed = catalogue.iter().map(|event_type| &event_type.name);
    Some(FilterHint {
        filter: filter.to_string(),
        missed_event_types: missed
            .filter(|name| wider.matches(name) && !filter.matches(name))
            .map(ToString::to_string)
            .collect(),
        suggestion: wider.to_string(),
    })
}

impl Webhook {
    /// The caller's webhook of that id.
    pub(super) async fn find(ctx: &Context<'_>, id: &str) -> Result<Option<Self>> {
        let scope = own_tenant(ctx, Scope::WebhooksRead)?;
        let Ok(id) = id.parse::<SubscriptionId>() else { return Ok(None) };
        Self::read(ctx, scope, id).await
    }

    /// The webhook as the read model has it. The caller has checked the scope.
    pub(super) async fn read(ctx: &Context<'_>, scope: TenantScope, id: SubscriptionId) -> Result<Option<Self>> {
        let row = state(ctx).read_models.webhook(scope, id).await;
        Ok(row.map_err(|error| internal(&error))?.map(Self))
    }
}

/// The webhooks that are asked for. The caller has checked the scope.
pub(super) async fn list(
    ctx: &Context<'_>,
    scope: TenantScope,
    filter: WebhookFilter,
    order: WebhookOrder,
    page: PageArgs,
) -> Result<Connection<Webhook>> {
    let mut states: Vec<_> =
        filter.circuit_states.unwrap_or_default().into_iter().map(circuit::CircuitState::from).collect();
    states.sort_by_key(|state| *state as u8);
    states.dedup();
    let ordered = (order.field != WebhookOrderField::CreatedAt || order.direction != OrderDirection::Desc)
        .then(|| format!("{:?} {:?}", order.field, order.direction));
    let conditions = [
        ("search", filter.search.clone()),
        ("enabled", filter.enabled.map(|flag| flag.to_string())),
        ("circuits", (!states.is_empty()).then(|| format!("{states:?}"))),
        ("matches", filter.matches_event.clone()),
        ("order", ordered),
    ];
    let list = List::new(Some(scope.0), "webhooks", &conditions);
    let page = page.of(&list)?;
    let Ok(matches) = filter.matches_event.map(|name| filter::EventType::parse(&name)).transpose() else {
        return Ok(Connection::new(&list, &page, projections::Slice::empty(), Webhook));
    };
    let filter =
        projections::WebhookFilter { search: filter.search, enabled: filter.enabled, circuit_states: states, matches };
    let order =
        projections::WebhookOrder { field: order.field.into(), ascending: order.direction == OrderDirection::Asc };
    let found = state(ctx).read_models.webhooks(scope, &filter, order, &page).await;
    let slice = found.map_err(|error| internal(&error))?.ok_or_else(|| {
        fault(ErrorCode::LimitExceeded, "there are too many webhooks to be ordered so; order them by `CREATED_AT`")
    })?;
    Ok(Connection::new(&list, &page, slice, Webhook))
}

/// The tenant's numbers. The caller has checked the scope.
pub(super) async fn summary(ctx: &Context<'_>, scope: TenantScope) -> Result<WebhookSummary> {
    let counts = state(ctx).read_models.webhook_counts(scope).await.map_err(|error| internal(&error))?;
    let catalogue = load(ctx, CatalogueOf(scope.0)).await?.unwrap_or_default();
    Ok(WebhookSummary {
        total: int(counts.total),
        active: int(counts.active),
        inactive: int(counts.inactive),
        circuit_open: int(counts.circuit_open),
        event_types: int(catalogue.iter().filter(|event_type| !event_type.name.is_reserved()).count() as u64),
    })
}
