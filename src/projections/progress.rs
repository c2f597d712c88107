//! How far the projections are, for those who wait and for operators.

use tokio::sync::watch;

use super::projection::{ApplyError, Name};
use crate::domain::time::Timestamp;
use crate::event_store::Position;

/// A projection that stopped in one shard; it tries again by itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Stopped {
    /// Which.
    pub projection: Name,
    /// What it was about to apply.
    pub position: Position,
    /// What kind of failure it was.
    pub class: StopClass,
    /// The type of the event that is the cause, if one is.
    pub event_type: Option<String>,
    /// Why it stopped; names the event's type where an event is the cause.
    pub reason: String,
}

/// What kind of failure stops a projection.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum StopClass {
    /// An event cannot be applied; it takes another program, or a repaired log.
    Event,
    /// The log cannot be read.
    Log,
    /// The read models cannot be written.
    Database,
}

impl StopClass {
    /// As it is saved.
    pub(super) fn as_str(self) -> &'static str {
        match self {
            Self::Event => "event",
            Self::Log => "log",
            Self::Database => "database",
        }
    }

    /// As it was saved; `None` for what this program does not write.
    pub(super) fn parse(text: &str) -> Option<Self> {
        [Self::Event, Self::Log, Self::Database].into_iter().find(|class| class.as_str() == text)
    }
}

impl Stopped {
    /// In front of the event, or of the first one that is not applied where none is to blame.
    pub(super) fn at(projection: Name, next: Position, failure: &ApplyError) -> Self {
        let (class, position, event_type) = match failure {
            ApplyError::Event { position, kind, .. } => (StopClass::Event, *position, Some(kind.clone())),
            ApplyError::Unreadable(event) => (StopClass::Event, event.position, None),
            ApplyError::Log(_) => (StopClass::Log, next, None),
            ApplyError::Database(_) | ApplyError::Overtaken => (StopClass::Database, next, None),
        };
        Self { projection, position, class, event_type, reason: failure.describe() }
    }
}

/// How one projection stands in one shard.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Standing {
    /// Which.
    pub projection: Name,
    /// The last event that it has applied; number 0 before the first.
    pub applied: Position,
    /// The number of the shard's last event.
    pub head: u64,
    /// When the oldest event was recorded that it has not applied; `None` if it has applied all.
    pub oldest_unapplied_at: Option<Timestamp>,
    /// Why it does not go on, if it does not.
    pub stopped: Option<Stopped>,
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

    /// Tells those who wait of several shards at once. One that stopped goes on when it has come further.
    pub(super) fn advance(&self, name: Name, reached: impl Iterator<Item = Position>) {
        self.of(name).send_modify(|places| {
            for position in reached {
                if let Some(place) =
                    places.get_mut(usize::from(position.shard)).filter(|place| place.applied < position.seq)
                {
                    *place = Place { applied: position.seq, ..Place::default() };
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

    /// Waits until these projections have applied the position; `false` if one of them cannot.
    pub(super) async fn reach(&self, names: &[Name], position: Position) -> bool {
        let shard = usize::from(position.shard);
        let reached = |places: &Vec<Place>| places.get(shard).is_some_and(|place| place.applied >= position.seq);
        let settled = |places: &Vec<Place>| reached(places) || places.get(shard).is_some_and(|place| place.stuck);
        let mut all = true;
        for sender in names.iter().map(|name| self.of(*name)) {
            // The sender lives as long as `self`.
            all &= sender.subscribe().wait_for(settled).await.is_ok_and(|places| reached(&places));
        }
        all
    }

    /// Waits until one projection has come further than the position.
    pub(super) async fn pass(&self, name: Name, position: Position) {
        let shard = usize::from(position.shard);
        let passed = |places: &Vec<Place>| places.get(shard).is_some_and(|place| place.applied > position.seq);
        // The sender lives as long as `self`.
        drop(self.of(name).subscribe().wait_for(passed).await);
    }

    pub(super) fn applied_by(&self, name: Name, shard: u16) -> u64 {
        self.of(name).borrow().get(usize::from(shard)).map_or(0, |place| place.applied)
    }

    pub(super) fn stopped_at(&self, name: Name, shard: u16) -> Option<Stopped> {
        self.of(name).borrow().get(usize::from(shard)).and_then(|place| place.stopped.clone())
    }

    pub(super) fn stopped(&self) -> Vec<Stopped> {
        let of_one = |sender: &watch::Sender<Vec<Place>>| {
            sender.borrow().iter().filter_map(|place| place.stopped.clone()).collect::<Vec<_>>()
        };
        self.0.iter().flat_map(of_one).collect()
    }
}
