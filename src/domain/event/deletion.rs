//! The end of a subscription, and the way back from it.

use serde::{Deserialize, Serialize};

use super::period::is_zero;

/// A subscription is gone.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct SubscriptionDeleted {
    /// How many deliveries were cancelled with it.
    pub cancelled: u64,
    /// For how long it can be restored, in seconds; absent if it is gone for good.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub restore_window_s: Option<u64>,
    /// The highest place that a matched message had got, for going on behind it; absent if it is gone for good.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub sequence: u64,
}

/// A deleted subscription is there again, as it was but disabled. What was cancelled with it stays cancelled.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct SubscriptionRestored {
    /// Messages up to this number are not owed, whenever they were published.
    pub matched_through: u64,
}

/// A deleted subscription cannot be restored any more: its signing secrets are destroyed.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct SecretsDestroyed {}
