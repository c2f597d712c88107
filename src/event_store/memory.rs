//! The log in memory: the same contract, nothing durable. For simulations, and as the plain statement of what the
//! databases must do: it checks and applies one append after the other, without batches, lookups or SQL.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use async_trait::async_trait;
use bytes::Bytes;

use super::{
    Append, AppendError, Appended, Bucket, BucketEnd, Claim, DropError, Dropped, EventReader, EventStore, Period,
    Position, Purged, ReadError, Recorded, Snapshot, StoredSnapshot, StreamName, Wakeup,
};
use crate::domain::time::Timestamp;
use crate::key_store::MemoryKeys;

/// The log in memory. It lives as long as a handle on it.
#[derive(Debug)]
pub struct MemoryStore {
    data: Arc<Mutex<Data>>,
    epoch: u64,
}

#[derive(Debug)]
struct Data {
    epoch: u64,
    shards: Vec<Shard>,
    /// Share the life of the log: what a simulation starts again has its keys.
    keys: Arc<MemoryKeys>,
}

#[derive(Debug, Default)]
struct Shard {
    head: u64,
    floor: u64,
    events: BTreeMap<u64, Entry>,
    /// The `seq`s of each stream's events, by version.
    streams: BTreeMap<StreamName, BTreeMap<u64, u64>>,
    contents: BTreeMap<u64, Bytes>,
    claims: BTreeMap<String, (String, Option<Bucket>)>,
    wakeups: BTreeMap<String, Timestamp>,
    periods: BTreeMap<StreamName, Period>,
    /// The last `seq` of each bucket.
    buckets: BTreeMap<Bucket, u64>,
    snapshots: BTreeMap<String, (u64, Snapshot)>,
    checkpoints: BTreeMap<String, u64>,
}

#[derive(Debug)]
struct Entry {
    event: Recorded,
    bucket: Option<Bucket>,
}

impl MemoryStore {
    /// An empty log of so many shards.
    pub fn new(shards: u16) -> Self {
        let shards = (0..shards).map(|_| Shard::default()).collect();
        Self { data: Arc::new(Mutex::new(Data { epoch: 1, shards, keys: Arc::default() })), epoch: 1 }
    }

    /// A new handle on the same log, as if the process had been started again: this one is fenced from now on.
    pub fn reopen(&self) -> Self {
        let mut data = self.data();
        data.epoch += 1;
        Self { data: Arc::clone(&self.data), epoch: data.epoch }
    }

    /// The sealed keys beside this log, the same for every handle on it.
    pub fn keys(&self) -> Arc<MemoryKeys> {
        Arc::clone(&self.data().keys)
    }

    fn data(&self) -> MutexGuard<'_, Data> {
        // Nothing panics between two changes that belong together.
        self.data.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn read<T>(&self, shard: u16, read: impl FnOnce(&Shard) -> T) -> Result<T, ReadError> {
        let data = self.data();
        let shard = data.shards.get(usize::from(shard)).ok_or_else(|| ReadError::Unavailable(no_shard(shard)))?;
        Ok(read(shard))
    }

    fn write<T>(&self, shard: u16, write: impl FnOnce(&mut Shard) -> T) -> Result<T, AppendError> {
        let mut data = self.data();
        if data.epoch != self.epoch {
            return Err(AppendError::Fenced { shard, epoch: self.epoch });
        }
        let shard = data.shards.get_mut(usize::from(shard)).ok_or_else(|| AppendError::Unavailable(no_shard(shard)))?;
        Ok(write(shard))
    }

    fn write_all(&self, mut write: impl FnMut(&mut Shard)) -> Result<(), AppendError> {
        (0..self.shards()).try_for_each(|shard| self.write(shard, &mut write))
    }
}

fn no_shard(shard: u16) -> String {
    format!("there is no shard {shard}")
}

impl Shard {
    fn event(&self, seq: u64) -> Option<&Recorded> {
        self.events.get(&seq).map(|entry| &entry.event)
    }

    fn version(&self, stream: &str) -> u64 {
        self.streams.get(stream).and_then(|versions| versions.last_key_value()).map_or(0, |(version, _)| *version)
    }

