//! The gateway's own name.
use sea_orm_migration::prelude::*;
use sea_orm_migration::schema::{boolean, integer, string};

#[derive(DeriveMigrationName)]
pub struct Migration;

#[async_trait::async_trait]
impl MigrationTrait for Migration {
    async fn up(&self, manager: &SchemaManager) -> Result<(), DbErr> {
        let identity = Table::create()
            .table("identity")
            .col(integer("id").primary_key())
            .col(string("gateway"))
            .col(boolean("is_sole"))
            .to_owned();
        manager.create_table(identity).await
    }

    async fn down(&self, manager: &SchemaManager) -> Result<(), DbErr> {
        manager.drop_table(Table::drop().table("identity").to_owned()).await
    }
}
