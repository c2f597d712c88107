//! `graphql-transport-ws`: many operations over one WebSocket.
//!
//! - Each operation is a task of its own, and all of them queue for the one place where messages leave: whoever has much
//!   to tell waits its turn behind the others, and an operation that nobody reads is read for no further.
//! - An operation's messages carry a number that is never used again, so that what it left in the queue is not taken for
//!   its successor's of the same id.
//! - A credential comes with the upgrade, or with `connection_init`; the operations run as its principal, and the socket
//!   ends with it.
//! - A page of another origin may not open a socket: browsers send cookies along with it, and ask nobody.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use axum::extract::ws::{CloseFrame, Message as Frame, WebSocket, WebSocketUpgrade};
use axum::http::{HeaderMap, header};
use axum::response::Response;
use futures_util::stream::{SplitSink, SplitStream};
use futures_util::{SinkExt, StreamExt};
use tokio::sync::mpsc;
use tokio::task::{AbortHandle, JoinSet};
use tokio::time::{Instant, MissedTickBehavior, interval_at, sleep_until, timeout};
use tracing::Instrument;

use super::protocol::{self, Close, Message, SUBPROTOCOL};
use super::{END_LIMIT, Seat, answers};
use crate::authentication::Principal;
use crate::error_code::ErrorCode;
use crate::graphql::{self, Answer, Caller, Incoming, Kind, Outcome, Prepared};
use crate::http::AppState;
use crate::http::auth::{self, Denied};
use crate::http::listener::Connection;

/// How long a client may take to send `connection_init`.
const INIT_LIMIT: Duration = Duration::from_secs(3);
/// Operations of one socket at one time.
const MAX_OPERATIONS: usize = 32;
/// The most bytes of a message.
const MAX_MESSAGE_BYTES: usize = 1024 * 1024;
/// A client that has sent nothing for so many keep-alive periods, not even a pong, is gone.
const SILENT_PERIODS: u32 = 2;

/// Whether a request wants a WebSocket.
pub(in crate::http) fn is_wanted(headers: &HeaderMap) -> bool {
    let upgrade = headers.get(header::UPGRADE).and_then(|value| value.to_str().ok());
    upgrade.is_some_and(|upgrade| upgrade.eq_ignore_ascii_case("websocket"))
}

/// Whether the client offers our subprotocol.
pub(in crate::http) fn speaks_ours(headers: &HeaderMap) -> bool {
    let offered = headers.get_all(header::SEC_WEBSOCKET_PROTOCOL).iter().filter_map(|value| value.to_str().ok());
    offered.flat_map(|offered| offered.split(',')).any(|offered| offered.trim() == SUBPROTOCOL)
}

/// Takes the socket. `caller` has what is known of the client, and no principal if none came with the upgrade.
pub(in crate::http) fn respond(
    state: AppState,
    upgrade: WebSocketUpgrade,
    client: Client,
    connection: Connection,
) -> Response {
    let upgrade =
        upgrade.protocols([SUBPROTOCOL]).max_message_size(MAX_MESSAGE_BYTES).max_frame_size(MAX_MESSAGE_BYTES);
    upgrade.on_upgrade(move |socket| async move {
        let (sink, incoming) = socket.split();
        let (outbox, waiting) = mpsc::channel(state.live.config.max_unread);
        let session = Session {
            state,
            client,
            connection,
            sink,
            outbox,
            seat: None,
            acknowledged: false,
            operations: HashMap::new(),
            tasks: JoinSet::new(),
            last_number: 0,
            silent_periods: 0,
        };
        session.run(incoming, waiting).await;
    })
}

/// Who is at the other end.
pub(in crate::http) struct Client {
    /// Who they are, as far as they have said so.
    pub(in crate::http) principal: Option<Arc<Principal>>,
    pub(in crate::http) ip: Option<String>,
    pub(in crate::http) by_proxy: bool,
}

/// A message of an operation, to be sent.
struct Out {
    id: String,
    number: u64,
    /// `None`: it has ended without one.
    answer: Option<Answer>,
}

struct Session {
    state: AppState,
    client: Client,
    connection: Connection,
    sink: SplitSink<WebSocket, Frame>,
    outbox: mpsc::Sender<Out>,
    seat: Option<Seat>,
    acknowledged: bool,
    /// By id: their numbers and tasks.
    operations: HashMap<String, (u64, AbortHandle)>,
    /// End with the session.
    tasks: JoinSet<()>,
    last_number: u64,
    silent_periods: u32,
}

/// How a session ends.
enum End {
    /// We close the socket.
    Close(Close),
    /// The client has closed it, and waits for the answer to that.
    Closed,
    /// There is nobody to be told.
    Gone,
}

impl From<Close> for End {
    fn from(close: Close) -> Self {
        Self::Close(close)
    }
}

