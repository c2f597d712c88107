//! Names and what they resolve to, redirects: through the client, against a real name server and endpoint.

use std::time::Duration;

use bytes::Bytes;
use tidings::domain::outcome::{FailureCode, Response};
use tidings::outbound::{Config, Fetch, HttpClient, Nat64, Request, Transport, UrlRefusal};

use crate::support::name_server::NameServer;
use crate::support::receiver::{Receiver, Script};

const NAME: &str = "receiver.example.com";

struct Setting {
    receiver: Receiver,
    names: NameServer,
    client: HttpClient,
}

/// Loopback's IPv4 half is open, so that what passes arrives somewhere. The endpoint closes after each answer, so that
/// each attempt asks again.
async fn setting(change: impl FnOnce(&mut Config)) -> Setting {
    let (receiver, names) = (Receiver::start().await, NameServer::start().await);
    receiver.on("/", Script::answer(200, "").header("connection", "close"));
    let mut config = Config {
        allow_cidrs: vec!["127.0.0.0/8".parse().unwrap()],
        extra_ca: vec![receiver.ca_file()],
        name_servers: vec![names.address()],
        ..Config::default()
    };
    change(&mut config);
    Setting { client: HttpClient::new(&config).unwrap(), receiver, names }
}

impl Setting {
    async fn post(&self) -> Result<Response, FailureCode> {
        let url = self.receiver.url_as(NAME, "/");
        let body = Bytes::from_static(b"{\"secret\":1}");
        let result = self.client.post(Request { url, headers: vec![], body, timeout_ms: 20_000 }).await.result;
        result.map_err(|failure| {
            let tells = ["127.", "10.", "169.254", "::", "64:ff9b"].iter().any(|part| failure.detail.contains(part));
            assert!(!tells, "the tenant is told an address: {}", failure.detail);
            failure.code
        })
    }

    /// What creation says, and what an attempt says.
    async fn verdicts(&self) -> (Result<(), UrlRefusal>, Result<u16, FailureCode>) {
        let gate = self.client.gate();
        let stored = gate.resolve(&gate.check(&self.receiver.url_as(NAME, "/")).unwrap()).await;
        (stored, self.post().await.map(|response| response.status))
    }
}

const FORBIDDEN: (Result<(), UrlRefusal>, Result<u16, FailureCode>) =
    (Err(UrlRefusal::AddressForbidden), Err(FailureCode::Blocked));
const UNRESOLVED: (Result<(), UrlRefusal>, Result<u16, FailureCode>) =
    (Err(UrlRefusal::HostUnresolved), Err(FailureCode::Dns));
const FINE: (Result<(), UrlRefusal>, Result<u16, FailureCode>) = (Ok(()), Ok(200));

#[tokio::test]
async fn every_answer_of_a_name_server_has_its_verdict() {
    let setting = setting(|_| ()).await;
    for (answers, verdicts) in [
        (&["127.0.0.1"][..], FINE),
        (&["::ffff:127.0.0.1"], FINE),
        (&[], UNRESOLVED),
        (&["10.0.0.1"], FORBIDDEN),
        (&["169.254.169.254"], FORBIDDEN),
        (&["0.0.0.0"], FORBIDDEN),
        (&["::1"], FORBIDDEN),
        (&["::"], FORBIDDEN),
        (&["::127.0.0.1"], FORBIDDEN),
        (&["::ffff:10.0.0.1"], FORBIDDEN),
        (&["::ffff:169.254.169.254"], FORBIDDEN),
        (&["64:ff9b::127.0.0.1"], FORBIDDEN),
        (&["64:ff9b::8.8.8.8"], FORBIDDEN),
        (&["2002:7f00:1::"], FORBIDDEN),
        (&["fe80::1"], FORBIDDEN),
        (&["fd00:ec2::254"], FORBIDDEN),
        (&["127.0.0.1", "10.0.0.1"], FORBIDDEN),
        (&["10.0.0.1", "127.0.0.1"], FORBIDDEN),
        (&["127.0.0.1", "::1"], FORBIDDEN),
        (&["127.0.0.1", "127.0.0.1", "127.0.0.1", "127.0.0.1", "127.0.0.1", "10.0.0.1"], FORBIDDEN),
    ] {
        setting.names.tell(NAME, answers);
        assert_eq!(setting.verdicts().await, verdicts, "{answers:?}");
    }
}

#[tokio::test]
async fn a_name_that_does_not_exist_fails_or_is_not_told_is_unresolved() {
    let setting = setting(|_| ()).await;
    assert_eq!(setting.verdicts().await, UNRESOLVED, "NXDOMAIN");
    setting.names.tell(NAME, &["127.0.0.1"]);
    setting.names.fail(true);
    assert_eq!(setting.verdicts().await, UNRESOLVED, "SERVFAIL");
    setting.names.fail(false);
    setting.names.hush(true);
    assert_eq!(setting.verdicts().await, UNRESOLVED, "silence");
    setting.names.hush(false);
    assert_eq!(setting.verdicts().await, FINE, "it is asked again");
}

#[tokio::test]
async fn another_name_behind_a_name_is_judged_by_its_addresses() {
    let setting = setting(|_| ()).await;
    setting.names.alias(NAME, "internal.example.net");
    setting.names.tell("internal.example.net", &["10.0.0.1"]);
    assert_eq!(setting.verdicts().await, FORBIDDEN);
    setting.names.tell("internal.example.net", &["127.0.0.1", "::1"]);
    assert_eq!(setting.verdicts().await, FORBIDDEN);
    setting.names.tell("internal.example.net", &["127.0.0.1"]);
    assert_eq!(setting.verdicts().await, FINE);
}

