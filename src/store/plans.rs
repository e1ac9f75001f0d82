//! Tests that every query on usage uses an index, by reading the databases' own query plans: a scan is fast in any other
//! test, but takes minutes after a year.
use std::sync::Arc;

use sea_orm::sea_query::SelectStatement;
use sea_orm::{
    ConnectionTrait, DatabaseBackend, DatabaseConnection, EntityTrait, QueryFilter, QueryTrait, Statement,
    TransactionTrait,
};

use super::comparison::comparison;
use super::group_spent::{recent_of_groups, sums_of_days};
use super::leases::tokens_of_users;
use super::report::BY_INDEX;
use super::report_query::{Dimension, Label, Report};
use super::report_statements::{Names, Source, Span, count, heads, select, select_span};
use super::scratch::Scratch;
use super::spent::{day_query, of_users, recent_query};
use super::upkeep::old_rows;
use super::usage::{Page, Period, rows_of, totals_of_days, totals_of_rows};
use super::usage_row::DAY_MS;

const DAY: i32 = 20_000;
const NOW_MS: i64 = DAY as i64 * DAY_MS + 1;

/// The name of a query, its statement, and the indexes; the plan must name at least one of them.
type Planned = (&'static str, String, &'static [&'static str]);

/// The indexes of a query: those of SQLite, or those of Postgres, whose plans depend on what it has counted.
fn by(
    backend: DatabaseBackend,
    sqlite: &'static [&'static str],
    postgres: &'static [&'static str],
) -> &'static [&'static str] {
    if backend == DatabaseBackend::Sqlite { sqlite } else { postgres }
}

/// In an empty table, Postgres may as well begin with the days: there is nothing between the two.
fn sums_of_user(backend: DatabaseBackend) -> &'static [&'static str] {
    let postgres = &["usage_rollups_user", "usage_rollups_pkey", "usage_rollups_kind"];
    by(backend, &["usage_rollups_user"], postgres)
}

fn totals(backend: DatabaseBackend) -> &'static [&'static str] {
    by(backend, &["usage_totals USING INDEX", "usage_totals USING PRIMARY KEY"], &["usage_totals_pkey"])
}

/// Queries of limits, of users' pages and of the upkeep.
fn queries_of_rows(backend: DatabaseBackend) -> Vec<Planned> {
    let key = by(backend, &["sqlite_autoindex_usage_1", "USING PRIMARY KEY"], &["usage_pkey", "usage_rollups_pkey"]);
    let of_user = &["usage_user_request"];
    let (sums_of_user, totals) = (sums_of_user(backend), totals(backend));
    let some_users = by(backend, &["PRIMARY KEY (day=? AND user_id=?)"], sums_of_user);
    let page = Page { limit: 20, after: Some(uuid::Uuid::max()) };
    let moments = Period { from_ms: Some(NOW_MS - 9), to_ms: Some(NOW_MS) };
    let usage = entity::usage::Entity::find;
    let of_ann = usage().filter(sea_orm::ColumnTrait::eq(&entity::usage::Column::UserId, "ann"));
    let of_groups = recent_of_groups(usage(), backend, &["lab".into()], NOW_MS - 60_000);
    let of_some = of_users(usage(), backend, &["ann", "ben"].map(Arc::from).into());
    vec![
        ("a page of rows", rows_of("ann", page).build(backend).to_string(), of_user),
        ("sums of moments", totals_of_rows("ann", moments).build(backend).to_string(), of_user),
        ("sums of days", totals_of_days("ann", Some(DAY - 30), Some(DAY)).build(backend).to_string(), sums_of_user),
        ("the day of everybody", day_query(None, DAY).build(backend).to_string(), key),
        ("the running minute", recent_query(usage(), NOW_MS - 60_000).build(backend).to_string(), key),
        ("some users' minute", recent_query(of_some, NOW_MS - 60_000).build(backend).to_string(), of_user),
        ("some groups' minute", of_groups.build(backend).to_string(), key),
        ("one user's minute", recent_query(of_ann, NOW_MS - 60_000).build(backend).to_string(), of_user),
        ("rows that are too old", old_rows(DAY, 100).build(backend).to_string(), key),
        ("the comparison", comparison(DAY, backend == DatabaseBackend::Postgres), key),
        ("the day of some users", tokens_of_users(backend, DAY, ["ann", "ben"]).build(backend).to_string(), some_users),
        ("the month of all groups", sums_of_days(DAY - 20, DAY).build(backend).to_string(), totals),
    ]
}

