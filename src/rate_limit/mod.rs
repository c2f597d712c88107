//! How much each caller may ask for: a budget of points that refills over time.
//!
//! - A budget is a leaky bucket, weighed by what an operation costs: up to [`Config::burst_points`] at once and
//!   [`Config::points_per_second`] for long. One who has a full budget may always ask for one thing, whatever it costs.
//! - Callers are told apart by [`crate::authentication::Credential::subject`]; the latest [`REMEMBERED`] are remembered.
//!   Whoever is forgotten has a full budget.
//! - Budgets live in memory. A restart fills them.
//!
//! The dispatcher's rate spaces attempts evenly and has no weights. The `governor` crate has weights, but does not say
//! what is left, and keeps every key until it is told to forget.

use std::num::NonZeroUsize;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use lru::LruCache;
use serde::{Deserialize, Serialize};
use tokio::time::Instant;

/// Of how many callers budgets are remembered, the latest.
const REMEMBERED: NonZeroUsize = NonZeroUsize::new(16_384).expect("not zero");
/// The largest of either number: what is left is told as a GraphQL `Int`.
const MAX_POINTS: u32 = 1_000_000_000;

/// How much each caller may ask for.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// Points by which a caller's budget refills in a second, 1 to 1,000,000,000. Default: 100,000.
    pub points_per_second: u32,
    /// Points of a full budget, 1 to 1,000,000,000. Default: 1,000,000.
    pub burst_points: u32,
}

impl Default for Config {
    fn default() -> Self {
        Self { points_per_second: 100_000, burst_points: 1_000_000 }
    }
}

impl Config {
    /// What is wrong with it, after the name of the key.
    pub fn check(&self) -> Result<(), String> {
        let keys = [("points_per_second", self.points_per_second), ("burst_points", self.burst_points)];
        match keys.iter().find(|(_, value)| !(1..=MAX_POINTS).contains(value)) {
            Some((key, _)) => Err(format!("limits.{key}: must be 1 to {MAX_POINTS}")),
            None => Ok(()),
        }
    }
}

/// Everybody's budgets. Cheap to clone; the clones are one.
#[derive(Clone)]
pub struct RateLimits {
    config: Config,
    buckets: Arc<Mutex<LruCache<String, Bucket>>>,
}

/// How a caller's budget stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Standing {
    /// Points of a full budget.
    pub limit: u32,
    /// Points that are left.
    pub remaining: u32,
    /// How long until it is full again if nothing more is asked.
    pub full_in: Duration,
    /// How long an empty one takes to be full.
    pub window: Duration,
}

/// There is not enough left.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("this costs {cost} points and {} are left; try again in {} s", standing.remaining, self.retry_after_s())]
pub struct Throttled {
    /// What was asked for, in points.
    pub cost: u32,
    /// When there will be enough if nothing else is asked.
    pub retry_in: Duration,
    /// How the budget stands.
    pub standing: Standing,
}

impl Throttled {
    /// The same in whole seconds, at least 1.
    pub fn retry_after_s(&self) -> u32 {
        whole_seconds(self.retry_in).max(1)
    }
}

impl Standing {
    /// What `RateLimit-Policy` says: points of a full budget, and the seconds in which an empty one is full.
    pub fn policy(&self) -> String {
        format!("\"points\";q={};w={}", self.limit, whole_seconds(self.window).max(1))
    }

    /// Seconds until it is full again, rounded up.
    pub fn full_in_s(&self) -> u32 {
        whole_seconds(self.full_in)
    }
}

fn whole_seconds(time: Duration) -> u32 {
    time.as_secs_f64().ceil() as u32
}

/// What was taken and has not come back yet.
#[derive(Clone, Copy)]
struct Bucket {
    taken: f64,
    at: Instant,
}

impl RateLimits {
    /// Full budgets for everybody.
    pub fn new(config: Config) -> Self {
        Self { config, buckets: Arc::new(Mutex::new(LruCache::new(REMEMBERED))) }
    }

    /// Points by which a budget refills in a second, and points of a full one.
    pub fn config(&self) -> &Config {
        &self.config
    }

    /// How the caller's budget stands.
    pub fn standing(&self, subject: &str) -> Standing {
        self.change(subject, |taken, _| taken)
    }

    /// Whether anything is left; nothing is taken.
    ///
    /// # Errors
    /// Nothing is left.
    pub fn enter(&self, subject: &str) -> Result<(), Throttled> {
        let standing = self.standing(subject);
        if standing.remaining > 0 { Ok(()) } else { Err(self.throttled(1, standing)) }
    }

    /// Takes so many points.
    ///
    /// # Errors
    /// There are not so many; nothing is taken.
    pub fn take(&self, subject: &str, cost: u32) -> Result<Standing, Throttled> {
        let cost = cost.min(self.config.burst_points);
        let mut enough = false;
        let standing = self.change(subject, |taken, burst| {
            enough = taken + f64::from(cost) <= burst;
            if enough { taken + f64::from(cost) } else { taken }
        });
        if enough { Ok(standing) } else { Err(self.throttled(cost, standing)) }
    }

