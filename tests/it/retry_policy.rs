//! A webhook's own retry policy through the API, to a real endpoint, over both databases.

use std::process::Command;

use serde_json::{Value, json};

use crate::support::receiver::{Receiver, Script};
use crate::support::server::{Kind, Server, on_both};

const CREATE: &str = "mutation($input: CreateWebhookInput!) { m: createWebhook(input: $input) {
    webhook { id version retryPolicy { ...Policy } } userErrors { code path } } }";
const UPDATE: &str = "mutation($input: UpdateWebhookInput!) { m: updateWebhook(input: $input) {
    webhook { id version retryPolicy { ...Policy } } position userErrors { code path } } }";
const POLICY: &str = "fragment Policy on RetryPolicy {
    own maxAttempts delaysSeconds jitter windowSeconds timeoutSeconds success successStatuses }";
const PUBLISH: &str = "mutation { publishMessage(input: { type: \"user.created\", data: {} }) { message { id } } }";
const ENDED: &str = "query($id: ID!) { deliveries(filter: { webhookId: $id }) {
    nodes { status attemptCount attempts(first: 20) { nodes { statusCode } } } } }";
const TIMERS: &str =
    "query($id: ID!) { webhook(id: $id) { timers { deliveries { nodes { maxAttempts nextAttempt } } } } }";
const SEEN: &str = "query($id: ID!) {
    webhook(id: $id) { retryPolicy { ...Policy }
        history { nodes { version retryPolicy { own maxAttempts } changes { field from to } } } }
    webhookSnapshot(id: $id, asOf: { version: 1 }) { retryPolicy { ...Policy } }
    auditLog { nodes { code changes } } }";
const TEST: &str = "mutation($id: ID!) { m: testWebhookDelivery(input: { webhookId: $id }) {
    result { verified } userErrors { code } } }";

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
    async fn create(&self, profile: &str, policy: Value) -> Value {
        let input = json!({ "url": self.receiver.url("/hook"), "eventFilters": ["user.created"], "enabled": true,
            "profile": profile, "retryPolicy": policy });
        self.server.data(&format!("{CREATE} {POLICY}"), json!({ "input": input })).await["m"].take()
    }

    async fn update(&self, id: &Value, more: Value) -> Value {
        let mut input = json!({ "webhookId": id });
        more.as_object().unwrap().iter().for_each(|(key, value)| input[key] = value.clone());
        self.server.data(&format!("{UPDATE} {POLICY}"), json!({ "input": input })).await["m"].take()
    }

    /// The webhook's deliveries, once so many have ended so.
    async fn ended(&self, id: &Value, status: &str, count: usize) -> Value {
        let ended = |data: &Value| {
            let nodes = data["deliveries"]["nodes"].as_array().unwrap();
            nodes.iter().filter(|node| node["status"] == json!(status)).count() == count
        };
        self.server.until(ENDED, json!({ "id": id }), ended).await["deliveries"]["nodes"].take()
    }

    /// Runs a command, which must succeed.
    fn tidings(&self, arguments: &[&str]) {
        let mut command = Command::new(env!("CARGO_BIN_EXE_tidings"));
        command.args(arguments).arg("--config").arg(self.server.config()).current_dir(self.server.folder());
        let output = command.output().unwrap();
        assert!(output.status.success(), "{arguments:?}: {output:?}");
    }
}

async fn a_failing_endpoint_is_called_as_often_as_the_webhook_says(kind: Kind) {
    // A29, A13, C2
    let mut setting = setting(kind).await;
    setting.receiver.on("/hook", Script::status(500));
    let created = setting.create("axie-v1", json!({ "maxAttempts": 3, "delaysSeconds": [0] })).await;
    assert_eq!(created["userErrors"], json!([]));
    let own = json!({ "own": true, "maxAttempts": 3, "delaysSeconds": [0, 0], "jitter": "NONE", "windowSeconds": null,
        "timeoutSeconds": 30, "success": "ONLY_200", "successStatuses": [200] });
    assert_eq!(created["webhook"]["retryPolicy"], own);
    let id = created["webhook"]["id"].clone();
    setting.server.data(PUBLISH, json!({})).await;
    let failed = setting.ended(&id, "FAILED", 1).await;
    assert_eq!(failed[0]["attemptCount"], json!(3), "{failed}");
    assert_eq!(setting.receiver.requests().len(), 3);

    // A restart changes nothing of it.
    assert_eq!(setting.server.terminate(), Some(0));
    setting.server.restart();
    setting.server.data(PUBLISH, json!({})).await;
    setting.ended(&id, "FAILED", 2).await;
    assert_eq!(setting.receiver.requests().len(), 6);

    // What waits goes on by the rules of now.
    let slower = setting.update(&id, json!({ "retryPolicy": { "delaysSeconds": [3600, 3600] } })).await;
    assert_eq!(slower["webhook"]["version"], json!(2), "{slower}");
    setting.server.data(PUBLISH, json!({})).await;
    let timer = |data: &Value| data["webhook"]["timers"]["deliveries"]["nodes"][0].clone();
    let waits = |data: &Value| timer(data)["nextAttempt"] == json!(2);
    let timers = setting.server.until(TIMERS, json!({ "id": id }), waits).await;
    assert_eq!(timer(&timers)["maxAttempts"], json!(3));
    setting.update(&id, json!({ "retryPolicy": { "maxAttempts": 7 } })).await;
    assert_eq!(timer(&setting.server.data(TIMERS, json!({ "id": id })).await)["maxAttempts"], json!(7));
}

