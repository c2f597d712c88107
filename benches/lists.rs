//! What a page of a list costs over a million deliveries, whatever is looked for.
//!
//! `cargo bench --bench lists` prints the table of `docs/benchmarks.md`. The rows are made by SQL in a temporary file,
//! for one tenant with a thousand webhooks: 97 of 100 deliveries have succeeded, 2 have failed, 10 were cancelled.

#![expect(clippy::print_stdout, reason = "a benchmark's output is its result")]

use std::time::Duration;

use sqlx::sqlite::SqliteConnectOptions;
use sqlx::{ConnectOptions, Connection};
use tidings::domain::filter::EventType;
use tidings::domain::id::{MessageId, SubscriptionId, TenantId};
use tidings::domain::time::Timestamp;
use tidings::event_store::Position;
use tidings::projections::rows::DeliveryStatus;
use tidings::projections::{AuditFilter, DeliveryFilter, Key, Page, ReadModels, TenantScope, Window};
use tokio::time::Instant;

const ROWS: u64 = 1_000_000;
const PAGES: usize = 20;

const DELIVERIES: &str = "WITH RECURSIVE number (n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM number WHERE n < $1)
    INSERT INTO delivery (position, id, tenant, subscription, message, message_position, event_type, status, attempts,
        created_at_ms, completed_at_ms, last_status, last_latency_ms, sequence)
    SELECT n, randomblob(16), $2, unhex(printf('%032X', n % 1000 + 1)), unhex(printf('%032X', n / 10 + 1)), n,
        iif(n % 50 = 0, 'user.deleted', 'user.created'),
        CASE WHEN n % 100000 = 0 THEN 3 WHEN n % 50 = 1 THEN 2 WHEN n % 100 = 2 THEN 0 ELSE 1 END, 1,
        1763894415000 + n, 1763894415500 + n, iif(n % 50 = 1, 500, 200), n % 700, n / 1000 FROM number";

const AUDIT: &str = "WITH RECURSIVE number (n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM number WHERE n < $1)
    INSERT INTO audit (position, tenant, code, at_ms, actor_kind, actor_id, target, changes)
    SELECT n, $2, iif(n % 2 = 0, 'TENANT_WEBHOOK_UPDATED', 'TENANT_WEBHOOK_TEST_SENT'), 1763894415000 + n, 'api_key',
        'key_' || n % 10, 'wh_' || n % 100, '{}' FROM number";

const STATISTICS: &str = "WITH RECURSIVE step (n) AS (SELECT 0 UNION ALL SELECT n + 1 FROM step WHERE n < 719),
    slot (m) AS (SELECT 1 UNION ALL SELECT m + 1 FROM slot WHERE m < 60)
    INSERT INTO statistic (subject, grain, start_ms, measure, count)
    SELECT $1, grain.value, 1763856000000 - n * grain.value * 1000, iif(m < 3, m, m + 60), 100
    FROM step, slot, json_each('[300, 3600, 86400]') AS grain WHERE n * grain.value <= 30 * 86400";

/// The median and the longest of some pages that follow each other.
async fn measure<T>(name: &str, mut page_of: impl AsyncFnMut(Page) -> (Option<T>, Option<Key>)) {
    let mut took: Vec<Duration> = vec![];
    let mut after = None;
    for _ in 0..PAGES {
        let began = Instant::now();
        let (_, edge) = page_of(Page { after: after.clone(), before: None, limit: 20, from_end: false }).await;
        took.push(began.elapsed());
        after = edge;
    }
    took.sort_unstable();
    let ms = |of: Duration| of.as_secs_f64() * 1_000.0;
    println!("| {name} | {:.2} | {:.2} |", ms(took[PAGES / 2]), ms(took[PAGES - 1]));
}

async fn deliveries(models: &ReadModels, scope: TenantScope, name: &str, filter: DeliveryFilter) {
    measure(name, async |page| {
        let slice = models.deliveries(scope, &filter, &page).await.expect("the list is read");
        let last = slice.rows.last().map(|(key, _)| key.clone());
        (Some(()), slice.edge.or(last))
    })
    .await;
}

