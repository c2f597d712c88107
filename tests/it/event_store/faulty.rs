//! A store whose commits can be held back, failed, or carried out without an answer, and that counts its reads.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use async_trait::async_trait;
use bytes::Bytes;
use tidings::event_store::{
    Append, AppendError, Appended, Bucket, BucketEnd, Claim, DropError, Dropped, EventReader, EventStore, Period,
    Position, Purged, ReadError, Recorded, StoredSnapshot, StreamName, Wakeup,
};
use tokio::sync::{Semaphore, watch};

pub(super) struct Faulty {
    behind: Arc<dyn EventStore>,
    /// A commit takes one permit.
    pub(super) commits: Semaphore,
    /// Appends in each batch, in order.
    pub(super) batches: Mutex<Vec<usize>>,
    /// The next commit fails.
    pub(super) fail_next: AtomicBool,
    /// The next commit takes place and is reported as failed.
    pub(super) lose_next_answer: AtomicBool,
    /// The head cannot be read.
    pub(super) head_unknown: AtomicBool,
    /// Reads of the log and of contents that came through.
    pub(super) reads: AtomicUsize,
    /// Whether droppings wait.
    pub(super) holds_drops: watch::Sender<bool>,
    /// How many droppings have begun.
    pub(super) drops_begun: watch::Sender<usize>,
    /// A `seq` that reads of the log leave out; 0 for none.
    pub(super) hidden: AtomicUsize,
}

impl Faulty {
    /// Held back before the first commit; see [`Faulty::open`].
    pub(super) fn held(behind: Arc<dyn EventStore>) -> Arc<Self> {
        Arc::new(Self {
            behind,
            commits: Semaphore::new(0),
            batches: Mutex::default(),
            fail_next: AtomicBool::new(false),
            lose_next_answer: AtomicBool::new(false),
            head_unknown: AtomicBool::new(false),
            reads: AtomicUsize::new(0),
            holds_drops: watch::Sender::new(false),
            drops_begun: watch::Sender::new(0),
            hidden: AtomicUsize::new(0),
        })
    }

    pub(super) fn open(behind: Arc<dyn EventStore>) -> Arc<Self> {
        let store = Self::held(behind);
        store.commits.add_permits(1_000_000);
        store
    }

    pub(super) fn reads(&self) -> usize {
        self.reads.load(Ordering::Relaxed)
    }
}

fn broken(requests: usize) -> Vec<Result<Appended, AppendError>> {
    vec![Err(AppendError::Unavailable("the disk is full".to_owned())); requests]
}

#[async_trait]
impl EventReader for Faulty {
    fn shards(&self) -> u16 {
        self.behind.reader().shards()
    }

    async fn read_stream(&self, stream: &str, from_version: u64, limit: usize) -> Result<Vec<Recorded>, ReadError> {
        self.behind.reader().read_stream(stream, from_version, limit).await
    }

    async fn read_log(&self, after: Position, limit: usize) -> Result<Vec<Recorded>, ReadError> {
        self.reads.fetch_add(1, Ordering::Relaxed);
        let hidden = self.hidden.load(Ordering::Relaxed) as u64;
        let events = self.behind.reader().read_log(after, limit).await?;
        Ok(events.into_iter().filter(|event| event.position.seq != hidden).collect())
    }

    async fn read_category(
        &self,
        category: &str,
        up_to: Position,
        after: Option<(&str, u64)>,
        limit: usize,
    ) -> Result<Vec<Recorded>, ReadError> {
        self.behind.reader().read_category(category, up_to, after, limit).await
    }

    async fn stream_version(&self, stream: &str) -> Result<u64, ReadError> {
        self.behind.reader().stream_version(stream).await
    }

    async fn head(&self, shard: u16) -> Result<u64, ReadError> {
        if self.head_unknown.load(Ordering::Relaxed) {
            return Err(ReadError::Unavailable("the disk is gone".to_owned()));
        }
        self.behind.reader().head(shard).await
    }

    async fn content(&self, position: Position) -> Result<Option<Bytes>, ReadError> {
        self.reads.fetch_add(1, Ordering::Relaxed);
        self.behind.reader().content(position).await
    }

