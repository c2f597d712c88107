//! `kill -9`, and a database that drops everybody, while messages are published and delivered: nothing acknowledged is
//! lost, and what comes twice is the same.

use std::collections::{HashMap, HashSet};
use std::time::Duration;

use serde_json::json;
use sqlx::{Connection, PgConnection};
use tidings::event_store::PostgresStore;
use tidings::event_store::postgres::Options;
use tokio::sync::mpsc;

use crate::support::receiver::{Receiver, Script};
use crate::support::server::{Kind, Server, on_both};
use crate::support::stored_log::{messages_in_file, messages_in_postgres};

const MESSAGES: usize = 2_000;
const KILLS: usize = 10;
const PUBLISHERS: usize = 8;

const CREATE: &str = "mutation($input: CreateWebhookInput!) { createWebhook(input: $input) { webhook { id } userErrors { code message } } }";
const PUBLISH: &str = "mutation($input: PublishMessageInput!) { publishMessage(input: $input) { message { id } duplicate userErrors { code message } } }";

async fn every_acknowledged_message_arrives_with_the_same_id_and_bytes_through_ten_kills(kind: Kind) {
    // S15
    let receiver = Receiver::start().await;
    // Some attempts fail, so that retries are under way whenever the process dies.
    let flaky = (0..MESSAGES).map(|n| Script::status(if n % 7 == 3 { 500 } else { 200 }));
    receiver.on_each("/axie", flaky.chain([Script::status(200)]));
    let mut server = Server::start_on(kind, &receiver.ca_file()).await;
    let input = json!({ "url": receiver.url("/axie"), "eventFilters": ["user.created"], "profile": "axie-v1" });
    let created = server.data(CREATE, json!({ "input": input })).await;
    assert_eq!(created["createWebhook"]["userErrors"], json!([]));

    let mut acknowledged: HashMap<String, usize> = HashMap::new();
    for round in 0..KILLS {
        let first = MESSAGES / KILLS * round;
        let last = MESSAGES / KILLS * (round + 1);
        let pending: Vec<usize> = (first..last).collect();
        // The kill comes when a part of the round's messages is acknowledged: a different part in each round.
        let kill_after = (last - first) * (round + 1) / (KILLS + 1);
        let kill = async |server: &mut Server| {
            server.kill();
            server.restart();
        };
        publish(&mut server, pending, kill_after, &mut acknowledged, kill).await;
    }
    assert_eq!(acknowledged.len(), MESSAGES);
    all_arrived(&receiver, &server, &acknowledged).await;
    assert_eq!(server.terminate(), Some(0));
    let stored = match kind {
        Kind::Sqlite => messages_in_file(&server.folder().join("log.db")).await,
        Kind::Postgres => messages_in_postgres(server.database_url()).await,
    };
    assert_eq!(stored.len(), MESSAGES);
    assert_eq!(stored.iter().collect::<HashSet<_>>(), acknowledged.keys().collect::<HashSet<_>>());
}

