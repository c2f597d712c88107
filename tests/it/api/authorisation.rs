//! Who may ask what: a table of every root field, and what each key gets.

use std::collections::BTreeSet;

use serde_json::{Value, json};
use tidings::domain::scope::Scope;

use super::{Api, URL};
use crate::support::server::{Kind, on_both};

on_both!(
    a_root_field_answers_a_key_with_its_scope_and_refuses_one_with_all_others,
    no_root_field_answers_without_a_key_that_works,
    a_key_that_only_reads_changes_nothing,
    anothers_things_are_like_things_that_do_not_exist,
);

/// Every root field with the scope it needs, and a call. `None`: any key.
const FIELDS: [(&str, Option<Scope>, &str); 66] = [
    ("rateLimit", None, "{ rateLimit { remaining } }"),
    ("viewer", None, "{ viewer { name } }"),
    ("node", None, "{ node(id: \"xxx_1\") { id } }"),
    ("nodes", None, "{ nodes(ids: [\"xxx_1\"]) { id } }"),
    ("erasure", Some(Scope::MessagesErase), "{ erasure(id: \"era_1\") { id state } }"),
    (
        "eraseMessages",
        Some(Scope::MessagesErase),
        "mutation { eraseMessages(input: { messageIds: [\"evt_1\"] }) { userErrors { code } } }",
    ),
    (
        "eraseMessagesOfSubject",
        Some(Scope::MessagesErase),
        "mutation { eraseMessagesOfSubject(input: { pointer: \"x\", equals: 1 }) { userErrors { code } } }",
    ),
    (
        "eraseTenant",
        Some(Scope::TenantsAdmin),
        "mutation { eraseTenant(input: { tenantId: \"ten_1\", slug: \"x\" }) { userErrors { code } } }",
    ),
    ("webhook", Some(Scope::WebhooksRead), "{ webhook(id: \"wh_1\") { id } }"),
    ("webhooks", Some(Scope::WebhooksRead), "{ webhooks { nodes { id } } }"),
    ("deletedWebhooks", Some(Scope::WebhooksRead), "{ deletedWebhooks { nodes { webhookId } } }"),
    (
        "webhookSnapshot",
        Some(Scope::WebhooksRead),
        "{ webhookSnapshot(id: \"wh_1\", asOf: { version: 1 }) { version openDeliveries } }",
    ),
    ("webhookHistory", Some(Scope::WebhooksRead), "{ webhookHistory(id: \"wh_1\") { nodes { version } } }"),
    ("webhookSummary", Some(Scope::WebhooksRead), "{ webhookSummary { total } }"),
    ("alerts", Some(Scope::WebhooksRead), "{ alerts { kind message } }"),
    ("deliveryStats", Some(Scope::WebhooksRead), "{ deliveryStats { succeeded series { startsAt } } }"),
    (
        "filterPreview",
        Some(Scope::WebhooksRead),
        "{ filterPreview(filters: [\"user.*\"]) { messagesMatched eventTypes { name } hints { filter } } }",
    ),
    ("delivery", Some(Scope::DeliveriesRead), "{ delivery(id: \"dlv_1\") { id } }"),
    ("deliveries", Some(Scope::DeliveriesRead), "{ deliveries { nodes { id } } }"),
    (
        "explainDelivery",
        Some(Scope::DeliveriesRead),
        "{ explainDelivery(messageId: \"evt_1\", webhookId: \"wh_1\") { verdict } }",
    ),
    ("sequenceReport", Some(Scope::DeliveriesRead), "{ sequenceReport(webhookId: \"wh_1\") { delivered } }"),
    ("ledger", Some(Scope::DeliveriesRead), "{ ledger { unaccounted checkedThrough } }"),
    ("message", Some(Scope::DeliveriesRead), "{ message(id: \"evt_1\") { id } }"),
    ("messages", Some(Scope::DeliveriesRead), "{ messages { nodes { id } } }"),
    ("eventType", Some(Scope::WebhooksRead), "{ eventType(name: \"user.created\") { id } }"),
    ("eventTypes", Some(Scope::WebhooksRead), "{ eventTypes { nodes { id } } }"),
    ("auditLog", Some(Scope::AuditRead), "{ auditLog { nodes { id } } }"),
    ("apiKeys", Some(Scope::KeysAdmin), "{ apiKeys { nodes { id } } }"),
    ("tenant", None, "{ tenant(id: \"ten_1\") { id } }"),
    ("tenants", Some(Scope::TenantsAdmin), "{ tenants { nodes { id } } }"),
    ("systemAuditLog", Some(Scope::TenantsAdmin), "{ systemAuditLog { nodes { id } } }"),
    ("quarantine", Some(Scope::TenantsAdmin), "{ quarantine { stream } }"),
    ("projections", Some(Scope::TenantsAdmin), "{ projections { name } }"),
    ("profiles", Some(Scope::WebhooksRead), "{ profiles { name } }"),
    (
        "createWebhook",
        Some(Scope::WebhooksWrite),
        "mutation { createWebhook(input: { url: \"x\" }) { userErrors { code } } }",
    ),
    (
        "updateWebhook",
        Some(Scope::WebhooksWrite),
        "mutation { updateWebhook(input: { webhookId: \"wh_1\" }) { userErrors { code } } }",
    ),
    (
        "enableWebhook",
        Some(Scope::WebhooksWrite),
        "mutation { enableWebhook(input: { webhookId: \"wh_1\" }) { userErrors { code } } }",
    ),
    (
        "disableWebhook",
        Some(Scope::WebhooksWrite),
        "mutation { disableWebhook(input: { webhookId: \"wh_1\" }) { userErrors { code } } }",
    ),
    (
        "holdWebhook",
        Some(Scope::WebhooksWrite),
        "mutation { holdWebhook(input: { webhookId: \"wh_1\" }) { userErrors { code } } }",
    ),
    (
        "reenableWebhook",
        Some(Scope::WebhooksWrite),
        "mutation { reenableWebhook(input: { webhookId: \"wh_1\", backlog: DRAIN }) { userErrors { code } } }",
    ),
    (
        "deleteWebhook",
        Some(Scope::WebhooksWrite),
        "mutation { deleteWebhook(input: { webhookId: \"wh_1\" }) { userErrors { code } } }",
    ),
    (
        "restoreWebhook",
        Some(Scope::WebhooksWrite),
        "mutation { restoreWebhook(input: { webhookId: \"wh_1\" }) { userErrors { code } } }",
    ),
    (
        "rotateWebhookSecret",
        Some(Scope::SecretsRotate),
        "mutation { rotateWebhookSecret(input: { webhookId: \"wh_1\" }) { userErrors { code } } }",
    ),
    (
        "testWebhookDelivery",
        Some(Scope::WebhooksWrite),
        "mutation { testWebhookDelivery(input: { webhookId: \"wh_1\" }) { userErrors { code } } }",
    ),
    (
        "redeliverDelivery",
        Some(Scope::DeliveriesRedeliver),
        "mutation { redeliverDelivery(input: { deliveryId: \"dlv_1\" }) { userErrors { code } } }",
    ),
    (
        "rescheduleDelivery",
        Some(Scope::DeliveriesRedeliver),
        "mutation { rescheduleDelivery(input: { deliveryId: \"dlv_1\" }) { userErrors { code } } }",
    ),
    (
        "cancelDelivery",
        Some(Scope::DeliveriesRedeliver),
        "mutation { cancelDelivery(input: { deliveryId: \"dlv_1\" }) { userErrors { code } } }",
    ),
    (
        "redeliveryPreview",
        Some(Scope::DeliveriesRead),
        "{ redeliveryPreview(webhookId: \"wh_1\", selection: {}) { count } }",
    ),
    (
        "backfillPreview",
        Some(Scope::DeliveriesRead),
        "{ backfillPreview(webhookId: \"wh_1\", from: { position: \"0-1\" }) { count } }",
    ),
    (
        "startBackfill",
        Some(Scope::DeliveriesRedeliver),
        "mutation { startBackfill(input: { webhookId: \"wh_1\", from: { position: \"0-1\" } }) { userErrors { code } } }",
    ),
    (
        "startRedelivery",
        Some(Scope::DeliveriesRedeliver),
        "mutation { startRedelivery(input: { webhookId: \"wh_1\" }) { userErrors { code } } }",
    ),
    (
        "cancelJob",
        Some(Scope::DeliveriesRedeliver),
        "mutation { cancelJob(input: { webhookId: \"wh_1\", jobId: \"job_1\" }) { userErrors { code } } }",
    ),
    (
        "redeliverDeliveries",
        Some(Scope::DeliveriesRedeliver),
        "mutation { redeliverDeliveries(input: { deliveryIds: [\"dlv_1\"] }) { results { retry } userErrors { code } } }",
    ),
    (
        "publishMessage",
        Some(Scope::MessagesPublish),
        "mutation { publishMessage(input: { type: \"no.such\", data: {} }) { userErrors { code } } }",
    ),
    (
        "publishMessages",
        Some(Scope::MessagesPublish),
        "mutation { publishMessages(input: { messages: [{ type: \"no.such\", data: {} }] }) { userErrors { code } } }",
    ),
    (
        "registerEventType",
        Some(Scope::WebhooksWrite),
        "mutation { registerEventType(input: { name: \"\", description: \"\", category: \"\", schema: {}, example: {} })
            { userErrors { code } } }",
    ),
    (
        "updateEventType",
        Some(Scope::WebhooksWrite),
        "mutation { updateEventType(input: { name: \"no.such\" }) { userErrors { code } } }",
    ),
    (
        "createTenant",
        Some(Scope::TenantsAdmin),
        "mutation { createTenant(input: { name: \"\", slug: \"\" }) { userErrors { code } } }",
    ),
    (
        "createApiKey",
        Some(Scope::KeysAdmin),
        "mutation { createApiKey(input: { name: \"x\", scopes: [] }) { userErrors { code } } }",
    ),
    ("users", Some(Scope::KeysAdmin), "{ users { nodes { id } } }"),
    (
        "createUser",
        Some(Scope::KeysAdmin),
        "mutation { createUser(input: { username: \"\", password: \"\", scopes: [] }) { userErrors { code } } }",
    ),
    (
        "resetUserCredentials",
        Some(Scope::KeysAdmin),
        "mutation { resetUserCredentials(input: { username: \"nobody\", password: \"\" }) { userErrors { code } } }",
    ),
    (
        "disableUser",
        Some(Scope::KeysAdmin),
        "mutation { disableUser(input: { username: \"nobody\" }) { userErrors { code } } }",
    ),
    (
        "updateTenant",
        Some(Scope::KeysAdmin),
        "mutation { updateTenant(input: {}) { userErrors { code } } }",
    ),
    ("stepUp", None, "mutation { stepUp(input: { totp: \"000000\" }) { userErrors { code } } }"),
    (
        "revokeApiKey",
        Some(Scope::KeysAdmin),
        "mutation { revokeApiKey(input: { apiKeyId: \"key_1\" }) { userErrors { code } } }",
    ),
];

