//! Connections being made: how far one came when it failed, and where it was to go.
//!
//! A layer around reqwest's own connector. It runs whatever belongs to one connection in a scope of its own, in which the
//! resolver learns the port, and the TLS library leaves word that a handshake has begun. So a handshake that hangs is told
//! from an address that does not answer.

use std::cell::Cell;
use std::task::{Context, Poll};
use std::time::Duration;

use futures_util::future::BoxFuture;
use rustls::NamedGroup;
use rustls::client::{ClientSessionMemoryCache, ClientSessionStore, Tls12ClientSessionValue, Tls13ClientSessionValue};
use rustls::pki_types::ServerName;
use thiserror::Error;
use tower_layer::Layer;
use tower_service::Service;

/// TLS sessions that are kept to be resumed, of all endpoints together.
const SESSIONS: usize = 256;

type BoxError = Box<dyn std::error::Error + Send + Sync>;

tokio::task_local! {
    /// The port that a request goes to; see [`bound_for`].
    static PORT: u16;
    /// The connection that is being made.
    static DIAL: Dial;
}

/// What is known of a connection that is being made.
struct Dial {
    /// The port that it is made for.
    port: Option<u16>,
    /// Whether it has come to its TLS handshake.
    handshake: Cell<bool>,
}

/// Sends a request that goes to that port. Its connector is called within, since it is called where the request is
/// polled; the connection may then be made elsewhere.
pub(super) async fn bound_for<F: Future>(port: u16, sending: F) -> F::Output {
    PORT.scope(port, sending).await
}

/// The port that the connection being made here goes to, if that is known.
pub(super) fn port() -> Option<u16> {
    DIAL.try_with(|dial| dial.port).ok().flatten()
}

/// How far a connection had come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Phase {
    /// The name was looked up, or an address was asked for a connection.
    Reaching,
    /// There was a connection, and TLS was to be agreed on.
    Handshake,
}

/// Why there is no connection.
#[derive(Debug, Error)]
pub(super) enum DialError {
    /// It took too long.
    #[error("no connection in time")]
    TimedOut(Phase),
    /// It came to an end before.
    #[error("no connection")]
    Failed {
        /// How far it had come.
        phase: Phase,
        /// What the connector said.
        source: BoxError,
    },
}

/// Puts [`Dialler`] around a connector.
#[derive(Clone)]
pub(super) struct DialLayer {
    /// For resolving, connecting and the handshake together.
    pub(super) limit: Duration,
}

impl<S> Layer<S> for DialLayer {
    type Service = Dialler<S>;

    fn layer(&self, connector: S) -> Self::Service {
        Dialler { connector, limit: self.limit }
    }
}

/// A connector that knows how far it came.
#[derive(Clone)]
pub(super) struct Dialler<S> {
    connector: S,
    limit: Duration,
}

impl<S, T> Service<T> for Dialler<S>
where
    S: Service<T, Error = BoxError>,
    S::Future: Send + 'static,
{
    type Response = S::Response;
    type Error = BoxError;
    type Future = BoxFuture<'static, Result<S::Response, BoxError>>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        self.connector.poll_ready(context)
    }

    fn call(&mut self, target: T) -> Self::Future {
        let connecting = tokio::time::timeout(self.limit, self.connector.call(target));
        let dial = Dial { port: PORT.try_with(|port| *port).ok(), handshake: Cell::new(false) };
        Box::pin(DIAL.scope(dial, async move {
            let phase = || match DIAL.with(|dial| dial.handshake.get()) {
                true => Phase::Handshake,
                false => Phase::Reaching,
            };
            match connecting.await {
                Ok(Ok(connection)) => Ok(connection),
                Ok(Err(source)) => Err(DialError::Failed { phase: phase(), source }.into()),
                Err(_) => Err(DialError::TimedOut(phase()).into()),
            }
        }))
    }
}

/// The TLS sessions that can be resumed. A handshake begins by asking for one, before anything is sent: so its beginning
/// is seen here.
#[derive(Debug)]
pub(super) struct Sessions(ClientSessionMemoryCache);

impl Sessions {
    pub(super) fn new() -> Self {
        Self(ClientSessionMemoryCache::new(SESSIONS))
    }
}

impl ClientSessionStore for Sessions {
    fn take_tls13_ticket(&self, server: &ServerName<'static>) -> Option<Tls13ClientSessionValue> {
        // Outside of a scope nobody asks.
        let _ = DIAL.try_with(|dial| dial.handshake.set(true));
        self.0.take_tls13_ticket(server)
    }

    fn insert_tls13_ticket(&self, server: ServerName<'static>, value: Tls13ClientSessionValue) {
        self.0.insert_tls13_ticket(server, value);
    }

    fn set_kx_hint(&self, server: ServerName<'static>, group: NamedGroup) {
        self.0.set_kx_hint(server, group);
    }

    fn kx_hint(&self, server: &ServerName<'_>) -> Option<NamedGroup> {
        self.0.kx_hint(server)
    }

    fn set_tls12_session(&self, server: ServerName<'static>, value: Tls12ClientSessionValue) {
        self.0.set_tls12_session(server, value);
    }

    fn tls12_session(&self, server: &ServerName<'_>) -> Option<Tls12ClientSessionValue> {
        self.0.tls12_session(server)
    }

    fn remove_tls12_session(&self, server: &ServerName<'static>) {
        self.0.remove_tls12_session(server);
    }
}
