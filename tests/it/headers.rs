//! Custom headers of webhooks through the API, to a real endpoint: sent as they were written, and shown to nobody (S8, C15).

use std::process::Command;

use serde_json::{Value, json};

use crate::support::receiver::{Receiver, Script};
use crate::support::server::{Kind, Server, on_both};

const CREATE: &str = "mutation($input: CreateWebhookInput!) { createWebhook(input: $input) {
    webhook { id version headers { name maskedValue } deliveryProfile { maxCustomHeaders } } secret
    userErrors { code message path } } }";
const UPDATE: &str = "mutation($input: UpdateWebhookInput!) { updateWebhook(input: $input) {
    webhook { id version headers { name maskedValue } } position userErrors { code message path } } }";
const PUBLISH: &str = "mutation { publishMessage(input: { type: \"user.created\", data: {} }) { message { id } } }";
const TEST: &str = "mutation($id: ID!) { testWebhookDelivery(input: { webhookId: $id }) {
    result { verified bodyPreview request { headers { name value } } } } }";
const SEEN: &str = "query($id: ID!) {
    webhook(id: $id) { headers { name maskedValue }
        history { nodes { version headers { name maskedValue } changes { field from to } } } }
    webhookSnapshot(id: $id, asOf: { version: 1 }) { headers { name maskedValue } }
    auditLog { nodes { code changes } }
    deliveries(filter: { webhookId: $id }) { nodes { status attempts { nodes { responsePreview } } } } }";

const FIRST: &str = "Token first-value\tof 42~";
const SECOND: &str = "second-value-of-42";

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
    async fn create(&self, profile: &str, headers: Value) -> Value {
        let input = json!({ "url": self.receiver.url("/hook"), "eventFilters": ["user.created"], "enabled": true,
            "profile": profile, "headers": headers });
        self.server.data(CREATE, json!({ "input": input })).await["createWebhook"].take()
    }

    /// Runs a command, which must succeed.
    fn tidings(&self, arguments: &[&str]) {
        let mut command = Command::new(env!("CARGO_BIN_EXE_tidings"));
        command.args(arguments).arg("--config").arg(self.server.config()).current_dir(self.server.folder());
        let output = command.output().unwrap();
        assert!(output.status.success(), "{arguments:?}: {output:?}");
    }

    async fn update(&self, id: &Value, more: Value) -> Value {
        let mut input = json!({ "webhookId": id });
        more.as_object().unwrap().iter().for_each(|(key, value)| input[key] = value.clone());
        self.server.data(UPDATE, json!({ "input": input })).await["updateWebhook"].take()
    }
}

fn masked(names: &[&str]) -> Value {
    names.iter().map(|name| json!({ "name": name, "maskedValue": "***" })).collect()
}

async fn custom_headers_are_sent_and_never_shown(kind: Kind) {
    // S8
    let setting = setting(kind).await;
    setting.receiver.on("/hook", Script::answer(200, format!("you sent {FIRST}")));
    let given = json!([{ "name": "X-API-Key", "value": FIRST }, { "name": "x-region", "value": "eu" }]);
    let created = setting.create("axissynapse-v1", given.clone()).await;
    assert_eq!(created["userErrors"], json!([]));
    assert_eq!(created["webhook"]["headers"], masked(&["X-API-Key", "x-region"]));
    assert_eq!(created["webhook"]["deliveryProfile"]["maxCustomHeaders"], json!(5));
    let id = &created["webhook"]["id"];
    let tested = setting.server.data(TEST, json!({ "id": id })).await["testWebhookDelivery"]["result"].take();
    assert_eq!((&tested["verified"], &tested["bodyPreview"]), (&json!(true), &json!("you sent ***")));
    let shown = tested["request"]["headers"].as_array().unwrap();
    assert!(shown.contains(&json!({ "name": "X-API-Key", "value": "***" })), "{shown:?}");
    setting.server.data(PUBLISH, json!({})).await;
    for request in setting.receiver.wait_for(2).await {
        assert_eq!((request.header("x-api-key"), request.header("X-Region")), (Some(FIRST), Some("eu")));
        assert_eq!(request.header("user-agent"), Some("AxisSynapse-Webhook/1.0"));
    }

    // Once its outcome is recorded: an answer that comes behind that names its place.
    let delivered = |data: &Value| data["deliveries"]["nodes"][0]["status"] == json!("SUCCEEDED");
    setting.server.until(SEEN, json!({ "id": id }), delivered).await;

    // The same once more, and what does not speak of them, leave them as they are.
    let same = setting.update(id, json!({ "headers": given })).await;
    assert_eq!((&same["position"], &same["webhook"]["version"]), (&json!(null), &json!(1)));
    let other = setting.update(id, json!({ "description": "alerts" })).await;
    assert_eq!(other["webhook"]["headers"], masked(&["X-API-Key", "x-region"]));
    let replaced = setting.update(id, json!({ "headers": [{ "name": "X-API-Key", "value": SECOND }] })).await;
    setting.receiver.on("/hook", Script::status(200));
    assert_eq!(replaced["webhook"]["headers"], masked(&["X-API-Key"]));
    setting.server.data(PUBLISH, json!({})).await;
    let request = setting.receiver.wait_for(3).await.remove(2);
    assert_eq!((request.header("x-api-key"), request.header("x-region")), (Some(SECOND), None));
    let none = setting.update(id, json!({ "headers": [] })).await;
    assert_eq!((&none["webhook"]["headers"], &none["webhook"]["version"]), (&json!([]), &json!(4)));
    setting.server.data(PUBLISH, json!({})).await;
    assert_eq!(setting.receiver.wait_for(4).await[3].header("x-api-key"), None);

    let ended = |data: &Value| {
        let nodes = data["deliveries"]["nodes"].as_array().unwrap();
        nodes.len() == 3 && nodes.iter().all(|node| node["status"] == json!("SUCCEEDED"))
    };
    let seen = setting.server.until(SEEN, json!({ "id": id }), ended).await;
    assert_eq!(seen["webhookSnapshot"]["headers"], masked(&["X-API-Key", "x-region"]));
    let change = &seen["webhook"]["history"]["nodes"][1]["changes"][0];
    assert_eq!(change["field"], json!("HEADERS"));
    assert_eq!(
        (&change["from"]["names"], &change["to"]["names"]),
        (&json!(["X-API-Key", "x-region"]), &json!(["X-API-Key"]))
    );
    assert_ne!(change["from"]["fingerprint"], change["to"]["fingerprint"]);
    let updated = seen["auditLog"]["nodes"].as_array().unwrap().iter().find(|row| !row["changes"]["headers"].is_null());
    assert_eq!(updated.unwrap()["changes"]["headers"]["to"], json!(null));
    let told = seen.to_string() + &tested.to_string() + &setting.server.stderr();
    assert!(![FIRST, SECOND, "first-value", "eu\""].iter().any(|value| told.contains(value)), "{told}");
}

