//! What the read models answer.

use tidings::domain::event::TestSent;
use tidings::domain::filter::EventType;
use tidings::domain::id::{SubscriptionId, TenantId};
use tidings::domain::outcome::FailureCode;
use tidings::domain::scope::Scope;
use tidings::domain::subscription::{Command, Update};
use tidings::projections::rows::{DeliveryStatus, WebhookRow};
use tidings::projections::{
    AuditFilter, DeliveryFilter, Key, MessageFilter, Page, ReadModels, Slice, TenantScope, WebhookCounts,
    WebhookFilter, WebhookOrder,
};

use super::history::History;
use super::{Folder, caught_up, following};

/// A tenant with a subscription, and one message owed to it.
async fn small(seed: u64) -> (History, TenantId, SubscriptionId) {
    let mut history = History::new(seed).await;
    let tenant = history.tenant().await;
    let subscription = history.subscription(tenant).await;
    let (message, seq) = history.publish(tenant, "order.created").await;
    history.schedule(subscription, message, seq).await;
    (history, tenant, subscription)
}

fn all() -> Page {
    Page::first(1_000)
}

fn rows<T>(slice: Slice<T>) -> Vec<T> {
    slice.rows.into_iter().map(|(_, row)| row).collect()
}

async fn webhooks(models: &ReadModels, scope: TenantScope, filter: &WebhookFilter) -> Slice<WebhookRow> {
    models.webhooks(scope, filter, WebhookOrder::default(), &all()).await.unwrap().unwrap()
}

async fn deliveries(models: &ReadModels, tenant: TenantId) -> Vec<tidings::projections::rows::DeliveryRow> {
    rows(models.deliveries(TenantScope(tenant), &DeliveryFilter::default(), &all()).await.unwrap())
}

#[tokio::test]
async fn a_delivery_is_shown_pending_retried_and_ended_with_each_attempt() {
    // A33, A34
    let (mut history, tenant, subscription) = small(21).await;
    let folder = Folder::new();
    let (models, _followers) = following(&folder, &history).await;
    let scope = TenantScope(tenant);
    caught_up(&models, &history).await;
    let [pending] = &deliveries(&models, tenant).await[..] else { panic!("one delivery") };
    assert_eq!((pending.status, pending.attempts, pending.completed_at), (DeliveryStatus::Pending, 0, None));
    assert_eq!(pending.next_attempt_at, Some(pending.created_at));
    assert_eq!((pending.tenant, pending.subscription), (tenant, subscription));
    assert_eq!(pending.event_type.as_str(), "order.created");
    assert_eq!(models.webhook(scope, subscription).await.unwrap().unwrap().last_delivery_at, None);

    history.attempt_all(subscription, Some(500)).await;
    caught_up(&models, &history).await;
    let retried = models.delivery(scope, pending.id).await.unwrap().unwrap();
    assert_eq!((retried.status, retried.attempts, retried.last_status), (DeliveryStatus::Pending, 1, Some(500)));
    assert!(retried.next_attempt_at > pending.next_attempt_at);

    history.attempt_all(subscription, None).await;
    history.attempt_all(subscription, Some(200)).await;
    caught_up(&models, &history).await;
    let ended = models.delivery(scope, pending.id).await.unwrap().unwrap();
    assert_eq!((ended.status, ended.attempts, ended.last_status), (DeliveryStatus::Succeeded, 3, Some(200)));
    assert_eq!((ended.next_attempt_at, ended.last_latency_ms), (None, Some(12)));
    assert!(ended.completed_at.is_some());
    let attempts = rows(models.attempts(scope, pending.id, &all()).await.unwrap());
    assert_eq!(attempts.iter().map(|attempt| attempt.number).collect::<Vec<_>>(), [1, 2, 3]);
    assert_eq!(attempts[0].failure, Some(FailureCode::Status));
    assert_eq!((attempts[1].failure, &attempts[1].response), (Some(FailureCode::Connect), &None));
    assert_eq!(attempts[1].detail.as_deref(), Some("no connection"));
    assert_eq!((attempts[2].failure, attempts[2].response.as_ref().unwrap().preview.as_str()), (None, "thanks"));
    assert_eq!(models.attempt(scope, pending.id, 2).await.unwrap().as_ref(), Some(&attempts[1]));
    assert_eq!(models.webhook(scope, subscription).await.unwrap().unwrap().last_delivery_at, ended.completed_at);
}

