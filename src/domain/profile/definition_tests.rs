use serde_json::{Value, json};

use super::*;
use crate::domain::profile::{Retry, built_in};

const STRIPE: &str = include_str!("../../../examples/profiles/stripe-style-v1.json");
const ED25519: &str = include_str!("../../../examples/profiles/ed25519-style-v1.json");
const GITHUB: &str = include_str!("../../../examples/profiles/github-style-v1.json");

/// Stripe's profile, changed.
fn problems(change: impl FnOnce(&mut Value)) -> Vec<String> {
    let mut profile: Value = serde_json::from_str(STRIPE).unwrap();
    change(&mut profile);
    told(&profile.to_string())
}

fn told(text: &str) -> Vec<String> {
    let problems = Definition::parse(text.as_bytes()).err().unwrap_or_default();
    problems.iter().map(ToString::to_string).collect()
}

#[test]
fn the_examples_and_what_this_program_brings_are_fit_for_use() {
    for text in [STRIPE, GITHUB, ED25519] {
        assert_eq!(told(text), Vec::<String>::new());
    }
    for profile in built_in() {
        let taken = format!("name: '{}' is a profile of this program", profile.name);
        let problems: Vec<_> = check(profile).iter().map(ToString::to_string).collect();
        assert_eq!(problems, [taken]);
    }
}

#[test]
fn everything_that_is_wrong_is_told_at_once_by_its_key() {
    let problems = problems(|profile| {
        profile["name"] = json!("Acme");
        profile["envelope"][0]["value"] = json!("id");
        profile["envelope"][1]["colour"] = json!("blue");
        profile["signatures"][0]["encoding"] = json!("base32");
        profile["signatures"][0]["prefix"] = json!(7);
        profile["signatures"][0]["separator"] = json!("");
        profile["headers"] = json!([{ "name": "Host", "value": { "text": "x" } }, { "name": "A", "value": "typ" }]);
        profile["success"] = json!({ "exactly": [200, 700] });
        profile["timeout_ms"] = json!("long");
        profile["retries"] = json!(3);
        profile.as_object_mut().unwrap().shift_remove("jitter");
        profile["rotation_overlap_default_s"] = json!(90_000);
    });
    let keys: Vec<&str> = problems.iter().filter_map(|problem| problem.split(": ").next()).collect();
    for key in [
        "name",
        "envelope[0].value",
        "envelope[1].colour",
        "signatures[0].encoding",
        "signatures[0].prefix",
        "signatures[0].separator",
        "headers[0].name",
        "headers[1].value",
        "success.exactly[1]",
        "timeout_ms",
        "retries",
        "jitter",
        "rotation_overlap_default_s",
    ] {
        assert_eq!(keys.iter().filter(|told| **told == key).count(), 1, "{key} in {problems:#?}");
    }
    assert_eq!(keys.len(), 13, "{problems:#?}");
}

