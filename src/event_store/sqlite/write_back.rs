//! Moves committed pages from the write-ahead log to the main file, beside the connection that writes.
//!
//! SQLite would do it inside a commit, which then takes ten times as long, and with it everybody who waits for it. Here a
//! connection of its own does it some twenty times a second while something is committed, a little each time: whoever
//! syncs a commit meanwhile stands in line behind those pages. The writer still does it once the log has grown past
//! [`super::open::WAL_CHECKPOINT_PAGES`]: then most is moved already, and the log starts over.

use std::sync::Arc;
use std::time::Duration;

use sqlx::{Connection, SqliteConnection};
use tokio::sync::{Mutex, Notify};
use tokio::task::JoinHandle;
use tracing::debug;

use super::open::{self, Options};

/// How long commits gather before they are moved.
const EVERY: Duration = Duration::from_millis(50);

/// The task, and how to speak to it. It ends when this is dropped.
#[derive(Debug)]
pub(super) struct WriteBack {
    committed: Arc<Notify>,
    /// Held while pages are moved: SQLite refuses a second one who wants to.
    connection: Arc<Mutex<Option<SqliteConnection>>>,
    task: JoinHandle<()>,
}

impl WriteBack {
    pub(super) fn start(options: Options) -> Self {
        let committed = Arc::new(Notify::new());
        let connection = Arc::new(Mutex::new(None));
        let task = tokio::spawn(run(options, Arc::clone(&committed), Arc::clone(&connection)));
        Self { committed, connection, task }
    }

    /// There is something to move.
    pub(super) fn committed(&self) {
        self.committed.notify_one();
    }

    /// Nothing is moved while the answer is held.
    pub(super) async fn pause(&self) -> impl Drop {
        Arc::clone(&self.connection).lock_owned().await
    }

    /// Ends the task and its connection.
    pub(super) async fn close(self) {
        self.task.abort();
        if let Some(connection) = self.connection.lock().await.take()
            && let Err(error) = connection.close().await
        {
            debug!("the connection that moves pages was closed with an error: {error}");
        }
    }
}

impl Drop for WriteBack {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn run(options: Options, committed: Arc<Notify>, kept: Arc<Mutex<Option<SqliteConnection>>>) {
    loop {
        committed.notified().await;
        tokio::time::sleep(EVERY).await;
        let mut kept = kept.lock().await;
        // What fails here, the writer tells when its turn comes.
        match pass(&options, kept.take()).await {
            Ok(connection) => *kept = Some(connection),
            Err(error) => debug!("pages stay in the write-ahead log for now: {error}"),
        }
    }
}

/// `PASSIVE`: waits for nobody, and nobody for it.
async fn pass(options: &Options, kept: Option<SqliteConnection>) -> Result<SqliteConnection, sqlx::Error> {
    let mut connection = match kept {
        Some(connection) => connection,
        None => open::connect_beside_writer(options).await?,
    };
    sqlx::query("PRAGMA wal_checkpoint(PASSIVE)").execute(&mut connection).await?;
    Ok(connection)
}
