//! What became of every message, computed from the log alone with plain code: nothing here asks the domain's folds.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use tidings::codec;
use tidings::domain::event::{
    CarriedDelivery, DeliveryBackfilled, DeliveryEvent, DeliveryScheduled, Event, MessageEvent, SubscriptionEvent,
};
use tidings::domain::id::{DeliveryId, JobId, MessageId, SubscriptionId, TenantId};
use tidings::domain::job::Source;
use tidings::event_store::{Position, Recorded};
use tidings::execute::subscription_of;

use crate::support::simulation::START;

/// Everybody's account, as of the last event that was entered.
#[derive(Default)]
pub(super) struct Ledger {
    pub(super) accounts: BTreeMap<SubscriptionId, Account>,
    pub(super) messages: BTreeSet<MessageId>,
}

/// What one subscription was owed, and what it got.
pub(super) struct Account {
    tenant: TenantId,
    filters: Vec<String>,
    enabled: bool,
    pub(super) deleted: bool,
    /// Matched and not scheduled yet, in log order.
    waiting: VecDeque<(u64, MessageId)>,
    /// Matched and passed over by a recorded act.
    pub(super) skipped: usize,
    pub(super) deliveries: BTreeMap<DeliveryId, Delivery>,
    /// The place of the newest scheduled match.
    sequence: u64,
    matched: BTreeSet<MessageId>,
    requested: BTreeSet<DeliveryId>,
    jobs: BTreeMap<JobId, Job>,
    /// What jobs made, by what it was made of.
    pub(super) remade: BTreeSet<DeliveryId>,
    pub(super) backfilled: BTreeSet<MessageId>,
    /// The deliveries that ended well, with when their last attempt began.
    pub(super) successes: Vec<(MessageId, u64)>,
    /// When nothing was to be sent, and why.
    pub(super) silences: Vec<Silence>,
    pub(super) trips: usize,
}

/// One message owed.
pub(super) struct Delivery {
    pub(super) message: MessageId,
    pub(super) message_seq: u64,
    pub(super) sequence: Option<u64>,
    attempts: u32,
    pub(super) end: Option<End>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum End {
    Succeeded,
    Exhausted,
    Expired,
    Cancelled,
    Deleted,
}

/// What a job says of itself.
struct Job {
    is_backfill: bool,
    scheduled: u64,
    ended: bool,
}

/// Times are milliseconds that passed since [`START`], whatever the clock was set to.
pub(super) struct Silence {
    pub(super) why: Why,
    pub(super) from: u64,
    pub(super) until: Option<u64>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Why {
    Disabled,
    CircuitOpen,
    Deleted,
}

impl Ledger {
    /// The events of one shard after the other, each in log order.
    /// `passed_ms` says how much time had passed when the clock said that, at that place in the log.
    pub(super) fn of(events: &[Recorded], passed_ms: impl Fn(u64, Position) -> u64) -> Self {
        let mut ledger = Self::default();
        for recorded in events {
            ledger.enter(recorded, |clock_ms| passed_ms(clock_ms, recorded.position));
        }
        ledger
    }

    fn enter(&mut self, recorded: &Recorded, passed_ms: impl Fn(u64) -> u64) {
        let at = passed_ms(recorded.at.ms_since(START));
        let owner = || subscription_of(&recorded.stream).unwrap();
        match codec::decode(recorded).unwrap() {
            Event::Tenant(_) | Event::Message(MessageEvent::PeriodOpened(_) | MessageEvent::PayloadErased(_)) => {}
            Event::Message(MessageEvent::Published(message)) => {
                assert!(self.messages.insert(message.message), "{} was published twice", message.message);
                let matching = self.accounts.values_mut().filter(|account| account.tenant == message.tenant);
                for account in matching.filter(|account| account.wants(message.event_type.as_str())) {
                    account.matched.insert(message.message);
                    account.waiting.push_back((recorded.position.seq, message.message));
                }
            }
            Event::Subscription(SubscriptionEvent::Created(created)) => {
                let account = Account::new(created.tenant, &created.filters, created.enabled, at);
                assert!(self.accounts.insert(created.subscription, account).is_none(), "created twice");
            }
            Event::Subscription(event) => self.accounts.get_mut(&owner()).unwrap().live(&event, at),
            Event::Delivery(event) => {
                let account = self.accounts.get_mut(&owner()).unwrap();
                assert!(!account.deleted, "{event:?} at {} is later than the deletion", recorded.position);
                account.deliver(&event, passed_ms);
            }
        }
    }

