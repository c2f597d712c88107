//! Every filter of every list finds what picking from the whole list by hand finds, however the list is paged.

use sqlx::sqlite::SqliteConnectOptions;
use sqlx::{ConnectOptions, Connection};
use tidings::clock::Clock;
use tidings::domain::circuit::CircuitState;
use tidings::domain::filter::EventType;
use tidings::domain::id::SubscriptionId;
use tidings::event_store::Position;
use tidings::projections::rows::{AuditRow, DeliveryRow, DeliveryStatus, WebhookRow};
use tidings::projections::{
    AuditFilter, DeliveryFilter, Key, Page, ReadModels, Slice, TenantScope, WebhookFilter, WebhookOrder,
    WebhookOrderField,
};

use super::history::History;
use super::{Folder, caught_up, following};

/// The whole list, page by page from one end; `between` pages something may happen.
async fn walk<T>(page_of: impl AsyncFn(Page) -> Slice<T>, backward: bool, limit: usize) -> Vec<T> {
    let (mut rows, mut edge): (Vec<T>, Option<Key>) = (vec![], None);
    loop {
        let (after, before) = if backward { (None, edge.take()) } else { (edge.take(), None) };
        let slice = page_of(Page { after, before, limit, from_end: backward }).await;
        assert!(slice.rows.len() == limit || !slice.has_more || slice.edge.is_some());
        let outer = if backward { slice.rows.first() } else { slice.rows.last() };
        edge = slice.edge.or_else(|| outer.map(|(key, _)| key.clone()));
        let page = slice.rows.into_iter().map(|(_, row)| row);
        if backward {
            rows.splice(0..0, page);
        } else {
            rows.extend(page);
        }
        if !slice.has_more {
            return rows;
        }
    }
}

fn rows<T>(slice: Slice<T>) -> Vec<T> {
    slice.rows.into_iter().map(|(_, row)| row).collect()
}

/// One of them, or nothing in half of the cases.
fn maybe<T: Clone>(clock: &dyn Clock, of: &[T]) -> Option<T> {
    let dice = usize::try_from(clock.random_u64() % 1_000).unwrap();
    (dice % 2 == 0 && !of.is_empty()).then(|| of[dice / 2 % of.len()].clone())
}

fn some_delivery_filter(clock: &dyn Clock, all: &[DeliveryRow], through: u64) -> DeliveryFilter {
    let statuses = [DeliveryStatus::Pending, DeliveryStatus::Succeeded, DeliveryStatus::Failed];
    let all_types: Vec<EventType> = all.iter().map(|row| row.event_type.clone()).collect();
    let at = |share: u64| Position { shard: 0, seq: through * share / 4 };
    DeliveryFilter {
        subscription: maybe(clock, all).map(|row| row.subscription),
        message: maybe(clock, all).filter(|_| clock.random_u64().is_multiple_of(3)).map(|row| row.message),
        statuses: maybe(clock, &statuses).into_iter().chain(maybe(clock, &statuses)).collect(),
        event_types: maybe(clock, &all_types).map(|one| vec![one]),
        status_codes: maybe(clock, &[200..=299, 500..=599, 0..=65_535]),
        recorded: maybe(clock, &[(at(0), at(2)), (at(1), at(3)), (at(3), at(4))]),
    }
}

fn picks(filter: &DeliveryFilter, row: &DeliveryRow, place: &Key) -> bool {
    let place = place.0.cast_unsigned();
    filter.subscription.is_none_or(|id| row.subscription == id)
        && filter.message.is_none_or(|id| row.message == id)
        && (filter.statuses.is_empty() || filter.statuses.contains(&row.status))
        && filter.event_types.as_ref().is_none_or(|types| types.contains(&row.event_type))
        && filter.status_codes.as_ref().is_none_or(|codes| row.last_status.is_some_and(|code| codes.contains(&code)))
        && filter.recorded.is_none_or(|(behind, through)| place > behind.seq && place <= through.seq)
}

#[tokio::test]
async fn every_combination_of_filters_of_deliveries_finds_what_it_says_in_pages_of_any_size() {
    let (folder, mut history) = (Folder::new(), History::new(61).await);
    let (models, followers) = following(&folder, &history).await;
    for _ in 0..400 {
        history.anything().await;
    }
    caught_up(&models, &history).await;
    let clock = history.clock.clone();
    let mut found = 0;
    for tenant in history.tenants.clone() {
        let scope = TenantScope(tenant);
        let all = models.deliveries(scope, &DeliveryFilter::default(), &Page::first(10_000)).await.unwrap().rows;
        let plain: Vec<DeliveryRow> = all.iter().map(|(_, row)| row.clone()).collect();
        for _ in 0..60 {
            let filter = some_delivery_filter(&*clock, &plain, history.head().seq);
            let wanted: Vec<_> =
                all.iter().filter(|(key, row)| picks(&filter, row, key)).map(|(_, row)| row.clone()).collect();
            let page_of = async |page: Page| models.deliveries(scope, &filter, &page).await.unwrap();
            let limit = 1 + usize::try_from(clock.random_u64() % 20).unwrap();
            for backward in [false, true] {
                assert_eq!(walk(page_of, backward, limit).await, wanted, "{filter:?}");
            }
            found += wanted.len();
        }
    }
    assert!(found > 100, "{found}");
    followers.stop().await;
}

