//! How is a database filled as years of use would fill it? With users, keys, usage rows, and daily sums.
//!
//! Everything is derived from a number, so two runs make the same database. Key `n` belongs to user `n mod users`; its
//! secret is [`secret`]. Rows are spread evenly over the days up to now, and all belong to a fifth of the users.
use std::time::{SystemTime, UNIX_EPOCH};

use clap::Args;
use migration::{Migrator, fill_rollups, follow_rollups_on_sqlite};
use sea_orm::{
    ConnectOptions, ConnectionTrait, Database, DatabaseBackend, DatabaseConnection, DbErr, Statement, TransactionTrait,
};
use sea_orm_migration::MigratorTrait;
use serde_json::json;
use sha2::{Digest, Sha256};

const DAY_MS: i64 = 86_400_000;
/// Users or keys for each statement.
const BATCH: u64 = 10_000;
/// Rows for each statement.
const ROWS: u64 = 500_000;

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
    if on_sqlite {
        for pragma in ["journal_mode = WAL", "synchronous = OFF", "cache_size = -1000000", "temp_store = MEMORY"] {
            db.execute_unprepared(&format!("PRAGMA {pragma}")).await?;
        }
    }
    Migrator::up(&db, None).await?;
    people(&db, amounts, on_sqlite).await?;
    rows(&db, amounts, on_sqlite).await?;
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

async fn rows(db: &DatabaseConnection, amounts: &Amounts, on_sqlite: bool) -> Result<(), DbErr> {
    let now_ms = now_ms();
    let (index, trigger) = ("usage_user_request", "usage_to_rollups");
    db.execute_unprepared(&format!("DROP INDEX {index}")).await?;
    if on_sqlite {
        db.execute_unprepared(&format!("DROP TRIGGER IF EXISTS {trigger}")).await?;
    } else {
        db.execute_unprepared(&format!("ALTER TABLE usage DISABLE TRIGGER {trigger}")).await?;
    }
    for first in (0..amounts.rows).step_by(ROWS as usize) {
        let last = amounts.rows.min(first + ROWS) - 1;
        db.execute_unprepared(&insert_rows(amounts, now_ms, (first, last), on_sqlite)).await?;
        eprint!("\r{} of {} rows", last + 1, amounts.rows);
    }
    eprintln!();
    db.execute_unprepared(&format!("CREATE INDEX {index} ON usage (user_id, request_id)")).await?;
    let transaction = db.begin().await?;
    transaction.execute_unprepared(&fill_rollups()).await?;
    if on_sqlite {
        transaction.execute_unprepared(&follow_rollups_on_sqlite()).await?;
    } else {
        transaction.execute_unprepared(&format!("ALTER TABLE usage ENABLE TRIGGER {trigger}")).await?;
    }
    transaction.commit().await?;
    // The statistics that a database would have gathered over the years.
    db.execute_unprepared("ANALYZE").await?;
    Ok(())
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
    // A user's rows use two of the user's keys, two models and three nodes.
    format!(
        "{numbers}, row_of AS (SELECT n, ({mix}) % {busy} AS who, ({mix}) AS mix, \
         {first_ms} + (n + 1) * {span_ms} / {rows} AS at_ms FROM number) \
         INSERT INTO usage (request_id, user_id, key_id, created_at_ms, day, model, endpoint, node, stream, status, \
         prompt_tokens, completion_tokens, tokens_from, attempts, queue_ms, time_to_first_token_ms, duration_ms, \
         load_ms, prefill_ms, decode_ms) \
         SELECT {id}, 'user-' || {user}, {key}, at_ms, at_ms / {DAY_MS}, \
         CASE mix % 2 WHEN 0 THEN 'llama3.2' ELSE 'qwen3:8b' END, '/v1/chat/completions', 'node-' || (n % 3), {stream}, \
         CASE WHEN n % 50 = 0 THEN 'cancelled' ELSE 'completed' END, 100 + mix % 900, 10 + mix % 400, 'reported', 1, \
         mix % 5, 50 + mix % 500, 500 + mix % 9000, NULL, 40, 400 FROM row_of"
    )
}

fn now_ms() -> i64 {
    let since = SystemTime::UNIX_EPOCH.elapsed().unwrap_or_default();
    debug_assert!(UNIX_EPOCH.elapsed().is_ok());
    i64::try_from(since.as_millis()).unwrap_or(i64::MAX)
}
