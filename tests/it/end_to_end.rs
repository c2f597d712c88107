//! The whole program through its API, with real endpoints: what a user does, and what goes wrong.

use std::collections::HashMap;

use serde_json::{Value, json};
use standardwebhooks::Webhook;

use crate::support::receiver::{Received, Receiver, Script};
use crate::support::server::{Kind, Server, on_both};

const CREATE: &str = "mutation($input: CreateWebhookInput!) { createWebhook(input: $input) {
    webhook { id url enabled version profile eventFilters } secret userErrors { code message path } position } }";
const PUBLISH: &str = "mutation($input: PublishMessageInput!) { publishMessage(input: $input) {
    message { id type } duplicate userErrors { code message path } } }";
const DELIVERIES: &str = "query($webhook: ID!) { deliveries(filter: { webhookId: $webhook }, first: 50) { nodes {
    id status attemptCount lastStatusCode nextAttemptAt redeliveryOf { id } message { id type }
    attempts { nodes { number outcome statusCode error responsePreview } } } } }";
const AUDIT: &str = "{ auditLog(first: 50) { nodes { code targetId changes actor { kind id } } } }";

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
    async fn webhook(&self, path: &str, more: Value) -> (String, String) {
        let mut input = json!({ "url": self.receiver.url(path), "eventFilters": ["**"], "enabled": true });
        for (key, value) in more.as_object().unwrap() {
            input[key] = value.clone();
        }
        let created = &self.server.data(CREATE, json!({ "input": input })).await["createWebhook"];
        assert_eq!(created["userErrors"], json!([]));
        (text(&created["webhook"]["id"]), text(&created["secret"]))
    }

    async fn publish(&self, event_type: &str, data: Value, key: &str) -> Value {
        let input = json!({ "type": event_type, "data": data, "idempotencyKey": key });
        self.server.data(PUBLISH, json!({ "input": input })).await["publishMessage"].clone()
    }

    async fn code(&self, mutation: &str, field: &str, input: Value) -> String {
        let answer = self.server.data(mutation, json!({ "input": input })).await;
        text(&answer[field]["userErrors"][0]["code"])
    }
}

fn text(value: &Value) -> String {
    value.as_str().unwrap_or_else(|| panic!("no text: {value}")).to_owned()
}

fn lower_case_headers(request: &Received) -> HashMap<String, String> {
    request.headers.iter().map(|(name, value)| (name.to_lowercase(), value.clone())).collect()
}

async fn a_message_is_signed_delivered_and_remembered(kind: Kind) {
    // A23, A24, A28, A34, S14, S16
    let setting = setting(kind).await;
    let (id, secret) = setting.webhook("/hook", json!({})).await;
    let published = setting.publish("user.created", json!({ "userId": "user_1" }), "k1").await;
    assert_eq!(published["duplicate"], json!(false));
    let request = setting.receiver.wait_for(1).await.remove(0);
    let headers = lower_case_headers(&request);
    assert_eq!(headers["webhook-id"], text(&published["message"]["id"]));
    let mut map = http::HeaderMap::new();
    for name in ["webhook-id", "webhook-timestamp", "webhook-signature"] {
        map.insert(http::HeaderName::from_static(name), headers[name].parse().unwrap());
    }
    Webhook::new(&secret).unwrap().verify(&request.body, &map).unwrap();
    let succeeded = |data: &Value| data["deliveries"]["nodes"][0]["status"] == json!("SUCCEEDED");
    let data = setting.server.until(DELIVERIES, json!({ "webhook": id }), succeeded).await;
    let delivery = &data["deliveries"]["nodes"][0];
    assert_eq!(delivery["attemptCount"], json!(1));
    assert_eq!(delivery["lastStatusCode"], json!(200));
    assert_eq!(delivery["attempts"]["nodes"][0]["outcome"], json!("SUCCEEDED"));
}

