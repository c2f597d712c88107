//! `tidings listen`: a receiver for development, which verifies what it gets as a careful receiver should.
//!
//! - It speaks TLS with a certificate of its own making ([`super::certificates`]), on loopback unless told otherwise.
//! - A request is in the log before it is answered, so a checker may trust the log: what was answered 200 is in it.
//!   If the log cannot be written, the answer is 500.
//! - It fails where it was told to ([`Failure`], [`Delay`]), whatever it thinks of the request; the log has the verdict
//!   as well as the answer.
//!
//! Holds no state that outlives it, and does not deduplicate: what came twice is in the log twice.

mod faults;
mod journal;
mod keyring;
mod verdict;

use std::collections::BTreeMap;
use std::future::poll_fn;
use std::io::Write;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use bytes::{Bytes, BytesMut};
use clap::Args;
use hyper::body::{Body, Incoming};
use hyper::header::{CONTENT_TYPE, HeaderMap};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Method, Request, Response};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::{TcpListener, TcpStream};
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio_rustls::TlsAcceptor;

pub use faults::{Answer, Delay, Failure, InvalidFault};

use super::certificates::Certificates;
use crate::app::profiles;
use crate::clock::{Clock, SystemClock};
use faults::Faults;
use journal::{Entry, Journal};
use keyring::Keyring;
use verdict::{Delivery, Verdict};

/// The most bytes of a body.
const MAX_BODY_BYTES: usize = 1024 * 1024;
const HANDSHAKE_LIMIT: Duration = Duration::from_secs(10);
/// Also ends idle connections, so it is longer than senders keep theirs.
const HEAD_LIMIT: Duration = Duration::from_secs(60);
const BODY_LIMIT: Duration = Duration::from_secs(30);
/// What requests in flight get when the receiver ends.
const GRACE: Duration = Duration::from_secs(5);
/// After a failed `accept`, which without a free file descriptor would fail again at once.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// What `tidings listen` can be told.
#[derive(Clone, Debug, Args)]
pub struct ListenOptions {
    /// Address to listen on. The certificate names loopback alone
    #[arg(long, default_value_t = IpAddr::V4(Ipv4Addr::LOCALHOST))]
    pub address: IpAddr,
    /// Port to listen on; 0 takes one that is free
    #[arg(long, default_value_t = 0)]
    pub port: u16,
    /// Where ca.pem, cert.pem and key.pem are kept; made on first use
    #[arg(long, value_name = "DIR", default_value = "listen-tls")]
    pub tls_dir: PathBuf,
    /// JSON file of { "/path": { "profile": "axie-v1", "secret": "…" } }; read again for every delivery
    #[arg(long, value_name = "FILE")]
    pub secrets: Option<PathBuf>,
    /// Folder of delivery profiles beside those of the program, as `profiles.path` of the server
    #[arg(long, value_name = "DIR")]
    pub profiles: Option<PathBuf>,
    /// Answer the first COUNT requests to PATH with STATUS, or never if STATUS is `hang`; may be repeated
    #[arg(long, value_name = "PATH=STATUS:COUNT")]
    pub fail: Vec<Failure>,
    /// Answer requests to PATH that many milliseconds later; may be repeated
    #[arg(long, value_name = "PATH=MS")]
    pub delay: Vec<Delay>,
    /// Append one JSON line per request to this file, before the answer is sent
    #[arg(long, value_name = "FILE")]
    pub log: Option<PathBuf>,
    /// Accept deliveries whose timestamp is not within five minutes of now
    #[arg(long)]
    pub no_timestamp_check: bool,
}

/// Listens until Ctrl-C or SIGTERM, and prints where, and a line for every request.
///
/// # Errors
/// The address is taken, or a file cannot be read or written.
pub async fn listen(options: ListenOptions, out: impl Write + Send + 'static) -> anyhow::Result<()> {
    let mut terminate = signal(SignalKind::terminate()).context("SIGTERM cannot be listened for")?;
    let receiver = Receiver::bind(&options, Arc::new(SystemClock), out).await?;
    receiver
        .run(async move {
            tokio::select! {
                _ = tokio::signal::ctrl_c() => {}
                _ = terminate.recv() => {}
            }
        })
        .await;
    Ok(())
}

