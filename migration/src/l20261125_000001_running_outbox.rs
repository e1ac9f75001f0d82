//! Requests that have not ended, and rows on their way to Postgres.
use sea_orm_migration::prelude::*;
use sea_orm_migration::schema::{big_integer, string, text, uuid};

#[derive(DeriveMigrationName)]
pub struct Migration;

#[async_trait::async_trait]
impl MigrationTrait for Migration {
    async fn up(&self, manager: &SchemaManager) -> Result<(), DbErr> {
        let running =
            Table::create().table("running").col(uuid("request_id").primary_key()).col(text("row")).to_owned();
        manager.create_table(running).await?;
        let outbox = Table::create().table("outbox").col(uuid("request_id").primary_key()).to_owned();
        manager.create_table(outbox).await?;
        let parked = Table::create()
            .table("parked")
            .col(uuid("request_id").primary_key())
            .col(string("reason"))
            .col(big_integer("parked_at_ms"))
            .to_owned();
        manager.create_table(parked).await
    }

    async fn down(&self, manager: &SchemaManager) -> Result<(), DbErr> {
        for table in ["running", "outbox", "parked"] {
            manager.drop_table(Table::drop().table(table).to_owned()).await?;
        }
        Ok(())
    }
}
