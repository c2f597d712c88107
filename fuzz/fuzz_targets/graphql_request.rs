//! GraphQL requests: whatever stands in a body is measured and refused, or prepared, and never panics.
#![no_main]

use libfuzzer_sys::fuzz_target;
use tidings::graphql::{self, Incoming};

fuzz_target!(|body: &[u8]| {
    if let Ok(incoming) = Incoming::from_json(body) {
        drop(graphql::prepare(incoming));
    }
});