async fn audit(models: &ReadModels, scope: TenantScope, name: &str, filter: AuditFilter) {
    measure(name, async |page| {
        let slice = models.audit(scope, &filter, &page).await.expect("the list is read");
        let last = slice.rows.last().map(|(key, _)| key.clone());
        (Some(()), slice.edge.or(last))
    })
    .await;
}

#[tokio::main]
async fn main() {
    let folder = tempfile::tempdir().expect("a folder is made");
    let path = folder.path().join("read-models.db");
    let models = ReadModels::open(&path).await.expect("the read models are made");
    let tenant = TenantId::from_parts(1, 1);
    let scope = TenantScope(tenant);
    let mut connection = SqliteConnectOptions::new().filename(&path).connect().await.expect("the file is opened");
    let owner = tenant.to_bits().to_be_bytes().to_vec();
    for sql in [DELIVERIES, AUDIT] {
        let fill = sqlx::query(sql).bind(ROWS.cast_signed()).bind(owner.clone());
        fill.execute(&mut connection).await.expect("rows are made");
    }
    sqlx::query(STATISTICS).bind(owner).execute(&mut connection).await.expect("rows are made");
    connection.close().await.expect("the file is closed");

    println!("| {ROWS} deliveries, a page of 20 | median, ms | longest of {PAGES}, ms |\n|---|---|---|");
    let all = DeliveryFilter::default;
    let of = |status| DeliveryFilter { statuses: vec![status], ..all() };
    let named = |name: &str| Some(vec![EventType::parse(name).expect("it is a name")]);
    let subscription = Some(SubscriptionId::from_parts(0, 7));
    let at = |seq| Position { shard: 0, seq };
    for (name, filter) in [
        ("all", all()),
        ("rare status (10 rows)", of(DeliveryStatus::Cancelled)),
        ("one webhook", DeliveryFilter { subscription, ..all() }),
        ("one webhook, failed (none)", DeliveryFilter { subscription, ..of(DeliveryStatus::Failed) }),
        ("one message", DeliveryFilter { message: Some(MessageId::from_parts(0, 500)), ..all() }),
        ("created in the oldest tenth", DeliveryFilter { recorded: Some((at(0), at(ROWS / 10))), ..all() }),
        ("status codes 500–599 (2 %)", DeliveryFilter { status_codes: Some(500..=599), ..all() }),
        ("status codes 400–499 (none)", DeliveryFilter { status_codes: Some(400..=499), ..all() }),
        (
            "succeeded with 500–599 (none)",
            DeliveryFilter { status_codes: Some(500..=599), ..of(DeliveryStatus::Succeeded) },
        ),
        ("event type, 2 %", DeliveryFilter { event_types: named("user.deleted"), ..all() }),
        ("event type, none", DeliveryFilter { event_types: named("no.such"), ..all() }),
        (
            "everything at once, none",
            DeliveryFilter {
                subscription,
                event_types: named("no.such"),
                status_codes: Some(400..=499),
                recorded: Some((at(ROWS / 10), at(ROWS))),
                ..of(DeliveryStatus::Succeeded)
            },
        ),
    ] {
        deliveries(&models, scope, name, filter).await;
    }
    let code = || vec!["TENANT_WEBHOOK_CREATED".to_owned()];
    for (name, filter) in [
        ("audit log, all", AuditFilter::default()),
        ("audit log, code (none)", AuditFilter { codes: code(), ..AuditFilter::default() }),
        (
            "audit log, actor and code (none)",
            AuditFilter { actor: Some("key_3".into()), codes: code(), ..AuditFilter::default() },
        ),
        (
            "audit log, target and actor (none)",
            AuditFilter { target: Some("wh_4".into()), actor: Some("key_3".into()), ..AuditFilter::default() },
        ),
    ] {
        audit(&models, scope, name, filter).await;
    }
    for (name, window) in [
        ("statistics of an hour", Window::LastHour),
        ("statistics of 7 days", Window::Last7Days),
        ("statistics of 30 days", Window::Last30Days),
    ] {
        measure(name, async |_| {
            let now = Timestamp::from_ms(1_763_859_000_000);
            (models.statistics(scope, None, window, now).await.ok(), None)
        })
        .await;
    }
}
