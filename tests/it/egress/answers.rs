//! Endpoints that answer with what is made to cost much, under the program itself: its memory, what it keeps, and what it
//! calls each of them.

use std::io::{Read, Write};
use std::path::Path;
use std::time::Duration;

use flate2::Compression;
use flate2::write::GzEncoder;
use serde_json::{Value, json};

use crate::support::receiver::{Receiver, Script};
use crate::support::server::Server;

const CREATE: &str = "mutation($input: CreateWebhookInput!) { createWebhook(input: $input) {
    webhook { id } userErrors { code message } } }";
const PUBLISH: &str =
    "mutation { publishMessage(input: { type: \"user.created\", data: {} }) { message { id } userErrors { code } } }";
const ENDED: &str = "{ deliveries(filter: { statuses: [SUCCEEDED, FAILED] }, first: 100) { nodes { id } } }";
const ATTEMPTS: &str = "query($id: ID!) { deliveries(filter: { webhookId: $id }, first: 100) { nodes {
    status attempts(first: 5) { nodes { outcome statusCode responsePreview responseTruncated } } } } }";

const BOMB_BYTES: u64 = 200 * 1024 * 1024;

/// What becomes 200 MB where it is unpacked.
fn gzip_bomb() -> Vec<u8> {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::best());
    std::io::copy(&mut std::io::repeat(0).take(BOMB_BYTES), &mut encoder).unwrap();
    encoder.flush().unwrap();
    encoder.finish().unwrap()
}

/// A profile under which an endpoint has a second, twice, and no circuit trips.
fn impatient(folder: &Path) {
    let standard = Path::new(env!("CARGO_MANIFEST_DIR")).join("schema/profiles/standard-v1.json");
    let mut profile: Value = serde_json::from_str(&std::fs::read_to_string(standard).unwrap()).unwrap();
    profile["name"] = json!("impatient-v1");
    profile["timeout_ms"] = json!(1_000);
    profile["retry"] = json!({ "list": { "delays_ms": [100] } });
    profile.as_object_mut().unwrap().remove("breaker");
    std::fs::write(folder.join("impatient-v1.json"), profile.to_string()).unwrap();
}

/// What each path does, and what an attempt is called there with its status.
fn scripts() -> [(&'static str, Script, &'static str, Value); 8] {
    let bomb = gzip_bomb();
    assert!(bomb.len() < 256 * 1024, "{} bytes", bomb.len());
    let second = Duration::from_secs(1);
    let headers = (0..10_000).fold(Script::status(200), |script, n| script.header(format!("x-{n}"), "y"));
    let packed = |status, bomb: Vec<u8>| Script::answer(status, bomb).header("content-encoding", "gzip");
    [
        ("/bomb", packed(200, bomb.clone()), "SUCCEEDED", json!(200)),
        ("/refusing-bomb", packed(500, bomb), "BAD_STATUS", json!(500)),
        ("/endless", Script::endless(), "SUCCEEDED", json!(200)),
        ("/gibibyte", Script::gibibyte(), "SUCCEEDED", json!(200)),
        ("/headers", headers, "HEADERS_TOO_LARGE", Value::Null),
        (
            "/line",
            Script::raw([b"HTTP/1.1 200 OK\r\nx: ".as_slice(), &[b'y'; 1 << 20]].concat()),
            "HEADERS_TOO_LARGE",
            Value::Null,
        ),
        ("/slow-head", Script::drip_head(second), "TIMEOUT", Value::Null),
        ("/slow-body", Script::drip(second), "TIMEOUT", Value::Null),
    ]
}

// faults 8, 9
#[tokio::test(flavor = "multi_thread")]
async fn answers_made_to_cost_much_cost_a_server_little_and_each_has_its_code() {
    let receiver = Receiver::start().await;
    let folder = tempfile::tempdir().unwrap();
    impatient(folder.path());
    let more = format!("[profiles]\npath = \"{}\"\n", folder.path().display());
    let server = Server::start_with(&receiver.ca_file(), &more);
    let mut webhooks = vec![];
    for (path, script, outcome, status) in scripts() {
        receiver.on(path, script);
        let input = json!({
            "url": receiver.url(path), "eventFilters": ["**"], "enabled": true, "profile": "impatient-v1",
        });
        let mut created = server.data(CREATE, json!({ "input": input })).await["createWebhook"].take();
        assert_eq!(created["userErrors"], json!([]), "{path}");
        webhooks.push((created["webhook"]["id"].take(), path, outcome, status));
    }
    let mut before = 0;
    for round in 1..=8 {
        server.data(PUBLISH, Value::Null).await;
        let expected = round * webhooks.len();
        server
            .until(ENDED, Value::Null, |data| data["deliveries"]["nodes"].as_array().unwrap().len() == expected)
            .await;
        // The first answers of each kind make what is kept for later ones.
        if round == 2 {
            before = server.resident_kib();
        }
    }
    let grown = server.resident_kib().saturating_sub(before);
    assert!(grown < 16 * 1024, "{grown} KiB more");

    for (id, path, outcome, status) in webhooks {
        let listed = server.data(ATTEMPTS, json!({ "id": id })).await;
        let deliveries = listed["deliveries"]["nodes"].as_array().unwrap();
        assert_eq!(deliveries.len(), 8, "{path}");
        for attempt in deliveries.iter().flat_map(|delivery| delivery["attempts"]["nodes"].as_array().unwrap()) {
            assert_eq!((&attempt["outcome"], &attempt["statusCode"]), (&json!(outcome), &status), "{path} {attempt}");
            let preview = attempt["responsePreview"].as_str().unwrap_or_default();
            assert!(preview.len() <= 1_024, "{path}: {} bytes are kept", preview.len());
            assert_eq!(attempt["responseTruncated"], json!(!status.is_null()), "{path}");
        }
    }
}
