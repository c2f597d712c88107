//! What the rest of the program holds of the log.
//!
//! - Appends are queued for the lane of their shard, which groups them into few commits; the queue is bounded. Who is waited
//!   for is refused when it is full; who has nobody to tell takes a [`Place`], and waits for it.
//! - Who follows the log is woken by the head and reads the newest events from memory; whatever memory does not hold
//!   comes from the database. A reader never skips: a missing number is an error.
//! - The head is told before the append is acknowledged: who was acknowledged and then reads finds their events.

use std::collections::HashMap;
use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use bytes::Bytes;
use serde::{Deserialize, Serialize};
use tokio::sync::{Mutex, Semaphore, mpsc, oneshot, watch};
use tokio::task::JoinHandle;

use super::ahead::Ahead;
use super::lane::{Lane, Published, Queued};
use super::latency::{Latencies, Latency};
use super::place::{Place, Places};
use super::tail::Entry;
use super::tails::Tails;
use super::{
    Append, AppendError, Appended, Bucket, DropError, Dropped, EventReader, EventStore, Position, Purged, ReadError,
    Recorded, Wakeup,
};

/// Is told how an append ended. Runs inside the lane: quick, and without waiting for anything.
pub type Ack = Box<dyn FnOnce(Result<Appended, AppendError>) + Send>;

/// Bounds of queues and memory, of all shards together; those of a commit hold for each.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// How many publications and changes of tenants may wait to be written; past it their callers are told that the log
    /// is overloaded. As many appends of subscriptions may wait beside them; further ones wait with their subscription. At
    /// least 1. Where there are several shards, one alone may fill half of it.
    pub queue_appends: usize,
    /// How many events are committed together. A commit ends with the append that reaches it.
    pub batch_events: usize,
    /// How many bytes of payload and content are committed together. A commit ends with the append that reaches it.
    pub batch_bytes: usize,
    /// How long the recording of attempts' outcomes may wait for other appends to be committed with, in milliseconds; 0:
    /// not at all. Whoever is waited for, such as a publication, is committed at once, with all that waits.
    pub linger_ms: u64,
    /// How many of the newest events stay in memory for those who follow the log. Shards that are written to take from
    /// those that rest.
    pub tail_events: usize,
    /// How many bytes those events and their contents may take. Older ones that are read for attempts may take as many
    /// again.
    pub tail_bytes: usize,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            queue_appends: 8_192,
            batch_events: 1_024,
            batch_bytes: 1024 * 1024,
            linger_ms: 4,
            tail_events: 8_192,
            tail_bytes: 16 * 1024 * 1024,
        }
    }
}

/// The log. A clone is another handle on the same one.
#[derive(Clone)]
pub struct Log {
    inner: Arc<Inner>,
}

struct Inner {
    store: Arc<dyn EventStore>,
    shards: Vec<Shard>,
    /// A permit for each append that may wait.
    room: Arc<Semaphore>,
    queue_appends: usize,
    latencies: Arc<Latencies>,
    closing: watch::Sender<bool>,
    fenced: watch::Sender<Option<AppendError>>,
    lanes: Mutex<Vec<JoinHandle<()>>>,
    ahead: Arc<Ahead>,
    erasures: Arc<AtomicU64>,
}

struct Shard {
    queue: mpsc::Sender<Queued>,
    places: Places,
    published: Arc<Published>,
}

impl fmt::Debug for Log {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Log").field("shards", &self.inner.shards.len()).finish_non_exhaustive()
    }
}

impl Log {
    /// Starts a lane for each shard. Fails if the heads cannot be read.
    pub async fn start(store: Arc<dyn EventStore>, config: Config) -> Result<Self, ReadError> {
        let (closing, _) = watch::channel(false);
        let fenced = watch::Sender::new(None);
        let mut published = Vec::new();
        let reader = store.reader();
        for shard in 0..reader.shards() {
            let shown = Published::new(reader.head(shard).await?, reader.floor(shard).await?, &config);
            published.push(Arc::new(shown));
        }
        let tails = Arc::new(Tails::new(published, &config));
        let queue_appends = config.queue_appends.clamp(1, Semaphore::MAX_PERMITS);
        let share = if reader.shards() > 1 { queue_appends.div_ceil(2) } else { queue_appends };
        let latencies = Arc::new(Latencies::default());
        let all_places = Arc::new(Semaphore::new(queue_appends));
        let ahead = Arc::new(Ahead::new(config.tail_bytes));
        let erasures = Arc::new(AtomicU64::new(0));
        let mut shards = Vec::new();
        let mut lanes = Vec::new();
        for (shard, published) in (0..).zip(tails.published()) {
            let (sender, queue) = mpsc::channel(share);
            let (places, placed) = Places::new(share, Arc::clone(&all_places));
            let lane = Lane {
                shard,
                store: Arc::clone(&store),
                config: config.clone(),
                queue,
                placed,
                placed_next: false,
                closing: closing.subscribe(),
                published: Arc::clone(published),
                tails: Arc::clone(&tails),
                ahead: Arc::clone(&ahead),
                erasures: Arc::clone(&erasures),
                fenced: fenced.clone(),
                latencies: Arc::clone(&latencies),
                unsettled: false,
                left: None,
            };
            lanes.push(tokio::spawn(lane.run()));
            shards.push(Shard { queue: sender, places, published: Arc::clone(published) });
        }
        let room = Arc::new(Semaphore::new(queue_appends));
        let lanes = Mutex::new(lanes);
        Ok(Self {
            inner: Arc::new(Inner {
                store,
                shards,
                room,
                queue_appends,
                latencies,
                closing,
                fenced,
                lanes,
                ahead,
                erasures,
            }),
        })
    }

