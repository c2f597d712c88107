//! Jobs of subscriptions: finds what their next steps deliver.
//!
//! The subscription's actor says when a step is due and takes it; this looks for what it consists of, outside of the
//! actor, and reports. Whatever is lost here is looked for again: a step counts when the actor has recorded it.

use std::sync::Arc;

use async_trait::async_trait;

use super::Context;
use super::region::Regions;
use super::subscription::SubscriptionMessage;
use crate::domain::id::{DeliveryId, JobId, MessageId, SubscriptionId, TenantId};
use crate::domain::job::Selection;
use crate::domain::subscription::{Candidate, Step};

/// Steps that are looked for at one time in this process: reading for jobs shall not keep queries waiting.
pub(super) const LOOKS_AT_A_TIME: usize = 2;

/// Knows what jobs can be made of. The read models do.
#[async_trait]
pub trait Candidates: Send + Sync {
    /// The first deliveries behind the cursor that the job is to make, in the order of the log.
    async fn find(&self, wanted: &Wanted) -> Result<Found, Unavailable>;
}

/// It cannot be said for now what a job is to make.
#[derive(Debug, thiserror::Error)]
#[error("candidates of a job cannot be found: {0}")]
pub struct Unavailable(pub String);

/// What a job's next step is looked for by.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Wanted {
    /// Whose job.
    pub tenant: TenantId,
    /// Of which subscription.
    pub subscription: SubscriptionId,
    /// Where everything of the tenant stands.
    pub shard: u16,
    /// What the job picks.
    pub selection: Selection,
    /// Only what stands behind this number of the shard's log.
    pub cursor: u64,
    /// So many at most, at least one.
    pub most: usize,
}

/// A part of what a job picks.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Found {
    /// What is to be delivered.
    pub deliveries: Vec<Pick>,
    /// What was picked and cannot be delivered.
    pub passed_over: u64,
    /// Everything up to this number of the shard's log was looked at.
    pub cursor: u64,
    /// Whether that was all.
    pub last: bool,
}

/// A delivery that a job is to make.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Pick {
    /// The ended one that it repeats; `None`: the message was never owed.
    pub original: Option<DeliveryId>,
    /// The message.
    pub message: MessageId,
    /// Its number in the shard's log.
    pub message_seq: u64,
    /// Its place among all that the subscription has matched.
    pub sequence: Option<u64>,
}

/// Looks for the next step of a job, and tells its subscription.
pub(super) fn look(context: Arc<Context>, candidates: Arc<dyn Candidates>, regions: Regions, job: JobId, of: Wanted) {
    tokio::spawn(async move {
        let mut report = Report { regions, subscription: of.subscription, step: None };
        let Ok(_turn) = context.job_looks.acquire().await else { return };
        match candidates.find(&of).await {
            Ok(found) => report.step = Some(step(&context, job, of.cursor, found)),
            Err(error) => tracing::warn!(subscription.id = %of.subscription, %job, "the job waits: {error}"),
        }
    });
}

fn step(context: &Context, job: JobId, from: u64, found: Found) -> Step {
    let candidate = |pick: Pick| {
        let Pick { original, message, message_seq, sequence } = pick;
        Candidate { original, delivery: context.clock.delivery_id(), message, message_seq, sequence }
    };
    Step {
        job,
        from,
        to: found.cursor,
        found: found.deliveries.into_iter().map(candidate).collect(),
        passed_over: found.passed_over,
        last: found.last,
        at: context.clock.now(),
    }
}

/// Tells the region what was found when dropped, which a panic does too.
struct Report {
    regions: Regions,
    subscription: SubscriptionId,
    step: Option<Step>,
}

impl Drop for Report {
    fn drop(&mut self) {
        let step = self.step.take().map(Box::new);
        self.regions.send(self.subscription, SubscriptionMessage::JobStep(step));
    }
}
