//! A way to the database that can be held up, cut and barred.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::JoinHandle;
use url::Url;

pub(crate) struct Proxy {
    address: SocketAddr,
    links: Arc<Mutex<Vec<Link>>>,
    barred: Arc<AtomicBool>,
    calls: Arc<AtomicUsize>,
    listening: JoinHandle<()>,
}

struct Link {
    requests: Gate,
    replies: Gate,
}

/// One direction of a connection.
struct Gate {
    held: watch::Sender<bool>,
    /// Whether something waits at the gate.
    waiting: watch::Receiver<bool>,
    pump: JoinHandle<()>,
}

impl Gate {
    fn hold(&self) {
        self.held.send_replace(true);
    }
}

impl Proxy {
    /// Before the server that the address names.
    pub(crate) async fn before(url: &Url) -> Self {
        let server = format!("{}:{}", url.host_str().unwrap(), url.port().unwrap());
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let links = Arc::new(Mutex::new(Vec::new()));
        let barred = Arc::new(AtomicBool::new(false));
        let calls = Arc::new(AtomicUsize::new(0));
        let listening = tokio::spawn({
            let (links, barred, calls) = (Arc::clone(&links), Arc::clone(&barred), Arc::clone(&calls));
            async move {
                loop {
                    let (client, _) = listener.accept().await.unwrap();
                    calls.fetch_add(1, Ordering::SeqCst);
                    if !barred.load(Ordering::SeqCst) {
                        let link = link(client, TcpStream::connect(&server).await.unwrap());
                        links.lock().unwrap().push(link);
                    }
                }
            }
        });
        Self { address, links, barred, calls, listening }
    }

    /// The address, by way of this proxy.
    pub(crate) fn instead_of(&self, url: &Url) -> Url {
        let mut url = url.clone();
        url.set_port(Some(self.address.port())).unwrap();
        url
    }

    /// How many connections were tried so far.
    pub(crate) fn calls(&self) -> usize {
        self.calls.load(Ordering::SeqCst)
    }

    /// Ends every connection, and every new one at once.
    pub(crate) fn bar(&self) {
        self.barred.store(true, Ordering::SeqCst);
        self.cut();
    }

    pub(crate) fn unbar(&self) {
        self.barred.store(false, Ordering::SeqCst);
    }

    /// Ends every connection at both ends.
    pub(crate) fn cut(&self) {
        for link in self.links.lock().unwrap().drain(..) {
            link.requests.pump.abort();
            link.replies.pump.abort();
        }
    }

    /// What the clients of today send stays here; new connections are free.
    pub(crate) fn hold_requests(&self) {
        self.links.lock().unwrap().iter().for_each(|link| link.requests.hold());
    }

    /// What the server says to the clients of today stays here; new connections are free.
    pub(crate) fn hold_replies(&self) {
        self.links.lock().unwrap().iter().for_each(|link| link.replies.hold());
    }

    /// Waits until something has been held up on its way to the server.
    pub(crate) async fn request_is_held(&self) {
        let waiting: Vec<_> = self.links.lock().unwrap().iter().map(|link| link.requests.waiting.clone()).collect();
        let held = waiting.into_iter().map(|mut waiting| {
            Box::pin(async move {
                if waiting.wait_for(|waiting| *waiting).await.is_err() {
                    std::future::pending::<()>().await;
                }
            })
        });
        futures_util::future::select_all(held).await;
    }

    /// Lets pass what was held up of the connections of today, and waits until the server has ended them all.
    pub(crate) async fn release_and_see_the_end(&self) {
        let links: Vec<Link> =
            self.links.lock().unwrap().drain(..).filter(|link| *link.requests.held.borrow()).collect();
        assert!(!links.is_empty());
        for link in links {
            link.requests.held.send_replace(false);
            link.replies.pump.await.unwrap();
        }
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.listening.abort();
        self.cut();
    }
}

fn link(client: TcpStream, server: TcpStream) -> Link {
    let (from_client, to_client) = client.into_split();
    let (from_server, to_server) = server.into_split();
    Link { requests: gate(from_client, to_server), replies: gate(from_server, to_client) }
}

fn gate(from: OwnedReadHalf, to: OwnedWriteHalf) -> Gate {
    let (held, gate) = watch::channel(false);
    let (tell, waiting) = watch::channel(false);
    Gate { held, waiting, pump: tokio::spawn(pump(from, to, gate, tell)) }
}

/// Reads to the end even when nobody listens any more, so that its own end means that the sender has ended.
async fn pump(
    mut from: OwnedReadHalf,
    mut to: OwnedWriteHalf,
    mut held: watch::Receiver<bool>,
    tell: watch::Sender<bool>,
) {
    let mut buffer = vec![0; 64 * 1024];
    while let Ok(length @ 1..) = from.read(&mut buffer).await {
        tell.send_replace(*held.borrow_and_update());
        if held.wait_for(|held| !held).await.is_err() {
            return;
        }
        drop(to.write_all(&buffer[..length]).await);
    }
    drop(to.shutdown().await);
}
