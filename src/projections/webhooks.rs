//! Subscriptions that are not deleted, by the name that the API has for them.

use std::collections::HashMap;
use std::sync::LazyLock;

use async_trait::async_trait;
use sqlx::SqliteConnection;
use sqlx::sqlite::SqliteRow;

use super::columns::{Columns, bytes, id_list, integer, json_text, packed};
use super::deleted_webhooks::{self, Aside};
use super::projection::{ApplyError, Projection, Readable, Source};
use super::rows::{CircuitRow, SecretRow, Trip, WebhookRow};
use super::statement::ManyRows;
use super::{QueryError, ReadModels, TenantScope};
use crate::domain::circuit::CircuitState;
use crate::domain::event::{
    CircuitTripped, Event, SecretRotated, SubscriptionCreated, SubscriptionEvent, SubscriptionUpdated,
};
use crate::domain::filter::{self, EventType};
use crate::domain::id::SubscriptionId;
use crate::domain::time::Timestamp;
use crate::event_store::{Position, Recorded};
use crate::execute::{self, SUBSCRIPTION_CATEGORY};

static PUT: LazyLock<ManyRows> = LazyLock::new(|| {
    ManyRows::new(
        "INSERT INTO webhook (position, id, tenant, profile, url, description, filters, enabled, revision, secrets, \
         circuit, circuit_state, created_at_ms, updated_at_ms, rate_limit_per_s, ordered, hold_until_ms, headers, \
         retry_policy, recipients) VALUES ",
        "(?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
        " ON CONFLICT (position) DO UPDATE SET url = excluded.url, description = excluded.description, \
         filters = excluded.filters, enabled = excluded.enabled, revision = excluded.revision, \
         secrets = excluded.secrets, circuit = excluded.circuit, \
         circuit_state = excluded.circuit_state, updated_at_ms = excluded.updated_at_ms, \
         rate_limit_per_s = excluded.rate_limit_per_s, ordered = excluded.ordered, \
         hold_until_ms = excluded.hold_until_ms, headers = excluded.headers, retry_policy = excluded.retry_policy, \
         recipients = excluded.recipients",
    )
});

static DELETE: LazyLock<ManyRows> = LazyLock::new(|| ManyRows::new("DELETE FROM webhook WHERE id IN (", "?", ")"));

/// The projection.
pub(super) struct Webhooks;

/// The rows that a batch touches.
type Touched = HashMap<SubscriptionId, Slot>;

/// Where a subscription's row is.
enum Slot {
    /// Nowhere (any more).
    Gone,
    Live(Position, Box<WebhookRow>),
    Deleted(Box<Aside>),
}

#[async_trait]
impl Projection for Webhooks {
    fn concerns(&self, kind: &str) -> bool {
        kind.starts_with("subscription.")
    }

    fn concerns_category(&self, category: &str) -> bool {
        category == SUBSCRIPTION_CATEGORY
    }