async fn a_refused_attempt_is_retried_and_its_answer_kept(kind: Kind) {
    // A29, A34
    let setting = setting(kind).await;
    setting.receiver.on_each("/axie", [Script::answer(503, "down for\u{7} maintenance"), Script::status(200)]);
    let (id, _) = setting.webhook("/axie", json!({ "profile": "axie-v1", "eventFilters": ["user.created"] })).await;
    setting.publish("user.created", json!({}), "k1").await;
    let requests = setting.receiver.wait_for(2).await;
    assert_eq!(requests[0].body, requests[1].body);
    assert_eq!(requests[0].header("webhook-id"), requests[1].header("webhook-id"));
    let succeeded = |data: &Value| data["deliveries"]["nodes"][0]["status"] == json!("SUCCEEDED");
    let data = setting.server.until(DELIVERIES, json!({ "webhook": id }), succeeded).await;
    let attempts = &data["deliveries"]["nodes"][0]["attempts"]["nodes"];
    assert_eq!(attempts[0]["outcome"], json!("BAD_STATUS"));
    assert_eq!(attempts[0]["statusCode"], json!(503));
    assert!(text(&attempts[0]["responsePreview"]).starts_with("down for"));
    assert_eq!(attempts[1]["number"], json!(2));
}

async fn publishing_twice_under_one_key_makes_one_message(kind: Kind) {
    let setting = setting(kind).await;
    setting.webhook("/hook", json!({})).await;
    let first = setting.publish("user.created", json!({ "a": 1 }), "order-7").await;
    let second = setting.publish("user.created", json!({ "a": 1 }), "order-7").await;
    assert_eq!(first["message"]["id"], second["message"]["id"]);
    assert_eq!(second["duplicate"], json!(true));
    let other = setting.publish("user.created", json!({ "a": 2 }), "order-7").await;
    assert_eq!(other["userErrors"][0]["code"], json!("IDEMPOTENCY_KEY_REUSED"));
    assert_eq!(other["message"], json!(null));
}

async fn wrong_input_gets_its_documented_code_and_changes_nothing(kind: Kind) {
    // A5, A6, A9, S4, S10, S32, C10
    let setting = setting(kind).await;
    let url = setting.receiver.url("/hook");
    let create = async |input: Value| setting.code(CREATE, "createWebhook", input).await;
    for wrong in
        ["http://example.com/", "https://user@example.com/", "https://10.0.0.1/", "nonsense", "https://localhost:9443/"]
    {
        assert_eq!(create(json!({ "url": wrong, "eventFilters": ["**"] })).await, "WEBHOOK_INVALID_URL", "{wrong}");
    }
    for wrong in ["foo*", "a..b", ".a", "a b", "***"] {
        assert_eq!(create(json!({ "url": url, "eventFilters": [wrong] })).await, "WEBHOOK_FILTER_INVALID", "{wrong}");
    }
    let axie = |more: Value| {
        let mut input = json!({ "url": url, "profile": "axie-v1", "eventFilters": ["user.created"] });
        more.as_object().unwrap().iter().for_each(|(key, value)| input[key] = value.clone());
        input
    };
    assert_eq!(create(axie(json!({ "eventFilters": ["user.*"] }))).await, "WEBHOOK_FILTER_INVALID");
    assert_eq!(create(axie(json!({ "eventFilters": [] }))).await, "WEBHOOK_FILTER_INVALID");
    assert_eq!(create(axie(json!({ "secret": "too short" }))).await, "WEBHOOK_SECRET_INVALID");
    assert_eq!(create(axie(json!({ "description": "x".repeat(201) }))).await, "INVALID_INPUT");
    assert_eq!(create(axie(json!({ "profile": "axie-v9" }))).await, "INVALID_INPUT");
    let own_secret = json!({ "url": url, "profile": "axissynapse-v1", "secret": "0123456789abcdef0123456789abcdef!" });
    assert_eq!(create(own_secret).await, "INVALID_INPUT");
    let publish = async |event_type: &str, data: Value| {
        setting
            .code(PUBLISH, "publishMessage", json!({ "type": event_type, "data": data, "idempotencyKey": "k" }))
            .await
    };
    assert_eq!(publish("no.such.type", json!({})).await, "EVENT_TYPE_UNKNOWN");
    assert_eq!(publish("webhook.test", json!({})).await, "INVALID_INPUT");
    assert_eq!(publish("user.created", json!([])).await, "INVALID_INPUT");
    assert_eq!(publish("user.created", json!({ "x": "y".repeat(300_000) })).await, "MESSAGE_TOO_LARGE");
    let listed = setting.server.data("{ webhooks { nodes { id } } messages { nodes { id } } }", json!({})).await;
    assert_eq!(listed["webhooks"]["nodes"], json!([]));
    assert_eq!(listed["messages"]["nodes"], json!([]));
}

