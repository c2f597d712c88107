//! What a subscription owes, as a new period of its deliveries takes it over.

use serde::{Deserialize, Serialize};

use super::LastFailure;
use crate::domain::circuit::Circuit;
use crate::domain::id::{DeliveryId, MessageId};
use crate::domain::job::JobProgress;
use crate::domain::time::Timestamp;

/// A new period of a subscription's deliveries: carries all that the events before it mean. Whatever was open and is
/// carried neither here nor by the [`DeliveriesCarried`] behind it has ended, and says so itself, behind those.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct DeliveriesPeriodOpened {
    /// The highest number of a message that was matched.
    pub matched_through: u64,
    /// The highest place that a matched message has got.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub sequence: u64,
    /// What is known of the endpoint's health; absent if nothing ill is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub circuit: Option<Circuit>,
    /// How far the job has come; absent if there is none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub job: Option<JobProgress>,
    /// Deliveries that have not ended, by the time of their next attempt.
    pub carried: Vec<CarriedDelivery>,
}

/// More deliveries that have not ended: so many that one event would be too large for them.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct DeliveriesCarried {
    /// They go on in the order of those before.
    pub carried: Vec<CarriedDelivery>,
}

/// A delivery that has not ended, as a new period takes it over.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct CarriedDelivery {
    /// Its id.
    pub delivery: DeliveryId,
    /// The message.
    pub message: MessageId,
    /// The message's number in the shard's log.
    pub message_seq: u64,
    /// When it was scheduled.
    pub scheduled_at: Timestamp,
    /// When its next attempt is due.
    pub due_at: Timestamp,
    /// Attempts that failed and that the schedule counts.
    pub failures: u32,
    /// Attempts that failed for a local reason and that it does not count.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub uncounted: u32,
    /// As it was scheduled.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sequence: Option<u64>,
    /// The same; absent in events from before it was carried.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub revision: Option<u64>,
    /// How its newest attempt failed; absent before the first.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_failure: Option<LastFailure>,
}

pub(super) fn is_zero<N: Default + PartialEq>(number: &N) -> bool {
    *number == N::default()
}
