//! The ledger beside the running system: checked all the time, and never far behind.
//!
//! - Begun anew with each start, from the first event that the log still has. Behind the head it takes a part of one
//!   core at most ([`REST`]), so a long log takes a while; how far it has come is always told.
//! - Memory grows with the subscriptions and what they have open, not with what waits nor with the log.
//! - An event that cannot be read stops it in that shard, visibly, and is tried again: what it would say without that
//!   event would be false.
//! - What happened since the start is tallied beside it, from the head on, without waiting for it.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::Semaphore;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep};

use super::{Books, describe};
use crate::clock::Clock;
use crate::codec::{self, DecodeError};
use crate::domain::event::{DeliveryEvent, Event, MessageEvent};
use crate::domain::id::{SubscriptionId, TenantId};
use crate::domain::ledger::Counts;
use crate::domain::outcome::FailureClass;
use crate::domain::time::Timestamp;
use crate::event_store::{Log, Position, ReadError};
use crate::execute::MATCHER;

/// Events entered at a time: few, since nothing else is done by the thread that enters them.
const PAGE: usize = 200;
/// Matches of one subscription that wait one by one; behind those they are counted.
const LISTED: usize = 256;
/// Behind the head it rests so many times as long as it worked.
const REST: u32 = 3;
/// At the head it lets events come together for so long.
const PACE: Duration = Duration::from_millis(100);
/// How often the matcher's checkpoint, which moves behind the events, is looked at without a new event.
const LOOK_AGAIN: Duration = Duration::from_secs(30);
/// After a failure.
const RETRY_AFTER: Duration = Duration::from_secs(10);

/// The ledger of all shards. A clone is another handle on the same one.
#[derive(Clone)]
pub struct Ledger {
    inner: Arc<Inner>,
}

struct Inner {
    log: Log,
    clock: Arc<dyn Clock>,
    shards: Vec<Mutex<Shard>>,
    tally: Mutex<Tally>,
    /// One shard reads at a time.
    turn: Semaphore,
}

/// One shard, as of the last event that was entered.
struct Shard {
    books: Books,
    through: u64,
    at: Option<Timestamp>,
    /// The matcher's checkpoint, read when everything in front of it had been written for sure.
    matcher: u64,
}

/// What was checked, and how far.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Checked {
    /// Where the matches stand.
    pub counts: Counts,
    /// Everything up to here is in them.
    pub through: Position,
    /// When that was entered; `None` before the first event was.
    pub at: Option<Timestamp>,
    /// How many events of the shard are not in them.
    pub lag_events: u64,
}

/// What happened since the start, by the words under which it is told.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Tally {
    /// Messages that were accepted.
    pub messages: u64,
    /// Deliveries that ended, by how.
    pub deliveries: BTreeMap<&'static str, u64>,
    /// Attempts, by what they say of the endpoint.
    pub attempts: BTreeMap<&'static str, u64>,
}

