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
//! - A subscription whose circuit is open is told nothing: its matches wait in the log, behind the number that the event
//!   of the trip gives. The checkpoint passes them; once the way is open the subscription is led from there.
//! - What cannot be read holds up nobody but those it concerns: for an event of a subscription's own life that
//!   subscription, for a message the subscriptions of its tenant that were enabled there. They are behind, and go on
//!   from there when it can be read, which is tried now and then.

mod behind;
mod entries;
mod table;

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{OwnedSemaphorePermit, mpsc};
use tokio::time::Instant;

use self::behind::{Behind, Laggards};
use self::table::{Batches, Block, Table};
use super::Context;
use super::quarantine::Holder;
use super::region::Regions;
use super::subscription::SubscriptionMessage;
use crate::domain::id::{MessageId, SubscriptionId};
use crate::domain::subscription::{Match, Matches};
use crate::event_store::{Position, ReadError, StreamName};
use crate::execute::{LoadError, MATCHER, Unreadable};

/// Events read at a time.
const PAGE: usize = 500;
/// A checkpoint is saved at most this often: it costs a commit, and being behind costs only repeated casts.
const SAVE_EVERY: Duration = Duration::from_millis(500);
/// The matchers of all shards together save no more checkpoints in a second.
const SAVES_A_SECOND: u32 = 16;
/// How long a subscription that lost matches is left alone.
const RETRY_LOST_AFTER: Duration = Duration::from_secs(2);
/// How long one is left alone that has no room, if it does not say earlier that it has.
const RETRY_FULL_AFTER: Duration = Duration::from_secs(60);
/// How long those are left alone who wait for an event that cannot be read.
const RETRY_UNREADABLE_AFTER: Duration = Duration::from_secs(300);
/// One subscription may hold this part of the credits.
const SHARES: u32 = 8;
/// Subscriptions that are behind and are led on before the others get their turn.
const LED_AT_A_TIME: usize = 16;
/// Behind every version that a stream can have.
const LAST_VERSION: u64 = i64::MAX as u64;
/// After a failed read.
const RETRY_AFTER: Duration = Duration::from_secs(1);

