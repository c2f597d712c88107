//! From a decision to an append, and from the log to a state.
//!
//! Names the streams, puts events into the form that the log takes, and folds what it returns. Every writer of a
//! stream goes through here, so that a stream has one name and one way to be read.

pub mod contents;
pub mod history;
pub mod jobs;
pub mod ledger;
pub mod listing;
mod loaded;
mod moment;
pub mod retention;
mod state;
pub mod transfer;
pub mod vault;
pub mod verify;

pub use loaded::{Loaded, fold_subscription, load_subscription};
pub use moment::end_before;
pub use state::state_as_of;

use bytes::Bytes;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use crate::clock::Clock;
use crate::codec::{self, DecodeError};
use crate::domain::event::Event;
use crate::domain::id::{RequestId, SubscriptionId, TenantId};
use crate::domain::tenant::Tenant;
use crate::domain::time::Timestamp;
use crate::event_store::{EventReader, Log};
use crate::event_store::{Lifetime, NewEvent, Period, Position, ReadError, Recorded, StreamName, StreamWrite};

/// Who caused an event, and in which request; stands beside the payload in the log.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Meta {
    /// Who.
    pub actor: Actor,
    /// In which request.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub request: Option<RequestId>,
    /// From which address.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ip: Option<String>,
    /// How a person had proved themself, in their identity provider's words or ours.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub acr: Option<String>,
    /// When a person had last proved themself.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub authenticated_at: Option<Timestamp>,
}

/// Who caused an event.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Actor {
    /// What kind of actor.
    pub kind: ActorKind,
    /// Its id.
    pub id: String,
}

/// Kinds of actors. Stored by these names.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ActorKind {
    /// A person.
    User,
    /// A caller with an API key.
    ApiKey,
    /// This program.
    System,
}

impl Meta {
    /// An actor, in no request.
    pub fn by(actor: Actor) -> Self {
        Self { actor, request: None, ip: None, acr: None, authenticated_at: None }
    }

    /// This program, on its own account.
    pub fn system() -> Self {
        Self::by(Actor { kind: ActorKind::System, id: "system".into() })
    }
}

/// A stream could not be folded.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum LoadError {
    /// The log cannot be read.
    #[error(transparent)]
    Read(#[from] ReadError),
    /// An event cannot be read.
    #[error(transparent)]
    Decode(#[from] DecodeError),
    /// A version is not there, and the ones behind it are.
    #[error("version {version} of '{stream}' is missing before {before}")]
    Missing {
        /// The stream.
        stream: StreamName,
        /// The version.
        version: u64,
        /// Where the event behind it stands.
        before: Position,
    },
}

/// An event that cannot be read, and keeps its stream from being folded.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Unreadable {
    /// Where.
    pub position: Position,
    /// In which stream.
    pub stream: StreamName,
    /// Why; names the event's type where that can be read.
    pub reason: String,
}

impl Unreadable {
    /// The event that an error is about; `None` if the log cannot be read at all, or does not say whose the event is.
    pub fn of_read(error: &ReadError) -> Option<Self> {
        match error {
            ReadError::Damaged { position, stream: Some(stream), .. } => {
                Some(Self { position: *position, stream: stream.clone(), reason: error.to_string() })
            }
            ReadError::Damaged { stream: None, .. } | ReadError::Unavailable(_) => None,
        }
    }

    /// The event that an error is about.
    pub fn of_decode(error: &DecodeError) -> Self {
        let (DecodeError::UnknownType { position, stream, .. } | DecodeError::Damaged { position, stream, .. }) = error;
        Self { position: *position, stream: stream.clone(), reason: error.to_string() }
    }

    /// The event that keeps a stream from being folded, if it is that.
    pub fn of_load(error: &LoadError) -> Option<Self> {
        match error {
            LoadError::Read(error) => Self::of_read(error),
            LoadError::Decode(error) => Some(Self::of_decode(error)),
            LoadError::Missing { stream, before, .. } => {
                Some(Self { position: *before, stream: stream.clone(), reason: error.to_string() })
            }
        }
    }
}

