//! Delivery profiles: everything in which one product's webhooks differ from another's, as data.
//!
//! A profile is immutable and its name carries its version: deliveries record the name, and the bytes of a body follow
//! from the profile and the recorded message alone. Those of this program stand in `schema/profiles/`; an operator's are
//! read from files of the same form ([`Definition`]) at start.

mod check;
mod definition;
mod envelope;
mod notify;
mod labels;
mod registry;
mod wire;

pub use definition::{Definition, Problem};
pub use envelope::{Envelope, Field, FieldValue, Literal};
pub use labels::Labels;
pub use notify::Occurrence;
pub use registry::{DEFAULT, NameTaken, UnknownProfile, add, all, built_in, find};
pub use wire::{
    Algorithm, Encoding, Header, HeaderValue, InvalidTemplate, KeyForm, Piece, Place, Signature, SignedContent,
    Template,
};

use serde::Deserialize;

use super::filter::{Filter, InvalidFilter, TrailingStar};
use super::outcome::{Failure, FailureClass, FailureCode, Response};
use super::time::Timestamp;

/// How one kind of receiver wants its webhooks.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Profile {
    /// Name with version: `axie-v1`.
    pub name: String,
    /// One sentence for people who choose.
    pub description: String,
    /// What stands in the body around the data.
    pub envelope: Envelope,
    /// The signature headers.
    pub signatures: Vec<Signature>,
    /// All other headers but `Content-Type`, which is always `application/json`.
    pub headers: Vec<Header>,
    /// Which statuses end a delivery well.
    pub success: Success,
    /// What failures say about the endpoint (C18); absent: 429 and 503 are soft, 410 says that it is gone.
    #[serde(default)]
    pub classes: Classes,
    /// Whether an endpoint's `Retry-After` is heeded; absent: it is not.
    #[serde(default)]
    pub retry_after: Option<RetryAfter>,
    /// When to stop calling an endpoint that is down; absent: never.
    #[serde(default)]
    pub breaker: Option<Breaker>,
    /// When to try again.
    pub retry: Retry,
    /// How the delays are spread.
    pub jitter: Jitter,
    /// Limit for one attempt, the reading of the answer included, in milliseconds.
    pub timeout_ms: u64,
    /// The same for a test delivery.
    pub test_timeout_ms: u64,
    /// Whether a new subscription sends at once when its creator does not say (C12).
    pub enabled_default: bool,
    /// Whether a subscription is enabled only once a test of its present URL has succeeded (C12); absent: it is not.
    #[serde(default)]
    pub require_test: bool,
    /// What filters a subscription may have (C13).
    pub filters: FilterRules,
    /// Whether the creator may bring a secret of their own (C10).
    pub secret_supplied: bool,
    /// The longest time for which an old secret may go on signing beside the new one, in seconds (C11).
    pub rotation_overlap_max_s: u64,
    /// The same when the caller does not say.
    pub rotation_overlap_default_s: u64,
    /// Which deliveries may be sent again (C17).
    pub redelivery: Redelivery,
    /// Which headers of its own a subscription may have (C15); absent: none.
    #[serde(default)]
    pub custom_headers: CustomHeaderRules,
    /// Where a delivery goes when the URL has changed since it was triggered; absent: to the new one.
    #[serde(default)]
    pub url_as_of: UrlAsOf,
    /// For how long a deleted subscription can be restored, in seconds; 0 or absent: never.
    #[serde(default)]
    pub restore_window_s: u64,
    /// What the owner of a subscription is told of by e-mail (C19); absent: nothing.
    #[serde(default)]
    pub notify: Vec<Occurrence>,
    /// What a page for people calls things (C21).
    #[serde(default)]
    pub labels: Labels,
}

/// Which statuses end a delivery well.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Success {
    /// Any status from 200 to 299 (S19).
    #[serde(rename = "any_2xx")]
    Any2xx,
    /// Only these (A30).
    Exactly(Vec<u16>),
}

