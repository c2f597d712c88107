//! A subscription's own retry policy: rules of its own in place of its profile's.
//!
//! - It says how many attempts there are, how long to wait between them, how long each may take, and which answers are
//!   success. What it does not say, the profile says; how delays are spread, the profile says always.
//! - It replaces rules, never a profile: what is sent and how it is signed stays as it is.

use std::borrow::Cow;
use std::fmt;
use std::ops::RangeInclusive;

use serde::{Deserialize, Serialize};

use super::profile::{self, Jitter, Profile, Retry, Success, UnknownProfile};

/// How many attempts there may be.
pub const ATTEMPTS: RangeInclusive<u32> = 1..=20;
/// How long a delay may be, in seconds.
pub const DELAY_S: RangeInclusive<u32> = 0..=48 * 3_600;
/// How long an attempt may take, in seconds.
pub const TIMEOUT_S: RangeInclusive<u32> = 1..=60;

/// Rules in place of the profile's. Stored in events.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct RetryPolicy {
    /// Attempts in all. Without delays: by the profile's schedule, cut off or gone on with.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_attempts: Option<u32>,
    /// The delay behind each failed attempt, in seconds. The last one is repeated if there are more attempts; if nobody says
    /// how many, there is one attempt more than there are delays.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub delays_s: Option<Vec<u32>>,
    /// Limit for one attempt, in seconds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub timeout_s: Option<u32>,
    /// Which statuses end a delivery well.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub success: Option<SuccessRule>,
}

/// Which statuses end a delivery well. The words are stored in events.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum SuccessRule {
    /// 200 alone.
    #[serde(rename = "only_200")]
    Only200,
    /// Any status from 200 to 299.
    #[serde(rename = "any_2xx")]
    Any2xx,
}

impl SuccessRule {
    /// The rule of those that is the same; `None` if neither is.
    pub fn of(success: &Success) -> Option<Self> {
        match success {
            Success::Any2xx => Some(Self::Any2xx),
            Success::Exactly(statuses) => (statuses[..] == [200]).then_some(Self::Only200),
        }
    }
}

impl From<SuccessRule> for Success {
    fn from(rule: SuccessRule) -> Self {
        match rule {
            SuccessRule::Only200 => Self::Exactly(vec![200]),
            SuccessRule::Any2xx => Self::Any2xx,
        }
    }
}

/// A retry policy is refused for these reasons.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{}", .0.iter().map(ToString::to_string).collect::<Vec<_>>().join("; "))]
pub struct InvalidPolicy(pub Vec<PolicyProblem>);

/// What is wrong with a retry policy.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PolicyProblem {
    /// Too few attempts, or too many.
    Attempts,
    /// So many delays at most.
    TooManyDelays(u32),
    /// No delay, but several attempts.
    NoDelay,
    /// The delay at this place is too long.
    Delay(usize),
    /// Too short a limit, or too long a one.
    Timeout,
}

impl fmt::Display for PolicyProblem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Attempts => write!(f, "there are {} to {} attempts", ATTEMPTS.start(), ATTEMPTS.end()),
            Self::TooManyDelays(most) => write!(f, "there is a delay between two attempts: {most} at most"),
            Self::NoDelay => f.write_str("several attempts need a delay"),
            Self::Delay(_) => write!(f, "a delay is {} to {} seconds", DELAY_S.start(), DELAY_S.end()),
            Self::Timeout => write!(f, "an attempt may take {} to {} seconds", TIMEOUT_S.start(), TIMEOUT_S.end()),
        }
    }
}

impl RetryPolicy {
    /// Whether everything in it is within its bounds.
    pub fn check(&self) -> Result<(), InvalidPolicy> {
        let attempts = self.max_attempts.unwrap_or(*ATTEMPTS.end());
        let mut problems = vec![];
        if !ATTEMPTS.contains(&attempts) {
            problems.push(PolicyProblem::Attempts);
        } else if let Some(delays_s) = &self.delays_s {
            problems.extend(self.check_delays(delays_s, attempts - 1));
        }
        if self.timeout_s.is_some_and(|timeout_s| !TIMEOUT_S.contains(&timeout_s)) {
            problems.push(PolicyProblem::Timeout);
        }
        if problems.is_empty() { Ok(()) } else { Err(InvalidPolicy(problems)) }
    }

    fn check_delays(&self, delays_s: &[u32], most: u32) -> Vec<PolicyProblem> {
        if delays_s.len() > most as usize {
            return vec![PolicyProblem::TooManyDelays(most)];
        }
        if delays_s.is_empty() && self.max_attempts.is_some_and(|attempts| attempts > 1) {
            return vec![PolicyProblem::NoDelay];
        }
        let long = delays_s.iter().enumerate().filter(|(_, delay_s)| !DELAY_S.contains(delay_s));
        long.map(|(index, _)| PolicyProblem::Delay(index)).collect()
    }

