//! A webhook that delivers in order, through the API, with a real endpoint.

use serde_json::{Value, json};
use tidings::clock::{Clock, SystemClock};

use crate::support::receiver::{Receiver, Script};
use crate::support::server::{Kind, Server, on_both};

const CREATE: &str = "mutation($input: CreateWebhookInput!) { createWebhook(input: $input) {
    webhook { id ordered } userErrors { code message } } }";
const UPDATE: &str = "mutation($input: UpdateWebhookInput!) { updateWebhook(input: $input) {
    webhook { ordered version } userErrors { code message } } }";
const HOLD: &str = "mutation($input: HoldWebhookInput!) { holdWebhook(input: $input) { userErrors { code message } } }";
const MOVE: &str = "mutation($input: RescheduleDeliveryInput!) { rescheduleDelivery(input: $input) {
    userErrors { code message } } }";
const PUBLISH: &str = "mutation($input: PublishMessageInput!) { publishMessage(input: $input) {
    message { id } userErrors { code message } } }";
const WAITING: &str =
    "query($id: ID!) { webhook(id: $id) { timers { pending deliveries { nodes { deliveryId messageId wait } } } } }";
const EXPLAIN: &str = "query($message: ID!, $webhook: ID!) {
    explainDelivery(messageId: $message, webhookId: $webhook) { verdict reason } }";
const PAST: &str = "query($id: ID!) {
    first: webhookSnapshot(id: $id, asOf: { version: 1 }) { ordered }
    webhookHistory(id: $id, first: 10) { nodes { version ordered changes { field from to } } } }";
const AUDIT: &str = "{ auditLog(first: 50) { nodes { code changes } } }";

async fn hold(server: &Server, id: &Value, until: Value) {
    let held = server.data(HOLD, json!({ "input": { "webhookId": id, "until": until } })).await;
    assert_eq!(held["holdWebhook"]["userErrors"], json!([]));
}

async fn move_to(server: &Server, delivery: &Value, due_at: Value) {
    let known = |data: &Value| data["delivery"]["id"] == *delivery;
    server.until("query($id: ID!) { delivery(id: $id) { id } }", json!({ "id": delivery }), known).await;
    let moved = server.data(MOVE, json!({ "input": { "deliveryId": delivery, "at": due_at } })).await;
    assert_eq!(moved["rescheduleDelivery"]["userErrors"], json!([]));
}

fn in_an_hour() -> Value {
    json!(SystemClock.now().plus_ms(3_600_000).to_rfc3339_ms())
}

async fn an_ordered_webhook_delivers_one_message_after_another(kind: Kind) {
    // S33
    let receiver = Receiver::start().await;
    receiver.on_each("/orders", [Script::status(500), Script::status(200)]);
    let server = Server::start_on(kind, &receiver.ca_file()).await;
    let input = json!({ "url": receiver.url("/orders"), "eventFilters": ["user.created"], "enabled": true,
        "profile": "axie-v1", "ordered": true });
    let created = server.data(CREATE, json!({ "input": input })).await["createWebhook"].take();
    assert_eq!((&created["userErrors"], &created["webhook"]["ordered"]), (&json!([]), &json!(true)));
    let id = &created["webhook"]["id"];
    hold(&server, id, json!("2099-01-01T00:00:00.000Z")).await;
    let mut messages = vec![];
    for _ in 0..3 {
        let input = json!({ "type": "user.created", "data": {} });
        messages.push(server.data(PUBLISH, json!({ "input": input })).await["publishMessage"]["message"]["id"].take());
    }
    let behind = |data: &Value| {
        let waiting = data["webhook"]["timers"]["deliveries"]["nodes"].as_array().unwrap();
        let ordered: Vec<_> = waiting.iter().filter(|timer| timer["wait"] == json!("ORDERED")).collect();
        ordered.len() == 2 && ordered.iter().all(|timer| timer["messageId"] != messages[0])
    };
    let waiting = server.until(WAITING, json!({ "id": id }), behind).await["webhook"]["timers"].take();
    let waiting = waiting["deliveries"]["nodes"].as_array().unwrap();
    let head = waiting.iter().find(|timer| timer["messageId"] == messages[0]).unwrap();
    assert_eq!(head["wait"], json!("HELD"));
    move_to(&server, &head["deliveryId"], in_an_hour()).await;
    hold(&server, id, Value::Null).await;
    let told = |data: &Value| {
        let reason = data["explainDelivery"]["reason"].as_str();
        reason.is_some_and(|reason| reason.contains("older messages have had their turn"))
    };
    server.until(EXPLAIN, json!({ "message": messages[2], "webhook": id }), told).await;

    // The first one fails, and the others wait for its retry.
    move_to(&server, &head["deliveryId"], json!("2020-01-01T00:00:00.000Z")).await;
    let received = receiver.wait_for(4).await;
    let sequences: Vec<_> = received.iter().map(|request| request.header("webhook-sequence").unwrap()).collect();
    assert_eq!(sequences, ["1", "1", "2", "3"]);
    let sent: Vec<_> = received[1..].iter().map(|request| json!(request.header("webhook-id").unwrap())).collect();
    assert_eq!(sent, messages);

    let changed = server.data(UPDATE, json!({ "input": { "webhookId": id, "ordered": false } })).await;
    assert_eq!(changed["updateWebhook"]["webhook"], json!({ "ordered": false, "version": 4 }));
    let kept = server.data(UPDATE, json!({ "input": { "webhookId": id, "description": "orders" } })).await;
    assert_eq!(kept["updateWebhook"]["webhook"], json!({ "ordered": false, "version": 5 }));
    let past = server.data(PAST, json!({ "id": id })).await;
    assert_eq!(past["first"]["ordered"], json!(true));
    let change = json!({ "field": "ORDERED", "from": true, "to": false });
    let versions = past["webhookHistory"]["nodes"].as_array().unwrap();
    assert!(versions.iter().any(|version| version["changes"] == json!([change])), "{versions:?}");
    let audited = |data: &Value| {
        let rows = data["auditLog"]["nodes"].as_array().unwrap();
        let has = |code: &str, change: Value| {
            rows.iter().any(|row| row["code"] == json!(code) && row["changes"]["ordered"] == change)
        };
        has("TENANT_WEBHOOK_CREATED", json!({ "from": null, "to": true }))
            && has("TENANT_WEBHOOK_UPDATED", json!({ "from": true, "to": false }))
    };
    server.until(AUDIT, json!({}), audited).await;
}

on_both! {
    an_ordered_webhook_delivers_one_message_after_another,
}
