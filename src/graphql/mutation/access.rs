//! Mutations of tenants and API keys.

use async_graphql::{Context, ID, InputObject, Object, Result, SimpleObject};

use super::{payloads, readable};
use crate::actors::{Done, EngineError};
use crate::domain::api_key::{self, ApiKey as Credential};
use crate::domain::event::{ApiKeyIssued, TenantCreated};
use crate::domain::id::ApiKeyId;
use crate::domain::profile;
use crate::domain::scope::Scope;
use crate::domain::tenant::Command;
use crate::error_code::ErrorCode;
use crate::graphql::access::{ApiKey, Tenant};
use crate::graphql::caller::{self, ApiScope, authorise, caller, named_tenant};
use crate::graphql::failure::{Failure, UserError, UserErrorCode, fault, payload};
use crate::graphql::scalar::DateTime;
use crate::graphql::{keys, state, step_up};

/// A new tenant.
#[derive(InputObject)]
struct CreateTenantInput {
    /// Its name, 1 to 200 characters.
    name: String,
    /// Its public id, which receivers see in the body where the profile has it there: 1 to 64 letters, digits, `_` and
    /// `-`, unlike every other tenant's.
    slug: String,
    /// Name of the delivery profile of its new webhooks; absent: `standard-v1`.
    profile: Option<String>,
}

/// What came of `createTenant`.
#[derive(Default, SimpleObject)]
struct CreateTenantPayload {
    /// The tenant.
    tenant: Option<Tenant>,
    /// Place in the log of what was recorded.
    position: Option<String>,
    /// Why nothing was done; empty if it was.
    user_errors: Vec<UserError>,
}

/// A new API key.
#[derive(InputObject)]
struct CreateApiKeyInput {
    /// What it is for, 1 to 200 characters.
    name: String,
    /// What it may do; nothing that the caller may not do, unless the caller has `TENANTS_ADMIN`. No key hands on
    /// `SECRETS_ROTATE`, but the operator's own.
    scopes: Vec<ApiScope>,
    /// When it stops working; absent: never by itself, but with `SECRETS_ROTATE`, `MESSAGES_ERASE`, `KEYS_ADMIN` or
    /// `TENANTS_ADMIN` after 90 days, which is the most for these.
    expires_at: Option<DateTime>,
    /// For which tenant; absent: the caller's. Another one needs the scope `TENANTS_ADMIN`.
    tenant_id: Option<ID>,
}

/// What came of `createApiKey`.
#[derive(Default, SimpleObject)]
struct CreateApiKeyPayload {
    /// The API key.
    api_key: Option<ApiKey>,
    /// Its text, for the header `Authorization: Bearer …`. Shown here and never again.
    token: Option<String>,
    /// Place in the log of what was recorded.
    position: Option<String>,
    /// Why nothing was done; empty if it was.
    user_errors: Vec<UserError>,
}

/// Which API key is to stop working.
#[derive(InputObject)]
struct RevokeApiKeyInput {
    /// Which API key.
    api_key_id: ID,
}

/// What came of `revokeApiKey`.
#[derive(Default, SimpleObject)]
struct RevokeApiKeyPayload {
    /// The API key, which works no more.
    api_key: Option<ApiKey>,
    /// Place in the log of what was recorded.
    position: Option<String>,
    /// Why nothing was done; empty if it was.
    user_errors: Vec<UserError>,
}

payloads!(CreateTenantPayload, CreateApiKeyPayload, RevokeApiKeyPayload);

#[derive(Default)]
pub(super) struct AccessMutation;

#[Object]
impl AccessMutation {
    /// Makes a tenant. Needs the scope `TENANTS_ADMIN`.
    async fn create_tenant(
        &self,
        ctx: &Context<'_>,
        #[graphql(desc = "The tenant.")] input: CreateTenantInput,
    ) -> Option<Result<CreateTenantPayload>> {
        payload(create_tenant(ctx, input)).await
    }

    /// Makes an API key. Needs the scope `KEYS_ADMIN`, and a person who has just proved themself, or a tenant that lets keys
    /// act unattended.
    async fn create_api_key(
        &self,
        ctx: &Context<'_>,
        #[graphql(desc = "The API key.")] input: CreateApiKeyInput,
    ) -> Option<Result<CreateApiKeyPayload>> {
        payload(create_key(ctx, input)).await
    }

    /// Withdraws an API key: here at once, everywhere within a second. Needs the scope `KEYS_ADMIN`.
    async fn revoke_api_key(
        &self,
        ctx: &Context<'_>,
        #[graphql(desc = "Which API key.")] input: RevokeApiKeyInput,
    ) -> Option<Result<RevokeApiKeyPayload>> {
        payload(revoke_key(ctx, input)).await
    }
}

