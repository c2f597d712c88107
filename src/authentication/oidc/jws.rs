//! Signed tokens in their compact form (RFC 7515), and the keys that sign them (RFC 7517, 7518).
//!
//! `ring` verifies: rustls has brought it already. The crates that do the same bring a second library of cryptography
//! (RustCrypto's `rsa` or AWS-LC) and many algorithms that are not wanted here: what is no variant of [`Algorithm`], above
//! all `none` and every HMAC, cannot be configured and cannot be accepted.

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use ring::signature::{self, RsaPublicKeyComponents, UnparsedPublicKey, VerificationAlgorithm};
use serde::{Deserialize, Serialize};

/// How a token may be signed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Algorithm {
    /// RSASSA-PKCS1-v1_5 with SHA-256.
    RS256,
    /// RSASSA-PKCS1-v1_5 with SHA-384.
    RS384,
    /// RSASSA-PKCS1-v1_5 with SHA-512.
    RS512,
    /// RSASSA-PSS with SHA-256.
    PS256,
    /// RSASSA-PSS with SHA-384.
    PS384,
    /// RSASSA-PSS with SHA-512.
    PS512,
    /// ECDSA over P-256 with SHA-256.
    ES256,
    /// ECDSA over P-384 with SHA-384.
    ES384,
    /// Ed25519.
    EdDSA,
}

/// A token's header.
#[derive(Debug, Deserialize)]
pub(super) struct Header {
    pub(super) alg: String,
    #[serde(default)]
    pub(super) typ: Option<String>,
    #[serde(default)]
    pub(super) kid: Option<String>,
    /// Extensions that must be understood; none is.
    #[serde(default)]
    crit: Option<serde_json::Value>,
}

/// A token that was read and is still to be verified.
pub(super) struct Unverified<'a> {
    pub(super) header: Header,
    pub(super) payload: Vec<u8>,
    signed: &'a str,
    signature: Vec<u8>,
}

impl<'a> Unverified<'a> {
    pub(super) fn parse(token: &'a str) -> Option<Self> {
        let (signed, signature) = token.rsplit_once('.')?;
        let (header, payload) = signed.split_once('.').filter(|(_, payload)| !payload.contains('.'))?;
        let header: Header = serde_json::from_slice(&decoded(header)?).ok()?;
        let (payload, signature) = (decoded(payload)?, decoded(signature)?);
        header.crit.is_none().then_some(Self { header, payload, signed, signature })
    }

    /// Whether the key has signed it by the algorithm.
    pub(super) fn is_signed_by(&self, key: &Jwk, algorithm: Algorithm) -> bool {
        key.verifies(algorithm, self.signed.as_bytes(), &self.signature).is_some()
    }
}

/// A public key.
#[derive(Clone, Debug, Deserialize)]
pub(super) struct Jwk {
    kty: String,
    #[serde(default)]
    pub(super) kid: Option<String>,
    #[serde(default, rename = "use")]
    purpose: Option<String>,
    #[serde(default)]
    alg: Option<String>,
    #[serde(default)]
    crv: Option<String>,
    #[serde(default)]
    n: Option<String>,
    #[serde(default)]
    e: Option<String>,
    #[serde(default)]
    x: Option<String>,
    #[serde(default)]
    y: Option<String>,
}

impl Jwk {
    /// Whether it is a key for that algorithm. What the token says decides nothing: the key's own kind does.
    pub(super) fn is_for(&self, algorithm: Algorithm) -> bool {
        let (kty, crv) = algorithm.key();
        let named = self.alg.as_deref().is_none_or(|alg| alg == algorithm.as_str());
        let signs = self.purpose.as_deref().is_none_or(|purpose| purpose == "sig");
        named && signs && self.kty == kty && (crv.is_empty() || self.crv.as_deref() == Some(crv))
    }

    fn verifies(&self, algorithm: Algorithm, signed: &[u8], signature: &[u8]) -> Option<()> {
        let part = |part: &Option<String>| decoded(part.as_deref()?);
        match algorithm.parameters() {
            Parameters::Rsa(parameters) => {
                // ring takes numbers without leading zeros, and no modulus below 2048 bits.
                let number = |bytes: Vec<u8>| bytes.into_iter().skip_while(|byte| *byte == 0).collect::<Vec<_>>();
                let key = RsaPublicKeyComponents { n: number(part(&self.n)?), e: number(part(&self.e)?) };
                key.verify(parameters, signed, signature).ok()
            }
            Parameters::Point(parameters, bytes) => {
                let (x, y) = (part(&self.x)?, part(&self.y)?);
                let point = [&[4], &x[..], &y[..]].concat();
                let whole = x.len() == bytes && y.len() == bytes;
                UnparsedPublicKey::new(parameters, point).verify(signed, signature).ok().filter(|()| whole)
            }
            Parameters::Edwards => {
                UnparsedPublicKey::new(&signature::ED25519, part(&self.x)?).verify(signed, signature).ok()
            }
        }
    }
}

enum Parameters {
    Rsa(&'static signature::RsaParameters),
    Point(&'static dyn VerificationAlgorithm, usize),
    Edwards,
}

impl Algorithm {
    const ALL: [Self; 9] = [
        Self::RS256,
        Self::RS384,
        Self::RS512,
        Self::PS256,
        Self::PS384,
        Self::PS512,
        Self::ES256,
        Self::ES384,
        Self::EdDSA,
    ];

    /// The algorithm of that name.
    pub(super) fn named(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|algorithm| algorithm.as_str() == name)
    }

    fn as_str(self) -> &'static str {
        match self {
            Self::RS256 => "RS256",
            Self::RS384 => "RS384",
            Self::RS512 => "RS512",
            Self::PS256 => "PS256",
            Self::PS384 => "PS384",
            Self::PS512 => "PS512",
            Self::ES256 => "ES256",
            Self::ES384 => "ES384",
            Self::EdDSA => "EdDSA",
        }
    }

