//! The way back from a deletion, for as long as the profile leaves it open (its window).
//!
//! A deleted subscription keeps its settings until the window has passed, and what its sequence goes on with; its owner
//! keeps its secrets for as long. It comes back disabled and owing nothing: what was cancelled stays cancelled, and what
//! was published meanwhile matched nobody.

use serde::{Deserialize, Serialize};

use super::{Deliveries, Life, Refusal, SecretVersion, Settings, Subscription, job};
use crate::domain::event::{Event, SecretsDestroyed, SubscriptionDeleted, SubscriptionEvent, SubscriptionRestored};
use crate::domain::id::{SecretId, TenantId};
use crate::domain::profile;
use crate::domain::time::Timestamp;

/// What is left of a deleted subscription.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Deleted {
    /// Whose it was.
    pub tenant: TenantId,
    /// Until when it can be restored; `None` if its profile never lets it.
    pub restorable_until: Option<Timestamp>,
    /// How it was set; `None` once it cannot be restored any more.
    pub settings: Option<Settings>,
}

/// A request to bring a deleted subscription back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Restore {
    /// The newest number of its shard's log: no message up to it is owed.
    pub matched_through: u64,
    /// Whether its secrets are being destroyed: the actor knows.
    pub too_late: bool,
    /// Now.
    pub at: Timestamp,
}

/// Why a deleted subscription is gone for good.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NotRestorable {
    /// Its profile deletes for ever, or did when it was deleted.
    #[error("the webhook was deleted for good: its profile lets none be restored")]
    ForGood,
    /// The window has passed.
    #[error("the webhook could be restored until {}", .0.to_rfc3339_ms())]
    TooLate(Timestamp),
}

impl Deleted {
    /// When its secrets are to be destroyed; `None` if that is done, or was done at once.
    pub fn destroy_at(&self) -> Option<Timestamp> {
        self.restorable_until.filter(|_| self.settings.is_some())
    }
}

impl Settings {
    /// For how long it could be restored if it were deleted now, in seconds; `None`: not at all.
    pub fn restore_window_s(&self) -> Option<u64> {
        self.profile().ok().map(|profile| profile.restore_window_s).filter(|window_s| *window_s > 0)
    }
}

impl Subscription {
    /// How it is set, or was when it was deleted, if it can still be restored.
    pub fn kept_settings(&self) -> Option<&Settings> {
        match &self.life {
            Life::Live(settings) => Some(settings),
            Life::Deleted(deleted) => deleted.settings.as_ref(),
            Life::Absent => None,
        }
    }

    /// When its secrets are to be destroyed, if it is deleted and has any.
    pub(super) fn destroy_at(&self) -> Option<Timestamp> {
        match &self.life {
            Life::Deleted(deleted) => deleted.destroy_at(),
            Life::Absent | Life::Live(_) => None,
        }
    }

    /// What is left of one whose window has passed, with its secrets still to be destroyed.
    pub fn outlived(&self, now: Timestamp) -> Option<&Settings> {
        match &self.life {
            Life::Deleted(deleted) if deleted.destroy_at().is_some_and(|at| at <= now) => deleted.settings.as_ref(),
            Life::Absent | Life::Live(_) | Life::Deleted(_) => None,
        }
    }

    /// Whether that secret may still sign, now or after the subscription was restored. One that retired is kept for
    /// `grace_ms` more: an attempt may have begun before.
    pub fn keeps_secret(&self, secret: SecretId, now: Timestamp, grace_ms: u64) -> bool {
        let signs = |known: &SecretVersion| known.retires_at.is_none_or(|at| now < at.plus_ms(grace_ms));
        self.kept_settings()
            .is_some_and(|settings| settings.secrets.iter().any(|known| known.id == secret && signs(known)))
    }

    /// Whether headers under that seal may still be sent, now or after the subscription was restored.
    pub fn keeps_headers(&self, sealed: SecretId) -> bool {
        let headers = self.kept_settings().and_then(|settings| settings.headers.as_ref());
        headers.is_some_and(|headers| headers.secret == sealed)
    }

