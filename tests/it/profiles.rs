//! Profiles of the operator's own: a server with a folder of them, and what it refuses to start with.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use serde_json::{Value, json};

use crate::support::receiver::{Received, Receiver};
use crate::support::server::{Kind, Server, on_both};
use crate::verifiers::Delivery;

const CREATE: &str = "mutation($input: CreateWebhookInput!) { createWebhook(input: $input) {
    webhook { id profile } secret userErrors { code message path } } }";
const ROTATE: &str = "mutation($input: RotateWebhookSecretInput!) { rotateWebhookSecret(input: $input) {
    secret userErrors { code message path } } }";
const DELETE: &str = "mutation($input: DeleteWebhookInput!) { deleteWebhook(input: $input) { userErrors { code } } }";
const PUBLISH: &str = "mutation($input: PublishMessageInput!) { publishMessage(input: $input) {
    message { id } userErrors { code message path } } }";

struct Setting {
    receiver: Receiver,
    server: Server,
    profiles: PathBuf,
    /// Holds the profiles.
    _folder: tempfile::TempDir,
}

/// A server with the profiles of `examples/profiles`, in a folder of its own.
async fn setting(kind: Kind) -> Setting {
    let folder = tempfile::tempdir().unwrap();
    let profiles = folder.path().join("profiles");
    fs::create_dir(&profiles).unwrap();
    for entry in fs::read_dir(examples()).unwrap() {
        let file = entry.unwrap().path();
        fs::copy(&file, profiles.join(file.file_name().unwrap())).unwrap();
    }
    let receiver = Receiver::start().await;
    let more = format!("[profiles]\npath = \"{}\"\n", profiles.display());
    let server = Server::start_on_with(kind, &receiver.ca_file(), &more).await;
    Setting { receiver, server, profiles, _folder: folder }
}

fn examples() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("examples/profiles")
}

impl Setting {
    /// Creates a webhook and returns its id and secret.
    async fn webhook(&self, profile: &str, secret: Option<&str>) -> (String, String) {
        let input = json!({
            "url": self.receiver.url("/hook"), "eventFilters": ["**"], "enabled": true, "profile": profile,
            "secret": secret,
        });
        let created = &self.server.data(CREATE, json!({ "input": input })).await["createWebhook"];
        assert_eq!(created["userErrors"], json!([]));
        assert_eq!(created["webhook"]["profile"], json!(profile));
        (text(&created["webhook"]["id"]), text(&created["secret"]))
    }

    /// Publishes, and returns the message's id and what the receiver got as its request of that number.
    async fn deliver(&self, event_type: &str, data: Value, number: usize) -> (String, Received) {
        let input = json!({ "type": event_type, "data": data, "idempotencyKey": number.to_string() });
        let published = self.server.data(PUBLISH, json!({ "input": input })).await;
        assert_eq!(published["publishMessage"]["userErrors"], json!([]));
        let received = self.receiver.wait_for(number).await.remove(number - 1);
        (text(&published["publishMessage"]["message"]["id"]), received)
    }

    /// Runs the program on the server's configuration.
    fn tidings(&self, arguments: &[&str]) -> Output {
        let (command, more) = arguments.split_first().unwrap();
        let config = self.server.config();
        Command::new(env!("CARGO_BIN_EXE_tidings")).args([command, "--config"]).arg(config).args(more).output().unwrap()
    }

    /// What the program says when it is started again, with these arguments, and refuses.
    fn refusal(&self, arguments: &[&str]) -> String {
        let output = self.tidings(&[&["serve"], arguments].concat());
        assert_eq!(output.status.code(), Some(1), "{output:?}");
        assert!(output.stdout.is_empty(), "{output:?}");
        String::from_utf8(output.stderr).unwrap()
    }
}

