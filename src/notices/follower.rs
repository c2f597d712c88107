//! Follows one shard: reads what is new, and hands over one mail at a time.
//!
//! The checkpoint stands in front of the oldest notice that waits, so whatever waits is read again after a restart. It is
//! saved behind each mail, else from time to time.

use std::num::NonZeroUsize;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use lru::LruCache;
use tokio::time::{Instant, sleep, sleep_until};

use super::queue::{Hour, Line, Queue};
use super::server::Refused;
use super::{READER, Shared};
use crate::codec;
use crate::domain::id::SubscriptionId;
use crate::domain::mail::Notice;
use crate::domain::notice::Recipients;
use crate::domain::profile::Occurrence;
use crate::domain::subscription::Settings;
use crate::domain::time::Timestamp;
use crate::event_store::{AppendError, Position, ReadError, Recorded};
use crate::execute::vault::{Binding, VaultError};
use crate::execute::{LoadError, Unreadable, load_subscription, subscription_of};

/// Events read at a time.
const PAGE: usize = 500;
/// At the head it lets events come together for so long.
const PACE: Duration = Duration::from_millis(100);
/// A checkpoint that has moved without a mail is saved at most so often.
const SAVE_EVERY: Duration = Duration::from_secs(10);
/// After a failure of the log or the key store.
const RETRY_AFTER: Duration = Duration::from_secs(5);
/// How long after its event a notice is sent, in milliseconds: a day.
const WORTH_TELLING_MS: u64 = 24 * 3_600_000;
/// How far apart failed deliveries of one webhook are told, in milliseconds: an hour.
const FAILURES_APART_MS: u64 = 3_600_000;
/// Webhooks whose last told failure is remembered; of further ones it is told again.
const FAILURES_KNOWN: NonZeroUsize = NonZeroUsize::new(10_000).expect("not zero");
/// The only events that are looked at: the others are most of the log.
const KINDS: [&str; 5] = [
    "subscription.created",
    "subscription.circuit_tripped",
    "subscription.disabled",
    "subscription.egress_blocked",
    "delivery.exhausted",
];