    fn append(&mut self, shard: u16, append: Append) -> Result<Appended, AppendError> {
        let at = |seq| Appended { last: Position { shard, seq } };
        let mut seen: Vec<&str> = Vec::new();
        for write in &append.writes {
            let next = self.version(&write.stream) + 1;
            if write.first_version != next || seen.contains(&write.stream.as_str()) {
                let conflict = AppendError::Conflict { stream: write.stream.clone(), expected: write.first_version };
                return self.repeated(&append).map(at).ok_or(conflict);
            }
            seen.push(&write.stream);
        }
        let mut taken: Vec<&str> = Vec::new();
        for claim in &append.claims {
            if self.claims.contains_key(&claim.key) || taken.contains(&claim.key.as_str()) {
                let same = |claim: &Claim| self.claims.get(&claim.key).is_some_and(|(value, _)| *value == claim.value);
                let repeated =
                    append.writes.iter().all(|write| write.events.is_empty()) && append.claims.iter().all(same);
                let error = AppendError::ClaimTaken { key: claim.key.clone() };
                return if repeated { Ok(at(self.head)) } else { Err(error) };
            }
            taken.push(&claim.key);
        }
        self.apply(shard, append);
        Ok(at(self.head))
    }

    /// The `seq` of the append's last event, if all of its events are in the log.
    fn repeated(&self, append: &Append) -> Option<u64> {
        let mut last = None;
        for write in &append.writes {
            for (version, event) in (write.first_version..).zip(&write.events) {
                let recorded = self.event(*self.streams.get(&write.stream)?.get(&version)?)?;
                if recorded.id != event.id {
                    return None;
                }
                last = Some(recorded.position.seq);
            }
        }
        last
    }

    fn apply(&mut self, shard: u16, append: Append) {
        for write in append.writes {
            self.periods.extend(write.period().map(|period| (write.stream.clone(), period)));
            let bucket = write.lifetime.bucket();
            for (version, event) in (write.first_version..).zip(write.events) {
                self.head += 1;
                let seq = self.head;
                self.streams.entry(write.stream.clone()).or_default().insert(version, seq);
                self.contents.extend(event.content.map(|content| (seq, content)));
                self.buckets.extend(bucket.map(|bucket| (bucket, seq)));
                let event = Recorded {
                    position: Position { shard, seq },
                    stream: write.stream.clone(),
                    version,
                    id: event.id,
                    kind: event.kind,
                    schema: event.schema,
                    at: event.at,
                    data: event.data,
                    meta: event.meta,
                };
                self.events.insert(seq, Entry { event, bucket });
            }
        }
        for stream in append.ended {
            self.periods.remove(&stream);
        }
        let claims = append.claims.into_iter().map(|claim| (claim.key, (claim.value, claim.bucket)));
        self.claims.extend(claims);
        for (key, due_at) in append.wakeups {
            match due_at {
                Some(due_at) => self.wakeups.insert(key, due_at),
                None => self.wakeups.remove(&key),
            };
        }
        append.erased.iter().for_each(|seq| drop(self.contents.remove(seq)));
        for snapshot in append.snapshots {
            self.snapshots.insert(snapshot.key.clone(), (self.head, snapshot));
        }
    }

    /// Whoever still needs the bucket.
    fn needed(&self, shard: u16, bucket: Bucket) -> Result<(), DropError> {
        if let Some((stream, _)) = self.periods.iter().find(|(_, period)| period.bucket <= bucket) {
            return Err(DropError::StillLive { bucket, stream: stream.clone() });
        }
        let Some(last) = self.buckets.get(&bucket) else { return Ok(()) };
        match self.checkpoints.iter().find(|(_, seq)| *seq < last) {
            Some((reader, seq)) => Err(DropError::StillRead {
                bucket,
                reader: reader.clone(),
                at: Position { shard, seq: *seq },
                last: Position { shard, seq: *last },
            }),
            None => Ok(()),
        }
    }

    fn drop_bucket(&mut self, bucket: Bucket) -> u64 {
        self.claims.retain(|_, (_, claimed_for)| *claimed_for != Some(bucket));
        let Some(last) = self.buckets.remove(&bucket) else { return 0 };
        self.floor = self.floor.max(last);
        let before = self.events.len();
        let (streams, contents) = (&mut self.streams, &mut self.contents);
        self.events.retain(|seq, entry| {
            let goes = entry.bucket == Some(bucket);
            if goes {
                contents.remove(seq);
                if let Some(versions) = streams.get_mut(&entry.event.stream) {
                    versions.remove(&entry.event.version);
                }
            }
            !goes
        });
        self.streams.retain(|_, versions| !versions.is_empty());
        (before - self.events.len()) as u64
    }

