//! A log that may not grow, as callers see it.

use std::path::Path;
use std::sync::Arc;

use serde_json::{Value, json};
use sqlx::{ConnectOptions, SqliteConnection};
use tidings::event_store::{Options, SqliteStore};

use super::Api;

const PUBLISH: &str =
    "mutation($input: PublishMessageInput!) { publishMessage(input: $input) { message { id } userErrors { code } } }";
const PUBLISH_TWO: &str = "mutation($input: PublishMessagesInput!) { publishMessages(input: $input) { results { message { id } retry } userErrors { code } } }";
const MESSAGES: &str =
    "query($after: String) { messages(first: 100, after: $after) { nodes { id } pageInfo { hasNextPage endCursor } } }";

#[tokio::test(flavor = "multi_thread")]
async fn a_full_log_refuses_with_a_code_of_its_own_and_takes_again_when_there_is_room() {
    full_log_refuses_and_takes_again().await;
}

/// With SQLite's own limit in place of a small disk, so that it can be shown everywhere.
pub(crate) async fn full_log_refuses_and_takes_again() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("log.db");
    let small = Options { max_pages: Some(300), ..Options::at(&path) };
    let store = SqliteStore::open(small).await.unwrap();
    let mut room = stranger(&path).await;
    sqlx::raw_sql("CREATE TABLE ballast (value BLOB); INSERT INTO ballast VALUES (zeroblob(400000))")
        .execute(&mut room)
        .await
        .unwrap();
    let api = Api::over(Arc::new(store)).await;

    let mut accepted = vec![];
    let refused = loop {
        let (status, retry_after, answer) = publish(&api).await;
        match answer["data"]["publishMessage"]["message"]["id"].as_str() {
            Some(id) => accepted.push(id.to_owned()),
            None => break (status, retry_after, answer),
        }
    };

    assert!(!accepted.is_empty());
    let (status, retry_after, answer) = refused;
    assert_eq!((status, retry_after.as_deref()), (503, Some("30")), "{answer}");
    let error = &answer["errors"][0];
    assert_eq!(error["extensions"], json!({ "code": "STORAGE_FULL", "retryAfterSeconds": 30 }));
    assert_eq!(error["message"], "the disk is full; nothing can be accepted for now");
    let two = json!({ "messages": [message(), message()] });
    let answer = api.answer(&api.key, PUBLISH_TWO, &json!({ "input": two })).await;
    assert_eq!(answer["errors"][0]["extensions"]["code"], "STORAGE_FULL", "{answer}");
    assert_eq!(api.data("{ viewer { name } }", Value::Null).await["viewer"]["name"], "test");

    sqlx::raw_sql("DROP TABLE ballast").execute(&mut room).await.unwrap();

    let (status, _, answer) = publish(&api).await;
    accepted.push(answer["data"]["publishMessage"]["message"]["id"].as_str().unwrap().to_owned());
    assert_eq!(status, 200);
    assert!(api.read_models.wait_for(api.engine.head(api.tenant), std::time::Duration::from_secs(30)).await);
    let mut listed = listed(&api).await;
    listed.sort();
    accepted.sort();
    assert_eq!(listed, accepted);
}

async fn stranger(path: &Path) -> SqliteConnection {
    sqlx::sqlite::SqliteConnectOptions::new().filename(path).connect().await.unwrap()
}

fn message() -> Value {
    json!({ "type": "user.created", "data": { "text": "x".repeat(5_000) } })
}

/// Status, `Retry-After` and body.
async fn publish(api: &Api) -> (u16, Option<String>, Value) {
    let body = json!({ "query": PUBLISH, "variables": { "input": message() } }).to_string();
    let answer = api.post(&api.key, body).send().await.unwrap();
    let retry_after = answer.headers().get("retry-after").map(|value| value.to_str().unwrap().to_owned());
    let status = answer.status().as_u16();
    (status, retry_after, serde_json::from_slice(&answer.bytes().await.unwrap()).unwrap())
}

async fn listed(api: &Api) -> Vec<String> {
    let (mut ids, mut after) = (vec![], Value::Null);
    loop {
        let page = api.data(MESSAGES, json!({ "after": after })).await;
        let nodes = page["messages"]["nodes"].as_array().unwrap();
        ids.extend(nodes.iter().map(|node| node["id"].as_str().unwrap().to_owned()));
        let info = &page["messages"]["pageInfo"];
        if info["hasNextPage"] == false {
            return ids;
        }
        after = info["endCursor"].clone();
    }
}
