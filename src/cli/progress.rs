//! How far a command is: one line that is written over on a terminal, a line for each tenth elsewhere.

use std::io::{self, IsTerminal, Write};
use std::sync::atomic::{AtomicU64, Ordering};

/// Nothing was told yet.
const NOTHING: u64 = u64::MAX;

/// Told on standard error, so that standard output holds nothing but the answer.
pub(super) struct Progress {
    doing: &'static str,
    terminal: bool,
    /// Percent that were told.
    told: AtomicU64,
}

impl Progress {
    /// `doing` says what, as in "rebuilding".
    pub(super) fn new(doing: &'static str) -> Self {
        Self { doing, terminal: io::stderr().is_terminal(), told: AtomicU64::new(NOTHING) }
    }

    /// So many of so many events are done; another round may begin with fewer. Nobody is left to tell if standard error
    /// is gone.
    pub(super) fn tell(&self, done: u64, total: u64) {
        let percent = (done * 100).checked_div(total).unwrap_or(100);
        let step = if self.terminal { 1 } else { 10 };
        let told = self.told.load(Ordering::Relaxed);
        if told != NOTHING && (told..told + step).contains(&percent) {
            return;
        }
        self.told.store(percent, Ordering::Relaxed);
        let (start, end) = if self.terminal { ("\r", "") } else { ("", "\n") };
        drop(write!(io::stderr(), "{start}{}: {done} of {total} events ({percent} %){end}", self.doing));
    }

    /// Leaves the line.
    pub(super) fn end(&self) {
        if self.terminal && self.told.load(Ordering::Relaxed) != NOTHING {
            drop(writeln!(io::stderr()));
        }
    }
}
