//! The circuit breaker as a tenant meets it: through the API, over both databases, against a real endpoint.

use serde_json::{Value, json};

use crate::support::receiver::{Receiver, Script};
use crate::support::server::{Kind, Server, on_both};

const CREATE: &str = "mutation($input: CreateWebhookInput!) { createWebhook(input: $input) {
    webhook { id } userErrors { code message } } }";
const PUBLISH: &str = "mutation($input: PublishMessageInput!) { publishMessage(input: $input) {
    message { id } userErrors { code message } } }";
const CIRCUIT: &str = "query($id: ID!) { webhook(id: $id) { circuit { state waitingMessages nextProbeAt
    consecutiveFailures threshold openedAt lastError
    trip { cause failures outcome error deliveryId } } } }";
const REENABLE: &str = "mutation($input: ReenableWebhookInput!) { reenableWebhook(input: $input) {
    webhook { circuit { state } } userErrors { code } } }";
const REDELIVER: &str = "mutation($input: RedeliverDeliveryInput!) { redeliverDelivery(input: $input) {
    delivery { id status } userErrors { code } } }";
const DELIVERIES: &str =
    "{ deliveries(first: 50) { nodes { id status sequence attempts(first: 1) { nodes { failureClass } } } } }";
const AUDIT: &str = "{ auditLog(first: 50) { nodes { code actor { kind } changes } } }";

async fn publish(server: &Server) {
    let input = json!({ "type": "user.created", "data": {} });
    let published = server.data(PUBLISH, json!({ "input": input })).await;
    assert_eq!(published["publishMessage"]["userErrors"], json!([]));
}

fn state_is(state: &str) -> impl Fn(&Value) -> bool {
    move |data| data["webhook"]["circuit"]["state"] == json!(state)
}

async fn an_open_circuit_is_seen_and_enabled_again_through_the_api(kind: Kind) {
    // S22, S25, S29
    let receiver = Receiver::start().await;
    receiver.on("/down", Script::status(500));
    let server = Server::start_on(kind, &receiver.ca_file()).await;
    let input = json!({
        "url": receiver.url("/down"), "eventFilters": ["**"], "enabled": true, "profile": "axissynapse-v1",
    });
    let created = server.data(CREATE, json!({ "input": input })).await;
    let id = created["createWebhook"]["webhook"]["id"].clone();
    for count in 1..=10 {
        publish(&server).await;
        receiver.wait_for(count).await;
        let counts = |data: &Value| data["webhook"]["circuit"]["consecutiveFailures"].as_u64() > Some(0);
        let closed = server.until(CIRCUIT, json!({ "id": id }), counts).await;
        assert_eq!(closed["webhook"]["circuit"]["threshold"], json!(10));
    }
    let data = server.until(CIRCUIT, json!({ "id": id }), state_is("OPEN")).await;
    let circuit = &data["webhook"]["circuit"];
    assert_eq!(circuit["trip"]["cause"], json!("HARD_FAILURES"), "{circuit}");
    assert_eq!(circuit["consecutiveFailures"], circuit["trip"]["failures"], "{circuit}");
    assert_eq!(circuit["lastError"], circuit["trip"]["error"], "{circuit}");
    assert!(circuit["openedAt"].is_string(), "{circuit}");
    assert_eq!((&circuit["trip"]["outcome"], &circuit["nextProbeAt"]), (&json!("BAD_STATUS"), &Value::Null));

    let alerts = server.data("{ alerts { kind since webhookId webhook { id } } }", json!({})).await;
    let [alert] = alerts["alerts"].as_array().unwrap().as_slice() else { panic!("{alerts}") };
    assert_eq!((&alert["kind"], &alert["webhookId"]), (&json!("CIRCUIT_OPEN"), &id), "{alert}");
    assert!(alert["since"].is_string() && alert["webhook"]["id"] == id, "{alert}");

    for _ in 0..3 {
        publish(&server).await;
    }
    let waiting = |data: &Value| data["webhook"]["circuit"]["waitingMessages"] == json!(3);
    server.until(CIRCUIT, json!({ "id": id }), waiting).await;
    let deliveries = server.data(DELIVERIES, json!({})).await;
    let nodes = deliveries["deliveries"]["nodes"].as_array().unwrap();
    assert_eq!(nodes.len(), 10, "what waits was scheduled");
    assert!(nodes.iter().all(|node| node["status"] == json!("PENDING")), "{deliveries}");
    assert_eq!(nodes[0]["attempts"]["nodes"][0]["failureClass"], json!("HARD"));

    receiver.on("/down", Script::status(200));
    let wrong = json!({ "webhookId": id, "backlog": "SKIP_BEFORE" });
    let refused = server.data(REENABLE, json!({ "input": wrong })).await;
    assert_eq!(refused["reenableWebhook"]["userErrors"][0]["code"], json!("INVALID_INPUT"));
    let discard = json!({ "webhookId": id, "backlog": "DISCARD" });
    let reenabled = server.data(REENABLE, json!({ "input": discard })).await;
    assert_eq!(reenabled["reenableWebhook"]["webhook"]["circuit"]["state"], json!("HALF_OPEN"), "{reenabled}");
    publish(&server).await;
    let ended = |data: &Value| {
        let nodes = data["deliveries"]["nodes"].as_array().unwrap();
        let count = |status| nodes.iter().filter(|node| node["status"] == json!(status)).count();
        (count("CANCELLED"), count("SUCCEEDED")) == (10, 1)
    };
    let deliveries = server.until(DELIVERIES, json!({}), ended).await;
    assert_eq!(deliveries["deliveries"]["nodes"][0]["sequence"], json!("11"), "{deliveries}");

    let audit = server.data(AUDIT, json!({})).await;
    let of = |code: &str| {
        let nodes = audit["auditLog"]["nodes"].as_array().unwrap();
        nodes.iter().filter(|node| node["code"] == json!(code)).cloned().collect::<Vec<_>>()
    };
    let tripped = of("TENANT_WEBHOOK_CIRCUIT_TRIPPED");
    assert_eq!(tripped.len(), 1, "{audit}");
    assert_eq!(
        (tripped[0]["actor"]["kind"].clone(), tripped[0]["changes"]["failures"]["to"].clone()),
        (json!("SYSTEM"), json!(10))
    );
    let reenabled = of("TENANT_WEBHOOK_CIRCUIT_REENABLED");
    assert_eq!((reenabled.len(), &reenabled[0]["changes"]["cancelled"]["to"]), (1, &json!(10)));
}

