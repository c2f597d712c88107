//! Deliveries and their attempts, folded.
//!
//! A delivery that is scheduled and ends within one batch is written once, with its attempts. Whose it is and of
//! which event type stands in its message's event: messages are remembered as they pass, and read again from the log
//! when a delivery refers to an old one.
//!
//! A delivery has a row as long as its message may be in the log: behind the floor. What is recorded of one whose
//! message is older changes nothing but when the subscription last delivered.

use std::collections::{HashMap, HashSet};
use std::num::NonZeroUsize;
use std::sync::LazyLock;

use async_trait::async_trait;
use lru::LruCache;
use sqlx::SqliteConnection;

use super::columns::{Columns, bytes, id_list, json_text, packed};
use super::delivery_queries::{TO_FOLD, delivery_row, status_number, word_text};
use super::entry::{self, Entry};
use super::held;
use super::projection::{ApplyError, Projection, Readable, Source};
use super::rows::{AttemptRow, DeliveryRow, DeliveryStatus};
use super::statement::ManyRows;
use super::statistics::Changes;
use crate::domain::event::{
    AttemptFailed, DeliveryBackfilled, DeliveryCancelled, DeliveryEvent, DeliveryExhausted, DeliveryExpired,
    DeliveryRescheduled, DeliveryScheduled, DeliverySucceeded, Event, MessageEvent, MessagePublished,
    SubscriptionEvent,
};
use crate::domain::filter::EventType;
use crate::domain::id::{DeliveryId, SubscriptionId, TenantId};
use crate::domain::time::Timestamp;
use crate::event_store::{Position, Recorded};
use crate::execute::{self, DELIVERIES_CATEGORY, MESSAGES_CATEGORY, SUBSCRIPTION_CATEGORY, Unreadable};

/// Messages remembered: more than can lie between a message and its first deliveries while nothing lags.
const REMEMBERED_MESSAGES: NonZeroUsize = NonZeroUsize::new(16_384).expect("not zero");
/// Events read from the log for a message that is not remembered: those behind it are likely to be asked for next.
const READ_AHEAD: usize = 64;

static PUT: LazyLock<ManyRows> = LazyLock::new(|| {
    ManyRows::new(
        "INSERT INTO delivery (position, id, tenant, subscription, message, message_position, event_type, status, attempts, \
         created_at_ms, completed_at_ms, next_attempt_at_ms, last_status, last_latency_ms, redelivery_of, sequence, \
         expiry) VALUES ",
        "(?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
        " ON CONFLICT (position) DO UPDATE SET status = excluded.status, attempts = excluded.attempts, \
         completed_at_ms = excluded.completed_at_ms, next_attempt_at_ms = excluded.next_attempt_at_ms, \
         last_status = excluded.last_status, last_latency_ms = excluded.last_latency_ms, expiry = excluded.expiry",
    )
});

static INSERT_ATTEMPTS: LazyLock<ManyRows> = LazyLock::new(|| {
    ManyRows::new(
        "INSERT INTO attempt (delivery, number, started_at_ms, latency_ms, failure, detail, status, preview, \
         truncated, retry_after_s, body_bytes, headers, class, revision) VALUES ",
        "(?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
        "",
    )
});

static PUT_LAST: LazyLock<ManyRows> = LazyLock::new(|| {
    ManyRows::new(
        "INSERT INTO last_delivery (subscription, position, at_ms) VALUES ",
        "(?, ?, ?)",
        " ON CONFLICT (subscription) DO UPDATE SET position = excluded.position, at_ms = excluded.at_ms",
    )
});

pub(super) const CANCEL: &str = "UPDATE delivery SET status = 3, completed_at_ms = $2, next_attempt_at_ms = NULL \
     WHERE subscription = $1 AND status = 0 AND position NOT IN (SELECT value FROM json_each($3)) RETURNING tenant";

/// The projection.
pub(super) struct Deliveries {
    messages: LruCache<Position, (TenantId, EventType)>,
}

