//! The jobs that a subscription had, told from its own stream, which is kept for ever.

use std::collections::BTreeMap;

use super::history::{Budget, HistoryError, Pages};
use super::subscription_stream;
use crate::codec;
use crate::domain::event::{Event, SubscriptionEvent};
use crate::domain::filter::{EventType, Filter, matches_any};
use crate::domain::id::SubscriptionId;
use crate::domain::job::{JobEnded, JobStarted};
use crate::domain::subscription::Settings;
use crate::domain::time::Timestamp;
use crate::event_store::EventReader;

/// A job as it was recorded.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RecordedJob {
    /// How it was started.
    pub started: JobStarted,
    /// When.
    pub started_at: Timestamp,
    /// How and when it ended; `None`: it has not.
    pub ended: Option<(JobEnded, Timestamp)>,
}

/// The jobs of a subscription, the newest first, at most so many. The caller has checked whose it is.
pub async fn jobs(
    reader: &dyn EventReader,
    id: SubscriptionId,
    most: usize,
    budget: &Budget,
) -> Result<Vec<RecordedJob>, HistoryError> {
    let mut jobs: Vec<RecordedJob> = Vec::new();
    let mut pages = Pages::of(reader, subscription_stream(id), budget);
    while let Some(page) = pages.next().await? {
        for recorded in page {
            match codec::decode(&recorded)? {
                Event::Subscription(SubscriptionEvent::JobStarted(started)) => {
                    jobs.push(RecordedJob { started, started_at: recorded.at, ended: None });
                }
                Event::Subscription(SubscriptionEvent::JobEnded(ended)) => {
                    if let Some(job) = jobs.last_mut() {
                        job.ended = Some((ended, recorded.at));
                    }
                }
                Event::Subscription(_) | Event::Tenant(_) | Event::Message(_) | Event::Delivery(_) => {}
            }
        }
    }
    jobs.reverse();
    jobs.truncate(most);
    Ok(jobs)
}

/// What a subscription wanted at which place of the log: what the matcher goes by.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Wants(BTreeMap<u64, Vec<Filter>>);

impl Wants {
    /// Whether a message of that type with this number was picked when it was published, and so is, was or will be owed.
    pub fn picked(&self, message_seq: u64, event_type: &EventType) -> bool {
        let before = self.0.range(..message_seq).next_back();
        before.is_some_and(|(_, filters)| matches_any(filters, event_type))
    }
}

/// What a subscription wanted, from its creation on. The caller has checked whose it is.
pub async fn wants(reader: &dyn EventReader, id: SubscriptionId, budget: &Budget) -> Result<Wants, HistoryError> {
    let (mut wants, mut settings) = (Wants::default(), None::<Settings>);
    let mut pages = Pages::of(reader, subscription_stream(id), budget);
    while let Some(page) = pages.next().await? {
        for recorded in page {
            let Event::Subscription(event) = codec::decode(&recorded)? else { continue };
            if let SubscriptionEvent::Created(created) = &event {
                settings = Some(Settings::created(created));
            } else if let Some(settings) = &mut settings {
                settings.evolve(&event);
                // While it was deleted nothing was owed; it comes back disabled.
                settings.enabled &= !matches!(event, SubscriptionEvent::Deleted(_));
            }
            let filters = settings.as_ref().filter(|settings| settings.enabled).map(|now| now.filters.clone());
            let filters = filters.unwrap_or_default();
            if wants.0.last_key_value().is_none_or(|(_, before)| *before != filters) {
                wants.0.insert(recorded.position.seq, filters);
            }
        }
    }
    Ok(wants)
}
