//! Keeps the nodes that were added over the API. A node's settings are kept as the JSON that the caller gives, so a new
//! setting needs no new column.
use entity::{drained_node, node};
use sea_orm::{ActiveModelTrait, ColumnTrait, EntityTrait, QueryFilter, Set, SqlErr};

use super::changes::begin_other_change;
use super::database::Store;
use super::deadline::within_deadline;
use super::error::StoreError;
use super::seal;

/// A node as the database keeps it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StoredNode {
    /// Its name.
    pub name: String,
    /// Its settings as JSON, not sealed.
    pub settings: String,
}

impl Store {
    /// Every node that was added, by name.
    ///
    /// # Errors
    /// When the database does not answer.
    pub async fn nodes(&self) -> Result<Vec<StoredNode>, StoreError> {
        let mut rows = within_deadline(node::Entity::find().all(&self.db)).await?;
        rows.sort_by(|a, b| a.name.cmp(&b.name));
        let opened = rows.into_iter().filter_map(|row| match seal::open(&self.peppers, &row.name, &row.settings) {
            Some(settings) => Some(StoredNode { name: row.name, settings }),
            None => {
                tracing::error!(
                    node = row.name,
                    "a node is left out: its settings are sealed with a pepper that is not configured"
                );
                None
            }
        });
        Ok(opened.collect())
    }

    /// Seals the settings that were stored before a pepper was configured.
    ///
    /// # Errors
    /// When the database does not answer.
    pub async fn seal_nodes(&self) -> Result<(), StoreError> {
        if !self.peppers.is_given() {
            return Ok(());
        }
        let rows = within_deadline(node::Entity::find().all(&self.db)).await?;
        for row in rows.into_iter().filter(|row| !seal::is_sealed(&row.settings)) {
            let settings = seal::seal(&self.peppers, &row.name, row.settings.clone())?;
            let update = node::Entity::update_many()
                .set(node::ActiveModel { settings: Set(settings), ..Default::default() })
                .filter(node::Column::Name.eq(row.name))
                // Another gateway may have changed the row since.
                .filter(node::Column::Settings.eq(row.settings));
            within_deadline(update.exec(&self.db)).await?;
        }
        Ok(())
    }

    /// Adds a node.
    ///
    /// # Errors
    /// [`StoreError::NodeExists`], or when the database does not answer.
    pub async fn add_node(&self, new: StoredNode, now_ms: i64) -> Result<(), StoreError> {
        let settings = seal::seal(&self.peppers, &new.name, new.settings)?;
        let row = node::ActiveModel {
            name: Set(new.name.clone()),
            settings: Set(settings),
            created_at_ms: Set(now_ms),
            changed_at_ms: Set(now_ms),
        };
        let insert = async {
            let transaction = begin_other_change(&self.db).await?;
            row.insert(&transaction).await?;
            transaction.commit().await
        };
        match within_deadline(insert).await {
            Err(StoreError::Database(error))
                if matches!(error.sql_err(), Some(SqlErr::UniqueConstraintViolation(_))) =>
            {
                Err(StoreError::NodeExists(new.name))
            }
            result => result,
        }
    }

    /// Changes a node that was added.
    ///
    /// # Errors
    /// [`StoreError::NoNode`], or when the database does not answer.
    pub async fn change_node(&self, changed: StoredNode, now_ms: i64) -> Result<(), StoreError> {
        let settings = seal::seal(&self.peppers, &changed.name, changed.settings)?;
        let row = node::ActiveModel {
            name: Set(changed.name.clone()),
            settings: Set(settings),
            changed_at_ms: Set(now_ms),
            ..Default::default()
        };
        let update = async {
            let transaction = begin_other_change(&self.db).await?;
            row.update(&transaction).await?;
            transaction.commit().await
        };
        match within_deadline(update).await {
            Err(StoreError::Database(sea_orm::DbErr::RecordNotUpdated)) => Err(StoreError::NoNode(changed.name)),
            result => result,
        }
    }

    /// Removes a node that was added, together with its drain.
    ///
    /// # Errors
    /// [`StoreError::NoNode`], or when the database does not answer.
    pub async fn remove_node(&self, name: &str) -> Result<(), StoreError> {
        let remove = async {
            let transaction = begin_other_change(&self.db).await?;
            let removed = node::Entity::delete_by_id(name).exec(&transaction).await?;
            drained_node::Entity::delete_by_id(name).exec(&transaction).await?;
            if removed.rows_affected > 0 {
                transaction.commit().await?;
            }
            Ok(removed.rows_affected)
        };
        match within_deadline(remove).await? {
            0 => Err(StoreError::NoNode(name.to_owned())),
            _ => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;
    use crate::store::keys::{KeySettings, Peppers};
    use crate::store::maintenance::Maintenance;
    use crate::store::settings::DatabaseSettings;

    #[actix_rt::test]
    async fn what_was_kept_before_there_was_a_pepper_is_sealed() {
        let folder = tempfile::tempdir().unwrap();
        let url = format!("sqlite://{}/gateway.db", folder.path().display());
        let store = Store::open(&DatabaseSettings { url, ..DatabaseSettings::default() }).await.unwrap();
        let node = StoredNode { name: "a".to_owned(), settings: "{\"api_key\":\"geheim\"}".to_owned() };
        store.add_node(node.clone(), 1).await.unwrap();
        let pepper = KeySettings { pepper: Some("a pepper that is long".to_owned()), ..KeySettings::default() };
        let sealed = store.clone().with_peppers(Peppers::load(&pepper).unwrap());
        assert_eq!(sealed.nodes().await.unwrap(), std::slice::from_ref(&node), "it is still read");

        sealed.seal_nodes().await.unwrap();

        assert_eq!(sealed.nodes().await.unwrap(), [node]);
        let row = node::Entity::find().one(&store.db).await.unwrap().unwrap();
        assert!(seal::is_sealed(&row.settings) && store.nodes().await.unwrap().is_empty());
        store.close().await;
    }

    #[actix_rt::test]
    async fn nodes_and_drains_are_kept() {
        let folder = tempfile::tempdir().unwrap();
        let url = format!("sqlite://{}/gateway.db", folder.path().display());
        let store = Store::open(&DatabaseSettings { url, ..DatabaseSettings::default() }).await.unwrap();
        let node = |settings: &str| StoredNode { name: "a".to_owned(), settings: settings.to_owned() };
        assert!(matches!(store.change_node(node("{}"), 1).await, Err(StoreError::NoNode(_))));
        store.add_node(node("{}"), 1).await.unwrap();
        assert!(matches!(store.add_node(node("{}"), 2).await, Err(StoreError::NodeExists(_))));
        store.change_node(node("{\"slots\":2}"), 3).await.unwrap();
        assert_eq!(store.nodes().await.unwrap(), [node("{\"slots\":2}")]);
        let maintenance = Maintenance { since_ms: 1, ..Maintenance::default() };
        store.drain_node("a", &maintenance).await.unwrap();
        store.drain_node("b", &maintenance).await.unwrap();
        store.remove_node("a").await.unwrap();
        assert_eq!(store.maintenances().await.unwrap(), BTreeMap::from([("b".to_owned(), maintenance)]));
        assert!(store.nodes().await.unwrap().is_empty());
        assert!(matches!(store.remove_node("a").await, Err(StoreError::NoNode(_))));
        store.close().await;
    }
}