    /// Type and curve of its keys.
    fn key(self) -> (&'static str, &'static str) {
        match self {
            Self::RS256 | Self::RS384 | Self::RS512 | Self::PS256 | Self::PS384 | Self::PS512 => ("RSA", ""),
            Self::ES256 => ("EC", "P-256"),
            Self::ES384 => ("EC", "P-384"),
            Self::EdDSA => ("OKP", "Ed25519"),
        }
    }

    fn parameters(self) -> Parameters {
        match self {
            Self::RS256 => Parameters::Rsa(&signature::RSA_PKCS1_2048_8192_SHA256),
            Self::RS384 => Parameters::Rsa(&signature::RSA_PKCS1_2048_8192_SHA384),
            Self::RS512 => Parameters::Rsa(&signature::RSA_PKCS1_2048_8192_SHA512),
            Self::PS256 => Parameters::Rsa(&signature::RSA_PSS_2048_8192_SHA256),
            Self::PS384 => Parameters::Rsa(&signature::RSA_PSS_2048_8192_SHA384),
            Self::PS512 => Parameters::Rsa(&signature::RSA_PSS_2048_8192_SHA512),
            Self::ES256 => Parameters::Point(&signature::ECDSA_P256_SHA256_FIXED, 32),
            Self::ES384 => Parameters::Point(&signature::ECDSA_P384_SHA384_FIXED, 48),
            Self::EdDSA => Parameters::Edwards,
        }
    }
}

/// Base64 as tokens have it: without padding, and in one spelling only.
fn decoded(text: &str) -> Option<Vec<u8>> {
    URL_SAFE_NO_PAD.decode(text).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn jwk(text: &str) -> Jwk {
        serde_json::from_str(text).unwrap()
    }

    #[test]
    fn signatures_are_those_of_the_standards() {
        // RFC 8037, appendix A.4.
        let token = "eyJhbGciOiJFZERTQSJ9.RXhhbXBsZSBvZiBFZDI1NTE5IHNpZ25pbmc.hgyY0il_MGCjP0JzlnLWG1PPOt7-09PGcvMg3AIbQR6dWbhijcNR4ki4iylGjg5BhVsPt9g7sVvpAr_MuM0KAg";
        let key = jwk(r#"{"kty":"OKP","crv":"Ed25519","x":"11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo"}"#);
        let read = Unverified::parse(token).unwrap();
        assert_eq!(read.payload, b"Example of Ed25519 signing");
        assert!(key.is_for(Algorithm::EdDSA) && read.is_signed_by(&key, Algorithm::EdDSA));
        // RFC 7515, appendix A.3.
        let token = "eyJhbGciOiJFUzI1NiJ9.eyJpc3MiOiJqb2UiLA0KICJleHAiOjEzMDA4MTkzODAsDQogImh0dHA6Ly9leGFtcGxlLmNvbS9pc19yb290Ijp0cnVlfQ.DtEhU3ljbEg8L38VWAfUAqOyKAM6-Xx-F4GawxaepmXFCgfTjDxw5djxLa8ISlSApmWQxfKTUJqPP3-Kg6NU1Q";
        let key = jwk(
            r#"{"kty":"EC","crv":"P-256","x":"f83OJ3D2xF1Bg8vub9tLe1gHMzV76e8Tus9uPHvRVEU","y":"x_FEzRu9m36HLN_tue659LNpXW6pCyStikYjKIWI5a0"}"#,
        );
        let read = Unverified::parse(token).unwrap();
        assert!(read.is_signed_by(&key, Algorithm::ES256));
        assert!(!read.is_signed_by(&key, Algorithm::ES384) && !read.is_signed_by(&key, Algorithm::RS256));
        let other = token.replace("joe", "eve").replace("eyJpc3MiOiJqb2Ui", "eyJpc3MiOiJldmUi");
        assert!(!Unverified::parse(&other).unwrap().is_signed_by(&key, Algorithm::ES256));
    }

    #[test]
    fn a_key_is_for_its_own_kind_of_algorithm_alone() {
        let rsa = jwk(r#"{"kty":"RSA","n":"AQAB","e":"AQAB"}"#);
        assert!(rsa.is_for(Algorithm::RS256) && rsa.is_for(Algorithm::PS512) && !rsa.is_for(Algorithm::ES256));
        let named = jwk(r#"{"kty":"RSA","alg":"RS256","use":"sig"}"#);
        assert!(named.is_for(Algorithm::RS256) && !named.is_for(Algorithm::PS256));
        assert!(!jwk(r#"{"kty":"RSA","use":"enc"}"#).is_for(Algorithm::RS256));
        assert!(!jwk(r#"{"kty":"EC","crv":"P-384"}"#).is_for(Algorithm::ES256));
        for name in ["none", "None", "HS256", "HS512", "ES512", "rs256", ""] {
            assert_eq!(Algorithm::named(name), None, "{name}");
        }
    }

    #[test]
    fn what_is_no_compact_token_is_not_read() {
        for noise in ["", ".", "..", "a.b", "e30.e30.", "e30.e30.e30.e30", "eyJhbGciOiJFZERTQSIsImNyaXQiOltdfQ.e30.e30"]
        {
            assert!(Unverified::parse(noise).is_none(), "{noise}");
        }
    }
}
