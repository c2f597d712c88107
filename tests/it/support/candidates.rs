//! What jobs can be made of, in the simplest way: the whole log, read anew each time. In place of the read models.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use async_trait::async_trait;
use tidings::actors::{Candidates, Found, Pick, Unavailable, Wanted};
use tidings::codec;
use tidings::domain::event::{DeliveryEvent, Event};
use tidings::domain::id::DeliveryId;
use tidings::domain::job::{Ended, Source};
use tidings::event_store::EventReader;
use tidings::execute;

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

    /// Every delivery by the number of the event that scheduled it, and how it ended.
    async fn deliveries(&self, wanted: &Wanted) -> BTreeMap<u64, (Pick, Option<Ended>)> {
        let stream = execute::deliveries_stream(wanted.subscription);
        let recorded = self.store.memory.read_stream(&stream, 1, usize::MAX).await.unwrap();
        let mut all: BTreeMap<u64, (Pick, Option<Ended>)> = BTreeMap::new();
        let end = |all: &mut BTreeMap<u64, (Pick, Option<Ended>)>, id: DeliveryId, how| {
            let found = all.values_mut().find(|(pick, _)| pick.original == Some(id));
            found.unwrap().1 = Some(how);
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
        let Source::Redelivery(statuses) = &wanted.selection.source else { panic!("backfills read no deliveries") };
        let all = self.deliveries(wanted).await;
        let mut found = Found { cursor: wanted.selection.through, last: true, ..Found::default() };
        for (seq, (pick, ended)) in all.range(wanted.cursor + 1..=wanted.selection.through) {
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
