//! The users of a sum over all users, in order: without them in the index on kinds, a page of the users of one model reads all
//! sums of the model. SQLite has them there already, because its index ends with the primary key.
use sea_orm_migration::prelude::*;
use sea_orm_migration::sea_orm::DbBackend;

#[derive(DeriveMigrationName)]
pub struct Migration;

const NAME: &str = "usage_rollups_kind";
const KIND: [&str; 5] = ["day", "model", "node", "status", "group_id"];

#[async_trait::async_trait]
impl MigrationTrait for Migration {
    async fn up(&self, manager: &SchemaManager) -> Result<(), DbErr> {
        replace(manager, &[&KIND[..], &["user_id"]].concat()).await
    }

    async fn down(&self, manager: &SchemaManager) -> Result<(), DbErr> {
        replace(manager, &KIND).await
    }
}

async fn replace(manager: &SchemaManager<'_>, columns: &[&'static str]) -> Result<(), DbErr> {
    if manager.get_database_backend() == DbBackend::Sqlite {
        return Ok(());
    }
    manager.drop_index(Index::drop().name(NAME).table("usage_rollups").to_owned()).await?;
    let mut index = Index::create().name(NAME).table("usage_rollups").to_owned();
    for column in columns {
        index.col(*column);
    }
    manager.create_index(index).await
}
