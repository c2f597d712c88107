//! What an operation costs its caller, and who has no points left.
//!
//! An operation costs its complexity, which the library weighs when it validates the document, or the size of the
//! document if that is more, and for each mutation something on top. It is taken before anything runs. A document that is refused costs a fixed sum: it was parsed, and
//! whoever sends nothing but such documents is to come to an end too.

use std::sync::{Arc, OnceLock};

use async_graphql::extensions::{Extension, ExtensionContext, ExtensionFactory, NextValidation};
use async_graphql::{Context, ServerError, SimpleObject, ValidationResult};
use async_trait::async_trait;

use super::failure::{CODE, RETRY_AFTER_SECONDS};
use super::scalar::DateTime;
use super::{Schema, state};
use crate::clock::Clock;
use crate::domain::time::Timestamp;
use crate::error_code::ErrorCode;
use crate::rate_limit::{RateLimits, Standing, Throttled};

/// What each mutation of a document costs beside its complexity, in points.
const MUTATION_POINTS: usize = 4;
/// What a document costs that is refused, in points.
pub(super) const REFUSED_POINTS: u32 = 1_000;

/// What a document costs beside the complexity that the library weighs.
#[derive(Clone, Copy, Default)]
pub(super) struct Weight {
    /// Selections with all fragments spread out: the least that it costs.
    pub(super) selections: usize,
    /// Mutations.
    pub(super) mutations: usize,
}

/// One operation's bill: written when the document is validated, read when it is answered.
pub(super) struct Charge {
    limits: RateLimits,
    subject: String,
    weight: Weight,
    paid: OnceLock<Result<Paid, Throttled>>,
}

/// What was paid.
#[derive(Clone, Copy)]
pub(super) struct Paid {
    /// In points.
    pub(super) cost: u32,
    /// How the budget stood then.
    pub(super) standing: Standing,
}

impl Charge {
    pub(super) fn new(limits: &RateLimits, subject: String, weight: Weight) -> Arc<Self> {
        Arc::new(Self { limits: limits.clone(), subject, weight, paid: OnceLock::new() })
    }

    /// What was paid; `None` if it has not come to that.
    pub(super) fn paid(&self) -> Option<Paid> {
        self.paid.get().and_then(|paid| paid.as_ref().ok()).copied()
    }

    /// Why nothing was run, if it was for want of points.
    pub(super) fn throttled(&self) -> Option<Throttled> {
        self.paid.get().and_then(|paid| paid.err())
    }

    /// Takes what a document was refused for.
    pub(super) fn refuse(&self) -> Standing {
        self.limits.charge(&self.subject, REFUSED_POINTS)
    }

    /// Takes the same again, for one more item of a live stream, as soon as there is enough.
    pub(super) async fn pay_again(&self) -> Option<Paid> {
        let cost = self.paid()?.cost;
        Some(Paid { cost, standing: self.limits.wait(&self.subject, cost).await })
    }

    fn pay(&self, complexity: usize) -> Result<(), Throttled> {
        let Weight { selections, mutations } = self.weight;
        let cost = complexity.max(selections).saturating_add(MUTATION_POINTS.saturating_mul(mutations));
        let cost = u32::try_from(cost).unwrap_or(u32::MAX);
        let taken = self.limits.take(&self.subject, cost).map(|standing| Paid { cost, standing });
        self.paid.get_or_init(|| taken).map(|_| ())
    }
}

/// When the budget is full again if nothing more is asked.
pub(super) fn full_at(clock: &dyn Clock, standing: &Standing) -> Timestamp {
    clock.now().plus_ms(u64::try_from(standing.full_in.as_millis()).unwrap_or(u64::MAX))
}

/// Takes the points once the library has weighed the document.
pub(super) struct Charging;

impl ExtensionFactory for Charging {
    fn create(&self) -> Arc<dyn Extension> {
        Arc::new(Self)
    }
}

#[async_trait]
impl Extension for Charging {
    async fn validation(
        &self,
        ctx: &ExtensionContext<'_>,
        next: NextValidation<'_>,
    ) -> Result<ValidationResult, Vec<ServerError>> {
        let valid = next.run(ctx).await?;
        let charge = ctx.data_unchecked::<Arc<Charge>>();
        charge.pay(valid.complexity).map_err(|throttled| vec![error(&throttled)])?;
        Ok(valid)
    }
}

fn error(throttled: &Throttled) -> ServerError {
    let mut error = ServerError::new(throttled.to_string(), None);
    let extensions = error.extensions.get_or_insert_default();
    extensions.set(CODE, ErrorCode::Throttled.as_str());
    extensions.set(RETRY_AFTER_SECONDS, throttled.retry_after_s());
    error
}

impl Schema {
    /// How much callers may ask for.
    pub fn limits(&self) -> &RateLimits {
        &self.context().limits
    }
}

/// The caller's budget of points.
#[derive(SimpleObject)]
pub(super) struct RateLimit {
    /// Points of a full budget.
    limit: i32,
    /// Points that this operation has cost: about one for each field, so many times as the lists around it are long, and 4
    /// more for each mutation.
    cost: i32,
    /// Points that are left.
    remaining: i32,
    /// When the budget is full again if nothing more is asked.
    reset_at: DateTime,
}

impl RateLimit {
    pub(super) fn of(ctx: &Context<'_>) -> Option<Self> {
        let Paid { cost, standing } = ctx.data_unchecked::<Arc<Charge>>().paid()?;
        // The configuration keeps all of them below 2³¹.
        let int = |points: u32| i32::try_from(points).unwrap_or(i32::MAX);
        let reset_at = DateTime(full_at(&*state(ctx).clock, &standing));
        Some(Self { limit: int(standing.limit), cost: int(cost), remaining: int(standing.remaining), reset_at })
    }
}
