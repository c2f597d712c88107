//! Who calls, and what they may do.

use std::num::NonZeroUsize;
use std::sync::{Arc, Mutex};

use async_graphql::{Context, Enum, Error, Result};
use lru::LruCache;

use super::failure::{Failure, UserError, UserErrorCode, fault};
use crate::clock::Clock;
use crate::domain::api_key;
use crate::domain::id::{ApiKeyId, RequestId, TenantId};
use crate::domain::scope::Scope;
use crate::domain::time::Timestamp;
use crate::error_code::ErrorCode;
use crate::execute::{Actor, ActorKind, Meta};
use crate::projections::rows::ApiKeyRow;
use crate::projections::{QueryError, ReadModels, TenantScope};

/// A holder of a valid API key.
#[derive(Clone, Debug, PartialEq)]
pub struct Principal {
    /// The key.
    pub key: ApiKeyId,
    /// What the key is called.
    pub name: String,
    /// Whose it is.
    pub tenant: TenantId,
    /// What it may do.
    pub scopes: Vec<Scope>,
}

/// A principal in one request.
#[derive(Clone, Debug)]
pub struct Caller {
    /// Who.
    pub principal: Arc<Principal>,
    /// In which request.
    pub request: RequestId,
    /// From which address.
    pub ip: Option<String>,
}

impl Caller {
    /// What the log remembers of whoever caused an event.
    pub fn meta(&self) -> Meta {
        let actor = Actor { kind: ActorKind::ApiKey, id: self.principal.key.to_string() };
        Meta { request: Some(self.request), ip: self.ip.clone(), ..Meta::by(actor) }
    }
}

/// A credential does not carry the scope that is needed.
#[derive(Clone, Copy, Debug)]
pub(super) struct MissingScope(Scope);

impl From<MissingScope> for Error {
    fn from(MissingScope(scope): MissingScope) -> Self {
        fault(ErrorCode::Forbidden, format!("this needs the scope {}", name(scope)))
    }
}

pub(super) fn name(scope: Scope) -> &'static str {
    use async_graphql::resolver_utils::EnumType;
    let api = ApiScope::from(scope);
    ApiScope::items().iter().find(|item| item.value == api).map_or("", |item| item.name)
}

pub(super) fn caller<'a>(ctx: &Context<'a>) -> &'a Caller {
    ctx.data_unchecked()
}

/// The one check of scopes. Every resolver that reads or writes begins with it.
pub(super) fn authorise<'a>(ctx: &Context<'a>, scope: Scope) -> Result<&'a Principal, MissingScope> {
    let principal = &caller(ctx).principal;
    if principal.scopes.contains(&scope) { Ok(principal) } else { Err(MissingScope(scope)) }
}

/// The caller's own tenant, for reading with a scope.
pub(super) fn own_tenant(ctx: &Context<'_>, scope: Scope) -> Result<TenantScope> {
    Ok(TenantScope(authorise(ctx, scope)?.tenant))
}

/// The tenant that an input names, else the caller's own. Operators may name any; for others a foreign one is like one
/// that does not exist.
pub(super) fn named_tenant(ctx: &Context<'_>, scope: Scope, named: Option<&str>) -> Result<TenantId, Failure> {
    let own = authorise(ctx, scope)?.tenant;
    let Some(text) = named else { return Ok(own) };
    let missing = || UserError::new(UserErrorCode::NotFound, "there is no such tenant", &["input", "tenantId"]);
    let tenant = text.parse().map_err(|_| missing())?;
    if tenant == own || authorise(ctx, Scope::TenantsAdmin).is_ok() { Ok(tenant) } else { Err(missing().into()) }
}

