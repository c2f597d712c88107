//! The file with the key that seals secrets.

use std::fs::{self, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use zeroize::Zeroizing;

use crate::clock::Clock;
use crate::execute::vault::KeyBytes;

/// Why there is no key.
#[derive(Debug, thiserror::Error)]
pub(super) enum KeyFileError {
    /// The store holds secrets, and the key that sealed them is not there.
    #[error("secrets.key_file: '{0}' does not exist, and this store holds secrets that only its key can open")]
    Missing(PathBuf),
    /// The file holds something else.
    #[error("secrets.key_file: '{0}' does not hold 64 hexadecimal digits")]
    Malformed(PathBuf),
    /// The file cannot be read or written.
    #[error("secrets.key_file: '{path}' cannot be used")]
    Io {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
}

/// Reads the key, or makes one for a store that holds no secrets yet.
pub(super) fn open(path: &Path, store_has_secrets: bool, clock: &dyn Clock) -> Result<KeyBytes, KeyFileError> {
    match fs::read_to_string(path) {
        Ok(text) => parse(&Zeroizing::new(text)).ok_or_else(|| KeyFileError::Malformed(path.to_owned())),
        Err(error) if error.kind() == io::ErrorKind::NotFound && store_has_secrets => {
            Err(KeyFileError::Missing(path.to_owned()))
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            let key = Zeroizing::new(clock.random_bytes::<32>());
            write(path, &key).map_err(|source| KeyFileError::Io { path: path.to_owned(), source })?;
            Ok(key)
        }
        Err(source) => Err(KeyFileError::Io { path: path.to_owned(), source }),
    }
}

fn parse(text: &str) -> Option<KeyBytes> {
    let mut key = Zeroizing::new([0; 32]);
    hex::decode_to_slice(text.trim(), &mut *key).ok()?;
    Some(key)
}

/// On disk before it seals anything: a sealed secret without its key is lost.
fn write(path: &Path, key: &KeyBytes) -> io::Result<()> {
    let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(path)?;
    file.write_all(Zeroizing::new(hex::encode(**key) + "\n").as_bytes())?;
    file.sync_all()?;
    match path.parent().filter(|folder| !folder.as_os_str().is_empty()) {
        Some(folder) => fs::File::open(folder)?.sync_all(),
        None => fs::File::open(".")?.sync_all(),
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;
    use crate::clock::SystemClock;

    #[test]
    fn a_key_is_made_once_and_is_nobody_elses_business() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("log.db.key");
        let made = open(&path, false, &SystemClock).unwrap();
        assert_eq!(open(&path, true, &SystemClock).unwrap(), made);
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
    }

    #[test]
    fn a_store_with_secrets_gets_no_new_key() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("log.db.key");
        assert!(matches!(open(&path, true, &SystemClock), Err(KeyFileError::Missing(_))));
        fs::write(&path, "not a key").unwrap();
        assert!(matches!(open(&path, true, &SystemClock), Err(KeyFileError::Malformed(_))));
    }
}
