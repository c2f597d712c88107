//! The operator's commands, on a store that really delivered: beside the server that serves it, and instead of it.

mod backup;
mod events;
mod transfer;
mod verify;

use std::process::{Command, Output};

use serde_json::{Value, json};

use crate::support::receiver::{Receiver, Script};
use crate::support::server::{Kind, Server};

const CREATE: &str = "mutation($input: CreateWebhookInput!) { createWebhook(input: $input) { webhook { id } userErrors { code message } } }";
const DELETE: &str = "mutation($input: DeleteWebhookInput!) { deleteWebhook(input: $input) { deletedWebhookId userErrors { code message } } }";
const PUBLISH: &str = "mutation($input: PublishMessageInput!) { publishMessage(input: $input) { message { id } duplicate userErrors { code message } } }";

/// A store with a bit of everything: deliveries that succeeded, some that wait for their next attempt, one subscription
/// that was deleted, and messages with idempotency keys.
struct Lived {
    receiver: Receiver,
    server: Server,
    /// Ids of the messages, in the order of their publication.
    messages: Vec<String>,
}

/// Messages that [`Lived`] begins with.
const MESSAGES: usize = 8;

impl Lived {
    async fn start() -> Self {
        Self::start_on(Kind::Sqlite).await
    }

    async fn start_on(kind: Kind) -> Self {
        let receiver = Receiver::start().await;
        // Each first attempt is refused: every delivery to it waits for its next one.
        receiver.on("/refuses", Script::status(500));
        let server = Server::start_on(kind, &receiver.ca_file()).await;
        let mut lived = Self { receiver, server, messages: vec![] };
        for path in ["/takes", "/refuses", "/goes"] {
            lived.create(path).await;
        }
        for n in 0..MESSAGES {
            let message = lived.publish(n).await;
            lived.messages.push(message);
        }
        // Before the deletion: it cancels what is not recorded yet, also what has arrived.
        lived.settle().await;
        let goes = lived.webhook_at("/goes").await;
        lived.server.data(DELETE, json!({ "input": { "webhookId": goes } })).await;
        lived
    }

    async fn create(&self, path: &str) {
        let input = json!({ "url": self.receiver.url(path), "eventFilters": ["**"], "enabled": true });
        let created = self.server.data(CREATE, json!({ "input": input })).await;
        assert_eq!(created["createWebhook"]["userErrors"], json!([]));
    }

    async fn publish(&self, n: usize) -> String {
        let answer = publish(&self.server, n).await;
        answer["message"]["id"].as_str().unwrap().to_owned()
    }

    async fn webhook_at(&self, path: &str) -> String {
        let found = self.server.data("{ webhooks(first: 100) { nodes { id url } } }", json!({})).await;
        let url = self.receiver.url(path);
        let nodes = found["webhooks"]["nodes"].as_array().unwrap();
        nodes.iter().find(|node| node["url"] == url).unwrap()["id"].as_str().unwrap().to_owned()
    }

    /// Waits until what was sent is recorded.
    async fn settle(&self) {
        let query = "{ deliveries(first: 100) { nodes { status attemptCount } } }";
        self.server
            .until(query, json!({}), |data| {
                let nodes = data["deliveries"]["nodes"].as_array().unwrap();
                nodes.len() == 3 * MESSAGES && nodes.iter().all(|node| node["attemptCount"] != json!(0))
            })
            .await;
    }

    /// How often each message arrived at a path, in the order of the messages.
    fn arrivals(&self, path: &str) -> Vec<usize> {
        let requests = self.receiver.requests();
        let ids = || requests.iter().filter(|request| request.target == path).filter_map(|r| r.header("webhook-id"));
        self.messages.iter().map(|message| ids().filter(|id| id == message).count()).collect()
    }

    /// Runs a command on this store.
    fn tidings(&self, arguments: &[&str]) -> Output {
        let mut command = Command::new(env!("CARGO_BIN_EXE_tidings"));
        let (name, rest) = arguments.split_first().unwrap();
        command.arg(name).arg("--config").arg(self.server.config()).args(rest).current_dir(self.server.folder());
        command.env_remove("TIDINGS_SERVER__LISTEN").output().unwrap()
    }

    /// What a command that must succeed prints.
    fn says(&self, arguments: &[&str]) -> String {
        let output = self.tidings(arguments);
        assert!(output.status.success(), "{arguments:?}: {output:?}");
        String::from_utf8(output.stdout).unwrap()
    }
}

async fn publish(server: &Server, n: usize) -> Value {
    let input = json!({ "type": "user.created", "data": { "n": n }, "idempotencyKey": format!("key-{n}") });
    let mut answer = server.data(PUBLISH, json!({ "input": input })).await;
    assert_eq!(answer["publishMessage"]["userErrors"], json!([]));
    answer["publishMessage"].take()
}
