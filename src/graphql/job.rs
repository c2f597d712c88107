//! Jobs: many deliveries made at somebody's wish.

use async_graphql::{Context, Enum, ID, InputObject, Object, OneofObject, Result, SimpleObject};

use super::event_type;
use super::failure::{fault, internal};
use super::scalar::{DateTime, Long, int};
use super::snapshot::{budget, failed};
use super::state;
use super::webhook::Webhook;
use crate::actors::RunningJob;
use crate::domain::id::{SubscriptionId, TenantId};
use crate::domain::job::{Ended, JobOutcome, JobStarted, Selection, Source, Waiting};
use crate::domain::profile::{self, Redelivery};
use crate::domain::time::Timestamp;
use crate::error_code::ErrorCode;
use crate::event_store::Position;
use crate::execute::jobs::{self, RecordedJob};
use crate::projections::{JobCount, TenantScope};

/// What a count costs beside its fields: it may look at a hundred thousand deliveries.
pub(super) const COUNT_COST: usize = 500;
/// The most jobs that a webhook lists.
const MAX_JOBS: usize = 100;

/// How a delivery ended, as far as it can be made again.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Enum)]
#[graphql(remote = "Ended")]
pub(super) enum EndedDeliveryStatus {
    /// The schedule came to its end, or the message was gone.
    Failed,
    /// An attempt succeeded.
    Succeeded,
    /// It was not wanted any more.
    Cancelled,
}

/// Picks deliveries to one webhook; all conditions must hold.
#[derive(Clone, Debug, InputObject)]
pub(super) struct RedeliverySelection {
    /// Only deliveries created at this time or later; absent: from the oldest that is kept.
    pub(super) from: Option<DateTime>,
    /// Only deliveries created before this time; absent: up to now.
    pub(super) to: Option<DateTime>,
    /// Only deliveries that ended so. Some profiles allow none but failed ones.
    #[graphql(default_with = "vec![EndedDeliveryStatus::Failed]")]
    pub(super) statuses: Vec<EndedDeliveryStatus>,
    /// Only of event types that one of these picks, written as a webhook's `eventFilters`; empty: of all.
    #[graphql(default)]
    pub(super) event_filters: Vec<String>,
}

/// What a job makes deliveries of.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Enum)]
pub(super) enum WebhookJobKind {
    /// Deliveries that had ended, each made again.
    Redelivery,
    /// Messages that the webhook did not want when they were published, and wants now.
    Backfill,
}

/// How a job stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Enum)]
pub(super) enum WebhookJobState {
    /// It has not ended; `waitingFor` says whether something keeps it.
    Running,
    /// It has gone through everything. What it began may still be under way.
    Done,
    /// Somebody ended it, or deleted its webhook.
    Cancelled,
}

/// Why a job does nothing for now.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Enum)]
pub(super) enum WebhookJobWait {
    /// The webhook is disabled.
    WebhookDisabled,
    /// The webhook's circuit breaker has tripped.
    CircuitOpen,
    /// The webhook pauses (`holdUntil`), or its endpoint has asked for a pause.
    Held,
}

pub(super) struct WebhookJob {
    started: JobStarted,
    started_at: Timestamp,
    state: WebhookJobState,
    ended_at: Option<Timestamp>,
    scheduled: u64,
    passed_over: u64,
    waiting: Option<Waiting>,
}

/// Many deliveries made at somebody's wish, a few at a time. A webhook has one such job at a time.
#[Object]
impl WebhookJob {
    /// `job_…`
    async fn id(&self) -> ID {
        self.started.job.into()
    }

    /// What it makes deliveries of.
    async fn kind(&self) -> WebhookJobKind {
        match self.started.selection.source {
            Source::Redelivery(_) => WebhookJobKind::Redelivery,
            Source::Backfill => WebhookJobKind::Backfill,
        }
    }

    /// How it stands.
    async fn state(&self) -> WebhookJobState {
        self.state
    }

