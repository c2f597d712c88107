//! Who wants what, as of a position of the log.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;

use super::entries::{self, Concern, Entry};
use super::{LAST_VERSION, PAGE};
use crate::actors::Context;
use crate::codec;
use crate::domain::event::{Event, MessageEvent, SubscriptionEvent};
use crate::domain::filter::{self, EventType};
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
    /// Of those that are deleted and may come back.
    deleted: HashMap<SubscriptionId, Settings>,
    by_tenant: HashMap<TenantId, Wishes>,
    /// Those who have met an event that cannot be read, until they are taken from here.
    pub(super) blocked: BTreeMap<SubscriptionId, Block>,
    /// Those whose circuit is open, and from where on their matches wait.
    pub(super) held: HashMap<SubscriptionId, u64>,
    /// Those that have tripped, until they are taken from here.
    pub(super) tripped: Vec<SubscriptionId>,
    /// Those whose circuit is open no more, and from where on they are to be led, until they are taken from here.
    pub(super) freed: BTreeMap<SubscriptionId, u64>,
}

/// Event types of one tenant whose subscribers are remembered: more than are in use at a time.
const REMEMBERED_TYPES: usize = 1_024;

/// Who there is of one tenant, and who wants what.
#[derive(Default)]
struct Wishes {
    ids: BTreeSet<SubscriptionId>,
    /// Who is sent messages of a type, for types that messages had: so a message costs what it matches, however many
    /// subscriptions there are.
    by_type: HashMap<EventType, BTreeSet<SubscriptionId>>,
}

impl Wishes {
    /// Who is sent messages of this type.
    fn of(
        &mut self,
        event_type: &EventType,
        settings: &HashMap<SubscriptionId, Settings>,
    ) -> &BTreeSet<SubscriptionId> {
        if !self.by_type.contains_key(event_type) {
            if self.by_type.len() >= REMEMBERED_TYPES {
                self.by_type.clear();
            }
            let wants = |id: &&SubscriptionId| settings.get(id).is_some_and(|settings| wants(settings, event_type));
            let found = self.ids.iter().filter(wants).copied().collect();
            self.by_type.insert(event_type.clone(), found);
        }
        &self.by_type[event_type]
    }

    /// A subscription is there, or has changed.
    fn put(&mut self, id: SubscriptionId, settings: &Settings) {
        self.ids.insert(id);
        for (event_type, wanting) in &mut self.by_type {
            match wants(settings, event_type) {
                true => wanting.insert(id),
                false => wanting.remove(&id),
            };
        }
    }

    /// It is there no more.
    fn remove(&mut self, id: SubscriptionId) {
        self.ids.remove(&id);
        for wanting in self.by_type.values_mut() {
            wanting.remove(&id);
        }
    }
}

