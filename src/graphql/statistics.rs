//! Statistics of deliveries, and what they say of a webhook's health.

use async_graphql::{Context, Enum, Object, Result, SimpleObject};

use super::failure::internal;
use super::loader::{CountsOf, RecentOf, load};
use super::scalar::{DateTime, Long, int};
use super::state;
use crate::domain::circuit::CircuitState;
use crate::domain::id::SubscriptionId;
use crate::domain::time::Timestamp;
use crate::projections::rows::WebhookRow;
use crate::projections::{self, Latencies, Series, Step, Tally, TenantScope, Window};

/// What a window of statistics costs: some thousand rows are summed.
pub(super) const STATS_COST: usize = 50;

/// How far back statistics look. Steps begin at whole UTC times, so that the newest one is not over yet.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Enum)]
#[graphql(remote = "Window")]
pub(super) enum StatsWindow {
    /// 12 steps of five minutes.
    LastHour,
    /// 24 steps of an hour.
    #[graphql(name = "LAST_24H")]
    Last24Hours,
    /// 28 steps of six hours.
    #[graphql(name = "LAST_7D")]
    Last7Days,
    /// 30 steps of a day.
    #[graphql(name = "LAST_30D")]
    Last30Days,
}

pub(super) struct DeliveryStats {
    window: StatsWindow,
    series: Series,
    pending: u64,
}

/// What became of deliveries in a window of time: of those that are kept, see `docs/retention.md`. Tests do not count, nor
/// do attempts that our own process or its rules kept from being made.
#[Object]
impl DeliveryStats {
    /// The window.
    async fn window(&self) -> StatsWindow {
        self.window
    }

    /// Deliveries that succeeded in the window.
    async fn succeeded(&self) -> Long {
        Long(self.series.total.succeeded)
    }

    /// Deliveries that failed for good in the window: no further attempt is made.
    async fn failed(&self) -> Long {
        Long(self.series.total.failed)
    }

    /// Deliveries that have not ended, as of now, whenever they were scheduled.
    async fn pending(&self) -> Long {
        Long(self.pending)
    }

    /// Deliveries that succeeded, of all that succeeded or failed in the window: from 0 to 1; null if there are none.
    async fn success_rate(&self) -> Option<f64> {
        let Tally { succeeded, failed, .. } = self.series.total;
        let ended = succeeded + failed;
        (ended > 0).then(|| succeeded as f64 / ended as f64)
    }

    /// Attempts that began in the window and succeeded.
    async fn attempts_succeeded(&self) -> Long {
        Long(self.series.total.attempts_succeeded)
    }

    /// Attempts that began in the window and failed; most of them are followed by another one.
    async fn attempts_failed(&self) -> Long {
        Long(self.series.total.attempts_failed)
    }

    /// How long at most half of the attempts took that began in the window, failed ones among them: from the beginning to
    /// the end of the answer or the failure, in milliseconds, wrong by less than 1 %; null if there are none.
    #[graphql(name = "latencyMsP50")]
    async fn latency_ms_p50(&self) -> Option<i32> {
        percentile(&self.series.total.latencies, 50)
    }

    /// How long at most 95 of 100 attempts took, as `latencyMsP50`.
    #[graphql(name = "latencyMsP95")]
    async fn latency_ms_p95(&self) -> Option<i32> {
        percentile(&self.series.total.latencies, 95)
    }

    /// How long at most 99 of 100 attempts took, as `latencyMsP50`.
    #[graphql(name = "latencyMsP99")]
    async fn latency_ms_p99(&self) -> Option<i32> {
        percentile(&self.series.total.latencies, 99)
    }

    /// The steps of the window, the oldest first, those without anything among them.
    async fn series(&self) -> Vec<StatsBucket<'_>> {
        self.series.steps.iter().map(StatsBucket).collect()
    }
}

/// A step of a window.
pub(super) struct StatsBucket<'a>(&'a Step);

/// What became of deliveries in one step of a window. It ends where the next one begins, the last one with the window.
#[Object]
impl StatsBucket<'_> {
    /// When it begins.
    async fn starts_at(&self) -> DateTime {
        self.0.starts_at.into()
    }

    /// Deliveries that succeeded in it.
    async fn succeeded(&self) -> Long {
        Long(self.0.tally.succeeded)
    }

    /// Deliveries that failed for good in it.
    async fn failed(&self) -> Long {
        Long(self.0.tally.failed)
    }

    /// Attempts that began in it and failed.
    async fn attempts_failed(&self) -> Long {
        Long(self.0.tally.attempts_failed)
    }

    /// How long at most half of the attempts took that began in it, in milliseconds, wrong by less than 1 %; null if there
    /// are none.
    #[graphql(name = "latencyMsP50")]
    async fn latency_ms_p50(&self) -> Option<i32> {
        percentile(&self.0.tally.latencies, 50)
    }

    /// How long at most 95 of 100 attempts took, as `latencyMsP50`.
    #[graphql(name = "latencyMsP95")]
    async fn latency_ms_p95(&self) -> Option<i32> {
        percentile(&self.0.tally.latencies, 95)
    }

    /// How long at most 99 of 100 attempts took, as `latencyMsP50`.
    #[graphql(name = "latencyMsP99")]
    async fn latency_ms_p99(&self) -> Option<i32> {
        percentile(&self.0.tally.latencies, 99)
    }
}