impl Session {
    async fn run(mut self, mut incoming: SplitStream<WebSocket>, mut waiting: mpsc::Receiver<Out>) {
        let end = self.talk(&mut incoming, &mut waiting).await;
        self.tasks.abort_all();
        let bye = async {
            match end {
                End::Close(Close { code, reason }) => {
                    let frame = CloseFrame { code, reason: reason.into() };
                    self.sink.send(Frame::Close(Some(frame))).await.ok()?;
                }
                // The answer is written below us, by whoever reads on.
                End::Closed => {}
                End::Gone => return None,
            }
            while let Some(Ok(_)) = incoming.next().await {}
            Some(())
        };
        drop(timeout(END_LIMIT, bye).await);
    }

    async fn talk(&mut self, incoming: &mut SplitStream<WebSocket>, waiting: &mut mpsc::Receiver<Out>) -> End {
        let init_until = Instant::now() + INIT_LIMIT;
        let period = self.state.live.config.keep_alive();
        let mut keep_alive = interval_at(Instant::now() + period, period);
        // While something is sent nobody listens: what the client says meanwhile is heard before it counts as silent.
        keep_alive.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut closing = self.connection.clone();
        let mut ended = Box::pin(ended(self.state.clone(), None));
        let mut watched = false;
        loop {
            // Kept from turn to turn: frames that follow each other closely must not begin it anew.
            if self.acknowledged && !watched {
                watched = true;
                ended = Box::pin(self::ended(self.state.clone(), self.client.principal.clone()));
            }
            let done = tokio::select! {
                () = closing.closing() => Err(stopping()),
                () = &mut ended => Err(Close::new(4403, "Forbidden").into()),
                () = sleep_until(init_until), if !self.acknowledged => {
                    Err(Close::new(4408, "Connection initialisation timeout").into())
                }
                Some(out) = waiting.recv() => self.pass_on(out).await,
                frame = incoming.next() => match frame {
                    Some(Ok(frame)) => self.hear(frame).await,
                    Some(Err(_)) | None => Err(End::Gone),
                },
                _ = keep_alive.tick() => self.keep_alive().await,
            };
            // The tasks' own ends are told by the queue.
            while self.tasks.try_join_next().is_some() {}
            if let Err(end) = done {
                return end;
            }
        }
    }

    async fn keep_alive(&mut self) -> Result<(), End> {
        self.silent_periods += 1;
        if self.silent_periods > SILENT_PERIODS {
            // Not 1011: clients take that for the end of all trying, and this one may only have slept.
            Err(Close::new(4408, "Nothing was heard for too long").into())
        } else {
            self.send(Frame::Ping(Vec::new().into())).await
        }
    }

    async fn hear(&mut self, frame: Frame) -> Result<(), End> {
        self.silent_periods = 0;
        match frame {
            Frame::Text(text) => {
                let message = Message::parse(&text).map_err(|reason| Close::new(4400, &reason))?;
                self.obey(message).await
            }
            Frame::Binary(_) => Err(Close::new(4400, "Invalid message: messages are text").into()),
            // Answered below us.
            Frame::Ping(_) | Frame::Pong(_) => Ok(()),
            Frame::Close(_) => Err(End::Closed),
        }
    }

    async fn obey(&mut self, message: Message) -> Result<(), End> {
        match message {
            Message::Init(authorization) => self.begin(authorization).await,
            Message::Ping(payload) => self.send_text(protocol::pong(payload.as_deref())).await,
            Message::Pong => Ok(()),
            Message::Subscribe(id, request) => self.subscribe(id, &request).await,
            Message::Complete(id) => {
                if let Some((_, task)) = self.operations.remove(&id) {
                    task.abort();
                }
                Ok(())
            }
        }
    }

    async fn begin(&mut self, authorization: Option<String>) -> Result<(), End> {
        if self.acknowledged {
            return Err(Close::new(4429, "Too many initialisation requests").into());
        }
        if let Some(authorization) = authorization {
            let mut closing = self.connection.clone();
            let principal = tokio::select! {
                principal = auth::principal(&authorization, self.state.schema.keys()) => principal,
                // An issuer whose keys are asked for may take long.
                () = closing.closing() => return Err(stopping()),
            };
            self.client.principal =
                Some(self.state.admitted(principal.map_err(|denied| refused(&denied))?, self.client.by_proxy));
        }
        let Some(principal) = &self.client.principal else { return Err(Close::new(4401, "Unauthorized").into()) };
        let seat = self.state.live.sockets.take(principal);
        self.seat = Some(seat.ok_or_else(|| Close::new(1013, "Too many sockets are open; try again later"))?);
        self.acknowledged = true;
        self.send_text(protocol::ACK.to_owned()).await
    }