fn wants(settings: &Settings, event_type: &EventType) -> bool {
    settings.enabled && filter::matches_any(&settings.filters, event_type)
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

    /// What one subscription's filters are; `None` if it is deleted: it owes nothing any more.
    pub(super) async fn of_one(
        context: &Context,
        id: SubscriptionId,
        position: Position,
    ) -> Result<Option<Self>, LoadError> {
        let mut table = Self::default();
        let stream = subscription_stream(id);
        let (mut version, mut is_deleted) = (0, false);
        loop {
            let page = context.log.read_stream(&stream, version + 1, PAGE).await?;
            let Some(last) = page.last() else { return Ok(Some(table).filter(|_| !is_deleted)) };
            version = last.version;
            for recorded in &page {
                let event = codec::decode(recorded);
                match &event {
                    Ok(Event::Subscription(SubscriptionEvent::Deleted(_))) => is_deleted = true,
                    Ok(Event::Subscription(SubscriptionEvent::Restored(_))) => is_deleted = false,
                    Ok(_) | Err(_) => {}
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
                let Some(wishes) = self.by_tenant.get_mut(&message.tenant) else { return };
                for id in wishes.of(&message.event_type, &self.settings) {
                    if !self.held.contains_key(id) {
                        batches.0.entry(*id).or_default().push((message.message, *seq));
                    }
                }
            }
            Concern::Messages(tenant, Err(unreadable)) => self.block(*tenant, *seq, unreadable),
            Concern::Messages(_, Ok(MessageEvent::PeriodOpened(_) | MessageEvent::PayloadErased(_)))
            | Concern::Nobody => {}
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
        self.forget(subscription);
        self.deleted.remove(&subscription);
        self.blocked.entry(subscription).or_insert_with(|| Block { from: seq, event: Arc::new(unreadable.clone()) });
    }

    /// Who may have matched a message that cannot be read.
    fn block(&mut self, tenant: TenantId, seq: u64, unreadable: &Unreadable) {
        let event = Arc::new(unreadable.clone());
        for id in self.by_tenant.get(&tenant).into_iter().flat_map(|wishes| &wishes.ids) {
            if self.settings.get(id).is_some_and(|settings| settings.enabled) {
                self.blocked.entry(*id).or_insert_with(|| Block { from: seq, event: Arc::clone(&event) });
            }
        }
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
                self.freed.remove(&id);
            }
            SubscriptionEvent::Created(_)
            | SubscriptionEvent::Updated(_)
            | SubscriptionEvent::Enabled(_)
            | SubscriptionEvent::Disabled(_)
            | SubscriptionEvent::HoldChanged(_)
            | SubscriptionEvent::SecretRotated(_)
            | SubscriptionEvent::TestSent(_)
            | SubscriptionEvent::EgressBlocked(_)
            | SubscriptionEvent::RedeliveryRequested(_)
            | SubscriptionEvent::RescheduleRequested(_)
            | SubscriptionEvent::CancellationRequested(_)
            | SubscriptionEvent::JobStarted(_)
            | SubscriptionEvent::JobEnded(_)
            | SubscriptionEvent::CircuitClosed(_)
            | SubscriptionEvent::MatchesLost(_)
            | SubscriptionEvent::Restored(_)
            | SubscriptionEvent::SecretsDestroyed(_) => {}
        }
    }

    fn free(&mut self, id: SubscriptionId, not_before: u64) {
        if let Some(from) = self.held.remove(&id) {
            self.freed.insert(id, from.max(not_before));
        }
    }

    fn learn(&mut self, id: SubscriptionId, event: &SubscriptionEvent) {
        if let SubscriptionEvent::Deleted(deleted) = event {
            let settings = self.forget(id).filter(|_| deleted.restore_window_s.is_some());
            self.deleted.extend(settings.map(|settings| (id, settings)));
            return;
        }
        if let SubscriptionEvent::SecretsDestroyed(_) = event {
            self.deleted.remove(&id);
        }
        if let SubscriptionEvent::Restored(_) = event
            && let Some(settings) = self.deleted.remove(&id)
        {
            self.settings.insert(id, settings);
        }
        if let SubscriptionEvent::Created(created) = event {
            self.settings.insert(id, Settings::created(created));
        } else if let Some(settings) = self.settings.get_mut(&id) {
            settings.evolve(event);
        }
        if let Some(settings) = self.settings.get(&id) {
            self.by_tenant.entry(settings.tenant).or_default().put(id, settings);
        }
    }

    fn forget(&mut self, id: SubscriptionId) -> Option<Settings> {
        let settings = self.settings.remove(&id)?;
        if let Some(wishes) = self.by_tenant.get_mut(&settings.tenant) {
            wishes.remove(id);
        }
        Some(settings)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::event::{Change, SubscriptionCreated, SubscriptionDeleted, SubscriptionUpdated};
    use crate::domain::event::{SubscriptionDisabled, SubscriptionEnabled, SubscriptionRestored};
    use crate::domain::id::SecretId;

    fn created(id: SubscriptionId, filter: &str, enabled: bool) -> SubscriptionEvent {
        SubscriptionEvent::Created(SubscriptionCreated {
            subscription: id,
            tenant: TenantId::from_parts(1, 1),
            profile: "standard-v1".to_owned(),
            url: "https://example.com/hook".to_owned(),
            description: None,
            filters: vec![filter.parse().unwrap()],
            enabled,
            secret: SecretId::from_parts(1, 1),
            fingerprint: String::new(),
            public_key: None,
            rate_limit_per_s: None,
            ordered: false,
            headers: None,
            retry_policy: None,
            recipients: None,
        })
    }

    /// Who is sent a message of that type, by number.
    fn matched(table: &mut Table, event_type: &str) -> Vec<u128> {
        let wishes = table.by_tenant.get_mut(&TenantId::from_parts(1, 1)).unwrap();
        let found = wishes.of(&event_type.parse().unwrap(), &table.settings);
        (1..=3).filter(|n| found.contains(&SubscriptionId::from_parts(1, *n))).collect()
    }

    #[test]
    fn who_is_remembered_to_want_a_type_follows_every_change() {
        let [one, two, three] = [1, 2, 3].map(|n| SubscriptionId::from_parts(1, n));
        let mut table = Table::default();
        table.learn(one, &created(one, "user.*", true));
        table.learn(two, &created(two, "user.created", false));
        assert_eq!(matched(&mut table, "user.created"), [1]);
        assert_eq!(matched(&mut table, "order.paid"), []);

        table.learn(two, &SubscriptionEvent::Enabled(SubscriptionEnabled {}));
        table.learn(three, &created(three, "**", true));
        assert_eq!(matched(&mut table, "user.created"), [1, 2, 3]);
        assert_eq!(matched(&mut table, "order.paid"), [3]);

        let filters = Change { from: vec!["user.*".parse().unwrap()], to: vec!["order.*".parse().unwrap()] };
        let updated = SubscriptionUpdated { filters: Some(filters), ..SubscriptionUpdated::default() };
        table.learn(one, &SubscriptionEvent::Updated(updated));
        table.learn(two, &SubscriptionEvent::Disabled(SubscriptionDisabled { reason: None, cause: None }));
        assert_eq!(matched(&mut table, "user.created"), [3]);
        assert_eq!(matched(&mut table, "order.paid"), [1, 3]);

        let deleted = |restore_window_s| {
            SubscriptionEvent::Deleted(SubscriptionDeleted { restore_window_s, ..SubscriptionDeleted::default() })
        };
        table.learn(three, &deleted(Some(60)));
        assert_eq!((matched(&mut table, "user.created"), matched(&mut table, "order.paid")), (vec![], vec![1]));
        table.learn(three, &SubscriptionEvent::Restored(SubscriptionRestored { matched_through: 7 }));
        assert_eq!(matched(&mut table, "order.paid"), [1], "it comes back disabled");
        table.learn(three, &SubscriptionEvent::Enabled(SubscriptionEnabled {}));
        assert_eq!(matched(&mut table, "order.paid"), [1, 3]);
        table.learn(three, &deleted(None));
        assert_eq!((matched(&mut table, "order.paid"), table.deleted.len()), (vec![1], 0));
        for n in 0..2 * REMEMBERED_TYPES {
            matched(&mut table, &format!("order.n{n}"));
        }
        assert!(table.by_tenant.values().all(|wishes| wishes.by_type.len() <= REMEMBERED_TYPES));
        assert_eq!(matched(&mut table, "order.paid"), [1]);
    }
}