    /// Why it does nothing for now; null if nothing keeps it. It goes on by itself.
    async fn waiting_for(&self) -> Option<WebhookJobWait> {
        self.waiting.map(|waiting| match waiting {
            Waiting::Disabled => WebhookJobWait::WebhookDisabled,
            Waiting::Circuit => WebhookJobWait::CircuitOpen,
            Waiting::Held(_) => WebhookJobWait::Held,
        })
    }

    /// How many deliveries it begins in a second at most.
    async fn rate_per_second(&self) -> i32 {
        int(self.started.rate_per_s.into())
    }

    /// Which event types it picks; of a redelivery, empty means all. A backfill has the webhook's filters of its start.
    async fn event_filters(&self) -> Vec<&str> {
        self.started.selection.filters.iter().map(|filter| filter.as_str()).collect()
    }

    /// How many deliveries were picked when it started, those among them that can only be passed over; null if they were
    /// too many to be counted.
    async fn total(&self) -> Option<Long> {
        self.started.total.map(Long)
    }

    /// How many deliveries it has begun.
    async fn scheduled(&self) -> Long {
        Long(self.scheduled)
    }

    /// How many were picked and could not be begun: their message is gone, or was delivered since.
    async fn passed_over(&self) -> Long {
        Long(self.passed_over)
    }

    /// When it was started.
    async fn started_at(&self) -> DateTime {
        self.started_at.into()
    }

    /// When it ended; null if it has not.
    async fn ended_at(&self) -> Option<DateTime> {
        self.ended_at.map(DateTime)
    }
}

impl WebhookJob {
    pub(super) fn running(RunningJob { job, waiting }: RunningJob) -> Self {
        let state = WebhookJobState::Running;
        let (scheduled, passed_over) = (job.progress.scheduled, job.progress.passed_over);
        let (started, started_at) = (job.started, job.started_at);
        Self { started, started_at, state, ended_at: None, scheduled, passed_over, waiting }
    }

    /// One that has not ended has come as far as the webhook itself says.
    fn of(recorded: RecordedJob, running: Option<&RunningJob>) -> Self {
        let RecordedJob { started, started_at, ended } = recorded;
        match (ended, running) {
            (None, Some(running)) if running.job.started.job == started.job => Self::running(running.clone()),
            // Between the reading of the log and the question it has ended, or began.
            (None, _) => Self {
                started,
                started_at,
                state: WebhookJobState::Running,
                ended_at: None,
                scheduled: 0,
                passed_over: 0,
                waiting: None,
            },
            (Some((ended, at)), _) => Self {
                started,
                started_at,
                state: match ended.outcome {
                    JobOutcome::Done => WebhookJobState::Done,
                    JobOutcome::Cancelled => WebhookJobState::Cancelled,
                },
                ended_at: Some(at),
                scheduled: ended.scheduled,
                passed_over: ended.passed_over,
                waiting: None,
            },
        }
    }
}

/// The job that the webhook has now. The caller has checked the scope.
pub(super) async fn current(ctx: &Context<'_>, tenant: TenantId, id: SubscriptionId) -> Result<Option<WebhookJob>> {
    let running = state(ctx).engine.running_job(tenant, id).await.map_err(|error| internal(&error))?;
    Ok(running.map(WebhookJob::running))
}

/// The webhook's jobs, the newest first. The caller has checked the scope.
pub(super) async fn list(
    ctx: &Context<'_>,
    tenant: TenantId,
    id: SubscriptionId,
    first: i32,
) -> Result<Vec<WebhookJob>> {
    let Some(most) = usize::try_from(first).ok().filter(|most| (1..=MAX_JOBS).contains(most)) else {
        return Err(fault(ErrorCode::InvalidInput, format!("'first' is 1 to {MAX_JOBS}")));
    };
    let recorded = jobs::jobs(state(ctx).log.reader(), id, most, budget(ctx)).await.map_err(failed)?;
    let unended = recorded.iter().any(|job| job.ended.is_none());
    let running = match unended {
        true => state(ctx).engine.running_job(tenant, id).await.map_err(|error| internal(&error))?,
        false => None,
    };
    Ok(recorded.into_iter().map(|job| WebhookJob::of(job, running.as_ref())).collect())
}

