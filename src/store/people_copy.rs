//! Who may come in while Postgres is away? A copy of users and keys in the local file, kept up to date change by change.
use std::time::Duration;

use entity::people_copy::{Column, Entity, Model};
use entity::{key, key_digest, user};
use sea_orm::sea_query::OnConflict;
use sea_orm::{
    ColumnTrait, Condition, DatabaseConnection, DatabaseTransaction, DbErr, EntityTrait, IntoActiveModel, ModelTrait,
    QueryFilter, QueryOrder, QuerySelect, TransactionTrait, Value,
};

use super::database::Store;
use super::deadline::{within, within_deadline};
use super::error::StoreError;
use super::people::{Changed, People};
use super::transactions::immediate;

const ONLY_ROW: i32 = 1;
/// Rows of one statement, which binds a dozen values for each; and of one transaction of a long copy, so that no usage row
/// waits for more.
const BATCH: usize = 1_000;
/// Longest time for a whole copy.
const WHOLE_DEADLINE: Duration = Duration::from_secs(600);

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
            for ids in changed.keys.chunks(BATCH) {
                let ids = || ids.iter().map(String::as_str);
                let digests = key_digest::Entity::delete_many().filter(key_digest::Column::KeyId.is_in(ids()));
                digests.exec(&transaction).await?;
                key::Entity::delete_many().filter(key::Column::Id.is_in(ids())).exec(&transaction).await?;
            }
            for names in changed.users.chunks(BATCH) {
                let names = names.iter().map(String::as_str);
                user::Entity::delete_many().filter(user::Column::Id.is_in(names)).exec(&transaction).await?;
            }
            insert::<user::Entity>(&transaction, &people.users).await?;
            insert::<key::Entity>(&transaction, &people.keys).await?;
            insert::<key_digest::Entity>(&transaction, &people.digests).await?;
            mark(&transaction, Copy { seq: Some(seq), is_whole: true }).await?;
            transaction.commit().await
        };
        within_deadline(copy).await
    }

    /// Makes a new copy, as of the line `seq` of the log or later. Up to `BATCH` users and keys it is made at one stroke; a
    /// longer one counts only once it is whole.
    pub(super) async fn copy_everybody(&self, seq: i64) -> Result<(), StoreError> {
        within(WHOLE_DEADLINE, self.copy_tables(seq)).await
    }

    async fn copy_tables(&self, seq: i64) -> Result<(), DbErr> {
        let mut copy = Replacement::begin(&self.local.db).await?;
        copy.table::<user::Entity>(&self.db, user::Column::Id).await?;
        copy.table::<key::Entity>(&self.db, key::Column::Id).await?;
        copy.table::<key_digest::Entity>(&self.db, key_digest::Column::Digest).await?;
        copy.finish(seq).await
    }
}

/// A copy that is being made.
struct Replacement {
    local: DatabaseConnection,
    /// Taken only while one transaction makes way for the next.
    transaction: Option<DatabaseTransaction>,
}

impl Replacement {
    async fn begin(local: &DatabaseConnection) -> Result<Self, DbErr> {
        let transaction = local.begin_with_options(immediate()).await?;
        key_digest::Entity::delete_many().exec(&transaction).await?;
        key::Entity::delete_many().exec(&transaction).await?;
        user::Entity::delete_many().exec(&transaction).await?;
        mark(&transaction, Copy { seq: None, is_whole: false }).await?;
        Ok(Self { local: local.clone(), transaction: Some(transaction) })
    }

    /// Copies a table in the order of its key, page by page: one statement for all rows would run for as long as it takes to
    /// write them, which is longer than a statement may take.
    async fn table<E: EntityTrait>(&mut self, from: &DatabaseConnection, key: E::Column) -> Result<(), DbErr>
    where
        E::Model: IntoActiveModel<E::ActiveModel> + ModelTrait<Entity = E> + Send + Sync,
        E::ActiveModel: Send,
    {
        let mut after: Option<Value> = None;
        loop {
            let page = E::find().filter(Condition::all().add_option(after.map(|after| key.gt(after))));
            let rows = page.order_by_asc(key).limit(BATCH as u64).all(from).await?;
            after = rows.last().map(|row| row.get(key));
            self.insert::<E>(&rows).await?;
            if rows.len() < BATCH {
                return Ok(());
            }
            self.make_way().await?;
        }
    }

    async fn insert<E: EntityTrait>(&self, rows: &[E::Model]) -> Result<(), DbErr>
    where
        E::Model: IntoActiveModel<E::ActiveModel> + Clone,
        E::ActiveModel: Send,
    {
        match &self.transaction {
            Some(transaction) => insert::<E>(transaction, rows).await,
            None => Err(interrupted()),
        }
    }

    /// Ends one transaction and begins the next, so that usage rows are written in between.
    async fn make_way(&mut self) -> Result<(), DbErr> {
        self.transaction.take().ok_or_else(interrupted)?.commit().await?;
        tokio::task::yield_now().await;
        self.transaction = Some(self.local.begin_with_options(immediate()).await?);
        Ok(())
    }

    async fn finish(self, seq: i64) -> Result<(), DbErr> {
        let transaction = self.transaction.ok_or_else(interrupted)?;
        mark(&transaction, Copy { seq: Some(seq), is_whole: true }).await?;
        transaction.commit().await
    }
}

fn interrupted() -> DbErr {
    DbErr::Custom("the copy was interrupted".to_owned())
}

async fn insert<E: EntityTrait>(db: &DatabaseTransaction, rows: &[E::Model]) -> Result<(), DbErr>
where
    E::Model: IntoActiveModel<E::ActiveModel> + Clone,
    E::ActiveModel: Send,
{
    for rows in rows.chunks(BATCH) {
        let rows = rows.iter().cloned().map(IntoActiveModel::into_active_model);
        E::insert_many(rows).exec_without_returning(db).await?;
    }
    Ok(())
}

async fn mark(db: &DatabaseTransaction, copy: Copy) -> Result<(), DbErr> {
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
        for (before, users) in [(0, BATCH - 1), (BATCH - 1, BATCH), (BATCH, 2 * BATCH), (2 * BATCH, 2 * BATCH + 1)] {
            user::Entity::insert_many((before..users).map(row)).exec_without_returning(&store.db).await.unwrap();

            store.copy_everybody(7).await.unwrap();

            assert_eq!(user::Entity::find().count(&store.local.db).await.unwrap(), users as u64);
            assert_eq!(store.people_copy().await.unwrap(), Copy { seq: Some(7), is_whole: true });
        }
        store.close().await;
    }
}
