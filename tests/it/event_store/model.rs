//! Any history of appends, repetitions, take-overs and drops leaves a store as it leaves a plain list.

use std::collections::{BTreeMap, HashMap};
use std::hash::{BuildHasher, RandomState};

use bytes::Bytes;
use proptest::prelude::*;
use proptest::test_runner::{Config, RngAlgorithm, TestError, TestRng, TestRunner};
use tidings::event_store::{
    Append, AppendError, Appended, Bucket, BucketEnd, Claim, DropError, EventStore, Lifetime, NewEvent, Period,
    Recorded, Snapshot, StoredSnapshot, StreamWrite, Wakeup,
};

use super::{Database, Memory, Postgres, Sqlite, at, drop_bucket, drop_contents, event, ms, recorded, whole_log};

const STREAMS: [&str; 4] = ["subscription-1", "subscription-2", "deliveries-1", "messages-1"];

/// Streams of the last two categories are bucketed.
fn is_bucketed(stream: usize) -> bool {
    stream >= 2
}

/// What the log must hold, found by searching it.
#[derive(Default)]
struct Model {
    head: u64,
    floor: u64,
    events: Vec<Entry>,
    claims: BTreeMap<String, (String, Option<Bucket>)>,
    wakeups: BTreeMap<String, i64>,
    periods: BTreeMap<String, Period>,
    snapshots: BTreeMap<String, StoredSnapshot>,
    checkpoints: BTreeMap<String, u64>,
    /// The bucket of this time.
    now: u32,
    /// The first bucket that can still be written.
    open: u32,
}

struct Entry {
    event: Recorded,
    content: Option<Bytes>,
    bucket: Option<Bucket>,
}

#[derive(Debug, PartialEq)]
enum Refused {
    StillLive,
    StillRead,
}

impl Model {
    fn version(&self, stream: &str) -> u64 {
        let versions = self.events.iter().filter(|entry| entry.event.stream == stream);
        versions.map(|entry| entry.event.version).max().unwrap_or(0)
    }

    /// So far behind the time, but forward only.
    fn bucket(&self, stream: &str, lag: u32) -> Bucket {
        let earlier = self.events.iter().filter(|entry| entry.event.stream == stream).filter_map(|entry| entry.bucket);
        earlier.max().unwrap_or(Bucket(0)).max(Bucket(self.now.saturating_sub(lag).max(self.open)))
    }

    fn append(&mut self, append: &Append) -> Result<u64, AppendError> {
        let wanted = recorded(append, self.head + 1);
        let stale = append.writes.iter().find(|write| write.first_version != self.version(&write.stream) + 1);
        if let Some(write) = stale {
            let places: Option<Vec<u64>> = wanted
                .iter()
                .map(|wanted| {
                    let same = |entry: &&Entry| {
                        (&entry.event.stream, entry.event.version, entry.event.id)
                            == (&wanted.stream, wanted.version, wanted.id)
                    };
                    self.events.iter().find(same).map(|entry| entry.event.position.seq)
                })
                .collect();
            let conflict = AppendError::Conflict { stream: write.stream.clone(), expected: write.first_version };
            return places.and_then(|places| places.last().copied()).ok_or(conflict);
        }
        if let Some(claim) = append.claims.iter().find(|claim| self.claims.contains_key(&claim.key)) {
            let value = |key: &String| self.claims.get(key).map(|(value, _)| value);
            let same = append.claims.iter().all(|claim| value(&claim.key) == Some(&claim.value));
            let repeated = wanted.is_empty() && same;
            return if repeated { Ok(self.head) } else { Err(AppendError::ClaimTaken { key: claim.key.clone() }) };
        }
        self.head += wanted.len() as u64;
        let beside = append
            .writes
            .iter()
            .flat_map(|write| write.events.iter().map(|event| (event.content.clone(), write.lifetime.bucket())));
        let entries = wanted.into_iter().zip(beside).map(|(event, (content, bucket))| Entry { event, content, bucket });
        self.events.extend(entries);
        self.write_beside(append);
        Ok(self.head)
    }

