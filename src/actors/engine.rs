//! What the rest of the program may ask of the running system.
//!
//! Checks what must be checked outside the aggregates (URLs, secrets), hands the command to the one actor that may
//! decide, and waits for its answer. An answer means that everything behind it is durable.

mod depths;
mod erasure;
mod jobs;
mod sealed;
mod users;

use std::sync::Arc;

use bytes::Bytes;
use tokio::sync::{mpsc, oneshot};

use super::attempt::TestDelivery;
use super::lookups::Lookups;
use super::quarantine::Quarantined;
use super::region::Regions;
use super::subscription::{Request as SubscriptionRequest, SubscriptionMessage, TimersQuestion};
use super::target::Target;
use super::{Context, attempt, intake};
use crate::codec;
use crate::domain::erasure as erasure_rules;
use crate::domain::event::ReenableMode;
use crate::domain::event::{Event, MessageEvent, MessagePublished, SubscriptionCreated, TenantCreated, TestSent};
use crate::domain::filter::{EventType, Filter};
use crate::domain::header::{CustomHeaders, GivenHeaders, InvalidHeaders};
use crate::domain::id::{DeliveryId, MessageId, SubscriptionId, TenantId};
use crate::domain::message::{self, Draft};
use crate::domain::notice::{GivenRecipients, InvalidRecipients, Recipients};
use crate::domain::outcome::Exchange;
use crate::domain::retry_policy::RetryPolicy;
use crate::domain::secret::{InvalidSecret, Secret};
use crate::domain::subscription::{self, Command, Restore, Settings, Timers};
use crate::domain::tenant::{self, Tenant};
use crate::domain::time::Timestamp;
use crate::domain::{catalogue, profile};
use crate::error_code::ErrorCode;
use crate::event_store::{Append, AppendError, Claim, Position, ReadError};
use crate::execute::vault::{Binding, VaultError};
use crate::execute::{self, LoadError, Meta, contents};
use crate::outbound::{Gate, UrlRefusal};

pub use depths::Depth;
pub use erasure::{Erased, SubjectErasure};
pub use jobs::{NewJob, RunningJob};
pub use sealed::Sealable;

