//! Publishing.

use async_graphql::{Context, ID, InputObject, Object, Result, SimpleObject};
use futures_util::StreamExt;
use futures_util::stream;

use super::{payloads, readable};
use crate::actors::{EngineError, Published};
use crate::domain::event::MessagePublished;
use crate::domain::message::{self, Draft, Publish};
use crate::domain::scope::Scope;
use crate::domain::time::Timestamp;
use crate::event_store::Position;
use crate::graphql::caller::{authorise, caller, named_tenant};
use crate::graphql::failure::{Failure, UserError, UserErrorCode, internal, payload};
use crate::graphql::message::Message;
use crate::graphql::page::items;
use crate::graphql::scalar::{DateTime, Json};
use crate::graphql::state;
use crate::projections::TenantScope;
use crate::projections::rows::MessageRow;

/// The most messages of one `publishMessages`.
const MAX_MESSAGES: usize = 100;

/// Something to announce.
#[derive(InputObject)]
struct PublishMessageInput {
    /// The event type's name, in the catalogue or registered by the tenant.
    #[graphql(name = "type")]
    event_type: String,
    /// The data, a JSON object of at most 256 KiB. Whole numbers past 64 bits are refused by their place, and fractions
    /// become the nearest double: `dataJson` keeps every digit. Exactly one of the two is given.
    data: Option<Json>,
    /// The data as JSON text, every digit of which is kept.
    data_json: Option<String>,
    /// 1 to 256 characters that stand for this message: the same again with the same key is the same message.
    idempotency_key: Option<String>,
    /// When the event happened; absent: now.
    occurred_at: Option<DateTime>,
    /// For which tenant; absent: the caller's. Another one needs the scope `TENANTS_ADMIN`.
    tenant_id: Option<ID>,
}

/// What came of `publishMessage`.
#[derive(Default, SimpleObject)]
struct PublishMessagePayload {
    /// The message.
    message: Option<Message>,
    /// Whether the same message had been published before, under the same idempotency key.
    duplicate: Option<bool>,
    /// Place in the log of what was recorded; null for a duplicate of a message published long ago.
    position: Option<String>,
    /// Why nothing was done; empty if it was.
    user_errors: Vec<UserError>,
}

/// Several things to announce.
#[derive(InputObject)]
struct PublishMessagesInput {
    /// The messages, at most 100. Each is accepted or refused on its own.
    messages: Vec<PublishMessageInput>,
}

/// What came of `publishMessages`.
#[derive(Default, SimpleObject)]
struct PublishMessagesPayload {
    /// What came of each message, in the order of the input.
    results: Vec<PublishMessageResult>,
    /// Place in the log of the last message that was recorded.
    position: Option<String>,
    /// Why nothing at all was done; empty if anything may have been.
    user_errors: Vec<UserError>,
}

/// What came of one of several messages.
#[derive(SimpleObject)]
struct PublishMessageResult {
    /// The message; null if it was refused or failed.
    message: Option<Message>,
    /// Whether the same message had been published before, under the same idempotency key.
    duplicate: Option<bool>,
    /// Why it was not published; empty if it was.
    user_errors: Vec<UserError>,
    /// Whether it was not published for a reason that is not the caller's: publish it again, with the same idempotency
    /// key if it has one.
    retry: bool,
}

payloads!(PublishMessagePayload, PublishMessagesPayload);

#[derive(Default)]
pub(super) struct MessageMutation;

#[Object]
impl MessageMutation {
    /// Accepts a message for delivery to every webhook whose filters match. It is on disk before this answers. Needs
    /// the scope `MESSAGES_PUBLISH`.
    async fn publish_message(
        &self,
        ctx: &Context<'_>,
        #[graphql(desc = "The message.")] input: PublishMessageInput,
    ) -> Option<Result<PublishMessagePayload>> {
        payload(publish(ctx, input)).await
    }

    /// Accepts several messages, in this order. Needs the scope `MESSAGES_PUBLISH`.
    #[graphql(complexity = "items(MAX_MESSAGES, child_complexity)")]
    async fn publish_messages(
        &self,
        ctx: &Context<'_>,
        #[graphql(desc = "The messages.")] input: PublishMessagesInput,
    ) -> Option<Result<PublishMessagesPayload>> {
        payload(publish_all(ctx, input)).await
    }
}

async fn publish(ctx: &Context<'_>, input: PublishMessageInput) -> Result<PublishMessagePayload, Failure> {
    let (scope, draft) = draft(ctx, input)?;
    let published = state(ctx).engine.publish(scope.0, draft, caller(ctx).meta()).await?;
    Ok(PublishMessagePayload {
        duplicate: Some(published.duplicate),
        position: published.position.map(|position| position.to_string()),
        message: message(ctx, scope, published).await?,
        user_errors: vec![],
    })
}

