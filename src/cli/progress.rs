//! How far a command is: a bar on a terminal, a line for each tenth elsewhere.

use std::io::{self, IsTerminal, Write};
use std::sync::atomic::{AtomicU64, Ordering};

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

/// Nothing was told yet.
const NOTHING: u64 = u64::MAX;
/// A line is told for so many percent more.
const STEP_PERCENT: u64 = 10;

/// Told on standard error, so that standard output holds nothing but the answer.
pub(super) struct Progress {
    doing: &'static str,
    form: Form,
}

enum Form {
    Bar(ProgressBar),
    Lines {
        /// Percent that were told.
        told: AtomicU64,
    },
}

impl Progress {
    /// `doing` says what, as in "rebuilding".
    pub(super) fn new(doing: &'static str) -> Self {
        let form = match io::stderr().is_terminal() {
            true => Form::Bar(bar(doing, ProgressDrawTarget::stderr())),
            false => Form::Lines { told: AtomicU64::new(NOTHING) },
        };
        Self { doing, form }
    }

    /// So many of so many events are done; another round may begin with fewer.
    pub(super) fn tell(&self, done: u64, total: u64) {
        match &self.form {
            Form::Bar(bar) => {
                bar.set_length(total);
                bar.set_position(done);
            }
            Form::Lines { told } => {
                if let Some(line) = next_line(self.doing, told, done, total) {
                    // Nobody is left to tell if standard error is gone.
                    drop(writeln!(io::stderr(), "{line}"));
                }
            }
        }
    }

    /// Leaves the bar as it stands.
    pub(super) fn end(&self) {
        match &self.form {
            Form::Bar(bar) => bar.abandon(),
            Form::Lines { .. } => {}
        }
    }
}

fn bar(doing: &'static str, target: ProgressDrawTarget) -> ProgressBar {
    let style = ProgressStyle::with_template("{msg} [{bar:30}] {percent} %, {pos} of {len} events, {eta} left");
    let style = style.expect("the template is a literal that a test draws").progress_chars("=> ");
    ProgressBar::with_draw_target(Some(0), target).with_style(style).with_message(doing)
}

/// The line to tell, if another tenth is done.
fn next_line(doing: &str, told: &AtomicU64, done: u64, total: u64) -> Option<String> {
    let percent = (done * 100).checked_div(total).unwrap_or(100);
    let before = told.load(Ordering::Relaxed);
    if before != NOTHING && (before..before + STEP_PERCENT).contains(&percent) {
        return None;
    }
    told.store(percent, Ordering::Relaxed);
    Some(format!("{doing}: {done} of {total} events ({percent} %)"))
}

#[cfg(test)]
mod tests {
    use indicatif::InMemoryTerm;

    use super::*;

    #[test]
    fn a_terminal_shows_a_bar_that_stays_when_all_is_done() {
        let terminal = InMemoryTerm::new(3, 100);
        let drawn = bar("rebuilding", ProgressDrawTarget::term_like(Box::new(terminal.clone())));
        let progress = Progress { doing: "rebuilding", form: Form::Bar(drawn) };
        progress.tell(500, 1_000);
        progress.tell(1_000, 1_000);
        progress.end();
        let shown = terminal.contents();
        assert!(shown.starts_with("rebuilding [==============================] 100 %, 1000 of 1000 events"), "{shown}");
    }

    #[test]
    fn elsewhere_each_tenth_is_a_line_and_another_round_begins_again() {
        let told = AtomicU64::new(NOTHING);
        let lines = |rounds: &[(u64, u64)]| -> Vec<String> {
            rounds.iter().filter_map(|(done, total)| next_line("exporting", &told, *done, *total)).collect()
        };
        assert_eq!(
            lines(&[(1, 100), (5, 100), (10, 100), (11, 100), (30, 100), (100, 100)]),
            [
                "exporting: 1 of 100 events (1 %)",
                "exporting: 11 of 100 events (11 %)",
                "exporting: 30 of 100 events (30 %)",
                "exporting: 100 of 100 events (100 %)"
            ]
        );
        assert_eq!(
            lines(&[(2, 50), (50, 50)]),
            ["exporting: 2 of 50 events (4 %)", "exporting: 50 of 50 events (100 %)"]
        );
        assert_eq!(lines(&[(0, 0)]), [""; 0]);
    }
}
