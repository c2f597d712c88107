//! Whose turn it is: permits for attempts, shared fairly. Pure: no clock, no task, no lock.
//!
//! A subscription says how many attempts it wants to begin; [`Turns::grant`] says which one may begin now. Nothing is
//! ever dropped, only later.
//!
//! - **Limits.** An attempt takes a place in four rooms: the node's, its tenant's, its host's, its subscription's. It is
//!   granted only when all have one, and when the rates of host and subscription (GCRA) allow it.
//! - **Standing.** Whoever held a permit for long (an endpoint that hangs) gets only a part of each room from then on,
//!   and whoever is not known yet another part ([`Standing`]). So endpoints that hang cannot hold what proven ones need.
//! - **Fairness.** Within a standing the tenants take turns, one attempt a turn: that is deficit round robin with equal
//!   weights, a cost and a quantum of one, where no deficit is ever left over. Within a tenant its subscriptions take
//!   turns. Standings take turns with each other as far as their parts go.
//! - **Nobody waits behind somebody blocked.** Subscriptions of one tenant, host and standing form a lane. A lane whose
//!   host is full or at its rate leaves its tenant's line and parks at the host; a tenant without room leaves the ring;
//!   a subscription at its rate waits for its time. Each comes back when what blocked it has gone, so no grant looks
//!   through the blocked ones: the cost is O(log n), amortised over parking and coming back.
//! - **Nobody starves at a crowded host.** Lanes are called in the order in which they came there. One that was called, and
//!   found the host full again when its turn came, is the host's heir at its next call: a place is kept for it, as long
//!   as nothing but its turn stands in its way.

mod hosts;

use std::cmp::Reverse;
use std::collections::{BTreeMap, BinaryHeap, HashMap};
use std::num::NonZeroU32;
use std::ops::Bound;
use std::sync::Arc;

use super::gcra::Gcra;
use super::line::{Line, Seat};
use super::room::{Places, Room, STANDINGS, Standing};
use crate::domain::id::{SubscriptionId, TenantId};

/// Nanoseconds since the dispatcher began, which never go back.
pub(super) type Moment = u64;

/// A proven subscription is slow after so many slow attempts in a row; others after the first.
const SLOW_IN_A_ROW: u32 = 3;

/// What is allowed.
#[derive(Clone, Copy, Debug)]
pub(super) struct Limits {
    pub(super) node: Places,
    pub(super) tenant: Places,
    pub(super) host: Places,
    pub(super) host_rate: Option<NonZeroU32>,
    /// An attempt that holds its permit so long is slow, in nanoseconds.
    pub(super) slow_after: Moment,
}

/// How a subscription sends.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Terms {
    pub(super) tenant: TenantId,
    /// The host that it sends to, with its port.
    pub(super) host: Arc<str>,
    /// Attempts a second.
    pub(super) rate: Option<NonZeroU32>,
    /// Attempts at one time.
    pub(super) at_most: u32,
}

/// An attempt that may begin, or is under way. Whoever has it gives it back.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Held {
    pub(super) subscription: SubscriptionId,
    tenant: TenantId,
    host: HostId,
    standing: Standing,
    number: u64,
    since: Moment,
}

/// Hosts are numbered as they come; a number is never used again.
type HostId = u64;

#[derive(Debug)]
pub(super) struct Turns {
    limits: Limits,
    node: Room,
    subscriptions: HashMap<SubscriptionId, Subscription>,
    tenants: HashMap<TenantId, Tenant>,
    hosts: HashMap<HostId, Host>,
    host_ids: HashMap<Arc<str>, HostId>,
    lanes: HashMap<Lane, Waiting>,
    /// For each standing the tenants that have a lane and room.
    rings: [Line<TenantId>; 3],
    /// Which standing is next.
    next_standing: usize,
    /// Hosts that may have a place for a lane that is parked there.
    open: Line<HostId>,
    timers: BinaryHeap<Reverse<(Moment, u64, Timed)>>,
    /// Attempts under way by number, and so by their beginning.
    under_way: BTreeMap<u64, (SubscriptionId, Moment)>,
    /// Up to which of them slow ones were looked for.
    looked_through: u64,
    /// Numbers given to attempts, hosts and timers.
    last_number: u64,
    /// Seats given to lanes at hosts, in the order of their coming.
    last_ticket: Seat,
}

