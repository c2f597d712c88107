//! People who log in with a password and one-time codes.

use async_graphql::{Context, ID, Object, Result};

use super::caller::{ApiScope, own_tenant};
use super::failure::internal;
use super::page::{Connection, List, PageArgs};
use super::scalar::DateTime;
use super::state;
use crate::domain::id::UserId;
use crate::domain::scope::Scope;
use crate::projections::TenantScope;
use crate::projections::rows::UserRow;

pub(super) struct User(pub(super) UserRow);

/// Somebody who logs in here with a password and one-time codes. People of identity providers are not among them.
#[Object]
impl User {
    /// `usr_…`
    pub(super) async fn id(&self) -> ID {
        self.0.id.into()
    }

    /// By which they log in: `username` of the mutations.
    async fn name(&self) -> &str {
        &self.0.name
    }

    /// What they may do.
    async fn scopes(&self) -> Vec<ApiScope> {
        self.0.scopes.iter().copied().map(ApiScope::from).collect()
    }

    /// Since when there is this user.
    async fn created_at(&self) -> DateTime {
        self.0.created_at.into()
    }

    /// Since when they may not log in; null if they may.
    async fn disabled_at(&self) -> Option<DateTime> {
        self.0.disabled_at.map(DateTime)
    }
}

impl User {
    /// The caller's user of that id.
    pub(super) async fn find(ctx: &Context<'_>, id: &str) -> Result<Option<Self>> {
        let scope = own_tenant(ctx, Scope::KeysAdmin)?;
        let Ok(id) = id.parse::<UserId>() else { return Ok(None) };
        Ok(Self::read(ctx, id).await?.filter(|user| user.0.tenant == scope.0))
    }

    /// Any tenant's user. The caller compares the tenant.
    pub(super) async fn read(ctx: &Context<'_>, id: UserId) -> Result<Option<Self>> {
        let row = state(ctx).read_models.user_by_id(id).await;
        Ok(row.map_err(|error| internal(&error))?.map(Self))
    }

    /// The tenant's users. The caller has checked the scope.
    pub(super) async fn list(ctx: &Context<'_>, scope: TenantScope, page: PageArgs) -> Result<Connection<Self>> {
        let list = List::new(Some(scope.0), "users", &[]);
        let page = page.of(&list)?;
        let slice = state(ctx).read_models.users(scope, &page).await.map_err(|error| internal(&error))?;
        Ok(Connection::new(&list, &page, slice, Self))
    }
}
