//! How far the projections are, for those who wait and for operators.

use tokio::sync::watch;

use super::projection::Name;
use crate::event_store::Position;

/// A projection that stopped in one shard; it tries again by itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Stopped {
    /// Which.
    pub projection: Name,
    /// What it was about to apply.
    pub position: Position,
    /// Why it stopped; names the event's type where an event is the cause.
    pub reason: String,
}

/// How far one projection is in one shard.
#[derive(Clone, Debug, Default)]
pub(super) struct Place {
    pub(super) applied: u64,
    pub(super) stopped: Option<Stopped>,
    /// It stopped at an event, at which it will stop again: waiting for it is in vain.
    pub(super) stuck: bool,
}

/// How far all are: for each projection, in the order of [`Name::ALL`], its shards. Empty before a log is followed.
#[derive(Debug)]
pub(super) struct Progress([watch::Sender<Vec<Place>>; 5]);

impl Progress {
    pub(super) fn new() -> Self {
        Self(Name::ALL.map(|_| watch::Sender::new(Vec::new())))
    }

    fn of(&self, name: Name) -> &watch::Sender<Vec<Place>> {
        &self.0[name as usize]
    }

    /// Starts anew, from checkpoints.
    pub(super) fn restart(&self, name: Name, applied: &[u64]) {
        let place = |applied: &u64| Place { applied: *applied, ..Place::default() };
        self.of(name).send_replace(applied.iter().map(place).collect());
    }

    /// Tells those who wait of several shards at once.
    pub(super) fn advance(&self, name: Name, reached: impl Iterator<Item = Position>) {
        self.of(name).send_modify(|places| {
            for position in reached {
                if let Some(place) = places.get_mut(usize::from(position.shard)) {
                    *place = Place { applied: position.seq.max(place.applied), ..Place::default() };
                }
            }
        });
    }

    pub(super) fn stop(&self, stopped: Stopped, stuck: bool) {
        self.of(stopped.projection).send_modify(|places| {
            if let Some(place) = places.get_mut(usize::from(stopped.position.shard)) {
                place.stopped = Some(stopped);
                place.stuck = stuck;
            }
        });
    }

    /// Waits until every projection has applied the position; `false` if one of them cannot.
    pub(super) async fn reach(&self, position: Position) -> bool {
        let shard = usize::from(position.shard);
        let reached = |places: &Vec<Place>| places.get(shard).is_some_and(|place| place.applied >= position.seq);
        let settled = |places: &Vec<Place>| reached(places) || places.get(shard).is_some_and(|place| place.stuck);
        let mut all = true;
        for sender in &self.0 {
            // The sender lives as long as `self`.
            all &= sender.subscribe().wait_for(settled).await.is_ok_and(|places| reached(&places));
        }
        all
    }

    pub(super) fn applied_by(&self, name: Name, shard: u16) -> u64 {
        self.of(name).borrow().get(usize::from(shard)).map_or(0, |place| place.applied)
    }

    pub(super) fn stopped(&self) -> Vec<Stopped> {
        let of_one = |sender: &watch::Sender<Vec<Place>>| {
            sender.borrow().iter().filter_map(|place| place.stopped.clone()).collect::<Vec<_>>()
        };
        self.0.iter().flat_map(of_one).collect()
    }
}