impl Deliveries {
    pub(super) fn new() -> Self {
        Self { messages: LruCache::new(REMEMBERED_MESSAGES) }
    }

    fn remember(&mut self, position: Position, message: MessagePublished) {
        self.messages.put(position, (message.tenant, message.event_type));
    }

    /// Whose the message is, and its event type; `None` if it is so old that it may be gone.
    async fn message(
        &mut self,
        source: Source<'_>,
        recorded: &Recorded,
        seq: u64,
    ) -> Result<Option<(TenantId, EventType)>, ApplyError> {
        let position = Position { seq, ..recorded.position };
        if seq <= source.floor {
            return Ok(None);
        }
        if let Some(known) = self.messages.get(&position) {
            return Ok(Some(known.clone()));
        }
        let before = Position { seq: seq.saturating_sub(1), ..position };
        let entries = entry::page(READ_AHEAD, |count| source.reader.read_log(before, count)).await?;
        for entry in entries.iter().filter(|entry| is_message(entry)) {
            // What cannot be read is told of when it is applied, or below.
            if let Ok(Readable { event: Event::Message(MessageEvent::Published(message)), .. }) = held::readable(entry)
            {
                self.remember(entry.position(), message);
            }
        }
        if let Some(found) = self.messages.get(&position) {
            return Ok(Some(found.clone()));
        }
        if let Some(Err(event)) = entries.iter().find(|entry| entry.position() == position).map(held::readable) {
            let reason = format!("it is of the message at {position}: {}", event.reason);
            let (position, stream) = (recorded.position, recorded.stream.clone());
            return Err(ApplyError::Unreadable(Unreadable { position, stream, reason }));
        }
        // The floor may have risen since the events were read.
        match seq <= source.reader.floor(position.shard).await? {
            true => Ok(None),
            false => Err(ApplyError::event(recorded, format!("there is no message at {position}"))),
        }
    }

    async fn fold(
        &mut self,
        source: Source<'_>,
        recorded: &Recorded,
        event: Event,
        rows: &mut Rows,
    ) -> Result<(), ApplyError> {
        let floor = source.floor;
        match event {
            Event::Delivery(DeliveryEvent::Scheduled(scheduled)) => {
                let subscription = subscription_of(recorded)?;
                if let Some((tenant, event_type)) = self.message(source, recorded, scheduled.message_seq).await? {
                    let row = new_row(scheduled, recorded.at, subscription, tenant, event_type);
                    rows.deliveries.insert(row.id, (recorded.position, row));
                }
            }
            Event::Delivery(DeliveryEvent::Backfilled(backfilled)) => {
                let subscription = subscription_of(recorded)?;
                let DeliveryBackfilled { delivery, message, message_seq, revision, job: _ } = backfilled;
                let (sequence, redelivery_of) = (None, None);
                let scheduled = DeliveryScheduled { delivery, message, message_seq, revision, sequence, redelivery_of };
                if let Some((tenant, event_type)) = self.message(source, recorded, message_seq).await? {
                    let row = new_row(scheduled, recorded.at, subscription, tenant, event_type);
                    rows.deliveries.insert(row.id, (recorded.position, row));
                }
            }
            Event::Delivery(DeliveryEvent::AttemptFailed(failed)) => {
                let Some((position, row)) = rows.delivery(recorded, failed.delivery, floor)? else { return Ok(()) };
                row.attempts = failed.number;
                row.next_attempt_at = failed.due_at;
                row.last_status = failed.response.as_ref().map(|response| response.status);
                row.last_latency_ms = Some(failed.latency_ms);
                rows.attempts.push((position, failed_attempt(failed)));
            }
            Event::Delivery(DeliveryEvent::Succeeded(succeeded)) => {
                let Some((position, row)) = rows.delivery(recorded, succeeded.delivery, floor)? else { return Ok(()) };
                row.attempts = succeeded.number;
                row.last_status = Some(succeeded.response.status);
                row.last_latency_ms = Some(succeeded.latency_ms);
                end(row, DeliveryStatus::Succeeded, recorded.at);
                rows.attempts.push((position, successful_attempt(succeeded)));
            }
            Event::Delivery(DeliveryEvent::Exhausted(exhausted)) => {
                let Some((_, row)) = rows.delivery(recorded, exhausted.delivery, floor)? else { return Ok(()) };
                row.attempts = exhausted.attempts;
                end(row, DeliveryStatus::Failed, recorded.at);
            }
            // Not an attempt: its row may be gone with the message's, and nobody was called.
            Event::Delivery(DeliveryEvent::Expired(expired)) => {
                if let Some((_, row)) = rows.deliveries.get_mut(&expired.delivery) {
                    end(row, DeliveryStatus::Failed, recorded.at);
                    row.expiry = Some(expired.reason);
                }
            }
            Event::Delivery(DeliveryEvent::Rescheduled(rescheduled)) => {
                if let Some((_, row)) = rows.deliveries.get_mut(&rescheduled.delivery) {
                    row.next_attempt_at = Some(rescheduled.due_at);
                }
            }
            Event::Delivery(DeliveryEvent::Cancelled(cancelled)) => {
                if let Some((_, row)) = rows.deliveries.get_mut(&cancelled.delivery) {
                    end(row, DeliveryStatus::Cancelled, recorded.at);
                }
            }
            Event::Message(MessageEvent::Published(message)) => self.remember(recorded.position, message),
            // A period carries what is known already.
            Event::Delivery(
                DeliveryEvent::PeriodOpened(_) | DeliveryEvent::Carried(_) | DeliveryEvent::JobAdvanced(_),
            )
            | Event::Message(MessageEvent::PeriodOpened(_) | MessageEvent::PayloadErased(_))
            | Event::Subscription(_)
            | Event::Tenant(_) => {}
        }
        Ok(())
    }
}

