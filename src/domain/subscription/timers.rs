//! What waits, until when and why; and how people move or call off what waits.

use super::{Open, Refusal, Reschedule, Subscription};
use crate::domain::circuit::Circuit;
use crate::domain::event::{
    CancellationRequested, DeliveryCancelled, DeliveryEvent, DeliveryRescheduled, Event, RescheduleRequested,
    SubscriptionEvent,
};
use crate::domain::id::DeliveryId;
use crate::domain::profile::Retry;
use crate::domain::time::Timestamp;

/// No attempt is moved further into the future than this, in milliseconds: about as long as deliveries are kept.
pub const MAX_RESCHEDULE_MS: u64 = 30 * 86_400_000;

/// A part of what waits, in the order of the times at which it is due.
#[derive(Clone, Debug, PartialEq)]
pub struct Timers {
    /// How many deliveries have not ended.
    pub pending: usize,
    /// Whether the subscription sends at all.
    pub enabled: bool,
    /// Nothing is sent before this: somebody wants a pause.
    pub hold_until: Option<Timestamp>,
    /// Nothing is sent before this: the endpoint wants a pause.
    pub endpoint_hold_until: Option<Timestamp>,
    /// When the circuit, which is open, lets a probe through by itself.
    pub probe_at: Option<Timestamp>,
    /// Hard failures in a row that count towards the circuit's next trip.
    pub consecutive_failures: u32,
    /// The deliveries.
    pub waiting: Vec<Timer>,
    /// Whether more follow.
    pub more: bool,
}

/// A delivery that waits.
#[derive(Clone, Debug, PartialEq)]
pub struct Timer {
    /// The delivery.
    pub delivery: DeliveryId,
    /// As the subscription knows it.
    pub open: Open,
    /// For what it waits.
    pub wait: Wait,
    /// When its next attempt begins at the earliest; `None` if that depends on what nobody has decided.
    pub not_before: Option<Timestamp>,
}

/// For what a delivery waits: of several reasons the one that holds longest.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wait {
    /// For the end of the attempt under way.
    UnderWay,
    /// For its first attempt, which somebody has moved.
    FirstAttempt,
    /// For the next attempt behind one that failed.
    Retry,
    /// For the end of a pause that somebody wanted.
    Held,
    /// For the end of a pause that the endpoint wanted.
    EndpointHold,
    /// For the circuit, which is open.
    CircuitOpen,
    /// For the end of the delivery before: order counts.
    Ordered,
    /// For its turn as the one probe.
    Probe,
    /// For its turn while the endpoint recovers.
    Ramp,
    /// For a permit: it is due, and the limits of process, tenant, host and subscription decide.
    Permit,
    /// For the subscription to be enabled.
    Disabled,
}

impl Subscription {
    /// What waits at `now`: at most so many behind a place of the agenda. `under_way` knows the attempts that are made.
    pub fn timers(
        &self,
        now: Timestamp,
        after: Option<(Timestamp, DeliveryId)>,
        limit: usize,
        under_way: impl Fn(DeliveryId) -> bool,
    ) -> Result<Timers, Refusal> {
        let settings = self.settings()?;
        let first = self.agenda().next();
        let agenda = &self.deliveries.agenda;
        let mut behind = after.map_or_else(|| agenda.iter(), |after| agenda.behind(&after)).peekable();
        let timer = |(due_at, delivery): &(Timestamp, DeliveryId)| {
            let open = *self.deliveries.open[delivery];
            let (wait, not_before) = match under_way(*delivery) {
                true => (Wait::UnderWay, None),
                false => self.wait(now, &open, first == Some((*due_at, *delivery))),
            };
            Timer { delivery: *delivery, open, wait, not_before }
        };
        let coming = |until: Option<Timestamp>| until.filter(|until| *until > now);
        Ok(Timers {
            pending: self.open_count(),
            enabled: settings.enabled,
            hold_until: coming(settings.hold_until),
            endpoint_hold_until: coming(self.circuit.hold_until),
            probe_at: self.circuit.probe_at(),
            consecutive_failures: self.circuit.consecutive_failures(),
            waiting: behind.by_ref().take(limit).map(timer).collect(),
            more: behind.peek().is_some(),
        })
    }

    fn wait(&self, now: Timestamp, open: &Open, is_first: bool) -> (Wait, Option<Timestamp>) {
        let Ok(settings) = self.settings() else { return (Wait::Disabled, None) };
        if !settings.enabled {
            return (Wait::Disabled, None);
        }
        if self.circuit.is_open() {
            return (Wait::CircuitOpen, self.circuit.probe_at());
        }
        if settings.ordered && !is_first {
            return (Wait::Ordered, None);
        }
        let probing = self.circuit.is_probing();
        let due_at = if probing { now } else { open.due_at };
        let holds = [(settings.hold_until, Wait::Held), (self.circuit.hold_until, Wait::EndpointHold)];
        let hold = holds.into_iter().filter_map(|(until, wait)| Some((until?, wait))).max_by_key(|(until, _)| *until);
        match hold.filter(|(until, _)| *until > now.max(due_at)) {
            Some((until, wait)) => (wait, Some(until)),
            None if probing && is_first => (Wait::Probe, Some(now)),
            None if probing => (Wait::Ramp, None),
            None if due_at > now && open.last_failure.is_none() && open.attempts() == 0 => {
                (Wait::FirstAttempt, Some(due_at))
            }
            None if due_at > now => (Wait::Retry, Some(due_at)),
            None if recovers(&self.circuit) => (Wait::Ramp, None),
            None => (Wait::Permit, None),
        }
    }
}

fn recovers(circuit: &Circuit) -> bool {
    circuit.allowance().per_second.is_some()
}

/// Another time for the next attempt. What is due at that time already does not change.
pub(super) fn reschedule(state: &Subscription, reschedule: Reschedule) -> Result<Vec<Event>, Refusal> {
    let Reschedule { delivery, due_at, reason, under_way, at } = reschedule;
    let rules = state.settings()?.rules()?;
    let open = state.deliveries.open.get(&delivery).ok_or(Refusal::Ended(delivery))?;
    if under_way {
        return Err(Refusal::UnderWay(delivery));
    }
    let longest = at.plus_ms(MAX_RESCHEDULE_MS);
    let latest = match &rules.retry {
        Retry::Exponential { window_ms, .. } => longest.min(open.scheduled_at.plus_ms(*window_ms)),
        Retry::List { .. } => longest,
    };
    let to = due_at.max(at);
    if to > latest.max(at) {
        return Err(Refusal::TooLate(latest.max(at)));
    }
    // Who is due keeps its place among the others.
    if to == open.due_at || (to == at && open.due_at < at) {
        return Ok(vec![]);
    }
    let requested = RescheduleRequested { delivery, from: open.due_at, to, reason };
    Ok(vec![
        Event::Subscription(SubscriptionEvent::RescheduleRequested(requested)),
        Event::Delivery(DeliveryEvent::Rescheduled(DeliveryRescheduled { delivery, due_at: to })),
    ])
}

/// The end of a delivery by hand. An attempt under way is not called back, and its outcome counts no more.
pub(super) fn cancel(
    state: &Subscription,
    delivery: DeliveryId,
    reason: Option<String>,
) -> Result<Vec<Event>, Refusal> {
    state.settings()?;
    state.deliveries.open.get(&delivery).ok_or(Refusal::Ended(delivery))?;
    Ok(vec![
        Event::Subscription(SubscriptionEvent::CancellationRequested(CancellationRequested { delivery, reason })),
        Event::Delivery(DeliveryEvent::Cancelled(DeliveryCancelled { delivery })),
    ])
}
