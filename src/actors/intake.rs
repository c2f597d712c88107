//! The one writer of tenants and messages.
//!
//! Takes what is queued, looks up all idempotency keys of the batch at once, decides, and sends one append for each
//! tenant, without waiting for the one before it. A caller is answered when its append is durable.
//!
//! If an append fails, the tenant is forgotten and read from the log again; appends that were decided on top of the
//! failed one fail with it, since they expect versions that never came to be.

use std::collections::HashMap;
use std::num::NonZeroUsize;
use std::sync::Arc;

use bytes::Bytes;
use lru::LruCache;
use serde::{Deserialize, Serialize};
use tokio::sync::{mpsc, oneshot};

use super::engine::{Done, EngineError, Published};
use super::{Context, SHARD};
use crate::domain::event::{Event, MessageEvent, MessagePublished};
use crate::domain::id::{MessageId, TenantId};
use crate::domain::message::{self, Draft, SALT_BYTES};
use crate::domain::tenant::{self, Tenant};
use crate::domain::time::Timestamp;
use crate::event_store::{Append, AppendError, Appended, Claim, NewEvent, Position, StreamWrite};
use crate::execute::{self, Meta};

/// Requests taken at a time.
const BATCH: usize = 256;
/// Tenants kept in memory.
const CACHED_TENANTS: NonZeroUsize = NonZeroUsize::new(10_000).expect("not zero");

/// What the intake is asked.
pub(super) enum Request {
    /// Publish a message.
    Publish { tenant: TenantId, draft: Draft, meta: Meta, reply: oneshot::Sender<Result<Published, EngineError>> },
    /// Change a tenant.
    Tenant { tenant: TenantId, command: tenant::Command, meta: Meta, reply: oneshot::Sender<Result<Done, EngineError>> },
}

/// What an idempotency key's claim remembers.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Claimed {
    message: MessageId,
    digest: String,
}

/// Runs until every sender is gone and every answer is given.
pub(super) async fn run(context: Arc<Context>, requests: &mut mpsc::Receiver<Request>) {
    // Bounded by the requests that wait for these answers.
    let (settled_sender, mut settled) = mpsc::unbounded_channel();
    let mut intake = Intake {
        context,
        tenants: LruCache::new(CACHED_TENANTS),
        under_way: HashMap::new(),
        settled: settled_sender,
        unsettled: 0,
    };
    let mut batch = Vec::with_capacity(BATCH);
    let mut open = true;
    while open || intake.unsettled > 0 {
        tokio::select! {
            biased;
            Some(outcome) = settled.recv() => intake.settle(outcome),
            count = requests.recv_many(&mut batch, BATCH), if open => {
                open = count > 0;
                // Failures that are known already must not be built upon.
                while let Ok(outcome) = settled.try_recv() {
                    intake.settle(outcome);
                }
                intake.take(&mut batch).await;
            }
        }
    }
}

struct Intake {
    context: Arc<Context>,
    tenants: LruCache<TenantId, Entry>,
    /// Idempotency keys whose first message is not durable yet, with those who sent it again meanwhile.
    under_way: HashMap<String, UnderWay>,
    settled: mpsc::UnboundedSender<Outcome>,
    unsettled: usize,
}

struct Entry {
    tenant: Tenant,
    version: u64,
    messages_version: u64,
}

struct UnderWay {
    claimed: Claimed,
    waiting: Vec<oneshot::Sender<Result<Published, EngineError>>>,
}

/// An append that ended.
struct Outcome {
    tenant: TenantId,
    replies: Replies,
    result: Result<Appended, AppendError>,
}

enum Replies {
    /// Messages in the order of their events.
    Messages(Vec<Pending>),
    Tenant(oneshot::Sender<Result<Done, EngineError>>),
}

struct Pending {
    published: MessagePublished,
    at: Timestamp,
    claim: Option<String>,
    reply: oneshot::Sender<Result<Published, EngineError>>,
}

/// Messages of one tenant on their way into one append.
#[derive(Default)]
struct Batch {
    events: Vec<NewEvent>,
    claims: Vec<Claim>,
    pending: Vec<Pending>,
}

impl Intake {
    async fn take(&mut self, requests: &mut Vec<Request>) {
        let known = match self.known_claims(requests).await {
            Ok(known) => known,
            Err(error) => {
                for request in requests.drain(..) {
                    request.refuse(error.clone());
                }
                return;
            }
        };
        let mut batches: HashMap<TenantId, Batch> = HashMap::new();
        for request in requests.drain(..) {
            match request {
                Request::Publish { tenant, draft, meta, reply } => {
                    if let Err(error) = self.load(tenant).await {
                        answer(reply, Err(error));
                        continue;
                    }
                    self.publish(tenant, draft, &meta, reply, &known, batches.entry(tenant).or_default());
                }
                Request::Tenant { tenant, command, meta, reply } => {
                    if let Err(error) = self.load(tenant).await {
                        answer(reply, Err(error));
                        continue;
                    }
                    self.change(tenant, command, &meta, reply);
                }
            }
        }
        for (tenant, batch) in batches {
            self.append_messages(tenant, batch);
        }
    }

