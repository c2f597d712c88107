//! What waits to be sent in one shard: a line for each subscription and address, each in the order of the log.
//!
//! A line whose mail is refused for now rests, and holds up no other line. How much waits is bounded: who fills the queue
//! reads on in the log when there is room.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

use crate::domain::id::{SubscriptionId, TenantId};
use crate::domain::mail::Notice;
use crate::domain::notice::Address;
use crate::domain::time::Timestamp;

/// Mails that wait at most, but for those of one event more.
const MAX_WAITING: usize = 1_000;
/// How long a line rests after a first refusal, and at most.
const REST: Duration = Duration::from_secs(60);
const LONGEST_REST: Duration = Duration::from_secs(3_600);

/// Whom a line is for.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct Line {
    pub(super) subscription: SubscriptionId,
    pub(super) to: Address,
}

#[derive(Debug, Default)]
struct Waiting {
    /// With their numbers in the shard's log; never empty.
    notices: VecDeque<(u64, Arc<Notice>)>,
    /// Refusals of the first one.
    refusals: u32,
    rests_until: Option<Instant>,
}

/// The lines of one shard.
#[derive(Debug, Default)]
pub(super) struct Queue {
    lines: HashMap<Line, Waiting>,
    length: usize,
}

impl Queue {
    pub(super) fn has_room(&self) -> bool {
        self.length < MAX_WAITING
    }

    pub(super) fn len(&self) -> usize {
        self.length
    }

    /// Puts a notice of that number at the end of the line.
    pub(super) fn push(&mut self, line: Line, seq: u64, notice: Arc<Notice>) {
        self.lines.entry(line).or_default().notices.push_back((seq, notice));
        self.length += 1;
    }

    /// The oldest notice whose line does not rest.
    pub(super) fn next(&self, now: Instant) -> Option<(Line, Arc<Notice>)> {
        let awake = self.lines.iter().filter(|(_, waiting)| waiting.rests_until.is_none_or(|until| until <= now));
        let firsts =
            awake.filter_map(|(line, waiting)| waiting.notices.front().map(|(seq, notice)| (seq, line, notice)));
        let (_, line, notice) = firsts.min_by_key(|(seq, ..)| **seq)?;
        Some((line.clone(), Arc::clone(notice)))
    }

    /// The first notice of the line is done with.
    pub(super) fn settle(&mut self, line: &Line) {
        let Some(waiting) = self.lines.get_mut(line) else { return };
        if waiting.notices.pop_front().is_some() {
            self.length -= 1;
        }
        (waiting.refusals, waiting.rests_until) = (0, None);
        if waiting.notices.is_empty() {
            self.lines.remove(line);
        }
    }

    /// The first notice of the line was refused for now.
    pub(super) fn rest(&mut self, line: &Line, now: Instant) {
        let Some(waiting) = self.lines.get_mut(line) else { return };
        let rest = backoff(REST, LONGEST_REST, waiting.refusals);
        waiting.refusals = waiting.refusals.saturating_add(1);
        waiting.rests_until = Some(now + rest);
    }

    /// Gives up whatever happened before that; how many notices those were.
    pub(super) fn expire(&mut self, before: Timestamp) -> usize {
        let length = self.length;
        self.lines.retain(|_, waiting| {
            let waited = waiting.notices.len();
            waiting.notices.retain(|(_, notice)| notice.at >= before);
            self.length -= waited - waiting.notices.len();
            !waiting.notices.is_empty()
        });
        length - self.length
    }

    /// When the first line has rested that rests; `None` if none does.
    pub(super) fn wakes_at(&self) -> Option<Instant> {
        self.lines.values().filter_map(|waiting| waiting.rests_until).min()
    }

    /// The lowest number that waits.
    pub(super) fn first(&self) -> Option<u64> {
        self.lines.values().filter_map(|waiting| waiting.notices.front().map(|(seq, _)| *seq)).min()
    }
}

/// How many mails each tenant has had of the newest hour that something happened in.
#[derive(Debug, Default)]
pub(super) struct Hour {
    number: i64,
    mails: HashMap<TenantId, u32>,
}

impl Hour {
    /// Counts a mail of something that happened then; whether the tenant may have it.
    pub(super) fn may_have(&mut self, tenant: TenantId, at: Timestamp, most: u32) -> bool {
        let number = at.as_ms().div_euclid(3_600_000);
        if number > self.number {
            *self = Self { number, mails: HashMap::new() };
        }
        let mails = self.mails.entry(tenant).or_default();
        *mails = mails.saturating_add(1);
        *mails <= most
    }
}

