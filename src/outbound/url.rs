//! The URL gate: which endpoint URLs we accept, at creation and again before every attempt.
//!
//! The raw text is judged first, the parser's result second. A WHATWG parser is generous (`https:\\127.0.0.1`, full-width
//! digits, octal and hexadecimal addresses and dropped tabs all become `127.0.0.1`), so whatever it would have to repair
//! never reaches it. What passes is stored and shown in its normalised form, which passes again unchanged.
//!
//! Names are judged here by their spelling only; what they resolve to is the resolver's gate.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use thiserror::Error;
use url::{Host, Url};

use super::policy::EgressPolicy;

/// Longest accepted URL, in bytes, before and after normalising.
pub const MAX_URL_BYTES: usize = 2048;

const SCHEME: &str = "https://";

/// Names that no public DNS answers for, and the labels under which networks keep their own machines.
const SPECIAL_USE_SUFFIXES: [&str; 13] = [
    "alt",
    "arpa",
    "corp",
    "home.arpa",
    "internal",
    "intranet",
    "invalid",
    "lan",
    "local",
    "localdomain",
    "localhost",
    "onion",
    "test",
];

/// Ports above 1023 that browsers refuse (WHATWG Fetch, "bad port"), because what listens there can be made to act on
/// an HTTP request.
const BAD_PORTS: [u16; 19] =
    [1719, 1720, 1723, 2049, 3659, 4045, 4190, 5060, 5061, 6000, 6566, 6665, 6666, 6667, 6668, 6669, 6679, 6697, 10080];

/// Why a URL, or the host in it, is refused. The sentences are for tenants: none names a resolved address.
#[derive(Clone, Copy, Debug, Error, PartialEq, Eq, Hash)]
pub enum UrlRefusal {
    /// Longer than [`MAX_URL_BYTES`], as given or normalised.
    #[error("the URL is longer than {MAX_URL_BYTES} characters")]
    TooLong,
    /// A space, control character, backslash or non-ASCII character anywhere in it.
    #[error(
        "the URL contains a character that is not allowed; percent-encode it, and write an international host name in punycode"
    )]
    ForbiddenCharacter,
    /// Does not begin with `https://`, in lower case.
    #[error("the URL must begin with https://")]
    NotHttps,
    /// Has a fragment, even an empty one.
    #[error("the URL must not have a fragment")]
    Fragment,
    /// Has a user name or password, even an empty one.
    #[error("the URL must not contain a user name or password")]
    Userinfo,
    /// No host.
    #[error("the URL has no host")]
    HostMissing,
    /// A character in the host that no host name has.
    #[error("the host contains a character that is not allowed")]
    HostCharacter,
    /// Refused by the parser, or written in a way that it would have to repair.
    #[error("the URL is not valid")]
    Malformed,
    /// An address in an abbreviated, octal, decimal or hexadecimal form.
    #[error("an IPv4 address must be written as four decimal numbers")]
    AddressForm,
    /// An empty, over-long or otherwise impossible label, or too many of them.
    #[error("the host is not a valid domain name")]
    HostLabel,
    /// A single label, which would depend on the network's search list.
    #[error("the host must be a full domain name")]
    HostNotQualified,
    /// A name reserved for private or special use.
    #[error("the host name is reserved for private or special use")]
    HostSpecialUse,
    /// A port other than 443 and those from 1024 up, or one on which browsers refuse to talk.
    #[error("the port is not allowed")]
    PortForbidden,
    /// A host that the operator's list does not have.
    #[error("the operator does not allow this host")]
    HostNotAllowed,
    /// An address, written or resolved, that the egress policy does not permit.
    #[error("the egress rules do not allow this address")]
    AddressForbidden,
    /// The name has no address, or none was found in time.
    #[error("the host name does not resolve")]
    HostUnresolved,
}

