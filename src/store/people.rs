//! Which rows do users and keys have in a database? All of them, read fast, or those that have changed.
use entity::{key, key_digest, people_change, user};
use futures_util::{TryStreamExt, stream};
use sea_orm::{
    ColumnTrait, ConnectionTrait, DatabaseBackend, DatabaseConnection, DbErr, EntityTrait, QueryFilter, QueryOrder,
    QuerySelect, Statement,
};
use serde::de::DeserializeOwned;

use super::columns::{key_entry, secret_entry, user_entry};
use super::database::Store;
use super::deadline::{within, within_deadline};
use super::directory::{Directory, SecretEntry, from_hex};
use super::error::StoreError;
use super::keys::{KeyDigest, Peppers, SecretEnd};

/// Longest time to read everybody: a million keys take seconds.
const ALL_DEADLINE: std::time::Duration = std::time::Duration::from_secs(60);
/// Rows of one text.
const TEXT_ROWS: i64 = 10_000;
/// Most records for which memory is reserved before they are read.
const MOST_ROOM: usize = 4_000_000;
/// Values bound to one statement.
const BOUND: usize = 1_000;
/// Lines of the log that are taken up together.
const LINES: u64 = 2_000;
/// Lines of the log that are kept.
const KEPT_LINES: i64 = 100_000;

/// A digest in hex, its pepper, the id of its key, its last four characters, and its end.
type DigestLine = (String, Option<String>, String, String, Option<i64>);

/// The rows of some users and keys.
#[derive(Clone, Debug, Default)]
pub(super) struct People {
    pub(super) users: Vec<user::Model>,
    pub(super) keys: Vec<key::Model>,
    pub(super) digests: Vec<key_digest::Model>,
}

/// Who has changed.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Changed {
    pub(super) users: Vec<String>,
    pub(super) keys: Vec<String>,
    /// Whether any administrator has.
    pub(super) admins: bool,
    /// Whether any group has.
    pub(super) groups: bool,
}

/// What the log of changes says to somebody who has read it up to a line.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Since {
    /// Nothing has changed.
    Nothing,
    /// These have changed, up to this line.
    Some(Changed, i64),
    /// The log does not reach back so far, or is another one.
    Unknown,
}

/// The newest line of the log of changes; 0 for an empty one.
pub(super) async fn newest_change(db: &DatabaseConnection) -> Result<i64, StoreError> {
    Ok(within_deadline(bounds(db)).await?.1)
}

async fn bounds(db: &DatabaseConnection) -> Result<(i64, i64), DbErr> {
    let bounds = "SELECT coalesce(min(seq), 0), coalesce(max(seq), 0) FROM people_changes";
    let row = db.query_one_raw(Statement::from_string(db.get_database_backend(), bounds)).await?;
    row.map_or(Ok((0, 0)), |row| Ok((row.try_get_by_index(0)?, row.try_get_by_index(1)?)))
}

/// What has changed since the line `seq`.
pub(super) async fn changes_since(db: &DatabaseConnection, seq: i64) -> Result<Since, StoreError> {
    let (oldest, newest) = within_deadline(bounds(db)).await?;
    if newest == seq {
        return Ok(Since::Nothing);
    }
    if newest < seq || oldest > seq + 1 {
        return Ok(Since::Unknown);
    }
    let lines = people_change::Entity::find().filter(people_change::Column::Seq.gt(seq));
    let lines = lines.order_by_asc(people_change::Column::Seq).limit(LINES);
    let lines = within_deadline(lines.all(db)).await?;
    let up_to = lines.last().map_or(seq, |line| line.seq);
    Ok(Since::Some(Changed::of(lines.iter().map(|line| line.subject.as_str())), up_to))
}

impl Store {
    /// Shortens the log of changes to its newest lines. Whoever has read less than that reads everybody.
    pub(super) async fn prune_changes(&self) -> Result<(), StoreError> {
        let newest = newest_change(&self.db).await?;
        let old = people_change::Column::Seq.lte(newest - KEPT_LINES);
        within_deadline(people_change::Entity::delete_many().filter(old).exec(&self.db)).await?;
        Ok(())
    }
}

impl Changed {
    pub(super) fn of<'a>(subjects: impl Iterator<Item = &'a str>) -> Self {
        let mut changed = Self::default();
        for subject in subjects {
            match subject.split_once(':') {
                Some(("user", name)) => changed.users.push(name.to_owned()),
                Some(("key", id)) => changed.keys.push(id.to_owned()),
                Some(("admin", _)) => changed.admins = true,
                Some(("group", _)) => changed.groups = true,
                // Of a later version.
                _ => {}
            }
        }
        for names in [&mut changed.users, &mut changed.keys] {
            names.sort_unstable();
            names.dedup();
        }
        changed
    }
}

impl People {
    /// Their rows as they are now. Whoever has none is deleted.
    pub(super) async fn read(db: &DatabaseConnection, changed: &Changed) -> Result<Self, StoreError> {
        let mut people = Self::default();
        for names in changed.users.chunks(BOUND) {
            let users = user::Entity::find().filter(user::Column::Id.is_in(names));
            people.users.extend(within_deadline(users.all(db)).await?);
        }
        for ids in changed.keys.chunks(BOUND) {
            let keys = key::Entity::find().filter(key::Column::Id.is_in(ids));
            people.keys.extend(within_deadline(keys.all(db)).await?);
            let digests = key_digest::Entity::find().filter(key_digest::Column::KeyId.is_in(ids));
            people.digests.extend(within_deadline(digests.all(db)).await?);
        }
        Ok(people)
    }
}

