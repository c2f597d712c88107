//! How an attempt ended.

use serde::{Deserialize, Serialize};

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
