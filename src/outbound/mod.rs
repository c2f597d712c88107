//! Outbound HTTP: the only way out of the process.
//!
//! Nothing is sent to an address that the operator did not allow, whatever a tenant writes into a URL or answers in DNS.

mod address;
mod url;

pub use address::EgressPolicy;
pub use url::{EndpointHost, EndpointUrl, MAX_URL_BYTES, UrlRefusal};
