//! The newest events of a shard, kept in memory for those who follow the log.

use std::collections::VecDeque;
use std::sync::Arc;

use bytes::Bytes;

use super::Recorded;

/// One event with the content beside it.
#[derive(Clone, Debug)]
pub(super) struct Entry {
    pub(super) event: Arc<Recorded>,
    pub(super) content: Option<Bytes>,
}

impl Entry {
    pub(super) fn size_bytes(&self) -> usize {
        let event = &self.event;
        let texts =
            event.stream.len() + event.kind.len() + event.data.len() + event.meta.as_ref().map_or(0, String::len);
        size_of::<Self>() + size_of::<Recorded>() + texts + self.content.as_ref().map_or(0, Bytes::len)
    }
}

/// A run of events without a hole, ending with the newest; bounded by count and by bytes.
#[derive(Debug)]
pub(super) struct Tail {
    entries: VecDeque<Entry>,
    size_bytes: usize,
    /// The `seq` of the last event, also while no entry is kept.
    last: u64,
    max_events: usize,
    max_bytes: usize,
}

impl Tail {
    /// An empty tail of a shard whose head is `head`.
    pub(super) fn new(head: u64, max_events: usize, max_bytes: usize) -> Self {
        Self { entries: VecDeque::new(), size_bytes: 0, last: head, max_events, max_bytes }
    }

    /// The `seq` of the newest event that the tail knows of.
    pub(super) fn last(&self) -> u64 {
        self.last
    }

    /// Forgets everything and goes on behind `head`.
    pub(super) fn restart(&mut self, head: u64) {
        self.entries.clear();
        self.size_bytes = 0;
        self.last = head;
    }

    /// Forgets the events up to this number.
    pub(super) fn forget_through(&mut self, seq: u64) {
        while let Some(oldest) = self.entries.pop_front_if(|entry| entry.event.position.seq <= seq) {
            self.size_bytes -= oldest.size_bytes();
        }
    }

    /// Forgets the content of an event.
    pub(super) fn erase(&mut self, seq: u64) {
        let Some(index) = self.index(seq) else { return };
        if let Some(content) = self.entries.get_mut(index).and_then(|entry| entry.content.take()) {
            self.size_bytes -= content.len();
        }
    }

    /// How many events it keeps, and how many bytes they take.
    pub(super) fn held(&self) -> (usize, usize) {
        (self.entries.len(), self.size_bytes)
    }

    /// The number of the newest event of its older half, if it keeps any.
    pub(super) fn middle(&self) -> Option<u64> {
        let newest_of_half = self.entries.get(self.entries.len().div_ceil(2).checked_sub(1)?)?;
        Some(newest_of_half.event.position.seq)
    }

    /// Adds the next event. One from before the end is left out: it was appended before and is known. One from
    /// behind a gap starts a new run, since a tail with a hole would make a reader skip.
    pub(super) fn push(&mut self, entry: Entry) {
        let seq = entry.event.position.seq;
        if seq <= self.last {
            return;
        }
        if seq > self.last + 1 {
            self.restart(seq - 1);
        }
        self.last = seq;
        self.size_bytes += entry.size_bytes();
        self.entries.push_back(entry);
        while self.entries.len() > self.max_events || self.size_bytes > self.max_bytes {
            match self.entries.pop_front() {
                Some(oldest) => self.size_bytes -= oldest.size_bytes(),
                None => break,
            }
        }
    }

    /// The events after `after`, at most `limit`; `None` if the tail does not hold the next one.
    pub(super) fn after(&self, after: u64, limit: usize) -> Option<Vec<Arc<Recorded>>> {
        let from = self.index(after.checked_add(1)?)?;
        Some(self.entries.range(from..).take(limit).map(|entry| Arc::clone(&entry.event)).collect())
    }

    /// The entry of the event at `seq`, if it is kept.
    pub(super) fn entry(&self, seq: u64) -> Option<&Entry> {
        self.entries.get(self.index(seq)?)
    }

    fn index(&self, seq: u64) -> Option<usize> {
        let first = self.entries.front()?.event.position.seq;
        usize::try_from(seq.checked_sub(first)?).ok().filter(|index| *index < self.entries.len())
    }
}

