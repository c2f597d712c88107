//! Events with their contents that memory held no more when they were wanted, and their neighbours.
//!
//! Who works through a backlog asks for one event after the other, long after they were written. Read one by one each
//! costs two questions to the database; so whoever asks in the order of the log is given a page, and the page is kept
//! for the next ones, also of other askers. Who asks here and there reads what he asks for, and no more.

use std::collections::VecDeque;
use std::sync::{Mutex, MutexGuard, PoisonError};

use lru::LruCache;

use super::tail::Entry;
use super::{EventReader, Position, ReadError};

/// Events that are read together for whoever asks in order.
const PAGE: usize = 256;
/// Who asks for an event so close behind the end of an earlier reading asks in order.
const NEAR: u64 = 2 * PAGE as u64;
/// Ends of readings that are remembered: so many backlogs are worked through side by side.
const ENDS: usize = 64;

/// What was read for one and is kept for others, of all shards.
pub(super) struct Ahead {
    kept: Mutex<Kept>,
    /// One reads at a time: the others mostly find what they want in what that one has read.
    ends: tokio::sync::Mutex<VecDeque<Position>>,
    max_bytes: usize,
}

struct Kept {
    entries: LruCache<Position, Entry>,
    size_bytes: usize,
    /// Counts what was forgotten: what was read before that must not come in behind it.
    forgotten: u64,
}

impl Ahead {
    pub(super) fn new(max_bytes: usize) -> Self {
        let kept = Kept { entries: LruCache::unbounded(), size_bytes: 0, forgotten: 0 };
        Self { kept: Mutex::new(kept), ends: tokio::sync::Mutex::default(), max_bytes }
    }

    /// The event at the position with its content; `None` if there is none.
    pub(super) async fn entry(&self, reader: &dyn EventReader, at: Position) -> Result<Option<Entry>, ReadError> {
        let Some(before) = at.seq.checked_sub(1) else { return Ok(None) };
        if let Some(entry) = self.kept().entries.get(&at) {
            return Ok(Some(entry.clone()));
        }
        let mut ends = self.ends.lock().await;
        if let Some(entry) = self.kept().entries.get(&at) {
            return Ok(Some(entry.clone()));
        }
        let forgotten = self.kept().forgotten;
        let near = |end: &Position| end.shard == at.shard && end.seq < at.seq && at.seq - end.seq <= NEAR;
        let end = ends.iter().position(near);
        let limit = if end.is_some() { PAGE } else { 1 };
        let read = undamaged_page(reader, Position { seq: before, ..at }, limit).await?;
        if let Some(index) = end {
            ends.remove(index);
        }
        ends.extend(read.last().map(|entry| entry.event.position));
        if ends.len() > ENDS {
            ends.pop_front();
        }
        let found = read.first().filter(|entry| entry.event.position == at).cloned();
        self.keep(read, forgotten);
        Ok(found)
    }

    /// Forgets the events of a shard up to this number.
    pub(super) fn forget_through(&self, through: Position) {
        let mut kept = self.kept();
        kept.forgotten += 1;
        let gone = |at: &&Position| at.shard == through.shard && at.seq <= through.seq;
        let gone: Vec<Position> = kept.entries.iter().map(|(at, _)| at).filter(gone).copied().collect();
        for at in gone {
            if let Some(entry) = kept.entries.pop(&at) {
                kept.size_bytes -= entry.size_bytes();
            }
        }
    }

    /// Forgets these events of a shard.
    pub(super) fn forget(&self, shard: u16, seqs: impl IntoIterator<Item = u64>) {
        let mut kept = self.kept();
        kept.forgotten += 1;
        for seq in seqs {
            if let Some(entry) = kept.entries.pop(&Position { shard, seq }) {
                kept.size_bytes -= entry.size_bytes();
            }
        }
    }

    /// Those with a content: the others are read by their stream.
    fn keep(&self, read: Vec<Entry>, forgotten: u64) {
        let mut kept = self.kept();
        if kept.forgotten != forgotten {
            return;
        }
        for entry in read.into_iter().filter(|entry| entry.content.is_some()) {
            kept.size_bytes += entry.size_bytes();
            if let Some((_, replaced)) = kept.entries.push(entry.event.position, entry) {
                kept.size_bytes -= replaced.size_bytes();
            }
        }
        while kept.size_bytes > self.max_bytes {
            let Some((_, oldest)) = kept.entries.pop_lru() else { break };
            kept.size_bytes -= oldest.size_bytes();
        }
    }

    fn kept(&self) -> MutexGuard<'_, Kept> {
        self.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A page, or its first event alone if another one is damaged: a bad row is the business of those who ask for it.
async fn undamaged_page(reader: &dyn EventReader, after: Position, limit: usize) -> Result<Vec<Entry>, ReadError> {
    match page(reader, after, limit).await {
        Err(ReadError::Damaged { .. }) if limit > 1 => page(reader, after, 1).await,
        read => read,
    }
}

async fn page(reader: &dyn EventReader, after: Position, limit: usize) -> Result<Vec<Entry>, ReadError> {
    let events = reader.read_log(after, limit).await?;
    let Some(last) = events.last() else { return Ok(vec![]) };
    let mut contents = reader.contents(after, last.position.seq).await?.into_iter().peekable();
    let mut content = |seq| contents.next_if(|(of, _)| *of == seq).map(|(_, content)| content);
    Ok(events.into_iter().map(|event| Entry { content: content(event.position.seq), event: event.into() }).collect())
}
