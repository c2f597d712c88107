//! What jobs can be made of, found in the tables of deliveries.
//!
//! Of the deliveries of one message only the newest counts: a message that was repeated since is repeated no more for
//! the sake of an older one. So a job makes no message twice, also if it is started twice.

use std::collections::HashMap;
use std::time::Duration;

use async_trait::async_trait;
use sqlx::sqlite::SqliteRow;

use super::columns::{Columns, bytes, integer, json_text, packed};
use super::delivery_queries::status_number;
use super::rows::DeliveryStatus;
use super::{QueryError, ReadModels, TenantScope};
use crate::actors::{Candidates, Found, Pick, Unavailable, Wanted};
use crate::domain::filter::EventType;
use crate::domain::id::{DeliveryId, MessageId, SubscriptionId};
use crate::domain::job::{Ended, Selection, Source};
use crate::domain::time::Timestamp;
use crate::event_store::Position;

/// Deliveries looked at for one step of a job.
pub(super) const LOOKED_AT: usize = 500;
/// The most deliveries that are counted: about a second's work.
pub(super) const COUNTED: u64 = 100_000;
/// How long a step waits for the read models to know of everything that its job may pick.
const READ_MODEL_WAIT: Duration = Duration::from_secs(5);

// A plus sign keeps a condition from choosing the index.
pub(super) const ENDED: &str = "SELECT position, id, message, message_position, event_type, sequence, expiry IS NOT NULL, \
     EXISTS (SELECT 1 FROM delivery AS later WHERE later.message = delivery.message \
     AND +later.subscription = delivery.subscription AND later.position > delivery.position) \
     FROM delivery WHERE +tenant = $1 AND subscription = $2 AND status = $3 AND position > $4 AND position <= $5 \
     ORDER BY position LIMIT $6";

pub(super) const COUNT: &str = "SELECT event_type, status, gone, superseded, count(*), min(created_at_ms), max(created_at_ms) \
     FROM (SELECT event_type, status, created_at_ms, expiry IS NOT NULL OR message_position <= $7 AS gone, \
     EXISTS (SELECT 1 FROM delivery AS later WHERE later.message = delivery.message \
     AND +later.subscription = delivery.subscription AND later.position > delivery.position) AS superseded \
     FROM delivery WHERE +tenant = $1 AND subscription = $2 AND status IN (SELECT value FROM json_each($3)) \
     AND position > $4 AND position <= $5 LIMIT $6) GROUP BY event_type, status, gone, superseded";

/// How many deliveries a job would pick.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct JobCount {
    /// Deliveries that it would make.
    pub deliverable: u64,
    /// When the oldest of these was created.
    pub oldest_at: Option<Timestamp>,
    /// When the newest of these was created.
    pub newest_at: Option<Timestamp>,
    /// Still under way, and so not made again.
    pub pending: u64,
    /// Their message is gone.
    pub gone: u64,
    /// Their message was sent again since, or is about to be.
    pub superseded: u64,
    /// The profile makes only failed ones again, and these are not.
    pub forbidden: u64,
    /// Whether everything was counted.
    pub complete: bool,
}

impl JobCount {
    /// What the job will have looked at that it picks, refused ones included; `None` if there were too many to count.
    pub fn total(&self) -> Option<u64> {
        self.complete.then_some(self.deliverable + self.gone + self.superseded)
    }

    fn add(&mut self, group: &Group, only_failed: bool) {
        let Group { status, gone, superseded, count, oldest_at, newest_at } = *group;
        match (status == status_number(DeliveryStatus::Pending), superseded, gone) {
            (true, _, _) => self.pending += count,
            (false, _, _) if only_failed && status != status_number(DeliveryStatus::Failed) => self.forbidden += count,
            (false, true, _) => self.superseded += count,
            (false, false, true) => self.gone += count,
            (false, false, false) => {
                self.deliverable += count;
                self.oldest_at = Some(self.oldest_at.map_or(oldest_at, |known| known.min(oldest_at)));
                self.newest_at = self.newest_at.max(Some(newest_at));
            }
        }
    }
}

/// Deliveries that are counted alike.
struct Group {
    status: i64,
    gone: bool,
    superseded: bool,
    count: u64,
    oldest_at: Timestamp,
    newest_at: Timestamp,
}

/// An ended delivery on the way through the table.
struct EndedRow {
    position: Position,
    event_type: EventType,
    gone: bool,
    superseded: bool,
    pick: Pick,
}

