//! The ledger of a shard: the accounts of all its subscriptions, kept from the events of the log.

mod running;

pub use running::{Checked, Ledger, Tally};

use std::collections::{BTreeMap, BTreeSet, HashMap};

use super::subscription_of;
use crate::domain::event::{Event, MessageEvent, SubscriptionEvent};
use crate::domain::filter::EventType;
use crate::domain::id::{SubscriptionId, TenantId};
use crate::domain::ledger::{Account, Counts, Finding, Place};
use crate::event_store::{Position, Recorded};

/// Whose message is not in exactly one state, and why.
pub type Entry = (SubscriptionId, Finding);

/// All accounts of a shard, as of the last event that was entered.
#[derive(Clone, Debug, Default)]
pub struct Books {
    accounts: BTreeMap<SubscriptionId, Account>,
    by_tenant: HashMap<TenantId, Owners>,
    listed: usize,
}

/// Event types of one tenant of which it is remembered who matches them: more than are in use at a time.
const REMEMBERED_TYPES: usize = 1_024;

/// The subscriptions of a tenant.
#[derive(Clone, Debug, Default)]
struct Owners {
    /// Who is not deleted.
    ids: BTreeSet<SubscriptionId>,
    /// Who matches a type, for types that messages had: a message costs what it matches, however many there are.
    by_type: HashMap<EventType, BTreeSet<SubscriptionId>>,
}

impl Owners {
    /// Who matches messages of this type.
    fn of(
        &mut self,
        event_type: &EventType,
        accounts: &BTreeMap<SubscriptionId, Account>,
    ) -> &BTreeSet<SubscriptionId> {
        if !self.by_type.contains_key(event_type) {
            if self.by_type.len() >= REMEMBERED_TYPES {
                self.by_type.clear();
            }
            let wants = |id: &&SubscriptionId| accounts.get(id).is_some_and(|account| account.wants(event_type));
            self.by_type.insert(event_type.clone(), self.ids.iter().filter(wants).copied().collect());
        }
        &self.by_type[event_type]
    }

    /// An account has come, or something has happened to its subscription.
    fn put(&mut self, id: SubscriptionId, account: &Account) {
        match account.is_deleted() {
            true => self.ids.remove(&id),
            false => self.ids.insert(id),
        };
        for (event_type, matching) in &mut self.by_type {
            match account.wants(event_type) {
                true => matching.insert(id),
                false => matching.remove(&id),
            };
        }
    }
}

impl Books {
    /// Empty ones. Each account keeps so many waiting matches one by one; behind those it counts.
    pub fn new(listed: usize) -> Self {
        Self { listed, ..Self::default() }
    }

    /// Enters the next event of the shard; events up to `floor` may be gone.
    pub fn enter(&mut self, recorded: &Recorded, event: &Event, floor: u64) -> Vec<Entry> {
        let seq = recorded.position.seq;
        let mut findings = Vec::new();
        let owner = match event {
            Event::Tenant(_) | Event::Message(MessageEvent::PeriodOpened(_) | MessageEvent::PayloadErased(_)) => None,
            Event::Message(MessageEvent::Published(message)) => {
                if let Some(owners) = self.by_tenant.get_mut(&message.tenant) {
                    for id in owners.of(&message.event_type, &self.accounts) {
                        if let Some(account) = self.accounts.get_mut(id) {
                            account.publish(message.message, &message.event_type, seq, self.listed);
                        }
                    }
                }
                None
            }
            Event::Subscription(event) => {
                let owner = subscription_of(&recorded.stream);
                if let Some(id) = owner {
                    let place = Place { seq, version: recorded.version, floor };
                    self.live(id, event, place, &mut findings);
                }
                owner
            }
            Event::Delivery(event) => {
                let owner = subscription_of(&recorded.stream);
                // Without an account its creation cannot be read, or stands in no log: both are told of elsewhere.
                if let Some(account) = owner.and_then(|id| self.accounts.get_mut(&id)) {
                    let place = Place { seq, version: recorded.version, floor };
                    account.deliver(event, place, &mut findings);
                }
                owner
            }
        };
        owner.map_or_else(Vec::new, |id| findings.into_iter().map(|finding| (id, finding)).collect())
    }

    fn live(&mut self, id: SubscriptionId, event: &SubscriptionEvent, place: Place, findings: &mut Vec<Finding>) {
        if let SubscriptionEvent::Created(created) = event {
            let account = Account::new(created.tenant, created.filters.clone(), created.enabled);
            self.by_tenant.entry(created.tenant).or_default().put(id, &account);
            self.accounts.insert(id, account);
            return;
        }
        let Some(account) = self.accounts.get_mut(&id) else { return };
        account.live(event, place, findings);
        self.by_tenant.entry(account.tenant).or_default().put(id, account);
    }

