//! Nodes that are added while gateways run, and nodes that are drained.
use sea_orm_migration::prelude::*;
use sea_orm_migration::schema::{big_integer, string, text};

#[derive(DeriveMigrationName)]
pub struct Migration;

#[async_trait::async_trait]
impl MigrationTrait for Migration {
    async fn up(&self, manager: &SchemaManager) -> Result<(), DbErr> {
        manager
            .create_table(
                Table::create()
                    .table(Nodes::Table)
                    .col(string(Nodes::Name).primary_key())
                    .col(text(Nodes::Settings))
                    .col(big_integer(Nodes::CreatedAtMs))
                    .col(big_integer(Nodes::ChangedAtMs))
                    .to_owned(),
            )
            .await?;
        manager
            .create_table(
                Table::create()
                    .table(DrainedNodes::Table)
                    .col(string(DrainedNodes::Name).primary_key())
                    .col(big_integer(DrainedNodes::SinceMs))
                    .to_owned(),
            )
            .await
    }

    async fn down(&self, manager: &SchemaManager) -> Result<(), DbErr> {
        manager.drop_table(Table::drop().table(DrainedNodes::Table).to_owned()).await?;
        manager.drop_table(Table::drop().table(Nodes::Table).to_owned()).await
    }
}

#[derive(DeriveIden)]
enum Nodes {
    Table,
    Name,
    Settings,
    CreatedAtMs,
    ChangedAtMs,
}

#[derive(DeriveIden)]
enum DrainedNodes {
    Table,
    Name,
    SinceMs,
}
