//! Daily sums over all users. With many users, a report on models or nodes would add up millions of users' sums; these
//! are a few for each day. Statements that keep the users' sums keep them as well.
use sea_orm_migration::prelude::*;
use sea_orm_migration::sea_orm::{DbBackend, Statement};

use super::m20261125_000300_usage_rollups::{self as rollups, SUMS, list, table};
use super::m20261127_000400_groups::BY_GROUP;

#[derive(DeriveMigrationName)]
pub struct Migration;

const KEY: [&str; 5] = ["day", "model", "node", "status", "group_id"];

/// Sums up all rows, if there are no sums yet.
pub fn fill_rollups() -> String {
    format!("{}; {}", BY_GROUP.fill(), fill_totals())
}

/// The statements that make SQLite add each new row to its sums.
pub fn follow_rollups_on_sqlite() -> String {
    rollups::follow_on_sqlite(&format!("{} {}", BY_GROUP.add_new_on_sqlite(), add_new_on_sqlite()))
}

/// The statements before and after the inserts of a SQLite transaction.
pub fn sum_up_on_sqlite() -> (&'static str, Vec<String>) {
    rollups::sum_up_on_sqlite(add_rows)
}

/// The statements that add new rows to both kinds of sums. Those of users come first, in the order of their key, and so
/// two gateways never deadlock on each other's sums.
fn add_rows(rows: &str) -> String {
    format!("{} {} {} {};", BY_GROUP.add_rows(rows), insert(), sums_of(rows), add())
}

fn add_new_on_sqlite() -> String {
    let sums = list(|sum| format!("coalesce(NEW.{sum}, 0)"));
    format!(
        "{} VALUES (NEW.day, NEW.model, coalesce(NEW.node, ''), NEW.status, coalesce(NEW.group_id, ''), NEW.requests, \
         {sums}) {};",
        insert(),
        add()
    )
}

/// Sums up the sums of the users, which may be older than all rows.
fn fill_totals() -> String {
    format!("{} {}", insert(), sums_of("usage_rollups"))
}

fn insert() -> String {
    format!("INSERT INTO usage_totals ({}, requests, {})", KEY.join(", "), SUMS.join(", "))
}

fn sums_of(rows: &str) -> String {
    let sums = list(|sum| format!("coalesce(sum({sum}), 0)"));
    format!(
        "SELECT day, model, coalesce(node, ''), status, coalesce(group_id, ''), sum(requests), {sums} FROM {rows} \
         GROUP BY 1, 2, 3, 4, 5 ORDER BY 1, 2, 3, 4, 5"
    )
}

fn add() -> String {
    let sums = list(|sum| format!("{sum} = usage_totals.{sum} + excluded.{sum}"));
    let key = KEY.join(", ");
    format!("ON CONFLICT ({key}) DO UPDATE SET requests = usage_totals.requests + excluded.requests, {sums}")
}

#[async_trait::async_trait]
impl MigrationTrait for Migration {
    async fn up(&self, manager: &SchemaManager) -> Result<(), DbErr> {
        let on_sqlite = manager.get_database_backend() == DbBackend::Sqlite;
        manager.create_table(table("usage_totals", &KEY[1..], on_sqlite)).await?;
        let db = manager.get_connection();
        if on_sqlite {
            follow(db, &follow_rollups_on_sqlite()).await?;
        } else {
            // Nobody may insert rows between the two; whoever waits goes on after the commit, with the new function.
            db.execute_unprepared("LOCK TABLE usage IN SHARE ROW EXCLUSIVE MODE").await?;
            db.execute_unprepared(&rollups::function_on_postgres(add_rows)).await?;
        }
        db.execute_unprepared(&fill_totals()).await?;
        Ok(())
    }

    async fn down(&self, manager: &SchemaManager) -> Result<(), DbErr> {
        let db = manager.get_connection();
        if manager.get_database_backend() == DbBackend::Sqlite {
            follow(db, &rollups::follow_on_sqlite(&BY_GROUP.add_new_on_sqlite())).await?;
        } else {
            db.execute_unprepared(&rollups::function_on_postgres(|rows| BY_GROUP.add_rows(rows))).await?;
        }
        manager.drop_table(Table::drop().table("usage_totals").to_owned()).await
    }
}

/// Replaces the trigger of a SQLite file that keeps sums.
async fn follow(db: &SchemaManagerConnection<'_>, trigger: &str) -> Result<(), DbErr> {
    let known = "SELECT 1 FROM sqlite_master WHERE type = 'trigger' AND name = 'usage_to_rollups'";
    if db.query_one_raw(Statement::from_string(DbBackend::Sqlite, known)).await?.is_some() {
        db.execute_unprepared("DROP TRIGGER usage_to_rollups").await?;
        db.execute_unprepared(trigger).await?;
    }
    Ok(())
}
