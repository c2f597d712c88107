//! What may be asked of erasures.

use super::{Done, Engine, EngineError};
use crate::actors::intake;
use crate::codec;
use crate::domain::erasure::{self, MAX_EVENT_TYPES, MAX_MESSAGES, Refusal, Selector, Target};
use crate::domain::event::{ErasureScope, ErasureStarted, Event, MessageEvent};
use crate::domain::filter::EventType;
use crate::domain::id::{ErasureId, MessageId, SubscriptionId, TenantId};
use crate::domain::secret::Secret;
use crate::domain::subscription;
use crate::domain::tenant::{self, Command, Tenant};
use crate::domain::time::Timestamp;
use crate::event_store::Position;
use crate::execute::Meta;
use crate::execute::retention;
use crate::execute::vault::Binding;

/// What came of asking for messages' data to be erased.
#[derive(Clone, Debug, PartialEq)]
pub struct Erased {
    /// The erasure; `None` if all of it was gone before.
    pub erasure: Option<ErasureId>,
    /// Of which messages data was erased, and is gone for every reader.
    pub messages: Vec<MessageId>,
    /// The request as it was carried out.
    pub done: Done,
}

/// What a caller says of the messages about somebody.
#[derive(Clone, Debug, PartialEq)]
pub struct SubjectErasure {
    /// Which messages, by their data.
    pub selector: Selector,
    /// Only those of these types; empty: of all.
    pub event_types: Vec<EventType>,
    /// Only those published at or after this.
    pub from: Option<Timestamp>,
    /// Only those published before this.
    pub to: Option<Timestamp>,
    /// In the caller's words.
    pub reason: Option<String>,
}

impl Engine {
    /// Erases the data of these messages, each named with the place where it stands. When this returns nobody reads it any
    /// more, and no attempt that has not begun sends it. That it has left the database's files too is recorded later.
    pub async fn erase_messages(
        &self,
        tenant: TenantId,
        messages: &[(MessageId, Position)],
        reason: Option<String>,
        meta: Meta,
    ) -> Result<Erased, EngineError> {
        if messages.is_empty() || messages.len() > MAX_MESSAGES {
            return Err(Refusal::Count.into());
        }
        erasure::check_reason(reason.as_deref())?;
        let mut targets: Vec<Target> = Vec::new();
        for (message, position) in messages {
            let target = self.target(tenant, *message, *position).await?;
            targets.extend(target.filter(|target| !targets.contains(target)));
        }
        let erased: Vec<_> = targets.iter().map(|target| target.message).collect();
        if targets.is_empty() {
            let done = Done { position: None, changed: false, settings: None, job: None };
            return Ok(Erased { erasure: None, messages: erased, done });
        }
        let size_bytes = targets.iter().map(|target| target.size_bytes).sum();
        let scope = ErasureScope::Messages { messages: erased.clone(), size_bytes };
        let erasure = self.context.clock.erasure_id();
        let done = self.start_erasure(tenant, ErasureStarted { erasure, scope, reason }, targets, meta).await?;
        Ok(Erased { erasure: Some(erasure), messages: erased, done })
    }

    /// Begins to erase the data of all messages about somebody that were published before.
    pub async fn erase_subject(
        &self,
        tenant: TenantId,
        subject: SubjectErasure,
        meta: Meta,
    ) -> Result<(ErasureId, Done), EngineError> {
        let SubjectErasure { selector, event_types, from, to, reason } = subject;
        if event_types.len() > MAX_EVENT_TYPES {
            return Err(Refusal::EventTypes.into());
        }
        erasure::check_reason(reason.as_deref())?;
        let text = serde_json::to_string(&selector).expect("a selector has string keys");
        let clock = &*self.context.clock;
        let (erasure, selector) = (clock.erasure_id(), clock.secret_id());
        let binding = Binding::erasure_selector(tenant, erasure, selector);
        self.context.vault.store(&binding, &Secret::stored(text), clock).await?;
        let scope = ErasureScope::Subject { selector, event_types, from, to };
        let begun = self.start_erasure(tenant, ErasureStarted { erasure, scope, reason }, vec![], meta).await;
        // Of a refused one it is nobody's; of one whose outcome is unknown it may be somebody's.
        if let Err(EngineError::Tenant(_) | EngineError::Overloaded) = &begun {
            self.context.vault.destroy(&binding).await?;
        }
        Ok((erasure, begun?))
    }

