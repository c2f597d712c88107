//! What a subscription can be asked to do.

use super::deletion::Restore;
use super::job::{StartJob, Step};
use crate::domain::event::{ExpiryReason, ReenableMode, SubscriptionCreated, TestSent};
use crate::domain::filter::Filter;
use crate::domain::header::SealedHeaders;
use crate::domain::id::{DeliveryId, JobId, MessageId, SecretId};
use crate::domain::notice::SealedRecipients;
use crate::domain::outcome::Exchange;
use crate::domain::retry_policy::RetryPolicy;
use crate::domain::time::Timestamp;

/// What a subscription can be asked to do. Brings all that the decision needs.
#[derive(Clone, Debug, PartialEq)]
pub enum Command {
    /// Come into being.
    Create(SubscriptionCreated),
    /// Change settings; what is `None` stays.
    Update(Update),
    /// Begin to send.
    Enable,
    /// Stop sending.
    Disable {
        /// Why, for the audit log.
        reason: Option<String>,
    },
    /// Send nothing before a moment (`Some`), or pause no more (`None`).
    Hold {
        /// Until when.
        until: Option<Timestamp>,
        /// Why, for the audit log.
        reason: Option<String>,
    },
    /// Take a new secret, which the caller has sealed already.
    RotateSecret {
        /// Under which it is sealed.
        secret: SecretId,
        /// Its keyed fingerprint.
        fingerprint: String,
        /// Its public key, if it is a private one.
        public_key: Option<String>,
        /// For how long the old one goes on signing; the profile's default if `None`.
        overlap_s: Option<u64>,
        /// Now.
        at: Timestamp,
    },
    /// Remember a test delivery.
    RecordTest(TestSent),
    /// Owe these messages.
    Match(Matches),
    /// Remember how an attempt went.
    FinishAttempt(Finished),
    /// Remember that messages which were to be scheduled are gone.
    LoseMatches {
        /// Up to this number of the shard's log.
        gone_through: u64,
    },
    /// Owe a message again.
    Redeliver(Redeliver),
    /// Make the next attempt of a delivery at another time.
    Reschedule(Reschedule),
    /// Call a delivery off.
    Cancel {
        /// The delivery.
        delivery: DeliveryId,
        /// Why, for the audit log.
        reason: Option<String>,
    },
    /// Begin a job.
    StartJob(StartJob),
    /// End a job.
    CancelJob(JobId),
    /// Take a step of the job.
    AdvanceJob(Step),
    /// Try again by hand, after the circuit breaker tripped.
    Reenable {
        /// What becomes of everything that waited.
        mode: ReenableMode,
        /// Messages that waited, up to this number, are not delivered.
        skip_through: Option<u64>,
        /// Messages up to this number are not kept any more.
        gone_through: u64,
    },
    /// Try again without anybody's doing, if it is time.
    Probe {
        /// Messages up to this number are not kept any more.
        gone_through: u64,
        /// Now.
        at: Timestamp,
    },
    /// Give up a delivery whose message is gone.
    Expire {
        /// The delivery.
        delivery: DeliveryId,
        /// What is gone.
        reason: ExpiryReason,
    },
    /// Begin a new period, which carries what is owed.
    OpenPeriod {
        /// Messages up to this number are gone, or about to be: what is owed of them is given up.
        gone_through: u64,
    },
    /// Cease to be.
    Delete {
        /// The revision that the caller has seen.
        expected_revision: Option<u64>,
    },
    /// Delete it so that nobody can restore it, or let one that is deleted be restored no more: its tenant is erased.
    DeleteForGood,
    /// Be there again, disabled, after a deletion.
    Restore(Restore),
    /// Remember that the secrets are destroyed, if it is time for that.
    Forget {
        /// Now.
        at: Timestamp,
    },
}

/// New settings; what is `None` stays.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Update {
    /// The revision that the caller has seen.
    pub expected_revision: Option<u64>,
    /// Where to send.
    pub url: Option<String>,
    /// What it is for; `Some(None)` clears it.
    pub description: Option<Option<String>>,
    /// What to send.
    pub filters: Option<Vec<Filter>>,
    /// Attempts a second at most; `Some(None)` lifts the limit.
    pub rate_limit_per_s: Option<Option<u32>>,
    /// Whether each delivery waits for the end of the one before.
    pub ordered: Option<bool>,
    /// The custom headers, which the caller has sealed already; `Some(None)`: none any more.
    pub headers: Option<Option<SealedHeaders>>,
    /// Its own rules of trying again; `Some(None)`: its profile's hold.
    pub retry_policy: Option<Option<RetryPolicy>>,
    /// Who is told what happens to it, which the caller has sealed already; `Some(None)`: nobody any more.
    pub recipients: Option<Option<SealedRecipients>>,
}

/// Messages that the filters matched, in log order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Matches {
    /// Number of the match before the first of these; `None` if everything before them is known to be durable.
    pub after: Option<u64>,
    /// The messages.
    pub found: Vec<Match>,
}

/// A message that the filters matched as of its position.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Match {
    /// Id for the delivery, if there is to be one.
    pub delivery: DeliveryId,
    /// The message.
    pub message: MessageId,
    /// Its number in the shard's log.
    pub message_seq: u64,
}

/// An attempt that ended.
#[derive(Clone, Debug, PartialEq)]
pub struct Finished {
    /// Of this delivery.
    pub delivery: DeliveryId,
    /// The attempt's number, from 1.
    pub number: u32,
    /// The revision that it was sent under.
    pub revision: u64,
    /// When it began.
    pub started_at: Timestamp,
    /// When it ended.
    pub ended_at: Timestamp,
    /// How it went.
    pub exchange: Exchange,
    /// Spreads the delay until the next one.
    pub random: u64,
}

/// A request to make a delivery's next attempt at another time.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reschedule {
    /// The delivery.
    pub delivery: DeliveryId,
    /// When; what has passed means now.
    pub due_at: Timestamp,
    /// Why, for the audit log.
    pub reason: Option<String>,
    /// Whether an attempt of it is under way: the actor knows.
    pub under_way: bool,
    /// Now.
    pub at: Timestamp,
}

/// A request to send an ended delivery again, with what the caller has read of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Redeliver {
    /// The ended one.
    pub original: DeliveryId,
    /// Whether it failed.
    pub original_failed: bool,
    /// Id of the new one.
    pub delivery: DeliveryId,
    /// The message.
    pub message: MessageId,
    /// Its number in the shard's log.
    pub message_seq: u64,
    /// Its place among all that the subscription has matched.
    pub sequence: Option<u64>,
    /// Whether it may wait while the circuit is open.
    pub queue: bool,
    /// Whether one more delivery may be open: what the subscription's actor knows.
    pub room: bool,
}
