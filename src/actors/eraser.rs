//! Carries out erasures: looks for what is to be erased, has it erased, and sees it out of the database's files.
//!
//! What is under way says the log: a wake-up for each tenant that has an erasure under way, set and removed in the appends
//! that begin and complete it. So a restart goes on where the last recorded step ended; what a step found and did not
//! record it finds again, as its data is still there. All take their steps in turn, and one that cannot be carried out holds up no
//! other.
//!
//! An erasure that meets an event that cannot be read waits, and says so: it never calls something complete that it could
//! not look through.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::Instant;

use super::Context;
use super::engine::{Engine, EngineError};
use crate::codec;
use crate::domain::erasure::{MAX_MESSAGES_PER_EVENT, Selector, Target, UnderWay};
use crate::domain::event::{
    ErasureAdvanced, ErasureScope, Event, MessageEvent, MessagePublished, SubscriptionEvent, TenantEvent,
};
use crate::domain::id::{ErasureId, SecretId, SubscriptionId, TenantId};
use crate::domain::subscription;
use crate::domain::tenant::{Command, Tenant};
use crate::domain::time::Timestamp;
use crate::event_store::{Position, Purged, Recorded};
use crate::execute::vault::{Binding, VaultError};
use crate::execute::{self, Meta, contents};

/// Events read at a time.
const PAGE: usize = 500;
/// Events whose contents are read at a time: of everybody in the shard, and each as large as a message may be.
const CONTENTS_PAGE: usize = 50;
/// Events that one step looks through at most, so that others have their turn.
const STEP_EVENTS: u64 = 5_000;
/// After so many events without a match it is recorded how far an erasure has come.
const RECORDED_EVERY: u64 = 100_000;
/// How long lies between two tries of what could not be done, in milliseconds.
const RETRY_MS: u64 = 1_000;

/// Why a step was not done; it is tried again.
#[derive(Debug, thiserror::Error)]
enum Failure {
    #[error(transparent)]
    Engine(#[from] EngineError),
    #[error("the event at {0} cannot be read: {1}")]
    Unreadable(Position, codec::DecodeError),
}

impl From<crate::event_store::ReadError> for Failure {
    fn from(error: crate::event_store::ReadError) -> Self {
        Self::Engine(error.into())
    }
}

impl From<execute::LoadError> for Failure {
    fn from(error: execute::LoadError) -> Self {
        Self::Engine(error.into())
    }
}

impl From<contents::OpenError> for Failure {
    fn from(error: contents::OpenError) -> Self {
        Self::Engine(error.into())
    }
}

impl From<VaultError> for Failure {
    fn from(error: VaultError) -> Self {
        Self::Engine(error.into())
    }
}

/// How a round of steps ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Round {
    /// Nothing is under way.
    Idle,
    /// Whatever is under way has to wait.
    Waits,
    /// Something was done, and there may be more.
    Worked,
}

/// Works until it is stopped.
pub(super) async fn run(context: &Arc<Context>, engine: &Engine, stop: &mut watch::Receiver<bool>) {
    let mut eraser = Eraser { context, engine, scans: HashMap::new(), told: None, purged: None };
    loop {
        let woken = context.erasures.notified();
        let pause = async {
            match eraser.round().await {
                Round::Worked => {}
                Round::Waits => tokio::time::sleep(Duration::from_millis(RETRY_MS)).await,
                Round::Idle => woken.await,
            }
        };
        tokio::select! {
            biased;
            // A sender that is gone means the same.
            _ = stop.wait_for(|stop| *stop) => return,
            () = pause => {}
        }
    }
}

struct Eraser<'a> {
    context: &'a Arc<Context>,
    engine: &'a Engine,
    /// How far erasures have come in this process.
    scans: HashMap<ErasureId, Scan>,
    /// What was told last, so that it is not told again.
    told: Option<String>,
    /// When the last purge began.
    purged: Option<Instant>,
}

/// Where an erasure looks.
struct Scan {
    /// Whose messages are meant; `None`: all.
    selector: Option<Selector>,
    /// Up to which number it has looked.
    cursor: u64,
    /// Where it ends: what was recorded later is not meant.
    end: u64,
    webhooks: u64,
    secrets: u64,
}

/// What an erasure's step was.
enum Step {
    /// It looked through some events.
    Looked,
    /// There is nothing left to look through.
    Ready,
}

/// An erasure whose data has only to leave the database's files.
struct Ready {
    tenant: TenantId,
    under_way: UnderWay,
}

/// What one look has found.
struct Found {
    targets: Vec<Target>,
    through: u64,
}

