//! What a request cost the node: time to load, to read the prompt, and to write the answer.
use sea_orm_migration::prelude::*;
use sea_orm_migration::schema::big_integer_null;

#[derive(DeriveMigrationName)]
pub struct Migration;

const COLUMNS: [&str; 3] = ["load_ms", "prefill_ms", "decode_ms"];

#[async_trait::async_trait]
impl MigrationTrait for Migration {
    async fn up(&self, manager: &SchemaManager) -> Result<(), DbErr> {
        // SQLite adds one column for each statement.
        for column in COLUMNS {
            let table = Table::alter().table("usage").add_column(big_integer_null(column)).to_owned();
            manager.alter_table(table).await?;
        }
        Ok(())
    }

    async fn down(&self, manager: &SchemaManager) -> Result<(), DbErr> {
        for column in COLUMNS {
            manager.alter_table(Table::alter().table("usage").drop_column(column).to_owned()).await?;
        }
        Ok(())
    }
}