#[derive(Debug, thiserror::Error)]
enum FollowError {
    #[error(transparent)]
    Read(#[from] ReadError),
    #[error(transparent)]
    Decode(#[from] DecodeError),
}

impl Ledger {
    /// Begins to keep it; the tasks end when the second part of the answer is dropped.
    pub fn follow(log: Log, clock: Arc<dyn Clock>) -> (Self, JoinSet<()>) {
        let shard = |_| Mutex::new(Shard { books: Books::new(LISTED), through: 0, at: None, matcher: 0 });
        let shards = (0..log.shards()).map(shard).collect();
        let inner = Arc::new(Inner { log, clock, shards, tally: Mutex::new(Tally::new()), turn: Semaphore::new(1) });
        let mut tasks = JoinSet::new();
        for shard in 0..inner.log.shards() {
            tasks.spawn(keep(Arc::clone(&inner), shard));
            tasks.spawn(tally(Arc::clone(&inner), shard, inner.log.head(shard)));
        }
        (Self { inner }, tasks)
    }

    /// How all matches of a tenant stand, which are in one shard.
    pub fn of_tenant(&self, tenant: TenantId) -> Checked {
        let shard = crate::execute::shard_of(tenant, self.inner.log.shards());
        self.inner.checked(shard, |books, matcher| {
            let mut sum = Counts::default();
            for account in books.of_tenant(tenant) {
                sum.add(&account.assess(matcher, &mut Vec::new()));
            }
            sum
        })
    }

    /// How those of a tenant's subscription stand; `None` if it has and had none of that id, as far as was checked.
    pub fn of_subscription(&self, tenant: TenantId, id: SubscriptionId) -> Option<Checked> {
        let shard = crate::execute::shard_of(tenant, self.inner.log.shards());
        let mut known = false;
        let checked = self.inner.checked(shard, |books, matcher| {
            let account = books.account(id).filter(|account| account.tenant == tenant);
            known = account.is_some();
            account.map(|account| account.assess(matcher, &mut Vec::new())).unwrap_or_default()
        });
        known.then_some(checked)
    }

    /// How everything stands, shard by shard.
    pub fn all(&self) -> Vec<Checked> {
        let shards = 0..self.inner.log.shards();
        shards.map(|shard| self.inner.checked(shard, |books, matcher| books.assess(matcher).0)).collect()
    }

    /// How many circuits are open.
    pub fn circuits_open(&self) -> usize {
        (0..self.inner.log.shards()).map(|shard| self.inner.shard(shard).books.held()).sum()
    }

    /// What happened since the start.
    pub fn tally(&self) -> Tally {
        self.inner.tally.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

impl Inner {
    fn shard(&self, shard: u16) -> MutexGuard<'_, Shard> {
        self.shards[usize::from(shard)].lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn checked(&self, shard: u16, count: impl FnOnce(&Books, u64) -> Counts) -> Checked {
        let head = self.log.head(shard);
        let kept = self.shard(shard);
        Checked {
            counts: count(&kept.books, kept.matcher),
            through: Position { shard, seq: kept.through },
            at: kept.at,
            lag_events: head.saturating_sub(kept.through),
        }
    }

    /// Enters a page, and how far the matcher has come.
    async fn enter_some(&self, shard: u16) -> Result<(), FollowError> {
        // Before the head: what this promises is written in front of that.
        let matcher = self.log.checkpoint(MATCHER, shard).await?.unwrap_or(0);
        let head = self.log.head(shard);
        let after = Position { shard, seq: self.shard(shard).through };
        let page = if after.seq < head { self.log.read_log(after, PAGE).await? } else { Vec::new() };
        let floor = self.log.floor(shard);
        let mut decoded = Vec::with_capacity(page.len());
        for recorded in &page {
            decoded.push(codec::decode(recorded)?);
        }
        let now = self.clock.now();
        let mut kept = self.shard(shard);
        for (recorded, event) in page.iter().zip(&decoded) {
            for (id, finding) in kept.books.enter(recorded, event, floor) {
                let (what, expected, found) = describe(shard, id, finding);
                tracing::error!("the ledger does not balance: {what}: expected {expected}, found {found}");
            }
        }
        let last = page.last().map_or(head.min(floor), |last| last.position.seq);
        kept.through = kept.through.max(last);
        kept.at = Some(now);
        if kept.through >= head {
            kept.matcher = matcher.min(head);
        }
        Ok(())
    }
}

impl Tally {
    /// Every word is told from the beginning.
    fn new() -> Self {
        let zeros = |words: &[&'static str]| words.iter().map(|word| (*word, 0)).collect();
        Self {
            messages: 0,
            deliveries: zeros(&["succeeded", "failed", "expired", "cancelled"]),
            attempts: zeros(&["ok", "soft", "hard", "gone", "local"]),
        }
    }

    fn add(&mut self, event: &Event) {
        let (map, word) = match event {
            Event::Message(MessageEvent::Published(_)) => {
                self.messages += 1;
                return;
            }
            Event::Delivery(DeliveryEvent::AttemptFailed(failed)) => (&mut self.attempts, class(failed.class)),
            Event::Delivery(DeliveryEvent::Succeeded(_)) => {
                *self.attempts.entry("ok").or_default() += 1;
                (&mut self.deliveries, "succeeded")
            }
            Event::Delivery(DeliveryEvent::Exhausted(_)) => (&mut self.deliveries, "failed"),
            Event::Delivery(DeliveryEvent::Expired(_)) => (&mut self.deliveries, "expired"),
            Event::Delivery(DeliveryEvent::Cancelled(_)) => (&mut self.deliveries, "cancelled"),
            Event::Delivery(
                DeliveryEvent::Scheduled(_)
                | DeliveryEvent::Backfilled(_)
                | DeliveryEvent::JobAdvanced(_)
                | DeliveryEvent::Rescheduled(_)
                | DeliveryEvent::PeriodOpened(_)
                | DeliveryEvent::Carried(_),
            )
            | Event::Message(MessageEvent::PeriodOpened(_) | MessageEvent::PayloadErased(_))
            | Event::Subscription(_)
            | Event::Tenant(_) => return,
        };
        *map.entry(word).or_default() += 1;
    }
}

fn class(class: FailureClass) -> &'static str {
    match class {
        FailureClass::Soft => "soft",
        FailureClass::Hard => "hard",
        FailureClass::Gone => "gone",
        FailureClass::Local => "local",
    }
}

async fn keep(inner: Arc<Inner>, shard: u16) {
    let mut head = inner.log.watch(shard);
    let mut failed = false;
    loop {
        let began = Instant::now();
        let entered = {
            // Nobody closes it.
            let _turn = inner.turn.acquire().await;
            inner.enter_some(shard).await
        };
        match entered {
            Ok(()) if inner.shard(shard).through < inner.log.head(shard) => sleep(began.elapsed() * REST).await,
            Ok(()) => {
                failed = false;
                let moved = tokio::time::timeout(LOOK_AGAIN, head.changed()).await;
                if matches!(moved, Ok(Err(_))) {
                    return;
                }
                sleep(PACE).await;
            }
            Err(error) => {
                if !std::mem::replace(&mut failed, true) {
                    tracing::error!(shard, "the ledger goes no further: {error}");
                }
                sleep(RETRY_AFTER).await;
            }
        }
    }
}

async fn tally(inner: Arc<Inner>, shard: u16, from: u64) {
    let mut head = inner.log.watch(shard);
    let mut after = Position { shard, seq: from };
    loop {
        if *head.borrow_and_update() <= after.seq {
            if head.changed().await.is_err() {
                return;
            }
            sleep(PACE).await;
        }
        match inner.log.read_log(after, PAGE).await {
            Ok(page) => {
                after.seq = page.last().map_or(after.seq, |last| last.position.seq);
                let mut tally = inner.tally.lock().unwrap_or_else(PoisonError::into_inner);
                // What cannot be read is told of elsewhere, and counted nowhere.
                page.iter().filter_map(|recorded| codec::decode(recorded).ok()).for_each(|event| tally.add(&event));
            }
            Err(ReadError::Damaged { position, .. }) => after.seq = after.seq.max(position.seq),
            Err(ReadError::Unavailable(_)) => sleep(RETRY_AFTER).await,
        }
    }
}
