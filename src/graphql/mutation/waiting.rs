//! Mutations of deliveries that wait: at another time, or not at all.

use async_graphql::{Context, ID, InputObject, Object, Result, SimpleObject};

use super::webhook::check_reason;
use super::{payloads, readable, readable_behind};
use crate::domain::id::DeliveryId;
use crate::domain::scope::Scope;
use crate::domain::subscription::{Command, Reschedule};
use crate::graphql::caller::{authorise, caller};
use crate::graphql::delivery::Delivery;
use crate::graphql::failure::{Failure, UserError, UserErrorCode, internal, payload};
use crate::graphql::scalar::DateTime;
use crate::graphql::state;
use crate::projections::TenantScope;

/// Which delivery to move, and to when.
#[derive(InputObject)]
struct RescheduleDeliveryInput {
    /// A delivery that has not ended and has no attempt under way.
    delivery_id: ID,
    /// When its next attempt is due; absent, or passed: now. At most 30 days from now, and under a profile with a window
    /// not behind that.
    at: Option<DateTime>,
    /// Why, for the audit log; at most 200 characters.
    reason: Option<String>,
}

/// What came of `rescheduleDelivery`.
#[derive(Default, SimpleObject)]
struct RescheduleDeliveryPayload {
    /// The delivery.
    delivery: Option<Delivery>,
    /// Place in the log of what was recorded; null if it was due then already.
    position: Option<String>,
    /// Why nothing was done; empty if it was.
    user_errors: Vec<UserError>,
}

/// Which delivery to call off.
#[derive(InputObject)]
struct CancelDeliveryInput {
    /// A delivery that has not ended.
    delivery_id: ID,
    /// Why, for the audit log; at most 200 characters.
    reason: Option<String>,
}

/// What came of `cancelDelivery`.
#[derive(Default, SimpleObject)]
struct CancelDeliveryPayload {
    /// The delivery.
    delivery: Option<Delivery>,
    /// Place in the log of what was recorded.
    position: Option<String>,
    /// Why nothing was done; empty if it was.
    user_errors: Vec<UserError>,
}

payloads!(RescheduleDeliveryPayload, CancelDeliveryPayload);

#[derive(Default)]
pub(super) struct WaitingMutation;

#[Object]
impl WaitingMutation {
    /// Makes the next attempt of a delivery at another time; behind it the schedule goes on as before. It still waits for
    /// whatever keeps the whole webhook back. Needs the scope `DELIVERIES_REDELIVER`.
    async fn reschedule_delivery(
        &self,
        ctx: &Context<'_>,
        #[graphql(desc = "Which delivery, and when.")] input: RescheduleDeliveryInput,
    ) -> Option<Result<RescheduleDeliveryPayload>> {
        payload(reschedule(ctx, input)).await
    }

    /// Calls off a delivery that has not ended. An attempt under way may still reach the endpoint; how it ends counts no
    /// more. Needs the scope `DELIVERIES_REDELIVER`.
    async fn cancel_delivery(
        &self,
        ctx: &Context<'_>,
        #[graphql(desc = "Which delivery.")] input: CancelDeliveryInput,
    ) -> Option<Result<CancelDeliveryPayload>> {
        payload(cancel(ctx, input)).await
    }
}

async fn reschedule(ctx: &Context<'_>, input: RescheduleDeliveryInput) -> Result<RescheduleDeliveryPayload, Failure> {
    let at = state(ctx).clock.now();
    let due_at = input.at.map_or(at, |DateTime(due_at)| due_at);
    let reason = input.reason.clone();
    // The actor says whether an attempt is under way.
    let command = |delivery| Command::Reschedule(Reschedule { delivery, due_at, reason, under_way: false, at });
    let (delivery, position) = change(ctx, &input.delivery_id, input.reason.as_deref(), command).await?;
    Ok(RescheduleDeliveryPayload { delivery, position, user_errors: vec![] })
}

async fn cancel(ctx: &Context<'_>, input: CancelDeliveryInput) -> Result<CancelDeliveryPayload, Failure> {
    let reason = input.reason.clone();
    let command = |delivery| Command::Cancel { delivery, reason };
    let (delivery, position) = change(ctx, &input.delivery_id, input.reason.as_deref(), command).await?;
    Ok(CancelDeliveryPayload { delivery, position, user_errors: vec![] })
}

/// Asks the delivery's subscription, which alone knows whether it has ended, and reads the delivery back.
async fn change(
    ctx: &Context<'_>,
    id: &ID,
    reason: Option<&str>,
    command: impl FnOnce(DeliveryId) -> Command,
) -> Result<(Option<Delivery>, Option<String>), Failure> {
    let tenant = authorise(ctx, Scope::DeliveriesRedeliver)?.tenant;
    check_reason(reason)?;
    let missing = || UserError::new(UserErrorCode::NotFound, "there is no such delivery", &["input", "deliveryId"]);
    let id = id.parse::<DeliveryId>().map_err(|_| missing())?;
    let read_models = &state(ctx).read_models;
    let read = || async { read_models.delivery(TenantScope(tenant), id).await.map_err(|error| internal(&error)) };
    let mut known = read().await?;
    if known.is_none() {
        // `timers` show what no read model has yet.
        readable(ctx, Some(state(ctx).engine.head(tenant))).await;
        known = read().await?;
    }
    let subscription = known.ok_or_else(missing)?.subscription;
    let done = state(ctx).engine.subscription(tenant, subscription, command(id), caller(ctx).meta()).await?;
    readable_behind(ctx, tenant, &done).await;
    let row = read().await?;
    Ok((row.map(Delivery), done.position.map(|position| position.to_string())))
}