    /// Begins to erase a tenant: all its message data, its webhooks with their secrets, its users. From now on nothing is
    /// published for it. Answers with the erasure that was begun first.
    pub async fn erase_tenant(
        &self,
        tenant: TenantId,
        reason: Option<String>,
        meta: Meta,
    ) -> Result<(ErasureId, Done), EngineError> {
        let (erasure, scope) = (self.context.clock.erasure_id(), ErasureScope::Tenant {});
        let done = self.start_erasure(tenant, ErasureStarted { erasure, scope, reason }, vec![], meta).await?;
        if done.changed {
            return Ok((erasure, done));
        }
        let first = self.load_tenant(tenant).await?.erasures.of_tenant;
        Ok((first.ok_or(tenant::Refusal::NotFound)?, done))
    }

    /// The tenant, if nothing erases it.
    pub(super) async fn unerased(&self, id: TenantId) -> Result<Tenant, EngineError> {
        let tenant = self.load_tenant(id).await?;
        if tenant.is_erased() { Err(tenant::Refusal::Erased.into()) } else { Ok(tenant) }
    }

    /// Takes a webhook back that was made while its tenant's erasure began: that may not have seen it.
    pub(super) async fn unless_erased_meanwhile(
        &self,
        tenant: TenantId,
        id: SubscriptionId,
    ) -> Result<(), EngineError> {
        match self.unerased(tenant).await {
            Err(erased @ EngineError::Tenant(tenant::Refusal::Erased)) => {
                self.delete_for_good(tenant, id).await?;
                Err(erased)
            }
            // It is made, whatever else cannot be read now.
            Ok(_) | Err(_) => Ok(()),
        }
    }

    /// Deletes a webhook so that nobody restores it, and its secrets with it.
    pub(in crate::actors) async fn delete_for_good(
        &self,
        tenant: TenantId,
        id: SubscriptionId,
    ) -> Result<Done, EngineError> {
        self.subscription(tenant, id, subscription::Command::DeleteForGood, Meta::system()).await
    }

    /// How long what is kept: what erasures leave behind goes with that.
    pub fn retention(&self) -> &retention::Config {
        &self.context.retention.config
    }

    /// Changes a tenant, and erases the data of these messages with it.
    pub(in crate::actors) async fn change_and_erase(
        &self,
        tenant: TenantId,
        command: Command,
        erased: Vec<Target>,
        meta: Meta,
    ) -> Result<Done, EngineError> {
        self.ask_intake(|reply| intake::Request::Tenant { tenant, command, erased, meta, reply }).await
    }

    async fn start_erasure(
        &self,
        tenant: TenantId,
        started: ErasureStarted,
        targets: Vec<Target>,
        meta: Meta,
    ) -> Result<Done, EngineError> {
        let done = self.change_and_erase(tenant, Command::StartErasure(started), targets, meta).await?;
        self.context.erasures.notify_one();
        Ok(done)
    }

    /// The message at that place, if its data is there. Fails if it is another one.
    async fn target(
        &self,
        tenant: TenantId,
        message: MessageId,
        position: Position,
    ) -> Result<Option<Target>, EngineError> {
        let missing = || Refusal::NoSuchMessage(message.to_string());
        let (recorded, content) = self.context.log.event(position).await?.ok_or_else(missing)?;
        let Ok(Event::Message(MessageEvent::Published(published))) = codec::decode(&recorded) else {
            return Err(missing().into());
        };
        if (published.message, published.tenant) != (message, tenant) {
            return Err(missing().into());
        }
        let size_bytes = published.size_bytes.into();
        Ok(content.map(|_| Target { message, seq: position.seq, size_bytes }))
    }
}
