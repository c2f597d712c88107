//! What is recorded of deliveries that wait, and of people who move them or call them off.

use serde::{Deserialize, Serialize};

use crate::domain::id::DeliveryId;
use crate::domain::outcome::FailureCode;
use crate::domain::time::Timestamp;

/// Somebody moved a delivery's next attempt to another time.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct RescheduleRequested {
    /// The delivery.
    pub delivery: DeliveryId,
    /// When its next attempt had been due.
    pub from: Timestamp,
    /// When it is due instead.
    pub to: Timestamp,
    /// In the words of whoever did it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
}

/// Somebody called a delivery off.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct CancellationRequested {
    /// The delivery.
    pub delivery: DeliveryId,
    /// In the words of whoever did it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
}

/// A delivery's next attempt is due at another time; behind it the schedule goes on as before.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct DeliveryRescheduled {
    /// The delivery.
    pub delivery: DeliveryId,
    /// When.
    pub due_at: Timestamp,
}

/// How the newest attempt of a delivery failed that is to be attempted again.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LastFailure {
    /// Why.
    pub code: FailureCode,
    /// The answer's status; absent if there was no answer.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub status: Option<u16>,
    /// From its end to the next attempt, as the schedule had it, in milliseconds.
    pub delay_ms: u64,
}
