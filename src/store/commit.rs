//! Writes many rows and notes to the local file in one transaction, at little cost.
//!
//! A thread of its own does nothing else, on a connection of its own, with statements that stay prepared. The driver below
//! sea-orm would hand each statement of a transaction to another thread, and its result back; this costs more than the
//! statement. Daily sums are updated once for all rows of a transaction, unless it has few.
//!
//! A transaction that takes too long goes on, and the next one waits for its end: so there is never more than one. What
//! became of it does not matter, because a row that is in the file already is skipped, and a note is overwritten.
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::sync::{Arc, Mutex, PoisonError};

use migration::sum_up_on_sqlite;
use rusqlite::{CachedStatement, Connection, Transaction, TransactionBehavior, params};
use sea_orm::DbErr;
use tokio::sync::oneshot;
use uuid::Uuid;

use super::checkpoints::{Checkpoints, LocalFile, leave_checkpoints};
use super::deadline::{STATEMENT_DEADLINE, within_deadline};
use super::error::StoreError;
use super::local::Local;
use super::usage_row::UsageRow;

const INSERT_ROW: &str = "INSERT INTO usage (request_id, user_id, key_id, created_at_ms, day, model, endpoint, node, \
    stream, status, prompt_tokens, completion_tokens, tokens_from, attempts, queue_ms, time_to_first_token_ms, \
    duration_ms, load_ms, prefill_ms, decode_ms, code, limit_name, http_status, requests, group_id) \
    VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?) ON CONFLICT DO NOTHING";
const PUT_NOTE: &str = "INSERT INTO running (request_id, row) VALUES (?, ?) \
    ON CONFLICT (request_id) DO UPDATE SET row = excluded.row";
const DELETE_NOTE: &str = "DELETE FROM running WHERE request_id = ?";

/// From this many rows on, a transaction sums them up itself. Fewer are cheaper by the file's trigger, one by one.
const SUMMED_TOGETHER: usize = 4;

/// What goes into one transaction.
#[derive(Debug, Default)]
pub(super) struct RowBatch {
    pub(super) rows: Vec<UsageRow>,
    /// Rows that running requests would leave.
    pub(super) notes: Vec<UsageRow>,
    /// Requests whose notes are to be deleted.
    pub(super) gone: Vec<Uuid>,
    /// Told as soon as all of it is in the file.
    pub(super) waiting: Mutex<Vec<oneshot::Sender<()>>>,
}