impl UrlRefusal {
    /// The stable machine word for this refusal.
    pub fn reason(self) -> &'static str {
        match self {
            Self::TooLong => "too_long",
            Self::ForbiddenCharacter => "forbidden_character",
            Self::NotHttps => "not_https",
            Self::Fragment => "fragment",
            Self::Userinfo => "userinfo",
            Self::HostMissing => "host_missing",
            Self::HostCharacter => "host_character",
            Self::Malformed => "malformed",
            Self::AddressForm => "address_form",
            Self::HostLabel => "host_label",
            Self::HostNotQualified => "host_not_qualified",
            Self::HostSpecialUse => "host_special_use",
            Self::PortForbidden => "port_forbidden",
            Self::HostNotAllowed => "host_not_allowed",
            Self::AddressForbidden => "address_forbidden",
            Self::HostUnresolved => "host_unresolved",
        }
    }
}

/// Where a URL points.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum EndpointHost {
    /// A lower-case domain name without a trailing dot, to be resolved and checked at every attempt.
    Name(String),
    /// An address that the policy permitted.
    Address(IpAddr),
}

/// A URL that passed the gate, in its normalised form.
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct EndpointUrl {
    text: String,
    host: EndpointHost,
    port: u16,
}

impl EndpointUrl {
    /// The normalised URL, the form to store, show and send to.
    pub fn as_str(&self) -> &str {
        &self.text
    }

    /// The host, for permits, pools and the check that it resolves.
    pub fn host(&self) -> &EndpointHost {
        &self.host
    }

    /// The port to connect to.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// Judges `raw` by its spelling, its host by `policy`, and the address too where the host is one.
    pub fn parse(raw: &str, policy: &EgressPolicy) -> Result<Self, UrlRefusal> {
        let written = written_host(raw)?;
        let mut url = Url::parse(raw).map_err(|error| refusal_of(written, error))?;
        let host = match url.host() {
            Some(Host::Ipv4(address)) => ipv4(written, address, policy)?,
            Some(Host::Ipv6(address)) => ipv6(address, policy)?,
            Some(Host::Domain(name)) => EndpointHost::Name(domain(name)?.to_owned()),
            None => return Err(UrlRefusal::HostMissing),
        };
        let port = check_port(url.port_or_known_default())?;
        check_host(&host, port, policy)?;
        if let EndpointHost::Name(name) = &host {
            url.set_host(Some(name)).map_err(|_| UrlRefusal::HostLabel)?;
        }
        let text = String::from(url);
        if text.len() > MAX_URL_BYTES {
            return Err(UrlRefusal::TooLong);
        }
        Ok(Self { text, host, port })
    }
}

/// Paths and queries often carry tokens, so only the host is printed.
impl fmt::Debug for EndpointUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("EndpointUrl").field("host", &self.host).finish_non_exhaustive()
    }
}

/// Everything that must be seen before a parser repairs it. Returns the host as it was written.
fn written_host(raw: &str) -> Result<&str, UrlRefusal> {
    if raw.len() > MAX_URL_BYTES {
        return Err(UrlRefusal::TooLong);
    }
    if !raw.bytes().all(|byte| byte.is_ascii_graphic() && byte != b'\\') {
        return Err(UrlRefusal::ForbiddenCharacter);
    }
    let rest = raw.strip_prefix(SCHEME).ok_or(UrlRefusal::NotHttps)?;
    if rest.contains('#') {
        return Err(UrlRefusal::Fragment);
    }
    let authority = rest.split(['/', '?']).next().unwrap_or_default();
    if authority.is_empty() {
        return Err(UrlRefusal::HostMissing);
    }
    if authority.contains('@') {
        return Err(UrlRefusal::Userinfo);
    }
    if !authority.bytes().all(|byte| byte.is_ascii_alphanumeric() || b".-_:[]".contains(&byte)) {
        return Err(UrlRefusal::HostCharacter);
    }
    let host = match authority.strip_prefix('[') {
        Some(literal) => literal.split(']').next().unwrap_or_default(),
        None => authority.split(':').next().unwrap_or_default(),
    };
    if host.is_empty() { Err(UrlRefusal::HostMissing) } else { Ok(host) }
}