#[tokio::test]
async fn a_delivery_whose_schedule_ends_has_failed_and_its_repetition_names_it() {
    // A31, A35
    let (mut history, tenant, subscription) = small(22).await;
    let folder = Folder::new();
    while history.subscriptions[&subscription].1.state.open_count() > 0 {
        history.attempt_all(subscription, Some(500)).await;
    }
    let (models, followers) = following(&folder, &history).await;
    caught_up(&models, &history).await;
    followers.stop().await;
    drop(models);
    // A runner that has not seen the message pass reads it from the log.
    let again = history.redeliver_something(0).await.unwrap();
    let (models, _followers) = following(&folder, &history).await;
    caught_up(&models, &history).await;
    let [repetition, original] = &deliveries(&models, tenant).await[..] else { panic!("two deliveries") };
    assert_eq!((original.status, original.next_attempt_at), (DeliveryStatus::Failed, None));
    assert_eq!((repetition.id, repetition.redelivery_of), (again, Some(original.id)));
    assert_eq!((repetition.message, &repetition.event_type), (original.message, &original.event_type));
}

#[tokio::test]
async fn deleting_a_subscription_takes_it_off_the_list_and_cancels_what_it_owes() {
    // A15
    let (mut history, tenant, subscription) = small(23).await;
    let folder = Folder::new();
    let (models, _followers) = following(&folder, &history).await;
    let scope = TenantScope(tenant);
    history.attempt_all(subscription, Some(200)).await;
    let (message, seq) = history.publish(tenant, "order.created").await;
    let early = history.schedule(subscription, message, seq).await;
    history.attempt_all(subscription, Some(500)).await;
    caught_up(&models, &history).await;
    let (message, seq) = history.publish(tenant, "order.created").await;
    let late = history.schedule(subscription, message, seq).await;
    history.command(subscription, Command::Delete { expected_revision: None }).await;
    caught_up(&models, &history).await;

    assert_eq!(models.webhook(scope, subscription).await.unwrap(), None);
    assert_eq!(models.webhook_counts(scope).await.unwrap(), WebhookCounts::default());
    assert!(rows(webhooks(&models, scope, &WebhookFilter::default()).await).is_empty());
    for id in [early, late] {
        let delivery = models.delivery(scope, id).await.unwrap().unwrap();
        assert_eq!((delivery.status, delivery.next_attempt_at), (DeliveryStatus::Cancelled, None));
        assert!(delivery.completed_at.is_some());
    }
    // The history stays.
    let filter = DeliveryFilter { subscription: Some(subscription), ..DeliveryFilter::default() };
    let kept = rows(models.deliveries(scope, &filter, &all()).await.unwrap());
    assert_eq!(kept.len(), 3);
    assert_eq!(kept[2].status, DeliveryStatus::Succeeded);
    assert_eq!(rows(models.attempts(scope, early, &all()).await.unwrap()).len(), 1);
}

#[tokio::test]
async fn a_webhooks_row_is_what_its_subscription_became() {
    let (mut history, tenant, subscription) = small(24).await;
    let folder = Folder::new();
    let (models, _followers) = following(&folder, &history).await;
    let url = Some("https://new.example/".into());
    history.command(subscription, Command::Update(Update { url, ..Update::default() })).await;
    let rotate = |secret, fingerprint: &str, overlap_s, at| Command::RotateSecret {
        secret,
        fingerprint: fingerprint.into(),
        public_key: None,
        overlap_s: Some(overlap_s),
        at,
    };
    let (clock, now) = (history.clock.clone(), history.clock.now());
    history.command(subscription, rotate(clock.secret_id(), "f2", 60, now)).await;
    history.command(subscription, Command::Disable { reason: None }).await;
    caught_up(&models, &history).await;
    let row = models.webhook(TenantScope(tenant), subscription).await.unwrap().unwrap();
    let settings = history.subscriptions[&subscription].1.state.settings().unwrap();
    assert_eq!((&row.url, row.enabled, row.revision), (&settings.url, false, settings.revision));
    assert_eq!((&row.description, &row.filters), (&settings.description, &settings.filters));
    let secrets = row.secrets.iter().map(|secret| (secret.version, secret.fingerprint.as_str(), secret.retires_at));
    assert_eq!(secrets.collect::<Vec<_>>(), [(2, "f2", None), (1, "f1", Some(now.plus_ms(60_000)))]);

    history.command(subscription, rotate(clock.secret_id(), "f3", 0, now)).await;
    caught_up(&models, &history).await;
    let row = models.webhook(TenantScope(tenant), subscription).await.unwrap().unwrap();
    assert_eq!(row.secrets.iter().map(|secret| secret.version).collect::<Vec<_>>(), [3]);
}

