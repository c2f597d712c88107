//! What callers may spend, over every transport.

use serde_json::{Value, json};
use tidings::rate_limit::Config;

use super::{Api, URL};

/// Budgets that come back too slowly to matter.
fn burst(burst_points: u32) -> Config {
    Config { points_per_second: 1, burst_points }
}

async fn body(response: reqwest::Response) -> Value {
    serde_json::from_slice(&response.bytes().await.unwrap()).unwrap()
}

fn header<'a>(response: &'a reqwest::Response, name: &str) -> &'a str {
    response.headers().get(name).unwrap_or_else(|| panic!("no {name}")).to_str().unwrap()
}

fn query(text: &str) -> String {
    json!({ "query": text }).to_string()
}

#[tokio::test(flavor = "multi_thread")]
async fn an_answer_says_what_it_cost_and_what_is_left() {
    let api = Api::start().await;
    let answer =
        api.post(&api.key, query("{ rateLimit { limit cost remaining resetAt } webhooks(first: 8) { nodes { id } } }"));
    let answer = answer.send().await.unwrap();
    assert_eq!(header(&answer, "ratelimit-policy"), "\"points\";q=1000000;w=10");
    let rest = header(&answer, "ratelimit").to_owned();
    let body = body(answer).await;
    // Five fields, and eight times the list's own and a quarter of the two within, rounded up, and the list.
    let cost = 5 + 8 * (1 + 1) + 1;
    assert_eq!(body["extensions"]["cost"]["requested"], json!(cost), "{body}");
    let left = 1_000_000 - cost;
    assert_eq!(rest, format!("\"points\";r={left};t=1"));
    assert_eq!(body["extensions"]["cost"]["remaining"], json!(left));
    let shown = &body["data"]["rateLimit"];
    assert_eq!((&shown["limit"], &shown["cost"], &shown["remaining"]), (&json!(1_000_000), &json!(cost), &json!(left)));
    assert!(shown["resetAt"].as_str().unwrap() >= "2025-11-23T10:40:15.000Z", "{body}");
}

#[tokio::test(flavor = "multi_thread")]
async fn who_has_spent_it_all_is_told_when_to_come_back_and_nothing_runs() {
    let api = Api::limited(burst(50)).await;
    let create = format!("mutation {{ createWebhook(input: {{ url: \"{URL}\" }}) {{ webhook {{ id }} }} }}");
    let dear = query(&format!("{create} #"));
    // Three fields and the mutation's own four.
    for left in [43, 36, 29, 22, 15, 8, 1] {
        let answer = body(api.post(&api.key, dear.clone()).send().await.unwrap()).await;
        assert_eq!(answer["extensions"]["cost"]["remaining"], json!(left), "{answer}");
    }
    for accept in ["application/json", "application/graphql-response+json"] {
        let refused = api.post(&api.key, dear.clone()).header("accept", accept).send().await.unwrap();
        assert_eq!(refused.status().as_u16(), 429);
        let wait: u32 = header(&refused, "retry-after").parse().unwrap();
        assert!((1..=6).contains(&wait), "{wait}");
        let answer = body(refused).await;
        assert_eq!(answer["errors"][0]["extensions"], json!({ "code": "THROTTLED", "retryAfterSeconds": wait }));
        assert!(answer.get("data").is_none(), "{answer}");
    }
    // Another caller of the same tenant has a budget of its own, and finds no eighth webhook.
    let other = api.key(api.tenant, &tidings::domain::scope::Scope::ALL).await;
    let answer = api.answer(&other, "{ webhookSummary { total } }", &json!({})).await;
    assert_eq!(answer["data"]["webhookSummary"]["total"], json!(7), "{answer}");
}

#[tokio::test(flavor = "multi_thread")]
async fn documents_that_are_refused_cost_too() {
    let api = Api::limited(burst(2_500)).await;
    for refused in ["{", "{ nothing }", "{ ...a } fragment a on Query { ...a }"] {
        let answer = api.post(&api.key, query(refused)).send().await.unwrap();
        assert_ne!(answer.status().as_u16(), 429, "{refused}");
    }
    let answer = api.post(&api.key, query("{ viewer { name } }")).send().await.unwrap();
    assert_eq!(answer.status().as_u16(), 429);
    assert!(header(&answer, "ratelimit").starts_with("\"points\";r=0;t="));
}

#[tokio::test(flavor = "multi_thread")]
async fn publishing_costs_a_point_a_message() {
    let api = Api::limited(burst(10)).await;
    let message = |n: usize| json!({ "type": "user.created", "data": {}, "idempotencyKey": format!("key {n}") });
    let publish = |body: Value| {
        let request = api.client.post(api.url("/v1/messages")).bearer_auth(&api.key);
        request.header("content-type", "application/json").body(body.to_string()).send()
    };
    let accepted = publish(message(0)).await.unwrap();
    assert_eq!((accepted.status().as_u16(), header(&accepted, "ratelimit")), (202, "\"points\";r=9;t=1"));
    let several = publish((1..=12).map(message).collect()).await.unwrap();
    assert_eq!(several.status().as_u16(), 200);
    let results = body(several).await["results"].take();
    let codes: Vec<_> = results.as_array().unwrap().iter().map(|result| &result["error"]["code"]).collect();
    assert!(codes[..9].iter().all(|code| code.is_null()), "{results}");
    assert!(codes[10..].iter().all(|code| **code == json!("THROTTLED")), "{results}");
    assert_eq!(results[11]["error"]["retry"], json!(true));
    let refused = publish(message(13)).await.unwrap();
    assert_eq!(refused.status().as_u16(), 429);
    assert_eq!(header(&refused, "retry-after"), "1");
    assert_eq!(body(refused).await["error"]["code"], json!("THROTTLED"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stream_of_lines_waits_for_points() {
    let api = Api::limited(Config { points_per_second: 200, burst_points: 5 }).await;
    let line = |n: usize| json!({ "type": "user.created", "data": {}, "idempotencyKey": format!("key {n}") });
    let lines: String = (0..40).map(|n| format!("{}\n", line(n))).collect();
    let request = api.client.post(api.url("/v1/messages")).bearer_auth(&api.key);
    let answer = request.header("content-type", "application/x-ndjson").body(lines).send().await.unwrap();
    let text = answer.text().await.unwrap();
    assert_eq!(text.lines().count(), 40);
    assert!(text.lines().all(|line| line.contains("\"message\"")), "{text}");
}
