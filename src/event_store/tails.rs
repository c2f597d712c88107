//! The tails of all shards, which share their bounds: a shard that is busy may use what the others leave.
//!
//! Sharing out in equal parts would leave the one shard that is written to with a tail so short that its followers
//! lived on the database, while the others' parts lay idle.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use super::Config;
use super::lane::Published;

/// What the lanes of all shards show to readers, within common bounds.
pub(super) struct Tails {
    published: Vec<Arc<Published>>,
    extensions: AtomicU64,
    max_events: usize,
    max_bytes: usize,
}

impl Tails {
    pub(super) fn new(published: Vec<Arc<Published>>, config: &Config) -> Self {
        let extensions = AtomicU64::new(0);
        Self { published, extensions, max_events: config.tail_events, max_bytes: config.tail_bytes }
    }

    pub(super) fn published(&self) -> &[Arc<Published>] {
        &self.published
    }

    /// To be called by whoever has extended a tail: those that were extended longest ago make room for it.
    pub(super) fn keep_within_bounds(&self, extended: &Published) {
        // A tail keeps the bounds by itself.
        if self.published.len() == 1 {
            return;
        }
        extended.extended.store(self.extensions.fetch_add(1, Ordering::SeqCst) + 1, Ordering::SeqCst);
        while self.too_much() {
            let holding = self.published.iter().filter_map(|shown| Some((shown, shown.tail().middle()?)));
            let oldest = holding.min_by_key(|(shown, _)| shown.extended.load(Ordering::SeqCst));
            let Some((shown, middle)) = oldest else { return };
            shown.forget_through(middle);
        }
    }

    fn too_much(&self) -> bool {
        let held = self.published.iter().map(|shown| shown.tail().held());
        let (events, bytes) = held.fold((0, 0), |(events, bytes), held| (events + held.0, bytes + held.1));
        events > self.max_events || bytes > self.max_bytes
    }
}
