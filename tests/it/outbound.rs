//! The outbound client against real endpoints and a real name server on loopback.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};
use tidings::domain::outcome::{Exchange, FailureCode, Response};
use tidings::outbound::{Config, ConfigError, HttpClient, Request, Transport, UrlRefusal};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;

use crate::support::certificates::{self, Identity};
use crate::support::name_server::NameServer;
use crate::support::receiver::{Receiver, Script};

/// Enough for any answer that comes at all.
const PATIENT_MS: u64 = 20_000;
/// For answers that never come.
const IMPATIENT_MS: u64 = 300;

/// A configuration under which `receiver` can be reached by its address.
fn config_for(receiver: &Receiver) -> Config {
    Config {
        allow_cidrs: vec!["127.0.0.0/8".parse().unwrap()],
        extra_ca: vec![receiver.ca_file()],
        ..Config::default()
    }
}

fn client_for(receiver: &Receiver) -> HttpClient {
    HttpClient::new(&config_for(receiver)).unwrap()
}

fn request(url: impl Into<String>) -> Request {
    Request { url: url.into(), headers: vec![], body: Bytes::from_static(b"{\"a\":1}"), timeout_ms: PATIENT_MS }
}

fn impatient(url: impl Into<String>) -> Request {
    Request { timeout_ms: IMPATIENT_MS, ..request(url) }
}

async fn post(client: &HttpClient, url: impl Into<String>) -> Exchange {
    client.post(request(url)).await
}

fn response(exchange: Exchange) -> Response {
    exchange.result.expect("an answer")
}

/// The failure's code; its sentence must not name an address.
fn failure(exchange: Exchange) -> FailureCode {
    let failure = exchange.result.expect_err("no answer");
    assert!(!failure.detail.contains("127.0.0.1") && !failure.detail.contains("::1"), "{}", failure.detail);
    assert!(!failure.detail.is_empty());
    failure.code
}

#[tokio::test]
async fn a_post_arrives_with_its_headers_in_order_and_its_exact_bytes() {
    let receiver = Receiver::start().await;
    receiver.on("/hook", Script::answer(202, "thanks"));
    let headers = [("webhook-id", "msg_1"), ("Content-Type", "application/json"), ("user-agent", "Tidings/1")];
    let headers = headers.map(|(name, value)| (name.to_owned(), value.to_owned())).to_vec();

    let answer = response(client_for(&receiver).post(Request { headers, ..request(receiver.url("/hook?x=1")) }).await);

    let expected = Response { status: 202, preview: "thanks".into(), body_bytes: Some(6), ..Response::default() };
    assert_eq!(answer, expected);
    let [received] = &receiver.requests()[..] else { panic!("one request") };
    assert_eq!((received.method.as_str(), received.target.as_str()), ("POST", "/hook?x=1"));
    assert_eq!(received.body, b"{\"a\":1}");
    let names: Vec<&str> = received.headers.iter().map(|(name, _)| name.as_str()).collect();
    assert_eq!(names[..3], ["webhook-id", "content-type", "user-agent"]);
    assert_eq!(received.header("content-length"), Some("7"));
    assert_eq!(received.header("accept-encoding"), None, "a compressed answer is not asked for");
    assert_eq!(received.header("referer"), None);
}

#[tokio::test]
async fn every_status_is_an_answer_for_the_profile_to_judge() {
    let receiver = Receiver::start().await;
    let client = client_for(&receiver);
    for status in [200, 204, 301, 400, 404, 410, 429, 500, 503, 599] {
        receiver.on("/", Script::status(status));
        assert_eq!(response(post(&client, receiver.url("/")).await).status, status);
    }
}

// A30
#[tokio::test]
async fn a_redirect_is_an_answer_and_is_not_followed() {
    let receiver = Receiver::start().await;
    for status in [301, 302, 303, 307, 308] {
        receiver.on("/from", Script::status(status).header("location", receiver.url("/to")));
        assert_eq!(response(post(&client_for(&receiver), receiver.url("/from")).await).status, status);
    }
    assert!(receiver.requests().iter().all(|request| request.target == "/from"));
}

#[tokio::test]
async fn attempts_to_one_endpoint_share_a_connection() {
    let receiver = Receiver::start().await;
    let client = client_for(&receiver);
    for _ in 0..5 {
        post(&client, receiver.url("/")).await.result.unwrap();
    }
    let connections: Vec<usize> = receiver.requests().iter().map(|request| request.connection).collect();
    assert_eq!((connections, receiver.connections()), (vec![1; 5], 1));
}

