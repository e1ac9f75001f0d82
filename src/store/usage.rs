//! What did requests cost? Rows of usage by page, and a user's sums by model.
use entity::usage::{Column, Entity};
use entity::usage_rollup;
use sea_orm::sea_query::ExprTrait;
use sea_orm::{
    ColumnTrait, EntityTrait, FromQueryResult, QueryFilter, QueryOrder, QuerySelect, QueryTrait, SelectModel, Selector,
};
use uuid::Uuid;

use super::database::Store;
use super::deadline::within_deadline;
use super::error::StoreError;
use super::usage_row::{DAY_MS, Status, UsageRow};

/// Which rows of a listing.
#[derive(Clone, Copy, Debug)]
pub struct Page {
    /// At most so many.
    pub limit: u64,
    /// Only rows older than this request.
    pub after: Option<Uuid>,
}

/// A span of arrival times, epoch milliseconds: from (included) to (excluded).
#[derive(Clone, Copy, Debug, Default)]
pub struct Period {
    /// `None` = from the beginning.
    pub from_ms: Option<i64>,
    /// `None` = up to now.
    pub to_ms: Option<i64>,
}

impl Period {
    /// The same in days since 1970-01-01 UTC, where it begins and ends with a day, if it does at all.
    fn days(self) -> Option<(Option<i32>, Option<i32>)> {
        let day = |moment_ms: Option<i64>| match moment_ms {
            None => Some(None),
            Some(moment_ms) if moment_ms.rem_euclid(DAY_MS) != 0 => None,
            Some(moment_ms) => i32::try_from(moment_ms / DAY_MS).ok().map(Some),
        };
        Some((day(self.from_ms)?, day(self.to_ms)?))
    }
}

/// Sums over one model.
#[derive(Clone, Debug, PartialEq, Eq, FromQueryResult)]
pub struct ModelTotals {
    /// The model, as clients spelled it.
    pub model: String,
    /// Rows, refused ones not counted.
    pub requests: i64,
    /// Sum of prompt tokens.
    pub prompt_tokens: i64,
    /// Sum of completion tokens.
    pub completion_tokens: i64,
}

impl Store {
    /// A user's rows, newest first, and whether older ones follow.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn usage_page(&self, user: &str, page: Page) -> Result<(Vec<UsageRow>, bool), StoreError> {
        let mut query = Entity::find().filter(Column::UserId.eq(user));
        if let Some(after) = page.after {
            query = query.filter(Column::RequestId.lt(after));
        }
        let query = query.order_by_desc(Column::RequestId).limit(page.limit + 1);
        let mut models = within_deadline(query.all(&self.db)).await?;
        let more = models.len() as u64 > page.limit;
        models.truncate(usize::try_from(page.limit).unwrap_or(usize::MAX));
        Ok((models.into_iter().map(UsageRow::from_model).collect(), more))
    }

    /// A user's sums by model, largest first. Those of whole days are the sums that outlive rows.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn usage_totals(&self, user: &str, period: Period) -> Result<Vec<ModelTotals>, StoreError> {
        let mut totals = match period.days() {
            Some((from, to)) => within_deadline(totals_of_days(user, from, to).all(&self.db)).await?,
            None => within_deadline(totals_of_rows(user, period).all(&self.db)).await?,
        };
        totals.sort_by(|a, b| {
            let size = |totals: &ModelTotals| totals.prompt_tokens + totals.completion_tokens;
            size(b).cmp(&size(a)).then_with(|| a.model.cmp(&b.model))
        });
        Ok(totals)
    }

    /// Whether a user has ever used anything, also one who is deleted.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn has_usage(&self, user: &str) -> Result<bool, StoreError> {
        let any = usage_rollup::Entity::find().filter(usage_rollup::Column::UserId.eq(user));
        Ok(within_deadline(any.one(&self.db)).await?.is_some())
    }
}

fn totals_of_rows(user: &str, period: Period) -> Selector<SelectModel<ModelTotals>> {
    let rows = Entity::find()
        .filter(Column::UserId.eq(user))
        .filter(Column::Status.ne(Status::Refused.as_str()))
        .apply_if(period.from_ms, |rows, from| rows.filter(Column::CreatedAtMs.gte(from)))
        .apply_if(period.to_ms, |rows, to| rows.filter(Column::CreatedAtMs.lt(to)));
    rows.select_only()
        .column(Column::Model)
        .column_as(Column::RequestId.count(), "requests")
        // A sum of bigints is NUMERIC on Postgres.
        .column_as(Column::PromptTokens.sum().cast_as("bigint"), "prompt_tokens")
        .column_as(Column::CompletionTokens.sum().cast_as("bigint"), "completion_tokens")
        .group_by(Column::Model)
        .into_model()
}

fn totals_of_days(user: &str, from: Option<i32>, to: Option<i32>) -> Selector<SelectModel<ModelTotals>> {
    use usage_rollup::Column;
    let sums = usage_rollup::Entity::find()
        .filter(Column::UserId.eq(user))
        .filter(Column::Status.ne(Status::Refused.as_str()))
        .apply_if(from, |sums, from| sums.filter(Column::Day.gte(from)))
        .apply_if(to, |sums, to| sums.filter(Column::Day.lt(to)));
    sums.select_only()
        .column(Column::Model)
        .column_as(Column::Requests.sum().cast_as("bigint"), "requests")
        .column_as(Column::PromptTokens.sum().cast_as("bigint"), "prompt_tokens")
        .column_as(Column::CompletionTokens.sum().cast_as("bigint"), "completion_tokens")
        .group_by(Column::Model)
        .into_model()
}