#[tokio::test]
async fn cursors_are_stable_while_rows_are_added() {
    for seed in 62..66 {
        let (folder, mut history) = (Folder::new(), History::new(seed).await);
        let (models, followers) = following(&folder, &history).await;
        for _ in 0..150 {
            history.anything().await;
        }
        caught_up(&models, &history).await;
        let scope = TenantScope(history.tenants[0]);
        let filter = DeliveryFilter::default();
        let audit_filter = AuditFilter::default();
        let ids = |rows: Vec<DeliveryRow>| rows.into_iter().map(|row| row.id).collect::<Vec<_>>();
        let places = |rows: Vec<AuditRow>| rows.into_iter().map(|row| row.position).collect::<Vec<_>>();
        let before = ids(rows(models.deliveries(scope, &filter, &Page::first(10_000)).await.unwrap()));
        let audit = places(rows(models.audit(scope, &audit_filter, &Page::first(10_000)).await.unwrap()));
        // Between any two pages something is added before the first page, as lists begin with the newest.
        let limit = 1 + usize::try_from(history.clock.random_u64() % 7).unwrap();
        let history = tokio::sync::Mutex::new(history);
        let more = async || {
            let mut history = history.lock().await;
            for _ in 0..5 {
                history.anything().await;
            }
            caught_up(&models, &history).await;
        };
        let first = models.deliveries(scope, &filter, &Page::first(limit)).await.unwrap();
        let seen = walk(
            async |page: Page| {
                if page.after.is_none() {
                    return first.clone();
                }
                more().await;
                models.deliveries(scope, &filter, &page).await.unwrap()
            },
            false,
            limit,
        );
        assert_eq!(ids(seen.await), before, "seed {seed}");
        let first = models.audit(scope, &audit_filter, &Page::first(limit)).await.unwrap();
        let newest = first.rows.first().map(|(_, row)| row.position);
        let seen = walk(
            async |page: Page| {
                if page.after.is_none() {
                    return first.clone();
                }
                more().await;
                models.audit(scope, &audit_filter, &page).await.unwrap()
            },
            false,
            limit,
        );
        let seen = places(seen.await);
        assert!(seen.ends_with(&audit) && seen.first().copied() == newest, "seed {seed}");
        followers.stop().await;
    }
}

#[tokio::test]
async fn the_audit_log_is_found_by_actor_target_code_and_time_together() {
    // S29
    let (folder, mut history) = (Folder::new(), History::new(67).await);
    let (models, followers) = following(&folder, &history).await;
    for _ in 0..300 {
        history.anything().await;
    }
    caught_up(&models, &history).await;
    let clock = history.clock.clone();
    for tenant in history.tenants.clone() {
        let scope = TenantScope(tenant);
        let all = rows(models.audit(scope, &AuditFilter::default(), &Page::first(10_000)).await.unwrap());
        let at = |share: u64| Position { shard: 0, seq: history.head().seq * share / 4 };
        for _ in 0..40 {
            let codes = maybe(&*clock, &all).into_iter().chain(maybe(&*clock, &all));
            let filter = AuditFilter {
                codes: codes.map(|row| row.code.to_owned()).collect(),
                target: maybe(&*clock, &all).map(|row| row.target),
                actor: maybe(&*clock, &["key_of_ada".to_owned(), "system".to_owned(), "nobody".to_owned()]),
                recorded: maybe(&*clock, &[(at(0), at(2)), (at(1), at(3)), (at(3), at(4))]),
            };
            let picked = all.iter().filter(|row| {
                (filter.codes.is_empty() || filter.codes.iter().any(|code| code == row.code))
                    && filter.target.as_ref().is_none_or(|target| row.target == *target)
                    && filter.actor.as_ref().is_none_or(|actor| row.actor_id == *actor)
                    && filter.recorded.is_none_or(|(behind, to)| row.position > behind && row.position <= to)
            });
            let wanted: Vec<_> = picked.cloned().collect();
            let page_of = async |page: Page| models.audit(scope, &filter, &page).await.unwrap();
            for backward in [false, true] {
                assert_eq!(walk(page_of, backward, 3).await, wanted, "{filter:?}");
            }
        }
    }
    followers.stop().await;
}

fn names(rows: &[WebhookRow]) -> Vec<SubscriptionId> {
    rows.iter().map(|row| row.id).collect()
}

async fn all_webhooks(models: &ReadModels, scope: TenantScope, filter: &WebhookFilter) -> Vec<WebhookRow> {
    let found = models.webhooks(scope, filter, WebhookOrder::default(), &Page::first(10_000)).await;
    rows(found.unwrap().unwrap())
}

