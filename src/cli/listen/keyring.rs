//! Which profile and secret each path has: a file, read again for every request.
//!
//! Only so can a webhook be created, or its secret rotated, while the receiver runs, and the next delivery be judged
//! by the new secret: a file's time may stay the same through two quick changes. The text is parsed only if it changed.

use std::collections::HashMap;
use std::io;
use std::path::PathBuf;
use std::sync::{Arc, Mutex};

use serde::Deserialize;
use thiserror::Error;

use crate::domain::profile::{self, Profile};
use crate::domain::secret::Secret;

/// What a delivery to one path is verified by.
#[derive(Clone, Debug)]
pub(super) struct Entry {
    pub(super) profile: &'static Profile,
    pub(super) secret: Secret,
}

/// Why the file's last version is not in use. Says nothing of a secret.
#[derive(Debug, Error)]
pub(super) enum Unreadable {
    #[error("cannot be read: {0}")]
    File(#[from] io::Error),
    /// The message of the parser could quote the text, so only the place is told.
    #[error("is not a JSON object of {{ \"profile\", \"secret\" }} by path: line {line}, column {column}")]
    Json { line: usize, column: usize },
    #[error("names no known profile for {path}: '{profile}'")]
    Profile { path: String, profile: String },
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Raw {
    profile: String,
    secret: String,
}

/// The entries of the file's last readable version.
#[derive(Debug)]
pub(super) struct Keyring {
    file: Option<PathBuf>,
    last: Mutex<Read>,
}

#[derive(Debug, Default)]
struct Read {
    text: String,
    entries: Arc<HashMap<String, Entry>>,
}

impl Keyring {
    /// A keyring of that file, which need not exist yet; an empty one without a file.
    pub(super) fn new(file: Option<PathBuf>) -> Self {
        Self { file, last: Mutex::default() }
    }

    /// The entry of a path as the file has it now.
    ///
    /// # Errors
    /// The file cannot be read or understood. It may be half written, so the caller asks again at the next request.
    pub(super) async fn entry(&self, path: &str) -> Result<Option<Entry>, Unreadable> {
        let Some(file) = &self.file else { return Ok(None) };
        let text = match tokio::fs::read_to_string(file).await {
            Ok(text) => text,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(error.into()),
        };
        let mut last = self.last.lock().expect("no holder of this lock can panic");
        if last.text != text {
            let entries = Arc::new(parse(&text)?);
            *last = Read { text, entries };
        }
        Ok(last.entries.get(path).cloned())
    }
}

fn parse(text: &str) -> Result<HashMap<String, Entry>, Unreadable> {
    let raw: HashMap<String, Raw> =
        serde_json::from_str(text).map_err(|error| Unreadable::Json { line: error.line(), column: error.column() })?;
    raw.into_iter()
        .map(|(path, Raw { profile, secret })| {
            let found = profile::find(&profile);
            let profile = found.map_err(|_| Unreadable::Profile { path: path.clone(), profile })?;
            Ok((path, Entry { profile, secret: Secret::stored(secret) }))
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn entries_follow_the_file_from_before_it_exists() {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("secrets.json");
        let keyring = Keyring::new(Some(file.clone()));
        assert!(keyring.entry("/axie").await.unwrap().is_none());
        for secret in ["first", "other"] {
            let text = format!(r#"{{ "/axie": {{ "profile": "axie-v1", "secret": "{secret}" }} }}"#);
            std::fs::write(&file, text).unwrap();
            let entry = keyring.entry("/axie").await.unwrap().expect("an entry");
            assert_eq!((entry.profile.name.as_str(), entry.secret.expose()), ("axie-v1", secret));
        }
        std::fs::remove_file(&file).unwrap();
        assert!(keyring.entry("/axie").await.unwrap().is_none());
    }

    #[tokio::test]
    async fn a_file_that_cannot_be_understood_is_explained_without_its_secrets() {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("secrets.json");
        let keyring = Keyring::new(Some(file.clone()));
        for (text, told) in [
            (r#"{ "/a": { "profile": "axie-v1", "secret": "hidden" }"#, "line 1"),
            (r#"{ "/a": "hidden" }"#, "line 1"),
            (r#"{ "/a": { "profile": "axie-v9", "secret": "hidden" } }"#, "for /a: 'axie-v9'"),
        ] {
            std::fs::write(&file, text).unwrap();
            let message = keyring.entry("/a").await.unwrap_err().to_string();
            assert!(message.contains(told) && !message.contains("hidden"), "{message}");
        }
    }
}
