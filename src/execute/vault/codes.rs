//! Which one-time code of a user counted last. It is sealed beside the secret of the codes and goes with it, so that a code
//! counts once: here, behind a restart, and where another process has taken over.

use super::{Binding, Vault, VaultError};
use crate::clock::Clock;

impl Vault {
    /// Uses the code of that step: whether it counts, since neither it nor a later one has. Durable when it returns.
    pub async fn use_code(&self, binding: &Binding, step: u64, clock: &dyn Clock) -> Result<bool, VaultError> {
        let sealed = self.keys.current.seal(binding, step.to_string().as_bytes(), clock);
        loop {
            if self.store.add(binding.name(), &sealed).await? {
                return Ok(true);
            }
            // Destroyed meanwhile, it is added.
            let Some(before) = self.store.get(binding.name()).await? else { continue };
            if self.used_step(binding, &before).is_some_and(|last| last >= step) {
                return Ok(false);
            }
            // Whoever replaced it meanwhile used a code, or sealed it anew.
            if self.store.replace(binding.name(), &before, &sealed).await? {
                return Ok(true);
            }
        }
    }

    /// What cannot be read keeps nobody out.
    fn used_step(&self, binding: &Binding, sealed: &[u8]) -> Option<u64> {
        let opened = self.keys.open(binding, sealed);
        let step = opened.as_ref().ok().and_then(|plain| std::str::from_utf8(plain).ok()?.parse().ok());
        if step.is_none() {
            tracing::warn!("the row '{binding}' of the key store cannot be read, and begins anew");
        }
        step
    }
}
