//! What is kept of sessions: read at the start, written while they go on, and asked for with each use, since another
//! process may have ended one while the log passes from it to this one. So nothing of it is remembered here.

use zeroize::Zeroizing;

use super::{Binding, KeyBytes, Purpose, Vault, VaultError};
use crate::clock::Clock;

/// Rows that are read at one time.
const PAGE: usize = 500;

/// Which session, and what is kept of it.
type KeptSession = (Binding, Zeroizing<Vec<u8>>);

impl Vault {
    /// Under what hashes of sessions are made.
    pub fn session_pepper(&self) -> KeyBytes {
        self.derived_key("tidings sessions")
    }

    /// Keeps a session.
    pub async fn keep_session(&self, binding: &Binding, plain: &[u8], clock: &dyn Clock) -> Result<(), VaultError> {
        let added = self.store.add(binding.name(), &self.keys.current.seal(binding, plain, clock)).await?;
        if added { Ok(()) } else { Err(VaultError::Taken(binding.to_string())) }
    }

    /// Replaces what is kept of a session. Nothing happens to one that has ended, or is being replaced by somebody else.
    pub async fn update_session(&self, binding: &Binding, plain: &[u8], clock: &dyn Clock) -> Result<(), VaultError> {
        if let Some(before) = self.store.get(binding.name()).await? {
            self.store.replace(binding.name(), &before, &self.keys.current.seal(binding, plain, clock)).await?;
        }
        Ok(())
    }

    /// Every session that is kept, and those that cannot be opened: they are nothing any more.
    pub async fn sessions(&self) -> Result<(Vec<KeptSession>, Vec<Binding>), VaultError> {
        let (prefix, mut after) = (format!("{}/", Purpose::Session.as_str()), String::new());
        let (mut sessions, mut damaged) = (Vec::new(), Vec::new());
        loop {
            let rows = self.store.rows(&prefix, &after, PAGE).await?;
            let Some(last) = rows.last() else { return Ok((sessions, damaged)) };
            after.clone_from(&last.name);
            for row in rows {
                let binding = Binding::named(&row.name);
                match self.keys.open(&binding, &row.value) {
                    Ok(plain) => sessions.push((binding, plain)),
                    Err(error) => {
                        tracing::warn!("a session is not known any more: {error}");
                        damaged.push(binding);
                    }
                }
            }
        }
    }

    /// Whether a session is kept still.
    pub async fn keeps_session(&self, binding: &Binding) -> Result<bool, VaultError> {
        Ok(self.store.get(binding.name()).await?.is_some())
    }

    /// Keeps the session of that hash no more, whosever it is. Looks through the names of all.
    pub async fn drop_session_of(&self, hash: &[u8; 32]) -> Result<(), VaultError> {
        let mut names = self.names_below(&format!("{}/", Purpose::Session.as_str())).await?;
        names.retain(|name| Binding::named(name).of_session().is_some_and(|(_, _, of)| of == *hash));
        if !names.is_empty() {
            self.store.destroy(&names).await?;
        }
        Ok(())
    }

    /// Keeps these sessions no more.
    pub async fn drop_sessions(&self, bindings: &[Binding]) -> Result<(), VaultError> {
        let names: Vec<_> = bindings.iter().map(|binding| binding.name().to_owned()).collect();
        if !names.is_empty() {
            self.store.destroy(&names).await?;
        }
        Ok(())
    }
}
