//! The audit log.

use async_graphql::{ComplexObject, Context, Enum, ID, InputObject, Object, Result, SimpleObject};

use super::access::Tenant;
use super::caller::{caller, own_tenant};
use super::event_type::EventType;
use super::failure::{internal, nullable};
use super::loader::load;
use super::node::Node;
use super::page::{Connection, List, PageArgs};
use super::range::DateTimeRange;
use super::scalar::{DateTime, Json, Long};
use super::state;
use crate::audit::Code;
use crate::domain::id::ApiKeyId;
use crate::domain::scope::Scope;
use crate::event_store::Position;
use crate::execute;
use crate::projections::rows::AuditRow;
use crate::projections::{self, TenantScope};

/// What an audit entry's id begins with; shard and number of the event follow.
pub(super) const PREFIX: &str = "aud_";

/// What happened, as an auditor looks for it. Deliveries have no entries here.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Enum)]
#[graphql(remote = "Code")]
pub(super) enum AuditCode {
    /// A webhook was created.
    #[graphql(name = "TENANT_WEBHOOK_CREATED")]
    WebhookCreated,
    /// A webhook's URL, description or event filters were changed.
    #[graphql(name = "TENANT_WEBHOOK_UPDATED")]
    WebhookUpdated,
    /// A webhook was deleted, and with it every delivery that had not ended.
    #[graphql(name = "TENANT_WEBHOOK_DELETED")]
    WebhookDeleted,
    /// A deleted webhook was restored, disabled.
    #[graphql(name = "TENANT_WEBHOOK_RESTORED")]
    WebhookRestored,
    /// The signing secrets of a deleted webhook were destroyed: it can be restored no more.
    #[graphql(name = "TENANT_WEBHOOK_SECRETS_DESTROYED")]
    WebhookSecretsDestroyed,
    /// A webhook was enabled.
    #[graphql(name = "TENANT_WEBHOOK_ENABLED")]
    WebhookEnabled,
    /// A webhook was disabled.
    #[graphql(name = "TENANT_WEBHOOK_DISABLED")]
    WebhookDisabled,
    /// A webhook was given a new signing secret.
    #[graphql(name = "TENANT_WEBHOOK_SECRET_ROTATED")]
    WebhookSecretRotated,
    /// A test delivery was sent.
    #[graphql(name = "TENANT_WEBHOOK_TEST_SENT")]
    WebhookTestSent,
    /// A delivery was asked for again.
    #[graphql(name = "TENANT_WEBHOOK_REDELIVERED")]
    WebhookRedelivered,
    /// Somebody moved a delivery's next attempt to another time.
    #[graphql(name = "TENANT_DELIVERY_RESCHEDULED")]
    DeliveryRescheduled,
    /// Somebody called a delivery off.
    #[graphql(name = "TENANT_DELIVERY_CANCELLED")]
    DeliveryCancelled,
    /// Somebody started a job of a webhook: many deliveries are made. They have no entries of their own.
    #[graphql(name = "TENANT_WEBHOOK_JOB_STARTED")]
    WebhookJobStarted,
    /// A webhook's job has come to its end, or somebody ended it.
    #[graphql(name = "TENANT_WEBHOOK_JOB_ENDED")]
    WebhookJobEnded,
    /// A webhook pauses until a moment, or pauses no more.
    #[graphql(name = "TENANT_WEBHOOK_HOLD_CHANGED")]
    WebhookHoldChanged,
    /// A webhook's circuit breaker tripped: nothing is sent to it any more.
    #[graphql(name = "TENANT_WEBHOOK_CIRCUIT_TRIPPED")]
    WebhookCircuitTripped,
    /// Somebody let a webhook try again whose circuit breaker had tripped.
    #[graphql(name = "TENANT_WEBHOOK_CIRCUIT_REENABLED")]
    WebhookCircuitReenabled,
    /// A webhook whose circuit breaker had tripped tries again by itself.
    #[graphql(name = "TENANT_WEBHOOK_CIRCUIT_PROBING")]
    WebhookCircuitProbing,
    /// Messages that waited for a webhook's circuit breaker were older than messages are kept, and are gone.
    #[graphql(name = "TENANT_WEBHOOK_MATCHES_LOST")]
    WebhookMatchesLost,
    /// A webhook's endpoint is well again: everything is sent as before.
    #[graphql(name = "TENANT_WEBHOOK_CIRCUIT_CLOSED")]
    WebhookCircuitClosed,
    /// The operator's rules kept an attempt of a webhook from being made; told at most once an hour.
    #[graphql(name = "TENANT_WEBHOOK_EGRESS_BLOCKED")]
    WebhookEgressBlocked,
    /// The program was started with another configuration than before. Only in `systemAuditLog`.
    SystemConfigChanged,
    /// Another key of the operator's seals, and what was sealed under others is sealed anew. Only in `systemAuditLog`.
    SystemKekRotated,
    /// The tenant was created.
    TenantCreated,
    /// The tenant's settings were changed.
    TenantSettingsChanged,
    /// Somebody may log in from now on.
    #[graphql(name = "TENANT_USER_ADDED")]
    UserAdded,
    /// Somebody was given a new password and new one-time codes.
    #[graphql(name = "TENANT_USER_CREDENTIALS_RESET")]
    UserCredentialsReset,
    /// Somebody may not log in any more.
    #[graphql(name = "TENANT_USER_DISABLED")]
    UserDisabled,
    /// Somebody gave a wrong password or one-time code for a user.
    #[graphql(name = "TENANT_LOGIN_FAILED")]
    LoginFailed,
    /// Somebody gave a wrong one-time code within a user's session.
    #[graphql(name = "TENANT_STEP_UP_FAILED")]
    StepUpFailed,
    /// The tenant registered an event type.
    #[graphql(name = "TENANT_EVENT_TYPE_REGISTERED")]
    EventTypeRegistered,
    /// The tenant changed the definition of an event type of its own, or deprecated it.
    #[graphql(name = "TENANT_EVENT_TYPE_UPDATED")]
    EventTypeUpdated,
    /// An API key was made.
    #[graphql(name = "TENANT_API_KEY_CREATED")]
    ApiKeyCreated,
    /// An API key was withdrawn.
    #[graphql(name = "TENANT_API_KEY_REVOKED")]
    ApiKeyRevoked,
    /// Message data was erased, or is looked for to be erased.
    #[graphql(name = "TENANT_PAYLOAD_ERASED")]
    PayloadErased,
    /// The data of an erasure has left the database's files as well.
    #[graphql(name = "TENANT_ERASURE_COMPLETED")]
    ErasureCompleted,
}

