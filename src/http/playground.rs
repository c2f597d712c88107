//! A page to try the API on: ours, small, and without anything from elsewhere.

use axum::extract::Path;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};

/// Scripts and styles from our own files, requests to this server, nothing else.
const POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; img-src data:; \
                      frame-ancestors 'none'; base-uri 'none'; form-action 'none'";

/// The operations that the page offers, by name.
const EXAMPLES: &str = include_str!("playground/examples.json");

pub(super) async fn page() -> Response {
    respond("text/html; charset=utf-8", include_str!("playground/index.html"))
}

pub(super) async fn file(Path(name): Path<String>) -> Response {
    match name.as_str() {
        "app.js" => respond("text/javascript; charset=utf-8", include_str!("playground/app.js")),
        "style.css" => respond("text/css; charset=utf-8", include_str!("playground/style.css")),
        "examples.json" => respond("application/json", EXAMPLES),
        _ => StatusCode::NOT_FOUND.into_response(),
    }
}

fn respond(content_type: &'static str, body: &'static str) -> Response {
    ([(header::CONTENT_TYPE, content_type), (header::CONTENT_SECURITY_POLICY, POLICY)], body).into_response()
}

#[cfg(test)]
mod tests {
    #[test]
    fn the_page_needs_nothing_from_elsewhere() {
        let page = include_str!("playground/index.html");
        for forbidden in ["http://", "https://", "style=", "onclick", "<style", "javascript:"] {
            assert!(!page.contains(forbidden), "{forbidden}");
        }
        assert!(page.matches("<script").count() == 1 && page.contains("src=\"playground/app.js\""));
        let script = include_str!("playground/app.js");
        for forbidden in ["http://", "https://", "innerHTML", "eval(", "localStorage"] {
            assert!(!script.contains(forbidden), "{forbidden}");
        }
    }
}
