//! What a profile has owners told of by e-mail (A12, C19).

use serde::{Deserialize, Serialize};

/// What owners may be told of. The words stand in profiles.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Occurrence {
    /// The subscription came into being.
    Created,
    /// Its circuit breaker tripped, or has given up trying by itself.
    CircuitTripped,
    /// The system disabled it, since its endpoint wants nothing any more.
    Disabled,
    /// The operator's rules kept an attempt from being made.
    EgressBlocked,
    /// A delivery failed for good; told at most once an hour.
    DeliveryFailed,
}
