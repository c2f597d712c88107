//! The connections that write: a few, made as they are needed and kept.
//!
//! - Whoever takes one has it alone, and gives it back only after a success. So neither a failure nor a caller that
//!   went away leaves a half-done transaction behind: the connection is dropped, and the database rolls back.
//! - When one is lost, the others at rest are dropped too: a database that restarts costs one failed append for each
//!   that was in flight, not one for each connection.
//! - While there is no database, a connection is tried for with growing pauses, and then the append is refused: neither
//!   this nor a caller that appends again at once makes a hot loop.

use std::fmt;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use sqlx::PgConnection;
use tokio::sync::{Semaphore, SemaphorePermit};
use tokio::time::{Instant, sleep_until};

use super::Failure;
use super::open::{self, OpenError, Options};

/// For how long a connection is tried for.
const PATIENCE: Duration = Duration::from_secs(5);
/// The pause after the first failure; it doubles with each.
const FIRST_PAUSE: Duration = Duration::from_millis(50);
/// The longest pause.
const LONGEST_PAUSE: Duration = Duration::from_secs(1);

pub(super) struct Writers {
    options: Options,
    free: Semaphore,
    idle: Mutex<Vec<PgConnection>>,
}

impl fmt::Debug for Writers {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Writers").field("options", &self.options).finish_non_exhaustive()
    }
}

/// A connection, and the right to have one.
pub(super) struct Writer<'a> {
    pub(super) connection: PgConnection,
    _permit: SemaphorePermit<'a>,
}

impl Writers {
    pub(super) fn new(options: Options) -> Self {
        let connections = usize::try_from(options.write_connections.max(1)).unwrap_or(1);
        Self { options, free: Semaphore::new(connections.min(Semaphore::MAX_PERMITS)), idle: Mutex::default() }
    }

    pub(super) fn options(&self) -> &Options {
        &self.options
    }

    /// A connection, once one is free.
    pub(super) async fn take(&self) -> Result<Writer<'_>, Failure> {
        let permit = self.free.acquire().await.map_err(|_| Failure::Closed)?;
        let kept = self.idle().pop();
        let connection = match kept {
            Some(connection) => connection,
            None => self.connect().await.map_err(Failure::Unreachable)?,
        };
        Ok(Writer { connection, _permit: permit })
    }

    /// Keeps the connection for the next: nothing was left open on it.
    pub(super) fn give_back(&self, writer: Writer<'_>) {
        if !self.free.is_closed() {
            self.idle().push(writer.connection);
        }
    }

    /// Drops the connection, and those at rest, which have probably met the same.
    pub(super) fn lose(&self, writer: Writer<'_>) {
        drop(writer);
        self.idle().clear();
    }

    /// Takes no more writes; answers with the connections at rest.
    pub(super) fn close(&self) -> Vec<PgConnection> {
        self.free.close();
        std::mem::take(&mut *self.idle())
    }

    async fn connect(&self) -> Result<PgConnection, OpenError> {
        let deadline = Instant::now() + PATIENCE;
        let mut pause = FIRST_PAUSE;
        loop {
            let error = match open::connect_writer(&self.options).await {
                Ok(connection) => return Ok(connection),
                Err(error) => error,
            };
            let next = Instant::now() + pause;
            if next > deadline {
                return Err(error);
            }
            sleep_until(next).await;
            pause = LONGEST_PAUSE.min(pause * 2);
        }
    }

    fn idle(&self) -> MutexGuard<'_, Vec<PgConnection>> {
        // Nothing panics between two changes that belong together.
        self.idle.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
