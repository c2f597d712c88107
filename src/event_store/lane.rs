//! The writer of one shard: takes what is queued, commits it in one transaction, tells readers, tells writers.
//!
//! While one commit is on its way to the disk, the next batch gathers in the queue: a lone append waits for nothing, and
//! under load the commits grow by themselves. Only what nobody waits for waits a moment for company, since a commit costs
//! far more than the events in it; a crowd of that is left behind by somebody who is waited for, and comes a moment later.

use std::collections::HashSet;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};
use std::time::Duration;

use bytes::Bytes;
use tokio::sync::{OwnedSemaphorePermit, mpsc, watch};
use tokio::time::{Instant, sleep_until};
use tracing::{error, info};

use super::ahead::Ahead;
use super::latency::Latencies;
use super::tail::{Entry, Tail};
use super::tails::Tails;
use super::{Ack, Append, AppendError, Appended, Config, EventStore, Position, Recorded, StreamWrite};

/// As many patient events go with what somebody waits for; they cost it hardly anything.
const FEW: usize = 4;

/// An append that waits for its turn.
pub(super) struct Queued {
    pub(super) append: Append,
    pub(super) ack: Ack,
    /// Given back when the append leaves the queue.
    pub(super) _room: OwnedSemaphorePermit,
    /// The same, of one that was waited for.
    pub(super) _place: Option<OwnedSemaphorePermit>,
}

/// What a lane shows to readers.
pub(super) struct Published {
    tail: RwLock<Tail>,
    /// When the tail was last extended, in the order of all shards' commits.
    pub(super) extended: AtomicU64,
    head: watch::Sender<u64>,
    floor: AtomicU64,
    /// The floor that a drop under way is about to set, or the same as the floor: up to here a hole is no damage.
    expected_floor: AtomicU64,
}

impl Published {
    pub(super) fn new(head: u64, floor: u64, config: &Config) -> Self {
        let tail = Tail::new(head, config.tail_events, config.tail_bytes);
        Self {
            tail: RwLock::new(tail),
            head: watch::Sender::new(head),
            extended: AtomicU64::new(0),
            floor: AtomicU64::new(floor),
            expected_floor: AtomicU64::new(floor),
        }
    }

    pub(super) fn floor(&self) -> u64 {
        self.floor.load(Ordering::SeqCst)
    }

    pub(super) fn expected_floor(&self) -> u64 {
        self.expected_floor.load(Ordering::SeqCst)
    }

    /// The database has dropped what stood up to here.
    pub(super) fn raise_floor(&self, floor: u64) {
        self.floor.fetch_max(floor, Ordering::SeqCst);
        self.expect_floor(floor);
    }

    /// Holes up to here are no damage any more, and memory does not hold what the database is about to lose. Whether it
    /// will lose it is not known yet: nobody may act on it.
    pub(super) fn expect_floor(&self, floor: u64) {
        self.expected_floor.fetch_max(floor, Ordering::SeqCst);
        self.forget_through(floor);
    }

    /// Nothing was dropped after all.
    pub(super) fn expect_nothing(&self) {
        self.expected_floor.store(self.floor(), Ordering::SeqCst);
    }

    /// Sends whoever reads up to this number to the database.
    pub(super) fn forget_through(&self, seq: u64) {
        self.tail.write().unwrap_or_else(PoisonError::into_inner).forget_through(seq);
    }

    pub(super) fn tail(&self) -> RwLockReadGuard<'_, Tail> {
        self.tail.read().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn head(&self) -> &watch::Sender<u64> {
        &self.head
    }

    /// Changes the tail and then tells the head, so that whoever wakes finds the events.
    fn change(&self, change: impl FnOnce(&mut Tail)) {
        let mut tail: RwLockWriteGuard<'_, Tail> = self.tail.write().unwrap_or_else(PoisonError::into_inner);
        change(&mut tail);
        let head = tail.last();
        drop(tail);
        self.head.send_if_modified(|known| {
            let moved = *known < head;
            *known = head.max(*known);
            moved
        });
    }
}

/// The task that writes one shard.
pub(super) struct Lane {
    pub(super) shard: u16,
    pub(super) store: Arc<dyn EventStore>,
    pub(super) config: Config,
    pub(super) queue: mpsc::Receiver<Queued>,
    /// Appends of those who waited for a place.
    pub(super) placed: mpsc::UnboundedReceiver<Queued>,
    /// Whether one of those is next.
    pub(super) placed_next: bool,
    pub(super) closing: watch::Receiver<bool>,
    pub(super) published: Arc<Published>,
    pub(super) tails: Arc<Tails>,
    pub(super) ahead: Arc<Ahead>,
    /// How many commits have erased contents.
    pub(super) erasures: Arc<AtomicU64>,
    /// Told the refusal when the shard has a newer owner.
    pub(super) fenced: watch::Sender<Option<AppendError>>,
    pub(super) latencies: Arc<Latencies>,
    /// A commit failed, and whether it took place after all is not settled before another has succeeded.
    pub(super) unsettled: bool,
    /// Patient appends that were left behind, and until when they may be.
    pub(super) left: Option<(Vec<Queued>, Instant)>,
}