#[tokio::test]
async fn an_address_behind_nat64_is_judged_as_what_it_carries_where_the_operator_says_so() {
    let setting = setting(|config| config.nat64 = Nat64::Decode).await;
    let gate = setting.client.gate();
    let url = gate.check("https://receiver.example.com/").unwrap();
    for (answer, verdict) in [
        ("64:ff9b::8.8.8.8", Ok(())),
        ("64:ff9b::127.0.0.1", Ok(())),
        ("64:ff9b::10.0.0.1", Err(UrlRefusal::AddressForbidden)),
        ("64:ff9b::169.254.169.254", Err(UrlRefusal::AddressForbidden)),
        ("64:ff9b:1::8.8.8.8", Err(UrlRefusal::AddressForbidden)),
    ] {
        setting.names.tell(NAME, &[answer]);
        assert_eq!(gate.resolve(&url).await, verdict, "{answer}");
    }
    let literal = gate.check("https://[64:ff9b::8.8.8.8]/").map(drop);
    assert_eq!(literal, Err(UrlRefusal::AddressForbidden), "in a URL it has no place");
}

#[tokio::test]
async fn a_name_that_moves_between_two_attempts_is_judged_each_time() {
    let setting = setting(|_| ()).await;
    for (answer, verdict) in [("127.0.0.1", Ok(200)), ("10.0.0.1", Err(FailureCode::Blocked)), ("127.0.0.1", Ok(200))] {
        setting.names.tell(NAME, &[answer]);
        assert_eq!(setting.post().await.map(|response| response.status), verdict, "{answer}");
    }
    assert_eq!(setting.receiver.requests().len(), 2);
}

#[tokio::test]
async fn a_name_never_leads_to_where_the_process_listens_itself() {
    let (receiver, names) = (Receiver::start().await, NameServer::start().await);
    let config = Config {
        allow_cidrs: vec!["127.0.0.0/8".parse().unwrap()],
        extra_ca: vec![receiver.ca_file()],
        name_servers: vec![names.address()],
        ..Config::default()
    };
    names.tell(NAME, &["127.0.0.1"]);
    let url = receiver.url_as(NAME, "/");
    let port = url.split(':').nth(2).unwrap().trim_end_matches('/').parse::<u16>().unwrap();
    for (own, code) in [([0, 0, 0, 0], Err(FailureCode::Blocked)), ([127, 0, 0, 1], Err(FailureCode::Blocked))] {
        let client = HttpClient::beside(&[(own, port).into()], &config).unwrap();
        for url in [url.clone(), receiver.url("/")] {
            let body = Bytes::from_static(b"{}");
            let exchange = client.post(Request { url, headers: vec![], body, timeout_ms: 20_000 }).await;
            assert_eq!(exchange.result.map(|_| ()).map_err(|failure| failure.code), code, "{own:?}");
        }
    }
    assert_eq!(receiver.connections(), 0);
    let other = HttpClient::beside(&[([0, 0, 0, 0], port ^ 1).into()], &config).unwrap();
    let request = Request { url, headers: vec![], body: Bytes::new(), timeout_ms: 20_000 };
    assert_eq!(other.post(request).await.result.unwrap().status, 200, "another port is somebody else's");
}

#[tokio::test]
async fn a_document_that_the_operator_names_is_fetched_past_the_same_gates() {
    let setting = setting(|_| ()).await;
    let url = setting.receiver.url_as(NAME, "/");
    for (answer, fetched) in [("127.0.0.1", true), ("10.0.0.1", false), ("::1", false), ("127.0.0.1", true)] {
        setting.names.tell(NAME, &[answer]);
        assert_eq!(setting.client.get(&url, 1_024).await.is_ok(), fetched, "{answer}");
    }
    assert_eq!(setting.receiver.requests().len(), 2);
}

#[tokio::test]
async fn only_listed_hosts_are_reached_where_any_is_listed() {
    let setting = setting(|config| config.allow_hosts = vec!["*.example.com".to_owned().try_into().unwrap()]).await;
    setting.names.tell(NAME, &["127.0.0.1"]);
    assert_eq!(setting.verdicts().await, FINE);
    setting.names.tell(NAME, &["10.0.0.1"]);
    assert_eq!(setting.verdicts().await, FORBIDDEN, "a listed name opens no address");
    let body = Bytes::new();
    for url in [setting.receiver.url("/"), setting.receiver.url_as("other.example.net", "/")] {
        let request = Request { url, headers: vec![], body: body.clone(), timeout_ms: 20_000 };
        assert_eq!(setting.client.post(request).await.result.unwrap_err().code, FailureCode::Blocked);
    }
}

// A30
#[tokio::test]
async fn a_redirect_into_the_inside_is_an_answer_and_nothing_is_sent_there() {
    let setting = setting(|_| ()).await;
    setting.names.tell(NAME, &["127.0.0.1"]);
    let inside = Receiver::start().await;
    let targets = [inside.url("/inside"), "https://169.254.169.254/latest/".to_owned(), "http://127.0.0.1/".to_owned()];
    for status in [301, 302, 303, 307, 308] {
        for target in &targets {
            let redirect = Script::status(status).header("location", target.as_str()).after(Duration::ZERO);
            setting.receiver.on("/", redirect.header("connection", "close"));
            assert_eq!(setting.post().await.map(|response| response.status), Ok(status), "{target}");
        }
    }
    assert_eq!(inside.connections(), 0, "neither the request nor its body went on");
    assert_eq!(setting.receiver.requests().len(), 15, "and each was made once");
}
