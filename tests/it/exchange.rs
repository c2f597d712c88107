//! What went over the wire, as the API tells it of each attempt: beside what a real endpoint got and answered.

use serde_json::{Value, json};

use crate::support::receiver::{Received, Receiver, Script};
use crate::support::server::{Kind, Server, on_both};

const CREATE: &str = "mutation($input: CreateWebhookInput!) { createWebhook(input: $input) {
    webhook { id } secret userErrors { code message } } }";
const UPDATE: &str = "mutation($input: UpdateWebhookInput!) { updateWebhook(input: $input) {
    webhook { version } userErrors { code message } } }";
const PUBLISH: &str = "mutation($input: PublishMessageInput!) { publishMessage(input: $input) {
    message { id } userErrors { code message } } }";
const ERASE: &str = "mutation($ids: [ID!]!) { eraseMessages(input: { messageIds: $ids }) { userErrors { code } } }";
const DELIVERIES: &str =
    "query($id: ID!) { deliveries(filter: { webhookId: $id }) { nodes { id status attempts { nodes {
    id outcome webhookVersion
    request { url headers { name value } bodyPreview bodyBytes bodyTruncated }
    response { statusCode headers { name value } bodyPreview bodyBytes bodyTruncated } } } } } }";
const ATTEMPT: &str = "query($id: ID!) { node(id: $id) { id ... on DeliveryAttempt {
    request { url bodyPreview } response { bodyBytes } } } }";
const TEST: &str = "mutation($id: ID!) { testWebhookDelivery(input: { webhookId: $id }) { result {
    request { url body bodyBytes }
    response { statusCode headers { name value } bodyPreview bodyBytes bodyTruncated } } } }";

const HEADER: &str = "value-of-the-custom-header";

struct Setting {
    receiver: Receiver,
    server: Server,
}

async fn setting(kind: Kind) -> Setting {
    let receiver = Receiver::start().await;
    let server = Server::start_on(kind, &receiver.ca_file()).await;
    Setting { receiver, server }
}

impl Setting {
    /// Creates a webhook and returns its id and secret.
    async fn webhook(&self, profile: &str, path: &str, headers: Value) -> (Value, String) {
        let input = json!({ "url": self.receiver.url(path), "eventFilters": ["user.created"], "enabled": true,
            "profile": profile, "headers": headers });
        let mut created = self.server.data(CREATE, json!({ "input": input })).await["createWebhook"].take();
        assert_eq!(created["userErrors"], json!([]));
        let secret = created["secret"].as_str().unwrap().to_owned();
        (created["webhook"]["id"].take(), secret)
    }

    async fn publish(&self, data: Value) -> Value {
        let input = json!({ "type": "user.created", "data": data });
        self.server.data(PUBLISH, json!({ "input": input })).await["publishMessage"]["message"]["id"].take()
    }

    /// The webhook's one delivery, once it has succeeded.
    async fn delivered(&self, id: &Value) -> Value {
        let succeeded = |data: &Value| data["deliveries"]["nodes"][0]["status"] == json!("SUCCEEDED");
        self.server.until(DELIVERIES, json!({ "id": id }), succeeded).await["deliveries"]["nodes"][0].take()
    }
}

/// What must be shown of the headers that arrived.
fn shown_of(received: &Received) -> Vec<(String, String)> {
    // What the client adds by itself stands in every request.
    let headers = received.headers.iter().map(|(name, value)| (name.to_lowercase(), value));
    let headers = headers.filter(|(name, _)| !["accept", "content-length", "host"].contains(&name.as_str()));
    let shown = |name: &str, value: &str| match name {
        "webhook-signature" => "v1,***".to_owned(),
        "x-webhook-signature" => "sha256=***".to_owned(),
        "x-axissynapse-signature" => "v1=***".to_owned(),
        "x-key" => "***".to_owned(),
        _ => value.to_owned(),
    };
    headers.map(|(name, value)| (name.clone(), shown(&name, value))).collect()
}

