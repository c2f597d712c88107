//! The way back from a deletion.

use async_graphql::{Context, ID, InputObject, Object, Result, SimpleObject};

use super::payloads;
use super::webhook::{addressed, position, read_back};
use crate::domain::scope::Scope;
use crate::graphql::caller::caller;
use crate::graphql::failure::{Failure, UserError, payload};
use crate::graphql::state;
use crate::graphql::webhook::Webhook;

/// Which webhook is to come back.
#[derive(InputObject)]
struct RestoreWebhookInput {
    /// Which webhook: the id that it had.
    webhook_id: ID,
}

/// What came of `restoreWebhook`.
#[derive(Default, SimpleObject)]
struct RestoreWebhookPayload {
    /// The webhook as it is now: disabled.
    webhook: Option<Webhook>,
    /// Place in the log of what was recorded; null if the webhook was there already.
    position: Option<String>,
    /// Why nothing was done; empty if it was.
    user_errors: Vec<UserError>,
}

payloads!(RestoreWebhookPayload);

#[derive(Default)]
pub(super) struct RestoreMutation;

#[Object]
impl RestoreMutation {
    /// Brings a deleted webhook back: disabled, with the same id, settings and signing secret, for as long as its profile
    /// says (`restoreWindowSeconds`). What was cancelled with its deletion, and what was published since, is not sent.
    /// Needs the scope `WEBHOOKS_WRITE`.
    async fn restore_webhook(
        &self,
        ctx: &Context<'_>,
        #[graphql(desc = "Which webhook.")] input: RestoreWebhookInput,
    ) -> Option<Result<RestoreWebhookPayload>> {
        payload(restore(ctx, input)).await
    }
}

async fn restore(ctx: &Context<'_>, input: RestoreWebhookInput) -> Result<RestoreWebhookPayload, Failure> {
    let (scope, id) = addressed(ctx, Scope::WebhooksWrite, &input.webhook_id)?;
    let done = state(ctx).engine.restore_subscription(scope.0, id, caller(ctx).meta()).await?;
    let webhook = read_back(ctx, scope, id, &done).await;
    Ok(RestoreWebhookPayload { webhook, position: position(&done), user_errors: vec![] })
}