async fn publish_all(ctx: &Context<'_>, input: PublishMessagesInput) -> Result<PublishMessagesPayload, Failure> {
    authorise(ctx, Scope::MessagesPublish)?;
    if input.messages.len() > MAX_MESSAGES {
        let message = format!("at most {MAX_MESSAGES} messages are allowed");
        return Err(UserError::new(UserErrorCode::LimitExceeded, message, &["input", "messages"]).into());
    }
    // Handed over in order without waiting for each other: the log keeps the order, and one commit takes them all.
    let answers: Vec<_> = stream::iter(input.messages)
        .map(|item| async {
            let (scope, draft) = draft(ctx, item)?;
            let published = state(ctx).engine.publish(scope.0, draft, caller(ctx).meta()).await?;
            Ok::<_, Failure>((published.position, published.duplicate, message(ctx, scope, published).await?))
        })
        .buffered(MAX_MESSAGES)
        .collect()
        .await;
    if let Some(error) = nothing_but_failures(&answers) {
        return Err(error);
    }
    let position = answers.iter().filter_map(|answer| answer.as_ref().ok()?.0).max();
    let results = answers.into_iter().enumerate().map(|(index, answer)| match answer {
        Ok((_, duplicate, message)) => {
            PublishMessageResult { message, duplicate: Some(duplicate), user_errors: vec![], retry: false }
        }
        Err(failure) => PublishMessageResult::failed(failure, index),
    });
    Ok(PublishMessagesPayload {
        results: results.collect(),
        position: position.map(|position: Position| position.to_string()),
        user_errors: vec![],
    })
}

/// If not one message was accepted and none is refused for what it is, the whole is an error: so a full queue answers
/// as one.
fn nothing_but_failures<T>(answers: &[Result<T, Failure>]) -> Option<Failure> {
    let failed = |answer: &Result<T, Failure>| match answer {
        Err(Failure::Failed(error)) => Some(error.clone()),
        Err(Failure::Refused(_)) | Ok(_) => None,
    };
    answers
        .iter()
        .all(|answer| failed(answer).is_some())
        .then(|| answers.first().and_then(failed))?
        .map(Failure::Failed)
}

impl PublishMessageResult {
    fn failed(failure: Failure, index: usize) -> Self {
        let (user_errors, retry) = match failure {
            Failure::Refused(errors) => (errors.into_iter().map(|error| error.inside(index)).collect(), false),
            Failure::Failed(_) => (vec![], true),
        };
        Self { message: None, duplicate: None, user_errors, retry }
    }
}

fn draft(ctx: &Context<'_>, input: PublishMessageInput) -> Result<(TenantScope, Draft), Failure> {
    let tenant = named_tenant(ctx, Scope::MessagesPublish, input.tenant_id.as_deref().map(String::as_str))?;
    let (data, as_text) = match (input.data, input.data_json) {
        (Some(Json(text)), None) => (text, false),
        (None, Some(text)) => (text, true),
        (None, None) | (Some(_), Some(_)) => {
            let message = "exactly one of 'data' and 'dataJson' is needed";
            return Err(UserError::new(UserErrorCode::InvalidInput, message, &["input", "data"]).into());
        }
    };
    let publish = Publish {
        event_type: input.event_type,
        data,
        occurred_at: input.occurred_at.map(|at| at.0),
        idempotency_key: input.idempotency_key,
    };
    let draft =
        message::prepare(publish).map_err(|refusal| match (Failure::from(EngineError::from(refusal)), as_text) {
            (Failure::Refused(errors), true) => {
                Failure::Refused(errors.into_iter().map(|error| error.renamed("data", "dataJson")).collect())
            }
            (failure, _) => failure,
        })?;
    Ok((TenantScope(tenant), draft))
}

/// The message as it was just recorded; one of long ago from the read model.
async fn message(ctx: &Context<'_>, scope: TenantScope, published: Published) -> Result<Option<Message>> {
    let Published { message, position, at, event, .. } = published;
    match (position, at, event) {
        (Some(position), Some(at), Some(event)) => Ok(Some(Message(row(*event, at, position)))),
        _ => {
            readable(ctx, position.or_else(|| Some(state(ctx).engine.head(scope.0)))).await;
            let row = state(ctx).read_models.message(scope, message).await;
            Ok(row.map_err(|error| internal(&error))?.map(Message))
        }
    }
}

fn row(event: MessagePublished, at: Timestamp, position: Position) -> MessageRow {
    MessageRow {
        id: event.message,
        tenant: event.tenant,
        position,
        event_type: event.event_type,
        occurred_at: event.occurred_at,
        created_at: at,
        size_bytes: event.size_bytes,
        unstable: event.unstable,
        idempotency_key: event.idempotency_key,
        erased_at: None,
    }
}
