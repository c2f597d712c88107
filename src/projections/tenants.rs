//! Tenants, their API keys and the event types that they announced.

use async_trait::async_trait;
use sqlx::SqliteConnection;
use sqlx::sqlite::SqliteRow;

use super::columns::{Columns, bytes, integer, json_text, packed};
use super::page::{Key, List, Order, Range, list};
use super::projection::{ApplyError, Projection, Readable, Source};
use super::rows::{ApiKeyRow, EventTypeRow, TenantRow};
use super::{Page, QueryError, ReadModels, Slice, TenantScope, erasures, users};
use crate::domain::event::{
    ApiKeyIssued, ApiKeyRevoked, Event, EventTypeRegistered, EventTypeUpdated, TenantCreated, TenantEvent,
    TenantSettingsChanged,
};
use crate::domain::filter::EventType;
use crate::domain::id::{ApiKeyId, TenantId};
use crate::domain::time::Timestamp;
use crate::event_store::Position;
use crate::execute::{self, TENANT_CATEGORY};

/// The projection. Tenants change seldom: no folding in memory.
pub(super) struct Tenants;

#[async_trait]
impl Projection for Tenants {
    fn concerns(&self, kind: &str) -> bool {
        ["tenant.", "event_type.", "api_key.", "user.", "erasure."].iter().any(|family| kind.starts_with(family))
    }

    fn concerns_category(&self, category: &str) -> bool {
        category == TENANT_CATEGORY
    }

    async fn apply(
        &mut self,
        connection: &mut SqliteConnection,
        _source: Source<'_>,
        events: Vec<Readable>,
    ) -> Result<(), ApplyError> {
        for Readable { recorded, event } in events {
            let tenant = execute::tenant_of(&recorded.stream)
                .ok_or_else(|| ApplyError::event(&recorded, "its stream is no tenant's"))?;
            let (position, at) = (recorded.position, recorded.at);
            match event {
                Event::Tenant(TenantEvent::Created(created)) => {
                    insert_tenant(connection, position, at, created).await?
                }
                Event::Tenant(TenantEvent::EventTypeRegistered(registered)) => {
                    put_event_type(connection, tenant, at, registered).await?;
                }
                Event::Tenant(TenantEvent::EventTypeUpdated(updated)) => {
                    update_event_type(connection, tenant, updated).await?;
                }
                Event::Tenant(TenantEvent::ApiKeyIssued(issued)) => {
                    insert_api_key(connection, position, tenant, at, issued).await?;
                }
                Event::Tenant(TenantEvent::ApiKeyRevoked(revoked)) => revoke(connection, at, &revoked).await?,
                Event::Tenant(TenantEvent::SettingsChanged(changed)) => {
                    change_settings(connection, tenant, &changed).await?;
                }
                Event::Tenant(TenantEvent::UserAdded(added)) => {
                    users::insert(connection, position, tenant, at, added).await?;
                }
                Event::Tenant(TenantEvent::UserCredentialsReset(reset)) => users::reset(connection, &reset).await?,
                Event::Tenant(TenantEvent::UserDisabled(disabled)) => users::disable(connection, at, &disabled).await?,
                Event::Tenant(
                    TenantEvent::UserAuthenticationFailed(_)
                    | TenantEvent::ConfigChanged(_)
                    | TenantEvent::KekRotated(_),
                ) => {}
                Event::Tenant(TenantEvent::ErasureStarted(started)) => {
                    erasures::insert(connection, position, tenant, at, started).await?;
                }
                Event::Tenant(TenantEvent::ErasureAdvanced(advanced)) => {
                    erasures::advance(connection, &advanced).await?;
                }
                Event::Tenant(TenantEvent::ErasureCompleted(completed)) => {
                    erasures::complete(connection, at, &completed).await?;
                }
                Event::Message(_) | Event::Subscription(_) | Event::Delivery(_) => {
                    return Err(ApplyError::event(&recorded, "it is no tenant's event"));
                }
            }
        }
        Ok(())
    }
}

async fn insert_tenant(
    connection: &mut SqliteConnection,
    position: Position,
    at: Timestamp,
    created: TenantCreated,
) -> Result<(), sqlx::Error> {
    sqlx::query(
        "INSERT INTO tenant (position, id, name, slug, profile, created_at_ms, unattended_keys) \
         VALUES ($1, $2, $3, $4, $5, $6, FALSE)",
    )
    .bind(integer(packed(position)))
    .bind(bytes(created.tenant))
    .bind(created.name)
    .bind(created.slug)
    .bind(created.profile)
    .bind(at.as_ms())
    .execute(connection)
    .await?;
    Ok(())
}

async fn change_settings(
    connection: &mut SqliteConnection,
    tenant: TenantId,
    changed: &TenantSettingsChanged,
) -> Result<(), sqlx::Error> {
    sqlx::query("UPDATE tenant SET unattended_keys = COALESCE($2, unattended_keys) WHERE id = $1")
        .bind(bytes(tenant))
        .bind(changed.unattended_keys.as_ref().map(|change| change.to))
        .execute(connection)
        .await?;
    Ok(())
}