    /// The profile with these rules in place of its own.
    fn over(&self, profile: &Profile) -> Profile {
        let retry = self.schedule(&profile.retry);
        let jitter = match (profile.jitter, &retry) {
            // It goes with delays that grow alone.
            (Jitter::Decorrelated, Retry::List { .. }) => Jitter::Additive,
            (jitter, Retry::List { .. } | Retry::Exponential { .. }) => jitter,
        };
        let success = self.success.map_or_else(|| profile.success.clone(), Success::from);
        let timeout_ms = self.timeout_s.map_or(profile.timeout_ms, |timeout_s| ms(&timeout_s));
        Profile { retry, jitter, success, timeout_ms, ..profile.clone() }
    }

    fn schedule(&self, profile: &Retry) -> Retry {
        match (&self.delays_s, self.max_attempts, profile) {
            (Some(delays_s), attempts, _) => {
                let count = attempts.map_or(delays_s.len(), delays_of);
                list(delays_s.iter().map(ms).collect(), count)
            }
            (None, Some(attempts), Retry::List { delays_ms }) => list(delays_ms.clone(), delays_of(attempts)),
            (None, Some(attempts), &Retry::Exponential { base_ms, factor, cap_ms, attempts: _, window_ms }) => {
                Retry::Exponential { base_ms, factor, cap_ms, attempts, window_ms }
            }
            (None, None, profile) => profile.clone(),
        }
    }
}

/// The profile of that name, with a policy's rules in place of its own.
pub fn rules(profile: &str, own: Option<&RetryPolicy>) -> Result<Cow<'static, Profile>, UnknownProfile> {
    let profile = profile::find(profile)?;
    Ok(own.map_or(Cow::Borrowed(profile), |own| Cow::Owned(own.over(profile))))
}

/// So many of the delays; the last one is repeated.
fn list(mut delays_ms: Vec<u64>, count: usize) -> Retry {
    if let Some(last) = delays_ms.last().copied() {
        delays_ms.resize(count, last);
    }
    Retry::List { delays_ms }
}

fn delays_of(attempts: u32) -> usize {
    attempts.saturating_sub(1) as usize
}

