//! Everything that is ever recorded.
//!
//! A recorded event is a fact and stays readable for ever: a field may be added if it is optional; anything else is a
//! new schema version with an upcaster in `codec`. When an event happened and who caused it stand beside the payload.

mod circuit;
mod deletion;
mod egress;
mod erasure;
mod event_type;
mod keys;
mod period;
mod user;
mod waiting;

pub use circuit::{CircuitClosed, CircuitProbing, CircuitReenabled, CircuitTripped, MatchesLost, ReenableMode};
pub use deletion::{SecretsDestroyed, SubscriptionDeleted, SubscriptionRestored};
pub use egress::{ConfigChanged, EgressBlocked};
pub use erasure::{ErasureAdvanced, ErasureCompleted, ErasureScope, ErasureStarted, PayloadErased};
pub use event_type::{EventTypeRegistered, EventTypeUpdated};
pub use keys::KekRotated;
pub use period::{CarriedDelivery, DeliveriesCarried, DeliveriesPeriodOpened};
pub use user::{
    Occasion, TenantSettingsChanged, UserAdded, UserAuthenticationFailed, UserCredentialsReset, UserDisabled,
};
pub use waiting::{CancellationRequested, DeliveryRescheduled, LastFailure, RescheduleRequested};

use serde::{Deserialize, Serialize};

use super::filter::{EventType, Filter};
use super::header::SealedHeaders;
use super::id::{ApiKeyId, DeliveryId, JobId, MessageId, SecretId, SubscriptionId, TenantId};
use super::job::{JobEnded, JobProgress, JobStarted};
use super::notice::SealedRecipients;
use super::outcome::{FailureClass, FailureCode, Response};
use super::retry_policy::RetryPolicy;
use super::scope::Scope;
use super::time::Timestamp;

/// Any recorded event, by the kind of its stream.
#[derive(Clone, Debug, PartialEq)]
pub enum Event {
    /// In `tenant-…`.
    Tenant(TenantEvent),
    /// In `messages-…`, one stream for each tenant.
    Message(MessageEvent),
    /// In `subscription-…`.
    Subscription(SubscriptionEvent),
    /// In `deliveries-…`, one stream for each subscription.
    Delivery(DeliveryEvent),
}

impl Event {
    /// Whether the stream that it stands in need not be read before it any more.
    pub fn opens_period(&self) -> bool {
        match self {
            Self::Message(event) => matches!(event, MessageEvent::PeriodOpened(_)),
            Self::Delivery(event) => matches!(event, DeliveryEvent::PeriodOpened(_)),
            Self::Tenant(_) | Self::Subscription(_) => false,
        }
    }
}

/// What happens to a tenant.
#[derive(Clone, Debug, PartialEq)]
pub enum TenantEvent {
    /// It came into being.
    Created(TenantCreated),
    /// It announced an event type of its own.
    EventTypeRegistered(EventTypeRegistered),
    /// It changed the definition of one of its own event types.
    EventTypeUpdated(EventTypeUpdated),
    /// An API key was made for it.
    ApiKeyIssued(ApiKeyIssued),
    /// An API key was withdrawn.
    ApiKeyRevoked(ApiKeyRevoked),
    /// Its settings changed.
    SettingsChanged(TenantSettingsChanged),
    /// Somebody may log in from now on.
    UserAdded(UserAdded),
    /// Somebody has a new password and new one-time codes.
    UserCredentialsReset(UserCredentialsReset),
    /// Somebody may not log in any more.
    UserDisabled(UserDisabled),
    /// Somebody could not prove that they are a user.
    UserAuthenticationFailed(UserAuthenticationFailed),
    /// The installation itself is configured otherwise. Stands in the stream of [`TenantId::INSTALLATION`] alone.
    ConfigChanged(ConfigChanged),
    /// Somebody wants message data gone.
    ErasureStarted(ErasureStarted),
    /// An erasure has looked through more of the log.
    ErasureAdvanced(ErasureAdvanced),
    /// What was erased has left the database's files as well.
    ErasureCompleted(ErasureCompleted),
    /// Another key of the operator's seals. Stands there too.
    KekRotated(KekRotated),
}

