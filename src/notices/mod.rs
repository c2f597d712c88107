//! Tells owners by e-mail what happens to their webhooks (A12, C19).
//!
//! - It follows the log from a checkpoint of its own, out of band: no append and no delivery waits for it. What it owes
//!   after a crash, the log says; a mail may come twice then, with the same Message-ID.
//! - Each address of a webhook gets its notices in the order of the log. Which events are told is a rule of the profile;
//!   to whom, and whether at all, the webhook's settings say at the moment of sending.
//! - A server that cannot be asked is tried again, longer and longer apart; so is a mail that it refuses for now. What it
//!   refuses for good is given up, and what is older than a day is not sent any more: nobody wants it by then.
//! - Without a mail server nothing is owed: the checkpoint is forgotten, and the first start with one begins at the head.
//!
//! Whoever owns a shard tells of it: a checkpoint is saved under the owner's epoch.

mod follower;
mod queue;
mod server;

use std::fmt;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use serde::{Deserialize, Serialize};
use tokio::sync::Semaphore;
use tokio::task::JoinSet;
use tokio::time::Instant;

use crate::clock::Clock;
use crate::domain::notice::Address;
use crate::event_store::{AppendError, Log, Position, ReadError};
use crate::execute::vault::Vault;
use follower::Follower;
use queue::backoff;
use server::{MailServer, Route};

/// The reader whose checkpoint says of which events owners have been told.
const READER: &str = "notices";
/// Mails that are handed over at one time.
const CONNECTIONS: usize = 2;
/// How long a server that cannot be asked is left alone at first, and at most.
const PAUSE: Duration = Duration::from_secs(1);
const LONGEST_PAUSE: Duration = Duration::from_secs(60);

/// How notices are sent.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// The mail server: `smtps://user:password@host:port` (TLS at once, port 465) or `smtp://…` (STARTTLS, port 587), user
    /// and password percent-encoded or absent; `smtp://host:port?tls=none` sends in the clear, without a password. Better
    /// set by `TIDINGS_MAIL__URL`. Default: empty, which means that no mails are sent.
    pub url: String,
    /// The address that mails come from. Default: empty, which `url` does not allow.
    pub from: String,
    /// How long the mail server may take until it knows who sends, in milliseconds, 100 to 300000. Default: 30000.
    pub timeout_ms: u64,
    /// How many mails are sent for one tenant of what happens in one hour, 1 to 1000000; further ones are not sent. Whoever
    /// makes webhooks chooses their addresses. Default: 500.
    pub per_tenant_per_hour: u32,
    /// File with further authorities, in PEM, that the mail server's certificate may be issued by. Default: empty, which
    /// means none.
    pub ca_file: PathBuf,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            url: String::new(),
            from: String::new(),
            timeout_ms: 30_000,
            per_tenant_per_hour: 500,
            ca_file: PathBuf::new(),
        }
    }
}

/// Without the password that the URL may hold.
impl fmt::Debug for Config {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let scheme = self.url.split_once("://").map_or("", |(scheme, _)| scheme);
        f.debug_struct("Config")
            .field("url", &format_args!("{scheme}://***"))
            .field("from", &self.from)
            .field("timeout_ms", &self.timeout_ms)
            .field("per_tenant_per_hour", &self.per_tenant_per_hour)
            .field("ca_file", &self.ca_file)
            .finish()
    }
}

impl Config {
    /// Fails, naming the key, if mails cannot be sent as this says.
    pub fn check(&self) -> Result<(), String> {
        if !(100..=300_000).contains(&self.timeout_ms) {
            return Err("mail.timeout_ms: must be 100 to 300000".into());
        }
        if !(1..=1_000_000).contains(&self.per_tenant_per_hour) {
            return Err("mail.per_tenant_per_hour: must be 1 to 1000000".into());
        }
        self.route().map(|_| ())
    }

    /// Where mails go, and in whose name; `None` if none are sent.
    fn route(&self) -> Result<Option<(Route, Address)>, String> {
        if self.url.is_empty() {
            return Ok(None);
        }
        let route = Route::parse(&self.url).map_err(|error| format!("mail.url: {error}"))?;
        let from = Address::parse(&self.from).map_err(|error| format!("mail.from: {error}"))?;
        Ok(Some((route, from)))
    }
}

/// Notices cannot be begun with.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The mail server cannot be used as it is configured.
    #[error("the configuration is wrong: {0}")]
    Config(String),
    /// The log cannot be read.
    #[error(transparent)]
    Read(#[from] ReadError),
    /// The log cannot be written.
    #[error(transparent)]
    Append(#[from] AppendError),
}

/// What became of notices since the start, one for each address.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Handed over to the mail server.
    pub sent: u64,
    /// Refused by it for good.
    pub refused: u64,
    /// Not sent, since they were older than a day.
    pub expired: u64,
    /// Not sent, since the tenant had too many in an hour.
    pub limited: u64,
    /// Still to be sent, as far as the log was read.
    pub waiting: usize,
}