// A30
#[tokio::test]
async fn an_answer_that_does_not_begin_in_time_is_a_timeout() {
    let receiver = Receiver::start().await;
    receiver.on("/", Script::hang());
    assert_eq!(failure(client_for(&receiver).post(impatient(receiver.url("/"))).await), FailureCode::Timeout);
    assert_eq!(receiver.requests().len(), 1);
}

#[tokio::test]
async fn an_answer_that_does_not_end_in_time_is_a_timeout() {
    let receiver = Receiver::start().await;
    receiver.on("/", Script::drip(Duration::from_millis(20)));
    assert_eq!(failure(client_for(&receiver).post(impatient(receiver.url("/"))).await), FailureCode::Timeout);
}

#[tokio::test]
async fn a_slow_answer_within_the_time_is_an_answer() {
    let receiver = Receiver::start().await;
    receiver.on("/", Script::status(200).after(Duration::from_millis(200)));
    let exchange = post(&client_for(&receiver), receiver.url("/")).await;
    assert!(exchange.latency_ms >= 200, "the wait is part of the latency: {}", exchange.latency_ms);
    assert_eq!(response(exchange).status, 200);
}

#[tokio::test]
async fn a_dropped_attempt_closes_its_connection() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let acceptor = tokio_rustls::TlsAcceptor::from(certificates::server_config(Identity::Signed(&["127.0.0.1"]), &[]));
    let receiver = Receiver::start().await;
    let client = client_for(&receiver);
    let attempt = tokio::spawn(async move { post(&client, format!("https://{address}/")).await });
    let (stream, _) = listener.accept().await.unwrap();
    let mut stream = acceptor.accept(stream).await.unwrap();
    stream.read_u8().await.expect("the request begins");

    attempt.abort();

    let mut rest = Vec::new();
    let ended = tokio::time::timeout(Duration::from_secs(20), stream.read_to_end(&mut rest)).await;
    assert!(ended.is_ok(), "the connection must end with the attempt");
}

#[tokio::test]
async fn an_endless_answer_counts_by_its_status() {
    let receiver = Receiver::start().await;
    receiver.on("/", Script::endless());
    let answer = response(post(&client_for(&receiver), receiver.url("/")).await);
    assert_eq!((answer.status, answer.preview, answer.truncated), (200, "x".repeat(1024), true));
    let read = answer.body_bytes.unwrap();
    assert!(read >= 64 * 1024, "{read}");
}

#[tokio::test]
async fn an_answer_that_breaks_off_in_its_body_is_no_answer() {
    let receiver = Receiver::start().await;
    receiver.on("/", Script::break_off());
    assert_eq!(failure(post(&client_for(&receiver), receiver.url("/")).await), FailureCode::Body);
}

#[tokio::test]
async fn an_answer_that_is_no_http_is_no_answer() {
    let receiver = Receiver::start().await;
    receiver.on("/", Script::raw("SSH-2.0-OpenSSH_9.2\r\n\r\n"));
    assert_eq!(failure(post(&client_for(&receiver), receiver.url("/")).await), FailureCode::Body);
}

#[tokio::test]
async fn an_answer_with_ten_thousand_headers_is_no_answer() {
    let receiver = Receiver::start().await;
    let many = (0..10_000).fold(Script::status(200), |script, n| script.header(format!("x-{n}"), "y"));
    receiver.on("/", many);
    assert_eq!(failure(post(&client_for(&receiver), receiver.url("/")).await), FailureCode::Headers);
    let endless_line = [b"HTTP/1.1 200 OK\r\nx-long: ".as_slice(), &[b'y'; 1024 * 1024]].concat();
    receiver.on("/", Script::raw(endless_line));
    assert_eq!(failure(post(&client_for(&receiver), receiver.url("/")).await), FailureCode::Headers);
}

#[tokio::test]
async fn an_answer_over_http_2_with_too_many_headers_is_no_answer() {
    let address = over_http_2(|| {
        let many = (0..10_000).fold(hyper::Response::builder(), |answer, n| answer.header(format!("x-{n}"), "y"));
        many.body(String::new()).unwrap()
    })
    .await;
    let receiver = Receiver::start().await;
    assert_eq!(failure(post(&client_for(&receiver), format!("https://{address}/")).await), FailureCode::Headers);
}

