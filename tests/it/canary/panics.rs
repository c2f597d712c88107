//! What a panic prints is the values of those who unwrap: none that holds a secret tells it.

use std::fmt::Debug;
use std::panic::{AssertUnwindSafe, catch_unwind};

use tidings::config::Config;
use tidings::domain::header::{CustomHeaders, GivenHeaders};
use tidings::domain::profile;
use tidings::domain::secret::Secret;
use tidings::execute::vault::{KeyBytes, OperatorKeys};
use tidings::graphql::Incoming;

const CANARY: &str = "canary-4b1c0f7e9a";
/// `*`, in every byte of a key.
const KEY: [u8; 32] = [42; 32];

/// What the panic says that this value causes.
fn said(value: impl Debug) -> String {
    let failed: Result<(), _> = std::iter::once(value).try_for_each(Err);
    let panic = catch_unwind(AssertUnwindSafe(|| failed.unwrap())).unwrap_err();
    *panic.downcast::<String>().unwrap()
}

#[test]
fn a_panic_tells_no_secret_of_the_values_that_it_prints() {
    let pairs = || GivenHeaders::of([("X-Api-Key".to_owned(), CANARY.to_owned())]);
    let headers = CustomHeaders::check(profile::find("standard-v1").unwrap(), pairs()).unwrap();
    let config = Config::of(&format!("[database]\nurl = \"postgres://tidings:{CANARY}@db/log\"")).unwrap();
    let body = format!(r#"{{"query": "mutation {{ a(b: \"{CANARY}\") }}", "variables": {{ "secret": "{CANARY}" }}}}"#);
    let incoming = Incoming::from_json(body.as_bytes()).unwrap();
    let told = [
        said(Secret::stored(CANARY.to_owned())),
        said(pairs()),
        said(headers),
        said(config.log_place().unwrap()),
        said(config),
        said(incoming),
        said(KeyBytes::new(KEY)),
        said(OperatorKeys::new(KeyBytes::new(KEY), [KeyBytes::new([43; 32])])),
    ];
    for text in told {
        assert!(text.starts_with("called `Result::unwrap()` on an `Err` value: "), "{text}");
        let of_key = ["2a2a", "42, 42", "****"].iter().any(|form| text.contains(form));
        assert!(!text.contains(CANARY) && !of_key, "{text}");
    }
}
