//! Keeps notes of the running requests, from which usage is recovered if the process dies.
//!
//! Each request notes the row that it would leave: when it is admitted, when a node gets it, and about once a second
//! while it runs. The writer puts notes that are some milliseconds old into the table `running`, together with the rows
//! of that moment. A request that ends earlier, as most do on a fast node, is never written there. At the next start,
//! whatever is in the table becomes usage with the status `interrupted`. If a note has outlived its request, the row of
//! the request is there already and wins.
use std::collections::hash_map::Entry;
use std::collections::{HashMap, HashSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use entity::running::{Column, Entity, Model};
use entity::usage;
use sea_orm::{EntityTrait, QueryFilter};
use tokio::sync::{Notify, oneshot};
use uuid::Uuid;

use super::deadline::within_deadline;
use super::error::StoreError;
use super::local::Local;
use super::many;
use super::usage_row::{Status, UsageRow, insert_rows};

/// The age at which notes are written, unless somebody waits for one; none gets twice as old. If the gateway dies before,
/// a request whose client has seen nothing yet leaves no trace.
const AGE: Duration = Duration::from_millis(25);
/// Notes of one transaction, which must end within its deadline.
const BATCH: usize = 10_000;
/// Rows of one statement at the start, for the same reason.
const RECOVERED: usize = 1_000;

/// The notes that are not written yet, at most one for each request; permits bound the number of requests.
#[derive(Debug, Default)]
pub(super) struct Running {
    notes: Mutex<Notes>,
    some: Notify,
    urgent: Notify,
}

#[derive(Debug, Default)]
struct Notes {
    /// Each with the round from which on it is due; 0 = at once.
    fresh: HashMap<Uuid, (u64, UsageRow)>,
    /// Grows every [`AGE`] while there are notes.
    round: u64,
    written: HashSet<Uuid>,
    gone: Vec<Uuid>,
    /// Answered once all notes are written.
    waiting: Vec<oneshot::Sender<()>>,
}

/// The notes to write, those to delete, and whom to tell afterwards.
#[derive(Debug, Default)]
pub(super) struct NoteBatch {
    pub(super) notes: Vec<UsageRow>,
    pub(super) gone: Vec<Uuid>,
    pub(super) waiting: Vec<oneshot::Sender<()>>,
}

impl Running {
    fn lock(&self) -> MutexGuard<'_, Notes> {
        self.notes.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Notes the row that a request would leave now.
    pub(super) fn note(&self, row: UsageRow) {
        let mut notes = self.lock();
        let is_first = notes.fresh.is_empty();
        // Due in the next round, because the current one may be almost over.
        let round = notes.round + 1;
        match notes.fresh.entry(row.request_id) {
            Entry::Occupied(mut note) => note.get_mut().1 = row,
            Entry::Vacant(place) => _ = place.insert((round, row)),
        }
        drop(notes);
        if is_first {
            self.some.notify_one();
        }
    }

    /// Notes a row that is to be written at once. The receiver is answered once it is written.
    pub(super) fn note_at_once(&self, row: UsageRow) -> oneshot::Receiver<()> {
        let (done, written) = oneshot::channel();
        let mut notes = self.lock();
        notes.fresh.insert(row.request_id, (0, row));
        notes.waiting.push(done);
        drop(notes);
        self.some.notify_one();
        self.urgent.notify_one();
        written
    }

    /// Waits until notes may be due.
    pub(super) async fn due(self: Arc<Self>) {
        self.some.notified().await;
        if tokio::time::timeout(AGE, self.urgent.notified()).await.is_err() {
            self.lock().round += 1;
        }
    }

    /// Forgets the note of a request that leaves no row of its own.
    pub(super) fn forget(&self, request: Uuid) {
        let mut notes = self.lock();
        notes.fresh.remove(&request);
        if notes.written.remove(&request) {
            notes.gone.push(request);
            drop(notes);
            self.some.notify_one();
        }
    }

    /// Forgets the notes of requests whose rows are about to be written, and takes those of the others that are due.
    pub(super) fn take(&self, ended: impl Iterator<Item = Uuid>) -> NoteBatch {
        let mut notes = self.lock();
        let Notes { fresh, round, written, gone, waiting } = &mut *notes;
        for request in ended {
            fresh.remove(&request);
            if written.remove(&request) {
                gone.push(request);
            }
        }
        let due = fresh.extract_if(|_, (taken, _)| *taken <= *round).take(BATCH);
        let due: Vec<UsageRow> = due.map(|(_, (_, row))| row).collect();
        written.extend(due.iter().map(|row| row.request_id));
        // Those who wait are told with the last batch, which follows soon.
        let is_all = due.len() < BATCH;
        let waiting = if is_all { std::mem::take(waiting) } else { Vec::new() };
        let batch = NoteBatch { notes: due, gone: std::mem::take(gone), waiting };
        let more = !fresh.is_empty();
        drop(notes);
        if more {
            self.some.notify_one();
        }
        batch
    }

    /// Takes back notes that could not be written; they are due at once.
    pub(super) fn put_back(&self, batch: NoteBatch) {
        let mut notes = self.lock();
        for row in batch.notes {
            // A newer note of the request stays.
            notes.fresh.entry(row.request_id).or_insert((0, row));
        }
        notes.gone.extend(batch.gone);
        // Those who stopped waiting would only pile up.
        notes.waiting.extend(batch.waiting.into_iter().filter(|done| !done.is_closed()));
        drop(notes);
        self.some.notify_one();
    }
}

async fn forget(local: &Local, requests: &[Uuid]) -> Result<(), StoreError> {
    for gone in requests.chunks(RECOVERED) {
        let delete = Entity::delete_many().filter(many::is_any_id(
            Column::RequestId,
            local.db.get_database_backend(),
            gone.iter().copied(),
        ));
        within_deadline(delete.exec(&local.db)).await?;
    }
    Ok(())
}

/// Turns the notes of a process that died into usage. Returns how many requests they were.
///
/// # Errors
/// When the local file fails.
pub(super) async fn recover(local: &Local) -> Result<usize, StoreError> {
    let mut recovered = 0;
    loop {
        let left =
            within_deadline(sea_orm::QuerySelect::limit(Entity::find(), RECOVERED as u64).all(&local.db)).await?;
        if left.is_empty() {
            return Ok(recovered);
        }
        let rows: Vec<usage::Model> = left.iter().filter_map(interrupted).collect();
        within_deadline(insert_rows(&local.db, &rows)).await?;
        recovered += rows.len();
        forget(local, &left.iter().map(|note| note.request_id).collect::<Vec<_>>()).await?;
    }
}

fn interrupted(note: &Model) -> Option<usage::Model> {
    match serde_json::from_str::<usage::Model>(&note.row) {
        Ok(row) => Some(usage::Model { status: Status::Interrupted.as_str().to_owned(), ..row }),
        Err(error) => {
            tracing::error!(request_id = %note.request_id, %error, "a request that was interrupted left an unreadable note");
            None
        }
    }
}