/// Picks audit entries; all conditions must hold. With two of `codes`, `targetId` and `actorId` a page may end early: see
/// `PageInfo`.
#[derive(Clone, Debug, Default, InputObject)]
pub(super) struct AuditFilter {
    /// With one of these codes; empty or absent: with any.
    codes: Option<Vec<AuditCode>>,
    /// Of this webhook, API key, event type or tenant.
    target_id: Option<ID>,
    /// Done by this actor: the id of an API key, or `system`.
    actor_id: Option<ID>,
    /// Recorded in this time.
    pub(super) at: Option<DateTimeRange>,
}

impl AuditFilter {
    /// The list that it picks, and the conditions as the read models take them, but for the time.
    pub(super) fn list(&self, scope: TenantScope) -> (List, projections::AuditFilter) {
        let codes = self.codes.iter().flatten().map(|code| Code::from(*code).as_str().to_owned());
        let mut codes: Vec<_> = codes.collect();
        codes.sort();
        codes.dedup();
        let id = |id: &Option<ID>| id.as_ref().map(|id| id.0.clone());
        let (target, actor) = (id(&self.target_id), id(&self.actor_id));
        let conditions = [
            ("codes", (!codes.is_empty()).then(|| codes.join(" "))),
            ("target", target.clone()),
            ("actor", actor.clone()),
            ("at", self.at.as_ref().map(DateTimeRange::text)),
        ];
        let list = List::new(Some(scope.0), "auditLog", &conditions);
        (list, projections::AuditFilter { codes, target, actor, recorded: None })
    }
}

/// Kinds of actors.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Enum)]
pub(super) enum ActorKind {
    /// A person, known by a session or by a token of an identity provider.
    User,
    /// A caller with an API key.
    ApiKey,
    /// The system on its own account, or its operator at the command line.
    System,
}

/// Who did something.
#[derive(SimpleObject)]
#[graphql(complex)]
pub(super) struct Actor {
    /// What kind of actor.
    kind: ActorKind,
    /// Id of the API key; `usr_…` for a person with a login here, issuer, `#` and subject for one of an identity provider;
    /// `system` for the system.
    id: ID,
}

#[ComplexObject]
impl Actor {
    /// What people call it: the name of the API key; null for a key of another tenant, such as an operator's.
    async fn display_name(&self, ctx: &Context<'_>) -> Option<Result<String>> {
        nullable(async {
            let Ok(id) = self.id.parse::<ApiKeyId>() else {
                return Ok((self.kind == ActorKind::System).then(|| "system".to_owned()));
            };
            let own = caller(ctx).principal.tenant;
            Ok(load(ctx, id).await?.filter(|key| key.tenant == own).map(|key| key.name))
        })
        .await
    }
}

impl From<&execute::Actor> for Actor {
    fn from(actor: &execute::Actor) -> Self {
        let kind = match actor.kind {
            execute::ActorKind::User => ActorKind::User,
            execute::ActorKind::ApiKey => ActorKind::ApiKey,
            execute::ActorKind::System => ActorKind::System,
        };
        Self { kind, id: ID(actor.id.clone()) }
    }
}

pub(super) struct AuditEntry(pub(super) AuditRow);

/// Something that was done to a tenant or to what it owns. Never changed and never removed.
#[Object]
impl AuditEntry {
    /// `aud_…`
    pub(super) async fn id(&self) -> ID {
        ID(format!("{PREFIX}{}_{}", self.0.position.shard, self.0.position.seq))
    }

