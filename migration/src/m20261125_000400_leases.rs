//! Limits that several gateways share.
use sea_orm_migration::prelude::*;
use sea_orm_migration::schema::{big_integer, boolean, integer, string};

#[derive(DeriveMigrationName)]
pub struct Migration;

#[async_trait::async_trait]
impl MigrationTrait for Migration {
    async fn up(&self, manager: &SchemaManager) -> Result<(), DbErr> {
        let gateways = Table::create()
            .table("gateways")
            .col(string("id").primary_key())
            .col(big_integer("renewed_ms"))
            .col(big_integer("since_ms"))
            .col(big_integer("patience_ms"))
            .col(boolean("is_sole"))
            .col(boolean("has_left"))
            .to_owned();
        manager.create_table(gateways).await?;
        let leases = Table::create()
            .table("leases")
            .col(string("subject"))
            .col(string("gateway"))
            .col(big_integer("requests"))
            .col(big_integer("minute_tokens"))
            .col(big_integer("running"))
            .col(integer("day"))
            .col(big_integer("day_tokens"))
            .col(big_integer("declared_tokens"))
            .primary_key(Index::create().col("subject").col("gateway"))
            .to_owned();
        manager.create_table(leases).await?;
        manager.create_index(Index::create().name("leases_gateway").table("leases").col("gateway").to_owned()).await
    }

    async fn down(&self, manager: &SchemaManager) -> Result<(), DbErr> {
        for table in ["leases", "gateways"] {
            manager.drop_table(Table::drop().table(table).to_owned()).await?;
        }
        Ok(())
    }
}
