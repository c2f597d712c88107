//! Where the operator's keys come from: files, or a program that prints one.
//!
//! A key is never an argument, an environment variable or a value of the configuration: those are shown by `ps`, kept by
//! shells and written into dumps.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use tokio::io::AsyncReadExt;
use tokio::process::Command;
use tokio::time::timeout;
use zeroize::Zeroizing;

use crate::clock::Clock;
use crate::config::Config;
use crate::execute::vault::{KeyBytes, KeyId, OperatorKeys};

/// What is read of a file or a program at most: a key has 64 digits.
const MAX_BYTES: u64 = 1_024;
/// How long a program may take to print a key.
const COMMAND_LIMIT: Duration = Duration::from_secs(20);
/// Bits of a file's mode that let everybody on the machine read it, or others than its owner write it.
const OTHERS: u32 = 0o026;

/// Why there is no key.
#[derive(Debug, thiserror::Error)]
pub(super) enum KeyError {
    /// The key store holds rows, and the key that sealed them is not there.
    #[error("secrets.key_file: '{path}' does not exist, and the key store holds rows sealed under {sealed_under:?}")]
    Missing {
        /// The file.
        path: PathBuf,
        /// The keys that are needed.
        sealed_under: Vec<KeyId>,
    },
    /// The file holds something else.
    #[error("{key}: '{path}' does not hold 64 hexadecimal digits and nothing else")]
    Malformed {
        /// The key of the configuration.
        key: &'static str,
        /// The file.
        path: PathBuf,
    },
    /// Everybody on the machine can read the key, or others than its owner can put another in its place.
    #[error(
        "{key}: '{path}' can be read by everybody, or written by others (mode {mode:o}): chmod g-w,o= takes that away"
    )]
    Exposed {
        /// The key of the configuration.
        key: &'static str,
        /// The file.
        path: PathBuf,
        /// Its mode.
        mode: u32,
    },
    /// The file cannot be read or written.
    #[error("{key}: '{path}' cannot be used")]
    Io {
        /// The key of the configuration.
        key: &'static str,
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The program could not be run.
    #[error("secrets.key_command: '{program}' cannot be run")]
    Command {
        /// The program.
        program: String,
        /// Why.
        source: io::Error,
    },
    /// The program did not end in time.
    #[error("secrets.key_command: '{0}' did not end within {limit} s", limit = COMMAND_LIMIT.as_secs())]
    Slow(String),
    /// The program failed.
    #[error("secrets.key_command: '{program}' failed: {status}")]
    Failed {
        /// The program.
        program: String,
        /// How it ended.
        status: std::process::ExitStatus,
    },
    /// The program printed something else.
    #[error("secrets.key_command: what '{0}' printed are not 64 hexadecimal digits and nothing else")]
    NoKey(String),
}

const CURRENT: &str = "secrets.key_file";
const OLD: &str = "secrets.old_key_files";

/// All keys. Where the current one has a file, and it is not there, it is made for a key store without rows.
///
/// An old key's file that is not there is told, and no more: whether a row still needs it shows when the vault is opened.
pub(super) async fn load(
    config: &Config,
    sealed_under: &[KeyId],
    clock: Option<&dyn Clock>,
) -> anyhow::Result<OperatorKeys> {
    let current = match config.secrets.key_command.split_first() {
        Some((program, arguments)) => from_command(program, arguments, COMMAND_LIMIT).await?,
        None => from_file_or_new(&config.key_path()?, sealed_under, clock)?,
    };
    let mut old = Vec::new();
    for path in &config.secrets.old_key_files {
        match from_file(OLD, path) {
            Ok(key) => old.push(key),
            Err(KeyError::Io { source, .. }) if source.kind() == io::ErrorKind::NotFound => {
                tracing::warn!("{OLD}: '{}' does not exist", path.display());
            }
            Err(error) => return Err(error.into()),
        }
    }
    Ok(OperatorKeys::new(current, old))
}

fn from_file_or_new(path: &Path, sealed_under: &[KeyId], clock: Option<&dyn Clock>) -> Result<KeyBytes, KeyError> {
    match (from_file(CURRENT, path), clock) {
        (Err(KeyError::Io { source, .. }), Some(clock))
            if source.kind() == io::ErrorKind::NotFound && sealed_under.is_empty() =>
        {
            let key = KeyBytes::new(clock.random_bytes());
            write(path, &key).map_err(|source| KeyError::Io { key: CURRENT, path: path.to_owned(), source })?;
            Ok(key)
        }
        (Err(KeyError::Io { source, .. }), _) if source.kind() == io::ErrorKind::NotFound => {
            Err(KeyError::Missing { path: path.to_owned(), sealed_under: sealed_under.to_vec() })
        }
        (found, _) => found,
    }
}

/// Refused, not only told, where everybody could read it: a warning at each start is one that nobody reads, and a key that
/// everybody has is none. A group may read it, as those who mount secrets need it.
fn from_file(key: &'static str, path: &Path) -> Result<KeyBytes, KeyError> {
    let failed = |source| KeyError::Io { key, path: path.to_owned(), source };
    let file = File::open(path).map_err(failed)?;
    let mode = file.metadata().map_err(failed)?.permissions().mode() & 0o777;
    if mode & OTHERS != 0 {
        return Err(KeyError::Exposed { key, path: path.to_owned(), mode });
    }
    let mut text = Zeroizing::new(String::new());
    let read = file.take(MAX_BYTES).read_to_string(&mut text);
    let parsed = match read {
        Ok(_) => parse(&text),
        Err(error) if error.kind() == io::ErrorKind::InvalidData => None,
        Err(error) => return Err(failed(error)),
    };
    parsed.ok_or_else(|| KeyError::Malformed { key, path: path.to_owned() })
}

