//! Where every message stands that a webhook matched.

use async_graphql::{Context, Object, Result};

use super::caller::own_tenant;
use super::scalar::{DateTime, Long};
use super::state;
use crate::domain::id::SubscriptionId;
use crate::domain::scope::Scope;
use crate::execute::ledger::Checked;

/// What it costs beside its fields: it adds up all webhooks of the tenant.
pub(super) const LEDGER_COST: usize = 50;

pub(super) struct Ledger(Checked);

/// Where every message stands that matched: in exactly one state. It is worked out from the log, continuously and by itself,
/// and begins with each start of the server at the oldest event that is left. A repetition is no further match, and does
/// not change how the first delivery ended.
#[Object]
impl Ledger {
    /// All that matched, as far as it was checked: the sum of the states.
    async fn matched(&self) -> Long {
        Long(self.0.counts.matched())
    }

    /// A delivery is scheduled, and has not ended.
    async fn pending(&self) -> Long {
        Long(self.0.counts.pending)
    }

    /// Waits in the log for the webhook's circuit breaker.
    async fn held(&self) -> Long {
        Long(self.0.counts.held)
    }

    /// Waits in the log to be matched.
    async fn not_yet_matched(&self) -> Long {
        Long(self.0.counts.unmatched)
    }

    /// Delivered.
    async fn succeeded(&self) -> Long {
        Long(self.0.counts.succeeded)
    }

    /// The last attempt failed.
    async fn failed(&self) -> Long {
        Long(self.0.counts.failed)
    }

    /// The message, or its data, was kept no longer when an attempt was due.
    async fn expired(&self) -> Long {
        Long(self.0.counts.expired)
    }

    /// Ended without success by somebody, or with its webhook.
    async fn cancelled(&self) -> Long {
        Long(self.0.counts.cancelled)
    }

    /// Waited for the circuit breaker and was passed over when somebody enabled the webhook again.
    async fn skipped(&self) -> Long {
        Long(self.0.counts.skipped)
    }

    /// Waited for the circuit breaker for longer than messages are kept.
    async fn lost(&self) -> Long {
        Long(self.0.counts.lost)
    }

    /// Ended so long ago that its events were gone when the server started.
    async fn gone(&self) -> Long {
        Long(self.0.counts.gone)
    }

    /// In none of these states. It is 0; `tidings verify` names what it counts.
    async fn unaccounted(&self) -> Long {
        Long(self.0.counts.unaccounted)
    }

    /// How often something was scheduled, or ended, once more than it may be. It is 0.
    async fn accounted_twice(&self) -> Long {
        Long(self.0.counts.twice)
    }

    /// Everything up to this place in the log was checked, as `shard-number`.
    async fn checked_through(&self) -> String {
        self.0.through.to_string()
    }

    /// When that was; null before the first check.
    async fn checked_at(&self) -> Option<DateTime> {
        self.0.at.map(DateTime)
    }

    /// How many events behind that place were not checked yet, of all tenants of the shard.
    async fn lag_events(&self) -> Long {
        Long(self.0.lag_events)
    }
}

impl Ledger {
    /// The caller's; of one webhook if one is named, also of one that was deleted. `None` if there is none of that id.
    pub(super) fn of(ctx: &Context<'_>, webhook: Option<&str>) -> Result<Option<Self>> {
        let scope = own_tenant(ctx, Scope::DeliveriesRead)?;
        let ledger = &state(ctx).ledger;
        let checked = match webhook {
            None => Some(ledger.of_tenant(scope.0)),
            Some(id) => id.parse::<SubscriptionId>().ok().and_then(|id| ledger.of_subscription(scope.0, id)),
        };
        Ok(checked.map(Self))
    }
}