/// Why the matcher had to stop; it begins again from its checkpoint.
#[derive(Debug, thiserror::Error)]
pub(super) enum MatcherError {
    #[error(transparent)]
    Read(#[from] ReadError),
    #[error(transparent)]
    Load(#[from] LoadError),
    #[error("the event at {position} stands in '{stream}', which is nobody's stream")]
    Stray { position: Position, stream: StreamName },
}

/// Proof that matches became durable. Dropped without that, it says that they were lost.
pub(super) struct MatchAck {
    batch: Batch,
    outcome: fn(Batch) -> Verdict,
    verdicts: mpsc::UnboundedSender<Verdict>,
    _credits: OwnedSemaphorePermit,
}

/// Matches that one subscription got together.
#[derive(Clone, Copy, Debug)]
struct Batch {
    subscription: SubscriptionId,
    first_seq: u64,
}

enum Verdict {
    Durable(Batch),
    Lost(Batch),
    /// Lost, since the subscription has no room for more.
    Full(Batch),
    /// It has room again.
    Room(SubscriptionId),
}

/// A subscription has no room for matches. Dropped, it says that there is room again.
pub(super) struct Room {
    subscription: SubscriptionId,
    verdicts: mpsc::UnboundedSender<Verdict>,
}

impl MatchAck {
    pub(super) fn durable(mut self) {
        self.outcome = Verdict::Durable;
    }

    /// Puts the matches back for a long time, or until a [`Room`] is dropped.
    pub(super) fn full(mut self) {
        self.outcome = Verdict::Full;
    }

    /// For whoever is about to have no room.
    pub(super) fn room(&self) -> Room {
        Room { subscription: self.batch.subscription, verdicts: self.verdicts.clone() }
    }
}

impl Drop for MatchAck {
    fn drop(&mut self) {
        // Bounded by the credits, which are given back only after this.
        drop(self.verdicts.send((self.outcome)(self.batch)));
    }
}

impl Drop for Room {
    fn drop(&mut self) {
        // Bounded by the subscriptions: each has one at most.
        drop(self.verdicts.send(Verdict::Room(self.subscription)));
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
    behind: Laggards,
    /// Whether others wait for unreadable events than the quarantine says.
    untold: bool,
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

    fn is_settled(&self, subscription: SubscriptionId) -> bool {
        self.batches.range((subscription, 0)..=(subscription, u64::MAX)).next().is_none()
    }

    fn first(&self) -> Option<u64> {
        self.by_position.first().map(|(seq, _)| *seq)
    }
}

/// How far a subscription that is behind was led.
struct Led {
    /// From where to go on.
    from: u64,
    /// Why not at once.
    blocked: Option<Arc<Unreadable>>,
}

impl<'a> Matcher<'a> {
    async fn begin(context: &'a Context, regions: &'a Regions, shard: u16) -> Result<(), MatcherError> {
        let saved = context.log.checkpoint(MATCHER, shard).await?.unwrap_or(0);
        let position = Position { shard, seq: saved };
        let (verdict_sender, verdicts) = mpsc::unbounded_channel();
        let matcher = Self {
            context,
            regions,
            table: Table::as_of(context, position).await?,
            position,
            outstanding: Outstanding::default(),
            cast_through: HashMap::new(),
            behind: Laggards::default(),
            untold: true,
            verdicts,
            verdict_sender,
            saved,
            save_failed: false,
            save_at: Instant::now(),
        };
        matcher.follow().await
    }

    async fn follow(mut self) -> Result<(), MatcherError> {
        let blocked = std::mem::take(&mut self.table.blocked);
        self.leave_behind(blocked);
        // Told of before the checkpoint, which no trip passes that was not led to its end.
        self.table.tripped.clear();
        self.table.freed.clear();
        let mut head = self.context.log.watch(self.position.shard);
        loop {
            let news = self.position.seq < *head.borrow_and_update() && self.read_page().await?;
            self.take_verdicts();
            self.save_if_time().await;
            let led = self.lead_behind().await?;
            self.tell_quarantine();
            if news || led {
                continue;
            }
            let unsaved = self.low_water() > self.saved;
            let lead_at = self.behind.next_at();
            // In a fixed order, so that a simulation repeats; each turn of the loop asks for all of them.
            tokio::select! {
                biased;
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
        let entries = entries::page(&self.context.log, self.position, PAGE).await?;
        let Some(last) = entries.last() else { return Ok(false) };
        let mut batches = Batches::default();
        for entry in &entries {
            self.table.read(entry, &mut batches);
        }
        let blocked = std::mem::take(&mut self.table.blocked);
        let freed = std::mem::take(&mut self.table.freed);
        for subscription in self.table.tripped.drain(..).chain(freed.keys().copied()) {
            // Whatever was found or lost of it before: it is led from where it tripped.
            batches.0.remove(&subscription);
            self.behind.remove(subscription);
            self.cast_through.remove(&subscription);
        }
        for (subscription, mut found) in batches.0 {
            if self.behind.contains(subscription) {
                continue;
            }
            if let Some(block) = blocked.get(&subscription) {
                found.retain(|(_, seq)| *seq < block.from);
            }
            let room = self.share().saturating_sub(self.outstanding.of(subscription)).min(found.len());
            self.cast(subscription, &found[..room]).await;
            if let Some((_, from)) = found.get(room) {
                self.leave(subscription, Behind { from: *from, next_at: Instant::now(), blocked: None });
            }
        }
        self.leave_behind(blocked);
        for (subscription, from) in freed {
            if !self.behind.contains(subscription) {
                self.leave(subscription, Behind { from, next_at: Instant::now(), blocked: None });
            }
        }
        self.position.seq = last.seq;
        Ok(true)
    }

    /// Whoever has met an event that cannot be read goes no further than that, and keeps the checkpoint there. Who is
    /// behind already will meet it.
    fn leave_behind(&mut self, blocked: BTreeMap<SubscriptionId, Block>) {
        let next_at = Instant::now() + RETRY_UNREADABLE_AFTER;
        let next = self.position.seq + 1;
        for (subscription, Block { from, event }) in blocked {
            self.untold = true;
            if !self.behind.contains(subscription) {
                self.leave(subscription, Behind { from: from.max(next), next_at, blocked: Some(event) });
            }
        }
    }

    fn leave(&mut self, subscription: SubscriptionId, behind: Behind) {
        self.behind.put(subscription, behind, self.outstanding.is_settled(subscription));
    }

    /// Says which events somebody waits for.
    fn tell_quarantine(&mut self) {
        if !std::mem::take(&mut self.untold) {
            return;
        }
        let now = self.context.clock.now();
        let mut waited_for = BTreeSet::new();
        for (_, next_at, event) in self.behind.blocked() {
            if waited_for.insert(event.position) {
                let wait_ms = next_at.saturating_duration_since(Instant::now()).as_millis() as u64;
                let holder = Holder::Matching(event.position);
                self.context.quarantine.hold(holder, event, now, Some(now.plus_ms(wait_ms)));
            }
        }
        self.context.quarantine.release_matching(self.position.shard, |position| waited_for.contains(&position));
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
        let ack = MatchAck { batch, outcome: Verdict::Lost, verdicts: self.verdict_sender.clone(), _credits: credits };
        let new = |(message, message_seq): &(MessageId, u64)| Match {
            delivery: self.context.clock.delivery_id(),
            message: *message,
            message_seq: *message_seq,
        };
        let after = self.cast_through.insert(subscription, *last_seq);
        let matches = Matches { after, found: found.iter().map(new).collect() };
        self.regions.send(subscription, SubscriptionMessage::Matched { matches, ack });
    }

    /// Who waited for a circuit keeps nothing from being dropped, also not between its leaving and here.
    async fn tell_what_is_gone(&mut self, subscription: SubscriptionId, from: u64, through: u64) {
        let Ok(credits) = Arc::clone(&self.context.match_credits).acquire_owned().await else { return };
        let batch = Batch { subscription, first_seq: from };
        self.outstanding.insert(batch, 1);
        let ack = MatchAck { batch, outcome: Verdict::Lost, verdicts: self.verdict_sender.clone(), _credits: credits };
        self.regions.send(subscription, SubscriptionMessage::MatchesGone { through, ack });
    }

    fn take_verdicts(&mut self) {
        while let Ok(verdict) = self.verdicts.try_recv() {
            self.judge(&verdict);
        }
    }

    fn judge(&mut self, verdict: &Verdict) {
        match verdict {
            Verdict::Durable(batch) => self.end(*batch),
            Verdict::Lost(batch) => self.put_back(*batch, RETRY_LOST_AFTER),
            Verdict::Full(batch) => self.put_back(*batch, RETRY_FULL_AFTER),
            Verdict::Room(subscription) => {
                if self.behind.get(*subscription).is_some_and(|behind| behind.blocked.is_none()) {
                    self.behind.lead_at(*subscription, Instant::now());
                }
            }
        }
    }

    fn end(&mut self, batch: Batch) {
        self.outstanding.remove(batch);
        if self.outstanding.is_settled(batch.subscription) {
            self.behind.settle(batch.subscription);
        }
    }

    fn put_back(&mut self, batch: Batch, rest: Duration) {
        self.end(batch);
        self.cast_through.remove(&batch.subscription);
        // Its circuit is open: it is led from where it tripped, when the time has come.
        if self.table.held.contains_key(&batch.subscription) {
            return;
        }
        let next_at = Instant::now() + rest;
        let known = self.behind.get(batch.subscription);
        let from = known.map_or(batch.first_seq, |behind| behind.from.min(batch.first_seq));
        let blocked = known.and_then(|behind| behind.blocked.clone());
        self.leave(batch.subscription, Behind { from, next_at, blocked });
    }

    /// Every match at or before this position is durable.
    fn low_water(&self) -> u64 {
        self.outstanding
            .first()
            .into_iter()
            .chain(self.behind.first_from())
            .min()
            .map_or(self.position.seq, |seq| seq - 1)
    }

    async fn save_if_time(&mut self) {
        let low_water = self.low_water();
        if low_water <= self.saved || Instant::now() < self.save_at {
            return;
        }
        let shards = u32::from(self.context.log.shards());
        self.save_at = Instant::now() + SAVE_EVERY.max(Duration::from_secs(1) * shards / SAVES_A_SECOND);
        match self.context.log.save_checkpoint(MATCHER, Position { seq: low_water, ..self.position }).await {
            Ok(()) => (self.saved, self.save_failed) = (low_water, false),
            // Told once: it is tried again twice a second, for as long as the disk is full.
            Err(error) => {
                if !std::mem::replace(&mut self.save_failed, true) {
                    tracing::warn!("the matcher's checkpoint is not saved: {error}");
                }
            }
        }
    }

    /// Leads some of those who are behind a page further; `false` if it is nobody's time.
    async fn lead_behind(&mut self) -> Result<bool, MatcherError> {
        let now = Instant::now();
        let ready = self.behind.due(now, LED_AT_A_TIME);
        for subscription in ready.iter().copied() {
            let Some(behind) = self.behind.get(subscription).filter(|behind| behind.next_at <= now) else { continue };
            let waited_for = behind.blocked.clone();
            let Led { from, blocked } = self.lead(subscription, behind.from).await?;
            // All who wait for the same event go on together, or wait together: it is tried once for all of them.
            let next_at = if blocked.is_some() { now + RETRY_UNREADABLE_AFTER } else { now };
            for event in [&waited_for, &blocked].into_iter().flatten() {
                let still = blocked.as_ref().is_some_and(|blocked| blocked.position == event.position);
                self.retry_together(event.position, if still { next_at } else { now });
            }
            match from > self.position.seq {
                true => self.behind.remove(subscription),
                false => self.leave(subscription, Behind { from, next_at, blocked }),
            }
        }
        Ok(!ready.is_empty())
    }

    fn retry_together(&mut self, position: Position, next_at: Instant) {
        self.untold = true;
        let waiting = self.behind.blocked().filter(|(_, _, event)| event.position == position);
        for subscription in waiting.map(|(id, ..)| id).collect::<Vec<_>>() {
            self.behind.lead_at(subscription, next_at);
        }
    }

    /// Casts what a page of the log matches of one subscription.
    async fn lead(&mut self, subscription: SubscriptionId, from: u64) -> Result<Led, MatcherError> {
        let before = Position { seq: from - 1, ..self.position };
        let floor = self.context.log.floor(self.position.shard);
        if from <= floor {
            self.tell_what_is_gone(subscription, from, floor).await;
            return Ok(Led { from: floor + 1, blocked: None });
        }
        let mut table = match Table::of_one(self.context, subscription, before).await {
            Ok(Some(table)) => table,
            Ok(None) => return Ok(Led { from: self.position.seq + 1, blocked: None }),
            Err(error) => {
                let event = Unreadable::of_load(&error).ok_or(error)?;
                return Ok(Led { from, blocked: Some(Arc::new(event)) });
            }
        };
        let mut batches = Batches::default();
        let mut led = Led { from, blocked: None };
        let page = entries::page(&self.context.log, before, PAGE).await?;
        // Everything up to where the others are may have been dropped while it waited.
        if page.first().is_none_or(|first| first.seq > self.position.seq) {
            return Ok(Led { from: self.position.seq + 1, blocked: None });
        }
        for entry in page {
            if entry.seq > self.position.seq {
                break;
            }
            table.read_for(subscription, &entry, &mut batches);
            led.blocked = table.blocked.remove(&subscription).map(|block| block.event);
            if led.blocked.is_some() {
                break;
            }
            led.from = entry.seq + 1;
        }
        let found = batches.0.remove(&subscription).unwrap_or_default();
        let room = self.share().min(found.len());
        self.cast(subscription, &found[..room]).await;
        Ok(found.get(room).map_or(led, |(_, from)| Led { from: *from, blocked: None }))
    }
}
