//! How much of everybody's limits is used when the gateway starts?
use std::collections::HashMap;
use std::time::Duration;

use entity::outbox;
use entity::usage::{Column, Entity};
use sea_orm::sea_query::ExprTrait;
use sea_orm::{ColumnTrait, DatabaseConnection, DbErr, EntityTrait, QueryFilter, QuerySelect, Select};

use super::database::Store;
use super::deadline::within_deadline;
use super::error::StoreError;
use super::usage_row::{Status, ids_of};
use limits::{Moment, PriorUse};

/// What everybody has used that still counts.
#[derive(Debug, Default)]
pub(super) struct SpentByAll {
    pub(super) users: HashMap<String, PriorUse>,
    pub(super) keys: HashMap<String, PriorUse>,
}

impl SpentByAll {
    fn add(&mut self, user: String, key: Option<String>, take: impl Fn(&mut PriorUse)) {
        take(self.users.entry(user).or_default());
        if let Some(key) = key {
            take(self.keys.entry(key).or_default());
        }
    }
}

/// What counts of everybody's (or one user's) rows towards the limits at `now`: those in the database, and those on
/// their way there. While it is away, those of this gateway.
pub(super) async fn spent(store: &Store, user: Option<&str>, now: Moment) -> Result<SpentByAll, StoreError> {
    let mine = match user {
        Some(user) => Entity::find().filter(Column::UserId.eq(user)),
        None => Entity::find(),
    };
    let mut spent = SpentByAll::default();
    if store.is_online() {
        add_spent(&mut spent, &store.db, &mine, now).await?;
    }
    if store.local.is_outbox {
        let is_waiting = Column::RequestId.in_subquery(ids_of(outbox::Entity::find(), outbox::Column::RequestId));
        let waiting = mine.clone().filter(is_waiting);
        for (user, key, tokens) in within_deadline(tokens_of_day(&store.local.db, waiting.clone(), now.day())).await? {
            spent.add(user, key, |spent| spent.unsent_today += u64::try_from(tokens).unwrap_or_default());
        }
        let here = if store.is_online() { waiting } else { mine };
        add_spent(&mut spent, &store.local.db, &here, now).await?;
    }
    Ok(spent)
}

async fn add_spent(
    spent: &mut SpentByAll,
    db: &DatabaseConnection,
    rows: &Select<Entity>,
    now: Moment,
) -> Result<(), StoreError> {
    let unsigned = |number: i64| u64::try_from(number).unwrap_or_default();
    for (user, key, tokens) in within_deadline(tokens_of_day(db, rows.clone(), now.day())).await? {
        spent.add(user, key, |spent| spent.tokens_today += unsigned(tokens));
    }
    for (user, key, created_at_ms, prompt, completion) in
        within_deadline(admissions_since(db, rows.clone(), now)).await?
    {
        let age = Duration::from_millis(unsigned(now.unix_ms - created_at_ms));
        spent.add(user, key, |spent| spent.recent.push((age, unsigned(prompt.saturating_add(completion)))));
    }
    Ok(())
}

async fn tokens_of_day(
    db: &DatabaseConnection,
    rows: Select<Entity>,
    day: i32,
) -> Result<Vec<(String, Option<String>, i64)>, DbErr> {
    rows.filter(Column::Day.eq(day))
        .select_only()
        .column(Column::UserId)
        .column(Column::KeyId)
        .column_as(Column::PromptTokens.sum().add(Column::CompletionTokens.sum()).cast_as("bigint"), "tokens")
        .group_by(Column::UserId)
        .group_by(Column::KeyId)
        .into_tuple()
        .all(db)
        .await
}

async fn admissions_since(
    db: &DatabaseConnection,
    rows: Select<Entity>,
    now: Moment,
) -> Result<Vec<(String, Option<String>, i64, i64, i64)>, DbErr> {
    rows.filter(Column::Day.gte(now.day() - 1))
        .filter(Column::CreatedAtMs.gt(now.unix_ms - 60_000))
        // What a node refuses has been admitted.
        .filter(Column::Status.ne(Status::Refused.as_str()).or(Column::Attempts.gt(0)))
        .select_only()
        .column(Column::UserId)
        .column(Column::KeyId)
        .column(Column::CreatedAtMs)
        .column(Column::PromptTokens)
        .column(Column::CompletionTokens)
        .into_tuple()
        .all(db)
        .await
}
