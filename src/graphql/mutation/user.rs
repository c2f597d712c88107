//! Mutations of people who log in with a password and one-time codes.

use async_graphql::{Context, ID, InputObject, Object, Result, SimpleObject};

use super::access::{self, position};
use super::{payloads, readable_behind};
use crate::actors::EngineError;
use crate::authentication::{Enrolled, EnrolmentError};
use crate::domain::id::TenantId;
use crate::domain::scope::Scope;
use crate::domain::secret::Secret;
use crate::domain::tenant::{self, Command, Refusal};
use crate::graphql::caller::{ApiScope, authorise, caller, named_tenant};
use crate::graphql::failure::{Failure, UserError, UserErrorCode, internal, payload};
use crate::graphql::user::User;
use crate::graphql::{keys, state, step_up};
use crate::projections::rows::UserRow;

/// Somebody who is to log in.
#[derive(InputObject)]
struct CreateUserInput {
    /// By which they log in, unlike everybody else's: 1 to 64 characters of a-z, 0-9, `.`, `_`, `-` and `@`.
    username: String,
    /// With which they log in, beside a one-time code: at least 12 characters. Never shown.
    #[graphql(secret)]
    password: String,
    /// What they may do; nothing that the caller may not do, unless the caller has `TENANTS_ADMIN`.
    scopes: Vec<ApiScope>,
    /// Of which tenant; absent: the caller's. Another one needs the scope `TENANTS_ADMIN`.
    tenant_id: Option<ID>,
}

/// What came of `createUser`.
#[derive(Default, SimpleObject)]
struct CreateUserPayload {
    /// The user.
    user: Option<User>,
    /// What their authenticator app reads, `otpauth://…`: the secret of their one-time codes. Shown here and never again.
    authenticator_uri: Option<String>,
    /// Place in the log of what was recorded.
    position: Option<String>,
    /// Why nothing was done; empty if it was.
    user_errors: Vec<UserError>,
}

/// Who is to have another password and other one-time codes.
#[derive(InputObject)]
struct ResetUserCredentialsInput {
    /// By which they log in.
    username: String,
    /// With which they log in from now on: at least 12 characters. Never shown.
    #[graphql(secret)]
    password: String,
}

/// What came of `resetUserCredentials`.
#[derive(Default, SimpleObject)]
struct ResetUserCredentialsPayload {
    /// The user, all of whose sessions have ended.
    user: Option<User>,
    /// What their authenticator app reads, `otpauth://…`: the secret of their one-time codes. Shown here and never again.
    authenticator_uri: Option<String>,
    /// Place in the log of what was recorded.
    position: Option<String>,
    /// Why nothing was done; empty if it was.
    user_errors: Vec<UserError>,
}

/// Who is to log in no more.
#[derive(InputObject)]
struct DisableUserInput {
    /// By which they log in.
    username: String,
}

/// What came of `disableUser`.
#[derive(Default, SimpleObject)]
struct DisableUserPayload {
    /// Id of the user, all of whose sessions have ended.
    disabled_user_id: Option<ID>,
    /// Place in the log of what was recorded; null if they were disabled before.
    position: Option<String>,
    /// Why nothing was done; empty if it was.
    user_errors: Vec<UserError>,
}

payloads!(CreateUserPayload, ResetUserCredentialsPayload, DisableUserPayload);

#[derive(Default)]
pub(super) struct UserMutation;

#[Object]
impl UserMutation {
    /// Lets somebody log in from now on, with a password and one-time codes. Needs the scope `KEYS_ADMIN`, and a person who
    /// has just proved themself, or an operator's key where these count.
    async fn create_user(
        &self,
        ctx: &Context<'_>,
        #[graphql(desc = "The user.")] input: CreateUserInput,
    ) -> Option<Result<CreateUserPayload>> {
        payload(create(ctx, input)).await
    }

    /// Gives a user of the caller's tenant, or with `TENANTS_ADMIN` of any, another password and other one-time codes, and ends their sessions at once; a
    /// disabled one may log in again. They may do nothing that the caller may not do. Needs the scope `KEYS_ADMIN`, and a
    /// person who has just proved themself, or an operator's key where these count.
    async fn reset_user_credentials(
        &self,
        ctx: &Context<'_>,
        #[graphql(desc = "Which user.")] input: ResetUserCredentialsInput,
    ) -> Option<Result<ResetUserCredentialsPayload>> {
        payload(reset(ctx, input)).await
    }

