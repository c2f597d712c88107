//! How full the bounded queues of the running system are.

use super::Engine;

/// How full a bounded queue is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Depth {
    /// Its name.
    pub queue: &'static str,
    /// How many wait in it, or are under way.
    pub depth: usize,
    /// How many may.
    pub limit: usize,
}

impl Engine {
    /// How full the bounded queues are: publications, requests, matches on their way, attempts under way.
    pub fn depths(&self) -> [Depth; 4] {
        let config = &self.context.config;
        let used = |limit: usize, free: usize| limit.saturating_sub(free);
        let matches = config.match_credits as usize;
        let free_matches = self.context.match_credits.available_permits();
        [
            Depth {
                queue: "intake",
                depth: used(config.intake_queue, self.intake.capacity()),
                limit: config.intake_queue,
            },
            Depth {
                queue: "requests",
                depth: used(config.request_credits, self.credits.available_permits()),
                limit: config.request_credits,
            },
            Depth { queue: "matches", depth: used(matches, free_matches), limit: matches },
            Depth { queue: "attempts", depth: self.context.dispatcher.under_way(), limit: config.max_attempts },
        ]
    }
}