    fn write_beside(&mut self, append: &Append) {
        for write in &append.writes {
            let begins = write.first_version == 1 || matches!(write.lifetime, Lifetime::Period(_));
            if let Some(bucket) = write.lifetime.bucket().filter(|_| begins) {
                self.periods.insert(write.stream.clone(), Period { bucket, first_version: write.first_version });
            }
        }
        self.periods.retain(|stream, _| !append.ended.contains(stream));
        for claim in &append.claims {
            self.claims.insert(claim.key.clone(), (claim.value.clone(), claim.bucket));
        }
        for (key, due_at) in &append.wakeups {
            match due_at {
                Some(due_at) => self.wakeups.insert(key.clone(), due_at.as_ms()),
                None => self.wakeups.remove(key),
            };
        }
        for entry in self.events.iter_mut().filter(|entry| append.erased.contains(&entry.event.position.seq)) {
            entry.content = None;
        }
        for snapshot in &append.snapshots {
            let stored = StoredSnapshot { position: at(self.head), snapshot: snapshot.clone() };
            self.snapshots.insert(snapshot.key.clone(), stored);
        }
    }

    fn buckets(&self) -> Vec<BucketEnd> {
        let mut ends = BTreeMap::new();
        for entry in &self.events {
            ends.extend(entry.bucket.map(|bucket| (bucket, entry.event.position)));
        }
        ends.into_iter().map(|(bucket, last)| BucketEnd { bucket, last }).collect()
    }

    fn drop_bucket(&mut self, bucket: Bucket) -> Result<u64, Refused> {
        if self.periods.values().any(|period| period.bucket <= bucket) {
            return Err(Refused::StillLive);
        }
        let last = self.buckets().into_iter().find(|end| end.bucket == bucket).map_or(0, |end| end.last.seq);
        if self.checkpoints.values().any(|seq| *seq < last) {
            return Err(Refused::StillRead);
        }
        let before = self.events.len();
        self.events.retain(|entry| entry.bucket != Some(bucket));
        self.claims.retain(|_, (_, of)| *of != Some(bucket));
        self.floor = self.floor.max(last);
        self.open = self.open.max(bucket.0 + 1);
        Ok((before - self.events.len()) as u64)
    }

    fn drop_contents(&mut self, through: Bucket) -> u64 {
        let old = self.events.iter_mut().filter(|entry| entry.bucket.is_some_and(|bucket| bucket <= through));
        old.filter_map(|entry| entry.content.take()).count() as u64
    }
}

#[derive(Clone, Debug)]
enum Step {
    Append(Vec<Request>),
    TakeOver,
    NextBucket,
    /// So many buckets back, by steps of so many rows.
    Drop(u32, u32),
    DropContents(u32, u32),
    /// A reader, and at which tenth of the log it is.
    Checkpoint(u8, u64),
    ForgetReader(u8),
}

#[derive(Clone, Debug)]
enum Request {
    New {
        writes: Vec<Write>,
        /// Key, value, and how many buckets back it belongs, if to any.
        claims: Vec<(u8, u8, Option<u32>)>,
        wakeups: Vec<(u8, Option<i64>)>,
        ended: Option<usize>,
        snapshots: Vec<u8>,
        /// How far before the batch those events stand whose contents are erased.
        erased: Vec<u64>,
    },
    /// An earlier append again, or all of it but its first event and one event more.
    Again { earlier: prop::sample::Index, cut: bool, longer: bool },
}

#[derive(Clone, Debug)]
struct Write {
    stream: usize,
    /// From the right version.
    distance: i64,
    /// Events with or without content.
    contents: Vec<bool>,
    opens: bool,
    lag: u32,
}

