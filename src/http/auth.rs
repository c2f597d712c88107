//! The credential of a request.

use std::sync::Arc;

use axum::http::{HeaderMap, header};

use crate::graphql::{KeyRing, NotAuthenticated, Principal};

/// Why a request has no principal.
#[derive(Debug)]
pub(super) enum Denied {
    /// No credential of a kind that we know.
    Missing,
    /// A credential that is not valid.
    Invalid,
    /// Nobody can say.
    Unavailable(NotAuthenticated),
}

/// Whose `Authorization: Bearer …` it is.
pub(super) async fn authenticate(headers: &HeaderMap, keys: &KeyRing) -> Result<Arc<Principal>, Denied> {
    let mut values = headers.get_all(header::AUTHORIZATION).iter();
    let (Some(value), None) = (values.next(), values.next()) else { return Err(Denied::Missing) };
    principal(value.to_str().map_err(|_| Denied::Missing)?, keys).await
}

/// Whose `Bearer …` it is.
pub(super) async fn principal(authorization: &str, keys: &KeyRing) -> Result<Arc<Principal>, Denied> {
    let (scheme, token) = authorization.split_once(' ').ok_or(Denied::Missing)?;
    if !scheme.eq_ignore_ascii_case("bearer") {
        return Err(Denied::Missing);
    }
    keys.authenticate(token.trim()).await.map_err(|error| match error {
        NotAuthenticated::Invalid => Denied::Invalid,
        NotAuthenticated::Unavailable(_) => Denied::Unavailable(error),
    })
}
