//! Subscriptions that are led through the log by themselves.
//!
//! There may be as many as there are subscriptions, so nothing that the matcher asks at each turn looks through them all.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use tokio::time::Instant;

use crate::domain::id::SubscriptionId;
use crate::execute::Unreadable;

/// One of them.
pub(super) struct Behind {
    /// The first position that is still to be read for it.
    pub(super) from: u64,
    /// Not before this, and not before all that it has under way has ended.
    pub(super) next_at: Instant,
    /// What it waits for, if that is an event that cannot be read.
    pub(super) blocked: Option<Arc<Unreadable>>,
}

/// All of a shard.
#[derive(Default)]
pub(super) struct Laggards {
    all: BTreeMap<SubscriptionId, Behind>,
    by_from: BTreeSet<(u64, SubscriptionId)>,
    /// Those who have nothing under way.
    by_time: BTreeSet<(Instant, SubscriptionId)>,
}

impl Laggards {
    pub(super) fn contains(&self, id: SubscriptionId) -> bool {
        self.all.contains_key(&id)
    }

    pub(super) fn get(&self, id: SubscriptionId) -> Option<&Behind> {
        self.all.get(&id)
    }

    /// In place of what was known of it. `settled`: whether it has nothing under way.
    pub(super) fn put(&mut self, id: SubscriptionId, behind: Behind, settled: bool) {
        self.remove(id);
        self.by_from.insert((behind.from, id));
        if settled {
            self.by_time.insert((behind.next_at, id));
        }
        self.all.insert(id, behind);
    }

    pub(super) fn remove(&mut self, id: SubscriptionId) {
        if let Some(behind) = self.all.remove(&id) {
            self.by_from.remove(&(behind.from, id));
            self.by_time.remove(&(behind.next_at, id));
        }
    }

    /// It has nothing under way any more.
    pub(super) fn settle(&mut self, id: SubscriptionId) {
        if let Some(behind) = self.all.get(&id) {
            self.by_time.insert((behind.next_at, id));
        }
    }

    pub(super) fn lead_at(&mut self, id: SubscriptionId, next_at: Instant) {
        let Some(behind) = self.all.get_mut(&id) else { return };
        if self.by_time.remove(&(behind.next_at, id)) {
            self.by_time.insert((next_at, id));
        }
        behind.next_at = next_at;
    }

    /// The first position that any of them still needs.
    pub(super) fn first_from(&self) -> Option<u64> {
        self.by_from.first().map(|(from, _)| *from)
    }

    /// When the next one is to be led that has nothing under way.
    pub(super) fn next_at(&self) -> Option<Instant> {
        self.by_time.first().map(|(next_at, _)| *next_at)
    }

    /// Whose time has come, in the order of their times, so many at most.
    pub(super) fn due(&self, now: Instant, at_most: usize) -> Vec<SubscriptionId> {
        self.by_time.iter().take_while(|(next_at, _)| *next_at <= now).take(at_most).map(|(_, id)| *id).collect()
    }

    /// Those who wait for an event that cannot be read.
    pub(super) fn blocked(&self) -> impl Iterator<Item = (SubscriptionId, Instant, &Arc<Unreadable>)> {
        self.all.iter().filter_map(|(id, behind)| Some((*id, behind.next_at, behind.blocked.as_ref()?)))
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn each_is_due_at_its_time_once_nothing_of_it_is_under_way() {
        let now = Instant::now();
        let at = |ms| now + Duration::from_millis(ms);
        let behind = |from, ms| Behind { from, next_at: at(ms), blocked: None };
        let [a, b, c] = [1, 2, 3].map(|n| SubscriptionId::from_parts(n, 0));
        let mut laggards = Laggards::default();
        laggards.put(a, behind(7, 30), true);
        laggards.put(b, behind(5, 10), false);
        laggards.put(c, behind(9, 20), true);
        assert_eq!((laggards.first_from(), laggards.next_at()), (Some(5), Some(at(20))));
        assert_eq!(laggards.due(at(19), 9), []);
        assert_eq!(laggards.due(at(30), 9), [c, a]);
        assert_eq!(laggards.due(at(30), 1), [c]);

        laggards.settle(b);
        laggards.lead_at(a, at(5));
        laggards.put(c, behind(4, 40), true);
        assert_eq!(laggards.due(at(30), 9), [a, b]);
        assert_eq!(laggards.first_from(), Some(4));
        [a, b, c].into_iter().for_each(|id| laggards.remove(id));
        assert_eq!((laggards.first_from(), laggards.next_at()), (None, None));
        laggards.settle(a);
        assert!(laggards.due(at(99), 9).is_empty() && !laggards.contains(a));
    }
}
