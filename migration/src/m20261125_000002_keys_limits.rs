//! Several keys for each user, each with a name, an expiry and limits of its own; further limits for users.
use sea_orm_migration::prelude::*;
use sea_orm_migration::schema::{big_integer, big_integer_null, string, string_null, text_null};

#[derive(DeriveMigrationName)]
pub struct Migration;

#[async_trait::async_trait]
impl MigrationTrait for Migration {
    async fn up(&self, manager: &SchemaManager) -> Result<(), DbErr> {
        let keys = Table::create()
            .table("keys")
            .col(string("id").primary_key())
            .col(string("user_id"))
            .col(string("name"))
            .col(big_integer("created_at_ms"))
            .col(big_integer_null("expires_at_ms"))
            .col(text_null("allowed_models"))
            .col(big_integer_null("requests_per_minute"))
            .col(big_integer_null("tokens_per_minute"))
            .col(big_integer_null("tokens_per_day"))
            .col(big_integer_null("max_concurrency"))
            .col(big_integer_null("last_used_ms"))
            .to_owned();
        manager.create_table(keys).await?;
        manager.create_index(Index::create().name("keys_user").table("keys").col("user_id").to_owned()).await?;
        self.split_keys(manager).await?;
        for column in [
            big_integer_null("tokens_per_minute"),
            big_integer_null("max_concurrency"),
            big_integer("weight_millis").default(1000).to_owned(),
        ] {
            add(manager, "users", column).await?;
        }
        add(manager, "usage", string_null("key_id")).await
    }

    async fn down(&self, _: &SchemaManager) -> Result<(), DbErr> {
        Err(DbErr::Migration("several keys cannot become one: restore a backup".to_owned()))
    }
}

impl Migration {
    /// Splits each key into a key and its digest; every secret keeps working.
    async fn split_keys(&self, manager: &SchemaManager<'_>) -> Result<(), DbErr> {
        manager.rename_table(Table::rename().table("api_keys", "key_digests").to_owned()).await?;
        for column in
            [string("key_id").default("").to_owned(), string_null("pepper"), big_integer_null("expires_at_ms")]
        {
            add(manager, "key_digests", column).await?;
        }
        let db = manager.get_connection();
        // Ids of old keys are short numbers, those of new keys long random digits, so they cannot clash.
        db.execute_unprepared(
            "UPDATE key_digests SET key_id = numbered.id FROM (SELECT digest, \
             'key_' || row_number() OVER (ORDER BY created_at_ms, digest) AS id FROM key_digests) AS numbered \
             WHERE numbered.digest = key_digests.digest",
        )
        .await?;
        db.execute_unprepared(
            "INSERT INTO keys (id, user_id, name, created_at_ms) \
             SELECT key_id, user_id, 'default', created_at_ms FROM key_digests",
        )
        .await?;
        manager.drop_index(Index::drop().name("api_keys_user").table("key_digests").to_owned()).await?;
        manager.alter_table(Table::alter().table("key_digests").drop_column("user_id").to_owned()).await?;
        let index = Index::create().name("key_digests_key").table("key_digests").col("key_id").to_owned();
        manager.create_index(index).await
    }
}

/// SQLite adds one column for each statement.
async fn add(manager: &SchemaManager<'_>, table: &'static str, column: ColumnDef) -> Result<(), DbErr> {
    manager.alter_table(Table::alter().table(table).add_column(column).to_owned()).await
}