    /// Lets a user of the caller's tenant, or with `TENANTS_ADMIN` of any, log in no more, and ends their sessions at once. Needs the scope `KEYS_ADMIN`.
    async fn disable_user(
        &self,
        ctx: &Context<'_>,
        #[graphql(desc = "Which user.")] input: DisableUserInput,
    ) -> Option<Result<DisableUserPayload>> {
        payload(disable(ctx, input)).await
    }
}

async fn create(ctx: &Context<'_>, input: CreateUserInput) -> Result<CreateUserPayload, Failure> {
    let CreateUserInput { username, password, scopes, tenant_id } = input;
    let tenant = named_tenant(ctx, Scope::KeysAdmin, tenant_id.as_deref().map(String::as_str))?;
    tenant::check_user_name(&username).map_err(EngineError::from)?;
    step_up::require_person(ctx)?;
    let scopes = access::granted(ctx, &scopes)?;
    let enrolled = keys(ctx).add_user(tenant, &username, scopes, Secret::stored(password), caller(ctx).meta()).await;
    let (user, authenticator_uri, position) = shown(ctx, tenant, enrolled).await?;
    Ok(CreateUserPayload { user, authenticator_uri, position, user_errors: vec![] })
}

async fn reset(ctx: &Context<'_>, input: ResetUserCredentialsInput) -> Result<ResetUserCredentialsPayload, Failure> {
    let user = named(ctx, &input.username).await?;
    step_up::require_person(ctx)?;
    // Whoever knows what proves somebody can do what they may do.
    access::check_granted(ctx, &user.scopes)?;
    let enrolled = keys(ctx).reset_user(&user, Secret::stored(input.password), caller(ctx).meta()).await;
    let (user, authenticator_uri, position) = shown(ctx, user.tenant, enrolled).await?;
    Ok(ResetUserCredentialsPayload { user, authenticator_uri, position, user_errors: vec![] })
}

async fn disable(ctx: &Context<'_>, input: DisableUserInput) -> Result<DisableUserPayload, Failure> {
    let user = named(ctx, &input.username).await?;
    let done = state(ctx).engine.tenant(user.tenant, Command::DisableUser(user.id), caller(ctx).meta()).await?;
    readable_behind(ctx, user.tenant, &done).await;
    keys(ctx).end_sessions(user.id).await;
    Ok(DisableUserPayload { disabled_user_id: Some(user.id.into()), position: position(&done), user_errors: vec![] })
}

/// The user of that name, if the caller may change them.
async fn named(ctx: &Context<'_>, username: &str) -> Result<UserRow, Failure> {
    let own = authorise(ctx, Scope::KeysAdmin)?.tenant;
    let found = state(ctx).read_models.user(username).await.map_err(|error| internal(&error))?;
    let reaches = |tenant| tenant == own || authorise(ctx, Scope::TenantsAdmin).is_ok();
    let missing = || UserError::new(UserErrorCode::NotFound, Refusal::NoSuchUser, &["input", "username"]);
    Ok(found.filter(|user| reaches(user.tenant)).ok_or_else(missing)?)
}

/// What an answer shows of somebody who was given credentials. They are shown in it or never: a read model that fails
/// must not take them away.
async fn shown(
    ctx: &Context<'_>,
    tenant: TenantId,
    enrolled: Result<Enrolled, EnrolmentError>,
) -> Result<(Option<User>, Option<String>, Option<String>), Failure> {
    let Enrolled { user, authenticator, done } = enrolled.map_err(|error| match error {
        EnrolmentError::Password(unfit) => {
            UserError::new(UserErrorCode::InvalidInput, unfit, &["input", "password"]).into()
        }
        EnrolmentError::Engine(error) => Failure::from(error),
    })?;
    readable_behind(ctx, tenant, &done).await;
    let row = User::read(ctx, user).await.ok().flatten();
    Ok((row, Some(authenticator.expose().to_owned()), position(&done)))
}
