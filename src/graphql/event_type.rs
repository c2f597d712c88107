//! The catalogue of event types, as one tenant has it.

use std::sync::Arc;

use async_graphql::{Context, Enum, ID, InputObject, Object, Result};

use super::caller::authorise;
use super::failure::fault;
use super::loader::{CatalogueOf, load};
use super::page::{Connection, List, PageArgs, cut};
use super::scalar::{DateTime, Json};
use crate::domain::catalogue::{self, Definition, Stage};
use crate::domain::filter::{self, Filter};
use crate::domain::id::TenantId;
use crate::domain::profile::MAX_FILTERS;
use crate::domain::scope::Scope;
use crate::domain::time::Timestamp;
use crate::projections::Key;
use crate::projections::rows::EventTypeRow;

/// What an event type's id begins with; its name follows.
pub(super) const PREFIX: &str = "ety_";

#[derive(Clone, Debug)]
pub(super) struct EventType {
    pub(super) name: filter::EventType,
    category: String,
    description: String,
    stage: EventTypeStage,
    version: String,
    deprecation_reason: Option<String>,
    schema: Arc<serde_json::Value>,
    example: Option<Arc<serde_json::Value>>,
    /// `None` for those that every tenant has.
    registered_at: Option<Timestamp>,
}

/// Where an event type stands in its life.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Enum)]
#[graphql(remote = "Stage")]
pub(super) enum EventTypeStage {
    /// It is published.
    Available,
    /// It is announced; nobody publishes it yet.
    Planned,
    /// It is still published, and will not be for ever: see `deprecationReason`.
    Deprecated,
}

/// Picks event types; all conditions must hold.
#[derive(Clone, Debug, Default, InputObject)]
pub(super) struct EventTypeFilter {
    /// Part of the name, the category or the description; upper and lower case are the same.
    search: Option<String>,
    /// Event filters such as `user.*` or `account.**`, at most 50: types that at least one of them picks. Shows which
    /// types a webhook with these filters would send.
    matches: Option<Vec<String>>,
    /// At one of these stages; empty or absent: at any.
    stages: Option<Vec<EventTypeStage>>,
}

impl EventTypeFilter {
    /// What these filters pick.
    pub(super) fn matching(filters: &[Filter]) -> Self {
        Self { search: None, stages: None, matches: Some(filters.iter().map(ToString::to_string).collect()) }
    }
}

/// A kind of event that messages tell of.
#[Object]
impl EventType {
    /// `ety_` and the name.
    pub(super) async fn id(&self) -> ID {
        ID(format!("{PREFIX}{}", self.name))
    }

    /// The name, as in messages: `user.created`.
    async fn name(&self) -> &str {
        self.name.as_str()
    }

    /// The group that it is listed under.
    async fn category(&self) -> &str {
        &self.category
    }

    /// When it happens, in one sentence.
    async fn description(&self) -> &str {
        &self.description
    }

    /// Where it stands in its life.
    async fn stage(&self) -> EventTypeStage {
        self.stage
    }

    /// What a message's data looks like, in a word that changes with `schema`.
    async fn version(&self) -> &str {
        &self.version
    }

    /// Why it will not be published for ever, and what to use instead; null: it is not deprecated. It is published and
    /// picked by filters all the same.
    async fn deprecation_reason(&self) -> Option<&str> {
        self.deprecation_reason.as_deref()
    }

    /// JSON Schema 2020-12 of a message's data.
    async fn schema(&self) -> Json {
        (&*self.schema).into()
    }

    /// Data that conforms to the schema; what a test delivery of this type carries.
    async fn example(&self) -> Option<Json> {
        self.example.as_deref().map(Json::from)
    }

    /// Whether every tenant has it; otherwise this tenant registered it.
    async fn built_in(&self) -> bool {
        self.registered_at.is_none()
    }

    /// When this tenant registered it; null if every tenant has it.
    async fn registered_at(&self) -> Option<DateTime> {
        self.registered_at.map(DateTime)
    }
}

impl From<&Definition> for EventType {
    fn from(definition: &Definition) -> Self {
        Self {
            name: definition.name.clone(),
            category: definition.category.clone(),
            description: definition.description.clone(),
            stage: definition.stage.into(),
            version: definition.version.clone(),
            deprecation_reason: definition.deprecation_reason.clone(),
            schema: Arc::new(definition.schema.clone()),
            example: Some(Arc::new(definition.example.clone())),
            registered_at: None,
        }
    }
}

