//! The running system: who owns which state, and how a message becomes deliveries.
//!
//! ```text
//! Root            starts everything, restarts a region that dies
//! ├─ Intake       task: the one writer of tenants and messages
//! ├─ Dispatcher   a lock, and a task that keeps its time: hands out permits for attempts, by tenant, host and standing
//! ├─ Eraser       task: finds message data that somebody wants gone, and sees it out of the database's files
//! ├─ Matcher[s]   task for each shard: reads its log, casts matches to the regions, saves how far all are durable
//! └─ Region[n]    slots of subscriptions, one heap of timers, activation and passivation
//!    └─ Subscription   only while there is work; decides, appends, and lets effects out once they are durable
//!       ├─ Attempt     task: one HTTP exchange; always reports
//!       └─ Look        task: finds the next step of the subscription's job; always reports
//! ```
//!
//! - An actor orders messages; every rule is in `domain`. No handler waits for I/O.
//! - Nothing leaves a subscription (an answer, an attempt, a timer) before the events behind it are durable.
//! - Everything here can be lost at any moment: after a restart the wake-ups in the log say whom to activate, the log
//!   says what is owed, and the matcher begins where every earlier match was durable. The cost is an attempt sent
//!   twice with the same id and bytes; never a delivery lost.
//! - Queues have bounds with names: see [`Config`]. ractor's mailboxes have none, so whatever can fill one holds a
//!   credit: matches, attempts, and requests through the engine.

mod attempt;
mod dispatcher;
mod engine;
mod eraser;
mod intake;
mod janitor;
mod jobs;
mod lookups;
mod matcher;
mod quarantine;
mod region;
mod root;
mod subscription;
mod target;
mod timers;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use serde::{Deserialize, Serialize};
use tokio::sync::{Notify, Semaphore};

use crate::clock::Clock;
use crate::domain::id::TenantId;
use crate::event_store::Log;
use crate::execute;
use crate::execute::vault::{KeyBytes, Vault};
use crate::outbound::Transport;

pub use attempt::TestDelivery;
pub use engine::{
    Backlog, Depth, Done, Engine, EngineError, Erased, NewJob, NewSubscription, Published, RunningJob, Sealable,
    SubjectErasure, TestReport,
};
pub use janitor::{Applied, Retention};
pub use jobs::{Candidates, Found, Pick, Unavailable, Wanted};
pub use quarantine::{Held, Quarantined};
pub use root::{Ports, Running, start};
pub use target::Target;

/// Bounds of the running system.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// Regions that share the subscriptions, 1 to 1024. Default: 16.
    pub regions: u16,
    /// Attempts under way at one time in this process. Default: 512.
    pub max_attempts: usize,
    /// Attempts under way at one time for one tenant. Default: 256.
    pub max_attempts_per_tenant: usize,
    /// Attempts under way at one time to one host, which is a name or address with its port. Default: 128.
    pub max_attempts_per_host: usize,
    /// Attempts under way at one time for one subscription. Default: 16.
    pub max_attempts_per_subscription: usize,
    /// Deliveries of one subscription that are open at one time; further matches wait in the log until half of them have
    /// ended. Where the last attempt failed it is an eighth of this. Default: 2048.
    pub max_open_deliveries: usize,
    /// Attempts to one host in a second. 0: as many as there are permits for. Default: 0.
    pub host_rate_per_s: u32,
    /// An attempt that is under way for so long is slow, in milliseconds. Default: 1000.
    pub slow_after_ms: u64,
    /// Part of the permits of the process, of a tenant, of a host that subscriptions whose last attempts were slow may
    /// hold together, in percent, 1 to 100. Default: 25.
    pub max_slow_percent: u8,
    /// The same for these and for subscriptions of which nothing is known yet. Default: 50.
    pub max_unproven_percent: u8,
    /// Deliveries that a webhook's job may begin in a second at most, whatever its caller asks for. Default: 500.
    pub max_job_rate_per_s: u32,
    /// After how long without work a subscription leaves memory, in milliseconds. Default: 120000.
    pub idle_after_ms: u64,
    /// Matches that may be on their way to subscriptions and not yet durable, of all shards together. Default: 8000.
    pub match_credits: u32,
    /// Publications and tenant changes that may wait for their turn; beyond it callers get 503. Default: 4096.
    pub intake_queue: usize,
    /// Requests to subscriptions that may be under way; beyond it callers get 503. Default: 1024.
    pub request_credits: usize,
    /// A subscription that is loaded again is to read at most about so many events: it then saves its state. 0: it never
    /// does, and all events of its open period are read. Default: 1000.
    pub snapshot_every_events: u64,
    /// Erased data is taken out of the database's files once in so many milliseconds at most, for all erasures together
    /// that wait for nothing else. Default: 60000.
    pub purge_every_ms: u64,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            regions: 16,
            max_attempts: 512,
            max_attempts_per_tenant: 256,
            max_attempts_per_host: 128,
            max_attempts_per_subscription: 16,
            max_open_deliveries: 2_048,
            host_rate_per_s: 0,
            slow_after_ms: 1_000,
            max_slow_percent: 25,
            max_unproven_percent: 50,
            max_job_rate_per_s: 500,
            idle_after_ms: 120_000,
            match_credits: 8_000,
            intake_queue: 4_096,
            request_credits: 1_024,
            snapshot_every_events: 1_000,
            purge_every_ms: 60_000,
        }
    }
}

/// What every actor shares.
pub(crate) struct Context {
    log: Log,
    clock: Arc<dyn Clock>,
    vault: Arc<Vault>,
    transport: Arc<dyn Transport>,
    /// One permit for each attempt under way in this process.
    dispatcher: Arc<dispatcher::Dispatcher>,
    /// One permit for each match that is not durable yet, of all matchers.
    match_credits: Arc<Semaphore>,
    /// What jobs can be made of; `None`: no job goes on.
    candidates: Option<Arc<dyn Candidates>>,
    /// One permit for each subscription whose state is being read.
    loads: Semaphore,
    /// One permit for each step of a job that is looked for.
    job_looks: Semaphore,
    stopping: AtomicBool,
    /// Told when an erasure has begun.
    erasures: Notify,
    /// Under which digests of requests are remembered.
    idempotency_key: KeyBytes,
    quarantine: quarantine::Quarantine,
    retention: Retention,
    config: Config,
}

impl Context {
    /// Where everything of a tenant stands.
    fn shard_of(&self, tenant: TenantId) -> u16 {
        execute::shard_of(tenant, self.log.shards())
    }

    /// Whether no attempt may begin any more.
    fn is_stopping(&self) -> bool {
        self.stopping.load(Ordering::SeqCst)
    }
}
