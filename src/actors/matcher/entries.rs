//! What stands in the log, as far as it concerns the matcher.
//!
//! What cannot be read is an entry like any other: whose it is says the name of its stream, and nobody else is to wait for
//! it. What names nobody, or is missing, stops the matcher: it may concern anybody.

use super::MatcherError;
use crate::codec;
use crate::domain::event::{Event, MessageEvent, SubscriptionEvent};
use crate::domain::id::{SubscriptionId, TenantId};
use crate::event_store::{Log, Position, ReadError, Recorded};
use crate::execute::{MESSAGES_CATEGORY, SUBSCRIPTION_CATEGORY, Unreadable, subscription_of, tenant_of};

/// An event of the log.
pub(super) struct Entry {
    pub(super) seq: u64,
    pub(super) concern: Concern,
}

/// Whom it concerns, and what it says.
pub(super) enum Concern {
    /// A subscription's own life.
    Subscription(SubscriptionId, Result<Box<SubscriptionEvent>, Unreadable>),
    /// Every subscription of the tenant.
    Messages(TenantId, Result<MessageEvent, Unreadable>),
    Nobody,
}

/// The events after `after`, in order; at least one if there is one, and at most `limit`.
pub(super) async fn page(log: &Log, after: Position, limit: usize) -> Result<Vec<Entry>, MatcherError> {
    let mut count = limit;
    loop {
        let error = match log.read_log(after, count).await {
            Ok(events) => return events.iter().map(|recorded| Entry::of(recorded)).collect(),
            Err(error) => error,
        };
        let Some(event) = Unreadable::of_read(&error) else { return Err(error.into()) };
        if count == 1 {
            return Ok(vec![Entry::unreadable(event)?]);
        }
        // So many stand before it at most, fewer where a bucket was dropped.
        let before = event.position.seq.saturating_sub(after.seq + 1);
        count = usize::try_from(before).unwrap_or(count).clamp(1, count / 2);
    }
}

/// Events of the subscriptions' own lives at or before `up_to`, continuing behind `after`, and the first of them that
/// cannot be read, if that is the next one. Both are empty at the end.
pub(super) async fn lives(
    log: &Log,
    up_to: Position,
    after: Option<(&str, u64)>,
    limit: usize,
) -> Result<(Vec<Recorded>, Option<Unreadable>), ReadError> {
    let mut count = limit;
    loop {
        let error = match log.read_category(SUBSCRIPTION_CATEGORY, up_to, after, count).await {
            Ok(events) => return Ok((events, None)),
            Err(error) => error,
        };
        let Some(event) = Unreadable::of_read(&error) else { return Err(error) };
        if count == 1 {
            return Ok((vec![], Some(event)));
        }
        count /= 2;
    }
}

impl Entry {
    pub(super) fn of(recorded: &Recorded) -> Result<Self, MatcherError> {
        Self::new(recorded.position, &recorded.stream, || {
            codec::decode(recorded).map_err(|error| Unreadable::of_decode(&error))
        })
    }

    fn unreadable(event: Unreadable) -> Result<Self, MatcherError> {
        let (position, stream) = (event.position, event.stream.clone());
        Self::new(position, &stream, || Err(event))
    }

    fn new(
        position: Position,
        stream: &str,
        event: impl FnOnce() -> Result<Event, Unreadable>,
    ) -> Result<Self, MatcherError> {
        let stray = || MatcherError::Stray { position, stream: stream.to_owned() };
        let foreign = || {
            let reason = format!("the event at {position} does not belong into its stream");
            Unreadable { position, stream: stream.to_owned(), reason }
        };
        let concern = match stream.split_once('-') {
            Some((SUBSCRIPTION_CATEGORY, _)) => {
                let event = event().and_then(|event| match event {
                    Event::Subscription(event) => Ok(Box::new(event)),
                    Event::Tenant(_) | Event::Message(_) | Event::Delivery(_) => Err(foreign()),
                });
                Concern::Subscription(subscription_of(stream).ok_or_else(stray)?, event)
            }
            Some((MESSAGES_CATEGORY, _)) => {
                let event = event().and_then(|event| match event {
                    Event::Message(event) => Ok(event),
                    Event::Tenant(_) | Event::Subscription(_) | Event::Delivery(_) => Err(foreign()),
                });
                Concern::Messages(tenant_of(stream).ok_or_else(stray)?, event)
            }
            Some(_) => Concern::Nobody,
            None => return Err(stray()),
        };
        Ok(Self { seq: position.seq, concern })
    }
}