    /// Queues an append without waiting. `ack` is called once in every case: when the append has been committed or
    /// refused, or, if it cannot be queued, with [`AppendError::Overloaded`] (or [`AppendError::Unavailable`] once the
    /// log is closed) before this returns the same error. Appends of one shard are acknowledged in the order of queueing.
    pub fn try_append(&self, shard: u16, append: Append, ack: Ack) -> Result<(), AppendError> {
        let refuse = |ack: Ack, error: AppendError| {
            ack(Err(error.clone()));
            Err(error)
        };
        let Some(lane) = self.inner.shards.get(usize::from(shard)) else { return refuse(ack, no_shard(shard)) };
        let Ok(room) = Arc::clone(&self.inner.room).try_acquire_owned() else {
            return refuse(ack, AppendError::Overloaded);
        };
        match lane.queue.try_send(Queued { append, ack, _room: room, _place: None }) {
            Ok(()) => Ok(()),
            Err(mpsc::error::TrySendError::Full(queued)) => refuse(queued.ack, AppendError::Overloaded),
            Err(mpsc::error::TrySendError::Closed(queued)) => refuse(queued.ack, closed()),
        }
    }

    /// Appends, waiting for room in the queue and for the commit. A caller that stops waiting does not take the append
    /// back: repeated with the same event ids, it succeeds in either case.
    pub async fn append(&self, shard: u16, append: Append) -> Result<Appended, AppendError> {
        let lane = self.inner.shards.get(usize::from(shard)).ok_or_else(|| no_shard(shard))?;
        let place = lane.queue.reserve().await.map_err(|_| closed())?;
        let room = Arc::clone(&self.inner.room).acquire_owned().await.map_err(|_| closed())?;
        let (sender, answer) = oneshot::channel();
        // The caller may have gone away.
        let ack = Box::new(move |result| drop(sender.send(result)));
        place.send(Queued { append, ack, _room: room, _place: None });
        answer.await.unwrap_or_else(|_| Err(closed()))
    }

    /// A place in the queue of a shard, if there is one and nobody waits for it. Fails if the log is closed.
    pub fn try_place(&self, shard: u16) -> Result<Option<Place>, AppendError> {
        self.inner.shards.get(usize::from(shard)).ok_or_else(|| no_shard(shard))?.places.try_take()
    }

    /// A place in the queue of a shard, when there is one. Fails if the log is closed.
    pub async fn place(&self, shard: u16) -> Result<Place, AppendError> {
        self.inner.shards.get(usize::from(shard)).ok_or_else(|| no_shard(shard))?.places.take().await
    }

    /// The events after `after`, at most `limit`, without a hole above the floor: from memory if it holds the next one,
    /// else from the database. At the head that is a query; a reader that waits for [`Log::watch`] first is spared it.
    pub async fn read_log(&self, after: Position, limit: usize) -> Result<Vec<Arc<Recorded>>, ReadError> {
        let published = self.published(after.shard)?;
        if let Some(events) = published.tail().after(after.seq, limit) {
            return Ok(events);
        }
        let events = self.reader().read_log(after, limit).await?;
        // The floor may have been raised, by whoever drops buckets, since the events were read, never before that.
        if without_holes(after, published.expected_floor(), &events).is_err() {
            // A bucket may have grown between the question where it ends and its dropping, or have been dropped past
            // this handle: before a hole is called damage, the database is asked.
            published.raise_floor(self.reader().floor(after.shard).await?);
            without_holes(after, published.expected_floor(), &events)?;
        }
        Ok(events.into_iter().map(Arc::new).collect())
    }