impl RowBatch {
    /// Takes those who wait, so that nobody tells them twice.
    pub(super) fn take_waiting(&self) -> Vec<oneshot::Sender<()>> {
        std::mem::take(&mut *self.waiting.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

/// Hands groups to the thread that writes them.
#[derive(Debug)]
pub(super) struct Committer {
    file: LocalFile,
    thread: Option<Thread>,
    /// The end of a transaction that nobody waited for.
    unfinished: Option<oneshot::Receiver<rusqlite::Result<()>>>,
}

#[derive(Debug)]
struct Thread {
    /// The thread ends when this is dropped.
    orders: SyncSender<Order>,
    /// Nothing is sent through it: it closes when the thread has ended.
    ended: oneshot::Receiver<()>,
}

#[derive(Debug)]
struct Order {
    group: Arc<RowBatch>,
    done: oneshot::Sender<rusqlite::Result<()>>,
}

impl Committer {
    pub(super) fn new(local: &Local) -> Self {
        Self { file: LocalFile::of(local), thread: None, unfinished: None }
    }

    /// Writes a group, all or nothing.
    ///
    /// # Errors
    /// If the local file cannot be written in time.
    pub(super) async fn commit(&mut self, group: Arc<RowBatch>) -> Result<(), StoreError> {
        if group.rows.is_empty() && group.notes.is_empty() && group.gone.is_empty() {
            tell(group.take_waiting());
            return Ok(());
        }
        within_deadline(async { Ok::<_, DbErr>(self.written(group).await) }).await?
    }

    async fn written(&mut self, group: Arc<RowBatch>) -> Result<(), StoreError> {
        if let Some(unfinished) = &mut self.unfinished {
            let _ = unfinished.await;
            self.unfinished = None;
        }
        let (done, end) = oneshot::channel();
        let end = self.unfinished.insert(end);
        let thread = match self.thread.take() {
            Some(thread) => thread,
            None => start(self.file.clone()).map_err(StoreError::Thread)?,
        };
        // It takes one order at a time, so there is room; if the thread has ended, so has the wait.
        let _ = thread.orders.send(Order { group, done });
        self.thread = Some(thread);
        let written = end.await;
        self.unfinished = None;
        match written {
            Ok(written) => Ok(written?),
            Err(_) => {
                self.thread = None;
                Err(StoreError::Thread(std::io::Error::other("the thread that writes has ended")))
            }
        }
    }

    /// Closes the file, if nothing is being written to it.
    pub(super) async fn close(self) {
        let Some(Thread { orders, ended }) = self.thread else { return };
        drop(orders);
        drop(tokio::time::timeout(STATEMENT_DEADLINE, ended).await);
    }
}

fn start(file: LocalFile) -> std::io::Result<Thread> {
    let (orders, received) = sync_channel(1);
    let (end, ended) = oneshot::channel();
    std::thread::Builder::new().name("commits".to_owned()).spawn(move || {
        carry_out(&file, &received);
        drop(end);
    })?;
    Ok(Thread { orders, ended })
}

fn carry_out(file: &LocalFile, orders: &Receiver<Order>) {
    let sums = (!file.is_outbox).then(sum_up_on_sqlite);
    let mut checkpoints = Checkpoints::start(file)
        .inspect_err(|error| tracing::warn!(%error, "no thread for checkpoints: commits make them, and take longer"))
        .ok();
    let mut connection = None;
    for Order { group, done } in orders {
        let written = written(&mut connection, file, &group, sums.as_ref(), checkpoints.is_some());
        if written.is_ok() {
            tell(group.take_waiting());
        }
        let is_good = written.is_ok();
        // The writer may have stopped waiting.
        let _ = done.send(written);
        let checked = match (&connection, &mut checkpoints) {
            (Some(connection), Some(checkpoints)) if is_good => {
                checkpoints.wrote(group.rows.len() + group.notes.len(), connection)
            }
            _ => Ok(()),
        };
        if !is_good || checked.is_err() {
            // The next group finds out whether another connection fares better.
            connection = None;
        }
    }
}

/// Tells those who wait that what they wait for is in the file.
pub(super) fn tell(waiting: Vec<oneshot::Sender<()>>) {
    for done in waiting {
        // Whoever asked may have stopped waiting.
        let _ = done.send(());
    }
}

fn written(
    connection: &mut Option<Connection>,
    file: &LocalFile,
    group: &RowBatch,
    sums: Option<&(&'static str, Vec<String>)>,
    checkpoints_elsewhere: bool,
) -> rusqlite::Result<()> {
    let connection = match connection {
        Some(connection) => connection,
        None => {
            let opened = file.open()?;
            if checkpoints_elsewhere {
                leave_checkpoints(&opened)?;
            }
            connection.insert(opened)
        }
    };
    let transaction = connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
    if !group.rows.is_empty() {
        put_rows(&transaction, &group.rows, sums)?;
    }
    put_notes(&transaction, group)?;
    transaction.commit()
}

fn put_rows(
    transaction: &Transaction<'_>,
    rows: &[UsageRow],
    sums: Option<&(&'static str, Vec<String>)>,
) -> rusqlite::Result<()> {
    let sums = sums.filter(|_| rows.len() >= SUMMED_TOGETHER);
    if let Some((before, _)) = sums {
        transaction.prepare_cached(before)?.execute([])?;
    }
    let mut insert = transaction.prepare_cached(INSERT_ROW)?;
    for row in rows {
        put_row(&mut insert, row)?;
    }
    for statement in sums.iter().flat_map(|(_, after)| after) {
        transaction.prepare_cached(statement)?.execute([])?;
    }
    Ok(())
}

fn put_row(insert: &mut CachedStatement<'_>, row: &UsageRow) -> rusqlite::Result<()> {
    let signed = |number: u64| i64::try_from(number).unwrap_or(i64::MAX);
    insert.execute(params![
        &row.request_id.as_bytes()[..],
        &*row.user,
        row.key.as_deref(),
        row.created_at_ms,
        row.day,
        row.model,
        &*row.endpoint,
        row.node,
        row.stream,
        &*row.status,
        signed(row.prompt_tokens),
        signed(row.completion_tokens),
        &*row.tokens_from,
        row.attempts,
        signed(row.queue_ms),
        row.time_to_first_token_ms.map(signed),
        signed(row.duration_ms),
        row.load_ms.map(signed),
        row.prefill_ms.map(signed),
        row.decode_ms.map(signed),
        row.reason.code.as_deref(),
        row.reason.limit.as_deref(),
        row.http_status,
        signed(row.requests),
        row.group.as_deref(),
    ])?;
    Ok(())
}

fn put_notes(transaction: &Transaction<'_>, group: &RowBatch) -> rusqlite::Result<()> {
    if !group.notes.is_empty() {
        let mut put = transaction.prepare_cached(PUT_NOTE)?;
        for row in &group.notes {
            put.execute(params![&row.request_id.as_bytes()[..], note_text(row)?])?;
        }
    }
    if !group.gone.is_empty() {
        let mut delete = transaction.prepare_cached(DELETE_NOTE)?;
        for request_id in &group.gone {
            delete.execute([&request_id.as_bytes()[..]])?;
        }
    }
    Ok(())
}

/// A row as the text of a note.
fn note_text(row: &UsageRow) -> rusqlite::Result<String> {
    serde_json::to_string(&row.clone().into_model())
        .map_err(|error| rusqlite::Error::ToSqlConversionFailure(error.into()))
}

#[cfg(test)]
mod tests {
    use sea_orm::{ConnectionTrait, Statement};

    use super::*;
    use crate::store::database::Store;
    use crate::store::settings::DatabaseSettings;
    use crate::store::usage_row::Reason;

    fn row(request_id: Uuid) -> UsageRow {
        UsageRow {
            request_id,
            user: "ann".into(),
            key: None,
            created_at_ms: 1_790_000_000_000,
            day: 20_717,
            model: "m".to_owned(),
            endpoint: "/v1/chat/completions".into(),
            node: None,
            stream: false,
            status: "completed".into(),
            prompt_tokens: 10,
            completion_tokens: 1,
            tokens_from: "reported".into(),
            attempts: 1,
            queue_ms: 0,
            time_to_first_token_ms: None,
            duration_ms: 1,
            load_ms: None,
            prefill_ms: None,
            decode_ms: None,
            reason: Reason::default(),
            http_status: None,
            requests: 1,
            group: Some("lab".into()),
        }
    }

    fn rows(count: usize) -> Vec<UsageRow> {
        (0..count).map(|_| row(Uuid::now_v7())).collect()
    }

    async fn opened() -> (tempfile::TempDir, Store) {
        let folder = tempfile::tempdir().unwrap();
        let url = format!("sqlite://{}", folder.path().join("gateway.db").display());
        let store = Store::open(&DatabaseSettings { url, ..DatabaseSettings::default() }).await.unwrap();
        (folder, store)
    }

    async fn counts(store: &Store) -> [i64; 4] {
        let counts = "SELECT (SELECT count(*) FROM usage), (SELECT sum(requests) FROM usage_rollups), \
             (SELECT sum(prompt_tokens) FROM usage_rollups), (SELECT count(*) FROM running)";
        let statement = Statement::from_string(store.db.get_database_backend(), counts);
        let found = store.db.query_one_raw(statement).await.unwrap().unwrap();
        std::array::from_fn(|column| found.try_get_by_index(column).unwrap())
    }

    #[actix_rt::test]
    async fn a_commit_that_is_given_up_does_not_hold_up_the_next_one() {
        let (_folder, store) = opened().await;
        let mut committer = Committer::new(&store.local);
        let group = Arc::new(RowBatch { rows: rows(400), ..RowBatch::default() });
        let one = Arc::new(RowBatch { rows: rows(1), ..RowBatch::default() });
        for micros in 0..40 {
            let patience = std::time::Duration::from_micros(100 * micros);
            drop(tokio::time::timeout(patience, committer.commit(group.clone())).await);
            let next = tokio::time::timeout(std::time::Duration::from_secs(2), committer.commit(one.clone()));
            next.await.expect("the next one is quick").unwrap();
        }
        assert_eq!(counts(&store).await, [401, 401, 4010, 0], "each row once, however often it was handed in");
        committer.close().await;
        store.close().await;
    }

    #[actix_rt::test]
    async fn groups_of_every_size_are_written_and_summed_up_once() {
        let (_folder, store) = opened().await;
        let mut committer = Committer::new(&store.local);
        let (mut written, mut running) = (0, 0);
        for count in 1..=70 {
            let (noted, kept) = (rows(count), rows(3));
            let notes = [&noted[..], &kept].concat();
            committer.commit(Arc::new(RowBatch { notes, ..RowBatch::default() })).await.unwrap();
            let gone = noted.iter().map(|row| row.request_id).collect();
            committer.commit(Arc::new(RowBatch { rows: noted, gone, ..RowBatch::default() })).await.unwrap();
            (written, running) = (written + count as i64, running + 3);
        }
        assert_eq!(counts(&store).await, [written, written, 10 * written, running]);
        committer.close().await;
        store.close().await;
    }

    #[actix_rt::test]
    async fn a_row_is_as_sea_orm_would_have_written_it() {
        use crate::store::usage_row::insert_rows;
        use sea_orm::EntityTrait;

        let (_folder, store) = opened().await;
        let full = UsageRow {
            key: Some("k".into()),
            node: Some("a".to_owned()),
            stream: true,
            time_to_first_token_ms: Some(2),
            load_ms: Some(3),
            prefill_ms: Some(4),
            decode_ms: Some(5),
            reason: Reason::new(Some("over"), Some("tokens_per_day")),
            http_status: Some(429),
            prompt_tokens: u64::MAX,
            ..row(Uuid::now_v7())
        };
        let (ours, theirs) = (full.clone(), UsageRow { request_id: Uuid::now_v7(), ..full });
        let mut committer = Committer::new(&store.local);
        committer.commit(Arc::new(RowBatch { rows: vec![ours.clone()], ..RowBatch::default() })).await.unwrap();
        insert_rows(&store.db, &[theirs.clone().into_model()]).await.unwrap();
        let found = entity::usage::Entity::find().all(&store.db).await.unwrap();
        let mut expected = vec![ours.into_model(), theirs.into_model()];
        expected.sort_by_key(|row| row.request_id);
        assert_eq!(found, expected);
        let kinds =
            "SELECT count(DISTINCT typeof(request_id) || typeof(stream) || typeof(attempts) || typeof(day)) FROM usage";
        let statement = Statement::from_string(store.db.get_database_backend(), kinds);
        let kinds: i64 = store.db.query_one_raw(statement).await.unwrap().unwrap().try_get_by_index(0).unwrap();
        assert_eq!(kinds, 1);
        committer.close().await;
        store.close().await;
    }
}
