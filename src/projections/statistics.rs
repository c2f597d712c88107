//! Counts of deliveries and attempts by time, kept with the rows that they count.
//!
//! Whatever a statistic says could be counted from the rows themselves: a delivery that is read to be folded counts no
//! more as it was, one that is written counts as it is, and one that is forgotten counts no more. So a rebuild makes the
//! same statistics, and nothing drifts.

use std::collections::HashMap;
use std::sync::LazyLock;

use sqlx::SqliteConnection;
use sqlx::sqlite::SqliteRow;

use super::columns::{Columns, Id};
use super::delivery_queries::{status_number, word_text};
use super::latency;
use super::rows::{AttemptRow, DeliveryRow, DeliveryStatus};
use super::statement::ManyRows;
use crate::domain::id::{SubscriptionId, TenantId};
use crate::domain::outcome::FailureClass;
use crate::domain::time::Timestamp;

/// How many seconds a row of the finer kind stands for.
pub(super) const FINE_S: i64 = 300;
/// How many seconds a row of the middle kind stands for.
pub(super) const COARSE_S: i64 = 3_600;
/// How many seconds a row of the coarsest kind stands for.
pub(super) const DAY_S: i64 = 86_400;
/// In the place of seconds: a row for all time.
pub(super) const EVER: i64 = 0;
pub(super) const ATTEMPTS_SUCCEEDED: i64 = 8;
pub(super) const ATTEMPTS_FAILED: i64 = 9;
/// From here on attempts by the slot of their latency.
pub(super) const LATENCIES: i64 = 16;

static ADD: LazyLock<ManyRows> = LazyLock::new(|| {
    ManyRows::new(
        "INSERT INTO statistic (subject, grain, start_ms, measure, count) VALUES ",
        "(?, ?, ?, ?, ?)",
        " ON CONFLICT (subject, grain, start_ms, measure) DO UPDATE SET count = count + excluded.count",
    )
});

pub(super) const DROP_EMPTY: &str = "DELETE FROM statistic WHERE count = 0";

macro_rules! forgotten {
    ($columns:literal) => {
        concat!(
            "SELECT ",
            $columns,
            " FROM delivery WHERE message_position > $1 AND message_position <= $2 \
             ORDER BY message_position, position LIMIT $3"
        )
    };
}

const FORGOTTEN: &str = forgotten!("tenant, subscription, status, completed_at_ms");

const FORGOTTEN_ATTEMPTS: &str = concat!(
    "SELECT gone.tenant, gone.subscription, started_at_ms, latency_ms, failure IS NULL, class FROM (",
    forgotten!("position, tenant, subscription"),
    ") AS gone JOIN attempt ON attempt.delivery = gone.position"
);

/// What a row counts: of whom, in which stretch of time, and what.
type Key = (u128, i64, i64, i64);

/// What is to be added to the counts.
#[derive(Default)]
pub(super) struct Changes(HashMap<Key, i64>);

/// Whose a delivery is, in both senses.
type Subjects = [u128; 2];

fn subjects(tenant: TenantId, subscription: SubscriptionId) -> Subjects {
    [tenant.bits(), subscription.bits()]
}

impl Changes {
    /// A delivery counts as it stands.
    pub(super) fn add(&mut self, row: &DeliveryRow) {
        let ended = row.completed_at.map(Timestamp::as_ms);
        self.delivery(subjects(row.tenant, row.subscription), status_number(row.status), ended, 1);
    }

    /// A delivery counts no more as it stood.
    pub(super) fn take(&mut self, row: &DeliveryRow) {
        let ended = row.completed_at.map(Timestamp::as_ms);
        self.delivery(subjects(row.tenant, row.subscription), status_number(row.status), ended, -1);
    }

    /// An attempt counts.
    pub(super) fn add_attempt(&mut self, delivery: &DeliveryRow, row: &AttemptRow) {
        let class = row.class.map(word_text);
        let of = subjects(delivery.tenant, delivery.subscription);
        self.attempt(of, row.started_at.as_ms(), row.latency_ms, row.failure.is_none(), class.as_deref(), 1);
    }

