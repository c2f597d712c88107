//! The circuit breaker of a subscription: when to stop calling an endpoint that is down, and how to come back to it.
//!
//! - It trips at a run of hard failures over several deliveries, or at a very long run of soft ones. What counts is a
//!   value of the profile ([`Breaker`]); any success ends a run.
//! - A burst counts once: a hard failure counts only if its attempt began after the last counted one had ended. That holds
//!   on the way back too. Whoever begins an attempt dates it no earlier than [`Circuit::known_through`], so that a clock
//!   that is set back does not hide failures.
//! - While it is open nothing is sent and nothing is lost: what is owed waits, and messages that match from then on wait
//!   in the log, without an event for each.
//! - From open it goes on by hand, or by itself where the profile says so: one probe with the oldest delivery, then ever
//!   more at a time, until it is closed.
//! - An attempt that began before it was enabled again says nothing about the endpoint of now.

use serde::{Deserialize, Serialize};

use super::id::DeliveryId;
use super::outcome::FailureClass;
use super::profile::{Breaker, MAX_DISTINCT};
use super::time::Timestamp;

/// Successes that take a recovery to its next level.
const SUCCESSES_A_LEVEL: u8 = 10;
/// The level at which nothing is held back any more: before it 1, 2, 4 and 8 attempts at a time, and as many a second.
const FULL_LEVEL: u8 = 4;
/// Hard failures in a row that end a recovery.
const FAILURES_IN_RECOVERY: u8 = 2;
/// How long a probe that met a soft failure waits at least, in milliseconds.
pub const SOFT_PROBE_PAUSE_MS: u64 = 30_000;

/// Why a circuit tripped. The words are stored in events.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum TripCause {
    /// A run of hard failures.
    HardFailures,
    /// Soft failures alone, many and for long.
    SoftFailures,
    /// The probe failed.
    ProbeFailed,
    /// Failures again on the way back.
    RecoveryFailed,
}

/// What the circuit has to know of an attempt that failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Failed {
    /// Of this delivery.
    pub delivery: DeliveryId,
    /// What it means.
    pub class: FailureClass,
    /// When it began.
    pub started_at: Timestamp,
    /// When it ended.
    pub ended_at: Timestamp,
    /// Before when nothing else is to be sent.
    pub hold_until: Option<Timestamp>,
}

/// What a subscription knows of its endpoint's health.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Circuit {
    /// Whether anything is sent, and how much.
    pub phase: Phase,
    /// Nothing is sent before this: the endpoint asked for it, or does not cope.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hold_until: Option<Timestamp>,
}

/// Whether anything is sent.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum Phase {
    /// Everything.
    Closed(Run),
    /// Nothing.
    Open(Opened),
    /// Little, to find out.
    HalfOpen(Recovery),
}

impl Default for Phase {
    fn default() -> Self {
        Self::Closed(Run::default())
    }
}

/// How much is sent, in a word.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum CircuitState {
    /// Everything.
    Closed,
    /// Nothing.
    Open,
    /// Little.
    HalfOpen,
}

/// Failures since the last success.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Run {
    /// Hard failures that count.
    pub failures: u32,
    /// Of which deliveries, as far as anybody asks.
    pub deliveries: Vec<DeliveryId>,
    /// When the last attempt that counts ended.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_ended_at: Option<Timestamp>,
    /// Soft failures.
    pub soft: u32,
    /// When the first of them was.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub soft_since: Option<Timestamp>,
}

/// Why and since when nothing is sent.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Opened {
    /// Since when.
    pub since: Timestamp,
    /// Why.
    pub cause: TripCause,
    /// When it tries by itself; `None` if somebody has to say so.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub probe_at: Option<Timestamp>,
    /// Tries by itself that failed since it was last closed.
    pub failed_probes: u32,
}

/// How far it has come back.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Recovery {
    /// Attempts that began before this say nothing.
    pub since: Timestamp,
    /// `None` until the probe has succeeded.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub level: Option<u8>,
    /// Successes on this level.
    pub successes: u8,
    /// Hard failures in a row that count.
    pub failures: u8,
    /// When the last attempt that counts ended.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_ended_at: Option<Timestamp>,
    /// Whether it began by itself.
    pub automatic: bool,
    /// As in [`Opened`].
    pub failed_probes: u32,
}

