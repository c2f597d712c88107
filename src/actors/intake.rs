//! The one writer of tenants and messages.
//!
//! Takes what is queued, looks up all idempotency keys of the batch at once, decides, and sends one append for each
//! tenant to the tenant's shard, without waiting for the one before it. A caller is answered when its append is durable.
//!
//! If an append fails, the tenant is forgotten, and read from the log again once nothing of it is under way: appends
//! that were decided on top of the failed one fail with it, since they expect versions that never came to be.

use std::collections::hash_map::Entry;
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::num::NonZeroUsize;
use std::sync::Arc;
use std::time::Duration;

use futures_util::future::{join_all, try_join_all};
use lru::LruCache;
use serde::{Deserialize, Serialize};
use tokio::sync::{mpsc, oneshot};
use tokio::time::timeout;

use super::Context;
use super::engine::{Done, EngineError, Published};
use super::quarantine::Holder;
use crate::domain::erasure::Target;
use crate::domain::event::{Event, MessageEvent, MessagePublished, MessagesPeriodOpened, TenantEvent};
use crate::domain::id::{MessageId, TenantId};
use crate::domain::message::{self, Draft, SALT_BYTES};
use crate::domain::tenant::{self, Tenant};
use crate::domain::time::Timestamp;
use crate::event_store::{Append, AppendError, Appended, Bucket, Claim, Lifetime, NewEvent, Position, StreamWrite};
use crate::execute::vault::SealingKey;
use crate::execute::{self, Messages, Meta, Unreadable, contents};
use crate::key_store::KeyStoreError;

/// Requests taken at a time.
const BATCH: usize = 256;
/// Tenants kept in memory.
const CACHED_TENANTS: NonZeroUsize = NonZeroUsize::new(10_000).expect("not zero");

/// How long a batch waits for keys that are not in memory.
const SEALING_LIMIT: Duration = Duration::from_secs(5);

/// What the intake is asked.
pub(super) enum Request {
    /// Publish a message.
    Publish { tenant: TenantId, draft: Draft, meta: Meta, reply: oneshot::Sender<Result<Published, EngineError>> },
    /// Change a tenant. One that is to be created has its public id claimed already. With an erasure goes the data of
    /// these messages, which all stand in the log.
    Tenant {
        tenant: TenantId,
        command: tenant::Command,
        erased: Vec<Target>,
        meta: Meta,
        reply: oneshot::Sender<Result<Done, EngineError>>,
    },
    /// Begin a new period of the tenant's messages, if the open one begins in this bucket or an older one.
    OpenPeriod { tenant: TenantId, through: Bucket },
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
    let (settled_sender, settled) = mpsc::unbounded_channel();
    let mut intake = Intake {
        context,
        tenants: LruCache::new(CACHED_TENANTS),
        under_way: HashMap::new(),
        settled,
        settled_sender,
        unsettled: HashMap::new(),
    };
    let mut batch = Vec::with_capacity(BATCH);
    let mut open = true;
    while open || !intake.unsettled.is_empty() {
        tokio::select! {
            biased;
            Some(outcome) = intake.settled.recv() => intake.settle(outcome),
            count = requests.recv_many(&mut batch, BATCH), if open => {
                open = count > 0;
                // Failures that are known already must not be built upon.
                while let Ok(outcome) = intake.settled.try_recv() {
                    intake.settle(outcome);
                }
                intake.take(&mut batch).await;
            }
        }
    }
}

struct Intake {
    context: Arc<Context>,
    tenants: LruCache<TenantId, Known>,
    /// Idempotency keys whose first message is not durable yet, with those who sent it again meanwhile.
    under_way: HashMap<String, UnderWay>,
    settled: mpsc::UnboundedReceiver<Outcome>,
    settled_sender: mpsc::UnboundedSender<Outcome>,
    /// Appends that are under way, for each tenant that has any.
    unsettled: HashMap<TenantId, usize>,
}

