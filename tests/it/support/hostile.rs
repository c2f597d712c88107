//! Requests that are made to cost much: what each of them is answered, and what they are made of.

use serde_json::{Value, json};

/// One of them.
pub(crate) struct Hostile {
    /// What it is.
    pub(crate) name: &'static str,
    /// The document.
    pub(crate) query: String,
    /// Its variables.
    pub(crate) variables: Value,
    /// The code of the first error.
    pub(crate) code: &'static str,
}

fn bomb(levels: usize, width: usize) -> String {
    let fragments: String = (0..levels)
        .map(|level| format!("fragment f{level} on Query {{ {} }} ", format!("...f{} ", level + 1).repeat(width)))
        .collect();
    format!("{{ ...f0 }} {fragments} fragment f{levels} on Query {{ viewer {{ name }} }}")
}

fn aliases(count: usize) -> String {
    format!("{{ {} }}", (0..count).map(|n| format!("a{n}:ledger{{unaccounted}} ")).collect::<String>())
}

fn nested(depth: usize, inner: &str) -> String {
    format!("{{ __schema {{ types {{ {} {inner} {} }} }} }}", "fields { type { ".repeat(depth), "} } ".repeat(depth))
}

/// All of them.
pub(crate) fn requests() -> Vec<Hostile> {
    let plain = |name, query: String, code| Hostile { name, query, variables: json!({}), code };
    let nodes = "query($ids: [ID!]!) { nodes(ids: $ids) { id ... on Webhook { deliveries(first: 100) {
        nodes { id attempts { nodes { id } } } } } } }";
    let ids: Vec<_> = (0..100).map(|n| format!("wh_{n}")).collect();
    let many: Vec<_> = (0..50_000).map(|n| format!("wh_{n}")).collect();
    let lists = "{ webhooks(first: 100) { nodes { deliveries(first: 100) { nodes { id attempts(first: 100) { nodes { id } } } } } } }";
    vec![
        plain("fragment bomb, 22 levels x 2", bomb(22, 2), "QUERY_TOO_COMPLEX"),
        plain("fragment bomb, 5 levels x 40", bomb(5, 40), "QUERY_TOO_COMPLEX"),
        plain("50,000 aliases", aliases(30_000), "QUERY_TOO_LARGE"),
        plain("2,400 aliases in 64 KiB", aliases(2_400), "QUERY_TOO_COMPLEX"),
        plain("100,000 directives", format!("{{ viewer {{ name {} }} }}", "@a ".repeat(100_000)), "QUERY_TOO_LARGE"),
        plain(
            "21,000 directives in 64 KiB",
            format!("{{ viewer {{ name {} }} }}", "@a ".repeat(21_000)),
            "QUERY_TOO_COMPLEX",
        ),
        plain(
            "2,000 inline fragments with a directive",
            format!("{{ {} }}", "...@skip(if:true){viewer{name}} ".repeat(2_000)),
            "QUERY_TOO_COMPLEX",
        ),
        plain("20,000 levels of selections", "{a".repeat(20_000), "QUERY_TOO_COMPLEX"),
        plain(
            "30,000 levels of a list",
            format!("{{ node(id: {}1{}) {{ id }} }}", "[".repeat(30_000), "]".repeat(30_000)),
            "QUERY_TOO_COMPLEX",
        ),
        plain("lists of lists of lists", lists.into(), "QUERY_TOO_COMPLEX"),
        Hostile {
            name: "lists behind an interface",
            query: nodes.into(),
            variables: json!({ "ids": ids }),
            code: "QUERY_TOO_COMPLEX",
        },
        plain("types of types, 5 deep", nested(5, "name"), "QUERY_TOO_COMPLEX"),
        plain(
            "all types, 4 times",
            format!(
                "{{ __schema {{ {} }} }}",
                (0..4).map(|n| format!("a{n}: types {{ name fields {{ name }} }} ")).collect::<String>()
            ),
            "QUERY_TOO_COMPLEX",
        ),
        plain(
            "4,000 unknown fields",
            format!("{{ {} }}", (0..4_000).map(|n| format!("webhook{n} ")).collect::<String>()),
            "GRAPHQL_VALIDATION_FAILED",
        ),
        plain(
            "4,000 unknown arguments",
            format!("{{ viewer({}) {{ name }} }}", (0..4_000).map(|n| format!("x{n}:1 ")).collect::<String>()),
            "GRAPHQL_VALIDATION_FAILED",
        ),
        plain(
            "one name for 2,000 things",
            format!("{{ {} }}", (0..2_000).map(|n| format!("node(id:\"{n}\"){{id}} ")).collect::<String>()),
            "GRAPHQL_VALIDATION_FAILED",
        ),
        Hostile {
            name: "50,000 ids in a variable",
            query: "query($ids: [ID!]!) { nodes(ids: $ids) { id } }".into(),
            variables: json!({ "ids": many }),
            code: "INVALID_INPUT",
        },
        Hostile {
            name: "a megabyte in a variable",
            query: "query($x: ID!) { webhook(id: $x) { id } nothing }".into(),
            variables: json!({ "x": "x".repeat(900_000) }),
            code: "GRAPHQL_VALIDATION_FAILED",
        },
        plain("an open string of 60 KiB", format!("{{ viewer(a: \"{}", "\\\"".repeat(30_000)), "GRAPHQL_PARSE_FAILED"),
    ]
}

/// A body with variables that nest this deep.
pub(crate) fn deep_variables(depth: usize) -> String {
    format!(
        "{{\"query\":\"{{ viewer {{ name }} }}\",\"variables\":{{\"x\":{}{}}}}}",
        "[".repeat(depth),
        "]".repeat(depth)
    )
}