    /// No event is missing of the append that was entered last.
    pub fn close(&mut self) -> Vec<Entry> {
        let mut entries = Vec::new();
        for (id, account) in &mut self.accounts {
            let mut findings = Vec::new();
            account.close(&mut findings);
            entries.extend(findings.into_iter().map(|finding| (*id, finding)));
        }
        entries
    }

    /// How everything stands, and what nothing but the matcher's checkpoint tells: see [`Account::assess`].
    pub fn assess(&self, matcher: u64) -> (Counts, Vec<Entry>) {
        let (mut sum, mut entries) = (Counts::default(), Vec::new());
        for (id, account) in &self.accounts {
            let mut findings = Vec::new();
            sum.add(&account.assess(matcher, &mut findings));
            entries.extend(findings.into_iter().map(|finding| (*id, finding)));
        }
        (sum, entries)
    }

    /// One account.
    pub fn account(&self, id: SubscriptionId) -> Option<&Account> {
        self.accounts.get(&id)
    }

    /// How many circuits are open.
    pub fn held(&self) -> usize {
        self.accounts.values().filter(|account| account.is_held()).count()
    }

    /// The accounts of a tenant, also of what it has deleted.
    pub fn of_tenant(&self, tenant: TenantId) -> impl Iterator<Item = &Account> {
        self.accounts.values().filter(move |account| account.tenant == tenant)
    }
}

/// What is wrong: what it is about, what was expected, and what was found.
pub fn describe(shard: u16, id: SubscriptionId, finding: Finding) -> (String, String, String) {
    let message = |seq| format!("message at {} of subscription {id}", Position { shard, seq });
    let expected = "exactly one state".to_owned();
    match finding {
        Finding::Unaccounted { message_seq, message: name } => {
            (format!("{} ({name})", message(message_seq)), expected, "none: it is unaccounted for".into())
        }
        Finding::UnaccountedMany { through, count } => (
            format!("{} messages up to {}", count, message(through)),
            expected,
            "none: they are unaccounted for".into(),
        ),
        Finding::Dropped { message_seq, delivery } => (
            message(message_seq),
            format!("delivery {delivery} to be open or ended"),
            "neither: it is unaccounted for".into(),
        ),
        Finding::Places { count, delivery } => (
            format!("sequence of subscription {id} before delivery {delivery}"),
            "no gap".into(),
            format!("{count} numbers missing: they are unaccounted for"),
        ),
        Finding::PlacesOfPeriod { count } => (
            format!("sequence of subscription {id}"),
            "the number that a period begins with".into(),
            format!("{count} fewer: they are unaccounted for"),
        ),
        Finding::Cancelled { expected, found } => (
            format!("deletion of subscription {id}"),
            format!("{expected} deliveries cancelled"),
            format!("{found}: the others are unaccounted for, or accounted for twice"),
        ),
        Finding::Twice { message_seq, delivery } => {
            (message(message_seq), expected, format!("delivery {delivery} as well: it is accounted for twice"))
        }
        Finding::NotOpen { delivery } => (
            format!("delivery {delivery} of subscription {id}"),
            "nothing after its end".into(),
            "an event: it is accounted for twice".into(),
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::event::{Change, SubscriptionDisabled, SubscriptionEnabled, SubscriptionUpdated};

    #[test]
    fn who_is_remembered_to_match_a_type_follows_every_change() {
        let tenant = TenantId::from_parts(1, 1);
        let [one, two] = [1, 2].map(|n| SubscriptionId::from_parts(1, n));
        let (mut accounts, mut owners) = (BTreeMap::new(), Owners::default());
        for (id, filter, enabled) in [(one, "user.*", true), (two, "user.created", false)] {
            let account = Account::new(tenant, vec![filter.parse().unwrap()], enabled);
            owners.put(id, &account);
            accounts.insert(id, account);
        }
        let created: EventType = "user.created".parse().unwrap();
        assert_eq!(owners.of(&created, &accounts), &BTreeSet::from([one]));

        let filters = Change { from: vec!["user.*".parse().unwrap()], to: vec!["order.*".parse().unwrap()] };
        let updated = SubscriptionUpdated { filters: Some(filters), ..SubscriptionUpdated::default() };
        let enabled = SubscriptionEvent::Enabled(SubscriptionEnabled {});
        let disabled = SubscriptionEvent::Disabled(SubscriptionDisabled { reason: None, cause: None });
        let place = Place { seq: 1, version: 1, floor: 0 };
        for (id, event, matching) in [
            (two, enabled, vec![one, two]),
            (one, SubscriptionEvent::Updated(updated), vec![two]),
            (two, disabled, vec![]),
        ] {
            let account = accounts.get_mut(&id).unwrap();
            account.live(&event, place, &mut vec![]);
            owners.put(id, account);
            assert_eq!(owners.of(&created, &accounts).iter().copied().collect::<Vec<_>>(), matching);
        }
        for n in 0..2 * REMEMBERED_TYPES {
            owners.of(&format!("order.n{n}").parse().unwrap(), &accounts);
        }
        assert!(owners.by_type.len() <= REMEMBERED_TYPES);
    }
}
