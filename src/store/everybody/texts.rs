//! Reads everybody from SQLite: some thousand rows at a time as one JSON text, and their digests as one blob.
use std::borrow::Cow;

use entity::user;
use futures_util::{Stream, stream};
use sea_orm::{ConnectionTrait, DatabaseBackend, DatabaseConnection, DbErr, Statement};
use serde::Deserialize;

use super::take_up;
use crate::store::columns::{DigestColumns, KeyColumns, put_user};
use crate::store::directory::Directory;
use crate::store::keys::Peppers;

/// Rows of one text: it stays in the processor's cache while it is made and read.
const ROWS: usize = 2_000;
/// The bytes of a digest.
const DIGEST: usize = 32;
// In the order of the fields that they are read into.
const USER: &str = "id, created_at_ms, requests_per_minute, tokens_per_day, tokens_per_minute, max_concurrency, \
                    weight_millis, suspended_at_ms, display_name, email, note, generation, last_seen_ms, group_id";
const KEY: &str = "id, user_id, name, created_at_ms, expires_at_ms, allowed_models, requests_per_minute, \
                   tokens_per_minute, tokens_per_day, max_concurrency, last_used_ms";
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
    let directory = take_up(directory, texts(db, &select("users", USER)), |text: &Text, directory| {
        parse::<user::Model>(&text.lines)?.iter().for_each(|row| _ = put_user(directory, row));
        Ok(())
    });
    let directory = take_up(directory.await?, texts(db, &select("keys", KEY)), |text: &Text, directory| {
        parse::<KeyColumns<'_>>(&text.lines)?.iter().for_each(|key| directory.put_key(&key.entry()));
        Ok(())
    });
    let peppers = peppers.clone();
    take_up(directory.await?, texts(db, &select_digests()), move |text: &Text, directory| {
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

/// The text of the rows after a place, their digests, and the place of the last one.
fn select(table: &str, columns: &str) -> String {
    format!(
        "SELECT json_group_array(json_array({columns})), NULL, max(place) FROM \
         (SELECT rowid AS place, * FROM {table} WHERE rowid > ? ORDER BY rowid LIMIT {ROWS})"
    )
}

fn select_digests() -> String {
    // A text may hold any bytes; the digits of a digest would take as long again to write and to read.
    format!(
        "SELECT json_group_array(json_array({DIGEST_BUT_ITSELF})), CAST(group_concat(digest, '') AS BLOB), max(place) \
         FROM (SELECT rowid AS place, * FROM key_digests WHERE rowid > ? AND length(digest) = {DIGEST} \
         ORDER BY rowid LIMIT {ROWS})"
    )
}

/// The texts of a table, in the order of its rows.
fn texts<'a>(db: &'a DatabaseConnection, select: &str) -> impl Stream<Item = Result<Text, DbErr>> + use<'a> {
    let select = select.to_owned();
    stream::try_unfold((0_i64, select), move |(place, select)| async move {
        let statement = Statement::from_sql_and_values(DatabaseBackend::Sqlite, &select, [place.into()]);
        let Some(row) = db.query_one_raw(statement).await? else { return Ok(None) };
        let Some(last) = row.try_get_by_index::<Option<i64>>(2)? else { return Ok(None) };
        let digests = row.try_get_by_index::<Option<Vec<u8>>>(1)?.unwrap_or_default();
        Ok(Some((Text { lines: row.try_get_by_index(0)?, digests }, (last, select))))
    })
}
