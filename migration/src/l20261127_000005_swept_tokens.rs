//! What groups had used in rows that the local file has lost by now. A month is longer than rows are kept there.
use sea_orm_migration::prelude::*;
use sea_orm_migration::schema::{big_integer, integer, string};

#[derive(DeriveMigrationName)]
pub struct Migration;

#[async_trait::async_trait]
impl MigrationTrait for Migration {
    async fn up(&self, manager: &SchemaManager) -> Result<(), DbErr> {
        let swept = Table::create()
            .table("swept_tokens")
            .col(integer("day"))
            .col(string("group_id"))
            .col(big_integer("tokens"))
            .primary_key(Index::create().col("day").col("group_id"))
            .to_owned();
        manager.create_table(swept).await?;
        // A copy of users that an earlier version has made knows no groups.
        manager.get_connection().execute_unprepared("UPDATE people_copy SET seq = NULL").await?;
        Ok(())
    }

    async fn down(&self, manager: &SchemaManager) -> Result<(), DbErr> {
        manager.drop_table(Table::drop().table("swept_tokens").to_owned()).await
    }
}
