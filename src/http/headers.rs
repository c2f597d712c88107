//! What every request and every answer gets.

use axum::extract::{Request, State};
use axum::http::{HeaderMap, HeaderValue, header};
use axum::middleware::Next;
use axum::response::Response;
use tokio::time::Instant;
use tracing::Instrument;

use super::AppState;
use super::client;
use crate::rate_limit::Standing;

/// For answers that are no page: nothing may be loaded or run from them.
const NO_CONTENT: &str = "default-src 'none'; frame-ancestors 'none'; base-uri 'none'; form-action 'none'";

/// A year, in seconds: for whoever came by TLS once.
const ONLY_BY_TLS: &str = "max-age=31536000";

/// Says how the caller's budget stands, in the fields of the IETF draft `httpapi-ratelimit-headers`: what is left, and the
/// seconds until it is full again.
pub(super) fn tell(standing: &Standing, headers: &mut HeaderMap) {
    let rest = format!("\"points\";r={};t={}", standing.remaining, standing.full_in_s());
    let fields = [("ratelimit-policy", standing.policy()), ("ratelimit", rest)];
    for (name, text) in fields {
        headers.insert(name, HeaderValue::try_from(text).expect("numbers are visible ASCII"));
    }
}

/// Gives a request its id and a span, and an answer the id and the headers that keep browsers in check.
pub(super) async fn frame(State(state): State<AppState>, mut request: Request, next: Next) -> Response {
    let id = state.clock.request_id();
    request.extensions_mut().insert(id);
    let client = client::peer(request.extensions()).map(|peer| state.proxies.client(peer, request.headers()));
    if let Some(client) = client {
        request.extensions_mut().insert(client);
    }
    let began = Instant::now();
    let span =
        tracing::info_span!("request", request.id = %id, method = %request.method(), path = request.uri().path());
    let mut response = next.run(request).instrument(span.clone()).await;
    span.in_scope(|| {
        let status = response.status().as_u16();
        tracing::debug!(status, duration_ms = began.elapsed().as_millis() as u64, "answered with {status}");
    });
    let headers = response.headers_mut();
    headers.insert("x-request-id", HeaderValue::try_from(id.to_string()).expect("an id is visible ASCII"));
    if client.is_some_and(|client| client.by_tls) {
        headers.insert(header::STRICT_TRANSPORT_SECURITY, HeaderValue::from_static(ONLY_BY_TLS));
    }
    guard(headers);
    response
}

/// Keeps browsers from guessing, embedding, caching and telling on.
pub(super) fn guard(headers: &mut HeaderMap) {
    headers.insert(header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    headers.insert(header::REFERRER_POLICY, HeaderValue::from_static("no-referrer"));
    headers.insert("cross-origin-resource-policy", HeaderValue::from_static("same-origin"));
    headers.insert("cross-origin-opener-policy", HeaderValue::from_static("same-origin"));
    headers.entry(header::CACHE_CONTROL).or_insert(HeaderValue::from_static("no-store"));
    headers.entry(header::CONTENT_SECURITY_POLICY).or_insert(HeaderValue::from_static(NO_CONTENT));
}
