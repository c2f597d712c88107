//! Whether a subscription's URL has taken a test, where its profile wants that before anything else is sent (C12).

use serde::{Deserialize, Serialize};

use super::Refusal;
use crate::domain::event::TestSent;
use crate::domain::profile::Profile;

/// How a subscription's URL has stood the tests that were sent to it. A new URL has stood none.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Trial {
    /// The revision of the settings that brought the URL; 0 for the one that it was created with.
    pub url_since: u64,
    /// The newest revision under which a test succeeded.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stood: Option<u64>,
}

impl Trial {
    /// Whether a test of the present URL has succeeded.
    pub fn succeeded(&self) -> bool {
        self.stood.is_some_and(|revision| revision >= self.url_since)
    }

    pub(super) fn begin_anew(&mut self, revision: u64) {
        self.url_since = revision;
    }

    /// A test may end when the URL is another already: what counts is the revision that it was sent under.
    pub(super) fn remember(&mut self, sent: &TestSent) {
        if sent.verified {
            self.stood = self.stood.max(sent.revision);
        }
    }
}

/// What is refused to a subscription whose URL no test has proven, and what to do first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Untested {
    /// To begin enabled.
    #[error("create the webhook disabled, send it a test that succeeds, then enable it")]
    Creation,
    /// To be enabled.
    #[error("send a test to its present URL that succeeds, then enable it")]
    Enabling,
    /// To go to another URL while it is enabled.
    #[error("disable it, change its URL, send a test that succeeds, then enable it again")]
    UrlChange,
}

/// Refuses what the profile allows only to a tested URL.
pub(super) fn require(profile: &Profile, untested: Untested) -> Result<(), Refusal> {
    match profile.require_test {
        true => Err(Refusal::TestRequired { profile: profile.name.clone(), untested }),
        false => Ok(()),
    }
}
