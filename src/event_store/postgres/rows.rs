//! What a batch adds, column by column, and what it expects of the streams.

use std::collections::{BTreeMap, HashMap, HashSet};

use sqlx::Postgres;
use sqlx::postgres::PgArguments;
use sqlx::query::Query;

use crate::domain::time::Timestamp;
use crate::event_store::plan::{Plan, Verdict};
use crate::event_store::row::integer;
use crate::event_store::{Append, Bucket, NewEvent, Period, Snapshot, StreamWrite};

/// Columns of equal length for each table. A place is a distance from the head as the batch finds it.
#[derive(Default)]
pub(super) struct Rows<'a> {
    accepted: usize,
    pub(super) events: u64,
    pub(super) wanted_streams: Vec<&'a str>,
    pub(super) wanted_versions: Vec<i64>,
    pub(super) wanted_buckets: Vec<Option<i64>>,
    pub(super) named_buckets: Vec<i64>,
    pub(super) kept: Events<'a>,
    pub(super) bucketed: Events<'a>,
    pub(super) event_buckets: Vec<i64>,
    pub(super) content_places: Vec<i64>,
    pub(super) contents: Vec<&'a [u8]>,
    pub(super) content_buckets: Vec<Option<i64>>,
    pub(super) claim_keys: Vec<&'a str>,
    pub(super) claim_values: Vec<&'a str>,
    pub(super) claim_times: Vec<Option<i64>>,
    pub(super) claim_buckets: Vec<Option<i64>>,
    pub(super) wakeup_keys: Vec<&'a str>,
    pub(super) wakeup_times: Vec<i64>,
    pub(super) removed_wakeups: Vec<&'a str>,
    pub(super) buckets: Vec<i64>,
    pub(super) bucket_places: Vec<i64>,
    pub(super) bucket_events: Vec<i64>,
    pub(super) period_streams: Vec<&'a str>,
    pub(super) period_buckets: Vec<i64>,
    pub(super) period_versions: Vec<i64>,
    /// Whether the stream begins with this batch: then it must have no period yet, in any shard.
    pub(super) period_is_first: Vec<bool>,
    pub(super) ended: Vec<&'a str>,
    pub(super) snapshot_keys: Vec<&'a str>,
    pub(super) snapshot_places: Vec<i64>,
    pub(super) snapshot_fingerprints: Vec<&'a str>,
    pub(super) snapshots: Vec<&'a str>,
    pub(super) erased: Vec<i64>,
}

/// The columns of the events that go to one of the two tables.
#[derive(Default)]
pub(super) struct Events<'a> {
    places: Vec<i64>,
    streams: Vec<&'a str>,
    versions: Vec<i64>,
    kinds: Vec<&'a str>,
    schemas: Vec<i32>,
    ids: Vec<[u8; 16]>,
    times: Vec<i64>,
    data: Vec<&'a str>,
    meta: Vec<Option<&'a str>>,
}

/// The last word on each key: what was set and changed within the batch is written once.
#[derive(Default)]
struct LastWords<'a> {
    begun: HashSet<&'a str>,
    streams: HashSet<&'a str>,
    wakeups: HashMap<&'a str, Option<Timestamp>>,
    periods: HashMap<&'a str, Option<Period>>,
    snapshots: HashMap<&'a str, (u64, &'a Snapshot)>,
    /// The place of the last event, and how many there are.
    buckets: BTreeMap<Bucket, (u64, u64)>,
}

impl<'a> Rows<'a> {
    pub(super) fn collect(batch: &'a [Append], plan: &Plan) -> Self {
        let mut rows = Self::default();
        let mut last = LastWords::default();
        for (append, verdict) in batch.iter().zip(&plan.verdicts) {
            match verdict {
                Verdict::Write(_) => rows.add(append, &mut last),
                Verdict::Repeated(_) | Verdict::Refuse(_) => {}
            }
        }
        rows.add_last_words(last);
        rows
    }

    /// Whether no append is written at all.
    pub(super) fn is_empty(&self) -> bool {
        self.accepted == 0
    }

