//! Finds usage rows of any user, by what an operator knows about them.
use entity::usage::{Column, Entity};
use sea_orm::{ColumnTrait, EntityTrait, QueryFilter, QueryOrder, QuerySelect, QueryTrait};
use uuid::Uuid;

use super::database::Store;
use super::deadline::within_deadline;
use super::error::StoreError;
use super::usage::{Page, Period};
use super::usage_row::UsageRow;

/// What the rows must match; `None` = anything.
#[derive(Clone, Debug, Default)]
pub struct Search {
    /// The user.
    pub user: Option<String>,
    /// The model, as the client spelled it.
    pub model: Option<String>,
    /// The node that was asked last.
    pub node: Option<String>,
    /// How the request ended, such as `completed`.
    pub status: Option<String>,
    /// The `code` of the error.
    pub code: Option<String>,
    /// When the request arrived.
    pub period: Period,
}

impl Store {
    /// Rows, newest first, and whether older ones follow.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn search(&self, search: Search, page: Page) -> Result<(Vec<UsageRow>, bool), StoreError> {
        let query = Entity::find()
            .apply_if(search.user, |rows, user| rows.filter(Column::UserId.eq(user)))
            .apply_if(search.model, |rows, model| rows.filter(Column::Model.eq(model)))
            .apply_if(search.node, |rows, node| rows.filter(Column::Node.eq(node)))
            .apply_if(search.status, |rows, status| rows.filter(Column::Status.eq(status)))
            .apply_if(search.code, |rows, code| rows.filter(Column::Code.eq(code)))
            .apply_if(search.period.from_ms, |rows, from| rows.filter(Column::CreatedAtMs.gte(from)))
            .apply_if(search.period.to_ms, |rows, to| rows.filter(Column::CreatedAtMs.lt(to)))
            .apply_if(page.after, |rows, after| rows.filter(Column::RequestId.lt(after)))
            .order_by_desc(Column::RequestId)
            .limit(page.limit + 1);
        let mut models = within_deadline(query.all(&self.reads)).await?;
        let more = models.len() as u64 > page.limit;
        models.truncate(usize::try_from(page.limit).unwrap_or(usize::MAX));
        Ok((models.into_iter().map(UsageRow::from_model).collect(), more))
    }

    /// The row of one request.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn usage_of(&self, request_id: Uuid) -> Result<Option<UsageRow>, StoreError> {
        let row = within_deadline(Entity::find_by_id(request_id).one(&self.reads)).await?;
        Ok(row.map(UsageRow::from_model))
    }
}
