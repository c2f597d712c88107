//! The HTTP front. The only home of axum.
//!
//! | route | answer |
//! | --- | --- |
//! | `POST /graphql`, `GET /graphql` | GraphQL; with `accept: text/event-stream` over SSE, upgraded over a WebSocket |
//! | `GET /graphql/schema.graphql` | the schema |
//! | `POST /v1/messages` | publishing without GraphQL: see [`publish`] |
//! | `GET /v1/openapi.json` | the same for programs |
//! | `POST /session`, `DELETE /session` | login and logout, for people: see [`session`] |
//! | `GET /` | the way to the playground |
//! | `GET /playground/` | a page to try the API on: see [`playground`](self), unless it is switched off |
//! | `GET /healthz` | 200 while the process answers at all |
//! | `GET /readyz` | 200 while it takes work, else 503 |
//! | `GET /metrics`, on a listener of its own | numbers for Prometheus: see [`metrics`] |
//!
//! - Who may ask is decided before the body is read; what they may ask, by the resolvers.
//! - A POST must say `application/json`, which no form of a foreign page can, and a GET only reads.
//! - Every answer carries `x-request-id`, which audit rows and log lines carry too, and headers that keep browsers from
//!   guessing, framing, caching and telling on.
//! - Header lines, bodies and connections are bounded in size, time and number.
//!
//! - No answer allows another origin to read it: there is no CORS.
//! - TLS is a proxy's business. Whom it took a request from it says in `X-Forwarded-For`, which counts if the proxy is
//!   trusted: see [`client`](self).

mod auth;
mod client;
mod graphql;
mod headers;
mod listener;
mod live;
mod metrics;
mod negotiate;
mod playground;
mod publish;
mod session;

use std::fmt::Write;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use axum::Router;
use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::middleware;
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};

pub use client::TrustedProxies;
pub use listener::{Bounds, serve};
pub use live::{Config as LiveConfig, Counts as LiveCounts};
pub use metrics::{Measured, router as metrics_router};

use crate::authentication::Principal;
use crate::clock::Clock;
use crate::domain::scope::Scope;
use crate::error_code::ErrorCode;
use crate::graphql::Schema;
use crate::projections::ReadModels;

/// What the handlers share. Cheap to clone.
#[derive(Clone)]
pub struct AppState {
    schema: Schema,
    read_models: ReadModels,
    clock: Arc<dyn Clock>,
    ready: Arc<AtomicBool>,
    live: Arc<live::Live>,
    playground: bool,
    proxies: TrustedProxies,
    operators: Operators,
}

/// For whom the scope TENANTS_ADMIN counts on a listener.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Operators {
    /// For whoever has it.
    Everybody,
    /// For whoever comes from this machine itself, and not by a proxy on it.
    WithoutProxy,
    /// For nobody.
    Nobody,
}

impl AppState {
    /// The state; `ready` is what `/readyz` says.
    pub fn new(schema: Schema, read_models: ReadModels, clock: Arc<dyn Clock>, ready: Arc<AtomicBool>) -> Self {
        let live = Arc::new(live::Live::new(&LiveConfig::default()));
        let proxies = TrustedProxies::default();
        Self { schema, read_models, clock, ready, live, playground: true, proxies, operators: Operators::Everybody }
    }

    /// The same with a playground or without.
    pub fn with_playground(self, playground: bool) -> Self {
        Self { playground, ..self }
    }

    /// The same behind these proxies.
    pub fn with_proxies(self, proxies: TrustedProxies) -> Self {
        Self { proxies, ..self }
    }

    /// The same with the scope of operators for these alone.
    pub fn with_operators(self, operators: Operators) -> Self {
        Self { operators, ..self }
    }

    /// What of a principal counts on this listener.
    fn admitted(&self, principal: Arc<Principal>, by_proxy: bool) -> Arc<Principal> {
        let counts = match self.operators {
            Operators::Everybody => true,
            Operators::WithoutProxy => !by_proxy,
            Operators::Nobody => false,
        };
        if counts || !principal.scopes.contains(&Scope::TenantsAdmin) {
            return principal;
        }
        let mut limited = Principal::clone(&principal);
        limited.scopes.retain(|scope| *scope != Scope::TenantsAdmin);
        Arc::new(limited)
    }

    /// The same with these bounds of live streams.
    pub fn with_live(self, config: &LiveConfig) -> Self {
        Self { live: Arc::new(live::Live::new(config)), ..self }
    }

    /// How many live streams there are now.
    pub fn live_counts(&self) -> LiveCounts {
        self.live.counts()
    }
}

/// Every route.
pub fn router(state: AppState) -> Router {
    let playground = if state.playground { playground::routes() } else { Router::new() };
    playground
        .route("/graphql", get(graphql::get).post(graphql::post))
        .route("/graphql/schema.graphql", get(sdl))
        .route("/session", post(session::begin).delete(session::end))
        .route("/v1/messages", post(publish::post))
        .route("/v1/openapi.json", get(publish::openapi))
        .route("/healthz", get(|| async { "ok\n" }))
        .route("/readyz", get(readyz))
        .layer(middleware::from_fn_with_state(state.clone(), headers::frame))
        .with_state(state)
}

async fn sdl() -> Response {
    ([(header::CONTENT_TYPE, "text/plain; charset=utf-8")], crate::graphql::sdl()).into_response()
}

async fn readyz(State(state): State<AppState>) -> Response {
    let ready = state.ready.load(Ordering::Relaxed);
    let status = if ready { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    let body =
        serde_json::json!({ "ready": ready, "readModelsAppliedThrough": state.read_models.applied(0).to_string() });
    (status, [(header::CONTENT_TYPE, "application/json")], body.to_string()).into_response()
}

/// The table of `schema/errors.md`.
pub fn error_table() -> String {
    let mut text = String::from(
        "# Error codes\n\n\
         Clients match on the code, never on the message. A code never changes its meaning and is never reused. What the\n\
         caller of a mutation can put right stands in the payload's `userErrors`; everything else, the arguments of queries\n\
         too, in `errors[].extensions.code`. The status is the one of a whole answer with this code: a request that was\n\
         executed is answered with 200, whatever its fields say, and so are documents that do not parse or do not fit the\n\
         schema when the client accepts only `application/json`. `BAD_REQUEST` comes with 405, 406, 408 or 415 where that\n\
         says more.\n\n\
         | code | status | meaning |\n| --- | --- | --- |\n",
    );
    for code in ErrorCode::ALL {
        writeln!(text, "| `{}` | {} | {} |", code.as_str(), code.http_status(), code.meaning().trim())
            .expect("a text takes everything");
    }
    text
}
