//! How often somebody may fail.

use std::collections::VecDeque;
use std::net::{IpAddr, Ipv6Addr};
use std::num::NonZeroUsize;

use lru::LruCache;

use crate::domain::time::Timestamp;

/// How long a try counts.
const WINDOW_MS: u64 = 15 * 60 * 1_000;
/// Of how many users and addresses tries are remembered, the latest.
const REMEMBERED: NonZeroUsize = NonZeroUsize::new(16_384).expect("not zero");

/// Tries by what they are counted for.
pub(super) struct Throttle(LruCache<String, VecDeque<Timestamp>>);

impl Throttle {
    pub(super) fn new() -> Self {
        Self(LruCache::new(REMEMBERED))
    }

    /// Takes one try, before it is known how it ends; whether there was one left.
    pub(super) fn take(&mut self, key: &str, limit: usize, now: Timestamp) -> bool {
        let tries = self.0.get_or_insert_mut_ref(key, VecDeque::new);
        tries.retain(|at| now.ms_since(*at) < WINDOW_MS);
        let left = tries.len() < limit;
        if left {
            tries.push_back(now);
        }
        left
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
            assert!(throttle.take("ada", 5, at(minute)));
        }
        assert!(!throttle.take("ada", 5, at(14)));
        assert!(throttle.take("bob", 5, at(14)));
        assert!(throttle.take("ada", 5, at(15)) && !throttle.take("ada", 5, at(15)));
        throttle.give_back("ada");
        assert!(throttle.take("ada", 5, at(15)));
        throttle.forget("ada");
        assert!(throttle.take("ada", 1, at(15)) && !throttle.take("ada", 1, at(15)));
    }

    #[test]
    fn a_network_of_ipv6_is_one_address() {
        assert_eq!(network(Some("2001:db8::1")), network(Some("2001:db8::ffff:1")));
        assert_ne!(network(Some("192.0.2.1")), network(Some("192.0.2.2")));
        assert_eq!(network(None), "address/unknown");
    }
}