impl Eraser<'_> {
    /// One step of each erasure that is under way, and a purge for all that wait for nothing else.
    async fn round(&mut self) -> Round {
        let tenants = match self.tenants().await {
            Ok(tenants) => tenants,
            Err(error) => {
                self.tell(&error);
                return Round::Waits;
            }
        };
        let (mut round, mut ready) = (Round::Idle, vec![]);
        for id in tenants {
            let tenant = match execute::load_tenant(&self.context.log, id).await {
                Ok((tenant, _)) => tenant,
                Err(error) => {
                    self.tell(&error.into());
                    round = round.max(Round::Waits);
                    continue;
                }
            };
            for under_way in in_turn(&tenant) {
                let step = match self.step(id, &tenant, under_way).await {
                    Ok(Step::Looked) => Round::Worked,
                    Ok(Step::Ready) => {
                        ready.push(Ready { tenant: id, under_way: under_way.clone() });
                        Round::Waits
                    }
                    // The others go on.
                    Err(error) => {
                        self.tell(&error);
                        Round::Waits
                    }
                };
                round = round.max(step);
            }
        }
        if round == Round::Idle {
            self.scans.clear();
        }
        if ready.is_empty() { round } else { round.max(self.complete(ready).await) }
    }

    fn tell(&mut self, error: &Failure) {
        let reason = error.to_string();
        if self.told.as_ref() != Some(&reason) {
            tracing::warn!("an erasure waits and is tried again: {reason}");
            self.told = Some(reason);
        }
    }

    /// Their wake-ups are due at the beginning of time, and stand before all others of that time.
    async fn tenants(&self) -> Result<Vec<TenantId>, Failure> {
        let mut tenants = Vec::new();
        for shard in 0..self.context.log.shards() {
            let mut after = None;
            loop {
                let page = self.context.log.wakeups(shard, after.as_ref(), PAGE).await?;
                let found = page.iter().map_while(|wakeup| execute::erasing_tenant(&wakeup.key)).collect::<Vec<_>>();
                let all = found.len() == PAGE;
                tenants.extend(found);
                if !all {
                    break;
                }
                after = page.into_iter().last();
            }
        }
        Ok(tenants)
    }

    /// Takes an erasure a step further.
    async fn step(&mut self, id: TenantId, tenant: &Tenant, under_way: &UnderWay) -> Result<Step, Failure> {
        let erasure = under_way.started.erasure;
        let mut scan = match self.scans.remove(&erasure) {
            Some(scan) => scan,
            None => self.begin(id, tenant, under_way).await?,
        };
        let looks = scan.cursor < scan.end;
        let looked = if looks { self.look(id, under_way, &mut scan).await } else { Ok(()) };
        self.scans.insert(erasure, scan);
        looked.map(|()| if looks { Step::Looked } else { Step::Ready })
    }

    async fn look(&self, id: TenantId, under_way: &UnderWay, scan: &mut Scan) -> Result<(), Failure> {
        let found = find(self.context, id, &under_way.started.scope, scan).await?;
        let ends = found.through >= scan.end;
        if !found.targets.is_empty() || ends || found.through - under_way.through >= RECORDED_EVERY {
            advance(self.engine, id, under_way.started.erasure, &found).await?;
        }
        scan.cursor = found.through;
        Ok(())
    }

    async fn begin(&self, id: TenantId, tenant: &Tenant, under_way: &UnderWay) -> Result<Scan, Failure> {
        let started = &under_way.started;
        let mut scan = Scan { selector: None, cursor: under_way.through, end: 0, webhooks: 0, secrets: 0 };
        match &started.scope {
            ErasureScope::Messages { .. } => return Ok(scan),
            // Whatever it had to look for went with the tenant, and so did the words to look by.
            ErasureScope::Subject { .. } if tenant.is_erased() => return Ok(scan),
            ErasureScope::Subject { selector, .. } => {
                scan.end = begun_at(self.context, id, started.erasure).await?;
                if scan.cursor < scan.end {
                    let binding = Binding::erasure_selector(id, started.erasure, *selector);
                    let sealed = self.context.vault.secret(&binding).await?;
                    let selector = serde_json::from_str(sealed.expose());
                    scan.selector = Some(selector.map_err(|_| VaultError::Damaged(binding.to_string()))?);
                }
            }
            ErasureScope::Tenant {} => {
                // First of all, and whatever else can be read: with the keys goes every copy of the data.
                self.context.vault.destroy_tenant(id).await?;
                scan.end = begun_at(self.context, id, started.erasure).await?;
                (scan.webhooks, scan.secrets) = self.destroy_secrets(id, tenant).await?;
            }
        }
        Ok(scan)
    }

    /// Destroys what seals and signs for the tenant, and ends its webhooks and users. Answers with how many webhooks there
    /// were, and how many secrets: the same each time.
    async fn destroy_secrets(&self, id: TenantId, tenant: &Tenant) -> Result<(u64, u64), Failure> {
        let mut secrets: Vec<SecretId> = Vec::new();
        for (user, known) in &tenant.users {
            secrets.extend([known.password, known.totp]);
            self.engine.tenant(id, Command::DisableUser(*user), Meta::system()).await?;
        }
        let webhooks = self.webhooks(id, &mut secrets).await?;
        let mut failed = None;
        for webhook in &webhooks {
            match self.engine.delete_for_good(id, *webhook).await {
                Ok(_) | Err(EngineError::Subscription(subscription::Refusal::NotFound)) => {}
                // The others go all the same.
                Err(error) => failed = Some(error),
            }
        }
        // Once more: of what was begun before, something may have been sealed meanwhile.
        self.context.vault.destroy_tenant(id).await?;
        failed.map_or(Ok((webhooks.len() as u64, secrets.len() as u64)), |error| Err(error.into()))
    }

    /// All webhooks that the tenant ever had, adding all secrets that they signed with. Others' events that cannot be read
    /// do not hinder; of an unreadable one that names no tenant nobody knows whose it is, and its stream is passed over.
    async fn webhooks(&self, id: TenantId, secrets: &mut Vec<SecretId>) -> Result<Vec<SubscriptionId>, Failure> {
        let mut webhooks: Vec<SubscriptionId> = Vec::new();
        let shard = self.context.shard_of(id);
        let up_to = Position { shard, seq: self.context.log.head(shard) };
        let named = id.to_string();
        let mut after: Option<(String, u64)> = None;
        loop {
            let behind = after.as_ref().map(|(stream, version)| (stream.as_str(), *version));
            let page = self.context.log.read_category(execute::SUBSCRIPTION_CATEGORY, up_to, behind, PAGE).await?;
            let Some(last) = page.last() else { return Ok(webhooks) };
            after = Some((last.stream.clone(), last.version));
            for recorded in &page {
                let of_known = webhooks.last().copied() == execute::subscription_of(&recorded.stream);
                if !of_known && !recorded.data.contains(&named) {
                    continue;
                }
                match decoded(recorded)? {
                    Event::Subscription(SubscriptionEvent::Created(created)) if created.tenant == id => {
                        webhooks.push(created.subscription);
                        secrets.push(created.secret);
                    }
                    Event::Subscription(SubscriptionEvent::SecretRotated(rotated)) if of_known => {
                        secrets.push(rotated.secret);
                    }
                    Event::Subscription(_) | Event::Tenant(_) | Event::Message(_) | Event::Delivery(_) => {}
                }
            }
            tokio::task::yield_now().await;
        }
    }

    /// Everything of these is erased: it leaves the database's files by one purge, and then that is recorded. A purge is
    /// dear to those who publish, so there is one in a while at most, whatever is asked for.
    async fn complete(&mut self, ready: Vec<Ready>) -> Round {
        let every = Duration::from_millis(self.context.config.purge_every_ms);
        if self.purged.is_some_and(|at| at.elapsed() < every) {
            return Round::Waits;
        }
        self.purged = Some(Instant::now());
        match self.purge(ready).await {
            Ok(round) => round,
            Err(error) => {
                self.tell(&error);
                Round::Waits
            }
        }
    }

    async fn purge(&mut self, ready: Vec<Ready>) -> Result<Round, Failure> {
        let mut emptied = Vec::new();
        for one in ready {
            match self.destroy_rest(&one).await {
                Ok(()) => emptied.push(one),
                Err(error) => self.tell(&error),
            }
        }
        let sealed = |one: &Ready| !matches!(one.under_way.started.scope, ErasureScope::Messages { .. });
        if emptied.iter().any(sealed) && !self.context.vault.scrub().await? {
            emptied.retain(|one| !sealed(one));
        }
        if emptied.is_empty() {
            return Ok(Round::Waits);
        }
        let freed = match self.context.log.purge().await.map_err(EngineError::from)? {
            Purged::Kept => return Ok(Round::Waits),
            Purged::Freed => true,
            Purged::Gone => false,
        };
        for Ready { tenant, under_way } in emptied {
            let erasure = under_way.started.erasure;
            let (webhooks, secrets) = self.scans.get(&erasure).map_or((0, 0), |scan| (scan.webhooks, scan.secrets));
            let command = Command::CompleteErasure { erasure, webhooks, secrets, freed };
            self.engine.tenant(tenant, command, Meta::system()).await?;
            self.scans.remove(&erasure);
            self.told = None;
            let messages = under_way.messages;
            tracing::info!(tenant.id = %tenant, erasure.id = %erasure, messages, "an erasure is complete");
        }
        Ok(Round::Worked)
    }

    /// Destroys what an erasure was looking by, and what a tenant's requests sealed while its erasure began.
    async fn destroy_rest(&mut self, Ready { tenant: id, under_way }: &Ready) -> Result<(), Failure> {
        let erasure = under_way.started.erasure;
        match &under_way.started.scope {
            ErasureScope::Messages { .. } => {}
            ErasureScope::Subject { selector, .. } => {
                self.context.vault.destroy(&Binding::erasure_selector(*id, erasure, *selector)).await?;
            }
            ErasureScope::Tenant {} => {
                let (tenant, _) = execute::load_tenant(&self.context.log, *id).await?;
                let (webhooks, secrets) = self.destroy_secrets(*id, &tenant).await?;
                if let Some(scan) = self.scans.get_mut(&erasure) {
                    (scan.webhooks, scan.secrets) = (webhooks, secrets);
                }
            }
        }
        Ok(())
    }
}

