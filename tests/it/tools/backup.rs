//! `tidings backup`, and what a restored store does.

use std::path::PathBuf;
use std::process::Command;

use serde_json::json;

use super::{Lived, publish};
use crate::event_store::postgres::database::Fresh;
use crate::support::receiver::Script;
use crate::support::server::Kind;
use crate::support::stored_log::messages_in_postgres;

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

/// A program of PostgreSQL; Debian keeps those of each version in a folder of their own. Dump and restore must not be
/// older than the server.
fn postgres_program(name: &str) -> Command {
    let version = |folder: &PathBuf| folder.file_name().and_then(|name| name.to_str()?.parse::<u32>().ok());
    let folders = std::fs::read_dir("/usr/lib/postgresql").into_iter().flatten().flatten();
    let newest = folders.map(|entry| entry.path()).max_by_key(version);
    let program = newest.map(|folder| folder.join("bin").join(name)).filter(|program| program.exists());
    Command::new(program.unwrap_or_else(|| name.into()))
}

fn succeeds(command: &mut Command) {
    let output = command.output().unwrap();
    assert!(output.status.success(), "{command:?}: {output:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_dump_of_postgresql_made_while_serving_is_whole_and_delivers_what_was_owed() {
    let mut lived = Lived::start_on(Kind::Postgres).await;
    let dump = lived.server.folder().join("tidings.dump");
    let busy = async {
        let mut published = vec![];
        for n in 1_000..1_100 {
            published.push(publish(&lived.server, n).await["message"]["id"].as_str().unwrap().to_owned());
        }
        published
    };
    let dumping = async {
        let mut pg_dump = postgres_program("pg_dump");
        succeeds(pg_dump.arg("--format=custom").arg("--file").arg(&dump).arg(lived.server.database_url()));
    };
    let (published, ()) = tokio::join!(busy, dumping);
    assert_eq!(lived.server.terminate(), Some(0));

    let restored = Fresh::empty().await;
    succeeds(postgres_program("pg_restore").arg("--dbname").arg(restored.url.as_str()).arg(&dump));
    let said = lived.says(&["verify", "--log-only", "--database-url", restored.url.as_str()]);
    assert!(said.contains("no difference"), "{said}");
    // What was acknowledged before the dump is in it, and of what came during it a first part.
    let stored = messages_in_postgres(restored.url.as_str()).await;
    let (before, during) = stored.split_at(lived.messages.len());
    assert_eq!(before, lived.messages);
    assert_eq!(during, &published[..during.len()]);

    lived.receiver.on("/refuses", Script::status(200));
    lived.server.move_to(restored.url.as_str());
    lived.server.restart();
    let pending = "{ deliveries(filter: { statuses: [PENDING] }) { nodes { id } } }";
    lived.server.until(pending, json!({}), |data| data["deliveries"]["nodes"] == json!([])).await;
    assert!(lived.arrivals("/refuses").iter().all(|count| *count >= 2), "{:?}", lived.arrivals("/refuses"));
    let said = lived.says(&["verify"]);
    assert!(said.contains("no difference"), "{said}");
    assert_eq!(lived.server.terminate(), Some(0));
}
