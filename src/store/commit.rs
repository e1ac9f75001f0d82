//! Writes many rows and notes to the local file in one transaction, at little cost.
//!
//! A transaction is one text of several statements with all their values, so SQLite's thread is called once for it. Daily
//! sums are updated once for all its rows. The writer has its own connection, which is replaced after any failure,
//! because a statement that timed out may still be running on it.
use std::fmt::Write;

use migration::sum_up_on_sqlite;
use sea_orm::sqlx::pool::PoolConnection;
use sea_orm::sqlx::query::Query;
use sea_orm::sqlx::sqlite::{Sqlite, SqliteArguments};
use sea_orm::sqlx::{self, AssertSqlSafe};
use sea_orm::{DbErr, RuntimeErr};
use uuid::Uuid;

use super::deadline::within_deadline;
use super::error::StoreError;
use super::local::Local;
use super::running::NoteBatch;
use super::usage_row::UsageRow;

const COLUMNS: &str = "request_id, user_id, key_id, created_at_ms, day, model, endpoint, node, stream, status, \
    prompt_tokens, completion_tokens, tokens_from, attempts, queue_ms, time_to_first_token_ms, duration_ms, load_ms, \
    prefill_ms, decode_ms, code, limit_name, http_status, requests, group_id";
const ROW: &str = "(?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)";
/// Numbers of rows for which a prepared statement is kept. A group between two of these sizes repeats its last row, which
/// has no effect the second time: preparing another statement would cost several times as much.
const ROW_SIZES: &[usize] = &[1, 2, 3, 4, 6, 8, 12, 16, 24, 32, 48, 64];
/// The same for notes and for notes to delete, which have room for equally many. Few, because every combination with a
/// number of rows is a text, and the connection keeps [`super::local::STATEMENT_CACHE`] texts: with more of them it would prepare
/// statements again and again, each of another length, and the holes between them make memory grow for hours.
const NOTE_SIZES: &[usize] = &[4, 16];
/// With more rows than this, only the larger of those sizes: the statements of long texts take the most memory.
const FEW_ROWS: usize = 16;

/// What goes into one transaction.
#[derive(Clone, Copy)]
struct Group<'a> {
    rows: &'a [UsageRow],
    /// Notes of running requests, as text.
    notes: &'a [(Uuid, String)],
    /// Requests whose notes are to be deleted.
    gone: &'a [Uuid],
}

/// How many rows, notes and notes to delete the text of a group has placeholders for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Places {
    rows: usize,
    notes: usize,
    gone: usize,
    /// Whether the same text is likely to be used again.
    is_common: bool,
}

impl Places {
    /// For this many rows, notes, and notes to delete.
    fn of(counts: [usize; 3]) -> Self {
        let size = |count: usize, sizes: &[usize]| match count {
            0 => Some(0),
            _ => sizes.iter().copied().find(|size| count <= *size),
        };
        let [rows, notes, gone] = counts;
        let note_sizes = if rows > FEW_ROWS { &NOTE_SIZES[NOTE_SIZES.len() - 1..] } else { NOTE_SIZES };
        match (size(rows, ROW_SIZES), size(notes.max(gone), note_sizes)) {
            (Some(rows), Some(room)) => {
                // Nothing can be repeated where there is nothing.
                let [notes, gone] = [notes, gone].map(|count| if count == 0 { 0 } else { room });
                Self { rows, notes, gone, is_common: true }
            }
            _ => Self { rows, notes, gone, is_common: false },
        }
    }
}

/// The items, with the last one repeated until all places are filled.
fn padded<T>(items: &[T], places: usize) -> impl Iterator<Item = &T> {
    debug_assert!(items.len() <= places && (places == 0 || !items.is_empty()));
    items.iter().chain(items.last().into_iter().cycle()).take(places)
}

/// The writer's connection to the local file.
#[derive(Debug)]
pub(super) struct Committer {
    local: Local,
    connection: Option<PoolConnection<Sqlite>>,
    /// The statements before and after the rows that add them to the daily sums; `None` in front of Postgres.
    sums: Option<(&'static str, String)>,
}

impl Committer {
    pub(super) fn new(local: Local) -> Self {
        let sums = (!local.is_outbox).then(sum_up_on_sqlite);
        Self { local, connection: None, sums }
    }

