//! Reads everybody from SQLite: some thousand rows at a time as one JSON text, and their digests as one blob.
use std::borrow::Cow;

use entity::user;
use futures_util::{Stream, stream};
use sea_orm::{ConnectionTrait, DatabaseBackend, DatabaseConnection, DbErr, Statement};
use serde::Deserialize;

use super::pieces::take_up;
use crate::store::columns::{DigestColumns, KeyColumns, put_user};
use crate::store::directory::Directory;
use crate::store::keys::Peppers;

/// Rows of one text, at most: it stays in the processor's cache while it is made and read.
const ROWS: i64 = 2_000;
/// The bytes of a digest.
const DIGEST: usize = 32;
// In the order of the fields that they are read into.
const USER: &str = "id, created_at_ms, requests_per_minute, tokens_per_day, tokens_per_minute, max_concurrency, \
                    weight_millis, suspended_at_ms, display_name, email, note, generation, last_seen_ms, group_id";
// Most keys have no terms of their own; six nulls would take as long as all the rest.
const KEY: &str = "id, user_id, name, created_at_ms, last_used_ms, CASE WHEN coalesce(expires_at_ms, allowed_models, \
                   requests_per_minute, tokens_per_minute, tokens_per_day, max_concurrency) IS NOT NULL THEN \
                   json_array(expires_at_ms, allowed_models, requests_per_minute, tokens_per_minute, tokens_per_day, \
                   max_concurrency) END";
const DIGEST_BUT_ITSELF: &str = "key_id, last_four, pepper, expires_at_ms";

/// Some rows of a table.
struct Text {
    lines: String,
    /// One after the other, in the order of the lines; empty for users and keys.
    digests: Vec<u8>,
}

/// A digest without itself.
#[derive(Deserialize)]
struct DigestLine<'a> {
    #[serde(borrow)]
    key_id: Cow<'a, str>,
    #[serde(borrow)]
    last_four: Cow<'a, str>,
    pepper: Option<String>,
    expires_at_ms: Option<i64>,
}

/// Adds everybody in a SQLite file.
pub(super) async fn read(db: &DatabaseConnection, peppers: &Peppers, directory: Directory) -> Result<Directory, DbErr> {
    let directory = take_up(directory, texts(db, "users", select("users", USER)), |text: &Text, directory| {
        parse::<user::Model>(&text.lines)?.iter().for_each(|row| _ = put_user(directory, row));
        Ok(())
    });
    let directory = take_up(directory.await?, texts(db, "keys", select("keys", KEY)), |text: &Text, directory| {
        parse::<KeyColumns<'_>>(&text.lines)?.iter().for_each(|key| directory.put_key(&key.entry()));
        Ok(())
    });
    let peppers = peppers.clone();
    take_up(directory.await?, texts(db, "key_digests", select_digests()), move |text: &Text, directory| {
        for (line, digest) in parse::<DigestLine<'_>>(&text.lines)?.iter().zip(text.digests.chunks_exact(DIGEST)) {
            let DigestLine { key_id, last_four, pepper, expires_at_ms } = line;
            let columns = DigestColumns { digest, pepper: pepper.as_deref(), last_four, until_ms: *expires_at_ms };
            if let Some(secret) = columns.entry(&peppers) {
                directory.add_secret(key_id, &secret);
            }
        }
        Ok(())
    })
    .await
}

fn parse<'a, Line: Deserialize<'a>>(lines: &'a str) -> Result<Vec<Line>, DbErr> {
    serde_json::from_str(lines).map_err(|error| DbErr::Type(error.to_string()))
}

/// The text of the rows between two places, their digests, and the last place of them. The places are numbers of rows, so
/// that SQLite need not count them.
fn select(table: &str, columns: &str) -> String {
    format!(
        "SELECT json_group_array(json_array({columns})), NULL, max(rowid) FROM {table} WHERE rowid > ? AND rowid <= ?"
    )
}

fn select_digests() -> String {
    // A text may hold any bytes; the digits of a digest would take as long again to write and to read.
    format!(
        "SELECT json_group_array(json_array({DIGEST_BUT_ITSELF})), CAST(group_concat(digest, '') AS BLOB), max(rowid) \
         FROM key_digests WHERE rowid > ? AND rowid <= ? AND length(digest) = {DIGEST}"
    )
}

/// The texts of a table, in the order of its rows.
fn texts<'a>(
    db: &'a DatabaseConnection,
    table: &'a str,
    select: String,
) -> impl Stream<Item = Result<Text, DbErr>> + use<'a> {
    stream::try_unfold((0, select), move |(mut place, select)| async move {
        loop {
            let end = i64::saturating_add(place, ROWS);
            let range = [place.into(), end.into()];
            let statement = Statement::from_sql_and_values(DatabaseBackend::Sqlite, &select, range);
            let Some(row) = db.query_one_raw(statement).await? else { return Ok(None) };
            if row.try_get_by_index::<Option<i64>>(2)?.is_some() {
                let digests = row.try_get_by_index::<Option<Vec<u8>>>(1)?.unwrap_or_default();
                return Ok(Some((Text { lines: row.try_get_by_index(0)?, digests }, (end, select))));
            }
            // Rows that were deleted leave gaps, which may be wide.
            let next = format!("SELECT min(rowid) FROM {table} WHERE rowid > ?");
            let next = Statement::from_sql_and_values(DatabaseBackend::Sqlite, next, [end.into()]);
            let Some(row) = db.query_one_raw(next).await? else { return Ok(None) };
            let Some(next) = row.try_get_by_index::<Option<i64>>(0)? else { return Ok(None) };
            place = next - 1;
        }
    })
}
