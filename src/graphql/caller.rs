//! Who calls, and what they may do.

use std::sync::Arc;

use async_graphql::{Context, Enum, Error, Result};

use super::failure::{Failure, UserError, UserErrorCode, fault};
use crate::authentication::{Credential, Principal};
use crate::domain::id::{RequestId, TenantId};
use crate::domain::scope::Scope;
use crate::error_code::ErrorCode;
use crate::execute::{Actor, ActorKind, Meta};
use crate::projections::TenantScope;

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
        let Principal { acr, authenticated_at, .. } = &*self.principal;
        Meta {
            actor: actor(&self.principal),
            request: Some(self.request),
            ip: self.ip.clone(),
            acr: acr.clone(),
            authenticated_at: *authenticated_at,
        }
    }
}

/// The caller as the log names them.
pub(super) fn actor(principal: &Principal) -> Actor {
    let kind = match &principal.credential {
        Credential::ApiKey(_) => ActorKind::ApiKey,
        Credential::Session { .. } | Credential::Token { .. } => ActorKind::User,
    };
    Actor { kind, id: principal.credential.subject() }
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

macro_rules! scopes {
    ($($(#[$doc:meta])* $name:ident)*) => {
        /// One permission of a caller.
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
    /// Erase the data of messages, and see receipts of it.
    MessagesErase
    /// Read the audit log.
    AuditRead
    /// Make and withdraw API keys.
    KeysAdmin
    /// Make tenants, and act for any of them.
    TenantsAdmin
}
