//! Access tokens of identity providers (RFC 9068).
//!
//! A token is believed if a key of its issuer's set has signed it by an algorithm that the operator allows for that
//! issuer, and issuer, audience, type and time fit. Sets are fetched over TLS past the egress gates, from where the
//! operator or the issuer itself says ([`discovery`]), kept for ten minutes, and asked for again when a token names a key
//! that is not in them, twice a minute at most, whatever comes in.

mod discovery;
mod jws;

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard};

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use tracing::warn;

pub use jws::Algorithm;

use super::{Credential, Principal};
use crate::clock::Clock;
use crate::domain::id::TenantId;
use crate::domain::scope::Scope;
use crate::domain::time::Timestamp;
use crate::outbound::Fetch;
use jws::{Jwk, Unverified};

/// The most characters of a token.
const MAX_TOKEN_CHARS: usize = 16 * 1024;
/// The most bytes of a key set.
const MAX_SET_BYTES: usize = 128 * 1024;
/// The most keys of a set that are used.
const MAX_KEYS: usize = 64;
/// A set that is older is fetched anew before it is used.
const FRESH_MS: u64 = 10 * 60 * 1_000;
/// How long a set is used that cannot be fetched anew.
const KEPT_MS: u64 = 60 * 60 * 1_000;
/// A set is asked for so often at most.
const BETWEEN_FETCHES_MS: u64 = 30 * 1_000;

/// An identity provider whose access tokens are taken.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Issuer {
    /// What its tokens have as `iss`, to the letter.
    pub issuer: String,
    /// What its tokens must have in `aud`.
    pub audience: String,
    /// Where its key set is: `https://…`. Default: empty, which means that the issuer says so itself, at
    /// `/.well-known/openid-configuration` below its own address.
    #[serde(default)]
    pub jwks_url: String,
    /// How its tokens may be signed. Default: RS256, ES256 and EdDSA.
    #[serde(default = "algorithms")]
    pub algorithms: Vec<Algorithm>,
    /// What its tokens may have as `typ`, in small letters. Default: `at+jwt`, which ID tokens do not have.
    #[serde(default = "types")]
    pub types: Vec<String>,
    /// How far its clock may be from ours, in seconds. Default: 30.
    #[serde(default = "leeway_s")]
    pub leeway_s: u64,
    /// The tenant of everybody it vouches for. Default: empty, which means that `tenant_claim` says so.
    #[serde(default)]
    pub tenant: String,
    /// The claim that names the tenant. Default: `tenant`.
    #[serde(default = "tenant_claim")]
    pub tenant_claim: String,
    /// Tenants by what the claim says. If there are any, no others are taken; else the claim holds a tenant's id.
    #[serde(default)]
    pub tenants: BTreeMap<String, TenantId>,
    /// The claim that says what the caller may do: words with spaces between them, or an array. Default: `scope`.
    #[serde(default = "scope_claim")]
    pub scope_claim: String,
    /// What a word of that claim stands for. A scope's own name stands for itself; other words mean nothing.
    #[serde(default)]
    pub roles: BTreeMap<String, Vec<Scope>>,
    /// The authentication context classes that count as a fresh proof. Default: none, which means any.
    #[serde(default)]
    pub acr_values: Vec<String>,
}

fn algorithms() -> Vec<Algorithm> {
    vec![Algorithm::RS256, Algorithm::ES256, Algorithm::EdDSA]
}

fn types() -> Vec<String> {
    vec!["at+jwt".into()]
}

fn leeway_s() -> u64 {
    30
}

fn tenant_claim() -> String {
    "tenant".into()
}

fn scope_claim() -> String {
    "scope".into()
}

impl Issuer {
    pub(super) fn check(&self) -> Result<(), String> {
        let of = |text: &str| Err(format!("'{}': {text}", self.issuer));
        if self.issuer.is_empty() || self.audience.is_empty() {
            return of("issuer and audience must not be empty");
        }
        if self.jwks_url.is_empty() {
            discovery::check(&self.issuer).or_else(of)?;
        } else if !self.jwks_url.starts_with("https://") {
            return of("jwks_url must begin with https://");
        }
        if self.algorithms.is_empty() || self.types.is_empty() {
            return of("algorithms and types must not be empty");
        }
        if !self.tenant.is_empty() && self.tenant.parse::<TenantId>().is_err() {
            return of("tenant is no tenant's id");
        }
        let sayable = |acr: &String| acr.bytes().all(|byte| byte.is_ascii_graphic() && byte != b'"' && byte != b'\\');
        if !self.acr_values.iter().all(sayable) {
            return of("acr_values must be visible ASCII without quotes");
        }
        Ok(())
    }

