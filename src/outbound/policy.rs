//! What the operator decides about outbound traffic, as both gates ask it.
//!
//! Tenants never set any of it, and are never told what stands in it.

use std::fmt;
use std::io;
use std::net::{IpAddr, SocketAddr, UdpSocket};

use ipnet::IpNet;
use serde::{Deserialize, Serialize};

use super::Config;
use super::address::{behind_nat64, special_use};
use super::url::is_name;

/// What to do with addresses that a NAT64 translator would take to an IPv4 address (64:ff9b::/96).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Nat64 {
    /// They are refused.
    #[default]
    Deny,
    /// Where a name resolves to one, it is judged as the IPv4 address that it carries. In a URL it is refused.
    Decode,
}

/// A host, or many, that endpoints may be on: `hooks.example.com`, `*.example.com` (whatever ends in that, at any depth,
/// but not `example.com`), or an address.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub enum HostPattern {
    /// This name.
    Name(String),
    /// The names below this one.
    Below(String),
    /// This address, written out in a URL.
    Address(IpAddr),
}

impl HostPattern {
    fn allows_name(&self, name: &str) -> bool {
        match self {
            Self::Name(allowed) => name == allowed,
            Self::Below(parent) => name.strip_suffix(parent.as_str()).is_some_and(|rest| rest.ends_with('.')),
            Self::Address(_) => false,
        }
    }
}

impl TryFrom<String> for HostPattern {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        if let Ok(address) = text.parse() {
            return Ok(Self::Address(address));
        }
        let lower = text.to_ascii_lowercase();
        let name = lower.strip_suffix('.').unwrap_or(&lower);
        let (name, pattern): (_, fn(String) -> Self) = match name.strip_prefix("*.") {
            Some(parent) => (parent, Self::Below),
            None => (name, Self::Name),
        };
        if is_name(name) {
            Ok(pattern(name.to_owned()))
        } else {
            Err(format!("'{text}' is no host name, *.name or address"))
        }
    }
}

impl From<HostPattern> for String {
    fn from(pattern: HostPattern) -> Self {
        pattern.to_string()
    }
}

impl fmt::Display for HostPattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Name(name) => f.write_str(name),
            Self::Below(parent) => write!(f, "*.{parent}"),
            Self::Address(address) => address.fmt(f),
        }
    }
}

/// The operator's rules over the table of special addresses.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct EgressPolicy {
    allow: Vec<IpNet>,
    deny: Vec<IpNet>,
    nat64: Nat64,
    hosts: Vec<HostPattern>,
    listeners: Vec<SocketAddr>,
}

impl EgressPolicy {
    /// `allow` opens ranges that the table forbids, `deny` closes ranges and wins over both.
    pub fn new(allow: Vec<IpNet>, deny: Vec<IpNet>) -> Self {
        Self { allow, deny, ..Self::default() }
    }

    /// What the configuration says, in a process that listens there itself.
    pub fn of(config: &Config, listeners: &[SocketAddr]) -> Self {
        Self {
            allow: config.allow_cidrs.clone(),
            deny: config.deny_cidrs.clone(),
            nat64: config.nat64,
            hosts: config.allow_hosts.clone(),
            listeners: listeners.to_vec(),
        }
    }

    /// Whether we may connect to an address that stands in a URL. An IPv4-mapped address counts as both of its forms for
    /// `deny`, and as the IPv4 address for everything else.
    pub fn permits(&self, address: IpAddr) -> bool {
        let canonical = address.to_canonical();
        !self.denies(address)
            && (self.allow.iter().any(|range| range.contains(&canonical)) || special_use(canonical).is_none())
    }

    /// Whether we may connect to an address that a name resolves to.
    pub fn permits_resolved(&self, address: IpAddr) -> bool {
        match (self.nat64, behind_nat64(address)) {
            (Nat64::Decode, Some(inner)) => !self.denies(address) && self.permits(IpAddr::V4(inner)),
            (Nat64::Decode | Nat64::Deny, _) => self.permits(address),
        }
    }

