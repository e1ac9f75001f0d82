//! Keeps what the scheduler has learned about nodes and models for the next run, as text in the local file: each gateway
//! learns for itself.
use entity::learned::{ActiveModel, Column, Entity};
use sea_orm::sea_query::OnConflict;
use sea_orm::{EntityTrait, Set};

use super::database::Store;
use super::deadline::within_deadline;
use super::error::StoreError;

const ONLY_ROW: i32 = 1;

impl Store {
    /// The last saved text, and when it was saved, epoch milliseconds.
    ///
    /// # Errors
    /// When the local file fails.
    pub async fn learned(&self) -> Result<Option<(String, i64)>, StoreError> {
        let row = within_deadline(Entity::find_by_id(ONLY_ROW).one(&self.local.db)).await?;
        Ok(row.map(|row| (row.learned, row.saved_at_ms)))
    }

    /// Replaces the saved text.
    ///
    /// # Errors
    /// When the local file fails; the earlier text stays.
    pub async fn keep_learned(&self, learned: String, saved_at_ms: i64) -> Result<(), StoreError> {
        let row = ActiveModel { id: Set(ONLY_ROW), saved_at_ms: Set(saved_at_ms), learned: Set(learned) };
        let replace = OnConflict::column(Column::Id).update_columns([Column::SavedAtMs, Column::Learned]).to_owned();
        within_deadline(Entity::insert(row).on_conflict(replace).exec_without_returning(&self.local.db)).await?;
        Ok(())
    }
}
