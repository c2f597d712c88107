//! Mutations of webhooks.

use async_graphql::{Context, Enum, ID, InputObject, MaybeUndefined, Object, Result, SimpleObject};

use super::{payloads, readable_behind};
use crate::actors::{Backlog, Done, NewSubscription, Sealable};
use crate::domain::filter::Filter;
use crate::domain::id::SubscriptionId;
use crate::domain::notice::GivenRecipients;
use crate::domain::scope::Scope;
use crate::domain::secret::Secret;
use crate::domain::subscription::{Command, Update};
use crate::graphql::caller::{authorise, caller, named_tenant};
use crate::graphql::failure::{Failure, UserError, UserErrorCode, payload};
use crate::graphql::header::{self, WebhookHeaderInput};
use crate::graphql::retry_policy::RetryPolicyInput;
use crate::graphql::scalar::DateTime;
use crate::graphql::webhook::Webhook;
use crate::graphql::{state, step_up};
use crate::projections::TenantScope;

/// A new webhook.
#[derive(InputObject)]
struct CreateWebhookInput {
    /// Where to send: an absolute `https://` URL whose host resolves.
    url: String,
    /// What to send: event types, or patterns in which `*` is one segment and `**` any number. At most 50.
    #[graphql(default)]
    event_filters: Vec<String>,
    /// What it is for, at most 200 characters.
    description: Option<String>,
    /// Whether it sends at once; absent: as the profile says.
    enabled: Option<bool>,
    /// A signing secret of your own, 32 to 256 visible ASCII characters; absent: one is generated. Libraries for Standard
    /// Webhooks take a generated one as it is, and your own as `whsec_` followed by the base64 of its bytes.
    #[graphql(secret)]
    secret: Option<String>,
    /// Name of the delivery profile; absent: the tenant's.
    profile: Option<String>,
    /// How many attempts it may make in a second, 1 to 10000, retries included. They are spread evenly; what is over the
    /// limit is sent later, never dropped. Absent or null: no limit of its own.
    rate_limit_per_second: Option<i32>,
    /// Whether it delivers in the order of the messages: one attempt at a time, and each delivery waits until the one
    /// before has succeeded, failed for good or been cancelled. A failure holds up everything behind it until its retries
    /// end.
    #[graphql(default)]
    ordered: bool,
    /// Headers that it sends beside those of its profile, as many as that allows (`maxCustomHeaders`).
    headers: Option<Vec<WebhookHeaderInput>>,
    /// Rules of its own for its attempts; absent or null: its profile's.
    retry_policy: Option<RetryPolicyInput>,
    /// Who is told by e-mail of what its profile says (`notices`), if the server sends any: at most 5 addresses, in ASCII.
    /// Sealed, and in no log.
    #[graphql(secret, default)]
    notification_emails: Vec<String>,
    /// For which tenant; absent: the caller's. Another one needs the scope `TENANTS_ADMIN`.
    tenant_id: Option<ID>,
}

/// What came of `createWebhook`.
#[derive(Default, SimpleObject)]
struct CreateWebhookPayload {
    /// The webhook.
    webhook: Option<Webhook>,
    /// The signing secret. Shown here and never again. Null if the profile signs by Ed25519: receivers then verify by
    /// `webhook.secrets.publicKey`, and nobody needs the private key.
    secret: Option<String>,
    /// Place in the log of what was recorded.
    position: Option<String>,
    /// Why nothing was done; empty if it was.
    user_errors: Vec<UserError>,
}

