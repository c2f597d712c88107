//! Names by which people log in, which are unique over all tenants.

use super::{Engine, EngineError};
use crate::domain::id::{TenantId, UserId};
use crate::domain::scope::Scope;
use crate::domain::tenant::{self, Refusal};
use crate::event_store::{Append, AppendError, Claim};
use crate::execute;

impl Engine {
    /// Who has the name from now on: a new user of the tenant, or the one for whom it was claimed before. A crash behind
    /// the claim leaves it to be completed by the same call. What the tenant will refuse is refused before: a claim is for
    /// ever.
    pub async fn claim_user_name(&self, tenant: TenantId, name: &str, scopes: &[Scope]) -> Result<UserId, EngineError> {
        let known = self.unerased(tenant).await?;
        tenant::check_new_user(&known, name, scopes)?;
        known.created.ok_or(Refusal::NotFound)?;
        let (key, proposed) = (execute::user_claim(name), self.context.clock.user_id());
        let claim = Claim { key: key.clone(), value: format!("{tenant}/{proposed}"), bucket: None };
        let append = Append { claims: vec![claim], ..Append::default() };
        match self.context.log.append(execute::SLUG_SHARD, append).await {
            Ok(_) => return Ok(proposed),
            Err(AppendError::ClaimTaken { .. }) => {}
            Err(error) => return Err(error.into()),
        }
        let claims = self.context.log.claims(execute::SLUG_SHARD, std::slice::from_ref(&key)).await?;
        let owner = claims.get(&key).and_then(|claimed| claimed.split_once('/'));
        let own = owner.filter(|(owner, _)| *owner == tenant.to_string()).and_then(|(_, user)| user.parse().ok());
        own.ok_or_else(|| Refusal::UserExists(name.to_owned()).into())
    }
}