/// What failures say about the endpoint. What is named nowhere is hard, but for what our own process or its rules caused.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Classes {
    /// Statuses of an endpoint that does not cope for the moment: they count for no circuit breaker (S23).
    pub soft: Vec<u16>,
    /// For how long nothing else is sent after such an answer, in milliseconds, when it does not say so itself.
    pub soft_pause_ms: u64,
    /// Statuses of an endpoint that wants nothing any more: they disable the subscription.
    pub gone: Vec<u16>,
}

/// What a profile means that says nothing. Never changes: profiles mean for ever what they meant.
impl Default for Classes {
    fn default() -> Self {
        Self { soft: vec![429, 503], soft_pause_ms: 0, gone: vec![410] }
    }
}

/// How an endpoint's `Retry-After` is heeded: a failure that has one is soft, and nothing else is sent before its time.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RetryAfter {
    /// The longest time that is heeded, in milliseconds.
    pub cap_ms: u64,
}

/// Distinct deliveries of a run that a circuit breaker remembers; no profile asks for more.
pub const MAX_DISTINCT: usize = 16;

/// When to stop calling an endpoint that is down.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Breaker {
    /// So many hard failures without a success between them (S22).
    pub failures: u32,
    /// Of at least so many deliveries: more than one, or a single message that cannot be taken trips it (S24).
    pub deliveries: u32,
    /// So many soft failures without a success between them.
    pub soft_failures: u32,
    /// Over at least so long, in milliseconds.
    pub soft_over_ms: u64,
    /// When it tries again by itself; absent: never (S22).
    #[serde(default)]
    pub probe: Option<Probe>,
}

/// When a circuit breaker that has tripped tries again by itself: each time after anything between no delay and this one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Probe {
    /// The first delay, in milliseconds.
    pub base_ms: u64,
    /// How many times longer the next one is.
    pub factor: u64,
    /// The longest one.
    pub cap_ms: u64,
    /// So many in vain, and only somebody can let it try again.
    pub attempts: u32,
}

/// When to try again.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum Retry {
    /// A delay after each failed attempt; one attempt more than there are delays (A29).
    List {
        /// In milliseconds, counted from the end of the failed attempt.
        delays_ms: Vec<u64>,
    },
    /// Delays that grow, inside a bounded window (S21).
    Exponential {
        /// The first delay, in milliseconds.
        base_ms: u64,
        /// How many times longer the next one is.
        factor: u64,
        /// The longest one.
        cap_ms: u64,
        /// Attempts in all.
        attempts: u32,
        /// No attempt becomes due later than this after the delivery was scheduled, in milliseconds.
        window_ms: u64,
    },
}

/// How delays are spread, so that many deliveries do not come back at one moment.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Jitter {
    /// Exactly the delay.
    None,
    /// Evenly between nothing and the delay.
    Full,
    /// Evenly between half the delay and the delay.
    Equal,
    /// Evenly between the delay and a tenth more: never earlier than published.
    Additive,
    /// Evenly between so many percent less and as many more, 1 to 100.
    Proportional(u8),
    /// Evenly between the first delay and the delay before, grown by the factor; at most the longest one. Goes with
    /// [`Retry::Exponential`] alone.
    Decorrelated,
}

/// Which URL of a subscription an attempt goes to.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum UrlAsOf {
    /// The one that it has when the attempt begins (A13).
    #[default]
    Attempt,
    /// The one that it had when the delivery was scheduled.
    Trigger,
}

/// What filters a subscription may have.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FilterRules {
    /// Whether `*` and `**` may be used; exact types otherwise.
    pub globs: bool,
    /// Whether none at all is accepted, which delivers nothing (S5).
    pub empty: bool,
    /// What `*` means at the end of a filter (S11); absent: one segment.
    #[serde(default)]
    pub trailing_star: TrailingStar,
}

/// What headers of its own a subscription may have.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CustomHeaderRules {
    /// How many at most.
    pub max: u32,
}