/// Everybody in a database.
pub(super) async fn read_all(db: &DatabaseConnection, peppers: &Peppers) -> Result<Directory, StoreError> {
    let read = async {
        let mut directory = Directory::default();
        let [users, keys, digests] = counts(db).await?;
        directory.reserve(users, keys, digests);
        if db.get_database_backend() == DatabaseBackend::Sqlite {
            read_texts(db, peppers, &mut directory).await?;
        } else {
            read_rows(db, peppers, &mut directory).await?;
        }
        Ok(directory)
    };
    within(ALL_DEADLINE, read).await
}

/// About how many users, keys and digests there are, so that tables are allocated once.
async fn counts(db: &DatabaseConnection) -> Result<[usize; 3], DbErr> {
    // SQLite would read a whole index to count rows; the last rowid is estimate enough.
    let on_sqlite = db.get_database_backend() == DatabaseBackend::Sqlite;
    let count = if on_sqlite { "coalesce(max(rowid), 0)" } else { "count(*)" };
    let mut counts = [0; 3];
    for (table, rows) in ["users", "keys", "key_digests"].into_iter().zip(&mut counts) {
        let count = Statement::from_string(db.get_database_backend(), format!("SELECT {count} FROM {table}"));
        let count: i64 = db.query_one_raw(count).await?.map_or(Ok(0), |row| row.try_get_by_index(0))?;
        *rows = usize::try_from(count).unwrap_or_default().min(MOST_ROOM);
    }
    Ok(counts)
}

async fn read_rows(db: &DatabaseConnection, peppers: &Peppers, directory: &mut Directory) -> Result<(), DbErr> {
    let mut users = user::Entity::find().stream(db).await?;
    while let Some(row) = users.try_next().await? {
        put_user(directory, &row);
    }
    drop(users);
    let mut keys = key::Entity::find().stream(db).await?;
    while let Some(row) = keys.try_next().await? {
        directory.put_key(&key_entry(&row));
    }
    drop(keys);
    let mut digests = key_digest::Entity::find().stream(db).await?;
    while let Some(row) = digests.try_next().await? {
        put_secret(directory, &row, peppers);
    }
    Ok(())
}

pub(super) fn put_user(directory: &mut Directory, row: &user::Model) -> bool {
    match user_entry(row) {
        Some(entry) => directory.put_user(entry),
        None => {
            tracing::warn!("the database has a user whose name cannot be used");
            false
        }
    }
}

fn put_secret(directory: &mut Directory, row: &key_digest::Model, peppers: &Peppers) {
    if let Some(secret) = secret_entry(row, peppers) {
        directory.add_secret(&row.key_id, &secret);
    }
}

/// From SQLite a row costs as much as many of them in one text.
async fn read_texts(db: &DatabaseConnection, peppers: &Peppers, directory: &mut Directory) -> Result<(), DbErr> {
    // In the order of the models' fields.
    let columns = "id, created_at_ms, requests_per_minute, tokens_per_day, tokens_per_minute, max_concurrency, \
                   weight_millis, suspended_at_ms, display_name, email, note, generation, last_seen_ms, group_id";
    each_line(db, "users", columns, |row: user::Model| _ = put_user(directory, &row)).await?;
    let columns = "id, user_id, name, created_at_ms, expires_at_ms, allowed_models, requests_per_minute, \
                   tokens_per_minute, tokens_per_day, max_concurrency, last_used_ms";
    each_line(db, "keys", columns, |row: key::Model| directory.put_key(&key_entry(&row))).await?;
    let columns = "lower(hex(digest)), pepper, key_id, last_four, expires_at_ms";
    each_line(db, "key_digests", columns, |(digest, pepper, key_id, last_four, until_ms): DigestLine| {
        let mut bytes = [0; 32];
        if from_hex(&digest, &mut bytes) {
            let end = SecretEnd { digest: KeyDigest(bytes), last_four, until_ms };
            let is_foreign = !peppers.knows(pepper.as_deref());
            directory.add_secret(&key_id, &SecretEntry { end, is_foreign });
        }
    })
    .await
}

/// Texts of a table that are parsed at a time, while SQLite makes the next one.
const PARSED: usize = 2;

/// Reads a table of SQLite in the order of its rows, many of them in one JSON text. SQLite's thread, two that parse, and
/// this one work at the same time.
async fn each_line<Line: DeserializeOwned + Send + 'static>(
    db: &DatabaseConnection,
    table: &str,
    columns: &str,
    mut take: impl FnMut(Line),
) -> Result<(), DbErr> {
    let text = format!(
        "SELECT json_group_array(json_array({columns})), max(place) FROM \
         (SELECT rowid AS place, * FROM {table} WHERE rowid > ? ORDER BY rowid LIMIT {TEXT_ROWS})"
    );
    let texts = stream::try_unfold(0_i64, |place| {
        let statement = Statement::from_sql_and_values(DatabaseBackend::Sqlite, &text, [place.into()]);
        async move {
            let Some(row) = db.query_one_raw(statement).await? else { return Ok(None) };
            let Some(last) = row.try_get_by_index::<Option<i64>>(1)? else { return Ok(None) };
            Ok::<_, DbErr>(Some((row.try_get_by_index::<String>(0)?, last)))
        }
    });
    let parsed = texts.map_ok(async |lines: String| {
        let parse = move || serde_json::from_str::<Vec<Line>>(&lines).map_err(|error| DbErr::Type(error.to_string()));
        tokio::task::spawn_blocking(parse).await.map_err(|error| DbErr::Custom(error.to_string()))?
    });
    let mut parsed = std::pin::pin!(parsed.try_buffered(PARSED));
    while let Some(lines) = parsed.try_next().await? {
        lines.into_iter().for_each(&mut take);
    }
    Ok(())
}