fn requests() -> impl Strategy<Value = Request> {
    let distance = prop_oneof![8 => Just(0_i64), 1 => -2..=2_i64];
    let contents = prop::collection::vec(any::<bool>(), 1..6);
    let write = (0..STREAMS.len(), distance, contents, prop::bool::weighted(0.3), 0..3_u32)
        .prop_map(|(stream, distance, contents, opens, lag)| Write { stream, distance, contents, opens, lag });
    let claim = (0..6_u8, 0..2_u8, prop::option::of(0..3_u32));
    let claims = prop_oneof![3 => Just(vec![]), 1 => prop::collection::vec(claim, 1..3)];
    let wakeups = prop::collection::vec((0..5_u8, prop::option::of(0..20_i64)), 0..3);
    let ended = prop::option::weighted(0.2, 2..STREAMS.len());
    let snapshots = prop_oneof![3 => Just(vec![]), 1 => prop::collection::vec(0..4_u8, 1..3)];
    let erased = prop_oneof![3 => Just(vec![]), 1 => prop::collection::vec(1..=20_u64, 1..4)];
    let new = (prop::collection::vec(write, 0..3), claims, wakeups, ended, snapshots, erased).prop_map(
        |(mut writes, mut claims, wakeups, ended, snapshots, erased)| {
            writes.sort_by_key(|write| write.stream);
            writes.dedup_by_key(|write| write.stream);
            claims.sort_unstable();
            claims.dedup_by_key(|(key, ..)| *key);
            Request::New { writes, claims, wakeups, ended, snapshots, erased }
        },
    );
    let again = (any::<prop::sample::Index>(), prop::bool::weighted(0.2), prop::bool::weighted(0.2))
        .prop_map(|(earlier, cut, longer)| Request::Again { earlier, cut, longer });
    prop_oneof![4 => new, 1 => again]
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let step = prop_oneof![
        12 => prop::collection::vec(requests(), 1..8).prop_map(Step::Append),
        1 => Just(Step::TakeOver),
        3 => Just(Step::NextBucket),
        4 => (0..4_u32, 1..9_u32).prop_map(|(back, limit)| Step::Drop(back, limit)),
        1 => (0..3_u32, 1..4_u32).prop_map(|(back, limit)| Step::DropContents(back, limit)),
        2 => (0..2_u8, 5..=10_u64).prop_map(|(reader, tenths)| Step::Checkpoint(reader, tenths)),
        1 => (0..2_u8).prop_map(Step::ForgetReader),
    ];
    prop::collection::vec(step, 1..40)
}

/// How long the events of the stream are to live, where the model stands.
fn lifetime(model: &Model, stream: usize, opens: bool, lag: u32) -> Lifetime {
    let bucket = model.bucket(STREAMS[stream], lag);
    match (is_bucketed(stream), opens) {
        (false, _) => Lifetime::Kept,
        (true, false) => Lifetime::Bucket(bucket),
        (true, true) => Lifetime::Period(bucket),
    }
}

/// The append that the request means where the model stands.
fn build(request: &Request, model: &Model, earlier: &[Append], head: u64) -> Append {
    match request {
        Request::New { writes, claims, wakeups, ended, snapshots, erased } => {
            let events = |contents: &[bool]| -> Vec<NewEvent> {
                let content = |some: bool| some.then(|| Bytes::from_static(b"content"));
                contents.iter().map(|some| NewEvent { content: content(*some), ..event() }).collect()
            };
            let write = |write: &Write| StreamWrite {
                stream: STREAMS[write.stream].to_owned(),
                first_version: (model.version(STREAMS[write.stream]) + 1).saturating_add_signed(write.distance),
                lifetime: lifetime(model, write.stream, write.opens, write.lag),
                events: events(&write.contents),
            };
            let claim = |(key, value, lag): &(u8, u8, Option<u32>)| Claim {
                key: key.to_string(),
                value: value.to_string(),
                bucket: lag.map(|lag| model.bucket("", lag)),
            };
            let snapshot = |key: &u8| Snapshot {
                key: key.to_string(),
                fingerprint: format!("form/{}", key % 2),
                data: event().data,
            };
            Append {
                writes: writes.iter().map(write).collect(),
                ended: ended.iter().map(|stream| STREAMS[*stream].to_owned()).collect(),
                snapshots: snapshots.iter().map(snapshot).collect(),
                claims: claims.iter().map(claim).collect(),
                wakeups: wakeups.iter().map(|(key, due_at)| (key.to_string(), due_at.map(ms))).collect(),
                erased: erased.iter().map(|back| head.saturating_sub(*back)).collect(),
                patient: false,
            }
        }
        Request::Again { earlier: index, cut, longer } => {
            let Some(mut append) = (!earlier.is_empty()).then(|| index.get(earlier).clone()) else {
                return Append::default();
            };
            if let Some(write) = append.writes.first_mut() {
                if *cut && write.events.len() > 1 {
                    write.events.remove(0);
                    write.first_version += 1;
                }
                write.events.extend(longer.then(event));
            }
            // What was refused may fit by now: it then belongs to the bucket of this time.
            for write in &mut append.writes {
                let stream = STREAMS.iter().position(|stream| *stream == write.stream).unwrap();
                write.lifetime = lifetime(model, stream, matches!(write.lifetime, Lifetime::Period(_)), 0);
            }
            append
        }
    }
}

