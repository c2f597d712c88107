//! Names by which people log in, which are unique over all tenants.

use super::{Engine, EngineError};
use crate::domain::id::{TenantId, UserId};
use crate::domain::scope::Scope;
use crate::domain::tenant::{self, Refusal};
use crate::event_store::{Append, AppendError, Claim};
use crate::execute;

impl Engine {
    /// For whom the tenant claimed the name before: a crash behind the claim leaves it to be completed by the same call.
    /// `None` if nobody has. What the tenant will refuse is refused here, before anything is claimed.
    pub async fn user_of_name(
        &self,
        tenant: TenantId,
        name: &str,
        scopes: &[Scope],
    ) -> Result<Option<UserId>, EngineError> {
        let known = self.unerased(tenant).await?;
        tenant::check_new_user(&known, name, scopes)?;
        known.created.ok_or(Refusal::NotFound)?;
        let Some(claimed) = self.claimed_user(name).await? else { return Ok(None) };
        let owner = claimed.split_once('/').filter(|(owner, _)| *owner == tenant.to_string());
        let user = owner.and_then(|(_, user)| user.parse().ok());
        user.map(Some).ok_or_else(|| Refusal::UserExists(name.to_owned()).into())
    }

    /// Claims the name for a user of the tenant, for ever.
    pub async fn claim_user_name(&self, tenant: TenantId, name: &str, user: UserId) -> Result<(), EngineError> {
        let value = format!("{tenant}/{user}");
        let claim = Claim { key: execute::user_claim(name), value: value.clone(), bucket: None };
        match self.context.log.append(execute::SLUG_SHARD, Append { claims: vec![claim], ..Append::default() }).await {
            Ok(_) => Ok(()),
            Err(AppendError::ClaimTaken { .. }) if self.claimed_user(name).await?.as_ref() == Some(&value) => Ok(()),
            Err(AppendError::ClaimTaken { .. }) => Err(Refusal::UserExists(name.to_owned()).into()),
            Err(error) => Err(error.into()),
        }
    }

    async fn claimed_user(&self, name: &str) -> Result<Option<String>, EngineError> {
        let key = execute::user_claim(name);
        Ok(self.context.log.claims(execute::SLUG_SHARD, std::slice::from_ref(&key)).await?.remove(&key))
    }
}
