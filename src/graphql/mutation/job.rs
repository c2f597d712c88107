//! Mutations of jobs, and of several deliveries made again.

use std::collections::HashMap;

use async_graphql::{Context, ID, InputObject, Object, Result, SimpleObject};
use futures_util::StreamExt;
use futures_util::stream;

use super::webhook::{addressed, filters};
use super::{payloads, readable, readable_behind};
use crate::actors::NewJob;
use crate::domain::id::{DeliveryId, JobId};
use crate::domain::job::{Selection, Source};
use crate::domain::scope::Scope;
use crate::domain::subscription::{Command, Redeliver};
use crate::event_store::Position;
use crate::graphql::caller::{authorise, caller};
use crate::graphql::delivery::Delivery;
use crate::graphql::failure::{Failure, UserError, UserErrorCode, internal, payload};
use crate::graphql::job::{BackfillFrom, COUNT_COST, EndedDeliveryStatus, WebhookJob, backfill_range, count, source};
use crate::graphql::page::items;
use crate::graphql::scalar::DateTime;
use crate::graphql::state;
use crate::graphql::webhook::Webhook;
use crate::projections::TenantScope;
use crate::projections::rows::{DeliveryRow, DeliveryStatus};

/// The most deliveries of one `redeliverDeliveries`.
const MAX_DELIVERIES: usize = 100;

/// Which deliveries to make again, and how fast.
#[derive(InputObject)]
struct StartRedeliveryInput {
    /// To which webhook.
    webhook_id: ID,
    /// Only deliveries created at this time or later; absent: from the oldest that is kept.
    from: Option<DateTime>,
    /// Only deliveries created before this time; absent: up to now.
    to: Option<DateTime>,
    /// Only deliveries that ended so. Some profiles allow none but failed ones: `NOT_REDELIVERABLE`.
    #[graphql(default_with = "vec![EndedDeliveryStatus::Failed]")]
    statuses: Vec<EndedDeliveryStatus>,
    /// Only of event types that one of these picks, written as a webhook's `eventFilters`; empty: of all.
    #[graphql(default)]
    event_filters: Vec<String>,
    /// How many deliveries it begins in a second at most, from 1 up to what the operator allows.
    #[graphql(default = 50)]
    rate_per_second: i32,
    /// Whether the job may be started although it has to wait: while the webhook's circuit breaker has tripped it is
    /// otherwise refused with `WEBHOOK_CIRCUIT_OPEN`, while the webhook is disabled with `NOT_REDELIVERABLE`.
    #[graphql(default)]
    queue: bool,
}

/// What came of `startRedelivery`.
#[derive(Default, SimpleObject)]
struct StartRedeliveryPayload {
    /// The job; null if none was started, or if it has ended already.
    job: Option<WebhookJob>,
    /// The job's id; null if none was started.
    job_id: Option<ID>,
    /// Place in the log of what was recorded.
    position: Option<String>,
    /// Why nothing was done; empty if it was.
    user_errors: Vec<UserError>,
}

/// Which messages to deliver that were not wanted before, and how fast.
#[derive(InputObject)]
struct StartBackfillInput {
    /// To which webhook: messages that its filters pick now.
    webhook_id: ID,
    /// From where on.
    from: BackfillFrom,
    /// Only messages published before this time; absent: up to now.
    to: Option<DateTime>,
    /// How many deliveries it begins in a second at most, from 1 up to what the operator allows.
    #[graphql(default = 50)]
    rate_per_second: i32,
    /// As for `startRedelivery`.
    #[graphql(default)]
    queue: bool,
}

/// What came of `startBackfill`.
#[derive(Default, SimpleObject)]
struct StartBackfillPayload {
    /// The job; null if none was started, or if it has ended already.
    job: Option<WebhookJob>,
    /// The job's id; null if none was started.
    job_id: Option<ID>,
    /// Place in the log of what was recorded.
    position: Option<String>,
    /// Why nothing was done; empty if it was.
    user_errors: Vec<UserError>,
}

