//! Live streams, spoken to byte by byte.

mod slow;
mod socket;
mod streams;

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::time::Duration;

use futures_util::{SinkExt, StreamExt};
use serde_json::{Value, json};
use tokio::net::TcpStream;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::{self, Message, client::IntoClientRequest, handshake::client::Response};

use super::{Api, URL};

/// Never reached by a test that passes.
const PATIENCE: Duration = Duration::from_secs(60);

const DELIVERIES: &str = "subscription($filter: DeliveryFilter, $after: String) {
    deliveryUpdates(filter: $filter, after: $after) { cursor attempt { number } delivery { id status webhookId message { id } } } }";
const WEBHOOKS: &str = "subscription($id: ID, $after: String) {
    webhookUpdates(webhookId: $id, after: $after) { cursor code webhookId webhook { url enabled } } }";
const AUDIT: &str = "subscription($filter: AuditFilter, $after: String) {
    auditLog(filter: $filter, after: $after) { cursor node { id code targetId } } }";
const CREATE: &str = "mutation($input: CreateWebhookInput!) { createWebhook(input: $input) {
    webhook { id } userErrors { code message } } }";
const PUBLISH: &str = "mutation($input: PublishMessageInput!) { publishMessage(input: $input) {
    message { id } userErrors { code message } } }";

/// A stream of events, as it comes.
pub(crate) struct Events {
    response: reqwest::Response,
    text: String,
}

impl Events {
    pub(crate) async fn of(response: reqwest::Response) -> Self {
        assert_eq!(response.status().as_u16(), 200);
        assert_eq!(response.headers()["content-type"], "text/event-stream; charset=utf-8");
        Self { response, text: String::new() }
    }

    /// Name and data of the next event; `None` at the end.
    pub(crate) async fn event(&mut self) -> Option<(String, String)> {
        loop {
            while let Some((event, rest)) = self.text.split_once("\n\n") {
                let field = |name: &str| event.lines().find_map(|line| line.strip_prefix(name)).map(str::trim);
                let found = field("event:").map(|name| (name.to_owned(), field("data:").unwrap().to_owned()));
                self.text = rest.to_owned();
                if found.is_some() {
                    return found;
                }
            }
            let chunk =
                tokio::time::timeout(PATIENCE, self.response.chunk()).await.expect("an event in time").unwrap()?;
            self.text.push_str(std::str::from_utf8(&chunk).unwrap());
        }
    }

    /// The next answer.
    pub(crate) async fn answer(&mut self) -> Value {
        let (name, data) = self.event().await.expect("the stream goes on");
        assert_eq!(name, "next", "{data}");
        serde_json::from_str(&data).unwrap()
    }

    /// The next item, which must be one.
    pub(crate) async fn item(&mut self) -> Value {
        let mut answer = self.answer().await;
        assert!(answer.get("errors").is_none(), "{answer}");
        let (_, item) = answer["data"].as_object_mut().unwrap().iter_mut().next().unwrap();
        item.take()
    }

    /// The code of the request's error, after which nothing comes.
    pub(crate) async fn refusal(&mut self) -> String {
        let answer = self.answer().await;
        assert!(answer.get("data").is_none(), "{answer}");
        assert_eq!(self.event().await, Some(("complete".to_owned(), String::new())));
        assert_eq!(self.event().await, None);
        answer["errors"][0]["extensions"]["code"].as_str().unwrap().to_owned()
    }
}

impl Api {
    async fn ask_for_events(&self, key: &str, query: &str, variables: &Value) -> reqwest::Response {
        let body = json!({ "query": query, "variables": variables }).to_string();
        self.post(key, body).header("accept", "text/event-stream").send().await.unwrap()
    }

    pub(super) async fn events(&self, key: &str, query: &str, variables: &Value) -> Events {
        let mut events = Events::of(self.ask_for_events(key, query, variables).await).await;
        // The first bytes say that it listens: what happens from now on is told.
        events.heard().await;
        events
    }

    async fn create(&self, input: Value) -> Value {
        let created = self.data(CREATE, json!({ "input": input })).await["createWebhook"].take();
        assert_eq!(created["userErrors"], json!([]));
        created["webhook"]["id"].clone()
    }