async fn another_tenant_sees_and_reaches_nothing(kind: Kind) {
    let setting = setting(kind).await;
    let (id, _) = setting.webhook("/hook", json!({})).await;
    let tenant = setting
        .server
        .data(
            "mutation { createTenant(input: { name: \"Other\", slug: \"other\" }) { tenant { id } userErrors { code } } }",
            json!({}),
        )
        .await;
    let other = text(&tenant["createTenant"]["tenant"]["id"]);
    let scopes =
        ["WEBHOOKS_READ", "WEBHOOKS_WRITE", "SECRETS_ROTATE", "DELIVERIES_READ", "MESSAGES_PUBLISH", "AUDIT_READ"];
    let created = setting
        .server
        .data(
            "mutation($input: CreateApiKeyInput!) { createApiKey(input: $input) { token userErrors { code message } } }",
            json!({ "input": { "name": "other", "scopes": scopes, "tenantId": other } }),
        )
        .await;
    let key = text(&created["createApiKey"]["token"]);
    let unattended = "mutation($id: ID!) { updateTenant(input: { tenantId: $id, unattendedKeys: true }) { tenant { unattendedKeys } } }";
    setting.server.data(unattended, json!({ "id": other })).await;
    let query = "query($id: ID!) { webhook(id: $id) { id } node(id: $id) { id } webhooks { nodes { id } } auditLog { nodes { targetId } } }";
    let seen = setting.server.try_graphql(&key, query, &json!({ "id": id })).await.unwrap();
    assert_eq!(seen["data"]["webhook"], json!(null), "{seen}");
    assert_eq!(seen["data"]["node"], json!(null));
    assert_eq!(seen["data"]["webhooks"]["nodes"], json!([]));
    let targets: Vec<_> =
        seen["data"]["auditLog"]["nodes"].as_array().unwrap().iter().map(|row| &row["targetId"]).collect();
    assert!(!targets.contains(&&json!(id)), "{seen}");
    // Of a message and a webhook that both are somebody else's, nothing is told either.
    let message = setting.publish("user.created", json!({}), "k1").await["message"]["id"].clone();
    setting.receiver.wait_for(1).await;
    let query = "query($id: ID!, $message: ID!) { explainDelivery(messageId: $message, webhookId: $id) { verdict } sequenceReport(webhookId: $id) { from }
        filterPreview(filters: [\"**\"]) { messagesLookedAt } }";
    let asked = json!({ "id": id, "message": message });
    let seen = setting.server.try_graphql(&key, query, &asked).await.unwrap();
    let nothing =
        json!({ "explainDelivery": null, "sequenceReport": null, "filterPreview": { "messagesLookedAt": 0 } });
    assert_eq!(seen["data"], nothing, "{seen}");
    for (mutation, field) in [
        (
            "mutation($id: ID!) { reenableWebhook(input: { webhookId: $id, backlog: DISCARD }) { userErrors { code } } }",
            "reenableWebhook",
        ),
        ("mutation($id: ID!) { holdWebhook(input: { webhookId: $id }) { userErrors { code } } }", "holdWebhook"),
        ("mutation($id: ID!) { deleteWebhook(input: { webhookId: $id }) { userErrors { code } } }", "deleteWebhook"),
        ("mutation($id: ID!) { disableWebhook(input: { webhookId: $id }) { userErrors { code } } }", "disableWebhook"),
        (
            "mutation($id: ID!) { rotateWebhookSecret(input: { webhookId: $id }) { secret userErrors { code } } }",
            "rotateWebhookSecret",
        ),
        (
            "mutation($id: ID!) { testWebhookDelivery(input: { webhookId: $id }) { userErrors { code } } }",
            "testWebhookDelivery",
        ),
    ] {
        let answer = setting.server.try_graphql(&key, mutation, &json!({ "id": id })).await.unwrap();
        assert_eq!(answer["data"][field]["userErrors"][0]["code"], json!("NOT_FOUND"), "{answer}");
    }
    assert_eq!(setting.receiver.requests().len(), 1, "its owner's message alone was sent");
}

async fn a_test_delivery_works_while_disabled_and_leaves_only_an_audit_row(kind: Kind) {
    // A16, A17, S27, S28, S29
    let setting = setting(kind).await;
    setting.receiver.on_each("/axie", [Script::answer(200, "hello"), Script::status(500)]);
    let more = json!({ "profile": "axie-v1", "eventFilters": ["user.created"], "enabled": false });
    let (id, _) = setting.webhook("/axie", more).await;
    let mutation = "mutation($id: ID!) { testWebhookDelivery(input: { webhookId: $id }) {
        result { verified outcome statusCode bodyPreview latencyMs request { headers { name value } body } }
        userErrors { code } } }";
    let good = setting.server.data(mutation, json!({ "id": id })).await;
    assert_eq!(good["testWebhookDelivery"]["result"]["verified"], json!(true), "{good}");
    // What was sent is shown as the endpoint got it.
    let shown = &good["testWebhookDelivery"]["result"]["request"];
    let got = setting.receiver.requests().pop().unwrap();
    assert_eq!(shown["body"], json!(String::from_utf8(got.body.clone()).unwrap()));
    for header in shown["headers"].as_array().unwrap() {
        assert_eq!(got.header(header["name"].as_str().unwrap()), header["value"].as_str(), "{header}");
    }
    assert_eq!(good["testWebhookDelivery"]["result"]["bodyPreview"], json!("hello"));
    let bad = setting.server.data(mutation, json!({ "id": id })).await;
    assert_eq!(bad["testWebhookDelivery"]["userErrors"][0]["code"], json!("WEBHOOK_BAD_RESPONSE_CODE"));
    assert_eq!(bad["testWebhookDelivery"]["result"]["statusCode"], json!(500));
    let body: Value = serde_json::from_slice(&setting.receiver.requests()[0].body).unwrap();
    assert_eq!(body["event"], json!("webhook.test"));
    assert_eq!(body["version"], json!("v1"));
    assert_eq!(body["data"], json!({ "message": "This is a test webhook" }));
    let data = setting.server.data(DELIVERIES, json!({ "webhook": id })).await;
    assert_eq!(data["deliveries"]["nodes"], json!([]));
    let audit = setting.server.data(AUDIT, json!({})).await;
    let sent = audit["auditLog"]["nodes"]
        .as_array()
        .unwrap()
        .iter()
        .filter(|row| row["code"] == json!("TENANT_WEBHOOK_TEST_SENT"));
    assert_eq!(sent.count(), 2);
}

