//! Who wants what, as of a position of the log.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;

use super::entries::{self, Concern, Entry};
use super::{LAST_VERSION, PAGE};
use crate::actors::Context;
use crate::codec;
use crate::domain::event::{Event, MessageEvent, SubscriptionEvent};
use crate::domain::filter::{self, EventType, Filter};
use crate::domain::id::{MessageId, SubscriptionId, TenantId};
use crate::domain::subscription::Settings;
use crate::event_store::{Position, ReadError};
use crate::execute::{LoadError, Unreadable, subscription_of, subscription_stream};

/// Matches found in one page, by subscription, each in log order.
#[derive(Default)]
pub(super) struct Batches(pub(super) BTreeMap<SubscriptionId, Vec<(MessageId, u64)>>);

/// Everybody's filters as of a position.
#[derive(Default)]
pub(super) struct Table {
    settings: HashMap<SubscriptionId, Settings>,
    by_tenant: HashMap<TenantId, BTreeSet<SubscriptionId>>,
    /// Those who have met an event that cannot be read, until they are taken from here.
    pub(super) blocked: BTreeMap<SubscriptionId, Block>,
    /// Those whose circuit is open, and from where on their matches wait.
    pub(super) held: HashMap<SubscriptionId, u64>,
    /// Those that have tripped, until they are taken from here.
    pub(super) tripped: Vec<SubscriptionId>,
    /// Those whose circuit is open no more, and from where on they are to be led, until they are taken from here.
    pub(super) freed: BTreeMap<SubscriptionId, u64>,
}

/// An event that cannot be read, and where somebody met it.
pub(super) struct Block {
    pub(super) from: u64,
    pub(super) event: Arc<Unreadable>,
}

impl Table {
    pub(super) async fn as_of(context: &Context, position: Position) -> Result<Self, ReadError> {
        let mut table = Self::default();
        let mut after: Option<(String, u64)> = None;
        loop {
            let behind = after.as_ref().map(|(stream, version)| (stream.as_str(), *version));
            let (page, unreadable) = entries::lives(&context.log, position, behind, PAGE).await?;
            for entry in page.iter().filter_map(|recorded| Entry::of(recorded).ok()) {
                table.read(&entry, &mut Batches::default());
            }
            after = match (page.last(), unreadable) {
                (Some(last), _) => Some((last.stream.clone(), last.version)),
                (None, Some(event)) => {
                    // The rest of its stream says nothing without it.
                    let past = (event.stream.clone(), LAST_VERSION);
                    if let Some(subscription) = subscription_of(&event.stream) {
                        table.lose(subscription, event.position.seq, &event);
                    }
                    Some(past)
                }
                (None, None) => return Ok(table),
            };
        }
    }

    /// What one subscription's filters are; `None` if it has been deleted since: it owes nothing any more.
    pub(super) async fn of_one(
        context: &Context,
        id: SubscriptionId,
        position: Position,
    ) -> Result<Option<Self>, LoadError> {
        let mut table = Self::default();
        let stream = subscription_stream(id);
        let mut version = 0;
        loop {
            let page = context.log.read_stream(&stream, version + 1, PAGE).await?;
            let Some(last) = page.last() else { return Ok(Some(table)) };
            version = last.version;
            for recorded in &page {
                let event = codec::decode(recorded);
                if let Ok(Event::Subscription(SubscriptionEvent::Deleted(_))) = event {
                    return Ok(None);
                }
                if recorded.position <= position
                    && let Event::Subscription(event) = event?
                {
                    table.learn(id, &event);
                }
            }
        }
    }

    /// Reads one event of the log: remembers a subscription's change, or notes who matches a message. What cannot be
    /// read blocks those it concerns, and no others.
    pub(super) fn read(&mut self, Entry { seq, concern }: &Entry, batches: &mut Batches) {
        match concern {
            Concern::Subscription(id, Ok(event)) => {
                self.learn(*id, event);
                self.hold(*id, event);
            }
            Concern::Subscription(id, Err(unreadable)) => self.lose(*id, *seq, unreadable),
            Concern::Messages(_, Ok(MessageEvent::Published(message))) => {
                for subscription in self.matching(message.tenant, &message.event_type) {
                    batches.0.entry(subscription).or_default().push((message.message, *seq));
                }
            }
            Concern::Messages(tenant, Err(unreadable)) => self.block(*tenant, *seq, unreadable),
            Concern::Messages(_, Ok(MessageEvent::PeriodOpened(_))) | Concern::Nobody => {}
        }
    }

