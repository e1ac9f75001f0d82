//! Why a request ended as it did, and how many requests a row stands for.
//!
//! Refusals beyond a user's first few in a minute share one row. So sums add up the rows' counts instead of counting
//! rows.
use sea_orm_migration::prelude::*;
use sea_orm_migration::schema::{big_integer, integer_null, string_null};
use sea_orm_migration::sea_orm::DbBackend;

use super::m20261125_000300_usage_rollups::{Requests, function_on_postgres};

#[derive(DeriveMigrationName)]
pub struct Migration;

const AS_ROWS_SAY: Requests = Requests { sum: "sum(requests)", of_new: "NEW.requests", by_group: false };

fn columns() -> [ColumnDef; 4] {
    let requests = big_integer("requests").default(1).take();
    [string_null("code"), string_null("limit_name"), integer_null("http_status"), requests]
}

#[async_trait::async_trait]
impl MigrationTrait for Migration {
    async fn up(&self, manager: &SchemaManager) -> Result<(), DbErr> {
        // SQLite adds one column for each statement.
        for column in columns() {
            manager.alter_table(Table::alter().table("usage").add_column(column).to_owned()).await?;
        }
        // SQLite's trigger is created again when the file is opened.
        if manager.get_database_backend() != DbBackend::Sqlite {
            let function = function_on_postgres(|rows| AS_ROWS_SAY.add_rows(rows));
            manager.get_connection().execute_unprepared(&function).await?;
        }
        Ok(())
    }

    async fn down(&self, _: &SchemaManager) -> Result<(), DbErr> {
        Err(DbErr::Migration("rows that stand for several requests cannot be told apart again".to_owned()))
    }
}
