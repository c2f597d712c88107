//! What happens to message data that somebody wants gone.
//!
//! An erasure's life stands in its tenant's stream, which is kept: nothing in it says what was erased but ids and counts.

use serde::{Deserialize, Serialize};

use super::period::is_zero;
use crate::domain::filter::EventType;
use crate::domain::id::{ErasureId, MessageId, SecretId};
use crate::domain::time::Timestamp;

/// The data of messages, and the salts beside it, was erased in the same append. In `messages-…`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct PayloadErased {
    /// Of these messages; at most as many as `erasure::MAX_MESSAGES_PER_EVENT`.
    pub messages: Vec<MessageId>,
    /// By which erasure.
    pub erasure: ErasureId,
    /// In the words of whoever wanted it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
}

/// Somebody wants message data gone.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ErasureStarted {
    /// Its id.
    pub erasure: ErasureId,
    /// Whose data.
    pub scope: ErasureScope,
    /// In the words of whoever wanted it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
}

/// Whose data is to be erased.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum ErasureScope {
    /// That of these messages; it went with this event.
    Messages {
        /// Those whose data was there.
        messages: Vec<MessageId>,
        /// How large the data was, in bytes.
        size_bytes: u64,
    },
    /// That of all messages about somebody which were published before.
    Subject {
        /// Where in the data to look and for what, sealed in the vault until the erasure is complete: it names a person.
        selector: SecretId,
        /// Only messages of these types; empty: of all.
        #[serde(default, skip_serializing_if = "Vec::is_empty")]
        event_types: Vec<EventType>,
        /// Only messages published at or after this.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        from: Option<Timestamp>,
        /// Only messages published before this.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        to: Option<Timestamp>,
    },
    /// All of the tenant's, with its keys and secrets: the tenant is erased, and publishes nothing any more.
    Tenant {},
}

/// An erasure has looked through more of the log.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ErasureAdvanced {
    /// Which.
    pub erasure: ErasureId,
    /// Up to which number of the shard's log it has looked.
    pub through: u64,
    /// Of how many messages more it has erased the data.
    pub messages: u64,
    /// How large that data was, in bytes.
    pub size_bytes: u64,
}

/// What was erased has left the database's files as well.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ErasureCompleted {
    /// Which.
    pub erasure: ErasureId,
    /// Of how many messages the data was erased.
    pub messages: u64,
    /// How large it was, in bytes.
    pub size_bytes: u64,
    /// How many webhooks were deleted with it.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub webhooks: u64,
    /// How many keys and secrets were destroyed with it.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub secrets: u64,
    /// Whether parts of it may stand in free space of the database's files, until the database overwrites them.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub freed: bool,
}
