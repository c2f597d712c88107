//! Delivery profiles, for people who choose one.

use async_graphql::{Enum, Object, SimpleObject};

use super::scalar::{Long, int};
use crate::domain::filter::TrailingStar;
use crate::domain::profile::{
    self, Algorithm, Breaker, Jitter, Labels, Occurrence, Profile, Redelivery, Retry, Success, UrlAsOf,
};

#[derive(Clone, Copy)]
pub(super) struct DeliveryProfile(&'static Profile);

/// Which deliveries may be sent again.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Enum)]
#[graphql(remote = "Redelivery")]
pub(super) enum RedeliveryRule {
    /// Those that failed.
    Failed,
    /// Any that has ended.
    Any,
}

/// Which URL of a webhook an attempt goes to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Enum)]
#[graphql(remote = "UrlAsOf")]
pub(super) enum UrlMoment {
    /// The one that it has when the attempt begins.
    Attempt,
    /// The one that it had when the delivery was triggered.
    Trigger,
}

/// What a webhook's addresses for notices may be told of.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Enum)]
#[graphql(remote = "Occurrence")]
pub(super) enum WebhookNotice {
    /// The webhook was created.
    Created,
    /// Its circuit breaker tripped, or has given up trying by itself.
    CircuitTripped,
    /// It was disabled, since its endpoint wants nothing any more.
    Disabled,
    /// The operator's rules kept an attempt from being made.
    EgressBlocked,
    /// A delivery failed for good; told at most once an hour.
    DeliveryFailed,
}

/// How signatures are made.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Enum)]
#[graphql(remote = "Algorithm")]
pub(super) enum SignatureAlgorithm {
    /// By a shared secret.
    HmacSha256,
    /// By a private key; `webhook.secrets.publicKey` verifies.
    Ed25519,
}

/// How delays between attempts are spread.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Enum)]
pub(super) enum RetryJitter {
    /// Not at all: exactly the delay.
    None,
    /// Evenly between nothing and the delay.
    Full,
    /// Evenly between half the delay and the delay.
    Equal,
    /// Evenly between the delay and a tenth more.
    Additive,
    /// Evenly between some percent less and as many more.
    Proportional,
    /// Evenly between the first delay and the one before, grown by the schedule's factor.
    Decorrelated,
}

impl From<Jitter> for RetryJitter {
    fn from(jitter: Jitter) -> Self {
        match jitter {
            Jitter::None => Self::None,
            Jitter::Full => Self::Full,
            Jitter::Equal => Self::Equal,
            Jitter::Additive => Self::Additive,
            Jitter::Proportional(_) => Self::Proportional,
            Jitter::Decorrelated => Self::Decorrelated,
        }
    }
}

pub(super) struct CircuitBreakerRule(Breaker);

/// When a circuit breaker trips, and tries again by itself.
#[Object]
impl CircuitBreakerRule {
    /// How many hard failures in a row trip it, if they are of `deliveries` deliveries at least.
    async fn failures(&self) -> u32 {
        self.0.failures
    }

    /// Of how many deliveries `failures` have to be at least.
    async fn deliveries(&self) -> u32 {
        self.0.deliveries
    }

    /// How many soft failures in a row trip it, if they go on for `softOverMs` at least.
    async fn soft_failures(&self) -> u32 {
        self.0.soft_failures
    }

    /// For how long `softFailures` have to go on at least, in milliseconds.
    async fn soft_over_ms(&self) -> Long {
        Long(self.0.soft_over_ms)
    }

    /// How often it tries again by itself before somebody has to call `reenableWebhook`; 0: never.
    async fn probes(&self) -> u32 {
        self.0.probe.map_or(0, |probe| probe.attempts)
    }
}

/// What a page for people calls things. Codes and statuses are the same under every profile; these are the words for them.
#[derive(SimpleObject)]
pub(super) struct ProfileLabels {
    /// A webhook.
    webhook: String,
    /// Several of them: the title of their list.
    webhooks: String,
    /// The title of a webhook's list of deliveries.
    deliveries: String,
    /// The status `SUCCEEDED`.
    succeeded: String,
    /// The status `FAILED`.
    failed: String,
    /// The status `PENDING`.
    pending: String,
    /// The status `CANCELLED`.
    cancelled: String,
}

impl From<&Labels> for ProfileLabels {
    fn from(labels: &Labels) -> Self {
        let Labels { webhook, webhooks, deliveries, succeeded, failed, pending, cancelled } = labels.clone();
        Self { webhook, webhooks, deliveries, succeeded, failed, pending, cancelled }
    }
}

/// How a kind of receiver wants its webhooks: body, headers, signature, retries and rules.
#[Object]
impl DeliveryProfile {
    /// Name with version, such as `standard-v1`. What a name stands for never changes.
    async fn name(&self) -> &str {
        &self.0.name
    }

    /// One sentence for people who choose.
    async fn description(&self) -> &str {
        &self.0.description
    }

    /// Keys of the body, in order; none: the body is the message's data itself.
    async fn body_fields(&self) -> Vec<&str> {
        self.0.envelope.names()
    }

    /// Headers that carry a signature.
    async fn signature_headers(&self) -> Vec<&str> {
        self.0.signatures.iter().map(|signature| signature.header.as_str()).collect()
    }

    /// How its signatures are made: by a secret that sender and receiver share, or by a key of which receivers know the
    /// public part.
    async fn signature_algorithm(&self) -> SignatureAlgorithm {
        self.0.algorithm().into()
    }

    /// HTTP statuses that count as success; null: any from 200 to 299.
    async fn success_statuses(&self) -> Option<Vec<i32>> {
        match &self.0.success {
            Success::Any2xx => None,
            Success::Exactly(statuses) => Some(statuses.iter().map(|status| i32::from(*status)).collect()),
        }
    }

    /// Attempts in all, until a delivery has failed.
    async fn max_attempts(&self) -> u32 {
        self.0.max_attempts()
    }

    /// How long to wait after each failed attempt before the next one, in milliseconds, before `retryJitter` spreads it: one
    /// number less than there are attempts.
    async fn retry_delays_ms(&self) -> Vec<Long> {
        self.0.retry_delays_ms().into_iter().map(Long).collect()
    }

    /// How the delays are spread, so that many deliveries do not come back at one moment.
    async fn retry_jitter(&self) -> RetryJitter {
        self.0.jitter.into()
    }

    /// No attempt becomes due later than this after its delivery was scheduled, in milliseconds; null: the delays alone
    /// decide.
    async fn retry_window_ms(&self) -> Option<Long> {
        match &self.0.retry {
            Retry::Exponential { window_ms, .. } => Some(Long(*window_ms)),
            Retry::List { .. } => None,
        }
    }

    /// When a webhook's circuit breaker trips; null: it has none.
    async fn circuit_breaker(&self) -> Option<CircuitBreakerRule> {
        self.0.breaker.map(CircuitBreakerRule)
    }

    /// Limit for one attempt, in milliseconds.
    async fn timeout_ms(&self) -> i32 {
        int(self.0.timeout_ms)
    }

    /// Limit for a test delivery, in milliseconds.
    async fn test_timeout_ms(&self) -> i32 {
        int(self.0.test_timeout_ms)
    }

    /// Whether a new webhook sends at once when its creator does not say.
    async fn enabled_by_default(&self) -> bool {
        self.0.enabled_default
    }

    /// Whether a webhook is enabled, and an enabled one goes to another URL, only after a test of that URL has succeeded:
    /// otherwise `WEBHOOK_TEST_REQUIRED`.
    async fn test_required(&self) -> bool {
        self.0.require_test
    }

    /// Whether event filters may be patterns; exact event types otherwise.
    async fn pattern_filters(&self) -> bool {
        self.0.filters.globs
    }

    /// Whether `*` at the end of an event filter stands for one segment or more. Such a filter is recorded, and shown from
    /// then on, as `platform.saml.*.**`, which means that everywhere.
    async fn trailing_star_takes_rest(&self) -> bool {
        self.0.filters.trailing_star == TrailingStar::Rest
    }

    /// Whether a webhook may have no event filter, which sends nothing.
    async fn empty_filters(&self) -> bool {
        self.0.filters.empty
    }

    /// Whether the creator may bring a secret of their own.
    async fn own_secrets(&self) -> bool {
        self.0.secret_supplied
    }

    /// The longest time for which an old secret may go on signing beside the new one, in seconds.
    async fn max_overlap_seconds(&self) -> i32 {
        int(self.0.rotation_overlap_max_s)
    }

    /// For how long it does when nobody says, in seconds.
    async fn default_overlap_seconds(&self) -> i32 {
        int(self.0.rotation_overlap_default_s)
    }

    /// How many headers of its own a webhook may have.
    async fn max_custom_headers(&self) -> u32 {
        self.0.custom_headers.max
    }

    /// What a webhook's addresses for notices are told of.
    async fn notices(&self) -> Vec<WebhookNotice> {
        self.0.notify.iter().copied().map(Into::into).collect()
    }

    /// Which deliveries may be sent again.
    async fn redelivery(&self) -> RedeliveryRule {
        self.0.redelivery.into()
    }

    /// For how long a deleted webhook can be restored, in seconds; 0: a deletion is for ever.
    async fn restore_window_seconds(&self) -> i32 {
        int(self.0.restore_window_s)
    }

    /// What a page for people calls things.
    async fn labels(&self) -> ProfileLabels {
        (&self.0.labels).into()
    }

    /// Which URL an attempt goes to when the webhook's has changed since its delivery was triggered.
    async fn url_as_of(&self) -> UrlMoment {
        self.0.url_as_of.into()
    }
}

impl DeliveryProfile {
    /// The profile of that name.
    pub(super) fn find(name: &str) -> Option<Self> {
        profile::find(name).ok().map(Self)
    }
}

/// Every profile.
pub(super) fn all() -> Vec<DeliveryProfile> {
    profile::all().into_iter().map(DeliveryProfile).collect()
}