async fn put_event_type(
    connection: &mut SqliteConnection,
    tenant: TenantId,
    at: Timestamp,
    registered: EventTypeRegistered,
) -> Result<(), sqlx::Error> {
    sqlx::query(
        "INSERT INTO event_type (tenant, name, category, description, version, schema, example, created_at_ms) \
         VALUES ($1, $2, $3, $4, $5, $6, $7, $8) \
         ON CONFLICT (tenant, name) DO UPDATE SET category = excluded.category, description = excluded.description, \
         version = excluded.version, schema = excluded.schema, example = excluded.example",
    )
    .bind(bytes(tenant))
    .bind(registered.name.as_str())
    .bind(registered.category)
    .bind(registered.description)
    .bind(registered.version)
    .bind(json_text(&registered.schema))
    .bind(registered.example.as_ref().map(json_text))
    .bind(at.as_ms())
    .execute(connection)
    .await?;
    Ok(())
}

async fn update_event_type(
    connection: &mut SqliteConnection,
    tenant: TenantId,
    updated: EventTypeUpdated,
) -> Result<(), sqlx::Error> {
    let EventTypeUpdated { name, category, description, version, schema, example, deprecation_reason } = updated;
    sqlx::query(
        "UPDATE event_type SET category = COALESCE($3, category), description = COALESCE($4, description), \
         version = COALESCE($5, version), schema = COALESCE($6, schema), example = COALESCE($7, example), \
         deprecation_reason = CASE WHEN $8 THEN $9 ELSE deprecation_reason END WHERE tenant = $1 AND name = $2",
    )
    .bind(bytes(tenant))
    .bind(name.as_str())
    .bind(category.map(|change| change.to))
    .bind(description.map(|change| change.to))
    .bind(version.map(|change| change.to))
    .bind(schema.as_ref().map(json_text))
    .bind(example.as_ref().map(json_text))
    .bind(deprecation_reason.is_some())
    .bind(deprecation_reason.and_then(|change| change.to))
    .execute(connection)
    .await?;
    Ok(())
}

async fn insert_api_key(
    connection: &mut SqliteConnection,
    position: Position,
    tenant: TenantId,
    at: Timestamp,
    issued: ApiKeyIssued,
) -> Result<(), sqlx::Error> {
    sqlx::query(
        "INSERT INTO api_key (position, id, tenant, name, hash, scopes, created_at_ms, expires_at_ms) \
         VALUES ($1, $2, $3, $4, $5, $6, $7, $8)",
    )
    .bind(integer(packed(position)))
    .bind(bytes(issued.key))
    .bind(bytes(tenant))
    .bind(issued.name)
    .bind(issued.hash)
    .bind(json_text(&issued.scopes))
    .bind(at.as_ms())
    .bind(issued.expires_at.map(Timestamp::as_ms))
    .execute(connection)
    .await?;
    Ok(())
}

async fn revoke(connection: &mut SqliteConnection, at: Timestamp, revoked: &ApiKeyRevoked) -> Result<(), sqlx::Error> {
    sqlx::query("UPDATE api_key SET revoked_at_ms = $2 WHERE id = $1")
        .bind(bytes(revoked.key))
        .bind(at.as_ms())
        .execute(connection)
        .await?;
    Ok(())
}

pub(super) const TENANT: &str =
    "SELECT id, name, slug, profile, created_at_ms, unattended_keys, erased_at_ms FROM tenant WHERE id = $1";

/// By id, which grows with time: positions in different shards do not tell which tenant is newer.
pub(super) const TENANTS: List =
    list!("SELECT id, name, slug, profile, created_at_ms, unattended_keys, erased_at_ms FROM tenant", "TRUE", "id");

pub(super) const API_KEY: &str = "SELECT position, id, tenant, name, hash, scopes, created_at_ms, expires_at_ms, \
     revoked_at_ms FROM api_key WHERE id = $1";

pub(super) const API_KEY_USE: &str = "SELECT used_at_ms FROM api_key_use WHERE id = $1";

pub(super) const API_KEYS: List = list!(
    "SELECT position, id, tenant, name, hash, scopes, created_at_ms, expires_at_ms, revoked_at_ms FROM api_key",
    "tenant = $4",
    "position"
);

pub(super) const EVENT_TYPE: &str = "SELECT name, category, description, version, schema, example, deprecation_reason, created_at_ms \
     FROM event_type WHERE tenant = $1 AND name = $2";

pub(super) const EVENT_TYPES: &str = "SELECT name, category, description, version, schema, example, deprecation_reason, created_at_ms \
     FROM event_type WHERE tenant = $1 ORDER BY name";

