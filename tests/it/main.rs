//! Tests of real parts together, as one binary so that they link once.

#![expect(clippy::unwrap_used, reason = "a step that fails fails its test, and says where")]

mod actors;
mod api;
mod architecture;
mod canary;
mod canonical_json;
mod circuit;
mod command_line;
mod contract;
mod crash;
mod damage;
mod disk_full;
mod documents;
mod egress;
mod end_to_end;
mod event_samples;
mod event_store;
mod event_streams;
mod explain;
mod faulty_endpoints;
mod headers;
mod history;
mod jobs;
mod key_store;
mod keys;
mod ledger;
mod listen;
mod listeners;
mod live;
mod log_fields;
mod operations;
mod ordered;
mod outbound;
mod playground;
mod profiles;
mod projections;
mod ractor_contract;
mod restoring;
mod retention;
mod support;
mod tools;
mod transfer;
mod typed_client;
mod users;
mod verifiers;
