//! Ranges in filters.

use std::ops::RangeInclusive;

use async_graphql::{Context, InputObject, Result};

use super::failure::{fault, internal};
use super::scalar::DateTime;
use super::state;
use crate::domain::time::Timestamp;
use crate::error_code::ErrorCode;
use crate::event_store::Position;
use crate::execute;
use crate::projections::TenantScope;

/// Whole numbers from one to another.
#[derive(Clone, Debug, Default, InputObject)]
pub(super) struct IntRange {
    /// The smallest; absent: no limit below.
    min: Option<i32>,
    /// The largest; absent: no limit above.
    max: Option<i32>,
}

impl IntRange {
    /// As HTTP statuses.
    pub(super) fn statuses(&self) -> Result<RangeInclusive<u16>> {
        let status = |number: Option<i32>, otherwise| number.map_or(Ok(otherwise), u16::try_from);
        match (status(self.min, 0), status(self.max, u16::MAX)) {
            (Ok(min), Ok(max)) => Ok(min..=max),
            _ => Err(fault(ErrorCode::InvalidInput, "an HTTP status is a number from 100 to 599")),
        }
    }

    /// In words that never change, for cursors.
    pub(super) fn text(&self) -> String {
        format!("{:?}-{:?}", self.min, self.max)
    }
}

/// A stretch of time.
#[derive(Clone, Copy, Debug, Default, InputObject)]
pub(super) struct DateTimeRange {
    /// Its beginning, included; absent: from the oldest on.
    from: Option<DateTime>,
    /// Its end, not included; absent: to the newest.
    to: Option<DateTime>,
}

impl DateTimeRange {
    /// Its beginning and its end, where it has them.
    pub(super) fn ends(&self) -> (Option<Timestamp>, Option<Timestamp>) {
        (self.from.map(|at| at.0), self.to.map(|at| at.0))
    }

    /// The places in the log between which everything was recorded in it: behind the first, up to the second.
    pub(super) async fn places(&self, ctx: &Context<'_>, scope: TenantScope) -> Result<(Position, Position)> {
        let log = &state(ctx).log;
        let shard = execute::shard_of(scope.0, log.shards());
        let before = async |at: DateTime| execute::end_before(log.reader(), shard, at.0).await;
        let behind = match self.from {
            Some(from) => before(from).await.map_err(|error| internal(&error))?,
            None => Position { shard, seq: 0 },
        };
        let through = match self.to {
            Some(to) => before(to).await.map_err(|error| internal(&error))?,
            None => Position { shard, seq: log.head(shard) },
        };
        Ok((behind, through))
    }

    /// In words that never change, for cursors.
    pub(super) fn text(&self) -> String {
        let text = |at: Option<DateTime>| at.map_or(String::new(), |at| at.0.to_rfc3339_ms());
        format!("{}-{}", text(self.from), text(self.to))
    }
}
