//! Endpoints, certificates and name servers that do what they must not. What one attempt makes of them stands in
//! `outbound.rs` as well; here are the worst of them, and what the program makes of them.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use serde_json::{Value, json};
use tidings::domain::outcome::{Exchange, Failure, FailureClass, FailureCode};
use tidings::domain::profile;
use tidings::outbound::{Config, HttpClient, Request, Transport};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;

use crate::support::certificates::{self, Identity};
use crate::support::name_server::NameServer;
use crate::support::receiver::{Receiver, Script};
use crate::support::server::{Kind, Server};

/// Enough for an answer that comes at all.
const PATIENT_MS: u64 = 20_000;
/// For one that does not.
const IMPATIENT_MS: u64 = 600;

fn config(receiver: &Receiver) -> Config {
    let allow_cidrs = vec!["127.0.0.0/8".parse().unwrap()];
    Config { allow_cidrs, extra_ca: vec![receiver.ca_file()], ..Config::default() }
}

async fn post(client: &HttpClient, url: impl Into<String>, timeout_ms: u64) -> Exchange {
    let body = Bytes::from_static(b"{}");
    client.post(Request { url: url.into(), headers: vec![], body, timeout_ms }).await
}

fn failure(exchange: Exchange) -> Failure {
    exchange.result.expect_err("no usable answer")
}

/// Sends an answer over TLS byte by byte, header lines and body, and goes on for ever.
async fn slow_loris() -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let acceptor = tokio_rustls::TlsAcceptor::from(certificates::server_config(Identity::Signed(&["127.0.0.1"]), &[]));
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let acceptor = acceptor.clone();
            tokio::spawn(async move {
                let Ok(mut stream) = acceptor.accept(stream).await else { return };
                let head = b"HTTP/1.1 200 OK\r\ncontent-length: 1000000\r\n\r\n".iter().copied();
                for byte in head.chain(std::iter::repeat(b'.')) {
                    if stream.write_all(&[byte]).await.is_err() || stream.flush().await.is_err() {
                        return;
                    }
                    tokio::time::sleep(Duration::from_millis(10)).await;
                }
            });
        }
    });
    address
}

// fault 8, A30
#[tokio::test]
async fn an_endpoint_that_drips_its_header_lines_and_then_its_body_is_cut_off_in_time_and_hinders_nobody() {
    let healthy = Receiver::start().await;
    let client = HttpClient::new(&config(&healthy)).unwrap();
    let slow = format!("https://{}/", slow_loris().await);
    // One ends among the header lines, one in the body.
    for timeout_ms in [200, 2 * IMPATIENT_MS] {
        let (dripped, ..) = tokio::join!(post(&client, slow.as_str(), timeout_ms), async {
            for n in 0..20 {
                let exchange = post(&client, healthy.url("/"), PATIENT_MS).await;
                assert_eq!(exchange.result.unwrap().status, 200, "{n}");
            }
        });
        assert!(dripped.latency_ms >= timeout_ms, "{}", dripped.latency_ms);
        assert_eq!(failure(dripped).code, FailureCode::Timeout);
    }
}

/// Set in the process of its own that the next test needs, since memory is the whole process's.
const HUGE_CHILD: &str = "TEST_HUGE_CHILD";

// fault 9
#[tokio::test]
async fn a_huge_answer_costs_little_memory_and_counts_by_its_status() {
    if std::env::var_os(HUGE_CHILD).is_some() {
        return take_huge_answers().await;
    }
    let mut child = tokio::process::Command::new(std::env::current_exe().unwrap());
    let name = "faulty_endpoints::a_huge_answer_costs_little_memory_and_counts_by_its_status";
    let output = child.args(["--exact", name]).env(HUGE_CHILD, "1").kill_on_drop(true).output().await.unwrap();
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(output.status.success() && said.contains("1 passed"), "{said}");
}