    fn add(&mut self, append: &'a Append, last: &mut LastWords<'a>) {
        self.accepted += 1;
        for write in &append.writes {
            if last.streams.insert(&write.stream) {
                self.wanted_streams.push(&write.stream);
                self.wanted_versions.push(integer(write.first_version));
                self.wanted_buckets.push(write.lifetime.bucket().map(number_of));
                if write.first_version == 1 {
                    last.begun.insert(&write.stream);
                }
            }
            last.periods.extend(write.period().map(|period| (write.stream.as_str(), Some(period))));
            self.add_events(write, last);
        }
        last.periods.extend(append.ended.iter().map(|stream| (stream.as_str(), None)));
        last.wakeups.extend(append.wakeups.iter().map(|(key, due_at)| (key.as_str(), *due_at)));
        self.erased.extend(append.erased.iter().copied().map(integer));
        let place = self.events;
        last.snapshots.extend(append.snapshots.iter().map(|snapshot| (snapshot.key.as_str(), (place, snapshot))));
        let at = append.writes.iter().flat_map(|write| &write.events).map(|event| event.at.as_ms()).max();
        for claim in &append.claims {
            self.claim_keys.push(&claim.key);
            self.claim_values.push(&claim.value);
            self.claim_times.push(at);
            self.claim_buckets.push(claim.bucket.map(number_of));
            self.named_buckets.extend(claim.bucket.map(number_of));
        }
    }

    fn add_events(&mut self, write: &'a StreamWrite, last: &mut LastWords<'a>) {
        let bucket = write.lifetime.bucket();
        for (version, event) in (write.first_version..).zip(&write.events) {
            self.events += 1;
            match bucket {
                None => self.kept.push(self.events, write, version, event),
                Some(bucket) => {
                    self.bucketed.push(self.events, write, version, event);
                    self.event_buckets.push(number_of(bucket));
                    let (place, count) = last.buckets.entry(bucket).or_default();
                    (*place, *count) = (self.events, *count + 1);
                }
            }
            if let Some(content) = &event.content {
                self.content_places.push(integer(self.events));
                self.contents.push(content);
                self.content_buckets.push(bucket.map(number_of));
            }
        }
    }

    fn add_last_words(&mut self, last: LastWords<'a>) {
        for (key, due_at) in last.wakeups {
            match due_at {
                Some(due_at) => {
                    self.wakeup_keys.push(key);
                    self.wakeup_times.push(due_at.as_ms());
                }
                None => self.removed_wakeups.push(key),
            }
        }
        for (stream, period) in last.periods {
            match period {
                Some(period) => {
                    self.period_streams.push(stream);
                    self.period_buckets.push(number_of(period.bucket));
                    self.period_versions.push(integer(period.first_version));
                    self.period_is_first.push(last.begun.contains(stream));
                }
                None => self.ended.push(stream),
            }
        }
        for (key, (place, snapshot)) in last.snapshots {
            self.snapshot_keys.push(key);
            self.snapshot_places.push(integer(place));
            self.snapshot_fingerprints.push(&snapshot.fingerprint);
            self.snapshots.push(&snapshot.data);
        }
        for (bucket, (place, events)) in last.buckets {
            self.buckets.push(number_of(bucket));
            self.bucket_places.push(integer(place));
            self.bucket_events.push(integer(events));
        }
        self.named_buckets.extend(&self.buckets);
        self.named_buckets.sort_unstable();
        self.named_buckets.dedup();
    }
}

impl<'a> Events<'a> {
    fn push(&mut self, place: u64, write: &'a StreamWrite, version: u64, event: &'a NewEvent) {
        self.places.push(integer(place));
        self.streams.push(&write.stream);
        self.versions.push(integer(version));
        self.kinds.push(&event.kind);
        self.schemas.push(i32::from(event.schema));
        self.ids.push(event.id.to_bits().to_be_bytes());
        self.times.push(event.at.as_ms());
        self.data.push(&event.data);
        self.meta.push(event.meta.as_deref());
    }

    /// In the order in which the statement takes them.
    pub(super) fn bind<'q>(&'q self, query: Query<'q, Postgres, PgArguments>) -> Query<'q, Postgres, PgArguments> {
        query
            .bind(&self.places)
            .bind(&self.streams)
            .bind(&self.versions)
            .bind(&self.kinds)
            .bind(&self.schemas)
            .bind(&self.ids)
            .bind(&self.times)
            .bind(&self.data)
            .bind(&self.meta)
    }
}

fn number_of(bucket: Bucket) -> i64 {
    i64::from(bucket.0)
}
