//! Publishing over plain HTTP: `POST /v1/messages`.
//!
//! | body | answer |
//! | --- | --- |
//! | `application/json`, an object | the message, or why it was refused |
//! | `application/json`, an array | `results`, one for each message |
//! | `application/x-ndjson`, a message a line | one line for each line, as soon as it is known: see [`lines`] |
//! | `application/cloudevents+json`, or `application/json` with `ce-` headers | as for an object |
//! | `application/cloudevents-batch+json` | as for an array |
//!
//! - A message is on disk before it is answered, exactly as through GraphQL; `schema/openapi.json` says the same to
//!   programs.
//! - None of these media types can be sent by a form of a foreign page.
//! - Each message costs the caller [`MESSAGE_POINTS`], and each body that is refused [`REFUSED_POINTS`]. Lines wait for
//!   points; everything else is refused without them.
//! - A `tenantId` parameter names another tenant, which needs the scope `TENANTS_ADMIN`.

mod answer;
mod item;
mod lines;

use std::sync::Arc;

use axum::body::Bytes;
use axum::extract::{Request, State};
use axum::http::request::Parts;
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::{IntoResponse, Response};
use futures_util::StreamExt;
use futures_util::stream;

use self::answer::{Accepted, Problem};
use self::item::Form;
use super::AppState;
use super::graphql;
use super::headers;
use super::negotiate;
use crate::authentication::KeyRing;
use crate::domain::id::TenantId;
use crate::domain::message::{self, Publish};
use crate::domain::scope::Scope;
use crate::error_code::ErrorCode;
use crate::graphql::{Caller, Schema};
use crate::rate_limit::RateLimits;

/// The most messages of one array.
const MAX_MESSAGES: usize = 100;

/// What a message costs, in points.
const MESSAGE_POINTS: u32 = 1;
/// What a body costs that is refused for what it is.
const REFUSED_POINTS: u32 = 10;

/// Publishes for one caller.
#[derive(Clone)]
struct Publisher {
    schema: Schema,
    limits: RateLimits,
    subject: Arc<str>,
    caller: Arc<Caller>,
    tenant: TenantId,
}

/// `POST /v1/messages`.
pub(super) async fn post(State(state): State<AppState>, request: Request) -> Response {
    let (parts, body) = request.into_parts();
    let caller = match graphql::caller(&state, &parts).await {
        Ok(caller) => caller,
        Err(refusal) => return Problem::of_refusal(refusal).respond(),
    };
    let request = caller.request;
    let (limits, subject) = (state.schema.limits().clone(), caller.principal.credential.subject());
    let answered = async {
        limits.enter(&subject).map_err(|throttled| Problem::throttled(&throttled))?;
        let publisher = Publisher::new(&state, caller, &parts)?;
        match Body::of(&parts.headers)? {
            Body::Lines => {
                item::without_key(&parts.headers)?;
                let seat = state.live.streams.take(&publisher.caller.principal);
                let seat = seat
                    .ok_or_else(|| Problem::new(ErrorCode::TooManyStreams, "too many requests with lines are open"))?;
                Ok(lines::publish(publisher, seat, graphql::connection(&parts), body))
            }
            Body::Whole(form) => {
                let body = graphql::read(body).await.map_err(Problem::of_refusal)?;
                whole(publisher, form, parts.headers, body).await
            }
        }
    };
    let mut response = answered.await.unwrap_or_else(|problem: Problem| {
        if !problem.may_be_repeated() {
            limits.charge(&subject, REFUSED_POINTS);
        }
        problem.of_request(request).respond()
    });
    headers::tell(&limits.standing(&subject), response.headers_mut());
    response
}

/// In a task of its own: a client that goes away must not leave an array half published.
async fn whole(publisher: Publisher, form: Form, headers: HeaderMap, body: Bytes) -> Result<Response, Problem> {
    use tracing::Instrument;
    let publishing = async move {
        if form.is_array(&body) {
            item::without_key(&headers)?;
            return several(&publisher, form, &body).await;
        }
        let publish = item::single(form, &headers, &body)?;
        Ok(publisher.publish(publish).await?.respond())
    };
    tokio::spawn(publishing.in_current_span()).await.unwrap_or_else(|error| {
        tracing::error!("a request failed: {error}");
        Err(Problem::internal())
    })
}

