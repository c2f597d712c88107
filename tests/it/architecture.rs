//! The order of modules, and where frameworks may be used: `src/lib.rs` lists the modules in reading order, and each
//! imports only what stands before it.
//!
//! The check reads text, not syntax: comments and strings are blanked first, then paths are looked for.

use std::fs;
use std::path::{Path, PathBuf};

/// Frameworks by the name of their crate, and the modules that are their home.
const HOMES: &[(&str, &[&str])] = &[
    ("sqlx", &["key_store", "event_store", "projections"]),
    ("reqwest", &["outbound"]),
    ("hickory_resolver", &["outbound"]),
    ("ractor", &["actors"]),
    ("async_graphql", &["graphql"]),
    ("axum", &["http"]),
    ("clap", &["cli"]),
    ("figment", &["config"]),
    ("rcgen", &["cli"]),
    ("lettre", &["notices"]),
];

/// What has no place in the domain, which is pure.
const IMPURE: &[&str] = &[
    "tokio",
    "std::time::SystemTime",
    "std::time::Instant",
    "SystemTime::now",
    "Instant::now",
    "OffsetDateTime::now_utc",
    "std::fs",
    "std::env",
    "std::thread",
    "std::process",
    "std::net::TcpStream",
    "std::net::TcpListener",
    "std::net::UdpSocket",
    "async fn",
    "async move",
    ".await",
];

const MAX_LINES: usize = 600;

/// A source file: its path below the root, with `/` between the parts, and its text.
struct Source {
    path: String,
    text: String,
}

/// Every rule that the sources break, as `file:line: rule`.
fn violations(sources: &[Source]) -> Vec<String> {
    let text_of = |path: &str| sources.iter().find(|source| source.path == path).map_or("", |source| &source.text);
    let modules = listed_modules(text_of("src/lib.rs"));
    let domain_modules = listed_modules(text_of("src/domain/mod.rs"));
    let mut found = Vec::new();
    for source in sources {
        if source.text.lines().count() > MAX_LINES {
            found.push(format!("{}:{}: a file has {MAX_LINES} lines at most", source.path, MAX_LINES + 1));
        }
        let Some(inside) = source.path.strip_prefix("src/") else { continue };
        let module = first_part(inside);
        for (number, line) in code_lines(&source.text) {
            let mut report = |rule: String| found.push(format!("{}:{number}: {rule}", source.path));
            check_order(module, &modules, "crate::", &line, &mut report);
            check_homes(module, &line, &mut report);
            if module == "domain" {
                check_purity(&line, &mut report);
            }
        }
        if let Some(inside) = inside.strip_prefix("domain/") {
            check_domain_order(source, inside, &domain_modules, &mut found);
        }
    }
    found
}

/// `super::` means the domain in its own files, and one level more in the folders below.
fn check_domain_order(source: &Source, inside: &str, modules: &[String], found: &mut Vec<String>) {
    let module = first_part(inside);
    // Tests in files of their own belong to the module they test.
    let module = modules.iter().filter(|known| module.starts_with(known.as_str())).max_by_key(|known| known.len());
    let Some(module) = module else { return };
    let depth = inside.matches('/').count() - usize::from(inside.ends_with("/mod.rs"));
    let up = "super::".repeat(depth + 1);
    for (number, line) in code_lines(&source.text) {
        let mut report = |rule: String| found.push(format!("{}:{number}: {rule}", source.path));
        check_order(module, modules, "crate::domain::", &line, &mut report);
        if !line.contains(&format!("super::{up}")) {
            check_order(module, modules, &up, &line, &mut report);
        }
    }
}

fn check_order(module: &str, modules: &[String], prefix: &str, line: &str, report: &mut impl FnMut(String)) {
    let place = |name: &str| modules.iter().position(|known| known == name);
    for name in paths_behind(prefix, line) {
        match (place(module), place(&name)) {
            (Some(own), Some(other)) if other > own => {
                report(format!("'{module}' may not use '{prefix}{name}', which is listed after it"));
            }
            (Some(_), Some(_)) | (None, _) | (_, None) => {}
        }
    }
}

