//! The listeners: for everybody, for operators, for the metrics.

use std::fs;
use std::io;
use std::net::SocketAddr;
use std::path::Path;

use anyhow::{Context, ensure};
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio::task::JoinSet;

use crate::config::Config;
use crate::domain::secret::Secret;
use crate::http::{self, AppState, Bounds, Measured, Operators, TrustedProxies};

/// Addresses that are taken, of which none is answered yet.
pub(super) struct Listeners {
    everybody: TcpListener,
    operators: Option<TcpListener>,
    metrics: Option<TcpListener>,
    metrics_token: Option<Secret>,
}

/// Where they are.
#[derive(Clone, Copy, Debug)]
pub(super) struct Addresses {
    pub(super) everybody: SocketAddr,
    pub(super) operators: Option<SocketAddr>,
    pub(super) metrics: Option<SocketAddr>,
}

impl Listeners {
    /// Takes the addresses.
    pub(super) async fn bind(config: &Config) -> anyhow::Result<Self> {
        let token_file = &config.metrics.token_file;
        Ok(Self {
            everybody: bind("server.listen", config.server.listen).await?,
            operators: bind_optional("admin.listen", config.admin_listen()?).await?,
            metrics: bind_optional("metrics.listen", config.metrics_listen()?).await?,
            metrics_token: if token_file.as_os_str().is_empty() { None } else { Some(token(token_file)?) },
        })
    }

    pub(super) fn addresses(&self) -> io::Result<Addresses> {
        let optional = |listener: &Option<TcpListener>| listener.as_ref().map(TcpListener::local_addr).transpose();
        Ok(Addresses {
            everybody: self.everybody.local_addr()?,
            operators: optional(&self.operators)?,
            metrics: optional(&self.metrics)?,
        })
    }

    /// Answers.
    pub(super) fn serve(self, config: &Config, state: AppState, measured: Measured) -> Serving {
        let proxies = TrustedProxies::new(config.server.trusted_proxies.clone());
        let state = state.with_proxies(proxies.clone());
        let max_connections = max_connections();
        let per_address = config.server.max_connections_per_address.min(max_connections / 2);
        let bounds = Bounds { max_connections, max_connections_per_address: per_address, proxies };
        let apart = self.operators.is_some();
        let mut serving = Serving { stop: watch::Sender::new(false), servers: JoinSet::new() };
        let direct = !apart && config.server.listen.ip().is_loopback();
        let operators = if direct { Operators::WithoutProxy } else { Operators::Nobody };
        if !apart && !direct {
            tracing::warn!(
                "operators are served nowhere, since server.listen is no loopback address: see admin.listen"
            );
        }
        let for_everybody = state.clone().with_operators(operators);
        let (router, stopped) = (http::router(for_everybody), serving.stopped());
        serving.add("server.listen", http::serve(self.everybody, router, bounds.clone(), stopped));
        if let Some(listener) = self.operators {
            let (router, stopped) = (http::router(state), serving.stopped());
            serving.add("admin.listen", http::serve(listener, router, bounds.clone(), stopped));
        }
        if let Some(listener) = self.metrics {
            let (router, stopped) = (http::metrics_router(measured, self.metrics_token), serving.stopped());
            serving.add("metrics.listen", http::serve(listener, router, bounds, stopped));
        }
        serving
    }
}

/// Files that may be open, as many as the system lets us have, and how many of them one listener may take: what is left is
/// for the store and for endpoints, which strangers must not take from them.
fn max_connections() -> usize {
    const MOST: usize = 4_096;
    // Where the system says no, what there is has to do.
    let files = rlimit::increase_nofile_limit(u64::MAX).unwrap_or(1_024);
    usize::try_from(files / 4).unwrap_or(MOST).clamp(64, MOST)
}

/// Listeners that are answered.
pub(super) struct Serving {
    stop: watch::Sender<bool>,
    servers: JoinSet<()>,
}

impl Serving {
    fn stopped(&self) -> impl Future<Output = ()> + Send + 'static {
        let mut stop = self.stop.subscribe();
        // A dropped sender means the same.
        async move { drop(stop.wait_for(|stop| *stop).await) }
    }

    fn add(&mut self, key: &'static str, served: impl Future<Output = io::Result<()>> + Send + 'static) {
        self.servers.spawn(async move {
            if let Err(error) = served.await {
                tracing::error!("{key}: the listener failed: {error}");
            }
        });
    }

    /// Takes no more requests, and waits for those under way.
    pub(super) async fn stop(mut self) {
        self.stop.send_replace(true);
        while let Some(ended) = self.servers.join_next().await {
            if let Err(error) = ended {
                tracing::error!("a listener panicked: {error}");
            }
        }
    }
}

async fn bind(key: &str, address: SocketAddr) -> anyhow::Result<TcpListener> {
    TcpListener::bind(address).await.with_context(|| format!("{key}: cannot listen on {address}"))
}

async fn bind_optional(key: &str, address: Option<SocketAddr>) -> anyhow::Result<Option<TcpListener>> {
    match address {
        Some(address) => bind(key, address).await.map(Some),
        None => Ok(None),
    }
}

fn token(path: &Path) -> anyhow::Result<Secret> {
    let text = fs::read_to_string(path).with_context(|| format!("metrics.token_file: '{}'", path.display()))?;
    let token = text.trim();
    ensure!(token.len() >= 16, "metrics.token_file: '{}' holds fewer than 16 characters", path.display());
    Ok(Secret::stored(token.to_owned()))
}
