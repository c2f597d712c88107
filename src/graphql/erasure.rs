//! Receipts of erasures.

use async_graphql::{Context, Enum, ID, Object, Result, SimpleObject};

use super::caller::authorise;
use super::failure::internal;
use super::scalar::{DateTime, Long, int};
use super::state;
use crate::domain::id::ErasureId;
use crate::domain::scope::Scope;
use crate::domain::time::Timestamp;
use crate::execute::retention::Config;
use crate::projections::rows::{self, ErasureRow};

const MINUTE_MS: u64 = 60_000;
const DAY_MS: u64 = 24 * 60 * MINUTE_MS;

pub(super) struct Erasure(ErasureRow);

/// Whose data an erasure is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Enum)]
pub(super) enum ErasureKind {
    /// That of messages that were named.
    Messages,
    /// That of all messages about somebody.
    Subject,
    /// All of the tenant's, with its webhooks, users, keys and secrets.
    Tenant,
}

/// How far an erasure has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Enum)]
pub(super) enum ErasureState {
    /// What it has erased so far nobody reads and nobody is sent any more; it may stand in the database's files. If
    /// messages have to be looked for, there may be more.
    UnderWay,
    /// Everything that was meant is erased, and has left the database's own files as far as `remains` does not say
    /// otherwise.
    Complete,
}

/// Where something of erased data, or about it, may remain.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Enum)]
pub(super) enum ErasureRemainderKind {
    /// In backups, in archives of the database's write-ahead log, and in replicas.
    Backups,
    /// In free space of the database's files.
    FreeSpace,
    /// In the beginnings of what endpoints answered, and in headers of it, which may repeat what they were sent.
    ResponsePreviews,
    /// In the record that there was a message: its id, type, times, size, idempotency key and salted digest.
    Metadata,
    /// In the settings of webhooks and users that were deleted: URLs, headers' names, descriptions, names.
    Settings,
    /// With receivers, to whom the data was sent before.
    Receivers,
}

/// Something that an erasure does not reach.
#[derive(SimpleObject)]
struct ErasureRemainder {
    /// Where.
    kind: ErasureRemainderKind,
    /// Until when; null if it stays, or if nobody has said for how long.
    until: Option<DateTime>,
    /// What that means, for people. Sentences that may change.
    explanation: &'static str,
}

/// Message data that somebody wanted gone: what was erased, when, and what remains where and for how long.
#[Object]
impl Erasure {
    /// `era_…`
    async fn id(&self) -> ID {
        self.0.id.into()
    }

    /// Id of the tenant whose data it is.
    async fn tenant_id(&self) -> ID {
        self.0.tenant.into()
    }

    /// Whose data.
    async fn kind(&self) -> ErasureKind {
        match self.0.kind {
            rows::ErasureKind::Messages => ErasureKind::Messages,
            rows::ErasureKind::Subject => ErasureKind::Subject,
            rows::ErasureKind::Tenant => ErasureKind::Tenant,
        }
    }

    /// How far it has come.
    async fn state(&self) -> ErasureState {
        if self.0.completed_at.is_some() { ErasureState::Complete } else { ErasureState::UnderWay }
    }

    /// In the words of whoever wanted it.
    async fn reason(&self) -> Option<&str> {
        self.0.reason.as_deref()
    }

    /// When it began.
    async fn started_at(&self) -> DateTime {
        self.0.started_at.into()
    }

    /// When the data had left the database's files; null as long as it may stand there.
    async fn completed_at(&self) -> Option<DateTime> {
        self.0.completed_at.map(DateTime)
    }

    /// Of how many messages data was erased so far.
    async fn messages(&self) -> i32 {
        int(self.0.message_count)
    }

    /// Ids of the messages that were named and whose data was there; empty for other kinds: their messages say so
    /// themselves (`erasedAt`).
    async fn message_ids(&self) -> Vec<ID> {
        self.0.messages.iter().map(|message| (*message).into()).collect()
    }

    /// How large the data was, in bytes.
    async fn size_bytes(&self) -> Long {
        Long(self.0.size_bytes)
    }

    /// How many webhooks a tenant had; known when the erasure is complete.
    async fn webhooks(&self) -> i32 {
        int(self.0.webhooks)
    }

    /// How many keys and secrets were destroyed; known when the erasure is complete.
    async fn secrets(&self) -> i32 {
        int(self.0.secrets)
    }

    /// What the erasure does not reach, and until when that is there.
    async fn remains(&self, ctx: &Context<'_>) -> Vec<ErasureRemainder> {
        remains(&self.0, state(ctx).engine.retention())
    }
}

