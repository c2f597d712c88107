//! Which appends of a batch can be written, decided before a row is touched.
//!
//! Pure: a database looks up what the batch refers to, asks here, and stores what was accepted. So a conflict costs
//! its neighbours nothing, no savepoint is needed, and the rules stand in one place. The lookups and the writing
//! share one transaction that excludes other writers; a unique constraint stays behind as the safety net.

use std::collections::HashMap;

use super::{Append, AppendError, Claim, StreamWrite};
use crate::domain::id::EventId;

/// What the log already holds of what a batch refers to.
pub(super) struct Known<'a> {
    /// Last version of every stream that the batch writes to; 0 for a new one.
    pub(super) heads: HashMap<&'a str, u64>,
    /// Id and `seq` of those events that stand where the batch wants to write.
    pub(super) recorded: HashMap<(&'a str, u64), (EventId, u64)>,
    /// The values of those claims of the batch that are taken.
    pub(super) claims: HashMap<String, String>,
}

/// A `seq` before the batch is numbered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Place {
    /// Stored by an earlier batch.
    At(u64),
    /// That many events behind the head that the batch finds.
    New(u64),
}

impl Place {
    /// The `seq`, once the head that the batch found is known.
    pub(super) fn seq(self, head_before: u64) -> u64 {
        match self {
            Self::At(seq) => seq,
            Self::New(count) => head_before + count,
        }
    }
}

/// What becomes of one append.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    /// It is written; its last event stands here.
    Write(Place),
    /// It was written before; its last event stands here.
    Repeated(Place),
    /// It cannot be written.
    Refuse(AppendError),
}

/// What becomes of a batch.
pub(super) struct Plan {
    /// In the order of the appends.
    pub(super) verdicts: Vec<Verdict>,
    /// How many events are written.
    pub(super) new_events: u64,
}

/// Judges the appends in their order, each against those accepted before it.
pub(super) fn plan<'a>(batch: &'a [Append], known: Known<'a>) -> Plan {
    let mut planner = Planner { batch, known, claimed: HashMap::new(), accepted: Vec::new(), new_events: 0 };
    let verdicts = batch.iter().enumerate().map(|(index, append)| planner.judge(index, append)).collect();
    Plan { verdicts, new_events: planner.new_events }
}

struct Planner<'a> {
    batch: &'a [Append],
    known: Known<'a>,
    /// Claims taken by this batch.
    claimed: HashMap<&'a str, &'a str>,
    /// Which appends are written, and how many events of the batch stand before each.
    accepted: Vec<(usize, u64)>,
    new_events: u64,
}

impl<'a> Planner<'a> {
    fn judge(&mut self, index: usize, append: &'a Append) -> Verdict {
        if let Some(write) = self.unfit_write(append) {
            return match self.place_of_repeated(append) {
                Some(place) => Verdict::Repeated(place),
                None => Verdict::Refuse(AppendError::Conflict {
                    stream: write.stream.clone(),
                    expected: write.first_version,
                }),
            };
        }
        if let Some(claim) = self.taken_claim(append) {
            return if self.repeats_claims(append) {
                Verdict::Repeated(Place::New(self.new_events))
            } else {
                Verdict::Refuse(AppendError::ClaimTaken { key: claim.key.clone() })
            };
        }
        self.accept(index, append)
    }

    fn accept(&mut self, index: usize, append: &'a Append) -> Verdict {
        self.accepted.push((index, self.new_events));
        for write in &append.writes {
            let count = write.events.len() as u64;
            self.new_events += count;
            *self.known.heads.entry(&write.stream).or_default() += count;
        }
        self.claimed.extend(append.claims.iter().map(|claim| (claim.key.as_str(), claim.value.as_str())));
        Verdict::Write(Place::New(self.new_events))
    }

    /// The first write that does not continue its stream, or names a stream for the second time.
    fn unfit_write(&self, append: &'a Append) -> Option<&'a StreamWrite> {
        append.writes.iter().enumerate().map(|(index, write)| (write, &append.writes[..index])).find_map(
            |(write, before)| {
                let continues = self.head(&write.stream) + 1 == write.first_version;
                let once = before.iter().all(|other| other.stream != write.stream);
                (!continues || !once).then_some(write)
            },
        )
    }

    fn head(&self, stream: &str) -> u64 {
        self.known.heads.get(stream).copied().unwrap_or(0)
    }

    /// The first claim that somebody holds, or that the append names for the second time.
    fn taken_claim(&self, append: &'a Append) -> Option<&'a Claim> {
        append.claims.iter().enumerate().map(|(index, claim)| (claim, &append.claims[..index])).find_map(
            |(claim, before)| {
                let held = self.claim_value(&claim.key).is_some();
                (held || before.iter().any(|other| other.key == claim.key)).then_some(claim)
            },
        )
    }

    fn claim_value(&self, key: &str) -> Option<&str> {
        self.known.claims.get(key).map(String::as_str).or_else(|| self.claimed.get(key).copied())
    }

    /// Where an append stands that is in the log as a whole, event for event; `None` if any of it is not.
    fn place_of_repeated(&self, append: &Append) -> Option<Place> {
        let mut last = None;
        for write in &append.writes {
            for (version, event) in (write.first_version..).zip(&write.events) {
                let (id, place) = self.recorded(&write.stream, version)?;
                if id != event.id {
                    return None;
                }
                last = Some(place);
            }
        }
        last
    }

    /// Without events nothing but the values can tell a repeated append from another.
    fn repeats_claims(&self, append: &Append) -> bool {
        append.writes.iter().all(|write| write.events.is_empty())
            && append.claims.iter().all(|claim| self.claim_value(&claim.key) == Some(&claim.value))
    }

    /// The event at that version, in the log or earlier in this batch.
    fn recorded(&self, stream: &str, version: u64) -> Option<(EventId, Place)> {
        if let Some((id, seq)) = self.known.recorded.get(&(stream, version)) {
            return Some((*id, Place::At(*seq)));
        }
        // Searched, not indexed: an append repeated within one batch is rare, and an index would cost every event.
        self.accepted.iter().find_map(|&(index, before)| {
            let mut count = before;
            for write in &self.batch[index].writes {
                let offset = version.checked_sub(write.first_version).and_then(|offset| usize::try_from(offset).ok());
                if write.stream == stream
                    && let Some((offset, event)) = offset.and_then(|at| write.events.get(at).map(|event| (at, event)))
                {
                    return Some((event.id, Place::New(count + offset as u64 + 1)));
                }
                count += write.events.len() as u64;
            }
            None
        })
    }
}