    async fn apply(
        &mut self,
        connection: &mut SqliteConnection,
        _source: Source<'_>,
        events: Vec<Readable>,
    ) -> Result<(), ApplyError> {
        let mut touched = Touched::new();
        for Readable { recorded, .. } in &events {
            let id = execute::subscription_of(&recorded.stream)
                .ok_or_else(|| ApplyError::event(recorded, "its stream is no subscription's"))?;
            touched.insert(id, Slot::Gone);
        }
        let query = sqlx::query(TO_FOLD).bind(id_list(touched.keys().copied()));
        for row in query.fetch_all(&mut *connection).await? {
            let (position, row) = webhook_row(&row)?;
            touched.insert(row.id, Slot::Live(position, Box::new(row)));
        }
        for (id, aside) in deleted_webhooks::load(connection, touched.keys().copied()).await? {
            touched.insert(id, Slot::Deleted(Box::new(aside)));
        }
        for Readable { recorded, event } in events {
            fold(&mut touched, &recorded, event)?;
        }
        let ids: Vec<_> = touched.keys().copied().collect();
        let (mut put, mut gone, mut aside) = (vec![], vec![], vec![]);
        for (id, slot) in touched {
            match slot {
                Slot::Live(position, row) => {
                    put.push((position, *row));
                    continue;
                }
                Slot::Deleted(deleted) => aside.push(*deleted),
                Slot::Gone => {}
            }
            gone.push(id);
        }
        deleted_webhooks::write(connection, ids, aside).await?;
        DELETE.write(connection, gone.into_iter(), |values, id| values.id(id)).await?;
        PUT.write(connection, put.into_iter(), |values, (position, row)| {
            values.position(position)?;
            values.id(row.id)?;
            values.id(row.tenant)?;
            values.add(row.profile)?;
            values.add(row.url)?;
            values.add(row.description)?;
            values.add(json_text(&row.filters))?;
            values.add(row.enabled)?;
            values.number(row.revision)?;
            values.add(json_text(&row.secrets))?;
            values.add(json_text(&row.circuit))?;
            values.add(state_number(row.circuit.state()))?;
            values.add(row.created_at.as_ms())?;
            values.add(row.updated_at.as_ms())?;
            values.add(row.rate_limit_per_s)?;
            values.add(row.ordered)?;
            values.add(row.hold_until.map(Timestamp::as_ms))?;
            values.add(row.headers.as_ref().map(json_text))?;
            values.add(row.retry_policy.as_ref().map(json_text))?;
            values.add(row.recipients.as_ref().map(json_text))
        })
        .await?;
        Ok(())
    }
}

/// Every event but these leaves the row as it is.
fn fold(touched: &mut Touched, recorded: &Recorded, event: Event) -> Result<(), ApplyError> {
    let Event::Subscription(event) = event else {
        return Err(ApplyError::event(recorded, "it is no subscription's event"));
    };
    let at = recorded.at;
    if let SubscriptionEvent::Created(created) = event {
        touched.insert(created.subscription, Slot::Live(recorded.position, Box::new(new_row(created, at))));
        return Ok(());
    }
    let id = execute::subscription_of(&recorded.stream);
    let Some(slot) = id.and_then(|id| touched.get_mut(&id)) else { return Ok(()) };
    if moves(slot, &event, recorded) {
        return Ok(());
    }
    let Slot::Live(_, row) = slot else { return Err(ApplyError::event(recorded, "there is no such subscription")) };
    match event {
        SubscriptionEvent::Updated(updated) => update(row, updated),
        SubscriptionEvent::Enabled(_) => row.enabled = true,
        SubscriptionEvent::Disabled(_) => row.enabled = false,
        SubscriptionEvent::HoldChanged(changed) => row.hold_until = changed.until,
        SubscriptionEvent::SecretRotated(rotated) => rotate(row, &rotated, at),
        SubscriptionEvent::CircuitTripped(tripped) => {
            row.circuit = CircuitRow::Open(trip(tripped, recorded));
            return Ok(());
        }
        SubscriptionEvent::CircuitReenabled(_) | SubscriptionEvent::CircuitProbing(_) => {
            if let CircuitRow::Open(trip) = std::mem::take(&mut row.circuit) {
                row.circuit = CircuitRow::HalfOpen { since: at, trip };
            }
            return Ok(());
        }
        SubscriptionEvent::CircuitClosed(_) => {
            row.circuit = CircuitRow::Closed;
            return Ok(());
        }
        SubscriptionEvent::Created(_)
        | SubscriptionEvent::MatchesLost(_)
        | SubscriptionEvent::Deleted(_)
        | SubscriptionEvent::Restored(_)
        | SubscriptionEvent::SecretsDestroyed(_)
        | SubscriptionEvent::TestSent(_)
        | SubscriptionEvent::EgressBlocked(_)
        | SubscriptionEvent::RedeliveryRequested(_)
        | SubscriptionEvent::RescheduleRequested(_)
        | SubscriptionEvent::CancellationRequested(_)
        | SubscriptionEvent::JobStarted(_)
        | SubscriptionEvent::JobEnded(_) => return Ok(()),
    }
    row.revision += 1;
    row.updated_at = at;
    Ok(())
}

