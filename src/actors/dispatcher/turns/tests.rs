//! The rules of [`Turns`] against a model that looks through everything, with random histories whose seeds are printed.

use std::collections::HashMap;

use super::*;
use crate::actors::dispatcher::room::places;

const MS: Moment = 1_000_000;
const SECOND: Moment = 1_000 * MS;

/// Numbers that follow from a seed.
struct Chance(u64);

impl Chance {
    fn below(&mut self, bound: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 >> 11) % bound
    }
}

fn chances(seeds: u64) -> impl Iterator<Item = Chance> {
    (1..=seeds).map(|seed| {
        println!("seed {seed}");
        Chance(seed.wrapping_mul(0x9E37_79B9_7F4A_7C15))
    })
}

fn subscription(number: u64) -> SubscriptionId {
    SubscriptionId::from_parts(number, 0)
}

fn tenant(number: u64) -> TenantId {
    TenantId::from_parts(number, 0)
}

fn terms(of: u64, host: u64) -> Terms {
    Terms { tenant: tenant(of), host: format!("host-{host}:443").into(), rate: None, at_most: u32::MAX }
}

/// Everybody may have everything, at any standing.
fn limits(node: u32) -> Limits {
    let all = [node; 3];
    Limits { node: all, tenant: all, host: all, host_rate: None, slow_after: SECOND }
}

/// [`Turns`] at a time, with what it granted and what it was asked.
struct Desk {
    turns: Turns,
    now: Moment,
    held: Vec<Held>,
    asked: HashMap<SubscriptionId, (Terms, u32)>,
    granted: Vec<(Moment, SubscriptionId, HostId)>,
}

impl Desk {
    fn new(limits: Limits) -> Self {
        Self { turns: Turns::new(limits), now: SECOND, held: vec![], asked: HashMap::new(), granted: vec![] }
    }

    fn set(&mut self, number: u64, terms: Terms) {
        let id = subscription(number);
        self.turns.set(id, &terms, false, self.now);
        let wanted = self.asked.get(&id).map_or(0, |(_, wanted)| *wanted);
        self.asked.insert(id, (terms, wanted));
    }

    fn want(&mut self, number: u64, more: u32) {
        self.turns.want(subscription(number), more, self.now);
        self.asked.get_mut(&subscription(number)).unwrap().1 += more;
    }

    fn prove_all(&mut self) {
        self.asked.keys().for_each(|id| self.turns.stand(*id, Standing::Proven, self.now));
    }

    fn withdraw(&mut self, number: u64, fewer: u32) {
        let asked = &mut self.asked.get_mut(&subscription(number)).unwrap().1;
        assert_eq!(self.turns.withdraw(subscription(number), fewer, self.now), fewer.min(*asked));
        *asked = asked.saturating_sub(fewer);
    }

    fn wanted(&self) -> u32 {
        self.asked.values().map(|(_, wanted)| wanted).sum()
    }

    /// Grants what can be granted, holds each grant against the limits, and what is left against the model.
    fn grant_all(&mut self) -> usize {
        let before = self.granted.len();
        while let Some(held) = self.turns.grant(self.now) {
            let wanted = &mut self.asked.get_mut(&held.subscription).expect("it is known").1;
            *wanted = wanted.checked_sub(1).expect("it was wanted");
            self.granted.push((self.now, held.subscription, held.host));
            self.held.push(held);
            self.check_limits();
        }
        self.check_nobody_waits_for_nothing();
        self.granted.len() - before
    }

    fn check_limits(&self) {
        let limits = self.turns.limits;
        let last = self.held.last().unwrap();
        let same = |same: &dyn Fn(&Held) -> bool, places: Places| {
            for (level, most) in places.into_iter().enumerate() {
                let used = self.held.iter().filter(|held| held.standing as usize <= level && same(held)).count();
                assert!(used <= most as usize, "{used} of {most}");
            }
        };
        same(&|_| true, limits.node);
        same(&|held| held.tenant == last.tenant, limits.tenant);
        same(&|held| held.host == last.host, limits.host);
        let own = self.held.iter().filter(|held| held.subscription == last.subscription).count();
        assert!(own <= self.asked[&last.subscription].0.at_most as usize || own == 1);
    }

