//! How attempts begin: on what terms permits are asked for, what is sent where, and when that is called back.

use std::num::NonZeroU32;
use std::sync::Arc;

use super::{Arguments, State};
use crate::actors::attempt;
use crate::actors::dispatcher::{self, Permit};
use crate::actors::target::Target;
use crate::domain::id::DeliveryId;
use crate::domain::subscription::Open;
use crate::domain::time::Timestamp;
use crate::event_store::Position;

impl State {
    pub(super) fn start_attempts(&mut self, begin: impl Iterator<Item = ((DeliveryId, Open), Permit)>) {
        // What was never created owes nothing.
        let Ok(shard) = self.shard() else { return };
        for ((delivery, open), permit) in begin {
            let number = open.attempts() + 1;
            self.in_flight.insert(delivery, number);
            let Arguments { context, regions, id, .. } = &self.arguments;
            let message = Position { shard, seq: open.message_seq };
            let Open { sequence, revision, .. } = open;
            let behind = self.loaded.state.circuit.known_through();
            let due = attempt::Due { subscription: *id, delivery, number, message, sequence, revision, behind };
            attempt::start(Arc::clone(context), regions.clone(), self.target.follow(), due, permit);
        }
    }

    pub(super) fn ask_for_permits(&mut self, due: &[(DeliveryId, Open)]) {
        if let (Some((_, first)), Ok(settings)) = (due.first(), self.loaded.state.settings())
            && self.terms_of != Some(settings.revision)
        {
            self.terms_of = Some(settings.revision);
            let host = dispatcher::host_of(&settings.url);
            let rate = settings.rate_limit_per_s.and_then(NonZeroU32::new);
            self.place.set(dispatcher::Terms { tenant: settings.tenant, host, rate }, first.failures > 0);
        }
        self.place.want(due.len().try_into().unwrap_or(u32::MAX));
    }

    /// How many of so many attempts may be under way: where order counts one, and none before the end of the delivery
    /// before is durable. So a restart repeats what was under way, and nothing that came before that.
    pub(super) fn in_order(&self, most: usize) -> usize {
        match self.loaded.state.is_ordered() {
            false => most,
            true if self.gate.deliveries_version < self.ended_version => 0,
            true => most.min(1),
        }
    }

    /// Makes the target what the settings say; `false` if there is none.
    pub(super) fn set_target(&mut self, now: Timestamp) -> bool {
        let Ok(settings) = self.loaded.state.settings() else { return false };
        let fresh = |target: Arc<Target>| {
            target.revision == settings.revision && target.secrets.len() == settings.signing_secrets(now).len()
        };
        if self.target.target().is_some_and(fresh) {
            return true;
        }
        let Some(target) = Target::of(settings, now) else {
            tracing::error!(subscription.id = %settings.id, "nothing is sent: profile '{}' is unknown", settings.profile);
            return false;
        };
        self.target.set(Some(target));
        true
    }

    /// Attempts that have not begun wait for settings that are decided to be durable, and find a new target then.
    pub(super) fn withdraw_old_target(&mut self, now: Timestamp) {
        let state = &self.loaded.state;
        let sends = state.may_send() && state.held_until().is_none_or(|until| until <= now);
        let revision = state.settings().ok().filter(|_| sends).map(|settings| settings.revision);
        if self.target.target().is_some_and(|target| Some(target.revision) != revision) {
            self.target.set(None);
        }
    }
}
