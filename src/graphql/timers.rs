//! What of a webhook waits, until when and why: asked of the subscription itself, not of a read model.

use async_graphql::{ComplexObject, Context, Enum, ID, Result, SimpleObject};

use super::caller::authorise;
use super::delivery::AttemptOutcome;
use super::failure::{fault, internal, nullable};
use super::page::{Connection, List, PageArgs, cost};
use super::scalar::DateTime;
use super::state;
use crate::actors::EngineError;
use crate::domain::id::{DeliveryId, SubscriptionId, TenantId};
use crate::domain::retry_policy;
use crate::domain::scope::Scope;
use crate::domain::subscription::{self, Timer, Timers};
use crate::domain::time::Timestamp;
use crate::error_code::ErrorCode;
use crate::projections::rows::WebhookRow;
use crate::projections::{Key, Slice};

/// For what a delivery waits: of several reasons the one that holds longest.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Enum)]
#[graphql(remote = "subscription::Wait")]
pub(super) enum DeliveryWait {
    /// For the end of the attempt under way.
    UnderWay,
    /// For its first attempt, which somebody has moved.
    FirstAttempt,
    /// For the next attempt behind one that failed.
    Retry,
    /// For the end of the pause that `holdWebhook` made.
    Held,
    /// For the end of a pause that the endpoint asked for (`Retry-After`), or needs.
    EndpointHold,
    /// For the circuit breaker, which is open.
    CircuitOpen,
    /// For the end of the delivery before it: the webhook is `ordered`.
    Ordered,
    /// For its turn as the probe, which finds out whether the endpoint is well again.
    Probe,
    /// For its turn while the endpoint recovers, which is sent little at a time.
    Ramp,
    /// For a permit: it is due, and limits of attempts and rates decide whose turn it is.
    Permit,
    /// For the webhook to be enabled.
    Disabled,
}

/// A delivery that waits.
#[derive(SimpleObject)]
pub(super) struct DeliveryTimer {
    /// The delivery.
    delivery_id: ID,
    /// Its message.
    message_id: ID,
    /// For what it waits.
    wait: DeliveryWait,
    /// When its next attempt is due by its schedule, or by `rescheduleDelivery`.
    due_at: DateTime,
    /// When its next attempt begins at the earliest; null where nobody knows yet.
    not_before: Option<DateTime>,
    /// The number of that attempt, or of the one under way, from 1.
    next_attempt: u32,
    /// How many attempts its schedule has in all.
    max_attempts: u32,
    /// How the newest attempt failed; null before the first.
    last_outcome: Option<AttemptOutcome>,
    /// Its HTTP status; null if there was no answer.
    last_status_code: Option<i32>,
}

/// What of a webhook waits, as of now.
#[derive(SimpleObject)]
#[graphql(complex)]
pub(super) struct WebhookTimers {
    /// How many deliveries have not ended. What matched while the circuit breaker is open is not among them.
    pending: u32,
    /// Until when `holdWebhook` keeps everything back; null if it does not.
    hold_until: Option<DateTime>,
    /// Until when the endpoint wants to be left alone; null if it does not.
    endpoint_hold_until: Option<DateTime>,
    /// When the circuit breaker, which is open, lets a probe through by itself; null if it does not.
    probe_at: Option<DateTime>,
    #[graphql(skip)]
    tenant: TenantId,
    #[graphql(skip)]
    webhook: SubscriptionId,
    /// How many attempts its schedule has in all.
    #[graphql(skip)]
    max_attempts: u32,
}

