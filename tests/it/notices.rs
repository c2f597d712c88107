//! Notices by e-mail, to a mail server that is not ours (aiosmtpd, `tests/verifiers/mail.py`): they come, whatever happened
//! meanwhile, and nothing waits for them (A12, C19).

use std::net::TcpListener;
use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use serde_json::{Value, json};
use tokio::io::{AsyncBufReadExt, BufReader, Lines};
use tokio::process::{Child, ChildStdout, Command};
use tokio::time::timeout;

use crate::support::certificates::signed_pem;
use crate::support::receiver::Receiver;
use crate::support::server::{Kind, Server, on_both};

const CREATE: &str = "mutation($input: CreateWebhookInput!) { createWebhook(input: $input) {
    webhook { id version notificationEmails deliveryProfile { notices } } userErrors { code message path } } }";
const UPDATE: &str = "mutation($input: UpdateWebhookInput!) { updateWebhook(input: $input) {
    webhook { id version notificationEmails } userErrors { code path } } }";
const SEEN: &str = "query($id: ID!) { webhook(id: $id) { notificationEmails
    history { nodes { version notificationEmailCount changes { field to } } } } auditLog { nodes { code changes } } }";
/// Far longer than a mail takes.
const LIMIT: Duration = Duration::from_secs(60);

/// The mail server, while it is up.
struct MailServer {
    _process: Child,
    lines: Lines<BufReader<ChildStdout>>,
}

impl MailServer {
    async fn start(port: u16, tls: &[&Path]) -> Self {
        let verifiers = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/verifiers");
        let mut command = Command::new(verifiers.join(".venv/bin/python"));
        command.arg(verifiers.join("mail.py")).arg(port.to_string()).args(tls);
        let spawned = command.stdout(Stdio::piped()).kill_on_drop(true).spawn();
        let mut process = spawned.expect("scripts/install-verifiers has been run");
        let lines = BufReader::new(process.stdout.take().unwrap()).lines();
        let mut server = Self { _process: process, lines };
        assert_eq!(server.line().await, "ready");
        server
    }

    async fn line(&mut self) -> String {
        timeout(LIMIT, self.lines.next_line()).await.expect("it says something").unwrap().expect("it runs")
    }

    async fn mail(&mut self) -> Value {
        serde_json::from_str(&self.line().await).unwrap()
    }
}

/// One that nobody listens on.
fn free_port() -> u16 {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}

fn configured(url: &str, more: &str) -> String {
    format!("[metrics]\nlisten = \"127.0.0.1:0\"\n[mail]\nurl = \"{url}\"\nfrom = \"tidings@example.org\"\n{more}\n")
}

async fn create(server: &Server, receiver: &Receiver, emails: Value) -> Value {
    let input = json!({ "url": receiver.url("/hook?token=hunter2"), "eventFilters": ["user.created"],
        "profile": "axie-v1", "notificationEmails": emails });
    server.data(CREATE, json!({ "input": input })).await["createWebhook"].take()
}

/// The value of a header.
fn header<'a>(mail: &'a Value, name: &str) -> &'a str {
    let mut lines = mail["text"].as_str().unwrap().lines();
    lines.find_map(|line| line.strip_prefix(name)?.strip_prefix(": ")).unwrap()
}

async fn a_mail_comes_although_the_mail_server_was_down_and_the_process_was_killed(kind: Kind) {
    // A12
    let receiver = Receiver::start().await;
    let port = free_port();
    let more = configured(&format!("smtp://127.0.0.1:{port}?tls=none"), "");
    let mut server = Server::start_on_with(kind, &receiver.ca_file(), &more).await;
    // Nobody takes mails, and the write is done.
    let created = create(&server, &receiver, json!(["ops@example.com", "dev@example.com"])).await;
    assert_eq!(created["userErrors"], json!([]));
    assert_eq!(created["webhook"]["notificationEmails"], json!(["ops@example.com", "dev@example.com"]));
    let second = create(&server, &receiver, json!(["ops@example.com"])).await;
    server.kill();
    server.restart();
    let mut mails = MailServer::start(port, &[]).await;
    let received = [mails.mail().await, mails.mail().await, mails.mail().await];
    let about = |webhook: &Value| {
        let id = webhook["webhook"]["id"].as_str().unwrap().to_owned();
        received.iter().filter(move |mail| mail["text"].as_str().unwrap().contains(&id))
    };
    assert_eq!((about(&created).count(), about(&second).count()), (2, 1));
    let mut told: Vec<_> = about(&created).map(|mail| mail["to"][0].as_str().unwrap()).collect();
    told.sort_unstable();
    assert_eq!(told, ["dev@example.com", "ops@example.com"]);
    for mail in &received {
        assert_eq!(mail["from"], "tidings@example.org");
        assert_eq!(header(mail, "Subject"), format!("A webhook to {} was created", host(&receiver)));
        assert!(header(mail, "Message-ID").ends_with("@example.org>"));
        assert!(!mail["text"].as_str().unwrap().contains("hunter2"));
    }
    // One event, one Message-ID.
    let ids: Vec<_> = about(&created).map(|mail| header(mail, "Message-ID")).collect();
    assert_eq!(ids[0], ids[1]);
    // Log lines know no address.
    assert!(!server.stderr().contains("example.com"), "{}", server.stderr());
}