async fn a_policy_is_set_seen_and_taken_back(kind: Kind) {
    // A30, S19, C1
    let setting = setting(kind).await;
    setting.receiver.on("/hook", Script::status(204));
    let id = setting.create("axie-v1", json!({})).await["webhook"]["id"].take();
    let verified = async || setting.server.data(TEST, json!({ "id": id })).await["m"]["result"]["verified"].take();
    assert_eq!(verified().await, json!(false));
    let any = json!({ "retryPolicy": { "success": "ANY_2XX", "timeoutSeconds": 5 } });
    let updated = setting.update(&id, any.clone()).await;
    let policy = &updated["webhook"]["retryPolicy"];
    assert_eq!((&policy["success"], &policy["timeoutSeconds"]), (&json!("ANY_2XX"), &json!(5)), "{updated}");
    assert_eq!((&policy["successStatuses"], &policy["delaysSeconds"]), (&json!(null), &json!([2, 4, 8, 16])));
    assert_eq!(verified().await, json!(true));
    setting.server.data(PUBLISH, json!({})).await;
    setting.ended(&id, "SUCCEEDED", 1).await;

    // The same once more, and what does not speak of it, leave it as it is.
    assert_eq!(setting.update(&id, any).await["position"], json!(null));
    let other = setting.update(&id, json!({ "description": "alerts" })).await;
    assert_eq!(other["webhook"]["retryPolicy"]["own"], json!(true), "{other}");
    let back = setting.update(&id, json!({ "retryPolicy": null })).await;
    assert_eq!(back["webhook"]["retryPolicy"]["own"], json!(false), "{back}");

    let seen = setting.server.data(&format!("{SEEN} {POLICY}"), json!({ "id": id })).await;
    let axie = json!({ "own": false, "maxAttempts": 5, "delaysSeconds": [2, 4, 8, 16], "jitter": "NONE",
        "windowSeconds": null, "timeoutSeconds": 30, "success": "ONLY_200", "successStatuses": [200] });
    assert_eq!((&seen["webhook"]["retryPolicy"], &seen["webhookSnapshot"]["retryPolicy"]), (&axie, &axie));
    let history = &seen["webhook"]["history"]["nodes"];
    let told = json!({ "timeout_s": 5, "success": "any_2xx" });
    assert_eq!(history[0]["changes"], json!([{ "field": "RETRY_POLICY", "from": told, "to": null }]));
    assert_eq!(history[1]["retryPolicy"], json!({ "own": true, "maxAttempts": 5 }));
    let audit =
        seen["auditLog"]["nodes"].as_array().unwrap().iter().find(|row| !row["changes"]["retry_policy"].is_null());
    assert_eq!(audit.unwrap()["changes"], json!({ "retry_policy": { "from": told, "to": null } }));
}

async fn a_policy_out_of_bounds_is_refused_by_its_place(kind: Kind) {
    let setting = setting(kind).await;
    let id = setting.create("standard-v1", json!(null)).await["webhook"]["id"].take();
    for (policy, places) in [
        (json!({ "maxAttempts": 0 }), json!([["maxAttempts"]])),
        (json!({ "maxAttempts": 21 }), json!([["maxAttempts"]])),
        (json!({ "maxAttempts": -1, "timeoutSeconds": 61 }), json!([["maxAttempts"], ["timeoutSeconds"]])),
        (json!({ "timeoutSeconds": 0 }), json!([["timeoutSeconds"]])),
        (json!({ "maxAttempts": 2, "delaysSeconds": [] }), json!([["delaysSeconds"]])),
        (json!({ "maxAttempts": 2, "delaysSeconds": [1, 2] }), json!([["delaysSeconds"]])),
        (json!({ "delaysSeconds": vec![1; 20] }), json!([["delaysSeconds"]])),
        (json!({ "delaysSeconds": [-1, 5, 172_801] }), json!([["delaysSeconds", "0"], ["delaysSeconds", "2"]])),
    ] {
        for refused in [
            setting.create("standard-v1", policy.clone()).await,
            setting.update(&id, json!({ "retryPolicy": policy })).await,
        ] {
            assert_eq!(refused["webhook"], json!(null));
            let expected = places.as_array().unwrap().iter().map(|place| {
                let path: Vec<_> = [json!("input"), json!("retryPolicy")]
                    .into_iter()
                    .chain(place.as_array().unwrap().clone())
                    .collect();
                json!({ "code": "INVALID_INPUT", "path": path })
            });
            assert_eq!(refused["userErrors"], expected.collect::<Value>(), "{policy}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_policy_moves_with_an_export() {
    let mut setting = setting(Kind::Sqlite).await;
    setting.receiver.on("/hook", Script::status(500));
    let policy = json!({ "maxAttempts": 2, "delaysSeconds": [0] });
    let id = setting.create("standard-v1", policy).await["webhook"]["id"].take();
    setting.tidings(&["export", "export.jsonl"]);
    assert_eq!(setting.server.terminate(), Some(0));
    let moved = setting.server.folder().join("moved.db");
    setting.server.move_to(&format!("sqlite://{}", moved.display()));
    setting.tidings(&["import", "export.jsonl"]);
    setting.server.restart();
    setting.server.data(PUBLISH, json!({})).await;
    let failed = setting.ended(&id, "FAILED", 1).await;
    assert_eq!(failed[0]["attemptCount"], json!(2), "{failed}");
    assert_eq!(setting.receiver.requests().len(), 2);
    setting.tidings(&["verify"]);
}

on_both!(
    a_failing_endpoint_is_called_as_often_as_the_webhook_says,
    a_policy_is_set_seen_and_taken_back,
    a_policy_out_of_bounds_is_refused_by_its_place,
);
