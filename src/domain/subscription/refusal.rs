//! Why a subscription refuses what it is asked to do.

use super::deletion::NotRestorable;
use super::{MAX_DESCRIPTION_CHARS, MAX_RATE_LIMIT_PER_S, Untested};
use crate::domain::id::{DeliveryId, JobId};
use crate::domain::profile::{FiltersRefused, UnknownProfile};
use crate::domain::retry_policy::InvalidPolicy;
use crate::domain::time::Timestamp;
use crate::error_code::ErrorCode;

/// Why a command is refused.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
pub enum Refusal {
    /// There is no such subscription.
    #[error("there is no such webhook")]
    NotFound,
    /// The id is in use.
    #[error("the webhook exists already")]
    Exists,
    /// The settings changed meanwhile.
    #[error("the webhook is at version {actual}, not {expected}")]
    RevisionConflict {
        /// What the caller has seen.
        expected: u64,
        /// What it is.
        actual: u64,
    },
    /// The profile refuses the filters.
    #[error(transparent)]
    Filters(#[from] FiltersRefused),
    /// The profile does not exist.
    #[error(transparent)]
    Profile(#[from] UnknownProfile),
    /// Too long a description.
    #[error("the description has {0} characters; at most {MAX_DESCRIPTION_CHARS} are allowed")]
    DescriptionTooLong(usize),
    /// No rate at all, or a higher one than there can be.
    #[error("a rate limit is 1 to {MAX_RATE_LIMIT_PER_S} attempts a second")]
    RateLimitOutOfRange,
    /// A retry policy outside its bounds.
    #[error(transparent)]
    RetryPolicy(#[from] InvalidPolicy),
    /// The profile does not let the old secret live so long.
    #[error("the old secret may go on for {max_s} seconds at most under profile '{profile}'")]
    OverlapTooLong {
        /// The profile.
        profile: String,
        /// What it allows.
        max_s: u64,
    },
    /// The profile wants a test of the URL first.
    #[error("profile '{profile}' wants its webhooks tested: {untested}")]
    TestRequired {
        /// The profile.
        profile: String,
        /// What is refused, and what to do first.
        untested: Untested,
    },
    /// The delivery has not ended.
    #[error("delivery {0} is still under way")]
    StillOpen(DeliveryId),
    /// The profile sends only failed ones again.
    #[error("delivery {0} succeeded, and profile '{1}' sends only failed deliveries again")]
    Succeeded(DeliveryId, String),
    /// The profile's jobs take only failed ones.
    #[error("profile '{0}' sends only failed deliveries again")]
    OnlyFailed(String),
    /// One job at a time.
    #[error("{0} is still running for this webhook; there is one job at a time")]
    JobRunning(JobId),
    /// The job does not run, or never did.
    #[error("{0} does not run for this webhook")]
    NoSuchJob(JobId),
    /// A step was taken from elsewhere.
    #[error("the job has come to {cursor} already")]
    JobMoved {
        /// How far it is.
        cursor: u64,
    },
    /// A step has to wait.
    #[error("the job waits")]
    JobWaits,
    /// No rate at all, or a higher one than the operator allows.
    #[error("a job begins 1 to {max_per_s} deliveries a second")]
    JobRateOutOfRange {
        /// What is allowed.
        max_per_s: u32,
    },
    /// Nothing is sent while disabled.
    #[error("the webhook is disabled")]
    Disabled,
    /// Nothing is sent while the circuit is open.
    #[error("the webhook's circuit is open: nothing is sent until it is enabled again")]
    CircuitOpen,
    /// As many deliveries are open as may be; a job would wait for room.
    #[error("{0} deliveries of the webhook are open: that is as many as may be")]
    NoRoom(usize),
    /// The delivery is unknown here, or has ended.
    #[error("delivery {0} does not wait for an attempt any more")]
    Ended(DeliveryId),
    /// What becomes of the delivery is known when the attempt ends.
    #[error("an attempt of delivery {0} is under way")]
    UnderWay(DeliveryId),
    /// Too late: the profile's window, or the longest delay that there is, would have passed.
    #[error("the attempt may be due at {} at the latest", .0.to_rfc3339_ms())]
    TooLate(Timestamp),
    /// It was deleted and stays so.
    #[error(transparent)]
    NotRestorable(NotRestorable),
    /// A match between the last one seen and these was lost on the way: they would hide it.
    #[error("a match after message {after} is missing")]
    MatchMissing {
        /// The last one seen.
        after: u64,
    },
    /// The attempt's delivery has ended, or another attempt has counted in its place.
    #[error("delivery {0} awaits no such attempt")]
    NotPending(DeliveryId),
}

impl Refusal {
    /// The code that clients match on.
    pub fn code(&self) -> ErrorCode {
        match self {
            Self::NotFound | Self::NotPending(_) | Self::MatchMissing { .. } | Self::NoSuchJob(_) => {
                ErrorCode::NotFound
            }
            Self::Exists | Self::RevisionConflict { .. } | Self::JobMoved { .. } | Self::JobWaits => {
                ErrorCode::VersionConflict
            }
            Self::Filters(_) => ErrorCode::WebhookFilterInvalid,
            Self::Profile(_)
            | Self::DescriptionTooLong(_)
            | Self::RateLimitOutOfRange
            | Self::RetryPolicy(_)
            | Self::JobRateOutOfRange { .. }
            | Self::OverlapTooLong { .. }
            | Self::TooLate(_) => ErrorCode::InvalidInput,
            Self::Ended(_) | Self::UnderWay(_) => ErrorCode::DeliveryNotWaiting,
            Self::StillOpen(_) | Self::Succeeded(..) | Self::OnlyFailed(_) | Self::Disabled => {
                ErrorCode::NotRedeliverable
            }
            Self::JobRunning(_) | Self::NoRoom(_) => ErrorCode::LimitExceeded,
            Self::NotRestorable(_) => ErrorCode::WebhookNotRestorable,
            Self::CircuitOpen => ErrorCode::WebhookCircuitOpen,
            Self::TestRequired { .. } => ErrorCode::WebhookTestRequired,
        }
    }
}
