//! Delivery profiles of operators: each file is taken or refused in words.
#![no_main]

use libfuzzer_sys::fuzz_target;
use tidings::domain::profile::Definition;

fuzz_target!(|text: &[u8]| {
    if let Err(problems) = Definition::parse(text) {
        assert!(!problems.is_empty());
    }
});
