//! A deleted webhook is found, brought back and used again through the API, over both databases.

use serde_json::{Value, json};

use crate::support::receiver::Receiver;
use crate::support::server::{Kind, Server, on_both};

const CREATE: &str = "mutation($input: CreateWebhookInput!) { m: createWebhook(input: $input) {
    webhook { id } userErrors { code message } } }";
const DELETE: &str = "mutation($id: ID!) { m: deleteWebhook(input: { webhookId: $id }) { userErrors { code } } }";
const RESTORE: &str = "mutation($id: ID!) { m: restoreWebhook(input: { webhookId: $id }) {
    webhook { id enabled url description version eventFilters rateLimitPerSecond } position userErrors { code path } } }";
const ENABLE: &str = "mutation($id: ID!) { m: enableWebhook(input: { webhookId: $id }) { userErrors { code } } }";
const PUBLISH: &str = "mutation { m: publishMessage(input: { type: \"user.created\", data: {} }) { message { id } userErrors { code } } }";
const DELETED: &str =
    "{ deletedWebhooks { nodes { webhookId url description profile version deletedAt restorableUntil } } }";
const PAST: &str = "query($id: ID!) {
    webhookHistory(id: $id) { nodes { version deleted restored enabled openDeliveries changes { field } } }
    auditLog(first: 3) { nodes { code } } sequenceReport(webhookId: $id) { delivered undeliveredCount lastKnown } }";
const BACKFILL: &str = "mutation($id: ID!, $from: BackfillFrom!) {
    m: startBackfill(input: { webhookId: $id, from: $from }) { userErrors { code } } }";
const EXPLAIN: &str =
    "query($message: ID!, $id: ID!) { explainDelivery(messageId: $message, webhookId: $id) { verdict } }";

async fn create(server: &Server, receiver: &Receiver, profile: &str) -> Value {
    let input = json!({
        "url": receiver.url("/hook"), "eventFilters": ["user.created"], "enabled": true, "profile": profile,
        "description": "a shop", "rateLimitPerSecond": 50,
    });
    server.data(CREATE, json!({ "input": input })).await["m"]["webhook"]["id"].take()
}

/// Does it to the webhook, and answers with what came of it.
async fn change(server: &Server, mutation: &str, id: &Value) -> Value {
    server.data(mutation, json!({ "id": id })).await["m"].take()
}

async fn a_deleted_webhook_is_listed_and_restored_with_its_past(kind: Kind) {
    let receiver = Receiver::start().await;
    let mut server = Server::start_on(kind, &receiver.ca_file()).await;
    let id = create(&server, &receiver, "standard-v1").await;
    server.data(PUBLISH, json!({})).await;
    receiver.wait_for(1).await;
    server.until(PAST, json!({ "id": id }), |data| data["sequenceReport"]["delivered"] == json!(1)).await;
    assert_eq!(change(&server, DELETE, &id).await["userErrors"], json!([]));
    let listed = server.data(DELETED, json!({})).await["deletedWebhooks"]["nodes"].take();
    let [one] = listed.as_array().unwrap().as_slice() else { panic!("{listed}") };
    assert_eq!((&one["webhookId"], &one["description"], &one["version"]), (&id, &json!("a shop"), &json!(1)));
    assert!(one["restorableUntil"].as_str().unwrap() > one["deletedAt"].as_str().unwrap(), "{one}");
    let missed = server.data(PUBLISH, json!({})).await["m"]["message"]["id"].take();

    server.kill();
    server.restart();
    let restored = change(&server, RESTORE, &id).await;
    let expected = json!({
        "id": id, "enabled": false, "url": receiver.url("/hook"), "description": "a shop", "version": 3,
        "eventFilters": ["user.created"], "rateLimitPerSecond": 50,
    });
    assert_eq!((&restored["webhook"], &restored["userErrors"]), (&expected, &json!([])));
    assert!(restored["position"].is_string());
    assert_eq!(server.data(DELETED, json!({})).await["deletedWebhooks"]["nodes"], json!([]));
    let again = change(&server, RESTORE, &id).await;
    assert_eq!((&again["webhook"], &again["position"]), (&expected, &Value::Null));

    let past = server.data(PAST, json!({ "id": id })).await;
    let version = |number: u32, deleted: bool, restored: bool, enabled: bool, changes: Value| {
        json!({ "version": number, "deleted": deleted, "restored": restored, "enabled": enabled,
            "openDeliveries": 0, "changes": changes })
    };
    let versions = past["webhookHistory"]["nodes"].as_array().unwrap();
    assert_eq!(versions[0], version(3, false, true, false, json!([{ "field": "ENABLED" }])));
    assert_eq!(versions[1], version(2, true, false, true, json!([])));
    let codes = json!([{ "code": "TENANT_WEBHOOK_RESTORED" }, { "code": "TENANT_WEBHOOK_DELETED" },
        { "code": "TENANT_WEBHOOK_CREATED" }]);
    assert_eq!(past["auditLog"]["nodes"], codes);

    assert_eq!(change(&server, ENABLE, &id).await["userErrors"], json!([]));
    server.data(PUBLISH, json!({})).await;
    let requests = receiver.wait_for(2).await;
    assert_eq!(requests[1].header("webhook-sequence"), Some("2"));
    let report = |data: &Value| data["sequenceReport"]["delivered"] == json!(2);
    let seen = server.until(PAST, json!({ "id": id }), report).await["sequenceReport"].take();
    assert_eq!(seen, json!({ "delivered": 2, "undeliveredCount": 0, "lastKnown": "2" }));
    let why = server.data(EXPLAIN, json!({ "message": missed, "id": id })).await;
    assert_eq!(why["explainDelivery"]["verdict"], json!("WEBHOOK_DELETED"));
    assert_eq!(receiver.requests().len(), 2);

    // What was published meanwhile comes by a backfill, if anybody wants it.
    let from = json!({ "time": "2000-01-01T00:00:00Z" });
    let started = server.data(BACKFILL, json!({ "id": id, "from": from })).await;
    assert_eq!(started["m"]["userErrors"], json!([]));
    let requests = receiver.wait_for(3).await;
    assert_eq!(Some(requests[2].header("webhook-id").unwrap()), missed.as_str());
}

async fn where_a_deletion_is_for_ever_nothing_is_listed_and_a_restoration_refused(kind: Kind) {
    let receiver = Receiver::start().await;
    let server = Server::start_on(kind, &receiver.ca_file()).await;
    let id = create(&server, &receiver, "axie-v1").await;
    assert_eq!(change(&server, DELETE, &id).await["userErrors"], json!([]));
    assert_eq!(server.data(DELETED, json!({})).await["deletedWebhooks"]["nodes"], json!([]));
    let refused = change(&server, RESTORE, &id).await;
    let error = json!({ "code": "WEBHOOK_NOT_RESTORABLE", "path": ["input", "webhookId"] });
    assert_eq!((&refused["webhook"], &refused["userErrors"]), (&Value::Null, &json!([error])));
    let nobody = change(&server, RESTORE, &json!("wh_01KAR4SKMR8JE11RP4D1JYK1T2")).await;
    assert_eq!(nobody["userErrors"][0]["code"], json!("NOT_FOUND"));
}

on_both!(
    a_deleted_webhook_is_listed_and_restored_with_its_past,
    where_a_deletion_is_for_ever_nothing_is_listed_and_a_restoration_refused,
);