/// Run without a shell, with nothing to read; what it says on standard error goes where ours goes.
async fn from_command(program: &str, arguments: &[String], limit: Duration) -> Result<KeyBytes, KeyError> {
    let failed = |source| KeyError::Command { program: program.to_owned(), source };
    let mut child = Command::new(program)
        .args(arguments)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .map_err(failed)?;
    let mut text = Zeroizing::new(Vec::with_capacity(MAX_BYTES as usize));
    let ran = async {
        if let Some(out) = child.stdout.take() {
            // Beyond that it is no key, and its writer finds the pipe closed.
            out.take(MAX_BYTES).read_to_end(&mut text).await?;
        }
        child.wait().await
    };
    let status = timeout(limit, ran).await.map_err(|_| KeyError::Slow(program.to_owned()))?.map_err(failed)?;
    if !status.success() {
        return Err(KeyError::Failed { program: program.to_owned(), status });
    }
    let text = std::str::from_utf8(&text).ok();
    text.and_then(parse).ok_or_else(|| KeyError::NoKey(program.to_owned()))
}

fn parse(text: &str) -> Option<KeyBytes> {
    let mut key = KeyBytes::default();
    hex::decode_to_slice(text.trim(), &mut *key).ok()?;
    Some(key)
}

/// On disk before it seals anything: a sealed secret without its key is lost. The file is there whole or not at all, and
/// never takes the place of another.
fn write(path: &Path, key: &KeyBytes) -> io::Result<()> {
    let mut begun = path.as_os_str().to_owned();
    begun.push(".new");
    let begun = Path::new(&begun);
    // What a crash left.
    match fs::remove_file(begun) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        Ok(()) | Err(_) => {}
    }
    let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(begun)?;
    file.write_all(Zeroizing::new(hex::encode(**key) + "\n").as_bytes())?;
    file.sync_all()?;
    let linked = fs::hard_link(begun, path);
    fs::remove_file(begun)?;
    linked?;
    match path.parent().filter(|folder| !folder.as_os_str().is_empty()) {
        Some(folder) => File::open(folder)?.sync_all(),
        None => File::open(".")?.sync_all(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::SystemClock;
    use crate::execute::vault::SealingKey;

    fn new(path: &Path) -> Result<KeyBytes, KeyError> {
        from_file_or_new(path, &[], Some(&SystemClock))
    }

    fn holding(text: &str, mode: u32) -> (tempfile::TempDir, PathBuf) {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("key");
        fs::write(&path, text).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
        (folder, path)
    }

    #[test]
    fn a_key_is_made_once_and_is_nobody_elses_business() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("log.db.key");
        fs::write(folder.path().join("log.db.key.new"), "half of on").unwrap();
        let made = new(&path).unwrap();
        assert_eq!(fs::read_dir(&folder).unwrap().count(), 1, "what a crash left is gone");
        assert!(write(&path, &made).is_err(), "no key takes the place of another");
        let id = SealingKey::new(made.clone()).id();
        assert_eq!(from_file_or_new(&path, &[id], None).unwrap(), made);
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
    }

    #[test]
    fn a_store_with_rows_gets_no_new_key() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("log.db.key");
        let id = SealingKey::new(KeyBytes::new([7; 32])).id();
        let refused = from_file_or_new(&path, &[id], Some(&SystemClock)).unwrap_err();
        assert!(matches!(refused, KeyError::Missing { .. }));
        assert!(refused.to_string().contains(&id.to_string()), "{refused}");
        assert!(!path.exists());
    }

    #[test]
    fn what_is_no_key_is_refused() {
        let right = "ab".repeat(32);
        for text in [&right[..62], &format!("{right}ab"), "", "not a key", &"zz".repeat(32), &" ".repeat(4_000)] {
            let (_folder, path) = holding(text, 0o600);
            assert!(matches!(new(&path), Err(KeyError::Malformed { .. })), "{text}");
        }
        let (_folder, path) = holding(&format!("{right}\n"), 0o600);
        assert_eq!(*new(&path).unwrap(), [0xab; 32]);
    }

    #[test]
    fn a_key_that_everybody_can_read_is_refused_and_one_of_a_group_is_not() {
        for (mode, is_refused) in [(0o644, true), (0o602, true), (0o660, true), (0o640, false), (0o400, false)] {
            let (_folder, path) = holding(&"ab".repeat(32), mode);
            assert_eq!(matches!(new(&path), Err(KeyError::Exposed { .. })), is_refused, "{mode:o}");
        }
    }

    #[tokio::test]
    async fn a_program_prints_the_key() {
        let run =
            async |script: &str| from_command("/bin/sh", &["-c".into(), script.into()], Duration::from_secs(30)).await;
        assert_eq!(*run(&format!("echo {}", "ab".repeat(32))).await.unwrap(), [0xab; 32]);
        assert!(matches!(run("echo nothing").await, Err(KeyError::NoKey(_))));
        assert!(matches!(run("exec cat /dev/zero").await, Err(KeyError::Failed { .. } | KeyError::NoKey(_))));
        assert!(matches!(run(&format!("echo {}; exit 3", "ab".repeat(32))).await, Err(KeyError::Failed { .. })));
        assert!(matches!(
            from_command("/no/such/program", &[], Duration::from_secs(30)).await,
            Err(KeyError::Command { .. })
        ));
        let slow = from_command("/bin/sleep", &["60".into()], Duration::from_millis(50)).await;
        assert!(matches!(slow, Err(KeyError::Slow(_))));
    }
}
