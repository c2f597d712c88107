//! What waits in crowds: messages for an endpoint that is down, and deliveries that are made again beside live traffic.

use std::time::Duration;

use serde_json::{Value, json};
use tokio::time::sleep;

use crate::scale::{settled, steady_latencies};
use crate::support::{Receivers, Server, quantile_ms, setting};

const START: &str = "mutation($input: StartRedeliveryInput!) { startRedelivery(input: $input) { job { total } userErrors { code message } } }";
const WEBHOOKS: &str = "{ webhooks(first: 100) { nodes { id url currentJob { scheduled } } } }";
const LEDGER: &str = "{ ledger { pending held notYetMatched succeeded unaccounted } }";
/// Messages published in one request.
const TOGETHER: u64 = 50;

/// An endpoint that trips its circuit, and ever more messages for it: memory must not grow with what waits.
pub(crate) async fn held() {
    let count = setting("BENCH_HELD", 1_000_000);
    let receivers = Receivers::start(1).await;
    let server = Server::start(&receivers, "").await;
    server.publisher.create(&format!("https://{}/fail", receivers.addresses[0]), "**").await;
    // One after the other, since a burst counts once.
    for n in 0..40 {
        server.publisher.publish([("user.created".to_owned(), n)]).await;
        sleep(Duration::from_millis(25)).await;
    }
    println!("held: {:.0} MiB when the circuit has tripped", settled(&server).await);
    for tenth in 1..=10 {
        publish(&server, "user.created", 40 + count * (tenth - 1) / 10..40 + count * tenth / 10).await;
        if [1, 2, 5, 10].contains(&tenth) {
            let (resident, ledger) = (settled(&server).await, ledger(&server).await);
            println!("held: {} messages published, {resident:.0} MiB; {ledger}", count * tenth / 10);
        }
    }
}

/// Deliveries that have ended are made again, as fast as a job may, beside live traffic to others.
pub(crate) async fn replay() {
    let count = setting("BENCH_REPLAYED", 10_000);
    let (healthy, rate, seconds) = (100, 100, setting("BENCH_SECONDS", 15));
    let receivers = Receivers::start(8).await;
    let server = Server::start(&receivers, "").await;
    let again = format!("https://{}/again", receivers.addresses[0]);
    server.publisher.register((0..healthy).map(|n| format!("healthy.n{n}"))).await;
    server.publisher.register(["again.sent".to_owned()]).await;
    let urls = (0..healthy).map(|n| (receivers.url(n as usize % 8), format!("healthy.n{n}")));
    server.publisher.create_many(urls).await;
    server.publisher.create(&again, "again.sent").await;
    publish(&server, "again.sent", 0..count).await;
    while ledger(&server).await["succeeded"] != json!(count.to_string()) {
        sleep(Duration::from_millis(500)).await;
    }
    let live = |first: u64| move |n: u64| vec![(format!("healthy.n{}", n % healthy), first + n)];
    steady_latencies(&server, &receivers, rate * 5, rate, live(0)).await;
    let alone = steady_latencies(&server, &receivers, rate * seconds, rate, live(rate * 5)).await;

    let webhook = webhook(&server, &again).await;
    let input = json!({ "webhookId": webhook["id"], "statuses": ["SUCCEEDED"], "ratePerSecond": 500 });
    let started = server.publisher.graphql(START, json!({ "input": input })).await;
    assert_eq!(started["data"]["startRedelivery"]["userErrors"], json!([]));
    let beside = steady_latencies(&server, &receivers, rate * seconds, rate, live(rate * (5 + seconds))).await;
    let scheduled = self::webhook(&server, &again).await["currentJob"]["scheduled"].clone();
    for (what, latencies) in [("alone", &alone), ("beside", &beside)] {
        println!(
            "replay: {what:<6} p50 {:.2} ms, p99 {:.2} ms, longest {:.2} ms",
            quantile_ms(latencies, 0.5),
            quantile_ms(latencies, 0.99),
            quantile_ms(latencies, 1.0)
        );
    }
    println!("replay: {scheduled} of {count} deliveries made again in these {seconds} s (null: all)");
}

async fn publish(server: &Server, event_type: &str, numbers: std::ops::Range<u64>) {
    let mut publishing = tokio::task::JoinSet::new();
    for first in numbers.clone().step_by(TOGETHER as usize) {
        if publishing.len() >= 8 {
            publishing.join_next().await.unwrap().unwrap();
        }
        let (publisher, last) = (server.publisher.clone(), (first + TOGETHER).min(numbers.end));
        let messages: Vec<_> = (first..last).map(|n| (event_type.to_owned(), n)).collect();
        publishing.spawn(async move { publisher.publish(messages).await });
    }
    publishing.join_all().await;
}

async fn ledger(server: &Server) -> Value {
    server.publisher.graphql(LEDGER, json!({})).await["data"]["ledger"].take()
}

async fn webhook(server: &Server, url: &str) -> Value {
    let found = server.publisher.graphql(WEBHOOKS, json!({})).await;
    let nodes = found["data"]["webhooks"]["nodes"].as_array().unwrap();
    nodes.iter().find(|node| node["url"] == url).unwrap().clone()
}
