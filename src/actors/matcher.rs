//! Reads the log of a shard and tells each subscription which messages it matched. Each shard has a matcher of its own.
//!
//! - Filters count as of the message's position: the matcher folds the subscriptions' events in log order, so the log
//!   decides who gets a message, not the moment at which it is read.
//! - Every match holds a credit until it is durable in the subscription's stream. The checkpoint is the position before
//!   the earliest match that is not; after a restart everything behind it is cast again, and subscriptions ignore what
//!   they have seen.
//! - Every cast names the match before it, so that a subscription that lost one refuses what comes after it.
//! - A subscription that cannot take its matches holds up nobody: if it lost one (it failed and rests), or has its share
//!   of the credits under way (it takes long to load), it is remembered as behind, and led through the log by itself,
//!   one page at a time. The checkpoint waits for it.
//! - One whose settings cannot be read is behind until a program comes that can.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{OwnedSemaphorePermit, mpsc};
use tokio::time::Instant;

use super::Context;
use super::region::Regions;
use super::subscription::SubscriptionMessage;
use crate::codec;
use crate::domain::event::{Event, MessageEvent, SubscriptionEvent};
use crate::domain::filter::{self, EventType, Filter};
use crate::domain::id::{MessageId, SubscriptionId, TenantId};
use crate::domain::subscription::{Match, Matches, Settings};
use crate::event_store::{Position, ReadError, Recorded};
use crate::execute::{SUBSCRIPTION_CATEGORY, subscription_of, subscription_stream};

/// Name of the checkpoint.
const READER: &str = "matcher";
/// Events read at a time.
const PAGE: usize = 500;
/// A checkpoint is saved at most this often: it costs a commit, and being behind costs only repeated casts.
const SAVE_EVERY: Duration = Duration::from_millis(500);
/// The matchers of all shards together save no more checkpoints in a second.
const SAVES_A_SECOND: u32 = 16;
/// How long a subscription that lost matches is left alone.
const RETRY_LOST_AFTER: Duration = Duration::from_secs(2);
/// How long one is left alone whose settings cannot be read.
const RETRY_UNREADABLE_AFTER: Duration = Duration::from_secs(300);
/// One subscription may hold this part of the credits.
const SHARES: u32 = 8;
/// Subscriptions that are behind and are led on before the others get their turn.
const LED_AT_A_TIME: usize = 16;
/// After a failed read.
const RETRY_AFTER: Duration = Duration::from_secs(1);

