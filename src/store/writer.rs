//! Writes usage rows to the local file.
//!
//! One task takes whatever is queued and commits it together. Meanwhile the next rows gather, so a busy gateway commits
//! large groups, and an idle one delays nobody. A very busy one also leaves a pause between the starts of two commits,
//! because most of a small commit's cost does not depend on its size. Rows that cannot be written are retried until they
//! are in the file; existing rows are skipped. At the first failure the reserve of disk space is freed, and no request is
//! admitted until writing works and the reserve is back. One write that takes too long is no failure yet: something else
//! keeps the disk busy, and refusing everybody for it would make a slow second an outage. Two in a row are one.
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use rusqlite::ErrorCode;
use tokio::sync::{mpsc, oneshot};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::commit::{Committer, RowBatch, tell};
use super::deadline::STATEMENT_DEADLINE;
use super::error::StoreError;
use super::local::Local;
use super::outbox::Outbox;
use super::refusals::Refusals;
use super::reserve::Reserve;
use super::running::{NoteBatch, Running};
use super::usage_row::UsageRow;
use crate::clock::Clock;

/// Rows of one commit, which must end within its deadline.
const BATCH: usize = 500;
/// After a commit of this many rows, the next one starts at least [`PAUSE`] after it.
const BUSY: usize = 4;
/// Short compared with a request on a node, and long compared with a commit.
const PAUSE: Duration = Duration::from_millis(2);
const RETRY: std::ops::RangeInclusive<Duration> = Duration::from_millis(50)..=Duration::from_secs(1);
/// Time between two checks whether writing works again.
const MEND: Duration = Duration::from_millis(500);

#[derive(Debug)]
pub(super) enum Entry {
    /// Answered once the row is in the local file.
    Row(Box<UsageRow>, oneshot::Sender<()>),
    /// Answered once every entry before it is.
    Flush(oneshot::Sender<()>),
}

/// Whether rows can be written.
#[derive(Debug)]
pub(super) struct State {
    is_writable: AtomicBool,
    /// The last write took too long.
    is_slow: AtomicBool,
    reserve: Arc<Reserve>,
}

impl State {
    pub(super) fn new(reserve: Arc<Reserve>) -> Self {
        Self { is_writable: AtomicBool::new(true), is_slow: AtomicBool::new(false), reserve }
    }

    pub(super) fn is_ready(&self) -> bool {
        self.is_writable.load(Ordering::Relaxed) && self.reserve.is_held()
    }

    fn succeeded(&self) {
        self.is_slow.store(false, Ordering::Relaxed);
    }

