//! What did requests cost? Rows of usage by page, and a user's sums by model.
use std::collections::BTreeMap;

use entity::usage::{Column, Entity};
use entity::usage_rollup;
use sea_orm::sea_query::ExprTrait;
use sea_orm::{ColumnTrait, EntityTrait, FromQueryResult, QueryFilter, QueryOrder, QuerySelect, QueryTrait, Select};
use uuid::Uuid;

use super::database::Store;
use super::deadline::within_deadline;
use super::error::StoreError;
use super::usage_row::{DAY_MS, Status, UsageRow, end_of_ids, first_id};

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

/// A part of a period.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Part {
    /// Whole days since 1970-01-01 UTC, from (included) to (excluded); `None` = no end.
    Days(Option<i32>, Option<i32>),
    /// Less than a day, from (included) to (excluded), epoch milliseconds.
    Moments(i64, i64),
}

impl Period {
    /// Splits the period into whole days, which the rollups have sums of, and the pieces of its first and last day, whose rows
    /// have to be added up.
    fn parts(self) -> Vec<Part> {
        let midnight_after = |ms: i64| ms.saturating_add(DAY_MS - 1).div_euclid(DAY_MS).saturating_mul(DAY_MS);
        let midnight_before = |ms: i64| ms.div_euclid(DAY_MS).saturating_mul(DAY_MS);
        let day = |ms: i64| i32::try_from(ms / DAY_MS).unwrap_or(i32::MAX);
        let (first, last) = (self.from_ms.map(midnight_after), self.to_ms.map(midnight_before));
        if let (Some(from), Some(to), Some(first), Some(last)) = (self.from_ms, self.to_ms, first, last)
            && first > last
        {
            return if from < to { vec![Part::Moments(from, to)] } else { vec![] };
        }
        let head = self.from_ms.zip(first).map(|(from, first)| Part::Moments(from, first));
        let tail = last.zip(self.to_ms).map(|(last, to)| Part::Moments(last, to));
        let is_some = |part: &Part| match part {
            Part::Days(from, to) => from.is_none() || to.is_none() || from < to,
            Part::Moments(from, to) => from < to,
        };
        let days = Part::Days(first.map(day), last.map(day));
        head.into_iter().chain([days]).chain(tail).filter(is_some).collect()
    }
}

/// One model's sums.
#[derive(Clone, Debug, Default, PartialEq, Eq, FromQueryResult)]
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
        let mut models = within_deadline(rows_of(user, page).all(&self.db)).await?;
        let more = models.len() as u64 > page.limit;
        models.truncate(usize::try_from(page.limit).unwrap_or(usize::MAX));
        Ok((models.into_iter().map(UsageRow::from_model).collect(), more))
    }

    /// A user's sums by model, largest first. Those of whole days are the sums that outlive rows.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn usage_totals(&self, user: &str, period: Period) -> Result<Vec<ModelTotals>, StoreError> {
        let mut by_model: BTreeMap<String, ModelTotals> = BTreeMap::new();
        for part in period.parts() {
            let totals = match part {
                Part::Days(from, to) => {
                    within_deadline(totals_of_days(user, from, to).into_model().all(&self.db)).await?
                }
                Part::Moments(from, to) => {
                    within_deadline(totals_of_rows(user, from, to).into_model().all(&self.db)).await?
                }
            };
            for totals in totals {
                let ModelTotals { model, requests, prompt_tokens, completion_tokens } = totals;
                let sum = by_model.entry(model).or_default();
                sum.requests += requests;
                sum.prompt_tokens += prompt_tokens;
                sum.completion_tokens += completion_tokens;
            }
        }
        let named = by_model.into_iter().map(|(model, totals)| ModelTotals { model, ..totals });
        let mut totals: Vec<ModelTotals> = named.collect();
        let size = |totals: &ModelTotals| totals.prompt_tokens + totals.completion_tokens;
        // Stable, so that models of one size stay in the order of their names.
        totals.sort_by_key(|totals| std::cmp::Reverse(size(totals)));
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

pub(super) fn rows_of(user: &str, page: Page) -> Select<Entity> {
    let rows = Entity::find()
        .filter(Column::UserId.eq(user))
        .apply_if(page.after, |rows, after| rows.filter(Column::RequestId.lt(after)));
    rows.order_by_desc(Column::RequestId).limit(page.limit.saturating_add(1))
}

pub(super) fn totals_of_rows(user: &str, from_ms: i64, to_ms: i64) -> Select<Entity> {
    let rows = Entity::find()
        .filter(Column::UserId.eq(user))
        .filter(Column::RequestId.gte(first_id(from_ms)))
        .filter(Column::RequestId.lt(end_of_ids(to_ms)))
        .filter(Column::CreatedAtMs.gte(from_ms))
        .filter(Column::CreatedAtMs.lt(to_ms))
        .filter(Column::Status.ne(Status::Refused.as_str()));
    rows.select_only()
        .column(Column::Model)
        .column_as(Column::RequestId.count(), "requests")
        // A sum of bigints is NUMERIC on Postgres.
        .column_as(Column::PromptTokens.sum().cast_as("bigint"), "prompt_tokens")
        .column_as(Column::CompletionTokens.sum().cast_as("bigint"), "completion_tokens")
        .group_by(Column::Model)
}

pub(super) fn totals_of_days(user: &str, from: Option<i32>, to: Option<i32>) -> Select<usage_rollup::Entity> {
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
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parts(from_ms: Option<i64>, to_ms: Option<i64>) -> Vec<Part> {
        Period { from_ms, to_ms }.parts()
    }

    #[test]
    fn a_period_is_its_whole_days_and_what_is_left_of_the_first_and_the_last() {
        let at = |day: i64, ms: i64| Some(day * DAY_MS + ms);
        let moments = |from: Option<i64>, to: Option<i64>| Part::Moments(from.unwrap(), to.unwrap());
        assert_eq!(parts(None, None), [Part::Days(None, None)]);
        assert_eq!(parts(at(3, 0), at(5, 0)), [Part::Days(Some(3), Some(5))]);
        assert_eq!(parts(at(3, 7), None), [moments(at(3, 7), at(4, 0)), Part::Days(Some(4), None)]);
        assert_eq!(parts(None, at(5, 7)), [Part::Days(None, Some(5)), moments(at(5, 0), at(5, 7))]);
        let both = [moments(at(3, 7), at(4, 0)), Part::Days(Some(4), Some(6)), moments(at(6, 0), at(6, 9))];
        assert_eq!(parts(at(3, 7), at(6, 9)), both);
        assert_eq!(parts(at(3, 7), at(3, 9)), [moments(at(3, 7), at(3, 9))]);
        assert_eq!(parts(at(3, 7), at(4, 9)), [moments(at(3, 7), at(4, 0)), moments(at(4, 0), at(4, 9))]);
        assert_eq!((parts(at(4, 0), at(4, 0)), parts(at(9, 0), at(4, 0))), (vec![], vec![]));
        parts(Some(i64::MIN), Some(i64::MAX));
    }
}
