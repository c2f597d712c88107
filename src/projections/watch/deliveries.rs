//! Deliveries as they change.
//!
//! The rows say how a delivery stands, not when it came to stand so; the log says which deliveries changed, and the rows
//! how they stand now. A deletion ends all open deliveries of its subscription by one event: they are told one by one,
//! in the order of their rows, and the text of the key says how many of them were.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use futures_util::FutureExt;

use super::super::columns::{Columns, integer, packed};
use super::super::delivery_queries::DeliveryFilter;
use super::super::rows::{DeliveryRow, DeliveryStatus};
use super::super::{Key, Name, Page, QueryError, ReadModels, TenantScope, audit, columns, entry};
use super::{Front, WatchError};
use crate::codec;
use crate::domain::event::{DeliveryEvent, Event, SubscriptionEvent};
use crate::domain::id::{DeliveryId, SubscriptionId};
use crate::event_store::{Position, Recorded};
use crate::execute::{self, DELIVERIES_CATEGORY, SUBSCRIPTION_CATEGORY};

/// Events that are read at a time.
const PAGE: usize = 512;
/// Subscriptions of which a watcher remembers whether they are its tenant's.
const REMEMBERED: usize = 4_096;
/// Whose they are says the audit log's table, which keeps deleted ones too.
const PROJECTIONS: [Name; 2] = [Name::Deliveries, Name::Audit];

/// Tells changed deliveries.
pub struct DeliveryWatch {
    front: Front,
    scope: TenantScope,
    filter: DeliveryFilter,
    /// Everything up to this number was told.
    told: u64,
    /// Of a deletion that stands behind it, everything up to this key of the list of deliveries.
    told_within: Option<i64>,
    owned: HashMap<SubscriptionId, bool>,
}

/// What the next events have to tell.
enum Next {
    /// These deliveries changed, each last at the number, up to the number behind them.
    Changed(HashMap<DeliveryId, u64>, u64),
    /// The subscription was deleted.
    Deleted(SubscriptionId, Arc<Recorded>),
}

impl ReadModels {
    /// Watches deliveries, from behind the key on; without one from now on.
    ///
    /// # Errors
    /// [`WatchError::Foreign`] if the key cannot be one of the tenant's, [`WatchError::Dropped`] if it is too old.
    pub fn watch_deliveries(
        &self,
        scope: TenantScope,
        filter: DeliveryFilter,
        after: Option<&Key>,
    ) -> Result<DeliveryWatch, WatchError> {
        let front = Front::of(self, scope, &PROJECTIONS)?;
        let (mut told, mut told_within) = (front.applied(), None);
        if let Some(key) = after {
            told = front.number(key)?;
            if !key.1.is_empty() {
                told_within = Some(key.1.parse().map_err(|_| WatchError::Foreign)?);
                told = told.checked_sub(1).ok_or(WatchError::Foreign)?;
            }
        }
        let watch = DeliveryWatch { front, scope, filter, told, told_within, owned: HashMap::new() };
        if after.is_some() {
            watch.check_kept()?;
        }
        Ok(watch)
    }
}

impl DeliveryWatch {
    /// Waits for the next changes. Loses none if it is dropped while it waits.
    ///
    /// # Errors
    /// [`WatchError::Dropped`] if the log has dropped what was to be told next.
    pub async fn next(&mut self) -> Result<Vec<(Key, DeliveryRow)>, WatchError> {
        loop {
            let applied = self.front.beyond(self.told).await;
            let rows = match self.next_events(applied).await? {
                Next::Changed(changed, through) => {
                    let rows = self.changed(&changed).await?;
                    self.told = through;
                    rows
                }
                Next::Deleted(subscription, recorded) => self.cancelled(subscription, &recorded).await?,
            };
            if self.told < applied {
                // The rest is there: no reason to wait for it.
                self.front.looked_at = None;
            }
            if !rows.is_empty() {
                return Ok(rows);
            }
        }
    }

    fn check_kept(&self) -> Result<(), WatchError> {
        if self.told < self.front.log.floor(self.front.shard) { Err(WatchError::Dropped) } else { Ok(()) }
    }

    async fn next_events(&mut self, applied: u64) -> Result<Next, WatchError> {
        let (log, after) = (self.front.log.clone(), Position { shard: self.front.shard, seq: self.told });
        let mut entries = entry::page(PAGE, |count| log.read_log(after, count).boxed()).await?;
        // The floor is asked for after the events: it may be raised meanwhile.
        self.check_kept()?;
        entries.retain(|entry| entry.position().seq <= applied);
        let subscriptions = entries.iter().filter_map(|entry| self.subscription(entry.stream())).collect();
        self.learn_owners(subscriptions).await?;
        let mut changed = HashMap::new();
        for (index, entry) in entries.iter().enumerate() {
            let entry::Entry::Event(recorded) = entry else { continue };
            let subscription = self.subscription(&recorded.stream);
            let Some(subscription) = subscription.filter(|id| self.owned.get(id) == Some(&true)) else { continue };
            // One that cannot be decoded is left out by the projection too.
            let Ok(event) = codec::decode(recorded) else { continue };
            let seq = recorded.position.seq;
            match event {
                Event::Delivery(event) => drop(delivery_of(&event).map(|delivery| changed.insert(delivery, seq))),
                Event::Subscription(SubscriptionEvent::Deleted(_)) if index == 0 => {
                    return Ok(Next::Deleted(subscription, Arc::clone(recorded)));
                }
                // It comes first the next time.
                Event::Subscription(SubscriptionEvent::Deleted(_)) => return Ok(Next::Changed(changed, seq - 1)),
                Event::Subscription(_) | Event::Message(_) | Event::Tenant(_) => {}
            }
        }
        Ok(Next::Changed(changed, entries.last().map_or(applied, |entry| entry.position().seq)))
    }

