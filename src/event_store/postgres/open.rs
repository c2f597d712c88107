//! Connecting to the database: settings that are read back before they are relied on, and taking over the shards.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use sqlx::postgres::{PgConnectOptions, PgPool, PgPoolOptions};
use sqlx::{AssertSqlSafe, ConnectOptions, Connection, PgConnection, Row};
use tokio::time::{Instant, sleep, timeout};
use tracing::{info, warn};

use super::MIGRATOR;
use crate::event_store::row::number;

/// How long making a connection may take.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// The pause after the first failure to open; it doubles with each.
const FIRST_PAUSE: Duration = Duration::from_millis(100);
/// The longest pause.
const LONGEST_PAUSE: Duration = Duration::from_secs(2);
/// How long a reader waits for a free or a new connection.
const ACQUIRE_TIMEOUT: Duration = Duration::from_secs(5);
/// After how much rest a reading connection is tried before it is used.
const TRY_AFTER_REST: Duration = Duration::from_secs(1);

/// What holds for every connection.
///
/// - A statement that appends to a shard waits for nobody but that shard's own; only a take-over, or an append whose
///   connection was lost, is ever in its way.
/// - All questions go by an index, and plans are made once for a connection: without statistics, as in a new
///   database, the planner would otherwise choose a scan and keep to it (`plans.rs` pins the plans).
const SHARED: [(&str, &str); 10] = [
    ("synchronous_commit", "on"),
    ("default_transaction_isolation", "read committed"),
    ("plan_cache_mode", "force_generic_plan"),
    ("enable_seqscan", "off"),
    ("enable_bitmapscan", "off"),
    ("enable_hashjoin", "off"),
    ("enable_mergejoin", "off"),
    // The partitions of a bucket each are merged as they stand in their indexes.
    ("enable_sort", "off"),
    ("jit", "off"),
    // Finds out that the peer is gone, and keeps a quiet connection alive in the tables of the firewalls between.
    ("tcp_keepalives_idle", "60"),
];
/// For bringing tables up to date, which takes as long as it takes, and for taking over shards, which waits for what
/// is in flight on them.
const OPENER: [(&str, &str); 2] = [("statement_timeout", "0"), ("lock_timeout", "30s")];
const WRITER: [(&str, &str); 3] =
    [("statement_timeout", "10s"), ("lock_timeout", "5s"), ("idle_in_transaction_session_timeout", "10s")];
const READER: [(&str, &str); 2] = [("statement_timeout", "30s"), ("default_transaction_read_only", "on")];

/// For dropping a bucket. A wait that ends hinders nobody who appends or reads, and is longer than the database leaves a
/// table to its own cleaning (`deadlock_timeout`, a second), which it ends for whoever still waits then.
const DROPPER: [(&str, &str); 2] = [("statement_timeout", "30s"), ("lock_timeout", "2s")];

/// A vacuum reads the table's pages; one that rewrites it keeps appends waiting, and is kept short by the table's size.
const PURGER: [(&str, &str); 2] = [("statement_timeout", "10min"), ("lock_timeout", "2s")];

/// For hints to other processes.
const HERALD: [(&str, &str); 2] = [("statement_timeout", "5s"), ("synchronous_commit", "off")];

/// What the database must say of itself: a commit is on disk when it is answered, and text is what it was.
const PROMISES: [(&str, &str); 4] = [
    ("synchronous_commit", "on"),
    ("fsync", "on"),
    ("default_transaction_isolation", "read committed"),
    ("server_encoding", "UTF8"),
];

/// Where the database is and how much it may take.
#[derive(Clone)]
pub struct Options {
    connect: PgConnectOptions,
    /// How many shards a new store is given, from 1; an existing one must have as many.
    pub shards: u16,
    /// How many reads run at once, from 1.
    pub read_connections: u32,
    /// How many shards are written at once, from 1.
    pub write_connections: u32,
    /// For how long opening tries to reach a database that does not accept connections yet.
    pub patience: Duration,
}

impl Options {
    /// The database at `postgres://user:password@host:port/database`: 64 shards, written by four connections and read
    /// by eight; waited for half a minute.
    pub fn at(url: &str) -> Result<Self, OpenError> {
        let connect = PgConnectOptions::from_str(url)?.application_name("tidings").disable_statement_logging();
        Ok(Self { connect, shards: 64, read_connections: 8, write_connections: 4, patience: Duration::from_secs(30) })
    }

    /// The database by its name and its server, for people.
    pub fn place(&self) -> String {
        let database = self.connect.get_database().unwrap_or(self.connect.get_username());
        format!("'{database}' at {}:{}", self.connect.get_host(), self.connect.get_port())
    }

