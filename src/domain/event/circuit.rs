//! What the circuit breaker of a subscription did, and what was made of what waited for it.

use serde::{Deserialize, Serialize};

use crate::domain::circuit::TripCause;
use crate::domain::id::DeliveryId;
use crate::domain::outcome::FailureCode;
use crate::domain::time::Timestamp;

/// The circuit breaker tripped: nothing is sent any more, and everything waits.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct CircuitTripped {
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
    /// Messages behind this number wait in the log, none of them scheduled yet.
    pub matched_through: u64,
    /// When it is tried again by itself; absent if somebody has to say so.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub probe_at: Option<Timestamp>,
    /// How often it has tried by itself in vain since it was last well.
    #[serde(default)]
    pub failed_probes: u32,
}

/// Somebody let a subscription try again whose circuit breaker had tripped.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct CircuitReenabled {
    /// What becomes of everything that waited.
    pub mode: ReenableMode,
    /// Messages that waited, up to this number, are not delivered; absent if all are.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub skipped_through: Option<u64>,
    /// How many deliveries were cancelled with them.
    #[serde(default)]
    pub cancelled: u64,
    /// Messages that waited, up to this number, were older than messages are kept; absent if none was.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub lost_through: Option<u64>,
}

/// What becomes of everything that waited. The words are stored in events.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ReenableMode {
    /// Everything is delivered.
    Drain,
    /// What came before a moment is not delivered.
    SkipBefore,
    /// Nothing is delivered of what waited.
    Discard,
}

/// A subscription tries again by itself.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct CircuitProbing {
    /// As in [`CircuitReenabled`].
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub lost_through: Option<u64>,
}

/// Messages that matched and waited in the log are older than messages are kept, and gone with their bucket: they went
/// after the circuit was left, and before they were scheduled.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct MatchesLost {
    /// Up to this number of the shard's log.
    pub through: u64,
}

/// The endpoint is well again: everything is sent as before.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct CircuitClosed {}
