//! `tidings user`: from the command line to a session.

use std::process::{Command, Output};

use serde_json::json;
use tidings::authentication::totp;
use tidings::clock::{Clock, SystemClock};
use tidings::domain::secret::Secret;

use crate::support::receiver::Receiver;
use crate::support::server::Server;

pub(crate) fn user(server: &Server, arguments: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_tidings"));
    command.arg("user").args(arguments).arg("--config").arg(server.config());
    command.output().unwrap()
}

/// What stands behind `label` in the output of a command that succeeded.
pub(crate) fn shown(output: &Output, label: &str) -> String {
    assert!(output.status.success(), "{output:?}");
    let text = String::from_utf8(output.stdout.clone()).unwrap();
    text.lines().find_map(|line| line.strip_prefix(label)).unwrap_or_else(|| panic!("{text}")).to_owned()
}

pub(crate) fn code(uri: &str) -> String {
    let secret = uri.split_once("secret=").unwrap().1.split('&').next().unwrap();
    totp::code_at(&Secret::stored(secret.into()), SystemClock.now().as_seconds() as u64).unwrap()
}

async fn login(server: &Server, password: &str, totp: &str) -> u16 {
    let body = json!({ "username": "ada", "password": password, "totp": totp }).to_string();
    let request = server.client().post(server.url("/session")).header("content-type", "application/json").body(body);
    request.send().await.unwrap().status().as_u16()
}

#[tokio::test(flavor = "multi_thread")]
async fn somebody_is_added_logs_in_is_reset_and_disabled() {
    let receiver = Receiver::start().await;
    let mut server = Server::start(&receiver.ca_file());
    let beside = user(&server, &["add", "ada"]);
    assert!(!beside.status.success(), "a server has the store: {beside:?}");
    assert_eq!(server.terminate(), Some(0));

    let added = user(&server, &["add", "ada"]);
    let (password, uri) = (shown(&added, "password (shown once): "), shown(&added, "authenticator (shown once): "));
    assert!(uri.starts_with("otpauth://totp/Tidings:ada?secret="), "{uri}");
    assert!(!user(&server, &["add", "ada"]).status.success(), "the name is taken");
    assert!(!user(&server, &["add", "eve", "--tenant", "nobody"]).status.success());
    server.restart();
    assert_eq!(login(&server, &password, &code(&uri)).await, 200);
    assert_eq!(server.terminate(), Some(0));

    let reset = user(&server, &["reset", "ada"]);
    let (new, uri) = (shown(&reset, "password (shown once): "), shown(&reset, "authenticator (shown once): "));
    server.restart();
    assert_eq!(login(&server, &password, &code(&uri)).await, 401);
    assert_eq!(login(&server, &new, &code(&uri)).await, 200);
    assert_eq!(server.terminate(), Some(0));

    assert!(user(&server, &["disable", "ada"]).status.success());
    server.restart();
    assert_eq!(login(&server, &new, &code(&uri)).await, 401);
}
