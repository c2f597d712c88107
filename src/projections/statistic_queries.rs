//! Statistics, asked for.

use std::collections::{BTreeMap, HashMap};

use super::columns::{Columns, Id, bytes, id_list};
use super::delivery_queries::status_number;
use super::latency::Latencies;
use super::rows::DeliveryStatus;
use super::statistics::{ATTEMPTS_FAILED, ATTEMPTS_SUCCEEDED, COARSE_S, DAY_S, EVER, FINE_S, LATENCIES, start};
use super::{QueryError, ReadModels, TenantScope};
use crate::domain::id::SubscriptionId;
use crate::domain::time::Timestamp;

/// How far back statistics look.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Window {
    /// Twelve steps of five minutes.
    LastHour,
    /// 24 steps of an hour.
    Last24Hours,
    /// 28 steps of six hours.
    Last7Days,
    /// 30 steps of a day.
    Last30Days,
}

impl Window {
    /// How many seconds a row stands for, how many a step, and how many steps there are.
    fn shape(self) -> (i64, i64, i64) {
        match self {
            Self::LastHour => (FINE_S, FINE_S, 12),
            Self::Last24Hours => (COARSE_S, COARSE_S, 24),
            Self::Last7Days => (COARSE_S, 6 * COARSE_S, 28),
            Self::Last30Days => (DAY_S, DAY_S, 30),
        }
    }
}

/// What happened in a stretch of time.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Tally {
    /// Deliveries that succeeded.
    pub succeeded: u64,
    /// Deliveries that failed for good.
    pub failed: u64,
    /// Attempts that succeeded.
    pub attempts_succeeded: u64,
    /// Attempts that failed.
    pub attempts_failed: u64,
    /// How long the attempts took.
    pub latencies: Latencies,
}

impl Tally {
    fn add(&mut self, measure: i64, count: u64) {
        match measure {
            _ if measure == status_number(DeliveryStatus::Succeeded) => self.succeeded += count,
            _ if measure == status_number(DeliveryStatus::Failed) => self.failed += count,
            ATTEMPTS_SUCCEEDED => self.attempts_succeeded += count,
            ATTEMPTS_FAILED => self.attempts_failed += count,
            _ => self.latencies.add(measure - LATENCIES, count),
        }
    }
}

/// A stretch of a window.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Step {
    /// When it begins; it ends where the next one begins.
    pub starts_at: Timestamp,
    /// What happened in it.
    pub tally: Tally,
}

/// What happened in a window, step by step.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Series {
    /// In the whole window.
    pub total: Tally,
    /// The steps, the oldest first; those of whole UTC hours or days, so that the last one is not over.
    pub steps: Vec<Step>,
}

/// How many deliveries stand how, of those that are kept.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct DeliveryCounts {
    /// Not ended.
    pub pending: u64,
    /// Succeeded.
    pub succeeded: u64,
    /// Failed for good.
    pub failed: u64,
    /// Called off.
    pub cancelled: u64,
}

// Summed by step: a step of six hours is made of six rows for each measure.
pub(super) const SERIES: &str = "SELECT (start_ms - $3) / $5, measure, sum(count) FROM statistic \
     WHERE subject = $1 AND grain = $2 AND start_ms >= $3 AND start_ms < $4 GROUP BY 1, 2";

pub(super) const COUNTS: &str = "SELECT subject, measure, count FROM statistic \
     WHERE subject IN (SELECT unhex(value) FROM json_each($1)) AND grain = $2 AND start_ms = 0";

pub(super) const RECENT: &str = "SELECT subject, start_ms, measure, count FROM statistic \
     WHERE subject IN (SELECT unhex(value) FROM json_each($1)) AND grain = $2 AND start_ms >= $3 AND measure < $4";