fn is_message(entry: &Entry) -> bool {
    matches!(entry, Entry::Event(recorded) if recorded.kind.starts_with("message."))
}

fn subscription_of(recorded: &Recorded) -> Result<SubscriptionId, ApplyError> {
    execute::subscription_of(&recorded.stream)
        .ok_or_else(|| ApplyError::event(recorded, "its stream is no subscription's"))
}

#[async_trait]
impl Projection for Deliveries {
    fn concerns(&self, kind: &str) -> bool {
        ["delivery.", "deliveries.", "message."].iter().any(|family| kind.starts_with(family))
            || kind == "subscription.deleted"
    }

    fn concerns_category(&self, category: &str) -> bool {
        [DELIVERIES_CATEGORY, MESSAGES_CATEGORY, SUBSCRIPTION_CATEGORY].contains(&category)
    }

    async fn apply(
        &mut self,
        connection: &mut SqliteConnection,
        source: Source<'_>,
        events: Vec<Readable>,
    ) -> Result<(), ApplyError> {
        let mut rows = Rows::default();
        rows.load(connection, &events).await?;
        for Readable { recorded, event } in events {
            let recorded = &*recorded;
            if let Event::Subscription(SubscriptionEvent::Deleted(_)) = event {
                let subscription = subscription_of(recorded)?;
                rows.cancel(connection, subscription, recorded.at).await?;
            } else {
                self.fold(source, recorded, event, &mut rows).await?;
            }
        }
        rows.write(connection).await?;
        Ok(())
    }
}

/// What a batch changes, table by table.
#[derive(Default)]
struct Rows {
    /// With the positions of the events that scheduled them.
    deliveries: HashMap<DeliveryId, (Position, DeliveryRow)>,
    attempts: Vec<(Position, AttemptRow)>,
    /// When something last happened to a delivery, and where that is recorded.
    last: HashMap<SubscriptionId, (Position, Timestamp)>,
    /// Rows that were read count no more as they were, rows that are written count as they are.
    counted: Changes,
}

