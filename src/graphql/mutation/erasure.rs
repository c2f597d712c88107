//! Erasing message data.

use async_graphql::{Context, ID, InputObject, Object, Result, SimpleObject};

use super::access::position;
use super::{payloads, readable};
use crate::actors::SubjectErasure;
use crate::domain::erasure::{MAX_MESSAGES, Refusal, Selector};
use crate::domain::filter::EventType;
use crate::domain::id::{ErasureId, MessageId, TenantId};
use crate::domain::scope::Scope;
use crate::event_store::Position;
use crate::graphql::caller::{authorise, caller};
use crate::graphql::erasure::Erasure;
use crate::graphql::failure::{Failure, UserError, UserErrorCode, internal, payload};
use crate::graphql::range::DateTimeRange;
use crate::graphql::scalar::Json;
use crate::graphql::{state, step_up};
use crate::projections::TenantScope;

/// Which messages' data is to be erased.
#[derive(InputObject)]
struct EraseMessagesInput {
    /// Which messages, 1 to 100. Nothing is erased if there is no such message among them.
    message_ids: Vec<ID>,
    /// Why, at most 500 characters. It is kept for ever: without personal data, please.
    reason: Option<String>,
}

/// What came of `eraseMessages`.
#[derive(Default, SimpleObject)]
struct EraseMessagesPayload {
    /// The receipt; null if the data of all of them had been erased before.
    erasure: Option<Erasure>,
    /// Ids of the messages whose data was erased now.
    erased_message_ids: Vec<ID>,
    /// Place in the log of what was recorded.
    position: Option<String>,
    /// Why nothing was done; empty if it was.
    user_errors: Vec<UserError>,
}

/// The data of which messages is to be erased, by what it says.
#[derive(InputObject)]
struct EraseMessagesOfSubjectInput {
    /// Where in the data to look: a JSON pointer (RFC 6901), as `/user/id`.
    pointer: String,
    /// What has to stand there: a text, a number or a boolean.
    equals: Json,
    /// Only messages of these event types, at most 100; absent: of all.
    types: Option<Vec<String>>,
    /// Only messages published in this time; absent: all that were published before this request.
    published_at: Option<DateTimeRange>,
    /// Why, at most 500 characters. It is kept for ever: without personal data, please.
    reason: Option<String>,
}

/// What came of `eraseMessagesOfSubject`.
#[derive(Default, SimpleObject)]
struct EraseMessagesOfSubjectPayload {
    /// The receipt. The messages are looked for behind this answer; `erasure` tells how far that is.
    erasure: Option<Erasure>,
    /// Place in the log of what was recorded.
    position: Option<String>,
    /// Why nothing was done; empty if it was.
    user_errors: Vec<UserError>,
}

/// Which tenant is to be erased.
#[derive(InputObject)]
struct EraseTenantInput {
    /// Which tenant.
    tenant_id: ID,
    /// Its public id once more, so that no other one is erased by mistake.
    slug: String,
    /// Why, at most 500 characters. It is kept for ever: without personal data, please.
    reason: Option<String>,
}

/// What came of `eraseTenant`.
#[derive(Default, SimpleObject)]
struct EraseTenantPayload {
    /// The receipt; the first one if the tenant was erased before.
    erasure: Option<Erasure>,
    /// Place in the log of what was recorded; null if the tenant was erased before.
    position: Option<String>,
    /// Why nothing was done; empty if it was.
    user_errors: Vec<UserError>,
}

payloads!(EraseMessagesPayload, EraseMessagesOfSubjectPayload, EraseTenantPayload);

#[derive(Default)]
pub(super) struct ErasureMutation;

#[Object]
impl ErasureMutation {
    /// Erases the data of messages for good. When this answers, nobody reads it any more, and it is sent by no attempt that
    /// begins from now on: what is still owed of them ends as failed, for the reason `data_erased`. Needs the scope
    /// `MESSAGES_ERASE`, and a person who has just proved themself, or a tenant that lets keys act unattended.
    async fn erase_messages(
        &self,
        ctx: &Context<'_>,
        #[graphql(desc = "Which messages.")] input: EraseMessagesInput,
    ) -> Option<Result<EraseMessagesPayload>> {
        payload(erase(ctx, input)).await
    }

    /// Erases the data of all messages about somebody that were published before, which are looked for in what is kept.
    /// Needs the scope `MESSAGES_ERASE`, and a person who has just proved themself, or a tenant that lets keys act
    /// unattended.
    async fn erase_messages_of_subject(
        &self,
        ctx: &Context<'_>,
        #[graphql(desc = "Which messages.")] input: EraseMessagesOfSubjectInput,
    ) -> Option<Result<EraseMessagesOfSubjectPayload>> {
        payload(erase_subject(ctx, input)).await
    }

    /// Erases a tenant: the data of all its messages, its webhooks with their secrets, and its users. Nothing is published
    /// for it from now on, and nothing brings it back. Needs the scope `TENANTS_ADMIN`, and a person who has just proved
    /// themself, or an operator's key where these count.
    async fn erase_tenant(
        &self,
        ctx: &Context<'_>,
        #[graphql(desc = "Which tenant.")] input: EraseTenantInput,
    ) -> Option<Result<EraseTenantPayload>> {
        payload(erase_tenant(ctx, input)).await
    }
}

