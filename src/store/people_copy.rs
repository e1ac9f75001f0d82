//! Who may come in while Postgres is away? A copy of users and keys in the local file, kept up to date change by change.
use std::time::Duration;

use entity::people_copy::{Column, Entity, Model};
use entity::{key, key_digest, user};
use sea_orm::sea_query::OnConflict;
use sea_orm::{
    ColumnTrait, Condition, ConnectionTrait, DatabaseConnection, DbErr, EntityTrait, IntoActiveModel, ModelTrait,
    QueryFilter, QueryOrder, QuerySelect, QueryTrait, TransactionTrait, Value,
};
use tokio::time::Instant;

use super::database::Store;
use super::deadline::within_deadline;
use super::error::StoreError;
use super::many;
use super::people::{Changed, People};
use super::transactions::immediate;

const ONLY_ROW: i32 = 1;
/// Rows that are read at a time, and most rows of a table that are copied at one stroke.
const PAGE: usize = 1_000;
/// Rows of one statement of a long copy. Usage rows wait while it is carried out, which takes milliseconds.
const BATCH: usize = 100;
/// After each statement a long copy rests for so many times as long as that took, as requests come first.
const REST: u32 = 2;
/// Longest rest: a statement may have taken long because the machine was asleep.
const LONGEST_REST: Duration = Duration::from_secs(1);

/// How current the copy is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Copy {
    /// The last change that it has; `None` where that is unknown.
    pub(super) seq: Option<i64>,
    /// Whether it has everybody.
    pub(super) is_whole: bool,
}

impl Store {
    /// How current the copy is. One of an earlier version is whole, but its age is unknown.
    pub(super) async fn people_copy(&self) -> Result<Copy, StoreError> {
        let row = within_deadline(Entity::find_by_id(ONLY_ROW).one(&self.local.db)).await?;
        if let Some(row) = row {
            return Ok(Copy { seq: row.seq, is_whole: row.is_whole });
        }
        let anybody = within_deadline(user::Entity::find().one(&self.local.db)).await?;
        Ok(Copy { seq: None, is_whole: anybody.is_some() })
    }

    /// Brings the copy up to the line `seq` of the log by what has changed until then.
    pub(super) async fn copy_changes(&self, people: &People, changed: &Changed, seq: i64) -> Result<(), StoreError> {
        let copy = async {
            let transaction = self.local.db.begin_with_options(immediate()).await?;
            let backend = transaction.get_database_backend();
            for ids in changed.keys.chunks(PAGE) {
                let digests = many::is_any(key_digest::Column::KeyId, backend, ids);
                key_digest::Entity::delete_many().filter(digests).exec(&transaction).await?;
                let keys = many::is_any(key::Column::Id, backend, ids);
                key::Entity::delete_many().filter(keys).exec(&transaction).await?;
            }
            for names in changed.users.chunks(PAGE) {
                let users = many::is_any(user::Column::Id, backend, names);
                user::Entity::delete_many().filter(users).exec(&transaction).await?;
            }
            insert::<user::Entity>(&transaction, &people.users).await?;
            insert::<key::Entity>(&transaction, &people.keys).await?;
            insert::<key_digest::Entity>(&transaction, &people.digests).await?;
            mark(&transaction, Copy { seq: Some(seq), is_whole: true }).await?;
            transaction.commit().await
        };
        within_deadline(Box::pin(copy)).await
    }

    /// Makes a new copy, as of the line `seq` of the log or later. Up to `PAGE` users and keys, before and after, it is made at
    /// one stroke; a longer one counts only once it is whole.
    pub(super) async fn copy_everybody(&self, seq: i64) -> Result<(), StoreError> {
        let users = self.page_of::<user::Entity>(user::Column::Id, None).await?;
        let keys = self.page_of::<key::Entity>(key::Column::Id, None).await?;
        let digests = self.page_of::<key_digest::Entity>(key_digest::Column::Digest, None).await?;
        let is_short = users.len() < PAGE && keys.len() < PAGE && digests.len() < PAGE;
        // Those who are there may be many, and are deleted at the same stroke.
        let replaces_few = is_short
            && has_few::<user::Entity>(&self.local.db, user::Column::Id).await?
            && has_few::<key::Entity>(&self.local.db, key::Column::Id).await?
            && has_few::<key_digest::Entity>(&self.local.db, key_digest::Column::Digest).await?;
        let is_whole = Copy { seq: Some(seq), is_whole: true };
        if replaces_few {
            let people = People { users, keys, digests };
            return within_deadline(replace(&self.local.db, &people, is_whole)).await;
        }
        within_deadline(mark(&self.local.db, Copy { seq: None, is_whole: false })).await?;
        empty::<key_digest::Entity>(&self.local.db, key_digest::Column::Digest).await?;
        empty::<key::Entity>(&self.local.db, key::Column::Id).await?;
        empty::<user::Entity>(&self.local.db, user::Column::Id).await?;
        // Each statement has its deadline, and none is repeated: so this ends, though a million keys take minutes.
        self.copy_table::<user::Entity>(user::Column::Id).await?;
        self.copy_table::<key::Entity>(key::Column::Id).await?;
        self.copy_table::<key_digest::Entity>(key_digest::Column::Digest).await?;
        within_deadline(mark(&self.local.db, is_whole)).await
    }

