//! What every store promises, tested alike on each of them, every test with a database of its own.

mod beside;
mod erasing;
mod faulty;
mod following;
mod lifetimes;
mod model;
pub(crate) mod postgres;
mod retention;
mod soak;
mod sqlite;
mod store;
mod writing;

use std::borrow::Cow;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use async_trait::async_trait;
use bytes::Bytes;
use tempfile::TempDir;
use tidings::domain::id::EventId;
use tidings::domain::time::Timestamp;
use tidings::event_store::{
    Append, Bucket, DropError, EventStore, Lifetime, MemoryStore, NewEvent, Options, Position, Recorded, SqliteStore,
    StreamWrite,
};

use self::postgres::Postgres;

/// A kind of database that the suite runs on.
#[async_trait]
trait Database: Sized + Send + Sync {
    /// A new, empty one.
    async fn fresh() -> Self;
    fn store(&self) -> Arc<dyn EventStore>;
    /// A new owner of the same data.
    async fn reopened(&self) -> Arc<dyn EventStore>;
}

struct Memory(Arc<MemoryStore>);

#[async_trait]
impl Database for Memory {
    async fn fresh() -> Self {
        Self(Arc::new(MemoryStore::new(2)))
    }

    fn store(&self) -> Arc<dyn EventStore> {
        self.0.clone()
    }

    async fn reopened(&self) -> Arc<dyn EventStore> {
        Arc::new(self.0.reopen())
    }
}

struct Sqlite {
    store: Arc<SqliteStore>,
    _folder: TempDir,
}

#[async_trait]
impl Database for Sqlite {
    async fn fresh() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let store = SqliteStore::open(Options::at(folder.path().join("log.db"))).await.unwrap();
        Self { store: Arc::new(store), _folder: folder }
    }

    fn store(&self) -> Arc<dyn EventStore> {
        self.store.clone()
    }

    async fn reopened(&self) -> Arc<dyn EventStore> {
        Arc::new(self.store.reopen().await.unwrap())
    }
}

/// Runs each of the named tests on every store. Another store joins with one line.
macro_rules! on_every_store {
    ($($test:ident),+ $(,)?) => {
        on_every_store!(@ memory Memory $($test)+);
        on_every_store!(@ sqlite Sqlite $($test)+);
        on_every_store!(@ postgres Postgres $($test)+);
    };
    (@ $store:ident $database:ident $($test:ident)+) => {
        mod $store {
            $(#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn $test() {
                super::$test::<crate::event_store::$database>().await;
            })+
        }
    };
}
use on_every_store;

/// An event with an id of its own, and a payload that tells it.
fn event() -> NewEvent {
    static NEXT: AtomicU64 = AtomicU64::new(1);
    let number = NEXT.fetch_add(1, Ordering::Relaxed);
    NewEvent {
        id: EventId::from_parts(1_763_894_415_000, u128::from(number)),
        kind: Cow::Borrowed("thing.happened"),
        schema: 1,
        at: Timestamp::from_ms(1_763_894_415_000),
        data: format!(r#"{{"number":{number}}}"#),
        meta: None,
        content: None,
    }
}

fn events(count: usize) -> Vec<NewEvent> {
    (0..count).map(|_| event()).collect()
}

fn write(stream: &str, first_version: u64, events: Vec<NewEvent>) -> StreamWrite {
    StreamWrite { stream: stream.to_owned(), first_version, lifetime: Lifetime::Kept, events }
}

/// So many new events for one stream.
fn append(stream: &str, first_version: u64, count: usize) -> Append {
    Append { writes: vec![write(stream, first_version, events(count))], ..Append::default() }
}

/// So many new events for one bucketed stream; a period begins with them if the stream does.
fn bucketed(stream: &str, first_version: u64, bucket: u32, count: usize) -> Append {
    living(Lifetime::Bucket(Bucket(bucket)), append(stream, first_version, count))
}

/// So many new events for one bucketed stream, the first of which begins a period.
fn period(stream: &str, first_version: u64, bucket: u32, count: usize) -> Append {
    living(Lifetime::Period(Bucket(bucket)), append(stream, first_version, count))
}

fn living(lifetime: Lifetime, mut append: Append) -> Append {
    append.writes.iter_mut().for_each(|write| write.lifetime = lifetime);
    append
}

/// The end of a bucketed stream.
fn ended(stream: &str) -> Append {
    Append { ended: vec![stream.to_owned()], ..Append::default() }
}

/// Drops a bucket by steps of this size, and says how many events went.
async fn drop_bucket(store: &dyn EventStore, bucket: u32, step: u32) -> Result<u64, DropError> {
    let mut rows = 0;
    for _ in 0..10_000 {
        let dropped = store.drop_bucket(Bucket(bucket), step).await?;
        rows += dropped.rows;
        if !dropped.more {
            return Ok(rows);
        }
    }
    panic!("bucket {bucket} has no end");
}

/// Erases the contents of the bucket and all older ones by steps of this size, and says how many went.
async fn drop_contents(store: &dyn EventStore, through: u32, step: u32) -> u64 {
    let mut rows = 0;
    for _ in 0..10_000 {
        let dropped = store.drop_contents(Bucket(through), step).await.unwrap();
        rows += dropped.rows;
        if !dropped.more {
            return rows;
        }
    }
    panic!("the contents through bucket {through} have no end");
}

fn with_content(content: &'static [u8]) -> Append {
    let event = NewEvent { content: Some(Bytes::from_static(content)), ..event() };
    Append { writes: vec![write("messages-1", 1, vec![event])], ..Append::default() }
}

fn at(seq: u64) -> Position {
    Position { shard: 0, seq }
}

fn ms(ms: i64) -> Timestamp {
    Timestamp::from_ms(ms)
}

/// What the events of an append look like in the log, from `seq` on.
fn recorded(append: &Append, seq: u64) -> Vec<Recorded> {
    let events =
        append.writes.iter().flat_map(|write| (write.first_version..).zip(&write.events).map(move |it| (write, it)));
    (seq..)
        .zip(events)
        .map(|(seq, (write, (version, event)))| Recorded {
            position: at(seq),
            stream: write.stream.clone(),
            version,
            id: event.id,
            kind: event.kind.clone(),
            schema: event.schema,
            at: event.at,
            data: event.data.clone(),
            meta: event.meta.clone(),
        })
        .collect()
}

/// Everything in shard 0.
async fn whole_log(store: &dyn EventStore) -> Vec<Recorded> {
    store.reader().read_log(at(0), usize::MAX).await.unwrap()
}

/// Appends one request to shard 0.
async fn append_one(store: &dyn EventStore, append: Append) -> Result<u64, tidings::event_store::AppendError> {
    let mut answers = store.append(0, vec![append]).await;
    assert_eq!(answers.len(), 1);
    answers.remove(0).map(|appended| {
        assert_eq!(appended.last.shard, 0);
        appended.last.seq
    })
}