/// How much may be sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Allowance {
    /// Attempts at a time; `None`: as many as the operator allows.
    pub concurrent: Option<u32>,
    /// Attempts begun in a second; `None`: any number.
    pub per_second: Option<u32>,
}

impl Circuit {
    /// Whether nothing at all may be sent until somebody, or a probe, opens the way.
    pub fn is_open(&self) -> bool {
        matches!(self.phase, Phase::Open(_))
    }

    /// Whether everything may be sent: it is neither open nor on its way back.
    pub fn is_closed(&self) -> bool {
        matches!(self.phase, Phase::Closed(_))
    }

    /// How much is sent, in a word. Follows from the subscription's own events alone.
    pub fn state(&self) -> CircuitState {
        match self.phase {
            Phase::Closed(_) => CircuitState::Closed,
            Phase::Open(_) => CircuitState::Open,
            Phase::HalfOpen(_) => CircuitState::HalfOpen,
        }
    }

    /// Whether nothing ill is known of the endpoint.
    pub fn is_well(&self) -> bool {
        matches!(&self.phase, Phase::Closed(run) if run.failures == 0 && run.soft == 0)
    }

    /// Whether the next attempt is the probe: it goes to the oldest delivery, whenever that one was due.
    pub fn is_probing(&self) -> bool {
        matches!(&self.phase, Phase::HalfOpen(recovery) if recovery.level.is_none())
    }

    /// How much may be sent.
    pub fn allowance(&self) -> Allowance {
        let all = Allowance { concurrent: None, per_second: None };
        match &self.phase {
            Phase::Closed(_) => all,
            Phase::Open(_) => Allowance { concurrent: Some(0), per_second: Some(0) },
            Phase::HalfOpen(Recovery { level: None, .. }) => Allowance { concurrent: Some(1), per_second: None },
            Phase::HalfOpen(Recovery { level: Some(level), .. }) => {
                let limit = 1 << (*level).min(FULL_LEVEL);
                Allowance { concurrent: Some(limit), per_second: Some(limit) }
            }
        }
    }

    /// When a probe is due that nobody has to ask for.
    pub fn probe_at(&self) -> Option<Timestamp> {
        match &self.phase {
            Phase::Open(opened) => opened.probe_at,
            Phase::Closed(_) | Phase::HalfOpen(_) => None,
        }
    }

    /// The latest time that it compares beginnings of attempts with; `None`: there is none.
    pub fn known_through(&self) -> Option<Timestamp> {
        match &self.phase {
            Phase::Closed(run) => run.last_ended_at,
            Phase::HalfOpen(recovery) => recovery.last_ended_at.max(Some(recovery.since)),
            Phase::Open(_) => None,
        }
    }

    /// Remembers an attempt that failed.
    pub fn fail(&mut self, failed: &Failed) {
        if !self.is_open() {
            self.hold_until = self.hold_until.max(failed.hold_until);
        }
        match (&mut self.phase, failed.class) {
            (Phase::Closed(run), FailureClass::Hard) => run.count(failed),
            (Phase::Closed(run), FailureClass::Soft) => {
                run.soft = run.soft.saturating_add(1);
                run.soft_since.get_or_insert(failed.ended_at);
            }
            (Phase::HalfOpen(recovery), FailureClass::Hard) if failed.started_at >= recovery.since => {
                recovery.successes = 0;
                if recovery.last_ended_at.is_none_or(|last_ended_at| failed.started_at >= last_ended_at) {
                    recovery.failures = recovery.failures.saturating_add(1);
                    recovery.last_ended_at = Some(failed.ended_at);
                }
            }
            (Phase::HalfOpen(recovery), FailureClass::Soft) if failed.started_at >= recovery.since => {
                recovery.successes = 0;
                recovery.level = recovery.level.map(|level| level.saturating_sub(1));
            }
            (Phase::HalfOpen(_), FailureClass::Hard | FailureClass::Soft)
            | (Phase::Open(_), _)
            | (_, FailureClass::Gone | FailureClass::Local) => {}
        }
    }

    /// Remembers an attempt that succeeded.
    pub fn succeed(&mut self, started_at: Timestamp) {
        match &mut self.phase {
            Phase::Closed(run) => *run = Run::default(),
            Phase::HalfOpen(recovery) if started_at >= recovery.since => {
                recovery.failures = 0;
                recovery.last_ended_at = None;
                recovery.successes = recovery.successes.saturating_add(1);
                recovery.level = match recovery.level {
                    None => Some(0),
                    Some(level) if recovery.successes >= SUCCESSES_A_LEVEL => Some(level + 1),
                    Some(_) => return,
                };
                recovery.successes = 0;
            }
            Phase::HalfOpen(_) | Phase::Open(_) => {}
        }
    }