/// What the parser could not read, named as well as possible.
fn refusal_of(written: &str, error: url::ParseError) -> UrlRefusal {
    let labels_fit = written.strip_suffix('.').unwrap_or(written).split('.').all(|label| !label.is_empty());
    if error == url::ParseError::InvalidIpv4Address {
        UrlRefusal::AddressForm
    } else if error == url::ParseError::InvalidPort {
        UrlRefusal::PortForbidden
    } else if error == url::ParseError::IdnaError || !labels_fit {
        UrlRefusal::HostLabel
    } else {
        UrlRefusal::Malformed
    }
}

fn ipv4(written: &str, address: Ipv4Addr, policy: &EgressPolicy) -> Result<EndpointHost, UrlRefusal> {
    if written.strip_suffix('.').unwrap_or(written) != address.to_string() {
        return Err(UrlRefusal::AddressForm);
    }
    permitted(IpAddr::V4(address), policy)
}

/// An IPv4 address in IPv6 clothes has no honest use in a URL, so it is refused whatever the policy says.
fn ipv6(address: Ipv6Addr, policy: &EgressPolicy) -> Result<EndpointHost, UrlRefusal> {
    if address.to_ipv4_mapped().is_some() {
        return Err(UrlRefusal::AddressForbidden);
    }
    permitted(IpAddr::V6(address), policy)
}

fn permitted(address: IpAddr, policy: &EgressPolicy) -> Result<EndpointHost, UrlRefusal> {
    if policy.permits(address) { Ok(EndpointHost::Address(address)) } else { Err(UrlRefusal::AddressForbidden) }
}

/// The name without its trailing dot, which must go before anything is compared.
fn domain(name: &str) -> Result<&str, UrlRefusal> {
    let name = name.strip_suffix('.').unwrap_or(name);
    if !has_labels(name) {
        return Err(UrlRefusal::HostLabel);
    }
    if SPECIAL_USE_SUFFIXES.iter().any(|suffix| is_under(name, suffix)) {
        return Err(UrlRefusal::HostSpecialUse);
    }
    if !name.contains('.') {
        return Err(UrlRefusal::HostNotQualified);
    }
    Ok(name)
}

fn has_labels(name: &str) -> bool {
    name.len() <= 253 && name.split('.').all(is_label)
}

/// Whether that could be the host of a URL, in lower case and without a trailing dot.
pub(super) fn is_name(name: &str) -> bool {
    let is_common = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || b".-_".contains(&byte);
    name.bytes().all(is_common) && has_labels(name)
}

fn is_label(label: &str) -> bool {
    (1..=63).contains(&label.len()) && !label.starts_with('-') && !label.ends_with('-')
}

fn is_under(name: &str, suffix: &str) -> bool {
    name.strip_suffix(suffix).is_some_and(|rest| rest.is_empty() || rest.ends_with('.'))
}

fn check_host(host: &EndpointHost, port: u16, policy: &EgressPolicy) -> Result<(), UrlRefusal> {
    match host {
        EndpointHost::Name(name) if policy.permits_name(name) => Ok(()),
        EndpointHost::Address(address) if policy.permits_literal(*address) => match policy.is_own(*address, Some(port))
        {
            true => Err(UrlRefusal::AddressForbidden),
            false => Ok(()),
        },
        EndpointHost::Name(_) | EndpointHost::Address(_) => Err(UrlRefusal::HostNotAllowed),
    }
}

fn check_port(port: Option<u16>) -> Result<u16, UrlRefusal> {
    match port {
        Some(443) => Ok(443),
        Some(port) if port >= 1024 && !BAD_PORTS.contains(&port) => Ok(port),
        Some(_) | None => Err(UrlRefusal::PortForbidden),
    }
}

#[cfg(test)]
mod tests;