    /// Takes so many points, or what is left, for what cannot be refused any more.
    pub fn charge(&self, subject: &str, cost: u32) -> Standing {
        self.change(subject, |taken, burst| (taken + f64::from(cost)).min(burst))
    }

    /// Takes so many points as soon as there are so many.
    pub async fn wait(&self, subject: &str, cost: u32) -> Standing {
        loop {
            match self.take(subject, cost) {
                Ok(standing) => return standing,
                // Rounding must not make it turn.
                Err(throttled) => tokio::time::sleep(throttled.retry_in.max(Duration::from_millis(1))).await,
            }
        }
    }

    /// Sets what is taken to what `next` makes of it and of a full budget.
    fn change(&self, subject: &str, next: impl FnOnce(f64, f64) -> f64) -> Standing {
        let (now, burst) = (Instant::now(), f64::from(self.config.burst_points));
        let mut buckets = self.buckets.lock().unwrap_or_else(PoisonError::into_inner);
        let bucket = buckets.get_or_insert_mut_ref(subject, || Bucket { taken: 0.0, at: now });
        let refilled = now.duration_since(bucket.at).as_secs_f64() * f64::from(self.config.points_per_second);
        let taken = next((bucket.taken - refilled).max(0.0), burst);
        *bucket = Bucket { taken, at: now };
        Standing {
            limit: self.config.burst_points,
            remaining: (burst - taken) as u32,
            full_in: Duration::from_secs_f64(taken / f64::from(self.config.points_per_second)),
            window: Duration::from_secs_f64(burst / f64::from(self.config.points_per_second)),
        }
    }

    fn throttled(&self, cost: u32, standing: Standing) -> Throttled {
        let left_when_enough = f64::from(self.config.burst_points - cost);
        let taken = standing.full_in.as_secs_f64() * f64::from(self.config.points_per_second);
        let wait = (taken - left_when_enough) / f64::from(self.config.points_per_second);
        Throttled { cost, retry_in: Duration::from_secs_f64(wait.max(0.0)), standing }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn limits(points_per_second: u32, burst_points: u32) -> RateLimits {
        RateLimits::new(Config { points_per_second, burst_points })
    }

    #[tokio::test(start_paused = true)]
    async fn a_budget_is_spent_and_refills_over_time() {
        let limits = limits(10, 100);
        let left = |standing: Standing| (standing.remaining, standing.full_in);
        assert_eq!(limits.take("ada", 60).map(left), Ok((40, Duration::from_secs(6))));
        let throttled = limits.take("ada", 50).unwrap_err();
        assert_eq!((throttled.retry_in, throttled.standing.remaining), (Duration::from_secs(1), 40));
        assert!(limits.take("bob", 100).is_ok(), "somebody else's is another");
        tokio::time::advance(Duration::from_secs(1)).await;
        assert_eq!(limits.take("ada", 50).map(left), Ok((0, Duration::from_secs(10))));
        assert_eq!(limits.enter("ada").unwrap_err().retry_after_s(), 1);
        tokio::time::advance(Duration::from_secs(100)).await;
        assert_eq!(left(limits.standing("ada")), (100, Duration::ZERO));
        assert!(limits.enter("ada").is_ok());
    }

    #[tokio::test(start_paused = true)]
    async fn what_costs_more_than_a_full_budget_takes_it_all() {
        let limits = limits(10, 100);
        assert_eq!(limits.take("ada", 5_000).unwrap().remaining, 0);
        assert_eq!(limits.take("ada", 5_000).unwrap_err().retry_after_s(), 10);
        assert_eq!(limits.charge("ada", 5_000).full_in_s(), 10);
    }

    #[tokio::test(start_paused = true)]
    async fn who_waits_goes_on_as_soon_as_there_is_enough() {
        let limits = limits(10, 100);
        let began = Instant::now();
        limits.charge("ada", 100);
        limits.wait("ada", 20).await;
        assert!((Duration::from_secs(2)..Duration::from_millis(2_010)).contains(&began.elapsed()));
    }

    #[tokio::test(start_paused = true)]
    async fn the_callers_who_are_remembered_are_bounded() {
        let limits = limits(1, 10);
        for n in 0..=REMEMBERED.get() {
            limits.charge(&n.to_string(), 5);
        }
        assert_eq!(limits.buckets.lock().unwrap().len(), REMEMBERED.get());
        assert_eq!(limits.standing(&REMEMBERED.get().to_string()).remaining, 5);
    }

    #[test]
    fn numbers_that_cannot_be_are_named() {
        let config = |points_per_second, burst_points| Config { points_per_second, burst_points };
        assert!(config(1, 1).check().is_ok() && Config::default().check().is_ok());
        assert!(config(0, 1).check().unwrap_err().starts_with("limits.points_per_second"));
        assert!(config(1, MAX_POINTS + 1).check().unwrap_err().starts_with("limits.burst_points"));
    }
}
