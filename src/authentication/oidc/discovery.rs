//! Where an issuer's key set is, from what the issuer says of itself (OpenID Connect Discovery 1.0).

use serde::Deserialize;

use crate::outbound::Fetch;

/// The most bytes of the document.
const MAX_BYTES: usize = 128 * 1024;

/// What we need of it.
#[derive(Deserialize)]
struct Metadata {
    issuer: String,
    jwks_uri: String,
}

/// What keeps the issuer from being asked, if anything does.
pub(super) fn check(issuer: &str) -> Result<(), &'static str> {
    let plain = issuer.starts_with("https://") && !issuer.contains(['?', '#']);
    if plain { Ok(()) } else { Err("without jwks_url the issuer must be an https:// address without '?' and '#'") }
}

/// The address of the issuer's key set. Where it leads is for the gates of whoever fetches it.
///
/// # Errors
/// The document cannot be had, is of another issuer, or names no address over TLS.
pub(super) async fn key_set(from: &dyn Fetch, issuer: &str) -> Result<String, String> {
    let bytes = from.get(&address(issuer), MAX_BYTES).await?;
    let metadata = serde_json::from_slice(&bytes).map_err(|error| format!("what it says of itself: {error}"))?;
    judged(metadata, issuer)
}

fn address(issuer: &str) -> String {
    format!("{}/.well-known/openid-configuration", issuer.strip_suffix('/').unwrap_or(issuer))
}

/// Whoever could answer for one issuer with the document of another could sign for both.
fn judged(metadata: Metadata, issuer: &str) -> Result<String, String> {
    if metadata.issuer != issuer {
        return Err("it says of itself that it is another issuer".into());
    }
    if !metadata.jwks_uri.starts_with("https://") {
        return Err("its jwks_uri does not begin with https://".into());
    }
    Ok(metadata.jwks_uri)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_document_is_below_the_issuer() {
        for issuer in ["https://id.example/realm", "https://id.example/realm/"] {
            assert_eq!(address(issuer), "https://id.example/realm/.well-known/openid-configuration");
        }
        assert!(check("https://id.example").is_ok());
        for other in ["http://id.example", "accounts.example", "https://id.example?realm=1", "https://id.example/#1"] {
            assert!(check(other).is_err(), "{other}");
        }
    }

    #[test]
    fn it_must_be_the_issuers_own_to_the_letter() {
        let metadata = |issuer: &str, jwks_uri: &str| Metadata { issuer: issuer.into(), jwks_uri: jwks_uri.into() };
        let keys = "https://keys.example/1";
        assert_eq!(judged(metadata("https://id.example", keys), "https://id.example"), Ok(keys.into()));
        assert!(judged(metadata("https://id.example/", keys), "https://id.example").is_err());
        assert!(judged(metadata("https://id.example", "http://keys.example/1"), "https://id.example").is_err());
    }
}
