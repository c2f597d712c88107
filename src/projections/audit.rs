//! The audit log: a row for every change of a tenant or a subscription, none for a delivery (S30).
//!
//! Each row says who did what to whom, when and from where, and what it was before. Secrets are in no event, and so in
//! no row; of a URL the query is masked, for receivers put tokens there.

use std::collections::{BTreeSet, HashMap, HashSet};
use std::num::NonZeroUsize;
use std::sync::LazyLock;

use async_trait::async_trait;
use lru::LruCache;
use serde::Serialize;
use serde_json::{Map, Value, json};
use sqlx::SqliteConnection;
use sqlx::sqlite::SqliteRow;

use super::columns::{Columns, bytes, damaged, id_list, integer, json_text, packed};
use super::page::{List, Order, Query, Range, WALK, list};
use super::projection::{ApplyError, Projection, Readable, Source};
use super::rows::AuditRow;
use super::statement::ManyRows;
use super::{Page, QueryError, ReadModels, Slice, TenantScope};
use crate::domain::audit::{Code, masked_url};
use crate::domain::event::{Change, ConfigChanged, Event, Occasion, SubscriptionEvent, TenantEvent};
use crate::domain::header::SealedHeaders;
use crate::domain::id::{RequestId, SubscriptionId, TenantId};
use crate::domain::notice::SealedRecipients;
use crate::domain::time::Timestamp;
use crate::event_store::{Position, Recorded};
use crate::execute::{self, ActorKind, DELIVERIES_CATEGORY, MESSAGES_CATEGORY, Meta};

/// Subscriptions whose tenant is remembered.
const REMEMBERED_SUBSCRIPTIONS: NonZeroUsize = NonZeroUsize::new(4_096).expect("not zero");

static INSERT: LazyLock<ManyRows> = LazyLock::new(|| {
    ManyRows::new(
        "INSERT INTO audit (position, tenant, code, at_ms, actor_kind, actor_id, target, request, ip, acr, \
         authenticated_at_ms, changes) VALUES ",
        "(?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
        "",
    )
});

static INSERT_SUBSCRIPTIONS: LazyLock<ManyRows> =
    LazyLock::new(|| ManyRows::new("INSERT INTO audit_subscription (id, tenant) VALUES ", "(?, ?)", ""));

pub(super) const OWNERS: &str =
    "SELECT id, tenant FROM audit_subscription WHERE id IN (SELECT unhex(value) FROM json_each($1))";

/// The projection.
pub(super) struct Audit {
    owners: LruCache<SubscriptionId, TenantId>,
}

impl Audit {
    pub(super) fn new() -> Self {
        Self { owners: LruCache::new(REMEMBERED_SUBSCRIPTIONS) }
    }

    /// Whose the subscriptions are that the events tell of: those created among them, and those that the table has.
    async fn owners(
        &mut self,
        connection: &mut SqliteConnection,
        events: &[Readable],
    ) -> Result<HashMap<SubscriptionId, TenantId>, sqlx::Error> {
        let mut known = HashMap::new();
        let mut unknown = HashSet::new();
        for Readable { recorded, event } in events {
            if let Event::Subscription(SubscriptionEvent::Created(created)) = event {
                known.insert(created.subscription, created.tenant);
            } else if let Some(id) = execute::subscription_of(&recorded.stream) {
                match self.owners.get(&id) {
                    Some(tenant) => drop(known.insert(id, *tenant)),
                    None => drop(unknown.insert(id)),
                }
            }
        }
        unknown.retain(|id| !known.contains_key(id));
        if !unknown.is_empty() {
            let query = sqlx::query(OWNERS).bind(id_list(unknown));
            for row in query.fetch_all(connection).await? {
                let mut columns = Columns::of(&row);
                known.insert(columns.id()?, columns.id()?);
            }
        }
        for (id, tenant) in &known {
            self.owners.put(*id, *tenant);
        }
        Ok(known)
    }
}

#[async_trait]
impl Projection for Audit {
    fn concerns(&self, kind: &str) -> bool {
        !["delivery.", "deliveries.", "message.", "messages."].iter().any(|family| kind.starts_with(family))
    }