#[tokio::test(flavor = "multi_thread")]
async fn custom_headers_move_with_an_export() {
    // S8
    let mut setting = setting(Kind::Sqlite).await;
    let created = setting.create("axissynapse-v1", json!([{ "name": "X-API-Key", "value": FIRST }])).await;
    assert_eq!(created["userErrors"], json!([]));
    setting.tidings(&["export", "export.jsonl"]);
    assert_eq!(setting.server.terminate(), Some(0));
    let moved = setting.server.folder().join("moved.db");
    setting.server.move_to(&format!("sqlite://{}", moved.display()));
    setting.tidings(&["import", "export.jsonl"]);
    setting.server.restart();
    setting.server.data(PUBLISH, json!({})).await;
    assert_eq!(setting.receiver.wait_for(1).await[0].header("x-api-key"), Some(FIRST));
    setting.tidings(&["verify"]);
}

async fn what_may_not_be_a_header_is_told_by_its_place(kind: Kind) {
    // S8, C15
    let setting = setting(kind).await;
    let one = |name: &str, value: &str| json!([{ "name": "X-First", "value": "v" }, { "name": name, "value": value }]);
    let six: Value = (0..6).map(|index| json!({ "name": format!("X-{index}"), "value": "v" })).collect();
    let path = |end: &[&str]| json!(["input", "headers"].iter().chain(end).collect::<Vec<_>>());
    let cases = [
        (one("Authorization", "Bearer x"), path(&["1", "name"])),
        (one("aUTHORIZATION", "Bearer x"), path(&["1", "name"])),
        (one("X-AxisSynapse-Anything", "x"), path(&["1", "name"])),
        (one("cOnTeNt-LeNgTh", "1"), path(&["1", "name"])),
        (one("Transfer_Encoding", "chunked"), path(&["1", "name"])),
        (one("Metadata-Flavor", "Google"), path(&["1", "name"])),
        (one("X-Forwarded-For", "10.0.0.1"), path(&["1", "name"])),
        (one("X-Evil\r\nHost", "x"), path(&["1", "name"])),
        (one("X-\u{fc}", "x"), path(&["1", "name"])),
        (one("", "x"), path(&["1", "name"])),
        (one(&"n".repeat(101), "x"), path(&["1", "name"])),
        (one("x-first", "x"), path(&["1", "name"])),
        (one("X-Key", "a\r\nX-Evil: 1"), path(&["1", "value"])),
        (one("X-Key", "a\nb"), path(&["1", "value"])),
        (one("X-Key", "a\u{0}b"), path(&["1", "value"])),
        (one("X-Key", "\u{1f511}"), path(&["1", "value"])),
        (one("X-Key", "caf\u{e9}"), path(&["1", "value"])),
        (one("X-Key", " a"), path(&["1", "value"])),
        (one("X-Key", ""), path(&["1", "value"])),
        (one("X-Key", &"v".repeat(1_025)), path(&["1", "value"])),
        (six, path(&[])),
    ];
    let created = setting.create("axissynapse-v1", one("X-Key", "v")).await;
    let id = &created["webhook"]["id"];
    for (headers, path) in cases {
        for refused in [
            setting.create("axissynapse-v1", headers.clone()).await,
            setting.update(id, json!({ "headers": headers })).await,
        ] {
            let errors = refused["userErrors"].as_array().unwrap();
            assert_eq!(errors.len(), 1, "{headers}: {errors:?}");
            assert_eq!(
                (&errors[0]["code"], &errors[0]["path"]),
                (&json!("WEBHOOK_HEADER_INVALID"), &path),
                "{headers}"
            );
        }
    }
    let axie = setting.create("axie-v1", one("X-Key", "v")).await;
    assert_eq!(axie["userErrors"][0]["path"], path(&[]), "{axie}");
    assert_eq!(setting.create("axie-v1", json!([])).await["userErrors"], json!([]));
    assert_eq!(setting.create("standard-v1", one("X-Key", &"v".repeat(1_024))).await["userErrors"], json!([]));
    let webhook =
        setting.server.data("query($id: ID!) { webhook(id: $id) { version headers { name } } }", json!({ "id": id }));
    let expected = json!({ "webhook": { "version": 1, "headers": [{ "name": "X-First" }, { "name": "X-Key" }] } });
    assert_eq!(webhook.await, expected);
}

on_both!(custom_headers_are_sent_and_never_shown, what_may_not_be_a_header_is_told_by_its_place);
