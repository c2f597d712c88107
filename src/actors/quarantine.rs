//! Events that cannot be read, and what is held back because of them: shown to operators, and told in the log once.
//!
//! - Whoever cannot go on holds back what is its own, tries again by itself, and says here what it waits for.
//! - Kept in memory only: after a restart they find the same events, and say so again.

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard};

use crate::domain::id::{SubscriptionId, TenantId};
use crate::domain::time::Timestamp;
use crate::event_store::Position;
use crate::execute::Unreadable;

/// The most that are shown at a time.
const MOST_SHOWN: usize = 1_000;

/// What is held back.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Held {
    /// A subscription is not loaded: it sends nothing and takes no commands.
    Subscription,
    /// Messages are not matched: those of a subscription, or of all subscriptions of a tenant that were enabled there.
    Matching,
    /// A tenant is not loaded: it publishes nothing and is not changed.
    Tenant,
}

/// An event that cannot be read, and what is held back because of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Quarantined {
    /// What is held back.
    pub held: Held,
    /// The event.
    pub event: Unreadable,
    /// Since when, in this life of the process.
    pub since: Timestamp,
    /// When it is tried again; `None`: with the next request.
    pub retry_at: Option<Timestamp>,
}

/// Who holds something back.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Holder {
    Subscription(SubscriptionId),
    /// The matcher, for whoever waits for the event there.
    Matching(Position),
    Tenant(TenantId),
}

/// Everything that is held back. As long as there are unreadable events: each holder has at most one entry.
#[derive(Default)]
pub(super) struct Quarantine(Mutex<BTreeMap<Holder, Quarantined>>);

impl Quarantine {
    /// Somebody waits for an event, or still does.
    pub(super) fn hold(&self, holder: Holder, event: &Unreadable, now: Timestamp, retry_at: Option<Timestamp>) {
        let mut entries = self.entries();
        if let Some(known) = entries.get_mut(&holder).filter(|known| known.event == *event) {
            known.retry_at = retry_at;
            return;
        }
        let held = match holder {
            Holder::Subscription(_) => Held::Subscription,
            Holder::Matching(_) => Held::Matching,
            Holder::Tenant(_) => Held::Tenant,
        };
        let Unreadable { position, stream, reason } = event;
        match held {
            Held::Subscription => tracing::error!(stream.id = stream, %position, "a subscription rests: {reason}"),
            Held::Matching => tracing::error!(stream.id = stream, %position, "messages are not matched: {reason}"),
            Held::Tenant => tracing::error!(stream.id = stream, %position, "a tenant is refused: {reason}"),
        }
        entries.insert(holder, Quarantined { held, event: event.clone(), since: now, retry_at });
    }

    /// Nobody waits there any more.
    pub(super) fn release(&self, holder: Holder) {
        if let Some(Quarantined { event: Unreadable { stream, position, .. }, .. }) = self.entries().remove(&holder) {
            tracing::info!(stream.id = stream, %position, "nothing waits for an unreadable event any more");
        }
    }

    /// What the matcher of a shard waits for, and nothing else.
    pub(super) fn release_matching(&self, shard: u16, but: impl Fn(Position) -> bool) {
        let first = Holder::Matching(Position { shard, seq: 0 });
        let last = Holder::Matching(Position { shard, seq: u64::MAX });
        let settled: Vec<_> = self.entries().range(first..=last).map(|(holder, _)| *holder).collect();
        for holder in settled {
            match holder {
                Holder::Matching(position) if but(position) => {}
                Holder::Matching(_) | Holder::Subscription(_) | Holder::Tenant(_) => self.release(holder),
            }
        }
    }

    /// In a steady order, so many at most.
    pub(super) fn list(&self) -> Vec<Quarantined> {
        self.entries().values().take(MOST_SHOWN).cloned().collect()
    }

    fn entries(&self) -> MutexGuard<'_, BTreeMap<Holder, Quarantined>> {
        self.0.lock().expect("no holder of this lock can panic")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn event(seq: u64) -> Unreadable {
        Unreadable { position: at(0, seq), stream: "messages-1".into(), reason: "it is damaged".into() }
    }

    fn at(shard: u16, seq: u64) -> Position {
        Position { shard, seq }
    }

    #[test]
    fn what_is_still_held_keeps_its_beginning() {
        let quarantine = Quarantine::default();
        let holder = Holder::Tenant(TenantId::from_parts(1, 1));
        quarantine.hold(holder, &event(7), Timestamp::from_ms(1), None);
        quarantine.hold(holder, &event(7), Timestamp::from_ms(2), Some(Timestamp::from_ms(9)));
        let entry = Quarantined {
            held: Held::Tenant,
            event: event(7),
            since: Timestamp::from_ms(1),
            retry_at: Some(Timestamp::from_ms(9)),
        };
        assert_eq!(quarantine.list(), std::slice::from_ref(&entry));
        quarantine.hold(holder, &event(8), Timestamp::from_ms(3), None);
        let next = Quarantined { event: event(8), since: Timestamp::from_ms(3), retry_at: None, ..entry };
        assert_eq!(quarantine.list(), [next]);
        quarantine.release(holder);
        assert_eq!(quarantine.list(), []);
    }

    #[test]
    fn a_matcher_releases_what_it_waits_for_no_more_and_nobody_elses() {
        let quarantine = Quarantine::default();
        let others = [Holder::Matching(at(1, 7)), Holder::Subscription(SubscriptionId::from_parts(1, 1))];
        for holder in [Holder::Matching(at(0, 7)), Holder::Matching(at(0, 8))].iter().chain(&others) {
            quarantine.hold(*holder, &event(7), Timestamp::from_ms(1), None);
        }
        quarantine.release_matching(0, |position| position.seq == 8);
        let left: Vec<_> = quarantine.entries().keys().copied().collect();
        assert_eq!(left, [others[1], Holder::Matching(at(0, 8)), others[0]]);
    }
}
