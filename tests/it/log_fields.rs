//! What log lines may tell: only fields that are known, so that a secret, a header, a payload or a full URL cannot come in
//! by a new one unseen. What a line says in its sentence, the canary test looks at.

use std::path::Path;

/// Ids, numbers, and words of our own.
const KNOWN: &[&str] = &[
    "address",
    "bucket",
    "delivery.id",
    "duration_ms",
    "erasure.id",
    "error",
    "failures",
    "issuer",
    "job",
    "keys",
    "lag.events",
    "messages",
    "method",
    "path",
    "position",
    "projection",
    "pruned",
    "reason",
    "region",
    "request.id",
    "rest_ms",
    "rows",
    "sealed",
    "shard",
    "status",
    "stream.id",
    "subscription.id",
    "tenant.id",
    "why",
];

/// Macros that write lines or begin spans.
const MACROS: &[&str] =
    &["error", "warn", "info", "debug", "trace", "info_span", "debug_span", "error_span", "warn_span", "trace_span"];

/// The names of the fields of every line and span in a source.
fn fields(text: &str) -> Vec<String> {
    let mut found = vec![];
    for name in MACROS {
        for (at, call) in text.match_indices(&format!("{name}!(")) {
            if text[..at].ends_with(|c: char| c.is_alphanumeric() || c == '_') {
                continue;
            }
            let arguments = &text[at + call.len()..];
            // A span has its name first, a line its sentence last.
            let fields = match name.ends_with("_span") {
                true => arguments.split_once('"').and_then(|(_, rest)| rest.split_once('"')).unwrap().1,
                false => arguments.split('"').next().unwrap(),
            };
            let end = if name.ends_with("_span") { fields.find(");").unwrap() } else { fields.len() };
            let names = fields[..end].split(',').map(|field| field.split('=').next().unwrap().trim());
            let names = names.map(|name| name.trim_start_matches(['%', '?'])).filter(|name| !name.is_empty());
            found.extend(names.map(str::to_owned));
        }
    }
    found
}

fn look_into(folder: &Path, unknown: &mut Vec<String>, count: &mut usize) {
    for path in std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()) {
        if path.is_dir() {
            look_into(&path, unknown, count);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            let fields = fields(&std::fs::read_to_string(&path).unwrap());
            *count += fields.len();
            let strange = fields.into_iter().filter(|name| !KNOWN.contains(&name.as_str()));
            unknown.extend(strange.map(|name| format!("{}: {name}", path.display())));
        }
    }
}

#[test]
fn log_lines_have_known_fields_alone() {
    let (mut unknown, mut count) = (vec![], 0);
    look_into(&Path::new(env!("CARGO_MANIFEST_DIR")).join("src"), &mut unknown, &mut count);
    assert!(unknown.is_empty(), "fields that nobody has allowed: {unknown:#?}");
    assert!(count > 40, "{count}");
}

#[test]
fn a_new_field_is_seen() {
    let text =
        "tracing::warn!(delivery.id = %id, %url, secret, \"no\"); tracing::info_span!(\"request\", body = ?bytes);";
    assert_eq!(fields(text), ["delivery.id", "url", "secret", "body"]);
}
