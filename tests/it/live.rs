//! Live streams on the program itself: across a restart, at its stop, and by the clients that others have written.

use std::path::Path;
use std::process::Command;

use serde_json::{Value, json};

use crate::api::live::Events;
use crate::support::receiver::Receiver;
use crate::support::server::{Kind, Server, on_both};

const LIVE: &str = "subscription($after: String) {
    deliveryUpdates(after: $after) { cursor delivery { id status message { id } } } }";
const CREATE: &str = "mutation($input: CreateWebhookInput!) { createWebhook(input: $input) {
    webhook { id } userErrors { code message } } }";
const PUBLISH: &str = "mutation { publishMessage(input: { type: \"user.created\", data: {} }) { message { id } } }";

async fn create(server: &Server, receiver: &Receiver) -> Value {
    let input = json!({ "url": receiver.url("/hook"), "eventFilters": ["**"], "enabled": true });
    let created = server.data(CREATE, json!({ "input": input })).await["createWebhook"].take();
    assert_eq!(created["userErrors"], json!([]));
    created["webhook"]["id"].clone()
}

async fn publish(server: &Server) -> Value {
    server.data(PUBLISH, Value::Null).await["publishMessage"]["message"]["id"].take()
}

async fn watch(server: &Server, after: &Value) -> Events {
    let body = json!({ "query": LIVE, "variables": { "after": after } }).to_string();
    let request = server.client().post(server.url("/graphql")).bearer_auth(&server.key);
    let request = request.header("content-type", "application/json").header("accept", "text/event-stream");
    let mut events = Events::of(request.body(body).send().await.unwrap()).await;
    events.heard().await;
    events
}

/// The cursor of the item that tells of the message's success.
async fn delivered(events: &mut Events, message: &Value) -> Value {
    loop {
        let mut item = events.item().await;
        if item["delivery"]["message"]["id"] == *message && item["delivery"]["status"] == json!("SUCCEEDED") {
            return item["cursor"].take();
        }
    }
}

async fn a_stream_goes_on_behind_its_cursor_when_the_server_was_killed_or_stopped(kind: Kind) {
    let receiver = Receiver::start().await;
    let mut server = Server::start_on(kind, &receiver.ca_file()).await;
    create(&server, &receiver).await;
    let mut events = watch(&server, &Value::Null).await;
    let first = publish(&server).await;
    let mut cursor = delivered(&mut events, &first).await;
    for kill in [true, false] {
        // Nobody watches while these are delivered.
        let unseen = [publish(&server).await, publish(&server).await];
        if kill {
            server.kill();
        } else {
            let still_open = watch(&server, &cursor).await;
            assert_eq!(server.terminate(), Some(0));
            assert!(!server.stderr().contains("still under way"), "{}", server.stderr());
            drop(still_open);
        }
        server.restart();
        let mut resumed = watch(&server, &cursor).await;
        for message in &unseen {
            // Two deliveries may end in either order, and a new look begins from the same place.
            let mut again = watch(&server, &cursor).await;
            delivered(&mut again, message).await;
        }
        let last = publish(&server).await;
        cursor = delivered(&mut resumed, &last).await;
    }
}

on_both!(a_stream_goes_on_behind_its_cursor_when_the_server_was_killed_or_stopped);

#[tokio::test(flavor = "multi_thread")]
async fn the_clients_of_others_watch_resume_and_hear_of_errors() {
    let receiver = Receiver::start().await;
    let server = Server::start(&receiver.ca_file());
    let webhook = create(&server, &receiver).await;
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/verifiers");
    assert!(
        std::fs::read(folder.join("package-lock.json")).ok()
            == std::fs::read(folder.join("node_modules/.installed")).ok(),
        "the clients are missing or old: run the tests by scripts/test, or scripts/install-verifiers before them"
    );
    let mut script = Command::new("node");
    script.arg("live.mjs").arg(server.url("/graphql")).arg(webhook.as_str().unwrap());
    script.current_dir(folder).env("TOKEN", &server.key);
    let output = tokio::task::spawn_blocking(move || script.output()).await.unwrap().unwrap();
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{errors}\n{}", server.stderr());
    let lines = String::from_utf8(output.stdout).unwrap();
    let seen: Vec<Value> = lines.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let both = |client: &str| {
        json!({ "client": client, "viewer": "bootstrap", "succeeded": 3, "badCursor": "INVALID_CURSOR",
            "unknownField": "GRAPHQL_VALIDATION_FAILED" })
    };
    let mut socket = both("graphql-ws");
    socket["closedOnRevocation"] = json!(4403);
    assert_eq!(seen, [socket, both("graphql-sse")]);
}