/// A tenant came into being.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct TenantCreated {
    /// Its id.
    pub tenant: TenantId,
    /// Its name, for people.
    pub name: String,
    /// Its public id, which receivers see in the envelope (`ent_…`, `ws_…`).
    pub slug: String,
    /// The delivery profile of its new subscriptions.
    pub profile: String,
}

/// An API key was made.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ApiKeyIssued {
    /// Its id, which is part of the key.
    pub key: ApiKeyId,
    /// What it is for.
    pub name: String,
    /// `hmac-sha256:` and the HMAC of its 256-bit secret, in hex; or only hex: its SHA-256.
    pub hash: String,
    /// What it may do.
    pub scopes: Vec<Scope>,
    /// When it stops working.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub expires_at: Option<Timestamp>,
}

/// An API key was withdrawn.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ApiKeyRevoked {
    /// Its id.
    pub key: ApiKeyId,
}

/// What happens to messages.
#[derive(Clone, Debug, PartialEq)]
pub enum MessageEvent {
    /// One was accepted for delivery.
    Published(MessagePublished),
    /// The data of some was erased.
    PayloadErased(PayloadErased),
    /// What was published before need not be read any more.
    PeriodOpened(MessagesPeriodOpened),
}

/// A message was accepted. Its data stands beside the event, where it can be erased.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct MessagePublished {
    /// Its id.
    pub message: MessageId,
    /// Whose it is.
    pub tenant: TenantId,
    /// The tenant's public id at that time; part of the bodies.
    pub tenant_slug: String,
    /// What kind of event it tells of.
    pub event_type: EventType,
    /// When that event happened.
    pub occurred_at: Timestamp,
    /// Size of the canonical data.
    pub size_bytes: u32,
    /// SHA-256 of salt and data, in hex; the salt stands with the data.
    pub digest: String,
    /// Whether the data is not a fixed point of a JavaScript parser, so that receivers that re-serialise it will fail
    /// to verify (A25).
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub unstable: bool,
    /// The publisher's key against publishing twice.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub idempotency_key: Option<String>,
}

/// A new period of a tenant's messages. It carries nothing: no message means anything to a later one.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct MessagesPeriodOpened {}

/// What happens to a subscription, its deliveries aside.
#[derive(Clone, Debug, PartialEq)]
pub enum SubscriptionEvent {
    /// It came into being.
    Created(SubscriptionCreated),
    /// Its settings changed.
    Updated(SubscriptionUpdated),
    /// It began, or began again, to send.
    Enabled(SubscriptionEnabled),
    /// It stopped sending.
    Disabled(SubscriptionDisabled),
    /// It has a new signing secret.
    SecretRotated(SecretRotated),
    /// A test delivery was sent.
    TestSent(TestSent),
    /// A delivery was asked for again.
    RedeliveryRequested(RedeliveryRequested),
    /// A delivery was moved to another time.
    RescheduleRequested(RescheduleRequested),
    /// A delivery was called off.
    CancellationRequested(CancellationRequested),
    /// It pauses until a moment, or pauses no more.
    HoldChanged(HoldChanged),
    /// Its circuit breaker tripped: nothing is sent any more.
    CircuitTripped(CircuitTripped),
    /// Somebody let it try again.
    CircuitReenabled(CircuitReenabled),
    /// It tries again by itself.
    CircuitProbing(CircuitProbing),
    /// The endpoint is well again.
    CircuitClosed(CircuitClosed),
    /// Messages that waited in the log are gone.
    MatchesLost(MatchesLost),
    /// The operator's rules kept an attempt from being made.
    EgressBlocked(EgressBlocked),
    /// Somebody started a job.
    JobStarted(JobStarted),
    /// Its job has ended.
    JobEnded(JobEnded),
    /// It is gone, and with it every delivery that had not ended.
    Deleted(SubscriptionDeleted),
    /// Somebody brought it back, disabled.
    Restored(SubscriptionRestored),
    /// Nobody can bring it back any more.
    SecretsDestroyed(SecretsDestroyed),
}

