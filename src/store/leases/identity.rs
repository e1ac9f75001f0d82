//! By which name does this gateway go among the others? Made at its first start and kept in its local file, so that it finds
//! what it held before.
use entity::identity::{Column, Entity, Model};
use sea_orm::sea_query::OnConflict;
use sea_orm::{EntityTrait, IntoActiveModel};

use crate::store::database::Store;
use crate::store::deadline::within_deadline;
use crate::store::error::StoreError;
use crate::store::keys::random_hex;

const ONLY_ROW: i32 = 1;

impl Store {
    /// The name, and whether the gateway was alone when it last looked. Where another one uses the same local file, a name
    /// of its own for as long as it runs.
    pub(super) async fn identity(&self) -> Result<Model, StoreError> {
        let known = within_deadline(Entity::find_by_id(ONLY_ROW).one(&self.local.db)).await?;
        if let Some(known) = known.filter(|_| self.local.is_alone) {
            return Ok(known);
        }
        let made = Model { id: ONLY_ROW, gateway: random_hex()?, is_sole: false };
        self.keep_identity(&made.gateway, false).await?;
        Ok(made)
    }

    /// Keeps it for the next start.
    pub(super) async fn keep_identity(&self, gateway: &str, is_sole: bool) -> Result<(), StoreError> {
        if !self.local.is_alone {
            return Ok(());
        }
        let row = Model { id: ONLY_ROW, gateway: gateway.to_owned(), is_sole }.into_active_model();
        let replace = OnConflict::column(Column::Id).update_columns([Column::Gateway, Column::IsSole]).to_owned();
        within_deadline(Entity::insert(row).on_conflict(replace).exec_without_returning(&self.local.db)).await?;
        Ok(())
    }
}
