//! Which nodes has an operator drained, why, and until when?
use std::collections::BTreeMap;

use entity::drained_node::{ActiveModel, Column, Entity, Model};
use sea_orm::{ColumnTrait, EntityTrait, QueryFilter, Set, sea_query::OnConflict};

use super::changes::begin_other_change;
use super::database::Store;
use super::deadline::within_deadline;
use super::error::StoreError;

/// A drain by an operator.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Maintenance {
    /// When it began, as Unix time in milliseconds.
    pub since_ms: i64,
    /// In the operator's words, which clients read.
    pub reason: Option<String>,
    /// When it ends by itself, as Unix time in milliseconds; `None` = when an operator ends it.
    pub until_ms: Option<i64>,
}

impl Maintenance {
    /// Whether its end has come.
    pub fn is_over(&self, now_ms: i64) -> bool {
        self.until_ms.is_some_and(|until_ms| until_ms <= now_ms)
    }
}

impl From<Model> for Maintenance {
    fn from(Model { since_ms, reason, until_ms, .. }: Model) -> Self {
        Self { since_ms, reason, until_ms }
    }
}

impl Store {
    /// Every node or entry that is drained, by name; those whose end has come included.
    ///
    /// # Errors
    /// When the database does not answer.
    pub async fn maintenances(&self) -> Result<BTreeMap<String, Maintenance>, StoreError> {
        let rows = within_deadline(Entity::find().all(&self.db)).await?;
        Ok(rows.into_iter().map(|row| (row.name.clone(), row.into())).collect())
    }

    /// Records that a node is drained. One that is drained already keeps its earlier beginning.
    ///
    /// # Errors
    /// When the database does not answer.
    pub async fn drain_node(&self, name: &str, maintenance: &Maintenance) -> Result<(), StoreError> {
        let Maintenance { since_ms, reason, until_ms } = maintenance.clone();
        let row = ActiveModel {
            name: Set(name.to_owned()),
            since_ms: Set(since_ms),
            reason: Set(reason),
            until_ms: Set(until_ms),
        };
        let latest = OnConflict::column(Column::Name).update_columns([Column::Reason, Column::UntilMs]).to_owned();
        let drain = async {
            let transaction = begin_other_change(&self.db).await?;
            Entity::insert(row).on_conflict(latest).exec_without_returning(&transaction).await?;
            transaction.commit().await
        };
        within_deadline(drain).await
    }

    /// Records that a node is no longer drained.
    ///
    /// # Errors
    /// When the database does not answer.
    pub async fn undrain_node(&self, name: &str) -> Result<(), StoreError> {
        let undrain = async {
            let transaction = begin_other_change(&self.db).await?;
            Entity::delete_by_id(name).exec(&transaction).await?;
            transaction.commit().await
        };
        within_deadline(undrain).await
    }

    /// Forgets the drains whose end has come; those that were given another end meanwhile stay.
    ///
    /// # Errors
    /// When the database does not answer.
    pub async fn forget_ended_drains(&self, now_ms: i64) -> Result<(), StoreError> {
        let ended = Entity::delete_many().filter(Column::UntilMs.lte(now_ms));
        within_deadline(ended.exec(&self.db)).await.map(drop)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::settings::DatabaseSettings;

    fn maintenance(since_ms: i64, reason: &str, until_ms: Option<i64>) -> Maintenance {
        Maintenance { since_ms, reason: Some(reason.to_owned()), until_ms }
    }

    #[actix_rt::test]
    async fn a_drain_is_kept_with_its_reason_and_its_end() {
        let folder = tempfile::tempdir().unwrap();
        let url = format!("sqlite://{}/gateway.db", folder.path().display());
        let store = Store::open(&DatabaseSettings { url, ..DatabaseSettings::default() }).await.unwrap();
        store.drain_node("a", &maintenance(1, "update", Some(50))).await.unwrap();
        store.drain_node("b", &maintenance(2, "dust", None)).await.unwrap();

        store.drain_node("a", &maintenance(9, "longer update", Some(60))).await.unwrap();

        let kept = store.maintenances().await.unwrap();
        assert_eq!(kept["a"], maintenance(1, "longer update", Some(60)), "it began when it began");
        assert_eq!((kept["a"].is_over(59), kept["a"].is_over(60), kept["b"].is_over(i64::MAX)), (false, true, false));
        store.forget_ended_drains(59).await.unwrap();
        assert_eq!(store.maintenances().await.unwrap().len(), 2);
        store.forget_ended_drains(60).await.unwrap();
        assert!(store.maintenances().await.unwrap().keys().eq(["b"]));
        store.undrain_node("b").await.unwrap();
        assert!(store.maintenances().await.unwrap().is_empty());
        store.close().await;
    }
}
