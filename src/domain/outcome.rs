//! How an attempt ended.

use serde::{Deserialize, Serialize};

/// What stands in place of a value wherever one would be shown.
pub const MASK: &str = "***";

/// Most bytes of a body's beginning, wherever one is kept or shown.
pub const MAX_BODY_PREVIEW_BYTES: usize = 1024;

/// Why an attempt failed. The words are stored in events and shown by the API; none names an internal address.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum FailureCode {
    /// The endpoint answered, with a status that the profile does not count as success.
    Status,
    /// The whole answer was not there within the time limit.
    Timeout,
    /// The host name did not resolve.
    Dns,
    /// No connection could be made, or it broke before the answer began.
    Connect,
    /// The certificate has expired.
    TlsExpired,
    /// The certificate is not yet valid.
    TlsNotYetValid,
    /// The certificate is for another name.
    TlsWrongName,
    /// Nobody whom we trust has issued the certificate; one that signs itself among them.
    TlsUntrusted,
    /// The endpoint speaks no version of TLS that we do.
    TlsVersion,
    /// The TLS handshake did not end in time.
    TlsTimeout,
    /// The connection was closed or reset during the TLS handshake.
    TlsReset,
    /// The TLS handshake failed in another way. In events from before the codes above, in any.
    Tls,
    /// Our own egress rules forbid the address.
    Blocked,
    /// The answer's header lines are too many or too long.
    Headers,
    /// The answer is no HTTP, or began and broke off.
    Body,
    /// Our own process gave up: shutdown, or a fault inside it.
    Aborted,
}

/// What a failed attempt says about the endpoint; the profile decides. The words are stored in events and shown by the API.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum FailureClass {
    /// It does not cope for the moment: tried again, and no reason to stop calling it (S23).
    Soft,
    /// It is broken or away: tried again, and counted.
    Hard,
    /// It wants nothing any more.
    Gone,
    /// Nothing: our own process or its rules kept the attempt from being made.
    Local,
}

/// What the endpoint said, as far as it is kept.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Response {
    /// HTTP status.
    pub status: u16,
    /// The beginning of the body, at most 1 KiB of text; bytes that are no UTF-8 and control characters are escaped.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub preview: String,
    /// Whether the body was longer than the preview.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub truncated: bool,
    /// For how long the endpoint asked to be left alone (`Retry-After`), in seconds from its answer.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub retry_after_s: Option<u64>,
    /// How long the body was, in bytes: what was read of it, or announced if that is more. Where the preview tells it, it
    /// is not recorded; see [`Self::size_bytes`].
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub body_bytes: Option<u64>,
    /// Names and values of header lines that may explain a failure, the telling ones first: at most 16, and 1 KiB of them.
    /// Escaped as the preview is, and no credentials. Of failed attempts alone: successes are most of what is
    /// recorded, and need no explanation.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub headers: Vec<(String, String)>,
}

impl Response {
    /// How long the body was, in bytes; `None` of some that were recorded before that was.
    pub fn size_bytes(&self) -> Option<u64> {
        self.body_bytes.or_else(|| self.preview_bytes())
    }

    /// What is recorded of the answer to a failed attempt.
    pub fn of_failure(self) -> Self {
        let derived = self.body_bytes == self.preview_bytes();
        Self { body_bytes: self.body_bytes.filter(|_| !derived), ..self }
    }

    /// What is recorded of the answer to a successful attempt.
    pub fn of_success(self) -> Self {
        Self { headers: vec![], ..self.of_failure() }
    }

    /// The length of the preview where it is the body as it was: whole, and with nothing that an escape or a mask may
    /// stand for.
    fn preview_bytes(&self) -> Option<u64> {
        let as_it_was = !self.truncated && !self.preview.contains('\\') && !self.preview.contains(MASK);
        as_it_was.then_some(self.preview.len() as u64)
    }
}

/// Why there is no usable answer, in one code and one sentence for the subscription's owner.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Failure {
    /// The stable code.
    pub code: FailureCode,
    /// One sentence; never names a resolved address.
    pub detail: String,
}

/// One HTTP exchange as it went, before a profile judges it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Exchange {
    /// From the beginning of the attempt to the end of the answer or the failure, in milliseconds.
    pub latency_ms: u64,
    /// The answer, or why there is none. A failure after the status line keeps no response.
    pub result: Result<Response, Failure>,
}

#[cfg(test)]
mod tests {
    use super::*;

    fn answer(preview: &str, truncated: bool, body_bytes: u64) -> Response {
        let headers = vec![("server".to_owned(), "nginx".to_owned())];
        let (preview, body_bytes) = (preview.to_owned(), Some(body_bytes));
        Response { status: 503, preview, truncated, body_bytes, headers, ..Response::default() }
    }

    #[test]
    fn a_length_that_the_preview_tells_is_not_recorded() {
        for (given, recorded) in [
            (answer("", false, 0), None),
            (answer("down", false, 4), None),
            (answer("down", true, 4_000), Some(4_000)),
            (answer("a\\nb", false, 3), Some(3)),
            (answer(r"C:\\temp", false, 8), Some(8)),
            (answer("you sent ***", false, 20), Some(20)),
        ] {
            let kept = given.clone().of_failure();
            assert_eq!((kept.body_bytes, kept.size_bytes()), (recorded, given.body_bytes), "{}", given.preview);
            assert_eq!((kept.headers, given.clone().of_success().headers), (given.headers, vec![]));
        }
    }

    #[test]
    fn an_answer_of_before_tells_its_length_where_it_can() {
        let old = |preview: &str, truncated| Response { body_bytes: None, ..answer(preview, truncated, 0) };
        assert_eq!(old("down", false).size_bytes(), Some(4));
        assert_eq!(old("down", true).size_bytes(), None);
        assert_eq!(old("a\\nb", false).size_bytes(), None);
    }
}
