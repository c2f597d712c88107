//! An endpoint: HTTP/1.1 over TLS on loopback, written by hand so that it can also misbehave.
//!
//! It records each request as it came over the wire and then plays the script of its path; a path without a script
//! answers 200. It stops when it is dropped.

use std::collections::{HashMap, VecDeque};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;

use super::certificates::{self, Identity};

/// Longest wait for a condition before the test fails. Not a measure of anything.
const PATIENCE: Duration = Duration::from_secs(20);

/// A request as it came over the wire.
#[derive(Clone, Debug)]
pub(crate) struct Received {
    /// Which connection it came on, counted from 1.
    pub(crate) connection: usize,
    pub(crate) method: String,
    /// Path and query.
    pub(crate) target: String,
    /// In order, with the names as they were written.
    pub(crate) headers: Vec<(String, String)>,
    pub(crate) body: Vec<u8>,
}

impl Received {
    /// The first header of that name, in any case.
    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(key, _)| key.eq_ignore_ascii_case(name)).map(|(_, value)| value.as_str())
    }

    fn path(&self) -> &str {
        self.target.split('?').next().unwrap_or_default()
    }
}

/// What the endpoint does with a request that it has read.
#[derive(Clone, Debug)]
pub(crate) struct Script {
    delay: Duration,
    act: Act,
}

#[derive(Clone, Debug)]
enum Act {
    Answer { status: u16, headers: Vec<(String, String)>, body: Vec<u8> },
    Hang,
    Close,
    Drip { interval: Duration },
    Endless,
    Gibibyte,
    DripHead { interval: Duration },
    BreakOff,
    Raw(Vec<u8>),
}

impl Script {
    /// Answers with a status and an empty body.
    pub(crate) fn status(status: u16) -> Self {
        Self::answer(status, "")
    }

    /// Answers with a status and a body.
    pub(crate) fn answer(status: u16, body: impl Into<Vec<u8>>) -> Self {
        Self::act(Act::Answer { status, headers: vec![], body: body.into() })
    }

    /// Never answers and keeps the connection.
    pub(crate) fn hang() -> Self {
        Self::act(Act::Hang)
    }

    /// Closes the connection without an answer.
    pub(crate) fn close() -> Self {
        Self::act(Act::Close)
    }

    /// Answers 200 at once, then sends one byte of the body in each interval, for ever.
    pub(crate) fn drip(interval: Duration) -> Self {
        Self::act(Act::Drip { interval })
    }

    /// Answers 200, with a body that has no end.
    pub(crate) fn endless() -> Self {
        Self::act(Act::Endless)
    }

    /// Answers 200, promises a gibibyte and begins with it.
    pub(crate) fn gibibyte() -> Self {
        Self::act(Act::Gibibyte)
    }

    /// Answers 200, one byte of its header lines in each interval, which never end.
    pub(crate) fn drip_head(interval: Duration) -> Self {
        Self::act(Act::DripHead { interval })
    }

    /// Answers 200, promises 100 bytes of body, sends 5 and closes the connection.
    pub(crate) fn break_off() -> Self {
        Self::act(Act::BreakOff)
    }

    /// Sends these bytes in place of an answer and closes the connection.
    pub(crate) fn raw(bytes: impl Into<Vec<u8>>) -> Self {
        Self::act(Act::Raw(bytes.into()))
    }

    /// Answers with one more header. Only for `status` and `answer`.
    pub(crate) fn header(mut self, name: impl Into<String>, value: impl Into<String>) -> Self {
        match &mut self.act {
            Act::Answer { headers, .. } => headers.push((name.into(), value.into())),
            Act::Hang
            | Act::Close
            | Act::Drip { .. }
            | Act::DripHead { .. }
            | Act::Endless
            | Act::Gibibyte
            | Act::BreakOff
            | Act::Raw(_) => panic!("only an answer has headers"),
        }
        self
    }

    /// Waits before it does anything.
    pub(crate) fn after(mut self, delay: Duration) -> Self {
        self.delay = delay;
        self
    }

    fn act(act: Act) -> Self {
        Self { delay: Duration::ZERO, act }
    }
}

