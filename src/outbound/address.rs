//! Which IP addresses are the public internet.
//!
//! One table, used for address literals in URLs and for every address a name resolves to. The standard library's and
//! others' notions of a "global" address let several of these ranges pass, so none is asked.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::{Ipv4Net, Ipv6Net};

const fn v4(a: u8, b: u8, c: u8, d: u8, prefix: u8) -> Ipv4Net {
    Ipv4Net::new_assert(Ipv4Addr::new(a, b, c, d), prefix)
}

const fn v6(segments: [u16; 8], prefix: u8) -> Ipv6Net {
    let [a, b, c, d, e, f, g, h] = segments;
    Ipv6Net::new_assert(Ipv6Addr::new(a, b, c, d, e, f, g, h), prefix)
}

/// IPv4 ranges that are not the public internet, or that reach the host's own platform.
static SPECIAL_V4: [(Ipv4Net, &str); 20] = [
    (v4(0, 0, 0, 0, 8), "this network; 0.0.0.0 reaches loopback on Linux"),
    (v4(10, 0, 0, 0, 8), "private"),
    (v4(100, 64, 0, 0, 10), "carrier-grade NAT; cloud metadata and overlay networks"),
    (v4(127, 0, 0, 0, 8), "loopback"),
    (v4(168, 63, 129, 16, 32), "cloud platform agent on a public address"),
    (v4(169, 254, 0, 0, 16), "link-local; cloud metadata"),
    (v4(172, 16, 0, 0, 12), "private"),
    (v4(192, 0, 0, 0, 24), "IETF protocols; cloud metadata"),
    (v4(192, 0, 2, 0, 24), "documentation"),
    (v4(192, 31, 196, 0, 24), "AS112"),
    (v4(192, 52, 193, 0, 24), "multicast tunnelling (AMT)"),
    (v4(192, 88, 99, 0, 24), "6to4 relay"),
    (v4(192, 168, 0, 0, 16), "private"),
    (v4(192, 175, 48, 0, 24), "AS112"),
    (v4(198, 18, 0, 0, 15), "benchmarking"),
    (v4(198, 51, 100, 0, 24), "documentation"),
    (v4(203, 0, 113, 0, 24), "documentation"),
    (v4(224, 0, 0, 0, 4), "multicast"),
    (v4(240, 0, 0, 0, 4), "reserved"),
    (v4(255, 255, 255, 255, 32), "broadcast"),
];

/// Only this range is public at all; everything outside it is special: loopback, IPv4-compatible and -translated,
/// NAT64, discard, SRv6, unique local, link-local, site-local, multicast, and what is not yet assigned.
const GLOBAL_UNICAST_V6: Ipv6Net = v6([0x2000, 0, 0, 0, 0, 0, 0, 0], 3);

/// IPv6 ranges inside global unicast that are not the public internet, or that carry an IPv4 address inside.
static SPECIAL_V6: [(Ipv6Net, &str); 5] = [
    (v6([0x2001, 0, 0, 0, 0, 0, 0, 0], 23), "IETF protocols; Teredo carries an IPv4 address"),
    (v6([0x2001, 0xdb8, 0, 0, 0, 0, 0, 0], 32), "documentation"),
    (v6([0x2002, 0, 0, 0, 0, 0, 0, 0], 16), "6to4 carries an IPv4 address"),
    (v6([0x2620, 0x4f, 0x8000, 0, 0, 0, 0, 0], 48), "AS112"),
    (v6([0x3fff, 0, 0, 0, 0, 0, 0, 0], 20), "documentation"),
];

/// Where a translator puts IPv4 addresses for networks that have only IPv6 (RFC 6052).
const NAT64: Ipv6Net = v6([0x64, 0xff9b, 0, 0, 0, 0, 0, 0], 96);

/// The IPv4 address that a translator would connect to for this one; `None` if it is not of the well-known range.
pub(super) fn behind_nat64(address: IpAddr) -> Option<Ipv4Addr> {
    let IpAddr::V6(address) = address else { return None };
    let [.., a, b, c, d] = address.octets();
    NAT64.contains(&address).then(|| Ipv4Addr::new(a, b, c, d))
}

