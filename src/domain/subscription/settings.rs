//! How a subscription is set: everything that people change, and the matcher needs to know as well.

use std::borrow::Cow;

use serde::{Deserialize, Serialize};

use crate::domain::event::{SubscriptionCreated, SubscriptionEvent};
use crate::domain::filter::Filter;
use crate::domain::header::SealedHeaders;
use crate::domain::id::{SecretId, SubscriptionId, TenantId};
use crate::domain::notice::SealedRecipients;
use crate::domain::profile::{self, Profile, UnknownProfile};
use crate::domain::retry_policy::{self, RetryPolicy};
use crate::domain::time::Timestamp;

/// How a subscription is set.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Settings {
    /// Its id.
    pub id: SubscriptionId,
    /// Whose it is.
    pub tenant: TenantId,
    /// Its delivery profile.
    pub profile: String,
    /// Where to send.
    pub url: String,
    /// What it is for.
    pub description: Option<String>,
    /// What to send.
    pub filters: Vec<Filter>,
    /// Whether it sends.
    pub enabled: bool,
    /// The signing secrets' versions, the current one first.
    pub secrets: Vec<SecretVersion>,
    /// Grows with every change of these settings, from 1.
    pub revision: u64,
    /// Attempts a second at most; `None`: as many as permits allow.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rate_limit_per_s: Option<u32>,
    /// Whether each delivery waits for the end of the one before, in the order of the messages.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub ordered: bool,
    /// Nothing is sent before this: a maintenance window.
    pub hold_until: Option<Timestamp>,
    /// The custom headers.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub headers: Option<Box<SealedHeaders>>,
    /// Its own rules of trying again, in place of the profile's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub retry_policy: Option<Box<RetryPolicy>>,
    /// Who is told what happens to it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub recipients: Option<Box<SealedRecipients>>,
}

/// What is known of a signing secret: everything but the secret.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SecretVersion {
    /// Under which it is sealed.
    pub id: SecretId,
    /// From 1.
    pub version: u32,
    /// Until when it signs beside its successor; `None` for the current one.
    pub retires_at: Option<Timestamp>,
}

impl Settings {
    /// The profile.
    pub fn profile(&self) -> Result<&'static Profile, UnknownProfile> {
        profile::find(&self.profile)
    }

    /// The profile, with the subscription's own rules in place of the profile's: by these attempts are judged and made again.
    pub fn rules(&self) -> Result<Cow<'static, Profile>, UnknownProfile> {
        retry_policy::rules(&self.profile, self.retry_policy.as_deref())
    }

    /// The secrets that sign at `now`, the current one first.
    pub fn signing_secrets(&self, now: Timestamp) -> Vec<SecretId> {
        self.secrets
            .iter()
            .filter(|secret| secret.retires_at.is_none_or(|retires_at| now < retires_at))
            .map(|secret| secret.id)
            .collect()
    }

    /// The version that the next secret will have.
    pub fn next_secret_version(&self) -> u32 {
        self.secrets.first().map_or(1, |current| current.version + 1)
    }

    /// The settings that a creation makes.
    pub fn created(created: &SubscriptionCreated) -> Self {
        Self {
            id: created.subscription,
            tenant: created.tenant,
            profile: created.profile.clone(),
            url: created.url.clone(),
            description: created.description.clone(),
            filters: created.filters.clone(),
            enabled: created.enabled,
            secrets: vec![SecretVersion { id: created.secret, version: 1, retires_at: None }],
            revision: 1,
            rate_limit_per_s: created.rate_limit_per_s,
            ordered: created.ordered,
            hold_until: None,
            headers: created.headers.clone().map(Box::new),
            retry_policy: created.retry_policy.clone().map(Box::new),
            recipients: created.recipients.clone().map(Box::new),
        }
    }

    /// Remembers what happened to a living subscription.
    pub fn evolve(&mut self, event: &SubscriptionEvent) {
        match event {
            SubscriptionEvent::Updated(updated) => {
                if let Some(change) = &updated.url {
                    self.url.clone_from(&change.to);
                }
                if let Some(change) = &updated.description {
                    self.description.clone_from(&change.to);
                }
                if let Some(change) = &updated.filters {
                    self.filters.clone_from(&change.to);
                }
                if let Some(change) = &updated.rate_limit_per_s {
                    self.rate_limit_per_s = change.to;
                }
                if let Some(change) = &updated.ordered {
                    self.ordered = change.to;
                }
                if let Some(change) = &updated.headers {
                    self.headers = change.to.clone().map(Box::new);
                }
                if let Some(change) = &updated.retry_policy {
                    self.retry_policy = change.to.clone().map(Box::new);
                }
                if let Some(change) = &updated.recipients {
                    self.recipients = change.to.clone().map(Box::new);
                }
            }
            SubscriptionEvent::Enabled(_) => self.enabled = true,
            SubscriptionEvent::Disabled(_) => self.enabled = false,
            SubscriptionEvent::HoldChanged(changed) => self.hold_until = changed.until,
            SubscriptionEvent::SecretRotated(rotated) => {
                match (rotated.previous_retires_at, self.secrets.first_mut()) {
                    (Some(retires_at), Some(current)) => current.retires_at = Some(retires_at),
                    // Without an overlap every older secret stops at once, also one still in an earlier overlap.
                    (None, _) | (_, None) => self.secrets.clear(),
                }
                let current = SecretVersion { id: rotated.secret, version: rotated.version, retires_at: None };
                self.secrets.insert(0, current);
            }
            // The deletion had a number too.
            SubscriptionEvent::Restored(_) => {
                self.enabled = false;
                self.revision += 1;
            }
            SubscriptionEvent::TestSent(_)
            | SubscriptionEvent::EgressBlocked(_)
            | SubscriptionEvent::RedeliveryRequested(_)
            | SubscriptionEvent::RescheduleRequested(_)
            | SubscriptionEvent::CancellationRequested(_)
            | SubscriptionEvent::JobStarted(_)
            | SubscriptionEvent::JobEnded(_)
            | SubscriptionEvent::CircuitTripped(_)
            | SubscriptionEvent::CircuitReenabled(_)
            | SubscriptionEvent::CircuitProbing(_)
            | SubscriptionEvent::MatchesLost(_)
            | SubscriptionEvent::CircuitClosed(_)
            | SubscriptionEvent::Created(_)
            | SubscriptionEvent::Deleted(_)
            | SubscriptionEvent::SecretsDestroyed(_) => return,
        }
        self.revision += 1;
    }
}
