//! `tidings user`: from the command line to a session.

use std::process::{Command, Output};

use serde_json::json;
use tidings::authentication::totp;
use tidings::clock::{Clock, SystemClock};
use tidings::domain::secret::Secret;

use crate::support::receiver::Receiver;
use crate::support::server::{Kind, Server, on_both};

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

async fn post(server: &Server, cookie: &str, query: &str) -> (u16, serde_json::Value) {
    let request = server.client().post(server.url("/graphql")).header("content-type", "application/json");
    let request = request.header("cookie", cookie).header("origin", server.url(""));
    let answer = request.body(json!({ "query": query }).to_string()).send().await.unwrap();
    (answer.status().as_u16(), serde_json::from_slice(&answer.bytes().await.unwrap()).unwrap())
}

async fn cookie(server: &Server, name: &str, output: &Output) -> String {
    let (password, uri) = (shown(output, "password (shown once): "), shown(output, "authenticator (shown once): "));
    let body = json!({ "username": name, "password": password, "totp": code(&uri) }).to_string();
    let request = server.client().post(server.url("/session")).header("content-type", "application/json").body(body);
    let answer = request.send().await.unwrap();
    assert_eq!(answer.status().as_u16(), 200);
    answer.headers()["set-cookie"].to_str().unwrap().split(';').next().unwrap().to_owned()
}

async fn a_login_outlives_restarts_until_it_is_ended(kind: Kind) {
    let receiver = Receiver::start().await;
    let mut server = Server::start_on(kind, &receiver.ca_file()).await;
    assert_eq!(server.terminate(), Some(0));
    let added = ["ada", "bob", "eve"].map(|name| (name, user(&server, &["add", name])));
    server.restart();
    let mut cookies = vec![];
    for (name, output) in &added {
        cookies.push(cookie(&server, name, output).await);
    }
    let viewer = "{ viewer { name authenticatedAt expiresAt stepUpValidUntil } }";
    let before = post(&server, &cookies[0], viewer).await;
    assert_eq!((before.0, &before.1["data"]["viewer"]["name"]), (200, &json!("ada")));
    let without_cost = |(status, answer): (u16, serde_json::Value)| (status, answer["data"].clone());
    server.kill();
    server.restart();
    // Who they are, and since when, as before.
    assert_eq!(without_cost(post(&server, &cookies[0], viewer).await), without_cost(before));
    assert_eq!(server.terminate(), Some(0));
    server.restart();
    let logout = server.client().delete(server.url("/session")).header("cookie", &cookies[1]);
    assert_eq!(logout.header("origin", server.url("")).send().await.unwrap().status().as_u16(), 204);
    let disable = "mutation { disableUser(input: { username: \"eve\" }) { disabledUserId userErrors { code } } }";
    assert_eq!(server.data(disable, json!({})).await["disableUser"]["userErrors"], json!([]));
    let statuses = async |server: &Server| {
        let mut statuses = vec![];
        for cookie in &cookies {
            statuses.push(post(server, cookie, viewer).await.0);
        }
        statuses
    };
    assert_eq!(statuses(&server).await, [200, 401, 401]);
    server.kill();
    server.restart();
    assert_eq!(statuses(&server).await, [200, 401, 401]);
    // A reset ends what is open, although nobody logged out.
    assert_eq!(server.terminate(), Some(0));
    shown(&user(&server, &["reset", "ada"]), "password (shown once): ");
    server.restart();
    assert_eq!(statuses(&server).await, [401, 401, 401]);
}

on_both!(a_login_outlives_restarts_until_it_is_ended);