    fn with(&self, settings: &[(&str, &str)]) -> PgConnectOptions {
        self.connect.clone().options(SHARED).options(settings.iter().copied())
    }
}

/// Without the password.
impl fmt::Debug for Options {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Options")
            .field("host", &self.connect.get_host())
            .field("port", &self.connect.get_port())
            .field("database", &self.connect.get_database())
            .field("shards", &self.shards)
            .field("read_connections", &self.read_connections)
            .field("write_connections", &self.write_connections)
            .finish_non_exhaustive()
    }
}

/// Why the database was not opened.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// A setting that the log relies on is another.
    #[error("the database setting '{name}' is {found} and must be {wanted}")]
    Setting {
        /// The name of the setting.
        name: &'static str,
        /// What it must be.
        wanted: &'static str,
        /// What it is.
        found: String,
    },
    /// The number of shards is fixed when the store is made.
    #[error("the database has {found} shards, and database.shards asks for {wanted}")]
    Shards {
        /// How many the options name.
        wanted: u16,
        /// How many there are.
        found: usize,
    },
    /// The database did not answer in time.
    #[error("the database did not accept a connection within {} s", CONNECT_TIMEOUT.as_secs())]
    Silent,
    /// The server offers no TLS although `sslmode` asks for it, or its certificate is not to be trusted.
    #[error("the database cannot be reached with TLS as sslmode asks for it")]
    Tls(#[source] sqlx::Error),
    /// The tables could not be brought up to date, or belong to a newer program.
    #[error("the tables of the database cannot be brought up to date")]
    Migrate(#[from] sqlx::migrate::MigrateError),
    /// The tables were not made by this program, or by another version of it; and in what they differ.
    #[error("the tables of the database are not those that this program reads: {0}")]
    Tables(String),
    /// PostgreSQL failed, or could not be reached.
    #[error("the database cannot be opened")]
    Database(#[from] sqlx::Error),
}

/// A shard as it was found by its new owner.
#[derive(Clone, Copy, Debug)]
pub(super) struct Owned {
    /// The epoch that is the owner's own.
    pub(super) epoch: u64,
    /// How many appends the shard has had.
    pub(super) turn: u64,
}

/// Brings the tables up to date and takes over every shard, by raising its epoch. A database that is only starting is
/// waited for.
pub(super) async fn take_over(options: &Options) -> Result<Vec<Owned>, OpenError> {
    let mut connection = connect_patiently(options).await?;
    // `run` does the same, but its future cannot be proven `Send`.
    MIGRATOR.run_direct(None, &mut connection, false).await?;
    let mut transaction = connection.begin().await?;
    sqlx::query(MAKE_SHARDS).bind(i32::from(options.shards.max(1))).execute(&mut *transaction).await?;
    let rows = sqlx::query(RAISE_EPOCHS).fetch_all(&mut *transaction).await?;
    if rows.len() != usize::from(options.shards.max(1)) {
        return Err(OpenError::Shards { wanted: options.shards, found: rows.len() });
    }
    let mut owned = vec![Owned { epoch: 0, turn: 0 }; rows.len()];
    for row in &rows {
        let shard: i32 = row.try_get(0)?;
        let place = usize::try_from(shard).ok().and_then(|shard| owned.get_mut(shard));
        let place = place.ok_or(OpenError::Shards { wanted: options.shards, found: rows.len() })?;
        *place = Owned { epoch: number(row.try_get(1)?), turn: number(row.try_get(2)?) };
    }
    transaction.commit().await?;
    connection.close().await?;
    Ok(owned)
}

async fn connect_patiently(options: &Options) -> Result<PgConnection, OpenError> {
    let deadline = Instant::now() + options.patience;
    let mut pause = FIRST_PAUSE;
    let mut waited = false;
    loop {
        let error = match connect(options, &OPENER).await {
            Ok(connection) => {
                if waited {
                    info!("the database {} accepts connections now", options.place());
                }
                return Ok(connection);
            }
            Err(error) => error,
        };
        if !error.may_pass() || Instant::now() + pause > deadline {
            return Err(error);
        }
        if !waited {
            let patience_s = options.patience.as_secs();
            let cause = &error as &dyn std::error::Error;
            warn!(error = cause, "waiting up to {patience_s} s for the database {}", options.place());
        }
        waited = true;
        sleep(pause).await;
        pause = LONGEST_PAUSE.min(pause * 2);
    }
}

impl OpenError {
    /// Whether the same may succeed a little later without anybody doing anything.
    fn may_pass(&self) -> bool {
        match self {
            // A connection that is cut before the first answer looks like an answer that nobody understands.
            Self::Silent | Self::Database(sqlx::Error::Io(_) | sqlx::Error::Protocol(_)) => true,
            // It starts, stops, or has no connection left.
            Self::Database(sqlx::Error::Database(error)) => {
                error.code().is_some_and(|code| matches!(&*code, "57P01" | "57P02" | "57P03" | "53300"))
            }
            Self::Database(_) | Self::Tls(_) => false,
            Self::Setting { .. } | Self::Shards { .. } | Self::Migrate(_) | Self::Tables(_) => false,
        }
    }
}

const MAKE_SHARDS: &str = "INSERT INTO shard (shard, epoch, head, turn, floor) \
     SELECT number, 0, 0, 0, 0 FROM generate_series(0, $1 - 1) AS number WHERE NOT EXISTS (SELECT FROM shard) \
     ON CONFLICT (shard) DO NOTHING";

/// In the order of the shards, so that two who take over at once wait for each other in turn.
const RAISE_EPOCHS: &str = "WITH locked AS (SELECT shard FROM shard ORDER BY shard FOR NO KEY UPDATE) \
     UPDATE shard SET epoch = shard.epoch + 1 FROM locked WHERE shard.shard = locked.shard \
     RETURNING shard.shard, shard.epoch, shard.turn";

/// A connection that writes.
pub(super) async fn connect_writer(options: &Options) -> Result<PgConnection, OpenError> {
    connect(options, &WRITER).await
}

/// One connection that reads.
pub(super) async fn connect_reader(options: &Options) -> Result<PgConnection, OpenError> {
    connect(options, &READER).await
}

/// A connection that tells others of new events: nothing of it has to last, so it waits for no disk.
pub(super) async fn connect_herald(options: &Options) -> Result<PgConnection, OpenError> {
    let connect = options.with(&HERALD);
    Ok(timeout(CONNECT_TIMEOUT, connect.connect()).await.map_err(|_| OpenError::Silent)??)
}

/// The one connection of somebody who listens.
pub(super) fn listener(options: &Options) -> PgPool {
    let pool = PgPoolOptions::new().max_connections(1).acquire_timeout(ACQUIRE_TIMEOUT).idle_timeout(None);
    pool.max_lifetime(None).connect_lazy_with(options.with(&READER))
}

/// A connection that drops buckets.
pub(super) async fn connect_dropper(options: &Options) -> Result<PgConnection, OpenError> {
    connect(options, &DROPPER).await
}

/// A connection that purges.
pub(super) async fn connect_purger(options: &Options) -> Result<PgConnection, OpenError> {
    connect(options, &PURGER).await
}

/// The connections that read; they cannot write. They are made as they are needed.
pub(super) fn readers(options: &Options) -> PgPool {
    PgPoolOptions::new()
        .max_connections(options.read_connections.max(1))
        .acquire_timeout(ACQUIRE_TIMEOUT)
        .test_before_acquire(false)
        .before_acquire(|connection, meta| {
            Box::pin(async move {
                if meta.idle_for >= TRY_AFTER_REST {
                    connection.ping().await?;
                }
                Ok(true)
            })
        })
        .idle_timeout(None)
        .max_lifetime(None)
        .connect_lazy_with(options.with(&READER))
}

async fn connect(options: &Options, settings: &[(&str, &str)]) -> Result<PgConnection, OpenError> {
    let connecting = async {
        let tls = |error: &sqlx::Error| matches!(error, sqlx::Error::Tls(_));
        let refused = |error| if tls(&error) { OpenError::Tls(error) } else { OpenError::Database(error) };
        let mut connection = options.with(settings).connect().await.map_err(refused)?;
        must_keep_promises(&mut connection).await?;
        Ok(connection)
    };
    timeout(CONNECT_TIMEOUT, connecting).await.unwrap_or(Err(OpenError::Silent))
}

async fn must_keep_promises(connection: &mut PgConnection) -> Result<(), OpenError> {
    for (name, wanted) in PROMISES {
        // The name is one of the literals above.
        let sql = AssertSqlSafe(format!("SHOW {name}"));
        let found: String = sqlx::query_scalar(sql).persistent(false).fetch_one(&mut *connection).await?;
        if found != wanted {
            return Err(OpenError::Setting { name, wanted, found });
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_password_is_not_shown() {
        let options = Options::at("postgres://tidings:swordfish@db.internal:5433/log").unwrap();
        let shown = format!("{options:?}");
        assert!(!shown.contains("swordfish"), "{shown}");
        assert!(shown.contains("db.internal") && shown.contains("5433"), "{shown}");
    }
}