/// New settings of a webhook.
#[derive(InputObject)]
struct UpdateWebhookInput {
    /// Which webhook.
    webhook_id: ID,
    /// The version that the caller has seen; anything newer refuses the change. Absent: any.
    expected_version: Option<i32>,
    /// Where to send; absent or null: as before.
    url: Option<String>,
    /// What to send; absent or null: as before.
    event_filters: Option<Vec<String>>,
    /// What it is for; absent: as before, null: nothing.
    description: MaybeUndefined<String>,
    /// How many attempts it may make in a second, 1 to 10000, retries included, from now on; absent: as before, null: no
    /// limit of its own.
    rate_limit_per_second: MaybeUndefined<i32>,
    /// Whether it delivers in the order of the messages, one attempt at a time; absent or null: as before. Attempts that
    /// are under way when it is switched on end first.
    ordered: Option<bool>,
    /// Headers that it sends beside those of its profile, in place of all that it has; an empty list: none. Absent or null:
    /// as before. They go with the next attempt of what is under way too.
    headers: Option<Vec<WebhookHeaderInput>>,
    /// Rules of its own for its attempts, in place of all that it has; absent: as before, null: its profile's. They hold for
    /// what is under way too: an attempt that is due is made when it is due, and its end is judged by them.
    retry_policy: MaybeUndefined<RetryPolicyInput>,
    /// Who is told by e-mail of what its profile says, in place of all who were: at most 5 addresses; an empty list: nobody.
    /// Absent or null: as before.
    #[graphql(secret)]
    notification_emails: Option<Vec<String>>,
}

/// What came of `updateWebhook`.
#[derive(Default, SimpleObject)]
struct UpdateWebhookPayload {
    /// The webhook as it is now.
    webhook: Option<Webhook>,
    /// Place in the log of what was recorded; null if nothing had to change.
    position: Option<String>,
    /// Why nothing was done; empty if it was.
    user_errors: Vec<UserError>,
}

/// Which webhook is to send.
#[derive(InputObject)]
struct EnableWebhookInput {
    /// Which webhook.
    webhook_id: ID,
}

/// What came of `enableWebhook`.
#[derive(Default, SimpleObject)]
struct EnableWebhookPayload {
    /// The webhook as it is now.
    webhook: Option<Webhook>,
    /// Place in the log of what was recorded; null if it was enabled before.
    position: Option<String>,
    /// Why nothing was done; empty if it was.
    user_errors: Vec<UserError>,
}

/// Which webhook is to stop sending.
#[derive(InputObject)]
struct DisableWebhookInput {
    /// Which webhook.
    webhook_id: ID,
    /// Why, for the audit log; at most 200 characters.
    reason: Option<String>,
}

/// What came of `disableWebhook`.
#[derive(Default, SimpleObject)]
struct DisableWebhookPayload {
    /// The webhook as it is now.
    webhook: Option<Webhook>,
    /// Place in the log of what was recorded; null if it was disabled before.
    position: Option<String>,
    /// Why nothing was done; empty if it was.
    user_errors: Vec<UserError>,
}

/// Which webhook is to go.
#[derive(InputObject)]
struct DeleteWebhookInput {
    /// Which webhook.
    webhook_id: ID,
    /// The version that the caller has seen; anything newer refuses the deletion. Absent: any.
    expected_version: Option<i32>,
}

/// What came of `deleteWebhook`.
#[derive(Default, SimpleObject)]
struct DeleteWebhookPayload {
    /// Id of the webhook that is gone.
    deleted_webhook_id: Option<ID>,
    /// Place in the log of what was recorded.
    position: Option<String>,
    /// Why nothing was done; empty if it was.
    user_errors: Vec<UserError>,
}

/// Which webhook is to have a new signing secret.
#[derive(InputObject)]
struct RotateWebhookSecretInput {
    /// Which webhook.
    webhook_id: ID,
    /// A signing secret of your own, 32 to 256 visible ASCII characters; absent: one is generated. Libraries for Standard
    /// Webhooks take a generated one as it is, and your own as `whsec_` followed by the base64 of its bytes.
    #[graphql(secret)]
    secret: Option<String>,
    /// For how long the old secret goes on signing beside the new one, in seconds, within what the profile allows; 0:
    /// it stops at once. Absent: as the profile says.
    overlap_seconds: Option<i32>,
}

/// What came of `rotateWebhookSecret`.
#[derive(Default, SimpleObject)]
struct RotateWebhookSecretPayload {
    /// The webhook as it is now.
    webhook: Option<Webhook>,
    /// The new signing secret. Shown here and never again; null if the profile signs by Ed25519.
    secret: Option<String>,
    /// Until when the old secret goes on signing; null if it has stopped.
    previous_secret_valid_until: Option<DateTime>,
    /// Place in the log of what was recorded.
    position: Option<String>,
    /// Why nothing was done; empty if it was.
    user_errors: Vec<UserError>,
}