impl Lane {
    /// Runs until both queues are closed and empty.
    pub(super) async fn run(mut self) {
        loop {
            let (batch, linger_until) = match self.left.take() {
                Some(left) => left,
                None => match self.next().await {
                    Some(first) => (vec![first], Instant::now() + Duration::from_millis(self.config.linger_ms)),
                    None => return,
                },
            };
            let batch = self.gather(batch, linger_until).await;
            let batch = self.leave_crowd(batch, linger_until);
            self.commit(batch).await;
        }
    }

    async fn next(&mut self) -> Option<Queued> {
        // In turn also where each append fills a batch by itself.
        if let Some(queued) = self.take() {
            return Some(queued);
        }
        if !*self.closing.borrow_and_update() {
            tokio::select! {
                biased;
                // Also when every handle is gone; the queue is then closed already.
                _ = self.closing.changed() => {}
                Some(queued) = self.queue.recv() => {
                    self.placed_next = true;
                    return Some(queued);
                }
                Some(queued) = self.placed.recv() => return Some(queued),
            }
        }
        self.queue.close();
        self.placed.close();
        match self.queue.recv().await {
            Some(queued) => Some(queued),
            None => self.placed.recv().await,
        }
    }

    /// What is queued, from both queues in turn: a crowd in one keeps nobody waiting in the other.
    fn take(&mut self) -> Option<Queued> {
        if std::mem::take(&mut self.placed_next)
            && let Ok(queued) = self.placed.try_recv()
        {
            return Some(queued);
        }
        match self.queue.try_recv() {
            Ok(queued) => {
                self.placed_next = true;
                Some(queued)
            }
            Err(_) => self.placed.try_recv().ok(),
        }
    }

    /// What is queued, up to the first append that reaches a bound. Patient appends alone wait for others to come.
    async fn gather(&mut self, mut batch: Vec<Queued>, linger_until: Instant) -> Vec<Queued> {
        let sizes = batch.iter().map(|queued| size(&queued.append));
        let (mut events, mut bytes) = sizes.fold((0, 0), |(events, bytes), (more, of)| (events + more, bytes + of));
        let mut patient = batch.iter().all(|queued| queued.append.patient);
        while events < self.config.batch_events && bytes < self.config.batch_bytes {
            let queued = match self.take() {
                Some(queued) => queued,
                None if patient => match self.company(linger_until).await {
                    Some(queued) => queued,
                    None => break,
                },
                None => break,
            };
            let (more_events, more_bytes) = size(&queued.append);
            events += more_events;
            bytes += more_bytes;
            patient &= queued.append.patient;
            batch.push(queued);
        }
        batch
    }

    /// The part of a batch to be committed now: without its patient appends if these are many and may wait still. What
    /// one writer has queued stays in its order.
    fn leave_crowd(&mut self, batch: Vec<Queued>, linger_until: Instant) -> Vec<Queued> {
        let patient = || batch.iter().filter(|queued| queued.append.patient);
        let crowd: usize = patient().map(|queued| size(&queued.append).0).sum();
        if crowd <= FEW || patient().count() == batch.len() || Instant::now() >= linger_until {
            return batch;
        }
        let writers: HashSet<&str> = patient().filter_map(|queued| writer(&queued.append)).collect();
        let waited_for = batch.iter().filter(|queued| !queued.append.patient);
        if waited_for.map(|queued| writer(&queued.append)).any(|it| it.is_none_or(|it| writers.contains(it))) {
            return batch;
        }
        let (left, now) = batch.into_iter().partition(|queued| queued.append.patient);
        self.left = Some((left, linger_until));
        now
    }

    /// The next append that comes until then; `None` also when the log closes.
    async fn company(&mut self, until: Instant) -> Option<Queued> {
        if *self.closing.borrow() {
            return None;
        }
        tokio::select! {
            biased;
            _ = self.closing.changed() => None,
            Some(queued) = self.queue.recv() => Some(queued),
            Some(queued) = self.placed.recv() => Some(queued),
            () = sleep_until(until) => None,
        }
    }

