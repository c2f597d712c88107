//! GraphQL over SSE, distinct connections mode: `event: next` for each answer, `event: complete` when there are no more.
//!
//! Queries and mutations too: a client need not know which of its operations are live. What is wrong with a document
//! comes as an answer, since event clients see nothing of another status; a missing credential and a full house come by
//! status. A stream that the server ends because it stops has no `complete`: the client is to come again.

use std::convert::Infallible;

use axum::body::{Body, Bytes};
use axum::http::{HeaderValue, header};
use axum::response::{IntoResponse, Response};
use futures_util::StreamExt;
use futures_util::stream::{self, BoxStream};
use tokio::sync::mpsc;
use tokio::time::{Instant, sleep_until, timeout};

use super::{END_LIMIT, Seat, answers};
use crate::error_code::ErrorCode;
use crate::graphql::{Answer, Caller, Kind, Outcome, Prepared};
use crate::http::AppState;
use crate::http::listener::Connection;

/// Answers with a stream of events, whatever kind of operation it is; with a refusal if there is no room for it.
pub(in crate::http) fn respond(
    state: &AppState,
    prepared: Result<Prepared, Answer>,
    caller: Caller,
    connection: Connection,
) -> Result<Response, Answer> {
    let (answers, seat) = match prepared {
        Ok(prepared) => {
            let seat = (prepared.kind() == Kind::Subscription).then(|| state.live.streams.take(&caller.principal));
            if matches!(seat, Some(None)) {
                return Err(Answer::refused(ErrorCode::TooManyStreams, "too many live streams are open"));
            }
            (answers(state, prepared, caller.clone()), seat.flatten())
        }
        Err(answer) if is_of_document(&answer) => (stream::iter([answer]).boxed(), None),
        Err(answer) => return Err(answer),
    };
    let (sender, receiver) = mpsc::channel(state.live.config.max_unread);
    let events = Events { state: state.clone(), caller, connection, sender };
    tokio::spawn(events.send_all(answers, seat));
    Ok(event_stream(receiver))
}

/// Whether it is about the document: such an answer is sent as an event.
fn is_of_document(answer: &Answer) -> bool {
    let Outcome::Refused(code) = answer.outcome else { return true };
    [ErrorCode::GraphqlParseFailed, ErrorCode::GraphqlValidationFailed, ErrorCode::QueryTooComplex].contains(&code)
}

fn event_stream(receiver: mpsc::Receiver<Event>) -> Response {
    let body = stream::unfold(receiver, |mut receiver| async {
        match receiver.recv().await {
            Some(Event::Bytes(bytes)) => Some((Ok::<_, Infallible>(bytes), receiver)),
            Some(Event::End) | None => None,
        }
    });
    let headers = [
        (header::CONTENT_TYPE, HeaderValue::from_static("text/event-stream; charset=utf-8")),
        (header::CACHE_CONTROL, HeaderValue::from_static("no-store")),
        (header::VARY, HeaderValue::from_static("accept, authorization")),
        // Proxies that gather answers before they pass them on: not this one.
        (header::HeaderName::from_static("x-accel-buffering"), HeaderValue::from_static("no")),
    ];
    (headers, Body::from_stream(body)).into_response()
}

/// What goes into the body.
enum Event {
    Bytes(Bytes),
    End,
}

/// The sending half of a body.
struct Events {
    state: AppState,
    caller: Caller,
    connection: Connection,
    sender: mpsc::Sender<Event>,
}

/// The client is gone, or reads too slowly.
struct Gone;

impl Events {
    async fn send_all(mut self, mut answers: BoxStream<'static, Answer>, _seat: Option<Seat>) {
        let sent = self.send_answers(&mut answers).await;
        drop(answers);
        let seen = match sent {
            Ok(()) => {
                let ended = async {
                    drop(self.sender.send(Event::End).await);
                    self.sender.closed().await;
                };
                timeout(END_LIMIT, ended).await.is_ok()
            }
            Err(Gone) => self.sender.is_closed(),
        };
        if !seen {
            self.connection.cut();
        }
    }

    async fn send_answers(&mut self, answers: &mut BoxStream<'static, Answer>) -> Result<(), Gone> {
        let (schema, principal) = (self.state.schema.clone(), self.caller.principal.clone());
        let mut ended = std::pin::pin!(async move { schema.keys().ended(&principal).await });
        let mut closing = self.connection.clone();
        let keep_alive_after = self.state.live.config.keep_alive();
        let closed = self.sender.clone();
        // The first lines tell the client that it is heard.
        self.send(":\n\n".into()).await?;
        loop {
            let keep_alive = sleep_until(Instant::now() + keep_alive_after);
            tokio::select! {
                biased;
                () = closed.closed() => return Err(Gone),
                () = closing.closing() => return Ok(()),
                () = &mut ended => {
                    let message = "the credential is valid no more";
                    self.send(next(&Answer::refused(ErrorCode::Unauthenticated, message))).await?;
                    return self.send(COMPLETE.into()).await;
                }
                answer = answers.next() => {
                    let Some(answer) = answer else { return self.send(COMPLETE.into()).await };
                    self.send(next(&answer)).await?;
                }
                () = keep_alive => self.send(":\n\n".into()).await?,
            }
        }
    }

    async fn send(&mut self, event: String) -> Result<(), Gone> {
        let limit = self.state.live.config.unread_limit();
        tokio::select! {
            biased;
            sent = timeout(limit, self.sender.send(Event::Bytes(event.into()))) => match sent {
                Ok(Ok(())) => Ok(()),
                Ok(Err(_)) => Err(Gone),
                Err(_) => {
                    self.state.live.count_cut_off();
                    Err(Gone)
                }
            },
            // What is not read now will be read after a restart.
            () = self.connection.closing() => Err(Gone),
        }
    }
}

const COMPLETE: &str = "event: complete\ndata:\n\n";

fn next(answer: &Answer) -> String {
    // An answer is JSON without line breaks: they are escaped within its strings.
    format!("event: next\ndata: {}\n\n", String::from_utf8_lossy(&answer.body))
}
