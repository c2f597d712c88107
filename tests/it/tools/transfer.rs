//! `tidings export` and `tidings import`.

use super::Lived;

#[tokio::test(flavor = "multi_thread")]
async fn an_export_that_was_cut_or_changed_makes_no_store() {
    let lived = Lived::start().await;
    let folder = lived.server.folder();
    let file = folder.join("export.jsonl");
    let said = lived.says(&["export", file.to_str().unwrap()]);
    assert!(said.contains("take the key file"), "{said}");
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
