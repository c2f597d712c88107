//! A queue whose members know their seats, so that one in the middle can leave.

use std::collections::BTreeMap;

/// A place in a [`Line`], valid until whoever sits there leaves.
pub(super) type Seat = i64;

/// First come, first served, with a way out from any place. Every operation is O(log n).
#[derive(Debug)]
pub(super) struct Line<T>(BTreeMap<Seat, T>);

impl<T> Default for Line<T> {
    fn default() -> Self {
        Self(BTreeMap::new())
    }
}

impl<T> Line<T> {
    pub(super) fn push_back(&mut self, member: T) -> Seat {
        let seat = self.0.last_key_value().map_or(0, |(last, _)| last + 1);
        self.0.insert(seat, member);
        seat
    }

    pub(super) fn push_front(&mut self, member: T) -> Seat {
        let seat = self.0.first_key_value().map_or(0, |(first, _)| first - 1);
        self.0.insert(seat, member);
        seat
    }

    /// Takes a seat that nobody has.
    pub(super) fn insert(&mut self, seat: Seat, member: T) {
        self.0.insert(seat, member);
    }

    pub(super) fn front(&self) -> Option<&T> {
        self.0.first_key_value().map(|(_, member)| member)
    }

    pub(super) fn pop_front(&mut self) -> Option<T> {
        self.0.pop_first().map(|(_, member)| member)
    }

    pub(super) fn remove(&mut self, seat: Seat) -> Option<T> {
        self.0.remove(&seat)
    }

    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub(super) fn len(&self) -> usize {
        self.0.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn members_leave_from_any_place_and_the_others_keep_their_order() {
        let mut line = Line::default();
        let seats = ["a", "b", "c"].map(|member| line.push_back(member));
        line.push_front("first");
        assert_eq!(line.remove(seats[1]), Some("b"));
        assert_eq!(line.remove(seats[1]), None);
        assert_eq!((line.len(), line.front()), (3, Some(&"first")));
        let all: Vec<_> = std::iter::from_fn(|| line.pop_front()).collect();
        assert_eq!(all, ["first", "a", "c"]);
        assert!(line.is_empty());
    }
}