fn pairs(headers: &Value) -> Vec<(String, String)> {
    let text = |value: &Value| value.as_str().unwrap().to_owned();
    headers.as_array().unwrap().iter().map(|one| (text(&one["name"]).to_lowercase(), text(&one["value"]))).collect()
}

async fn each_attempt_tells_what_was_sent_and_answered(kind: Kind) {
    // A34
    let setting = setting(kind).await;
    let refusal = Script::answer(503, format!("you sent {HEADER}\n"))
        .header("Server", "nginx")
        .header("Set-Cookie", "session=canary")
        .header("X-Echo", HEADER)
        .header("Retry-After", "1");
    let thanks = Script::answer(200, "ok").header("Server", "nginx");
    setting.receiver.on_each("/hook", [refusal, thanks]);
    let headers = json!([{ "name": "X-Key", "value": HEADER }]);
    let (id, secret) = setting.webhook("axissynapse-v1", "/hook", headers).await;
    setting.publish(json!({ "text": "\u{20ac}".repeat(500) })).await;

    let delivery = setting.delivered(&id).await;

    let received = setting.receiver.wait_for(2).await;
    let attempts = delivery["attempts"]["nodes"].as_array().unwrap();
    for (attempt, received) in attempts.iter().zip(&received) {
        let request = &attempt["request"];
        assert_eq!(request["url"], json!(setting.receiver.url("/hook")));
        assert_eq!(pairs(&request["headers"]), shown_of(received));
        let preview = request["bodyPreview"].as_str().unwrap();
        assert!(received.body.starts_with(preview.as_bytes()) && (1_021..=1_024).contains(&preview.len()), "{preview}");
        assert_eq!(request["bodyBytes"], json!(received.body.len()));
        assert_eq!(request["bodyTruncated"], json!(true));
    }
    let refused = &attempts[0]["response"];
    let kept = [("retry-after", "1"), ("server", "nginx"), ("x-echo", "***")];
    assert_eq!(pairs(&refused["headers"]), kept.map(|(name, value)| (name.to_owned(), value.to_owned())));
    assert_eq!((&refused["statusCode"], &refused["bodyPreview"]), (&json!(503), &json!("you sent ***\\n")));
    assert_eq!(
        (&refused["bodyBytes"], &refused["bodyTruncated"]),
        (&json!("you sent \n".len() + HEADER.len()), &json!(false))
    );
    let accepted =
        json!({ "statusCode": 200, "headers": [], "bodyPreview": "ok", "bodyBytes": 2, "bodyTruncated": false });
    assert_eq!(attempts[1]["response"], accepted);
    let told = delivery.to_string() + &setting.server.stderr();
    assert!(![HEADER, "canary", secret.as_str()].iter().any(|hidden| told.contains(hidden)), "{told}");
}

async fn a_request_is_shown_as_it_was_when_it_was_sent(kind: Kind) {
    // A15, A34
    let setting = setting(kind).await;
    setting.receiver.on_each("/first", [Script::status(500), Script::status(200)]);
    let (id, _) = setting.webhook("axie-v1", "/first", json!([])).await;
    let message = setting.publish(json!({ "userId": "user_1" })).await;
    setting.receiver.wait_for(1).await;
    let moved = json!({ "input": { "webhookId": id, "url": setting.receiver.url("/second") } });
    assert_eq!(setting.server.data(UPDATE, moved).await["updateWebhook"]["userErrors"], json!([]));

    let before = setting.delivered(&id).await["attempts"]["nodes"].take();

    let received = setting.receiver.wait_for(2).await;
    for (attempt, received) in before.as_array().unwrap().iter().zip(&received) {
        assert_eq!(attempt["request"]["url"], json!(setting.receiver.url(&received.target)));
        assert_eq!(pairs(&attempt["request"]["headers"]), shown_of(received));
        assert_eq!(attempt["request"]["bodyPreview"], json!(std::str::from_utf8(&received.body).unwrap()));
        assert_eq!(attempt["request"]["bodyTruncated"], json!(false));
    }

    // Of the body, its length alone outlives an erasure.
    let erased = setting.server.data(ERASE, json!({ "ids": [message] })).await;
    assert_eq!(erased["eraseMessages"]["userErrors"], json!([]));
    let after = setting.delivered(&id).await["attempts"]["nodes"].take();
    for (after, before) in after.as_array().unwrap().iter().zip(before.as_array().unwrap()) {
        let mut expected = before.clone();
        expected["request"]["bodyPreview"] = Value::Null;
        assert_eq!(after, &expected);
    }
}

