//! Custom headers on their way to a subscription: checked, sealed, and only then told of.

use super::{Done, Engine, EngineError};
use crate::domain::header::{CustomHeaders, GivenHeaders, SealedHeaders};
use crate::domain::id::{SubscriptionId, TenantId};
use crate::domain::subscription::{self, Command, Update};
use crate::execute::Meta;
use crate::execute::vault::Binding;

impl Engine {
    /// Changes a subscription's settings; a new URL passes the same checks as at creation. Headers, if there are any here,
    /// take the place of all that it had.
    pub async fn update_subscription(
        &self,
        tenant: TenantId,
        id: SubscriptionId,
        mut update: Update,
        headers: Option<GivenHeaders>,
        meta: Meta,
    ) -> Result<Done, EngineError> {
        if let Some(url) = &update.url {
            update.url = Some(self.check_url(tenant, url).await?);
        }
        if let Some(given) = headers {
            let settings = self.settings(tenant, id).await?;
            let profile = settings.profile().map_err(subscription::Refusal::from)?;
            update.headers = Some(self.seal_headers(tenant, id, &CustomHeaders::check(profile, given)?).await?);
        }
        let sealed = update.headers.as_ref().and_then(Option::as_ref).map(|headers| headers.secret);
        let sealed = sealed.map(|headers| Binding::custom_headers(tenant, id, headers));
        match self.subscription(tenant, id, Command::Update(update), meta).await {
            Ok(done) => {
                let used = done.settings.as_ref().map(Binding::all_of).unwrap_or_default();
                // The same headers as before: what was sealed for them just now is nobody's.
                if let Some(unused) = sealed.filter(|headers| !used.contains(headers)) {
                    self.context.vault.destroy(&unused).await?;
                }
                Ok(done)
            }
            Err(error) => {
                self.discard_if_refused(&error, sealed.as_slice()).await?;
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
        let (vault, text) = (&self.context.vault, headers.to_secret());
        let clock = &*self.context.clock;
        let secret = clock.secret_id();
        vault.store(&Binding::custom_headers(tenant, id, secret), &text, clock).await?;
        Ok(Some(SealedHeaders { secret, names: headers.names(), fingerprint: vault.fingerprint(&text) }))
    }
}