fn percentile(latencies: &Latencies, of_hundred: u64) -> Option<i32> {
    latencies.percentile(of_hundred).map(int)
}

/// How many deliveries stand how, of those that are kept: see `docs/retention.md`.
#[derive(SimpleObject)]
pub(super) struct DeliveryCounts {
    /// Deliveries that have not ended.
    pending: Long,
    /// Deliveries that succeeded.
    succeeded: Long,
    /// Deliveries that failed for good.
    failed: Long,
    /// Deliveries that were called off.
    cancelled: Long,
}

impl From<projections::DeliveryCounts> for DeliveryCounts {
    fn from(counts: projections::DeliveryCounts) -> Self {
        let projections::DeliveryCounts { pending, succeeded, failed, cancelled } = counts;
        Self { pending: Long(pending), succeeded: Long(succeeded), failed: Long(failed), cancelled: Long(cancelled) }
    }
}

/// How well a webhook's deliveries go, in a word. Recent attempts are those of the newest hour with any and of the hour
/// before, whole UTC hours of the last 24.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Enum)]
pub(super) enum WebhookHealth {
    /// Nearly all recent attempts succeeded.
    Healthy,
    /// Of the recent attempts more than one in twenty failed.
    Degraded,
    /// The circuit breaker is not closed, or at least half of the recent attempts failed.
    Failing,
    /// It sends nothing since somebody wants it so: it is disabled, or pauses (`holdUntil`).
    Paused,
    /// There is no recent attempt.
    Unknown,
}

/// What became of the deliveries of the tenant, or of one of its webhooks, in the window. The caller has checked the
/// scope, and whose the webhook is.
pub(super) async fn statistics(
    ctx: &Context<'_>,
    scope: TenantScope,
    subscription: Option<SubscriptionId>,
    window: StatsWindow,
) -> Result<DeliveryStats> {
    let models = &state(ctx).read_models;
    let series = models.statistics(scope, subscription, window.into(), state(ctx).clock.now()).await;
    let series = series.map_err(|error| internal(&error))?;
    let pending = match subscription {
        Some(id) => load(ctx, CountsOf(id)).await?.unwrap_or_default().pending,
        None => models.delivery_counts(scope).await.map_err(|error| internal(&error))?.pending,
    };
    Ok(DeliveryStats { window, series, pending })
}

/// How the webhook's deliveries stand.
pub(super) async fn counts(ctx: &Context<'_>, id: SubscriptionId) -> Result<DeliveryCounts> {
    Ok(load(ctx, CountsOf(id)).await?.unwrap_or_default().into())
}

/// How well the webhook's deliveries go.
pub(super) async fn health(ctx: &Context<'_>, row: &WebhookRow) -> Result<WebhookHealth> {
    let now = state(ctx).clock.now();
    if is_paused(row, now) {
        return Ok(WebhookHealth::Paused);
    }
    if row.circuit.state() != CircuitState::Closed {
        return Ok(WebhookHealth::Failing);
    }
    Ok(load(ctx, RecentOf::at(row.id, now)).await?.map_or(WebhookHealth::Unknown, |tally| judged(&tally)))
}

fn is_paused(row: &WebhookRow, now: Timestamp) -> bool {
    !row.enabled || row.hold_until.is_some_and(|until| until > now)
}

fn judged(tally: &Tally) -> WebhookHealth {
    let Tally { attempts_succeeded, attempts_failed, .. } = tally;
    match attempts_succeeded + attempts_failed {
        0 => WebhookHealth::Unknown,
        all if attempts_failed * 2 >= all => WebhookHealth::Failing,
        all if attempts_failed * 20 > all => WebhookHealth::Degraded,
        _ => WebhookHealth::Healthy,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn health_is_judged_by_the_share_of_attempts_that_failed() {
        let of = |attempts_succeeded, attempts_failed| {
            judged(&Tally { attempts_succeeded, attempts_failed, ..Tally::default() })
        };
        assert_eq!(of(0, 0), WebhookHealth::Unknown);
        assert_eq!((of(1, 0), of(19, 1)), (WebhookHealth::Healthy, WebhookHealth::Healthy));
        assert_eq!((of(18, 1), of(3, 2)), (WebhookHealth::Degraded, WebhookHealth::Degraded));
        assert_eq!((of(1, 1), of(0, 1)), (WebhookHealth::Failing, WebhookHealth::Failing));
    }
}
