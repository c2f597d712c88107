//! Erasures: what somebody wanted gone, and how far that has come.

use sqlx::SqliteConnection;
use sqlx::sqlite::SqliteRow;

use super::columns::{Columns, bytes, damaged, integer, json_text, packed};
use super::rows::{ErasureKind, ErasureRow};
use super::{QueryError, ReadModels};
use crate::domain::event::{ErasureAdvanced, ErasureCompleted, ErasureScope, ErasureStarted};
use crate::domain::id::{ErasureId, MessageId, TenantId};
use crate::domain::time::Timestamp;
use crate::event_store::Position;

pub(super) async fn insert(
    connection: &mut SqliteConnection,
    position: Position,
    tenant: TenantId,
    at: Timestamp,
    started: ErasureStarted,
) -> Result<(), sqlx::Error> {
    let none: &[MessageId] = &[];
    let (kind, messages, size_bytes) = match &started.scope {
        ErasureScope::Messages { messages, size_bytes } => (0, &messages[..], *size_bytes),
        ErasureScope::Subject { .. } => (1, none, 0),
        ErasureScope::Tenant {} => (2, none, 0),
    };
    sqlx::query(
        "INSERT INTO erasure (position, id, tenant, kind, messages, reason, message_count, size_bytes, webhooks, \
         secrets, freed, started_at_ms) VALUES ($1, $2, $3, $4, $5, $6, $7, $8, 0, 0, FALSE, $9)",
    )
    .bind(integer(packed(position)))
    .bind(bytes(started.erasure))
    .bind(bytes(tenant))
    .bind(kind)
    .bind(json_text(&messages))
    .bind(&started.reason)
    .bind(integer(messages.len() as u64))
    .bind(integer(size_bytes))
    .bind(at.as_ms())
    .execute(&mut *connection)
    .await?;
    if let ErasureScope::Tenant {} = started.scope {
        let query = sqlx::query("UPDATE tenant SET erased_at_ms = $2 WHERE id = $1");
        query.bind(bytes(tenant)).bind(at.as_ms()).execute(connection).await?;
    }
    Ok(())
}

pub(super) async fn advance(connection: &mut SqliteConnection, advanced: &ErasureAdvanced) -> Result<(), sqlx::Error> {
    sqlx::query("UPDATE erasure SET message_count = message_count + $2, size_bytes = size_bytes + $3 WHERE id = $1")
        .bind(bytes(advanced.erasure))
        .bind(integer(advanced.messages))
        .bind(integer(advanced.size_bytes))
        .execute(connection)
        .await?;
    Ok(())
}

pub(super) async fn complete(
    connection: &mut SqliteConnection,
    at: Timestamp,
    completed: &ErasureCompleted,
) -> Result<(), sqlx::Error> {
    sqlx::query("UPDATE erasure SET completed_at_ms = $2, webhooks = $3, secrets = $4, freed = $5 WHERE id = $1")
        .bind(bytes(completed.erasure))
        .bind(at.as_ms())
        .bind(integer(completed.webhooks))
        .bind(integer(completed.secrets))
        .bind(completed.freed)
        .execute(connection)
        .await?;
    Ok(())
}

pub(super) const ERASURE: &str = "SELECT id, tenant, kind, messages, reason, message_count, size_bytes, webhooks, \
     secrets, freed, started_at_ms, completed_at_ms FROM erasure WHERE id = $1";

impl ReadModels {
    /// An erasure, whosever it is: the caller says who may see it.
    pub async fn erasure(&self, id: ErasureId) -> Result<Option<ErasureRow>, QueryError> {
        let found = sqlx::query(ERASURE).bind(bytes(id)).fetch_optional(&self.inner.database.readers).await?;
        Ok(found.as_ref().map(row).transpose()?)
    }
}

fn row(row: &SqliteRow) -> Result<ErasureRow, sqlx::Error> {
    let mut columns = Columns::of(row);
    Ok(ErasureRow {
        id: columns.id()?,
        tenant: columns.id()?,
        kind: match columns.number::<u8>()? {
            0 => ErasureKind::Messages,
            1 => ErasureKind::Subject,
            2 => ErasureKind::Tenant,
            other => return Err(damaged(format!("{other} is no kind of erasure"))),
        },
        messages: columns.json()?,
        reason: columns.get()?,
        message_count: columns.number()?,
        size_bytes: columns.number()?,
        webhooks: columns.number()?,
        secrets: columns.number()?,
        freed: columns.get()?,
        started_at: columns.time()?,
        completed_at: columns.optional_time()?,
    })
}