    /// Between any two appends: what jobs say that they did is what was done.
    pub(super) fn assert_jobs_told(&self) {
        for (id, account) in &self.accounts {
            let told = |is_backfill: bool| {
                let jobs = account.jobs.values().filter(|job| job.is_backfill == is_backfill);
                jobs.map(|job| job.scheduled).sum::<u64>()
            };
            let done = (account.remade.len() as u64, account.backfilled.len() as u64);
            assert_eq!(done, (told(false), told(true)), "what jobs of {id} made again and backfilled");
        }
    }

    /// Whether everybody has got everything, or given it up.
    pub(super) fn is_settled(&self) -> bool {
        let mut living = self.accounts.values().filter(|account| !account.deleted);
        living.all(|account| {
            let jobs = account.jobs.values().all(|job| job.ended);
            jobs && account.waiting.is_empty() && account.deliveries.values().all(|owed| owed.end.is_some())
        })
    }

    /// Once there was time for everything: nothing is unaccounted for.
    pub(super) fn assert_settled(&self) {
        for (id, account) in self.accounts.iter().filter(|(_, account)| !account.deleted) {
            assert!(account.waiting.is_empty(), "{id} was never owed what it matched: {:?}", account.waiting);
            let open = account.deliveries.iter().filter(|(_, delivery)| delivery.end.is_none());
            let open: Vec<_> = open.map(|(id, delivery)| (id.to_string(), delivery.message_seq)).collect();
            assert!(open.is_empty(), "{id} still owes {open:?}");
            let running = account.jobs.iter().find(|(_, job)| !job.ended).map(|(job, _)| job);
            assert!(running.is_none(), "{running:?} of {id} has not ended");
            let owed: BTreeSet<_> = account.deliveries.values().map(|delivery| delivery.message).collect();
            assert_eq!(
                owed.difference(&account.backfilled).count() + account.skipped,
                account.matched.len(),
                "{id}: not all that matched is accounted for"
            );
        }
    }
}

impl Account {
    fn new(tenant: TenantId, filters: &[tidings::domain::filter::Filter], enabled: bool, at: u64) -> Self {
        let mut account = Self {
            tenant,
            filters: vec![],
            enabled,
            deleted: false,
            waiting: VecDeque::new(),
            skipped: 0,
            deliveries: BTreeMap::new(),
            sequence: 0,
            matched: BTreeSet::new(),
            requested: BTreeSet::new(),
            jobs: BTreeMap::new(),
            remade: BTreeSet::new(),
            backfilled: BTreeSet::new(),
            successes: vec![],
            silences: vec![],
            trips: 0,
        };
        account.filter_by(filters);
        if !enabled {
            account.fall_silent(Why::Disabled, at);
        }
        account
    }

    fn filter_by(&mut self, filters: &[tidings::domain::filter::Filter]) {
        self.filters = filters.iter().map(|filter| filter.as_str().to_owned()).collect();
    }

    fn wants(&self, event_type: &str) -> bool {
        let accepts = |filter: &String| match filter.strip_suffix("**") {
            Some(prefix) => event_type.starts_with(prefix),
            None => filter == event_type,
        };
        self.enabled && !self.deleted && self.filters.iter().any(accepts)
    }

