//! The ledger and the metrics of a running server, over both databases.

use serde_json::{Value, json};

use crate::support::receiver::{Receiver, Script};
use crate::support::server::{Kind, Server, on_both};

const CREATE: &str = "mutation($input: CreateWebhookInput!) { createWebhook(input: $input) {
    webhook { id } userErrors { code message } } }";
const PUBLISH: &str = "mutation($input: PublishMessageInput!) { publishMessage(input: $input) {
    message { id } userErrors { code message } } }";
const LEDGER: &str = "query($webhook: ID) { ledger(webhookId: $webhook) {
    matched pending held notYetMatched succeeded failed expired cancelled skipped lost gone
    unaccounted accountedTwice checkedThrough checkedAt lagEvents } }";
const MESSAGES: usize = 12;

async fn create(server: &Server, url: &str) -> Value {
    let input = json!({ "url": url, "eventFilters": ["user.*"], "enabled": true, "profile": "axissynapse-v1" });
    let created = server.data(CREATE, json!({ "input": input })).await;
    created["createWebhook"]["webhook"]["id"].clone()
}

/// Waits until so many of a webhook's matches are in that state, and no others wait.
async fn stands(server: &Server, webhook: &Value, state: &str, count: usize) -> Value {
    let fits = |data: &Value| data["ledger"][state] == json!(count.to_string()) && data["ledger"]["lagEvents"] == "0";
    server.until(LEDGER, json!({ "webhook": webhook }), fits).await["ledger"].take()
}

async fn every_match_is_accounted_for_while_the_server_runs_and_after_a_restart(kind: Kind) {
    // S33
    let receiver = Receiver::start().await;
    receiver.on("/down", Script::status(500));
    let more = "[metrics]\nlisten = \"127.0.0.1:0\"\n";
    let mut server = Server::start_on_with(kind, &receiver.ca_file(), more).await;
    let well = create(&server, &receiver.url("/well")).await;
    let down = create(&server, &receiver.url("/down")).await;
    // One after the other: ten failures of different deliveries trip the circuit breaker.
    for n in 0..MESSAGES {
        let input = json!({ "type": "user.created", "data": { "n": n } });
        server.data(PUBLISH, json!({ "input": input })).await;
        receiver.wait_for((2 * n + 2).min(11 + n)).await;
    }
    let input = json!({ "type": "role.changed", "data": {} });
    server.data(PUBLISH, json!({ "input": input })).await;
    let of_well = stands(&server, &well, "succeeded", MESSAGES).await;
    assert_eq!((&of_well["matched"], &of_well["pending"]), (&json!("12"), &json!("0")));
    // A retry may have been among the ten failures.
    let (mut pending, mut held) = (0, 0);
    let fits = |data: &Value| data["ledger"]["held"] != json!("0") && data["ledger"]["lagEvents"] == "0";
    let of_down = server.until(LEDGER, json!({ "webhook": down }), fits).await["ledger"].take();
    for (state, count) in [("pending", &mut pending), ("held", &mut held)] {
        *count = of_down[state].as_str().unwrap().parse::<usize>().unwrap();
    }
    assert_eq!(pending + held, MESSAGES, "{of_down}");
    let all = stands(&server, &Value::Null, "matched", 2 * MESSAGES).await;
    assert_eq!((&all["unaccounted"], &all["accountedTwice"]), (&json!("0"), &json!("0")), "{all}");
    assert!(all["checkedThrough"].is_string() && all["checkedAt"].is_string(), "{all}");
    let nobody = server.data(LEDGER, json!({ "webhook": "wh_1" })).await;
    assert_eq!(nobody["ledger"], Value::Null);

    let told = metrics(&server).await;
    for (name, value) in [
        ("tidings_ledger_unaccounted", "0"),
        ("tidings_ledger_accounted_twice", "0"),
        ("tidings_ledger_lag_events", "0"),
        ("tidings_deliveries_open", pending.to_string().as_str()),
        ("tidings_matches_held", held.to_string().as_str()),
        ("tidings_circuits_open", "1"),
        ("tidings_messages_total", "13"),
        ("tidings_deliveries_total{outcome=\"succeeded\"}", "12"),
        ("tidings_deliveries_total{outcome=\"failed\"}", "0"),
        ("tidings_attempts_total{class=\"ok\"}", "12"),
        ("tidings_attempts_total{class=\"hard\"}", "10"),
        ("tidings_queue_limit{queue=\"appends\"}", "8192"),
    ] {
        assert!(told.lines().any(|line| line == format!("{name} {value}")), "{name} {value}:\n{told}");
    }
    whole(&told);

    assert_eq!(server.terminate(), Some(0));
    server.restart();
    let again = stands(&server, &Value::Null, "matched", 2 * MESSAGES).await;
    for state in ["pending", "held", "succeeded", "unaccounted", "accountedTwice"] {
        assert_eq!(again[state], all[state], "{state}");
    }
}

async fn metrics(server: &Server) -> String {
    let answer = server.client().get(&server.metrics).send().await.unwrap();
    assert_eq!(answer.headers()["content-type"], "text/plain; version=0.0.4; charset=utf-8");
    answer.text().await.unwrap()
}

/// Each sample is of a family that was announced, and has a number; each family is documented with its name.
fn whole(told: &str) {
    let documents = include_str!("../../docs/operations.md");
    let mut family = "";
    for line in told.lines() {
        if let Some(rest) = line.strip_prefix("# TYPE ") {
            family = rest.split_once(' ').unwrap().0;
            assert!(documents.contains(&format!("`{family}")), "{family} is not documented");
        } else if !line.starts_with("# HELP ") {
            let (name, value) = line.rsplit_once(' ').unwrap();
            assert!(name.starts_with(family) && value.parse::<f64>().is_ok(), "{line}");
        }
    }
    let bucket = |bound: &str| {
        let name = format!("tidings_append_seconds_bucket{{le=\"{bound}\"}} ");
        told.lines().find_map(|line| line.strip_prefix(&name)).unwrap().parse::<u64>().unwrap()
    };
    assert!(bucket("+Inf") > 0 && bucket("0.000500") <= bucket("2.500000"));
}

on_both! { every_match_is_accounted_for_while_the_server_runs_and_after_a_restart }