/// A subscription came into being.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct SubscriptionCreated {
    /// Its id.
    pub subscription: SubscriptionId,
    /// Whose it is.
    pub tenant: TenantId,
    /// Its delivery profile.
    pub profile: String,
    /// Where to send.
    pub url: String,
    /// What it is for, for people.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub description: Option<String>,
    /// What to send.
    pub filters: Vec<Filter>,
    /// Whether it sends at once.
    pub enabled: bool,
    /// The signing secret, which is version 1.
    pub secret: SecretId,
    /// Its keyed fingerprint.
    pub fingerprint: String,
    /// Its public key, if it is a private one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub public_key: Option<String>,
    /// Attempts a second at most; absent: as many as permits allow.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rate_limit_per_s: Option<u32>,
    /// Whether each delivery waits for the end of the one before; absent: no.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub ordered: bool,
    /// Its custom headers; absent: none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub headers: Option<SealedHeaders>,
    /// Its own rules of trying again; absent: its profile's hold.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub retry_policy: Option<RetryPolicy>,
    /// Who is told what happens to it; absent: nobody.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub recipients: Option<SealedRecipients>,
}

/// From one value to another.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Change<T> {
    /// Before.
    pub from: T,
    /// After.
    pub to: T,
}

/// A subscription's settings changed; what is absent stayed.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct SubscriptionUpdated {
    /// Where to send.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub url: Option<Change<String>>,
    /// What it is for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub description: Option<Change<Option<String>>>,
    /// What to send.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub filters: Option<Change<Vec<Filter>>>,
    /// Attempts a second at most.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rate_limit_per_s: Option<Change<Option<u32>>>,
    /// Whether each delivery waits for the end of the one before.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ordered: Option<Change<bool>>,
    /// Its custom headers.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub headers: Option<Change<Option<SealedHeaders>>>,
    /// Its own rules of trying again.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub retry_policy: Option<Change<Option<RetryPolicy>>>,
    /// Who is told what happens to it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub recipients: Option<Change<Option<SealedRecipients>>>,
}

/// A subscription began, or began again, to send.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct SubscriptionEnabled {}

/// A subscription stopped sending.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct SubscriptionDisabled {
    /// In the words of whoever did it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// What made the system do it; absent if somebody did.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cause: Option<DisableCause>,
}

/// What makes the system disable a subscription. The words are stored in events.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum DisableCause {
    /// The endpoint answered that it wants nothing any more (410).
    EndpointGone,
}

/// A subscription pauses until a moment, or pauses no more: a maintenance window.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct HoldChanged {
    /// Nothing is sent before this; absent if it pauses no more.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub until: Option<Timestamp>,
    /// In the words of whoever did it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
}

/// A subscription has a new signing secret.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct SecretRotated {
    /// The new one.
    pub secret: SecretId,
    /// Its version.
    pub version: u32,
    /// Its keyed fingerprint.
    pub fingerprint: String,
    /// Until when the one before goes on signing beside it; absent if it stopped at once.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub previous_retires_at: Option<Timestamp>,
    /// Its public key, if it is a private one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub public_key: Option<String>,
}

/// A test delivery was sent. It changes nothing (S27); where the profile wants one, it lets the subscription be enabled
/// (C12).
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct TestSent {
    /// The event type that it pretended to tell of.
    pub event_type: EventType,
    /// Whether the profile counts the answer as success.
    pub verified: bool,
    /// The answer's status.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub status: Option<u16>,
    /// Why there was no usable answer.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub failure: Option<FailureCode>,
    /// How long it took.
    pub latency_ms: u64,
    /// The subscription's revision that it was sent under; absent in events from before it was recorded.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub revision: Option<u64>,
}

/// Somebody asked for a delivery again.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct RedeliveryRequested {
    /// The delivery that had ended.
    pub original: DeliveryId,
    /// The new one.
    pub delivery: DeliveryId,
    /// Of this message.
    pub message: MessageId,
}