#[derive(Debug)]
struct Subscription {
    tenant: TenantId,
    host: HostId,
    rate: Option<Gcra>,
    at_most: u32,
    /// Attempts that it wants and that are not granted.
    wanted: u32,
    held: u32,
    standing: Standing,
    slow_in_a_row: u32,
    place: Place,
    /// Whether it has left: it is forgotten once nothing of it is under way.
    left: bool,
}

/// Where a subscription is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Place {
    /// It wants nothing, or has all that it may have.
    Nowhere,
    InLane(Lane, Seat),
    /// At its rate, until the timer with that number fires.
    Timed(u64),
}

#[derive(Debug, Default)]
struct Tenant {
    subscriptions: u32,
    room: Room,
    lanes: [Line<Lane>; 3],
    /// Its seats in the rings.
    seats: [Option<Seat>; 3],
}

#[derive(Debug, Default)]
struct Host {
    name: Arc<str>,
    subscriptions: u32,
    room: Room,
    rate: Option<Gcra>,
    parked: [Line<Lane>; 3],
    /// The standing that is called next.
    next_standing: usize,
    heir: Option<Lane>,
    open: Option<Seat>,
    timer: Option<u64>,
}

/// The subscriptions of one tenant that send to one host and have one standing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
struct Lane {
    tenant: TenantId,
    host: HostId,
    standing: Standing,
}

/// Who waits in a lane, and where the lane is.
#[derive(Debug)]
struct Waiting {
    subscriptions: Line<SubscriptionId>,
    seat: Seat,
    parked: bool,
    /// Subscriptions that are still served before the tenant's next lane is.
    left_in_turn: usize,
    /// Whether it was called by its host and has not been granted anything since.
    called: bool,
    /// Its seat at the host, if it has parked there and not been granted anything since.
    waits_since: Option<Seat>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Timed {
    Subscription(SubscriptionId),
    Host(HostId),
}

const KNOWN: &str = "what is referred to is kept: see `forget_unused`";

impl Turns {
    /// Attempts that hold a permit.
    pub(super) fn under_way(&self) -> usize {
        self.under_way.len()
    }

    pub(super) fn new(limits: Limits) -> Self {
        Self {
            limits,
            node: Room::default(),
            subscriptions: HashMap::new(),
            tenants: HashMap::new(),
            hosts: HashMap::new(),
            host_ids: HashMap::new(),
            lanes: HashMap::new(),
            rings: Default::default(),
            next_standing: 0,
            open: Line::default(),
            timers: BinaryHeap::new(),
            under_way: BTreeMap::new(),
            looked_through: 0,
            last_number: 0,
            last_ticket: 0,
        }
    }

    /// Attempts that were granted and not given back.
    pub(super) fn held(&self) -> u32 {
        self.node.used()
    }

    /// Takes a subscription up, or changes how it sends: that holds from the next grant on. `failing` is what is known
    /// of one that is new here.
    pub(super) fn set(&mut self, id: SubscriptionId, terms: &Terms, failing: bool, now: Moment) {
        let host = self.host_id(&terms.host);
        if let Some(known) = self.subscriptions.get(&id) {
            let before = known.host;
            self.host(host).subscriptions += 1;
            self.remove_from_place(id);
            let subscription = self.subscription(id);
            subscription.left = false;
            subscription.host = host;
            subscription.at_most = terms.at_most;
            subscription.rate = match (subscription.rate, terms.rate) {
                (Some(mut rate), Some(per_second)) if rate.per_second() != per_second => {
                    rate.change(per_second, now);
                    Some(rate)
                }
                (Some(rate), Some(_)) => Some(rate),
                (_, per_second) => per_second.map(Gcra::new),
            };
            self.host(before).subscriptions -= 1;
            self.forget_unused(None, before);
        } else {
            self.host(host).subscriptions += 1;
            self.tenants.entry(terms.tenant).or_default().subscriptions += 1;
            let subscription = Subscription {
                tenant: terms.tenant,
                host,
                rate: terms.rate.map(Gcra::new),
                at_most: terms.at_most,
                wanted: 0,
                held: 0,
                standing: if failing { Standing::Slow } else { Standing::New },
                slow_in_a_row: 0,
                place: Place::Nowhere,
                left: false,
            };
            self.subscriptions.insert(id, subscription);
        }
        self.settle(id, now);
    }