/// Which job to end.
#[derive(InputObject)]
struct CancelJobInput {
    /// Of which webhook.
    webhook_id: ID,
    /// Which job.
    job_id: ID,
}

/// What came of `cancelJob`.
#[derive(Default, SimpleObject)]
struct CancelJobPayload {
    /// The webhook.
    webhook: Option<Webhook>,
    /// Place in the log of what was recorded.
    position: Option<String>,
    /// Why nothing was done; empty if it was.
    user_errors: Vec<UserError>,
}

/// Which deliveries to make again.
#[derive(InputObject)]
struct RedeliverDeliveriesInput {
    /// Deliveries that have ended, at most 100, of any of the tenant's webhooks. Each is made again or refused on its own.
    delivery_ids: Vec<ID>,
    /// Whether new deliveries may wait where a webhook's circuit breaker has tripped; otherwise they are refused with
    /// `WEBHOOK_CIRCUIT_OPEN`.
    #[graphql(default)]
    queue: bool,
}

/// What came of `redeliverDeliveries`.
#[derive(Default, SimpleObject)]
struct RedeliverDeliveriesPayload {
    /// What came of each delivery, in the order of the input.
    results: Vec<RedeliverDeliveriesResult>,
    /// Place in the log of the last that was recorded.
    position: Option<String>,
    /// Why nothing at all was done; empty if anything may have been.
    user_errors: Vec<UserError>,
}

/// What came of one of several deliveries.
#[derive(SimpleObject)]
struct RedeliverDeliveriesResult {
    /// The delivery that was named.
    delivery_id: ID,
    /// The new delivery; null if there is none.
    delivery: Option<Delivery>,
    /// Why it was not made again; empty if it was.
    user_errors: Vec<UserError>,
    /// Whether it was not made again for a reason that is not the caller's: ask for it again.
    retry: bool,
}

payloads!(StartRedeliveryPayload, StartBackfillPayload, CancelJobPayload, RedeliverDeliveriesPayload);

#[derive(Default)]
pub(super) struct JobMutation;

#[Object]
impl JobMutation {
    /// Makes ended deliveries of a webhook again, as many as a range and filters pick, a few at a time. Answers at once
    /// with the job that does it: see `Webhook.currentJob`. Needs the scope `DELIVERIES_REDELIVER`.
    #[graphql(complexity = "COUNT_COST + child_complexity")]
    async fn start_redelivery(
        &self,
        ctx: &Context<'_>,
        #[graphql(desc = "Which webhook, which of its deliveries, and how fast.")] input: StartRedeliveryInput,
    ) -> Option<Result<StartRedeliveryPayload>> {
        payload(start_redelivery(ctx, input)).await
    }

    /// Delivers messages to a webhook that its filters pick now and did not pick when they were published, or that were
    /// published before it was created or while it was disabled; a few at a time. Such deliveries have no `sequence`.
    /// Answers at once with the job that does it: see `Webhook.currentJob`. Needs the scope `DELIVERIES_REDELIVER`.
    #[graphql(complexity = "COUNT_COST + child_complexity")]
    async fn start_backfill(
        &self,
        ctx: &Context<'_>,
        #[graphql(desc = "Which webhook, which messages, and how fast.")] input: StartBackfillInput,
    ) -> Option<Result<StartBackfillPayload>> {
        payload(start_backfill(ctx, input)).await
    }

    /// Ends a webhook's job. What it has begun goes on. Needs the scope `DELIVERIES_REDELIVER`.
    async fn cancel_job(
        &self,
        ctx: &Context<'_>,
        #[graphql(desc = "Which job.")] input: CancelJobInput,
    ) -> Option<Result<CancelJobPayload>> {
        payload(cancel(ctx, input)).await
    }

