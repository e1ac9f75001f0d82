//! How do users come and go? Created, given other terms, deleted: in the database, and then in memory.
use std::sync::Arc;

use entity::{key, key_digest, user};
use sea_orm::{
    ActiveModelTrait, ColumnTrait, DbErr, EntityTrait, IntoActiveModel, QueryFilter, QuerySelect, QueryTrait, Set,
    SqlErr,
};

use super::account::{Account, Terms, UserId};
use super::accounts::Accounts;
use super::changes::begin_change;
use super::columns::{to_i64, to_millis};
use super::deadline::within_deadline;
use super::error::StoreError;
use super::key::{KeySpec, MadeKey};
use super::people::put_user;
use super::spent::spent;
use limits::Moment;

/// A user to be created.
#[derive(Clone, Debug)]
pub struct NewUser {
    /// The name.
    pub user: UserId,
    /// Limits and weight to begin with.
    pub terms: Terms,
}

impl Accounts {
    /// Creates a user with a first key, which works as soon as this returns.
    ///
    /// # Errors
    /// [`StoreError::Exists`], or when the database fails.
    pub async fn create(&self, new: NewUser, now: Moment) -> Result<MadeKey, StoreError> {
        let _changing = self.changing.lock().await;
        let name = new.user.as_str();
        let Terms { limits, weight } = new.terms;
        let row = user::Model {
            id: name.to_owned(),
            created_at_ms: now.unix_ms,
            requests_per_minute: limits.requests_per_minute.map(i64::from),
            tokens_per_day: limits.tokens_per_day.map(to_i64),
            tokens_per_minute: limits.tokens_per_minute.map(to_i64),
            max_concurrency: limits.max_concurrency.map(i64::from),
            weight_millis: to_millis(weight),
        };
        let drafted = self.draft(name, KeySpec::default(), now)?;
        // A name that was deleted and is created again goes on with what it has used today. Read first: once the user is in the
        // database, nothing may fail that would keep the key from whoever asked.
        let spent = spent(&self.store, Some(name), now).await?;
        let insert = async {
            let transaction = begin_change(&self.store.db).await?;
            row.clone().into_active_model().insert(&transaction).await?;
            drafted.insert(&transaction).await?;
            transaction.commit().await
        };
        match within_deadline(insert).await {
            Ok(()) => {}
            Err(StoreError::Database(cause))
                if matches!(cause.sql_err(), Some(SqlErr::UniqueConstraintViolation(_))) =>
            {
                return Err(StoreError::Exists(name.to_owned()));
            }
            Err(error) => {
                self.undo(name, drafted.key_id()).await;
                return Err(error);
            }
        }
        put_user(&mut self.write(), &row);
        self.begin_with(&spent, now);
        self.adopt(drafted, now).ok_or_else(|| StoreError::NotFound(name.to_owned()))
    }

    /// Takes out a user whose creation failed, but may have come to be all the same: nobody has the key.
    async fn undo(&self, user: &str, key_id: &str) {
        let undo = async {
            let transaction = begin_change(&self.store.db).await?;
            if key::Entity::delete_by_id(key_id).exec(&transaction).await?.rows_affected > 0 {
                let digests = key_digest::Entity::delete_many().filter(key_digest::Column::KeyId.eq(key_id));
                digests.exec(&transaction).await?;
                user::Entity::delete_by_id(user).exec(&transaction).await?;
            }
            transaction.commit().await
        };
        if let Err(error) = within_deadline(undo).await {
            tracing::warn!(user, %error, "a user who was not created may be there without a key: delete and create it again");
        }
    }

    /// Changes a user's limits and weight, from the next request on.
    ///
    /// # Errors
    /// [`StoreError::NotFound`], or when the database fails.
    pub async fn set_terms(&self, user: &str, terms: Terms, now: Moment) -> Result<Arc<Account>, StoreError> {
        let _changing = self.changing.lock().await;
        let account = self.by_user(user, now).ok_or_else(|| StoreError::NotFound(user.to_owned()))?;
        let Terms { limits, weight } = terms;
        let row = user::ActiveModel {
            id: Set(user.to_owned()),
            requests_per_minute: Set(limits.requests_per_minute.map(i64::from)),
            tokens_per_day: Set(limits.tokens_per_day.map(to_i64)),
            tokens_per_minute: Set(limits.tokens_per_minute.map(to_i64)),
            max_concurrency: Set(limits.max_concurrency.map(i64::from)),
            weight_millis: Set(to_millis(weight)),
            ..Default::default()
        };
        let update = async {
            let transaction = begin_change(&self.store.db).await?;
            let row = row.update(&transaction).await?;
            transaction.commit().await?;
            Ok(row)
        };
        let row = within_deadline(update).await.map_err(|error| match error {
            // Another gateway has deleted the user, and this one has not heard of it yet.
            StoreError::Database(DbErr::RecordNotUpdated | DbErr::RecordNotFound(_)) => {
                StoreError::NotFound(user.to_owned())
            }
            other => other,
        })?;
        put_user(&mut self.write(), &row);
        Ok(account)
    }

    /// Deletes a user and all keys, which stop working at once; running requests end. Usage rows stay.
    ///
    /// # Errors
    /// [`StoreError::NotFound`], or when the database fails.
    pub async fn delete(&self, user: &str) -> Result<(), StoreError> {
        let _changing = self.changing.lock().await;
        if !self.has_user(user) {
            return Err(StoreError::NotFound(user.to_owned()));
        }
        let delete = async {
            let transaction = begin_change(&self.store.db).await?;
            let keys = key::Entity::find().filter(key::Column::UserId.eq(user));
            let ids = keys.select_only().column(key::Column::Id).into_query();
            key_digest::Entity::delete_many()
                .filter(key_digest::Column::KeyId.in_subquery(ids))
                .exec(&transaction)
                .await?;
            key::Entity::delete_many().filter(key::Column::UserId.eq(user)).exec(&transaction).await?;
            user::Entity::delete_by_id(user).exec(&transaction).await?;
            transaction.commit().await
        };
        within_deadline(delete).await?;
        self.write().remove_user(user);
        Ok(())
    }
}