impl ReadModels {
    /// A tenant. For operators, and for the tenant itself.
    pub async fn tenant(&self, id: TenantId) -> Result<Option<TenantRow>, QueryError> {
        let found = sqlx::query(TENANT).bind(bytes(id)).fetch_optional(&self.inner.database.readers).await?;
        Ok(found.as_ref().map(tenant_row).transpose()?)
    }

    /// All tenants, the newest first. For operators.
    pub async fn tenants(&self, page: &Page) -> Result<Slice<TenantRow>, QueryError> {
        let range = Range::of(page, Order::Descending);
        let query = range.query_by_id::<TenantId>(&TENANTS);
        let keyed = |row: &SqliteRow| tenant_row(row).map(|row| (Key(0, row.id.to_string()), row));
        Ok(range.fetch(&self.inner.database.readers, query, keyed).await?)
    }

    /// An API key, whosever it is. For authentication.
    pub async fn api_key(&self, id: ApiKeyId) -> Result<Option<ApiKeyRow>, QueryError> {
        let found = sqlx::query(API_KEY).bind(bytes(id)).fetch_optional(&self.inner.database.readers).await?;
        Ok(found.as_ref().map(api_key_row).transpose()?.map(|(_, row)| row))
    }

    /// Remembers that a key was used, in this file alone: a key that is in daily use would else fill the log.
    pub async fn api_key_used(&self, id: ApiKeyId, at: Timestamp) -> Result<(), QueryError> {
        let mut write = self.inner.database.begin().await?;
        sqlx::query(
            "INSERT INTO api_key_use (id, used_at_ms) VALUES ($1, $2) \
             ON CONFLICT (id) DO UPDATE SET used_at_ms = max(used_at_ms, excluded.used_at_ms)",
        )
        .bind(bytes(id))
        .bind(at.as_ms())
        .execute(write.connection())
        .await?;
        Ok(write.commit().await?)
    }

    /// When a key was last used; `None` if this file knows of no use.
    pub async fn api_key_last_used(&self, id: ApiKeyId) -> Result<Option<Timestamp>, QueryError> {
        let query = sqlx::query(API_KEY_USE).bind(bytes(id));
        let found = query.fetch_optional(&self.inner.database.readers).await?;
        Ok(found.as_ref().map(|row| Columns::of(row).time()).transpose()?)
    }

    /// The tenant's API keys, the newest first; also those that were withdrawn.
    pub async fn api_keys(&self, scope: TenantScope, page: &Page) -> Result<Slice<ApiKeyRow>, QueryError> {
        let range = Range::of(page, Order::Descending);
        let query = range.query(&API_KEYS).bind(bytes(scope.0));
        Ok(range.fetch(&self.inner.database.readers, query, api_key_row).await?)
    }

    /// An event type that the tenant announced.
    pub async fn event_type(&self, scope: TenantScope, name: &EventType) -> Result<Option<EventTypeRow>, QueryError> {
        let query = sqlx::query(EVENT_TYPE).bind(bytes(scope.0)).bind(name.as_str());
        let found = query.fetch_optional(&self.inner.database.readers).await?;
        Ok(found.as_ref().map(event_type_row).transpose()?)
    }

    /// All event types that the tenant announced, by name; their number has a limit.
    pub async fn event_types(&self, scope: TenantScope) -> Result<Vec<EventTypeRow>, QueryError> {
        let found = sqlx::query(EVENT_TYPES).bind(bytes(scope.0)).fetch_all(&self.inner.database.readers).await?;
        Ok(found.iter().map(event_type_row).collect::<Result<_, _>>()?)
    }
}

fn tenant_row(row: &SqliteRow) -> Result<TenantRow, sqlx::Error> {
    let mut columns = Columns::of(row);
    Ok(TenantRow {
        id: columns.id()?,
        name: columns.get()?,
        slug: columns.get()?,
        profile: columns.get()?,
        created_at: columns.time()?,
        unattended_keys: columns.get()?,
        erased_at: columns.optional_time()?,
    })
}

fn api_key_row(row: &SqliteRow) -> Result<(Position, ApiKeyRow), sqlx::Error> {
    let mut columns = Columns::of(row);
    let position = columns.position()?;
    let row = ApiKeyRow {
        id: columns.id()?,
        tenant: columns.id()?,
        name: columns.get()?,
        hash: columns.get()?,
        scopes: columns.json()?,
        created_at: columns.time()?,
        expires_at: columns.optional_time()?,
        revoked_at: columns.optional_time()?,
    };
    Ok((position, row))
}

fn event_type_row(row: &SqliteRow) -> Result<EventTypeRow, sqlx::Error> {
    let mut columns = Columns::of(row);
    Ok(EventTypeRow {
        name: columns.parsed()?,
        category: columns.get()?,
        description: columns.get()?,
        version: columns.get()?,
        schema: columns.json()?,
        example: columns.optional_json()?,
        deprecation_reason: columns.get()?,
        created_at: columns.time()?,
    })
}