    /// The principal of a payload whose signature was good.
    fn principal(&self, payload: &[u8], now: Timestamp) -> Option<Principal> {
        let claims: Map<String, Value> = serde_json::from_slice(payload).ok()?;
        let text = |name: &str| claims.get(name).and_then(Value::as_str);
        let subject = text("sub").filter(|subject| !subject.is_empty())?;
        let ends_s = time(claims.get("exp")?)?.checked_add_unsigned(self.leeway_s)?;
        let now_s = now.as_seconds();
        let begun = |name: &str| match claims.get(name).map(time) {
            Some(Some(at)) => at <= now_s.saturating_add_unsigned(self.leeway_s),
            Some(None) => false,
            None => true,
        };
        let is_ours = text("iss") == Some(&self.issuer) && has_audience(claims.get("aud")?, &self.audience);
        if !is_ours || now_s >= ends_s || !begun("nbf") || !begun("iat") || !begun("auth_time") {
            return None;
        }
        Some(Principal {
            credential: Credential::Token {
                subject: format!("{}#{subject}", self.issuer),
                acr_values: self.acr_values.clone(),
            },
            name: subject.to_owned(),
            tenant: self.tenant_of(&claims)?,
            scopes: self.scopes_of(&claims),
            authenticated_at: claims.get("auth_time").and_then(time).and_then(seconds),
            acr: text("acr").map(str::to_owned),
            expires_at: seconds(ends_s),
        })
    }

    fn tenant_of(&self, claims: &Map<String, Value>) -> Option<TenantId> {
        if !self.tenant.is_empty() {
            return self.tenant.parse().ok();
        }
        let named = claims.get(&self.tenant_claim)?.as_str()?;
        if self.tenants.is_empty() { named.parse().ok() } else { self.tenants.get(named).copied() }
    }

    fn scopes_of(&self, claims: &Map<String, Value>) -> Vec<Scope> {
        let words: Vec<&str> = match claims.get(&self.scope_claim) {
            Some(Value::String(text)) => text.split_ascii_whitespace().collect(),
            Some(Value::Array(words)) => words.iter().filter_map(Value::as_str).collect(),
            Some(Value::Null | Value::Bool(_) | Value::Number(_) | Value::Object(_)) | None => vec![],
        };
        let named = |word: &str| serde_json::from_value::<Scope>(Value::from(word)).ok();
        let scopes_of = |word: &str| self.roles.get(word).cloned().unwrap_or_else(|| named(word).into_iter().collect());
        let mut scopes: Vec<_> = words.into_iter().flat_map(scopes_of).collect();
        scopes.sort();
        scopes.dedup();
        scopes
    }

    /// The algorithm of a header, if it and the type are allowed.
    fn allowed(&self, header: &jws::Header) -> Option<Algorithm> {
        let typ = header.typ.as_deref()?.to_ascii_lowercase();
        let typ = typ.strip_prefix("application/").unwrap_or(&typ);
        let algorithm = Algorithm::named(&header.alg).filter(|algorithm| self.algorithms.contains(algorithm))?;
        self.types.iter().any(|allowed| allowed == typ).then_some(algorithm)
    }
}

fn has_audience(claim: &Value, audience: &str) -> bool {
    match claim {
        Value::String(one) => one == audience,
        Value::Array(all) => all.iter().any(|one| one.as_str() == Some(audience)),
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::Object(_) => false,
    }
}

/// Seconds since the epoch, without their fraction.
fn time(value: &Value) -> Option<i64> {
    value.as_i64().or_else(|| value.as_f64().filter(|at| at.abs() < 1e12).map(|at| at as i64))
}

fn seconds(at: i64) -> Option<Timestamp> {
    at.checked_mul(1_000).map(Timestamp::from_ms)
}

/// The issuers with their keys.
pub(super) struct Issuers {
    known: Vec<Arc<Known>>,
    fetch: Arc<dyn Fetch>,
    clock: Arc<dyn Clock>,
}

struct Known {
    issuer: Issuer,
    keys: Mutex<Keys>,
    /// Held by whoever fetches, so that nobody else does.
    fetching: tokio::sync::Mutex<()>,
}

#[derive(Default)]
struct Keys {
    keys: Arc<[Jwk]>,
    fetched_at: Option<Timestamp>,
    tried_at: Option<Timestamp>,
}

#[derive(Deserialize)]
struct KeySet {
    keys: Vec<Value>,
}

