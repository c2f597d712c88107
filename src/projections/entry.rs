//! What stands in the log, whether it can be read or not.

use std::sync::Arc;

use futures_util::future::BoxFuture;

use crate::domain::id::EventId;
use crate::event_store::{Position, ReadError, Recorded};
use crate::execute::Unreadable;

/// A place of the log.
#[derive(Clone, Debug)]
pub(super) enum Entry {
    /// A row that has the form of an event; whether its payload can be read, the codec says.
    Event(Arc<Recorded>),
    /// A row that says in which stream it stands, and nothing else that could be relied on.
    Unreadable(Unreadable),
}

impl Entry {
    pub(super) fn position(&self) -> Position {
        match self {
            Self::Event(recorded) => recorded.position,
            Self::Unreadable(event) => event.position,
        }
    }

    pub(super) fn stream(&self) -> &str {
        match self {
            Self::Event(recorded) => &recorded.stream,
            Self::Unreadable(event) => &event.stream,
        }
    }

    /// `None` if that cannot be read.
    pub(super) fn id(&self) -> Option<EventId> {
        match self {
            Self::Event(recorded) => Some(recorded.id),
            Self::Unreadable(_) => None,
        }
    }
}

/// What stands in the log at the next places, at most `limit`: as many as `read` finds in front of a row that cannot be
/// read, or that row alone. Fails at a row that does not say in which stream it stands: it may concern anybody.
pub(super) async fn page<'a, T: Into<Arc<Recorded>>>(
    limit: usize,
    read: impl Fn(usize) -> BoxFuture<'a, Result<Vec<T>, ReadError>>,
) -> Result<Vec<Entry>, ReadError> {
    let mut count = limit;
    loop {
        let error = match read(count).await {
            Ok(events) => return Ok(events.into_iter().map(|event| Entry::Event(event.into())).collect()),
            Err(error) => error,
        };
        let Some(event) = Unreadable::of_read(&error) else { return Err(error) };
        if count <= 1 {
            return Ok(vec![Entry::Unreadable(event)]);
        }
        count /= 2;
    }
}

/// Fails if a number above the floor is missing in front of a row that cannot be read; `entries` are the next behind
/// `after`. In front of all others whoever read them has looked.
pub(super) fn without_hole(after: Position, floor: u64, entries: &[Entry]) -> Result<(), ReadError> {
    let Some(Entry::Unreadable(Unreadable { position, .. })) = entries.first() else { return Ok(()) };
    let owed = Position { seq: after.seq.max(floor).saturating_add(1), ..after };
    if position.seq > owed.seq {
        let reason = format!("it is missing before {position}");
        return Err(ReadError::Damaged { position: owed, stream: None, reason });
    }
    Ok(())
}