fn queries_of_reports(backend: DatabaseBackend) -> Vec<Planned> {
    let report = |group_by: &[Dimension], only: &[(Dimension, String)]| Report {
        group_by: group_by.to_vec(),
        from_day: Some(DAY - 30),
        to_day: Some(DAY),
        only: only.to_vec(),
    };
    let written = |statement: SelectStatement| match backend {
        DatabaseBackend::Sqlite => statement.to_string(sea_orm::sea_query::SqliteQueryBuilder),
        _ => statement.to_string(sea_orm::sea_query::PostgresQueryBuilder),
    };
    let in_sql = |report: &Report, source| written(select(report, source, None, 100));
    let after_ann = |report: &Report| {
        written(select(report, Source::SumsOfNames(Names::OfAll), Some(&[Label::Name("ann".to_owned())]), 100))
    };
    let of_m = Report { group_by: vec![Dimension::Model, Dimension::User], ..report(&[], &[]) };
    let m = [Label::Name("m".to_owned())];
    let span = Span(&m, &m);
    let (names, sums, all) = (Source::SumsOfNames(Names::OfAll), Source::Sums, Source::Totals);
    let (sums_of_user, totals) = (sums_of_user(backend), totals(backend));
    let of_key = by(backend, &["usage_rollups_key"], &["usage_rollups_key", "usage_rollups_kind"]);
    // Each total leads to its own sums, whatever the statistics are.
    let each_total = &["usage_rollups_kind (day=? AND model=? AND node=? AND status=? AND group_id=?)"];
    let of_kind = by(backend, each_total, &["usage_rollups_kind"]);
    let from_ann = &["usage_rollups_kind (day=? AND model=? AND node=? AND status=? AND group_id=? AND user_id>?)"];
    let of_kind_in_order = by(backend, from_ann, &["Index Only Scan using usage_rollups_kind"]);
    let after_m_ann = |report: &Report| {
        let ann = [m[0].clone(), Label::Name("ann".to_owned())];
        written(select(report, Source::SumsOfNames(Names::OfTotals(backend)), Some(&ann), 100))
    };
    let key_1 = (Dimension::Key, "key_1".to_owned());
    let lab = (Dimension::Group, "lab".to_owned());
    let ann = (Dimension::User, "ann".to_owned());
    vec![
        ("a month by model", in_sql(&report(&[Dimension::Model], &[]), all), totals),
        ("a group's month by day", in_sql(&report(&[Dimension::Day], &[lab]), all), totals),
        ("a page of users", after_ann(&report(&[Dimension::User], &[])), sums_of_user),
        ("users and their models", in_sql(&report(&[Dimension::User, Dimension::Model], &[]), names), sums_of_user),
        ("a page of keys", after_ann(&report(&[Dimension::Key], &[])), of_key),
        ("keys and their days", in_sql(&report(&[Dimension::Key, Dimension::Day], &[]), names), of_key),
        ("the models of a month", written(heads(&of_m, Some(&m), 100)), totals),
        ("how many sums a model has", written(count(&of_m, span, 100)), of_kind),
        ("a model with few users", written(select_span(&of_m, span, None, 100)), of_kind),
        ("a model with many users", in_sql(&of_m.part(&m), names), sums_of_user),
        ("the last users of a model", after_m_ann(&of_m.part(&m)), of_kind_in_order),
        ("a key's month by day", in_sql(&report(&[Dimension::Day], &[key_1]), sums), of_key),
        ("a user's month by day", in_sql(&report(&[Dimension::Day], &[ann]), sums), sums_of_user),
    ]
}

async fn check(db: &DatabaseConnection) {
    let backend = db.get_database_backend();
    let explain = if backend == DatabaseBackend::Sqlite { "EXPLAIN QUERY PLAN" } else { "EXPLAIN" };
    for (name, sql, indexes) in queries_of_rows(backend).into_iter().chain(queries_of_reports(backend)) {
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
async fn no_query_reads_a_whole_table_of_usage() {
    for scratch in Scratch::each().await {
        if scratch.is_on_postgres() {
            // Postgres scans an empty table whatever its indexes are. With scans switched off, it plans one only where no
            // index would do.
            for setting in ["enable_seqscan", "enable_bitmapscan"] {
                scratch.db.execute_unprepared(&format!("SET {setting} = off")).await.unwrap();
            }
        }
        check(&scratch.db).await;
        scratch.remove().await;
    }
}

#[actix_rt::test]
async fn postgres_does_not_read_all_sums_for_those_of_one_total() {
    let Some(scratch) = Scratch::postgres().await else { return };
    check_sums_of_a_total(&scratch.db).await;
    scratch.remove().await;
}

async fn check_sums_of_a_total(db: &DatabaseConnection) {
    // A model and a node that always come together, as names of models and nodes often do.
    let sums = "0, 0, 0, 0, 0, 0, 0";
    for (table, users, of_user) in [("usage_rollups", 500, "'user-' || u, '', "), ("usage_totals", 1, "")] {
        let columns = if users > 1 { "user_id, key_id, " } else { "" };
        let fill = format!(
            "INSERT INTO {table} (day, {columns}model, node, status, group_id, requests, prompt_tokens, \
             completion_tokens, queue_ms, duration_ms, load_ms, prefill_ms, decode_ms) \
             SELECT {DAY} - d, {of_user}'m' || m, 'n' || m, 'completed', '', 9, {sums} \
             FROM generate_series(1, {users}) u, generate_series(1, 5) d, generate_series(1, 4) m; ANALYZE {table}"
        );
        db.execute_unprepared(&fill).await.unwrap();
    }
    let group_by = vec![Dimension::Model, Dimension::User];
    let report = Report { group_by, from_day: Some(DAY - 30), ..Report::default() };
    let m = [Label::Name("m1".to_owned())];
    let sums = select_span(&report, Span(&m, &m), None, 100).to_string(sea_orm::sea_query::PostgresQueryBuilder);
    let transaction = db.begin().await.unwrap();
    transaction.execute_unprepared(BY_INDEX).await.unwrap();

    let explained = Statement::from_string(DatabaseBackend::Postgres, format!("EXPLAIN {sums}"));
    let rows = transaction.query_all_raw(explained).await.unwrap();

    let plan = rows.iter().map(|row| row.try_get_by_index::<String>(0).unwrap()).collect::<Vec<_>>().join("\n");
    assert!(plan.contains("usage_rollups_kind") && !plan.contains("Seq Scan on usage_rollups"), "{plan}");
    transaction.rollback().await.unwrap();
}