impl From<EventTypeRow> for EventType {
    fn from(row: EventTypeRow) -> Self {
        Self {
            name: row.name,
            category: row.category,
            description: row.description,
            stage: match row.deprecation_reason {
                Some(_) => EventTypeStage::Deprecated,
                None => EventTypeStage::Available,
            },
            version: row.version,
            deprecation_reason: row.deprecation_reason,
            schema: Arc::new(row.schema),
            example: row.example.map(Arc::new),
            registered_at: Some(row.created_at),
        }
    }
}

/// What every tenant has and what this one registered, by name.
pub(super) fn catalogue(own: Vec<EventTypeRow>) -> Vec<EventType> {
    let mut all: Vec<_> =
        catalogue::builtin().iter().map(EventType::from).chain(own.into_iter().map(EventType::from)).collect();
    all.sort_by(|a, b| a.name.as_str().cmp(b.name.as_str()));
    all
}

impl EventType {
    /// The caller's event type of that name.
    pub(super) async fn find(ctx: &Context<'_>, name: &str) -> Result<Option<Self>> {
        let tenant = authorise(ctx, Scope::WebhooksRead)?.tenant;
        named(ctx, tenant, name).await
    }

    fn contains(&self, text: &str) -> bool {
        [self.name.as_str(), &self.category, &self.description].iter().any(|field| field.to_lowercase().contains(text))
    }
}

/// The tenant's event type of that name. The caller has checked the scope.
pub(super) async fn named(ctx: &Context<'_>, tenant: TenantId, name: &str) -> Result<Option<EventType>> {
    let all = load(ctx, CatalogueOf(tenant)).await?;
    Ok(all.and_then(|all| all.iter().find(|event_type| event_type.name.as_str() == name).cloned()))
}

/// The tenant's event types that the filter picks. The caller has checked the scope.
pub(super) async fn list(
    ctx: &Context<'_>,
    tenant: TenantId,
    filter: EventTypeFilter,
    page: PageArgs,
) -> Result<Connection<EventType>> {
    let stages = filter.stages.filter(|stages| !stages.is_empty());
    let conditions = [
        ("search", filter.search.clone()),
        ("matches", filter.matches.as_ref().map(|all| all.join(" "))),
        ("stages", stages.as_ref().map(|stages| format!("{stages:?}"))),
    ];
    let list = List::new(Some(tenant), "eventTypes", &conditions);
    let page = page.of(&list)?;
    let globs = filter.matches.map(|globs| parse(&globs)).transpose()?;
    let search = filter.search.map(|text| text.to_lowercase());
    let picked = |event_type: &&EventType| {
        globs.as_ref().is_none_or(|globs| filter::matches_any(globs, &event_type.name))
            && stages.as_ref().is_none_or(|stages| stages.contains(&event_type.stage))
            && search.as_ref().is_none_or(|text| event_type.contains(text))
    };
    let all = load(ctx, CatalogueOf(tenant)).await?.unwrap_or_default();
    let rows = all.iter().filter(picked).map(|found| (Key(0, found.name.to_string()), found.clone())).collect();
    Ok(Connection::new(&list, &page, cut(rows, &page), |event_type| event_type))
}

/// The filters; the first that is none is named.
pub(super) fn parse(globs: &[String]) -> Result<Vec<Filter>> {
    if globs.len() > MAX_FILTERS {
        let message = format!("at most {MAX_FILTERS} filters are allowed");
        return Err(fault(crate::error_code::ErrorCode::InvalidInput, message));
    }
    globs.iter().map(|glob| Filter::parse(glob).map_err(|error| fault(error.code(), error.to_string()))).collect()
}

/// The names of the tenant's event types that the filters pick.
pub(super) async fn picked_by(
    ctx: &Context<'_>,
    tenant: TenantId,
    filters: &[Filter],
) -> Result<Vec<filter::EventType>> {
    let all = load(ctx, CatalogueOf(tenant)).await?.unwrap_or_default();
    let names = all.iter().map(|event_type| event_type.name.clone());
    Ok(names.filter(|name| filter::matches_any(filters, name)).collect())
}
