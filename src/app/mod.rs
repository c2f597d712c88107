//! Puts the program together, in the order in which its parts need each other, and takes it apart in the reverse order.

mod audited;
mod bootstrap;
pub mod keys;
mod listeners;
mod operator_keys;
pub mod profiles;
mod store;
mod tools;
pub mod users;

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use futures_util::future::join_all;
use tokio::task::JoinSet;

use crate::actors::{self, Ports, Retention, Running};
use crate::authentication::{self, KeyRing};
use crate::clock::Clock;
use crate::config::{Config, LogPlace};
use crate::event_store::{AppendError, Log, Position};
use crate::execute::ledger::Ledger;
use crate::execute::vault::Vault;
use crate::notices::Notices;
use crate::outbound::{self, HttpClient};
use crate::projections::{Followers, Name, ReadModels};
use crate::rate_limit::RateLimits;
use crate::{graphql, http};
use listeners::{Addresses, Listeners, Serving};
use store::Store;

pub use store::reader;
pub use tools::{backup, export, import, state, vault, verify};

/// How long a start waits until all API keys are known as the log has them.
const KEYS_LIMIT: Duration = Duration::from_secs(30);
/// How long a start waits for all read models: mostly they lack no more than what the last moment brought.
const CATCH_UP_LIMIT: Duration = Duration::from_millis(250);

/// The running program.
pub struct App {
    addresses: Addresses,
    store: Store,
    log: Log,
    running: Running,
    followers: Followers,
    /// May end at any moment: what one of them writes is whole with each step.
    watchers: JoinSet<()>,
    vault: Arc<Vault>,
    ready: Arc<AtomicBool>,
    serving: Serving,
}

impl App {
    /// Opens the store, starts the system and listens. On a new store it makes a tenant and a key for it, which nobody can
    /// read again once `show` has been called with it.
    pub async fn start(
        config: &Config,
        clock: Arc<dyn Clock>,
        show: impl FnOnce(&str) -> io::Result<()>,
    ) -> anyhow::Result<Self> {
        let profiles = profiles::load(&config.profiles.path)?;
        if let LogPlace::Postgres(_) = config.log_place()?
            && let Ok(reader) = reader(config).await
        {
            // Whoever opens the log takes it from the server that has it: before that, not behind it, one must be fit to
            // serve. A log that cannot be read yet is new, or says so when it is opened.
            profiles::check(&*reader, &config.profiles.path, &profiles).await?;
            keys::must_fit(config, &*reader, &*clock).await?;
        }
        let store = Store::open(config).await?;
        let log = store.log(config).await?;
        profiles::remember(&log, &config.profiles.path, &profiles).await?;
        let vault = Arc::new(keys::open_vault(config, &log, &*clock).await?);
        let read_models = ReadModels::open(&config.read_models_path()?).await?;
        let followers = read_models.follow(log.clone());
        // Before anything is sent, and before a key is made that only this start could show.
        let listeners = Listeners::bind(config).await?;
        let addresses = listeners.addresses()?;
        let own: Vec<_> =
            [Some(addresses.everybody), addresses.operators, addresses.metrics].into_iter().flatten().collect();
        let client = HttpClient::beside(&own, &config.egress)?;
        let gate = client.gate().clone();
        let issuers = issuers_client(&own, config)?;
        audited::egress(&log, config, &*clock).await?;
        audited::key(&log, &vault, &*clock).await?;
        let folded = read_models.clone();
        let retention =
            Retention { config: config.retention.clone(), applied: Some(Arc::new(move |shard| folded.applied(shard))) };
        let bounds = config.actors.clone();
        let ports = Ports { transport: Arc::new(client), gate, candidates: Some(Arc::new(read_models.clone())) };
        // Before the system takes up what it owes: that takes all that the machine has, and answers would be old for long.
        let heads = heads(&log);
        if !caught_up(&read_models, &Name::ALL, &heads, CATCH_UP_LIMIT).await {
            tracing::info!("the read models are behind the log; answers say how far they have come");
        }
        let running =
            actors::start(log.clone(), Arc::clone(&clock), Arc::clone(&vault), ports, bounds, retention).await?;
        let is_first = bootstrap::key(&running.engine, &log, &vault, &*clock, show).await?;
        // Keys are looked up in the read models: a new one must be there, and a withdrawn one must be known as withdrawn.
        let heads = if is_first { self::heads(&log) } else { heads };
        if !caught_up(&read_models, &[Name::Tenants], &heads, KEYS_LIMIT).await {
            tracing::warn!("the read models are still behind the log; API keys are those of an earlier time");
        }
        let ready = Arc::new(AtomicBool::new(true));
        let (ledger, mut watchers) = Ledger::follow(log.clone(), Arc::clone(&clock));
        let notices = Notices::start(&config.mail, &log, &vault, &clock, &mut watchers).await?;
        watchers.spawn(keys::keep_rewrapping(Arc::clone(&vault), Arc::clone(&clock)));
        let keys = Arc::new(KeyRing::new(authentication::Ports {
            config: config.auth.clone(),
            read_models: read_models.clone(),
            engine: running.engine.clone(),
            vault: Arc::clone(&vault),
            fetch: Arc::new(issuers),
            clock: Arc::clone(&clock),
        }));
        keys.recall_sessions().await?;
        let schema = graphql::schema(graphql::SchemaContext {
            engine: running.engine.clone(),
            read_models: read_models.clone(),
            log: log.clone(),
            ledger: ledger.clone(),
            clock: Arc::clone(&clock),
            keys,
            limits: RateLimits::new(config.limits.clone()),
        });
        let front = http::AppState::new(schema, read_models.clone(), Arc::clone(&clock), Arc::clone(&ready));
        let state = front.with_live(&config.live);
        let measured = http::Measured {
            log: log.clone(),
            engine: running.engine.clone(),
            read_models,
            ledger,
            notices,
            clock,
            front: state.clone(),
        };
        let serving = listeners.serve(config, state.with_playground(config.server.playground), measured);
        Ok(Self { addresses, store, log, running, followers, watchers, vault, ready, serving })
    }

