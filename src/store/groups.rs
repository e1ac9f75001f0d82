//! How do groups come and go? Made, given other terms, deleted: in the database, and then in memory.
use std::sync::Arc;

use entity::{former_group, usage_rollup, user, user_group};
use sea_orm::sea_query::{Expr, OnConflict};
use sea_orm::{
    ActiveModelTrait, ActiveValue, ColumnTrait, DatabaseConnection, DatabaseTransaction, DbErr, EntityTrait,
    IntoActiveModel, PaginatorTrait, QueryFilter, SqlErr, TransactionTrait,
};

use super::account::{LimitsChange, UserId};
use super::accounts::Accounts;
use super::allowed_models::AllowedModels;
use super::changes::begin_change;
use super::columns::{group_entry, to_i64, to_millis};
use super::database::Store;
use super::deadline::within_deadline;
use super::error::StoreError;
use super::group::{GroupEntry, GroupTerms, UserGroup, limited_by_minute};
use super::group_spent::{SpentByGroups, spent_by_groups};
use super::transactions::immediate;
use super::usage_id::usage_id;
use limits::Moment;

/// The most groups.
const MAX_GROUPS: usize = 1_000;

/// A group to be made.
#[derive(Clone, Debug)]
pub struct NewGroup {
    /// The name, which has the form of a user's.
    pub name: UserId,
    /// What its users may use together.
    pub terms: GroupTerms,
}

/// A change of a group: `None` = as it was, `Some(None)` = no limit, or every model.
#[derive(Clone, Debug, Default)]
pub struct GroupChange {
    /// The limits that users have as well.
    pub limits: LimitsChange,
    /// Tokens per UTC month.
    pub tokens_per_month: Option<Option<u64>>,
    /// The group's share beside others.
    pub weight: Option<f64>,
    /// Which models.
    pub allowed_models: Option<Option<AllowedModels>>,
}

/// What becomes of the users of a group that is deleted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Members {
    /// It is not deleted while it has any.
    Kept,
    /// They leave it.
    Released,
}

impl GroupChange {
    /// What is in force after the change.
    pub fn over(&self, base: &GroupTerms) -> GroupTerms {
        GroupTerms {
            limits: self.limits.over(base.limits),
            tokens_per_month: self.tokens_per_month.unwrap_or(base.tokens_per_month),
            weight: self.weight.unwrap_or(base.weight),
            allowed_models: self.allowed_models.clone().unwrap_or_else(|| base.allowed_models.clone()),
        }
    }

    fn row(&self, name: &str) -> user_group::ActiveModel {
        let of_limits = &self.limits;
        user_group::ActiveModel {
            id: ActiveValue::Unchanged(name.to_owned()),
            requests_per_minute: given(of_limits.requests_per_minute.map(|limit| limit.map(i64::from))),
            tokens_per_minute: given(of_limits.tokens_per_minute.map(|limit| limit.map(to_i64))),
            tokens_per_day: given(of_limits.tokens_per_day.map(|limit| limit.map(to_i64))),
            tokens_per_month: given(self.tokens_per_month.map(|limit| limit.map(to_i64))),
            max_concurrency: given(of_limits.max_concurrency.map(|limit| limit.map(i64::from))),
            weight_millis: given(self.weight.map(to_millis)),
            allowed_models: given(
                self.allowed_models.as_ref().map(|models| models.as_ref().map(AllowedModels::to_text)),
            ),
            ..Default::default()
        }
    }
}

fn given<Column: Into<sea_orm::Value>>(change: Option<Column>) -> ActiveValue<Column> {
    change.map_or(ActiveValue::NotSet, ActiveValue::Set)
}

impl Accounts {
    /// A group.
    ///
    /// # Errors
    /// [`StoreError::NoGroup`]
    pub fn group(&self, name: &str) -> Result<Arc<UserGroup>, StoreError> {
        self.read().group(name).cloned().ok_or_else(|| StoreError::NoGroup(name.to_owned()))
    }

    /// Makes a group without users.
    ///
    /// # Errors
    /// [`StoreError::GroupExists`], [`StoreError::TooManyGroups`], or when the database fails.
    pub async fn create_group(&self, new: NewGroup, now: Moment) -> Result<Arc<UserGroup>, StoreError> {
        let _changing = self.turn_to_change().await?;
        let name = new.name.as_str();
        if self.read().groups().count() >= MAX_GROUPS {
            return Err(StoreError::TooManyGroups(MAX_GROUPS));
        }
        let insert = async {
            let transaction = begin_change(&self.store.db).await?;
            let row = row_of(&new, next_generation(&transaction, name).await?, now);
            row.into_active_model().insert(&transaction).await?;
            transaction.commit().await
        };
        within_deadline(insert).await.map_err(|error| match error {
            StoreError::Database(cause) if matches!(cause.sql_err(), Some(SqlErr::UniqueConstraintViolation(_))) => {
                StoreError::GroupExists(name.to_owned())
            }
            error => error,
        })?;
        self.take_up_groups(now).await?;
        self.group(name)
    }

    /// Changes what the users of a group may use together, from the next request on.
    ///
    /// # Errors
    /// [`StoreError::NoGroup`], or when the database fails.
    pub async fn change_group(
        &self,
        name: &str,
        change: &GroupChange,
        now: Moment,
    ) -> Result<Arc<UserGroup>, StoreError> {
        let _changing = self.turn_to_change().await?;
        let group = self.group(name)?;
        let row = change.row(name);
        if !row.is_changed() {
            return Ok(group);
        }
        let update = async {
            let transaction = begin_change(&self.store.db).await?;
            row.update(&transaction).await?;
            transaction.commit().await
        };
        within_deadline(update).await.map_err(|error| match error {
            // Another gateway has deleted it, and this one has not heard of it yet.
            StoreError::Database(DbErr::RecordNotUpdated | DbErr::RecordNotFound(_)) => {
                StoreError::NoGroup(name.to_owned())
            }
            other => other,
        })?;
        self.take_up_groups(now).await?;
        self.group(name)
    }

