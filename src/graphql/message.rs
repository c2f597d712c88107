//! Messages.

use async_graphql::{Context, ID, InputObject, Object, Result};

use super::access::Tenant;
use super::caller::{authorise, own_tenant};
use super::delivery::{self, Delivery, DeliveryFilter, DeliveryStatusFilter};
use super::event_type;
use super::failure::{internal, nullable};
use super::loader::load;
use super::page::{Connection, List, PageArgs, cost};
use super::range::DateTimeRange;
use super::scalar::{DateTime, Json};
use super::state;
use crate::domain::filter::EventType;
use crate::domain::id::MessageId;
use crate::domain::scope::Scope;
use crate::projections::rows::MessageRow;
use crate::projections::{self, Slice, TenantScope};

/// Picks messages; all conditions must hold.
#[derive(Clone, Debug, Default, InputObject)]
pub(super) struct MessageFilter {
    /// Of exactly this event type.
    #[graphql(name = "type")]
    pub(super) event_type: Option<String>,
    /// Published in this time.
    pub(super) created_at: Option<DateTimeRange>,
}

pub(super) struct Message(pub(super) MessageRow);

/// Something that a publisher announced.
#[Object]
impl Message {
    /// `evt_…`; receivers deduplicate on it.
    pub(super) async fn id(&self) -> ID {
        self.0.id.into()
    }

    /// The event type's name.
    #[graphql(name = "type")]
    async fn event_type(&self) -> &str {
        self.0.event_type.as_str()
    }

    /// The event type's definition in the catalogue. Needs the scope `WEBHOOKS_READ`.
    async fn definition(&self, ctx: &Context<'_>) -> Option<Result<event_type::EventType>> {
        nullable(async {
            authorise(ctx, Scope::WebhooksRead)?;
            event_type::named(ctx, self.0.tenant, self.0.event_type.as_str()).await
        })
        .await
    }

    /// Whose it is.
    async fn tenant(&self, ctx: &Context<'_>) -> Option<Result<Tenant>> {
        nullable(async { Ok(load(ctx, self.0.tenant).await?.map(Tenant)) }).await
    }

    /// When the event happened.
    async fn occurred_at(&self) -> DateTime {
        self.0.occurred_at.into()
    }

    /// When the message was published.
    async fn created_at(&self) -> DateTime {
        self.0.created_at.into()
    }

    /// Size of the data as it is sent, in bytes.
    async fn size_bytes(&self) -> u32 {
        self.0.size_bytes
    }

    /// The data, byte for byte as receivers get it; null if it was erased.
    async fn data(&self, ctx: &Context<'_>) -> Option<Result<Json>> {
        nullable(async {
            let data = state(ctx).engine.message_data(self.0.position).await;
            Ok(data.map_err(|error| internal(&error))?.map(Json))
        })
        .await
    }

    /// When its data was erased at somebody's wish; null if it was not.
    async fn erased_at(&self) -> Option<DateTime> {
        self.0.erased_at.map(DateTime)
    }

    /// Whether receivers that parse the body and write it again with JavaScript get other bytes, so that their check of
    /// the signature fails.
    async fn unstable(&self) -> bool {
        self.0.unstable
    }

    /// What that means and what to do; null if the data is stable.
    async fn unstable_explanation(&self) -> Option<&'static str> {
        self.0.unstable.then_some(
            "The data holds a number with more digits than a JavaScript number keeps, or a key twice in one object. \
             It is delivered digit for digit. Receivers that verify the signature over the raw body are not affected; \
             receivers that verify it over the re-serialised body will reject the message. Send such numbers as text.",
        )
    }

    /// The publisher's key against publishing twice.
    async fn idempotency_key(&self) -> Option<&str> {
        self.0.idempotency_key.as_deref()
    }

    /// Its deliveries, the newest first. Needs the scope `DELIVERIES_READ`.
    #[graphql(complexity = "cost(first, last, child_complexity)")]
    async fn deliveries(
        &self,
        ctx: &Context<'_>,
        #[graphql(desc = "Which of them.")] filter: Option<DeliveryStatusFilter>,
        #[graphql(desc = "How many from the beginning, 1 to 100; 20 if neither `first` nor `last` is given.")]
        first: Option<i32>,
        #[graphql(desc = "Only what follows this cursor.")] after: Option<String>,
        #[graphql(desc = "How many from the end, 1 to 100.")] last: Option<i32>,
        #[graphql(desc = "Only what precedes this cursor.")] before: Option<String>,
    ) -> Option<Result<Connection<Delivery>>> {
        nullable(async {
            authorise(ctx, Scope::DeliveriesRead)?;
            let filter = DeliveryFilter { message_id: Some(self.0.id.into()), ..filter.unwrap_or_default().into() };
            let page = PageArgs { first, after, last, before };
            delivery::list(ctx, TenantScope(self.0.tenant), filter, page).await.map(Some)
        })
        .await
    }
}

impl Message {
    /// The caller's message of that id.
    pub(super) async fn find(ctx: &Context<'_>, id: &str) -> Result<Option<Self>> {
        let scope = own_tenant(ctx, Scope::DeliveriesRead)?;
        let Ok(id) = id.parse::<MessageId>() else { return Ok(None) };
        let row = state(ctx).read_models.message(scope, id).await;
        Ok(row.map_err(|error| internal(&error))?.map(Self))
    }
}

/// The messages that are asked for. The caller has checked the scope.
pub(super) async fn list(
    ctx: &Context<'_>,
    scope: TenantScope,
    filter: MessageFilter,
    page: PageArgs,
) -> Result<Connection<Message>> {
    let created = filter.created_at.as_ref().map(DateTimeRange::text);
    let list = List::new(Some(scope.0), "messages", &[("type", filter.event_type.clone()), ("created", created)]);
    let page = page.of(&list)?;
    let Ok(event_type) = filter.event_type.map(|name| EventType::parse(&name)).transpose() else {
        let nothing = Slice::empty();
        return Ok(Connection::new(&list, &page, nothing, Message));
    };
    let recorded = match filter.created_at {
        Some(range) => Some(range.places(ctx, scope).await?),
        None => None,
    };
    let filter = projections::MessageFilter { event_type, recorded };
    let slice = state(ctx).read_models.messages(scope, &filter, &page).await.map_err(|error| internal(&error))?;
    Ok(Connection::new(&list, &page, slice, Message))
}
