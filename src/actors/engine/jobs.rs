//! What may be asked of jobs.

use super::{Done, Engine, EngineError};
use crate::domain::id::{JobId, SubscriptionId, TenantId};
use crate::domain::job::{Job, JobStarted, Selection, Waiting};
use crate::domain::subscription::{Command, StartJob};
use crate::domain::time::Timestamp;
use crate::execute::{self, Meta};

/// A job as the subscription's actor has it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RunningJob {
    /// The job.
    pub job: Job,
    /// Why it does nothing for now; `None` if nothing keeps it.
    pub waiting: Option<Waiting>,
}

/// What a caller says of a new job.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NewJob {
    /// What it picks.
    pub selection: Selection,
    /// Deliveries that it begins in a second at most.
    pub rate_per_s: u32,
    /// How many the caller has counted; `None` if there were too many.
    pub total: Option<u64>,
    /// Whether it may be started although it has to wait.
    pub queue: bool,
}

impl Engine {
    /// Starts a job of a subscription.
    pub async fn start_job(
        &self,
        tenant: TenantId,
        id: SubscriptionId,
        new: NewJob,
        meta: Meta,
    ) -> Result<(JobId, Done), EngineError> {
        let job = self.context.clock.job_id();
        let NewJob { selection, rate_per_s, total, queue } = new;
        let started = JobStarted { job, selection, rate_per_s, total };
        let max_rate_per_s = self.context.config.max_job_rate_per_s;
        let command = Command::StartJob(StartJob { started, queue, max_rate_per_s });
        Ok((job, self.subscription(tenant, id, command, meta).await?))
    }

    /// Ends a job of a subscription. What it has begun goes on.
    pub async fn cancel_job(
        &self,
        tenant: TenantId,
        id: SubscriptionId,
        job: JobId,
        meta: Meta,
    ) -> Result<Done, EngineError> {
        self.subscription(tenant, id, Command::CancelJob(job), meta).await
    }

    /// The job that a subscription has now, as its actor has it.
    pub async fn running_job(&self, tenant: TenantId, id: SubscriptionId) -> Result<Option<RunningJob>, EngineError> {
        Ok(self.ask_subscription(tenant, id, None, Meta::system()).await?.job)
    }

    /// The part of the tenant's log that was recorded between two times, the first included, as the numbers before and
    /// at its end: from the oldest that is kept, and up to now, where a time is `None`.
    pub async fn range(
        &self,
        tenant: TenantId,
        from: Option<Timestamp>,
        to: Option<Timestamp>,
    ) -> Result<(u64, u64), EngineError> {
        let log = &self.context.log;
        let shard = self.context.shard_of(tenant);
        let after = match from {
            Some(from) => execute::end_before(log.reader(), shard, from).await?.seq,
            None => log.floor(shard),
        };
        let through = match to {
            Some(to) => execute::end_before(log.reader(), shard, to).await?.seq,
            None => log.head(shard),
        };
        Ok((after, through.max(after)))
    }
}
