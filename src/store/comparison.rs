//! Do the daily sums of usage agree with the rows?
use std::time::Duration;

use sea_orm::{ConnectionTrait, DatabaseBackend, Statement};

use super::database::Store;
use super::deadline::within;
use super::error::StoreError;
use super::transactions::begin_patiently;
use super::usage_row::{DAY_MS, first_id};

/// Longest time for a comparison, which reads every row of two days.
const COMPARISON_DEADLINE: Duration = Duration::from_secs(60);

/// The columns that are summed up.
const SUMS: [&str; 8] =
    ["requests", "prompt_tokens", "completion_tokens", "queue_ms", "duration_ms", "load_ms", "prefill_ms", "decode_ms"];

/// A database with more rows of usage than this counts as large.
const LARGE: f64 = 200_000.0;

impl Store {
    /// Whether the usage table has so many rows that a comparison takes seconds. An estimate, which needs no scan.
    pub(super) async fn is_large(&self) -> bool {
        let rows = match self.db.get_database_backend() {
            DatabaseBackend::Sqlite => "SELECT CAST(coalesce(max(rowid), 0) AS real) FROM usage",
            _ => "SELECT CAST(reltuples AS double precision) FROM pg_class WHERE oid = 'usage'::regclass",
        };
        let rows = self.db.query_one_raw(Statement::from_string(self.db.get_database_backend(), rows));
        let rows = within(COMPARISON_DEADLINE, rows).await.ok().flatten();
        rows.is_some_and(|row| row.try_get_by_index::<f64>(0).is_ok_and(|rows| rows > LARGE))
    }

    /// How many daily sums from `since_day` on differ from what they add up: a user's its rows, that of all users theirs.
    /// One statement, so all are of one moment. A day that has lost rows to retention differs as well.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn wrong_rollups(&self, since_day: i32) -> Result<u64, StoreError> {
        let compared = async {
            let transaction = begin_patiently(&self.db, COMPARISON_DEADLINE, None).await?;
            let backend = transaction.get_database_backend();
            let statement =
                Statement::from_string(backend, comparison(since_day, backend == DatabaseBackend::Postgres));
            let row = transaction.query_one_raw(statement).await?;
            transaction.commit().await?;
            row.map_or(Ok(0), |row| row.try_get_by_index::<i64>(0))
        };
        let wrong = within(COMPARISON_DEADLINE, compared).await?;
        Ok(u64::try_from(wrong).unwrap_or_default())
    }
}

pub(super) fn comparison(since_day: i32, on_postgres: bool) -> String {
    // Ids begin with the time, so comparing them reads only these days.
    let first_id = first_id(i64::from(since_day) * DAY_MS);
    let first_id = if on_postgres { format!("'{first_id}'") } else { format!("x'{}'", first_id.simple()) };
    let sums = SUMS.join(", ");
    let less = SUMS.map(|sum| format!("-{sum}")).join(", ");
    let differ = SUMS.map(|sum| format!("sum({sum}) <> 0")).join(" OR ");
    format!(
        "SELECT (SELECT count(*) FROM (SELECT day FROM (\
         SELECT day, user_id, coalesce(key_id, '') AS key_id, model, coalesce(node, '') AS node, status, \
         coalesce(group_id, '') AS group_id, requests, prompt_tokens, completion_tokens, queue_ms, duration_ms, \
         coalesce(load_ms, 0) AS load_ms, coalesce(prefill_ms, 0) AS prefill_ms, coalesce(decode_ms, 0) AS decode_ms \
         FROM usage WHERE request_id >= {first_id} AND day >= {since_day} UNION ALL \
         SELECT day, user_id, key_id, model, node, status, group_id, {less} FROM usage_rollups \
         WHERE day >= {since_day}) AS both_of_them \
         GROUP BY day, user_id, key_id, model, node, status, group_id HAVING {differ}) AS wrong) + \
         (SELECT count(*) FROM (SELECT day FROM (\
         SELECT day, model, node, status, group_id, {sums} FROM usage_rollups WHERE day >= {since_day} UNION ALL \
         SELECT day, model, node, status, group_id, {less} FROM usage_totals WHERE day >= {since_day}) AS all_of_them \
         GROUP BY day, model, node, status, group_id HAVING {differ}) AS wrong_totals)"
    )
}
