//! What streams tell, over SSE.

use std::collections::BTreeSet;
use std::sync::Arc;

use serde_json::{Value, json};
use tidings::domain::api_key::ApiKey;
use tidings::domain::event::ApiKeyIssued;
use tidings::domain::scope::Scope;
use tidings::domain::tenant::Command;
use tidings::event_store::MemoryStore;
use tidings::http::LiveConfig;

use super::{AUDIT, Api, DELIVERIES, URL, WEBHOOKS};

const ANY: &str = "{ viewer { name } }";

#[tokio::test(flavor = "multi_thread")]
async fn a_delivery_is_told_with_a_cursor_behind_which_the_rest_follows() {
    let api = Api::start().await;
    let webhook = api.create(json!({ "url": URL, "eventFilters": ["**"], "enabled": true })).await;
    let mut live = api.events(&api.key, DELIVERIES, &json!({})).await;
    let mut cursors = vec![];
    for _ in 0..3 {
        let message = api.publish_any().await;
        loop {
            let item = live.item().await;
            let delivery = &item["delivery"];
            // How an earlier one ended may be told twice.
            if cursors.iter().any(|(_, ended)| *ended == delivery["id"]) && delivery["message"]["id"] != message {
                assert_eq!(delivery["status"], "SUCCEEDED");
                continue;
            }
            assert_eq!((&delivery["webhookId"], &delivery["message"]["id"]), (&webhook, &message));
            // Whatever is told can be asked for.
            let known = api.data("query($id: ID!) { delivery(id: $id) { id } }", json!({ "id": delivery["id"] })).await;
            assert_eq!(known["delivery"]["id"], delivery["id"]);
            cursors.push((item["cursor"].clone(), delivery["id"].clone()));
            // What is read may be newer than the item, and never older.
            if delivery["status"] == json!("SUCCEEDED") {
                assert_eq!(item["attempt"], json!({ "number": 1 }));
                break;
            }
        }
    }
    let all: BTreeSet<_> = cursors.iter().map(|(_, id)| id.to_string()).collect();
    for (index, (cursor, _)) in cursors.iter().enumerate() {
        let rest: BTreeSet<_> = cursors[index + 1..].iter().map(|(_, id)| id.to_string()).collect();
        let mut resumed = api.events(&api.key, DELIVERIES, &json!({ "after": cursor })).await;
        let mut told = BTreeSet::new();
        while !rest.is_subset(&told) {
            told.insert(resumed.item().await["delivery"]["id"].to_string());
        }
        assert!(told.is_subset(&all));
    }
    let failed = json!({ "filter": { "statuses": ["FAILED"] }, "after": cursors[0].0 });
    assert_eq!(api.events(&api.key, DELIVERIES, &failed).await.refusal().await, "INVALID_CURSOR");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_deletion_tells_every_delivery_that_it_cancels() {
    let api = Api::start().await;
    let webhook = api.create(json!({ "url": URL, "eventFilters": ["**"], "enabled": true })).await;
    let hold = "mutation($id: ID!) { holdWebhook(input: { webhookId: $id, until: \"2099-01-01T00:00:00Z\" }) { userErrors { code } } }";
    assert_eq!(api.data(hold, json!({ "id": webhook })).await["holdWebhook"]["userErrors"], json!([]));
    let mut live = api.events(&api.key, DELIVERIES, &json!({ "filter": { "webhookId": webhook } })).await;
    let mut pending = BTreeSet::new();
    for _ in 0..3 {
        api.publish_any().await;
    }
    while pending.len() < 3 {
        pending.insert(live.item().await["delivery"]["id"].to_string());
    }
    let delete = "mutation($id: ID!) { deleteWebhook(input: { webhookId: $id }) { userErrors { code } } }";
    assert_eq!(api.data(delete, json!({ "id": webhook })).await["deleteWebhook"]["userErrors"], json!([]));
    let (mut cancelled, mut cursors) = (vec![], vec![]);
    for _ in 0..3 {
        let item = live.item().await;
        assert_eq!(item["delivery"]["status"], json!("CANCELLED"));
        cancelled.push(item["delivery"]["id"].to_string());
        cursors.push(item["cursor"].clone());
    }
    assert_eq!(cancelled.iter().cloned().collect::<BTreeSet<_>>(), pending);
    // In the midst of them too.
    let after = json!({ "filter": { "webhookId": webhook }, "after": cursors[0] });
    let mut resumed = api.events(&api.key, DELIVERIES, &after).await;
    for expected in &cancelled[1..] {
        assert_eq!(resumed.item().await["delivery"]["id"].to_string(), *expected);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_webhooks_life_is_told_and_ends_without_the_webhook() {
    let api = Api::start().await;
    let mut all = api.events(&api.key, WEBHOOKS, &json!({})).await;
    let webhook = api.create(json!({ "url": URL })).await;
    let created = all.item().await;
    assert_eq!((&created["code"], &created["webhookId"]), (&json!("TENANT_WEBHOOK_CREATED"), &webhook));
    assert_eq!(created["webhook"], json!({ "url": URL, "enabled": false }));
    let mut one = api.events(&api.key, WEBHOOKS, &json!({ "id": webhook })).await;
    api.create(json!({ "url": URL })).await;
    let enable = "mutation($id: ID!) { enableWebhook(input: { webhookId: $id }) { userErrors { code } } }";
    api.data(enable, json!({ "id": webhook })).await;
    let enabled = one.item().await;
    assert_eq!((&enabled["code"], &enabled["webhook"]["enabled"]), (&json!("TENANT_WEBHOOK_ENABLED"), &json!(true)));
    let delete = "mutation($id: ID!) { deleteWebhook(input: { webhookId: $id }) { userErrors { code } } }";
    api.data(delete, json!({ "id": webhook })).await;
    let deleted = one.item().await;
    assert_eq!((&deleted["code"], &deleted["webhook"]), (&json!("TENANT_WEBHOOK_DELETED"), &Value::Null));
    // An item shows how things stand when it comes: the webhook is gone by now.
    let mut resumed = api.events(&api.key, WEBHOOKS, &json!({ "after": created["cursor"] })).await;
    let codes = [resumed.item().await, resumed.item().await, resumed.item().await].map(|item| item["code"].clone());
    assert_eq!(json!(codes), json!(["TENANT_WEBHOOK_CREATED", "TENANT_WEBHOOK_ENABLED", "TENANT_WEBHOOK_DELETED"]));
}

#[tokio::test(flavor = "multi_thread")]
async fn the_audit_log_goes_on_from_the_querys_cursor() {
    let api = Api::start().await;
    let webhook = api.create(json!({ "url": URL })).await;
    let query = "{ auditLog(first: 1) { edges { cursor node { id } } } }";
    let newest = loop {
        let edge = api.data(query, json!({})).await["auditLog"]["edges"][0].take();
        let targeted = "query($id: ID!) { node(id: $id) { ... on AuditEntry { targetId } } }";
        if api.data(targeted, json!({ "id": edge["node"]["id"] })).await["node"]["targetId"] == webhook {
            break edge;
        }
        tokio::task::yield_now().await;
    };
    let other = api.create(json!({ "url": URL })).await;
    let mut live = api.events(&api.key, AUDIT, &json!({ "after": newest["cursor"] })).await;
    let item = live.item().await;
    assert_eq!((&item["node"]["code"], &item["node"]["targetId"]), (&json!("TENANT_WEBHOOK_CREATED"), &other));
    let filter = json!({ "filter": { "codes": ["TENANT_CREATED"] }, "after": item["cursor"] });
    assert_eq!(api.events(&api.key, AUDIT, &filter).await.refusal().await, "INVALID_CURSOR");
    for damaged in ["", "x", "AAAAAAAAAAAAAAAAAAAAAAAA"] {
        let refusal = api.events(&api.key, AUDIT, &json!({ "after": damaged })).await.refusal().await;
        assert_eq!(refusal, "INVALID_CURSOR");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn another_tenant_sees_only_its_own() {
    let api = Api::start().await;
    let other = api.clock.tenant_id();
    api.tenant(other, "other").await;
    let key =
        api.key(other, &[Scope::AuditRead, Scope::DeliveriesRead, Scope::WebhooksRead, Scope::WebhooksWrite]).await;
    let publisher = api.key(other, &[Scope::MessagesPublish]).await;
    let mut audit = api.events(&key, AUDIT, &json!({})).await;
    let mut webhooks = api.events(&key, WEBHOOKS, &json!({})).await;
    let mut deliveries = api.events(&key, DELIVERIES, &json!({})).await;
    let mut own = api.events(&api.key, DELIVERIES, &json!({})).await;
    let foreign = api.create(json!({ "url": URL, "eventFilters": ["**"], "enabled": true })).await;
    api.publish_any().await;
    let cursor = own.item().await["cursor"].take();
    let create = "mutation($url: String!) { createWebhook(input: { url: $url, eventFilters: [\"**\"], enabled: true }) { webhook { id } } }";
    let created = api.answer(&key, create, &json!({ "url": URL })).await;
    let id = &created["data"]["createWebhook"]["webhook"]["id"];
    let publish = "mutation { publishMessage(input: { type: \"user.created\", data: {} }) { message { id } } }";
    api.answer(&publisher, publish, &json!({})).await;
    assert_eq!(audit.item().await["node"]["targetId"], *id);
    assert_eq!(webhooks.item().await["webhookId"], *id);
    assert_eq!(deliveries.item().await["delivery"]["webhookId"], *id);
    let taken = api.events(&key, DELIVERIES, &json!({ "after": cursor })).await.refusal().await;
    assert_eq!(taken, "INVALID_CURSOR");
    // Watching somebody else's webhook is watching nothing: what comes next is one's own.
    let mut nothing = api.events(&key, WEBHOOKS, &json!({ "id": foreign })).await;
    let disable = "mutation($id: ID!) { disableWebhook(input: { webhookId: $id }) { userErrors { code } } }";
    api.data(disable, json!({ "id": foreign })).await;
    api.answer(&key, disable, &json!({ "id": id })).await;
    assert_eq!(webhooks.item().await["code"], json!("TENANT_WEBHOOK_DISABLED"));
    let revoke = "mutation($id: ID!) { revokeApiKey(input: { apiKeyId: $id }) { userErrors { code } } }";
    let key_id = api.answer(&key, "{ viewer { apiKeyId } }", &json!({})).await["data"]["viewer"]["apiKeyId"].clone();
    api.data(revoke, json!({ "id": key_id })).await;
    assert_eq!(nothing.refusal().await, "UNAUTHENTICATED");
}

#[tokio::test(flavor = "multi_thread")]
async fn queries_mutations_and_faulty_documents_are_answered_by_events() {
    let api = Api::start().await;
    let mut events = api.events(&api.key, ANY, &json!({})).await;
    assert_eq!(events.answer().await["data"], json!({ "viewer": { "name": "test" } }));
    assert_eq!(events.event().await, Some(("complete".to_owned(), String::new())));
    assert_eq!(events.event().await, None);
    let mut events = api.events(&api.key, super::CREATE, &json!({ "input": { "url": URL } })).await;
    assert!(events.answer().await["data"]["createWebhook"]["webhook"]["id"].is_string());
    for (query, code) in [
        ("subscription {", "GRAPHQL_PARSE_FAILED"),
        ("subscription { nothing }", "GRAPHQL_VALIDATION_FAILED"),
        ("subscription { auditLog { cursor } webhookUpdates { cursor } }", "GRAPHQL_VALIDATION_FAILED"),
        ("subscription { ...f } fragment f on Subscription { auditLog { cursor } }", "GRAPHQL_VALIDATION_FAILED"),
        ("subscription { auditLog(after: 7) { cursor } }", "GRAPHQL_VALIDATION_FAILED"),
    ] {
        assert_eq!(api.events(&api.key, query, &json!({})).await.refusal().await, code, "{query}");
    }
    let get = async |query: &str| {
        let query: String = url::form_urlencoded::Serializer::new(String::new()).append_pair("query", query).finish();
        let request = api.client.get(api.url(&format!("/graphql?{query}"))).bearer_auth(&api.key);
        request.header("accept", "text/event-stream").send().await.unwrap()
    };
    assert_eq!(
        get("mutation { deleteWebhook(input: { webhookId: \"x\" }) { position } }").await.status().as_u16(),
        405
    );
    assert_eq!(get(ANY).await.headers()["content-type"], "text/event-stream; charset=utf-8");
    assert_eq!(get("subscription { auditLog { cursor } }").await.status().as_u16(), 200);
    assert_eq!(api.ask_for_events("tdk_wrong", ANY, &json!({})).await.status().as_u16(), 401);
    let plain = api.answer(&api.key, "subscription { auditLog { cursor } }", &json!({})).await;
    assert_eq!(plain["errors"][0]["extensions"]["code"], json!("BAD_REQUEST"));
}

#[tokio::test(flavor = "multi_thread")]
async fn streams_are_bounded_and_make_room_when_they_end() {
    let live = LiveConfig { max_streams: 2, max_streams_per_key: 1, ..LiveConfig::default() };
    let api = Api::over_with(Arc::new(MemoryStore::new(1)), live).await;
    let first = api.events(&api.key, AUDIT, &json!({})).await;
    let refused = api.ask_for_events(&api.key, AUDIT, &json!({})).await;
    assert_eq!((refused.status().as_u16(), refused.headers()["retry-after"].to_str().unwrap()), (429, "5"));
    let refused: Value = serde_json::from_slice(&refused.bytes().await.unwrap()).unwrap();
    assert_eq!(refused["errors"][0]["extensions"], json!({ "code": "TOO_MANY_STREAMS", "retryAfterSeconds": 5 }));
    // Answers that come once need no seat.
    api.events(&api.key, ANY, &json!({})).await;
    let other = api.key(api.tenant, &[Scope::AuditRead]).await;
    let third = api.key(api.tenant, &[Scope::AuditRead]).await;
    let second = api.events(&other, AUDIT, &json!({})).await;
    assert_eq!(api.ask_for_events(&third, AUDIT, &json!({})).await.status().as_u16(), 429);
    drop((first, second));
    while api.ask_for_events(&third, AUDIT, &json!({})).await.status().as_u16() != 200 {
        tokio::task::yield_now().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stream_ends_when_its_key_expires() {
    let api = Api::start().await;
    let key = ApiKey::generate(api.clock.api_key_id(), &api.clock.random_bytes());
    let expires_at = Some(api.clock.now().plus_ms(2_000));
    let (id, hash, scopes) = (key.id(), api.keys.hash(&key), vec![Scope::AuditRead]);
    let issued = ApiKeyIssued { key: id, name: "brief".to_owned(), hash, scopes, expires_at };
    api.command(api.tenant, Command::IssueApiKey(issued)).await;
    let answer = api.ask_for_events(key.expose(), AUDIT, &json!({})).await;
    // On a machine that was asleep the key is too old already, and that is right too.
    if answer.status().as_u16() != 401 {
        assert_eq!(super::Events::of(answer).await.refusal().await, "UNAUTHENTICATED");
    }
    assert_eq!(api.ask_for_events(key.expose(), AUDIT, &json!({})).await.status().as_u16(), 401);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stream_that_cannot_be_paid_is_refused_by_an_event() {
    let api = Api::limited(tidings::rate_limit::Config { points_per_second: 1, burst_points: 7 }).await;
    api.data("{ viewer { name } }", json!({})).await;
    let mut events = api.events(&api.key, WEBHOOKS, &json!({})).await;
    assert_eq!(events.refusal().await, "THROTTLED");
    // With nothing at all left nothing begins.
    api.answer(&api.key, "{", &json!({})).await;
    let refused = api.ask_for_events(&api.key, WEBHOOKS, &json!({})).await;
    assert_eq!(refused.status().as_u16(), 429);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_item_waits_until_it_is_paid() {
    let api = Api::limited(tidings::rate_limit::Config { points_per_second: 200, burst_points: 20 }).await;
    let mut events = api.events(&api.key, WEBHOOKS, &json!({})).await;
    let other = api.key(api.tenant, &Scope::ALL).await;
    for _ in 0..8 {
        let input = json!({ "input": { "url": URL } });
        while api.answer(&other, super::CREATE, &input).await["data"].is_null() {
            tokio::task::yield_now().await;
        }
    }
    // Six points each: far more than a full budget, and none is lost.
    for _ in 0..8 {
        let item = events.item().await;
        assert_eq!(item["code"], json!("TENANT_WEBHOOK_CREATED"), "{item}");
    }
}
