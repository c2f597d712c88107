use std::borrow::Cow;

use super::*;
use crate::domain::id::EventId;
use crate::event_store::{Append, EventStore, Lifetime, MemoryStore, NewEvent, StreamWrite};

#[tokio::test]
async fn a_moment_separates_the_older_events_from_the_newer() {
    let store = MemoryStore::new(1);
    for (index, at_ms) in [10, 20, 20, 30, 50].into_iter().enumerate() {
        let event = NewEvent {
            id: EventId::from_parts(1, index as u128),
            kind: Cow::Borrowed("test"),
            schema: 1,
            at: Timestamp::from_ms(at_ms),
            data: "{}".into(),
            meta: None,
            content: None,
        };
        let first_version = index as u64 + 1;
        let write = StreamWrite { stream: "s".into(), first_version, lifetime: Lifetime::Kept, events: vec![event] };
        store.append(0, vec![Append { writes: vec![write], ..Append::default() }]).await.remove(0).unwrap();
    }
    for (moment_ms, seq) in [(0, 0), (10, 0), (11, 1), (20, 1), (21, 3), (30, 3), (31, 4), (50, 4), (51, 5), (900, 5)] {
        let found = end_before(&store, 0, Timestamp::from_ms(moment_ms)).await.unwrap();
        assert_eq!(found, Position { shard: 0, seq }, "{moment_ms}");
    }
}
