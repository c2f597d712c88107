//! Switches of profiles that none of the program's own uses.

use std::fs;
use std::path::Path;

use serde_json::{Value, json};

use crate::support::receiver::{Receiver, Script};
use crate::support::server::{Kind, Server};

const CREATE: &str = "mutation($input: CreateWebhookInput!) { createWebhook(input: $input) {
    webhook { id enabled eventFilters filterHints { suggestion } unmatchedFilters { filter didYouMean } }
    userErrors { code message path } } }";
const UPDATE: &str = "mutation($input: UpdateWebhookInput!) { updateWebhook(input: $input) {
    webhook { url eventFilters version } userErrors { code message path } } }";
const ENABLE: &str = "mutation($id: ID!) { enableWebhook(input: { webhookId: $id }) {
    webhook { enabled } userErrors { code message path } } }";
const DISABLE: &str = "mutation($id: ID!) { disableWebhook(input: { webhookId: $id }) { userErrors { code } } }";
const TEST: &str = "mutation($id: ID!) { testWebhookDelivery(input: { webhookId: $id }) {
    result { verified } userErrors { code } } }";
const PUBLISH: &str = "mutation { publishMessage(input: { type: \"platform.saml.provider.enabled\", data: {} }) {
    message { id } userErrors { code message } } }";

/// A server whose one profile of its own has these switches.
async fn server(receiver: &Receiver, switch: impl FnOnce(&mut Value)) -> (Server, tempfile::TempDir) {
    let text = fs::read(Path::new(env!("CARGO_MANIFEST_DIR")).join("examples/profiles/github-style-v1.json")).unwrap();
    let mut profile: Value = serde_json::from_slice(&text).unwrap();
    profile["name"] = json!("switched-v1");
    profile["enabled_default"] = json!(false);
    switch(&mut profile);
    let folder = tempfile::tempdir().unwrap();
    fs::write(folder.path().join("switched.json"), profile.to_string()).unwrap();
    let more = format!("[profiles]\npath = \"{}\"\n", folder.path().display());
    (Server::start_on_with(Kind::Sqlite, &receiver.ca_file(), &more).await, folder)
}

fn refused(path: &[&str]) -> Value {
    json!({ "code": "WEBHOOK_TEST_REQUIRED", "path": path })
}

/// What was refused, without the sentence, which says what to do.
fn error(payload: &Value, says: &str) -> Value {
    let error = &payload["userErrors"][0];
    assert!(error["message"].as_str().unwrap_or_default().contains(says), "{payload}");
    json!({ "code": error["code"], "path": error["path"] })
}

