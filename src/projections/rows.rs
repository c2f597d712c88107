//! What the read models hold, as their readers get it.

use crate::domain::circuit::{CircuitState, TripCause};
use crate::domain::event::{ExpiryReason, SecretRotated};
use crate::domain::filter::{EventType, Filter};
use crate::domain::header::SealedHeaders;
use crate::domain::id::{ApiKeyId, DeliveryId, ErasureId, MessageId, SecretId, SubscriptionId, TenantId, UserId};
use crate::domain::notice::SealedRecipients;
use crate::domain::outcome::{FailureClass, FailureCode, Response};
use crate::domain::retry_policy::RetryPolicy;
use crate::domain::scope::Scope;
use crate::domain::time::Timestamp;
use crate::event_store::Position;

/// A tenant.
#[derive(Clone, Debug, PartialEq)]
pub struct TenantRow {
    /// Its id.
    pub id: TenantId,
    /// Its name.
    pub name: String,
    /// Its public id.
    pub slug: String,
    /// The delivery profile of its new subscriptions.
    pub profile: String,
    /// When it was created.
    pub created_at: Timestamp,
    /// Whether API keys may do what otherwise takes a person who has just proved themself.
    pub unattended_keys: bool,
    /// Since when it is erased, or being erased.
    pub erased_at: Option<Timestamp>,
}

/// Whose data an erasure is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ErasureKind {
    /// That of messages that were named.
    Messages,
    /// That of messages about somebody.
    Subject,
    /// All of the tenant's.
    Tenant,
}

/// Message data that somebody wanted gone.
#[derive(Clone, Debug, PartialEq)]
pub struct ErasureRow {
    /// Its id.
    pub id: ErasureId,
    /// Whose it is.
    pub tenant: TenantId,
    /// Whose data.
    pub kind: ErasureKind,
    /// The messages that were named and whose data was there.
    pub messages: Vec<MessageId>,
    /// In the words of whoever wanted it.
    pub reason: Option<String>,
    /// Of how many messages data was erased so far.
    pub message_count: u64,
    /// How large it was, in bytes.
    pub size_bytes: u64,
    /// How many webhooks were deleted with it.
    pub webhooks: u64,
    /// How many keys and secrets were destroyed with it.
    pub secrets: u64,
    /// Whether parts of it may stand in free space of the database's files.
    pub freed: bool,
    /// When it began.
    pub started_at: Timestamp,
    /// When the data had left the database's files.
    pub completed_at: Option<Timestamp>,
}

/// Somebody who logs in here.
#[derive(Clone, Debug, PartialEq)]
pub struct UserRow {
    /// Their id.
    pub id: UserId,
    /// Whose they are.
    pub tenant: TenantId,
    /// By which they log in.
    pub name: String,
    /// What they may do.
    pub scopes: Vec<Scope>,
    /// The sealed hash of their password.
    pub password: SecretId,
    /// The sealed secret of their one-time codes.
    pub totp: SecretId,
    /// Since when there is this user.
    pub created_at: Timestamp,
    /// Since when they may not log in; `None` if they may.
    pub disabled_at: Option<Timestamp>,
}

/// An API key, for showing it and for checking a caller's.
#[derive(Clone, Debug, PartialEq)]
pub struct ApiKeyRow {
    /// Its id.
    pub id: ApiKeyId,
    /// Whose it is.
    pub tenant: TenantId,
    /// What it is for.
    pub name: String,
    /// SHA-256 of its secret, in hex.
    pub hash: String,
    /// What it may do.
    pub scopes: Vec<Scope>,
    /// When it was made.
    pub created_at: Timestamp,
    /// When it stops working.
    pub expires_at: Option<Timestamp>,
    /// When it was withdrawn.
    pub revoked_at: Option<Timestamp>,
}

/// An event type that a tenant announced.
#[derive(Clone, Debug, PartialEq)]
pub struct EventTypeRow {
    /// The name.
    pub name: EventType,
    /// What it belongs to.
    pub category: String,
    /// What it tells.
    pub description: String,
    /// What its data looks like, in a word.
    pub version: String,
    /// JSON Schema of the data.
    pub schema: serde_json::Value,
    /// Data that conforms to it.
    pub example: Option<serde_json::Value>,
    /// Why it will not be published for ever; `None`: it will be.
    pub deprecation_reason: Option<String>,
    /// When it was registered.
    pub created_at: Timestamp,
}