/// Puts the row aside at a deletion, takes it back or lets it go; `false` where the event does none of that.
fn moves(slot: &mut Slot, event: &SubscriptionEvent, recorded: &Recorded) -> bool {
    *slot = match (event, std::mem::replace(slot, Slot::Gone)) {
        (SubscriptionEvent::Deleted(deleted), Slot::Live(position, row)) => {
            Aside::of((position, *row), deleted, recorded).map_or(Slot::Gone, |aside| Slot::Deleted(Box::new(aside)))
        }
        (SubscriptionEvent::Restored(_), Slot::Deleted(aside)) => {
            let (position, row) = aside.restored(recorded);
            Slot::Live(position, Box::new(row))
        }
        (SubscriptionEvent::SecretsDestroyed(_), Slot::Deleted(_)) => Slot::Gone,
        (_, other) => {
            *slot = other;
            return false;
        }
    };
    true
}

fn trip(tripped: CircuitTripped, recorded: &Recorded) -> Trip {
    let CircuitTripped { cause, failures, delivery, code, detail, matched_through, probe_at, failed_probes: _ } =
        tripped;
    let (at, shard) = (recorded.at, recorded.position.shard);
    Trip { at, cause, failures, delivery, code, detail, shard, matched_through, probe_at }
}

fn new_row(created: SubscriptionCreated, at: Timestamp) -> WebhookRow {
    let secret = SecretRow {
        version: 1,
        fingerprint: created.fingerprint,
        public_key: created.public_key,
        created_at: at,
        retires_at: None,
    };
    WebhookRow {
        id: created.subscription,
        tenant: created.tenant,
        profile: created.profile,
        url: created.url,
        description: created.description,
        filters: created.filters,
        enabled: created.enabled,
        revision: 1,
        secrets: vec![secret],
        circuit: CircuitRow::Closed,
        created_at: at,
        updated_at: at,
        rate_limit_per_s: created.rate_limit_per_s,
        ordered: created.ordered,
        hold_until: None,
        headers: created.headers,
        retry_policy: created.retry_policy,
        recipients: created.recipients,
        last_delivery_at: None,
    }
}

fn update(row: &mut WebhookRow, updated: SubscriptionUpdated) {
    if let Some(change) = updated.url {
        row.url = change.to;
    }
    if let Some(change) = updated.description {
        row.description = change.to;
    }
    if let Some(change) = updated.filters {
        row.filters = change.to;
    }
    if let Some(change) = updated.rate_limit_per_s {
        row.rate_limit_per_s = change.to;
    }
    if let Some(change) = updated.ordered {
        row.ordered = change.to;
    }
    if let Some(change) = updated.headers {
        row.headers = change.to;
    }
    if let Some(change) = updated.retry_policy {
        row.retry_policy = change.to;
    }
    if let Some(change) = updated.recipients {
        row.recipients = change.to;
    }
}

/// As `domain::subscription` has it: without an overlap every older secret stops at once.
fn rotate(row: &mut WebhookRow, rotated: &SecretRotated, at: Timestamp) {
    match (rotated.previous_retires_at, row.secrets.first_mut()) {
        (Some(retires_at), Some(current)) => current.retires_at = Some(retires_at),
        (None, _) | (_, None) => row.secrets.clear(),
    }
    row.secrets.insert(0, SecretRow::rotated(rotated, at));
}

/// How the column holds the state of a circuit breaker.
pub(super) fn state_number(state: CircuitState) -> i64 {
    match state {
        CircuitState::Closed => 0,
        CircuitState::Open => 1,
        CircuitState::HalfOpen => 2,
    }
}

macro_rules! select_webhooks {
    () => {
        "SELECT position, id, tenant, profile, url, description, filters, enabled, revision, secrets, circuit, \
         created_at_ms, updated_at_ms, rate_limit_per_s, ordered, hold_until_ms, headers, retry_policy, \
         recipients, \
         (SELECT at_ms FROM last_delivery WHERE subscription = webhook.id) FROM webhook"
    };
}
pub(super) use select_webhooks;