async fn erase(ctx: &Context<'_>, input: EraseMessagesInput) -> Result<EraseMessagesPayload, Failure> {
    let tenant = authorise(ctx, Scope::MessagesErase)?.tenant;
    step_up::require(ctx, tenant).await?;
    let messages = located(ctx, tenant, &input.message_ids).await?;
    let engine = &state(ctx).engine;
    let erased = engine.erase_messages(tenant, &messages, input.reason, caller(ctx).meta()).await?;
    readable(ctx, erased.done.position).await;
    Ok(EraseMessagesPayload {
        erasure: read(ctx, erased.erasure).await?,
        erased_message_ids: erased.messages.into_iter().map(ID::from).collect(),
        position: position(&erased.done),
        user_errors: vec![],
    })
}

/// Where the messages stand. One that was just published is waited for.
async fn located(ctx: &Context<'_>, tenant: TenantId, ids: &[ID]) -> Result<Vec<(MessageId, Position)>, Failure> {
    if ids.is_empty() || ids.len() > MAX_MESSAGES {
        return Err(refused(&Refusal::Count));
    }
    let missing = |id: &str| refused(&Refusal::NoSuchMessage(id.chars().take(64).collect()));
    let wanted = ids.iter().map(|id| id.parse::<MessageId>().map_err(|_| missing(id)));
    let wanted: Vec<_> = wanted.collect::<Result<_, _>>()?;
    readable(ctx, Some(state(ctx).engine.head(tenant))).await;
    let found = state(ctx).read_models.messages_by_ids(TenantScope(tenant), &wanted).await;
    let found = found.map_err(|error| internal(&error))?;
    let position = |id: &MessageId| found.iter().find(|row| row.id == *id).map(|row| (*id, row.position));
    wanted.iter().map(|id| position(id).ok_or_else(|| missing(&id.to_string()))).collect()
}

async fn erase_subject(
    ctx: &Context<'_>,
    input: EraseMessagesOfSubjectInput,
) -> Result<EraseMessagesOfSubjectPayload, Failure> {
    let tenant = authorise(ctx, Scope::MessagesErase)?.tenant;
    step_up::require(ctx, tenant).await?;
    let EraseMessagesOfSubjectInput { pointer, equals: Json(equals), types, published_at, reason } = input;
    let equals = serde_json::from_str(&equals).map_err(|_| refused(&Refusal::Value))?;
    let selector = Selector::new(pointer, equals).map_err(|refusal| refused(&refusal))?;
    let types = types.unwrap_or_default().into_iter().map(|name| EventType::parse(&name)).collect::<Result<_, _>>();
    let event_types = types.map_err(|error| UserError::new(UserErrorCode::InvalidInput, error, &["input", "types"]))?;
    let (from, to) = published_at.unwrap_or_default().ends();
    let subject = SubjectErasure { selector, event_types, from, to, reason };
    let (erasure, done) = state(ctx).engine.erase_subject(tenant, subject, caller(ctx).meta()).await?;
    readable(ctx, done.position).await;
    let erasure = read(ctx, Some(erasure)).await?;
    Ok(EraseMessagesOfSubjectPayload { erasure, position: position(&done), user_errors: vec![] })
}

async fn erase_tenant(ctx: &Context<'_>, input: EraseTenantInput) -> Result<EraseTenantPayload, Failure> {
    let own = authorise(ctx, Scope::TenantsAdmin)?.tenant;
    let missing =
        || Failure::from(UserError::new(UserErrorCode::NotFound, "there is no such tenant", &["input", "tenantId"]));
    let tenant = input.tenant_id.parse::<TenantId>().map_err(|_| missing())?;
    let row = state(ctx).read_models.tenant(tenant).await.map_err(|error| internal(&error))?.ok_or_else(missing)?;
    step_up::require(ctx, tenant).await?;
    if row.slug != input.slug {
        let message = "this is not the public id of that tenant";
        return Err(UserError::new(UserErrorCode::InvalidInput, message, &["input", "slug"]).into());
    }
    if tenant == own {
        let message = "nobody erases the tenant that they belong to: the receipt would be lost with it";
        return Err(UserError::new(UserErrorCode::InvalidInput, message, &["input", "tenantId"]).into());
    }
    let (erasure, done) = state(ctx).engine.erase_tenant(tenant, input.reason, caller(ctx).meta()).await?;
    readable(ctx, done.position).await;
    Ok(EraseTenantPayload { erasure: read(ctx, Some(erasure)).await?, position: position(&done), user_errors: vec![] })
}

async fn read(ctx: &Context<'_>, erasure: Option<ErasureId>) -> Result<Option<Erasure>, Failure> {
    match erasure {
        Some(id) => Ok(Erasure::read(ctx, id).await?),
        None => Ok(None),
    }
}

fn refused(refusal: &Refusal) -> Failure {
    let code = UserErrorCode::of(refusal.code()).unwrap_or(UserErrorCode::InvalidInput);
    UserError::new(code, refusal, &["input", refusal.field()]).into()
}