/// Why deliveries are not made again.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Enum)]
pub(super) enum NotRedeliveredReason {
    /// They are still under way.
    Pending,
    /// Their message is not kept any more, or its data was erased.
    MessageGone,
    /// Their message was delivered to the webhook again since, or is about to be: the newest delivery of a message counts.
    RepeatedSince,
    /// The profile makes only failed deliveries again. `startRedelivery` is refused as long as others are picked.
    ProfileForbids,
}

/// Deliveries that would not be made again.
#[derive(SimpleObject)]
pub(super) struct NotRedelivered {
    /// Why.
    reason: NotRedeliveredReason,
    /// How many.
    count: Long,
}

pub(super) struct RedeliveryPreview(JobCount);

/// What `startRedelivery` would do. Nothing is stored.
#[Object]
impl RedeliveryPreview {
    /// How many deliveries would be made again.
    async fn count(&self) -> Long {
        Long(self.0.deliverable)
    }

    /// When the oldest of these was created; null if there is none.
    async fn oldest_created_at(&self) -> Option<DateTime> {
        self.0.oldest_at.map(DateTime)
    }

    /// When the newest of these was created; null if there is none.
    async fn newest_created_at(&self) -> Option<DateTime> {
        self.0.newest_at.map(DateTime)
    }

    /// How many would not, by reason; only reasons that there are.
    async fn refused(&self) -> Vec<NotRedelivered> {
        let JobCount { pending, gone, superseded, forbidden, .. } = self.0;
        [
            (NotRedeliveredReason::Pending, pending),
            (NotRedeliveredReason::MessageGone, gone),
            (NotRedeliveredReason::RepeatedSince, superseded),
            (NotRedeliveredReason::ProfileForbids, forbidden),
        ]
        .into_iter()
        .filter(|(_, count)| *count > 0)
        .map(|(reason, count)| NotRedelivered { reason, count: Long(count) })
        .collect()
    }

    /// Whether everything was counted; false if there is more than 100,000 deliveries in the range.
    async fn complete(&self) -> bool {
        self.0.complete
    }
}

impl RedeliveryPreview {
    /// What would be made again to the caller's webhook; `None` if there is no such webhook.
    pub(super) async fn of(
        ctx: &Context<'_>,
        scope: TenantScope,
        id: &str,
        selection: RedeliverySelection,
    ) -> Result<Option<Self>> {
        let Ok(id) = id.parse::<SubscriptionId>() else { return Ok(None) };
        let Some(Webhook(row)) = Webhook::read(ctx, scope, id).await? else { return Ok(None) };
        let filters = event_type::parse(&selection.event_filters)?;
        let range = state(ctx).engine.range(scope.0, selection.from.map(|at| at.0), selection.to.map(|at| at.0)).await;
        let (after, through) = range.map_err(|error| internal(&error))?;
        let selection = Selection { source: source(&selection.statuses), after, through, filters };
        count(ctx, scope, id, &selection, &row.profile).await.map(Self).map(Some)
    }
}

/// Counts what a job of that selection would do.
pub(super) async fn count(
    ctx: &Context<'_>,
    scope: TenantScope,
    id: SubscriptionId,
    selection: &Selection,
    profile: &str,
) -> Result<JobCount> {
    let shard = state(ctx).engine.head(scope.0).shard;
    super::mutation::readable(ctx, Some(Position { shard, seq: selection.through })).await;
    let only_failed = profile::find(profile).is_ok_and(|profile| profile.redelivery == Redelivery::Failed);
    let read_models = &state(ctx).read_models;
    match &selection.source {
        Source::Redelivery(ended) => {
            let counted = read_models.count_for_redelivery(scope, id, shard, selection, ended, only_failed).await;
            counted.map_err(|error| internal(&error))
        }
        Source::Backfill => {
            let counted = read_models.count_for_backfill(scope, id, shard, selection).await;
            counted.map_err(|error| internal(&error))
        }
    }
}

