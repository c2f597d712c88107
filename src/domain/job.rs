//! Jobs: many deliveries of one subscription, made at somebody's wish and a few at a time.
//!
//! A job goes through a part of the log, whose ends are numbers of the shard's log and are fixed when it starts. How far
//! it has come is a number too, its cursor, which is recorded in the same append as the deliveries that it has led to.

use serde::{Deserialize, Serialize};

use super::filter::{EventType, Filter, matches_any};
use super::id::JobId;
use super::time::Timestamp;

/// Deliveries that a job begins in a second, unless somebody says otherwise.
pub const DEFAULT_RATE_PER_S: u32 = 50;
/// A job takes so many steps in a second at most; each is an append.
const STEPS_PER_S: u32 = 4;
/// The most deliveries of one step.
const MAX_STEP: u32 = 100;

/// What a job makes deliveries of.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum Source {
    /// Deliveries that ended so; each is made again.
    Redelivery(Vec<Ended>),
    /// Messages that the subscription was never owed, since it did not want them when they were published.
    Backfill,
}

/// How a delivery ended. The words are stored in events.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Ended {
    /// Its last attempt failed, or its message was gone.
    Failed,
    /// An attempt succeeded.
    Succeeded,
    /// Somebody did not want it any more.
    Cancelled,
}

/// What a job picks.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Selection {
    /// Of what.
    pub source: Source,
    /// Only what stands behind this number of the shard's log: a message, or the event that scheduled a delivery.
    pub after: u64,
    /// Only what stands at this number or before it.
    pub through: u64,
    /// Only messages of types that one of these matches. A redelivery without any takes all types; a backfill has those
    /// that the subscription had when it started.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub filters: Vec<Filter>,
}

impl Selection {
    /// Whether messages of that type are wanted.
    pub fn wants(&self, event_type: &EventType) -> bool {
        let all = matches!(self.source, Source::Redelivery(_)) && self.filters.is_empty();
        all || matches_any(&self.filters, event_type)
    }
}

/// Somebody started a job.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct JobStarted {
    /// Its id.
    pub job: JobId,
    /// What it picks.
    pub selection: Selection,
    /// Deliveries that it begins in a second at most.
    pub rate_per_s: u32,
    /// How many were picked when it was counted; absent if there were too many to be counted.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub total: Option<u64>,
}

/// A job has come to its end, or was ended.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct JobEnded {
    /// Which.
    pub job: JobId,
    /// How.
    pub outcome: JobOutcome,
    /// Deliveries that it has begun.
    pub scheduled: u64,
    /// What was picked and could not be begun.
    pub passed_over: u64,
}

/// How a job ends. The words are stored in events.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum JobOutcome {
    /// It has gone through everything.
    Done,
    /// Somebody ended it, or deleted the subscription.
    Cancelled,
}

/// How far a job has come. What it led to stands in the same append.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct JobProgress {
    /// Which.
    pub job: JobId,
    /// It has gone through everything up to this number of the shard's log.
    pub cursor: u64,
    /// Deliveries that it has begun so far.
    pub scheduled: u64,
    /// What was picked so far and could not be begun.
    pub passed_over: u64,
    /// It does nothing before this.
    pub next_at: Timestamp,
}

/// A job that has not ended.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Job {
    /// How it was started.
    pub started: JobStarted,
    /// When.
    pub started_at: Timestamp,
    /// How far it has come.
    pub progress: JobProgress,
}

/// Why a job does nothing for now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Waiting {
    /// The subscription is disabled.
    Disabled,
    /// The subscription's circuit is open.
    Circuit,
    /// The subscription pauses, or its endpoint wants a pause, until then.
    Held(Timestamp),
}

impl Job {
    /// A job that was just started.
    pub fn new(started: JobStarted, at: Timestamp) -> Self {
        let (job, cursor) = (started.job, started.selection.after);
        let progress = JobProgress { job, cursor, scheduled: 0, passed_over: 0, next_at: at };
        Self { started, started_at: at, progress }
    }

    /// The most deliveries of its next step.
    pub fn step(&self) -> usize {
        self.started.rate_per_s.div_ceil(STEPS_PER_S).clamp(1, MAX_STEP) as usize
    }

    /// When the step may follow that comes after one of so many deliveries.
    pub fn after_step(&self, at: Timestamp, scheduled: u64) -> Timestamp {
        at.plus_ms((scheduled * 1_000).div_ceil(u64::from(self.started.rate_per_s.max(1))))
    }
}