    /// Makes ended deliveries again, each as a new delivery of the same message to the same webhook. Needs the scope
    /// `DELIVERIES_REDELIVER`.
    #[graphql(complexity = "items(MAX_DELIVERIES, child_complexity)")]
    async fn redeliver_deliveries(
        &self,
        ctx: &Context<'_>,
        #[graphql(desc = "Which deliveries.")] input: RedeliverDeliveriesInput,
    ) -> Option<Result<RedeliverDeliveriesPayload>> {
        payload(redeliver_all(ctx, input)).await
    }
}

async fn start_redelivery(ctx: &Context<'_>, input: StartRedeliveryInput) -> Result<StartRedeliveryPayload, Failure> {
    let (scope, id) = addressed(ctx, Scope::DeliveriesRedeliver, &input.webhook_id)?;
    let rate_per_s = rate(input.rate_per_second)?;
    let filters = filters(&input.event_filters)?;
    let engine = &state(ctx).engine;
    let settings = engine.settings(scope.0, id).await?;
    let (after, through) = engine.range(scope.0, input.from.map(|at| at.0), input.to.map(|at| at.0)).await?;
    let selection = Selection { source: source(&input.statuses), after, through, filters };
    let total = count(ctx, scope, id, &selection, &settings.profile).await?.total();
    let new = NewJob { selection, rate_per_s, total, queue: input.queue };
    let (job, done) = engine.start_job(scope.0, id, new, caller(ctx).meta()).await?;
    Ok(StartRedeliveryPayload {
        job: done.job.map(WebhookJob::running),
        job_id: Some(job.into()),
        position: done.position.map(|position| position.to_string()),
        user_errors: vec![],
    })
}

async fn start_backfill(ctx: &Context<'_>, input: StartBackfillInput) -> Result<StartBackfillPayload, Failure> {
    let (scope, id) = addressed(ctx, Scope::DeliveriesRedeliver, &input.webhook_id)?;
    let rate_per_s = rate(input.rate_per_second)?;
    let engine = &state(ctx).engine;
    let settings = engine.settings(scope.0, id).await?;
    let wrong = |why| UserError::new(UserErrorCode::InvalidInput, why, &["input", "from", "position"]);
    let place = input.from.place(ctx, scope).map_err(wrong)?;
    let (after, through) = backfill_range(ctx, scope, &input.from, place, input.to).await?;
    let selection = Selection { source: Source::Backfill, after, through, filters: settings.filters };
    let total = count(ctx, scope, id, &selection, &settings.profile).await?.total();
    let new = NewJob { selection, rate_per_s, total, queue: input.queue };
    let (job, done) = engine.start_job(scope.0, id, new, caller(ctx).meta()).await?;
    Ok(StartBackfillPayload {
        job: done.job.map(WebhookJob::running),
        job_id: Some(job.into()),
        position: done.position.map(|position| position.to_string()),
        user_errors: vec![],
    })
}

fn rate(per_second: i32) -> Result<u32, Failure> {
    let wrong = |_| UserError::new(UserErrorCode::InvalidInput, "a rate is at least 1", &["input", "ratePerSecond"]);
    Ok(u32::try_from(per_second).map_err(wrong)?)
}

async fn cancel(ctx: &Context<'_>, input: CancelJobInput) -> Result<CancelJobPayload, Failure> {
    let (scope, id) = addressed(ctx, Scope::DeliveriesRedeliver, &input.webhook_id)?;
    let missing = |_| UserError::new(UserErrorCode::NotFound, "there is no such job", &["input", "jobId"]);
    let job: JobId = input.job_id.parse().map_err(missing)?;
    let done = state(ctx).engine.cancel_job(scope.0, id, job, caller(ctx).meta()).await?;
    readable_behind(ctx, scope.0, &done).await;
    Ok(CancelJobPayload {
        webhook: Webhook::read(ctx, scope, id).await?,
        position: done.position.map(|position| position.to_string()),
        user_errors: vec![],
    })
}

