use proptest::prelude::*;

use super::*;

fn refusal(raw: &str) -> Result<String, &'static str> {
    EndpointUrl::parse(raw, &EgressPolicy::default()).map(|url| url.text).map_err(UrlRefusal::reason)
}

/// Each line is a verdict and a URL in which `␠`, `␉`, `␊`, `␀` stand for the character they picture, and `¬`
/// for a soft hyphen.
const REFUSED: &str = r"
    forbidden_character  ␠https://example.com/
    forbidden_character  https://example.com/␠
    forbidden_character  https://exa␉mple.com/
    forbidden_character  https://example.com/␊Host:evil
    forbidden_character  ␊https://example.com/
    forbidden_character  https://example.com/␀
    forbidden_character  https:\\127.0.0.1/
    forbidden_character  https://example.com\@127.0.0.1/
    forbidden_character  https://①②⑦.⓪.⓪.①/
    forbidden_character  https://127。0。0。1/
    forbidden_character  https://exämple.com/
    forbidden_character  https://local¬host/
    forbidden_character  https://example.com/ü
    not_https  http://example.com/
    not_https  http://127.0.0.1:8080/
    not_https  HTTPS://example.com/
    not_https  https:example.com/
    not_https  https:/example.com/
    not_https  https:127.0.0.1
    not_https  ftp://example.com/
    not_https  file:///etc/passwd
    not_https  gopher://example.com/
    not_https  javascript:alert(1)
    not_https  wss://example.com/
    not_https  //example.com/
    not_https  example.com
    not_https  httpshttps://example.com
    host_missing  https://
    host_missing  https:///127.0.0.1/
    host_missing  https:////example.com/
    host_missing  https://?x
    host_missing  https://:8443/
    host_missing  https://[]/
    fragment  https://example.com/#
    fragment  https://example.com/#top
    fragment  https://example.com#@127.0.0.1/
    userinfo  https://@example.com/
    userinfo  https://:@example.com/
    userinfo  https://user@example.com/
    userinfo  https://user:password@example.com/
    userinfo  https://example.com@127.0.0.1/
    userinfo  https://example.com:443@127.0.0.1/
    host_character  https://%31%32%37.0.0.1/
    host_character  https://example%2ecom/
    host_character  https://[fe80::1%25eth0]/
    host_character  https://exam!ple.com/
    host_character  https://example.com,evil.com/
    host_character  https://{host}/
    host_character  https://$host/
    malformed  https://[::1/
    malformed  https://[example.com]/
    malformed  https://[127.0.0.1]/
    malformed  https://[1::2::3]/
    host_missing  https://::1/
    host_label  https://a[b].com/
    address_form  https://0177.0.0.1/
    address_form  https://0x7f.0.0.1/
    address_form  https://0x7f000001/
    address_form  https://2130706433/
    address_form  https://017700000001/
    address_form  https://127.1/
    address_form  https://127.0.1/
    address_form  https://134744072/
    address_form  https://8.8.2056/
    address_form  https://08.8.8.8/
    address_form  https://256.1.1.1/
    address_form  https://1.2.3.4.5/
    address_form  https://example.1/
    address_form  https://0/
    address_forbidden  https://127.0.0.1/
    address_forbidden  https://127.0.0.1./
    address_forbidden  https://127.0.0.1:8443/hook
    address_forbidden  https://0.0.0.0/
    address_forbidden  https://10.0.0.1/
    address_forbidden  https://172.16.0.1/
    address_forbidden  https://192.168.1.1/
    address_forbidden  https://169.254.169.254/latest/meta-data/
    address_forbidden  https://100.100.100.200/
    address_forbidden  https://168.63.129.16/
    address_forbidden  https://255.255.255.255/
    address_forbidden  https://[::]/
    address_forbidden  https://[::1]/
    address_forbidden  https://[::1]:8443/
    address_forbidden  https://[0:0:0:0:0:0:0:1]/
    address_forbidden  https://[::127.0.0.1]/
    address_forbidden  https://[::ffff:127.0.0.1]/
    address_forbidden  https://[::ffff:7f00:1]/
    address_forbidden  https://[::ffff:8.8.8.8]/
    address_forbidden  https://[64:ff9b::a9fe:a9fe]/
    address_forbidden  https://[2002:7f00:1::]/
    address_forbidden  https://[2001:db8::1]/
    address_forbidden  https://[fd00:ec2::254]/
    address_forbidden  https://[fe80::1]/
    address_forbidden  https://[fec0::1]/
    address_forbidden  https://[ff02::1]/
    host_label  https://./
    host_label  https://../
    host_label  https://.example.com/
    host_label  https://example..com/
    host_label  https://example.com../
    host_label  https://-example.com/
    host_label  https://example-.com/
    host_label  https://aaaaaaaaaabbbbbbbbbbccccccccccddddddddddeeeeeeeeeeffffffffffgggg.com/
    host_label  https://xn--a.com/
    host_not_qualified  https://example/
    host_not_qualified  https://example./
    host_not_qualified  https://metadata/computeMetadata/v1/
    host_special_use  https://localhost/
    host_special_use  https://localhost./
    host_special_use  https://LOCALHOST:8443/
    host_special_use  https://app.localhost/
    host_special_use  https://LocalHost.LocalDomain/
    host_special_use  https://metadata.google.internal/
    host_special_use  https://metadata.google.internal./
    host_special_use  https://printer.local/
    host_special_use  https://router.lan/
    host_special_use  https://wiki.corp/
    host_special_use  https://nas.home.arpa/
    host_special_use  https://1.0.0.127.in-addr.arpa/
    host_special_use  https://example.test/
    host_special_use  https://example.invalid/
    host_special_use  https://example.onion/
    host_special_use  https://example.alt/
    host_special_use  https://wiki.intranet/
    port_forbidden  https://example.com:0/
    port_forbidden  https://example.com:22/
    port_forbidden  https://example.com:25/
    port_forbidden  https://example.com:80/
    port_forbidden  https://example.com:444/
    port_forbidden  https://example.com:1023/
    port_forbidden  https://example.com:2049/
    port_forbidden  https://example.com:5060/
    port_forbidden  https://example.com:6000/
    port_forbidden  https://example.com:6667/
    port_forbidden  https://example.com:10080/
    port_forbidden  https://example.com:65536/
    port_forbidden  https://example.com:99999999999/
    port_forbidden  https://example.com:-1/
    port_forbidden  https://example.com:80:443/
    port_forbidden  https://example.com:https/
