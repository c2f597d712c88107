//! What operations do, as far as no endpoint is needed for it.

use serde_json::{Value, json};

use super::{Api, URL};

const CREATE: &str = "mutation($input: CreateWebhookInput!) { createWebhook(input: $input) {
    webhook { id description enabled version eventFilters secrets { version fingerprint validUntil }
        filterHints { filter suggestion missedEventTypes } matchingEventTypes { nodes { name } } }
    secret position userErrors { code message path } } }";

#[tokio::test(flavor = "multi_thread")]
async fn a_webhook_is_made_and_its_secret_shown_once() {
    // A10, S11, S18
    let api = Api::start().await;
    let input = json!({ "url": URL, "eventFilters": ["platform.saml.*", "account.mfa.*"], "description": "first" });
    let created = api.data(CREATE, json!({ "input": input })).await["createWebhook"].take();
    assert_eq!(created["userErrors"], json!([]));
    let (webhook, secret) = (&created["webhook"], created["secret"].as_str().unwrap());
    assert_eq!(webhook["enabled"], json!(false));
    assert_eq!(webhook["filterHints"][0]["suggestion"], json!("platform.saml.**"));
    assert_eq!(webhook["filterHints"].as_array().unwrap().len(), 1);
    assert_eq!(webhook["matchingEventTypes"]["nodes"].as_array().unwrap().len(), 4);
    assert_eq!(webhook["secrets"][0]["version"], json!(1));
    let read = "query($id: ID!) { webhook(id: $id) { id url description profile secrets { fingerprint } } auditLog { nodes { changes } } }";
    let read = api.data(read, json!({ "id": webhook["id"] })).await;
    assert!(!read.to_string().contains(secret));
    assert!(!webhook.to_string().contains(secret));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_refusal_says_what_and_where() {
    // S32
    let api = Api::start().await;
    let input = json!({ "url": URL, "eventFilters": ["user.created", "foo*", "a..b"] });
    let errors = api.data(CREATE, json!({ "input": input })).await["createWebhook"]["userErrors"].take();
    assert_eq!(errors[0]["code"], json!("WEBHOOK_FILTER_INVALID"));
    assert_eq!(errors[0]["path"], json!(["input", "eventFilters", "1"]));
    assert_eq!(errors[1]["path"], json!(["input", "eventFilters", "2"]));
    let input = json!({ "url": "http://example.com/", "eventFilters": [] });
    let errors = api.data(CREATE, json!({ "input": input })).await["createWebhook"]["userErrors"].take();
    assert_eq!(errors[0]["code"], json!("WEBHOOK_INVALID_URL"));
    assert_eq!(errors[0]["path"], json!(["input", "url"]));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_rate_limit_is_set_changed_lifted_and_shown_in_the_history() {
    let api = Api::start().await;
    let input = json!({ "url": URL, "eventFilters": ["**"], "rateLimitPerSecond": 5 });
    let id = api.data(CREATE, json!({ "input": input })).await["createWebhook"]["webhook"]["id"].take();
    let update = "mutation($input: UpdateWebhookInput!) { updateWebhook(input: $input) {
        webhook { rateLimitPerSecond version } userErrors { code path } } }";
    let change = async |rate: Value| {
        let input = json!({ "webhookId": id, "rateLimitPerSecond": rate });
        api.data(update, json!({ "input": input })).await["updateWebhook"].take()
    };
    let kept = json!({ "webhookId": id, "eventFilters": ["user.*"] });
    let kept = api.data(update, json!({ "input": kept })).await;
    assert_eq!(kept["updateWebhook"]["webhook"], json!({ "rateLimitPerSecond": 5, "version": 2 }));
    for out_of_range in [-1, 0, 10_001] {
        let path = json!(["input", "rateLimitPerSecond"]);
        let refused = json!([{ "code": "INVALID_INPUT", "path": path }]);
        assert_eq!(change(json!(out_of_range)).await["userErrors"], refused);
    }
    assert_eq!(change(json!(50)).await["webhook"], json!({ "rateLimitPerSecond": 50, "version": 3 }));
    assert_eq!(change(Value::Null).await["webhook"], json!({ "rateLimitPerSecond": null, "version": 4 }));
    let history = "query($id: ID!) { webhookHistory(id: $id, first: 10) { nodes {
        rateLimitPerSecond changes { field from to } } } }";
    let history = api.data(history, json!({ "id": id })).await["webhookHistory"]["nodes"].take();
    let changes = history.as_array().unwrap().iter().flat_map(|version| version["changes"].as_array().unwrap());
    let rates: Vec<_> = changes.filter(|change| change["field"] == json!("RATE_LIMIT")).collect();
    let changed = |from: Value, to: Value| json!({ "field": "RATE_LIMIT", "from": from, "to": to });
    let expected = [changed(Value::Null, json!(5)), changed(json!(5), json!(50)), changed(json!(50), Value::Null)];
    assert!(expected.iter().all(|change| rates.contains(&change)) && rates.len() == 3, "{rates:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_update_keeps_what_is_absent_and_clears_what_is_null() {
    let api = Api::start().await;
    let input = json!({ "url": URL, "eventFilters": ["**"], "description": "first" });
    let id = api.data(CREATE, json!({ "input": input })).await["createWebhook"]["webhook"]["id"].take();
    let update = "mutation($input: UpdateWebhookInput!) { updateWebhook(input: $input) {
        webhook { description eventFilters version } position userErrors { code path } } }";
    let kept = api.data(update, json!({ "input": { "webhookId": id, "eventFilters": ["user.*"] } })).await;
    let kept = &kept["updateWebhook"]["webhook"];
    assert_eq!(*kept, json!({ "description": "first", "eventFilters": ["user.*"], "version": 2 }));
    let cleared =
        api.data(update, json!({ "input": { "webhookId": id, "description": null, "expectedVersion": 2 } })).await;
    assert_eq!(cleared["updateWebhook"]["webhook"]["description"], Value::Null);
    let same = api.data(update, json!({ "input": { "webhookId": id, "description": null } })).await;
    assert_eq!(same["updateWebhook"]["position"], Value::Null);
    let late = api.data(update, json!({ "input": { "webhookId": id, "url": URL, "expectedVersion": 1 } })).await;
    assert_eq!(
        late["updateWebhook"]["userErrors"],
        json!([{ "code": "VERSION_CONFLICT", "path": ["input", "expectedVersion"] }])
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_message_keeps_every_digit_or_is_refused() {
    // A25
    let api = Api::start().await;
    let publish = "mutation($input: PublishMessageInput!) { publishMessage(input: $input) {
        message { id unstable unstableExplanation createdAt } userErrors { code path } position } }";
    let exact = r#"{"n":123456789012345678901234567890,"m":9007199254740993}"#;
    let published = api.data(publish, json!({ "input": { "type": "user.created", "dataJson": exact } })).await;
    let message = &published["publishMessage"]["message"];
    assert_eq!(message["unstable"], json!(true));
    assert!(message["unstableExplanation"].is_string());
    let body = json!({ "query": "query($id: ID!) { message(id: $id) { data createdAt } }", "variables": { "id": message["id"] } });
    let text = loop {
        let text = api.post(&api.key, body.to_string()).send().await.unwrap().text().await.unwrap();
        let (data, _) = text.split_once(r#","extensions""#).unwrap();
        if data != r#"{"data":{"message":null}"# {
            break data.to_owned();
        }
    };
    assert_eq!(text, format!(r#"{{"data":{{"message":{{"data":{exact},"createdAt":{}}}}}"#, message["createdAt"]));
    // In variables, whole numbers of 64 bits survive.
    let variables = r#"{"input":{"type":"user.created","data":{"n":18446744073709551615}}}"#;
    let body = format!(r#"{{"query":{},"variables":{variables}}}"#, json!(publish));
    let text = api.post(&api.key, body).send().await.unwrap().text().await.unwrap();
    assert!(text.contains(r#""unstable":true"#), "{text}");
    let variables = r#"{"input":{"type":"user.created","data":{"n":18446744073709551616}}}"#;
    let body = format!(r#"{{"query":{},"variables":{variables}}}"#, json!(publish));
    let text = api.post(&api.key, body).send().await.unwrap().text().await.unwrap();
    assert!(text.contains("GRAPHQL_VALIDATION_FAILED") && text.contains("'$input' at 'data.n'"), "{text}");
    assert!(text.contains("'dataJson' keeps every digit") && !text.contains(r#""data":"#), "{text}");
    for input in [json!({ "type": "user.created" }), json!({ "type": "user.created", "data": {}, "dataJson": "{}" })] {
        let refused = api.data(publish, json!({ "input": input })).await;
        assert_eq!(refused["publishMessage"]["userErrors"][0]["code"], json!("INVALID_INPUT"));
    }
    let broken = api.data(publish, json!({ "input": { "type": "user.created", "dataJson": "{" } })).await;
    assert_eq!(broken["publishMessage"]["userErrors"][0]["path"], json!(["input", "dataJson"]));
}

#[tokio::test(flavor = "multi_thread")]
async fn of_several_messages_each_is_accepted_or_refused_on_its_own() {
    let api = Api::start().await;
    let publish = "mutation($input: PublishMessagesInput!) { publishMessages(input: $input) {
        results { message { type } duplicate retry userErrors { code path } } position userErrors { code path } } }";
    let message = |event_type: &str, key: &str| json!({ "type": event_type, "data": {}, "idempotencyKey": key });
    let messages = [
        message("user.created", "a"),
        message("no.such", "b"),
        message("user.created", "a"),
        message("user.deleted", "c"),
    ];
    let published = api.data(publish, json!({ "input": { "messages": messages } })).await["publishMessages"].take();
    let results = published["results"].as_array().unwrap();
    assert_eq!(results[0]["message"]["type"], json!("user.created"));
    assert_eq!(
        results[1]["userErrors"],
        json!([{ "code": "EVENT_TYPE_UNKNOWN", "path": ["input", "messages", "1", "type"] }])
    );
    assert_eq!(results[2]["duplicate"], json!(true));
    assert_eq!(results[3]["duplicate"], json!(false));
    assert!(published["position"].is_string());
    let many: Vec<_> = (0..101).map(|n| message("user.created", &n.to_string())).collect();
    let refused = api.data(publish, json!({ "input": { "messages": many } })).await;
    assert_eq!(refused["publishMessages"]["userErrors"][0]["code"], json!("LIMIT_EXCEEDED"));
}

#[tokio::test(flavor = "multi_thread")]
async fn one_failing_field_leaves_its_neighbours_alone() {
    let api = Api::start().await;
    let both = "mutation($input: CreateWebhookInput!, $id: ID!) {
        made: createWebhook(input: $input) { secret }
        failed: createApiKey(input: { name: \"x\", scopes: [], tenantId: $id }) { token userErrors { code } } }";
    let key = api.key(api.tenant, &[tidings::domain::scope::Scope::WebhooksWrite]).await;
    let answer = api.answer(&key, both, &json!({ "input": { "url": URL }, "id": api.tenant })).await;
    assert!(answer["data"]["made"]["secret"].is_string(), "{answer}");
    assert_eq!(answer["data"]["failed"], Value::Null);
    assert_eq!(answer["errors"][0]["path"], json!(["failed"]));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_list_is_paged_from_either_end() {
    let api = Api::start().await;
    let query = "query($first: Int, $after: String, $last: Int, $before: String) {
        eventTypes(first: $first, after: $after, last: $last, before: $before) {
            nodes { name } edges { cursor } pageInfo { hasNextPage hasPreviousPage startCursor endCursor } } }";
    let all = api.data(query, json!({ "first": 100 })).await["eventTypes"].take();
    let names: Vec<_> =
        all["nodes"].as_array().unwrap().iter().map(|node| node["name"].as_str().unwrap().to_owned()).collect();
    assert!(names.is_sorted() && names.len() > 14, "{names:?}");
    let mut forward = vec![];
    let mut after = Value::Null;
    loop {
        let page = api.data(query, json!({ "first": 7, "after": after })).await["eventTypes"].take();
        forward.extend(page["nodes"].as_array().unwrap().iter().map(|node| node["name"].as_str().unwrap().to_owned()));
        after = page["pageInfo"]["endCursor"].clone();
        if page["pageInfo"]["hasNextPage"] == json!(false) {
            break;
        }
    }
    assert_eq!(forward, names);
    let last = api.data(query, json!({ "last": 2, "before": after })).await["eventTypes"].take();
    assert_eq!(last["nodes"][1]["name"], json!(names[names.len() - 2]));
    assert_eq!(last["pageInfo"]["hasPreviousPage"], json!(true));
    for (arguments, code) in [
        (json!({ "first": 1, "last": 1 }), "INVALID_INPUT"),
        (json!({ "first": 101 }), "INVALID_INPUT"),
        (json!({ "after": "x" }), "INVALID_CURSOR"),
    ] {
        let answer = api.answer(&api.key, query, &arguments).await;
        assert_eq!(answer["errors"][0]["extensions"]["code"], json!(code));
        assert_eq!(answer["data"], json!({ "eventTypes": null }));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_number_past_32_bits_refuses_the_request_before_anything_is_done() {
    let api = Api::start().await;
    let input = json!({ "url": URL, "eventFilters": [] });
    let id = api.data(CREATE, json!({ "input": input })).await["createWebhook"]["webhook"]["id"].take();
    let both = "mutation($id: ID!, $version: Int) { enableWebhook(input: { webhookId: $id }) { position }
        deleteWebhook(input: { webhookId: $id, expectedVersion: $version }) { position } }";
    let body = json!({ "query": both, "variables": { "id": id, "version": 3_000_000_000_u32 } }).to_string();
    let request = api.post(&api.key, body).header("accept", "application/graphql-response+json");
    let answer = request.send().await.unwrap();
    assert_eq!(answer.status(), 400);
    let answer: Value = serde_json::from_slice(&answer.bytes().await.unwrap()).unwrap();
    let message = "the variable '$version' is no Int: a whole number from -2147483648 to 2147483647";
    assert_eq!(answer["errors"][0]["message"], json!(message));
    assert_eq!(answer["errors"][0]["extensions"]["code"], json!("GRAPHQL_VALIDATION_FAILED"));
    assert!(answer.get("data").is_none(), "{answer}");
    let read = api.data("query($id: ID!) { webhook(id: $id) { enabled } }", json!({ "id": id })).await;
    assert_eq!(read["webhook"]["enabled"], json!(false));
}