    /// The rows of Postgres that follow a key, in the order of the key. One statement for all rows would run for as long as it
    /// takes to write them, which is longer than a statement may take.
    async fn page_of<E: EntityTrait>(&self, key: E::Column, after: Option<Value>) -> Result<Vec<E::Model>, StoreError>
    where
        E::Model: Send + Sync,
    {
        let page = E::find().filter(Condition::all().add_option(after.map(|after| key.gt(after))));
        within_deadline(page.order_by_asc(key).limit(PAGE as u64).all(&self.db)).await
    }

    /// Copies a table. No transaction is open while Postgres is asked, which may never answer: usage rows wait for it.
    async fn copy_table<E>(&self, key: E::Column) -> Result<(), StoreError>
    where
        E: EntityTrait,
        E::Model: ModelTrait<Entity = E> + Send + Sync,
    {
        let mut after = None;
        loop {
            let rows = self.page_of::<E>(key, after).await?;
            let Some(last) = rows.last() else { return Ok(()) };
            after = Some(last.get(key));
            for rows in rows.chunks(BATCH) {
                // By itself, so that no other writer waits for more than the statement.
                rested(within_deadline(insert::<E>(&self.local.db, rows))).await?;
            }
        }
    }
}

/// Whether a table has no more rows than one transaction deletes.
async fn has_few<E: EntityTrait>(local: &DatabaseConnection, key: E::Column) -> Result<bool, StoreError>
where
    E::Model: Send + Sync,
{
    let more = E::find().order_by_asc(key).offset(PAGE as u64).one(local);
    Ok(within_deadline(more).await?.is_none())
}

/// Waits for the work, and then rests.
async fn rested<T>(work: impl Future<Output = T>) -> T {
    let began = Instant::now();
    let done = work.await;
    tokio::time::sleep((began.elapsed() * REST).min(LONGEST_REST)).await;
    done
}

/// Deletes all rows of a table, some at a time.
async fn empty<E: EntityTrait>(local: &DatabaseConnection, key: E::Column) -> Result<(), StoreError> {
    loop {
        let some = E::find().select_only().column(key).limit(BATCH as u64).into_query();
        let old = E::delete_many().filter(key.in_subquery(some));
        if rested(within_deadline(old.exec(local))).await?.rows_affected == 0 {
            return Ok(());
        }
    }
}

/// Puts a few people in the place of those that are there.
async fn replace(local: &DatabaseConnection, people: &People, copy: Copy) -> Result<(), DbErr> {
    let transaction = local.begin_with_options(immediate()).await?;
    key_digest::Entity::delete_many().exec(&transaction).await?;
    key::Entity::delete_many().exec(&transaction).await?;
    user::Entity::delete_many().exec(&transaction).await?;
    insert::<user::Entity>(&transaction, &people.users).await?;
    insert::<key::Entity>(&transaction, &people.keys).await?;
    insert::<key_digest::Entity>(&transaction, &people.digests).await?;
    mark(&transaction, copy).await?;
    transaction.commit().await
}

async fn insert<E: EntityTrait>(db: &impl ConnectionTrait, rows: &[E::Model]) -> Result<(), DbErr> {
    for rows in rows.chunks(PAGE) {
        db.execute(&many::insertion::<E>(db.get_database_backend(), rows)?).await?;
    }
    Ok(())
}

async fn mark(db: &impl ConnectionTrait, copy: Copy) -> Result<(), DbErr> {
    let row = Model { id: ONLY_ROW, seq: copy.seq, is_whole: copy.is_whole }.into_active_model();
    let replace = OnConflict::column(Column::Id).update_columns([Column::Seq, Column::IsWhole]).to_owned();
    Entity::insert(row).on_conflict(replace).exec_without_returning(db).await?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use sea_orm::PaginatorTrait;

    use super::*;
    use crate::store::scratch::Scratch;
    use crate::store::settings::DatabaseSettings;

    #[actix_rt::test]
    async fn a_copy_of_several_pages_has_everybody_of_each() {
        let Some(scratch) = Scratch::postgres().await else { return };
        check(&scratch.url).await;
        scratch.remove().await;
    }

    async fn check(url: &str) {
        let folder = tempfile::tempdir().unwrap();
        let outbox = folder.path().join("outbox.db");
        let settings = DatabaseSettings { url: url.to_owned(), outbox, ..DatabaseSettings::default() };
        let store = Store::open(&settings).await.unwrap();
        let row = |number: usize| user::ActiveModel {
            id: sea_orm::Set(format!("user-{number}")),
            created_at_ms: sea_orm::Set(1),
            ..Default::default()
        };
        for (before, users) in [(0, PAGE - 1), (PAGE - 1, PAGE), (PAGE, 2 * PAGE), (2 * PAGE, 2 * PAGE + 1)] {
            user::Entity::insert_many((before..users).map(row)).exec_without_returning(&store.db).await.unwrap();

            store.copy_everybody(7).await.unwrap();

            assert_eq!(user::Entity::find().count(&store.local.db).await.unwrap(), users as u64);
            assert_eq!(store.people_copy().await.unwrap(), Copy { seq: Some(7), is_whole: true });
        }
        // Few take the place of many.
        user::Entity::delete_many().filter(user::Column::Id.ne("user-1")).exec(&store.db).await.unwrap();
        store.copy_everybody(8).await.unwrap();
        assert_eq!(user::Entity::find().count(&store.local.db).await.unwrap(), 1);
        assert_eq!(store.people_copy().await.unwrap(), Copy { seq: Some(8), is_whole: true });
        store.close().await;
    }
}
