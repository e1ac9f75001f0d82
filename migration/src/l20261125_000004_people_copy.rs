//! How current the local file's copy of users and keys is.
use sea_orm_migration::prelude::*;
use sea_orm_migration::schema::{big_integer_null, boolean, integer};

#[derive(DeriveMigrationName)]
pub struct Migration;

#[async_trait::async_trait]
impl MigrationTrait for Migration {
    async fn up(&self, manager: &SchemaManager) -> Result<(), DbErr> {
        let copy = Table::create()
            .table("people_copy")
            .col(integer("id").primary_key())
            .col(big_integer_null("seq"))
            .col(boolean("is_whole"))
            .to_owned();
        manager.create_table(copy).await
    }

    async fn down(&self, manager: &SchemaManager) -> Result<(), DbErr> {
        manager.drop_table(Table::drop().table("people_copy").to_owned()).await
    }
}