    /// No head-of-line blocking: whoever could begin has begun.
    fn check_nobody_waits_for_nothing(&self) {
        let turns = &self.turns;
        let in_time = |rate: Option<Gcra>| rate.is_none_or(|rate| rate.next_at() <= self.now);
        for (id, (terms, wanted)) in &self.asked {
            let Some(known) = turns.subscriptions.get(id) else { continue };
            assert_eq!((known.wanted, known.at_most), (*wanted, terms.at_most));
            let host = &turns.hosts[&known.host];
            let could = *wanted > 0
                && known.held < known.at_most
                && in_time(known.rate)
                && in_time(host.rate)
                && host.room.admits(known.standing, &turns.limits.host)
                && turns.tenants[&known.tenant].room.admits(known.standing, &turns.limits.tenant)
                && turns.node.admits(known.standing, &turns.limits.node);
            assert!(!could, "{id} could begin: {known:?}");
        }
    }

    fn give_back(&mut self, index: usize) {
        let held = self.held.swap_remove(index);
        self.turns.give_back(held, self.now);
    }
}

fn random_limits(chance: &mut Chance) -> Limits {
    let mut some = |most: u64| places(1 + chance.below(most) as usize, 25, 50);
    let (node, tenant, host) = (some(24), some(12), some(6));
    let host_rate = NonZeroU32::new([0, 0, 20, 300][chance.below(4) as usize]);
    Limits { node, tenant, host, host_rate, slow_after: SECOND }
}

fn random_terms(chance: &mut Chance, number: u64) -> Terms {
    Terms {
        rate: NonZeroU32::new([0, 0, 1, 50][chance.below(4) as usize]),
        at_most: 1 + chance.below(4) as u32,
        ..terms(number % 5, chance.below(6))
    }
}

fn random_step(desk: &mut Desk, chance: &mut Chance) {
    let number = chance.below(30);
    let known = desk.asked.contains_key(&subscription(number));
    match chance.below(12) {
        0 => desk.set(number, random_terms(chance, number)),
        1 if known => {
            desk.turns.leave(subscription(number));
            desk.asked.remove(&subscription(number));
        }
        2 if known => desk.withdraw(number, chance.below(5) as u32),
        3..=5 if known => desk.want(number, 1 + chance.below(6) as u32),
        6 => desk.now += chance.below(2 * SECOND),
        7 => desk.now += chance.below(20 * MS),
        _ if !desk.held.is_empty() => desk.give_back(chance.below(desk.held.len() as u64) as usize),
        _ => {}
    }
}

#[test]
fn no_limit_is_passed_nobody_waits_for_nothing_and_everything_is_granted_in_the_end() {
    for mut chance in chances(300) {
        let mut desk = Desk::new(random_limits(&mut chance));
        for _ in 0..400 {
            random_step(&mut desk, &mut chance);
            desk.grant_all();
        }
        for _ in 0..20_000 {
            if desk.wanted() == 0 {
                break;
            }
            desk.now += 50 * MS;
            while !desk.held.is_empty() {
                desk.give_back(0);
            }
            desk.grant_all();
        }
        assert_eq!(desk.wanted(), 0);
        check_rates(&desk);
        while !desk.held.is_empty() {
            desk.give_back(0);
        }
        (0..30).for_each(|number| desk.turns.leave(subscription(number)));
        let Turns { tenants, hosts, host_ids, lanes, subscriptions, rings, open, under_way, .. } = desk.turns;
        assert!(tenants.is_empty() && hosts.is_empty() && host_ids.is_empty() && lanes.is_empty());
        assert!(
            subscriptions.is_empty() && rings.iter().all(Line::is_empty) && open.is_empty() && under_way.is_empty()
        );
    }
}

