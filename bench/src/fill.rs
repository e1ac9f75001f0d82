//! How is a database filled as years of use would fill it? With users, keys, usage rows, and daily sums.
//!
//! Everything is derived from a number, so two runs make the same database. Key `n` belongs to user `n mod users`; its
//! secret is [`secret`]. Rows are spread evenly over the days up to now, and all belong to a fifth of the users; one user
//! has a fiftieth of them.
use std::time::{SystemTime, UNIX_EPOCH};

use clap::Args;
use migration::{Migrator, follow_rollups_on_sqlite, sum_up_on_sqlite};
use sea_orm::{
    ConnectOptions, ConnectionTrait, Database, DatabaseBackend, DatabaseConnection, DbErr, Statement, TransactionTrait,
};
use sea_orm_migration::MigratorTrait;
use serde_json::json;
use sha2::{Digest, Sha256};

const DAY_MS: i64 = 86_400_000;
/// Users or keys for each statement.
const BATCH: u64 = 10_000;
/// Rows for each statement: with the default amounts, those of a day.
const ROWS: u64 = 2_000_000;

/// Without a journal, for whatever is written is new: a file whose filling was interrupted is thrown away. Sorting goes
/// through files of this size, because the rows of years do not fit in memory.
const WHILE_FILLING_SQLITE: &[&str] =
    &["PRAGMA journal_mode = OFF", "PRAGMA synchronous = OFF", "PRAGMA cache_size = -1000000"];
const WHILE_FILLING_POSTGRES: &[&str] = &[
    "SET synchronous_commit = off",
    "SET work_mem = '512MB'",
    "SET maintenance_work_mem = '1GB'",
    "SET temp_buffers = '256MB'",
];

/// How much to create.
#[derive(Args, Debug)]
pub struct Amounts {
    /// `sqlite://PATH` or `postgres://…`, empty or not existing yet
    #[arg(long)]
    url: String,
    /// Users
    #[arg(long, default_value_t = 100_000)]
    users: u64,
    /// Keys of all users together
    #[arg(long, default_value_t = 1_000_000)]
    keys: u64,
    /// Rows of usage
    #[arg(long, default_value_t = 100_000_000)]
    rows: u64,
    /// Days that the rows are spread over, up to now
    #[arg(long, default_value_t = 50)]
    days: u64,
}

/// The secret of the key with this number.
pub fn secret(number: u64, users: u64) -> String {
    format!("sk-{}-{number:032x}", user(number % users))
}

fn user(number: u64) -> String {
    format!("user-{number:07}")
}

/// An id in the form of real ones; the statements below derive the same id from a number.
fn key_id(number: u64) -> String {
    format!("key_{number:016x}{:016x}", number * 7919)
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::new(), |text, byte| text + &format!("{byte:02x}"))
}

/// Creates and fills the database.
///
/// # Errors
/// The database fails.
pub async fn fill(amounts: &Amounts) -> Result<(), DbErr> {
    let mut options = ConnectOptions::new(match amounts.url.strip_prefix("sqlite:") {
        Some(_) => format!("{}?mode=rwc", amounts.url),
        None => amounts.url.clone(),
    });
    options.max_connections(1).sqlx_logging(false);
    let db = Database::connect(options).await?;
    let on_sqlite = db.get_database_backend() == DatabaseBackend::Sqlite;
    Migrator::up(&db, None).await?;
    for setting in if on_sqlite { WHILE_FILLING_SQLITE } else { WHILE_FILLING_POSTGRES } {
        db.execute_unprepared(setting).await?;
    }
    people(&db, amounts, on_sqlite).await?;
    rows(&db, amounts, on_sqlite).await?;
    if on_sqlite {
        // Which the gateway's connections expect, and writes the last pages.
        db.execute_unprepared("PRAGMA journal_mode = WAL").await?;
    }
    db.close().await
}

