//! Tidings delivers webhooks: it signs published messages and posts them to every subscription whose filters match.
//!
//! The modules stand in reading order, which is the dependency order: a module imports only what is listed before it.
//! `tests/it/architecture.rs` holds the code to this list and each framework to its home. ARCHITECTURE.md is the map.

pub mod error_code;
pub mod domain;
pub mod key_store;
pub mod event_store;
pub mod codec;
pub mod clock;
pub mod execute;
pub mod outbound;
pub mod actors;
pub mod projections;
pub mod audit;
pub mod notices;
pub mod authentication;
pub mod rate_limit;
pub mod graphql;
pub mod http;
pub mod config;
pub mod telemetry;
pub mod app;
pub mod cli;