/// A subscription.
#[derive(Clone, Debug, PartialEq, serde::Serialize, serde::Deserialize)]
pub struct WebhookRow {
    /// Its id.
    pub id: SubscriptionId,
    /// Whose it is.
    pub tenant: TenantId,
    /// Its delivery profile.
    pub profile: String,
    /// Where it sends.
    pub url: String,
    /// What it is for.
    pub description: Option<String>,
    /// Attempts a second at most.
    pub rate_limit_per_s: Option<u32>,
    /// Whether each delivery waits for the end of the one before.
    pub ordered: bool,
    /// Until when it pauses.
    pub hold_until: Option<Timestamp>,
    /// Its custom headers: all but their values.
    pub headers: Option<SealedHeaders>,
    /// Its own rules of trying again, in place of its profile's.
    pub retry_policy: Option<RetryPolicy>,
    /// Who is told what happens to it: all but the addresses.
    pub recipients: Option<SealedRecipients>,
    /// What it sends.
    pub filters: Vec<Filter>,
    /// Whether it sends.
    pub enabled: bool,
    /// Grows with every change.
    pub revision: u64,
    /// Its signing secrets, the current one first: all but the secret.
    pub secrets: Vec<SecretRow>,
    /// How far its circuit breaker lets it send.
    pub circuit: CircuitRow,
    /// When it was created.
    pub created_at: Timestamp,
    /// When it last changed.
    pub updated_at: Timestamp,
    /// When a delivery last succeeded or an attempt last failed.
    pub last_delivery_at: Option<Timestamp>,
}

/// A subscription that was deleted and can still be restored.
#[derive(Clone, Debug, PartialEq)]
pub struct DeletedWebhookRow {
    /// As it was at its end.
    pub webhook: WebhookRow,
    /// When it was deleted.
    pub deleted_at: Timestamp,
    /// Until when it can be restored.
    pub restorable_until: Timestamp,
}

/// How far a subscription's circuit breaker lets it send.
#[derive(Clone, Debug, Default, PartialEq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum CircuitRow {
    /// As ever.
    #[default]
    Closed,
    /// Nothing is sent.
    Open(Trip),
    /// It finds out whether the endpoint is well again.
    HalfOpen {
        /// Since when.
        since: Timestamp,
        /// What came before.
        trip: Trip,
    },
}

impl CircuitRow {
    /// In a word.
    pub fn state(&self) -> CircuitState {
        match self {
            Self::Closed => CircuitState::Closed,
            Self::Open(_) => CircuitState::Open,
            Self::HalfOpen { .. } => CircuitState::HalfOpen,
        }
    }
}

/// Why a circuit breaker tripped.
#[derive(Clone, Debug, PartialEq, serde::Serialize, serde::Deserialize)]
pub struct Trip {
    /// When.
    pub at: Timestamp,
    /// Why.
    pub cause: TripCause,
    /// How many failures counted.
    pub failures: u32,
    /// The delivery whose attempt was the last of them.
    pub delivery: DeliveryId,
    /// Why that attempt failed.
    pub code: FailureCode,
    /// The same in a sentence.
    pub detail: String,
    /// In which shard everything of the subscription stands.
    pub shard: u16,
    /// Messages behind this number of the shard wait in the log.
    pub matched_through: u64,
    /// When it tries again by itself.
    pub probe_at: Option<Timestamp>,
}

/// What may be known of a signing secret.
#[derive(Clone, Debug, PartialEq, serde::Serialize, serde::Deserialize)]
pub struct SecretRow {
    /// From 1.
    pub version: u32,
    /// Keyed fingerprint.
    pub fingerprint: String,
    /// Public key, if it is a private one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub public_key: Option<String>,
    /// Since when it signs.
    pub created_at: Timestamp,
    /// Until when it signs beside its successor; `None` for the current one.
    pub retires_at: Option<Timestamp>,
}

