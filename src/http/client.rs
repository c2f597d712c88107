//! Who is at the other end: the client's address, also behind proxies that the operator trusts.
//!
//! A proxy adds the address that it took the request from at the end of `X-Forwarded-For`. So the list is read from its
//! end, as long as whoever added the entry is trusted; what stands before it anybody may have written.

use std::net::{IpAddr, SocketAddr};

use axum::extract::ConnectInfo;
use axum::http::request::Parts;
use axum::http::{Extensions, HeaderMap};
use ipnet::IpNet;

/// The proxies whose word counts.
#[derive(Clone, Debug, Default)]
pub struct TrustedProxies(Vec<IpNet>);

/// Who sent a request. Put into its extensions by the layer around every route.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Client {
    /// Their address; an IPv4-mapped one as IPv4.
    pub(super) address: IpAddr,
    /// Whether they came by TLS, as a trusted proxy says.
    pub(super) by_tls: bool,
    /// Whether a proxy handed the request over, trusted or not, as far as it says so.
    pub(super) by_proxy: bool,
}

/// What proxies add.
const OF_PROXIES: [&str; 5] = ["forwarded", "via", "x-forwarded-for", "x-forwarded-host", "x-forwarded-proto"];

impl TrustedProxies {
    /// Proxies in these ranges.
    pub fn new(ranges: Vec<IpNet>) -> Self {
        Self(ranges)
    }

    pub(super) fn contains(&self, address: IpAddr) -> bool {
        self.0.iter().any(|range| range.contains(&address.to_canonical()))
    }

    /// Who sent the request that `peer` handed over.
    pub(super) fn client(&self, peer: IpAddr, headers: &HeaderMap) -> Client {
        let mut address = peer.to_canonical();
        let by_tls = self.contains(address) && last(headers, "x-forwarded-proto").is_some_and(|proto| proto == "https");
        let lines = headers.get_all("x-forwarded-for").iter().rev();
        // As bytes: what a client wrote before it, whatever it is, must not hide what the proxy added.
        let hops = lines.flat_map(|line| line.as_bytes().rsplit(|byte| *byte == b','));
        for hop in hops {
            if !self.contains(address) {
                break;
            }
            match written(hop.trim_ascii()) {
                Some(before) => address = before.to_canonical(),
                None => break,
            }
        }
        let by_proxy = self.contains(peer) || OF_PROXIES.iter().any(|name| headers.contains_key(*name));
        Client { address, by_tls, by_proxy }
    }
}

/// An address, with a port or without.
fn written(hop: &[u8]) -> Option<IpAddr> {
    let hop = std::str::from_utf8(hop).ok()?;
    hop.parse().ok().or_else(|| hop.parse::<SocketAddr>().ok().map(|address| address.ip()))
}

fn last<'a>(headers: &'a HeaderMap, name: &str) -> Option<&'a str> {
    let line = headers.get_all(name).iter().next_back()?.to_str().ok()?;
    line.rsplit(',').next().map(str::trim)
}

/// The other end of the connection; absent where a request came by none.
pub(super) fn peer(extensions: &Extensions) -> Option<IpAddr> {
    extensions.get::<ConnectInfo<SocketAddr>>().map(|peer| peer.0.ip())
}

/// The client's address, for the audit log and for throttling.
pub(super) fn address(parts: &Parts) -> Option<String> {
    parts.extensions.get::<Client>().map(|client| client.address.to_string())
}

/// Whether a proxy handed the request over, as far as it says so.
pub(super) fn is_by_proxy(parts: &Parts) -> bool {
    parts.extensions.get::<Client>().is_some_and(|client| client.by_proxy)
}

#[cfg(test)]
mod tests {
    use axum::http::HeaderValue;

    use super::*;

    fn address(peer: &str, lines: &[&str]) -> String {
        let proxies = TrustedProxies::new(vec!["10.0.0.0/8".parse().unwrap(), "fd00::/8".parse().unwrap()]);
        let mut headers = HeaderMap::new();
        for line in lines {
            headers.append("x-forwarded-for", HeaderValue::from_bytes(line.as_bytes()).unwrap());
        }
        proxies.client(peer.parse().unwrap(), &headers).address.to_string()
    }

    #[test]
    fn the_list_counts_as_far_as_trusted_proxies_wrote_it() {
        for (peer, lines, client) in [
            // Nobody's word counts but a trusted proxy's.
            ("8.8.8.8", &["1.1.1.1"][..], "8.8.8.8"),
            ("127.0.0.1", &["1.1.1.1"], "127.0.0.1"),
            ("10.0.0.1", &[], "10.0.0.1"),
            ("10.0.0.1", &["8.8.8.8"], "8.8.8.8"),
            // What the client wrote itself stands before what the proxy added.
            ("10.0.0.1", &["1.1.1.1, 8.8.8.8"], "8.8.8.8"),
            ("10.0.0.1", &["1.1.1.1", "8.8.8.8"], "8.8.8.8"),
            ("10.0.0.1", &["10.9.9.9, 8.8.8.8"], "8.8.8.8"),
            ("10.0.0.1", &["é, 8.8.8.8"], "8.8.8.8"),
            // Two proxies of ours.
            ("10.0.0.1", &["1.1.1.1, 8.8.8.8, 10.0.0.2"], "8.8.8.8"),
            ("10.0.0.1", &["1.1.1.1, 8.8.8.8", "10.0.0.2"], "8.8.8.8"),
            ("10.0.0.1", &["10.0.0.3, 10.0.0.2"], "10.0.0.3"),
            // What is no address ends the list.
            ("10.0.0.1", &["8.8.8.8, unknown"], "10.0.0.1"),
            ("10.0.0.1", &["8.8.8.8, unknown, 10.0.0.2"], "10.0.0.2"),
            ("10.0.0.1", &["", ""], "10.0.0.1"),
            ("10.0.0.1", &["8.8.8.8:4711"], "8.8.8.8"),
            ("fd00::1", &["[2001:4860::1]:4711"], "2001:4860::1"),
            ("fd00::1", &["2001:4860::1"], "2001:4860::1"),
            ("::ffff:10.0.0.1", &["::ffff:8.8.8.8"], "8.8.8.8"),
        ] {
            assert_eq!(address(peer, lines), client, "{peer} {lines:?}");
        }
    }

    #[test]
    fn only_a_trusted_proxy_can_say_that_the_client_came_by_tls() {
        let proxies = TrustedProxies::new(vec!["10.0.0.0/8".parse().unwrap()]);
        for (peer, proto, by_tls) in [
            ("10.0.0.1", "https", true),
            ("10.0.0.1", "http, https", true),
            ("10.0.0.1", "https, http", false),
            ("10.0.0.1", "http", false),
            ("8.8.8.8", "https", false),
        ] {
            let headers = HeaderMap::from_iter([("x-forwarded-proto".parse().unwrap(), proto.parse().unwrap())]);
            assert_eq!(proxies.client(peer.parse().unwrap(), &headers).by_tls, by_tls, "{peer} {proto}");
        }
    }
}