#[tokio::test]
async fn a_connection_closed_without_an_answer_is_a_connection_failure_and_is_not_tried_again() {
    let receiver = Receiver::start().await;
    receiver.on("/", Script::close());
    let client = client_for(&receiver);
    assert_eq!(failure(post(&client, receiver.url("/")).await), FailureCode::Connect);
    assert_eq!(receiver.requests().len(), 1);

    receiver.on_each("/reused", [Script::status(200), Script::close()]);
    post(&client, receiver.url("/reused")).await.result.unwrap();
    assert_eq!(failure(post(&client, receiver.url("/reused")).await), FailureCode::Connect);
    assert_eq!(receiver.requests().len(), 3, "nor is a request on a reused connection");
}

#[tokio::test]
async fn a_compressed_answer_stays_compressed() {
    // `gzip -9` of a million zeros would be a thousand times longer; these few bytes are enough to see it untouched.
    let gzip =
        [0x1f, 0x8b, 0x08, 0, 0, 0, 0, 0, 0, 0x03, 0x4b, 0x4c, 0x4a, 0x06, 0, 0xc2, 0x41, 0x24, 0x35, 3, 0, 0, 0];
    let receiver = Receiver::start().await;
    receiver.on("/", Script::answer(200, gzip).header("content-encoding", "gzip"));
    let answer = response(post(&client_for(&receiver), receiver.url("/")).await);
    assert!(answer.preview.starts_with(r"\u{1f}\x8b\u{8}\u{0}"), "{}", answer.preview);
}

#[tokio::test]
async fn what_an_endpoint_answers_is_kept_as_harmless_text() {
    let receiver = Receiver::start().await;
    receiver.on("/", Script::answer(500, b"caf\xc3\xa9\x1b[2J\n\xff".as_slice()));
    let answer = response(post(&client_for(&receiver), receiver.url("/")).await);
    assert_eq!(answer.preview, "caf\u{e9}\\u{1b}[2J\\n\\xff");
    assert_eq!(answer.body_bytes, Some(11));
}

#[tokio::test]
async fn of_an_answers_headers_those_are_kept_that_explain_it() {
    // A34
    let receiver = Receiver::start().await;
    let answer = Script::answer(503, vec![b'x'; 2_000]).header("Set-Cookie", "session=1").header("X-Powered-By", "PHP");
    receiver.on("/", answer.header("Server", "nginx").header("X-Request-Id", "r-1").header("X-Api-Key", "k"));
    let answer = response(post(&client_for(&receiver), receiver.url("/")).await);
    let kept: Vec<_> = answer.headers.iter().map(|(name, value)| (name.as_str(), value.as_str())).collect();
    assert_eq!(kept, [("x-request-id", "r-1"), ("server", "nginx"), ("x-powered-by", "PHP")]);
    assert_eq!((answer.truncated, answer.body_bytes), (true, Some(2_000)));
}

#[tokio::test]
async fn each_fault_of_a_certificate_has_its_own_code() {
    let trusted = Receiver::start().await;
    let client = client_for(&trusted);
    for (identity, code, sentence) in [
        (Identity::SelfSigned, FailureCode::TlsUntrusted, "the certificate's issuer is not trusted"),
        (Identity::OwnAuthority, FailureCode::TlsUntrusted, "the certificate's issuer is not trusted"),
        (Identity::Signed(&["other.example.com"]), FailureCode::TlsWrongName, "the certificate is for another name"),
        (Identity::Expired, FailureCode::TlsExpired, "the certificate has expired"),
        (Identity::NotYetValid, FailureCode::TlsNotYetValid, "the certificate is not yet valid"),
    ] {
        let receiver = Receiver::start_as(identity).await;
        let failure = post(&client, receiver.url("/")).await.result.unwrap_err();
        assert_eq!((failure.code, failure.detail.as_str()), (code, sentence), "{identity:?}");
        assert!(receiver.requests().is_empty(), "{identity:?}");
    }
}

#[tokio::test]
async fn an_authority_that_the_operator_did_not_name_is_not_trusted() {
    let receiver = Receiver::start().await;
    let client = HttpClient::new(&Config { extra_ca: vec![], ..config_for(&receiver) }).unwrap();
    assert_eq!(failure(post(&client, receiver.url("/")).await), FailureCode::TlsUntrusted);
}

