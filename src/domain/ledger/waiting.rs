//! Matches that were not scheduled yet, in the order of the log: the first ones one by one, the others counted.

use std::collections::VecDeque;

use super::{Counts, Finding};
use crate::domain::id::MessageId;

/// Why a match is not scheduled any more.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Over {
    Skipped,
    Lost,
}

#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Waiting {
    listed: VecDeque<(u64, MessageId)>,
    /// Behind those.
    counted: Option<Counted>,
}

/// So many, somewhere between two numbers.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Counted {
    from: u64,
    through: u64,
    count: u64,
    /// Why some of them were passed over: how many those are shows when the last one has come.
    partly: Option<Over>,
}

/// Takes what is found, and of how many matches it tells.
pub(super) type Find<'a> = &'a mut dyn FnMut(Finding, u64);

impl Waiting {
    pub(super) fn push(&mut self, seq: u64, message: MessageId, listed: usize) {
        match &mut self.counted {
            Some(counted) => {
                counted.through = seq;
                counted.count += 1;
            }
            None if self.listed.len() < listed => self.listed.push_back((seq, message)),
            None => self.counted = Some(Counted { from: seq, through: seq, count: 1, partly: None }),
        }
    }

    pub(super) fn count(&self) -> u64 {
        self.listed.len() as u64 + self.counted.map_or(0, |counted| counted.count)
    }

    pub(super) fn begins_with(&self, seq: u64) -> bool {
        match (self.listed.front(), self.counted) {
            (Some((first, _)), _) => *first == seq,
            (None, Some(counted)) => (counted.from..=counted.through).contains(&seq),
            (None, None) => false,
        }
    }

    /// The match with that number is scheduled; `false` if there is none. Those in front of it were passed by.
    pub(super) fn take(&mut self, seq: u64, ended: &mut Counts, find: Find<'_>) -> bool {
        while let Some((first, _)) = self.listed.front().filter(|(first, _)| *first <= seq).copied() {
            if first == seq {
                self.listed.pop_front();
                if self.listed.is_empty() {
                    self.listed = VecDeque::new();
                }
                return true;
            }
            self.drop_through(first, find);
        }
        let Some(mut counted) = self.counted.filter(|counted| counted.from <= seq && self.listed.is_empty()) else {
            return false;
        };
        let taken = seq <= counted.through && counted.count > 0;
        if taken {
            counted.count -= 1;
            counted.from = seq + 1;
        }
        let ends = seq >= counted.through || counted.count == 0;
        self.counted = Some(counted).filter(|_| !ends);
        if ends {
            counted.settle(ended, find);
        }
        taken
    }

    /// Those up to a number are not scheduled, for a reason; says how many that is certain of.
    pub(super) fn pass_over(&mut self, through: Option<u64>, why: Over) -> u64 {
        let Some(through) = through else { return 0 };
        let before = self.count();
        self.listed.retain(|(seq, _)| *seq > through);
        if let Some(counted) = &mut self.counted
            && counted.from <= through
        {
            if counted.through <= through {
                self.counted = None;
            } else {
                counted.from = through + 1;
                counted.partly = Some(why);
            }
        }
        before - self.count()
    }

    /// Those up to a number ought to have been scheduled.
    pub(super) fn drop_through(&mut self, through: u64, find: Find<'_>) {
        while let Some((message_seq, message)) = self.listed.front().filter(|(seq, _)| *seq <= through).copied() {
            self.listed.pop_front();
            find(Finding::Unaccounted { message_seq, message }, 1);
        }
        if let Some(counted) = self.counted.filter(|counted| counted.through <= through && self.listed.is_empty()) {
            self.counted = None;
            counted.settle(&mut Counts::default(), find);
        }
    }

    /// Those up to a number are none of its concern.
    pub(super) fn forget(&mut self, through: u64) {
        self.pass_over(Some(through), Over::Lost);
    }

    /// None waits any more; says how many did.
    pub(super) fn clear(&mut self) -> u64 {
        let count = self.count();
        *self = Self::default();
        count
    }
}

impl Counted {
    /// The last one has come: the others were passed over, or are missing.
    fn settle(self, ended: &mut Counts, find: Find<'_>) {
        match self.partly {
            Some(Over::Skipped) => ended.skipped += self.count,
            Some(Over::Lost) => ended.lost += self.count,
            None if self.count > 0 => {
                find(Finding::UnaccountedMany { through: self.through, count: self.count }, self.count);
            }
            None => {}
        }
    }
}
