//! Reads the log and tells each subscription which messages it matched.
//!
//! - Filters count as of the message's position: the matcher folds the subscriptions' events in log order, so the log
//!   decides who gets a message, not the moment at which it is read.
//! - Every match holds a credit until it is durable in the subscription's stream. The checkpoint is the position before
//!   the earliest match that is not; after a restart everything behind it is cast again, and subscriptions ignore what
//!   they have seen.
//! - Every cast names the match before it, so that a subscription that lost one refuses what comes after it.
//! - A subscription that cannot take its matches (it failed and rests) holds up nobody: it is remembered as behind and
//!   read to again, alone, from its first lost match. The checkpoint waits for it.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};
use tokio::time::Instant;

use super::region::Regions;
use super::subscription::SubscriptionMessage;
use super::{Context, SHARD};
use crate::codec;
use crate::domain::event::{Event, MessageEvent, SubscriptionEvent};
use crate::domain::filter::{self, EventType, Filter};
use crate::domain::id::{MessageId, SubscriptionId, TenantId};
use crate::domain::subscription::{Match, Matches, Settings};
use crate::event_store::{AppendError, Position, ReadError, Recorded};
use crate::execute::{SUBSCRIPTION_CATEGORY, subscription_of, subscription_stream};

/// Name of the checkpoint.
const READER: &str = "matcher";
/// Events read at a time.
const PAGE: usize = 500;
/// The checkpoint is saved at most this often: it costs a commit, and being behind costs only repeated casts.
const SAVE_EVERY: Duration = Duration::from_millis(500);
/// How long a subscription that lost matches is left alone.
const RETRY_BEHIND_AFTER: Duration = Duration::from_secs(2);
/// After a failed read or write.
const RETRY_AFTER: Duration = Duration::from_secs(1);