/// Events are folded in pages of this many.
const PAGE: usize = 500;

/// The shard in which everything of a tenant stands, in a log of so many shards (at least 1).
///
/// The rule is never changed: a store keeps its number of shards, and what it holds was put where this said. Hashed,
/// so that tenants spread evenly however their ids were made.
pub fn shard_of(tenant: TenantId, shards: u16) -> u16 {
    let digest: [u8; 32] = Sha256::digest(tenant.to_bits().to_be_bytes()).into();
    let (first, _) = digest.split_first_chunk().expect("a digest has 32 bytes");
    (u64::from_be_bytes(*first) % u64::from(shards.max(1))) as u16
}

/// The reader whose checkpoint says how far messages have been matched.
pub const MATCHER: &str = "matcher";

/// Whether the stream's events go with their bucket; those of all others are kept for ever.
pub fn is_bucketed(stream: &str) -> bool {
    matches!(stream.split_once('-'), Some((MESSAGES_CATEGORY | DELIVERIES_CATEGORY, _)))
}

/// Category of the streams of tenants' own lives.
pub const TENANT_CATEGORY: &str = "tenant";

/// Stream of a tenant's own life.
pub fn tenant_stream(tenant: TenantId) -> StreamName {
    format!("{TENANT_CATEGORY}-{}", tenant.suffix())
}

/// The one shard in which public ids of tenants and names of profiles are claimed: they are unique in the whole log.
pub const SLUG_SHARD: u16 = 0;

/// The claim to a tenant's public id; its value is the tenant's id.
pub fn slug_claim(slug: &str) -> String {
    format!("tenant-slug/{slug}")
}

/// The claim to a user's name; its value is the tenant's id and the user's, with a slash between them.
pub fn user_claim(name: &str) -> String {
    format!("user-name/{name}")
}

/// The claim to the name of an operator's delivery profile; its value is the digest of what the name stands for.
pub fn profile_claim(name: &str) -> String {
    format!("profile/{name}")
}

/// Whose stream of either kind that is.
pub fn tenant_of(stream: &str) -> Option<TenantId> {
    let (_, suffix) = stream.split_once('-')?;
    format!("{}{suffix}", TenantId::PREFIX).parse().ok()
}

/// Category of the streams of messages.
pub const MESSAGES_CATEGORY: &str = "messages";

/// Stream of a tenant's messages.
pub fn messages_stream(tenant: TenantId) -> StreamName {
    format!("{MESSAGES_CATEGORY}-{}", tenant.suffix())
}

/// Category of the streams of subscriptions' own lives.
pub const SUBSCRIPTION_CATEGORY: &str = "subscription";

/// Stream of a subscription's own life.
pub fn subscription_stream(subscription: SubscriptionId) -> StreamName {
    format!("{SUBSCRIPTION_CATEGORY}-{}", subscription.suffix())
}

/// Whose stream of either kind that is.
pub fn subscription_of(stream: &str) -> Option<SubscriptionId> {
    let (_, suffix) = stream.split_once('-')?;
    format!("{}{suffix}", SubscriptionId::PREFIX).parse().ok()
}

/// Category of the streams of what subscriptions owe.
pub const DELIVERIES_CATEGORY: &str = "deliveries";

/// Stream of what a subscription owes.
pub fn deliveries_stream(subscription: SubscriptionId) -> StreamName {
    format!("{DELIVERIES_CATEGORY}-{}", subscription.suffix())
}

/// Puts an event into the log's form.
pub fn new_event(
    event: &Event,
    at: Timestamp,
    meta: Option<&Meta>,
    content: Option<Bytes>,
    clock: &dyn Clock,
) -> NewEvent {
    let encoded = codec::encode(event);
    NewEvent {
        id: clock.event_id(),
        kind: encoded.kind.into(),
        schema: encoded.schema,
        at,
        data: encoded.data,
        meta: meta.map(|meta| serde_json::to_string(meta).expect("meta data has string keys")),
        content,
    }
}

