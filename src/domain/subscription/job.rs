//! A subscription's job: one at a time, a step at a time, and never the same step twice.
//!
//! - A step says from which cursor it begins. One that begins elsewhere is refused: it was taken before a crash, or twice.
//! - The cursor and what the step has scheduled are decided together, and so recorded together.
//! - While the subscription may not send, the job waits. While its endpoint is only coming back, it begins no more than
//!   may be sent at a time, together with what is owed anyhow: perhaps nothing else is there to show that all is well.

use super::{Refusal, Subscription, SubscriptionEvent};
use crate::domain::event::{DeliveryBackfilled, DeliveryEvent, DeliveryScheduled, Event};
use crate::domain::id::{DeliveryId, JobId, MessageId};
use crate::domain::job::{Ended, Job, JobEnded, JobOutcome, JobProgress, JobStarted, Source, Waiting};
use crate::domain::profile::{self, Redelivery};
use crate::domain::time::Timestamp;

/// A request to start a job, with what the caller has counted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StartJob {
    /// The job.
    pub started: JobStarted,
    /// Whether it may be started although it has to wait.
    pub queue: bool,
    /// The highest rate that the operator allows.
    pub max_rate_per_s: u32,
}

/// What was found for a job's next step.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Step {
    /// Of which job.
    pub job: JobId,
    /// The cursor from which was looked.
    pub from: u64,
    /// The cursor up to which everything was found.
    pub to: u64,
    /// What is to be delivered.
    pub found: Vec<Candidate>,
    /// What was picked and cannot be delivered.
    pub passed_over: u64,
    /// Whether that was all.
    pub last: bool,
    /// Now.
    pub at: Timestamp,
}

/// A delivery that a job makes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Candidate {
    /// The ended one that it repeats; `None`: the message was never owed.
    pub original: Option<DeliveryId>,
    /// Its id.
    pub delivery: DeliveryId,
    /// The message.
    pub message: MessageId,
    /// Its number in the shard's log.
    pub message_seq: u64,
    /// Its place among all that the subscription has matched.
    pub sequence: Option<u64>,
}

pub(super) fn start(state: &Subscription, request: StartJob) -> Result<Vec<Event>, Refusal> {
    let StartJob { mut started, queue, max_rate_per_s } = request;
    let settings = state.settings()?;
    let profile = profile::find(&settings.profile)?;
    if let Some(running) = &state.job {
        return Err(Refusal::JobRunning(running.started.job));
    }
    if !settings.enabled && !queue {
        return Err(Refusal::Disabled);
    }
    if state.circuit.is_open() && !queue {
        return Err(Refusal::CircuitOpen);
    }
    if !(1..=max_rate_per_s).contains(&started.rate_per_s) {
        return Err(Refusal::JobRateOutOfRange { max_per_s: max_rate_per_s });
    }
    if started.selection.source == Source::Backfill {
        started.selection.filters.clone_from(&settings.filters);
    }
    match (&started.selection.source, profile.redelivery) {
        (Source::Redelivery(ended), Redelivery::Failed) if ended.iter().any(|ended| *ended != Ended::Failed) => {
            return Err(Refusal::OnlyFailed(profile.name.clone()));
        }
        (Source::Redelivery(_), Redelivery::Failed | Redelivery::Any) | (Source::Backfill, _) => {}
    }
    Ok(vec![Event::Subscription(SubscriptionEvent::JobStarted(started))])
}

pub(super) fn cancel(state: &Subscription, job: JobId) -> Result<Vec<Event>, Refusal> {
    state.settings()?;
    let job = state.job.as_ref().filter(|running| running.started.job == job).ok_or(Refusal::NoSuchJob(job))?;
    Ok(vec![ended(&job.progress, JobOutcome::Cancelled)])
}

/// The end of the job that runs, if one does, together with the subscription's.
pub(super) fn end_with_subscription(state: &Subscription) -> Option<Event> {
    state.job.as_ref().map(|job| ended(&job.progress, JobOutcome::Cancelled))
}

