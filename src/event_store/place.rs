//! Places in the queue of a shard, for writers that wait for room instead of being refused.

use std::sync::Arc;

use tokio::sync::{OwnedSemaphorePermit, Semaphore, TryAcquireError, mpsc};

use super::lane::Queued;
use super::log::closed;
use super::{Ack, Append, AppendError};

/// The places of one shard. They are counted apart from what [`Log::try_append`](super::Log::try_append) may queue, so
/// that a crowd of those who wait leaves room for those who do not.
pub(super) struct Places {
    queue: mpsc::UnboundedSender<Queued>,
    of_shard: Arc<Semaphore>,
    of_all: Arc<Semaphore>,
}

impl Places {
    /// So many in this shard, of those that all shards have together.
    pub(super) fn new(of_shard: usize, of_all: Arc<Semaphore>) -> (Self, mpsc::UnboundedReceiver<Queued>) {
        // Bounded by the places.
        let (queue, queued) = mpsc::unbounded_channel();
        (Self { queue, of_shard: Arc::new(Semaphore::new(of_shard)), of_all }, queued)
    }

    /// One, if there is one.
    pub(super) fn try_take(&self) -> Result<Option<Place>, AppendError> {
        let taken = Arc::clone(&self.of_shard)
            .try_acquire_owned()
            .and_then(|of_shard| Ok((of_shard, Arc::clone(&self.of_all).try_acquire_owned()?)));
        match taken {
            Ok(room) => Ok(Some(Place { queue: self.queue.clone(), room })),
            Err(TryAcquireError::NoPermits) => Ok(None),
            Err(TryAcquireError::Closed) => Err(closed()),
        }
    }

    /// One, when there is one; who asks first is served first.
    pub(super) async fn take(&self) -> Result<Place, AppendError> {
        let of_shard = Arc::clone(&self.of_shard).acquire_owned().await.map_err(|_| closed())?;
        let of_all = Arc::clone(&self.of_all).acquire_owned().await.map_err(|_| closed())?;
        Ok(Place { queue: self.queue.clone(), room: (of_shard, of_all) })
    }

    /// How many appends have a place, of all shards.
    pub(super) fn taken(&self, places: usize) -> usize {
        places.saturating_sub(self.of_all.available_permits())
    }

    /// Nobody gets one any more.
    pub(super) fn close(&self) {
        self.of_shard.close();
        self.of_all.close();
    }
}

/// Room for one append in a shard's queue. Another one gets it when this is dropped.
#[derive(Debug)]
pub struct Place {
    queue: mpsc::UnboundedSender<Queued>,
    room: (OwnedSemaphorePermit, OwnedSemaphorePermit),
}

impl Place {
    /// Queues an append. `ack` is called once in every case, behind those of appends that had a place before.
    pub fn put(self, append: Append, ack: Ack) {
        let (room, of_all) = self.room;
        let queued = Queued { append, ack, _room: room, _place: Some(of_all) };
        if let Err(mpsc::error::SendError(refused)) = self.queue.send(queued) {
            (refused.ack)(Err(closed()));
        }
    }
}
