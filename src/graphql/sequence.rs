//! The proof that no message of a webhook was lost.

use async_graphql::{Context, Object, Result, SimpleObject};

use super::caller::own_tenant;
use super::delivery::Delivery;
use super::failure::{fault, internal};
use super::scalar::{Long, int};
use super::snapshot::{budget, failed};
use super::state;
use crate::domain::id::SubscriptionId;
use crate::domain::scope::Scope;
use crate::error_code::ErrorCode;
use crate::execute::history::{self, AsOf};
use crate::projections::Sequence;

/// What a report costs beside its fields: it may look at ten thousand deliveries.
pub(super) const REPORT_COST: usize = 200;
/// The most numbers of one report.
const MAX_NUMBERS: u64 = 10_000;
/// The most numbers that it lists.
const MAX_LISTED: usize = 1_000;

/// A number of a webhook's sequence that was not delivered.
#[derive(SimpleObject)]
pub(super) struct UndeliveredSequence {
    /// The number, as in `Delivery.sequence`.
    sequence: Long,
    /// The newest delivery with this number, whose `status` tells how it stands; null if none is known: it is older than
    /// deliveries are kept, or its number was never given.
    delivery: Option<Delivery>,
}

pub(super) struct SequenceReport {
    /// What was looked at; empty if there is no number yet.
    numbers: Option<(u64, u64)>,
    known: Option<(u64, u64)>,
    sequence: Sequence,
}

/// Which of a webhook's sequence numbers were delivered, in a range.
#[Object]
impl SequenceReport {
    /// The first number that was looked at; null if the webhook has none yet.
    async fn from(&self) -> Option<Long> {
        self.numbers.map(|(from, _)| Long(from))
    }

    /// The last number that was looked at; null if the webhook has none yet.
    async fn to(&self) -> Option<Long> {
        self.numbers.map(|(_, to)| Long(to))
    }

    /// The smallest number whose delivery is still known: what is below it is older than deliveries are kept. Null if
    /// the webhook has none.
    async fn first_known(&self) -> Option<Long> {
        self.known.map(|(first, _)| Long(first))
    }

    /// The largest number that was given so far. Null if the webhook has none.
    async fn last_known(&self) -> Option<Long> {
        self.known.map(|(_, last)| Long(last))
    }

    /// How many numbers of the range were delivered: an attempt of the first delivery or of a repetition succeeded.
    async fn delivered(&self) -> i32 {
        int(self.sequence.delivered as u64)
    }

    /// How many numbers of the range were not, pending ones and unknown ones among them. Nothing was lost where this is 0.
    async fn undelivered_count(&self) -> i32 {
        int(self.sequence.undelivered.len() as u64)
    }

    /// The numbers that were not delivered, the smallest first. For more than these ask again `from` the next number.
    #[graphql(complexity = "listed(first).saturating_mul(child_complexity.div_ceil(4).saturating_add(1))")]
    async fn undelivered(
        &self,
        #[graphql(default = 100, desc = "How many of them at most, 1 to 1000.")] first: i32,
    ) -> Option<Result<Vec<UndeliveredSequence>>> {
        if !usize::try_from(first).is_ok_and(|first| (1..=MAX_LISTED).contains(&first)) {
            return Some(Err(fault(ErrorCode::InvalidInput, format!("'first' is 1 to {MAX_LISTED}"))));
        }
        let listed = self.sequence.undelivered.iter().take(listed(first));
        Some(Ok(listed
            .map(|(number, row)| UndeliveredSequence { sequence: Long(*number), delivery: row.clone().map(Delivery) })
            .collect()))
    }
}

fn listed(first: i32) -> usize {
    usize::try_from(first).unwrap_or(0).min(MAX_LISTED)
}

impl SequenceReport {
    /// How the numbers of the caller's webhook stand, also of one that was deleted.
    pub(super) async fn of(
        ctx: &Context<'_>,
        webhook: &str,
        from: Option<Long>,
        to: Option<Long>,
    ) -> Result<Option<Self>> {
        let scope = own_tenant(ctx, Scope::DeliveriesRead)?;
        let range = check(from.map(|from| from.0), to.map(|to| to.0))?;
        let Ok(id) = webhook.parse::<SubscriptionId>() else { return Ok(None) };
        let first_version = AsOf::Version(1);
        let found = history::snapshot(state(ctx).log.reader(), scope.0, id, first_version, budget(ctx)).await;
        if found.map_err(failed)?.is_none() {
            return Ok(None);
        }
        let read_models = &state(ctx).read_models;
        let known = read_models.numbers(scope, id).await.map_err(|error| internal(&error))?;
        let Some((from, to)) = known.and_then(|(first, last)| cut(range, first, last)) else {
            let sequence = Sequence { delivered: 0, undelivered: vec![] };
            return Ok(Some(Self { numbers: None, known, sequence }));
        };
        let sequence = read_models.sequence(scope, id, from..=to).await.map_err(|error| internal(&error))?;
        Ok(Some(Self { numbers: Some((from, to)), known, sequence }))
    }
}

fn check(from: Option<u64>, to: Option<u64>) -> Result<(Option<u64>, Option<u64>)> {
    let invalid = |message: String| Err(fault(ErrorCode::InvalidInput, message));
    match (from, to) {
        (Some(0), _) | (_, Some(0)) => invalid("numbers begin with 1".into()),
        (Some(from), Some(to)) if from > to => invalid(format!("'from' ({from}) is behind 'to' ({to})")),
        (Some(from), Some(to)) if to - from >= MAX_NUMBERS => {
            invalid(format!("a report has at most {MAX_NUMBERS} numbers"))
        }
        (from, to) => Ok((from, to)),
    }
}

/// The numbers to look at; `None` if none of them was given yet.
fn cut((from, to): (Option<u64>, Option<u64>), first: u64, last: u64) -> Option<(u64, u64)> {
    let to = match (from, to) {
        (_, Some(to)) => to.min(last),
        (Some(from), None) => from.saturating_add(MAX_NUMBERS - 1).min(last),
        (None, None) => last,
    };
    let from = from.unwrap_or_else(|| (to.saturating_sub(MAX_NUMBERS - 1)).max(first.min(to)));
    (from <= to).then_some((from, to))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_report_is_of_ten_thousand_numbers_that_were_given() {
        assert_eq!(cut((None, None), 1, 25_000), Some((15_001, 25_000)));
        assert_eq!(cut((None, None), 7, 9), Some((7, 9)));
        assert_eq!(cut((Some(1), None), 7, 25_000), Some((1, 10_000)));
        assert_eq!(cut((None, Some(20_000)), 7, 25_000), Some((10_001, 20_000)));
        assert_eq!(cut((Some(3), Some(12)), 1, 10), Some((3, 10)));
        assert_eq!(cut((Some(11), None), 1, 10), None);
        assert!(check(Some(1), Some(10_000)).is_ok());
        assert!(
            check(Some(1), Some(10_001)).is_err() && check(Some(2), Some(1)).is_err() && check(Some(0), None).is_err()
        );
    }
}