    async fn subscribe(&mut self, id: String, request: &str) -> Result<(), End> {
        let Some(principal) = self.client.principal.clone().filter(|_| self.acknowledged) else {
            return Err(Close::new(4401, "Unauthorized").into());
        };
        if self.operations.contains_key(&id) {
            return Err(Close::new(4409, &format!("Subscriber for {id} already exists")).into());
        }
        let incoming = Incoming::from_json(request.as_bytes())
            .map_err(|_| Close::new(4400, "Invalid message: the payload is not a GraphQL request"))?;
        match self.admit(incoming, &principal) {
            Ok((prepared, seat)) => {
                self.start(id, prepared, principal, seat);
                Ok(())
            }
            Err(refusal) => self.send_text(protocol::answer(&id, &refusal)).await,
        }
    }

    fn admit(&self, incoming: Incoming, principal: &Principal) -> Result<(Prepared, Option<Seat>), Answer> {
        let too_many = |what: &str| Answer::refused(ErrorCode::TooManyStreams, what);
        if self.operations.len() >= MAX_OPERATIONS {
            return Err(too_many(&format!("a socket has {MAX_OPERATIONS} operations at most")));
        }
        let schema = &self.state.schema;
        schema.enter(principal)?;
        let prepared = graphql::prepare(incoming).map_err(|answer| schema.charge_refused(principal, answer))?;
        if prepared.kind() != Kind::Subscription {
            return Ok((prepared, None));
        }
        let seat = self.state.live.streams.take(principal).ok_or_else(|| too_many("too many live streams are open"))?;
        Ok((prepared, Some(seat)))
    }

    fn start(&mut self, id: String, prepared: Prepared, principal: Arc<Principal>, seat: Option<Seat>) {
        self.last_number += 1;
        let (number, outbox) = (self.last_number, self.outbox.clone());
        let caller = Caller { principal, request: self.state.clock.request_id(), ip: self.client.ip.clone() };
        let span = tracing::info_span!("operation", request.id = %caller.request);
        let mut answers = answers(&self.state, prepared, caller);
        let operation = {
            let id = id.clone();
            async move {
                let _seat = seat;
                while let Some(answer) = answers.next().await {
                    let last = matches!(answer.outcome, Outcome::Refused(_));
                    let sent = outbox.send(Out { id: id.clone(), number, answer: Some(answer) }).await;
                    if last || sent.is_err() {
                        return;
                    }
                }
                drop(outbox.send(Out { id, number, answer: None }).await);
            }
        };
        let task = self.tasks.spawn(operation.instrument(span));
        self.operations.insert(id, (number, task));
    }

    async fn pass_on(&mut self, Out { id, number, answer }: Out) -> Result<(), End> {
        if self.operations.get(&id).is_none_or(|(current, _)| *current != number) {
            return Ok(());
        }
        match answer {
            Some(answer) => {
                if matches!(answer.outcome, Outcome::Refused(_)) {
                    self.operations.remove(&id);
                }
                self.send_text(protocol::answer(&id, &answer)).await
            }
            None => {
                self.operations.remove(&id);
                self.send_text(protocol::complete(&id)).await
            }
        }
    }

    async fn send_text(&mut self, text: String) -> Result<(), End> {
        self.send(Frame::Text(text.into())).await
    }

    async fn send(&mut self, frame: Frame) -> Result<(), End> {
        let limit = self.state.live.config.unread_limit();
        tokio::select! {
            biased;
            sent = timeout(limit, self.sink.send(frame)) => match sent {
                Ok(Ok(())) => Ok(()),
                Ok(Err(_)) => Err(End::Gone),
                Err(_) => {
                    self.state.live.count_cut_off();
                    Err(End::Gone)
                }
            },
            // A stop does not wait for a client that does not read.
            () = self.connection.closing() => Err(End::Gone),
        }
    }
}

fn stopping() -> End {
    Close::new(1001, "The server stops").into()
}

/// Resolves when the principal may go on no more; never without one.
async fn ended(state: AppState, principal: Option<Arc<Principal>>) {
    match principal {
        Some(principal) => state.schema.keys().ended(&principal).await,
        None => std::future::pending().await,
    }
}

fn refused(denied: &Denied) -> Close {
    match denied {
        Denied::Missing | Denied::Invalid | Denied::ForeignOrigin => Close::new(4403, "Forbidden"),
        Denied::Unavailable(error) => {
            tracing::error!("{error}");
            Close::new(1011, "The credential cannot be checked")
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_subprotocol_is_found_among_others() {
        let offered = |text: &str| HeaderMap::from_iter([(header::SEC_WEBSOCKET_PROTOCOL, text.parse().unwrap())]);
        assert!(speaks_ours(&offered("graphql-ws, graphql-transport-ws")));
        assert!(!speaks_ours(&offered("graphql-ws")) && !speaks_ours(&HeaderMap::new()));
    }
}