/// Over any window, a host has begun no more than its rate allows.
fn check_rates(desk: &Desk) {
    let Some(rate) = desk.turns.limits.host_rate.map(|rate| u64::from(rate.get())) else { return };
    let mut times: HashMap<HostId, Vec<Moment>> = HashMap::new();
    for (at, _, host) in &desk.granted {
        times.entry(*host).or_default().push(*at);
    }
    for times in times.values() {
        check_rate(times, rate);
    }
}

fn check_rate(times: &[Moment], rate: u64) {
    for (first, from) in times.iter().enumerate() {
        for (more, to) in times[first..].iter().enumerate().take(200) {
            let allowed = rate * (to - from + 10 * MS) / SECOND + 1;
            assert!(more as u64 <= allowed, "{more} after {} ns, allowed {allowed}", to - from);
        }
    }
}

#[test]
fn the_rate_of_a_subscription_holds_over_any_window_and_is_reached() {
    for mut chance in chances(20) {
        let rate = [1, 7, 100, 2_000][chance.below(4) as usize];
        let mut desk = Desk::new(limits(64));
        desk.set(1, Terms { rate: NonZeroU32::new(rate), ..terms(1, 1) });
        desk.set(2, terms(1, 1));
        desk.want(1, 10 * rate);
        let until = desk.now + 5 * SECOND;
        while desk.now < until {
            // Another one's traffic makes the desk look at odd times.
            desk.want(2, 1);
            desk.grant_all();
            while !desk.held.is_empty() {
                desk.give_back(0);
            }
            desk.now = desk.turns.next_at().unwrap().min(desk.now + 1 + chance.below(9 * MS)).max(desk.now + 1);
        }
        let granted = desk.granted.iter().filter(|(_, id, _)| *id == subscription(1));
        let times: Vec<_> = granted.map(|(at, ..)| *at).collect();
        check_rate(&times, u64::from(rate));
        let expected = 5 * rate as usize;
        assert!(
            (expected * 98 / 100..=expected * 101 / 100 + 2).contains(&times.len()),
            "{} of {expected}",
            times.len()
        );
    }
}

#[test]
fn two_tenants_that_want_everything_get_equal_shares_whatever_their_numbers() {
    for mut chance in chances(50) {
        // All at one standing: what is asked here is how they share it.
        let mut desk = Desk::new(Limits { slow_after: Moment::MAX, ..limits(1 + chance.below(16) as u32) });
        let many = 1 + chance.below(200);
        // The one has a single subscription, the other many, on hosts of their own or not.
        let hosts = 1 + chance.below(many);
        desk.set(0, terms(0, 0));
        (1..=many).for_each(|number| desk.set(number, terms(1, number % hosts)));
        desk.prove_all();
        desk.want(0, 1_000_000);
        (1..=many).for_each(|number| desk.want(number, 1_000_000));
        let mut shares = [0_i64; 2];
        let mut seen = 0;
        for _ in 0..1_000 {
            desk.now += chance.below(2 * SECOND);
            for _ in 0..chance.below(3) {
                if !desk.held.is_empty() {
                    desk.give_back(chance.below(desk.held.len() as u64) as usize);
                }
            }
            desk.grant_all();
            for (_, id, _) in &desk.granted[seen..] {
                shares[usize::from(*id != subscription(0))] += 1;
                assert!((shares[0] - shares[1]).abs() <= 1, "{shares:?}");
            }
            seen = desk.granted.len();
        }
    }
}

