//! The playground in a real browser, Debian's Chromium, on the program itself. `playground/test` has what the browser does.

use std::path::Path;
use std::process::Stdio;

use crate::support::receiver::Receiver;
use crate::support::server::Server;

#[tokio::test(flavor = "multi_thread")]
async fn somebody_new_finds_the_way_in_a_browser_that_asks_nobody_else() {
    let built = Path::new(env!("CARGO_MANIFEST_DIR")).join("playground/dist/index.html.gz");
    assert!(built.exists(), "the playground is not built: run scripts/build-playground");
    let receiver = Receiver::start().await;
    let server = Server::start(&receiver.ca_file());
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("playground/test/journey.mjs");
    let journey = tokio::process::Command::new("node")
        .arg(script)
        .args([server.url("/"), server.key.clone(), receiver.url("/hook")])
        .stdin(Stdio::null())
        .kill_on_drop(true)
        .output()
        .await
        .unwrap();
    assert!(journey.status.success(), "{}\n{}", String::from_utf8_lossy(&journey.stderr), server.stderr());
    // The first test, and a message at least.
    receiver.wait_for(2).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_playground_is_kept_as_long_as_it_is_the_same_and_can_be_switched_off() {
    let receiver = Receiver::start().await;
    let server = Server::start(&receiver.ca_file());
    let get = async |path: &str| server.client().get(server.url(path)).send().await.unwrap();
    let page = get("/").await;
    assert_eq!(page.url().path(), "/playground/");
    assert_eq!(page.headers()["cache-control"], "no-cache");
    let policy = page.headers()["content-security-policy"].to_str().unwrap();
    assert!(policy.contains("script-src 'self';") && policy.contains("frame-ancestors 'none'"), "{policy}");
    let assets = Path::new(env!("CARGO_MANIFEST_DIR")).join("playground/dist/assets");
    for file in std::fs::read_dir(assets).unwrap() {
        let name = file.unwrap().file_name().into_string().unwrap();
        let asset = get(&format!("/playground/assets/{}", name.strip_suffix(".gz").unwrap())).await;
        assert_eq!(asset.status().as_u16(), 200, "{name}");
        assert_eq!(asset.headers()["cache-control"], "public, max-age=31536000, immutable");
        assert_eq!(asset.headers()["content-encoding"], "gzip");
        assert_ne!(asset.headers()["content-type"], "application/octet-stream", "{name}");
    }
    drop(server);
    let mut server = Server::start(&receiver.ca_file());
    server.restart_serving("playground = false");
    for path in ["/", "/playground", "/playground/"] {
        assert_eq!(server.client().get(server.url(path)).send().await.unwrap().status().as_u16(), 404, "{path}");
    }
}