async fn a_test_tells_what_was_sent_and_answered(kind: Kind) {
    // S27
    let setting = setting(kind).await;
    setting.receiver.on("/hook", Script::answer(200, "a\tb").header("Server", "nginx"));
    let (id, _) = setting.webhook("standard-v1", "/hook", json!([])).await;

    let tested = setting.server.data(TEST, json!({ "id": id })).await["testWebhookDelivery"]["result"].take();

    let received = setting.receiver.wait_for(1).await.remove(0);
    let body = String::from_utf8(received.body).unwrap();
    let request = json!({ "url": setting.receiver.url("/hook"), "body": body, "bodyBytes": body.len() });
    assert_eq!(tested["request"], request);
    let server = json!([{ "name": "server", "value": "nginx" }]);
    let answer =
        json!({ "statusCode": 200, "headers": server, "bodyPreview": "a\\tb", "bodyBytes": 3, "bodyTruncated": false });
    assert_eq!(tested["response"], answer);
}

async fn who_may_not_see_it_sees_nothing_of_it(kind: Kind) {
    let setting = setting(kind).await;
    let (id, _) = setting.webhook("standard-v1", "/hook", json!([])).await;
    setting.publish(json!({})).await;
    let delivery = setting.delivered(&id).await;
    let attempt = &delivery["attempts"]["nodes"][0]["id"];
    let server = &setting.server;
    let ask = async |key: &str| server.try_graphql(key, ATTEMPT, &json!({ "id": attempt })).await.unwrap();

    let own = key(server, None, &["DELIVERIES_READ", "WEBHOOKS_READ"]).await;
    let request = &ask(&own).await["data"]["node"]["request"];
    assert_eq!(request["url"], json!(setting.receiver.url("/hook")));
    assert!(request["bodyPreview"].is_string());

    // Where it went is a setting of the webhook.
    let narrow = ask(&key(server, None, &["DELIVERIES_READ"]).await).await;
    assert_eq!(narrow["data"]["node"]["request"], Value::Null);
    assert_eq!(narrow["data"]["node"]["response"]["bodyBytes"], json!(0));
    assert_eq!(narrow["errors"][0]["extensions"]["code"], json!("FORBIDDEN"));
    assert_eq!(ask(&key(server, None, &["WEBHOOKS_READ"]).await).await["data"]["node"], Value::Null);

    let tenant = "mutation { createTenant(input: { name: \"Other\", slug: \"other\" }) { tenant { id } } }";
    let tenant = server.data(tenant, json!({})).await["createTenant"]["tenant"]["id"].take();
    let foreign = ask(&key(server, Some(&tenant), &["DELIVERIES_READ", "WEBHOOKS_READ"]).await).await;
    assert_eq!(foreign["data"]["node"], Value::Null, "{foreign}");
}

/// A key with these scopes, of that tenant or the server's own.
async fn key(server: &Server, tenant: Option<&Value>, scopes: &[&str]) -> String {
    let create =
        "mutation($input: CreateApiKeyInput!) { createApiKey(input: $input) { token userErrors { code message } } }";
    let mut input = json!({ "name": "narrow", "scopes": scopes });
    if let Some(tenant) = tenant {
        input["tenantId"] = tenant.clone();
    }
    let created = server.data(create, json!({ "input": input })).await["createApiKey"].take();
    created["token"].as_str().unwrap_or_else(|| panic!("{created}")).to_owned()
}

on_both!(
    each_attempt_tells_what_was_sent_and_answered,
    a_request_is_shown_as_it_was_when_it_was_sent,
    a_test_tells_what_was_sent_and_answered,
    who_may_not_see_it_sees_nothing_of_it,
);
