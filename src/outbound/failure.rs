//! From the client's errors to one stable code and one sentence.
//!
//! The sentences are for the owner of the subscription. They are all our own: what libraries say may name addresses.

use std::error::Error;
use std::io;

use rustls::{AlertDescription, CertificateError, PeerIncompatible};

use super::dial::{DialError, Phase};
use super::url::UrlRefusal;
use crate::domain::outcome::{Failure, FailureCode};

pub(super) fn failure(code: FailureCode, detail: &str) -> Failure {
    Failure { code, detail: detail.to_owned() }
}

/// A gate said no.
pub(super) fn refused(refusal: UrlRefusal) -> Failure {
    let code = match refusal {
        UrlRefusal::HostUnresolved => FailureCode::Dns,
        UrlRefusal::TooLong
        | UrlRefusal::ForbiddenCharacter
        | UrlRefusal::NotHttps
        | UrlRefusal::Fragment
        | UrlRefusal::Userinfo
        | UrlRefusal::HostMissing
        | UrlRefusal::HostCharacter
        | UrlRefusal::Malformed
        | UrlRefusal::AddressForm
        | UrlRefusal::HostLabel
        | UrlRefusal::HostNotQualified
        | UrlRefusal::HostSpecialUse
        | UrlRefusal::PortForbidden
        | UrlRefusal::HostNotAllowed
        | UrlRefusal::AddressForbidden => FailureCode::Blocked,
    };
    Failure { code, detail: refusal.to_string() }
}

/// The request ended before a status line.
///
/// Whatever rustls itself rejects has a code of TLS, also when it comes after the handshake, as a refused client certificate
/// does; so has everything that ends a connection during the handshake.
pub(super) fn before_the_answer(error: &reqwest::Error) -> Failure {
    if let Some(refusal) = find::<UrlRefusal>(error) {
        return refused(*refusal);
    }
    let (code, sentence) = if let Some(error) = find::<rustls::Error>(error) {
        tls(error)
    } else if let Some(error) = find::<h2::Error>(error).filter(|error| error.is_library()) {
        http2(error)
    } else if let Some(error) = find::<hyper::Error>(error).filter(|error| error.is_parse()) {
        http1(error)
    } else if error.is_builder() {
        (FailureCode::Aborted, "the request could not be built")
    } else {
        unconnected(error)
    };
    failure(code, sentence)
}

const HEADERS: (FailureCode, &str) = (FailureCode::Headers, "the answer's header lines are too many or too long");
const NO_HTTP: (FailureCode, &str) = (FailureCode::Body, "the answer is not valid HTTP");

fn http1(error: &hyper::Error) -> (FailureCode, &'static str) {
    if error.is_parse_too_large() { HEADERS } else { NO_HTTP }
}

/// What our own side of HTTP/2 would not take. Header lines beyond our limit end their stream, or with their flood the
/// connection; other rubbish the connection, but for contradictions within the header lines.
fn http2(error: &h2::Error) -> (FailureCode, &'static str) {
    if error.is_reset() || error.reason() == Some(h2::Reason::ENHANCE_YOUR_CALM) { HEADERS } else { NO_HTTP }
}

fn unconnected(error: &reqwest::Error) -> (FailureCode, &'static str) {
    match find::<DialError>(error) {
        Some(DialError::TimedOut(Phase::Handshake)) => {
            (FailureCode::TlsTimeout, "the TLS handshake did not end in time")
        }
        Some(DialError::Failed { phase: Phase::Handshake, .. }) => {
            (FailureCode::TlsReset, "the connection was closed during the TLS handshake")
        }
        Some(DialError::TimedOut(Phase::Reaching)) => (FailureCode::Connect, "no connection could be made in time"),
        Some(DialError::Failed { phase: Phase::Reaching, .. }) if was_refused(error) => {
            (FailureCode::Connect, "the connection was refused")
        }
        Some(DialError::Failed { phase: Phase::Reaching, .. }) if out_of_files(error) => {
            (FailureCode::Aborted, "this server has no room for another connection")
        }
        Some(DialError::Failed { phase: Phase::Reaching, .. }) => (FailureCode::Connect, "no connection could be made"),
        None => (FailureCode::Connect, "the connection was closed before an answer began"),
    }
}

/// No file handle is left, to the process or to the machine: that is no fault of the endpoint.
fn out_of_files(error: &reqwest::Error) -> bool {
    const ENFILE: i32 = 23;
    const EMFILE: i32 = 24;
    let out = |io: &io::Error| matches!(io.raw_os_error(), Some(ENFILE | EMFILE));
    sources(error).filter_map(|error| error.downcast_ref()).any(out)
}

fn was_refused(error: &reqwest::Error) -> bool {
    let refused = |io: &io::Error| io.kind() == io::ErrorKind::ConnectionRefused;
    sources(error).filter_map(|error| error.downcast_ref()).any(refused)
}

fn tls(error: &rustls::Error) -> (FailureCode, &'static str) {
    if let rustls::Error::InvalidCertificate(error) = error {
        certificate(error)
    } else if is_of_another_version(error) {
        (FailureCode::TlsVersion, "the endpoint speaks neither TLS 1.2 nor 1.3")
    } else {
        (FailureCode::Tls, "the TLS handshake failed")
    }
}

fn is_of_another_version(error: &rustls::Error) -> bool {
    use PeerIncompatible::{ServerDoesNotSupportTls12Or13, ServerTlsVersionIsDisabledByOurConfig};

    matches!(
        error,
        rustls::Error::AlertReceived(AlertDescription::ProtocolVersion)
            | rustls::Error::PeerIncompatible(ServerDoesNotSupportTls12Or13 | ServerTlsVersionIsDisabledByOurConfig)
    )
}

fn certificate(error: &CertificateError) -> (FailureCode, &'static str) {
    if matches!(error, CertificateError::Expired | CertificateError::ExpiredContext { .. }) {
        (FailureCode::TlsExpired, "the certificate has expired")
    } else if matches!(error, CertificateError::NotValidYet | CertificateError::NotValidYetContext { .. }) {
        (FailureCode::TlsNotYetValid, "the certificate is not yet valid")
    } else if matches!(error, CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. }) {
        (FailureCode::TlsWrongName, "the certificate is for another name")
    } else if matches!(error, CertificateError::UnknownIssuer) || is_an_authority(error) {
        (FailureCode::TlsUntrusted, "the certificate's issuer is not trusted")
    } else {
        (FailureCode::Tls, "the certificate is not valid")
    }
}

/// What `openssl req -x509` makes: a certificate that signs itself, and says that it may sign others.
fn is_an_authority(error: &CertificateError) -> bool {
    let CertificateError::Other(other) = error else { return false };
    matches!(other.0.downcast_ref(), Some(webpki::Error::CaUsedAsEndEntity))
}

/// The first `T` down the chain of sources.
fn find<'a, T: Error + 'static>(error: &'a (dyn Error + 'static)) -> Option<&'a T> {
    sources(error).find_map(|error| error.downcast_ref::<T>())
}

fn sources<'a>(error: &'a (dyn Error + 'static)) -> impl Iterator<Item = &'a (dyn Error + 'static)> {
    std::iter::successors(Some(error), |error| behind(*error))
}

/// `io::Error::source` skips the error it wraps, so that one is opened by hand.
fn behind<'a>(error: &'a (dyn Error + 'static)) -> Option<&'a (dyn Error + 'static)> {
    match error.downcast_ref::<io::Error>() {
        Some(io) => io.get_ref().map(|inner| inner as &(dyn Error + 'static)),
        None => error.source(),
    }
}
