//! Anything with an id, found by it alone.

use async_graphql::{Context, ID, Interface, Result};

use super::access::{ApiKey, Tenant};
use super::audit::{self, AuditEntry};
use super::delivery::{self, Delivery, DeliveryAttempt};
use super::event_type::{self, EventType};
use super::message::Message;
use super::user::User;
use super::webhook::Webhook;
use crate::domain::id::{ApiKeyId, DeliveryId, MessageId, SubscriptionId, TenantId, UserId};

/// Something with an id.
#[derive(Interface)]
#[graphql(field(name = "id", ty = "ID", desc = "The same for ever; begins with letters that name the kind."))]
pub(super) enum Node {
    Webhook(Webhook),
    Message(Message),
    Delivery(Delivery),
    DeliveryAttempt(DeliveryAttempt),
    EventType(EventType),
    AuditEntry(AuditEntry),
    ApiKey(ApiKey),
    Tenant(Tenant),
    User(User),
}

impl Node {
    /// The caller's thing of that id. Needs the scope of its kind.
    pub(super) async fn find(ctx: &Context<'_>, id: &str) -> Result<Option<Self>> {
        let kind = id.split_inclusive('_').next().unwrap_or_default();
        Ok(match kind {
            SubscriptionId::PREFIX => Webhook::find(ctx, id).await?.map(Self::from),
            MessageId::PREFIX => Message::find(ctx, id).await?.map(Self::from),
            DeliveryId::PREFIX => Delivery::find(ctx, id).await?.map(Self::from),
            ApiKeyId::PREFIX => ApiKey::find(ctx, id).await?.map(Self::from),
            TenantId::PREFIX => Tenant::find(ctx, id).await?.map(Self::from),
            UserId::PREFIX => User::find(ctx, id).await?.map(Self::from),
            delivery::ATTEMPT_PREFIX => DeliveryAttempt::find(ctx, id).await?.map(Self::from),
            audit::PREFIX => AuditEntry::find(ctx, id).await?.map(Self::from),
            event_type::PREFIX => EventType::find(ctx, &id[event_type::PREFIX.len()..]).await?.map(Self::from),
            _ => None,
        })
    }
}
