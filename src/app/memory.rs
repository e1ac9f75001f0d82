//! The stage of what is stored: the database, users and keys, the way of usage to the database, and shares of limits.
use std::io;
use std::sync::Arc;
use std::time::Duration;

use tokio_util::sync::CancellationToken;

use super::thread::{self, Task};
use crate::clock::Clock;
use crate::config::Config;
use crate::store::{Accounts, Broker, Copier, Leaser, Peppers, Recorder, Stances, Store, StoreError, Writer};

/// How long usage of an earlier run is copied to the database before requests are taken.
const CATCH_UP: Duration = Duration::from_secs(5);
/// How long a local file that cannot be written, or a slow database, is waited for at the end.
const FLUSH_PATIENCE: Duration = Duration::from_secs(20);

/// The parts, built and not yet at work.
pub(super) struct Memory {
    pub(super) store: Store,
    pub(super) accounts: Arc<Accounts>,
    pub(super) recorder: Recorder,
    /// The way to the shares of limits; `None` with SQLite.
    pub(super) broker: Option<Broker>,
    /// Where gateways agree how they divide the nodes' slots; `None` with SQLite.
    pub(super) stances: Option<Stances>,
    writer: Writer,
    copier: Option<Copier>,
    leaser: Option<Leaser>,
}

impl Memory {
    /// Opens the database, copies what an earlier run left, reads users and keys, and looks who shares their limits.
    pub(super) async fn open(config: &Config, clock: Clock) -> Result<Self, StoreError> {
        let store = Store::open(&config.database).await?.with_peppers(Peppers::load(&config.keys)?);
        if let Err(error) = store.seal_nodes().await {
            tracing::warn!(%error, "settings of nodes that were added could not be sealed with the pepper");
        }
        let (recorder, writer, mut copier) = Recorder::new(store.clone(), clock);
        if let Some(copier) = &copier {
            copier.catch_up(CATCH_UP).await;
        }
        let accounts = Arc::new(Accounts::load(store.clone(), &config.keys, clock.now()).await?);
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

    /// Starts what writes usage, copies it, and holds shares of limits.
    ///
    /// # Errors
    /// When the operating system has no more threads.
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

/// The parts at work.
pub(super) struct Remembering {
    /// In the order in which they stop: usage is flushed, then copied, and only then are shares given back.
    stages: [(CancellationToken, Option<Task>); 3],
    store: Store,
}

impl Remembering {
    /// Stops one after the other, each with all that the one before it left. The database, which is still open.
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