#[tokio::test]
async fn webhooks_are_counted_searched_and_picked_by_state() {
    // A2, A4
    let mut history = History::new(25).await;
    let tenant = history.tenant().await;
    let mut ids = Vec::new();
    for n in 0..5 {
        let id = history.subscription(tenant).await;
        let url = Some(format!("https://Shop-{n}.example/"));
        history.command(id, Command::Update(Update { url, description: Some(None), ..Update::default() })).await;
        ids.push(id);
    }
    history.command(ids[1], Command::Disable { reason: None }).await;
    let description = Some(Some("for shop-3 too".into()));
    history.command(ids[4], Command::Update(Update { description, ..Update::default() })).await;
    let folder = Folder::new();
    let (models, _followers) = following(&folder, &history).await;
    caught_up(&models, &history).await;
    let scope = TenantScope(tenant);
    assert_eq!(
        models.webhook_counts(scope).await.unwrap(),
        WebhookCounts { total: 5, active: 4, inactive: 1, circuit_open: 0 }
    );
    let found = async |search: Option<&str>, enabled| {
        let filter = WebhookFilter { search: search.map(str::to_owned), enabled, ..WebhookFilter::default() };
        let found = rows(webhooks(&models, scope, &filter).await);
        found.iter().map(|row| ids.iter().position(|id| *id == row.id).unwrap()).collect::<Vec<_>>()
    };
    assert_eq!(found(None, None).await, [4, 3, 2, 1, 0]);
    assert_eq!(found(None, Some(false)).await, [1]);
    assert_eq!(found(Some("SHOP-3"), None).await, [4, 3]);
    assert_eq!(found(Some("shop-1"), Some(true)).await, [0; 0]);
    assert_eq!(found(Some("%"), None).await, [0; 0]);
}

#[tokio::test]
async fn tenants_keys_and_event_types_are_found() {
    let mut history = History::new(26).await;
    let tenant = history.tenant().await;
    let key = history.api_key(tenant).await;
    let revoked = history.api_key(tenant).await;
    history.revoke(tenant, revoked).await;
    history.event_type(tenant, "order.shipped").await;
    history.event_type(tenant, "order.created").await;
    let folder = Folder::new();
    let (models, _followers) = following(&folder, &history).await;
    caught_up(&models, &history).await;
    let scope = TenantScope(tenant);
    assert_eq!(models.tenant(tenant).await.unwrap().unwrap().slug, "ent_0");
    let row = models.api_key(key).await.unwrap().unwrap();
    assert_eq!((row.tenant, row.revoked_at), (tenant, None));
    assert_eq!(row.scopes, [Scope::MessagesPublish, Scope::WebhooksRead]);
    assert!(models.api_key(revoked).await.unwrap().unwrap().revoked_at.is_some());
    let keys = rows(models.api_keys(scope, &all()).await.unwrap());
    assert_eq!(keys.iter().map(|row| row.id).collect::<Vec<_>>(), [revoked, key]);
    let types = models.event_types(scope).await.unwrap();
    assert_eq!(types.iter().map(|row| row.name.as_str()).collect::<Vec<_>>(), ["order.created", "order.shipped"]);
    let name = EventType::parse("order.shipped").unwrap();
    let row = models.event_type(scope, &name).await.unwrap().unwrap();
    assert_eq!((row.schema["type"].as_str(), row.example.unwrap()["order"].as_u64()), (Some("object"), Some(1)));
}