fn check_homes(module: &str, line: &str, report: &mut impl FnMut(String)) {
    for (framework, homes) in HOMES {
        let used = ["::", ";", " as "].iter().any(|after| contains_word(line, framework, after));
        if used && !homes.contains(&module) {
            report(format!("'{framework}' is at home in {homes:?}, not in '{module}'"));
        }
    }
}

fn check_purity(line: &str, report: &mut impl FnMut(String)) {
    for impure in IMPURE {
        let used = match *impure {
            "tokio" => contains_word(line, "tokio", "::"),
            _ => line.contains(impure),
        };
        if used {
            report(format!("'domain' is pure and has no '{impure}'"));
        }
    }
}

/// Whether `word`, followed by `after`, stands in the line as a word of its own and not behind another path.
fn contains_word(line: &str, word: &str, after: &str) -> bool {
    let is_part = |c: char| c.is_alphanumeric() || c == '_';
    let wanted = format!("{word}{after}");
    line.match_indices(&wanted).any(|(at, _)| !line[..at].trim_end_matches("::").ends_with(is_part))
}

/// Names that stand directly behind the prefix, in braces too: `crate::{a::B, c}` gives `a` and `c`.
fn paths_behind(prefix: &str, line: &str) -> Vec<String> {
    let mut names = Vec::new();
    for (at, _) in line.match_indices(prefix) {
        if line[..at].ends_with(|c: char| c.is_alphanumeric() || c == '_' || c == ':') {
            continue;
        }
        let rest = &line[at + prefix.len()..];
        match rest.strip_prefix('{') {
            None => names.push(first_name(rest)),
            Some(list) => names.extend(parts_of_list(list)),
        }
    }
    names.retain(|name| !name.is_empty());
    names
}

/// The first names of a brace list's parts, up to its closing brace.
fn parts_of_list(list: &str) -> Vec<String> {
    let (mut depth, mut part, mut parts) = (0_i32, String::new(), Vec::new());
    for c in list.chars() {
        match c {
            '{' => depth += 1,
            '}' if depth == 0 => break,
            '}' => depth -= 1,
            ',' if depth == 0 => parts.push(std::mem::take(&mut part)),
            _ if depth == 0 => part.push(c),
            _ => {}
        }
    }
    parts.push(part);
    parts.iter().map(|part| first_name(part.trim_start())).collect()
}

fn first_name(text: &str) -> String {
    text.chars().take_while(|c| c.is_alphanumeric() || *c == '_').collect()
}

/// `domain/json/mod.rs` and `domain.rs` both belong to `domain`.
fn first_part(path: &str) -> &str {
    path.split('/').next().unwrap_or(path).trim_end_matches(".rs")
}

fn listed_modules(text: &str) -> Vec<String> {
    code_lines(text)
        .filter_map(|(_, line)| {
            let line = line.trim().trim_start_matches("pub ").trim_start_matches("pub(crate) ");
            Some(line.strip_prefix("mod ")?.strip_suffix(';')?.to_owned())
        })
        .collect()
}

/// Statements with the number of the line they begin in, without comments and the insides of strings. A `use` over
/// several lines is one, so that its braces stay together.
fn code_lines(text: &str) -> impl Iterator<Item = (usize, String)> {
    let code = without_comments_and_strings(text);
    let mut lines: Vec<(usize, String)> = Vec::new();
    let mut open_use = false;
    for (index, line) in code.lines().enumerate() {
        match lines.last_mut() {
            Some((_, statement)) if open_use => statement.push_str(line.trim()),
            Some(_) | None => lines.push((index + 1, line.to_owned())),
        }
        let (_, statement) = lines.last().expect("one was just pushed");
        let begins_use = ["use ", "pub use ", "pub(super) use ", "pub(crate) use "];
        open_use = begins_use.iter().any(|begin| statement.trim_start().starts_with(begin)) && !statement.contains(';');
    }
    lines.into_iter()
}