    fn denies(&self, address: IpAddr) -> bool {
        let canonical = address.to_canonical();
        self.deny.iter().any(|range| range.contains(&address) || range.contains(&canonical))
    }

    /// Whether endpoints may be on the host of that name: all where none is listed.
    pub fn permits_name(&self, name: &str) -> bool {
        self.hosts.is_empty() || self.hosts.iter().any(|host| host.allows_name(name))
    }

    /// Whether a URL may hold that address: any where no host is listed.
    pub fn permits_literal(&self, address: IpAddr) -> bool {
        self.hosts.is_empty() || self.hosts.contains(&HostPattern::Address(address))
    }

    /// Whether we would talk to ourselves: the port is one that we listen on, and the address one of this machine. It
    /// does not matter on which of them we listen: none of them is anybody's endpoint. A port that is not known is taken
    /// for one of ours.
    pub fn is_own(&self, address: IpAddr, port: Option<u16>) -> bool {
        let ours = |listener: &SocketAddr| port.is_none_or(|port| listener.port() == port);
        let address = behind_nat64(address).map_or(address.to_canonical(), IpAddr::V4);
        self.listeners.iter().any(ours) && is_local(address)
    }
}

/// Whether the address is one of this machine. Only such can be bound to; the unspecified one, which can be too, leads
/// to loopback. Nothing is sent. Where nobody can say, it is taken for one.
fn is_local(address: IpAddr) -> bool {
    match UdpSocket::bind((address, 0)) {
        Ok(_) => true,
        Err(error) => error.kind() != io::ErrorKind::AddrNotAvailable,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ip(text: &str) -> IpAddr {
        text.parse().expect("the test's own address parses")
    }

    fn nets(list: &[&str]) -> Vec<IpNet> {
        list.iter().map(|net| net.parse().expect("the test's own net parses")).collect()
    }

    fn policy(allow: &[&str], deny: &[&str]) -> EgressPolicy {
        EgressPolicy::new(nets(allow), nets(deny))
    }

    #[test]
    fn the_operator_opens_a_range_and_nothing_beside_it() {
        let policy = policy(&["127.0.0.0/8", "fd00:1::/32"], &[]);
        for text in ["127.0.0.1", "::ffff:127.0.0.1", "fd00:1::5", "8.8.8.8"] {
            assert!(policy.permits(ip(text)), "{text} must be permitted");
        }
        for text in ["10.0.0.1", "fd00:2::5", "::1", "::ffff:10.0.0.1"] {
            assert!(!policy.permits(ip(text)), "{text} must be refused");
        }
    }

    #[test]
    fn a_denied_range_wins_over_an_allowed_one_and_over_the_public_internet() {
        let policy = policy(&["10.0.0.0/8", "8.8.8.0/24"], &["10.1.0.0/16", "8.8.8.8/32", "2606:4700::/32"]);
        for text in ["10.1.0.1", "8.8.8.8", "::ffff:8.8.8.8", "::ffff:10.1.0.1", "2606:4700::1"] {
            assert!(!policy.permits(ip(text)), "{text} must be refused");
        }
        for text in ["10.2.0.1", "8.8.8.9", "2606:4701::1"] {
            assert!(policy.permits(ip(text)), "{text} must be permitted");
        }
    }

    #[test]
    fn denying_the_mapped_form_denies_mapped_answers_alone() {
        let policy = policy(&[], &["::ffff:0:0/96"]);
        assert!(!policy.permits(ip("::ffff:8.8.8.8")));
        assert!(policy.permits(ip("8.8.8.8")));
    }

    #[test]
    fn allowing_everything_in_ipv4_does_not_open_ipv6() {
        let policy = policy(&["0.0.0.0/0"], &[]);
        assert!(policy.permits(ip("127.0.0.1")));
        assert!(!policy.permits(ip("::1")));
    }

    #[test]
    fn an_address_behind_nat64_is_judged_as_what_it_carries_where_the_operator_says_so() {
        let config = Config { nat64: Nat64::Decode, deny_cidrs: nets(&["8.8.4.4/32"]), ..Config::default() };
        let policy = EgressPolicy::of(&config, &[]);
        assert!(policy.permits_resolved(ip("64:ff9b::8.8.8.8")));
        let forbidden = ["64:ff9b::127.0.0.1", "64:ff9b::169.254.169.254", "64:ff9b::8.8.4.4", "64:ff9b::0.0.0.0"];
        for text in forbidden.into_iter().chain(["64:ff9b:1::8.8.8.8", "2002:808:808::", "::8.8.8.8", "::1"]) {
            assert!(!policy.permits_resolved(ip(text)), "{text} must be refused");
        }
        assert!(!policy.permits(ip("64:ff9b::8.8.8.8")), "in a URL it is refused");
        assert!(!EgressPolicy::default().permits_resolved(ip("64:ff9b::8.8.8.8")), "unless the operator says so");
        let denied = Config { deny_cidrs: nets(&["64:ff9b::/96"]), ..config };
        assert!(!EgressPolicy::of(&denied, &[]).permits_resolved(ip("64:ff9b::8.8.8.8")), "a closed range wins");
    }

    fn hosts(list: &[&str]) -> EgressPolicy {
        let allow_hosts = list.iter().map(|host| (*host).to_owned().try_into().expect("a pattern")).collect();
        EgressPolicy::of(&Config { allow_hosts, ..Config::default() }, &[])
    }

    #[test]
    fn only_listed_hosts_are_permitted_where_any_is_listed() {
        let policy = hosts(&["Hooks.Example.com.", "*.partner.example", "8.8.8.8", "2606:4700::1"]);
        for name in ["hooks.example.com", "a.partner.example", "a.b.partner.example"] {
            assert!(policy.permits_name(name), "{name}");
        }
        for name in ["example.com", "a.hooks.example.com", "partner.example", "evilpartner.example", "8.8.8.8"] {
            assert!(!policy.permits_name(name), "{name}");
        }
        assert!(policy.permits_literal(ip("8.8.8.8")) && policy.permits_literal(ip("2606:4700:0::1")));
        assert!(!policy.permits_literal(ip("8.8.4.4")));
        assert!(hosts(&[]).permits_name("example.com") && hosts(&[]).permits_literal(ip("8.8.4.4")));
    }

    #[test]
    fn what_is_no_host_is_no_pattern() {
        for text in
            ["", "*", "*.", "**.example.com", "a.*.com", "https://example.com", "example.com:443", "a b", "-a.com"]
        {
            assert!(HostPattern::try_from(text.to_owned()).is_err(), "{text}");
        }
        for text in ["example.com", "*.example.com", "8.8.8.8", "2606:4700::1"] {
            assert_eq!(HostPattern::try_from(text.to_owned()).expect("a pattern").to_string(), text);
        }
    }

    #[test]
    fn our_own_listeners_are_nobodys_endpoint() {
        let listeners = ["0.0.0.0:8080", "127.0.0.1:9090"].map(|address| address.parse().expect("an address"));
        let policy = EgressPolicy::of(&Config::default(), &listeners);
        for (address, port, own) in [
            ("127.0.0.1", Some(8080), true),
            ("127.0.0.2", Some(8080), true),
            ("::ffff:127.0.0.1", Some(8080), true),
            ("64:ff9b::127.0.0.1", Some(8080), true),
            ("0.0.0.0", Some(9090), true),
            ("127.0.0.1", None, true),
            ("127.0.0.1", Some(8443), false),
            ("8.8.8.8", Some(8080), false),
            ("8.8.8.8", None, false),
        ] {
            assert_eq!(policy.is_own(ip(address), port), own, "{address} {port:?}");
        }
        assert!(!EgressPolicy::default().is_own(ip("127.0.0.1"), None), "who does not listen has no port");
    }
}
