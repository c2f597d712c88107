//! Hints for other processes that the log has grown: `NOTIFY tidings_head, '<shard>:<number>'`.
//!
//! - Never inside an append: a transaction that notifies commits only when all others that do have committed. This is
//!   told afterwards, on a connection of its own, at most once in a while however much is appended.
//! - Lossy: what could not be told is not told. Whoever listens also asks from time to time.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use sqlx::PgConnection;
use sqlx::postgres::PgListener;
use tokio::sync::Notify;
use tokio::task::JoinHandle;
use tokio::time::{sleep, timeout};
use tracing::debug;

use super::open::{self, OpenError, Options};

/// What hints are sent under.
const CHANNEL: &str = "tidings_head";
/// The time between two hints for a shard, at least.
const PACE: Duration = Duration::from_millis(100);
/// After a failure, nothing is told for so long.
const REST: Duration = Duration::from_secs(5);

/// Tells others, until it is dropped.
#[derive(Debug)]
pub(super) struct Herald {
    news: Arc<News>,
    task: JoinHandle<()>,
}

#[derive(Debug, Default)]
struct News {
    /// Heads that are not told yet, by shard.
    heads: Mutex<BTreeMap<u16, u64>>,
    more: Notify,
}

impl News {
    fn heads(&self) -> MutexGuard<'_, BTreeMap<u16, u64>> {
        // Nothing panics between two changes that belong together.
        self.heads.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Herald {
    pub(super) fn start(options: Options) -> Self {
        let news = Arc::new(News::default());
        Self { task: tokio::spawn(run(options, Arc::clone(&news))), news }
    }

    /// The shard has been appended to. Waits for nothing.
    pub(super) fn tell(&self, shard: u16, head: u64) {
        let mut heads = self.news.heads();
        let known = heads.entry(shard).or_default();
        *known = head.max(*known);
        drop(heads);
        self.news.more.notify_one();
    }

    /// Tells nothing more, and lets go of its connection.
    pub(super) fn close(&self) {
        self.task.abort();
    }
}

impl Drop for Herald {
    fn drop(&mut self) {
        self.close();
    }
}

async fn run(options: Options, news: Arc<News>) {
    let mut connection = None;
    loop {
        news.more.notified().await;
        let heads = std::mem::take(&mut *news.heads());
        let pause = match tell(&options, &mut connection, heads).await {
            Ok(()) => PACE,
            Err(error) => {
                debug!(error = &error as &dyn std::error::Error, "other processes are not told that the log has grown");
                connection = None;
                REST
            }
        };
        sleep(pause).await;
    }
}

async fn tell(
    options: &Options,
    connection: &mut Option<PgConnection>,
    heads: BTreeMap<u16, u64>,
) -> Result<(), OpenError> {
    let connected = match connection.take() {
        Some(connected) => connected,
        None => open::connect_herald(options).await?,
    };
    let connected = connection.insert(connected);
    let hints: Vec<String> = heads.into_iter().map(|(shard, head)| format!("{shard}:{head}")).collect();
    let query = sqlx::query("SELECT pg_notify($1, hint) FROM unnest($2::TEXT[]) AS hint").bind(CHANNEL).bind(hints);
    timeout(REST, query.execute(connected)).await.map_err(|_| OpenError::Silent)??;
    Ok(())
}

/// One who waits for hints.
pub(super) struct Listener(PgListener);

impl Listener {
    pub(super) async fn open(options: &Options) -> Result<Self, sqlx::Error> {
        let mut listener = PgListener::connect_with(&open::listener(options)).await?;
        listener.listen(CHANNEL).await?;
        Ok(Self(listener))
    }

    /// Waits for the next hint; those that have come meanwhile are one with it.
    pub(super) async fn next(&mut self) -> Result<(), sqlx::Error> {
        self.0.recv().await?;
        while self.0.next_buffered().is_some() {}
        Ok(())
    }
}