    fn live(&mut self, event: &SubscriptionEvent, at: u64) {
        let is_of_the_deleted =
            matches!(event, SubscriptionEvent::Restored(_) | SubscriptionEvent::SecretsDestroyed(_));
        assert_eq!(self.deleted, is_of_the_deleted, "{event:?} is later than the deletion, or without one");
        match event {
            SubscriptionEvent::Updated(updated) => {
                if let Some(change) = &updated.filters {
                    self.filter_by(&change.to);
                }
            }
            SubscriptionEvent::Enabled(_) => {
                self.enabled = true;
                self.speak(Why::Disabled, at);
            }
            SubscriptionEvent::Disabled(_) => {
                self.enabled = false;
                self.fall_silent(Why::Disabled, at);
            }
            SubscriptionEvent::CircuitTripped(_) => {
                self.trips += 1;
                self.fall_silent(Why::CircuitOpen, at);
            }
            SubscriptionEvent::CircuitReenabled(reenabled) => {
                self.speak(Why::CircuitOpen, at);
                self.pass_over(reenabled.skipped_through.max(reenabled.lost_through));
            }
            SubscriptionEvent::CircuitProbing(probing) => {
                self.speak(Why::CircuitOpen, at);
                self.pass_over(probing.lost_through);
            }
            SubscriptionEvent::MatchesLost(lost) => self.pass_over(Some(lost.through)),
            SubscriptionEvent::RedeliveryRequested(requested) => {
                assert!(self.requested.insert(requested.delivery), "a redelivery was asked for twice");
            }
            SubscriptionEvent::JobStarted(started) => {
                assert!(self.jobs.values().all(|job| job.ended), "two jobs at a time");
                let is_backfill = started.selection.source == Source::Backfill;
                let new = Job { is_backfill, scheduled: 0, ended: false };
                assert!(self.jobs.insert(started.job, new).is_none(), "a job was started twice");
            }
            SubscriptionEvent::JobEnded(ended) => {
                self.job(ended.job).scheduled = ended.scheduled;
                self.job(ended.job).ended = true;
            }
            SubscriptionEvent::Deleted(_) => {
                self.deleted = true;
                self.fall_silent(Why::Deleted, at);
                self.skipped += self.waiting.len();
                self.waiting.clear();
                for delivery in self.deliveries.values_mut() {
                    delivery.end.get_or_insert(End::Deleted);
                }
            }
            SubscriptionEvent::Restored(_) => {
                self.deleted = false;
                self.speak(Why::Deleted, at);
                if self.silences.iter().any(|silence| silence.why == Why::CircuitOpen && silence.until.is_none()) {
                    self.speak(Why::CircuitOpen, at);
                }
                if std::mem::take(&mut self.enabled) {
                    self.fall_silent(Why::Disabled, at);
                }
            }
            SubscriptionEvent::Created(_)
            | SubscriptionEvent::SecretsDestroyed(_)
            | SubscriptionEvent::SecretRotated(_)
            | SubscriptionEvent::HoldChanged(_)
            | SubscriptionEvent::TestSent(_)
            | SubscriptionEvent::EgressBlocked(_)
            | SubscriptionEvent::RescheduleRequested(_)
            | SubscriptionEvent::CancellationRequested(_)
            | SubscriptionEvent::CircuitClosed(_) => {}
        }
    }

    fn fall_silent(&mut self, why: Why, from: u64) {
        self.silences.push(Silence { why, from, until: None });
    }

    fn speak(&mut self, why: Why, at: u64) {
        let silence = self.silences.iter_mut().rfind(|silence| silence.why == why).unwrap();
        assert!(silence.until.replace(at).is_none(), "{why:?} ended twice");
    }

    fn pass_over(&mut self, through: Option<u64>) {
        let before = self.waiting.len();
        self.waiting.retain(|(seq, _)| through.is_none_or(|through| *seq > through));
        self.skipped += before - self.waiting.len();
    }

