//! The header lines of an answer that are kept, as text that is safe to store and to show.
//!
//! - They are few: [`MAX_HEADERS`], and [`MAX_TOTAL_BYTES`] of names and values. First come those of [`TELLING`], in that
//!   order, then the others as they came. What does not fit is left out.
//! - None is a credential: neither by its name ([`WITHHELD`]), nor by what stands in it.
//!
//! What an endpoint sends back of a subscription's custom headers is hidden behind this, where they are known, and what
//! may let somebody in behind that ([`without_access`]).

use reqwest::header::HeaderMap;

use super::excerpt::excerpt;
use crate::domain::outcome::MASK;

/// Most header lines that are kept.
const MAX_HEADERS: usize = 16;
/// Most bytes of all names and values together.
const MAX_TOTAL_BYTES: usize = 1024;
/// Most bytes of one value; the rest of it is cut off.
const MAX_VALUE_BYTES: usize = 256;

/// What explains a failure best: why and until when, who answered, and under which id they find it in their own logs.
const TELLING: [&str; 20] = [
    "retry-after",
    "www-authenticate",
    "location",
    "allow",
    "content-type",
    "x-request-id",
    "request-id",
    "x-correlation-id",
    "x-trace-id",
    "traceparent",
    "cf-ray",
    "x-amzn-requestid",
    "x-amzn-errortype",
    "x-amz-cf-id",
    "x-azure-ref",
    "server",
    "via",
    "x-cache",
    "date",
    "content-encoding",
];

/// Says how the answer was framed, which its length tells.
const FRAMING: [&str; 5] = ["connection", "content-length", "keep-alive", "trailer", "transfer-encoding"];

/// Whatever has one of these in its name may be a credential; `www-authenticate` asks for one.
const WITHHELD: [&str; 11] =
    ["auth", "cookie", "credential", "csrf", "jwt", "key", "passw", "secret", "session", "signature", "token"];

/// Behind one of these words and a space stands a credential, or what a challenge says in `name=value`.
const SCHEMES: [&str; 5] = ["basic", "bearer", "digest", "negotiate", "ntlm"];

/// Names and values, the telling ones first.
pub(super) fn kept(answer: &HeaderMap) -> Vec<(String, String)> {
    let lines = answer.iter().map(|(name, value)| (name.as_str(), value.as_bytes()));
    let mut lines: Vec<_> = lines.filter(|(name, _)| !is_withheld(name)).collect();
    lines.sort_by_key(|(name, _)| TELLING.iter().position(|telling| telling == name).unwrap_or(TELLING.len()));
    let mut room = MAX_TOTAL_BYTES;
    let mut kept = Vec::new();
    for (name, value) in lines {
        let Some(value) = shown(value) else { continue };
        let bytes = name.len() + value.len();
        if kept.len() < MAX_HEADERS && bytes <= room {
            room -= bytes;
            kept.push((name.to_owned(), value));
        }
    }
    kept
}

fn is_withheld(name: &str) -> bool {
    let credential = name != "www-authenticate" && WITHHELD.iter().any(|part| name.contains(part));
    credential || FRAMING.contains(&name) || name.len() > MAX_VALUE_BYTES
}

/// The value as it is kept; `None` of a credential.
fn shown(value: &[u8]) -> Option<String> {
    let (text, _) = excerpt(value, MAX_VALUE_BYTES);
    (!is_credential(&text)).then_some(text)
}

fn is_credential(value: &str) -> bool {
    let mut words = value.split([' ', ',', ';', '=', '"']);
    words.any(is_web_token) || follows_scheme(value)
}

/// A JSON web token: its header is an object in base64, so its first characters are known.
fn is_web_token(word: &str) -> bool {
    word.starts_with("eyJ") && word.contains('.')
}

fn follows_scheme(value: &str) -> bool {
    let Some((scheme, rest)) = value.split_once(' ') else { return false };
    // At its end, `=` fills up base64.
    SCHEMES.iter().any(|known| known.eq_ignore_ascii_case(scheme)) && !rest.trim_end_matches('=').contains('=')
}

