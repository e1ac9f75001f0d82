//! How much of each limit was used before the gateway started?
//!
//! The tokens of the day come from the daily sums. The last minute comes from the rows of the requests that arrived in
//! it: ids begin with the time, so these are a short range of the primary key. No query reads more than that. At full load
//! it is 200,000 rows, and nothing can be served before they are read. So if few users have a limit per minute, only their
//! rows are read, by the index on users.
use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;
use std::time::Duration;

use entity::usage::{Column, Entity};
use entity::{outbox, usage_rollup};
use sea_orm::sea_query::ExprTrait;
use sea_orm::{
    ColumnTrait, DatabaseBackend, DatabaseConnection, EntityTrait, QueryFilter, QuerySelect, QueryTrait, Select,
};

use super::database::Store;
use super::deadline::within_deadline;
use super::error::StoreError;
use super::many::is_any;
use super::usage_row::{DAY_MS, Status, first_id, ids_of};
use limits::{Moment, PriorUse};

const MINUTE_MS: i64 = 60_000;

/// More users with a limit per minute than this are not looked up one by one: an index leads to each of their rows, which
/// takes longer than reading all rows of a minute if most of these are theirs.
pub(super) const MOST_LIMITED: usize = 100;

/// Whose use to look up.
#[derive(Debug)]
pub(super) enum Whose {
    /// One user, by the id in usage.
    User(Arc<str>),
    /// All users. The last minute counts for these only; `None` = for all.
    Everybody(Option<BTreeSet<Arc<str>>>),
}

impl Whose {
    fn user(&self) -> Option<&str> {
        match self {
            Self::User(user) => Some(user),
            Self::Everybody(_) => None,
        }
    }
}

/// What users and keys have used that still counts, by user and by the id of the key.
#[derive(Debug, Default)]
pub(super) struct SpentByAll {
    pub(super) users: HashMap<String, PriorUse>,
    pub(super) keys: HashMap<String, PriorUse>,
}

type Tokens = (String, Option<String>, i64);

impl SpentByAll {
    fn add(&mut self, user: String, key: Option<String>, take: impl Fn(&mut PriorUse)) {
        take(self.users.entry(user).or_default());
        // The sums of requests without a key have the key ''.
        if let Some(key) = key.filter(|key| !key.is_empty()) {
            take(self.keys.entry(key).or_default());
        }
    }

    fn add_today(&mut self, tokens: Vec<Tokens>) {
        for (user, key, tokens) in tokens {
            self.add(user, key, |spent| spent.tokens_today += unsigned(tokens));
        }
    }
}

/// What counts towards the limits of all users, or of one, at `now`: the usage in the database and that in the outbox.
/// While the database is away, the usage in this gateway's local file.
pub(super) async fn spent(store: &Store, whose: &Whose, now: Moment) -> Result<SpentByAll, StoreError> {
    let mut spent = SpentByAll::default();
    let user = whose.user();
    let mine = || Entity::find().apply_if(user, |rows, user| rows.filter(Column::UserId.eq(user)));
    if store.is_online() {
        spent.add_today(sums_of_day(&store.db, user, now.day()).await?);
        add_recent(&mut spent, &store.db, mine(), whose, now).await?;
    }
    if store.local.is_outbox {
        let is_waiting = Column::RequestId.in_subquery(ids_of(outbox::Entity::find(), outbox::Column::RequestId));
        let waiting = || mine().filter(is_waiting.clone());
        let unsent = tokens_of_rows(&store.local.db, waiting(), now.day()).await?;
        for (user, key, tokens) in unsent.iter().cloned() {
            spent.add(user, key, |spent| spent.unsent_today += unsigned(tokens));
        }
        if store.is_online() {
            // Postgres does not have these rows yet, so its sums lack them.
            spent.add_today(unsent);
            add_recent(&mut spent, &store.local.db, waiting(), whose, now).await?;
        } else {
            // Without Postgres, all that is known is what went through this gateway, sent or not.
            spent.add_today(tokens_of_rows(&store.local.db, mine(), now.day()).await?);
            add_recent(&mut spent, &store.local.db, mine(), whose, now).await?;
        }
    }
    Ok(spent)
}

