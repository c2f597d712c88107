//! Recorded events: whatever stands in a row, of whatever type and version, is read or refused, and never panics.
//!
//! The first line of the input is the type, the second the version, the rest the payload.
#![no_main]

use libfuzzer_sys::fuzz_target;
use tidings::codec;
use tidings::domain::id::EventId;
use tidings::domain::time::Timestamp;
use tidings::event_store::{Position, Recorded};

fuzz_target!(|text: &str| {
    let mut lines = text.splitn(3, '\n');
    let (Some(kind), Some(schema), Some(data)) = (lines.next(), lines.next(), lines.next()) else { return };
    let Ok(schema) = schema.parse() else { return };
    let recorded = Recorded {
        position: Position { shard: 0, seq: 1 },
        stream: "fuzz-1".into(),
        version: 1,
        id: EventId::from_parts(1, 1),
        kind: kind.to_owned().into(),
        schema,
        at: Timestamp::from_ms(1_763_894_415_000),
        data: data.to_owned(),
        meta: None,
    };
    if let Ok(event) = codec::decode(&recorded) {
        assert!(codec::knows(kind), "{kind}");
        drop(format!("{event:?}"));
    }
});
