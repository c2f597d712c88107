//! By which rules attempts are judged and made again: a webhook's own beside those of its profile.

use std::borrow::Cow;

use async_graphql::{Enum, InputObject, Object};

use super::profile::RetryJitter;
use super::scalar::int;
use crate::domain::profile::{Profile, Retry, Success, UnknownProfile};
use crate::domain::retry_policy;

/// Which HTTP statuses end a delivery well.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Enum)]
#[graphql(remote = "retry_policy::SuccessRule")]
pub(super) enum SuccessRule {
    /// 200 alone.
    #[graphql(name = "ONLY_200")]
    Only200,
    /// Any from 200 to 299.
    #[graphql(name = "ANY_2XX")]
    Any2xx,
}

/// Rules of a webhook's own for its attempts. What is absent or null is as its profile has it; with nothing in it the webhook
/// has none of its own.
#[derive(Clone, Debug, InputObject)]
pub(super) struct RetryPolicyInput {
    /// Attempts in all, 1 to 20. Without `delaysSeconds` the profile's schedule is cut off, or goes on with its last delay;
    /// growing delays go on growing, up to their longest and inside their window.
    max_attempts: Option<i32>,
    /// How long to wait after each failed attempt before the next one, in seconds, each 0 to 172800 (48 hours), before the
    /// profile's jitter spreads it. At most one fewer than there are attempts; if there are fewer, the last one is repeated.
    /// Without `maxAttempts` there is one attempt more than there are delays, and so one alone without any.
    delays_seconds: Option<Vec<i32>>,
    /// Limit for one attempt, in seconds, 1 to 60.
    timeout_seconds: Option<i32>,
    /// Which HTTP statuses end a delivery well.
    success: Option<SuccessRule>,
}

impl RetryPolicyInput {
    /// The policy, its bounds not checked yet; `None` if there is nothing in it. What is negative is out of range as any
    /// other number that is.
    pub(super) fn given(self) -> Option<retry_policy::RetryPolicy> {
        let Self { max_attempts, delays_seconds, timeout_seconds, success } = self;
        let least = |number: i32| u32::try_from(number).unwrap_or(0);
        let delay = |seconds: i32| u32::try_from(seconds).unwrap_or(u32::MAX);
        let policy = retry_policy::RetryPolicy {
            max_attempts: max_attempts.map(least),
            delays_s: delays_seconds.map(|delays| delays.into_iter().map(delay).collect()),
            timeout_s: timeout_seconds.map(least),
            success: success.map(Into::into),
        };
        Some(policy).filter(|policy| *policy != retry_policy::RetryPolicy::default())
    }
}

pub(super) struct RetryPolicy {
    rules: Cow<'static, Profile>,
    own: bool,
}

/// By which rules a webhook judges its attempts and makes them again: its profile's, or its own in their place.
#[Object]
impl RetryPolicy {
    /// Whether any of it is the webhook's own; otherwise all of it is its profile's.
    async fn own(&self) -> bool {
        self.own
    }

    /// Attempts in all, until a delivery has failed.
    async fn max_attempts(&self) -> u32 {
        self.rules.max_attempts()
    }

    /// How long to wait after each failed attempt before the next one, in seconds, before `jitter` spreads it: one number
    /// less than there are attempts. Rounded up; `deliveryProfile.retryDelaysMs` has a profile's exactly.
    async fn delays_seconds(&self) -> Vec<i32> {
        self.rules.retry_delays_ms().into_iter().map(seconds).collect()
    }

    /// How the delays are spread, so that many deliveries do not come back at one moment.
    async fn jitter(&self) -> RetryJitter {
        self.rules.jitter.into()
    }

    /// No attempt becomes due later than this after its delivery was scheduled, in seconds, rounded up; null: the delays
    /// alone decide.
    async fn window_seconds(&self) -> Option<i32> {
        match &self.rules.retry {
            Retry::Exponential { window_ms, .. } => Some(seconds(*window_ms)),
            Retry::List { .. } => None,
        }
    }

    /// Limit for one attempt, in seconds, rounded up.
    async fn timeout_seconds(&self) -> i32 {
        seconds(self.rules.timeout_ms)
    }

    /// Which HTTP statuses end a delivery well; null: those of `successStatuses`.
    async fn success(&self) -> Option<SuccessRule> {
        retry_policy::SuccessRule::of(&self.rules.success).map(Into::into)
    }

    /// HTTP statuses that end a delivery well; null: any from 200 to 299.
    async fn success_statuses(&self) -> Option<Vec<i32>> {
        match &self.rules.success {
            Success::Any2xx => None,
            Success::Exactly(statuses) => Some(statuses.iter().map(|status| i32::from(*status)).collect()),
        }
    }
}

impl RetryPolicy {
    /// Those of a webhook with that profile, and with these rules of its own.
    pub(super) fn of(profile: &str, own: Option<&retry_policy::RetryPolicy>) -> Result<Self, UnknownProfile> {
        Ok(Self { rules: retry_policy::rules(profile, own)?, own: own.is_some() })
    }
}

fn seconds(ms: u64) -> i32 {
    int(ms.div_ceil(1_000))
}
