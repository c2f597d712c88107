//! Tenants, their API keys, and the caller.

use async_graphql::{Context, ID, Object, Result};

use super::audit::Actor;
use super::caller::{self, ApiScope, authorise, caller, own_tenant};
use super::failure::{internal, nullable};
use super::page::{Connection, List, PageArgs, cost};
use super::scalar::DateTime;
use super::webhook::{self, Webhook, WebhookFilter, WebhookOrder};
use super::{keys, state};
use crate::authentication::{Credential, step_up};
use crate::domain::api_key;
use crate::domain::id::{ApiKeyId, TenantId};
use crate::domain::scope::Scope;
use crate::projections::TenantScope;
use crate::projections::rows::{ApiKeyRow, TenantRow};

pub(super) struct Viewer;

/// Who asks: the credential behind the request.
#[Object]
impl Viewer {
    /// Who it is, as audit entries name them.
    async fn actor(&self, ctx: &Context<'_>) -> Actor {
        Actor::from(&caller::actor(&caller(ctx).principal))
    }

    /// Id of the API key; null for a person.
    async fn api_key_id(&self, ctx: &Context<'_>) -> Option<ID> {
        match &caller(ctx).principal.credential {
            Credential::ApiKey(key) => Some((*key).into()),
            Credential::Session { .. } | Credential::Token { .. } => None,
        }
    }

    /// When the person last proved themself; null for a key, and where a token does not say.
    async fn authenticated_at(&self, ctx: &Context<'_>) -> Option<DateTime> {
        caller(ctx).principal.authenticated_at.map(DateTime)
    }

    /// Until when that proof counts for acts that ask for a fresh one, which may be in the past; null without one.
    async fn step_up_valid_until(&self, ctx: &Context<'_>) -> Option<DateTime> {
        step_up::valid_until(&caller(ctx).principal, keys(ctx).config()).map(DateTime)
    }

    /// When the credential ends by itself; null: never.
    async fn expires_at(&self, ctx: &Context<'_>) -> Option<DateTime> {
        caller(ctx).principal.expires_at.map(DateTime)
    }

    /// What the API key or the person is called.
    async fn name(&self, ctx: &Context<'_>) -> String {
        caller(ctx).principal.name.clone()
    }

    /// What they may do.
    async fn scopes(&self, ctx: &Context<'_>) -> Vec<ApiScope> {
        caller(ctx).principal.scopes.iter().copied().map(ApiScope::from).collect()
    }

    /// Whose they are.
    async fn tenant(&self, ctx: &Context<'_>) -> Option<Result<Tenant>> {
        nullable(Tenant::read(ctx, caller(ctx).principal.tenant)).await
    }
}

pub(super) struct Tenant(pub(super) TenantRow);

/// An account that owns messages and webhooks and sees nobody else's.
#[Object]
impl Tenant {
    /// `ten_…`
    pub(super) async fn id(&self) -> ID {
        self.0.id.into()
    }

    /// Its name.
    async fn name(&self) -> &str {
        &self.0.name
    }

    /// Its public id, which receivers see in the body where the profile has it there.
    async fn slug(&self) -> &str {
        &self.0.slug
    }

    /// Name of the delivery profile of its new webhooks.
    async fn profile(&self) -> &str {
        &self.0.profile
    }

    /// When it was created.
    async fn created_at(&self) -> DateTime {
        self.0.created_at.into()
    }

    /// Since when it is erased, or being erased: nothing is accepted for it any more. Null if it is not.
    async fn erased_at(&self) -> Option<DateTime> {
        self.0.erased_at.map(DateTime)
    }

    /// Whether API keys may rotate secrets and make other keys without a person who has just proved themself.
    async fn unattended_keys(&self) -> bool {
        self.0.unattended_keys
    }

    /// Its webhooks, the newest first. Needs the scope `WEBHOOKS_READ`.
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
            authorise(ctx, Scope::WebhooksRead)?;
            let page = PageArgs { first, after, last, before };
            webhook::list(ctx, TenantScope(self.0.id), filter.unwrap_or_default(), order_by.unwrap_or_default(), page)
                .await
                .map(Some)
        })
        .await
    }
}

