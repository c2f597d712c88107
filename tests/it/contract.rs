//! The API as a contract, before the tools that others judge such contracts with: on the program itself what it answers, on
//! `schema/` what is written there. `tests/verifiers/` runs the tools; `scripts/install-verifiers` brings them.

use std::path::Path;
use std::process::Output;

use serde_json::{Value, json};
use tidings::domain::catalogue;
use tokio::process::Command;

use crate::support::receiver::Receiver;
use crate::support::server::Server;
use crate::verifiers::installed;

const CREATE: &str = "mutation($input: CreateWebhookInput!) { createWebhook(input: $input) { webhook { id } } }";
const PUBLISH: &str = "mutation { publishMessage(input: { type: \"user.created\", data: {} }) { message { id } } }";

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// A script of `tests/verifiers` in Node.
fn node(script: &str) -> Command {
    installed("node_modules", "package-lock.json");
    let mut command = Command::new("node");
    command.arg(script).current_dir(root().join("tests/verifiers")).kill_on_drop(true);
    command
}

/// A script of `tests/verifiers` in Python.
fn python(script: &str) -> Command {
    let mut command = Command::new(installed(".venv", "requirements.txt").join("bin/python"));
    command.arg(script).current_dir(root().join("tests/verifiers")).kill_on_drop(true);
    command
}

