//! Messages as lines: any number of them in one request, each answered by a line of its own.
//!
//! - Answers come in the order of the lines, each as soon as its message is on disk; so many are under way at a time.
//! - A line that is no message is refused alone. One that is too long, or does not end in time, ends the request: what
//!   was answered before stays accepted.
//! - Answers that the client has not taken yet are kept up to a number; then no more lines are read. So a client that
//!   reads only after it has written is served as well, as long as it writes no more than that. One that takes nothing
//!   for [`IDLE_LIMIT`] is cut off.
//! - The request ends when its credential does, or the server stops: with a line that says so, behind the answers to all
//!   that was read.
//! - What the client writes on behind the end is read and dropped: a connection that is closed with unread bytes is reset,
//!   and a reset takes answers away that the client has not read yet. Behind a line that ends the request that goes on
//!   for [`DRAIN_LIMIT`], as long as more comes; otherwise for [`LINGER`] in all.
//! - It takes one of the caller's seats for live streams, since it may last as long.

use std::pin::pin;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use axum::body::{Body, BodyDataStream, Bytes};
use axum::http::header;
use axum::response::{IntoResponse, Response};
use bytes::BytesMut;
use futures_util::{Stream, StreamExt, stream};
use tokio::sync::{Mutex, mpsc};
use tokio::time::{sleep, timeout};
use tracing::Instrument;

use super::answer::{self, Problem};
use super::{Publisher, item};
use crate::domain::message::Publish;
use crate::error_code::ErrorCode;
use crate::http::listener::Connection;
use crate::http::live::Seat;

/// The most bytes of a line.
const MAX_LINE_BYTES: usize = 1024 * 1024;
/// Messages of one request that are under way at a time.
const UNDER_WAY: usize = 100;
/// Answers that are kept for a client that does not read.
const MAX_ANSWERS: usize = 10_000;
/// How long to wait for more of the body.
const IDLE_LIMIT: Duration = Duration::from_secs(30);
/// How long a client may go on writing when all is answered that it will be, and how long it may rest meanwhile.
const LINGER: Duration = Duration::from_secs(2);
/// How long it may go on behind a line that ended the request: enough for many who read only when they have written all.
const DRAIN_LIMIT: Duration = Duration::from_secs(60);

/// Answers at once; publishes while the body comes in.
pub(super) fn publish(publisher: Publisher, seat: Seat, connection: Connection, body: Body) -> Response {
    let (answers, taken) = mpsc::channel::<Bytes>(MAX_ANSWERS);
    let publishing = async move {
        let _seat = seat;
        let lines = Arc::new(Mutex::new(Reading::of(body.into_data_stream())));
        let stopped = Arc::new(OnceLock::new());
        if answer(publisher, connection.clone(), &lines, &answers, &stopped).await.is_ok() {
            // The end of the answer.
            drop(answers);
            let limit = if stopped.get().is_some() { LINGER } else { DRAIN_LIMIT };
            drain(&lines, connection, limit).await;
        }
    };
    tokio::spawn(publishing.in_current_span());
    let told = stream::unfold(taken, |mut taken| async {
        taken.recv().await.map(|line| (Ok::<_, std::convert::Infallible>(line), taken))
    });
    ([(header::CONTENT_TYPE, "application/x-ndjson")], Body::from_stream(told)).into_response()
}

/// Where they are read, by one at a time.
type Lines = Arc<Mutex<Reading>>;

/// The client takes no answers any more.
struct Gone;

/// Publishes line by line, and tells what came of each, until they end or are to end.
async fn answer(
    publisher: Publisher,
    connection: Connection,
    lines: &Lines,
    answers: &mpsc::Sender<Bytes>,
    stopped: &Arc<OnceLock<Problem>>,
) -> Result<(), Gone> {
    let stop = stop(publisher.clone(), connection, Arc::clone(stopped));
    let publications = paid(Arc::clone(lines), publisher.clone());
    // What was paid before is published and answered all the same.
    let publications = publications.take_until(Box::pin(stop)).enumerate();
    let answered = publications.map(|(index, publish)| {
        let publisher = &publisher;
        async move {
            let answer = match publish {
                Ok(publish) => publisher.paid(publish).await,
                Err(problem) => Err(problem),
            };
            answer::line(index + 1, &answer)
        }
    });
    let last = stream::once(async { stopped.get().cloned() }).filter_map(|problem| async { problem });
    let told = answered.buffered(UNDER_WAY).chain(last.map(|problem| answer::result(&Err(problem))));
    let mut told = pin!(told.map(|line| Bytes::from(format!("{line}\n"))));
    while let Some(line) = told.next().await {
        if !matches!(timeout(IDLE_LIMIT, answers.send(line)).await, Ok(Ok(()))) {
            return Err(Gone);
        }
    }
    Ok(())
}

