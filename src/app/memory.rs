//! The stage of what is stored: the database, users and keys, the way of usage to the database, and shares of limits.
use std::sync::Arc;
use std::time::Duration;

use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use crate::clock::Clock;
use crate::config::Config;
use crate::store::{Accounts, Broker, Copier, Leaser, Recorder, Store, StoreError, Writer};

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
    writer: Writer,
    copier: Option<Copier>,
    leaser: Option<Leaser>,
}

impl Memory {
    /// Opens the database, copies what an earlier run left, reads users and keys, and looks who shares their limits.
    pub(super) async fn open(config: &Config, clock: Clock) -> Result<Self, StoreError> {
        let store = Store::open(&config.database).await?;
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
        Ok(Self { store, accounts, recorder, broker, writer, copier, leaser })
    }

    /// Starts what writes usage, copies it, and holds shares of limits.
    pub(super) fn start(self) -> Remembering {
        let (flush, copy, share) = (CancellationToken::new(), CancellationToken::new(), CancellationToken::new());
        let writing = actix_rt::spawn(self.writer.run(flush.clone(), FLUSH_PATIENCE));
        let copying = self.copier.map(|copier| actix_rt::spawn(copier.run(copy.clone(), FLUSH_PATIENCE)));
        let sharing = self.leaser.map(|leaser| actix_rt::spawn(leaser.run(share.clone())));
        let stages = [(flush, Some(writing)), (copy, copying), (share, sharing)];
        Remembering { stages, store: self.store }
    }
}

/// The parts at work.
pub(super) struct Remembering {
    /// In the order in which they stop: usage is flushed, then copied, and only then are shares given back.
    stages: [(CancellationToken, Option<JoinHandle<()>>); 3],
    store: Store,
}

impl Remembering {
    /// Stops one after the other, each with all that the one before it left. The database, which is still open.
    pub(super) async fn stop(self) -> Store {
        for (stop, task) in self.stages {
            stop.cancel();
            if let Some(task) = task {
                let _ = task.await;
            }
        }
        self.store
    }
}
