//! What is sealed on its way to a subscription, custom headers and addresses for notices: checked, sealed, and only then
//! told of.

use super::{Done, Engine, EngineError};
use crate::domain::header::{CustomHeaders, GivenHeaders, SealedHeaders};
use crate::domain::id::{SecretId, SubscriptionId, TenantId};
use crate::domain::notice::{GivenRecipients, Recipients, SealedRecipients};
use crate::domain::secret::Secret;
use crate::domain::subscription::{self, Command, Update};
use crate::execute::Meta;
use crate::execute::vault::{Binding, VaultError};

/// What takes the place of all that a subscription had of the kind; `None`: it stays.
#[derive(Clone, Debug, Default)]
pub struct Sealable {
    /// Headers of its own.
    pub headers: Option<GivenHeaders>,
    /// Who is to be told what happens to it.
    pub recipients: Option<GivenRecipients>,
}

impl Engine {
    /// Changes a subscription's settings; a new URL passes the same checks as at creation.
    pub async fn update_subscription(
        &self,
        tenant: TenantId,
        id: SubscriptionId,
        mut update: Update,
        given: Sealable,
        meta: Meta,
    ) -> Result<Done, EngineError> {
        if let Some(url) = &update.url {
            update.url = Some(self.check_url(tenant, url).await?);
        }
        // Everything is checked before anything is sealed.
        let recipients = given.recipients.as_ref().map(Recipients::check).transpose()?;
        if let Some(given) = given.headers {
            let settings = self.settings(tenant, id).await?;
            let profile = settings.profile().map_err(subscription::Refusal::from)?;
            update.headers = Some(self.seal_headers(tenant, id, &CustomHeaders::check(profile, given)?).await?);
        }
        if let Some(recipients) = recipients {
            update.recipients = Some(self.seal_recipients(tenant, id, &recipients).await?);
        }
        let sealed = sealed_for(tenant, id, &update);
        match self.subscription(tenant, id, Command::Update(update), meta).await {
            Ok(done) => {
                let used = done.settings.as_ref().map(Binding::all_of).unwrap_or_default();
                // The same as before: what was sealed for it just now is nobody's.
                for unused in sealed.iter().filter(|sealed| !used.contains(sealed)) {
                    self.context.vault.destroy(unused).await?;
                }
                Ok(done)
            }
            Err(error) => {
                self.discard_if_refused(&error, &sealed).await?;
                Err(error)
            }
        }
    }

    /// `None`: there are none.
    pub(super) async fn seal_headers(
        &self,
        tenant: TenantId,
        id: SubscriptionId,
        headers: &CustomHeaders,
    ) -> Result<Option<SealedHeaders>, EngineError> {
        if headers.is_empty() {
            return Ok(None);
        }
        let bind = |secret| Binding::custom_headers(tenant, id, secret);
        let (secret, fingerprint) = self.seal(bind, &headers.to_secret()).await?;
        Ok(Some(SealedHeaders { secret, names: headers.names(), fingerprint }))
    }

    /// `None`: there are none.
    pub(super) async fn seal_recipients(
        &self,
        tenant: TenantId,
        id: SubscriptionId,
        recipients: &Recipients,
    ) -> Result<Option<SealedRecipients>, EngineError> {
        let Ok(count @ 1..) = u32::try_from(recipients.addresses().len()) else { return Ok(None) };
        let bind = |secret| Binding::recipients(tenant, id, secret);
        let (secret, fingerprint) = self.seal(bind, &recipients.to_secret()).await?;
        Ok(Some(SealedRecipients { secret, count, fingerprint }))
    }

    /// Seals a text, and says under which id, and its fingerprint.
    async fn seal(&self, bind: impl Fn(SecretId) -> Binding, text: &Secret) -> Result<(SecretId, String), EngineError> {
        let (vault, clock) = (&self.context.vault, &*self.context.clock);
        let secret = clock.secret_id();
        vault.store(&bind(secret), text, clock).await?;
        Ok((secret, vault.fingerprint(text)))
    }

    /// Who is told what happens to a subscription; nobody if it is gone, or its addresses are.
    pub async fn recipients(
        &self,
        tenant: TenantId,
        id: SubscriptionId,
        sealed: &SealedRecipients,
    ) -> Result<Recipients, EngineError> {
        match self.context.vault.secret(&Binding::recipients(tenant, id, sealed.secret)).await {
            Ok(text) => Ok(Recipients::of_secret(&text).unwrap_or_default()),
            // Replaced or destroyed since the caller read where they are.
            Err(VaultError::Missing(_)) => Ok(Recipients::default()),
            Err(error) => Err(error.into()),
        }
    }
}

/// What was sealed for a change.
fn sealed_for(tenant: TenantId, id: SubscriptionId, update: &Update) -> Vec<Binding> {
    let headers = update.headers.iter().flatten().map(|headers| Binding::custom_headers(tenant, id, headers.secret));
    let recipients = update.recipients.iter().flatten().map(|sealed| Binding::recipients(tenant, id, sealed.secret));
    headers.chain(recipients).collect()
}
