//! Which part of the gateway stores things? The database, users and keys, usage on its way to the database, and shares
//! of limits.
use std::io;
use std::sync::Arc;
use std::time::Duration;

use tokio_util::sync::CancellationToken;

use super::thread::{self, Task};
use crate::clock::Clock;
use crate::config::Config;
use crate::store::{Accounts, Broker, Copier, Leaser, Peppers, Recorder, Stances, Store, StoreError, Writer};

/// How long the start waits while usage of an earlier run is copied to the database.
const CATCH_UP: Duration = Duration::from_secs(5);
/// How long the stop waits for a local file that cannot be written, or for a slow database.
const FLUSH_PATIENCE: Duration = Duration::from_secs(20);

/// The parts, built but not started.
pub(super) struct Memory {
    pub(super) store: Store,
    pub(super) accounts: Arc<Accounts>,
    pub(super) recorder: Recorder,
    /// Asks for shares of limits; `None` with SQLite.
    pub(super) broker: Option<Broker>,
    /// Where gateways agree on a division of the nodes' slots; `None` with SQLite.
    pub(super) stances: Option<Stances>,
    writer: Writer,
    copier: Option<Copier>,
    leaser: Option<Leaser>,
}

impl Memory {
    /// Opens the database, copies what an earlier run left, reads users and keys, and looks for gateways that share
    /// limits.
    pub(super) async fn open(config: &Config, clock: Clock) -> Result<Self, StoreError> {
        let store = Store::open(&config.database).await?.with_peppers(Peppers::load(&config.keys)?);
        if let Err(error) = store.seal_nodes().await {
            tracing::warn!(%error, "the settings of nodes in the database could not be sealed with the pepper");
        }
        let (recorder, writer, mut copier) = Recorder::new(store.clone(), clock);
        if let Some(copier) = &copier {
            copier.catch_up(CATCH_UP).await;
        }
        // Large: it must not lie within the futures of all who wait for it, down to the start.
        let accounts = Arc::new(Box::pin(Accounts::load(store.clone(), &config.keys, clock.now())).await?);
        if let Some(copier) = &mut copier {
            copier.tell(accounts.clone());
        }
        let leases = Leaser::open(store.clone(), accounts.clone(), clock, &config.database).await?;
        let (broker, mut leaser) = leases.unzip();
        if let Some(leaser) = &mut leaser {
            leaser.join().await;
        }
        let stances = leaser.as_ref().map(Leaser::stances);
        Ok(Self { store, accounts, recorder, broker, stances, writer, copier, leaser })
    }

    /// Starts the tasks that write usage, copy it, and hold shares of limits.
    ///
    /// # Errors
    /// The operating system has no more threads.
    pub(super) fn start(self) -> io::Result<Remembering> {
        let (flush, copy, share) = (CancellationToken::new(), CancellationToken::new(), CancellationToken::new());
        let (writer, flushed) = (self.writer, flush.clone());
        let writing = thread::run("writer", move || writer.run(flushed, FLUSH_PATIENCE))?;
        let copying = self.copier.map(|copier| thread::spawn(copier.run(copy.clone(), FLUSH_PATIENCE)));
        let sharing = self.leaser.map(|leaser| thread::spawn(leaser.run(share.clone())));
        let stages = [(flush, Some(writing)), (copy, copying), (share, sharing)];
        Ok(Remembering { stages, store: self.store })
    }
}

/// The parts once they are started.
pub(super) struct Remembering {
    /// In the order of stopping: usage is flushed, then copied, and only then are shares given back.
    stages: [(CancellationToken, Option<Task>); 3],
    store: Store,
}

impl Remembering {
    /// Stops the stages in order, each with everything that the one before it left. Returns the database, still open.
    pub(super) async fn stop(self) -> Store {
        for (stop, task) in self.stages {
            stop.cancel();
            if let Some(task) = task {
                task.await;
            }
        }
        self.store
    }
}