    async fn commit(&mut self, batch: Vec<Queued>) {
        let (appends, acks): (Vec<Append>, Vec<Ack>) =
            batch.into_iter().map(|queued| (queued.append, queued.ack)).unzip();
        let erased: Vec<Vec<u64>> = appends.iter().map(|append| append.erased.clone()).collect();
        let drafts: Vec<Vec<Draft>> = appends.iter().map(|append| drafts(self.shard, append)).collect();
        let began = Instant::now();
        let answers = self.store.append(self.shard, appends).await;
        self.latencies.record(began.elapsed());
        let failure = answers.iter().find_map(|answer| match answer {
            Err(AppendError::Unavailable(cause) | AppendError::Full(cause)) => Some(cause.clone()),
            Err(AppendError::Conflict { .. } | AppendError::ClaimTaken { .. }) => None,
            Err(AppendError::Fenced { .. } | AppendError::Overloaded) | Ok(_) => None,
        });
        if let Some(Err(fenced @ AppendError::Fenced { .. })) = answers.first() {
            self.fenced.send_replace(Some(fenced.clone()));
        }
        if failure.is_some() || self.unsettled {
            self.settle(&answers, failure).await;
        } else {
            self.publish(&answers, drafts);
            self.tails.keep_within_bounds(&self.published);
        }
        self.forget(&answers, erased);
        for (ack, answer) in acks.into_iter().zip(answers) {
            // A writer that panics while it is told must not take its neighbours along.
            if catch_unwind(AssertUnwindSafe(|| ack(answer))).is_err() {
                error!(shard = self.shard, "a writer panicked while it was told how its append ended");
            }
        }
    }

    /// The events go from memory to those who follow; an append repeated by its writer is already there.
    fn publish(&self, answers: &[Result<Appended, AppendError>], drafts: Vec<Vec<Draft>>) {
        self.published.change(|tail| {
            for (answer, drafts) in answers.iter().zip(drafts) {
                let Ok(appended) = answer else { continue };
                // A repeated append may have been written in another order: its last event need not be the newest.
                let Some(first) = (appended.last.seq + 1).checked_sub(drafts.len() as u64) else { continue };
                for (seq, draft) in (first..).zip(drafts) {
                    tail.push(draft.at(seq));
                }
            }
        });
    }

    /// What was erased leaves memory before anybody is told that it is. What a failed commit may have erased after all
    /// goes as well: of the tail, which is given up then, nothing is left.
    fn forget(&self, answers: &[Result<Appended, AppendError>], erased: Vec<Vec<u64>>) {
        if erased.iter().all(Vec::is_empty) {
            return;
        }
        self.published.change(|tail| {
            let done = answers.iter().zip(&erased).filter(|(answer, _)| answer.is_ok());
            done.flat_map(|(_, erased)| erased).for_each(|seq| tail.erase(*seq));
        });
        self.ahead.forget(self.shard, erased.into_iter().flatten());
        self.erasures.fetch_add(1, Ordering::SeqCst);
    }

    /// After a failure the head may have moved unseen, and an append may turn out to be a repetition of an unseen
    /// one: readers are sent to the database until a commit has succeeded again.
    async fn settle(&mut self, answers: &[Result<Appended, AppendError>], failure: Option<String>) {
        match (&failure, self.unsettled) {
            (Some(cause), false) => error!(shard = self.shard, "the log cannot be written: {cause}"),
            (None, true) => info!(shard = self.shard, "the log can be written again"),
            (Some(_), true) | (None, false) => {}
        }
        let stored = self.store.reader().head(self.shard).await;
        self.unsettled = failure.is_some() || stored.is_err();
        let acknowledged = answers.iter().flatten().map(|appended| appended.last.seq).max().unwrap_or(0);
        self.published.change(|tail| tail.restart(stored.unwrap_or(0).max(acknowledged).max(tail.last())));
    }
}

/// Events and bytes of an append; one without events counts as one.
fn size(append: &Append) -> (usize, usize) {
    let events = append.writes.iter().flat_map(|write| &write.events);
    let bytes = |content: &Option<Bytes>| content.as_ref().map_or(0, Bytes::len);
    let (count, bytes) = events.fold((0, 0), |(count, sum), event| {
        (count + 1, sum + event.data.len() + event.meta.as_ref().map_or(0, String::len) + bytes(&event.content))
    });
    (count.max(1), bytes)
}

/// What the streams of one writer have in common: all behind the category. `None` if it writes no stream.
fn writer(append: &Append) -> Option<&str> {
    let stream = &append.writes.first()?.stream;
    Some(stream.split_once('-').map_or(stream, |(_, id)| id))
}

/// An event that waits for its number.
struct Draft {
    event: Recorded,
    content: Option<Bytes>,
}

impl Draft {
    fn at(self, seq: u64) -> Entry {
        let mut event = self.event;
        event.position.seq = seq;
        Entry { event: Arc::new(event), content: self.content }
    }
}

fn drafts(shard: u16, append: &Append) -> Vec<Draft> {
    append.writes.iter().flat_map(|write| stream_drafts(shard, write)).collect()
}

fn stream_drafts(shard: u16, write: &StreamWrite) -> impl Iterator<Item = Draft> {
    (write.first_version..).zip(&write.events).map(move |(version, event)| Draft {
        event: Recorded {
            position: Position { shard, seq: 0 },
            stream: write.stream.clone(),
            version,
            id: event.id,
            kind: event.kind.clone(),
            schema: event.schema,
            at: event.at,
            data: event.data.clone(),
            meta: event.meta.clone(),
        },
        content: event.content.clone(),
    })
}
