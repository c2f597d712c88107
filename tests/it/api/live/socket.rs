//! `graphql-transport-ws`, frame by frame.

use std::collections::BTreeSet;
use std::sync::Arc;

use futures_util::SinkExt;
use serde_json::{Value, json};
use tidings::domain::scope::Scope;
use tidings::event_store::MemoryStore;
use tidings::http::LiveConfig;
use tokio_tungstenite::tungstenite::protocol::{CloseFrame, frame::coding::CloseCode};
use tokio_tungstenite::tungstenite::{self, Message};

use super::{AUDIT, Api, DELIVERIES, URL};

const PROTOCOL: (&str, &str) = ("sec-websocket-protocol", "graphql-transport-ws");
const ANY: &str = "{ viewer { name } }";

fn init() -> Value {
    json!({ "type": "connection_init" })
}

#[tokio::test(flavor = "multi_thread")]
async fn a_socket_is_taken_from_whom_it_may_come() {
    let api = Api::start().await;
    let refused = async |headers: &[(&'static str, &str)]| match api.socket_with(headers).await {
        Err(tungstenite::Error::Http(response)) => response.status().as_u16(),
        other => panic!("{:?}", other.map(|(_, response)| response)),
    };
    assert_eq!(refused(&[]).await, 400);
    assert_eq!(refused(&[("sec-websocket-protocol", "graphql-ws")]).await, 400);
    assert_eq!(refused(&[PROTOCOL, ("origin", "https://evil.example")]).await, 403);
    assert_eq!(refused(&[PROTOCOL, ("origin", "null")]).await, 403);
    assert_eq!(refused(&[PROTOCOL, ("authorization", "Bearer tdk_wrong")]).await, 401);
    let bearer = format!("Bearer {}", api.key);
    let origin = format!("http://{}", api.address);
    let headers =
        [("sec-websocket-protocol", "x, graphql-transport-ws"), ("authorization", &*bearer), ("origin", &origin)];
    let (mut socket, response) = api.socket_with(&headers).await.unwrap();
    assert_eq!(response.headers()["sec-websocket-protocol"], "graphql-transport-ws");
    socket.send(init()).await;
    assert_eq!(socket.message().await, json!({ "type": "connection_ack" }));
}

#[tokio::test(flavor = "multi_thread")]
async fn what_breaks_the_protocol_closes_the_socket_with_its_code() {
    let api = Api::start().await;
    let subscribe = json!({ "id": "1", "type": "subscribe", "payload": { "query": AUDIT } });
    let wrong = json!({ "type": "connection_init", "payload": { "authorization": "Bearer tdk_wrong" } });
    for (ready, messages, code) in [
        (false, vec!["not json".to_owned()], 4400),
        (false, vec![json!({ "type": "start" }).to_string()], 4400),
        (false, vec![json!({ "type": "x".repeat(9_999) }).to_string()], 4400),
        (false, vec![subscribe.to_string()], 4401),
        (false, vec![init().to_string()], 4401),
        (false, vec![wrong.to_string()], 4403),
        (true, vec![init().to_string()], 4429),
        (true, vec![json!({ "id": "1", "type": "subscribe", "payload": {} }).to_string()], 4400),
        (true, vec![json!({ "id": "1", "type": "subscribe", "payload": [] }).to_string()], 4400),
        (true, vec![subscribe.to_string(), subscribe.to_string()], 4409),
        (false, vec![], 4408),
    ] {
        let mut socket = if ready { api.ready_socket(&api.key).await } else { api.socket().await };
        for message in &messages {
            socket.send_text(message).await;
        }
        let (closed, reason) = socket.closed().await;
        assert_eq!(closed, code, "{messages:?}: {reason}");
    }
    let mut socket = api.ready_socket(&api.key).await;
    socket.socket.send(Message::binary(init().to_string())).await.unwrap();
    assert_eq!(socket.closed().await.0, 4400);
}

#[tokio::test(flavor = "multi_thread")]
async fn every_kind_of_operation_runs_beside_the_others() {
    let api = Api::start().await;
    let mut socket = api.ready_socket(&api.key).await;
    socket.send(json!({ "type": "ping", "payload": { "n": 1 } })).await;
    assert_eq!(socket.message().await, json!({ "type": "pong", "payload": { "n": 1 } }));
    socket.subscribe("live", AUDIT, &json!({})).await;
    socket.subscribe("query", ANY, &Value::Null).await;
    assert_eq!(socket.message_of("query").await["payload"]["data"], json!({ "viewer": { "name": "test" } }));
    assert_eq!(socket.message_of("query").await["type"], json!("complete"));
    socket.subscribe("create", super::CREATE, &json!({ "input": { "url": URL } })).await;
    let created = socket.message_of("create").await;
    let id = &created["payload"]["data"]["createWebhook"]["webhook"]["id"];
    let item = socket.message_of("live").await;
    assert_eq!(item["payload"]["data"]["auditLog"]["node"]["targetId"], *id);
    for (query, code) in [
        ("{", "GRAPHQL_PARSE_FAILED"),
        ("{ nothing }", "GRAPHQL_VALIDATION_FAILED"),
        ("subscription { auditLog(after: \"x\") { cursor } }", "INVALID_CURSOR"),
    ] {
        socket.subscribe("faulty", query, &Value::Null).await;
        let error = socket.message_of("faulty").await;
        assert_eq!(error["type"], json!("error"), "{error}");
        assert_eq!(error["payload"][0]["extensions"]["code"], json!(code), "{error}");
    }
    // After its end an id may be used again, and what was ended says nothing more.
    socket.send(json!({ "id": "live", "type": "complete" })).await;
    socket.subscribe("live", ANY, &Value::Null).await;
    assert_eq!(socket.message_of("live").await["payload"]["data"], json!({ "viewer": { "name": "test" } }));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_closes_is_answered() {
    let api = Api::start().await;
    let mut socket = api.ready_socket(&api.key).await;
    socket.subscribe("live", AUDIT, &json!({})).await;
    let frame = CloseFrame { code: CloseCode::Normal, reason: "done".into() };
    socket.socket.send(Message::Close(Some(frame))).await.unwrap();
    assert_eq!(socket.closed().await.0, 1000);
}

#[tokio::test(flavor = "multi_thread")]
async fn bombs_are_refused_over_a_socket_too() {
    let api = Api::start().await;
    let mut socket = api.ready_socket(&api.key).await;
    let fragments = |root: &str, depth: usize, width: usize| {
        let spread = |level: usize| format!("...f{level} ").repeat(width);
        let fragments: String =
            (0..depth).map(|level| format!("fragment f{level} on Query {{ {} }} ", spread(level + 1))).collect();
        format!("{root} {{ ...f0 }} {fragments} fragment f{depth} on Query {{ viewer {{ name }} }}")
    };
    let aliases: String = (0..9_000).map(|n| format!("a{n}: x ")).collect();
    let live_aliases: String = (0..51).map(|n| format!("a{n}: cursor ")).collect();
    for (bomb, code) in [
        (fragments("query", 22, 2), "QUERY_TOO_COMPLEX"),
        (fragments("query", 5, 40), "QUERY_TOO_COMPLEX"),
        (fragments("subscription", 5, 40), "QUERY_TOO_COMPLEX"),
        (format!("{{ {aliases} }}"), "QUERY_TOO_LARGE"),
        (format!("subscription {{ auditLog {{ {live_aliases} }} }}"), "QUERY_TOO_COMPLEX"),
        (format!("subscription {{ auditLog {} {{ cursor }} }}", "@skip(if: false) ".repeat(3_000)), "QUERY_TOO_COMPLEX"),
        (
            "subscription { deliveryUpdates { delivery { webhook { deliveries(first: 100) { nodes { webhook { deliveries(first: 100) { nodes { webhook { id } } } } } } } } } }".to_owned(),
            "QUERY_TOO_COMPLEX",
        ),
    ] {
        socket.subscribe("bomb", &bomb, &Value::Null).await;
        let refused = socket.message_of("bomb").await;
        assert_eq!(refused["payload"][0]["extensions"]["code"], json!(code), "{:.80}: {refused}", bomb);
        assert_eq!(refused["type"], json!("error"));
    }
    let large = json!({ "id": "1", "type": "subscribe", "payload": { "query": ANY, "variables": { "x": "x".repeat(1_100_000) } } });
    // The server may hang up before all of it is written.
    drop(socket.socket.send(Message::text(large.to_string())).await);
    let ended = loop {
        match futures_util::StreamExt::next(&mut socket.socket).await {
            Some(Ok(Message::Text(text))) => panic!("{text}"),
            Some(Ok(_)) => {}
            Some(Err(_)) | None => break true,
        }
    };
    assert!(ended);
    assert_eq!(api.data(ANY, Value::Null).await["viewer"]["name"], "test");
}

#[tokio::test(flavor = "multi_thread")]
async fn operations_and_sockets_are_bounded() {
    let live = LiveConfig { max_streams: 9, max_streams_per_key: 2, ..LiveConfig::default() };
    let api = Api::over_with(Arc::new(MemoryStore::new(1)), live).await;
    let mut socket = api.ready_socket(&api.key).await;
    for id in ["1", "2", "3"] {
        socket.subscribe(id, AUDIT, &json!({})).await;
    }
    let refused = socket.message_of("3").await;
    let extensions = &refused["payload"][0]["extensions"];
    assert_eq!(*extensions, json!({ "code": "TOO_MANY_STREAMS", "retryAfterSeconds": 5 }), "{refused}");
    socket.send(json!({ "id": "1", "type": "complete" })).await;
    let again = async {
        loop {
            socket.subscribe("4", AUDIT, &json!({})).await;
            socket.send(json!({ "type": "ping" })).await;
            let message = socket.message().await;
            if message["type"] == json!("pong") {
                return;
            }
            assert_eq!(message["id"], json!("4"), "{message}");
            assert_eq!(socket.message().await["type"], json!("pong"));
        }
    };
    tokio::time::timeout(super::PATIENCE, again).await.unwrap();
    let _second = api.ready_socket(&api.key).await;
    let mut third = api.socket().await;
    third
        .send(json!({ "type": "connection_init", "payload": { "authorization": format!("Bearer {}", api.key) } }))
        .await;
    assert_eq!(third.closed().await.0, 1013);

    let api = Api::start().await;
    let mut socket = api.ready_socket(&api.key).await;
    for n in 0..33 {
        socket.subscribe(&n.to_string(), AUDIT, &json!({})).await;
    }
    assert_eq!(socket.message().await["id"], json!("32"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_withdrawn_key_closes_its_sockets_and_streams_at_once() {
    let api = Api::start().await;
    let key = api.key(api.tenant, &[Scope::AuditRead, Scope::DeliveriesRead]).await;
    let mut socket = api.ready_socket(&key).await;
    socket.subscribe("1", AUDIT, &json!({})).await;
    let mut events = api.events(&key, DELIVERIES, &json!({})).await;
    let mut idle = api.ready_socket(&key).await;
    let mut others = api.ready_socket(&api.key).await;
    let viewer = api.answer(&key, "{ viewer { apiKeyId } }", &Value::Null).await;
    let revoke = "mutation($id: ID!) { revokeApiKey(input: { apiKeyId: $id }) { userErrors { code } } }";
    let id = &viewer["data"]["viewer"]["apiKeyId"];
    api.data(revoke, json!({ "id": id })).await;
    assert_eq!(idle.closed().await, (4403, "Forbidden".to_owned()));
    assert_eq!(events.refusal().await, "UNAUTHENTICATED");
    loop {
        match socket.frame().await {
            Some(Message::Text(_)) => {}
            Some(Message::Close(Some(frame))) => break assert_eq!(u16::from(frame.code), 4403),
            other => panic!("{other:?}"),
        }
    }
    others.send(json!({ "type": "ping" })).await;
    assert_eq!(others.message().await, json!({ "type": "pong" }));
}

#[tokio::test(flavor = "multi_thread")]
async fn who_has_much_to_tell_keeps_nobody_waiting() {
    const MANY: usize = 1_000;
    let api = Api::start().await;
    api.create(json!({ "url": URL, "eventFilters": ["**"], "enabled": true })).await;
    let mut live = api.events(&api.key, DELIVERIES, &json!({})).await;
    api.publish_any().await;
    let cursor = live.item().await["cursor"].take();
    let publish = "mutation($messages: [PublishMessageInput!]!) { publishMessages(input: { messages: $messages }) { userErrors { code } } }";
    for _ in 0..MANY / 100 {
        let messages = vec![json!({ "type": "user.created", "data": {} }); 100];
        api.data(publish, json!({ "messages": messages })).await;
    }
    let mut told = BTreeSet::new();
    while told.len() < MANY {
        told.insert(live.item().await["delivery"]["id"].to_string());
    }
    let mut socket = api.ready_socket(&api.key).await;
    socket.subscribe("busy", DELIVERIES, &json!({ "after": cursor })).await;
    socket.subscribe("brief", ANY, &Value::Null).await;
    let (mut busy, mut brief) = (0, None);
    while busy < MANY {
        let message = socket.message().await;
        match message["id"].as_str().unwrap() {
            "busy" => busy += 1,
            _ => brief = brief.or(Some(busy)),
        }
    }
    assert!(brief.is_some_and(|before| before < MANY / 2), "{brief:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_operation_that_cannot_be_paid_is_refused_alone() {
    let api = Api::limited(tidings::rate_limit::Config { points_per_second: 1, burst_points: 7 }).await;
    let mut socket = api.ready_socket(&api.key).await;
    socket.subscribe("a", "{ viewer { name } }", &json!({})).await;
    assert_eq!(socket.message_of("a").await["payload"]["extensions"]["cost"]["requested"], json!(2));
    for query in [super::WEBHOOKS, "{", "{ viewer { name } }"] {
        socket.subscribe("b", query, &json!({})).await;
        let refused = socket.message_of("b").await;
        let code = if query == "{" { "GRAPHQL_PARSE_FAILED" } else { "THROTTLED" };
        assert_eq!((&refused["type"], &refused["payload"][0]["extensions"]["code"]), (&json!("error"), &json!(code)));
    }
}