/// The tenant's own before all others, then the oldest.
fn in_turn(tenant: &Tenant) -> Vec<&UnderWay> {
    let mut under_way: Vec<_> = tenant.erasures.under_way.values().collect();
    under_way.sort_by_key(|one| !matches!(one.started.scope, ErasureScope::Tenant {}));
    under_way
}

fn decoded(recorded: &Recorded) -> Result<Event, Failure> {
    codec::decode(recorded).map_err(|error| Failure::Unreadable(recorded.position, error))
}

/// The number of the event that began an erasure.
async fn begun_at(context: &Context, tenant: TenantId, erasure: ErasureId) -> Result<u64, Failure> {
    let stream = execute::tenant_stream(tenant);
    let mut next = 1;
    loop {
        let page = context.log.read_stream(&stream, next, PAGE).await?;
        let Some(last) = page.last() else { return Ok(0) };
        next = last.version + 1;
        for recorded in &page {
            if let Event::Tenant(TenantEvent::ErasureStarted(started)) = decoded(recorded)?
                && started.erasure == erasure
            {
                return Ok(recorded.position.seq);
            }
        }
    }
}

/// Looks through the next events for messages that are meant and whose data is there.
async fn find(context: &Context, tenant: TenantId, scope: &ErasureScope, scan: &Scan) -> Result<Found, Failure> {
    let (shard, stream) = (context.shard_of(tenant), execute::messages_stream(tenant));
    let reader = context.log.reader();
    let mut step = Found { targets: vec![], through: scan.cursor };
    while step.through < scan.end && step.through - scan.cursor < STEP_EVENTS {
        let after = Position { shard, seq: step.through };
        let page = reader.read_log(after, CONTENTS_PAGE).await?;
        let Some(last) = page.last().map(|last| last.position.seq.min(scan.end)) else {
            step.through = scan.end;
            break;
        };
        let contents: HashMap<u64, _> = match page.iter().any(|recorded| recorded.stream == stream) {
            true => reader.contents(after, last).await?.into_iter().collect(),
            false => HashMap::new(),
        };
        for recorded in page.iter().filter(|recorded| recorded.position.seq <= last && recorded.stream == stream) {
            let Some(content) = contents.get(&recorded.position.seq) else { continue };
            let Event::Message(MessageEvent::Published(published)) = decoded(recorded)? else { continue };
            let meant = is_meant(scope, &published, recorded.at)
                && match &scan.selector {
                    Some(selector) => contents::open(reader, &context.vault, &published, content)
                        .await?
                        .is_some_and(|data| selector.picks(&data)),
                    None => true,
                };
            if meant {
                let Position { seq, .. } = recorded.position;
                step.targets.push(Target { message: published.message, seq, size_bytes: published.size_bytes.into() });
                if step.targets.len() == MAX_MESSAGES_PER_EVENT {
                    step.through = seq;
                    return Ok(step);
                }
            }
        }
        step.through = last;
        tokio::task::yield_now().await;
    }
    Ok(step)
}

/// Whether the erasure is about a message published then, whatever its data says.
fn is_meant(scope: &ErasureScope, published: &MessagePublished, at: Timestamp) -> bool {
    match scope {
        ErasureScope::Messages { .. } => false,
        ErasureScope::Subject { event_types, from, to, .. } => {
            (event_types.is_empty() || event_types.contains(&published.event_type))
                && from.is_none_or(|from| from <= at)
                && to.is_none_or(|to| at < to)
        }
        ErasureScope::Tenant {} => true,
    }
}

async fn advance(engine: &Engine, tenant: TenantId, erasure: ErasureId, step: &Found) -> Result<(), Failure> {
    let advanced = ErasureAdvanced {
        erasure,
        through: step.through,
        messages: step.targets.len() as u64,
        size_bytes: step.targets.iter().map(|target| target.size_bytes).sum(),
    };
    let command = Command::AdvanceErasure(advanced);
    engine.change_and_erase(tenant, command, step.targets.clone(), Meta::system()).await?;
    Ok(())
}
