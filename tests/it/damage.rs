//! Rows of the log that cannot be read: everybody but their owner goes on.

use serde_json::json;
use sqlx::{ConnectOptions, Connection};

use crate::support::receiver::Receiver;
use crate::support::server::Server;

const CREATE: &str = "mutation($input: CreateWebhookInput!) { createWebhook(input: $input) { webhook { id } userErrors { code message } } }";
const PUBLISH: &str = "mutation($input: PublishMessageInput!) { publishMessage(input: $input) { message { id } userErrors { code message } } }";

async fn create(server: &Server, url: String) -> String {
    let input = json!({ "url": url, "eventFilters": ["**"], "enabled": true });
    let created = server.data(CREATE, json!({ "input": input })).await;
    created["createWebhook"]["webhook"]["id"].as_str().unwrap().to_owned()
}

async fn publish(server: &Server, n: usize) {
    let input = json!({ "type": "user.created", "data": { "n": n } });
    server.data(PUBLISH, json!({ "input": input })).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn damaged_rows_of_one_subscription_stop_no_other() {
    let receiver = Receiver::start().await;
    let mut server = Server::start(&receiver.ca_file());
    let damaged = create(&server, receiver.url("/damaged")).await;
    create(&server, receiver.url("/healthy")).await;
    publish(&server, 0).await;
    receiver.wait_for(2).await;
    assert_eq!(server.terminate(), Some(0));

    let path = server.folder().join("log.db");
    let mut log = sqlx::sqlite::SqliteConnectOptions::new().filename(path).connect().await.unwrap();
    sqlx::raw_sql("DROP TRIGGER event_is_never_updated").execute(&mut log).await.unwrap();
    let (_, suffix) = damaged.split_once('_').unwrap();
    let damage = sqlx::query("UPDATE event SET data = '{' WHERE stream IN ($1, $2)");
    let damage = damage.bind(format!("subscription-{suffix}")).bind(format!("deliveries-{suffix}"));
    assert_eq!(damage.execute(&mut log).await.unwrap().rows_affected(), 3);
    log.close().await.unwrap();
    // Are built again from the damaged log.
    std::fs::remove_file(server.folder().join("log.db.read-models")).unwrap();

    server.restart();
    for n in 1..=10 {
        publish(&server, n).await;
    }
    receiver.wait_for(12).await;
    let paths: Vec<_> = receiver.requests().into_iter().skip(2).map(|request| request.target).collect();
    assert_eq!(paths, ["/healthy"; 10]);
}
