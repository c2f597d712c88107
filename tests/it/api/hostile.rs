//! Requests that are made to cost much are refused with a typed error, over HTTP and over a WebSocket.

use serde_json::{Value, json};

use super::Api;
use crate::support::hostile::{self, Hostile};

fn code(answer: &Value) -> &str {
    answer["errors"][0]["extensions"]["code"].as_str().unwrap_or_else(|| panic!("{answer:.300}"))
}

#[tokio::test(flavor = "multi_thread")]
async fn each_is_refused_over_http() {
    let api = Api::start().await;
    for Hostile { name, query, variables, code: expected } in hostile::requests() {
        let answer = api.answer(&api.key, &query, &variables).await;
        assert_eq!(code(&answer), expected, "{name}: {answer:.300}");
        assert!(answer["errors"].as_array().unwrap().len() <= 20, "{name}");
        assert!(answer.to_string().len() < 20_000, "{name}");
    }
    assert_eq!(api.data("{ viewer { name } }", json!({})).await["viewer"]["name"], "test");
}

#[tokio::test(flavor = "multi_thread")]
async fn each_is_refused_over_a_socket() {
    let api = Api::start().await;
    let mut socket = api.ready_socket(&api.key).await;
    for (n, Hostile { name, query, variables, code: expected }) in hostile::requests().into_iter().enumerate() {
        let id = n.to_string();
        socket.subscribe(&id, &query, &variables).await;
        let answer = socket.message_of(&id).await;
        let errors = if answer["type"] == "error" { &answer["payload"] } else { &answer["payload"]["errors"] };
        assert_eq!(errors[0]["extensions"]["code"], json!(expected), "{name}: {answer:.300}");
        assert!(errors.as_array().unwrap().len() <= 20, "{name}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_body_that_is_too_long_or_too_deep_is_refused() {
    let api = Api::start().await;
    let long = json!({ "query": "{ viewer { name } }", "variables": { "x": "x".repeat(60_000_000) } }).to_string();
    // The server may hang up before all of it is written.
    if let Ok(refused) = api.post(&api.key, long).send().await {
        assert_eq!(refused.status().as_u16(), 413);
    }
    for depth in [200, 400_000] {
        let refused = api.post(&api.key, hostile::deep_variables(depth)).send().await.unwrap();
        assert_eq!(refused.status().as_u16(), 400, "{depth}");
        let answer: Value = serde_json::from_slice(&refused.bytes().await.unwrap()).unwrap();
        assert_eq!(code(&answer), "BAD_REQUEST");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_is_read_for_who_has_no_credential() {
    let api = Api::start().await;
    for body in ["{", r#"{"query":"{ __schema { types { name } } }"}"#, &hostile::deep_variables(400_000)] {
        let refused = api.anonymous(body.to_owned()).send().await.unwrap();
        assert_eq!(refused.status().as_u16(), 401);
        let answer: Value = serde_json::from_slice(&refused.bytes().await.unwrap()).unwrap();
        assert_eq!(code(&answer), "UNAUTHENTICATED");
    }
}
