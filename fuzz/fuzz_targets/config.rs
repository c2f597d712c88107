//! Configuration files: each is taken or refused in words, and what is refused tells no password.
#![no_main]

use libfuzzer_sys::fuzz_target;
use tidings::config::Config;

fuzz_target!(|text: &str| {
    match Config::of(text) {
        Ok(config) => drop(format!("{config:?}")),
        Err(error) => assert!(!error.to_string().is_empty()),
    }
});
