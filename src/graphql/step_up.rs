//! Acts that ask for a person who has just proved themself.

use async_graphql::{Context, Error, ErrorExtensions};

use super::caller::caller;
use super::failure::{Failure, fault, internal};
use super::{keys, state};
use crate::authentication::step_up::{Challenge, Verdict, judge, may_grant_rotation};
use crate::domain::id::TenantId;
use crate::error_code::ErrorCode;

/// Where in an error's extensions the accepted authentication context classes stand.
pub(super) const ACR_VALUES: &str = "acrValues";
/// Where in an error's extensions it is said how old a proof may be, in seconds.
pub(super) const MAX_AGE: &str = "maxAge";

/// Lets the caller rotate secrets or make keys in that tenant, or says what is missing. What a tenant lets its own keys
/// do, it lets no key of another tenant do.
pub(super) async fn require(ctx: &Context<'_>, tenant: TenantId) -> Result<(), Failure> {
    let principal = &caller(ctx).principal;
    let row = state(ctx).read_models.tenant(tenant).await.map_err(|error| internal(&error))?;
    let unattended = tenant == principal.tenant && row.is_some_and(|row| row.unattended_keys);
    answer(judge(principal, unattended, keys(ctx).config(), state(ctx).clock.now()))
}

/// Lets the caller hand on the right to rotate secrets, or let keys act unattended: no key may, but the operator's own.
pub(super) fn require_person(ctx: &Context<'_>) -> Result<(), Failure> {
    let now = state(ctx).clock.now();
    answer(may_grant_rotation(&caller(ctx).principal, keys(ctx).config(), now))
}

fn answer(verdict: Verdict) -> Result<(), Failure> {
    match verdict {
        Verdict::Satisfied => Ok(()),
        Verdict::Challenge(challenge) => Err(challenged(challenge).into()),
        Verdict::Forbidden => {
            let message = "an API key may not do this alone: a person must, or the tenant lets keys act unattended";
            Err(fault(ErrorCode::Forbidden, message).into())
        }
    }
}

fn challenged(challenge: Challenge) -> Error {
    let Challenge { acr_values, max_age_s, method } = challenge;
    let error = fault(ErrorCode::StepUpRequired, "this asks for a person who has just proved themself again");
    error.extend_with(|_, extensions| {
        extensions.set("error", "insufficient_user_authentication");
        extensions.set(ACR_VALUES, acr_values);
        extensions.set(MAX_AGE, max_age_s);
        extensions.set("methods", vec![method]);
    })
}
