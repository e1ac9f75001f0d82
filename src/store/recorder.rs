//! Where requests hand in their usage rows, and wait until those are safe.
//!
//! A request takes a [`RowPermit`] before it is admitted, notes its progress through it, and sends its row through it at
//! its end. The permit is a place in a bounded queue, so sending neither waits nor fails. While rows cannot be written,
//! there are no permits, and no request is admitted. The end of an answer is held back until the [`Receipt`] confirms that
//! its row is in the local file: for 10 s at most, or for 2 s if a write has failed by then.
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{mpsc, oneshot};

use super::database::Store;
use super::outbox::{Copied, Copier, Outbox};
use super::refusals::Refusals;
use super::running::Running;
use super::usage_row::UsageRow;
use super::writer::{Entry, State, Writer};
use crate::clock::Clock;

/// Rows that may wait for the local file, running requests included.
const QUEUE: usize = 16_384;
/// Longest wait for the local file, once a write has failed or for somebody who only reads.
const PATIENCE: Duration = Duration::from_secs(2);
/// Longest wait for the local file as long as no write has failed. A disk that something else keeps busy, such as a model on
/// its way there, can take seconds; a client that is told to try again costs a node the whole answer once more.
const SLOW_PATIENCE: Duration = Duration::from_secs(10);

/// Where rows are handed in. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Recorder {
    sender: mpsc::Sender<Entry>,
    running: Arc<Running>,
    refusals: Arc<Refusals>,
    state: Arc<State>,
    outbox: Option<Arc<Outbox>>,
}

/// No row can be kept at the moment, so no request can be admitted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("usage cannot be stored at the moment")]
pub struct StorageFull;

/// A place for one row.
#[derive(Debug)]
pub struct RowPermit {
    place: mpsc::OwnedPermit<Entry>,
    running: Arc<Running>,
    refusals: Arc<Refusals>,
    state: Arc<State>,
}

impl RowPermit {
    /// Notes the row that the request would leave if the gateway died now; never waits.
    pub fn note(&self, row: UsageRow) {
        self.running.note(row);
    }

    /// Like [`RowPermit::note`], with a receipt that confirms when the note is in the local file.
    pub fn note_at_once(&self, row: UsageRow) -> Receipt {
        let kept = self.running.note_at_once(row);
        Receipt { kept, state: self.state.clone() }
    }

    /// Hands in the row of a request that was refused before any node was asked; nobody waits for it. Returns whether it
    /// gets a row of its own, as a user's first few refusals in a minute do.
    pub fn refuse(self, row: &UsageRow) -> bool {
        // A stream may have left a note.
        self.running.forget(row.request_id);
        self.refusals.take(row)
    }

    /// Hands the row in; never waits.
    pub fn record(self, row: UsageRow) -> Receipt {
        let (done, kept) = oneshot::channel();
        self.place.send(Entry::Row(Box::new(row), done));
        Receipt { kept, state: self.state }
    }
}

/// Confirms, once it is so, that a row or a note is in the local file.
#[derive(Debug)]
pub struct Receipt {
    kept: oneshot::Receiver<()>,
    state: Arc<State>,
}

impl Receipt {
    /// Waits until the row is in the local file, where it survives the process.
    ///
    /// # Errors
    /// [`StorageFull`] after 2 s if a write has failed by then, and otherwise after 10 s. The row is still written as soon as
    /// possible.
    pub async fn kept(self) -> Result<(), StorageFull> {
        self.kept_within(PATIENCE, SLOW_PATIENCE).await
    }

    async fn kept_within(mut self, patience: Duration, slow_patience: Duration) -> Result<(), StorageFull> {
        let waited = match tokio::time::timeout(patience, &mut self.kept).await {
            Err(_) if self.state.is_ready() => {
                tokio::time::timeout(slow_patience.saturating_sub(patience), self.kept).await
            }
            waited => waited,
        };
        match waited {
            Ok(Ok(())) => Ok(()),
            Ok(Err(_)) | Err(_) => Err(StorageFull),
        }
    }
}

impl Recorder {
    /// A recorder and its tasks, which the caller spawns. There is a copier only in front of Postgres.
    pub fn new(store: Store, clock: Clock) -> (Self, Writer, Option<Copier>) {
        let (sender, receiver) = mpsc::channel(QUEUE);
        let running = Arc::<Running>::default();
        let state = Arc::new(State::new(store.local.reserve.clone()));
        let outbox = store.local.is_outbox.then(|| Arc::new(Outbox::new()));
        let copier = outbox.clone().map(|outbox| Copier::new(store.clone(), outbox, clock));
        let refusals = Arc::<Refusals>::default();
        let recorder = Self {
            sender,
            running: running.clone(),
            refusals: refusals.clone(),
            state: state.clone(),
            outbox: outbox.clone(),
        };
        let writer = Writer { local: store.local, receiver, running, refusals, state, outbox, clock };
        (recorder, writer, copier)
    }

    /// Takes a place for a row.
    ///
    /// # Errors
    /// [`StorageFull`] if rows cannot be written, too many wait, or the gateway stops.
    pub fn permit(&self) -> Result<RowPermit, StorageFull> {
        if !self.state.is_ready() {
            return Err(StorageFull);
        }
        let place = self.sender.clone().try_reserve_owned().map_err(|_| StorageFull)?;
        let (running, refusals, state) = (self.running.clone(), self.refusals.clone(), self.state.clone());
        Ok(RowPermit { place, running, refusals, state })
    }

    /// Whether rows can be stored: the last write succeeded, and both the disk and the queue have room.
    pub fn is_ready(&self) -> bool {
        self.state.is_ready() && self.sender.capacity() > 0
    }

    /// Places of the queue that are taken, by waiting rows and by permits.
    pub fn backlog(&self) -> usize {
        self.sender.max_capacity() - self.sender.capacity()
    }

    /// The progress of copying to Postgres; `None` if the local file is the database.
    pub fn copied(&self) -> Option<Copied> {
        self.outbox.as_ref().map(|outbox| *outbox.copied.borrow())
    }

    /// Waits until the rows handed in so far can be read, so that readers see their own; gives up after 2 s.
    pub async fn flush(&self) {
        let (done, written) = oneshot::channel();
        let flush = async {
            if self.sender.send(Entry::Flush(done)).await.is_ok() {
                let _ = written.await;
            }
            if let Some(outbox) = &self.outbox {
                outbox.emptied().await;
            }
        };
        let _ = tokio::time::timeout(PATIENCE, flush).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::reserve::Reserve;

    #[tokio::test]
    async fn a_slow_write_is_waited_for_longer_than_one_that_failed() {
        let folder = tempfile::tempdir().unwrap();
        let (reserve, ..) = Reserve::open(&folder.path().join("gateway.db")).await.unwrap();
        let reserve = Arc::new(reserve);
        let state = Arc::new(State::new(reserve.clone()));
        let (short, long) = (Duration::from_millis(20), Duration::from_secs(5));
        let wait = || {
            let (done, kept) = oneshot::channel();
            (done, Receipt { kept, state: state.clone() }.kept_within(short, long))
        };
        // Without its reserve the disk counts as full.
        let (_done, full) = wait();
        assert_eq!(tokio::time::timeout(long / 2, full).await, Ok(Err(StorageFull)), "after the short wait");
        reserve.take().unwrap();
        let (done, slow) = wait();
        let later = async {
            tokio::time::sleep(3 * short).await;
            done.send(()).unwrap();
        };
        assert_eq!(tokio::join!(slow, later).0, Ok(()));
    }
}