fn text(value: &Value) -> String {
    value.as_str().unwrap_or_else(|| panic!("no text: {value}")).to_owned()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_receiver_with_stripes_library_verifies_what_the_example_profile_sends() {
    // C5, C7, C11
    let setting = setting(Kind::Sqlite).await;
    let (id, first) = setting.webhook("stripe-style-v1", None).await;
    let (message, received) = setting.deliver("user.created", json!({ "id": "in_1", "amount": 1250 }), 1).await;
    let body: Value = serde_json::from_slice(&received.body).unwrap();
    assert_eq!(body["id"], json!(message));
    assert_eq!((&body["object"], &body["type"]), (&json!("event"), &json!("user.created")));
    assert_eq!((&body["livemode"], body["created"].is_u64()), (&json!(true), true));
    assert_eq!(body["data"], json!({ "object": { "id": "in_1", "amount": 1250 } }));
    let with = |secret: &str, received: &Received| Delivery::received("stripe-style-v1", secret, received.clone());
    assert!(with(&first, &received).accepted());
    assert!(!with("whsec_another", &received).accepted());
    let changed =
        Received { body: String::from_utf8(received.body.clone()).unwrap().replace("1250", "1").into(), ..received };
    assert!(!with(&first, &changed).accepted());

    let rotated = setting.server.data(ROTATE, json!({ "input": { "webhookId": id } })).await;
    assert_eq!(rotated["rotateWebhookSecret"]["userErrors"], json!([]));
    let second = text(&rotated["rotateWebhookSecret"]["secret"]);
    let (_, received) = setting.deliver("user.created", json!({}), 2).await;
    assert_eq!(received.header("stripe-signature").unwrap().matches(",v1=").count(), 2);
    assert!(with(&first, &received).accepted() && with(&second, &received).accepted());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_receiver_with_githubs_library_verifies_what_the_example_profile_sends() {
    // C5, C7, C8, C10
    let setting = setting(Kind::Sqlite).await;
    let own = "It's a Secret to Everybody, and long.";
    let (_, secret) = setting.webhook("github-style-v1", Some(own)).await;
    assert_eq!(secret, own);
    let data = json!({ "action": "opened", "issue": { "number": 7 } });
    let (message, received) = setting.deliver("user.updated", data.clone(), 1).await;
    assert_eq!(serde_json::from_slice::<Value>(&received.body).unwrap(), data);
    assert_eq!(received.header("x-github-event"), Some("user.updated"));
    assert_eq!(received.header("x-github-delivery"), Some(message.as_str()));
    let with = |secret: &str| Delivery::received("github-style-v1", secret, received.clone());
    assert!(with(own).accepted());
    assert!(!with("Another secret, as long as the first.").accepted());
}

#[tokio::test(flavor = "multi_thread")]
async fn receivers_verify_ed25519_by_a_public_key_and_nobody_sees_the_private_one() {
    // C10, C11
    let setting = setting(Kind::Sqlite).await;
    let input = json!({
        "url": setting.receiver.url("/hook"), "eventFilters": ["**"], "enabled": true, "profile": "ed25519-style-v1",
    });
    let created = &setting.server.data(CREATE, json!({ "input": input })).await["createWebhook"];
    assert_eq!((&created["userErrors"], &created["secret"]), (&json!([]), &json!(null)));
    let id = text(&created["webhook"]["id"]);
    let query = "query($id: ID!) { webhook(id: $id) { secrets { publicKey }
        history(first: 1) { nodes { secrets { publicKey } } } } }";
    let keys = async |count: usize| {
        let all = |data: &Value| data["webhook"]["secrets"].as_array().is_some_and(|secrets| secrets.len() == count);
        let data = setting.server.until(query, json!({ "id": id }), all).await;
        assert_eq!(data["webhook"]["history"]["nodes"][0]["secrets"], data["webhook"]["secrets"]);
        text(&data["webhook"]["secrets"][0]["publicKey"])
    };
    let first = keys(1).await;
    let with = |key: &str, received: &Received| Delivery::received("ed25519-style-v1", key, received.clone());
    let (_, received) = setting.deliver("user.created", json!({ "n": 1 }), 1).await;
    assert!(with(&first, &received).accepted());

    let seed = format!("whsk_{}", "QUJDREVGR0hJSktMTU5PUFFSU1RVVldYWVphYmNkZWY=");
    let rotated = setting.server.data(ROTATE, json!({ "input": { "webhookId": id, "secret": seed } })).await;
    assert_eq!(rotated["rotateWebhookSecret"], json!({ "secret": null, "userErrors": [] }));
    let (_, received) = setting.deliver("user.created", json!({ "n": 2 }), 2).await;
    let second = keys(2).await;
    assert_ne!(first, second);
    assert!(with(&first, &received).accepted() && with(&second, &received).accepted());

    let shared = json!({ "input": { "webhookId": id, "secret": "0123456789abcdef & what the owner likes" } });
    let refused = setting.server.data(ROTATE, shared).await;
    assert_eq!(refused["rotateWebhookSecret"]["userErrors"][0]["code"], json!("WEBHOOK_SECRET_INVALID"));
}

#[tokio::test(flavor = "multi_thread")]
async fn the_api_lists_the_operators_profiles_behind_the_programs() {
    let setting = setting(Kind::Sqlite).await;
    let query = "{ profiles { name bodyFields signatureHeaders signatureAlgorithm maxAttempts } }";
    let data = setting.server.data(query, Value::Null).await;
    let names: Vec<_> = data["profiles"].as_array().unwrap().iter().map(|profile| text(&profile["name"])).collect();
    assert_eq!(
        names,
        ["axie-v1", "axissynapse-v1", "standard-v1", "ed25519-style-v1", "github-style-v1", "stripe-style-v1"]
    );
    assert_eq!(data["profiles"][3]["signatureAlgorithm"], json!("ED25519"));
    assert_eq!(data["profiles"][4]["bodyFields"], json!([]));
    assert_eq!(data["profiles"][5]["signatureHeaders"], json!(["Stripe-Signature"]));
    assert_eq!(data["profiles"][5]["maxAttempts"], json!(16));
}