    fn concerns_category(&self, category: &str) -> bool {
        ![DELIVERIES_CATEGORY, MESSAGES_CATEGORY].contains(&category)
    }

    async fn apply(
        &mut self,
        connection: &mut SqliteConnection,
        _source: Source<'_>,
        events: Vec<Readable>,
    ) -> Result<(), ApplyError> {
        let owners = self.owners(connection, &events).await?;
        let mut rows = Vec::new();
        let mut created = Vec::new();
        for Readable { recorded, event } in &events {
            rows.extend(row(recorded, event, &owners)?);
            if let Event::Subscription(SubscriptionEvent::Created(event)) = event {
                created.push((event.subscription, event.tenant));
            }
        }
        INSERT_SUBSCRIPTIONS
            .write(connection, created.into_iter(), |values, (id, tenant)| {
                values.id(id)?;
                values.id(tenant)
            })
            .await?;
        INSERT
            .write(connection, rows.into_iter(), |values, row| {
                values.position(row.position)?;
                values.id(row.tenant)?;
                values.add(row.code)?;
                values.add(row.at.as_ms())?;
                values.add(row.actor_kind)?;
                values.add(row.actor_id)?;
                values.add(row.target)?;
                values.add(row.request)?;
                values.add(row.ip)?;
                values.add(row.acr)?;
                values.add(row.authenticated_at.map(Timestamp::as_ms))?;
                values.add(json_text(&row.changes))
            })
            .await?;
        Ok(())
    }
}

/// The row that the event makes.
fn row(
    recorded: &Recorded,
    event: &Event,
    owners: &HashMap<SubscriptionId, TenantId>,
) -> Result<Option<AuditRow>, ApplyError> {
    let (tenant, target, (code, changes)) = match event {
        Event::Message(_) | Event::Delivery(_) => return Ok(None),
        // How far it has looked without finding anything is nobody's business.
        Event::Tenant(TenantEvent::ErasureAdvanced(advanced)) if advanced.messages == 0 => return Ok(None),
        Event::Tenant(event) => {
            let tenant = execute::tenant_of(&recorded.stream)
                .ok_or_else(|| ApplyError::event(recorded, "its stream is no tenant's"))?;
            (tenant, tenant_target(tenant, event), tenant_changes(event))
        }
        Event::Subscription(event) => {
            let id = execute::subscription_of(&recorded.stream)
                .ok_or_else(|| ApplyError::event(recorded, "its stream is no subscription's"))?;
            let tenant = *owners.get(&id).ok_or_else(|| ApplyError::event(recorded, "nobody owns its subscription"))?;
            (tenant, id.to_string(), subscription_changes(event))
        }
    };
    let meta = match &recorded.meta {
        Some(meta) => serde_json::from_str(meta).map_err(|error| ApplyError::event(recorded, error))?,
        None => Meta::system(),
    };
    Ok(Some(AuditRow {
        tenant,
        position: recorded.position,
        code: code.as_str(),
        at: recorded.at,
        actor_kind: actor_kind(meta.actor.kind).to_owned(),
        actor_id: meta.actor.id,
        target,
        request: meta.request.as_ref().map(RequestId::to_string),
        ip: meta.ip,
        acr: meta.acr,
        authenticated_at: meta.authenticated_at,
        changes: Value::Object(changes.0),
    }))
}

/// Beside each field its value before and after.
#[derive(Default)]
struct Changes(Map<String, Value>);

impl Changes {
    /// From nothing.
    fn to(self, field: &str, to: impl Serialize) -> Self {
        self.changed(field, Value::Null, to)
    }

    fn changed(mut self, field: &str, from: impl Serialize, to: impl Serialize) -> Self {
        self.0.insert(field.to_owned(), json!({ "from": from, "to": to }));
        self
    }

    fn change<T: Serialize>(self, field: &str, change: Option<&Change<T>>) -> Self {
        match change {
            Some(change) => self.changed(field, &change.from, &change.to),
            None => self,
        }
    }
}

