//! Every business rule: data and functions.
//!
//! No I/O, clock, randomness or `async`: what a decision needs, the command brings. `decide` says what happens,
//! `evolve` remembers it, `due` says what is to be done now. All state is a fold over recorded events.

pub mod catalogue;
pub mod filter;
pub mod id;
pub mod json;
pub mod outcome;
pub mod profile;
pub mod time;
