//! A rate, held by the generic cell rate algorithm: one number says when the next attempt may begin.

use std::num::NonZeroU32;

use super::turns::Moment;

const SECOND: Moment = 1_000_000_000;
/// How much may be made up for at once: timers wake no more often than about this, in nanoseconds. So within any time
/// `w`, at most `rate × (w + 10 ms) + 1` attempts begin, and up to 100 a second they are evenly spaced.
const TOLERANCE: Moment = 10_000_000;

/// So many a second, evenly.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Gcra {
    per_second: NonZeroU32,
    /// When the next one would be exactly on time ("theoretical arrival time").
    expected_at: Moment,
}

impl Gcra {
    pub(super) fn new(per_second: NonZeroU32) -> Self {
        Self { per_second, expected_at: 0 }
    }

    pub(super) fn per_second(&self) -> NonZeroU32 {
        self.per_second
    }

    fn interval(&self) -> Moment {
        SECOND.div_ceil(u64::from(self.per_second.get()))
    }

    /// From when on one may begin.
    pub(super) fn next_at(&self) -> Moment {
        // At low rates nothing is made up for: the last one was an interval ago at least.
        self.expected_at.saturating_sub((TOLERANCE - 1) / self.interval() * self.interval())
    }

    /// Counts one that begins now.
    pub(super) fn take(&mut self, now: Moment) {
        self.expected_at = self.expected_at.max(now) + self.interval();
    }

    /// Goes on at another rate. What began under the old one does not hold back longer than the new one would.
    pub(super) fn change(&mut self, per_second: NonZeroU32, now: Moment) {
        self.per_second = per_second;
        self.expected_at = self.expected_at.min(now + self.interval());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// When attempts begin that are made as soon as they may be, by somebody who looks every `step` nanoseconds.
    fn begins(rate: &mut Gcra, until: Moment, step: Moment) -> Vec<Moment> {
        let mut begun = vec![];
        for now in (0..until).step_by(step as usize) {
            while rate.next_at() <= now {
                rate.take(now);
                begun.push(now);
            }
        }
        begun
    }

    fn per_second(rate: u32) -> Gcra {
        Gcra::new(NonZeroU32::new(rate).unwrap())
    }

    #[test]
    fn a_low_rate_is_evenly_spaced() {
        let begun = begins(&mut per_second(4), 2 * SECOND, SECOND / 1_000);
        assert_eq!(begun, (0..8).map(|n| n * SECOND / 4).collect::<Vec<_>>());
    }

    #[test]
    fn a_high_rate_is_reached_by_whoever_looks_every_ten_milliseconds() {
        let begun = begins(&mut per_second(5_000), SECOND, TOLERANCE);
        assert!((4_950..=5_051).contains(&begun.len()), "{}", begun.len());
    }

    #[test]
    fn another_rate_holds_at_once() {
        let mut rate = per_second(1);
        rate.take(0);
        rate.change(NonZeroU32::new(100).unwrap(), 0);
        assert_eq!(rate.next_at(), SECOND / 100);
        rate.change(NonZeroU32::new(1).unwrap(), 0);
        assert_eq!(rate.next_at(), SECOND / 100);
    }
}
