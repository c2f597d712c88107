//! One attempt: a POST, and what came of it.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use reqwest::header::{HeaderMap, HeaderName, HeaderValue};
use reqwest::redirect::Policy;
use tokio::time::Instant;

use super::dial::{self, DialLayer};
use super::failure::{before_the_answer, failure, refused};
use super::policy::EgressPolicy;
use super::preview::Preview;
use super::resolver::GuardedResolver;
use super::url::{EndpointHost, EndpointUrl, UrlRefusal};
use super::{Config, ConfigError, answer_headers, retry_after, tls};
use crate::domain::outcome::{Exchange, Failure, FailureCode, Response};

/// Idle connections kept for each host: as many as one subscription uses at a time, since between two of its attempts
/// each is idle for a moment, and a new one costs a TLS handshake. They are gone after [`POOL_IDLE_LIMIT`].
const MAX_IDLE_PER_HOST: usize = 16;
/// How long an idle connection is kept. It stays with the address it was judged for.
const POOL_IDLE_LIMIT: Duration = Duration::from_secs(20);
/// Most header lines in an answer over HTTP/1.1.
const MAX_HEADERS: usize = 64;
/// Most bytes of headers in an answer over HTTP/2.
const MAX_HEADER_LIST_BYTES: u32 = 16 * 1024;
/// What an endpoint may send ahead of our reading over HTTP/2: on one answer, and on one connection.
const STREAM_WINDOW_BYTES: u32 = 64 * 1024;
const CONNECTION_WINDOW_BYTES: u32 = 1024 * 1024;
/// An HTTP/2 connection is shared, so a dead one would fail attempt after attempt: it is asked, and dropped if silent.
const PING_INTERVAL: Duration = Duration::from_secs(5);
const PING_LIMIT: Duration = Duration::from_secs(5);

/// Headers that say where a message goes or ends. They are the client's own business.
const FRAMING_HEADERS: [&str; 9] =
    ["connection", "content-length", "expect", "host", "keep-alive", "te", "trailer", "transfer-encoding", "upgrade"];

/// One POST.
#[derive(Clone)]
pub struct Request {
    /// Where to; judged again before anything is sent.
    pub url: String,
    /// Names and values in the order to send, user agent and content type among them.
    pub headers: Vec<(String, String)>,
    /// The exact bytes to send.
    pub body: Bytes,
    /// Limit for the whole exchange, from resolving the name to the end of the answer, in milliseconds.
    pub timeout_ms: u64,
}

/// The way to an endpoint: the network, or what stands in for it in a simulation.
#[async_trait]
pub trait Transport: Send + Sync {
    /// Sends `request` once and says how it went; there is no other error. Dropping the future ends the exchange.
    async fn post(&self, request: Request) -> Exchange;
}

/// The way to a document that the operator has named.
#[async_trait]
pub trait Fetch: Send + Sync {
    /// Gets a document of so many bytes at most; only 200 counts.
    ///
    /// # Errors
    /// Why it could not be had, for the operator.
    async fn get(&self, url: &str, max_bytes: usize) -> Result<Bytes, String>;
}

/// The policy and the resolver behind every check of a URL: at creation, at update and before every attempt.
#[derive(Clone)]
pub struct Gate {
    policy: Arc<EgressPolicy>,
    resolver: GuardedResolver,
}

impl Gate {
    /// Judges a URL by its spelling and, for an address literal, by the policy. Does no I/O.
    pub fn check(&self, url: &str) -> Result<EndpointUrl, UrlRefusal> {
        EndpointUrl::parse(url, &self.policy)
    }

    /// Whether the host has addresses, all of them permitted. Takes at most four seconds; a literal was judged already
    /// and needs no lookup.
    pub async fn resolve(&self, url: &EndpointUrl) -> Result<(), UrlRefusal> {
        match url.host() {
            EndpointHost::Address(_) => Ok(()),
            EndpointHost::Name(name) => self.resolver.addresses(name, Some(url.port())).await.map(drop),
        }
    }
}

/// The client. Clones share one pool of connections. A changed configuration needs a new client, so that no pooled
/// connection outlives the rules it was made under.
#[derive(Clone)]
pub struct HttpClient {
    client: reqwest::Client,
    gate: Gate,
}

impl HttpClient {
    /// Reads the operator's authorities and builds the client. Does no other I/O: a missing network shows at the first
    /// attempt, as that attempt's failure.
    pub fn new(config: &Config) -> Result<Self, ConfigError> {
        Self::beside(&[], config)
    }

    /// The same for a process that listens there itself.
    pub fn beside(listeners: &[SocketAddr], config: &Config) -> Result<Self, ConfigError> {
        if config.connect_timeout_ms == 0 {
            return Err(ConfigError::ConnectTimeoutZero);
        }
        let policy = Arc::new(EgressPolicy::of(config, listeners));
        let resolver = GuardedResolver::new(Arc::clone(&policy), config.name_servers.clone());
        let client = reqwest::Client::builder()
            .tls_backend_preconfigured(tls::client_config(&config.extra_ca)?)
            .dns_resolver(resolver.clone())
            .https_only(true)
            .no_proxy()
            .redirect(Policy::none())
            .retry(reqwest::retry::never())
            .referer(false)
            .connector_layer(DialLayer { limit: Duration::from_millis(config.connect_timeout_ms) })
            .pool_max_idle_per_host(MAX_IDLE_PER_HOST)
            .pool_idle_timeout(POOL_IDLE_LIMIT)
            .http1_max_headers(MAX_HEADERS)
            .http2_max_header_list_size(MAX_HEADER_LIST_BYTES)
            .http2_initial_stream_window_size(STREAM_WINDOW_BYTES)
            .http2_initial_connection_window_size(CONNECTION_WINDOW_BYTES)
            .http2_keep_alive_interval(PING_INTERVAL)
            .http2_keep_alive_timeout(PING_LIMIT)
            .build()
            .map_err(ConfigError::Client)?;
        Ok(Self { client, gate: Gate { policy, resolver } })
    }