/// Which webhook is to pause.
#[derive(InputObject)]
struct HoldWebhookInput {
    /// Which webhook.
    webhook_id: ID,
    /// Nothing is sent before this; null: it pauses no more.
    until: Option<DateTime>,
    /// Why, for the audit log; at most 200 characters.
    reason: Option<String>,
}

/// What came of `holdWebhook`.
#[derive(Default, SimpleObject)]
struct HoldWebhookPayload {
    /// The webhook as it is now.
    webhook: Option<Webhook>,
    /// Place in the log of what was recorded; null if nothing had to change.
    position: Option<String>,
    /// Why nothing was done; empty if it was.
    user_errors: Vec<UserError>,
}

/// What becomes of everything that waited while a webhook's circuit breaker had tripped.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Enum)]
enum ReenableBacklog {
    /// It is delivered, the oldest first.
    Drain,
    /// What was published before a moment is not delivered.
    SkipBefore,
    /// It is not delivered.
    Discard,
}

/// Which webhook is to try again.
#[derive(InputObject)]
struct ReenableWebhookInput {
    /// Which webhook.
    webhook_id: ID,
    /// What becomes of everything that waited.
    backlog: ReenableBacklog,
    /// The moment of `SKIP_BEFORE`, and of nothing else.
    skip_before: Option<DateTime>,
}

/// What came of `reenableWebhook`.
#[derive(Default, SimpleObject)]
struct ReenableWebhookPayload {
    /// The webhook as it is now.
    webhook: Option<Webhook>,
    /// Place in the log of what was recorded; null if its circuit breaker had not tripped.
    position: Option<String>,
    /// Why nothing was done; empty if it was.
    user_errors: Vec<UserError>,
}

payloads!(
    HoldWebhookPayload,
    ReenableWebhookPayload,
    CreateWebhookPayload,
    UpdateWebhookPayload,
    EnableWebhookPayload,
    DisableWebhookPayload,
    DeleteWebhookPayload,
    RotateWebhookSecretPayload
);

#[derive(Default)]
pub(super) struct WebhookMutation;

#[Object]
impl WebhookMutation {
    /// Makes a webhook. Needs the scope `WEBHOOKS_WRITE`.
    async fn create_webhook(
        &self,
        ctx: &Context<'_>,
        #[graphql(desc = "The webhook.")] input: CreateWebhookInput,
    ) -> Option<Result<CreateWebhookPayload>> {
        payload(create(ctx, input)).await
    }

    /// Changes a webhook's settings; they hold for the next attempt of what is under way too. Needs the scope
    /// `WEBHOOKS_WRITE`.
    async fn update_webhook(
        &self,
        ctx: &Context<'_>,
        #[graphql(desc = "Which webhook, and what is to change.")] input: UpdateWebhookInput,
    ) -> Option<Result<UpdateWebhookPayload>> {
        payload(update(ctx, input)).await
    }

    /// Lets a webhook send. Messages of the time before are not sent. Needs the scope `WEBHOOKS_WRITE`.
    async fn enable_webhook(
        &self,
        ctx: &Context<'_>,
        #[graphql(desc = "Which webhook.")] input: EnableWebhookInput,
    ) -> Option<Result<EnableWebhookPayload>> {
        payload(async {
            let (webhook, position) = switch(ctx, &input.webhook_id, Command::Enable).await?;
            Ok(EnableWebhookPayload { webhook, position, ..EnableWebhookPayload::default() })
        })
        .await
    }

    /// Keeps a webhook from sending; what is under way waits until it is enabled again. Needs the scope
    /// `WEBHOOKS_WRITE`.
    async fn disable_webhook(
        &self,
        ctx: &Context<'_>,
        #[graphql(desc = "Which webhook.")] input: DisableWebhookInput,
    ) -> Option<Result<DisableWebhookPayload>> {
        payload(disable(ctx, input)).await
    }

