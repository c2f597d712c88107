//! The numbers of the running system, in the text format of Prometheus.
//!
//! - Everything is read at the moment of asking from what exists anyway; nothing is counted for this alone but how long
//!   commits take.
//! - No label holds an id: a series more for each webhook or tenant would grow without a bound.
//! - Whoever reaches the listener may read them, unless there is a token: then only who shows it.
//! - `docs/operations.md` says what each name means, and a test that it names all of them.

use std::fmt::Write;
use std::sync::Arc;

use axum::Router;
use axum::extract::State;
use axum::http::{HeaderMap, StatusCode, header};
use axum::middleware::map_response;
use axum::response::{IntoResponse, Response};
use axum::routing::get;

use subtle::ConstantTimeEq;

use super::live::Counts as LiveCounts;
use super::{AppState, headers};
use crate::actors::Engine;
use crate::clock::Clock;
use crate::domain::ledger::Counts;
use crate::domain::secret::Secret;
use crate::event_store::{BOUNDS_US, Log, ReadError};
use crate::execute::MATCHER;
use crate::execute::ledger::Ledger;
use crate::notices::Notices;
use crate::projections::{Name, ReadModels};

/// What is measured. Cheap to clone.
#[derive(Clone)]
pub struct Measured {
    /// Its queue, its commits, its matcher's checkpoint.
    pub log: Log,
    /// Its queues.
    pub engine: Engine,
    /// How far they are behind.
    pub read_models: ReadModels,
    /// Where every match stands.
    pub ledger: Ledger,
    /// What became of them.
    pub notices: Notices,
    /// The time that lags are counted to.
    pub clock: Arc<dyn Clock>,
    /// Its live streams.
    pub front: AppState,
}

/// `GET /metrics`, and nothing else; with a token for `Authorization: Bearer <token>` alone.
pub fn router(measured: Measured, token: Option<Secret>) -> Router {
    let state = Guarded { measured, token: token.map(Arc::new) };
    Router::new().route("/metrics", get(metrics)).layer(map_response(guarded)).with_state(state)
}

#[derive(Clone)]
struct Guarded {
    measured: Measured,
    token: Option<Arc<Secret>>,
}

async fn guarded(mut response: Response) -> Response {
    headers::guard(response.headers_mut());
    response
}

impl Guarded {
    fn admits(&self, headers: &HeaderMap) -> bool {
        let Some(token) = &self.token else { return true };
        let presented = headers.get(header::AUTHORIZATION).and_then(|value| value.to_str().ok());
        let presented = presented.and_then(|value| value.strip_prefix("Bearer ")).unwrap_or_default();
        presented.as_bytes().ct_eq(token.expose().as_bytes()).into()
    }
}

async fn metrics(State(state): State<Guarded>, headers: HeaderMap) -> Response {
    if !state.admits(&headers) {
        let challenge = [(header::WWW_AUTHENTICATE, "Bearer realm=\"metrics\"")];
        return (StatusCode::UNAUTHORIZED, challenge, "the token of metrics.token_file is needed\n").into_response();
    }
    match state.measured.text().await {
        Ok(text) => ([(header::CONTENT_TYPE, "text/plain; version=0.0.4; charset=utf-8")], text).into_response(),
        Err(error) => (StatusCode::SERVICE_UNAVAILABLE, format!("{error}\n")).into_response(),
    }
}

/// The text, as far as it is written.
struct Text(String);

impl Text {
    /// What follows is of this name.
    fn family(&mut self, name: &str, kind: &str, help: &str) {
        self.line(format_args!("# HELP {name} {help}\n# TYPE {name} {kind}\n"));
    }

    fn sample(&mut self, name: &str, labels: &[(&str, &str)], value: impl std::fmt::Display) {
        let labels: Vec<String> = labels.iter().map(|(label, text)| format!("{label}=\"{text}\"")).collect();
        let labels = if labels.is_empty() { String::new() } else { format!("{{{}}}", labels.join(",")) };
        self.line(format_args!("{name}{labels} {value}\n"));
    }

    fn single(&mut self, name: &str, kind: &str, help: &str, value: impl std::fmt::Display) {
        self.family(name, kind, help);
        self.sample(name, &[], value);
    }

    fn line(&mut self, line: std::fmt::Arguments<'_>) {
        self.0.write_fmt(line).expect("a text takes everything");
    }
}

impl Measured {
    async fn text(&self) -> Result<String, ReadError> {
        let mut text = Text(String::new());
        self.ledger(&mut text);
        self.tally(&mut text);
        self.appends(&mut text);
        self.queues(&mut text);
        self.live(&mut text);
        self.notices(&mut text);
        self.matcher(&mut text).await?;
        self.projections(&mut text).await?;
        Ok(text.0)
    }

    fn ledger(&self, text: &mut Text) {
        let (mut counts, mut lag) = (Counts::default(), 0);
        for checked in self.ledger.all() {
            counts.add(&checked.counts);
            lag += checked.lag_events;
        }
        let unaccounted = "Matched messages that are in no state.";
        text.single("tidings_ledger_unaccounted", "gauge", unaccounted, counts.unaccounted);
        let twice = "Deliveries scheduled or ended once more than they may be.";
        text.single("tidings_ledger_accounted_twice", "gauge", twice, counts.twice);
        text.single("tidings_ledger_lag_events", "gauge", "Events that the ledger has not checked yet.", lag);
        let open = "Deliveries that have not ended, repetitions aside.";
        text.single("tidings_deliveries_open", "gauge", open, counts.pending);
        let held = "Matched messages that wait for a circuit breaker.";
        text.single("tidings_matches_held", "gauge", held, counts.held);
        let circuits = "Webhooks whose circuit breaker is open.";
        text.single("tidings_circuits_open", "gauge", circuits, self.ledger.circuits_open());
    }

