//! Taking dead rows out of the table of contents.
//!
//! A deleted row stays in its page until a vacuum clears it away, and no vacuum clears away a row that a transaction may
//! still see which began before the deletion, here or on a standby that says so. So those are waited for first, for a
//! while.
//!
//! What a plain vacuum clears is free space, whose bytes PostgreSQL overwrites with later rows and not before. Only a
//! vacuum that rewrites the table leaves nothing of them, and nobody appends or reads contents meanwhile. So a small table
//! is rewritten; of a large one the rows are cleared, and their bytes remain for some time. The write-ahead log, its
//! archive and replicas hold rows as long as the operator keeps those.

use sqlx::error::DatabaseError;
use sqlx::{PgConnection, Row};

use crate::event_store::Purged;
use crate::key_store::horizon;

/// The most bytes of a table that is rewritten, its index and long values included: done within a second or two.
const MAX_REWRITTEN_BYTES: i64 = 64 * 1024 * 1024;
const SIZE: &str = "SELECT pg_total_relation_size('content')";

/// Clears dead contents away.
pub(super) async fn purge(connection: &mut PgConnection) -> Result<Purged, sqlx::Error> {
    if !horizon::has_passed(connection).await? {
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

/// PostgreSQL's `lock_not_available`.
fn is_locked(error: &dyn DatabaseError) -> bool {
    error.code().is_some_and(|code| code == "55P03")
}