/// Why a request was not carried out.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
pub enum EngineError {
    /// The subscription's rules refuse it.
    #[error(transparent)]
    Subscription(#[from] subscription::Refusal),
    /// The tenant's rules refuse it.
    #[error(transparent)]
    Tenant(#[from] tenant::Refusal),
    /// The message is refused.
    #[error(transparent)]
    Message(#[from] message::Refusal),
    /// The erasure's rules refuse it.
    #[error(transparent)]
    Erasure(#[from] erasure_rules::Refusal),
    /// The URL is refused.
    #[error(transparent)]
    Url(#[from] UrlRefusal),
    /// The supplied secret is refused.
    #[error(transparent)]
    Secret(#[from] InvalidSecret),
    /// The custom headers are refused.
    #[error(transparent)]
    Headers(#[from] InvalidHeaders),
    /// The addresses for notices are refused.
    #[error(transparent)]
    Recipients(#[from] InvalidRecipients),
    /// The profile makes its own secrets.
    #[error("profile '{0}' makes its own secrets")]
    SecretNotSupplied(String),
    /// A queue is full.
    #[error("too many requests are under way")]
    Overloaded,
    /// It may or may not have happened: the system failed before it could answer.
    #[error("the outcome is unknown: {0}")]
    Unknown(&'static str),
    /// The log could not be read.
    #[error(transparent)]
    Load(#[from] LoadError),
    /// The log could not be written.
    #[error(transparent)]
    Append(#[from] AppendError),
    /// A secret could not be stored or read.
    #[error(transparent)]
    Vault(#[from] VaultError),
}

impl From<ReadError> for EngineError {
    fn from(error: ReadError) -> Self {
        Self::Load(error.into())
    }
}

impl From<contents::OpenError> for EngineError {
    fn from(error: contents::OpenError) -> Self {
        match error {
            contents::OpenError::Vault(error) => error.into(),
            contents::OpenError::Load(error) => error.into(),
        }
    }
}

impl EngineError {
    /// Which of the rules behind the code was broken, where there are several.
    pub fn reason(&self) -> Option<&'static str> {
        if let Self::Url(refusal) = self { Some(refusal.reason()) } else { None }
    }

    /// The code that clients match on.
    pub fn code(&self) -> ErrorCode {
        match self {
            Self::Subscription(refusal) => refusal.code(),
            Self::Tenant(refusal) => refusal.code(),
            Self::Message(refusal) => refusal.code(),
            Self::Erasure(refusal) => refusal.code(),
            Self::Url(_) => ErrorCode::WebhookInvalidUrl,
            Self::Secret(_) => ErrorCode::WebhookSecretInvalid,
            Self::Headers(_) => ErrorCode::WebhookHeaderInvalid,
            Self::Recipients(_) => ErrorCode::NotificationEmailInvalid,
            Self::SecretNotSupplied(_) => ErrorCode::InvalidInput,
            Self::Vault(error) => error.code(),
            Self::Append(AppendError::Full(_)) => ErrorCode::StorageFull,
            Self::Append(AppendError::Unavailable(_)) | Self::Load(LoadError::Read(ReadError::Unavailable(_))) => {
                ErrorCode::StorageUnavailable
            }
            Self::Overloaded | Self::Unknown(_) | Self::Append(_) => ErrorCode::Overloaded,
            Self::Load(_) => ErrorCode::Internal,
        }
    }
}

/// A request was carried out.
#[derive(Clone, Debug, PartialEq)]
pub struct Done {
    /// Position of the last event; `None` if nothing had to change.
    pub position: Option<Position>,
    /// Whether anything changed.
    pub changed: bool,
    /// A subscription's settings now, if it is alive.
    pub settings: Option<Settings>,
    /// A subscription's job now, if it has one.
    pub job: Option<RunningJob>,
}

/// A message was accepted.
#[derive(Clone, Debug, PartialEq)]
pub struct Published {
    /// Its id.
    pub message: MessageId,
    /// Whether it had been accepted before, under the same idempotency key.
    pub duplicate: bool,
    /// Its position; `None` for one accepted long ago.
    pub position: Option<Position>,
    /// When it was recorded; `None` for one accepted long ago.
    pub at: Option<Timestamp>,
    /// What was recorded; `None` for one accepted long ago.
    pub event: Option<Box<MessagePublished>>,
}

/// What becomes of everything that waited while a circuit was open.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Backlog {
    /// It is delivered.
    Drain,
    /// What was published before that moment is not delivered.
    SkipBefore(Timestamp),
    /// It is not delivered.
    Discard,
}

/// What a caller says of a new subscription.
#[derive(Clone, Debug, PartialEq)]
pub struct NewSubscription {
    /// Where to send.
    pub url: String,
    /// What to send.
    pub filters: Vec<Filter>,
    /// What it is for.
    pub description: Option<String>,
    /// Whether it sends at once; as the profile says if `None`.
    pub enabled: Option<bool>,
    /// The caller's own secret; generated if `None`.
    pub secret: Option<String>,
    /// The delivery profile; the tenant's if `None`.
    pub profile: Option<String>,
    /// Attempts a second at most; as many as permits allow if `None`.
    pub rate_limit_per_s: Option<u32>,
    /// Whether each delivery waits for the end of the one before.
    pub ordered: bool,
    /// Headers of its own.
    pub headers: GivenHeaders,
    /// Rules of its own of trying again.
    pub retry_policy: Option<RetryPolicy>,
    /// Who is to be told what happens to it.
    pub recipients: GivenRecipients,
}

/// How a test delivery went.
#[derive(Clone, Debug, PartialEq)]
pub struct TestReport {
    /// Whether the profile counts the answer as success.
    pub verified: bool,
    /// Where to; `None` if nothing could be sent.
    pub url: Option<String>,
    /// Names and values that were sent, those of custom headers hidden; none if nothing could be.
    pub headers: Vec<(String, String)>,
    /// The bytes that were sent.
    pub body: Bytes,
    /// The exchange.
    pub exchange: Exchange,
    /// Position of the event that remembers it.
    pub position: Option<Position>,
}

/// The running system, as callers see it. Cheap to clone.
#[derive(Clone)]
pub struct Engine {
    context: Arc<Context>,
    regions: Regions,
    intake: mpsc::Sender<intake::Request>,
    gate: Gate,
    lookups: Lookups,
    credits: Arc<tokio::sync::Semaphore>,
}

impl Engine {
    pub(super) fn new(
        context: Arc<Context>,
        regions: Regions,
        intake: mpsc::Sender<intake::Request>,
        gate: Gate,
    ) -> Self {
        let credits = Arc::new(tokio::sync::Semaphore::new(context.config.request_credits));
        Self { context, regions, intake, gate, lookups: Lookups::default(), credits }
    }

    /// Accepts a message for delivery. When this returns, it is on disk.
    pub async fn publish(&self, tenant: TenantId, draft: Draft, meta: Meta) -> Result<Published, EngineError> {
        self.ask_intake(|reply| intake::Request::Publish { tenant, draft, meta, reply }).await
    }

    /// Makes a tenant; answers with its id too, which may be another than the one proposed.
    ///
    /// A public id is unique in the whole log, so it is claimed in one shard before the tenant is made in its own. A
    /// crash between the two leaves a public id that belongs to no tenant: whoever asks for it again makes the tenant
    /// that it was claimed for.
    pub async fn create_tenant(&self, created: TenantCreated, meta: Meta) -> Result<(TenantId, Done), EngineError> {
        tenant::decide(&Tenant::default(), tenant::Command::Create(created.clone()))?;
        let taken = || tenant::Refusal::SlugTaken(created.slug.clone());
        let tenant = self.claim_slug(&created.slug, created.tenant).await?;
        if self.context.log.stream_version(&execute::tenant_stream(tenant)).await? > 0 {
            return Err(taken().into());
        }
        let command = tenant::Command::Create(TenantCreated { tenant, ..created.clone() });
        match self.ask_intake(|reply| intake::Request::Tenant { tenant, command, erased: vec![], meta, reply }).await {
            // Somebody else asked for the same public id meanwhile, and was first.
            Err(EngineError::Tenant(tenant::Refusal::Exists(_))) => Err(taken().into()),
            answer => answer.map(|done| (tenant, done)),
        }
    }

    /// Whose the public id is from now on: the proposed tenant's, unless another one had it.
    async fn claim_slug(&self, slug: &str, tenant: TenantId) -> Result<TenantId, EngineError> {
        let key = execute::slug_claim(slug);
        let claim = Claim { key: key.clone(), value: tenant.to_string(), bucket: None };
        let append = Append { claims: vec![claim], ..Append::default() };
        match self.context.log.append(execute::SLUG_SHARD, append).await {
            Ok(_) => return Ok(tenant),
            Err(AppendError::ClaimTaken { .. }) => {}
            Err(error) => return Err(error.into()),
        }
        let claims = self.context.log.claims(execute::SLUG_SHARD, std::slice::from_ref(&key)).await?;
        let owner = claims.get(&key).and_then(|id| id.parse().ok());
        owner.ok_or_else(|| tenant::Refusal::SlugTaken(slug.to_owned()).into())
    }

    /// Changes a tenant.
    pub async fn tenant(&self, tenant: TenantId, command: tenant::Command, meta: Meta) -> Result<Done, EngineError> {
        if let tenant::Command::Create(created) = command {
            return self.create_tenant(created, meta).await.map(|(_, done)| done);
        }
        self.ask_intake(|reply| intake::Request::Tenant { tenant, command, erased: vec![], meta, reply }).await
    }

    /// Makes a subscription. The secret is in the answer and nowhere else (A10).
    pub async fn create_subscription(
        &self,
        tenant: TenantId,
        new: NewSubscription,
        meta: Meta,
    ) -> Result<(SubscriptionId, Secret, Done), EngineError> {
        let owner = self.unerased(tenant).await?;
        let default_profile = owner.created.map(|created| created.profile).ok_or(tenant::Refusal::NotFound)?;
        let profile_name = new.profile.unwrap_or(default_profile);
        let profile = profile::find(&profile_name).map_err(subscription::Refusal::from)?;
        profile.check_filters(&new.filters).map_err(subscription::Refusal::from)?;
        let url = self.check_url(tenant, &new.url).await?;
        let secret = self.secret_for(profile, new.secret.as_deref())?;
        let headers = CustomHeaders::check(profile, new.headers)?;
        let recipients = Recipients::check(&new.recipients)?;
        let clock = &*self.context.clock;
        let (id, sealed) = (clock.subscription_id(), clock.secret_id());
        self.context.vault.store(&Binding::signing_secret(tenant, id, sealed), &secret, clock).await?;
        let created = SubscriptionCreated {
            subscription: id,
            tenant,
            profile: profile_name,
            url,
            description: new.description,
            filters: new.filters,
            enabled: new.enabled.unwrap_or(profile.enabled_default),
            secret: sealed,
            fingerprint: self.context.vault.fingerprint(&secret),
            public_key: secret.public_key(),
            rate_limit_per_s: new.rate_limit_per_s,
            ordered: new.ordered,
            headers: self.seal_headers(tenant, id, &headers).await?,
            retry_policy: new.retry_policy,
            recipients: self.seal_recipients(tenant, id, &recipients).await?,
        };
        let sealed = Binding::all_of(&Settings::created(&created));
        match self.subscription(tenant, id, Command::Create(created), meta).await {
            Ok(done) => self.unless_erased_meanwhile(tenant, id).await.map(|()| (id, secret, done)),
            Err(error) => {
                self.discard_if_refused(&error, &sealed).await?;
                Err(error)
            }
        }
    }

    /// Gives a subscription a new secret. It is in the answer and nowhere else.
    pub async fn rotate_secret(
        &self,
        tenant: TenantId,
        id: SubscriptionId,
        own: Option<&str>,
        overlap_s: Option<u64>,
        meta: Meta,
    ) -> Result<(Secret, Done), EngineError> {
        self.unerased(tenant).await?;
        let before = self.settings(tenant, id).await?;
        let profile = before.profile().map_err(subscription::Refusal::from)?;
        let secret = self.secret_for(profile, own)?;
        let clock = &*self.context.clock;
        let sealed = clock.secret_id();
        self.context.vault.store(&Binding::signing_secret(tenant, id, sealed), &secret, clock).await?;
        let fingerprint = self.context.vault.fingerprint(&secret);
        let public_key = secret.public_key();
        let command = Command::RotateSecret { secret: sealed, fingerprint, public_key, overlap_s, at: clock.now() };
        let done = match self.subscription(tenant, id, command, meta).await {
            Ok(done) => done,
            Err(error) => {
                self.discard_if_refused(&error, &[Binding::signing_secret(tenant, id, sealed)]).await?;
                return Err(error);
            }
        };
        Ok((secret, done))
    }

    /// Sends a test delivery and waits for its end. Works while the subscription is disabled; changes nothing but the
    /// audit log (S27, S29), and whether it may be enabled where the profile wants a test (C12).
    pub async fn test_subscription(
        &self,
        tenant: TenantId,
        id: SubscriptionId,
        event_type: EventType,
        data: String,
        meta: Meta,
    ) -> Result<TestReport, EngineError> {
        let settings = self.settings(tenant, id).await?;
        let rules = settings.rules().map_err(subscription::Refusal::from)?;
        let owner = self.load_tenant(tenant).await?;
        let tenant_slug = owner.created.map(|created| created.slug).ok_or(tenant::Refusal::NotFound)?;
        let clock = &*self.context.clock;
        let target = Target::of(&settings, clock.now()).ok_or(EngineError::Unknown("the profile is gone"))?;
        let test = TestDelivery { event_type: event_type.clone(), data, tenant_slug };
        let (request, exchange) = attempt::test(&self.context, &target, &test, clock.message_id()).await;
        let verified = exchange.result.as_ref().is_ok_and(|response| rules.accepts(response));
        let sent = TestSent {
            event_type,
            verified,
            status: exchange.result.as_ref().ok().map(|response| response.status),
            failure: exchange.result.as_ref().err().map(|failure| failure.code),
            latency_ms: exchange.latency_ms,
            revision: Some(settings.revision),
        };
        let done = self.subscription(tenant, id, Command::RecordTest(sent), meta).await?;
        let url = request.as_ref().map(|request| request.url.clone());
        let (mut headers, body) = request.map_or_else(Default::default, |request| (request.headers, request.body));
        if let Some(custom) = &settings.headers {
            custom.mask(&mut headers);
        }
        Ok(TestReport { verified, url, headers, body, exchange, position: done.position })
    }

    /// Lets a subscription try again whose circuit breaker tripped: one probe, then slowly more. Nothing changes where it
    /// did not.
    pub async fn reenable(
        &self,
        tenant: TenantId,
        id: SubscriptionId,
        backlog: Backlog,
        meta: Meta,
    ) -> Result<Done, EngineError> {
        let log = &self.context.log;
        let shard = self.context.shard_of(tenant);
        let (mode, skip_through) = match backlog {
            Backlog::Drain => (ReenableMode::Drain, None),
            Backlog::SkipBefore(moment) => {
                let position = execute::end_before(log.reader(), shard, moment).await?;
                (ReenableMode::SkipBefore, Some(position.seq))
            }
            Backlog::Discard => (ReenableMode::Discard, Some(log.head(shard))),
        };
        let gone_through = log.floor(shard);
        self.subscription(tenant, id, Command::Reenable { mode, skip_through, gone_through }, meta).await
    }

    /// Deletes a subscription, and its secrets with it: at once, or when it cannot be restored any more.
    pub async fn delete_subscription(
        &self,
        tenant: TenantId,
        id: SubscriptionId,
        expected_revision: Option<u64>,
        meta: Meta,
    ) -> Result<Done, EngineError> {
        self.subscription(tenant, id, Command::Delete { expected_revision }, meta).await
    }

    /// Brings a deleted subscription back, disabled and owing nothing, as long as its profile lets it.
    pub async fn restore_subscription(
        &self,
        tenant: TenantId,
        id: SubscriptionId,
        meta: Meta,
    ) -> Result<Done, EngineError> {
        self.unerased(tenant).await?;
        let matched_through = self.context.log.head(self.context.shard_of(tenant));
        let restore = Restore { matched_through, too_late: false, at: self.context.clock.now() };
        self.subscription(tenant, id, Command::Restore(restore), meta).await
    }

    /// Any other command to a subscription.
    pub async fn subscription(
        &self,
        tenant: TenantId,
        id: SubscriptionId,
        command: Command,
        meta: Meta,
    ) -> Result<Done, EngineError> {
        self.ask_subscription(tenant, id, Some(command), meta).await
    }

    /// A subscription's settings, as its actor has them.
    pub async fn settings(&self, tenant: TenantId, id: SubscriptionId) -> Result<Settings, EngineError> {
        let done = self.ask_subscription(tenant, id, None, Meta::system()).await?;
        done.settings.ok_or(EngineError::Subscription(subscription::Refusal::NotFound))
    }

    /// What of a subscription waits, until when and why, as its actor has it: at most so many deliveries behind a place.
    pub async fn timers(
        &self,
        tenant: TenantId,
        id: SubscriptionId,
        after: Option<(Timestamp, DeliveryId)>,
        limit: usize,
    ) -> Result<Timers, EngineError> {
        let _credit = self.credits.try_acquire().map_err(|_| EngineError::Overloaded)?;
        if self.context.log.stream_version(&execute::subscription_stream(id)).await? == 0 {
            return Err(subscription::Refusal::NotFound.into());
        }
        let (reply, answer) = oneshot::channel();
        let question = TimersQuestion { tenant, after, limit, reply };
        self.regions.send(id, SubscriptionMessage::Timers(Box::new(question)));
        answer.await.map_err(|_| EngineError::Unknown("the subscription failed and is being loaded again"))?
    }

    /// The tenant as the log tells it.
    pub async fn load_tenant(&self, id: TenantId) -> Result<Tenant, EngineError> {
        Ok(execute::load_tenant(&self.context.log, id).await?.0)
    }

    /// The sample of an event type for a test delivery: the tenant's own, else the catalogue's.
    pub async fn sample(
        &self,
        tenant: TenantId,
        event_type: &EventType,
    ) -> Result<Option<serde_json::Value>, EngineError> {
        let owner = self.load_tenant(tenant).await?;
        let own = owner.event_types.get(event_type).map(|registered| registered.example.clone());
        Ok(own.unwrap_or_else(|| catalogue::find(event_type).map(|definition| definition.example.clone())))
    }

    /// Events that cannot be read, and what is held back because of them.
    pub fn quarantine(&self) -> Vec<Quarantined> {
        self.context.quarantine.list()
    }

    /// The newest position of the tenant's shard: whatever it has been answered for stands at or before it.
    pub fn head(&self, tenant: TenantId) -> Position {
        let shard = self.context.shard_of(tenant);
        Position { shard, seq: self.context.log.head(shard) }
    }

    /// The canonical data of the message at that position; `None` if it was erased. Whether the caller may see that
    /// message is for the caller to have asked: a position names no tenant.
    pub async fn message_data(&self, position: Position) -> Result<Option<String>, EngineError> {
        let Some((recorded, Some(content))) = self.context.log.event(position).await? else { return Ok(None) };
        let Event::Message(MessageEvent::Published(published)) = codec::decode(&recorded).map_err(LoadError::from)?
        else {
            return Ok(None);
        };
        Ok(contents::open(self.context.log.reader(), &self.context.vault, &published, &content).await?)
    }

    async fn check_url(&self, tenant: TenantId, url: &str) -> Result<String, EngineError> {
        let endpoint = self.gate.check(url)?;
        let _turn = self.lookups.begin(tenant).ok_or(EngineError::Overloaded)?;
        self.gate.resolve(&endpoint).await?;
        Ok(endpoint.as_str().to_owned())
    }

    /// Secrets of a refused command are nobody's. Of one whose outcome is unknown they may be somebody's.
    async fn discard_if_refused(&self, error: &EngineError, sealed: &[Binding]) -> Result<(), EngineError> {
        if matches!(error, EngineError::Subscription(_) | EngineError::Overloaded) {
            for secret in sealed {
                self.context.vault.destroy(secret).await?;
            }
        }
        Ok(())
    }

    fn secret_for(&self, profile: &profile::Profile, own: Option<&str>) -> Result<Secret, EngineError> {
        match own {
            Some(_) if !profile.secret_supplied => Err(EngineError::SecretNotSupplied(profile.name.clone())),
            Some(text) => Ok(Secret::supplied_for(profile.algorithm(), text)?),
            None => Ok(Secret::generate_for(profile.algorithm(), &self.context.clock.random_bytes())),
        }
    }

    async fn ask_subscription(
        &self,
        tenant: TenantId,
        id: SubscriptionId,
        command: Option<Command>,
        meta: Meta,
    ) -> Result<Done, EngineError> {
        let _credit = self.credits.try_acquire().map_err(|_| EngineError::Overloaded)?;
        // Nobody shall fill the memory with actors of ids that they made up.
        let creates = matches!(command, Some(Command::Create(_)));
        if !creates && self.context.log.stream_version(&execute::subscription_stream(id)).await? == 0 {
            return Err(subscription::Refusal::NotFound.into());
        }
        let (reply, answer) = oneshot::channel();
        let request = SubscriptionRequest { tenant, command, meta, reply };
        self.regions.send(id, SubscriptionMessage::Command(Box::new(request)));
        answer.await.map_err(|_| EngineError::Unknown("the subscription failed and is being loaded again"))?
    }

    async fn ask_intake<T>(
        &self,
        request: impl FnOnce(oneshot::Sender<Result<T, EngineError>>) -> intake::Request,
    ) -> Result<T, EngineError> {
        let slot = self.intake.try_reserve().map_err(|_| EngineError::Overloaded)?;
        let (reply, answer) = oneshot::channel();
        slot.send(request(reply));
        answer.await.map_err(|_| EngineError::Unknown("the intake stopped"))?
    }
}
