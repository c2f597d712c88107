//! Why a message was delivered to a webhook, or was not.

use async_graphql::{Context, Enum, Result, SimpleObject};

use super::caller::own_tenant;
use super::delivery::Delivery;
use super::failure::internal;
use super::page::MAX_PAGE;
use super::scalar::int;
use super::snapshot::{budget, failed};
use super::state;
use crate::domain::event::ReenableMode;
use crate::domain::filter::{self, EventType};
use crate::domain::id::{MessageId, SubscriptionId};
use crate::domain::scope::Scope;
use crate::domain::subscription::{Backlog, Passage, Version};
use crate::domain::time::Timestamp;
use crate::execute::history;
use crate::projections::rows::{DeliveryRow, DeliveryStatus};
use crate::projections::{DeliveryFilter, Page, TenantScope};

/// What became of a message at a webhook.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Enum)]
pub(super) enum DeliveryVerdict {
    /// An attempt of a delivery or of a repetition succeeded.
    Delivered,
    /// It is owed: the next attempt is due at its time, or the delivery is about to be scheduled.
    Pending,
    /// It is owed, and waits since the webhook's circuit breaker is open.
    WaitingForCircuit,
    /// It is owed, and waits since the webhook pauses (`holdWebhook`).
    Paused,
    /// The last attempt failed.
    Failed,
    /// The delivery was ended without success, by re-enabling the circuit breaker or by deleting the webhook.
    Cancelled,
    /// The message, or its data, was kept no longer when an attempt was due.
    Expired,
    /// It waited for the circuit breaker and was passed over when somebody enabled the webhook again.
    Skipped,
    /// No filter that the webhook had when the message was published picks the message's event type.
    FilterMismatch,
    /// The webhook was disabled when the message was published.
    WebhookDisabled,
    /// The webhook was created after the message was published.
    WebhookNotCreatedYet,
    /// The webhook was deleted before the message was published, or before a delivery of it was scheduled.
    WebhookDeleted,
}

/// Why a message was delivered to a webhook, or was not, from recorded facts.
#[derive(SimpleObject)]
pub(super) struct DeliveryExplanation {
    /// What became of it.
    verdict: DeliveryVerdict,
    /// Why, for people. One sentence, which may change.
    reason: String,
    /// The webhook's version that held when the message was published; null if the webhook was created later.
    webhook_version: Option<i32>,
    /// The webhook's filters of that version; null if the webhook was created later.
    event_filters: Option<Vec<String>>,
    /// The deliveries of the message to the webhook, repetitions among them, the newest first, at most 100. Empty if none
    /// was ever scheduled.
    deliveries: Vec<Delivery>,
}

impl DeliveryExplanation {
    /// What became of the caller's message at the caller's webhook; `None` if there is no such message or webhook.
    pub(super) async fn of(ctx: &Context<'_>, message: &str, webhook: &str) -> Result<Option<Self>> {
        let scope = own_tenant(ctx, Scope::DeliveriesRead)?;
        let (Ok(message), Ok(webhook)) = (message.parse::<MessageId>(), webhook.parse::<SubscriptionId>()) else {
            return Ok(None);
        };
        let read_models = &state(ctx).read_models;
        let row = read_models.message(scope, message).await.map_err(|error| internal(&error))?;
        let Some(message) = row else { return Ok(None) };
        // Before the log: what is scheduled meanwhile is told as free to go, and never as something that went wrong.
        let (deliveries, delivered) = deliveries(ctx, scope, message.id, webhook).await?;
        let found = history::backlog(state(ctx).log.reader(), scope.0, webhook, message.position, budget(ctx)).await;
        let Some((then, backlog)) = found.map_err(failed)? else { return Ok(None) };
        let (verdict, reason) = if delivered {
            (DeliveryVerdict::Delivered, "an attempt succeeded".into())
        } else if let Some(newest) = deliveries.first() {
            of_delivery(newest, &backlog, state(ctx).clock.now())
        } else {
            of_none(then.as_ref(), &message.event_type, &backlog)
        };
        Ok(Some(Self {
            verdict,
            reason,
            webhook_version: then.as_ref().map(|version| int(version.number)),
            event_filters: then.map(|version| version.settings.filters.iter().map(ToString::to_string).collect()),
            deliveries: deliveries.into_iter().map(Delivery).collect(),
        }))
    }
}

/// The newest deliveries of the message to the subscription, and whether any of all succeeded.
async fn deliveries(
    ctx: &Context<'_>,
    scope: TenantScope,
    message: MessageId,
    subscription: SubscriptionId,
) -> Result<(Vec<DeliveryRow>, bool)> {
    let read_models = &state(ctx).read_models;
    let all = DeliveryFilter { subscription: Some(subscription), message: Some(message), ..DeliveryFilter::default() };
    let succeeded = DeliveryFilter { statuses: vec![DeliveryStatus::Succeeded], ..all.clone() };
    let newest = read_models.deliveries(scope, &all, &Page::first(MAX_PAGE)).await;
    let newest = newest.map_err(|error| internal(&error))?.rows;
    let succeeded = read_models.deliveries(scope, &succeeded, &Page::first(1)).await;
    let succeeded = succeeded.map_err(|error| internal(&error))?.rows;
    Ok((newest.into_iter().map(|(_, row)| row).collect(), !succeeded.is_empty()))
}

