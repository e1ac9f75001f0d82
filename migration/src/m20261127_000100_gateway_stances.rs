//! Which division of the nodes' slots each gateway uses.
use sea_orm_migration::prelude::*;
use sea_orm_migration::schema::{big_integer_null, boolean_null, text_null};

#[derive(DeriveMigrationName)]
pub struct Migration;

#[async_trait::async_trait]
impl MigrationTrait for Migration {
    async fn up(&self, manager: &SchemaManager) -> Result<(), DbErr> {
        // SQLite adds one column for each statement.
        for column in [text_null("members"), big_integer_null("turn"), boolean_null("fits")] {
            manager.alter_table(Table::alter().table("gateways").add_column(column).to_owned()).await?;
        }
        Ok(())
    }

    async fn down(&self, manager: &SchemaManager) -> Result<(), DbErr> {
        for column in ["members", "turn", "fits"] {
            manager.alter_table(Table::alter().table("gateways").drop_column(column).to_owned()).await?;
        }
        Ok(())
    }
}