async fn a_profile_never_changes_under_its_name_and_does_not_go_while_it_is_used(kind: Kind) {
    let mut setting = setting(kind).await;
    let (id, _) = setting.webhook("stripe-style-v1", None).await;
    setting.server.terminate();
    let stripe = setting.profiles.join("stripe-style-v1.json");
    let github = setting.profiles.join("github-style-v1.json");
    let written = fs::read_to_string(&stripe).unwrap();

    fs::write(&stripe, written.replace("20000,", "20001,")).unwrap();
    let said = setting.refusal(&[]);
    assert!(said.contains("stripe-style-v1.json: profile 'stripe-style-v1' is not what it was"), "{said}");

    fs::remove_file(&stripe).unwrap();
    fs::remove_file(&github).unwrap();
    let said = setting.refusal(&[]);
    let missing = format!("profile 'stripe-style-v1' is missing, and webhook {id} uses it");
    assert!(said.contains(&missing) && !said.contains("github"), "{said}");

    // Written otherwise, it says the same; and nobody uses the other one.
    let value: Value = serde_json::from_str(&written).unwrap();
    fs::write(setting.profiles.join("renamed.json"), value.to_string()).unwrap();
    setting.server.restart();
    let deleted = setting.server.data(DELETE, json!({ "input": { "webhookId": id } })).await;
    assert_eq!(deleted["deleteWebhook"]["userErrors"], json!([]));
    setting.server.terminate();
    fs::remove_file(setting.profiles.join("renamed.json")).unwrap();
    setting.server.restart();
    setting.server.terminate();
    // What the name stood for is remembered none the less.
    fs::write(&stripe, written.replace("20000,", "20001,")).unwrap();
    let said = setting.refusal(&[]);
    assert!(said.contains("'stripe-style-v1' is not what it was"), "{said}");

    let export = setting.server.folder().join("export.jsonl");
    let moved = format!("sqlite://{}", setting.server.folder().join("moved.db").display());
    for arguments in [["export"].as_slice(), &["import", "--database-url", &moved]] {
        let output = setting.tidings(&[arguments, &[export.to_str().unwrap()]].concat());
        assert!(output.status.success(), "{output:?}");
    }
    let said = setting.refusal(&["--database-url", &moved]);
    assert!(said.contains("'stripe-style-v1' is not what it was"), "{said}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_with_wrong_profiles_does_not_start_and_says_everything_that_is_wrong() {
    let folder = tempfile::tempdir().unwrap();
    let profiles = folder.path().join("profiles");
    fs::create_dir(&profiles).unwrap();
    let stripe = fs::read_to_string(examples().join("stripe-style-v1.json")).unwrap();
    fs::write(profiles.join("a.json"), stripe.replace("\"hex\"", "\"base32\"").replace("20000,", "0,")).unwrap();
    fs::write(profiles.join("b.json"), &stripe).unwrap();
    fs::write(profiles.join("c.json"), &stripe).unwrap();
    fs::write(profiles.join("d.json"), "{").unwrap();
    fs::write(profiles.join("notes.txt"), "no profile").unwrap();
    let start = |path: &Path| {
        let output = Command::new(env!("CARGO_BIN_EXE_tidings"))
            .current_dir(folder.path())
            .args(["serve", "--listen", "127.0.0.1:0"])
            .env("TIDINGS_PROFILES__PATH", path)
            .output()
            .unwrap();
        assert_eq!(output.status.code(), Some(1), "{output:?}");
        String::from_utf8(output.stderr).unwrap()
    };
    assert_eq!(
        start(Path::new("profiles")),
        "tidings: profiles.path: 4 problems in 'profiles':
  profiles/a.json: signatures[0].encoding: unknown variant `base32`, expected `hex` or `base64`
  profiles/a.json: timeout_ms: 0 is not within 100 and 120000
  profiles/c.json: name: 'stripe-style-v1' is the name of the profile in b.json too
  profiles/d.json: not JSON: EOF while parsing an object at line 1 column 1
"
    );
    assert!(!folder.path().join("tidings.db").exists());
    let said = start(Path::new("nowhere"));
    assert!(said.starts_with("tidings: profiles.path: 'nowhere' cannot be read: "), "{said}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_start_with_a_changed_profile_does_not_take_the_log_from_the_server_that_has_it() {
    let setting = setting(Kind::Postgres).await;
    setting.webhook("stripe-style-v1", None).await;
    let stripe = setting.profiles.join("stripe-style-v1.json");
    let written = fs::read_to_string(&stripe).unwrap();
    fs::write(&stripe, written.replace("20000,", "20001,")).unwrap();
    let read_models = setting.server.folder().join("other.read-models");
    let output = Command::new(env!("CARGO_BIN_EXE_tidings"))
        .args(["serve", "--config"])
        .arg(setting.server.config())
        .env("TIDINGS_PROJECTIONS__PATH", read_models)
        .output()
        .unwrap();
    let said = String::from_utf8(output.stderr).unwrap();
    assert!(said.contains("'stripe-style-v1' is not what it was"), "{said}");
    setting.deliver("user.created", json!({}), 1).await;
}

on_both!(a_profile_never_changes_under_its_name_and_does_not_go_while_it_is_used);
