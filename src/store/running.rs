//! What would be known of the running requests if the process died now?
//!
//! Each request notes the row that it would leave: when it is admitted, when it is given to a node, and about once a
//! second while it runs. The writer brings the notes into the table `running` a moment later, several at a time; one of a
//! request that has ended by then is never written. At the next start whatever stands there becomes usage
//! (`interrupted`). That a note may outlive its request does no harm: the request's own row came first and wins.
use std::collections::{HashMap, HashSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use entity::running::{Column, Entity, Model};
use entity::usage;
use sea_orm::sea_query::OnConflict;
use sea_orm::{ColumnTrait, DbErr, EntityTrait, IntoActiveModel, QueryFilter};
use tokio::sync::{Notify, oneshot};
use uuid::Uuid;

use super::deadline::within_deadline;
use super::error::StoreError;
use super::local::Local;
use super::usage_row::{Status, UsageRow, insert_rows};

/// How long a note waits for others, unless a stream is about to begin. A request that dies younger with its gateway, and
/// of which its client has seen nothing, leaves no trace.
const GATHER: Duration = Duration::from_millis(5);
/// Rows a statement: SQLite limits the number of bound values.
const BATCH: usize = 1_000;

/// The notes that are not written yet. At most one a request, and requests are bounded by their permits.
#[derive(Debug, Default)]
pub(super) struct Running {
    notes: Mutex<Notes>,
    some: Notify,
    urgent: Notify,
}

#[derive(Debug, Default)]
struct Notes {
    fresh: HashMap<Uuid, UsageRow>,
    written: HashSet<Uuid>,
    gone: Vec<Uuid>,
    /// Answered once the notes are written.
    waiting: Vec<oneshot::Sender<()>>,
}

/// What is to be written, whom to forget, and whom to tell.
#[derive(Debug)]
struct Batch {
    notes: Vec<UsageRow>,
    gone: Vec<Uuid>,
    waiting: Vec<oneshot::Sender<()>>,
}

impl Running {
    fn lock(&self) -> MutexGuard<'_, Notes> {
        self.notes.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes note of the row that a request would leave now.
    pub(super) fn note(&self, row: UsageRow) {
        self.lock().fresh.insert(row.request_id, row);
        self.some.notify_one();
    }

    /// The same, at once; answers when it is written.
    pub(super) fn note_at_once(&self, row: UsageRow) -> oneshot::Receiver<()> {
        let (done, written) = oneshot::channel();
        let mut notes = self.lock();
        notes.fresh.insert(row.request_id, row);
        notes.waiting.push(done);
        drop(notes);
        self.some.notify_one();
        self.urgent.notify_one();
        written
    }

    /// The rows of these requests are kept: forgets the notes.
    pub(super) fn ended(&self, requests: impl Iterator<Item = Uuid>) {
        let mut notes = self.lock();
        for request in requests {
            notes.fresh.remove(&request);
            if notes.written.remove(&request) {
                notes.gone.push(request);
            }
        }
        let some = !notes.gone.is_empty();
        drop(notes);
        if some {
            self.some.notify_one();
        }
    }

    /// Waits until there is something to write, and a little for more, unless somebody waits for it.
    pub(super) async fn due(self: Arc<Self>) {
        self.some.notified().await;
        let _ = tokio::time::timeout(GATHER, self.urgent.notified()).await;
    }

    /// Writes what is due.
    ///
    /// # Errors
    /// When the local file cannot be written; it is all due again then.
    pub(super) async fn write(&self, local: &Local) -> Result<(), StoreError> {
        let batch = self.take();
        let result = batch.write(local).await;
        if result.is_err() {
            self.put_back(batch);
            return result;
        }
        for done in batch.waiting {
            // Whoever asked may have stopped waiting.
            let _ = done.send(());
        }
        result
    }

    fn take(&self) -> Batch {
        let mut notes = self.lock();
        let fresh: Vec<UsageRow> = notes.fresh.drain().map(|(_, row)| row).collect();
        notes.written.extend(fresh.iter().map(|row| row.request_id));
        Batch { notes: fresh, gone: std::mem::take(&mut notes.gone), waiting: std::mem::take(&mut notes.waiting) }
    }

    fn put_back(&self, batch: Batch) {
        let mut notes = self.lock();
        for row in batch.notes {
            // Unless it has ended, or has come further, in the meantime.
            if notes.written.contains(&row.request_id) {
                notes.fresh.entry(row.request_id).or_insert(row);
            }
        }
        notes.gone.extend(batch.gone);
        // Those who gave up meanwhile would only pile up.
        notes.waiting.extend(batch.waiting.into_iter().filter(|done| !done.is_closed()));
    }
}

impl Batch {
    async fn write(&self, local: &Local) -> Result<(), StoreError> {
        for notes in self.notes.chunks(BATCH) {
            let rows = notes.iter().map(note_of).collect::<Result<Vec<_>, _>>()?;
            let replace = OnConflict::column(Column::RequestId).update_column(Column::Row).to_owned();
            let insert = Entity::insert_many(rows.into_iter().map(IntoActiveModel::into_active_model));
            within_deadline(insert.on_conflict(replace).exec_without_returning(&local.db)).await?;
        }
        forget(local, &self.gone).await
    }
}

async fn forget(local: &Local, requests: &[Uuid]) -> Result<(), StoreError> {
    for gone in requests.chunks(BATCH) {
        let delete = Entity::delete_many().filter(Column::RequestId.is_in(gone.iter().copied()));
        within_deadline(delete.exec(&local.db)).await?;
    }
    Ok(())
}

fn note_of(row: &UsageRow) -> Result<Model, StoreError> {
    let row = row.clone().into_model();
    let text = serde_json::to_string(&row).map_err(|error| DbErr::Custom(error.to_string()))?;
    Ok(Model { request_id: row.request_id, row: text })
}

/// Turns what a process that died has left behind into usage; how many requests.
///
/// # Errors
/// When the local file fails.
pub(super) async fn recover(local: &Local) -> Result<usize, StoreError> {
    let mut recovered = 0;
    loop {
        let left = within_deadline(sea_orm::QuerySelect::limit(Entity::find(), BATCH as u64).all(&local.db)).await?;
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
