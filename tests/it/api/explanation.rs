//! What is explained that only time brings about.

use std::time::Duration;

use serde_json::{Value, json};
use tidings::domain::event::ExpiryReason;
use tidings::domain::subscription::Command;
use tidings::execute::Meta;

use super::{Api, URL};

const CREATE: &str =
    "mutation($input: CreateWebhookInput!) { createWebhook(input: $input) { webhook { id } userErrors { code } } }";
const HOLD: &str = "mutation($id: ID!) { holdWebhook(input: { webhookId: $id, until: \"2999-01-01T00:00:00Z\" }) { userErrors { code } } }";
const PUBLISH: &str =
    "mutation { publishMessage(input: { type: \"user.created\", data: {} }) { message { id } userErrors { code } } }";
const EXPLAIN: &str = "query($message: ID!, $webhook: ID!) { explainDelivery(messageId: $message, webhookId: $webhook) { verdict reason deliveries { id status } } }";

#[tokio::test(flavor = "multi_thread")]
async fn what_was_kept_no_longer_when_it_was_due_has_expired() {
    // S25
    let api = Api::start().await;
    let input = json!({ "url": URL, "eventFilters": ["user.*"], "enabled": true });
    let created = api.data(CREATE, json!({ "input": input })).await;
    let webhook = created["createWebhook"]["webhook"]["id"].clone();
    // So that nothing is sent meanwhile.
    assert_eq!(api.data(HOLD, json!({ "id": webhook })).await["holdWebhook"]["userErrors"], json!([]));
    let message = api.data(PUBLISH, Value::Null).await["publishMessage"]["message"]["id"].take();
    let paused = explained(&api, &message, &webhook, "PAUSED").await;

    let delivery = paused["deliveries"][0]["id"].as_str().unwrap().parse().unwrap();
    let expire = Command::Expire { delivery, reason: ExpiryReason::MessageDropped };
    let id = webhook.as_str().unwrap().parse().unwrap();
    api.engine.subscription(api.tenant, id, expire, Meta::system()).await.unwrap();

    let expired = explained(&api, &message, &webhook, "EXPIRED").await;
    assert!(expired["reason"].as_str().unwrap().contains("kept no longer"), "{expired}");
    assert_eq!(expired["deliveries"][0]["status"], json!("FAILED"));
}

/// The explanation, as soon as it has that verdict.
async fn explained(api: &Api, message: &Value, webhook: &Value, verdict: &str) -> Value {
    let deadline = tokio::time::Instant::now() + Duration::from_secs(30);
    loop {
        let variables = json!({ "message": message, "webhook": webhook });
        let explained = api.data(EXPLAIN, variables).await["explainDelivery"].take();
        if explained["verdict"] == json!(verdict) {
            return explained;
        }
        assert!(tokio::time::Instant::now() < deadline, "never {verdict}: {explained}");
        // Matching and the read models come behind the answer.
        assert!(api.read_models.wait_for(api.engine.head(api.tenant), Duration::from_secs(30)).await);
        tokio::task::yield_now().await;
    }
}
