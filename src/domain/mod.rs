//! Every business rule: data and functions.
//!
//! No I/O, clock, randomness or `async`: what a decision needs, the command brings. `decide` says what happens,
//! `evolve` remembers it, `due` says what is to be done now. All state is a fold over recorded events.

pub mod time;
pub mod id;
pub mod filter;
pub mod suggestion;
pub mod json;
pub mod catalogue;
pub mod outcome;
pub mod profile;
pub mod retry_policy;
pub mod circuit;
pub mod secret;
pub mod header;
pub mod notice;
pub mod signing;
pub mod scope;
pub mod api_key;
pub mod job;
pub mod event;
pub mod erasure;
pub mod audit;
pub mod tenant;
pub mod message;
pub mod subscription;
pub mod mail;
pub mod ledger;