#[tokio::test]
async fn the_audit_log_tells_of_every_change_and_never_of_a_delivery_or_a_secret() {
    // S29, S30
    let (mut history, tenant, subscription) = small(27).await;
    let folder = Folder::new();
    let (models, _followers) = following(&folder, &history).await;
    history.attempt_all(subscription, Some(200)).await;
    let url = Some("https://new.example/?sig=hunter3".into());
    history.command(subscription, Command::Update(Update { url, ..Update::default() })).await;
    history.command(subscription, Command::Disable { reason: Some("too loud".into()) }).await;
    let sent = TestSent {
        event_type: EventType::webhook_test(),
        verified: true,
        status: Some(200),
        failure: None,
        latency_ms: 3,
        revision: None,
    };
    history.command(subscription, Command::RecordTest(sent)).await;
    let key = history.api_key(tenant).await;
    history.command(subscription, Command::Delete { expected_revision: None }).await;
    caught_up(&models, &history).await;
    let scope = TenantScope(tenant);
    let log = rows(models.audit(scope, &AuditFilter::default(), &all()).await.unwrap());
    assert_eq!(
        log.iter().map(|row| row.code).collect::<Vec<_>>(),
        [
            "TENANT_WEBHOOK_DELETED",
            "TENANT_API_KEY_CREATED",
            "TENANT_WEBHOOK_TEST_SENT",
            "TENANT_WEBHOOK_DISABLED",
            "TENANT_WEBHOOK_UPDATED",
            "TENANT_WEBHOOK_CREATED",
            "TENANT_CREATED",
        ]
    );
    assert_eq!(log[4].changes["url"]["from"], "https://shop.example/hook?***");
    assert_eq!(log[4].changes["url"]["to"], "https://new.example/?***");
    assert_eq!(log[3].changes["reason"]["to"], "too loud");
    assert_eq!((log[4].actor_kind.as_str(), log[4].actor_id.as_str()), ("api_key", "key_of_ada"));
    assert_eq!(log[4].ip.as_deref(), Some("192.0.2.7"));
    let text = format!("{log:?}");
    assert!(!text.contains("hunter") && !text.contains("5e884898"), "{text}");

    let about = |codes: &[&str], target: Option<String>| AuditFilter {
        codes: codes.iter().map(|code| (*code).to_owned()).collect(),
        target,
        ..AuditFilter::default()
    };
    let codes = ["TENANT_WEBHOOK_CREATED", "TENANT_API_KEY_CREATED", "TENANT_NONSENSE"];
    let found = rows(models.audit(scope, &about(&codes, None), &all()).await.unwrap());
    assert_eq!(found, [log[1].clone(), log[5].clone()]);
    let found = rows(models.audit(scope, &about(&[], Some(key.to_string())), &all()).await.unwrap());
    assert_eq!(found, [log[1].clone()]);
    let target = Some(subscription.to_string());
    let found = rows(models.audit(scope, &about(&["TENANT_WEBHOOK_UPDATED"], target), &all()).await.unwrap());
    assert_eq!(found, [log[4].clone()]);
    assert_eq!(models.audit_entry(scope, log[4].position).await.unwrap(), Some(log[4].clone()));
}

/// Walks through a list, and checks that each page says whether there is more.
async fn walk<T>(page_of: impl AsyncFn(Page) -> Slice<T>, backward: bool, limit: usize) -> Vec<Key> {
    let (mut keys, mut edge): (Vec<Key>, Option<Key>) = (vec![], None);
    loop {
        let (after, before) = if backward { (None, edge) } else { (edge, None) };
        let slice = page_of(Page { after, before, limit, from_end: backward }).await;
        let page: Vec<Key> = slice.rows.into_iter().map(|(key, _)| key).collect();
        edge = if backward { page.first() } else { page.last() }.cloned();
        assert!(page.len() == limit || !slice.has_more);
        if backward {
            keys.splice(0..0, page)
        } else {
            keys.splice(keys.len().., page)
        };
        if !slice.has_more {
            return keys;
        }
    }
}

#[tokio::test]
async fn pages_in_both_directions_show_each_row_once_also_while_rows_are_added() {
    let mut history = History::new(28).await;
    let folder = Folder::new();
    let (models, _followers) = following(&folder, &history).await;
    for _ in 0..200 {
        history.anything().await;
    }
    caught_up(&models, &history).await;
    let scope = TenantScope(history.tenants[0]);
    for statuses in [vec![], vec![DeliveryStatus::Failed, DeliveryStatus::Pending, DeliveryStatus::Failed]] {
        let filter = DeliveryFilter { statuses, ..DeliveryFilter::default() };
        let page_of = async |page: Page| models.deliveries(scope, &filter, &page).await.unwrap();
        let whole: Vec<Key> = page_of(all()).await.rows.into_iter().map(|(key, _)| key).collect();
        assert!(whole.len() > 10 && whole.is_sorted_by(|one, other| one > other));
        for limit in [1, 3, whole.len(), whole.len() + 1] {
            assert_eq!(walk(page_of, false, limit).await, whole);
            assert_eq!(walk(page_of, true, limit).await, whole);
        }
        // Between two keys, from either end.
        let (after, before) = (Some(whole[2].clone()), Some(whole[8].clone()));
        for (from_end, part) in [(false, &whole[3..6]), (true, &whole[5..8])] {
            let slice = page_of(Page { after: after.clone(), before: before.clone(), limit: 3, from_end }).await;
            assert_eq!(slice.rows.iter().map(|(key, _)| key).collect::<Vec<_>>(), part.iter().collect::<Vec<_>>());
            assert!(slice.has_more);
        }
    }
    let audit = async |page: Page| models.audit(scope, &AuditFilter::default(), &page).await.unwrap();
    let first = audit(Page::first(5)).await;
    let second = audit(Page { after: first.rows.last().map(|(key, _)| key.clone()), ..Page::first(5) }).await;
    for _ in 0..100 {
        history.anything().await;
    }
    caught_up(&models, &history).await;
    let again = audit(Page { after: first.rows.last().map(|(key, _)| key.clone()), ..Page::first(5) }).await;
    assert_eq!(again, second);
}

