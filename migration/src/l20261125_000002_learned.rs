//! What the scheduler learned of nodes and models.
use sea_orm_migration::prelude::*;
use sea_orm_migration::schema::{big_integer, integer, text};

#[derive(DeriveMigrationName)]
pub struct Migration;

#[async_trait::async_trait]
impl MigrationTrait for Migration {
    async fn up(&self, manager: &SchemaManager) -> Result<(), DbErr> {
        let learned = Table::create()
            .table("learned")
            .col(integer("id").primary_key())
            .col(big_integer("saved_at_ms"))
            .col(text("learned"))
            .to_owned();
        manager.create_table(learned).await
    }

    async fn down(&self, manager: &SchemaManager) -> Result<(), DbErr> {
        manager.drop_table(Table::drop().table("learned").to_owned()).await
    }
}
