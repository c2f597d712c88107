//! The log in memory: the same contract, nothing durable. For simulations, and as the plain statement of what the
//! databases must do: it checks and applies one append after the other, without batches, lookups or SQL.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use async_trait::async_trait;
use bytes::Bytes;

use super::{Append, AppendError, Appended, EventStore, Position, ReadError, Recorded, StreamName, Wakeup};
use crate::domain::time::Timestamp;

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
    secrets: BTreeMap<String, Vec<u8>>,
}

#[derive(Debug, Default)]
struct Shard {
    /// The event at `seq` stands at `seq - 1`.
    events: Vec<Recorded>,
    /// The `seq`s of each stream's events; version `n` stands at `n - 1`.
    streams: BTreeMap<StreamName, Vec<u64>>,
    contents: BTreeMap<u64, Bytes>,
    claims: BTreeMap<String, String>,
    wakeups: BTreeMap<String, Timestamp>,
    checkpoints: BTreeMap<String, u64>,
}

impl MemoryStore {
    /// An empty log of so many shards.
    pub fn new(shards: u16) -> Self {
        let shards = (0..shards).map(|_| Shard::default()).collect();
        Self { data: Arc::new(Mutex::new(Data { epoch: 1, shards, secrets: BTreeMap::new() })), epoch: 1 }
    }

    /// A new handle on the same log, as if the process had been started again: this one is fenced from now on.
    pub fn reopen(&self) -> Self {
        let mut data = self.data();
        data.epoch += 1;
        Self { data: Arc::clone(&self.data), epoch: data.epoch }
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
}

fn no_shard(shard: u16) -> String {
    format!("there is no shard {shard}")
}

impl Shard {
    fn head(&self) -> u64 {
        self.events.len() as u64
    }

    fn event(&self, seq: u64) -> Option<&Recorded> {
        self.events.get(index(seq))
    }

    fn stream(&self, stream: &str) -> &[u64] {
        self.streams.get(stream).map_or(&[], Vec::as_slice)
    }

    fn append(&mut self, shard: u16, append: Append) -> Result<Appended, AppendError> {
        let at = |seq| Appended { last: Position { shard, seq } };
        let mut seen: Vec<&str> = Vec::new();
        for write in &append.writes {
            let next = self.stream(&write.stream).len() as u64 + 1;
            if write.first_version != next || seen.contains(&write.stream.as_str()) {
                let conflict = AppendError::Conflict { stream: write.stream.clone(), expected: write.first_version };
                return self.repeated(&append).map(at).ok_or(conflict);
            }
            seen.push(&write.stream);
        }
        let mut taken: Vec<&str> = Vec::new();
        for claim in &append.claims {
            if self.claims.contains_key(&claim.key) || taken.contains(&claim.key.as_str()) {
                let repeated = append.writes.iter().all(|write| write.events.is_empty())
                    && append.claims.iter().all(|claim| self.claims.get(&claim.key) == Some(&claim.value));
                let error = AppendError::ClaimTaken { key: claim.key.clone() };
                return if repeated { Ok(at(self.head())) } else { Err(error) };
            }
            taken.push(&claim.key);
        }
        self.apply(shard, append);
        Ok(at(self.head()))
    }

    /// The `seq` of the append's last event, if all of its events are in the log.
    fn repeated(&self, append: &Append) -> Option<u64> {
        let mut last = None;
        for write in &append.writes {
            for (version, event) in (write.first_version..).zip(&write.events) {
                let recorded = self.event(*self.stream(&write.stream).get(index(version))?)?;
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
            for (version, event) in (write.first_version..).zip(write.events) {
                let seq = self.head() + 1;
                self.streams.entry(write.stream.clone()).or_default().push(seq);
                self.contents.extend(event.content.map(|content| (seq, content)));
                self.events.push(Recorded {
                    position: Position { shard, seq },
                    stream: write.stream.clone(),
                    version,
                    id: event.id,
                    kind: event.kind,
                    schema: event.schema,
                    at: event.at,
                    data: event.data,
                    meta: event.meta,
                });
            }
        }
        self.claims.extend(append.claims.into_iter().map(|claim| (claim.key, claim.value)));
        for (key, due_at) in append.wakeups {
            match due_at {
                Some(due_at) => self.wakeups.insert(key, due_at),
                None => self.wakeups.remove(&key),
            };
        }
    }
}

/// Where in a list that counts from 1; beyond the list for 0.
fn index(number: u64) -> usize {
    number.checked_sub(1).and_then(|index| usize::try_from(index).ok()).unwrap_or(usize::MAX)
}

#[async_trait]
impl EventStore for MemoryStore {
    fn shards(&self) -> u16 {
        u16::try_from(self.data().shards.len()).unwrap_or(u16::MAX)
    }

