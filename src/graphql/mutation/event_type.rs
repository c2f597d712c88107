//! Mutations of the catalogue.

use async_graphql::{Context, InputObject, MaybeUndefined, Object, Result, SimpleObject};

use super::access::position;
use super::{payloads, readable_behind};
use crate::actors::Done;
use crate::domain::catalogue::{Definition, Draft, InvalidDefinition};
use crate::domain::event::EventTypeRegistered;
use crate::domain::id::TenantId;
use crate::domain::scope::Scope;
use crate::domain::tenant::{Command, EventTypeUpdate, OwnEventType, Refusal};
use crate::domain::{catalogue, filter};
use crate::graphql::caller::{authorise, caller};
use crate::graphql::event_type::EventType;
use crate::graphql::failure::{Failure, UserError, UserErrorCode, internal, payload};
use crate::graphql::scalar::Json;
use crate::graphql::state;
use crate::projections::TenantScope;

/// A new event type.
#[derive(InputObject)]
struct RegisterEventTypeInput {
    /// Its name: segments of letters, digits and `_`, separated by dots. Names that begin with `webhook.` are reserved.
    name: String,
    /// When it happens, in one sentence of at most 200 characters.
    description: String,
    /// The group that it is listed under, 1 to 64 characters.
    category: String,
    /// What a message's data looks like, in a word of 1 to 32 letters, digits, `.`, `_` and `-`: `1`, `2024-06-01`. Another
    /// schema takes another one (`updateEventType`).
    #[graphql(default_with = "catalogue::FIRST_VERSION.to_owned()")]
    version: String,
    /// JSON Schema 2020-12 of a message's data, at most 64 KiB.
    schema: Json,
    /// Data that conforms to the schema, a JSON object of at most 64 KiB; what a test delivery of this type carries.
    example: Json,
}

/// What came of `registerEventType`.
#[derive(Default, SimpleObject)]
struct RegisterEventTypePayload {
    /// The event type.
    event_type: Option<EventType>,
    /// Place in the log of what was recorded; null if it was registered before, with the same definition.
    position: Option<String>,
    /// Why nothing was done; empty if it was.
    user_errors: Vec<UserError>,
}

/// Another definition of an event type of the tenant's own.
#[derive(InputObject)]
struct UpdateEventTypeInput {
    /// Which one.
    name: String,
    /// When it happens, in one sentence of at most 200 characters; absent or null: as before.
    description: Option<String>,
    /// The group that it is listed under, 1 to 64 characters; absent or null: as before.
    category: Option<String>,
    /// What a message's data looks like, in a word, as for `registerEventType`; absent or null: as before, which is refused
    /// if the schema is another one.
    version: Option<String>,
    /// JSON Schema 2020-12 of a message's data, at most 64 KiB; absent: as before.
    schema: Option<Json>,
    /// Data that conforms to the schema, a JSON object of at most 64 KiB; absent: as before. Needed with another schema for an
    /// event type that has none, since an old version registered it.
    example: Option<Json>,
    /// Why it will not be published for ever, and what to use instead, in 1 to 200 characters; absent: as before, null: it
    /// is deprecated no more.
    deprecation_reason: MaybeUndefined<String>,
}

/// What came of `updateEventType`.
#[derive(Default, SimpleObject)]
struct UpdateEventTypePayload {
    /// The event type as it is now.
    event_type: Option<EventType>,
    /// Place in the log of what was recorded; null if nothing had to change.
    position: Option<String>,
    /// Why nothing was done; empty if it was.
    user_errors: Vec<UserError>,
}

payloads!(RegisterEventTypePayload, UpdateEventTypePayload);

#[derive(Default)]
pub(super) struct EventTypeMutation;

#[Object]
impl EventTypeMutation {
    /// Adds an event type to the tenant's catalogue. Needs the scope `WEBHOOKS_WRITE`.
    async fn register_event_type(
        &self,
        ctx: &Context<'_>,
        #[graphql(desc = "The event type.")] input: RegisterEventTypeInput,
    ) -> Option<Result<RegisterEventTypePayload>> {
        payload(register(ctx, input)).await
    }

    /// Changes the definition of an event type that the tenant registered, or deprecates it. Messages of the type are
    /// published and picked by filters as before. Needs the scope `WEBHOOKS_WRITE`.
    async fn update_event_type(
        &self,
        ctx: &Context<'_>,
        #[graphql(desc = "Which event type, and what is to change.")] input: UpdateEventTypeInput,
    ) -> Option<Result<UpdateEventTypePayload>> {
        payload(update(ctx, input)).await
    }
}

