//! A sorted set that takes little more room than what is in it: there are two for each subscription in memory, and most
//! hold nothing, or one entry, for which a tree keeps room for eleven.
//!
//! To insert or remove moves what stands between it and the nearer end: new deliveries come at one end and old ones go at
//! the other, and no subscription has more than a few thousand that are open.

use std::collections::{VecDeque, vec_deque};

/// Entries in ascending order, each once.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Sorted<T>(VecDeque<T>);

impl<T> Default for Sorted<T> {
    fn default() -> Self {
        Self(VecDeque::new())
    }
}

impl<T: Ord> FromIterator<T> for Sorted<T> {
    fn from_iter<I: IntoIterator<Item = T>>(entries: I) -> Self {
        let mut entries: Vec<T> = entries.into_iter().collect();
        entries.sort_unstable();
        entries.dedup();
        Self(entries.into())
    }
}

impl<T: Ord> Sorted<T> {
    pub(super) fn insert(&mut self, entry: T) {
        if let Err(at) = self.0.binary_search(&entry) {
            // Else the first one would make room for four.
            if self.0.is_empty() {
                self.0.reserve_exact(1);
            }
            self.0.insert(at, entry);
        }
    }

    pub(super) fn remove(&mut self, entry: &T) {
        if let Ok(at) = self.0.binary_search(entry) {
            self.0.remove(at);
        }
        if self.0.is_empty() {
            self.0 = VecDeque::new();
        }
    }

    pub(super) fn first(&self) -> Option<&T> {
        self.0.front()
    }

    pub(super) fn iter(&self) -> vec_deque::Iter<'_, T> {
        self.0.iter()
    }

    /// Those that are not smaller.
    pub(super) fn not_before(&self, first: &T) -> vec_deque::Iter<'_, T> {
        self.0.range(self.0.partition_point(|entry| entry < first)..)
    }

    /// Those that are greater.
    pub(super) fn behind(&self, last: &T) -> vec_deque::Iter<'_, T> {
        self.0.range(self.0.partition_point(|entry| entry <= last)..)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn it_says_what_a_tree_says(steps in prop::collection::vec((any::<bool>(), 0_u8..32), 0..200), at in 0_u8..32) {
            let (mut sorted, mut tree) = (Sorted::default(), BTreeSet::new());
            for (insert, entry) in steps {
                match insert {
                    true => {
                        sorted.insert(entry);
                        tree.insert(entry);
                    }
                    false => {
                        sorted.remove(&entry);
                        tree.remove(&entry);
                    }
                }
                prop_assert!(sorted.iter().eq(tree.iter()));
                prop_assert_eq!(sorted.first(), tree.first());
            }
            prop_assert!(sorted.not_before(&at).eq(tree.range(at..)));
            prop_assert!(sorted.behind(&at).eq(tree.range(at + 1..)));
            prop_assert_eq!(tree.into_iter().rev().collect::<Sorted<_>>(), sorted);
        }
    }
}