/// A receiver that has its port.
pub struct Receiver {
    listener: TcpListener,
    address: SocketAddr,
    acceptor: TlsAcceptor,
    ca_file: PathBuf,
    desk: Arc<Desk>,
}

impl Receiver {
    /// Takes the port, makes the certificate if there is none, and prints what a sender must know to come here.
    ///
    /// # Errors
    /// The address is taken, or a file cannot be read or written.
    pub async fn bind(
        options: &ListenOptions,
        clock: Arc<dyn Clock>,
        out: impl Write + Send + 'static,
    ) -> anyhow::Result<Self> {
        if let Some(folder) = &options.profiles {
            profiles::load(folder)?;
        }
        let certificates = Certificates::in_directory(&options.tls_dir, &*clock)?;
        let acceptor = TlsAcceptor::from(Arc::new(certificates.server_config()?));
        let journal = Journal::new(out, options.log.as_deref()).context("the log cannot be opened")?;
        let address = SocketAddr::new(options.address, options.port);
        let listener = TcpListener::bind(address).await.with_context(|| format!("{address} cannot be listened on"))?;
        let address = listener.local_addr().context("the socket has no address")?;
        let desk = Desk {
            clock,
            keyring: Keyring::new(options.secrets.clone()),
            faults: Faults::new(&options.fail, &options.delay),
            compare_time: !options.no_timestamp_check,
            journal,
        };
        let receiver = Self { listener, address, acceptor, ca_file: certificates.ca_file(), desk: Arc::new(desk) };
        receiver.desk.journal.print(&receiver.greeting());
        Ok(receiver)
    }

    /// Where it listens, without a path: `https://127.0.0.1:4443`.
    pub fn url(&self) -> String {
        format!("https://{}", self.address)
    }

    /// The certificate that senders must trust.
    pub fn ca_file(&self) -> &std::path::Path {
        &self.ca_file
    }

    /// Serves until `stop` is ready; then takes nothing new, and gives requests in flight five seconds. Requests that
    /// shall never be answered lose their connection.
    pub async fn run(self, stop: impl Future<Output = ()>) {
        let stopping = watch::Sender::new(false);
        let mut connections = JoinSet::new();
        let mut stop = pin!(stop);
        loop {
            tokio::select! {
                () = &mut stop => break,
                Some(_) = connections.join_next() => {}
                accepted = self.listener.accept() => match accepted {
                    Ok((stream, _)) => {
                        let desk = Arc::clone(&self.desk);
                        connections.spawn(serve(stream, self.acceptor.clone(), desk, stopping.subscribe()));
                    }
                    Err(error) => {
                        self.desk.journal.print(&format!("a connection could not be accepted: {error}"));
                        tokio::time::sleep(ACCEPT_PAUSE).await;
                    }
                },
            }
        }
        drop(self.listener);
        stopping.send_replace(true);
        let ended = async { while connections.join_next().await.is_some() {} };
        // What is left after that ends with the set.
        let _ = tokio::time::timeout(GRACE, ended).await;
    }

    fn greeting(&self) -> String {
        format!(
            "listening on {}\nfor a sender on this machine:\n  egress.extra_ca = [{:?}]\n  egress.allow_cidrs = [\"127.0.0.0/8\", \"::1/128\"]",
            self.url(),
            self.ca_file,
        )
    }
}

/// Serves one connection. A peer that goes away is no news; one that does not trust us is.
async fn serve(stream: TcpStream, acceptor: TlsAcceptor, desk: Arc<Desk>, mut stopping: watch::Receiver<bool>) {
    let _ = stream.set_nodelay(true);
    let stream = match tokio::time::timeout(HANDSHAKE_LIMIT, acceptor.accept(stream)).await {
        Ok(Ok(stream)) => stream,
        Ok(Err(error)) => return desk.journal.print(&format!("a TLS handshake failed: {error}")),
        Err(_) => return desk.journal.print("a TLS handshake took too long"),
    };
    let at_desk = (Arc::clone(&desk), stopping.clone());
    let service = service_fn(move |request| {
        let (desk, stopping) = at_desk.clone();
        async move { desk.receive(request, stopping).await }
    });
    let mut http = http1::Builder::new();
    http.timer(TokioTimer::new()).header_read_timeout(HEAD_LIMIT);
    let mut connection = pin!(http.serve_connection(TokioIo::new(stream), service));
    tokio::select! {
        _ = connection.as_mut() => return,
        _ = stopping.wait_for(|stopping| *stopping) => connection.as_mut().graceful_shutdown(),
    }
    let _ = connection.await;
}