impl Issuers {
    pub(super) fn new(issuers: &[Issuer], fetch: Arc<dyn Fetch>, clock: Arc<dyn Clock>) -> Self {
        let known = |issuer: &Issuer| {
            let fetching = tokio::sync::Mutex::new(());
            Arc::new(Known { issuer: issuer.clone(), keys: Mutex::default(), fetching })
        };
        Self { known: issuers.iter().map(known).collect(), fetch, clock }
    }

    /// Whose token this is; `None` for whatever is no token that is good now.
    pub(super) async fn verify(&self, token: &str) -> Option<Principal> {
        if token.len() > MAX_TOKEN_CHARS {
            return None;
        }
        let read = Unverified::parse(token)?;
        let claims: Map<String, Value> = serde_json::from_slice(&read.payload).ok()?;
        let named = claims.get("iss")?.as_str()?;
        let known = self.known.iter().find(|known| known.issuer.issuer == named)?;
        let algorithm = known.issuer.allowed(&read.header)?;
        // Before any key is fetched: what is not ours, or over, makes no work.
        let principal = known.issuer.principal(&read.payload, self.clock.now())?;
        let key = self.key(known, read.header.kid.as_deref(), algorithm).await?;
        read.is_signed_by(&key, algorithm).then_some(principal)
    }

    /// The key, if its issuer has it.
    async fn key(&self, known: &Arc<Known>, kid: Option<&str>, algorithm: Algorithm) -> Option<Jwk> {
        let now = self.clock.now();
        let (found, fresh) = known.find(kid, algorithm, now);
        if found.is_some() && fresh {
            return found;
        }
        if found.is_some() && known.fetching.try_lock().is_err() {
            return found;
        }
        let refreshing = Arc::clone(known).refresh(Arc::clone(&self.fetch), now);
        // In a task of its own: who goes away must not take away the keys that others wait for.
        let refreshing = tokio::spawn(refreshing);
        if found.is_some() {
            // It is kept, and as good as it was a moment ago.
            return found;
        }
        drop(refreshing.await);
        known.find(kid, algorithm, now).0
    }
}

async fn fetch(from: &dyn Fetch, issuer: &Issuer) -> Result<Arc<[Jwk]>, String> {
    let bytes = if issuer.jwks_url.is_empty() {
        // Each time anew: it may move.
        from.get(&discovery::key_set(from, &issuer.issuer).await?, MAX_SET_BYTES).await?
    } else {
        from.get(&issuer.jwks_url, MAX_SET_BYTES).await?
    };
    let set: KeySet = serde_json::from_slice(&bytes).map_err(|error| format!("they are no key set: {error}"))?;
    // Keys of kinds that we do not know are passed over, as the standard wants.
    Ok(set.keys.into_iter().filter_map(|key| serde_json::from_value(key).ok()).take(MAX_KEYS).collect())
}

impl Known {
    /// Fetches the keys, unless somebody has done so meanwhile or lately.
    async fn refresh(self: Arc<Self>, from: Arc<dyn Fetch>, now: Timestamp) {
        let _only_one = self.fetching.lock().await;
        if !self.may_fetch(now) {
            return;
        }
        match fetch(&*from, &self.issuer).await {
            Ok(keys) => self.put(keys, now),
            Err(error) => warn!(issuer = self.issuer.issuer, "the issuer's keys cannot be fetched: {error}"),
        }
    }

    /// The one key that fits, and whether the set is young enough to be used unasked.
    fn find(&self, kid: Option<&str>, algorithm: Algorithm, now: Timestamp) -> (Option<Jwk>, bool) {
        let keys = self.lock();
        let age_ms = keys.fetched_at.map_or(u64::MAX, |at| now.ms_since(at));
        let fits = |key: &&Jwk| key.is_for(algorithm) && (kid.is_none() || key.kid.as_deref() == kid);
        let mut fitting = keys.keys.iter().filter(fits).filter(|_| age_ms < KEPT_MS);
        let found = match (fitting.next(), fitting.next()) {
            (Some(one), None) => Some(one.clone()),
            (_, _) => None,
        };
        (found, age_ms < FRESH_MS)
    }

    /// Whether it is long enough since the last try, which this is from now on.
    fn may_fetch(&self, now: Timestamp) -> bool {
        let mut keys = self.lock();
        let may = keys.tried_at.is_none_or(|at| now.ms_since(at) >= BETWEEN_FETCHES_MS);
        if may {
            keys.tried_at = Some(now);
        }
        may
    }

    fn put(&self, keys: Arc<[Jwk]>, now: Timestamp) {
        let mut place = self.lock();
        (place.keys, place.fetched_at) = (keys, Some(now));
    }

    fn lock(&self) -> MutexGuard<'_, Keys> {
        self.keys.lock().expect("no holder of this lock can panic")
    }
}
