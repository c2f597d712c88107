//! What jobs can be made of, in the simplest way: the whole log, read anew each time. In place of the read models.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Bound::{Excluded, Included};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use async_trait::async_trait;
use tidings::actors::{Candidates, Found, Pick, Unavailable, Wanted};
use tidings::codec;
use tidings::domain::event::{DeliveryEvent, Event, MessageEvent};
use tidings::domain::id::{DeliveryId, MessageId};
use tidings::domain::job::{Ended, Source};
use tidings::event_store::{EventReader, Position, Recorded};
use tidings::execute::history::Budget;
use tidings::execute::{self, jobs};

use super::watched_store::WatchedStore;

pub(crate) struct FromLog {
    store: Arc<WatchedStore>,
    /// So many looks fail before the next one succeeds.
    pub(crate) failing: AtomicUsize,
}

impl FromLog {
    pub(crate) fn new(store: Arc<WatchedStore>) -> Self {
        Self { store, failing: AtomicUsize::new(0) }
    }

    /// Every message behind the cursor that is picked, with whether the subscription has a delivery of it.
    async fn missed(&self, wanted: &Wanted) -> Vec<(Pick, bool)> {
        let memory = &self.store.memory;
        let wants = jobs::wants(memory, wanted.subscription, &Budget::default()).await.unwrap();
        let stream = execute::deliveries_stream(wanted.subscription);
        let recorded = memory.read_stream(&stream, 1, usize::MAX).await.unwrap();
        let owed: BTreeSet<MessageId> = recorded.iter().filter_map(message_owed).collect();
        let after = Position { shard: wanted.shard, seq: wanted.cursor };
        let mut missed = vec![];
        for recorded in memory.read_log(after, usize::MAX).await.unwrap() {
            let seq = recorded.position.seq;
            if let Event::Message(MessageEvent::Published(message)) = codec::decode(&recorded).unwrap()
                && (message.tenant, seq <= wanted.selection.through) == (wanted.tenant, true)
                && wanted.selection.wants(&message.event_type)
                && !wants.picked(seq, &message.event_type)
            {
                let pick = Pick { original: None, message: message.message, message_seq: seq, sequence: None };
                missed.push((pick, owed.contains(&message.message)));
            }
        }
        missed
    }

    async fn find_missed(&self, wanted: &Wanted) -> Found {
        let mut found = Found { cursor: wanted.cursor, ..Found::default() };
        for (pick, owed) in self.missed(wanted).await {
            if found.deliveries.len() == wanted.most {
                return found;
            }
            found.cursor = pick.message_seq;
            if owed {
                found.passed_over += 1;
            } else {
                found.deliveries.push(pick);
            }
        }
        Found { cursor: wanted.selection.through, last: true, ..found }
    }

    /// Every delivery by the number of the event that scheduled it, and how it ended.
    async fn deliveries(&self, wanted: &Wanted) -> BTreeMap<u64, (Pick, Option<Ended>)> {
        let stream = execute::deliveries_stream(wanted.subscription);
        let recorded = self.store.memory.read_stream(&stream, 1, usize::MAX).await.unwrap();
        let mut all: BTreeMap<u64, (Pick, Option<Ended>)> = BTreeMap::new();
        let end = |all: &mut BTreeMap<u64, (Pick, Option<Ended>)>, id: DeliveryId, how| {
            let found = all.values_mut().find(|(pick, _)| pick.original == Some(id));
            // None: how it began is gone with its bucket.
            if let Some((_, ended)) = found {
                *ended = Some(how);
            }
        };
        for recorded in recorded {
            let Event::Delivery(event) = codec::decode(&recorded).unwrap() else { continue };
            match event {
                DeliveryEvent::Scheduled(new) => {
                    let (message, message_seq, sequence) = (new.message, new.message_seq, new.sequence);
                    let pick = Pick { original: Some(new.delivery), message, message_seq, sequence };
                    all.insert(recorded.position.seq, (pick, None));
                }
                DeliveryEvent::Exhausted(event) => end(&mut all, event.delivery, Ended::Failed),
                DeliveryEvent::Expired(event) => end(&mut all, event.delivery, Ended::Failed),
                DeliveryEvent::Succeeded(event) => end(&mut all, event.delivery, Ended::Succeeded),
                DeliveryEvent::Cancelled(event) => end(&mut all, event.delivery, Ended::Cancelled),
                DeliveryEvent::Backfilled(_)
                | DeliveryEvent::AttemptFailed(_)
                | DeliveryEvent::Rescheduled(_)
                | DeliveryEvent::JobAdvanced(_)
                | DeliveryEvent::PeriodOpened(_)
                | DeliveryEvent::Carried(_) => {}
            }
        }
        all
    }
}

#[async_trait]
impl Candidates for FromLog {
    async fn find(&self, wanted: &Wanted) -> Result<Found, Unavailable> {
        let fails = |left: usize| left.checked_sub(1);
        if self.failing.fetch_update(Ordering::SeqCst, Ordering::SeqCst, fails).is_ok() {
            return Err(Unavailable("as the test says".into()));
        }
        let Source::Redelivery(statuses) = &wanted.selection.source else { return Ok(self.find_missed(wanted).await) };
        let all = self.deliveries(wanted).await;
        let mut found = Found { cursor: wanted.selection.through, last: true, ..Found::default() };
        for (seq, (pick, ended)) in all.range((Excluded(wanted.cursor), Included(wanted.selection.through))) {
            if ended.is_none_or(|ended| !statuses.contains(&ended)) {
                continue;
            }
            if found.deliveries.len() == wanted.most {
                return Ok(Found { last: false, ..found });
            }
            let superseded = all.range(seq + 1..).any(|(_, (later, _))| later.message == pick.message);
            if superseded {
                found.passed_over += 1;
            } else {
                found.deliveries.push(*pick);
            }
            if found.deliveries.len() == wanted.most {
                found.cursor = *seq;
            }
        }
        found.cursor = wanted.selection.through;
        Ok(found)
    }
}

/// The message of which this makes a delivery.
fn message_owed(recorded: &Recorded) -> Option<MessageId> {
    match codec::decode(recorded).unwrap() {
        Event::Delivery(DeliveryEvent::Scheduled(scheduled)) => Some(scheduled.message),
        Event::Delivery(DeliveryEvent::Backfilled(backfilled)) => Some(backfilled.message),
        Event::Delivery(_) | Event::Tenant(_) | Event::Message(_) | Event::Subscription(_) => None,
    }
}
