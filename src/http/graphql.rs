//! GraphQL over HTTP: POST for everything, GET for queries. What is live goes on in [`super::live`].

use std::time::Duration;

use axum::body::{Body, to_bytes};
use axum::extract::ws::WebSocketUpgrade;
use axum::extract::{FromRequestParts, Request, State};
use axum::http::request::Parts;
use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};

use super::AppState;
use super::auth::{self, Absent, Denied};
use super::client;
use super::headers;
use super::listener::Connection;
use super::live::socket::{self, Client};
use super::live::sse;
use super::negotiate::{self, MediaType};
use crate::domain::id::RequestId;
use crate::error_code::ErrorCode;
use crate::graphql::{self, Answer, Caller, Incoming, Kind, Prepared, Schema};

/// The most bytes of a body. A message's data has 256 KiB at most.
const MAX_BODY_BYTES: usize = 1024 * 1024;
/// How long a body may take to come in.
const BODY_LIMIT: Duration = Duration::from_secs(15);

/// `POST /graphql`.
pub(super) async fn post(State(state): State<AppState>, request: Request) -> Response {
    respond(&state, request, post_prepared).await
}

/// `GET /graphql`.
pub(super) async fn get(State(state): State<AppState>, request: Request) -> Response {
    if socket::is_wanted(request.headers()) {
        return upgrade(state, request).await.unwrap_or_else(|refusal| refusal.respond(MediaType::Json));
    }
    respond(&state, request, get_prepared).await
}

/// Whether a request may be executed, or what of it may not.
type Prepare = Result<Result<Prepared, Answer>, Refusal>;

async fn respond<F: Future<Output = Prepare>>(
    state: &AppState,
    request: Request,
    prepare: impl FnOnce(Parts, Body) -> F,
) -> Response {
    let events = negotiate::wants_events(request.headers());
    let Some(media_type) = negotiate::negotiate(request.headers()).or(events.then_some(MediaType::GraphqlResponse))
    else {
        return not_acceptable();
    };
    let (parts, body) = request.into_parts();
    let answered = async {
        let caller = caller(state, &parts).await?;
        state.schema.enter(&caller.principal)?;
        let connection = connection(&parts);
        let refused = |answer| state.schema.charge_refused(&caller.principal, answer);
        let prepared = match prepare(parts, body).await {
            Err(Refusal::Answer(answer)) => return Err(Refusal::Answer(refused(answer))),
            prepared => prepared?.map_err(refused),
        };
        match events {
            true => Ok(sse::respond(state, prepared, caller, connection)?),
            false => Ok(answered(&execute(&state.schema, prepared?, caller).await, media_type)),
        }
    };
    answered.await.unwrap_or_else(|refusal: Refusal| refusal.respond(media_type))
}

async fn post_prepared(parts: Parts, body: Body) -> Prepare {
    if !negotiate::is_json(&parts.headers) {
        return Err(Refusal::ContentType);
    }
    let body = read(body).await?;
    Ok(graphql::prepare(Incoming::from_json(&body)?))
}

async fn get_prepared(parts: Parts, _: Body) -> Prepare {
    let parameters = url::form_urlencoded::parse(parts.uri.query().unwrap_or_default().as_bytes());
    let prepared = graphql::prepare(Incoming::from_parameters(parameters.into_owned())?);
    let read_only = |prepared: &Prepared| match prepared.kind() {
        Kind::Query => true,
        Kind::Subscription => negotiate::wants_events(&parts.headers),
        Kind::Mutation => false,
    };
    if prepared.as_ref().is_ok_and(|prepared| !read_only(prepared)) { Err(Refusal::NotByGet) } else { Ok(prepared) }
}

/// Makes a WebSocket of the connection.
async fn upgrade(state: AppState, request: Request) -> Result<Response, Refusal> {
    let refused = |message: &str| Refusal::Answer(Answer::refused(ErrorCode::BadRequest, message));
    if !auth::is_own_origin(request.headers(), state.schema.keys().config(), Absent::Allowed) {
        let message = "pages of another origin may not open a socket";
        return Err(Refusal::Answer(Answer::refused(ErrorCode::Forbidden, message)));
    }
    if !socket::speaks_ours(request.headers()) {
        return Err(refused("the subprotocol is 'graphql-transport-ws'"));
    }
    let (mut parts, _) = request.into_parts();
    let principal = match caller(&state, &parts).await {
        Ok(caller) => Some(caller.principal),
        // It may still come with `connection_init`.
        Err(Refusal::Denied(Denied::Missing, _)) if !parts.headers.contains_key(header::AUTHORIZATION) => None,
        Err(refusal) => return Err(refusal),
    };
    let (client, connection) =
        (Client { principal, ip: client::address(&parts), by_proxy: client::is_by_proxy(&parts) }, connection(&parts));
    let upgrade = WebSocketUpgrade::from_request_parts(&mut parts, &state).await;
    let upgrade = upgrade.map_err(|rejection| refused(&rejection.body_text()))?;
    Ok(socket::respond(state, upgrade, client, connection))
}

pub(super) fn connection(parts: &Parts) -> Connection {
    parts.extensions.get::<Connection>().expect("the listener put it there").clone()
}

pub(super) async fn caller(state: &AppState, parts: &Parts) -> Result<Caller, Refusal> {
    let id = *parts.extensions.get::<RequestId>().expect("the layer around every route put it there");
    let principal = auth::authenticate(&parts.method, &parts.headers, state.schema.keys())
        .await
        .map_err(|denied| Refusal::Denied(denied, id))?;
    Ok(Caller {
        principal: state.admitted(principal, client::is_by_proxy(parts)),
        request: id,
        ip: client::address(parts),
    })
}

