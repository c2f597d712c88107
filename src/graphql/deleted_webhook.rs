//! Webhooks that were deleted and can still be restored.

use async_graphql::{Context, ID, Object, Result};

use super::failure::internal;
use super::page::{Connection, List, PageArgs};
use super::scalar::{DateTime, int};
use super::state;
use crate::projections::TenantScope;
use crate::projections::rows::DeletedWebhookRow;

pub(super) struct DeletedWebhook(DeletedWebhookRow);

/// A webhook that was deleted, as it was at its end. While it can be restored (`restoreWebhook`) its settings and its
/// signing secret are kept.
#[Object]
impl DeletedWebhook {
    /// The id that the webhook had, and has again once it is restored.
    async fn webhook_id(&self) -> ID {
        self.0.webhook.id.into()
    }

    /// Where it sent.
    async fn url(&self) -> &str {
        &self.0.webhook.url
    }

    /// What it was for.
    async fn description(&self) -> Option<&str> {
        self.0.webhook.description.as_deref()
    }

    /// Which messages it sent.
    async fn event_filters(&self) -> Vec<&str> {
        self.0.webhook.filters.iter().map(|filter| filter.as_str()).collect()
    }

    /// Name of its delivery profile, which says for how long a webhook can be restored.
    async fn profile(&self) -> &str {
        &self.0.webhook.profile
    }

    /// The version of its settings at its end; the deletion is the next one.
    async fn version(&self) -> i32 {
        int(self.0.webhook.revision)
    }

    /// When it was created.
    async fn created_at(&self) -> DateTime {
        self.0.webhook.created_at.into()
    }

    /// When it was deleted.
    async fn deleted_at(&self) -> DateTime {
        self.0.deleted_at.into()
    }

    /// Until when it can be restored. Then its signing secret is destroyed, and soon it is listed here no more.
    async fn restorable_until(&self) -> DateTime {
        self.0.restorable_until.into()
    }
}

/// The tenant's. The caller has checked the scope.
pub(super) async fn list(ctx: &Context<'_>, scope: TenantScope, page: PageArgs) -> Result<Connection<DeletedWebhook>> {
    let list = List::new(Some(scope.0), "deletedWebhooks", &[]);
    let page = page.of(&list)?;
    let slice = state(ctx).read_models.deleted_webhooks(scope, &page).await.map_err(|error| internal(&error))?;
    Ok(Connection::new(&list, &page, slice, DeletedWebhook))
}