#[cfg(test)]
mod tests {
    use std::borrow::Cow;

    use super::*;
    use crate::domain::id::EventId;
    use crate::domain::time::Timestamp;
    use crate::event_store::Position;

    fn entry(seq: u64) -> Entry {
        let event = Recorded {
            position: Position { shard: 0, seq },
            stream: "stream-1".to_owned(),
            version: seq,
            id: EventId::from_parts(0, u128::from(seq)),
            kind: Cow::Borrowed("thing.happened"),
            schema: 1,
            at: Timestamp::from_ms(0),
            data: "{}".to_owned(),
            meta: None,
        };
        Entry { event: Arc::new(event), content: Some(Bytes::from_static(b"content")) }
    }

    fn tail(head: u64, seqs: impl IntoIterator<Item = u64>) -> Tail {
        let mut tail = Tail::new(head, 4, usize::MAX);
        seqs.into_iter().for_each(|seq| tail.push(entry(seq)));
        tail
    }

    fn seqs(events: Option<Vec<Arc<Recorded>>>) -> Option<Vec<u64>> {
        Some(events?.iter().map(|event| event.position.seq).collect())
    }

    #[test]
    fn it_answers_only_from_the_next_event_on() {
        let tail = tail(10, 11..=13);
        assert_eq!(seqs(tail.after(10, 9)), Some(vec![11, 12, 13]));
        assert_eq!(seqs(tail.after(11, 1)), Some(vec![12]));
        assert_eq!(seqs(tail.after(9, 9)), None);
        assert_eq!(seqs(tail.after(13, 9)), None);
        assert_eq!(seqs(tail.after(u64::MAX, 9)), None);
    }

    #[test]
    fn it_keeps_the_newest_within_its_bounds() {
        assert_eq!(seqs(tail(0, 1..=9).after(5, 9)), Some(vec![6, 7, 8, 9]));
        assert!(tail(0, 1..=9).after(4, 9).is_none());
        let mut small = Tail::new(0, usize::MAX, 2 * entry(1).size_bytes());
        (1..=5).for_each(|seq| small.push(entry(seq)));
        assert_eq!(seqs(small.after(3, 9)), Some(vec![4, 5]));
        let mut none = Tail::new(0, 0, 0);
        none.push(entry(1));
        assert_eq!((none.last(), none.size_bytes, seqs(none.after(0, 9))), (1, 0, None));
    }

    #[test]
    fn a_gap_starts_a_new_run_and_what_is_known_is_left_out() {
        let tail = tail(0, [1, 2, 2, 1, 5, 6, 3]);
        assert_eq!(seqs(tail.after(4, 9)), Some(vec![5, 6]));
        assert_eq!(seqs(tail.after(1, 9)), None);
        assert_eq!((tail.last(), tail.size_bytes), (6, 2 * entry(1).size_bytes()));
    }

    #[test]
    fn what_is_forgotten_is_asked_of_the_database() {
        let mut tail = tail(10, 11..=14);
        tail.forget_through(12);
        assert_eq!((seqs(tail.after(11, 9)), seqs(tail.after(12, 9))), (None, Some(vec![13, 14])));
        assert_eq!(tail.size_bytes, 2 * entry(1).size_bytes());
        tail.forget_through(99);
        assert_eq!((tail.last(), tail.size_bytes, seqs(tail.after(14, 9))), (14, 0, None));
    }

    #[test]
    fn it_has_the_content_of_what_it_keeps() {
        let tail = tail(10, 11..=12);
        assert_eq!(tail.entry(12).and_then(|entry| entry.content.clone()), Some(Bytes::from_static(b"content")));
        assert!(tail.entry(10).is_none() && tail.entry(13).is_none());
    }

    #[test]
    fn what_is_erased_leaves_its_event_behind() {
        let mut tail = tail(10, 11..=12);
        [11, 11, 10, 13].into_iter().for_each(|seq| tail.erase(seq));
        assert_eq!(tail.entry(11).map(|entry| entry.content.is_none()), Some(true));
        assert_eq!(tail.size_bytes, 2 * entry(1).size_bytes() - b"content".len());
        tail.forget_through(99);
        assert_eq!(tail.size_bytes, 0);
    }
}