impl Rows {
    /// Reads the deliveries that go on in this batch.
    async fn load(&mut self, connection: &mut SqliteConnection, events: &[Readable]) -> Result<(), sqlx::Error> {
        let mut new = HashSet::new();
        let mut old = HashSet::new();
        for Readable { event, .. } in events {
            match event {
                Event::Delivery(DeliveryEvent::Scheduled(scheduled)) => {
                    new.insert(scheduled.delivery);
                }
                Event::Delivery(DeliveryEvent::Backfilled(backfilled)) => {
                    new.insert(backfilled.delivery);
                }
                Event::Delivery(
                    DeliveryEvent::AttemptFailed(AttemptFailed { delivery, .. })
                    | DeliveryEvent::Succeeded(DeliverySucceeded { delivery, .. })
                    | DeliveryEvent::Exhausted(DeliveryExhausted { delivery, .. })
                    | DeliveryEvent::Expired(DeliveryExpired { delivery, .. })
                    | DeliveryEvent::Rescheduled(DeliveryRescheduled { delivery, .. })
                    | DeliveryEvent::Cancelled(DeliveryCancelled { delivery }),
                ) => {
                    old.insert(*delivery);
                }
                Event::Delivery(
                    DeliveryEvent::PeriodOpened(_) | DeliveryEvent::Carried(_) | DeliveryEvent::JobAdvanced(_),
                )
                | Event::Message(_)
                | Event::Subscription(_)
                | Event::Tenant(_) => {}
            }
        }
        old.retain(|delivery| !new.contains(delivery));
        if old.is_empty() {
            return Ok(());
        }
        let found = sqlx::query(TO_FOLD).bind(id_list(old)).fetch_all(connection).await?;
        for row in &found {
            let (position, row) = delivery_row(row)?;
            self.counted.take(&row);
            self.deliveries.insert(row.id, (position, row));
        }
        Ok(())
    }

    /// The delivery that something happened to; `None` if it is so old that it may have no row (any more).
    fn delivery(
        &mut self,
        recorded: &Recorded,
        id: DeliveryId,
        floor: u64,
    ) -> Result<Option<(Position, &mut DeliveryRow)>, ApplyError> {
        self.last.insert(subscription_of(recorded)?, (recorded.position, recorded.at));
        match self.deliveries.get_mut(&id) {
            Some((position, row)) => Ok(Some((*position, row))),
            None if floor > 0 => Ok(None),
            None => Err(ApplyError::event(recorded, format!("delivery {id} was never scheduled"))),
        }
    }

    /// Ends those of the subscription that have not ended: in memory what the batch touches, and in the table the others.
    async fn cancel(
        &mut self,
        connection: &mut SqliteConnection,
        subscription: SubscriptionId,
        at: Timestamp,
    ) -> Result<(), sqlx::Error> {
        let mut touched = Vec::new();
        for (position, row) in self.deliveries.values_mut().filter(|(_, row)| row.subscription == subscription) {
            touched.push(packed(*position));
            if row.status == DeliveryStatus::Pending {
                end(row, DeliveryStatus::Cancelled, at);
            }
        }
        let query = sqlx::query(CANCEL).bind(bytes(subscription)).bind(at.as_ms()).bind(json_text(&touched));
        let cancelled = query.fetch_all(connection).await?;
        if let Some(first) = cancelled.first() {
            self.counted.cancelled(Columns::of(first).id()?, subscription, cancelled.len());
        }
        Ok(())
    }

