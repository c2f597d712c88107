//! Outbound HTTP: the only way out of the process.
//!
//! Nothing is sent to an address that the operator did not allow, whatever a tenant writes into a URL or answers in DNS.

mod address;

pub use address::EgressPolicy;