/// Which deliveries may be sent again.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Redelivery {
    /// Those that failed (A35).
    Failed,
    /// Any that has ended (S26).
    Any,
}

/// Why a profile refuses a subscription's filters.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum FiltersRefused {
    /// The profile wants exact event types.
    #[error("profile '{profile}' takes exact event types, and '{filter}' is a pattern")]
    Glob {
        /// The profile.
        profile: String,
        /// The first offending filter.
        filter: String,
    },
    /// The profile wants at least one.
    #[error("profile '{0}' wants at least one event type")]
    Empty(String),
    /// More than a subscription may have.
    #[error("at most {MAX_FILTERS} filters are allowed")]
    TooMany,
    /// Too long to be written out as it is meant.
    #[error(transparent)]
    TooLong(#[from] InvalidFilter),
}

/// The most filters that a subscription may have.
pub const MAX_FILTERS: usize = 50;

impl Profile {
    /// Whether the profile's rules accept these filters.
    pub fn check_filters(&self, filters: &[Filter]) -> Result<(), FiltersRefused> {
        if filters.is_empty() && !self.filters.empty {
            return Err(FiltersRefused::Empty(self.name.clone()));
        }
        if filters.len() > MAX_FILTERS {
            return Err(FiltersRefused::TooMany);
        }
        match filters.iter().find(|filter| !self.filters.globs && !filter.is_exact()) {
            Some(filter) => Err(FiltersRefused::Glob { profile: self.name.clone(), filter: filter.to_string() }),
            None => Ok(()),
        }
    }

    /// The filters as they are recorded, in words that mean the same under every profile.
    ///
    /// # Errors
    /// The profile's rules do not accept them.
    pub fn recorded_filters(&self, filters: Vec<Filter>) -> Result<Vec<Filter>, FiltersRefused> {
        self.check_filters(&filters)?;
        filters.into_iter().map(|filter| Ok(filter.meant(self.filters.trailing_star)?)).collect()
    }

    /// Whether an answer ends the delivery well.
    pub fn accepts(&self, response: &Response) -> bool {
        match &self.success {
            Success::Any2xx => (200..300).contains(&response.status),
            Success::Exactly(statuses) => statuses.contains(&response.status),
        }
    }

    /// What an exchange means: nothing ill, or what it says about the endpoint.
    pub fn judge(&self, result: &Result<Response, Failure>) -> Result<(), FailureClass> {
        match result {
            Ok(response) if self.accepts(response) => Ok(()),
            Ok(Response { status, .. }) if self.classes.gone.contains(status) => Err(FailureClass::Gone),
            Ok(Response { status, .. }) if self.classes.soft.contains(status) => Err(FailureClass::Soft),
            Ok(Response { retry_after_s: Some(_), .. }) if self.retry_after.is_some() => Err(FailureClass::Soft),
            Ok(_) => Err(FailureClass::Hard),
            Err(Failure { code: FailureCode::Blocked | FailureCode::Aborted, .. }) => Err(FailureClass::Local),
            Err(_) => Err(FailureClass::Hard),
        }
    }

    /// For how long the endpoint wants to be left alone, as far as this profile heeds that, in milliseconds.
    pub fn asked_ms(&self, response: Option<&Response>) -> Option<u64> {
        let asked_s = response?.retry_after_s?;
        Some(asked_s.saturating_mul(1_000).min(self.retry_after?.cap_ms))
    }

    /// How its signatures are made, and so what kind of secret they need: all alike.
    pub fn algorithm(&self) -> Algorithm {
        self.signatures.first().map(|signature| signature.algorithm).unwrap_or_default()
    }