/// What all connections share.
struct Desk {
    clock: Arc<dyn Clock>,
    keyring: Keyring,
    faults: Faults,
    compare_time: bool,
    journal: Journal,
}

/// A request that shall not be answered: hyper closes its connection.
#[derive(Debug, thiserror::Error)]
#[error("the request is left without an answer")]
struct Unanswered;

impl Desk {
    /// Judges, writes down, answers: in this order.
    async fn receive(
        &self,
        request: Request<Incoming>,
        mut stopping: watch::Receiver<bool>,
    ) -> Result<Response<String>, Unanswered> {
        let at = self.clock.now();
        let (head, body) = request.into_parts();
        let (body, unfit) = match read(&head.method, body).await {
            Ok(body) => (body, None),
            Err(verdict) => (Bytes::new(), Some(verdict)),
        };
        let delivery = Delivery { path: head.uri.path().to_owned(), headers: by_name(&head.headers), body };
        let entry = self.keyring.entry(&delivery.path).await;
        let event_type = entry.as_ref().ok().and_then(Option::as_ref).and_then(|e| delivery.event_type(e.profile));
        let verdict = unfit.unwrap_or_else(|| delivery.judge(&entry, self.compare_time.then_some(at)));
        let answer = self.faults.take(&delivery.path).unwrap_or(Answer::Status(verdict.status()));

        let entry = Entry { at, delivery: &delivery, event_type, verdict: &verdict, answer };
        self.journal.print(&entry.to_text());
        let answer = match self.journal.append(&entry) {
            Ok(()) => answer,
            Err(error) => {
                self.journal.print(&format!("the log cannot be written, so the answer is 500: {error}"));
                Answer::Status(500)
            }
        };
        tokio::time::sleep(self.faults.delay(&delivery.path)).await;
        match answer {
            Answer::Status(status) => Ok(response(status, &verdict)),
            Answer::Hang => {
                let _ = stopping.wait_for(|stopping| *stopping).await;
                Err(Unanswered)
            }
        }
    }
}

/// The body of a request that can be a delivery, or why it cannot be one.
async fn read(method: &Method, body: Incoming) -> Result<Bytes, Verdict> {
    if method != Method::POST {
        return Err(Verdict::NotJudged(405, format!("{method} is not POST")));
    }
    match tokio::time::timeout(BODY_LIMIT, read_to_end(body)).await {
        Ok(result) => result,
        Err(_) => Err(Verdict::NotJudged(408, "the body took too long".to_owned())),
    }
}

async fn read_to_end(body: Incoming) -> Result<Bytes, Verdict> {
    let mut body = pin!(body);
    let mut bytes = BytesMut::new();
    while let Some(frame) = poll_fn(|context| body.as_mut().poll_frame(context)).await {
        let frame = frame.map_err(|_| Verdict::NotJudged(400, "the body broke off".to_owned()))?;
        let Ok(data) = frame.into_data() else { continue };
        if bytes.len() + data.len() > MAX_BODY_BYTES {
            return Err(Verdict::NotJudged(413, format!("the body has more than {MAX_BODY_BYTES} bytes")));
        }
        bytes.extend_from_slice(&data);
    }
    Ok(bytes.freeze())
}

fn by_name(headers: &HeaderMap) -> BTreeMap<String, String> {
    let mut by_name = BTreeMap::<String, String>::new();
    for (name, value) in headers {
        let value = String::from_utf8_lossy(value.as_bytes());
        by_name
            .entry(name.as_str().to_owned())
            .and_modify(|values| values.extend([",", &*value]))
            .or_insert_with(|| value.to_string());
    }
    by_name
}

/// The reason goes back to the sender: in development both are the same person.
fn response(status: u16, verdict: &Verdict) -> Response<String> {
    let body = match verdict.refusal() {
        None => serde_json::json!({ "verified": true }),
        Some(reason) => serde_json::json!({ "verified": false, "refusal": reason }),
    };
    Response::builder()
        .status(status)
        .header(CONTENT_TYPE, "application/json")
        .body(body.to_string())
        .expect("statuses are checked where they are made, and the header is a constant")
}
