//! The playground: GraphiQL with the operations of `docs/operations`, as `scripts/build-playground` has built it.
//!
//! - Its files are part of the program if they were there when it was built, compressed as they are sent. A program
//!   without them shows a page that says how to get them. A debug build reads them from the sources' folder.
//! - The page loads nothing from elsewhere, and its policy sees to that.
//! - Files but the page itself have names that change with their contents, so that browsers keep them for ever.

use axum::Router;
use axum::body::Body;
use axum::extract::Path;
use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Redirect, Response};
use axum::routing::get;
use rust_embed::{EmbeddedFile, RustEmbed};

/// Everything from this server. GraphiQL's editor writes its colours and sizes into `style` elements and attributes.
const POLICY: &str = "default-src 'none'; script-src 'self'; worker-src 'self'; style-src 'self' 'unsafe-inline'; \
                      font-src 'self' data:; img-src 'self' data:; connect-src 'self'; frame-ancestors 'none'; \
                      base-uri 'none'; form-action 'none'";

/// What stands for the page where it was not built.
const NOT_BUILT: &str = include_str!("playground.html");

#[derive(RustEmbed)]
#[folder = "playground/dist"]
#[allow_missing = true]
struct Files;

/// The routes of the playground. `/` leads there.
pub(super) fn routes<S: Clone + Send + Sync + 'static>() -> Router<S> {
    if Files::get("index.html.gz").is_none() {
        tracing::info!("the playground is not part of this build: scripts/build-playground makes it");
    }
    Router::new()
        .route("/", get(|| async { Redirect::to("playground/") }))
        // Below a folder of its own the page's relative addresses hold, behind a proxy with a path of its own too.
        .route("/playground", get(|| async { Redirect::to("playground/") }))
        .route("/playground/", get(|| async { page(Files::get("index.html.gz")) }))
        .route("/playground/licences.md", get(|| async { licences() }))
        .route("/playground/assets/{file}", get(|Path(name): Path<String>| async move { asset(&name) }))
}

fn page(built: Option<EmbeddedFile>) -> Response {
    let mut response = match built {
        Some(file) => compressed(file, "text/html; charset=utf-8"),
        None => ([(header::CONTENT_TYPE, "text/html; charset=utf-8")], NOT_BUILT).into_response(),
    };
    response.headers_mut().insert(header::CACHE_CONTROL, HeaderValue::from_static("no-cache"));
    response.headers_mut().insert(header::CONTENT_SECURITY_POLICY, HeaderValue::from_static(POLICY));
    response
}

/// Those of the libraries that the page is made of.
fn licences() -> Response {
    match Files::get("licences.md.gz") {
        Some(file) => compressed(file, "text/plain; charset=utf-8"),
        None => StatusCode::NOT_FOUND.into_response(),
    }
}

fn asset(name: &str) -> Response {
    let file = if name.contains('/') { None } else { Files::get(&format!("assets/{name}.gz")) };
    let Some(file) = file else { return StatusCode::NOT_FOUND.into_response() };
    let content_type = match name.rsplit('.').next() {
        Some("js") => "text/javascript; charset=utf-8",
        Some("css") => "text/css; charset=utf-8",
        Some("ttf") => "font/ttf",
        Some(_) | None => "application/octet-stream",
    };
    let mut response = compressed(file, content_type);
    let for_ever = HeaderValue::from_static("public, max-age=31536000, immutable");
    response.headers_mut().insert(header::CACHE_CONTROL, for_ever);
    response
}

/// Every browser takes gzip, on plain HTTP too.
fn compressed(file: EmbeddedFile, content_type: &'static str) -> Response {
    let headers = [
        (header::CONTENT_TYPE, content_type),
        (header::CONTENT_ENCODING, "gzip"),
        // Workers go by the policy that came with their own script.
        (header::CONTENT_SECURITY_POLICY, POLICY),
    ];
    (headers, Body::from(file.data)).into_response()
}

#[cfg(test)]
mod tests {
    use http_body_util::BodyExt;

    use super::*;

    #[tokio::test]
    async fn a_build_without_the_playground_says_how_to_get_it() {
        let answer = page(None);
        assert_eq!(answer.status(), StatusCode::OK);
        assert_eq!(answer.headers()[header::CACHE_CONTROL], "no-cache");
        assert_eq!(answer.headers()[header::CONTENT_SECURITY_POLICY], POLICY);
        let text = String::from_utf8(answer.into_body().collect().await.unwrap().to_bytes().to_vec()).unwrap();
        assert!(text.contains("scripts/build-playground"));
        for forbidden in ["<script", "<style", "style=", "src=", "https://"] {
            assert!(!text.contains(forbidden), "{forbidden}");
        }
    }

    #[test]
    fn only_files_of_the_playground_are_given() {
        for name in ["nothing.js", "../index.html", "../../package-lock.json", ""] {
            assert_eq!(asset(name).status(), StatusCode::NOT_FOUND, "{name}");
        }
    }
}
