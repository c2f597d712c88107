//! `tidings export` and `tidings import`.

use serde_json::json;

use super::{Lived, publish};
use crate::event_store::postgres::database::Fresh;
use crate::support::receiver::Script;
use crate::support::server::Kind;

/// Exports beside the server, imports elsewhere, and goes on there.
async fn moves(mut lived: Lived, url: &str) -> Lived {
    lived.says(&["export", "export.jsonl"]);
    assert_eq!(lived.server.terminate(), Some(0));
    lived.server.move_to(url);
    let said = lived.says(&["import", "export.jsonl"]);
    assert!(said.contains("imported") && said.contains("the operator's key"), "{said}");
    let again = lived.tidings(&["import", "export.jsonl"]);
    assert!(String::from_utf8(again.stderr).unwrap().contains("the store is not empty"));
    let said = lived.says(&["verify", "--log-only"]);
    assert!(said.contains("no difference"), "{said}");
    lived.server.restart();
    lived
}

/// What was owed arrives, and nothing that had arrived comes again.
async fn goes_on(lived: &mut Lived) {
    let before = lived.arrivals("/takes");
    let refused = lived.arrivals("/refuses");
    lived.receiver.on("/refuses", Script::status(200));
    let pending = "{ deliveries(filter: { statuses: [PENDING] }) { nodes { id } } }";
    lived.server.until(pending, json!({}), |data| data["deliveries"]["nodes"] == json!([])).await;
    assert_eq!(lived.arrivals("/refuses"), refused.iter().map(|count| count + 1).collect::<Vec<_>>());
    assert_eq!(lived.arrivals("/takes"), before);
    let again = publish(&lived.server, 3).await;
    assert_eq!((&again["duplicate"], &again["message"]["id"]), (&json!(true), &json!(lived.messages[3])));
    let said = lived.says(&["verify"]);
    assert!(said.contains("no difference"), "{said}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_store_moves_from_sqlite_to_sqlite() {
    let lived = Lived::start().await;
    let url = format!("sqlite://{}", lived.server.folder().join("moved.db").display());
    goes_on(&mut moves(lived, &url).await).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_store_moves_from_sqlite_to_postgres_and_back() {
    let database = Fresh::empty().await;
    let lived = moves(Lived::start().await, database.url.as_str()).await;
    std::fs::remove_file(lived.server.folder().join("export.jsonl")).unwrap();
    let url = format!("sqlite://{}", lived.server.folder().join("back.db").display());
    goes_on(&mut moves(lived, &url).await).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_store_that_was_born_in_postgres_is_whole() {
    let mut lived = Lived::start_on(Kind::Postgres).await;
    let said = lived.says(&["verify"]);
    assert!(said.contains("no difference"), "{said}");
    goes_on(&mut lived).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_export_that_was_cut_or_changed_makes_no_store() {
    let lived = Lived::start().await;
    let folder = lived.server.folder();
    let file = folder.join("export.jsonl");
    let said = lived.says(&["export", file.to_str().unwrap()]);
    assert!(said.contains("take the operator's key along"), "{said}");
    assert!(!lived.tidings(&["export", file.to_str().unwrap()]).status.success(), "an existing file was overwritten");
    let text = std::fs::read_to_string(&file).unwrap();
    let cut = &text[..text.trim_end().rfind('\n').unwrap() + 1];
    let halved = &text[..text.len() / 2];
    let changed = text.replace("user.created", "user.deleted");
    for (index, (text, said)) in [
        (cut, "it was cut off"),
        (halved, "it was cut off"),
        (&changed, "it was changed or damaged"),
        ("{}\n", "this is no export"),
    ]
    .into_iter()
    .enumerate()
    {
        std::fs::write(folder.join("broken.jsonl"), text).unwrap();
        let url = format!("sqlite://{}/broken-{index}.db", folder.display());
        let output = lived.tidings(&["import", "broken.jsonl", "--database-url", &url]);
        let complaint = String::from_utf8(output.stderr).unwrap();
        assert!(!output.status.success() && complaint.contains(said), "{said}: {complaint}");
        let output = lived.tidings(&["serve", "--database-url", &url]);
        let complaint = String::from_utf8(output.stderr).unwrap();
        assert!(!output.status.success() && complaint.contains("import"), "{complaint}");
    }
}