/// Why a credential is not accepted.
#[derive(Clone, Debug, thiserror::Error)]
pub enum NotAuthenticated {
    /// No such key, another secret, expired or withdrawn: which one is nobody's business.
    #[error("the API key is not valid")]
    Invalid,
    /// Keys cannot be looked up.
    #[error("API keys cannot be looked up")]
    Unavailable(#[source] Arc<QueryError>),
}

/// Keys kept in memory, and withdrawn keys remembered.
const CACHED_KEYS: NonZeroUsize = NonZeroUsize::new(4_096).expect("not zero");
/// A key is looked up anew when what is known of it is older than this, in milliseconds.
const FRESH_MS: u64 = 1_000;

/// Checks API keys. Remembers a key for a second, so that a withdrawal elsewhere takes effect within it; a withdrawal
/// by this process takes effect at once.
pub struct KeyRing {
    read_models: ReadModels,
    clock: Arc<dyn Clock>,
    known: Mutex<Known>,
}

struct Known {
    keys: LruCache<ApiKeyId, (Timestamp, Arc<ApiKeyRow>)>,
    revoked: LruCache<ApiKeyId, ()>,
}

impl KeyRing {
    /// A ring that knows no key yet.
    pub fn new(read_models: ReadModels, clock: Arc<dyn Clock>) -> Self {
        let known = Known { keys: LruCache::new(CACHED_KEYS), revoked: LruCache::new(CACHED_KEYS) };
        Self { read_models, clock, known: Mutex::new(known) }
    }

    /// Whose key this is.
    ///
    /// # Errors
    /// [`NotAuthenticated::Invalid`] for anything but a key that works now.
    pub async fn authenticate(&self, token: &str) -> Result<Arc<Principal>, NotAuthenticated> {
        let presented = api_key::parse(token).map_err(|_| NotAuthenticated::Invalid)?;
        let row = self.row(presented.id).await?.ok_or(NotAuthenticated::Invalid)?;
        let expired = row.expires_at.is_some_and(|at| at <= self.clock.now());
        if !presented.matches(&row.hash) || expired || row.revoked_at.is_some() || self.is_revoked(row.id) {
            return Err(NotAuthenticated::Invalid);
        }
        let ApiKeyRow { id, tenant, name, scopes, .. } = &*row;
        Ok(Arc::new(Principal { key: *id, name: name.clone(), tenant: *tenant, scopes: scopes.clone() }))
    }

    /// Accepts a key no more, whatever the read model still says.
    pub(super) fn revoke(&self, id: ApiKeyId) {
        self.lock().revoked.put(id, ());
    }

    async fn row(&self, id: ApiKeyId) -> Result<Option<Arc<ApiKeyRow>>, NotAuthenticated> {
        let now = self.clock.now();
        if let Some((read_at, row)) = self.lock().keys.get(&id)
            && *read_at <= now
            && now.ms_since(*read_at) < FRESH_MS
        {
            return Ok(Some(Arc::clone(row)));
        }
        let found = self.read_models.api_key(id).await;
        let row = found.map_err(|error| NotAuthenticated::Unavailable(Arc::new(error)))?.map(Arc::new);
        if let Some(row) = &row {
            self.lock().keys.put(id, (now, Arc::clone(row)));
        }
        Ok(row)
    }

    fn is_revoked(&self, id: ApiKeyId) -> bool {
        self.lock().revoked.contains(&id)
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Known> {
        self.known.lock().expect("no holder of this lock can panic")
    }
}

macro_rules! scopes {
    ($($(#[$doc:meta])* $name:ident)*) => {
        /// One permission of an API key.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Enum)]
        #[graphql(name = "Scope")]
        pub(super) enum ApiScope {
            $($(#[$doc])* $name,)*
        }

        impl From<Scope> for ApiScope {
            fn from(scope: Scope) -> Self {
                match scope {
                    $(Scope::$name => Self::$name,)*
                }
            }
        }

        impl From<ApiScope> for Scope {
            fn from(scope: ApiScope) -> Self {
                match scope {
                    $(ApiScope::$name => Self::$name,)*
                }
            }
        }
    };
}

scopes! {
    /// See webhooks and the catalogue.
    WebhooksRead
    /// Create, change, delete and test webhooks, and register event types.
    WebhooksWrite
    /// Make a new signing secret.
    SecretsRotate
    /// See messages, deliveries and attempts.
    DeliveriesRead
    /// Ask for a delivery again.
    DeliveriesRedeliver
    /// Publish messages.
    MessagesPublish
    /// Read the audit log.
    AuditRead
    /// Make and withdraw API keys.
    KeysAdmin
    /// Make tenants, and act for any of them.
    TenantsAdmin
}