    /// The header, of those that hold no signature, which tells this: that of Standard Webhooks where there are several.
    pub fn header_of(&self, place: Place) -> Option<&str> {
        let (value, standard) = match place {
            Place::Signatures => return None,
            Place::AttemptedAt => (HeaderValue::AttemptedAt, "webhook-timestamp"),
            Place::MessageId => (HeaderValue::MessageId, "webhook-id"),
        };
        let mut telling = self.headers.iter().filter(|header| header.value == value).map(|header| header.name.as_str());
        let first = telling.next();
        first.into_iter().chain(telling).find(|name| name.eq_ignore_ascii_case(standard)).or(first)
    }

    /// The names of all headers that it sends but `Content-Type`.
    pub fn header_names(&self) -> impl Iterator<Item = &str> {
        let signatures = self.signatures.iter().map(|signature| signature.header.as_str());
        self.headers.iter().map(|header| header.name.as_str()).chain(signatures)
    }

    /// Attempts in all.
    pub fn max_attempts(&self) -> u32 {
        match &self.retry {
            Retry::List { delays_ms } => delays_ms.len() as u32 + 1,
            Retry::Exponential { attempts, .. } => *attempts,
        }
    }

    /// The delay after each failed attempt that is followed by another one, before it is spread, in milliseconds.
    pub fn retry_delays_ms(&self) -> Vec<u64> {
        (1..self.max_attempts()).filter_map(|failures| self.retry.delay_ms(failures)).collect()
    }

    /// When to try again after an attempt that failed at `ended_at`; `None` when the schedule has come to its end.
    /// `random` spreads the delay. An endpoint that `asked` to be left alone is, and then the time is spread over a
    /// tenth more.
    pub fn retry_at(&self, tried: Tried, ended_at: Timestamp, asked_ms: Option<u64>, random: u64) -> Option<Timestamp> {
        let Tried { failures, scheduled_at, delay_ms: before_ms } = tried;
        let delay_ms = self.retry.delay_ms(failures)?;
        let delay_ms = match (self.jitter, &self.retry) {
            (Jitter::Decorrelated, Retry::Exponential { base_ms, factor, cap_ms, .. }) => {
                let most_ms = before_ms.unwrap_or(*base_ms).saturating_mul(*factor).min(*cap_ms);
                between(*base_ms, most_ms, random)
            }
            (jitter, Retry::List { .. } | Retry::Exponential { .. }) => jitter.spread(delay_ms, random),
        };
        let planned = ended_at.plus_ms(delay_ms);
        let asked = asked_ms.map(|ms| ended_at.plus_ms(Jitter::Additive.spread(ms, random)));
        let due = asked.map_or(planned, |asked| asked.max(planned));
        match &self.retry {
            Retry::Exponential { window_ms, .. } if due > scheduled_at.plus_ms(*window_ms) => None,
            Retry::Exponential { .. } | Retry::List { .. } => Some(due),
        }
    }
}

/// How far a delivery has come in its schedule.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Tried {
    /// Attempts that failed and that count, the newest among them.
    pub failures: u32,
    /// When the delivery was scheduled.
    pub scheduled_at: Timestamp,
    /// The delay before the newest attempt, in milliseconds; `None` if that was the first.
    pub delay_ms: Option<u64>,
}

impl Retry {
    /// The delay behind so many failed attempts; `None` if there is no further attempt.
    fn delay_ms(&self, failures: u32) -> Option<u64> {
        let before = failures.checked_sub(1)?;
        match self {
            Self::List { delays_ms } => delays_ms.get(before as usize).copied(),
            Self::Exponential { base_ms, factor, cap_ms, attempts, .. } => {
                (failures < *attempts).then(|| grown(*base_ms, *factor, before).min(*cap_ms))
            }
        }
    }
}

impl Probe {
    /// When to try by itself after so many tries in vain; `None` if they were enough.
    pub fn next_at(&self, failed: u32, now: Timestamp, random: u64) -> Option<Timestamp> {
        let delay_ms = grown(self.base_ms, self.factor, failed).min(self.cap_ms);
        (failed < self.attempts).then(|| now.plus_ms(Jitter::Full.spread(delay_ms, random)))
    }
}

