//! Clients that say nothing, and clients that do not read: each is ended in its limit, and costs others nothing.

use std::collections::BTreeSet;
use std::sync::Arc;

use serde_json::{Value, json};
use tidings::event_store::MemoryStore;
use tidings::http::{LiveConfig, LiveCounts};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpSocket, TcpStream};
use tokio_tungstenite::tungstenite::Message;

use super::{Api, PATIENCE, Socket, URL};

/// Messages that are published, far more than the system keeps for a connection.
const MESSAGES: usize = 48;
/// The size of each.
const BYTES: usize = 200_000;
/// Answers that may wait for a client.
const UNREAD: usize = 2;
/// Beside these, one is in the hands of its operation, and one in those of the connection.
const IN_HAND: usize = 2;

const LIVE: &str = "subscription { deliveryUpdates { cursor delivery { id status message { data } } } }";

async fn reading_in_time() -> Api {
    let live = LiveConfig { max_unread: UNREAD, unread_limit_ms: 2_000, ..LiveConfig::default() };
    Api::over_with(Arc::new(MemoryStore::new(1)), live).await
}

/// A connection for which the client's side of the system keeps as little as it can.
async fn narrow(api: &Api) -> TcpStream {
    let socket = TcpSocket::new_v4().unwrap();
    socket.set_recv_buffer_size(4_096).unwrap();
    socket.connect(api.address).await.unwrap()
}

async fn until(api: &Api, fits: impl Fn(LiveCounts) -> bool) -> LiveCounts {
    let counted = async {
        loop {
            let counts = api.front.live_counts();
            if fits(counts) {
                return counts;
            }
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(PATIENCE, counted).await.unwrap_or_else(|_| panic!("{:?}", api.front.live_counts()))
}

async fn publish_all(api: &Api) {
    api.create(json!({ "url": URL, "eventFilters": ["**"], "enabled": true })).await;
    for n in 0..MESSAGES {
        let input = json!({ "type": "user.created", "data": { "n": n, "text": "x".repeat(BYTES) } });
        let published = api.data(super::PUBLISH, json!({ "input": input })).await;
        assert_eq!(published["publishMessage"]["userErrors"], json!([]));
    }
}

/// Reads with somebody else's eyes while `slow` is there and does not read: how many answers came to them.
async fn told_to_others(api: &Api) -> usize {
    let mut others = api.events(&api.key, LIVE, &json!({})).await;
    let publishing = publish_all(api);
    let reading = async {
        let (mut ended, mut told) = (BTreeSet::new(), 0);
        while ended.len() < MESSAGES {
            let item = others.item().await;
            told += 1;
            if item["delivery"]["status"] == json!("SUCCEEDED") {
                ended.insert(item["delivery"]["id"].to_string());
            }
        }
        told
    };
    let ((), told) = tokio::join!(publishing, reading);
    // What was made for the slow one is all that was made but not told; the rest of this stream waits as well.
    told
}

/// Judges how much was made for a client that got `read` answers before it was cut off.
fn must_be_bounded(counts: LiveCounts, told: usize, read: usize) {
    let made = usize::try_from(counts.answers).unwrap() - told;
    assert!(read < MESSAGES, "the client was never slow: {read}");
    assert!(made <= read + 2 * (UNREAD + IN_HAND) + 1, "{made} were made for {read} that were read");
    assert_eq!(counts.cut_off, 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_socket_whose_client_does_not_read_is_cut_off_and_nothing_piles_up_for_it() {
    let api = reading_in_time().await;
    let protocol = [("sec-websocket-protocol", "graphql-transport-ws")];
    let (socket, _) = Socket::over(narrow(&api).await, &protocol).await.unwrap();
    let mut slow = socket.begun(&api.key).await;
    slow.subscribe("1", LIVE, &Value::Null).await;
    until(&api, |counts| counts.streams == 1).await;
    let told = told_to_others(&api).await;
    let counts = until(&api, |counts| counts.cut_off == 1 && counts.sockets == 0 && counts.streams <= 1).await;
    let mut read = 0;
    while let Some(Ok(Message::Text(_))) = futures_util::StreamExt::next(&mut slow.socket).await {
        read += 1;
    }
    must_be_bounded(counts, told, read);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stream_whose_client_does_not_read_is_cut_off_and_nothing_piles_up_for_it() {
    let api = reading_in_time().await;
    let mut slow = narrow(&api).await;
    let body = json!({ "query": LIVE }).to_string();
    let request = format!(
        "POST /graphql HTTP/1.1\r\nhost: x\r\naccept: text/event-stream\r\ncontent-type: application/json\r\n\
         authorization: Bearer {}\r\ncontent-length: {}\r\n\r\n{body}",
        api.key,
        body.len()
    );
    slow.write_all(request.as_bytes()).await.unwrap();
    until(&api, |counts| counts.streams == 1).await;
    let told = told_to_others(&api).await;
    let counts = until(&api, |counts| counts.cut_off == 1 && counts.streams <= 1).await;
    let mut bytes = vec![];
    // It may be reset: what came before counts.
    drop(slow.read_to_end(&mut bytes).await);
    let read = String::from_utf8_lossy(&bytes).matches("event: next").count();
    must_be_bounded(counts, told, read);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_answers_no_ping_is_closed_and_one_that_does_is_not() {
    let live = LiveConfig { keep_alive_ms: 1_000, ..LiveConfig::default() };
    let api = Api::over_with(Arc::new(MemoryStore::new(1)), live).await;
    let mut silent = api.ready_socket(&api.key).await;
    let mut alive = api.ready_socket(&api.key).await;
    let answering = async {
        let mut pings = 0;
        while pings < 5 {
            match futures_util::StreamExt::next(&mut alive.socket).await {
                Some(Ok(Message::Ping(_))) => pings += 1,
                other => panic!("{other:?}"),
            }
        }
        alive.send(json!({ "type": "ping" })).await;
        assert_eq!(alive.message().await, json!({ "type": "pong" }));
    };
    // Below the library, which would answer by itself.
    let mut frames = vec![];
    let reading = async {
        silent.socket.get_mut().read_to_end(&mut frames).await.unwrap();
    };
    tokio::join!(answering, reading);
    let reason = b"Nothing was heard for too long";
    let close = [&[0x88, 2 + reason.len() as u8], &4408_u16.to_be_bytes()[..], reason].concat();
    assert_eq!(frames, [&[0x89, 0, 0x89, 0], &close[..]].concat());
    until(&api, |counts| counts.sockets <= 1).await;
}