/// The tokens of the day by user and key, from the daily sums.
pub(super) async fn sums_of_day(
    db: &DatabaseConnection,
    user: Option<&str>,
    day: i32,
) -> Result<Vec<Tokens>, StoreError> {
    within_deadline(day_query(user, day).into_tuple().all(db)).await
}

pub(super) fn day_query(user: Option<&str>, day: i32) -> Select<usage_rollup::Entity> {
    use usage_rollup::Column;
    usage_rollup::Entity::find()
        .filter(Column::Day.eq(day))
        .apply_if(user, |sums, user| sums.filter(Column::UserId.eq(user)))
        .select_only()
        .column(Column::UserId)
        .column(Column::KeyId)
        // A sum of bigints is NUMERIC on Postgres.
        .column_as(Column::PromptTokens.sum().add(Column::CompletionTokens.sum()).cast_as("bigint"), "tokens")
        .group_by(Column::UserId)
        .group_by(Column::KeyId)
}

/// The tokens of the day by user and key, from the rows of the local file: an outbox has no sums.
async fn tokens_of_rows(db: &DatabaseConnection, rows: Select<Entity>, day: i32) -> Result<Vec<Tokens>, StoreError> {
    let sums = rows
        // Ids begin with the time: this filter keeps the scan short, and the next one decides.
        .filter(Column::RequestId.gte(first_id(i64::from(day) * DAY_MS)))
        .filter(Column::Day.eq(day))
        .select_only()
        .column(Column::UserId)
        .column(Column::KeyId)
        .column_as(Column::PromptTokens.sum().add(Column::CompletionTokens.sum()).cast_as("bigint"), "tokens")
        .group_by(Column::UserId)
        .group_by(Column::KeyId);
    within_deadline(sums.into_tuple().all(db)).await
}

async fn add_recent(
    spent: &mut SpentByAll,
    db: &DatabaseConnection,
    rows: Select<Entity>,
    whose: &Whose,
    now: Moment,
) -> Result<(), StoreError> {
    let rows = match whose {
        Whose::Everybody(Some(limited)) if limited.is_empty() => return Ok(()),
        Whose::Everybody(Some(limited)) => of_users(rows, db.get_database_backend(), limited),
        Whose::Everybody(None) | Whose::User(_) => rows,
    };
    let recent = recent_query(rows, now.unix_ms - MINUTE_MS).into_tuple().all(db);
    let rows: Vec<(String, Option<String>, i64, i64, i64)> = within_deadline(recent).await?;
    for (user, key, created_at_ms, prompt, completion) in rows {
        let age = Duration::from_millis(unsigned(now.unix_ms - created_at_ms));
        spent.add(user, key, |spent| spent.recent.push((age, unsigned(prompt.saturating_add(completion)))));
    }
    Ok(())
}

pub(super) fn of_users(rows: Select<Entity>, backend: DatabaseBackend, users: &BTreeSet<Arc<str>>) -> Select<Entity> {
    rows.filter(is_any(Column::UserId, backend, users))
}

pub(super) fn recent_query(rows: Select<Entity>, since_ms: i64) -> Select<Entity> {
    recent_rows(rows, since_ms)
        .column(Column::UserId)
        .column(Column::KeyId)
        .column(Column::CreatedAtMs)
        .column(Column::PromptTokens)
        .column(Column::CompletionTokens)
}

/// The rows of requests that were admitted after this moment (epoch milliseconds), without any column yet.
pub(super) fn recent_rows(rows: Select<Entity>, since_ms: i64) -> Select<Entity> {
    rows.filter(Column::RequestId.gte(first_id(since_ms)))
        .filter(Column::CreatedAtMs.gt(since_ms))
        // A request that was refused by a node was admitted before, so it counts.
        .filter(Column::Status.ne(Status::Refused.as_str()).or(Column::Attempts.gt(0)))
        .select_only()
}

fn unsigned(number: i64) -> u64 {
    u64::try_from(number).unwrap_or_default()
}