    /// The same for a table of one subscription.
    pub(super) fn read_for(&mut self, only: SubscriptionId, entry: &Entry, batches: &mut Batches) {
        match &entry.concern {
            Concern::Subscription(id, _) if *id != only => {}
            // Whether it is held is not asked any more.
            Concern::Subscription(id, Ok(event)) => self.learn(*id, event),
            Concern::Subscription(..) | Concern::Messages(..) | Concern::Nobody => self.read(entry, batches),
        }
    }

    /// What a subscription wants is not known from here on.
    fn lose(&mut self, subscription: SubscriptionId, seq: u64, unreadable: &Unreadable) {
        self.settings.remove(&subscription);
        self.blocked.entry(subscription).or_insert_with(|| Block { from: seq, event: Arc::new(unreadable.clone()) });
    }

    /// Who may have matched a message that cannot be read.
    fn block(&mut self, tenant: TenantId, seq: u64, unreadable: &Unreadable) {
        let event = Arc::new(unreadable.clone());
        for id in self.by_tenant.get(&tenant).into_iter().flatten() {
            if self.settings.get(id).is_some_and(|settings| settings.enabled) {
                self.blocked.entry(*id).or_insert_with(|| Block { from: seq, event: Arc::clone(&event) });
            }
        }
    }

    fn matching(&self, tenant: TenantId, event_type: &EventType) -> impl Iterator<Item = SubscriptionId> {
        let accepts = |filters: &[Filter]| filter::matches_any(filters, event_type);
        self.by_tenant.get(&tenant).into_iter().flatten().copied().filter(move |id| {
            !self.held.contains_key(id)
                && self.settings.get(id).is_some_and(|settings| settings.enabled && accepts(&settings.filters))
        })
    }

    /// Notes who is told nothing, and who is to be told again.
    fn hold(&mut self, id: SubscriptionId, event: &SubscriptionEvent) {
        let behind = |through: Option<u64>| through.map_or(0, |through| through + 1);
        match event {
            SubscriptionEvent::CircuitTripped(tripped) => {
                self.freed.remove(&id);
                self.held.insert(id, tripped.matched_through + 1);
                self.tripped.push(id);
            }
            SubscriptionEvent::CircuitReenabled(reenabled) => {
                self.free(id, behind(reenabled.skipped_through.max(reenabled.lost_through)));
            }
            SubscriptionEvent::CircuitProbing(probing) => self.free(id, behind(probing.lost_through)),
            SubscriptionEvent::Deleted(_) => {
                self.held.remove(&id);
            }
            SubscriptionEvent::Created(_)
            | SubscriptionEvent::Updated(_)
            | SubscriptionEvent::Enabled(_)
            | SubscriptionEvent::Disabled(_)
            | SubscriptionEvent::HoldChanged(_)
            | SubscriptionEvent::SecretRotated(_)
            | SubscriptionEvent::TestSent(_)
            | SubscriptionEvent::RedeliveryRequested(_)
            | SubscriptionEvent::RescheduleRequested(_)
            | SubscriptionEvent::CancellationRequested(_)
            | SubscriptionEvent::CircuitClosed(_) => {}
        }
    }

    fn free(&mut self, id: SubscriptionId, not_before: u64) {
        if let Some(from) = self.held.remove(&id) {
            self.freed.insert(id, from.max(not_before));
        }
    }

    fn learn(&mut self, id: SubscriptionId, event: &SubscriptionEvent) {
        if let SubscriptionEvent::Created(created) = event {
            self.by_tenant.entry(created.tenant).or_default().insert(id);
            self.settings.insert(id, Settings::created(created));
            return;
        }
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
