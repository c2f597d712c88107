//! What a credential may do.

use serde::{Deserialize, Serialize};

/// One permission of an API key. Stored and shown by these names.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
pub enum Scope {
    /// See subscriptions and the catalogue.
    WebhooksRead,
    /// Create, change, delete and test subscriptions, and register event types.
    WebhooksWrite,
    /// Make a new signing secret.
    SecretsRotate,
    /// See messages, deliveries and attempts.
    DeliveriesRead,
    /// Ask for a delivery again.
    DeliveriesRedeliver,
    /// Publish messages.
    MessagesPublish,
    /// Erase the data of messages.
    MessagesErase,
    /// Read the audit log.
    AuditRead,
    /// Make and withdraw API keys.
    KeysAdmin,
    /// Make tenants, and act for any of them.
    TenantsAdmin,
}

impl Scope {
    /// Every scope.
    pub const ALL: [Self; 10] = [
        Self::WebhooksRead,
        Self::WebhooksWrite,
        Self::SecretsRotate,
        Self::DeliveriesRead,
        Self::DeliveriesRedeliver,
        Self::MessagesPublish,
        Self::MessagesErase,
        Self::AuditRead,
        Self::KeysAdmin,
        Self::TenantsAdmin,
    ];
}
