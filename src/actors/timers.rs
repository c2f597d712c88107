//! When to wake whom: one heap for a whole region.
//!
//! Nothing is ever removed from the middle of the heap. Who arms a timer anew gives it a new generation, and an old
//! one that fires is recognised by the number and ignored.

use std::cmp::Reverse;
use std::collections::BinaryHeap;

use crate::domain::id::SubscriptionId;
use crate::domain::time::Timestamp;

/// Which arming of a subscription's timer this is; meaningful only while the subscription stays in memory.
pub(super) type Generation = u64;

#[derive(Debug, Default)]
pub(super) struct Timers(BinaryHeap<Reverse<(Timestamp, SubscriptionId, Generation)>>);

impl Timers {
    pub(super) fn arm(&mut self, due_at: Timestamp, id: SubscriptionId, generation: Generation) {
        self.0.push(Reverse((due_at, id, generation)));
    }

    pub(super) fn next(&self) -> Option<Timestamp> {
        self.0.peek().map(|Reverse((due_at, ..))| *due_at)
    }

    /// Takes the earliest timer that is due at `now`.
    pub(super) fn pop_due(&mut self, now: Timestamp) -> Option<(SubscriptionId, Generation)> {
        self.next().filter(|due_at| *due_at <= now)?;
        self.0.pop().map(|Reverse((_, id, generation))| (id, generation))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn timers_fire_in_order_and_not_before_they_are_due() {
        let mut timers = Timers::default();
        let at = Timestamp::from_ms;
        let [a, b] = [1, 2].map(|n| SubscriptionId::from_parts(n, 0));
        timers.arm(at(20), a, 1);
        timers.arm(at(10), b, 1);
        timers.arm(at(15), a, 2);
        assert_eq!(timers.next(), Some(at(10)));
        assert_eq!(timers.pop_due(at(9)), None);
        assert_eq!(timers.pop_due(at(16)), Some((b, 1)));
        assert_eq!(timers.pop_due(at(16)), Some((a, 2)));
        assert_eq!(timers.pop_due(at(16)), None);
        assert_eq!(timers.pop_due(at(20)), Some((a, 1)));
    }
}
