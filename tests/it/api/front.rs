//! The HTTP front.

use std::sync::atomic::Ordering;

use serde_json::{Value, json};

use super::{Api, URL};

const QUERY: &str = r#"{"query":"{ viewer { name } }"}"#;

#[tokio::test(flavor = "multi_thread")]
async fn a_request_is_answered_with_the_status_that_its_form_deserves() {
    let api = Api::start().await;
    let json = "application/json";
    let own = "application/graphql-response+json";
    for (accept, content_type, body, status) in [
        (json, json, QUERY, 200),
        (own, json, QUERY, 200),
        ("text/html", json, QUERY, 406),
        (json, "text/plain", QUERY, 415),
        (json, "application/x-www-form-urlencoded", "query={viewer{name}}", 415),
        (json, "multipart/form-data; boundary=x", QUERY, 415),
        (json, json, "{ not json", 400),
        (json, json, r#"[{"query":"{ viewer { name } }"}]"#, 400),
        (json, json, r#"["{ viewer { name } }"]"#, 400),
        (json, json, "{}", 400),
        (json, json, r#"{"query":7}"#, 400),
        (json, json, r#"{"query":"{ viewer { name } }","variables":[]}"#, 400),
        (json, json, r#"{"query":"{ viewer { name } }","operationName":7}"#, 400),
        (json, json, r#"{"query":"{ viewer { name } }","extensions":"x"}"#, 400),
        (json, json, r#"{"query":"{ viewer { name } }","variables":null,"operationName":null,"extensions":null}"#, 200),
        (json, json, r#"{"query":"{ viewer"}"#, 200),
        (own, json, r#"{"query":"{ viewer"}"#, 400),
        (json, json, r#"{"query":"{ nothing }"}"#, 200),
        (own, json, r#"{"query":"{ nothing }"}"#, 400),
        (own, json, r#"{"query":"query($id: ID!) { node(id: $id) { id } }"}"#, 400),
        (own, json, r#"{"query":"subscription { nothing }"}"#, 400),
    ] {
        let request = api.client.post(api.url("/graphql")).bearer_auth(&api.key);
        let answer =
            request.header("accept", accept).header("content-type", content_type).body(body).send().await.unwrap();
        assert_eq!(answer.status().as_u16(), status, "{accept} {content_type} {body}");
        if status != 406 {
            assert!(answer.headers()["content-type"].to_str().unwrap().starts_with(accept), "{accept}");
        }
        let text = answer.text().await.unwrap();
        let parsed: Value = serde_json::from_str(&text).unwrap();
        assert!(parsed.get("data").is_some() || parsed["errors"][0]["extensions"]["code"].is_string(), "{text}");
        assert_eq!(parsed.get("data").is_some(), parsed.get("errors").is_none(), "{text}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_body_past_the_limit_is_not_read() {
    let api = Api::start().await;
    let body = format!(r#"{{"query":"{{ viewer {{ name }} }}","variables":{{"x":"{}"}}}}"#, "x".repeat(1024 * 1024));
    let answer = api.post(&api.key, body).send().await.unwrap();
    assert_eq!(answer.status().as_u16(), 413);
    assert!(answer.text().await.unwrap().contains("QUERY_TOO_LARGE"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_get_reads_and_never_writes() {
    let api = Api::start().await;
    let get = async |parameters: &[(&str, &str)]| {
        let query: String = url::form_urlencoded::Serializer::new(String::new()).extend_pairs(parameters).finish();
        api.client.get(api.url(&format!("/graphql?{query}"))).bearer_auth(&api.key).send().await.unwrap()
    };
    let read = "query A($id: ID!) { node(id: $id) { id } } query B { viewer { name } }";
    let answer = get(&[("query", read), ("operationName", "A"), ("variables", r#"{"id":"x"}"#)]).await;
    assert!(answer.text().await.unwrap().starts_with(r#"{"data":{"node":null},"extensions":{"cost":{"#));
    let write = "query A { viewer { name } } mutation B { deleteWebhook(input: { webhookId: \"x\" }) { position } }";
    let answer = get(&[("query", write), ("operationName", "B")]).await;
    assert_eq!(answer.status().as_u16(), 405);
    assert_eq!(answer.headers()["allow"], "POST");
    assert_eq!(get(&[("query", write), ("operationName", "A")]).await.status().as_u16(), 200);
    assert_eq!(get(&[("query", write)]).await.status().as_u16(), 405);
    assert_eq!(get(&[]).await.status().as_u16(), 400);
    assert_eq!(get(&[("query", "{ viewer { name } }"), ("variables", "[1]")]).await.status().as_u16(), 400);
    let put = api.client.put(api.url("/graphql")).bearer_auth(&api.key).send().await.unwrap();
    assert_eq!(put.status().as_u16(), 405);
}

#[tokio::test(flavor = "multi_thread")]
async fn only_a_key_that_works_is_let_in() {
    let api = Api::start().await;
    let other = api.key(api.tenant, &[tidings::domain::scope::Scope::KeysAdmin]).await;
    let (front, sum) = other.rsplit_once('_').unwrap();
    let wrong_secret = {
        let (id, _) = front.rsplit_once('_').unwrap();
        let text = format!("{id}_{}", "0".repeat(64));
        // A right checksum over a wrong secret.
        use sha2::Digest;
        let sum = hex::encode(sha2::Sha256::digest(&text));
        format!("{text}_{}", &sum[..8])
    };
    let status = async |authorization: &str| {
        let request = api.client.post(api.url("/graphql")).header("content-type", "application/json").body(QUERY);
        let answer = request.header("authorization", authorization).send().await.unwrap();
        let challenge = answer.headers().get("www-authenticate").map(|value| value.to_str().unwrap().to_owned());
        (answer.status().as_u16(), challenge)
    };
    assert_eq!(status(&format!("Bearer {other}")).await, (200, None));
    assert_eq!(status(&format!("bearer {other}")).await.0, 200);
    let invalid = (401, Some("Bearer realm=\"tidings\", error=\"invalid_token\"".to_owned()));
    for token in [wrong_secret, format!("{front}_{}", sum.to_uppercase() + "0"), "tdk_".into()] {
        assert_eq!(status(&format!("Bearer {token}")).await, invalid);
    }
    assert_eq!(status(&format!("Basic {other}")).await, (401, Some("Bearer realm=\"tidings\"".to_owned())));
    let revoke =
        "mutation($id: ID!) { revokeApiKey(input: { apiKeyId: $id }) { apiKey { revokedAt } userErrors { code } } }";
    let id = format!("key_{}", other.split('_').nth(1).unwrap());
    let revoked = api.data(revoke, json!({ "id": id })).await;
    assert!(revoked["revokeApiKey"]["apiKey"]["revokedAt"].is_string(), "{revoked}");
    assert_eq!(status(&format!("Bearer {other}")).await, invalid);
    let again = api.data(revoke, json!({ "id": id })).await;
    assert_eq!(again["revokeApiKey"]["userErrors"], json!([]));
}

#[tokio::test(flavor = "multi_thread")]
async fn every_answer_is_guarded_and_can_be_found_in_the_logs() {
    let api = Api::start().await;
    let mut ids = vec![];
    for path in ["/graphql", "/graphql/schema.graphql", "/playground/", "/healthz", "/readyz", "/nowhere"] {
        let answer = api.client.get(api.url(path)).send().await.unwrap();
        let header = |name: &str| answer.headers()[name].to_str().unwrap().to_owned();
        assert!(header("x-request-id").starts_with("req_"), "{path}");
        assert_eq!(header("x-content-type-options"), "nosniff");
        assert_eq!(header("referrer-policy"), "no-referrer");
        assert_eq!(header("cross-origin-resource-policy"), "same-origin");
        assert_eq!(header("cross-origin-opener-policy"), "same-origin");
        assert_eq!(header("cache-control"), if path == "/playground/" { "no-cache" } else { "no-store" });
        assert!(header("content-security-policy").starts_with("default-src 'none'"));
        ids.push(header("x-request-id"));
    }
    ids.dedup();
    assert_eq!(ids.len(), 6);
}

#[tokio::test(flavor = "multi_thread")]
async fn health_readiness_schema_and_playground_need_no_key() {
    let api = Api::start().await;
    let get = async |path: &str| api.client.get(api.url(path)).send().await.unwrap();
    assert_eq!(get("/healthz").await.status().as_u16(), 200);
    assert_eq!(get("/readyz").await.status().as_u16(), 200);
    api.ready.store(false, Ordering::Relaxed);
    assert_eq!(get("/readyz").await.status().as_u16(), 503);
    assert_eq!(get("/healthz").await.status().as_u16(), 200);
    assert_eq!(get("/graphql/schema.graphql").await.text().await.unwrap(), tidings::graphql::sdl());
    for page in ["/", "/playground", "/playground/"] {
        assert_eq!(get(page).await.status().as_u16(), 200, "{page}");
    }
    assert_eq!(get("/playground/../graphql.rs").await.status().as_u16(), 404);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_value_that_its_type_does_not_take_stops_the_request_before_anything_is_done() {
    let api = Api::start().await;
    // Refused while it is executed, the second field would take with it the first one's secret, shown once.
    let both = |kind: &str, field: &str| {
        format!(
            "mutation($value: {kind}) {{ first: createWebhook(input: {{ url: \"{URL}\" }}) {{ secret }} second: {field} }}"
        )
    };
    let hold = "holdWebhook(input: { webhookId: \"wh_1\", until: $value }) { position }";
    let publish = "publishMessage(input: { type: \"user.created\", data: $value }) { position }";
    for (kind, field, value) in [
        ("DateTime", hold, json!("tomorrow")),
        ("DateTime", hold, json!("1969-12-31T23:59:59Z")),
        ("JSON", publish, json!({ "n": 1e300 })),
    ] {
        let literal = both("Int", &field.replace("$value", &value.to_string().replace("\"n\"", "n")));
        let literal = literal.replace("($value: Int)", "");
        for (query, variables) in [(both(kind, field), json!({ "value": value })), (literal, Value::Null)] {
            let answer = api.answer(&api.key, &query, &variables).await;
            assert_eq!(answer["errors"][0]["extensions"]["code"], "GRAPHQL_VALIDATION_FAILED", "{query}: {answer}");
            assert_eq!(answer.get("data"), None, "{query}");
        }
    }
    let none = api.data("{ webhookSummary { total } }", Value::Null).await;
    assert_eq!(none["webhookSummary"]["total"], json!(0));
}
