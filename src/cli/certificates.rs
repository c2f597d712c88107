//! A private authority and a server certificate for this machine, kept as PEM files.
//!
//! - The certificate names loopback alone: `localhost`, `127.0.0.1` and `::1`.
//! - The authority signs once; its key is never written and gone afterwards. Who trusts `ca.pem` trusts this one
//!   certificate and nothing that could be signed later.
//! - `ca.pem` is written last, so a directory that has it is complete. What was cut short is made anew.

use std::fs::{self, DirBuilder, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rcgen::{
    BasicConstraints, CertificateParams, CertifiedIssuer, DnType, ExtendedKeyUsagePurpose, IsCa, KeyPair,
    KeyUsagePurpose,
};
use rustls::ServerConfig;
use rustls::pki_types::pem::{self, PemObject};
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use thiserror::Error;
use time::{Duration, OffsetDateTime};

use crate::clock::Clock;

const NAMES: [&str; 3] = ["localhost", "127.0.0.1", "::1"];
const VALID_FOR: Duration = Duration::days(3650);
/// Clocks of two machines differ.
const VALID_BEFORE: Duration = Duration::days(1);

/// Why there is no certificate to show.
#[derive(Debug, Error)]
pub enum Error {
    /// The directory cannot be made, or a file not be read or written.
    #[error("'{}' cannot be read or written", path.display())]
    File {
        /// The file or directory.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// The file is not what its name says.
    #[error("'{}' holds no usable PEM", path.display())]
    Pem {
        /// The file.
        path: PathBuf,
        /// Where reading stopped.
        source: pem::Error,
    },
    /// A certificate cannot be made.
    #[error("a certificate cannot be made")]
    Make(#[from] rcgen::Error),
    /// Certificate and key do not belong together, or neither can serve.
    #[error("the certificate and key in '{}' cannot be used", directory.display())]
    Unusable {
        /// Where both stand.
        directory: PathBuf,
        /// What is wrong with them.
        source: rustls::Error,
    },
}

/// The three files, which exist.
#[derive(Clone, Debug)]
pub struct Certificates {
    directory: PathBuf,
}

impl Certificates {
    /// The files in `directory`; makes both if they are not there yet.
    ///
    /// # Errors
    /// The directory or a file cannot be read or written.
    pub fn in_directory(directory: &Path, clock: &dyn Clock) -> Result<Self, Error> {
        let at = |source| Error::File { path: directory.to_owned(), source };
        DirBuilder::new().recursive(true).mode(0o700).create(directory).map_err(at)?;
        let certificates = Self { directory: fs::canonicalize(directory).map_err(at)? };
        if !certificates.ca_file().exists() {
            certificates.make(clock)?;
        }
        Ok(certificates)
    }

    /// The authority's certificate, for those who shall trust it.
    pub fn ca_file(&self) -> PathBuf {
        self.directory.join("ca.pem")
    }

    fn certificate_file(&self) -> PathBuf {
        self.directory.join("cert.pem")
    }

    fn key_file(&self) -> PathBuf {
        self.directory.join("key.pem")
    }

    /// A TLS 1.2 and 1.3 server with this certificate, that speaks HTTP/1.1.
    ///
    /// # Errors
    /// A file is missing, damaged, or does not belong to the others.
    pub fn server_config(&self) -> Result<ServerConfig, Error> {
        let (certificate_file, key_file) = (self.certificate_file(), self.key_file());
        let certificate = CertificateDer::from_pem_slice(&read(&certificate_file)?)
            .map_err(|source| pem_at(&certificate_file, source))?;
        let key = PrivateKeyDer::from_pem_slice(&read(&key_file)?).map_err(|source| pem_at(&key_file, source))?;
        let mut config = ServerConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
            .with_safe_default_protocol_versions()
            .expect("ring has cipher suites for both versions")
            .with_no_client_auth()
            .with_single_cert(vec![certificate], key)
            .map_err(|source| Error::Unusable { directory: self.directory.clone(), source })?;
        config.alpn_protocols = vec![b"http/1.1".to_vec()];
        Ok(config)
    }

    fn make(&self, clock: &dyn Clock) -> Result<(), Error> {
        let mut authority = CertificateParams::default();
        authority.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
        authority.key_usages = vec![KeyUsagePurpose::KeyCertSign];
        authority.distinguished_name.push(DnType::CommonName, "Tidings development authority");
        let mut server = CertificateParams::new(NAMES.map(str::to_owned))?;
        server.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        server.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
        server.distinguished_name.push(DnType::CommonName, "Tidings development receiver");
        let seconds = clock.now().as_seconds();
        let now = OffsetDateTime::from_unix_timestamp(seconds).expect("our times end in the year 9999");
        for params in [&mut authority, &mut server] {
            params.not_before = now.saturating_sub(VALID_BEFORE);
            params.not_after = now.saturating_add(VALID_FOR);
        }
        let authority = CertifiedIssuer::self_signed(authority, KeyPair::generate()?)?;
        let key = KeyPair::generate()?;
        let certificate = server.signed_by(&key, &authority)?;

        write(&self.key_file(), &key.serialize_pem(), 0o600)?;
        write(&self.certificate_file(), &certificate.pem(), 0o644)?;
        write(&self.ca_file(), &authority.pem(), 0o644)
    }
}

fn read(path: &Path) -> Result<Vec<u8>, Error> {
    fs::read(path).map_err(|source| Error::File { path: path.to_owned(), source })
}

/// A file's mode is set when it is made, so what an unfinished run left behind goes first.
fn write(path: &Path, text: &str, mode: u32) -> Result<(), Error> {
    let replace = || {
        match fs::remove_file(path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            Ok(()) | Err(_) => {}
        }
        OpenOptions::new().write(true).create_new(true).mode(mode).open(path)?.write_all(text.as_bytes())
    };
    replace().map_err(|source| Error::File { path: path.to_owned(), source })
}

fn pem_at(path: &Path, source: pem::Error) -> Error {
    Error::Pem { path: path.to_owned(), source }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;
    use crate::clock::SystemClock;

    #[test]
    fn the_files_are_made_once_and_found_again() {
        let directory = tempfile::tempdir().unwrap();
        let made = Certificates::in_directory(&directory.path().join("tls"), &SystemClock).unwrap();
        let before = [made.ca_file(), made.certificate_file(), made.key_file()].map(|file| fs::read(file).unwrap());
        let found = Certificates::in_directory(&directory.path().join("tls"), &SystemClock).unwrap();
        let after = [found.ca_file(), found.certificate_file(), found.key_file()].map(|file| fs::read(file).unwrap());
        assert_eq!(before, after);
        assert_eq!(fs::metadata(found.key_file()).unwrap().permissions().mode() & 0o777, 0o600);
        assert!(found.server_config().is_ok());
    }

    #[test]
    fn what_an_unfinished_run_left_behind_is_made_anew() {
        let directory = tempfile::tempdir().unwrap();
        let key_file = directory.path().join("key.pem");
        fs::write(&key_file, "half a ke").unwrap();
        fs::set_permissions(&key_file, fs::Permissions::from_mode(0o644)).unwrap();
        let made = Certificates::in_directory(directory.path(), &SystemClock).unwrap();
        assert!(made.server_config().is_ok());
        assert_eq!(fs::metadata(key_file).unwrap().permissions().mode() & 0o777, 0o600);
    }

    #[test]
    fn a_file_that_is_damaged_or_gone_is_named() {
        let directory = tempfile::tempdir().unwrap();
        let made = Certificates::in_directory(directory.path(), &SystemClock).unwrap();
        fs::write(made.certificate_file(), "no PEM").unwrap();
        assert!(made.server_config().unwrap_err().to_string().ends_with("cert.pem' holds no usable PEM"));
        fs::remove_file(made.certificate_file()).unwrap();
        assert!(made.server_config().unwrap_err().to_string().ends_with("cert.pem' cannot be read or written"));
    }
}