async fn a_failed_delivery_is_sent_again_on_request_with_the_same_id_and_bytes(kind: Kind) {
    // S26, A35
    let setting = setting(kind).await;
    let (id, _) = setting.webhook("/hook", json!({})).await;
    setting.publish("user.created", json!({ "a": 1 }), "k1").await;
    let succeeded = |data: &Value| data["deliveries"]["nodes"][0]["status"] == json!("SUCCEEDED");
    let data = setting.server.until(DELIVERIES, json!({ "webhook": id }), succeeded).await;
    let original = text(&data["deliveries"]["nodes"][0]["id"]);
    let again = setting
        .server
        .data(
            "mutation($id: ID!) { redeliverDelivery(input: { deliveryId: $id }) { delivery { id redeliveryOf { id } } userErrors { code message } } }",
            json!({ "id": original }),
        )
        .await;
    assert_eq!(again["redeliverDelivery"]["delivery"]["redeliveryOf"]["id"], json!(original), "{again}");
    let requests = setting.receiver.wait_for(2).await;
    assert_eq!(requests[0].body, requests[1].body);
    assert_eq!(requests[0].header("webhook-id"), requests[1].header("webhook-id"));
}

async fn settings_change_at_once_and_every_change_is_audited(kind: Kind) {
    // A10, A13, A14, A15, S18, S29, S30
    let setting = setting(kind).await;
    let (id, secret) = setting.webhook("/old", json!({})).await;
    let update = "mutation($input: UpdateWebhookInput!) { updateWebhook(input: $input) { webhook { url version } userErrors { code } } }";
    let input = json!({ "webhookId": id, "url": setting.receiver.url("/new"), "expectedVersion": 1 });
    let updated = setting.server.data(update, json!({ "input": input })).await;
    assert_eq!(updated["updateWebhook"]["webhook"]["version"], json!(2), "{updated}");
    assert_eq!(setting.code(update, "updateWebhook", input).await, "VERSION_CONFLICT");
    let rotate = "mutation($id: ID!) { rotateWebhookSecret(input: { webhookId: $id, overlapSeconds: 0 }) { secret userErrors { code } } }";
    let rotated = setting.server.data(rotate, json!({ "id": id })).await;
    let new_secret = text(&rotated["rotateWebhookSecret"]["secret"]);
    assert_ne!(new_secret, secret);
    setting.publish("user.created", json!({}), "k1").await;
    let request = setting.receiver.wait_for(1).await.remove(0);
    assert_eq!(request.target, "/new");
    let disable = "mutation($id: ID!) { disableWebhook(input: { webhookId: $id, reason: \"maintenance\" }) { webhook { enabled } userErrors { code } } }";
    assert_eq!(
        setting.server.data(disable, json!({ "id": id })).await["disableWebhook"]["webhook"]["enabled"],
        json!(false)
    );
    setting.publish("user.created", json!({}), "k2").await;
    let enable =
        "mutation($id: ID!) { enableWebhook(input: { webhookId: $id }) { webhook { enabled } userErrors { code } } }";
    setting.server.data(enable, json!({ "id": id })).await;
    setting.publish("user.created", json!({}), "k3").await;
    let requests = setting.receiver.wait_for(2).await;
    assert_eq!(requests.len(), 2, "what was published while disabled was sent");
    let delete =
        "mutation($id: ID!) { deleteWebhook(input: { webhookId: $id }) { deletedWebhookId userErrors { code } } }";
    assert_eq!(setting.server.data(delete, json!({ "id": id })).await["deleteWebhook"]["deletedWebhookId"], json!(id));
    let gone = setting
        .server
        .data("query($id: ID!) { webhook(id: $id) { id } webhooks { nodes { id } } }", json!({ "id": id }))
        .await;
    assert_eq!(gone, json!({ "webhook": null, "webhooks": { "nodes": [] } }));
    let audit = setting.server.data(AUDIT, json!({})).await;
    let codes: Vec<_> = audit["auditLog"]["nodes"]
        .as_array()
        .unwrap()
        .iter()
        .filter(|row| row["targetId"] == json!(id))
        .map(|row| text(&row["code"]))
        .collect();
    let expected = ["DELETED", "ENABLED", "DISABLED", "SECRET_ROTATED", "UPDATED", "CREATED"];
    assert_eq!(codes, expected.map(|code| format!("TENANT_WEBHOOK_{code}")));
    let everything = audit.to_string() + &setting.server.stderr();
    assert!(!everything.contains(&secret) && !everything.contains(&new_secret), "a secret was told");
    for file in std::fs::read_dir(setting.server.folder()).unwrap() {
        let bytes = std::fs::read(file.unwrap().path()).unwrap();
        for secret in [&secret, &new_secret] {
            assert!(
                !bytes.windows(secret.len()).any(|window| window == secret.as_bytes()),
                "a secret lies in the clear"
            );
        }
    }
}