async fn take_huge_answers() {
    let receiver = Receiver::start().await;
    let client = HttpClient::new(&config(&receiver)).unwrap();
    receiver.on("/endless", Script::endless());
    // As many bytes as ten megabytes of zeros are, compressed; nobody looks into them.
    let bomb = [&[0x1f, 0x8b, 8, 0, 0, 0, 0, 0, 0, 3][..], &[0x63; 10 * 1024]].concat();
    receiver.on("/bomb", Script::answer(500, bomb).header("content-encoding", "gzip"));
    let headers = (0..10_000).fold(Script::status(200), |script, n| script.header(format!("x-{n}"), "y"));
    receiver.on("/headers", headers);
    // The first answers of each kind make what is kept for later ones.
    for path in ["/endless", "/bomb", "/headers", "/"] {
        drop(post(&client, receiver.url(path), PATIENT_MS).await);
    }
    let before = resident_kib();
    for n in 0..50 {
        let endless = post(&client, receiver.url("/endless"), PATIENT_MS).await.result.unwrap();
        assert_eq!((endless.status, endless.truncated), (200, true), "{n}");
        assert!(endless.preview.len() <= 64 * 1024);
        let bomb = post(&client, receiver.url("/bomb"), PATIENT_MS).await.result.unwrap();
        assert!(bomb.status == 500 && bomb.preview.len() <= 64 * 1024, "{n}");
        assert_eq!(
            failure(post(&client, receiver.url("/headers"), PATIENT_MS).await).code,
            FailureCode::Headers,
            "{n}"
        );
    }
    let grown = resident_kib().saturating_sub(before);
    assert!(grown < 16 * 1024, "{grown} KiB more");
}

/// Memory that this process holds.
fn resident_kib() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
    line.trim().trim_end_matches(" kB").parse().unwrap()
}

/// What a server of an older time answers: it takes TLS 1.1 at most.
fn hello_of_tls_1_1() -> Vec<u8> {
    // Version, random, no session, TLS_RSA_WITH_AES_128_CBC_SHA, no compression.
    let hello = [&[3, 2][..], &[7; 32], &[0, 0, 0x2f, 0]].concat();
    let handshake = [&[2, 0, 0, hello.len() as u8][..], &hello].concat();
    [&[22, 3, 2, 0, handshake.len() as u8][..], &handshake].concat()
}

/// What a server says that takes none of the versions that it was offered.
fn alert_of_the_version() -> Vec<u8> {
    vec![21, 3, 1, 0, 2, 2, 70]
}

/// What a server says that wants nothing of what it was offered.
fn alert_of_the_handshake() -> Vec<u8> {
    vec![21, 3, 3, 0, 2, 2, 40]
}

/// What a server does once it has seen the client's first words.
#[derive(Clone, Copy, Debug)]
enum Then {
    Says(fn() -> Vec<u8>),
    Hangs,
    Resets,
}

/// Takes the first words of each client, remembers them, and does that.
async fn after_hello(then: Then) -> (SocketAddr, Arc<Mutex<Vec<Vec<u8>>>>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let heard = Arc::<Mutex<Vec<Vec<u8>>>>::default();
    let remembered = Arc::clone(&heard);
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            let mut words = vec![0; 4_096];
            let length = stream.read(&mut words).await.unwrap_or(0);
            words.truncate(length);
            match then {
                Then::Says(answer) => drop(stream.write_all(&answer()).await),
                Then::Hangs => {}
                Then::Resets => {
                    // Bytes that were not read, or this, make the close a reset.
                    drop(stream.set_zero_linger());
                    remembered.lock().unwrap().push(words);
                    continue;
                }
            }
            let mut rest = vec![];
            drop(stream.read_to_end(&mut rest).await);
            remembered.lock().unwrap().push([words, rest].concat());
        }
    });
    (address, heard)
}

// fault 10
#[tokio::test]
async fn a_handshake_that_cannot_succeed_has_its_code_and_sends_nothing_in_the_clear() {
    let receiver = Receiver::start().await;
    let config = Config { connect_timeout_ms: IMPATIENT_MS, ..config(&receiver) };
    let client = HttpClient::new(&config).unwrap();
    for (then, code) in [
        (Then::Says(hello_of_tls_1_1), FailureCode::TlsVersion),
        (Then::Says(alert_of_the_version), FailureCode::TlsVersion),
        (Then::Says(alert_of_the_handshake), FailureCode::Tls),
        (Then::Hangs, FailureCode::TlsTimeout),
        (Then::Resets, FailureCode::TlsReset),
    ] {
        let (address, heard) = after_hello(then).await;
        assert_eq!(
            failure(post(&client, format!("https://{address}/secret"), PATIENT_MS).await).code,
            code,
            "{then:?}"
        );
        let heard = heard.lock().unwrap().clone();
        // Records of TLS, and no word of the request.
        assert!(heard.iter().all(|words| words.first() == Some(&22)), "{then:?}");
        assert!(!heard.iter().any(|words| words.windows(6).any(|part| part == b"secret")), "{then:?}");
    }
    // Expired, not yet valid, for another name, and self-signed: `each_fault_of_a_certificate_has_its_own_code`.
}