    /// It wants so many attempts more.
    pub(super) fn want(&mut self, id: SubscriptionId, more: u32, now: Moment) {
        if let Some(subscription) = self.subscriptions.get_mut(&id) {
            subscription.wanted = subscription.wanted.saturating_add(more);
            self.settle(id, now);
        }
    }

    /// It wants so many fewer. Returns how many were not granted before, which is at most that many.
    pub(super) fn withdraw(&mut self, id: SubscriptionId, fewer: u32, now: Moment) -> u32 {
        let Some(subscription) = self.subscriptions.get_mut(&id) else { return 0 };
        let withdrawn = fewer.min(subscription.wanted);
        subscription.wanted -= withdrawn;
        self.settle(id, now);
        withdrawn
    }

    /// It wants nothing any more, and is forgotten when nothing of it is under way.
    pub(super) fn leave(&mut self, id: SubscriptionId) {
        let Some(subscription) = self.subscriptions.get_mut(&id) else { return };
        subscription.wanted = 0;
        subscription.left = true;
        self.remove_from_place(id);
        self.forget_if_gone(id);
    }

    /// An attempt that may begin now, if there is one.
    pub(super) fn grant(&mut self, now: Moment) -> Option<Held> {
        self.fire_timers(now);
        self.notice_slow(now);
        if self.held() >= self.limits.node[Standing::Proven as usize] {
            return None;
        }
        self.call(now);
        loop {
            if let Some(held) = self.serve(now) {
                return Some(held);
            }
            // Nobody in the rings can begin: perhaps somebody who is parked can.
            if !self.call(now) {
                return None;
            }
        }
    }

    /// When something that waits for its time may be granted; `None` if nothing does.
    pub(super) fn next_at(&self) -> Option<Moment> {
        self.timers.peek().map(|Reverse((at, ..))| *at)
    }

    /// An attempt ended.
    pub(super) fn give_back(&mut self, held: Held, now: Moment) {
        let Held { subscription: id, tenant, host, standing, number, since } = held;
        self.node.leave(standing);
        self.tenant(tenant).room.leave(standing);
        self.host(host).room.leave(standing);
        // One that was noticed while it was under way does not count again.
        let noticed = self.under_way.remove(&number).is_some() && number <= self.looked_through;
        self.subscription(id).held -= 1;
        match now.saturating_sub(since) >= self.limits.slow_after {
            true if noticed => {}
            true => self.count_slow(id, now),
            false => {
                self.subscription(id).slow_in_a_row = 0;
                self.stand(id, Standing::Proven, now);
            }
        }
        self.settle(id, now);
        self.sit(tenant);
        self.open(host);
        self.forget_if_gone(id);
        self.forget_unused(Some(tenant), host);
    }

    /// Attempts that have gone on for long show what to expect before they end.
    fn notice_slow(&mut self, now: Moment) {
        loop {
            let after = (Bound::Excluded(self.looked_through), Bound::Unbounded);
            let Some((&number, &(id, since))) = self.under_way.range(after).next() else { return };
            if now.saturating_sub(since) < self.limits.slow_after {
                return;
            }
            self.looked_through = number;
            self.count_slow(id, now);
        }
    }

    fn count_slow(&mut self, id: SubscriptionId, now: Moment) {
        let subscription = self.subscription(id);
        subscription.slow_in_a_row += 1;
        if subscription.standing != Standing::Proven || subscription.slow_in_a_row >= SLOW_IN_A_ROW {
            self.stand(id, Standing::Slow, now);
        }
    }

    fn stand(&mut self, id: SubscriptionId, standing: Standing, now: Moment) {
        if self.subscription(id).standing != standing {
            self.remove_from_place(id);
            self.subscription(id).standing = standing;
            self.settle(id, now);
        }
    }