impl ReadModels {
    /// How many deliveries a redelivery of that selection would make, and how many it would not; `only_failed`: as the profile
    /// allows.
    pub async fn count_for_redelivery(
        &self,
        scope: TenantScope,
        subscription: SubscriptionId,
        shard: u16,
        selection: &Selection,
        ended: &[Ended],
        only_failed: bool,
    ) -> Result<JobCount, QueryError> {
        let statuses = ended.iter().map(|ended| status_of(*ended)).chain([DeliveryStatus::Pending]);
        let statuses: Vec<i64> = statuses.map(status_number).collect();
        let at = |seq| integer(packed(Position { shard, seq }));
        let query = sqlx::query(COUNT).bind(bytes(scope.0)).bind(bytes(subscription)).bind(json_text(&statuses));
        let query = query.bind(at(selection.after)).bind(at(selection.through)).bind(integer(COUNTED + 1));
        let query = query.bind(at(self.floor(shard)));
        let (mut counted, mut wanted, mut count) = (0, HashMap::new(), JobCount::default());
        for row in &query.fetch_all(&self.inner.database.readers).await? {
            let mut columns = Columns::of(row);
            let event_type: EventType = columns.parsed()?;
            let group = group(&mut columns)?;
            counted += group.count;
            if *wanted.entry(event_type).or_insert_with_key(|event_type| selection.wants(event_type)) {
                count.add(&group, only_failed);
            }
        }
        Ok(JobCount { complete: counted <= COUNTED, ..count })
    }

    /// Messages up to this number are not kept any more.
    pub(super) fn floor(&self, shard: u16) -> u64 {
        self.inner.log.get().map_or(0, |log| log.floor(shard))
    }

    async fn ended(&self, of: &Wanted, status: DeliveryStatus) -> Result<Vec<EndedRow>, QueryError> {
        let at = |seq| integer(packed(Position { shard: of.shard, seq }));
        let query = sqlx::query(ENDED).bind(bytes(of.tenant)).bind(bytes(of.subscription)).bind(status_number(status));
        let query = query.bind(at(of.cursor)).bind(at(of.selection.through)).bind(integer(LOOKED_AT as u64));
        let found = query.fetch_all(&self.inner.database.readers).await?;
        Ok(found.iter().map(ended_row).collect::<Result<_, _>>()?)
    }
}

#[async_trait]
impl Candidates for ReadModels {
    async fn find(&self, wanted: &Wanted) -> Result<Found, Unavailable> {
        let through = Position { shard: wanted.shard, seq: wanted.selection.through };
        if !self.wait_for(through, READ_MODEL_WAIT).await {
            return Err(Unavailable("the read models are behind the log".into()));
        }
        let statuses = match &wanted.selection.source {
            Source::Redelivery(statuses) => statuses,
            Source::Backfill => return self.find_missed(wanted).await,
        };
        let (mut rows, mut full) = (vec![], false);
        for status in statuses {
            let found = self.ended(wanted, status_of(*status)).await;
            let found = found.map_err(|error| Unavailable(error.to_string()))?;
            full |= found.len() == LOOKED_AT;
            rows.extend(found);
        }
        rows.sort_unstable_by_key(|row| row.position);
        full |= rows.len() > LOOKED_AT;
        rows.truncate(LOOKED_AT);
        Ok(pick(rows, full, wanted, self.floor(wanted.shard)))
    }
}

/// The first of the rows that the job makes again; `full`: there may be more rows behind these.
fn pick(rows: Vec<EndedRow>, full: bool, wanted: &Wanted, floor: u64) -> Found {
    let mut found = Found { cursor: wanted.cursor, last: !full, ..Found::default() };
    for row in rows {
        if found.deliveries.len() == wanted.most {
            return Found { last: false, ..found };
        }
        found.cursor = row.position.seq;
        if !wanted.selection.wants(&row.event_type) {
            continue;
        }
        if row.superseded || row.gone || row.pick.message_seq <= floor {
            found.passed_over += 1;
        } else {
            found.deliveries.push(row.pick);
        }
    }
    if found.last {
        found.cursor = wanted.selection.through;
    }
    found
}

fn status_of(ended: Ended) -> DeliveryStatus {
    match ended {
        Ended::Failed => DeliveryStatus::Failed,
        Ended::Succeeded => DeliveryStatus::Succeeded,
        Ended::Cancelled => DeliveryStatus::Cancelled,
    }
}

fn ended_row(row: &SqliteRow) -> Result<EndedRow, sqlx::Error> {
    let mut columns = Columns::of(row);
    let position = columns.position()?;
    let original: DeliveryId = columns.id()?;
    let message: MessageId = columns.id()?;
    let message_seq = columns.position()?.seq;
    let event_type = columns.parsed()?;
    let sequence = columns.optional_number()?;
    let (gone, superseded) = (columns.get()?, columns.get()?);
    let pick = Pick { original: Some(original), message, message_seq, sequence };
    Ok(EndedRow { position, event_type, gone, superseded, pick })
}

fn group(columns: &mut Columns<'_>) -> Result<Group, sqlx::Error> {
    Ok(Group {
        status: columns.get()?,
        gone: columns.get()?,
        superseded: columns.get()?,
        count: columns.number()?,
        oldest_at: columns.time()?,
        newest_at: columns.time()?,
    })
}