// fault 11
#[tokio::test]
async fn a_name_server_that_fails_makes_a_failure_of_its_kind_and_the_next_attempt_asks_again() {
    let receiver = Receiver::start().await;
    let names = NameServer::start().await;
    names.tell("receiver.example.com", &["127.0.0.1"]);
    let client = HttpClient::new(&Config { name_servers: vec![names.address()], ..config(&receiver) }).unwrap();
    receiver.on("/", Script::answer(200, "").header("connection", "close"));
    let url = receiver.url_as("receiver.example.com", "/");
    for _ in 0..2 {
        names.fail(true);
        assert_eq!(failure(post(&client, url.as_str(), PATIENT_MS).await).code, FailureCode::Dns);
        names.fail(false);
        assert_eq!(post(&client, url.as_str(), PATIENT_MS).await.result.unwrap().status, 200);
    }
    // NXDOMAIN, silence and rebinding: `whether_a_host_resolves_can_be_asked_before_a_url_is_stored`,
    // `a_name_server_that_is_silent_is_an_unresolved_name_in_bounded_time`,
    // `a_name_that_moves_to_a_forbidden_address_is_blocked_at_its_next_connection`.
}

// faults 8, 10, 11
#[test]
fn what_breaks_an_exchange_is_tried_again_and_counts_against_the_endpoint() {
    for name in ["axie-v1", "axissynapse-v1", "standard-v1"] {
        let profile = profile::find(name).unwrap();
        for code in [
            FailureCode::Timeout,
            FailureCode::Dns,
            FailureCode::Connect,
            FailureCode::TlsExpired,
            FailureCode::TlsNotYetValid,
            FailureCode::TlsWrongName,
            FailureCode::TlsUntrusted,
            FailureCode::TlsVersion,
            FailureCode::TlsTimeout,
            FailureCode::TlsReset,
            FailureCode::Tls,
            FailureCode::Headers,
            FailureCode::Body,
        ] {
            let failure = Failure { code, detail: String::new() };
            assert_eq!(profile.judge(&Err(failure)), Err(FailureClass::Hard), "{name} {code:?}");
        }
    }
}

const CREATE: &str =
    "mutation($input: CreateWebhookInput!) { createWebhook(input: $input) { webhook { id } userErrors { code } } }";
const PUBLISH: &str =
    "mutation { publishMessage(input: { type: \"user.created\", data: {} }) { message { id } userErrors { code } } }";
const ATTEMPTS: &str = "{ deliveries(first: 10) { nodes { status attemptCount } } }";

// fault 13
#[tokio::test(flavor = "multi_thread")]
async fn an_endpoint_that_breaks_off_behind_its_200_is_sent_the_same_message_again() {
    let receiver = Receiver::start().await;
    receiver.on_each("/hook", [Script::break_off(), Script::status(200)]);
    let server = Server::start_on(Kind::Sqlite, &receiver.ca_file()).await;
    let input = json!({ "url": receiver.url("/hook"), "eventFilters": ["user.created"], "enabled": true, "profile": "axie-v1" });
    assert_eq!(server.data(CREATE, json!({ "input": input })).await["createWebhook"]["userErrors"], json!([]));
    server.data(PUBLISH, Value::Null).await;
    let requests = receiver.wait_for(2).await;
    assert_eq!(requests[0].header("webhook-id"), requests[1].header("webhook-id"));
    assert_eq!(requests[0].body, requests[1].body);
    let succeeded = |data: &Value| data["deliveries"]["nodes"][0]["status"] == json!("SUCCEEDED");
    let listed = server.until(ATTEMPTS, Value::Null, succeeded).await;
    assert_eq!(listed["deliveries"]["nodes"][0]["attemptCount"], json!(2), "{listed}");
}
