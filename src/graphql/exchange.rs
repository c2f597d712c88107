//! What went over the wire: answers as they were recorded, and requests as the log tells them.
//!
//! A request is not stored. All that it was made of is recorded, or known under a name that always means the same: the
//! webhook's settings of that version, its profile, the message. So it is put together when somebody asks for it, and
//! what is secret in it is not even looked up: `***` stands for it.

use async_graphql::{Context, Object, Result, SimpleObject};

use super::caller::authorise;
use super::failure::{internal, nullable};
use super::loader::{VersionOf, load, settings_of};
use super::scalar::int;
use super::{snapshot, state};
use crate::domain::outcome::MASK;
use crate::domain::outcome::{MAX_BODY_PREVIEW_BYTES, Response};
use crate::domain::profile::{Profile, UrlAsOf};
use crate::domain::scope::Scope;
use crate::domain::signing::{self, Content};
use crate::domain::subscription::Settings;
use crate::execute::history;
use crate::projections::TenantScope;
use crate::projections::rows::{AttemptRow, DeliveryRow, MessageRow};

/// What a request costs beside its fields: it may read the webhook's life.
pub(super) const REQUEST_COST: usize = 10;

/// A header of an HTTP request or of an answer.
#[derive(SimpleObject)]
pub(super) struct HttpHeader {
    /// Its name.
    name: String,
    /// Its value; of a custom header of the webhook, which nobody is shown, `***`.
    value: String,
}

pub(super) fn shown(headers: impl IntoIterator<Item = (String, String)>) -> Vec<HttpHeader> {
    headers.into_iter().map(|(name, value)| HttpHeader { name, value }).collect()
}

/// What an endpoint answered, as far as it is kept.
#[derive(SimpleObject)]
pub(super) struct HttpResponse {
    /// Its HTTP status.
    status_code: i32,
    /// Its headers that may explain a failure, at most 16 and 1 KiB of them, control characters escaped; no credentials. Of
    /// a recorded success none are kept.
    headers: Vec<HttpHeader>,
    /// The beginning of its body, at most 1 KiB, control characters escaped.
    body_preview: String,
    /// How long its body was, in bytes: what was read, at most 64 KiB, or what it announced if that is more, at most
    /// 2147483647. Null of some attempts of old versions.
    body_bytes: Option<i32>,
    /// Whether its body was longer than the preview.
    body_truncated: bool,
}

impl From<&Response> for HttpResponse {
    fn from(response: &Response) -> Self {
        Self {
            status_code: response.status.into(),
            headers: shown(response.headers.clone()),
            body_preview: response.preview.clone(),
            body_bytes: response.size_bytes().map(int),
            body_truncated: response.truncated,
        }
    }
}

/// A request of an attempt.
pub(super) struct HttpRequest {
    url: String,
    headers: Vec<(String, String)>,
    profile: &'static Profile,
    message: MessageRow,
    /// The tenant's public id.
    tenant_slug: String,
}

/// What an attempt sent, or would have sent where no connection came about. Put together from what is recorded: the
/// message, the webhook's version and its profile.
#[Object]
impl HttpRequest {
    /// Where to.
    async fn url(&self) -> &str {
        &self.url
    }

    /// The headers that the profile and the webhook add, in the order in which they were sent. `***` stands in place of what
    /// was signed (`v1,***`), and of the value of a custom header.
    async fn headers(&self) -> Vec<HttpHeader> {
        shown(self.headers.clone())
    }

    /// The beginning of the body, at most 1 KiB, byte for byte; null once the message's data is erased.
    async fn body_preview(&self, ctx: &Context<'_>) -> Option<Result<String>> {
        nullable(async {
            let data = state(ctx).engine.message_data(self.message.position).await;
            let data = data.map_err(|error| internal(&error))?;
            Ok(data.map(|data| {
                let mut body = self.body(&data);
                body.truncate(body.floor_char_boundary(MAX_BODY_PREVIEW_BYTES));
                body
            }))
        })
        .await
    }

