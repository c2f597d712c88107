//! Whether the log is what it should be: every rule of the log that can be checked by reading, and every state folded
//! again and compared with what is stored of it.
//!
//! Asks only, and beside a running server: what moves is read before the heads are pinned (snapshots, checkpoints), so
//! that the log has caught up with it, or is looked at again before it is called a difference (periods, wake-ups).
//!
//! One pass in the order of the log. Memory grows with the number of streams and with what their subscriptions owe, not
//! with the number of events.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::fmt;

use serde::Serialize;

use super::ledger::{self, Books};
use super::vault::Binding;
use super::{Loaded, MATCHER, deliveries_stream, is_bucketed, subscription_of, subscription_stream};
use crate::codec;
use crate::domain::event::Event;
use crate::domain::id::SubscriptionId;
use crate::domain::ledger::Counts;
use crate::domain::time::Timestamp;
use crate::event_store::{EventReader, Position, ReadError, Recorded, StoredSnapshot, Wakeup};
use crate::key_store::KeyStore;

/// Rows read at a time.
const PAGE: usize = 1_000;
/// Differences that are told; behind them they are counted only.
const TOLD: usize = 100;

/// Something that is not as it should be.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Difference {
    /// What it is about: a position, a stream, a table's row.
    pub what: String,
    /// What was expected.
    pub expected: String,
    /// What was found.
    pub found: String,
}

impl fmt::Display for Difference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: expected {}, found {}", self.what, self.expected, self.found)
    }
}

/// What was looked at, and what was found wrong.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Report {
    /// Events read.
    pub events: u64,
    /// Streams folded.
    pub streams: u64,
    /// Deliveries that have not ended.
    pub open_deliveries: u64,
    /// Where every message stands that a subscription matched.
    pub ledger: Counts,
    /// Snapshots compared with the states that they stand for.
    pub snapshots: u64,
    /// Read models folded again and compared with those that stand.
    pub read_models: u64,
    /// How many differences there are.
    pub differences: u64,
    /// The first of them, in the order of their finding.
    pub first: Vec<Difference>,
}

impl Report {
    /// Adds one.
    pub fn differs(&mut self, what: impl Into<String>, expected: impl Into<String>, found: impl Into<String>) {
        self.differences += 1;
        if self.first.len() < TOLD {
            self.first.push(Difference { what: what.into(), expected: expected.into(), found: found.into() });
        }
    }
}

/// Checks the whole log, and that the secrets that sign are in the key store if there is one to look at; `progress` is
/// told how many events are read, of how many.
pub async fn verify(
    reader: &dyn EventReader,
    keys: Option<&dyn KeyStore>,
    mut progress: impl FnMut(u64, u64),
) -> Result<Report, ReadError> {
    let mut report = Report::default();
    let mut shards = Vec::new();
    for shard in 0..reader.shards() {
        shards.push(Shard::pin(reader, shard, &mut report).await?);
    }
    let total = shards.iter().map(|shard| shard.head).sum();
    for mut shard in shards {
        shard.pass(reader, &mut report, |done| progress(done, total)).await?;
        shard.look_at_periods(reader, &mut report).await?;
        shard.look_at_wakeups(reader, &mut report).await?;
        if let Some(keys) = keys {
            shard.look_at_secrets(reader, keys, &mut report).await?;
        }
        shard.balance(&mut report);
        shard.sum_up(&mut report);
    }
    Ok(report)
}

/// One shard, up to the head that was pinned.
struct Shard {
    shard: u16,
    head: u64,
    /// By the number up to which each holds everything.
    snapshots: BTreeMap<u64, Vec<StoredSnapshot>>,
    streams: HashMap<String, Seen>,
    subscriptions: HashMap<SubscriptionId, Loaded>,
    books: Books,
    /// How far the matcher had come before the head was pinned.
    matcher: u64,
    /// Streams that cannot be folded, since an event of theirs is damaged: named once.
    unreadable: HashSet<String>,
}

/// What was seen of a stream.
#[derive(Clone, Copy, Default)]
struct Seen {
    version: u64,
    /// Version of the newest event that opens a period; 0 while only what was before one was seen.
    opened: u64,
}

