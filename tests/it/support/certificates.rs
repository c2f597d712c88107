//! A private authority, made new for each test process, and the certificates it signs.

use std::sync::{Arc, LazyLock};

use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, DnType, IsCa, KeyPair, date_time_ymd};
use rustls::ServerConfig;
use rustls::pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer};

/// What a server shows of itself.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Identity {
    /// Signed by the authority, for these names and addresses.
    Signed(&'static [&'static str]),
    /// Signed by the authority, but its time is over.
    Expired,
    /// Signed by the authority, but its time has not come.
    NotYetValid,
    /// Signed by itself.
    SelfSigned,
    /// Signed by itself as an authority, as `openssl req -x509` does.
    OwnAuthority,
}

static AUTHORITY: LazyLock<CertifiedIssuer<'static, KeyPair>> = LazyLock::new(|| {
    let mut params = CertificateParams::new(vec![]).unwrap();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.distinguished_name.push(DnType::CommonName, "Authority of this test run");
    CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap()
});

/// The authority's certificate.
pub(crate) fn ca_pem() -> String {
    AUTHORITY.pem()
}

/// A certificate that the authority has signed for these names, and its key, in PEM.
pub(crate) fn signed_pem(names: &[&str]) -> (String, String) {
    let params = CertificateParams::new(names.iter().map(ToString::to_string).collect::<Vec<_>>()).unwrap();
    let key = KeyPair::generate().unwrap();
    (params.signed_by(&key, &AUTHORITY).unwrap().pem(), key.serialize_pem())
}

/// A TLS server configuration for `identity` that speaks the ALPN protocols given.
pub(crate) fn server_config(identity: Identity, alpn: &[&str]) -> Arc<ServerConfig> {
    let names: &[&str] = match identity {
        Identity::Signed(names) => names,
        Identity::Expired | Identity::NotYetValid | Identity::SelfSigned | Identity::OwnAuthority => &["127.0.0.1"],
    };
    let mut params = CertificateParams::new(names.iter().map(ToString::to_string).collect::<Vec<_>>()).unwrap();
    let key = KeyPair::generate().unwrap();
    let certificate = match identity {
        Identity::Signed(_) => params.signed_by(&key, &AUTHORITY),
        Identity::Expired => {
            params.not_before = date_time_ymd(2001, 1, 1);
            params.not_after = date_time_ymd(2002, 1, 1);
            params.signed_by(&key, &AUTHORITY)
        }
        Identity::NotYetValid => {
            params.not_before = date_time_ymd(2998, 1, 1);
            params.not_after = date_time_ymd(2999, 1, 1);
            params.signed_by(&key, &AUTHORITY)
        }
        Identity::SelfSigned => params.self_signed(&key),
        Identity::OwnAuthority => {
            params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
            params.self_signed(&key)
        }
    }
    .unwrap();
    let key = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(key.serialize_der()));
    let mut config = ServerConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![certificate.der().clone()], key)
        .unwrap();
    config.alpn_protocols = alpn.iter().map(|protocol| protocol.as_bytes().to_vec()).collect();
    Arc::new(config)
}
