//! Sessions: `POST /session` begins one, `DELETE /session` ends it.
//!
//! The body is JSON, which no form of a foreign page can send, and the cookie is out of reach for scripts, for other
//! hosts and for plain connections.

use std::sync::Arc;
use std::time::Duration;

use axum::body::to_bytes;
use axum::extract::{Request, State};
use axum::http::request::Parts;
use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use serde::Deserialize;

use super::{AppState, auth, client, negotiate};
use crate::authentication::{Attempt, KeyRing, LoginRefused, SessionToken};
use crate::domain::id::RequestId;
use crate::domain::secret::Secret;
use crate::domain::time::Timestamp;
use crate::error_code::ErrorCode;
use crate::execute::vault::VaultError;

const MAX_BODY_BYTES: usize = 4 * 1024;
const BODY_LIMIT: Duration = Duration::from_secs(15);

#[derive(Deserialize)]
struct Login {
    username: String,
    password: String,
    totp: String,
}

/// `POST /session`.
pub(super) async fn begin(State(state): State<AppState>, request: Request) -> Response {
    let (parts, body) = request.into_parts();
    if !auth::is_own_origin(&parts.headers, state.schema.keys().config(), auth::Absent::Allowed) {
        return refused(StatusCode::FORBIDDEN, ErrorCode::Forbidden, auth::FOREIGN_ORIGIN);
    }
    if !negotiate::is_json(&parts.headers) {
        let message = "the body must be 'application/json' in UTF-8";
        return refused(StatusCode::UNSUPPORTED_MEDIA_TYPE, ErrorCode::BadRequest, message);
    }
    let read = tokio::time::timeout(BODY_LIMIT, to_bytes(body, MAX_BODY_BYTES)).await;
    let login = read.ok().and_then(Result::ok).and_then(|bytes| serde_json::from_slice(&bytes).ok());
    match login {
        Some(login) => log_in(&state, &parts, login).await,
        None => {
            let message = "the body must be {\"username\": \"…\", \"password\": \"…\", \"totp\": \"…\"}";
            refused(StatusCode::BAD_REQUEST, ErrorCode::BadRequest, message)
        }
    }
}

async fn log_in(state: &AppState, parts: &Parts, login: Login) -> Response {
    let Login { username, password, totp } = login;
    let ip = client::address(parts);
    let attempt = Attempt { username, password: Secret::stored(password), totp, request: request_id(parts), ip };
    match state.schema.keys().login(attempt).await {
        Ok((token, ends_at)) => begun(&token, ends_at, state.clock.now()),
        Err(error @ LoginRefused::Wrong) => {
            refused(StatusCode::UNAUTHORIZED, ErrorCode::Unauthenticated, &error.to_string())
        }
        Err(error @ LoginRefused::Throttled { retry_after_s }) => {
            let response = refused(StatusCode::TOO_MANY_REQUESTS, ErrorCode::RateLimited, &error.to_string());
            to_be_repeated(response, retry_after_s)
        }
        Err(error @ LoginRefused::Unavailable(_)) => failed(ErrorCode::StorageUnavailable, &error),
        Err(error @ LoginRefused::Failed(_)) => failed(ErrorCode::Internal, &error),
    }
}

/// What is behind it is in the logs.
fn failed(code: ErrorCode, error: &dyn std::error::Error) -> Response {
    tracing::error!("a login or logout failed: {error}");
    let status = StatusCode::from_u16(code.http_status()).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    match code.retry_after_s() {
        Some(seconds) => {
            to_be_repeated(refused(status, code, "this cannot be done for now; try again"), seconds.into())
        }
        None => refused(status, code, "something failed on our side"),
    }
}

fn to_be_repeated(mut response: Response, seconds: u64) -> Response {
    response.headers_mut().insert(header::RETRY_AFTER, HeaderValue::from(seconds));
    response
}

fn begun(token: &SessionToken, ends_at: Timestamp, now: Timestamp) -> Response {
    let body = serde_json::json!({ "expiresAt": ends_at.to_rfc3339_ms() });
    let mut response = (StatusCode::OK, [(header::CONTENT_TYPE, "application/json")], body.to_string()).into_response();
    response.headers_mut().insert(header::SET_COOKIE, cookie(token.expose(), ends_at.ms_since(now) / 1_000));
    response
}

/// `DELETE /session`.
pub(super) async fn end(State(state): State<AppState>, request: Request) -> Response {
    let (parts, _) = request.into_parts();
    let keys = state.schema.keys();
    if !auth::is_own_origin(&parts.headers, keys.config(), auth::Absent::Refused) {
        return refused(StatusCode::FORBIDDEN, ErrorCode::Forbidden, auth::FOREIGN_ORIGIN);
    }
    let ended = match auth::session_token(&parts.headers) {
        Some(token) => logout(Arc::clone(keys), token).await,
        None => Ok(()),
    };
    match ended {
        Ok(()) => (StatusCode::NO_CONTENT, [(header::SET_COOKIE, cookie("", 0))]).into_response(),
        // The cookie stays, so that it can be tried again.
        Err(error) => failed(error.code(), &error),
    }
}

/// To its end, also if the client goes away meanwhile.
async fn logout(keys: Arc<KeyRing>, token: SessionToken) -> Result<(), VaultError> {
    let ended = tokio::spawn(async move { keys.logout(&token).await }).await;
    ended.expect("ending a session does not panic, and nobody cancels it")
}

fn cookie(value: &str, max_age_s: u64) -> HeaderValue {
    let text = format!("{}={value}; Path=/; Max-Age={max_age_s}; Secure; HttpOnly; SameSite=Lax", auth::COOKIE);
    let mut cookie = HeaderValue::try_from(text).expect("a token is visible ASCII");
    cookie.set_sensitive(true);
    cookie
}

fn refused(status: StatusCode, code: ErrorCode, message: &str) -> Response {
    let body = serde_json::json!({ "error": { "code": code.as_str(), "message": message } });
    (status, [(header::CONTENT_TYPE, "application/json")], body.to_string()).into_response()
}

fn request_id(parts: &Parts) -> RequestId {
    *parts.extensions.get().expect("the layer around every route put it there")
}
