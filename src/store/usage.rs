//! Reads one user's usage: pages of rows, and sums by model.
use std::collections::HashMap;

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
    /// Most rows of the page.
    pub limit: u64,
    /// Only rows older than this request.
    pub after: Option<Uuid>,
}

/// A span of arrival times, epoch milliseconds: from (included) to (excluded).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Period {
    /// `None` = from the beginning.
    pub from_ms: Option<i64>,
    /// `None` = up to now.
    pub to_ms: Option<i64>,
}

impl Period {
    /// Splits it into its whole days, for which there are sums, and what is left at either end.
    fn parts(self) -> Vec<Part> {
        let of_day = |day: i64| i32::try_from(day).unwrap_or(if day < 0 { i32::MIN } else { i32::MAX });
        let first = self.from_ms.map(|from| from.saturating_add(DAY_MS - 1).div_euclid(DAY_MS));
        let end = self.to_ms.map(|to| to.div_euclid(DAY_MS));
        if let (Some(first), Some(end)) = (first, end)
            && first >= end
        {
            return vec![Part::Rows(self)];
        }
        let mut parts = vec![Part::Days(first.map(of_day), end.map(of_day))];
        let midnight = |day: Option<i64>| day.map(|day| day.saturating_mul(DAY_MS));
        if midnight(first) != self.from_ms {
            parts.push(Part::Rows(Self { from_ms: self.from_ms, to_ms: midnight(first) }));
        }
        if midnight(end) != self.to_ms {
            parts.push(Part::Rows(Self { from_ms: midnight(end), to_ms: self.to_ms }));
        }
        parts
    }
}

/// A part of a period, by where its sums come from.
#[derive(Debug, PartialEq, Eq)]
enum Part {
    /// From (included) to (excluded), days since 1970-01-01 UTC; `None` = no end.
    Days(Option<i32>, Option<i32>),
    /// Less than a day, summed up from rows.
    Rows(Period),
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

impl ModelTotals {
    fn add(&mut self, other: &Self) {
        self.requests = self.requests.saturating_add(other.requests);
        self.prompt_tokens = self.prompt_tokens.saturating_add(other.prompt_tokens);
        self.completion_tokens = self.completion_tokens.saturating_add(other.completion_tokens);
    }
}

impl Store {
    /// A user's rows, newest first, and whether older ones follow.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn usage_page(&self, user: &str, page: Page) -> Result<(Vec<UsageRow>, bool), StoreError> {
        let mut models = within_deadline(rows_of(user, page).all(&self.reads)).await?;
        let more = models.len() as u64 > page.limit;
        models.truncate(usize::try_from(page.limit).unwrap_or(usize::MAX));
        Ok((models.into_iter().map(UsageRow::from_model).collect(), more))
    }

    /// A user's sums by model, largest first. Whole days come from the daily sums, which outlive rows, and the rest at either
    /// end from the rows.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn usage_totals(&self, user: &str, period: Period) -> Result<Vec<ModelTotals>, StoreError> {
        let mut by_model = HashMap::<String, ModelTotals>::new();
        for part in period.parts() {
            let totals: Vec<ModelTotals> = match part {
                Part::Days(from, to) => {
                    within_deadline(totals_of_days(user, from, to).into_model().all(&self.reads)).await?
                }
                Part::Rows(period) => {
                    within_deadline(totals_of_rows(user, period).into_model().all(&self.reads)).await?
                }
            };
            for totals in totals {
                by_model.entry(totals.model.clone()).and_modify(|sum| sum.add(&totals)).or_insert(totals);
            }
        }
        let mut totals: Vec<ModelTotals> = by_model.into_values().collect();
        totals.sort_by(|a, b| {
            let size = |totals: &ModelTotals| totals.prompt_tokens.saturating_add(totals.completion_tokens);
            size(b).cmp(&size(a)).then_with(|| a.model.cmp(&b.model))
        });
        Ok(totals)
    }

    /// Whether the user, who may be deleted, has ever used anything.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn has_usage(&self, user: &str) -> Result<bool, StoreError> {
        let any = usage_rollup::Entity::find().filter(usage_rollup::Column::UserId.eq(user));
        Ok(within_deadline(any.one(&self.reads)).await?.is_some())
    }
}

pub(super) fn rows_of(user: &str, page: Page) -> Select<Entity> {
    let rows = Entity::find()
        .filter(Column::UserId.eq(user))
        .apply_if(page.after, |rows, after| rows.filter(Column::RequestId.lt(after)));
    rows.order_by_desc(Column::RequestId).limit(page.limit.saturating_add(1))
}

pub(super) fn totals_of_rows(user: &str, period: Period) -> Select<Entity> {
    let rows = Entity::find()
        .filter(Column::UserId.eq(user))
        .filter(Column::Status.ne(Status::Refused.as_str()))
        .apply_if(period.from_ms, |rows, from| {
            rows.filter(Column::RequestId.gte(first_id(from))).filter(Column::CreatedAtMs.gte(from))
        })
        .apply_if(period.to_ms, |rows, to| {
            rows.filter(Column::RequestId.lt(end_of_ids(to))).filter(Column::CreatedAtMs.lt(to))
        });
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

    #[test]
    fn a_span_is_its_whole_days_and_what_is_left_at_either_end() {
        let period = |from_ms, to_ms| Period { from_ms, to_ms };
        let (noon, midnight) = (DAY_MS / 2, DAY_MS);
        assert_eq!(period(None, None).parts(), [Part::Days(None, None)]);
        assert_eq!(period(Some(midnight), Some(3 * midnight)).parts(), [Part::Days(Some(1), Some(3))]);
        assert_eq!(
            period(Some(noon), Some(3 * midnight + 1)).parts(),
            [
                Part::Days(Some(1), Some(3)),
                Part::Rows(period(Some(noon), Some(midnight))),
                Part::Rows(period(Some(3 * midnight), Some(3 * midnight + 1))),
            ]
        );
        for (from, to) in [(noon, noon + 1), (noon, midnight + noon), (midnight, midnight), (midnight, 0)] {
            assert_eq!(period(Some(from), Some(to)).parts(), [Part::Rows(period(Some(from), Some(to)))]);
        }
        let oldest = period(Some(i64::MIN), Some(i64::MAX)).parts();
        assert!(matches!(oldest[0], Part::Days(Some(_), Some(_))), "{oldest:?}");
    }
}