fn tenant_target(tenant: TenantId, event: &TenantEvent) -> String {
    match event {
        TenantEvent::Created(_) => tenant.to_string(),
        TenantEvent::EventTypeRegistered(registered) => registered.name.to_string(),
        TenantEvent::EventTypeUpdated(updated) => updated.name.to_string(),
        TenantEvent::ApiKeyIssued(issued) => issued.key.to_string(),
        TenantEvent::ApiKeyRevoked(revoked) => revoked.key.to_string(),
        TenantEvent::SettingsChanged(_) => tenant.to_string(),
        TenantEvent::UserAdded(added) => added.user.to_string(),
        TenantEvent::UserCredentialsReset(reset) => reset.user.to_string(),
        TenantEvent::UserDisabled(disabled) => disabled.user.to_string(),
        TenantEvent::UserAuthenticationFailed(failed) => failed.user.to_string(),
        TenantEvent::ConfigChanged(changed) => changed.section.clone(),
        TenantEvent::ErasureStarted(started) => started.erasure.to_string(),
        TenantEvent::ErasureAdvanced(advanced) => advanced.erasure.to_string(),
        TenantEvent::ErasureCompleted(completed) => completed.erasure.to_string(),
        TenantEvent::KekRotated(rotated) => rotated.to.clone(),
    }
}

fn tenant_changes(event: &TenantEvent) -> (Code, Changes) {
    let none = Changes::default();
    match event {
        TenantEvent::Created(created) => {
            let changes = none.to("name", &created.name).to("slug", &created.slug).to("profile", &created.profile);
            (Code::TenantCreated, changes)
        }
        // Schemas and samples are too long to be told: another schema is another version, and of a sample its size is told.
        TenantEvent::EventTypeRegistered(registered) => {
            let changes = none
                .to("category", &registered.category)
                .to("description", &registered.description)
                .to("version", &registered.version);
            (Code::EventTypeRegistered, changes)
        }
        TenantEvent::EventTypeUpdated(updated) => {
            let changes = none
                .change("category", updated.category.as_ref())
                .change("description", updated.description.as_ref())
                .change("version", updated.version.as_ref())
                .change("deprecation_reason", updated.deprecation_reason.as_ref());
            let changes = match &updated.example {
                Some(example) => changes.to("example", json!({ "sizeBytes": example.to_string().len() })),
                None => changes,
            };
            (Code::EventTypeUpdated, changes)
        }
        TenantEvent::ApiKeyIssued(issued) => {
            let expires_at = issued.expires_at.map(|at| at.to_rfc3339_ms());
            let changes = none.to("name", &issued.name).to("scopes", &issued.scopes).to("expires_at", expires_at);
            (Code::ApiKeyCreated, changes)
        }
        TenantEvent::ApiKeyRevoked(_) => (Code::ApiKeyRevoked, none),
        TenantEvent::SettingsChanged(changed) => {
            (Code::TenantSettingsChanged, none.change("unattended_keys", changed.unattended_keys.as_ref()))
        }
        TenantEvent::UserAdded(added) => (Code::UserAdded, none.to("name", &added.name).to("scopes", &added.scopes)),
        TenantEvent::UserCredentialsReset(_) => (Code::UserCredentialsReset, none),
        TenantEvent::UserDisabled(_) => (Code::UserDisabled, none),
        TenantEvent::UserAuthenticationFailed(failed) => match failed.occasion {
            Occasion::Login => (Code::LoginFailed, none),
            Occasion::StepUp => (Code::StepUpFailed, none),
        },
        TenantEvent::ConfigChanged(changed) => (Code::SystemConfigChanged, config_changes(changed)),
        TenantEvent::ErasureStarted(started) => {
            // Ids, and words of whoever did it: what the data held stands nowhere.
            (Code::PayloadErased, none.to("scope", &started.scope).to("reason", &started.reason))
        }
        TenantEvent::ErasureAdvanced(advanced) => {
            (Code::PayloadErased, none.to("messages", advanced.messages).to("size_bytes", advanced.size_bytes))
        }
        TenantEvent::ErasureCompleted(completed) => {
            let changes = none
                .to("messages", completed.messages)
                .to("size_bytes", completed.size_bytes)
                .to("webhooks", completed.webhooks)
                .to("secrets", completed.secrets);
            (Code::ErasureCompleted, changes)
        }
        TenantEvent::KekRotated(rotated) => (Code::SystemKekRotated, none.changed("key", &rotated.from, &rotated.to)),
    }
}

