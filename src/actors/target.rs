//! Where a subscription sends: said by its actor, asked by its attempts before they send.
//!
//! Not a channel: nobody waits for a change, and each subscription in memory has one of these.

use std::sync::{Arc, Mutex, MutexGuard};

use crate::domain::id::{SecretId, SubscriptionId, TenantId};
use crate::domain::profile::Profile;
use crate::domain::subscription::Settings;
use crate::domain::time::Timestamp;

/// Where and how to send: what an attempt needs of a subscription's settings.
#[derive(Clone, Debug, PartialEq)]
pub struct Target {
    /// Whose delivery.
    pub subscription: SubscriptionId,
    /// Whose subscription.
    pub tenant: TenantId,
    /// Where to.
    pub url: String,
    /// In which manner.
    pub profile: &'static Profile,
    /// The secrets that sign, the current one first.
    pub secrets: Vec<SecretId>,
    /// The custom headers that go along.
    pub headers: Option<SecretId>,
    /// Limit for one attempt, in milliseconds.
    pub timeout_ms: u64,
    /// Under which revision.
    pub revision: u64,
}

impl Target {
    /// The target as of `now`; `None` if the profile is unknown to this program.
    pub(super) fn of(settings: &Settings, now: Timestamp) -> Option<Self> {
        Some(Self {
            subscription: settings.id,
            tenant: settings.tenant,
            url: settings.url.clone(),
            profile: settings.profile().ok()?,
            secrets: settings.signing_secrets(now),
            headers: settings.headers.as_ref().map(|headers| headers.secret),
            timeout_ms: settings.rules().ok()?.timeout_ms,
            revision: settings.revision,
        })
    }
}

enum Said {
    Nothing,
    To(Arc<Target>),
    /// The actor has gone, and its successor decides anew.
    Over,
}

/// Where a subscription sends now, as its actor says. When this is dropped it says nothing any more.
pub(super) struct TargetSource(Arc<Mutex<Said>>);

/// The same, for attempts that have not begun.
pub(super) struct CurrentTarget(Arc<Mutex<Said>>);

impl TargetSource {
    /// One that sends nowhere yet.
    pub(super) fn new() -> Self {
        Self(Arc::new(Mutex::new(Said::Nothing)))
    }

    /// For an attempt.
    pub(super) fn follow(&self) -> CurrentTarget {
        CurrentTarget(Arc::clone(&self.0))
    }

    /// Where it sends; `None` while it sends nothing.
    pub(super) fn target(&self) -> Option<Arc<Target>> {
        target(&self.0)
    }

    /// Sends there from now on, or nowhere.
    pub(super) fn set(&self, target: Option<Target>) {
        *lock(&self.0) = target.map_or(Said::Nothing, |target| Said::To(Arc::new(target)));
    }
}

impl Drop for TargetSource {
    fn drop(&mut self) {
        *lock(&self.0) = Said::Over;
    }
}

impl CurrentTarget {
    /// Where to send; `None` if nothing is to be sent, or the actor has gone.
    pub(super) fn target(&self) -> Option<Arc<Target>> {
        target(&self.0)
    }

    /// Whether the actor has gone.
    pub(super) fn is_over(&self) -> bool {
        matches!(*lock(&self.0), Said::Over)
    }
}

fn target(said: &Mutex<Said>) -> Option<Arc<Target>> {
    match &*lock(said) {
        Said::To(target) => Some(Arc::clone(target)),
        Said::Nothing | Said::Over => None,
    }
}

fn lock(said: &Mutex<Said>) -> MutexGuard<'_, Said> {
    said.lock().expect("no holder of this lock can panic")
}
