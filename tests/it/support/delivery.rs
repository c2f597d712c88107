//! Deliveries as the engine would send them, without the engine.

use bytes::Bytes;
use tidings::domain::filter::EventType;
use tidings::domain::id::MessageId;
use tidings::domain::profile::Profile;
use tidings::domain::secret::Secret;
use tidings::domain::signing::{self, Content};
use tidings::domain::time::Timestamp;
use tidings::outbound::Request;

/// Enough for any answer that comes at all.
const PATIENT_MS: u64 = 20_000;

/// What a delivery is made of. The event happened at the time of the attempt.
#[derive(Clone, Debug)]
pub(crate) struct Draft<'a> {
    pub(crate) profile: &'static Profile,
    pub(crate) message: MessageId,
    pub(crate) event_type: &'a str,
    pub(crate) tenant: &'a str,
    /// Canonical JSON.
    pub(crate) data: &'a str,
    /// The current one first.
    pub(crate) secrets: &'a [Secret],
    pub(crate) attempted_at: Timestamp,
}

impl Draft<'_> {
    /// The signed delivery as a request to `url`.
    pub(crate) fn request(&self, url: impl Into<String>) -> Request {
        let event_type = EventType::parse(self.event_type).unwrap();
        let content = Content {
            message: self.message,
            event_type: &event_type,
            occurred_at: self.attempted_at,
            tenant: self.tenant,
            data: self.data,
            sequence: None,
        };
        let body = signing::body(self.profile, &content);
        let headers = signing::headers(self.profile, &content, &body, self.secrets, self.attempted_at);
        Request { url: url.into(), headers, body: Bytes::from(body), timeout_ms: PATIENT_MS }
    }
}
