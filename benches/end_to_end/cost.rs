//! What single requests cost the server, in processor time of its process: publishing, and what is made to cost much.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use serde_json::json;

use crate::hostile;
use crate::support::{Receivers, Server, setting};

const ONE: &str = "mutation($input: PublishMessageInput!) { publishMessage(input: $input) { message { id } duplicate userErrors { code message } } }";
const MANY: &str = "mutation($input: PublishMessagesInput!) { publishMessages(input: $input) { results { message { id } duplicate userErrors { code message } } } }";
/// Publishers at one time.
const AT_A_TIME: usize = 16;
/// Messages of a request that has several.
const TOGETHER: u64 = 50;

/// Publishes the same messages by both ways in turn, without a webhook that they are for.
pub(crate) async fn publishing() {
    let receivers = Receivers::start(1).await;
    let server = Server::start(&receivers, "").await;
    let messages = setting("BENCH_MESSAGES", 20_000);
    println!("publishing ~1 KB, {AT_A_TIME} at a time, {messages} messages a row\n");
    println!("{:<46} {:>12} {:>12}", "way", "CPU µs/msg", "msg/s");
    let next = Arc::new(AtomicU64::new(0));
    for round in 0..3 {
        for (name, by_graphql, together) in [
            ("POST /v1/messages, one a request", false, 1),
            ("GraphQL publishMessage, one a request", true, 1),
            ("POST /v1/messages, an array of 50", false, TOGETHER),
            ("GraphQL publishMessages, 50 a request", true, TOGETHER),
        ] {
            let (began, cpu) = (tokio::time::Instant::now(), server.cpu_us());
            publish(&server, &next, messages, by_graphql, together).await;
            let cpu = (server.cpu_us() - cpu) as f64 / messages as f64;
            let rate = messages as f64 / began.elapsed().as_secs_f64();
            // The first round warms up.
            if round > 0 {
                println!("{name:<46} {cpu:>12.0} {rate:>12.0}");
            }
        }
    }
}

async fn publish(server: &Server, next: &Arc<AtomicU64>, messages: u64, by_graphql: bool, together: u64) {
    let until = next.load(Ordering::Relaxed) + messages;
    let mut publishers = tokio::task::JoinSet::new();
    for _ in 0..AT_A_TIME {
        let (publisher, next) = (server.publisher.clone(), Arc::clone(next));
        publishers.spawn(async move {
            loop {
                let first = next.fetch_add(together, Ordering::Relaxed);
                if first >= until {
                    return;
                }
                publisher.publish_by(by_graphql, ONE, MANY, first..first + together).await;
            }
        });
    }
    publishers.join_all().await;
    next.store(until + AT_A_TIME as u64 * together, Ordering::Relaxed);
}

/// Sends each request that is made to cost much, many times and one after the other.
pub(crate) async fn hostile() {
    let receivers = Receivers::start(1).await;
    let server = Server::start(&receivers, "[limits]\nburst_points = 1000000000\n").await;
    let times = setting("BENCH_TIMES", 100);
    println!("what is made to cost much, {times} times each\n");
    println!("{:<46} {:>12} {:>12}", "request", "bytes", "CPU ms each");
    let mut bodies: Vec<_> = hostile::requests()
        .into_iter()
        .map(|hostile| {
            let body = json!({ "query": hostile.query, "variables": hostile.variables }).to_string();
            (hostile.name, body, hostile.code)
        })
        .collect();
    bodies.push(("a body of 60 MB", format!("{{\"query\":\"{}", "x".repeat(60_000_000)), "QUERY_TOO_LARGE"));
    bodies.push(("variables 400,000 levels deep", hostile::deep_variables(400_000), "BAD_REQUEST"));
    bodies.push(("beside: { viewer { name } }", json!({ "query": "{ viewer { name } }" }).to_string(), ""));
    for (name, body, code) in bodies {
        let cpu = server.cpu_us();
        for _ in 0..times {
            server.publisher.refused(&body, code).await;
        }
        let each_ms = (server.cpu_us() - cpu) as f64 / times as f64 / 1_000.0;
        println!("{name:<46} {:>12} {each_ms:>12.2}", body.len());
    }
}
