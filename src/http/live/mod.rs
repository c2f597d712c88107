//! Live streams: what both transports share.
//!
//! - [`sse`]: GraphQL over SSE in distinct connections mode, one request for each operation.
//! - [`socket`]: `graphql-transport-ws`, many operations over one connection.
//!
//! Both bound what one principal and all together may hold open, and what waits for a client that does not read: so many
//! answers, for so long. They end at once when the principal's credential does or the server stops.

pub(super) mod protocol;
pub(super) mod socket;
pub(super) mod sse;

use std::collections::HashMap;
use std::panic::AssertUnwindSafe;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use futures_util::FutureExt;
use futures_util::StreamExt;
use futures_util::stream::{self, BoxStream};
use serde::{Deserialize, Serialize};

use super::AppState;
use super::listener::WRITE_LIMIT;
use crate::authentication::Principal;
use crate::graphql::{Answer, Caller, Kind, Prepared, Schema};

/// How long a client may take to see that a stream has ended.
const END_LIMIT: Duration = Duration::from_secs(1);

/// Bounds of live streams.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// Live streams at one time, of all keys together; beyond it callers get 429. As many WebSockets may be open.
    /// Default: 512.
    pub max_streams: usize,
    /// Live streams of one API key at one time, and WebSockets. Default: 64.
    pub max_streams_per_key: usize,
    /// Answers that wait for one client to read them, at least 1; then no more are made for it. Default: 16.
    pub max_unread: usize,
    /// How long a client may take to read one answer while others wait, in milliseconds, from 1 to 30000; then it is cut
    /// off. Default: 10000.
    pub unread_limit_ms: u64,
    /// After how long without anything else a client is sent a sign of life, in milliseconds, at least 1. Default: 15000.
    pub keep_alive_ms: u64,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            max_streams: 512,
            max_streams_per_key: 64,
            max_unread: 16,
            unread_limit_ms: 10_000,
            keep_alive_ms: 15_000,
        }
    }
}

impl Config {
    /// What is wrong with it, after the name of the key.
    pub fn check(&self) -> Result<(), String> {
        let at_least_one = [
            ("max_unread", self.max_unread as u64),
            ("unread_limit_ms", self.unread_limit_ms),
            ("keep_alive_ms", self.keep_alive_ms),
        ];
        match at_least_one.iter().find(|(_, value)| *value == 0) {
            Some((key, _)) => Err(format!("live.{key}: must be at least 1")),
            // From there on the connection is cut for being stuck, whatever it carries.
            None if self.unread_limit() > WRITE_LIMIT => {
                Err(format!("live.unread_limit_ms: must be at most {}", WRITE_LIMIT.as_millis()))
            }
            None => Ok(()),
        }
    }

    fn unread_limit(&self) -> Duration {
        Duration::from_millis(self.unread_limit_ms)
    }

    fn keep_alive(&self) -> Duration {
        Duration::from_millis(self.keep_alive_ms)
    }
}

/// Who holds what.
pub(super) struct Live {
    config: Config,
    pub(super) streams: Arc<Seats>,
    pub(super) sockets: Arc<Seats>,
    answers: AtomicU64,
    cut_off: AtomicU64,
}

/// How many live streams there are, and what became of them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Counts {
    /// Streams that are open, and requests with lines.
    pub streams: usize,
    /// WebSockets that are open and acknowledged.
    pub sockets: usize,
    /// Answers that were made for clients of streams and sockets since the start.
    pub answers: u64,
    /// Clients that were cut off since the start, since they did not read.
    pub cut_off: u64,
}

impl Live {
    pub(super) fn new(config: &Config) -> Self {
        let seats = || Arc::new(Seats { config: config.clone(), taken: Mutex::default() });
        let (streams, sockets, config) = (seats(), seats(), config.clone());
        Self { config, streams, sockets, answers: AtomicU64::new(0), cut_off: AtomicU64::new(0) }
    }