    /// Up to which number events may be missing in a shard, since their buckets were dropped.
    ///
    /// # Panics
    /// If there is no such shard.
    pub fn floor(&self, shard: u16) -> u64 {
        self.inner.shards[usize::from(shard)].published.floor()
    }

    /// See [`EventStore::drop_bucket`]. What is dropped leaves memory too.
    pub async fn drop_bucket(&self, bucket: Bucket, limit: u32) -> Result<Dropped, DropError> {
        // Those who read meanwhile must not take a hole for damage: they are told the floor that is about to be.
        let mut ends = Vec::new();
        for shard in 0..self.shards() {
            let buckets = self.reader().buckets(shard).await.map_err(unwritable)?;
            ends.extend(buckets.into_iter().filter(|end| end.bucket == bucket).map(|end| end.last));
        }
        for end in &ends {
            self.inner.shards[usize::from(end.shard)].published.expect_floor(end.seq);
        }
        let dropped = self.inner.store.drop_bucket(bucket, limit).await;
        ends.into_iter().for_each(|end| self.inner.ahead.forget_through(end));
        for (shard, Shard { published, .. }) in (0..).zip(&self.inner.shards) {
            match dropped {
                Ok(_) => published.raise_floor(self.inner.store.reader().floor(shard).await.map_err(unwritable)?),
                Err(DropError::StillLive { .. } | DropError::StillRead { .. }) => published.expect_nothing(),
                // Whether anything was dropped, the database says when it can be asked.
                Err(DropError::Append(_)) => {}
            }
        }
        dropped
    }

    /// See [`EventStore::drop_contents`]. What is dropped leaves memory too.
    pub async fn drop_contents(&self, through: Bucket, limit: u32) -> Result<Dropped, AppendError> {
        let mut ends = Vec::new();
        for shard in 0..self.shards() {
            let buckets = self.reader().buckets(shard).await.map_err(unwritable)?;
            if let Some(last) = buckets.iter().filter(|end| end.bucket <= through).map(|end| end.last).max() {
                self.inner.shards[usize::from(shard)].published.forget_through(last.seq);
                ends.push(last);
            }
        }
        let dropped = self.inner.store.drop_contents(through, limit).await;
        // Behind the dropping: what was read before it and comes later is not kept.
        ends.into_iter().for_each(|end| self.inner.ahead.forget_through(end));
        dropped
    }

    /// The event at the position with its erasable content; `None` if there is no such event. From memory if it is there
    /// or was read on the way to one before it, else from the database.
    pub async fn event(&self, position: Position) -> Result<Option<(Arc<Recorded>, Option<Bytes>)>, ReadError> {
        let kept = self.published(position.shard)?.tail().entry(position.seq).cloned();
        let entry = match kept {
            Some(entry) => Some(entry),
            None => self.inner.ahead.entry(self.reader(), position).await?,
        };
        Ok(entry.map(|Entry { event, content }| (event, content)))
    }

    /// The erasable content of the event at the position: from memory if it holds the event, else from the database.
    pub async fn content(&self, position: Position) -> Result<Option<Bytes>, ReadError> {
        if let Some(entry) = self.published(position.shard)?.tail().entry(position.seq) {
            return Ok(entry.content.clone());
        }
        self.reader().content(position).await
    }

    /// How often contents were erased by appends through this log. Who has read a content and is about to use it looks
    /// again if this has moved since: what was acknowledged as erased is used no more.
    pub fn erasures(&self) -> u64 {
        self.inner.erasures.load(Ordering::SeqCst)
    }

    /// See [`EventStore::purge`].
    pub async fn purge(&self) -> Result<Purged, AppendError> {
        self.inner.store.purge().await
    }

    /// The head of a shard, and a wake-up whenever it moves.
    ///
    /// # Panics
    /// If there is no such shard.
    pub fn watch(&self, shard: u16) -> watch::Receiver<u64> {
        self.inner.shards[usize::from(shard)].published.head().subscribe()
    }

    /// The head of a shard, as far as this process has appended or found it.
    ///
    /// # Panics
    /// If there is no such shard.
    pub fn head(&self, shard: u16) -> u64 {
        *self.inner.shards[usize::from(shard)].published.head().borrow()
    }

    /// How many shards there are.
    pub fn shards(&self) -> u16 {
        self.reader().shards()
    }

    /// How many appends wait, and how many may; those with a [`Place`] are not among them.
    pub fn queued(&self) -> (usize, usize) {
        (self.inner.queue_appends.saturating_sub(self.inner.room.available_permits()), self.inner.queue_appends)
    }