/// The keys whose values differ.
fn config_changes(changed: &ConfigChanged) -> Changes {
    let keys: BTreeSet<_> = changed.from.keys().chain(changed.to.keys()).collect();
    let values = |key: &str| (changed.from.get(key), changed.to.get(key));
    keys.into_iter().filter(|key| values(key).0 != values(key).1).fold(Changes::default(), |changes, key| {
        let (from, to) = values(key);
        changes.changed(key, from, to)
    })
}

/// What may be told of a change of something sealed.
fn told<T>(change: Option<&Change<Option<T>>>, tell: impl Fn(&T) -> Value) -> Option<Change<Option<Value>>> {
    change.map(|change| Change { from: change.from.as_ref().map(&tell), to: change.to.as_ref().map(&tell) })
}

fn subscription_changes(event: &SubscriptionEvent) -> (Code, Changes) {
    let none = Changes::default();
    match event {
        SubscriptionEvent::Created(created) => {
            let changes = none
                .to("url", masked_url(&created.url))
                .to("description", &created.description)
                .to("filters", &created.filters)
                .to("enabled", created.enabled)
                .to("profile", &created.profile);
            let changes = match created.rate_limit_per_s {
                Some(per_s) => changes.to("rate_limit_per_s", per_s),
                None => changes,
            };
            let changes = if created.ordered { changes.to("ordered", true) } else { changes };
            let changes = match &created.headers {
                Some(headers) => changes.to("headers", headers.told()),
                None => changes,
            };
            let changes = match &created.retry_policy {
                Some(policy) => changes.to("retry_policy", policy),
                None => changes,
            };
            let changes = match &created.recipients {
                Some(recipients) => changes.to("notification_emails", recipients.told()),
                None => changes,
            };
            (Code::WebhookCreated, changes)
        }
        SubscriptionEvent::Updated(updated) => {
            let url = updated.url.as_ref().map(|url| Change { from: masked_url(&url.from), to: masked_url(&url.to) });
            let headers = told(updated.headers.as_ref(), SealedHeaders::told);
            let recipients = told(updated.recipients.as_ref(), SealedRecipients::told);
            let changes = none
                .change("url", url.as_ref())
                .change("description", updated.description.as_ref())
                .change("filters", updated.filters.as_ref())
                .change("rate_limit_per_s", updated.rate_limit_per_s.as_ref())
                .change("ordered", updated.ordered.as_ref())
                .change("headers", headers.as_ref())
                .change("retry_policy", updated.retry_policy.as_ref())
                .change("notification_emails", recipients.as_ref());
            (Code::WebhookUpdated, changes)
        }
        SubscriptionEvent::Enabled(_) => (Code::WebhookEnabled, none.changed("enabled", false, true)),
        SubscriptionEvent::Disabled(disabled) => {
            let changes = none.changed("enabled", true, false).to("reason", &disabled.reason);
            let changes = if disabled.cause.is_some() { changes.to("cause", disabled.cause) } else { changes };
            (Code::WebhookDisabled, changes)
        }
        SubscriptionEvent::HoldChanged(changed) => {
            let until = changed.until.map(|at| at.to_rfc3339_ms());
            (Code::WebhookHoldChanged, none.to("hold_until", until).to("reason", &changed.reason))
        }
        SubscriptionEvent::SecretRotated(rotated) => {
            let retires_at = rotated.previous_retires_at.map(|at| at.to_rfc3339_ms());
            let changes = none
                .changed("secret_version", rotated.version.saturating_sub(1), rotated.version)
                .to("previous_retires_at", retires_at);
            (Code::WebhookSecretRotated, changes)
        }
        SubscriptionEvent::TestSent(sent) => {
            let changes = none
                .to("event_type", &sent.event_type)
                .to("verified", sent.verified)
                .to("status", sent.status)
                .to("failure", sent.failure)
                .to("latency_ms", sent.latency_ms);
            (Code::WebhookTestSent, changes)
        }
        SubscriptionEvent::RedeliveryRequested(requested) => {
            let changes =
                none.changed("delivery", requested.original, requested.delivery).to("message", requested.message);
            (Code::WebhookRedelivered, changes)
        }
        SubscriptionEvent::RescheduleRequested(requested) => {
            let (from, to) = (requested.from.to_rfc3339_ms(), requested.to.to_rfc3339_ms());
            let changes = none.to("delivery", requested.delivery).changed("due_at", from, to);
            (Code::DeliveryRescheduled, changes.to("reason", &requested.reason))
        }
        SubscriptionEvent::CancellationRequested(requested) => {
            let changes = none.to("delivery", requested.delivery).to("reason", &requested.reason);
            (Code::DeliveryCancelled, changes)
        }
        SubscriptionEvent::JobStarted(started) => {
            let changes = none
                .to("job", started.job)
                .to("selection", &started.selection)
                .to("rate_per_s", started.rate_per_s)
                .to("total", started.total);
            (Code::WebhookJobStarted, changes)
        }
        SubscriptionEvent::JobEnded(ended) => {
            let changes = none
                .to("job", ended.job)
                .to("outcome", ended.outcome)
                .to("scheduled", ended.scheduled)
                .to("passed_over", ended.passed_over);
            (Code::WebhookJobEnded, changes)
        }
        SubscriptionEvent::CircuitTripped(tripped) => {
            let probe_at = tripped.probe_at.map(|at| at.to_rfc3339_ms());
            let changes = none
                .to("cause", tripped.cause)
                .to("failures", tripped.failures)
                .to("delivery", tripped.delivery)
                .to("failure", tripped.code)
                .to("detail", &tripped.detail)
                .to("probe_at", probe_at);
            (Code::WebhookCircuitTripped, changes)
        }
        SubscriptionEvent::CircuitReenabled(reenabled) => {
            let changes = none
                .to("mode", reenabled.mode)
                .to("cancelled", reenabled.cancelled)
                .to("skipped_through", reenabled.skipped_through)
                .to("lost_through", reenabled.lost_through);
            (Code::WebhookCircuitReenabled, changes)
        }
        SubscriptionEvent::CircuitProbing(probing) => {
            (Code::WebhookCircuitProbing, none.to("lost_through", probing.lost_through))
        }
        SubscriptionEvent::MatchesLost(lost) => (Code::WebhookMatchesLost, none.to("lost_through", lost.through)),
        SubscriptionEvent::EgressBlocked(blocked) => {
            let changes = none.to("delivery", blocked.delivery).to("detail", &blocked.detail);
            (Code::WebhookEgressBlocked, changes)
        }
        SubscriptionEvent::CircuitClosed(_) => (Code::WebhookCircuitClosed, none),
        SubscriptionEvent::Deleted(deleted) => (Code::WebhookDeleted, none.to("cancelled", deleted.cancelled)),
        SubscriptionEvent::Restored(_) => (Code::WebhookRestored, none),
        SubscriptionEvent::SecretsDestroyed(_) => (Code::WebhookSecretsDestroyed, none),
    }
}

