//! What operators note of users, when each was last seen, and which user of the name it is.
use sea_orm_migration::prelude::*;
use sea_orm_migration::schema::{big_integer, big_integer_null, string, text_null};
use sea_orm_migration::sea_orm::DbBackend;

use super::m20261125_000500_people_changes::{Watched, follow_on_postgres};

#[derive(DeriveMigrationName)]
pub struct Migration;

/// When a user was last seen does not matter to anybody else.
const USERS: Watched = (
    "users",
    "user",
    "id",
    "id, requests_per_minute, tokens_per_day, tokens_per_minute, max_concurrency, weight_millis, suspended_at_ms, \
     display_name, email, note, generation",
);

#[async_trait::async_trait]
impl MigrationTrait for Migration {
    async fn up(&self, manager: &SchemaManager) -> Result<(), DbErr> {
        // SQLite takes one column a statement.
        for column in [
            big_integer_null("suspended_at_ms"),
            text_null("display_name"),
            text_null("email"),
            text_null("note"),
            big_integer("generation").default(1).to_owned(),
            big_integer_null("last_seen_ms"),
        ] {
            manager.alter_table(Table::alter().table("users").add_column(column).to_owned()).await?;
        }
        let former = Table::create()
            .table("former_users")
            .col(string("id").primary_key())
            .col(big_integer("generations"))
            .to_owned();
        manager.create_table(former).await?;
        let db = manager.get_connection();
        db.execute_unprepared(
            "UPDATE users SET last_seen_ms = (SELECT max(last_used_ms) FROM keys WHERE keys.user_id = users.id)",
        )
        .await?;
        if manager.get_database_backend() == DbBackend::Postgres {
            let follow = follow_on_postgres(USERS);
            db.execute_unprepared(&format!("DROP TRIGGER users_to_changes ON users; {follow}")).await?;
        } else {
            // Made anew, with more columns, where the file is opened.
            db.execute_unprepared("DROP TRIGGER IF EXISTS users_update_to_changes").await?;
        }
        Ok(())
    }

    async fn down(&self, _: &SchemaManager) -> Result<(), DbErr> {
        Err(DbErr::Migration("users of one name cannot be told apart any more: restore a backup".to_owned()))
    }
}
