//! A log that tells which streams were read, and fails when a test wants it to.

use std::collections::{BTreeMap, HashMap};
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use tidings::event_store::{
    Append, AppendError, Appended, Bucket, BucketEnd, Claim, DropError, Dropped, EventReader, EventStore, MemoryStore,
    Period, Position, Purged, ReadError, Recorded, StoredSnapshot, StreamName, Wakeup,
};
use tokio::sync::watch;

/// Events by their positions.
pub(crate) type Archive = Arc<Mutex<BTreeMap<Position, Recorded>>>;

/// The log in memory behind a window.
pub(crate) struct WatchedStore {
    pub(crate) memory: MemoryStore,
    streams_read: Mutex<Vec<String>>,
    /// Reads of the log that memory could not answer, and the events that they brought.
    log_reads: AtomicUsize,
    log_events_read: AtomicUsize,
    /// The number of an event whose row cannot be read, as part of the log; 0: of none.
    damaged: AtomicU64,
    /// Events whose rows are not as they were written, whoever reads them.
    torn: Mutex<BTreeMap<Position, Tear>>,
    /// A stream whose reads wait.
    held: watch::Sender<Option<String>>,
    commit_ms: AtomicU64,
    commits: AtomicUsize,
    /// Decides over shaky commits.
    chance: AtomicU64,
    fate: Mutex<Fate>,
    /// What stands in the log before a bucket is dropped from it.
    archive: Mutex<Option<Archive>>,
}

/// What became of a row.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Tear {
    /// It says in which stream it stands, and nothing else.
    Row,
    /// Its payload is no JSON.
    Payload,
    /// It is of a type that nobody knows.
    Kind,
}

/// What becomes of commits, by their numbers from 1.
#[derive(Clone, Copy)]
enum Fate {
    AllSucceed,
    /// This one fails.
    Fails(usize),
    /// All fail.
    AllFail,
    /// One of so many fails, and one of so many takes place and is reported as failed, by chance.
    Shaky(u64),
    /// This one and all later ones never return; whether they take place is the flag.
    HangsFrom(usize, bool),
}

impl WatchedStore {
    /// Lets nobody who follows the log read that event, or lets them read all of them.
    pub(crate) fn damage(&self, seq: Option<u64>) {
        self.damaged.store(seq.unwrap_or(0), Ordering::SeqCst);
    }

    /// Tears a row, whoever reads it.
    pub(crate) fn tear(&self, position: Position, tear: Tear) {
        self.torn.lock().unwrap().insert(position, tear);
    }

    /// All rows are as they were written.
    pub(crate) fn mend(&self) {
        self.torn.lock().unwrap().clear();
    }

    fn as_torn(&self, events: Vec<Recorded>) -> Result<Vec<Recorded>, ReadError> {
        let torn = self.torn.lock().unwrap();
        let tear = |mut event: Recorded| {
            match torn.get(&event.position) {
                None => {}
                Some(Tear::Payload) => event.data = "{".into(),
                Some(Tear::Kind) => event.kind = format!("{}_of_a_newer_program", event.kind).into(),
                Some(Tear::Row) => {
                    let (position, stream) = (event.position, Some(event.stream));
                    return Err(ReadError::Damaged { position, stream, reason: "as the test wants it".into() });
                }
            }
            Ok(event)
        };
        events.into_iter().map(tear).collect()
    }

    pub(crate) fn over(memory: MemoryStore) -> Self {
        Self {
            memory,
            streams_read: Mutex::default(),
            log_reads: AtomicUsize::new(0),
            log_events_read: AtomicUsize::new(0),
            damaged: AtomicU64::new(0),
            torn: Mutex::default(),
            held: watch::Sender::new(None),
            commit_ms: AtomicU64::new(0),
            commits: AtomicUsize::new(0),
            chance: AtomicU64::new(0),
            fate: Mutex::new(Fate::AllSucceed),
            archive: Mutex::default(),
        }
    }

    /// Keeps what is dropped from now on.
    pub(crate) fn keep_what_is_dropped(&self, archive: Archive) {
        *self.archive.lock().unwrap() = Some(archive);
    }

    /// How often this stream was read.
    pub(crate) fn reads_of(&self, stream: &str) -> usize {
        self.streams_read.lock().unwrap().iter().filter(|read| *read == stream).count()
    }

    /// How often the log was read past what is kept in memory.
    pub(crate) fn log_reads(&self) -> usize {
        self.log_reads.load(Ordering::SeqCst)
    }