#[tokio::test]
async fn a_file_may_hold_many_authorities_and_words_between_them() {
    let trusted = Receiver::start().await;
    let other = rcgen::generate_simple_self_signed(vec!["other.example.com".to_owned()]).unwrap().cert.pem();
    let directory = tempfile::tempdir().unwrap();
    let bundle = directory.path().join("bundle.pem");
    std::fs::write(&bundle, format!("# Ours\n{other}\n# Theirs\n{}", trusted.ca_pem())).unwrap();
    let client = HttpClient::new(&Config { extra_ca: vec![bundle], ..config_for(&trusted) }).unwrap();
    assert_eq!(response(post(&client, trusted.url("/")).await).status, 200);
}

/// A plain TCP server that says `words` to each client and waits for it to go.
async fn plain_server(words: &'static [u8]) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            let _ = stream.write_all(words).await;
            let mut sink = Vec::new();
            let _ = stream.read_to_end(&mut sink).await;
        }
    });
    address
}

#[tokio::test]
async fn a_server_that_speaks_no_tls_fails_in_tls() {
    let address = plain_server(b"HTTP/1.1 400 Bad Request\r\ncontent-length: 0\r\n\r\n").await;
    let receiver = Receiver::start().await;
    assert_eq!(failure(post(&client_for(&receiver), format!("https://{address}/")).await), FailureCode::Tls);
}

#[tokio::test]
async fn a_handshake_that_never_ends_has_its_own_code_after_the_connect_timeout() {
    let address = plain_server(b"").await;
    let receiver = Receiver::start().await;
    let config = Config { connect_timeout_ms: IMPATIENT_MS, ..config_for(&receiver) };
    let client = HttpClient::new(&config).unwrap();
    assert_eq!(failure(post(&client, format!("https://{address}/")).await), FailureCode::TlsTimeout);
}

#[tokio::test]
async fn a_peer_that_closes_during_the_handshake_has_its_own_code() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            drop(stream)
        }
    });
    let receiver = Receiver::start().await;
    assert_eq!(failure(post(&client_for(&receiver), format!("https://{address}/")).await), FailureCode::TlsReset);
}

#[tokio::test]
async fn a_port_where_nobody_listens_is_a_connection_failure() {
    let address = TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap();
    let receiver = Receiver::start().await;
    let failure = post(&client_for(&receiver), format!("https://{address}/")).await.result.unwrap_err();
    assert_eq!((failure.code, failure.detail.as_str()), (FailureCode::Connect, "the connection was refused"));
}

/// Accepts one connection, over HTTP/2, and answers each request on it so.
async fn over_http_2(answer: fn() -> hyper::Response<String>) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let identity = certificates::server_config(Identity::Signed(&["127.0.0.1"]), &["h2", "http/1.1"]);
    let acceptor = tokio_rustls::TlsAcceptor::from(identity);
    tokio::spawn(async move {
        let (stream, _) = listener.accept().await.unwrap();
        let stream = TokioIo::new(acceptor.accept(stream).await.unwrap());
        let answer = service_fn(move |request: hyper::Request<hyper::body::Incoming>| {
            drop(request);
            std::future::ready(Ok::<_, std::convert::Infallible>(answer()))
        });
        let _ = hyper::server::conn::http2::Builder::new(TokioExecutor::new()).serve_connection(stream, answer).await;
    });
    address
}

#[tokio::test]
async fn an_endpoint_that_speaks_http_2_is_spoken_to_in_http_2_over_one_connection() {
    let address = over_http_2(|| hyper::Response::new("over h2".to_owned())).await;
    let receiver = Receiver::start().await;
    let client = client_for(&receiver);
    for _ in 0..3 {
        assert_eq!(response(post(&client, format!("https://{address}/")).await).preview, "over h2");
    }
}

#[tokio::test]
async fn a_literal_that_the_operator_did_not_open_is_never_connected_to() {
    let receiver = Receiver::start().await;
    let client = HttpClient::new(&Config { allow_cidrs: vec![], ..config_for(&receiver) }).unwrap();
    assert_eq!(failure(post(&client, receiver.url("/")).await), FailureCode::Blocked);
    let denied = Config { deny_cidrs: vec!["127.0.0.1/32".parse().unwrap()], ..config_for(&receiver) };
    let client = HttpClient::new(&denied).unwrap();
    assert_eq!(failure(post(&client, receiver.url("/")).await), FailureCode::Blocked);
    assert_eq!(receiver.connections(), 0);
}

// A5
#[tokio::test]
async fn plain_http_is_refused_even_where_loopback_is_open() {
    let receiver = Receiver::start().await;
    let url = receiver.url("/").replace("https://", "http://");
    assert_eq!(failure(post(&client_for(&receiver), url).await), FailureCode::Blocked);
    assert_eq!(receiver.connections(), 0);
}

