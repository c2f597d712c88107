//! What the actor knows of waiting deliveries beyond its state: which of them have an attempt under way.

use tokio::sync::oneshot;

use super::State;
use super::gate::Effect;
use crate::actors::engine::EngineError;
use crate::domain::id::{DeliveryId, TenantId};
use crate::domain::subscription::{Command, Refusal, Timers};
use crate::domain::time::Timestamp;

/// What waits, for a tenant, and where the answer goes.
pub(in crate::actors) struct TimersQuestion {
    /// Whose subscription it has to be.
    pub(in crate::actors) tenant: TenantId,
    /// Behind which place of the agenda.
    pub(in crate::actors) after: Option<(Timestamp, DeliveryId)>,
    /// How many at most.
    pub(in crate::actors) limit: usize,
    /// Where the answer goes.
    pub(in crate::actors) reply: oneshot::Sender<Result<Timers, EngineError>>,
}

impl State {
    /// Tells a command what only the actor knows.
    pub(super) fn with_attempts(&self, mut command: Command) -> Command {
        if let Command::Reschedule(reschedule) = &mut command {
            reschedule.under_way = self.in_flight.contains_key(&reschedule.delivery);
        }
        if let Command::Redeliver(redeliver) = &mut command {
            redeliver.room = self.loaded.state.open_count() < self.arguments.context.config.max_open_deliveries;
        }
        command
    }

    /// Tells what waits, once all that the answer rests on is durable.
    pub(super) fn tell_timers(&mut self, question: TimersQuestion) {
        let TimersQuestion { tenant, after, limit, reply } = question;
        let state = &self.loaded.state;
        let under_way = |delivery| self.in_flight.contains_key(&delivery);
        let answer = match state.life.tenant() {
            Some(owner) if owner == tenant => state.timers(self.arguments.context.clock.now(), after, limit, under_way),
            Some(_) | None => Err(Refusal::NotFound),
        };
        self.gate.push(&self.loaded, Effect::Timers(reply, answer));
    }
}
