//! Who administers, with which keys; and the log of what they did.
//!
//! Changes of administrators are in the log of changes of users and keys, as `admin:` and the name.
use sea_orm_migration::prelude::*;
use sea_orm_migration::schema::{
    big_integer, big_integer_null, binary_len, integer, integer_null, small_integer, string, string_null, text,
    text_null, uuid,
};
use sea_orm_migration::sea_orm::DbBackend;

#[derive(DeriveMigrationName)]
pub struct Migration;

/// Table, the column with the administrator's name, and the columns whose change matters.
const WATCHED: [(&str, &str, &str); 2] = [
    ("admins", "name", "name, role, expires_at_ms"),
    ("admin_digests", "admin", "digest, pepper, admin, expires_at_ms"),
];

/// Makes SQLite keep the log of changes.
pub fn follow_admins_on_sqlite() -> Vec<String> {
    let mut statements = Vec::new();
    for (table, name, columns) in WATCHED {
        let update = format!("UPDATE OF {columns}");
        for (event, word, row) in
            [("INSERT", "insert", "NEW"), (&*update, "update", "NEW"), ("DELETE", "delete", "OLD")]
        {
            statements.push(format!(
                "CREATE TRIGGER IF NOT EXISTS {table}_{word}_to_changes AFTER {event} ON {table} \
                 BEGIN INSERT INTO people_changes (subject) VALUES ('admin:' || {row}.{name}); END"
            ));
        }
    }
    statements
}

/// Makes SQLite stop keeping it.
pub fn forget_admins_on_sqlite() -> Vec<String> {
    let words = ["insert", "update", "delete"];
    let drop = |table: &str| words.map(|word| format!("DROP TRIGGER IF EXISTS {table}_{word}_to_changes"));
    WATCHED.iter().flat_map(|(table, ..)| drop(table)).collect()
}

#[async_trait::async_trait]
impl MigrationTrait for Migration {
    async fn up(&self, manager: &SchemaManager) -> Result<(), DbErr> {
        for table in [admins(), admin_digests(), audit(), audit_chain()] {
            manager.create_table(table).await?;
        }
        let db = manager.get_connection();
        db.execute_unprepared(
            "INSERT INTO audit_chain (id, first_seq, first_previous, last_seq, last_digest) VALUES (1, 1, '', 0, '')",
        )
        .await?;
        if manager.get_database_backend() == DbBackend::Postgres {
            for (table, name, columns) in WATCHED {
                let trigger = format!(
                    "CREATE TRIGGER {table}_to_changes AFTER INSERT OR DELETE OR UPDATE OF {columns} ON {table} \
                     FOR EACH ROW EXECUTE FUNCTION log_people_change('admin', '{name}')"
                );
                db.execute_unprepared(&trigger).await?;
            }
        }
        Ok(())
    }

    async fn down(&self, manager: &SchemaManager) -> Result<(), DbErr> {
        // Triggers go with their tables.
        for table in ["audit_chain", "audit", "admin_digests", "admins"] {
            manager.drop_table(Table::drop().table(table).to_owned()).await?;
        }
        Ok(())
    }
}

fn admins() -> TableCreateStatement {
    Table::create()
        .table("admins")
        .col(string("name").primary_key())
        .col(string("role"))
        .col(big_integer("created_at_ms"))
        .col(big_integer_null("expires_at_ms"))
        .to_owned()
}

fn admin_digests() -> TableCreateStatement {
    Table::create()
        .table("admin_digests")
        .col(binary_len("digest", 32).primary_key())
        .col(small_integer("digest_version"))
        .col(string_null("pepper"))
        .col(string("admin"))
        .col(string("last_four"))
        .col(big_integer("created_at_ms"))
        .col(big_integer_null("expires_at_ms"))
        .to_owned()
}

fn audit() -> TableCreateStatement {
    Table::create()
        .table("audit")
        .col(big_integer("seq").primary_key())
        .col(big_integer("at_ms"))
        .col(string("actor"))
        .col(string("role"))
        .col(string("method"))
        .col(string("route"))
        .col(text("target"))
        .col(text_null("before"))
        .col(text_null("after"))
        .col(uuid("request_id"))
        .col(integer_null("status"))
        .col(string("previous"))
        .col(string("digest"))
        .to_owned()
}

fn audit_chain() -> TableCreateStatement {
    Table::create()
        .table("audit_chain")
        .col(integer("id").primary_key())
        .col(big_integer("first_seq"))
        .col(string("first_previous"))
        .col(big_integer("last_seq"))
        .col(string("last_digest"))
        .to_owned()
}