/// A running endpoint.
pub(crate) struct Receiver {
    address: SocketAddr,
    shared: Arc<Shared>,
    accepting: JoinHandle<()>,
    directory: tempfile::TempDir,
}

struct Shared {
    scripts: Mutex<HashMap<String, VecDeque<Script>>>,
    received: watch::Sender<Vec<Received>>,
    connections: watch::Sender<usize>,
}

impl Receiver {
    /// An endpoint that clients which trust the authority accept, at `127.0.0.1` and as `receiver.example.com`.
    pub(crate) async fn start() -> Self {
        Self::start_as(Identity::Signed(&["127.0.0.1", "receiver.example.com"])).await
    }

    /// An endpoint that shows another certificate.
    pub(crate) async fn start_as(identity: Identity) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let shared = Arc::new(Shared {
            scripts: Mutex::default(),
            received: watch::Sender::default(),
            connections: watch::Sender::default(),
        });
        let acceptor = TlsAcceptor::from(certificates::server_config(identity, &["http/1.1"]));
        let accepting = tokio::spawn(accept(listener, acceptor, Arc::clone(&shared)));
        let directory = tempfile::tempdir().unwrap();
        std::fs::write(directory.path().join("ca.pem"), certificates::ca_pem()).unwrap();
        Self { address, shared, accepting, directory }
    }

    /// The URL of a path, with the address as host.
    pub(crate) fn url(&self, path: &str) -> String {
        format!("https://{}{path}", self.address)
    }

    /// The URL of a path under a name that some name server must know.
    pub(crate) fn url_as(&self, host: &str, path: &str) -> String {
        format!("https://{host}:{}{path}", self.address.port())
    }

    /// The certificate of the authority that signed this endpoint's.
    pub(crate) fn ca_pem(&self) -> String {
        certificates::ca_pem()
    }

    /// The same as a file, which lives as long as the receiver.
    pub(crate) fn ca_file(&self) -> PathBuf {
        Path::join(self.directory.path(), "ca.pem")
    }

    /// Plays `script` for every request to `path` from now on.
    pub(crate) fn on(&self, path: &str, script: Script) {
        self.on_each(path, [script]);
    }

    /// Plays the scripts one after the other, a request each, and stays with the last.
    pub(crate) fn on_each(&self, path: &str, scripts: impl IntoIterator<Item = Script>) {
        self.scripts().insert(path.to_owned(), scripts.into_iter().collect());
    }

    /// All requests up to now, in order of arrival.
    pub(crate) fn requests(&self) -> Vec<Received> {
        self.shared.received.borrow().clone()
    }

    /// Waits until there are at least `count` requests, and returns all.
    pub(crate) async fn wait_for(&self, count: usize) -> Vec<Received> {
        let mut received = self.shared.received.subscribe();
        let enough = received.wait_for(|requests| requests.len() >= count);
        let requests = tokio::time::timeout(PATIENCE, enough).await;
        requests.unwrap_or_else(|_| panic!("fewer than {count} requests: {:?}", self.requests())).unwrap().clone()
    }

    /// How many TCP connections were accepted up to now, failed handshakes among them.
    pub(crate) fn connections(&self) -> usize {
        *self.shared.connections.borrow()
    }

    fn scripts(&self) -> MutexGuard<'_, HashMap<String, VecDeque<Script>>> {
        self.shared.scripts.lock().unwrap()
    }
}

impl Drop for Receiver {
    fn drop(&mut self) {
        self.accepting.abort();
    }
}

impl Shared {
    fn script_for(&self, path: &str) -> Script {
        let mut scripts = self.scripts.lock().unwrap();
        match scripts.get_mut(path) {
            Some(queue) if queue.len() > 1 => queue.pop_front(),
            Some(queue) => queue.front().cloned(),
            None => None,
        }
        .unwrap_or_else(|| Script::status(200))
    }
}

/// Connections are children of this task, so that they end with it.
async fn accept(listener: TcpListener, acceptor: TlsAcceptor, shared: Arc<Shared>) {
    let mut serving = tokio::task::JoinSet::new();
    while let Ok((stream, _)) = listener.accept().await {
        shared.connections.send_modify(|count| *count += 1);
        let connection = *shared.connections.borrow();
        serving.spawn(serve(stream, acceptor.clone(), Arc::clone(&shared), connection));
        while serving.try_join_next().is_some() {}
    }
}