    /// The checks that every attempt passes, for use when a URL is stored.
    pub fn gate(&self) -> &Gate {
        &self.gate
    }

    async fn exchange(&self, request: Request) -> Result<Response, Failure> {
        let url = self.gate.check(&request.url).map_err(refused)?;
        let headers = header_map(&request.headers)?;
        let sending = self.client.post(url.as_str()).headers(headers).body(request.body).send();
        let answer = dial::bound_for(url.port(), sending).await;
        let answer = answer.map_err(|error| before_the_answer(&error))?;
        self.raise_alarm_if_forbidden(answer.remote_addr());
        read(answer).await
    }

    /// Both gates stand before this point, so a forbidden peer means that one of them has a hole.
    fn raise_alarm_if_forbidden(&self, peer: Option<SocketAddr>) {
        let policy = &self.gate.policy;
        let forbidden =
            |peer: &SocketAddr| !policy.permits_resolved(peer.ip()) || policy.is_own(peer.ip(), Some(peer.port()));
        if let Some(peer) = peer.filter(forbidden) {
            tracing::error!(address = %peer.ip(), "a request reached an address that the egress rules forbid");
        }
    }
}

#[async_trait]
impl Transport for HttpClient {
    async fn post(&self, request: Request) -> Exchange {
        let began = Instant::now();
        let limit = Duration::from_millis(request.timeout_ms);
        let result = match tokio::time::timeout(limit, self.exchange(request)).await {
            Ok(result) => result,
            Err(_) => Err(failure(FailureCode::Timeout, "no complete answer came within the time limit")),
        };
        let latency_ms = u64::try_from(began.elapsed().as_millis()).unwrap_or(u64::MAX);
        Exchange { latency_ms, result }
    }
}

/// How long fetching a document may take.
const FETCH_LIMIT: Duration = Duration::from_secs(5);

#[async_trait]
impl Fetch for HttpClient {
    async fn get(&self, url: &str, max_bytes: usize) -> Result<Bytes, String> {
        let fetched = tokio::time::timeout(FETCH_LIMIT, self.document(url, max_bytes)).await;
        fetched.unwrap_or_else(|_| Err(format!("no complete answer came within {FETCH_LIMIT:?}")))
    }
}

impl HttpClient {
    async fn document(&self, url: &str, max_bytes: usize) -> Result<Bytes, String> {
        let url = self.gate.check(url).map_err(|refusal| refusal.to_string())?;
        let sending = self.client.get(url.as_str()).header("accept", "application/json").send();
        let answer = dial::bound_for(url.port(), sending).await;
        let mut answer = answer.map_err(|error| before_the_answer(&error).detail)?;
        self.raise_alarm_if_forbidden(answer.remote_addr());
        if answer.status().as_u16() != 200 {
            return Err(format!("the answer has status {}", answer.status().as_u16()));
        }
        let mut document = Vec::new();
        while let Some(chunk) = answer.chunk().await.map_err(|_| "the answer broke off".to_owned())? {
            if document.len() + chunk.len() > max_bytes {
                return Err(format!("the answer has more than {max_bytes} bytes"));
            }
            document.extend_from_slice(&chunk);
        }
        Ok(document.into())
    }
}

fn header_map(headers: &[(String, String)]) -> Result<HeaderMap, Failure> {
    let mut map = HeaderMap::with_capacity(headers.len());
    for (name, value) in headers {
        let (name, value) = header(name, value)
            .ok_or_else(|| failure(FailureCode::Aborted, "the request has a header that cannot be sent"))?;
        map.append(name, value);
    }
    Ok(map)
}

fn header(name: &str, value: &str) -> Option<(HeaderName, HeaderValue)> {
    let name = HeaderName::try_from(name).ok().filter(|name| !FRAMING_HEADERS.contains(&name.as_str()))?;
    let mut value = HeaderValue::try_from(value).ok()?;
    // Neither printed, nor kept in the table of headers of an HTTP/2 connection.
    value.set_sensitive(true);
    Some((name, value))
}

/// Reads the body up to its cap. Up to there the connection can be used again; past it, it is dropped, and the answer
/// still counts by its status.
async fn read(mut answer: reqwest::Response) -> Result<Response, Failure> {
    let status = answer.status().as_u16();
    let retry_after_s = retry_after::seconds(answer.headers());
    let headers = answer_headers::kept(answer.headers());
    // Asked later, it would be what is left to read.
    let announced_bytes = answer.content_length();
    let mut preview = Preview::default();
    loop {
        match answer.chunk().await {
            Ok(Some(chunk)) if preview.push(&chunk) => {}
            Ok(Some(_) | None) => {
                return Ok(Response { headers, ..preview.into_response(status, retry_after_s, announced_bytes) });
            }
            Err(_) => return Err(failure(FailureCode::Body, "the answer broke off")),
        }
    }
}
