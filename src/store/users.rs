//! How do users come and go? Created, given other terms, suspended, deleted: in the database, and then in memory.
use std::sync::Arc;

use entity::{former_user, key, key_digest, usage_rollup, user, user_group};
use sea_orm::sea_query::OnConflict;
use sea_orm::{
    ActiveModelTrait, ActiveValue, ColumnTrait, DatabaseTransaction, DbErr, EntityTrait, IntoActiveModel, QueryFilter,
    QuerySelect, QueryTrait, Set, SqlErr,
};

use super::account::{Account, Terms, UserEntry, UserId};
use super::accounts::Accounts;
use super::changes::begin_change;
use super::columns::{put_user, to_i64, to_millis};
use super::deadline::within_deadline;
use super::error::StoreError;
use super::key::{KeySpec, MadeKey};
use super::usage_id::{explicit, usage_id};
use limits::Moment;

/// A user to be created.
#[derive(Clone, Debug)]
pub struct NewUser {
    /// The name.
    pub user: UserId,
    /// Limits and weight to begin with.
    pub terms: Terms,
    /// The name of the group.
    pub group: Option<String>,
}

/// A change of what the operator says of a user: `None` = as it was, `Some(None)` = nothing.
#[derive(Clone, Debug, Default)]
pub struct UserChange {
    /// Whether nothing is let in for the user.
    pub suspended: Option<bool>,
    /// For people.
    pub display_name: Option<Option<String>>,
    /// Where to reach them.
    pub email: Option<Option<String>>,
    /// For operators.
    pub note: Option<Option<String>>,
    /// The name of the group.
    pub group: Option<Option<String>>,
}

impl Accounts {
    /// Creates a user with a first key, which works as soon as this returns.
    ///
    /// # Errors
    /// [`StoreError::Exists`], or when the database fails.
    pub async fn create(&self, new: NewUser, now: Moment) -> Result<MadeKey, StoreError> {
        let _changing = self.turn_to_change().await?;
        let name = new.user.as_str();
        let drafted = self.draft(name, KeySpec::default(), now)?;
        let insert = async {
            let transaction = begin_change(&self.store.db).await?;
            if let Some(group) = &new.group
                && lacks_group(&transaction, group).await?
            {
                return Ok(Err(StoreError::NoGroup(group.clone())));
            }
            let row = row_of(&new, next_generation(&transaction, name).await?, now);
            row.clone().into_active_model().insert(&transaction).await?;
            drafted.insert(&transaction).await?;
            transaction.commit().await?;
            Ok(Ok(row))
        };
        let row = match within_deadline(insert).await {
            Ok(row) => row?,
            Err(StoreError::Database(cause))
                if matches!(cause.sql_err(), Some(SqlErr::UniqueConstraintViolation(_))) =>
            {
                return Err(StoreError::Exists(name.to_owned()));
            }
            // It is not known whether the user was made. If so, nobody would ever see the key.
            Err(error) => {
                self.undo(name, drafted.key_id()).await;
                return Err(error);
            }
        };
        put_user(&mut self.write(), &row);
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
        let Terms { limits, weight } = terms;
        let row = user::ActiveModel {
            requests_per_minute: Set(limits.requests_per_minute.map(i64::from)),
            tokens_per_day: Set(limits.tokens_per_day.map(to_i64)),
            tokens_per_minute: Set(limits.tokens_per_minute.map(to_i64)),
            max_concurrency: Set(limits.max_concurrency.map(i64::from)),
            weight_millis: Set(to_millis(weight)),
            ..Default::default()
        };
        let _changing = self.turn_to_change().await?;
        self.update(user, row, now).await
    }

    /// Changes what the operator says of a user. Whoever is suspended is let in no more, at any gateway; requests that run
    /// go on.
    ///
    /// # Errors
    /// [`StoreError::NotFound`], or when the database fails.
    pub async fn change_user(&self, user: &str, change: UserChange, now: Moment) -> Result<Arc<Account>, StoreError> {
        let _changing = self.turn_to_change().await?;
        let account = self.by_user(user, now).ok_or_else(|| StoreError::NotFound(user.to_owned()))?;
        // Suspended since the first time it was said.
        let suspended = change.suspended.filter(|suspended| *suspended != account.is_suspended());
        let row = user::ActiveModel {
            suspended_at_ms: given(suspended.map(|suspended| suspended.then_some(now.unix_ms))),
            display_name: given(change.display_name),
            email: given(change.email),
            note: given(change.note),
            group_id: given(change.group),
            ..Default::default()
        };
        self.update(user, row, now).await
    }

