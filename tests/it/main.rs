//! The program from outside: one binary, so that it links once.
#![expect(clippy::unwrap_used, reason = "a test stops at the first surprise; clippy knows unit tests only")]

mod event_store;