/// The value without what may let whoever has it in: what stands behind `?` or `#` of an address, and users before a host.
/// Goes behind the hiding of what is known to be secret, which must find it whole.
pub fn without_access(value: &str) -> String {
    let end = value.find(['?', '#']);
    let mut kept = end.map_or_else(|| value.to_owned(), |end| format!("{}{MASK}", &value[..=end]));
    let mut from = 0;
    while let Some(slashes) = kept[from..].find("//") {
        from += slashes + 2;
        let authority = kept[from..].split(['/', ' ', ',', ';', '"', '<', '>']).next().unwrap_or_default();
        if let Some(user) = authority.rfind('@') {
            kept.replace_range(from..from + user, MASK);
        }
    }
    kept
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use reqwest::header::{HeaderName, HeaderValue};

    use super::*;
    use crate::outbound::excerpt::is_plain;

    fn kept_of<'a>(lines: impl IntoIterator<Item = (&'a str, &'a [u8])>) -> Vec<(String, String)> {
        let mut answer = HeaderMap::new();
        for (name, value) in lines {
            answer.append(HeaderName::try_from(name).unwrap(), HeaderValue::from_bytes(value).unwrap());
        }
        kept(&answer)
    }

    fn value_of(name: &str, value: &str) -> Option<String> {
        kept_of([(name, value.as_bytes())]).pop().map(|(_, value)| without_access(&value))
    }

    #[test]
    fn telling_headers_come_first_and_framing_is_left_out() {
        let lines: [(&str, &[u8]); 7] = [
            ("X-Powered-By", b"PHP"),
            ("Date", b"Mon, 23 Nov 2026 09:00:00 GMT"),
            ("Content-Length", b"12"),
            ("Content-Type", b"text/html"),
            ("Connection", b"keep-alive"),
            ("Server", b"nginx"),
            ("Retry-After", b"120"),
        ];
        let names: Vec<_> = kept_of(lines).into_iter().map(|(name, _)| name).collect();
        assert_eq!(names, ["retry-after", "content-type", "server", "date", "x-powered-by"]);
    }

    #[test]
    fn credentials_are_never_kept() {
        for name in [
            "set-cookie",
            "set-cookie2",
            "authorization",
            "proxy-authorization",
            "authentication-info",
            "x-api-key",
            "x-amz-security-token",
            "x-session-id",
            "x-csrf",
            "x-refresh-token",
            "x-client-secret",
        ] {
            assert_eq!(value_of(name, "value"), None, "{name}");
        }
        for value in
            ["Bearer abc123", "bearer abc==", "Basic dXNlcjpwYXNz", "token=eyJhbGciOiJub25lIn0.e30.", "NTLM abc"]
        {
            assert_eq!(value_of("x-anything", value), None, "{value}");
        }
        let challenge = "Bearer realm=\"hooks\", error=\"invalid_token\"";
        assert_eq!(value_of("www-authenticate", challenge).as_deref(), Some(challenge));
        assert_eq!(value_of("www-authenticate", "Negotiate YIIabc=="), None);
    }

    #[test]
    fn an_address_is_kept_without_its_query_and_user() {
        for (given, kept) in [
            ("https://example.com/login?code=secret", "https://example.com/login?***"),
            ("/login#token", "/login#***"),
            ("https://user:secret@example.com/x", "https://***@example.com/x"),
            ("https://example.com/@user", "https://example.com/@user"),
            ("/plain", "/plain"),
            ("//user:secret@example.com/", "//***@example.com/"),
            ("<https://a:b@x.example/>, <https://c:d@y.example>", "<https://***@x.example/>, <https://***@y.example>"),
            ("a//b//c", "a//b//c"),
        ] {
            assert_eq!(value_of("location", given).as_deref(), Some(kept));
        }
    }

    #[test]
    fn long_values_are_cut_and_what_does_not_fit_is_left_out() {
        let long = "v".repeat(300);
        assert_eq!(value_of("x-first", &long).map(|value| value.len()), Some(MAX_VALUE_BYTES));
        let lines = ["x-a", "x-b", "x-c", "x-d", "x-e"].map(|name| (name, long.as_bytes()));
        let names: Vec<_> =
            kept_of(lines.into_iter().chain([("x-f", &b"short"[..])])).into_iter().map(|(n, _)| n).collect();
        assert_eq!(names, ["x-a", "x-b", "x-c", "x-f"]);
    }

    #[test]
    fn values_are_escaped_as_bodies_are() {
        let kept = kept_of([("x-odd", &b"a\tb\xff\xe2\x80\xae"[..])]);
        assert_eq!(kept[0].1, r"a\tb\xff\u{202e}");
    }

    proptest! {
        #[test]
        fn whatever_an_endpoint_sends_is_kept_within_bounds(
            lines in prop::collection::vec(("[a-z-]{1,40}", prop::collection::vec(0x20_u8..0x7f, 0..400)), 0..64),
        ) {
            let kept = kept_of(lines.iter().map(|(name, value)| (name.as_str(), value.as_slice())));
            prop_assert!(kept.len() <= MAX_HEADERS);
            let bytes: usize = kept.iter().map(|(name, value)| name.len() + value.len()).sum();
            prop_assert!(bytes <= MAX_TOTAL_BYTES);
            prop_assert!(kept.iter().all(|(_, value)| value.chars().all(is_plain)));
        }
    }
}