/// Twice as long after each failure, up to a limit.
pub(super) fn backoff(first: Duration, longest: Duration, failures: u32) -> Duration {
    first.saturating_mul(1 << failures.min(16)).min(longest)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::event::{DisableCause, SubscriptionDisabled};
    use crate::domain::event::{Event, SubscriptionEvent};
    use crate::domain::id::EventId;

    fn line(subscription: u128, to: &str) -> Line {
        let to = Address::parse(&format!("{to}@example.com")).unwrap();
        Line { subscription: SubscriptionId::from_parts(1, subscription), to }
    }

    fn notice(at_ms: i64) -> Arc<Notice> {
        let disabled = SubscriptionDisabled { reason: None, cause: Some(DisableCause::EndpointGone) };
        let event = Event::Subscription(SubscriptionEvent::Disabled(disabled));
        Arc::new(Notice::of(EventId::from_parts(1, 1), Timestamp::from_ms(at_ms), &event).unwrap())
    }

    fn filled(entries: &[(&Line, u64)]) -> Queue {
        let mut queue = Queue::default();
        for (line, seq) in entries {
            queue.push((*line).clone(), *seq, notice(*seq as i64));
        }
        queue
    }

    fn next(queue: &Queue, now: Instant) -> Option<(Line, i64)> {
        queue.next(now).map(|(line, notice)| (line, notice.at.as_ms()))
    }

    #[test]
    fn notices_go_in_order_and_a_line_that_rests_holds_up_no_other() {
        // A12
        let (ops, dev, other) = (line(1, "ops"), line(1, "dev"), line(2, "ops"));
        let mut queue = filled(&[(&ops, 1), (&dev, 1), (&ops, 2), (&other, 3)]);
        let now = Instant::now();
        queue.rest(&ops, now);
        assert_eq!(next(&queue, now), Some((dev.clone(), 1)));
        queue.settle(&dev);
        assert_eq!(next(&queue, now), Some((other.clone(), 3)));
        queue.settle(&other);
        // The first of the line waits, and the second behind it.
        assert_eq!(next(&queue, now), None);
        assert_eq!((queue.first(), queue.wakes_at(), queue.len()), (Some(1), Some(now + REST), 2));
        assert_eq!(next(&queue, now + REST), Some((ops.clone(), 1)));
        queue.settle(&ops);
        assert_eq!(next(&queue, now), Some((ops.clone(), 2)));
        queue.settle(&ops);
        assert_eq!((queue.first(), queue.wakes_at(), queue.len()), (None, None, 0));
    }

    #[test]
    fn rests_grow_and_end_and_what_is_too_old_is_given_up() {
        let ops = line(1, "ops");
        let mut queue = filled(&[(&ops, 1), (&ops, 2), (&line(2, "ops"), 3)]);
        let now = Instant::now();
        for expected in [60, 120, 240, 480, 960, 1_920, 3_600, 3_600] {
            queue.rest(&ops, now);
            assert_eq!(queue.wakes_at(), Some(now + Duration::from_secs(expected)));
        }
        assert_eq!(queue.expire(Timestamp::from_ms(2)), 1);
        assert_eq!((queue.first(), queue.len()), (Some(2), 2));
        assert_eq!(queue.expire(Timestamp::from_ms(9)), 2);
        assert_eq!((queue.first(), queue.len()), (None, 0));
    }

    #[test]
    fn a_tenant_has_so_many_mails_an_hour_whatever_others_have() {
        let (one, other) = (TenantId::from_parts(1, 1), TenantId::from_parts(1, 2));
        let minute = |minute: i64| Timestamp::from_ms(minute * 60_000);
        let mut hour = Hour::default();
        let had = [(one, 60), (one, 61), (one, 119), (other, 119), (one, 120), (one, 119), (one, 121)]
            .map(|(tenant, at)| hour.may_have(tenant, minute(at), 2));
        assert_eq!(had, [true, true, false, true, true, true, false]);
    }

    #[test]
    fn a_full_queue_has_no_room() {
        let ops = line(1, "ops");
        let entries: Vec<_> = (1..=MAX_WAITING as u64).map(|seq| (&ops, seq)).collect();
        assert!(filled(&entries[1..]).has_room());
        assert!(!filled(&entries).has_room());
    }
}
