//! The credential of a request.
//!
//! A header wins over a cookie. A browser sends the cookie of its own accord, so that whatever may change something, and
//! an upgrade to another protocol, must come from a page of ours: its `Origin` is compared with `Host`.

use std::sync::Arc;

use axum::http::{HeaderMap, Method, header};

use crate::authentication::{Config, KeyRing, NotAuthenticated, Principal, SessionToken};

/// The cookie of a session. Its prefix keeps other hosts and plain connections from setting it.
pub(super) const COOKIE: &str = "__Host-tidings";
/// What a foreign page is told.
pub(super) const FOREIGN_ORIGIN: &str =
    "a session may be used by pages of this server alone: the header 'Origin' says otherwise, or nothing";

/// Why a request has no principal.
#[derive(Debug)]
pub(super) enum Denied {
    /// No credential of a kind that we know.
    Missing,
    /// A credential that is not valid.
    Invalid,
    /// A session, used by a foreign page.
    ForeignOrigin,
    /// Nobody can say.
    Unavailable(NotAuthenticated),
}

/// What a request without `Origin` is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Absent {
    /// No browser's, and so nobody's trap.
    Allowed,
    /// Not to be trusted.
    Refused,
}

/// Whose `Authorization: Bearer …` or session it is.
pub(super) async fn authenticate(
    method: &Method,
    headers: &HeaderMap,
    keys: &KeyRing,
) -> Result<Arc<Principal>, Denied> {
    if headers.contains_key(header::AUTHORIZATION) {
        return keys.authenticate(bearer(headers)?).await.map_err(denied);
    }
    let token = session_token(headers).ok_or(Denied::Missing)?;
    let only_reads = *method == Method::GET && !headers.contains_key(header::UPGRADE);
    if !only_reads && !is_own_origin(headers, keys.config(), Absent::Refused) {
        return Err(Denied::ForeignOrigin);
    }
    keys.session(&token).await.map_err(denied)
}

fn denied(error: NotAuthenticated) -> Denied {
    match error {
        NotAuthenticated::Invalid => Denied::Invalid,
        NotAuthenticated::Unavailable(_) | NotAuthenticated::Sessions(_) => Denied::Unavailable(error),
    }
}

fn bearer(headers: &HeaderMap) -> Result<&str, Denied> {
    let mut values = headers.get_all(header::AUTHORIZATION).iter();
    let (Some(value), None) = (values.next(), values.next()) else { return Err(Denied::Missing) };
    token(value.to_str().map_err(|_| Denied::Missing)?)
}

/// Whose `Bearer …` it is.
pub(super) async fn principal(authorization: &str, keys: &KeyRing) -> Result<Arc<Principal>, Denied> {
    keys.authenticate(token(authorization)?).await.map_err(denied)
}

fn token(authorization: &str) -> Result<&str, Denied> {
    let (scheme, token) = authorization.split_once(' ').ok_or(Denied::Missing)?;
    if scheme.eq_ignore_ascii_case("bearer") { Ok(token.trim()) } else { Err(Denied::Missing) }
}

/// The session's cookie, if there is exactly one.
pub(super) fn session_token(headers: &HeaderMap) -> Option<SessionToken> {
    let lines = headers.get_all(header::COOKIE).iter().filter_map(|value| value.to_str().ok());
    let pairs = lines.flat_map(|line| line.split(';')).filter_map(|pair| pair.trim().split_once('='));
    let mut ours = pairs.filter(|(name, _)| *name == COOKIE).map(|(_, value)| value);
    match (ours.next(), ours.next()) {
        (Some(value), None) => Some(SessionToken::presented(value)),
        (_, _) => None,
    }
}

/// Whether the page behind a request is this server's own, or one that the operator named. The scheme of the server is
/// not compared: the proxy in front of it knows it, we do not.
pub(super) fn is_own_origin(headers: &HeaderMap, config: &Config, absent: Absent) -> bool {
    let text = |name| headers.get(name).map(|value| value.to_str().unwrap_or_default());
    let Some(origin) = text(header::ORIGIN) else { return absent == Absent::Allowed };
    let authority = origin.strip_prefix("https://").or_else(|| origin.strip_prefix("http://"));
    let own = text(header::HOST).filter(|host| !host.is_empty());
    authority.is_some_and(|authority| own.is_some_and(|own| own.eq_ignore_ascii_case(authority)))
        || config.origins.iter().any(|allowed| allowed == origin)
}

#[cfg(test)]
mod tests {
    use axum::http::HeaderValue;

    use super::*;

    fn headers(pairs: &[(&'static str, &'static str)]) -> HeaderMap {
        pairs.iter().map(|(name, value)| (name.parse().unwrap(), HeaderValue::from_static(value))).collect()
    }

    #[test]
    fn a_page_of_another_origin_is_foreign() {
        let config = Config { origins: vec!["https://admin.example".into()], ..Config::default() };
        for (origin, own) in [
            ("https://hooks.example", true),
            ("http://hooks.example", true),
            ("https://admin.example", true),
            ("http://admin.example", false),
            ("https://hooks.example.evil", false),
            ("https://evil.example", false),
            ("null", false),
            ("", false),
        ] {
            let headers = headers(&[("host", "hooks.example"), ("origin", origin)]);
            assert_eq!(is_own_origin(&headers, &config, Absent::Refused), own, "{origin}");
        }
        let silent = headers(&[("host", "hooks.example")]);
        assert!(is_own_origin(&silent, &config, Absent::Allowed) && !is_own_origin(&silent, &config, Absent::Refused));
        assert!(!is_own_origin(&headers(&[("origin", "https://")]), &config, Absent::Allowed));
    }

    #[test]
    fn one_cookie_is_a_session_and_two_are_none() {
        let token =
            |line: &'static str| session_token(&headers(&[("cookie", line)])).map(|token| token.expose().to_owned());
        assert_eq!(token("a=b; __Host-tidings=abc; c=d").as_deref(), Some("abc"));
        for line in ["", "tidings=abc", "__Host-tidings", "__Host-tidings=a; __Host-tidings=b"] {
            assert_eq!(token(line), None, "{line}");
        }
    }
}