    /// Whether the recovery has come to its end, and the circuit is to be closed.
    pub fn has_recovered(&self) -> bool {
        matches!(&self.phase, Phase::HalfOpen(recovery) if recovery.level >= Some(FULL_LEVEL))
    }

    /// Why it is to trip, after the failure that it has just remembered; `None` if it is not.
    pub fn trips(&self, breaker: &Breaker, now: Timestamp) -> Option<TripCause> {
        match &self.phase {
            Phase::Closed(run) => run.trips(breaker, now),
            Phase::HalfOpen(recovery) if recovery.level.is_none() && recovery.failures > 0 => {
                Some(TripCause::ProbeFailed)
            }
            Phase::HalfOpen(recovery) if recovery.failures >= FAILURES_IN_RECOVERY => Some(TripCause::RecoveryFailed),
            Phase::HalfOpen(_) | Phase::Open(_) => None,
        }
    }

    /// How many probes that nobody asked for have failed, if the one under way does too.
    pub fn failed_probes(&self) -> u32 {
        match &self.phase {
            Phase::Closed(_) => 0,
            Phase::Open(opened) => opened.failed_probes,
            Phase::HalfOpen(recovery) => recovery.failed_probes + u32::from(recovery.automatic),
        }
    }

    /// How many failures made it trip, or would.
    pub fn run_length(&self) -> u32 {
        match &self.phase {
            Phase::Closed(run) => run.failures.max(run.soft),
            Phase::HalfOpen(recovery) => recovery.failures.into(),
            Phase::Open(_) => 0,
        }
    }

    /// Hard failures in a row that count towards the next trip; none while it is open.
    pub fn consecutive_failures(&self) -> u32 {
        match &self.phase {
            Phase::Closed(run) => run.failures,
            Phase::HalfOpen(recovery) => recovery.failures.into(),
            Phase::Open(_) => 0,
        }
    }

    /// Nothing is sent from now on.
    pub fn trip(&mut self, opened: Opened) {
        *self = Self { phase: Phase::Open(opened), hold_until: None };
    }

    /// The way is open for a probe.
    pub fn recover(&mut self, automatic: bool, at: Timestamp) {
        let failed_probes = if automatic { self.failed_probes() } else { 0 };
        let recovery = Recovery {
            since: at,
            level: None,
            successes: 0,
            failures: 0,
            last_ended_at: None,
            automatic,
            failed_probes,
        };
        *self = Self { phase: Phase::HalfOpen(recovery), hold_until: None };
    }

    /// What was known of the endpoint says nothing about the one of now: another URL, or somebody enabled it anew. An
    /// open circuit stays open, for whoever tripped it has not been told.
    pub fn forget_run(&mut self) {
        self.hold_until = None;
        if let Phase::Closed(run) = &mut self.phase {
            *run = Run::default();
        }
    }

    /// It is as if nothing had been.
    pub fn close(&mut self) {
        *self = Self::default();
    }
}

impl Run {
    fn count(&mut self, failed: &Failed) {
        if self.last_ended_at.is_some_and(|last_ended_at| failed.started_at < last_ended_at) {
            return;
        }
        self.failures = self.failures.saturating_add(1);
        self.last_ended_at = Some(failed.ended_at);
        if self.deliveries.len() < MAX_DISTINCT && !self.deliveries.contains(&failed.delivery) {
            self.deliveries.push(failed.delivery);
        }
    }

    fn trips(&self, breaker: &Breaker, now: Timestamp) -> Option<TripCause> {
        let lasted_ms = self.soft_since.map_or(0, |since| now.ms_since(since));
        if self.failures >= breaker.failures && self.deliveries.len() >= breaker.deliveries as usize {
            Some(TripCause::HardFailures)
        } else if self.soft >= breaker.soft_failures && lasted_ms >= breaker.soft_over_ms {
            Some(TripCause::SoftFailures)
        } else {
            None
        }
    }
}

#[cfg(test)]
#[path = "circuit_tests.rs"]
mod tests;
