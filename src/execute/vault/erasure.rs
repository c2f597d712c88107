//! Destroying everything of a tenant.

use super::{Purpose, Vault, VaultError};
use crate::domain::id::TenantId;

impl Vault {
    /// Destroys all keys and secrets of a tenant, its data keys first: with them every content that is left anywhere can be
    /// opened by nobody any more. Nothing happens to what is gone already. They leave the database's files by
    /// [`Vault::scrub`].
    pub async fn destroy_tenant(&self, tenant: TenantId) -> Result<(), VaultError> {
        self.destroy_data_keys(tenant).await?;
        for purpose in Purpose::STORED {
            let prefix = format!("{}/{tenant}/", purpose.as_str());
            let names = self.names_below(&prefix).await?;
            self.store.destroy(&names).await?;
            let mut opened = self.cache();
            let gone: Vec<_> = opened
                .iter()
                .map(|(binding, _)| binding)
                .filter(|one| one.name().starts_with(&prefix))
                .cloned()
                .collect();
            gone.iter().for_each(|binding| drop(opened.pop(binding)));
        }
        Ok(())
    }
}