#[derive(Debug, Default)]
struct Counters {
    sent: AtomicU64,
    refused: AtomicU64,
    expired: AtomicU64,
    limited: AtomicU64,
    /// By shard.
    waiting: Vec<AtomicUsize>,
}

/// What the notices of all shards have in common.
struct Shared {
    log: Log,
    vault: Arc<Vault>,
    clock: Arc<dyn Clock>,
    server: MailServer,
    counters: Arc<Counters>,
    per_tenant_per_hour: u32,
    turn: Semaphore,
    outage: Mutex<Outage>,
}

/// How long the mail server could not be asked.
#[derive(Debug, Default)]
struct Outage {
    failures: u32,
    until: Option<Instant>,
}

/// The telling of owners. A clone is another handle on the same one.
#[derive(Clone, Debug, Default)]
pub struct Notices {
    counters: Arc<Counters>,
}

impl Notices {
    /// Begins to tell, if there is a mail server, in tasks of that set, which may end at any moment. What is recorded from
    /// now on is told of.
    pub async fn start(
        config: &Config,
        log: &Log,
        vault: &Arc<Vault>,
        clock: &Arc<dyn Clock>,
        tasks: &mut JoinSet<()>,
    ) -> Result<Self, StartError> {
        let Some(server) = MailServer::of(config).map_err(StartError::Config)? else {
            log.store().forget_reader(READER).await?;
            return Ok(Self::default());
        };
        let waiting = (0..log.shards()).map(|_| AtomicUsize::new(0)).collect();
        let counters = Arc::new(Counters { waiting, ..Counters::default() });
        let shared = Arc::new(Shared {
            log: log.clone(),
            vault: Arc::clone(vault),
            clock: Arc::clone(clock),
            server,
            counters: Arc::clone(&counters),
            per_tenant_per_hour: config.per_tenant_per_hour,
            turn: Semaphore::new(CONNECTIONS),
            outage: Mutex::default(),
        });
        for shard in 0..log.shards() {
            let from = begin(log, shard).await?;
            tasks.spawn(Follower::new(Arc::clone(&shared), shard, from).run());
        }
        Ok(Self { counters })
    }

    /// What became of notices since the start.
    pub fn counts(&self) -> Counts {
        let read = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        Counts {
            sent: read(&self.counters.sent),
            refused: read(&self.counters.refused),
            expired: read(&self.counters.expired),
            limited: read(&self.counters.limited),
            waiting: self.counters.waiting.iter().map(|shard| shard.load(Ordering::Relaxed)).sum(),
        }
    }
}

/// Behind which number a shard is read: at the first time behind all that there is.
async fn begin(log: &Log, shard: u16) -> Result<u64, StartError> {
    if let Some(seq) = log.checkpoint(READER, shard).await? {
        return Ok(seq);
    }
    let head = Position { shard, seq: log.head(shard) };
    log.save_checkpoint(READER, head).await?;
    Ok(head.seq)
}

impl Shared {
    fn outage(&self) -> MutexGuard<'_, Outage> {
        self.outage.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Before when the server is left alone; `None` if it may be asked.
    fn closed_until(&self, now: Instant) -> Option<Instant> {
        self.outage().until.filter(|until| *until > now)
    }

    /// The server could not be asked. Told once for as long as that lasts.
    fn server_failed(&self, why: &str, now: Instant) {
        let mut outage = self.outage();
        if outage.failures == 0 {
            tracing::warn!("the mail server takes no notices, which wait and are tried again: {why}");
        }
        outage.until = Some(now + backoff(PAUSE, LONGEST_PAUSE, outage.failures));
        outage.failures = outage.failures.saturating_add(1);
    }

    fn server_answered(&self) {
        let ended = std::mem::take(&mut *self.outage());
        if ended.failures > 0 {
            tracing::info!("the mail server takes notices again");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config(url: &str, from: &str) -> Config {
        Config { url: url.into(), from: from.into(), ..Config::default() }
    }

    #[test]
    fn what_is_wrong_names_its_key_and_no_password() {
        assert_eq!(Config::default().check(), Ok(()));
        assert_eq!(config("smtps://me:hunter2@mail.example.com", "tidings@example.com").check(), Ok(()));
        for (wrong, key) in [
            (config("smtps://me:hunter2@", "tidings@example.com"), "mail.url: "),
            (config("smtps://me:hunter2@mail.example.com", ""), "mail.from: "),
            (config("smtps://me:hunter2@mail.example.com", "Tidings <hunter2@x.example>"), "mail.from: "),
            (Config { timeout_ms: 99, ..Config::default() }, "mail.timeout_ms: "),
        ] {
            let error = wrong.check().unwrap_err();
            assert!(error.starts_with(key) && !error.contains("hunter2"), "{error}");
            assert!(!format!("{wrong:?}").contains("me:hunter2"), "{wrong:?}");
        }
        let missing = Config { ca_file: "no-such-file.pem".into(), ..config("smtps://m.example", "t@example.com") };
        assert!(MailServer::of(&missing).err().unwrap().starts_with("mail.ca_file: "));
    }
}