impl Tenant {
    /// The tenant of that id: the caller's own, or any for an operator.
    pub(super) async fn find(ctx: &Context<'_>, id: &str) -> Result<Option<Self>> {
        let Ok(id) = id.parse::<TenantId>() else { return Ok(None) };
        if id != caller(ctx).principal.tenant && authorise(ctx, Scope::TenantsAdmin).is_err() {
            return Ok(None);
        }
        Self::read(ctx, id).await
    }

    pub(super) async fn read(ctx: &Context<'_>, id: TenantId) -> Result<Option<Self>> {
        let row = state(ctx).read_models.tenant(id).await;
        Ok(row.map_err(|error| internal(&error))?.map(Self))
    }

    /// All tenants. The caller has checked the scope.
    pub(super) async fn list(ctx: &Context<'_>, page: PageArgs) -> Result<Connection<Self>> {
        let list = List::new(None, "tenants", &[]);
        let page = page.of(&list)?;
        let slice = state(ctx).read_models.tenants(&page).await.map_err(|error| internal(&error))?;
        Ok(Connection::new(&list, &page, slice, Self))
    }
}

pub(super) struct ApiKey(pub(super) ApiKeyRow);

/// A credential for this API. Its text is shown once, by the mutation that makes it.
#[Object]
impl ApiKey {
    /// `key_…`
    pub(super) async fn id(&self) -> ID {
        self.0.id.into()
    }

    /// What it is for.
    async fn name(&self) -> &str {
        &self.0.name
    }

    /// How its text begins; enough to find it again among others, not enough to use it.
    async fn prefix(&self) -> String {
        format!("{}{}", api_key::PREFIX, self.0.id.suffix())
    }

    /// What it may do.
    async fn scopes(&self) -> Vec<ApiScope> {
        self.0.scopes.iter().copied().map(ApiScope::from).collect()
    }

    /// When it was made.
    async fn created_at(&self) -> DateTime {
        self.0.created_at.into()
    }

    /// When it stops working; null: never by itself.
    async fn expires_at(&self) -> Option<DateTime> {
        self.0.expires_at.map(DateTime)
    }

    /// When it was last used, an hour too early at most; null if that is not known.
    async fn last_used_at(&self, ctx: &Context<'_>) -> Option<Result<DateTime>> {
        let used = state(ctx).read_models.api_key_last_used(self.0.id).await;
        used.map(|at| at.map(DateTime)).map_err(|error| internal(&error)).transpose()
    }

    /// When it was withdrawn; null if it was not.
    async fn revoked_at(&self) -> Option<DateTime> {
        self.0.revoked_at.map(DateTime)
    }
}

impl ApiKey {
    /// The caller's API key of that id.
    pub(super) async fn find(ctx: &Context<'_>, id: &str) -> Result<Option<Self>> {
        let scope = own_tenant(ctx, Scope::KeysAdmin)?;
        let Ok(id) = id.parse::<ApiKeyId>() else { return Ok(None) };
        Ok(Self::read(ctx, id).await?.filter(|key| key.0.tenant == scope.0))
    }

    /// Any tenant's API key. The caller compares the tenant.
    pub(super) async fn read(ctx: &Context<'_>, id: ApiKeyId) -> Result<Option<Self>> {
        let row = state(ctx).read_models.api_key(id).await;
        Ok(row.map_err(|error| internal(&error))?.map(Self))
    }

    /// The tenant's API keys. The caller has checked the scope.
    pub(super) async fn list(ctx: &Context<'_>, scope: TenantScope, page: PageArgs) -> Result<Connection<Self>> {
        let list = List::new(Some(scope.0), "apiKeys", &[]);
        let page = page.of(&list)?;
        let slice = state(ctx).read_models.api_keys(scope, &page).await.map_err(|error| internal(&error))?;
        Ok(Connection::new(&list, &page, slice, Self))
    }
}
