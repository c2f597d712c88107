//! What a page for people calls things (C21).

use serde::Deserialize;

/// What a page for people calls things. Codes, statuses and fields are called the same under every profile; a page shows
/// these words for them.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Labels {
    /// A subscription.
    pub webhook: String,
    /// Several of them: the title of their list.
    pub webhooks: String,
    /// The title of a subscription's list of deliveries.
    pub deliveries: String,
    /// A delivery that succeeded.
    pub succeeded: String,
    /// One that failed.
    pub failed: String,
    /// One that has not ended.
    pub pending: String,
    /// One that somebody called off.
    pub cancelled: String,
}

/// What a profile means that says nothing.
impl Default for Labels {
    fn default() -> Self {
        Self {
            webhook: "Webhook".into(),
            webhooks: "Webhooks".into(),
            deliveries: "Deliveries".into(),
            succeeded: "Success".into(),
            failed: "Failed".into(),
            pending: "Pending".into(),
            cancelled: "Cancelled".into(),
        }
    }
}

impl Labels {
    /// Every label with its key.
    pub(super) fn all(&self) -> [(&'static str, &str); 7] {
        [
            ("webhook", self.webhook.as_str()),
            ("webhooks", self.webhooks.as_str()),
            ("deliveries", self.deliveries.as_str()),
            ("succeeded", self.succeeded.as_str()),
            ("failed", self.failed.as_str()),
            ("pending", self.pending.as_str()),
            ("cancelled", self.cancelled.as_str()),
        ]
    }
}