";

const ACCEPTED: &str = r"
    https://example.com                        https://example.com/
    https://example.com/                       https://example.com/
    https://example.com./hook                  https://example.com/hook
    https://Example.COM/Hook                   https://example.com/Hook
    https://example.com:443/                   https://example.com/
    https://example.com:/                      https://example.com/
    https://example.com:8443/                  https://example.com:8443/
    https://example.com:1024/                  https://example.com:1024/
    https://example.com:65535/                 https://example.com:65535/
    https://example.com?a=b                    https://example.com/?a=b
    https://example.com/a/../b/./c             https://example.com/b/c
    https://example.com/%2e%2e/x               https://example.com/x
    https://example.com/a%20b                  https://example.com/a%20b
    https://example.com/?next=https://a@b:c/   https://example.com/?next=https://a@b:c/
    https://example.com/@user/a:b              https://example.com/@user/a:b
    https://example.com/%23                    https://example.com/%23
    https://example.com/?q='x'                 https://example.com/?q=%27x%27
    https://hooks.slack.com/services/T0/B0/xyz https://hooks.slack.com/services/T0/B0/xyz
    https://xn--exmple-cua.com/                https://xn--exmple-cua.com/
    https://a_b.example.com/                   https://a_b.example.com/
    https://a--b.example.com/                  https://a--b.example.com/
    https://1.example.com/                     https://1.example.com/
    https://localhost.example.com/             https://localhost.example.com/
    https://notlocalhost.com/                  https://notlocalhost.com/
    https://mylocal.example.com/               https://mylocal.example.com/
    https://internal.example.com/              https://internal.example.com/
    https://testing.com/                       https://testing.com/
    https://8.8.8.8/                           https://8.8.8.8/
    https://8.8.8.8.:8443/                     https://8.8.8.8:8443/
    https://[2606:4700:4700::1111]/            https://[2606:4700:4700::1111]/
    https://[2606:4700:4700:0:0:0:0:1111]:8443 https://[2606:4700:4700::1111]:8443/
