//! A store from an exported text.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::io::{self, BufRead};

use base64::Engine;
use sha2::{Digest, Sha256};

use super::{BASE64, EventLine, FORMAT, Header, Line};
use crate::codec::{self, DecodeError};
use crate::domain::event::{CarriedDelivery, DeliveryEvent, Event, MessageEvent, SubscriptionEvent, TenantEvent};
use crate::domain::id::{ErasureId, EventId, SubscriptionId, TenantId};
use crate::domain::time::Timestamp;
use crate::event_store::{
    Append, AppendError, Bucket, Claim, EventReader, EventStore, Lifetime, NewEvent, Position, ReadError, Recorded,
    StreamWrite,
};
use crate::execute::retention::Config;
use crate::execute::{self, MATCHER};
use crate::key_store::{KeyStore, KeyStoreError};

/// A reader whose checkpoint stands in a store that is being imported into: one that has it is not whole.
pub const UNFINISHED: &str = "unfinished-import";
/// Rows written at a time.
const BATCH: usize = 1_000;

/// What was read.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Imported {
    /// Events.
    pub events: u64,
    /// Lines of every kind.
    pub lines: u64,
}

/// Why the store is not whole.
#[derive(Debug, thiserror::Error)]
pub enum ImportError {
    /// Something is in the store.
    #[error("the store is not empty: import makes a new one")]
    NotEmpty,
    /// The text cannot be read.
    #[error("the export cannot be read")]
    Io(#[from] io::Error),
    /// A line is not what it should be.
    #[error("line {line}: {reason}")]
    Line {
        /// Which, from 1.
        line: u64,
        /// What is wrong with it.
        reason: String,
    },
    /// The text ends too early.
    #[error("the export ends after line {0}, before its end: it was cut off")]
    Cut(u64),
    /// The text was changed.
    #[error("the export does not have the SHA-256 that its last line says: it was changed or damaged")]
    Changed,
    /// An event of the export cannot be read by this program.
    #[error(transparent)]
    Decode(#[from] DecodeError),
    /// The store cannot be read.
    #[error(transparent)]
    Read(#[from] ReadError),
    /// The store cannot be written.
    #[error(transparent)]
    Append(#[from] AppendError),
    /// The key store cannot be read or written.
    #[error(transparent)]
    Keys(#[from] KeyStoreError),
}

/// Fills an empty store. Until it has come to its end the store is marked as [`UNFINISHED`]; after a failure it is to be
/// thrown away. `progress` is told how many events are stored, of how many.
pub async fn import(
    store: &dyn EventStore,
    keys: &dyn KeyStore,
    retention: &Config,
    mut from: impl BufRead,
    mut progress: impl FnMut(u64, u64),
) -> Result<Imported, ImportError> {
    refuse_used(store.reader(), keys).await?;
    for shard in 0..store.reader().shards() {
        store.save_checkpoint(UNFINISHED, Position { shard, seq: 0 }).await?;
    }
    let mut import = Import::of(store, keys, retention);
    let mut hash = Sha256::new();
    let mut text = Vec::new();
    let mut total = 0;
    loop {
        text.clear();
        if from.read_until(b'\n', &mut text)? == 0 || text.last() != Some(&b'\n') {
            return Err(ImportError::Cut(import.lines));
        }
        if import.lines == 0 {
            check_header(&text)?;
        } else {
            let line: Line = serde_json::from_slice(&text).map_err(|error| import.wrong(error.to_string()))?;
            match line {
                Line::Event(event) => import.event(*event).await?,
                Line::Claim { key, value, bucket } => import.claim(key, value, bucket).await?,
                Line::Checkpoint { shard, seq } => drop(import.matched.insert(shard, seq)),
                Line::Heads(heads) => total = heads.iter().sum(),
                Line::Secret { key, sealed } => import.secret(&key, &sealed).await?,
                Line::End { lines, sha256 } => {
                    if lines != import.lines || sha256 != hex::encode(hash.finalize()) {
                        return Err(ImportError::Changed);
                    }
                    break;
                }
            }
        }
        import.lines += 1;
        hash.update(&text);
        if import.events.is_multiple_of(10_000) {
            progress(import.events, total);
        }
    }
    let done = Imported { events: import.events, lines: import.lines + 1 };
    import.finish().await?;
    progress(done.events, total);
    Ok(done)
}

async fn refuse_used(store: &dyn EventReader, keys: &dyn KeyStore) -> Result<(), ImportError> {
    for shard in 0..store.shards() {
        if store.head(shard).await? > 0 || !store.checkpoints(shard).await?.is_empty() {
            return Err(ImportError::NotEmpty);
        }
    }
    if keys.rows("", "", 1).await?.is_empty() { Ok(()) } else { Err(ImportError::NotEmpty) }
}

fn check_header(text: &[u8]) -> Result<(), ImportError> {
    let wrong = |reason: String| ImportError::Line { line: 1, reason };
    let header: Header = serde_json::from_slice(text).map_err(|error| wrong(format!("this is no export: {error}")))?;
    if header.tidings_export != FORMAT {
        return Err(wrong(format!(
            "the export has form {}, and this program reads form {FORMAT}",
            header.tidings_export
        )));
    }
    Ok(())
}

struct Import<'a> {
    store: &'a dyn EventStore,
    keys: &'a dyn KeyStore,
    retention: &'a Config,
    lines: u64,
    events: u64,
    /// What each shard is to get next, in order.
    waiting: Vec<Vec<Append>>,
    /// The newest number of each shard, that which waits included.
    heads: Vec<u64>,
    streams: HashMap<String, Stream>,
    /// Whose each subscription is.
    owners: HashMap<SubscriptionId, TenantId>,
    /// Those that are deleted, and whether each can still be restored.
    deleted: HashMap<SubscriptionId, bool>,
    messages: HashMap<TenantId, Renumbered>,
    /// Erasures that are under way.
    erasing: HashMap<TenantId, HashSet<ErasureId>>,
    /// How far the matcher had come in the exported shards.
    matched: HashMap<u16, u64>,
    /// The first event of each shard that the matcher had not seen.
    first_unmatched: BTreeMap<u16, u64>,
}

/// A tenant's messages: the number that each had and the one that it has, in order.
#[derive(Default)]
struct Renumbered(Vec<(u64, u64)>);

impl Renumbered {
    /// The new number of a message; 0, which no event has, for one that is gone.
    fn exactly(&self, old: u64) -> u64 {
        self.0.binary_search_by_key(&old, |(old, _)| *old).map_or(0, |index| self.0[index].1)
    }

    /// The new number of the last message up to there; 0 if there is none.
    fn through(&self, old: u64) -> u64 {
        let behind = self.0.partition_point(|(known, _)| *known <= old);
        behind.checked_sub(1).map_or(0, |index| self.0[index].1)
    }
}

/// Replaces the numbers of messages that the event names; `false` if it names none.
fn renumber(event: &mut DeliveryEvent, messages: &Renumbered) -> bool {
    let carry = |carried: &mut Vec<CarriedDelivery>| {
        carried.iter_mut().for_each(|delivery| delivery.message_seq = messages.exactly(delivery.message_seq));
    };
    match event {
        DeliveryEvent::Backfilled(backfilled) => {
            backfilled.message_seq = messages.exactly(backfilled.message_seq);
        }
        DeliveryEvent::Scheduled(scheduled) => scheduled.message_seq = messages.exactly(scheduled.message_seq),
        DeliveryEvent::PeriodOpened(opened) => {
            opened.matched_through = messages.through(opened.matched_through);
            if let Some(job) = &mut opened.job {
                job.cursor = messages.through(job.cursor);
            }
            carry(&mut opened.carried);
        }
        DeliveryEvent::Carried(more) => carry(&mut more.carried),
        DeliveryEvent::JobAdvanced(progress) => progress.cursor = messages.through(progress.cursor),
        DeliveryEvent::AttemptFailed(_)
        | DeliveryEvent::Succeeded(_)
        | DeliveryEvent::Exhausted(_)
        | DeliveryEvent::Expired(_)
        | DeliveryEvent::Rescheduled(_)
        | DeliveryEvent::Cancelled(_) => return false,
    }
    true
}

/// The same of what happened to the subscription itself.
fn renumber_life(event: &mut SubscriptionEvent, messages: &Renumbered) -> bool {
    let through = |old: &mut Option<u64>| *old = old.map(|old| messages.through(old));
    match event {
        SubscriptionEvent::CircuitTripped(tripped) => {
            tripped.matched_through = messages.through(tripped.matched_through);
        }
        SubscriptionEvent::CircuitReenabled(reenabled) => {
            through(&mut reenabled.skipped_through);
            through(&mut reenabled.lost_through);
        }
        SubscriptionEvent::CircuitProbing(probing) => through(&mut probing.lost_through),
        SubscriptionEvent::MatchesLost(lost) => lost.through = messages.through(lost.through),
        SubscriptionEvent::Restored(restored) => {
            restored.matched_through = messages.through(restored.matched_through);
        }
        // Between two messages a job's ends move to the one before: what it has made again it does not pick twice.
        SubscriptionEvent::JobStarted(started) => {
            started.selection.after = messages.through(started.selection.after);
            started.selection.through = messages.through(started.selection.through);
        }
        SubscriptionEvent::Created(_)
        | SubscriptionEvent::Updated(_)
        | SubscriptionEvent::Enabled(_)
        | SubscriptionEvent::Disabled(_)
        | SubscriptionEvent::HoldChanged(_)
        | SubscriptionEvent::SecretRotated(_)
        | SubscriptionEvent::TestSent(_)
        | SubscriptionEvent::EgressBlocked(_)
        | SubscriptionEvent::RedeliveryRequested(_)
        | SubscriptionEvent::RescheduleRequested(_)
        | SubscriptionEvent::CancellationRequested(_)
        | SubscriptionEvent::JobEnded(_)
        | SubscriptionEvent::CircuitClosed(_)
        | SubscriptionEvent::Deleted(_)
        | SubscriptionEvent::SecretsDestroyed(_) => return false,
    }
    true
}

/// How far a stream is.
#[derive(Clone, Copy, Default)]
struct Stream {
    version: u64,
    bucket: Option<Bucket>,
}

impl<'a> Import<'a> {
    fn of(store: &'a dyn EventStore, keys: &'a dyn KeyStore, retention: &'a Config) -> Self {
        let shards = usize::from(store.reader().shards());
        Self {
            store,
            keys,
            retention,
            lines: 0,
            events: 0,
            waiting: vec![vec![]; shards],
            heads: vec![0; shards],
            streams: HashMap::new(),
            owners: HashMap::new(),
            deleted: HashMap::new(),
            messages: HashMap::new(),
            erasing: HashMap::new(),
            matched: HashMap::new(),
            first_unmatched: BTreeMap::new(),
        }
    }

    fn wrong(&self, reason: String) -> ImportError {
        ImportError::Line { line: self.lines + 1, reason }
    }

    async fn event(&mut self, line: EventLine) -> Result<(), ImportError> {
        let recorded = self.recorded(line.shard, &line)?;
        let mut event = codec::decode(&recorded)?;
        let tenant = self.tenant_of(&recorded.stream, &event)?;
        let shard = execute::shard_of(tenant, self.store.reader().shards());
        self.heads[usize::from(shard)] += 1;
        let seq = self.heads[usize::from(shard)];
        if line.seq > self.matched.get(&line.shard).copied().unwrap_or(0) {
            self.first_unmatched.entry(shard).or_insert(seq);
        }
        let messages = self.messages.entry(tenant).or_default();
        let renumbered = match &mut event {
            Event::Message(MessageEvent::Published(_)) => {
                messages.0.push((line.seq, seq));
                false
            }
            Event::Delivery(event) => renumber(event, messages),
            Event::Subscription(event) => {
                let renumbered = renumber_life(event, messages);
                self.remember_end(&recorded.stream, event);
                renumbered
            }
            Event::Tenant(event) => {
                let erasing = self.erasing.entry(tenant).or_default();
                match event {
                    TenantEvent::ErasureStarted(started) => {
                        erasing.insert(started.erasure);
                        false
                    }
                    TenantEvent::ErasureAdvanced(advanced) => {
                        advanced.through = messages.through(advanced.through);
                        true
                    }
                    TenantEvent::ErasureCompleted(completed) => {
                        erasing.remove(&completed.erasure);
                        false
                    }
                    TenantEvent::Created(_)
                    | TenantEvent::EventTypeRegistered(_)
                    | TenantEvent::EventTypeUpdated(_)
                    | TenantEvent::ApiKeyIssued(_)
                    | TenantEvent::ApiKeyRevoked(_)
                    | TenantEvent::SettingsChanged(_)
                    | TenantEvent::UserAdded(_)
                    | TenantEvent::UserCredentialsReset(_)
                    | TenantEvent::UserDisabled(_)
                    | TenantEvent::UserAuthenticationFailed(_)
                    | TenantEvent::ConfigChanged(_)
                    | TenantEvent::KekRotated(_) => false,
                }
            }
            Event::Message(MessageEvent::PeriodOpened(_) | MessageEvent::PayloadErased(_)) => false,
        };
        let (kind, schema, data) = if renumbered {
            let encoded = codec::encode(&event);
            (encoded.kind.into(), encoded.schema, encoded.data)
        } else {
            (recorded.kind, recorded.schema, recorded.data)
        };
        let content = line.content.map(|content| BASE64.decode(content)).transpose();
        let content = content.map_err(|error| self.wrong(format!("its content is no Base64: {error}")))?;
        let new = NewEvent {
            id: recorded.id,
            kind,
            schema,
            at: recorded.at,
            data,
            meta: recorded.meta,
            content: content.map(Into::into),
        };
        let write = self.write(recorded.stream, &event, new);
        self.events += 1;
        self.wait(shard, Append { writes: vec![write], ..Append::default() }).await
    }

    fn remember_end(&mut self, stream: &str, event: &SubscriptionEvent) {
        let Some(id) = execute::subscription_of(stream) else { return };
        match event {
            SubscriptionEvent::Deleted(deleted) => drop(self.deleted.insert(id, deleted.restore_window_s.is_some())),
            SubscriptionEvent::SecretsDestroyed(_) => drop(self.deleted.insert(id, false)),
            SubscriptionEvent::Restored(_) => drop(self.deleted.remove(&id)),
            SubscriptionEvent::Created(_)
            | SubscriptionEvent::Updated(_)
            | SubscriptionEvent::Enabled(_)
            | SubscriptionEvent::Disabled(_)
            | SubscriptionEvent::HoldChanged(_)
            | SubscriptionEvent::SecretRotated(_)
            | SubscriptionEvent::TestSent(_)
            | SubscriptionEvent::EgressBlocked(_)
            | SubscriptionEvent::RedeliveryRequested(_)
            | SubscriptionEvent::RescheduleRequested(_)
            | SubscriptionEvent::CancellationRequested(_)
            | SubscriptionEvent::JobStarted(_)
            | SubscriptionEvent::JobEnded(_)
            | SubscriptionEvent::CircuitTripped(_)
            | SubscriptionEvent::CircuitReenabled(_)
            | SubscriptionEvent::CircuitProbing(_)
            | SubscriptionEvent::MatchesLost(_)
            | SubscriptionEvent::CircuitClosed(_) => {}
        }
    }

    fn recorded(&self, shard: u16, line: &EventLine) -> Result<Recorded, ImportError> {
        let id: EventId = line.id.parse().map_err(|error| self.wrong(format!("{error}")))?;
        Ok(Recorded {
            position: Position { shard, seq: line.seq },
            stream: line.stream.clone(),
            version: line.version,
            id,
            kind: line.kind.clone().into(),
            schema: line.schema,
            at: Timestamp::from_ms(line.at_ms),
            data: line.data.clone(),
            meta: line.meta.clone(),
        })
    }

    fn tenant_of(&mut self, stream: &str, event: &Event) -> Result<TenantId, ImportError> {
        if let Event::Subscription(SubscriptionEvent::Created(created)) = event {
            self.owners.insert(created.subscription, created.tenant);
        }
        let found = match event {
            Event::Tenant(_) | Event::Message(_) => execute::tenant_of(stream),
            Event::Subscription(_) | Event::Delivery(_) => {
                execute::subscription_of(stream).and_then(|id| self.owners.get(&id).copied())
            }
        };
        found.ok_or_else(|| self.wrong(format!("whose stream '{stream}' is, no line before says")))
    }

    fn write(&mut self, stream: String, event: &Event, new: NewEvent) -> StreamWrite {
        let place = self.streams.entry(stream.clone()).or_default();
        place.version += 1;
        let lifetime = if execute::is_bucketed(&stream) {
            let bucket = self.retention.bucket_of(new.at).max(place.bucket.unwrap_or(Bucket(0)));
            place.bucket = Some(bucket);
            if event.opens_period() { Lifetime::Period(bucket) } else { Lifetime::Bucket(bucket) }
        } else {
            Lifetime::Kept
        };
        StreamWrite { stream, first_version: place.version, lifetime, events: vec![new] }
    }

    async fn claim(&mut self, key: String, value: String, bucket: Option<u32>) -> Result<(), ImportError> {
        let tenant = key.strip_prefix("message/").and_then(|rest| rest.split('/').next()?.parse::<TenantId>().ok());
        let shard =
            tenant.map_or(execute::SLUG_SHARD, |tenant| execute::shard_of(tenant, self.store.reader().shards()));
        let claims = vec![Claim { key, value, bucket: bucket.map(Bucket) }];
        self.wait(shard, Append { claims, ..Append::default() }).await
    }

    async fn secret(&mut self, key: &str, sealed: &str) -> Result<(), ImportError> {
        let sealed = BASE64.decode(sealed).map_err(|error| self.wrong(format!("it is no Base64: {error}")))?;
        if self.keys.add(key, &sealed).await? { Ok(()) } else { Err(self.wrong("a secret is there twice".into())) }
    }

    async fn wait(&mut self, shard: u16, append: Append) -> Result<(), ImportError> {
        let waiting = &mut self.waiting[usize::from(shard)];
        waiting.push(append);
        if waiting.len() >= BATCH { self.flush(shard).await } else { Ok(()) }
    }

    async fn flush(&mut self, shard: u16) -> Result<(), ImportError> {
        let batch = std::mem::take(&mut self.waiting[usize::from(shard)]);
        for answer in self.store.append(shard, batch).await {
            answer?;
        }
        Ok(())
    }

    /// Says who is to be woken, which streams have ended, and how far the matcher is; then takes the mark away.
    async fn finish(mut self) -> Result<(), ImportError> {
        for (id, tenant) in std::mem::take(&mut self.owners) {
            let shard = execute::shard_of(tenant, self.store.reader().shards());
            let stream = execute::deliveries_stream(id);
            let owed = self.streams.contains_key(&stream);
            let (ended, wakes) = match self.deleted.get(&id) {
                // Its secrets are still to be destroyed.
                Some(restorable) => (owed, *restorable),
                None => (false, owed),
            };
            if ended || wakes {
                let ended = ended.then_some(stream).into_iter().collect();
                let wakeups = wakes.then(|| (id.to_string(), Some(Timestamp::from_ms(0)))).into_iter().collect();
                self.wait(shard, Append { ended, wakeups, ..Append::default() }).await?;
            }
        }
        for (tenant, erasing) in std::mem::take(&mut self.erasing) {
            if !erasing.is_empty() {
                let shard = execute::shard_of(tenant, self.store.reader().shards());
                let wakeups = vec![(execute::erasure_wakeup(tenant), Some(Timestamp::from_ms(0)))];
                self.wait(shard, Append { wakeups, ..Append::default() }).await?;
            }
        }
        for shard in 0..self.store.reader().shards() {
            self.flush(shard).await?;
            let head = self.heads[usize::from(shard)];
            let stored = self.store.reader().head(shard).await?;
            if stored != head {
                return Err(self.wrong(format!("shard {shard} has {stored} events after {head} were stored")));
            }
            let seq = self.first_unmatched.get(&shard).map_or(head, |first| first - 1);
            self.store.save_checkpoint(MATCHER, Position { shard, seq }).await?;
        }
        Ok(self.store.forget_reader(UNFINISHED).await?)
    }
}