#[test]
fn the_subscriptions_of_a_tenant_take_turns() {
    let mut desk = Desk::new(limits(1));
    // Two of them share a host.
    for (number, host) in [(1, 1), (2, 2), (3, 1)] {
        desk.set(number, terms(1, host));
        desk.prove_all();
        desk.want(number, 100);
    }
    for _ in 0..30 {
        desk.grant_all();
        desk.give_back(0);
    }
    let of = |number| desk.granted.iter().filter(|(_, id, _)| *id == subscription(number)).count();
    assert_eq!([of(1), of(2), of(3)], [10, 10, 10]);
}

/// How often others of a crowded host went before one subscription there, at most.
fn passed_over(chance: &mut Chance) -> u64 {
    let tenants = 2 + chance.below(5);
    let node = 2 + chance.below(6) as u32;
    let mut desk = Desk::new(Limits { host: [1; 3], slow_after: Moment::MAX, ..limits(node) });
    // Every tenant sends to the crowded host 0, and has turns for what it sends elsewhere.
    for of in 0..tenants {
        desk.set(100 * of, terms(of, 0));
        let elsewhere = if of == 0 { chance.below(6) } else { 1 + chance.below(4) };
        (1..=elsewhere).for_each(|host| desk.set(100 * of + host, terms(of, 100 * of + host)));
    }
    desk.prove_all();
    let mut all: Vec<_> = desk.asked.keys().copied().collect();
    all.sort_unstable();
    all.into_iter().for_each(|id| desk.turns.want(id, u32::MAX / 2, desk.now));
    // The first, any or the last of those under way ends next: regular patterns are the dangerous ones.
    let order = chance.below(3);
    let (mut waited, mut most) = (0, 0);
    for _ in 0..5_000 {
        desk.now += MS;
        if let Some(last) = desk.held.len().checked_sub(1) {
            let index = [0, chance.below(last as u64 + 1) as usize, last][order as usize];
            let held = desk.held.remove(index);
            desk.turns.give_back(held, desk.now);
        }
        while let Some(held) = desk.turns.grant(desk.now) {
            match (0..tenants).find(|of| held.subscription == subscription(100 * of)) {
                Some(0) => waited = 0,
                Some(_) => waited += 1,
                None => {}
            }
            most = most.max(waited);
            desk.held.push(held);
        }
    }
    assert!(most <= 6 * tenants, "passed over {most} times beside {tenants} tenants");
    most
}

#[test]
fn at_a_crowded_host_nobody_is_passed_over_for_ever() {
    let most = chances(300).map(|mut chance| passed_over(&mut chance)).max();
    println!("at most {most:?} times");
}

#[test]
fn lowering_the_count_takes_back_what_is_not_granted() {
    let mut desk = Desk::new(limits(2));
    desk.set(1, terms(1, 1));
    desk.want(1, 5);
    assert_eq!(desk.grant_all(), 2);
    desk.withdraw(1, 100);
    desk.give_back(0);
    desk.give_back(0);
    assert_eq!(desk.grant_all(), 0);
}

#[test]
fn fewer_at_one_time_holds_for_what_begins_next() {
    let mut desk = Desk::new(limits(8));
    desk.set(1, terms(1, 1));
    desk.want(1, 8);
    desk.turns.set(subscription(1), &Terms { at_most: 3, ..terms(1, 1) }, false, desk.now);
    desk.asked.get_mut(&subscription(1)).unwrap().0.at_most = 3;
    assert_eq!(desk.grant_all(), 3);
}

/// Endpoints in time of their own: each attempt ends so long after it began.
struct Endpoints {
    desk: Desk,
    ends: BTreeMap<(Moment, u64), Held>,
}