    /// Whether the addresses under that seal may still be told something, now or after the subscription was restored.
    pub fn keeps_recipients(&self, sealed: SecretId) -> bool {
        let recipients = self.kept_settings().and_then(|settings| settings.recipients.as_ref());
        recipients.is_some_and(|recipients| recipients.secret == sealed)
    }

    pub(super) fn evolve_deleted(&mut self, event: &SubscriptionDeleted, at: Timestamp) {
        let life = std::mem::take(&mut self.life);
        let Some(tenant) = life.tenant() else { return *self = Self::default() };
        let window = event.restore_window_s;
        let settings = match life {
            Life::Live(settings) => Some(settings).filter(|_| window.is_some()),
            Life::Absent | Life::Deleted(_) => None,
        };
        let restorable_until = window.map(|window_s| at.plus_ms(window_s.saturating_mul(1_000)));
        *self = Self {
            life: Life::Deleted(Deleted { tenant, restorable_until, settings }),
            deliveries: Deliveries::of([], 0, event.sequence),
            ..Self::default()
        };
    }

    pub(super) fn evolve_restored(&mut self, event: &SubscriptionRestored) {
        if let Life::Deleted(Deleted { settings: Some(settings), .. }) = &mut self.life {
            let mut settings = settings.clone();
            settings.evolve(&SubscriptionEvent::Restored(event.clone()));
            self.trial.begin_anew(settings.revision);
            self.life = Life::Live(settings);
            self.deliveries.pass_over(Some(event.matched_through));
        }
    }

    pub(super) fn evolve_destroyed(&mut self) {
        if let Life::Deleted(deleted) = &mut self.life {
            deleted.settings = None;
            self.deliveries = Deliveries::default();
        }
    }
}

pub(super) fn delete(state: &Subscription, settings: &Settings) -> Event {
    deleted(state, settings.restore_window_s())
}

/// Without a way back. Nothing more happens to one that has none.
pub(super) fn delete_for_good(state: &Subscription) -> Result<Vec<Event>, Refusal> {
    match &state.life {
        Life::Absent => Err(Refusal::NotFound),
        Life::Live(_) => Ok(job::end_with_subscription(state).into_iter().chain([deleted(state, None)]).collect()),
        Life::Deleted(Deleted { settings: Some(_), .. }) => Ok(vec![secrets_destroyed()]),
        Life::Deleted(Deleted { settings: None, .. }) => Ok(vec![]),
    }
}

fn deleted(state: &Subscription, restore_window_s: Option<u64>) -> Event {
    let sequence = restore_window_s.map_or(0, |_| state.deliveries.sequence);
    let cancelled = state.deliveries.open.len() as u64;
    let deleted = SubscriptionDeleted { cancelled, restore_window_s, sequence };
    Event::Subscription(SubscriptionEvent::Deleted(deleted))
}

/// Whoever asks twice is answered as once.
pub(super) fn restore(state: &Subscription, restore: Restore) -> Result<Vec<Event>, Refusal> {
    let deleted = match &state.life {
        Life::Absent => return Err(Refusal::NotFound),
        Life::Live(_) => return Ok(vec![]),
        Life::Deleted(deleted) => deleted,
    };
    let until = deleted.restorable_until.ok_or(Refusal::NotRestorable(NotRestorable::ForGood))?;
    let settings = deleted.settings.as_ref().filter(|_| !restore.too_late && restore.at < until);
    let settings = settings.ok_or(Refusal::NotRestorable(NotRestorable::TooLate(until)))?;
    // An operator's profile may have gone meanwhile, since nobody used it.
    profile::find(&settings.profile)?;
    let restored = SubscriptionRestored { matched_through: restore.matched_through };
    Ok(vec![Event::Subscription(SubscriptionEvent::Restored(restored))])
}

/// What is to be remembered once the secrets of one that cannot be restored any more are destroyed.
pub(super) fn forget(state: &Subscription, at: Timestamp) -> Vec<Event> {
    state.outlived(at).map(|_| secrets_destroyed()).into_iter().collect()
}

fn secrets_destroyed() -> Event {
    Event::Subscription(SubscriptionEvent::SecretsDestroyed(SecretsDestroyed {}))
}