    fn deliver(&mut self, event: &DeliveryEvent, passed_ms: impl Fn(u64) -> u64) {
        match event {
            DeliveryEvent::Scheduled(scheduled) => self.owe(scheduled),
            DeliveryEvent::AttemptFailed(failed) => {
                let delivery = self.open(failed.delivery);
                delivery.attempts += 1;
                assert_eq!(
                    delivery.attempts, failed.number,
                    "attempts of {} do not follow one another",
                    failed.delivery
                );
            }
            DeliveryEvent::Succeeded(event) => {
                let delivery = self.open(event.delivery);
                assert_eq!(
                    delivery.attempts + 1,
                    event.number,
                    "attempts of {} do not follow one another",
                    event.delivery
                );
                delivery.end = Some(End::Succeeded);
                let success = (delivery.message, passed_ms(event.started_at.ms_since(START)));
                self.successes.push(success);
            }
            DeliveryEvent::Exhausted(event) => self.open(event.delivery).end = Some(End::Exhausted),
            DeliveryEvent::Expired(event) => self.open(event.delivery).end = Some(End::Expired),
            DeliveryEvent::Rescheduled(event) => {
                self.open(event.delivery);
            }
            DeliveryEvent::Cancelled(event) => self.open(event.delivery).end = Some(End::Cancelled),
            DeliveryEvent::PeriodOpened(opened) => {
                assert_eq!(opened.sequence, self.sequence, "a period begins with another place");
                self.carry(&opened.carried);
            }
            DeliveryEvent::Carried(carried) => self.carry(&carried.carried),
            DeliveryEvent::Backfilled(backfilled) => {
                let DeliveryBackfilled { delivery, message, message_seq, .. } = *backfilled;
                assert!(!self.matched.contains(&message), "{message} is backfilled and matched");
                assert!(self.backfilled.insert(message), "{message} is backfilled twice");
                self.begin(delivery, Delivery { message, message_seq, sequence: None, attempts: 0, end: None });
            }
            DeliveryEvent::JobAdvanced(progress) => self.job(progress.job).scheduled = progress.scheduled,
        }
    }

    /// The job that runs.
    fn job(&mut self, id: JobId) -> &mut Job {
        let job = self.jobs.get_mut(&id).unwrap_or_else(|| panic!("{id} was never started"));
        assert!(!job.ended, "something happens to {id} after its end");
        job
    }

    fn begin(&mut self, id: DeliveryId, delivery: Delivery) {
        assert!(self.deliveries.insert(id, delivery).is_none(), "{id} was scheduled twice");
    }

    fn owe(&mut self, scheduled: &DeliveryScheduled) {
        let &DeliveryScheduled { delivery, message, message_seq, sequence, redelivery_of, .. } = scheduled;
        match redelivery_of {
            None => {
                let next = self.waiting.pop_front();
                assert_eq!(Some((message_seq, message)), next, "owed out of order, twice, or without a match");
                self.sequence += 1;
                assert_eq!(sequence, Some(self.sequence), "the place of {message_seq}");
            }
            Some(original) => {
                if !self.requested.contains(&delivery) {
                    assert!(self.remade.insert(original), "a job makes {original} again, which one has done before");
                }
                let original = &self.deliveries[&original];
                assert!(original.end.is_some(), "made again before its end");
                assert_eq!((original.message, original.sequence), (message, sequence), "made again as another");
            }
        }
        self.begin(delivery, Delivery { message, message_seq, sequence, attempts: 0, end: None });
    }

    fn open(&mut self, id: DeliveryId) -> &mut Delivery {
        let delivery = self.deliveries.get_mut(&id).unwrap_or_else(|| panic!("{id} was never owed"));
        assert_eq!(delivery.end, None, "something happens to {id} after its end");
        delivery
    }

    fn carry(&mut self, carried: &[CarriedDelivery]) {
        for carried in carried {
            let attempts = self.open(carried.delivery).attempts;
            assert_eq!(attempts, carried.failures + carried.uncounted, "{} is carried as another", carried.delivery);
        }
    }
}
