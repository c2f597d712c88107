//! `tidings backup`, and what a restored store does.

use serde_json::json;

use super::{Lived, publish};
use crate::support::receiver::Script;

#[tokio::test(flavor = "multi_thread")]
async fn a_copy_made_while_serving_is_whole_and_delivers_what_was_owed() {
    let mut lived = Lived::start().await;
    let copy = lived.server.folder().join("copy.db");
    let busy = async {
        for n in 1_000..1_100 {
            publish(&lived.server, n).await;
        }
    };
    let copying = async {
        let said = lived.says(&["backup", copy.to_str().unwrap()]);
        assert!(said.contains("the key file") && said.contains("is not part of it"), "{said}");
    };
    tokio::join!(busy, copying);
    let again = lived.tidings(&["backup", copy.to_str().unwrap()]);
    assert!(!again.status.success(), "an existing file was overwritten");
    assert_eq!(lived.server.terminate(), Some(0));

    // Restored in the place of the log; the read models are those of the newer one.
    let log = lived.server.folder().join("log.db");
    for suffix in ["-wal", "-shm"] {
        let mut beside = log.clone().into_os_string();
        beside.push(suffix);
        drop(std::fs::remove_file(beside));
    }
    std::fs::copy(&copy, &log).unwrap();
    let said = lived.says(&["verify", "--log-only"]);
    assert!(said.contains("no difference"), "{said}");

    lived.receiver.on("/refuses", Script::status(200));
    lived.server.restart();
    let pending = "{ deliveries(filter: { statuses: [PENDING] }) { nodes { id } } }";
    lived.server.until(pending, json!({}), |data| data["deliveries"]["nodes"] == json!([])).await;
    assert!(lived.arrivals("/refuses").iter().all(|count| *count >= 2), "{:?}", lived.arrivals("/refuses"));
    let said = lived.says(&["verify"]);
    assert!(said.contains("no difference"), "{said}");
}
