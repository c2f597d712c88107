//! What filters would pick that no webhook has yet.

use std::collections::HashMap;

use async_graphql::{Context, Object, Result};

use super::caller::{authorise, own_tenant};
use super::event_type::{self, EventType};
use super::failure::{fault, internal, nullable};
use super::loader::{CatalogueOf, load};
use super::message::Message;
use super::page::items;
use super::scalar::int;
use super::state;
use super::webhook::{self, FilterHint, UnmatchedFilter};
use crate::domain::filter::{self, Filter};
use crate::domain::profile;
use crate::domain::scope::Scope;
use crate::error_code::ErrorCode;
use crate::projections::rows::MessageRow;
use crate::projections::{MessageFilter, Page, TenantScope};

/// What a preview costs beside its fields: it may look at a thousand messages.
pub(super) const PREVIEW_COST: usize = 100;
/// So many messages are looked at unless the caller says.
pub(super) const DEFAULT_MESSAGES: i32 = 100;
/// The most messages that a preview looks at.
const MAX_MESSAGES: usize = 1_000;
/// The most messages that it shows.
const SHOWN_MESSAGES: usize = 20;

pub(super) struct FilterPreview {
    event_types: Vec<EventType>,
    filters: Vec<Filter>,
    hints: Vec<FilterHint>,
    unmatched: Vec<UnmatchedFilter>,
    looked_at: usize,
    matched: usize,
    messages: Vec<MessageRow>,
}

/// What filters pick, by the rule that deliveries go by. Nothing is stored.
#[Object]
impl FilterPreview {
    /// The filters as a webhook of the profile would have them recorded.
    async fn filters(&self) -> Vec<&str> {
        self.filters.iter().map(Filter::as_str).collect()
    }

    /// Event types of the catalogue that the filters pick, by name.
    #[graphql(complexity = "items(100, child_complexity)")]
    async fn event_types(&self) -> &[EventType] {
        &self.event_types
    }

    /// Filters that pick fewer event types of the catalogue than they would with `**` at the end.
    #[graphql(complexity = "items(10, child_complexity)")]
    async fn hints(&self) -> &[FilterHint] {
        &self.hints
    }

    /// Filters that pick no event type of the catalogue.
    #[graphql(complexity = "items(10, child_complexity)")]
    async fn unmatched_filters(&self) -> &[UnmatchedFilter] {
        &self.unmatched
    }

    /// How many messages were looked at: `lastMessages`, or fewer if there are no more.
    async fn messages_looked_at(&self) -> i32 {
        int(self.looked_at as u64)
    }

    /// How many of these the filters pick.
    async fn messages_matched(&self) -> i32 {
        int(self.matched as u64)
    }

    /// Those that the filters pick, the newest first, at most 20. Needs the scope `DELIVERIES_READ`.
    #[graphql(complexity = "items(SHOWN_MESSAGES, child_complexity)")]
    async fn messages(&self, ctx: &Context<'_>) -> Option<Result<Vec<Message>>> {
        nullable(async {
            authorise(ctx, Scope::DeliveriesRead)?;
            Ok(Some(self.messages.iter().cloned().map(Message).collect()))
        })
        .await
    }
}

impl FilterPreview {
    /// What the filters pick of the caller's catalogue and of its last messages, as that profile reads them, or the
    /// tenant's.
    pub(super) async fn of(
        ctx: &Context<'_>,
        globs: &[String],
        profile: Option<String>,
        last_messages: i32,
    ) -> Result<Self> {
        let scope = own_tenant(ctx, Scope::WebhooksRead)?;
        let filters = meant(ctx, scope, event_type::parse(globs)?, profile).await?;
        let limit = match usize::try_from(last_messages) {
            Ok(count @ 1..=MAX_MESSAGES) => count,
            Ok(_) | Err(_) => {
                return Err(fault(ErrorCode::InvalidInput, format!("'lastMessages' is 1 to {MAX_MESSAGES}")));
            }
        };
        let catalogue = load(ctx, CatalogueOf(scope.0)).await?.unwrap_or_default();
        let page = Page::first(limit);
        let last = state(ctx).read_models.messages(scope, &MessageFilter::default(), &page).await;
        let last = last.map_err(|error| internal(&error))?.rows;
        // Many messages are of few types.
        let mut picked = HashMap::new();
        let looked_at = last.len();
        let mut messages: Vec<_> = last.into_iter().map(|(_, message)| message).collect();
        messages.retain(|message| {
            let picks = || filter::matches_any(&filters, &message.event_type);
            *picked.entry(message.event_type.clone()).or_insert_with(picks)
        });
        let matched = messages.len();
        messages.truncate(SHOWN_MESSAGES);
        Ok(Self {
            hints: webhook::hints(&filters, &catalogue),
            unmatched: webhook::unmatched(&filters, &catalogue),
            event_types: catalogue
                .iter()
                .filter(|event_type| filter::matches_any(&filters, &event_type.name))
                .cloned()
                .collect(),
            filters,
            looked_at,
            matched,
            messages,
        })
    }
}

/// The filters as a webhook of that profile would have them recorded; of the tenant's, if none is named.
async fn meant(
    ctx: &Context<'_>,
    scope: TenantScope,
    filters: Vec<Filter>,
    profile: Option<String>,
) -> Result<Vec<Filter>> {
    let profile = match profile {
        Some(name) => Some(name),
        None => load(ctx, scope.0).await?.map(|tenant| tenant.profile),
    };
    let Some(name) = profile else { return Ok(filters) };
    let profile = profile::find(&name).map_err(|error| fault(ErrorCode::InvalidInput, error.to_string()))?;
    let meant = filters.into_iter().map(|filter| filter.meant(profile.filters.trailing_star));
    meant.collect::<Result<_, _>>().map_err(|error| fault(error.code(), error.to_string()))
}