fn actor_kind(kind: ActorKind) -> &'static str {
    match kind {
        ActorKind::User => "user",
        ActorKind::ApiKey => "api_key",
        ActorKind::System => "system",
    }
}

/// Which rows are wanted.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct AuditFilter {
    /// Only those with one of these codes; all if it is empty.
    pub codes: Vec<String>,
    /// Only those about the thing with this id.
    pub target: Option<String>,
    /// Only those done by the actor with this id.
    pub actor: Option<String>,
    /// Only those recorded behind the first position, up to the second one.
    pub recorded: Option<(Position, Position)>,
}

impl AuditFilter {
    /// Whether it has conditions that no index answers: of target, actor and codes one is answered.
    fn walks(&self) -> bool {
        [self.target.is_some(), self.actor.is_some(), !self.codes.is_empty()].into_iter().filter(|has| *has).count() > 1
    }
}

macro_rules! select {
    () => {
        "SELECT position, tenant, code, at_ms, actor_kind, actor_id, target, request, ip, acr, \
         authenticated_at_ms, changes FROM audit"
    };
}

// A plus sign keeps a condition from choosing the index.
pub(super) const BY_POSITION: &str = concat!(select!(), " WHERE position = $1 AND +tenant = $2");

pub(super) const ALL: List = list!(select!(), "tenant = $4", "position");

pub(super) const OF_CODE: List =
    list!(concat!(select!(), " INDEXED BY audit_by_code"), "tenant = $4 AND code = $5", "position");

