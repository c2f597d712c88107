//! People who log in with a password and one-time codes.

use sqlx::SqliteConnection;
use sqlx::sqlite::SqliteRow;

use super::columns::{Columns, bytes, integer, json_text, packed};
use super::page::{List, Order, Range, list};
use super::rows::UserRow;
use super::{Page, QueryError, ReadModels, Slice, TenantScope};
use crate::domain::event::{UserAdded, UserCredentialsReset, UserDisabled};
use crate::domain::id::{TenantId, UserId};
use crate::domain::time::Timestamp;
use crate::event_store::Position;

pub(super) async fn insert(
    connection: &mut SqliteConnection,
    position: Position,
    tenant: TenantId,
    at: Timestamp,
    added: UserAdded,
) -> Result<(), sqlx::Error> {
    sqlx::query(
        "INSERT INTO user (position, id, tenant, name, scopes, password, totp, created_at_ms) \
         VALUES ($1, $2, $3, $4, $5, $6, $7, $8)",
    )
    .bind(integer(packed(position)))
    .bind(bytes(added.user))
    .bind(bytes(tenant))
    .bind(added.name)
    .bind(json_text(&added.scopes))
    .bind(bytes(added.password))
    .bind(bytes(added.totp))
    .bind(at.as_ms())
    .execute(connection)
    .await?;
    Ok(())
}

pub(super) async fn reset(connection: &mut SqliteConnection, reset: &UserCredentialsReset) -> Result<(), sqlx::Error> {
    sqlx::query("UPDATE user SET password = $2, totp = $3, disabled_at_ms = NULL WHERE id = $1")
        .bind(bytes(reset.user))
        .bind(bytes(reset.password))
        .bind(bytes(reset.totp))
        .execute(connection)
        .await?;
    Ok(())
}

pub(super) async fn disable(
    connection: &mut SqliteConnection,
    at: Timestamp,
    disabled: &UserDisabled,
) -> Result<(), sqlx::Error> {
    sqlx::query("UPDATE user SET disabled_at_ms = $2 WHERE id = $1")
        .bind(bytes(disabled.user))
        .bind(at.as_ms())
        .execute(connection)
        .await?;
    Ok(())
}

pub(super) const USER: &str = "SELECT position, id, tenant, name, scopes, password, totp, created_at_ms, disabled_at_ms FROM user WHERE name = $1";

pub(super) const USER_BY_ID: &str =
    "SELECT position, id, tenant, name, scopes, password, totp, created_at_ms, disabled_at_ms FROM user WHERE id = $1";

pub(super) const USERS: List = list!(
    "SELECT position, id, tenant, name, scopes, password, totp, created_at_ms, disabled_at_ms FROM user",
    "tenant = $4",
    "position"
);

impl ReadModels {
    /// The user of that name, whosever they are. For authentication.
    pub async fn user(&self, name: &str) -> Result<Option<UserRow>, QueryError> {
        let found = sqlx::query(USER).bind(name).fetch_optional(&self.inner.database.readers).await?;
        Ok(found.as_ref().map(user_row).transpose()?.map(|(_, row)| row))
    }

    /// The user of that id, whosever they are.
    pub async fn user_by_id(&self, id: UserId) -> Result<Option<UserRow>, QueryError> {
        let found = sqlx::query(USER_BY_ID).bind(bytes(id)).fetch_optional(&self.inner.database.readers).await?;
        Ok(found.as_ref().map(user_row).transpose()?.map(|(_, row)| row))
    }

    /// The tenant's users, the newest first; also those who may not log in.
    pub async fn users(&self, scope: TenantScope, page: &Page) -> Result<Slice<UserRow>, QueryError> {
        let range = Range::of(page, Order::Descending);
        let query = range.query(&USERS).bind(bytes(scope.0));
        Ok(range.fetch(&self.inner.database.readers, query, user_row).await?)
    }
}

fn user_row(row: &SqliteRow) -> Result<(Position, UserRow), sqlx::Error> {
    let mut columns = Columns::of(row);
    let position = columns.position()?;
    let row = UserRow {
        id: columns.id()?,
        tenant: columns.id()?,
        name: columns.get()?,
        scopes: columns.json()?,
        password: columns.id()?,
        totp: columns.id()?,
        created_at: columns.time()?,
        disabled_at: columns.optional_time()?,
    };
    Ok((position, row))
}
