//! The first tables: users, their keys, and a row for each request.
use sea_orm_migration::prelude::*;
use sea_orm_migration::schema::{
    big_integer, big_integer_null, boolean, integer, small_integer, string, string_null, uuid, var_binary,
};

#[derive(DeriveMigrationName)]
pub struct Migration;

#[async_trait::async_trait]
impl MigrationTrait for Migration {
    async fn up(&self, manager: &SchemaManager) -> Result<(), DbErr> {
        manager
            .create_table(
                Table::create()
                    .table(Users::Table)
                    .col(string(Users::Id).primary_key())
                    .col(big_integer(Users::CreatedAtMs))
                    .col(big_integer_null(Users::RequestsPerMinute))
                    .col(big_integer_null(Users::TokensPerDay))
                    .to_owned(),
            )
            .await?;
        manager
            .create_table(
                Table::create()
                    .table(ApiKeys::Table)
                    .col(var_binary(ApiKeys::Digest, 32).primary_key())
                    .col(small_integer(ApiKeys::DigestVersion))
                    .col(string(ApiKeys::UserId))
                    .col(string(ApiKeys::LastFour))
                    .col(big_integer(ApiKeys::CreatedAtMs))
                    .to_owned(),
            )
            .await?;
        manager
            .create_index(Index::create().name("api_keys_user").table(ApiKeys::Table).col(ApiKeys::UserId).to_owned())
            .await?;
        create_usage(manager).await
    }

    async fn down(&self, manager: &SchemaManager) -> Result<(), DbErr> {
        manager.drop_table(Table::drop().table(Usage::Table).to_owned()).await?;
        manager.drop_table(Table::drop().table(ApiKeys::Table).to_owned()).await?;
        manager.drop_table(Table::drop().table(Users::Table).to_owned()).await
    }
}

async fn create_usage(manager: &SchemaManager<'_>) -> Result<(), DbErr> {
    manager
        .create_table(
            Table::create()
                .table(Usage::Table)
                .col(uuid(Usage::RequestId).primary_key())
                .col(string(Usage::UserId))
                .col(big_integer(Usage::CreatedAtMs))
                .col(integer(Usage::Day))
                .col(string(Usage::Model))
                .col(string(Usage::Endpoint))
                .col(string_null(Usage::Node))
                .col(boolean(Usage::Stream))
                .col(string(Usage::Status))
                .col(big_integer(Usage::PromptTokens))
                .col(big_integer(Usage::CompletionTokens))
                .col(string(Usage::TokensFrom))
                .col(integer(Usage::Attempts))
                .col(big_integer(Usage::QueueMs))
                .col(big_integer_null(Usage::TimeToFirstTokenMs))
                .col(big_integer(Usage::DurationMs))
                .to_owned(),
        )
        .await?;
    // For a user's own rows, newest first, page by page.
    manager
        .create_index(
            Index::create()
                .name("usage_user_request")
                .table(Usage::Table)
                .col(Usage::UserId)
                .col(Usage::RequestId)
                .to_owned(),
        )
        .await?;
    // For the day's sums of all users, which are read at the start to restore the limits.
    manager
        .create_index(
            Index::create().name("usage_day_user").table(Usage::Table).col(Usage::Day).col(Usage::UserId).to_owned(),
        )
        .await
}

#[derive(DeriveIden)]
enum Users {
    Table,
    Id,
    CreatedAtMs,
    RequestsPerMinute,
    TokensPerDay,
}

#[derive(DeriveIden)]
enum ApiKeys {
    Table,
    Digest,
    DigestVersion,
    UserId,
    LastFour,
    CreatedAtMs,
}

#[derive(DeriveIden)]
enum Usage {
    Table,
    RequestId,
    UserId,
    CreatedAtMs,
    Day,
    Model,
    Endpoint,
    Node,
    Stream,
    Status,
    PromptTokens,
    CompletionTokens,
    TokensFrom,
    Attempts,
    QueueMs,
    TimeToFirstTokenMs,
    DurationMs,
}