pub(super) const OF_TARGET: List = list!(
    concat!(select!(), " INDEXED BY audit_by_target"),
    "tenant = $4 AND target = $6",
    " AND ($5 IS NULL OR code IN (SELECT value FROM json_each($5))) AND ($7 IS NULL OR actor_id = $7)",
    "position"
);

pub(super) const OF_ACTOR: List = list!(
    concat!(select!(), " INDEXED BY audit_by_actor"),
    "tenant = $4 AND actor_id = $7",
    " AND ($5 IS NULL OR code IN (SELECT value FROM json_each($5)))",
    "position"
);

impl ReadModels {
    /// Rows of the audit log, the newest first.
    pub async fn audit(
        &self,
        scope: TenantScope,
        filter: &AuditFilter,
        page: &Page,
    ) -> Result<Slice<AuditRow>, QueryError> {
        let range = Range::of(page, Order::Descending);
        let mut range = match filter.recorded {
            Some(positions) => range.within(positions),
            None => range,
        };
        // One snapshot for all: a reader that goes on from the newest row it saw must not have missed an older one.
        let mut snapshot = self.inner.database.readers.begin().await?;
        if filter.walks() {
            let walk = range.end_of_walk(narrowest(filter), WALK).bind(bytes(scope.0));
            range.walk(&mut snapshot, [bind(walk, filter)]).await?;
        }
        let mut slices = Vec::new();
        for query in queries(&range, scope, filter) {
            slices.push(range.fetch(&mut *snapshot, query, audit_row).await?);
        }
        snapshot.rollback().await?;
        Ok(range.merge(slices))
    }

    /// The row of the event at the position.
    pub async fn audit_entry(&self, scope: TenantScope, position: Position) -> Result<Option<AuditRow>, QueryError> {
        let query = sqlx::query(BY_POSITION).bind(integer(packed(position))).bind(bytes(scope.0));
        let found = query.fetch_optional(&self.inner.database.readers).await?;
        Ok(found.as_ref().map(audit_row).transpose()?.map(|(_, row)| row))
    }
}

/// The list whose index answers a condition of the filter: the one that is likely to pick least.
fn narrowest(filter: &AuditFilter) -> &'static List {
    match (&filter.target, &filter.actor) {
        (Some(_), _) => &OF_TARGET,
        (None, Some(_)) => &OF_ACTOR,
        (None, None) => &ALL,
    }
}

/// Adds the values from `$5` on.
fn bind(query: Query, filter: &AuditFilter) -> Query {
    let codes = (!filter.codes.is_empty()).then(|| json_text(&filter.codes));
    query.bind(codes).bind(filter.target.clone()).bind(filter.actor.clone())
}

/// One statement for each code where an index answers them, since the rows of one code are a range of it.
fn queries(range: &Range, scope: TenantScope, filter: &AuditFilter) -> Vec<Query> {
    let scoped = |list: &List| range.query(list).bind(bytes(scope.0));
    if filter.target.is_some() || filter.actor.is_some() {
        return vec![bind(scoped(narrowest(filter)), filter)];
    }
    if filter.codes.is_empty() {
        return vec![scoped(&ALL)];
    }
    let codes: HashSet<Code> = filter.codes.iter().filter_map(|code| Code::parse(code)).collect();
    codes.into_iter().map(|code| scoped(&OF_CODE).bind(code.as_str())).collect()
}

fn audit_row(row: &SqliteRow) -> Result<(Position, AuditRow), sqlx::Error> {
    let mut columns = Columns::of(row);
    let position = columns.position()?;
    let tenant = columns.id()?;
    let code: &str = columns.get()?;
    let code = Code::parse(code).ok_or_else(|| damaged(format!("'{code}' is no code of the audit log")))?;
    let row = AuditRow {
        tenant,
        position,
        code: code.as_str(),
        at: columns.time()?,
        actor_kind: columns.get()?,
        actor_id: columns.get()?,
        target: columns.get()?,
        request: columns.get()?,
        ip: columns.get()?,
        acr: columns.get()?,
        authenticated_at: columns.optional_time()?,
        changes: columns.json()?,
    };
    Ok((position, row))
}