impl SecretRow {
    /// The secret that a rotation makes.
    pub fn rotated(event: &SecretRotated, at: Timestamp) -> Self {
        Self {
            version: event.version,
            fingerprint: event.fingerprint.clone(),
            public_key: event.public_key.clone(),
            created_at: at,
            retires_at: None,
        }
    }
}

/// A message; its data stands in the log.
#[derive(Clone, Debug, PartialEq)]
pub struct MessageRow {
    /// Its id.
    pub id: MessageId,
    /// Whose it is.
    pub tenant: TenantId,
    /// Its place in the log.
    pub position: Position,
    /// What kind of event it tells of.
    pub event_type: EventType,
    /// When that happened.
    pub occurred_at: Timestamp,
    /// When it was published.
    pub created_at: Timestamp,
    /// Size of its data.
    pub size_bytes: u32,
    /// Whether a JavaScript parser would write its data differently.
    pub unstable: bool,
    /// The publisher's key.
    pub idempotency_key: Option<String>,
    /// When its data was erased.
    pub erased_at: Option<Timestamp>,
}

/// How a delivery stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum DeliveryStatus {
    /// Waiting for its first or next attempt.
    Pending,
    /// An attempt succeeded.
    Succeeded,
    /// The last attempt failed.
    Failed,
    /// Its subscription was deleted, or somebody did not want it any more.
    Cancelled,
}

/// A delivery.
#[derive(Clone, Debug, PartialEq)]
pub struct DeliveryRow {
    /// Its id.
    pub id: DeliveryId,
    /// Whose it is.
    pub tenant: TenantId,
    /// Of which subscription.
    pub subscription: SubscriptionId,
    /// Of which message.
    pub message: MessageId,
    /// The message's number in the shard's log.
    pub message_seq: u64,
    /// The message's event type.
    pub event_type: EventType,
    /// How it stands.
    pub status: DeliveryStatus,
    /// Attempts made.
    pub attempts: u32,
    /// When it was scheduled.
    pub created_at: Timestamp,
    /// When it ended.
    pub completed_at: Option<Timestamp>,
    /// When its next attempt is due.
    pub next_attempt_at: Option<Timestamp>,
    /// Status of the last answer.
    pub last_status: Option<u16>,
    /// How long the last attempt took.
    pub last_latency_ms: Option<u64>,
    /// The delivery that it repeats.
    pub redelivery_of: Option<DeliveryId>,
    /// The message's place among all that the subscription has matched.
    pub sequence: Option<u64>,
    /// What was gone, if it failed for that.
    pub expiry: Option<ExpiryReason>,
}

/// An attempt.
#[derive(Clone, Debug, PartialEq)]
pub struct AttemptRow {
    /// Of which delivery.
    pub delivery: DeliveryId,
    /// From 1.
    pub number: u32,
    /// When it began.
    pub started_at: Timestamp,
    /// How long it took.
    pub latency_ms: u64,
    /// Why it failed; `None` for success.
    pub failure: Option<FailureCode>,
    /// The same in a sentence.
    pub detail: Option<String>,
    /// What the endpoint said.
    pub response: Option<Response>,
    /// What the failure says about the endpoint; `None` for success.
    pub class: Option<FailureClass>,
    /// The subscription's revision that it was sent under.
    pub revision: u64,
}

/// A row of the audit log.
#[derive(Clone, Debug, PartialEq)]
pub struct AuditRow {
    /// Whose it is.
    pub tenant: TenantId,
    /// Place of the event behind it; also the row's order and identity.
    pub position: Position,
    /// What happened: `TENANT_WEBHOOK_CREATED`.
    pub code: &'static str,
    /// When.
    pub at: Timestamp,
    /// Kind of whoever did it: `user`, `api_key` or `system`.
    pub actor_kind: String,
    /// Their id.
    pub actor_id: String,
    /// Id of what it was done to.
    pub target: String,
    /// In which request.
    pub request: Option<String>,
    /// From which address.
    pub ip: Option<String>,
    /// How the person behind it had proved themself.
    pub acr: Option<String>,
    /// When they had last done so.
    pub authenticated_at: Option<Timestamp>,
    /// What changed, by field: `{"url": {"from": …, "to": …}}`; secrets and URL queries are masked.
    pub changes: serde_json::Value,
}
