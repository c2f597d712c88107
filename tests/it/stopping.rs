//! What a server that stops in order tells everybody who is connected, and what it has kept of what they sent.

use std::collections::HashSet;
use std::time::Duration;

use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::net::tcp::OwnedReadHalf;

use crate::api::live::{Events, Socket};
use crate::support::receiver::{Receiver, Script};
use crate::support::server::{Kind, Server, on_both};
use crate::support::stored_log::{messages_in_file, messages_in_postgres};

const AUDIT: &str = "subscription { auditLog { cursor node { code } } }";
/// Answers that are awaited before the server is stopped.
const BEFORE: usize = 300;

/// Stops the server while the test goes on; its exit code, and the server.
fn stop(mut server: Server) -> tokio::task::JoinHandle<(Option<i32>, Server)> {
    tokio::task::spawn_blocking(move || (server.terminate(), server))
}

async fn watch(server: &Server) -> Events {
    let request = server.client().post(server.url("/graphql")).bearer_auth(&server.key);
    let request = request.header("content-type", "application/json").header("accept", "text/event-stream");
    let mut events = Events::of(request.body(json!({ "query": AUDIT }).to_string()).send().await.unwrap()).await;
    events.heard().await;
    events
}

#[tokio::test(flavor = "multi_thread")]
async fn sockets_are_closed_with_1001_and_streams_end() {
    let receiver = Receiver::start().await;
    let server = Server::start(&receiver.ca_file());
    let mut busy = Socket::open(server.address()).await.begun(&server.key).await;
    busy.subscribe("1", AUDIT, &Value::Null).await;
    let mut idle = Socket::open(server.address()).await.begun(&server.key).await;
    let mut new = Socket::open(server.address()).await;
    let mut events = watch(&server).await;
    let stopping = stop(server);
    for socket in [&mut busy, &mut idle, &mut new] {
        assert_eq!(socket.closed().await, (1001, "The server stops".to_owned()));
    }
    // The body is whole, and nothing in it says that there is no more to come.
    assert_eq!(events.event().await, None);
    let (code, server) = stopping.await.unwrap();
    assert_eq!(code, Some(0));
    assert!(!server.stderr().contains("still under way"), "{}", server.stderr());
}

/// A chunked body as far as it came, and whether its end did.
fn body(mut bytes: &[u8]) -> (String, bool) {
    let mut text = vec![];
    while let Some(end) = bytes.windows(2).position(|window| window == b"\r\n") {
        let size = usize::from_str_radix(std::str::from_utf8(&bytes[..end]).unwrap(), 16).unwrap();
        if size == 0 {
            return (String::from_utf8(text).unwrap(), &bytes[end..] == b"\r\n\r\n");
        }
        text.extend_from_slice(&bytes[end + 2..][..size]);
        bytes = &bytes[end + 2 + size + 2..];
    }
    (String::from_utf8(text).unwrap(), false)
}

/// Reads until so many lines were accepted.
async fn accepted(answer: &mut OwnedReadHalf, bytes: &mut Vec<u8>, count: usize) {
    while bytes.windows(10).filter(|window| *window == b"\"message\":").count() < count {
        assert!(answer.read_buf(bytes).await.unwrap() > 0, "{}", String::from_utf8_lossy(bytes));
    }
}

async fn lines_that_are_written_while_the_server_stops_are_answered_and_kept_or_neither(kind: Kind) {
    let receiver = Receiver::start().await;
    let server = Server::start_on(kind, &receiver.ca_file()).await;
    let (mut answer, mut request) = TcpStream::connect(server.address()).await.unwrap().into_split();
    let head = format!(
        "POST /v1/messages HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {}\r\ncontent-type: application/x-ndjson\r\n\
         transfer-encoding: chunked\r\n\r\n",
        server.key
    );
    request.write_all(head.as_bytes()).await.unwrap();
    // Writes without a pause, the end of a line now and then in the next chunk, until it is told that nothing is read.
    let (told_to_end, mut ended) = tokio::sync::watch::channel(false);
    let writing = tokio::spawn(async move {
        for n in 0.. {
            let text = format!("{{\"type\":\"user.created\",\"data\":{{\"n\":{n}}}}}\n");
            let (first, second) = text.split_at(n % text.len());
            let chunk = |part: &str| match part.len() {
                0 => String::new(),
                length => format!("{length:x}\r\n{part}\r\n"),
            };
            let written = async {
                request.write_all(chunk(first).as_bytes()).await?;
                request.write_all(chunk(second).as_bytes()).await
            };
            tokio::select! {
                written = written => written.unwrap(),
                _ = ended.wait_for(|ended| *ended) => break,
            }
        }
        request
    });
    let mut bytes = vec![];
    accepted(&mut answer, &mut bytes, BEFORE).await;
    let stopping = stop(server);
    while !bytes.ends_with(b"0\r\n\r\n") {
        assert!(answer.read_buf(&mut bytes).await.unwrap() > 0, "no end: {}", String::from_utf8_lossy(&bytes));
    }
    told_to_end.send(true).unwrap();
    drop(writing.await.unwrap());
    // Nothing comes behind the end, and no reset.
    assert_eq!(answer.read_buf(&mut bytes).await.unwrap(), 0);
    let (code, server) = stopping.await.unwrap();
    assert_eq!(code, Some(0));
    assert!(!server.stderr().contains("still under way"), "{}", server.stderr());

    let start = bytes.windows(4).position(|window| window == b"\r\n\r\n").unwrap() + 4;
    let (text, whole) = body(&bytes[start..]);
    assert!(whole, "{text}");
    let mut answers: Vec<Value> = text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let last = answers.pop().unwrap();
    assert_eq!((&last["error"]["code"], &last["line"]), (&json!("OVERLOADED"), &Value::Null), "{last}");
    let numbers: Vec<_> = answers.iter().map(|answer| answer["line"].as_u64().unwrap()).collect();
    assert_eq!(numbers, (1..=answers.len() as u64).collect::<Vec<_>>());
    let accepted = answers.iter().filter_map(|answer| answer["message"]["id"].as_str());
    let accepted: HashSet<String> = accepted.map(str::to_owned).collect();
    assert!(accepted.len() >= BEFORE && accepted.len() == answers.len(), "{text}");
    let stored = match kind {
        Kind::Sqlite => messages_in_file(&server.folder().join("log.db")).await,
        Kind::Postgres => messages_in_postgres(server.database_url()).await,
    };
    assert_eq!(stored.len(), accepted.len());
    assert_eq!(stored.into_iter().collect::<HashSet<_>>(), accepted);
}