    /// How long the body was, in bytes; known also once the message's data is erased.
    async fn body_bytes(&self) -> i32 {
        int(self.size_bytes())
    }

    /// Whether the body was longer than the preview.
    async fn body_truncated(&self) -> bool {
        self.size_bytes() > MAX_BODY_PREVIEW_BYTES as u64
    }
}

impl HttpRequest {
    /// The attempt's request; `None` if what it was made of is not known any more. Needs the scopes of its webhook and of
    /// its message.
    pub(super) async fn of(ctx: &Context<'_>, attempt: &AttemptRow) -> Result<Option<Self>> {
        let tenant = authorise(ctx, Scope::DeliveriesRead)?.tenant;
        authorise(ctx, Scope::WebhooksRead)?;
        let Some(delivery) = load(ctx, (tenant, attempt.delivery)).await? else { return Ok(None) };
        let Some(message) = load(ctx, (tenant, delivery.message)).await? else { return Ok(None) };
        let Some(owner) = load(ctx, tenant).await? else { return Ok(None) };
        let version = VersionOf { tenant, subscription: delivery.subscription, version: attempt.revision };
        let Some(settings) = settings_of(ctx, version).await? else { return Ok(None) };
        let Ok(profile) = settings.profile() else { return Ok(None) };
        let url = url(ctx, profile, &settings, &delivery, version).await?;
        let mut request = Self { url, headers: vec![], profile, message, tenant_slug: owner.slug };
        request.headers = headers(&request.content("", delivery.sequence), profile, &settings, attempt);
        Ok(Some(request))
    }

    fn content<'a>(&'a self, data: &'a str, sequence: Option<u64>) -> Content<'a> {
        Content {
            message: self.message.id,
            event_type: &self.message.event_type,
            occurred_at: self.message.occurred_at,
            tenant: &self.tenant_slug,
            data,
            sequence,
        }
    }

    fn body(&self, data: &str) -> String {
        signing::body(self.profile, &self.content(data, None))
    }

    /// The data stands in every body once.
    fn size_bytes(&self) -> u64 {
        self.body("").len() as u64 + u64::from(self.message.size_bytes)
    }
}

/// The headers of that attempt, without anything that is secret.
fn headers(
    content: &Content<'_>,
    profile: &Profile,
    settings: &Settings,
    attempt: &AttemptRow,
) -> Vec<(String, String)> {
    let signers = settings.signing_secrets(attempt.started_at).len();
    let mut headers = signing::masked_headers(profile, content, signers, attempt.started_at);
    let custom = settings.headers.iter().flat_map(|custom| &custom.names);
    headers.extend(custom.map(|name| (name.clone(), MASK.to_owned())));
    headers
}

/// Where the attempt went: by the version that it was sent under, or by that of the time when its delivery was scheduled.
async fn url(
    ctx: &Context<'_>,
    profile: &Profile,
    settings: &Settings,
    delivery: &DeliveryRow,
    sent_under: VersionOf,
) -> Result<String> {
    let scheduled_under = match profile.url_as_of {
        UrlAsOf::Attempt => None,
        UrlAsOf::Trigger => revision_of(ctx, delivery).await?,
    };
    let earlier = match scheduled_under.filter(|version| *version < sent_under.version) {
        Some(version) => settings_of(ctx, VersionOf { version, ..sent_under }).await?,
        None => None,
    };
    Ok(earlier.as_deref().unwrap_or(settings).url.clone())
}

/// The webhook's version when the delivery was scheduled.
async fn revision_of(ctx: &Context<'_>, delivery: &DeliveryRow) -> Result<Option<u64>> {
    let place = state(ctx).read_models.delivery_position(TenantScope(delivery.tenant), delivery.id).await;
    let Some(place) = place.map_err(|error| internal(&error))? else { return Ok(None) };
    history::scheduled_under(state(ctx).log.reader(), place, snapshot::budget(ctx)).await.map_err(snapshot::failed)
}
