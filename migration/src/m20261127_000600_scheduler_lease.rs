//! Which gateway schedules for all of them, and where each gateway's link listens.
use sea_orm_migration::prelude::*;
use sea_orm_migration::schema::{big_integer, integer, text, text_null};

#[derive(DeriveMigrationName)]
pub struct Migration;

#[async_trait::async_trait]
impl MigrationTrait for Migration {
    async fn up(&self, manager: &SchemaManager) -> Result<(), DbErr> {
        let table = Table::create()
            .table("scheduler_lease")
            .col(integer("id").primary_key())
            .col(text("holder"))
            .col(text("address"))
            .col(big_integer("epoch"))
            .col(big_integer("until_ms"))
            .col(text_null("secret"))
            .to_owned();
        manager.create_table(table).await?;
        manager.alter_table(Table::alter().table("gateways").add_column(text_null("link")).to_owned()).await
    }

    async fn down(&self, manager: &SchemaManager) -> Result<(), DbErr> {
        manager.alter_table(Table::alter().table("gateways").drop_column("link").to_owned()).await?;
        manager.drop_table(Table::drop().table("scheduler_lease").to_owned()).await
    }
}
