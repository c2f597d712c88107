//! What waits is seen, moved and called off through the API.

use serde_json::{Value, json};

use super::{Api, URL};

const CREATE: &str = "mutation($input: CreateWebhookInput!) { createWebhook(input: $input) {
    webhook { id } userErrors { code message } } }";
const HOLD: &str = "mutation($input: HoldWebhookInput!) { holdWebhook(input: $input) { userErrors { code message } } }";
const PUBLISH: &str = "mutation($input: PublishMessageInput!) { publishMessage(input: $input) {
    message { id } userErrors { code message } } }";
const TIMERS: &str = "query($id: ID!, $after: String) { webhook(id: $id) { timers {
    pending holdUntil endpointHoldUntil probeAt
    deliveries(first: 2, after: $after) { nodes { deliveryId messageId wait dueAt notBefore nextAttempt maxAttempts lastOutcome lastStatusCode }
        pageInfo { hasNextPage endCursor } } } } }";
const MOVE: &str = "mutation($input: RescheduleDeliveryInput!) { rescheduleDelivery(input: $input) {
    delivery { id status nextAttemptAt } position userErrors { code path } } }";
const CANCEL: &str = "mutation($input: CancelDeliveryInput!) { cancelDelivery(input: $input) {
    delivery { id status } position userErrors { code path } } }";

#[tokio::test(flavor = "multi_thread")]
async fn what_waits_is_seen_moved_and_called_off() {
    let api = Api::start().await;
    let input = json!({ "url": URL, "eventFilters": ["user.created"], "enabled": true });
    let id = api.data(CREATE, json!({ "input": input })).await["createWebhook"]["webhook"]["id"].take();
    let until = "2099-01-01T00:00:00.000Z";
    let held = api.data(HOLD, json!({ "input": { "webhookId": id, "until": until } })).await;
    assert_eq!(held["holdWebhook"]["userErrors"], json!([]));
    for _ in 0..3 {
        let published = api.data(PUBLISH, json!({ "input": { "type": "user.created", "data": {} } })).await;
        assert_eq!(published["publishMessage"]["userErrors"], json!([]));
    }
    let ask =
        async |after: Value| api.data(TIMERS, json!({ "id": id, "after": after })).await["webhook"]["timers"].take();
    // The matcher works beside us.
    let mut timers = ask(Value::Null).await;
    while timers["pending"] != json!(3) {
        tokio::task::yield_now().await;
        timers = ask(Value::Null).await;
    }
    assert_eq!(timers["holdUntil"], json!(until));
    let nodes = timers["deliveries"]["nodes"].as_array().unwrap();
    assert_eq!((nodes.len(), &timers["deliveries"]["pageInfo"]["hasNextPage"]), (2, &json!(true)));
    for node in nodes {
        assert_eq!((&node["wait"], &node["notBefore"]), (&json!("HELD"), &json!(until)));
        assert_eq!(
            (&node["nextAttempt"], &node["maxAttempts"], &node["lastOutcome"]),
            (&json!(1), &json!(8), &Value::Null)
        );
    }
    let rest = ask(timers["deliveries"]["pageInfo"]["endCursor"].clone()).await;
    let last = rest["deliveries"]["nodes"][0]["deliveryId"].clone();
    assert_eq!(rest["deliveries"]["nodes"].as_array().unwrap().len(), 1);
    assert!(nodes.iter().all(|node| node["deliveryId"] != last), "a page overlaps the next one");

    let in_an_hour = "2025-11-23T11:40:15.000Z";
    // It may be in no read model yet.
    let input = json!({ "deliveryId": last, "at": in_an_hour, "reason": "later" });
    let moved = api.data(MOVE, json!({ "input": input })).await["rescheduleDelivery"].take();
    assert_eq!(
        (&moved["delivery"]["nextAttemptAt"], &moved["userErrors"]),
        (&json!(in_an_hour), &json!([])),
        "{moved}"
    );
    let input = json!({ "deliveryId": last, "at": until });
    let refused = api.data(MOVE, json!({ "input": input })).await["rescheduleDelivery"].take();
    assert_eq!(refused["userErrors"], json!([{ "code": "INVALID_INPUT", "path": ["input", "at"] }]));

    let cancel = json!({ "input": { "deliveryId": last, "reason": "withdrawn" } });
    let cancelled = api.data(CANCEL, cancel.clone()).await["cancelDelivery"].take();
    assert_eq!((&cancelled["delivery"]["status"], &cancelled["userErrors"]), (&json!("CANCELLED"), &json!([])));
    let again = api.data(CANCEL, cancel).await["cancelDelivery"].take();
    assert_eq!(again["userErrors"], json!([{ "code": "DELIVERY_NOT_WAITING", "path": ["input", "deliveryId"] }]));
    assert_eq!(ask(Value::Null).await["pending"], json!(2));

    let audit = api.data("{ auditLog(first: 2) { nodes { code targetId changes } } }", json!({})).await;
    let rows = audit["auditLog"]["nodes"].as_array().unwrap();
    assert_eq!(
        (&rows[0]["code"], &rows[0]["changes"]["reason"]["to"]),
        (&json!("TENANT_DELIVERY_CANCELLED"), &json!("withdrawn"))
    );
    assert_eq!(
        (&rows[1]["code"], &rows[1]["changes"]["due_at"]["to"]),
        (&json!("TENANT_DELIVERY_RESCHEDULED"), &json!(in_an_hour))
    );
    assert!(rows.iter().all(|row| row["targetId"] == id), "{audit}");
}