    /// Lets a webhook pause until a moment, for maintenance of its endpoint: what matches waits, and is sent behind it. Needs
    /// the scope `WEBHOOKS_WRITE`.
    async fn hold_webhook(
        &self,
        ctx: &Context<'_>,
        #[graphql(desc = "Which webhook, and until when.")] input: HoldWebhookInput,
    ) -> Option<Result<HoldWebhookPayload>> {
        payload(hold(ctx, input)).await
    }

    /// Lets a webhook send again whose circuit breaker has tripped: one delivery as a probe, then slowly more. Nothing
    /// happens where it has not. Needs the scope `WEBHOOKS_WRITE`.
    async fn reenable_webhook(
        &self,
        ctx: &Context<'_>,
        #[graphql(desc = "Which webhook, and what becomes of what waited.")] input: ReenableWebhookInput,
    ) -> Option<Result<ReenableWebhookPayload>> {
        payload(reenable(ctx, input)).await
    }

    /// Deletes a webhook, and cancels what is under way. It can be restored for as long as its profile says
    /// (`restoreWindowSeconds`); then, or at once, its signing secret is destroyed. Needs the scope `WEBHOOKS_WRITE`.
    async fn delete_webhook(
        &self,
        ctx: &Context<'_>,
        #[graphql(desc = "Which webhook.")] input: DeleteWebhookInput,
    ) -> Option<Result<DeleteWebhookPayload>> {
        payload(delete(ctx, input)).await
    }

    /// Gives a webhook a new signing secret. Needs the scope `SECRETS_ROTATE`, and a person who has just proved themself, or
    /// a tenant that lets keys act unattended.
    async fn rotate_webhook_secret(
        &self,
        ctx: &Context<'_>,
        #[graphql(desc = "Which webhook.")] input: RotateWebhookSecretInput,
    ) -> Option<Result<RotateWebhookSecretPayload>> {
        payload(rotate(ctx, input)).await
    }
}

async fn create(ctx: &Context<'_>, input: CreateWebhookInput) -> Result<CreateWebhookPayload, Failure> {
    let tenant = named_tenant(ctx, Scope::WebhooksWrite, input.tenant_id.as_deref().map(String::as_str))?;
    let new = NewSubscription {
        url: input.url,
        filters: filters(&input.event_filters)?,
        description: input.description,
        enabled: input.enabled,
        secret: input.secret,
        profile: input.profile,
        rate_limit_per_s: input.rate_limit_per_second.map(rate_limit),
        ordered: input.ordered,
        headers: header::given(input.headers.unwrap_or_default()),
        retry_policy: input.retry_policy.and_then(RetryPolicyInput::given),
        recipients: GivenRecipients::of(input.notification_emails),
    };
    let (id, secret, done) = state(ctx).engine.create_subscription(tenant, new, caller(ctx).meta()).await?;
    // The secret is shown in this answer or never: a read model that fails must not take it away.
    let webhook = read_back(ctx, TenantScope(tenant), id, &done).await;
    let secret = shown(&secret);
    Ok(CreateWebhookPayload { webhook, secret, position: position(&done), user_errors: vec![] })
}

async fn update(ctx: &Context<'_>, input: UpdateWebhookInput) -> Result<UpdateWebhookPayload, Failure> {
    let (scope, id) = addressed(ctx, Scope::WebhooksWrite, &input.webhook_id)?;
    let change = Update {
        expected_revision: version(input.expected_version)?,
        url: input.url,
        description: match input.description {
            MaybeUndefined::Undefined => None,
            MaybeUndefined::Null => Some(None),
            MaybeUndefined::Value(text) => Some(Some(text)),
        },
        filters: input.event_filters.map(|texts| filters(&texts)).transpose()?,
        rate_limit_per_s: match input.rate_limit_per_second {
            MaybeUndefined::Undefined => None,
            MaybeUndefined::Null => Some(None),
            MaybeUndefined::Value(per_s) => Some(Some(rate_limit(per_s))),
        },
        ordered: input.ordered,
        headers: None,
        retry_policy: match input.retry_policy {
            MaybeUndefined::Undefined => None,
            MaybeUndefined::Null => Some(None),
            MaybeUndefined::Value(policy) => Some(policy.given()),
        },
        recipients: None,
    };
    let given = Sealable {
        headers: input.headers.map(header::given),
        recipients: input.notification_emails.map(GivenRecipients::of),
    };
    let done = state(ctx).engine.update_subscription(scope.0, id, change, given, caller(ctx).meta()).await?;
    let webhook = read_back(ctx, scope, id, &done).await;
    Ok(UpdateWebhookPayload { webhook, position: position(&done), user_errors: vec![] })
}

