//! An index that leads from each sum over all users to the users' sums in it: without it, reports on a model with few
//! users read the sums of all. It takes the place of the index on groups, whose reports it serves as well, so a new sum
//! costs no more than before.
use sea_orm_migration::prelude::*;

#[derive(DeriveMigrationName)]
pub struct Migration;

const TABLE: &str = "usage_rollups";
const BY_KIND: &str = "usage_rollups_kind";
const BY_GROUP: &str = "usage_rollups_group";

#[async_trait::async_trait]
impl MigrationTrait for Migration {
    async fn up(&self, manager: &SchemaManager) -> Result<(), DbErr> {
        let mut index = Index::create().name(BY_KIND).table(TABLE).to_owned();
        // The day comes first: new sums then lie together, at the end.
        for column in ["day", "model", "node", "status", "group_id"] {
            index.col(column);
        }
        manager.create_index(index).await?;
        manager.drop_index(Index::drop().name(BY_GROUP).table(TABLE).to_owned()).await
    }

    async fn down(&self, manager: &SchemaManager) -> Result<(), DbErr> {
        let index = Index::create().name(BY_GROUP).table(TABLE).col("group_id").col("day").to_owned();
        manager.create_index(index).await?;
        manager.drop_index(Index::drop().name(BY_KIND).table(TABLE).to_owned()).await
    }
}
