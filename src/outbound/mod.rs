//! Outbound HTTP: the only way out of the process.
//!
//! Nothing is sent to an address that the operator did not allow, whatever a tenant writes into a URL or answers in DNS:
//!
//! - The URL gate ([`EndpointUrl`]) judges the text and address literals, which an HTTP client never resolves.
//! - The resolver gate judges every address a name resolves to, and the client dials only those it judged.
//! - Both run on every attempt, with the same [`EgressPolicy`]. A pooled connection stays with the address it was judged for.
//!
//! What would lead around the gates is switched off or not compiled in: redirects, proxies from the environment, automatic
//! retries, decompression, cookies. TLS cannot be weakened, only given more authorities to trust.
//!
//! The process never talks to its own listeners, however they are reached from this machine. An address that a translator
//! in front of it leads back to it is an address like others; an operator closes it with `deny_cidrs`.

mod address;
mod policy;
mod url;
mod resolver;
mod dial;
mod tls;
mod failure;
mod excerpt;
mod preview;
mod answer_headers;
mod retry_after;
mod client;

pub use answer_headers::without_access;
pub use client::{Fetch, Gate, HttpClient, Request, Transport};
pub use policy::{EgressPolicy, HostPattern, Nat64};
pub use url::{EndpointHost, EndpointUrl, MAX_URL_BYTES, UrlRefusal};

use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;

use ipnet::IpNet;
use serde::{Deserialize, Serialize};
use thiserror::Error;

/// What the operator decides about outbound traffic. Tenants never do.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// Address ranges that are opened although they are private or special, as `"10.0.0.0/8"`. Default: none.
    pub allow_cidrs: Vec<IpNet>,
    /// Address ranges that are closed; wins over `allow_cidrs` and over the public internet. Default: none.
    pub deny_cidrs: Vec<IpNet>,
    /// What to do with addresses of NAT64 (64:ff9b::/96): `deny`, or `decode`, which judges one that a name resolves to as
    /// the IPv4 address in it; for networks that have IPv6 alone. Default: `deny`.
    pub nat64: Nat64,
    /// The only hosts that endpoints may be on: `"hooks.example.com"`, `"*.example.com"` for all below it, or an address.
    /// The rules for addresses hold for them all the same. Default: none, which means any.
    pub allow_hosts: Vec<HostPattern>,
    /// PEM files with certificates of further authorities that endpoints' certificates may come from. Default: none.
    pub extra_ca: Vec<PathBuf>,
    /// Limit for resolving, connecting and the TLS handshake together, in milliseconds, at least 1. Default: 5000.
    pub connect_timeout_ms: u64,
    /// Name servers to ask, as `"10.0.0.53:53"`, in place of the system's. Default: none, which asks the system's.
    pub name_servers: Vec<SocketAddr>,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            allow_cidrs: vec![],
            deny_cidrs: vec![],
            nat64: Nat64::Deny,
            allow_hosts: vec![],
            extra_ca: vec![],
            connect_timeout_ms: 5000,
            name_servers: vec![],
        }
    }
}

/// Why the client cannot be built. Each message begins with the configuration key.
#[derive(Debug, Error)]
pub enum ConfigError {
    /// A limit of no time at all.
    #[error("egress.connect_timeout_ms: must be at least 1")]
    ConnectTimeoutZero,
    /// The file is missing or may not be read.
    #[error("egress.extra_ca: '{}' cannot be read", path.display())]
    ExtraCaUnreadable {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// The file holds no certificate.
    #[error("egress.extra_ca: '{}' holds no certificate", path.display())]
    ExtraCaEmpty {
        /// The file.
        path: PathBuf,
    },
    /// The file is not PEM.
    #[error("egress.extra_ca: '{}' is not valid PEM", path.display())]
    ExtraCaPem {
        /// The file.
        path: PathBuf,
        /// Where reading stopped.
        source: rustls::pki_types::pem::Error,
    },
    /// A certificate that cannot serve as an authority.
    #[error("egress.extra_ca: '{}' holds a certificate that cannot be used", path.display())]
    ExtraCaInvalid {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        source: rustls::Error,
    },
    /// The TLS or HTTP library refuses its settings.
    #[error("egress: the HTTP client cannot be built")]
    Client(#[source] reqwest::Error),
}
