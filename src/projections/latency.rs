//! How long attempts took, on a scale of slots that grow with the value.
//!
//! Up to 127 ms every millisecond has a slot of its own; from there on there are 64 slots between a power of two and the
//! next. The middle of a slot is less than 1/128 away from whatever is in it. Slots are whole numbers made by shifts, so
//! that every machine folds the same rows, and counts of slots can be added and taken away again: percentiles of any
//! stretch of time come from sums, and forgetting an attempt is a subtraction. Sketches of libraries (HDR histogram,
//! DDSketch) keep the same precision in one value, which would have to be read, changed and written for each attempt,
//! and could not be summed by a statement.

use std::collections::BTreeMap;

/// Slots between a power of two and the next.
const STEPS: u64 = 64;

/// The slot of a latency in milliseconds.
pub(super) fn slot(latency_ms: u64) -> i64 {
    let shift = latency_ms.checked_ilog2().unwrap_or(0).saturating_sub(STEPS.ilog2());
    i64::from(shift) * STEPS.cast_signed() + (latency_ms >> shift).cast_signed()
}

/// The latency in the middle of a slot, in milliseconds.
fn middle(slot: i64) -> u64 {
    let slot = slot.unsigned_abs();
    let shift = (slot / STEPS).saturating_sub(1).min(57); // of the largest latency there is
    let (first, width) = ((slot - shift * STEPS) << shift, 1_u64 << shift);
    first + (width - 1) / 2
}

/// How often attempts took how long.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Latencies(BTreeMap<i64, u64>);

impl Latencies {
    pub(super) fn add(&mut self, slot: i64, count: u64) {
        *self.0.entry(slot).or_default() += count;
    }

    /// How long at most so many of a hundred attempts took, in milliseconds, wrong by less than 1 %; `None` if there
    /// are none.
    pub fn percentile(&self, of_hundred: u64) -> Option<u64> {
        let total: u64 = self.0.values().sum();
        let rank = total.saturating_mul(of_hundred).div_ceil(100).max(1);
        let reached = self.0.iter().scan(0, |below, (slot, count)| {
            *below += count;
            Some((*slot, *below))
        });
        reached.into_iter().find(|(_, below)| *below >= rank).map(|(slot, _)| middle(slot))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// The value that so many of a hundred are no larger than.
    fn exact(sorted: &[u64], of_hundred: u64) -> u64 {
        let rank = (sorted.len() as u64 * of_hundred).div_ceil(100).max(1);
        sorted[usize::try_from(rank).unwrap() - 1]
    }

    #[test]
    fn slots_follow_each_other_without_gap() {
        assert_eq!((slot(0), slot(1), slot(127), slot(128), slot(129), slot(130)), (0, 1, 127, 128, 128, 129));
        let slots: Vec<i64> = (0..200_000).map(slot).collect();
        assert!(slots.windows(2).all(|pair| pair[1] == pair[0] || pair[1] == pair[0] + 1));
        assert!((0..slot(u64::MAX)).all(|of| slot(middle(of)) == of));
        assert_eq!(Latencies::default().percentile(50), None);
    }

    proptest! {
        #[test]
        fn percentiles_are_within_one_percent_of_the_exact_ones(
            latencies in prop::collection::vec(prop_oneof![0_u64..300, 0_u64..40_000, any::<u64>()], 1..300),
            of_hundred in 1_u64..=100,
        ) {
            let mut counted = Latencies::default();
            latencies.iter().for_each(|latency| counted.add(slot(*latency), 1));
            let mut sorted = latencies;
            sorted.sort_unstable();
            let (found, exact) = (counted.percentile(of_hundred).unwrap(), exact(&sorted, of_hundred));
            prop_assert!(found.abs_diff(exact) <= exact / 100, "{found} for {exact}");
        }
    }
}
