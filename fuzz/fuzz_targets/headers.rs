//! Custom headers: what is accepted is what a request can carry unchanged, and speaks for nobody else. Each line of the
//! input is a header: its name, a colon, its value.
#![no_main]

use std::collections::HashSet;

use libfuzzer_sys::fuzz_target;
use tidings::domain::header::{CustomHeaders, GivenHeaders, MAX_TOTAL_BYTES};
use tidings::domain::profile;

/// Written down apart from the rule's own list: what would let a header steer the request, the connection or a metadata
/// service, or pass for one of ours.
const NEVER: [&str; 20] = [
    "authorization",
    "connection",
    "content-length",
    "content-type",
    "cookie",
    "expect",
    "forwarded",
    "host",
    "metadata",
    "metadata-flavor",
    "proxy-authorization",
    "te",
    "transfer-encoding",
    "upgrade",
    "user-agent",
    "webhook-signature",
    "x-aws-ec2-metadata-token",
    "x-axissynapse-signature",
    "x-forwarded-for",
    "x-webhook-signature",
];

fuzz_target!(|text: &str| {
    let given: Vec<(String, String)> = text
        .split('\n')
        .filter_map(|line| line.split_once(':'))
        .map(|(name, value)| (name.to_owned(), value.to_owned()))
        .collect();
    let profile = profile::find(profile::DEFAULT).expect("there is a default");
    let Ok(headers) = CustomHeaders::check(profile, GivenHeaders::of(given.clone())) else { return };
    let sent: Vec<(&str, &str)> = headers.expose().collect();
    assert_eq!(sent, given.iter().map(|(name, value)| (name.as_str(), value.as_str())).collect::<Vec<_>>());
    let mut seen = HashSet::new();
    let mut bytes = 0;
    for (name, value) in sent {
        let name = name.to_ascii_lowercase();
        assert!(!NEVER.contains(&name.as_str()), "{name}");
        assert!(!name.is_empty() && name.bytes().all(|byte| byte.is_ascii_graphic() && byte != b':'), "{name:?}");
        let carried = value.bytes().all(|byte| byte == b'\t' || (b' '..=b'~').contains(&byte));
        assert!(carried && value.trim() == value && !value.is_empty(), "{value:?}");
        bytes += name.len() + value.len();
        assert!(seen.insert(name), "twice");
    }
    assert!(bytes <= MAX_TOTAL_BYTES);
    assert!(CustomHeaders::of_secret(&headers.to_secret()).as_ref() == Some(&headers), "sealed and opened");
});
