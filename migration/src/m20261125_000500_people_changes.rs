//! Which users and keys have changed, in the order of the changes.
//!
//! The database writes the log itself, in the transaction that makes the change, so it also contains changes made by
//! hand. On Postgres the trigger is created here. It takes a lock until the transaction ends, so that numbers are in
//! the order of commits. Without it a reader could see number 8, and number 7 only after it had moved on. On SQLite,
//! which has one writer at a time, the triggers are created when the file is opened as the database.
use sea_orm_migration::prelude::*;
use sea_orm_migration::schema::{big_integer, string};
use sea_orm_migration::sea_orm::DbBackend;

#[derive(DeriveMigrationName)]
pub struct Migration;

/// The lock that a transaction holds until its end if it changes users or keys.
pub const PEOPLE_LOCK: i64 = 0x6f6c_6c61_6d64;
/// The channel on which Postgres announces a change.
pub const PEOPLE_CHANNEL: &str = "ollama_gateway_people";

/// What this step watches.
const WATCHED: [Watched; 3] = [USERS, KEYS, DIGESTS];
/// The table, the kind of subject, the column with its name, and the columns whose changes count. The last use of a key
/// does not count.
pub(crate) type Watched = (&'static str, &'static str, &'static str, &'static str);
const USERS: Watched = (
    "users",
    "user",
    "id",
    "id, requests_per_minute, tokens_per_day, tokens_per_minute, max_concurrency, weight_millis",
);
pub(crate) const KEYS: Watched = (
    "keys",
    "key",
    "id",
    "id, user_id, name, expires_at_ms, allowed_models, requests_per_minute, tokens_per_minute, tokens_per_day, \
     max_concurrency",
);
pub(crate) const DIGESTS: Watched =
    ("key_digests", "key", "key_id", "digest, pepper, key_id, last_four, expires_at_ms");

/// The statements that make SQLite keep the log of these.
pub(crate) fn follow_on_sqlite(watched: &[Watched]) -> Vec<String> {
    let mut statements = Vec::new();
    for (table, kind, name, columns) in watched {
        let update = format!("UPDATE OF {columns}");
        for (event, word, row) in
            [("INSERT", "insert", "NEW"), (&*update, "update", "NEW"), ("DELETE", "delete", "OLD")]
        {
            statements.push(format!(
                "CREATE TRIGGER IF NOT EXISTS {table}_{word}_to_changes AFTER {event} ON {table} \
                 BEGIN INSERT INTO people_changes (subject) VALUES ('{kind}:' || {row}.{name}); END"
            ));
        }
    }
    statements
}

/// The statements that make SQLite stop keeping the log of these.
pub(crate) fn forget_on_sqlite(watched: &[Watched]) -> Vec<String> {
    let mut statements = vec!["DELETE FROM people_changes".to_owned()];
    for (table, ..) in watched {
        for word in ["insert", "update", "delete"] {
            statements.push(format!("DROP TRIGGER IF EXISTS {table}_{word}_to_changes"));
        }
    }
    statements
}

fn follow_people_on_postgres() -> String {
    let mut statements = format!(
        "CREATE FUNCTION log_people_change() RETURNS trigger LANGUAGE plpgsql AS $$ DECLARE changed jsonb; BEGIN \
         PERFORM pg_advisory_xact_lock({PEOPLE_LOCK}); \
         IF TG_OP = 'DELETE' THEN changed := to_jsonb(OLD); ELSE changed := to_jsonb(NEW); END IF; \
         INSERT INTO people_changes (subject) VALUES (TG_ARGV[0] || ':' || (changed ->> TG_ARGV[1])); \
         PERFORM pg_notify('{PEOPLE_CHANNEL}', ''); RETURN NULL; END $$"
    );
    for watched in WATCHED {
        statements.push_str(&format!("; {}", follow_on_postgres(watched)));
    }
    statements
}

/// Makes Postgres log the changes of a table.
pub(crate) fn follow_on_postgres((table, kind, name, columns): Watched) -> String {
    format!(
        "CREATE TRIGGER {table}_to_changes AFTER INSERT OR DELETE OR UPDATE OF {columns} ON {table} \
         FOR EACH ROW EXECUTE FUNCTION log_people_change('{kind}', '{name}')"
    )
}

#[async_trait::async_trait]
impl MigrationTrait for Migration {
    async fn up(&self, manager: &SchemaManager) -> Result<(), DbErr> {
        let mut seq = big_integer("seq");
        let changes = Table::create()
            .table("people_changes")
            // A number is never reused, even if the newest row was deleted.
            .col(seq.primary_key().auto_increment())
            .col(string("subject"))
            .to_owned();
        manager.create_table(changes).await?;
        if manager.get_database_backend() == DbBackend::Postgres {
            manager.get_connection().execute_unprepared(&follow_people_on_postgres()).await?;
        }
        // Days are found by the key, which begins with the time; limits are read from the sums.
        manager.drop_index(Index::drop().name("usage_day_user").table("usage").to_owned()).await
    }

    async fn down(&self, manager: &SchemaManager) -> Result<(), DbErr> {
        let db = manager.get_connection();
        if manager.get_database_backend() == DbBackend::Sqlite {
            for statement in forget_on_sqlite(&WATCHED) {
                db.execute_unprepared(&statement).await?;
            }
        } else {
            for (table, ..) in WATCHED {
                db.execute_unprepared(&format!("DROP TRIGGER {table}_to_changes ON {table}")).await?;
            }
            db.execute_unprepared("DROP FUNCTION log_people_change").await?;
        }
        manager.drop_table(Table::drop().table("people_changes").to_owned()).await?;
        let index = Index::create().name("usage_day_user").table("usage").col("day").col("user_id").to_owned();
        manager.create_index(index).await
    }
}