impl Shard {
    async fn pin(reader: &dyn EventReader, shard: u16, report: &mut Report) -> Result<Self, ReadError> {
        let mut snapshots: BTreeMap<u64, Vec<StoredSnapshot>> = BTreeMap::new();
        let mut after: Option<String> = None;
        loop {
            let page = reader.snapshots(shard, after.as_deref(), PAGE).await?;
            let Some(last) = page.last() else { break };
            after = Some(last.snapshot.key.clone());
            for stored in page {
                snapshots.entry(stored.position.seq).or_default().push(stored);
            }
        }
        let checkpoints = reader.checkpoints(shard).await?;
        let head = reader.head(shard).await?;
        let matcher = checkpoints.iter().find(|(name, _)| name == MATCHER).map_or(0, |(_, seq)| *seq);
        for (name, seq) in checkpoints {
            if seq > head {
                let found = Position { shard, seq };
                report.differs(
                    format!("checkpoint of reader '{name}'"),
                    format!("at most {shard}-{head}"),
                    found.to_string(),
                );
            }
        }
        if let Some((seq, _)) = snapshots.last_key_value().filter(|(seq, _)| **seq > head) {
            report.differs(
                format!("snapshots of shard {shard}"),
                format!("at most {shard}-{head}"),
                format!("{shard}-{seq}"),
            );
        }
        Ok(Self {
            shard,
            head,
            snapshots,
            streams: HashMap::new(),
            subscriptions: HashMap::new(),
            books: Books::new(usize::MAX),
            matcher: matcher.min(head),
            unreadable: HashSet::new(),
        })
    }

    async fn pass(
        &mut self,
        reader: &dyn EventReader,
        report: &mut Report,
        mut progress: impl FnMut(u64),
    ) -> Result<(), ReadError> {
        let mut after = Position { shard: self.shard, seq: 0 };
        while after.seq < self.head {
            let page = match reader.read_log(after, PAGE).await {
                Ok(page) => page,
                Err(ReadError::Damaged { position, stream, reason }) => {
                    self.up_to_damage(reader, after, position, report).await?;
                    let what = stream.as_deref().map(|stream| format!(" in stream '{stream}'")).unwrap_or_default();
                    report.differs(format!("event at {position}{what}"), "an event that can be read", reason);
                    self.unreadable.extend(stream);
                    after = position;
                    continue;
                }
                Err(error @ ReadError::Unavailable(_)) => return Err(error),
            };
            let Some(last) = page.last().map(|last| last.position) else {
                let missing = Position { seq: after.seq + 1, ..after };
                report.differs(
                    format!("event at {missing}"),
                    format!("the log up to {}-{}", self.shard, self.head),
                    "its end",
                );
                break;
            };
            self.page(reader, after, &page, report).await?;
            after = last;
            progress(report.events);
        }
        self.compare_snapshots(u64::MAX, report);
        Ok(())
    }

    /// What stands between here and a row that cannot be read.
    async fn up_to_damage(
        &mut self,
        reader: &dyn EventReader,
        mut after: Position,
        damaged: Position,
        report: &mut Report,
    ) -> Result<(), ReadError> {
        while after.seq + 1 < damaged.seq {
            let page = match reader.read_log(after, 1).await {
                Ok(page) => page,
                // Nothing but dropped events between the two.
                Err(ReadError::Damaged { .. }) => return Ok(()),
                Err(error @ ReadError::Unavailable(_)) => return Err(error),
            };
            let Some(last) = page.last().map(|last| last.position) else { return Ok(()) };
            self.page(reader, after, &page, report).await?;
            after = last;
        }
        Ok(())
    }

    async fn page(
        &mut self,
        reader: &dyn EventReader,
        after: Position,
        page: &[Recorded],
        report: &mut Report,
    ) -> Result<(), ReadError> {
        // Asked for after the events: it may have been raised meanwhile.
        let floor = reader.floor(self.shard).await?;
        let mut expected = after.seq + 1;
        let head = self.head;
        for recorded in page.iter().filter(|recorded| recorded.position.seq <= head) {
            let owed = expected.max(floor + 1);
            if recorded.position.seq > owed {
                let missing = Position { shard: self.shard, seq: owed };
                report.differs(format!("event at {missing}"), "an event", format!("none before {}", recorded.position));
            }
            expected = recorded.position.seq + 1;
            report.events += 1;
            self.compare_snapshots(recorded.position.seq - 1, report);
            self.event(recorded, floor, report);
        }
        Ok(())
    }