    /// Deletes a group. Returns how many users have left it. Their running requests still count as the group's.
    ///
    /// # Errors
    /// [`StoreError::NoGroup`], [`StoreError::GroupHasUsers`], or when the database fails.
    pub async fn delete_group(&self, name: &str, members: Members, now: Moment) -> Result<u64, StoreError> {
        let _changing = self.turn_to_change().await?;
        self.group(name)?;
        let delete = async {
            let transaction = begin_change(&self.store.db).await?;
            let of_group = || user::Column::GroupId.eq(name);
            // Counted within the transaction, so that nobody joins between the count and the deletion.
            let users = user::Entity::find().filter(of_group()).count(&transaction).await?;
            if users > 0 && members == Members::Kept {
                return Ok(Err(users));
            }
            let nothing = Expr::value(Option::<String>::None);
            let leave = user::Entity::update_many().col_expr(user::Column::GroupId, nothing);
            leave.filter(of_group()).exec(&transaction).await?;
            if let Some(row) = user_group::Entity::find_by_id(name).one(&transaction).await? {
                user_group::Entity::delete_by_id(name).exec(&transaction).await?;
                remember(&transaction, row).await?;
            }
            transaction.commit().await?;
            Ok(Ok(users))
        };
        let has_users = |users| StoreError::GroupHasUsers { group: name.to_owned(), users };
        let released = within_deadline(delete).await?.map_err(has_users)?;
        self.write().release_users_of(name);
        self.take_up_groups(now).await?;
        Ok(released)
    }

    /// Takes up all groups as the database has them, with what they have used if they are new here.
    pub(super) async fn take_up_groups(&self, now: Moment) -> Result<(), StoreError> {
        let rows = read_groups(&self.store.db).await?;
        let entries: Vec<GroupEntry> = rows.iter().map(group_entry).collect();
        let is_new = |entry: &GroupEntry| {
            let directory = self.read();
            directory.group(&entry.name).is_none_or(|known| **known.usage_id() != *entry.usage_id())
        };
        // Other gateways may have let their users in already.
        let is_any_new = entries.iter().any(is_new);
        let spent = if is_any_new {
            spent_by_groups(&self.store, &limited_by_minute(&entries), now).await?
        } else {
            SpentByGroups::default()
        };
        self.write().set_groups(&entries, |entry| self.group_of(entry, &spent, now));
        if self.store.local.is_outbox
            && let Err(error) = self.store.copy_groups(&rows).await
        {
            tracing::warn!(%error, "groups could not be copied for a start without the database");
        }
        Ok(())
    }
}

/// The rows of all groups.
pub(super) async fn read_groups(db: &DatabaseConnection) -> Result<Vec<user_group::Model>, StoreError> {
    within_deadline(user_group::Entity::find().all(db)).await
}

impl Store {
    /// Puts a copy of all groups in the local file, for a start while the database is away.
    pub(super) async fn copy_groups(&self, rows: &[user_group::Model]) -> Result<(), StoreError> {
        let copy = async {
            let transaction = self.local.db.begin_with_options(immediate()).await?;
            user_group::Entity::delete_many().exec(&transaction).await?;
            if !rows.is_empty() {
                let rows = rows.iter().cloned().map(IntoActiveModel::into_active_model);
                user_group::Entity::insert_many::<user_group::ActiveModel, _>(rows)
                    .exec_without_returning(&transaction)
                    .await?;
            }
            transaction.commit().await
        };
        within_deadline(copy).await
    }
}

fn row_of(new: &NewGroup, generation: u32, now: Moment) -> user_group::Model {
    let GroupTerms { limits, tokens_per_month, weight, allowed_models } = &new.terms;
    user_group::Model {
        id: new.name.as_str().to_owned(),
        generation: generation.into(),
        created_at_ms: now.unix_ms,
        requests_per_minute: limits.requests_per_minute.map(i64::from),
        tokens_per_minute: limits.tokens_per_minute.map(to_i64),
        tokens_per_day: limits.tokens_per_day.map(to_i64),
        tokens_per_month: tokens_per_month.map(to_i64),
        max_concurrency: limits.max_concurrency.map(i64::from),
        weight_millis: to_millis(*weight),
        allowed_models: allowed_models.as_ref().map(AllowedModels::to_text),
    }
}

/// Which group of this name the next one is: never one of which there is usage.
async fn next_generation(db: &DatabaseTransaction, name: &str) -> Result<u32, DbErr> {
    let former = former_group::Entity::find_by_id(name).one(db).await?;
    let former = former.map_or(0, |former| u32::try_from(former.generations).unwrap_or(u32::MAX));
    let mut generation = former.saturating_add(1);
    // Whoever deletes by hand notes nothing down.
    while generation < u32::MAX {
        let used = usage_rollup::Column::GroupId.eq(&*usage_id(name, generation));
        if usage_rollup::Entity::find().filter(used).one(db).await?.is_none() {
            break;
        }
        generation += 1;
    }
    Ok(generation)
}

/// Notes down that a name was this group's.
async fn remember(db: &DatabaseTransaction, row: user_group::Model) -> Result<(), DbErr> {
    use former_group::Column::{Generations, Id};
    let former = former_group::Model { id: row.id, generations: row.generation }.into_active_model();
    let replace = OnConflict::column(Id).update_column(Generations).to_owned();
    former_group::Entity::insert(former).on_conflict(replace).exec_without_returning(db).await?;
    Ok(())
}
