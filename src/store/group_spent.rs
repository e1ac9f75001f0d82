//! How much of each group's limits was used before the gateway started? As for users, and for the month as well.
use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use entity::usage::{Column, Entity};
use entity::{outbox, swept_token, usage_total};
use sea_orm::sea_query::ExprTrait;
use sea_orm::{ColumnTrait, DatabaseBackend, DatabaseConnection, EntityTrait, QueryFilter, QuerySelect, Select};

use super::database::Store;
use super::deadline::within_deadline;
use super::error::StoreError;
use super::many::is_any;
use super::spent::recent_rows;
use super::usage_row::{DAY_MS, first_id, ids_of};
use limits::{Moment, Month, PriorUse};

const MINUTE_MS: i64 = 60_000;

/// What groups have used that still counts, by the id in usage.
#[derive(Debug, Default)]
pub(super) struct SpentByGroups {
    pub(super) of_day: HashMap<String, PriorUse>,
    pub(super) of_month: HashMap<String, PriorUse>,
}

/// The tokens of a group on a day.
type TokensOfDay = (String, i32, i64);

impl SpentByGroups {
    fn add(&mut self, tokens: &[TokensOfDay], today: i32, take: impl Fn(&mut PriorUse, u64)) {
        for (group, day, tokens) in tokens {
            take(self.of_month.entry(group.clone()).or_default(), unsigned(*tokens));
            if *day == today {
                take(self.of_day.entry(group.clone()).or_default(), unsigned(*tokens));
            }
        }
    }

    fn add_used(&mut self, tokens: &[TokensOfDay], today: i32) {
        self.add(tokens, today, |spent, tokens| spent.tokens_today = spent.tokens_today.saturating_add(tokens));
    }

    async fn add_recent(
        &mut self,
        db: &DatabaseConnection,
        rows: Select<Entity>,
        limited: &[Arc<str>],
        now: Moment,
    ) -> Result<(), StoreError> {
        if limited.is_empty() {
            return Ok(());
        }
        let recent = recent_of_groups(rows, db.get_database_backend(), limited, now.unix_ms - MINUTE_MS);
        let rows: Vec<(String, i64, i64, i64)> = within_deadline(recent.into_tuple().all(db)).await?;
        for (group, created_at_ms, prompt, completion) in rows {
            let age = Duration::from_millis(unsigned(now.unix_ms - created_at_ms));
            let tokens = unsigned(prompt.saturating_add(completion));
            self.of_day.entry(group).or_default().recent.push((age, tokens));
        }
        Ok(())
    }
}

/// What counts towards the limits of all groups at `now`: the usage in the database and that in the outbox. While the
/// database is away, the usage that went through this gateway's local file. `limited`: the groups whose last minute
/// counts, by the id in usage.
pub(super) async fn spent_by_groups(
    store: &Store,
    limited: &[Arc<str>],
    now: Moment,
) -> Result<SpentByGroups, StoreError> {
    let (today, first) = (now.day(), Month::of_day(now.day()).first_day());
    let mut spent = SpentByGroups::default();
    if store.is_online() {
        spent.add_used(&within_deadline(sums_of_days(first, today).into_tuple().all(&store.db)).await?, today);
        spent.add_recent(&store.db, Entity::find(), limited, now).await?;
    }
    if !store.local.is_outbox {
        return Ok(spent);
    }
    let local = &store.local.db;
    let is_waiting = Column::RequestId.in_subquery(ids_of(outbox::Entity::find(), outbox::Column::RequestId));
    let waiting = || Entity::find().filter(is_waiting.clone());
    let unsent = tokens_of_rows(local, waiting(), first).await?;
    spent.add(&unsent, today, |spent, tokens| spent.unsent_today = spent.unsent_today.saturating_add(tokens));
    if store.is_online() {
        spent.add_used(&unsent, today);
        spent.add_recent(local, waiting(), limited, now).await?;
    } else {
        spent.add_used(&tokens_of_rows(local, Entity::find(), first).await?, today);
        // Rows of a month may be older than rows are kept: their tokens were noted when they were deleted.
        let swept = swept_token::Entity::find().filter(swept_token::Column::Day.gte(first));
        let swept = within_deadline(swept.all(local)).await?.into_iter();
        spent.add_used(&swept.map(|row| (row.group_id, row.day, row.tokens)).collect::<Vec<_>>(), today);
        spent.add_recent(local, Entity::find(), limited, now).await?;
    }
    Ok(spent)
}

/// The rows of these groups that were admitted after this moment (epoch milliseconds).
pub(super) fn recent_of_groups(
    rows: Select<Entity>,
    backend: DatabaseBackend,
    groups: &[Arc<str>],
    since_ms: i64,
) -> Select<Entity> {
    recent_rows(rows.filter(is_any(Column::GroupId, backend, groups)), since_ms)
        .column(Column::GroupId)
        .column(Column::CreatedAtMs)
        .column(Column::PromptTokens)
        .column(Column::CompletionTokens)
}

/// The tokens of some days by group and day, from the daily sums over all users: with the sums of each user, a month of
/// large groups would delay the start by seconds.
pub(super) fn sums_of_days(first: i32, last: i32) -> Select<usage_total::Entity> {
    use usage_total::Column;
    usage_total::Entity::find()
        .filter(Column::GroupId.gt(""))
        .filter(Column::Day.between(first, last))
        .select_only()
        .column(Column::GroupId)
        .column(Column::Day)
        // A sum of bigints is NUMERIC on Postgres.
        .column_as(Column::PromptTokens.sum().add(Column::CompletionTokens.sum()).cast_as("bigint"), "tokens")
        .group_by(Column::GroupId)
        .group_by(Column::Day)
}

/// The tokens by group and day from rows of the local file, from the day `first` on.
async fn tokens_of_rows(
    db: &DatabaseConnection,
    rows: Select<Entity>,
    first: i32,
) -> Result<Vec<TokensOfDay>, StoreError> {
    let sums = rows
        .filter(Column::RequestId.gte(first_id(i64::from(first) * DAY_MS)))
        .filter(Column::Day.gte(first))
        .filter(Column::GroupId.is_not_null())
        .select_only()
        .column(Column::GroupId)
        .column(Column::Day)
        .column_as(Column::PromptTokens.sum().add(Column::CompletionTokens.sum()).cast_as("bigint"), "tokens")
        .group_by(Column::GroupId)
        .group_by(Column::Day);
    within_deadline(sums.into_tuple().all(db)).await
}

fn unsigned(number: i64) -> u64 {
    u64::try_from(number).unwrap_or_default()
}