fn without_comments_and_strings(text: &str) -> String {
    let mut code = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(c) = rest.chars().next() {
        let skipped = if rest.starts_with("//") {
            rest.find('\n').unwrap_or(rest.len())
        } else if rest.starts_with("/*") {
            rest.find("*/").map_or(rest.len(), |end| end + 2)
        } else if let Some(length) = raw_string(rest, code.chars().last()) {
            length
        } else if c == '"' {
            string(rest)
        } else {
            code.push(c);
            rest = &rest[c.len_utf8()..];
            // The one character literal that looks like the beginning of a string.
            if c == '\'' && rest.starts_with("\"'") {
                rest = &rest[2..];
            }
            continue;
        };
        // Lines keep their numbers.
        code.extend(rest[..skipped].chars().filter(|c| *c == '\n'));
        rest = &rest[skipped..];
    }
    code
}

/// Length of the string that the text begins with.
fn string(text: &str) -> usize {
    let mut escaped = false;
    for (at, c) in text.char_indices().skip(1) {
        match c {
            _ if escaped => escaped = false,
            '\\' => escaped = true,
            '"' => return at + 1,
            _ => {}
        }
    }
    text.len()
}

/// Length of the raw string that the text begins with, if it does.
fn raw_string(text: &str, before: Option<char>) -> Option<usize> {
    if before.is_some_and(|c| c.is_alphanumeric() && c != 'b' || c == '_') {
        return None;
    }
    let hashes = text.strip_prefix('r')?.chars().take_while(|c| *c == '#').count();
    let content = text[1 + hashes..].strip_prefix('"')?;
    let end = format!("\"{}", "#".repeat(hashes));
    Some(content.find(&end).map_or(text.len(), |at| 2 + hashes + at + end.len()))
}

fn read_sources(root: &Path) -> Vec<Source> {
    let mut folders = vec![root.join("src"), root.join("tests")];
    let mut sources = Vec::new();
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(&folder).unwrap() {
            let path: PathBuf = entry.unwrap().path();
            if path.is_dir() {
                folders.push(path);
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                let inside = path.strip_prefix(root).unwrap().to_str().unwrap().replace('\\', "/");
                sources.push(Source { path: inside, text: fs::read_to_string(&path).unwrap() });
            }
        }
    }
    sources.sort_by(|one, other| one.path.cmp(&other.path));
    sources
}

#[test]
fn every_module_uses_only_what_is_listed_before_it_and_every_framework_stays_at_home() {
    let sources = read_sources(Path::new(env!("CARGO_MANIFEST_DIR")));
    assert!(sources.len() > 50, "only {} files were found", sources.len());
    let found = violations(&sources);
    assert!(found.is_empty(), "\n{}", found.join("\n"));
}

#[test]
fn the_lists_of_modules_are_read() {
    let sources = read_sources(Path::new(env!("CARGO_MANIFEST_DIR")));
    let text = |path: &str| &sources.iter().find(|source| source.path == path).unwrap().text;
    let modules = listed_modules(text("src/lib.rs"));
    assert_eq!((modules[0].as_str(), modules.last().unwrap().as_str()), ("error_code", "cli"));
    assert_eq!(listed_modules(text("src/domain/mod.rs")).last().unwrap(), "ledger");
}

/// What is wrong with one file beside a small house of `domain`, `outbound` and `http`.
fn found_in(path: &str, text: &str) -> Vec<String> {
    let file = |path: &str, text: &str| Source { path: path.into(), text: text.into() };
    violations(&[
        file("src/lib.rs", "//! The house.\npub mod domain;\npub mod outbound;\npub mod http;\n"),
        file("src/domain/mod.rs", "pub mod id;\npub mod secret;\npub mod subscription;\n"),
        file(path, text),
    ])
}