    async fn publish_any(&self) -> Value {
        let input = json!({ "input": { "type": "user.created", "data": {} } });
        self.data(PUBLISH, input).await["publishMessage"]["message"]["id"].take()
    }

    /// A socket, if the server takes it.
    async fn socket_with(&self, headers: &[(&'static str, &str)]) -> tungstenite::Result<(Socket, Response)> {
        Socket::over(TcpStream::connect(self.address).await?, headers).await
    }

    async fn socket(&self) -> Socket {
        Socket::open(self.address).await
    }

    /// One that is acknowledged.
    pub(super) async fn ready_socket(&self, key: &str) -> Socket {
        self.socket().await.begun(key).await
    }
}

impl Events {
    pub(crate) async fn heard(&mut self) {
        while !self.text.starts_with(":\n\n") {
            let chunk = tokio::time::timeout(PATIENCE, self.response.chunk()).await.expect("a beginning in time");
            self.text.push_str(std::str::from_utf8(&chunk.unwrap().expect("a beginning")).unwrap());
        }
    }
}

/// A client's end of a socket.
pub(crate) struct Socket {
    socket: WebSocketStream<TcpStream>,
    /// Messages that came before the one that was waited for.
    seen: VecDeque<Value>,
}

impl Socket {
    pub(crate) async fn open(address: SocketAddr) -> Self {
        let stream = TcpStream::connect(address).await.unwrap();
        Self::over(stream, &[("sec-websocket-protocol", "graphql-transport-ws")]).await.unwrap().0
    }

    async fn over(stream: TcpStream, headers: &[(&'static str, &str)]) -> tungstenite::Result<(Self, Response)> {
        let mut request = format!("ws://{}/graphql", stream.peer_addr()?).into_client_request()?;
        for (name, value) in headers {
            request.headers_mut().insert(*name, value.parse().unwrap());
        }
        let (socket, response) = tokio_tungstenite::client_async(request, stream).await?;
        Ok((Self { socket, seen: VecDeque::new() }, response))
    }

    /// The same, acknowledged.
    pub(crate) async fn begun(mut self, key: &str) -> Self {
        let payload = json!({ "authorization": format!("Bearer {key}") });
        self.send(json!({ "type": "connection_init", "payload": payload })).await;
        assert_eq!(self.message().await, json!({ "type": "connection_ack" }));
        self
    }

    async fn send(&mut self, message: Value) {
        self.send_text(&message.to_string()).await;
    }

    async fn send_text(&mut self, text: &str) {
        self.socket.send(Message::text(text)).await.unwrap();
    }

    pub(crate) async fn subscribe(&mut self, id: &str, query: &str, variables: &Value) {
        let payload = json!({ "query": query, "variables": variables });
        self.send(json!({ "id": id, "type": "subscribe", "payload": payload })).await;
    }

    async fn frame(&mut self) -> Option<Message> {
        loop {
            let frame = tokio::time::timeout(PATIENCE, self.socket.next()).await.expect("a frame in time")?.unwrap();
            if !matches!(frame, Message::Ping(_) | Message::Pong(_)) {
                return Some(frame);
            }
        }
    }

    /// The next message.
    async fn message(&mut self) -> Value {
        if let Some(seen) = self.seen.pop_front() {
            return seen;
        }
        match self.frame().await {
            Some(Message::Text(text)) => serde_json::from_str(&text).unwrap(),
            other => panic!("{other:?}"),
        }
    }

    /// The next message with that id; others are kept for later.
    pub(crate) async fn message_of(&mut self, id: &str) -> Value {
        let mut others = VecDeque::new();
        loop {
            let message = self.message().await;
            if message["id"] == json!(id) {
                others.append(&mut self.seen);
                self.seen = others;
                return message;
            }
            others.push_back(message);
        }
    }

    /// Code and reason with which the server closes it next.
    pub(crate) async fn closed(&mut self) -> (u16, String) {
        match self.frame().await {
            Some(Message::Close(Some(frame))) => (frame.code.into(), frame.reason.to_string()),
            other => panic!("{other:?}"),
        }
    }
}