async fn redeliver_all(
    ctx: &Context<'_>,
    input: RedeliverDeliveriesInput,
) -> Result<RedeliverDeliveriesPayload, Failure> {
    let scope = TenantScope(authorise(ctx, Scope::DeliveriesRedeliver)?.tenant);
    if input.delivery_ids.len() > MAX_DELIVERIES {
        let message = format!("at most {MAX_DELIVERIES} deliveries are allowed");
        return Err(UserError::new(UserErrorCode::LimitExceeded, message, &["input", "deliveryIds"]).into());
    }
    let ids: Vec<DeliveryId> = input.delivery_ids.iter().filter_map(|id| id.parse().ok()).collect();
    let read_models = &state(ctx).read_models;
    let rows = read_models.deliveries_by_ids(scope, &ids).await.map_err(|error| internal(&error))?;
    let rows: HashMap<DeliveryId, DeliveryRow> = rows.into_iter().map(|row| (row.id, row)).collect();
    let named = input.delivery_ids.into_iter().enumerate().map(|(index, id)| {
        let original = id.parse().ok().and_then(|id| rows.get(&id)).cloned();
        (index, id, original)
    });
    let named: Vec<(usize, ID, Option<DeliveryRow>)> = named.collect();
    // Handed over without waiting for each other, so that one commit takes many.
    let answers: Vec<_> = stream::iter(named)
        .map(|(index, id, original)| async move {
            let answer = redeliver_one(ctx, scope, original, input.queue, index).await;
            (id, answer)
        })
        .buffered(MAX_DELIVERIES)
        .collect()
        .await;
    let position = answers.iter().filter_map(|(_, answer)| answer.as_ref().ok()?.1).max();
    readable(ctx, position).await;
    let made: Vec<DeliveryId> = answers.iter().filter_map(|(_, answer)| Some(answer.as_ref().ok()?.0)).collect();
    let made = read_models.deliveries_by_ids(scope, &made).await.map_err(|error| internal(&error))?;
    let mut made: HashMap<DeliveryId, DeliveryRow> = made.into_iter().map(|row| (row.id, row)).collect();
    let results = answers.into_iter().map(|(id, answer)| {
        let (delivery, user_errors, retry) = match answer {
            Ok((delivery, _)) => (made.remove(&delivery).map(Delivery), vec![], false),
            Err(Failure::Refused(errors)) => (None, errors, false),
            Err(Failure::Failed(_)) => (None, vec![], true),
        };
        RedeliverDeliveriesResult { delivery_id: id, delivery, user_errors, retry }
    });
    Ok(RedeliverDeliveriesPayload {
        results: results.collect(),
        position: position.map(|position| position.to_string()),
        user_errors: vec![],
    })
}

async fn redeliver_one(
    ctx: &Context<'_>,
    scope: TenantScope,
    original: Option<DeliveryRow>,
    queue: bool,
    index: usize,
) -> Result<(DeliveryId, Option<Position>), Failure> {
    let path = ["input", "deliveryIds", &index.to_string()];
    let refused = |code, message: &str| Failure::from(UserError::new(code, message, &path));
    let original = original.ok_or_else(|| refused(UserErrorCode::NotFound, "there is no such delivery"))?;
    if original.status == DeliveryStatus::Pending {
        return Err(refused(
            UserErrorCode::NotRedeliverable,
            "the delivery has not ended: rescheduleDelivery makes its next attempt now",
        ));
    }
    let delivery = state(ctx).clock.delivery_id();
    let request = Redeliver {
        original: original.id,
        original_failed: original.status == DeliveryStatus::Failed,
        delivery,
        message: original.message,
        message_seq: original.message_seq,
        sequence: original.sequence,
        queue,
        room: true,
    };
    let command = Command::Redeliver(request);
    let done = state(ctx).engine.subscription(scope.0, original.subscription, command, caller(ctx).meta()).await?;
    Ok((delivery, done.position))
}