";

// A5
#[test]
fn a_hostile_url_is_refused_with_its_own_reason() {
    for line in REFUSED.lines().map(str::trim).filter(|line| !line.is_empty()) {
        let (reason, pictured) = line.split_once("  ").expect("a verdict and a URL");
        let raw =
            pictured.replace('␠', " ").replace('␉', "\t").replace('␊', "\n").replace('␀', "\0").replace('¬', "\u{ad}");
        assert_eq!(refusal(&raw), Err(reason), "{pictured}");
    }
}

#[test]
fn a_harmless_url_is_normalised() {
    for line in ACCEPTED.lines().map(str::trim).filter(|line| !line.is_empty()) {
        let (raw, normalised) = line.split_once(' ').expect("a URL and its normal form");
        assert_eq!(refusal(raw), Ok(normalised.trim().to_owned()), "{raw}");
    }
}

#[test]
fn a_url_is_as_long_as_allowed_and_no_longer() {
    let path_bytes = MAX_URL_BYTES - "https://example.com/".len();
    assert!(refusal(&format!("https://example.com/{}", "a".repeat(path_bytes))).is_ok());
    assert_eq!(refusal(&format!("https://example.com/{}", "a".repeat(path_bytes + 1))), Err("too_long"));
    // Normalising turns each quotation mark into three characters.
    assert_eq!(refusal(&format!("https://example.com/{}", "\"".repeat(path_bytes))), Err("too_long"));
}

#[test]
fn a_name_is_as_long_as_dns_allows_and_no_longer() {
    let label = "a".repeat(49);
    let longest = format!("{label}.{label}.{label}.{label}.{label}.com");
    assert_eq!(longest.len(), 253);
    assert!(refusal(&format!("https://{longest}./")).is_ok());
    assert_eq!(refusal(&format!("https://a{longest}/")), Err("host_label"));
}

#[test]
fn the_operator_opens_loopback_literals_but_neither_names_nor_disguises() {
    let policy = EgressPolicy::new(vec!["127.0.0.0/8".parse().expect("a net")], vec![]);
    let parse = |raw: &str| EndpointUrl::parse(raw, &policy).map(|url| url.text).map_err(UrlRefusal::reason);
    assert_eq!(parse("https://127.0.0.1:8443/x"), Ok("https://127.0.0.1:8443/x".to_owned()));
    assert_eq!(parse("https://localhost:8443/x"), Err("host_special_use"));
    assert_eq!(parse("https://2130706433:8443/x"), Err("address_form"));
    assert_eq!(parse("https://[::ffff:127.0.0.1]:8443/x"), Err("address_forbidden"));
    assert_eq!(parse("https://[::1]:8443/x"), Err("address_forbidden"));
    assert_eq!(parse("http://127.0.0.1:8443/x"), Err("not_https"));
}

#[test]
fn an_endpoint_url_prints_its_host_but_not_the_tokens_in_its_path() {
    let url = EndpointUrl::parse("https://example.com/services/s3cret?token=s3cret", &EgressPolicy::default());
    let printed = format!("{url:?}");
    assert!(printed.contains("example.com") && !printed.contains("s3cret"), "{printed}");
}

proptest! {
    #[test]
    fn what_passes_is_https_has_no_userinfo_and_passes_again_unchanged(
        raw in r#"https://[A-Za-z0-9.\-_:\[\]@%\\]{0,24}[/?#]?[ -~]{0,32}"#,
    ) {
        if let Ok(url) = EndpointUrl::parse(&raw, &EgressPolicy::default()) {
            prop_assert!(url.as_str().starts_with(SCHEME));
            let parsed = Url::parse(url.as_str()).expect("a normalised URL parses");
            prop_assert_eq!((parsed.username(), parsed.password()), ("", None));
            prop_assert!(url.as_str().parse::<hyper::Uri>().is_ok(), "the client must be able to send to it");
            prop_assert_eq!(EndpointUrl::parse(url.as_str(), &EgressPolicy::default()), Ok(url));
        }
    }
}