#[tokio::test(flavor = "multi_thread")]
async fn every_acknowledged_message_arrives_while_the_database_ends_all_connections_again_and_again() {
    let receiver = Receiver::start().await;
    let mut server = Server::start_on(Kind::Postgres, &receiver.ca_file()).await;
    let input = json!({ "url": receiver.url("/axie"), "eventFilters": ["user.created"], "profile": "axie-v1" });
    server.data(CREATE, json!({ "input": input })).await;
    let mut acknowledged: HashMap<String, usize> = HashMap::new();
    for round in 0..KILLS {
        let first = MESSAGES / KILLS * round;
        let pending: Vec<usize> = (first..MESSAGES / KILLS * (round + 1)).collect();
        let end_connections = async |server: &mut Server| {
            let mut stranger = PgConnection::connect(server.database_url()).await.unwrap();
            let all = "SELECT pg_terminate_backend(pid, 60000) FROM pg_stat_activity \
                 WHERE datname = current_database() AND pid <> pg_backend_pid()";
            sqlx::query(all).execute(&mut stranger).await.unwrap();
        };
        publish(&mut server, pending, 10 * (round + 1), &mut acknowledged, end_connections).await;
    }
    assert_eq!(acknowledged.len(), MESSAGES);
    all_arrived(&receiver, &server, &acknowledged).await;
    let complaints = server.stderr().lines().filter(|line| line.contains("ERROR") || line.contains("WARN")).count();
    assert!(complaints < 50 * KILLS, "{complaints} complaints");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_whose_log_was_taken_over_ends_and_says_so() {
    let receiver = Receiver::start().await;
    let mut server = Server::start_on(Kind::Postgres, &receiver.ca_file()).await;
    let taken = PostgresStore::open(Options::at(server.database_url()).unwrap()).await.unwrap();
    let input = json!({ "type": "user.created", "data": {}, "idempotencyKey": "late" });
    let answer = server.graphql(PUBLISH, json!({ "input": input })).await;
    assert!(answer.pointer("/data/publishMessage/message/id").is_none(), "{answer}");
    assert_eq!(server.ended(), Some(1));
    let said = server.stderr();
    assert!(said.contains("has a newer owner than epoch"), "{said}");
    taken.close().await;
}

async fn all_arrived(receiver: &Receiver, server: &Server, acknowledged: &HashMap<String, usize>) {
    let delivered = |receiver: &Receiver| {
        let ids: HashSet<_> =
            receiver.requests().iter().filter_map(|request| request.header("webhook-id").map(str::to_owned)).collect();
        acknowledged.keys().filter(|id| !ids.contains(*id)).count()
    };
    let deadline = tokio::time::Instant::now() + Duration::from_secs(90);
    while delivered(receiver) > 0 {
        assert!(
            tokio::time::Instant::now() < deadline,
            "{} acknowledged messages did not arrive\n{}",
            delivered(receiver),
            server.stderr()
        );
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    let mut bodies: HashMap<String, Vec<u8>> = HashMap::new();
    for request in receiver.requests() {
        let id = request.header("webhook-id").unwrap().to_owned();
        let body = bodies.entry(id).or_insert_with(|| request.body.clone());
        assert_eq!(*body, request.body, "another body under the same id");
    }
    for (id, n) in acknowledged {
        let body: serde_json::Value = serde_json::from_slice(&bodies[id]).unwrap();
        assert_eq!(body["data"]["n"], json!(n), "{id} carries another message");
    }
    // The idempotency keys made one message of each, however often it was published.
    assert_eq!(bodies.len(), MESSAGES, "messages that nobody was told of");
}

/// Publishes all of `pending`, and disturbs the server once so many of them are acknowledged. Who gets no answer
/// publishes again under the same idempotency key.
async fn publish(
    server: &mut Server,
    pending: Vec<usize>,
    disturb_after: usize,
    acknowledged: &mut HashMap<String, usize>,
    disturb: impl AsyncFn(&mut Server),
) {
    let mut left = pending;
    let mut disturbed = false;
    while !left.is_empty() {
        let (sender, mut answers) = mpsc::unbounded_channel();
        let mut tasks = tokio::task::JoinSet::new();
        for part in left.chunks(left.len().div_ceil(PUBLISHERS)) {
            let (part, sender) = (part.to_vec(), sender.clone());
            let (client, url, key) = (server.client().clone(), server.url("/graphql"), server.key.clone());
            tasks.spawn(async move {
                for n in part {
                    let input = json!({ "type": "user.created", "data": { "n": n, "text": "ü€😀 </script>" }, "idempotencyKey": format!("crash-{n}") });
                    let body = json!({ "query": PUBLISH, "variables": { "input": input } }).to_string();
                    let request = client.post(&url).bearer_auth(&key).header("content-type", "application/json").body(body);
                    let Ok(answer) = request.send().await else { return };
                    let Ok(answer) = answer.bytes().await else { return };
                    let answer: serde_json::Value = serde_json::from_slice(&answer).unwrap_or_default();
                    if let Some(id) = answer.pointer("/data/publishMessage/message/id").and_then(|id| id.as_str()) {
                        drop(sender.send((id.to_owned(), n)));
                    }
                }
            });
        }
        drop(sender);
        let mut done = HashSet::new();
        while let Some((id, n)) = answers.recv().await {
            done.insert(n);
            acknowledged.insert(id, n);
            if !disturbed && done.len() >= disturb_after {
                disturbed = true;
                disturb(server).await;
            }
        }
        while let Some(ended) = tasks.join_next().await {
            ended.unwrap();
        }
        left.retain(|n| !done.contains(n));
    }
    assert!(disturbed, "the round ended before it was disturbed");
}

async fn a_clean_shutdown_sends_nothing_twice(kind: Kind) {
    let receiver = Receiver::start().await;
    receiver.on("/hook", Script::status(200).after(Duration::from_millis(300)));
    let mut server = Server::start_on(kind, &receiver.ca_file()).await;
    let input = json!({ "url": receiver.url("/hook"), "eventFilters": ["**"], "enabled": true });
    server.data(CREATE, json!({ "input": input })).await;
    for n in 0..40 {
        let input = json!({ "type": "user.created", "data": { "n": n }, "idempotencyKey": format!("stop-{n}") });
        server.data(PUBLISH, json!({ "input": input })).await;
    }
    receiver.wait_for(1).await;
    assert_eq!(server.terminate(), Some(0));
    server.restart();
    receiver.wait_for(40).await;
    let ids: Vec<_> =
        receiver.requests().iter().map(|request| request.header("webhook-id").unwrap().to_owned()).collect();
    assert_eq!(ids.iter().collect::<HashSet<_>>().len(), 40);
    assert_eq!(ids.len(), 40, "something was sent twice");
}

on_both! {
    every_acknowledged_message_arrives_with_the_same_id_and_bytes_through_ten_kills,
    a_clean_shutdown_sends_nothing_twice,
}
