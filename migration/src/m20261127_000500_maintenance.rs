//! Why nodes are drained, and until when.
use sea_orm_migration::prelude::*;
use sea_orm_migration::schema::{big_integer_null, text_null};

#[derive(DeriveMigrationName)]
pub struct Migration;

#[async_trait::async_trait]
impl MigrationTrait for Migration {
    async fn up(&self, manager: &SchemaManager) -> Result<(), DbErr> {
        // SQLite takes one column a statement.
        for column in [text_null("reason"), big_integer_null("until_ms")] {
            manager.alter_table(Table::alter().table("drained_nodes").add_column(column).to_owned()).await?;
        }
        Ok(())
    }

    async fn down(&self, manager: &SchemaManager) -> Result<(), DbErr> {
        for column in ["reason", "until_ms"] {
            manager.alter_table(Table::alter().table("drained_nodes").drop_column(column).to_owned()).await?;
        }
        Ok(())
    }
}