/// What is negative is as far out of range as nothing at all, and refused as that.
fn rate_limit(per_s: i32) -> u32 {
    u32::try_from(per_s).unwrap_or(0)
}

async fn hold(ctx: &Context<'_>, input: HoldWebhookInput) -> Result<HoldWebhookPayload, Failure> {
    authorise(ctx, Scope::WebhooksWrite)?;
    check_reason(input.reason.as_deref())?;
    let command = Command::Hold { until: input.until.map(|until| until.0), reason: input.reason };
    let (webhook, position) = switch(ctx, &input.webhook_id, command).await?;
    Ok(HoldWebhookPayload { webhook, position, user_errors: vec![] })
}

pub(super) fn check_reason(reason: Option<&str>) -> Result<(), Failure> {
    if reason.is_some_and(|reason| reason.chars().count() > MAX_REASON_CHARS) {
        let message = format!("a reason has at most {MAX_REASON_CHARS} characters");
        return Err(UserError::new(UserErrorCode::InvalidInput, message, &["input", "reason"]).into());
    }
    Ok(())
}

async fn disable(ctx: &Context<'_>, input: DisableWebhookInput) -> Result<DisableWebhookPayload, Failure> {
    authorise(ctx, Scope::WebhooksWrite)?;
    check_reason(input.reason.as_deref())?;
    let (webhook, position) = switch(ctx, &input.webhook_id, Command::Disable { reason: input.reason }).await?;
    Ok(DisableWebhookPayload { webhook, position, user_errors: vec![] })
}

/// The most characters of a reason.
const MAX_REASON_CHARS: usize = 200;

async fn switch(ctx: &Context<'_>, id: &ID, command: Command) -> Result<(Option<Webhook>, Option<String>), Failure> {
    let (scope, id) = addressed(ctx, Scope::WebhooksWrite, id)?;
    let done = state(ctx).engine.subscription(scope.0, id, command, caller(ctx).meta()).await?;
    Ok((read_back(ctx, scope, id, &done).await, position(&done)))
}

async fn reenable(ctx: &Context<'_>, input: ReenableWebhookInput) -> Result<ReenableWebhookPayload, Failure> {
    let (scope, id) = addressed(ctx, Scope::WebhooksWrite, &input.webhook_id)?;
    let invalid = |message: &str| UserError::new(UserErrorCode::InvalidInput, message, &["input", "skipBefore"]);
    let backlog = match (input.backlog, input.skip_before) {
        (ReenableBacklog::Drain, None) => Backlog::Drain,
        (ReenableBacklog::Discard, None) => Backlog::Discard,
        (ReenableBacklog::SkipBefore, Some(moment)) => Backlog::SkipBefore(moment.0),
        (ReenableBacklog::SkipBefore, None) => return Err(invalid("SKIP_BEFORE needs its moment").into()),
        (ReenableBacklog::Drain | ReenableBacklog::Discard, Some(_)) => {
            return Err(invalid("a moment is for SKIP_BEFORE alone").into());
        }
    };
    let done = state(ctx).engine.reenable(scope.0, id, backlog, caller(ctx).meta()).await?;
    let webhook = read_back(ctx, scope, id, &done).await;
    Ok(ReenableWebhookPayload { webhook, position: position(&done), user_errors: vec![] })
}

