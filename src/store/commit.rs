//! How does one transaction bring many rows and notes into the local file, and at what cost?
//!
//! What is to be written is one text of statements with all its values: SQLite's thread is asked once a transaction. Sums
//! are added up once for all of its rows. The writer has a connection of its own, which is replaced after any failure: a
//! statement that was given up may still be under way on it.
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
    prefill_ms, decode_ms, code, limit_name, http_status, requests";
const ROW: &str = "(?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)";
/// Statements for more rows are seldom the same twice; each that is kept takes memory.
const KEPT_ROWS: usize = 4;

/// What goes into one transaction.
#[derive(Clone, Copy)]
struct Group<'a> {
    rows: &'a [UsageRow],
    /// Notes of running requests, as text.
    notes: &'a [(Uuid, String)],
    /// Requests whose notes are to go.
    gone: &'a [Uuid],
}

/// The writer's connection.
#[derive(Debug)]
pub(super) struct Committer {
    local: Local,
    connection: Option<PoolConnection<Sqlite>>,
    /// What makes the transaction sum its rows up, before and after them; `None` in front of Postgres.
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
    /// When the local file cannot be written, or not in time.
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
            let mut connection = match connection {
                Some(connection) => connection,
                None => pool.acquire().await.map_err(failed)?,
            };
            let query = sqlx::query(AssertSqlSafe(text(group, sums)));
            let query = query.persistent(group.rows.len() <= KEPT_ROWS && group.notes.is_empty());
            match bind(query, group).execute(&mut *connection).await {
                Ok(_) => Ok(connection),
                Err(error) => {
                    // It may be in the middle of a transaction.
                    drop(connection.detach());
                    Err(failed(error))
                }
            }
        };
        self.connection = Some(within_deadline::<PoolConnection<Sqlite>>(commit).await?);
        Ok(())
    }
}

fn failed(error: sqlx::Error) -> DbErr {
    DbErr::Exec(RuntimeErr::SqlxError(error.into()))
}

/// The statements of a transaction.
fn text(group: Group<'_>, sums: Option<&(&'static str, String)>) -> String {
    let Group { rows, notes, gone } = group;
    let mut text = String::with_capacity(1_024 + rows.len() * (ROW.len() + 2));
    text.push_str("BEGIN IMMEDIATE");
    if !rows.is_empty() {
        if let Some((before, _)) = sums {
            // Writing to a `String` cannot fail.
            let _ = write!(text, "; {before}");
        }
        let _ = write!(text, "; INSERT INTO usage ({COLUMNS}) VALUES ");
        repeat(&mut text, ROW, rows.len());
        text.push_str(" ON CONFLICT DO NOTHING");
        if let Some((_, after)) = sums {
            let _ = write!(text, "; {after}");
        }
    }
    if !notes.is_empty() {
        text.push_str("; INSERT INTO running (request_id, row) VALUES ");
        repeat(&mut text, "(?, ?)", notes.len());
        text.push_str(" ON CONFLICT (request_id) DO UPDATE SET row = excluded.row");
    }
    if !gone.is_empty() {
        text.push_str("; DELETE FROM running WHERE request_id IN (");
        repeat(&mut text, "?", gone.len());
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

fn bind<'q>(mut query: Bound<'q>, group: Group<'q>) -> Bound<'q> {
    let signed = |number: u64| i64::try_from(number).unwrap_or(i64::MAX);
    for row in group.rows {
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
            .bind(signed(row.requests));
    }
    for (request_id, note) in group.notes {
        query = query.bind(*request_id).bind(note.as_str());
    }
    group.gone.iter().fold(query, |query, request_id| query.bind(*request_id))
}

/// A row as the text of a note.
///
/// # Errors
/// When it cannot be written as JSON, which no row is known to do.
fn note_text(row: &UsageRow) -> Result<(Uuid, String), StoreError> {
    let row = row.clone().into_model();
    let text = serde_json::to_string(&row).map_err(|error| DbErr::Custom(error.to_string()))?;
    Ok((row.request_id, text))
}