/// Of a delivery that was scheduled.
fn of_delivery(delivery: &DeliveryRow, backlog: &Backlog, now: Timestamp) -> (DeliveryVerdict, String) {
    match delivery.status {
        DeliveryStatus::Succeeded => (DeliveryVerdict::Delivered, "an attempt succeeded".into()),
        DeliveryStatus::Failed if delivery.expiry.is_some() => (
            DeliveryVerdict::Expired,
            "the message, or its data, was kept no longer when the next attempt was due".into(),
        ),
        DeliveryStatus::Failed => {
            (DeliveryVerdict::Failed, format!("none of {} attempts succeeded, and no more follow", delivery.attempts))
        }
        DeliveryStatus::Cancelled => (
            DeliveryVerdict::Cancelled,
            match backlog.ended_by_deletion_at() {
                Some(at) if delivery.completed_at == Some(at) => format!("the webhook was deleted at {}", text(at)),
                Some(_) | None => "it was not to be sent any more when the circuit breaker was enabled again".into(),
            },
        ),
        DeliveryStatus::Pending => of_pending(delivery, backlog, now),
    }
}

/// Of a delivery that has not ended, as far as the read model knows.
fn of_pending(delivery: &DeliveryRow, backlog: &Backlog, now: Timestamp) -> (DeliveryVerdict, String) {
    if let Some(since) = backlog.open_since {
        return (DeliveryVerdict::WaitingForCircuit, format!("the circuit breaker is open since {}", text(since)));
    }
    if let Some(at) = backlog.deleted_at {
        return (DeliveryVerdict::Cancelled, format!("the webhook was deleted at {}", text(at)));
    }
    if !backlog.enabled {
        return (DeliveryVerdict::Pending, "it is held until the webhook is enabled again".into());
    }
    if let Some(until) = backlog.hold_until.filter(|until| now < *until) {
        return (DeliveryVerdict::Paused, format!("the webhook pauses until {}", text(until)));
    }
    let reason = match delivery.next_attempt_at {
        Some(_) if delivery.attempts == 0 && backlog.ordered => {
            "its first attempt comes when all older messages have had their turn".into()
        }
        Some(at) if delivery.attempts == 0 => format!("the first attempt is due since {}", text(at)),
        Some(at) if delivery.attempts == 1 => format!("1 attempt failed, and the next is due at {}", text(at)),
        Some(at) => format!("{} attempts failed, and the next is due at {}", delivery.attempts, text(at)),
        None => "an attempt is under way".into(),
    };
    (DeliveryVerdict::Pending, reason)
}

/// Of a message of which no delivery was scheduled.
fn of_none(then: Option<&Version>, event_type: &EventType, backlog: &Backlog) -> (DeliveryVerdict, String) {
    let Some(then) = then else {
        let reason = "the webhook was created after the message was published".into();
        return (DeliveryVerdict::WebhookNotCreatedYet, reason);
    };
    if then.deleted {
        return (DeliveryVerdict::WebhookDeleted, "the webhook was deleted before the message was published".into());
    }
    if !then.settings.enabled {
        return (DeliveryVerdict::WebhookDisabled, "the webhook was disabled when the message was published".into());
    }
    if !filter::matches_any(&then.settings.filters, event_type) {
        let reason = format!("no filter of version {} picks '{event_type}'", then.number);
        return (DeliveryVerdict::FilterMismatch, reason);
    }
    match (backlog.passage, backlog.deleted_at) {
        (Passage::Skipped { at, mode }, _) => {
            let mode = match mode {
                ReenableMode::Drain => "DRAIN",
                ReenableMode::SkipBefore => "SKIP_BEFORE",
                ReenableMode::Discard => "DISCARD",
            };
            let reason = format!(
                "it waited, and was passed over when the webhook was enabled again with {mode} at {}",
                text(at)
            );
            (DeliveryVerdict::Skipped, reason)
        }
        (Passage::Lost { at }, _) => {
            let reason = format!("it waited longer than messages are kept, as was found at {}", text(at));
            (DeliveryVerdict::Expired, reason)
        }
        (Passage::Deleted { at }, _) | (Passage::Waiting { .. } | Passage::Free, Some(at)) => {
            let reason = format!("the webhook was deleted at {}, before a delivery was scheduled", text(at));
            (DeliveryVerdict::WebhookDeleted, reason)
        }
        (Passage::Waiting { since }, None) => {
            let reason = format!("the circuit breaker is open since {}", text(since));
            (DeliveryVerdict::WaitingForCircuit, reason)
        }
        (Passage::Free, None) => (DeliveryVerdict::Pending, "its delivery is about to be scheduled".into()),
    }
}

fn text(at: Timestamp) -> String {
    at.to_rfc3339_ms()
}