#[test]
fn each_problem_says_what_is_allowed() {
    type Change = fn(&mut Value);
    let cases: &[(Change, &str)] = &[
        (|p| p["name"] = json!("standard-v1"), "name: 'standard-v1' is a profile of this program"),
        (
            |p| p["name"] = json!("acme"),
            "name: it must have at most 64 characters: lower-case letters, digits and hyphens, and a version behind -v, as in acme-v1",
        ),
        (
            |p| p["classes"] = json!({"soft": [700], "soft_pause_ms": 0, "gone": []}),
            "classes.soft[0]: 700 is not within 100 and 599",
        ),
        (
            |p| p["classes"] = json!({"soft": [410], "soft_pause_ms": 0, "gone": [410]}),
            "classes.gone: a status is soft or gone, not both",
        ),
        (|p| p["retry_after"] = json!({"cap_ms": 1}), "retry_after.cap_ms: 1 is not within 1000 and 2592000000"),
        (
            |p| p["breaker"] = json!({"failures": 0, "deliveries": 2, "soft_failures": 9, "soft_over_ms": 0}),
            "breaker.failures: 0 is not within 1 and 10000",
        ),
        (
            |p| p["breaker"] = json!({"failures": 5, "deliveries": 17, "soft_failures": 9, "soft_over_ms": 0}),
            "breaker.deliveries: 17 is not within 1 and 16",
        ),
        (|p| p["jitter"] = json!({"proportional": 101}), "jitter.proportional: 101 is not within 1 and 100"),
        (|p| p["labels"] = json!({"failed": ""}), "labels.failed: it must have 1 to 40 characters"),
        (
            |p| p["require_test"] = json!(true),
            "enabled_default: with require_test a webhook begins disabled: it must be false",
        ),
        (
            |p| p["filters"] = json!({"globs": false, "empty": false, "trailing_star": "rest"}),
            "filters.trailing_star: filters without patterns have no '*': it must be \"one\" or absent",
        ),
        (
            |p| p["filters"]["trailing_star"] = json!("all"),
            "filters.trailing_star: unknown variant `all`, expected `one` or `rest`",
        ),
        (
            |p| {
                p["jitter"] = json!("decorrelated");
                p["retry"] = json!({"list": {"delays_ms": [1_000]}});
            },
            "jitter: decorrelated goes with retry.exponential: its delays grow from the one before",
        ),
        (|p| p["description"] = json!(""), "description: it must have 1 to 200 characters"),
        (|p| p["description"] = json!("a\u{7}b"), "description: it may not hold control characters"),
        (
            |p| p["signatures"][0]["encoding"] = json!("base32"),
            "signatures[0].encoding: unknown variant `base32`, expected `hex` or `base64`",
        ),
        (
            |p| p["signatures"][0]["value"] = json!("t={time},{signatures}"),
            "signatures[0].value: there is no place {time}, only {signatures}, {attempted_at} and {message_id}",
        ),
        (
            |p| p["signatures"][0]["value"] = json!("{signatures}"),
            "signatures[0].value: it must hold {attempted_at}, or a header must tell it: the signature covers it",
        ),
        (|p| p["signatures"][0]["prefix"] = json!("v1,"), "signatures[0].prefix: the separator may not stand in it"),
        (
            |p| p["signatures"][0]["prefix"] = json!("v\n1"),
            "signatures[0].prefix: it may have 64 characters, of visible ASCII and spaces",
        ),
        (
            |p| p["signatures"][0]["header"] = json!("Strïpe"),
            "signatures[0].header: a header's name has 1 to 64 characters: ASCII letters, digits and !#$%&'*+-.^_`|~",
        ),
        (
            |p| p["signatures"][0]["header"] = json!("Transfer-Encoding"),
            "signatures[0].header: 'Transfer-Encoding' is reserved: this program or the connection sets it",
        ),
        (
            |p| p["signatures"][0]["header"] = json!("user-agent"),
            "headers[0].name: 'User-Agent' stands there twice (case does not count)",
        ),
        (
            |p| p["signatures"][0]["algorithm"] = json!("ed25519"),
            "signatures[0].key: whsk goes with the algorithm ed25519, and no other key does",
        ),
        (
            |p| p["signatures"][0]["key"] = json!("whsk"),
            "signatures[0].key: whsk goes with the algorithm ed25519, and no other key does",
        ),
        (|p| p["signatures"] = json!([]), "signatures: there must be 1 to 4"),
        (
            |p| p["headers"][0]["value"]["text"] = json!("a\r\nb: c"),
            "headers[0].value.text: a header's value has 1 to 1024 characters of visible ASCII and spaces",
        ),
        (
            |p| p["headers"][0]["value"]["text"] = json!("Acme "),
            "headers[0].value.text: it may not begin or end with a space",
        ),
        (
            |p| p["envelope"][3]["value"] = json!("type"),
            "envelope: the message's data must stand in it once, as the value \"data\", not 0 times",
        ),
        (
            |p| p["envelope"][0]["value"] = json!("data"),
            "envelope: the message's data must stand in it once, as the value \"data\", not 2 times",
        ),
        (|p| p["envelope"][1]["name"] = json!("id"), "envelope[1].name: 'id' stands there twice"),
        (
            |p| p["envelope"][1]["name"] = json!("7"),
            "envelope[1].name: it may not be a number: JavaScript would put it before all others",
        ),
        (
            |p| p["envelope"][1]["value"]["text"] = json!("\u{1b}[0m"),
            "envelope[1].value.text: it may have 1024 characters, and no control characters among them",
        ),
        (
            |p| p["envelope"] = json!("none"),
            "envelope: invalid value: string \"none\", expected a list of fields, or \"data\"",
        ),
        (|p| p["success"] = json!({ "exactly": [] }), "success.exactly: it must name at least one status"),
        (|p| p["success"] = json!({ "exactly": [99] }), "success.exactly[0]: 99 is not within 100 and 599"),
        (|p| p["retry"] = json!({ "list": { "delays_ms": [] } }), "retry.list.delays_ms: it must have 1 to 49 delays"),
        (
            |p| p["retry"] = json!({ "list": { "delays_ms": [0] } }),
            "retry.list.delays_ms[0]: 0 is not within 100 and 604800000",
        ),
        (|p| p["retry"]["exponential"]["factor"] = json!(0), "retry.exponential.factor: 0 is not within 1 and 100"),
        (
            |p| p["retry"]["exponential"]["attempts"] = json!(1_000),
            "retry.exponential.attempts: 1000 is not within 2 and 50",
        ),
        (
            |p| p["retry"]["exponential"]["cap_ms"] = json!(1_000),
            "retry.exponential.cap_ms: it may not be less than base_ms",
        ),
        (|p| p["custom_headers"] = json!({ "max": 21 }), "custom_headers.max: 21 is not within 0 and 20"),
        (|p| p["timeout_ms"] = json!(0), "timeout_ms: 0 is not within 100 and 120000"),
        (|p| p["test_timeout_ms"] = json!(-1), "test_timeout_ms: invalid value: integer `-1`, expected u64"),
        (
            |p| p["signatures"][0]["overlap"] = json!(false),
            "rotation_overlap_max_s: no signature has overlap, so an old secret could not go on signing: it must be 0",
        ),
        (
            |p| p["envelope"][4]["value"]["json"] = json!(9_007_199_254_740_993_u64),
            "envelope[4].value.json: the number has more digits than JavaScript keeps",
        ),
    ];
    for (change, expected) in cases {
        assert_eq!(problems(change), [*expected]);
    }
}

