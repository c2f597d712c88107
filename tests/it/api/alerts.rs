//! What needs somebody's attention is told, and told no more once its reason has gone.

use std::sync::atomic::{AtomicU16, Ordering};

use super::sessions::Steered;
use super::*;

/// Answers with the status that the test chose last.
struct Chosen(AtomicU16);

#[async_trait]
impl Transport for Chosen {
    async fn post(&self, _: Request) -> Exchange {
        let status = self.0.load(Ordering::Relaxed);
        Exchange { latency_ms: 7, result: Ok(Response { status, ..Response::default() }) }
    }
}

const ALERTS: &str = "{ alerts { kind since message webhookId webhook { id } } }";
const PUBLISH: &str =
    "mutation { publishMessage(input: { type: \"user.created\", data: {} }) { message { id } userErrors { code } } }";
const ENABLE: &str = "mutation($id: ID!) { enableWebhook(input: { webhookId: $id }) { userErrors { code } } }";
const DELETE: &str = "mutation($id: ID!) { deleteWebhook(input: { webhookId: $id }) { userErrors { code } } }";
const FAILED: &str = "{ deliveries(filter: { statuses: [FAILED] }) { nodes { id completedAt } } }";
const REDELIVER: &str =
    "mutation($id: ID!) { redeliverDelivery(input: { deliveryId: $id }) { delivery { id } userErrors { code } } }";

impl Api {
    async fn alerts(&self) -> Vec<Value> {
        self.data(ALERTS, json!({})).await["alerts"].as_array().unwrap().clone()
    }

    async fn until_alerts(&self, count: usize) -> Vec<Value> {
        loop {
            let alerts = self.alerts().await;
            if alerts.len() == count {
                return alerts;
            }
            tokio::task::yield_now().await;
        }
    }

    /// The newest of so many failed deliveries.
    async fn failed(&self, count: usize) -> Value {
        loop {
            let nodes = self.data(FAILED, json!({})).await["deliveries"]["nodes"].take();
            if nodes.as_array().unwrap().len() == count {
                return nodes[0].clone();
            }
            tokio::task::yield_now().await;
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn failed_deliveries_are_an_alert_until_they_are_made_good_old_or_of_no_webhook() {
    drop(rustls::crypto::ring::default_provider().install_default());
    let (clock, endpoint) = (Steered::new(), Arc::new(Chosen(AtomicU16::new(410))));
    let settings = Settings { transport: Some(Arc::clone(&endpoint) as _), ..Settings::default() };
    let api = Api::build(Arc::new(MemoryStore::new(1)), Arc::clone(&clock) as _, settings).await;
    let create =
        "mutation($url: String!) { createWebhook(input: { url: $url, eventFilters: [\"**\"], enabled: true }) {
        webhook { id } } }";
    let webhook = api.data(create, json!({ "url": URL })).await["createWebhook"]["webhook"]["id"].take();
    let id = json!({ "id": webhook });
    assert_eq!(api.alerts().await, Vec::<Value>::new());

    api.data(PUBLISH, json!({})).await;
    let failed = api.failed(1).await;
    let expected = json!([{ "kind": "DELIVERIES_FAILED", "since": failed["completedAt"], "webhookId": webhook,
        "message": "1 of the deliveries that failed last were to this webhook", "webhook": { "id": webhook } }]);
    assert_eq!(json!(api.alerts().await), expected);

    // The endpoint came back, and the message was sent again.
    endpoint.0.store(200, Ordering::Relaxed);
    api.data(ENABLE, id.clone()).await;
    let again = api.data(REDELIVER, json!({ "id": failed["id"] })).await;
    assert_eq!(again["redeliverDelivery"]["userErrors"], json!([]));
    api.until_alerts(0).await;

    // A message that arrives makes no other one good.
    endpoint.0.store(410, Ordering::Relaxed);
    api.data(PUBLISH, json!({})).await;
    api.failed(2).await;
    endpoint.0.store(200, Ordering::Relaxed);
    api.data(ENABLE, id.clone()).await;
    api.data(PUBLISH, json!({})).await;
    let delivered = "{ deliveries(filter: { statuses: [SUCCEEDED] }) { nodes { id } } }";
    while api.data(delivered, json!({})).await["deliveries"]["nodes"].as_array().unwrap().len() < 2 {
        tokio::task::yield_now().await;
    }
    assert_eq!(api.alerts().await.len(), 1);
    clock.pass(24 * 60 - 1);
    assert_eq!(api.alerts().await.len(), 1);
    clock.pass(1);
    assert_eq!(api.alerts().await, Vec::<Value>::new());

    endpoint.0.store(410, Ordering::Relaxed);
    api.data(PUBLISH, json!({})).await;
    api.failed(3).await;
    assert_eq!(api.alerts().await.len(), 1);
    api.data(DELETE, id).await;
    api.until_alerts(0).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn of_very_many_alerts_the_newest_hundred_are_told() {
    drop(rustls::crypto::ring::default_provider().install_default());
    let (clock, endpoint) = (Steered::new(), Arc::new(Chosen(AtomicU16::new(410))));
    let settings = Settings { transport: Some(endpoint as _), ..Settings::default() };
    let api = Api::build(Arc::new(MemoryStore::new(1)), Arc::clone(&clock) as _, settings).await;
    let create =
        "mutation($url: String!) { createWebhook(input: { url: $url, eventFilters: [\"**\"], enabled: true }) {
        webhook { id } } }";
    for _ in 0..100 {
        api.data(create, json!({ "url": URL })).await;
    }
    api.data(PUBLISH, json!({})).await;
    api.until_alerts(100).await;
    clock.pass(1);
    let last = api.data(create, json!({ "url": URL })).await["createWebhook"]["webhook"]["id"].take();
    api.data(PUBLISH, json!({})).await;
    loop {
        let alerts = api.alerts().await;
        assert_eq!(alerts.len(), 100);
        if alerts[0]["webhookId"] == last {
            break;
        }
        tokio::task::yield_now().await;
    }
}