async fn delete(ctx: &Context<'_>, input: DeleteWebhookInput) -> Result<DeleteWebhookPayload, Failure> {
    let (scope, id) = addressed(ctx, Scope::WebhooksWrite, &input.webhook_id)?;
    let expected = version(input.expected_version)?;
    let done = state(ctx).engine.delete_subscription(scope.0, id, expected, caller(ctx).meta()).await?;
    readable_behind(ctx, scope.0, &done).await;
    Ok(DeleteWebhookPayload { deleted_webhook_id: Some(id.into()), position: position(&done), user_errors: vec![] })
}

async fn rotate(ctx: &Context<'_>, input: RotateWebhookSecretInput) -> Result<RotateWebhookSecretPayload, Failure> {
    let tenant = authorise(ctx, Scope::SecretsRotate)?.tenant;
    step_up::require(ctx, tenant).await?;
    let (scope, id) = addressed(ctx, Scope::SecretsRotate, &input.webhook_id)?;
    let overlap_s = input.overlap_seconds.map(u64::try_from).transpose().map_err(|_| {
        UserError::new(UserErrorCode::InvalidInput, "an overlap is not negative", &["input", "overlapSeconds"])
    })?;
    let own = input.secret.as_deref();
    let (secret, done) = state(ctx).engine.rotate_secret(scope.0, id, own, overlap_s, caller(ctx).meta()).await?;
    let previous = done.settings.as_ref().and_then(|settings| settings.secrets.get(1)?.retires_at);
    let webhook = read_back(ctx, scope, id, &done).await;
    Ok(RotateWebhookSecretPayload {
        webhook,
        secret: shown(&secret),
        previous_secret_valid_until: previous.filter(|at| *at > state(ctx).clock.now()).map(DateTime),
        position: position(&done),
        user_errors: vec![],
    })
}

/// The caller's webhook that an input names; any other is like one that does not exist.
pub(super) fn addressed(ctx: &Context<'_>, scope: Scope, id: &ID) -> Result<(TenantScope, SubscriptionId), Failure> {
    let tenant = authorise(ctx, scope)?.tenant;
    let missing = |_| UserError::new(UserErrorCode::NotFound, "there is no such webhook", &["input", "webhookId"]);
    Ok((TenantScope(tenant), id.parse().map_err(missing)?))
}

pub(super) fn filters(texts: &[String]) -> Result<Vec<Filter>, Failure> {
    let parse = |(index, text): (usize, &String)| {
        Filter::parse(text).map_err(|error| {
            let path = ["input", "eventFilters", &index.to_string()];
            UserError::new(UserErrorCode::WebhookFilterInvalid, error, &path)
        })
    };
    let (parsed, errors): (Vec<_>, Vec<_>) = texts.iter().enumerate().map(parse).partition(Result::is_ok);
    let errors: Vec<_> = errors.into_iter().filter_map(Result::err).take(MAX_FILTER_ERRORS).collect();
    if errors.is_empty() { Ok(parsed.into_iter().flatten().collect()) } else { Err(Failure::Refused(errors)) }
}

/// How many bad filters are told apart in one answer.
const MAX_FILTER_ERRORS: usize = 20;

fn version(expected: Option<i32>) -> Result<Option<u64>, Failure> {
    expected.map(u64::try_from).transpose().map_err(|_| {
        UserError::new(UserErrorCode::InvalidInput, "a version is not negative", &["input", "expectedVersion"]).into()
    })
}

/// The webhook after a change. What was done is done: a read model that fails leaves it null and is told in the log.
pub(super) async fn read_back(
    ctx: &Context<'_>,
    scope: TenantScope,
    id: SubscriptionId,
    done: &Done,
) -> Option<Webhook> {
    readable_behind(ctx, scope.0, done).await;
    Webhook::read(ctx, scope, id).await.ok().flatten()
}

pub(super) fn position(done: &Done) -> Option<String> {
    done.position.map(|position| position.to_string())
}

/// What its receivers need to know of a secret: of a private key, nothing.
fn shown(secret: &Secret) -> Option<String> {
    secret.public_key().is_none().then(|| secret.expose().to_owned())
}