    /// The first in turn that may begin.
    fn serve(&mut self, now: Moment) -> Option<Held> {
        for offset in 0..STANDINGS.len() {
            let turn = (self.next_standing + offset) % STANDINGS.len();
            let standing = STANDINGS[turn];
            if !self.node.admits(standing, &self.limits.node) {
                continue;
            }
            while let Some(tenant) = self.rings[turn].front().copied() {
                let lane = *self.tenant(tenant).lanes[turn].front().expect("a tenant without lanes has no seat");
                if self.host_takes(lane, now) {
                    self.next_standing = (turn + 1) % STANDINGS.len();
                    return Some(self.take(lane, now));
                }
                self.park(lane, now);
            }
        }
        None
    }

    /// Grants an attempt to the first subscription in the lane.
    fn take(&mut self, lane: Lane, now: Moment) -> Held {
        let Lane { tenant, host, standing } = lane;
        let waiting = self.lane(lane);
        (waiting.called, waiting.waits_since) = (false, None);
        if waiting.left_in_turn == 0 {
            waiting.left_in_turn = waiting.subscriptions.len();
        }
        waiting.left_in_turn -= 1;
        let turn_is_over = waiting.left_in_turn == 0;
        let id = *waiting.subscriptions.front().expect("an empty lane is removed");
        self.remove_from_place(id);
        self.last_number += 1;
        let number = self.last_number;
        self.node.enter(standing);
        self.tenant(tenant).room.enter(standing);
        let at_host = self.host(host);
        at_host.room.enter(standing);
        at_host.heir.take_if(|heir| *heir == lane);
        at_host.rate.as_mut().into_iter().for_each(|rate| rate.take(now));
        let subscription = self.subscription(id);
        subscription.wanted -= 1;
        subscription.held += 1;
        subscription.rate.as_mut().into_iter().for_each(|rate| rate.take(now));
        self.under_way.insert(number, (id, now));
        self.settle(id, now);
        if turn_is_over {
            self.move_to_back(lane);
        }
        self.end_turn(tenant, standing);
        Held { subscription: id, tenant, host, standing, number, since: now }
    }

    /// The tenant's next lane is next.
    fn move_to_back(&mut self, lane: Lane) {
        let Some(seat) = self.lanes.get(&lane).map(|waiting| waiting.seat) else { return };
        let line = &mut self.tenant(lane.tenant).lanes[lane.standing as usize];
        line.remove(seat);
        let seat = line.push_back(lane);
        self.lane(lane).seat = seat;
    }

    /// The next tenant is next.
    fn end_turn(&mut self, id: TenantId, standing: Standing) {
        let turn = standing as usize;
        if let Some(seat) = self.tenant(id).seats[turn].take() {
            self.rings[turn].remove(seat);
        }
        self.sit(id);
    }

    /// Gives the tenant a seat in each ring where it has a lane and room, and takes the others away.
    fn sit(&mut self, id: TenantId) {
        let places = self.limits.tenant;
        let tenant = self.tenants.get_mut(&id).expect(KNOWN);
        for (turn, standing) in STANDINGS.into_iter().enumerate() {
            let may_sit = !tenant.lanes[turn].is_empty() && tenant.room.admits(standing, &places);
            match tenant.seats[turn] {
                None if may_sit => tenant.seats[turn] = Some(self.rings[turn].push_back(id)),
                Some(seat) if !may_sit => {
                    self.rings[turn].remove(seat);
                    tenant.seats[turn] = None;
                }
                None | Some(_) => {}
            }
        }
    }

    /// Puts the subscription where it belongs; one that waits where it should stays there.
    fn settle(&mut self, id: SubscriptionId, now: Moment) {
        let subscription = &self.subscriptions[&id];
        let waits = subscription.wanted > 0 && subscription.held < subscription.at_most;
        match subscription.place {
            Place::Nowhere if waits => self.line_up(id, now),
            Place::InLane(..) | Place::Timed(_) if !waits => self.remove_from_place(id),
            Place::Nowhere | Place::InLane(..) | Place::Timed(_) => {}
        }
    }

