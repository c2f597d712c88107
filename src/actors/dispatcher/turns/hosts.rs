//! What happens at a host: who finds a place there, who parks, and who is called back.

use std::sync::Arc;

use super::{Gcra, Host, HostId, KNOWN, Lane, Line, Moment, STANDINGS, Standing, Timed, Turns};

impl Turns {
    /// Whether one of the lane may begin as far as its host is concerned.
    pub(super) fn host_takes(&self, lane: Lane, now: Moment) -> bool {
        let host = &self.hosts[&lane.host];
        if !self.has_place(host, lane.standing, now) {
            return false;
        }
        match host.heir.filter(|heir| *heir != lane) {
            Some(heir) if self.can_inherit(heir, now) => {
                host.rate.is_none() && host.room.used() + 1 < self.limits.host[Standing::Proven as usize]
            }
            Some(_) | None => true,
        }
    }

    fn has_place(&self, host: &Host, standing: Standing, now: Moment) -> bool {
        host.room.admits(standing, &self.limits.host) && host.rate.is_none_or(|rate| rate.next_at() <= now)
    }

    /// Whether nothing but its turn keeps the heir from the place.
    fn can_inherit(&self, heir: Lane, now: Moment) -> bool {
        self.node.admits(heir.standing, &self.limits.node)
            && self.tenants[&heir.tenant].room.admits(heir.standing, &self.limits.tenant)
            && self.has_place(&self.hosts[&heir.host], heir.standing, now)
    }

    /// The lane waits at its host. Until it is granted something it keeps the place that it got there first.
    pub(super) fn park(&mut self, lane: Lane, now: Moment) {
        let turn = lane.standing as usize;
        self.last_ticket += 1;
        let ticket = self.last_ticket;
        let waiting = self.lane(lane);
        let (seat, since) = (waiting.seat, waiting.waits_since);
        let tenant = self.tenant(lane.tenant);
        tenant.lanes[turn].remove(seat);
        self.sit(lane.tenant);
        let host = self.host(lane.host);
        host.heir.take_if(|heir| *heir == lane);
        let line = &mut host.parked[turn];
        let seat = since.unwrap_or(ticket);
        line.insert(seat, lane);
        let waiting = self.lane(lane);
        (waiting.seat, waiting.parked, waiting.left_in_turn) = (seat, true, 0);
        waiting.waits_since = Some(seat);
        self.open(lane.host);
        self.time(lane.host, now);
    }

    /// Remembers a host where somebody waits and may find a place.
    pub(super) fn open(&mut self, id: HostId) {
        let places = self.limits.host;
        let host = self.hosts.get_mut(&id).expect(KNOWN);
        let waits =
            |standing: Standing| !host.parked[standing as usize].is_empty() && host.room.admits(standing, &places);
        if host.open.is_none() && STANDINGS.into_iter().any(waits) {
            host.open = Some(self.open.push_back(id));
        }
    }

    /// Brings one lane from an open host back to its tenant. Whether there was one.
    pub(super) fn call(&mut self, now: Moment) -> bool {
        while let Some(id) = self.open.pop_front() {
            self.host(id).open = None;
            if self.waits_for_heir(id, now) {
                self.open(id);
                return false;
            }
            let Some(lane) = self.next_parked(id, now) else {
                self.time(id, now);
                continue;
            };
            self.bring_back(lane, now);
            self.open(id);
            return true;
        }
        false
    }

    fn next_parked(&mut self, id: HostId, now: Moment) -> Option<Lane> {
        let host = &self.hosts[&id];
        let turns = (0..STANDINGS.len()).map(|offset| (host.next_standing + offset) % STANDINGS.len());
        let callable = |turn: &usize| !host.parked[*turn].is_empty() && self.has_place(host, STANDINGS[*turn], now);
        let turn = turns.into_iter().find(callable)?;
        let host = self.host(id);
        host.next_standing = (turn + 1) % STANDINGS.len();
        host.parked[turn].pop_front()
    }

    /// Whether the next one to be called has been called in vain and a place is being kept for another such one: it is
    /// called when that one has begun, or it would only be passed over again.
    ///
    /// Never so when nobody in the rings can begin: an heir that can is in a ring.
    fn waits_for_heir(&self, id: HostId, now: Moment) -> bool {
        let host = &self.hosts[&id];
        let called_in_vain = |line: &Line<Lane>| line.front().is_some_and(|lane| self.lanes[lane].called);
        host.heir.is_some_and(|heir| self.can_inherit(heir, now)) && host.parked.iter().any(called_in_vain)
    }

    fn bring_back(&mut self, lane: Lane, now: Moment) {
        let called_before = self.lane(lane).called;
        let heir = self.hosts[&lane.host].heir;
        let inherits = called_before && !heir.is_some_and(|heir| self.can_inherit(heir, now));
        if inherits {
            self.host(lane.host).heir = Some(lane);
        }
        let line = &mut self.tenant(lane.tenant).lanes[lane.standing as usize];
        // A place is kept for an heir, so it shall not take long. The others must not push back those that never left.
        let seat = if inherits { line.push_front(lane) } else { line.push_back(lane) };
        let waiting = self.lane(lane);
        (waiting.seat, waiting.parked, waiting.called) = (seat, false, true);
        self.sit(lane.tenant);
    }

    /// A host at its rate opens when its time comes, if somebody waits there.
    fn time(&mut self, id: HostId, now: Moment) {
        let host = self.host(id);
        let somebody_waits = host.parked.iter().any(|line| !line.is_empty());
        let at = host.rate.map_or(0, |rate| rate.next_at());
        if somebody_waits && at > now && host.timer.is_none() {
            self.host(id).timer = Some(self.arm(at, Timed::Host(id)));
        }
    }

    pub(super) fn host_id(&mut self, name: &Arc<str>) -> HostId {
        if let Some(id) = self.host_ids.get(name) {
            return *id;
        }
        self.last_number += 1;
        let rate = self.limits.host_rate.map(Gcra::new);
        self.hosts.insert(self.last_number, Host { name: Arc::clone(name), rate, ..Host::default() });
        self.host_ids.insert(Arc::clone(name), self.last_number);
        self.last_number
    }
}