async fn run<D: Database>(steps: Vec<Step>) {
    let database = D::fresh().await;
    let mut store = database.store();
    let mut model = Model::default();
    let mut earlier = Vec::new();
    for step in steps {
        match step {
            Step::TakeOver => store = database.reopened().await,
            Step::Append(requests) => {
                let mut batch = Vec::new();
                let mut expected = Vec::new();
                // What is erased stands in the log before the batch.
                let head = model.head;
                for request in requests {
                    let append = build(&request, &model, &earlier, head);
                    expected.push(model.append(&append).map(|seq| Appended { last: at(seq) }));
                    earlier.push(append.clone());
                    batch.push(append);
                }
                assert_eq!(store.append(0, batch).await, expected);
            }
            Step::NextBucket => model.now += 1,
            Step::Drop(back, limit) => {
                let bucket = model.now.saturating_sub(back);
                let dropped = drop_bucket(&*store, bucket, limit).await.map_err(|error| match error {
                    DropError::StillLive { .. } => Refused::StillLive,
                    DropError::StillRead { .. } => Refused::StillRead,
                    DropError::Append(error) => panic!("{error}"),
                });
                assert_eq!(dropped, model.drop_bucket(Bucket(bucket)));
            }
            Step::DropContents(back, limit) => {
                let through = model.now.saturating_sub(back);
                assert_eq!(drop_contents(&*store, through, limit).await, model.drop_contents(Bucket(through)));
            }
            Step::Checkpoint(reader, tenths) => {
                let seq = model.head * tenths / 10;
                store.save_checkpoint(&reader.to_string(), at(seq)).await.unwrap();
                model.checkpoints.insert(reader.to_string(), seq);
            }
            Step::ForgetReader(reader) => {
                store.forget_reader(&reader.to_string()).await.unwrap();
                model.checkpoints.remove(&reader.to_string());
            }
        }
    }
    holds_the_events_of(&*store, &model).await;
    holds_what_stands_beside(&*store, model).await;
}

async fn holds_the_events_of(store: &dyn EventStore, model: &Model) {
    let events: Vec<Recorded> = model.events.iter().map(|entry| entry.event.clone()).collect();
    assert_eq!(whole_log(store).await, events);
    assert_eq!((store.reader().head(0).await, store.reader().floor(0).await), (Ok(model.head), Ok(model.floor)));
    for seq in 1..=model.head {
        let entry = model.events.iter().find(|entry| entry.event.position.seq == seq);
        let content = entry.and_then(|entry| entry.content.clone());
        let behind: Vec<_> = model.events.iter().filter(|entry| entry.event.position.seq >= seq).collect();
        let contents = behind.iter().filter_map(|entry| Some((entry.event.position.seq, entry.content.clone()?)));
        assert_eq!(store.reader().contents(at(seq - 1), u64::MAX >> 1).await.unwrap(), contents.collect::<Vec<_>>());
        assert_eq!(store.reader().contents(at(seq - 1), seq).await.unwrap().pop().map(|(_, content)| content), content);
        assert_eq!(store.reader().content(at(seq)).await, Ok(content));
    }
    for stream in STREAMS {
        let of_stream: Vec<Recorded> = events.iter().filter(|event| event.stream == stream).cloned().collect();
        assert_eq!(store.reader().read_stream(stream, 1, usize::MAX).await.unwrap(), of_stream);
        assert_eq!(store.reader().stream_version(stream).await, Ok(model.version(stream)));
        assert_eq!(store.reader().period(stream).await, Ok(model.periods.get(stream).copied()));
    }
    let up_to = model.head / 2;
    let category = |event: &&Recorded| event.stream.starts_with("subscription-") && event.position.seq <= up_to;
    let mut subscriptions: Vec<Recorded> = events.iter().filter(category).cloned().collect();
    subscriptions.sort_by(|one, other| (&one.stream, one.version).cmp(&(&other.stream, other.version)));
    assert_eq!(store.reader().read_category("subscription", at(up_to), None, usize::MAX).await.unwrap(), subscriptions);
}

