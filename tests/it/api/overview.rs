//! What the pages of both documents show: rows with counters and health, cards, statistics, alerts, and what things lead to.

use serde_json::{Value, json};

use super::{Api, URL};

const WEBHOOKS: &str = "query($order: WebhookOrder, $filter: WebhookFilter) {
    webhooks(orderBy: $order, filter: $filter) { nodes { id health lastDeliveryAt tenant { slug }
        deliveryCounts { pending succeeded failed cancelled }
        stats(window: LAST_HOUR) { window succeeded failed pending successRate attemptsFailed latencyMsP50 latencyMsP99
            series { startsAt succeeded latencyMsP95 } }
        deliveryProfile { name maxAttempts retryDelaysMs retryJitter retryWindowMs circuitBreaker { failures probes } } } } }";

async fn create(api: &Api, filters: &[&str], description: &str) -> Value {
    let create = "mutation($url: String!, $filters: [String!]!, $text: String!) { createWebhook(input: { url: $url,
        eventFilters: $filters, enabled: true, description: $text }) { webhook { id } userErrors { message } } }";
    let url = format!("{URL}/{description}");
    let made = api.data(create, json!({ "url": url, "filters": filters, "text": description })).await;
    made["createWebhook"]["webhook"]["id"].clone()
}

/// Publishes so many messages, and waits until they are delivered.
async fn deliver(api: &Api, count: usize) {
    let publish = "mutation { publishMessage(input: { type: \"user.created\", data: {} }) { message { id } } }";
    for _ in 0..count {
        api.data(publish, json!({})).await;
    }
    let query = "{ deliveries(filter: { statuses: [SUCCEEDED] }, first: 100) { nodes { id } } }";
    while api.data(query, json!({})).await["deliveries"]["nodes"].as_array().unwrap().len() < count {
        tokio::task::yield_now().await;
    }
}

