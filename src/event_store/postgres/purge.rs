//! Taking dead rows out of the table of contents.
//!
//! A deleted row stays in its page until a vacuum clears it away, and no vacuum clears away a row that a transaction may
//! still see which began before the deletion. So those are waited for first, for a while.
//!
//! What a plain vacuum clears is free space, whose bytes PostgreSQL overwrites with later rows and not before. Only a
//! vacuum that rewrites the table leaves nothing of them, and nobody appends or reads contents meanwhile. So a small table
//! is rewritten; of a large one the rows are cleared, and their bytes remain for some time. The write-ahead log, its
//! archive and replicas hold rows as long as the operator keeps those.

use std::time::Duration;

use sqlx::error::DatabaseError;
use sqlx::{PgConnection, Row};
use tokio::time::sleep;

use crate::event_store::Purged;

/// The most bytes of a table that is rewritten, its index and long values included: done within a second or two.
const MAX_REWRITTEN_BYTES: i64 = 64 * 1024 * 1024;
/// How often it is looked whether older transactions have ended.
const LOOKS: u32 = 50;
/// How long lies between two looks.
const PAUSE: Duration = Duration::from_millis(100);

const NOW: &str = "SELECT clock_timestamp()::TEXT";

/// Transactions of this database's clients that may see what was deleted before that moment.
const OLDER: &str = "SELECT COUNT(*) FROM pg_stat_activity \
     WHERE datname = current_database() AND pid <> pg_backend_pid() AND backend_type = 'client backend' \
         AND xact_start <= $1::TIMESTAMPTZ AND (backend_xmin IS NOT NULL OR backend_xid IS NOT NULL)";

const SIZE: &str = "SELECT pg_total_relation_size('content')";

/// Clears dead contents away.
pub(super) async fn purge(connection: &mut PgConnection) -> Result<Purged, sqlx::Error> {
    if !older_ones_end(connection).await? {
        return Ok(Purged::Kept);
    }
    let size: i64 = sqlx::query(SIZE).fetch_one(&mut *connection).await?.try_get(0)?;
    if size <= MAX_REWRITTEN_BYTES {
        match sqlx::query("VACUUM FULL content").execute(&mut *connection).await {
            Ok(_) => return Ok(Purged::Gone),
            // Somebody reads or writes for longer than the others should wait for it.
            Err(sqlx::Error::Database(error)) if is_locked(&*error) => return Ok(Purged::Kept),
            Err(error) => return Err(error),
        }
    }
    sqlx::query("VACUUM content").execute(connection).await?;
    Ok(Purged::Freed)
}

async fn older_ones_end(connection: &mut PgConnection) -> Result<bool, sqlx::Error> {
    let begun: String = sqlx::query(NOW).fetch_one(&mut *connection).await?.try_get(0)?;
    for _ in 0..LOOKS {
        let older: i64 = sqlx::query(OLDER).bind(&begun).fetch_one(&mut *connection).await?.try_get(0)?;
        if older == 0 {
            return Ok(true);
        }
        sleep(PAUSE).await;
    }
    Ok(false)
}

/// PostgreSQL's `lock_not_available`.
fn is_locked(error: &dyn DatabaseError) -> bool {
    error.code().is_some_and(|code| code == "55P03")
}