/// Every field of the root `Subscription` with the scope it needs, and a call that is refused for its cursor only.
const LIVE_FIELDS: [(&str, Scope, &str); 3] = [
    (
        "deliveryUpdates",
        Scope::DeliveriesRead,
        "subscription { deliveryUpdates(after: \"x\") { cursor delivery { id } } }",
    ),
    ("webhookUpdates", Scope::WebhooksRead, "subscription { webhookUpdates(after: \"x\") { cursor webhookId } }"),
    ("auditLog", Scope::AuditRead, "subscription { auditLog(after: \"x\") { cursor node { id } } }"),
];

#[tokio::test(flavor = "multi_thread")]
async fn every_live_field_has_its_row_here_and_needs_its_scope() {
    let api = Api::start().await;
    let data = api.data("{ __schema { subscriptionType { fields { name } } } }", Value::Null).await;
    let fields = data["__schema"]["subscriptionType"]["fields"].as_array().unwrap();
    let fields: BTreeSet<_> = fields.iter().map(|field| field["name"].as_str().unwrap()).collect();
    assert_eq!(fields, LIVE_FIELDS.iter().map(|(name, ..)| *name).collect());
    for (name, scope, call) in LIVE_FIELDS {
        let others: Vec<_> = Scope::ALL.into_iter().filter(|other| *other != scope).collect();
        let (without, only) = (api.key(api.tenant, &others).await, api.key(api.tenant, &[scope]).await);
        assert_eq!(api.events(&without, call, &json!({})).await.refusal().await, "FORBIDDEN", "{name}");
        assert_eq!(api.events(&only, call, &json!({})).await.refusal().await, "INVALID_CURSOR", "{name}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn every_root_field_has_its_row_here() {
    let api = Api::start().await;
    let query = "{ __schema { queryType { fields { name } } mutationType { fields { name } } } }";
    let data = api.data(query, Value::Null).await;
    let roots = ["queryType", "mutationType"].into_iter().flat_map(|root| data["__schema"][root]["fields"].as_array());
    let fields: BTreeSet<_> = roots.flatten().map(|field| field["name"].as_str().unwrap().to_owned()).collect();
    assert_eq!(fields, FIELDS.iter().map(|(name, ..)| (*name).to_owned()).collect());
}

async fn a_root_field_answers_a_key_with_its_scope_and_refuses_one_with_all_others(kind: Kind) {
    let api = Api::on(kind).await;
    for scope in Scope::ALL {
        let others: Vec<_> = Scope::ALL.into_iter().filter(|other| *other != scope).collect();
        let (without, only) = (api.key(api.tenant, &others).await, api.key(api.tenant, &[scope]).await);
        for (name, needed, call) in FIELDS.iter().filter(|(_, needed, _)| *needed == Some(scope)) {
            let refused = api.answer(&without, call, &json!({})).await;
            assert_eq!(refused["errors"][0]["extensions"]["code"], json!("FORBIDDEN"), "{name}: {refused}");
            assert_eq!(refused["errors"][0]["path"], json!([name]));
            assert_eq!(refused["data"], json!({ *name: null }));
            let answered = api.answer(&only, call, &json!({})).await;
            assert!(answered.get("errors").is_none(), "{name} with {needed:?}: {answered}");
        }
    }
    let weakest = api.key(api.tenant, &[Scope::MessagesPublish]).await;
    for (name, _, call) in FIELDS.iter().filter(|(_, needed, _)| needed.is_none()) {
        let answered = api.answer(&weakest, call, &json!({})).await;
        assert!(answered.get("errors").is_none(), "{name}: {answered}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_root_field_that_fails_leaves_all_others_alone() {
    let api = Api::start().await;
    let weak = api.key(api.tenant, &[Scope::WebhooksRead]).await;
    let calls: Vec<_> = FIELDS.iter().filter(|(.., call)| !call.starts_with("mutation")).collect();
    let inside = |call: &str| call.trim().strip_prefix('{').and_then(|call| call.strip_suffix('}')).unwrap().to_owned();
    let document = format!("{{ {} }}", calls.iter().map(|(.., call)| inside(call)).collect::<String>());
    let alone: Vec<Value> = {
        let mut alone = vec![];
        for (name, _, call) in &calls {
            alone.push(api.answer(&weak, call, &json!({})).await["data"][name].clone());
        }
        alone
    };
    let together = api.answer(&weak, &document, &json!({})).await;
    for ((name, needed, _), alone) in calls.iter().zip(alone) {
        assert_eq!(together["data"][name].is_null(), alone.is_null(), "{name}: {together}");
        assert!(alone.is_null() || needed.is_none_or(|needed| needed == Scope::WebhooksRead), "{name}");
    }
    for error in together["errors"].as_array().unwrap() {
        assert_eq!(error["path"].as_array().unwrap().len(), 1, "{error}");
    }
}

async fn no_root_field_answers_without_a_key_that_works(kind: Kind) {
    let api = Api::on(kind).await;
    let withdrawn = api.key(api.tenant, &Scope::ALL).await;
    let id = api.answer(&withdrawn, "{ viewer { apiKeyId } }", &json!({})).await["data"]["viewer"]["apiKeyId"].clone();
    let revoke = "mutation($id: ID!) { revokeApiKey(input: { apiKeyId: $id }) { userErrors { code } } }";
    api.data(revoke, json!({ "id": id })).await;
    for (name, _, call) in FIELDS {
        let body = json!({ "query": call }).to_string();
        for request in [api.post(&withdrawn, body.clone()), api.post("tdk_x", body.clone()), api.anonymous(body)] {
            let answer = request.send().await.unwrap();
            assert_eq!(answer.status(), 401, "{name}");
            assert!(answer.headers().contains_key("www-authenticate"), "{name}");
            let answer: Value = serde_json::from_slice(&answer.bytes().await.unwrap()).unwrap();
            assert_eq!(answer["errors"][0]["extensions"]["code"], json!("UNAUTHENTICATED"), "{name}");
            assert!(answer.get("data").is_none(), "{name}");
        }
    }
}

async fn a_key_that_only_reads_changes_nothing(kind: Kind) {
    let api = Api::on(kind).await;
    let reading = [Scope::WebhooksRead, Scope::DeliveriesRead, Scope::AuditRead];
    let reader = api.key(api.tenant, &reading).await;
    for (name, needed, call) in FIELDS {
        let answer = api.answer(&reader, call, &json!({})).await;
        let may = needed.is_none_or(|needed| reading.contains(&needed));
        assert!(!may || !call.starts_with("mutation") || name == "stepUp", "{name} changes something");
        let code = &answer["errors"][0]["extensions"]["code"];
        assert_eq!(code == "FORBIDDEN", !may, "{name}: {answer}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_hangs_on_another_thing_needs_its_own_scope() {
    let api = Api::start().await;
    let create = "mutation($url: String!) { createWebhook(input: { url: $url }) { webhook { id } } }";
    let id = api.data(create, json!({ "url": URL })).await["createWebhook"]["webhook"]["id"].clone();
    let reader = api.key(api.tenant, &[Scope::WebhooksRead]).await;
    let query = "query($id: ID!) { webhook(id: $id) { id deliveries { nodes { id } } } viewer { tenant { webhooks { nodes { id } } } } }";
    let answer = api.answer(&reader, query, &json!({ "id": id })).await;
    assert_eq!(answer["data"]["webhook"], json!({ "id": id, "deliveries": null }));
    assert_eq!(answer["errors"][0]["extensions"]["code"], json!("FORBIDDEN"));
    assert_eq!(answer["errors"][0]["path"], json!(["webhook", "deliveries"]));
    assert_eq!(answer["data"]["viewer"]["tenant"]["webhooks"]["nodes"], json!([{ "id": id }]));
}

async fn anothers_things_are_like_things_that_do_not_exist(kind: Kind) {
    let api = Api::on(kind).await;
    let create = "mutation($url: String!, $schema: JSON!) {
        createWebhook(input: { url: $url, eventFilters: [\"**\"], enabled: true }) { webhook { id } }
        registerEventType(input: { name: \"order.paid\", description: \"\", category: \"orders\", schema: $schema, example: {} })
            { eventType { id } }
        publishMessage(input: { type: \"user.created\", data: {} }) { message { id } } }";
    let made = api.data(create, json!({ "url": URL, "schema": {} })).await;
    let deliveries = "{ deliveries { nodes { id attempts { nodes { id } } } } auditLog { nodes { id } } viewer { apiKeyId tenant { id } } }";
    let seen = loop {
        let seen = api.data(deliveries, json!({})).await;
        if seen["deliveries"]["nodes"][0]["attempts"]["nodes"][0]["id"].is_string() {
            break seen;
        }
        tokio::task::yield_now().await;
    };
    let ids = [
        &made["createWebhook"]["webhook"]["id"],
        &made["registerEventType"]["eventType"]["id"],
        &made["publishMessage"]["message"]["id"],
        &seen["deliveries"]["nodes"][0]["id"],
        &seen["deliveries"]["nodes"][0]["attempts"]["nodes"][0]["id"],
        &seen["auditLog"]["nodes"][0]["id"],
        &seen["viewer"]["apiKeyId"],
        &seen["viewer"]["tenant"]["id"],
    ];
    let query = "query($ids: [ID!]!) { nodes(ids: $ids) { __typename id } }";
    let own = api.data(query, json!({ "ids": ids })).await;
    let kinds: Vec<_> =
        own["nodes"].as_array().unwrap().iter().map(|node| node["__typename"].as_str().unwrap()).collect();
    let expected = ["Webhook", "EventType", "Message", "Delivery", "DeliveryAttempt", "AuditEntry", "ApiKey", "Tenant"];
    assert_eq!(kinds, expected);
    assert_eq!(own["nodes"].as_array().unwrap().iter().map(|node| &node["id"]).collect::<Vec<_>>(), ids);

    let other = api.clock.tenant_id();
    api.tenant(other, "other").await;
    let scopes: Vec<_> = Scope::ALL.into_iter().filter(|scope| *scope != Scope::TenantsAdmin).collect();
    let key = api.key(other, &scopes).await;
    let foreign = api.answer(&key, query, &json!({ "ids": ids })).await;
    assert_eq!(foreign, json!({ "data": { "nodes": vec![Value::Null; ids.len()] } }));
    for mutation in [
        "mutation($t: ID!) { m: publishMessage(input: { type: \"user.created\", data: {}, tenantId: $t }) { userErrors { code } } }",
        "mutation($t: ID!) { m: createWebhook(input: { url: \"x\", tenantId: $t }) { userErrors { code } } }",
        "mutation($t: ID!) { m: updateTenant(input: { tenantId: $t, unattendedKeys: false }) { userErrors { code } } }",
        "mutation($t: ID!) { m: createApiKey(input: { name: \"x\", scopes: [], tenantId: $t }) { userErrors { code } } }",
    ] {
        let answer = api.answer(&key, mutation, &json!({ "t": api.tenant })).await;
        assert_eq!(answer["data"]["m"]["userErrors"], json!([{ "code": "NOT_FOUND" }]), "{answer}");
    }
    let cursor = "{ webhooks { edges { cursor } } }";
    let cursor = api.data(cursor, json!({})).await["webhooks"]["edges"][0]["cursor"].clone();
    let query = "query($after: String!) { webhooks(after: $after) { nodes { id } } }";
    let answer = api.answer(&key, query, &json!({ "after": cursor })).await;
    assert_eq!(answer["errors"][0]["extensions"]["code"], json!("INVALID_CURSOR"));
}

#[tokio::test(flavor = "multi_thread")]
async fn nobody_hands_on_more_than_they_have() {
    let api = Api::start().await;
    let key = api.key(api.tenant, &[Scope::KeysAdmin, Scope::WebhooksRead]).await;
    let create = "mutation($scopes: [Scope!]!) { createApiKey(input: { name: \"x\", scopes: $scopes }) { token userErrors { code } } }";
    let more = api.answer(&key, create, &json!({ "scopes": ["WEBHOOKS_READ", "TENANTS_ADMIN"] })).await;
    assert_eq!(more["errors"][0]["extensions"]["code"], json!("FORBIDDEN"));
    let same = api.answer(&key, create, &json!({ "scopes": ["WEBHOOKS_READ", "KEYS_ADMIN"] })).await;
    assert!(same["data"]["createApiKey"]["token"].is_string(), "{same}");
}
