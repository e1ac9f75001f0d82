//! Who may come in while Postgres is away? Users and keys as they were when it was last read, from the local file.
use entity::{key, key_digest, user};
use sea_orm::{EntityTrait, IntoActiveModel, TransactionTrait};

use super::database::Store;
use super::deadline::within_deadline;
use super::error::StoreError;
use super::transactions::immediate;

/// Rows a statement: SQLite limits the number of bound values.
const BATCH: usize = 1_000;

/// The rows of everybody.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct People {
    pub(super) users: Vec<user::Model>,
    pub(super) keys: Vec<key::Model>,
    pub(super) digests: Vec<key_digest::Model>,
}

impl People {
    /// What the database says.
    ///
    /// # Errors
    /// When it is away.
    pub(super) async fn read(store: &Store) -> Result<Self, StoreError> {
        store.meet().await?;
        Ok(Self {
            users: within_deadline(user::Entity::find().all(&store.db)).await?,
            keys: within_deadline(key::Entity::find().all(&store.db)).await?,
            digests: within_deadline(key_digest::Entity::find().all(&store.db)).await?,
        })
    }

    /// What the local copy says.
    ///
    /// # Errors
    /// When the local file fails.
    pub(super) async fn read_copy(store: &Store) -> Result<Self, StoreError> {
        let local = &store.local.db;
        Ok(Self {
            users: within_deadline(user::Entity::find().all(local)).await?,
            keys: within_deadline(key::Entity::find().all(local)).await?,
            digests: within_deadline(key_digest::Entity::find().all(local)).await?,
        })
    }

    /// Keeps a copy for a start without the database.
    ///
    /// # Errors
    /// When the local file fails; the copy is as it was then.
    pub(super) async fn keep_copy(&self, store: &Store) -> Result<(), StoreError> {
        let replace = async {
            let transaction = store.local.db.begin_with_options(immediate()).await?;
            key_digest::Entity::delete_many().exec(&transaction).await?;
            key::Entity::delete_many().exec(&transaction).await?;
            user::Entity::delete_many().exec(&transaction).await?;
            for users in self.users.chunks(BATCH) {
                let rows = users.iter().cloned().map(IntoActiveModel::into_active_model);
                user::Entity::insert_many(rows).exec_without_returning(&transaction).await?;
            }
            for keys in self.keys.chunks(BATCH) {
                let rows = keys.iter().cloned().map(IntoActiveModel::into_active_model);
                key::Entity::insert_many(rows).exec_without_returning(&transaction).await?;
            }
            for digests in self.digests.chunks(BATCH) {
                let rows = digests.iter().cloned().map(IntoActiveModel::into_active_model);
                key_digest::Entity::insert_many(rows).exec_without_returning(&transaction).await?;
            }
            transaction.commit().await
        };
        within_deadline(replace).await
    }
}