    fn event(&mut self, recorded: &Recorded, floor: u64, report: &mut Report) {
        let known = self.streams.get(&recorded.stream).copied();
        let seen = known.unwrap_or_default();
        // What is before the first event that is left was dropped, if anything was.
        let beginning = known.is_some() || floor == 0 || !is_bucketed(&recorded.stream);
        if beginning && recorded.version != seen.version + 1 {
            report.differs(
                format!("event at {}", recorded.position),
                format!("version {} of stream '{}'", seen.version + 1, recorded.stream),
                format!("version {}", recorded.version),
            );
        }
        let decoded = codec::decode(recorded);
        let opens = recorded.version == 1 || decoded.as_ref().is_ok_and(Event::opens_period);
        let opened = if opens { recorded.version } else { seen.opened };
        self.streams.insert(recorded.stream.clone(), Seen { version: recorded.version, opened });
        match decoded {
            Ok(event) => {
                if opened > 0 {
                    self.fold(recorded, &event);
                }
                for finding in self.books.enter(recorded, &event, floor) {
                    self.tell(finding, report);
                }
            }
            Err(error) => {
                if self.unreadable.insert(recorded.stream.clone()) {
                    let what = format!("event at {} in stream '{}'", recorded.position, recorded.stream);
                    report.differs(what, "an event that can be read", error.to_string());
                }
            }
        }
    }

    fn fold(&mut self, recorded: &Recorded, event: &Event) {
        let Some(id) = subscription_of(&recorded.stream) else { return };
        match event {
            Event::Subscription(_) | Event::Delivery(_) => {}
            Event::Tenant(_) | Event::Message(_) => return,
        }
        let loaded = self.subscriptions.entry(id).or_default();
        if let Event::Delivery(_) = event {
            // The versions before the first period that is left are not counted by folding.
            loaded.deliveries_version = recorded.version - 1;
        }
        loaded.recall_event(event, recorded);
    }

    /// Compares the snapshots that hold everything up to a number before this one with what has been folded.
    fn compare_snapshots(&mut self, through: u64, report: &mut Report) {
        while let Some(entry) = self.snapshots.first_entry().filter(|entry| *entry.key() <= through) {
            for stored in entry.remove() {
                let Ok(id) = stored.snapshot.key.parse::<SubscriptionId>() else {
                    report.differs(format!("snapshot '{}'", stored.snapshot.key), "a subscription's id", "another key");
                    continue;
                };
                let readable = [subscription_stream(id), deliveries_stream(id)];
                if readable.iter().any(|stream| self.unreadable.contains(stream)) {
                    continue;
                }
                let Some(made) = self.subscriptions.get(&id).and_then(|folded| folded.snapshot(id)) else {
                    report.differs(format!("snapshot '{id}'"), "none, since the log has no such subscription", "one");
                    continue;
                };
                // Of another program version: as good as none.
                if made.fingerprint != stored.snapshot.fingerprint {
                    continue;
                }
                report.snapshots += 1;
                if made.data != stored.snapshot.data {
                    let what = format!("snapshot '{id}' as of {}", stored.position);
                    report.differs(what, made.data, stored.snapshot.data);
                }
            }
        }
    }

    /// Each bucketed stream is to be read from its newest period on, unless it has ended or moved on.
    async fn look_at_periods(&self, reader: &dyn EventReader, report: &mut Report) -> Result<(), ReadError> {
        let bucketed =
            self.streams.iter().filter(|(stream, _)| is_bucketed(stream) && !self.unreadable.contains(*stream));
        let mut streams: Vec<_> = bucketed.collect();
        streams.sort_by_key(|(stream, _)| *stream);
        for (stream, seen) in streams {
            let ended = self.folded(stream).is_some_and(|loaded| loaded.state.settings().is_err());
            let period = reader.period(stream).await?.map(|period| period.first_version);
            let fits = match period {
                Some(first_version) => first_version == seen.opened || first_version > seen.version,
                // Deleted, before the head or behind it.
                None => {
                    ended
                        || reader.stream_version(stream).await? > seen.version
                        || self.has_moved(reader, stream).await?
                }
            };
            if !fits {
                let found = period.map_or("none".to_owned(), |version| format!("one from version {version}"));
                report.differs(
                    format!("period of stream '{stream}'"),
                    format!("one from version {}", seen.opened),
                    found,
                );
            }
        }
        Ok(())
    }

