//! Who is served where, and how much of it: listeners apart, connections of one address, proxies, foreign pages.

use std::net::SocketAddr;

use reqwest::StatusCode;
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::support::receiver::Receiver;
use crate::support::server::Server;

const CREATE: &str =
    r#"mutation { createTenant(input: { name: "Acme", slug: "acme" }) { tenant { id } userErrors { code } } }"#;

async fn asked_at(server: &Server, url: &str, query: &str) -> Value {
    let request = server.client().post(format!("{url}/graphql")).bearer_auth(&server.key);
    let body = json!({ "query": query }).to_string();
    let answer = request.header("content-type", "application/json").body(body).send().await.unwrap();
    serde_json::from_slice(&answer.bytes().await.unwrap()).unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn operators_are_served_on_their_own_listener_alone() {
    let receiver = Receiver::start().await;
    let mut server = Server::start_with(&receiver.ca_file(), "[admin]\nlisten = \"127.0.0.1:0\"\n");
    let everybody = server.url("");
    let refused = asked_at(&server, &everybody, CREATE).await;
    assert_eq!(refused["errors"][0]["extensions"]["code"], "FORBIDDEN", "{refused}");
    // The key is good there for its own tenant.
    let own = asked_at(&server, &everybody, "{ viewer { scopes tenant { slug } } }").await;
    let scopes = own["data"]["viewer"]["scopes"].as_array().unwrap();
    assert!(scopes.len() == 9 && !scopes.contains(&json!("TENANTS_ADMIN")), "{own}");
    let made = asked_at(&server, &server.operators, CREATE).await;
    assert_eq!(made["data"]["createTenant"]["userErrors"], json!([]), "{made}");

    // Without one, it is this machine's own business, and no proxy's.
    let alone = Server::start(&receiver.ca_file());
    let made = asked_at(&alone, &alone.url(""), CREATE).await;
    assert_eq!(made["data"]["createTenant"]["userErrors"], json!([]), "{made}");
    let request = alone.client().post(alone.url("/graphql")).bearer_auth(&alone.key).header("via", "1.1 proxy");
    let body = json!({ "query": CREATE }).to_string();
    let answer = request.header("content-type", "application/json").body(body).send().await.unwrap();
    let refused: Value = serde_json::from_slice(&answer.bytes().await.unwrap()).unwrap();
    assert_eq!(refused["errors"][0]["extensions"]["code"], "FORBIDDEN", "{refused}");

    // A socket is no way around it.
    let (mut socket, _) =
        tokio_tungstenite::client_async(socket_request(&everybody), connect(&everybody).await).await.unwrap();
    let init = json!({ "type": "connection_init", "payload": { "Authorization": format!("Bearer {}", server.key) } });
    let ask = json!({ "id": "1", "type": "subscribe", "payload": { "query": "{ viewer { scopes } }" } });
    for message in [init, ask] {
        futures_util::SinkExt::send(&mut socket, message.to_string().into()).await.unwrap();
    }
    let answer = loop {
        let message = futures_util::StreamExt::next(&mut socket).await.unwrap().unwrap();
        let message: Value = serde_json::from_str(message.to_text().unwrap()).unwrap();
        if message["type"] == "next" {
            break message;
        }
    };
    assert_eq!(answer["payload"]["data"]["viewer"]["scopes"].as_array().unwrap().len(), 9, "{answer}");
    assert_eq!(server.terminate(), Some(0));
}

fn socket_request(url: &str) -> tokio_tungstenite::tungstenite::handshake::client::Request {
    use tokio_tungstenite::tungstenite::client::IntoClientRequest;
    let mut request = format!("{}/graphql", url.replace("http://", "ws://")).into_client_request().unwrap();
    request.headers_mut().insert("sec-websocket-protocol", "graphql-transport-ws".parse().unwrap());
    request
}

async fn connect(url: &str) -> TcpStream {
    let address: SocketAddr = url.strip_prefix("http://").unwrap().parse().unwrap();
    TcpStream::connect(address).await.unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn metrics_with_a_token_are_told_to_whoever_shows_it() {
    let receiver = Receiver::start().await;
    let mut server = Server::start(&receiver.ca_file());
    server.terminate();
    let token = server.folder().join("metrics.token");
    let mut text = std::fs::read_to_string(server.config()).unwrap();
    text += &format!("[metrics]\nlisten = \"127.0.0.1:0\"\ntoken_file = \"{}\"\n", token.display());
    std::fs::write(server.config(), text).unwrap();
    std::fs::write(&token, "a-token-of-some-length\n").unwrap();
    server.restart();
    let status = async |token: Option<&str>| {
        let request = server.client().get(&server.metrics);
        let request = match token {
            Some(token) => request.bearer_auth(token),
            None => request,
        };
        let answer = request.send().await.unwrap();
        assert_eq!(answer.headers()["x-content-type-options"], "nosniff");
        answer.status()
    };
    for wrong in [None, Some(""), Some("a-token-of-some-lengti"), Some("a-token"), Some(server.key.as_str())] {
        assert_eq!(status(wrong).await, StatusCode::UNAUTHORIZED, "{wrong:?}");
    }
    assert_eq!(status(Some("a-token-of-some-length")).await, StatusCode::OK);
}

#[tokio::test(flavor = "multi_thread")]
async fn one_address_has_so_many_connections_and_others_are_closed_at_once() {
    let receiver = Receiver::start().await;
    let mut server = Server::start(&receiver.ca_file());
    server.restart_serving("max_connections_per_address = 3");
    let mut open = vec![];
    for _ in 0..3 {
        open.push(served(&server.url("")).await.expect("there is room"));
    }
    assert!(served(&server.url("")).await.is_none());
    drop(open.pop());
    let deadline = tokio::time::Instant::now() + std::time::Duration::from_secs(20);
    while served(&server.url("")).await.is_none() {
        assert!(tokio::time::Instant::now() < deadline, "a place that was given back is not had again");
    }
}

/// A connection on which a request was answered.
async fn served(url: &str) -> Option<TcpStream> {
    let mut stream = connect(url).await;
    stream.write_all(b"GET /healthz HTTP/1.1\r\nhost: tidings\r\n\r\n").await.ok()?;
    let mut answer = [0; 12];
    stream.read_exact(&mut answer).await.ok()?;
    assert_eq!(&answer, b"HTTP/1.1 200");
    Some(stream)
}

#[tokio::test(flavor = "multi_thread")]
async fn the_address_in_the_audit_log_is_the_one_that_a_trusted_proxy_names() {
    let receiver = Receiver::start().await;
    let mut server = Server::start(&receiver.ca_file());
    let told = async |server: &Server, path: &str| {
        let query = "mutation($url: String!) { createWebhook(input: { url: $url, eventFilters: [\"**\"] }) { webhook { id } userErrors { code } } }";
        let request = server.client().post(server.url("/graphql")).bearer_auth(&server.key);
        let request = request.header("x-forwarded-for", "6.6.6.6, 8.8.8.8").header("x-forwarded-proto", "https");
        let body = json!({ "query": query, "variables": { "url": receiver.url(path) } }).to_string();
        let answer = request.header("content-type", "application/json").body(body).send().await.unwrap();
        let hsts = answer.headers().contains_key("strict-transport-security");
        let answer: Value = serde_json::from_slice(&answer.bytes().await.unwrap()).unwrap();
        let webhook = &answer["data"]["createWebhook"]["webhook"]["id"];
        assert!(webhook.is_string(), "{answer}");
        let query = "{ auditLog(first: 1) { nodes { targetId ipAddress } } }";
        let newest = |data: &Value| data["auditLog"]["nodes"][0].clone();
        let data = server.until(query, json!({}), |data| newest(data)["targetId"] == *webhook).await;
        (newest(&data)["ipAddress"].clone(), hsts)
    };
    assert_eq!(told(&server, "/direct").await, (json!("127.0.0.1"), false));
    server.restart_serving("trusted_proxies = [\"127.0.0.0/8\"]");
    assert_eq!(told(&server, "/proxied").await, (json!("8.8.8.8"), true));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_page_of_another_origin_is_allowed_nothing() {
    let receiver = Receiver::start().await;
    let server = Server::start(&receiver.ca_file());
    for path in ["/graphql", "/v1/messages", "/session", "/graphql/schema.graphql", "/healthz"] {
        let preflight = server.client().request(reqwest::Method::OPTIONS, server.url(path));
        let preflight = preflight
            .header("origin", "https://evil.example")
            .header("access-control-request-method", "POST")
            .header("access-control-request-headers", "authorization,content-type");
        let simple = server.client().get(server.url(path)).header("origin", "https://evil.example");
        for request in [preflight, simple] {
            let answer = request.send().await.unwrap();
            let allowed: Vec<_> =
                answer.headers().keys().filter(|name| name.as_str().starts_with("access-control-")).collect();
            assert!(allowed.is_empty(), "{path}: {allowed:?}");
        }
    }
}
