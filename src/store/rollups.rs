//! Switches the daily sums of usage on or off in SQLite. A trigger adds each row to its sums; see the migrations
//! that create the tables `usage_rollups` and `usage_totals`.
use entity::{usage_rollup, usage_total};
use migration::{fill_rollups, follow_rollups_on_sqlite};
use sea_orm::{ConnectionTrait, DbErr, EntityTrait, Statement};

/// Makes SQLite keep the sums from now on. If it did not so far, the existing rows are summed up first.
pub(super) async fn follow(db: &impl ConnectionTrait) -> Result<(), DbErr> {
    let trigger = "SELECT sql FROM sqlite_master WHERE type = 'trigger' AND name = 'usage_to_rollups'";
    let trigger = Statement::from_string(db.get_database_backend(), trigger);
    let known: Option<String> = db.query_one_raw(trigger).await?.map(|row| row.try_get_by_index(0)).transpose()?;
    match known {
        Some(sql) if sql.contains("summing") && sql.contains("usage_totals") => return Ok(()),
        // The trigger of an earlier version, which has summed up all existing rows.
        Some(_) => _ = db.execute_unprepared("DROP TRIGGER usage_to_rollups").await?,
        None => {
            // Sums that are left from an earlier time would count the same rows twice.
            forget(db).await?;
            db.execute_unprepared(&fill_rollups()).await?;
        }
    }
    db.execute_unprepared(&follow_rollups_on_sqlite()).await?;
    Ok(())
}

/// Makes SQLite keep no sums, because Postgres keeps those of the rows that it gets.
pub(super) async fn forget(db: &impl ConnectionTrait) -> Result<(), DbErr> {
    db.execute_unprepared("DROP TRIGGER IF EXISTS usage_to_rollups").await?;
    usage_rollup::Entity::delete_many().exec(db).await?;
    usage_total::Entity::delete_many().exec(db).await?;
    Ok(())
}