    /// How many events those reads brought.
    pub(crate) fn log_events_read(&self) -> usize {
        self.log_events_read.load(Ordering::SeqCst)
    }

    /// Reads of this stream wait from now on; with `None` nobody waits any more.
    pub(crate) fn hold_reads_of(&self, stream: Option<String>) {
        self.held.send_replace(stream);
    }

    /// Each commit takes so long from now on.
    pub(crate) fn take_for_a_commit(&self, ms: u64) {
        self.commit_ms.store(ms, Ordering::SeqCst);
    }

    /// How many commits there were.
    pub(crate) fn commits(&self) -> usize {
        self.commits.load(Ordering::SeqCst)
    }

    /// The next commit writes nothing and fails.
    pub(crate) fn fail_next_commit(&self) {
        self.fail_commit_after(0);
    }

    /// So many commits succeed, the next one writes nothing and fails.
    pub(crate) fn fail_commit_after(&self, count: usize) {
        *self.fate.lock().unwrap() = Fate::Fails(self.commits() + count + 1);
    }

    /// No commit writes anything until there is room again.
    pub(crate) fn fill(&self, full: bool) {
        *self.fate.lock().unwrap() = if full { Fate::AllFail } else { Fate::AllSucceed };
    }

    /// From now on one commit of `of` fails, and one takes place and is reported as failed.
    pub(crate) fn shake(&self, of: u64, seed: u64) {
        self.chance.store(seed, Ordering::SeqCst);
        *self.fate.lock().unwrap() = Fate::Shaky(of);
    }

    /// So many commits succeed; from the next one on they never return. If `written`, that one takes place unseen.
    pub(crate) fn hang_after(&self, count: usize, written: bool) {
        *self.fate.lock().unwrap() = Fate::HangsFrom(self.commits() + count + 1, written);
    }
}

fn no_room() -> AppendError {
    AppendError::Unavailable("no room on the disk".into())
}

#[async_trait]
impl EventReader for WatchedStore {
    fn shards(&self) -> u16 {
        self.memory.shards()
    }

    async fn read_stream(&self, stream: &str, from_version: u64, limit: usize) -> Result<Vec<Recorded>, ReadError> {
        self.streams_read.lock().unwrap().push(stream.to_owned());
        self.held.subscribe().wait_for(|held| held.as_deref() != Some(stream)).await.unwrap();
        self.as_torn(self.memory.read_stream(stream, from_version, limit).await?)
    }

    async fn stream_version(&self, stream: &str) -> Result<u64, ReadError> {
        self.memory.stream_version(stream).await
    }

    async fn read_log(&self, after: Position, limit: usize) -> Result<Vec<Recorded>, ReadError> {
        let events = self.memory.read_log(after, limit).await?;
        let damaged = self.damaged.load(Ordering::SeqCst);
        if let Some(event) = events.iter().find(|event| event.position.seq == damaged) {
            let (position, stream) = (event.position, Some(event.stream.clone()));
            return Err(ReadError::Damaged { position, stream, reason: "as the test wants it".into() });
        }
        self.log_reads.fetch_add(1, Ordering::SeqCst);
        self.log_events_read.fetch_add(events.len(), Ordering::SeqCst);
        self.as_torn(events)
    }

    async fn read_category(
        &self,
        category: &str,
        up_to: Position,
        after: Option<(&str, u64)>,
        limit: usize,
    ) -> Result<Vec<Recorded>, ReadError> {
        self.memory.read_category(category, up_to, after, limit).await
    }

    async fn head(&self, shard: u16) -> Result<u64, ReadError> {
        self.memory.head(shard).await
    }

    async fn content(&self, position: Position) -> Result<Option<Bytes>, ReadError> {
        self.memory.content(position).await
    }

    async fn contents(&self, after: Position, through: u64) -> Result<Vec<(u64, Bytes)>, ReadError> {
        self.memory.contents(after, through).await
    }

    async fn claims(&self, shard: u16, keys: &[String]) -> Result<HashMap<String, String>, ReadError> {
        self.memory.claims(shard, keys).await
    }

    async fn wakeups(&self, shard: u16, after: Option<&Wakeup>, limit: usize) -> Result<Vec<Wakeup>, ReadError> {
        self.memory.wakeups(shard, after, limit).await
    }

    async fn checkpoint(&self, reader: &str, shard: u16) -> Result<Option<u64>, ReadError> {
        self.memory.checkpoint(reader, shard).await
    }

