//! A room with places, of which those who hold them for long get only a part.

/// How long a subscription's attempts held their permits lately. What each may hold at most includes what those before
/// it hold, so the proven ones can use everything and the others only parts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(super) enum Standing {
    /// Long, or failing when it was last in memory.
    Slow,
    /// Not known yet.
    New,
    /// Shortly.
    Proven,
}

pub(super) const STANDINGS: [Standing; 3] = [Standing::Slow, Standing::New, Standing::Proven];

/// How many places a room has for slow ones, for slow and new ones together, and in all.
pub(super) type Places = [u32; 3];

#[derive(Debug, Default)]
pub(super) struct Room(Places);

impl Room {
    pub(super) fn admits(&self, standing: Standing, places: &Places) -> bool {
        (standing as usize..3).all(|level| self.0[level] < places[level])
    }

    pub(super) fn enter(&mut self, standing: Standing) {
        self.0[standing as usize..].iter_mut().for_each(|used| *used += 1);
    }

    pub(super) fn leave(&mut self, standing: Standing) {
        self.0[standing as usize..].iter_mut().for_each(|used| *used -= 1);
    }

    pub(super) fn used(&self) -> u32 {
        self.0[Standing::Proven as usize]
    }
}

/// A room of so many places, of which parts (in percent, but one place at least) are for slow ones, and for slow and new
/// ones together.
pub(super) fn places(all: usize, slow_percent: u8, unproven_percent: u8) -> Places {
    let part = |percent: u8| (all * usize::from(percent) / 100).max(1);
    [part(slow_percent), part(unproven_percent.max(slow_percent)), all]
        .map(|count| count.try_into().unwrap_or(u32::MAX))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_slow_and_the_new_have_parts_and_the_proven_have_all() {
        let places = places(8, 25, 50);
        assert_eq!(places, [2, 4, 8]);
        let mut room = Room::default();
        let mut fill = |standing| {
            let entered = std::iter::repeat_with(|| room.admits(standing, &places).then(|| room.enter(standing)));
            entered.take_while(Option::is_some).count()
        };
        assert_eq!((fill(Standing::Slow), fill(Standing::New), fill(Standing::Proven)), (2, 2, 4));
    }

    #[test]
    fn even_the_smallest_room_has_a_place_for_everybody() {
        assert_eq!(places(1, 25, 50), [1, 1, 1]);
    }
}
