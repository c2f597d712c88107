//! Takes connections, and lets them end in order.

use std::collections::HashMap;
use std::convert::Infallible;
use std::io;
use std::net::{IpAddr, Ipv6Addr, SocketAddr};
use std::pin::pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use axum::extract::ConnectInfo;
use axum::{Extension, Router};
use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Notify, OwnedSemaphorePermit, Semaphore, mpsc, watch};
use tokio::task::JoinSet;
use tokio_io_timeout::TimeoutStream;

use super::client::TrustedProxies;

/// How long the header lines of a request may take, and so how long a connection may be idle.
const HEADER_LIMIT: Duration = Duration::from_secs(30);
/// How long a client may take no byte of an answer.
pub(super) const WRITE_LIMIT: Duration = Duration::from_secs(30);
/// The most bytes of a request's header lines.
const MAX_HEADER_BYTES: usize = 32 * 1024;
/// How long requests under way may go on after shutdown began.
const GRACE: Duration = Duration::from_secs(10);
/// How long to wait when no connection can be taken, as when file handles have run out.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// A connection, for what lives longer than a request on it. While a clone is held the connection counts as open.
#[derive(Clone)]
pub(super) struct Connection {
    closing: watch::Receiver<bool>,
    cut: Arc<Notify>,
    _open: mpsc::Sender<Infallible>,
    _slot: Arc<(OwnedSemaphorePermit, Option<Place>)>,
}

/// How many connections one address may have.
#[derive(Clone, Debug)]
pub struct Bounds {
    /// At one time, at least 1; further ones wait to be taken.
    pub max_connections: usize,
    /// From one IPv4 address or one /64 of IPv6 at one time, at least 1; further ones are closed at once.
    pub max_connections_per_address: usize,
    /// They hand over the requests of many, and are not counted.
    pub proxies: TrustedProxies,
}

/// How many connections each address has.
type Taken = Arc<Mutex<HashMap<IpAddr, usize>>>;

/// One of the connections that an address may have; given back when it is dropped.
struct Place {
    taken: Taken,
    address: IpAddr,
}

impl Place {
    /// `None` if the address has as many as it may. Who has one IPv6 address has the whole /64.
    fn take(taken: &Taken, address: IpAddr, most: usize) -> Option<Self> {
        let address = match address {
            IpAddr::V4(_) => address,
            IpAddr::V6(own) => Ipv6Addr::from_bits(own.to_bits() >> 64 << 64).into(),
        };
        let mut all = taken.lock().unwrap_or_else(PoisonError::into_inner);
        let own = all.entry(address).or_default();
        if *own >= most {
            return None;
        }
        *own += 1;
        Some(Self { taken: Arc::clone(taken), address })
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut all = self.taken.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(own) = all.get_mut(&self.address) {
            *own -= 1;
            if *own == 0 {
                all.remove(&self.address);
            }
        }
    }
}

impl Connection {
    /// Resolves when the server stops: what lives long is to end.
    pub(super) async fn closing(&mut self) {
        drop(self.closing.wait_for(|closing| *closing).await);
    }

    /// Ends the connection at once, whatever is under way on it: for a client that does not read.
    pub(super) fn cut(&self) {
        self.cut.notify_one();
    }
}

/// Serves until `shutdown` resolves; then takes no more connections and lets requests under way end.
///
/// # Errors
/// None of today's; a connection's failure is its own.
pub async fn serve(
    listener: TcpListener,
    router: Router,
    bounds: Bounds,
    shutdown: impl Future<Output = ()>,
) -> io::Result<()> {
    let mut shutdown = pin!(shutdown);
    let taken = Taken::default();
    let slots = Arc::new(Semaphore::new(bounds.max_connections));
    let (closing, closed) = watch::channel(false);
    let (open, mut all_closed) = mpsc::channel(1);
    let mut connections = JoinSet::new();
    loop {
        tokio::select! {
            () = &mut shutdown => break,
            Some(_) = connections.join_next() => {}
            (stream, peer, slot) = accept(&listener, &slots) => {
                let address = peer.ip().to_canonical();
                let place = match bounds.proxies.contains(address) {
                    true => None,
                    false => match Place::take(&taken, address, bounds.max_connections_per_address) {
                        None => {
                            tracing::debug!("a connection is closed: {address} has as many as it may");
                            continue;
                        }
                        place => place,
                    },
                };
                let open = Connection {
                    closing: closed.clone(),
                    cut: Arc::new(Notify::new()),
                    _open: open.clone(),
                    _slot: Arc::new((slot, place)),
                };
                connections.spawn(connection(stream, peer, open, router.clone()));
            }
        }
    }
    drop(listener);
    closing.send_replace(true);
    drop(open);
    let ended = async {
        while connections.join_next().await.is_some() {}
        // WebSockets have left their connections' tasks.
        let _: Option<Infallible> = all_closed.recv().await;
    };
    if tokio::time::timeout(GRACE, ended).await.is_err() {
        tracing::warn!("requests were still under way after {GRACE:?}, and are cut off");
    }
    Ok(())
}

async fn accept(listener: &TcpListener, slots: &Arc<Semaphore>) -> (TcpStream, SocketAddr, OwnedSemaphorePermit) {
    let slot = Arc::clone(slots).acquire_owned().await.expect("nobody closes the semaphore");
    loop {
        match listener.accept().await {
            Ok((stream, peer)) => return (stream, peer, slot),
            Err(error) => {
                tracing::warn!("a connection cannot be taken: {error}");
                tokio::time::sleep(ACCEPT_PAUSE).await;
            }
        }
    }
}

async fn connection(stream: TcpStream, peer: SocketAddr, open: Connection, router: Router) {
    // Answers are small and wanted at once.
    drop(stream.set_nodelay(true));
    let (mut closed, cut) = (open.clone(), Arc::clone(&open.cut));
    let router = router.layer(Extension(ConnectInfo(peer))).layer(Extension(open));
    let mut stream = Box::pin(TimeoutStream::new(stream));
    stream.as_mut().set_write_timeout_pinned(Some(WRITE_LIMIT));
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEADER_LIMIT)
        .max_buf_size(MAX_HEADER_BYTES)
        .serve_connection(TokioIo::new(stream), TowerToHyperService::new(router))
        .with_upgrades();
    let mut connection = pin!(connection);
    let ended = async {
        tokio::select! {
            ended = &mut connection => ended,
            () = closed.closing() => {
                connection.as_mut().graceful_shutdown();
                connection.await
            }
        }
    };
    let ended = tokio::select! {
        ended = ended => ended,
        () = cut.notified() => return,
    };
    if let Err(error) = ended {
        tracing::debug!("a connection ended: {error}");
    }
}