/// What a redelivery picks; nothing named means failed ones.
pub(super) fn source(statuses: &[EndedDeliveryStatus]) -> Source {
    let mut ended: Vec<Ended> = statuses.iter().copied().map(Ended::from).collect();
    ended.sort_unstable();
    ended.dedup();
    Source::Redelivery(if ended.is_empty() { vec![Ended::Failed] } else { ended })
}

/// From where on messages are backfilled.
#[derive(Clone, Debug, OneofObject)]
pub(super) enum BackfillFrom {
    /// What was published at this time or later.
    Time(DateTime),
    /// What was recorded behind this place in the log, as mutations return it.
    Position(String),
}

pub(super) struct BackfillPreview(JobCount);

/// What `startBackfill` would do. Nothing is stored.
#[Object]
impl BackfillPreview {
    /// How many messages would be delivered.
    async fn count(&self) -> Long {
        Long(self.0.deliverable)
    }

    /// When the oldest of these was published; null if there is none.
    async fn oldest_published_at(&self) -> Option<DateTime> {
        self.0.oldest_at.map(DateTime)
    }

    /// When the newest of these was published; null if there is none.
    async fn newest_published_at(&self) -> Option<DateTime> {
        self.0.newest_at.map(DateTime)
    }

    /// How many would not, since an earlier backfill delivered them.
    async fn backfilled_before(&self) -> Long {
        Long(self.0.superseded)
    }

    /// Whether everything was counted; false if more than 100,000 messages were published in the range.
    async fn complete(&self) -> bool {
        self.0.complete
    }
}

impl BackfillPreview {
    /// What would be delivered to the caller's webhook; `None` if there is no such webhook.
    pub(super) async fn of(
        ctx: &Context<'_>,
        scope: TenantScope,
        id: &str,
        from: &BackfillFrom,
        to: Option<DateTime>,
    ) -> Result<Option<Self>> {
        let Ok(id) = id.parse::<SubscriptionId>() else { return Ok(None) };
        let Some(Webhook(row)) = Webhook::read(ctx, scope, id).await? else { return Ok(None) };
        let place = from.place(ctx, scope).map_err(|wrong| fault(ErrorCode::InvalidInput, wrong))?;
        let (after, through) = backfill_range(ctx, scope, from, place, to).await?;
        let selection = Selection { source: Source::Backfill, after, through, filters: row.filters };
        count(ctx, scope, id, &selection, &row.profile).await.map(Self).map(Some)
    }
}

impl BackfillFrom {
    /// The place in the tenant's part of the log behind which it begins, if it is given by one; or what is wrong with it.
    pub(super) fn place(&self, ctx: &Context<'_>, scope: TenantScope) -> Result<Option<u64>, String> {
        let Self::Position(text) = self else { return Ok(None) };
        let shard = state(ctx).engine.head(scope.0).shard;
        let position = text.parse::<Position>().ok().filter(|position| position.shard == shard);
        let wrong = || format!("'{text}' is no position in the tenant's part of the log");
        Ok(Some(position.ok_or_else(wrong)?.seq))
    }
}

/// The part of the tenant's log that is meant, as the numbers before and at its end; `place` is that of `from`.
pub(super) async fn backfill_range(
    ctx: &Context<'_>,
    scope: TenantScope,
    from: &BackfillFrom,
    place: Option<u64>,
    to: Option<DateTime>,
) -> Result<(u64, u64)> {
    let engine = &state(ctx).engine;
    let time = match from {
        BackfillFrom::Time(time) => Some(time.0),
        BackfillFrom::Position(_) => None,
    };
    let (after, through) = engine.range(scope.0, time, to.map(|at| at.0)).await.map_err(|error| internal(&error))?;
    let after = place.map_or(after, |place| place.max(after));
    Ok((after, through.max(after)))
}