/// What the wake-up of a tenant that has an erasure under way begins with.
const ERASURE_WAKEUP: &str = "erasure/";

/// The key of the wake-up that a tenant has while an erasure is under way. It is due at the beginning of time: such keys
/// stand before those of all subscriptions.
pub fn erasure_wakeup(tenant: TenantId) -> String {
    format!("{ERASURE_WAKEUP}{tenant}")
}

/// Whose erasure the wake-up is about; `None` if it is about no erasure.
pub fn erasing_tenant(wakeup: &str) -> Option<TenantId> {
    wakeup.strip_prefix(ERASURE_WAKEUP)?.parse().ok()
}

/// Folds a tenant, and says at which version its stream is.
pub async fn load_tenant(log: &Log, id: TenantId) -> Result<(Tenant, u64), LoadError> {
    fold_tenant(log.reader(), id).await
}

/// As [`load_tenant`], for whoever only asks.
pub async fn fold_tenant(reader: &dyn EventReader, id: TenantId) -> Result<(Tenant, u64), LoadError> {
    let mut tenant = Tenant::default();
    let events = read_all(reader, &tenant_stream(id)).await?;
    for recorded in &events {
        if let Event::Tenant(event) = codec::decode(recorded)? {
            tenant.evolve(&event);
        }
    }
    Ok((tenant, events.len() as u64))
}

/// A tenant's stream of messages, as far as its writer has to know it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Messages {
    /// The stream's version.
    pub version: u64,
    /// The open period; `None` if there is none, or none was recorded.
    pub period: Option<Period>,
}

impl Messages {
    /// The write that appends these events.
    pub fn write(&mut self, id: TenantId, lifetime: Lifetime, events: Vec<NewEvent>) -> StreamWrite {
        let first_version = self.version + 1;
        self.version += events.len() as u64;
        self.period = retention::period_behind(self.period, lifetime, first_version);
        StreamWrite { stream: messages_stream(id), first_version, lifetime, events }
    }
}

/// Reads how a tenant's stream of messages stands; no event of it is read.
pub async fn load_messages(log: &Log, id: TenantId) -> Result<Messages, ReadError> {
    let stream = messages_stream(id);
    Ok(Messages { version: log.stream_version(&stream).await?, period: log.reader().period(&stream).await? })
}

async fn read_all(reader: &dyn EventReader, stream: &str) -> Result<Vec<Recorded>, ReadError> {
    let mut events = Vec::new();
    loop {
        let page = reader.read_stream(stream, events.len() as u64 + 1, PAGE).await?;
        let last_page = page.len() < PAGE;
        events.extend(page);
        if last_page {
            return Ok(events);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_shard_of_a_tenant_never_changes() {
        // What stands in somebody's log was put there by these numbers.
        for (at_ms, random, of_64, of_2) in PINNED {
            let tenant = TenantId::from_parts(at_ms, random);
            assert_eq!((shard_of(tenant, 64), shard_of(tenant, 2)), (of_64, of_2), "{tenant}");
            assert_eq!((shard_of(tenant, 1), shard_of(tenant, 0)), (0, 0), "{tenant}");
        }
    }

    const PINNED: [(u64, u128, u16, u16); 4] = [
        (0, 0, 21, 1),
        (1, 2, 53, 1),
        (1_763_894_415_000, 0x1234_5678_9abc_def0_1234, 17, 1),
        ((1 << 48) - 1, (1 << 80) - 1, 9, 1),
    ];

    #[test]
    fn tenants_spread_evenly_also_when_their_ids_are_consecutive() {
        let mut tenants = [0; 64];
        for random in 0..6_400 {
            tenants[usize::from(shard_of(TenantId::from_parts(1_763_894_415_000, random), 64))] += 1;
        }
        assert!(tenants.iter().all(|count| (50..150).contains(count)), "{tenants:?}");
    }
}