fn remains(row: &ErasureRow, retention: &Config) -> Vec<ErasureRemainder> {
    let at = |time: Option<Timestamp>| time.map(DateTime);
    // Of a message published just before the erasure, with the rest of its bucket.
    let events = u64::from(retention.events_minutes) + u64::from(retention.bucket_minutes);
    let events_end = (retention.events_minutes > 0).then(|| row.started_at.plus_ms(events * MINUTE_MS));
    let known = row.completed_at.filter(|_| retention.backups_kept_days > 0);
    let backups_end = known.map(|at| at.plus_ms(u64::from(retention.backups_kept_days) * DAY_MS));
    let mut remains = vec![ErasureRemainder {
        kind: ErasureRemainderKind::Backups,
        until: at(backups_end),
        explanation: "Backups, archives of the write-ahead log and replicas that were made before hold the data until \
                      they are thrown away: as long as the operator says that backups are kept, from the completion on.",
    }];
    if row.freed {
        remains.push(ErasureRemainder {
            kind: ErasureRemainderKind::FreeSpace,
            until: None,
            explanation: "Parts of deleted rows, which are sealed, may stand in free space of PostgreSQL's files until other rows take \
                          their place, or the operator runs VACUUM FULL.",
        });
    }
    remains.push(ErasureRemainder {
        kind: ErasureRemainderKind::ResponsePreviews,
        until: at(events_end),
        explanation: "The beginning of what endpoints answered, and headers of failures, are kept with their attempts, \
                      and may repeat what they were sent. They go with the deliveries.",
    });
    remains.push(ErasureRemainder {
        kind: ErasureRemainderKind::Metadata,
        until: at(events_end),
        explanation: "That there was a message stays known for as long as messages are kept. Without its salt, which \
                      was erased, the digest says nothing about the data.",
    });
    if row.kind == rows::ErasureKind::Tenant {
        remains.push(ErasureRemainder {
            kind: ErasureRemainderKind::Settings,
            until: None,
            explanation: "What people did to the tenant, its webhooks and its users is kept for ever, with the settings \
                          of the time; secrets never were part of it.",
        });
    }
    remains.push(ErasureRemainder {
        kind: ErasureRemainderKind::Receivers,
        until: None,
        explanation: "What was delivered before is with its receivers.",
    });
    remains
}

impl Erasure {
    /// The caller's erasure of that id; any tenant's for operators.
    pub(super) async fn find(ctx: &Context<'_>, id: &str) -> Result<Option<Self>> {
        let own = authorise(ctx, Scope::MessagesErase)?.tenant;
        let Ok(id) = id.parse::<ErasureId>() else { return Ok(None) };
        let row = state(ctx).read_models.erasure(id).await.map_err(|error| internal(&error))?;
        Ok(row.filter(|row| row.tenant == own || authorise(ctx, Scope::TenantsAdmin).is_ok()).map(Self))
    }

    /// One that the caller has just begun.
    pub(super) async fn read(ctx: &Context<'_>, id: ErasureId) -> Result<Option<Self>> {
        let row = state(ctx).read_models.erasure(id).await.map_err(|error| internal(&error))?;
        Ok(row.map(Self))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::id::TenantId;

    #[test]
    fn a_receipt_says_until_when_what_remains() {
        let begun = Timestamp::from_ms(0);
        let row = ErasureRow {
            id: ErasureId::from_parts(1, 1),
            tenant: TenantId::from_parts(1, 1),
            kind: rows::ErasureKind::Tenant,
            messages: vec![],
            reason: None,
            message_count: 3,
            size_bytes: 4,
            webhooks: 0,
            secrets: 0,
            freed: true,
            started_at: begun,
            completed_at: Some(begun.plus_ms(5)),
        };
        let until = |row: &ErasureRow, config: &Config| -> Vec<_> {
            remains(row, config).iter().map(|one| (one.kind, one.until.map(|at| at.0))).collect()
        };
        let day = |days: u64, ms| Some(begun.plus_ms(days * DAY_MS + ms));
        let kinds = |backups, events| {
            vec![
                (ErasureRemainderKind::Backups, backups),
                (ErasureRemainderKind::FreeSpace, None),
                (ErasureRemainderKind::ResponsePreviews, events),
                (ErasureRemainderKind::Metadata, events),
                (ErasureRemainderKind::Settings, None),
                (ErasureRemainderKind::Receivers, None),
            ]
        };
        assert_eq!(until(&row, &Config::default()), kinds(day(30, 5), day(31, 0)));
        let unknown = Config { backups_kept_days: 0, events_minutes: 0, ..Config::default() };
        assert_eq!(until(&row, &unknown), kinds(None, None));
        let under_way = ErasureRow { completed_at: None, ..row };
        assert_eq!(until(&under_way, &Config::default())[0], (ErasureRemainderKind::Backups, None));
    }
}
