//! The classifier of addresses against a table of its own, written as arithmetic on numbers.
#![no_main]

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::IpNet;
use libfuzzer_sys::fuzz_target;
use tidings::outbound::EgressPolicy;

fuzz_target!(|bytes: [u8; 18]| {
    let [kind, prefix, rest @ ..] = bytes;
    let address: IpAddr = match kind % 4 {
        0 => Ipv4Addr::from([rest[0], rest[1], rest[2], rest[3]]).into(),
        1 => Ipv4Addr::from([rest[0], rest[1], rest[2], rest[3]]).to_ipv6_mapped().into(),
        2 => Ipv6Addr::from(rest).into(),
        // Inside the one public range.
        _ => Ipv6Addr::from(u128::from_be_bytes(rest) >> 3 | 1 << 125).into(),
    };
    let policy = EgressPolicy::default();
    assert_eq!(policy.permits(address), is_public(address), "{address}");

    let canonical = address.to_canonical();
    let width = if canonical.is_ipv4() { 32 } else { 128 };
    let range = IpNet::new(canonical, prefix % (width + 1)).expect("the prefix fits").trunc();
    let opened = EgressPolicy::new(vec![range], vec![]);
    assert!(opened.permits(address), "{address} is in {range}");
    let closed = EgressPolicy::new(vec![range], vec![range]);
    assert!(!closed.permits(address), "{address} is in {range}, which is closed");
});

fn is_public(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(address) => is_public_v4(u32::from(address)),
        IpAddr::V6(address) => match address.to_ipv4_mapped() {
            Some(inside) => is_public_v4(u32::from(inside)),
            None => is_public_v6(u128::from(address)),
        },
    }
}

fn is_public_v4(number: u32) -> bool {
    let octets = number.to_be_bytes();
    !matches!(
        octets,
        [0 | 10 | 127, ..]
            | [100, 64..=127, ..]
            | [168, 63, 129, 16]
            | [169, 254, ..]
            | [172, 16..=31, ..]
            | [192, 0, 0 | 2, _]
            | [192, 31, 196, _]
            | [192, 52, 193, _]
            | [192, 88, 99, _]
            | [192, 168, ..]
            | [192, 175, 48, _]
            | [198, 18 | 19, ..]
            | [198, 51, 100, _]
            | [203, 0, 113, _]
            | [224..=255, ..]
    )
}

fn is_public_v6(number: u128) -> bool {
    let [a, b, c] = [number >> 112, number >> 96 & 0xffff, number >> 80 & 0xffff];
    (0x2000..=0x3fff).contains(&a)
        && !(a == 0x2001 && b < 0x200)
        && !(a == 0x2001 && b == 0xdb8)
        && a != 0x2002
        && !(a == 0x2620 && b == 0x4f && c == 0x8000)
        && !(a == 0x3fff && b < 0x1000)
}