    fn folded(&self, stream: &str) -> Option<&Loaded> {
        self.subscriptions.get(&subscription_of(stream)?)
    }

    /// Whether something was appended to a subscription behind the head that was pinned.
    async fn has_moved(&self, reader: &dyn EventReader, stream: &str) -> Result<bool, ReadError> {
        let Some(id) = subscription_of(stream) else { return Ok(false) };
        for stream in [subscription_stream(id), deliveries_stream(id)] {
            let seen = self.streams.get(&stream).map_or(0, |seen| seen.version);
            if reader.stream_version(&stream).await? > seen {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// Whoever owes something, or has secrets to be destroyed, is woken no later than it is due.
    async fn look_at_wakeups(&self, reader: &dyn EventReader, report: &mut Report) -> Result<(), ReadError> {
        let mut wakeups: HashMap<String, Timestamp> = HashMap::new();
        let mut after: Option<Wakeup> = None;
        loop {
            let page = reader.wakeups(self.shard, after.as_ref(), PAGE).await?;
            let Some(last) = page.last() else { break };
            after = Some(last.clone());
            wakeups.extend(page.into_iter().map(|wakeup| (wakeup.key, wakeup.due_at)));
        }
        for (id, loaded) in &self.subscriptions {
            let Some(due_at) = loaded.state.next_due() else { continue };
            let wakeup = wakeups.get(&id.to_string());
            if wakeup.is_none_or(|wakeup| *wakeup > due_at)
                && !self.has_moved(reader, &subscription_stream(*id)).await?
            {
                report.differs(
                    format!("wake-up of subscription {id}"),
                    format!("one at or before {}", due_at.to_rfc3339_ms()),
                    wakeup.map_or("none".to_owned(), |wakeup| format!("one at {}", wakeup.to_rfc3339_ms())),
                );
            }
        }
        Ok(())
    }

    /// The secrets that sign, the custom headers and the addresses for notices are there; whether they open, only the key can say.
    async fn look_at_secrets(
        &self,
        reader: &dyn EventReader,
        keys: &dyn KeyStore,
        report: &mut Report,
    ) -> Result<(), ReadError> {
        for (id, loaded) in &self.subscriptions {
            let Ok(settings) = loaded.state.settings() else { continue };
            for (secret, binding) in Binding::in_use(settings) {
                if keys.get(binding.name()).await.map_err(|error| ReadError::Unavailable(error.to_string()))?.is_none()
                    && !self.has_moved(reader, &subscription_stream(*id)).await?
                {
                    report.differs(format!("secret {secret} of subscription {id}"), "a sealed secret", "none");
                }
            }
        }
        Ok(())
    }

    /// Nothing that matched is in no state, or in two.
    fn balance(&mut self, report: &mut Report) {
        for finding in self.books.close() {
            self.tell(finding, report);
        }
        let (counts, findings) = self.books.assess(self.matcher);
        report.ledger.add(&counts);
        for finding in findings {
            self.tell(finding, report);
        }
    }

    /// Who cannot be read is named already.
    fn tell(&self, (id, finding): ledger::Entry, report: &mut Report) {
        if [subscription_stream(id), deliveries_stream(id)].iter().any(|stream| self.unreadable.contains(stream)) {
            return;
        }
        let (what, expected, found) = ledger::describe(self.shard, id, finding);
        report.differs(what, expected, found);
    }

    fn sum_up(&self, report: &mut Report) {
        report.streams += self.streams.len() as u64;
        report.open_deliveries +=
            self.subscriptions.values().map(|loaded| loaded.state.open_count() as u64).sum::<u64>();
    }
}
