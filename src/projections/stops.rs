//! Where projections stopped, remembered in the file until they go on: a restart shows it before it has tried again.

use sqlx::SqliteConnection;

use super::columns::{Columns, integer};
use super::progress::{StopClass, Stopped};
use super::projection::Name;
use crate::event_store::Position;

/// Remembers it, in the place of an older one.
pub(super) async fn remember(connection: &mut SqliteConnection, stopped: &Stopped) -> Result<(), sqlx::Error> {
    let query = sqlx::query(
        "INSERT OR REPLACE INTO stop (projection, shard, seq, class, event_type, reason) \
         VALUES ($1, $2, $3, $4, $5, $6)",
    );
    query
        .bind(stopped.projection.as_str())
        .bind(i64::from(stopped.position.shard))
        .bind(integer(stopped.position.seq))
        .bind(stopped.class.as_str())
        .bind(&stopped.event_type)
        .bind(&stopped.reason)
        .execute(connection)
        .await?;
    Ok(())
}

/// Forgets it: the projection goes on.
pub(super) async fn forget(connection: &mut SqliteConnection, name: Name, shard: u16) -> Result<(), sqlx::Error> {
    let query = sqlx::query("DELETE FROM stop WHERE projection = $1 AND shard = $2");
    query.bind(name.as_str()).bind(i64::from(shard)).execute(connection).await?;
    Ok(())
}

/// All that are remembered.
pub(super) async fn all(connection: &mut SqliteConnection) -> Result<Vec<Stopped>, sqlx::Error> {
    let query = sqlx::query("SELECT projection, shard, seq, class, event_type, reason FROM stop");
    let mut found = Vec::new();
    for row in query.fetch_all(connection).await? {
        let mut columns = Columns::of(&row);
        let projection = Name::parse(columns.get()?);
        let position = Position { shard: columns.number()?, seq: columns.number()? };
        let class = StopClass::parse(columns.get()?);
        let (event_type, reason) = (columns.get()?, columns.get()?);
        // What another program wrote says nothing of this one.
        if let (Some(projection), Some(class)) = (projection, class) {
            found.push(Stopped { projection, position, class, event_type, reason });
        }
    }
    Ok(found)
}