    /// How many appends have a place, and how many may.
    pub fn placed(&self) -> (usize, usize) {
        let most = self.inner.queue_appends;
        (self.inner.shards.first().map_or(0, |shard| shard.places.taken(most)), most)
    }

    /// How long commits took, of all shards, since this handle was made.
    pub fn latency(&self) -> Latency {
        self.inner.latencies.read()
    }

    /// The database behind the log.
    pub fn store(&self) -> &Arc<dyn EventStore> {
        &self.inner.store
    }

    /// The database behind the log, for whoever only asks.
    pub fn reader(&self) -> &dyn EventReader {
        self.inner.store.reader()
    }

    /// Returns the refusal once an append was refused because a shard has a newer owner: whoever holds this log will
    /// never write to that shard again.
    pub async fn fenced(&self) -> AppendError {
        let mut fenced = self.inner.fenced.subscribe();
        let refusal = fenced.wait_for(Option::is_some).await.ok().and_then(|refusal| refusal.clone());
        refusal.unwrap_or_else(closed)
    }

    /// Stops accepting appends, writes and acknowledges those that are queued, and returns when the lanes have ended.
    /// Reading goes on.
    pub async fn close(&self) {
        self.inner.closing.send_replace(true);
        self.inner.shards.iter().for_each(|shard| shard.places.close());
        // Held while waiting, so that a second caller returns no earlier.
        let mut lanes = self.inner.lanes.lock().await;
        for lane in lanes.drain(..) {
            if let Err(error) = lane.await {
                tracing::error!("a lane ended with a panic: {error}");
            }
        }
    }

    fn published(&self, shard: u16) -> Result<&Published, ReadError> {
        let shard = self.inner.shards.get(usize::from(shard)).ok_or_else(|| no_shard(shard));
        shard.map(|shard| &*shard.published).map_err(|error| ReadError::Unavailable(error.to_string()))
    }
}

/// As [`EventReader`] and [`EventStore`] have them.
impl Log {
    /// See [`EventReader::read_stream`].
    pub async fn read_stream(&self, stream: &str, from_version: u64, limit: usize) -> Result<Vec<Recorded>, ReadError> {
        self.reader().read_stream(stream, from_version, limit).await
    }

    /// As [`EventReader::stream_version`].
    pub async fn stream_version(&self, stream: &str) -> Result<u64, ReadError> {
        self.reader().stream_version(stream).await
    }

    /// See [`EventReader::read_category`].
    pub async fn read_category(
        &self,
        category: &str,
        up_to: Position,
        after: Option<(&str, u64)>,
        limit: usize,
    ) -> Result<Vec<Recorded>, ReadError> {
        self.reader().read_category(category, up_to, after, limit).await
    }

    /// See [`EventReader::claims`].
    pub async fn claims(&self, shard: u16, keys: &[String]) -> Result<HashMap<String, String>, ReadError> {
        self.reader().claims(shard, keys).await
    }

    /// See [`EventReader::wakeups`].
    pub async fn wakeups(&self, shard: u16, after: Option<&Wakeup>, limit: usize) -> Result<Vec<Wakeup>, ReadError> {
        self.reader().wakeups(shard, after, limit).await
    }

    /// See [`EventReader::checkpoint`].
    pub async fn checkpoint(&self, reader: &str, shard: u16) -> Result<Option<u64>, ReadError> {
        self.reader().checkpoint(reader, shard).await
    }

    /// See [`EventStore::save_checkpoint`].
    pub async fn save_checkpoint(&self, reader: &str, at: Position) -> Result<(), AppendError> {
        self.inner.store.save_checkpoint(reader, at).await
    }
}

/// Fails at a number that is missing above the floor: `events` are what was read behind `after`. The floor has to be
/// asked for after the events, since it may be raised meanwhile.
pub fn without_holes(after: Position, floor: u64, events: &[Recorded]) -> Result<(), ReadError> {
    let mut expected = after.seq.saturating_add(1);
    for event in events {
        let seq = event.position.seq;
        let first_owed = expected.max(floor.saturating_add(1));
        if seq > first_owed {
            let position = Position { shard: after.shard, seq: first_owed };
            return Err(ReadError::Damaged {
                position,
                stream: None,
                reason: format!("it is missing before {}", event.position),
            });
        }
        expected = seq.saturating_add(1);
    }
    Ok(())
}

fn unwritable(error: ReadError) -> AppendError {
    AppendError::Unavailable(error.to_string())
}

fn no_shard(shard: u16) -> AppendError {
    AppendError::Unavailable(format!("there is no shard {shard}"))
}

pub(super) fn closed() -> AppendError {
    AppendError::Unavailable("the log is closed".to_owned())
}