pub(super) async fn read(body: Body) -> Result<axum::body::Bytes, Refusal> {
    match tokio::time::timeout(BODY_LIMIT, to_bytes(body, MAX_BODY_BYTES)).await {
        Ok(Ok(bytes)) => Ok(bytes),
        Ok(Err(error)) if is_length_limit(&error) => Err(Refusal::BodyTooLarge),
        Ok(Err(_)) => Err(Refusal::Answer(Answer::refused(ErrorCode::BadRequest, "the body broke off"))),
        Err(_) => Err(Refusal::BodyTooSlow),
    }
}

fn is_length_limit(error: &axum::Error) -> bool {
    std::iter::successors(std::error::Error::source(error), |error| error.source())
        .any(|error| error.to_string().contains("length limit"))
}

/// In a task of its own: a client that goes away must not leave a mutation half done, and a panic ends alone.
pub(super) async fn execute(schema: &Schema, prepared: Prepared, caller: Caller) -> Answer {
    use tracing::Instrument;
    let schema = schema.clone();
    let request = caller.request;
    let executing = async move { schema.execute(prepared, caller).await };
    tokio::spawn(executing.in_current_span()).await.unwrap_or_else(|error| {
        tracing::error!("a request failed: {error}");
        Answer::internal(request)
    })
}

/// Why a request is not executed.
pub(super) enum Refusal {
    Denied(Denied, RequestId),
    ContentType,
    BodyTooLarge,
    BodyTooSlow,
    NotByGet,
    Answer(Answer),
}

impl From<Answer> for Refusal {
    fn from(answer: Answer) -> Self {
        Self::Answer(answer)
    }
}

impl Refusal {
    fn respond(self, media_type: MediaType) -> Response {
        let plain = |status, message| {
            let mut response = answered(&Answer::refused(ErrorCode::BadRequest, message), media_type);
            *response.status_mut() = status;
            response
        };
        match self {
            Self::Answer(answer) => answered(&answer, media_type),
            Self::Denied(denied, request) => denied_response(&denied, request, media_type),
            Self::ContentType => {
                plain(StatusCode::UNSUPPORTED_MEDIA_TYPE, "the body must be 'application/json' in UTF-8")
            }
            Self::BodyTooLarge => {
                let message = format!("the body has more than {MAX_BODY_BYTES} bytes");
                answered(&Answer::refused(ErrorCode::QueryTooLarge, &message), media_type)
            }
            Self::BodyTooSlow => plain(StatusCode::REQUEST_TIMEOUT, "the body took too long"),
            Self::NotByGet => {
                let mut response = plain(StatusCode::METHOD_NOT_ALLOWED, "only queries may be sent by GET");
                response.headers_mut().insert(header::ALLOW, HeaderValue::from_static("POST"));
                response
            }
        }
    }
}

/// What a request without a valid credential is asked for; `None` if no
/// other would help, or if nobody can say whether it is valid, which is logged.
pub(super) fn challenge(denied: &Denied) -> Option<&'static str> {
    match denied {
        Denied::Missing => Some("Bearer realm=\"tidings\""),
        Denied::Invalid => Some("Bearer realm=\"tidings\", error=\"invalid_token\""),
        Denied::ForeignOrigin => None,
        Denied::Unavailable(error) => {
            let source = std::error::Error::source(error).map(ToString::to_string).unwrap_or_default();
            tracing::error!("{error}: {source}");
            None
        }
    }
}

fn denied_response(denied: &Denied, request: RequestId, media_type: MediaType) -> Response {
    if let Denied::ForeignOrigin = denied {
        return answered(&Answer::refused(ErrorCode::Forbidden, auth::FOREIGN_ORIGIN), media_type);
    }
    let Some(challenge) = challenge(denied) else {
        return answered(&undecided(denied, request), media_type);
    };
    let message = "a valid API key is needed: 'Authorization: Bearer tdk_…'";
    let mut response = answered(&Answer::refused(ErrorCode::Unauthenticated, message), media_type);
    response.headers_mut().insert(header::WWW_AUTHENTICATE, HeaderValue::from_static(challenge));
    response
}

/// Whether the credential is valid cannot be told.
fn undecided(denied: &Denied, request: RequestId) -> Answer {
    match denied {
        Denied::Unavailable(error) if error.code() == ErrorCode::StorageUnavailable => {
            Answer::refused(ErrorCode::StorageUnavailable, "sessions cannot be looked up for now; try again")
        }
        Denied::Unavailable(_) | Denied::Missing | Denied::Invalid | Denied::ForeignOrigin => Answer::internal(request),
    }
}

fn answered(answer: &Answer, media_type: MediaType) -> Response {
    let status = negotiate::status(answer.outcome, media_type);
    let mut response =
        (status, [(header::CONTENT_TYPE, media_type.content_type())], answer.body.clone()).into_response();
    response.headers_mut().insert(header::VARY, HeaderValue::from_static("accept, authorization, cookie"));
    // What it is made of was checked when the configuration was read.
    if let Some(challenge) = answer.challenge.as_ref().and_then(|text| HeaderValue::try_from(text).ok()) {
        response.headers_mut().insert(header::WWW_AUTHENTICATE, challenge);
    }
    if let Some(seconds) = answer.retry_after_s {
        response.headers_mut().insert(header::RETRY_AFTER, HeaderValue::from(seconds));
    }
    if let Some(standing) = &answer.standing {
        headers::tell(standing, response.headers_mut());
    }
    response
}

fn not_acceptable() -> Response {
    let mut response = answered(
        &Answer::refused(
            ErrorCode::BadRequest,
            "answers are 'application/graphql-response+json' or 'application/json'",
        ),
        MediaType::Json,
    );
    *response.status_mut() = StatusCode::NOT_ACCEPTABLE;
    response
}
