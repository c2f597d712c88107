//! From the client's errors to one stable code and one sentence.
//!
//! The sentences are for the owner of the subscription. They are all our own: what libraries say may name addresses.

use std::error::Error;
use std::io;

use rustls::CertificateError;

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
        | UrlRefusal::AddressForbidden => FailureCode::Blocked,
    };
    Failure { code, detail: refusal.to_string() }
}

/// The request ended before a status line.
///
/// Whatever rustls itself rejects is `Tls`, also when it comes after the handshake, as a refused client certificate does.
/// A connection that the peer just closes during the handshake is `Connect`: nothing says that TLS was the reason.
pub(super) fn before_the_answer(error: &reqwest::Error) -> Failure {
    if let Some(refusal) = find::<UrlRefusal>(error) {
        return refused(*refusal);
    }
    if let Some(error) = find::<rustls::Error>(error) {
        return failure(FailureCode::Tls, tls_sentence(error));
    }
    if find::<hyper::Error>(error).is_some_and(hyper::Error::is_parse) {
        return failure(FailureCode::Body, "the answer is not valid HTTP");
    }
    if error.is_builder() {
        return failure(FailureCode::Aborted, "the request could not be built");
    }
    failure(FailureCode::Connect, connect_sentence(error))
}

fn connect_sentence(error: &reqwest::Error) -> &'static str {
    if error.is_connect() && error.is_timeout() {
        return "no connection could be made in time";
    }
    let refused = |io: &io::Error| io.kind() == io::ErrorKind::ConnectionRefused;
    if sources(error).filter_map(|error| error.downcast_ref()).any(refused) {
        return "the connection was refused";
    }
    if error.is_connect() { "no connection could be made" } else { "the connection was closed before an answer began" }
}

fn tls_sentence(error: &rustls::Error) -> &'static str {
    let rustls::Error::InvalidCertificate(error) = error else {
        return "the TLS handshake failed";
    };
    if matches!(error, CertificateError::Expired | CertificateError::ExpiredContext { .. }) {
        "the certificate has expired"
    } else if matches!(error, CertificateError::NotValidYet | CertificateError::NotValidYetContext { .. }) {
        "the certificate is not yet valid"
    } else if matches!(error, CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. }) {
        "the certificate is for another name"
    } else if matches!(error, CertificateError::UnknownIssuer) {
        "the certificate's issuer is not trusted"
    } else {
        "the certificate is not valid"
    }
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