/// Why the matcher had to stop; it begins again from its checkpoint.
#[derive(Debug, thiserror::Error)]
pub(super) enum MatcherError {
    #[error(transparent)]
    Read(#[from] ReadError),
    #[error(transparent)]
    Decode(#[from] codec::DecodeError),
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
pub(super) async fn run(context: Arc<Context>, regions: Regions, shard: u16) {
    loop {
        if let Err(error) = Matcher::begin(&context, &regions, shard).await {
            tracing::error!(shard, error = &error as &dyn std::error::Error, "matcher failed and begins again");
            tokio::time::sleep(RETRY_AFTER).await;
        }
    }
}

struct Matcher<'a> {
    context: &'a Context,
    regions: &'a Regions,
    table: Table,
    /// Everything up to here was cast, but for those who are behind.
    position: Position,
    outstanding: Outstanding,
    /// The newest match cast to each subscription since this matcher began.
    cast_through: HashMap<SubscriptionId, u64>,
    behind: BTreeMap<SubscriptionId, Behind>,
    verdicts: mpsc::UnboundedReceiver<Verdict>,
    verdict_sender: mpsc::UnboundedSender<Verdict>,
    saved: u64,
    /// Whether the last try to save it failed, and that was told.
    save_failed: bool,
    save_at: Instant,
}

/// Batches that are not durable yet.
#[derive(Default)]
struct Outstanding {
    /// How many matches each holds, by subscription and first position.
    batches: BTreeMap<(SubscriptionId, u64), usize>,
    by_position: BTreeSet<(u64, SubscriptionId)>,
}

impl Outstanding {
    fn insert(&mut self, Batch { subscription, first_seq }: Batch, matches: usize) {
        self.batches.insert((subscription, first_seq), matches);
        self.by_position.insert((first_seq, subscription));
    }

    fn remove(&mut self, Batch { subscription, first_seq }: Batch) {
        self.batches.remove(&(subscription, first_seq));
        self.by_position.remove(&(first_seq, subscription));
    }

    /// How many matches one subscription has under way.
    fn of(&self, subscription: SubscriptionId) -> usize {
        self.batches.range((subscription, 0)..=(subscription, u64::MAX)).map(|(_, matches)| matches).sum()
    }

    fn first(&self) -> Option<u64> {
        self.by_position.first().map(|(seq, _)| *seq)
    }
}

/// A subscription that is led through the log by itself.
#[derive(Clone, Copy)]
struct Behind {
    /// The first position that is still to be read for it.
    from: u64,
    /// Not before this, and not before all that it has under way has ended.
    next_at: Instant,
}

impl<'a> Matcher<'a> {
    async fn begin(context: &'a Context, regions: &'a Regions, shard: u16) -> Result<(), MatcherError> {
        let saved = context.log.checkpoint(READER, shard).await?.unwrap_or(0);
        let position = Position { shard, seq: saved };
        let (verdict_sender, verdicts) = mpsc::unbounded_channel();
        let matcher = Self {
            context,
            regions,
            table: Table::as_of(context, position).await?,
            position,
            outstanding: Outstanding::default(),
            cast_through: HashMap::new(),
            behind: BTreeMap::new(),
            verdicts,
            verdict_sender,
            saved,
            save_failed: false,
            save_at: Instant::now(),
        };
        matcher.follow().await
    }

    async fn follow(mut self) -> Result<(), MatcherError> {
        self.leave_behind_unreadable(self.position.seq + 1);
        let mut head = self.context.log.watch(self.position.shard);
        loop {
            let news = self.position.seq < *head.borrow_and_update() && self.read_page().await?;
            self.take_verdicts();
            self.save_if_time().await;
            let led = self.lead_behind().await?;
            if news || led {
                continue;
            }
            let unsaved = self.low_water() > self.saved;
            let lead_at = self.ready().map(|(_, behind)| behind.next_at).min();
            tokio::select! {
                changed = head.changed() => {
                    if changed.is_err() {
                        // The log was closed: nothing more will come.
                        return std::future::pending().await;
                    }
                }
                Some(verdict) = self.verdicts.recv() => self.judge(&verdict),
                () = tokio::time::sleep_until(self.save_at), if unsaved => {}
                () = tokio::time::sleep_until(lead_at.unwrap_or_else(Instant::now)), if lead_at.is_some() => {}
            }
        }
    }

    /// Casts what the next events of the log match; `false` if there are none.
    async fn read_page(&mut self) -> Result<bool, MatcherError> {
        let events = self.context.log.read_log(self.position, PAGE).await?;
        let Some(last) = events.last() else { return Ok(false) };
        let mut batches = Batches::default();
        for recorded in &events {
            self.table.read(recorded, &mut batches)?;
        }
        for (subscription, found) in batches.0 {
            if !self.behind.contains_key(&subscription) {
                let room = self.share().saturating_sub(self.outstanding.of(subscription)).min(found.len());
                self.cast(subscription, &found[..room]).await;
                if let Some((_, from)) = found.get(room) {
                    self.behind.insert(subscription, Behind { from: *from, next_at: Instant::now() });
                }
            }
        }
        self.leave_behind_unreadable(self.position.seq + 1);
        self.position = last.position;
        Ok(true)
    }

    /// Whoever has become unreadable goes no further than this position, and keeps the checkpoint there.
    fn leave_behind_unreadable(&mut self, from: u64) {
        let next_at = Instant::now() + RETRY_UNREADABLE_AFTER;
        for subscription in std::mem::take(&mut self.table.unreadable) {
            self.behind.entry(subscription).or_insert(Behind { from, next_at }).next_at = next_at;
        }
    }

    /// The most matches that one subscription may have under way.
    fn share(&self) -> usize {
        (self.context.config.match_credits / SHARES).max(1) as usize
    }

    /// Casts matches of one subscription, at most its share.
    async fn cast(&mut self, subscription: SubscriptionId, found: &[(MessageId, u64)]) {
        let (Some((_, first_seq)), Some((_, last_seq))) = (found.first(), found.last()) else { return };
        let Ok(credits) = Arc::clone(&self.context.match_credits).acquire_many_owned(found.len() as u32).await else {
            return;
        };
        let batch = Batch { subscription, first_seq: *first_seq };
        self.outstanding.insert(batch, found.len());
        let ack = MatchAck { batch, durable: false, verdicts: self.verdict_sender.clone(), _credits: credits };
        let new = |(message, message_seq): &(MessageId, u64)| Match {
            delivery: self.context.clock.delivery_id(),
            message: *message,
            message_seq: *message_seq,
        };
        let after = self.cast_through.insert(subscription, *last_seq);
        let matches = Matches { after, found: found.iter().map(new).collect() };
        self.regions.send(subscription, SubscriptionMessage::Matched { matches, ack });
    }

    fn take_verdicts(&mut self) {
        while let Ok(verdict) = self.verdicts.try_recv() {
            self.judge(&verdict);
        }
    }

    fn judge(&mut self, Verdict { batch, durable }: &Verdict) {
        self.outstanding.remove(*batch);
        if !durable {
            self.cast_through.remove(&batch.subscription);
            let next_at = Instant::now() + RETRY_LOST_AFTER;
            let behind = self.behind.entry(batch.subscription).or_insert(Behind { from: batch.first_seq, next_at });
            *behind = Behind { from: behind.from.min(batch.first_seq), next_at };
        }
    }

    /// Every match at or before this position is durable.
    fn low_water(&self) -> u64 {
        let first_behind = self.behind.values().map(|behind| behind.from).min();
        self.outstanding.first().into_iter().chain(first_behind).min().map_or(self.position.seq, |seq| seq - 1)
    }

    async fn save_if_time(&mut self) {
        let low_water = self.low_water();
        if low_water <= self.saved || Instant::now() < self.save_at {
            return;
        }
        let shards = u32::from(self.context.log.shards());
        self.save_at = Instant::now() + SAVE_EVERY.max(Duration::from_secs(1) * shards / SAVES_A_SECOND);
        match self.context.log.save_checkpoint(READER, Position { seq: low_water, ..self.position }).await {
            Ok(()) => (self.saved, self.save_failed) = (low_water, false),
            // Told once: it is tried again twice a second, for as long as the disk is full.
            Err(error) => {
                if !std::mem::replace(&mut self.save_failed, true) {
                    tracing::warn!("the matcher's checkpoint is not saved: {error}");
                }
            }
        }
    }

    /// Those behind whose batches have all come to an end.
    fn ready(&self) -> impl Iterator<Item = (SubscriptionId, Behind)> {
        let settled = |id: &SubscriptionId| self.outstanding.of(*id) == 0;
        self.behind.iter().filter(move |(id, _)| settled(id)).map(|(id, behind)| (*id, *behind))
    }

    /// Leads some of those who are behind a page further; `false` if it is nobody's time.
    async fn lead_behind(&mut self) -> Result<bool, MatcherError> {
        let now = Instant::now();
        let mut ready: Vec<_> = self.ready().filter(|(_, behind)| behind.next_at <= now).collect();
        ready.sort_unstable_by_key(|(_, behind)| behind.next_at);
        ready.truncate(LED_AT_A_TIME);
        for (subscription, Behind { from, .. }) in &ready {
            let next = match self.lead(*subscription, *from).await {
                Ok(from) => Behind { from, next_at: now },
                Err(MatcherError::Decode(error)) => {
                    tracing::error!(subscription.id = %subscription, "nothing is matched: {error}");
                    Behind { from: *from, next_at: now + RETRY_UNREADABLE_AFTER }
                }
                Err(error) => return Err(error),
            };
            match next.from > self.position.seq {
                true => self.behind.remove(subscription),
                false => self.behind.insert(*subscription, next),
            };
        }
        Ok(!ready.is_empty())
    }

    /// Casts what a page of the log matches of one subscription. Returns from where to go on.
    async fn lead(&mut self, subscription: SubscriptionId, from: u64) -> Result<u64, MatcherError> {
        let before = Position { seq: from - 1, ..self.position };
        let mut table = Table::of_one(self.context, subscription, before).await?;
        let events = self.context.log.read_log(before, PAGE).await?;
        let mut batches = Batches::default();
        let mut next = from;
        for recorded in events.iter().filter(|recorded| recorded.position <= self.position) {
            table.read_for(subscription, recorded, &mut batches)?;
            next = recorded.position.seq + 1;
        }
        let found = batches.0.remove(&subscription).unwrap_or_default();
        let room = self.share().min(found.len());
        self.cast(subscription, &found[..room]).await;
        Ok(found.get(room).map_or(next, |(_, seq)| *seq))
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
    /// Those whose settings turned out to be unreadable, until they are taken from here.
    unreadable: BTreeSet<SubscriptionId>,
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
                table.try_learn(recorded);
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

    /// Reads one event of the log: remembers a subscription's change, or notes who matches a message.
    fn read(&mut self, recorded: &Recorded, batches: &mut Batches) -> Result<(), MatcherError> {
        match recorded.kind.starts_with("subscription.") {
            true => self.try_learn(recorded),
            false => self.note_matches(recorded, batches)?,
        }
        Ok(())
    }

    /// The same for a table of one subscription, which fails if that is unreadable.
    fn read_for(
        &mut self,
        only: SubscriptionId,
        recorded: &Recorded,
        batches: &mut Batches,
    ) -> Result<(), MatcherError> {
        if !recorded.kind.starts_with("subscription.") {
            return self.note_matches(recorded, batches);
        }
        if subscription_of(&recorded.stream) == Some(only) {
            self.learn(&codec::decode(recorded)?, &recorded.stream);
        }
        Ok(())
    }

    fn note_matches(&self, recorded: &Recorded, batches: &mut Batches) -> Result<(), MatcherError> {
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

    /// What cannot be read makes its own subscription unreadable, and no other.
    fn try_learn(&mut self, recorded: &Recorded) {
        match (codec::decode(recorded), subscription_of(&recorded.stream)) {
            (Ok(event), _) => self.learn(&event, &recorded.stream),
            (Err(error), Some(subscription)) => {
                tracing::error!(subscription.id = %subscription, "nothing is matched from here on: {error}");
                self.settings.remove(&subscription);
                self.unreadable.insert(subscription);
            }
            (Err(error), None) => tracing::error!(stream.id = recorded.stream, "belongs to nobody: {error}"),
        }
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