/// What the lines say, each as soon as the caller has points for it. One by one, so that the log has them in their order.
fn paid(lines: Lines, publisher: Publisher) -> impl Stream<Item = Result<Publish, Problem>> {
    stream::unfold((lines, publisher), |(lines, publisher)| async move {
        let line = lines.lock().await.line().await?;
        let publish = line.and_then(|line| item::plain(&line));
        if publish.is_ok() {
            publisher.turn().await;
        }
        Some((publish, (lines, publisher)))
    })
}

/// Resolves when no further line is to be read, and leaves the reason.
async fn stop(publisher: Publisher, mut connection: Connection, stopped: Arc<OnceLock<Problem>>) {
    let problem = tokio::select! {
        () = publisher.keys().ended(&publisher.caller.principal) => {
            Problem::new(ErrorCode::Unauthenticated, "the credential counts no more; the request ends here")
        }
        () = connection.closing() => {
            Problem::new(ErrorCode::Overloaded, "the server stops; send what was not answered again")
        }
    };
    // There is one who sets it.
    drop(stopped.set(problem));
}

/// Reads what still comes, for so long at most, and drops it. A server that stops waits no longer than it must.
async fn drain(lines: &Lines, mut connection: Connection, limit: Duration) {
    let mut lines = lines.lock().await;
    let stopping = async {
        connection.closing().await;
        sleep(LINGER).await;
    };
    tokio::select! {
        _ = timeout(limit, lines.drop_rest()) => {}
        () = stopping => {}
    }
}

struct Reading {
    body: BodyDataStream,
    buffer: BytesMut,
    /// In so many bytes of the buffer there is no end of a line.
    searched: usize,
    ended: bool,
}

impl Reading {
    fn of(body: BodyDataStream) -> Self {
        Self { body, buffer: BytesMut::new(), searched: 0, ended: false }
    }

    /// The next line that is not empty; what ends the request is the last one.
    async fn line(&mut self) -> Option<Result<Bytes, Problem>> {
        loop {
            let line = self.next().await?;
            if !line.as_ref().is_ok_and(|line| line.trim_ascii().is_empty()) {
                return Some(line);
            }
        }
    }

    /// Until the body ends, or nothing comes for a while.
    async fn drop_rest(&mut self) {
        self.buffer = BytesMut::new();
        while let Ok(Some(Ok(_))) = timeout(LINGER, self.body.next()).await {}
    }

    async fn next(&mut self) -> Option<Result<Bytes, Problem>> {
        loop {
            if let Some(length) = self.buffer[self.searched..].iter().position(|byte| *byte == b'\n') {
                let line = self.buffer.split_to(self.searched + length + 1).freeze();
                self.searched = 0;
                return Some(Ok(line));
            }
            self.searched = self.buffer.len();
            if self.searched > MAX_LINE_BYTES {
                let message = format!("a line has at most {MAX_LINE_BYTES} bytes; the request ends here");
                return self.end(Problem::new(ErrorCode::QueryTooLarge, message));
            }
            if self.ended {
                self.searched = 0;
                let rest = std::mem::take(&mut self.buffer).freeze();
                return (!rest.is_empty()).then_some(Ok(rest));
            }
            match timeout(IDLE_LIMIT, self.body.next()).await {
                Ok(Some(Ok(more))) => self.buffer.extend_from_slice(&more),
                Ok(None) => self.ended = true,
                Ok(Some(Err(_))) => return self.end(Problem::new(ErrorCode::BadRequest, "the body broke off")),
                Err(_) => return self.end(Problem::new(ErrorCode::BadRequest, "the body took too long")),
            }
        }
    }

    fn end(&mut self, problem: Problem) -> Option<Result<Bytes, Problem>> {
        (self.ended, self.searched) = (true, 0);
        self.buffer.clear();
        Some(Err(problem))
    }
}