#[test]
fn a_part_of_another_kind_hides_nothing_else() {
    let problems = problems(|profile| {
        profile["retry"] = json!({ "exponential": { "base_ms": "soon", "factor": 2 } });
        profile["signatures"][0] = json!("none");
        profile["filters"] = json!(null);
        profile["timeout_ms"] = json!(1);
    });
    let keys: Vec<&str> = problems.iter().filter_map(|problem| problem.split(": ").next()).collect();
    assert_eq!(keys, ["signatures[0]", "retry.exponential.base_ms", "filters", "timeout_ms"], "{problems:#?}");
}

#[test]
fn what_is_no_profile_at_all_is_told_in_one_line() {
    assert_eq!(told("[]"), ["it is no JSON object"]);
    assert_eq!(told("{"), ["not JSON: EOF while parsing an object at line 1 column 1"]);
    assert_eq!(told(&" ".repeat(70_000)), ["it has 70000 bytes; at most 65536 are allowed"]);
    assert!(told("{}").iter().all(|problem| problem.ends_with(": it is missing")), "{:#?}", told("{}"));
    let twice = STRIPE.replacen("\"name\"", "\"jitter\": \"none\", \"name\"", 1);
    assert_eq!(told(&twice), ["jitter: the key stands there twice"]);
}

#[test]
fn the_digest_is_of_what_a_text_says_and_not_of_how_it_is_written() {
    let digest = |text: &str| Definition::parse(text.as_bytes()).unwrap().digest;
    let value: Value = serde_json::from_str(STRIPE).unwrap();
    let turned: Value =
        value.as_object().unwrap().iter().rev().map(|(key, value)| (key.clone(), value.clone())).collect();
    assert_eq!(digest(STRIPE), digest(&value.to_string()));
    assert_eq!(digest(STRIPE), digest(&turned.to_string()));
    assert_ne!(digest(STRIPE), digest(&STRIPE.replace("60000", "60001")));
    // What stands in somebody's log was put there by this rule.
    assert_eq!(digest(STRIPE), "23332595fe15051a08f1603f925491f9cf28593ad2e3137a674b0170a40b4c14");
}

#[test]
fn an_operators_profile_schedules_as_it_says() {
    let profile = Definition::parse(GITHUB.as_bytes()).unwrap().profile;
    assert_eq!(profile.retry, Retry::List { delays_ms: vec![60_000, 600_000, 3_600_000] });
    assert_eq!(profile.max_attempts(), 4);
}
