//! Tests of real parts together, as one binary so that they link once.

#![expect(clippy::unwrap_used, reason = "a step that fails fails its test, and says where")]

mod actors;
mod architecture;
mod canonical_json;
mod event_samples;
mod outbound;
mod ractor_contract;
mod support;
