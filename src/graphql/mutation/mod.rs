//! The root of mutations.
//!
//! One input in, one payload out. A payload holds what was made, `userErrors`, and the `position` of what was recorded,
//! for reading one's own writes elsewhere. Before a thing is read for a payload, the read model is given two seconds to
//! reach that position; a thing that is not there by then is null in the payload, and done all the same.

mod access;
mod delivery;
mod erasure;
mod event_type;
mod job;
mod message;
mod person;
mod restore;
mod user;
mod waiting;
mod webhook;

use std::time::Duration;

use async_graphql::{Context, MergedObject};

use super::state;
use crate::actors::Done;
use crate::domain::id::TenantId;
use crate::event_store::Position;

/// What can be done. A field that fails is null and has its reason under `errors`; its neighbours are not touched.
#[derive(Default, MergedObject)]
pub(super) struct Mutation(
    webhook::WebhookMutation,
    restore::RestoreMutation,
    delivery::DeliveryMutation,
    waiting::WaitingMutation,
    job::JobMutation,
    message::MessageMutation,
    erasure::ErasureMutation,
    event_type::EventTypeMutation,
    access::AccessMutation,
    user::UserMutation,
    person::PersonMutation,
);

/// How long a mutation waits for the read model.
const READ_MODEL_WAIT: Duration = Duration::from_secs(2);

/// Waits for what was just recorded to be readable.
pub(super) async fn readable(ctx: &Context<'_>, position: Option<Position>) {
    if let Some(position) = position
        && !state(ctx).read_models.wait_for(position, READ_MODEL_WAIT).await
    {
        tracing::warn!(%position, "the read model is more than {READ_MODEL_WAIT:?} behind");
    }
}

/// Waits for what was just recorded for the tenant to be readable; where nothing had to change, for whatever made it so.
pub(super) async fn readable_behind(ctx: &Context<'_>, tenant: TenantId, done: &Done) {
    readable(ctx, done.position.or_else(|| Some(state(ctx).engine.head(tenant)))).await;
}

macro_rules! payloads {
    ($($name:ident),*) => {$(
        impl $crate::graphql::failure::Payload for $name {
            fn refused(user_errors: Vec<$crate::graphql::failure::UserError>) -> Self {
                Self { user_errors, ..Self::default() }
            }
        }
    )*};
}
use payloads;