    fn tally(&self, text: &mut Text) {
        let tally = self.ledger.tally();
        let messages = "Messages accepted since the start.";
        text.single("tidings_messages_total", "counter", messages, tally.messages);
        let name = "tidings_deliveries_total";
        text.family(name, "counter", "Deliveries that ended since the start, by outcome.");
        for (outcome, count) in &tally.deliveries {
            text.sample(name, &[("outcome", outcome)], count);
        }
        let name = "tidings_attempts_total";
        text.family(name, "counter", "Attempts since the start, by class.");
        for (class, count) in &tally.attempts {
            text.sample(name, &[("class", class)], count);
        }
    }

    fn appends(&self, text: &mut Text) {
        let latency = self.log.latency();
        let name = "tidings_append_seconds";
        text.family(name, "histogram", "How long commits of the log took.");
        let (bucket, mut count) = (format!("{name}_bucket"), 0);
        for (bound_us, commits) in BOUNDS_US.iter().zip(latency.buckets) {
            count += commits;
            text.sample(&bucket, &[("le", &seconds(*bound_us))], count);
        }
        count = latency.buckets.iter().sum();
        text.sample(&bucket, &[("le", "+Inf")], count);
        text.sample(&format!("{name}_sum"), &[], seconds(latency.sum_us));
        text.sample(&format!("{name}_count"), &[], count);
    }

    fn queues(&self, text: &mut Text) {
        let ((depth, limit), (placed, places)) = (self.log.queued(), self.log.placed());
        let mut queues = vec![("appends", depth, limit), ("webhook_appends", placed, places)];
        queues.extend(self.engine.depths().map(|queue| (queue.queue, queue.depth, queue.limit)));
        text.family("tidings_queue_depth", "gauge", "How many wait in a bounded queue or are under way.");
        for (queue, depth, _) in &queues {
            text.sample("tidings_queue_depth", &[("queue", queue)], depth);
        }
        text.family("tidings_queue_limit", "gauge", "How many may.");
        for (queue, _, limit) in &queues {
            text.sample("tidings_queue_limit", &[("queue", queue)], limit);
        }
    }

    fn live(&self, text: &mut Text) {
        let LiveCounts { streams, sockets, answers, cut_off } = self.front.live_counts();
        let help = "Live streams and requests with lines that are open.";
        text.single("tidings_live_streams", "gauge", help, streams);
        text.single("tidings_live_sockets", "gauge", "WebSockets that are open.", sockets);
        let help = "Answers made for live streams and WebSockets since the start.";
        text.single("tidings_live_answers_total", "counter", help, answers);
        let help = "Clients cut off since the start, since they did not read.";
        text.single("tidings_live_cut_off_total", "counter", help, cut_off);
    }

    fn notices(&self, text: &mut Text) {
        let counts = self.notices.counts();
        let name = "tidings_notices_total";
        text.family(name, "counter", "Mails to owners of webhooks since the start, by outcome.");
        let of_sent = [("sent", counts.sent), ("refused", counts.refused)];
        let of_unsent = [("expired", counts.expired), ("limited", counts.limited)];
        for (outcome, count) in of_sent.into_iter().chain(of_unsent) {
            text.sample(name, &[("outcome", outcome)], count);
        }
        let help = "Mails to owners of webhooks that are still to be sent.";
        text.single("tidings_notices_waiting", "gauge", help, counts.waiting);
    }

    async fn matcher(&self, text: &mut Text) -> Result<(), ReadError> {
        let mut lag = 0;
        for shard in 0..self.log.shards() {
            let head = self.log.head(shard);
            if head > 0 {
                lag += head.saturating_sub(self.log.checkpoint(MATCHER, shard).await?.unwrap_or(0));
            }
        }
        let help = "Events behind the matcher's saved checkpoint.";
        text.single("tidings_matcher_lag_events", "gauge", help, lag);
        Ok(())
    }

    async fn projections(&self, text: &mut Text) -> Result<(), ReadError> {
        let now = self.clock.now();
        let standings = self.read_models.standings().await?;
        let (events, age) = ("tidings_projection_lag_events", "tidings_projection_lag_seconds");
        text.family(events, "gauge", "Events that a read model has not applied.");
        for name in Name::ALL {
            let own = standings.iter().filter(|standing| standing.projection == name);
            let lag: u64 = own.map(|standing| standing.head.saturating_sub(standing.applied.seq)).sum();
            text.sample(events, &[("projection", name.as_str())], lag);
        }
        text.family(age, "gauge", "Age of the oldest event that a read model has not applied.");
        for name in Name::ALL {
            let own = standings.iter().filter(|standing| standing.projection == name);
            let oldest = own.filter_map(|standing| standing.oldest_unapplied_at).min();
            let lag_ms = oldest.map_or(0, |at| now.ms_since(at));
            text.sample(age, &[("projection", name.as_str())], seconds(lag_ms * 1_000));
        }
        Ok(())
    }
}

/// Microseconds as seconds.
fn seconds(us: u64) -> String {
    format!("{}.{:06}", us / 1_000_000, us % 1_000_000)
}
