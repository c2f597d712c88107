//! One item of a live stream: how long it may take, and what it costs.

use std::sync::Arc;
use std::time::Duration;

use futures_util::stream::{self, BoxStream, StreamExt};
use tokio::sync::watch;
use tokio::time::{Instant, sleep_until};

use super::charge::Charge;

/// How long it may take to resolve one item: as long as a query.
pub(super) const ITEM_LIMIT: Duration = Duration::from_secs(10);

/// When the item that is being resolved came, for the whole stream.
pub(super) struct ItemClock(watch::Sender<Option<Instant>>);

impl ItemClock {
    pub(super) fn new() -> Arc<Self> {
        Arc::new(Self(watch::Sender::new(None)))
    }

    /// An item is handed to whoever resolves it.
    pub(super) fn begin(&self) {
        self.0.send_replace(Some(Instant::now()));
    }

    fn end(&self) {
        self.0.send_replace(None);
    }

    /// Resolves when an item takes too long.
    async fn overdue(&self) {
        let mut begun = self.0.subscribe();
        loop {
            let at = *begun.borrow_and_update();
            tokio::select! {
                changed = begun.changed() => if changed.is_err() { return std::future::pending().await },
                () = late(at) => return,
            }
        }
    }
}

async fn late(begun: Option<Instant>) {
    match begun {
        Some(at) => sleep_until(at + ITEM_LIMIT).await,
        None => std::future::pending().await,
    }
}

/// Passes the items on: the first was paid with the operation, each further one waits until it can be paid. `None`, and
/// then nothing more, in place of one that takes too long.
pub(super) fn bounded<T: Send + 'static>(
    items: BoxStream<'static, T>,
    clock: Arc<ItemClock>,
    charge: Arc<Charge>,
) -> BoxStream<'static, Option<T>> {
    let began = (items, clock, charge, true);
    stream::unfold(Some(began), |state| async {
        let (mut items, clock, charge, first) = state?;
        let item = tokio::select! {
            biased;
            item = items.next() => Some(item?),
            () = clock.overdue() => None,
        };
        clock.end();
        if item.is_none() {
            return Some((None, None));
        }
        if !first {
            charge.pay_again().await;
        }
        Some((item, Some((items, clock, charge, false))))
    })
    .boxed()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::graphql::charge::Weight;
    use crate::rate_limit::{Config, RateLimits};

    fn charge() -> Arc<Charge> {
        Charge::new(&RateLimits::new(Config::default()), "ada".into(), Weight::default())
    }

    /// Waits so many seconds for each item, and resolves it for as many.
    fn items(clock: &Arc<ItemClock>, times: Vec<(u64, u64)>) -> BoxStream<'static, u64> {
        let clock = Arc::clone(clock);
        let item = move |(waiting, resolving)| {
            let clock = Arc::clone(&clock);
            async move {
                tokio::time::sleep(Duration::from_secs(waiting)).await;
                clock.begin();
                tokio::time::sleep(Duration::from_secs(resolving)).await;
                resolving
            }
        };
        stream::iter(times).then(item).boxed()
    }

    #[tokio::test(start_paused = true)]
    async fn a_stream_may_wait_for_ever_and_an_item_may_not_take_too_long() {
        let clock = ItemClock::new();
        let times = vec![(3_600, 0), (3_600, 9), (0, 9), (3_600, 11), (0, 0)];
        let told: Vec<_> = bounded(items(&clock, times), clock, charge()).collect().await;
        assert_eq!(told, [Some(0), Some(9), Some(9), None]);
    }
}