/// Why a step was not done; it is tried again.
#[derive(Debug, thiserror::Error)]
enum Failure {
    #[error(transparent)]
    Load(#[from] LoadError),
    #[error(transparent)]
    Append(#[from] AppendError),
    #[error(transparent)]
    Vault(#[from] VaultError),
}

impl From<ReadError> for Failure {
    fn from(error: ReadError) -> Self {
        Self::Load(error.into())
    }
}

pub(super) struct Follower {
    shared: Arc<Shared>,
    shard: u16,
    queue: Queue,
    /// Everything up to here is in the queue or done with.
    read: u64,
    /// What the checkpoint says, and since when.
    saved: u64,
    saved_at: Instant,
    /// When failed deliveries were last told.
    failures: LruCache<SubscriptionId, Timestamp>,
    hour: Hour,
}

/// What a step led to.
enum Step {
    /// There may be more to do.
    Worked,
    /// Nothing before that moment, unless something is recorded.
    Idle(Instant),
}

impl Follower {
    pub(super) fn new(shared: Arc<Shared>, shard: u16, from: u64) -> Self {
        let failures = LruCache::new(FAILURES_KNOWN);
        Self {
            shared,
            shard,
            queue: Queue::default(),
            read: from,
            saved: from,
            saved_at: Instant::now(),
            failures,
            hour: Hour::default(),
        }
    }

    /// Follows the shard until the log is gone.
    pub(super) async fn run(mut self) {
        let mut head = self.shared.log.watch(self.shard);
        let mut failed = false;
        loop {
            match self.step().await {
                Ok(Step::Worked) => failed = false,
                Ok(Step::Idle(until)) => {
                    failed = false;
                    tokio::select! {
                        moved = head.changed() => match moved {
                            Ok(()) => sleep(PACE).await,
                            Err(_) => return,
                        },
                        () = sleep_until(until) => {}
                    }
                }
                Err(error) => {
                    if !std::mem::replace(&mut failed, true) {
                        tracing::error!(shard = self.shard, "owners are not told anything for now: {error}");
                    }
                    sleep(RETRY_AFTER).await;
                }
            }
        }
    }

    async fn step(&mut self) -> Result<Step, Failure> {
        let mut expired = self.queue.expire(self.worth_telling());
        let mut worked = false;
        if self.queue.has_room() && self.read < self.shared.log.head(self.shard) {
            expired += self.read_page().await?;
            worked = true;
        }
        self.tell_expired(expired);
        let now = Instant::now();
        let closed_until = self.shared.closed_until(now);
        let mut settled = false;
        if let (None, Some((line, notice))) = (closed_until, self.queue.next(now)) {
            settled = self.hand_over(&line, &notice).await?;
            worked = true;
        }
        self.shared.counters.waiting[usize::from(self.shard)].store(self.queue.len(), Ordering::Relaxed);
        let reached = self.queue.first().map_or(self.read, |first| first - 1);
        if reached > self.saved && (settled || self.saved_at.elapsed() >= SAVE_EVERY) {
            self.shared.log.save_checkpoint(READER, Position { shard: self.shard, seq: reached }).await?;
            (self.saved, self.saved_at) = (reached, Instant::now());
        }
        if worked {
            return Ok(Step::Worked);
        }
        // Whoever waits for the server waits for nothing else.
        let wakes_at = closed_until.or(self.queue.wakes_at());
        let look_at = now + SAVE_EVERY;
        Ok(Step::Idle(wakes_at.map_or(look_at, |wakes_at| wakes_at.min(look_at))))
    }

    /// What happened before that is not told any more.
    fn worth_telling(&self) -> Timestamp {
        self.shared.clock.now().minus_ms(WORTH_TELLING_MS)
    }

    fn tell_expired(&self, count: usize) {
        if count > 0 {
            self.shared.counters.expired.fetch_add(count as u64, Ordering::Relaxed);
            tracing::warn!(shard = self.shard, "{count} notices are older than a day and are not sent");
        }
    }

    /// Reads what is next, and says how much of it is too old to be told.
    async fn read_page(&mut self) -> Result<usize, Failure> {
        let after = Position { shard: self.shard, seq: self.read };
        let log = &self.shared.log;
        let page = match log.read_log(after, PAGE).await {
            // What cannot be read is told of elsewhere; what stands before it is told, one after the other.
            Err(ReadError::Damaged { .. }) => match log.read_log(after, 1).await {
                Err(ReadError::Damaged { position, .. }) => {
                    self.read = self.read.max(position.seq);
                    return Ok(0);
                }
                first => first?,
            },
            page => page?,
        };
        if page.is_empty() {
            // Whatever was up to the floor is gone.
            self.read = self.read.max(log.floor(self.shard).min(log.head(self.shard)));
        }
        let mut expired = 0;
        for recorded in &page {
            expired += self.enter(recorded).await?;
            self.read = recorded.position.seq;
        }
        Ok(expired)
    }

    /// Puts what is to be told into the queue, and says whether it is too old for that.
    async fn enter(&mut self, recorded: &Recorded) -> Result<usize, Failure> {
        if !KINDS.contains(&&*recorded.kind) {
            return Ok(0);
        }
        let notice = codec::decode(recorded).ok().and_then(|event| Notice::of(recorded.id, recorded.at, &event));
        let (Some(notice), Some(id)) = (notice, subscription_of(&recorded.stream)) else { return Ok(0) };
        let is_failure = notice.occurrence == Occurrence::DeliveryFailed;
        if is_failure && self.failures.get(&id).is_some_and(|last| notice.at.ms_since(*last) < FAILURES_APART_MS) {
            return Ok(0);
        }
        let told = self.told(id, &notice).await?;
        if is_failure && told.is_some() {
            self.failures.put(id, notice.at);
        }
        let Some((settings, recipients)) = told else { return Ok(0) };
        if notice.at < self.worth_telling() {
            return Ok(recipients.addresses().len());
        }
        let notice = Arc::new(notice);
        for to in recipients.addresses() {
            if !self.hour.may_have(settings.tenant, notice.at, self.shared.per_tenant_per_hour) {
                self.shared.counters.limited.fetch_add(1, Ordering::Relaxed);
                continue;
            }
            let line = Line { subscription: id, to: to.clone() };
            self.queue.push(line, recorded.position.seq, Arc::clone(&notice));
        }
        Ok(0)
    }

    /// How a webhook is set, and who is told of this; `None` if nobody is.
    async fn told(&self, id: SubscriptionId, notice: &Notice) -> Result<Option<(Settings, Recipients)>, Failure> {
        let loaded = match load_subscription(&self.shared.log, id).await {
            Ok(loaded) => loaded,
            // Told of elsewhere.
            Err(error) if Unreadable::of_load(&error).is_some() => return Ok(None),
            Err(error) => return Err(error.into()),
        };
        let Ok(settings) = loaded.state.settings() else { return Ok(None) };
        let is_told = settings.profile().is_ok_and(|profile| profile.notify.contains(&notice.occurrence));
        let Some(sealed) = settings.recipients.as_ref().filter(|_| is_told) else { return Ok(None) };
        match self.shared.vault.secret(&Binding::recipients(settings.tenant, id, sealed.secret)).await {
            Ok(text) => Ok(Recipients::of_secret(&text).map(|recipients| (settings.clone(), recipients))),
            // Replaced or destroyed just now.
            Err(VaultError::Missing(_)) => Ok(None),
            Err(error @ VaultError::Store(_)) => Err(error.into()),
            Err(error) => {
                tracing::error!(subscription.id = %id, "an owner cannot be told anything: {error}");
                Ok(None)
            }
        }
    }

    /// Hands the first mail of a line over, and says whether it is done with.
    async fn hand_over(&mut self, line: &Line, notice: &Notice) -> Result<bool, Failure> {
        // Since it was put there the webhook may have been deleted, and the address taken off.
        let told = self.told(line.subscription, notice).await?;
        let Some((settings, _)) = told.filter(|(_, recipients)| recipients.addresses().contains(&line.to)) else {
            self.queue.settle(line);
            return Ok(true);
        };
        let shared = Arc::clone(&self.shared);
        let mail = notice.mail(&settings, shared.server.from(), &line.to);
        let sent = {
            // Nobody closes it.
            let _turn = shared.turn.acquire().await;
            shared.server.send(&line.to, &mail).await
        };
        let now = Instant::now();
        match sent {
            Ok(()) => {
                shared.counters.sent.fetch_add(1, Ordering::Relaxed);
            }
            Err(Refused::Server(why)) => {
                shared.server_failed(&why, now);
                return Ok(false);
            }
            Err(Refused::ForNow(status)) => {
                shared.server_answered();
                tracing::info!(subscription.id = %line.subscription, status, "a notice was refused for now");
                self.queue.rest(line, now);
                return Ok(false);
            }
            Err(Refused::ForGood(status)) => {
                shared.counters.refused.fetch_add(1, Ordering::Relaxed);
                tracing::warn!(subscription.id = %line.subscription, status, "a notice was refused for good");
            }
        }
        shared.server_answered();
        self.queue.settle(line);
        Ok(true)
    }
}
