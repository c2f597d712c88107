//! How often somebody may fail.
//!
//! Two ways to count: [`Throttle`] gives so many tries in a window, [`Backoff`] lets the next try wait longer and longer.

use std::collections::VecDeque;
use std::net::{IpAddr, Ipv6Addr};
use std::num::NonZeroUsize;

use lru::LruCache;

use crate::domain::time::Timestamp;

/// How long a try counts.
const WINDOW_MS: u64 = 15 * 60 * 1_000;
/// Failures behind which the next try waits.
const FREE: u32 = 5;
/// How long it waits at first; with each further failure twice as long, up to the window.
const FIRST_WAIT_MS: u64 = 30 * 1_000;
/// After how long without a try failures are forgotten.
const FORGOTTEN_MS: u64 = 24 * 60 * 60 * 1_000;
/// Of how many users and addresses tries are remembered, the latest.
const REMEMBERED: NonZeroUsize = NonZeroUsize::new(16_384).expect("not zero");

/// Tries by what they are counted for.
pub(super) struct Throttle(LruCache<String, VecDeque<Timestamp>>);

impl Throttle {
    pub(super) fn new() -> Self {
        Self(LruCache::new(REMEMBERED))
    }

    /// Takes one try, before it is known how it ends.
    pub(super) fn take(&mut self, key: &str, limit: usize, now: Timestamp) -> Result<(), Wait> {
        let tries = self.0.get_or_insert_mut_ref(key, VecDeque::new);
        tries.retain(|at| now.ms_since(*at) < WINDOW_MS);
        match tries.front().filter(|_| tries.len() >= limit) {
            Some(oldest) => Err(Wait { ms: WINDOW_MS.saturating_sub(now.ms_since(*oldest)) }),
            None => {
                tries.push_back(now);
                Ok(())
            }
        }
    }

    /// Forgets what was counted: the last try was good.
    pub(super) fn forget(&mut self, key: &str) {
        self.0.pop(key);
    }

    /// Gives the last try back.
    pub(super) fn give_back(&mut self, key: &str) {
        if let Some(tries) = self.0.get_mut(key) {
            tries.pop_back();
        }
    }
}

/// There is no try left for so long.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Wait {
    ms: u64,
}

impl Wait {
    /// In whole seconds, at least one.
    pub(super) fn seconds(self) -> u64 {
        self.ms.div_ceil(1_000).max(1)
    }
}

/// Failures by what they are counted for: some are free, and each further one makes the next try wait longer.
pub(super) struct Backoff(LruCache<String, Failures>);

#[derive(Clone, Copy)]
struct Failures {
    count: u32,
    last_at: Timestamp,
    next_at: Timestamp,
}

impl Backoff {
    pub(super) fn new() -> Self {
        Self(LruCache::new(REMEMBERED))
    }

    /// Takes one try, which counts as a failure until [`Self::forget`].
    pub(super) fn take(&mut self, key: &str, now: Timestamp) -> Result<(), Wait> {
        let known = self.0.get(key).filter(|known| now.ms_since(known.last_at) < FORGOTTEN_MS);
        if let Some(known) = known.filter(|known| now < known.next_at) {
            return Err(Wait { ms: known.next_at.ms_since(now) });
        }
        let count = known.map_or(0, |known| known.count).saturating_add(1);
        let failures = Failures { count, last_at: now, next_at: now.plus_ms(wait_ms(count)) };
        self.0.put(key.to_owned(), failures);
        Ok(())
    }

    /// Forgets what was counted: the last try was good.
    pub(super) fn forget(&mut self, key: &str) {
        self.0.pop(key);
    }
}

fn wait_ms(failures: u32) -> u64 {
    match failures.checked_sub(FREE) {
        None => 0,
        Some(more) => FIRST_WAIT_MS.saturating_mul(1_u64.checked_shl(more).unwrap_or(u64::MAX)).min(WINDOW_MS),
    }
}

/// By what an address is counted: one holder has a whole network of IPv6.
pub(super) fn network(ip: Option<&str>) -> String {
    match ip.and_then(|ip| ip.parse().ok()) {
        Some(IpAddr::V4(address)) => format!("address/{address}"),
        Some(IpAddr::V6(address)) => {
            let network = u128::from(address) >> 64 << 64;
            format!("address/{}", Ipv6Addr::from(network))
        }
        None => "address/unknown".into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn so_many_tries_count_in_a_quarter_of_an_hour() {
        let mut throttle = Throttle::new();
        let at = |minute: i64| Timestamp::from_ms(minute * 60_000);
        for minute in 0..5 {
            assert_eq!(throttle.take("ada", 5, at(minute)), Ok(()));
        }
        assert_eq!(throttle.take("ada", 5, at(14)).map_err(Wait::seconds), Err(60));
        assert!(throttle.take("bob", 5, at(14)).is_ok());
        assert!(throttle.take("ada", 5, at(15)).is_ok() && throttle.take("ada", 5, at(15)).is_err());
        throttle.give_back("ada");
        assert!(throttle.take("ada", 5, at(15)).is_ok());
        throttle.forget("ada");
        assert!(throttle.take("ada", 1, at(15)).is_ok() && throttle.take("ada", 1, at(15)).is_err());
    }

    #[test]
    fn each_failure_beyond_the_free_ones_waits_longer() {
        let mut backoff = Backoff::new();
        let mut now = Timestamp::from_ms(0);
        for _ in 0..5 {
            assert_eq!(backoff.take("ada", now), Ok(()));
        }
        for seconds in [30, 60, 120, 240, 480, 900, 900, 900] {
            assert_eq!(backoff.take("ada", now).map_err(Wait::seconds), Err(seconds));
            assert_eq!(backoff.take("bob", now), Ok(()));
            backoff.forget("bob");
            now = now.plus_ms(seconds * 1_000);
            assert_eq!(backoff.take("ada", now), Ok(()), "{seconds}");
        }
        now = now.plus_ms(FORGOTTEN_MS);
        for _ in 0..5 {
            assert_eq!(backoff.take("ada", now), Ok(()));
        }
        assert!(backoff.take("ada", now).is_err());
        backoff.forget("ada");
        assert_eq!(backoff.take("ada", now), Ok(()));
        assert_eq!((wait_ms(4), wait_ms(5), wait_ms(u32::MAX)), (0, FIRST_WAIT_MS, WINDOW_MS));
    }

    #[test]
    fn a_network_of_ipv6_is_one_address() {
        assert_eq!(network(Some("2001:db8::1")), network(Some("2001:db8::ffff:1")));
        assert_ne!(network(Some("192.0.2.1")), network(Some("192.0.2.2")));
        assert_eq!(network(None), "address/unknown");
    }
}
