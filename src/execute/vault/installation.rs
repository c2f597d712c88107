//! Which log and which key store belong together.
//!
//! With its first start an installation gets an id: random, behind what is derived from the pepper. The log claims it, and the
//! key store seals it, in this order. From then on neither is used with another: a key store whose log is empty, older than
//! itself or of somebody else would lose its secrets as orphans.
//!
//! - Claims and rows move with backups and exports, so a copy of both is one installation as well.
//! - After a crash between the two the log has an id, and the key store none: it gets that of the log if its pepper fits.

use super::{Binding, Vault, VaultError, derive};
use crate::clock::Clock;
use crate::domain::secret::Secret;
use crate::event_store::{Append, AppendError, Claim, EventReader, Log, ReadError};
use crate::execute::SLUG_SHARD;

/// Under what the log claims the id.
const CLAIM: &str = "installation";
/// What stands for an id that is not there.
const NONE: &str = "none";
/// Rows that are looked at for whether there is more than a first start makes.
const ROWS: usize = 10;

/// Why a log and a key store are not used together.
#[derive(Debug, thiserror::Error)]
pub enum BindError {
    /// They do not belong together, or the key store failed.
    #[error(transparent)]
    Vault(#[from] VaultError),
    /// The log cannot be read.
    #[error("the log does not tell to which key store it belongs")]
    Read(#[from] ReadError),
    /// The log cannot be written.
    #[error("the log does not take to which key store it belongs")]
    Append(#[from] AppendError),
}

/// What both say.
struct Told {
    log: Option<String>,
    keys: Option<String>,
}

impl Vault {
    /// Binds a log and this key store to each other, if neither is bound; fails if they do not belong together.
    pub async fn bind(&self, log: &Log, clock: &dyn Clock) -> Result<(), BindError> {
        let told = self.must_belong(log.reader()).await?;
        let id = match told.log {
            Some(id) => id,
            None => {
                let id = format!("{}{}", self.pepper_id(), hex::encode(clock.random_bytes::<8>()));
                let claims = vec![Claim { key: CLAIM.into(), value: id.clone(), bucket: None }];
                log.append(SLUG_SHARD, Append { claims, ..Append::default() }).await?;
                id
            }
        };
        if told.keys.is_none() {
            self.store(&Binding::installation(), &Secret::stored(id), clock).await?;
        }
        Ok(())
    }

    /// Fails as [`Vault::bind`] would, and changes nothing.
    pub async fn must_fit(&self, log: &dyn EventReader) -> Result<(), BindError> {
        self.must_belong(log).await.map(drop)
    }

    async fn must_belong(&self, log: &dyn EventReader) -> Result<Told, BindError> {
        let told = Told { log: claimed(log).await?, keys: self.sealed_id().await? };
        let foreign = |log: Option<&String>, keys: String| {
            let log = log.map_or(NONE, String::as_str).to_owned();
            Err(VaultError::Foreign { log, keys }.into())
        };
        match (&told.log, &told.keys) {
            (Some(log), Some(keys)) if log == keys => Ok(told),
            (Some(log), None) if log.starts_with(&self.pepper_id()) => Ok(told),
            (log, Some(keys)) => foreign(log.as_ref(), keys.clone()),
            (log @ Some(_), None) => foreign(log.as_ref(), format!("{}…", self.pepper_id())),
            (None, None) => {
                self.must_be_new_if_the_log_is(log).await?;
                Ok(told)
            }
        }
    }

    async fn must_be_new_if_the_log_is(&self, log: &dyn EventReader) -> Result<(), BindError> {
        // The pepper stands there in any case.
        let rows = self.store.rows("", "", ROWS).await.map_err(VaultError::from)?.len().saturating_sub(1);
        if rows > 0 && !holds_events(log).await? {
            return Err(VaultError::Used { rows }.into());
        }
        Ok(())
    }

    async fn sealed_id(&self) -> Result<Option<String>, VaultError> {
        match self.secret(&Binding::installation()).await {
            Ok(id) => Ok(Some(id.expose().to_owned())),
            Err(VaultError::Missing(_)) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// What tells the pepper, and nothing of it.
    fn pepper_id(&self) -> String {
        let derived = derive(&self.pepper, b"tidings installation");
        hex::encode(derived.first_chunk::<8>().expect("a key has 32 bytes"))
    }
}

/// Whether anything was ever appended.
pub async fn holds_events(log: &dyn EventReader) -> Result<bool, ReadError> {
    for shard in 0..log.shards() {
        if log.head(shard).await? > 0 {
            return Ok(true);
        }
    }
    Ok(false)
}

async fn claimed(log: &dyn EventReader) -> Result<Option<String>, ReadError> {
    Ok(log.claims(SLUG_SHARD, &[CLAIM.to_owned()]).await?.remove(CLAIM))
}