    fn drop_contents(&mut self, through: Bucket) -> u64 {
        let before = self.contents.len();
        let events = &self.events;
        self.contents.retain(|seq, _| events[seq].bucket.is_none_or(|bucket| bucket > through));
        (before - self.contents.len()) as u64
    }
}

fn page<T>(all: impl Iterator<Item = T>, limit: usize) -> Vec<T> {
    all.take(limit).collect()
}

#[async_trait]
impl EventReader for MemoryStore {
    fn shards(&self) -> u16 {
        u16::try_from(self.data().shards.len()).unwrap_or(u16::MAX)
    }

    async fn read_stream(&self, stream: &str, from_version: u64, limit: usize) -> Result<Vec<Recorded>, ReadError> {
        let data = self.data();
        let found = data.shards.iter().find_map(|shard| Some((shard, shard.streams.get(stream)?)));
        let events = found.map(|(shard, versions)| {
            page(versions.range(from_version..).filter_map(|(_, seq)| shard.event(*seq)).cloned(), limit)
        });
        Ok(events.unwrap_or_default())
    }

    async fn stream_version(&self, stream: &str) -> Result<u64, ReadError> {
        Ok(self.data().shards.iter().map(|shard| shard.version(stream)).max().unwrap_or(0))
    }

    async fn read_log(&self, after: Position, limit: usize) -> Result<Vec<Recorded>, ReadError> {
        self.read(after.shard, |shard| {
            let behind = shard.events.range(after.seq.saturating_add(1)..);
            page(behind.map(|(_, entry)| entry.event.clone()), limit)
        })
    }

    async fn read_category(
        &self,
        category: &str,
        up_to: Position,
        after: Option<(&str, u64)>,
        limit: usize,
    ) -> Result<Vec<Recorded>, ReadError> {
        let prefix = format!("{category}-");
        self.read(up_to.shard, |shard| {
            let streams = shard.streams.iter().filter(|(stream, _)| stream.starts_with(&prefix));
            let entries = streams.flat_map(|(_, versions)| versions.values()).filter_map(|seq| shard.events.get(seq));
            let events = entries.filter(|entry| entry.bucket.is_none()).map(|entry| &entry.event);
            let wanted = events.filter(|event| {
                event.position.seq <= up_to.seq
                    && after.is_none_or(|after| (event.stream.as_str(), event.version) > after)
            });
            page(wanted.cloned(), limit)
        })
    }

    async fn head(&self, shard: u16) -> Result<u64, ReadError> {
        self.read(shard, |shard| shard.head)
    }

    async fn floor(&self, shard: u16) -> Result<u64, ReadError> {
        self.read(shard, |shard| shard.floor)
    }

    async fn content(&self, position: Position) -> Result<Option<Bytes>, ReadError> {
        self.read(position.shard, |shard| shard.contents.get(&position.seq).cloned())
    }

    async fn contents(&self, after: Position, through: u64) -> Result<Vec<(u64, Bytes)>, ReadError> {
        self.read(after.shard, |shard| {
            let behind = shard.contents.range(after.seq..).skip_while(|(seq, _)| **seq <= after.seq);
            let wanted = behind.take_while(|(seq, _)| **seq <= through);
            wanted.map(|(seq, content)| (*seq, content.clone())).collect()
        })
    }

    async fn claims(&self, shard: u16, keys: &[String]) -> Result<HashMap<String, String>, ReadError> {
        self.read(shard, |shard| {
            keys.iter().filter_map(|key| Some((key.clone(), shard.claims.get(key)?.0.clone()))).collect()
        })
    }

    async fn claims_after(&self, shard: u16, after: Option<&str>, limit: usize) -> Result<Vec<Claim>, ReadError> {
        self.read(shard, |shard| {
            let behind = shard.claims.iter().filter(|(key, _)| after.is_none_or(|after| key.as_str() > after));
            let claim = |(key, (value, bucket)): (&String, &(String, Option<Bucket>))| Claim {
                key: key.clone(),
                value: value.clone(),
                bucket: *bucket,
            };
            page(behind.map(claim), limit)
        })
    }

    async fn wakeups(&self, shard: u16, after: Option<&Wakeup>, limit: usize) -> Result<Vec<Wakeup>, ReadError> {
        self.read(shard, |shard| {
            let mut wakeups: Vec<Wakeup> =
                shard.wakeups.iter().map(|(key, due_at)| Wakeup { key: key.clone(), due_at: *due_at }).collect();
            wakeups.sort_by(|one, other| (one.due_at, &one.key).cmp(&(other.due_at, &other.key)));
            let behind =
                |wakeup: &Wakeup| after.is_none_or(|after| (wakeup.due_at, &wakeup.key) > (after.due_at, &after.key));
            page(wakeups.into_iter().filter(behind), limit)
        })
    }

