//! A webhook's circuit breaker.

use async_graphql::{Context, Enum, ID, Object, Result, SimpleObject};

use super::delivery::AttemptOutcome;
use super::failure::{internal, nullable};
use super::scalar::{DateTime, int};
use super::snapshot::FOLD_COST;
use super::{state, timers};
use crate::domain::{circuit, profile};
use crate::projections::TenantScope;
use crate::projections::rows::{CircuitRow, Trip, WebhookRow};

/// How far a circuit breaker lets its webhook send.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Enum)]
#[graphql(remote = "circuit::CircuitState")]
pub(super) enum CircuitState {
    /// Everything is sent.
    Closed,
    /// Nothing is sent: the endpoint is down. Whatever matches waits.
    Open,
    /// Little is sent, at first one delivery alone, to find out whether the endpoint is well again.
    HalfOpen,
}

/// Why a circuit breaker tripped.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Enum)]
#[graphql(remote = "circuit::TripCause")]
pub(super) enum CircuitTripCause {
    /// A run of hard failures, over several deliveries, without a success between them.
    HardFailures,
    /// Soft failures alone, very many and for very long.
    SoftFailures,
    /// The probe failed that was to find out whether the endpoint is well again.
    ProbeFailed,
    /// Failures again while it recovered.
    RecoveryFailed,
}

/// Why and when a circuit breaker tripped.
#[derive(SimpleObject)]
pub(super) struct CircuitTrip {
    /// When.
    at: DateTime,
    /// Why.
    cause: CircuitTripCause,
    /// How many failures counted.
    failures: u32,
    /// The delivery whose attempt was the last of them.
    delivery_id: ID,
    /// How that attempt ended.
    outcome: AttemptOutcome,
    /// The same in a sentence.
    error: String,
}

impl From<&Trip> for CircuitTrip {
    fn from(trip: &Trip) -> Self {
        Self {
            at: trip.at.into(),
            cause: trip.cause.into(),
            failures: trip.failures,
            delivery_id: trip.delivery.into(),
            outcome: trip.code.into(),
            error: trip.detail.clone(),
        }
    }
}

pub(super) struct Circuit<'a>(pub(super) &'a WebhookRow);

/// A webhook's circuit breaker. It trips when the endpoint is down, and then nothing is sent and nothing is lost.
#[Object]
impl Circuit<'_> {
    /// How far it lets the webhook send.
    async fn state(&self) -> CircuitState {
        self.0.circuit.state().into()
    }

    /// How many hard failures in a row, without a success between them, count towards its next trip; while it is open, those
    /// that made it trip. Asked of the webhook itself, not of a read model; null if it was deleted meanwhile.
    #[graphql(complexity = "FOLD_COST")]
    async fn consecutive_failures(&self, ctx: &Context<'_>) -> Option<Result<u32>> {
        nullable(async {
            match &self.0.circuit {
                CircuitRow::Open(trip) => Ok(Some(trip.failures)),
                CircuitRow::Closed | CircuitRow::HalfOpen { .. } => timers::consecutive_failures(ctx, self.0).await,
            }
        })
        .await
    }

    /// How many of them trip it, if they are of several deliveries (`deliveryProfile.circuitBreaker`); two are enough while
    /// it recovers. Null: the profile has no circuit breaker.
    async fn threshold(&self) -> Option<u32> {
        profile::find(&self.0.profile).ok()?.breaker.map(|breaker| breaker.failures)
    }

    /// When it tripped; null while it is closed.
    async fn opened_at(&self) -> Option<DateTime> {
        self.last_trip().map(|trip| trip.at.into())
    }

    /// How the attempt failed that made it trip, in a sentence; null while it is closed.
    async fn last_error(&self) -> Option<&str> {
        self.last_trip().map(|trip| trip.detail.as_str())
    }

    /// Why and when it tripped; null while it is closed.
    async fn trip(&self) -> Option<CircuitTrip> {
        self.last_trip().map(CircuitTrip::from)
    }

    /// When it tries again by itself; null if it is not open, or somebody has to call `reenableWebhook`.
    async fn next_probe_at(&self) -> Option<DateTime> {
        match &self.0.circuit {
            CircuitRow::Open(trip) => trip.probe_at.map(DateTime),
            CircuitRow::Closed | CircuitRow::HalfOpen { .. } => None,
        }
    }

    /// Messages that have matched the webhook's filters since it tripped and wait, beside its pending deliveries; 0 while
    /// it is not open.
    #[graphql(complexity = "20 + child_complexity")]
    async fn waiting_messages(&self, ctx: &Context<'_>) -> Option<Result<i32>> {
        nullable(async {
            let CircuitRow::Open(trip) = &self.0.circuit else { return Ok(Some(0)) };
            let waiting = state(ctx).read_models.waiting(TenantScope(self.0.tenant), self.0, trip).await;
            Ok(Some(int(waiting.map_err(|error| internal(&error))?)))
        })
        .await
    }
}

impl Circuit<'_> {
    fn last_trip(&self) -> Option<&Trip> {
        match &self.0.circuit {
            CircuitRow::Closed => None,
            CircuitRow::Open(trip) | CircuitRow::HalfOpen { trip, .. } => Some(trip),
        }
    }
}