async fn read_models_are_rebuilt_from_the_log_to_the_same_answers(kind: Kind) {
    let mut setting = setting(kind).await;
    let (id, _) = setting.webhook("/hook", json!({})).await;
    for n in 0..20 {
        setting.publish("user.created", json!({ "n": n }), &format!("k{n}")).await;
    }
    let all = |data: &Value| {
        let nodes = data["deliveries"]["nodes"].as_array().unwrap();
        nodes.len() == 20 && nodes.iter().all(|node| node["status"] == json!("SUCCEEDED"))
    };
    let before = setting.server.until(DELIVERIES, json!({ "webhook": id }), all).await;
    let audit = setting.server.data(AUDIT, json!({})).await;
    assert_eq!(setting.server.terminate(), Some(0));
    let rebuilt = std::process::Command::new(env!("CARGO_BIN_EXE_tidings"))
        .args(["rebuild", "--config"])
        .arg(setting.server.config())
        .output()
        .unwrap();
    assert!(rebuilt.status.success(), "{}", String::from_utf8_lossy(&rebuilt.stderr));
    assert!(String::from_utf8_lossy(&rebuilt.stdout).starts_with("rebuilt from "));
    setting.server.restart();
    assert_eq!(setting.server.data(DELIVERIES, json!({ "webhook": id })).await, before);
    assert_eq!(setting.server.data(AUDIT, json!({})).await, audit);
    assert_eq!(setting.receiver.requests().len(), 20, "a rebuild sent something");
}

