//! Who may make an attempt now: permits, and whom they go to.
//!
//! [`turns`] decides; this guards it with a lock, keeps its time, and hands the permits out. A subscription has a
//! [`Place`] here while it is in memory, says there how many attempts it wants, and is sent a [`Permit`] for each. A
//! permit comes back when it is dropped, whatever becomes of its attempt.
//!
//! Nothing is done under the lock but counting; no message is sent under it.

mod gcra;
mod line;
mod room;
mod turns;

use std::collections::HashMap;
use std::num::NonZeroU32;
use std::sync::{Arc, Mutex, MutexGuard, Weak};
use std::time::Duration;

use ractor::ActorRef;
use tokio::sync::Notify;
use tokio::time::Instant;

use self::turns::{Held, Limits, Moment, Turns};
use super::Config;
use super::subscription::SubscriptionMessage;
use crate::domain::id::{SubscriptionId, TenantId};

/// Hands out permits.
pub(super) struct Dispatcher {
    inner: Mutex<Inner>,
    began: Instant,
    /// That the next time changed, or the dispatcher has gone.
    changed: Arc<Notify>,
    /// That all permits are back.
    idle: Notify,
    max_attempts_per_subscription: u32,
}

struct Inner {
    turns: Turns,
    holders: HashMap<SubscriptionId, Holder>,
    last_place: u64,
    /// The time that the timer was told.
    told: Option<Moment>,
    stopped: bool,
}

/// Who gets the permits of a subscription.
struct Holder {
    place: u64,
    actor: ActorRef<SubscriptionMessage>,
}

/// Where a subscription sends, and how.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Terms {
    pub(super) tenant: TenantId,
    /// The host that it sends to, with its port.
    pub(super) host: Arc<str>,
    /// Attempts a second.
    pub(super) rate: Option<NonZeroU32>,
}

/// A subscription's place at the dispatcher. Dropped, it wants nothing any more.
pub(super) struct Place {
    dispatcher: Arc<Dispatcher>,
    subscription: SubscriptionId,
    number: u64,
    /// As the dispatcher knows them; `None` before it knows of the subscription.
    terms: Option<Terms>,
    /// Permits that were asked for and have not come.
    asked: u32,
}

/// Leave to make one attempt. Comes back when it is dropped.
pub(super) struct Permit {
    dispatcher: Arc<Dispatcher>,
    /// Taken only by the drop.
    held: Option<Held>,
}

impl Dispatcher {
    pub(super) fn start(config: &Config) -> Arc<Self> {
        let places = |all| room::places(all, config.max_slow_percent, config.max_unproven_percent);
        let limits = Limits {
            node: places(config.max_attempts),
            tenant: places(config.max_attempts_per_tenant),
            host: places(config.max_attempts_per_host),
            host_rate: NonZeroU32::new(config.host_rate_per_s),
            slow_after: nanoseconds(Duration::from_millis(config.slow_after_ms)),
        };
        let inner =
            Inner { turns: Turns::new(limits), holders: HashMap::new(), last_place: 0, told: None, stopped: false };
        let dispatcher = Arc::new(Self {
            inner: Mutex::new(inner),
            began: Instant::now(),
            changed: Arc::default(),
            idle: Notify::new(),
            max_attempts_per_subscription: config.max_attempts_per_subscription.try_into().unwrap_or(u32::MAX),
        });
        tokio::spawn(keep_time(Arc::downgrade(&dispatcher), Arc::clone(&dispatcher.changed)));
        dispatcher
    }

    /// Attempts that hold a permit.
    pub(super) fn under_way(&self) -> usize {
        self.lock().turns.under_way()
    }

    /// A place for a subscription, whose permits go to that actor from now on.
    pub(super) fn place(self: &Arc<Self>, id: SubscriptionId, actor: ActorRef<SubscriptionMessage>) -> Place {
        let mut inner = self.lock();
        inner.last_place += 1;
        let number = inner.last_place;
        inner.holders.insert(id, Holder { place: number, actor });
        // What an earlier life wanted is nobody's wish any more.
        inner.turns.leave(id);
        Place { dispatcher: Arc::clone(self), subscription: id, number, terms: None, asked: 0 }
    }

    /// Grants nothing more, and waits until every permit is back.
    pub(super) async fn stop(&self) {
        self.lock().stopped = true;
        loop {
            let idle = self.idle.notified();
            if self.lock().turns.held() == 0 {
                return;
            }
            idle.await;
        }
    }