on_both!(
    lines_that_are_written_while_the_server_stops_are_answered_and_kept_or_neither,
    nothing_that_is_under_way_at_a_stop_is_sent_twice,
);

#[tokio::test(flavor = "multi_thread")]
async fn a_stop_does_not_wait_for_lines_that_wait_for_points() {
    let receiver = Receiver::start().await;
    let limits = "[limits]\npoints_per_second = 1\nburst_points = 20\n";
    let server = Server::start_with(&receiver.ca_file(), limits);
    let line = "{\"type\":\"user.created\",\"data\":{}}\n";
    let (mut answer, mut request) = TcpStream::connect(server.address()).await.unwrap().into_split();
    let head = format!(
        "POST /v1/messages HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {}\r\ncontent-type: application/x-ndjson\r\n\
         content-length: 100000\r\n\r\n{}",
        server.key,
        line.repeat(60)
    );
    request.write_all(head.as_bytes()).await.unwrap();
    let mut bytes = vec![];
    accepted(&mut answer, &mut bytes, 10).await;
    let stopping = stop(server);
    while !bytes.ends_with(b"0\r\n\r\n") {
        assert!(answer.read_buf(&mut bytes).await.unwrap() > 0, "no end: {}", String::from_utf8_lossy(&bytes));
    }
    let start = bytes.windows(4).position(|window| window == b"\r\n\r\n").unwrap() + 4;
    let (text, _) = body(&bytes[start..]);
    let (answers, last) = text.trim_end().rsplit_once('\n').unwrap();
    assert!(last.starts_with("{\"error\":{\"code\":\"OVERLOADED\""), "{last}");
    // The others would have waited for a second each.
    assert!(answers.lines().count() < 60 && answers.lines().all(|line| line.contains("\"message\":{")), "{text}");
    drop((answer, request));
    let (code, server) = stopping.await.unwrap();
    assert_eq!(code, Some(0));
    assert!(!server.stderr().contains("still under way"), "{}", server.stderr());
}

const CREATE: &str =
    "mutation($input: CreateWebhookInput!) { createWebhook(input: $input) { userErrors { code message } } }";
const PUBLISH: &str =
    "mutation($input: PublishMessageInput!) { publishMessage(input: $input) { userErrors { code message } } }";
const ENDED: &str = "{ deliveries(first: 100, filter: { statuses: [SUCCEEDED] }) { nodes { attemptCount } } }";

/// Messages of which a part is under way when the server stops: more than a subscription sends at a time.
const PUBLISHED: usize = 90;

async fn nothing_that_is_under_way_at_a_stop_is_sent_twice(kind: Kind) {
    // Fault 20 (graceful): SIGTERM with requests that the endpoint has not answered.
    let receiver = Receiver::start().await;
    receiver.on("/hook", Script::status(200).after(Duration::from_millis(700)));
    let server = Server::start_on(kind, &receiver.ca_file()).await;
    let webhook = json!({ "url": receiver.url("/hook"), "eventFilters": ["**"], "enabled": true });
    server.data(CREATE, json!({ "input": webhook })).await;
    for n in 0..PUBLISHED {
        server.data(PUBLISH, json!({ "input": { "type": "user.created", "data": { "n": n } } })).await;
    }
    receiver.wait_for(1).await;
    let (code, mut server) = stop(server).await.unwrap();
    assert_eq!(code, Some(0), "{}", server.stderr());
    let before = receiver.requests().len();
    assert!(before < PUBLISHED, "nothing was left to be sent");

    server.restart();
    let all_ended = |data: &Value| data["deliveries"]["nodes"].as_array().unwrap().len() == PUBLISHED;
    let ended = server.until(ENDED, json!({}), all_ended).await;
    assert!(ended["deliveries"]["nodes"].as_array().unwrap().iter().all(|node| node["attemptCount"] == 1));
    let requests = receiver.requests();
    let ids: HashSet<_> = requests.iter().map(|request| request.header("webhook-id").unwrap()).collect();
    assert_eq!((requests.len(), ids.len()), (PUBLISHED, PUBLISHED), "{before} before the stop");
}