    pub(super) fn counts(&self) -> Counts {
        Counts {
            streams: self.streams.all_taken(),
            sockets: self.sockets.all_taken(),
            answers: self.answers.load(Ordering::Relaxed),
            cut_off: self.cut_off.load(Ordering::Relaxed),
        }
    }

    /// A client did not read for too long.
    fn count_cut_off(&self) {
        self.cut_off.fetch_add(1, Ordering::Relaxed);
    }
}

/// A bounded number of things, for each caller and in all.
pub(super) struct Seats {
    config: Config,
    taken: Mutex<HashMap<String, usize>>,
}

/// One of them; given back when it is dropped.
pub(super) struct Seat {
    seats: Arc<Seats>,
    subject: String,
}

impl Seats {
    /// `None` if the caller, or all together, have as many as they may.
    pub(super) fn take(self: &Arc<Self>, principal: &Principal) -> Option<Seat> {
        let mut taken = self.taken.lock().unwrap_or_else(PoisonError::into_inner);
        let subject = principal.credential.subject();
        let (all, own) = (taken.values().sum::<usize>(), taken.get(&subject).copied().unwrap_or(0));
        if all >= self.config.max_streams || own >= self.config.max_streams_per_key {
            return None;
        }
        taken.insert(subject.clone(), own + 1);
        Some(Seat { seats: Arc::clone(self), subject })
    }

    fn all_taken(&self) -> usize {
        self.taken.lock().unwrap_or_else(PoisonError::into_inner).values().sum()
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        let mut taken = self.seats.taken.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(own) = taken.get_mut(&self.subject) {
            *own -= 1;
            if *own == 0 {
                taken.remove(&self.subject);
            }
        }
    }
}

/// The answers to any operation: one to a query or a mutation, any number to a subscription.
fn answers(state: &AppState, prepared: Prepared, caller: Caller) -> BoxStream<'static, Answer> {
    let live = Arc::clone(&state.live);
    let count = move |_: &Answer| {
        live.answers.fetch_add(1, Ordering::Relaxed);
    };
    uncounted(&state.schema, prepared, caller).inspect(count).boxed()
}

fn uncounted(schema: &Schema, prepared: Prepared, caller: Caller) -> BoxStream<'static, Answer> {
    match prepared.kind() {
        Kind::Subscription => schema.subscribe(prepared, caller),
        // Here and in no task of its own: who calls it off, calls off the work.
        Kind::Query => {
            let (schema, request) = (schema.clone(), caller.request);
            let executing = async move { AssertUnwindSafe(schema.execute(prepared, caller)).catch_unwind().await };
            stream::once(async move { executing.await.unwrap_or_else(|_| Answer::internal(request)) }).boxed()
        }
        Kind::Mutation => {
            let schema = schema.clone();
            stream::once(async move { super::graphql::execute(&schema, prepared, caller).await }).boxed()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::authentication::Credential;
    use crate::domain::id::{ApiKeyId, TenantId};

    #[test]
    fn seats_are_bounded_for_each_key_and_in_all_and_come_back() {
        let live = Live::new(&Config { max_streams: 3, max_streams_per_key: 2, ..Config::default() });
        let of = |key| Principal {
            credential: Credential::ApiKey(ApiKeyId::from_parts(key, 1)),
            name: String::new(),
            tenant: TenantId::from_parts(1, 1),
            scopes: vec![],
            authenticated_at: None,
            acr: None,
            expires_at: None,
        };
        let first = live.streams.take(&of(1));
        let second = live.streams.take(&of(1));
        assert!(first.is_some() && second.is_some() && live.streams.take(&of(1)).is_none());
        let third = live.streams.take(&of(2));
        assert!(third.is_some() && live.streams.take(&of(2)).is_none());
        assert!(live.sockets.take(&of(1)).is_some());
        drop(first);
        assert!(live.streams.take(&of(1)).is_some());
        drop((second, third));
        assert!(live.streams.taken.lock().unwrap().is_empty());
    }
}