async fn people(db: &DatabaseConnection, amounts: &Amounts, on_sqlite: bool) -> Result<(), DbErr> {
    let now_ms = now_ms();
    // Nobody reads the log of changes while this goes on.
    let switch = |state: &str| {
        format!(
            "ALTER TABLE users {state} TRIGGER USER; ALTER TABLE keys {state} TRIGGER USER; \
                                        ALTER TABLE key_digests {state} TRIGGER USER"
        )
    };
    if !on_sqlite {
        db.execute_unprepared(&switch("DISABLE")).await?;
    }
    let each = if on_sqlite { "json_each(?)" } else { "json_array_elements($1::json) AS line (value)" };
    let users = format!(
        "INSERT INTO users (id, created_at_ms, requests_per_minute, weight_millis) \
         SELECT value ->> 0, {now_ms}, CASE WHEN value ->> 1 = '0' THEN 1000000 END, 1000 FROM {each}"
    );
    in_batches(db, amounts.users, &users, |number| json!([user(number), (number % 10).to_string()])).await?;
    let keys = format!(
        "INSERT INTO keys (id, user_id, name, created_at_ms) SELECT value ->> 0, value ->> 1, value ->> 2, {now_ms} FROM {each}"
    );
    let key = |number| json!([key_id(number), user(number % amounts.users), format!("laptop {}", number % 7)]);
    in_batches(db, amounts.keys, &keys, key).await?;
    let bytes = if on_sqlite { "unhex(value ->> 0)" } else { "decode(value ->> 0, 'hex')" };
    let digests = format!(
        "INSERT INTO key_digests (digest, digest_version, key_id, last_four, created_at_ms) \
         SELECT {bytes}, 1, value ->> 1, 'abcd', {now_ms} FROM {each}"
    );
    let digest = |number| json!([hex(&Sha256::digest(secret(number, amounts.users))), key_id(number)]);
    in_batches(db, amounts.keys, &digests, digest).await?;
    if !on_sqlite {
        db.execute_unprepared(&switch("ENABLE")).await?;
    }
    Ok(())
}

async fn in_batches(
    db: &DatabaseConnection,
    count: u64,
    statement: &str,
    line: impl Fn(u64) -> serde_json::Value,
) -> Result<(), DbErr> {
    for first in (0..count).step_by(BATCH as usize) {
        let lines: Vec<_> = (first..count.min(first + BATCH)).map(&line).collect();
        let text = serde_json::Value::from(lines).to_string();
        db.execute_raw(Statement::from_sql_and_values(db.get_database_backend(), statement, [text.into()])).await?;
    }
    Ok(())
}

/// Inserts the rows in the order of their time, and adds each statement's to the daily sums, as gateways do. So the sums are
/// sorted a day at a time, and nothing needs room for all rows but the rows themselves. Indexes in another order are left
/// out until all is inserted: their pages would be read and written many times over.
async fn rows(db: &DatabaseConnection, amounts: &Amounts, on_sqlite: bool) -> Result<(), DbErr> {
    let now_ms = now_ms();
    let indexes = take_indexes(db, on_sqlite).await?;
    let (before, after) = sum_up_on_sqlite();
    if on_sqlite {
        db.execute_unprepared("DROP TRIGGER IF EXISTS usage_to_rollups").await?;
        db.execute_unprepared(&follow_rollups_on_sqlite()).await?;
    }
    for first in (0..amounts.rows).step_by(ROWS as usize) {
        let last = amounts.rows.min(first + ROWS) - 1;
        let insert = insert_rows(amounts, now_ms, (first, last), on_sqlite);
        let transaction = db.begin().await?;
        // On Postgres, a trigger adds the rows of a statement to the sums.
        let (before, after) = if on_sqlite { (Some(before), after.as_slice()) } else { (None, &[][..]) };
        for statement in before.into_iter().chain([insert.as_str()]).chain(after.iter().map(String::as_str)) {
            transaction.execute_unprepared(statement).await?;
        }
        transaction.commit().await?;
        eprint!("\r{} of {} rows", last + 1, amounts.rows);
    }
    eprintln!();
    for index in &indexes {
        db.execute_unprepared(index).await?;
    }
    // The statistics, and the map of rows that all see, which a database would have gathered over the years.
    db.execute_unprepared(if on_sqlite { "ANALYZE" } else { "VACUUM ANALYZE" }).await?;
    Ok(())
}