async fn without_a_valid_key_nothing_is_answered(kind: Kind) {
    let setting = setting(kind).await;
    let post = |key: Option<&str>, body: &'static str| {
        let request = setting
            .server
            .client()
            .post(setting.server.url("/graphql"))
            .header("content-type", "application/json")
            .body(body);
        match key {
            Some(key) => request.bearer_auth(key),
            None => request,
        }
    };
    let query = r#"{"query":"{ viewer { scopes } }"}"#;
    for key in [None, Some("nonsense"), Some("tdk_01ARZ3NDEKTSV4RRFFQ69G5FAV_00_00")] {
        let answer = post(key, query).send().await.unwrap();
        assert_eq!(answer.status().as_u16(), 401, "{key:?}");
        assert!(answer.headers().contains_key("www-authenticate"));
        assert!(answer.text().await.unwrap().contains("UNAUTHENTICATED"));
    }
    let key = setting.server.key.as_str();
    let garbage = post(Some(key), "{ not json").send().await.unwrap();
    assert_eq!(garbage.status().as_u16(), 400);
    assert!(garbage.text().await.unwrap().contains("BAD_REQUEST"));
}

async fn a_test_that_hangs_is_a_timeout(kind: Kind) {
    // S20, S28
    let setting = setting(kind).await;
    setting.receiver.on("/hang", Script::hang());
    let (id, _) = setting.webhook("/hang", json!({ "profile": "axissynapse-v1", "enabled": false })).await;
    let mutation = "mutation($id: ID!) { testWebhookDelivery(input: { webhookId: $id }) {
        result { verified outcome statusCode } userErrors { code } } }";
    let answer = setting.server.data(mutation, json!({ "id": id })).await;
    let tested = &answer["testWebhookDelivery"];
    assert_eq!(tested["userErrors"][0]["code"], json!("WEBHOOK_TEST_TIMEOUT"));
    assert_eq!(tested["result"], json!({ "verified": false, "outcome": "TIMEOUT", "statusCode": null }));
}

async fn webhooks_are_found_by_text_and_state(kind: Kind) {
    // A2, A4
    let setting = setting(kind).await;
    setting.webhook("/billing", json!({ "description": "Invoices" })).await;
    setting.webhook("/crm", json!({ "enabled": false })).await;
    let found = async |filter: Value| {
        let query = "query($filter: WebhookFilter) { webhooks(filter: $filter) { nodes { url } } }";
        let data = setting.server.data(query, json!({ "filter": filter })).await;
        let nodes = data["webhooks"]["nodes"].as_array().unwrap().clone();
        nodes.iter().map(|node| text(&node["url"]).rsplit('/').next().unwrap().to_owned()).collect::<Vec<_>>()
    };
    assert_eq!(found(json!({ "search": "crm" })).await, ["crm"]);
    assert_eq!(found(json!({ "search": "voice" })).await, ["billing"]);
    assert_eq!(found(json!({ "enabled": false })).await, ["crm"]);
    assert_eq!(found(json!({ "search": "%" })).await, Vec::<String>::new());
    let summary = setting.server.data("{ webhookSummary { total active inactive eventTypes } }", json!({})).await;
    assert_eq!(summary["webhookSummary"]["total"], json!(2));
    assert_eq!(summary["webhookSummary"]["active"], json!(1));
    assert_eq!(summary["webhookSummary"]["inactive"], json!(1));
}