/// Whosever they are: for folding alone.
pub(super) const TO_FOLD: &str = concat!(select_webhooks!(), " WHERE id IN (SELECT unhex(value) FROM json_each($1))");

// A plus sign keeps a condition from choosing the index.
pub(super) const BY_IDS: &str =
    concat!(select_webhooks!(), " WHERE id IN (SELECT unhex(value) FROM json_each($1)) AND +tenant = $2");

/// The types of a tenant's messages, from one jump through the index for each.
pub(super) const TYPES: &str = "WITH RECURSIVE type (name) AS ( \
         SELECT min(event_type) FROM message WHERE tenant = $1 \
         UNION ALL \
         SELECT (SELECT min(event_type) FROM message WHERE tenant = $1 AND event_type > type.name) FROM type \
         WHERE type.name IS NOT NULL \
     ) SELECT name FROM type WHERE name IS NOT NULL";

pub(super) const BEHIND: &str = "SELECT count(*) FROM message WHERE tenant = $1 AND event_type = $2 AND position > $3";

impl ReadModels {
    /// A subscription; `None` after its deletion.
    pub async fn webhook(&self, scope: TenantScope, id: SubscriptionId) -> Result<Option<WebhookRow>, QueryError> {
        Ok(self.webhooks_by_ids(scope, &[id]).await?.pop())
    }

    /// Those of the subscriptions that there are, in no order.
    pub async fn webhooks_by_ids(
        &self,
        scope: TenantScope,
        ids: &[SubscriptionId],
    ) -> Result<Vec<WebhookRow>, QueryError> {
        let query = sqlx::query(BY_IDS).bind(id_list(ids.iter().copied())).bind(bytes(scope.0));
        let found = query.fetch_all(&self.inner.database.readers).await?;
        Ok(found.iter().map(|row| webhook_row(row).map(|(_, row)| row)).collect::<Result<_, _>>()?)
    }

    /// How many messages have matched the subscription's filters, as they are now, since its circuit breaker tripped.
    pub async fn waiting(&self, scope: TenantScope, row: &WebhookRow, trip: &Trip) -> Result<u64, QueryError> {
        let mut snapshot = self.inner.database.readers.begin().await?;
        let behind = integer(packed(Position { shard: trip.shard, seq: trip.matched_through }));
        let types = sqlx::query(TYPES).bind(bytes(scope.0)).fetch_all(&mut *snapshot).await?;
        let mut waiting = 0;
        for found in &types {
            let event_type: EventType = Columns::of(found).parsed()?;
            if filter::matches_any(&row.filters, &event_type) {
                let count = sqlx::query(BEHIND).bind(bytes(scope.0)).bind(event_type.as_str()).bind(behind);
                waiting += Columns::of(&count.fetch_one(&mut *snapshot).await?).number::<u64>()?;
            }
        }
        snapshot.rollback().await?;
        Ok(waiting)
    }
}

pub(super) fn webhook_row(row: &SqliteRow) -> Result<(Position, WebhookRow), sqlx::Error> {
    let mut columns = Columns::of(row);
    let position = columns.position()?;
    let row = WebhookRow {
        id: columns.id()?,
        tenant: columns.id()?,
        profile: columns.get()?,
        url: columns.get()?,
        description: columns.get()?,
        filters: columns.json()?,
        enabled: columns.get()?,
        revision: columns.number()?,
        secrets: columns.json()?,
        circuit: columns.json()?,
        created_at: columns.time()?,
        updated_at: columns.time()?,
        rate_limit_per_s: columns.get()?,
        ordered: columns.get()?,
        hold_until: columns.optional_time()?,
        headers: columns.optional_json()?,
        retry_policy: columns.optional_json()?,
        recipients: columns.optional_json()?,
        last_delivery_at: columns.optional_time()?,
    };
    Ok((position, row))
}