pub(super) fn advance(state: &Subscription, step: Step) -> Result<Vec<Event>, Refusal> {
    let revision = state.settings()?.revision;
    let Step { job, from, to, found, mut passed_over, last, at } = step;
    let running = state.job.as_ref().filter(|running| running.started.job == job).ok_or(Refusal::NoSuchJob(job))?;
    if running.progress.cursor != from {
        return Err(Refusal::JobMoved { cursor: running.progress.cursor });
    }
    if state.job_waits(at).is_some() {
        return Err(Refusal::JobWaits);
    }
    let mut events = Vec::with_capacity(found.len() + 1);
    for Candidate { original, delivery, message, message_seq, sequence } in found {
        // Somebody has asked for it meanwhile, and it is under way.
        let under_way = match original {
            Some(original) => state.deliveries.open.contains_key(&original),
            None => state.deliveries.open.values().any(|open| open.message == message),
        };
        if under_way {
            passed_over += 1;
            continue;
        }
        events.push(Event::Delivery(match original {
            Some(_) => DeliveryEvent::Scheduled(DeliveryScheduled {
                delivery,
                message,
                message_seq,
                revision,
                sequence,
                redelivery_of: original,
            }),
            None => DeliveryEvent::Backfilled(DeliveryBackfilled { delivery, message, message_seq, revision, job }),
        }));
    }
    let scheduled = events.len() as u64;
    let progress = JobProgress {
        job,
        cursor: to,
        scheduled: running.progress.scheduled + scheduled,
        passed_over: running.progress.passed_over + passed_over,
        next_at: running.after_step(at, scheduled),
    };
    events.push(match last {
        true => ended(&progress, JobOutcome::Done),
        false => Event::Delivery(DeliveryEvent::JobAdvanced(progress)),
    });
    Ok(events)
}

fn ended(progress: &JobProgress, outcome: JobOutcome) -> Event {
    let JobProgress { job, scheduled, passed_over, .. } = *progress;
    Event::Subscription(SubscriptionEvent::JobEnded(JobEnded { job, outcome, scheduled, passed_over }))
}

impl Subscription {
    /// Why its job does nothing at `now`; `None` if nothing keeps it, or there is no job.
    pub fn job_waits(&self, now: Timestamp) -> Option<Waiting> {
        self.job.as_ref()?;
        if !self.settings().is_ok_and(|settings| settings.enabled) {
            return Some(Waiting::Disabled);
        }
        if self.circuit.is_open() {
            return Some(Waiting::Circuit);
        }
        self.held_until().filter(|until| now < *until).map(Waiting::Held)
    }

    /// When its job is to take its next step; `None` if there is no job, or nobody knows.
    pub fn job_due(&self) -> Option<Timestamp> {
        let next_at = self.job.as_ref()?.progress.next_at;
        match self.job_waits(next_at) {
            Some(Waiting::Disabled | Waiting::Circuit) => None,
            Some(Waiting::Held(until)) => Some(until),
            None => Some(next_at),
        }
    }

    /// The most deliveries that its job may begin at `now`, if no more than `most_due` shall be due at a time and
    /// `most_open` open: what is owed anyhow goes first.
    pub fn job_room(&self, now: Timestamp, most_due: usize, most_open: usize) -> usize {
        let Some(job) = self.job.as_ref().filter(|_| self.job_due().is_some_and(|due_at| due_at <= now)) else {
            return 0;
        };
        let due = self.deliveries.agenda.iter().take_while(|(due_at, _)| *due_at <= now).take(most_due).count();
        let most_open = self.circuit.allowance().concurrent.map_or(most_open, |most| most_open.min(most as usize));
        let room = (most_due - due).min(most_open.saturating_sub(self.open_count()));
        room.min(job.step())
    }

    pub(super) fn evolve_job(&mut self, progress: Option<JobProgress>) {
        if let (Some(job), Some(progress)) = (&mut self.job, progress)
            && job.started.job == progress.job
        {
            job.progress = progress;
        }
    }

    pub(super) fn start_job(&mut self, started: &JobStarted, at: Timestamp) {
        self.job = Some(Box::new(Job::new(started.clone(), at)));
    }
}