async fn create_tenant(ctx: &Context<'_>, input: CreateTenantInput) -> Result<CreateTenantPayload, Failure> {
    authorise(ctx, Scope::TenantsAdmin)?;
    let proposed = state(ctx).clock.tenant_id();
    let profile = input.profile.unwrap_or_else(|| profile::DEFAULT.to_owned());
    let created = TenantCreated { tenant: proposed, name: input.name, slug: input.slug, profile };
    let (tenant, done) = state(ctx).engine.create_tenant(created, caller(ctx).meta()).await?;
    readable(ctx, done.position).await;
    Ok(CreateTenantPayload { tenant: Tenant::read(ctx, tenant).await?, position: position(&done), user_errors: vec![] })
}

async fn create_key(ctx: &Context<'_>, input: CreateApiKeyInput) -> Result<CreateApiKeyPayload, Failure> {
    let tenant = named_tenant(ctx, Scope::KeysAdmin, input.tenant_id.as_deref().map(String::as_str))?;
    step_up::require(ctx, tenant).await?;
    let scopes = granted(ctx, &input.scopes)?;
    let clock = &*state(ctx).clock;
    if input.expires_at.is_some_and(|at| at.0 <= clock.now()) {
        let path = ["input", "expiresAt"];
        return Err(UserError::new(UserErrorCode::InvalidInput, "the key would have expired already", &path).into());
    }
    let id = clock.api_key_id();
    let key = Credential::generate(id, &clock.random_bytes());
    let expires_at = api_key::expiry(&scopes, input.expires_at.map(|at| at.0), clock.now())
        .map_err(|error| UserError::new(UserErrorCode::InvalidInput, error, &["input", "expiresAt"]))?;
    let issued = ApiKeyIssued { key: id, name: input.name, hash: keys(ctx).hash(&key), scopes, expires_at };
    let done = state(ctx).engine.tenant(tenant, Command::IssueApiKey(issued), caller(ctx).meta()).await?;
    readable(ctx, done.position).await;
    // The token is shown in this answer or never: a read model that fails must not take it away.
    let api_key = ApiKey::read(ctx, id).await.ok().flatten();
    let token = Some(key.expose().to_owned());
    Ok(CreateApiKeyPayload { api_key, token, position: position(&done), user_errors: vec![] })
}

/// What a new key or user may do: nobody hands on more than they have.
pub(super) fn granted(ctx: &Context<'_>, wanted: &[ApiScope]) -> Result<Vec<Scope>, Failure> {
    let mut scopes: Vec<_> = wanted.iter().copied().map(Scope::from).collect();
    scopes.sort();
    scopes.dedup();
    check_granted(ctx, &scopes)?;
    Ok(scopes)
}

/// Whether the caller may hand on these scopes.
pub(super) fn check_granted(ctx: &Context<'_>, scopes: &[Scope]) -> Result<(), Failure> {
    if scopes.contains(&Scope::SecretsRotate) {
        step_up::require_person(ctx)?;
    }
    let operator = authorise(ctx, Scope::TenantsAdmin).is_ok();
    match scopes.iter().find(|scope| !operator && authorise(ctx, **scope).is_err()) {
        Some(scope) => {
            let message = format!("this caller may not hand on the scope {}", caller::name(*scope));
            Err(fault(ErrorCode::Forbidden, message).into())
        }
        None => Ok(()),
    }
}

async fn revoke_key(ctx: &Context<'_>, input: RevokeApiKeyInput) -> Result<RevokeApiKeyPayload, Failure> {
    let own = authorise(ctx, Scope::KeysAdmin)?.tenant;
    let missing =
        || Failure::from(UserError::new(UserErrorCode::NotFound, "there is no such API key", &["input", "apiKeyId"]));
    let id = input.api_key_id.parse::<ApiKeyId>().map_err(|_| missing())?;
    let found = ApiKey::read(ctx, id).await?.ok_or_else(missing)?;
    let tenant = found.0.tenant;
    if tenant != own && authorise(ctx, Scope::TenantsAdmin).is_err() {
        return Err(missing());
    }
    let done = match state(ctx).engine.tenant(tenant, Command::RevokeApiKey(id), caller(ctx).meta()).await {
        Ok(done) => done,
        // Withdrawn before: the caller wanted it so.
        Err(EngineError::Tenant(_)) if found.0.revoked_at.is_some() => {
            return Ok(RevokeApiKeyPayload { api_key: Some(found), ..RevokeApiKeyPayload::default() });
        }
        Err(error) => return Err(error.into()),
    };
    keys(ctx).revoke(id);
    readable(ctx, done.position).await;
    Ok(RevokeApiKeyPayload { api_key: ApiKey::read(ctx, id).await?, position: position(&done), user_errors: vec![] })
}

pub(super) fn position(done: &Done) -> Option<String> {
    done.position.map(|position| position.to_string())
}