async fn nothing_is_redelivered_into_an_open_circuit_unless_it_may_wait(kind: Kind) {
    // S22, S26
    let receiver = Receiver::start().await;
    let server = Server::start_on(kind, &receiver.ca_file()).await;
    let input = json!({
        "url": receiver.url("/hook"), "eventFilters": ["**"], "enabled": true, "profile": "axissynapse-v1",
    });
    let created = server.data(CREATE, json!({ "input": input })).await;
    let id = created["createWebhook"]["webhook"]["id"].clone();
    publish(&server).await;
    let done = |data: &Value| data["deliveries"]["nodes"][0]["status"] == json!("SUCCEEDED");
    let deliveries = server.until(DELIVERIES, json!({}), done).await;
    let delivery = deliveries["deliveries"]["nodes"][0]["id"].clone();
    receiver.on("/hook", Script::status(500));
    for count in 2..=11 {
        publish(&server).await;
        receiver.wait_for(count).await;
    }
    server.until(CIRCUIT, json!({ "id": id }), state_is("OPEN")).await;
    let refused = server.data(REDELIVER, json!({ "input": { "deliveryId": delivery } })).await;
    assert_eq!(refused["redeliverDelivery"]["userErrors"][0]["code"], json!("WEBHOOK_CIRCUIT_OPEN"));
    let queued = server.data(REDELIVER, json!({ "input": { "deliveryId": delivery, "queue": true } })).await;
    assert_eq!(queued["redeliverDelivery"]["delivery"]["status"], json!("PENDING"), "{queued}");
    assert_eq!(receiver.requests().len(), 11, "an open circuit was called");
}

on_both! {
    an_open_circuit_is_seen_and_enabled_again_through_the_api,
    nothing_is_redelivered_into_an_open_circuit_unless_it_may_wait,
}