async fn register(ctx: &Context<'_>, input: RegisterEventTypeInput) -> Result<RegisterEventTypePayload, Failure> {
    let tenant = authorise(ctx, Scope::WebhooksWrite)?.tenant;
    let checked = Definition::check(Draft {
        name: &input.name,
        description: &input.description,
        category: &input.category,
        version: &input.version,
        deprecation_reason: None,
        schema: value(input.schema, "schema")?,
        example: value(input.example, "example")?,
    });
    let Definition { name, category, description, version, schema, example, .. } = checked.map_err(invalid)?;
    let example = Some(example);
    let registered = EventTypeRegistered { name: name.clone(), category, description, version, schema, example };
    let done = state(ctx).engine.tenant(tenant, Command::RegisterEventType(registered), caller(ctx).meta()).await?;
    let event_type = read(ctx, tenant, &name, &done).await?;
    Ok(RegisterEventTypePayload { event_type, position: position(&done), user_errors: vec![] })
}

async fn update(ctx: &Context<'_>, input: UpdateEventTypeInput) -> Result<UpdateEventTypePayload, Failure> {
    let tenant = authorise(ctx, Scope::WebhooksWrite)?.tenant;
    let missing = |error: String| UserError::new(UserErrorCode::NotFound, error, &["input", "name"]);
    let name = filter::EventType::parse(&input.name).map_err(|error| missing(error.to_string()))?;
    let mut own = state(ctx).engine.load_tenant(tenant).await?.event_types;
    let from = own.remove(&name).ok_or_else(|| missing(Refusal::NoSuchEventType(name.clone()).to_string()))?;
    let to = merged(&from, input)?;
    let command = Command::UpdateEventType(Box::new(EventTypeUpdate { name: name.clone(), from, to }));
    let done = state(ctx).engine.tenant(tenant, command, caller(ctx).meta()).await?;
    let event_type = read(ctx, tenant, &name, &done).await?;
    Ok(UpdateEventTypePayload { event_type, position: position(&done), user_errors: vec![] })
}

/// The whole definition as it is to be, checked.
fn merged(from: &OwnEventType, input: UpdateEventTypeInput) -> Result<OwnEventType, Failure> {
    let UpdateEventTypeInput { name, description, category, version, schema, example, deprecation_reason } = input;
    let deprecation_reason = match &deprecation_reason {
        MaybeUndefined::Undefined => from.deprecation_reason.as_deref(),
        MaybeUndefined::Null => None,
        MaybeUndefined::Value(reason) => Some(reason.as_str()),
    };
    let given = |json: Option<Json>, field| json.map(|json| value(json, field)).transpose();
    let schema = given(schema, "schema")?.unwrap_or_else(|| from.schema.clone());
    let example = given(example, "example")?.or_else(|| from.example.clone());
    // Event types without an example were registered by old versions: they need none until there is another schema.
    let stays_without = example.is_none() && schema == from.schema;
    let draft = Draft {
        name: &name,
        description: description.as_ref().unwrap_or(&from.description),
        category: category.as_ref().unwrap_or(&from.category),
        version: version.as_ref().unwrap_or(&from.version),
        deprecation_reason,
        schema,
        example: example.unwrap_or_default(),
    };
    if stays_without {
        draft.check_words().map_err(invalid)?;
        let Draft { description, category, version, deprecation_reason, schema, .. } = draft;
        let (category, description, version) = (category.to_owned(), description.to_owned(), version.to_owned());
        let deprecation_reason = deprecation_reason.map(str::to_owned);
        return Ok(OwnEventType { category, description, version, schema, example: None, deprecation_reason });
    }
    let Definition { category, description, version, schema, example, deprecation_reason, .. } =
        Definition::check(draft).map_err(invalid)?;
    Ok(OwnEventType { category, description, version, schema, example: Some(example), deprecation_reason })
}

/// The event type as the read model has it, which is given time to.
async fn read(
    ctx: &Context<'_>,
    tenant: TenantId,
    name: &filter::EventType,
    done: &Done,
) -> Result<Option<EventType>, Failure> {
    readable_behind(ctx, tenant, done).await;
    let row = state(ctx).read_models.event_type(TenantScope(tenant), name).await.map_err(|error| internal(&error))?;
    Ok(row.map(EventType::from))
}

fn invalid(invalid: InvalidDefinition) -> UserError {
    let code = UserErrorCode::of(invalid.code()).unwrap_or(UserErrorCode::InvalidInput);
    UserError::new(code, &invalid, &["input", invalid.field.as_str()])
}

fn value(Json(text): Json, field: &str) -> Result<serde_json::Value, Failure> {
    serde_json::from_str(&text)
        .map_err(|error| UserError::new(UserErrorCode::InvalidInput, error, &["input", field]).into())
}
