//! What brings usage rows into the local file?
//!
//! One task takes whatever is queued and writes it by one statement: while that is under way the next rows gather, so a
//! busy gateway commits large groups, and an idle one keeps nobody waiting. Rows that cannot be written wait and are
//! tried again until they are in; a row that is there already is left alone. At the first failure the disk's reserve is
//! given up, and nothing is admitted until writing works and the reserve is back.
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use entity::usage::Model;
use tokio::sync::{mpsc, oneshot};
use tokio_util::sync::CancellationToken;

use super::deadline::{STATEMENT_DEADLINE, within_deadline};
use super::error::StoreError;
use super::local::Local;
use super::outbox::Outbox;
use super::refusals::Refusals;
use super::reserve::Reserve;
use super::running::Running;
use super::usage_row::{UsageRow, insert_rows};
use crate::clock::Clock;

/// Rows a statement: SQLite limits the number of bound values.
const BATCH: usize = 500;
const RETRY: std::ops::RangeInclusive<Duration> = Duration::from_millis(50)..=Duration::from_secs(1);
/// Between two looks whether writing works again.
const MEND: Duration = Duration::from_millis(500);

#[derive(Debug)]
pub(super) enum Entry {
    /// Answered once the row is in the local file.
    Row(Box<UsageRow>, oneshot::Sender<()>),
    /// Answered once everything before it is.
    Flush(oneshot::Sender<()>),
}

/// Whether rows can be kept.
#[derive(Debug)]
pub(super) struct State {
    is_writable: AtomicBool,
    reserve: Arc<Reserve>,
}

impl State {
    pub(super) fn new(reserve: Arc<Reserve>) -> Self {
        Self { is_writable: AtomicBool::new(true), reserve }
    }

    pub(super) fn is_ready(&self) -> bool {
        self.is_writable.load(Ordering::Relaxed) && self.reserve.is_held()
    }

    /// Something could not be written. True where that is worth trying again at once, as there is room now.
    fn failed(&self, error: &StoreError) -> bool {
        let released = self.reserve.release();
        if self.is_writable.swap(false, Ordering::Relaxed) || released {
            tracing::error!(%error, "usage cannot be written to the local file: no new requests are admitted");
        }
        released
    }
}

/// The task that writes rows.
#[derive(Debug)]
pub struct Writer {
    pub(super) local: Local,
    pub(super) receiver: mpsc::Receiver<Entry>,
    pub(super) running: Arc<Running>,
    pub(super) refusals: Arc<Refusals>,
    pub(super) state: Arc<State>,
    pub(super) outbox: Option<Arc<Outbox>>,
    pub(super) clock: Clock,
}

impl Writer {
    /// Writes until `stop`, then until every row and every outstanding permit is in. Gives up on a file that cannot be
    /// written for `patience` after the stop, with the number of lost rows in the log.
    pub async fn run(mut self, stop: CancellationToken, patience: Duration) {
        let mut entries = Vec::with_capacity(BATCH);
        let mut notes_due = Box::pin(self.running.clone().due());
        let mut refusals_due = Box::pin(self.refusals.clone().due());
        loop {
            tokio::select! {
                biased;
                // First, as rows may come without end; it is due only now and then.
                () = &mut notes_due => {
                    self.write_notes().await;
                    notes_due = Box::pin(self.running.clone().due());
                }
                () = &mut refusals_due => {
                    let complete = self.refusals.complete(self.clock.now().unix_ms);
                    if !self.write_refusals(complete, &stop, patience).await {
                        return;
                    }
                    refusals_due = Box::pin(self.refusals.clone().due());
                }
                taken = self.receiver.recv_many(&mut entries, BATCH) => {
                    if taken == 0 {
                        break;
                    }
                    if !self.settle(&mut entries, &stop, patience).await {
                        return;
                    }
                }
                () = stop.cancelled(), if !self.receiver.is_closed() => self.receiver.close(),
                () = tokio::time::sleep(MEND), if !self.state.is_ready() => self.mend().await,
            }
        }
        let rest = self.refusals.all();
        if self.write_refusals(rest, &stop, patience).await {
            self.write_notes().await;
        }
    }

    /// Brings the entries in and answers those who wait. Returns false when it gave up.
    async fn settle(&mut self, entries: &mut Vec<Entry>, stop: &CancellationToken, patience: Duration) -> bool {
        let (mut rows, mut waiting) = (Vec::with_capacity(entries.len()), Vec::with_capacity(entries.len()));
        let mut flushes = false;
        for entry in entries.drain(..) {
            waiting.push(match entry {
                Entry::Row(row, done) => {
                    rows.push(row.into_model());
                    done
                }
                Entry::Flush(done) => {
                    flushes = true;
                    done
                }
            });
        }
        if !self.bring_in(&rows, stop, patience).await {
            return false;
        }
        if flushes {
            let complete = self.refusals.complete(self.clock.now().unix_ms);
            if !self.write_refusals(complete, stop, patience).await {
                return false;
            }
        }
        for done in waiting {
            // Whoever asked may have stopped waiting.
            let _ = done.send(());
        }
        true
    }

    /// Brings in what was refused, and logs once what shares a row. Returns false when it gave up.
    async fn write_refusals(&self, rows: Vec<UsageRow>, stop: &CancellationToken, patience: Duration) -> bool {
        for row in rows.iter().filter(|row| row.requests > 1) {
            let UsageRow { user, reason, requests, .. } = row;
            let (code, limit) = (reason.code.as_deref(), reason.limit.as_deref());
            tracing::warn!(%user, code, limit, requests, "requests were refused in one minute");
        }
        let rows: Vec<Model> = rows.into_iter().map(UsageRow::into_model).collect();
        for rows in rows.chunks(BATCH) {
            if !self.bring_in(rows, stop, patience).await {
                return false;
            }
        }
        true
    }

    /// Writes rows, and lets everybody know who counts them. Returns false when it gave up.
    async fn bring_in(&self, rows: &[Model], stop: &CancellationToken, patience: Duration) -> bool {
        if rows.is_empty() {
            return true;
        }
        if !self.write(rows, stop, patience).await {
            return false;
        }
        self.running.ended(rows.iter().map(|row| row.request_id));
        if let Some(outbox) = &self.outbox {
            outbox.taken(rows.len() as u64);
        }
        true
    }

    async fn write(&self, rows: &[Model], stop: &CancellationToken, patience: Duration) -> bool {
        let (mut pause, mut left) = (*RETRY.start(), patience);
        while let Err(error) = within_deadline(insert_rows(&self.local.db, rows)).await {
            if self.state.failed(&error) {
                continue;
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
        true
    }

    async fn write_notes(&self) {
        if let Err(error) = self.running.write(&self.local).await {
            self.state.failed(&error);
        }
    }

    /// Looks whether writing works again, and takes the reserve back.
    async fn mend(&self) {
        if self.local.try_write().await.is_err() {
            return;
        }
        let reserve = self.state.reserve.clone();
        let taken = tokio::task::spawn_blocking(move || reserve.take()).await;
        if matches!(taken, Ok(Ok(()))) && !self.state.is_writable.swap(true, Ordering::Relaxed) {
            tracing::info!("usage can be written again");
            self.write_notes().await;
        }
    }
}