#[tokio::test]
async fn attempts_are_paged_by_number() {
    let (mut history, tenant, subscription) = small(29).await;
    for _ in 0..5 {
        history.attempt_all(subscription, Some(500)).await;
    }
    let folder = Folder::new();
    let (models, _followers) = following(&folder, &history).await;
    caught_up(&models, &history).await;
    let delivery = deliveries(&models, tenant).await[0].id;
    let page_of = async |page: Page| models.attempts(TenantScope(tenant), delivery, &page).await.unwrap();
    for backward in [false, true] {
        let numbers: Vec<i64> = walk(page_of, backward, 2).await.into_iter().map(|key| key.0).collect();
        assert_eq!(numbers, [1, 2, 3, 4, 5]);
    }
}

#[tokio::test]
async fn nothing_of_another_tenant_is_found() {
    let (mut history, tenant, subscription) = small(30).await;
    history.attempt_all(subscription, Some(200)).await;
    history.event_type(tenant, "order.shipped").await;
    history.api_key(tenant).await;
    let stranger = TenantScope(history.tenant().await);
    let folder = Folder::new();
    let (models, _followers) = following(&folder, &history).await;
    caught_up(&models, &history).await;
    let owner = TenantScope(tenant);
    let (_, message, _) = history.messages[0];
    let delivery = deliveries(&models, tenant).await[0].id;
    let name = EventType::parse("order.shipped").unwrap();
    let entry = models.audit(owner, &AuditFilter::default(), &all()).await.unwrap().rows[0].1.position;

    // The owner finds each of them, so that nothing is hidden by a mistake of this test.
    for (scope, found) in [(owner, true), (stranger, false)] {
        assert_eq!(models.webhook(scope, subscription).await.unwrap().is_some(), found);
        assert_eq!(!models.webhooks_by_ids(scope, &[subscription]).await.unwrap().is_empty(), found);
        assert_eq!(models.webhook_counts(scope).await.unwrap().total > 0, found);
        assert_eq!(models.message(scope, message).await.unwrap().is_some(), found);
        assert_eq!(!models.messages_by_ids(scope, &[message]).await.unwrap().is_empty(), found);
        assert_eq!(models.delivery(scope, delivery).await.unwrap().is_some(), found);
        assert_eq!(!models.deliveries_by_ids(scope, &[delivery]).await.unwrap().is_empty(), found);
        assert_eq!(models.attempt(scope, delivery, 1).await.unwrap().is_some(), found);
        assert_eq!(!models.attempts(scope, delivery, &all()).await.unwrap().rows.is_empty(), found);
        assert_eq!(models.event_type(scope, &name).await.unwrap().is_some(), found);
        assert_eq!(!models.event_types(scope).await.unwrap().is_empty(), found);
        assert_eq!(!models.api_keys(scope, &all()).await.unwrap().rows.is_empty(), found);
        assert_eq!(models.audit_entry(scope, entry).await.unwrap().is_some(), found);
        let target = Some(subscription.to_string());
        let audit = AuditFilter { target, ..AuditFilter::default() };
        assert_eq!(!models.audit(scope, &audit, &all()).await.unwrap().rows.is_empty(), found);
        let webhooks = webhooks(&models, scope, &WebhookFilter::default()).await;
        assert_eq!(!webhooks.rows.is_empty(), found);
        for filter in [
            DeliveryFilter::default(),
            DeliveryFilter { subscription: Some(subscription), ..DeliveryFilter::default() },
            DeliveryFilter { message: Some(message), ..DeliveryFilter::default() },
        ] {
            assert_eq!(!models.deliveries(scope, &filter, &all()).await.unwrap().rows.is_empty(), found);
        }
        for event_type in [None, Some(EventType::parse("order.created").unwrap())] {
            let messages = models
                .messages(scope, &MessageFilter { event_type, ..MessageFilter::default() }, &all())
                .await
                .unwrap();
            assert_eq!(!messages.rows.is_empty(), found);
        }
    }
}
