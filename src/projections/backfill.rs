//! Messages that a subscription was never owed, and that its filters pick now.
//!
//! What it was owed says the log, not the table of deliveries: a message that the filters of its time picked is owed, or
//! will be as soon as the matcher has come so far. So a backfill and the matcher never make the same message.

use sqlx::sqlite::SqliteRow;

use super::candidates::{COUNTED, JobCount, LOOKED_AT};
use super::columns::{Columns, bytes, integer, packed};
use super::{QueryError, ReadModels, TenantScope};
use crate::actors::{Found, Pick, Unavailable, Wanted};
use crate::domain::filter::EventType;
use crate::domain::id::{MessageId, SubscriptionId};
use crate::domain::job::Selection;
use crate::domain::time::Timestamp;
use crate::event_store::Position;
use crate::execute::history::Budget;
use crate::execute::jobs::{self, Wants};

/// Messages read at a time for a count.
const PAGE: usize = 5_000;

// A plus sign keeps a condition from choosing the index.
pub(super) const MESSAGES: &str = "SELECT position, id, event_type, created_at_ms, \
     EXISTS (SELECT 1 FROM delivery WHERE delivery.message = message.id AND +delivery.subscription = $2) \
     FROM message WHERE tenant = $1 AND position > $3 AND position <= $4 ORDER BY position LIMIT $5";

/// A message on the way through the table.
struct Published {
    seq: u64,
    message: MessageId,
    event_type: EventType,
    at: Timestamp,
    /// Whether the subscription has a delivery of it, as after an earlier backfill.
    owed: bool,
}

/// What a backfill goes through.
struct Range<'a> {
    scope: TenantScope,
    subscription: SubscriptionId,
    shard: u16,
    selection: &'a Selection,
}

impl ReadModels {
    /// How many messages a backfill of that selection would deliver; `superseded` counts those that were backfilled before.
    pub async fn count_for_backfill(
        &self,
        scope: TenantScope,
        subscription: SubscriptionId,
        shard: u16,
        selection: &Selection,
    ) -> Result<JobCount, Unavailable> {
        let range = Range { scope, subscription, shard, selection };
        let wants = self.wants(subscription).await?;
        let (mut count, mut cursor, mut counted) = (JobCount::default(), self.behind_floor(shard, selection.after), 0);
        loop {
            let page = self.published(&range, cursor, PAGE).await.map_err(unavailable)?;
            for message in page.iter().filter(|message| message.is_missed(selection, &wants)) {
                count.deliverable += u64::from(!message.owed);
                count.superseded += u64::from(message.owed);
                if !message.owed {
                    count.oldest_at.get_or_insert(message.at);
                    count.newest_at = Some(message.at);
                }
            }
            counted += page.len() as u64;
            match page.last() {
                Some(last) if page.len() == PAGE && counted < COUNTED => cursor = last.seq,
                Some(_) | None => return Ok(JobCount { complete: page.len() < PAGE, ..count }),
            }
        }
    }

    /// The first messages behind the cursor that a backfill is to deliver.
    pub(super) async fn find_missed(&self, of: &Wanted) -> Result<Found, Unavailable> {
        let scope = TenantScope(of.tenant);
        let range = Range { scope, subscription: of.subscription, shard: of.shard, selection: &of.selection };
        let wants = self.wants(of.subscription).await?;
        let cursor = self.behind_floor(of.shard, of.cursor);
        let page = self.published(&range, cursor, LOOKED_AT).await.map_err(unavailable)?;
        let mut found = Found { cursor: of.cursor, last: page.len() < LOOKED_AT, ..Found::default() };
        for message in page {
            if found.deliveries.len() == of.most {
                return Ok(Found { last: false, ..found });
            }
            found.cursor = message.seq;
            if !message.is_missed(&of.selection, &wants) {
                continue;
            }
            if message.owed {
                found.passed_over += 1;
            } else {
                let Published { message, seq: message_seq, .. } = message;
                found.deliveries.push(Pick { original: None, message, message_seq, sequence: None });
            }
        }
        if found.last {
            found.cursor = of.selection.through;
        }
        Ok(found)
    }

    async fn wants(&self, subscription: SubscriptionId) -> Result<Wants, Unavailable> {
        let log = self.inner.log.get().ok_or_else(|| Unavailable("no log is followed".into()))?;
        jobs::wants(log.reader(), subscription, &Budget::default()).await.map_err(unavailable)
    }

    fn behind_floor(&self, shard: u16, seq: u64) -> u64 {
        seq.max(self.floor(shard))
    }

    async fn published(&self, range: &Range<'_>, cursor: u64, most: usize) -> Result<Vec<Published>, QueryError> {
        let at = |seq| integer(packed(Position { shard: range.shard, seq }));
        let query = sqlx::query(MESSAGES).bind(bytes(range.scope.0)).bind(bytes(range.subscription));
        let query = query.bind(at(cursor)).bind(at(range.selection.through)).bind(integer(most as u64));
        let found = query.fetch_all(&self.inner.database.readers).await?;
        Ok(found.iter().map(published).collect::<Result<_, _>>()?)
    }
}

impl Published {
    /// Whether the filters of now pick it, and those of its time did not.
    fn is_missed(&self, selection: &Selection, wants: &Wants) -> bool {
        selection.wants(&self.event_type) && !wants.picked(self.seq, &self.event_type)
    }
}

fn published(row: &SqliteRow) -> Result<Published, sqlx::Error> {
    let mut columns = Columns::of(row);
    Ok(Published {
        seq: columns.position()?.seq,
        message: columns.id()?,
        event_type: columns.parsed()?,
        at: columns.time()?,
        owed: columns.get()?,
    })
}

fn unavailable(error: impl std::error::Error) -> Unavailable {
    Unavailable(error.to_string())
}