struct Known {
    tenant: Tenant,
    version: u64,
    messages: Messages,
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
    /// What was decided on the tenant, and is to be told once all that it rests on is durable.
    Tenant { decided: Result<Changed, tenant::Refusal>, reply: oneshot::Sender<Result<Done, EngineError>> },
    /// Nobody waits.
    None,
}

/// Whether a change changed anything.
type Changed = bool;

struct Pending {
    published: MessagePublished,
    at: Timestamp,
    claim: Option<String>,
    reply: oneshot::Sender<Result<Published, EngineError>>,
}

/// By what a tenant's messages of that moment are sealed.
struct Sealing {
    key: Arc<SealingKey>,
    at: Timestamp,
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
        // Before the keys are looked up: what is settled here is in the log by then.
        let failed = self.load_all(requests).await;
        let known = match self.known_claims(requests).await {
            Ok(known) => known,
            Err(error) => {
                for request in requests.drain(..) {
                    request.refuse(error.clone());
                }
                return;
            }
        };
        let sealing = self.sealing(requests).await;
        let mut batches: BTreeMap<TenantId, Batch> = BTreeMap::new();
        for request in requests.drain(..) {
            match request {
                Request::Publish { tenant, draft, meta, reply } => {
                    if let Some(error) = failed.get(&tenant) {
                        answer(reply, Err(error.clone()));
                        continue;
                    }
                    let sealing = sealing.get(&tenant);
                    self.publish(tenant, draft, &meta, reply, (&known, sealing), batches.entry(tenant).or_default());
                }
                Request::Tenant { tenant, command, erased, meta, reply } => {
                    if let Some(error) = failed.get(&tenant) {
                        answer(reply, Err(error.clone()));
                        continue;
                    }
                    // What came before an erasure stands before it in the log.
                    if let Some(batch) = batches.remove(&tenant) {
                        self.append_messages(tenant, batch);
                    }
                    self.change(tenant, command, &erased, &meta, reply);
                }
                Request::OpenPeriod { tenant, through } => self.open_period(tenant, through),
            }
        }
        for (tenant, batch) in batches {
            self.append_messages(tenant, batch);
        }
    }

    async fn known_claims(&self, requests: &[Request]) -> Result<HashMap<String, String>, EngineError> {
        let mut keys: HashMap<u16, Vec<String>> = HashMap::new();
        for request in requests {
            if let Some(key) = request.claim() {
                keys.entry(self.context.shard_of(request.tenant())).or_default().push(key);
            }
        }
        let known = keys.iter().map(|(shard, keys)| self.context.log.claims(*shard, keys));
        // A key names its tenant, and so belongs to one shard alone.
        Ok(try_join_all(known).await?.into_iter().flatten().collect())
    }

    /// By what is sealed what these tenants publish; an erased one gets no key any more. From memory but for the first time
    /// in a month.
    async fn sealing(&self, requests: &[Request]) -> HashMap<TenantId, Result<Sealing, EngineError>> {
        let publish = |request: &Request| matches!(request, Request::Publish { .. });
        let tenants: BTreeSet<_> = requests.iter().filter(|request| publish(request)).map(Request::tenant).collect();
        let wanted = tenants.into_iter().filter_map(|tenant| {
            let known = self.tenants.peek(&tenant)?;
            let publishes = known.tenant.created.is_some() && !known.tenant.is_erased();
            publishes.then(|| self.sealing_of(tenant, known))
        });
        join_all(wanted).await.into_iter().collect()
    }

    /// The key is of the month of the message, or of its bucket where the clock is behind that: keys go with buckets.
    async fn sealing_of(&self, tenant: TenantId, known: &Known) -> (TenantId, Result<Sealing, EngineError>) {
        let Context { clock, vault, retention, .. } = &*self.context;
        let at = clock.now();
        let open = known.messages.period.map(|open| retention.config.begin_of(open.bucket));
        let key = vault.data_key(tenant, open.map_or(at, |open| at.max(open)), &**clock);
        let key = timeout(SEALING_LIMIT, key).await.unwrap_or_else(|_| {
            Err(KeyStoreError::Unavailable("a key for the data of messages was not there in time".into()).into())
        });
        (tenant, key.map(|key| Sealing { key, at }).map_err(EngineError::from))
    }

    /// Has all tenants of the requests in memory, but for those that it returns.
    async fn load_all(&mut self, requests: &[Request]) -> HashMap<TenantId, EngineError> {
        let wanted: BTreeSet<_> = requests.iter().map(Request::tenant).collect();
        // So that none of them makes room for another.
        for id in &wanted {
            self.tenants.promote(id);
        }
        let mut failed = HashMap::new();
        // Asked anew each time, since a failure that is learned of while one is loaded forgets another.
        let missing = |intake: &Self, failed: &HashMap<_, _>| {
            wanted.iter().copied().find(|id| !intake.tenants.contains(id) && !failed.contains_key(id))
        };
        while let Some(id) = missing(self, &failed) {
            if let Err(error) = self.load(id).await {
                failed.insert(id, error);
            }
        }
        failed
    }

    /// Waits first until nothing of the tenant is under way: the log does not have that yet, and a version read past it
    /// would be taken.
    async fn load(&mut self, id: TenantId) -> Result<(), EngineError> {
        while self.unsettled.contains_key(&id) {
            // Every append ends, and `self` holds a sender.
            let Some(outcome) = self.settled.recv().await else { break };
            self.settle(outcome);
        }
        let (tenant, version) = match execute::load_tenant(&self.context.log, id).await {
            Ok(loaded) => loaded,
            Err(error) => {
                if let Some(event) = Unreadable::of_load(&error) {
                    let now = self.context.clock.now();
                    self.context.quarantine.hold(Holder::Tenant(id), &event, now, None);
                }
                return Err(error.into());
            }
        };
        self.context.quarantine.release(Holder::Tenant(id));
        let messages = execute::load_messages(&self.context.log, id).await?;
        self.tenants.put(id, Known { tenant, version, messages });
        Ok(())
    }

    fn publish(
        &mut self,
        id: TenantId,
        mut draft: Draft,
        meta: &Meta,
        reply: oneshot::Sender<Result<Published, EngineError>>,
        (known, sealing): (&HashMap<String, String>, Option<&Result<Sealing, EngineError>>),
        batch: &mut Batch,
    ) {
        let Some(created) = self.tenants.get(&id).and_then(|entry| entry.tenant.created.clone()) else {
            return answer(reply, Err(message::Refusal::NoTenant.into()));
        };
        if self.tenants.get(&id).is_some_and(|entry| entry.tenant.is_erased()) {
            return answer(reply, Err(message::Refusal::TenantErased.into()));
        }
        if !self.tenants.get(&id).is_some_and(|entry| entry.tenant.knows(&draft.event_type)) {
            return answer(reply, Err(message::Refusal::UnknownType(draft.event_type).into()));
        }
        let claim = draft.idempotency.as_ref().map(|idempotency| message::idempotency_claim(id, &idempotency.key));
        if let (Some(claim), Some(idempotency)) = (&claim, &mut draft.idempotency) {
            idempotency.digest = message::keyed_digest(&self.context.idempotency_key, claim, &idempotency.digest);
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
        match sealing {
            Some(Ok(sealing)) => self.accept(created, draft, meta, reply, (claim, sealing), batch),
            Some(Err(error)) => answer(reply, Err(error.clone())),
            None => answer(reply, Err(message::Refusal::NoTenant.into())),
        }
    }

    fn accept(
        &mut self,
        created: crate::domain::event::TenantCreated,
        draft: Draft,
        meta: &Meta,
        reply: oneshot::Sender<Result<Published, EngineError>>,
        (claim, sealing): (Option<String>, &Sealing),
        batch: &mut Batch,
    ) {
        let clock = &*self.context.clock;
        let now = sealing.at;
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
            batch.claims.push(Claim { key: claim.clone(), value, bucket: None });
            self.under_way.insert(claim.clone(), UnderWay { claimed, waiting: vec![] });
        }
        let content = contents::seal(&sealing.key, (created.tenant, published.message), &salt, &draft.data, clock);
        let event = Event::Message(MessageEvent::Published(published.clone()));
        batch.events.push(execute::new_event(&event, now, Some(meta), Some(content), clock));
        batch.pending.push(Pending { published, at: now, claim, reply });
    }

    fn append_messages(&mut self, tenant: TenantId, batch: Batch) {
        if batch.events.is_empty() {
            return;
        }
        let context = Arc::clone(&self.context);
        let Some(entry) = self.tenants.get_mut(&tenant) else {
            let error = AppendError::Unavailable("the tenant left memory".into());
            return self.settle_messages(batch.pending, Err(error));
        };
        let Batch { events, mut claims, pending } = batch;
        let write = next_messages(&context, tenant, &mut entry.messages, events);
        // A key is remembered as long as its message.
        claims.iter_mut().for_each(|claim| claim.bucket = write.lifetime.bucket());
        self.send(tenant, Append { writes: vec![write], claims, ..Append::default() }, Replies::Messages(pending));
    }

    fn open_period(&mut self, tenant: TenantId, through: Bucket) {
        let Some(entry) = self.tenants.get_mut(&tenant) else { return };
        let Some(open) = entry.messages.period.filter(|open| open.bucket <= through) else { return };
        let clock = &*self.context.clock;
        let now = clock.now();
        let lifetime = Lifetime::Period(self.context.retention.config.bucket_of(now).max(open.bucket));
        let event = execute::new_event(&period_opened(), now, None, None, clock);
        let write = entry.messages.write(tenant, lifetime, vec![event]);
        self.send(tenant, Append { writes: vec![write], ..Append::default() }, Replies::None);
    }

    fn change(
        &mut self,
        id: TenantId,
        command: tenant::Command,
        erased: &[Target],
        meta: &Meta,
        reply: oneshot::Sender<Result<Done, EngineError>>,
    ) {
        let Some(entry) = self.tenants.get_mut(&id) else { return };
        let (events, decided) = match tenant::decide(&entry.tenant, command) {
            Ok(events) if !events.is_empty() => (events, Ok(true)),
            unchanged => {
                let decided = unchanged.map(|_| false);
                // An empty append is acknowledged behind those that the decision rests on.
                return match self.unsettled.contains_key(&id) {
                    true => self.send(id, Append::default(), Replies::Tenant { decided, reply }),
                    false => answer(reply, told(decided, None)),
                };
            }
        };
        let context = Arc::clone(&self.context);
        let now = context.clock.now();
        let first_version = entry.version + 1;
        entry.version += events.len() as u64;
        let mut append = Append { erased: erased.iter().map(|target| target.seq).collect(), ..Append::default() };
        for payload_erased in events.iter().flat_map(|event| entry.tenant.erasures.payload_erased(event, erased)) {
            let event = Event::Message(MessageEvent::PayloadErased(payload_erased));
            let event = execute::new_event(&event, now, Some(meta), None, &*context.clock);
            append.writes.push(next_messages(&context, id, &mut entry.messages, vec![event]));
        }
        let mut new_events = Vec::with_capacity(events.len());
        for event in events {
            entry.tenant.evolve(&event);
            append.wakeups.extend(erasure_wakeup(id, &entry.tenant, &event));
            new_events.push(execute::new_event(&Event::Tenant(event), now, Some(meta), None, &*context.clock));
        }
        let stream = execute::tenant_stream(id);
        append.writes.push(StreamWrite { stream, first_version, lifetime: Lifetime::Kept, events: new_events });
        self.send(id, append, Replies::Tenant { decided, reply });
    }

    fn send(&mut self, tenant: TenantId, append: Append, replies: Replies) {
        *self.unsettled.entry(tenant).or_default() += 1;
        let settled = self.settled_sender.clone();
        let ack = Box::new(move |result| drop(settled.send(Outcome { tenant, replies, result })));
        // The log tells its refusal through the ack as well, and one telling is enough.
        drop(self.context.log.try_append(self.context.shard_of(tenant), append, ack));
    }

    fn settle(&mut self, outcome: Outcome) {
        let Outcome { tenant, replies, result } = outcome;
        if let Entry::Occupied(mut unsettled) = self.unsettled.entry(tenant) {
            *unsettled.get_mut() -= 1;
            if *unsettled.get() == 0 {
                unsettled.remove();
            }
        }
        if result.is_err() {
            self.tenants.pop(&tenant);
        }
        match replies {
            Replies::Tenant { decided, reply } => answer(
                reply,
                match result {
                    Ok(appended) => told(decided, Some(appended.last)),
                    Err(error) => Err(error.into()),
                },
            ),
            Replies::Messages(pending) => self.settle_messages(pending, result),
            // Whoever wanted it asks again.
            Replies::None => {}
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
    fn tenant(&self) -> TenantId {
        match self {
            Self::Publish { tenant, .. } | Self::Tenant { tenant, .. } | Self::OpenPeriod { tenant, .. } => *tenant,
        }
    }

    fn claim(&self) -> Option<String> {
        match self {
            Self::Publish { tenant, draft, .. } => {
                draft.idempotency.as_ref().map(|idempotency| message::idempotency_claim(*tenant, &idempotency.key))
            }
            Self::Tenant { .. } | Self::OpenPeriod { .. } => None,
        }
    }

    fn refuse(self, error: EngineError) {
        match self {
            Self::Publish { reply, .. } => answer(reply, Err(error)),
            Self::Tenant { reply, .. } => answer(reply, Err(error)),
            Self::OpenPeriod { .. } => {}
        }
    }
}

/// The next write to a tenant's stream of messages; it opens a period if it is time for one.
fn next_messages(
    context: &Context,
    tenant: TenantId,
    messages: &mut Messages,
    mut events: Vec<NewEvent>,
) -> StreamWrite {
    let now = context.clock.now();
    let lifetime = context.retention.config.next_lifetime(messages.version, messages.period, now);
    if let Lifetime::Period(_) = lifetime {
        events.insert(0, execute::new_event(&period_opened(), now, None, None, &*context.clock));
    }
    messages.write(tenant, lifetime, events)
}

/// The wake-up that goes with an event of an erasure: it is there as long as any is under way.
fn erasure_wakeup(id: TenantId, tenant: &Tenant, event: &TenantEvent) -> Option<(String, Option<Timestamp>)> {
    let due_at = match event {
        TenantEvent::ErasureStarted(_) => Some(Timestamp::from_ms(0)),
        TenantEvent::ErasureCompleted(_) => (!tenant.erasures.under_way.is_empty()).then_some(Timestamp::from_ms(0)),
        TenantEvent::Created(_)
        | TenantEvent::EventTypeRegistered(_)
        | TenantEvent::EventTypeUpdated(_)
        | TenantEvent::ApiKeyIssued(_)
        | TenantEvent::ApiKeyRevoked(_)
        | TenantEvent::SettingsChanged(_)
        | TenantEvent::UserAdded(_)
        | TenantEvent::UserCredentialsReset(_)
        | TenantEvent::UserDisabled(_)
        | TenantEvent::UserAuthenticationFailed(_)
        | TenantEvent::ConfigChanged(_)
        | TenantEvent::KekRotated(_)
        | TenantEvent::ErasureAdvanced(_) => return None,
    };
    Some((execute::erasure_wakeup(id), due_at))
}

fn period_opened() -> Event {
    Event::Message(MessageEvent::PeriodOpened(MessagesPeriodOpened {}))
}

/// A decision on a tenant, as its caller hears it.
fn told(decided: Result<Changed, tenant::Refusal>, position: Option<Position>) -> Result<Done, EngineError> {
    let changed = decided?;
    Ok(Done { position: position.filter(|_| changed), changed, settings: None, job: None })
}

/// A caller that has gone needs no answer.
fn answer<T>(reply: oneshot::Sender<T>, value: T) {
    drop(reply.send(value));
}