/// Each line of the script's answer; it must end well.
async fn lines(mut script: Command) -> Vec<Value> {
    let Output { status, stdout, stderr } = script.output().await.unwrap();
    let (answer, said) = (String::from_utf8(stdout).unwrap(), String::from_utf8_lossy(&stderr));
    assert!(status.success(), "{said}\n{answer}");
    answer.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn all_audits_of_graphql_over_http_pass() {
    let receiver = Receiver::start().await;
    let server = Server::start(&receiver.ca_file());
    let mut audits = node("audits.mjs");
    audits.arg(server.url("/graphql")).env("TOKEN", &server.key);
    let audits = lines(audits).await;
    let failed: Vec<_> = audits.iter().filter(|audit| audit["status"] != json!("ok")).collect();
    assert!(failed.is_empty(), "{failed:?}");
    assert_eq!(audits.len(), 61);
}

#[tokio::test(flavor = "multi_thread")]
async fn two_linters_have_nothing_to_say_about_the_schema() {
    let mut linters = node("lint.mjs");
    linters.arg(root().join("schema/schema.graphql"));
    assert_eq!(lines(linters).await, Vec::<Value>::new());

    // They do look: a list of things without a page or an id is found by both.
    let folder = tempfile::tempdir().unwrap();
    let schema = folder.path().join("schema.graphql");
    std::fs::write(&schema, "type Query { things: ThingConnection! }\ntype ThingConnection { nodes: [String!]! }")
        .unwrap();
    let mut linters = node("lint.mjs");
    linters.arg(schema);
    let complaints = lines(linters).await;
    for (linter, rule) in [
        ("graphql-eslint", "@graphql-eslint/require-nullable-result-in-root"),
        ("graphql-eslint", "@graphql-eslint/relay-connection-types"),
        ("graphql-eslint", "@graphql-eslint/relay-arguments"),
        ("graphql-eslint", "@graphql-eslint/require-description"),
        ("graphql-schema-linter", "relay-connection-types-spec"),
        ("graphql-schema-linter", "fields-have-descriptions"),
    ] {
        let found = |complaint: &&Value| complaint["linter"] == json!(linter) && complaint["rule"] == json!(rule);
        assert!(complaints.iter().any(|complaint| found(&complaint)), "{rule} in {complaints:?}");
    }
}

/// What clients of the released schema would miss in the next one.
async fn missed(next: &Path) -> Vec<Value> {
    let mut inspector = node("breaking.mjs");
    inspector.arg(root().join("schema/released.graphql")).arg(next);
    lines(inspector).await
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_that_was_released_is_missed_by_its_clients() {
    assert_eq!(missed(&root().join("schema/schema.graphql")).await, Vec::<Value>::new());
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_taken_away_from_clients_is_found() {
    let released = std::fs::read_to_string(root().join("schema/released.graphql")).unwrap();
    let folder = tempfile::tempdir().unwrap();
    let next = folder.path().join("next.graphql");
    for (from, to, path) in [
        ("  \"Where it sends.\"\n  url: String!\n", "", "Webhook.url"),
        ("  rateLimitPerSecond: Int\n", "  rateLimitPerSecond: Int!\n", "CreateWebhookInput.rateLimitPerSecond"),
        (
            "  \"The webhook that it is about; null if it is about no one webhook.\"\n  webhook: Webhook\n",
            "",
            "Alert.webhook",
        ),
        ("  \"Nearly all recent attempts succeeded.\"\n  HEALTHY\n", "", "WebhookHealth.HEALTHY"),
    ] {
        assert!(released.contains(from), "not in the schema: {from}");
        std::fs::write(&next, released.replace(from, to)).unwrap();
        let found = missed(&next).await;
        assert!(found.iter().any(|change| change["path"] == json!(path)), "{path} in {found:?}");
    }
    // What is added, or only deprecated, is no harm.
    let added = "  \"Where it sends.\"\n  url: String! @deprecated(reason: \"old\")\n  \"New.\"\n  more: String\n";
    std::fs::write(&next, released.replace("  \"Where it sends.\"\n  url: String!\n", added)).unwrap();
    assert_eq!(missed(&next).await, Vec::<Value>::new());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_typescript_client_of_every_operation_compiles_strictly() {
    let operations = root().join("docs/operations");
    let written = std::fs::read_dir(&operations).unwrap();
    let written = written.filter(|file| file.as_ref().unwrap().path().extension().is_some_and(|ext| ext == "graphql"));
    let folder = tempfile::tempdir().unwrap();
    let mut codegen = node("codegen.mjs");
    codegen.arg(root().join("schema/schema.graphql")).arg(operations).arg("usage.ts").arg(folder.path());
    assert_eq!(lines(codegen).await, [json!({ "documents": written.count(), "complaints": [] })]);
}

#[tokio::test(flavor = "multi_thread")]
async fn random_documents_get_data_or_user_errors() {
    let receiver = Receiver::start().await;
    let server = Server::start(&receiver.ca_file());
    let input = json!({ "url": receiver.url("/hook"), "eventFilters": ["**"], "enabled": true });
    let webhook = server.data(CREATE, json!({ "input": input })).await["createWebhook"]["webhook"]["id"].take();
    let message = server.data(PUBLISH, Value::Null).await;
    let query = "{ viewer { tenant { id } } deliveries { nodes { id } } }";
    let known = server.until(query, Value::Null, |data| data["deliveries"]["nodes"][0].is_object()).await;
    let known = json!({
        "ids": [webhook, message["publishMessage"]["message"]["id"], known["deliveries"]["nodes"][0]["id"],
            known["viewer"]["tenant"]["id"]],
        "texts": ["user.created", "user.*", "**", receiver.url("/hook"), "standard-v1"],
    });
    let mut fuzzer = python("fuzz_graphql.py");
    fuzzer.arg(server.url("/graphql")).arg(known.to_string()).env("TOKEN", &server.key);
    let seen = lines(fuzzer).await;
    println!("{seen:?}");
    let count = |kind: &str| seen[0][kind].as_u64().unwrap();
    // Enough of it got through to what the fields do.
    assert!(count("fields") > 50 && count("cases") >= 12 * count("fields") - 100, "{seen:?}");
    assert!(count("queries answered") > 200 && count("mutations done") > 40, "{seen:?}");
    let faults = server.stderr().lines().filter(|line| line.contains("ERROR") || line.contains("panicked")).count();
    assert_eq!(faults, 0, "{}", server.stderr());
}

#[tokio::test(flavor = "multi_thread")]
async fn random_requests_are_answered_as_the_openapi_document_says() {
    let receiver = Receiver::start().await;
    let server = Server::start(&receiver.ca_file());
    let tenant = server.data("{ viewer { tenant { id } } }", Value::Null).await["viewer"]["tenant"]["id"].take();
    let mut fuzzer = python("fuzz_messages.py");
    fuzzer.arg(server.url("")).arg(tenant.as_str().unwrap()).env("TOKEN", &server.key);
    let event_types = catalogue::builtin().iter().map(|known| known.name.as_str());
    fuzzer.args(event_types.filter(|name| *name != "webhook.test"));
    let Output { status, stdout, stderr } = fuzzer.output().await.unwrap();
    let said = String::from_utf8_lossy(&stdout);
    assert!(status.success(), "{said}\n{}\n{}", String::from_utf8_lossy(&stderr), server.stderr());
    assert_eq!(said.matches("No issues found").count(), 5, "{said}");
}