/// Serves requests until the connection ends or a script ends it. A client that goes away is no fault of the test.
async fn serve(stream: TcpStream, acceptor: TlsAcceptor, shared: Arc<Shared>, connection: usize) {
    let _ = stream.set_nodelay(true);
    let Ok(mut stream) = acceptor.accept(stream).await else { return };
    while let Some(request) = read_request(&mut stream, connection).await {
        let script = shared.script_for(request.path());
        shared.received.send_modify(|requests| requests.push(request));
        if !script.delay.is_zero() {
            tokio::time::sleep(script.delay).await;
        }
        if !play(script.act, &mut stream).await.unwrap_or(false) {
            return;
        }
    }
}

/// Does what the script says, and says whether the connection stays.
async fn play(act: Act, stream: &mut TlsStream<TcpStream>) -> std::io::Result<bool> {
    match act {
        Act::Answer { status, headers, body } => {
            let headers: String = headers.iter().map(|(name, value)| format!("{name}: {value}\r\n")).collect();
            let head = format!("HTTP/1.1 {status} Status\r\n{headers}content-length: {}\r\n\r\n", body.len());
            stream.write_all(&[head.as_bytes(), &body].concat()).await?;
            stream.flush().await?;
            return Ok(true);
        }
        Act::Hang => std::future::pending().await,
        Act::Close => stream.shutdown().await?,
        Act::Drip { interval } => {
            stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 1000000\r\n\r\n").await?;
            loop {
                stream.write_all(b".").await?;
                stream.flush().await?;
                tokio::time::sleep(interval).await;
            }
        }
        Act::Endless => {
            stream.write_all(b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n").await?;
            let chunk = [b"4000\r\n".as_slice(), &[b'x'; 0x4000], b"\r\n"].concat();
            loop {
                stream.write_all(&chunk).await?;
            }
        }
        Act::Gibibyte => {
            stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 1073741824\r\n\r\n").await?;
            for _ in 0..1024 * 1024 {
                stream.write_all(&[b'x'; 1024]).await?;
            }
        }
        Act::DripHead { interval } => {
            for byte in b"HTTP/1.1 200 OK\r\nx-slow: ".iter().chain(std::iter::repeat(&b'.')) {
                stream.write_all(&[*byte]).await?;
                stream.flush().await?;
                tokio::time::sleep(interval).await;
            }
        }
        Act::BreakOff => {
            stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 100\r\n\r\nbegin").await?;
            stream.shutdown().await?;
        }
        Act::Raw(bytes) => {
            stream.write_all(&bytes).await?;
            stream.shutdown().await?;
        }
    }
    Ok(false)
}

/// The next request, or `None` when the client is done or sends something else.
async fn read_request(stream: &mut TlsStream<TcpStream>, connection: usize) -> Option<Received> {
    let mut buffer = Vec::new();
    let head_end = loop {
        if let Some(end) = buffer.windows(4).position(|window| window == b"\r\n\r\n") {
            break end;
        }
        if stream.read_buf(&mut buffer).await.ok()? == 0 {
            return None;
        }
    };
    let mut body = buffer.split_off(head_end + 4);
    let head = String::from_utf8(buffer).ok()?;
    let mut lines = head.trim_end().split("\r\n");
    let mut request_line = lines.next()?.split(' ');
    let (method, target) = (request_line.next()?.to_owned(), request_line.next()?.to_owned());
    let headers =
        lines.filter_map(|line| line.split_once(':')).map(|(n, v)| (n.to_owned(), v.trim().to_owned())).collect();
    let mut request = Received { connection, method, target, headers, body: vec![] };
    let length: usize = request.header("content-length").and_then(|value| value.parse().ok()).unwrap_or(0);
    while body.len() < length {
        if stream.read_buf(&mut body).await.ok()? == 0 {
            return None;
        }
    }
    request.body = body;
    Some(request)
}