fn ids(data: &Value) -> Vec<Value> {
    data["webhooks"]["nodes"].as_array().unwrap().iter().map(|node| node["id"].clone()).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_webhook_shows_counters_health_and_latencies() {
    // S2
    let api = Api::start().await;
    let busy = create(&api, &["user.*"], "b").await;
    let idle = create(&api, &["role.changed"], "a").await;
    deliver(&api, 3).await;
    let data = api.data(WEBHOOKS, json!({})).await;
    assert_eq!(ids(&data), [idle.clone(), busy.clone()]);
    let [quiet, row] = &data["webhooks"]["nodes"].as_array().unwrap()[..] else { panic!("{data}") };
    assert_eq!((&row["health"], &quiet["health"]), (&json!("HEALTHY"), &json!("UNKNOWN")));
    assert_eq!(row["deliveryCounts"], json!({ "pending": "0", "succeeded": "3", "failed": "0", "cancelled": "0" }));
    assert!(row["lastDeliveryAt"].is_string() && row["tenant"]["slug"] == "acme", "{row}");
    let stats = &row["stats"];
    assert_eq!((&stats["succeeded"], &stats["failed"], &stats["pending"]), (&json!("3"), &json!("0"), &json!("0")));
    assert_eq!((&stats["window"], &stats["successRate"]), (&json!("LAST_HOUR"), &json!(1.0)));
    assert_eq!((&stats["latencyMsP50"], &stats["latencyMsP99"]), (&json!(7), &json!(7)));
    let series = stats["series"].as_array().unwrap();
    let sum: u64 = series.iter().map(|step| step["succeeded"].as_str().unwrap().parse::<u64>().unwrap()).sum();
    assert_eq!((series.len(), sum, &quiet["stats"]["successRate"]), (12, 3, &Value::Null));
    let profile = &row["deliveryProfile"];
    let (attempts, delays) = (profile["maxAttempts"].as_u64().unwrap(), profile["retryDelaysMs"].as_array().unwrap());
    assert_eq!((profile["name"].as_str(), delays.len() as u64), (Some("standard-v1"), attempts - 1));
    assert!(profile["circuitBreaker"]["failures"].as_u64() > Some(0), "{profile}");

    let all =
        api.data("{ deliveryStats(window: LAST_24H) { succeeded latencyMsP95 series { startsAt } } }", json!({})).await;
    assert_eq!((&all["deliveryStats"]["succeeded"], &all["deliveryStats"]["latencyMsP95"]), (&json!("3"), &json!(7)));
    assert_eq!(all["deliveryStats"]["series"].as_array().unwrap().len(), 24);
    let cards = "{ webhookSummary { total active inactive circuitOpen eventTypes } alerts { kind } }";
    let cards = api.data(cards, json!({})).await;
    assert_eq!((&cards["webhookSummary"]["circuitOpen"], &cards["alerts"]), (&json!(0), &json!([])));
}

#[tokio::test(flavor = "multi_thread")]
async fn webhooks_are_ordered_and_filtered_as_asked() {
    // A4
    let api = Api::start().await;
    let (second, first) = (create(&api, &["user.*"], "b").await, create(&api, &["role.changed"], "a").await);
    deliver(&api, 1).await;
    for (field, direction, expected) in [
        ("URL", "ASC", [&first, &second]),
        ("URL", "DESC", [&second, &first]),
        ("CREATED_AT", "ASC", [&second, &first]),
        ("LAST_DELIVERY_AT", "DESC", [&second, &first]),
    ] {
        let data = api.data(WEBHOOKS, json!({ "order": { "field": field, "direction": direction } })).await;
        assert_eq!(ids(&data).iter().collect::<Vec<_>>(), expected, "{field} {direction}");
    }
    for (filter, expected) in [
        (json!({ "matchesEvent": "user.created" }), vec![&second]),
        (json!({ "matchesEvent": "not an event" }), vec![]),
        (json!({ "circuitStates": ["OPEN", "HALF_OPEN"] }), vec![]),
        (json!({ "circuitStates": ["CLOSED"], "enabled": true, "search": "/a" }), vec![&first]),
    ] {
        let data = api.data(WEBHOOKS, json!({ "filter": filter })).await;
        assert_eq!(ids(&data).iter().collect::<Vec<_>>(), expected, "{filter}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn deliveries_messages_and_audit_entries_are_found_by_every_condition() {
    // A33, A34, S29
    let api = Api::start().await;
    let webhook = create(&api, &["user.*"], "a").await;
    deliver(&api, 2).await;
    let query = "query($filter: DeliveryFilter) { deliveries(filter: $filter) { nodes { id createdAt } } }";
    let found = async |filter: Value| {
        let data = api.data(query, json!({ "filter": filter })).await;
        data["deliveries"]["nodes"].as_array().unwrap().len()
    };
    let now = api.data(query, json!({})).await["deliveries"]["nodes"][0]["createdAt"].clone();
    let (past, future) = ("2001-01-01T00:00:00Z", "2101-01-01T00:00:00Z");
    for (filter, expected) in [
        (json!({ "eventFilters": ["user.*"], "statusCodes": { "min": 200, "max": 299 } }), 2),
        (json!({ "eventFilters": ["role.**"] }), 0),
        (json!({ "eventFilters": [] }), 0),
        (json!({ "statusCodes": { "min": 300 } }), 0),
        (json!({ "createdAt": { "from": past, "to": future }, "webhookId": webhook }), 2),
        (json!({ "createdAt": { "from": future } }), 0),
        (json!({ "createdAt": { "to": past } }), 0),
        (json!({ "createdAt": { "from": past }, "statuses": ["FAILED"] }), 0),
    ] {
        assert_eq!(found(filter.clone()).await, expected, "{filter}");
    }
    assert!(found(json!({ "createdAt": { "from": now } })).await >= 1);
    let refused = api.answer(&api.key, query, &json!({ "filter": { "statusCodes": { "min": -1 } } })).await;
    assert_eq!(refused["errors"][0]["extensions"]["code"], json!("INVALID_INPUT"));
    let messages = "query($from: DateTime) { messages(filter: { createdAt: { from: $from } }) { nodes
        { type definition { name } tenant { slug } } } }";
    let data = api.data(messages, json!({ "from": past })).await;
    let of = json!({ "type": "user.created", "definition": { "name": "user.created" }, "tenant": { "slug": "acme" } });
    assert_eq!(data["messages"]["nodes"], json!([of, of]));
    assert_eq!(api.data(messages, json!({ "from": future })).await["messages"]["nodes"], json!([]));

    let audit = "query($filter: AuditFilter) { viewer { apiKeyId } auditLog(filter: $filter) { nodes
        { code target { __typename id } actor { id displayName } tenant { slug } } } }";
    let data = api.data(audit, json!({ "filter": { "codes": ["TENANT_WEBHOOK_CREATED"] } })).await;
    let [entry] = &data["auditLog"]["nodes"].as_array().unwrap()[..] else { panic!("{data}") };
    assert_eq!(entry["target"], json!({ "__typename": "Webhook", "id": webhook }));
    assert_eq!(entry["actor"], json!({ "id": data["viewer"]["apiKeyId"], "displayName": "test" }));
    let of = |actor: &Value| json!({ "filter": { "actorId": actor, "at": { "from": past } } });
    let found = api.data(audit, of(&data["viewer"]["apiKeyId"])).await;
    assert_eq!(found["auditLog"]["nodes"], json!([entry]));
    let system = api.data(audit, of(&json!("system"))).await;
    assert!(
        system["auditLog"]["nodes"].as_array().unwrap().iter().all(|node| node["actor"]["displayName"] == "system")
    );
}
