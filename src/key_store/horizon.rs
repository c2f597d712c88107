//! How far back PostgreSQL keeps what was deleted: as long as anybody may still see it.

use std::time::Duration;

use sqlx::{PgConnection, Row};
use tokio::time::sleep;

/// How often it is looked whether older transactions have ended: for longer than the ten seconds after which a standby
/// says anew what it reads.
const LOOKS: u32 = 120;
/// How long lies between two looks.
const PAUSE: Duration = Duration::from_millis(100);

/// Whatever was committed before stands before this.
const BEGUN: &str = "SELECT pg_snapshot_xmax(pg_current_snapshot())::TEXT";

/// What may see what was deleted before that transaction: other connections, those of standbys among them; prepared
/// transactions; replication slots. All of them are shown to every role, unlike the times of others' transactions.
const OLDER: &str = "SELECT \
     EXISTS (SELECT FROM pg_stat_activity WHERE pid <> pg_backend_pid() \
         AND (datname = current_database() OR datname IS NULL) \
         AND GREATEST(age(backend_xid), age(backend_xmin)) > age($1::TEXT::XID8::XID)) \
     OR EXISTS (SELECT FROM pg_prepared_xacts WHERE database = current_database() \
         AND age(transaction) > age($1::TEXT::XID8::XID)) \
     OR EXISTS (SELECT FROM pg_replication_slots WHERE age(xmin) > age($1::TEXT::XID8::XID))";

/// Waits until nobody sees any more what was deleted before; `false`: somebody still does.
///
/// # Errors
/// If the database fails.
pub async fn has_passed(connection: &mut PgConnection) -> Result<bool, sqlx::Error> {
    let begun: String = sqlx::query(BEGUN).fetch_one(&mut *connection).await?.try_get(0)?;
    for _ in 0..LOOKS {
        let older: bool = sqlx::query(OLDER).bind(&begun).fetch_one(&mut *connection).await?.try_get(0)?;
        if !older {
            return Ok(true);
        }
        sleep(PAUSE).await;
    }
    Ok(false)
}