    /// Notes that a write failed. True if a retry may succeed at once: the reserve was freed just now, or the write only
    /// took too long, for the first time.
    fn failed(&self, error: &StoreError) -> bool {
        let is_slow = match error {
            StoreError::TimedOut(_) => true,
            StoreError::Commit(cause) => cause.sqlite_error_code() == Some(ErrorCode::DatabaseBusy),
            _ => false,
        };
        if is_slow && !self.is_slow.swap(true, Ordering::Relaxed) {
            tracing::warn!(%error, "the local file is slow: something else may keep its disk busy");
            return true;
        }
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
    /// Writes until `stop`, and then until all rows and all outstanding permits are done. If the file cannot be written for
    /// `patience` after the stop, it gives up and logs how many rows are lost.
    pub async fn run(mut self, stop: CancellationToken, patience: Duration) {
        let mut committer = Committer::new(&self.local);
        let mut entries = Vec::with_capacity(BATCH);
        let mut notes_due = Box::pin(self.running.clone().due());
        let mut refusals_due = Box::pin(self.refusals.clone().due());
        // When the next rows may be committed.
        let mut next = Instant::now();
        let mut is_paused = false;
        loop {
            tokio::select! {
                biased;
                // Notes come first, as rows may never cease; they are due only now and then.
                () = &mut notes_due => {
                    self.write_notes(&mut committer).await;
                    notes_due = Box::pin(self.running.clone().due());
                }
                () = &mut refusals_due => {
                    let complete = self.refusals.complete(self.clock.now().unix_ms);
                    if !self.write_refusals(&mut committer, &complete, &stop, patience).await {
                        return;
                    }
                    refusals_due = Box::pin(self.refusals.clone().due());
                }
                () = tokio::time::sleep_until(next), if is_paused => is_paused = false,
                taken = self.receiver.recv_many(&mut entries, BATCH), if !is_paused => {
                    if taken == 0 {
                        break;
                    }
                    next = Instant::now() + PAUSE;
                    is_paused = (BUSY..BATCH).contains(&taken);
                    if !self.settle(&mut committer, &mut entries, &stop, patience).await {
                        return;
                    }
                }
                () = stop.cancelled(), if !self.receiver.is_closed() => self.receiver.close(),
                () = tokio::time::sleep(MEND), if !self.state.is_ready() => self.mend(&mut committer).await,
            }
        }
        let rest = self.refusals.all();
        if self.write_refusals(&mut committer, &rest, &stop, patience).await {
            self.write_notes(&mut committer).await;
        }
        committer.close().await;
    }

    /// Writes the entries and the notes that are due, and answers those who wait. Returns false if it gave up.
    async fn settle(
        &mut self,
        committer: &mut Committer,
        entries: &mut Vec<Entry>,
        stop: &CancellationToken,
        patience: Duration,
    ) -> bool {
        let (mut rows, mut waiting, mut flushes) = (Vec::with_capacity(entries.len()), Vec::new(), Vec::new());
        for entry in entries.drain(..) {
            match entry {
                Entry::Row(row, done) => {
                    rows.push(*row);
                    waiting.push(done);
                }
                Entry::Flush(done) => flushes.push(done),
            }
        }
        if !rows.is_empty() {
            let count = rows.len() as u64;
            let NoteBatch { notes, gone, waiting: also } = self.running.take(rows.iter().map(|row| row.request_id));
            waiting.extend(also);
            let group = RowBatch { rows, notes, gone, waiting: waiting.into() };
            if !self.write(committer, group, stop, patience).await {
                return false;
            }
            if let Some(outbox) = &self.outbox {
                outbox.taken(count);
            }
        }
        if !flushes.is_empty() {
            let complete = self.refusals.complete(self.clock.now().unix_ms);
            if !self.write_refusals(committer, &complete, stop, patience).await {
                return false;
            }
        }
        tell(flushes);
        true
    }

    /// Writes the rows of refusals, and logs those that stand for several. Returns false if it gave up.
    async fn write_refusals(
        &self,
        committer: &mut Committer,
        rows: &[UsageRow],
        stop: &CancellationToken,
        patience: Duration,
    ) -> bool {
        for row in rows.iter().filter(|row| row.requests > 1) {
            let UsageRow { reason, requests, .. } = row;
            let user = row.user_name();
            let (code, limit) = (reason.code.as_deref(), reason.limit.as_deref());
            tracing::warn!(user, code, limit, requests, "requests were refused in one minute");
        }
        for rows in rows.chunks(BATCH) {
            let group = RowBatch { rows: rows.to_vec(), ..RowBatch::default() };
            if !self.write(committer, group, stop, patience).await {
                return false;
            }
            if let Some(outbox) = &self.outbox {
                outbox.taken(rows.len() as u64);
            }
        }
        true
    }

    async fn write(
        &self,
        committer: &mut Committer,
        group: RowBatch,
        stop: &CancellationToken,
        patience: Duration,
    ) -> bool {
        let group = Arc::new(group);
        let (mut pause, mut left) = (*RETRY.start(), patience);
        while let Err(error) = committer.commit(group.clone()).await {
            if self.state.failed(&error) {
                continue;
            }
            if stop.is_cancelled() {
                if left.is_zero() {
                    tracing::error!(%error, rows = group.rows.len() + self.receiver.len(), "usage rows are lost");
                    return false;
                }
                left = left.saturating_sub(pause + STATEMENT_DEADLINE);
            }
            tokio::time::sleep(pause).await;
            pause = (pause * 2).min(*RETRY.end());
        }
        self.state.succeeded();
        true
    }

    async fn write_notes(&self, committer: &mut Committer) {
        let NoteBatch { notes, gone, waiting } = self.running.take(std::iter::empty());
        let group = Arc::new(RowBatch { notes, gone, waiting: waiting.into(), ..RowBatch::default() });
        match committer.commit(group.clone()).await {
            Ok(()) => self.state.succeeded(),
            Err(error) => {
                // The thread may still have the group.
                let (notes, gone, waiting) = (group.notes.clone(), group.gone.clone(), group.take_waiting());
                self.running.put_back(NoteBatch { notes, gone, waiting });
                self.state.failed(&error);
            }
        }
    }

    /// Checks whether writing works again, and if so refills the reserve.
    async fn mend(&self, committer: &mut Committer) {
        if self.local.try_write().await.is_err() {
            return;
        }
        let reserve = self.state.reserve.clone();
        let taken = tokio::task::spawn_blocking(move || reserve.take()).await;
        if matches!(taken, Ok(Ok(()))) && !self.state.is_writable.swap(true, Ordering::Relaxed) {
            tracing::info!("usage can be written again");
            self.write_notes(committer).await;
        }
    }
}