fn ms(seconds: &u32) -> u64 {
    u64::from(*seconds) * 1_000
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::profile::Tried;
    use crate::domain::time::Timestamp;

    const START: Timestamp = Timestamp::from_ms(1_763_894_415_000);

    fn policy(max_attempts: Option<u32>, delays_s: Option<&[u32]>) -> RetryPolicy {
        RetryPolicy { max_attempts, delays_s: delays_s.map(<[_]>::to_vec), ..RetryPolicy::default() }
    }

    fn over(profile: &str, own: &RetryPolicy) -> Cow<'static, Profile> {
        rules(profile, Some(own)).unwrap()
    }

    /// The delays that follow one another, least or most spread, until the schedule ends.
    fn delays_s(profile: &Profile, random: u64) -> Vec<f64> {
        let at = |failures| {
            let tried = Tried { failures, scheduled_at: START, delay_ms: None };
            profile.retry_at(tried, START, None, random)
        };
        (1..=100).map_while(at).map(|due| due.ms_since(START) as f64 / 1_000.0).collect()
    }

    #[test]
    fn without_a_policy_the_profiles_rules_hold_as_they_are() {
        let profile = profile::find("axie-v1").unwrap();
        assert!(matches!(rules("axie-v1", None).unwrap(), Cow::Borrowed(found) if found == profile));
        assert_eq!(&*over("axie-v1", &RetryPolicy::default()), profile);
        assert!(rules("axie-v9", None).is_err());
    }

    #[test]
    fn delays_alone_make_one_attempt_more() {
        // A29, C2
        let own = over("axie-v1", &policy(None, Some(&[0, 7])));
        assert_eq!((own.max_attempts(), delays_s(&own, 12_345)), (3, vec![0.0, 7.0]));
        let once = over("axie-v1", &policy(None, Some(&[])));
        assert_eq!((once.max_attempts(), delays_s(&once, 0)), (1, vec![]));
    }

    #[test]
    fn attempts_alone_cut_a_list_off_or_repeat_its_last_delay() {
        assert_eq!(delays_s(&over("axie-v1", &policy(Some(3), None)), 1), [2.0, 4.0]);
        assert_eq!(delays_s(&over("axie-v1", &policy(Some(7), None)), 1), [2.0, 4.0, 8.0, 16.0, 16.0, 16.0]);
        assert!(delays_s(&over("axie-v1", &policy(Some(1), None)), 1).is_empty());
    }

    #[test]
    fn attempts_alone_cut_growing_delays_off_or_let_them_go_on_inside_their_window() {
        // S21
        for attempts in [1, 3, 8, 12] {
            let own = over("axissynapse-v1", &policy(Some(attempts), None));
            assert_eq!((own.max_attempts(), delays_s(&own, 0).len()), (attempts, attempts as usize - 1));
            let late = Tried { failures: 1, scheduled_at: START, delay_ms: None };
            assert_eq!(own.retry_at(late, START.plus_ms(3_600_000), None, 0), None);
        }
        let own = over("axissynapse-v1", &policy(Some(10), None));
        assert_eq!(own.retry_delays_ms()[7..], [600_000, 600_000]);
    }

    #[test]
    fn with_both_the_last_delay_is_repeated() {
        assert_eq!(delays_s(&over("axie-v1", &policy(Some(4), Some(&[1, 5]))), 9), [1.0, 5.0, 5.0]);
        assert!(delays_s(&over("axie-v1", &policy(Some(1), Some(&[]))), 9).is_empty());
    }

    #[test]
    fn own_delays_have_no_window_and_are_spread_as_the_profile_says() {
        let own = over("axissynapse-v1", &policy(None, Some(&[10_000])));
        assert_eq!((delays_s(&own, 0), delays_s(&own, 5_000_000)), (vec![5_000.0], vec![10_000.0]));
        let decorrelated = Profile { jitter: Jitter::Decorrelated, ..profile::find("axissynapse-v1").unwrap().clone() };
        assert_eq!(policy(Some(3), None).over(&decorrelated).jitter, Jitter::Decorrelated);
        let listed = policy(None, Some(&[10])).over(&decorrelated);
        assert_eq!((delays_s(&listed, 0), delays_s(&listed, 1_000)), (vec![10.0], vec![11.0]));
    }

    #[test]
    fn success_and_timeout_are_replaced_each_by_itself() {
        // A30, S19, C1
        let own = over("axie-v1", &RetryPolicy { success: Some(SuccessRule::Any2xx), ..RetryPolicy::default() });
        assert_eq!((&own.success, own.timeout_ms, own.max_attempts()), (&Success::Any2xx, 30_000, 5));
        let own = over("standard-v1", &RetryPolicy { timeout_s: Some(3), ..RetryPolicy::default() });
        assert_eq!((&own.success, own.timeout_ms, own.max_attempts()), (&Success::Any2xx, 3_000, 8));
        for rule in [SuccessRule::Only200, SuccessRule::Any2xx] {
            assert_eq!(SuccessRule::of(&rule.into()), Some(rule));
        }
        assert_eq!(SuccessRule::of(&Success::Exactly(vec![200, 202])), None);
    }

    #[test]
    fn what_is_sent_stays_the_profiles() {
        let own =
            RetryPolicy { success: Some(SuccessRule::Only200), timeout_s: Some(9), ..policy(Some(2), Some(&[1])) };
        let profile = profile::find("standard-v1").unwrap();
        let Profile { retry, jitter, success, timeout_ms, .. } = profile.clone();
        assert_eq!(Profile { retry, jitter, success, timeout_ms, ..over("standard-v1", &own).into_owned() }, *profile);
    }

    #[test]
    fn a_policy_keeps_to_its_bounds() {
        use PolicyProblem::{Attempts, Delay, NoDelay, Timeout, TooManyDelays};
        let timed = |timeout_s| RetryPolicy { timeout_s: Some(timeout_s), ..RetryPolicy::default() };
        for fits in [
            RetryPolicy::default(),
            policy(Some(1), None),
            policy(Some(20), Some(&[0; 19])),
            policy(Some(20), Some(&[172_800])),
            policy(Some(1), Some(&[])),
            policy(None, Some(&[])),
            timed(1),
            timed(60),
        ] {
            assert_eq!(fits.check(), Ok(()), "{fits:?}");
        }
        for (refused, problems) in [
            (policy(Some(0), None), vec![Attempts]),
            (policy(Some(21), Some(&[u32::MAX])), vec![Attempts]),
            (policy(None, Some(&[1; 20])), vec![TooManyDelays(19)]),
            (policy(Some(3), Some(&[1, 2, 3])), vec![TooManyDelays(2)]),
            (policy(Some(2), Some(&[])), vec![NoDelay]),
            (policy(None, Some(&[172_801, 0, u32::MAX])), vec![Delay(0), Delay(2)]),
            (timed(0), vec![Timeout]),
            (timed(61), vec![Timeout]),
            (RetryPolicy { max_attempts: Some(0), ..timed(0) }, vec![Attempts, Timeout]),
        ] {
            assert_eq!(refused.check(), Err(InvalidPolicy(problems)), "{refused:?}");
        }
    }

    #[test]
    fn only_what_it_says_is_stored() {
        let own = RetryPolicy { success: Some(SuccessRule::Only200), ..policy(Some(2), None) };
        let text = r#"{"max_attempts":2,"success":"only_200"}"#;
        assert_eq!(serde_json::to_string(&own).unwrap(), text);
        assert_eq!(serde_json::from_str::<RetryPolicy>(text).unwrap(), own);
    }
}