async fn holds_what_stands_beside(store: &dyn EventStore, model: Model) {
    assert_eq!(store.reader().buckets(0).await.unwrap(), model.buckets());
    let mut live: Vec<(Bucket, &String)> =
        model.periods.iter().map(|(stream, period)| (period.bucket, stream)).collect();
    live.sort_unstable();
    let live: Vec<String> = live.into_iter().map(|(_, stream)| stream.clone()).collect();
    assert_eq!(store.reader().live_through(0, Bucket(u32::MAX), usize::MAX).await.unwrap(), live);
    let periods: Vec<_> = model.periods.into_iter().collect();
    assert_eq!(store.reader().periods(0, None, usize::MAX).await.unwrap(), periods);
    let snapshots: Vec<StoredSnapshot> = model.snapshots.into_values().collect();
    assert_eq!(store.reader().snapshots(0, None, usize::MAX).await.unwrap(), snapshots);
    let checkpoints: Vec<_> = model.checkpoints.into_iter().collect();
    assert_eq!(store.reader().checkpoints(0).await.unwrap(), checkpoints);
    let claims: Vec<Claim> =
        model.claims.into_iter().map(|(key, (value, bucket))| Claim { key, value, bucket }).collect();
    assert_eq!(store.reader().claims_after(0, None, usize::MAX).await.unwrap(), claims);
    let keys: Vec<String> = (0..6).map(|key: u8| key.to_string()).collect();
    let values: HashMap<String, String> = claims.into_iter().map(|claim| (claim.key, claim.value)).collect();
    assert_eq!(store.reader().claims(0, &keys).await.unwrap(), values);
    let mut wakeups: Vec<Wakeup> =
        model.wakeups.into_iter().map(|(key, due_at)| Wakeup { key, due_at: ms(due_at) }).collect();
    wakeups.sort_by(|one, other| (one.due_at, &one.key).cmp(&(other.due_at, &other.key)));
    assert_eq!(store.reader().wakeups(0, None, usize::MAX).await.unwrap(), wakeups);
}

/// Set `SEED` to the printed number to see a failure again.
fn agrees_with_the_model<D: Database>(cases: u32) {
    let seed = std::env::var("SEED").map_or_else(|_| RandomState::new().hash_one(()), |seed| seed.parse().unwrap());
    let mut bytes = [0; 32];
    bytes[..8].copy_from_slice(&seed.to_le_bytes());
    let config = Config { cases, failure_persistence: None, ..Config::default() };
    let mut runner = TestRunner::new_with_rng(config, TestRng::from_seed(RngAlgorithm::ChaCha, &bytes));
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let result = runner.run(&steps(), |steps| {
        runtime.block_on(run::<D>(steps));
        Ok(())
    });
    match result {
        Ok(()) => {}
        Err(TestError::Fail(reason, steps)) => panic!("SEED={seed}: {reason}\n{steps:#?}"),
        Err(TestError::Abort(reason)) => panic!("SEED={seed}: {reason}"),
    }
}

#[test]
fn memory_agrees_with_the_model() {
    agrees_with_the_model::<Memory>(300);
}

#[test]
fn sqlite_agrees_with_the_model() {
    agrees_with_the_model::<Sqlite>(40);
}

#[test]
fn postgres_agrees_with_the_model() {
    agrees_with_the_model::<Postgres>(25);
}