    /// What happened; null for a code that this version does not know.
    async fn code(&self) -> Option<AuditCode> {
        Code::parse(self.0.code).map(AuditCode::from)
    }

    /// When.
    async fn at(&self) -> DateTime {
        self.0.at.into()
    }

    /// Place of the event in the log: grows from entry to entry, with gaps.
    async fn sequence(&self) -> Long {
        Long(self.0.position.seq)
    }

    /// Who did it.
    async fn actor(&self) -> Actor {
        let kind = match self.0.actor_kind.as_str() {
            "user" => ActorKind::User,
            "api_key" => ActorKind::ApiKey,
            _ => ActorKind::System,
        };
        Actor { kind, id: ID(self.0.actor_id.clone()) }
    }

    /// How the person behind it had proved themself: the authentication context class; null if nobody said.
    async fn acr(&self) -> Option<&str> {
        self.0.acr.as_deref()
    }

    /// When the person behind it had last proved themself; null if it was no person.
    async fn authenticated_at(&self) -> Option<DateTime> {
        self.0.authenticated_at.map(DateTime)
    }

    /// Id of what it was done to.
    async fn target_id(&self) -> ID {
        ID(self.0.target.clone())
    }

    /// What it was done to, if it is still there. Needs the scope of its kind.
    #[graphql(complexity = "2 + child_complexity")]
    async fn target(&self, ctx: &Context<'_>) -> Option<Result<Node>> {
        nullable(async {
            if matches!(Code::parse(self.0.code), Some(Code::EventTypeRegistered | Code::EventTypeUpdated)) {
                return Ok(EventType::find(ctx, &self.0.target).await?.map(Node::from));
            }
            Node::find(ctx, &self.0.target).await
        })
        .await
    }

    /// Whose entry it is.
    async fn tenant(&self, ctx: &Context<'_>) -> Option<Result<Tenant>> {
        nullable(async { Ok(load(ctx, self.0.tenant).await?.map(Tenant)) }).await
    }

    /// What changed, by field: `{"url": {"from": …, "to": …}}`. Secrets and the queries of URLs are masked.
    async fn changes(&self) -> Json {
        (&self.0.changes).into()
    }

    /// In which request; null if in none.
    async fn request_id(&self) -> Option<&str> {
        self.0.request.as_deref()
    }

    /// From which address; null if unknown.
    async fn ip_address(&self) -> Option<&str> {
        self.0.ip.as_deref()
    }
}

impl AuditEntry {
    /// The caller's audit entry of that id.
    pub(super) async fn find(ctx: &Context<'_>, id: &str) -> Result<Option<Self>> {
        let scope = own_tenant(ctx, Scope::AuditRead)?;
        let Some(position) = parse_id(id) else { return Ok(None) };
        Self::read(ctx, scope, position).await
    }

    /// The entry of the tenant's event at that place. The caller has checked the scope.
    pub(super) async fn read(ctx: &Context<'_>, scope: TenantScope, position: Position) -> Result<Option<Self>> {
        let row = state(ctx).read_models.audit_entry(scope, position).await;
        Ok(row.map_err(|error| internal(&error))?.map(Self))
    }
}

fn parse_id(id: &str) -> Option<Position> {
    let (shard, seq) = id.strip_prefix(PREFIX)?.split_once('_')?;
    let position = Position { shard: shard.parse().ok()?, seq: seq.parse().ok()? };
    (format!("{PREFIX}{}_{}", position.shard, position.seq) == id).then_some(position)
}

/// The entries that are asked for. The caller has checked the scope.
pub(super) async fn list(
    ctx: &Context<'_>,
    scope: TenantScope,
    filter: AuditFilter,
    page: PageArgs,
) -> Result<Connection<AuditEntry>> {
    let (list, mut conditions) = filter.list(scope);
    let page = page.of(&list)?;
    if let Some(range) = filter.at {
        conditions.recorded = Some(range.places(ctx, scope).await?);
    }
    let slice = state(ctx).read_models.audit(scope, &conditions, &page).await.map_err(|error| internal(&error))?;
    Ok(Connection::new(&list, &page, slice, AuditEntry))
}

#[cfg(test)]
mod tests {
    use async_graphql::resolver_utils::EnumType;

    use super::*;

    #[test]
    fn a_code_is_called_the_same_in_the_api() {
        // S29
        for item in AuditCode::items() {
            assert_eq!(item.name, Code::from(item.value).as_str());
        }
        assert_eq!(AuditCode::items().len(), Code::ALL.len());
    }

    #[test]
    fn an_entrys_id_is_its_place_in_the_log() {
        assert_eq!(parse_id("aud_0_17"), Some(Position { shard: 0, seq: 17 }));
        for noise in ["aud_0", "aud_0_017", "aud_+0_17", "aud_0_-1", "0_17"] {
            assert_eq!(parse_id(noise), None, "{noise}");
        }
    }
}