/// Evenly from one to the other, both included.
fn between(least: u64, most: u64, random: u64) -> u64 {
    let width = most.saturating_sub(least);
    least.saturating_add(random % width.saturating_add(1))
}

fn grown(base_ms: u64, factor: u64, times: u32) -> u64 {
    base_ms.saturating_mul(factor.saturating_pow(times))
}

impl Jitter {
    fn spread(self, delay_ms: u64, random: u64) -> u64 {
        match self {
            // Of a list it is refused.
            Self::None | Self::Decorrelated => delay_ms,
            Self::Full => between(0, delay_ms, random),
            Self::Equal => between(delay_ms / 2, delay_ms, random),
            Self::Additive => between(delay_ms, delay_ms.saturating_add(delay_ms / 10), random),
            Self::Proportional(percent) => {
                let most = delay_ms.saturating_mul(percent.into()) / 100;
                between(delay_ms - most.min(delay_ms), delay_ms.saturating_add(most), random)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const START: Timestamp = Timestamp::from_ms(1_000_000);

    fn delays(profile: &str, random: u64) -> Vec<u64> {
        delays_of(find(profile).unwrap(), std::iter::repeat(random))
    }

    /// Every delay of one delivery, each spread by the next random number.
    fn delays_of(profile: &Profile, random: impl IntoIterator<Item = u64>) -> Vec<u64> {
        let mut delays: Vec<u64> = vec![];
        for (failures, random) in (1..).zip(random) {
            let tried = Tried { delay_ms: delays.last().copied(), ..tried(failures) };
            let Some(due) = profile.retry_at(tried, START, None, random) else { break };
            delays.push(due.ms_since(START));
        }
        delays
    }

    fn tried(failures: u32) -> Tried {
        Tried { failures, scheduled_at: START, delay_ms: None }
    }

    fn spread_by(jitter: Jitter) -> Profile {
        let retry = Retry::Exponential { base_ms: 1_000, factor: 3, cap_ms: 20_000, attempts: 6, window_ms: 3_600_000 };
        Profile { retry, jitter, ..find("axissynapse-v1").unwrap().clone() }
    }

    #[test]
    fn every_kind_of_jitter_keeps_to_its_bounds_and_reaches_them() {
        // The delays without jitter, and from where to where each kind spreads them.
        let plain = [1_000, 3_000, 9_000, 20_000, 20_000];
        type Bounds = fn(u64) -> (u64, u64);
        let kinds: [(Jitter, Bounds); 5] = [
            (Jitter::None, |delay| (delay, delay)),
            (Jitter::Full, |delay| (0, delay)),
            (Jitter::Equal, |delay| (delay / 2, delay)),
            (Jitter::Additive, |delay| (delay, delay + delay / 10)),
            (Jitter::Proportional(20), |delay| (delay - delay / 5, delay + delay / 5)),
        ];
        for (jitter, bounds) in kinds {
            let profile = spread_by(jitter);
            for (failures, delay) in (1..).zip(plain) {
                let (least, most) = bounds(delay);
                let at = |random| profile.retry_at(tried(failures), START, None, random).unwrap().ms_since(START);
                let delays: Vec<u64> = (0..=most - least).map(at).collect();
                assert!(delays.iter().copied().eq(least..=most), "{jitter:?} spreads {delay} otherwise");
            }
            assert_eq!(delays_of(&profile, std::iter::repeat(7)).len(), plain.len());
        }
    }

    #[test]
    fn decorrelated_delays_grow_from_the_one_before_and_keep_to_base_and_cap() {
        let profile = spread_by(Jitter::Decorrelated);
        // The remainder by the width of 1000..=3000, and so on: each time the longest delay that there can be.
        assert_eq!(delays_of(&profile, [2_000, 8_000, 19_000, 19_000, 19_000]), [3_000, 9_000, 20_000, 20_000, 20_000]);
        // The shortest each time: as after a single failure.
        assert_eq!(delays_of(&profile, [0; 9]), [1_000; 5]);
        // A short delay makes the next one short.
        assert_eq!(delays_of(&profile, [2_000, 0, 2_000]), [3_000, 1_000, 3_000]);
        let long = Tried { delay_ms: Some(86_400_000), ..tried(2) };
        assert_eq!(profile.retry_at(long, START, None, 19_000), Some(START.plus_ms(20_000)));
        let uncounted = Tried { delay_ms: Some(1), ..tried(2) };
        assert_eq!(profile.retry_at(uncounted, START, None, u64::MAX), Some(START.plus_ms(1_000)));
    }

    #[test]
    fn axie_waits_2_4_8_and_16_seconds_and_tries_five_times() {
        // A29
        assert_eq!(delays("axie-v1", 12_345), [2_000, 4_000, 8_000, 16_000]);
        assert_eq!(find("axie-v1").unwrap().max_attempts(), 5);
    }

    #[test]
    fn axissynapse_retries_seconds_later_at_first_and_minutes_later_at_last() {
        // S21, C2
        let longest = [5_000, 15_000, 45_000, 135_000, 405_000, 600_000, 600_000];
        for random in [0, 1, 7_919, u64::MAX] {
            for (delay, longest) in delays("axissynapse-v1", random).into_iter().zip(longest) {
                assert!((longest / 2..=longest).contains(&delay), "{delay} of {longest} at {random}");
            }
        }
        assert_eq!(delays("axissynapse-v1", 3).len(), 7);
    }

    #[test]
    fn no_retry_becomes_due_behind_the_window() {
        // S21
        let profile = find("axissynapse-v1").unwrap();
        let late = START.plus_ms(3_600_000 - 1_000);
        assert_eq!(profile.retry_at(tried(1), late, None, 0), None);
        assert!(profile.retry_at(tried(1), START, None, 0).is_some());
    }

    #[test]
    fn standard_webhooks_delays_are_never_shorter_than_published() {
        let published = [5_000, 300_000, 1_800_000, 7_200_000, 18_000_000, 36_000_000, 36_000_000];
        for (delay, published) in delays("standard-v1", u64::MAX).into_iter().zip(published) {
            assert!((published..=published + published / 10).contains(&delay));
        }
    }

    #[test]
    fn axie_counts_only_200_as_success_and_the_others_any_2xx() {
        // A30, S19, C1
        let answer = |status| Response { status, ..Response::default() };
        for (status, axie, others) in [
            (200, true, true),
            (202, false, true),
            (204, false, true),
            (301, false, false),
            (400, false, false),
            (503, false, false),
        ] {
            assert_eq!(find("axie-v1").unwrap().accepts(&answer(status)), axie, "{status}");
            assert_eq!(find("axissynapse-v1").unwrap().accepts(&answer(status)), others, "{status}");
            assert_eq!(find("standard-v1").unwrap().accepts(&answer(status)), others, "{status}");
        }
    }

    #[test]
    fn axie_wants_exact_types_and_at_least_one_where_axissynapse_takes_globs_and_none() {
        // A6, S5, S10, C13
        let glob = [Filter::parse("platform.**").unwrap()];
        let exact = [Filter::parse("user.created").unwrap()];
        let axie = find("axie-v1").unwrap();
        assert!(axie.check_filters(&exact).is_ok());
        assert_eq!(axie.check_filters(&[]).unwrap_err().to_string(), "profile 'axie-v1' wants at least one event type");
        assert!(axie.check_filters(&glob).unwrap_err().to_string().contains("'platform.**' is a pattern"));
        let synapse = find("axissynapse-v1").unwrap();
        assert!(synapse.check_filters(&[]).is_ok());
        assert!(synapse.check_filters(&glob).is_ok());
    }

    #[test]
    fn an_unknown_profile_is_refused_by_name() {
        assert_eq!(find("axie-v9").unwrap_err().to_string(), "there is no delivery profile 'axie-v9'");
    }
}