#[tokio::test]
async fn a_header_that_would_reframe_the_request_is_not_sent() {
    let receiver = Receiver::start().await;
    let client = client_for(&receiver);
    for (name, value) in [("host", "evil.com"), ("Content-Length", "0"), ("x y", "z"), ("x", "a\r\nb: c")] {
        let headers = vec![(name.to_owned(), value.to_owned())];
        let exchange = client.post(Request { headers, ..request(receiver.url("/")) }).await;
        assert_eq!(failure(exchange), FailureCode::Aborted, "{name}");
    }
    assert_eq!(receiver.connections(), 0);
}

#[tokio::test]
async fn a_name_is_resolved_checked_and_connected_to_under_its_own_name() {
    let receiver = Receiver::start().await;
    let names = NameServer::start().await;
    names.tell("receiver.example.com", &["127.0.0.1"]);
    let client = HttpClient::new(&Config { name_servers: vec![names.address()], ..config_for(&receiver) }).unwrap();

    let answer = response(post(&client, receiver.url_as("Receiver.example.com.", "/hook")).await);

    assert_eq!(answer.status, 200);
    let host = receiver.requests()[0].header("host").map(str::to_owned);
    assert_eq!(host, Some(receiver.url_as("receiver.example.com", "").replace("https://", "")));
}

#[tokio::test]
async fn a_name_with_one_forbidden_address_among_its_answers_is_blocked() {
    let receiver = Receiver::start().await;
    let names = NameServer::start().await;
    let client = HttpClient::new(&Config { name_servers: vec![names.address()], ..config_for(&receiver) }).unwrap();
    for answers in [&["10.0.0.1"][..], &["127.0.0.1", "10.0.0.1"], &["127.0.0.1", "::1"], &["169.254.169.254"]] {
        names.tell("receiver.example.com", answers);
        let exchange = post(&client, receiver.url_as("receiver.example.com", "/")).await;
        assert_eq!(failure(exchange), FailureCode::Blocked, "{answers:?}");
        let url = client.gate().check(&receiver.url_as("receiver.example.com", "/")).unwrap();
        assert_eq!(client.gate().resolve(&url).await, Err(UrlRefusal::AddressForbidden), "{answers:?}");
    }
    assert_eq!(receiver.connections(), 0);
}

#[tokio::test]
async fn a_name_that_moves_to_a_forbidden_address_is_blocked_at_its_next_connection() {
    let receiver = Receiver::start().await;
    let names = NameServer::start().await;
    let client = HttpClient::new(&Config { name_servers: vec![names.address()], ..config_for(&receiver) }).unwrap();
    receiver.on("/", Script::answer(200, "").header("connection", "close"));
    names.tell("receiver.example.com", &["127.0.0.1"]);
    response(post(&client, receiver.url_as("receiver.example.com", "/")).await);

    names.tell("receiver.example.com", &["10.0.0.1"]);

    assert_eq!(failure(post(&client, receiver.url_as("receiver.example.com", "/")).await), FailureCode::Blocked);
}

// S4
#[tokio::test]
async fn whether_a_host_resolves_can_be_asked_before_a_url_is_stored() {
    let receiver = Receiver::start().await;
    let names = NameServer::start().await;
    names.tell("receiver.example.com", &["127.0.0.1"]);
    names.tell("empty.example.com", &[]);
    let client = HttpClient::new(&Config { name_servers: vec![names.address()], ..config_for(&receiver) }).unwrap();
    let gate = client.gate();
    for (url, expected) in [
        ("https://receiver.example.com/", Ok(())),
        ("https://127.0.0.1:8443/", Ok(())),
        ("https://empty.example.com/", Err(UrlRefusal::HostUnresolved)),
        ("https://absent.example.com/", Err(UrlRefusal::HostUnresolved)),
    ] {
        assert_eq!(gate.resolve(&gate.check(url).unwrap()).await, expected, "{url}");
    }
    assert_eq!(failure(post(&client, "https://absent.example.com/").await), FailureCode::Dns);
}

#[tokio::test]
async fn a_name_server_that_is_not_there_is_an_unresolved_name() {
    let address = tokio::net::UdpSocket::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap();
    let client = HttpClient::new(&Config { name_servers: vec![address], ..Config::default() }).unwrap();
    assert_eq!(failure(post(&client, "https://receiver.example.com/").await), FailureCode::Dns);
}