    async fn period(&self, stream: &str) -> Result<Option<Period>, ReadError> {
        Ok(self.data().shards.iter().find_map(|shard| shard.periods.get(stream).copied()))
    }

    async fn periods(
        &self,
        shard: u16,
        after: Option<&str>,
        limit: usize,
    ) -> Result<Vec<(StreamName, Period)>, ReadError> {
        self.read(shard, |shard| {
            let behind = shard.periods.iter().filter(|(stream, _)| after.is_none_or(|after| stream.as_str() > after));
            page(behind.map(|(stream, period)| (stream.clone(), *period)), limit)
        })
    }

    async fn live_through(&self, shard: u16, bucket: Bucket, limit: usize) -> Result<Vec<StreamName>, ReadError> {
        self.read(shard, |shard| {
            let mut live: Vec<_> = shard.periods.iter().filter(|(_, period)| period.bucket <= bucket).collect();
            live.sort_by_key(|(stream, period)| (period.bucket, *stream));
            page(live.into_iter().map(|(stream, _)| stream.clone()), limit)
        })
    }

    async fn buckets(&self, shard: u16) -> Result<Vec<BucketEnd>, ReadError> {
        self.read(shard, |data| {
            let end =
                |(bucket, last): (&Bucket, &u64)| BucketEnd { bucket: *bucket, last: Position { shard, seq: *last } };
            data.buckets.iter().map(end).collect()
        })
    }

    async fn snapshot(&self, shard: u16, key: &str) -> Result<Option<StoredSnapshot>, ReadError> {
        self.read(shard, |data| data.snapshots.get(key).map(|(seq, snapshot)| stored(shard, *seq, snapshot)))
    }

    async fn snapshots(&self, shard: u16, after: Option<&str>, limit: usize) -> Result<Vec<StoredSnapshot>, ReadError> {
        self.read(shard, |data| {
            let behind = data.snapshots.iter().filter(|(key, _)| after.is_none_or(|after| key.as_str() > after));
            page(behind.map(|(_, (seq, snapshot))| stored(shard, *seq, snapshot)), limit)
        })
    }

    async fn checkpoint(&self, reader: &str, shard: u16) -> Result<Option<u64>, ReadError> {
        self.read(shard, |shard| shard.checkpoints.get(reader).copied())
    }

    async fn checkpoints(&self, shard: u16) -> Result<Vec<(String, u64)>, ReadError> {
        self.read(shard, |shard| shard.checkpoints.iter().map(|(reader, seq)| (reader.clone(), *seq)).collect())
    }
}

fn stored(shard: u16, seq: u64, snapshot: &Snapshot) -> StoredSnapshot {
    StoredSnapshot { position: Position { shard, seq }, snapshot: snapshot.clone() }
}

#[async_trait]
impl EventStore for MemoryStore {
    fn reader(&self) -> &dyn EventReader {
        self
    }

    async fn append(&self, shard: u16, batch: Vec<Append>) -> Vec<Result<Appended, AppendError>> {
        batch.into_iter().map(|append| self.write(shard, |data| data.append(shard, append)).flatten()).collect()
    }

    async fn save_checkpoint(&self, reader: &str, at: Position) -> Result<(), AppendError> {
        self.write(at.shard, |shard| {
            shard.checkpoints.insert(reader.to_owned(), at.seq);
        })
    }

    async fn forget_reader(&self, reader: &str) -> Result<(), AppendError> {
        self.write_all(|shard| {
            shard.checkpoints.remove(reader);
        })
    }

    async fn drop_bucket(&self, bucket: Bucket, _limit: u32) -> Result<Dropped, DropError> {
        for shard in 0..self.shards() {
            self.write(shard, |data| data.needed(shard, bucket))??;
        }
        let mut rows = 0;
        self.write_all(|shard| rows += shard.drop_bucket(bucket))?;
        Ok(Dropped { rows, more: false })
    }

    async fn drop_contents(&self, through: Bucket, _limit: u32) -> Result<Dropped, AppendError> {
        let mut rows = 0;
        self.write_all(|shard| rows += shard.drop_contents(through))?;
        Ok(Dropped { rows, more: false })
    }

    async fn purge(&self) -> Result<Purged, AppendError> {
        Ok(Purged::Gone)
    }
}
