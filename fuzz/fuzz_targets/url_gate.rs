//! The URL gate: whatever it accepts means the same to the parser that dials, and points at nothing that is forbidden.
#![no_main]

use libfuzzer_sys::fuzz_target;
use tidings::outbound::{EgressPolicy, EndpointHost, EndpointUrl, MAX_URL_BYTES};
use url::{Host, Url};

fuzz_target!(|raw: &str| {
    let policy = EgressPolicy::default();
    let Ok(accepted) = EndpointUrl::parse(raw, &policy) else { return };
    let text = accepted.as_str();
    assert_eq!(EndpointUrl::parse(text, &policy).as_ref(), Ok(&accepted), "what is stored passes again unchanged");
    assert!(text.len() <= MAX_URL_BYTES && text.starts_with("https://") && text.is_ascii(), "{text}");
    let dialled = Url::parse(text).expect("what is accepted is a URL");
    assert!(dialled.username().is_empty() && dialled.password().is_none() && dialled.fragment().is_none(), "{text}");
    match (accepted.host(), dialled.host()) {
        (EndpointHost::Name(name), Some(Host::Domain(host))) => {
            assert_eq!(name, host);
            assert!(name.contains('.') && name.parse::<std::net::IpAddr>().is_err(), "{name}");
        }
        (EndpointHost::Address(address), Some(Host::Ipv4(host))) => assert_eq!(*address, host),
        (EndpointHost::Address(address), Some(Host::Ipv6(host))) => assert_eq!(*address, host),
        (checked, dialled) => panic!("{checked:?} was checked, {dialled:?} is dialled"),
    }
    if let EndpointHost::Address(address) = accepted.host() {
        assert!(policy.permits(*address), "{address}");
    }
});