fn host(receiver: &Receiver) -> String {
    receiver.url("/hook").split('/').nth(2).unwrap().to_owned()
}

#[tokio::test(flavor = "multi_thread")]
async fn mails_go_by_tls_and_a_login_and_what_is_refused_for_good_is_given_up() {
    // A12
    let receiver = Receiver::start().await;
    let folder = tempfile::tempdir().unwrap();
    let (certificate, key) = (folder.path().join("certificate.pem"), folder.path().join("key.pem"));
    let (certificate_pem, key_pem) = signed_pem(&["127.0.0.1"]);
    std::fs::write(&certificate, certificate_pem).unwrap();
    std::fs::write(&key, key_pem).unwrap();
    let port = free_port();
    let mut mails = MailServer::start(port, &[&certificate, &key]).await;
    let url = format!("smtp://tidings%40example.org:p%3Aw%2F%40@127.0.0.1:{port}");
    let ca_file = format!("ca_file = \"{}\"", receiver.ca_file().display());
    let server = Server::start_with(&receiver.ca_file(), &configured(&url, &ca_file));
    create(&server, &receiver, json!(["gone@example.com", "ops@example.com"])).await;
    let mail = mails.mail().await;
    assert_eq!((&mail["to"], &mail["tls"], &mail["login"]), (&json!(["ops@example.com"]), &json!(true), &json!(true)));
    let told = async {
        loop {
            let text = server.client().get(&server.metrics).send().await.unwrap().text().await.unwrap();
            let says = |line: &str| text.lines().any(|one| one == line);
            if says("tidings_notices_total{outcome=\"sent\"} 1")
                && says("tidings_notices_total{outcome=\"refused\"} 1")
                && says("tidings_notices_waiting 0")
            {
                return;
            }
            tokio::task::yield_now().await;
        }
    };
    timeout(LIMIT, told).await.expect("the numbers say it");
    let said = server.stderr();
    assert!(said.contains("refused for good") && !said.contains("example.com"), "{said}");
}

async fn what_is_no_address_is_told_by_its_place(kind: Kind) {
    // A12
    let receiver = Receiver::start().await;
    let server = Server::start_on(kind, &receiver.ca_file()).await;
    let created = create(&server, &receiver, json!(["ops@example.com"])).await;
    assert_eq!(created["webhook"]["deliveryProfile"]["notices"][0], "CREATED");
    let id = &created["webhook"]["id"];
    let update = async |more: Value| {
        let mut input = json!({ "webhookId": id });
        more.as_object().unwrap().iter().for_each(|(key, value)| input[key] = value.clone());
        server.data(UPDATE, json!({ "input": input })).await["updateWebhook"].take()
    };
    let six: Vec<_> = (0..6).map(|n| format!("ops{n}@example.com")).collect();
    for (emails, path) in [
        (
            json!(["ops@example.com", "ops@example.com\r\nBcc: x@example.com"]),
            json!(["input", "notificationEmails", "1"]),
        ),
        (json!(["ops@example.com", "OPS@example.com"]), json!(["input", "notificationEmails", "1"])),
        (json!(six), json!(["input", "notificationEmails"])),
    ] {
        for answer in
            [create(&server, &receiver, emails.clone()).await, update(json!({ "notificationEmails": emails })).await]
        {
            let errors = answer["userErrors"].as_array().unwrap();
            assert_eq!(errors.len(), 1, "{errors:?}");
            assert_eq!((&errors[0]["code"], &errors[0]["path"]), (&json!("NOTIFICATION_EMAIL_INVALID"), &path));
        }
    }
    // Absent: as before. The same once more: no version.
    let kept = update(json!({ "description": "kept" })).await;
    assert_eq!(kept["webhook"]["notificationEmails"], json!(["ops@example.com"]));
    let same = update(json!({ "notificationEmails": ["ops@example.com"] })).await;
    assert_eq!(
        (&same["webhook"]["version"], &same["webhook"]["notificationEmails"]),
        (&json!(2), &json!(["ops@example.com"]))
    );
    let none = update(json!({ "notificationEmails": [] })).await;
    assert_eq!((&none["webhook"]["version"], &none["webhook"]["notificationEmails"]), (&json!(3), &json!([])));
    // What is remembered of them names nobody.
    let seen =
        server.until(SEEN, json!({ "id": id }), |seen| seen["auditLog"]["nodes"].to_string().contains("null")).await;
    let versions = seen["webhook"]["history"]["nodes"].as_array().unwrap();
    assert!(versions.iter().any(|version| version["notificationEmailCount"] == 1));
    assert!(seen["auditLog"].to_string().contains("notification_emails"));
    assert!(!seen.to_string().contains("example.com"), "{seen}");
}

on_both!(
    a_mail_comes_although_the_mail_server_was_down_and_the_process_was_killed,
    what_is_no_address_is_told_by_its_place
);
