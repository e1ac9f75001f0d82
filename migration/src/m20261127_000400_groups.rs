//! Groups of users with limits of their own, and by which group usage counts.
//!
//! The group becomes a part of the key of the daily sums, so that the limits of a group are read from them as those of a
//! user are, and reports can tell groups apart.
use sea_orm_migration::prelude::*;
use sea_orm_migration::schema::{big_integer, big_integer_null, string, string_null, text_null};
use sea_orm_migration::sea_orm::{DbBackend, Statement};

use super::m20261125_000300_usage_rollups::{self as rollups, Requests, SUMS, table};
use super::m20261125_000500_people_changes::{
    DIGESTS, KEYS, Watched, follow_on_postgres, follow_on_sqlite, forget_on_sqlite,
};

#[derive(DeriveMigrationName)]
pub struct Migration;

/// How the requests of rows are counted from this step on.
pub(crate) const BY_GROUP: Requests = Requests { sum: "sum(requests)", of_new: "NEW.requests", by_group: true };

const WATCHED: [Watched; 4] = [USERS, KEYS, DIGESTS, GROUPS];
const USERS: Watched = (
    "users",
    "user",
    "id",
    "id, requests_per_minute, tokens_per_day, tokens_per_minute, max_concurrency, weight_millis, suspended_at_ms, \
     display_name, email, note, generation, group_id",
);
const GROUPS: Watched = (
    "user_groups",
    "group",
    "id",
    "id, generation, requests_per_minute, tokens_per_minute, tokens_per_day, tokens_per_month, max_concurrency, \
     weight_millis, allowed_models",
);

/// Makes SQLite keep the log of changes.
pub fn follow_people_on_sqlite() -> Vec<String> {
    follow_on_sqlite(&WATCHED)
}

/// Makes SQLite stop keeping it.
pub fn forget_people_on_sqlite() -> Vec<String> {
    forget_on_sqlite(&WATCHED)
}

#[async_trait::async_trait]
impl MigrationTrait for Migration {
    async fn up(&self, manager: &SchemaManager) -> Result<(), DbErr> {
        manager.create_table(groups()).await?;
        let former = Table::create()
            .table("former_groups")
            .col(string("id").primary_key())
            .col(big_integer("generations"))
            .to_owned();
        manager.create_table(former).await?;
        for table in ["users", "usage"] {
            let column = Table::alter().table(table).add_column(string_null("group_id")).to_owned();
            manager.alter_table(column).await?;
        }
        let members = Index::create().name("users_group").table("users").col("group_id").to_owned();
        manager.create_index(members).await?;
        if manager.get_database_backend() == DbBackend::Sqlite {
            on_sqlite(manager).await?;
        } else {
            on_postgres(manager).await?;
        }
        // For a group's own sums.
        let index =
            Index::create().name("usage_rollups_group").table("usage_rollups").col("group_id").col("day").to_owned();
        manager.create_index(index).await
    }

    async fn down(&self, _: &SchemaManager) -> Result<(), DbErr> {
        Err(DbErr::Migration("what groups have used cannot be told apart any more: restore a backup".to_owned()))
    }
}

fn groups() -> TableCreateStatement {
    Table::create()
        // `groups` is a word of SQL.
        .table("user_groups")
        .col(string("id").primary_key())
        .col(big_integer("generation"))
        .col(big_integer("created_at_ms"))
        .col(big_integer_null("requests_per_minute"))
        .col(big_integer_null("tokens_per_minute"))
        .col(big_integer_null("tokens_per_day"))
        .col(big_integer_null("tokens_per_month"))
        .col(big_integer_null("max_concurrency"))
        .col(big_integer("weight_millis"))
        .col(text_null("allowed_models"))
        .to_owned()
}

/// SQLite cannot change a key, so the sums move to a new table.
async fn on_sqlite(manager: &SchemaManager<'_>) -> Result<(), DbErr> {
    let db = manager.get_connection();
    let trigger = "SELECT 1 FROM sqlite_master WHERE type = 'trigger' AND name = 'usage_to_rollups'";
    let is_followed = db.query_one_raw(Statement::from_string(DbBackend::Sqlite, trigger)).await?.is_some();
    // A table does not leave without the triggers that name it.
    db.execute_unprepared("DROP TRIGGER IF EXISTS usage_to_rollups").await?;
    let key = ["user_id", "key_id", "model", "node", "status", "group_id"];
    manager.create_table(table("new_rollups", &key, true)).await?;
    let sums = SUMS.join(", ");
    for statement in [
        &*format!(
            "INSERT INTO new_rollups (day, user_id, key_id, model, node, status, group_id, requests, {sums}) \
             SELECT day, user_id, key_id, model, node, status, '', requests, {sums} FROM usage_rollups"
        ),
        "DROP TABLE usage_rollups",
        "ALTER TABLE new_rollups RENAME TO usage_rollups",
        "CREATE INDEX usage_rollups_user ON usage_rollups (user_id, day)",
        // Made anew, with more columns, where the file is opened.
        "DROP TRIGGER IF EXISTS users_update_to_changes",
    ] {
        db.execute_unprepared(statement).await?;
    }
    if is_followed {
        // Where it is missing, the sums are made anew from the rows, some of which may be gone.
        db.execute_unprepared(&rollups::follow_on_sqlite(&BY_GROUP.add_new_on_sqlite())).await?;
    }
    Ok(())
}

async fn on_postgres(manager: &SchemaManager<'_>) -> Result<(), DbErr> {
    let (key, function) = (BY_GROUP.key(), rollups::function_on_postgres(|rows| BY_GROUP.add_rows(rows)));
    let (users, groups) = (follow_on_postgres(USERS), follow_on_postgres(GROUPS));
    let db = manager.get_connection();
    for statement in [
        "ALTER TABLE usage_rollups ADD COLUMN group_id varchar NOT NULL DEFAULT ''",
        "ALTER TABLE usage_rollups DROP CONSTRAINT usage_rollups_pkey",
        &*format!("ALTER TABLE usage_rollups ADD PRIMARY KEY ({key})"),
        &function,
        "DROP TRIGGER users_to_changes ON users",
        &users,
        &groups,
    ] {
        db.execute_unprepared(statement).await?;
    }
    Ok(())
}
