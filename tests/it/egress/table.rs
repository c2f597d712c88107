//! The table of hostile and harmless URLs, through the gate that every URL passes.

use tidings::outbound::{Config, HttpClient, UrlRefusal};

const URLS: &str = include_str!("urls.txt");

/// The rules that a section of the table is judged under.
fn rules(section: &str) -> HttpClient {
    let text = |list: &[&str]| list.iter().map(|item| format!("\"{item}\"")).collect::<Vec<_>>().join(",");
    let config = |key: &str, list: &[&str]| format!("\"{key}\": [{}]", text(list));
    let (keys, listeners) = match section {
        "default" => (vec![], vec![]),
        "strict" => (
            vec![config("allow_hosts", &["hooks.example.com", "*.partner.example.com", "8.8.8.8", "10.0.0.1"])],
            vec![],
        ),
        "open" => (
            vec![
                config("allow_cidrs", &["127.0.0.0/8", "10.0.0.0/8"]),
                config("deny_cidrs", &["10.1.0.0/16", "1.1.1.0/24"]),
            ],
            vec!["0.0.0.0:8080".parse().unwrap(), "[::]:9090".parse().unwrap()],
        ),
        other => panic!("no rules are called '{other}'"),
    };
    let config: Config = serde_json::from_str(&format!("{{{}}}", keys.join(","))).unwrap();
    HttpClient::beside(&listeners, &config).unwrap()
}

fn unpictured(pictured: &str) -> String {
    [('␠', " "), ('␉', "\t"), ('␊', "\n"), ('␍', "\r"), ('␀', "\0"), ('¬', "\u{ad}"), ('∅', "\u{200b}")]
        .into_iter()
        .fold(pictured.to_owned(), |text, (picture, character)| text.replace(picture, character))
}

// A5, S4
#[tokio::test]
async fn every_url_of_the_table_has_its_verdict() {
    let mut client = rules("default");
    let (mut hostile, mut harmless, mut wrong) = (0, 0, vec![]);
    for line in URLS.lines().map(str::trim).filter(|line| !line.is_empty() && !line.starts_with('#')) {
        if let Some(section) = line.strip_prefix('[').and_then(|line| line.strip_suffix(']')) {
            client = rules(section);
            continue;
        }
        let (expected, pictured) = line.split_once(' ').expect("a verdict and a URL");
        let found = client.gate().check(&unpictured(pictured.trim())).map_or_else(UrlRefusal::reason, |_| "allowed");
        *(if expected == "allowed" { &mut harmless } else { &mut hostile }) += 1;
        if found != expected {
            wrong.push(format!("{pictured}: {found}, not {expected}"));
        }
    }
    assert_eq!(wrong, Vec::<String>::new());
    assert!(hostile >= 80 && harmless >= 20, "the table has {hostile} hostile URLs and {harmless} harmless ones");
}