impl Endpoints {
    /// Runs until `until`; `held_for` says how long each subscription's attempts take. Returns how long grants of those
    /// that `listen` picks were behind their messages, which come at `arrivals`.
    fn run(
        &mut self,
        until: Moment,
        held_for: impl Fn(SubscriptionId) -> Moment,
        mut arrivals: impl Iterator<Item = (Moment, u64)>,
    ) -> Vec<Moment> {
        let mut waiting: HashMap<SubscriptionId, std::collections::VecDeque<Moment>> = HashMap::new();
        let mut waits = vec![];
        let mut next = arrivals.next();
        loop {
            while let Some(held) = self.desk.turns.grant(self.desk.now) {
                if let Some(came) = waiting.get_mut(&held.subscription).and_then(std::collections::VecDeque::pop_front)
                {
                    waits.push(self.desk.now - came);
                }
                self.ends.insert((self.desk.now + held_for(held.subscription), held.number), held);
            }
            let end = self.ends.keys().next().map(|(at, _)| *at);
            let at = [end, next.map(|(at, _)| at)].into_iter().flatten().min().unwrap();
            if at > until {
                return waits;
            }
            self.desk.now = at;
            if let Some((_, number)) = next.filter(|(came, _)| *came == at) {
                self.desk.turns.want(subscription(number), 1, at);
                waiting.entry(subscription(number)).or_default().push_back(at);
                next = arrivals.next();
            } else if let Some((_, held)) = self.ends.pop_first() {
                self.desk.turns.give_back(held, at);
            }
        }
    }
}

/// A hundred healthy subscriptions get 100 messages a second, before and after ten thousand that swallow every attempt
/// for 30 s begin to want all they can get.
fn healthy_waits_beside_black_holes(tenant_of_black_holes: u64, host_of_black_holes: Option<u64>) -> [Vec<Moment>; 2] {
    let share = |all| places(all, 25, 50);
    let limits = Limits { node: share(512), tenant: share(256), host: share(128), ..limits(512) };
    let mut endpoints = Endpoints { desk: Desk::new(limits), ends: BTreeMap::new() };
    (0..100).for_each(|number| endpoints.desk.set(number, Terms { at_most: 16, ..terms(1, number) }));
    let held_for = |id: SubscriptionId| if id < subscription(100) { 20 * MS } else { 30 * SECOND };
    let arrivals = |from: Moment| (0_u64..).map(move |n| (from + n * 10 * MS, n % 100));
    let before = endpoints.run(11 * SECOND, held_for, arrivals(SECOND));
    for number in 100..10_100 {
        let host = host_of_black_holes.unwrap_or(number);
        endpoints.desk.set(number, Terms { at_most: 16, ..terms(tenant_of_black_holes, host) });
        endpoints.desk.want(number, 1_000_000);
    }
    let from = endpoints.desk.now;
    let beside = endpoints.run(from + 120 * SECOND, held_for, arrivals(from + 5 * MS));
    [before, beside]
}

#[test]
fn ten_thousand_black_holes_do_not_delay_a_hundred_healthy_ones() {
    for (tenant_of_black_holes, host) in [(2, None), (1, None), (1, Some(0))] {
        let [before, mut beside] = healthy_waits_beside_black_holes(tenant_of_black_holes, host);
        assert_eq!(before.iter().max(), Some(&0));
        assert!(beside.len() > 11_000);
        beside.sort_unstable();
        assert_eq!(beside[beside.len() * 99 / 100], 0, "tenant {tenant_of_black_holes}, host {host:?}");
    }
}

#[test]
fn an_endpoint_that_goes_dark_is_slow_before_its_attempts_end() {
    let mut desk = Desk::new(Limits { node: places(20, 25, 50), ..limits(20) });
    desk.set(1, Terms { at_most: 8, ..terms(1, 1) });
    desk.want(1, 1_000);
    desk.grant_all();
    desk.now += MS;
    desk.give_back(0);
    desk.grant_all();
    desk.now += 2 * SECOND;
    desk.grant_all();
    assert_eq!(desk.turns.subscriptions[&subscription(1)].standing, Standing::Slow);
    // And proven again as soon as one answers shortly.
    while !desk.held.is_empty() {
        desk.give_back(0);
    }
    desk.grant_all();
    desk.give_back(0);
    assert_eq!(desk.turns.subscriptions[&subscription(1)].standing, Standing::Proven);
}
