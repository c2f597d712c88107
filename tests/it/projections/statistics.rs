//! Statistics say what could be counted from the rows.

use sqlx::sqlite::SqliteConnectOptions;
use sqlx::{AssertSqlSafe, ConnectOptions, Connection, Row, SqliteConnection};
use tidings::projections::rows::DeliveryStatus;
use tidings::projections::{DeliveryCounts, DeliveryFilter, Page, ReadModels, TenantScope, Window};

use super::history::History;
use super::{Folder, caught_up, following};

/// What every table but `statistic` makes of the statistics, in its columns.
const COUNTED: &str = "
    WITH ended AS (SELECT tenant, subscription, status, completed_at_ms AS at FROM delivery WHERE status IN (1, 2)),
    tried AS (SELECT tenant, subscription, started_at_ms AS at, failure IS NULL AS done, latency_ms FROM attempt
        JOIN delivery ON delivery.position = attempt.delivery WHERE class IS NULL OR class <> 'local'),
    measured AS (
        SELECT tenant, subscription, at, status AS measure FROM ended
        UNION ALL SELECT tenant, subscription, at, iif(done, 8, 9) FROM tried
        UNION ALL SELECT tenant, subscription, at, latency_ms + 16 FROM tried),
    timed AS (SELECT tenant, subscription, value AS grain, at - at % (value * 1000) AS start_ms, measure
        FROM measured, json_each('[300, 3600, 86400]')
        UNION ALL SELECT tenant, subscription, 0, 0, status FROM delivery),
    owned AS (SELECT tenant AS subject, grain, start_ms, measure FROM timed
        UNION ALL SELECT subscription, grain, start_ms, measure FROM timed)
    SELECT hex(subject) || ' ' || grain || ' ' || start_ms || ' ' || measure || ' ' || count(*) FROM owned
    GROUP BY subject, grain, start_ms, measure";

const KEPT: &str =
    "SELECT hex(subject) || ' ' || grain || ' ' || start_ms || ' ' || measure || ' ' || count FROM statistic";

async fn lines(connection: &mut SqliteConnection, sql: &'static str) -> Vec<String> {
    let rows = sqlx::query(AssertSqlSafe(sql)).fetch_all(connection).await.unwrap();
    let mut lines: Vec<String> = rows.iter().map(|row| row.get(0)).collect();
    lines.sort();
    lines
}

#[tokio::test]
async fn statistics_are_counts_of_the_rows_also_when_rows_are_forgotten() {
    for (seed, shards) in [(51, 1), (52, 3)] {
        let (folder, mut history) = (Folder::new(), History::over(shards, seed).await);
        let (models, followers) = following(&folder, &history).await;
        let mut connection = SqliteConnectOptions::new().filename(folder.path()).connect().await.unwrap();
        for round in 0..6 {
            for _ in 0..80 {
                history.anything().await;
            }
            caught_up(&models, &history).await;
            // Rows may be forgotten meanwhile.
            sqlx::query("BEGIN").execute(&mut connection).await.unwrap();
            let counted = lines(&mut connection, COUNTED).await;
            assert!(round == 0 || counted.len() > 20, "{counted:?}");
            assert_eq!(lines(&mut connection, KEPT).await, counted, "seed {seed}, round {round}");
            sqlx::query("COMMIT").execute(&mut connection).await.unwrap();
            if round % 2 == 1 {
                history.next_bucket();
                for _ in 0..40 {
                    history.anything().await;
                }
                history.drop_old_buckets().await;
            }
        }
        connection.close().await.unwrap();
        followers.stop().await;
    }
}

async fn counts(models: &ReadModels, scope: TenantScope) -> DeliveryCounts {
    let of = async |status| {
        let filter = DeliveryFilter { statuses: vec![status], ..DeliveryFilter::default() };
        models.deliveries(scope, &filter, &Page::first(10_000)).await.unwrap().rows.len() as u64
    };
    DeliveryCounts {
        pending: of(DeliveryStatus::Pending).await,
        succeeded: of(DeliveryStatus::Succeeded).await,
        failed: of(DeliveryStatus::Failed).await,
        cancelled: of(DeliveryStatus::Cancelled).await,
    }
}

#[tokio::test]
async fn a_window_is_the_sum_of_its_steps() {
    // S2
    let (folder, mut history) = (Folder::new(), History::new(53).await);
    let (models, followers) = following(&folder, &history).await;
    for _ in 0..300 {
        history.anything().await;
    }
    caught_up(&models, &history).await;
    let mut ended = 0;
    for tenant in history.tenants.clone() {
        let scope = TenantScope(tenant);
        let wanted = counts(&models, scope).await;
        assert_eq!(models.delivery_counts(scope).await.unwrap(), wanted);
        for window in [Window::LastHour, Window::Last24Hours, Window::Last7Days, Window::Last30Days] {
            let series = models.statistics(scope, None, window, history.clock.now()).await.unwrap();
            let sum = |of: fn(&tidings::projections::Tally) -> u64| {
                series.steps.iter().map(|step| of(&step.tally)).sum::<u64>()
            };
            assert_eq!(sum(|tally| tally.succeeded), series.total.succeeded);
            assert_eq!(sum(|tally| tally.attempts_failed), series.total.attempts_failed);
            assert!(series.steps.last().unwrap().starts_at <= history.clock.now());
            if window != Window::LastHour {
                assert_eq!((series.total.succeeded, series.total.failed), (wanted.succeeded, wanted.failed));
            }
        }
        let series = models.statistics(scope, None, Window::Last24Hours, history.clock.now()).await.unwrap();
        let of_subscriptions: Vec<_> =
            history.subscriptions.iter().filter(|(_, (owner, _))| *owner == tenant).map(|(id, _)| *id).collect();
        let recent = models.recent(&of_subscriptions, history.clock.now()).await.unwrap();
        assert!(recent.values().map(|tally| tally.attempts_failed).sum::<u64>() <= series.total.attempts_failed);
        ended += series.total.succeeded + series.total.failed;
    }
    assert!(ended > 10, "{ended}");
    followers.stop().await;
}