    /// So many pending deliveries were cancelled.
    pub(super) fn cancelled(&mut self, tenant: TenantId, subscription: SubscriptionId, count: usize) {
        let count = i64::try_from(count).unwrap_or(i64::MAX);
        for subject in subjects(tenant, subscription) {
            self.change((subject, EVER, 0, status_number(DeliveryStatus::Pending)), -count);
            self.change((subject, EVER, 0, status_number(DeliveryStatus::Cancelled)), count);
        }
    }

    /// What counts no more when the first rows of the range are forgotten.
    pub(super) async fn forget(
        connection: &mut SqliteConnection,
        (above, through): (i64, i64),
        limit: i64,
    ) -> Result<Self, sqlx::Error> {
        let mut changes = Self::default();
        let query = sqlx::query(FORGOTTEN).bind(above).bind(through).bind(limit);
        for row in query.fetch_all(&mut *connection).await? {
            changes.forget_delivery(&row)?;
        }
        let query = sqlx::query(FORGOTTEN_ATTEMPTS).bind(above).bind(through).bind(limit);
        for row in query.fetch_all(&mut *connection).await? {
            changes.forget_attempt(&row)?;
        }
        Ok(changes)
    }

    fn forget_delivery(&mut self, row: &SqliteRow) -> Result<(), sqlx::Error> {
        let mut columns = Columns::of(row);
        let of = subjects(columns.id()?, columns.id()?);
        self.delivery(of, columns.get()?, columns.get()?, -1);
        Ok(())
    }

    fn forget_attempt(&mut self, row: &SqliteRow) -> Result<(), sqlx::Error> {
        let mut columns = Columns::of(row);
        let of = subjects(columns.id()?, columns.id()?);
        let (started_at_ms, latency_ms, succeeded) = (columns.get()?, columns.number()?, columns.get()?);
        self.attempt(of, started_at_ms, latency_ms, succeeded, columns.get()?, -1);
        Ok(())
    }

    fn delivery(&mut self, of: Subjects, status: i64, ended_at_ms: Option<i64>, count: i64) {
        for subject in of {
            self.change((subject, EVER, 0, status), count);
        }
        if let Some(at) = ended_at_ms.filter(|_| status != status_number(DeliveryStatus::Cancelled)) {
            self.at(of, at, status, count);
        }
    }

    /// What our own process kept from being made says nothing of an endpoint.
    fn attempt(&mut self, of: Subjects, at_ms: i64, latency_ms: u64, succeeded: bool, class: Option<&str>, count: i64) {
        if class.is_some_and(|class| class == word_text(FailureClass::Local)) {
            return;
        }
        self.at(of, at_ms, if succeeded { ATTEMPTS_SUCCEEDED } else { ATTEMPTS_FAILED }, count);
        self.at(of, at_ms, LATENCIES + latency::slot(latency_ms), count);
    }

    fn at(&mut self, of: Subjects, at_ms: i64, measure: i64, count: i64) {
        for subject in of {
            for grain in [FINE_S, COARSE_S, DAY_S] {
                self.change((subject, grain, start(at_ms, grain), measure), count);
            }
        }
    }

    fn change(&mut self, key: Key, count: i64) {
        *self.0.entry(key).or_default() += count;
    }

    /// Adds them to what the table has.
    pub(super) async fn write(self, connection: &mut SqliteConnection) -> Result<(), sqlx::Error> {
        let mut rows: Vec<(Key, i64)> = self.0.into_iter().filter(|(_, count)| *count != 0).collect();
        if rows.is_empty() {
            return Ok(());
        }
        // In the order of the table.
        rows.sort_unstable();
        ADD.write(connection, rows.into_iter(), |values, ((subject, grain, start_ms, measure), count)| {
            values.add(subject.to_be_bytes().to_vec())?;
            values.add(grain)?;
            values.add(start_ms)?;
            values.add(measure)?;
            values.add(count)
        })
        .await?;
        sqlx::query(DROP_EMPTY).execute(connection).await?;
        Ok(())
    }
}

/// When the stretch of time began that a moment is in, both in milliseconds.
pub(super) fn start(at_ms: i64, grain_s: i64) -> i64 {
    let grain_ms = grain_s.saturating_mul(1_000);
    at_ms - at_ms.rem_euclid(grain_ms)
}