    /// Writes rows and notes, all or nothing.
    ///
    /// # Errors
    /// If the local file cannot be written in time.
    pub(super) async fn commit(&mut self, rows: &[UsageRow], notes: &NoteBatch) -> Result<(), StoreError> {
        let NoteBatch { notes, gone, .. } = notes;
        if rows.is_empty() && notes.is_empty() && gone.is_empty() {
            return Ok(());
        }
        let notes = notes.iter().map(note_text).collect::<Result<Vec<_>, _>>()?;
        let group = Group { rows, notes: &notes, gone };
        let (connection, sums) = (self.connection.take(), self.sums.as_ref());
        let pool = self.local.db.get_sqlite_connection_pool();
        let commit = async {
            let connection = match connection {
                Some(connection) => connection,
                None => pool.acquire().await.map_err(failed)?,
            };
            let mut held = Held(Some(connection));
            let places = Places::of([group.rows.len(), group.notes.len(), group.gone.len()]);
            let query = sqlx::query(AssertSqlSafe(text(places, sums))).persistent(places.is_common);
            if let Some(connection) = &mut held.0 {
                bind(query, group, places).execute(&mut **connection).await.map_err(failed)?;
            }
            Ok(held.0.take())
        };
        self.connection = within_deadline(commit).await?;
        Ok(())
    }
}

/// A connection with a statement on it. Unless that succeeds, it is closed, not given back: it may be in the middle of a
/// transaction, which would keep everybody else from writing.
struct Held(Option<PoolConnection<Sqlite>>);

impl Drop for Held {
    fn drop(&mut self) {
        if let Some(connection) = self.0.take() {
            drop(connection.detach());
        }
    }
}

fn failed(error: sqlx::Error) -> DbErr {
    DbErr::Exec(RuntimeErr::SqlxError(error.into()))
}

/// The statements of a transaction, as one text with placeholders.
fn text(places: Places, sums: Option<&(&'static str, String)>) -> String {
    let Places { rows, notes, gone, .. } = places;
    let mut text = String::with_capacity(1_024 + rows * (ROW.len() + 2));
    text.push_str("BEGIN IMMEDIATE");
    if rows > 0 {
        if let Some((before, _)) = sums {
            // Writing to a `String` cannot fail.
            let _ = write!(text, "; {before}");
        }
        let _ = write!(text, "; INSERT INTO usage ({COLUMNS}) VALUES ");
        repeat(&mut text, ROW, rows);
        text.push_str(" ON CONFLICT DO NOTHING");
        if let Some((_, after)) = sums {
            let _ = write!(text, "; {after}");
        }
    }
    if notes > 0 {
        text.push_str("; INSERT INTO running (request_id, row) VALUES ");
        repeat(&mut text, "(?, ?)", notes);
        text.push_str(" ON CONFLICT (request_id) DO UPDATE SET row = excluded.row");
    }
    if gone > 0 {
        text.push_str("; DELETE FROM running WHERE request_id IN (");
        repeat(&mut text, "?", gone);
        text.push(')');
    }
    text.push_str("; COMMIT");
    text
}

fn repeat(text: &mut String, part: &str, times: usize) {
    for turn in 0..times {
        if turn > 0 {
            text.push(',');
        }
        text.push_str(part);
    }
}

type Bound<'q> = Query<'q, Sqlite, SqliteArguments>;

fn bind<'q>(mut query: Bound<'q>, group: Group<'q>, places: Places) -> Bound<'q> {
    let signed = |number: u64| i64::try_from(number).unwrap_or(i64::MAX);
    for row in padded(group.rows, places.rows) {
        query = query
            .bind(row.request_id)
            .bind(row.user.clone())
            .bind(row.key.clone())
            .bind(row.created_at_ms)
            .bind(row.day)
            .bind(row.model.as_str())
            .bind(row.endpoint.as_ref())
            .bind(row.node.as_deref())
            .bind(row.stream)
            .bind(row.status.as_ref())
            .bind(signed(row.prompt_tokens))
            .bind(signed(row.completion_tokens))
            .bind(row.tokens_from.as_ref())
            .bind(row.attempts)
            .bind(signed(row.queue_ms))
            .bind(row.time_to_first_token_ms.map(signed))
            .bind(signed(row.duration_ms))
            .bind(row.load_ms.map(signed))
            .bind(row.prefill_ms.map(signed))
            .bind(row.decode_ms.map(signed))
            .bind(row.reason.code.as_deref())
            .bind(row.reason.limit.as_deref())
            .bind(row.http_status.map(i32::from))
            .bind(signed(row.requests))
            .bind(row.group.clone());
    }
    for (request_id, note) in padded(group.notes, places.notes) {
        query = query.bind(*request_id).bind(note.as_str());
    }
    padded(group.gone, places.gone).fold(query, |query, request_id| query.bind(*request_id))
}

/// A row as the text of a note.
///
/// # Errors
/// If the row cannot be written as JSON, which should not happen.
fn note_text(row: &UsageRow) -> Result<(Uuid, String), StoreError> {
    let row = row.clone().into_model();
    let text = serde_json::to_string(&row).map_err(|error| DbErr::Custom(error.to_string()))?;
    Ok((row.request_id, text))
}

#[cfg(test)]
mod tests {
    use sea_orm::{ConnectionTrait, Statement};

    use super::*;
    use crate::store::database::Store;
    use crate::store::local::STATEMENT_CACHE;
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

    #[test]
    fn most_groups_share_a_text_and_at_most_half_as_many_rows_are_padding() {
        let places = |rows, notes, gone| Places::of([rows, notes, gone]);
        assert_eq!(places(5, 0, 2), Places { rows: 6, notes: 0, gone: 4, is_common: true });
        assert_eq!(places(65, 3, 0), Places { rows: 65, notes: 3, gone: 0, is_common: false });
        assert_eq!(places(3, 65, 0), Places { rows: 3, notes: 65, gone: 0, is_common: false });
        for count in 1..=64_usize {
            assert!((count..=count + count / 2).contains(&places(count, 0, 0).rows), "{count}");
        }
    }

    #[test]
    fn a_connection_keeps_the_statements_of_all_texts_that_are_used_again() {
        let mut texts = std::collections::BTreeSet::new();
        for rows in 0..=65 {
            for (notes, gone) in (0..=65).flat_map(|notes| (0..=65).map(move |gone| (notes, gone))) {
                let places = Places::of([rows, notes, gone]);
                assert!(places.rows >= rows && places.notes >= notes && places.gone >= gone);
                if places.is_common {
                    texts.insert((places.rows, places.notes, places.gone));
                }
            }
        }
        // Those of other statements, which the connection may have had before, are the first to go.
        assert!(texts.len() < STATEMENT_CACHE, "{} texts", texts.len());
        // Values of one row take 2.4 kB in a statement.
        let rows: usize = texts.iter().map(|(rows, ..)| rows).sum();
        assert!(rows * 2_400 < 3 << 20, "{rows} rows in all statements");
    }

    #[actix_rt::test]
    async fn a_commit_that_is_given_up_does_not_hold_up_the_next_one() {
        let folder = tempfile::tempdir().unwrap();
        let url = format!("sqlite://{}", folder.path().join("gateway.db").display());
        let store = Store::open(&DatabaseSettings { url, ..DatabaseSettings::default() }).await.unwrap();
        let mut committer = Committer::new(store.local.clone());
        let (rows, none) = (rows(400), NoteBatch::default());
        for micros in 0..40 {
            let patience = std::time::Duration::from_micros(100 * micros);
            drop(tokio::time::timeout(patience, committer.commit(&rows, &none)).await);
            let next = tokio::time::timeout(std::time::Duration::from_secs(2), committer.commit(&rows[..1], &none));
            next.await.expect("the next one is quick").unwrap();
        }
        drop(committer);
        store.close().await;
    }

    #[actix_rt::test]
    async fn groups_of_every_size_are_written_and_summed_up_once() {
        let folder = tempfile::tempdir().unwrap();
        let url = format!("sqlite://{}", folder.path().join("gateway.db").display());
        let store = Store::open(&DatabaseSettings { url, ..DatabaseSettings::default() }).await.unwrap();
        let mut committer = Committer::new(store.local.clone());
        let (mut written, mut running) = (0, 0);
        for count in 1..=70 {
            let (noted, kept) = (rows(count), rows(3));
            let notes = NoteBatch { notes: [&noted[..], &kept].concat(), ..NoteBatch::default() };
            committer.commit(&[], &notes).await.unwrap();
            let gone = NoteBatch { gone: noted.iter().map(|row| row.request_id).collect(), ..NoteBatch::default() };
            committer.commit(&noted, &gone).await.unwrap();
            (written, running) = (written + count as i64, running + 3);
        }
        let counts = "SELECT (SELECT count(*) FROM usage), (SELECT sum(requests) FROM usage_rollups), \
             (SELECT sum(prompt_tokens) FROM usage_rollups), (SELECT count(*) FROM running)";
        let statement = Statement::from_string(store.db.get_database_backend(), counts);
        let found = store.db.query_one_raw(statement).await.unwrap().unwrap();
        let found: [i64; 4] = std::array::from_fn(|column| found.try_get_by_index(column).unwrap());
        assert_eq!(found, [written, written, 10 * written, running]);
        drop(committer);
        store.close().await;
    }
}
