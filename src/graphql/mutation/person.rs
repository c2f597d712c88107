//! Mutations of the proof that somebody is there, and of what keys may do without one.

use async_graphql::{Context, ID, InputObject, Object, Result, SimpleObject};

use super::access::position;
use super::{payloads, readable_behind};
use crate::authentication::LoginRefused;
use crate::domain::scope::Scope;
use crate::domain::tenant::Command;
use crate::error_code::ErrorCode;
use crate::graphql::access::Tenant;
use crate::graphql::caller::{caller, named_tenant};
use crate::graphql::failure::{Failure, UserError, UserErrorCode, fault, internal, payload};
use crate::graphql::scalar::DateTime;
use crate::graphql::{keys, state, step_up};

/// A further proof within a session.
#[derive(InputObject)]
struct StepUpInput {
    /// The present one-time code, six digits. A code counts once.
    #[graphql(secret)]
    totp: String,
}

/// What came of `stepUp`.
#[derive(Default, SimpleObject)]
struct StepUpPayload {
    /// Until when the proof counts.
    valid_until: Option<DateTime>,
    /// Why nothing was done; empty if it was.
    user_errors: Vec<UserError>,
}

/// Changes to a tenant; what is absent stays.
#[derive(InputObject)]
struct UpdateTenantInput {
    /// Which tenant; absent: the caller's. Another one needs the scope `TENANTS_ADMIN`.
    tenant_id: Option<ID>,
    /// Whether API keys may rotate secrets and make other keys without a person who has just proved themself. To allow
    /// it takes such a person, or the operator's own key; to forbid it, the scope alone.
    unattended_keys: Option<bool>,
}

/// What came of `updateTenant`.
#[derive(Default, SimpleObject)]
struct UpdateTenantPayload {
    /// The tenant.
    tenant: Option<Tenant>,
    /// Place in the log of what was recorded; null if nothing had to change.
    position: Option<String>,
    /// Why nothing was done; empty if it was.
    user_errors: Vec<UserError>,
}

payloads!(StepUpPayload, UpdateTenantPayload);

#[derive(Default)]
pub(super) struct PersonMutation;

#[Object]
impl PersonMutation {
    /// Proves again who has the session, by a one-time code, for acts that ask for it. Five tries in 15 minutes. For
    /// sessions alone: tokens are renewed at their issuer, and keys cannot prove anybody.
    async fn step_up(
        &self,
        ctx: &Context<'_>,
        #[graphql(desc = "The proof.")] input: StepUpInput,
    ) -> Option<Result<StepUpPayload>> {
        payload(prove(ctx, input)).await
    }

    /// Changes a tenant's settings. Needs the scope `KEYS_ADMIN`.
    async fn update_tenant(
        &self,
        ctx: &Context<'_>,
        #[graphql(desc = "The changes.")] input: UpdateTenantInput,
    ) -> Option<Result<UpdateTenantPayload>> {
        payload(update_tenant(ctx, input)).await
    }
}

async fn prove(ctx: &Context<'_>, input: StepUpInput) -> Result<StepUpPayload, Failure> {
    let caller = caller(ctx);
    let proved = keys(ctx).step_up(&caller.principal, &input.totp, caller.request, caller.ip.clone()).await;
    match proved {
        Ok(valid_until) => Ok(StepUpPayload { valid_until: Some(DateTime(valid_until)), user_errors: vec![] }),
        Err(LoginRefused::Wrong | LoginRefused::Throttled { .. }) => {
            let message = "the code is wrong or was used, there were too many tries, or the caller has no session";
            Err(UserError::new(UserErrorCode::StepUpRejected, message, &["input", "totp"]).into())
        }
        Err(error @ LoginRefused::Unavailable(_)) => {
            tracing::warn!("a proof was turned away: {error}");
            Err(fault(ErrorCode::StorageUnavailable, "codes cannot be checked for now; try again").into())
        }
        Err(error @ LoginRefused::Failed(_)) => Err(internal(&error).into()),
    }
}

async fn update_tenant(ctx: &Context<'_>, input: UpdateTenantInput) -> Result<UpdateTenantPayload, Failure> {
    let tenant = named_tenant(ctx, Scope::KeysAdmin, input.tenant_id.as_deref().map(String::as_str))?;
    let Some(unattended) = input.unattended_keys else {
        return Ok(UpdateTenantPayload { tenant: Tenant::read(ctx, tenant).await?, ..UpdateTenantPayload::default() });
    };
    if unattended {
        step_up::require_person(ctx)?;
    }
    let command = Command::SetUnattendedKeys(unattended);
    let done = state(ctx).engine.tenant(tenant, command, caller(ctx).meta()).await?;
    readable_behind(ctx, tenant, &done).await;
    let changed =
        Tenant::read(ctx, tenant).await?.ok_or_else(|| fault(ErrorCode::NotFound, "there is no such tenant"))?;
    Ok(UpdateTenantPayload { tenant: Some(changed), position: position(&done), user_errors: vec![] })
}
