//! The program's own ledger, over what the simulation brought about.

use futures_util::FutureExt;
use tidings::codec;
use tidings::domain::event::{DeliveryEvent, Event};
use tidings::domain::ledger::Counts;
use tidings::event_store::{EventReader, MemoryStore, Position, Recorded};
use tidings::execute::MATCHER;
use tidings::execute::ledger::{Books, Entry, describe};

use super::{Chance, SHARDS};

/// Nothing that matched is in no state or in two, as far as the matcher has come.
///
/// What is left of the log is enough for that, and so is all that there ever was.
pub(super) fn check(memory: &MemoryStore, all: &[Recorded]) {
    for shard in 0..SHARDS {
        let events = memory.read_log(Position { shard, seq: 0 }, usize::MAX).now_or_never().unwrap().unwrap();
        let matcher = memory.checkpoint(MATCHER, shard).now_or_never().unwrap().unwrap().unwrap_or(0);
        let floor = memory.floor(shard).now_or_never().unwrap().unwrap();
        let whole: Vec<_> = all.iter().filter(|recorded| recorded.position.shard == shard).cloned().collect();
        let (_, findings) = keep(&whole, usize::MAX, 0, matcher);
        let told: Vec<_> = findings.iter().map(|(id, finding)| describe(shard, *id, *finding)).collect();
        assert!(told.is_empty(), "of all: {told:?}");
        let (exact, findings) = keep(&events, usize::MAX, floor, matcher);
        let told: Vec<_> = findings.iter().map(|(id, finding)| describe(shard, *id, *finding)).collect();
        assert!(told.is_empty(), "of what is left: {told:?}");
        // Counted and not listed: in part skipped and in part lost is all the same then.
        let (counted, findings) = keep(&events, 2, floor, matcher);
        assert!(findings.is_empty(), "{findings:?}");
        assert_eq!(counted.matched(), exact.matched());
        assert_eq!((counted.unaccounted, counted.twice), (0, 0));
    }
}

fn keep(events: &[Recorded], listed: usize, floor: u64, matcher: u64) -> (Counts, Vec<Entry>) {
    let mut books = Books::new(listed);
    let mut findings = vec![];
    for recorded in events {
        findings.extend(books.enter(recorded, &codec::decode(recorded).unwrap(), floor));
    }
    findings.extend(books.close());
    let (counts, last) = books.assess(matcher);
    findings.extend(last);
    (counts, findings)
}

/// A log in which a delivery was lost or doubled is found out, whichever it is.
pub(super) fn tamper(events: &[Recorded], seed: u64) {
    let mut chance = Chance(seed);
    let first = |recorded: &Recorded| match codec::decode(recorded).unwrap() {
        Event::Delivery(DeliveryEvent::Scheduled(scheduled)) => scheduled.redelivery_of.is_none(),
        Event::Delivery(_) | Event::Tenant(_) | Event::Message(_) | Event::Subscription(_) => false,
    };
    let scheduled: Vec<usize> = (0..events.len()).filter(|index| first(&events[*index])).collect();
    for _ in 0..40 {
        let index = chance.of(&scheduled);
        for doubled in [false, true] {
            let mut tampered = events.to_vec();
            if doubled {
                tampered.insert(index, events[index].clone());
            } else {
                tampered.remove(index);
            }
            let shard = events[index].position.shard;
            tampered.retain(|recorded| recorded.position.shard == shard);
            let (counts, findings) = keep(&tampered, usize::MAX, 0, u64::MAX);
            assert!(counts.unaccounted + counts.twice > 0 && !findings.is_empty(), "{} {doubled}", events[index].data);
        }
    }
}