#[tokio::test]
async fn webhooks_are_found_and_ordered_in_every_way() {
    // A4
    let (folder, mut history) = (Folder::new(), History::new(68).await);
    let (models, followers) = following(&folder, &history).await;
    for _ in 0..500 {
        history.anything().await;
    }
    caught_up(&models, &history).await;
    let clock = history.clock.clone();
    for tenant in history.tenants.clone() {
        let scope = TenantScope(tenant);
        let all = all_webhooks(&models, scope, &WebhookFilter::default()).await;
        let counts = models.webhook_counts(scope).await.unwrap();
        let open = all.iter().filter(|row| row.circuit.state() == CircuitState::Open).count();
        assert_eq!((counts.total, counts.circuit_open), (all.len() as u64, open as u64));
        let states = [CircuitState::Closed, CircuitState::Open, CircuitState::HalfOpen];
        let types = ["order.created", "user.created", "no.such"].map(|name| EventType::parse(name).unwrap());
        for _ in 0..40 {
            let filter = WebhookFilter {
                search: maybe(&*clock, &["shop".to_owned(), "1".to_owned()]),
                enabled: maybe(&*clock, &[true, false]),
                circuit_states: maybe(&*clock, &states).into_iter().chain(maybe(&*clock, &states)).collect(),
                matches: maybe(&*clock, &types),
            };
            let picked = all.iter().filter(|row| {
                let text = format!("{}\n{}", row.url, row.description.as_deref().unwrap_or_default()).to_lowercase();
                filter.search.as_ref().is_none_or(|search| text.contains(search.as_str()))
                    && filter.enabled.is_none_or(|enabled| row.enabled == enabled)
                    && (filter.circuit_states.is_empty() || filter.circuit_states.contains(&row.circuit.state()))
                    && filter
                        .matches
                        .as_ref()
                        .is_none_or(|name| tidings::domain::filter::matches_any(&row.filters, name))
            });
            let wanted: Vec<WebhookRow> = picked.cloned().collect();
            for field in [WebhookOrderField::CreatedAt, WebhookOrderField::Url, WebhookOrderField::LastDeliveryAt] {
                for ascending in [false, true] {
                    let order = WebhookOrder { field, ascending };
                    let mut wanted = wanted.clone();
                    // From the oldest: so that sorting keeps the order of what is alike.
                    wanted.reverse();
                    match field {
                        WebhookOrderField::CreatedAt => {}
                        WebhookOrderField::Url => wanted.sort_by(|one, other| one.url.cmp(&other.url)),
                        WebhookOrderField::LastDeliveryAt => wanted.sort_by_key(|row| row.last_delivery_at),
                    }
                    if !ascending {
                        wanted.reverse();
                    }
                    let page_of =
                        async |page: Page| models.webhooks(scope, &filter, order, &page).await.unwrap().unwrap();
                    for backward in [false, true] {
                        assert_eq!(names(&walk(page_of, backward, 2).await), names(&wanted), "{filter:?} {order:?}");
                    }
                }
            }
        }
    }
    followers.stop().await;
}

#[tokio::test]
async fn a_page_looks_at_a_bounded_number_of_rows_and_says_where_it_ended() {
    let (folder, mut history) = (Folder::new(), History::new(69).await);
    let tenant = history.tenant().await;
    let (models, followers) = following(&folder, &history).await;
    caught_up(&models, &history).await;
    let mut connection = SqliteConnectOptions::new().filename(folder.path()).connect().await.unwrap();
    // The oldest of 12,000 alone was answered with 503.
    let fill = "WITH RECURSIVE number (n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM number WHERE n < 12000)
        INSERT INTO delivery (position, id, tenant, subscription, message, message_position, event_type, status, attempts,
            created_at_ms, last_status)
        SELECT 1000000 + n, randomblob(16), (SELECT id FROM tenant), randomblob(16), randomblob(16), 1000000 + n,
            'order.created', 2, 1, 1763894415000, iif(n = 1, 503, 500) FROM number";
    sqlx::query(fill).execute(&mut connection).await.unwrap();
    let scope = TenantScope(tenant);
    let one_status = DeliveryFilter { statuses: vec![DeliveryStatus::Failed], ..DeliveryFilter::default() };
    for (filter, pages) in [
        (DeliveryFilter { status_codes: Some(503..=503), ..one_status.clone() }, 3),
        (DeliveryFilter { status_codes: Some(503..=503), ..DeliveryFilter::default() }, 10),
        (DeliveryFilter { status_codes: Some(404..=404), ..one_status }, 3),
    ] {
        let asked = std::sync::atomic::AtomicUsize::new(0);
        let page_of = async |page: Page| {
            asked.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
            models.deliveries(scope, &filter, &page).await.unwrap()
        };
        let found = walk(page_of, false, 20).await;
        assert_eq!(found.len(), usize::from(filter.status_codes == Some(503..=503)));
        assert_eq!(asked.swap(0, std::sync::atomic::Ordering::Relaxed), pages);
        assert_eq!(walk(page_of, true, 20).await, found);
        let first = models.deliveries(scope, &filter, &Page::first(20)).await.unwrap();
        assert!(first.rows.is_empty() && first.has_more && first.edge.is_some());
    }
    connection.close().await.unwrap();
    followers.stop().await;
}