    /// Does something to the turns, and hands out what can be granted then.
    fn with<T>(self: &Arc<Self>, work: impl FnOnce(&mut Inner, Moment) -> T) -> T {
        let mut inner = self.lock();
        let now = self.now();
        let done = work(&mut inner, now);
        let mut granted = vec![];
        while !inner.stopped
            && let Some(held) = inner.turns.grant(now)
        {
            let actor = inner.holders.get(&held.subscription).map(|holder| (holder.place, holder.actor.clone()));
            granted.push((actor, Permit { dispatcher: Arc::clone(self), held: Some(held) }));
        }
        // Who has stopped leaves what is due where it is, and must not be woken for it.
        let next = if inner.stopped { None } else { inner.turns.next_at() };
        let told = std::mem::replace(&mut inner.told, next);
        let is_idle = inner.stopped && inner.turns.held() == 0;
        drop(inner);
        if next.is_some_and(|next| told.is_none_or(|told| next < told)) {
            self.changed.notify_one();
        }
        if is_idle {
            self.idle.notify_waiters();
        }
        for (actor, permit) in granted {
            self.hand_over(actor, permit);
        }
        done
    }

    fn hand_over(self: &Arc<Self>, to: Option<(u64, ActorRef<SubscriptionMessage>)>, permit: Permit) {
        let Some(id) = permit.held.as_ref().map(|held| held.subscription) else { return };
        let Some((place, actor)) = to else { return };
        if let Err(refused) = actor.cast(SubscriptionMessage::Granted(permit)) {
            // It has died. It must not be granted the permit again, which comes back here.
            self.lock().leave(id, place);
            drop(refused);
        }
    }

    fn now(&self) -> Moment {
        nanoseconds(self.began.elapsed())
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().expect("counting does not panic")
    }
}

impl Drop for Dispatcher {
    fn drop(&mut self) {
        self.changed.notify_one();
    }
}

impl Inner {
    /// Ends a place, unless the subscription has another one meanwhile.
    fn leave(&mut self, id: SubscriptionId, place: u64) {
        if self.holders.get(&id).is_some_and(|holder| holder.place == place) {
            self.holders.remove(&id);
            self.turns.leave(id);
        }
    }
}

fn nanoseconds(duration: Duration) -> Moment {
    duration.as_nanos().try_into().unwrap_or(Moment::MAX)
}

/// Grants what was only waiting for its time. Ends with the dispatcher.
async fn keep_time(dispatcher: Weak<Dispatcher>, changed: Arc<Notify>) {
    loop {
        let Some(next) = dispatcher.upgrade().map(|it| it.lock().told.map(|at| it.began + Duration::from_nanos(at)))
        else {
            return;
        };
        match next {
            None => changed.notified().await,
            Some(at) => tokio::select! {
                biased;
                () = changed.notified() => {}
                () = tokio::time::sleep_until(at) => {
                    if let Some(dispatcher) = dispatcher.upgrade() {
                        dispatcher.with(|_, _| ());
                    }
                }
            },
        }
    }
}

impl Place {
    /// How it sends from now on. `failing`: whether what it owes has failed before, for one that is new here.
    pub(super) fn set(&mut self, terms: Terms, failing: bool) {
        if self.terms.as_ref() == Some(&terms) {
            return;
        }
        let known = turns::Terms {
            tenant: terms.tenant,
            host: Arc::clone(&terms.host),
            rate: terms.rate,
            at_most: self.dispatcher.max_attempts_per_subscription,
        };
        self.terms = Some(terms);
        self.dispatcher.with(|inner, now| {
            if inner.is_at(self.subscription, self.number) {
                inner.turns.set(self.subscription, &known, failing, now);
            }
        });
    }

    /// How many permits it wants now, beside those that it has. Those on their way count: they cannot be stopped.
    pub(super) fn want(&mut self, count: u32) {
        let id = self.subscription;
        if count > self.asked && self.terms.is_some() {
            let more = count - self.asked;
            self.asked = count;
            self.dispatcher.with(|inner, now| {
                if inner.is_at(id, self.number) {
                    inner.turns.want(id, more, now);
                }
            });
        } else if count < self.asked {
            let fewer = self.asked - count;
            self.asked -= self.dispatcher.with(|inner, now| match inner.is_at(id, self.number) {
                true => inner.turns.withdraw(id, fewer, now),
                false => 0,
            });
        }
    }

    /// Whether a permit may still come.
    pub(super) fn is_waiting(&self) -> bool {
        self.asked > 0
    }

    /// A permit has come.
    pub(super) fn received(&mut self) {
        self.asked = self.asked.saturating_sub(1);
    }
}

impl Inner {
    fn is_at(&self, id: SubscriptionId, place: u64) -> bool {
        self.holders.get(&id).is_some_and(|holder| holder.place == place)
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.dispatcher.with(|inner, _| inner.leave(self.subscription, self.number));
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        if let Some(held) = self.held.take() {
            self.dispatcher.with(|inner, now| inner.turns.give_back(held, now));
        }
    }
}

/// The host of a URL with its port: what shares permits.
pub(super) fn host_of(url: &str) -> Arc<str> {
    let parsed = url::Url::parse(url).ok();
    let host = parsed.as_ref().and_then(|url| Some(format!("{}:{}", url.host_str()?, url.port_or_known_default()?)));
    host.unwrap_or_else(|| url.to_owned()).into()
}
