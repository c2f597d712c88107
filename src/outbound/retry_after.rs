//! For how long an endpoint asks to be left alone.

use std::time::SystemTime;

use reqwest::header::{DATE, HeaderMap, HeaderName, RETRY_AFTER};

/// The seconds of the answer's `Retry-After` (RFC 9110 §10.2.3); `None` if it has none that can be understood. A date
/// counts from the answer's own `Date`, so that nobody's clock matters.
pub(super) fn seconds(headers: &HeaderMap) -> Option<u64> {
    let value = headers.get(RETRY_AFTER)?.to_str().ok()?.trim();
    if !value.is_empty() && value.bytes().all(|byte| byte.is_ascii_digit()) {
        // More digits than fit are a very long time.
        return Some(value.parse().unwrap_or(u64::MAX));
    }
    let until = httpdate::parse_http_date(value).ok()?;
    let now = date(headers, DATE)?;
    Some(until.duration_since(now).map_or(0, |time| time.as_secs()))
}

fn date(headers: &HeaderMap, name: HeaderName) -> Option<SystemTime> {
    httpdate::parse_http_date(headers.get(name)?.to_str().ok()?).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn seconds_and_dates_are_understood_and_nothing_else() {
        // S23
        let date = "Sun, 06 Nov 1994 08:49:37 GMT";
        for (retry_after, date, expected) in [
            ("120", None, Some(120)),
            (" 0 ", None, Some(0)),
            ("99999999999999999999999", None, Some(u64::MAX)),
            ("Sun, 06 Nov 1994 08:51:37 GMT", Some(date), Some(120)),
            ("Sunday, 06-Nov-94 08:51:37 GMT", Some(date), Some(120)),
            ("Sun, 06 Nov 1994 08:40:00 GMT", Some(date), Some(0)),
            ("Sun, 06 Nov 1994 08:51:37 GMT", None, None),
            ("Sun, 06 Nov 1994 08:51:37 GMT", Some("yesterday"), None),
            ("-1", None, None),
            ("1.5", None, None),
            ("+3", None, None),
            ("soon", Some(date), None),
            ("", None, None),
        ] {
            let mut headers = HeaderMap::new();
            headers.insert(RETRY_AFTER, retry_after.parse().unwrap());
            if let Some(date) = date {
                headers.insert(DATE, date.parse().unwrap());
            }
            assert_eq!(seconds(&headers), expected, "{retry_after:?} {date:?}");
        }
        assert_eq!(seconds(&HeaderMap::new()), None);
    }
}