    async fn floor(&self, shard: u16) -> Result<u64, ReadError> {
        self.memory.floor(shard).await
    }

    async fn claims_after(&self, shard: u16, after: Option<&str>, limit: usize) -> Result<Vec<Claim>, ReadError> {
        self.memory.claims_after(shard, after, limit).await
    }

    async fn period(&self, stream: &str) -> Result<Option<Period>, ReadError> {
        self.memory.period(stream).await
    }

    async fn periods(
        &self,
        shard: u16,
        after: Option<&str>,
        limit: usize,
    ) -> Result<Vec<(StreamName, Period)>, ReadError> {
        self.memory.periods(shard, after, limit).await
    }

    async fn live_through(&self, shard: u16, bucket: Bucket, limit: usize) -> Result<Vec<StreamName>, ReadError> {
        self.memory.live_through(shard, bucket, limit).await
    }

    async fn buckets(&self, shard: u16) -> Result<Vec<BucketEnd>, ReadError> {
        self.memory.buckets(shard).await
    }

    async fn snapshot(&self, shard: u16, key: &str) -> Result<Option<StoredSnapshot>, ReadError> {
        self.memory.snapshot(shard, key).await
    }

    async fn snapshots(&self, shard: u16, after: Option<&str>, limit: usize) -> Result<Vec<StoredSnapshot>, ReadError> {
        self.memory.snapshots(shard, after, limit).await
    }

    async fn checkpoints(&self, shard: u16) -> Result<Vec<(String, u64)>, ReadError> {
        self.memory.checkpoints(shard).await
    }
}

#[async_trait]
impl EventStore for WatchedStore {
    fn reader(&self) -> &dyn EventReader {
        self
    }

    async fn append(&self, shard: u16, batch: Vec<Append>) -> Vec<Result<Appended, AppendError>> {
        let number = self.commits.fetch_add(1, Ordering::SeqCst) + 1;
        let fate = *self.fate.lock().unwrap();
        match self.commit_ms.load(Ordering::SeqCst) {
            0 => {}
            ms => tokio::time::sleep(Duration::from_millis(ms)).await,
        }
        match fate {
            Fate::Fails(fails) if fails == number => batch.iter().map(|_| Err(no_room())).collect(),
            Fate::Shaky(of) => {
                let failed = vec![Err(no_room()); batch.len()];
                let drawn = self.chance.fetch_add(0x9E37_79B9_7F4A_7C15, Ordering::SeqCst);
                match (drawn ^ (drawn >> 29)).wrapping_mul(0xBF58_476D_1CE4_E5B9) >> 33 {
                    drawn if drawn % of == 0 => failed,
                    drawn if drawn % of == 1 => {
                        self.memory.append(shard, batch).await;
                        failed
                    }
                    _ => self.memory.append(shard, batch).await,
                }
            }
            Fate::AllFail => batch.iter().map(|_| Err(no_room())).collect(),
            Fate::HangsFrom(first, written) if number >= first => {
                if written && number == first {
                    self.memory.append(shard, batch).await;
                }
                std::future::pending().await
            }
            Fate::AllSucceed | Fate::Fails(_) | Fate::HangsFrom(..) => self.memory.append(shard, batch).await,
        }
    }

    async fn save_checkpoint(&self, reader: &str, at: Position) -> Result<(), AppendError> {
        let full = matches!(*self.fate.lock().unwrap(), Fate::AllFail);
        if full { Err(no_room()) } else { self.memory.save_checkpoint(reader, at).await }
    }

    async fn purge(&self) -> Result<Purged, AppendError> {
        self.memory.purge().await
    }

    async fn forget_reader(&self, reader: &str) -> Result<(), AppendError> {
        self.memory.forget_reader(reader).await
    }

    async fn drop_bucket(&self, bucket: Bucket, limit: u32) -> Result<Dropped, DropError> {
        let archive = self.archive.lock().unwrap().clone();
        if let Some(archive) = archive {
            for shard in 0..self.memory.shards() {
                // What cannot be read can be dropped all the same.
                let events = self.memory.read_log(Position { shard, seq: 0 }, usize::MAX).await.unwrap_or_default();
                archive.lock().unwrap().extend(events.into_iter().map(|recorded| (recorded.position, recorded)));
            }
        }
        self.memory.drop_bucket(bucket, limit).await
    }

    async fn drop_contents(&self, through: Bucket, limit: u32) -> Result<Dropped, AppendError> {
        self.memory.drop_contents(through, limit).await
    }
}