    /// Where the API listens.
    pub fn address(&self) -> SocketAddr {
        self.addresses.everybody
    }

    /// Where operators are served apart, if they are.
    pub fn admin_address(&self) -> Option<SocketAddr> {
        self.addresses.operators
    }

    /// Where the metrics are told, if they are.
    pub fn metrics_address(&self) -> Option<SocketAddr> {
        self.addresses.metrics
    }

    /// Serves until `signal` resolves, then ends in order: no new requests, attempts under way recorded, log flushed.
    /// It ends too, with the error, when another process has taken over the log: nothing could be recorded any more.
    pub async fn run_until(mut self, signal: impl Future<Output = ()>) -> Result<(), AppendError> {
        let ended = tokio::select! {
            () = signal => Ok(()),
            fenced = self.log.fenced() => Err(fenced),
        };
        self.ready.store(false, Ordering::Relaxed);
        self.serving.stop().await;
        self.running.stop().await;
        self.followers.stop().await;
        self.watchers.shutdown().await;
        self.vault.close().await;
        self.store.close().await;
        ended
    }
}

/// The way to the key sets of identity providers, which the operator names and may keep in a private network.
/// They need not stand in the list of hosts that endpoints may be on.
fn issuers_client(own: &[SocketAddr], config: &Config) -> Result<HttpClient, outbound::ConfigError> {
    let allow_cidrs = config.auth.issuer_allow_cidrs.clone();
    HttpClient::beside(own, &outbound::Config { allow_cidrs, allow_hosts: vec![], ..config.egress.clone() })
}

/// The newest position of each shard that holds events.
fn heads(log: &Log) -> Vec<Position> {
    let heads = (0..log.shards()).map(|shard| Position { shard, seq: log.head(shard) });
    heads.filter(|head| head.seq > 0).collect()
}

async fn caught_up(read_models: &ReadModels, names: &[Name], heads: &[Position], limit: Duration) -> bool {
    let waits =
        heads.iter().flat_map(|head| names.iter().map(move |name| read_models.wait_for_one(*name, *head, limit)));
    join_all(waits).await.into_iter().all(|caught_up| caught_up)
}

/// Folds projections from the log anew, also beside a running server. Returns how many events were read.
pub async fn rebuild(
    config: &Config,
    projections: &[Name],
    progress: impl FnMut(u64, u64) + Send,
) -> anyhow::Result<u64> {
    let reader = reader(config).await?;
    Ok(ReadModels::rebuild(&config.read_models_path()?, &*reader, projections, progress).await?)
}

/// The contract files of `schema/` that are written from the code: name and text.
pub fn contracts() -> [(&'static str, String); 2] {
    [("schema.graphql", graphql::sdl()), ("errors.md", http::error_table())]
}