    /// Whose stream it is, if what stands there can have something to tell.
    fn subscription(&self, stream: &str) -> Option<SubscriptionId> {
        let (category, _) = stream.split_once('-')?;
        let id =
            [DELIVERIES_CATEGORY, SUBSCRIPTION_CATEGORY].contains(&category).then(|| execute::subscription_of(stream));
        id?.filter(|id| self.filter.subscription.is_none_or(|wanted| wanted == *id))
    }

    async fn learn_owners(&mut self, ids: HashSet<SubscriptionId>) -> Result<(), QueryError> {
        if self.owned.len() > REMEMBERED {
            self.owned.retain(|id, _| ids.contains(id));
        }
        let unknown: Vec<_> = ids.into_iter().filter(|id| !self.owned.contains_key(id)).collect();
        if unknown.is_empty() {
            return Ok(());
        }
        let found = self.front.read_models.owned(self.scope, &unknown).await?;
        self.owned.extend(unknown.into_iter().map(|id| (id, found.contains(&id))));
        Ok(())
    }

    /// How those stand now that changed, in the order of their last changes.
    async fn changed(&self, changed: &HashMap<DeliveryId, u64>) -> Result<Vec<(Key, DeliveryRow)>, QueryError> {
        let ids: Vec<DeliveryId> = changed.keys().copied().collect();
        if ids.is_empty() {
            return Ok(vec![]);
        }
        let rows = self.front.read_models.deliveries_by_ids(self.scope, &ids).await?;
        let wanted = rows.into_iter().filter(|row| self.wants(row));
        let mut rows: Vec<(u64, DeliveryRow)> = wanted.map(|row| (changed[&row.id], row)).collect();
        rows.sort_unstable_by_key(|(seq, _)| *seq);
        Ok(rows.into_iter().map(|(seq, row)| (self.front.key(seq), row)).collect())
    }

    fn wants(&self, row: &DeliveryRow) -> bool {
        self.filter.subscription.is_none_or(|id| id == row.subscription)
            && self.filter.message.is_none_or(|id| id == row.message)
            && (self.filter.statuses.is_empty() || self.filter.statuses.contains(&row.status))
            && self.filter.event_types.as_ref().is_none_or(|types| types.contains(&row.event_type))
            && self
                .filter
                .status_codes
                .as_ref()
                .is_none_or(|range| row.last_status.is_some_and(|code| range.contains(&code)))
    }

    /// The next of those that the deletion cancelled; none of them once all were told.
    async fn cancelled(
        &mut self,
        subscription: SubscriptionId,
        deleted: &Recorded,
    ) -> Result<Vec<(Key, DeliveryRow)>, QueryError> {
        let cancelled = DeliveryStatus::Cancelled;
        let filter = DeliveryFilter {
            subscription: Some(subscription),
            message: self.filter.message,
            statuses: vec![cancelled],
            ..DeliveryFilter::default()
        };
        // The list begins with the newest; its end are the oldest ones that were not told.
        let before = Some(Key(self.told_within.unwrap_or(0), String::new()));
        let page = Page { after: None, before, limit: PAGE, from_end: true };
        let slice = self.front.read_models.deliveries(self.scope, &filter, &page).await?;
        match slice.edge.as_ref().or(slice.rows.first().map(|(key, _)| key)) {
            Some(key) if slice.has_more => self.told_within = Some(key.0),
            Some(_) | None => (self.told, self.told_within) = (deleted.position.seq, None),
        }
        let event = integer(packed(deleted.position));
        let by_deletion = slice.rows.into_iter().rev().filter(|(_, row)| row.completed_at == Some(deleted.at));
        let told = by_deletion.filter(|(_, row)| self.wants(row));
        Ok(told.map(|(key, row)| (Key(event, key.0.to_string()), row)).collect())
    }
}

impl ReadModels {
    /// Those of the subscriptions that are or were the tenant's.
    async fn owned(&self, scope: TenantScope, ids: &[SubscriptionId]) -> Result<HashSet<SubscriptionId>, QueryError> {
        let query = sqlx::query(audit::OWNERS).bind(columns::id_list(ids.iter().copied()));
        let mut owned = HashSet::new();
        for row in &query.fetch_all(&self.inner.database.readers).await? {
            let mut columns = Columns::of(row);
            let (id, tenant) = (columns.id()?, columns.id()?);
            if scope == TenantScope(tenant) {
                owned.insert(id);
            }
        }
        Ok(owned)
    }
}

/// Which delivery's row changes by the event.
fn delivery_of(event: &DeliveryEvent) -> Option<DeliveryId> {
    match event {
        DeliveryEvent::Scheduled(event) => Some(event.delivery),
        DeliveryEvent::Backfilled(event) => Some(event.delivery),
        DeliveryEvent::AttemptFailed(event) => Some(event.delivery),
        DeliveryEvent::Succeeded(event) => Some(event.delivery),
        DeliveryEvent::Exhausted(event) => Some(event.delivery),
        DeliveryEvent::Expired(event) => Some(event.delivery),
        DeliveryEvent::Rescheduled(event) => Some(event.delivery),
        DeliveryEvent::Cancelled(event) => Some(event.delivery),
        DeliveryEvent::PeriodOpened(_) | DeliveryEvent::Carried(_) | DeliveryEvent::JobAdvanced(_) => None,
    }
}
