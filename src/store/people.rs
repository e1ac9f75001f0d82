//! Which users and keys have changed in a database, and which rows do they have now?
use entity::{key, key_digest, people_change, user};
use sea_orm::{
    ColumnTrait, ConnectionTrait, DatabaseConnection, DbErr, EntityTrait, QueryFilter, QueryOrder, QuerySelect,
    Statement,
};

use super::database::Store;
use super::deadline::within_deadline;
use super::error::StoreError;
use super::many;

/// Names in one statement.
const BOUND: usize = 1_000;
/// Lines of the log that are taken up together.
const LINES: u64 = 2_000;
/// Lines of the log that are kept.
const KEPT_LINES: i64 = 100_000;

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
        let backend = db.get_database_backend();
        for names in changed.users.chunks(BOUND) {
            let users = user::Entity::find().filter(many::is_any(user::Column::Id, backend, names));
            people.users.extend(within_deadline(users.all(db)).await?);
        }
        for ids in changed.keys.chunks(BOUND) {
            let keys = key::Entity::find().filter(many::is_any(key::Column::Id, backend, ids));
            people.keys.extend(within_deadline(keys.all(db)).await?);
            let digests = key_digest::Entity::find().filter(many::is_any(key_digest::Column::KeyId, backend, ids));
            people.digests.extend(within_deadline(digests.all(db)).await?);
        }
        Ok(people)
    }
}