    async fn known_claims(&self, requests: &[Request]) -> Result<HashMap<String, String>, EngineError> {
        let keys: Vec<_> = requests.iter().filter_map(Request::claim).collect();
        if keys.is_empty() {
            return Ok(HashMap::new());
        }
        self.context.log.claims(SHARD, &keys).await.map_err(EngineError::from)
    }

    async fn load(&mut self, id: TenantId) -> Result<(), EngineError> {
        if self.tenants.contains(&id) {
            return Ok(());
        }
        let (tenant, version) = execute::load_tenant(&self.context.log, id).await?;
        let messages_version = self.context.log.stream_version(&execute::messages_stream(id)).await?;
        self.tenants.put(id, Entry { tenant, version, messages_version });
        Ok(())
    }

    fn publish(
        &mut self,
        id: TenantId,
        draft: Draft,
        meta: &Meta,
        reply: oneshot::Sender<Result<Published, EngineError>>,
        known: &HashMap<String, String>,
        batch: &mut Batch,
    ) {
        let Some(created) = self.tenants.get(&id).and_then(|entry| entry.tenant.created.clone()) else {
            return answer(reply, Err(message::Refusal::NoTenant.into()));
        };
        if !self.tenants.get(&id).is_some_and(|entry| entry.tenant.knows(&draft.event_type)) {
            return answer(reply, Err(message::Refusal::UnknownType(draft.event_type).into()));
        }
        let claim = draft.idempotency.as_ref().map(|idempotency| message::idempotency_claim(id, &idempotency.key));
        if let (Some(claim), Some(idempotency)) = (&claim, &draft.idempotency) {
            let reused = || message::Refusal::IdempotencyKeyReused(idempotency.key.clone());
            if let Some(under_way) = self.under_way.get_mut(claim) {
                match under_way.claimed.digest == idempotency.digest {
                    true => under_way.waiting.push(reply),
                    false => answer(reply, Err(reused().into())),
                }
                return;
            }
            if let Some(claimed) = known.get(claim).and_then(|text| serde_json::from_str::<Claimed>(text).ok()) {
                return answer(
                    reply,
                    match claimed.digest == idempotency.digest {
                        true => Ok(Published {
                            message: claimed.message,
                            duplicate: true,
                            position: None,
                            at: None,
                            event: None,
                        }),
                        false => Err(reused().into()),
                    },
                );
            }
        }
        self.accept(created, draft, meta, reply, claim, batch);
    }

    fn accept(
        &mut self,
        created: crate::domain::event::TenantCreated,
        draft: Draft,
        meta: &Meta,
        reply: oneshot::Sender<Result<Published, EngineError>>,
        claim: Option<String>,
        batch: &mut Batch,
    ) {
        let clock = &*self.context.clock;
        let now = clock.now();
        let salt: [u8; SALT_BYTES] = clock.random_bytes();
        let published = MessagePublished {
            message: clock.message_id(),
            tenant: created.tenant,
            tenant_slug: created.slug,
            event_type: draft.event_type,
            occurred_at: draft.occurred_at.unwrap_or(now),
            size_bytes: draft.data.len() as u32,
            digest: message::salted_digest(&salt, &draft.data),
            unstable: draft.unstable,
            idempotency_key: draft.idempotency.as_ref().map(|idempotency| idempotency.key.clone()),
        };
        if let (Some(claim), Some(idempotency)) = (&claim, draft.idempotency) {
            let claimed = Claimed { message: published.message, digest: idempotency.digest };
            let value = serde_json::to_string(&claimed).expect("a claim has string keys");
            batch.claims.push(Claim { key: claim.clone(), value });
            self.under_way.insert(claim.clone(), UnderWay { claimed, waiting: vec![] });
        }
        let content = Bytes::from([&salt[..], draft.data.as_bytes()].concat());
        let event = Event::Message(MessageEvent::Published(published.clone()));
        batch.events.push(execute::new_event(&event, now, Some(meta), Some(content), clock));
        batch.pending.push(Pending { published, at: now, claim, reply });
    }