    fn line_up(&mut self, id: SubscriptionId, now: Moment) {
        let subscription = &self.subscriptions[&id];
        let at = subscription.rate.map_or(0, |rate| rate.next_at());
        if at > now {
            let timer = self.arm(at, Timed::Subscription(id));
            self.subscription(id).place = Place::Timed(timer);
            return;
        }
        let (tenant, host, standing) = (subscription.tenant, subscription.host, subscription.standing);
        let lane = Lane { tenant, host, standing };
        if !self.lanes.contains_key(&lane) {
            let seat = self.tenant(tenant).lanes[standing as usize].push_back(lane);
            let subscriptions = Line::default();
            self.lanes.insert(
                lane,
                Waiting { subscriptions, seat, parked: false, left_in_turn: 0, called: false, waits_since: None },
            );
            self.sit(tenant);
        }
        let seat = self.lane(lane).subscriptions.push_back(id);
        self.subscription(id).place = Place::InLane(lane, seat);
    }

    fn remove_from_place(&mut self, id: SubscriptionId) {
        let place = std::mem::replace(&mut self.subscription(id).place, Place::Nowhere);
        let Place::InLane(lane, seat) = place else { return };
        let waiting = self.lane(lane);
        waiting.subscriptions.remove(seat);
        if waiting.subscriptions.is_empty() {
            self.remove_lane(lane);
        }
    }

    fn remove_lane(&mut self, lane: Lane) {
        let Waiting { seat, parked, .. } = self.lanes.remove(&lane).expect(KNOWN);
        let turn = lane.standing as usize;
        let host = self.host(lane.host);
        host.heir.take_if(|heir| *heir == lane);
        if parked {
            host.parked[turn].remove(seat);
        } else {
            self.tenant(lane.tenant).lanes[turn].remove(seat);
            self.sit(lane.tenant);
        }
    }

    fn arm(&mut self, at: Moment, who: Timed) -> u64 {
        self.last_number += 1;
        self.timers.push(Reverse((at, self.last_number, who)));
        self.last_number
    }

    fn fire_timers(&mut self, now: Moment) {
        while let Some(Reverse((at, ..))) = self.timers.peek()
            && *at <= now
        {
            let Some(Reverse((_, number, who))) = self.timers.pop() else { return };
            match who {
                Timed::Subscription(id) => {
                    let known = self.subscriptions.get_mut(&id);
                    if let Some(subscription) = known.filter(|known| known.place == Place::Timed(number)) {
                        subscription.place = Place::Nowhere;
                        self.settle(id, now);
                    }
                }
                Timed::Host(id) => {
                    let known = self.hosts.get_mut(&id);
                    if known.is_some_and(|known| known.timer.take_if(|timer| *timer == number).is_some()) {
                        self.open(id);
                    }
                }
            }
        }
    }

    fn forget_if_gone(&mut self, id: SubscriptionId) {
        let Some(known) = self.subscriptions.get(&id) else { return };
        if !known.left || known.held > 0 {
            return;
        }
        let (tenant, host) = (known.tenant, known.host);
        self.subscriptions.remove(&id);
        self.tenant(tenant).subscriptions -= 1;
        self.host(host).subscriptions -= 1;
        self.forget_unused(Some(tenant), host);
    }

    /// Forgets tenant and host if no subscription and no attempt is theirs.
    fn forget_unused(&mut self, tenant: Option<TenantId>, host: HostId) {
        let unused = |subscriptions: u32, room: &Room| subscriptions == 0 && room.used() == 0;
        if let Some(tenant) = tenant
            && self.tenants.get(&tenant).is_some_and(|known| unused(known.subscriptions, &known.room))
        {
            self.tenants.remove(&tenant);
        }
        if self.hosts.get(&host).is_some_and(|known| unused(known.subscriptions, &known.room))
            && let Some(forgotten) = self.hosts.remove(&host)
        {
            self.host_ids.remove(&forgotten.name);
            forgotten.open.and_then(|seat| self.open.remove(seat));
        }
    }

    fn subscription(&mut self, id: SubscriptionId) -> &mut Subscription {
        self.subscriptions.get_mut(&id).expect(KNOWN)
    }

    fn tenant(&mut self, id: TenantId) -> &mut Tenant {
        self.tenants.get_mut(&id).expect(KNOWN)
    }

    fn host(&mut self, id: HostId) -> &mut Host {
        self.hosts.get_mut(&id).expect(KNOWN)
    }

    fn lane(&mut self, lane: Lane) -> &mut Waiting {
        self.lanes.get_mut(&lane).expect(KNOWN)
    }
}

#[cfg(test)]
mod tests;
