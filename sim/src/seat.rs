//! Who holds a model, and who holds one of its slots? Both are given back on drop, so that a client that hangs up frees
//! them at once.

use std::sync::Arc;

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::engine::Engine;

/// Keeps a loaded model from being evicted.
#[derive(Debug)]
pub(crate) struct Lease {
    engine: Arc<Engine>,
    name: String,
    id: u64,
    slots: Arc<Semaphore>,
}

impl Lease {
    pub(crate) fn new(engine: Arc<Engine>, name: String, id: u64, slots: Arc<Semaphore>) -> Self {
        Self { engine, name, id, slots }
    }

    /// Waits for a slot, first come, first served.
    pub(crate) async fn seat(self) -> Seat {
        let slot = Arc::clone(&self.slots).acquire_owned().await;
        let slot = slot.expect("the semaphore of a runner is never closed");
        self.engine.begin_stream();
        Seat { _slot: slot, lease: self }
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        self.engine.leave(&self.name, self.id);
    }
}

/// A slot of a loaded model.
#[derive(Debug)]
pub(crate) struct Seat {
    _slot: OwnedSemaphorePermit,
    lease: Lease,
}

impl Drop for Seat {
    fn drop(&mut self) {
        self.lease.engine.end_stream();
    }
}