    fn append_messages(&mut self, tenant: TenantId, batch: Batch) {
        if batch.events.is_empty() {
            return;
        }
        let Some(entry) = self.tenants.get_mut(&tenant) else {
            return self.settle(Outcome {
                tenant,
                replies: Replies::Messages(batch.pending),
                result: Err(AppendError::Unavailable("the tenant left memory".into())),
            });
        };
        let first_version = entry.messages_version + 1;
        entry.messages_version += batch.events.len() as u64;
        let write = StreamWrite { stream: execute::messages_stream(tenant), first_version, events: batch.events };
        let append = Append { writes: vec![write], claims: batch.claims, wakeups: vec![] };
        self.send(tenant, append, Replies::Messages(batch.pending));
    }

    fn change(
        &mut self,
        id: TenantId,
        command: tenant::Command,
        meta: &Meta,
        reply: oneshot::Sender<Result<Done, EngineError>>,
    ) {
        let Some(entry) = self.tenants.get_mut(&id) else { return };
        let claims = match &command {
            tenant::Command::Create(created) => {
                vec![Claim { key: format!("tenant-slug/{}", created.slug), value: id.to_string() }]
            }
            tenant::Command::RegisterEventType(_)
            | tenant::Command::IssueApiKey(_)
            | tenant::Command::RevokeApiKey(_) => {
                vec![]
            }
        };
        let events = match tenant::decide(&entry.tenant, command) {
            Ok(events) if events.is_empty() => {
                return answer(reply, Ok(Done { position: None, changed: false, settings: None }));
            }
            Ok(events) => events,
            Err(refusal) => return answer(reply, Err(refusal.into())),
        };
        let clock = &*self.context.clock;
        let now = clock.now();
        let first_version = entry.version + 1;
        entry.version += events.len() as u64;
        let new_events = events
            .into_iter()
            .map(|event| {
                entry.tenant.evolve(&event);
                execute::new_event(&Event::Tenant(event), now, Some(meta), None, clock)
            })
            .collect();
        let write = StreamWrite { stream: execute::tenant_stream(id), first_version, events: new_events };
        self.send(id, Append { writes: vec![write], claims, wakeups: vec![] }, Replies::Tenant(reply));
    }

    fn send(&mut self, tenant: TenantId, append: Append, replies: Replies) {
        self.unsettled += 1;
        let settled = self.settled.clone();
        let ack = Box::new(move |result| drop(settled.send(Outcome { tenant, replies, result })));
        // The log tells its refusal through the ack as well, and one telling is enough.
        drop(self.context.log.try_append(SHARD, append, ack));
    }

    fn settle(&mut self, outcome: Outcome) {
        self.unsettled = self.unsettled.saturating_sub(1);
        let Outcome { tenant, replies, result } = outcome;
        if result.is_err() {
            self.tenants.pop(&tenant);
        }
        match replies {
            Replies::Tenant(reply) => answer(
                reply,
                match result {
                    Ok(appended) => Ok(Done { position: Some(appended.last), changed: true, settings: None }),
                    Err(AppendError::ClaimTaken { key }) => {
                        Err(tenant::Refusal::SlugTaken(key.trim_start_matches("tenant-slug/").to_owned()).into())
                    }
                    Err(error) => Err(error.into()),
                },
            ),
            Replies::Messages(pending) => self.settle_messages(pending, result),
        }
    }

    fn settle_messages(&mut self, pending: Vec<Pending>, result: Result<Appended, AppendError>) {
        let count = pending.len() as u64;
        for (index, Pending { published, at, claim, reply }) in pending.into_iter().enumerate() {
            let outcome = match &result {
                Ok(appended) => Ok(Published {
                    message: published.message,
                    duplicate: false,
                    position: Some(Position { seq: appended.last.seq + 1 + index as u64 - count, ..appended.last }),
                    at: Some(at),
                    event: Some(Box::new(published)),
                }),
                Err(error) => Err(EngineError::from(error.clone())),
            };
            let again = claim.and_then(|claim| self.under_way.remove(&claim)).map(|under_way| under_way.waiting);
            for waiting in again.into_iter().flatten() {
                answer(waiting, outcome.clone().map(|published| Published { duplicate: true, ..published }));
            }
            answer(reply, outcome);
        }
    }
}

impl Request {
    fn claim(&self) -> Option<String> {
        match self {
            Self::Publish { tenant, draft, .. } => {
                draft.idempotency.as_ref().map(|idempotency| message::idempotency_claim(*tenant, &idempotency.key))
            }
            Self::Tenant { .. } => None,
        }
    }

    fn refuse(self, error: EngineError) {
        match self {
            Self::Publish { reply, .. } => answer(reply, Err(error)),
            Self::Tenant { reply, .. } => answer(reply, Err(error)),
        }
    }
}

/// A caller that has gone needs no answer.
fn answer<T>(reply: oneshot::Sender<T>, value: T) {
    drop(reply.send(value));
}
