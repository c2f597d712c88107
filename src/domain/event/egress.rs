//! What is recorded of the operator's rules about what may be reached.

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use crate::domain::id::DeliveryId;

/// The operator's rules kept an attempt from being made. Recorded for the first such attempt, and then at most once an
/// hour.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct EgressBlocked {
    /// Of this delivery.
    pub delivery: DeliveryId,
    /// Which rule, in a sentence for the subscription's owner: it names no address that a name resolved to.
    pub detail: String,
}

/// The program was started with another configuration than before, in a part of it that auditors want to know of.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ConfigChanged {
    /// Which part, as the configuration calls it: `egress`.
    pub section: String,
    /// All its keys as they were; at the first time, as the program has them by itself.
    pub from: Map<String, Value>,
    /// All its keys as they are.
    pub to: Map<String, Value>,
}