#[tokio::test]
async fn a_name_server_that_is_silent_is_an_unresolved_name_in_bounded_time() {
    let silent = tokio::net::UdpSocket::bind("127.0.0.1:0").await.unwrap();
    let client =
        HttpClient::new(&Config { name_servers: vec![silent.local_addr().unwrap()], ..Config::default() }).unwrap();
    assert_eq!(failure(post(&client, "https://receiver.example.com/").await), FailureCode::Dns);
}

/// Set in the process of its own that the next test needs, since the environment belongs to the whole process.
const PROXY_CHILD: &str = "TEST_PROXY_CHILD";

#[tokio::test]
async fn a_proxy_in_the_environment_is_not_used() {
    if std::env::var_os(PROXY_CHILD).is_some() {
        let receiver = Receiver::start().await;
        assert_eq!(response(post(&client_for(&receiver), receiver.url("/")).await).status, 200);
        return;
    }
    let proxy = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = format!("http://{}", proxy.local_addr().unwrap());
    let mut child = tokio::process::Command::new(std::env::current_exe().unwrap());
    child.args(["--exact", "outbound::a_proxy_in_the_environment_is_not_used"]).env(PROXY_CHILD, "1");
    for name in ["HTTP_PROXY", "http_proxy", "HTTPS_PROXY", "https_proxy", "ALL_PROXY", "all_proxy"] {
        child.env(name, &address);
    }
    child.env_remove("NO_PROXY").env_remove("no_proxy").kill_on_drop(true);
    let output = child.output();
    tokio::select! {
        output = output => {
            let output = output.unwrap();
            let said = String::from_utf8_lossy(&output.stdout).into_owned();
            assert!(output.status.success() && said.contains("1 passed"), "{said}");
        }
        _ = proxy.accept() => panic!("the proxy was asked"),
    }
}

#[test]
fn a_configuration_that_cannot_work_names_its_key_and_file() {
    let directory = tempfile::tempdir().unwrap();
    let file = |name: &str, content: &str| {
        let path = directory.path().join(name);
        std::fs::write(&path, content).unwrap();
        path
    };
    let error_of = |path: PathBuf| match HttpClient::new(&Config { extra_ca: vec![path], ..Config::default() }) {
        Ok(_) => panic!("must be refused"),
        Err(error) => error.to_string(),
    };
    let broken = "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n";
    let torn = "-----BEGIN CERTIFICATE-----\nAAAA\n";
    for (path, complaint) in [
        (directory.path().join("absent.pem"), "cannot be read"),
        (file("empty.pem", ""), "holds no certificate"),
        (file("text.pem", "not a certificate"), "holds no certificate"),
        (file("torn.pem", torn), "is not valid PEM"),
        (file("broken.pem", broken), "holds a certificate that cannot be used"),
    ] {
        let expected = format!("egress.extra_ca: '{}' {complaint}", path.display());
        assert_eq!(error_of(path), expected);
    }
    let zero = HttpClient::new(&Config { connect_timeout_ms: 0, ..Config::default() });
    assert!(matches!(zero, Err(ConfigError::ConnectTimeoutZero)));
}

#[test]
fn the_configuration_reads_what_it_writes_and_nothing_unknown() {
    let config: Config = serde_json::from_str(
        r#"{"allow_cidrs": ["10.0.0.0/8"], "connect_timeout_ms": 100, "name_servers": ["127.0.0.1:53"]}"#,
    )
    .unwrap();
    assert_eq!(serde_json::from_str::<Config>(&serde_json::to_string(&config).unwrap()).unwrap(), config);
    assert_eq!(serde_json::from_str::<Config>("{}").unwrap(), Config::default());
    assert!(serde_json::from_str::<Config>(r#"{"skip_verify": true}"#).is_err());
}

#[tokio::test]
async fn a_transport_can_be_shared_between_tasks() {
    let receiver = Receiver::start().await;
    let transport: Arc<dyn Transport> = Arc::new(client_for(&receiver));
    let attempts = (0..20).map(|n| {
        let (transport, url) = (Arc::clone(&transport), receiver.url(&format!("/{n}")));
        tokio::spawn(async move { transport.post(request(url)).await })
    });
    for attempt in attempts.collect::<Vec<_>>() {
        assert_eq!(response(attempt.await.unwrap()).status, 200);
    }
    assert_eq!(receiver.wait_for(20).await.len(), 20);
}