async fn several_messages_are_published_in_one_request_each_with_its_own_answer(kind: Kind) {
    let setting = setting(kind).await;
    setting.webhook("/hook", json!({})).await;
    let message = |event_type: &str, key: &str| json!({ "type": event_type, "data": {}, "idempotencyKey": key });
    let mutation = "mutation($input: PublishMessagesInput!) { publishMessages(input: $input) {
        results { message { id } duplicate userErrors { code } } userErrors { code } } }";
    let messages = [
        message("user.created", "a"),
        message("no.such", "b"),
        message("user.deleted", "c"),
        message("user.created", "a"),
    ];
    let answer = setting.server.data(mutation, json!({ "input": { "messages": messages } })).await;
    let results = answer["publishMessages"]["results"].as_array().unwrap();
    assert_eq!(results[1]["userErrors"][0]["code"], json!("EVENT_TYPE_UNKNOWN"));
    assert_eq!(results[0]["message"]["id"], results[3]["message"]["id"]);
    assert_eq!(results[3]["duplicate"], json!(true));
    assert_eq!(setting.receiver.wait_for(2).await.len(), 2);
}

async fn a_store_without_its_key_is_not_opened(kind: Kind) {
    let mut setting = setting(kind).await;
    setting.webhook("/hook", json!({})).await;
    setting.server.kill();
    std::fs::remove_file(setting.server.folder().join("log.db.key")).unwrap();
    let start = || {
        let serve = ["serve", "--config"];
        std::process::Command::new(env!("CARGO_BIN_EXE_tidings"))
            .args(serve)
            .arg(setting.server.config())
            .output()
            .unwrap()
    };
    let refused = start();
    assert!(!refused.status.success());
    let said = String::from_utf8_lossy(&refused.stderr).into_owned();
    assert!(said.contains("log.db.key' does not exist"), "{said}");
    let key = setting.server.folder().join("log.db.key");
    std::fs::write(&key, "00".repeat(32)).unwrap();
    std::fs::set_permissions(&key, std::os::unix::fs::PermissionsExt::from_mode(0o600)).unwrap();
    let refused = start();
    assert!(!refused.status.success());
    let said = String::from_utf8_lossy(&refused.stderr).into_owned();
    assert!(said.contains("are sealed under the key"), "{said}");
}

#[tokio::test(flavor = "multi_thread")]
async fn after_a_clean_shutdown_the_main_file_alone_is_the_log() {
    let mut setting = setting(Kind::Sqlite).await;
    for n in 0..20 {
        setting.publish("user.created", json!({ "n": n }), &format!("k{n}")).await;
    }
    assert_eq!(setting.server.terminate(), Some(0));
    let backup = tempfile::tempdir().unwrap();
    let copy = backup.path().join("copy.db");
    std::fs::copy(setting.server.folder().join("log.db"), &copy).unwrap();
    let rebuilt = std::process::Command::new(env!("CARGO_BIN_EXE_tidings"))
        .args(["rebuild", "--database-url", &format!("sqlite://{}", copy.display())])
        .output()
        .unwrap();
    // How it is configured, tenant, key and messages.
    assert_eq!(String::from_utf8_lossy(&rebuilt.stdout), "rebuilt from 24 events\n", "{rebuilt:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_tenants_send_is_the_owners_alone_on_disk() {
    use std::os::unix::fs::PermissionsExt;
    let setting = setting(Kind::Sqlite).await;
    setting.publish("user.created", json!({ "name": "Ada" }), "k1").await;
    let mut seen = 0;
    for entry in std::fs::read_dir(setting.server.folder()).unwrap() {
        let entry = entry.unwrap();
        if entry.file_name().to_string_lossy().starts_with("log.db") {
            seen += 1;
            assert_eq!(entry.metadata().unwrap().permissions().mode() & 0o077, 0, "{entry:?}");
        }
    }
    assert!(seen >= 8, "log, read models, their companions, key and lock: {seen}");
}

on_both! {
    a_message_is_signed_delivered_and_remembered,
    a_refused_attempt_is_retried_and_its_answer_kept,
    publishing_twice_under_one_key_makes_one_message,
    wrong_input_gets_its_documented_code_and_changes_nothing,
    another_tenant_sees_and_reaches_nothing,
    a_test_delivery_works_while_disabled_and_leaves_only_an_audit_row,
    a_failed_delivery_is_sent_again_on_request_with_the_same_id_and_bytes,
    settings_change_at_once_and_every_change_is_audited,
    read_models_are_rebuilt_from_the_log_to_the_same_answers,
    without_a_valid_key_nothing_is_answered,
    a_test_that_hangs_is_a_timeout,
    webhooks_are_found_by_text_and_state,
    several_messages_are_published_in_one_request_each_with_its_own_answer,
    a_store_without_its_key_is_not_opened,
}