/// Why an address is not a place on the public internet; `None` when it is one.
///
/// An IPv4-mapped address is judged as the IPv4 address inside it. The words are for operators.
pub(super) fn special_use(address: IpAddr) -> Option<&'static str> {
    match address.to_canonical() {
        IpAddr::V4(address) => SPECIAL_V4.iter().find(|(range, _)| range.contains(&address)).map(|(_, why)| *why),
        IpAddr::V6(address) if !GLOBAL_UNICAST_V6.contains(&address) => Some("outside global unicast"),
        IpAddr::V6(address) => SPECIAL_V6.iter().find(|(range, _)| range.contains(&address)).map(|(_, why)| *why),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ip(text: &str) -> IpAddr {
        text.parse().expect("the test's own address parses")
    }

    #[test]
    fn every_special_address_is_refused() {
        let special = "
            0.0.0.0 0.0.0.1 0.1.2.3 0.255.255.255
            10.0.0.0 10.0.0.1 10.255.255.255 172.16.0.1 172.31.255.255 192.168.0.1 192.168.255.255
            100.64.0.1 100.100.100.200 100.127.255.255 127.0.0.1 127.0.0.53 127.255.255.254
            168.63.129.16 169.254.0.1 169.254.169.254 169.254.170.2
            192.0.0.1 192.0.0.192 192.0.0.255 192.0.2.1 198.51.100.7 203.0.113.255
            192.31.196.1 192.52.193.1 192.88.99.1 192.175.48.6 198.18.0.1 198.19.255.255
            224.0.0.1 239.255.255.255 240.0.0.1 254.0.0.1 255.255.255.255
            :: ::1 ::7f00:1 ::127.0.0.1 ::8.8.8.8 ::ffff:127.0.0.1 ::ffff:10.0.0.1 ::ffff:169.254.169.254 ::ffff:0.0.0.0
            ::ffff:0:127.0.0.1 ::ffff:0:8.8.8.8
            64:ff9b::7f00:1 64:ff9b::808:808 64:ff9b:1::1 64:ff9b:1:ffff::a00:1
            100::1 100:0:0:1::1 2001:: 2001::1 2001:0:4136:e378:8000:63bf:3fff:fdd2 2001:2::1 2001:3::1 2001:4:112::1
            2001:10::1 2001:20::1 2001:30::1 2001:1ff:ffff::1 2001:db8::1 2001:db8:ffff::1
            2002:: 2002:7f00:1:: 2002:a00:1::1 2002:808:808::1 2620:4f:8000::1 3fff::1 3fff:fff::1
            5f00::1 fc00::1 fd00:ec2::254 fd20:ce::254 fdff:ffff::1 fe80::1 fe80::a9fe:a9fe febf::1 fec0::1 feff::1
            ff00::1 ff02::1 ff0e::1 4000::1 6000::1 8000::1 a000::1 e000::1 1000::1 200::1 1fff:ffff::1 400::1
        ";
        for text in special.split_whitespace() {
            assert!(special_use(ip(text)).is_some(), "{text} must be special");
        }
    }

    #[test]
    fn public_addresses_are_permitted_up_to_the_edges_of_the_special_ranges() {
        let public = "
            1.1.1.1 8.8.8.8 9.255.255.255 11.0.0.0 100.63.255.255 100.128.0.0 126.255.255.255 128.0.0.1 168.63.129.15
            168.63.129.17 169.253.255.255 169.255.0.0 172.15.255.255 172.32.0.0 191.255.255.255 192.0.1.1 192.0.3.0
            192.31.195.255 192.31.197.0 192.52.192.255 192.52.194.0 192.88.98.255 192.88.100.0 192.167.255.255 192.169.0.0
            192.175.47.255 192.175.49.0 198.17.255.255 198.20.0.0 198.51.99.255 198.51.101.0 203.0.112.255 203.0.114.0
            223.255.255.255 ::ffff:8.8.8.8 ::ffff:808:808
            2000::1 2001:200::1 2001:4860:4860::8888 2001:db7:ffff::1 2001:db9::1 2001:ffff::1 2003::1 2606:4700:4700::1111
            2620:4e::1 2620:4f:7fff::1 2620:4f:8001::1 2a00:1450::1 3ffe::1 3fff:1000::1
        ";
        for text in public.split_whitespace() {
            assert_eq!(special_use(ip(text)), None, "{text} must be public");
        }
    }

    #[test]
    fn only_the_well_known_range_of_nat64_carries_an_address() {
        assert_eq!(behind_nat64(ip("64:ff9b::a9fe:a9fe")), Some(Ipv4Addr::new(169, 254, 169, 254)));
        assert_eq!(behind_nat64(ip("64:ff9b::8.8.8.8")), Some(Ipv4Addr::new(8, 8, 8, 8)));
        for text in ["64:ff9b:1::808:808", "64:ff9b:0:0:0:1:808:808", "::ffff:8.8.8.8", "2002:808:808::", "8.8.8.8"] {
            assert_eq!(behind_nat64(ip(text)), None, "{text}");
        }
    }
}
