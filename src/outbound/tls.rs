//! Whom we trust: the public authorities compiled in, and the operator's own.
//!
//! There is no switch that skips verification. Early data stays off, since it can be replayed.

use std::path::Path;
use std::sync::Arc;

use rustls::client::Resumption;
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;
use rustls::{ClientConfig, RootCertStore};

use super::ConfigError;
use super::dial::Sessions;

/// What we can speak, the preferred first. reqwest takes a finished TLS configuration as it is, so we offer it here.
const ALPN: [&[u8]; 2] = [b"h2", b"http/1.1"];

/// TLS 1.2 and 1.3 with *ring*.
pub(super) fn client_config(extra_ca: &[impl AsRef<Path>]) -> Result<ClientConfig, ConfigError> {
    let mut roots = RootCertStore { roots: webpki_roots::TLS_SERVER_ROOTS.to_vec() };
    for path in extra_ca {
        add_file(&mut roots, path.as_ref())?;
    }
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let mut config = ClientConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&rustls::version::TLS13, &rustls::version::TLS12])
        .expect("ring has cipher suites for both versions")
        .with_root_certificates(roots)
        .with_no_client_auth();
    config.resumption = Resumption::store(Arc::new(Sessions::new()));
    config.alpn_protocols = ALPN.map(<[u8]>::to_vec).into();
    Ok(config)
}

fn add_file(roots: &mut RootCertStore, path: &Path) -> Result<(), ConfigError> {
    let unreadable = |source| ConfigError::ExtraCaUnreadable { path: path.to_owned(), source };
    let pem = std::fs::read(path).map_err(unreadable)?;
    let mut found = false;
    for certificate in CertificateDer::pem_slice_iter(&pem) {
        let certificate = certificate.map_err(|source| ConfigError::ExtraCaPem { path: path.to_owned(), source })?;
        roots.add(certificate).map_err(|source| ConfigError::ExtraCaInvalid { path: path.to_owned(), source })?;
        found = true;
    }
    if found { Ok(()) } else { Err(ConfigError::ExtraCaEmpty { path: path.to_owned() }) }
}