    async fn append(&self, shard: u16, batch: Vec<Append>) -> Vec<Result<Appended, AppendError>> {
        batch.into_iter().map(|append| self.write(shard, |data| data.append(shard, append)).flatten()).collect()
    }

    async fn read_stream(&self, stream: &str, from_version: u64, limit: usize) -> Result<Vec<Recorded>, ReadError> {
        let data = self.data();
        let events = data.shards.iter().find(|shard| shard.streams.contains_key(stream)).map(|shard| {
            let seqs = shard.stream(stream).iter().skip(index(from_version.max(1))).take(limit);
            seqs.filter_map(|seq| shard.event(*seq)).cloned().collect()
        });
        Ok(events.unwrap_or_default())
    }

    async fn stream_version(&self, stream: &str) -> Result<u64, ReadError> {
        Ok(self.data().shards.iter().map(|shard| shard.stream(stream).len() as u64).max().unwrap_or(0))
    }

    async fn read_log(&self, after: Position, limit: usize) -> Result<Vec<Recorded>, ReadError> {
        self.read(after.shard, |shard| {
            let from = usize::try_from(after.seq).unwrap_or(usize::MAX);
            shard.events.iter().skip(from).take(limit).cloned().collect()
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
            let events = streams.flat_map(|(_, seqs)| seqs).filter_map(|seq| shard.event(*seq));
            let wanted = events.filter(|event| {
                event.position.seq <= up_to.seq
                    && after.is_none_or(|after| (event.stream.as_str(), event.version) > after)
            });
            wanted.take(limit).cloned().collect()
        })
    }

    async fn head(&self, shard: u16) -> Result<u64, ReadError> {
        self.read(shard, Shard::head)
    }

    async fn content(&self, position: Position) -> Result<Option<Bytes>, ReadError> {
        self.read(position.shard, |shard| shard.contents.get(&position.seq).cloned())
    }

    async fn claims(&self, shard: u16, keys: &[String]) -> Result<HashMap<String, String>, ReadError> {
        self.read(shard, |shard| {
            keys.iter().filter_map(|key| Some((key.clone(), shard.claims.get(key)?.clone()))).collect()
        })
    }

    async fn wakeups(&self, shard: u16, after: Option<&Wakeup>, limit: usize) -> Result<Vec<Wakeup>, ReadError> {
        self.read(shard, |shard| {
            let mut wakeups: Vec<Wakeup> =
                shard.wakeups.iter().map(|(key, due_at)| Wakeup { key: key.clone(), due_at: *due_at }).collect();
            wakeups.sort_by(|one, other| (one.due_at, &one.key).cmp(&(other.due_at, &other.key)));
            let behind =
                |wakeup: &Wakeup| after.is_none_or(|after| (wakeup.due_at, &wakeup.key) > (after.due_at, &after.key));
            wakeups.into_iter().filter(behind).take(limit).collect()
        })
    }

    async fn checkpoint(&self, reader: &str, shard: u16) -> Result<Option<u64>, ReadError> {
        self.read(shard, |shard| shard.checkpoints.get(reader).copied())
    }

    async fn save_checkpoint(&self, reader: &str, at: Position) -> Result<(), AppendError> {
        self.write(at.shard, |shard| {
            shard.checkpoints.insert(reader.to_owned(), at.seq);
        })
    }

    async fn put_secret(&self, key: &str, sealed: &[u8]) -> Result<(), AppendError> {
        self.data().secrets.insert(key.to_owned(), sealed.to_vec());
        Ok(())
    }

    async fn secret(&self, key: &str) -> Result<Option<Vec<u8>>, ReadError> {
        Ok(self.data().secrets.get(key).cloned())
    }

    async fn destroy_secret(&self, key: &str) -> Result<(), AppendError> {
        self.data().secrets.remove(key);
        Ok(())
    }

    async fn has_secrets(&self) -> Result<bool, ReadError> {
        Ok(!self.data().secrets.is_empty())
    }
}