#[test]
fn a_module_that_looks_ahead_is_found() {
    let rule = "'outbound' may not use 'crate::http', which is listed after it";
    assert_eq!(
        found_in("src/outbound/url.rs", "\nuse crate::http::Page;\n"),
        [format!("src/outbound/url.rs:2: {rule}")]
    );
    assert_eq!(found_in("src/outbound.rs", "fn f() -> crate::http::Page {}"), [format!("src/outbound.rs:1: {rule}")]);
    let braces = "use crate::{\n    domain::id::{DeliveryId, TenantId},\n    http,\n};\n";
    assert_eq!(found_in("src/outbound/a/b.rs", braces), [format!("src/outbound/a/b.rs:1: {rule}")]);
    assert_eq!(found_in("src/http/mod.rs", "use crate::{domain::id, outbound::Gate};"), [""; 0]);
    assert_eq!(found_in("src/outbound/mod.rs", "use crate::outbound::url;\nuse crate::domain::id;"), [""; 0]);
}

#[test]
fn the_domain_has_an_order_of_its_own() {
    let rule = |prefix: &str| format!("'secret' may not use '{prefix}subscription', which is listed after it");
    let found = found_in("src/domain/secret.rs", "use super::subscription::Settings;");
    assert_eq!(found, [format!("src/domain/secret.rs:1: {}", rule("super::"))]);
    let found = found_in("src/domain/secret/mod.rs", "use super::subscription::Settings;");
    assert_eq!(found, [format!("src/domain/secret/mod.rs:1: {}", rule("super::"))]);
    let found = found_in("src/domain/secret/form.rs", "use super::super::subscription::Settings;");
    assert_eq!(found, [format!("src/domain/secret/form.rs:1: {}", rule("super::super::"))]);
    let found = found_in("src/domain/secret.rs", "use crate::domain::{id, subscription};");
    assert_eq!(found, [format!("src/domain/secret.rs:1: {}", rule("crate::domain::"))]);
    assert_eq!(found_in("src/domain/subscription.rs", "use super::secret::Secret;\nuse super::id;"), [""; 0]);
    assert_eq!(found_in("src/domain/secret/form.rs", "use super::subscription;"), [""; 0], "a sibling below 'secret'");
}

#[test]
fn a_framework_that_leaves_its_home_is_found() {
    for line in
        ["use axum::Router;", "use ::axum as web;", "    axum::serve(listener);", "#[axum::debug_handler]", "use axum;"]
    {
        let found = found_in("src/outbound/mod.rs", line);
        assert_eq!(found, [r#"src/outbound/mod.rs:1: 'axum' is at home in ["http"], not in 'outbound'"#], "{line}");
        assert_eq!(found_in("src/http/mod.rs", line), [""; 0]);
    }
    for line in ["use my_axum::Router;", "// axum::serve", "let text = \"axum::serve\";", "let axum_like = 1;"] {
        assert_eq!(found_in("src/outbound/mod.rs", line), [""; 0], "{line}");
    }
}

#[test]
fn a_domain_that_does_more_than_decide_is_found() {
    for (line, impure) in [
        ("use tokio::sync::mpsc;", "tokio"),
        ("use std::time::SystemTime;", "std::time::SystemTime"),
        ("let text = std::fs::read(path);", "std::fs"),
        ("pub async fn load() {}", "async fn"),
        ("use std::net::TcpStream;", "std::net::TcpStream"),
    ] {
        let found = found_in("src/domain/id.rs", line);
        assert_eq!(found, [format!("src/domain/id.rs:1: 'domain' is pure and has no '{impure}'")]);
        assert_eq!(found_in("src/outbound/mod.rs", line), [""; 0]);
    }
    assert_eq!(found_in("src/domain/id.rs", "use std::net::IpAddr;\nuse std::time::Duration;"), [""; 0]);
}

#[test]
fn a_file_that_is_too_long_is_found() {
    assert_eq!(found_in("src/http/mod.rs", &"\n".repeat(600)), [""; 0]);
    let found = found_in("tests/it/http.rs", &"\n".repeat(601));
    assert_eq!(found, ["tests/it/http.rs:601: a file has 600 lines at most"]);
}

#[test]
fn comments_and_strings_are_no_code() {
    let text = "/* crate::http */ \"crate::http \\\" crate::http\" r#\"\ncrate::http \" \"# '\"' // crate::http\nreal";
    let code = without_comments_and_strings(text);
    assert!(!code.contains("crate"), "{code}");
    assert_eq!(code.lines().count(), text.lines().count());
    assert!(code.ends_with("real"));
}