    async fn contents(&self, after: Position, through: u64) -> Result<Vec<(u64, Bytes)>, ReadError> {
        self.reads.fetch_add(1, Ordering::Relaxed);
        self.behind.reader().contents(after, through).await
    }

    async fn claims(&self, shard: u16, keys: &[String]) -> Result<HashMap<String, String>, ReadError> {
        self.behind.reader().claims(shard, keys).await
    }

    async fn wakeups(&self, shard: u16, after: Option<&Wakeup>, limit: usize) -> Result<Vec<Wakeup>, ReadError> {
        self.behind.reader().wakeups(shard, after, limit).await
    }

    async fn checkpoint(&self, reader: &str, shard: u16) -> Result<Option<u64>, ReadError> {
        self.behind.reader().checkpoint(reader, shard).await
    }

    async fn floor(&self, shard: u16) -> Result<u64, ReadError> {
        self.behind.reader().floor(shard).await
    }

    async fn claims_after(&self, shard: u16, after: Option<&str>, limit: usize) -> Result<Vec<Claim>, ReadError> {
        self.behind.reader().claims_after(shard, after, limit).await
    }

    async fn period(&self, stream: &str) -> Result<Option<Period>, ReadError> {
        self.behind.reader().period(stream).await
    }

    async fn periods(
        &self,
        shard: u16,
        after: Option<&str>,
        limit: usize,
    ) -> Result<Vec<(StreamName, Period)>, ReadError> {
        self.behind.reader().periods(shard, after, limit).await
    }

    async fn live_through(&self, shard: u16, bucket: Bucket, limit: usize) -> Result<Vec<StreamName>, ReadError> {
        self.behind.reader().live_through(shard, bucket, limit).await
    }

    async fn buckets(&self, shard: u16) -> Result<Vec<BucketEnd>, ReadError> {
        self.behind.reader().buckets(shard).await
    }

    async fn snapshot(&self, shard: u16, key: &str) -> Result<Option<StoredSnapshot>, ReadError> {
        self.behind.reader().snapshot(shard, key).await
    }

    async fn snapshots(&self, shard: u16, after: Option<&str>, limit: usize) -> Result<Vec<StoredSnapshot>, ReadError> {
        self.behind.reader().snapshots(shard, after, limit).await
    }

    async fn checkpoints(&self, shard: u16) -> Result<Vec<(String, u64)>, ReadError> {
        self.behind.reader().checkpoints(shard).await
    }
}

#[async_trait]
impl EventStore for Faulty {
    fn reader(&self) -> &dyn EventReader {
        self
    }

    async fn append(&self, shard: u16, batch: Vec<Append>) -> Vec<Result<Appended, AppendError>> {
        let requests = batch.len();
        self.batches.lock().unwrap().push(requests);
        self.commits.acquire().await.unwrap().forget();
        if self.fail_next.swap(false, Ordering::Relaxed) {
            return broken(requests);
        }
        let answers = self.behind.append(shard, batch).await;
        if self.lose_next_answer.swap(false, Ordering::Relaxed) { broken(requests) } else { answers }
    }

    async fn save_checkpoint(&self, reader: &str, at: Position) -> Result<(), AppendError> {
        self.behind.save_checkpoint(reader, at).await
    }

    async fn purge(&self) -> Result<Purged, AppendError> {
        self.behind.purge().await
    }

    async fn forget_reader(&self, reader: &str) -> Result<(), AppendError> {
        self.behind.forget_reader(reader).await
    }

    async fn drop_bucket(&self, bucket: Bucket, limit: u32) -> Result<Dropped, DropError> {
        self.drops_begun.send_modify(|begun| *begun += 1);
        self.holds_drops.subscribe().wait_for(|held| !held).await.unwrap();
        self.behind.drop_bucket(bucket, limit).await
    }

    async fn drop_contents(&self, through: Bucket, limit: u32) -> Result<Dropped, AppendError> {
        self.behind.drop_contents(through, limit).await
    }
}