/// Handed over in order without waiting for each other: the log keeps the order, and one commit takes them all.
async fn several(publisher: &Publisher, form: Form, body: &[u8]) -> Result<Response, Problem> {
    let items = item::several(form, body)?;
    let answers: Vec<_> =
        stream::iter(items).map(|item| async { publisher.publish(item?).await }).buffered(MAX_MESSAGES).collect().await;
    // If not one was accepted and none is refused for what it is, the whole is: so a full queue answers as one.
    let is_turned_away = |answer: &Result<Accepted, Problem>| answer.as_ref().is_err_and(Problem::may_be_repeated);
    if !answers.is_empty() && answers.iter().all(is_turned_away) {
        return Err(answers.into_iter().find_map(Result::err).expect("there is one, and all are errors"));
    }
    let results: Vec<_> = answers.iter().map(answer::result).collect();
    Ok(answer::json(StatusCode::OK, &serde_json::json!({ "results": results })))
}

/// How a body is to be read.
enum Body {
    Whole(Form),
    Lines,
}

impl Body {
    fn of(headers: &HeaderMap) -> Result<Self, Problem> {
        let is_binary = headers.contains_key("ce-specversion");
        match negotiate::content_type(headers).as_deref() {
            Some("application/json") if is_binary => Ok(Self::Whole(Form::Binary)),
            Some("application/json") => Ok(Self::Whole(Form::Plain)),
            Some("application/cloudevents+json") => Ok(Self::Whole(Form::CloudEvent)),
            Some("application/cloudevents-batch+json") => Ok(Self::Whole(Form::CloudEventBatch)),
            Some("application/x-ndjson") => Ok(Self::Lines),
            _ => Err(Problem::new(
                ErrorCode::BadRequest,
                "the body must be 'application/json', 'application/x-ndjson', 'application/cloudevents+json' or \
                 'application/cloudevents-batch+json', in UTF-8",
            )
            .with_status(StatusCode::UNSUPPORTED_MEDIA_TYPE)),
        }
    }
}

impl Publisher {
    fn new(state: &AppState, caller: Caller, parts: &Parts) -> Result<Self, Problem> {
        let own = caller.principal.tenant;
        let may = |scope| caller.principal.scopes.contains(&scope);
        if !may(Scope::MessagesPublish) {
            return Err(Problem::new(ErrorCode::Forbidden, "this needs the scope MESSAGES_PUBLISH"));
        }
        let tenant = match named_tenant(parts)? {
            None => own,
            // Somebody else's is answered like one that does not exist.
            Some(text) => (text.parse().ok())
                .filter(|tenant| *tenant == own || may(Scope::TenantsAdmin))
                .ok_or_else(|| Problem::new(ErrorCode::NotFound, "there is no such tenant").about("tenantId"))?,
        };
        let subject = caller.principal.credential.subject().into();
        let (schema, limits) = (state.schema.clone(), state.schema.limits().clone());
        Ok(Self { schema, limits, subject, caller: Arc::new(caller), tenant })
    }

    fn keys(&self) -> &KeyRing {
        self.schema.keys()
    }

    /// Publishes a message if the caller has points for it.
    async fn publish(&self, publish: Publish) -> Result<Accepted, Problem> {
        let taken = self.limits.take(&self.subject, MESSAGE_POINTS);
        taken.map_err(|throttled| Problem::throttled(&throttled))?;
        self.paid(publish).await
    }

    /// Waits until the caller has points for a message, and takes them.
    async fn turn(&self) {
        self.limits.wait(&self.subject, MESSAGE_POINTS).await;
    }

    async fn paid(&self, publish: Publish) -> Result<Accepted, Problem> {
        let draft = message::prepare(publish).map_err(|refusal| Problem::of_message(&refusal))?;
        let published = self.schema.engine().publish(self.tenant, draft, self.caller.meta()).await;
        published.map(Accepted::from).map_err(|error| Problem::of_engine(&error))
    }
}

/// The tenant that the query names.
fn named_tenant(parts: &Parts) -> Result<Option<String>, Problem> {
    let mut named = None;
    for (name, value) in url::form_urlencoded::parse(parts.uri.query().unwrap_or_default().as_bytes()) {
        if name != "tenantId" || named.is_some() {
            let message = format!("the parameter '{name}' is not known, or is given twice");
            return Err(Problem::new(ErrorCode::BadRequest, message));
        }
        named = Some(value.into_owned());
    }
    Ok(named)
}

/// `GET /v1/openapi.json`.
pub(super) async fn openapi() -> Response {
    ([(header::CONTENT_TYPE, "application/json")], include_str!("../../../schema/openapi.json")).into_response()
}