    async fn write(mut self, connection: &mut SqliteConnection) -> Result<(), sqlx::Error> {
        for (_, attempt) in &self.attempts {
            if let Some((_, delivery)) = self.deliveries.get(&attempt.delivery) {
                self.counted.add_attempt(delivery, attempt);
            }
        }
        for (_, delivery) in self.deliveries.values() {
            self.counted.add(delivery);
        }
        self.counted.write(connection).await?;
        let mut deliveries: Vec<(Position, DeliveryRow)> = self.deliveries.into_values().collect();
        // In the order of the table.
        deliveries.sort_unstable_by_key(|(position, _)| *position);
        PUT.write(connection, deliveries.into_iter(), |values, (position, row)| {
            values.position(position)?;
            values.id(row.id)?;
            values.id(row.tenant)?;
            values.id(row.subscription)?;
            values.id(row.message)?;
            values.position(Position { seq: row.message_seq, ..position })?;
            values.add(row.event_type.as_str())?;
            values.add(status_number(row.status))?;
            values.add(i64::from(row.attempts))?;
            values.add(row.created_at.as_ms())?;
            values.add(row.completed_at.map(Timestamp::as_ms))?;
            values.add(row.next_attempt_at.map(Timestamp::as_ms))?;
            values.add(row.last_status.map(i64::from))?;
            values.optional_number(row.last_latency_ms)?;
            values.add(row.redelivery_of.map(bytes))?;
            values.optional_number(row.sequence)?;
            values.add(row.expiry.map(word_text))
        })
        .await?;
        INSERT_ATTEMPTS
            .write(connection, self.attempts.into_iter(), |values, (position, row)| {
                values.position(position)?;
                values.add(i64::from(row.number))?;
                values.add(row.started_at.as_ms())?;
                values.number(row.latency_ms)?;
                values.add(row.failure.map(word_text))?;
                values.add(row.detail)?;
                let (status, answer) = (row.response.as_ref().map(|response| response.status), row.response);
                let answer = answer.unwrap_or_default();
                values.add(status.map(i64::from))?;
                values.add(status.map(|_| answer.preview))?;
                values.add(status.map(|_| answer.truncated))?;
                values.optional_number(answer.retry_after_s)?;
                values.optional_number(answer.body_bytes)?;
                values.add((!answer.headers.is_empty()).then(|| json_text(&answer.headers)))?;
                values.add(row.class.map(word_text))?;
                values.number(row.revision)
            })
            .await?;
        PUT_LAST
            .write(connection, self.last.into_iter(), |values, (subscription, (position, at))| {
                values.id(subscription)?;
                values.position(position)?;
                values.add(at.as_ms())
            })
            .await
    }
}

fn new_row(
    scheduled: DeliveryScheduled,
    at: Timestamp,
    subscription: SubscriptionId,
    tenant: TenantId,
    event_type: EventType,
) -> DeliveryRow {
    DeliveryRow {
        id: scheduled.delivery,
        tenant,
        subscription,
        message: scheduled.message,
        message_seq: scheduled.message_seq,
        event_type,
        status: DeliveryStatus::Pending,
        attempts: 0,
        created_at: at,
        completed_at: None,
        // The first attempt is due at once.
        next_attempt_at: Some(at),
        last_status: None,
        last_latency_ms: None,
        redelivery_of: scheduled.redelivery_of,
        sequence: scheduled.sequence,
        expiry: None,
    }
}

fn end(row: &mut DeliveryRow, status: DeliveryStatus, at: Timestamp) {
    row.status = status;
    row.completed_at = Some(at);
    row.next_attempt_at = None;
}

fn failed_attempt(failed: AttemptFailed) -> AttemptRow {
    AttemptRow {
        delivery: failed.delivery,
        number: failed.number,
        started_at: failed.started_at,
        latency_ms: failed.latency_ms,
        failure: Some(failed.code),
        detail: Some(failed.detail),
        response: failed.response,
        class: Some(failed.class),
        revision: failed.revision,
    }
}

fn successful_attempt(succeeded: DeliverySucceeded) -> AttemptRow {
    AttemptRow {
        delivery: succeeded.delivery,
        number: succeeded.number,
        started_at: succeeded.started_at,
        latency_ms: succeeded.latency_ms,
        failure: None,
        detail: None,
        response: Some(succeeded.response),
        class: None,
        revision: succeeded.revision,
    }
}
