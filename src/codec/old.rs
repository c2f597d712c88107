//! Older versions of events, each as it was written, and the step to the next.

use serde::Deserialize;

use crate::domain::event::AttemptFailed;
use crate::domain::id::DeliveryId;
use crate::domain::outcome::{FailureClass, FailureCode, Response};
use crate::domain::time::Timestamp;

/// Before failures had classes: every one was counted by the schedule, and by nothing else.
#[derive(Deserialize)]
pub(super) struct AttemptFailedV1 {
    delivery: DeliveryId,
    number: u32,
    started_at: Timestamp,
    latency_ms: u64,
    code: FailureCode,
    detail: String,
    response: Option<Response>,
    revision: u64,
    due_at: Option<Timestamp>,
}

impl From<AttemptFailedV1> for AttemptFailed {
    fn from(old: AttemptFailedV1) -> Self {
        let AttemptFailedV1 { delivery, number, started_at, latency_ms, code, detail, response, revision, due_at } =
            old;
        let class = match code {
            FailureCode::Blocked | FailureCode::Aborted => FailureClass::Local,
            FailureCode::Status
            | FailureCode::Timeout
            | FailureCode::Dns
            | FailureCode::Connect
            | FailureCode::TlsExpired
            | FailureCode::TlsNotYetValid
            | FailureCode::TlsWrongName
            | FailureCode::TlsUntrusted
            | FailureCode::TlsVersion
            | FailureCode::TlsTimeout
            | FailureCode::TlsReset
            | FailureCode::Tls
            | FailureCode::Headers
            | FailureCode::Body => FailureClass::Hard,
        };
        Self {
            delivery,
            number,
            started_at,
            latency_ms,
            code,
            detail,
            response,
            revision,
            class,
            failures: number,
            due_at,
            hold_until: None,
        }
    }
}