    /// Writes what is set of a user's row, and takes it up. Only that: another gateway may be changing something else.
    async fn update(&self, user: &str, mut row: user::ActiveModel, now: Moment) -> Result<Arc<Account>, StoreError> {
        let account = self.by_user(user, now).ok_or_else(|| StoreError::NotFound(user.to_owned()))?;
        if !row.is_changed() {
            return Ok(account);
        }
        row.id = ActiveValue::Unchanged(user.to_owned());
        let update = async {
            let transaction = begin_change(&self.store.db).await?;
            if let ActiveValue::Set(Some(group)) = &row.group_id
                && lacks_group(&transaction, group).await?
            {
                return Ok(Err(StoreError::NoGroup(group.clone())));
            }
            let row = row.update(&transaction).await?;
            transaction.commit().await?;
            Ok(Ok(row))
        };
        let row = within_deadline(update).await.map_err(|error| match error {
            // Another gateway has deleted the user, and this one has not heard of it yet.
            StoreError::Database(DbErr::RecordNotUpdated | DbErr::RecordNotFound(_)) => {
                StoreError::NotFound(user.to_owned())
            }
            other => other,
        })??;
        put_user(&mut self.write(), &row);
        Ok(account)
    }

    /// Deletes a user and all keys, which stop working at once; running requests end. Usage rows stay.
    ///
    /// # Errors
    /// [`StoreError::NotFound`], or when the database fails.
    pub async fn delete(&self, user: &str) -> Result<(), StoreError> {
        let _changing = self.turn_to_change().await?;
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
            let row = user::Entity::find_by_id(user).one(&transaction).await?;
            user::Entity::delete_by_id(user).exec(&transaction).await?;
            if let Some(row) = row {
                // Usage of the name goes on being this user's, also when another one takes the name.
                remember(&transaction, row).await?;
            }
            transaction.commit().await
        };
        within_deadline(delete).await?;
        self.write().remove_user(user);
        Ok(())
    }

    /// By which id usage knows a user: the one who has the name, or else the last one who had it. `ann~1` means the first
    /// user of that name.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn usage_id(&self, user: &str) -> Result<Arc<str>, StoreError> {
        if let Some(id) = explicit(user) {
            return Ok(id);
        }
        let known = self.read().user(user).map(UserEntry::usage_id);
        if let Some(known) = known {
            return Ok(known);
        }
        let former = within_deadline(former_user::Entity::find_by_id(user).one(&self.store.reads)).await?;
        Ok(usage_id(user, former.map_or(1, |former| number(former.generations))))
    }
}

fn row_of(new: &NewUser, generation: u32, now: Moment) -> user::Model {
    let Terms { limits, weight } = new.terms;
    user::Model {
        id: new.user.as_str().to_owned(),
        created_at_ms: now.unix_ms,
        requests_per_minute: limits.requests_per_minute.map(i64::from),
        tokens_per_day: limits.tokens_per_day.map(to_i64),
        tokens_per_minute: limits.tokens_per_minute.map(to_i64),
        max_concurrency: limits.max_concurrency.map(i64::from),
        weight_millis: to_millis(weight),
        suspended_at_ms: None,
        display_name: None,
        email: None,
        note: None,
        generation: generation.into(),
        last_seen_ms: None,
        group_id: new.group.clone(),
    }
}

/// Whether another gateway has deleted a group that this one still knows.
async fn lacks_group(db: &DatabaseTransaction, name: &str) -> Result<bool, DbErr> {
    Ok(user_group::Entity::find_by_id(name).one(db).await?.is_none())
}

/// Which user of this name the next one is: never one of whom there is usage.
async fn next_generation(db: &DatabaseTransaction, name: &str) -> Result<u32, DbErr> {
    let former = former_user::Entity::find_by_id(name).one(db).await?;
    let mut generation = former.map_or(1, |former| number(former.generations).saturating_add(1));
    // Earlier versions, and whoever deletes by hand, note nothing down.
    while generation < u32::MAX {
        let used = usage_rollup::Entity::find().filter(usage_rollup::Column::UserId.eq(&*usage_id(name, generation)));
        if used.one(db).await?.is_none() {
            break;
        }
        generation += 1;
    }
    Ok(generation)
}

/// Notes down that a name was this user's.
async fn remember(db: &DatabaseTransaction, row: user::Model) -> Result<(), DbErr> {
    use former_user::Column::{Generations, Id};
    let former = former_user::Model { id: row.id, generations: row.generation }.into_active_model();
    let replace = OnConflict::column(Id).update_column(Generations).to_owned();
    former_user::Entity::insert(former).on_conflict(replace).exec_without_returning(db).await?;
    Ok(())
}

fn number(generations: i64) -> u32 {
    u32::try_from(generations).unwrap_or(u32::MAX)
}

fn given<Column: Into<sea_orm::Value>>(change: Option<Column>) -> ActiveValue<Column> {
    change.map_or(ActiveValue::NotSet, ActiveValue::Set)
}
