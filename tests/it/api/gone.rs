//! A log whose database is gone for a while, as callers see it.

use std::sync::Arc;
use std::time::Duration;

use serde_json::{Value, json};
use tidings::event_store::PostgresStore;
use tidings::event_store::postgres::Options;

use super::Api;
use crate::event_store::postgres::database::Fresh;
use crate::event_store::postgres::proxy::Proxy;

/// Never reached by a test that passes.
const PATIENCE: Duration = Duration::from_secs(60);

const PUBLISH: &str =
    "mutation($input: PublishMessageInput!) { publishMessage(input: $input) { message { id } userErrors { code } } }";
const CREATE: &str =
    "mutation($input: CreateWebhookInput!) { createWebhook(input: $input) { webhook { id } userErrors { code } } }";

#[tokio::test(flavor = "multi_thread")]
async fn a_log_that_is_gone_refuses_with_a_code_of_its_own_and_takes_again_when_it_is_back() {
    let database = Fresh::empty().await;
    let proxy = Proxy::before(&database.url).await;
    let url = proxy.instead_of(&database.url);
    let store = PostgresStore::open(Options::at(url.as_str()).unwrap()).await.unwrap();
    let api = Api::over(Arc::new(store)).await;
    let message = json!({ "input": { "type": "user.created", "data": {} } });
    let webhook = json!({ "input": { "url": "https://127.0.0.1/hook", "eventFilters": ["**"] } });
    let (status, _, answer) = ask(&api, PUBLISH, &message).await;
    assert!(status == 200 && answer["data"]["publishMessage"]["message"]["id"].is_string(), "{answer}");

    proxy.bar();

    for (mutation, input) in [(PUBLISH, &message), (CREATE, &webhook), (PUBLISH, &message)] {
        let (status, retry_after, answer) = ask(&api, mutation, input).await;
        assert_eq!((status, retry_after.as_deref()), (503, Some("5")), "{answer}");
        let error = &answer["errors"][0];
        assert_eq!(error["extensions"], json!({ "code": "STORAGE_UNAVAILABLE", "retryAfterSeconds": 5 }));
        assert_eq!(error["message"], "the log cannot be reached for now; try again");
    }
    assert_eq!(api.data("{ viewer { name } }", Value::Null).await["viewer"]["name"], "test");

    proxy.unbar();

    for (mutation, input) in [(PUBLISH, &message), (CREATE, &webhook)] {
        // As the refusal says: try again.
        let again = async {
            loop {
                let (status, _, answer) = ask(&api, mutation, input).await;
                if status != 503 {
                    return (status, answer);
                }
            }
        };
        let (status, answer) = tokio::time::timeout(PATIENCE, again).await.unwrap();
        assert!(status == 200 && answer.get("errors").is_none(), "{answer}");
    }
}

/// Status, `Retry-After` and body.
async fn ask(api: &Api, mutation: &str, variables: &Value) -> (u16, Option<String>, Value) {
    let body = json!({ "query": mutation, "variables": variables }).to_string();
    let answer = api.post(&api.key, body).send().await.unwrap();
    let retry_after = answer.headers().get("retry-after").map(|value| value.to_str().unwrap().to_owned());
    let status = answer.status().as_u16();
    (status, retry_after, serde_json::from_slice(&answer.bytes().await.unwrap()).unwrap())
}
