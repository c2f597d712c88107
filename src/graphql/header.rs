//! Custom headers of webhooks: written with their values, read without.

use async_graphql::{InputObject, SimpleObject};

use crate::domain::header::{GivenHeaders, SealedHeaders};
use crate::domain::outcome::MASK;

/// A header that a webhook sends beside those of its profile.
#[derive(InputObject)]
pub(super) struct WebhookHeaderInput {
    /// Its name, at most 100 characters; no header that the profile, Tidings or the connection sends, and none that proxies
    /// or clouds trust, such as `Authorization`, `Host` and `X-Forwarded-For`. Case does not count.
    name: String,
    /// Its value: 1 to 1024 visible ASCII characters, with spaces and tabs between them. Sealed, and never shown again.
    #[graphql(secret)]
    value: String,
}

/// A header that a webhook sends beside those of its profile, without its value.
#[derive(SimpleObject)]
pub(super) struct WebhookHeader {
    /// Its name, as it was written.
    name: String,
    /// What stands in place of the value, which nobody is shown.
    masked_value: &'static str,
}

pub(super) fn given(headers: Vec<WebhookHeaderInput>) -> GivenHeaders {
    GivenHeaders::of(headers.into_iter().map(|WebhookHeaderInput { name, value }| (name, value)))
}

pub(super) fn shown(headers: Option<&SealedHeaders>) -> Vec<WebhookHeader> {
    let names = headers.into_iter().flat_map(|headers| &headers.names);
    names.map(|name| WebhookHeader { name: name.clone(), masked_value: MASK }).collect()
}
