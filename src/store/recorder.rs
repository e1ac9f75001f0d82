//! How do usage rows reach the database without an answer waiting for it?
//!
//! A request takes a [`RowPermit`] before it is admitted and sends its row through it at its end. The permit is a place
//! in a bounded queue, so sending neither waits nor fails; while the queue is full nothing is admitted. One task, the
//! [`Writer`], takes whatever is queued and writes it in one transaction; a batch that fails is tried again until it is
//! in, and a row that is there already is left alone. Closing the queue ends the task once every permit is back.
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use entity::usage::{Entity, Model};
use sea_orm::{DbErr, EntityTrait, IntoActiveModel, SqliteTransactionMode, TransactionOptions, TransactionTrait};
use tokio::sync::{mpsc, oneshot};
use tokio_util::sync::CancellationToken;

use super::usage::UsageRow;
use super::{STATEMENT_DEADLINE, Store, within_deadline};

/// Rows that may wait for the database, running requests included.
const QUEUE: usize = 16_384;
/// Rows a statement: both databases limit the number of bound values.
const BATCH: usize = 1_000;
/// How long rows are gathered before they are written, so that a busy gateway commits seldom.
const GATHER: Duration = Duration::from_millis(10);
const RETRY: std::ops::RangeInclusive<Duration> = Duration::from_millis(50)..=Duration::from_secs(5);

enum Entry {
    Row(Box<UsageRow>),
    /// Answered once everything before it is written.
    Flush(oneshot::Sender<()>),
}

/// Where rows are handed in. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Recorder {
    sender: mpsc::Sender<Entry>,
    healthy: Arc<AtomicBool>,
}

/// No row can be kept at the moment, so no request can be admitted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("usage cannot be stored at the moment")]
pub struct StorageFull;

/// A place for one row.
#[derive(Debug)]
pub struct RowPermit(mpsc::OwnedPermit<Entry>);

impl RowPermit {
    /// Hands the row in; never waits.
    pub fn record(self, row: UsageRow) {
        self.0.send(Entry::Row(Box::new(row)));
    }
}

impl Recorder {
    /// A recorder and the task behind it, which the caller spawns.
    pub fn new(store: Store) -> (Self, Writer) {
        let (sender, receiver) = mpsc::channel(QUEUE);
        let healthy = Arc::new(AtomicBool::new(true));
        (Self { sender, healthy: healthy.clone() }, Writer { store, receiver, healthy })
    }

    /// Takes a place for a row.
    ///
    /// # Errors
    /// [`StorageFull`] while the database has been away for too long, or the gateway stops.
    pub fn permit(&self) -> Result<RowPermit, StorageFull> {
        self.sender.clone().try_reserve_owned().map(RowPermit).map_err(|_| StorageFull)
    }

    /// Whether rows can be kept: the queue has room and the last batch went in.
    pub fn is_ready(&self) -> bool {
        self.healthy.load(Ordering::Relaxed) && self.sender.capacity() > 0
    }

    /// Rows that are waiting or reserved.
    pub fn backlog(&self) -> usize {
        self.sender.max_capacity() - self.sender.capacity()
    }

    /// Waits until the rows handed in so far are written, so that a reader sees their own; gives up after 2 s.
    pub async fn flush(&self) {
        let (done, written) = oneshot::channel();
        let flush = async {
            if self.sender.send(Entry::Flush(done)).await.is_ok() {
                let _ = written.await;
            }
        };
        let _ = tokio::time::timeout(Duration::from_secs(2), flush).await;
    }
}

/// The task that writes rows.
#[derive(Debug)]
pub struct Writer {
    store: Store,
    receiver: mpsc::Receiver<Entry>,
    healthy: Arc<AtomicBool>,
}

impl Writer {
    /// Writes until `stop`, then until every row and every outstanding permit is in. Gives up on a database that stays
    /// away for `patience` after the stop, with the number of lost rows in the log.
    pub async fn run(mut self, stop: CancellationToken, patience: Duration) {
        let mut entries = Vec::with_capacity(BATCH);
        loop {
            tokio::select! {
                biased;
                taken = self.receiver.recv_many(&mut entries, BATCH) => if taken == 0 { return },
                () = stop.cancelled(), if !self.receiver.is_closed() => {
                    self.receiver.close();
                    continue;
                }
            }
            // Asleep rather than receiving: otherwise each row would wake this thread.
            tokio::time::sleep(GATHER).await;
            while entries.len() < BATCH
                && let Ok(entry) = self.receiver.try_recv()
            {
                entries.push(entry);
            }
            let (rows, flushes) = part(entries.drain(..));
            if !self.write(rows, &stop, patience).await {
                return;
            }
            for flush in flushes {
                // Whoever asked may have stopped waiting.
                let _ = flush.send(());
            }
        }
    }

    /// Returns false when it gave up.
    async fn write(&self, rows: Vec<Model>, stop: &CancellationToken, patience: Duration) -> bool {
        let mut pause = *RETRY.start();
        let mut left = patience;
        while let Err(error) = self.insert(&rows).await {
            if self.healthy.swap(false, Ordering::Relaxed) {
                tracing::error!(%error, rows = rows.len(), "usage rows cannot be written; they wait in memory");
            }
            if stop.is_cancelled() {
                if left.is_zero() {
                    tracing::error!(%error, rows = rows.len() + self.receiver.len(), "usage rows are lost");
                    return false;
                }
                left = left.saturating_sub(pause + STATEMENT_DEADLINE);
            }
            tokio::time::sleep(pause).await;
            pause = (pause * 2).min(*RETRY.end());
        }
        if !rows.is_empty() && !self.healthy.swap(true, Ordering::Relaxed) {
            tracing::info!("usage rows are written again");
        }
        true
    }

    async fn insert(&self, rows: &[Model]) -> Result<(), super::StoreError> {
        if rows.is_empty() {
            return Ok(());
        }
        within_deadline(async {
            let immediate = TransactionOptions {
                sqlite_transaction_mode: Some(SqliteTransactionMode::Immediate),
                ..Default::default()
            };
            let transaction = self.store.db.begin_with_options(immediate).await?;
            let rows = rows.iter().cloned().map(IntoActiveModel::into_active_model);
            Entity::insert_many(rows).on_conflict_do_nothing().exec_without_returning(&transaction).await?;
            transaction.commit().await?;
            Ok::<_, DbErr>(())
        })
        .await
    }
}

fn part(entries: impl Iterator<Item = Entry>) -> (Vec<Model>, Vec<oneshot::Sender<()>>) {
    let (mut rows, mut flushes) = (Vec::new(), Vec::new());
    for entry in entries {
        match entry {
            Entry::Row(row) => rows.push(row.into_model()),
            Entry::Flush(done) => flushes.push(done),
        }
    }
    (rows, flushes)
}
