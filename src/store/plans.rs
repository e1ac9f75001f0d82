//! Tests that every query on usage uses an index, by reading the databases' own query plans: a scan is fast in any other
//! test, but takes minutes after a year.
use migration::Migrator;
use sea_orm::{
    ConnectionTrait, Database, DatabaseBackend, DatabaseConnection, EntityTrait, QueryFilter, QueryTrait, Statement,
};
use sea_orm_migration::MigratorTrait;

use super::comparison::comparison;
use super::group_spent::sums_of_days;
use super::report_query::{Dimension, Label, Report, select};
use super::spent::{day_query, recent_query};
use super::upkeep::old_rows;
use super::usage::{Page, Period, rows_of, totals_of_days, totals_of_rows};
use super::usage_row::DAY_MS;

const DAY: i32 = 20_000;
const NOW_MS: i64 = DAY as i64 * DAY_MS + 1;

/// The name of each query, its statement, and the indexes; the plan must name at least one of them.
fn queries(backend: DatabaseBackend) -> Vec<(&'static str, String, &'static [&'static str])> {
    let key: &[&str] = if backend == DatabaseBackend::Sqlite {
        &["sqlite_autoindex_usage_1", "USING PRIMARY KEY"]
    } else {
        &["usage_pkey", "usage_rollups_pkey"]
    };
    let of_user = &["usage_user_request"];
    // In an empty table, Postgres may as well begin with the days: there is nothing between the two.
    let sums_of_user: &[&str] = match backend {
        DatabaseBackend::Sqlite => &["usage_rollups_user"],
        _ => &["usage_rollups_user", "usage_rollups_pkey"],
    };
    let page = Page { limit: 20, after: Some(uuid::Uuid::max()) };
    let moments = Period { from_ms: Some(NOW_MS - 9), to_ms: Some(NOW_MS) };
    let report = |group_by: &[Dimension], only: &[(Dimension, String)]| Report {
        group_by: group_by.to_vec(),
        from_day: Some(DAY - 30),
        to_day: Some(DAY),
        only: only.to_vec(),
    };
    let page_in_sql = |report: &Report, after: Option<&[Label]>| match backend {
        DatabaseBackend::Sqlite => select(report, after, 100).to_string(sea_orm::sea_query::SqliteQueryBuilder),
        _ => select(report, after, 100).to_string(sea_orm::sea_query::PostgresQueryBuilder),
    };
    let in_sql = |report: &Report| page_in_sql(report, None);
    let in_sql_after_ann = |report: &Report| page_in_sql(report, Some(&[Label::Name("ann".to_owned())]));
    let usage = entity::usage::Entity::find;
    let of_ann = usage().filter(sea_orm::ColumnTrait::eq(&entity::usage::Column::UserId, "ann"));
    let totals: &[&str] = match backend {
        DatabaseBackend::Sqlite => &["usage_totals USING INDEX", "usage_totals USING PRIMARY KEY"],
        _ => &["usage_totals_pkey"],
    };
    let of_key = &["usage_rollups_key"];
    let key_1 = (Dimension::Key, "key_1".to_owned());
    let lab = (Dimension::Group, "lab".to_owned());
    let ann = (Dimension::User, "ann".to_owned());
    vec![
        ("a page of rows", rows_of("ann", page).build(backend).to_string(), of_user),
        ("sums of moments", totals_of_rows("ann", moments).build(backend).to_string(), of_user),
        ("sums of days", totals_of_days("ann", Some(DAY - 30), Some(DAY)).build(backend).to_string(), sums_of_user),
        ("the day of everybody", day_query(None, DAY).build(backend).to_string(), key),
        ("the running minute", recent_query(usage(), NOW_MS - 60_000).build(backend).to_string(), key),
        ("one user's minute", recent_query(of_ann, NOW_MS - 60_000).build(backend).to_string(), of_user),
        ("rows that are too old", old_rows(DAY).build(backend).to_string(), key),
        ("the comparison", comparison(DAY, backend == DatabaseBackend::Postgres), key),
        ("a month by model", in_sql(&report(&[Dimension::Model], &[])), totals),
        ("a group's month by day", in_sql(&report(&[Dimension::Day], &[lab])), totals),
        ("a page of users", in_sql_after_ann(&report(&[Dimension::User], &[])), sums_of_user),
        ("users and their models", in_sql(&report(&[Dimension::User, Dimension::Model], &[])), sums_of_user),
        ("a page of keys", in_sql_after_ann(&report(&[Dimension::Key], &[])), of_key),
        ("keys and their days", in_sql(&report(&[Dimension::Key, Dimension::Day], &[])), of_key),
        ("a key's month by day", in_sql(&report(&[Dimension::Day], &[key_1])), of_key),
        ("the month of all groups", sums_of_days(DAY - 20, DAY).build(backend).to_string(), totals),
        ("a user's month by day", in_sql(&report(&[Dimension::Day], &[ann])), sums_of_user),
    ]
}

async fn check(db: &DatabaseConnection) {
    let backend = db.get_database_backend();
    let explain = if backend == DatabaseBackend::Sqlite { "EXPLAIN QUERY PLAN" } else { "EXPLAIN" };
    for (name, sql, indexes) in queries(backend) {
        let rows = db.query_all_raw(Statement::from_string(backend, format!("{explain} {sql}"))).await.unwrap();
        let column = if backend == DatabaseBackend::Sqlite { 3 } else { 0 };
        let lines: Vec<String> = rows.iter().map(|row| row.try_get_by_index(column).unwrap()).collect();
        let plan = lines.join("\n");
        assert!(indexes.iter().any(|index| plan.contains(index)), "{name}:\n{plan}");
        for whole in ["SCAN usage", "Seq Scan"] {
            assert!(!plan.contains(whole), "{name} reads a whole table:\n{plan}");
        }
    }
}

#[actix_rt::test]
async fn sqlite_reads_no_whole_table_of_usage() {
    let folder = tempfile::tempdir().unwrap();
    let url = format!("sqlite://{}/plans.db?mode=rwc", folder.path().display());
    let db = Database::connect(url).await.unwrap();
    Migrator::up(&db, None).await.unwrap();
    check(&db).await;
    db.close().await.unwrap();
}

/// Does nothing without `TEST_POSTGRES_URL`, which `tests/run api` sets.
#[actix_rt::test]
async fn postgres_can_do_without_reading_a_whole_table_of_usage() {
    let Ok(server) = std::env::var("TEST_POSTGRES_URL") else { return };
    let name = format!("plans_{}", uuid::Uuid::now_v7().simple());
    let admin = Database::connect(&server).await.unwrap();
    admin.execute_unprepared(&format!("CREATE DATABASE {name}")).await.unwrap();
    let (base, _) = server.rsplit_once('/').unwrap();
    let mut options = sea_orm::ConnectOptions::new(format!("{base}/{name}"));
    options.max_connections(1);
    let db = Database::connect(options).await.unwrap();
    Migrator::up(&db, None).await.unwrap();
    // Postgres scans an empty table whatever its indexes are. With scans switched off, it plans one only where no index
    // would do.
    for setting in ["enable_seqscan", "enable_bitmapscan"] {
        db.execute_unprepared(&format!("SET {setting} = off")).await.unwrap();
    }
    check(&db).await;
    db.close().await.unwrap();
    admin.execute_unprepared(&format!("DROP DATABASE {name}")).await.unwrap();
    admin.close().await.unwrap();
}