#[ComplexObject]
impl WebhookTimers {
    /// The deliveries, by the times at which they are due.
    #[graphql(complexity = "cost(first, None, child_complexity)")]
    async fn deliveries(
        &self,
        ctx: &Context<'_>,
        #[graphql(desc = "How many deliveries, 1 to 100; 20 if it is not given.")] first: Option<i32>,
        #[graphql(desc = "Only what follows this cursor.")] after: Option<String>,
    ) -> Option<Result<Connection<DeliveryTimer>>> {
        nullable(async {
            let list = List::new(Some(self.tenant), "timers", &[("webhook", Some(self.webhook.to_string()))]);
            let page = PageArgs { first, after, ..PageArgs::default() }.of(&list)?;
            let place = page.after.as_ref().map(place).transpose()?;
            let found = asked(ctx, self.tenant, self.webhook, place, page.limit).await?;
            Ok(found.map(|Timers { waiting, more, .. }| {
                let key = |timer: &Timer| Key(timer.open.due_at.as_ms(), timer.delivery.to_string());
                let rows = waiting.into_iter().map(|timer| (key(&timer), timer)).collect();
                Connection::new(&list, &page, Slice::new(rows, more), |timer| shown(&timer, self.max_attempts))
            }))
        })
        .await
    }
}

/// The timers of the webhook; `None` if it is gone.
pub(super) async fn find(ctx: &Context<'_>, row: &WebhookRow) -> Result<Option<WebhookTimers>> {
    authorise(ctx, Scope::DeliveriesRead)?;
    let (tenant, webhook) = (row.tenant, row.id);
    let rules = retry_policy::rules(&row.profile, row.retry_policy.as_ref());
    let found = asked(ctx, tenant, webhook, None, 0).await?;
    let Some(Timers { pending, hold_until, endpoint_hold_until, probe_at, .. }) = found else { return Ok(None) };
    Ok(Some(WebhookTimers {
        pending: pending.try_into().unwrap_or(u32::MAX),
        hold_until: hold_until.map(DateTime),
        endpoint_hold_until: endpoint_hold_until.map(DateTime),
        probe_at: probe_at.map(DateTime),
        tenant,
        webhook,
        max_attempts: rules.map_or(0, |rules| rules.max_attempts()),
    }))
}

/// How many hard failures in a row count towards the next trip of the webhook's circuit; `None` if it is gone.
pub(super) async fn consecutive_failures(ctx: &Context<'_>, row: &WebhookRow) -> Result<Option<u32>> {
    let found = asked(ctx, row.tenant, row.id, None, 0).await?;
    Ok(found.map(|timers| timers.consecutive_failures))
}

/// What the subscription says itself, with so many deliveries behind the place; `None` if it is gone.
async fn asked(
    ctx: &Context<'_>,
    tenant: TenantId,
    webhook: SubscriptionId,
    after: Option<(Timestamp, DeliveryId)>,
    limit: usize,
) -> Result<Option<Timers>> {
    match state(ctx).engine.timers(tenant, webhook, after, limit).await {
        Ok(timers) => Ok(Some(timers)),
        Err(EngineError::Subscription(_)) => Ok(None),
        Err(EngineError::Overloaded | EngineError::Unknown(_)) => {
            Err(fault(ErrorCode::Overloaded, "too much is under way; try again"))
        }
        Err(error) => Err(internal(&error)),
    }
}

fn place(Key(due_at, delivery): &Key) -> Result<(Timestamp, DeliveryId)> {
    let delivery = delivery.parse().map_err(|_| fault(ErrorCode::InvalidCursor, "the cursor is damaged"))?;
    Ok((Timestamp::from_ms(*due_at), delivery))
}

fn shown(Timer { delivery, open, wait, not_before }: &Timer, max_attempts: u32) -> DeliveryTimer {
    DeliveryTimer {
        delivery_id: (*delivery).into(),
        message_id: open.message.into(),
        wait: (*wait).into(),
        due_at: open.due_at.into(),
        not_before: not_before.map(DateTime),
        next_attempt: open.attempts() + 1,
        max_attempts,
        last_outcome: open.last_failure.map(|last| last.code.into()),
        last_status_code: open.last_failure.and_then(|last| last.status).map(i32::from),
    }
}