/// Why the matcher had to stop; it begins again from its checkpoint.
#[derive(Debug, thiserror::Error)]
pub(super) enum MatcherError {
    #[error(transparent)]
    Read(#[from] ReadError),
    #[error(transparent)]
    Decode(#[from] codec::DecodeError),
    #[error(transparent)]
    Save(#[from] AppendError),
}

/// Proof that matches became durable. Dropped without that, it says that they were lost.
pub(super) struct MatchAck {
    batch: Batch,
    durable: bool,
    verdicts: mpsc::UnboundedSender<Verdict>,
    _credits: OwnedSemaphorePermit,
}

/// Matches that one subscription got together.
#[derive(Clone, Copy, Debug)]
struct Batch {
    subscription: SubscriptionId,
    first_seq: u64,
}

struct Verdict {
    batch: Batch,
    durable: bool,
}

impl MatchAck {
    pub(super) fn durable(mut self) {
        self.durable = true;
    }
}

impl Drop for MatchAck {
    fn drop(&mut self) {
        // Bounded by the credits, which are given back only after this.
        drop(self.verdicts.send(Verdict { batch: self.batch, durable: self.durable }));
    }
}

/// Runs for ever; a failure is logged and the matcher begins again from its checkpoint.
pub(super) async fn run(context: Arc<Context>, regions: Regions) {
    loop {
        if let Err(error) = Matcher::begin(&context, &regions).await {
            tracing::error!(error = &error as &dyn std::error::Error, "matcher failed and begins again");
            tokio::time::sleep(RETRY_AFTER).await;
        }
    }
}

struct Matcher<'a> {
    context: &'a Context,
    regions: &'a Regions,
    table: Table,
    /// Everything up to here was cast.
    position: Position,
    /// Batches that are not durable yet, by their first positions.
    outstanding: BTreeSet<(SubscriptionId, u64)>,
    /// The newest match cast to each subscription since this matcher began.
    cast_through: HashMap<SubscriptionId, u64>,
    /// Subscriptions that lost matches, with the first lost position. Nothing is cast to them but by the retry.
    behind: BTreeMap<SubscriptionId, u64>,
    retry_behind_at: Instant,
    credits: Arc<Semaphore>,
    verdicts: mpsc::UnboundedReceiver<Verdict>,
    verdict_sender: mpsc::UnboundedSender<Verdict>,
    saved: u64,
    save_at: Instant,
}

impl<'a> Matcher<'a> {
    async fn begin(context: &'a Context, regions: &'a Regions) -> Result<(), MatcherError> {
        let saved = context.log.checkpoint(READER, SHARD).await?.unwrap_or(0);
        let position = Position { shard: SHARD, seq: saved };
        let (verdict_sender, verdicts) = mpsc::unbounded_channel();
        let matcher = Self {
            context,
            regions,
            table: Table::as_of(context, position).await?,
            position,
            outstanding: BTreeSet::new(),
            cast_through: HashMap::new(),
            behind: BTreeMap::new(),
            retry_behind_at: Instant::now(),
            credits: Arc::new(Semaphore::new(context.config.match_credits as usize)),
            verdicts,
            verdict_sender,
            saved,
            save_at: Instant::now(),
        };
        matcher.follow().await
    }

    async fn follow(mut self) -> Result<(), MatcherError> {
        let mut head = self.context.log.watch(SHARD);
        loop {
            head.borrow_and_update();
            let events = self.context.log.read_log(self.position, PAGE).await?;
            if let Some(last) = events.last() {
                let last = last.position;
                let mut batches = Batches::default();
                for recorded in &events {
                    self.table.read(recorded, None, &mut batches)?;
                }
                self.cast(batches).await;
                self.position = last;
                self.take_verdicts();
                self.save_if_time().await?;
                continue;
            }
            self.take_verdicts();
            self.save_if_time().await?;
            self.retry_behind().await?;
            let unsaved = self.low_water() > self.saved;
            let lost = !self.behind.is_empty();
            tokio::select! {
                changed = head.changed() => {
                    if changed.is_err() {
                        // The log was closed: nothing more will come.
                        return std::future::pending().await;
                    }
                }
                Some(verdict) = self.verdicts.recv() => self.judge(&verdict),
                () = tokio::time::sleep_until(self.save_at), if unsaved => {}
                () = tokio::time::sleep_until(self.retry_behind_at), if lost => {}
            }
        }
    }

    async fn cast(&mut self, batches: Batches) {
        for (subscription, found) in batches.0 {
            if self.behind.contains_key(&subscription) {
                continue;
            }
            // A batch larger than all credits would wait for ever.
            for found in found.chunks(self.context.config.match_credits.clamp(1, PAGE as u32) as usize) {
                let Ok(credits) = Arc::clone(&self.credits).acquire_many_owned(found.len() as u32).await else {
                    return;
                };
                let batch = Batch { subscription, first_seq: found[0].1 };
                self.outstanding.insert((subscription, batch.first_seq));
                let ack = MatchAck { batch, durable: false, verdicts: self.verdict_sender.clone(), _credits: credits };
                let matches = Matches {
                    after: self.cast_through.insert(subscription, found[found.len() - 1].1),
                    found: found
                        .iter()
                        .map(|(message, message_seq)| Match {
                            delivery: self.context.clock.delivery_id(),
                            message: *message,
                            message_seq: *message_seq,
                        })
                        .collect(),
                };
                self.regions.send(subscription, SubscriptionMessage::Matched { matches, ack });
            }
        }
    }

    fn take_verdicts(&mut self) {
        while let Ok(verdict) = self.verdicts.try_recv() {
            self.judge(&verdict);
        }
    }

    fn judge(&mut self, verdict: &Verdict) {
        let Batch { subscription, first_seq } = verdict.batch;
        self.outstanding.remove(&(subscription, first_seq));
        if !verdict.durable {
            self.cast_through.remove(&subscription);
            let first = self.behind.entry(subscription).or_insert(first_seq);
            *first = (*first).min(first_seq);
            self.retry_behind_at = Instant::now() + RETRY_BEHIND_AFTER;
        }
    }

    /// Every match at or before this position is durable.
    fn low_water(&self) -> u64 {
        let first_open = self.outstanding.iter().map(|(_, seq)| *seq).min();
        let first_lost = self.behind.values().min().copied();
        first_open.into_iter().chain(first_lost).min().map_or(self.position.seq, |seq| seq - 1)
    }

    async fn save_if_time(&mut self) -> Result<(), MatcherError> {
        let low_water = self.low_water();
        if low_water > self.saved && Instant::now() >= self.save_at {
            self.context.log.save_checkpoint(READER, Position { shard: SHARD, seq: low_water }).await?;
            self.saved = low_water;
            self.save_at = Instant::now() + SAVE_EVERY;
        }
        Ok(())
    }

    /// Reads the log again for subscriptions that lost matches, each from its first lost one, once every batch on its
    /// way to them has come to an end.
    async fn retry_behind(&mut self) -> Result<(), MatcherError> {
        if self.behind.is_empty() || Instant::now() < self.retry_behind_at {
            return Ok(());
        }
        self.retry_behind_at = Instant::now() + RETRY_BEHIND_AFTER;
        let settled = |id: &SubscriptionId| self.outstanding.range((*id, 0)..=(*id, u64::MAX)).next().is_none();
        let ready: Vec<_> = self.behind.keys().copied().filter(settled).collect();
        for subscription in ready {
            let Some(first_seq) = self.behind.remove(&subscription) else { continue };
            let mut at = Position { shard: SHARD, seq: first_seq - 1 };
            let mut table = Table::of_one(self.context, subscription, at).await?;
            let mut batches = Batches::default();
            while at < self.position {
                let events = self.context.log.read_log(at, PAGE).await?;
                let Some(last) = events.last() else { break };
                at = last.position;
                for recorded in events.iter().filter(|recorded| recorded.position <= self.position) {
                    table.read(recorded, Some(subscription), &mut batches)?;
                }
            }
            self.cast(batches).await;
        }
        Ok(())
    }
}

/// Matches found in one page, by subscription, each in log order.
#[derive(Default)]
struct Batches(HashMap<SubscriptionId, Vec<(MessageId, u64)>>);

/// Everybody's filters as of a position.
#[derive(Default)]
struct Table {
    settings: HashMap<SubscriptionId, Settings>,
    by_tenant: HashMap<TenantId, BTreeSet<SubscriptionId>>,
}

impl Table {
    async fn as_of(context: &Context, position: Position) -> Result<Self, MatcherError> {
        let mut table = Self::default();
        let mut after: Option<(String, u64)> = None;
        loop {
            let behind = after.as_ref().map(|(stream, version)| (stream.as_str(), *version));
            let page = context.log.read_category(SUBSCRIPTION_CATEGORY, position, behind, PAGE).await?;
            let Some(last) = page.last() else { return Ok(table) };
            after = Some((last.stream.clone(), last.version));
            for recorded in &page {
                table.learn(&codec::decode(recorded)?, &recorded.stream);
            }
        }
    }

    async fn of_one(context: &Context, id: SubscriptionId, position: Position) -> Result<Self, MatcherError> {
        let mut table = Self::default();
        let stream = subscription_stream(id);
        let mut version = 0;
        loop {
            let page = context.log.read_stream(&stream, version + 1, PAGE).await?;
            let Some(last) = page.last() else { return Ok(table) };
            version = last.version;
            for recorded in page.iter().filter(|recorded| recorded.position <= position) {
                table.learn(&codec::decode(recorded)?, &recorded.stream);
            }
        }
    }

    /// Reads one event of the log: remembers a subscription's change, or notes who matches a message. With `only` it
    /// looks at that subscription alone.
    fn read(
        &mut self,
        recorded: &Recorded,
        only: Option<SubscriptionId>,
        batches: &mut Batches,
    ) -> Result<(), MatcherError> {
        if recorded.kind.starts_with("subscription.") {
            if only.is_none_or(|only| recorded.stream == subscription_stream(only)) {
                self.learn(&codec::decode(recorded)?, &recorded.stream);
            }
            return Ok(());
        }
        if recorded.kind != "message.published" {
            return Ok(());
        }
        if let Event::Message(MessageEvent::Published(message)) = codec::decode(recorded)? {
            for subscription in self.matching(message.tenant, &message.event_type) {
                batches.0.entry(subscription).or_default().push((message.message, recorded.position.seq));
            }
        }
        Ok(())
    }

    fn matching(&self, tenant: TenantId, event_type: &EventType) -> impl Iterator<Item = SubscriptionId> {
        let accepts = |filters: &[Filter]| filter::matches_any(filters, event_type);
        self.by_tenant.get(&tenant).into_iter().flatten().copied().filter(move |id| {
            self.settings.get(id).is_some_and(|settings| settings.enabled && accepts(&settings.filters))
        })
    }

    fn learn(&mut self, event: &Event, stream: &str) {
        let Event::Subscription(event) = event else { return };
        if let SubscriptionEvent::Created(created) = event {
            self.by_tenant.entry(created.tenant).or_default().insert(created.subscription);
            self.settings.insert(created.subscription, Settings::created(created));
            return;
        }
        let Some(id) = subscription_of(stream) else { return };
        if let SubscriptionEvent::Deleted(_) = event {
            if let Some(settings) = self.settings.remove(&id)
                && let Some(ids) = self.by_tenant.get_mut(&settings.tenant)
            {
                ids.remove(&id);
            }
            return;
        }
        if let Some(settings) = self.settings.get_mut(&id) {
            settings.evolve(event);
        }
    }
}
