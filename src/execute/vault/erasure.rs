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
            self.cache().forget_below(&prefix);
            let destroyed = self.store.destroy(&names).await;
            // Again: whoever read one meanwhile remembers nothing.
            self.cache().forget_below(&prefix);
            destroyed?;
        }
        Ok(())
    }
}
