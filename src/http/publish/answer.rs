//! What publishers are answered.

use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use serde::Serialize;
use serde_json::{Value, json as value};

use crate::actors::{EngineError, Published};
use crate::domain::id::RequestId;
use crate::domain::message;
use crate::error_code::ErrorCode;
use crate::http::auth::{self, Denied};
use crate::http::graphql::{self, Refusal};
use crate::rate_limit::Throttled;

/// A message that is on disk.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Accepted {
    id: String,
    #[serde(rename = "type", skip_serializing_if = "Option::is_none")]
    event_type: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    occurred_at: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    created_at: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    position: Option<String>,
    duplicate: bool,
}

impl From<Published> for Accepted {
    fn from(published: Published) -> Self {
        let Published { message, duplicate, position, at, event } = published;
        Self {
            id: message.to_string(),
            event_type: event.as_ref().map(|event| event.event_type.as_str().to_owned()),
            occurred_at: event.as_ref().map(|event| event.occurred_at.to_rfc3339_ms()),
            created_at: at.map(|at| at.to_rfc3339_ms()),
            position: position.map(|position| position.to_string()),
            duplicate,
        }
    }
}

impl Accepted {
    pub(super) fn respond(&self) -> Response {
        json(if self.duplicate { StatusCode::OK } else { StatusCode::ACCEPTED }, &value!({ "message": self }))
    }
}

/// The most bytes of a problem's sentence.
const MAX_MESSAGE_BYTES: usize = 300;

/// Why something was not published.
#[derive(Clone, Debug)]
pub(super) struct Problem {
    code: ErrorCode,
    message: String,
    field: Option<&'static str>,
    status: Option<StatusCode>,
    challenge: Option<&'static str>,
    /// In how many seconds it is worth to ask again.
    retry_after_s: Option<u32>,
    request: Option<RequestId>,
}

impl Problem {
    pub(super) fn new(code: ErrorCode, message: impl Into<String>) -> Self {
        let mut message = message.into();
        // Some repeat what was sent, and thousands of them may wait for a client that does not read.
        message.truncate(message.floor_char_boundary(MAX_MESSAGE_BYTES));
        let retry_after_s = code.retry_after_s();
        Self { code, message, field: None, status: None, challenge: None, retry_after_s, request: None }
    }

    /// The caller has no points left.
    pub(super) fn throttled(throttled: &Throttled) -> Self {
        let retry_after_s = Some(throttled.retry_after_s());
        Self { retry_after_s, ..Self::new(ErrorCode::Throttled, throttled.to_string()) }
    }

    pub(super) fn internal() -> Self {
        Self::masked(ErrorCode::Internal)
    }

    /// The same for whoever asks: what is behind it is in the logs.
    fn masked(code: ErrorCode) -> Self {
        Self::new(code, code.meaning().trim())
    }

    pub(super) fn about(self, field: &'static str) -> Self {
        Self { field: Some(field), ..self }
    }

    pub(super) fn with_status(self, status: StatusCode) -> Self {
        Self { status: Some(status), ..self }
    }

    pub(super) fn of_request(self, request: RequestId) -> Self {
        Self { request: Some(request), ..self }
    }

    pub(super) fn of_message(refusal: &message::Refusal) -> Self {
        Self::new(refusal.code(), refusal.to_string()).about(refusal.field())
    }

    pub(super) fn of_engine(error: &EngineError) -> Self {
        if let EngineError::Message(refusal) = error {
            return Self::of_message(refusal);
        }
        if error.code() == ErrorCode::Internal {
            tracing::error!(error = error as &dyn std::error::Error, "a message could not be published");
        } else {
            tracing::debug!("a message was turned away: {error}");
        }
        Self::masked(error.code())
    }

    pub(super) fn of_refusal(refusal: Refusal) -> Self {
        match refusal {
            Refusal::Denied(denied, request) => Self {
                challenge: graphql::challenge(&denied),
                ..match denied {
                    Denied::Unavailable(error) => Self::masked(error.code()),
                    Denied::Missing | Denied::Invalid => Self::masked(ErrorCode::Unauthenticated),
                    Denied::ForeignOrigin => Self::new(ErrorCode::Forbidden, auth::FOREIGN_ORIGIN),
                }
            }
            .of_request(request),
            Refusal::BodyTooSlow => {
                Self::new(ErrorCode::BadRequest, "the body took too long").with_status(StatusCode::REQUEST_TIMEOUT)
            }
            Refusal::BodyTooLarge => Self::masked(ErrorCode::QueryTooLarge),
            Refusal::ContentType | Refusal::NotByGet | Refusal::Answer(_) => {
                Self::new(ErrorCode::BadRequest, "the body broke off")
            }
        }
    }

    /// Whether the same may be accepted a little later.
    pub(super) fn may_be_repeated(&self) -> bool {
        self.code.retry_after_s().is_some() || self.code == ErrorCode::Internal
    }

    pub(super) fn respond(self) -> Response {
        let status = self
            .status
            .unwrap_or_else(|| StatusCode::from_u16(self.code.http_status()).expect("a test reads every status"));
        let mut response = json(status, &value!({ "error": self.told() }));
        let headers = response.headers_mut();
        if let Some(seconds) = self.retry_after_s {
            headers.insert(header::RETRY_AFTER, HeaderValue::from(seconds));
        }
        if let Some(challenge) = self.challenge {
            headers.insert(header::WWW_AUTHENTICATE, HeaderValue::from_static(challenge));
        }
        response
    }

    fn told(&self) -> Value {
        let mut told = value!({ "code": self.code.as_str(), "message": self.message });
        if let Some(field) = self.field {
            told["field"] = field.into();
        }
        if let Some(request) = self.request {
            told["requestId"] = request.to_string().into();
        }
        if self.may_be_repeated() {
            told["retry"] = true.into();
        }
        told
    }
}

/// What came of one of several.
pub(super) fn result(answer: &Result<Accepted, Problem>) -> Value {
    match answer {
        Ok(accepted) => value!({ "message": accepted }),
        Err(problem) => value!({ "error": problem.told() }),
    }
}

/// What came of a line.
pub(super) fn line(number: usize, answer: &Result<Accepted, Problem>) -> Value {
    match answer {
        Ok(accepted) => value!({ "line": number, "message": accepted }),
        Err(problem) => value!({ "line": number, "error": problem.told() }),
    }
}

pub(super) fn json(status: StatusCode, body: &Value) -> Response {
    (status, [(header::CONTENT_TYPE, "application/json")], body.to_string()).into_response()
}