#[tokio::test(flavor = "multi_thread")]
async fn a_webhook_is_enabled_only_after_a_test_of_the_url_that_it_has() {
    // C12
    let receiver = Receiver::start().await;
    let (mut server, _folder) = server(&receiver, |profile| profile["require_test"] = json!(true)).await;
    let mut input = json!({
        "url": receiver.url("/hook"), "eventFilters": ["**"], "enabled": true, "profile": "switched-v1",
    });
    let created = &server.data(CREATE, json!({ "input": input })).await["createWebhook"];
    assert_eq!(error(created, "create the webhook disabled"), refused(&["input", "enabled"]));
    input.as_object_mut().unwrap().remove("enabled");
    let created = &server.data(CREATE, json!({ "input": input })).await["createWebhook"];
    assert_eq!(created["webhook"]["enabled"], json!(false), "{created}");
    let id = &created["webhook"]["id"];
    let enable = async || server.data(ENABLE, json!({ "id": id })).await["enableWebhook"].take();
    let test = async || {
        let tested = server.data(TEST, json!({ "id": id })).await["testWebhookDelivery"].take();
        tested["result"]["verified"].clone()
    };
    let move_to = async |path: &str| {
        let input = json!({ "webhookId": id, "url": receiver.url(path) });
        server.data(UPDATE, json!({ "input": input })).await["updateWebhook"].take()
    };

    assert_eq!(error(&enable().await, "send a test to its present URL"), refused(&["input", "webhookId"]));
    receiver.on_each("/hook", [Script::status(500), Script::status(200)]);
    assert_eq!(test().await, json!(false));
    assert_eq!(error(&enable().await, "send a test"), refused(&["input", "webhookId"]));
    assert_eq!(test().await, json!(true));
    assert_eq!(enable().await["webhook"]["enabled"], json!(true));

    assert_eq!(error(&move_to("/other").await, "disable it, change its URL"), refused(&["input", "url"]));
    server.data(DISABLE, json!({ "id": id })).await;
    assert_eq!(move_to("/other").await["userErrors"], json!([]));
    assert_eq!(error(&enable().await, "send a test"), refused(&["input", "webhookId"]));
    assert_eq!(test().await, json!(true));
    // What was proven is recorded.
    server.kill();
    server.restart();
    let enabled = server.data(ENABLE, json!({ "id": id })).await;
    assert_eq!(enabled["enableWebhook"]["webhook"]["enabled"], json!(true), "{enabled}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_last_star_takes_the_rest_where_the_profile_says_so() {
    // S11
    let receiver = Receiver::start().await;
    let (server, _folder) = server(&receiver, |profile| profile["filters"]["trailing_star"] = json!("rest")).await;
    let webhook = async |profile: &str, path: &str| {
        let input = json!({
            "url": receiver.url(path), "eventFilters": ["platform.saml.*"], "enabled": true, "profile": profile,
        });
        server.data(CREATE, json!({ "input": input })).await["createWebhook"]["webhook"].take()
    };
    let strict = webhook("standard-v1", "/strict").await;
    assert_eq!(strict["filterHints"], json!([{ "suggestion": "platform.saml.**" }]));
    assert_eq!(strict["unmatchedFilters"], json!([{ "filter": "platform.saml.*", "didYouMean": [] }]));
    let open = webhook("switched-v1", "/open").await;
    assert_eq!(open["eventFilters"], json!(["platform.saml.*.**"]));
    assert_eq!((&open["filterHints"], &open["unmatchedFilters"]), (&json!([]), &json!([])));
    // Both ways of writing are the same filter.
    for filter in ["platform.saml.*", "platform.saml.*.**"] {
        let input = json!({ "webhookId": open["id"], "eventFilters": [filter] });
        let kept = server.data(UPDATE, json!({ "input": input })).await["updateWebhook"]["webhook"].take();
        assert_eq!((&kept["eventFilters"], &kept["version"]), (&json!(["platform.saml.*.**"]), &json!(1)));
    }

    let published = server.data(PUBLISH, json!({})).await;
    assert_eq!(published["publishMessage"]["userErrors"], json!([]));
    let received = receiver.wait_for(1).await;
    assert_eq!(received[0].target, "/open");

    let preview =
        "query($profile: String) { filterPreview(filters: [\"platform.saml.*\", \"usr.created\"], profile: $profile) {
        filters hints { filter } unmatchedFilters { filter didYouMean } eventTypes { name } messagesMatched } }";
    let as_switched = server.data(preview, json!({ "profile": "switched-v1" })).await["filterPreview"].take();
    assert_eq!(as_switched["filters"], json!(["platform.saml.*.**", "usr.created"]));
    assert_eq!((&as_switched["messagesMatched"], &as_switched["hints"]), (&json!(1), &json!([])));
    let misspelt = json!([{ "filter": "usr.created", "didYouMean": ["user.created"] }]);
    assert_eq!(as_switched["unmatchedFilters"], misspelt);
    let as_usual = server.data(preview, json!({})).await["filterPreview"].take();
    assert_eq!(as_usual["filters"], json!(["platform.saml.*", "usr.created"]));
    assert_eq!((&as_usual["messagesMatched"], &as_usual["eventTypes"]), (&json!(0), &json!([])));
    assert_eq!(as_usual["hints"], json!([{ "filter": "platform.saml.*" }]));
    assert_eq!(receiver.requests().len(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_page_finds_the_words_of_each_profile() {
    // C21
    let receiver = Receiver::start().await;
    let (server, _folder) = server(&receiver, |profile| profile["labels"] = json!({ "failed": "Bounced" })).await;
    let query = "{ profiles { name labels { webhook webhooks deliveries succeeded failed pending cancelled } } }";
    let profiles = server.data(query, json!({})).await["profiles"].take();
    let labels = |name: &str| {
        let found = profiles.as_array().unwrap().iter().find(|profile| profile["name"] == json!(name));
        found.unwrap_or_else(|| panic!("{profiles}"))["labels"].clone()
    };
    let usual = json!({
        "webhook": "Webhook", "webhooks": "Webhooks", "deliveries": "Deliveries", "succeeded": "Success",
        "failed": "Failed", "pending": "Pending", "cancelled": "Cancelled",
    });
    assert_eq!(labels("standard-v1"), usual);
    let with = |changes: &[(&str, &str)]| {
        let mut labels = usual.clone();
        changes.iter().for_each(|(key, label)| labels[key] = json!(label));
        labels
    };
    assert_eq!(labels("axie-v1"), with(&[("deliveries", "Delivery History")]));
    assert_eq!(labels("axissynapse-v1"), with(&[("webhook", "Subscription"), ("webhooks", "Subscriptions")]));
    assert_eq!(labels("switched-v1"), with(&[("failed", "Bounced")]));
}