/// What happens to a delivery.
#[derive(Clone, Debug, PartialEq)]
pub enum DeliveryEvent {
    /// A message is owed to the subscription.
    Scheduled(DeliveryScheduled),
    /// An attempt failed.
    AttemptFailed(AttemptFailed),
    /// An attempt succeeded; the delivery has ended.
    Succeeded(DeliverySucceeded),
    /// The last attempt failed; the delivery has ended.
    Exhausted(DeliveryExhausted),
    /// Its message is gone; the delivery has ended.
    Expired(DeliveryExpired),
    /// Its next attempt is due at another time than its schedule had said.
    Rescheduled(DeliveryRescheduled),
    /// Somebody did not want it any more; the delivery has ended.
    Cancelled(DeliveryCancelled),
    /// A message is owed that was not wanted when it was published: a job's doing.
    Backfilled(DeliveryBackfilled),
    /// The job has come further; what that led to stands before it in the same append.
    JobAdvanced(JobProgress),
    /// What happened before need not be read any more.
    PeriodOpened(DeliveriesPeriodOpened),
    /// Goes on with the period's beginning, in the same append.
    Carried(DeliveriesCarried),
}

/// A message is owed to the subscription; its first attempt is due at once.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct DeliveryScheduled {
    /// Its id.
    pub delivery: DeliveryId,
    /// The message.
    pub message: MessageId,
    /// The message's number in the shard's log.
    pub message_seq: u64,
    /// The subscription's revision when it was scheduled.
    pub revision: u64,
    /// The message's place among all that the subscription has matched, from 1, without gaps. A repetition has that of
    /// the first; absent in events from before there were such numbers.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sequence: Option<u64>,
    /// The ended delivery that this one repeats.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub redelivery_of: Option<DeliveryId>,
}

/// A message is owed that the subscription did not want when it was published; its first attempt is due at once. It was
/// never matched, so it has no place among what was.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct DeliveryBackfilled {
    /// Its id.
    pub delivery: DeliveryId,
    /// The message.
    pub message: MessageId,
    /// The message's number in the shard's log.
    pub message_seq: u64,
    /// The subscription's revision when it was scheduled.
    pub revision: u64,
    /// The job that did it.
    pub job: JobId,
}

/// An attempt failed.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct AttemptFailed {
    /// Of this delivery.
    pub delivery: DeliveryId,
    /// The attempt's number, from 1.
    pub number: u32,
    /// When it began.
    pub started_at: Timestamp,
    /// How long it took.
    pub latency_ms: u64,
    /// Why it failed.
    pub code: FailureCode,
    /// The same in a sentence.
    pub detail: String,
    /// What the endpoint said, if it said anything whole.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub response: Option<Response>,
    /// The subscription's revision that it was sent under.
    pub revision: u64,
    /// What that says about the endpoint.
    pub class: FailureClass,
    /// How many failed attempts the schedule counts now; a local failure need not be one.
    pub failures: u32,
    /// When the next attempt is due; absent if there is none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub due_at: Option<Timestamp>,
    /// Nothing else is sent to the endpoint before this.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hold_until: Option<Timestamp>,
}

/// An attempt succeeded; the delivery has ended.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct DeliverySucceeded {
    /// The delivery.
    pub delivery: DeliveryId,
    /// The attempt's number, from 1.
    pub number: u32,
    /// When it began.
    pub started_at: Timestamp,
    /// How long it took.
    pub latency_ms: u64,
    /// What the endpoint said.
    pub response: Response,
    /// The subscription's revision that it was sent under.
    pub revision: u64,
}

/// The schedule came to its end; the delivery has failed (A31).
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct DeliveryExhausted {
    /// The delivery.
    pub delivery: DeliveryId,
    /// How many attempts were made.
    pub attempts: u32,
}

/// The message is gone before an attempt succeeded; the delivery has failed.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct DeliveryExpired {
    /// The delivery.
    pub delivery: DeliveryId,
    /// What is gone.
    pub reason: ExpiryReason,
}

/// Somebody did not want it any more; the delivery has ended.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct DeliveryCancelled {
    /// The delivery.
    pub delivery: DeliveryId,
}

/// Why a delivery cannot be attempted any more. The words are stored in events.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ExpiryReason {
    /// The message is older than messages are kept.
    MessageDropped,
    /// The message is known, but its data was erased.
    DataErased,
}