impl ReadModels {
    /// What happened in the window to the deliveries of a tenant, or of one of its subscriptions. The caller has checked whose
    /// it is.
    pub async fn statistics(
        &self,
        scope: TenantScope,
        subscription: Option<SubscriptionId>,
        window: Window,
        now: Timestamp,
    ) -> Result<Series, QueryError> {
        let (grain, step, count) = window.shape();
        let subject = subscription.map_or_else(|| bytes(scope.0), bytes);
        let (step_ms, last) = (step * 1_000, start(now.as_ms(), step));
        let first = last - (count - 1) * step_ms;
        let query = sqlx::query(SERIES).bind(subject).bind(grain).bind(first).bind(last + step_ms).bind(step_ms);
        let steps = (0..count).map(|index| Timestamp::from_ms(first + index * step_ms));
        let steps = steps.map(|starts_at| Step { starts_at, tally: Tally::default() }).collect();
        let mut series = Series { total: Tally::default(), steps };
        for row in &query.fetch_all(&self.inner.database.readers).await? {
            let mut columns = Columns::of(row);
            let (index, measure, count): (usize, i64, u64) = (columns.number()?, columns.get()?, columns.number()?);
            series.total.add(measure, count);
            if let Some(step) = series.steps.get_mut(index) {
                step.tally.add(measure, count);
            }
        }
        Ok(series)
    }

    /// How the deliveries of a tenant stand.
    pub async fn delivery_counts(&self, scope: TenantScope) -> Result<DeliveryCounts, QueryError> {
        Ok(self.counts([scope.0]).await?.into_values().next().unwrap_or_default())
    }

    /// How the deliveries of subscriptions stand; those without one are missing. The caller has checked whose they are.
    pub async fn delivery_counts_of(
        &self,
        subscriptions: &[SubscriptionId],
    ) -> Result<HashMap<SubscriptionId, DeliveryCounts>, QueryError> {
        let found = self.counts(subscriptions.iter().copied()).await?;
        Ok(found.into_iter().map(|(bits, counts)| (SubscriptionId::from_bits(bits), counts)).collect())
    }

    async fn counts<T: Id>(
        &self,
        subjects: impl IntoIterator<Item = T>,
    ) -> Result<HashMap<u128, DeliveryCounts>, QueryError> {
        let query = sqlx::query(COUNTS).bind(id_list(subjects)).bind(EVER);
        let mut found: HashMap<u128, DeliveryCounts> = HashMap::new();
        for row in &query.fetch_all(&self.inner.database.readers).await? {
            let mut columns = Columns::of(row);
            let counts = found.entry(columns.id::<SubscriptionId>()?.bits()).or_default();
            let (measure, count): (i64, u64) = (columns.get()?, columns.number()?);
            match measure {
                _ if measure == status_number(DeliveryStatus::Pending) => counts.pending = count,
                _ if measure == status_number(DeliveryStatus::Succeeded) => counts.succeeded = count,
                _ if measure == status_number(DeliveryStatus::Failed) => counts.failed = count,
                _ => counts.cancelled = count,
            }
        }
        Ok(found)
    }

    /// What happened to the subscriptions' deliveries, latencies aside, in the newest hour in which anything did and in the
    /// hour before, of the last 24 hours; those without any are missing. The caller has checked whose they are.
    pub async fn recent(
        &self,
        subscriptions: &[SubscriptionId],
        now: Timestamp,
    ) -> Result<HashMap<SubscriptionId, Tally>, QueryError> {
        let since = start(now.as_ms(), COARSE_S) - 23 * COARSE_S * 1_000;
        let query = sqlx::query(RECENT).bind(id_list(subscriptions.iter().copied())).bind(COARSE_S);
        let query = query.bind(since).bind(LATENCIES);
        let mut hours: HashMap<SubscriptionId, BTreeMap<i64, Tally>> = HashMap::new();
        for row in &query.fetch_all(&self.inner.database.readers).await? {
            let mut columns = Columns::of(row);
            let tallies = hours.entry(columns.id()?).or_default();
            tallies.entry(columns.get()?).or_default().add(columns.get()?, columns.number()?);
        }
        Ok(hours.into_iter().map(|(id, tallies)| (id, newest(tallies))).collect())
    }
}

/// The last hour and the one before.
fn newest(mut hours: BTreeMap<i64, Tally>) -> Tally {
    let Some((last, mut tally)) = hours.pop_last() else { return Tally::default() };
    if let Some(before) = hours.remove(&(last - COARSE_S * 1_000)) {
        tally.succeeded += before.succeeded;
        tally.failed += before.failed;
        tally.attempts_succeeded += before.attempts_succeeded;
        tally.attempts_failed += before.attempts_failed;
    }
    tally
}