/// Drops the indexes of the rows and of the users' sums, except primary keys. Returns the statements that make them again.
async fn take_indexes(db: &DatabaseConnection, on_sqlite: bool) -> Result<Vec<String>, DbErr> {
    let known = if on_sqlite {
        "SELECT name, sql FROM sqlite_master WHERE type = 'index' AND sql IS NOT NULL \
         AND tbl_name IN ('usage', 'usage_rollups')"
    } else {
        "SELECT indexname::text, indexdef FROM pg_indexes WHERE schemaname = current_schema() \
         AND tablename IN ('usage', 'usage_rollups') AND indexname NOT LIKE '%_pkey'"
    };
    let known = db.query_all_raw(Statement::from_string(db.get_database_backend(), known)).await?;
    let mut made_by = Vec::new();
    for index in known {
        db.execute_unprepared(&format!("DROP INDEX {}", index.try_get_by_index::<String>(0)?)).await?;
        made_by.push(index.try_get_by_index(1)?);
    }
    Ok(made_by)
}

/// One statement for a range of rows, which the database generates itself.
fn insert_rows(amounts: &Amounts, now_ms: i64, (first, last): (u64, u64), on_sqlite: bool) -> String {
    let Amounts { users, keys, rows, days, .. } = amounts;
    let span_ms = i64::try_from(*days).unwrap_or(i64::MAX).saturating_mul(DAY_MS);
    let first_ms = now_ms - span_ms;
    let busy = (users / 5).max(1);
    let (numbers, id) = if on_sqlite {
        let numbers = format!(
            "WITH RECURSIVE number (n) AS (SELECT {first} UNION ALL SELECT n + 1 FROM number WHERE n < {last})"
        );
        (numbers, "unhex(printf('%012x7abc8%015x', at_ms, n))".to_owned())
    } else {
        let numbers = format!("WITH number (n) AS (SELECT generate_series({first}::bigint, {last}::bigint))");
        let id = "(lpad(to_hex(at_ms), 12, '0') || '7abc8' || lpad(to_hex(n), 15, '0'))::uuid";
        (numbers, id.to_owned())
    };
    let pad = |number: &str, width: usize| {
        if on_sqlite {
            format!("printf('%0{width}d', {number})")
        } else {
            format!("lpad(({number})::text, {width}, '0')")
        }
    };
    let user = pad("who", 7);
    let number = format!("((who + {users} * (mix % 2)) % {keys})");
    let key = if on_sqlite {
        format!("printf('key_%016x%016x', {number}, {number} * 7919)")
    } else {
        format!("'key_' || lpad(to_hex({number}), 16, '0') || lpad(to_hex({number} * 7919), 16, '0')")
    };
    let (stream, mix) =
        if on_sqlite { ("n % 2", "(n * 7919) % 1000003") } else { ("n % 2 = 1", "(n * 7919) % 1000003") };
    // A user's rows use two of the user's keys, two models and three nodes. The first user has a fiftieth of all rows, and
    // the last few users have a model of their own, which a page of its users looks for among all.
    let rare = (busy / 100).max(1);
    format!(
        "{numbers}, row_of AS (SELECT n, CASE n % 50 WHEN 1 THEN 0 ELSE ({mix}) % {busy} END AS who, ({mix}) AS mix, \
         {first_ms} + (n + 1) * {span_ms} / {rows} AS at_ms FROM number) \
         INSERT INTO usage (request_id, user_id, key_id, created_at_ms, day, model, endpoint, node, stream, status, \
         prompt_tokens, completion_tokens, tokens_from, attempts, queue_ms, time_to_first_token_ms, duration_ms, \
         load_ms, prefill_ms, decode_ms) \
         SELECT {id}, 'user-' || {user}, {key}, at_ms, at_ms / {DAY_MS}, \
         CASE WHEN who >= {busy} - {rare} THEN 'llama3.1:70b' WHEN mix % 2 = 0 THEN 'llama3.2' ELSE 'qwen3:8b' END, \
         '/v1/chat/completions', 'node-' || (n % 3), {stream}, \
         CASE WHEN n % 50 = 0 THEN 'cancelled' ELSE 'completed' END, 100 + mix % 900, 10 + mix % 400, 'reported', 1, \
         mix % 5, 50 + mix % 500, 500 + mix % 9000, NULL, 40, 400 FROM row_of"
    )
}

fn now_ms() -> i64 {
    let since = SystemTime::UNIX_EPOCH.elapsed().unwrap_or_default();
    debug_assert!(UNIX_EPOCH.elapsed().is_ok());
    i64::try_from(since.as_millis()).unwrap_or(i64::MAX)
}
